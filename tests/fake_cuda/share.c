/* The fake driver: memory that processes share. Virtual memory is a memfd, which its descriptor keeps alive whoever
 * made it dies; a legacy handle names the process and the descriptor, so it is of no use after the process's end. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fake_cuda/internal.h"

#define GRAIN       UINT64_C(65536)
#define SHARED_MAX  256
#define HANDLE_BASE UINT64_C(0x5000)

typedef struct memory {
    int fd; /* -1: free */
    uint64_t len;
    int device;
    int maps;
    bool released; /* goes with its last mapping */
} memory_t;

static memory_t g_memory[SHARED_MAX];
static bool g_ready;

static memory_t *memory_at(cuda_memory_t handle)
{
    uint64_t at = handle - HANDLE_BASE;
    return at < SHARED_MAX && g_ready && g_memory[at].fd >= 0 ? &g_memory[at] : NULL;
}

static memory_t *new_memory(int fd, uint64_t len, int device, cuda_memory_t *handle_out)
{
    for (int i = 0; !g_ready && i < SHARED_MAX; i++) {
        g_memory[i].fd = -1;
    }
    g_ready = true;
    for (int i = 0; i < SHARED_MAX; i++) {
        if (g_memory[i].fd < 0) {
            g_memory[i] = (memory_t){.fd = fd, .len = len, .device = device};
            g_fake.counts.memories++;
            *handle_out = HANDLE_BASE + (uint64_t)i;
            return &g_memory[i];
        }
    }
    abort();
}

static void drop_memory(memory_t *memory)
{
    if (memory->released && memory->maps == 0) {
        close(memory->fd);
        memory->fd = -1;
        g_fake.counts.memories--;
    }
}

/* ---- what devices are and can ---- */

FAKE_API int cuDeviceGetUuid_v2(cuda_uuid_t *uuid, int device);
FAKE_API int cuDeviceGetUuid_v2(cuda_uuid_t *uuid, int device)
{
    ENTER(false);
    memset(uuid->bytes, 0, sizeof(uuid->bytes));
    snprintf(uuid->bytes, sizeof(uuid->bytes), "fake-%u", (unsigned)(device - 100) % 100);
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDeviceGetUuid(cuda_uuid_t *uuid, int device);
FAKE_API int cuDeviceGetUuid(cuda_uuid_t *uuid, int device)
{
    return cuDeviceGetUuid_v2(uuid, device);
}

/* Devices 0 and 1 are peers, the others are by themselves. */
FAKE_API int cuDeviceCanAccessPeer(int *can, int device, int peer);
FAKE_API int cuDeviceCanAccessPeer(int *can, int device, int peer)
{
    ENTER(false);
    *can = device <= 101 && peer <= 101;
    return fake_leave(CUDA_OK);
}

/* ---- virtual memory ---- */

FAKE_API int cuMemGetAllocationGranularity(size_t *granularity, const cuda_memory_kind_t *kind, int option);
FAKE_API int cuMemGetAllocationGranularity(size_t *granularity, const cuda_memory_kind_t *kind, int option)
{
    (void)option;
    ENTER(false);
    *granularity = GRAIN;
    return fake_leave(kind->location.type == CUDA_LOCATION_DEVICE ? CUDA_OK : CUDA_BAD_VALUE);
}

FAKE_API int cuMemCreate(cuda_memory_t *memory, size_t len, const cuda_memory_kind_t *kind, unsigned long long flags);
FAKE_API int cuMemCreate(cuda_memory_t *memory, size_t len, const cuda_memory_kind_t *kind, unsigned long long flags)
{
    (void)flags;
    ENTER(true);
    if (len == 0 || len % GRAIN != 0 || kind->type != CUDA_MEMORY_PINNED || kind->location.id < 0 ||
        kind->location.id >= g_fake.device_count) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    int fd = memfd_create("fake-cuda-memory", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)len) != 0) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    (void)new_memory(fd, len, kind->location.id, memory);
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemRelease(cuda_memory_t handle);
FAKE_API int cuMemRelease(cuda_memory_t handle)
{
    ENTER_UNDO(result);
    memory_t *memory = memory_at(handle);
    if (memory == NULL || memory->released) {
        fake_violate("memory released that is not there");
        return fake_leave(CUDA_BAD_VALUE);
    }
    memory->released = true;
    drop_memory(memory);
    return fake_leave(result);
}

typedef struct reserved {
    struct reserved *next;
    uint64_t start;
    uint64_t len;
    memory_t *mapped; /* NULL: not */
    alloc_t *alloc;
} reserved_t;

