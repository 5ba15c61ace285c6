/* The table of tasks: see svc_task.h. Bounded by the flags max_total_{pending,processing,finished}_tasks; walks are
 * over the pending and the processing ones, a few times a second and whenever something has happened. */
#include "master/svc_task.h"

#include <string.h>

#include "core/base/alloc.h"

#define BUCKETS     4096u
#define LOOK_NS     (50 * MCS_NS_PER_MS)
#define SOON_NS     (20 * MCS_NS_PER_MS)  /* what stands in the way is short */
#define LATER_NS    (100 * MCS_NS_PER_MS) /* after the first failure; doubles */
#define LATER_STEPS 5u
#define RETELL_NS   MCS_NS_PER_SEC /* an executor may have had no memory for what it was told */
#define BATCH       64u

/* ---- life ---- */

mcs_status_t svc_tasks_init(mcs_service_t *service)
{
    svc_tasks_t *tasks = MCS_NEW(svc_tasks_t);
    svc_task_t **buckets = MCS_NEW_ARRAY(svc_task_t *, BUCKETS);
    if (tasks == NULL || buckets == NULL) {
        mcs_free(tasks);
        mcs_free(buckets);
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&tasks->lock, MCS_RANK_TASKS, "tasks");
    mcs_list_init(&tasks->pending);
    mcs_list_init(&tasks->processing);
    mcs_list_init(&tasks->finished);
    mcs_list_init(&tasks->jobs);
    tasks->buckets = buckets;
    service->tasks = tasks;
    return MCS_OK;
}

static void drop_list(mcs_list_t *list)
{
    while (!mcs_list_empty(list)) {
        svc_task_t *task = MCS_LIST_FIRST(list, svc_task_t, node);
        mcs_list_remove(&task->node);
        svc_task_put(task);
    }
}

void svc_tasks_fini(mcs_service_t *service)
{
    svc_tasks_t *tasks = service->tasks;
    drop_list(&tasks->pending);
    drop_list(&tasks->processing);
    drop_list(&tasks->finished);
    svc_jobs_fini(service);
    mcs_free(tasks->buckets);
    mcs_mutex_fini(&tasks->lock);
    mcs_free(tasks);
}

svc_task_t *svc_task_create(svc_task_type_t type, const char *key, uint32_t key_len, uint64_t hash)
{
    svc_task_t *task = mcs_calloc(1, sizeof(*task) + key_len);
    if (task == NULL) {
        return NULL;
    }
    task->refs = 1;
    task->id = mcs_id_random();
    task->type = (uint8_t)type;
    task->created_ms = task->updated_ms = mcs_wall_ms();
    task->hash = hash;
    mcs_list_init(&task->node);
    memcpy(task->key, key, key_len);
    task->key_len = key_len;
    return task;
}

void svc_task_get(svc_task_t *task)
{
    if (task != NULL) {
        __atomic_fetch_add(&task->refs, 1, __ATOMIC_RELAXED);
    }
}

