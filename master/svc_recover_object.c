/* The objects of one stream: replayed, their extents listed for svc_recover_place.c, their strikes resumed. A thread
 * for each stream: the streams share no shard. See svc_recover.c. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_recover.h"

/* ---- objects ---- */

static rec_strike_t *strike_of(rec_stream_t *stream, svc_ref_t record)
{
    rec_strike_t *strikes = (rec_strike_t *)(void *)stream->strikes.bytes;
    for (size_t i = stream->strikes.len / sizeof(*strikes); i > 0; i--) {
        if (!strikes[i - 1].over && strikes[i - 1].record == record) {
            return &strikes[i - 1];
        }
    }
    return NULL;
}

/* A later record of the key has decided its strike. */
static void end_strike_locked(rec_stream_t *stream, svc_ref_t ref)
{
    svc_record_t *record = svc_record(&stream->service->index, ref);
    if ((record->flags & SVC_REC_PENDING) == 0) {
        return;
    }
    record->flags = (uint16_t)(record->flags & ~SVC_REC_PENDING);
    rec_strike_t *strike = strike_of(stream, ref);
    if (strike == NULL) {
        return;
    }
    strike->over = true;
    if (strike->successor != 0) {
        svc_record_free(stream->service, strike->successor);
    }
    /* Usually the last one. */
    while (stream->strikes.len > 0 &&
           ((rec_strike_t *)(void *)(stream->strikes.bytes + stream->strikes.len - sizeof(rec_strike_t)))->over) {
        stream->strikes.len -= sizeof(rec_strike_t);
    }
}

void rec_remove_locked(rec_stream_t *stream, svc_shard_t *shard, svc_ref_t ref)
{
    end_strike_locked(stream, ref);
    svc_shard_remove_locked(&stream->service->index, shard, ref);
    svc_record_free(stream->service, ref);
}

/* The record of a value; in no table. 0: no memory. */
static svc_ref_t make_record_locked(rec_stream_t *stream, svc_shard_t *shard, uint64_t hash, const mcs_obj_t *obj)
{
    mcs_service_t *service = stream->service;
    const mcs_obj_head_t *head = &obj->head;
    bool soft = (head->flags & MCS_OBJ_SOFT) != 0 && head->soft_wall_ms > stream->wall_ms;
    unsigned fields = (soft ? SVC_REC_SOFT | SVC_REC_SOFT_FIELD : 0u) |
                      ((head->flags & MCS_OBJ_HARD) != 0 ? (unsigned)SVC_REC_HARD : 0u) |
                      (head->group_len > 0 ? (unsigned)SVC_REC_GROUP_FIELD : 0u);
    svc_ref_t ref =
        svc_record_create(&service->index, shard, obj->key, head->key_len, head->replica_count, (uint16_t)fields);
    if (ref == 0) {
        return 0;
    }
    svc_record_t *record = svc_record(&service->index, ref);
    record->payload_len = head->payload_len;
    record->data_type = head->data_type;
    record->replica_count = head->replica_count;
    record->lease_until_ns = service->grace_end_ns;
    record->flags = (uint16_t)(record->flags | SVC_REC_LEASED);
    for (uint32_t i = 0; i < head->replica_count; i++) {
        svc_replica_t *replica = &record->replicas[i];
        memcpy(replica, obj->replicas + i * sizeof(mcs_obj_replica_t), sizeof(mcs_obj_replica_t));
        stream->highest = MCS_MAX(stream->highest, replica->generation);
    }
    rec_set_no_places(record);
    if (soft) {
        svc_record_set_soft(record, stream->now_ns + (head->soft_wall_ms - stream->wall_ms) * MCS_NS_PER_MS);
    }
    if (head->group_len > 0) {
        svc_group_t *group = svc_group_get(service, obj->group, head->group_len);
        if (group == NULL || svc_group_join(group, hash, record->replicas[0].generation) != MCS_OK) {
            svc_group_put(service, group);
            svc_record_destroy(&service->index, ref);
            return 0;
        }
        svc_record_set_group(record, group);
    }
    return ref;
}

