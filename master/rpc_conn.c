/* One connection of the RPC server; see rpc_server.h.
 *
 * Input: one linear buffer that grows as bytes arrive (a header alone that announces 16 MiB costs nothing), frames
 * handled in place. Output: two buffers. Any thread appends whole frames to `pending` under the connection's lock; the
 * loop swaps it with `out`, which it owns, and writes. So a burst of replies is one system call, and no lock is held
 * across it. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "master/rpc_internal.h"

#define READ_CHUNK ((size_t)64 << 10)
/* Read from one connection per turn of its loop: nobody starves the others. */
#define READ_TURN ((size_t)1 << 20)
/* Buffers above this are given back to the heap when they run empty. */
#define KEEP_BUFFER ((size_t)256 << 10)
/* Times that reading is resumed before other connections have their turn. */
#define RESUME_TURNS 16
/* A connection's frames are handled for so long before the others of its loop have their turn: a batch in front of
 * them must not cost single requests more. */
#define HANDLE_NS (100 * MCS_NS_PER_US)

/* The connection whose frames this thread is handling: its replies are flushed together afterwards, without a wake-up.
 */
static _Thread_local mcs_rpc_conn_t *t_current;

static void update_events(mcs_rpc_conn_t *conn);

void mcs_rpc_conn_get(mcs_rpc_conn_t *conn)
{
    __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
}

