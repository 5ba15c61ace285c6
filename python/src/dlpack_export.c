/* StoredTensor.__dlpack__: the producer's side of DLPack.
 *
 * Streams: what fills a tensor has been waited for before anybody has the tensor, so no consumer's stream has anything
 * to wait for; the argument is looked at and that is all.
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

void mpy_tensor_describe(PyObject *self, int64_t *shape, int64_t *strides, mcs_dl_tensor_t *out)
{
    const mpy_tensor_t *tensor = mpy_tensor_of(self);
    const mcs_dtype_row_t *row = mcs_dtype_row(tensor->dtype);
    bool on_host = tensor->device == MPY_ON_HOST;
    *out = (mcs_dl_tensor_t){
        .data = tensor->bytes > 0 ? tensor->data : NULL,
        .device_type = on_host ? MCS_DL_CPU : MCS_DL_CUDA,
        .device_id = on_host ? 0 : tensor->device,
        .ndim = tensor->ndim,
        .code = row->dl_code,
        .bits = (uint8_t)(row->size * 8),
        .lanes = 1,
        .shape = shape,
        .strides = strides, /* byte_offset 0: there are consumers that ignore it */
    };
}

static exported_t *export(PyObject *tensor)
{
    exported_t *exported = mpy_calloc(1, sizeof(*exported));
    if (exported != NULL) {
        exported->tensor = Py_NewRef(tensor);
        memcpy(exported->shape, mpy_tensor_of(tensor)->shape, sizeof(exported->shape));
        memcpy(exported->strides, mpy_tensor_of(tensor)->strides, sizeof(exported->strides));
    }
    return exported;
}

mcs_dl_versioned_t *mpy_tensor_managed(PyObject *self, bool copied)
{
    exported_t *exported = mpy_tensor_is_here(self) ? export(self) : NULL;
    if (exported == NULL) {
        return NULL;
    }
    mcs_dl_versioned_t *managed = &exported->managed.versioned;
    managed->version = (mcs_dl_version_t){MCS_DL_MAJOR, MCS_DL_MINOR};
    managed->ctx = exported;
    managed->deleter = delete_versioned;
    managed->flags = (mpy_tensor_of(self)->readonly ? MCS_DL_FLAG_READ_ONLY : 0) | (copied ? MCS_DL_FLAG_COPIED : 0);
    mpy_tensor_describe(self, exported->shape, exported->strides, &managed->tensor);
    return managed;
}

static PyObject *make_versioned(PyObject *tensor, bool copied)
{
    mcs_dl_versioned_t *managed = mpy_tensor_managed(tensor, copied);
    PyObject *capsule = managed != NULL ? PyCapsule_New(managed, MCS_DL_VERSIONED, drop_versioned) : NULL;
    if (managed != NULL && capsule == NULL) {
        delete_versioned(managed);
    }
    return capsule;
}

