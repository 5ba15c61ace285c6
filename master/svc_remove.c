/* remove: a batch of keys (reference 3.7; rule 2 for forced ones, rule 7 for keys on suspect owners). */
#include "master/svc_internal.h"

typedef struct remove_job {
    svc_call_t *call;
    svc_batch_t batch;
    int32_t *statuses;
    bool force;
    svc_parked_t *parked;
} remove_job_t;

mcs_status_t svc_remove_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                               svc_session_t *session, bool force, svc_pending_t **strike_out)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    uint64_t now_ns = mcs_now_ns();
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return MCS_ERR_REPLICA_IS_NOT_READY;
    }
    if ((record->flags & SVC_REC_PENDING) != 0) {
        svc_pending_t *pending = svc_pending_by_record_locked(shard, ref);
        if (pending->kind == SVC_COPY) {
            return MCS_ERR_OBJECT_HAS_REPLICATION_TASK; /* also when forced (reference 3.7) */
        }
        if (pending->kind != SVC_STRIKE) {
            return MCS_ERR_REPLICA_IS_NOT_READY;
        }
        *strike_out = pending; /* being removed already: gone when that is done */
        return MCS_ERR_AGAIN;
    }
    /* A lease says that the value can be read; on suspect owners it cannot, so it does not protect the key from its
     * removal. */
    if (!force && now_ns < svc_record_lease(record) && svc_record_readable(service, record, NULL)) {
        return MCS_ERR_OBJECT_HAS_LEASE;
    }
    if (__atomic_load_n(&service->releases, __ATOMIC_RELAXED) >= SVC_RELEASES_MAX) {
        return MCS_ERR_LIMIT;
    }
    if (now_ns < svc_record_uncached_at(service, record)) {
        *strike_out = svc_strike_create_locked(service, shard, ref, hash, session, now_ns);
        return *strike_out != NULL ? MCS_ERR_AGAIN : MCS_ERR_NO_MEMORY;
    }
    svc_pending_t *block = svc_record_endings(service, record);
    if (block == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_record_drop_locked(service, shard, ref, block, now_ns);
    return MCS_OK;
}

static void remove_one(void *arg, svc_shard_t *shard, uint32_t i)
{
    remove_job_t *job = arg;
    mcs_service_t *service = job->call->service;
    const mcs_key_t *key = &job->batch.keys[i];
    svc_ref_t ref = svc_shard_find_locked(&service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    if (ref == 0) {
        job->statuses[i] = MCS_ERR_OBJECT_NOT_FOUND;
        return;
    }
    if (job->parked == NULL) {
        /* Made only when this key may have to wait; before it is touched. */
        const svc_record_t *record = svc_record(&service->index, ref);
        bool may_wait =
            mcs_now_ns() < svc_record_uncached_at(service, record) || (record->flags & SVC_REC_PENDING) != 0;
        if (may_wait) {
            job->parked = svc_parked_strikes_create(service, (uint32_t)job->batch.count);
            if (job->parked == NULL) {
                job->statuses[i] = MCS_ERR_LIMIT;
                return;
            }
        }
    }
    bool ending = (svc_record(&service->index, ref)->flags & SVC_REC_PENDING) != 0;
    svc_pending_t *strike = NULL;
    job->statuses[i] =
        svc_remove_locked(service, shard, ref, job->batch.hashes[i], job->call->session, job->force, &strike);
    if (job->statuses[i] == MCS_ERR_AGAIN) {
        svc_parked_strikes_add_locked(job->parked, i, strike);
        if (ending) {
            job->statuses[i] =
                MCS_ERR_OBJECT_NOT_FOUND; /* another's removal, whose end is waited for: only it is one */
        }
    }
}

mcs_status_t svc_remove(svc_call_t *call)
{
    const Mcs__Wire__Remove *request = (const Mcs__Wire__Remove *)call->message;
    remove_job_t job = {.call = call, .force = request->force != 0};
    mcs_status_t status =
        svc_batch_begin(call, request->sequence, &request->key_lens, &request->keys, &job.batch, &job.statuses);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    size_t count = job.batch.count;
    svc_batch_run(call->service, &job.batch, remove_one, &job);
    uint64_t failed = 0;
    for (size_t i = 0; i < count; i++) {
        failed += job.statuses[i] != MCS_OK && job.statuses[i] != MCS_ERR_AGAIN;
    }
    mcs_metric_add(call->service->metrics, remove_requests, count);
    mcs_metric_add(call->service->metrics, remove_failures, failed);
    if (job.parked != NULL && !svc_parked_strikes_give_up(call->service, job.parked)) {
        svc_parked_strikes_start(call, job.parked, job.statuses);
        return MCS_OK;
    }
    return svc_reply_statuses(call, job.statuses, count);
}
