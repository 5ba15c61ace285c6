/* put, put_batch, put_parts and their upsert twins: values that are Python objects. */
#include "python/src/store.h"

#include "core/base/alloc.h"

/* One call's worth of objects: keys[i] gets the pieces of values[i]. */
static PyObject *run_put(mpy_store_t *self, const char *name, const mcs_bytes_t *keys, const mcs_value_t *values,
                         size_t count, PyObject *config, unsigned flags, int *results)
{
    mpy_placement_t placement;
    if (!mpy_placement_take(mpy_store_state(self), name, config, &placement)) {
        return NULL;
    }
    bool ok = true;
    int first_failure = MCS_INVALID_PARAMS;
    if (!placement.c.prefer_alloc_in_same_node && !placement.unavailable) {
        mpy_call_t call;
        mpy_call_begin(&call);
        first_failure = mcs_put(self->store, keys, values, count, &placement.c, flags, results);
        for (size_t i = 0; first_failure == 0 && i < count; i++) {
            first_failure = results[i];
        }
        ok = mpy_call_end(&call);
    }
    mpy_placement_drop(&placement);
    return mpy_result(ok, first_failure);
}

static PyObject *put_value(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *name,
                           unsigned flags)
{
    static const char *const params[] = {"key", "value", "config", NULL};
    const mpy_sig_t sig = {name, 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    mpy_value_t value;
    int result;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(name, "key", given[0], &key)) {
        return NULL;
    }
    if (!mpy_value_take(name, "value", given[1], &value)) {
        mpy_key_drop(&key);
        return NULL;
    }
    mcs_value_t pieces = {.iov = &value.bytes, .iov_count = 1};
    PyObject *answer = run_put(mpy_store_of(self), name, &key.bytes, &pieces, 1, given[2], flags, &result);
    mpy_value_drop(&value);
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(put)
{
    return put_value(self, args, nargs, kwnames, "put", MCS_PUT_STAGED);
}

MPY_STORE_METHOD(upsert)
{
    return put_value(self, args, nargs, kwnames, "upsert", MCS_PUT_STAGED | MCS_PUT_UPSERT);
}

/* Many values of Python objects, held for one call. */
typedef struct held_values {
    size_t count;
    mpy_value_t *held;
    mcs_value_t *values; /* one piece each */
    int *results;
} held_values_t;

static void drop_values(held_values_t *v)
{
    for (size_t i = 0; i < v->count; i++) {
        mpy_value_drop(&v->held[i]);
    }
    mcs_free(v->held);
    mcs_free(v->values);
    mcs_free(v->results);
}

/* `objects` is a tuple. */
static bool take_values(const char *name, PyObject *objects, bool parts, held_values_t *out)
{
    size_t count = (size_t)PyTuple_Size(objects);
    held_values_t v = {.held = mpy_calloc(count, sizeof(*v.held)),
                       .values = mpy_calloc(count, sizeof(*v.values)),
                       .results = mpy_calloc(count, sizeof(*v.results))};
    bool ok = v.held != NULL && v.values != NULL && v.results != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        PyObject *object = PyTuple_GetItem(objects, (Py_ssize_t)i);
        ok = parts ? mpy_value_take_part(name, object, &v.held[i]) : mpy_value_take(name, "values", object, &v.held[i]);
        if (ok) {
            v.values[i] = (mcs_value_t){.iov = &v.held[i].bytes, .iov_count = 1};
            v.count++;
        }
    }
    if (!ok) {
        drop_values(&v);
        return false;
    }
    *out = v;
    return true;
}

