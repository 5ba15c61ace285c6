/* See tensor_device.h. */
#include "python/src/tensor_device.h"

#include <string.h>

#include "core/base/log.h"
#include "python/src/dlpack_import.h"

/* Each time somebody replaced the value between the look at its header and the read. */
#define DEVICE_RETRIES 4

#define NO_SPACE      (-200)
#define NOT_SUPPORTED (-1012)

PyObject *mpy_tensor_answer(mpy_state_t *state, PyObject *tensor)
{
    return tensor != NULL ? mpy_tensor_result(state, tensor) : Py_NewRef(Py_None);
}

/* "cuda:<id>" of DLPack's pair, NULL without an exception for host memory, or with one. */
static PyObject *text_of_pair(PyObject *pair, bool *fits_out)
{
    PyObject *type = PyTuple_GetItem(pair, 0);
    PyObject *id = type != NULL ? PyTuple_GetItem(pair, 1) : NULL;
    int32_t numbers[2] = {-1, -1};
    if (id == NULL || !mpy_i32("device", "type", type, &numbers[0]) || !mpy_i32("device", "id", id, &numbers[1])) {
        PyErr_Clear();
        return NULL;
    }
    *fits_out = numbers[1] >= 0 && (numbers[0] == MCS_DL_CUDA || (mcs_dl_on_host(numbers[0]) && numbers[1] == 0));
    return numbers[0] == MCS_DL_CUDA ? PyUnicode_FromFormat("cuda:%d", numbers[1]) : NULL;
}

static bool is_cuda_name(const char *text)
{
    if (strncmp(text, "cuda", 4) != 0) {
        return false;
    }
    size_t digits = text[4] == ':' ? strspn(text + 5, "0123456789") : 0;
    return text[4] == '\0' || (digits > 0 && digits < 5 && text[5 + digits] == '\0');
}

bool mpy_device_take(const char *name, PyObject *device, PyObject **cuda_out)
{
    *cuda_out = NULL;
    if (device == NULL || device == Py_None) {
        return true;
    }
    bool fits = false;
    PyObject *text;
    if (PyTuple_Check(device)) {
        text = text_of_pair(device, &fits);
    } else {
        text = PyObject_Str(device); /* str(torch.device("cuda:1")) is "cuda:1" */
        const char *chars = text != NULL ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
        bool host = chars != NULL && (strcmp(chars, "cpu") == 0 || strcmp(chars, "cpu:0") == 0);
        fits = chars != NULL && (host || is_cuda_name(chars));
        if (host) {
            Py_CLEAR(text);
        }
    }
    if (!fits) {
        Py_XDECREF(text);
        if (PyErr_Occurred() == NULL) {
            PyErr_Format(PyExc_ValueError, "%s(): argument 'device' must be 'cpu', 'cuda' or 'cuda:N', not %R", name,
                         device);
        }
        return false;
    }
    *cuda_out = text;
    return PyErr_Occurred() == NULL;
}

int mpy_device_ordinal(PyObject *cuda)
{
    const char *text = PyUnicode_AsUTF8AndSize(cuda, NULL);
    int32_t ordinal = 0; /* "cuda" is the first */
    for (size_t i = 5; text != NULL && strlen(text) > 5 && text[i] != '\0'; i++) {
        ordinal = ordinal * 10 + (text[i] - '0');
    }
    return ordinal;
}

/* torch.empty(shape, dtype=..., device=...). torch gives memory in the order of its current stream: what was queued
 * there may still use what the memory was before, so it is waited for. */
static PyObject *new_on_device(PyObject *torch, const mcs_tensor_header_t *header, PyObject *cuda)
{
    PyObject *dtype = mpy_torch_dtype(torch, (mcs_dtype_t)header->dtype);
    PyObject *shape = dtype != NULL ? PyTuple_New(header->ndim) : NULL;
    for (int32_t i = 0; shape != NULL && i < header->ndim; i++) {
        PyObject *extent = PyLong_FromLongLong(header->local_shape[i]);
        if (extent == NULL || PyTuple_SetItem(shape, i, extent) != 0) {
            Py_CLEAR(shape);
        }
    }
    PyObject *make = shape != NULL ? PyObject_GetAttrString(torch, "empty") : NULL;
    PyObject *args = make != NULL ? PyTuple_Pack(1, shape) : NULL;
    PyObject *kwargs = args != NULL ? Py_BuildValue("{sOsO}", "dtype", dtype, "device", cuda) : NULL;
    PyObject *tensor = kwargs != NULL ? PyObject_Call(make, args, kwargs) : NULL;
    if (tensor != NULL && !mpy_torch_wait(tensor)) {
        Py_CLEAR(tensor);
    }
    Py_XDECREF(dtype);
    Py_XDECREF(shape);
    Py_XDECREF(make);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return tensor;
}

/* *code_out: 0 when the elements of `header` are at `address`; MCS_INVALID_PARAMS also when the library does not take
 * the address. False: an exception. */
