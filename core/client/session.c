/* See session.h.
 *
 * Outboxes: `released`, `struck`, `differ` and `revoke_ack` are columns of generations (of `differ`, pairs). Each has a
 * queue, filled by any thread, and the batch that was sent and not answered yet, of the control thread alone. After a
 * lost connection the batch is sent again (generations are never reused, so a repeat says nothing new); with a new
 * session both are dropped, because what they name went with the old one. */
#include "core/client/session.h"

#include <poll.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/client/interrupt.h"

#define AREA             "session"
#define OUTBOX_MAX       ((size_t)64 << 20)
#define BATCH_BYTES      ((size_t)8192 * sizeof(uint64_t))
#define SETUP_RETRY_MS   2000 /* an unreachable master is tried this long at set-up */
#define CONNECT_LIMIT_MS 5000
#define SEND_LIMIT_MS    2000
#define GOODBYE_LIMIT_MS 1000
#define BACKOFF_MIN_MS   20
#define PATIENCE_MIN_MS  2000
#define BACKOFF_MAX_MS   1000

/* Of a record of a column. */
#define WORDS(type) (sizeof(type) / sizeof(uint64_t))

enum { OUT_RELEASED, OUT_STRUCK, OUT_DIFFER, OUT_ACKS, OUT_COUNT };
static const mcs_verb_t g_out_verbs[OUT_COUNT] = {MCS_VERB_RELEASED, MCS_VERB_STRUCK, MCS_VERB_DIFFER,
                                                  MCS_VERB_REVOKE_ACK};

typedef struct outbox {
    mcs_verb_t verb;
    mcs_buf_t queue;  /* guarded by session->lock */
    mcs_buf_t batch;  /* control thread only */
    uint64_t sent_id; /* of the request that carries the batch; 0 = to be sent */
} outbox_t;

struct mcs_session {
    mcs_session_config_t config;
    mcs_link_t *link;
    mcs_owner_t *owner;
    mcs_inflight_t inflight;
    mcs_thread_t thread;
    mcs_event_t wake;
    uint32_t stop;           /* atomic */
    uint32_t connected;      /* atomic: the control connection is open and its session usable */
    uint64_t last_answer_ns; /* atomic: when a frame last came */
    uint64_t patience_ns;    /* atomic: silence for longer is not healthy */

    mcs_mutex_t lock; /* guards the queues and `refused` */
    outbox_t out[OUT_COUNT];
    mcs_id_t refused; /* the session that a call was refused for; none = nothing to do */

    /* Control thread (and start, stop, before and after it). */
    mcs_conn_t conn;
    mcs_hello_result_t hello;
    uint64_t highest_epoch;
    uint64_t next_ping_ns;
};

/* ---- outboxes ---- */

static void outbox_init(outbox_t *box, mcs_verb_t verb)
{
    box->verb = verb;
    mcs_buf_init(&box->queue, OUTBOX_MAX);
    mcs_buf_init(&box->batch, BATCH_BYTES);
}

static void outbox_fini(outbox_t *box)
{
    mcs_buf_fini(&box->queue);
    mcs_buf_fini(&box->batch);
}

static void outbox_add(mcs_session_t *session, outbox_t *box, const uint64_t *generations, size_t count)
{
    mcs_mutex_lock(&session->lock);
    box->queue.failed = MCS_OK;
    mcs_buf_append(&box->queue, generations, count * sizeof(*generations));
    mcs_status_t status = mcs_buf_status(&box->queue);
    mcs_mutex_unlock(&session->lock);
    if (status != MCS_OK) {
        /* The master keeps them in quarantine and asks again. */
        mcs_warn(AREA, "%zu answers for the master dropped: %s", count, mcs_status_name(status));
    }
    mcs_event_set(&session->wake);
}

void mcs_session_released(void *arg, const uint64_t *generations, uint32_t count)
{
    mcs_session_t *session = arg;
    mcs_count(session->config.counters, released, count);
    outbox_add(session, &session->out[OUT_RELEASED], generations, count);
}

