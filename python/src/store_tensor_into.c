/* get_tensor_into, its batch and its forms for TP shards: tensors in memory of the caller's, header and elements.
 * get_tensor_into_cuda: the elements alone, into a tensor that is there already. */
#include "python/src/tensor_into.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

/* A call's keys, addresses and sizes. */
typedef struct rooms {
    mpy_keys_t keys;
    mcs_bytes_t *names; /* the keys, or those of the shards */
    mpy_numbers_t addresses;
    mpy_numbers_t sizes;
    int32_t group[3]; /* tp_rank, tp_size, split_dim */
} rooms_t;

static void drop_rooms(rooms_t *rooms)
{
    for (size_t i = 0; rooms->names != NULL && i < rooms->keys.count; i++) {
        mpy_name_drop(&rooms->names[i]);
    }
    mcs_free(rooms->names);
    mpy_keys_drop(&rooms->keys);
    mpy_numbers_drop(&rooms->addresses);
    mpy_numbers_drop(&rooms->sizes);
}

static bool name_objects(rooms_t *rooms)
{
    char suffix[MCS_TENSOR_SUFFIX_MAX] = "";
    if (rooms->group[1] > 1) {
        mcs_tensor_tp_suffix(rooms->group[0], suffix);
    }
    rooms->names = mpy_calloc(rooms->keys.count, sizeof(*rooms->names));
    for (size_t i = 0; rooms->names != NULL && i < rooms->keys.count; i++) {
        rooms->names[i] = mpy_name_make(rooms->keys.items[i], suffix);
        if (rooms->names[i].ptr == NULL) {
            return false;
        }
    }
    return rooms->names != NULL;
}

/* params: key(s), address(es), size(s), then tp_rank, tp_size, split_dim as far as the call has them. */
static bool take_rooms(const mpy_sig_t *sig, PyObject *const *given, rooms_t *out)
{
    rooms_t rooms = {.group = {0, 1, 0}};
    bool batch = strcmp(sig->params[0], "key") != 0;
    PyObject *lists[3] = {NULL};
    bool ok = true;
    for (size_t i = 0; ok && i < 3; i++) {
        lists[i] = batch ? Py_NewRef(given[i]) : PyTuple_Pack(1, given[i]);
        ok = lists[i] != NULL;
    }
    ok = ok && mpy_keys(sig->name, sig->params[0], lists[0], &rooms.keys) &&
         mpy_numbers(sig->name, sig->params[1], lists[1], &rooms.addresses) &&
         mpy_numbers(sig->name, sig->params[2], lists[2], &rooms.sizes);
    for (size_t i = 3; ok && sig->params[i] != NULL; i++) {
        ok = given[i] == NULL || mpy_i32(sig->name, sig->params[i], given[i], &rooms.group[i - 3]);
    }
    for (size_t i = 0; i < 3; i++) {
        Py_XDECREF(lists[i]);
    }
    if (!ok || !name_objects(&rooms)) {
        drop_rooms(&rooms);
        return false;
    }
    *out = rooms;
    return true;
}

static bool is_shard_of(const void *arg, const mcs_tensor_header_t *header)
{
    const int32_t *group = arg;
    const mcs_tensor_axis_t *tp = mcs_tensor_find_tp(header);
    return group[1] <= 1 || (tp != NULL && tp->rank == group[0] && tp->size == group[1]);
}

/* A list of tensors and None. */
static PyObject *read_rooms(mpy_store_t *self, const rooms_t *rooms)
{
    size_t count = rooms->keys.count;
    PyObject **tensors = mpy_calloc(count, sizeof(PyObject *));
    PyObject *list = NULL;
    if (tensors != NULL && mpy_tensors_into(self, rooms->names, rooms->addresses.items, rooms->sizes.items, count,
                                            is_shard_of, rooms->group, tensors)) {
        list = PyList_New((Py_ssize_t)count);
        for (size_t i = 0; i < count; i++) {
            PyObject *item = list != NULL ? mpy_tensor_answer(mpy_store_state(self), tensors[i]) : NULL;
            if (list == NULL) {
                Py_XDECREF(tensors[i]);
            } else if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0) {
                Py_CLEAR(list);
            }
        }
    }
    mcs_free((void *)tensors);
    return list;
}

static PyObject *get_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                          const mpy_sig_t *sig)
{
    PyObject *given[MPY_PARAMS_MAX];
    rooms_t rooms;
    if (!mpy_bind(sig, args, nargs, kwnames, given) || !take_rooms(sig, given, &rooms)) {
        return NULL;
    }
    PyObject *list = NULL;
    size_t count = rooms.keys.count;
    bool batch = strcmp(sig->params[0], "key") != 0;
    if (!batch || (mpy_store_of(self)->ready && rooms.addresses.count == count && rooms.sizes.count == count)) {
        list = read_rooms(mpy_store_of(self), &rooms);
    } else {
        list = mpy_same_int_list(MCS_INVALID_PARAMS, count); /* documented: not None */
    }
    drop_rooms(&rooms);
    if (batch || list == NULL) {
        return list;
    }
    PyObject *item = Py_XNewRef(PyList_GetItem(list, 0));
    Py_DECREF(list);
    return item;
}

