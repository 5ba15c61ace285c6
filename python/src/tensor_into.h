/* Whole objects read to addresses of the caller's, of the host or a device. */
#ifndef MPY_TENSOR_INTO_H
#define MPY_TENSOR_INTO_H

#include "python/src/tensor_device.h"

/* Object i goes to addresses[i], which has room for sizes[i] bytes. tensors[i]: a StoredTensor on it, or NULL.
 * expected[i] (the array or one of its items may be NULL): what its header must say, or it is none. False: an
 * exception, and no tensors. */
typedef bool (*mpy_header_fits_fn)(const void *arg, const mcs_tensor_header_t *header);
bool mpy_tensors_into(mpy_store_t *self, const mcs_bytes_t *keys, const uint64_t *addresses, const uint64_t *sizes,
                      size_t count, mpy_header_fits_fn fits, const void *arg, PyObject **tensors);

/* A header and more may be written there: *device_out is the device, or MPY_ON_HOST. With or without the GIL. */
bool mpy_room_is_there(mpy_store_t *self, uint64_t address, uint64_t size, int *device_out);

#endif
