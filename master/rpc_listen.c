/* See rpc_listen.h. */
#include "master/rpc_listen.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/ipc_listen.h"
#include "core/base/log.h"
#include "core/base/rng.h"

#define AREA    "rpc"
#define BACKLOG 1024

/* The first IPv4 address of an interface. */
static mcs_status_t interface_address(const char *interface, char *text, size_t size)
{
    struct ifaddrs *list = NULL;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (getifaddrs(&list) != 0) {
        mcs_error(AREA, "interfaces cannot be listed: %s", strerror(errno));
        return MCS_ERR_INTERNAL;
    }
    for (const struct ifaddrs *it = list; it != NULL && status != MCS_OK; it = it->ifa_next) {
        if (it->ifa_addr != NULL && it->ifa_addr->sa_family == AF_INET && strcmp(it->ifa_name, interface) == 0 &&
            getnameinfo(it->ifa_addr, sizeof(struct sockaddr_in), text, (socklen_t)size, NULL, 0, NI_NUMERICHOST) ==
                0) {
            status = MCS_OK;
        }
    }
    freeifaddrs(list);
    if (status != MCS_OK) {
        mcs_error(AREA, "interface %s has no IPv4 address: %s", interface, mcs_status_name(status));
    }
    return status;
}

static mcs_status_t bind_tcp(const struct addrinfo *ai, int *fd_out, uint16_t *port_out)
{
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof(bound);
    int one = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &len) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return MCS_ERR_INVALID_PARAMS;
    }
    *port_out = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    *fd_out = fd;
    return MCS_OK;
}

mcs_status_t mcs_rpc_listen_tcp(const char *what, const char *address, const char *interface, uint16_t port,
                                int *fd_out, uint16_t *port_out)
{
    char host[NI_MAXHOST];
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    snprintf(host, sizeof(host), "%s", address[0] == '\0' ? "0.0.0.0" : address);
    if (interface[0] != '\0') {
        mcs_status_t status = interface_address(interface, host, sizeof(host));
        if (status != MCS_OK) {
            return status;
        }
    }
    size_t host_len = strlen(host);
    if (host_len > 2 && host[0] == '[' && host[host_len - 1] == ']') { /* "[::1]" */
        memmove(host, host + 1, host_len - 2);
        host[host_len - 2] = '\0';
    }
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, service, &hints, &list);
    if (rc != 0) {
        mcs_error(AREA, "%s address %s: %s: %s", what, host, gai_strerror(rc), mcs_status_name(MCS_ERR_INVALID_PARAMS));
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    for (const struct addrinfo *ai = list; ai != NULL && status != MCS_OK; ai = ai->ai_next) {
        status = bind_tcp(ai, fd_out, port_out);
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "%s port %s:%u not bound: %s: %s", what, host, port, strerror(errno), mcs_status_name(status));
    }
    freeaddrinfo(list);
    return status;
}

mcs_status_t mcs_rpc_listen_unix(const char *folder, int *fd_out, char *path_out, size_t path_size)
{
    char name[40];
    char why[256];
    snprintf(name, sizeof(name), "%d-%08x.sock", getpid(), (unsigned)(mcs_random_u64() & 0xffffffffu));
    mcs_ipc_listen_t at = {
        .folder = folder, .prefix = "master-", .name = name, .type = SOCK_STREAM, .backlog = BACKLOG};
    mcs_status_t status = mcs_ipc_listen(&at, fd_out, path_out, path_size, why, sizeof(why));
    if (status != MCS_OK) {
        mcs_error(AREA, "%s: %s", why, mcs_status_name(status));
    }
    return status;
}
