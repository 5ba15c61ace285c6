/* See ucx_fds.h. */
#include "ucx_transport/ucx_fds.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/log.h"

#define AREA       "ucx"
#define WORKER_FDS 8
/* Ports of all workers of this process, 0 = free. Lock-free: a child reads them between fork and exec. */
#define PORTS_MAX 256
static uint16_t g_ports[PORTS_MAX];
static pthread_once_t g_once = PTHREAD_ONCE_INIT;

typedef union name {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} name_t;

/* The local port of a TCP socket, 0 = it is none. */
static uint16_t local_port(int fd)
{
    name_t name;
    socklen_t len = sizeof(name);
    int type = 0;
    socklen_t type_len = sizeof(type);
    if (getsockname(fd, &name.any, &len) != 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0 ||
        type != SOCK_STREAM) {
        return 0;
    }
    return name.any.sa_family == AF_INET    ? ntohs(name.v4.sin_port)
           : name.any.sa_family == AF_INET6 ? ntohs(name.v6.sin6_port)
                                            : 0;
}

/* Is a connection's other end where that worker is? Workers on the loopback do not say their host. */
static bool leads_to(const name_t *name, const void *address, size_t len)
{
    if (name->any.sa_family == AF_INET) {
        const struct in_addr *host = &name->v4.sin_addr;
        return ntohl(host->s_addr) >> 24 == 127 || memmem(address, len, host, sizeof(*host)) != NULL;
    }
    const struct in6_addr *host = &name->v6.sin6_addr;
    return name->any.sa_family == AF_INET6 &&
           (IN6_IS_ADDR_LOOPBACK(host) || memmem(address, len, host, sizeof(*host)) != NULL);
}

static bool is_listening(int fd)
{
    int listening = 0;
    socklen_t len = sizeof(listening);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening != 0;
}

/* One past the highest descriptor to look at. */
static int fd_end(void)
{
    long limit = sysconf(_SC_OPEN_MAX);
    return limit > 0 && limit < UCXT_FDS_SEEN_MAX ? (int)limit : UCXT_FDS_SEEN_MAX;
}

/* Only what may be called between fork and exec. */
static void close_in_child(void)
{
    bool any = false;
    for (size_t i = 0; i < PORTS_MAX && !any; i++) {
        any = __atomic_load_n(&g_ports[i], __ATOMIC_RELAXED) != 0;
    }
    for (int fd = 3; any && fd < UCXT_FDS_SEEN_MAX; fd++) {
        uint16_t port = local_port(fd);
        for (size_t i = 0; port != 0 && i < PORTS_MAX; i++) {
            if (__atomic_load_n(&g_ports[i], __ATOMIC_RELAXED) == port) {
                close(fd);
                break;
            }
        }
    }
    memset(g_ports, 0, sizeof(g_ports));
}

static void install(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

static void remember(uint16_t port)
{
    for (size_t i = 0; i < PORTS_MAX; i++) {
        uint16_t none = 0;
        if (__atomic_compare_exchange_n(&g_ports[i], &none, port, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return;
        }
    }
}

static void forget(uint16_t port)
{
    for (size_t i = 0; i < PORTS_MAX; i++) {
        uint16_t held = port;
        if (__atomic_compare_exchange_n(&g_ports[i], &held, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return;
        }
    }
}

static bool descriptors_left(void)
{
    int held[WORKER_FDS];
    uint32_t count = 0;
    while (count < WORKER_FDS && (held[count] = eventfd(0, EFD_CLOEXEC)) >= 0) {
        count++;
    }
    bool enough = count == WORKER_FDS;
    if (!enough) {
        mcs_error(AREA, "%u file descriptors are left to this process (ulimit -n), UCX needs %d: NO_MEMORY", count,
                  WORKER_FDS);
    }
    while (count > 0) {
        close(held[--count]);
    }
    return enough;
}

static void *do_nothing(void *arg)
{
    return arg;
}

/* As UCX starts it: with the stack that is usual. */
static bool thread_left(void)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, do_nothing, NULL);
    if (rc != 0) {
        mcs_error(AREA, "no thread can be started for UCX, %s: NO_MEMORY", strerror(rc));
        return false;
    }
    pthread_join(thread, NULL);
    return true;
}

bool ucxt_worker_has_room(void)
{
    return descriptors_left() && thread_left();
}

void ucxt_fds_look(ucxt_fds_seen_t *seen_out)
{
    memset(seen_out, 0, sizeof(*seen_out));
    for (int fd = 3, end = fd_end(); fd < end; fd++) {
        if (is_listening(fd)) {
            seen_out->bits[fd / 64] |= UINT64_C(1) << (fd % 64);
        }
    }
}

static bool stands_in(uint16_t port, const void *address, size_t len)
{
    const uint16_t wire = htons(port);
    return memmem(address, len, &wire, sizeof(wire)) != NULL;
}

void ucxt_listeners_open(const ucxt_fds_seen_t *before, const void *address, size_t len, unsigned user_timeout_ms,
                         ucxt_listeners_t *listeners_out)
{
    pthread_once(&g_once, install);
    memset(listeners_out, 0, sizeof(*listeners_out));
    for (int fd = 3, end = fd_end(); fd < end && listeners_out->count < UCXT_LISTENERS_MAX; fd++) {
        if ((before->bits[fd / 64] >> (fd % 64) & 1) != 0 || !is_listening(fd)) {
            continue;
        }
        uint16_t port = local_port(fd);
        if (port == 0 || !stands_in(port, address, len)) {
            continue;
        }
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms)) != 0) {
            mcs_debug(AREA, "no TCP_USER_TIMEOUT on port %u", (unsigned)port);
        }
        listeners_out->port[listeners_out->count++] = port;
        remember(port);
    }
    if (listeners_out->count == 0) {
        mcs_debug(AREA, "the sockets of a worker were not found: stopped peers are noticed late");
    }
}

void ucxt_listeners_close(ucxt_listeners_t *listeners)
{
    for (uint32_t i = 0; i < listeners->count; i++) {
        forget(listeners->port[i]);
    }
    listeners->count = 0;
}

static bool is_accepted(const ucxt_listeners_t *listeners, uint16_t port)
{
    for (uint32_t i = 0; listeners != NULL && i < listeners->count; i++) {
        if (listeners->port[i] == port) {
            return true;
        }
    }
    return false;
}

void ucxt_listeners_protect(const ucxt_listeners_t *listeners)
{
    for (int fd = 3, end = fd_end(); listeners->count > 0 && fd < end; fd++) {
        uint16_t port = local_port(fd);
        if (port != 0 && is_accepted(listeners, port)) {
            fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
    }
}

void ucxt_fds_of_worker(const void *address, size_t len, const ucxt_listeners_t *listeners, ucxt_fd_fn visit, void *arg)
{
    for (int fd = 3, end = fd_end(); fd < end; fd++) {
        name_t remote;
        socklen_t remote_len = sizeof(remote);
        if (getpeername(fd, &remote.any, &remote_len) != 0 || !leads_to(&remote, address, len)) {
            continue;
        }
        uint16_t port = local_port(fd);
        uint16_t theirs = ntohs(remote.any.sa_family == AF_INET ? remote.v4.sin_port : remote.v6.sin6_port);
        if (port != 0 && (is_accepted(listeners, port) || stands_in(theirs, address, len))) {
            visit(arg, fd);
        }
    }
}
