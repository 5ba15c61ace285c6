/* StoredTensor.__dlpack__: the producer's side of DLPack.
 *
 * A capsule carries one block: the managed struct, shape and strides, and a strong reference to the tensor, which keeps
 * the memory (a slot on the segment, an allocation). The consumer calls the deleter on any thread, at any time, also
 * while the interpreter ends; giving the memory back never blocks. */
#include "python/src/tensor.h"

#include <string.h>

#include "core/base/alloc.h"

typedef struct exported {
    union {
        mcs_dl_managed_t legacy;
        mcs_dl_versioned_t versioned;
    } managed; /* first: the deleters get its address */
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    int64_t strides[MCS_TENSOR_DIMS_MAX];
    PyObject *tensor;
} exported_t;

static void give_back(exported_t *exported)
{
    if (!Py_IsInitialized()) {
        return; /* the process ends: the reference cannot be dropped any more */
    }
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(exported->tensor);
    PyGILState_Release(gil);
    mcs_free(exported);
}

static void delete_legacy(mcs_dl_managed_t *self)
{
    give_back((exported_t *)(void *)self);
}

static void delete_versioned(mcs_dl_versioned_t *self)
{
    give_back((exported_t *)(void *)self);
}

/* Only while nobody has taken it: a consumer renames the capsule. */
static void drop_legacy(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, MCS_DL_LEGACY)) {
        delete_legacy(PyCapsule_GetPointer(capsule, MCS_DL_LEGACY));
    }
}

static void drop_versioned(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, MCS_DL_VERSIONED)) {
        delete_versioned(PyCapsule_GetPointer(capsule, MCS_DL_VERSIONED));
    }
}

static void describe(exported_t *exported, mcs_dl_tensor_t *out)
{
    mpy_tensor_t *tensor = mpy_tensor_of(exported->tensor);
    const mcs_dtype_row_t *row = mcs_dtype_row(tensor->dtype);
    memcpy(exported->shape, tensor->shape, sizeof(exported->shape));
    memcpy(exported->strides, tensor->strides, sizeof(exported->strides));
    *out = (mcs_dl_tensor_t){
        .data = tensor->bytes > 0 ? tensor->data : NULL,
        .device_type = MCS_DL_CPU,
        .ndim = tensor->ndim,
        .code = row->dl_code,
        .bits = (uint8_t)(row->size * 8),
        .lanes = 1,
        .shape = exported->shape,
        .strides = exported->strides, /* byte_offset 0: there are consumers that ignore it */
    };
}

/* Takes `tensor` over. */
static PyObject *make_capsule(PyObject *tensor, bool versioned, bool copied)
{
    exported_t *exported = mpy_calloc(1, sizeof(*exported));
    if (exported == NULL) {
        Py_DECREF(tensor);
        return NULL;
    }
    exported->tensor = tensor;
    PyObject *capsule;
    if (versioned) {
        mcs_dl_versioned_t *managed = &exported->managed.versioned;
        managed->version = (mcs_dl_version_t){MCS_DL_MAJOR, MCS_DL_MINOR};
        managed->ctx = exported;
        managed->deleter = delete_versioned;
        managed->flags =
            (mpy_tensor_of(tensor)->readonly ? MCS_DL_FLAG_READ_ONLY : 0) | (copied ? MCS_DL_FLAG_COPIED : 0);
        describe(exported, &managed->tensor);
        capsule = PyCapsule_New(managed, MCS_DL_VERSIONED, drop_versioned);
    } else {
        mcs_dl_managed_t *managed = &exported->managed.legacy;
        managed->ctx = exported;
        managed->deleter = delete_legacy;
        describe(exported, &managed->tensor);
        capsule = PyCapsule_New(managed, MCS_DL_LEGACY, drop_legacy);
    }
    if (capsule == NULL) {
        Py_DECREF(tensor);
        mcs_free(exported);
    }
    return capsule;
}

/* A writable tensor of the same elements. */
static PyObject *copy_of(PyObject *self)
{
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    PyObject *module = mpy_module_of_type(Py_TYPE(self));
    mcs_tensor_header_t header;
    void *memory;
    if (module == NULL || mcs_tensor_full(tensor->dtype, tensor->ndim, tensor->shape, &header) != MCS_OK) {
        return NULL;
    }
    PyObject *owner = mpy_tensor_memory(MCS_TENSOR_HEADER_SIZE + tensor->bytes, &memory);
    if (owner == NULL) {
        return NULL;
    }
    char *data = (char *)memory + MCS_TENSOR_HEADER_SIZE;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    memcpy(data, tensor->data, tensor->bytes);
    mpy_quiet_end(&call);
    PyObject *copy = mpy_tensor_new(mpy_state_of_module(module), &header, data, false, owner);
    Py_DECREF(owner);
    return copy;
}

/* Item 0 or 1 of max_version or dl_device. */
static bool number_of(PyObject *pair, Py_ssize_t at, long *out)
{
    PyObject *item = PySequence_Size(pair) == 2 ? PySequence_GetItem(pair, at) : NULL;
    if (item == NULL) {
        if (PyErr_Occurred() == NULL) {
            PyErr_SetString(PyExc_ValueError, "__dlpack__(): max_version and dl_device have two items");
        }
        return false;
    }
    *out = PyLong_AsLong(item);
    Py_DECREF(item);
    return *out != -1 || PyErr_Occurred() == NULL;
}

static bool is_given(PyObject *argument)
{
    return argument != NULL && argument != Py_None;
}

/* dl_device: this memory's, or nothing. */
static bool check_device(PyObject *device)
{
    long type;
    long id;
    if (!is_given(device)) {
        return true;
    }
    if (!number_of(device, 0, &type) || !number_of(device, 1, &id)) {
        return false;
    }
    if (type != MCS_DL_CPU || id != 0) {
        PyErr_SetString(PyExc_BufferError, "__dlpack__(): the tensor is in host memory: dl_device must be (1, 0)");
        return false;
    }
    return true;
}

PyObject *mpy_tensor_dlpack(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"stream", "max_version", "dl_device", "copy", NULL};
    static const mpy_sig_t sig = {"__dlpack__", 0, params};
    PyObject *given[MPY_PARAMS_MAX];
    long major = 0;
    bool copy = false;
    if (nargs > 0) {
        PyErr_SetString(PyExc_TypeError, "__dlpack__() takes keywords only");
        return NULL;
    }
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || (is_given(given[1]) && !number_of(given[1], 0, &major)) ||
        !check_device(given[2]) || (is_given(given[3]) && !mpy_bool(sig.name, "copy", given[3], &copy))) {
        return NULL;
    }
    if (is_given(given[0])) {
        PyErr_SetString(PyExc_ValueError, "__dlpack__(): host memory has no streams: stream must be None");
        return NULL;
    }
    bool versioned = major >= 1;
    bool unmarked = mpy_tensor_of(self)->readonly && !versioned;
    if (unmarked && is_given(given[3]) && !copy) {
        PyErr_SetString(PyExc_BufferError, "__dlpack__(): a legacy capsule of a read-only tensor needs a copy");
        return NULL;
    }
    bool copied = copy || unmarked;
    PyObject *tensor = copied ? copy_of(self) : Py_NewRef(self);
    return tensor != NULL ? make_capsule(tensor, versioned, copied) : NULL;
}

PyObject *mpy_tensor_dlpack_device(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("(ii)", MCS_DL_CPU, 0);
}
