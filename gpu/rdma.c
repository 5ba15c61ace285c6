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

static const char *why_not(mcs_mem_space_t *space, const mcs_mem_where_t *where, cuda_ptr_t at)
{
    const gpu_device_t *device = &space->devices[where->device];
    const cuda_driver_t *driver = space->driver;
    int capable = 0;
    unsigned on = 1;
    if (where->kind != MCS_MEM_DEVICE) {
        return "managed memory may move";
    }
    if (device->rdma == GPU_RDMA_NONE) {
        return "the device or its driver does not support it";
    }
    /* Acquire: as every look at it (kernels.c). */
    if (space->kernel_image == NULL || __atomic_load_n(&device->kernels, __ATOMIC_ACQUIRE) == GPU_KERNELS_NONE) {
        return "the device cannot make the checksums";
    }
    if (driver->pointer_get_attribute(&capable, CUDA_POINTER_RDMA_CAPABLE, at) != CUDA_OK || capable == 0) {
        return "the allocation was not made for it";
    }
    if (driver->pointer_set_attribute(&on, CUDA_POINTER_SYNC_MEMOPS, at) != CUDA_OK) {
        return "the driver does not order its own copies of this kind of memory";
    }
    return NULL;
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
        const char *reason = why_not(space, &where, at);
        uint64_t end = gpu_mapping_end(space, at, &where, start + len);
        if (reason != NULL || end <= at) {
            refused(space, where.device, reason != NULL ? reason : "the driver does not say how long it is");
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
