/* Loops, threads and accepting; see rpc_server.h. Listening is in rpc_listen.c, a connection's life in rpc_conn.c.
 *
 * Accepting is done by hand on loop 0 (uv_poll + accept4) and the descriptor handed over: SO_REUSEPORT would spread few
 * connections unevenly, and libuv cannot move a handle between loops. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "master/rpc_internal.h"
#include "master/rpc_listen.h"

#define ACCEPTS_A_TURN  64
#define TIMEOUT_TICK_MS 250

bool mcs_i_rpc_may_log(mcs_rpc_server_t *server)
{
    uint64_t second = mcs_now_ns() / MCS_NS_PER_SEC;
    if (__atomic_exchange_n(&server->log_second, second, __ATOMIC_RELAXED) != second) {
        __atomic_store_n(&server->log_count, 0, __ATOMIC_RELAXED);
    }
    return __atomic_add_fetch(&server->log_count, 1, __ATOMIC_RELAXED) <= 10;
}

static mcs_rpc_loop_t *least_loaded(mcs_rpc_server_t *server)
{
    mcs_rpc_loop_t *best = &server->loops[0];
    uint32_t best_count = UINT32_MAX;
    for (uint32_t i = 0; i < server->loop_count; i++) {
        uint32_t count = __atomic_load_n(&server->loops[i].conn_count, __ATOMIC_RELAXED);
        if (count < best_count) {
            best_count = count;
            best = &server->loops[i];
        }
    }
    return best;
}

static void peer_text(const struct sockaddr_storage *addr, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (addr->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)addr;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(text, size, "%s:%u", host, ntohs(v4->sin_port));
    } else if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)addr;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(text, size, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(text, size, "unix");
    }
}

/* Takes the descriptor. */
static void hand_over(mcs_rpc_server_t *server, int fd, const struct sockaddr_storage *addr)
{
    mcs_rpc_inbox_entry_t entry = {.fd = fd, .is_unix = addr->ss_family == AF_UNIX};
    peer_text(addr, entry.peer, sizeof(entry.peer));
    if (__atomic_load_n(&server->conn_count, __ATOMIC_RELAXED) >= server->config.max_connections) {
        if (mcs_i_rpc_may_log(server)) {
            mcs_warn(RPC_AREA, "connection of %s refused: %u are open: %s", entry.peer, server->config.max_connections,
                     mcs_status_name(MCS_ERR_LIMIT));
        }
        close(fd);
        return;
    }
    if (!entry.is_unix && server->config.tcp_nodelay) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    mcs_rpc_loop_t *loop = least_loaded(server);
    __atomic_fetch_add(&server->conn_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&loop->conn_count, 1, __ATOMIC_RELAXED);
    bool taken = false;
    mcs_mutex_lock(&loop->lock);
    if (!loop->stopping && !loop->gone && loop->inbox_len < RPC_INBOX_MAX) {
        loop->inbox[loop->inbox_len++] = entry;
        uv_async_send(&loop->wake);
        taken = true;
    }
    mcs_mutex_unlock(&loop->lock);
    if (!taken) {
        __atomic_fetch_sub(&server->conn_count, 1, __ATOMIC_RELAXED);
        __atomic_fetch_sub(&loop->conn_count, 1, __ATOMIC_RELAXED);
        close(fd);
    }
}

/* Out of descriptors: the waiting peer would spin the level-triggered poll for ever, so take it with the spare one and
 * refuse it. */
static void refuse_one(mcs_rpc_server_t *server, int listener)
{
    if (mcs_i_rpc_may_log(server)) {
        mcs_warn(RPC_AREA, "connection refused: no file descriptors left");
    }
    if (server->spare_fd >= 0) {
        close(server->spare_fd);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            close(fd);
        }
        server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
}

