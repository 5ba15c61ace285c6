/* A master's service in this process, on a UNIX socket and on a virtual clock: one owner with a segment that only
 * exists in the books, and one client. Housekeeping runs when time is passed and while an answer is awaited, on the
 * calling thread; so what happens depends on the requests alone. One world a process. */
#ifndef MCS_BENCH_WORLD_H
#define MCS_BENCH_WORLD_H

#include "bench/micro/wire_client.h"
#include "master/svc_internal.h"

typedef struct bench_world {
    char dir[32];
    mcs_master_config_t conf;
    mcs_metrics_t metrics;
    mcs_service_t *service;
    mcs_rpc_server_t *server;
    wire_session_t owner;
    wire_session_t client;
} bench_world_t;

/* `configure` (may be NULL) changes the flags' defaults before the service starts. */
void bench_world_start(bench_world_t *world, void (*configure)(mcs_master_config_t *conf, const void *arg),
                       const void *arg, uint64_t segment_bytes);
void bench_world_stop(bench_world_t *world);
/* Moves the clock; housekeeping follows at the next turn. Steps below half a second: a longer one is a stall. */
void bench_world_pass(uint64_t ns);
/* One turn of housekeeping, and the owner's answers. */
void bench_world_tick(bench_world_t *world);
/* The client's request and its answer, whose status is OK; a put may wait for eviction and for the owner. */
void bench_world_ask(bench_world_t *world, mcs_verb_t verb, const ProtobufCMessage *message, mcs_frame_header_t *header,
                     const uint8_t **payload);

#endif
