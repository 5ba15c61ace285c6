/* Tasks: a copy or a move of one object's replica, asked for by a client or by a drain job, executed by the client that
 * owns the source. For svc_task.c, svc_task_rpc.c, svc_task_start.c and svc_drain.c.
 *
 *            create                fetch (a reservation is made)         end: committed
 *   (none) ---------> PENDING ------------------------------> PROCESSING ---------------> SUCCESS
 *                        ^  `-- too long, object gone --> FAILED <--'  |
 *                        `------ lost, failed, overdue: once more -----'   max_retry_attempts
 *
 * A task waits for the session that owns its source; when that ends another replica's owner is asked, or the task
 * fails. Whoever works on a task (a fetch, an end, housekeeping) has it marked busy, so its state is changed by one at
 * a time and no other lock is taken under the table's (rank TASKS).
 *
 * Units of drain jobs are tasks, too, but nobody can ask for them and their ends are only counted. */
#ifndef MCS_MASTER_SVC_TASK_H
#define MCS_MASTER_SVC_TASK_H

#include "master/svc_internal.h"

typedef enum svc_task_type { SVC_TASK_COPY, SVC_TASK_MOVE } svc_task_type_t;
typedef enum svc_task_state {
    SVC_TASK_PENDING,
    SVC_TASK_PROCESSING,
    SVC_TASK_SUCCESS,
    SVC_TASK_FAILED
} svc_task_state_t;

typedef struct svc_job svc_job_t;

struct svc_task {
    uint32_t refs; /* atomic: one in the table, one per reservation, one per worker */
    mcs_id_t id;
    uint8_t type;
    svc_job_t *job; /* of a drain: any target that is no source of the job, or of its targets; NULL = asked for */
    uint64_t created_ms;
    uint64_t hash;
    uint64_t source; /* hash of the segment's name; 0 = any */
    uint64_t targets[MCS_REPLICAS_MAX];
    uint32_t target_count;
    int32_t lost; /* atomic: status that its reservation was revoked with, 0 = not */

    /* The table's lock. */
    mcs_list_t node;  /* pending, processing or finished */
    svc_task_t *next; /* in its bucket */
    svc_task_state_t state;
    bool busy;
    bool abandoned;         /* PROCESSING, but its executor does not work on it */
    bool left;              /* a unit whose replica could only be left */
    bool expired;           /* has waited too long: no more tries */
    bool recovered;         /* of the journal: nobody knows how far its executor had come */
    uint64_t told_ns;       /* service clock: when its session was told last; 0 = not */
    uint32_t attempts;      /* that failed */
    svc_session_t *session; /* referenced: waits for, or works in; NULL = to be assigned */
    mcs_id_t client;
    uint64_t updated_ms;
    uint64_t since_ns;      /* service clock: in this state */
    uint64_t not_before_ns; /* service clock */
    uint64_t put_id;        /* PROCESSING */
    uint64_t payload_len;
    mcs_status_t last; /* the last failure */

    uint32_t key_len;
    char key[];
};

typedef struct svc_tasks {
    mcs_mutex_t lock; /* rank TASKS: what follows */
    mcs_list_t pending MCS_GUARDED_BY(&lock);
    mcs_list_t processing MCS_GUARDED_BY(&lock);
    mcs_list_t finished MCS_GUARDED_BY(&lock); /* oldest first */
    uint32_t pending_count MCS_GUARDED_BY(&lock);
    uint32_t processing_count MCS_GUARDED_BY(&lock);
    uint32_t finished_count MCS_GUARDED_BY(&lock);
    svc_task_t **buckets MCS_GUARDED_BY(&lock);
    mcs_list_t jobs MCS_GUARDED_BY(&lock);
    uint32_t job_count MCS_GUARDED_BY(&lock);
    /* atomics */
    uint32_t stir;    /* a reservation was lost, or something is to be assigned or told */
    uint32_t running; /* drain jobs that are not over */
    /* housekeeping only */
    uint64_t next_look_ns;
} svc_tasks_t;

/* A task that is in no table, referenced; the key is copied. NULL: no memory. */
svc_task_t *svc_task_create(svc_task_type_t type, const char *key, uint32_t key_len, uint64_t hash) MCS_MUST_CHECK;
/* PENDING from now on; takes the reference in any case. `session` (referenced by the task) owns the source.
 * MCS_ERR_TASK_PENDING_LIMIT_EXCEEDED. */
