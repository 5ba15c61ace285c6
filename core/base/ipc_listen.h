/* UNIX sockets by name in a folder of this user's own: made so that nobody sees one before it listens, and those of
 * processes that were killed are cleared away. */
#ifndef MCS_BASE_IPC_LISTEN_H
#define MCS_BASE_IPC_LISTEN_H

#include "core/base/status.h"

/* Listens (mode 0600, non-blocking) at "<folder>/<prefix><name>", where nothing is yet; `type` is SOCK_STREAM or
 * SOCK_SEQPACKET. The folder is made (0700) if it is missing, and must be one that only this user may write to: another
 * could put his own socket in the place of ours. Sockets of that prefix that nobody listens at any more are removed
 * first. The path goes to path_out. On failure text_out says why. */
typedef struct mcs_ipc_listen {
    const char *folder;
    const char *prefix;
    const char *name;
    int type;
    int backlog;
} mcs_ipc_listen_t;
mcs_status_t mcs_ipc_listen(const mcs_ipc_listen_t *listen, int *fd_out, char *path_out, size_t path_size,
                            char *text_out, size_t text_size) MCS_MUST_CHECK;

#endif