void svc_task_put(svc_task_t *task)
{
    if (task != NULL && __atomic_sub_fetch(&task->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        svc_session_put(task->session);
        mcs_free(task);
    }
}

static void stir(mcs_service_t *service)
{
    __atomic_store_n(&service->tasks->stir, 1, __ATOMIC_RELEASE);
    svc_wake(service);
}

void svc_task_lost(mcs_service_t *service, svc_task_t *task, mcs_status_t status)
{
    __atomic_store_n(&task->lost, status, __ATOMIC_RELEASE);
    stir(service);
}

/* ---- the table ---- */

static svc_task_t **bucket_of(svc_tasks_t *tasks, mcs_id_t id)
{
    return &tasks->buckets[id.lo % BUCKETS]; /* ids are random */
}

static svc_task_t *find_locked(svc_tasks_t *tasks, mcs_id_t id)
{
    svc_task_t *task = *bucket_of(tasks, id);
    while (task != NULL && !mcs_id_equal(task->id, id)) {
        task = task->next;
    }
    return task;
}

/* Out of the table; the caller drops the table's reference. */
static void remove_locked(svc_tasks_t *tasks, svc_task_t *task)
{
    svc_task_t **at = bucket_of(tasks, task->id);
    while (*at != task) {
        at = &(*at)->next;
    }
    *at = task->next;
    mcs_list_remove(&task->node);
}

static void enter_state_locked(mcs_service_t *service, svc_task_t *task, svc_task_state_t state)
{
    svc_tasks_t *tasks = service->tasks;
    bool listed = task->node.next != &task->node;
    if (listed) {
        tasks->pending_count -= task->state == SVC_TASK_PENDING;
        tasks->processing_count -= task->state == SVC_TASK_PROCESSING;
        mcs_list_remove(&task->node);
    }
    if (!listed || task->state != state) {
        task->since_ns = svc_clock(service); /* one that is merely put off has waited from the start */
    }
    task->state = state;
    task->updated_ms = mcs_wall_ms();
    switch (state) {
    case SVC_TASK_PENDING:
        tasks->pending_count++;
        mcs_list_push_tail(&tasks->pending, &task->node);
        break;
    case SVC_TASK_PROCESSING:
        tasks->processing_count++;
        mcs_list_push_tail(&tasks->processing, &task->node);
        break;
    case SVC_TASK_SUCCESS:
    case SVC_TASK_FAILED:
        tasks->finished_count++;
        mcs_list_push_tail(&tasks->finished, &task->node);
        break;
    }
}

/* Its session hears of it at the next turn. */
static void tell_locked(mcs_service_t *service, svc_task_t *task)
{
    task->told_ns = svc_clock(service);
    __atomic_store_n(&task->session->tasks, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&task->session->tell, 1, __ATOMIC_RELEASE);
}

mcs_status_t svc_task_submit(mcs_service_t *service, svc_task_t *task, svc_session_t *session)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&tasks->lock);
    if (tasks->pending_count >= service->conf->max_total_pending_tasks) {
        status = MCS_ERR_TASK_PENDING_LIMIT_EXCEEDED;
    } else {
        task->session = session;
        task->client = session->client;
        svc_session_get(session);
        svc_task_t **bucket = bucket_of(tasks, task->id);
        task->next = *bucket;
        *bucket = task;
        enter_state_locked(service, task, SVC_TASK_PENDING);
        svc_journal_task_locked(service, task);
        tell_locked(service, task);
    }
    mcs_mutex_unlock(&tasks->lock);
    if (status != MCS_OK) {
        svc_task_put(task);
        return status;
    }
    svc_wake(service);
    return MCS_OK;
}

void svc_tasks_tell(mcs_service_t *service, svc_session_t *session, mcs_rpc_conn_t *conn)
{
    if (__atomic_exchange_n(&session->tasks, 0, __ATOMIC_ACQ_REL) != 0) {
        Mcs__Wire__NoticeTasks notice = MCS__WIRE__NOTICE_TASKS__INIT;
        svc_send(service, conn, MCS_VERB_N_TASKS, 0, MCS_OK, &notice.base);
    }
}

void svc_tasks_resume(mcs_service_t *service, const svc_session_t *session)
{
    svc_tasks_t *tasks = service->tasks;
    bool found = false;
    mcs_mutex_lock(&tasks->lock);
    MCS_LIST_FOR_EACH(node, &tasks->pending)
    {
        svc_task_t *task = MCS_CONTAINER_OF(node, svc_task_t, node);
        if (task->session == session) {
            task->told_ns = 0;
            found = true;
        }
    }
    mcs_mutex_unlock(&tasks->lock);
    if (found) {
        stir(service);
    }
}

/* ---- workers ---- */

static void make_busy_locked(svc_task_t *task)
{
    task->busy = true;
    svc_task_get(task);
}

uint32_t svc_task_take(mcs_service_t *service, svc_session_t *session, uint32_t max, svc_task_t **out, bool *more)
{
    svc_tasks_t *tasks = service->tasks;
    uint64_t now_ns = svc_clock(service);
    uint32_t count = 0;
    *more = false;
    mcs_mutex_lock(&tasks->lock);
    uint64_t limit = service->conf->max_total_processing_tasks;
    MCS_LIST_FOR_EACH(node, &tasks->pending)
    {
        svc_task_t *task = MCS_CONTAINER_OF(node, svc_task_t, node);
        if (task->session != session || task->busy || now_ns < task->not_before_ns) {
            continue;
        }
        if (tasks->processing_count + count >= limit) {
            task->told_ns = 0; /* told again when there is room */
        } else if (count == max) {
            *more = true;
        } else {
            make_busy_locked(task);
            out[count++] = task;
        }
    }
    mcs_mutex_unlock(&tasks->lock);
    return count;
}

