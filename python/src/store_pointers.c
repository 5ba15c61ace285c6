/* The zero-copy calls: values that lie at addresses of the caller's, given as numbers.
 *
 * A number may be anything. Those that cannot be memory (0, sizes past 2**63, ranges that the process has not mapped
 * with the needed right) give that key MCS_INVALID_PARAMS and leave the others alone; the check runs without the GIL,
 * just before the library's call. */
#include "python/src/store.h"

#include "core/base/alloc.h"
#include "core/base/log.h"

/* The objects of one call: object i has the fragments iov[first[i]] .. iov[first[i + 1]]. */
typedef struct batch {
    mpy_keys_t keys;
    size_t *first;
    struct iovec *iov;
    int64_t *results; /* what the caller gets; UNDECIDED while nothing is wrong with object i */
} batch_t;
#define UNDECIDED INT64_MAX

static void drop_batch(batch_t *b)
{
    mpy_keys_drop(&b->keys);
    mcs_free(b->first);
    mcs_free(b->iov);
    mcs_free(b->results);
    *b = (batch_t){0};
}

/* Memory for `fragments` fragments of the keys that are there. */
static bool size_batch(batch_t *b, size_t fragments)
{
    b->first = mpy_calloc(b->keys.count + 1, sizeof(*b->first));
    b->iov = mpy_calloc(fragments, sizeof(*b->iov));
    b->results = mpy_calloc(b->keys.count, sizeof(*b->results));
    if (b->first == NULL || b->iov == NULL || b->results == NULL) {
        return false;
    }
    for (size_t i = 0; i < b->keys.count; i++) {
        b->results[i] = UNDECIDED;
    }
    return true;
}

static struct iovec fragment(uint64_t address, uint64_t size)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)address, /* NOLINT(performance-no-int-to-ptr) */
                          .iov_len = size};
}

static void fail_all(batch_t *b)
{
    for (size_t i = 0; i < b->keys.count; i++) {
        b->results[i] = MCS_INVALID_PARAMS;
    }
}

/* Marks objects with an address that must not be touched. Without the GIL. A fragment of no bytes may have any address.
 */
static void check_memory(mpy_store_t *self, batch_t *b, bool write)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    for (size_t i = 0; i < b->keys.count; i++) {
        for (size_t f = b->first[i]; f < b->first[i + 1] && b->results[i] == UNDECIDED; f++) {
            const struct iovec *piece = &b->iov[f];
            if (piece->iov_len > 0 &&
                !mpy_memory_usable(self->memory, self->store, &probe, piece->iov_base, piece->iov_len, write)) {
                b->results[i] = MCS_INVALID_PARAMS;
                mcs_warn("python", "buffer %p of %zu bytes is neither memory of this process nor a GPU's: %s",
                         piece->iov_base, piece->iov_len, mcs_status_name(MCS_ERR_INVALID_PARAMS));
            }
        }
    }
    mcs_memprobe_fini(&probe);
}

/* What the library is given: the undecided objects, next to each other. */
typedef struct job {
    size_t count;
    size_t *index; /* in the batch */
    mcs_bytes_t *keys;
    mcs_value_t *values;
    mcs_bytes_t *groups;
    int *put_results;
    int64_t *get_results;
} job_t;

static void drop_job(job_t *job)
{
    mcs_free(job->index);
    mcs_free(job->keys);
    mcs_free(job->values);
    mcs_free(job->groups);
    mcs_free(job->put_results);
    mcs_free(job->get_results);
}

static bool make_job(size_t count, job_t *out)
{
    job_t job = {.index = mpy_calloc(count, sizeof(*job.index)),
                 .keys = mpy_calloc(count, sizeof(*job.keys)),
                 .values = mpy_calloc(count, sizeof(*job.values)),
                 .groups = mpy_calloc(count, sizeof(*job.groups)),
                 .put_results = mpy_calloc(count, sizeof(*job.put_results)),
                 .get_results = mpy_calloc(count, sizeof(*job.get_results))};
    if (job.index == NULL || job.keys == NULL || job.values == NULL || job.groups == NULL || job.put_results == NULL ||
        job.get_results == NULL) {
        drop_job(&job);
        return false;
    }
    *out = job;
    return true;
}

static void fill_job(const batch_t *b, job_t *job)
{
    for (size_t i = 0; i < b->keys.count; i++) {
        if (b->results[i] == UNDECIDED) {
            job->index[job->count] = i;
            job->keys[job->count] = b->keys.items[i];
            job->values[job->count] =
                (mcs_value_t){.iov = &b->iov[b->first[i]], .iov_count = b->first[i + 1] - b->first[i]};
            job->count++;
        }
    }
}

