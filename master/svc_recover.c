/* The start from a journal (rule 12; docs/journal.md).
 *
 *   segments   replayed: each with the session of its owner, as if its connection had just been lost
 *   objects    replayed, a thread for each stream: the streams share no shard
 *   places     the extents of all records, sorted, fill the allocators from below; what lies between them is a gap
 *
 * Nobody has been let in yet, so nothing here races; locks are taken where functions want them held.
 *
 * From then on the ordinary rules do the rest. A session that does not come back ends by its TTL, its objects with it.
 * Objects count as leased for the grace, the longest lease that was ever granted. Gaps are on their way back to the
 * allocator from the start: their owners are asked after the grace, and answer when nobody is in them any more (rule
 * 3). A segment takes nothing and is read by nobody until its owner has mounted it again and said how far it was ever
 * used; above that it is free at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

/* Of a replica that has no place in its segment's allocator. */
#define NO_NODE UINT32_MAX

/* An extent of a record, to be put in its place. */
typedef struct rec_extent {
    uint64_t place;
    svc_ref_t ref;
    uint16_t shard;
    uint16_t replica;
} rec_extent_t;

typedef struct rec_strike {
    svc_ref_t record;
    svc_ref_t successor; /* 0: a removal */
    uint16_t shard;
    bool over; /* a later record of the key decided it */
} rec_strike_t;

typedef struct rec_stream {
    mcs_service_t *service;
    uint32_t stream;
    mcs_status_t status;
    mcs_buf_t strikes; /* rec_strike_t */
    mcs_buf_t extents; /* rec_extent_t, by place */
    size_t next;       /* of `extents` */
    uint64_t now_ns;
    uint64_t wall_ms;
    uint64_t highest;  /* generation */
    uint64_t lost;     /* for lack of memory, or over max_objects */
    uint64_t homeless; /* on segments that are not known any more */
} rec_stream_t;

typedef struct recovery {
    mcs_service_t *service;
    rec_stream_t streams[MCS_JOURNAL_GROUPS];
    mcs_status_t status;
} recovery_t;

/* ---- segments ---- */

static char *text_of(const mcs_seg_t *seg, enum mcs_seg_text which, char text[MCS_SEG_TEXT_MAX + 1])
{
    memcpy(text, seg->texts[which], seg->head.lens[which]);
    text[seg->head.lens[which]] = '\0';
    return text;
}

static svc_session_t *find_session_locked(mcs_service_t *service, mcs_id_t id)
{
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        if (mcs_id_equal(session->id, id)) {
            return session;
        }
    }
    return NULL;
}

/* The owner's session, as if it had just lost its connection; in the list. */
static svc_session_t *recover_session(mcs_service_t *service, const mcs_seg_t *seg)
{
    char host[MCS_SEG_TEXT_MAX + 1];
    char wire[MCS_SEG_TEXT_MAX + 1];
    char boot[MCS_SEG_TEXT_MAX + 1];
    char why[320];
    Mcs__Wire__Hello hello = MCS__WIRE__HELLO__INIT;
    Mcs__Wire__Id client = MCS__WIRE__ID__INIT;
    client.hi = seg->head.client.hi;
    client.lo = seg->head.client.lo;
    hello.client = &client;
    hello.host_name = text_of(seg, MCS_SEG_HOST, host);
    hello.wire = text_of(seg, MCS_SEG_WIRE, wire);
    hello.boot_id = text_of(seg, MCS_SEG_BOOT, boot);
    hello.pid = seg->head.pid;
    mcs_mutex_lock(&service->lock);
    svc_session_t *session = find_session_locked(service, seg->head.session);
    mcs_mutex_unlock(&service->lock);
    if (session != NULL) {
        return session;
    }
    session = svc_session_create(service, &hello);
    if (session == NULL) {
        return NULL;
    }
    session->id = seg->head.session;
    session->suspect = 1;
    mcs_mutex_lock(&service->lock);
    session->serial = ++service->next_serial;
    if (wire[0] != '\0' && svc_session_check_wire_locked(service, wire, why, sizeof(why)) == MCS_OK) {
        session->wire = service->wire_number;
        service->data_sessions++;
    }
    service->session_count++;
    mcs_list_push_tail(&service->sessions, &session->node);
    mcs_mutex_unlock(&service->lock);
    return session;
}

