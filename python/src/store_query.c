/* Calls about keys: exist, size, remove, replicas. */
#include "python/src/descriptors.h"
#include "python/src/store.h"

#include <string.h>

#include "core/base/alloc.h"

#define REPLICAS_MAX 16 /* there are no more of an object */

/* A call with one result of type int for each key. */
typedef int (*many_fn)(mcs_store_t *store, const mpy_keys_t *keys, bool force, int *results);

static int call_exist(mcs_store_t *store, const mpy_keys_t *keys, bool force, int *results)
{
    (void)force;
    return mcs_exist(store, keys->items, keys->count, results);
}

static int call_remove(mcs_store_t *store, const mpy_keys_t *keys, bool force, int *results)
{
    return mcs_remove(store, keys->items, keys->count, force, results);
}

static PyObject *run_many(mpy_store_t *self, const mpy_keys_t *keys, bool force, many_fn fn)
{
    int *results = mpy_calloc(keys->count, sizeof(*results));
    int64_t *wide = mpy_calloc(keys->count, sizeof(*wide));
    PyObject *list = NULL;
    if (results != NULL && wide != NULL) {
        mpy_call_t call;
        mpy_call_begin(&call);
        if (keys->count > 0) {
            fn(self->store, keys, force, results);
        }
        for (size_t i = 0; i < keys->count; i++) {
            wide[i] = results[i];
        }
        list = mpy_call_end(&call) ? mpy_int_list(wide, keys->count) : NULL;
    }
    mcs_free(results);
    mcs_free(wide);
    return list;
}

static PyObject *run_one(mpy_store_t *self, const char *name, PyObject *key_object, bool force, many_fn fn)
{
    mpy_key_t key;
    if (!mpy_key(name, "key", key_object, &key)) {
        return NULL;
    }
    mpy_keys_t one = {.count = 1, .items = &key.bytes};
    int result = MCS_INVALID_PARAMS;
    mpy_call_t call;
    mpy_call_begin(&call);
    fn(self->store, &one, force, &result);
    bool ok = mpy_call_end(&call);
    mpy_key_drop(&key);
    return mpy_result(ok, result);
}

static bool take_force(const char *name, PyObject *object, bool *force_out)
{
    *force_out = false;
    return object == NULL || mpy_bool(name, "force", object, force_out);
}

MPY_STORE_METHOD(is_exist)
{
    static const char *const params[] = {"key", NULL};
    static const mpy_sig_t sig = {"is_exist", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    return run_one(mpy_store_of(self), sig.name, given[0], false, call_exist);
}

MPY_STORE_METHOD(batch_is_exist)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"batch_is_exist", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *list = run_many(mpy_store_of(self), &keys, false, call_exist);
    mpy_keys_drop(&keys);
    return list;
}

MPY_STORE_METHOD(remove)
{
    static const char *const params[] = {"key", "force", NULL};
    static const mpy_sig_t sig = {"remove", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    bool force;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_force(sig.name, given[1], &force)) {
        return NULL;
    }
    return run_one(mpy_store_of(self), sig.name, given[0], force, call_remove);
}

