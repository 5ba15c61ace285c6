/* The owner's UNIX socket and its thread: mappers come, get descriptors, go, or die. See owner.h and ipc.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/fork.h"
#include "core/base/ipc_listen.h"
#include "core/base/log.h"
#include "core/segment/owner_internal.h"

#define RESCAN_MIN_NS (1 * MCS_NS_PER_MS)
#define RESCAN_MAX_NS (20 * MCS_NS_PER_MS)
#define HELLO_LIMIT   (2 * MCS_NS_PER_SEC)
#define NO_FDS_PAUSE  (100 * MCS_NS_PER_MS)
#define FIXED_FDS     2

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* ---- listening ---- */

mcs_status_t mcs_i_owner_listen(mcs_owner_t *owner)
{
    char name[40];
    char why[256];
    snprintf(name, sizeof(name), "%016llx%016llx", (unsigned long long)owner->config.client.hi,
             (unsigned long long)owner->config.client.lo);
    mcs_ipc_listen_t at = {
        .folder = owner->config.ipc_dir, .prefix = "o-", .name = name, .type = SOCK_SEQPACKET, .backlog = 128};
    mcs_status_t status =
        mcs_ipc_listen(&at, &owner->listener, owner->ipc_path, sizeof(owner->ipc_path), why, sizeof(why));
    if (status != MCS_OK) {
        mcs_warn(OWNER_AREA, "%s", why);
        return status;
    }
    mcs_fork_guard_add(owner->listener);
    return MCS_OK;
}

/* ---- connections ---- */

static void conn_free(mcs_owner_t *owner, owner_conn_t *conn)
{
    mcs_list_remove(&conn->node);
    owner->conn_count--;
    if (conn->page != NULL) {
        mcs_slot_page_t *slots = conn->page->region->base;
        __atomic_store_n(&slots->closed, 1, __ATOMIC_SEQ_CST);
        mcs_mutex_lock(&owner->lock);
        conn->page->orphan = true;
        mcs_mutex_unlock(&owner->lock);
    }
    mcs_fork_guard_remove(conn->fd);
    close(conn->fd);
    mcs_free(conn);
}

void mcs_i_owner_close_conns(mcs_owner_t *owner)
{
    while (!mcs_list_empty(&owner->conns)) {
        conn_free(owner, MCS_LIST_FIRST(&owner->conns, owner_conn_t, node));
    }
    if (owner->listener >= 0) {
        mcs_fork_guard_remove(owner->listener);
        close(owner->listener);
        owner->listener = -1;
        unlink(owner->ipc_path);
    }
}

static void accept_one(mcs_owner_t *owner)
{
    int fd = accept4(owner->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            /* The peer stays in the backlog: without a pause the loop would spin. */
            mcs_debug(OWNER_AREA, "no mapper taken now: %s", strerror(errno));
            owner->accept_after_ns = mcs_now_ns() + NO_FDS_PAUSE;
        }
        return;
    }
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);
    owner_conn_t *conn = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid() &&
        owner->conn_count < OWNER_CONNS_MAX) {
        conn = MCS_NEW(owner_conn_t);
    }
    if (conn == NULL) {
        mcs_debug(OWNER_AREA, "mapper of uid %u refused", (unsigned)cred.uid);
        close(fd);
        return;
    }
    conn->fd = fd;
    conn->pid = cred.pid;
    conn->hello_by_ns = mcs_now_ns() + HELLO_LIMIT;
    mcs_fork_guard_add(fd);
    mcs_list_push_tail(&owner->conns, &conn->node);
    owner->conn_count++;
}

/* One message with up to two descriptors. False: the connection is of no use any more. */
static bool answer_with(int fd, const void *message, size_t size, const int *fds, int fd_count)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MCS_IPC_FDS)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec iov = {(void *)(uintptr_t)message, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fd_count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)fd_count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * (size_t)fd_count);
    }
    ssize_t n;
    do {
        n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)size;
}

static bool answer(int fd, const mcs_ipc_answer_t *message, const int *fds, int fd_count)
{
    return answer_with(fd, message, sizeof(*message), fds, fd_count);
}

/* The process at the other end. Asked of the socket, the answer is exact; by number it could be another process by now,
 * which the older kernels' way leaves open for a process that connects and dies at once. */
static int open_pidfd(const owner_conn_t *conn)
{
    int pidfd = -1;
    socklen_t len = sizeof(pidfd);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) != 0) {
        pidfd = conn->pid > 0 ? (int)syscall(SYS_pidfd_open, conn->pid, 0) : -1;
    }
    if (pidfd >= 0) {
        fcntl(pidfd, F_SETFD, FD_CLOEXEC);
        mcs_fork_guard_add(pidfd);
    }
    return pidfd;
}

static bool refuse(const owner_conn_t *conn, mcs_ipc_answer_t *reply, mcs_status_t status)
{
    reply->status = status;
    (void)answer(conn->fd, reply, NULL, 0);
    return false;
}

