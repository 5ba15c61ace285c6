/* See dlpack_import.h.
 *
 * Streams: the raw-pointer calls of the library take memory on which the caller's earlier work is done. So a producer
 * on a CUDA device is asked for the legacy default stream (1), which orders its work before ours; and torch, which can
 * be asked for more, is waited for. */
#include "python/src/dlpack_import.h"

#include <string.h>

/* ---- capsules ---- */

static const char owner_legacy_name[] = "mooncake.store.dltensor";
static const char owner_versioned_name[] = "mooncake.store.dltensor_versioned";

static void end_legacy(PyObject *capsule)
{
    mcs_dl_managed_t *managed = PyCapsule_GetPointer(capsule, owner_legacy_name);
    if (managed->deleter != NULL) {
        managed->deleter(managed);
    }
}

static void end_versioned(PyObject *capsule)
{
    mcs_dl_versioned_t *managed = PyCapsule_GetPointer(capsule, owner_versioned_name);
    if (managed->deleter != NULL) {
        managed->deleter(managed);
    }
}

static mpy_take_t use_tensor(const mcs_dl_tensor_t *tensor, PyObject *owner, mpy_source_t *out)
{
    mcs_tensor_view_t view;
    bool on_host = mcs_dl_on_host(tensor->device_type);
    bool on_cuda = tensor->device_type == MCS_DL_CUDA || tensor->device_type == MCS_DL_CUDA_MANAGED;
    if ((!on_host && !on_cuda) || mcs_dl_view(tensor, &view) != MCS_OK) {
        return MPY_REFUSED;
    }
    return mpy_source_from_view(&view, on_cuda, owner, out);
}

/* Takes what is in the capsule: from here on we call its deleter. */
static mpy_take_t consume(PyObject *capsule, mpy_source_t *out)
{
    bool versioned = PyCapsule_IsValid(capsule, MCS_DL_VERSIONED);
    if (!versioned && !PyCapsule_IsValid(capsule, MCS_DL_LEGACY)) {
        return MPY_REFUSED;
    }
    void *managed = PyCapsule_GetPointer(capsule, versioned ? MCS_DL_VERSIONED : MCS_DL_LEGACY);
    PyObject *owner = PyCapsule_New(managed, versioned ? owner_versioned_name : owner_legacy_name, NULL);
    if (owner == NULL) {
        return MPY_RAISED; /* the capsule still has it */
    }
    if (PyCapsule_SetName(capsule, versioned ? MCS_DL_VERSIONED_USED : MCS_DL_LEGACY_USED) != 0 ||
        PyCapsule_SetDestructor(owner, versioned ? end_versioned : end_legacy) != 0) {
        Py_DECREF(owner);
        return mpy_take_refusal();
    }
    mpy_take_t taken = MPY_REFUSED;
    if (!versioned) {
        taken = use_tensor(&((mcs_dl_managed_t *)managed)->tensor, owner, out);
    } else if (((mcs_dl_versioned_t *)managed)->version.major == MCS_DL_MAJOR) {
        taken = use_tensor(&((mcs_dl_versioned_t *)managed)->tensor, owner, out);
        if (taken == MPY_TAKEN) {
            out->readonly = (((mcs_dl_versioned_t *)managed)->flags & MCS_DL_FLAG_READ_ONLY) != 0;
        }
    } /* of another major version only the deleter is known */
    Py_DECREF(owner);
    return taken;
}

/* The device type by __dlpack_device__(), which is also how to know whether a stream is to be given. */
static mpy_take_t device_of(PyObject *object, long *type_out)
{
    PyObject *pair = PyObject_CallMethod(object, "__dlpack_device__", NULL);
    PyObject *type = pair != NULL && PyTuple_Check(pair) && PyTuple_Size(pair) == 2 ? PyTuple_GetItem(pair, 0) : NULL;
    PyObject *number = type != NULL ? PyNumber_Index(type) : NULL; /* torch gives an enum of ints */
    *type_out = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    Py_XDECREF(pair);
    return *type_out >= 0 ? MPY_TAKEN : mpy_take_refusal();
}

/* object.__dlpack__(max_version=(1, 3)), and stream=1 for a device. Producers from before 1.0 know no max_version. */
static PyObject *ask_capsule(PyObject *method, bool on_host)
{
    PyObject *none = PyTuple_New(0);
    PyObject *kwargs = Py_BuildValue("{s(ii)}", "max_version", MCS_DL_MAJOR, MCS_DL_MINOR);
    PyObject *stream = on_host ? NULL : PyLong_FromLong(1);
    PyObject *capsule = NULL;
    bool ready = none != NULL && kwargs != NULL && (on_host || stream != NULL) &&
                 (stream == NULL || PyDict_SetItemString(kwargs, "stream", stream) == 0);
    if (ready) {
        capsule = PyObject_Call(method, none, kwargs);
    }
    if (ready && capsule == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        if (PyDict_DelItemString(kwargs, "max_version") == 0) {
            capsule = PyObject_Call(method, none, kwargs);
        }
    }
    Py_XDECREF(none);
    Py_XDECREF(kwargs);
    Py_XDECREF(stream);
    return capsule;
}

