/* See conn.h. */
#include "core/client/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/fork.h"
#include "core/base/log.h"
#include "core/base/parse.h"
#include "core/client/interrupt.h"

#define AREA         "link"
#define POLL_SLICE   100 /* ms between two looks at the hook and at cancel */
#define READ_AHEAD   ((size_t)65536)
#define KEEP_BUFFERS ((size_t)1 << 20) /* buffers larger than this are given back after use */

void mcs_conn_init(mcs_conn_t *conn)
{
    memset(conn, 0, sizeof(*conn));
    conn->fd = -1;
    mcs_buf_init(&conn->in, (size_t)MCS_FRAME_MAX + MCS_FRAME_HEADER + READ_AHEAD);
    mcs_buf_init(&conn->out, (size_t)MCS_FRAME_MAX + MCS_FRAME_HEADER);
}

void mcs_conn_close(mcs_conn_t *conn)
{
    if (conn->fd >= 0) {
        mcs_fork_guard_remove(conn->fd);
        close(conn->fd);
        conn->fd = -1;
    }
    conn->taken = 0;
    mcs_buf_reset(&conn->in);
    mcs_buf_reset(&conn->out);
}

void mcs_conn_fini(mcs_conn_t *conn)
{
    mcs_conn_close(conn);
    mcs_buf_fini(&conn->in);
    mcs_buf_fini(&conn->out);
}

/* Waits for `events`, at most one slice. MCS_OK: look again. */
static mcs_status_t wait_slice(const mcs_conn_t *conn, short events, const mcs_io_t *io)
{
    if (io->cancel != NULL && __atomic_load_n(io->cancel, __ATOMIC_ACQUIRE) != 0) {
        return MCS_ERR_CLOSED;
    }
    int left = mcs_deadline_poll_ms(io->deadline_ns);
    if (left == 0) {
        return MCS_ERR_RPC_TIMEOUT;
    }
    struct pollfd pfd = {.fd = conn->fd, .events = events};
    int ready = poll(&pfd, 1, left < 0 || left > POLL_SLICE ? POLL_SLICE : left);
    if (ready <= 0 && io->interruptible && mcs_interrupt_pending()) {
        return MCS_ERR_INTERRUPTED;
    }
    return MCS_OK;
}

/* ---- connecting ---- */

static mcs_status_t connect_to(mcs_conn_t *conn, int family, const struct sockaddr *address, socklen_t len,
                               const mcs_io_t *io)
{
    conn->fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (conn->fd < 0) {
        return MCS_ERR_RPC_FAIL;
    }
    mcs_fork_guard_add(conn->fd);
    if (connect(conn->fd, address, len) == 0) {
        return MCS_OK;
    }
    /* A UNIX socket with a full backlog says EAGAIN and cannot be waited for: that is a failure to be tried again. */
    if (errno != EINPROGRESS) {
        mcs_conn_close(conn);
        return MCS_ERR_RPC_FAIL;
    }
    for (;;) {
        struct pollfd pfd = {.fd = conn->fd, .events = POLLOUT};
        if (poll(&pfd, 1, 0) > 0) {
            break;
        }
        mcs_status_t status = wait_slice(conn, POLLOUT, io);
        if (status != MCS_OK) {
            mcs_conn_close(conn);
            return status;
        }
    }
    int error = 0;
    socklen_t error_len = sizeof(error);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &error_len) != 0 || error != 0) {
        mcs_debug(AREA, "connect: %s", strerror(error));
        mcs_conn_close(conn);
        return MCS_ERR_RPC_FAIL;
    }
    return MCS_OK;
}

static mcs_status_t open_unix(mcs_conn_t *conn, const char *path, const mcs_io_t *io)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(address.sun_path)) {
        return MCS_ERR_RPC_FAIL;
    }
    memcpy(address.sun_path, path, len + 1);
    return connect_to(conn, AF_UNIX, (const struct sockaddr *)&address, sizeof(address), io);
}

