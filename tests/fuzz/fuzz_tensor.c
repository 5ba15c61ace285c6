/* Tensors of foreign bytes: a header or manifest that is taken is consistent, slices of it stay inside the object, and
 * a DLPack tensor that is taken can be copied from exactly its memory. */
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dlpack.h"
#include "core/tensor/parallel.h"

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void attack_header(const uint8_t *bytes, size_t len)
{
    mcs_tensor_header_t header;
    if (mcs_tensor_parse(bytes, len, &header) != MCS_OK) {
        return;
    }
    must(header.data_bytes == len - MCS_TENSOR_HEADER_SIZE);
    for (int32_t dim = 0; dim < header.ndim; dim++) {
        mcs_tensor_slice_t slice;
        int64_t extent = header.local_shape[dim];
        must(mcs_tensor_slice((mcs_dtype_t)header.dtype, header.ndim, header.local_shape, dim, extent / 2,
                              extent - extent / 2, &slice) == MCS_OK);
        must(slice.rows == 0 || slice.offset + (slice.rows - 1) * slice.stride + slice.row_bytes <= header.data_bytes);
    }
    const mcs_tensor_axis_t *tp = mcs_tensor_find_tp(&header);
    must(tp == NULL || tp->rank < tp->size);
}

static void attack_manifest(const uint8_t *bytes, size_t len)
{
    mcs_manifest_t manifest;
    if (mcs_manifest_parse(bytes, len, &manifest) == MCS_OK) {
        mcs_tensor_header_t whole;
        must(mcs_tensor_full((mcs_dtype_t)manifest.dtype, manifest.ndim, manifest.global_shape, &whole) == MCS_OK);
        must(manifest.global_shape[manifest.split_dim] % manifest.shard_count == 0);
    }
}

/* A tensor that is taken is made of stretches that hold all its elements; `copy`, when its memory is there, has them.
 */
static void attack_stretches(const mcs_tensor_view_t *view, const char *copy)
{
    mcs_tensor_stretches_t stretches;
    if (mcs_tensor_stretches(view, &stretches) != MCS_OK) {
        return;
    }
    must(stretches.count * stretches.inner.bytes == view->bytes || view->bytes == 0);
    must(stretches.span <= MCS_MAX(2 * stretches.inner.bytes, MCS_STRETCH_SLACK) || view->bytes == 0);
    for (uint64_t i = 0; copy != NULL && i < stretches.count; i++) {
        const char *at = mcs_tensor_stretch_at(view, &stretches, i);
        char got[2048];
        stretches.inner.data = at + stretches.lead;
        mcs_tensor_view_gather(&stretches.inner, got);
        must(memcmp(got, copy + i * stretches.inner.bytes, stretches.inner.bytes) == 0);
    }
}

/* Bytes as shape and strides; where the view stays in 4 KiB around its element 0, it is copied. */
static void attack_dlpack(const uint8_t *bytes, size_t len)
{
    static char memory[8192];
    int64_t shape[MCS_TENSOR_DIMS_MAX + 1] = {0};
    int64_t strides[MCS_TENSOR_DIMS_MAX + 1] = {0};
    mcs_tensor_view_t view;
    if (len < 8) {
        return;
    }
    mcs_dl_tensor_t tensor = {.data = memory + 4096,
                              .device_type = 1,
                              .ndim = (int8_t)bytes[0],
                              .code = bytes[1],
                              .bits = bytes[2],
                              .lanes = 1,
                              .shape = shape,
                              .strides = bytes[3] & 1 ? strides : NULL};
    memcpy(shape, bytes + 8, len - 8 < sizeof(shape) ? len - 8 : sizeof(shape));
    if (len > 8 + sizeof(shape)) {
        size_t left = len - 8 - sizeof(shape);
        memcpy(strides, bytes + 8 + sizeof(shape), left < sizeof(strides) ? left : sizeof(strides));
    }
    if (mcs_dl_view(&tensor, &view) != MCS_OK || view.bytes > 2048) {
        return;
    }
    attack_stretches(&view, NULL);
    int64_t low = 0;
    int64_t high = mcs_dtype_row(view.dtype)->size;
    for (int32_t i = 0; i < view.ndim && view.bytes > 0; i++) {
        int64_t reach = view.strides[i] * (view.shape[i] - 1);
        if (reach > 4096 || reach < -4096) {
            return;
        }
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    if (low >= -4096 && high <= 4096) {
        char *copy = malloc(view.bytes > 0 ? view.bytes : 1);
        mcs_tensor_view_gather(&view, copy);
        attack_stretches(&view, copy);
        free(copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len > 0) {
        void (*attacks[])(const uint8_t *, size_t) = {attack_header, attack_manifest, attack_dlpack};
        attacks[bytes[0] % 3](bytes + 1, len - 1);
    }
    return 0;
}