static mcs_status_t recover_segment(mcs_service_t *service, const mcs_seg_t *seg)
{
    svc_segments_t *segments = &service->segments;
    char name[MCS_SEG_TEXT_MAX + 1];
    char protocol[MCS_SEG_TEXT_MAX + 1];
    char endpoint[MCS_SEG_TEXT_MAX + 1];
    Mcs__Wire__MountSegment request = MCS__WIRE__MOUNT_SEGMENT__INIT;
    Mcs__Wire__Id instance = MCS__WIRE__ID__INIT;
    if (svc_segment_at(service, seg->head.handle) != NULL) {
        return MCS_OK; /* a snapshot says it again */
    }
    svc_session_t *owner = recover_session(service, seg);
    if (owner == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    instance.hi = seg->head.instance.hi;
    instance.lo = seg->head.instance.lo;
    request.instance = &instance;
    request.name = text_of(seg, MCS_SEG_NAME, name);
    request.protocol = text_of(seg, MCS_SEG_PROTOCOL, protocol);
    request.transport_endpoint = text_of(seg, MCS_SEG_ENDPOINT, endpoint);
    request.size = seg->head.size;
    request.base_address = seg->head.base;
    char location[16] = "";
    if (seg->head.far != 0) {
        snprintf(location, sizeof(location), "cuda:%u", (unsigned)seg->head.device);
    }
    request.location = location;
    svc_segment_t *segment = svc_segment_create(owner, &request);
    if (segment == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    segment->flags = SVC_SEG_RECOVERING | SVC_SEG_SUSPECT;
    mcs_rwlock_wrlock(&segments->lock);
    mcs_status_t status = svc_segment_add_locked(segments, segment, seg->head.handle);
    mcs_rwlock_wrunlock(&segments->lock);
    if (status != MCS_OK) {
        svc_segment_free(segment);
        return status;
    }
    owner->segment_count++;
    return MCS_OK;
}

/* No extent refers to it yet. */
static void recover_unmount(mcs_service_t *service, uint32_t handle)
{
    svc_segments_t *segments = &service->segments;
    svc_segment_t *segment = svc_segment_at(service, handle);
    mcs_rwlock_wrlock(&segments->lock);
    segments->next_handle = MCS_MAX(segments->next_handle, handle + 1);
    for (uint32_t i = 0; segment != NULL && i < segments->active_count; i++) {
        if (segments->active[i] == segment) {
            segments->active[i] = segments->active[--segments->active_count];
            segment->owner->segment_count--;
        }
    }
    mcs_rwlock_wrunlock(&segments->lock);
    if (segment != NULL) {
        svc_segment_put(service, segment);
    }
}

static void on_segment(void *arg, const uint8_t *body, uint32_t len)
{
    recovery_t *recovery = arg;
    mcs_seg_t seg;
    if (recovery->status != MCS_OK || mcs_seg_decode(body, len, &seg) != MCS_OK) {
        return;
    }
    if (seg.head.kind == MCS_REC_SEGMENT) {
        recovery->status = recover_segment(recovery->service, &seg);
    } else {
        recover_unmount(recovery->service, seg.head.handle);
    }
}

/* Sessions whose segments are all unmounted have nothing to come back for. */
static void end_empty_sessions(mcs_service_t *service)
{
    for (;;) {
        svc_session_t *empty = NULL;
        mcs_mutex_lock(&service->lock);
        MCS_LIST_FOR_EACH(node, &service->sessions)
        {
            svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
            if (session->segment_count == 0) {
                empty = session;
                break;
            }
        }
        mcs_mutex_unlock(&service->lock);
        if (empty == NULL) {
            return;
        }
        svc_session_end(empty, false);
    }
}

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

static void remove_locked(rec_stream_t *stream, svc_shard_t *shard, svc_ref_t ref)
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
        replica->node = NO_NODE;
        stream->highest = MCS_MAX(stream->highest, replica->generation);
    }
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
        remove_locked(stream, shard, old); /* an older value must not come back */
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
    }
    mcs_buf_append(&stream->strikes, &strike, sizeof(strike));
    if (mcs_buf_status(&stream->strikes) != MCS_OK) {
        stream->status = MCS_ERR_NO_MEMORY;
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
            remove_locked(stream, shard, old);
        }
        break;
    case MCS_REC_STRIKE_PUT:
    case MCS_REC_STRIKE_DEL: strike_locked(stream, shard, hash, old, &obj); break;
    case MCS_REC_SEGMENT:
    case MCS_REC_UNMOUNT:
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

