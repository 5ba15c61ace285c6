/* Listening sockets of the RPC server, and the TCP ones of the HTTP servers. Set-up path; blocking name resolution. */
#ifndef MCS_MASTER_RPC_LISTEN_H
#define MCS_MASTER_RPC_LISTEN_H

#include "core/base/status.h"

/* A non-blocking TCP listener with SO_REUSEADDR. `what` names it in the log ("rpc"). `interface` other than "": its
 * first IPv4 address instead of `address`. MCS_ERR_INVALID_PARAMS: unknown address or interface, port in use; logged.
 */
mcs_status_t mcs_rpc_listen_tcp(const char *what, const char *address, const char *interface, uint16_t port,
                                int *fd_out, uint16_t *port_out) MCS_MUST_CHECK;
/* A listener with a unique name in `folder` (made with mode 0700 if missing, and refused when it is not ours alone to
 * write), socket mode 0600. Removes the sockets of masters that are gone. The caller unlinks the path. */
mcs_status_t mcs_rpc_listen_unix(const char *folder, int *fd_out, char *path_out, size_t path_size) MCS_MUST_CHECK;

#endif
