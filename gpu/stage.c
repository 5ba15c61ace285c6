/* Staging chunks: pinned host memory between a device and the network. A handful, made when first needed and handed
 * round; who wants one while all are in use waits. A chunk that cannot be pinned is ordinary memory: slower, as right.
 */
#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "gpu/internal.h"

#define ALIGN 4096

typedef struct gpu_chunk {
    void *memory;
    bool pinned;
    bool busy;
} gpu_chunk_t;

static gpu_chunk_t *take_locked(mcs_mem_space_t *space)
{
    for (uint32_t i = 0; i < space->chunk_count; i++) {
        if (!space->chunks[i].busy) {
            space->chunks[i].busy = true;
            return &space->chunks[i];
        }
    }
    return NULL;
}

/* Any device will do: the memory is portable. */
static bool enter_any(mcs_mem_space_t *space, gpu_device_t **device_out)
{
    for (int d = 0; d < space->device_count; d++) {
        if (__atomic_load_n(&space->devices[d].context, __ATOMIC_ACQUIRE) != NULL &&
            cuda_ctx_enter(space, d, device_out) == MCS_OK) {
            return true;
        }
    }
    return cuda_ctx_enter(space, 0, device_out) == MCS_OK;
}

static void *make_pinned(mcs_mem_space_t *space)
{
    gpu_device_t *device;
    void *memory = NULL;
    if (!gpu_pin_take(space, MCS_MEM_STAGE_BYTES)) {
        return NULL;
    }
    if (enter_any(space, &device)) {
        if (CUDA_TRY(space->driver, device, host_alloc, (&memory, MCS_MEM_STAGE_BYTES, CUDA_HOST_PORTABLE)) != MCS_OK) {
            memory = NULL;
        }
        cuda_ctx_leave(space, device);
    }
    if (memory == NULL) {
        gpu_pin_give(space, MCS_MEM_STAGE_BYTES);
    }
    return memory;
}

static void free_chunk(mcs_mem_space_t *space, const gpu_chunk_t *chunk)
{
    gpu_device_t *device;
    if (!chunk->pinned) {
        mcs_free(chunk->memory);
    } else if (enter_any(space, &device)) {
        (void)space->driver->host_free(chunk->memory);
        cuda_ctx_leave(space, device);
        gpu_pin_give(space, MCS_MEM_STAGE_BYTES);
    }
}

/* One more chunk, taken. NULL: there are enough, or no memory. */
static gpu_chunk_t *make_chunk(mcs_mem_space_t *space)
{
    gpu_chunk_t made = {.memory = make_pinned(space), .pinned = true, .busy = true};
    if (made.memory == NULL) {
        made.memory = mcs_aligned_alloc(ALIGN, MCS_MEM_STAGE_BYTES);
        made.pinned = false;
    }
    if (made.memory == NULL) {
        return NULL;
    }
    gpu_chunk_t *chunk = NULL;
    mcs_mutex_lock(&space->stage_lock);
    if (space->chunk_count < space->config.stage_count) {
        chunk = &space->chunks[space->chunk_count++];
        *chunk = made;
    }
    mcs_mutex_unlock(&space->stage_lock);
    if (chunk == NULL) {
        free_chunk(space, &made); /* other threads were first */
    }
    return chunk;
}

void *gpu_stage_get(mcs_mem_space_t *space, bool wait, uint64_t deadline_ns)
{
    mcs_mutex_lock(&space->stage_lock);
    gpu_chunk_t *chunk = take_locked(space);
    bool make = chunk == NULL && space->chunk_count < space->config.stage_count;
    mcs_mutex_unlock(&space->stage_lock);
    if (make) {
        chunk = make_chunk(space);
    }
    if (chunk != NULL || !wait) {
        return chunk != NULL ? chunk->memory : NULL;
    }
    mcs_mutex_lock(&space->stage_lock);
    chunk = take_locked(space);
    while (chunk == NULL && space->chunk_count > 0 &&
           mcs_cond_wait_until(&space->stage_free, &space->stage_lock, deadline_ns)) {
        chunk = take_locked(space);
    }
    mcs_mutex_unlock(&space->stage_lock);
    return chunk != NULL ? chunk->memory : NULL;
}

void gpu_stage_put(mcs_mem_space_t *space, void *memory)
{
    mcs_mutex_lock(&space->stage_lock);
    for (uint32_t i = 0; i < space->chunk_count; i++) {
        if (space->chunks[i].memory == memory) {
            space->chunks[i].busy = false;
        }
    }
    mcs_cond_signal(&space->stage_free);
    mcs_mutex_unlock(&space->stage_lock);
}

bool gpu_stage_area(mcs_mem_space_t *space, const void *ptr, uint64_t *start_out, cuda_ptr_t *device_out)
{
    bool found = false;
    mcs_mutex_lock(&space->stage_lock);
    for (uint32_t i = 0; i < space->chunk_count && !found; i++) {
        uint64_t start = (uint64_t)(uintptr_t)space->chunks[i].memory;
        found = (uint64_t)(uintptr_t)ptr - start < MCS_MEM_STAGE_BYTES;
        if (found) {
            *start_out = start;
            /* Memory that the driver allocated has one address for all. */
            *device_out = space->chunks[i].pinned ? start : 0;
        }
    }
    mcs_mutex_unlock(&space->stage_lock);
    return found;
}

struct gpu_chunk *gpu_stage_array(uint32_t count)
{
    return MCS_NEW_ARRAY(gpu_chunk_t, count);
}

void gpu_stage_drop(mcs_mem_space_t *space)
{
    for (uint32_t i = 0; i < space->chunk_count; i++) {
        free_chunk(space, &space->chunks[i]);
    }
    space->chunk_count = 0;
}
