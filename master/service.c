/* The service: life cycle, dispatch of requests, answers. See service.h and svc_internal.h.
 *
 * A request runs on the thread of its connection's loop: unpacked into that thread's arena, handed to the row's
 * handler, answered at once or parked for housekeeping. A handler answers itself and returns MCS_OK; another status is
 * sent as the answer, except MCS_ERR_PROTOCOL, which closes the connection (rule 10). A new verb is a new file and a
 * row. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define REQUEST_ARENA_CHUNK ((size_t)64 << 10)
#define REQUEST_ARENA_MAX   ((size_t)96 << 20)
#define REPLY_KEEP          ((size_t)1 << 20)

typedef struct svc_row {
    uint16_t verb;
    bool greeted;      /* only after the hello */
    bool control_only; /* only on a session's control connection */
    const ProtobufCMessageDescriptor *request;
    mcs_status_t (*handle)(svc_call_t *call);
} svc_row_t;

static const svc_row_t g_rows[] = {
    {MCS_VERB_HELLO, false, false, &mcs__wire__hello__descriptor, svc_hello},
    {MCS_VERB_PING, true, true, &mcs__wire__ping__descriptor, svc_ping},
    {MCS_VERB_GOODBYE, true, true, &mcs__wire__goodbye__descriptor, svc_goodbye},
    {MCS_VERB_MOUNT_SEGMENT, true, false, &mcs__wire__mount_segment__descriptor, svc_mount_segment},
    {MCS_VERB_UNMOUNT_SEGMENT, true, false, &mcs__wire__unmount_segment__descriptor, svc_unmount_segment},
    {MCS_VERB_SEGMENT_INFO, true, false, &mcs__wire__segment_info__descriptor, svc_segment_info},
    {MCS_VERB_LIST_SEGMENTS, true, false, &mcs__wire__list_segments__descriptor, svc_list_segments},
    {MCS_VERB_EXIST, true, false, &mcs__wire__exist__descriptor, svc_exist},
    {MCS_VERB_LOOKUP, true, false, &mcs__wire__lookup__descriptor, svc_lookup},
    {MCS_VERB_PUT_START, true, false, &mcs__wire__put_start__descriptor, svc_put_start},
    {MCS_VERB_PUT_END, true, false, &mcs__wire__put_end__descriptor, svc_put_end},
    {MCS_VERB_PUT_REVOKE, true, false, &mcs__wire__put_revoke__descriptor, svc_put_revoke},
    {MCS_VERB_PUT_NOW, true, false, &mcs__wire__put_now__descriptor, svc_put_now},
    {MCS_VERB_PUT_WAIT, true, false, &mcs__wire__put_wait__descriptor, svc_put_wait},
    {MCS_VERB_REMOVE, true, false, &mcs__wire__remove__descriptor, svc_remove},
    {MCS_VERB_REPLICA_CLEAR, true, false, &mcs__wire__replica_clear__descriptor, svc_replica_clear},
    {MCS_VERB_REMOVE_REGEX, true, false, &mcs__wire__remove_regex__descriptor, svc_remove_regex},
    {MCS_VERB_REMOVE_ALL, true, false, &mcs__wire__remove_all__descriptor, svc_remove_all},
    {MCS_VERB_CREATE_TASK, true, false, &mcs__wire__create_task__descriptor, svc_create_task},
    {MCS_VERB_QUERY_TASK, true, false, &mcs__wire__query_task__descriptor, svc_query_task},
    {MCS_VERB_FETCH_TASKS, true, false, &mcs__wire__fetch_tasks__descriptor, svc_fetch_tasks},
    {MCS_VERB_END_TASKS, true, false, &mcs__wire__end_tasks__descriptor, svc_end_tasks},
    {MCS_VERB_RELEASED, true, true, &mcs__wire__released__descriptor, svc_released},
    {MCS_VERB_STRUCK, true, true, &mcs__wire__struck__descriptor, svc_struck},
    {MCS_VERB_DIFFER, true, true, &mcs__wire__differ__descriptor, svc_differ},
    {MCS_VERB_REVOKE_ACK, true, true, &mcs__wire__revoke_ack__descriptor, svc_revoke_ack},
};

/* What a thread that handles requests keeps between them. */
typedef struct svc_thread_state {
    mcs_arena_t arena;
    mcs_buf_t reply;
    bool ready;
} svc_thread_state_t;
static _Thread_local svc_thread_state_t t_state;

