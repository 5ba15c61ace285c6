/* See link.h.
 *
 * Pool: a stack of idle connections (the last used is the warmest) and a count of those that exist. A connection
 * belongs to the session serial it said hello for; when the serial has moved on it is closed instead of being put back
 * or taken.
 *
 * Sequences: each mutating call in flight has a node in a list in order of its sequence; `ack` is the sequence of the
 * head (or the next one to be given out when the list is empty), because everything below has been answered. Taken out
 * when the call returns, whatever its result. */
#include "core/client/link.h"

#include <string.h>
#include <sys/socket.h>

#include "core/base/alloc.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/op.h"
#include "core/client/interrupt.h"

#define AREA        "link"
#define BACKOFF_MIN (10 * MCS_NS_PER_MS)
#define BACKOFF_MAX (200 * MCS_NS_PER_MS)
#define WAIT_SLICE  (100 * MCS_NS_PER_MS)
#define FINISH_MS   1000 /* for the answer of an interrupted call that must be known */
#define REPLY_ARENA ((size_t)256 << 20)

typedef struct pooled {
    mcs_list_t node; /* in idle or in busy */
    mcs_conn_t conn;
    uint64_t serial; /* of the session it said hello for; 0 = never */
} pooled_t;

typedef struct in_flight {
    mcs_list_t node;
    mcs_id_t session; /* whose sequence it is */
    uint64_t epoch;   /* of the master that it was for */
    uint64_t seq;     /* 0 = none given yet */
} in_flight_t;

struct mcs_link {
    mcs_link_config_t config;
    char *address;
    uint64_t spin_ns;
    uint32_t cancel;  /* atomic */
    uint64_t lost_ns; /* atomic; since when the control connection is lost, 0 = it is not */

    mcs_mutex_t lock; /* guards everything below; held for list moves only */
    mcs_cond_t changed;
    mcs_list_t idle;
    mcs_list_t busy;
    uint64_t open_count;
    mcs_hello_result_t session;
    uint64_t serial; /* of the session; 0 = none */
    uint64_t last_serial;
    bool ready;
    uint64_t next_seq;
    mcs_list_t sequences; /* in_flight_t by seq */
};

/* ---- life ---- */

