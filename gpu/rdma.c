/* Device memory that RDMA devices read and write by themselves (GPUDirect): what the driver has to say about it. That
 * an RDMA device does reach it is for the transport to find out, when it registers the memory.
 *
 *   before   each allocation is told to wait with the caller's own synchronous copies (the driver's word for it is
 *            SYNC_MEMOPS): otherwise one that has returned may still be under way while the RDMA device reads
 *   after    what has been written is seen by work that is started on the device afterwards; at once where the device
 *            orders such writes, else after a flush
 *
 * Managed memory is left out, because an RDMA device would hold its pages where they are now; so is what the driver
 * calls unfit (of virtual memory, what was not made for it). */
#include "gpu/internal.h"

/* With the device's context current. What sums need is had now, or not relied on: a GPU that is full stays so. */
static bool can_sum(mcs_mem_space_t *space, gpu_device_t *device)
{
    gpu_scratch_t *scratch = gpu_kernels_ready(space, device) ? gpu_scratch_wait(space, device) : NULL;
    if (scratch != NULL) {
        gpu_scratch_put(device, scratch);
    }
    return scratch != NULL;
}

/* With the device's context current; NULL: it is open now. */
static const char *open_allocation(mcs_mem_space_t *space, gpu_device_t *device, cuda_ptr_t at)
{
    const cuda_driver_t *driver = space->driver;
    int capable = 0;
    unsigned on = 1;
    if (!can_sum(space, device)) {
        return "the device cannot make the checksums";
    }
    if (driver->pointer_get_attribute(&capable, CUDA_POINTER_RDMA_CAPABLE, at) != CUDA_OK || capable == 0) {
        return "the allocation was not made for it";
    }
    cuda_result_t result = driver->pointer_set_attribute(&on, CUDA_POINTER_SYNC_MEMOPS, at);
    if (result != CUDA_OK) {
        mcs_debug(GPU_AREA, "cuda:%d: SYNC_MEMOPS at %#llx: error %d", device->ordinal, (unsigned long long)at, result);
        return "the driver does not order its own copies of this memory";
    }
    return NULL;
}

static const char *open_one(mcs_mem_space_t *space, const mcs_mem_where_t *where, cuda_ptr_t at)
{
    gpu_device_t *device;
    if (where->kind != MCS_MEM_DEVICE) {
        return "managed memory may move";
    }
    if (space->devices[where->device].rdma == GPU_RDMA_NONE) {
        return "the device or its driver does not support it";
    }
    if (cuda_ctx_enter(space, where->device, &device) != MCS_OK) {
        return "the device does not answer";
    }
    const char *reason = open_allocation(space, device, at);
    cuda_ctx_leave(space, device);
    return reason;
}

static void refused(mcs_mem_space_t *space, int device, const char *reason)
{
    if (!__atomic_exchange_n(&space->rdma_warned, true, __ATOMIC_RELAXED)) {
        mcs_warn(GPU_AREA, "memory on cuda:%d is not open to RDMA devices: %s; it goes through pinned host memory",
                 device, reason);
    }
}

bool gpu_rdma_open(mcs_mem_space_t *space, const void *ptr, uint64_t len)
{
    uint64_t start = (uint64_t)(uintptr_t)ptr;
    for (uint64_t at = start; at < start + len;) {
        mcs_mem_where_t where;
        const void *address = (const void *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
        if (gpu_query(space, address, &where) != MCS_OK || where.device < 0) {
            return false; /* gone meanwhile */
        }
        uint64_t end = gpu_mapping_end(space, at, &where, start + len);
        const char *reason = end > at ? open_one(space, &where, at) : "the driver does not say how long it is";
        if (reason != NULL) {
            refused(space, where.device, reason);
            return false;
        }
        at = end;
    }
    return true;
}

mcs_status_t gpu_rdma_arrived(const mcs_mem_space_t *space, const gpu_device_t *device)
{
    if (device->rdma != GPU_RDMA_FLUSHED) {
        return MCS_OK;
    }
    return CUDA_TRY(space->driver, device, flush_rdma_writes, (CUDA_RDMA_FLUSH_CURRENT, CUDA_RDMA_FLUSH_TO_OWNER));
}
