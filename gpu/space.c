/* A space: what a client has of the GPUs. See core/ops/mem_space.h. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "gpu/gpu.h"
#include "gpu/internal.h"

#define STAGE_MIN 2u
#define STAGE_MAX 64u

/* kernels_image.c; 0 bytes when the build had no CUDA compiler. */
extern const unsigned char mcs_i_gpu_image[];
extern const uint64_t mcs_i_gpu_image_len;

static const void *g_test_image;
static bool g_has_test_image;

void mcs_gpu_set_kernel_image(const void *image)
{
    g_test_image = image;
    g_has_test_image = true;
}

static const void *kernel_image(void)
{
    if (g_has_test_image) {
        return g_test_image;
    }
    return mcs_i_gpu_image_len > 0 ? mcs_i_gpu_image : NULL;
}

static mcs_status_t gpu_open(const mcs_mem_space_config_t *config, mcs_mem_space_t **space_out)
{
    mcs_mem_space_t *space = MCS_NEW(mcs_mem_space_t);
    if (space == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    space->config = *config;
    space->process = mcs_process_token();
    space->refs = 1;
    space->config.stage_count = MCS_MIN(MCS_MAX(config->stage_count, STAGE_MIN), STAGE_MAX);
    space->kernel_image = kernel_image();
    space->chunks = gpu_stage_array(space->config.stage_count);
    if (space->chunks == NULL) {
        mcs_free(space);
        return MCS_ERR_NO_MEMORY;
    }
    mcs_rwlock_init(&space->range_lock, MCS_RANK_GPU, "gpu ranges");
    mcs_mutex_init(&space->host_lock, MCS_RANK_GPU, "gpu hosts");
    mcs_mutex_init(&space->stage_lock, MCS_RANK_GPU, "gpu staging");
    mcs_mutex_init(&space->look_lock, MCS_RANK_GPU, "gpu driver");
    mcs_cond_init(&space->stage_free);
    mcs_list_init(&space->hosts);
    *space_out = space;
    return MCS_OK;
}

/* ---- the driver ---- */

static const uint32_t *gpu_active(const mcs_mem_space_t *space)
{
    return &space->active;
}

static gpu_device_t *make_devices(const cuda_driver_t *driver, int count)
{
    gpu_device_t *devices = MCS_NEW_ARRAY(gpu_device_t, (size_t)count);
    for (int i = 0; devices != NULL && i < count; i++) {
        gpu_device_t *device = &devices[i];
        device->ordinal = i;
        mcs_mutex_init(&device->lock, MCS_RANK_GPU, "gpu device");
        mcs_cond_init(&device->scratch_free);
        if (driver->device_get(&device->handle, i) != CUDA_OK ||
            driver->device_get_name(device->name, (int)sizeof(device->name), device->handle) != CUDA_OK) {
            device->name[0] = '\0';
        }
        gpu_probe(driver, device);
    }
    return devices;
}

static void free_devices(gpu_device_t *devices, int count)
{
    for (int i = 0; devices != NULL && i < count; i++) {
        mcs_cond_fini(&devices[i].scratch_free);
        mcs_mutex_fini(&devices[i].lock);
    }
    mcs_free(devices);
}

bool gpu_look(mcs_mem_space_t *space)
{
    if (__atomic_load_n(&space->active, __ATOMIC_ACQUIRE) != 0) {
        return true;
    }
    cuda_driver_t *driver = MCS_NEW(cuda_driver_t);
    if (driver == NULL || cuda_driver_find(driver) != MCS_OK) {
        mcs_free(driver);
        return false;
    }
    int count = 0;
    gpu_device_t *devices = NULL;
    if (driver->device_get_count(&count) == CUDA_OK) {
        count = MCS_MIN(count, GPU_DEVICES_MAX);
        devices = make_devices(driver, count);
    }
    mcs_mutex_lock(&space->look_lock);
    bool mine = devices != NULL && space->driver == NULL;
    bool found = mine || space->driver != NULL;
    if (mine) {
        space->driver = driver;
        space->devices = devices;
        space->device_count = count;
        /* Release: who sees the flag sees the driver. */
        __atomic_store_n(&space->active, 1, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&space->look_lock);
    if (mine) {
        mcs_debug(GPU_AREA, "CUDA driver %d.%d, %d devices, the first %s; kernels: %s", driver->version / 1000,
                  driver->version % 1000 / 10, count, devices[0].name, space->kernel_image != NULL ? "yes" : "none");
    } else {
        free_devices(devices, count);
        cuda_driver_forget(driver);
        mcs_free(driver);
    }
    return found;
}

/* ---- close ---- */

/* With the context current: a stream may still run what a job of a failed device left. */
static void drop_device(mcs_mem_space_t *space, int ordinal)
{
    gpu_device_t *device = &space->devices[ordinal];
    gpu_device_t *entered;
    if (device->context == NULL) {
        return;
    }
    if (cuda_ctx_enter(space, ordinal, &entered) == MCS_OK) {
        gpu_kernels_drop(space, entered);
        gpu_pools_drop(space, entered);
        cuda_ctx_leave(space, entered);
    }
    cuda_ctx_release(space, device);
}

void gpu_space_put(mcs_mem_space_t *space)
{
    if (__atomic_sub_fetch(&space->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    if (space->driver != NULL) {
        for (int i = 0; i < space->device_count; i++) {
            drop_device(space, i);
        }
        free_devices(space->devices, space->device_count);
        cuda_driver_forget(space->driver);
        mcs_free(space->driver);
    }
    mcs_free(space->ranges);
    mcs_free(space->chunks);
    mcs_cond_fini(&space->stage_free);
    mcs_mutex_fini(&space->look_lock);
    mcs_mutex_fini(&space->stage_lock);
    mcs_mutex_fini(&space->host_lock);
    mcs_rwlock_fini(&space->range_lock);
    mcs_free(space);
}

static void gpu_close(mcs_mem_space_t *space)
{
    if (space == NULL) {
        return;
    }
    gpu_host_forget_all(space);
    if (space->driver != NULL) {
        gpu_stage_drop(space);
    }
    gpu_space_put(space);
}

const mcs_mem_space_ops_t mcs_gpu_space_ops = {
    .name = "cuda",
    .open = gpu_open,
    .close = gpu_close,
    .active = gpu_active,
    .look = gpu_look,
    .query = gpu_query,
    .locate = gpu_locate,
    .add_range = gpu_ranges_add,
    .remove_range = gpu_ranges_remove,
    .open_to_rdma = gpu_rdma_open,
    .add_host = gpu_host_add,
    .forget_host = gpu_host_forget,
    .far_create = gpu_far_create,
    .far_open = gpu_far_open,
    .far_close = gpu_far_close,
    .copy_begin = gpu_copy_begin,
    .copy_end = gpu_copy_end,
    .stage_get = gpu_stage_get,
    .stage_put = gpu_stage_put,
    .start = gpu_start_driver,
    .order_stream = gpu_order_stream,
    .wait_stream = gpu_wait_stream,
    .block_alloc = gpu_block_alloc,
    .block_free = gpu_block_free,
    .block_copy = gpu_block_copy,
};