static PyObject *make_legacy(PyObject *tensor)
{
    exported_t *exported = export(tensor);
    if (exported == NULL) {
        return NULL;
    }
    mcs_dl_managed_t *managed = &exported->managed.legacy;
    managed->ctx = exported;
    managed->deleter = delete_legacy;
    mpy_tensor_describe(tensor, exported->shape, exported->strides, &managed->tensor);
    PyObject *capsule = PyCapsule_New(managed, MCS_DL_LEGACY, drop_legacy);
    if (capsule == NULL) {
        delete_legacy(managed);
    }
    return capsule;
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

/* dl_device: this memory's; the host's for GPU memory, which is a copy. */
static bool take_device(const mpy_tensor_t *tensor, PyObject *device, bool *to_host_out)
{
    long type;
    long id;
    *to_host_out = false;
    if (!is_given(device)) {
        return true;
    }
    if (!number_of(device, 0, &type) || !number_of(device, 1, &id)) {
        return false;
    }
    bool on_host = tensor->device == MPY_ON_HOST;
    *to_host_out = !on_host && type == MCS_DL_CPU && id == 0;
    bool own = on_host ? type == MCS_DL_CPU && id == 0 : type == MCS_DL_CUDA && id == tensor->device;
    if (own || *to_host_out) {
        return true;
    }
    if (on_host) {
        PyErr_SetString(PyExc_BufferError, "__dlpack__(): the tensor is in host memory: dl_device must be (1, 0)");
    } else {
        PyErr_Format(PyExc_BufferError, "__dlpack__(): the tensor is on cuda:%d: dl_device must be (2, %d), or (1, 0)",
                     tensor->device, tensor->device);
    }
    return false;
}

/* CUDA: -1 (no order wanted), 1, 2, or the address of a stream; 0 could mean several things and is none (DLPack). */
static bool check_stream(const mpy_tensor_t *tensor, PyObject *stream)
{
    if (!is_given(stream)) {
        return true;
    }
    if (tensor->device == MPY_ON_HOST) {
        PyErr_SetString(PyExc_ValueError, "__dlpack__(): host memory has no streams: stream must be None");
        return false;
    }
    PyObject *number = PyNumber_Index(stream);
    int overflow = 0;
    long long value = number != NULL ? PyLong_AsLongLongAndOverflow(number, &overflow) : -1;
    Py_XDECREF(number);
    if (number == NULL || (value == -1 && overflow == 0 && PyErr_Occurred() != NULL)) {
        return false;
    }
    if (overflow < 0 || (overflow == 0 && (value == 0 || value < -1))) {
        PyErr_SetString(PyExc_ValueError, "__dlpack__(): stream must be None, -1, 1, 2 or a CUDA stream's address");
        return false;
    }
    return true;
}

/* What a consumer wants. */
typedef struct wanted {
    bool versioned;
    bool to_host; /* from GPU memory */
    bool copy;
    bool no_copy; /* asked for in so many words */
} wanted_t;

static bool take_wanted(const mpy_tensor_t *tensor, PyObject *const *given, wanted_t *out)
{
    wanted_t wanted = {0};
    long major = 0;
    if ((is_given(given[1]) && !number_of(given[1], 0, &major)) || !take_device(tensor, given[2], &wanted.to_host) ||
        (is_given(given[3]) && !mpy_bool("__dlpack__", "copy", given[3], &wanted.copy)) ||
        !check_stream(tensor, given[0])) {
        return false;
    }
    wanted.versioned = major >= 1;
    wanted.no_copy = is_given(given[3]) && !wanted.copy;
    *out = wanted;
    return true;
}

PyObject *mpy_tensor_dlpack(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"stream", "max_version", "dl_device", "copy", NULL};
    static const mpy_sig_t sig = {"__dlpack__", 0, params};
    PyObject *given[MPY_PARAMS_MAX];
    wanted_t wanted;
    if (nargs > 0) {
        PyErr_SetString(PyExc_TypeError, "__dlpack__() takes keywords only");
        return NULL;
    }
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !take_wanted(mpy_tensor_of(self), given, &wanted) ||
        !mpy_tensor_is_here(self)) {
        return NULL;
    }
    bool unmarked = mpy_tensor_of(self)->readonly && !wanted.versioned;
    if (wanted.no_copy && (unmarked || wanted.to_host)) {
        PyErr_SetString(PyExc_BufferError, unmarked
                                               ? "__dlpack__(): a legacy capsule of a read-only tensor needs a copy"
                                               : "__dlpack__(): from GPU to host memory it is a copy");
        return NULL;
    }
    bool copy = wanted.copy || unmarked || wanted.to_host;
    PyObject *tensor = copy ? mpy_tensor_copy(self, wanted.to_host) : Py_NewRef(self);
    if (tensor == NULL) {
        return NULL;
    }
    PyObject *capsule = wanted.versioned ? make_versioned(tensor, copy) : make_legacy(tensor);
    Py_DECREF(tensor);
    return capsule;
}

PyObject *mpy_tensor_dlpack_device(PyObject *self, PyObject *unused)
{
    (void)unused;
    int device = mpy_tensor_of(self)->device;
    return device == MPY_ON_HOST ? Py_BuildValue("(ii)", MCS_DL_CPU, 0) : Py_BuildValue("(ii)", MCS_DL_CUDA, device);
}
