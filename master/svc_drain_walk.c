/* Drain jobs: the walk over the index, pass after pass. See svc_drain.c. */
#include "master/svc_drain.h"

#define SLICE_NS   MCS_NS_PER_MS
#define SCAN_SLOTS 256u /* under one hold of a shard's lock */
#define SCAN_UNITS 32u
#define PAUSE_NS   (500 * MCS_NS_PER_MS) /* after a pass that moved nothing */

/* ---- the walk ---- */

typedef struct unit {
    svc_task_t *task;
    svc_session_t *session; /* referenced */
} unit_t;

static bool is_drained_here(const svc_job_t *job, const svc_segment_t *segment)
{
    return segment != NULL && (svc_segment_flags(segment) & SVC_SEG_DRAINING) != 0 &&
           svc_job_is_source(job, segment->name_hash);
}

/* The first of the record's replicas that the job is to move. */
static svc_segment_t *source_of(const mcs_service_t *service, const svc_job_t *job, const svc_record_t *record)
{
    for (uint32_t i = 0; i < record->replica_count; i++) {
        svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
        if (is_drained_here(job, segment)) {
            return segment;
        }
    }
    return NULL;
}

static void look_at_locked(mcs_service_t *service, svc_job_t *job, svc_ref_t ref, unit_t *units, uint32_t *count)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    svc_segment_t *segment = source_of(service, job, record);
    if (segment == NULL) {
        return;
    }
    job->seen++;
    if ((record->flags & SVC_REC_COMMITTED) == 0 || (record->flags & SVC_REC_PENDING) != 0 ||
        (svc_segment_flags(segment) & SVC_SEG_HIDDEN) != 0) {
        return; /* not now: the next pass sees what became of it */
    }
    const char *key = svc_record_key(record);
    uint64_t hash = svc_index_hash(&service->index, key, record->key_len);
    svc_task_t *task = svc_task_create(SVC_TASK_MOVE, key, record->key_len, hash);
    if (task == NULL) {
        return;
    }
    task->job = job;
    task->source = segment->name_hash;
    svc_session_get(segment->owner);
    units[(*count)++] = (unit_t){task, segment->owner};
}

/* Puts that were placed before the segments were closed; a replacing one is in no table yet. */
static void look_at_puts_locked(svc_job_t *job, const svc_shard_t *shard)
{
    MCS_LIST_FOR_EACH(node, &shard->open)
    {
        const svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
        for (uint32_t i = 0; i < pending->ending_count; i++) {
            job->seen += is_drained_here(job, pending->endings[i].segment);
        }
    }
}

/* One hold of a shard's lock; at most `max` units. */
static uint32_t scan(mcs_service_t *service, svc_job_t *job, unit_t *units, uint32_t max)
{
    svc_shard_t *shard = &service->index.shards[job->shard];
    uint32_t count = 0;
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < SCAN_SLOTS && count < max; n++) {
        svc_ref_t ref = svc_shard_walk_locked(shard, &job->at, &job->version);
        if (ref == 0) {
            look_at_puts_locked(job, shard);
            job->shard++;
            job->version = 0;
            break;
        }
        look_at_locked(service, job, ref, units, &count);
    }
    mcs_mutex_unlock(&shard->lock);
    return count;
}

/* False: no more tasks may wait. */
static bool submit(mcs_service_t *service, svc_job_t *job, unit_t *unit)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    job->active++;
    mcs_mutex_unlock(&tasks->lock);
    mcs_status_t status = svc_task_submit(service, unit->task, unit->session);
    svc_session_put(unit->session);
    if (status != MCS_OK) {
        mcs_mutex_lock(&tasks->lock);
        job->active--;
        mcs_mutex_unlock(&tasks->lock);
    }
    return status == MCS_OK;
}

/* ---- passes ---- */

/* After a restart: what owners that are not back yet have can neither be moved nor be a place to go. */
static bool owners_are_awaited(mcs_service_t *service)
{
    svc_segments_t *segments = &service->segments;
    bool found = false;
    if (service->claim_end_ns == 0) {
        return false;
    }
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count && !found; i++) {
        found = (svc_segment_flags(segments->active[i]) & SVC_SEG_RECOVERING) != 0;
    }
    mcs_rwlock_rdunlock(&segments->lock);
    return found;
}

static bool segments_are_there(const svc_job_t *job)
{
    for (uint32_t i = 0; i < job->segment_count; i++) {
        if ((svc_segment_flags(job->segments[i]) & SVC_SEG_GONE) != 0) {
            return false;
        }
    }
    return job->segment_count > 0; /* none: they were gone when the master was started */
}

static void begin_pass(mcs_service_t *service, svc_job_t *job)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    job->moved_before = job->succeeded;
    job->blocked = 0;
    svc_journal_job_locked(service, job); /* what it has done so far */
    mcs_mutex_unlock(&tasks->lock);
    job->shard = 0;
    job->version = 0;
    job->seen = 0;
}

static void end_pass(mcs_service_t *service, svc_job_t *job, uint64_t moved, uint64_t now_ns)
{
    if (job->seen == 0) {
        svc_job_end(service, job, SVC_JOB_SUCCEEDED, "");
        return;
    }
    job->fruitless = moved > job->moved_before ? 0 : job->fruitless + 1;
    if (job->fruitless > service->conf->max_retry_attempts) {
        svc_job_end(service, job, SVC_JOB_FAILED,
                    "what is left cannot be moved: no room, or its owner does not answer");
        return;
    }
    job->resume_ns = job->fruitless > 0 ? now_ns + PAUSE_NS : 0;
    begin_pass(service, job);
}

void svc_job_run(mcs_service_t *service, svc_job_t *job, uint64_t now_ns)
{
    svc_tasks_t *tasks = service->tasks;
    uint64_t end_ns = svc_real_ns() + SLICE_NS;
    if (now_ns < job->resume_ns) {
        return;
    }
    if (owners_are_awaited(service)) {
        job->resume_ns = now_ns + 2 * SVC_STEADY_NS; /* and they are hidden for a while then */
        return;
    }
    if (!segments_are_there(job)) {
        svc_job_end(service, job, SVC_JOB_FAILED, "a segment went away before it was empty");
        return;
    }
    for (;;) {
        mcs_mutex_lock(&tasks->lock);
        bool over = svc_job_is_over(job);
        job->status = over ? job->status : SVC_JOB_RUNNING;
        uint64_t active = job->active;
        uint64_t moved = job->succeeded;
        mcs_mutex_unlock(&tasks->lock);
        if (over || (job->shard == SVC_SHARDS && active > 0) || active >= job->max_concurrency) {
            return;
        }
        if (job->shard == SVC_SHARDS) {
            end_pass(service, job, moved, now_ns);
            return;
        }
        unit_t units[SCAN_UNITS];
        uint32_t count = scan(service, job, units, MCS_MIN((uint32_t)(job->max_concurrency - active), SCAN_UNITS));
        bool room = true;
        for (uint32_t i = 0; i < count; i++) {
            room = submit(service, job, &units[i]) && room;
        }
        if (!room || svc_real_ns() >= end_ns) {
            return;
        }
    }
}
