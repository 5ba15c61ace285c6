/* get_into_ranges: pieces of values into registered buffers.
 *
 * The values are looked up once for each different key, as handles: on this host those show the stored bytes
 * themselves, and only the pieces are copied; a value of another host is brought whole into the local buffer first,
 * which must have room for it. */
#include "python/src/store.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"

#define NAME "get_into_ranges"

/* What goes to one buffer; a row of each list may be missing or of another length: then `fits` is false. */
typedef struct buffer_plan {
    bool fits;
    uint64_t address;
    mpy_keys_t keys;
    mpy_table_t dst; /* the shape of the result */
    mpy_table_t src;
    mpy_table_t sizes;
    mpy_table_t results; /* of the same shape; int64_t bits */
} buffer_plan_t;

typedef struct plan {
    size_t count; /* length of all_dst_offsets */
    buffer_plan_t *buffers;
} plan_t;

/* One different key, found by its place in a sorted array. */
typedef struct found {
    mcs_bytes_t key;
    mcs_handle_t *handle;
    int64_t result;
} found_t;

typedef struct lookup {
    size_t count;
    found_t *items;
    mcs_bytes_t *keys;
    mcs_handle_t **handles;
    int64_t *results;
} lookup_t;

static void drop_plan(plan_t *plan)
{
    for (size_t i = 0; plan->buffers != NULL && i < plan->count; i++) {
        buffer_plan_t *buffer = &plan->buffers[i];
        mpy_keys_drop(&buffer->keys);
        mpy_table_drop(&buffer->dst);
        mpy_table_drop(&buffer->src);
        mpy_table_drop(&buffer->sizes);
        mpy_table_drop(&buffer->results);
    }
    mcs_free(plan->buffers);
    *plan = (plan_t){0};
}

/* The lists of the outer level, as tuples. */
enum { KEYS, DST, SRC, SIZES, LISTS };
static const char *const list_params[LISTS] = {"all_keys", "all_dst_offsets", "all_src_offsets", "all_sizes"};

static PyObject *item_of(PyObject *tuple, size_t i)
{
    return i < (size_t)PyTuple_Size(tuple) ? PyTuple_GetItem(tuple, (Py_ssize_t)i) : NULL;
}

/* Lists longer than the result are checked for their types like the others, and make every row unfit. */
static bool check_surplus(PyObject *const *lists, size_t count)
{
    for (size_t i = count; i < (size_t)PyTuple_Size(lists[KEYS]); i++) {
        mpy_keys_t keys;
        if (!mpy_keys(NAME, list_params[KEYS], item_of(lists[KEYS], i), &keys)) {
            return false;
        }
        mpy_keys_drop(&keys);
    }
    for (int list = SRC; list < LISTS; list++) {
        for (size_t i = count; i < (size_t)PyTuple_Size(lists[list]); i++) {
            mpy_table_t table;
            if (!mpy_table(NAME, list_params[list], item_of(lists[list], i), &table)) {
                return false;
            }
            mpy_table_drop(&table);
        }
    }
    return true;
}

static bool same_shape(const mpy_table_t *a, const mpy_table_t *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++) {
        same = a->rows[i].count == b->rows[i].count;
    }
    return same;
}

/* Results of the shape of `dst`, all MCS_INVALID_PARAMS. */
static bool make_results(buffer_plan_t *buffer)
{
    buffer->results.rows = mpy_calloc(buffer->dst.count, sizeof(*buffer->results.rows));
    for (size_t j = 0; buffer->results.rows != NULL && j < buffer->dst.count; j++) {
        mpy_numbers_t *row = &buffer->results.rows[j];
        row->items = mpy_calloc(buffer->dst.rows[j].count, sizeof(*row->items));
        if (row->items == NULL) {
            return false;
        }
        row->count = buffer->dst.rows[j].count;
        for (size_t k = 0; k < row->count; k++) {
            row->items[k] = (uint64_t)(int64_t)MCS_INVALID_PARAMS;
        }
        buffer->results.count++;
    }
    return buffer->results.rows != NULL;
}