/* Makes it the key's value. */
static bool enter_locked(rec_stream_t *stream, svc_shard_t *shard, uint64_t hash, svc_ref_t old, svc_ref_t made)
{
    svc_index_t *index = &stream->service->index;
    svc_record_t *record = svc_record(index, made);
    if (old != 0) {
        end_strike_locked(stream, old);
        svc_shard_replace_locked(index, shard, old, made);
        svc_record_free(stream->service, old);
    } else if (svc_shard_insert_locked(index, shard, hash, made) != MCS_OK) {
        return false;
    }
    record->flags = (uint16_t)(record->flags | SVC_REC_COMMITTED);
    if ((record->flags & SVC_REC_HARD) == 0) {
        svc_recency_set_locked(index, shard, made, SVC_LIST_LEASED);
    }
    return true;
}

static void put_locked(rec_stream_t *stream, svc_shard_t *shard, uint64_t hash, svc_ref_t old, const mcs_obj_t *obj)
{
    svc_ref_t made = make_record_locked(stream, shard, hash, obj);
    if (made != 0 && enter_locked(stream, shard, hash, old, made)) {
        return;
    }
    stream->lost++;
    if (made != 0) {
        svc_record_free(stream->service, made);
    } else if (old != 0) {
        rec_remove_locked(stream, shard, old); /* an older value must not come back */
    }
}

static void strike_locked(rec_stream_t *stream, svc_shard_t *shard, uint64_t hash, svc_ref_t old, const mcs_obj_t *obj)
{
    if (old == 0) {
        if (obj->head.kind == MCS_REC_STRIKE_PUT) {
            put_locked(stream, shard, hash, 0, obj);
        }
        return;
    }
    end_strike_locked(stream, old);
    rec_strike_t strike = {.record = old, .shard = (uint16_t)shard->index};
    if (obj->head.kind == MCS_REC_STRIKE_PUT) {
        strike.successor = make_record_locked(stream, shard, hash, obj);
        stream->lost += strike.successor == 0; /* as a removal, then: the old value must not stay */
    }
    mcs_buf_append(&stream->strikes, &strike, sizeof(strike));
    if (mcs_buf_status(&stream->strikes) != MCS_OK) {
        stream->status = MCS_ERR_NO_MEMORY;
        if (strike.successor != 0) {
            svc_record_free(stream->service, strike.successor);
        }
        return;
    }
    svc_record_t *record = svc_record(&stream->service->index, old);
    record->flags = (uint16_t)(record->flags | SVC_REC_PENDING);
}

static void on_object(void *arg, const uint8_t *body, uint32_t len)
{
    rec_stream_t *stream = arg;
    svc_index_t *index = &stream->service->index;
    mcs_obj_t obj;
    if (stream->status != MCS_OK || mcs_obj_decode(body, len, &obj) != MCS_OK) {
        return;
    }
    uint64_t hash = svc_index_hash(index, obj.key, obj.head.key_len);
    svc_shard_t *shard = svc_index_shard(index, hash);
    if (shard->index % MCS_JOURNAL_GROUPS != stream->stream) {
        stream->status = MCS_ERR_INTERNAL; /* another thread's shard */
        return;
    }
    mcs_mutex_lock(&shard->lock);
    svc_ref_t old = svc_shard_find_locked(index, shard, hash, obj.key, obj.head.key_len);
    switch ((mcs_record_kind_t)obj.head.kind) {
    case MCS_REC_PUT: put_locked(stream, shard, hash, old, &obj); break;
    case MCS_REC_DEL:
        if (old != 0) {
            rec_remove_locked(stream, shard, old);
        }
        break;
    case MCS_REC_STRIKE_PUT:
    case MCS_REC_STRIKE_DEL: strike_locked(stream, shard, hash, old, &obj); break;
    case MCS_REC_SEGMENT:
    case MCS_REC_UNMOUNT:
    case MCS_REC_TASK:
    case MCS_REC_JOB:
    default: break;
    }
    mcs_mutex_unlock(&shard->lock);
}

/* ---- places ---- */

static int compare_places(const void *a, const void *b)
{
    uint64_t x = ((const rec_extent_t *)a)->place;
    uint64_t y = ((const rec_extent_t *)b)->place;
    return (x > y) - (x < y);
}

static bool has_room(const mcs_service_t *service, const svc_record_t *record, uint32_t replica)
{
    uint64_t place = record->replicas[replica].place;
    const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(place));
    uint64_t len = segment != NULL ? mcs_extent_room(record->payload_len, segment->shift) : 0;
    return segment != NULL && len <= segment->size && svc_place_offset(place) <= segment->size - len;
}

