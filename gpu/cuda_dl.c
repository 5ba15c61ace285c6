/* Finds the driver. It is not loaded or started by looking: as long as nobody in the process has done so, no address
 * can be a device's, and a process that never uses the GPU pays nothing and may fork as it likes (a driver that was
 * started does not survive a fork). Who asks for memory of a device has it started. */
#include <dlfcn.h>

#include "gpu/internal.h"

#define LIBRARY "libcuda.so.1"

typedef enum need { MUST, MAY } need_t;

typedef struct symbol {
    const char *name;
    int since;
    need_t need;
    size_t offset; /* of the field */
} symbol_t;

static const symbol_t g_symbols[] = {
#define CUDA_SYMBOL(field, symbol, since, need, parameters) {#symbol, since, need, offsetof(cuda_driver_t, field)},
#include "gpu/cuda_symbols.def"
#undef CUDA_SYMBOL
};

static uint32_t g_warned; /* atomic */

static void set_field(cuda_driver_t *driver, const symbol_t *symbol, void *address)
{
    /* POSIX lets a function's address come as a void *. */
    *(void **)(void *)((char *)driver + symbol->offset) = address;
}

static mcs_status_t take_symbols(cuda_driver_t *driver)
{
    *(void **)(void *)&driver->driver_get_version = dlsym(driver->library, "cuDriverGetVersion");
    if (driver->driver_get_version == NULL || driver->driver_get_version(&driver->version) != CUDA_OK) {
        return MCS_ERR_AGAIN;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_symbols); i++) {
        const symbol_t *symbol = &g_symbols[i];
        void *address = symbol->since <= driver->version ? dlsym(driver->library, symbol->name) : NULL;
        if (address == NULL && symbol->need == MUST) {
            if (__atomic_exchange_n(&g_warned, 1, __ATOMIC_RELAXED) == 0) {
                mcs_warn(GPU_AREA, "CUDA driver %d.%d has no %s (since %d.%d): GPU memory cannot be used: %s",
                         driver->version / 1000, driver->version % 1000 / 10, symbol->name, symbol->since / 1000,
                         symbol->since % 1000 / 10, mcs_status_name(MCS_ERR_NOT_SUPPORTED));
            }
            return MCS_ERR_NOT_SUPPORTED;
        }
        set_field(driver, symbol, address);
    }
    return MCS_OK;
}

mcs_status_t cuda_driver_find(cuda_driver_t *driver_out)
{
    cuda_driver_t driver = {.library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)};
    if (driver.library == NULL) {
        return MCS_ERR_AGAIN;
    }
    int count = 0;
    mcs_status_t status = take_symbols(&driver);
    if (status == MCS_OK && driver.device_get_count(&count) != CUDA_OK) {
        status = MCS_ERR_AGAIN; /* not started, or there is no device */
    }
    if (status == MCS_OK && count <= 0) {
        status = MCS_ERR_AGAIN;
    }
    if (status != MCS_OK) {
        cuda_driver_forget(&driver);
        return status;
    }
    *driver_out = driver;
    return MCS_OK;
}

/* The library stays loaded: a driver that was started must not be unloaded. */
bool cuda_driver_start(void)
{
    cuda_result_t (*init)(unsigned flags) = NULL;
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *text = dlerror();
        mcs_warn(GPU_AREA, "no CUDA driver: %s: %s", text != NULL ? text : LIBRARY,
                 mcs_status_name(MCS_ERR_NOT_SUPPORTED));
        return false;
    }
    *(void **)(void *)&init = dlsym(library, "cuInit");
    cuda_result_t result = init != NULL ? init(0) : CUDA_NOT_SUPPORTED;
    if (result != CUDA_OK) {
        mcs_warn(GPU_AREA, "the CUDA driver does not start (error %d): %s", result,
                 mcs_status_name(MCS_ERR_NOT_SUPPORTED));
    }
    return result == CUDA_OK;
}

void cuda_driver_forget(cuda_driver_t *driver)
{
    if (driver->library != NULL) {
        dlclose(driver->library);
        driver->library = NULL;
    }
}
