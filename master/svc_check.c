/* After a start from the journal: are the extents what it says (rule 12)? When an owner has mounted its segment again
 * it is told of every extent of before that is in it, and answers with those whose headers disagree; their replicas are
 * dropped. Nobody waits for it: readers check by themselves (rule 4), and an answer that is lost leaves a replica that
 * none of them takes.
 *
 * One walk over the index serves all segments that came back until it began; those that come later wait for the next
 * one. A shard's extents are gathered in slices, sorted by segment, and sent. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define SLICE_NS   MCS_NS_PER_MS
#define SCAN_SLOTS 256u /* under one hold of a shard's lock */
#define AGAIN_NS   MCS_NS_PER_SEC
#define GATHER_MAX ((size_t)1 << 30)

/* An extent to be asked for. */
typedef struct check_entry {
    uint32_t handle;
    uint32_t reserved;
    mcs_col_check_t record;
} check_entry_t;

void svc_check_want(mcs_service_t *service, svc_segment_t *segment)
{
    __atomic_store_n(&segment->check, (uint32_t)SVC_CHECK_WANTED, __ATOMIC_RELEASE);
    __atomic_store_n(&service->check.wanted, 1, __ATOMIC_RELEASE);
    svc_wake(service);
}

static bool begin_walk(mcs_service_t *service)
{
    svc_segments_t *segments = &service->segments;
    bool any = false;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        uint32_t wanted = SVC_CHECK_WANTED;
        any |= __atomic_compare_exchange_n(&segments->active[i]->check, &wanted, (uint32_t)SVC_CHECK_ASKED, false,
                                           __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    mcs_rwlock_rdunlock(&segments->lock);
    return any;
}

static bool is_asked(const svc_segment_t *segment)
{
    return segment != NULL && __atomic_load_n(&segment->check, __ATOMIC_ACQUIRE) == SVC_CHECK_ASKED;
}

static void gather_record(const mcs_service_t *service, const svc_shard_t *shard, const svc_record_t *record,
                          mcs_buf_t *entries)
{
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return;
    }
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_replica_t *replica = &record->replicas[i];
        uint32_t handle = svc_place_handle(replica->place);
        if (mcs_generation_epoch(replica->generation) < svc_epoch(service) &&
            is_asked(svc_segment_at(service, handle))) {
            check_entry_t entry = {
                .handle = handle,
                .record = {svc_place_offset(replica->place), replica->generation, record->payload_len, shard->index}};
            mcs_buf_append(entries, &entry, sizeof(entry)); /* without room it is not asked for */
        }
    }
}

/* True: the shard is through. */
static bool gather(mcs_service_t *service, svc_check_t *check)
{
    svc_shard_t *shard = &service->index.shards[check->shard];
    bool through = false;
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < SCAN_SLOTS && !through; n++) {
        svc_ref_t ref = svc_shard_walk_locked(shard, &check->at, &check->version);
        through = ref == 0;
        if (!through) {
            gather_record(service, shard, svc_record(&service->index, ref), &check->entries);
        }
    }
    mcs_mutex_unlock(&shard->lock);
    return through;
}

static int compare_handles(const void *a, const void *b)
{
    uint32_t x = ((const check_entry_t *)a)->handle;
    uint32_t y = ((const check_entry_t *)b)->handle;
    return (x > y) - (x < y);
}

/* With a reference; NULL: it has gone. */
static svc_segment_t *segment_of(mcs_service_t *service, uint32_t handle)
{
    mcs_rwlock_rdlock(&service->segments.lock);
    svc_segment_t *segment = svc_segment_at(service, handle);
    if (segment != NULL) {
        svc_segment_get(segment);
    }
    mcs_rwlock_rdunlock(&service->segments.lock);
    return segment;
}