mcs_status_t mcs_link_create(const mcs_link_config_t *config, mcs_link_t **link_out)
{
    mcs_link_t *link = MCS_NEW(mcs_link_t);
    if (link == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    link->config = *config;
    link->address = mcs_strdup(config->address);
    if (link->address == NULL) {
        mcs_free(link);
        return MCS_ERR_NO_MEMORY;
    }
    link->config.address = link->address;
    link->spin_ns = (uint64_t)config->config->spin_us * MCS_NS_PER_US;
    mcs_mutex_init(&link->lock, MCS_RANK_LINK_POOL, "link");
    mcs_cond_init(&link->changed);
    mcs_list_init(&link->idle);
    mcs_list_init(&link->busy);
    mcs_list_init(&link->sequences);
    *link_out = link;
    return MCS_OK;
}

static void pooled_destroy(pooled_t *pooled)
{
    mcs_conn_fini(&pooled->conn);
    mcs_free(pooled);
}

static void destroy_all(mcs_list_t *list)
{
    while (!mcs_list_empty(list)) {
        pooled_t *pooled = MCS_LIST_FIRST(list, pooled_t, node);
        mcs_list_remove(&pooled->node);
        pooled_destroy(pooled);
    }
}

void mcs_link_destroy(mcs_link_t *link)
{
    if (link == NULL) {
        return;
    }
    MCS_ENSURE(mcs_list_empty(&link->busy));
    destroy_all(&link->idle);
    mcs_cond_fini(&link->changed);
    mcs_mutex_fini(&link->lock);
    mcs_free(link->address);
    mcs_free(link);
}

void mcs_link_close(mcs_link_t *link)
{
    __atomic_store_n(&link->cancel, 1, __ATOMIC_RELEASE);
    mcs_mutex_lock(&link->lock);
    mcs_cond_broadcast(&link->changed);
    mcs_mutex_unlock(&link->lock);
}

void mcs_link_set_session(mcs_link_t *link, const mcs_hello_result_t *hello, bool ready)
{
    mcs_mutex_lock(&link->lock);
    if (link->serial == 0 || !mcs_id_equal(link->session.session, hello->session)) {
        /* A session that was only dropped and then resumed keeps its sequences: their outcomes are still kept by the
         * master. */
        bool same = mcs_id_equal(link->session.session, hello->session);
        link->serial = ++link->last_serial;
        if (!same) {
            link->next_seq = 1;
        }
    }
    link->session = *hello;
    link->ready = ready;
    __atomic_store_n(&link->lost_ns, 0, __ATOMIC_RELAXED); /* its answer: a hint, nothing hangs on its order */
    mcs_cond_broadcast(&link->changed);
    mcs_mutex_unlock(&link->lock);
}

void mcs_link_drop_session(mcs_link_t *link)
{
    mcs_mutex_lock(&link->lock);
    link->serial = 0;
    link->ready = false;
    mcs_mutex_unlock(&link->lock);
}

void mcs_link_lost(mcs_link_t *link)
{
    __atomic_store_n(&link->lost_ns, mcs_now_ns(), __ATOMIC_RELAXED);
}

/* ---- waiting ---- */

/* One call's way through: its limits, and since when the master has not been reached. */
typedef struct attempt {
    mcs_io_t io;
    uint64_t down_since_ns; /* 0 = not yet failed */
    uint64_t backoff_ns;
    unsigned flags;
    mcs_id_t session; /* what the call is made in */
    uint64_t serial;
    uint64_t epoch;
} attempt_t;

static mcs_status_t check_limits(const mcs_link_t *link, const attempt_t *attempt)
{
    if (__atomic_load_n(&link->cancel, __ATOMIC_ACQUIRE) != 0) {
        return MCS_ERR_CLOSED;
    }
    if (mcs_deadline_passed(attempt->io.deadline_ns)) {
        return MCS_ERR_RPC_TIMEOUT;
    }
    return attempt->io.interruptible && mcs_interrupt_pending() ? MCS_ERR_INTERRUPTED : MCS_OK;
}

/* Waits a slice, or until something in the link changed. Entered and left with the lock held; the hook is asked without
 * it. */
MCS_NO_TSA static mcs_status_t wait_changed_locked(mcs_link_t *link, const attempt_t *attempt)
{
    uint64_t slice_end = mcs_now_ns() + WAIT_SLICE;
    mcs_cond_wait_until(&link->changed, &link->lock, MCS_MIN(slice_end, attempt->io.deadline_ns));
    mcs_mutex_unlock(&link->lock);
    mcs_status_t status = check_limits(link, attempt);
    mcs_mutex_lock(&link->lock);
    return status;
}

/* Called after a failure to reach the master: sleeps the backoff, or gives up. */
static mcs_status_t back_off(mcs_link_t *link, attempt_t *attempt)
{
    uint64_t now = mcs_now_ns();
    uint64_t lost_ns = __atomic_load_n(&link->lost_ns, __ATOMIC_RELAXED);
    if (attempt->down_since_ns == 0) {
        attempt->down_since_ns = lost_ns != 0 && lost_ns < now ? lost_ns : now;
        attempt->backoff_ns = BACKOFF_MIN;
    }
    if (now - attempt->down_since_ns >= MCS_LINK_DOWN_MS * MCS_NS_PER_MS) {
        return MCS_ERR_RPC_FAIL;
    }
    uint64_t until = MCS_MIN(now + attempt->backoff_ns, attempt->io.deadline_ns);
    attempt->backoff_ns = MCS_MIN(attempt->backoff_ns * 2, BACKOFF_MAX);
    mcs_status_t status = check_limits(link, attempt);
    mcs_mutex_lock(&link->lock);
    while (status == MCS_OK && mcs_now_ns() < until) {
        uint64_t deadline = attempt->io.deadline_ns;
        attempt->io.deadline_ns = until;
        status = wait_changed_locked(link, attempt);
        attempt->io.deadline_ns = deadline;
        if (status == MCS_ERR_RPC_TIMEOUT && until < deadline) {
            status = MCS_OK;
        }
    }
    mcs_mutex_unlock(&link->lock);
    return status;
}

/* ---- the pool ---- */

static void close_stale_locked(mcs_link_t *link, mcs_list_t *dead)
{
    MCS_LIST_FOR_EACH_SAFE(node, next, &link->idle)
    {
        pooled_t *pooled = MCS_CONTAINER_OF(node, pooled_t, node);
        if (pooled->serial != link->serial) {
            mcs_list_remove(node);
            mcs_list_push_tail(dead, node);
            link->open_count--;
        }
    }
}

/* May a call go out in the present session? */
static bool usable_locked(const mcs_link_t *link, const attempt_t *attempt)
{
    return link->serial != 0 && (link->ready || (attempt->flags & MCS_CALL_EARLY) != 0);
}

/* An idle connection, or a new closed one where there is room for it. MCS_ERR_AGAIN: all are busy. */
static mcs_status_t take_one_locked(mcs_link_t *link, pooled_t **pooled_out)
{
    if (!mcs_list_empty(&link->idle)) {
        *pooled_out = MCS_LIST_FIRST(&link->idle, pooled_t, node);
        mcs_list_remove(&(*pooled_out)->node);
        return MCS_OK;
    }
    if (link->open_count >= link->config.config->call_connections) {
        return MCS_ERR_AGAIN;
    }
    pooled_t *pooled = MCS_NEW(pooled_t);
    if (pooled == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_conn_init(&pooled->conn);
    mcs_list_init(&pooled->node);
    link->open_count++;
    *pooled_out = pooled;
    return MCS_OK;
}

/* An idle connection of the present session, or a new closed one; waits for a session and for room. */
static mcs_status_t check_out(mcs_link_t *link, attempt_t *attempt, pooled_t **pooled_out)
{
    mcs_list_t dead;
    mcs_list_init(&dead);
    pooled_t *pooled = NULL;
    mcs_status_t status = __atomic_load_n(&link->cancel, __ATOMIC_ACQUIRE) != 0 ? MCS_ERR_CLOSED : MCS_OK;
    uint64_t waiting_since = 0;
    mcs_mutex_lock(&link->lock);
    while (status == MCS_OK) {
        close_stale_locked(link, &dead);
        bool usable = usable_locked(link, attempt);
        status = usable ? take_one_locked(link, &pooled) : MCS_ERR_AGAIN;
        if (status != MCS_ERR_AGAIN) {
            break;
        }
        /* Without a session the master is as good as down; with one, all connections are only busy. */
        waiting_since = waiting_since == 0 ? mcs_now_ns() : waiting_since;
        bool down = !usable && mcs_now_ns() - waiting_since >= MCS_LINK_DOWN_MS * MCS_NS_PER_MS;
        status = down ? MCS_ERR_RPC_FAIL : wait_changed_locked(link, attempt);
    }
    if (pooled != NULL) {
        mcs_list_push_head(&link->busy, &pooled->node);
        attempt->session = link->session.session;
        attempt->serial = link->serial;
        attempt->epoch = link->session.epoch;
        *pooled_out = pooled;
    }
    mcs_mutex_unlock(&link->lock);
    destroy_all(&dead);
    return status;
}

static void check_in(mcs_link_t *link, pooled_t *pooled)
{
    mcs_mutex_lock(&link->lock);
    mcs_list_remove(&pooled->node);
    bool keep = mcs_conn_is_open(&pooled->conn) && pooled->serial == link->serial;
    if (keep) {
        mcs_list_push_head(&link->idle, &pooled->node);
    } else {
        link->open_count--;
    }
    mcs_cond_signal(&link->changed);
    mcs_mutex_unlock(&link->lock);
    if (!keep) {
        pooled_destroy(pooled);
    }
}

/* Connects and says hello. */
static mcs_status_t connect_call(mcs_link_t *link, pooled_t *pooled, attempt_t *attempt)
{
    char unix_address[MCS_UNIX_PATH_MAX + 8] = "";
    mcs_mutex_lock(&link->lock);
    if (link->session.unix_path[0] != '\0') {
        memcpy(unix_address, "unix:", 5);
        memcpy(unix_address + 5, link->session.unix_path, strlen(link->session.unix_path) + 1);
    }
    mcs_mutex_unlock(&link->lock);

    const mcs_client_config_t *config = link->config.config;
    mcs_io_t io = attempt->io;
    io.deadline_ns = MCS_MIN(io.deadline_ns, mcs_deadline_after_ms(config->connect_timeout_ms));
    mcs_status_t status = MCS_ERR_RPC_FAIL;
    if (unix_address[0] != '\0') {
        status = mcs_conn_open(&pooled->conn, unix_address, false, &io);
    }
    if (status == MCS_ERR_RPC_FAIL) {
        status = mcs_conn_open(&pooled->conn, link->address, config->ipv6, &io);
    }
    if (status != MCS_OK) {
        return status;
    }
    mcs_count(link->config.counters, connections, 1);
    mcs_hello_result_t result;
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CALL, .session = attempt->session};
    status = mcs_hello(&pooled->conn, link->config.self, &ask, &io, &result);
    if (status == MCS_OK && result.epoch > attempt->epoch && mcs_id_equal(result.session, attempt->session)) {
        status = MCS_ERR_AGAIN; /* the control connection goes on under the new epoch first */
    } else if (status == MCS_OK &&
               (result.epoch != attempt->epoch || !mcs_id_equal(result.session, attempt->session))) {
        /* Another master than that of the control connection (rule 12: epochs agree): the session is settled there
         * first. */
        status = MCS_ERR_SESSION_ENDED;
    }
    if (status != MCS_OK) {
        mcs_conn_close(&pooled->conn);
        return status;
    }
    pooled->serial = attempt->serial;
    return MCS_OK;
}

/* ---- sequences ---- */

static bool repeatable_in_new_session(mcs_verb_t verb)
{
    return verb != MCS_VERB_PUT_END && verb != MCS_VERB_PUT_REVOKE && verb != MCS_VERB_PUT_NOW;
}

/* Done twice these undo what others did in between, and no answer would say so. Only the master and session that had
 * the request know whether it was done. */
static bool is_done_once(mcs_verb_t verb)
{
    return verb == MCS_VERB_REMOVE || verb == MCS_VERB_REMOVE_REGEX || verb == MCS_VERB_REMOVE_ALL ||
           verb == MCS_VERB_REPLICA_CLEAR;
}

/* Gives the call its sequence in the session it is about to be sent in. */
static mcs_status_t take_sequence(mcs_link_t *link, mcs_call_t *call, const attempt_t *attempt, in_flight_t *mine)
{
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&link->lock);
    bool other_session = mine->seq != 0 && !mcs_id_equal(mine->session, attempt->session);
    bool other_master = other_session || (mine->seq != 0 && mine->epoch != attempt->epoch);
    if (link->serial != attempt->serial) {
        status = MCS_ERR_AGAIN; /* replaced since the check-out */
    } else if (other_session && !repeatable_in_new_session(call->verb)) {
        status = MCS_ERR_SESSION_ENDED;
    } else if (other_master && call->repeated && is_done_once(call->verb)) {
        status = MCS_ERR_RPC_FAIL;
    } else {
        if (mine->seq == 0 || other_session) {
            mcs_list_remove(&mine->node);
            mine->seq = link->next_seq++;
            mine->session = attempt->session;
            mcs_list_push_tail(&link->sequences, &mine->node);
        }
        mine->epoch = attempt->epoch;
        /* Nodes of an older session may still stand before ours: they say nothing about this one. */
        uint64_t ack = mine->seq;
        MCS_LIST_FOR_EACH(node, &link->sequences)
        {
            const in_flight_t *other = MCS_CONTAINER_OF(node, in_flight_t, node);
            if (mcs_id_equal(other->session, attempt->session)) {
                ack = MCS_MIN(ack, other->seq);
                break;
            }
        }
        call->sequence->seq = mine->seq;
        call->sequence->ack = ack;
    }
    mcs_mutex_unlock(&link->lock);
    return status;
}