/* Groups are one for each key: those of the keys left out go too. A list of another length is the library's to refuse.
 */
static void fill_groups(const batch_t *b, const mpy_placement_t *placement, job_t *job, mcs_replicate_config_t *config)
{
    *config = placement->c;
    if (config->group_ids != NULL && config->group_id_count == b->keys.count) {
        for (size_t j = 0; j < job->count; j++) {
            job->groups[j] = config->group_ids[job->index[j]];
        }
        config->group_ids = job->groups;
        config->group_id_count = job->count;
    }
}

/* Fills b->results. False: an exception. */
static bool run_put(mpy_store_t *self, batch_t *b, const mpy_placement_t *placement, unsigned flags)
{
    job_t job;
    if (placement->unavailable) {
        fail_all(b);
        return true;
    }
    if (!make_job(b->keys.count, &job)) {
        return false;
    }
    mpy_call_t call;
    mcs_replicate_config_t config;
    mpy_call_begin(&call);
    check_memory(self, b, false);
    fill_job(b, &job);
    fill_groups(b, placement, &job, &config);
    if (job.count > 0) {
        mcs_put(self->store, job.keys, job.values, job.count, &config, flags, job.put_results);
    }
    for (size_t j = 0; j < job.count; j++) {
        b->results[job.index[j]] = job.put_results[j];
    }
    bool ok = mpy_call_end(&call);
    drop_job(&job);
    return ok;
}

static bool run_get(mpy_store_t *self, batch_t *b)
{
    job_t job;
    if (!make_job(b->keys.count, &job)) {
        return false;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    check_memory(self, b, true);
    fill_job(b, &job);
    if (job.count > 0) {
        mcs_get_into(self->store, job.keys, job.values, job.count, job.get_results);
    }
    for (size_t j = 0; j < job.count; j++) {
        b->results[job.index[j]] = job.get_results[j];
    }
    bool ok = mpy_call_end(&call);
    drop_job(&job);
    return ok;
}

/* ---- registered buffers ---- */

MPY_STORE_METHOD(register_buffer)
{
    static const char *const params[] = {"buffer_ptr", "size", NULL};
    static const mpy_sig_t sig = {"register_buffer", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    uint64_t size;
    mpy_store_t *store = mpy_store_of(self);
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, "buffer_ptr", given[0], &address) ||
        !mpy_u64(sig.name, "size", given[1], &size)) {
        return NULL;
    }
    struct iovec range = fragment(address, size);
    int code = MCS_INVALID_PARAMS;
    mpy_call_t call;
    mpy_call_begin(&call);
    if (size <= INT64_MAX) {
        code = mcs_register_buffer(store->store, range.iov_base, size); /* checks that the memory is there */
    }
    if (code == 0) {
        mpy_memory_add(store->memory, range.iov_base, size);
    }
    return mpy_result(mpy_call_end(&call), code);
}

/* Some engines pass the size as well: it is not needed. */
MPY_STORE_METHOD(unregister_buffer)
{
    static const char *const params[] = {"buffer_ptr", "size", NULL};
    static const mpy_sig_t sig = {"unregister_buffer", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    uint64_t size;
    mpy_store_t *store = mpy_store_of(self);
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, "buffer_ptr", given[0], &address) ||
        (given[1] != NULL && !mpy_u64(sig.name, "size", given[1], &size))) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    struct iovec range = fragment(address, 0);
    mpy_memory_remove(store->memory, range.iov_base);
    int code = mcs_unregister_buffer(store->store, range.iov_base);
    return mpy_result(mpy_call_end(&call), code);
}

/* ---- one object ---- */

/* An object of one key and up to two fragments. */
static bool one_object(const char *name, PyObject *key, const struct iovec *pieces, size_t count, batch_t *out)
{
    batch_t b = {0};
    PyObject *list = PyTuple_New(1);
    if (list == NULL || PyTuple_SetItem(list, 0, Py_NewRef(key)) != 0 || !mpy_keys(name, "key", list, &b.keys) ||
        !size_batch(&b, count)) {
        Py_XDECREF(list);
        drop_batch(&b);
        return false;
    }
    Py_DECREF(list);
    for (size_t i = 0; i < count; i++) {
        b.iov[i] = pieces[i];
    }
    b.first[1] = count;
    *out = b;
    return true;
}

