/* Whether extents are what a master that was started from its journal takes them for (rule 12): the header has to be
 * WRITTEN, of this generation and length, and whole. Whoever reads checks the same; this only finds out sooner.
 *
 * On the caller's thread. Memory is populated before it is read: a journal of another life may name what was never
 * touched. */
#include "core/segment/owner_internal.h"

#define ANSWERS 512u

static mcs_segment_t *segment_of(mcs_owner_t *owner, mcs_id_t instance)
{
    mcs_mutex_lock(&owner->lock);
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, instance);
    mcs_segment_t *segment = entry != NULL ? mcs_segment_get(entry->segment) : NULL;
    mcs_mutex_unlock(&owner->lock);
    return segment;
}

static bool agrees(mcs_segment_t *segment, const mcs_col_check_t *record)
{
    if (!mcs_extent_fits(record->offset, record->payload_len, mcs_segment_size(segment), mcs_segment_shift(segment))) {
        return false;
    }
    if (mcs_segment_ensure(segment, record->offset, MCS_EXTENT_HEADER) != MCS_OK) {
        return true; /* nobody can say */
    }
    const mcs_extent_header_t *header = mcs_segment_header(segment, record->offset);
    return mcs_extent_check(header, mcs_segment_instance(segment), record->generation, record->payload_len) ==
           MCS_EXTENT_WRITTEN;
}

void mcs_owner_check(mcs_owner_t *owner, mcs_id_t instance, const mcs_col_check_t *records, uint32_t count)
{
    mcs_col_differ_t differing[ANSWERS];
    mcs_segment_t *segment = owner->config.differs != NULL ? segment_of(owner, instance) : NULL;
    for (uint32_t at = 0; segment != NULL && at < count;) {
        uint32_t n = 0;
        for (; at < count && n < ANSWERS; at++) {
            if (!agrees(segment, &records[at])) {
                differing[n++] = (mcs_col_differ_t){records[at].generation, records[at].token};
            }
        }
        if (n > 0) {
            owner->config.differs(owner->config.released_arg, differing, n);
        }
    }
    if (segment != NULL) {
        mcs_segment_put(segment);
    }
}