static bool has_place(const mcs_service_t *service, const svc_record_t *record, const svc_replica_t *replica)
{
    const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(replica->place));
    uint64_t len = segment != NULL ? mcs_extent_room(record->payload_len, segment->shift) : 0;
    return segment != NULL && len <= segment->size && svc_place_offset(replica->place) <= segment->size - len;
}

/* Leaves the replicas that have a place. False: none. */
static bool keep_replicas(mcs_service_t *service, svc_record_t *record,
                          bool (*keep)(const mcs_service_t *service, const svc_record_t *record,
                                       const svc_replica_t *replica))
{
    uint32_t kept = 0;
    uint64_t first = record->replicas[0].generation;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        svc_replica_t replica = record->replicas[i];
        if (keep(service, record, &replica)) {
            record->replicas[kept++] = replica;
        }
    }
    if (kept == 0) {
        record->replicas[0].generation = first; /* what its group knows it by */
        return false;
    }
    record->replica_count = (uint8_t)kept;
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
        if (!keep_replicas(service, record, has_place)) {
            stream->homeless++;
            remove_locked(stream, shard, ref);
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

static void collect_strikes(rec_stream_t *stream)
{
    rec_strike_t *strikes = (rec_strike_t *)(void *)stream->strikes.bytes;
    for (size_t i = 0; i < stream->strikes.len / sizeof(*strikes); i++) {
        rec_strike_t *strike = &strikes[i];
        if (strike->over || strike->successor == 0) {
            continue;
        }
        svc_record_t *record = svc_record(&stream->service->index, strike->successor);
        if (keep_replicas(stream->service, record, has_place)) {
            add_extents(stream, record, strike->successor, strike->shard);
        } else {
            svc_record_free(stream->service, strike->successor);
            strike->successor = 0; /* what nobody can read any more: as a removal */
        }
    }
}

static void replay_stream(void *arg, uint32_t i)
{
    recovery_t *recovery = arg;
    rec_stream_t *stream = &recovery->streams[i];
    mcs_service_t *service = recovery->service;
    mcs_status_t status = mcs_journal_replay(service->journal, i, on_object, stream);
    stream->status = stream->status != MCS_OK ? stream->status : status;
    for (uint32_t s = i; stream->status == MCS_OK && s < SVC_SHARDS; s += MCS_JOURNAL_GROUPS) {
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
    mcs_status_t status = mcs_allocator_alloc(segment->allocator, len, &extent.offset, &extent.node);
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
    svc_replica_t replica = {generation, svc_place(extent->segment->handle, extent->offset), extent->node};
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
    if (status != MCS_OK || *overlaps) {
        return status;
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
        record->replicas[entry->replica].node = extent.node;
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

static bool has_node(const mcs_service_t *service, const svc_record_t *record, const svc_replica_t *replica)
{
    (void)service;
    (void)record;
    return replica->node != NO_NODE;
}

static mcs_status_t fill_segments(recovery_t *recovery)
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
    for (size_t at = 0; status == MCS_OK && at < wrong.len; at += sizeof(rec_extent_t)) {
        rec_extent_t *bad = (rec_extent_t *)(void *)(wrong.bytes + at);
        svc_record_t *record = svc_record(&service->index, bad->ref);
        mcs_error(SVC_AREA, "an object of the journal lies in another one's place: %s",
                  mcs_status_name(MCS_ERR_CHECKSUM_MISMATCH));
        svc_shard_t *shard = &service->index.shards[bad->shard];
        mcs_mutex_lock(&shard->lock);
        if (!keep_replicas(service, record, has_node) && (record->flags & SVC_REC_COMMITTED) != 0) {
            svc_record_uncount_locked(service, shard, bad->ref);
            remove_locked(&recovery->streams[bad->shard % MCS_JOURNAL_GROUPS], shard, bad->ref);
        }
        mcs_mutex_unlock(&shard->lock);
    }
    for (size_t at = 0; at < filling.gaps.len; at += sizeof(svc_extent_t)) { /* after a failure only */
        svc_segment_put(service, filling.segment);
    }
    mcs_buf_fini(&wrong);
    mcs_buf_fini(&filling.gaps);
    return status;
}

/* Nothing is known of what lies above the last extent, but that nobody gets it before the owner has spoken. */
static mcs_status_t take_tails(mcs_service_t *service)
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

static mcs_status_t resume_strikes(rec_stream_t *stream)
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
        placed += record->replicas[i].node != NO_NODE;
    }
    if (only_if_partial && placed == record->replica_count) {
        return true;
    }
    for (uint32_t i = 0; i < record->replica_count; i++) {
        if (record->replicas[i].node != NO_NODE) {
            svc_segment_put(service, svc_segment_at(service, svc_place_handle(record->replicas[i].place)));
        }
    }
    return placed == record->replica_count;
}

/* What the service's end cannot take apart by itself: it expects records whose extents have places. */
static void take_apart(rec_stream_t *stream)
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
                remove_locked(stream, shard, ref);
            }
        }
        shard->committed = 0;
        shard->soft_pinned = 0;
        mcs_mutex_unlock(&shard->lock);
    }
}

