/* Far memory: memory of a device that a segment lies in, and that other processes of the host map.
 *
 *   virtual memory   made by a handle that is exported as a descriptor. Who has imported it holds the memory itself:
 *                    the exporter may die, and a reader's copies go on
 *   legacy           a plain allocation and an IPC handle, where the driver or the device has no virtual memory. The
 *                    memory is the exporter's; what its death does to a reader's copy is the driver's affair
 *
 * Devices are told apart by their UUID, because processes number them differently. A device reaches the memory when it
 * is that device, or (virtual memory only) has been given access as its peer.
 *
 * All calls run with the device's context current and no lock held. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/fork.h"
#include "gpu/internal.h"

#define PLAIN_GRAIN UINT64_C(65536) /* of legacy allocations; virtual ones have the driver's */

typedef struct gpu_far {
    mcs_mem_far_t far; /* first */
    cuda_memory_t memory;
    bool has_memory; /* of the virtual kind, what has been done: */
    bool reserved;
    bool mapped;
    bool allocated; /* of the legacy kind */
    bool opened;
} gpu_far_t;

/* ---- devices ---- */

static bool uuid_of(const mcs_mem_space_t *space, const gpu_device_t *device, cuda_uuid_t *uuid_out)
{
    const cuda_driver_t *driver = space->driver;
    cuda_result_t result = CUDA_NOT_SUPPORTED;
    if (driver->device_get_uuid_2 != NULL) {
        result = driver->device_get_uuid_2(uuid_out, device->handle);
    } else if (driver->device_get_uuid != NULL) {
        result = driver->device_get_uuid(uuid_out, device->handle);
    }
    return result == CUDA_OK;
}

static int find_device(const mcs_mem_space_t *space, const uint8_t uuid[sizeof(cuda_uuid_t)])
{
    cuda_uuid_t of;
    for (int i = 0; i < space->device_count; i++) {
        if (uuid_of(space, &space->devices[i], &of) && memcmp(of.bytes, uuid, sizeof(of)) == 0) {
            return i;
        }
    }
    return MCS_MEM_HOST;
}

/* ---- undoing ---- */

/* At exit the driver may be gone already, and the memory with it. */
static void undo(const mcs_mem_space_t *space, const gpu_device_t *device, const char *call, cuda_result_t result)
{
    if (result != CUDA_OK && result != CUDA_DEINITIALIZED) {
        (void)cuda_failed(space->driver, device, call, result);
    }
}

static void free_memory(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far)
{
    const cuda_driver_t *driver = space->driver;
    cuda_ptr_t at = (cuda_ptr_t)(uintptr_t)far->far.base;
    size_t len = (size_t)far->far.size;
    if (far->mapped) {
        undo(space, device, "vmm_unmap", driver->vmm_unmap(at, len));
    }
    if (far->reserved) {
        undo(space, device, "vmm_unreserve", driver->vmm_unreserve(at, len));
    }
    if (far->has_memory) {
        undo(space, device, "vmm_release", driver->vmm_release(far->memory));
    }
    if (far->allocated) {
        undo(space, device, "mem_free", driver->mem_free(at));
    }
    if (far->opened) {
        undo(space, device, "ipc_close_handle", driver->ipc_close_handle(at));
    }
    if (far->far.fd >= 0) {
        mcs_fork_guard_remove(far->far.fd);
        close(far->far.fd);
    }
    mcs_free(far);
}

void gpu_far_close(mcs_mem_space_t *space, mcs_mem_far_t *memory)
{
    gpu_far_t *far = (gpu_far_t *)memory;
    if (far == NULL) {
        return;
    }
    gpu_device_t *device = &space->devices[far->far.device];
    gpu_device_t *entered;
    bool current = cuda_ctx_enter(space, device->ordinal, &entered) == MCS_OK;
    free_memory(space, device, far);
    if (current) {
        cuda_ctx_leave(space, entered);
    }
}

/* ---- virtual memory ---- */

static cuda_memory_kind_t kind_on(const gpu_device_t *device)
{
    return (cuda_memory_kind_t){.type = CUDA_MEMORY_PINNED,
                                .shared_by = CUDA_SHARED_BY_FD,
                                .location = {CUDA_LOCATION_DEVICE, device->ordinal}};
}