static svc_thread_state_t *thread_state(void)
{
    if (!t_state.ready) {
        mcs_arena_init(&t_state.arena, REQUEST_ARENA_CHUNK, REQUEST_ARENA_MAX);
        mcs_buf_init(&t_state.reply, MCS_FRAME_MAX);
        t_state.ready = true;
    }
    return &t_state;
}

static void on_thread_end(void *arg)
{
    (void)arg;
    if (t_state.ready) {
        mcs_arena_fini(&t_state.arena);
        mcs_buf_fini(&t_state.reply);
        t_state.ready = false;
    }
}

/* ---- answers ---- */

void svc_log_answer(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, mcs_status_t sent)
{
    if (sent != MCS_OK) {
        mcs_debug(SVC_AREA, "%s op " MCS_OP_FMT " to %s not sent: %s", mcs_verb_name(header->verb),
                  MCS_OP_ARGS(header->id), mcs_rpc_conn_peer(conn), mcs_status_name(sent));
    } else {
        mcs_debug(SVC_AREA, "%s op " MCS_OP_FMT " to %s: %s", mcs_verb_name(header->verb), MCS_OP_ARGS(header->id),
                  mcs_rpc_conn_peer(conn), mcs_status_name((mcs_status_t)header->status));
    }
}

void svc_send(mcs_service_t *service, mcs_rpc_conn_t *conn, uint16_t verb, uint64_t id, mcs_status_t status,
              const ProtobufCMessage *message)
{
    mcs_frame_header_t header = {
        .kind = (uint8_t)((mcs_verb_flags(verb) & MCS_VERB_NOTICE) != 0 ? MCS_FRAME_NOTICE : MCS_FRAME_REPLY),
        .verb = verb,
        .status = (int32_t)status,
        .id = id,
        .epoch = svc_epoch(service)};
    mcs_buf_t *reply = &thread_state()->reply;
    mcs_buf_reset(reply);
    size_t len = 0;
    if (message != NULL) {
        len = protobuf_c_message_get_packed_size(message);
        uint8_t *at = len > 0 ? mcs_buf_extend(reply, len) : NULL;
        if (at == NULL && len > 0) {
            mcs_warn(SVC_AREA, "answer to %s of %s not sent: %s", mcs_verb_name(verb), mcs_rpc_conn_peer(conn),
                     mcs_status_name(mcs_buf_status(reply)));
            mcs_rpc_conn_close(conn); /* it would be waited for in vain */
            return;
        }
        if (len > 0) {
            protobuf_c_message_pack(message, at);
        }
    }
    svc_log_answer(conn, &header, mcs_rpc_conn_send(conn, &header, reply->bytes, len));
    if (reply->cap > REPLY_KEEP) {
        mcs_buf_fini(reply);
    }
}

mcs_status_t svc_reply(svc_call_t *call, mcs_status_t status, const ProtobufCMessage *message)
{
    if (call->outcome != NULL) {
        svc_outcome_answer(call->service, call->session, call->outcome, status, message);
        call->outcome = NULL;
    } else {
        svc_send(call->service, call->conn, call->header->verb, call->header->id, status, message);
    }
    return MCS_OK;
}

mcs_status_t svc_reply_statuses(svc_call_t *call, const int32_t *statuses, size_t count)
{
    Mcs__Wire__StatusColumn reply = MCS__WIRE__STATUS_COLUMN__INIT;
    reply.statuses = (ProtobufCBinaryData){count * sizeof(*statuses), (uint8_t *)(uintptr_t)statuses};
    return svc_reply(call, MCS_OK, &reply.base);
}

mcs_status_t svc_refuse(svc_call_t *call, mcs_status_t status, const char *text)
{
    Mcs__Wire__ErrorDetail detail = MCS__WIRE__ERROR_DETAIL__INIT;
    detail.text = (char *)(uintptr_t)text; /* protobuf-c has no const; only read */
    return svc_reply(call, status, &detail.base);
}

/* ---- requests ---- */

static const svc_row_t *row_of(uint16_t verb)
{
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_rows); i++) {
        if (g_rows[i].verb == verb) {
            return &g_rows[i];
        }
    }
    return NULL;
}

const ProtobufCMessageDescriptor *svc_request_type(uint16_t verb)
{
    const svc_row_t *row = row_of(verb);
    return row != NULL ? row->request : NULL;
}

static void *arena_alloc(void *arg, size_t size)
{
    return mcs_arena_alloc(arg, size);
}

