/* mooncake.store.MooncakeDistributedStore: the object, and the functions behind its methods, one file for each family
 * of calls. store.c has the type and the table of methods with their documentation. */
#ifndef MPY_STORE_H
#define MPY_STORE_H

#include <sys/types.h>

#include "python/src/args.h"
#include "python/src/memory.h"
#include "python/src/replicate_config.h"
#include "python/src/values.h"

typedef struct mpy_store {
    PyObject_HEAD PyObject *dict; /* attributes that users and subclasses set */
    PyObject *weakrefs;
    PyObject *module;
    mcs_store_t
        *store; /* from creation to the end: calls on other threads are safe while they hold a reference to self */
    mpy_memory_t *memory;
    pid_t pid;  /* of the process that made it: after a fork the store belongs to the parent (rule 11) */
    bool ready; /* set up and not closed, as far as this object was told */
    uint64_t local_buffer_size;  /* of the last setup */
    struct mpy_store *live_next; /* in mpy_state_t.live while ready */
    struct mpy_store *live_prev;
} mpy_store_t;

static inline mpy_store_t *mpy_store_of(PyObject *self)
{
    return (mpy_store_t *)(void *)self;
}

static inline mpy_state_t *mpy_store_state(const mpy_store_t *store)
{
    return mpy_state_of_module(store->module);
}

/* Membership in the list of stores that interpreter exit closes. */
void mpy_store_mark_ready(mpy_store_t *store);
void mpy_store_mark_closed(mpy_store_t *store);
/* Module function: closes all of them. */
PyObject *mpy_store_close_all(PyObject *module, PyObject *unused);

/* A result code as an int; `ok` false: the exception that is set. */
PyObject *mpy_result(bool ok, int64_t code);

#define MPY_STORE_METHOD(name)                                                                                         \
    PyObject *mpy_store_##name(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
#define MPY_STORE_NOARGS(name) PyObject *mpy_store_##name(PyObject *self, PyObject *unused)

/* store_segments.c: a segment in the memory of the device that the location ("cuda:N") names. A public code. */
int mpy_mount_device(mcs_store_t *store, const char *location, uint64_t size, mcs_segment_id_t *id_out);

