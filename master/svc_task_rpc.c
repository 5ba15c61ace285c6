/* create_task, query_task; fetch_tasks and end_tasks of executors. See svc_task.h.
 *
 * A fetch makes the reservations of what it hands out: the executor gets the right to write with the work, and a task
 * that nobody comes for holds no space. */
#include <stdio.h>
#include <string.h>

#include "master/svc_task.h"

/* Of one assignment in an answer. */
#define ASSIGNMENT_ROOM (MCS_KEY_MAX + (MCS_REPLICAS_MAX + 1) * sizeof(mcs_col_replica_t) + 128)

/* ---- create ---- */

static bool is_name(const char *name)
{
    return name[0] != '\0' && strlen(name) <= SVC_NAME_MAX;
}

static bool is_mounted(mcs_service_t *service, uint64_t name_hash)
{
    svc_segments_t *segments = &service->segments;
    bool found = false;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count && !found; i++) {
        found = segments->active[i]->name_hash == name_hash;
    }
    mcs_rwlock_rdunlock(&segments->lock);
    return found;
}

/* Names of segments that there are, none twice. */
static mcs_status_t take_names(mcs_service_t *service, const Mcs__Wire__CreateTask *request, svc_task_t *task)
{
    bool move = request->type == SVC_TASK_MOVE;
    if (request->n_targets == 0 || request->n_targets > (move ? 1 : MCS_REPLICAS_MAX) ||
        (move && !is_name(request->source))) {
        return MCS_ERR_INVALID_PARAMS;
    }
    task->source = move ? svc_name_hash(request->source, strlen(request->source)) : 0;
    if (move && !is_mounted(service, task->source)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    for (size_t i = 0; i < request->n_targets; i++) {
        const char *name = request->targets[i];
        uint64_t hash = is_name(name) ? svc_name_hash(name, strlen(name)) : 0;
        bool fresh = hash != 0 && hash != task->source && is_mounted(service, hash);
        for (uint32_t k = 0; k < task->target_count && fresh; k++) {
            fresh = task->targets[k] != hash;
        }
        if (!fresh) {
            return MCS_ERR_INVALID_PARAMS;
        }
        task->targets[task->target_count++] = hash;
    }
    return MCS_OK;
}

static mcs_status_t create(mcs_service_t *service, const Mcs__Wire__CreateTask *request, mcs_id_t *id_out)
{
    if (request->key.len == 0 || request->key.len > MCS_KEY_MAX || request->type > SVC_TASK_MOVE) {
        return MCS_ERR_INVALID_PARAMS;
    }
    const char *key = (const char *)request->key.data;
    uint32_t key_len = (uint32_t)request->key.len;
    svc_task_t *task =
        svc_task_create((svc_task_type_t)request->type, key, key_len, svc_index_hash(&service->index, key, key_len));
    if (task == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_session_t *session = NULL;
    mcs_status_t status = take_names(service, request, task);
    if (status == MCS_OK) {
        status = svc_task_resolve(service, task, &session);
    }
    if (status != MCS_OK) {
        svc_task_put(task);
        return status;
    }
    *id_out = task->id;
    status = svc_task_submit(service, task, session);
    svc_session_put(session);
    return status;
}

mcs_status_t svc_create_task(svc_call_t *call)
{
    const Mcs__Wire__CreateTask *request = (const Mcs__Wire__CreateTask *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    mcs_id_t id = {0, 0};
    mcs_status_t status = svc_begin(call, request->sequence, 64);
    if (status == MCS_ERR_AGAIN) {
        return MCS_OK;
    }
    if (status == MCS_OK) {
        status = create(call->service, request, &id);
    }
    if (request->type == SVC_TASK_MOVE) {
        mcs_metric_add(metrics, create_move_task_requests, 1);
        mcs_metric_add(metrics, create_move_task_failures, status != MCS_OK);
    } else {
        mcs_metric_add(metrics, create_copy_task_requests, 1);
        mcs_metric_add(metrics, create_copy_task_failures, status != MCS_OK);
    }
    if (status != MCS_OK) {
        return status;
    }
    Mcs__Wire__Id wire_id = MCS__WIRE__ID__INIT;
    Mcs__Wire__CreateTaskReply reply = MCS__WIRE__CREATE_TASK_REPLY__INIT;
    wire_id.hi = id.hi;
    wire_id.lo = id.lo;
    reply.id = &wire_id;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- query ---- */

mcs_status_t svc_query_task(svc_call_t *call)
{
    const Mcs__Wire__QueryTask *request = (const Mcs__Wire__QueryTask *)call->message;
    mcs_id_t id = request->id != NULL ? (mcs_id_t){request->id->hi, request->id->lo} : (mcs_id_t){0, 0};
    svc_task_text_t text;
    mcs_status_t status = svc_task_describe(call->service, id, &text);
    mcs_metric_add(call->service->metrics, query_task_requests, 1);
    if (status != MCS_OK) {
        mcs_metric_add(call->service->metrics, query_task_failures, 1);
        return status;
    }
    char message[64] = "";
    if (text.last != MCS_OK) {
        const char *name = mcs_status_name(mcs_status_public(text.last));
        snprintf(message, sizeof(message), "%s%s", text.state == SVC_TASK_FAILED ? "" : "another try after ", name);
    }
    Mcs__Wire__Id ids[2] = {MCS__WIRE__ID__INIT, MCS__WIRE__ID__INIT};
    Mcs__Wire__TaskInfo reply = MCS__WIRE__TASK_INFO__INIT;
    ids[0].hi = id.hi;
    ids[0].lo = id.lo;
    ids[1].hi = text.client.hi;
    ids[1].lo = text.client.lo;
    reply.id = &ids[0];
    reply.client = &ids[1];
    reply.type = text.type;
    reply.status = (uint32_t)text.state;
    reply.created_ms = text.created_ms;
    reply.updated_ms = text.updated_ms;
    reply.message = message;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- fetch ---- */

typedef struct offer {
    Mcs__Wire__TaskAssignment message;
    Mcs__Wire__Id id;
    svc_task_offer_t offer;
} offer_t;

static void count_start(mcs_metrics_t *metrics, const svc_task_t *task, mcs_status_t status)
{
    if (task->type == SVC_TASK_MOVE) {
        mcs_metric_add(metrics, move_start_requests, 1);
        mcs_metric_add(metrics, move_start_failures, status != MCS_OK);
    } else {
        mcs_metric_add(metrics, copy_start_requests, 1);
        mcs_metric_add(metrics, copy_start_failures, status != MCS_OK);
    }
}

static void fill_assignment(const mcs_service_t *service, const svc_task_t *task, char *key, offer_t *out)
{
    Mcs__Wire__TaskAssignment *message = &out->message;
    mcs__wire__task_assignment__init(message);
    mcs__wire__id__init(&out->id);
    memcpy(key, task->key, task->key_len);
    out->id.hi = task->id.hi;
    out->id.lo = task->id.lo;
    message->id = &out->id;
    message->type = task->type;
    message->key = (ProtobufCBinaryData){task->key_len, (uint8_t *)key};
    message->payload_len = out->offer.payload_len;
    message->source = (ProtobufCBinaryData){sizeof(out->offer.source), (uint8_t *)&out->offer.source};
    message->targets =
        (ProtobufCBinaryData){out->offer.target_count * sizeof(out->offer.targets[0]), (uint8_t *)out->offer.targets};
    message->put_id = out->offer.put_id;
    message->deadline_ms = (uint32_t)(service->conf->processing_task_timeout_sec * 1000);
}

/* True: it is in the answer. */
static bool start_one(svc_call_t *call, svc_task_t *task, offer_t *out)
{
    char *key = mcs_arena_alloc(call->arena, task->key_len);
    mcs_status_t status =
        key != NULL ? svc_task_start(call->service, task, call->session, &out->offer) : MCS_ERR_NO_MEMORY;
    count_start(call->service->metrics, task, status);
    if (status != MCS_OK || out->offer.put_id == 0) {
        svc_task_settle(call->service, task, status);
        return false;
    }
    fill_assignment(call->service, task, key, out);
    svc_task_running(call->service, task, out->offer.put_id, out->offer.payload_len);
    return true;
}

mcs_status_t svc_fetch_tasks(svc_call_t *call)
{
    const Mcs__Wire__FetchTasks *request = (const Mcs__Wire__FetchTasks *)call->message;
    uint32_t max = MCS_MIN(MCS_MAX(request->max, 1u), (uint32_t)MCS_TASK_BATCH);
    svc_task_t *tasks[MCS_TASK_BATCH];
    Mcs__Wire__TaskAssignment *pointers[MCS_TASK_BATCH];
    offer_t *offers = mcs_arena_alloc(call->arena, max * sizeof(*offers));
    mcs_status_t status = offers != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    mcs_metric_add(call->service->metrics, fetch_tasks_requests, 1);
    if (status == MCS_OK) {
        status = svc_begin(call, request->sequence, max * ASSIGNMENT_ROOM + 64);
    }
    if (status != MCS_OK) {
        mcs_metric_add(call->service->metrics, fetch_tasks_failures, status != MCS_ERR_AGAIN);
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    if (request->idle) {
        svc_task_abandon(call->service, call->session);
    }
    bool more;
    size_t count = 0;
    uint32_t taken = svc_task_take(call->service, call->session, max, tasks, &more);
    for (uint32_t i = 0; i < taken; i++) {
        if (start_one(call, tasks[i], &offers[count])) {
            pointers[count] = &offers[count].message;
            count++;
        }
    }
    Mcs__Wire__FetchTasksReply reply = MCS__WIRE__FETCH_TASKS_REPLY__INIT;
    reply.tasks = pointers;
    reply.n_tasks = count;
    reply.more = more;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- end ---- */

static void count_end(mcs_metrics_t *metrics, const svc_task_t *task, bool committed, mcs_status_t status)
{
    bool move = task->type == SVC_TASK_MOVE;
    if (committed) {
        mcs_metric_add(metrics, move_end_requests, move);
        mcs_metric_add(metrics, move_end_failures, move && status != MCS_OK);
        mcs_metric_add(metrics, copy_end_requests, !move);
        mcs_metric_add(metrics, copy_end_failures, !move && status != MCS_OK);
    } else {
        mcs_metric_add(metrics, move_revoke_requests, move);
        mcs_metric_add(metrics, copy_revoke_requests, !move);
    }
}

static mcs_status_t end_one(svc_call_t *call, const mcs_col_task_end_t *record)
{
    mcs_service_t *service = call->service;
    svc_task_t *task =
        svc_task_take_running(service, call->session, (mcs_id_t){record->id_hi, record->id_lo}, record->put_id);
    if (task == NULL) {
        return MCS_ERR_OBJECT_NO_REPLICATION_TASK;
    }
    bool written = record->status == MCS_OK;
    mcs_status_t status = MCS_OK;
    mcs_status_t outcome = (mcs_status_t)record->status;
    if (written) {
        status = svc_task_commit(service, task, record->put_id);
        outcome = status;
    } else {
        if (!mcs_status_known(record->status) || outcome == MCS_ERR_AGAIN) {
            outcome = MCS_ERR_TRANSFER_FAIL; /* what an executor says is its own account only */
        }
        svc_task_revoke(service, task, record->put_id, (record->flags & MCS_TASK_IN_DOUBT) == 0, outcome);
    }
    count_end(service->metrics, task, written, status);
    svc_task_settle(service, task, outcome);
    return status;
}

mcs_status_t svc_end_tasks(svc_call_t *call)
{
    const Mcs__Wire__EndTasks *request = (const Mcs__Wire__EndTasks *)call->message;
    int32_t statuses[MCS_TASK_BATCH];
    size_t count;
    mcs_status_t status = mcs_column_count(request->records.len, sizeof(mcs_col_task_end_t), MCS_TASK_BATCH, &count);
    if (status == MCS_OK) {
        status = svc_begin(call, request->sequence, sizeof(statuses) + 16);
    }
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    uint64_t failed = 0;
    for (size_t i = 0; i < count; i++) {
        mcs_col_task_end_t record;
        memcpy(&record, request->records.data + i * sizeof(record), sizeof(record));
        statuses[i] = end_one(call, &record);
        failed += statuses[i] != MCS_OK;
    }
    mcs_metric_add(call->service->metrics, update_task_requests, count);
    mcs_metric_add(call->service->metrics, update_task_failures, failed);
    return svc_reply_statuses(call, statuses, count);
}
