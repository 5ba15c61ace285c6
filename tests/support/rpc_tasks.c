/* See rpc_tasks.h. */
#include "tests/support/rpc_tasks.h"

#include "tests/support/unit.h"

static void next_sequence(rpc_client_t *client, Mcs__Wire__Sequence *sequence)
{
    mcs__wire__sequence__init(sequence);
    sequence->seq = sequence->ack = ++client->seq;
}

static mcs_status_t create(rpc_client_t *client, uint32_t type, const char *key, const char *source,
                           const char *const *targets, mcs_id_t *id_out)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__CreateTask request = MCS__WIRE__CREATE_TASK__INIT;
    ProtobufCMessage *message;
    next_sequence(client, &sequence);
    request.sequence = &sequence;
    request.type = type;
    request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    request.source = (char *)(uintptr_t)source;
    request.targets = (char **)(uintptr_t)targets;
    while (targets[request.n_targets] != NULL) {
        request.n_targets++;
    }
    mcs_status_t status =
        rpc_call(client, MCS_VERB_CREATE_TASK, &request.base, &mcs__wire__create_task_reply__descriptor, &message);
    if (status == MCS_OK) {
        const Mcs__Wire__Id *id = ((const Mcs__Wire__CreateTaskReply *)message)->id;
        assert_non_null(id);
        if (id_out != NULL) {
            *id_out = (mcs_id_t){id->hi, id->lo};
        }
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return status;
}

mcs_status_t rpc_copy_task(rpc_client_t *client, const char *key, const char *const *targets, mcs_id_t *id_out)
{
    return create(client, 0, key, "", targets, id_out);
}

mcs_status_t rpc_move_task(rpc_client_t *client, const char *key, const char *source, const char *target,
                           mcs_id_t *id_out)
{
    const char *targets[] = {target, NULL};
    return create(client, 1, key, source, targets, id_out);
}

mcs_status_t rpc_query_task(rpc_client_t *client, mcs_id_t id, rpc_task_info_t *info_out)
{
    Mcs__Wire__Id wire_id = MCS__WIRE__ID__INIT;
    Mcs__Wire__QueryTask request = MCS__WIRE__QUERY_TASK__INIT;
    ProtobufCMessage *message;
    wire_id.hi = id.hi;
    wire_id.lo = id.lo;
    request.id = &wire_id;
    mcs_status_t status =
        rpc_call(client, MCS_VERB_QUERY_TASK, &request.base, &mcs__wire__task_info__descriptor, &message);
    if (status == MCS_OK) {
        const Mcs__Wire__TaskInfo *info = (const Mcs__Wire__TaskInfo *)message;
        assert_int_equal(info->id->hi, id.hi);
        assert_int_equal(info->id->lo, id.lo);
        *info_out = (rpc_task_info_t){.type = info->type,
                                      .status = info->status,
                                      .created_ms = info->created_ms,
                                      .updated_ms = info->updated_ms,
                                      .client = {info->client->hi, info->client->lo}};
        snprintf(info_out->message, sizeof(info_out->message), "%s", info->message);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return status;
}

uint32_t rpc_task_status(rpc_client_t *client, mcs_id_t id)
{
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(client, id, &info), MCS_OK);
    return info.status;
}

static void take_task(const Mcs__Wire__TaskAssignment *from, rpc_task_t *task)
{
    memset(task, 0, sizeof(*task));
    task->id = (mcs_id_t){from->id->hi, from->id->lo};
    task->type = from->type;
    assert_in_range(from->key.len, 1, sizeof(task->key) - 1);
    memcpy(task->key, from->key.data, from->key.len);
    task->payload_len = from->payload_len;
    task->put_id = from->put_id;
    task->deadline_ms = from->deadline_ms;
    assert_int_equal(from->source.len, sizeof(task->source));
    memcpy(&task->source, from->source.data, sizeof(task->source));
    task->target_count = (uint32_t)(from->targets.len / sizeof(task->targets[0]));
    assert_in_range(task->target_count, 1, MCS_REPLICAS_MAX);
    memcpy(task->targets, from->targets.data, from->targets.len);
}

static uint32_t fetch(rpc_client_t *client, uint32_t max, bool idle, rpc_task_t *tasks)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__FetchTasks request = MCS__WIRE__FETCH_TASKS__INIT;
    ProtobufCMessage *message;
    next_sequence(client, &sequence);
    request.sequence = &sequence;
    request.max = max;
    request.idle = idle;
    mcs_status_t status =
        rpc_call(client, MCS_VERB_FETCH_TASKS, &request.base, &mcs__wire__fetch_tasks_reply__descriptor, &message);
    if (status != MCS_OK) {
        return 0;
    }
    const Mcs__Wire__FetchTasksReply *reply = (const Mcs__Wire__FetchTasksReply *)message;
    uint32_t count = (uint32_t)reply->n_tasks;
    assert_in_range(count, 0, max);
    for (uint32_t i = 0; i < count; i++) {
        take_task(reply->tasks[i], &tasks[i]);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return count;
}

uint32_t rpc_fetch_tasks(rpc_client_t *client, uint32_t max, rpc_task_t *tasks)
{
    return fetch(client, max, false, tasks);
}

uint32_t rpc_fetch_tasks_idle(rpc_client_t *client, uint32_t max, rpc_task_t *tasks)
{
    return fetch(client, max, true, tasks);
}

int32_t rpc_end_task(rpc_client_t *client, const rpc_task_t *task, mcs_status_t status, uint32_t flags)
{
    mcs_col_task_end_t record = {
        .id_hi = task->id.hi, .id_lo = task->id.lo, .put_id = task->put_id, .status = (int32_t)status, .flags = flags};
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__EndTasks request = MCS__WIRE__END_TASKS__INIT;
    ProtobufCMessage *message;
    next_sequence(client, &sequence);
    request.sequence = &sequence;
    request.records = (ProtobufCBinaryData){sizeof(record), (uint8_t *)&record};
    mcs_status_t answer =
        rpc_call(client, MCS_VERB_END_TASKS, &request.base, &mcs__wire__status_column__descriptor, &message);
    if (answer != MCS_OK) {
        return (int32_t)answer;
    }
    const Mcs__Wire__StatusColumn *column = (const Mcs__Wire__StatusColumn *)message;
    assert_int_equal(column->statuses.len, sizeof(int32_t));
    int32_t own;
    memcpy(&own, column->statuses.data, sizeof(own));
    protobuf_c_message_free_unpacked(message, NULL);
    return own;
}

uint32_t rpc_do_tasks(rpc_client_t *client)
{
    rpc_task_t tasks[MCS_TASK_BATCH];
    uint32_t count = rpc_fetch_tasks(client, MCS_TASK_BATCH, tasks);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(rpc_end_task(client, &tasks[i], MCS_OK, 0), MCS_OK);
    }
    return count;
}
