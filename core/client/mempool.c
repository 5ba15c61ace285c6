/* The memory pool of a store that setup_dummy set up: see borrow.h. A range of addresses, reserved when it is first
 * used, because engines that ask for one of a hundred gigabytes often bring memory of their own. */
#include <string.h>
#include <sys/mman.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/client/borrow.h"

#define AREA  "client"
#define PAGE  UINT64_C(4096)
#define SMALL UINT64_C(64)

struct mcs_mempool {
    uint64_t size; /* whole pages */
    uint64_t used;
    char *base; /* NULL: nothing was taken yet */
};

mcs_status_t mcs_mempool_create(uint64_t size, mcs_mempool_t **pool_out)
{
    if (size > UINT64_C(1) << 46) {
        mcs_error(AREA, "setup_dummy: mem_pool_size %llu is over 64 TB", (unsigned long long)size);
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_mempool_t *pool = MCS_NEW(mcs_mempool_t);
    if (pool == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    pool->size = MCS_ALIGN_UP(size, PAGE);
    *pool_out = pool;
    return MCS_OK;
}

static bool reserve(mcs_mempool_t *pool)
{
    if (pool->base != NULL) {
        return true;
    }
    void *base = mcs_fault_hit(MCS_FAULT_SYSCALL) ? MAP_FAILED
                                                  : mmap(NULL, pool->size, PROT_READ | PROT_WRITE,
                                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        mcs_error(AREA, "memory pool of %llu bytes not reserved", (unsigned long long)pool->size);
        return false;
    }
    (void)madvise(base, pool->size, MADV_HUGEPAGE);
    pool->base = base;
    return true;
}

void *mcs_mempool_take(mcs_mempool_t *pool, uint64_t size)
{
    uint64_t start = MCS_ALIGN_UP(pool->used, size >= PAGE ? PAGE : SMALL);
    if (size == 0 || start > pool->size || size > pool->size - start || !reserve(pool)) {
        return NULL;
    }
    pool->used = start + size;
    return pool->base + start;
}

void mcs_mempool_destroy(mcs_mempool_t *pool)
{
    if (pool == NULL) {
        return;
    }
    if (pool->base != NULL) {
        munmap(pool->base, pool->size);
    }
    mcs_free(pool);
}
