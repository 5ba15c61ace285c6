/* What callers get of a device beside copies: its memory, and waiting for a stream of theirs. See mem_space.h.
 *
 * Memory comes from the driver's pool in the order of a stream, because cuMemAlloc and cuMemFree wait for the whole
 * device, and goes back behind what runs on the legacy default stream: who drops a tensor may still have work there.
 *
 * A block keeps its space, and so streams, contexts and driver: tensors outlive their store. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "gpu/internal.h"

bool gpu_start_driver(mcs_mem_space_t *space)
{
    return gpu_look(space) || (cuda_driver_start() && gpu_look(space));
}

/* ---- streams ---- */

mcs_status_t gpu_order_stream(mcs_mem_space_t *space, int ordinal, uint64_t *stream_out)
{
    gpu_device_t *device;
    cuda_stream_t stream;
    mcs_status_t status = cuda_ctx_enter(space, ordinal, &device);
    if (status != MCS_OK) {
        return status;
    }
    status = gpu_stream_pick(space, device, GPU_ORDER, &stream);
    cuda_ctx_leave(space, device);
    if (status == MCS_OK) {
        *stream_out = (uint64_t)(uintptr_t)stream;
    }
    return status;
}

/* With the context current. */
static mcs_status_t wait_for(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream)
{
    cuda_event_t event;
    mcs_status_t status = gpu_event_mark(space, device, stream, &event);
    if (status == MCS_OK) {
        status = gpu_event_wait(space, device, event, true);
        gpu_event_put(space, device, event);
    }
    return status;
}

mcs_status_t gpu_wait_stream(mcs_mem_space_t *space, int ordinal, uint64_t stream)
{
    gpu_device_t *device;
    mcs_status_t status = cuda_ctx_enter(space, ordinal, &device);
    if (status == MCS_OK) {
        status = wait_for(space, device, (cuda_stream_t)(uintptr_t)stream); /* NOLINT(performance-no-int-to-ptr) */
        cuda_ctx_leave(space, device);
    }
    return status;
}

/* ---- memory ---- */

static void give_back(const mcs_mem_space_t *space, cuda_ptr_t memory, bool pooled)
{
    if (pooled) {
        (void)space->driver->mem_free_async(memory, CUDA_STREAM_LEGACY);
    } else {
        (void)space->driver->mem_free(memory);
    }
}

/* From the pool, and there: not only in the order of a stream of ours. CUDA_NOT_SUPPORTED: the device has no pool. */
static cuda_result_t take_pooled(mcs_mem_space_t *space, gpu_device_t *device, uint64_t len, cuda_ptr_t *memory_out,
                                 mcs_status_t *status_out)
{
    cuda_stream_t stream;
    *status_out = gpu_stream_pick(space, device, GPU_ORDER, &stream);
    if (*status_out != MCS_OK) {
        return CUDA_OK;
    }
    cuda_result_t result = space->driver->mem_alloc_async(memory_out, (size_t)len, stream);
    if (result == CUDA_OK) {
        *status_out = wait_for(space, device, stream);
        if (*status_out != MCS_OK) {
            give_back(space, *memory_out, true);
        }
    }
    return result;
}

static mcs_status_t take_memory(mcs_mem_space_t *space, gpu_device_t *device, mcs_mem_block_t *block)
{
    const cuda_driver_t *driver = space->driver;
    mcs_status_t status = MCS_OK;
    cuda_ptr_t memory = 0;
    const char *call = "mem_alloc_async";
    cuda_result_t result = CUDA_NOT_SUPPORTED;
    block->pooled = device->has_pool;
    if (block->pooled) {
        result = take_pooled(space, device, block->len, &memory, &status);
        block->pooled = result != CUDA_NOT_SUPPORTED;
    }
    if (!block->pooled && driver->mem_alloc != NULL && driver->mem_free != NULL) {
        call = "mem_alloc";
        result = driver->mem_alloc(&memory, (size_t)block->len);
    }
    if (result != CUDA_OK) {
        return cuda_failed(driver, device, call, result);
    }
    block->ptr = (void *)(uintptr_t)memory; /* NOLINT(performance-no-int-to-ptr) */
    return status;
}

mcs_status_t gpu_block_alloc(mcs_mem_space_t *space, int ordinal, uint64_t len, mcs_mem_block_t **block_out)
{
    gpu_device_t *device;
    mcs_mem_block_t *block = MCS_NEW(mcs_mem_block_t);
    if (block == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    *block = (mcs_mem_block_t){.space = space, .len = len, .device = ordinal};
    mcs_status_t status = cuda_ctx_enter(space, ordinal, &device);
    if (status == MCS_OK) {
        status = take_memory(space, device, block);
        cuda_ctx_leave(space, device);
    }
    if (status != MCS_OK) {
        mcs_free(block);
        return status;
    }
    __atomic_fetch_add(&space->refs, 1, __ATOMIC_RELAXED);
    *block_out = block;
    return MCS_OK;
}

void gpu_block_free(mcs_mem_block_t *block)
{
    gpu_device_t *device;
    if (block == NULL || block->space->process != mcs_process_token()) {
        return; /* in a forked child it is the parent's */
    }
    if (cuda_ctx_enter(block->space, block->device, &device) == MCS_OK) {
        give_back(block->space, (cuda_ptr_t)(uintptr_t)block->ptr, block->pooled);
        cuda_ctx_leave(block->space, device);
    }
    gpu_space_put(block->space);
    mcs_free(block);
}

mcs_status_t gpu_block_copy(const mcs_mem_block_t *block, uint64_t offset, void *target, uint64_t len)
{
    mcs_mem_piece_t piece = {(uint8_t *)block->ptr + offset, target, len, (int16_t)block->device, MCS_MEM_NO_BLOCK};
    mcs_mem_copy_t copy = {.pieces = &piece, .count = 1};
    mcs_mem_job_t *job;
    bool ignored;
    if (block->space->process != mcs_process_token() || offset > block->len || len > block->len - offset) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = gpu_copy_begin(block->space, &copy, &job, &ignored);
    return status == MCS_OK ? gpu_copy_end(block->space, job) : status;
}
