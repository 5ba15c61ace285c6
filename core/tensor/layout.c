/* See layout.h. */
#include "core/tensor/layout.h"

#include <string.h>

mcs_status_t mcs_tensor_bytes(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, uint64_t *bytes_out)
{
    if (ndim < 0 || ndim > MCS_TENSOR_DIMS_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    bool empty = false;
    for (int32_t i = 0; i < ndim; i++) {
        if (shape[i] < 0) {
            return MCS_ERR_INVALID_PARAMS;
        }
        empty = empty || shape[i] == 0;
    }
    int64_t bytes = mcs_dtype_row(dtype)->size;
    for (int32_t i = 0; i < ndim && !empty; i++) {
        if (__builtin_mul_overflow(bytes, shape[i], &bytes)) {
            return MCS_ERR_INVALID_PARAMS;
        }
    }
    *bytes_out = empty ? 0 : (uint64_t)bytes;
    return MCS_OK;
}

mcs_status_t mcs_tensor_full(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, mcs_tensor_header_t *out)
{
    mcs_tensor_header_t header = {.magic = MCS_TENSOR_MAGIC,
                                  .version = MCS_TENSOR_VERSION,
                                  .header_size = MCS_TENSOR_HEADER_SIZE,
                                  .dtype = (int32_t)dtype,
                                  .ndim = ndim,
                                  .kind = MCS_TENSOR_FULL,
                                  .data_offset = MCS_TENSOR_HEADER_SIZE};
    mcs_status_t status = mcs_tensor_bytes(dtype, ndim, shape, &header.data_bytes);
    if (status != MCS_OK) {
        return status;
    }
    for (int32_t i = 0; i < MCS_TENSOR_DIMS_MAX; i++) {
        header.global_shape[i] = i < ndim ? shape[i] : -1;
        header.local_shape[i] = header.global_shape[i];
    }
    *out = header;
    return MCS_OK;
}

static bool shape_is_sane(const int64_t *shape, int32_t ndim)
{
    for (int32_t i = 0; i < MCS_TENSOR_DIMS_MAX; i++) {
        if (i < ndim ? shape[i] < 0 : shape[i] != -1) {
            return false;
        }
    }
    return true;
}

static bool axis_is_sane(const mcs_tensor_axis_t *axis, int32_t ndim)
{
    return axis->kind >= 0 && axis->kind <= MCS_AXIS_KINDS && axis->size > 0 && axis->rank >= 0 &&
           axis->rank < axis->size && axis->split_dim >= -1 && axis->split_dim < ndim;
}

static bool is_this_format(const mcs_tensor_header_t *header)
{
    return header->magic == MCS_TENSOR_MAGIC && header->version == MCS_TENSOR_VERSION &&
           header->header_size == MCS_TENSOR_HEADER_SIZE && header->data_offset == MCS_TENSOR_HEADER_SIZE &&
           header->kind <= MCS_TENSOR_SHARD;
}

static bool is_sane(const mcs_tensor_header_t *header)
{
    bool sane = header->dtype >= 0 && header->dtype < MCS_DTYPE_COUNT && header->ndim >= 0 &&
                header->ndim <= MCS_TENSOR_DIMS_MAX && header->axis_count <= MCS_TENSOR_AXES_MAX &&
                shape_is_sane(header->global_shape, header->ndim) && shape_is_sane(header->local_shape, header->ndim);
    for (uint32_t i = 0; sane && i < header->axis_count; i++) {
        sane = axis_is_sane(&header->axes[i], header->ndim);
    }
    return sane;
}

mcs_status_t mcs_tensor_parse(const void *bytes, uint64_t object_size, mcs_tensor_header_t *out)
{
    mcs_tensor_header_t header;
    if (object_size < sizeof(header)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(&header, bytes, sizeof(header));
    if (!is_this_format(&header) || !is_sane(&header)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    uint64_t expected;
    mcs_status_t status = mcs_tensor_bytes((mcs_dtype_t)header.dtype, header.ndim, header.local_shape, &expected);
    if (status != MCS_OK || header.data_bytes != expected || expected != object_size - MCS_TENSOR_HEADER_SIZE) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *out = header;
    return MCS_OK;
}

mcs_status_t mcs_tensor_slice(mcs_dtype_t dtype, int32_t ndim, const int64_t *shape, int32_t dim, int64_t start,
                              int64_t extent, mcs_tensor_slice_t *out)
{
    uint64_t bytes;
    mcs_status_t status = mcs_tensor_bytes(dtype, ndim, shape, &bytes);
    if (status != MCS_OK) {
        return status;
    }
    if (dim < 0 || dim >= ndim || start < 0 || extent < 0 || start > shape[dim] || extent > shape[dim] - start) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_tensor_slice_t slice = {0};
    if (bytes > 0 && extent > 0) { /* every product below is at most `bytes` */
        uint64_t inner = mcs_dtype_row(dtype)->size;
        for (int32_t i = dim + 1; i < ndim; i++) {
            inner *= (uint64_t)shape[i];
        }
        slice.stride = inner * (uint64_t)shape[dim];
        slice.rows = bytes / slice.stride;
        slice.row_bytes = inner * (uint64_t)extent;
        slice.offset = inner * (uint64_t)start;
    }
    *out = slice;
    return MCS_OK;
}

mcs_status_t mcs_tensor_shard_range(int64_t whole, int32_t rank, int32_t size, int64_t *start_out, int64_t *extent_out)
{
    if (whole < 0 || size <= 0 || rank < 0 || rank >= size || whole % size != 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *extent_out = whole / size;
    *start_out = *extent_out * rank;
    return MCS_OK;
}