/* ---- all of it ---- */

static void report(const recovery_t *recovery, uint64_t begun_ns)
{
    mcs_service_t *service = recovery->service;
    uint64_t lost = 0;
    uint64_t homeless = 0;
    for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
        lost += recovery->streams[i].lost;
        homeless += recovery->streams[i].homeless;
    }
    mcs_info(SVC_AREA, "journal: %llu objects in %u segments are back after %llu ms; their owners have %llu s to come",
             (unsigned long long)service->index.objects, service->segments.active_count,
             (unsigned long long)((svc_real_ns() - begun_ns) / MCS_NS_PER_MS),
             (unsigned long long)service->conf->client_ttl);
    if (lost > 0 || homeless > 0) {
        mcs_warn(SVC_AREA,
                 "journal: %llu objects did not fit (memory, or max_objects), %llu were on segments that are gone",
                 (unsigned long long)lost, (unsigned long long)homeless);
    }
}

/* No generation may be made twice, whatever the clock says. */
static void raise_epoch(recovery_t *recovery)
{
    mcs_service_t *service = recovery->service;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
        highest = MCS_MAX(highest, mcs_generation_epoch(recovery->streams[i].highest));
    }
    if (highest < service->epoch) {
        return;
    }
    service->epoch = highest + 1;
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &service->index.shards[i];
        shard->next_generation = (service->epoch << MCS_GENERATION_EPOCH_SHIFT) + SVC_SHARDS + i;
    }
}

static mcs_status_t replay(recovery_t *recovery)
{
    mcs_service_t *service = recovery->service;
    mcs_status_t status = mcs_journal_replay(service->journal, MCS_JOURNAL_META, on_segment, recovery);
    status = status == MCS_OK ? recovery->status : status;
    if (status != MCS_OK) {
        return status;
    }
    end_empty_sessions(service);
    svc_sessions_clear_ended(service);
    mcs_journal_parallel(MCS_JOURNAL_GROUPS, replay_stream, recovery);
    for (uint32_t i = 0; status == MCS_OK && i < MCS_JOURNAL_GROUPS; i++) {
        status = recovery->streams[i].status;
    }
    raise_epoch(recovery);
    if (status == MCS_OK) {
        status = fill_segments(recovery);
    }
    if (status == MCS_OK) {
        status = take_tails(service);
    }
    for (uint32_t i = 0; status == MCS_OK && i < MCS_JOURNAL_GROUPS; i++) {
        status = resume_strikes(&recovery->streams[i]);
    }
    return status;
}

/* Silence counts from now, not from when the replay began. */
static void start_clocks(mcs_service_t *service)
{
    uint64_t now_ns = svc_clock(service);
    mcs_mutex_lock(&service->lock);
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        MCS_CONTAINER_OF(node, svc_session_t, node)->last_seen_ns = now_ns;
    }
    mcs_mutex_unlock(&service->lock);
    service->claim_end_ns = now_ns + 2 * service->conf->client_ttl * MCS_NS_PER_SEC;
}

