/* The local buffer: a bounded pool of memory for handles and staging (`local_buffer_size`). Pieces are 64-byte aligned.
 * Anonymous memory, faulted by use; pages of large pieces go back to the kernel when it wants them. MADV_DONTFORK: a
 * forked child is refused new pieces, and what it gives back is ignored. Thread-safe (MCS_RANK_BUFPOOL). Reference
 * counted: handles that outlive close() keep it. */
#ifndef MCS_SEGMENT_BUFPOOL_H
#define MCS_SEGMENT_BUFPOOL_H

#include "core/base/status.h"

typedef struct mcs_bufpool mcs_bufpool_t;

/* size 0: a pool from which nothing can be had. */
mcs_status_t mcs_bufpool_create(uint64_t size, mcs_bufpool_t **pool_out) MCS_MUST_CHECK;
mcs_bufpool_t *mcs_bufpool_get(mcs_bufpool_t *pool);
void mcs_bufpool_put(mcs_bufpool_t *pool);
/* MCS_ERR_INVALID_PARAMS when the pool is smaller than `size`, MCS_ERR_NO_MEMORY when it is full now. */
mcs_status_t mcs_bufpool_alloc(mcs_bufpool_t *pool, uint64_t size, void **ptr_out) MCS_MUST_CHECK;
void mcs_bufpool_free(mcs_bufpool_t *pool, void *ptr);
/* The pool's memory (NULL: of size 0), which is registered with a device: none of its pages go back any more. */
void *mcs_bufpool_keep(mcs_bufpool_t *pool);
uint64_t mcs_bufpool_size(const mcs_bufpool_t *pool);
uint64_t mcs_bufpool_used(mcs_bufpool_t *pool);
/* Is [ptr, ptr+len) inside the pool's memory? */
bool mcs_bufpool_contains(const mcs_bufpool_t *pool, const void *ptr, uint64_t len);

#endif
