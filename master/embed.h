/* The master inside a client's process: the table of core/ops/embed.h over master.h. A main hands it to the client. */
#ifndef MCS_MASTER_EMBED_H
#define MCS_MASTER_EMBED_H

#include "core/ops/embed.h"

/* Clients reach it by its UNIX socket; with a port also by TCP on loopback. No HTTP, no signal handlers, no periodic
 * log line. Settings come from the defaults and the environment (MC_STORE_IPC_DIR, MC_STORE_CLUSTER_TOKEN). */
extern const mcs_embed_ops_t mcs_master_embed_ops;

#endif
