/* See where.h. */
#include "ucx_transport/where.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "core/base/fault.h"
#include "core/base/log.h"

#define AREA "ucx"

/* ---- hosts ---- */

static bool host_of(const struct sockaddr *a, ucxt_host_t *host_out)
{
    memset(host_out, 0, sizeof(*host_out));
    if (a != NULL && a->sa_family == AF_INET) {
        host_out->version = 4;
        memcpy(host_out->bytes, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
        return true;
    }
    if (a != NULL && a->sa_family == AF_INET6) {
        host_out->version = 6;
        memcpy(host_out->bytes, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 16);
        return true;
    }
    return false;
}

static bool same_host(const ucxt_host_t *a, const ucxt_host_t *b)
{
    return a->version == b->version && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static ucxt_host_t loopback(uint8_t version)
{
    ucxt_host_t host = {.version = version};
    if (version == 4) {
        host.bytes[0] = 127;
        host.bytes[3] = 1;
    } else {
        host.bytes[15] = 1;
    }
    return host;
}

/* All of 127.0.0.0/8 is on the loopback interface, whatever addresses it lists. */
static bool is_loopback(const ucxt_host_t *host)
{
    const ucxt_host_t six = loopback(6);
    return host->version == 4 ? host->bytes[0] == 127 : same_host(host, &six);
}

static bool is_wildcard(const ucxt_host_t *host)
{
    static const uint8_t zeros[16];
    return memcmp(host->bytes, zeros, sizeof(zeros)) == 0;
}

/* Means nothing without the name of an interface, which differs from machine to machine. */
static bool is_link_local(const ucxt_host_t *host)
{
    return host->version == 6 && host->bytes[0] == 0xfe && (host->bytes[1] & 0xc0) == 0x80;
}

static socklen_t address_of(const ucxt_host_t *host, uint16_t port, struct sockaddr_storage *address_out)
{
    memset(address_out, 0, sizeof(*address_out));
    if (host->version == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)address_out;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, host->bytes, 4);
        return sizeof(*v4);
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)address_out;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    memcpy(&v6->sin6_addr, host->bytes, 16);
    return sizeof(*v6);
}

socklen_t ucxt_where_address(const ucxt_where_t *where, uint32_t index, struct sockaddr_storage *address_out)
{
    return address_of(&where->host[index], where->port, address_out);
}

socklen_t ucxt_place_address(const ucxt_place_t *place, struct sockaddr_storage *address_out)
{
    ucxt_host_t host = place->where.host[0];
    if (place->any) {
        memset(host.bytes, 0, sizeof(host.bytes));
    }
    return address_of(&host, 0, address_out);
}

/* ---- this machine ---- */

static const char *carrier(const struct ifaddrs *interfaces, const ucxt_host_t *host)
{
    for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
        ucxt_host_t own;
        if ((i->ifa_flags & IFF_UP) != 0 && host_of(i->ifa_addr, &own) &&
            (is_loopback(host) ? (i->ifa_flags & IFF_LOOPBACK) != 0 : same_host(&own, host))) {
            return i->ifa_name;
        }
    }
    return NULL;
}

/* All that interfaces other than loopback have of one version of IP. */
static void collect(const struct ifaddrs *interfaces, uint8_t version, ucxt_where_t *where)
{
    where->count = 0;
    for (const struct ifaddrs *i = interfaces; i != NULL && where->count < UCXT_WHERE_MAX; i = i->ifa_next) {
        ucxt_host_t own;
        if ((i->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == IFF_UP && host_of(i->ifa_addr, &own) &&
            own.version == version && !is_link_local(&own)) {
            where->host[where->count++] = own;
        }
    }
}

/* `version` 0: IPv4, or IPv6 where that is all there is. */
static void every_interface(const struct ifaddrs *interfaces, uint8_t version, ucxt_place_t *place)
{
    memset(place, 0, sizeof(*place));
    place->any = true;
    collect(interfaces, version != 0 ? version : 4, &place->where);
    if (place->where.count == 0 && version == 0) {
        collect(interfaces, 6, &place->where);
    }
    if (place->where.count == 0) {
        place->where.host[place->where.count++] = loopback(version != 0 ? version : 4);
    }
}

static bool one_interface(const struct ifaddrs *interfaces, const ucxt_host_t *host, ucxt_place_t *place)
{
    const char *name = carrier(interfaces, host);
    if (name == NULL) {
        return false;
    }
    memset(place, 0, sizeof(*place));
    snprintf(place->device, sizeof(place->device), "%s", name);
    /* UCX knows the addresses that interfaces list, so not 127.0.0.5. */
    place->where.host[place->where.count++] = is_loopback(host) ? loopback(host->version) : *host;
    return true;
}

mcs_status_t ucxt_place_find(const char *bind_host, ucxt_place_t *place_out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    if (bind_host[0] != '\0') {
        int rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? EAI_FAIL : getaddrinfo(bind_host, NULL, &hints, &list);
        if (rc != 0) {
            mcs_error(AREA, "data plane host %s: %s", bind_host, gai_strerror(rc));
            return MCS_ERR_INVALID_PARAMS;
        }
    }
    struct ifaddrs *interfaces = NULL;
    bool found = false;
    if (mcs_fault_hit(MCS_FAULT_SYSCALL) || getifaddrs(&interfaces) != 0) {
        mcs_error(AREA, "network interfaces cannot be listed");
        goto out;
    }
    if (bind_host[0] == '\0') {
        every_interface(interfaces, 0, place_out);
        found = true;
    }
    for (const struct addrinfo *ai = list; ai != NULL && !found; ai = ai->ai_next) {
        ucxt_host_t host;
        if (host_of(ai->ai_addr, &host) && is_wildcard(&host)) {
            every_interface(interfaces, host.version, place_out);
            found = true;
        } else if (host.version != 0) {
            found = one_interface(interfaces, &host, place_out);
        }
    }
    if (!found) {
        mcs_error(AREA, "data plane host %s: no interface of this machine has its address", bind_host);
    }
    freeifaddrs(interfaces);
out:
    if (list != NULL) {
        freeaddrinfo(list);
    }
    return found ? MCS_OK : MCS_ERR_INVALID_PARAMS;
}

/* ---- which to call ---- */

static bool in_network(const struct ifaddrs *i, const ucxt_host_t *host)
{
    ucxt_host_t own;
    ucxt_host_t mask;
    if (!host_of(i->ifa_addr, &own) || !host_of(i->ifa_netmask, &mask) || own.version != host->version) {
        return false;
    }
    for (size_t b = 0; b < sizeof(own.bytes); b++) {
        if (((own.bytes[b] ^ host->bytes[b]) & mask.bytes[b]) != 0) {
            return false;
        }
    }
    return true;
}

static bool is_near(const struct ifaddrs *interfaces, const char *device, const ucxt_host_t *host)
{
    for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
        if ((i->ifa_flags & IFF_UP) != 0 && (device[0] == '\0' || strcmp(device, i->ifa_name) == 0) &&
            in_network(i, host)) {
            return true;
        }
    }
    return false;
}

uint32_t ucxt_where_choose(const ucxt_where_t *where, const char *device, uint32_t turn)
{
    struct ifaddrs *interfaces = NULL;
    if (where->count == 1 || getifaddrs(&interfaces) != 0) {
        return turn % where->count;
    }
    uint32_t order[UCXT_WHERE_MAX];
    uint32_t placed = 0;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < where->count; i++) {
            if (is_near(interfaces, device, &where->host[i]) == (pass == 0)) {
                order[placed++] = i;
            }
        }
    }
    freeifaddrs(interfaces);
    return order[turn % where->count];
}