void svc_task_abandon(mcs_service_t *service, const svc_session_t *session)
{
    svc_tasks_t *tasks = service->tasks;
    bool found = false;
    mcs_mutex_lock(&tasks->lock);
    MCS_LIST_FOR_EACH(node, &tasks->processing)
    {
        svc_task_t *task = MCS_CONTAINER_OF(node, svc_task_t, node);
        if (task->session == session && !task->busy) {
            task->abandoned = true;
            found = true;
        }
    }
    mcs_mutex_unlock(&tasks->lock);
    if (found) {
        stir(service);
    }
}

svc_task_t *svc_task_take_running(mcs_service_t *service, const svc_session_t *session, mcs_id_t id, uint64_t put_id)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    svc_task_t *task = find_locked(tasks, id);
    bool fits = task != NULL && task->state == SVC_TASK_PROCESSING && !task->busy && task->session == session &&
                task->put_id == put_id;
    if (fits) {
        make_busy_locked(task);
    }
    mcs_mutex_unlock(&tasks->lock);
    return fits ? task : NULL;
}

void svc_task_running(mcs_service_t *service, svc_task_t *task, uint64_t put_id, uint64_t payload_len)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    task->busy = false;
    task->abandoned = false;
    task->put_id = put_id;
    task->payload_len = payload_len;
    enter_state_locked(service, task, SVC_TASK_PROCESSING);
    mcs_mutex_unlock(&tasks->lock);
    svc_task_put(task);
}

/* What another try, or another replica, may bring. */
static bool is_worth_another(mcs_status_t status)
{
    switch ((int)status) {
    case MCS_ERR_OBJECT_NOT_FOUND:
    case MCS_ERR_REPLICA_NOT_FOUND:
    case MCS_ERR_INVALID_PARAMS:
    case MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS: return false;
    default: return true;
    }
}

/* Once more, and where is to be found out. */
static void again_locked(mcs_service_t *service, svc_task_t *task, uint64_t after_ns, svc_session_t **drop)
{
    enter_state_locked(service, task, SVC_TASK_PENDING);
    task->not_before_ns = svc_clock(service) + after_ns;
    task->told_ns = 0;
    *drop = task->session;
    task->session = NULL;
}

/* True: the table's reference is the caller's to drop. */
static bool finish_locked(mcs_service_t *service, svc_task_t *task, mcs_status_t status)
{
    svc_tasks_t *tasks = service->tasks;
    task->last = status;
    enter_state_locked(service, task, status == MCS_OK ? SVC_TASK_SUCCESS : SVC_TASK_FAILED);
    svc_journal_task_locked(service, task);
    if (task->job != NULL) {
        svc_unit_end_t end = status != MCS_OK                      ? SVC_UNIT_FAILED
                             : task->payload_len > 0 || task->left ? SVC_UNIT_MOVED
                                                                   : SVC_UNIT_NEEDLESS;
        svc_job_unit_ended_locked(service, task->job, end, task->payload_len);
        task->job = NULL;
        tasks->finished_count--;
        remove_locked(tasks, task);
        return true;
    }
    return false;
}

/* The oldest of the finished ones, while there are more than may be kept. */
static svc_task_t *take_surplus_locked(const mcs_service_t *service, svc_tasks_t *tasks)
{
    if (tasks->finished_count <= service->conf->max_total_finished_tasks) {
        return NULL;
    }
    svc_task_t *oldest = MCS_LIST_FIRST(&tasks->finished, svc_task_t, node);
    tasks->finished_count--;
    remove_locked(tasks, oldest);
    return oldest;
}

void svc_task_settle(mcs_service_t *service, svc_task_t *task, mcs_status_t status)
{
    svc_tasks_t *tasks = service->tasks;
    svc_session_t *session = NULL;
    bool gone = false;
    mcs_mutex_lock(&tasks->lock);
    task->busy = false;
    if (status == MCS_ERR_AGAIN && !task->expired) {
        again_locked(service, task, SOON_NS, &session);
    } else if (status != MCS_OK && is_worth_another(status) && task->job == NULL && !task->expired &&
               task->attempts < service->conf->max_retry_attempts) {
        task->last = status;
        again_locked(service, task, LATER_NS << MCS_MIN(task->attempts, LATER_STEPS), &session);
        task->attempts++;
    } else {
        gone = finish_locked(service, task, status);
    }
    svc_task_t *surplus = take_surplus_locked(service, tasks);
    mcs_mutex_unlock(&tasks->lock);
    if (status != MCS_OK && status != MCS_ERR_AGAIN) {
        mcs_debug(SVC_AREA, "task %llu-%llu: %s", (unsigned long long)task->id.hi, (unsigned long long)task->id.lo,
                  mcs_status_name(status));
    }
    svc_session_put(session);
    svc_task_put(surplus);
    if (gone) {
        svc_task_put(task);
    }
    svc_task_put(task);
    svc_wake(service);
}