#define GET_INTO(method, ...)                                                                                          \
    MPY_STORE_METHOD(method)                                                                                           \
    {                                                                                                                  \
        static const char *const params[] = {__VA_ARGS__, NULL};                                                       \
        static const mpy_sig_t sig = {#method, 3, params};                                                             \
        return get_into(self, args, nargs, kwnames, &sig);                                                             \
    }

GET_INTO(get_tensor_into, "key", "buffer_ptr", "size")
GET_INTO(batch_get_tensor_into, "keys", "buffer_ptrs", "sizes")
GET_INTO(get_tensor_with_tp_into, "key", "buffer_ptr", "size", "tp_rank", "tp_size", "split_dim")
GET_INTO(batch_get_tensor_with_tp_into, "base_keys", "buffer_ptrs", "sizes", "tp_rank", "tp_size")

/* ---- into a tensor ---- */

/* The elements of a value to `source`, a contiguous tensor of the caller's of the same type and size: bytes, or a
 * negative code. False: an exception. */
static bool fill_tensor(mpy_store_t *self, mcs_bytes_t key, const mpy_source_t *source, int64_t *code_out)
{
    mcs_tensor_header_t header = {0};
    union {
        const char *in;
        void *out; /* a tensor given to be written into */
    } data = {.in = source->data};
    struct iovec pieces[] = {{&header, sizeof(header)}, {data.out, source->bytes}};
    mcs_value_t value = {.iov = pieces, .iov_count = 2};
    mpy_header_t found;
    if (!mpy_headers_read(self, &key, 1, &found)) {
        return false;
    }
    if (found.code != 0 || found.header.dtype != (int32_t)source->dtype || found.header.data_bytes != source->bytes) {
        *code_out = found.code != 0 ? found.code : MCS_INVALID_PARAMS;
        return true;
    }
    mcs_memprobe_t probe;
    mpy_call_t call;
    int64_t code = MCS_INVALID_PARAMS;
    mpy_call_begin(&call);
    mcs_memprobe_init(&probe);
    if (source->bytes == 0 || mpy_memory_usable(self->memory, self->store, &probe, data.in, source->bytes, true)) {
        mcs_get_into(self->store, &key, &value, 1, &code);
    }
    mcs_memprobe_fini(&probe);
    *code_out = code < 0                                              ? code
                : memcmp(&header, &found.header, sizeof(header)) == 0 ? (int64_t)source->bytes
                                                                      : MCS_INVALID_PARAMS;
    return mpy_call_end(&call);
}

static bool fill_one(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *object, int64_t *code_out)
{
    mpy_source_t source;
    mpy_take_t taken = mpy_source_take(name, self->store, object, &source);
    *code_out = MCS_INVALID_PARAMS;
    if (taken != MPY_TAKEN) {
        return taken == MPY_REFUSED;
    }
    bool ok = true;
    if (source.copied || source.readonly) {
        mcs_warn("python", "%s refused: the tensor is not in C order, or read-only: %s", name,
                 mcs_code_name(MCS_INVALID_PARAMS));
    } else {
        ok = fill_tensor(self, key, &source, code_out);
    }
    mpy_source_drop(&source);
    return ok;
}

MPY_STORE_METHOD(get_tensor_into_cuda)
{
    static const char *const params[] = {"key", "tensor", NULL};
    static const mpy_sig_t sig = {"get_tensor_into_cuda", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    int64_t code;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    bool ok = fill_one(mpy_store_of(self), sig.name, key.bytes, given[1], &code);
    mpy_key_drop(&key);
    return mpy_result(ok, code);
}

MPY_STORE_METHOD(batch_get_tensor_into_cuda)
{
    static const char *const params[] = {"keys", "tensors_list", NULL};
    static const mpy_sig_t sig = {"batch_get_tensor_into_cuda", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    PyObject *answer = NULL;
    PyObject *tensors = mpy_sequence(sig.name, "tensors_list", given[1]);
    int64_t *codes = tensors != NULL ? mpy_calloc(keys.count + 1, sizeof(*codes)) : NULL;
    if (codes != NULL && (size_t)PyTuple_Size(tensors) != keys.count) {
        answer = mpy_same_int_list(MCS_INVALID_PARAMS, keys.count);
    } else if (codes != NULL) {
        bool ok = true;
        for (size_t i = 0; ok && i < keys.count; i++) {
            ok = fill_one(mpy_store_of(self), sig.name, keys.items[i], PyTuple_GetItem(tensors, (Py_ssize_t)i),
                          &codes[i]);
        }
        answer = ok ? mpy_int_list(codes, keys.count) : NULL;
    }
    mcs_free(codes);
    Py_XDECREF(tensors);
    mpy_keys_drop(&keys);
    return answer;
}
