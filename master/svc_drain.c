/* Drain jobs: every replica is moved out of some segments, so that their owners can leave without a loss.
 *
 * From its start on a job's segments take nothing new (DRAINING). Housekeeping walks the index, pass after pass; for
 * each replica that lies there it makes a unit, a move task that the owner executes, as many at a time as the job may
 * have. A pass that finds nothing (no object, no open put) ends the job: the segments are DRAINED. What could not be
 * moved is looked at again in the next pass; when max_retry_attempts passes in a row have moved nothing the job has
 * failed, and its segments take objects again. No list of objects is kept, so a job costs the same for ten objects and
 * for ten million.
 *
 * A pass looks at slices of 1 ms a turn. What a job is (names, limits) is constant; its counts are the table's lock's;
 * the walk is housekeeping's. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_drain.h"

#define KEPT_MAX       256u
#define CONCURRENT_MAX 1024u

bool svc_job_is_source(const svc_job_t *job, uint64_t name_hash)
{
    for (uint32_t i = 0; i < job->source_count; i++) {
        if (job->sources[i] == name_hash) {
            return true;
        }
    }
    return false;
}

const uint64_t *svc_job_targets(const svc_job_t *job, uint32_t *count_out)
{
    *count_out = job->target_count;
    return job->targets;
}

static void touch_locked(svc_job_t *job)
{
    job->updated_ms = mcs_wall_ms();
}

void svc_job_unit_ended_locked(mcs_service_t *service, svc_job_t *job, svc_unit_end_t end, uint64_t bytes)
{
    (void)service;
    job->active--;
    job->succeeded += end == SVC_UNIT_MOVED;
    job->blocked += end == SVC_UNIT_FAILED;
    job->bytes += end == SVC_UNIT_MOVED ? bytes : 0;
    touch_locked(job);
}

/* ---- making one ---- */

static void free_job(mcs_service_t *service, svc_job_t *job)
{
    for (uint32_t i = 0; i < job->segment_count; i++) {
        svc_segment_put(service, job->segments[i]);
    }
    mcs_free(job->segments);
    mcs_free(job->names);
    mcs_free(job);
}

static mcs_status_t take_hashes(const char *const *names, size_t count, size_t max, uint64_t *hashes)
{
    if (count > max) {
        return MCS_ERR_INVALID_PARAMS;
    }
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(names[i]);
        if (len == 0 || len > SVC_NAME_MAX) {
            return MCS_ERR_INVALID_PARAMS;
        }
        hashes[i] = svc_name_hash(names[i], len);
        for (size_t k = 0; k < i; k++) {
            if (hashes[k] == hashes[i]) {
                return MCS_ERR_INVALID_PARAMS;
            }
        }
    }
    return MCS_OK;
}

