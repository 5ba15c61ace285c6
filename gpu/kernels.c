/* The kernels of kernels/paged.cu: loaded on each device when first wanted. A driver that cannot load them (older than
 * the compiler that made them, a GPU they were not made for) leaves the device without: copies go by the engines, CRCs
 * are summed on the processor. */
#include "gpu/internal.h"

/* Blocks of a launch: enough to fill a bus or to keep up with one, few enough to leave the GPU to the engine. */
#define COPY_BLOCKS  32u
#define COPY_THREADS 256u
#define CRC_BLOCKS   64u
#define CRC_THREADS  128u

static bool load(mcs_mem_space_t *space, gpu_device_t *device)
{
    const cuda_driver_t *driver = space->driver;
    cuda_module_t module = NULL;
    cuda_function_t copy = NULL;
    cuda_function_t crc = NULL;
    cuda_result_t result = driver->module_load(&module, space->kernel_image);
    if (result == CUDA_OK) {
        result = driver->module_get_function(&copy, module, "mcs_copy_rows");
        if (result == CUDA_OK) {
            result = driver->module_get_function(&crc, module, "mcs_crc_rows");
        }
        if (result != CUDA_OK) {
            (void)driver->module_unload(module);
        }
    }
    if (result != CUDA_OK) {
        mcs_debug(GPU_AREA, "cuda:%d %s: no kernels (error %d): fragments go by copies", device->ordinal, device->name,
                  result);
        return false;
    }
    mcs_mutex_lock(&device->lock);
    bool mine = device->module == NULL;
    if (mine) {
        device->module = module;
        device->copy_kernel = copy;
        device->crc_kernel = crc;
    }
    mcs_mutex_unlock(&device->lock);
    if (!mine) {
        (void)driver->module_unload(module);
    }
    return true;
}

bool gpu_kernels_ready(mcs_mem_space_t *space, gpu_device_t *device)
{
    gpu_kernels_state_t state = __atomic_load_n(&device->kernels, __ATOMIC_ACQUIRE);
    if (state == GPU_KERNELS_UNTRIED) {
        state = space->kernel_image != NULL && load(space, device) ? GPU_KERNELS_READY : GPU_KERNELS_NONE;
        /* Release: who sees READY sees the functions. */
        __atomic_store_n(&device->kernels, state, __ATOMIC_RELEASE);
    }
    return state == GPU_KERNELS_READY;
}

void gpu_kernels_drop(mcs_mem_space_t *space, gpu_device_t *device)
{
    if (device->module != NULL) {
        (void)space->driver->module_unload(device->module);
        device->module = NULL;
    }
}

mcs_status_t gpu_launch_copy(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_ptr_t rows,
                             uint32_t count)
{
    void *parameters[] = {&rows, &count};
    return CUDA_TRY(
        space->driver, device, launch_kernel,
        (device->copy_kernel, MCS_MIN(count, COPY_BLOCKS), 1, 1, COPY_THREADS, 1, 1, 0, stream, parameters, NULL));
}

mcs_status_t gpu_launch_crc(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_ptr_t rows,
                            uint32_t count, cuda_ptr_t crcs)
{
    void *parameters[] = {&rows, &count, &crcs};
    return CUDA_TRY(
        space->driver, device, launch_kernel,
        (device->crc_kernel, MCS_MIN(count, CRC_BLOCKS), 1, 1, CRC_THREADS, 1, 1, 0, stream, parameters, NULL));
}
