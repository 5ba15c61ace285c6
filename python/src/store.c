/* See store.h: the type's life cycle, and the table of methods with their documentation.
 *
 * The C store is created with the object and destroyed with it; set up and closed any number of times in between.
 * Stores that are set up are in a list of the module, and an atexit hook closes them: segments are given back also when
 * a program just ends. The list is touched under the GIL only. In a forked child the objects are the parent's: the
 * library answers MCS_INVALID_PARAMS, and neither hook nor destructor does anything. */
#include "python/src/store.h"

#include <unistd.h>

PyObject *mpy_result(bool ok, int64_t code)
{
    return ok ? PyLong_FromLongLong(code) : NULL;
}

void mpy_store_mark_ready(mpy_store_t *store)
{
    mpy_state_t *state = mpy_store_state(store);
    if (!store->ready) {
        store->ready = true;
        store->live_prev = NULL;
        store->live_next = state->live;
        if (state->live != NULL) {
            state->live->live_prev = store;
        }
        state->live = store;
    }
}

void mpy_store_mark_closed(mpy_store_t *store)
{
    mpy_state_t *state = mpy_store_state(store);
    if (!store->ready) {
        return;
    }
    store->ready = false;
    if (store->live_prev != NULL) {
        store->live_prev->live_next = store->live_next;
    } else {
        state->live = store->live_next;
    }
    if (store->live_next != NULL) {
        store->live_next->live_prev = store->live_prev;
    }
    store->live_next = NULL;
    store->live_prev = NULL;
}

PyObject *mpy_store_close_all(PyObject *module, PyObject *unused)
{
    (void)unused;
    mpy_state_t *state = mpy_state_of_module(module);
    while (state->live != NULL) {
        mpy_store_t *store = state->live;
        PyObject *self = Py_NewRef((PyObject *)store);
        mpy_store_mark_closed(store);
        if (store->pid == getpid()) {
            mpy_call_t call;
            mpy_quiet_begin(&call);
            mcs_store_close(store->store);
            mpy_quiet_end(&call);
        }
        Py_DECREF(self);
    }
    Py_RETURN_NONE;
}

/* ---- life cycle ---- */

static PyObject *store_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args; /* a subclass may have arguments of its own */
    (void)kwargs;
    PyObject *module = mpy_module_of_type(type);
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = module != NULL ? alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    mpy_store_t *store = mpy_store_of(self);
    store->module = Py_NewRef(module);
    store->pid = getpid();
    store->store = mcs_store_create();
    store->memory = mpy_memory_create();
    if (store->store == NULL || store->memory == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return self;
}

static int store_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    (void)self;
    if (PyTuple_Size(args) != 0 || (kwargs != NULL && PyDict_Size(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "MooncakeDistributedStore() takes no arguments");
        return -1;
    }
    return 0;
}

static int store_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(mpy_store_of(self)->dict);
    Py_VISIT(mpy_store_of(self)->module);
    return 0;
}

/* The module stays: it is needed until the end. */
static int store_clear(PyObject *self)
{
    Py_CLEAR(mpy_store_of(self)->dict);
    return 0;
}