mcs_status_t svc_task_submit(mcs_service_t *service, svc_task_t *task, svc_session_t *session) MCS_MUST_CHECK;
/* Up to `max` tasks that wait for the session, marked busy and referenced. *more: others wait. */
uint32_t svc_task_take(mcs_service_t *service, svc_session_t *session, uint32_t max, svc_task_t **tasks, bool *more);
/* The session works on none of the tasks that run in it: they are tried again, and their reservations revoked. */
void svc_task_abandon(mcs_service_t *service, const svc_session_t *session);
/* The task with this id that runs in the session under this reservation, marked busy and referenced; or NULL. */
svc_task_t *svc_task_take_running(mcs_service_t *service, const svc_session_t *session, mcs_id_t id, uint64_t put_id);
/* Ends being busy, and the worker's reference. Running: the reservation was made. Else by what happened: MCS_OK:
 * SUCCESS; MCS_ERR_AGAIN: once more, soon; others: once more later, or FAILED. */
void svc_task_running(mcs_service_t *service, svc_task_t *task, uint64_t put_id, uint64_t payload_len);
void svc_task_settle(mcs_service_t *service, svc_task_t *task, mcs_status_t status);

/* A state that is on record (svc_recover.c); the last one counts. False: no memory. */
bool svc_task_restore(mcs_service_t *service, const mcs_task_t *record) MCS_MUST_CHECK;

/* What a task has come to. MCS_ERR_TASK_NOT_FOUND. */
typedef struct svc_task_text {
    uint32_t type;
    svc_task_state_t state;
    uint64_t created_ms;
    uint64_t updated_ms;
    mcs_id_t client;
    mcs_status_t last; /* the last failure, also of a try that was followed by another */
} svc_task_text_t;
mcs_status_t svc_task_describe(mcs_service_t *service, mcs_id_t id, svc_task_text_t *out) MCS_MUST_CHECK;

/* svc_task_start.c: what a task finds in the index. */
/* Whether the task makes sense now, and who is to execute it (referenced). MCS_ERR_OBJECT_NOT_FOUND,
 * MCS_ERR_REPLICA_IS_NOT_READY, MCS_ERR_REPLICA_NOT_FOUND (no source), MCS_ERR_OBJECT_HAS_REPLICATION_TASK (one is
 * running), MCS_ERR_INVALID_PARAMS (too many replicas). */
mcs_status_t svc_task_resolve(mcs_service_t *service, const svc_task_t *task, svc_session_t **session_out)
    MCS_MUST_CHECK;
/* Every target has a replica, and a move's source has none: there is nothing left to do. */
bool svc_task_is_done(mcs_service_t *service, const svc_task_t *task);
/* What the executor is told. */
typedef struct svc_task_offer {
    uint64_t put_id; /* 0: there is nothing to write, it is done */
    uint64_t payload_len;
    mcs_col_replica_t source;
    mcs_col_replica_t targets[MCS_REPLICAS_MAX];
    uint32_t target_count;
} svc_task_offer_t;
/* Makes the reservation for the session, which owns the source. As resolve, and MCS_ERR_AGAIN (not now: the key is
 * being put, or the source is another session's), MCS_ERR_NO_AVAILABLE_HANDLE, MCS_ERR_NO_MEMORY. */
mcs_status_t svc_task_start(mcs_service_t *service, svc_task_t *task, svc_session_t *session, svc_task_offer_t *offer)
    MCS_MUST_CHECK;
/* Commits the reservation, or gives it back. MCS_ERR_OBJECT_NO_REPLICATION_TASK: it was revoked. */
mcs_status_t svc_task_commit(mcs_service_t *service, const svc_task_t *task, uint64_t put_id);
void svc_task_revoke(mcs_service_t *service, const svc_task_t *task, uint64_t put_id, bool by_writer,
                     mcs_status_t status);

/* svc_drain.c; with the table's lock. */
typedef enum svc_unit_end { SVC_UNIT_MOVED, SVC_UNIT_NEEDLESS, SVC_UNIT_FAILED } svc_unit_end_t;
void svc_job_unit_ended_locked(mcs_service_t *service, svc_job_t *job, svc_unit_end_t end, uint64_t bytes);
bool svc_job_is_over_locked(const svc_job_t *job);
/* As svc_task_restore. */
bool svc_job_restore(mcs_service_t *service, const mcs_job_t *record) MCS_MUST_CHECK;
/* All is replayed: jobs that were under way go on when the owners are back. False: no memory. */
bool svc_jobs_resume(mcs_service_t *service) MCS_MUST_CHECK;
/* Housekeeping. */
void svc_jobs_tick(mcs_service_t *service, uint64_t now_ns);
void svc_jobs_fini(mcs_service_t *service);
/* Constant for a job's life: hashes of the names that it empties, and of those that may take (none = any). */
bool svc_job_is_source(const svc_job_t *job, uint64_t name_hash);
const uint64_t *svc_job_targets(const svc_job_t *job, uint32_t *count_out);

#endif