void mcs_rpc_conn_put(mcs_rpc_conn_t *conn)
{
    if (conn == NULL || __atomic_sub_fetch(&conn->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    mcs_buf_fini(&conn->in);
    mcs_buf_fini(&conn->out);
    mcs_buf_fini(&conn->pending);
    mcs_mutex_fini(&conn->lock);
    mcs_free(conn);
}

void mcs_rpc_conn_set_greeted(mcs_rpc_conn_t *conn)
{
    conn->greeted = true;
}

bool mcs_rpc_conn_greeted(const mcs_rpc_conn_t *conn)
{
    return conn->greeted;
}

void mcs_rpc_conn_set_user(mcs_rpc_conn_t *conn, void *user)
{
    conn->user = user;
}

void *mcs_rpc_conn_user(const mcs_rpc_conn_t *conn)
{
    return conn->user;
}

uint64_t mcs_rpc_conn_id(const mcs_rpc_conn_t *conn)
{
    return conn->id;
}

const char *mcs_rpc_conn_peer(const mcs_rpc_conn_t *conn)
{
    return conn->peer;
}

uint32_t mcs_rpc_conn_parked_add(mcs_rpc_conn_t *conn, int32_t delta)
{
    return __atomic_add_fetch(&conn->parked, (uint32_t)delta, __ATOMIC_RELAXED);
}

size_t mcs_rpc_conn_queued(mcs_rpc_conn_t *conn)
{
    mcs_mutex_lock(&conn->lock);
    size_t bytes = conn->pending.len;
    mcs_mutex_unlock(&conn->lock);
    return bytes + __atomic_load_n(&conn->out_bytes, __ATOMIC_RELAXED);
}

/* Puts the connection on its loop's list of those with something to write. */
static void mark_dirty_locked(mcs_rpc_conn_t *conn) MCS_REQUIRES(&conn->lock)
{
    if (conn->in_dirty || t_current == conn) {
        return;
    }
    mcs_rpc_loop_t *loop = conn->loop;
    mcs_mutex_lock(&loop->lock);
    if (!loop->gone) {
        conn->in_dirty = true;
        mcs_rpc_conn_get(conn);
        mcs_list_push_tail(&loop->dirty, &conn->dirty_node);
        uv_async_send(&loop->wake);
    }
    mcs_mutex_unlock(&loop->lock);
}

mcs_status_t mcs_rpc_conn_send(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const void *payload, size_t len)
{
    uint8_t head[MCS_FRAME_HEADER];
    mcs_frame_header_t h = *header;
    if (len > MCS_FRAME_MAX) {
        return MCS_ERR_LIMIT;
    }
    h.length = (uint32_t)len;
    mcs_frame_encode(&h, head);
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&conn->lock);
    if (conn->closed || conn->close_wanted) {
        status = MCS_ERR_CLOSED;
        goto out;
    }
    if (conn->pending.len + __atomic_load_n(&conn->out_bytes, __ATOMIC_RELAXED) + sizeof(head) + len >
        MCS_RPC_OUT_MAX) {
        status = MCS_ERR_LIMIT;
    } else {
        status = mcs_buf_reserve(&conn->pending, sizeof(head) + len);
    }
    if (status == MCS_OK) {
        mcs_buf_append(&conn->pending, head, sizeof(head));
        mcs_buf_append(&conn->pending, payload, len);
    } else {
        /* A lost reply would be waited for in vain: the peer must see the connection end. */
        conn->close_wanted = true;
    }
    mark_dirty_locked(conn);
out:
    mcs_mutex_unlock(&conn->lock);
    return status;
}

void mcs_rpc_conn_close(mcs_rpc_conn_t *conn)
{
    mcs_mutex_lock(&conn->lock);
    if (!conn->closed) {
        conn->close_wanted = true;
        mark_dirty_locked(conn);
    }
    mcs_mutex_unlock(&conn->lock);
}

static void on_poll_closed(uv_handle_t *handle)
{
    mcs_rpc_conn_t *conn = (mcs_rpc_conn_t *)handle->data;
    close(conn->fd);
    conn->fd = -1;
    mcs_rpc_conn_put(conn);
}

void mcs_i_rpc_conn_end(mcs_rpc_conn_t *conn, const char *why, bool breach)
{
    if (conn->closing) {
        return;
    }
    conn->closing = true;
    mcs_rpc_server_t *server = conn->loop->server;
    if (breach) {
        mcs_metric_add(server->config.metrics, rpc_protocol_errors, 1);
        if (mcs_i_rpc_may_log(server)) {
            mcs_warn(RPC_AREA, "connection %llu of %s closed: %s", (unsigned long long)conn->id, conn->peer, why);
        }
    } else {
        mcs_debug(RPC_AREA, "connection %llu of %s ended: %s", (unsigned long long)conn->id, conn->peer, why);
    }
    mcs_mutex_lock(&conn->lock);
    conn->closed = true;
    mcs_mutex_unlock(&conn->lock);
    mcs_list_remove(&conn->node);
    __atomic_fetch_sub(&conn->loop->conn_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&server->conn_count, 1, __ATOMIC_RELAXED);
    uv_poll_stop(&conn->poll);
    server->config.ops.closed(server->config.ops.arg, conn);
    uv_close((uv_handle_t *)&conn->poll, on_poll_closed);
}

/* Writes until the socket is full. False: the connection is lost. */
static bool write_out(mcs_rpc_conn_t *conn)
{
    for (;;) {
        if (conn->out_done == conn->out.len) {
            if (conn->out.cap > KEEP_BUFFER) {
                mcs_buf_fini(&conn->out);
                mcs_buf_init(&conn->out, MCS_RPC_OUT_MAX);
            } else {
                mcs_buf_reset(&conn->out);
            }
            conn->out_done = 0;
            mcs_mutex_lock(&conn->lock);
            mcs_buf_t empty = conn->out;
            conn->out = conn->pending;
            conn->pending = empty;
            __atomic_store_n(&conn->out_bytes, conn->out.len, __ATOMIC_RELAXED);
            mcs_mutex_unlock(&conn->lock);
            if (conn->out.len == 0) {
                return true;
            }
        }
        ssize_t n = send(conn->fd, conn->out.bytes + conn->out_done, conn->out.len - conn->out_done,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EAGAIN;
        }
        conn->out_done += (size_t)n;
        __atomic_store_n(&conn->out_bytes, conn->out.len - conn->out_done, __ATOMIC_RELAXED);
    }
}

/* Gives a frame to the server's hook. False: the connection has ended. */
static bool handle_frame(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header)
{
    mcs_rpc_server_t *server = conn->loop->server;
    mcs_rpc_conn_t *outer = t_current;
    t_current = conn;
    mcs_status_t status = server->config.ops.frame(server->config.ops.arg, conn, header,
                                                   conn->in.bytes + conn->in_used + MCS_FRAME_HEADER);
    t_current = outer;
    conn->in_used += MCS_FRAME_HEADER + (size_t)header->length;
    if (status != MCS_OK) {
        write_out(conn); /* a refusal that was queued just now, as far as it goes */
        mcs_i_rpc_conn_end(conn, mcs_status_name(status), true);
        return false;
    }
    conn->frame_start_ns = 0;
    if (mcs_rpc_conn_queued(conn) > MCS_RPC_OUT_HIGH) {
        if (!write_out(conn)) {
            mcs_i_rpc_conn_end(conn, "write failed", false);
            return false;
        }
        conn->stop_reading = mcs_rpc_conn_queued(conn) > MCS_RPC_OUT_HIGH;
    }
    return true;
}

/* After a turn: an empty buffer begins anew, and a frame that has begun to come has its time from now on. */
static void settle_in(mcs_rpc_conn_t *conn)
{
    if (conn->in_used < conn->in.len) {
        conn->frame_start_ns = conn->frame_start_ns == 0 ? mcs_now_ns() : conn->frame_start_ns;
        return;
    }
    conn->in_used = 0;
    if (conn->in.cap > KEEP_BUFFER) {
        mcs_buf_fini(&conn->in);
        mcs_buf_init(&conn->in, MCS_FRAME_MAX + MCS_FRAME_HEADER + READ_CHUNK);
    } else {
        mcs_buf_reset(&conn->in);
    }
}

/* Handles the whole frames at the front of `in`, or those of a turn: then `turn_over` is set. False: the connection has
 * ended. */
static bool handle_frames(mcs_rpc_conn_t *conn)
{
    uint64_t end_ns = mcs_now_ns() + HANDLE_NS;
    conn->turn_over = false;
    while (!conn->stop_reading && !conn->turn_over && conn->in.len - conn->in_used >= MCS_FRAME_HEADER) {
        mcs_frame_header_t header;
        uint32_t limit = conn->greeted ? MCS_FRAME_MAX : MCS_FRAME_HELLO_MAX;
        mcs_status_t status = mcs_frame_decode(conn->in.bytes + conn->in_used, limit, &header);
        if (status != MCS_OK || header.kind != MCS_FRAME_REQUEST) {
            mcs_i_rpc_conn_end(conn, status == MCS_ERR_INVALID_VERSION ? "another frame version" : "not a request",
                               true);
            return false;
        }
        if (conn->in.len - conn->in_used < MCS_FRAME_HEADER + (size_t)header.length) {
            break;
        }
        if (!handle_frame(conn, &header)) {
            return false;
        }
        conn->turn_over = conn->in_used < conn->in.len && mcs_now_ns() >= end_ns;
    }
    settle_in(conn);
    return true;
}

/* Reads at most a turn's worth. False: the connection has ended. */
static bool read_in(mcs_rpc_conn_t *conn)
{
    size_t turn = 0;
    while (!conn->stop_reading && !conn->turn_over && turn < READ_TURN) {
        if (conn->in_used > 0) {
            mcs_buf_consume(&conn->in, conn->in_used);
            conn->in_used = 0;
        }
        if (mcs_buf_reserve(&conn->in, READ_CHUNK) != MCS_OK) {
            mcs_i_rpc_conn_end(conn, "no memory for its input", false);
            return false;
        }
        size_t room = MCS_MIN(conn->in.cap - conn->in.len, READ_TURN);
        ssize_t n = recv(conn->fd, conn->in.bytes + conn->in.len, room, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            return true;
        }
        if (n <= 0) {
            mcs_i_rpc_conn_end(conn, n == 0 ? "closed by the peer" : strerror(errno), false);
            return false;
        }
        conn->in.len += (size_t)n;
        turn += (size_t)n;
        conn->last_read_ns = mcs_now_ns();
        if (!handle_frames(conn)) {
            return false;
        }
        if ((size_t)n < room) {
            return true; /* most likely empty now; level-triggered polling tells if not */
        }
    }
    return true;
}

/* Writes what there is, and goes on with what was put off. */
static void end_turn(mcs_rpc_conn_t *conn)
{
    for (unsigned turn = 1;; turn++) {
        if (!write_out(conn)) {
            mcs_i_rpc_conn_end(conn, "write failed", false);
            return;
        }
        mcs_mutex_lock(&conn->lock);
        bool ending = conn->close_wanted;
        /* Queued between the write and this look; nothing more comes after a close. A full socket has had its try. */
        bool late = ending && conn->pending.len > 0 && conn->out_done == conn->out.len;
        bool again = conn->stop_reading && conn->pending.len + conn->out_bytes < MCS_RPC_OUT_HIGH / 2;
        if (!ending && ((again && turn == RESUME_TURNS) || conn->turn_over)) {
            mark_dirty_locked(conn); /* the others of this loop first */
        }
        mcs_mutex_unlock(&conn->lock);
        if (late) {
            continue;
        }
        if (ending) {
            mcs_i_rpc_conn_end(conn, "closed by the master", false);
            return;
        }
        if (!again || turn == RESUME_TURNS || conn->turn_over) {
            break;
        }
        /* What was read before the stop lies in the buffer, and no event will tell of it. It may stop again, and be
         * written out again before an event is asked for: hence the loop. */
        conn->stop_reading = false;
        if (!handle_frames(conn)) {
            return;
        }
    }
    update_events(conn);
}

void mcs_i_rpc_conn_service(mcs_rpc_conn_t *conn)
{
    if (!conn->closing && (!conn->turn_over || handle_frames(conn))) {
        end_turn(conn);
    }
}

static void on_event(uv_poll_t *poll, int poll_status, int events)
{
    mcs_rpc_conn_t *conn = (mcs_rpc_conn_t *)poll->data;
    if (conn->closing) {
        return;
    }
    if (poll_status < 0) {
        mcs_i_rpc_conn_end(conn, uv_strerror(poll_status), false);
        return;
    }
    if (conn->turn_over ? !handle_frames(conn) : (events & UV_READABLE) != 0 && !read_in(conn)) {
        return;
    }
    end_turn(conn);
}

static void update_events(mcs_rpc_conn_t *conn)
{
    int events = (conn->stop_reading ? 0 : UV_READABLE) | (conn->out_done < conn->out.len ? UV_WRITABLE : 0);
    if (events != conn->events) {
        conn->events = events;
        uv_poll_start(&conn->poll, events, on_event);
    }
}

void mcs_i_rpc_conn_check_timeouts(mcs_rpc_conn_t *conn, uint64_t now_ns)
{
    uint64_t idle = conn->loop->server->config.idle_timeout_ns;
    if (!conn->greeted) {
        if (now_ns - conn->opened_ns >= MCS_RPC_HELLO_TIMEOUT_NS) {
            mcs_i_rpc_conn_end(conn, "no hello", true);
        }
    } else if (conn->frame_start_ns != 0 && !conn->stop_reading &&
               now_ns - MCS_MAX(conn->frame_start_ns, conn->last_read_ns) >= MCS_RPC_HALF_FRAME_TIMEOUT_NS) {
        mcs_i_rpc_conn_end(conn, "half a frame", true);
    } else if (idle != 0 && now_ns - conn->last_read_ns >= idle && !conn->stop_reading &&
               __atomic_load_n(&conn->parked, __ATOMIC_RELAXED) == 0) {
        mcs_i_rpc_conn_end(conn, "idle", false);
    }
}

void mcs_i_rpc_conn_open(mcs_rpc_loop_t *loop, const mcs_rpc_inbox_entry_t *entry)
{
    mcs_rpc_conn_t *conn = MCS_NEW(mcs_rpc_conn_t);
    if (conn == NULL) {
        goto err_close;
    }
    conn->refs = 1;
    conn->loop = loop;
    conn->fd = entry->fd;
    conn->id = __atomic_add_fetch(&loop->server->next_conn_id, 1, __ATOMIC_RELAXED);
    memcpy(conn->peer, entry->peer, sizeof(conn->peer));
    mcs_mutex_init(&conn->lock, MCS_RANK_CONN_OUT, "rpc connection");
    mcs_list_init(&conn->node);
    mcs_list_init(&conn->dirty_node);
    mcs_buf_init(&conn->in, MCS_FRAME_MAX + MCS_FRAME_HEADER + READ_CHUNK);
    mcs_buf_init(&conn->out, MCS_RPC_OUT_MAX);
    mcs_buf_init(&conn->pending, MCS_RPC_OUT_MAX);
    conn->opened_ns = mcs_now_ns();
    conn->last_read_ns = conn->opened_ns;
    if (uv_poll_init(&loop->uv, &conn->poll, conn->fd) != 0) {
        goto err_free;
    }
    conn->poll.data = conn;
    mcs_list_push_tail(&loop->conns, &conn->node);
    mcs_metric_add(loop->server->config.metrics, rpc_connections, 1);
    update_events(conn);
    return;

err_free:
    mcs_rpc_conn_put(conn);
err_close:
    close(entry->fd);
    __atomic_fetch_sub(&loop->conn_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&loop->server->conn_count, 1, __ATOMIC_RELAXED);
    mcs_warn(RPC_AREA, "connection of %s refused: %s", entry->peer, mcs_status_name(MCS_ERR_NO_MEMORY));
}
