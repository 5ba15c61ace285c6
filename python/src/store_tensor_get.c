/* get_tensor, batch_get_tensor, get_tensor_with_tp and its batch: tensors in memory of their own. get_dlpack: the
 * stored elements themselves where they lie on this host. */
#include "python/src/buffer_handle.h"
#include "python/src/tensor_device.h"

#include "core/base/alloc.h"
#include "core/base/thread.h"

/* None, or a torch tensor, for each of `tensors` (taken over). */
static PyObject *answer_list(mpy_store_t *self, PyObject **tensors, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count; i++) {
        PyObject *item = NULL;
        if (list != NULL) {
            item = mpy_tensor_answer(mpy_store_state(self), tensors[i]);
        } else {
            Py_XDECREF(tensors[i]);
        }
        if (list != NULL && (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0)) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* A shard of another rank or another number of ranks is not what was asked for. */
static bool is_shard_of(const mcs_tensor_header_t *header, int32_t rank, int32_t size)
{
    const mcs_tensor_axis_t *tp = mcs_tensor_find_tp(header);
    return size <= 1 || (tp != NULL && tp->rank == rank && tp->size == size);
}

PyObject *mpy_tensors_get(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, int32_t rank, int32_t size)
{
    mcs_tensor_header_t *headers = mpy_calloc(count, sizeof(*headers));
    PyObject **tensors = mpy_calloc(count, sizeof(PyObject *));
    PyObject *list = NULL;
    if (headers != NULL && tensors != NULL && mpy_tensors_fetch(self, keys, count, headers, tensors, NULL)) {
        for (size_t i = 0; i < count; i++) {
            if (tensors[i] != NULL && !is_shard_of(&headers[i], rank, size)) {
                Py_CLEAR(tensors[i]);
            }
        }
        list = answer_list(self, tensors, count);
    }
    mcs_free(headers);
    mcs_free((void *)tensors);
    return list;
}

static PyObject *only_item(PyObject *list)
{
    PyObject *item = list != NULL ? Py_XNewRef(PyList_GetItem(list, 0)) : NULL;
    Py_XDECREF(list);
    return item;
}

/* (key, device=None): the one or the other function, `cuda` being the device's name. */
static PyObject *get_one(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *name,
                         PyObject *(*of_host)(mpy_store_t *self, mcs_bytes_t key),
                         PyObject *(*of_device)(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *cuda))
{
    static const char *const params[] = {"key", "device", NULL};
    const mpy_sig_t sig = {name, 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    PyObject *cuda;
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_device_take(name, given[1], &cuda)) {
        return NULL;
    }
    PyObject *answer = NULL;
    if (mpy_key(name, "key", given[0], &key)) {
        answer = cuda != NULL ? of_device(mpy_store_of(self), name, key.bytes, cuda)
                              : of_host(mpy_store_of(self), key.bytes);
        mpy_key_drop(&key);
    }
    Py_XDECREF(cuda);
    return answer;
}

static PyObject *get_copy(mpy_store_t *self, mcs_bytes_t key)
{
    return only_item(mpy_tensors_get(self, &key, 1, 0, 1));
}

MPY_STORE_METHOD(get_tensor)
{
    return get_one(self, args, nargs, kwnames, "get_tensor", get_copy, mpy_device_fetch);
}

MPY_STORE_METHOD(batch_get_tensor)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"batch_get_tensor", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *list = mpy_tensors_get(mpy_store_of(self), keys.items, keys.count, 0, 1);
    mpy_keys_drop(&keys);
    return list;
}

/* ---- shards of a TP group ---- */

/* key_tp_<rank> for each key; of a group of one the key itself. */
static PyObject *get_shards(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, int32_t rank, int32_t size)
{
    char suffix[MCS_TENSOR_SUFFIX_MAX] = "";
    if (size > 1) {
        mcs_tensor_tp_suffix(rank, suffix);
    }
    mcs_bytes_t *names = mpy_calloc(count, sizeof(*names));
    bool ok = names != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        names[i] = mpy_name_make(keys[i], suffix);
        ok = names[i].ptr != NULL;
    }
    PyObject *list = ok ? mpy_tensors_get(self, names, count, rank, size) : NULL;
    for (size_t i = 0; names != NULL && i < count; i++) {
        mpy_name_drop(&names[i]);
    }
    mcs_free(names);
    return list;
}

