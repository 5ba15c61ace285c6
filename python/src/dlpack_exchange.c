/* StoredTensor's side of DLPack's C exchange table: the same tensors without a capsule and a call of Python.
 *
 * The table belongs to the process: consumers keep its address. Its functions get no context, so the type that imported
 * tensors are made of is kept here, for the one interpreter that the module works in.
 *
 * What is lent (borrow_from_object) has no place for flags, so a read-only tensor is not lent: who is not told would
 * write to stored bytes. Such a tensor is given managed, with its flag. */
#include "python/src/tensor.h"

#include <string.h>

#include "core/base/alloc.h"

static PyObject *g_type; /* borrowed: it forgets itself; under the GIL */

static const char import_name[] = "mooncake.store.imported";

/* Asked for an object that is none of ours, a table is the wrong one. */
static bool is_stored_tensor(PyObject *object)
{
    PyObject *module = mpy_module_of_type(Py_TYPE(object));
    bool ours = module != NULL && mpy_state_of_module(module)->tensor_type == (PyObject *)Py_TYPE(object);
    if (!ours && PyErr_Occurred() == NULL) {
        PyErr_SetString(PyExc_TypeError, "not a mooncake.store.StoredTensor");
    }
    return ours;
}

static int borrow(void *object, mcs_dl_tensor_t *out)
{
    if (!is_stored_tensor(object)) {
        return -1;
    }
    mpy_tensor_t *tensor = mpy_tensor_of(object);
    if (!mpy_tensor_is_here(object)) {
        return -1;
    }
    if (tensor->readonly) {
        PyErr_SetString(PyExc_BufferError, "the tensor is read-only, which a lent one cannot say");
        return -1;
    }
    mpy_tensor_describe(object, tensor->shape, tensor->strides, out);
    return 0;
}

static int managed_from_object(void *object, mcs_dl_versioned_t **out)
{
    if (!is_stored_tensor(object)) {
        return -1;
    }
    mcs_dl_versioned_t *managed = mpy_tensor_managed(object, false);
    if (managed == NULL) {
        return -1;
    }
    *out = managed;
    return 0;
}

/* Elements are there before a tensor is: no stream has anything to wait for, and any will do. */
static int current_stream(int32_t device_type, int32_t device_id, void **out_stream)
{
    (void)device_type;
    (void)device_id;
    *out_stream = NULL;
    return 0;
}

/* ---- new tensors ---- */

typedef struct made {
    mcs_dl_versioned_t managed; /* first: the deleter gets its address */
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    int64_t strides[MCS_TENSOR_DIMS_MAX];
    void *memory;
} made_t;

static void delete_made(mcs_dl_versioned_t *self)
{
    made_t *made = (made_t *)(void *)self;
    mcs_free(made->memory);
    mcs_free(made);
}

/* What of the prototype is looked at: type, shape, device. */
static const char *understand(const mcs_dl_tensor_t *prototype, mcs_tensor_view_t *view_out)
{
    mcs_dl_tensor_t wanted = *prototype;
    wanted.data = &wanted; /* any address */
    wanted.strides = NULL;
    wanted.byte_offset = 0;
    if (prototype->device_type != MCS_DL_CPU) {
        return "mooncake.store makes tensors in host memory only";
    }
    return mcs_dl_view(&wanted, view_out) == MCS_OK ? NULL : "not a tensor that mooncake.store can hold";
}

