/* What a main (python/src/module.c, the client daemon, a test) plugs into the client: the parts that core/ must not
 * know. Set once before the first setup; process-wide; constant afterwards. */
#ifndef MCS_CLIENT_PARTS_H
#define MCS_CLIENT_PARTS_H

#include "core/ops/embed.h"
#include "core/ops/http.h"
#include "core/ops/mem_space.h"
#include "core/ops/metadata.h"
#include "core/ops/transport.h"

typedef struct mcs_parts {
    const mcs_transport_ops_t *transport; /* "tcp" */
    const mcs_metadata_ops_t *metadata;   /* NULL: only P2PHANDSHAKE */
    const mcs_embed_ops_t *embed;         /* NULL: no embedded master */
    const mcs_client_http_ops_t *http;    /* NULL: no HTTP server of a client */
    const mcs_mem_space_ops_t *mem_space; /* NULL: host memory only */
    const char *ucx_hint; /* library text for the transport when configuration names none; may be NULL */
} mcs_parts_t;

void mcs_parts_set(const mcs_parts_t *parts);
const mcs_parts_t *mcs_parts(void);

#endif