static mcs_status_t copy_names(svc_job_t *job, const char *const *names, size_t count)
{
    mcs_buf_t text;
    mcs_buf_init(&text, SVC_JOB_SEGMENTS_MAX * (SVC_NAME_MAX + 1));
    for (size_t i = 0; i < count; i++) {
        mcs_buf_append(&text, names[i], strlen(names[i]) + 1);
    }
    job->names_len = text.len;
    job->names = mcs_buf_status(&text) == MCS_OK ? mcs_malloc(text.len) : NULL;
    if (job->names != NULL) {
        memcpy(job->names, text.bytes, text.len);
    }
    mcs_buf_fini(&text);
    return job->names != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static mcs_status_t make_job(const mcs_service_drain_ask_t *ask, svc_job_t **job_out)
{
    if (ask->segment_count == 0 || ask->max_concurrency == 0 || ask->max_concurrency > CONCURRENT_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    svc_job_t *job = MCS_NEW(svc_job_t);
    if (job == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_list_init(&job->node);
    job->id = mcs_id_random();
    job->created_ms = job->updated_ms = mcs_wall_ms();
    job->max_concurrency = (uint32_t)ask->max_concurrency;
    mcs_status_t status = take_hashes(ask->segments, ask->segment_count, SVC_JOB_SEGMENTS_MAX, job->sources);
    if (status == MCS_OK) {
        status = take_hashes(ask->targets, ask->target_count, SVC_PREFERRED_MAX, job->targets);
    }
    if (status == MCS_OK) {
        job->source_count = (uint32_t)ask->segment_count;
        job->target_count = (uint32_t)ask->target_count;
        status = copy_names(job, ask->segments, ask->segment_count);
    }
    for (uint32_t i = 0; status == MCS_OK && i < job->target_count; i++) {
        status = svc_job_is_source(job, job->targets[i]) ? MCS_ERR_INVALID_PARAMS : MCS_OK;
    }
    if (status != MCS_OK) {
        mcs_free(job->names);
        mcs_free(job);
        return status;
    }
    *job_out = job;
    return MCS_OK;
}

static bool has_name_locked(const svc_segments_t *segments, uint64_t name_hash)
{
    for (uint32_t i = 0; i < segments->active_count; i++) {
        if (segments->active[i]->name_hash == name_hash) {
            return true;
        }
    }
    return false;
}

/* Every name is a segment's, and no other job empties it. */
static mcs_status_t check_segments_locked(const svc_segments_t *segments, const svc_job_t *job)
{
    for (uint32_t i = 0; i < job->source_count; i++) {
        if (!has_name_locked(segments, job->sources[i])) {
            return MCS_ERR_SEGMENT_NOT_FOUND;
        }
    }
    for (uint32_t i = 0; i < job->target_count; i++) {
        if (!has_name_locked(segments, job->targets[i])) {
            return MCS_ERR_SEGMENT_NOT_FOUND;
        }
    }
    for (uint32_t i = 0; i < segments->active_count; i++) {
        const svc_segment_t *segment = segments->active[i];
        if ((svc_segment_flags(segment) & SVC_SEG_DRAINING) != 0 && svc_job_is_source(job, segment->name_hash)) {
            return MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS;
        }
    }
    return MCS_OK;
}

/* The job's segments take nothing new from now on. */
static mcs_status_t close_segments(mcs_service_t *service, svc_job_t *job)
{
    svc_segments_t *segments = &service->segments;
    mcs_rwlock_wrlock(&segments->lock);
    mcs_status_t status = check_segments_locked(segments, job);
    if (status == MCS_OK) {
        job->segments = MCS_NEW_ARRAY(svc_segment_t *, segments->active_count);
        status = job->segments != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; status == MCS_OK && i < segments->active_count; i++) {
        svc_segment_t *segment = segments->active[i];
        if (svc_job_is_source(job, segment->name_hash)) {
            svc_segment_get(segment);
            job->segments[job->segment_count++] = segment;
            uint32_t before = __atomic_fetch_and(&segment->flags, ~(uint32_t)SVC_SEG_DRAINED, __ATOMIC_ACQ_REL);
            __atomic_fetch_or(&segment->flags, SVC_SEG_DRAINING, __ATOMIC_ACQ_REL);
            if ((before & SVC_SEG_DRAINED) != 0) {
                svc_journal_segment(service, segment);
            }
        }
    }
    mcs_rwlock_wrunlock(&segments->lock);
    return status;
}

static void open_segments(mcs_service_t *service, svc_job_t *job, bool drained)
{
    for (uint32_t i = 0; i < job->segment_count; i++) {
        if (drained) {
            __atomic_fetch_or(&job->segments[i]->flags, SVC_SEG_DRAINED, __ATOMIC_ACQ_REL);
            svc_journal_segment(service, job->segments[i]);
        }
        __atomic_fetch_and(&job->segments[i]->flags, ~(uint32_t)SVC_SEG_DRAINING, __ATOMIC_ACQ_REL);
    }
}

static bool take_old_locked(svc_tasks_t *tasks, svc_job_t **old_out)
{
    if (tasks->job_count < KEPT_MAX) {
        return false;
    }
    MCS_LIST_FOR_EACH(node, &tasks->jobs)
    {
        svc_job_t *job = MCS_CONTAINER_OF(node, svc_job_t, node);
        if (svc_job_is_over(job) && job->active == 0 && job->segments == NULL) {
            mcs_list_remove(&job->node);
            tasks->job_count--;
            *old_out = job;
            return true;
        }
    }
    return false;
}

mcs_status_t mcs_service_drain_start(mcs_service_t *service, const mcs_service_drain_ask_t *ask, mcs_id_t *id_out)
{
    svc_tasks_t *tasks = service->tasks;
    svc_job_t *job = NULL;
    svc_job_t *old = NULL;
    mcs_status_t status = make_job(ask, &job);
    if (status != MCS_OK) {
        return status;
    }
    mcs_id_t id = job->id;
    status = close_segments(service, job);
    if (status != MCS_OK) {
        free_job(service, job);
        return status;
    }
    mcs_mutex_lock(&tasks->lock);
    if (__atomic_load_n(&tasks->running, __ATOMIC_RELAXED) >= SVC_JOBS_RUNNING_MAX) {
        status = MCS_ERR_TASK_PENDING_LIMIT_EXCEEDED;
    } else {
        (void)take_old_locked(tasks, &old);
        tasks->job_count++;
        mcs_list_push_tail(&tasks->jobs, &job->node);
        svc_journal_job_locked(service, job);
        __atomic_fetch_add(&tasks->running, 1, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&tasks->lock);
    if (status != MCS_OK) {
        open_segments(service, job, false);
        old = job;
    } else {
        mcs_info(SVC_AREA, "drain job %llu-%llu of %zu segments begun", (unsigned long long)id.hi,
                 (unsigned long long)id.lo, ask->segment_count);
        *id_out = id;
        svc_wake(service);
    }
    if (old != NULL) {
        free_job(service, old);
    }
    return status;
}

/* ---- ends ---- */

static void end_locked(mcs_service_t *service, svc_job_t *job, svc_job_status_t status, const char *message)
{
    job->status = status;
    job->failed = status == SVC_JOB_FAILED ? job->blocked : 0;
    snprintf(job->message, sizeof(job->message), "%s", message);
    touch_locked(job);
    open_segments(service, job, status == SVC_JOB_SUCCEEDED);
    svc_journal_job_locked(service, job);
}

void svc_job_end(mcs_service_t *service, svc_job_t *job, svc_job_status_t status, const char *message)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    bool ends = !svc_job_is_over(job); /* or somebody has canceled it just now */
    if (ends) {
        end_locked(service, job, status, message);
    }
    uint64_t moved = job->succeeded;
    mcs_mutex_unlock(&tasks->lock);
    if (ends) {
        mcs_info(SVC_AREA, "drain job %llu-%llu: %s, %llu replicas moved%s%s", (unsigned long long)job->id.hi,
                 (unsigned long long)job->id.lo, status == SVC_JOB_SUCCEEDED ? "done" : "failed",
                 (unsigned long long)moved, message[0] != '\0' ? ": " : "", message);
        svc_stir(service); /* a put may wait for space */
    }
}

static svc_job_t *find_locked(svc_tasks_t *tasks, mcs_id_t id)
{
    MCS_LIST_FOR_EACH(node, &tasks->jobs)
    {
        svc_job_t *job = MCS_CONTAINER_OF(node, svc_job_t, node);
        if (mcs_id_equal(job->id, id)) {
            return job;
        }
    }
    return NULL;
}

mcs_status_t mcs_service_drain_cancel(mcs_service_t *service, mcs_id_t id)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    svc_job_t *job = find_locked(tasks, id);
    mcs_status_t status = job == NULL            ? MCS_ERR_JOB_NOT_FOUND
                          : svc_job_is_over(job) ? MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS
                                                 : MCS_OK;
    if (status == MCS_OK) {
        end_locked(service, job, SVC_JOB_CANCELED, "canceled");
    }
    mcs_mutex_unlock(&tasks->lock);
    svc_wake(service);
    return status;
}

bool svc_job_is_over_locked(const svc_job_t *job)
{
    return svc_job_is_over(job);
}

mcs_status_t mcs_service_drain_query(mcs_service_t *service, mcs_id_t id, mcs_service_drain_t *out)
{
    static const char *const names[] = {"CREATED", "PLANNING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"};
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    const svc_job_t *job = find_locked(tasks, id);
    mcs_status_t status = MCS_ERR_JOB_NOT_FOUND;
    char *segments = job != NULL ? mcs_malloc(job->names_len) : NULL;
    if (job != NULL) {
        status = segments != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status == MCS_OK) {
        memcpy(segments, job->names, job->names_len);
        *out = (mcs_service_drain_t){.segments = segments,
                                     .segment_count = job->source_count,
                                     .status = job->status,
                                     .status_name = names[job->status],
                                     .created_ms = job->created_ms,
                                     .updated_ms = job->updated_ms,
                                     .succeeded = job->succeeded,
                                     .failed = job->failed,
                                     .blocked = svc_job_is_over(job) ? 0 : job->blocked,
                                     .active = job->active,
                                     .bytes = job->bytes};
        snprintf(out->message, sizeof(out->message), "%s", job->message);
    }
    mcs_mutex_unlock(&tasks->lock);
    return status;
}

void mcs_service_drain_fini(mcs_service_drain_t *drain)
{
    mcs_free(drain->segments);
    drain->segments = NULL;
}

/* ---- after a restart ---- */

/* A job of this record, in no list; NULL: no memory. */
static svc_job_t *make_recorded(const mcs_job_t *record)
{
    const mcs_job_head_t *head = &record->head;
    svc_job_t *job = MCS_NEW(svc_job_t);
    char *names = mcs_malloc(head->names_len);
    if (job == NULL || names == NULL) {
        mcs_free(job);
        mcs_free(names);
        return NULL;
    }
    mcs_list_init(&job->node);
    memcpy(names, record->names, head->names_len);
    job->id = head->id;
    job->created_ms = head->created_ms;
    job->max_concurrency = MCS_MIN(head->max_concurrency, CONCURRENT_MAX);
    job->names = names;
    job->names_len = head->names_len;
    for (const char *name = names; name < names + head->names_len; name += strlen(name) + 1) {
        job->sources[job->source_count++] = svc_name_hash(name, strlen(name));
    }
    job->target_count = head->target_count;
    memcpy(job->targets, record->targets, head->target_count * sizeof(uint64_t));
    return job;
}

bool svc_job_restore(mcs_service_t *service, const mcs_job_t *record)
{
    svc_tasks_t *tasks = service->tasks;
    const mcs_job_head_t *head = &record->head;
    svc_job_t *fresh = make_recorded(record);
    svc_job_t *old = NULL;
    if (fresh == NULL) {
        return false;
    }
    mcs_mutex_lock(&tasks->lock);
    svc_job_t *job = find_locked(tasks, head->id);
    if (job == NULL) {
        (void)take_old_locked(tasks, &old);
        job = fresh;
        fresh = NULL;
        tasks->job_count++;
        mcs_list_push_tail(&tasks->jobs, &job->node);
    }
    job->status = (svc_job_status_t)head->status;
    job->updated_ms = head->updated_ms;
    job->succeeded = head->succeeded;
    job->failed = head->failed;
    job->bytes = head->bytes;
    memcpy(job->message, record->message, head->message_len);
    job->message[head->message_len] = '\0';
    mcs_mutex_unlock(&tasks->lock);
    if (old != NULL) {
        free_job(service, old);
    }
    if (fresh != NULL) {
        free_job(service, fresh);
    }
    return true;
}

/* Its segments again; those that are gone are not. */
static bool close_recovered(mcs_service_t *service, svc_job_t *job)
{
    svc_segments_t *segments = &service->segments;
    job->segments = MCS_NEW_ARRAY(svc_segment_t *, MCS_MAX(segments->active_count, 1u));
    for (uint32_t i = 0; job->segments != NULL && i < segments->active_count; i++) {
        svc_segment_t *segment = segments->active[i];
        if (svc_job_is_source(job, segment->name_hash)) {
            svc_segment_get(segment);
            job->segments[job->segment_count++] = segment;
            __atomic_fetch_or(&segment->flags, SVC_SEG_DRAINING, __ATOMIC_ACQ_REL);
        }
    }
    return job->segments != NULL;
}

/* Before anybody is let in: no lock is needed, and no job has segments yet. */
bool svc_jobs_resume(mcs_service_t *service)
{
    svc_tasks_t *tasks = service->tasks;
    MCS_LIST_FOR_EACH(node, &tasks->jobs)
    {
        svc_job_t *job = MCS_CONTAINER_OF(node, svc_job_t, node);
        if (svc_job_is_over(job)) {
            continue;
        }
        if (!close_recovered(service, job)) {
            return false;
        }
        tasks->running++;
    }
    return true;
}

void svc_jobs_fini(mcs_service_t *service)
{
    svc_tasks_t *tasks = service->tasks;
    while (!mcs_list_empty(&tasks->jobs)) {
        svc_job_t *job = MCS_LIST_FIRST(&tasks->jobs, svc_job_t, node);
        mcs_list_remove(&job->node);
        free_job(service, job);
    }
}

/* ---- housekeeping ---- */

/* A job that is over needs its segments no more. */
static void let_go(mcs_service_t *service, svc_job_t *job)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    svc_segment_t **segments = job->segments;
    uint32_t count = job->segment_count;
    job->segments = NULL;
    job->segment_count = 0;
    mcs_mutex_unlock(&tasks->lock);
    for (uint32_t i = 0; i < count; i++) {
        svc_segment_put(service, segments[i]);
    }
    mcs_free(segments);
    __atomic_fetch_sub(&tasks->running, 1, __ATOMIC_RELEASE);
}

void svc_jobs_tick(mcs_service_t *service, uint64_t now_ns)
{
    svc_tasks_t *tasks = service->tasks;
    struct {
        svc_job_t *job;
        bool over;
    } jobs[SVC_JOBS_RUNNING_MAX];
    uint32_t count = 0;
    if (__atomic_load_n(&tasks->running, __ATOMIC_ACQUIRE) == 0) {
        return;
    }
    mcs_mutex_lock(&tasks->lock);
    MCS_LIST_FOR_EACH(node, &tasks->jobs)
    {
        svc_job_t *job = MCS_CONTAINER_OF(node, svc_job_t, node);
        if (job->segments != NULL && count < SVC_JOBS_RUNNING_MAX) {
            jobs[count].job = job;
            jobs[count++].over = svc_job_is_over(job);
        }
    }
    mcs_mutex_unlock(&tasks->lock);
    for (uint32_t i = 0; i < count; i++) {
        /* A job with segments is freed by nobody else. */
        if (jobs[i].over) {
            let_go(service, jobs[i].job);
        } else {
            svc_job_run(service, jobs[i].job, now_ns);
        }
    }
}