static void end_sequence(mcs_link_t *link, in_flight_t *mine)
{
    if (mine->seq != 0) {
        mcs_mutex_lock(&link->lock);
        mcs_list_remove(&mine->node);
        mcs_mutex_unlock(&link->lock);
    }
}

/* ---- one exchange ---- */

static void *arena_alloc(void *arg, size_t size)
{
    return mcs_arena_alloc(arg, size);
}

static void arena_free(void *arg, void *ptr)
{
    (void)arg;
    (void)ptr;
}

void mcs_reply_init(mcs_reply_t *reply)
{
    mcs_arena_init(&reply->arena, 4096, REPLY_ARENA);
    reply->message = NULL;
}

void mcs_reply_fini(mcs_reply_t *reply)
{
    mcs_arena_fini(&reply->arena);
    reply->message = NULL;
}

static mcs_status_t take_reply(const mcs_call_t *call, const mcs_frame_t *frame, mcs_reply_t *reply)
{
    if (frame->header.status != MCS_OK) {
        char detail[320];
        mcs_error_detail(frame, detail, sizeof(detail));
        mcs_debug(AREA, "%s op " MCS_OP_FMT ": %s %s", mcs_verb_name(call->verb), MCS_OP_ARGS(frame->header.id), detail,
                  mcs_status_name(frame->header.status));
        return (mcs_status_t)frame->header.status;
    }
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &reply->arena};
    reply->message = protobuf_c_message_unpack(call->reply_type, &allocator, frame->header.length, frame->payload);
    return reply->message != NULL ? MCS_OK : MCS_ERR_PROTOCOL;
}

