/* Registered ranges of device memory: a sorted array of their pieces, one for each allocation or mapping that a range
 * is made of (a range of an allocator with expandable segments is made of many, of which any may go). Sub-ranges are
 * found by address; that the memory is still the one registered is the driver's to say, by its id. */
#include <string.h>

#include "core/base/alloc.h"
#include "gpu/internal.h"

/* Index of the first piece that ends after the address. */
static size_t find_locked(const mcs_mem_space_t *space, uint64_t address)
{
    size_t low = 0;
    size_t high = space->range_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (space->ranges[middle].end > address) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

bool gpu_ranges_find(mcs_mem_space_t *space, uint64_t address, gpu_range_t *range_out)
{
    mcs_rwlock_rdlock(&space->range_lock);
    size_t at = find_locked(space, address);
    bool found = at < space->range_count && space->ranges[at].start <= address;
    if (found) {
        *range_out = space->ranges[at];
    }
    mcs_rwlock_rdunlock(&space->range_lock);
    return found;
}

uint64_t gpu_mapping_end(const mcs_mem_space_t *space, uint64_t address, const mcs_mem_where_t *where, uint64_t end)
{
    cuda_ptr_t base = 0;
    size_t len = 0;
    if (space->driver->pointer_get_attribute(&base, CUDA_POINTER_MAPPING_BASE, address) != CUDA_OK ||
        space->driver->pointer_get_attribute(&len, CUDA_POINTER_MAPPING_SIZE, address) != CUDA_OK || base > address ||
        base + len == 0) {
        return where->len > 0 && where->start <= address ? MCS_MIN(where->start + where->len, end) : end;
    }
    return MCS_MIN(base + len, end);
}

typedef struct pieces {
    gpu_range_t *items;
    size_t count;
    size_t room;
} pieces_t;

static mcs_status_t push(pieces_t *pieces, gpu_range_t piece)
{
    if (pieces->count == pieces->room) {
        size_t room = pieces->room == 0 ? 8 : pieces->room * 2;
        gpu_range_t *items = room <= GPU_RANGES_MAX ? mcs_realloc(pieces->items, room * sizeof(*items)) : NULL;
        if (items == NULL) {
            return room <= GPU_RANGES_MAX ? MCS_ERR_NO_MEMORY : MCS_ERR_LIMIT;
        }
        pieces->items = items;
        pieces->room = room;
    }
    pieces->items[pieces->count++] = piece;
    return MCS_OK;
}

/* Walks over what the range is made of. */
static mcs_status_t take_apart(mcs_mem_space_t *space, uint64_t start, uint64_t end, pieces_t *pieces)
{
    mcs_status_t status = MCS_OK;
    for (uint64_t at = start; status == MCS_OK && at < end;) {
        mcs_mem_where_t where;
        status = gpu_query(space, (const void *)(uintptr_t)at, &where); /* NOLINT(performance-no-int-to-ptr) */
        if (status != MCS_OK) {
            return status;
        }
        if (where.device < 0) {
            mcs_error(GPU_AREA, "buffer %#llx of %llu bytes: no GPU memory at %#llx: %s", (unsigned long long)start,
                      (unsigned long long)(end - start), (unsigned long long)at,
                      mcs_status_name(MCS_ERR_INVALID_PARAMS));
            return MCS_ERR_INVALID_PARAMS;
        }
        uint64_t here = gpu_mapping_end(space, at, &where, end);
        if (here <= at) {
            return MCS_ERR_INVALID_PARAMS;
        }
        status = push(pieces, (gpu_range_t){at, here, where.id, start, (int16_t)where.device});
        at = here;
    }
    return status;
}

static mcs_status_t insert_locked(mcs_mem_space_t *space, const pieces_t *pieces)
{
    size_t count = space->range_count + pieces->count;
    if (count > GPU_RANGES_MAX) {
        return MCS_ERR_LIMIT;
    }
    if (count > space->range_room) {
        size_t room = MCS_MAX(count, space->range_room * 2);
        gpu_range_t *ranges = mcs_realloc(space->ranges, room * sizeof(*ranges));
        if (ranges == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        space->ranges = ranges;
        space->range_room = room;
    }
    size_t at = find_locked(space, pieces->items[0].start);
    if (at < space->range_count && space->ranges[at].start < pieces->items[pieces->count - 1].end) {
        return MCS_ERR_INVALID_PARAMS; /* overlaps a registered one */
    }
    memmove(&space->ranges[at + pieces->count], &space->ranges[at], (space->range_count - at) * sizeof(gpu_range_t));
    memcpy(&space->ranges[at], pieces->items, pieces->count * sizeof(gpu_range_t));
    space->range_count = count;
    return MCS_OK;
}

mcs_status_t gpu_ranges_add(mcs_mem_space_t *space, const void *ptr, uint64_t len)
{
    uint64_t start = (uint64_t)(uintptr_t)ptr;
    uint64_t end;
    if (start == 0 || len == 0 || __builtin_add_overflow(start, len, &end)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    pieces_t pieces = {NULL, 0, 0};
    mcs_status_t status = take_apart(space, start, end, &pieces);
    if (status == MCS_OK) {
        mcs_rwlock_wrlock(&space->range_lock);
        status = insert_locked(space, &pieces);
        mcs_rwlock_wrunlock(&space->range_lock);
    }
    mcs_free(pieces.items);
    return status;
}

void gpu_ranges_remove(mcs_mem_space_t *space, const void *ptr)
{
    uint64_t base = (uint64_t)(uintptr_t)ptr;
    mcs_rwlock_wrlock(&space->range_lock);
    size_t at = find_locked(space, base);
    size_t count = 0;
    while (at + count < space->range_count && space->ranges[at + count].base == base) {
        count++;
    }
    memmove(&space->ranges[at], &space->ranges[at + count], (space->range_count - at - count) * sizeof(gpu_range_t));
    space->range_count -= count;
    mcs_rwlock_wrunlock(&space->range_lock);
}
