/* What the service writes to its journal (rule 12; docs/journal.md).
 *
 * A record is appended under the lock that its effect is made under, before that lock is let go: nobody has seen what
 * is not in the kernel's hands, and the records of a key are in its order. Shards are spread over the streams by their
 * number, and the seed of the index is the journal's, so that a key stays in its stream. The streams' locks are leaves.
 *
 * A strike (rule 2) is on record before the owners are asked: they may have made the old value unreadable when the
 * master is killed, and its successor must take over then. */
#include <string.h>

#include "master/journal/pack.h"
#include "master/svc_drain.h"

/* Of one hold of a shard's lock, and of one turn. */
#define SNAPSHOT_SLOTS    256u
#define SNAPSHOT_NS       (2 * MCS_NS_PER_MS)
#define SNAPSHOT_AGAIN_NS (10 * MCS_NS_PER_SEC)

static uint32_t stream_of(const svc_shard_t *shard)
{
    return shard->index % MCS_JOURNAL_GROUPS;
}

static bool is_on(const mcs_service_t *service)
{
    return service->journal != NULL && mcs_journal_is_on(service->journal);
}

/* ---- objects ---- */

static uint64_t soft_wall_ms(const svc_record_t *record)
{
    uint64_t now_ns = mcs_now_ns();
    uint64_t end_ns = svc_record_soft(record);
    return mcs_wall_ms() + (end_ns > now_ns ? (end_ns - now_ns) / MCS_NS_PER_MS : 0);
}

_Static_assert(sizeof(mcs_obj_replica_t) == sizeof(svc_replica_t), "a replica's record is what the index has");
_Static_assert(MCS_REPLICAS_MAX <= MCS_OBJ_REPLICAS_MAX, "every replica has room");
_Static_assert(SVC_JOB_SEGMENTS_MAX <= MCS_JOB_SEGMENTS_MAX && SVC_PREFERRED_MAX <= MCS_JOB_TARGETS_MAX &&
                   SVC_NAME_MAX <= MCS_SEG_TEXT_MAX && sizeof(((svc_job_t *)0)->message) <= MCS_JOB_MESSAGE_MAX + 1,
               "a job's record has room for all of it");
_Static_assert(sizeof(mcs_obj_head_t) + MCS_OBJ_REPLICAS_MAX * sizeof(mcs_obj_replica_t) + 2 * (size_t)MCS_KEY_MAX <=
                   MCS_JOURNAL_BODY_MAX - MCS_PACK_SLACK,
               "two texts have room");
/* Where a body is put together: too large for a stack. */
static _Thread_local uint8_t t_body[MCS_JOURNAL_BODY_MAX];

static void append(mcs_service_t *service, const svc_shard_t *shard, mcs_record_kind_t kind, const svc_record_t *record)
{
    bool value = kind == MCS_REC_PUT || kind == MCS_REC_STRIKE_PUT;
    mcs_obj_head_t head = {.kind = (uint8_t)kind, .key_len = record->key_len};
    const svc_group_t *group = NULL;
    const char *group_id = NULL;
    if (value) {
        bool soft = (record->flags & SVC_REC_SOFT) != 0;
        group = svc_record_group(record);
        head.flags = (uint8_t)(((record->flags & SVC_REC_HARD) != 0 ? MCS_OBJ_HARD : 0) | (soft ? MCS_OBJ_SOFT : 0));
        head.data_type = record->data_type;
        head.replica_count = record->replica_count;
        head.payload_len = record->payload_len;
        head.soft_wall_ms = soft ? soft_wall_ms(record) : 0;
    }
    if (group != NULL) {
        uint32_t len;
        group_id = svc_group_id(group, &len);
        head.group_len = (uint16_t)len;
    }
    uint8_t *at = t_body;
    memcpy(at, &head, sizeof(head));
    at += sizeof(head);
    for (uint32_t i = 0; i < head.replica_count; i++) {
        memcpy(at, &record->replicas[i], sizeof(mcs_obj_replica_t));
        at += sizeof(mcs_obj_replica_t);
    }
    if (group_id != NULL) {
        memcpy(at, group_id, head.group_len);
        at += head.group_len;
    }
    memcpy(at, svc_record_key(record), record->key_len);
    (void)mcs_journal_append(service->journal, stream_of(shard), t_body, mcs_obj_len(&head));
}

void svc_journal_put_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref)
{
    if (is_on(service)) {
        append(service, shard, MCS_REC_PUT, svc_record(&service->index, ref));
    }
}

void svc_journal_del_locked(mcs_service_t *service, svc_shard_t *shard, const svc_record_t *record)
{
    if (is_on(service) && (record->flags & SVC_REC_COMMITTED) != 0) {
        append(service, shard, MCS_REC_DEL, record);
    }
}