static void on_listener(uv_poll_t *poll, int poll_status, int events)
{
    mcs_rpc_server_t *server = (mcs_rpc_server_t *)poll->data;
    (void)events;
    if (poll_status < 0) {
        return;
    }
    int listener = poll == &server->tcp_poll ? server->tcp_fd : server->unix_fd;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage addr = {0};
        socklen_t len = sizeof(addr);
        int fd = accept4(listener, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            if (listener == server->unix_fd) {
                addr.ss_family = AF_UNIX; /* an unbound peer has no address at all */
            }
            hand_over(server, fd, &addr);
        } else if (errno == EMFILE || errno == ENFILE) {
            refuse_one(server, listener);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void take_inbox(mcs_rpc_loop_t *loop)
{
    for (;;) {
        mcs_rpc_inbox_entry_t entry;
        mcs_mutex_lock(&loop->lock);
        bool any = loop->inbox_len > 0;
        if (any) {
            entry = loop->inbox[--loop->inbox_len];
        }
        mcs_mutex_unlock(&loop->lock);
        if (!any) {
            return;
        }
        mcs_i_rpc_conn_open(loop, &entry);
    }
}

static void take_dirty(mcs_rpc_loop_t *loop)
{
    mcs_list_t batch;
    mcs_list_init(&batch);
    mcs_mutex_lock(&loop->lock);
    while (!mcs_list_empty(&loop->dirty)) {
        mcs_list_t *node = loop->dirty.next;
        mcs_list_remove(node);
        mcs_list_push_tail(&batch, node);
    }
    mcs_mutex_unlock(&loop->lock);
    while (!mcs_list_empty(&batch)) {
        mcs_rpc_conn_t *conn = MCS_LIST_FIRST(&batch, mcs_rpc_conn_t, dirty_node);
        mcs_list_remove(&conn->dirty_node);
        mcs_mutex_lock(&conn->lock);
        conn->in_dirty = false; /* from here on a sender queues it anew */
        mcs_mutex_unlock(&conn->lock);
        mcs_i_rpc_conn_service(conn);
        mcs_rpc_conn_put(conn);
    }
}

/* Closes every handle of the loop; uv_run returns when the last close callback has run. */
static void end_loop(mcs_rpc_loop_t *loop)
{
    if (loop->ending) {
        return;
    }
    loop->ending = true;
    take_inbox(loop); /* so that their descriptors are closed with the rest */
    while (!mcs_list_empty(&loop->conns)) {
        mcs_i_rpc_conn_end(MCS_LIST_FIRST(&loop->conns, mcs_rpc_conn_t, node), "the master stops", false);
    }
    mcs_mutex_lock(&loop->lock);
    loop->gone = true;
    mcs_mutex_unlock(&loop->lock);
    take_dirty(loop);
    if (loop->index == 0) {
        if (loop->server->tcp_watched) {
            uv_close((uv_handle_t *)&loop->server->tcp_poll, NULL);
        }
        if (loop->server->unix_watched) {
            uv_close((uv_handle_t *)&loop->server->unix_poll, NULL);
        }
    }
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->check, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
}

static void on_wake(uv_async_t *wake)
{
    mcs_rpc_loop_t *loop = (mcs_rpc_loop_t *)wake->data;
    take_inbox(loop);
    take_dirty(loop);
    mcs_mutex_lock(&loop->lock);
    bool stopping = loop->stopping;
    mcs_mutex_unlock(&loop->lock);
    if (stopping) {
        end_loop(loop);
    }
}

/* Runs after each poll: every socket that was readable when the poll began has been served. */
static void on_polled(uv_check_t *check)
{
    mcs_rpc_loop_t *loop = (mcs_rpc_loop_t *)check->data;
    uint64_t polls = __atomic_add_fetch(&loop->polls, 1, __ATOMIC_RELEASE);
    if (polls < __atomic_load_n(&loop->poll_target, __ATOMIC_ACQUIRE) && !loop->ending) {
        uv_async_send(&loop->wake);
    }
}

static void on_timer(uv_timer_t *timer)
{
    mcs_rpc_loop_t *loop = (mcs_rpc_loop_t *)timer->data;
    uint64_t now = mcs_now_ns();
    MCS_LIST_FOR_EACH_SAFE(node, next, &loop->conns)
    {
        mcs_i_rpc_conn_check_timeouts(MCS_CONTAINER_OF(node, mcs_rpc_conn_t, node), now);
    }
}

static void loop_thread(void *arg)
{
    mcs_rpc_loop_t *loop = (mcs_rpc_loop_t *)arg;
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    loop->server->config.ops.thread_end(loop->server->config.ops.arg);
}

static mcs_status_t init_loop(mcs_rpc_server_t *server, mcs_rpc_loop_t *loop, uint32_t index)
{
    loop->server = server;
    loop->index = index;
    mcs_list_init(&loop->conns);
    mcs_list_init(&loop->dirty);
    mcs_mutex_init(&loop->lock, MCS_RANK_RPC_LOOP, "rpc loop");
    if (uv_loop_init(&loop->uv) != 0) {
        mcs_mutex_fini(&loop->lock);
        return MCS_ERR_NO_MEMORY;
    }
    int rc = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (rc != 0) {
        uv_loop_close(&loop->uv);
        mcs_mutex_fini(&loop->lock);
        return MCS_ERR_NO_MEMORY;
    }
    uv_check_init(&loop->uv, &loop->check);
    uv_timer_init(&loop->uv, &loop->timer);
    loop->wake.data = loop;
    loop->check.data = loop;
    loop->timer.data = loop;
    uv_check_start(&loop->check, on_polled);
    uv_timer_start(&loop->timer, on_timer, TIMEOUT_TICK_MS, TIMEOUT_TICK_MS);
    loop->handles_ready = true;
    return MCS_OK;
}

static mcs_status_t watch_listener(mcs_rpc_server_t *server, uv_poll_t *poll, int fd, bool *watched)
{
    if (uv_poll_init(&server->loops[0].uv, poll, fd) != 0) {
        return MCS_ERR_INTERNAL;
    }
    *watched = true;
    poll->data = server;
    return uv_poll_start(poll, UV_READABLE, on_listener) == 0 ? MCS_OK : MCS_ERR_INTERNAL;
}

static void close_listeners(mcs_rpc_server_t *server)
{
    if (server->tcp_fd >= 0) {
        close(server->tcp_fd);
        server->tcp_fd = -1;
    }
    if (server->unix_fd >= 0) {
        close(server->unix_fd);
        server->unix_fd = -1;
    }
    if (server->unix_path[0] != '\0') {
        unlink(server->unix_path);
        server->unix_path[0] = '\0';
    }
    if (server->spare_fd >= 0) {
        close(server->spare_fd);
        server->spare_fd = -1;
    }
}

mcs_status_t mcs_rpc_server_create(const mcs_rpc_config_t *config, mcs_rpc_server_t **server_out)
{
    mcs_rpc_server_t *server = MCS_NEW(mcs_rpc_server_t);
    if (server == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    server->config = *config;
    server->tcp_fd = -1;
    server->unix_fd = -1;
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    server->loops = MCS_NEW_ARRAY(mcs_rpc_loop_t, config->threads);
    if (server->loops == NULL) {
        goto err_destroy;
    }
    if (config->tcp) {
        status =
            mcs_rpc_listen_tcp("rpc", config->address, config->interface, config->port, &server->tcp_fd, &server->port);
        if (status != MCS_OK) {
            goto err_destroy;
        }
    }
    if (config->ipc_dir[0] != '\0') {
        status = mcs_rpc_listen_unix(config->ipc_dir, &server->unix_fd, server->unix_path, sizeof(server->unix_path));
        if (status != MCS_OK) {
            goto err_destroy;
        }
    }
    for (uint32_t i = 0; i < config->threads; i++) {
        status = init_loop(server, &server->loops[i], i);
        if (status != MCS_OK) {
            goto err_destroy;
        }
        server->loop_count++;
    }
    *server_out = server;
    return MCS_OK;

err_destroy:
    mcs_rpc_server_destroy(server);
    return status;
}

mcs_status_t mcs_rpc_server_start(mcs_rpc_server_t *server)
{
    mcs_status_t status = MCS_OK;
    if (server->tcp_fd >= 0) {
        status = watch_listener(server, &server->tcp_poll, server->tcp_fd, &server->tcp_watched);
    }
    if (status == MCS_OK && server->unix_fd >= 0) {
        status = watch_listener(server, &server->unix_poll, server->unix_fd, &server->unix_watched);
    }
    for (uint32_t i = 0; status == MCS_OK && i < server->loop_count; i++) {
        char name[24];
        snprintf(name, sizeof(name), "mcs-rpc-%u", i);
        status = mcs_thread_start(&server->loops[i].thread, name, loop_thread, &server->loops[i]);
        if (status == MCS_OK) {
            server->started++;
        }
    }
    if (status != MCS_OK) {
        mcs_error(RPC_AREA, "rpc threads not started: %s", mcs_status_name(status));
        mcs_rpc_server_stop(server);
    }
    return status;
}

void mcs_rpc_server_stop(mcs_rpc_server_t *server)
{
    /* Loop 0 first: it accepts, and hands to the others until it is gone. */
    for (uint32_t i = 0; i < server->started; i++) {
        mcs_rpc_loop_t *loop = &server->loops[i];
        mcs_mutex_lock(&loop->lock);
        loop->stopping = true;
        if (!loop->gone) {
            uv_async_send(&loop->wake);
        }
        mcs_mutex_unlock(&loop->lock);
        mcs_thread_join(&loop->thread);
    }
    server->started = 0;
    for (uint32_t i = 0; i < server->loop_count; i++) {
        mcs_rpc_loop_t *loop = &server->loops[i];
        if (!loop->ending) { /* it never ran: its handles are closed here, before the descriptors they watch */
            end_loop(loop);
            uv_run(&loop->uv, UV_RUN_DEFAULT);
        }
    }
    close_listeners(server);
}

void mcs_rpc_server_destroy(mcs_rpc_server_t *server)
{
    if (server == NULL) {
        return;
    }
    mcs_rpc_server_stop(server);
    for (uint32_t i = 0; i < server->loop_count; i++) {
        uv_loop_close(&server->loops[i].uv);
        mcs_mutex_fini(&server->loops[i].lock);
    }
    mcs_free(server->loops);
    mcs_free(server);
}

uint16_t mcs_rpc_server_port(const mcs_rpc_server_t *server)
{
    return server->port;
}

const char *mcs_rpc_server_unix_path(const mcs_rpc_server_t *server)
{
    return server->unix_path;
}

uint32_t mcs_rpc_server_connections(const mcs_rpc_server_t *server)
{
    return __atomic_load_n(&server->conn_count, __ATOMIC_RELAXED);
}

void mcs_rpc_server_poll_begin(mcs_rpc_server_t *server)
{
    for (uint32_t i = 0; i < server->loop_count; i++) {
        mcs_rpc_loop_t *loop = &server->loops[i];
        /* One poll may be under way already; the second to end from now has begun after this call. */
        __atomic_store_n(&loop->poll_target, __atomic_load_n(&loop->polls, __ATOMIC_ACQUIRE) + 2, __ATOMIC_RELEASE);
        mcs_mutex_lock(&loop->lock);
        if (!loop->gone) {
            uv_async_send(&loop->wake);
        }
        mcs_mutex_unlock(&loop->lock);
    }
}

bool mcs_rpc_server_poll_done(const mcs_rpc_server_t *server)
{
    for (uint32_t i = 0; i < server->loop_count; i++) {
        const mcs_rpc_loop_t *loop = &server->loops[i];
        if (__atomic_load_n(&loop->polls, __ATOMIC_ACQUIRE) < __atomic_load_n(&loop->poll_target, __ATOMIC_ACQUIRE)) {
            return false;
        }
    }
    return true;
}
