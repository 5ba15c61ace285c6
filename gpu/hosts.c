/* Host memory that the driver pins for us: segments, own and mapped, in pieces of 64 MiB. Pinned memory is copied by
 * the GPU's engines at full speed; other memory goes through the driver's own small buffers.
 *
 * A piece is pinned by the first copy that touches it, and only when all of it has been faulted in: pinning a hole
 * would allocate it. A piece that cannot be pinned (no memory left for it, or past the limit) stays unpinned for good,
 * with one warning; copies are right all the same.
 *
 * The memory must not be unmapped while it is pinned: a later mapping at the same address would be taken for the old
 * pages. So whoever made the memory known keeps it until `released`, which comes when it was forgotten and the last job
 * that used it has ended; only then are the pieces unpinned, by that thread. */
#include "core/base/alloc.h"
#include "gpu/internal.h"

bool gpu_pin_take(mcs_mem_space_t *space, uint64_t bytes)
{
    uint64_t held = __atomic_load_n(&space->pinned, __ATOMIC_RELAXED);
    do {
        if (bytes > space->config.pin_limit || held > space->config.pin_limit - bytes) {
            if (!__atomic_exchange_n(&space->pin_warned, true, __ATOMIC_RELAXED)) {
                mcs_warn(GPU_AREA,
                         "%llu bytes of host memory are pinned, the limit is %llu: the rest is copied unpinned",
                         (unsigned long long)held, (unsigned long long)space->config.pin_limit);
            }
            return false;
        }
    } while (
        !__atomic_compare_exchange_n(&space->pinned, &held, held + bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

void gpu_pin_give(mcs_mem_space_t *space, uint64_t bytes)
{
    __atomic_fetch_sub(&space->pinned, bytes, __ATOMIC_RELAXED);
}

/* ---- the list ---- */

static gpu_host_t *find_locked(const mcs_mem_space_t *space, const void *ptr)
{
    MCS_LIST_FOR_EACH(node, &space->hosts)
    {
        gpu_host_t *host = MCS_CONTAINER_OF(node, gpu_host_t, node);
        uint64_t into = (uint64_t)(uintptr_t)ptr - (uint64_t)(uintptr_t)host->memory.base;
        if (into < host->memory.size) {
            return host;
        }
    }
    return NULL;
}

mcs_status_t gpu_host_add(mcs_mem_space_t *space, const mcs_mem_host_t *memory)
{
    gpu_host_t *host = MCS_NEW(gpu_host_t);
    uint64_t count = (memory->size + GPU_HOST_PIECE - 1) / GPU_HOST_PIECE;
    mcs_status_t status = host != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    if (status == MCS_OK) {
        host->refs = 1;
        host->memory = *memory;
        host->piece_count = count;
        host->pieces = MCS_NEW_ARRAY(uint8_t, (size_t)count);
        host->shift = MCS_NEW_ARRAY(uint64_t, (size_t)count);
        status = host->pieces != NULL && host->shift != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status == MCS_OK) {
        mcs_mutex_lock(&space->host_lock);
        if (find_locked(space, memory->base) != NULL) {
            status = MCS_ERR_SEGMENT_ALREADY_EXISTS;
        } else {
            mcs_list_push_head(&space->hosts, &host->node);
        }
        mcs_mutex_unlock(&space->host_lock);
    }
    if (status != MCS_OK && host != NULL) {
        mcs_free(host->pieces);
        mcs_free(host->shift);
        mcs_free(host);
    }
    return status;
}

gpu_host_t *gpu_host_get(mcs_mem_space_t *space, const void *ptr)
{
    mcs_mutex_lock(&space->host_lock);
    gpu_host_t *host = find_locked(space, ptr);
    if (host != NULL) {
        host->refs++;
    }
    mcs_mutex_unlock(&space->host_lock);
    return host;
}

static uint8_t *piece_base(const gpu_host_t *host, uint64_t i)
{
    return (uint8_t *)host->memory.base + i * GPU_HOST_PIECE;
}

static uint64_t piece_len(const gpu_host_t *host, uint64_t i)
{
    return MCS_MIN(host->memory.size - i * GPU_HOST_PIECE, GPU_HOST_PIECE);
}

/* Unpinning needs no context of a particular device, but a current one. */
static void unpin_all(mcs_mem_space_t *space, gpu_host_t *host)
{
    gpu_device_t *device = NULL;
    for (uint64_t i = 0; i < host->piece_count; i++) {
        if (host->pieces[i] != GPU_PIECE_PINNED) {
            continue;
        }
        for (int d = 0; d < space->device_count && device == NULL; d++) {
            if (__atomic_load_n(&space->devices[d].context, __ATOMIC_ACQUIRE) == NULL ||
                cuda_ctx_enter(space, d, &device) != MCS_OK) {
                device = NULL;
            }
        }
        /* At exit the driver may be gone, and the pins with it. */
        cuda_result_t result = space->driver->host_unregister(piece_base(host, i));
        if (result != CUDA_OK && result != CUDA_DEINITIALIZED) {
            (void)cuda_failed(space->driver, device, "host_unregister", result);
        }
        gpu_pin_give(space, piece_len(host, i));
    }
    if (device != NULL) {
        cuda_ctx_leave(space, device);
    }
}

void gpu_host_put(mcs_mem_space_t *space, gpu_host_t *host)
{
    mcs_mutex_lock(&space->host_lock);
    bool last = --host->refs == 0;
    mcs_mutex_unlock(&space->host_lock);
    if (!last) {
        return;
    }
    unpin_all(space, host);
    host->memory.released(host->memory.arg);
    mcs_free(host->pieces);
    mcs_free(host->shift);
    mcs_free(host);
}

void gpu_host_forget(mcs_mem_space_t *space, const void *base)
{
    mcs_mutex_lock(&space->host_lock);
    gpu_host_t *host = find_locked(space, base);
    if (host != NULL) {
        mcs_list_remove(&host->node);
    }
    mcs_mutex_unlock(&space->host_lock);
    if (host != NULL) {
        gpu_host_put(space, host);
    }
}

void gpu_host_forget_all(mcs_mem_space_t *space)
{
    while (!mcs_list_empty(&space->hosts)) { /* at close: nobody else is here */
        gpu_host_forget(space, MCS_LIST_FIRST(&space->hosts, gpu_host_t, node)->memory.base);
    }
}

/* ---- pieces ---- */

/* GPU_PIECE_PINNED or GPU_PIECE_FAILED, or GPU_PIECE_NEW while it is not faulted in. */
static gpu_piece_state_t pin_piece(mcs_mem_space_t *space, gpu_host_t *host, uint64_t i)
{
    uint64_t len = piece_len(host, i);
    uint64_t faulted = __atomic_load_n(host->memory.faulted, __ATOMIC_ACQUIRE);
    if (i * GPU_HOST_PIECE + len > faulted) {
        return GPU_PIECE_NEW;
    }
    if (!gpu_pin_take(space, len)) {
        return GPU_PIECE_FAILED;
    }
    const cuda_driver_t *driver = space->driver;
    uint8_t *base = piece_base(host, i);
    cuda_ptr_t device = 0;
    const char *call = "host_register";
    cuda_result_t result = driver->host_register(base, (size_t)len, CUDA_HOST_PORTABLE | CUDA_HOST_DEVICEMAP);
    if (result == CUDA_OK) {
        call = "host_device_pointer";
        result = driver->host_device_pointer(&device, base, 0);
        if (result != CUDA_OK) {
            (void)driver->host_unregister(base);
        }
    }
    if (result != CUDA_OK) {
        gpu_pin_give(space, len);
        if (!__atomic_exchange_n(&space->pin_warned, true, __ATOMIC_RELAXED)) {
            (void)cuda_failed(driver, NULL, call, result);
        }
        return GPU_PIECE_FAILED;
    }
    host->shift[i] = device - (uint64_t)(uintptr_t)base;
    return GPU_PIECE_PINNED;
}

uint64_t gpu_host_span(mcs_mem_space_t *space, gpu_host_t *host, const void *ptr, uint64_t len, cuda_ptr_t *device_out)
{
    uint64_t into = (uint64_t)(uintptr_t)ptr - (uint64_t)(uintptr_t)host->memory.base;
    uint64_t i = into / GPU_HOST_PIECE;
    uint8_t state = __atomic_load_n(&host->pieces[i], __ATOMIC_ACQUIRE);
    uint8_t fresh = GPU_PIECE_NEW;
    if (state == GPU_PIECE_NEW && __atomic_compare_exchange_n(&host->pieces[i], &fresh, (uint8_t)GPU_PIECE_BUSY, false,
                                                              __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        state = (uint8_t)pin_piece(space, host, i);
        /* Release: who sees it pinned sees its shift. */
        __atomic_store_n(&host->pieces[i], state, __ATOMIC_RELEASE);
    }
    *device_out = state == GPU_PIECE_PINNED ? (uint64_t)(uintptr_t)ptr + host->shift[i] : 0;
    return MCS_MIN(len, (i + 1) * GPU_HOST_PIECE - into);
}
