/* See dlpack.h. */
#include "core/tensor/dlpack.h"

#include <string.h>

bool mcs_dl_on_host(int32_t device_type)
{
    return device_type == MCS_DL_CPU || device_type == MCS_DL_CUDA_HOST || device_type == MCS_DL_ROCM_HOST;
}

/* Strides of C order, in bytes. */
static void contiguous_strides(mcs_tensor_view_t *view)
{
    int64_t stride = mcs_dtype_row(view->dtype)->size;
    for (int32_t i = view->ndim - 1; i >= 0; i--) {
        view->strides[i] = stride;
        stride *= view->bytes > 0 ? view->shape[i] : 1; /* fits: it is at most view->bytes */
    }
}

static mcs_status_t take_strides(mcs_tensor_view_t *view, const int64_t *strides)
{
    int64_t size = mcs_dtype_row(view->dtype)->size;
    for (int32_t i = 0; i < view->ndim; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(strides[i], size, &view->strides[i]) ||
            __builtin_mul_overflow(view->strides[i], view->shape[i], &reach)) {
            return MCS_ERR_INVALID_PARAMS;
        }
    }
    return MCS_OK;
}

mcs_status_t mcs_dl_view(const mcs_dl_tensor_t *tensor, mcs_tensor_view_t *out)
{
    mcs_tensor_view_t view = {.ndim = tensor->ndim};
    if (!mcs_dtype_by_dlpack(tensor->code, tensor->bits, tensor->lanes, &view.dtype) || tensor->ndim < 0 ||
        tensor->ndim > MCS_TENSOR_DIMS_MAX || (tensor->ndim > 0 && tensor->shape == NULL)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    for (int32_t i = 0; i < view.ndim; i++) {
        view.shape[i] = tensor->shape[i];
    }
    mcs_status_t status = mcs_tensor_bytes(view.dtype, view.ndim, view.shape, &view.bytes);
    if (status != MCS_OK) {
        return status;
    }
    uint64_t address;
    if (__builtin_add_overflow((uint64_t)(uintptr_t)tensor->data, tensor->byte_offset, &address) ||
        (view.bytes > 0 && tensor->data == NULL)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    view.data = (const void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
    if (tensor->strides == NULL || view.bytes == 0) {
        contiguous_strides(&view);
    } else {
        status = take_strides(&view, tensor->strides);
    }
    if (status == MCS_OK) {
        *out = view;
    }
    return status;
}

bool mcs_tensor_view_contiguous(const mcs_tensor_view_t *view)
{
    int64_t stride = mcs_dtype_row(view->dtype)->size;
    for (int32_t i = view->ndim - 1; i >= 0 && view->bytes > 0; i--) {
        if (view->shape[i] != 1 && view->strides[i] != stride) {
            return false;
        }
        stride *= view->shape[i];
    }
    return true;
}

/* The innermost dimension that elements are copied along. */
typedef struct run {
    uint64_t count;
    int64_t stride;
    size_t size;
} run_t;

/* No step beyond the last element: the stride of one may be anything. Inlined for each size, so that memcpy is a move.
 */
static inline __attribute__((always_inline)) void copy_elements(const run_t *run, const char *from, char *to,
                                                                size_t size)
{
    for (uint64_t i = 0; i < run->count; i++) {
        memcpy(to + i * size, from + (int64_t)i * run->stride, size);
    }
}

static void copy_run(const run_t *run, const char *from, char *to)
{
    if (run->stride == (int64_t)run->size) {
        memcpy(to, from, run->count * run->size);
    } else if (run->size == 1) {
        copy_elements(run, from, to, 1);
    } else if (run->size == 2) {
        copy_elements(run, from, to, 2);
    } else if (run->size == 4) {
        copy_elements(run, from, to, 4);
    } else {
        copy_elements(run, from, to, 8);
    }
}

/* An odometer over all dimensions but those that one run covers: the trailing ones that lie in C order among
 * themselves. */
void mcs_tensor_view_gather(const mcs_tensor_view_t *view, void *to)
{
    if (view->bytes == 0) {
        return;
    }
    run_t run = {.count = 1, .stride = mcs_dtype_row(view->dtype)->size, .size = mcs_dtype_row(view->dtype)->size};
    int32_t outer = view->ndim;
    if (outer > 0) {
        outer--;
        run.count = (uint64_t)view->shape[outer];
        run.stride = view->strides[outer];
    }
    while (outer > 0 && view->strides[outer - 1] == run.stride * (int64_t)run.count) {
        outer--;
        run.count *= (uint64_t)view->shape[outer];
    }
    int64_t at[MCS_TENSOR_DIMS_MAX] = {0};
    const char *from = view->data;
    char *next = to;
    for (;;) {
        copy_run(&run, from, next);
        next += run.count * run.size;
        int32_t i = outer - 1;
        for (; i >= 0 && ++at[i] == view->shape[i]; i--) {
            from -= view->strides[i] * (view->shape[i] - 1);
            at[i] = 0;
        }
        if (i < 0) {
            return;
        }
        from += view->strides[i];
    }
}

/* ---- stretches ---- */

/* From the lowest to the highest byte of dimensions [outer, ndim): *lead_out bytes before element 0. */
static mcs_status_t span_of(const mcs_tensor_view_t *view, int32_t outer, uint64_t *span_out, uint64_t *lead_out)
{
    uint64_t span = mcs_dtype_row(view->dtype)->size;
    uint64_t lead = 0;
    for (int32_t i = outer; i < view->ndim; i++) {
        int64_t stride = view->strides[i];
        uint64_t step = stride < 0 ? -(uint64_t)stride : (uint64_t)stride;
        uint64_t reach;
        if (__builtin_mul_overflow(step, (uint64_t)view->shape[i] - 1, &reach) ||
            __builtin_add_overflow(span, reach, &span) || span > INT64_MAX) {
            return MCS_ERR_INVALID_PARAMS;
        }
        lead += stride < 0 ? reach : 0;
    }
    *span_out = span;
    *lead_out = lead;
    return MCS_OK;
}

mcs_status_t mcs_tensor_stretches(const mcs_tensor_view_t *view, mcs_tensor_stretches_t *out)
{
    mcs_tensor_stretches_t stretches = {.count = view->bytes > 0};
    uint64_t bytes = view->bytes;
    for (int32_t outer = 0; bytes > 0 && outer <= view->ndim; outer++) {
        mcs_status_t status = span_of(view, outer, &stretches.span, &stretches.lead);
        if (status != MCS_OK) {
            return status;
        }
        stretches.outer = outer;
        if (stretches.span <= MCS_MAX(2 * bytes, MCS_STRETCH_SLACK)) {
            break; /* at the latest with all dimensions: one element */
        }
        stretches.count *= (uint64_t)view->shape[outer];
        bytes /= (uint64_t)view->shape[outer];
    }
    stretches.inner = (mcs_tensor_view_t){.dtype = view->dtype, .ndim = view->ndim - stretches.outer, .bytes = bytes};
    for (int32_t i = 0; i < stretches.inner.ndim; i++) {
        stretches.inner.shape[i] = view->shape[stretches.outer + i];
        stretches.inner.strides[i] = view->strides[stretches.outer + i];
    }
    *out = stretches;
    return MCS_OK;
}

const void *mcs_tensor_stretch_at(const mcs_tensor_view_t *view, const mcs_tensor_stretches_t *stretches, uint64_t i)
{
    uint64_t at = (uint64_t)(uintptr_t)view->data - stretches->lead;
    for (int32_t dim = stretches->outer - 1; dim >= 0; dim--) {
        uint64_t extent = (uint64_t)view->shape[dim];
        at += (uint64_t)view->strides[dim] * (i % extent); /* modulo 2**64, as addresses are */
        i /= extent;
    }
    return (const void *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
}
