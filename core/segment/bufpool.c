/* See bufpool.h. Blocks are nodes outside the memory they describe (its bytes belong to callers), in order of address;
 * free ones also in a list per power of two. Free neighbours are merged at once. */
#include "core/segment/bufpool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"

#define AREA    "bufpool"
#define ALIGN   UINT64_C(64)
#define BINS    64
#define BUCKETS 1024u
/* Pages of free blocks at least this large go back to the kernel. */
#define GIVE_BACK (4 * MCS_MIB)
/* Blocks of the size's own bin that are looked at before a larger one is cut. */
#define OWN_BIN_LOOKS 16u

typedef struct block {
    mcs_list_t by_address;
    mcs_list_t free_node;    /* of a bin */
    struct block *next_used; /* of a bucket */
    uint64_t offset;
    uint64_t size;
    bool used;
} block_t;

struct mcs_bufpool {
    uint32_t refs;  /* atomic: the creator, and one per piece handed out to something that outlives it */
    uint64_t token; /* of the process that has the memory (rule 11) */
    uint8_t *base;
    uint64_t size;
    mcs_mutex_t lock; /* rank BUFPOOL: what follows */
    mcs_list_t blocks;
    mcs_list_t bins[BINS];
    block_t *used[BUCKETS];
    uint64_t used_bytes;
    bool kept; /* its pages do not go back */
};

static unsigned bin_of(uint64_t size)
{
    return (unsigned)(63 - __builtin_clzll(size));
}

