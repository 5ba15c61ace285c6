/* The consumer's side of DLPack, and torch's own attributes: the first steps of mpy_source_take. */
#ifndef MPY_DLPACK_IMPORT_H
#define MPY_DLPACK_IMPORT_H

#include "python/src/tensor_source.h"

/* MPY_REFUSED for an object that has none of it, or of which it says nothing that can be stored. */
mpy_take_t mpy_dlpack_take(mcs_store_t *store, PyObject *object, mpy_source_t *out);

/* A source of what a view describes; a copy in host memory when it is not in C order (of a device by `store`, which may
 * be NULL where there is none). Holds a reference to `owner`. */
mpy_take_t mpy_source_from_view(mcs_store_t *store, const mcs_tensor_view_t *view, bool on_device, PyObject *owner,
                                mpy_source_t *out);

/* What is queued on the current stream of a torch tensor's device is done when this returns. False: an exception. */
bool mpy_torch_wait(PyObject *tensor);

#endif
