/* The extent allocator of one segment: two-level segregated fit over offsets, with its books outside the memory that it
 * manages (the master never touches a segment).
 *
 * Only holes cost memory: what is given out is known by its offset and length, which the caller keeps with the object
 * anyway. Granule 64 bytes: lengths are rounded up to it. alloc and free are O(1). Free neighbours are merged at once.
 * Low addresses are preferred among equals, so that memory already faulted is used first.
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
/* MCS_ERR_NO_AVAILABLE_HANDLE: no hole is large enough; MCS_ERR_NO_MEMORY: no room for the hole that it may leave one
 * day; MCS_ERR_INVALID_PARAMS: len 0. */
mcs_status_t mcs_allocator_alloc(mcs_allocator_t *allocator, uint64_t len, uint64_t *offset_out) MCS_MUST_CHECK;
/* `offset` from alloc, with the length that was asked for, once; never fails. Returns the bytes that came back (the
 * rounded length). What does not fit into the books (beyond the end, more than is given out, next to or across a hole
 * in a way that no extent can be) stops the process; a repeat is noticed in most cases, not in all. */
uint64_t mcs_allocator_free(mcs_allocator_t *allocator, uint64_t offset, uint64_t len);

/* Gives back the end of an extent: `keep` bytes of its `len` (rounded up, at least a granule) stay. Returns the bytes
 * that came back. */
uint64_t mcs_allocator_trim(mcs_allocator_t *allocator, uint64_t offset, uint64_t len, uint64_t keep);

typedef struct mcs_allocator_stats {
    uint64_t size;
    uint64_t used;
    uint64_t largest_free; /* an upper bound is not enough: a request of this many bytes succeeds */
    uint64_t high_mark;    /* highest offset ever given out, exclusive */
    uint64_t extents;
    uint64_t memory_bytes; /* of the allocator itself, as far as it was ever used */
} mcs_allocator_stats_t;
void mcs_allocator_stats(const mcs_allocator_t *allocator, mcs_allocator_stats_t *stats_out);

#endif
