/* Streams, events and scratch memory of a device: made when first needed, kept until close. Streams are shared by jobs
 * in turns, with a set for each use; they do not wait for the default stream, and kernels on them have the least
 * priority. */
#include <poll.h>
#include <sched.h>

#include "core/base/clock.h"
#include "gpu/internal.h"

#define SPIN_NS (50 * MCS_NS_PER_US) /* most copies are done by then; after it the thread sleeps in the driver */

mcs_status_t gpu_stream_pick(mcs_mem_space_t *space, gpu_device_t *device, gpu_use_t use, cuda_stream_t *stream_out)
{
    const cuda_driver_t *driver = space->driver;
    mcs_mutex_lock(&device->lock);
    uint32_t at = device->next_stream[use]++ % GPU_STREAMS;
    cuda_stream_t stream = device->streams[use][at];
    mcs_mutex_unlock(&device->lock);
    if (stream != NULL) {
        *stream_out = stream;
        return MCS_OK;
    }
    int least = 0;
    int greatest = 0;
    mcs_status_t status = CUDA_TRY(driver, device, ctx_priorities, (&least, &greatest));
    if (status == MCS_OK) {
        status = CUDA_TRY(driver, device, stream_create, (&stream, CUDA_STREAM_NON_BLOCKING, least));
    }
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&device->lock);
    cuda_stream_t other = device->streams[use][at];
    if (other == NULL) {
        device->streams[use][at] = stream;
    }
    mcs_mutex_unlock(&device->lock);
    if (other != NULL) {
        (void)driver->stream_destroy(stream);
    }
    *stream_out = other != NULL ? other : stream;
    return MCS_OK;
}

mcs_status_t gpu_event_get(mcs_mem_space_t *space, gpu_device_t *device, cuda_event_t *event_out)
{
    mcs_mutex_lock(&device->lock);
    cuda_event_t event = device->event_count > 0 ? device->events[--device->event_count] : NULL;
    mcs_mutex_unlock(&device->lock);
    mcs_status_t status = MCS_OK;
    if (event == NULL) {
        status = CUDA_TRY(space->driver, device, event_create,
                          (&event, CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_BLOCKING_SYNC));
    }
    if (status == MCS_OK) {
        *event_out = event;
    }
    return status;
}

void gpu_event_put(mcs_mem_space_t *space, gpu_device_t *device, cuda_event_t event)
{
    mcs_mutex_lock(&device->lock);
    bool kept = device->event_count < GPU_EVENTS_MAX;
    if (kept) {
        device->events[device->event_count++] = event;
    }
    mcs_mutex_unlock(&device->lock);
    if (!kept) {
        (void)space->driver->event_destroy(event);
    }
}

mcs_status_t gpu_event_mark(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_event_t *event_out)
{
    cuda_event_t event = NULL;
    mcs_status_t status = gpu_event_get(space, device, &event);
    if (status != MCS_OK) {
        return status;
    }
    status = CUDA_TRY(space->driver, device, event_record, (event, stream));
    if (status != MCS_OK) {
        gpu_event_put(space, device, event);
        return status;
    }
    *event_out = event;
    return MCS_OK;
}

/* Asked first, and only then slept for in the driver; that needs a current context, asking does not. One error does not
 * end the wait: work that goes on would be writing to memory that its owner has back. A device that only answers with
 * errors has failed and runs nothing any more. */
mcs_status_t gpu_event_wait(const mcs_mem_space_t *space, const gpu_device_t *device, cuda_event_t event, bool entered)
{
    const cuda_driver_t *driver = space->driver;
    uint64_t spin_end = mcs_now_ns() + SPIN_NS;
    mcs_status_t status = MCS_OK;
    for (;;) {
        cuda_result_t result = driver->event_query(event);
        if (result != CUDA_OK && result != CUDA_NOT_READY) {
            if (status != MCS_OK) {
                return status;
            }
            status = cuda_failed(driver, device, "event_query", result);
        } else if (result == CUDA_OK) {
            return status;
        } else if (mcs_now_ns() < spin_end) {
            sched_yield();
        } else if (entered && status == MCS_OK) {
            status = CUDA_TRY(driver, device, event_synchronize, (event));
        } else {
            poll(NULL, 0, 1);
        }
    }
}

/* ---- scratch ---- */