static void arena_free(void *arg, void *ptr)
{
    (void)arg;
    (void)ptr;
}

ProtobufCMessage *svc_unpack(const ProtobufCMessageDescriptor *type, mcs_arena_t *arena, const uint8_t *payload,
                             size_t len)
{
    ProtobufCAllocator allocator = {arena_alloc, arena_free, arena};
    return protobuf_c_message_unpack(type, &allocator, len, payload);
}

static svc_link_t *link_of(mcs_rpc_conn_t *conn)
{
    svc_link_t *link = mcs_rpc_conn_user(conn);
    if (link == NULL) {
        link = MCS_NEW(svc_link_t);
        mcs_rpc_conn_set_user(conn, link);
    }
    return link;
}

/* MCS_OK: go on. MCS_ERR_PROTOCOL closes; others are the answer. */
static mcs_status_t check_call(const svc_call_t *call, const svc_link_t *link, const svc_row_t *row)
{
    if (!row->greeted) {
        return MCS_OK;
    }
    if (call->session == NULL) {
        return MCS_ERR_PROTOCOL;
    }
    if (svc_session_ended(call->session) ||
        (call->header->epoch != 0 && call->header->epoch != svc_epoch(call->service))) {
        return MCS_ERR_SESSION_ENDED;
    }
    return row->control_only && link->role != 1 ? MCS_ERR_PROTOCOL : MCS_OK;
}

static mcs_status_t on_frame(void *arg, mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const uint8_t *payload)
{
    mcs_service_t *service = arg;
    svc_link_t *link = link_of(conn);
    if (link == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_thread_state_t *state = thread_state();
    mcs_arena_reset(&state->arena);
    svc_call_t call = {
        .service = service, .conn = conn, .session = link->session, .header = header, .arena = &state->arena};
    const svc_row_t *row = row_of(header->verb);
    if (row == NULL) {
        return call.session == NULL ? MCS_ERR_PROTOCOL : svc_refuse(&call, MCS_ERR_NOT_SUPPORTED, "unknown verb");
    }
    mcs_debug(SVC_AREA, "%s op " MCS_OP_FMT " of %s, session %u", mcs_verb_name(header->verb), MCS_OP_ARGS(header->id),
              mcs_rpc_conn_peer(conn), call.session != NULL ? call.session->serial : 0);
    mcs_status_t status = check_call(&call, link, row);
    if (status == MCS_OK && call.session != NULL && link->role == 1) {
        __atomic_store_n(&call.session->last_seen_ns, svc_clock(service), __ATOMIC_RELEASE);
    }
    if (status == MCS_OK) {
        call.payload = payload;
        call.message = svc_unpack(row->request, &state->arena, payload, header->length);
        status = call.message != NULL ? row->handle(&call) : MCS_ERR_PROTOCOL;
    }
    if (status == MCS_OK) {
        return MCS_OK;
    }
    mcs_debug(SVC_AREA, "%s op " MCS_OP_FMT " of %s: %s", mcs_verb_name(header->verb), MCS_OP_ARGS(header->id),
              mcs_rpc_conn_peer(conn), mcs_status_name(status));
    if (call.outcome != NULL || status != MCS_ERR_PROTOCOL) {
        svc_reply(&call, status, NULL);
    }
    return status == MCS_ERR_PROTOCOL ? status : MCS_OK;
}

static void on_closed(void *arg, mcs_rpc_conn_t *conn)
{
    svc_link_t *link = mcs_rpc_conn_user(conn);
    if (link != NULL) {
        svc_session_closed(arg, link, conn);
        mcs_rpc_conn_set_user(conn, NULL);
        mcs_free(link);
    }
}

mcs_rpc_ops_t mcs_service_rpc_ops(mcs_service_t *service)
{
    return (mcs_rpc_ops_t){.frame = on_frame, .closed = on_closed, .thread_end = on_thread_end, .arg = service};
}

/* ---- life ---- */

static void read_boot_id(mcs_service_t *service)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    ssize_t n = read(fd, service->boot_id, sizeof(service->boot_id) - 1);
    close(fd);
    service->boot_id[n > 0 ? n : 0] = '\0';
    service->boot_id[strcspn(service->boot_id, "\n")] = '\0';
}

