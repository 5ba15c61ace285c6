/* The owner's side: one UCX worker and one thread ("mcs-serve") that answers peers' fetches and stores through the
 * owner ops.
 *
 * The thread never blocks (rule 9): it sends with a window per peer, so that a peer that stops reading holds up nobody
 * else and at most a few extents, and a peer that takes nothing for SERVE_STALL_NS, or past the time its request was
 * good for, is dropped. What peers say is checked before it is used; a peer that breaks the protocol is dropped, the
 * others do not notice (rule 10). Every queue has a bound (rule 8). start and stop from one thread; everything else
 * happens on the serving thread. */
#ifndef UCXT_SERVE_H
#define UCXT_SERVE_H

#include "ucx_transport/regions.h"
#include "ucx_transport/ucx_worker.h"

#include "core/ops/transport.h"

typedef struct ucxt_server ucxt_server_t;

typedef struct ucxt_server_config {
    const ucxt_context_t *context;
    const char *token; /* "" = none; stays the caller's, valid until stop */
    uint64_t machine;  /* see core/ops/transport.h */
    uint64_t spin_ns;
    const mcs_owner_ops_t *owner_ops;
    void *owner;
    mcs_transport_counters_t *counters;
    ucxt_regions_t *regions;
} ucxt_server_config_t;

mcs_status_t ucxt_server_start(const ucxt_server_config_t *config, ucxt_server_t **server_out) MCS_MUST_CHECK;
/* Drops the peers, joins the thread. Afterwards no owner op runs and every hold has ended. NULL is fine. */
void ucxt_server_stop(ucxt_server_t *server);
const mcs_endpoint_t *ucxt_server_endpoint(const ucxt_server_t *server);
/* TCP port, 0 = not known. */
uint16_t ucxt_server_port(const ucxt_server_t *server);

#endif
