/* What a device can do, asked once. A device that does not answer can do nothing special: it is copied to and from all
 * the same. */
#include "gpu/internal.h"

static int ask(const cuda_driver_t *driver, const gpu_device_t *device, int attribute)
{
    int value = 0;
    return driver->device_get_attribute(&value, attribute, device->handle) == CUDA_OK ? value : 0;
}

/* All of it, as one way of making and sharing memory. */
static bool has_vmm(const cuda_driver_t *driver, const gpu_device_t *device)
{
    return driver->vmm_granularity != NULL && driver->vmm_create != NULL && driver->vmm_release != NULL &&
           driver->vmm_reserve != NULL && driver->vmm_unreserve != NULL && driver->vmm_map != NULL &&
           driver->vmm_unmap != NULL && driver->vmm_set_access != NULL && driver->vmm_export != NULL &&
           driver->vmm_import != NULL && ask(driver, device, CUDA_DEVICE_HAS_VMM) != 0 &&
           ask(driver, device, CUDA_DEVICE_HAS_VMM_FDS) != 0;
}

void gpu_probe(const cuda_driver_t *driver, gpu_device_t *device)
{
    int major = ask(driver, device, CUDA_DEVICE_COMPUTE_MAJOR);
    device->compute = 10 * major + ask(driver, device, CUDA_DEVICE_COMPUTE_MINOR);
    device->has_pool = driver->mem_alloc_async != NULL && driver->mem_free_async != NULL &&
                       ask(driver, device, CUDA_DEVICE_HAS_POOLS) != 0;
    device->has_vmm = has_vmm(driver, device);
    if (device->compute < GPU_COMPUTE_MIN || driver->module_load == NULL || driver->module_unload == NULL ||
        driver->module_get_function == NULL || driver->launch_kernel == NULL) {
        device->kernels = GPU_KERNELS_NONE; /* not worth a try */
    }
    if (driver->pointer_set_attribute != NULL && ask(driver, device, CUDA_DEVICE_HAS_RDMA) != 0) {
        bool ordered = ask(driver, device, CUDA_DEVICE_RDMA_ORDERING) >= CUDA_RDMA_ORDERED_FOR_OWNER;
        bool flushed = driver->flush_rdma_writes != NULL &&
                       (ask(driver, device, CUDA_DEVICE_RDMA_FLUSHES) & CUDA_RDMA_FLUSH_BY_HOST) != 0;
        device->rdma = ordered ? GPU_RDMA_ORDERED : flushed ? GPU_RDMA_FLUSHED : GPU_RDMA_NONE;
    }
    bool batches = driver->memcpy_batch != NULL || driver->memcpy_batch_12 != NULL;
    mcs_debug(GPU_AREA, "cuda:%d %s: compute %d.%d, kernels %s, batches of copies %s, memory pool %s, RDMA %s",
              device->ordinal, device->name, major, device->compute % 10,
              device->kernels == GPU_KERNELS_NONE ? "no" : "if they load", batches ? "yes" : "no",
              device->has_pool ? "yes" : "no",
              device->rdma == GPU_RDMA_ORDERED   ? "in order"
              : device->rdma == GPU_RDMA_FLUSHED ? "with flushes"
                                                 : "no");
}