static PyObject *put_values(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                            const char *name, unsigned flags)
{
    static const char *const params[] = {"keys", "values", "config", NULL};
    const mpy_sig_t sig = {name, 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    held_values_t values;
    PyObject *answer = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *objects = mpy_sequence(name, "values", given[1]);
    if (objects != NULL && take_values(name, objects, false, &values)) {
        mpy_store_t *store = mpy_store_of(self);
        if (values.count == keys.count) {
            answer = run_put(store, name, keys.items, values.values, keys.count, given[2], flags, values.results);
        } else if (mpy_placement_check(mpy_store_state(store), name, given[2])) {
            answer = PyLong_FromLong(MCS_INVALID_PARAMS);
        }
        drop_values(&values);
    }
    Py_XDECREF(objects);
    mpy_keys_drop(&keys);
    return answer;
}

MPY_STORE_METHOD(put_batch)
{
    return put_values(self, args, nargs, kwnames, "put_batch", MCS_PUT_STAGED);
}

MPY_STORE_METHOD(upsert_batch)
{
    return put_values(self, args, nargs, kwnames, "upsert_batch", MCS_PUT_STAGED | MCS_PUT_UPSERT);
}

/* put_parts(key, *parts, config=): `config` is keyword only. */
static bool bind_parts(const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                       PyObject **config_out, PyObject **parts_out)
{
    PyObject *config = NULL;
    Py_ssize_t keywords = kwnames != NULL ? PyTuple_Size(kwnames) : 0;
    for (Py_ssize_t i = 0; i < keywords; i++) {
        PyObject *keyword = PyTuple_GetItem(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, "config") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name, keyword);
            return false;
        }
        config = args[nargs + i];
    }
    if (nargs < 1) {
        PyErr_Format(PyExc_TypeError, "%s() missing required argument: 'key' (position 1)", name);
        return false;
    }
    PyObject *parts = PyTuple_New(nargs - 1);
    for (Py_ssize_t i = 1; parts != NULL && i < nargs; i++) {
        if (PyTuple_SetItem(parts, i - 1, Py_NewRef(args[i])) != 0) {
            Py_CLEAR(parts);
        }
    }
    *config_out = config;
    *parts_out = parts;
    return parts != NULL;
}

/* One object of all parts; the pieces lie next to each other in one array. */
static PyObject *put_held_parts(mpy_store_t *self, const char *name, const mpy_key_t *key, const held_values_t *parts,
                                PyObject *config, unsigned flags)
{
    struct iovec *iov = mpy_calloc(parts->count, sizeof(*iov));
    if (iov == NULL) {
        return NULL;
    }
    size_t total = 0;
    for (size_t i = 0; i < parts->count; i++) {
        iov[i] = parts->held[i].bytes;
        total += iov[i].iov_len;
    }
    int result;
    PyObject *answer = NULL;
    mcs_value_t value = {.iov = iov, .iov_count = parts->count};
    if (total > 0 || !self->ready) {
        answer = run_put(self, name, &key->bytes, &value, 1, config, flags, &result);
    } else if (mpy_placement_check(mpy_store_state(self), name, config)) {
        answer = PyLong_FromLong(0); /* documented: nothing is created */
    }
    mcs_free(iov);
    return answer;
}

static PyObject *put_parts(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *name,
                           unsigned flags)
{
    PyObject *config;
    PyObject *objects;
    PyObject *answer = NULL;
    mpy_key_t key;
    held_values_t parts;
    if (!bind_parts(name, args, nargs, kwnames, &config, &objects)) {
        return NULL;
    }
    if (mpy_key(name, "key", args[0], &key)) {
        if (take_values(name, objects, true, &parts)) {
            answer = put_held_parts(mpy_store_of(self), name, &key, &parts, config, flags);
            drop_values(&parts);
        }
        mpy_key_drop(&key);
    }
    Py_DECREF(objects);
    return answer;
}

MPY_STORE_METHOD(put_parts)
{
    return put_parts(self, args, nargs, kwnames, "put_parts", MCS_PUT_STAGED);
}

MPY_STORE_METHOD(upsert_parts)
{
    return put_parts(self, args, nargs, kwnames, "upsert_parts", MCS_PUT_STAGED | MCS_PUT_UPSERT);
}