void mcs_session_struck(void *arg, const uint64_t *generations, uint32_t count)
{
    mcs_session_t *session = arg;
    outbox_add(session, &session->out[OUT_STRUCK], generations, count);
}

void mcs_session_differ(void *arg, const mcs_col_differ_t *records, uint32_t count)
{
    mcs_session_t *session = arg;
    mcs_warn(AREA, "%u extents are not what the master's journal says", count);
    outbox_add(session, &session->out[OUT_DIFFER], &records->generation, count * WORDS(mcs_col_differ_t));
}

static void ack_revoked(void *arg, const uint64_t *generations, size_t count)
{
    mcs_session_t *session = arg;
    outbox_add(session, &session->out[OUT_ACKS], generations, count);
}

static mcs_io_t control_io(mcs_session_t *session, int64_t limit_ms)
{
    return (mcs_io_t){.deadline_ns = mcs_deadline_after_ms(limit_ms), .cancel = &session->stop};
}

static mcs_status_t send_request(mcs_session_t *session, mcs_verb_t verb, const ProtobufCMessage *message,
                                 const mcs_io_t *io)
{
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST,
                                 .verb = (uint16_t)verb,
                                 .id = ++session->conn.last_id,
                                 .epoch = session->hello.epoch};
    uint8_t *payload = mcs_conn_prepare(&session->conn, &header, protobuf_c_message_get_packed_size(message));
    if (payload == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    protobuf_c_message_pack(message, payload);
    return mcs_conn_flush(&session->conn, io);
}

/* Sends the next batch when the last one has been answered. */
static mcs_status_t outbox_flush(mcs_session_t *session, outbox_t *box)
{
    if (box->sent_id != 0) {
        return MCS_OK;
    }
    if (box->batch.len == 0) {
        mcs_mutex_lock(&session->lock);
        size_t len = MCS_MIN(box->queue.len, BATCH_BYTES);
        mcs_buf_reset(&box->batch);
        mcs_buf_append(&box->batch, box->queue.bytes, len);
        if (mcs_buf_status(&box->batch) == MCS_OK) {
            mcs_buf_consume(&box->queue, len);
        }
        mcs_mutex_unlock(&session->lock);
    }
    if (box->batch.len == 0) {
        return MCS_OK;
    }
    /* Released, Struck, Differ and RevokeAck are the same on the wire: one column in field 1. */
    Mcs__Wire__Released message = MCS__WIRE__RELEASED__INIT;
    message.generations = (ProtobufCBinaryData){box->batch.len, box->batch.bytes};
    mcs_io_t io = control_io(session, SEND_LIMIT_MS);
    mcs_status_t status = send_request(session, box->verb, &message.base, &io);
    if (status == MCS_OK) {
        box->sent_id = session->conn.last_id;
    }
    return status;
}

static void outbox_clear(mcs_session_t *session, outbox_t *box)
{
    mcs_mutex_lock(&session->lock);
    mcs_buf_reset(&box->queue);
    mcs_mutex_unlock(&session->lock);
    mcs_buf_reset(&box->batch);
    box->sent_id = 0;
}

/* ---- notices ---- */

/* A column of u64 as an aligned array; protobuf-c's copies are aligned already. */
static mcs_status_t column_u64(const ProtobufCBinaryData *column, const uint64_t **values_out, size_t *count_out)
{
    mcs_status_t status = mcs_column_count(column->len, sizeof(uint64_t), MCS_FRAME_MAX / sizeof(uint64_t), count_out);
    *values_out = (const uint64_t *)(const void *)column->data;
    return status;
}