static uint32_t bucket_of(uint64_t offset)
{
    return (uint32_t)((offset / ALIGN) * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (BUCKETS - 1);
}

static void bin_insert(mcs_bufpool_t *pool, block_t *block)
{
    block->used = false;
    mcs_list_push_head(&pool->bins[bin_of(block->size)], &block->free_node);
}

static mcs_status_t add_first_block(mcs_bufpool_t *pool)
{
    block_t *block = MCS_NEW(block_t);
    if (block == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    block->size = pool->size;
    mcs_list_init(&block->free_node);
    mcs_list_push_tail(&pool->blocks, &block->by_address);
    bin_insert(pool, block);
    return MCS_OK;
}

static void pool_free(mcs_bufpool_t *pool)
{
    while (!mcs_list_empty(&pool->blocks)) {
        block_t *block = MCS_LIST_FIRST(&pool->blocks, block_t, by_address);
        mcs_list_remove(&block->by_address);
        mcs_free(block);
    }
    if (pool->base != NULL) {
        munmap(pool->base, pool->size);
    }
    mcs_mutex_fini(&pool->lock);
    mcs_free(pool);
}

mcs_status_t mcs_bufpool_create(uint64_t size, mcs_bufpool_t **pool_out)
{
    mcs_bufpool_t *pool = MCS_NEW(mcs_bufpool_t);
    if (pool == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    pool->refs = 1;
    pool->token = mcs_process_token();
    pool->size = MCS_ALIGN_DOWN(size, ALIGN);
    mcs_mutex_init(&pool->lock, MCS_RANK_BUFPOOL, "bufpool");
    mcs_list_init(&pool->blocks);
    for (size_t i = 0; i < BINS; i++) {
        mcs_list_init(&pool->bins[i]);
    }
    mcs_status_t status = MCS_OK;
    if (pool->size > 0) {
        void *base = mcs_fault_hit(MCS_FAULT_SYSCALL) ? MAP_FAILED
                                                      : mmap(NULL, pool->size, PROT_READ | PROT_WRITE,
                                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            mcs_error(AREA, "local buffer of %llu bytes: %s: %s", (unsigned long long)size, strerror(errno),
                      mcs_status_name(MCS_ERR_NO_MEMORY));
            status = MCS_ERR_NO_MEMORY;
        } else {
            pool->base = base;
            madvise(base, pool->size, MADV_DONTFORK);
            madvise(base, pool->size, MADV_HUGEPAGE);
            status = add_first_block(pool);
        }
    }
    if (status != MCS_OK) {
        pool_free(pool);
        return status;
    }
    *pool_out = pool;
    return MCS_OK;
}

void *mcs_bufpool_keep(mcs_bufpool_t *pool)
{
    __atomic_store_n(&pool->kept, true, __ATOMIC_RELAXED);
    return pool->base;
}

mcs_bufpool_t *mcs_bufpool_get(mcs_bufpool_t *pool)
{
    __atomic_fetch_add(&pool->refs, 1, __ATOMIC_RELAXED);
    return pool;
}

void mcs_bufpool_put(mcs_bufpool_t *pool)
{
    /* A forked child has none of the memory: whatever it has mapped there is something else's. */
    if (pool != NULL && pool->token == mcs_process_token() &&
        __atomic_sub_fetch(&pool->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        pool_free(pool);
    }
}

/* The first block of a bin that is large enough, among the first `looks`. */
static block_t *find_in_bin_locked(mcs_bufpool_t *pool, unsigned bin, uint64_t size, uint64_t looks)
{
    MCS_LIST_FOR_EACH(node, &pool->bins[bin])
    {
        block_t *block = MCS_CONTAINER_OF(node, block_t, free_node);
        if (block->size >= size) {
            return block;
        }
        if (--looks == 0) {
            break;
        }
    }
    return NULL;
}

/* In the size's own bin a block may be too small, in those above none is. The own bin can be long: all of it is looked
 * through only when there is nothing larger, before the pool says that it is full. */
static block_t *find_locked(mcs_bufpool_t *pool, uint64_t size)
{
    unsigned own = bin_of(size);
    block_t *block = find_in_bin_locked(pool, own, size, OWN_BIN_LOOKS);
    for (unsigned bin = own + 1; block == NULL && bin < BINS; bin++) {
        block = find_in_bin_locked(pool, bin, size, 1);
    }
    return block != NULL ? block : find_in_bin_locked(pool, own, size, UINT64_MAX);
}

static void mark_used_locked(mcs_bufpool_t *pool, block_t *block)
{
    block->used = true;
    block_t **bucket = &pool->used[bucket_of(block->offset)];
    block->next_used = *bucket;
    *bucket = block;
    pool->used_bytes += block->size;
}

mcs_status_t mcs_bufpool_alloc(mcs_bufpool_t *pool, uint64_t size, void **ptr_out)
{
    if (pool->token != mcs_process_token()) {
        return MCS_ERR_FORKED;
    }
    if (size == 0 || size > pool->size) {
        return MCS_ERR_INVALID_PARAMS;
    }
    size = MCS_ALIGN_UP(size, ALIGN);
    block_t *rest = MCS_NEW(block_t);
    if (rest == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    mcs_mutex_lock(&pool->lock);
    block_t *block = find_locked(pool, size);
    if (block != NULL) {
        mcs_list_remove(&block->free_node);
        if (block->size > size) {
            rest->offset = block->offset + size;
            rest->size = block->size - size;
            block->size = size;
            mcs_list_init(&rest->free_node);
            mcs_list_insert_after(&block->by_address, &rest->by_address);
            bin_insert(pool, rest);
            rest = NULL;
        }
        mark_used_locked(pool, block);
        *ptr_out = pool->base + block->offset;
        status = MCS_OK;
    }
    mcs_mutex_unlock(&pool->lock);
    mcs_free(rest);
    return status;
}

static block_t *take_used_locked(mcs_bufpool_t *pool, uint64_t offset)
{
    block_t **at = &pool->used[bucket_of(offset)];
    while (*at != NULL && (*at)->offset != offset) {
        at = &(*at)->next_used;
    }
    block_t *block = *at;
    MCS_ENSURE(block != NULL); /* not a piece of this pool, or given back twice */
    *at = block->next_used;
    pool->used_bytes -= block->size;
    return block;
}

/* Merges `block` with a free neighbour; returns the node that is left over, NULL if the neighbour is not free. */
static block_t *merge_locked(mcs_bufpool_t *pool, mcs_list_t *node, block_t *block)
{
    if (node == &pool->blocks) {
        return NULL;
    }
    block_t *other = MCS_CONTAINER_OF(node, block_t, by_address);
    if (other->used) {
        return NULL;
    }
    mcs_list_remove(&other->free_node);
    mcs_list_remove(&other->by_address);
    block->offset = MCS_MIN(block->offset, other->offset);
    block->size += other->size;
    return other;
}

/* Pages of a large block. Without the lock: the block is nobody's yet. */
static void give_back(const mcs_bufpool_t *pool, const block_t *block)
{
    if (__atomic_load_n(&pool->kept, __ATOMIC_RELAXED)) {
        return;
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t begin = MCS_ALIGN_UP(block->offset, page);
    uint64_t end = MCS_ALIGN_DOWN(block->offset + block->size, page);
    madvise(pool->base + begin, end - begin, MADV_FREE);
}

void mcs_bufpool_free(mcs_bufpool_t *pool, void *ptr)
{
    if (ptr == NULL || pool->token != mcs_process_token()) {
        return;
    }
    mcs_mutex_lock(&pool->lock);
    block_t *block = take_used_locked(pool, (uint64_t)((uint8_t *)ptr - pool->base));
    mcs_mutex_unlock(&pool->lock);
    if (block->size >= GIVE_BACK) {
        give_back(pool, block);
    }
    mcs_mutex_lock(&pool->lock);
    block_t *left = merge_locked(pool, block->by_address.prev, block);
    block_t *right = merge_locked(pool, block->by_address.next, block);
    bin_insert(pool, block);
    mcs_mutex_unlock(&pool->lock);
    mcs_free(left);
    mcs_free(right);
}

uint64_t mcs_bufpool_size(const mcs_bufpool_t *pool)
{
    return pool->size;
}

uint64_t mcs_bufpool_used(mcs_bufpool_t *pool)
{
    mcs_mutex_lock(&pool->lock);
    uint64_t used = pool->used_bytes;
    mcs_mutex_unlock(&pool->lock);
    return used;
}

bool mcs_bufpool_contains(const mcs_bufpool_t *pool, const void *ptr, uint64_t len)
{
    uint64_t at = (uint64_t)(uintptr_t)ptr;
    uint64_t base = (uint64_t)(uintptr_t)pool->base;
    return pool->base != NULL && at >= base && at - base <= pool->size && len <= pool->size - (at - base);
}