mcs_status_t mcs_service_recover(mcs_service_t *service)
{
    const mcs_journal_past_t *past = mcs_journal_past(service->journal);
    uint64_t lease_ms = MCS_MAX(past->lease_ms, service->conf->default_kv_lease_ttl);
    uint64_t begun_ns = svc_real_ns();
    mcs_status_t status = MCS_OK;
    if (!past->empty) {
        recovery_t *recovery = MCS_NEW(recovery_t);
        if (recovery == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        recovery->service = service;
        service->grace_end_ns = mcs_now_ns() + (lease_ms + service->conf->lease_guard_ms) * MCS_NS_PER_MS;
        for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
            recovery->streams[i] =
                (rec_stream_t){.service = service, .stream = i, .now_ns = mcs_now_ns(), .wall_ms = mcs_wall_ms()};
            mcs_buf_init(&recovery->streams[i].strikes, (size_t)1 << 34);
            mcs_buf_init(&recovery->streams[i].extents, (size_t)1 << 34);
        }
        status = replay(recovery);
        if (status == MCS_OK) {
            start_clocks(service);
            report(recovery, begun_ns);
        }
        for (uint32_t i = 0; status != MCS_OK && i < MCS_JOURNAL_GROUPS; i++) {
            take_apart(&recovery->streams[i]);
        }
        for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
            mcs_buf_fini(&recovery->streams[i].strikes);
            mcs_buf_fini(&recovery->streams[i].extents);
        }
        mcs_free(recovery);
    }
    if (status == MCS_OK) {
        status = mcs_journal_begin(service->journal, service->epoch, lease_ms);
    }
    return status;
}

/* ---- afterwards ---- */

mcs_status_t svc_recovered_outcome_locked(mcs_service_t *service, svc_shard_t *shard, uint64_t put_id)
{
    /* Only for a while, and only what can be of an earlier master: it costs a look at the whole shard. */
    if (mcs_now_ns() >= service->grace_end_ns || mcs_generation_epoch(put_id) >= service->epoch) {
        return MCS_ERR_OBJECT_NOT_FOUND;
    }
    uint32_t at = UINT32_MAX;
    uint32_t version = 0;
    for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
        const svc_record_t *record = svc_record(&service->index, ref);
        if ((record->flags & SVC_REC_COMMITTED) != 0 && record->replicas[0].generation == put_id) {
            return MCS_OK;
        }
    }
    return MCS_ERR_OBJECT_NOT_FOUND;
}

static void swap_text(char **a, char **b)
{
    char *text = *a;
    *a = *b;
    *b = text;
}

void svc_drop_tail(mcs_service_t *service, svc_segment_t *segment)
{
    svc_pending_t *block = segment->tail;
    if (block != NULL) {
        segment->tail = NULL;
        svc_segment_give_back(service, segment, block->endings[0].allocator_node);
        svc_pending_put(block);
    }
}

/* Above the high mark it is free at once; the rest goes the way of a gap. */
static void settle_tail(mcs_service_t *service, svc_segment_t *segment, uint64_t high_mark)
{
    svc_pending_t *block = segment->tail;
    if (block == NULL || high_mark <= block->endings[0].offset) {
        svc_drop_tail(service, segment);
        return;
    }
    svc_ending_t *ending = &block->endings[0];
    segment->tail = NULL;
    mcs_mutex_lock(&segment->lock);
    uint64_t freed = mcs_allocator_trim(segment->allocator, ending->allocator_node, high_mark - ending->offset);
    __atomic_fetch_sub(&segment->used, freed, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&segment->lock);
    ending->len -= freed;
    ending->payload_len = ending->len;
    svc_ending_begin(service, ending, service->grace_end_ns, NULL, NULL);
    svc_pending_put(block);
}

void svc_adopt_locked(mcs_service_t *service, svc_segment_t *segment, svc_segment_t *fresh, uint64_t high_mark)
{
    settle_tail(service, segment, high_mark);
    swap_text(&segment->protocol, &fresh->protocol);
    swap_text(&segment->ipc_path, &fresh->ipc_path);
    swap_text(&segment->transport_endpoint, &fresh->transport_endpoint);
    uint8_t *endpoint = segment->wire_endpoint;
    segment->wire_endpoint = fresh->wire_endpoint;
    fresh->wire_endpoint = endpoint;
    segment->wire_endpoint_len = fresh->wire_endpoint_len;
    segment->base = fresh->base;
    mcs_info(SVC_AREA, "segment %s is back: handle %u, %llu bytes in use", segment->name, segment->handle,
             (unsigned long long)__atomic_load_n(&segment->used, __ATOMIC_RELAXED));
    /* Last: who sees it without this flag reads what was set above. */
    __atomic_fetch_and(&segment->flags, ~(uint32_t)SVC_SEG_RECOVERING, __ATOMIC_ACQ_REL);
}