void svc_journal_strike_locked(mcs_service_t *service, const svc_pending_t *pending)
{
    if (!is_on(service)) {
        return;
    }
    bool put = pending->kind == SVC_PUT;
    svc_ref_t ref = put ? pending->successor : pending->record;
    append(service, pending->shard, put ? MCS_REC_STRIKE_PUT : MCS_REC_STRIKE_DEL, svc_record(&service->index, ref));
}

/* ---- segments ---- */

void svc_journal_segment(mcs_service_t *service, const svc_segment_t *segment)
{
    if (!is_on(service)) {
        return;
    }
    const svc_session_t *owner = segment->owner;
    const char *texts[] = {
        [MCS_SEG_NAME] = segment->name,    [MCS_SEG_PROTOCOL] = segment->protocol,
        [MCS_SEG_HOST] = owner->host_name, [MCS_SEG_ENDPOINT] = segment->transport_endpoint,
        [MCS_SEG_WIRE] = owner->wire_name, [MCS_SEG_BOOT] = owner->boot_id,
    };
    mcs_seg_head_t head = {
        .kind = MCS_REC_SEGMENT,
        .device = segment->shift != 0 ? (uint16_t)(segment->device + 1) : 0,
        .flags = (svc_segment_flags(segment) & SVC_SEG_DRAINED) != 0 ? MCS_SEG_DRAINED : 0,
        .handle = segment->handle,
        .instance = segment->instance,
        .client = owner->client,
        .session = owner->id,
        .size = segment->size,
        .base = segment->base,
        .pid = owner->pid,
    };
    uint8_t body[sizeof(head) + MCS_ARRAY_LEN(texts) * MCS_SEG_TEXT_MAX];
    uint32_t len = sizeof(head);
    for (size_t i = 0; i < MCS_ARRAY_LEN(texts); i++) {
        head.lens[i] = (uint16_t)MCS_MIN(strlen(texts[i]), (size_t)MCS_SEG_TEXT_MAX);
        memcpy(body + len, texts[i], head.lens[i]);
        len += head.lens[i];
    }
    memcpy(body, &head, sizeof(head));
    (void)mcs_journal_append(service->journal, MCS_JOURNAL_META, body, len);
}

void svc_journal_unmount(mcs_service_t *service, uint32_t handle)
{
    if (is_on(service)) {
        mcs_seg_head_t head = {.kind = MCS_REC_UNMOUNT, .handle = handle};
        (void)mcs_journal_append(service->journal, MCS_JOURNAL_META, &head, sizeof(head));
    }
}

/* ---- tasks and drain jobs ---- */

void svc_journal_task_locked(mcs_service_t *service, const svc_task_t *task)
{
    if (!is_on(service) || task->job != NULL) { /* a job's next pass finds again what its units were */
        return;
    }
    mcs_task_head_t head = {
        .kind = MCS_REC_TASK,
        .type = task->type,
        .state = (uint8_t)task->state,
        .target_count = (uint8_t)task->target_count,
        .last = task->last,
        .id = task->id,
        .client = task->client,
        .created_ms = task->created_ms,
        .updated_ms = task->updated_ms,
        .source = task->source,
        .attempts = task->attempts,
        .key_len = task->key_len,
    };
    uint8_t *at = t_body;
    memcpy(at, &head, sizeof(head));
    at += sizeof(head);
    memcpy(at, task->targets, head.target_count * sizeof(uint64_t));
    at += head.target_count * sizeof(uint64_t);
    memcpy(at, task->key, head.key_len);
    (void)mcs_journal_append(service->journal, MCS_JOURNAL_META, t_body, (uint32_t)(at + head.key_len - t_body));
}

void svc_journal_job_locked(mcs_service_t *service, const svc_job_t *job)
{
    if (!is_on(service)) {
        return;
    }
    mcs_job_head_t head = {
        .kind = MCS_REC_JOB,
        .status = (uint8_t)job->status,
        .source_count = (uint16_t)job->source_count,
        .target_count = (uint16_t)job->target_count,
        .message_len = (uint16_t)strlen(job->message),
        .names_len = (uint32_t)job->names_len,
        .max_concurrency = job->max_concurrency,
        .id = job->id,
        .created_ms = job->created_ms,
        .updated_ms = job->updated_ms,
        .succeeded = job->succeeded,
        .failed = job->failed,
        .bytes = job->bytes,
    };
    uint8_t *at = t_body;
    memcpy(at, &head, sizeof(head));
    at += sizeof(head);
    memcpy(at, job->targets, head.target_count * sizeof(uint64_t));
    at += head.target_count * sizeof(uint64_t);
    memcpy(at, job->names, head.names_len);
    at += head.names_len;
    memcpy(at, job->message, head.message_len);
    (void)mcs_journal_append(service->journal, MCS_JOURNAL_META, t_body, (uint32_t)(at + head.message_len - t_body));
}