/* Sends the request and reads its reply. MCS_ERR_PROTOCOL, MCS_ERR_RPC_FAIL, MCS_ERR_RPC_TIMEOUT … are the
 * connection's; *answered says that the result is the master's own. */
static mcs_status_t exchange(const mcs_link_t *link, pooled_t *pooled, mcs_call_t *call, const attempt_t *attempt,
                             mcs_reply_t *reply, bool *answered)
{
    mcs_conn_t *conn = &pooled->conn;
    mcs_frame_header_t header = {
        .kind = MCS_FRAME_REQUEST, .verb = (uint16_t)call->verb, .id = mcs_op_next(), .epoch = attempt->epoch};
    uint8_t *payload = mcs_conn_prepare(conn, &header, protobuf_c_message_get_packed_size(call->request));
    if (payload == NULL) {
        *answered = true; /* nothing was sent */
        return conn->out.failed == MCS_ERR_NO_MEMORY ? MCS_ERR_NO_MEMORY : MCS_ERR_LIMIT;
    }
    protobuf_c_message_pack(call->request, payload);
    if (call->sent_ns == 0) {
        call->sent_ns = mcs_now_ns();
    }
    mcs_status_t status = mcs_conn_flush(conn, &attempt->io);
    mcs_frame_t frame;
    if (status == MCS_OK) {
        status = mcs_conn_receive(conn, MCS_FRAME_MAX, &attempt->io, &frame);
    }
    mcs_debug(AREA, "%s op " MCS_OP_FMT " at %s: %s", mcs_verb_name(call->verb), MCS_OP_ARGS(header.id), link->address,
              status == MCS_OK ? "answered" : mcs_status_name(status));
    if (status != MCS_OK) {
        return status;
    }
    if (frame.header.kind != MCS_FRAME_REPLY || frame.header.id != header.id || frame.header.verb != header.verb ||
        !mcs_status_known(frame.header.status)) {
        return MCS_ERR_PROTOCOL;
    }
    status = take_reply(call, &frame, reply);
    *answered = status != MCS_ERR_PROTOCOL;
    return status;
}

