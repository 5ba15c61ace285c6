/* See tensor_source.h. */
#include "python/src/tensor_source.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "python/src/args.h"
#include "python/src/dlpack_import.h"

void mpy_source_drop(mpy_source_t *source)
{
    Py_CLEAR(source->owner);
}

mpy_take_t mpy_take_refusal(void)
{
    if (PyErr_Occurred() == NULL) {
        return MPY_REFUSED;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return MPY_RAISED;
    }
    PyErr_Clear();
    return MPY_REFUSED;
}

/* The elements of a device's memory in C order, by way of `stretch`. Without the GIL. */
static bool read_in_order(mcs_store_t *store, const mcs_tensor_view_t *view, mcs_tensor_stretches_t *stretches,
                          char *stretch, char *to)
{
    stretches->inner.data = stretch + stretches->lead;
    for (uint64_t i = 0; i < stretches->count; i++) {
        if (mcs_device_read(store, stretch, mcs_tensor_stretch_at(view, stretches, i), stretches->span) != 0) {
            return false;
        }
        mcs_tensor_view_gather(&stretches->inner, to);
        to += stretches->inner.bytes;
    }
    return true;
}

static bool gather_device(mcs_store_t *store, const mcs_tensor_view_t *view, char *to)
{
    mcs_tensor_stretches_t stretches;
    if (store == NULL || mcs_tensor_stretches(view, &stretches) != MCS_OK) {
        return false;
    }
    char *stretch = mcs_aligned_alloc(64, (size_t)stretches.span);
    bool done = stretch != NULL && read_in_order(store, view, &stretches, stretch, to);
    mcs_free(stretch);
    return done;
}

/* The elements in C order in memory of ours. */
static mpy_take_t gather(mcs_store_t *store, const mcs_tensor_view_t *view, mpy_source_t *source)
{
    void *memory;
    bool done = true;
    PyObject *owner = mpy_tensor_memory(MCS_TENSOR_HEADER_SIZE + view->bytes, &memory);
    if (owner == NULL) {
        return MPY_RAISED;
    }
    char *data = (char *)memory + MCS_TENSOR_HEADER_SIZE;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    if (source->on_device) {
        done = gather_device(store, view, data);
    } else {
        mcs_tensor_view_gather(view, data);
    }
    mpy_quiet_end(&call);
    if (!done) {
        Py_DECREF(owner);
        return MPY_REFUSED;
    }
    Py_XDECREF(source->owner);
    source->owner = owner;
    source->data = data;
    source->copied = true;
    source->on_device = false;
    return MPY_TAKEN;
}

mpy_take_t mpy_source_from_view(mcs_store_t *store, const mcs_tensor_view_t *view, bool on_device, PyObject *owner,
                                mpy_source_t *out)
{
    mpy_source_t source = {.dtype = view->dtype,
                           .ndim = view->ndim,
                           .bytes = view->bytes,
                           .data = view->data,
                           .on_device = on_device,
                           .owner = Py_XNewRef(owner)};
    memcpy(source.shape, view->shape, sizeof(source.shape));
    mpy_take_t taken = mcs_tensor_view_contiguous(view) ? MPY_TAKEN : gather(store, view, &source);
    if (taken != MPY_TAKEN) {
        mpy_source_drop(&source);
        return taken;
    }
    *out = source;
    return MPY_TAKEN;
}

/* ---- the buffer protocol ---- */

static bool view_of_buffer(const Py_buffer *buffer, mcs_tensor_view_t *out)
{
    mcs_tensor_view_t view = {.ndim = buffer->ndim, .data = buffer->buf};
    if (buffer->suboffsets != NULL || buffer->itemsize <= 0 || buffer->ndim > MCS_TENSOR_DIMS_MAX ||
        !mcs_dtype_by_format(buffer->format, (uint64_t)buffer->itemsize, &view.dtype)) {
        return false;
    }
    for (int32_t i = 0; i < view.ndim; i++) {
        view.shape[i] = buffer->shape[i];
        view.strides[i] = buffer->strides[i];
    }
    if (mcs_tensor_bytes(view.dtype, view.ndim, view.shape, &view.bytes) != MCS_OK) {
        return false;
    }
    *out = view;
    return true;
}

/* `want`: an element type that the buffer's bits are known to be; MCS_DTYPE_COUNT: the buffer says it. */
static mpy_take_t take_buffer(PyObject *object, mcs_dtype_t want, mpy_source_t *out)
{
    Py_buffer buffer;
    mcs_tensor_view_t view;
    PyObject *owner = PyMemoryView_FromObject(object); /* keeps the export */
    if (owner == NULL || PyObject_GetBuffer(owner, &buffer, PyBUF_FULL_RO) != 0) {
        Py_XDECREF(owner);
        return mpy_take_refusal();
    }
    mpy_take_t taken = MPY_REFUSED;
    if (view_of_buffer(&buffer, &view) &&
        (want == MCS_DTYPE_COUNT || mcs_dtype_row(want)->size == mcs_dtype_row(view.dtype)->size)) {
        view.dtype = want == MCS_DTYPE_COUNT ? view.dtype : want;
        taken = mpy_source_from_view(NULL, &view, false, owner, out);
        if (taken == MPY_TAKEN) {
            out->readonly = buffer.readonly != 0;
        }
    }
    PyBuffer_Release(&buffer);
    Py_DECREF(owner);
    return taken;
}