/* False: its owner has to read first. */
static bool send_batch(mcs_service_t *service, svc_segment_t *segment, const check_entry_t *entries, size_t count)
{
    static _Thread_local mcs_col_check_t t_records[MCS_CHECK_BATCH];
    mcs_rpc_conn_t *conn = svc_session_control(segment->owner);
    if (conn == NULL) {
        /* Gone again: once more when it is back. */
        svc_check_want(service, segment);
        service->check.not_before_ns = mcs_now_ns() + AGAIN_NS;
        return true;
    }
    bool room = mcs_rpc_conn_queued(conn) < MCS_RPC_OUT_HIGH / 4;
    if (room) {
        Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
        Mcs__Wire__NoticeCheck notice = MCS__WIRE__NOTICE_CHECK__INIT;
        for (size_t i = 0; i < count; i++) {
            t_records[i] = entries[i].record;
        }
        id.hi = segment->instance.hi;
        id.lo = segment->instance.lo;
        notice.instance = &id;
        notice.records = (ProtobufCBinaryData){count * sizeof(t_records[0]), (uint8_t *)t_records};
        svc_send(service, conn, MCS_VERB_N_CHECK, 0, MCS_OK, &notice.base);
        mcs_metric_add(service->metrics, extents_checked, count);
    }
    mcs_rpc_conn_put(conn);
    return room;
}

/* What was gathered of a shard. True: all of it is sent. */
static bool send_gathered(mcs_service_t *service, svc_check_t *check)
{
    const check_entry_t *entries = (const check_entry_t *)(const void *)check->entries.bytes;
    size_t total = check->entries.len / sizeof(*entries);
    while (check->sent < total) {
        const check_entry_t *first = &entries[check->sent];
        size_t count = 0;
        while (count < MCS_CHECK_BATCH && check->sent + count < total && first[count].handle == first->handle) {
            count++;
        }
        svc_segment_t *segment = segment_of(service, first->handle);
        bool sent = segment == NULL || !is_asked(segment) || send_batch(service, segment, first, count);
        if (segment != NULL) {
            svc_segment_put(service, segment);
        }
        if (!sent) {
            return false;
        }
        check->sent += count;
    }
    mcs_buf_reset(&check->entries);
    check->sent = 0;
    return true;
}

/* One shard further, or a slice of one. False: an owner has to read first. */
static bool step(mcs_service_t *service, svc_check_t *check)
{
    if (!check->gathered) {
        check->gathered = gather(service, check);
        if (check->gathered && check->entries.len > 0) {
            qsort(check->entries.bytes, check->entries.len / sizeof(check_entry_t), sizeof(check_entry_t),
                  compare_handles);
        }
        return true;
    }
    if (!send_gathered(service, check)) {
        return false;
    }
    check->gathered = false;
    check->shard++;
    check->at = UINT32_MAX;
    check->version = 0;
    return true;
}