/* One try: connection, sequence, exchange. */
static mcs_status_t try_call(mcs_link_t *link, mcs_call_t *call, attempt_t *attempt, in_flight_t *mine,
                             mcs_reply_t *reply, bool *answered)
{
    pooled_t *pooled = NULL;
    mcs_status_t status = check_out(link, attempt, &pooled);
    if (status != MCS_OK) {
        *answered = true; /* limits and RPC_FAIL after the wait for a session: final */
        return status;
    }
    if (!mcs_conn_is_open(&pooled->conn)) {
        status = connect_call(link, pooled, attempt);
    }
    if (status == MCS_OK && call->sequence != NULL) {
        status = take_sequence(link, call, attempt, mine);
        *answered = status != MCS_OK && status != MCS_ERR_AGAIN; /* final */
    }
    if (status == MCS_OK) {
        status = exchange(link, pooled, call, attempt, reply, answered);
        if (!*answered) {
            mcs_conn_close(&pooled->conn); /* its reply may still come: never to the next call */
        }
    }
    check_in(link, pooled);
    return status;
}

/* What to do about a failure that is not the master's answer: MCS_OK = try again. */
static mcs_status_t judge(mcs_link_t *link, const mcs_call_t *call, attempt_t *attempt, mcs_status_t failure)
{
    if (failure == MCS_ERR_PROTOCOL) {
        mcs_error(AREA, "%s: what answers at %s is not a master: %s", mcs_verb_name(call->verb), link->address,
                  mcs_status_name(MCS_ERR_PROTOCOL));
        return MCS_ERR_RPC_FAIL;
    }
    if (failure == MCS_ERR_SESSION_ENDED) {
        link->config.session_refused(link->config.session_refused_arg, attempt->session);
    } else if (failure == MCS_ERR_RPC_FAIL) {
        mcs_count(link->config.counters, rpc_repeats, 1);
    } else if (failure == MCS_ERR_RPC_TIMEOUT && !mcs_deadline_passed(attempt->io.deadline_ns)) {
        return MCS_ERR_RPC_TIMEOUT; /* the connect timeout is the shorter one */
    } else if (failure != MCS_ERR_AGAIN) {
        return failure;
    }
    return back_off(link, attempt);
}