/* ---- after a restart ---- */

bool svc_task_restore(mcs_service_t *service, const mcs_task_t *record)
{
    svc_tasks_t *tasks = service->tasks;
    const mcs_task_head_t *head = &record->head;
    svc_task_state_t state = head->state == SVC_TASK_PROCESSING ? SVC_TASK_PENDING : (svc_task_state_t)head->state;
    uint64_t hash = svc_index_hash(&service->index, record->key, head->key_len);
    svc_task_t *fresh = svc_task_create((svc_task_type_t)head->type, record->key, head->key_len, hash);
    svc_task_t *surplus = NULL;
    if (fresh == NULL) {
        return false;
    }
    mcs_mutex_lock(&tasks->lock);
    svc_task_t *task = find_locked(tasks, head->id);
    if (task == NULL) {
        task = fresh;
        fresh = NULL;
        task->id = head->id;
        task->recovered = true;
        task->created_ms = head->created_ms;
        task->source = head->source;
        task->target_count = head->target_count;
        memcpy(task->targets, record->targets, head->target_count * sizeof(uint64_t));
        svc_task_t **bucket = bucket_of(tasks, task->id);
        task->next = *bucket;
        *bucket = task;
    }
    task->client = head->client;
    task->attempts = head->attempts;
    task->last = mcs_status_known(head->last) ? (mcs_status_t)head->last : MCS_ERR_INTERNAL;
    if (task->state < SVC_TASK_SUCCESS) { /* the end is the end */
        enter_state_locked(service, task, state);
        surplus = take_surplus_locked(service, tasks);
    }
    task->updated_ms = head->updated_ms;
    mcs_mutex_unlock(&tasks->lock);
    svc_task_put(surplus);
    svc_task_put(fresh);
    return true;
}

/* ---- housekeeping ---- */

/* What is to be done about a task, outside of the table's lock. */
typedef struct chore {
    svc_task_t *task; /* busy, referenced */
    enum { ASSIGN, EXPIRE, LOST, OVERDUE } what;
    mcs_status_t status;
} chore_t;

static bool judge_pending_locked(const mcs_service_t *service, svc_task_t *task, uint64_t clock_ns, chore_t *chore)
{
    *chore = (chore_t){.task = task};
    bool useless = task->job != NULL && svc_job_is_over_locked(task->job); /* canceled */
    if (useless || clock_ns >= task->since_ns + service->conf->pending_task_timeout_sec * MCS_NS_PER_SEC) {
        chore->what = EXPIRE;
        return true;
    }
    if (task->session == NULL || svc_session_ended(task->session)) {
        chore->what = ASSIGN;
        return clock_ns >= task->not_before_ns;
    }
    return false;
}

static bool judge_processing_locked(const mcs_service_t *service, svc_task_t *task, chore_t *chore)
{
    *chore = (chore_t){.task = task, .what = LOST};
    chore->status = (mcs_status_t)__atomic_load_n(&task->lost, __ATOMIC_ACQUIRE);
    if (chore->status != MCS_OK) {
        return true;
    }
    chore->what = OVERDUE;
    chore->status = MCS_ERR_RPC_TIMEOUT;
    if (task->abandoned) {
        chore->status = MCS_ERR_RPC_FAIL;
        return true;
    }
    return service->polled_ns >= task->since_ns + service->conf->processing_task_timeout_sec * MCS_NS_PER_SEC;
}

