/* See values.h. */
#include "python/src/values.h"
#include "python/src/args.h"

#include <string.h>

#include "core/base/alloc.h"

/* True when a struct format has Python references in it. Field names stand between colons and may have any letter. */
static bool has_references(const char *format)
{
    bool in_name = false;
    for (const char *p = format; p != NULL && *p != '\0'; p++) {
        if (*p == ':') {
            in_name = !in_name;
        } else if (*p == 'O' && !in_name) {
            return true;
        }
    }
    return false;
}

/* Points `bytes` at the view's memory, or at a contiguous copy. */
static bool use_view(mpy_value_t *value)
{
    size_t len = (size_t)value->view.len;
    if (PyBuffer_IsContiguous(&value->view, 'C')) {
        value->bytes = (struct iovec){.iov_base = value->view.buf, .iov_len = len};
        return true;
    }
    value->copy = mpy_calloc(len, 1);
    if (value->copy == NULL || PyBuffer_ToContiguous(value->copy, &value->view, value->view.len, 'C') != 0) {
        return false;
    }
    value->bytes = (struct iovec){.iov_base = value->copy, .iov_len = len};
    return true;
}

bool mpy_value_take(const char *name, const char *param, PyObject *object, mpy_value_t *out)
{
    mpy_value_t value = {0};
    if (PyBytes_Check(object)) {
        char *text = NULL;
        Py_ssize_t len = 0;
        if (PyBytes_AsStringAndSize(object, &text, &len) != 0) {
            return false;
        }
        value.bytes = (struct iovec){.iov_base = text, .iov_len = (size_t)len};
        value.ref = Py_NewRef(object);
        *out = value;
        return true;
    }
    if (!PyObject_CheckBuffer(object)) {
        return mpy_wrong_type(name, param, "bytes or an object with the buffer protocol", object);
    }
    if (PyObject_GetBuffer(object, &value.view, PyBUF_FULL_RO) != 0) {
        return false;
    }
    value.has_view = true;
    bool ok = !has_references(value.view.format);
    if (!ok) {
        PyErr_Format(PyExc_TypeError, "%s(): argument '%s' is a buffer of Python objects, which cannot be stored", name,
                     param);
    }
    if (!ok || !use_view(&value)) {
        mpy_value_drop(&value);
        return false;
    }
    *out = value;
    return true;
}

bool mpy_value_take_part(const char *name, PyObject *object, mpy_value_t *out)
{
    mpy_value_t value;
    if (!mpy_value_take(name, "parts", object, &value)) {
        return false;
    }
    if (value.has_view && (value.view.ndim != 1 || value.view.itemsize != 1)) {
        PyErr_SetString(PyExc_RuntimeError, "parts must be 1-D bytes-like");
        mpy_value_drop(&value);
        return false;
    }
    *out = value;
    return true;
}

void mpy_value_drop(mpy_value_t *value)
{
    if (value->has_view) {
        PyBuffer_Release(&value->view);
    }
    mcs_free(value->copy);
    Py_CLEAR(value->ref);
    *value = (mpy_value_t){0};
}
