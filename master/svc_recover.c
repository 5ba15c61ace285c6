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
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_recover.h"
#include "master/svc_task.h"

/* ---- segments ---- */

static char *text_of(const mcs_seg_t *seg, enum mcs_seg_text which, char text[MCS_SEG_TEXT_MAX + 1])
{
    memcpy(text, seg->texts[which], seg->head.lens[which]);
    text[seg->head.lens[which]] = '\0';
    return text;
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
    svc_session_t *session = svc_session_find_locked(service, seg->head.session);
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
    if (seg->head.device != 0) {
        snprintf(location, sizeof(location), "cuda:%u", (unsigned)seg->head.device - 1u);
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
    if (segment != NULL && svc_segment_drop_locked(segments, segment)) {
        segment->owner->segment_count--;
    }
    mcs_rwlock_wrunlock(&segments->lock);
    if (segment != NULL) {
        svc_segment_put(service, segment);
    }
}

/* A later record of a segment that is known says what has changed. */
static void recover_flags(mcs_service_t *service, const mcs_seg_t *seg)
{
    svc_segment_t *segment = svc_segment_at(service, seg->head.handle);
    if (segment != NULL) {
        uint32_t drained = (seg->head.flags & MCS_SEG_DRAINED) != 0 ? SVC_SEG_DRAINED : 0;
        segment->flags = (segment->flags & ~(uint32_t)SVC_SEG_DRAINED) | drained;
    }
}

static void on_meta(void *arg, const uint8_t *body, uint32_t len)
{
    recovery_t *recovery = arg;
    mcs_service_t *service = recovery->service;
    mcs_seg_t seg;
    mcs_task_t task;
    mcs_job_t job;
    if (recovery->status != MCS_OK) {
        return;
    }
    if (mcs_seg_decode(body, len, &seg) == MCS_OK) {
        if (seg.head.kind == MCS_REC_SEGMENT) {
            recovery->status = recover_segment(service, &seg);
            recover_flags(service, &seg);
        } else {
            recover_unmount(service, seg.head.handle);
        }
    } else if (mcs_task_decode(body, len, &task) == MCS_OK) {
        recovery->status = svc_task_restore(service, &task) ? MCS_OK : MCS_ERR_NO_MEMORY;
    } else if (mcs_job_decode(body, len, &job) == MCS_OK) {
        recovery->status = svc_job_restore(service, &job) ? MCS_OK : MCS_ERR_NO_MEMORY;
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

/* ---- all of it ---- */

static void report(const recovery_t *recovery, uint64_t begun_ns)
{
    mcs_service_t *service = recovery->service;
    const mcs_journal_past_t *past = mcs_journal_past(service->journal);
    uint64_t lost = 0;
    uint64_t homeless = 0;
    for (uint32_t i = 0; i < MCS_JOURNAL_GROUPS; i++) {
        lost += recovery->streams[i].lost;
        homeless += recovery->streams[i].homeless;
    }
    service->recovered = (svc_recovered_t){.objects = service->index.objects,
                                           .segments = service->segments.active_count,
                                           .lost = lost + homeless,
                                           .damaged = past->damaged,
                                           .took_ms = past->took_ms + (svc_real_ns() - begun_ns) / MCS_NS_PER_MS};
    mcs_info(SVC_AREA,
             "journal: %llu objects in %llu segments are back after %llu ms; their owners have %llu s to come",
             (unsigned long long)service->recovered.objects, (unsigned long long)service->recovered.segments,
             (unsigned long long)service->recovered.took_ms, (unsigned long long)service->conf->client_ttl);
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
    svc_index_set_epoch(&service->index, service->epoch);
}

static void replay_stream(void *arg, uint32_t i)
{
    rec_stream_replay(&((recovery_t *)arg)->streams[i]);
}

static mcs_status_t replay(recovery_t *recovery)
{
    mcs_service_t *service = recovery->service;
    mcs_status_t status = mcs_journal_replay(service->journal, MCS_JOURNAL_META, on_meta, recovery);
    status = status == MCS_OK ? recovery->status : status;
    if (status != MCS_OK) {
        return status;
    }
    end_empty_sessions(service);
    svc_sessions_clear_ended(service);
    if (!svc_jobs_resume(service)) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_journal_parallel(MCS_JOURNAL_GROUPS, replay_stream, recovery);
    for (uint32_t i = 0; status == MCS_OK && i < MCS_JOURNAL_GROUPS; i++) {
        status = recovery->streams[i].status;
    }
    raise_epoch(recovery);
    if (status == MCS_OK) {
        status = rec_fill_segments(recovery);
    }
    if (status == MCS_OK) {
        status = rec_take_tails(service);
    }
    for (uint32_t i = 0; status == MCS_OK && i < MCS_JOURNAL_GROUPS; i++) {
        status = rec_stream_resume_strikes(&recovery->streams[i]);
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
            rec_stream_take_apart(&recovery->streams[i]);
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