/* store_setup.c */
MPY_STORE_METHOD(setup);
MPY_STORE_METHOD(init_all);
MPY_STORE_NOARGS(close);
MPY_STORE_NOARGS(health_check);
MPY_STORE_NOARGS(get_hostname);
MPY_STORE_NOARGS(get_offload_rpc_read_count);
MPY_STORE_NOARGS(counters);
MPY_STORE_NOARGS(local_buffer_size);
/* store_put.c */
MPY_STORE_METHOD(put);
MPY_STORE_METHOD(upsert);
MPY_STORE_METHOD(put_batch);
MPY_STORE_METHOD(upsert_batch);
MPY_STORE_METHOD(put_parts);
MPY_STORE_METHOD(upsert_parts);
/* store_get.c */
MPY_STORE_METHOD(get);
MPY_STORE_METHOD(get_batch);
MPY_STORE_METHOD(get_buffer);
MPY_STORE_METHOD(batch_get_buffer);
/* store_pointers.c */
MPY_STORE_METHOD(register_buffer);
MPY_STORE_METHOD(unregister_buffer);
MPY_STORE_METHOD(put_from);
MPY_STORE_METHOD(upsert_from);
MPY_STORE_METHOD(put_from_with_metadata);
MPY_STORE_METHOD(batch_put_from);
MPY_STORE_METHOD(batch_upsert_from);
MPY_STORE_METHOD(batch_put_from_multi_buffers);
MPY_STORE_METHOD(get_into);
MPY_STORE_METHOD(batch_get_into);
MPY_STORE_METHOD(batch_get_into_multi_buffers);
/* store_ranges.c */
MPY_STORE_METHOD(get_into_ranges);
/* store_sessions.c */
MPY_STORE_METHOD(batch_get_session_start);
MPY_STORE_METHOD(batch_get_into_multi_buffer_ranges);
MPY_STORE_METHOD(batch_get_session_end);
MPY_STORE_METHOD(batch_put_session_start);
MPY_STORE_METHOD(batch_put_from_multi_buffer_ranges);
MPY_STORE_METHOD(batch_put_session_end);
MPY_STORE_METHOD(batch_put_session_revoke);
/* store_query.c */
MPY_STORE_METHOD(is_exist);
MPY_STORE_METHOD(batch_is_exist);
MPY_STORE_METHOD(get_size);
MPY_STORE_METHOD(remove);
MPY_STORE_METHOD(batch_remove);
MPY_STORE_METHOD(remove_by_regex);
MPY_STORE_METHOD(remove_all);
MPY_STORE_METHOD(get_replica_desc);
MPY_STORE_METHOD(batch_get_replica_desc);
/* store_segments.c */
MPY_STORE_METHOD(batch_replica_clear);
MPY_STORE_METHOD(allocate_and_mount_segment);
MPY_STORE_METHOD(unmount_and_free_segment);
MPY_STORE_METHOD(mount_segment);
MPY_STORE_METHOD(unmount_segment);
MPY_STORE_METHOD(unmount_local_disk_segment);
MPY_STORE_METHOD(setup_dummy);
MPY_STORE_METHOD(alloc_from_mem_pool);
/* store_tasks.c */
MPY_STORE_METHOD(create_copy_task);
MPY_STORE_METHOD(create_move_task);
MPY_STORE_METHOD(query_task);
/* store_tensor_put.c */
MPY_STORE_METHOD(put_tensor);
MPY_STORE_METHOD(upsert_tensor);
MPY_STORE_METHOD(pub_tensor);
MPY_STORE_METHOD(upsert_pub_tensor);
MPY_STORE_METHOD(batch_put_tensor);
MPY_STORE_METHOD(batch_upsert_tensor);
MPY_STORE_METHOD(batch_pub_tensor);
MPY_STORE_METHOD(batch_upsert_pub_tensor);
MPY_STORE_METHOD(put_tensor_from);
MPY_STORE_METHOD(upsert_tensor_from);
MPY_STORE_METHOD(batch_put_tensor_from);
MPY_STORE_METHOD(batch_upsert_tensor_from);
MPY_STORE_METHOD(put_tensor_with_tp);
MPY_STORE_METHOD(batch_put_tensor_with_tp);
MPY_STORE_METHOD(pub_tensor_with_tp);
MPY_STORE_METHOD(batch_pub_tensor_with_tp);
MPY_STORE_METHOD(put_tensor_with_tp_from);
MPY_STORE_METHOD(batch_put_tensor_with_tp_from);
MPY_STORE_METHOD(put_tensor_with_parallelism);
MPY_STORE_METHOD(upsert_tensor_with_parallelism);
MPY_STORE_METHOD(batch_put_tensor_with_parallelism);
MPY_STORE_METHOD(batch_upsert_tensor_with_parallelism);
MPY_STORE_METHOD(put_tensor_with_parallelism_from);
MPY_STORE_METHOD(upsert_tensor_with_parallelism_from);
MPY_STORE_METHOD(batch_put_tensor_with_parallelism_from);
MPY_STORE_METHOD(batch_upsert_tensor_with_parallelism_from);
/* store_tensor_get.c */
MPY_STORE_METHOD(get_tensor);
MPY_STORE_METHOD(batch_get_tensor);
MPY_STORE_METHOD(get_dlpack);
MPY_STORE_METHOD(get_tensor_with_tp);
MPY_STORE_METHOD(batch_get_tensor_with_tp);
/* store_tensor_into.c */
MPY_STORE_METHOD(get_tensor_into);
MPY_STORE_METHOD(batch_get_tensor_into);
MPY_STORE_METHOD(get_tensor_with_tp_into);
MPY_STORE_METHOD(batch_get_tensor_with_tp_into);
MPY_STORE_METHOD(get_tensor_into_cuda);
MPY_STORE_METHOD(batch_get_tensor_into_cuda);
/* store_tensor_parallel.c */
MPY_STORE_METHOD(get_tensor_with_parallelism);
MPY_STORE_METHOD(batch_get_tensor_with_parallelism);
MPY_STORE_METHOD(get_tensor_with_parallelism_into);
MPY_STORE_METHOD(batch_get_tensor_with_parallelism_into);
/* store_safetensors.c */
MPY_STORE_METHOD(save_tensor_to_safetensor);
MPY_STORE_METHOD(load_tensor_from_safetensor);

#endif
