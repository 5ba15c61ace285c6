/* Where the objects of a journal lie: the extents of all streams, in order, fill the allocators from below; what lies
 * between them is a gap. See svc_recover.c. */
#include <stdlib.h>
#include <string.h>

#include "master/svc_recover.h"

/* ---- filling the allocators ---- */

/* A segment being filled from below. */
typedef struct filling {
    svc_segment_t *segment;
    uint64_t at;    /* everything below is given out */
    mcs_buf_t gaps; /* svc_extent_t */
} filling_t;

static mcs_status_t take(svc_segment_t *segment, uint64_t at, uint64_t len, svc_extent_t *out)
{
    svc_extent_t extent = {.segment = segment, .len = len};
    mcs_mutex_lock(&segment->lock);
    mcs_status_t status = mcs_allocator_alloc(segment->allocator, len, &extent.offset);
    mcs_mutex_unlock(&segment->lock);
    if (status != MCS_OK) {
        return status;
    }
    MCS_ENSURE(extent.offset == at); /* there is one hole, and it is given out from its low end */
    segment->used += MCS_ALIGN_UP(len, (uint64_t)MCS_ALLOCATOR_GRANULE);
    svc_segment_get(segment);
    *out = extent;
    return MCS_OK;
}

static void set_gap(svc_pending_t *block, uint32_t i, const svc_extent_t *extent, uint64_t generation)
{
    svc_replica_t replica = {generation, svc_place(extent->segment->handle, extent->offset)};
    svc_ending_set(block, i, extent->segment, &replica, 1);
    block->endings[i].payload_len = extent->len;
    block->endings[i].len = MCS_ALIGN_UP(extent->len, (uint64_t)MCS_ALLOCATOR_GRANULE);
    block->endings[i].gap = true;
}

/* The gaps of a segment that is filled start on their way back. */
static mcs_status_t finish_filling(mcs_service_t *service, filling_t *filling)
{
    size_t count = filling->gaps.len / sizeof(svc_extent_t);
    mcs_status_t status = mcs_buf_status(&filling->gaps);
    if (filling->segment == NULL || count == 0 || status != MCS_OK) {
        return status;
    }
    svc_pending_t *block = svc_pending_create(SVC_ENDINGS, (uint32_t)count);
    if (block == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_shard_t *shard = &service->index.shards[0];
    for (uint32_t i = 0; i < count; i++) {
        svc_extent_t extent;
        memcpy(&extent, filling->gaps.bytes + i * sizeof(extent), sizeof(extent));
        mcs_mutex_lock(&shard->lock);
        uint64_t generation = svc_shard_generation_locked(shard);
        mcs_mutex_unlock(&shard->lock);
        set_gap(block, i, &extent, generation);
    }
    for (uint32_t i = 0; i < count; i++) {
        svc_ending_begin(service, &block->endings[i], service->grace_end_ns, NULL, NULL);
    }
    svc_pending_put(block);
    mcs_buf_reset(&filling->gaps);
    return MCS_OK;
}

/* *overlaps: it lies in another's. */
static mcs_status_t fill_one(mcs_service_t *service, filling_t *filling, const rec_extent_t *entry, bool *overlaps)
{
    svc_segment_t *segment = svc_segment_at(service, svc_place_handle(entry->place));
    svc_record_t *record = svc_record(&service->index, entry->ref);
    uint64_t offset = svc_place_offset(entry->place);
    mcs_status_t status = MCS_OK;
    svc_extent_t extent;
    if (segment != filling->segment) {
        status = finish_filling(service, filling);
        if (status != MCS_OK) {
            return status; /* its gaps are still there */
        }
        filling->segment = segment;
        filling->at = 0;
    }
    *overlaps = offset < filling->at;
    if (*overlaps) {
        return MCS_OK;
    }
    if (offset > filling->at) {
        status = take(segment, filling->at, offset - filling->at, &extent);
        if (status == MCS_OK) {
            mcs_buf_append(&filling->gaps, &extent, sizeof(extent));
            status = mcs_buf_status(&filling->gaps);
            if (status != MCS_OK) {
                svc_segment_put(service, segment);
            }
        }
    }
    if (status == MCS_OK) {
        status = take(segment, offset, mcs_extent_room(record->payload_len, segment->shift), &extent);
    }
    if (status == MCS_OK) {
        record->putter &= ~(UINT32_C(1) << entry->replica);
        filling->at = offset + extent.len;
    }
    return status;
}

/* The lowest of the streams' next extents. */
static const rec_extent_t *lowest(recovery_t *recovery)
{
    const rec_extent_t *best = NULL;
    rec_stream_t *of = NULL;
    for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
        rec_stream_t *stream = &recovery->streams[i];
        const rec_extent_t *next = stream->next < stream->extents.len
                                       ? (const rec_extent_t *)(void *)(stream->extents.bytes + stream->next)
                                       : NULL;
        if (next != NULL && (best == NULL || next->place < best->place)) {
            best = next;
            of = stream;
        }
    }
    if (best != NULL) {
        of->next += sizeof(*best);
    }
    return best;
}