static void free_scratch(mcs_mem_space_t *space, gpu_scratch_t *scratch)
{
    if (scratch->device != 0) {
        (void)space->driver->mem_free(scratch->device);
    }
    if (scratch->host != NULL) {
        (void)space->driver->host_free(scratch->host);
    }
    *scratch = (gpu_scratch_t){0};
}

static bool make_scratch(mcs_mem_space_t *space, const gpu_device_t *device, gpu_scratch_t *scratch)
{
    *scratch = (gpu_scratch_t){.busy = true};
    mcs_status_t status =
        CUDA_TRY(space->driver, device, host_alloc, (&scratch->host, GPU_SCRATCH_BYTES, CUDA_HOST_PORTABLE));
    if (status == MCS_OK) {
        status = CUDA_TRY(space->driver, device, mem_alloc, (&scratch->device, GPU_SCRATCH_BYTES));
    }
    if (status != MCS_OK) {
        free_scratch(space, scratch);
    }
    return status == MCS_OK;
}

static gpu_scratch_t *take_locked(gpu_scratches_t *pool)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        if (!pool->item[i].busy) {
            pool->item[i].busy = true;
            return &pool->item[i];
        }
    }
    return NULL;
}

static bool may_make_locked(const mcs_mem_space_t *space, const gpu_scratches_t *pool)
{
    return pool->count + pool->making < GPU_SCRATCH_COUNT && !pool->failed && space->driver->mem_alloc != NULL &&
           space->driver->mem_free != NULL;
}

/* With the device's lock, which it lets go meanwhile. NULL: there is no memory. */
static gpu_scratch_t *add_locked(mcs_mem_space_t *space, gpu_device_t *device, gpu_scratches_t *pool)
{
    gpu_scratch_t made;
    gpu_scratch_t *added = NULL;
    pool->making++;
    mcs_mutex_unlock(&device->lock);
    bool ok = make_scratch(space, device, &made);
    mcs_mutex_lock(&device->lock);
    pool->making--;
    if (ok) {
        added = &pool->item[pool->count++];
        *added = made;
    }
    pool->failed = pool->failed || !ok; /* a GPU that is full stays so */
    mcs_cond_broadcast(&device->scratch_free);
    return added;
}

gpu_scratch_t *gpu_scratch_get(mcs_mem_space_t *space, gpu_device_t *device)
{
    mcs_mutex_lock(&device->lock);
    gpu_scratch_t *found = take_locked(&device->copies);
    if (found == NULL && may_make_locked(space, &device->copies)) {
        found = add_locked(space, device, &device->copies);
    }
    mcs_mutex_unlock(&device->lock);
    return found;
}

gpu_scratch_t *gpu_scratch_wait(mcs_mem_space_t *space, gpu_device_t *device)
{
    gpu_scratches_t *pool = &device->sums;
    gpu_scratch_t *found;
    mcs_mutex_lock(&device->lock);
    while ((found = take_locked(pool)) == NULL) {
        if (may_make_locked(space, pool)) {
            found = add_locked(space, device, pool);
            if (found != NULL) {
                break;
            }
        } else if (pool->count + pool->making == 0) {
            break;
        } else {
            mcs_cond_wait(&device->scratch_free, &device->lock);
        }
    }
    mcs_mutex_unlock(&device->lock);
    return found;
}

void gpu_scratch_put(gpu_device_t *device, gpu_scratch_t *scratch)
{
    mcs_mutex_lock(&device->lock);
    scratch->busy = false;
    mcs_cond_signal(&device->scratch_free);
    mcs_mutex_unlock(&device->lock);
}

static void drop_scratches(mcs_mem_space_t *space, gpu_scratches_t *pool)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        free_scratch(space, &pool->item[i]);
    }
    pool->count = 0;
}

void gpu_pools_drop(mcs_mem_space_t *space, gpu_device_t *device)
{
    const cuda_driver_t *driver = space->driver;
    drop_scratches(space, &device->copies);
    drop_scratches(space, &device->sums);
    for (uint32_t i = 0; i < device->event_count; i++) {
        (void)driver->event_destroy(device->events[i]);
    }
    device->event_count = 0;
    for (int use = 0; use < GPU_USES; use++) {
        for (uint32_t i = 0; i < GPU_STREAMS; i++) {
            if (device->streams[use][i] != NULL) {
                (void)driver->stream_destroy(device->streams[use][i]);
                device->streams[use][i] = NULL;
            }
        }
    }
}
