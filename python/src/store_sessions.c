/* Sessions: objects read and written piece by piece. The pieces lie in registered buffers.
 *
 * A call has a list of pieces for each key; its result is the sum of their sizes, or the code of the first that failed.
 */
#include "python/src/store.h"

#include "core/base/alloc.h"

/* The pieces of one call. */
typedef struct batch {
    mpy_keys_t keys;
    mpy_table_t addresses;
    mpy_table_t sizes;
    mpy_table_t offsets;
    mcs_parts_list_t *lists; /* one for each key */
    mcs_part_t *parts;
    int64_t *results;
} batch_t;

static void drop_batch(batch_t *b)
{
    mpy_keys_drop(&b->keys);
    mpy_table_drop(&b->addresses);
    mpy_table_drop(&b->sizes);
    mpy_table_drop(&b->offsets);
    mcs_free(b->lists);
    mcs_free(b->parts);
    mcs_free(b->results);
}

static bool rows_fit(const batch_t *b, size_t i)
{
    size_t count = b->addresses.rows[i].count;
    return b->sizes.rows[i].count == count && b->offsets.rows[i].count == count;
}

static mcs_part_t make_part(mpy_store_t *self, uint64_t address, uint64_t size, uint64_t offset)
{
    bool usable = address != 0 && size <= INT64_MAX && mpy_memory_registered(self->memory, address, size);
    return (mcs_part_t){.ptr = usable ? (void *)(uintptr_t)address : NULL, /* NOLINT(performance-no-int-to-ptr) */
                        .size = size,
                        .offset = usable ? offset : UINT64_MAX}; /* beyond every value: MCS_INVALID_PARAMS */
}

/* Keys whose rows do not fit get one part that cannot be, and so their code. */
static bool fill_batch(mpy_store_t *self, batch_t *b)
{
    size_t count = b->keys.count;
    b->lists = mpy_calloc(count, sizeof(*b->lists));
    b->parts = mpy_calloc(b->addresses.numbers + count, sizeof(*b->parts));
    b->results = mpy_calloc(count, sizeof(*b->results));
    if (b->lists == NULL || b->parts == NULL || b->results == NULL) {
        return false;
    }
    bool same = b->addresses.count == count && b->sizes.count == count && b->offsets.count == count;
    mcs_part_t *part = b->parts;
    for (size_t i = 0; i < count; i++) {
        b->lists[i].parts = part;
        if (!same || !rows_fit(b, i)) {
            *part++ = make_part(self, 0, 0, 0);
        } else {
            for (size_t f = 0; f < b->addresses.rows[i].count; f++) {
                *part++ = make_part(self, b->addresses.rows[i].items[f], b->sizes.rows[i].items[f],
                                    b->offsets.rows[i].items[f]);
            }
        }
        b->lists[i].count = (size_t)(part - b->lists[i].parts);
    }
    return true;
}

static void take_results(batch_t *b)
{
    for (size_t i = 0; i < b->keys.count; i++) {
        int64_t sum = 0;
        for (size_t f = 0; f < b->lists[i].count && sum >= 0; f++) {
            int64_t result = b->lists[i].parts[f].result;
            sum = result < 0 ? result : sum + result;
        }
        b->results[i] = sum;
    }
}

typedef int (*parts_fn)(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *lists, size_t count);

static PyObject *move_parts(PyObject *self, const mpy_sig_t *sig, PyObject *const *given, parts_fn fn)
{
    mpy_store_t *store = mpy_store_of(self);
    batch_t b = {0};
    PyObject *answer = NULL;
    if (mpy_keys(sig->name, "keys", given[0], &b.keys) &&
        mpy_table(sig->name, sig->params[1], given[1], &b.addresses) &&
        mpy_table(sig->name, sig->params[2], given[2], &b.sizes) &&
        mpy_table(sig->name, sig->params[3], given[3], &b.offsets)) {
        if (!store->ready) {
            answer = PyList_New(0); /* documented */
        } else if (fill_batch(store, &b)) {
            mpy_call_t call;
            mpy_call_begin(&call);
            fn(store->store, b.keys.items, b.lists, b.keys.count);
            take_results(&b);
            answer = mpy_call_end(&call) ? mpy_int_list(b.results, b.keys.count) : NULL;
        }
    }
    drop_batch(&b);
    return answer;
}

typedef int (*keys_fn)(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results);

