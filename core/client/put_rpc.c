/* The requests of a put: see put.h. */
#include <string.h>

#include "core/base/log.h"
#include "core/client/put.h"

#define AREA           "client"
#define REVOKE_MS      2000
#define GROUP_MAX      MCS_KEY_MAX
#define WAIT_MARGIN_MS 2000 /* for the master to answer a wait that ran out */

/* ---- the configuration ---- */

static mcs_status_t check_config(const mcs_replicate_config_t *config, size_t count)
{
    bool sane = (!config->replica_num_set || config->replica_num > 0) && config->soft_pin_action >= 0 &&
                config->soft_pin_action <= 2 && (!config->has_soft_pin_ttl || config->soft_pin_action == 1) &&
                config->data_type >= 0 && (config->group_ids == NULL || config->group_id_count == count) &&
                (config->preferred_segment_count == 0 || config->preferred_segments != NULL);
    for (size_t i = 0; sane && config->group_ids != NULL && i < count; i++) {
        sane = config->group_ids[i].len <= GROUP_MAX &&
               (config->group_ids[i].len == 0 || config->group_ids[i].ptr != NULL);
    }
    return sane ? MCS_OK : MCS_ERR_INVALID_PARAMS;
}

mcs_status_t mcs_put_config(mcs_put_call_t *call, const mcs_replicate_config_t *config)
{
    mcs__wire__put_config__init(&call->wire);
    call->config = config;
    call->wire.replica_num = 1;
    call->wire.excluded_segments = call->excluded;
    if (config == NULL) {
        return MCS_OK;
    }
    mcs_status_t status = check_config(config, call->count);
    if (status != MCS_OK) {
        mcs_error(AREA, "put: replicate config: %s", mcs_status_name(status));
        return status;
    }
    if (config->replica_num_set) {
        /* Replication is best effort: more than there may be is as many as there are. */
        call->wire.replica_num = (uint32_t)MCS_MIN(config->replica_num, (uint64_t)MCS_REPLICAS_MAX);
    }
    call->wire.soft_pin_action = (uint32_t)config->soft_pin_action;
    call->wire.has_soft_pin_ttl = config->has_soft_pin_ttl != 0;
    call->wire.soft_pin_ttl_ms = config->soft_pin_ttl_ms;
    call->wire.hard_pin = config->with_hard_pin != 0;
    call->wire.data_type = (uint32_t)config->data_type;
    call->wire.same_node = config->prefer_alloc_in_same_node != 0;
    if (call->wire.same_node) {
        call->wire.host_id = call->client->local.host;
    }
    size_t n = 0;
    for (size_t i = 0; i < config->preferred_segment_count && n < MCS_PREFERRED_MAX; i++) {
        const char *name = config->preferred_segments[i];
        /* A name that no segment can have is one that is not found: passed over, as the API says. */
        if (name != NULL && name[0] != '\0' && strnlen(name, MCS_SEGMENT_NAME_MAX) < MCS_SEGMENT_NAME_MAX) {
            call->preferred[n++] = (char *)(uintptr_t)name;
        }
    }
    call->wire.preferred_segments = call->preferred;
    call->wire.n_preferred_segments = n;
    return MCS_OK;
}

/* ---- put_start ---- */

static const mcs_key_t *round_key(void *arg, size_t i)
{
    const mcs_put_call_t *call = arg;
    return &call->round[i]->key;
}

typedef struct start_columns {
    mcs_key_columns_t keys;
    mcs_buf_t sizes;
    mcs_buf_t group_lens;
    mcs_buf_t groups;
} start_columns_t;

static void columns_fini(start_columns_t *columns)
{
    mcs_key_columns_fini(&columns->keys);
    mcs_buf_fini(&columns->sizes);
    mcs_buf_fini(&columns->group_lens);
    mcs_buf_fini(&columns->groups);
}