/* The split dimension stands in the shard's header. */
static bool take_group(const char *name, PyObject *const *given, size_t count, int32_t *numbers)
{
    static const char *const params[] = {"tp_rank", "tp_size", "split_dim"};
    for (size_t i = 0; i < count; i++) {
        if (given[i] != NULL && !mpy_i32(name, params[i], given[i], &numbers[i])) {
            return false;
        }
    }
    return true;
}

MPY_STORE_METHOD(get_tensor_with_tp)
{
    static const char *const params[] = {"key", "tp_rank", "tp_size", "split_dim", NULL};
    static const mpy_sig_t sig = {"get_tensor_with_tp", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    int32_t group[] = {0, 1, 0};
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_group(sig.name, &given[1], 3, group) ||
        !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    PyObject *answer = only_item(get_shards(mpy_store_of(self), &key.bytes, 1, group[0], group[1]));
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(batch_get_tensor_with_tp)
{
    static const char *const params[] = {"base_keys", "tp_rank", "tp_size", NULL};
    static const mpy_sig_t sig = {"batch_get_tensor_with_tp", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    int32_t group[] = {0, 1};
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_group(sig.name, &given[1], 2, group) ||
        !mpy_keys(sig.name, "base_keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *list = get_shards(mpy_store_of(self), keys.items, keys.count, group[0], group[1]);
    mpy_keys_drop(&keys);
    return list;
}

/* ---- DLPack ---- */

/* *tensor_out: NULL when there is no handle to be had (a local buffer too small for a copy) or no tensor. False: an
 * exception. */
static bool view_of(mpy_store_t *self, mcs_bytes_t key, PyObject **tensor_out)
{
    mcs_handle_t *handle = NULL;
    mcs_tensor_header_t header;
    mpy_call_t call;
    *tensor_out = NULL;
    mpy_call_begin(&call);
    mcs_get_handles(self->store, &key, 1, &handle, NULL);
    bool ok = mpy_call_end(&call);
    if (handle == NULL || !ok) {
        mcs_handle_release(handle);
        return ok;
    }
    char *bytes = mcs_handle_ptr(handle);
    bool readonly = mcs_handle_readonly(handle);
    bool is_tensor = mcs_tensor_parse(bytes, mcs_handle_size(handle), &header) == MCS_OK;
    PyObject *owner = mpy_handle_new(mpy_store_state(self), handle);
    if (owner == NULL) {
        return false;
    }
    if (is_tensor) {
        *tensor_out = mpy_tensor_new(mpy_store_state(self), &header, bytes + MCS_TENSOR_HEADER_SIZE, readonly, owner);
        if (*tensor_out != NULL) {
            mpy_tensor_of(*tensor_out)->process = mcs_process_token();
        }
    }
    Py_DECREF(owner);
    return !is_tensor || *tensor_out != NULL;
}

bool mpy_tensor_stored(mpy_store_t *self, mcs_bytes_t key, PyObject **tensor_out, int64_t *code_out)
{
    mcs_tensor_header_t header;
    *code_out = 0;
    if (!view_of(self, key, tensor_out)) {
        return false;
    }
    return *tensor_out != NULL || mpy_tensors_fetch(self, &key, 1, &header, tensor_out, code_out);
}

static PyObject *get_stored(mpy_store_t *self, mcs_bytes_t key)
{
    PyObject *tensor;
    int64_t code;
    if (!mpy_tensor_stored(self, key, &tensor, &code)) {
        return NULL;
    }
    return tensor != NULL ? tensor : Py_NewRef(Py_None);
}

static PyObject *get_stored_on(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *cuda)
{
    PyObject *tensor = mpy_device_fetch_stored(self, name, key, mpy_device_ordinal(cuda));
    if (tensor != NULL || !PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        return tensor;
    }
    /* No memory of ours there: torch may have some (and says why when it has not), else the exception stands. */
    PyObject *type;
    PyObject *value;
    PyObject *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *torch = mpy_torch(mpy_store_state(self));
    if (torch == NULL) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_DECREF(torch);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return mpy_device_fetch(self, name, key, cuda);
}

MPY_STORE_METHOD(get_dlpack)
{
    return get_one(self, args, nargs, kwnames, "get_dlpack", get_stored, get_stored_on);
}