static mcs_status_t on_release(mcs_session_t *session, const mcs_frame_t *frame)
{
    Mcs__Wire__NoticeRelease *notice = mcs__wire__notice_release__unpack(NULL, frame->header.length, frame->payload);
    size_t count = 0;
    mcs_status_t status = MCS_ERR_PROTOCOL;
    if (notice != NULL) {
        status = mcs_column_count(notice->records.len, sizeof(mcs_col_release_t), MCS_FRAME_MAX, &count);
    }
    if (status == MCS_OK && count > 0 && session->owner != NULL) {
        mcs_owner_release(session->owner, (const mcs_col_release_t *)(const void *)notice->records.data,
                          (uint32_t)count);
    }
    if (notice != NULL) {
        mcs__wire__notice_release__free_unpacked(notice, NULL);
    }
    return status;
}

static mcs_status_t on_revoked(mcs_session_t *session, const mcs_frame_t *frame)
{
    Mcs__Wire__NoticeRevoked *notice = mcs__wire__notice_revoked__unpack(NULL, frame->header.length, frame->payload);
    const uint64_t *generations = NULL;
    size_t count = 0;
    mcs_status_t status = notice != NULL ? column_u64(&notice->generations, &generations, &count) : MCS_ERR_PROTOCOL;
    if (status == MCS_OK) {
        mcs_count(session->config.counters, revoked, count);
        mcs_inflight_revoked(&session->inflight, generations, count);
    }
    if (notice != NULL) {
        mcs__wire__notice_revoked__free_unpacked(notice, NULL);
    }
    return status;
}

static mcs_status_t on_forget(mcs_session_t *session, const mcs_frame_t *frame)
{
    Mcs__Wire__NoticeForget *notice = mcs__wire__notice_forget__unpack(NULL, frame->header.length, frame->payload);
    const uint64_t *generations = NULL;
    size_t count = 0;
    mcs_status_t status = notice != NULL ? column_u64(&notice->generations, &generations, &count) : MCS_ERR_PROTOCOL;
    if (status == MCS_OK && count > 0 && session->owner != NULL) {
        mcs_owner_forget(session->owner, generations, (uint32_t)count);
    }
    if (notice != NULL) {
        mcs__wire__notice_forget__free_unpacked(notice, NULL);
    }
    return status;
}

static mcs_status_t on_check(mcs_session_t *session, const mcs_frame_t *frame)
{
    Mcs__Wire__NoticeCheck *notice = mcs__wire__notice_check__unpack(NULL, frame->header.length, frame->payload);
    size_t count = 0;
    mcs_status_t status = MCS_ERR_PROTOCOL;
    if (notice != NULL && notice->instance != NULL) {
        status = mcs_column_count(notice->records.len, sizeof(mcs_col_check_t), MCS_FRAME_MAX, &count);
    }
    if (status == MCS_OK && count > 0 && session->owner != NULL) {
        mcs_owner_check(session->owner, (mcs_id_t){notice->instance->hi, notice->instance->lo},
                        (const mcs_col_check_t *)(const void *)notice->records.data, (uint32_t)count);
    }
    if (notice != NULL) {
        mcs__wire__notice_check__free_unpacked(notice, NULL);
    }
    return status;
}

static mcs_status_t on_session_ended(mcs_session_t *session, const mcs_frame_t *frame)
{
    Mcs__Wire__NoticeSessionEnded *notice =
        mcs__wire__notice_session_ended__unpack(NULL, frame->header.length, frame->payload);
    if (notice == NULL) {
        return MCS_ERR_PROTOCOL;
    }
    for (size_t i = 0; i < notice->n_sessions && session->owner != NULL; i++) {
        const Mcs__Wire__Id *id = notice->sessions[i];
        mcs_owner_session_ended(session->owner, (mcs_id_t){id->hi, id->lo});
    }
    mcs__wire__notice_session_ended__free_unpacked(notice, NULL);
    return MCS_OK;
}

static mcs_status_t on_tasks(mcs_session_t *session, const mcs_frame_t *frame)
{
    (void)frame;
    if (session->config.tasks != NULL) {
        session->config.tasks(session->config.tasks_arg);
    }
    return MCS_OK;
}

