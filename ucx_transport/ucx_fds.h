/* The sockets that UCX makes and does not show: a worker's listening sockets are those that appeared while it was made
 * and whose port stands in its address; the connections that it accepted are those on that port.
 *
 *  - TCP_USER_TIMEOUT on a listening socket goes over to what it accepts: a peer that takes nothing for that long
 * (stopped, or its host gone) is cut off by the kernel. A forced close of such an endpoint is no way out: UCX 1.13 then
 * crashes when the socket becomes writable.
 *  - Close-on-exec, and closing in a forked child (rule 11): a child that kept these sockets would hide the death of
 * this process from its peers. Thread-safe. */
#ifndef UCXT_UCX_FDS_H
#define UCXT_UCX_FDS_H

#include "core/base/macros.h"

#define UCXT_LISTENERS_MAX 8    /* of one worker: one an interface */
#define UCXT_FDS_SEEN_MAX  4096 /* descriptors from this one on are not looked at */

typedef struct ucxt_listeners {
    uint32_t count;
    uint16_t port[UCXT_LISTENERS_MAX];
} ucxt_listeners_t;

/* Which sockets listen now. */
typedef struct ucxt_fds_seen {
    uint64_t bits[UCXT_FDS_SEEN_MAX / 64];
} ucxt_fds_seen_t;
void ucxt_fds_look(ucxt_fds_seen_t *seen_out);

/* Finds and protects the listening sockets that have come since `before` and whose port is in `address`. */
void ucxt_listeners_open(const ucxt_fds_seen_t *before, const void *address, size_t len, unsigned user_timeout_ms,
                         ucxt_listeners_t *listeners_out);
/* Before the worker is destroyed. */
void ucxt_listeners_close(ucxt_listeners_t *listeners);
/* Sets close-on-exec on the connections that were accepted. */
void ucxt_listeners_protect(const ucxt_listeners_t *listeners);

/* Are as many descriptors free as UCX opens for a worker, and can its thread be started? Without them it fails an
 * assertion of its own (1.22) and ends the process. Says so when not. */
bool ucxt_worker_has_room(void);

/* Calls `visit` with each connected socket between us and the worker with this address (or an endpoint that has it):
 * what leads to its port and, with listeners, what those accepted from its host. */
typedef void (*ucxt_fd_fn)(void *arg, int fd);
void ucxt_fds_of_worker(const void *address, size_t len, const ucxt_listeners_t *listeners, ucxt_fd_fn visit,
                        void *arg);

#endif