/* False: none is left. */
bool rec_keep_replicas(mcs_service_t *service, svc_record_t *record,
                       bool (*keep)(const mcs_service_t *service, const svc_record_t *record, uint32_t replica))
{
    uint32_t kept = 0;
    uint32_t no_places = 0;
    uint64_t first = record->replicas[0].generation;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        if (keep(service, record, i)) {
            no_places |= (rec_has_place(record, i) ? 0u : 1u) << kept;
            record->replicas[kept++] = record->replicas[i];
        }
    }
    if (kept == 0) {
        record->replicas[0].generation = first; /* what its group knows it by */
        return false;
    }
    record->replica_count = (uint8_t)kept;
    record->putter = no_places;
    svc_group_t *group = svc_record_group(record);
    if (group != NULL && record->replicas[0].generation != first) {
        svc_group_rename(group, first, record->replicas[0].generation);
    }
    return true;
}

static void add_extents(rec_stream_t *stream, const svc_record_t *record, svc_ref_t ref, uint32_t shard)
{
    for (uint32_t i = 0; i < record->replica_count; i++) {
        rec_extent_t extent = {record->replicas[i].place, ref, (uint16_t)shard, (uint16_t)i};
        mcs_buf_append(&stream->extents, &extent, sizeof(extent));
    }
}

static void collect_shard_locked(rec_stream_t *stream, svc_shard_t *shard)
{
    mcs_service_t *service = stream->service;
    uint32_t at = UINT32_MAX;
    uint32_t version = 0;
    /* What has no place goes first: a removal may rebuild the table, and a walk then begins again. */
    for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
        svc_record_t *record = svc_record(&service->index, ref);
        if (!rec_keep_replicas(service, record, has_room)) {
            stream->homeless++;
            rec_remove_locked(stream, shard, ref);
        }
    }
    at = UINT32_MAX;
    version = 0;
    for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
        const svc_record_t *record = svc_record(&service->index, ref);
        shard->committed++;
        shard->soft_pinned += (record->flags & SVC_REC_SOFT) != 0;
        add_extents(stream, record, ref, shard->index);
    }
}

void rec_drop_successor(rec_stream_t *stream, svc_ref_t ref)
{
    rec_strike_t *strikes = (rec_strike_t *)(void *)stream->strikes.bytes;
    for (size_t i = 0; i < stream->strikes.len / sizeof(*strikes); i++) {
        if (!strikes[i].over && strikes[i].successor == ref) {
            svc_record_free(stream->service, ref);
            strikes[i].successor = 0;
            return;
        }
    }
}

static void collect_strikes(rec_stream_t *stream)
{
    rec_strike_t *strikes = (rec_strike_t *)(void *)stream->strikes.bytes;
    for (size_t i = 0; i < stream->strikes.len / sizeof(*strikes); i++) {
        rec_strike_t *strike = &strikes[i];
        if (strike->over || strike->successor == 0) {
            continue;
        }
        svc_record_t *record = svc_record(&stream->service->index, strike->successor);
        if (rec_keep_replicas(stream->service, record, has_room)) {
            add_extents(stream, record, strike->successor, strike->shard);
        } else {
            stream->homeless++;
            svc_record_free(stream->service, strike->successor);
            strike->successor = 0; /* what nobody can read any more: as a removal */
        }
    }
}

void rec_stream_replay(rec_stream_t *stream)
{
    mcs_service_t *service = stream->service;
    mcs_status_t status = mcs_journal_replay(service->journal, stream->stream, on_object, stream);
    stream->status = stream->status != MCS_OK ? stream->status : status;
    for (uint32_t s = stream->stream; stream->status == MCS_OK && s < SVC_SHARDS; s += MCS_JOURNAL_GROUPS) {
        svc_shard_t *shard = &service->index.shards[s];
        mcs_mutex_lock(&shard->lock);
        collect_shard_locked(stream, shard);
        mcs_mutex_unlock(&shard->lock);
    }
    if (stream->status == MCS_OK) {
        collect_strikes(stream);
        stream->status = mcs_buf_status(&stream->extents);
    }
    if (stream->extents.len > 0) {
        qsort(stream->extents.bytes, stream->extents.len / sizeof(rec_extent_t), sizeof(rec_extent_t), compare_places);
    }
}

/* ---- strikes that were under way ---- */