static const struct {
    mcs_verb_t verb;
    mcs_status_t (*handle)(mcs_session_t *session, const mcs_frame_t *frame);
} g_notices[] = {
    {MCS_VERB_N_RELEASE, on_release}, {MCS_VERB_N_REVOKED, on_revoked}, {MCS_VERB_N_SESSION_ENDED, on_session_ended},
    {MCS_VERB_N_FORGET, on_forget},   {MCS_VERB_N_TASKS, on_tasks},     {MCS_VERB_N_CHECK, on_check},
};

static void on_outbox_reply(outbox_t *box, const mcs_frame_t *frame)
{
    if (box->sent_id == 0 || frame->header.id != box->sent_id) {
        return;
    }
    if (frame->header.status != MCS_OK) {
        mcs_warn(AREA, "%s of %zu extents refused by the master: %s", mcs_verb_name(box->verb),
                 box->batch.len / sizeof(uint64_t), mcs_status_name(frame->header.status));
    }
    mcs_buf_reset(&box->batch);
    box->sent_id = 0;
}

static mcs_status_t on_frame(mcs_session_t *session, const mcs_frame_t *frame)
{
    __atomic_store_n(&session->last_answer_ns, mcs_now_ns(), __ATOMIC_RELAXED);
    if (frame->header.kind == MCS_FRAME_REPLY) {
        if (frame->header.status == MCS_ERR_SESSION_ENDED) {
            return MCS_ERR_SESSION_ENDED;
        }
        for (size_t i = 0; i < OUT_COUNT; i++) {
            on_outbox_reply(&session->out[i], frame);
        }
        return MCS_OK;
    }
    if (frame->header.kind != MCS_FRAME_NOTICE) {
        return MCS_ERR_PROTOCOL;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_notices); i++) {
        if (g_notices[i].verb == frame->header.verb) {
            return g_notices[i].handle(session, frame);
        }
    }
    return MCS_OK; /* a notice of a newer master */
}

/* ---- connecting ---- */

static void disconnect(mcs_session_t *session)
{
    __atomic_store_n(&session->connected, 0, __ATOMIC_RELEASE);
    mcs_conn_close(&session->conn);
    for (size_t i = 0; i < OUT_COUNT; i++) {
        session->out[i].sent_id = 0;
    }
}

/* A session that is new: what the old one had is gone. */
static mcs_status_t begin_new(mcs_session_t *session, const mcs_hello_result_t *hello)
{
    for (size_t i = 0; i < OUT_COUNT; i++) {
        outbox_clear(session, &session->out[i]);
    }
    mcs_inflight_new_session(&session->inflight);
    session->hello = *hello;
    mcs_count(session->config.counters, sessions, 1);
    mcs_link_set_session(session->link, hello, false);
    mcs_status_t status = session->config.opened(session->config.arg, hello);
    if (status != MCS_OK) {
        mcs_link_drop_session(session->link);
        session->hello.session = (mcs_id_t){0, 0};
    }
    return status;
}

/* The session that we had. Under another epoch calls wait until the segments are mounted again. */
static mcs_status_t go_on(mcs_session_t *session, const mcs_hello_result_t *hello)
{
    if (hello->epoch != session->hello.epoch) {
        /* What was to be said about extents was for the master before. */
        for (size_t i = 0; i < OUT_COUNT; i++) {
            outbox_clear(session, &session->out[i]);
        }
        mcs_link_set_session(session->link, hello, false);
    }
    mcs_status_t status = session->config.resumed(session->config.arg, hello);
    if (status == MCS_OK) {
        session->hello = *hello;
    }
    return status;
}