MPY_STORE_METHOD(batch_remove)
{
    static const char *const params[] = {"keys", "force", NULL};
    static const mpy_sig_t sig = {"batch_remove", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    bool force;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_force(sig.name, given[1], &force) ||
        !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *list = run_many(mpy_store_of(self), &keys, force, call_remove);
    mpy_keys_drop(&keys);
    return list;
}

MPY_STORE_METHOD(remove_by_regex)
{
    static const char *const params[] = {"regex_pattern", "force", NULL};
    static const mpy_sig_t sig = {"remove_by_regex", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t pattern;
    bool force;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_force(sig.name, given[1], &force) ||
        !mpy_key(sig.name, params[0], given[0], &pattern)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int64_t result = mcs_remove_by_regex(mpy_store_of(self)->store, pattern.bytes, force);
    bool ok = mpy_call_end(&call);
    mpy_key_drop(&pattern);
    return mpy_result(ok, result);
}

MPY_STORE_METHOD(remove_all)
{
    static const char *const params[] = {"force", NULL};
    static const mpy_sig_t sig = {"remove_all", 0, params};
    PyObject *given[MPY_PARAMS_MAX];
    bool force;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_force(sig.name, given[0], &force)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int64_t result = mcs_remove_all(mpy_store_of(self)->store, force);
    return mpy_result(mpy_call_end(&call), result);
}

MPY_STORE_METHOD(get_size)
{
    static const char *const params[] = {"key", NULL};
    static const mpy_sig_t sig = {"get_size", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int64_t size = mcs_object_size(mpy_store_of(self)->store, key.bytes);
    bool ok = mpy_call_end(&call);
    mpy_key_drop(&key);
    return mpy_result(ok, size);
}

/* ---- replicas ---- */

/* A group of keys is asked for in one request; its answers are this many entries. */
#define GROUP ((size_t)128)

typedef struct answers {
    mcs_replica_info_t infos[GROUP * REPLICAS_MAX];
    int counts[GROUP]; /* negative when the key is not there */
} answers_t;

/* At most GROUP keys. False: an exception (a signal). */
static bool find_replicas(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, answers_t *answers)
{
    mpy_call_t call;
    mpy_call_begin(&call);
    (void)mcs_replicas_of_many(self->store, keys, count, answers->infos, REPLICAS_MAX, answers->counts);
    return mpy_call_end(&call);
}

static PyObject *replica_list(mpy_store_t *self, const answers_t *answers, size_t i)
{
    int count = MCS_MIN(answers->counts[i], REPLICAS_MAX);
    PyObject *list = PyList_New(MCS_MAX(count, 0));
    for (int r = 0; list != NULL && r < count; r++) {
        PyObject *replica = mpy_replica_new(mpy_store_state(self), &answers->infos[i * REPLICAS_MAX + (size_t)r]);
        if (replica == NULL || PyList_SetItem(list, r, replica) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

MPY_STORE_METHOD(get_replica_desc)
{
    static const char *const params[] = {"key", NULL};
    static const mpy_sig_t sig = {"get_replica_desc", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    PyObject *list = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    answers_t *answers = mpy_calloc(1, sizeof(*answers));
    if (answers != NULL && find_replicas(mpy_store_of(self), &key.bytes, 1, answers)) {
        list = replica_list(mpy_store_of(self), answers, 0);
    }
    mcs_free(answers);
    mpy_key_drop(&key);
    return list;
}

/* Adds key -> [ReplicaDescriptor] for a key that is there. False: an exception. */
static bool add_replicas(mpy_store_t *self, PyObject *dict, PyObject *key, const answers_t *answers, size_t i)
{
    if (answers->counts[i] <= 0) {
        return true;
    }
    PyObject *hashable = PyByteArray_Check(key) ? PyBytes_FromObject(key) : Py_NewRef(key);
    PyObject *list = hashable != NULL ? replica_list(self, answers, i) : NULL;
    bool ok = list != NULL && PyDict_SetItem(dict, hashable, list) == 0;
    Py_XDECREF(list);
    Py_XDECREF(hashable);
    return ok;
}

MPY_STORE_METHOD(batch_get_replica_desc)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"batch_get_replica_desc", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *dict = PyDict_New();
    answers_t *answers = mpy_calloc(1, sizeof(*answers));
    bool ok = dict != NULL && answers != NULL;
    for (size_t from = 0; ok && from < keys.count; from += GROUP) {
        size_t count = MCS_MIN(keys.count - from, GROUP);
        ok = find_replicas(mpy_store_of(self), &keys.items[from], count, answers);
        for (size_t i = 0; ok && i < count; i++) {
            PyObject *key = PyTuple_GetItem(keys.refs, (Py_ssize_t)(from + i));
            ok = add_replicas(mpy_store_of(self), dict, key, answers, i);
        }
    }
    mcs_free(answers);
    mpy_keys_drop(&keys);
    if (!ok) {
        Py_CLEAR(dict);
    }
    return dict;
}
