/* What a put of a tensor was given: any object with elements in memory, in the order in which its producer's speed and
 * truth are known:
 *
 *   the C exchange table of DLPack 1.3   lends the tensor, or gives it: no capsule, no call of Python (recent torch)
 *   torch's own attributes               what torch cannot say by DLPack in its older versions
 *   __dlpack__                           versioned, or legacy from old producers
 *   the buffer protocol                  what has elements of a type we know; not bytes and bytearray: those are put
 *   a view of the bits                   numpy arrays of ml_dtypes (bfloat16, 8-bit floats)
 *
 * Elements that are not in C order are copied once, those of a CUDA device to the host. A tensor on a CUDA device in C
 * order is given as its address there. */
#ifndef MPY_TENSOR_SOURCE_H
#define MPY_TENSOR_SOURCE_H

#include "core/tensor/dlpack.h"
#include "python/src/memory.h"
#include "python/src/tensor.h"

typedef enum mpy_take {
    MPY_TAKEN,
    MPY_REFUSED, /* no tensor, or one that cannot be stored: MCS_INVALID_PARAMS; the log says which */
    MPY_RAISED   /* an exception that is no answer: KeyboardInterrupt, MemoryError */
} mpy_take_t;

typedef struct mpy_source {
    mcs_dtype_t dtype;
    int32_t ndim;
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    uint64_t bytes;
    const char *data; /* C order */
    bool on_device;   /* data is an address of a device: not for the processor */
    bool copied;      /* data is memory of ours, the object's elements were not in C order */
    bool readonly;    /* its producer says that nobody may write there */
    PyObject *owner;  /* keeps data; NULL: the caller does */
} mpy_source_t;

/* `store` is for what is on a device: work there is waited for, elements are put in order. NULL: such a tensor is taken
 * as it lies. */
mpy_take_t mpy_source_take(const char *name, mcs_store_t *store, PyObject *object, mpy_source_t *out);
void mpy_source_drop(mpy_source_t *source);

/* An object at an address of the caller's, of the host or a device: header and elements. *header_out is a copy of its
 * header. */
mpy_take_t mpy_source_at(mpy_memory_t *memory, mcs_store_t *store, const char *name, const struct iovec *object,
                         mpy_source_t *out, mcs_tensor_header_t *header_out);

/* Clears an exception that only says that this object is no tensor. */
mpy_take_t mpy_take_refusal(void);

#endif
