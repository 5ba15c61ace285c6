/* The extent allocator of one segment: two-level segregated fit over offsets, with its nodes outside the memory that it
 * manages (the master never touches a segment).
 *
 * Granule 64 bytes: lengths are rounded up to it. alloc and free are O(1); a node is 32 bytes or less, kept in a
 * growing array and named by its index, which the caller keeps with the extent. Free neighbours are merged at once. Low
 * addresses are preferred among equals, so that memory already faulted is used first.
 *
 * Not thread-safe: the caller holds the segment's lock (MCS_RANK_ALLOCATOR). */
#ifndef MCS_MASTER_ALLOCATOR_H
#define MCS_MASTER_ALLOCATOR_H

#include "core/base/status.h"

#define MCS_ALLOCATOR_GRANULE 64

typedef struct mcs_allocator mcs_allocator_t;

/* `size` bytes from offset 0; a tail shorter than a granule is never given out. MCS_ERR_INVALID_PARAMS for size 0 or
 * above 2^46. */
mcs_status_t mcs_allocator_create(uint64_t size, mcs_allocator_t **allocator_out) MCS_MUST_CHECK;
void mcs_allocator_destroy(mcs_allocator_t *allocator); /* NULL is fine */
/* MCS_ERR_NO_AVAILABLE_HANDLE: no hole is large enough; MCS_ERR_NO_MEMORY: no room for a node; MCS_ERR_INVALID_PARAMS:
 * len 0. */
mcs_status_t mcs_allocator_alloc(mcs_allocator_t *allocator, uint64_t len, uint64_t *offset_out, uint32_t *node_out)
    MCS_MUST_CHECK;
/* `node` from alloc, once. Returns the bytes that came back (the rounded length). */
uint64_t mcs_allocator_free(mcs_allocator_t *allocator, uint32_t node);

/* Gives back the end of what `node` has: `len` bytes of it (rounded up, at least a granule) stay. Returns the bytes
 * that came back; 0 also when there is no memory to do it. */
uint64_t mcs_allocator_trim(mcs_allocator_t *allocator, uint32_t node, uint64_t len);

typedef struct mcs_allocator_stats {
    uint64_t size;
    uint64_t used;
    uint64_t largest_free; /* an upper bound is not enough: a request of this many bytes succeeds */
    uint64_t high_mark;    /* highest offset ever given out, exclusive */
    uint64_t extents;
    uint64_t memory_bytes; /* of the allocator itself */
} mcs_allocator_stats_t;
void mcs_allocator_stats(const mcs_allocator_t *allocator, mcs_allocator_stats_t *stats_out);

#endif
