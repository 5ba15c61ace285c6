/* A mapper's connection to an owner; see ipc.h. Set-up path. Everything that comes from the other side is checked (rule
 * 10). */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fork.h"
#include "core/base/log.h"
#include "core/segment/ipc.h"
#include "core/segment/mapper_internal.h"

void mcs_i_mapper_conn_put(mapper_conn_t *conn)
{
    if (conn == NULL || __atomic_sub_fetch(&conn->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    if (conn->fd >= 0) {
        mcs_fork_guard_remove(conn->fd);
        close(conn->fd);
    }
    mcs_region_put(conn->slots);
    mcs_region_put(conn->revoked);
    mcs_mutex_fini(&conn->lock);
    mcs_free(conn);
}

static mcs_status_t wait_for(int fd, short events, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = events};
        int ready = poll(&pfd, 1, mcs_deadline_poll_ms(deadline_ns));
        if (ready > 0) {
            return MCS_OK;
        }
        if (ready == 0 && mcs_deadline_passed(deadline_ns)) {
            return MCS_ERR_TRANSFER_FAIL;
        }
        if (ready < 0 && errno != EINTR) {
            return MCS_ERR_TRANSFER_FAIL;
        }
    }
}

static void close_fds(const int *fds, int count)
{
    for (int i = 0; i < count; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

/* Both answers begin alike. */
_Static_assert(offsetof(mcs_ipc_answer_t, status) == offsetof(mcs_ipc_far_t, status), "wire ABI");

/* One message of `size` bytes and up to MCS_IPC_FDS descriptors, which are the caller's when MCS_OK. */
static mcs_status_t receive(int fd, uint64_t deadline_ns, void *message, size_t size, int fds[MCS_IPC_FDS],
                            int *count_out)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MCS_IPC_FDS)];
        struct cmsghdr align;
    } control;
    mcs_status_t status = wait_for(fd, POLLIN, deadline_ns);
    if (status != MCS_OK) {
        return status;
    }
    struct iovec iov = {message, size};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int got = 0;
    for (struct cmsghdr *head = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL; head != NULL; head = CMSG_NXTHDR(&msg, head)) {
        if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
            size_t count = MCS_MIN((head->cmsg_len - CMSG_LEN(0)) / sizeof(int), (size_t)MCS_IPC_FDS);
            memcpy(fds, CMSG_DATA(head), count * sizeof(int));
            got = (int)count;
        }
    }
    /* A refusal is always the short one. */
    const mcs_ipc_answer_t *answer = message;
    bool refusal = n == (ssize_t)sizeof(*answer) && answer->status != MCS_OK;
    if ((n != (ssize_t)size && !refusal) || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
        answer->magic != MCS_IPC_MAGIC || answer->version != MCS_IPC_VERSION) {
        status = n == 0 ? MCS_ERR_TRANSFER_FAIL : MCS_ERR_PROTOCOL;
    } else if (answer->status != MCS_OK) {
        status = answer->status == MCS_ERR_SEGMENT_NOT_FOUND ? MCS_ERR_SEGMENT_NOT_FOUND : MCS_ERR_TRANSFER_FAIL;
    }
    if (status != MCS_OK) {
        close_fds(fds, got);
        return status;
    }
    *count_out = got;
    return MCS_OK;
}

static mcs_status_t send_request(int fd, const mcs_ipc_request_t *request, uint64_t deadline_ns)
{
    mcs_status_t status = wait_for(fd, POLLOUT, deadline_ns);
    if (status == MCS_OK &&
        send(fd, request, sizeof(*request), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(*request)) {
        status = MCS_ERR_TRANSFER_FAIL;
    }
    return status;
}

/* `fds` are the caller's when MCS_OK: all of them. */
static mcs_status_t ask(int fd, const mcs_ipc_request_t *request, uint64_t deadline_ns, mcs_ipc_answer_t *answer,
                        int fds[MCS_IPC_FDS])
{
    int count = 0;
    mcs_status_t status = send_request(fd, request, deadline_ns);
    if (status == MCS_OK) {
        status = receive(fd, deadline_ns, answer, sizeof(*answer), fds, &count);
    }
    if (status == MCS_OK && count != MCS_IPC_FDS) {
        close_fds(fds, count);
        status = MCS_ERR_PROTOCOL;
    }
    return status;
}

static mcs_status_t open_socket(const char *path, int *fd_out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(address.sun_path)) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    memcpy(address.sun_path, path, len);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    struct ucred cred = {0};
    socklen_t cred_len = sizeof(cred);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) != 0 || cred.uid != geteuid()) {
        mcs_debug(MAPPER_AREA, "owner at %s: %s", path, strerror(errno));
        close(fd);
        return MCS_ERR_TRANSFER_FAIL;
    }
    *fd_out = fd;
    return MCS_OK;
}

static mcs_status_t say_hello(mapper_conn_t *conn, mcs_id_t client, uint64_t deadline_ns)
{
    const mcs_ipc_request_t hello = {
        .magic = MCS_IPC_MAGIC,
        .version = MCS_IPC_VERSION,
        .op = MCS_IPC_HELLO,
        .client = client,
        .session = conn->session,
    };
    mcs_ipc_answer_t answer;
    int fds[MCS_IPC_FDS];
    mcs_status_t status = ask(conn->fd, &hello, deadline_ns, &answer, fds);
    if (status != MCS_OK) {
        return status;
    }
    if (!mcs_id_equal(answer.owner, conn->owner)) {
        status = MCS_ERR_PROTOCOL; /* another process at the same path */
    }
    if (status == MCS_OK) {
        status = mcs_region_map(fds[0], sizeof(mcs_slot_page_t), true, &conn->slots);
    }
    if (status == MCS_OK) {
        status = mcs_region_map(fds[1], sizeof(mcs_revoked_table_t), false, &conn->revoked);
    }
    if (status == MCS_OK && ((const mcs_slot_page_t *)conn->slots->base)->magic != MCS_SLOT_PAGE_MAGIC) {
        status = MCS_ERR_PROTOCOL;
    }
    close_fds(fds, MCS_IPC_FDS);
    return status;
}