static mcs_status_t resume_put_locked(mcs_service_t *service, svc_shard_t *shard, const rec_strike_t *strike,
                                      uint64_t now_ns)
{
    svc_record_t *old = svc_record(&service->index, strike->record);
    const svc_record_t *next = svc_record(&service->index, strike->successor);
    svc_pending_t *pending = svc_pending_create(SVC_PUT, next->replica_count);
    svc_pending_t *block = svc_record_endings(service, old);
    if (pending == NULL || block == NULL) {
        goto err_free;
    }
    for (uint32_t i = 0; i < next->replica_count; i++) {
        svc_segment_t *segment = svc_segment_at(service, svc_place_handle(next->replicas[i].place));
        svc_ending_set(pending, i, segment, &next->replicas[i], next->payload_len);
    }
    pending->shard = shard;
    pending->session = pending->endings[0].segment->owner; /* whoever put it: its outcome is told to all who ask */
    svc_session_get(pending->session);
    pending->recovered = true;
    pending->put_id = next->replicas[0].generation;
    pending->start_ns = svc_clock(service);
    pending->hash = svc_index_hash(&service->index, svc_record_key(old), old->key_len);
    pending->record = strike->record;
    pending->successor = strike->successor;
    if (svc_pending_insert_locked(service, pending) != MCS_OK) {
        goto err_free;
    }
    svc_strike_begin_locked(service, pending, block, now_ns);
    return MCS_OK;

err_free:
    svc_pending_put(pending);
    svc_pending_put(block);
    return MCS_ERR_NO_MEMORY;
}

mcs_status_t rec_stream_resume_strikes(rec_stream_t *stream)
{
    mcs_service_t *service = stream->service;
    rec_strike_t *strikes = (rec_strike_t *)(void *)stream->strikes.bytes;
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; status == MCS_OK && i < stream->strikes.len / sizeof(*strikes); i++) {
        rec_strike_t *strike = &strikes[i];
        if (strike->over) {
            continue;
        }
        svc_shard_t *shard = &service->index.shards[strike->shard];
        mcs_mutex_lock(&shard->lock);
        if (strike->successor != 0) {
            status = resume_put_locked(service, shard, strike, stream->now_ns);
        } else {
            svc_record_t *record = svc_record(&service->index, strike->record);
            uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
            record->flags = (uint16_t)(record->flags & ~SVC_REC_PENDING);
            svc_pending_t *pending =
                svc_strike_create_locked(service, shard, strike->record, hash, NULL, stream->now_ns);
            status = pending != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
        }
        strike->over = status == MCS_OK; /* it is a pending strike like any other now */
        mcs_mutex_unlock(&shard->lock);
    }
    return status;
}

/* ---- a start that failed ---- */

/* Lets go of what its replicas hold; true: all of them had a place. */
static bool put_segments(mcs_service_t *service, const svc_record_t *record, bool only_if_partial)
{
    uint32_t placed = 0;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        placed += rec_has_place(record, i);
    }
    if (only_if_partial && placed == record->replica_count) {
        return true;
    }
    for (uint32_t i = 0; i < record->replica_count; i++) {
        if (rec_has_place(record, i)) {
            svc_segment_put(service, svc_segment_at(service, svc_place_handle(record->replicas[i].place)));
        }
    }
    return placed == record->replica_count;
}

/* What the service's end cannot take apart by itself: it expects records whose extents have places. */
void rec_stream_take_apart(rec_stream_t *stream)
{
    mcs_service_t *service = stream->service;
    const rec_strike_t *strikes = (const rec_strike_t *)(void *)stream->strikes.bytes;
    for (size_t i = 0; i < stream->strikes.len / sizeof(*strikes); i++) {
        if (!strikes[i].over && strikes[i].successor != 0) {
            put_segments(service, svc_record(&service->index, strikes[i].successor), false);
            svc_record_free(service, strikes[i].successor);
        }
        if (!strikes[i].over) {
            svc_record_t *record = svc_record(&service->index, strikes[i].record);
            record->flags = (uint16_t)(record->flags & ~SVC_REC_PENDING);
        }
    }
    mcs_buf_reset(&stream->strikes);
    for (uint32_t s = stream->stream; s < SVC_SHARDS; s += MCS_JOURNAL_GROUPS) {
        svc_shard_t *shard = &service->index.shards[s];
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        mcs_mutex_lock(&shard->lock);
        for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
            if (!put_segments(service, svc_record(&service->index, ref), true)) {
                rec_remove_locked(stream, shard, ref);
            }
        }
        shard->committed = 0;
        shard->soft_pinned = 0;
        mcs_mutex_unlock(&shard->lock);
    }
}
