/* mooncake.store.StoredTensor: a tensor in host or GPU memory, in C order, that other libraries take without a copy: by
 * DLPack (its capsules of both generations, its exchange table) and, of host memory, by the buffer protocol. What
 * get_dlpack gives back, and get_tensor where torch is not installed; the torch tensors of get_tensor stand on one. */
#ifndef MPY_TENSOR_H
#define MPY_TENSOR_H

#include "core/tensor/dlpack.h"
#include "core/tensor/layout.h"
#include "python/src/args.h"

typedef struct mpy_tensor {
    PyObject_HEAD mcs_dtype_t dtype;
    int32_t ndim;
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    int64_t strides[MCS_TENSOR_DIMS_MAX]; /* in elements */
    uint64_t bytes;
    void *data; /* never NULL of host memory; no address for the processor on a GPU */
    int device; /* MPY_ON_HOST, or CUDA's ordinal */
    bool readonly;
    uint64_t process; /* whose memory it is, when a forked child has not got it; 0: anybody's */
    PyObject *owner;  /* keeps the memory (a capsule, a BufferHandle); NULL: it is the caller's own */
} mpy_tensor_t;

#define MPY_ON_HOST (-1)

static inline mpy_tensor_t *mpy_tensor_of(PyObject *self)
{
    return (mpy_tensor_t *)(void *)self;
}

/* The tensor of a parsed header, its elements at `data`. Holds a reference to `owner` (may be NULL). */
PyObject *mpy_tensor_new(mpy_state_t *state, const mcs_tensor_header_t *header, void *data, bool readonly,
                         PyObject *owner);
/* The same of GPU memory, which is writable. */
PyObject *mpy_tensor_new_on(mpy_state_t *state, const mcs_tensor_header_t *header, void *data, int device,
                            PyObject *owner);
/* False, with a BufferError: a forked child looks at a tensor on memory that is its parent's alone. */
bool mpy_tensor_is_here(PyObject *self);
/* A capsule that owns GPU memory (taken over; NULL with an exception, and the memory is freed). */
PyObject *mpy_device_owner(mcs_device_memory_t *memory);
/* A tensor of the same elements in new memory, of the host with `to_host`, else of where they are. `self` must be of
 * this module's own memory, or in host memory. NULL: an exception (BufferError when it is neither). */
PyObject *mpy_tensor_copy(PyObject *self, bool to_host);
/* A capsule that owns `size` bytes at *memory_out. Byte MCS_TENSOR_HEADER_SIZE of it is aligned to 64: there the
 * elements begin. */
PyObject *mpy_tensor_memory(size_t size, void **memory_out);

/* dlpack_export.c */
PyObject *mpy_tensor_dlpack(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *mpy_tensor_dlpack_device(PyObject *self, PyObject *unused);
/* A managed tensor of `self`, with a reference to it; `copied` is what its flags say. NULL: MemoryError. */
mcs_dl_versioned_t *mpy_tensor_managed(PyObject *self, bool copied);
void mpy_tensor_describe(PyObject *self, int64_t *shape, int64_t *strides, mcs_dl_tensor_t *out);

/* dlpack_exchange.c: the capsule of type.__dlpack_c_exchange_api__, new; `type` is what it makes tensors of. */
PyObject *mpy_exchange_capsule(PyObject *type);
/* `type` is going away. */
void mpy_exchange_forget(PyObject *type);

/* tensor_result.c: the tensor as the caller gets it. */

/* A torch.Tensor on the same memory; where torch is not installed the StoredTensor itself. Takes `tensor` over. It must
 * be writable: torch has no read-only tensors. */
PyObject *mpy_tensor_result(mpy_state_t *state, PyObject *tensor);
/* The module torch; NULL without an exception where it is not installed. */
PyObject *mpy_torch(mpy_state_t *state);
/* torch.float32 and so on. */
PyObject *mpy_torch_dtype(PyObject *torch, mcs_dtype_t dtype);

#endif