/* For the device itself, and for those that can have it as its peers. */
static mcs_status_t give_access(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far)
{
    const cuda_driver_t *driver = space->driver;
    cuda_access_t access[GPU_DEVICES_MAX];
    size_t count = 0;
    uint64_t reach = UINT64_C(1) << device->ordinal;
    access[count++] = (cuda_access_t){{CUDA_LOCATION_DEVICE, device->ordinal}, CUDA_ACCESS_READ_WRITE};
    for (int i = 0; driver->device_can_access_peer != NULL && i < space->device_count; i++) {
        int can = 0;
        if (i != device->ordinal &&
            driver->device_can_access_peer(&can, space->devices[i].handle, device->handle) == CUDA_OK && can != 0) {
            access[count++] = (cuda_access_t){{CUDA_LOCATION_DEVICE, i}, CUDA_ACCESS_READ_WRITE};
            reach |= UINT64_C(1) << i;
        }
    }
    cuda_ptr_t at = (cuda_ptr_t)(uintptr_t)far->far.base;
    size_t len = (size_t)far->far.size;
    if (count > 1 && driver->vmm_set_access(at, len, access, count) == CUDA_OK) {
        far->far.reach = reach;
        return MCS_OK;
    }
    far->far.reach = UINT64_C(1) << device->ordinal;
    return CUDA_TRY(driver, device, vmm_set_access, (at, len, access, 1));
}

