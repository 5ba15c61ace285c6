/* See dlpack_import.h.
 *
 * Streams: the library takes memory on which the caller's earlier work is done, and its copies run on streams of its
 * own. So a producer on a CUDA device is told such a stream, which it makes wait for its work, and then that stream is
 * waited for; of a lent tensor the producer's own stream is. Nothing else on the device is. */
#include "python/src/dlpack_import.h"

#include <string.h>

#include "python/src/args.h"

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

static bool is_cuda(int32_t device_type)
{
    return device_type == MCS_DL_CUDA || device_type == MCS_DL_CUDA_MANAGED;
}

static mpy_take_t use_tensor(mcs_store_t *store, const mcs_dl_tensor_t *tensor, PyObject *owner, mpy_source_t *out)
{
    mcs_tensor_view_t view;
    bool on_cuda = is_cuda(tensor->device_type);
    if ((!mcs_dl_on_host(tensor->device_type) && !on_cuda) || mcs_dl_view(tensor, &view) != MCS_OK) {
        return MPY_REFUSED;
    }
    return mpy_source_from_view(store, &view, on_cuda, owner, out);
}

/* Of a managed tensor that is ours to end: `owner` does. */
static mpy_take_t use_versioned(mcs_store_t *store, const mcs_dl_versioned_t *managed, PyObject *owner,
                                mpy_source_t *out)
{
    if (managed->version.major != MCS_DL_MAJOR) {
        return MPY_REFUSED; /* of another major version only the deleter is known */
    }
    mpy_take_t taken = use_tensor(store, &managed->tensor, owner, out);
    if (taken == MPY_TAKEN) {
        out->readonly = (managed->flags & MCS_DL_FLAG_READ_ONLY) != 0;
    }
    return taken;
}

/* False: it could not be waited for (logged), so that nobody knows what is in the memory. */
static bool wait_for(mcs_store_t *store, int32_t device, uint64_t stream)
{
    mpy_call_t call;
    mpy_quiet_begin(&call);
    int code = mcs_device_wait_stream(store, device, stream);
    mpy_quiet_end(&call);
    return code == 0;
}

/* Takes what is in the capsule: from here on we call its deleter. */
static mpy_take_t consume(mcs_store_t *store, PyObject *capsule, mpy_source_t *out)
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
    mpy_take_t taken = versioned ? use_versioned(store, managed, owner, out)
                                 : use_tensor(store, &((mcs_dl_managed_t *)managed)->tensor, owner, out);
    Py_DECREF(owner);
    return taken;
}

/* __dlpack_device__(), which is also how to know whether a stream is to be given. */
static mpy_take_t device_of(PyObject *object, int32_t *type_out, int32_t *id_out)
{
    PyObject *pair = PyObject_CallMethod(object, "__dlpack_device__", NULL);
    bool is_pair = pair != NULL && PyTuple_Check(pair) && PyTuple_Size(pair) == 2;
    PyObject *type = is_pair ? PyNumber_Index(PyTuple_GetItem(pair, 0)) : NULL; /* torch gives an enum of ints */
    PyObject *id = type != NULL ? PyNumber_Index(PyTuple_GetItem(pair, 1)) : NULL;
    bool numbers = id != NULL && mpy_i32("__dlpack_device__", "type", type, type_out) &&
                   mpy_i32("__dlpack_device__", "id", id, id_out);
    Py_XDECREF(type);
    Py_XDECREF(id);
    Py_XDECREF(pair);
    return numbers ? MPY_TAKEN : mpy_take_refusal();
}

/* object.__dlpack__(max_version=(1, 3)), and the stream for a device. Producers from before 1.0 know no max_version. */
static PyObject *ask_capsule(PyObject *method, const uint64_t *stream)
{
    PyObject *none = PyTuple_New(0);
    PyObject *kwargs = Py_BuildValue("{s(ii)}", "max_version", MCS_DL_MAJOR, MCS_DL_MINOR);
    PyObject *number = stream != NULL ? PyLong_FromUnsignedLongLong(*stream) : NULL;
    PyObject *capsule = NULL;
    bool ready = none != NULL && kwargs != NULL &&
                 (stream == NULL || (number != NULL && PyDict_SetItemString(kwargs, "stream", number) == 0));
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
    Py_XDECREF(number);
    return capsule;
}

/* The stream is the library's; where it has none (no driver that it can use) the legacy default stream is as good: the
 * put will be refused. */
static mpy_take_t take_from_device(mcs_store_t *store, PyObject *method, int32_t device, mpy_source_t *out)
{
    uint64_t stream = 1;
    bool ordered = mcs_device_order_stream(store, device, &stream) == 0;
    PyObject *capsule = ask_capsule(method, &stream);
    mpy_take_t taken = capsule != NULL ? MPY_TAKEN : mpy_take_refusal();
    if (taken == MPY_TAKEN && ordered && !wait_for(store, device, stream)) {
        taken = MPY_REFUSED;
    }
    if (taken == MPY_TAKEN) {
        taken = consume(store, capsule, out);
    }
    Py_XDECREF(capsule);
    return taken;
}