mcs_status_t mcs_service_create(const mcs_service_config_t *config, mcs_service_t **service_out)
{
    mcs_service_t *service = MCS_NEW(mcs_service_t);
    if (service == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    service->config = *config;
    service->conf = config->config;
    service->metrics = config->metrics;
    service->journal = config->journal;
    service->epoch = config->epoch;
    service->lease_ns = service->conf->default_kv_lease_ttl * MCS_NS_PER_MS;
    service->sweep_shard = SVC_SHARDS;
    service->clock_limit_ns = MCS_NEVER; /* until housekeeping runs */
    read_boot_id(service);
    mcs_list_init(&service->sessions);
    mcs_list_init(&service->ending);
    mcs_list_init(&service->parked_inbox);
    mcs_list_init(&service->bulk_inbox);
    mcs_list_init(&service->deferred);
    mcs_list_init(&service->parked);
    mcs_list_init(&service->bulk);
    mcs_buf_init(&service->scratch, MCS_FRAME_MAX);
    mcs_status_t status = mcs_event_init(&service->wake);
    if (status != MCS_OK) {
        goto err_free;
    }
    status = svc_index_init(&service->index, config->epoch, service->conf->max_objects);
    if (status != MCS_OK) {
        goto err_event;
    }
    if (config->journal != NULL) {
        service->index.seed = mcs_journal_past(config->journal)->seed; /* keys stay in their streams */
    }
    svc_policy_init(&service->policy, strcmp(service->conf->eviction_policy, "adaptive") == 0);
    status = svc_segments_init(&service->segments);
    if (status != MCS_OK) {
        goto err_index;
    }
    status = svc_groups_init(service);
    if (status != MCS_OK) {
        goto err_segments;
    }
    status = svc_tasks_init(service);
    if (status != MCS_OK) {
        goto err_groups;
    }
    mcs_mutex_init(&service->lock, MCS_RANK_SESSIONS, "sessions");
    mcs_mutex_init(&service->parked_lock, MCS_RANK_WAITERS, "parked");
    mcs_mutex_init(&service->blocks.lock, MCS_RANK_LEAF, "blocks");
    mcs_cond_init(&service->bulk_done);
    *service_out = service;
    return MCS_OK;

err_groups:
    svc_groups_fini(service);
err_segments:
    svc_segments_fini(&service->segments);
err_index:
    svc_policy_fini(&service->policy);
    svc_index_fini(&service->index);
err_event:
    mcs_event_fini(&service->wake);
err_free:
    mcs_free(service);
    return status;
}

mcs_status_t mcs_service_start(mcs_service_t *service, mcs_rpc_server_t *server)
{
    service->server = server;
    service->last_tick_ns = mcs_now_ns();
    svc_clock_go_on(service, service->last_tick_ns);
    return svc_house_start(service);
}

void mcs_service_stop(mcs_service_t *service)
{
    __atomic_store_n(&service->stop, 1, __ATOMIC_RELEASE);
    mcs_event_set(&service->wake);
    mcs_thread_join(&service->thread);
    svc_parked_end_all(service);
    svc_bulk_end_all(service);
}

/* Everything that still refers to a session or a segment hangs on the index or on a session: cleared in that order. */
static void clear_index(mcs_service_t *service)
{
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &service->index.shards[i];
        mcs_mutex_lock(&shard->lock);
        svc_pending_drop_all_locked(service, shard);
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
            svc_record_forget_locked(service, shard, ref);
        }
        mcs_mutex_unlock(&shard->lock);
    }
}

void mcs_service_destroy(mcs_service_t *service)
{
    if (service == NULL) {
        return;
    }
    svc_sessions_end_all(service);
    clear_index(service);
    svc_release_deferred_tick(service);
    svc_check_fini(service);
    svc_tasks_fini(service);
    svc_groups_fini(service);
    svc_segments_fini(&service->segments);
    svc_policy_fini(&service->policy);
    svc_index_fini(&service->index);
    mcs_cond_fini(&service->bulk_done);
    mcs_mutex_fini(&service->parked_lock);
    svc_evict_fini(service);
    svc_blocks_trim(service);
    mcs_mutex_fini(&service->blocks.lock);
    mcs_mutex_fini(&service->lock);
    mcs_event_fini(&service->wake);
    mcs_buf_fini(&service->scratch);
    mcs_free(service->wire);
    on_thread_end(NULL);
    mcs_free(service);
}

void svc_wake(mcs_service_t *service)
{
    if (__atomic_exchange_n(&service->woken, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_event_set(&service->wake);
    }
}
