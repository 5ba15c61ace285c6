/* See ipc_listen.h. */
#include "core/base/ipc_listen.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/fault.h"

#define STALE_LOOKS 4096 /* entries of the folder looked at */
#define UNREADY     "."  /* in front of its name until it listens */

static mcs_status_t prepare_folder(const char *folder, char *text_out, size_t text_size)
{
    struct stat st;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        snprintf(text_out, text_size, "ipc folder %s not made: %s", folder, strerror(errno));
        return MCS_ERR_INVALID_PARAMS;
    }
    if (lstat(folder, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
        snprintf(text_out, text_size, "ipc folder %s is not a folder that this user alone may write", folder);
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

/* Does nobody listen there any more? A file that is no socket refuses, too. */
static bool is_stale(const struct sockaddr_un *address, int type)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale =
        fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return stale;
}

/* A socket gets its name when it listens, so a refused connection means that its process is gone. */
static void remove_stale(const mcs_ipc_listen_t *listen)
{
    DIR *dir = opendir(listen->folder);
    for (int i = 0; dir != NULL && i < STALE_LOOKS; i++) {
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            break;
        }
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int len = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", listen->folder, entry->d_name);
        if (strncmp(entry->d_name, listen->prefix, strlen(listen->prefix)) == 0 && len > 0 &&
            (size_t)len < sizeof(address.sun_path) && is_stale(&address, listen->type)) {
            unlink(address.sun_path);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

mcs_status_t mcs_ipc_listen(const mcs_ipc_listen_t *listen_at, int *fd_out, char *path_out, size_t path_size,
                            char *text_out, size_t text_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct sockaddr_un unready = {.sun_family = AF_UNIX};
    size_t room = sizeof(address.sun_path);
    int len = snprintf(address.sun_path, room, "%s/%s%s", listen_at->folder, listen_at->prefix, listen_at->name);
    int unready_len =
        snprintf(unready.sun_path, room, "%s/" UNREADY "%s%s", listen_at->folder, listen_at->prefix, listen_at->name);
    if (len < 0 || (size_t)unready_len >= room || (size_t)len >= path_size) {
        snprintf(text_out, text_size, "ipc folder %.120s is too long for a socket path", listen_at->folder);
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = prepare_folder(listen_at->folder, text_out, text_size);
    if (status != MCS_OK) {
        return status;
    }
    remove_stale(listen_at);
    int fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : socket(AF_UNIX, listen_at->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        snprintf(text_out, text_size, "no socket for %s: %s", address.sun_path, strerror(errno));
        return MCS_ERR_INTERNAL;
    }
    /* The folder keeps others out until the mode is set. */
    if (bind(fd, (const struct sockaddr *)&unready, sizeof(unready)) != 0 || chmod(unready.sun_path, 0600) != 0 ||
        listen(fd, listen_at->backlog) != 0 || rename(unready.sun_path, address.sun_path) != 0) {
        snprintf(text_out, text_size, "socket %s not bound: %s", address.sun_path, strerror(errno));
        unlink(unready.sun_path);
        close(fd);
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(path_out, address.sun_path, (size_t)len + 1);
    *fd_out = fd;
    return MCS_OK;
}