static bool answer_hello(mcs_owner_t *owner, owner_conn_t *conn, const mcs_ipc_request_t *request,
                         mcs_ipc_answer_t *reply)
{
    if (conn->page != NULL || mcs_id_is_none(request->session)) {
        return refuse(conn, reply, MCS_ERR_SESSION_ENDED);
    }
    int pidfd = open_pidfd(conn);
    if (pidfd < 0) {
        mcs_debug(OWNER_AREA, "mapper %d refused: its process cannot be watched: %s", (int)conn->pid, strerror(errno));
        return refuse(conn, reply, MCS_ERR_NOT_SUPPORTED);
    }
    bool ended;
    conn->page = mcs_i_owner_add_page(owner, request->session, pidfd, &ended);
    if (conn->page == NULL) {
        return refuse(conn, reply, ended ? MCS_ERR_SESSION_ENDED : MCS_ERR_NO_MEMORY);
    }
    int fds[MCS_IPC_FDS] = {conn->page->region->fd, owner->revoked_region->fd};
    bool sent = answer(conn->fd, reply, fds, MCS_IPC_FDS);
    mcs_region_close_fd(conn->page->region);
    return sent;
}

static bool answer_far(const owner_conn_t *conn, const mcs_segment_t *segment)
{
    const mcs_mem_far_t *memory = mcs_segment_far(segment)->memory;
    mcs_ipc_far_t reply = {.magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .share = memory->share};
    return answer_with(conn->fd, &reply, sizeof(reply), &memory->fd, memory->fd >= 0 ? 1 : 0);
}

static bool answer_map(mcs_owner_t *owner, owner_conn_t *conn, const mcs_ipc_request_t *request,
                       mcs_ipc_answer_t *reply)
{
    if (conn->page == NULL) {
        return false;
    }
    mcs_segment_t *segment = NULL;
    mcs_mutex_lock(&owner->lock);
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, request->instance);
    if (entry != NULL && (request->op == MCS_IPC_MAP || mcs_segment_far(entry->segment) != NULL)) {
        segment = mcs_segment_get(entry->segment);
    }
    mcs_mutex_unlock(&owner->lock);
    if (segment == NULL) {
        reply->status = MCS_ERR_SEGMENT_NOT_FOUND;
        return answer(conn->fd, reply, NULL, 0);
    }
    reply->size = mcs_segment_near_size(segment);
    int fds[MCS_IPC_FDS] = {mcs_segment_fd(segment), mcs_segment_ctl_fd(segment)};
    bool sent = request->op == MCS_IPC_FAR ? answer_far(conn, segment) : answer(conn->fd, reply, fds, MCS_IPC_FDS);
    mcs_segment_put(segment);
    return sent;
}

