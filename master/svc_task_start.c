/* What a task finds in the index: its source, its targets, the reservation for them. See svc_task.h. */
#include <string.h>

#include "master/svc_task.h"

/* ---- what there is ---- */

static svc_segment_t *segment_of(const mcs_service_t *service, const svc_record_t *record, uint32_t i)
{
    return svc_segment_at(service, svc_place_handle(record->replicas[i].place));
}

/* May the task's executor read this replica? A move takes the one of its source, a copy any. */
static bool is_source(const svc_task_t *task, const svc_segment_t *segment)
{
    if (segment == NULL || !svc_segment_readable(segment, NULL)) {
        return false;
    }
    if (task->job != NULL && (svc_segment_flags(segment) & SVC_SEG_DRAINING) == 0) {
        return false; /* another segment of that name */
    }
    return task->type == SVC_TASK_COPY || segment->name_hash == task->source;
}

/* A replica in the segment of that name; `readable`: and one that can be read now. */
static bool holds(const mcs_service_t *service, const svc_record_t *record, uint64_t name_hash, bool readable)
{
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = segment_of(service, record, i);
        if (segment != NULL && segment->name_hash == name_hash && (!readable || svc_segment_readable(segment, NULL))) {
            return true;
        }
    }
    return false;
}

/* The task's targets that hold no replica yet. */
static uint32_t missing_targets(const mcs_service_t *service, const svc_task_t *task, const svc_record_t *record,
                                uint64_t *missing)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < task->target_count; i++) {
        if (!holds(service, record, task->targets[i], false)) {
            missing[count++] = task->targets[i];
        }
    }
    return count;
}

/* Its record, when there is a value to work on. `busy`: what to say when a reservation or a strike is open. */
static mcs_status_t find_locked(const mcs_service_t *service, const svc_task_t *task, svc_shard_t *shard,
                                svc_ref_t *ref_out)
{
    svc_ref_t ref = svc_shard_find_locked(&service->index, shard, task->hash, task->key, task->key_len);
    if (ref == 0) {
        return MCS_ERR_OBJECT_NOT_FOUND;
    }
    *ref_out = ref;
    return (svc_record(&service->index, ref)->flags & SVC_REC_COMMITTED) == 0 ? MCS_ERR_REPLICA_IS_NOT_READY : MCS_OK;
}

static mcs_status_t check_targets(const mcs_service_t *service, const svc_task_t *task, const svc_record_t *record)
{
    if (task->job != NULL) {
        return MCS_OK; /* what can be done is seen when it is done */
    }
    uint64_t missing[MCS_REPLICAS_MAX];
    uint32_t count = missing_targets(service, task, record, missing);
    return record->replica_count + count > MCS_REPLICAS_MAX ? MCS_ERR_INVALID_PARAMS : MCS_OK;
}

mcs_status_t svc_task_resolve(mcs_service_t *service, const svc_task_t *task, svc_session_t **session_out)
{
    svc_shard_t *shard = svc_index_shard(&service->index, task->hash);
    svc_ref_t ref = 0;
    mcs_mutex_lock(&shard->lock);
    mcs_status_t status = find_locked(service, task, shard, &ref);
    const svc_record_t *record = status == MCS_OK ? svc_record(&service->index, ref) : NULL;
    if (record != NULL && (record->flags & SVC_REC_PENDING) != 0 &&
        svc_pending_by_record_locked(shard, ref)->kind == SVC_COPY) {
        status = MCS_ERR_OBJECT_HAS_REPLICATION_TASK;
    }
    if (status == MCS_OK) {
        status = check_targets(service, task, record);
    }
    if (status == MCS_OK) {
        status = MCS_ERR_REPLICA_NOT_FOUND;
        uint32_t start = svc_random32() % record->replica_count;
        for (uint32_t n = 0; n < record->replica_count && status != MCS_OK; n++) {
            const svc_segment_t *segment = segment_of(service, record, (start + n) % record->replica_count);
            if (is_source(task, segment)) {
                *session_out = segment->owner;
                svc_session_get(segment->owner);
                status = MCS_OK;
            }
        }
    }
    mcs_mutex_unlock(&shard->lock);
    return status;
}

bool svc_task_is_done(mcs_service_t *service, const svc_task_t *task)
{
    svc_shard_t *shard = svc_index_shard(&service->index, task->hash);
    svc_ref_t ref = 0;
    bool done = false;
    mcs_mutex_lock(&shard->lock);
    if (find_locked(service, task, shard, &ref) == MCS_OK) {
        uint64_t missing[MCS_REPLICAS_MAX];
        const svc_record_t *record = svc_record(&service->index, ref);
        done = missing_targets(service, task, record, missing) == 0 &&
               (task->type == SVC_TASK_COPY || !holds(service, record, task->source, false));
    }
    mcs_mutex_unlock(&shard->lock);
    return done;
}