static uint32_t collect(mcs_service_t *service, chore_t *chores)
{
    svc_tasks_t *tasks = service->tasks;
    uint64_t clock_ns = svc_clock(service);
    uint32_t count = 0;
    mcs_mutex_lock(&tasks->lock);
    bool room = tasks->processing_count < service->conf->max_total_processing_tasks;
    MCS_LIST_FOR_EACH(node, &tasks->pending)
    {
        svc_task_t *task = MCS_CONTAINER_OF(node, svc_task_t, node);
        if (!task->busy && count < BATCH && judge_pending_locked(service, task, clock_ns, &chores[count])) {
            make_busy_locked(task);
            count++;
        } else if (!task->busy && room && task->session != NULL && clock_ns >= task->not_before_ns &&
                   (task->told_ns == 0 || clock_ns >= task->told_ns + RETELL_NS)) {
            tell_locked(service, task);
        }
    }
    MCS_LIST_FOR_EACH(node, &tasks->processing)
    {
        svc_task_t *task = MCS_CONTAINER_OF(node, svc_task_t, node);
        if (!task->busy && count < BATCH && judge_processing_locked(service, task, &chores[count])) {
            make_busy_locked(task);
            count++;
        }
    }
    mcs_mutex_unlock(&tasks->lock);
    return count;
}

/* Finds who is to execute it now. */
static void assign(mcs_service_t *service, svc_task_t *task)
{
    svc_tasks_t *tasks = service->tasks;
    svc_session_t *session = NULL;
    mcs_status_t status = svc_task_resolve(service, task, &session);
    if (status == MCS_ERR_OBJECT_HAS_REPLICATION_TASK || status == MCS_ERR_REPLICA_IS_NOT_READY ||
        (status == MCS_ERR_REPLICA_NOT_FOUND && service->claim_end_ns != 0)) {
        status = MCS_ERR_AGAIN; /* a value that another task or put works on, or whose owner is not back yet */
    }
    if (task->recovered && status != MCS_OK && svc_task_is_done(service, task)) {
        svc_task_settle(service, task, MCS_OK); /* what it did before the restart was committed */
        return;
    }
    if (status != MCS_OK) {
        svc_task_settle(service, task, status);
        return;
    }
    mcs_mutex_lock(&tasks->lock);
    svc_session_t *old = task->session;
    task->session = session;
    task->client = session->client;
    task->busy = false;
    tell_locked(service, task);
    mcs_mutex_unlock(&tasks->lock);
    svc_session_put(old);
    svc_task_put(task);
}

static void do_chore(mcs_service_t *service, const chore_t *chore)
{
    svc_task_t *task = chore->task;
    switch (chore->what) {
    case ASSIGN: assign(service, task); break;
    case EXPIRE:
        /* Nobody came for it, or something stood in its way all the time: no more tries. */
        task->expired = true; /* only whoever has it busy looks at that */
        svc_task_settle(service, task, task->last != MCS_OK ? task->last : MCS_ERR_RPC_TIMEOUT);
        break;
    case OVERDUE:
        mcs_info(SVC_AREA, "task %llu-%llu of client %s taken back: %s", (unsigned long long)task->id.hi,
                 (unsigned long long)task->id.lo, task->session->host_name, mcs_status_name(chore->status));
        svc_task_revoke(service, task, task->put_id, false, MCS_ERR_RPC_TIMEOUT);
        svc_task_settle(service, task, chore->status);
        break;
    case LOST: svc_task_settle(service, task, chore->status); break;
    }
}

void svc_tasks_tick(mcs_service_t *service, uint64_t now_ns)
{
    svc_tasks_t *tasks = service->tasks;
    bool stirred = __atomic_exchange_n(&tasks->stir, 0, __ATOMIC_ACQ_REL) != 0;
    if (stirred || now_ns >= tasks->next_look_ns) {
        chore_t chores[BATCH];
        uint32_t count = collect(service, chores);
        for (uint32_t i = 0; i < count; i++) {
            do_chore(service, &chores[i]);
        }
        tasks->next_look_ns = now_ns + LOOK_NS;
        if (count == BATCH) {
            stir(service);
        }
    }
    svc_jobs_tick(service, now_ns);
}

/* ---- what is told ---- */

mcs_status_t svc_task_describe(mcs_service_t *service, mcs_id_t id, svc_task_text_t *out)
{
    svc_tasks_t *tasks = service->tasks;
    mcs_mutex_lock(&tasks->lock);
    const svc_task_t *task = find_locked(tasks, id);
    if (task != NULL && task->job == NULL) {
        *out = (svc_task_text_t){.type = task->type,
                                 .state = task->state,
                                 .created_ms = task->created_ms,
                                 .updated_ms = task->updated_ms,
                                 .client = task->client,
                                 .last = task->last};
    }
    bool found = task != NULL && task->job == NULL;
    mcs_mutex_unlock(&tasks->lock);
    return found ? MCS_OK : MCS_ERR_TASK_NOT_FOUND;
}