static reserved_t *g_reserved;

static reserved_t *reserved_at(uint64_t start, uint64_t len)
{
    for (reserved_t *range = g_reserved; range != NULL; range = range->next) {
        if (range->start == start && range->len == len) {
            return range;
        }
    }
    return NULL;
}

FAKE_API int cuMemAddressReserve(cuda_ptr_t *ptr, size_t len, size_t alignment, cuda_ptr_t address,
                                 unsigned long long flags);
FAKE_API int cuMemAddressReserve(cuda_ptr_t *ptr, size_t len, size_t alignment, cuda_ptr_t address,
                                 unsigned long long flags)
{
    (void)alignment;
    (void)address;
    (void)flags;
    ENTER(true);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    char *base = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    reserved_t *range = calloc(1, sizeof(*range));
    if (base == MAP_FAILED || range == NULL) {
        abort();
    }
    *range = (reserved_t){.next = g_reserved, .start = (uint64_t)(uintptr_t)(base + page), .len = len};
    g_reserved = range;
    g_fake.counts.reserved++;
    *ptr = range->start;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemAddressFree(cuda_ptr_t ptr, size_t len);
FAKE_API int cuMemAddressFree(cuda_ptr_t ptr, size_t len)
{
    ENTER_UNDO(result);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (reserved_t **at = &g_reserved; *at != NULL; at = &(*at)->next) {
        reserved_t *range = *at;
        if (range->start == ptr && range->len == len) {
            if (range->mapped != NULL) {
                fake_violate("addresses given back with memory mapped there");
            }
            *at = range->next;
            munmap((char *)(uintptr_t)ptr - page, len + 2 * page);
            free(range);
            g_fake.counts.reserved--;
            return fake_leave(result);
        }
    }
    fake_violate("addresses given back that were not reserved");
    return fake_leave(CUDA_BAD_VALUE);
}

FAKE_API int cuMemMap(cuda_ptr_t ptr, size_t len, size_t offset, cuda_memory_t handle, unsigned long long flags);
FAKE_API int cuMemMap(cuda_ptr_t ptr, size_t len, size_t offset, cuda_memory_t handle, unsigned long long flags)
{
    (void)flags;
    ENTER(true);
    memory_t *memory = memory_at(handle);
    reserved_t *range = reserved_at(ptr, len);
    if (memory == NULL || range == NULL || range->mapped != NULL || offset != 0 || len > memory->len) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    alloc_t *alloc = calloc(1, sizeof(*alloc));
    *alloc = (alloc_t){.next = g_fake.allocs,
                       .start = ptr,
                       .len = len,
                       .id = g_fake.next_id++,
                       .device = memory->device,
                       .kind = FAKE_VMM,
                       .peers = 0,
                       .bytes = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0)};
    if (alloc->bytes == MAP_FAILED) {
        abort();
    }
    g_fake.allocs = alloc;
    range->mapped = memory;
    range->alloc = alloc;
    memory->maps++;
    g_fake.counts.device_allocs++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemUnmap(cuda_ptr_t ptr, size_t len);
FAKE_API int cuMemUnmap(cuda_ptr_t ptr, size_t len)
{
    ENTER_UNDO(result);
    reserved_t *range = reserved_at(ptr, len);
    if (range == NULL || range->mapped == NULL) {
        fake_violate("memory unmapped that is not mapped");
        return fake_leave(CUDA_BAD_VALUE);
    }
    if (fake_is_pending(ptr, len)) {
        fake_violate("device memory unmapped while work on it is pending");
    }
    for (alloc_t **at = &g_fake.allocs; *at != NULL; at = &(*at)->next) {
        if (*at == range->alloc) {
            *at = range->alloc->next;
            break;
        }
    }
    munmap(range->alloc->bytes, len);
    free(range->alloc);
    range->alloc = NULL;
    range->mapped->maps--;
    drop_memory(range->mapped);
    range->mapped = NULL;
    g_fake.counts.device_allocs--;
    return fake_leave(result);
}

FAKE_API int cuMemSetAccess(cuda_ptr_t ptr, size_t len, const cuda_access_t *access, size_t count);
FAKE_API int cuMemSetAccess(cuda_ptr_t ptr, size_t len, const cuda_access_t *access, size_t count)
{
    ENTER(true);
    reserved_t *range = reserved_at(ptr, len);
    if (range == NULL || range->mapped == NULL) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    for (size_t i = 0; i < count; i++) {
        int device = access[i].location.id;
        if (access[i].flags != CUDA_ACCESS_READ_WRITE || device < 0 || device >= g_fake.device_count) {
            return fake_leave(CUDA_BAD_VALUE);
        }
        range->alloc->peers |= 1u << device;
    }
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemExportToShareableHandle(void *out, cuda_memory_t handle, int kind, unsigned long long flags);
FAKE_API int cuMemExportToShareableHandle(void *out, cuda_memory_t handle, int kind, unsigned long long flags)
{
    (void)flags;
    ENTER(true);
    memory_t *memory = memory_at(handle);
    if (memory == NULL || kind != CUDA_SHARED_BY_FD) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    int fd = fcntl(memory->fd, F_DUPFD, 0);
    memcpy(out, &fd, sizeof(fd));
    return fake_leave(fd >= 0 ? CUDA_OK : CUDA_OUT_OF_MEMORY);
}

/* Which device it is of, the fake driver does not know: the current one's, as everybody asks who the UUID sent here. */
FAKE_API int cuMemImportFromShareableHandle(cuda_memory_t *handle, void *from, int kind);
FAKE_API int cuMemImportFromShareableHandle(cuda_memory_t *handle, void *from, int kind)
{
    ENTER(true);
    struct stat st;
    int fd = kind == CUDA_SHARED_BY_FD ? fcntl((int)(intptr_t)from, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || fcntl(fd, F_GET_SEALS) < 0) {
        if (fd >= 0) {
            close(fd);
        }
        return fake_leave(CUDA_BAD_VALUE);
    }
    (void)new_memory(fd, (uint64_t)st.st_size, fake_current_device(), handle);
    return fake_leave(CUDA_OK);
}

/* ---- legacy handles ---- */

typedef struct name {
    uint32_t magic;
    int32_t pid;
    int32_t fd;
    uint32_t reserved;
    uint64_t len;
} name_t;
#define NAME_MAGIC UINT32_C(0x46414b45)

bool fake_publish(alloc_t *alloc)
{
    if (alloc->shared_fd > 0) {
        return true;
    }
    uint64_t len = (alloc->len + GRAIN - 1) / GRAIN * GRAIN;
    int fd = memfd_create("fake-cuda-ipc", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)len) != 0 || pwrite(fd, alloc->bytes, alloc->len, 0) != (ssize_t)alloc->len ||
        mmap(alloc->bytes, alloc->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        close(fd);
        return false;
    }
    alloc->shared_fd = fd;
    return true;
}

FAKE_API int cuIpcGetMemHandle(cuda_ipc_handle_t *handle, cuda_ptr_t ptr);
FAKE_API int cuIpcGetMemHandle(cuda_ipc_handle_t *handle, cuda_ptr_t ptr)
{
    ENTER(true);
    alloc_t *alloc = fake_find_alloc(ptr);
    if (alloc == NULL || alloc->start != ptr || alloc->kind != FAKE_DEVICE) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    if (!fake_publish(alloc)) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    name_t name = {.magic = NAME_MAGIC, .pid = getpid(), .fd = alloc->shared_fd, .len = alloc->len};
    memset(handle->bytes, 0, sizeof(handle->bytes));
    memcpy(handle->bytes, &name, sizeof(name));
    return fake_leave(CUDA_OK);
}

FAKE_API int cuIpcOpenMemHandle_v2(cuda_ptr_t *ptr, cuda_ipc_handle_t handle, unsigned flags);
FAKE_API int cuIpcOpenMemHandle_v2(cuda_ptr_t *ptr, cuda_ipc_handle_t handle, unsigned flags)
{
    (void)flags;
    ENTER(true);
    name_t name;
    char path[64];
    memcpy(&name, handle.bytes, sizeof(name));
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", name.pid, name.fd);
    int fd = name.magic == NAME_MAGIC && name.pid != getpid() ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return fake_leave(CUDA_BAD_VALUE); /* the maker itself cannot open it either */
    }
    alloc_t *alloc = fake_make_alloc(fake_current_device(), name.len, FAKE_DEVICE, 0, true);
    mmap(alloc->bytes, name.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    alloc->shared_fd = fd;
    *ptr = alloc->start;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuIpcCloseMemHandle(cuda_ptr_t ptr);
FAKE_API int cuIpcCloseMemHandle(cuda_ptr_t ptr)
{
    ENTER_UNDO(result);
    int dropped = fake_drop_alloc(ptr, true);
    return fake_leave(result != CUDA_OK ? result : dropped);
}