/* ---- the start ---- */

/* The replica of the session's that the task reads; replica_count when there is none, *elsewhere: but another's. */
static uint32_t own_source(const mcs_service_t *service, const svc_task_t *task, const svc_session_t *session,
                           const svc_record_t *record, bool *elsewhere)
{
    uint32_t found = record->replica_count;
    *elsewhere = false;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = segment_of(service, record, i);
        if (is_source(task, segment)) {
            if (segment->owner == session) {
                found = i;
            } else {
                *elsewhere = true;
            }
        }
    }
    return found;
}

/* A drained replica without a place to go is one too few, not one lost, as long as another stays (best effort, as for
 * the number of replicas of a put). */
static bool may_leave(const mcs_service_t *service, const svc_task_t *task, const svc_record_t *record)
{
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = segment_of(service, record, i);
        if (segment != NULL && svc_segment_readable(segment, NULL) &&
            (svc_segment_flags(segment) & (SVC_SEG_GRACE | SVC_SEG_DRAINING)) == 0 &&
            !svc_job_is_source(task->job, segment->name_hash)) {
            return true;
        }
    }
    return false;
}

/* Where the new replicas may lie, and how many there are to be. 0: nowhere. */
static uint32_t ask_for(mcs_service_t *service, const svc_task_t *task, svc_session_t *session,
                        const svc_record_t *record, svc_place_ask_t *ask)
{
    memset(ask, 0, sizeof(*ask));
    ask->service = service;
    ask->session = session;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = segment_of(service, record, i);
        if (segment != NULL) {
            ask->avoided[ask->avoided_count++] = segment->name_hash;
        }
    }
    if (task->job == NULL) {
        ask->only_preferred = true;
        ask->preferred_count = missing_targets(service, task, record, ask->preferred);
        return ask->preferred_count;
    }
    uint32_t count;
    const uint64_t *targets = svc_job_targets(task->job, &count);
    ask->only_preferred = count > 0;
    ask->preferred_count = count;
    memcpy(ask->preferred, targets, count * sizeof(*targets));
    return 1;
}

static void fill_replica(const svc_segment_t *segment, const svc_session_t *session, uint64_t offset,
                         uint64_t generation, uint64_t payload_len, mcs_cap_right_t right, mcs_col_replica_t *out)
{
    *out = (mcs_col_replica_t){
        .segment = segment->handle,
        .status = right == MCS_CAP_READ ? 3 : 2,
        .offset = offset,
        .generation = generation,
        .mac = mcs_cap_mac(&segment->key, session->id, segment->instance, offset, payload_len, generation, right),
    };
}

static void fill_offer(const mcs_service_t *service, const svc_pending_t *pending, const svc_session_t *session,
                       const svc_record_t *record, uint32_t source, svc_task_offer_t *offer)
{
    const svc_record_t *made = svc_record(&service->index, pending->successor);
    const svc_replica_t *from = &record->replicas[source];
    offer->put_id = pending->put_id;
    offer->payload_len = record->payload_len;
    offer->target_count = pending->ending_count;
    fill_replica(segment_of(service, record, source), session, svc_place_offset(from->place), from->generation,
                 record->payload_len, MCS_CAP_READ, &offer->source);
    for (uint32_t i = 0; i < pending->ending_count; i++) {
        fill_replica(pending->endings[i].segment, session, svc_place_offset(made->replicas[i].place),
                     made->replicas[i].generation, record->payload_len, MCS_CAP_WRITE, &offer->targets[i]);
    }
}

/* Each target has a replica: a copy is done, and a move has the one in its source left to give up. */
static mcs_status_t skip_locked(mcs_service_t *service, const svc_task_t *task, svc_shard_t *shard, svc_ref_t ref,
                                uint32_t source, svc_task_offer_t *offer)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    offer->put_id = 0;
    offer->payload_len = 0;
    if (task->type == SVC_TASK_COPY) {
        return MCS_OK;
    }
    if (!holds(service, record, task->targets[0], true)) {
        return MCS_ERR_REPLICA_IS_NOT_READY; /* its owner is away: what stays would be what nobody can read */
    }
    return svc_copy_leave_locked(service, shard, ref, task->hash, record->replicas[source].generation);
}