/* Also without the GIL. */
static int allocate(mcs_dl_tensor_t *prototype, mcs_dl_versioned_t **out, void *error_ctx,
                    void (*set_error)(void *error_ctx, const char *kind, const char *message))
{
    enum { ALIGN = 256 }; /* DLPack's wish */
    mcs_tensor_view_t view;
    const char *problem = understand(prototype, &view);
    if (problem != NULL) {
        set_error(error_ctx, "BufferError", problem);
        return -1;
    }
    made_t *made = MCS_NEW(made_t);
    void *memory = made != NULL && view.bytes > 0 ? mcs_aligned_alloc(ALIGN, (size_t)view.bytes) : NULL;
    if (made == NULL || (view.bytes > 0 && memory == NULL)) {
        mcs_free(made);
        set_error(error_ctx, "MemoryError", "no memory for a tensor");
        return -1;
    }
    made->memory = memory;
    int64_t size = mcs_dtype_row(view.dtype)->size;
    for (int32_t i = 0; i < view.ndim; i++) {
        made->shape[i] = view.shape[i];
        made->strides[i] = view.strides[i] / size;
    }
    made->managed = (mcs_dl_versioned_t){.version = {MCS_DL_MAJOR, MCS_DL_MINOR}, .ctx = made, .deleter = delete_made};
    made->managed.tensor = *prototype;
    made->managed.tensor.data = memory;
    made->managed.tensor.byte_offset = 0;
    made->managed.tensor.shape = made->shape;
    made->managed.tensor.strides = made->strides;
    *out = &made->managed;
    return 0;
}

/* ---- tensors of others ---- */

static void end_import(PyObject *capsule)
{
    mcs_dl_versioned_t *managed = PyCapsule_GetPointer(capsule, import_name);
    if (managed->deleter != NULL) {
        managed->deleter(managed);
    }
}

/* A StoredTensor on its memory. NULL: BufferError, or another exception. */
static PyObject *import(const mcs_dl_versioned_t *managed, PyObject *owner)
{
    mcs_tensor_view_t view;
    mcs_tensor_header_t header;
    int32_t type = managed->tensor.device_type;
    bool on_host = mcs_dl_on_host(type);
    if ((!on_host && type != MCS_DL_CUDA) || mcs_dl_view(&managed->tensor, &view) != MCS_OK ||
        mcs_tensor_full(view.dtype, view.ndim, view.shape, &header) != MCS_OK || !mcs_tensor_view_contiguous(&view)) {
        PyErr_SetString(PyExc_BufferError,
                        "not a tensor that a StoredTensor can be: in C order, of a known type, in host or CUDA memory");
        return NULL;
    }
    union {
        const void *in;
        void *out;
    } data = {.in = view.data};
    mpy_state_t *state = mpy_state_of_module(PyType_GetModule((PyTypeObject *)g_type));
    bool readonly = (managed->flags & MCS_DL_FLAG_READ_ONLY) != 0;
    PyObject *tensor = mpy_tensor_new(state, &header, data.out, readonly, owner);
    if (tensor != NULL && !on_host) {
        mpy_tensor_of(tensor)->device = managed->tensor.device_id;
    }
    return tensor;
}

static int managed_to_object(mcs_dl_versioned_t *managed, void **out_object)
{
    PyObject *owner = PyCapsule_New(managed, import_name, end_import);
    PyObject *object = NULL;
    if (owner == NULL) {
        if (managed->deleter != NULL) {
            managed->deleter(managed);
        }
        return -1;
    }
    if (g_type == NULL || managed->version.major != MCS_DL_MAJOR) {
        PyErr_SetString(PyExc_BufferError, "a tensor of another version of DLPack");
    } else {
        object = import(managed, owner);
    }
    Py_DECREF(owner);
    *out_object = object;
    return object != NULL ? 0 : -1;
}

/* ---- the table ---- */

static mcs_dl_exchange_t g_table = {
    .version = {MCS_DL_MAJOR, MCS_DL_MINOR},
    .allocate = allocate,
    .managed_from_object = managed_from_object,
    .managed_to_object = managed_to_object,
    .borrow_from_object = borrow,
    .current_stream = current_stream,
};

PyObject *mpy_exchange_capsule(PyObject *type)
{
    PyObject *capsule = PyCapsule_New(&g_table, MCS_DL_EXCHANGE, NULL);
    if (capsule != NULL) {
        g_type = type;
    }
    return capsule;
}

void mpy_exchange_forget(PyObject *type)
{
    if (g_type == type) {
        g_type = NULL;
    }
}
