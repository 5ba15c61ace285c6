/* get, get_batch: the library writes straight into the bytes objects that are returned. get_buffer, batch_get_buffer:
 * handles. */
#include "python/src/buffer_handle.h"
#include "python/src/fetch.h"

#include "core/base/alloc.h"

static PyObject *make_bytes(size_t size, void **memory_out)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    *memory_out = bytes != NULL ? PyBytes_AsString(bytes) : NULL;
    return bytes;
}

/* The object, or b"" for every failure. */
static PyObject *take_bytes(mpy_fetch_t *f, size_t i)
{
    PyObject *bytes = f->objects[i];
    f->objects[i] = NULL;
    return bytes != NULL ? bytes : PyBytes_FromStringAndSize(NULL, 0);
}

MPY_STORE_METHOD(get)
{
    static const char *const params[] = {"key", NULL};
    static const mpy_sig_t sig = {"get", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    mpy_fetch_t f;
    PyObject *answer = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key("get", "key", given[0], &key)) {
        return NULL;
    }
    if (mpy_fetch_init(1, &f)) {
        if (mpy_fetch_run(mpy_store_of(self), &key.bytes, make_bytes, &f)) {
            answer = take_bytes(&f, 0);
        }
        mpy_fetch_drop(&f);
    }
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(get_batch)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"get_batch", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    mpy_fetch_t f;
    PyObject *list = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys("get_batch", "keys", given[0], &keys)) {
        return NULL;
    }
    /* documented: one b"" when nothing can come */
    bool nothing = keys.count == 0 || !mpy_store_of(self)->ready;
    size_t count = nothing ? 1 : keys.count;
    if (mpy_fetch_init(count, &f)) {
        if (nothing || mpy_fetch_run(mpy_store_of(self), keys.items, make_bytes, &f)) {
            list = PyList_New((Py_ssize_t)count);
        }
        for (size_t i = 0; list != NULL && i < count; i++) {
            PyObject *bytes = take_bytes(&f, i);
            if (bytes == NULL || PyList_SetItem(list, (Py_ssize_t)i, bytes) != 0) {
                Py_CLEAR(list);
            }
        }
        mpy_fetch_drop(&f);
    }
    mpy_keys_drop(&keys);
    return list;
}

/* Turns handles into Python objects, None for those that are NULL; releases what cannot be. */
static PyObject *handle_list(mpy_state_t *state, mcs_handle_t **handles, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count; i++) {
        if (list == NULL) {
            mcs_handle_release(handles[i]);
            continue;
        }
        PyObject *item = handles[i] != NULL ? mpy_handle_new(state, handles[i]) : Py_NewRef(Py_None);
        if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *get_handles(mpy_store_t *self, const mcs_bytes_t *keys, size_t count)
{
    mcs_handle_t **handles = mpy_calloc(count, sizeof(*handles));
    if (handles == NULL) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_get_handles(self->store, keys, count, handles, NULL);
    bool ok = mpy_call_end(&call);
    PyObject *list = ok ? handle_list(mpy_store_state(self), handles, count) : NULL;
    for (size_t i = 0; !ok && i < count; i++) {
        mcs_handle_release(handles[i]);
    }
    mcs_free(handles);
    return list;
}

MPY_STORE_METHOD(get_buffer)
{
    static const char *const params[] = {"key", NULL};
    static const mpy_sig_t sig = {"get_buffer", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key("get_buffer", "key", given[0], &key)) {
        return NULL;
    }
    PyObject *list = get_handles(mpy_store_of(self), &key.bytes, 1);
    PyObject *handle = list != NULL ? Py_XNewRef(PyList_GetItem(list, 0)) : NULL;
    Py_XDECREF(list);
    mpy_key_drop(&key);
    return handle;
}

MPY_STORE_METHOD(batch_get_buffer)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"batch_get_buffer", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys("batch_get_buffer", "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *list = get_handles(mpy_store_of(self), keys.items, keys.count);
    mpy_keys_drop(&keys);
    return list;
}
