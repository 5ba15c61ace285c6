/* get_tensor_with_parallelism, its batch, and both into memory of the caller's: a shard or the whole of a tensor,
 * whatever shards it was stored in. */
#include "python/src/tensor_into.h"

#include <string.h>

#include "core/base/alloc.h"

/* Each time a shard was replaced between the look at its header and the read. */
#define READ_RETRIES 4

/* Memory for a tensor that is made of shards. */
typedef struct room {
    char *bytes;     /* header, then elements, in host memory */
    PyObject *owner; /* of `bytes`; NULL: the caller's */
    void *address;   /* of the caller's device memory, where it goes when it is whole; NULL: nowhere else */
    int device;
    bool too_small;
} room_t;

/* `address` 0: new memory. False: an exception. */
static bool make_room(mpy_store_t *self, const mpy_found_t *found, uint64_t address, uint64_t size, room_t *out)
{
    room_t room = {.device = MPY_ON_HOST};
    void *memory = (void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
    uint64_t needed = MCS_TENSOR_HEADER_SIZE + found->result.data_bytes;
    if (address != 0) {
        room.too_small = size < needed || !mpy_room_is_there(self, address, needed, &room.device);
    }
    if (address == 0 || (!room.too_small && room.device != MPY_ON_HOST)) {
        room.address = memory;
        room.owner = mpy_tensor_memory(needed, &memory);
        if (room.owner == NULL) {
            return false;
        }
    }
    room.bytes = memory;
    *out = room;
    return true;
}

static PyObject *tensor_in(mpy_store_t *self, const mpy_found_t *found, const room_t *room)
{
    mpy_state_t *state = mpy_store_state(self);
    memcpy(room->bytes, &found->result, MCS_TENSOR_HEADER_SIZE);
    if (room->device == MPY_ON_HOST) {
        return mpy_tensor_new(state, &found->result, room->bytes + MCS_TENSOR_HEADER_SIZE, false, room->owner);
    }
    mpy_call_t call;
    mpy_quiet_begin(&call);
    int code =
        mcs_device_write(self->store, room->address, room->bytes, MCS_TENSOR_HEADER_SIZE + found->result.data_bytes);
    mpy_quiet_end(&call);
    return code == 0 ? mpy_tensor_new_on(state, &found->result, (char *)room->address + MCS_TENSOR_HEADER_SIZE,
                                         room->device, NULL)
                     : NULL;
}

/* *again_out: it changed meanwhile. */
static bool read_shards(mpy_store_t *self, const mpy_found_t *found, uint64_t address, uint64_t size,
                        PyObject **tensor_out, bool *again_out)
{
    room_t room;
    int64_t code = MCS_INVALID_PARAMS;
    if (!make_room(self, found, address, size, &room)) {
        return false;
    }
    bool ok = room.too_small || mpy_shards_read(self, found, room.bytes + MCS_TENSOR_HEADER_SIZE, &code);
    *again_out = !room.too_small && code != 0;
    if (ok && code == 0) {
        *tensor_out = tensor_in(self, found, &room);
        ok = *tensor_out != NULL || PyErr_Occurred() == NULL;
    }
    Py_XDECREF(room.owner);
    return ok;
}

static bool is_expected(const void *arg, const mcs_tensor_header_t *header)
{
    const mpy_found_t *found = arg;
    return !found->has_expected || mcs_parallelism_matches(&found->expected, header);
}

static bool read_object(mpy_store_t *self, const mpy_found_t *found, uint64_t address, uint64_t size,
                        PyObject **tensor_out, bool *again_out)
{
    mcs_tensor_header_t header;
    bool ok = address != 0 ? mpy_tensors_into(self, &found->key, &address, &size, 1, is_expected, found, tensor_out)
                           : mpy_tensors_fetch(self, &found->key, 1, &header, tensor_out, NULL);
    if (ok && address == 0 && *tensor_out != NULL && !is_expected(found, &header)) {
        Py_CLEAR(*tensor_out);
        *again_out = true;
    }
    return ok;
}

/* *tensor_out: NULL when there is none. False: an exception. */
static bool read_target(mpy_store_t *self, mcs_bytes_t key, const mpy_read_target_t *target, uint64_t address,
                        uint64_t size, PyObject **tensor_out)
{
    bool ok = true;
    bool again = true;
    *tensor_out = NULL;
    for (int tries = 0; ok && again && *tensor_out == NULL && tries < READ_RETRIES; tries++) {
        mpy_found_t found;
        if (!mpy_tensor_find(self, key, target, &found)) {
            return false;
        }
        again = false;
        if (found.there) {
            ok = found.in_shards ? read_shards(self, &found, address, size, tensor_out, &again)
                                 : read_object(self, &found, address, size, tensor_out, &again);
        }
        mpy_found_drop(&found);
    }
    return ok;
}

/* A torch tensor, or None. */
static PyObject *get_one(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *target_object,
                         uint64_t address, uint64_t size)
{
    mpy_read_target_t target;
    PyObject *tensor = NULL;
    mpy_take_t taken = mpy_read_target_take(name, target_object, &target);
    if (taken == MPY_RAISED || (taken == MPY_TAKEN && !read_target(self, key, &target, address, size, &tensor))) {
        return NULL;
    }
    return mpy_tensor_answer(mpy_store_state(self), tensor);
}

MPY_STORE_METHOD(get_tensor_with_parallelism)
{
    static const char *const params[] = {"key", "target", NULL};
    static const mpy_sig_t sig = {"get_tensor_with_parallelism", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    PyObject *answer = get_one(mpy_store_of(self), sig.name, key.bytes, given[1], 0, 0);
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(get_tensor_with_parallelism_into)
{
    static const char *const params[] = {"key", "buffer_ptr", "size", "target", NULL};
    static const mpy_sig_t sig = {"get_tensor_with_parallelism_into", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    uint64_t size;
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, "buffer_ptr", given[1], &address) ||
        !mpy_u64(sig.name, "size", given[2], &size) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    PyObject *answer =
        address != 0 ? get_one(mpy_store_of(self), sig.name, key.bytes, given[3], address, size) : Py_NewRef(Py_None);
    mpy_key_drop(&key);
    return answer;
}

/* ---- batches ---- */

/* A list of one target for each key, or none at all; anything else is an answer of None for each. */
static bool targets_fit(PyObject *targets, size_t count)
{
    bool listed = targets != NULL && targets != Py_None;
    return !listed || ((PyList_Check(targets) || PyTuple_Check(targets)) && (size_t)PySequence_Size(targets) == count);
}

/* What a batch's lists say of its key i. */
typedef struct batch {
    const mpy_keys_t *keys;
    const mpy_numbers_t *addresses; /* NULL: new memory */
    const mpy_numbers_t *sizes;
    PyObject *targets; /* tuple; NULL: none */
} batch_t;

static PyObject *get_item(mpy_store_t *self, const char *name, const batch_t *batch, size_t i)
{
    PyObject *target = batch->targets != NULL ? PyTuple_GetItem(batch->targets, (Py_ssize_t)i) : NULL;
    if (batch->addresses == NULL) {
        return get_one(self, name, batch->keys->items[i], target, 0, 0);
    }
    uint64_t address = batch->addresses->items[i];
    return address != 0 ? get_one(self, name, batch->keys->items[i], target, address, batch->sizes->items[i])
                        : Py_NewRef(Py_None);
}

static PyObject *none_list(size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        (void)PyList_SetItem(list, (Py_ssize_t)i, Py_NewRef(Py_None)); /* cannot fail: a list of that length */
    }
    return list;
}

/* `targets`: the caller's, not looked at yet. */
static PyObject *get_batch(mpy_store_t *self, const char *name, batch_t batch, PyObject *targets)
{
    size_t count = batch.keys->count;
    if (!targets_fit(targets, count) ||
        (batch.addresses != NULL && (batch.addresses->count != count || batch.sizes->count != count))) {
        return none_list(count);
    }
    if (targets != NULL && targets != Py_None) {
        batch.targets = PySequence_Tuple(targets);
        if (batch.targets == NULL) {
            return NULL;
        }
    }
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = get_item(self, name, &batch, i);
        if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0) {
            Py_CLEAR(list);
        }
    }
    Py_XDECREF(batch.targets);
    return list;
}