/* One try to connect: resumes the session, or opens a new one. */
static mcs_status_t connect_once(mcs_session_t *session)
{
    const mcs_client_config_t *config = session->config.config;
    int64_t limit_ms =
        config->connect_timeout_ms < 0 ? CONNECT_LIMIT_MS : MCS_MIN(config->connect_timeout_ms, CONNECT_LIMIT_MS);
    mcs_io_t io = control_io(session, limit_ms);
    io.interruptible = true; /* at set-up; the control thread has no hook */
    mcs_status_t status = mcs_conn_open(&session->conn, session->config.address, config->ipv6, &io);
    if (status != MCS_OK) {
        return status;
    }
    mcs_hello_result_t hello;
    mcs_id_t asked = session->hello.session;
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CONTROL, .session = asked, .highest_epoch = session->highest_epoch};
    status = mcs_hello(&session->conn, session->config.self, &ask, &io, &hello);
    if (status == MCS_ERR_SESSION_ENDED && !mcs_id_is_none(asked)) {
        session->hello.session = (mcs_id_t){0, 0}; /* the next try opens a new one */
    }
    if (status == MCS_OK && hello.epoch < session->highest_epoch) {
        mcs_warn(AREA, "a master of epoch %llu answers, %llu was seen: refused", (unsigned long long)hello.epoch,
                 (unsigned long long)session->highest_epoch);
        status = MCS_ERR_RPC_FAIL;
    }
    if (status != MCS_OK) {
        mcs_conn_close(&session->conn);
        return status;
    }
    session->highest_epoch = hello.epoch;
    hello.heartbeat_ms = hello.heartbeat_ms == 0 ? 1000 : MCS_MAX(50, MCS_MIN(hello.heartbeat_ms, 60000));
    if (session->owner != NULL) {
        mcs_owner_set_epoch(session->owner, hello.epoch);
    }
    if (hello.resumed && mcs_id_equal(hello.session, asked)) {
        status = go_on(session, &hello);
    } else {
        status = begin_new(session, &hello);
    }
    if (status != MCS_OK) {
        mcs_conn_close(&session->conn);
        return status;
    }
    mcs_link_set_session(session->link, &hello, true);
    session->next_ping_ns = mcs_now_ns() + hello.heartbeat_ms * MCS_NS_PER_MS;
    uint64_t patience_ns = MCS_MAX(3 * (uint64_t)hello.heartbeat_ms, (uint64_t)PATIENCE_MIN_MS) * MCS_NS_PER_MS;
    __atomic_store_n(&session->patience_ns, patience_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&session->last_answer_ns, mcs_now_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&session->connected, 1, __ATOMIC_RELEASE);
    return MCS_OK;
}

/* ---- the thread ---- */

static bool stopping(const mcs_session_t *session)
{
    return __atomic_load_n(&session->stop, __ATOMIC_ACQUIRE) != 0;
}

static void reconnect(mcs_session_t *session)
{
    int64_t backoff_ms = BACKOFF_MIN_MS;
    while (!stopping(session)) {
        mcs_status_t status = connect_once(session);
        if (status == MCS_OK) {
            mcs_count(session->config.counters, reconnects, 1);
            mcs_info(AREA, "connected to the master at %s again (epoch %llu)", session->config.address,
                     (unsigned long long)session->hello.epoch);
            return;
        }
        mcs_debug(AREA, "master %s: %s", session->config.address, mcs_status_name(status));
        uint64_t until = mcs_deadline_after_ms(backoff_ms);
        while (!stopping(session) && mcs_event_wait(&session->wake, until)) {
            /* Woken for the outboxes or to stop: the queues keep what they have. */
        }
        backoff_ms = MCS_MIN(backoff_ms * 2, (int64_t)BACKOFF_MAX_MS);
    }
}

static mcs_status_t drain(mcs_session_t *session)
{
    for (;;) {
        mcs_frame_t frame;
        mcs_status_t status = mcs_conn_poll(&session->conn, MCS_FRAME_MAX, &frame);
        if (status == MCS_ERR_AGAIN) {
            return MCS_OK;
        }
        if (status == MCS_OK) {
            status = on_frame(session, &frame);
        }
        if (status != MCS_OK) {
            return status;
        }
    }
}