/* *code_out: the result of a put of one object. False: an exception. */
static bool put_object(mpy_store_t *self, const char *name, batch_t *b, PyObject *config, unsigned flags,
                       int64_t *code_out)
{
    mpy_placement_t placement;
    if (!mpy_placement_take(mpy_store_state(self), name, config, &placement)) {
        return false;
    }
    bool ok = true;
    bool empty = true;
    for (size_t i = 0; i < b->first[1]; i++) {
        empty = empty && b->iov[i].iov_len == 0;
    }
    if (placement.c.prefer_alloc_in_same_node) {
        b->results[0] = MCS_INVALID_PARAMS;
    } else if (empty && self->ready) {
        b->results[0] = 0; /* documented: nothing is created */
    } else {
        ok = run_put(self, b, &placement, flags);
    }
    mpy_placement_drop(&placement);
    *code_out = b->results[0];
    return ok;
}

static PyObject *put_from(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *name,
                          unsigned flags)
{
    static const char *const params[] = {"key", "buffer_ptr", "size", "config", NULL};
    const mpy_sig_t sig = {name, 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    uint64_t size;
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(name, "buffer_ptr", given[1], &address) ||
        !mpy_u64(name, "size", given[2], &size)) {
        return NULL;
    }
    struct iovec piece = fragment(address, size);
    if (!one_object(name, given[0], &piece, 1, &b)) {
        return NULL;
    }
    int64_t code;
    bool ok = put_object(mpy_store_of(self), name, &b, given[3], flags, &code);
    drop_batch(&b);
    return mpy_result(ok, code);
}

MPY_STORE_METHOD(put_from)
{
    return put_from(self, args, nargs, kwnames, "put_from", 0);
}

MPY_STORE_METHOD(upsert_from)
{
    return put_from(self, args, nargs, kwnames, "upsert_from", MCS_PUT_UPSERT);
}

/* Its failures are positive, but for a store that is not set up. */
MPY_STORE_METHOD(put_from_with_metadata)
{
    static const char *const params[] = {"key",    "buffer_ptr", "metadata_buffer_ptr", "size", "metadata_size",
                                         "config", NULL};
    static const mpy_sig_t sig = {"put_from_with_metadata", 5, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t numbers[4];
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(numbers); i++) {
        if (!mpy_u64(sig.name, params[i + 1], given[i + 1], &numbers[i])) {
            return NULL;
        }
    }
    bool ready = mpy_store_of(self)->ready;
    bool nothing = numbers[2] == 0 && ready; /* documented: then the metadata is not stored either */
    struct iovec pieces[] = {fragment(numbers[1], nothing ? 0 : numbers[3]), fragment(numbers[0], numbers[2])};
    if (!one_object(sig.name, given[0], pieces, 2, &b)) {
        return NULL;
    }
    int64_t code;
    bool ok = put_object(mpy_store_of(self), sig.name, &b, given[5], 0, &code);
    drop_batch(&b);
    return ok ? mpy_result(true, ready ? -code : code) : NULL;
}

MPY_STORE_METHOD(get_into)
{
    static const char *const params[] = {"key", "buffer_ptr", "size", NULL};
    static const mpy_sig_t sig = {"get_into", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    uint64_t size;
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, "buffer_ptr", given[1], &address) ||
        !mpy_u64(sig.name, "size", given[2], &size)) {
        return NULL;
    }
    struct iovec piece = fragment(address, size);
    if (!one_object(sig.name, given[0], &piece, 1, &b)) {
        return NULL;
    }
    bool ok = run_get(mpy_store_of(self), &b);
    int64_t result = b.results[0];
    drop_batch(&b);
    return mpy_result(ok, result);
}

/* ---- batches ---- */

/* One buffer for each key. The lists have one length, or every result is MCS_INVALID_PARAMS. */
static bool bind_flat(const char *name, PyObject *const *given, batch_t *out)
{
    batch_t b = {0};
    mpy_numbers_t addresses = {0};
    mpy_numbers_t sizes = {0};
    bool ok = mpy_keys(name, "keys", given[0], &b.keys) && mpy_numbers(name, "buffer_ptrs", given[1], &addresses) &&
              mpy_numbers(name, "sizes", given[2], &sizes) && size_batch(&b, b.keys.count);
    if (ok && (addresses.count != b.keys.count || sizes.count != b.keys.count)) {
        fail_all(&b);
    } else if (ok) {
        for (size_t i = 0; i < b.keys.count; i++) {
            b.iov[i] = fragment(addresses.items[i], sizes.items[i]);
            b.first[i + 1] = i + 1;
        }
    }
    mpy_numbers_drop(&addresses);
    mpy_numbers_drop(&sizes);
    if (!ok) {
        drop_batch(&b);
        return false;
    }
    *out = b;
    return true;
}

/* Some buffers for each key. Tables of another length than the keys fail every key; rows of different length fail their
 * key. */