static bool has_place(const mcs_service_t *service, const svc_record_t *record, uint32_t replica)
{
    (void)service;
    return rec_has_place(record, replica);
}

static int by_record(const void *a, const void *b)
{
    svc_ref_t x = ((const rec_extent_t *)a)->ref;
    svc_ref_t y = ((const rec_extent_t *)b)->ref;
    return x < y ? -1 : x > y;
}

/* Extents that lie in another's: their replicas go, the records with their last. `wrong`: rec_extent_t. */
static void drop_wrong(recovery_t *recovery, const mcs_buf_t *wrong)
{
    mcs_service_t *service = recovery->service;
    rec_extent_t *entries = (rec_extent_t *)(void *)wrong->bytes;
    size_t count = wrong->len / sizeof(*entries);
    if (count > 0) {
        qsort(entries, count, sizeof(*entries), by_record);
    }
    for (size_t i = 0; i < count; i++) {
        const rec_extent_t *bad = &entries[i];
        if (i > 0 && bad->ref == bad[-1].ref) {
            continue; /* another replica of the same: all were looked at, and the record may be gone */
        }
        svc_record_t *record = svc_record(&service->index, bad->ref);
        mcs_error(SVC_AREA, "an object of the journal lies in another one's place: %s",
                  mcs_status_name(MCS_ERR_CHECKSUM_MISMATCH));
        svc_shard_t *shard = &service->index.shards[bad->shard];
        mcs_mutex_lock(&shard->lock);
        rec_stream_t *stream = &recovery->streams[bad->shard % MCS_JOURNAL_GROUPS];
        if (rec_keep_replicas(service, record, has_place)) {
            /* some are where they should be */
        } else if ((record->flags & SVC_REC_COMMITTED) != 0) {
            svc_record_uncount_locked(service, shard, bad->ref);
            rec_remove_locked(stream, shard, bad->ref);
        } else {
            rec_drop_successor(stream, bad->ref);
        }
        mcs_mutex_unlock(&shard->lock);
    }
}

mcs_status_t rec_fill_segments(recovery_t *recovery)
{
    mcs_service_t *service = recovery->service;
    filling_t filling = {.segment = NULL};
    mcs_buf_t wrong; /* rec_extent_t that overlap: no whole journal has any */
    mcs_buf_init(&filling.gaps, (size_t)1 << 34);
    mcs_buf_init(&wrong, (size_t)1 << 34);
    mcs_status_t status = MCS_OK;
    const rec_extent_t *entry;
    while (status == MCS_OK && (entry = lowest(recovery)) != NULL) {
        bool overlaps = false;
        status = fill_one(service, &filling, entry, &overlaps);
        if (overlaps) {
            mcs_buf_append(&wrong, entry, sizeof(*entry));
            status = mcs_buf_status(&wrong);
        }
    }
    if (status == MCS_OK) {
        status = finish_filling(service, &filling);
    }
    if (status == MCS_OK) {
        drop_wrong(recovery, &wrong);
    }
    for (size_t at = 0; at < filling.gaps.len; at += sizeof(svc_extent_t)) { /* after a failure only */
        svc_segment_put(service, filling.segment);
    }
    mcs_buf_fini(&wrong);
    mcs_buf_fini(&filling.gaps);
    return status;
}

/* Nothing is known of what lies above the last extent, but that nobody gets it before the owner has spoken. */
mcs_status_t rec_take_tails(mcs_service_t *service)
{
    svc_segments_t *segments = &service->segments;
    svc_shard_t *shard = &service->index.shards[0];
    for (uint32_t i = 0; i < segments->active_count; i++) {
        svc_segment_t *segment = segments->active[i];
        mcs_allocator_stats_t stats;
        mcs_allocator_stats(segment->allocator, &stats);
        uint64_t size = MCS_ALIGN_DOWN(segment->size, (uint64_t)MCS_ALLOCATOR_GRANULE);
        if (stats.high_mark == size) {
            continue;
        }
        svc_pending_t *block = svc_pending_create(SVC_ENDINGS, 1);
        svc_extent_t extent;
        if (block == NULL || take(segment, stats.high_mark, size - stats.high_mark, &extent) != MCS_OK) {
            svc_pending_put(block);
            return MCS_ERR_NO_MEMORY;
        }
        mcs_mutex_lock(&shard->lock);
        set_gap(block, 0, &extent, svc_shard_generation_locked(shard));
        mcs_mutex_unlock(&shard->lock);
        segment->tail = block;
    }
    return MCS_OK;
}
