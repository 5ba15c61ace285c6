/* A tensor as an object of the store: a header of 304 bytes, then the elements in C order (the memory ABI of the
 * original's tensor calls; readers and writers of both understand each other).
 *
 *   0   magic, version, size      16  layout: FULL or SHARD      32  bytes of the payload
 *   8   dtype, number of dims     24  where the payload begins   40  shape of the whole tensor, shape of what is here
 *   168 axes: along which kinds of parallelism this is a shard, 4 at most
 *
 * Shapes have 8 places, those not in use are -1. Pure functions; what comes from outside is checked by
 * mcs_tensor_parse before anything else is done with it. Any thread. */
#ifndef MCS_TENSOR_LAYOUT_H
#define MCS_TENSOR_LAYOUT_H

#include "core/tensor/dtype.h"

#define MCS_TENSOR_DIMS_MAX    8
#define MCS_TENSOR_AXES_MAX    4
#define MCS_TENSOR_HEADER_SIZE 304
#define MCS_TENSOR_MAGIC       UINT32_C(0x4d4f4f4e)
#define MCS_TENSOR_VERSION     1

typedef enum mcs_tensor_kind { MCS_TENSOR_FULL, MCS_TENSOR_SHARD } mcs_tensor_kind_t;

/* The values are on the wire. */
typedef enum mcs_axis_kind { MCS_AXIS_DP, MCS_AXIS_TP, MCS_AXIS_EP, MCS_AXIS_PP, MCS_AXIS_KINDS } mcs_axis_kind_t;

typedef struct mcs_tensor_axis {
    int32_t kind; /* mcs_axis_kind_t; 4 is reserved and read as a kind that nobody asks for */
    int32_t index;
    int32_t rank;
    int32_t size;
    int32_t split_dim; /* -1: none */
    int32_t id;        /* EP: the expert; PP: the stage */
    int64_t extent;    /* of this shard along split_dim; 0: none */
} mcs_tensor_axis_t;

typedef struct mcs_tensor_header {
    uint32_t magic;
    uint16_t version;
    uint16_t header_size;
    int32_t dtype;
    int32_t ndim;
    uint32_t kind;
    uint32_t flags;
    uint64_t data_offset;
    uint64_t data_bytes;
    int64_t global_shape[MCS_TENSOR_DIMS_MAX];
    int64_t local_shape[MCS_TENSOR_DIMS_MAX];
    uint32_t axis_count;
    uint32_t reserved;
    mcs_tensor_axis_t axes[MCS_TENSOR_AXES_MAX];
} mcs_tensor_header_t;
_Static_assert(sizeof(mcs_tensor_header_t) == MCS_TENSOR_HEADER_SIZE, "memory ABI");
_Static_assert(offsetof(mcs_tensor_header_t, global_shape) == 40, "memory ABI");
_Static_assert(offsetof(mcs_tensor_header_t, axes) == 176, "memory ABI");

/* Bytes of a tensor's elements. MCS_ERR_INVALID_PARAMS for more dimensions than there may be, a negative extent, and
 * sizes that do not fit in 63 bits. */
mcs_status_t mcs_tensor_bytes(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, uint64_t *bytes_out)
    MCS_MUST_CHECK;

/* The header of a tensor that is all here. */
mcs_status_t mcs_tensor_full(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, mcs_tensor_header_t *out)
    MCS_MUST_CHECK;

/* MCS_OK when the object of `object_size` bytes that begins with these bytes (at least MCS_TENSOR_HEADER_SIZE of them,
 * or object_size) is a tensor: *out is then a consistent copy of its header. MCS_ERR_INVALID_PARAMS otherwise. */
mcs_status_t mcs_tensor_parse(const void *bytes, uint64_t object_size, mcs_tensor_header_t *out) MCS_MUST_CHECK;

/* ---- pieces ---- */

/* Where a range of one dimension lies in a tensor: `rows` runs of row_bytes, the first at `offset`, `stride` apart. */
typedef struct mcs_tensor_slice {
    uint64_t rows;
    uint64_t row_bytes;
    uint64_t stride;
    uint64_t offset;
} mcs_tensor_slice_t;

/* [start, start + extent) of dimension `dim`. MCS_ERR_INVALID_PARAMS for what is not in the tensor. */
mcs_status_t mcs_tensor_slice(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, int32_t dim, int64_t start,
                              int64_t extent, mcs_tensor_slice_t *out) MCS_MUST_CHECK;

/* The part of dimension extent `whole` that rank of size has. MCS_ERR_INVALID_PARAMS unless all ranks have the same:
 * only uniform shards exist. */
mcs_status_t mcs_tensor_shard_range(int64_t whole, int32_t rank, int32_t size, int64_t *start_out, int64_t *extent_out)
    MCS_MUST_CHECK;

#endif
