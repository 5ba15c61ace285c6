/* batch_replica_clear (reference 3.7): the putter of an object gives up its copies in one segment, or in all. Only what
 * nobody has a lease on is cleared, so no cached lookup names it (rule 2), and extents return as always (rule 3). */
#include <string.h>

#include "master/svc_internal.h"

typedef struct clear_job {
    svc_call_t *call;
    svc_batch_t batch;
    int32_t *statuses;
    const char *segment; /* "" = all */
} clear_job_t;

static bool is_named(const svc_segment_t *segment, const void *name)
{
    return *(const char *)name == '\0' || strcmp(segment->name, name) == 0;
}

static mcs_status_t clear_locked(clear_job_t *job, svc_shard_t *shard, svc_ref_t ref)
{
    mcs_service_t *service = job->call->service;
    const svc_record_t *record = svc_record(&service->index, ref);
    uint64_t now_ns = mcs_now_ns();
    if (record->putter != job->call->session->serial) {
        return MCS_ERR_ILLEGAL_CLIENT;
    }
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return MCS_ERR_REPLICA_IS_NOT_READY;
    }
    if ((record->flags & SVC_REC_PENDING) != 0) {
        return svc_pending_by_record_locked(shard, ref)->kind == SVC_COPY ? MCS_ERR_OBJECT_HAS_REPLICATION_TASK
                                                                          : MCS_ERR_REPLICA_IS_NOT_READY;
    }
    if (now_ns < svc_record_lease(record)) {
        return MCS_ERR_OBJECT_HAS_LEASE;
    }
    uint32_t named = svc_record_mask(service, record, is_named, job->segment);
    if (svc_record_live(record, named) == 0) {
        return MCS_ERR_REPLICA_NOT_FOUND;
    }
    if (__atomic_load_n(&service->releases, __ATOMIC_RELAXED) >= SVC_RELEASES_MAX) {
        return MCS_ERR_LIMIT;
    }
    return svc_record_drop_some_locked(service, shard, ref, named, now_ns) ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static void clear_one(void *arg, svc_shard_t *shard, uint32_t i)
{
    clear_job_t *job = arg;
    const mcs_key_t *key = &job->batch.keys[i];
    svc_ref_t ref =
        svc_shard_find_locked(&job->call->service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    job->statuses[i] = ref == 0 ? MCS_ERR_OBJECT_NOT_FOUND : clear_locked(job, shard, ref);
}

mcs_status_t svc_replica_clear(svc_call_t *call)
{
    const Mcs__Wire__ReplicaClear *request = (const Mcs__Wire__ReplicaClear *)call->message;
    clear_job_t job = {.call = call, .segment = request->segment_name};
    mcs_status_t status =
        svc_batch_begin(call, request->sequence, &request->key_lens, &request->keys, &job.batch, &job.statuses);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    size_t count = job.batch.count;
    svc_batch_run(call->service, &job.batch, clear_one, &job);
    uint64_t failed = 0;
    for (size_t i = 0; i < count; i++) {
        failed += job.statuses[i] != MCS_OK;
    }
    mcs_metric_add(call->service->metrics, batch_replica_clear_requests, 1);
    mcs_metric_add(call->service->metrics, batch_replica_clear_items, count);
    mcs_metric_add(call->service->metrics, batch_replica_clear_failed_items, failed);
    mcs_metric_add(call->service->metrics, batch_replica_clear_failures, failed > 0 && failed == count ? 1 : 0);
    mcs_metric_add(call->service->metrics, batch_replica_clear_partial_successes, failed > 0 && failed < count ? 1 : 0);
    return svc_reply_statuses(call, job.statuses, count);
}
