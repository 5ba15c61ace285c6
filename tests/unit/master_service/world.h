/* A service and an RPC server in this process, on a UNIX socket in a folder of its own: the world of the service's
 * tests.
 *
 * With a fake clock housekeeping has no thread: it runs when the test says so, and while a client waits. */
#ifndef MCS_TESTS_WORLD_H
#define MCS_TESTS_WORLD_H

#include "tests/support/unit.h"

#include "master/svc_internal.h"
#include "tests/support/rpc_client.h"

typedef struct world {
    char dir[64];
    mcs_master_config_t conf;
    mcs_metrics_t metrics;
    mcs_service_t *service;
    mcs_rpc_server_t *server;
    bool manual;
    uint32_t expired;        /* calls of client_expired */
    const char *journal_dir; /* NULL = none: set before world_start */
    mcs_journal_config_t journal_config;
    mcs_journal_t *journal;
    uint64_t epoch;
    rpc_client_t *peer; /* an owner whose notices are read while somebody waits; NULL = none */
} world_t;

#define WORLD_START_NS (UINT64_C(1000) * 1000000000)

/* Defaults of the flags, then world->conf may be changed, then world_start. */
void world_init(world_t *world, bool fake_clock);
void world_start(world_t *world);
void world_stop(world_t *world);
/* kill -9 of the master, and another one on the same journal. Clients have to connect again. */
void world_restart(world_t *world);
const char *world_path(const world_t *world);
/* A client that ticks a manual world while it waits. */
void world_client(world_t *world, rpc_client_t *client, const char *host_name);
/* Housekeeping until there is nothing left to do at once (manual), or a moment of it. */
void world_tick(void *world);
/* Moves the fake clock in small steps (so that it is no stall) with ticks. */
void world_pass(world_t *world, uint64_t ms);
/* An idle function: a millisecond passes each time. */
void world_passing(void *world);
/* The master did not run for this long. */
void world_stall(world_t *world, uint64_t ns);
/* A millisecond and a turn: recency has an order. */
void unit_wait(world_t *world);
mcs_service_totals_t world_totals(world_t *world);
/* Ticks, and reads notices of the clients, until all released extents are back: the bytes in use. */
uint64_t world_settle(world_t *world, rpc_client_t *const *clients, size_t count);
/* Waits (at most 10 s) until cond is true; ticks meanwhile. */
bool world_until(world_t *world, bool (*cond)(void *arg), void *arg);
/* Bytes that objects in the index and open puts should occupy, by walking them. */
uint64_t world_walk_bytes(world_t *world);

#endif