static mcs_status_t columns_init(mcs_put_call_t *call, start_columns_t *columns)
{
    mcs_buf_init(&columns->sizes, MCS_BATCH_KEYS * sizeof(uint64_t));
    mcs_buf_init(&columns->group_lens, MCS_BATCH_KEYS * sizeof(uint16_t));
    mcs_buf_init(&columns->groups, MCS_BATCH_KEY_BYTES + GROUP_MAX);
    mcs_status_t status = mcs_key_columns_init(&columns->keys, round_key, call, 0, call->round_count);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t i = 0; i < call->round_count; i++) {
        const mcs_put_item_t *item = call->round[i];
        mcs_buf_put_u64(&columns->sizes, item->size);
        if (call->config != NULL && call->config->group_ids != NULL) {
            mcs_bytes_t group = call->config->group_ids[item->index];
            mcs_buf_put_u16(&columns->group_lens, (uint16_t)group.len);
            mcs_buf_append(&columns->groups, group.ptr, group.len);
        }
    }
    status = mcs_buf_status(&columns->sizes);
    status = status != MCS_OK ? status : mcs_buf_status(&columns->group_lens);
    status = status != MCS_OK ? status : mcs_buf_status(&columns->groups);
    if (status != MCS_OK) {
        columns_fini(columns);
    }
    return status;
}

static mcs_status_t check_reply(const Mcs__Wire__PutStartReply *reply, size_t n, size_t *replica_count_out)
{
    size_t puts;
    mcs_status_t status = mcs_column_count(reply->puts.len, sizeof(mcs_col_put_t), MCS_BATCH_KEYS, &puts);
    if (status == MCS_OK) {
        status = mcs_column_count(reply->replicas.len, sizeof(mcs_col_replica_t), MCS_BATCH_KEYS * MCS_REPLICAS_MAX,
                                  replica_count_out);
    }
    size_t sum = 0;
    for (size_t i = 0; status == MCS_OK && puts == n && i < n; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        bool sane = mcs_status_known(put.status) && put.replica_count <= MCS_REPLICAS_MAX &&
                    (put.status == MCS_OK ? put.replica_count > 0 && put.put_id != 0 : put.replica_count == 0);
        status = sane ? MCS_OK : MCS_ERR_PROTOCOL;
        sum += put.replica_count;
    }
    return status == MCS_OK && puts == n && sum == *replica_count_out ? MCS_OK : MCS_ERR_PROTOCOL;
}

static void take_put(const mcs_call_t *call, mcs_put_item_t *item, const mcs_col_put_t *put,
                     const mcs_col_replica_t *replicas)
{
    switch ((int)put->status) {
    case MCS_OK:
        item->state = MCS_PUT_OPEN;
        item->put_id = put->put_id;
        item->replicas = replicas;
        item->replica_count = put->replica_count;
        item->deadline_ns = call->sent_ns + put->deadline_ms * MCS_NS_PER_MS;
        break;
    case MCS_ERR_OBJECT_ALREADY_EXISTS:
        item->state = MCS_PUT_DONE;
        item->status = MCS_OK;
        break;
    case MCS_ERR_PUT_IN_PROGRESS:
        item->state = MCS_PUT_WAITING;
        item->status = MCS_ERR_PUT_IN_PROGRESS;
        break;
    default:
        /* What made us put it again says more than that no other place was left. */
        item->state = MCS_PUT_DONE;
        item->status = item->failure != MCS_OK ? item->failure : (mcs_status_t)put->status;
        break;
    }
}

