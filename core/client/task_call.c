/* The calls that make tasks and ask for them; who executes them is task.c. */
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/client/read.h"

#define AREA "client"

static bool is_name(const char *name)
{
    return name != NULL && name[0] != '\0' && strnlen(name, MCS_SEGMENT_NAME_MAX) < MCS_SEGMENT_NAME_MAX;
}

mcs_status_t mcs_client_create_task(mcs_client_t *client, int type, mcs_bytes_t key, const char *source,
                                    const char *const *targets, size_t count, mcs_id_t *id_out)
{
    mcs_key_t name;
    mcs_status_t status = mcs_key_take(key, &name);
    if (status == MCS_OK && (count == 0 || count > MCS_REPLICAS_MAX || (type == MCS_TASK_MOVE && !is_name(source)))) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    for (size_t i = 0; status == MCS_OK && i < count; i++) {
        status = is_name(targets[i]) ? MCS_OK : MCS_ERR_INVALID_PARAMS;
    }
    if (status != MCS_OK) {
        return status;
    }
    char *names[MCS_REPLICAS_MAX];
    for (size_t i = 0; i < count; i++) {
        names[i] = (char *)(uintptr_t)targets[i]; /* protobuf-c has no const; only read */
    }
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__CreateTask request = MCS__WIRE__CREATE_TASK__INIT;
    request.sequence = &sequence;
    request.type = (uint32_t)type;
    request.key = (ProtobufCBinaryData){name.len, (uint8_t *)(uintptr_t)name.bytes};
    if (type == MCS_TASK_MOVE) {
        request.source = (char *)(uintptr_t)source;
    }
    request.targets = names;
    request.n_targets = count;
    mcs_call_t call = {.verb = MCS_VERB_CREATE_TASK,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__create_task_reply__descriptor};
    mcs_reply_t reply;
    status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        const Mcs__Wire__Id *id = ((const Mcs__Wire__CreateTaskReply *)(const void *)reply.message)->id;
        status = id != NULL ? MCS_OK : MCS_ERR_PROTOCOL;
        if (id != NULL) {
            *id_out = (mcs_id_t){id->hi, id->lo};
        }
    }
    mcs_reply_fini(&reply);
    return status;
}

/* Of the master's numbers, which are also those of its journal. */
static const int public_status[] = {MCS_TASK_PENDING, MCS_TASK_PROCESSING, MCS_TASK_SUCCESS, MCS_TASK_FAILED};

static mcs_status_t take_info(const Mcs__Wire__TaskInfo *reply, mcs_task_info_t *info_out)
{
    if (reply->id == NULL || reply->client == NULL || reply->type > MCS_TASK_MOVE ||
        reply->status >= MCS_ARRAY_LEN(public_status)) {
        return MCS_ERR_PROTOCOL;
    }
    memset(info_out, 0, sizeof(*info_out));
    info_out->id = (mcs_task_id_t){reply->id->hi, reply->id->lo};
    info_out->client = (mcs_task_id_t){reply->client->hi, reply->client->lo};
    info_out->type = (int)reply->type;
    info_out->status = public_status[reply->status];
    info_out->created_ms = reply->created_ms;
    info_out->updated_ms = reply->updated_ms;
    snprintf(info_out->message, sizeof(info_out->message), "%s", reply->message);
    return MCS_OK;
}

mcs_status_t mcs_client_query_task(mcs_client_t *client, mcs_id_t id, mcs_task_info_t *info_out)
{
    Mcs__Wire__Id wire_id = MCS__WIRE__ID__INIT;
    Mcs__Wire__QueryTask request = MCS__WIRE__QUERY_TASK__INIT;
    wire_id.hi = id.hi;
    wire_id.lo = id.lo;
    request.id = &wire_id;
    mcs_call_t call = {
        .verb = MCS_VERB_QUERY_TASK, .request = &request.base, .reply_type = &mcs__wire__task_info__descriptor};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        status = take_info((const Mcs__Wire__TaskInfo *)(const void *)reply.message, info_out);
        if (status != MCS_OK) {
            mcs_error(AREA, "query_task: an answer that does not fit the question: %s", mcs_status_name(status));
        }
    }
    mcs_reply_fini(&reply);
    return status;
}
