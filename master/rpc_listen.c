/* See rpc_listen.h. */
#include "master/rpc_listen.h"

#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/rng.h"

#define AREA    "rpc"
#define BACKLOG 1024
/* Entries of the folder that are looked at for sockets of dead masters. */
#define STALE_LOOKS 4096

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

/* A folder that somebody else may write to would let him put his own socket in our place. */
static mcs_status_t prepare_folder(const char *folder)
{
    struct stat st;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        mcs_error(AREA, "ipc folder %s not made: %s: %s", folder, strerror(errno),
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        return MCS_ERR_INVALID_PARAMS;
    }
    if (lstat(folder, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0022) != 0) {
        mcs_error(AREA, "ipc folder %s is not a folder that this user alone may write: %s", folder,
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

/* Does nobody listen there any more? A file that is no socket refuses, too. */
static bool is_stale_socket(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale =
        fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return stale;
}

/* Sockets of masters that were killed. A socket gets its name when it listens, so a refused connection means that its
 * process is gone. */
static void remove_stale_sockets(const char *folder)
{
    DIR *dir = opendir(folder);
    for (int i = 0; dir != NULL && i < STALE_LOOKS; i++) {
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            break;
        }
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int len = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", folder, entry->d_name);
        if (strncmp(entry->d_name, "master-", strlen("master-")) == 0 && len > 0 &&
            (size_t)len < sizeof(address.sun_path) && is_stale_socket(&address)) {
            unlink(address.sun_path);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

mcs_status_t mcs_rpc_listen_unix(const char *folder, int *fd_out, char *path_out, size_t path_size)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct sockaddr_un unready = {.sun_family = AF_UNIX}; /* its name until it listens; as long as the other */
    unsigned unique = (unsigned)(mcs_random_u64() & 0xffffffffu);
    mcs_status_t status = prepare_folder(folder);
    if (status != MCS_OK) {
        return status;
    }
    int len = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/master-%d-%08x.sock", folder, getpid(), unique);
    snprintf(unready.sun_path, sizeof(unready.sun_path), "%s/unborn-%d-%08x.sock", folder, getpid(), unique);
    if (len < 0 || (size_t)len >= sizeof(addr.sun_path) || (size_t)len >= path_size) {
        mcs_error(AREA, "ipc folder %s is too long for a socket path: %s", folder,
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        return MCS_ERR_INVALID_PARAMS;
    }
    remove_stale_sockets(folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        mcs_error(AREA, "unix socket: %s", strerror(errno));
        return MCS_ERR_INTERNAL;
    }
    /* The folder keeps others out until the mode is set. */
    if (bind(fd, (const struct sockaddr *)&unready, sizeof(unready)) != 0 || chmod(unready.sun_path, 0600) != 0 ||
        listen(fd, BACKLOG) != 0 || rename(unready.sun_path, addr.sun_path) != 0) {
        mcs_error(AREA, "unix socket %s not bound: %s: %s", addr.sun_path, strerror(errno),
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        unlink(unready.sun_path);
        close(fd);
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(path_out, addr.sun_path, (size_t)len + 1);
    *fd_out = fd;
    return MCS_OK;
}