static mpy_take_t take_capsule(PyObject *object, mpy_source_t *out)
{
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (method == NULL) {
        return mpy_take_refusal();
    }
    long device;
    mpy_take_t taken = device_of(object, &device);
    if (taken == MPY_TAKEN) {
        PyObject *capsule = ask_capsule(method, mcs_dl_on_host((int32_t)device));
        taken = capsule != NULL ? consume(capsule, out) : mpy_take_refusal();
        Py_XDECREF(capsule);
    }
    Py_DECREF(method);
    return taken;
}

/* ---- the exchange table ---- */

/* The table of our major version, or NULL. */
static const mcs_dl_exchange_t *exchange_of(PyObject *object)
{
    PyObject *capsule = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__dlpack_c_exchange_api__");
    if (capsule == NULL) {
        PyErr_Clear();
        return NULL;
    }
    const mcs_dl_exchange_t *table =
        PyCapsule_IsValid(capsule, MCS_DL_EXCHANGE) ? PyCapsule_GetPointer(capsule, MCS_DL_EXCHANGE) : NULL;
    Py_DECREF(capsule); /* the type has another reference, and tables live as long as their library */
    while (table != NULL && table->version.major != MCS_DL_MAJOR) {
        table = table->older;
    }
    return table;
}

/* Borrowed until we return; `object` is held by the source. Of a device nothing is known about the order of work on it:
 * that needs a capsule. */
static mpy_take_t take_borrowed(PyObject *object, mpy_source_t *out)
{
    mcs_dl_tensor_t tensor;
    const mcs_dl_exchange_t *table = exchange_of(object);
    if (table == NULL || table->borrow_from_object == NULL) {
        return MPY_REFUSED;
    }
    if (table->borrow_from_object(object, &tensor) != 0) {
        return mpy_take_refusal();
    }
    return mcs_dl_on_host(tensor.device_type) ? use_tensor(&tensor, object, out) : MPY_REFUSED;
}

/* ---- torch ---- */

/* 1 yes, 0 no, -1 an exception. An object of a class called ...Tensor with an address is taken for one, too. */
static int is_torch(PyObject *object, bool *genuine_out)
{
    PyObject *modules = PyImport_GetModuleDict();
    PyObject *torch = modules != NULL ? PyDict_GetItemString(modules, "torch") : NULL;
    PyObject *type = torch != NULL ? PyObject_GetAttrString(torch, "Tensor") : NULL;
    if (type == NULL) {
        PyErr_Clear();
    }
    int answer = type != NULL ? PyObject_IsInstance(object, type) : 0;
    Py_XDECREF(type);
    *genuine_out = answer == 1;
    if (answer != 0) {
        return answer;
    }
    PyObject *type_name = PyType_GetName(Py_TYPE(object));
    const char *text = type_name != NULL ? PyUnicode_AsUTF8AndSize(type_name, NULL) : NULL;
    answer = text == NULL ? -1 : strstr(text, "Tensor") != NULL;
    Py_XDECREF(type_name);
    if (answer == 1) {
        PyObject *address = PyObject_GetAttrString(object, "data_ptr");
        answer = address != NULL;
        Py_XDECREF(address);
        PyErr_Clear();
    }
    return answer;
}

/* str(object.name), without what comes before the last dot; compares equal to `want`. */
static bool attribute_says(PyObject *object, const char *name, const char *want)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *chars = text != NULL ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    bool same = chars != NULL && strcmp(chars, want) == 0;
    Py_XDECREF(value);
    Py_XDECREF(text);
    return same;
}

static bool torch_dtype_of(PyObject *tensor, mcs_dtype_t *out)
{
    PyObject *value = PyObject_GetAttrString(tensor, "dtype");
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *name = text != NULL ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    const char *dot = name != NULL ? strrchr(name, '.') : NULL;
    bool known = name != NULL && mcs_dtype_by_name(dot != NULL ? dot + 1 : name, out);
    Py_XDECREF(value);
    Py_XDECREF(text);
    return known;
}

static bool torch_shape_of(PyObject *tensor, mcs_tensor_view_t *view)
{
    PyObject *value = PyObject_GetAttrString(tensor, "shape");
    PyObject *shape = value != NULL ? PySequence_Tuple(value) : NULL;
    Py_XDECREF(value);
    Py_ssize_t ndim = shape != NULL ? PyTuple_Size(shape) : -1;
    bool fits = ndim >= 0 && ndim <= MCS_TENSOR_DIMS_MAX;
    for (Py_ssize_t i = 0; fits && i < ndim; i++) {
        view->shape[i] = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
        fits = PyErr_Occurred() == NULL;
    }
    Py_XDECREF(shape);
    view->ndim = fits ? (int32_t)ndim : 0;
    return fits && mcs_tensor_bytes(view->dtype, view->ndim, view->shape, &view->bytes) == MCS_OK;
}