/* False: the connection ends. */
static bool serve_one(mcs_owner_t *owner, owner_conn_t *conn)
{
    mcs_ipc_request_t request;
    ssize_t n = recv(conn->fd, &request, sizeof(request), MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    if (n != (ssize_t)sizeof(request) || request.magic != MCS_IPC_MAGIC || request.version != MCS_IPC_VERSION) {
        return false;
    }
    mcs_ipc_answer_t reply = {
        .magic = MCS_IPC_MAGIC,
        .version = MCS_IPC_VERSION,
        .owner = owner->config.client,
        .epoch = __atomic_load_n(&owner->epoch, __ATOMIC_RELAXED),
    };
    if (request.op == MCS_IPC_HELLO) {
        return answer_hello(owner, conn, &request, &reply);
    }
    return (request.op == MCS_IPC_MAP || request.op == MCS_IPC_FAR) && answer_map(owner, conn, &request, &reply);
}

/* ---- pages without a connection ---- */

static bool process_dead(const owner_page_t *page)
{
    struct pollfd pfd = {.fd = page->pidfd, .events = POLLIN};
    return poll(&pfd, 1, 0) > 0;
}

static bool no_slot_taken(const owner_page_t *page)
{
    const mcs_slot_page_t *slots = page->region->base;
    for (uint32_t i = 0; i < MCS_SLOTS_PER_PAGE; i++) {
        if (__atomic_load_n(&slots->slot[i], __ATOMIC_SEQ_CST) != 0) {
            return false;
        }
    }
    return true;
}

/* True: some are left, of processes that live and hold slots. */
static bool drop_orphans(mcs_owner_t *owner)
{
    mcs_list_t dead;
    mcs_list_init(&dead);
    bool left = false;
    mcs_mutex_lock(&owner->lock);
    MCS_LIST_FOR_EACH_SAFE(node, next, &owner->pages)
    {
        owner_page_t *page = MCS_CONTAINER_OF(node, owner_page_t, node);
        if (!page->orphan) {
            continue;
        }
        /* The page is closed: a slot that is taken after this look is given up again before it is used. */
        if (process_dead(page) || no_slot_taken(page)) {
            mcs_list_remove(node);
            mcs_list_push_tail(&dead, node);
            owner->page_count--;
        } else {
            left = true;
        }
    }
    mcs_mutex_unlock(&owner->lock);
    while (!mcs_list_empty(&dead)) {
        owner_page_t *page = MCS_LIST_FIRST(&dead, owner_page_t, node);
        mcs_list_remove(&page->node);
        mcs_i_owner_page_free(page);
    }
    return left;
}

/* ---- the thread ---- */

/* Two descriptors a connection: its socket, and its process, which may die while a child of it still has the socket. */
static uint32_t fill_poll(mcs_owner_t *owner)
{
    struct pollfd *fds = owner->fds;
    bool open = owner->conn_count < OWNER_CONNS_MAX && mcs_now_ns() >= owner->accept_after_ns;
    fds[0] = (struct pollfd){.fd = owner->wake.fd, .events = POLLIN};
    /* Full: a peer waits in the backlog instead of spinning the loop. */
    fds[1] = (struct pollfd){.fd = open ? owner->listener : -1, .events = POLLIN};
    uint32_t count = FIXED_FDS;
    MCS_LIST_FOR_EACH(node, &owner->conns)
    {
        const owner_conn_t *conn = MCS_CONTAINER_OF(node, owner_conn_t, node);
        fds[count++] = (struct pollfd){.fd = conn->fd, .events = POLLIN};
        fds[count++] = (struct pollfd){.fd = conn->page != NULL ? conn->page->pidfd : -1, .events = POLLIN};
    }
    return count;
}

static bool is_unwelcome(mcs_owner_t *owner, const owner_conn_t *conn)
{
    if (conn->page == NULL) {
        return mcs_now_ns() >= conn->hello_by_ns;
    }
    mcs_mutex_lock(&owner->lock);
    bool unwelcome = conn->page->unwelcome;
    mcs_mutex_unlock(&owner->lock);
    return unwelcome;
}

static void serve_ready(mcs_owner_t *owner)
{
    const struct pollfd *at = owner->fds + FIXED_FDS;
    MCS_LIST_FOR_EACH_SAFE(node, next, &owner->conns)
    {
        owner_conn_t *conn = MCS_CONTAINER_OF(node, owner_conn_t, node);
        bool dead = at[1].revents != 0;
        bool keep = at[0].revents == 0 || serve_one(owner, conn);
        at += 2;
        if (dead || !keep || is_unwelcome(owner, conn)) {
            conn_free(owner, conn);
        }
    }
    if ((owner->fds[1].revents & POLLIN) != 0) {
        accept_one(owner);
    }
}

/* Something to do by the clock alone: a hello that is awaited, a pause of the listener. */
static uint64_t next_look_ns(const mcs_owner_t *owner)
{
    bool waiting = mcs_now_ns() < owner->accept_after_ns;
    MCS_LIST_FOR_EACH(node, &owner->conns)
    {
        waiting = waiting || MCS_CONTAINER_OF(node, owner_conn_t, node)->page == NULL;
    }
    return waiting ? NO_FDS_PAUSE : MCS_NEVER;
}

void mcs_i_owner_main(void *arg)
{
    mcs_owner_t *owner = arg;
    uint64_t rescan_ns = MCS_NEVER;
    uint64_t gaps_ns = MCS_NEVER;
    while (__atomic_load_n(&owner->stop, __ATOMIC_ACQUIRE) == 0) {
        uint32_t count = fill_poll(owner);
        uint64_t wait_ns = MCS_MIN(MCS_MIN(rescan_ns, gaps_ns), next_look_ns(owner));
        struct timespec timeout = {0};
        if (wait_ns != MCS_NEVER) {
            timeout.tv_sec = (time_t)(wait_ns / MCS_NS_PER_SEC);
            timeout.tv_nsec = (long)(wait_ns % MCS_NS_PER_SEC);
        }
        int ready = ppoll(owner->fds, count, wait_ns == MCS_NEVER ? NULL : &timeout, NULL);
        if (ready < 0) {
            memset(owner->fds, 0, count * sizeof(*owner->fds)); /* EINTR: nothing is known */
        }
        if (owner->fds[0].revents != 0) {
            mcs_event_clear(&owner->wake);
            rescan_ns = MCS_NEVER; /* begins again with the shortest wait */
        }
        serve_ready(owner);
        bool orphans = drop_orphans(owner);
        bool pending = mcs_i_owner_rescan(owner);
        gaps_ns = mcs_i_owner_settle(owner);
        if (!orphans && !pending) {
            rescan_ns = MCS_NEVER;
        } else {
            rescan_ns = rescan_ns == MCS_NEVER ? RESCAN_MIN_NS : MCS_MIN(rescan_ns * 2, RESCAN_MAX_NS);
        }
    }
}
