/* Shows one client's health and metrics over HTTP: the table that master/http_client_pages.c implements and a main
 * hands to the client. Thread-safe: a process may have several clients, each with a server of its own. */
#ifndef MCS_OPS_HTTP_H
#define MCS_OPS_HTTP_H

#include "core/base/buf.h"

/* What the server asks, on threads of its own; both answer without waiting for the network. */
typedef struct mcs_client_pages {
    void *arg;
    /* 0 healthy, 1 not set up, 2 master unreachable. */
    int (*health)(void *arg);
    /* Appends Prometheus text, or the summary for people. False: there are no metrics (they are off). */
    bool (*metrics)(void *arg, bool summary, mcs_buf_t *out);
} mcs_client_pages_t;

typedef struct mcs_client_http_ops {
    /* `address` "": every interface. `port` 0: any free one, in *port_out; 0 there: a server that was there before.
     * `pages` is copied. The log says why not. */
    mcs_status_t (*start)(const char *address, uint16_t port, const mcs_client_pages_t *pages, void **server_out,
                          uint16_t *port_out);
    /* No question is asked afterwards. */
    void (*stop)(void *server);
} mcs_client_http_ops_t;

#endif