static mcs_status_t ping_if_due(mcs_session_t *session)
{
    uint64_t now = mcs_now_ns();
    if (now < session->next_ping_ns) {
        return MCS_OK;
    }
    /* Silence is no proof of death: a stopped master keeps its connections. After a session's time to live it is worth
     * another try. */
    uint64_t patience = MCS_MAX((uint64_t)session->hello.session_ttl_ms, 3 * (uint64_t)session->hello.heartbeat_ms);
    if (now - session->last_answer_ns > MCS_MAX(patience, 3000) * MCS_NS_PER_MS) {
        return MCS_ERR_RPC_TIMEOUT;
    }
    session->next_ping_ns = now + session->hello.heartbeat_ms * MCS_NS_PER_MS;
    Mcs__Wire__Ping ping = MCS__WIRE__PING__INIT;
    if (session->config.cached_hits != NULL) {
        mcs_cached_hits_t hits = session->config.cached_hits(session->config.arg);
        ping.cached_gets = hits.gets;
        ping.cached_bytes = hits.bytes;
    }
    mcs_io_t io = control_io(session, SEND_LIMIT_MS);
    return send_request(session, MCS_VERB_PING, &ping.base, &io);
}

static bool take_refusal(mcs_session_t *session)
{
    mcs_mutex_lock(&session->lock);
    bool ours = !mcs_id_is_none(session->refused) && mcs_id_equal(session->refused, session->hello.session);
    session->refused = (mcs_id_t){0, 0};
    mcs_mutex_unlock(&session->lock);
    return ours;
}

/* Until the connection is lost or the session stops. */
static mcs_status_t serve(mcs_session_t *session)
{
    mcs_status_t status = MCS_OK;
    while (status == MCS_OK && !stopping(session)) {
        struct pollfd fds[2] = {{.fd = session->conn.fd, .events = POLLIN}, {.fd = session->wake.fd, .events = POLLIN}};
        int timeout = mcs_deadline_poll_ms(session->next_ping_ns);
        poll(fds, 2, MCS_MAX(timeout, 0));
        if (fds[1].revents != 0) {
            mcs_event_clear(&session->wake);
        }
        if (take_refusal(session)) {
            return MCS_ERR_SESSION_ENDED;
        }
        status = drain(session);
        for (size_t i = 0; status == MCS_OK && i < OUT_COUNT; i++) {
            status = outbox_flush(session, &session->out[i]);
        }
        if (status == MCS_OK) {
            status = ping_if_due(session);
        }
    }
    return status;
}

static void control_main(void *arg)
{
    mcs_session_t *session = arg;
    while (!stopping(session)) {
        if (!mcs_conn_is_open(&session->conn)) {
            reconnect(session);
            continue;
        }
        mcs_status_t status = serve(session);
        if (stopping(session)) {
            break;
        }
        mcs_warn(AREA, "control connection to the master at %s lost: %s", session->config.address,
                 mcs_status_name(status));
        disconnect(session);
        mcs_link_lost(session->link);
        if (session->config.lost != NULL) {
            session->config.lost(session->config.arg);
        }
    }
}

/* On a calling thread. */
static void session_refused(void *arg, mcs_id_t id)
{
    mcs_session_t *session = arg;
    mcs_mutex_lock(&session->lock);
    session->refused = id;
    mcs_mutex_unlock(&session->lock);
    mcs_event_set(&session->wake);
}

/* ---- life ---- */

