/* Contexts: the only file that makes one current. A device's primary context is what the frameworks use; it is retained
 * when the device is first needed, which is when somebody has memory on it, so that none is made that was not there. */
#include "gpu/internal.h"

static mcs_status_t retain(mcs_mem_space_t *space, gpu_device_t *device)
{
    const cuda_driver_t *driver = space->driver;
    cuda_context_t context = NULL;
    mcs_status_t status = CUDA_TRY(driver, device, primary_retain, (&context, device->handle));
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&device->lock);
    bool mine = device->context == NULL;
    if (mine) {
        __atomic_store_n(&device->context, context, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&device->lock);
    if (!mine) {
        (void)driver->primary_release(device->handle); /* another thread was first */
    }
    return MCS_OK;
}

mcs_status_t cuda_ctx_enter(mcs_mem_space_t *space, int ordinal, gpu_device_t **device_out)
{
    if (ordinal < 0 || ordinal >= space->device_count) {
        return MCS_ERR_INVALID_PARAMS;
    }
    gpu_device_t *device = &space->devices[ordinal];
    mcs_status_t status = MCS_OK;
    if (__atomic_load_n(&device->context, __ATOMIC_ACQUIRE) == NULL) {
        status = retain(space, device);
    }
    if (status == MCS_OK) {
        status = CUDA_TRY(space->driver, device, ctx_push, (device->context));
    }
    if (status == MCS_OK) {
        *device_out = device;
    }
    return status;
}

bool cuda_ctx_enter_active(mcs_mem_space_t *space, gpu_device_t **device_out)
{
    for (int i = 0; i < space->device_count; i++) {
        unsigned flags = 0;
        int active = 0;
        if (space->driver->primary_state(space->devices[i].handle, &flags, &active) == CUDA_OK && active != 0 &&
            cuda_ctx_enter(space, i, device_out) == MCS_OK) {
            return true;
        }
    }
    return false;
}

void cuda_ctx_leave(mcs_mem_space_t *space, gpu_device_t *device)
{
    cuda_context_t context;
    cuda_result_t result = space->driver->ctx_pop(&context);
    if (result != CUDA_OK) {
        (void)cuda_failed(space->driver, device, "ctx_pop", result);
    }
}

void cuda_ctx_release(mcs_mem_space_t *space, gpu_device_t *device)
{
    if (device->context != NULL) {
        (void)space->driver->primary_release(device->handle); /* at exit the driver may be gone already */
        device->context = NULL;
    }
}