MPY_STORE_METHOD(batch_get_tensor_with_parallelism)
{
    static const char *const params[] = {"keys", "targets", NULL};
    static const mpy_sig_t sig = {"batch_get_tensor_with_parallelism", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    bool plain = given[1] == NULL || given[1] == Py_None;
    PyObject *list = plain ? mpy_tensors_get(mpy_store_of(self), keys.items, keys.count, 0, 1)
                           : get_batch(mpy_store_of(self), sig.name, (batch_t){.keys = &keys}, given[1]);
    mpy_keys_drop(&keys);
    return list;
}

MPY_STORE_METHOD(batch_get_tensor_with_parallelism_into)
{
    static const char *const params[] = {"keys", "buffer_ptrs", "sizes", "targets", NULL};
    static const mpy_sig_t sig = {"batch_get_tensor_with_parallelism_into", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys = {0};
    mpy_numbers_t addresses = {0};
    mpy_numbers_t sizes = {0};
    PyObject *list = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    if (mpy_keys(sig.name, "keys", given[0], &keys) && mpy_numbers(sig.name, "buffer_ptrs", given[1], &addresses) &&
        mpy_numbers(sig.name, "sizes", given[2], &sizes)) {
        batch_t batch = {.keys = &keys, .addresses = &addresses, .sizes = &sizes};
        list = get_batch(mpy_store_of(self), sig.name, batch, given[3]);
    }
    mpy_keys_drop(&keys);
    mpy_numbers_drop(&addresses);
    mpy_numbers_drop(&sizes);
    return list;
}
