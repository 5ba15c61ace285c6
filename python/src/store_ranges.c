/* get_into_ranges: pieces of values into registered buffers. Only the pieces move. */
#include "python/src/store.h"

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

/* What the library is given: one list of parts for each key of each buffer. */
typedef struct job {
    size_t count;
    mcs_bytes_t *keys;
    mcs_parts_list_t *lists;
    mcs_part_t *parts; /* of all lists */
} job_t;

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

/* ---- the pieces ---- */

static void drop_job(job_t *job)
{
    mcs_free(job->keys);
    mcs_free(job->lists);
    mcs_free(job->parts);
}

/* Room for all rows that fit. */
static bool make_job(const plan_t *plan, job_t *out)
{
    size_t keys = 0;
    size_t parts = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const buffer_plan_t *buffer = &plan->buffers[i];
        keys += buffer->fits ? buffer->keys.count : 0;
        parts += buffer->fits ? buffer->dst.numbers : 0;
    }
    job_t job = {.keys = mpy_calloc(keys, sizeof(*job.keys)),
                 .lists = mpy_calloc(keys, sizeof(*job.lists)),
                 .parts = mpy_calloc(parts, sizeof(*job.parts))};
    if (job.keys == NULL || job.lists == NULL || job.parts == NULL) {
        drop_job(&job);
        return false;
    }
    *out = job;
    return true;
}

static mcs_part_t make_part(mpy_store_t *self, uint64_t address, uint64_t dst, uint64_t src, uint64_t size)
{
    uint64_t end;
    bool usable = !__builtin_add_overflow(dst, size, &end) && mpy_memory_registered(self->memory, address, end);
    return (mcs_part_t){.ptr =
                            usable ? (void *)(uintptr_t)(address + dst) : NULL, /* NOLINT(performance-no-int-to-ptr) */
                        .size = size,
                        .offset = usable ? src : UINT64_MAX}; /* beyond every value: MCS_INVALID_PARAMS */
}

/* Without the GIL, like everything that asks which buffers are registered. */
static void fill_job(mpy_store_t *self, const plan_t *plan, job_t *job)
{
    mcs_part_t *part = job->parts;
    for (size_t i = 0; i < plan->count; i++) {
        const buffer_plan_t *buffer = &plan->buffers[i];
        for (size_t j = 0; buffer->fits && j < buffer->keys.count; j++) {
            size_t count = buffer->dst.rows[j].count;
            job->keys[job->count] = buffer->keys.items[j];
            job->lists[job->count++] = (mcs_parts_list_t){.parts = part, .count = count};
            for (size_t k = 0; k < count; k++) {
                *part++ = make_part(self, buffer->address, buffer->dst.rows[j].items[k], buffer->src.rows[j].items[k],
                                    buffer->sizes.rows[j].items[k]);
            }
        }
    }
}

static void take_results(const plan_t *plan, const job_t *job)
{
    const mcs_part_t *part = job->parts;
    for (size_t i = 0; i < plan->count; i++) {
        const buffer_plan_t *buffer = &plan->buffers[i];
        for (size_t j = 0; buffer->fits && j < buffer->keys.count; j++) {
            for (size_t k = 0; k < buffer->dst.rows[j].count; k++) {
                buffer->results.rows[j].items[k] = (uint64_t)(part++)->result;
            }
        }
    }
}

/* Runs the plan: its results are filled. False: an exception. */
static bool run_plan(mpy_store_t *self, const plan_t *plan)
{
    job_t job;
    if (!make_job(plan, &job)) {
        return false;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    fill_job(self, plan, &job);
    if (job.count > 0) {
        mcs_get_parts(self->store, job.keys, job.lists, job.count);
    }
    take_results(plan, &job);
    drop_job(&job);
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