static void end_walk(mcs_service_t *service)
{
    svc_segments_t *segments = &service->segments;
    mcs_buf_fini(&service->check.entries);
    service->check.active = false;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        uint32_t asked = SVC_CHECK_ASKED;
        (void)__atomic_compare_exchange_n(&segments->active[i]->check, &asked, (uint32_t)SVC_CHECK_NONE, false,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    mcs_rwlock_rdunlock(&segments->lock);
}

void svc_check_tick(mcs_service_t *service, uint64_t now_ns)
{
    svc_check_t *check = &service->check;
    if (!check->active) {
        if (now_ns < check->not_before_ns || __atomic_exchange_n(&check->wanted, 0, __ATOMIC_ACQ_REL) == 0 ||
            !begin_walk(service)) {
            return;
        }
        check->active = true;
        check->gathered = false;
        check->shard = 0;
        check->at = UINT32_MAX;
        check->version = 0;
        check->sent = 0;
        mcs_buf_init(&check->entries, GATHER_MAX);
    }
    uint64_t end_ns = svc_real_ns() + SLICE_NS;
    bool go_on = true;
    while (go_on && check->shard < SVC_SHARDS && svc_real_ns() < end_ns) {
        go_on = step(service, check);
    }
    if (check->shard == SVC_SHARDS) {
        end_walk(service);
    } else if (go_on) {
        svc_wake(service);
    }
}

void svc_check_fini(mcs_service_t *service)
{
    if (service->check.active) {
        mcs_buf_fini(&service->check.entries);
    }
}

/* ---- answers ---- */

/* By shard (the token: a generation does not say where its record lies), then generation. */
static int compare_records(const void *a, const void *b)
{
    const mcs_col_differ_t *x = a;
    const mcs_col_differ_t *y = b;
    return x->token != y->token ? (x->token > y->token) - (x->token < y->token)
                                : (x->generation > y->generation) - (x->generation < y->generation);
}

/* A bit for each replica of the session's that is among them. */
static uint32_t differing(const svc_call_t *call, const svc_record_t *record, const mcs_col_differ_t *records,
                          size_t count)
{
    const mcs_service_t *service = call->service;
    uint32_t mask = 0;
    if ((record->flags & SVC_REC_COMMITTED) == 0 || (record->flags & SVC_REC_PENDING) != 0) {
        return 0; /* a strike or a put of the key makes an end of it */
    }
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const mcs_col_differ_t key = {record->replicas[i].generation, records->token};
        const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
        if (segment != NULL && segment->owner == call->session &&
            mcs_generation_epoch(key.generation) < svc_epoch(service) &&
            bsearch(&key, records, count, sizeof(key), compare_records) != NULL) {
            mask |= UINT32_C(1) << i;
        }
    }
    return mask;
}

/* Of one shard. How many replicas were dropped. */
static uint32_t drop_in_shard(const svc_call_t *call, const mcs_col_differ_t *records, size_t count)
{
    mcs_service_t *service = call->service;
    svc_shard_t *shard = &service->index.shards[records->token];
    uint64_t now_ns = mcs_now_ns();
    uint32_t dropped = 0;
    uint32_t at = UINT32_MAX;
    uint32_t version = 0;
    for (bool through = false; !through;) {
        mcs_mutex_lock(&shard->lock);
        for (uint32_t n = 0; n < SCAN_SLOTS && !through; n++) {
            svc_ref_t ref = svc_shard_walk_locked(shard, &at, &version);
            uint32_t mask = ref != 0 ? differing(call, svc_record(&service->index, ref), records, count) : 0;
            if (mask != 0 && svc_record_drop_some_locked(service, shard, ref, mask, now_ns)) {
                dropped += (uint32_t)__builtin_popcount(mask);
            }
            through = ref == 0;
        }
        mcs_mutex_unlock(&shard->lock);
    }
    return dropped;
}

mcs_status_t svc_differ(svc_call_t *call)
{
    const Mcs__Wire__Differ *request = (const Mcs__Wire__Differ *)call->message;
    size_t count;
    mcs_status_t status = mcs_column_count(request->records.len, sizeof(mcs_col_differ_t),
                                           MCS_FRAME_MAX / sizeof(mcs_col_differ_t), &count);
    if (status != MCS_OK) {
        return status;
    }
    mcs_col_differ_t *records = mcs_arena_alloc(call->arena, MCS_MAX(count, (size_t)1) * sizeof(*records));
    if (records == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    if (count > 0) {
        memcpy(records, request->records.data, count * sizeof(*records));
        qsort(records, count, sizeof(*records), compare_records);
    }
    uint64_t dropped = 0;
    for (size_t i = 0, n; i < count && records[i].token < SVC_SHARDS; i += n) {
        for (n = 1; i + n < count && records[i].token == records[i + n].token;) {
            n++;
        }
        dropped += drop_in_shard(call, records + i, n);
    }
    mcs_metric_add(call->service->metrics, extents_differed, dropped);
    if (dropped > 0) {
        mcs_warn(SVC_AREA, "%llu replicas at %s are not what the journal says, dropped: %s",
                 (unsigned long long)dropped, call->session->host_name, mcs_status_name(MCS_ERR_CHECKSUM_MISMATCH));
    }
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}