static void snapshot_tasks(mcs_service_t *service)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_list_t *lists[] = {&tasks->finished, &tasks->pending, &tasks->processing};
    mcs_mutex_lock(&tasks->lock);
    for (size_t i = 0; i < MCS_ARRAY_LEN(lists); i++) {
        MCS_LIST_FOR_EACH(node, lists[i])
        {
            svc_journal_task_locked(service, MCS_CONTAINER_OF(node, svc_task_t, node));
        }
    }
    MCS_LIST_FOR_EACH(node, &tasks->jobs)
    {
        svc_journal_job_locked(service, MCS_CONTAINER_OF(node, svc_job_t, node));
    }
    mcs_mutex_unlock(&tasks->lock);
}

/* ---- the disk ---- */

void svc_journal_sync(mcs_service_t *service, uint16_t verb)
{
    /* These two promise nothing that a record stands for. */
    if (is_on(service) && verb != MCS_VERB_PUT_START && verb != MCS_VERB_PUT_REVOKE) {
        mcs_journal_sync(service->journal);
    }
}

/* ---- snapshots ---- */

static void snapshot_record_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return;
    }
    append(service, shard, MCS_REC_PUT, record);
    if ((record->flags & SVC_REC_PENDING) != 0) {
        const svc_pending_t *pending = svc_pending_by_record_locked(shard, ref);
        if (pending->state == SVC_STRIKING) {
            svc_journal_strike_locked(service, pending); /* PUT alone would take it back */
        }
    }
}

/* True: the stream is through. */
static bool snapshot_slice(mcs_service_t *service, svc_snapshot_t *snapshot)
{
    uint64_t end_ns = svc_real_ns() + SNAPSHOT_NS;
    while (snapshot->shard < SVC_SHARDS && svc_real_ns() < end_ns) {
        svc_shard_t *shard = &service->index.shards[snapshot->shard];
        bool through = false;
        mcs_mutex_lock(&shard->lock);
        for (uint32_t n = 0; n < SNAPSHOT_SLOTS && !through; n++) {
            svc_ref_t ref = svc_shard_walk_locked(shard, &snapshot->at, &snapshot->version);
            through = ref == 0;
            if (!through) {
                snapshot_record_locked(service, shard, ref);
            }
        }
        mcs_mutex_unlock(&shard->lock);
        if (through) {
            snapshot->shard += MCS_JOURNAL_GROUPS;
            snapshot->at = UINT32_MAX;
            snapshot->version = 0;
        }
    }
    return snapshot->shard >= SVC_SHARDS;
}

static void snapshot_segments(mcs_service_t *service)
{
    svc_segments_t *segments = &service->segments;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        svc_journal_segment(service, segments->active[i]);
    }
    mcs_rwlock_rdunlock(&segments->lock);
}

static void start_snapshot(mcs_service_t *service)
{
    svc_snapshot_t *snapshot = &service->snapshot;
    for (uint32_t n = 0; n < MCS_JOURNAL_STREAMS; n++) {
        uint32_t stream = (snapshot->stream + n) % MCS_JOURNAL_STREAMS;
        if (mcs_journal_wants_snapshot(service->journal, stream)) {
            snapshot->active = mcs_journal_snapshot_begin(service->journal, stream);
            snapshot->not_before_ns = snapshot->active ? 0 : mcs_now_ns() + SNAPSHOT_AGAIN_NS;
            snapshot->stream = stream;
            snapshot->shard = stream;
            snapshot->at = UINT32_MAX;
            snapshot->version = 0;
            return;
        }
    }
}

void svc_journal_tick(mcs_service_t *service)
{
    svc_snapshot_t *snapshot = &service->snapshot;
    if (!is_on(service)) {
        return;
    }
    if (!snapshot->active && mcs_now_ns() >= snapshot->not_before_ns) {
        start_snapshot(service);
    }
    if (!snapshot->active) {
        return;
    }
    bool through = true;
    if (snapshot->stream == MCS_JOURNAL_META) {
        snapshot_segments(service);
        snapshot_tasks(service);
    } else {
        through = snapshot_slice(service, snapshot);
    }
    if (through) {
        mcs_journal_snapshot_end(service->journal, snapshot->stream);
        snapshot->active = false;
        snapshot->stream = (snapshot->stream + 1) % MCS_JOURNAL_STREAMS;
    }
    svc_wake(service);
}
