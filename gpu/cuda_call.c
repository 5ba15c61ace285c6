/* What a failed call of the driver says to people and to callers. */
#include <stdio.h>

#include "gpu/internal.h"

mcs_status_t cuda_failed(const cuda_driver_t *driver, const gpu_device_t *device, const char *call,
                         cuda_result_t result)
{
    const char *name = NULL;
    const char *text = NULL;
    if (driver->get_error_name(result, &name) != CUDA_OK || name == NULL) {
        name = "unknown error";
    }
    if (driver->get_error_string(result, &text) != CUDA_OK || text == NULL) {
        text = "no description";
    }
    mcs_status_t status = result == CUDA_OUT_OF_MEMORY ? MCS_ERR_NO_MEMORY : MCS_ERR_TRANSFER_FAIL;
    char where[16 + sizeof(device->name)] = "no device";
    if (device != NULL) {
        (void)snprintf(where, sizeof(where), "cuda:%d %s", device->ordinal, device->name);
    }
    mcs_error(GPU_AREA, "%s on %s, driver %d.%d: %s (%d, %s): %s", call, where, driver->version / 1000,
              driver->version % 1000 / 10, name, result, text, mcs_status_name(status));
    return status;
}
