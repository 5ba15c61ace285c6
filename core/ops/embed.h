/* Runs a master inside this process (`master_server_addr="embedded"`): the table that master/embed.c implements and a
 * main hands to the client. Thread-safe: several masters may live in one process. */
#ifndef MCS_OPS_EMBED_H
#define MCS_OPS_EMBED_H

#include "core/base/status.h"

typedef struct mcs_embed_ops {
    /* `port` 0: no TCP port, else that one on loopback. `address_out`: "unix:/path" or "host:port" for the client's
     * link. Nothing is left after a failure. */
    mcs_status_t (*start)(uint16_t port, void **master_out, char *address_out, size_t address_size);
    /* Within 5 s; ends the sessions of every client. */
    void (*stop)(void *master);
} mcs_embed_ops_t;

#endif