static mcs_status_t take_start(mcs_put_call_t *call, const mcs_call_t *rpc, const Mcs__Wire__PutStartReply *reply,
                               uint64_t **generations_out, size_t *count_out)
{
    size_t count = 0;
    mcs_status_t status = check_reply(reply, call->round_count, &count);
    if (status != MCS_OK) {
        mcs_error(AREA, "put_start: an answer that does not fit the question: %s", mcs_status_name(status));
        return status;
    }
    mcs_col_replica_t *replicas = mcs_arena_alloc(&call->arena, count * sizeof(*replicas));
    uint64_t *generations = mcs_arena_alloc(&call->arena, count * sizeof(*generations));
    if (replicas == NULL || generations == NULL) {
        return MCS_ERR_NO_MEMORY; /* the reservations run into their deadline */
    }
    if (count > 0) {
        memcpy(replicas, reply->replicas.data, count * sizeof(*replicas));
    }
    for (size_t i = 0; i < count; i++) {
        generations[i] = replicas[i].generation;
    }
    for (size_t i = 0; i < call->round_count; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        take_put(rpc, call->round[i], &put, replicas);
        replicas += put.replica_count;
    }
    call->session = rpc->session;
    *generations_out = generations;
    *count_out = count;
    return MCS_OK;
}

mcs_status_t mcs_put_start(mcs_put_call_t *call, uint64_t **generations_out, size_t *count_out)
{
    start_columns_t columns;
    mcs_status_t status = columns_init(call, &columns);
    if (status != MCS_OK) {
        return status;
    }
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutStart request = MCS__WIRE__PUT_START__INIT;
    request.sequence = &sequence;
    request.key_lens = mcs_buf_column(&columns.keys.lens);
    request.keys = mcs_buf_column(&columns.keys.bytes);
    request.sizes = mcs_buf_column(&columns.sizes);
    request.config = &call->wire;
    request.group_lens = mcs_buf_column(&columns.group_lens);
    request.groups = mcs_buf_column(&columns.groups);
    request.upsert = call->upsert;
    mcs_call_t rpc = {.verb = MCS_VERB_PUT_START,
                      .request = &request.base,
                      .sequence = &sequence,
                      .reply_type = &mcs__wire__put_start_reply__descriptor,
                      .flags = MCS_CALL_FINISH};
    mcs_reply_t reply;
    status = mcs_link_call(call->client->link, &rpc, &reply);
    call->interrupted = call->interrupted || rpc.interrupted;
    if (status == MCS_OK) {
        status = take_start(call, &rpc, (const Mcs__Wire__PutStartReply *)(const void *)reply.message, generations_out,
                            count_out);
    }
    mcs_reply_fini(&reply);
    columns_fini(&columns);
    return status;
}

/* ---- the others ---- */

/* Sends a request that commits, whose answer has `count` statuses, and perhaps a spare for the next put. */
static mcs_status_t call_end(mcs_put_call_t *call, mcs_call_t *rpc, size_t count, mcs_spare_t *spare,
                             mcs_status_t *statuses_out)
{
    mcs_client_t *client = call->client;
    static const ProtobufCBinaryData none;
    mcs_reply_t reply;
    rpc->reply_type = &mcs__wire__put_end_reply__descriptor;
    rpc->flags = MCS_CALL_FINISH;
    mcs_status_t status = mcs_link_call(client->link, rpc, &reply);
    call->interrupted = call->interrupted || rpc->interrupted;
    call->repeated = rpc->repeated;
    const Mcs__Wire__PutEndReply *answer = (const Mcs__Wire__PutEndReply *)(const void *)reply.message;
    if (status == MCS_OK && answer->statuses.len != count * sizeof(int32_t)) {
        status = MCS_ERR_PROTOCOL;
    }
    for (size_t i = 0; status == MCS_OK && i < count; i++) {
        int32_t value = mcs_column_i32(&answer->statuses, i);
        statuses_out[i] = mcs_status_known(value) ? (mcs_status_t)value : MCS_ERR_PROTOCOL;
    }
    mcs_spares_answered(client->spares, mcs_session_inflight(client->session), spare, rpc,
                        status == MCS_OK ? &answer->spare : &none, status == MCS_OK ? &answer->replica : &none);
    mcs_reply_fini(&reply);
    return status;
}

