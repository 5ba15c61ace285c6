/* The fake driver: memory of devices and pinned memory of the host. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fake_cuda/internal.h"

static uint64_t whole_pages(uint64_t len)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (len + page - 1) / page * page;
}

/* ---- device memory ---- */

alloc_t *fake_find_alloc(uint64_t ptr)
{
    for (alloc_t *alloc = g_fake.allocs; alloc != NULL; alloc = alloc->next) {
        if (ptr - alloc->start < alloc->len) {
            return alloc;
        }
    }
    return NULL;
}

/* Addresses that a freed allocation of that size had, or new ones between guard pages. */
static alloc_t *take_addresses(uint64_t len, fake_kind_t kind)
{
    for (alloc_t **at = &g_fake.spare; *at != NULL; at = &(*at)->next) {
        if ((*at)->len == len && (*at)->kind == kind) {
            alloc_t *alloc = *at;
            *at = alloc->next;
            return alloc;
        }
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t size = whole_pages(len);
    char *base = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    alloc_t *alloc = calloc(1, sizeof(*alloc));
    if (base == MAP_FAILED || alloc == NULL) {
        abort();
    }
    alloc->start = (uint64_t)(uintptr_t)(base + page);
    alloc->len = len;
    alloc->kind = kind;
    if (kind == FAKE_MANAGED) {
        mprotect(base + page, size, PROT_READ | PROT_WRITE);
        alloc->bytes = (uint8_t *)base + page;
    } else {
        alloc->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    return alloc;
}

#define DEVICE_BYTES (UINT64_C(1) << 40) /* of memory in one piece: more is "out of memory" */

alloc_t *fake_make_alloc(int device, uint64_t len, fake_kind_t kind, uint64_t piece, bool counted)
{
    alloc_t *alloc = take_addresses(len, kind);
    alloc->id = g_fake.next_id;
    g_fake.next_id += 1 + (piece > 0 ? len / piece : 0); /* each mapping has one */
    alloc->device = device;
    alloc->piece = piece;
    alloc->counted = counted;
    memset(alloc->bytes, 0xdd, len); /* as good as anything */
    alloc->next = g_fake.allocs;
    g_fake.allocs = alloc;
    g_fake.counts.device_allocs += counted;
    return alloc;
}

int fake_drop_alloc(uint64_t ptr, bool counted)
{
    for (alloc_t **at = &g_fake.allocs; *at != NULL; at = &(*at)->next) {
        alloc_t *alloc = *at;
        if (alloc->start == ptr && alloc->counted == counted) {
            if (fake_is_pending(alloc->start, alloc->len)) {
                fake_violate("device memory freed while work on it is pending");
            }
            *at = alloc->next;
            if (alloc->opened) {
                mmap((void *)(uintptr_t)alloc->start, whole_pages(alloc->len), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
                alloc->opened = false;
            }
            if (alloc->shared_fd > 0) { /* others may still have these bytes */
                mmap(alloc->bytes, whole_pages(alloc->len), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
                close(alloc->shared_fd);
                alloc->shared_fd = 0;
            }
            alloc->next = g_fake.spare;
            g_fake.spare = alloc;
            g_fake.counts.device_allocs -= counted;
            return CUDA_OK;
        }
    }
    return CUDA_BAD_VALUE;
}

void *fake_cuda_alloc(int device, size_t len, fake_kind_t kind, size_t piece)
{
    pthread_mutex_lock(&g_fake.lock);
    void *ptr = (void *)(uintptr_t)fake_make_alloc(device, len, kind, piece, false)->start;
    pthread_mutex_unlock(&g_fake.lock);
    return ptr;
}

void fake_cuda_free(void *ptr)
{
    pthread_mutex_lock(&g_fake.lock);
    (void)fake_drop_alloc((uint64_t)(uintptr_t)ptr, false);
    pthread_mutex_unlock(&g_fake.lock);
}

uint8_t *fake_cuda_bytes(const void *ptr)
{
    pthread_mutex_lock(&g_fake.lock);
    uint64_t at = (uint64_t)(uintptr_t)ptr;
    alloc_t *alloc = fake_find_alloc(at);
    uint8_t *bytes = alloc != NULL ? alloc->bytes + (at - alloc->start) : NULL;
    pthread_mutex_unlock(&g_fake.lock);
    return bytes;
}

FAKE_API int cuMemAlloc_v2(cuda_ptr_t *ptr, size_t len);
FAKE_API int cuMemAlloc_v2(cuda_ptr_t *ptr, size_t len)
{
    ENTER(true);
    if (len > DEVICE_BYTES) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    *ptr = fake_make_alloc(fake_current_device(), len, FAKE_DEVICE, 0, true)->start;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemAllocManaged(cuda_ptr_t *ptr, size_t len, unsigned flags);
FAKE_API int cuMemAllocManaged(cuda_ptr_t *ptr, size_t len, unsigned flags)
{
    (void)flags;
    ENTER(true);
    *ptr = fake_make_alloc(fake_current_device(), len, FAKE_MANAGED, 0, true)->start;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemFree_v2(cuda_ptr_t ptr);
FAKE_API int cuMemFree_v2(cuda_ptr_t ptr)
{
    ENTER_UNDO(result);
    int dropped = fake_drop_alloc(ptr, true);
    return fake_leave(result != CUDA_OK ? result : dropped);
}

/* From a pool, in the order of a stream: there at once. */
FAKE_API int cuMemAllocAsync(cuda_ptr_t *ptr, size_t len, cuda_stream_t stream);
FAKE_API int cuMemAllocAsync(cuda_ptr_t *ptr, size_t len, cuda_stream_t stream)
{
    ENTER(true);
    (void)stream;
    if (len > DEVICE_BYTES) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    *ptr = fake_make_alloc(fake_current_device(), len, FAKE_DEVICE, 0, true)->start;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemFreeAsync(cuda_ptr_t ptr, cuda_stream_t stream);
FAKE_API int cuMemFreeAsync(cuda_ptr_t ptr, cuda_stream_t stream)
{
    ENTER_UNDO(result);
    if (fake_current_device() < 0) {
        fake_violate("memory freed in the order of a stream without a context");
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    fake_drain(fake_stream(stream)); /* what is before it; what is elsewhere is a violation */
    int dropped = fake_drop_alloc(ptr, true);
    return fake_leave(result != CUDA_OK ? result : dropped);
}

/* ---- what a pointer is ---- */

static uint64_t piece_start(const alloc_t *alloc, uint64_t ptr)
{
    return alloc->piece > 0 ? alloc->start + (ptr - alloc->start) / alloc->piece * alloc->piece : alloc->start;
}

static uint64_t piece_len(const alloc_t *alloc, uint64_t ptr)
{
    uint64_t start = piece_start(alloc, ptr);
    uint64_t left = alloc->start + alloc->len - start;
    return alloc->piece > 0 && alloc->piece < left ? alloc->piece : left;
}

static int attribute(void *data, int which, uint64_t ptr)
{
    const alloc_t *alloc = fake_find_alloc(ptr);
    const host_range_t *host = alloc == NULL ? fake_find_host(ptr) : NULL;
    uint64_t base = alloc != NULL ? alloc->start : host != NULL ? host->start : 0;
    uint64_t len = alloc != NULL ? alloc->len : host != NULL ? host->len : 0;
    switch (which) {
    case CUDA_POINTER_MEMORY_TYPE:
        *(uint32_t *)data = alloc != NULL ? CUDA_MEMORY_DEVICE : host != NULL ? CUDA_MEMORY_HOST : 0;
        break;
    case CUDA_POINTER_IS_MANAGED: *(uint32_t *)data = alloc != NULL && alloc->kind == FAKE_MANAGED; break;
    case CUDA_POINTER_DEVICE_ORDINAL: *(int *)data = alloc != NULL ? alloc->device : host != NULL ? 0 : -2; break;
    case CUDA_POINTER_BUFFER_ID:
        *(uint64_t *)data =
            alloc == NULL ? 0 : alloc->id + (alloc->piece > 0 ? (ptr - alloc->start) / alloc->piece : 0);
        break;
    case CUDA_POINTER_RDMA_CAPABLE:
        *(int *)data = g_fake.rdma != FAKE_RDMA_NONE && alloc != NULL && alloc->kind == FAKE_DEVICE;
        break;
    case CUDA_POINTER_RANGE_START: *(uint64_t *)data = base; break;
    case CUDA_POINTER_RANGE_SIZE: *(size_t *)data = len; break;
    case CUDA_POINTER_MAPPING_BASE: *(uint64_t *)data = alloc != NULL ? piece_start(alloc, ptr) : 0; break;
    case CUDA_POINTER_MAPPING_SIZE: *(size_t *)data = alloc != NULL ? piece_len(alloc, ptr) : 0; break;
    default: return CUDA_BAD_VALUE;
    }
    return CUDA_OK;
}

/* Where RDMA devices can reach memory, this opens it to them. */
FAKE_API int cuPointerSetAttribute(const void *value, int which, cuda_ptr_t ptr);
FAKE_API int cuPointerSetAttribute(const void *value, int which, cuda_ptr_t ptr)
{
    ENTER(true);
    alloc_t *alloc = fake_find_alloc(ptr);
    if (alloc == NULL || alloc->kind != FAKE_DEVICE || which != CUDA_POINTER_SYNC_MEMOPS ||
        *(const unsigned *)value != 1) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    if (g_fake.rdma == FAKE_RDMA_NONE || alloc->opened) {
        return fake_leave(CUDA_OK);
    }
    if (!fake_publish(alloc) || mmap((void *)(uintptr_t)alloc->start, alloc->len, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_FIXED, alloc->shared_fd, 0) == MAP_FAILED) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    alloc->opened = true;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuFlushGPUDirectRDMAWrites(int target, int scope);
FAKE_API int cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    ENTER(true);
    if (target != CUDA_RDMA_FLUSH_CURRENT || scope != CUDA_RDMA_FLUSH_TO_OWNER) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    g_fake.counts.flushes++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuPointerGetAttribute(void *data, int which, cuda_ptr_t ptr);
FAKE_API int cuPointerGetAttribute(void *data, int which, cuda_ptr_t ptr)
{
    ENTER(false);
    if (fake_find_alloc(ptr) == NULL && fake_find_host(ptr) == NULL) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    return fake_leave(attribute(data, which, ptr));
}

FAKE_API int cuPointerGetAttributes(unsigned count, int *attributes, void **data, cuda_ptr_t ptr);
FAKE_API int cuPointerGetAttributes(unsigned count, int *attributes, void **data, cuda_ptr_t ptr)
{
    ENTER(false);
    if (g_fake.strict_pointers && fake_current_device() < 0) {
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    int result = CUDA_OK;
    for (unsigned i = 0; i < count && result == CUDA_OK; i++) {
        result = attribute(data[i], attributes[i], ptr);
    }
    return fake_leave(result);
}

/* ---- pinned host memory ---- */

host_range_t *fake_find_host(uint64_t ptr)
{
    for (host_range_t *host = g_fake.hosts; host != NULL; host = host->next) {
        if (ptr - host->start < host->len) {
            return host;
        }
    }
    return NULL;
}

static bool overlaps(uint64_t start, uint64_t len)
{
    for (const host_range_t *host = g_fake.hosts; host != NULL; host = host->next) {
        if (start < host->start + host->len && host->start < start + len) {
            return true;
        }
    }
    return false;
}

static void add_host(uint64_t start, uint64_t len, bool allocated)
{
    host_range_t *host = calloc(1, sizeof(*host));
    *host = (host_range_t){g_fake.hosts, start, len, allocated};
    g_fake.hosts = host;
}

static host_range_t *take_host(uint64_t start, bool allocated)
{
    for (host_range_t **at = &g_fake.hosts; *at != NULL; at = &(*at)->next) {
        host_range_t *host = *at;
        if (host->start == start && host->allocated == allocated) {
            *at = host->next;
            return host;
        }
    }
    return NULL;
}

/* Pages that are not there would be an error at pinning, and a hole after unmapping. */
static bool is_mapped(uint64_t start, uint64_t len)
{
    static unsigned char vector[1 << 20];
    void *base = (void *)(uintptr_t)start;
    return len / 4096 <= sizeof(vector) && mincore(base, len, vector) == 0;
}

FAKE_API int cuMemHostRegister_v2(void *base, size_t len, unsigned flags);
FAKE_API int cuMemHostRegister_v2(void *base, size_t len, unsigned flags)
{
    (void)flags;
    ENTER(true);
    uint64_t start = (uint64_t)(uintptr_t)base;
    if (overlaps(start, len)) {
        return fake_leave(CUDA_ALREADY_REGISTERED);
    }
    if (!is_mapped(start, len)) {
        fake_violate("registered host memory that is not mapped");
        return fake_leave(CUDA_BAD_VALUE);
    }
    add_host(start, len, false);
    g_fake.counts.registered++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemHostUnregister(void *base);
FAKE_API int cuMemHostUnregister(void *base)
{
    ENTER_UNDO(result);
    host_range_t *host = take_host((uint64_t)(uintptr_t)base, false);
    if (host == NULL) {
        fake_violate("unregistered host memory that is not registered");
        return fake_leave(CUDA_NOT_REGISTERED);
    }
    if (!is_mapped(host->start, host->len)) {
        fake_violate("host memory was unmapped while it was registered");
    }
    if (fake_is_pending(host->start, host->len)) {
        fake_violate("host memory unregistered while work on it is pending");
    }
    free(host);
    g_fake.counts.registered--;
    return fake_leave(result);
}

FAKE_API int cuMemHostAlloc(void **base, size_t len, unsigned flags);
FAKE_API int cuMemHostAlloc(void **base, size_t len, unsigned flags)
{
    (void)flags;
    ENTER(true);
    void *memory = mmap(NULL, whole_pages(len), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return fake_leave(CUDA_OUT_OF_MEMORY);
    }
    add_host((uint64_t)(uintptr_t)memory, len, true);
    g_fake.counts.host_allocs++;
    *base = memory;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemFreeHost(void *base);
FAKE_API int cuMemFreeHost(void *base)
{
    ENTER_UNDO(result);
    host_range_t *host = take_host((uint64_t)(uintptr_t)base, true);
    if (host == NULL) {
        fake_violate("freed host memory that is not allocated");
        return fake_leave(CUDA_BAD_VALUE);
    }
    if (fake_is_pending(host->start, host->len)) {
        fake_violate("host memory freed while work on it is pending");
    }
    munmap(base, whole_pages(host->len));
    free(host);
    g_fake.counts.host_allocs--;
    return fake_leave(result);
}

FAKE_API int cuMemHostGetDevicePointer_v2(cuda_ptr_t *device, void *host, unsigned flags);
FAKE_API int cuMemHostGetDevicePointer_v2(cuda_ptr_t *device, void *host, unsigned flags)
{
    (void)flags;
    ENTER(true);
    uint64_t ptr = (uint64_t)(uintptr_t)host;
    const host_range_t *range = fake_find_host(ptr);
    if (range == NULL) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    *device = range->allocated ? ptr : ptr + ALIAS;
    return fake_leave(CUDA_OK);
}

uint8_t *fake_device_view(uint64_t ptr, uint64_t len)
{
    const alloc_t *alloc = fake_find_alloc(ptr);
    if (alloc != NULL) {
        return len <= alloc->start + alloc->len - ptr ? alloc->bytes + (ptr - alloc->start) : NULL;
    }
    const host_range_t *host = fake_find_host(ptr);
    bool direct = host != NULL && host->allocated;
    if (!direct) {
        host = fake_find_host(ptr - ALIAS);
        ptr -= ALIAS;
    }
    return host != NULL && len <= host->start + host->len - ptr ? (uint8_t *)(uintptr_t)ptr : NULL;
}
