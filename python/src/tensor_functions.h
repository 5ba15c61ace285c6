/* The module's own functions on tensors: objects of the store without a store. */
#ifndef MPY_TENSOR_FUNCTIONS_H
#define MPY_TENSOR_FUNCTIONS_H

#include "python/src/tensor.h"

PyObject *mpy_serialize_tensor(PyObject *module, PyObject *tensor);
PyObject *mpy_deserialize_tensor(PyObject *module, PyObject *bytes);
PyObject *mpy_tensor_metadata_size(PyObject *module, PyObject *unused);

#endif
