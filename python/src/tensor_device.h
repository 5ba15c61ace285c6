/* Where a caller wants a tensor: host memory, or a CUDA device, of torch's memory or our own. */
#ifndef MPY_TENSOR_DEVICE_H
#define MPY_TENSOR_DEVICE_H

#include "python/src/tensor_read.h"

/* The argument `device`: NULL, None, "cpu", "cuda", "cuda:1", a torch.device, or DLPack's (2, 1). *cuda_out: the text
 * for torch, a new reference, or NULL: host memory. Another device is a ValueError. */
bool mpy_device_take(const char *name, PyObject *device, PyObject **cuda_out);

/* The number in such a text; "cuda" is 0. */
int mpy_device_ordinal(PyObject *cuda);

/* The tensor of a key in new memory of the device, as a StoredTensor. None when there is none. NULL: an exception:
 * MemoryError, or RuntimeError where there is no such device. */
PyObject *mpy_device_fetch_stored(mpy_store_t *self, const char *name, mcs_bytes_t key, int device);

/* The same as a torch tensor: straight into its memory where the library takes such addresses, else by way of host
 * memory. Without torch a StoredTensor. */
PyObject *mpy_device_fetch(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *cuda);

/* store_tensor_get.c */
/* A list of torch tensors and None. With `size` > 1 the objects must be shards of that rank and number of ranks. */
PyObject *mpy_tensors_get(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, int32_t rank, int32_t size);
/* A StoredTensor on the stored elements themselves where they lie on this host, else on a copy. NULL: there is none,
 * and *code_out says why. False: an exception. */
bool mpy_tensor_stored(mpy_store_t *self, mcs_bytes_t key, PyObject **tensor_out, int64_t *code_out);

/* What a call gives its caller for a StoredTensor (taken over; NULL: None). */
PyObject *mpy_tensor_answer(mpy_state_t *state, PyObject *tensor);

#endif
