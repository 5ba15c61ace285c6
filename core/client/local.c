/* See local.h. */
#include "core/client/local.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/fork.h"
#include "core/base/log.h"
#include "core/base/rng.h"

#define AREA "client"

static int bind_socket(const struct sockaddr *address, socklen_t len)
{
    int fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, address, len) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void set_port(struct sockaddr_storage *address, uint16_t port)
{
    if (address->ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)(void *)address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)(void *)address)->sin_port = htons(port);
    }
}

static mcs_status_t any_address(const char *bind_address, bool ipv6, struct sockaddr_storage *address_out,
                                socklen_t *len_out)
{
    memset(address_out, 0, sizeof(*address_out));
    if (bind_address[0] == '\0') {
        address_out->ss_family = ipv6 ? AF_INET6 : AF_INET;
        *len_out = ipv6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        return MCS_OK;
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(bind_address, NULL, &hints, &list);
    if (rc != 0) {
        mcs_error(AREA, "MC_TCP_BIND_ADDRESS=%.100s: %s", bind_address, gai_strerror(rc));
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(address_out, list->ai_addr, list->ai_addrlen);
    *len_out = list->ai_addrlen;
    freeaddrinfo(list);
    return MCS_OK;
}

mcs_status_t mcs_local_pick_port(const char *bind_address, bool ipv6, uint16_t min, uint16_t max, int *fd_out,
                                 uint16_t *port_out)
{
    struct sockaddr_storage address;
    socklen_t len;
    mcs_status_t status = any_address(bind_address, ipv6, &address, &len);
    if (status != MCS_OK) {
        return status;
    }
    /* From a random one on: clients that start together do not run into each other. */
    uint32_t span = (uint32_t)max - min + 1;
    uint32_t start = (uint32_t)(mcs_random_u64() % span);
    for (uint32_t i = 0; i < span; i++) {
        uint16_t port = (uint16_t)(min + (start + i) % span);
        set_port(&address, port);
        int fd = bind_socket((const struct sockaddr *)&address, len);
        if (fd >= 0) {
            mcs_fork_guard_add(fd);
            *fd_out = fd;
            *port_out = port;
            return MCS_OK;
        }
    }
    mcs_error(AREA, "no free port in %u..%u: %s", min, max, mcs_status_name(MCS_ERR_LIMIT));
    return MCS_ERR_LIMIT;
}

void mcs_local_release_port(int fd)
{
    if (fd >= 0) {
        mcs_fork_guard_remove(fd);
        close(fd);
    }
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET6) {
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    }
    return (ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24) == 127;
}

static bool is_literal(const char *host)
{
    struct in_addr v4;
    return strchr(host, ':') != NULL || inet_pton(AF_INET, host, &v4) == 1;
}

/* Has the master an address that is no loopback? Not when that cannot be told. */
static bool is_on_a_network(const char *master)
{
    mcs_hostport_t where;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    if (mcs_parse_hostport(master, &where) != MCS_OK || /* unix:/path is none either */
        getaddrinfo(where.host, NULL, &hints, &list) != 0) {
        return false;
    }
    bool found = false;
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        found = found || !is_loopback(at->ai_addr);
    }
    freeaddrinfo(list);
    return found;
}

const char *mcs_local_bind_host(const char *host, const char *master, bool ipv6)
{
    struct addrinfo hints = {.ai_family = ipv6 ? AF_INET6 : AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &list);
    if (rc != 0) {
        mcs_warn(AREA, "local_hostname %.100s: %s: the data plane binds every interface", host, gai_strerror(rc));
        return "";
    }
    bool loopback = is_loopback(list->ai_addr);
    bool meant = is_literal(host) || strcmp(host, "localhost") == 0 || !loopback;
    int fd = meant ? bind_socket(list->ai_addr, list->ai_addrlen) : -1;
    freeaddrinfo(list);
    if (fd < 0) {
        mcs_warn(AREA,
                 "local_hostname %.100s is no address of this machine that others can reach: the data plane binds "
                 "every interface",
                 host);
        return "";
    }
    close(fd);
    if (loopback && is_on_a_network(master)) {
        mcs_warn(AREA,
                 "local_hostname %.100s is loopback, but the master at %.100s is on a network: the data plane binds "
                 "every interface (MC_TCP_BIND_ADDRESS=127.0.0.1 keeps it from others)",
                 host, master);
        return "";
    }
    return host;
}

bool mcs_local_has_memory(uint64_t bytes)
{
    struct sysinfo machine;
    return sysinfo(&machine) != 0 || bytes / machine.mem_unit <= (uint64_t)machine.totalram + machine.totalswap;
}