/* The hook has ended the call. True: go on without it for a little while. */
static bool finish_interrupted(mcs_call_t *call, attempt_t *attempt)
{
    if ((call->flags & MCS_CALL_FINISH) == 0 || call->interrupted) {
        return false;
    }
    call->interrupted = true;
    attempt->io.interruptible = false;
    attempt->io.deadline_ns = MCS_MIN(attempt->io.deadline_ns, mcs_deadline_after_ms(FINISH_MS));
    return true;
}

static attempt_t begin_call(const mcs_link_t *link, mcs_call_t *call)
{
    int64_t limit_ms = call->timeout_ms != 0 ? call->timeout_ms : link->config.config->rpc_timeout_ms;
    call->sent_ns = 0;
    call->interrupted = false;
    call->repeated = false;
    call->session = (mcs_id_t){0, 0};
    return (attempt_t){
        .flags = call->flags,
        .io.deadline_ns = mcs_deadline_after_ms(limit_ms),
        .io.cancel = &link->cancel,
        .io.spin_ns = link->spin_ns,
        .io.interruptible = (call->flags & MCS_CALL_NO_INTERRUPT) == 0,
    };
}

/* The session ended between two requests of a connection that had said hello for it: a call that does no harm in the
 * next one goes on there. */
static bool goes_on_in_next_session(const mcs_call_t *call, mcs_status_t answer)
{
    return answer == MCS_ERR_SESSION_ENDED && (call->sequence == NULL || repeatable_in_new_session(call->verb));
}

mcs_status_t mcs_link_call(mcs_link_t *link, mcs_call_t *call, mcs_reply_t *reply)
{
    attempt_t attempt = begin_call(link, call);
    in_flight_t mine = {.seq = 0};
    mcs_list_init(&mine.node);
    mcs_reply_init(reply);
    mcs_count(link->config.counters, rpc_calls, 1);

    mcs_status_t status;
    for (;;) {
        bool answered = false;
        status = try_call(link, call, &attempt, &mine, reply, &answered);
        call->session = attempt.session;
        call->repeated = call->repeated || (!answered && call->sent_ns != 0);
        if (status == MCS_ERR_INTERRUPTED && finish_interrupted(call, &attempt)) {
            continue;
        }
        if (answered && !goes_on_in_next_session(call, status)) {
            break;
        }
        status = judge(link, call, &attempt, status);
        if (status != MCS_OK) {
            break;
        }
        mcs_reply_fini(reply);
        mcs_reply_init(reply);
    }
    end_sequence(link, &mine);
    mcs_metrics_rpc(link->config.metrics, (unsigned)call->verb, call->sent_ns);
    if (status != MCS_OK && call->interrupted) {
        status = MCS_ERR_INTERRUPTED;
    }
    if (status != MCS_OK) {
        reply->message = NULL;
        if (mcs_status_scope(status) == MCS_SCOPE_MASTER) {
            mcs_count(link->config.counters, rpc_failures, 1);
        }
    }
    return status;
}
