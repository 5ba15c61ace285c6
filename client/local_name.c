/* The name of the segment: see daemon.h. A segment named 0.0.0.0 would say nothing to those who read lists of segments,
 * and could be preferred by nobody. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "client/daemon.h"

static bool is_every_interface(const char *host)
{
    return host[0] == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0;
}

/* One that other machines can reach: no loopback, and nothing that is valid on one link only. */
static bool reachable_address(const struct ifaddrs *interface, int family, char *text, socklen_t size)
{
    const struct sockaddr *address = interface->ifa_addr;
    if (address == NULL || address->sa_family != family || (interface->ifa_flags & IFF_UP) == 0 ||
        (interface->ifa_flags & IFF_LOOPBACK) != 0) {
        return false;
    }
    if (family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        return !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) && inet_ntop(family, &v6->sin6_addr, text, size) != NULL;
    }
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
    return (ntohl(v4->sin_addr.s_addr) >> 16) != 0xa9fe && inet_ntop(family, &v4->sin_addr, text, size) != NULL;
}

static bool machine_address(int family, char *text, socklen_t size)
{
    struct ifaddrs *interfaces = NULL;
    bool found = false;
    if (getifaddrs(&interfaces) != 0) {
        return false;
    }
    for (const struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next) {
        found = reachable_address(i, family, text, size);
    }
    freeifaddrs(interfaces);
    return found;
}

void mcs_daemon_local_name(const mcs_daemon_config_t *config, char *name, size_t size)
{
    char address[INET6_ADDRSTRLEN];
    bool ipv6 = strchr(config->host, ':') != NULL;
    const char *text = config->host;
    if (config->local_hostname[0] != '\0') {
        text = config->local_hostname;
    } else if (is_every_interface(config->host)) {
        bool found = (ipv6 && machine_address(AF_INET6, address, sizeof(address))) ||
                     machine_address(AF_INET, address, sizeof(address)) ||
                     machine_address(AF_INET6, address, sizeof(address));
        text = found ? address : "127.0.0.1";
    }
    snprintf(name, size, "%s", text);
}