static mcs_spare_t *ask_spare(const mcs_put_call_t *call)
{
    mcs_client_t *client = call->client;
    return call->plain ? mcs_spares_ask(client->spares, mcs_session_inflight(client->session), call->items[0].size)
                       : NULL;
}

mcs_status_t mcs_put_end(mcs_put_call_t *call, const uint64_t *put_ids, size_t count, mcs_status_t *statuses_out)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutEnd request = MCS__WIRE__PUT_END__INIT;
    mcs_spare_t *spare = ask_spare(call);
    request.sequence = &sequence;
    request.put_ids = (ProtobufCBinaryData){count * sizeof(*put_ids), (uint8_t *)(uintptr_t)put_ids};
    request.spare_len = spare != NULL ? spare->size : 0;
    mcs_call_t rpc = {.verb = MCS_VERB_PUT_END, .request = &request.base, .sequence = &sequence};
    return call_end(call, &rpc, count, spare, statuses_out);
}

mcs_status_t mcs_put_now(mcs_put_call_t *call, mcs_put_item_t *item)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutNow request = MCS__WIRE__PUT_NOW__INIT;
    mcs_spare_t *spare = ask_spare(call);
    request.sequence = &sequence;
    request.key = (ProtobufCBinaryData){item->key.len, (uint8_t *)(uintptr_t)item->key.bytes};
    request.put_id = item->put_id;
    request.spare_len = spare != NULL ? spare->size : 0;
    mcs_call_t rpc = {.verb = MCS_VERB_PUT_NOW, .request = &request.base, .sequence = &sequence};
    mcs_status_t result = MCS_OK;
    mcs_status_t status = call_end(call, &rpc, 1, spare, &result);
    bool unknown = status == MCS_ERR_SESSION_ENDED || (status == MCS_OK && result == MCS_ERR_OBJECT_NOT_FOUND);
    if (unknown) {
        return call->repeated ? MCS_ERR_RPC_FAIL : MCS_ERR_AGAIN; /* as after put_end: it may have been done */
    }
    return status != MCS_OK ? status : result != MCS_OK ? MCS_ERR_AGAIN : MCS_OK;
}

void mcs_put_revoke(mcs_put_call_t *call, const uint64_t *put_ids, size_t count, bool in_doubt)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutRevoke request = MCS__WIRE__PUT_REVOKE__INIT;
    request.sequence = &sequence;
    request.put_ids = (ProtobufCBinaryData){count * sizeof(*put_ids), (uint8_t *)(uintptr_t)put_ids};
    request.in_doubt = in_doubt;
    mcs_call_t rpc = {.verb = MCS_VERB_PUT_REVOKE,
                      .request = &request.base,
                      .sequence = &sequence,
                      .reply_type = &mcs__wire__status_column__descriptor,
                      .timeout_ms = REVOKE_MS,
                      .flags = MCS_CALL_NO_INTERRUPT};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(call->client->link, &rpc, &reply);
    if (status != MCS_OK) {
        mcs_debug(AREA, "revoke of %zu puts: %s; their deadline does it", count, mcs_status_name(status));
    }
    mcs_reply_fini(&reply);
}

mcs_status_t mcs_put_wait(mcs_client_t *client, const mcs_key_t *key, uint32_t timeout_ms)
{
    Mcs__Wire__PutWait request = MCS__WIRE__PUT_WAIT__INIT;
    request.key = (ProtobufCBinaryData){key->len, (uint8_t *)(uintptr_t)key->bytes};
    request.timeout_ms = timeout_ms;
    mcs_call_t rpc = {.verb = MCS_VERB_PUT_WAIT, .request = &request.base, .reply_type = &mcs__wire__empty__descriptor};
    int64_t limit_ms = client->config.rpc_timeout_ms;
    rpc.timeout_ms = limit_ms < 0 ? limit_ms : MCS_MAX(limit_ms, (int64_t)timeout_ms + WAIT_MARGIN_MS);
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &rpc, &reply);
    mcs_reply_fini(&reply);
    return status;
}
