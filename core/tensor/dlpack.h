/* The structures of DLPack 1.3 (https://dmlc.github.io/dlpack), as its consumers and producers lay them out: an ABI
 * between libraries, not ours to change. And what a consumer must check before it believes one.
 *
 * Two generations are in use. The legacy DLManagedTensor travels in a capsule "dltensor" and has no version and no
 * flags; the versioned one in "dltensor_versioned". The consumer renames the capsule ("used_...") and calls the deleter
 * when it is done, on any thread. */
#ifndef MCS_TENSOR_DLPACK_H
#define MCS_TENSOR_DLPACK_H

#include "core/tensor/layout.h"

#define MCS_DL_MAJOR 1
#define MCS_DL_MINOR 3

#define MCS_DL_LEGACY         "dltensor"
#define MCS_DL_LEGACY_USED    "used_dltensor"
#define MCS_DL_VERSIONED      "dltensor_versioned"
#define MCS_DL_VERSIONED_USED "used_dltensor_versioned"
#define MCS_DL_EXCHANGE       "dlpack_exchange_api"
/* Of the type. */
#define MCS_DL_EXCHANGE_ATTRIBUTE "__dlpack_c_exchange_api__"

/* Device types: host memory in three kinds, and what a CUDA device has. */
#define MCS_DL_CPU          1
#define MCS_DL_CUDA         2
#define MCS_DL_CUDA_HOST    3 /* pinned */
#define MCS_DL_ROCM_HOST    11
#define MCS_DL_CUDA_MANAGED 13

#define MCS_DL_INT           0
#define MCS_DL_UINT          1
#define MCS_DL_FLOAT         2
#define MCS_DL_BFLOAT        4
#define MCS_DL_BOOL          6
#define MCS_DL_FLOAT8_E4M3FN 10
#define MCS_DL_FLOAT8_E5M2   12

#define MCS_DL_FLAG_READ_ONLY (UINT64_C(1) << 0)
#define MCS_DL_FLAG_COPIED    (UINT64_C(1) << 1)

typedef struct mcs_dl_version {
    uint32_t major;
    uint32_t minor;
} mcs_dl_version_t;

typedef struct mcs_dl_tensor {
    void *data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL = C order, which only producers before 1.2 may mean */
    uint64_t byte_offset;
} mcs_dl_tensor_t;
_Static_assert(sizeof(mcs_dl_tensor_t) == 48, "DLPack's ABI");

typedef struct mcs_dl_managed {
    mcs_dl_tensor_t tensor;
    void *ctx;
    void (*deleter)(struct mcs_dl_managed *self); /* may be NULL */
} mcs_dl_managed_t;
_Static_assert(sizeof(mcs_dl_managed_t) == 64, "DLPack's ABI");

/* The fields up to `flags` are the same in every version; `tensor` is only while the major version is ours. */
typedef struct mcs_dl_versioned {
    mcs_dl_version_t version;
    void *ctx;
    void (*deleter)(struct mcs_dl_versioned *self); /* may be NULL */
    uint64_t flags;
    mcs_dl_tensor_t tensor;
} mcs_dl_versioned_t;
_Static_assert(sizeof(mcs_dl_versioned_t) == 80, "DLPack's ABI");

/* The C exchange table, in a capsule MCS_DL_EXCHANGE at type(x).__dlpack_c_exchange_api__. Functions return 0, or -1
 * with a Python exception (allocate: after a call of set_error). None waits for a stream: work on a device's tensors is
 * in the order of current_stream. Only borrow_from_object may be NULL. */
typedef struct mcs_dl_exchange {
    mcs_dl_version_t version;
    struct mcs_dl_exchange *older; /* of another major version, or NULL */
    int (*allocate)(mcs_dl_tensor_t *prototype, mcs_dl_versioned_t **out, void *error_ctx,
                    void (*set_error)(void *error_ctx, const char *kind, const char *message));
    int (*managed_from_object)(void *object, mcs_dl_versioned_t **out);
    int (*managed_to_object)(mcs_dl_versioned_t *tensor, void **out_object); /* takes the tensor over */
    int (*borrow_from_object)(void *object, mcs_dl_tensor_t *out);           /* valid while the caller holds object */
    int (*current_stream)(int32_t device_type, int32_t device_id, void **out_stream);
} mcs_dl_exchange_t;

/* A tensor somewhere in memory: what `mcs_dl_view` understood of a DLPack tensor, or Python's buffers are turned into.
 */
typedef struct mcs_tensor_view {
    mcs_dtype_t dtype;
    int32_t ndim;
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    int64_t strides[MCS_TENSOR_DIMS_MAX]; /* in bytes, may be negative */
    uint64_t bytes;                       /* of all elements */
    const void *data;                     /* element 0, 0, ...; any value when bytes is 0 */
} mcs_tensor_view_t;

/* MCS_ERR_INVALID_PARAMS: another element type, more than MCS_TENSOR_DIMS_MAX dimensions, a negative extent, no memory
 * for a tensor that has elements, or sizes beyond 2**63. */
mcs_status_t mcs_dl_view(const mcs_dl_tensor_t *tensor, mcs_tensor_view_t *out) MCS_MUST_CHECK;
/* The memory of one device type can be read by the processor. */
bool mcs_dl_on_host(int32_t device_type);

/* Elements lie next to each other in C order. Extents of 1 may have any stride. */
bool mcs_tensor_view_contiguous(const mcs_tensor_view_t *view);
/* Copies view->bytes to `to` in C order. */
void mcs_tensor_view_gather(const mcs_tensor_view_t *view, void *to);

/* For memory that the processor cannot touch: the elements by stretches that are worth reading whole. Each is the same
 * tensor (`inner`, without its outer dimensions) somewhere else. */
typedef struct mcs_tensor_stretches {
    mcs_tensor_view_t inner; /* of one stretch, `data` unset: its element 0, 0, ... is `lead` bytes into it */
    uint64_t span;           /* bytes of a stretch, at most MCS_STRETCH_SLACK and twice inner.bytes */
    uint64_t lead;
    int32_t outer; /* dimensions of the view that are stepped over */
    uint64_t count;
} mcs_tensor_stretches_t;
#define MCS_STRETCH_SLACK (UINT64_C(64) << 10)

/* MCS_ERR_INVALID_PARAMS: strides that leave the address space. */
mcs_status_t mcs_tensor_stretches(const mcs_tensor_view_t *view, mcs_tensor_stretches_t *out) MCS_MUST_CHECK;
/* Where stretch i begins, i < count; their elements, in C order, follow each other. */
const void *mcs_tensor_stretch_at(const mcs_tensor_view_t *view, const mcs_tensor_stretches_t *stretches, uint64_t i);

#endif