mcs_status_t mcs_i_mapper_connect(mcs_id_t client, mcs_id_t session, const mcs_mapper_peer_t *peer,
                                  uint64_t deadline_ns, mapper_conn_t **conn_out)
{
    mapper_conn_t *conn = MCS_NEW(mapper_conn_t);
    if (conn == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    conn->refs = 1;
    conn->fd = -1;
    conn->owner = peer->owner;
    conn->session = session;
    mcs_mutex_init(&conn->lock, MCS_RANK_IPC, "mapper connection");
    mcs_list_init(&conn->node);
    mcs_status_t status = open_socket(peer->ipc_path, &conn->fd);
    if (status == MCS_OK) {
        mcs_fork_guard_add(conn->fd);
        status = say_hello(conn, client, deadline_ns);
    }
    if (status != MCS_OK) {
        mcs_i_mapper_conn_put(conn);
        return status == MCS_ERR_NO_MEMORY ? status : MCS_ERR_TRANSFER_FAIL;
    }
    *conn_out = conn;
    return MCS_OK;
}

/* An answer that comes late must not be taken for the next one's. The thread sees the end. */
static mcs_status_t judge_locked(mapper_conn_t *conn, mcs_status_t status)
{
    if (status == MCS_OK || status == MCS_ERR_SEGMENT_NOT_FOUND) {
        return status;
    }
    __atomic_store_n(&conn->lost, 1, __ATOMIC_RELEASE);
    shutdown(conn->fd, SHUT_RDWR);
    return MCS_ERR_TRANSFER_FAIL;
}

/* What the control page says, which its owner may change at any time: taken once. */
static mcs_status_t take_control(const mcs_region_t *control, mcs_id_t instance, uint64_t size,
                                 const mcs_ipc_answer_t *answer, mapper_got_t *got)
{
    const mcs_segment_ctl_t *page = control->base;
    mcs_segment_ctl_t ctl;
    memcpy(&ctl, page, sizeof(ctl));
    bool far = ctl.shift == MCS_EXTENT_FAR_SHIFT;
    bool fits = far ? answer->size >= ctl.size >> MCS_EXTENT_FAR_SHIFT && ctl.size % MCS_EXTENT_FAR_ALIGN == 0
                    : ctl.shift == 0 && ctl.size == answer->size;
    if (ctl.magic != MCS_SEGMENT_CTL_MAGIC || ctl.instance_hi != instance.hi || ctl.instance_lo != instance.lo ||
        !fits || ctl.size < size) {
        return MCS_ERR_PROTOCOL;
    }
    got->size = ctl.size;
    got->shift = ctl.shift;
    return MCS_OK;
}

mcs_status_t mcs_i_mapper_map(mapper_conn_t *conn, mcs_id_t instance, uint64_t size, uint64_t deadline_ns,
                              mapper_got_t *got_out)
{
    const mcs_ipc_request_t request = {
        .magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .op = MCS_IPC_MAP, .instance = instance};
    mcs_ipc_answer_t answer;
    mapper_got_t got = {0};
    int fds[MCS_IPC_FDS];
    mcs_mutex_lock(&conn->lock);
    mcs_status_t status = judge_locked(conn, ask(conn->fd, &request, deadline_ns, &answer, fds));
    mcs_mutex_unlock(&conn->lock);
    if (status != MCS_OK) {
        return status;
    }
    status = mcs_region_map(fds[1], sizeof(mcs_segment_ctl_t), true, &got.control);
    if (status == MCS_OK) {
        status = take_control(got.control, instance, size, &answer, &got);
    }
    if (status == MCS_OK) {
        status = mcs_region_map(fds[0], answer.size, true, &got.memory);
    }
    close_fds(fds, MCS_IPC_FDS);
    if (status != MCS_OK) {
        mcs_region_put(got.memory);
        mcs_region_put(got.control);
        return status == MCS_ERR_NO_MEMORY ? status : MCS_ERR_TRANSFER_FAIL;
    }
    *got_out = got;
    return MCS_OK;
}

mcs_status_t mcs_i_mapper_ask_far(mapper_conn_t *conn, mcs_id_t instance, uint64_t deadline_ns,
                                  mcs_mem_share_t *share_out, int *fd_out)
{
    const mcs_ipc_request_t request = {
        .magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .op = MCS_IPC_FAR, .instance = instance};
    mcs_ipc_far_t answer;
    int fds[MCS_IPC_FDS];
    int count = 0;
    mcs_mutex_lock(&conn->lock);
    mcs_status_t status = send_request(conn->fd, &request, deadline_ns);
    if (status == MCS_OK) {
        status = receive(conn->fd, deadline_ns, &answer, sizeof(answer), fds, &count);
    }
    status = judge_locked(conn, status);
    mcs_mutex_unlock(&conn->lock);
    if (status != MCS_OK) {
        return status;
    }
    if (count > 1) {
        close_fds(fds, count);
        return MCS_ERR_TRANSFER_FAIL;
    }
    *share_out = answer.share;
    *fd_out = count == 1 ? fds[0] : -1;
    return MCS_OK;
}
