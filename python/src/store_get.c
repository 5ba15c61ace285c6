/* get, get_batch: the library writes straight into the bytes objects that are returned. get_buffer, batch_get_buffer:
 * handles. */
#include "python/src/buffer_handle.h"
#include "python/src/store.h"

#include "core/base/alloc.h"

/* An object may be replaced by one of another size between the lookup and the read; then the read fails and is begun
 * again. Each time somebody's upsert has gone forward; a miss would be wrong (rule 2). */
#define GET_RETRIES   32
#define LEASE_EXPIRED (-707)

/* The bytes objects of one get, one for each key: NULL until there is a size. */
typedef struct fetched {
    size_t count;
    PyObject **objects;
    struct iovec *buffers;
    int64_t *results;
} fetched_t;

static void drop_fetched(fetched_t *f)
{
    for (size_t i = 0; f->objects != NULL && i < f->count; i++) {
        Py_XDECREF(f->objects[i]);
    }
    mcs_free(f->objects);
    mcs_free(f->buffers);
    mcs_free(f->results);
}

static bool make_fetched(size_t count, fetched_t *out)
{
    fetched_t f = {.count = count,
                   .objects = mpy_calloc(count, sizeof(*f.objects)),
                   .buffers = mpy_calloc(count, sizeof(*f.buffers)),
                   .results = mpy_calloc(count, sizeof(*f.results))};
    if (f.objects == NULL || f.buffers == NULL || f.results == NULL) {
        drop_fetched(&f);
        return false;
    }
    *out = f;
    return true;
}

/* New memory for each object that was found. */
static bool allocate_objects(const mcs_get_t *get, fetched_t *f)
{
    for (size_t i = 0; i < f->count; i++) {
        int64_t size = mcs_get_object_size(get, i);
        f->results[i] = size;
        f->buffers[i] = (struct iovec){0};
        Py_CLEAR(f->objects[i]);
        if (size < 0) {
            continue;
        }
        f->objects[i] = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (f->objects[i] == NULL) {
            return false;
        }
        f->buffers[i] = (struct iovec){.iov_base = PyBytes_AsString(f->objects[i]), .iov_len = (size_t)size};
    }
    return true;
}

/* One lookup and read of all keys. False: an exception. *found_out false: nothing could be looked up. */
static bool fetch_once(mpy_store_t *self, const mcs_bytes_t *keys, fetched_t *f, bool *found_out)
{
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_get_t *get = mcs_get_begin(self->store, keys, f->count);
    bool ok = mpy_call_end(&call);
    *found_out = get != NULL;
    if (get == NULL) {
        return ok;
    }
    ok = ok && allocate_objects(get, f);
    mpy_call_begin(&call);
    if (ok) {
        mcs_get_run(get, f->buffers, f->results);
    }
    mcs_get_end(get);
    return mpy_call_end(&call) && ok;
}

static bool is_whole(const fetched_t *f, size_t i)
{
    return f->objects[i] != NULL && f->results[i] == (int64_t)f->buffers[i].iov_len;
}

/* A failure that another lookup may turn into a success: the value was there, and changed under the read. */
static bool changed_meanwhile(const fetched_t *f, size_t i)
{
    return f->objects[i] != NULL && (f->results[i] == MCS_INVALID_PARAMS || f->results[i] == LEASE_EXPIRED);
}

/* Fills f->objects; NULL where there is nothing to return. False: an exception. */
static bool fetch(mpy_store_t *self, const mcs_bytes_t *keys, fetched_t *f)
{
    bool found;
    if (!fetch_once(self, keys, f, &found)) {
        return false;
    }
    for (size_t i = 0; i < f->count; i++) {
        fetched_t one = {.count = 1, .objects = &f->objects[i], .buffers = &f->buffers[i], .results = &f->results[i]};
        for (int again = 0; found && again < GET_RETRIES && changed_meanwhile(&one, 0); again++) {
            if (!fetch_once(self, &keys[i], &one, &found)) {
                return false;
            }
        }
        if (!is_whole(f, i)) {
            Py_CLEAR(f->objects[i]);
        }
    }
    return true;
}

/* The object, or b"" for every failure. */
static PyObject *take_bytes(fetched_t *f, size_t i)
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
    fetched_t f;
    PyObject *answer = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key("get", "key", given[0], &key)) {
        return NULL;
    }
    if (make_fetched(1, &f)) {
        if (fetch(mpy_store_of(self), &key.bytes, &f)) {
            answer = take_bytes(&f, 0);
        }
        drop_fetched(&f);
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
    fetched_t f;
    PyObject *list = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys("get_batch", "keys", given[0], &keys)) {
        return NULL;
    }
    /* documented: one b"" when nothing can come */
    bool nothing = keys.count == 0 || !mpy_store_of(self)->ready;
    size_t count = nothing ? 1 : keys.count;
    if (make_fetched(count, &f)) {
        if (nothing || fetch(mpy_store_of(self), keys.items, &f)) {
            list = PyList_New((Py_ssize_t)count);
        }
        for (size_t i = 0; list != NULL && i < count; i++) {
            PyObject *bytes = take_bytes(&f, i);
            if (bytes == NULL || PyList_SetItem(list, (Py_ssize_t)i, bytes) != 0) {
                Py_CLEAR(list);
            }
        }
        drop_fetched(&f);
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
