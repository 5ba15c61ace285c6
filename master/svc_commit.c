/* put_end, put_revoke, put_wait; put_now is svc_spare.c.
 *
 * put_end of an upsert may have to wait for the owners of the old extents (svc_strike.c): then the request is parked
 * and answered when the last of its keys is decided. What it may need for that is made before any key is committed. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

typedef struct parked_end {
    svc_parked_t base;
    uint32_t count;
    uint32_t left;
    int32_t *statuses;
    svc_pending_t *pendings[]; /* referenced; NULL: decided */
} parked_end_t;

typedef struct end_job {
    svc_call_t *call;
    const uint64_t *ids;
    uint32_t count;
    uint32_t *order;
    int32_t *statuses;
    parked_end_t *parked;
    bool in_doubt; /* put_revoke: a store may still be on its way */
} end_job_t;

static mcs_status_t job_init(end_job_t *job, svc_call_t *call, const Mcs__Wire__Sequence *sequence,
                             const ProtobufCBinaryData *ids, size_t room)
{
    size_t count;
    mcs_status_t status = mcs_column_count(ids->len, sizeof(uint64_t), MCS_BATCH_KEYS, &count);
    if (status != MCS_OK) {
        return status;
    }
    memset(job, 0, sizeof(*job));
    job->call = call;
    job->ids = (const uint64_t *)(const void *)ids->data; /* protobuf-c's copies are aligned */
    job->count = (uint32_t)count;
    job->order = mcs_arena_alloc(call->arena, MCS_MAX(count, (size_t)1) * sizeof(*job->order));
    job->statuses = mcs_arena_zalloc(call->arena, MCS_MAX(count, (size_t)1) * sizeof(*job->statuses));
    if (job->order == NULL || job->statuses == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    return svc_begin(call, sequence, count * sizeof(int32_t) + 16 + room);
}

static void run(end_job_t *job, mcs_status_t (*one_locked)(end_job_t *job, svc_shard_t *shard, uint32_t i))
{
    svc_shard_t *locked = NULL;
    svc_generations_order(job->ids, job->count, job->order);
    for (uint32_t n = 0; n < job->count; n++) {
        uint32_t i = job->order[n];
        svc_shard_t *shard = svc_index_shard_of(&job->call->service->index, job->ids[i]);
        if (shard != locked) {
            if (locked != NULL) {
                mcs_mutex_unlock(&locked->lock);
            }
            mcs_mutex_lock(&shard->lock);
            locked = shard;
        }
        job->statuses[i] = one_locked(job, shard, i);
    }
    if (locked != NULL) {
        mcs_mutex_unlock(&locked->lock);
    }
}

static mcs_status_t answer(end_job_t *job)
{
    return svc_reply_statuses(job->call, job->statuses, job->count);
}

static uint64_t count_failed(const int32_t *statuses, uint32_t count)
{
    uint64_t failed = 0;
    for (uint32_t i = 0; i < count; i++) {
        failed += statuses[i] != MCS_OK;
    }
    return failed;
}

/* ---- put_end ---- */

static void count_ends(mcs_metrics_t *metrics, const int32_t *statuses, uint32_t count)
{
    uint64_t failed = count_failed(statuses, count);
    if (count == 1) {
        mcs_metric_add(metrics, put_end_requests, 1);
        mcs_metric_add(metrics, put_end_failures, failed);
        return;
    }
    mcs_metric_add(metrics, batch_put_end_requests, 1);
    mcs_metric_add(metrics, batch_put_end_items, count);
    mcs_metric_add(metrics, batch_put_end_failed_items, failed);
    mcs_metric_add(metrics, batch_put_end_failures, failed == count && count > 0 ? 1 : 0);
    mcs_metric_add(metrics, batch_put_end_partial_successes, failed > 0 && failed < count ? 1 : 0);
}

static void parked_end_destroy(svc_parked_t *base)
{
    parked_end_t *parked = MCS_CONTAINER_OF(base, parked_end_t, base);
    for (uint32_t i = 0; i < parked->count; i++) {
        svc_pending_put(parked->pendings[i]);
    }
    mcs_free(parked->statuses);
    mcs_free(parked);
}

static bool parked_end_step(svc_parked_t *base, uint64_t now_ns, bool last)
{
    parked_end_t *parked = MCS_CONTAINER_OF(base, parked_end_t, base);
    (void)now_ns;
    for (uint32_t i = 0; i < parked->count; i++) {
        svc_pending_t *pending = parked->pendings[i];
        if (pending == NULL) {
            continue;
        }
        mcs_mutex_lock(&pending->shard->lock);
        bool done = pending->state == SVC_DONE;
        if (done) {
            if (parked->statuses[i] == MCS_ERR_AGAIN || pending->outcome != MCS_OK) {
                parked->statuses[i] = pending->outcome;
            }
            pending->waiters--;
        }
        mcs_mutex_unlock(&pending->shard->lock);
        if (done) {
            parked->pendings[i] = NULL;
            parked->left--;
            svc_pending_put(pending);
        }
    }
    if (parked->left > 0 && !last) {
        return false;
    }
    Mcs__Wire__StatusColumn reply = MCS__WIRE__STATUS_COLUMN__INIT;
    reply.statuses = (ProtobufCBinaryData){parked->count * sizeof(int32_t), (uint8_t *)parked->statuses};
    if (base->verb == MCS_VERB_PUT_END) {
        count_ends(base->service->metrics, parked->statuses, parked->count);
    }
    svc_parked_answer(base, parked->left > 0 ? MCS_ERR_CLOSED : MCS_OK, &reply.base);
    return true;
}

svc_parked_t *svc_parked_strikes_create(mcs_service_t *service, uint32_t count)
{
    size_t bytes = sizeof(parked_end_t) + count * (sizeof(svc_pending_t *) + sizeof(int32_t));
    if (!svc_park_admit(service, bytes)) {
        return NULL;
    }
    parked_end_t *parked = mcs_calloc(1, sizeof(*parked) + count * sizeof(svc_pending_t *));
    int32_t *statuses = MCS_NEW_ARRAY(int32_t, count);
    if (parked == NULL || statuses == NULL) {
        mcs_free(parked);
        mcs_free(statuses);
        svc_park_give_up(service, bytes);
        return NULL;
    }
    mcs_list_init(&parked->base.node);
    parked->count = count;
    parked->statuses = statuses;
    parked->base.bytes = bytes;
    parked->base.deadline_ns = MCS_NEVER; /* a strike ends by itself */
    parked->base.step = parked_end_step;
    parked->base.destroy = parked_end_destroy;
    return &parked->base;
}

void svc_parked_strikes_add_locked(svc_parked_t *base, uint32_t i, svc_pending_t *pending)
{
    parked_end_t *parked = MCS_CONTAINER_OF(base, parked_end_t, base);
    svc_pending_get(pending);
    pending->waiters++;
    parked->pendings[i] = pending;
    parked->left++;
}

void svc_parked_strikes_start(svc_call_t *call, svc_parked_t *base, const int32_t *statuses)
{
    parked_end_t *parked = MCS_CONTAINER_OF(base, parked_end_t, base);
    memcpy(parked->statuses, statuses, parked->count * sizeof(*statuses));
    svc_park(call, base);
}

bool svc_parked_strikes_give_up(mcs_service_t *service, svc_parked_t *base)
{
    if (base == NULL || MCS_CONTAINER_OF(base, parked_end_t, base)->left > 0) {
        return false;
    }
    svc_park_give_up(service, base->bytes);
    base->destroy(base);
    return true;
}

/* A reservation of this session that is open, or what to answer. Spares: only to give them up. */
static svc_pending_t *find_open_locked(const end_job_t *job, svc_shard_t *shard, uint32_t i, bool spares,
                                       mcs_status_t *status_out)
{
    const svc_session_t *session = job->call->session;
    svc_pending_t *pending = svc_pending_by_id_locked(shard, job->ids[i]);
    if (pending == NULL || (pending->kind != SVC_PUT && !(spares && pending->kind == SVC_SPARE))) {
        *status_out = svc_shard_recall_locked(shard, job->ids[i], session->serial);
        /* Of before a restart: not known, or ended by a strike that was resumed in another session's name. */
        bool elsewhere = *status_out == MCS_ERR_OBJECT_NOT_FOUND || *status_out == MCS_ERR_ILLEGAL_CLIENT;
        if (elsewhere && svc_recovered_outcome_locked(job->call->service, shard, job->ids[i]) == MCS_OK) {
            *status_out = MCS_OK;
        }
        return NULL;
    }
    if (pending->session != session && !pending->recovered) {
        *status_out = MCS_ERR_ILLEGAL_CLIENT;
        return NULL;
    }
    return pending;
}

static mcs_status_t end_locked(end_job_t *job, svc_shard_t *shard, uint32_t i)
{
    mcs_service_t *service = job->call->service;
    mcs_status_t status = MCS_OK;
    svc_pending_t *pending = find_open_locked(job, shard, i, false, &status);
    if (pending == NULL) {
        return status;
    }
    if (pending->successor != 0 && job->parked == NULL) {
        svc_parked_t *base = svc_parked_strikes_create(service, job->count);
        if (base == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        job->parked = MCS_CONTAINER_OF(base, parked_end_t, base);
    }
    if (pending->state == SVC_OPEN) {
        /* Hold it: the commit drops the shard's reference when it is done at once. */
        svc_pending_get(pending);
        status = svc_put_commit_locked(service, pending);
        if (status == MCS_ERR_AGAIN) {
            svc_parked_strikes_add_locked(&job->parked->base, i, pending);
        }
        svc_pending_put(pending);
        return status;
    }
    svc_parked_strikes_add_locked(&job->parked->base, i, pending); /* a repeat while its strike is under way */
    return MCS_ERR_AGAIN;
}

mcs_status_t svc_put_end(svc_call_t *call)
{
    const Mcs__Wire__PutEnd *request = (const Mcs__Wire__PutEnd *)call->message;
    end_job_t job;
    mcs_status_t status = job_init(&job, call, request->sequence, &request->put_ids, SVC_SPARE_ROOM);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    run(&job, end_locked);
    if (job.parked != NULL && !svc_parked_strikes_give_up(call->service, &job.parked->base)) {
        svc_parked_strikes_start(call, &job.parked->base, job.statuses);
        return MCS_OK;
    }
    count_ends(call->service->metrics, job.statuses, job.count);
    Mcs__Wire__PutEndReply reply = MCS__WIRE__PUT_END_REPLY__INIT;
    svc_spare_t spare;
    reply.statuses = (ProtobufCBinaryData){job.count * sizeof(int32_t), (uint8_t *)job.statuses};
    if (job.count == 1 && job.statuses[0] == MCS_OK) {
        svc_spare_offer(call, request->spare_len, &spare, &reply);
    }
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- put_revoke ---- */

static mcs_status_t revoke_locked(end_job_t *job, svc_shard_t *shard, uint32_t i)
{
    mcs_status_t status = MCS_OK;
    svc_pending_t *pending = find_open_locked(job, shard, i, true, &status);
    if (pending == NULL) {
        /* Committed: too late. Revoked before, by whomever: as asked. */
        return status == MCS_OK ? MCS_ERR_INVALID_WRITE : status == MCS_ERR_INVALID_WRITE ? MCS_OK : status;
    }
    if (pending->state != SVC_OPEN) {
        return MCS_ERR_INVALID_WRITE;
    }
    /* In doubt: as if the master had revoked it, so that the owners remember it until the session ends (rule 5). */
    svc_put_revoke_locked(job->call->service, pending, !job->in_doubt, MCS_ERR_INVALID_WRITE);
    return MCS_OK;
}

mcs_status_t svc_put_revoke(svc_call_t *call)
{
    const Mcs__Wire__PutRevoke *request = (const Mcs__Wire__PutRevoke *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    end_job_t job;
    mcs_status_t status = job_init(&job, call, request->sequence, &request->put_ids, 0);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    job.in_doubt = request->in_doubt != 0;
    run(&job, revoke_locked);
    uint64_t failed = count_failed(job.statuses, job.count);
    if (job.count == 1) {
        mcs_metric_add(metrics, put_revoke_requests, 1);
        mcs_metric_add(metrics, put_revoke_failures, failed);
    } else {
        mcs_metric_add(metrics, batch_put_revoke_requests, 1);
        mcs_metric_add(metrics, batch_put_revoke_items, job.count);
        mcs_metric_add(metrics, batch_put_revoke_failed_items, failed);
        mcs_metric_add(metrics, batch_put_revoke_failures, failed == job.count && failed > 0 ? 1 : 0);
        mcs_metric_add(metrics, batch_put_revoke_partial_successes, failed > 0 && failed < job.count ? 1 : 0);
    }
    return answer(&job);
}

/* ---- put_wait ---- */

typedef struct parked_wait {
    svc_parked_t base;
    svc_pending_t *pending; /* referenced */
} parked_wait_t;

static void parked_wait_destroy(svc_parked_t *base)
{
    parked_wait_t *parked = MCS_CONTAINER_OF(base, parked_wait_t, base);
    svc_pending_put(parked->pending);
    mcs_free(parked);
}

static bool parked_wait_step(svc_parked_t *base, uint64_t now_ns, bool last)
{
    parked_wait_t *parked = MCS_CONTAINER_OF(base, parked_wait_t, base);
    svc_pending_t *pending = parked->pending;
    (void)now_ns;
    mcs_mutex_lock(&pending->shard->lock);
    bool done = pending->state == SVC_DONE;
    bool committed = done && pending->kind == SVC_PUT && pending->outcome == MCS_OK;
    if (done || last) {
        pending->waiters--;
    }
    mcs_mutex_unlock(&pending->shard->lock);
    if (!done && !last) {
        return false;
    }
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    svc_parked_answer(base,
                      committed ? MCS_OK
                      : done    ? MCS_ERR_OBJECT_NOT_FOUND
                                : MCS_ERR_PUT_IN_PROGRESS,
                      committed ? &reply.base : NULL);
    return true;
}

mcs_status_t svc_put_wait(svc_call_t *call)
{
    const Mcs__Wire__PutWait *request = (const Mcs__Wire__PutWait *)call->message;
    mcs_service_t *service = call->service;
    if (request->key.len == 0 || request->key.len > MCS_KEY_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    const char *key = (const char *)request->key.data;
    uint32_t key_len = (uint32_t)request->key.len;
    parked_wait_t *parked = MCS_NEW(parked_wait_t);
    if (parked == NULL || !svc_park_admit(service, sizeof(*parked))) {
        mcs_free(parked);
        return MCS_ERR_PUT_IN_PROGRESS; /* asking again later is all it can do */
    }
    mcs_list_init(&parked->base.node);
    parked->base.bytes = sizeof(*parked);
    parked->base.step = parked_wait_step;
    parked->base.destroy = parked_wait_destroy;
    parked->base.deadline_ns = mcs_now_ns() + MCS_MIN(request->timeout_ms, 3600000u) * MCS_NS_PER_MS;
    uint64_t hash = svc_index_hash(&service->index, key, key_len);
    svc_shard_t *shard = svc_index_shard(&service->index, hash);
    mcs_status_t status = MCS_ERR_OBJECT_NOT_FOUND;
    mcs_mutex_lock(&shard->lock);
    svc_ref_t ref = svc_shard_find_locked(&service->index, shard, hash, key, key_len);
    const svc_record_t *record = ref != 0 ? svc_record(&service->index, ref) : NULL;
    if (record != NULL && (record->flags & SVC_REC_PENDING) != 0) {
        parked->pending = svc_pending_by_record_locked(shard, ref);
        svc_pending_get(parked->pending);
        parked->pending->waiters++;
    } else if (record != NULL && svc_record_readable(service, record, call->session)) {
        status = MCS_OK;
    }
    mcs_mutex_unlock(&shard->lock);
    if (parked->pending != NULL) {
        svc_park(call, &parked->base);
        return MCS_OK;
    }
    svc_park_give_up(service, sizeof(*parked));
    parked_wait_destroy(&parked->base);
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, status, status == MCS_OK ? &reply.base : NULL);
}