static bool torch_address_of(PyObject *tensor, mcs_tensor_view_t *view)
{
    PyObject *number = PyObject_CallMethod(tensor, "data_ptr", NULL);
    view->data = number != NULL ? PyLong_AsVoidPtr(number) : NULL;
    Py_XDECREF(number);
    return PyErr_Occurred() == NULL && (view->data != NULL || view->bytes == 0);
}

/* Earlier work on the tensor's device is done when this returns. */
static bool torch_wait(PyObject *tensor)
{
    PyObject *modules = PyImport_GetModuleDict();
    PyObject *torch = modules != NULL ? PyDict_GetItemString(modules, "torch") : NULL;
    PyObject *cuda = torch != NULL ? PyObject_GetAttrString(torch, "cuda") : NULL;
    PyObject *device = cuda != NULL ? PyObject_GetAttrString(tensor, "device") : NULL;
    PyObject *stream = device != NULL ? PyObject_CallMethod(cuda, "current_stream", "(O)", device) : NULL;
    PyObject *done = stream != NULL ? PyObject_CallMethod(stream, "synchronize", NULL) : NULL;
    bool waited = done != NULL;
    Py_XDECREF(cuda);
    Py_XDECREF(device);
    Py_XDECREF(stream);
    Py_XDECREF(done);
    return waited;
}

/* "cpu" or "cuda", by tensor.device.type. */
static bool torch_device_of(PyObject *tensor, bool *on_device_out)
{
    PyObject *device = PyObject_GetAttrString(tensor, "device");
    bool host = device == NULL || attribute_says(device, "type", "cpu");
    bool cuda = device != NULL && !host && attribute_says(device, "type", "cuda");
    Py_XDECREF(device);
    *on_device_out = cuda;
    return (host || cuda) && PyErr_Occurred() == NULL && (!cuda || torch_wait(tensor));
}

static bool memory_is_there(const mcs_tensor_view_t *view)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    bool there = view->bytes == 0 || mcs_memprobe_check(&probe, view->data, view->bytes, false) == MCS_OK;
    mcs_memprobe_fini(&probe);
    return there;
}

static mpy_take_t take_torch(PyObject *object, bool genuine, mpy_source_t *out)
{
    PyObject *layout = PyObject_GetAttrString(object, "layout");
    bool strided = layout == NULL || attribute_says(object, "layout", "torch.strided");
    PyErr_Clear();
    Py_XDECREF(layout);
    PyObject *tensor = strided ? PyObject_CallMethod(object, "contiguous", NULL) : NULL;
    if (tensor == NULL) {
        return mpy_take_refusal();
    }
    mcs_tensor_view_t view = {0};
    bool on_device = false;
    mpy_take_t taken = MPY_REFUSED;
    if (torch_dtype_of(tensor, &view.dtype) && torch_shape_of(tensor, &view) && torch_device_of(tensor, &on_device) &&
        torch_address_of(tensor, &view) && (genuine || on_device || memory_is_there(&view))) {
        int64_t stride = mcs_dtype_row(view.dtype)->size;
        for (int32_t i = view.ndim - 1; i >= 0; i--) {
            view.strides[i] = stride;
            stride *= view.bytes > 0 ? view.shape[i] : 1;
        }
        taken = mpy_source_from_view(&view, on_device, tensor, out);
        if (taken == MPY_TAKEN) {
            out->copied = tensor != object; /* contiguous() gives back what is */
        }
    }
    Py_DECREF(tensor);
    return taken == MPY_REFUSED ? mpy_take_refusal() : taken;
}

/* A torch view whose elements are the negatives of what lies in memory (the imaginary part of a conjugate): its method
 * gives one that is as it says. Takes nothing over; a new reference. */
static PyObject *resolved(PyObject *object)
{
    PyObject *answer = PyObject_CallMethod(object, "is_neg", NULL);
    int negative = answer != NULL ? PyObject_IsTrue(answer) : 0;
    Py_XDECREF(answer);
    if (negative == 1) {
        return PyObject_CallMethod(object, "resolve_neg", NULL);
    }
    PyErr_Clear();
    return Py_NewRef(object);
}

mpy_take_t mpy_dlpack_take(PyObject *object, mpy_source_t *out)
{
    bool genuine = false;
    int torch = is_torch(object, &genuine);
    PyObject *subject = torch == 1 && genuine ? resolved(object) : torch >= 0 ? Py_NewRef(object) : NULL;
    if (subject == NULL) {
        return mpy_take_refusal();
    }
    mpy_take_t taken = take_borrowed(subject, out);
    if (taken == MPY_REFUSED && torch == 1) {
        taken = take_torch(subject, genuine, out);
    }
    if (taken == MPY_REFUSED) {
        taken = take_capsule(subject, out);
    }
    Py_DECREF(subject);
    return taken;
}
