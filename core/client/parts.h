/* What a main (python/src/module.c, the client daemon, a test) plugs into the client: the parts that core/ must not know.
 * Set once before the first setup; process-wide; constant afterwards. */
#ifndef MCS_CLIENT_PARTS_H
#define MCS_CLIENT_PARTS_H

#include "core/ops/metadata.h"
#include "core/ops/transport.h"

/* Runs a master inside this process ("embedded"). */
typedef struct mcs_embed_ops {
    /* `port` 0: no TCP port. `address_out`: "unix:/path" or "host:port" for the client's link. */
    mcs_status_t (*start)(uint16_t port, void **master_out, char *address_out, size_t address_size);
    void (*stop)(void *master);
} mcs_embed_ops_t;

typedef struct mcs_parts {
    const mcs_transport_ops_t *transport; /* "tcp" */
    const mcs_metadata_ops_t *metadata;   /* NULL: only P2PHANDSHAKE */
    const mcs_embed_ops_t *embed;         /* NULL: no embedded master */
    const char *ucx_hint;                 /* library text for the transport when configuration names none; may be NULL */
} mcs_parts_t;

void mcs_parts_set(const mcs_parts_t *parts);
const mcs_parts_t *mcs_parts(void);

#endif