mcs_status_t mcs_session_create(const mcs_session_config_t *config, mcs_session_t **session_out)
{
    mcs_session_t *session = MCS_NEW(mcs_session_t);
    if (session == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    session->config = *config;
    mcs_link_config_t link_config = {
        .address = config->address,
        .config = config->config,
        .self = config->self,
        .counters = config->counters,
        .metrics = config->metrics,
        .session_refused = session_refused,
        .session_refused_arg = session,
    };
    mcs_status_t status = mcs_event_init(&session->wake);
    if (status != MCS_OK) {
        goto err_free;
    }
    status = mcs_link_create(&link_config, &session->link);
    if (status != MCS_OK) {
        goto err_event;
    }
    mcs_mutex_init(&session->lock, MCS_RANK_CLIENT_SESSION, "session");
    mcs_inflight_init(&session->inflight, ack_revoked, session);
    for (size_t i = 0; i < OUT_COUNT; i++) {
        outbox_init(&session->out[i], g_out_verbs[i]);
    }
    mcs_conn_init(&session->conn);
    *session_out = session;
    return MCS_OK;

err_event:
    mcs_event_fini(&session->wake);
err_free:
    mcs_free(session);
    return status;
}

mcs_link_t *mcs_session_link(mcs_session_t *session)
{
    return session->link;
}

mcs_inflight_t *mcs_session_inflight(mcs_session_t *session)
{
    return &session->inflight;
}

mcs_status_t mcs_session_start(mcs_session_t *session, mcs_owner_t *owner)
{
    session->owner = owner;
    uint64_t give_up = mcs_deadline_after_ms(SETUP_RETRY_MS);
    mcs_status_t status;
    for (;;) {
        status = connect_once(session);
        if (status != MCS_ERR_RPC_FAIL || mcs_deadline_passed(give_up)) {
            break;
        }
        if (mcs_interrupt_pending()) {
            status = MCS_ERR_INTERRUPTED;
            break;
        }
        mcs_event_wait(&session->wake, mcs_deadline_after_ms(50));
    }
    if (status == MCS_OK) {
        status = mcs_thread_start(&session->thread, "mcs-control", control_main, session);
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "no session at the master %s: %s", session->config.address, mcs_status_name(status));
    }
    return status;
}

static void say_goodbye(mcs_session_t *session)
{
    Mcs__Wire__Goodbye goodbye = MCS__WIRE__GOODBYE__INIT;
    mcs_io_t io = {.deadline_ns = mcs_deadline_after_ms(GOODBYE_LIMIT_MS)};
    mcs_status_t status = send_request(session, MCS_VERB_GOODBYE, &goodbye.base, &io);
    uint64_t id = session->conn.last_id;
    mcs_frame_t frame;
    while (status == MCS_OK) {
        status = mcs_conn_receive(&session->conn, MCS_FRAME_MAX, &io, &frame);
        if (status == MCS_OK && frame.header.kind == MCS_FRAME_REPLY && frame.header.id == id) {
            return;
        }
    }
    mcs_debug(AREA, "goodbye not answered: %s", mcs_status_name(status));
}

void mcs_session_stop(mcs_session_t *session)
{
    __atomic_store_n(&session->stop, 1, __ATOMIC_RELEASE);
    mcs_link_close(session->link);
    mcs_event_set(&session->wake);
    mcs_thread_join(&session->thread);
    if (mcs_conn_is_open(&session->conn)) {
        say_goodbye(session);
    }
    disconnect(session);
}

void mcs_session_destroy(mcs_session_t *session)
{
    if (session == NULL) {
        return;
    }
    mcs_conn_fini(&session->conn);
    mcs_link_destroy(session->link);
    for (size_t i = 0; i < OUT_COUNT; i++) {
        outbox_fini(&session->out[i]);
    }
    mcs_inflight_fini(&session->inflight);
    mcs_mutex_fini(&session->lock);
    mcs_event_fini(&session->wake);
    mcs_free(session);
}

bool mcs_session_is_connected(const mcs_session_t *session)
{
    /* An answer that comes between the two looks is younger than `now`. */
    uint64_t answer_ns = __atomic_load_n(&session->last_answer_ns, __ATOMIC_RELAXED);
    uint64_t now_ns = mcs_now_ns();
    return __atomic_load_n(&session->connected, __ATOMIC_ACQUIRE) != 0 &&
           now_ns <= answer_ns + __atomic_load_n(&session->patience_ns, __ATOMIC_RELAXED);
}