static bool take_row(PyObject *const *lists, size_t i, buffer_plan_t *buffer)
{
    PyObject *keys = item_of(lists[KEYS], i);
    mpy_table_t *tables[LISTS] = {NULL, &buffer->dst, &buffer->src, &buffer->sizes};
    if (keys != NULL && !mpy_keys(NAME, list_params[KEYS], keys, &buffer->keys)) {
        return false;
    }
    for (int list = DST; list < LISTS; list++) {
        PyObject *row = item_of(lists[list], i);
        if (row != NULL && !mpy_table(NAME, list_params[list], row, tables[list])) {
            return false;
        }
    }
    return make_results(buffer);
}

static bool take_plan(PyObject *const *lists, const mpy_numbers_t *addresses, plan_t *out)
{
    plan_t plan = {.count = (size_t)PyTuple_Size(lists[DST])};
    bool same_length = addresses->count == plan.count;
    for (int list = KEYS; list < LISTS; list++) {
        same_length = same_length && (size_t)PyTuple_Size(lists[list]) == plan.count;
    }
    plan.buffers = mpy_calloc(plan.count, sizeof(*plan.buffers));
    bool ok = plan.buffers != NULL && check_surplus(lists, plan.count);
    for (size_t i = 0; ok && i < plan.count; i++) {
        buffer_plan_t *buffer = &plan.buffers[i];
        ok = take_row(lists, i, buffer);
        buffer->address = i < addresses->count ? addresses->items[i] : 0;
        buffer->fits = same_length && buffer->keys.count == buffer->dst.count &&
                       same_shape(&buffer->dst, &buffer->src) && same_shape(&buffer->dst, &buffer->sizes);
    }
    if (!ok) {
        drop_plan(&plan);
        return false;
    }
    *out = plan;
    return true;
}

/* ---- the values ---- */

static int compare_found(const void *a, const void *b)
{
    const mcs_bytes_t *x = &((const found_t *)a)->key;
    const mcs_bytes_t *y = &((const found_t *)b)->key;
    if (x->len != y->len) {
        return x->len < y->len ? -1 : 1;
    }
    return x->len == 0 ? 0 : memcmp(x->ptr, y->ptr, x->len);
}

static void drop_lookup(lookup_t *lookup)
{
    for (size_t i = 0; lookup->items != NULL && i < lookup->count; i++) {
        mcs_handle_release(lookup->items[i].handle);
    }
    mcs_free(lookup->items);
    mcs_free(lookup->keys);
    mcs_free(lookup->handles);
    mcs_free(lookup->results);
}

/* The different keys of all rows that fit, sorted. */
static bool make_lookup(const plan_t *plan, lookup_t *out)
{
    size_t total = 0;
    for (size_t i = 0; i < plan->count; i++) {
        total += plan->buffers[i].fits ? plan->buffers[i].keys.count : 0;
    }
    lookup_t lookup = {.items = mpy_calloc(total, sizeof(*lookup.items)),
                       .keys = mpy_calloc(total, sizeof(*lookup.keys)),
                       .handles = mpy_calloc(total, sizeof(*lookup.handles)),
                       .results = mpy_calloc(total, sizeof(*lookup.results))};
    if (lookup.items == NULL || lookup.keys == NULL || lookup.handles == NULL || lookup.results == NULL) {
        drop_lookup(&lookup);
        return false;
    }
    size_t listed = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const mpy_keys_t *keys = &plan->buffers[i].keys;
        for (size_t j = 0; plan->buffers[i].fits && j < keys->count; j++) {
            lookup.items[listed++].key = keys->items[j];
        }
    }
    qsort(lookup.items, listed, sizeof(*lookup.items), compare_found);
    for (size_t i = 0; i < listed; i++) {
        if (lookup.count == 0 || compare_found(&lookup.items[lookup.count - 1], &lookup.items[i]) != 0) {
            lookup.items[lookup.count++] = lookup.items[i];
        }
    }
    for (size_t i = 0; i < lookup.count; i++) {
        lookup.keys[i] = lookup.items[i].key;
    }
    *out = lookup;
    return true;
}

static void find_values(mcs_store_t *store, lookup_t *lookup)
{
    if (lookup->count > 0) {
        mcs_get_handles(store, lookup->keys, lookup->count, lookup->handles, lookup->results);
    }
    for (size_t i = 0; i < lookup->count; i++) {
        lookup->items[i].handle = lookup->handles[i];
        lookup->items[i].result = lookup->results[i];
    }
}