/* numpy arrays whose element type has a known name but no format: object.view('uint16') has one. */
static mpy_take_t take_bits(PyObject *object, mpy_source_t *out)
{
    mcs_dtype_t dtype;
    PyObject *type = PyObject_GetAttrString(object, "dtype");
    PyObject *text = type != NULL ? PyObject_Str(type) : NULL;
    const char *name = text != NULL ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    bool known = name != NULL && mcs_dtype_by_name(name, &dtype) && mcs_dtype_row(dtype)->format == NULL;
    Py_XDECREF(type);
    Py_XDECREF(text);
    if (!known) {
        return mpy_take_refusal();
    }
    PyObject *bits = PyObject_CallMethod(object, "view", "s", mcs_dtype_row(dtype)->size == 1 ? "uint8" : "uint16");
    mpy_take_t taken = bits != NULL ? take_buffer(bits, dtype, out) : mpy_take_refusal();
    Py_XDECREF(bits);
    return taken;
}

/* ---- all of them ---- */

static bool is_plain_value(PyObject *object)
{
    return object == Py_None || PyUnicode_Check(object) || PyBytes_Check(object) || PyByteArray_Check(object);
}

mpy_take_t mpy_source_take(const char *name, mcs_store_t *store, PyObject *object, mpy_source_t *out)
{
    mpy_take_t taken = MPY_REFUSED;
    if (!is_plain_value(object)) {
        taken = mpy_dlpack_take(store, object, out);
        if (taken == MPY_REFUSED && PyObject_CheckBuffer(object)) {
            taken = take_buffer(object, MCS_DTYPE_COUNT, out);
        }
        if (taken == MPY_REFUSED) {
            taken = take_bits(object, out);
        }
    }
    if (taken == MPY_REFUSED) {
        PyObject *type_name = mpy_type_name(object);
        const char *text = type_name != NULL ? PyUnicode_AsUTF8AndSize(type_name, NULL) : NULL;
        mcs_warn("python", "%s refused: an object of type %s is no tensor of a kind that can be stored: %s", name,
                 text != NULL ? text : "?", mcs_code_name(MCS_INVALID_PARAMS));
        Py_XDECREF(type_name);
        PyErr_Clear();
    }
    return taken;
}

/* The header's bytes, from whichever memory they are in: registered memory may be a device's. */
static bool read_header(mcs_store_t *store, mcs_memprobe_t *probe, const struct iovec *object, void *bytes,
                        bool *on_device_out)
{
    *on_device_out = mcs_is_device_memory(store, object->iov_base) != 0; /* the processor may be able to read it */
    if (*on_device_out) {
        return mcs_device_read(store, bytes, object->iov_base, MCS_TENSOR_HEADER_SIZE) == 0;
    }
    bool there = mcs_memprobe_check(probe, object->iov_base, MCS_TENSOR_HEADER_SIZE, false) == MCS_OK;
    if (there) {
        memcpy(bytes, object->iov_base, MCS_TENSOR_HEADER_SIZE);
    }
    return there;
}

mpy_take_t mpy_source_at(mpy_memory_t *memory, mcs_store_t *store, const char *name, const struct iovec *object,
                         mpy_source_t *out, mcs_tensor_header_t *header_out)
{
    mcs_memprobe_t probe;
    mcs_tensor_header_t header;
    bool on_device = false;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    mcs_memprobe_init(&probe);
    bool usable = object->iov_len >= MCS_TENSOR_HEADER_SIZE &&
                  mpy_memory_usable(memory, store, &probe, object->iov_base, object->iov_len, false) &&
                  read_header(store, &probe, object, &header, &on_device);
    mcs_memprobe_fini(&probe);
    mpy_quiet_end(&call);
    if (!usable || mcs_tensor_parse(&header, object->iov_len, &header) != MCS_OK) {
        mcs_warn("python", "%s refused: there is no tensor of %zu bytes at the address given: %s", name,
                 object->iov_len, mcs_code_name(MCS_INVALID_PARAMS));
        return MPY_REFUSED;
    }
    mpy_source_t source = {.dtype = (mcs_dtype_t)header.dtype,
                           .ndim = header.ndim,
                           .bytes = header.data_bytes,
                           .on_device = on_device,
                           .data = (const char *)object->iov_base + MCS_TENSOR_HEADER_SIZE};
    memcpy(source.shape, header.local_shape, sizeof(source.shape));
    *out = source;
    *header_out = header;
    return MPY_TAKEN;
}
