/* See memory.h. A sorted array of disjoint ranges: a lookup is a binary search, an insertion moves the tail (thousands
 * of entries, rare). */
#include "python/src/memory.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/lock.h"

typedef struct range {
    uint64_t start;
    uint64_t end;
} range_t;

struct mpy_memory {
    mcs_rwlock_t lock; /* guards all below; no call out under it */
    range_t *ranges;
    size_t count;
    size_t capacity;
};

mpy_memory_t *mpy_memory_create(void)
{
    mpy_memory_t *memory = MCS_NEW(mpy_memory_t);
    if (memory != NULL) {
        mcs_rwlock_init(&memory->lock, MCS_RANK_LEAF, "python registered");
    }
    return memory;
}

void mpy_memory_destroy(mpy_memory_t *memory)
{
    if (memory != NULL) {
        mcs_rwlock_fini(&memory->lock);
        mcs_free(memory->ranges);
        mcs_free(memory);
    }
}

/* Index of the first range that ends after `at`. */
static size_t find_locked(const mpy_memory_t *memory, uint64_t at)
{
    size_t low = 0;
    size_t high = memory->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memory->ranges[middle].end > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void erase_locked(mpy_memory_t *memory, size_t from, size_t count)
{
    memmove(&memory->ranges[from], &memory->ranges[from + count], (memory->count - from - count) * sizeof(range_t));
    memory->count -= count;
}

static bool grow_locked(mpy_memory_t *memory)
{
    if (memory->count < memory->capacity) {
        return true;
    }
    size_t capacity = memory->capacity == 0 ? 16 : memory->capacity * 2;
    range_t *ranges = mcs_realloc(memory->ranges, capacity * sizeof(*ranges));
    if (ranges == NULL) {
        return false;
    }
    memory->ranges = ranges;
    memory->capacity = capacity;
    return true;
}

void mpy_memory_add(mpy_memory_t *memory, const void *ptr, uint64_t len)
{
    range_t range = {.start = (uint64_t)(uintptr_t)ptr, .end = (uint64_t)(uintptr_t)ptr + len};
    mcs_rwlock_wrlock(&memory->lock);
    size_t at = find_locked(memory, range.start);
    size_t overlapping = 0;
    while (at + overlapping < memory->count && memory->ranges[at + overlapping].start < range.end) {
        overlapping++; /* left over from before the library forgot them */
    }
    if (overlapping > 0) {
        erase_locked(memory, at, overlapping);
    }
    if (grow_locked(memory)) {
        memmove(&memory->ranges[at + 1], &memory->ranges[at], (memory->count - at) * sizeof(range_t));
        memory->ranges[at] = range;
        memory->count++;
    }
    mcs_rwlock_wrunlock(&memory->lock);
}

void mpy_memory_remove(mpy_memory_t *memory, const void *ptr)
{
    uint64_t start = (uint64_t)(uintptr_t)ptr;
    mcs_rwlock_wrlock(&memory->lock);
    size_t at = find_locked(memory, start);
    if (at < memory->count && memory->ranges[at].start == start) {
        erase_locked(memory, at, 1);
    }
    mcs_rwlock_wrunlock(&memory->lock);
}

void mpy_memory_clear(mpy_memory_t *memory)
{
    mcs_rwlock_wrlock(&memory->lock);
    memory->count = 0;
    mcs_rwlock_wrunlock(&memory->lock);
}

bool mpy_memory_registered(mpy_memory_t *memory, uint64_t ptr, uint64_t len)
{
    uint64_t end;
    if (__builtin_add_overflow(ptr, len, &end)) {
        return false;
    }
    mcs_rwlock_rdlock(&memory->lock);
    size_t at = find_locked(memory, ptr);
    bool registered = at < memory->count && memory->ranges[at].start <= ptr && memory->ranges[at].end >= end;
    mcs_rwlock_rdunlock(&memory->lock);
    return registered;
}

bool mpy_memory_usable(mpy_memory_t *memory, mcs_store_t *store, mcs_memprobe_t *probe, const void *ptr, uint64_t len,
                       bool write)
{
    uint64_t start = (uint64_t)(uintptr_t)ptr;
    if (start == 0 || len > INT64_MAX || start + len < start) {
        return false;
    }
    return mpy_memory_registered(memory, start, len) || mcs_memprobe_check(probe, ptr, len, write) == MCS_OK ||
           mcs_is_device_memory(store, ptr) != 0;
}