/* ---- the pieces ---- */

static int64_t copy_piece(mpy_store_t *self, const found_t *value, uint64_t address, uint64_t dst, uint64_t src,
                          uint64_t size)
{
    uint64_t object_size = mcs_handle_size(value->handle);
    uint64_t end;
    if (src > object_size || size > object_size - src || __builtin_add_overflow(dst, size, &end) ||
        !mpy_memory_registered(self->memory, address, end)) {
        return MCS_INVALID_PARAMS;
    }
    if (size > 0) {
        /* NOLINTNEXTLINE(performance-no-int-to-ptr) */
        memcpy((void *)(uintptr_t)(address + dst), (const char *)mcs_handle_ptr(value->handle) + src, size);
    }
    return (int64_t)size;
}

static void copy_pieces(mpy_store_t *self, const plan_t *plan, const lookup_t *lookup)
{
    for (size_t i = 0; i < plan->count; i++) {
        const buffer_plan_t *buffer = &plan->buffers[i];
        for (size_t j = 0; buffer->fits && j < buffer->keys.count; j++) {
            found_t wanted = {.key = buffer->keys.items[j]};
            const found_t *value = bsearch(&wanted, lookup->items, lookup->count, sizeof(wanted), compare_found);
            for (size_t k = 0; value != NULL && k < buffer->dst.rows[j].count; k++) {
                int64_t result = value->handle == NULL
                                     ? value->result
                                     : copy_piece(self, value, buffer->address, buffer->dst.rows[j].items[k],
                                                  buffer->src.rows[j].items[k], buffer->sizes.rows[j].items[k]);
                buffer->results.rows[j].items[k] = (uint64_t)result;
            }
        }
    }
}

/* Runs the plan: its results are filled. False: an exception. */
static bool run_plan(mpy_store_t *self, const plan_t *plan)
{
    lookup_t lookup;
    if (!make_lookup(plan, &lookup)) {
        return false;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    find_values(self->store, &lookup);
    copy_pieces(self, plan, &lookup);
    drop_lookup(&lookup);
    return mpy_call_end(&call);
}

static PyObject *row_list(const mpy_table_t *results)
{
    PyObject *list = PyList_New((Py_ssize_t)results->count);
    for (size_t j = 0; list != NULL && j < results->count; j++) {
        PyObject *row = PyList_New((Py_ssize_t)results->rows[j].count);
        for (size_t k = 0; row != NULL && k < results->rows[j].count; k++) {
            PyObject *number = PyLong_FromLongLong((int64_t)results->rows[j].items[k]);
            if (number == NULL || PyList_SetItem(row, (Py_ssize_t)k, number) != 0) {
                Py_CLEAR(row);
            }
        }
        if (row == NULL || PyList_SetItem(list, (Py_ssize_t)j, row) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *result_list(const plan_t *plan)
{
    PyObject *list = PyList_New((Py_ssize_t)plan->count);
    for (size_t i = 0; list != NULL && i < plan->count; i++) {
        PyObject *rows = row_list(&plan->buffers[i].results);
        if (rows == NULL || PyList_SetItem(list, (Py_ssize_t)i, rows) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

MPY_STORE_METHOD(get_into_ranges)
{
    static const char *const params[] = {"buffer_ptrs",     "all_keys",  "all_dst_offsets",
                                         "all_src_offsets", "all_sizes", NULL};
    static const mpy_sig_t sig = {NAME, 5, params};
    PyObject *given[MPY_PARAMS_MAX];
    PyObject *lists[LISTS] = {NULL};
    mpy_numbers_t addresses = {0};
    plan_t plan;
    PyObject *answer = NULL;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    bool ok = mpy_numbers(NAME, params[0], given[0], &addresses);
    for (int list = KEYS; ok && list < LISTS; list++) {
        lists[list] = mpy_sequence(NAME, list_params[list], given[list + 1]);
        ok = lists[list] != NULL;
    }
    if (ok && take_plan(lists, &addresses, &plan)) {
        answer = run_plan(mpy_store_of(self), &plan) ? result_list(&plan) : NULL;
        drop_plan(&plan);
    }
    for (int list = KEYS; list < LISTS; list++) {
        Py_XDECREF(lists[list]);
    }
    mpy_numbers_drop(&addresses);
    return answer;
}