static bool read_to(mpy_store_t *self, mcs_bytes_t key, const mcs_tensor_header_t *header, void *address,
                    int64_t *code_out)
{
    mcs_tensor_header_t found = {0};
    struct iovec pieces[] = {{&found, sizeof(found)}, {address, header->data_bytes}};
    mcs_value_t value = {.iov = pieces, .iov_count = 2};
    mcs_memprobe_t probe;
    mpy_call_t call;
    int64_t code = MCS_INVALID_PARAMS;
    mpy_call_begin(&call);
    mcs_memprobe_init(&probe);
    if (mpy_memory_usable(self->memory, self->store, &probe, address, header->data_bytes, true)) {
        mcs_get_into(self->store, &key, &value, 1, &code);
    }
    mcs_memprobe_fini(&probe);
    bool whole = code >= 0 && memcmp(&found, header, sizeof(found)) == 0;
    *code_out = whole ? 0 : code >= 0 ? MCS_INVALID_PARAMS : code;
    return mpy_call_end(&call);
}

/* *tensor_out: NULL when it did not come so: by way of host memory, then. False: an exception. */
static bool fetch_direct(mpy_store_t *self, PyObject *torch, mcs_bytes_t key, PyObject *cuda, PyObject **tensor_out)
{
    *tensor_out = NULL;
    for (int again = 0; again < DEVICE_RETRIES; again++) {
        mpy_header_t found;
        if (!mpy_headers_read(self, &key, 1, &found)) {
            return false;
        }
        if (found.code != 0 || found.header.data_bytes == 0) {
            return true;
        }
        PyObject *tensor = new_on_device(torch, &found.header, cuda);
        PyObject *number = tensor != NULL ? PyObject_CallMethod(tensor, "data_ptr", NULL) : NULL;
        void *address = number != NULL ? PyLong_AsVoidPtr(number) : NULL;
        Py_XDECREF(number);
        int64_t code;
        if (PyErr_Occurred() != NULL || !read_to(self, key, &found.header, address, &code)) {
            Py_XDECREF(tensor);
            return false;
        }
        if (code == 0) {
            *tensor_out = tensor;
            return true;
        }
        Py_DECREF(tensor);
    }
    return true;
}

/* ---- without torch ---- */

/* New memory of the device for the elements. NULL: an exception that says why there is none. */
static PyObject *new_stored(mpy_store_t *self, const char *name, const mcs_tensor_header_t *header, int device)
{
    mcs_device_memory_t *memory = NULL;
    if (header->data_bytes == 0) {
        return mpy_tensor_new_on(mpy_store_state(self), header, NULL, device, NULL);
    }
    mpy_call_t call;
    mpy_quiet_begin(&call);
    int code = mcs_device_memory_alloc(self->store, device, header->data_bytes, &memory);
    mpy_quiet_end(&call);
    if (code != 0) {
        const char *why = code == NO_SPACE        ? "the device has not that much memory"
                          : code == NOT_SUPPORTED ? "there is no CUDA driver"
                                                  : "no such device, or the store does not use GPUs";
        return PyErr_Format(code == NO_SPACE ? PyExc_MemoryError : PyExc_RuntimeError,
                            "%s(): no memory of %llu bytes on cuda:%d: %s (%s)", name,
                            (unsigned long long)header->data_bytes, device, why, mcs_code_name(code));
    }
    PyObject *owner = mpy_device_owner(memory);
    PyObject *tensor =
        owner != NULL ? mpy_tensor_new_on(mpy_store_state(self), header, mcs_device_memory_ptr(memory), device, owner)
                      : NULL;
    Py_XDECREF(owner);
    return tensor;
}

PyObject *mpy_device_fetch_stored(mpy_store_t *self, const char *name, mcs_bytes_t key, int device)
{
    for (int again = 0; again < DEVICE_RETRIES; again++) {
        mpy_header_t found;
        if (!mpy_headers_read(self, &key, 1, &found)) {
            return NULL;
        }
        if (found.code != 0) {
            break;
        }
        PyObject *tensor = new_stored(self, name, &found.header, device);
        int64_t code = 0;
        if (tensor == NULL ||
            (found.header.data_bytes > 0 && !read_to(self, key, &found.header, mpy_tensor_of(tensor)->data, &code))) {
            Py_XDECREF(tensor);
            return NULL;
        }
        if (code == 0) {
            return tensor;
        }
        Py_DECREF(tensor);
    }
    return Py_NewRef(Py_None);
}

/* ---- with torch ---- */

PyObject *mpy_device_fetch(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *cuda)
{
    mpy_state_t *state = mpy_store_state(self);
    PyObject *torch = mpy_torch(state);
    PyObject *tensor = NULL;
    if (torch == NULL) {
        return PyErr_Occurred() == NULL ? mpy_device_fetch_stored(self, name, key, mpy_device_ordinal(cuda)) : NULL;
    }
    bool ok = fetch_direct(self, torch, key, cuda, &tensor);
    Py_DECREF(torch);
    if (!ok || tensor != NULL) {
        return tensor;
    }
    mcs_tensor_header_t header;
    if (!mpy_tensors_fetch(self, &key, 1, &header, &tensor, NULL)) {
        return NULL;
    }
    PyObject *on_host = mpy_tensor_answer(state, tensor);
    if (on_host == NULL || on_host == Py_None) {
        return on_host;
    }
    PyObject *moved = PyObject_CallMethod(on_host, "to", "(O)", cuda);
    Py_DECREF(on_host);
    return moved;
}