static mpy_take_t take_capsule(mcs_store_t *store, PyObject *object, mpy_source_t *out)
{
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (method == NULL) {
        return mpy_take_refusal();
    }
    int32_t type = 0;
    int32_t id = 0;
    mpy_take_t taken = device_of(object, &type, &id);
    if (taken == MPY_TAKEN && is_cuda(type)) {
        taken = take_from_device(store, method, id, out);
    } else if (taken == MPY_TAKEN && mcs_dl_on_host(type)) {
        PyObject *capsule = ask_capsule(method, NULL);
        taken = capsule != NULL ? consume(store, capsule, out) : mpy_take_refusal();
        Py_XDECREF(capsule);
    } else if (taken == MPY_TAKEN) {
        taken = MPY_REFUSED; /* ROCm and others: their streams and addresses are not CUDA's */
    }
    Py_DECREF(method);
    return taken;
}

/* ---- the exchange table ---- */

/* The table of our major version, or NULL. */
static const mcs_dl_exchange_t *exchange_of(PyObject *object)
{
    PyObject *capsule = PyObject_GetAttrString((PyObject *)Py_TYPE(object), MCS_DL_EXCHANGE_ATTRIBUTE);
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

/* What the producer queued on the tensor's device is done. Tables do not wait by themselves. */
static mpy_take_t wait_for_producer(mcs_store_t *store, const mcs_dl_exchange_t *table, const mcs_dl_tensor_t *tensor)
{
    void *stream = NULL;
    if (mcs_dl_on_host(tensor->device_type)) {
        return MPY_TAKEN;
    }
    if (!is_cuda(tensor->device_type) || table->current_stream == NULL) {
        return MPY_REFUSED;
    }
    if (table->current_stream(tensor->device_type, tensor->device_id, &stream) != 0) {
        return mpy_take_refusal();
    }
    return wait_for(store, tensor->device_id, (uint64_t)(uintptr_t)stream) ? MPY_TAKEN : MPY_REFUSED;
}

/* Lent until we return; `object` is held by the source. `gatherer`: puts a device's elements in order; NULL: they are
 * refused. */
static mpy_take_t take_lent(mcs_store_t *store, mcs_store_t *gatherer, PyObject *object, const mcs_dl_exchange_t *table,
                            mpy_source_t *out)
{
    mcs_dl_tensor_t tensor;
    if (table->borrow_from_object == NULL) {
        return MPY_REFUSED;
    }
    if (table->borrow_from_object(object, &tensor) != 0) {
        return mpy_take_refusal();
    }
    mpy_take_t taken = wait_for_producer(store, table, &tensor);
    return taken == MPY_TAKEN ? use_tensor(gatherer, &tensor, object, out) : taken;
}

/* Ours to end. What a table cannot lend it may give: it says more (flags). */
static mpy_take_t take_managed(mcs_store_t *store, mcs_store_t *gatherer, PyObject *object,
                               const mcs_dl_exchange_t *table, mpy_source_t *out)
{
    mcs_dl_versioned_t *managed = NULL;
    if (table->managed_from_object == NULL) {
        return MPY_REFUSED;
    }
    if (table->managed_from_object(object, &managed) != 0 || managed == NULL) {
        return mpy_take_refusal();
    }
    PyObject *owner = PyCapsule_New(managed, owner_versioned_name, end_versioned);
    if (owner == NULL) {
        if (managed->deleter != NULL) {
            managed->deleter(managed);
        }
        return MPY_RAISED;
    }
    mpy_take_t taken =
        managed->version.major == MCS_DL_MAJOR ? wait_for_producer(store, table, &managed->tensor) : MPY_REFUSED;
    if (taken == MPY_TAKEN) {
        taken = use_versioned(gatherer, managed, owner, out);
    }
    Py_DECREF(owner);
    return taken;
}

static mpy_take_t take_by_table(mcs_store_t *store, mcs_store_t *gatherer, PyObject *object, mpy_source_t *out)
{
    const mcs_dl_exchange_t *table = exchange_of(object);
    if (table == NULL) {
        return MPY_REFUSED;
    }
    mpy_take_t taken = take_lent(store, gatherer, object, table, out);
    return taken == MPY_REFUSED ? take_managed(store, gatherer, object, table, out) : taken;
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
    PyObject *type_name = mpy_type_name(object);
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

bool mpy_torch_wait(PyObject *tensor)
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
    return (host || cuda) && PyErr_Occurred() == NULL && (!cuda || mpy_torch_wait(tensor));
}

static bool memory_is_there(const mcs_tensor_view_t *view)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    bool there = view->bytes == 0 || mcs_memprobe_check(&probe, view->data, view->bytes, false) == MCS_OK;
    mcs_memprobe_fini(&probe);
    return there;
}

static mpy_take_t take_torch(mcs_store_t *store, PyObject *object, bool genuine, mpy_source_t *out)
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
        taken = mpy_source_from_view(store, &view, on_device, tensor, out);
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

mpy_take_t mpy_dlpack_take(mcs_store_t *store, PyObject *object, mpy_source_t *out)
{
    bool genuine = false;
    int torch = is_torch(object, &genuine);
    PyObject *subject = torch == 1 && genuine ? resolved(object) : torch >= 0 ? Py_NewRef(object) : NULL;
    if (subject == NULL) {
        return mpy_take_refusal();
    }
    /* torch puts the elements of a device in order on that device. */
    mpy_take_t taken = take_by_table(store, torch == 1 ? NULL : store, subject, out);
    if (taken == MPY_REFUSED && torch == 1) {
        taken = take_torch(store, subject, genuine, out);
    }
    if (taken == MPY_REFUSED) {
        taken = take_capsule(store, subject, out);
    }
    Py_DECREF(subject);
    return taken;
}