static void store_dealloc(PyObject *self)
{
    mpy_store_t *store = mpy_store_of(self);
    PyObject_GC_UnTrack(self);
    if (store->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    if (store->module != NULL) {
        mpy_store_mark_closed(store);
    }
    mpy_call_t call;
    mpy_quiet_begin(&call);
    mcs_store_destroy(store->store);
    mpy_quiet_end(&call);
    mpy_memory_destroy(store->memory);
    Py_CLEAR(store->dict);
    Py_CLEAR(store->module);
    mpy_free_object(self);
}

/* ---- methods ---- */

#define METHOD(name, signature, text) MPY_METHOD(#name, mpy_store_##name, #name signature "\n--\n\n" text)
#define QUERY(name, text)             MPY_NOARGS(#name, mpy_store_##name, #name "($self, /)\n--\n\n" text)

static PyMethodDef store_methods[] = {
    METHOD(setup,
           "($self, local_hostname, metadata_server, global_segment_size, local_buffer_size, protocol, rdma_devices, "
           "master_server_addr, engine=None, enable_ssd_offload=False, ssd_offload_path='', tenant_id='default', "
           "enable_client_http_server=False, client_http_port=9300, *, device_segment='')",
           "Joins a cluster, contributing global_segment_size bytes of memory. Also setup(dict).\n\n"
           "local_hostname       host, host:port, [v6]:port; without a port one in 12300..14300 is picked\n"
           "metadata_server      'P2PHANDSHAKE' or 'http://host:port/metadata'\n"
           "global_segment_size  bytes for the cluster's objects, 0 = none\n"
           "local_buffer_size    bytes for staging and for get_buffer, 0 = none\n"
           "protocol             'tcp', 'rdma' or 'rpc_only'\n"
           "rdma_devices         of protocol rdma: 'mlx5_0,mlx5_1'; '' = every one that is up (TCP where there is "
           "none); also spelled device_name\n"
           "master_server_addr   'host:port', or 'embedded' for a master inside this process; also spelled "
           "master_server_address\n"
           "engine               accepted, not used\n"
           "enable_ssd_offload, ssd_offload_path   there is no SSD tier: True is refused with -600\n"
           "enable_client_http_server, client_http_port   serve /health and /metrics of this store\n"
           "device_segment       'cuda:0=4GB': a segment in the memory of that GPU as well; '' = none\n\n"
           "The dict has the same names; values become text, sizes may be '512MB', '4 GB'; only local_hostname "
           "and\n"
           "metadata_server are required. Other keys are ignored.\n\n"
           "Returns 0; -600 for bad values, and for any failure where local_hostname has a port; -1 for others (no "
           "master, no port). The "
           "log says what and\n"
           "where. A store that is set up already is closed first."),
    METHOD(init_all, "($self, protocol, device_name, mount_segment_size)",
           "setup with the original's fixed addresses. Returns 0 or a negative code."),
    QUERY(close,
          "Leaves the cluster; the objects in this store's segment are gone at once. Returns 0, also when not set up.\n"
          "Handles and views stay valid. setup may be called again."),
    QUERY(health_check, "0 = healthy, 1 = not set up, 2 = the master does not answer."),
    QUERY(get_hostname, "This client's name and the name of its segment, 'host:port'; '' before setup."),
    QUERY(get_offload_rpc_read_count, "0: there is no offload."),
    QUERY(counters, "A dict of this client's counters: bytes by path, bytes copied, operations, failures."),
    MPY_NOARGS("_local_buffer_size", mpy_store_local_buffer_size, "Bytes of the local buffer; 0 when not set up."),

    METHOD(put, "($self, key, value, config=...)",
           "Stores the bytes of any object with the buffer protocol.\n\n"
           "Returns 0 (also when the key exists: its value stays), -200 without room, -600 for an empty value or one "
           "larger than the\n"
           "local buffer, or another negative code. config is a ReplicateConfig."),
    METHOD(upsert, "($self, key, value, config=...)",
           "As put, but replaces an existing value, at once for all readers."),
    METHOD(put_batch, "($self, keys, values, config=...)",
           "Stores many values in one call. Returns 0 or the first negative code; lists of different length: -600.\n"
           "The same key twice: the first value wins."),
    METHOD(upsert_batch, "($self, keys, values, config=...)", "As put_batch, but replaces existing values."),
    MPY_METHOD("put_parts", mpy_store_put_parts,
               "put_parts($self, key, /, *parts, config=...)\n--\n\n"
               "Stores the parts, one after another, as one value. Parts are one-dimensional with items of one byte, "
               "or RuntimeError.\n"
               "Returns as put; parts of no bytes at all: 0, and nothing is created."),
    MPY_METHOD("upsert_parts", mpy_store_upsert_parts,
               "upsert_parts($self, key, /, *parts, config=...)\n--\n\nAs put_parts, but replaces an existing value."),

    METHOD(get, "($self, key)", "The value as bytes; b'' for every failure. Grants a lease."),
    METHOD(get_batch, "($self, keys)",
           "The values as a list of bytes, b'' for each that failed; [b''] when not set up or for no keys."),
    METHOD(get_buffer, "($self, key)",
           "The value as a BufferHandle, without a copy where possible; None for every failure."),
    METHOD(batch_get_buffer, "($self, keys)", "A list of BufferHandle or None."),

    METHOD(register_buffer, "($self, buffer_ptr, size)",
           "Tells the store that put_from and get_into will use these bytes: faster, and checked once.\n"
           "Returns 0; -600 for 0, no bytes, memory that is not there or cannot be written, or an overlap with a\n"
           "registered buffer.\n"
           "The memory must stay until unregister_buffer."),
    METHOD(unregister_buffer, "($self, buffer_ptr, size=...)",
           "Returns 0, or -600 unless buffer_ptr is the address given to register_buffer. size is not used."),
    METHOD(put_from, "($self, key, buffer_ptr, size, config=...)",
           "Stores size bytes at an address. Returns as put (any size up to a segment's); size 0: 0, and nothing is "
           "created;\n"
           "-600 for memory that is not there."),
    METHOD(upsert_from, "($self, key, buffer_ptr, size, config=...)", "As put_from, but replaces an existing value."),
    METHOD(put_from_with_metadata, "($self, key, buffer_ptr, metadata_buffer_ptr, size, metadata_size, config=...)",
           "Stores the metadata's bytes followed by the data's as one value. Returns 0, or the code of a failure as a "
           "*positive*\n"
           "number (-600 when not set up). size 0: 0, and nothing is created."),
    METHOD(batch_put_from, "($self, keys, buffer_ptrs, sizes, config=...)",
           "put_from for many keys: a list of codes, 0 or negative. Lists of different length: -600 for each key."),
    METHOD(batch_upsert_from, "($self, keys, buffer_ptrs, sizes, config=...)",
           "As batch_put_from, but replaces existing values."),
    METHOD(batch_put_from_multi_buffers, "($self, keys, all_buffer_ptrs, all_sizes, config=...)",
           "Each value is the concatenation of its buffers: a list of codes; [] when not set up."),
    METHOD(get_into, "($self, key, buffer_ptr, size)",
           "Reads a value to an address. Returns its size, or -704 (no such key), -600 (more than size bytes, or "
           "memory that is not\n"
           "there; nothing is written), or another negative code."),
    METHOD(batch_get_into, "($self, keys, buffer_ptrs, sizes)",
           "get_into for many keys: a list of sizes and negative codes. Lists of different length: -600 for each key."),
    METHOD(batch_get_into_multi_buffers, "($self, keys, all_buffer_ptrs, all_sizes, prefer_alloc_in_same_node=False)",
           "Each value is spread over its buffers in order: a list of sizes and negative codes."),

    METHOD(
        put_tensor, "($self, key, tensor)",
        "Stores a tensor: of torch, numpy, cupy, jax, anything with DLPack or a typed buffer. Header and elements go "
        "as they\n"
        "are; elements that are not in C order are copied once. Returns 0 (also when the key exists), or as put; "
        "-600 for what\n"
        "is no tensor: other types, more than 8 dimensions."),
    METHOD(upsert_tensor, "($self, key, tensor)", "As put_tensor, but replaces an existing value."),
    METHOD(pub_tensor, "($self, key, tensor, config=...)",
           "put_tensor with a ReplicateConfig, whose preferred_segments are none or one for each replica (-600)."),
    METHOD(upsert_pub_tensor, "($self, key, tensor, config=...)", "As pub_tensor, but replaces an existing value."),
    METHOD(batch_put_tensor, "($self, keys, tensors_list)",
           "put_tensor for many keys: a list of codes. Lists of different length: -600 for each key."),
    METHOD(batch_upsert_tensor, "($self, keys, tensors_list)", "As batch_put_tensor, but replaces existing values."),
    METHOD(batch_pub_tensor, "($self, keys, tensors_list, config=...)", "pub_tensor for many keys: a list of codes."),
    METHOD(batch_upsert_pub_tensor, "($self, keys, tensors_list, config=...)",
           "As batch_pub_tensor, but replaces existing values."),
    METHOD(put_tensor_from, "($self, key, buffer_ptr, size)",
           "Stores the tensor at an address: header and elements, as get_tensor_into leaves them, size bytes in all. "
           "-600 for\n"
           "anything else."),
    METHOD(upsert_tensor_from, "($self, key, buffer_ptr, size)", "As put_tensor_from, but replaces an existing value."),
    METHOD(batch_put_tensor_from, "($self, keys, buffer_ptrs, sizes)",
           "put_tensor_from for many keys: a list of codes."),
    METHOD(batch_upsert_tensor_from, "($self, keys, buffer_ptrs, sizes)",
           "As batch_put_tensor_from, but replaces existing values."),
    METHOD(get_tensor, "($self, key, device=None)",
           "The tensor in memory of its own: a torch.Tensor, or a StoredTensor where torch is not installed. None when "
           "there is\n"
           "none. device 'cuda:N': a torch tensor there."),
    METHOD(batch_get_tensor, "($self, keys)", "get_tensor for many keys: a list."),
    METHOD(get_dlpack, "($self, key, device=None)",
           "The tensor as a StoredTensor, for from_dlpack of any library: on this host the stored elements themselves, "
           "read-only,\n"
           "without a copy. None when there is none. device 'cuda:N': a torch tensor there."),
    METHOD(get_tensor_into, "($self, key, buffer_ptr, size)",
           "Reads header and elements to an address with room for size bytes. A tensor on that memory, or None."),
    METHOD(batch_get_tensor_into, "($self, keys, buffer_ptrs, sizes)",
           "get_tensor_into for many keys: a list. Lists of different length, or not set up: -600 for each key."),
    METHOD(get_tensor_into_cuda, "($self, key, tensor)",
           "Reads the elements into a contiguous tensor of the same type and size. Returns their bytes, or a negative "
           "code."),
    METHOD(batch_get_tensor_into_cuda, "($self, keys, tensors_list)", "get_tensor_into_cuda for many keys: a list."),

    METHOD(put_tensor_with_tp, "($self, key, tensor, tp_rank=0, tp_size=1, split_dim=0)",
           "Splits a tensor along split_dim into tp_size equal shards and stores them all, under key_tp_0, key_tp_1, "
           "...; tp_rank\n"
           "changes nothing. 1: the tensor under the key. -600 unless the dimension is divisible."),
    METHOD(batch_put_tensor_with_tp, "($self, base_keys, tensors_list, tp_rank=0, tp_size=1, split_dim=0)",
           "put_tensor_with_tp for many keys: a list of codes."),
    METHOD(pub_tensor_with_tp, "($self, key, tensor, config=..., tp_rank=0, tp_size=1, split_dim=0)",
           "put_tensor_with_tp with a ReplicateConfig, as in pub_tensor."),
    METHOD(batch_pub_tensor_with_tp, "($self, base_keys, tensors_list, config=..., tp_rank=0, tp_size=1, split_dim=0)",
           "pub_tensor_with_tp for many keys: a list of codes."),
    METHOD(put_tensor_with_tp_from, "($self, key, buffer_ptr, size, tp_rank=0, tp_size=1, split_dim=0)",
           "put_tensor_with_tp of a whole tensor at an address."),
    METHOD(batch_put_tensor_with_tp_from, "($self, base_keys, buffer_ptrs, sizes, tp_rank=0, tp_size=1, split_dim=0)",
           "put_tensor_with_tp_from for many keys: a list of codes."),
    METHOD(get_tensor_with_tp, "($self, key, tp_rank=0, tp_size=1, split_dim=0)",
           "The shard of one rank, or None. Its dimension stands in the shard: split_dim is not looked at."),
    METHOD(batch_get_tensor_with_tp, "($self, base_keys, tp_rank=0, tp_size=1)",
           "get_tensor_with_tp for many keys: a list."),
    METHOD(get_tensor_with_tp_into, "($self, key, buffer_ptr, size, tp_rank=0, tp_size=1, split_dim=0)",
           "get_tensor_into for the shard of one rank."),
    METHOD(batch_get_tensor_with_tp_into, "($self, base_keys, buffer_ptrs, sizes, tp_rank=0, tp_size=1)",
           "get_tensor_with_tp_into for many keys: a list. Lists of different length: -600 for each key."),

    METHOD(
        put_tensor_with_parallelism, "($self, key, tensor, parallelism=None, config=..., writer_partition=None)",
        "Stores a tensor, or one shard of it: of a TensorParallelism (with one TP axis the tensor is the shard; with "
        "more axes,\n"
        "the whole, of which the TP axis's part is stored), or of one writer of several (an object with rank, size, "
        "split_dim;\n"
        "the tensor is the whole). docs/tensors.md has the keys. -600 for axes that make no sense, or both."),
    METHOD(upsert_tensor_with_parallelism, "($self, key, tensor, parallelism=None, config=..., writer_partition=None)",
           "As put_tensor_with_parallelism, but replaces existing values."),
    METHOD(batch_put_tensor_with_parallelism,
           "($self, keys, tensors_list, parallelisms=None, config=..., writer_partitions=None)",
           "put_tensor_with_parallelism for many keys: a list of codes."),
    METHOD(batch_upsert_tensor_with_parallelism,
           "($self, keys, tensors_list, parallelisms=None, config=..., writer_partitions=None)",
           "As batch_put_tensor_with_parallelism, but replaces existing values."),
    METHOD(put_tensor_with_parallelism_from,
           "($self, key, buffer_ptr, size, parallelism=None, config=..., writer_partition=None)",
           "put_tensor_with_parallelism of a tensor at an address."),
    METHOD(upsert_tensor_with_parallelism_from,
           "($self, key, buffer_ptr, size, parallelism=None, config=..., writer_partition=None)",
           "As put_tensor_with_parallelism_from, but replaces existing values."),
    METHOD(batch_put_tensor_with_parallelism_from,
           "($self, keys, buffer_ptrs, sizes, parallelisms=None, config=..., writer_partitions=None)",
           "put_tensor_with_parallelism_from for many keys: a list of codes."),
    METHOD(batch_upsert_tensor_with_parallelism_from,
           "($self, keys, buffer_ptrs, sizes, parallelisms=None, config=..., writer_partitions=None)",
           "As batch_put_tensor_with_parallelism_from, but replaces existing values."),
    METHOD(get_tensor_with_parallelism, "($self, key, target=None)",
           "What a ReadTarget names, or None: the value as it is stored; a shard, made of the shards there are if need "
           "be; or the\n"
           "whole tensor."),
    METHOD(batch_get_tensor_with_parallelism, "($self, keys, targets=None)",
           "get_tensor_with_parallelism for many keys, with a list of targets or none: a list."),
    METHOD(get_tensor_with_parallelism_into, "($self, key, buffer_ptr, size, target=None)",
           "get_tensor_with_parallelism into memory at an address: header and elements."),
    METHOD(batch_get_tensor_with_parallelism_into, "($self, keys, buffer_ptrs, sizes, targets=None)",
           "get_tensor_with_parallelism_into for many keys: a list."),

    METHOD(save_tensor_to_safetensor, "($self, key, file_name=None)",
           "Writes a tensor to a safetensors file, under its key (and to a file of that name without file_name). "
           "Returns 0, -1100\n"
           "(no such tensor), or -600 (the file cannot be written)."),
    METHOD(
        load_tensor_from_safetensor, "($self, key=None, file_name=...)",
        "Reads the tensor of that name, or the only one, of a safetensors file, stores it under the key (without one "
        "under the\n"
        "file's name) and returns it. None when there is none."),

    METHOD(get_into_ranges, "($self, buffer_ptrs, all_keys, all_dst_offsets, all_src_offsets, all_sizes)",
           "Pieces of values into registered buffers. all_keys[i][j] is a key whose pieces go to buffer i; piece k is "
           "the\n"
           "all_sizes[i][j][k] bytes of the value from all_src_offsets[i][j][k] on, and goes to buffer_ptrs[i] +\n"
           "all_dst_offsets[i][j][k]. Returns a list of the shape of all_dst_offsets: bytes copied, -704 (no such "
           "key), -600 (not in\n"
           "one registered buffer, beyond the value's end, or lists of different length), or another negative code."),

    METHOD(batch_get_session_start, "($self, keys)",
           "Looks the keys up once, for reads piece by piece: a list of 0 or -704. Until batch_get_session_end the "
           "leases are\n"
           "renewed (unless nothing is read for about eight of them), and reads are of the value that was there at the "
           "start. []\n"
           "when not set up."),
    METHOD(
        batch_get_into_multi_buffer_ranges, "($self, keys, all_buffer_ptrs, all_sizes, all_src_offsets)",
        "Pieces of values whose keys are in a get session, into registered buffers: a list of bytes read, -600 (not "
        "in\n"
        "session, not registered, beyond the value's end, or lists of different length), -704 (the value is gone), or "
        "another\n"
        "negative code. [] when not set up."),
    METHOD(batch_get_session_end, "($self, keys)", "Returns 0; -1 when not set up."),
    METHOD(batch_put_session_start, "($self, keys, sizes, config=...)",
           "Begins values of these sizes that are written piece by piece: a list of 0, -600, or -200 when the open "
           "sessions hold\n"
           "as much as they may (MC_STORE_PUT_SESSION_LIMIT). [] when not set up."),
    METHOD(batch_put_from_multi_buffer_ranges, "($self, keys, all_buffer_ptrs, all_sizes, all_dst_offsets)",
           "Pieces of values in a put session, from registered buffers: a list of bytes written, or -600. [] when not "
           "set up."),
    METHOD(batch_put_session_end, "($self, keys)",
           "Stores the values: a list of codes as of put; -700 for a value with bytes that were never written, whose "
           "session goes\n"
           "on. [] when not set up."),
    METHOD(batch_put_session_revoke, "($self, keys)",
           "Drops what was written: a list of 0, or -600 for a key that is not in session. [] when not set up."),

    METHOD(is_exist, "($self, key)", "1 = readable (and leased for a while), 0 = not, negative = failure."),
    METHOD(batch_is_exist, "($self, keys)", "is_exist for many keys: a list."),
    METHOD(get_size, "($self, key)", "Bytes of the value, or a negative code. Grants a lease."),
    METHOD(
        remove, "($self, key, force=False)",
        "Returns 0, -704 (no such key), -706 (leased; force=True removes it all the same), or another negative code."),
    METHOD(batch_remove, "($self, keys, force=False)", "remove for many keys: a list of codes."),
    METHOD(remove_by_regex, "($self, regex_pattern, force=False)",
           "Removes the keys in which the pattern is found. Returns their number, or a negative code. Leased ones stay "
           "without force."),
    METHOD(remove_all, "($self, force=False)", "Removes everything. Returns the number removed, or a negative code."),
    METHOD(get_replica_desc, "($self, key)",
           "Where the value is: a list of ReplicaDescriptor, [] when there is none. Grants a lease."),
    METHOD(batch_get_replica_desc, "($self, keys)",
           "A dict of key to list of ReplicaDescriptor, with the keys that are there."),
    METHOD(batch_replica_clear, "($self, keys, segment_name='')",
           "Gives up the replicas, in one segment or everywhere, of values that this store put and nobody has a lease "
           "on.\n"
           "Returns the keys that were cleared."),

    METHOD(
        allocate_and_mount_segment, "($self, size, protocol='tcp', location='')",
        "Contributes more memory: size bytes rounded up to 16 MiB, location 'cpu:N' for a NUMA node, 'cuda:N' for the "
        "memory of a GPU (objects go there when a put prefers 'host:port/cuda:N'). Returns a dict of "
        "'ret'\n"
        "(0 or a negative code), 'segment_ids' and 'allocated_size'."),
    METHOD(
        unmount_and_free_segment, "($self, segment_ids, grace_period_seconds=0)",
        "Withdraws segments that allocate_and_mount_segment gave; with a grace period they take no new values and go "
        "when it is\n"
        "over. Returns 0, or -101 for an id that is not this store's."),
    METHOD(unmount_segment, "($self, segment_ids, grace_period_seconds=0)", "As unmount_and_free_segment."),
    METHOD(mount_segment, "($self, path, size, offset=0, protocol='tcp', location='')",
           "-1012 in 'ret': memory of other programs' files is not mounted."),
    METHOD(unmount_local_disk_segment, "($self, grace_period_seconds=0)", "0: there is no offload."),
    METHOD(create_copy_task, "($self, key, targets)",
           "Asks for one more replica in each of the segments of these names: (task id, 0), or ((0, 0), code)."),
    METHOD(create_move_task, "($self, key, source, target)",
           "Asks for the replica in segment source to be in segment target: (task id, 0), or ((0, 0), code)."),
    METHOD(query_task, "($self, task_id)", "(QueryTaskResponse, 0), or (None, code)."),
    METHOD(setup_dummy, "($self, mem_pool_size, local_buffer_size, server_address)",
           "Sets the store up as a client of the mooncake_client of this host and user whose port server_address has "
           "(host:port):\n"
           "without a segment, with the master of that process. Returns 0; -900 when no such process answers."),
    METHOD(alloc_from_mem_pool, "($self, size)",
           "Address of memory of the pool that came with setup_dummy; 0 when not that much is left. It is valid until "
           "the\n"
           "store is deleted or set up so again, and is not given back before."),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef store_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(mpy_store_t, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(mpy_store_t, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef store_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char store_doc[] =
    "MooncakeDistributedStore()\n--\n\n"
    "One client of a store cluster. Create, setup, use from any thread, close.\n\n"
    "Calls before setup, after close and in a forked child return codes (-600, b'', None) and never block.";

static PyType_Slot store_slots[] = {
    {Py_tp_doc, (void *)store_doc},           {Py_tp_new, (void *)store_new},
    {Py_tp_init, (void *)store_init},         {Py_tp_dealloc, (void *)store_dealloc},
    {Py_tp_traverse, (void *)store_traverse}, {Py_tp_clear, (void *)store_clear},
    {Py_tp_methods, (void *)store_methods},   {Py_tp_members, (void *)store_members},
    {Py_tp_getset, (void *)store_getset},     {0, NULL},
};

static PyType_Spec store_spec = {
    .name = "mooncake.store.MooncakeDistributedStore",
    .basicsize = sizeof(mpy_store_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = store_slots,
};

int mpy_store_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &store_spec, &state->store_type);
}