/* A list of one code for each key; [] when not set up. */
static PyObject *ask_keys(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                          keys_fn fn)
{
    static const char *const params[] = {"keys", NULL};
    const mpy_sig_t sig = {name, 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_store_t *store = mpy_store_of(self);
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *answer = NULL;
    int *codes = mpy_calloc(keys.count, sizeof(*codes));
    int64_t *results = mpy_calloc(keys.count, sizeof(*results));
    if (codes == NULL || results == NULL) {
        goto out;
    }
    if (!store->ready) {
        answer = PyList_New(0);
        goto out;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    fn(store->store, keys.items, keys.count, codes);
    for (size_t i = 0; i < keys.count; i++) {
        results[i] = codes[i];
    }
    answer = mpy_call_end(&call) ? mpy_int_list(results, keys.count) : NULL;

out:
    mcs_free(results);
    mcs_free(codes);
    mpy_keys_drop(&keys);
    return answer;
}

/* ---- reads ---- */

MPY_STORE_METHOD(batch_get_session_start)
{
    return ask_keys(self, "batch_get_session_start", args, nargs, kwnames, mcs_get_session_start);
}

MPY_STORE_METHOD(batch_get_into_multi_buffer_ranges)
{
    static const char *const params[] = {"keys", "all_buffer_ptrs", "all_sizes", "all_src_offsets", NULL};
    static const mpy_sig_t sig = {"batch_get_into_multi_buffer_ranges", 4, params};
    PyObject *given[MPY_PARAMS_MAX];
    return mpy_bind(&sig, args, nargs, kwnames, given) ? move_parts(self, &sig, given, mcs_get_session_read) : NULL;
}

MPY_STORE_METHOD(batch_get_session_end)
{
    static const char *const params[] = {"keys", NULL};
    static const mpy_sig_t sig = {"batch_get_session_end", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_store_t *store = mpy_store_of(self);
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = store->ready ? mcs_get_session_end(store->store, keys.items, keys.count) : -1;
    PyObject *answer = mpy_result(mpy_call_end(&call), code);
    mpy_keys_drop(&keys);
    return answer;
}

/* ---- writes ---- */

static PyObject *start_puts(mpy_store_t *store, const mpy_keys_t *keys, const mpy_numbers_t *sizes,
                            const mpy_placement_t *placement)
{
    if (!store->ready) {
        return PyList_New(0);
    }
    if (placement->unavailable || sizes->count != keys->count) {
        return mpy_same_int_list(MCS_INVALID_PARAMS, keys->count);
    }
    PyObject *answer = NULL;
    int *codes = mpy_calloc(keys->count, sizeof(*codes));
    int64_t *results = mpy_calloc(keys->count, sizeof(*results));
    if (codes != NULL && results != NULL) {
        mpy_call_t call;
        mpy_call_begin(&call);
        mcs_put_session_start(store->store, keys->items, sizes->items, keys->count, &placement->c, codes);
        for (size_t i = 0; i < keys->count; i++) {
            results[i] = codes[i];
        }
        answer = mpy_call_end(&call) ? mpy_int_list(results, keys->count) : NULL;
    }
    mcs_free(results);
    mcs_free(codes);
    return answer;
}

MPY_STORE_METHOD(batch_put_session_start)
{
    static const char *const params[] = {"keys", "sizes", "config", NULL};
    static const mpy_sig_t sig = {"batch_put_session_start", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_store_t *store = mpy_store_of(self);
    mpy_keys_t keys = {0};
    mpy_numbers_t sizes = {0};
    mpy_placement_t placement;
    PyObject *answer = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    if (mpy_keys(sig.name, "keys", given[0], &keys) && mpy_numbers(sig.name, "sizes", given[1], &sizes) &&
        mpy_placement_take(mpy_store_state(store), sig.name, given[2], &placement)) {
        answer = start_puts(store, &keys, &sizes, &placement);
        mpy_placement_drop(&placement);
    }
    mpy_numbers_drop(&sizes);
    mpy_keys_drop(&keys);
    return answer;
}

MPY_STORE_METHOD(batch_put_from_multi_buffer_ranges)
{
    static const char *const params[] = {"keys", "all_buffer_ptrs", "all_sizes", "all_dst_offsets", NULL};
    static const mpy_sig_t sig = {"batch_put_from_multi_buffer_ranges", 4, params};
    PyObject *given[MPY_PARAMS_MAX];
    return mpy_bind(&sig, args, nargs, kwnames, given) ? move_parts(self, &sig, given, mcs_put_session_write) : NULL;
}

MPY_STORE_METHOD(batch_put_session_end)
{
    return ask_keys(self, "batch_put_session_end", args, nargs, kwnames, mcs_put_session_end);
}

MPY_STORE_METHOD(batch_put_session_revoke)
{
    return ask_keys(self, "batch_put_session_revoke", args, nargs, kwnames, mcs_put_session_revoke);
}