static void tune_tcp(int fd)
{
    /* A dead host is noticed by keep-alive; a stopped process only by deadlines. */
    const int on = 1;
    const int idle_s = 5;
    const int interval_s = 2;
    const int count = 4;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static mcs_status_t open_tcp(mcs_conn_t *conn, const char *text, bool ipv6, const mcs_io_t *io)
{
    mcs_hostport_t target;
    if (mcs_parse_hostport(text, &target) != MCS_OK) {
        return MCS_ERR_RPC_FAIL;
    }
    char port[8];
    snprintf(port, sizeof(port), "%u", target.has_port ? (unsigned)target.port : MCS_MASTER_PORT);
    struct addrinfo hints = {.ai_family = ipv6 ? AF_INET6 : AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(target.host, port, &hints, &list);
    if (rc != 0) {
        mcs_debug(AREA, "%s: %s", target.host, gai_strerror(rc));
        return MCS_ERR_RPC_FAIL;
    }
    mcs_status_t status = MCS_ERR_RPC_FAIL;
    for (const struct addrinfo *ai = list; ai != NULL && status == MCS_ERR_RPC_FAIL; ai = ai->ai_next) {
        status = connect_to(conn, ai->ai_family, ai->ai_addr, ai->ai_addrlen, io);
    }
    freeaddrinfo(list);
    if (status == MCS_OK) {
        tune_tcp(conn->fd);
    }
    return status;
}

mcs_status_t mcs_conn_open(mcs_conn_t *conn, const char *address, bool ipv6, const mcs_io_t *io)
{
    mcs_conn_close(conn);
    return strncmp(address, "unix:", 5) == 0 ? open_unix(conn, address + 5, io) : open_tcp(conn, address, ipv6, io);
}

/* ---- sending ---- */

uint8_t *mcs_conn_prepare(mcs_conn_t *conn, const mcs_frame_header_t *header, size_t length)
{
    mcs_buf_reset(&conn->out);
    if (length > MCS_FRAME_MAX) {
        return NULL;
    }
    uint8_t *frame = mcs_buf_extend(&conn->out, MCS_FRAME_HEADER + length);
    if (frame == NULL) {
        return NULL;
    }
    mcs_frame_header_t full = *header;
    full.length = (uint32_t)length;
    mcs_frame_encode(&full, frame);
    return frame + MCS_FRAME_HEADER;
}

static ssize_t send_some(const mcs_conn_t *conn, size_t sent)
{
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        errno = ECONNRESET;
        return -1;
    }
    return send(conn->fd, conn->out.bytes + sent, conn->out.len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
}

mcs_status_t mcs_conn_flush(mcs_conn_t *conn, const mcs_io_t *io)
{
    size_t sent = 0;
    while (sent < conn->out.len) {
        ssize_t n = send_some(conn, sent);
        if (n >= 0) {
            sent += (size_t)n;
            continue;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            return MCS_ERR_RPC_FAIL;
        }
        mcs_status_t status = wait_slice(conn, POLLOUT, io);
        if (status != MCS_OK) {
            return status;
        }
    }
    if (conn->out.cap > KEEP_BUFFERS) {
        mcs_buf_fini(&conn->out);
        mcs_buf_init(&conn->out, (size_t)MCS_FRAME_MAX + MCS_FRAME_HEADER);
    }
    return MCS_OK;
}

/* ---- receiving ---- */

static ssize_t receive_some(mcs_conn_t *conn, size_t room)
{
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        errno = ECONNRESET;
        return -1;
    }
    return recv(conn->fd, conn->in.bytes + conn->in.len, room, MSG_DONTWAIT);
}

/* Reads what is there, up to `want` bytes in the buffer and some more. MCS_ERR_AGAIN when nothing came. */
static mcs_status_t fill(mcs_conn_t *conn, size_t want)
{
    size_t room = want - conn->in.len + READ_AHEAD;
    mcs_status_t status = mcs_buf_reserve(&conn->in, room);
    if (status != MCS_OK) {
        return status;
    }
    ssize_t n = receive_some(conn, room);
    if (n > 0) {
        conn->in.len += (size_t)n;
        return MCS_OK;
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? MCS_ERR_AGAIN : MCS_ERR_RPC_FAIL;
}

/* The frame at the front of the buffer: MCS_ERR_AGAIN and how many bytes are wanted when it is not whole. */
static mcs_status_t take_frame(mcs_conn_t *conn, uint32_t max_payload, mcs_frame_t *frame_out, size_t *want_out)
{
    *want_out = MCS_FRAME_HEADER;
    if (conn->in.len < MCS_FRAME_HEADER) {
        return MCS_ERR_AGAIN;
    }
    mcs_frame_header_t header;
    mcs_status_t status = mcs_frame_decode(conn->in.bytes, max_payload, &header);
    if (status != MCS_OK) {
        return status == MCS_ERR_INVALID_VERSION ? MCS_ERR_PROTOCOL : status;
    }
    *want_out = MCS_FRAME_HEADER + (size_t)header.length;
    if (conn->in.len < *want_out) {
        return MCS_ERR_AGAIN;
    }
    frame_out->header = header;
    frame_out->payload = conn->in.bytes + MCS_FRAME_HEADER;
    return MCS_OK;
}

/* Drops the frame that the last receive returned. */
static void drop_taken(mcs_conn_t *conn)
{
    size_t taken = conn->taken;
    conn->taken = 0;
    if (taken == conn->in.len && conn->in.cap > KEEP_BUFFERS) {
        size_t limit = conn->in.limit;
        mcs_buf_fini(&conn->in);
        mcs_buf_init(&conn->in, limit);
    } else if (taken > 0) {
        mcs_buf_consume(&conn->in, taken);
    }
}

mcs_status_t mcs_conn_poll(mcs_conn_t *conn, uint32_t max_payload, mcs_frame_t *frame_out)
{
    drop_taken(conn);
    for (;;) {
        size_t want;
        mcs_status_t status = take_frame(conn, max_payload, frame_out, &want);
        if (status == MCS_OK) {
            conn->taken = want;
        }
        if (status != MCS_ERR_AGAIN) {
            return status;
        }
        status = fill(conn, want);
        if (status != MCS_OK) {
            return status;
        }
    }
}

mcs_status_t mcs_conn_receive(mcs_conn_t *conn, uint32_t max_payload, const mcs_io_t *io, mcs_frame_t *frame_out)
{
    mcs_status_t status = mcs_conn_poll(conn, max_payload, frame_out);
    if (status != MCS_ERR_AGAIN) {
        return status;
    }
    mcs_spin_wait_t wait = mcs_spin_begin(&conn->spin, io->spin_ns, mcs_now_ns());
    do {
        if (!mcs_spin_again(&conn->spin, &wait, mcs_now_ns())) {
            status = wait_slice(conn, POLLIN, io);
            if (status != MCS_OK) {
                break;
            }
        }
        status = mcs_conn_poll(conn, max_payload, frame_out);
    } while (status == MCS_ERR_AGAIN);
    mcs_spin_end(&conn->spin, &wait, status == MCS_OK);
    return status;
}