/* An address for the memory that far->memory stands for. */
static mcs_status_t map(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far, size_t alignment)
{
    const cuda_driver_t *driver = space->driver;
    size_t len = (size_t)far->far.size;
    cuda_ptr_t at = 0;
    mcs_status_t status = CUDA_TRY(driver, device, vmm_reserve, (&at, len, alignment, 0, 0));
    if (status == MCS_OK) {
        far->reserved = true;
        far->far.base = (uint8_t *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
        status = CUDA_TRY(driver, device, vmm_map, (at, len, 0, far->memory, 0));
    }
    if (status == MCS_OK) {
        far->mapped = true;
        status = give_access(space, device, far);
    }
    return status;
}

static mcs_status_t export_fd(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far)
{
    int fd = -1;
    mcs_status_t status = CUDA_TRY(space->driver, device, vmm_export, (&fd, far->memory, CUDA_SHARED_BY_FD, 0));
    if (status == MCS_OK) {
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        mcs_fork_guard_add(fd);
        far->far.fd = fd;
        far->far.share.kind = MCS_MEM_SHARE_FD;
    }
    return status;
}

static mcs_status_t make_virtual(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far)
{
    const cuda_driver_t *driver = space->driver;
    cuda_memory_kind_t kind = kind_on(device);
    size_t grain = 0;
    mcs_status_t status = CUDA_TRY(driver, device, vmm_granularity, (&grain, &kind, CUDA_GRANULARITY_LEAST));
    if (status != MCS_OK) {
        return status;
    }
    grain = MCS_MAX(grain, (size_t)1);
    far->far.size = (far->far.size + grain - 1) / grain * grain;
    status = CUDA_TRY(driver, device, vmm_create, (&far->memory, (size_t)far->far.size, &kind, 0));
    if (status != MCS_OK) {
        return status;
    }
    far->has_memory = true;
    status = map(space, device, far, grain);
    return status == MCS_OK ? export_fd(space, device, far) : status;
}

static mcs_status_t open_virtual(const mcs_mem_space_t *space, const gpu_device_t *device, int fd, gpu_far_t *far)
{
    void *handle = (void *)(uintptr_t)fd; /* NOLINT(performance-no-int-to-ptr): the driver's way */
    mcs_status_t status = CUDA_TRY(space->driver, device, vmm_import, (&far->memory, handle, CUDA_SHARED_BY_FD));
    if (status == MCS_OK) {
        far->has_memory = true;
        status = map(space, device, far, 0);
    }
    return status;
}

/* ---- legacy ---- */

static mcs_status_t make_plain(const mcs_mem_space_t *space, const gpu_device_t *device, gpu_far_t *far)
{
    const cuda_driver_t *driver = space->driver;
    cuda_ptr_t at = 0;
    cuda_ipc_handle_t handle;
    if (driver->mem_alloc == NULL || driver->mem_free == NULL || driver->ipc_get_handle == NULL) {
        return cuda_failed(driver, device, "ipc_get_handle", CUDA_NOT_SUPPORTED);
    }
    far->far.size = MCS_ALIGN_UP(far->far.size, PLAIN_GRAIN);
    mcs_status_t status = CUDA_TRY(driver, device, mem_alloc, (&at, (size_t)far->far.size));
    if (status == MCS_OK) {
        far->allocated = true;
        far->far.base = (uint8_t *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
        far->far.reach = UINT64_C(1) << device->ordinal;
        status = CUDA_TRY(driver, device, ipc_get_handle, (&handle, at));
    }
    if (status == MCS_OK) {
        memcpy(far->far.share.handle, handle.bytes, sizeof(handle.bytes));
        far->far.share.kind = MCS_MEM_SHARE_HANDLE;
    }
    return status;
}

static mcs_status_t open_plain(mcs_mem_space_t *space, const gpu_device_t *device, const mcs_mem_share_t *share,
                               gpu_far_t *far)
{
    const cuda_driver_t *driver = space->driver;
    cuda_ptr_t at = 0;
    cuda_ipc_handle_t handle;
    if (driver->ipc_open_handle == NULL || driver->ipc_close_handle == NULL) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    memcpy(handle.bytes, share->handle, sizeof(handle.bytes));
    mcs_status_t status = CUDA_TRY(driver, device, ipc_open_handle, (&at, handle, CUDA_IPC_LAZY_PEER));
    if (status != MCS_OK) {
        return status;
    }
    far->opened = true;
    far->far.base = (uint8_t *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
    far->far.reach = UINT64_C(1) << device->ordinal;
    mcs_mem_where_t where;
    status = gpu_query(space, far->far.base, &where);
    if (status == MCS_OK && (where.device < 0 || where.start > at || where.start + where.len - at < far->far.size)) {
        mcs_error(GPU_AREA, "shared memory on cuda:%d has not the %llu bytes that its owner says: %s", device->ordinal,
                  (unsigned long long)far->far.size, mcs_status_name(MCS_ERR_PROTOCOL));
        status = MCS_ERR_PROTOCOL;
    }
    return status;
}

/* ---- both ---- */

static gpu_far_t *new_far(int device, uint64_t size)
{
    gpu_far_t *far = MCS_NEW(gpu_far_t);
    if (far != NULL) {
        far->far.device = device;
        far->far.size = size;
        far->far.fd = -1;
    }
    return far;
}

mcs_status_t gpu_far_create(mcs_mem_space_t *space, int device, uint64_t size, mcs_mem_far_t **far_out)
{
    gpu_device_t *entered;
    cuda_uuid_t uuid;
    if (device < 0 || device >= space->device_count) {
        mcs_error(GPU_AREA, "memory on cuda:%d: this process has %d devices: %s", device, space->device_count,
                  mcs_status_name(MCS_ERR_NOT_SUPPORTED));
        return MCS_ERR_NOT_SUPPORTED;
    }
    gpu_far_t *far = new_far(device, size);
    if (far == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = cuda_ctx_enter(space, device, &entered);
    if (status != MCS_OK) {
        mcs_free(far);
        return status;
    }
    if (!uuid_of(space, entered, &uuid)) {
        status = cuda_failed(space->driver, entered, "device_get_uuid", CUDA_NOT_SUPPORTED);
    } else {
        memcpy(far->far.share.device, uuid.bytes, sizeof(uuid.bytes));
        status = entered->has_vmm ? make_virtual(space, entered, far) : make_plain(space, entered, far);
    }
    far->far.share.size = far->far.size;
    if (status == MCS_OK) {
        *far_out = &far->far;
    } else {
        free_memory(space, entered, far);
    }
    cuda_ctx_leave(space, entered);
    return status;
}

mcs_status_t gpu_far_open(mcs_mem_space_t *space, const mcs_mem_share_t *share, int fd, mcs_mem_far_t **far_out)
{
    gpu_device_t *entered;
    int device = find_device(space, share->device);
    bool by_fd = share->kind == MCS_MEM_SHARE_FD && fd >= 0;
    if (device < 0 || share->size == 0 || (!by_fd && share->kind != MCS_MEM_SHARE_HANDLE)) {
        return MCS_ERR_NOT_SUPPORTED; /* not one of ours, or in a way that is not known here */
    }
    if (by_fd && !space->devices[device].has_vmm) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    gpu_far_t *far = new_far(device, share->size);
    if (far == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = cuda_ctx_enter(space, device, &entered);
    if (status != MCS_OK) {
        mcs_free(far);
        return status;
    }
    status = by_fd ? open_virtual(space, entered, fd, far) : open_plain(space, entered, share, far);
    if (status == MCS_OK) {
        *far_out = &far->far;
    } else {
        free_memory(space, entered, far);
    }
    cuda_ctx_leave(space, entered);
    return status;
}
