/* Registered buffers: the caller's memory ranges given to register_buffer. A sorted table under a read-write lock
 * (MCS_RANK_CLIENT_REGTABLE); thousands of entries and calls from several threads at once are normal. */
#ifndef MCS_SEGMENT_REGTABLE_H
#define MCS_SEGMENT_REGTABLE_H

#include "core/base/status.h"

typedef struct mcs_regtable mcs_regtable_t;

mcs_status_t mcs_regtable_create(mcs_regtable_t **table_out) MCS_MUST_CHECK;
void mcs_regtable_destroy(mcs_regtable_t *table);
/* MCS_ERR_INVALID_PARAMS: null, zero length, wraps around, or overlaps a registered range. MCS_ERR_LIMIT past a million
 * entries. */
mcs_status_t mcs_regtable_add(mcs_regtable_t *table, const void *ptr, uint64_t len) MCS_MUST_CHECK;
/* The exact base address; MCS_ERR_INVALID_PARAMS otherwise. */
mcs_status_t mcs_regtable_remove(mcs_regtable_t *table, const void *ptr) MCS_MUST_CHECK;
/* Does one registered range contain [ptr, ptr+len)? */
bool mcs_regtable_contains(mcs_regtable_t *table, const void *ptr, uint64_t len);
uint64_t mcs_regtable_count(mcs_regtable_t *table);

#endif
