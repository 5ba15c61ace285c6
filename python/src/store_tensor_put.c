/* All calls that store tensors: put_, upsert_ and pub_tensor, their batches, the forms that take an address (_from),
 * and the two families of shards (_with_tp, _with_parallelism). They differ in where a tensor comes from and what
 * becomes of it, so they are one function and a row each. */
#include "python/src/parallelism.h"
#include "python/src/tensor_put.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

typedef struct row {
    const char *name;
    Py_ssize_t required;
    const char *const *params; /* what a call takes shows in their names */
    unsigned flags;
    bool pub; /* preferred_segments names a segment for each replica, or none */
} row_t;

/* What is done with each tensor of a call. */
typedef struct plan {
    const row_t *row;
    PyObject **given;
    bool batch;
    bool with_tp;
    int32_t tp_size;
    int32_t split_dim;
    PyObject *parallelisms; /* tuple, or NULL: not given */
    PyObject *writers;
} plan_t;

/* The argument of that name; NULL: not given, or not of this call. */
static PyObject *argument(const row_t *row, PyObject **given, const char *name)
{
    for (size_t i = 0; row->params[i] != NULL; i++) {
        if (strcmp(row->params[i], name) == 0) {
            return given[i];
        }
    }
    return NULL;
}

static bool has_param(const row_t *row, const char *name)
{
    for (size_t i = 0; row->params[i] != NULL; i++) {
        if (strcmp(row->params[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static bool take_i32(const plan_t *plan, const char *name, int32_t *out)
{
    PyObject *value = argument(plan->row, plan->given, name);
    return value == NULL || mpy_i32(plan->row->name, name, value, out);
}

/* One entry for each key: a list of them in a batch, else the one. MPY_REFUSED: no list, or one of another length. */
static mpy_take_t take_entries(const plan_t *plan, const char *one, const char *many, size_t count, PyObject **out)
{
    PyObject *value = argument(plan->row, plan->given, plan->batch ? many : one);
    *out = NULL;
    if (value == NULL || value == Py_None) {
        return MPY_TAKEN;
    }
    if (!plan->batch) {
        *out = PyTuple_Pack(1, value);
    } else if (PyList_Check(value) || PyTuple_Check(value)) {
        *out = PySequence_Tuple(value);
    } else {
        return MPY_REFUSED;
    }
    if (*out == NULL) {
        return MPY_RAISED;
    }
    return (size_t)PyTuple_Size(*out) == count ? MPY_TAKEN : MPY_REFUSED;
}

static mpy_take_t take_plan(const row_t *row, PyObject **given, size_t count, plan_t *out)
{
    plan_t plan = {.row = row,
                   .given = given,
                   .batch = strcmp(row->params[0], "key") != 0,
                   .with_tp = has_param(row, "tp_size"),
                   .tp_size = 1};
    int32_t rank = 0; /* every rank's shard is stored */
    if (!take_i32(&plan, "tp_rank", &rank) || !take_i32(&plan, "tp_size", &plan.tp_size) ||
        !take_i32(&plan, "split_dim", &plan.split_dim)) {
        return MPY_RAISED;
    }
    mpy_take_t taken = take_entries(&plan, "parallelism", "parallelisms", count, &plan.parallelisms);
    if (taken == MPY_TAKEN) {
        taken = take_entries(&plan, "writer_partition", "writer_partitions", count, &plan.writers);
    }
    if (taken == MPY_TAKEN && plan.parallelisms != NULL && plan.writers != NULL) {
        taken = MPY_REFUSED;
    }
    *out = plan;
    return taken;
}

static void drop_plan(plan_t *plan)
{
    Py_CLEAR(plan->parallelisms);
    Py_CLEAR(plan->writers);
}

/* The tensor of item i: an object, or what lies at an address. `header`: of the latter. */
typedef struct given_tensor {
    mpy_source_t source;
    mcs_tensor_header_t header;
    bool at_address;
} given_tensor_t;

/* A whole tensor is needed where it is to be split; what lies at an address has a header that says whether it is one.
 */
static bool can_split(const plan_t *plan, const given_tensor_t *tensor)
{
    if (!tensor->at_address ||
        memcmp(tensor->header.global_shape, tensor->header.local_shape, sizeof(tensor->header.local_shape)) == 0) {
        return true;
    }
    mcs_warn("python", "%s refused: what is at the address is a shard already: %s", plan->row->name,
             mcs_code_name(MCS_INVALID_PARAMS));
    return false;
}

static mpy_take_t plan_parallel(const plan_t *plan, mpy_puts_t *puts, size_t i, mcs_bytes_t key,
                                const given_tensor_t *tensor)
{
    mcs_parallelism_t parallelism;
    PyObject *axes = PyTuple_GetItem(plan->parallelisms, (Py_ssize_t)i);
    mpy_take_t taken = mpy_parallelism_take(puts->name, axes, &parallelism);
    if (taken != MPY_TAKEN) {
        return taken;
    }
    bool splits = mcs_parallelism_find_tp(&parallelism) != NULL && !mcs_parallelism_is_single_tp(&parallelism);
    if (splits && !can_split(plan, tensor)) {
        return MPY_REFUSED;
    }
    return mpy_puts_parallel(puts, i, key, &tensor->source, &parallelism);
}

static mpy_take_t plan_writer(const plan_t *plan, mpy_puts_t *puts, size_t i, mcs_bytes_t key,
                              const given_tensor_t *tensor)
{
    mcs_parallelism_t part;
    mpy_take_t taken = mpy_writer_take(puts->name, PyTuple_GetItem(plan->writers, (Py_ssize_t)i), &part);
    if (taken == MPY_TAKEN && !can_split(plan, tensor)) {
        taken = MPY_REFUSED;
    }
    return taken == MPY_TAKEN ? mpy_puts_writer(puts, i, key, &tensor->source, &part) : taken;
}

/* Not None. */
static bool has_entry(PyObject *entries, size_t i)
{
    return entries != NULL && PyTuple_GetItem(entries, (Py_ssize_t)i) != Py_None;
}

static mpy_take_t plan_item(const plan_t *plan, mpy_puts_t *puts, size_t i, mcs_bytes_t key,
                            const given_tensor_t *tensor)
{
    size_t before = puts->count;
    mpy_take_t taken;
    if (has_entry(plan->writers, i)) {
        taken = plan_writer(plan, puts, i, key, tensor);
    } else if (has_entry(plan->parallelisms, i)) {
        taken = plan_parallel(plan, puts, i, key, tensor);
    } else if (plan->with_tp && plan->tp_size != 1) {
        taken = can_split(plan, tensor) ? mpy_puts_tp(puts, i, key, &tensor->source, plan->tp_size, plan->split_dim)
                                        : MPY_REFUSED;
    } else if (tensor->at_address) {
        taken = mpy_puts_add(puts, i, key, "", &tensor->header, &tensor->source, NULL);
    } else {
        taken = mpy_puts_whole(puts, i, key, &tensor->source);
    }
    if (taken != MPY_TAKEN) {
        mpy_puts_cut(puts, before);
    }
    return taken;
}

/* The values of a call: tensors, or addresses and sizes. */
typedef struct values {
    size_t count;
    PyObject *tensors; /* tuple, or NULL */
    mpy_numbers_t addresses;
    mpy_numbers_t sizes;
} values_t;

static void drop_values(values_t *values)
{
    Py_CLEAR(values->tensors);
    mpy_numbers_drop(&values->addresses);
    mpy_numbers_drop(&values->sizes);
}

static bool one_number(const char *name, const char *param, PyObject *value, mpy_numbers_t *out)
{
    uint64_t number;
    uint64_t *items = mpy_u64(name, param, value, &number) ? mpy_calloc(1, sizeof(*items)) : NULL;
    if (items == NULL) {
        return false;
    }
    items[0] = number;
    *out = (mpy_numbers_t){.count = 1, .items = items};
    return true;
}

static bool take_values(const row_t *row, PyObject **given, bool batch, values_t *out)
{
    values_t values = {0};
    bool ok;
    if (has_param(row, "tensor")) {
        values.tensors = PyTuple_Pack(1, argument(row, given, "tensor"));
        ok = values.tensors != NULL;
    } else if (has_param(row, "tensors_list")) {
        values.tensors = mpy_sequence(row->name, "tensors_list", argument(row, given, "tensors_list"));
        ok = values.tensors != NULL;
    } else if (batch) {
        ok = mpy_numbers(row->name, "buffer_ptrs", argument(row, given, "buffer_ptrs"), &values.addresses) &&
             mpy_numbers(row->name, "sizes", argument(row, given, "sizes"), &values.sizes);
    } else {
        ok = one_number(row->name, "buffer_ptr", argument(row, given, "buffer_ptr"), &values.addresses) &&
             one_number(row->name, "size", argument(row, given, "size"), &values.sizes);
    }
    if (!ok) {
        drop_values(&values);
        return false;
    }
    values.count = values.tensors != NULL ? (size_t)PyTuple_Size(values.tensors) : values.addresses.count;
    if (values.tensors == NULL && values.sizes.count != values.count) {
        values.count = SIZE_MAX; /* fits no number of keys */
    }
    *out = values;
    return true;
}

static mpy_take_t take_tensor(mpy_store_t *self, const row_t *row, const values_t *values, size_t i,
                              given_tensor_t *out)
{
    given_tensor_t tensor = {.at_address = values->tensors == NULL};
    mpy_take_t taken;
    if (tensor.at_address) {
        void *address = (void *)(uintptr_t)values->addresses.items[i]; /* NOLINT(performance-no-int-to-ptr) */
        struct iovec object = {address, values->sizes.items[i]};
        taken = mpy_source_at(self->memory, self->store, row->name, &object, &tensor.source, &tensor.header);
    } else {
        PyObject *given = PyTuple_GetItem(values->tensors, (Py_ssize_t)i);
        taken = mpy_source_take(row->name, self->store, given, &tensor.source);
    }
    if (taken == MPY_TAKEN) {
        *out = tensor;
    }
    return taken;
}

/* Fills results; they are MCS_INVALID_PARAMS before. False: an exception. */
static bool put_all(mpy_store_t *self, const plan_t *plan, const mpy_keys_t *keys, const values_t *values,
                    const mpy_placement_t *placement, int64_t *results)
{
    mpy_puts_t puts = {.name = plan->row->name};
    bool ok = true;
    for (size_t i = 0; ok && i < keys->count; i++) {
        given_tensor_t tensor;
        mpy_take_t taken = take_tensor(self, plan->row, values, i, &tensor);
        if (taken == MPY_TAKEN) {
            taken = plan_item(plan, &puts, i, keys->items[i], &tensor);
            mpy_source_drop(&tensor.source); /* the puts hold what they need */
        }
        ok = taken != MPY_RAISED;
    }
    ok = ok && mpy_puts_run(self, &puts, placement, keys->count, plan->row->flags, results);
    mpy_puts_drop(&puts);
    return ok;
}

/* pub_*: a list of preferred segments has one for each replica. */
static bool is_pub_mismatch(const row_t *row, const mpy_placement_t *placement)
{
    size_t listed = placement->listed_segments;
    return row->pub && listed > 0 && listed != placement->c.replica_num;
}

static bool run(mpy_store_t *self, const row_t *row, PyObject **given, const mpy_keys_t *keys, const values_t *values,
                int64_t *results)
{
    plan_t plan = {0};
    mpy_placement_t placement;
    if (!mpy_placement_take(mpy_store_state(self), row->name, argument(row, given, "config"), &placement)) {
        return false;
    }
    mpy_take_t taken = take_plan(row, given, keys->count, &plan);
    if (taken == MPY_TAKEN && (values->count != keys->count || is_pub_mismatch(row, &placement))) {
        taken = MPY_REFUSED;
    }
    if (taken == MPY_REFUSED) {
        mcs_warn("python", "%s refused: its lists do not fit together: %s", row->name,
                 mcs_code_name(MCS_INVALID_PARAMS));
    }
    bool ok = taken != MPY_RAISED;
    if (taken == MPY_TAKEN) {
        ok = put_all(self, &plan, keys, values, &placement, results);
    }
    drop_plan(&plan);
    mpy_placement_drop(&placement);
    return ok;
}

/* `key` or a list of them. */
static bool take_keys(const row_t *row, PyObject *value, bool batch, mpy_keys_t *out)
{
    PyObject *list = batch ? Py_NewRef(value) : PyTuple_Pack(1, value);
    bool ok = list != NULL && mpy_keys(row->name, row->params[0], list, out);
    Py_XDECREF(list);
    return ok;
}

static PyObject *put_tensors(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                             const row_t *row)
{
    const mpy_sig_t sig = {row->name, row->required, row->params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    values_t values;
    PyObject *answer = NULL;
    bool batch = strcmp(row->params[0], "key") != 0;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_keys(row, given[0], batch, &keys)) {
        return NULL;
    }
    int64_t *results = mpy_calloc(keys.count + 1, sizeof(*results));
    if (results != NULL && take_values(row, given, batch, &values)) {
        for (size_t i = 0; i < keys.count; i++) {
            results[i] = MCS_INVALID_PARAMS;
        }
        if (run(mpy_store_of(object), row, given, &keys, &values, results)) {
            answer = batch ? mpy_int_list(results, keys.count) : PyLong_FromLongLong(results[0]);
        }
        drop_values(&values);
    }
    mcs_free(results);
    mpy_keys_drop(&keys);
    return answer;
}

/* ---- the rows ---- */

static const char *const one_tensor[] = {"key", "tensor", NULL};
static const char *const one_tensor_config[] = {"key", "tensor", "config", NULL};
static const char *const many_tensors[] = {"keys", "tensors_list", NULL};
static const char *const many_tensors_config[] = {"keys", "tensors_list", "config", NULL};
static const char *const one_address[] = {"key", "buffer_ptr", "size", NULL};
static const char *const many_addresses[] = {"keys", "buffer_ptrs", "sizes", NULL};

static const char *const one_tp[] = {"key", "tensor", "tp_rank", "tp_size", "split_dim", NULL};
static const char *const many_tp[] = {"base_keys", "tensors_list", "tp_rank", "tp_size", "split_dim", NULL};
static const char *const one_tp_config[] = {"key", "tensor", "config", "tp_rank", "tp_size", "split_dim", NULL};
static const char *const many_tp_config[] = {"base_keys", "tensors_list", "config", "tp_rank",
                                             "tp_size",   "split_dim",    NULL};
static const char *const one_tp_address[] = {"key", "buffer_ptr", "size", "tp_rank", "tp_size", "split_dim", NULL};
static const char *const many_tp_addresses[] = {"base_keys", "buffer_ptrs", "sizes", "tp_rank",
                                                "tp_size",   "split_dim",   NULL};

static const char *const one_parallel[] = {"key", "tensor", "parallelism", "config", "writer_partition", NULL};
static const char *const many_parallel[] = {"keys",   "tensors_list",      "parallelisms",
                                            "config", "writer_partitions", NULL};
static const char *const one_parallel_address[] = {"key",    "buffer_ptr",       "size", "parallelism",
                                                   "config", "writer_partition", NULL};
static const char *const many_parallel_addresses[] = {"keys",   "buffer_ptrs",       "sizes", "parallelisms",
                                                      "config", "writer_partitions", NULL};

#define PUT_TENSORS(method, required, params, flags, pub)                                                              \
    MPY_STORE_METHOD(method)                                                                                           \
    {                                                                                                                  \
        static const row_t row = {#method, required, params, flags, pub};                                              \
        return put_tensors(self, args, nargs, kwnames, &row);                                                          \
    }

PUT_TENSORS(put_tensor, 2, one_tensor, 0, false)
PUT_TENSORS(upsert_tensor, 2, one_tensor, MCS_PUT_UPSERT, false)
PUT_TENSORS(pub_tensor, 2, one_tensor_config, 0, true)
PUT_TENSORS(upsert_pub_tensor, 2, one_tensor_config, MCS_PUT_UPSERT, true)
PUT_TENSORS(batch_put_tensor, 2, many_tensors, 0, false)
PUT_TENSORS(batch_upsert_tensor, 2, many_tensors, MCS_PUT_UPSERT, false)
PUT_TENSORS(batch_pub_tensor, 2, many_tensors_config, 0, true)
PUT_TENSORS(batch_upsert_pub_tensor, 2, many_tensors_config, MCS_PUT_UPSERT, true)
PUT_TENSORS(put_tensor_from, 3, one_address, 0, false)
PUT_TENSORS(upsert_tensor_from, 3, one_address, MCS_PUT_UPSERT, false)
PUT_TENSORS(batch_put_tensor_from, 3, many_addresses, 0, false)
PUT_TENSORS(batch_upsert_tensor_from, 3, many_addresses, MCS_PUT_UPSERT, false)

PUT_TENSORS(put_tensor_with_tp, 2, one_tp, 0, false)
PUT_TENSORS(batch_put_tensor_with_tp, 2, many_tp, 0, false)
PUT_TENSORS(pub_tensor_with_tp, 2, one_tp_config, 0, true)
PUT_TENSORS(batch_pub_tensor_with_tp, 2, many_tp_config, 0, true)
PUT_TENSORS(put_tensor_with_tp_from, 3, one_tp_address, 0, false)
PUT_TENSORS(batch_put_tensor_with_tp_from, 3, many_tp_addresses, 0, false)

PUT_TENSORS(put_tensor_with_parallelism, 2, one_parallel, 0, false)
PUT_TENSORS(upsert_tensor_with_parallelism, 2, one_parallel, MCS_PUT_UPSERT, false)
PUT_TENSORS(batch_put_tensor_with_parallelism, 2, many_parallel, 0, false)
PUT_TENSORS(batch_upsert_tensor_with_parallelism, 2, many_parallel, MCS_PUT_UPSERT, false)
PUT_TENSORS(put_tensor_with_parallelism_from, 3, one_parallel_address, 0, false)
PUT_TENSORS(upsert_tensor_with_parallelism_from, 3, one_parallel_address, MCS_PUT_UPSERT, false)
PUT_TENSORS(batch_put_tensor_with_parallelism_from, 3, many_parallel_addresses, 0, false)
PUT_TENSORS(batch_upsert_tensor_with_parallelism_from, 3, many_parallel_addresses, MCS_PUT_UPSERT, false)
