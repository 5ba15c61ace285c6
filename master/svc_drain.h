/* What the files of drain jobs share (svc_drain.c). Not for others. */
#ifndef MCS_MASTER_SVC_DRAIN_H
#define MCS_MASTER_SVC_DRAIN_H

#include "master/svc_task.h"

#define SVC_JOB_SEGMENTS_MAX 64u /* names of one job */
#define SVC_JOBS_RUNNING_MAX 64u

/* DrainJob's status of the API. */
typedef enum svc_job_status {
    SVC_JOB_CREATED,
    SVC_JOB_PLANNING,
    SVC_JOB_RUNNING,
    SVC_JOB_SUCCEEDED,
    SVC_JOB_FAILED,
    SVC_JOB_CANCELED
} svc_job_status_t;

struct svc_job {
    mcs_list_t node;
    mcs_id_t id;
    uint64_t created_ms;
    uint32_t max_concurrency;
    uint32_t source_count;
    uint32_t target_count;
    char *names; /* of the sources, each with its end */
    size_t names_len;
    uint64_t sources[SVC_JOB_SEGMENTS_MAX];
    uint64_t targets[SVC_PREFERRED_MAX];
    svc_segment_t **segments; /* referenced; housekeeping lets go of them when the job is over, then NULL */
    uint32_t segment_count;

    /* The table's lock. */
    svc_job_status_t status;
    uint64_t updated_ms;
    uint64_t active;
    uint64_t succeeded;
    uint64_t failed;
    uint64_t blocked; /* in this pass */
    uint64_t bytes;
    char message[128];

    /* Housekeeping only. */
    uint32_t shard;
    uint32_t at;
    uint32_t version;
    uint64_t seen; /* in this pass: what still lies there */
    uint64_t moved_before;
    uint64_t fruitless; /* passes in a row */
    uint64_t resume_ns;
};

static inline bool svc_job_is_over(const svc_job_t *job)
{
    return job->status >= SVC_JOB_SUCCEEDED;
}

/* Ends the job, unless somebody has canceled it just now. */
void svc_job_end(mcs_service_t *service, svc_job_t *job, svc_job_status_t status, const char *message);
/* Housekeeping: one turn of a job that is not over. */
void svc_job_run(mcs_service_t *service, svc_job_t *job, uint64_t now_ns);

#endif