static mcs_status_t reserve_locked(mcs_service_t *service, svc_task_t *task, svc_session_t *session, svc_shard_t *shard,
                                   svc_ref_t ref, uint32_t source, svc_task_offer_t *offer)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    svc_place_ask_t place;
    svc_extent_t extents[MCS_REPLICAS_MAX];
    uint32_t want = ask_for(service, task, session, record, &place);
    uint64_t generation = record->replicas[source].generation;
    bool possible = false;
    if (want == 0) {
        return skip_locked(service, task, shard, ref, source, offer);
    }
    uint64_t len = mcs_extent_len(record->payload_len);
    uint32_t count = svc_place_extents(&place, record->payload_len, want, extents, &possible);
    mcs_status_t status = MCS_OK;
    if (count < want) {
        if (!possible && task->job != NULL && may_leave(service, task, record)) {
            offer->put_id = 0;
            task->left = true;
            return svc_copy_leave_locked(service, shard, ref, task->hash, generation);
        }
        if (possible) {
            svc_evict_demand(service, len);
        }
        status = MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    svc_pending_t *pending = NULL;
    if (status == MCS_OK) {
        svc_copy_ask_t ask = {.session = session,
                              .task = task,
                              .hash = task->hash,
                              .extents = extents,
                              .count = count,
                              .vacates = task->type == SVC_TASK_MOVE ? generation : 0};
        status = svc_copy_begin_locked(service, shard, ref, &ask, &pending);
    }
    if (status != MCS_OK) {
        for (uint32_t i = 0; i < count; i++) {
            /* Nobody has seen them. */
            svc_segment_give_back(service, extents[i].segment, extents[i].offset, extents[i].len);
        }
        return status;
    }
    fill_offer(service, pending, session, record, source, offer);
    return MCS_OK;
}

static mcs_status_t start_locked(mcs_service_t *service, svc_task_t *task, svc_session_t *session, svc_shard_t *shard,
                                 svc_task_offer_t *offer)
{
    svc_ref_t ref = 0;
    bool elsewhere;
    if (svc_session_ended(session)) {
        return MCS_ERR_AGAIN;
    }
    mcs_status_t status = find_locked(service, task, shard, &ref);
    if (status != MCS_OK) {
        return status;
    }
    const svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_PENDING) != 0) {
        return MCS_ERR_AGAIN;
    }
    status = check_targets(service, task, record);
    uint32_t source = own_source(service, task, session, record, &elsewhere);
    if (status == MCS_OK && source == record->replica_count) {
        status = elsewhere ? MCS_ERR_AGAIN : MCS_ERR_REPLICA_NOT_FOUND;
    }
    return status == MCS_OK ? reserve_locked(service, task, session, shard, ref, source, offer) : status;
}

mcs_status_t svc_task_start(mcs_service_t *service, svc_task_t *task, svc_session_t *session, svc_task_offer_t *offer)
{
    svc_shard_t *shard = svc_index_shard(&service->index, task->hash);
    mcs_mutex_lock(&shard->lock);
    __atomic_store_n(&task->lost, MCS_OK, __ATOMIC_RELAXED); /* of an earlier try */
    mcs_status_t status = start_locked(service, task, session, shard, offer);
    mcs_mutex_unlock(&shard->lock);
    if (task->job != NULL && (status == MCS_ERR_OBJECT_NOT_FOUND || status == MCS_ERR_REPLICA_NOT_FOUND)) {
        offer->put_id = 0; /* nothing lies there any more: as wished */
        offer->payload_len = 0;
        status = MCS_OK;
    }
    return status;
}

/* ---- the end ---- */

static svc_pending_t *reservation_locked(const svc_shard_t *shard, const svc_task_t *task, uint64_t put_id)
{
    svc_pending_t *pending = svc_pending_by_id_locked(shard, put_id);
    bool ours = pending != NULL && pending->kind == SVC_COPY && pending->task == task && pending->state == SVC_OPEN;
    return ours ? pending : NULL;
}

mcs_status_t svc_task_commit(mcs_service_t *service, const svc_task_t *task, uint64_t put_id)
{
    svc_shard_t *shard = svc_index_shard_of(&service->index, put_id);
    mcs_mutex_lock(&shard->lock);
    svc_pending_t *pending = reservation_locked(shard, task, put_id);
    mcs_status_t status =
        pending != NULL ? svc_copy_commit_locked(service, pending) : MCS_ERR_OBJECT_NO_REPLICATION_TASK;
    mcs_mutex_unlock(&shard->lock);
    return status;
}

void svc_task_revoke(mcs_service_t *service, const svc_task_t *task, uint64_t put_id, bool by_writer,
                     mcs_status_t status)
{
    svc_shard_t *shard = svc_index_shard_of(&service->index, put_id);
    mcs_mutex_lock(&shard->lock);
    svc_pending_t *pending = reservation_locked(shard, task, put_id);
    if (pending != NULL) {
        svc_put_revoke_locked(service, pending, by_writer, status);
    }
    mcs_mutex_unlock(&shard->lock);
}
