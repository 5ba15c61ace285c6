/* See tensor_functions.h. */
#include "python/src/tensor_functions.h"

#include <string.h>

#include "python/src/tensor_source.h"
#include "python/src/values.h"

PyObject *mpy_tensor_metadata_size(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(MCS_TENSOR_HEADER_SIZE);
}

PyObject *mpy_serialize_tensor(PyObject *module, PyObject *tensor)
{
    (void)module;
    mpy_source_t source;
    mcs_tensor_header_t header;
    mpy_take_t taken = mpy_source_take("_serialize_tensor", NULL, tensor, &source);
    if (taken == MPY_REFUSED ||
        (taken == MPY_TAKEN && mcs_tensor_full(source.dtype, source.ndim, source.shape, &header) != MCS_OK)) {
        PyErr_SetString(PyExc_ValueError, "_serialize_tensor(): not a tensor of a kind that can be stored");
        return NULL;
    }
    if (taken == MPY_RAISED) {
        return NULL;
    }
    PyObject *parts = Py_BuildValue("(y#KKO)", (const char *)&header, (Py_ssize_t)sizeof(header),
                                    (unsigned long long)(uintptr_t)(source.bytes > 0 ? source.data : NULL),
                                    (unsigned long long)source.bytes, source.owner != NULL ? source.owner : tensor);
    mpy_source_drop(&source);
    return parts;
}

PyObject *mpy_deserialize_tensor(PyObject *module, PyObject *bytes)
{
    mpy_value_t value;
    mcs_tensor_header_t header;
    void *memory;
    if (!mpy_value_take("_deserialize_tensor", "bytes", bytes, &value)) {
        return NULL;
    }
    PyObject *tensor = NULL;
    if (mcs_tensor_parse(value.bytes.iov_base, value.bytes.iov_len, &header) != MCS_OK) {
        PyErr_SetString(PyExc_ValueError, "_deserialize_tensor(): not the bytes of a tensor");
    } else {
        PyObject *owner = mpy_tensor_memory(value.bytes.iov_len, &memory);
        if (owner != NULL) {
            memcpy(memory, value.bytes.iov_base, value.bytes.iov_len);
            tensor = mpy_tensor_new(mpy_state_of_module(module), &header, (char *)memory + MCS_TENSOR_HEADER_SIZE,
                                    false, owner);
            Py_DECREF(owner);
        }
    }
    mpy_value_drop(&value);
    return mpy_tensor_result(mpy_state_of_module(module), tensor);
}
