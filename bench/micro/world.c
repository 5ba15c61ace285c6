/* See world.h. */
#include "bench/micro/world.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/log.h"

static uint64_t g_now_ns = UINT64_C(1000) * MCS_NS_PER_SEC;

static uint64_t virtual_now(void)
{
    return __atomic_load_n(&g_now_ns, __ATOMIC_RELAXED); /* only time: nothing is published with it */
}

void bench_world_pass(uint64_t ns)
{
    __atomic_add_fetch(&g_now_ns, ns, __ATOMIC_RELAXED);
}

void bench_world_start(bench_world_t *world, void (*configure)(mcs_master_config_t *conf, const void *arg),
                       const void *arg, uint64_t segment_bytes)
{
    char address[128];
    snprintf(world->dir, sizeof(world->dir), "/tmp/mcs-bench-XXXXXX");
    if (mkdtemp(world->dir) == NULL || mcs_config_init(&mcs_master_config_table, &world->conf) != MCS_OK) {
        wire_die("set-up");
    }
    mcs_log_set_level(MCS_LOG_ERROR);
    mcs_clock_set_source(virtual_now);
    svc_house_manual(true);
    world->conf.client_ttl = 1 << 30; /* nobody pings */
    if (configure != NULL) {
        configure(&world->conf, arg);
    }
    mcs_service_config_t config = {.config = &world->conf, .metrics = &world->metrics, .epoch = mcs_wall_ms() / 1000};
    if (mcs_service_create(&config, &world->service) != MCS_OK) {
        wire_die("service");
    }
    mcs_rpc_config_t rpc = {.address = "",
                            .interface = "",
                            .ipc_dir = world->dir,
                            .threads = 1,
                            .max_connections = 16,
                            .metrics = &world->metrics,
                            .ops = mcs_service_rpc_ops(world->service)};
    if (mcs_rpc_server_create(&rpc, &world->server) != MCS_OK ||
        mcs_service_start(world->service, world->server) != MCS_OK || mcs_rpc_server_start(world->server) != MCS_OK) {
        wire_die("server");
    }
    snprintf(address, sizeof(address), "unix:%s", mcs_rpc_server_unix_path(world->server));
    wire_session_open(&world->owner, address);
    wire_session_open(&world->client, address);
    wire_mount(&world->owner, "bench:1", segment_bytes);
}

void bench_world_stop(bench_world_t *world)
{
    wire_session_close(&world->client);
    wire_session_close(&world->owner);
    mcs_rpc_server_stop(world->server);
    mcs_service_stop(world->service);
    mcs_rpc_server_destroy(world->server);
    mcs_service_destroy(world->service);
    mcs_config_fini(&mcs_master_config_table, &world->conf);
    rmdir(world->dir);
}

void bench_world_tick(bench_world_t *world)
{
    svc_house_tick(world->service);
    wire_answer_releases(&world->owner);
}

/* Until something can go on: an answer, a notice, a wake-up of housekeeping, or nothing for a millisecond. */
static void turn(bench_world_t *world)
{
    struct pollfd fds[] = {{.fd = world->client.call.fd, .events = POLLIN},
                           {.fd = world->owner.control.fd, .events = POLLIN},
                           {.fd = world->service->wake.fd, .events = POLLIN}};
    int ready = poll(fds, MCS_ARRAY_LEN(fds), 1);
    if (fds[1].revents != 0) {
        wire_answer_releases(&world->owner);
    }
    if (fds[2].revents != 0 || ready == 0) {
        mcs_event_clear(&world->service->wake);
        bench_world_pass(10 * MCS_NS_PER_MS); /* between two rounds of eviction is a pause */
        svc_house_tick(world->service);
    }
}

void bench_world_ask(bench_world_t *world, mcs_verb_t verb, const ProtobufCMessage *message, mcs_frame_header_t *header,
                     const uint8_t **payload)
{
    wire_session_t *client = &world->client;
    uint64_t id = ++client->next_id;
    wire_queue(client, &client->call, verb, id, message);
    wire_flush(&client->call);
    for (wire_fill(&client->call); !wire_take(&client->call, header, payload) || header->id != id;
         wire_fill(&client->call)) {
        turn(world);
    }
    if (header->status != MCS_OK) {
        wire_die(mcs_status_name(header->status));
    }
}