static bool bind_nested(const char *name, PyObject *const *given, batch_t *out)
{
    batch_t b = {0};
    mpy_table_t addresses = {0};
    mpy_table_t sizes = {0};
    bool ok = mpy_keys(name, "keys", given[0], &b.keys) && mpy_table(name, "all_buffer_ptrs", given[1], &addresses) &&
              mpy_table(name, "all_sizes", given[2], &sizes) && size_batch(&b, addresses.numbers);
    if (ok && (addresses.count != b.keys.count || sizes.count != b.keys.count)) {
        fail_all(&b);
    } else if (ok) {
        size_t used = 0;
        for (size_t i = 0; i < b.keys.count; i++) {
            const mpy_numbers_t *row = &addresses.rows[i];
            if (row->count != sizes.rows[i].count) {
                b.results[i] = MCS_INVALID_PARAMS;
            }
            for (size_t f = 0; b.results[i] == UNDECIDED && f < row->count; f++) {
                b.iov[used++] = fragment(row->items[f], sizes.rows[i].items[f]);
            }
            b.first[i + 1] = used;
        }
    }
    mpy_table_drop(&addresses);
    mpy_table_drop(&sizes);
    if (!ok) {
        drop_batch(&b);
        return false;
    }
    *out = b;
    return true;
}

static PyObject *put_many(mpy_store_t *self, const char *name, batch_t *b, PyObject *config, bool same_node_allowed,
                          unsigned flags)
{
    mpy_placement_t placement;
    if (!mpy_placement_take(mpy_store_state(self), name, config, &placement)) {
        return NULL;
    }
    bool ok = true;
    if (placement.c.prefer_alloc_in_same_node && !same_node_allowed) {
        fail_all(b);
    } else {
        ok = run_put(self, b, &placement, flags);
    }
    mpy_placement_drop(&placement);
    return ok ? mpy_int_list(b->results, b->keys.count) : NULL;
}

static PyObject *batch_put_from(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                                const char *name, unsigned flags)
{
    static const char *const params[] = {"keys", "buffer_ptrs", "sizes", "config", NULL};
    const mpy_sig_t sig = {name, 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !bind_flat(name, given, &b)) {
        return NULL;
    }
    PyObject *answer = put_many(mpy_store_of(self), name, &b, given[3], false, flags);
    drop_batch(&b);
    return answer;
}

MPY_STORE_METHOD(batch_put_from)
{
    return batch_put_from(self, args, nargs, kwnames, "batch_put_from", 0);
}

MPY_STORE_METHOD(batch_upsert_from)
{
    return batch_put_from(self, args, nargs, kwnames, "batch_upsert_from", MCS_PUT_UPSERT);
}

MPY_STORE_METHOD(batch_put_from_multi_buffers)
{
    static const char *const params[] = {"keys", "all_buffer_ptrs", "all_sizes", "config", NULL};
    static const mpy_sig_t sig = {"batch_put_from_multi_buffers", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !bind_nested(sig.name, given, &b)) {
        return NULL;
    }
    PyObject *answer = NULL;
    if (mpy_store_of(self)->ready) {
        answer = put_many(mpy_store_of(self), sig.name, &b, given[3], true, 0);
    } else if (mpy_placement_check(mpy_store_state(mpy_store_of(self)), sig.name, given[3])) {
        answer = PyList_New(0); /* documented */
    }
    drop_batch(&b);
    return answer;
}

MPY_STORE_METHOD(batch_get_into)
{
    static const char *const params[] = {"keys", "buffer_ptrs", "sizes", NULL};
    static const mpy_sig_t sig = {"batch_get_into", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    batch_t b;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !bind_flat(sig.name, given, &b)) {
        return NULL;
    }
    PyObject *answer = run_get(mpy_store_of(self), &b) ? mpy_int_list(b.results, b.keys.count) : NULL;
    drop_batch(&b);
    return answer;
}

MPY_STORE_METHOD(batch_get_into_multi_buffers)
{
    static const char *const params[] = {"keys", "all_buffer_ptrs", "all_sizes", "prefer_alloc_in_same_node", NULL};
    static const mpy_sig_t sig = {"batch_get_into_multi_buffers", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    batch_t b;
    bool same_node; /* a hint of the original's transport; reads choose the nearest replica anyway */
    if (!mpy_bind(&sig, args, nargs, kwnames, given) ||
        (given[3] != NULL && !mpy_bool(sig.name, params[3], given[3], &same_node)) ||
        !bind_nested(sig.name, given, &b)) {
        return NULL;
    }
    PyObject *answer = run_get(mpy_store_of(self), &b) ? mpy_int_list(b.results, b.keys.count) : NULL;
    drop_batch(&b);
    return answer;
}
