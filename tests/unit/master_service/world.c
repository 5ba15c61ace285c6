/* See world.h. */
#include "tests/unit/master_service/world.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static void on_expired(void *arg, const char *segment_name)
{
    world_t *world = arg;
    assert_true(segment_name[0] != '\0');
    __atomic_add_fetch(&world->expired, 1, __ATOMIC_SEQ_CST);
}

void world_init(world_t *world, bool fake_clock)
{
    memset(world, 0, sizeof(*world));
    snprintf(world->dir, sizeof(world->dir), "/tmp/mcs-svc-XXXXXX");
    assert_non_null(mkdtemp(world->dir));
    assert_int_equal(mcs_config_init(&mcs_master_config_table, &world->conf), MCS_OK);
    world->manual = fake_clock;
    if (fake_clock) {
        unit_clock_start(WORLD_START_NS);
    } else {
        mcs_clock_set_source(NULL);
    }
    mcs_log_set_level(MCS_LOG_ERROR);
}

void world_start(world_t *world)
{
    uint64_t wall_s = mcs_wall_ms() / 1000;
    world->epoch = MCS_MAX(world->epoch + 1, wall_s);
    if (world->journal_dir != NULL) {
        world->journal_config.dir = world->journal_dir;
        assert_int_equal(mcs_journal_open(&world->journal_config, &world->journal), MCS_OK);
    }
    mcs_service_config_t config = {.config = &world->conf,
                                   .metrics = &world->metrics,
                                   .epoch = world->epoch,
                                   .client_expired = on_expired,
                                   .client_expired_arg = world,
                                   .journal = world->journal};
    svc_house_manual(world->manual);
    assert_int_equal(mcs_service_create(&config, &world->service), MCS_OK);
    if (world->journal != NULL) {
        assert_int_equal(mcs_service_recover(world->service), MCS_OK);
    }
    mcs_rpc_config_t rpc = {.address = "",
                            .interface = "",
                            .ipc_dir = world->dir,
                            .threads = 2,
                            .max_connections = 256,
                            .metrics = &world->metrics,
                            .ops = mcs_service_rpc_ops(world->service)};
    assert_int_equal(mcs_rpc_server_create(&rpc, &world->server), MCS_OK);
    assert_int_equal(mcs_service_start(world->service, world->server), MCS_OK);
    assert_int_equal(mcs_rpc_server_start(world->server), MCS_OK);
}

static void end(world_t *world)
{
    mcs_rpc_server_stop(world->server);
    mcs_service_stop(world->service);
    mcs_rpc_server_destroy(world->server);
    mcs_service_destroy(world->service);
    mcs_journal_destroy(world->journal);
    world->journal = NULL;
}

void world_restart(world_t *world)
{
    world->service->journal = NULL; /* nothing is written any more */
    end(world);
    world_start(world);
}

void world_stop(world_t *world)
{
    if (world->journal != NULL) {
        mcs_journal_close(world->journal);
    }
    end(world);
    mcs_config_fini(&mcs_master_config_table, &world->conf);
    rmdir(world->dir);
    mcs_clock_set_source(NULL);
}

const char *world_path(const world_t *world)
{
    return mcs_rpc_server_unix_path(world->server);
}

void world_tick(void *arg)
{
    world_t *world = arg;
    if (!world->manual) {
        poll(NULL, 0, 1);
        return;
    }
    for (int i = 0; i < 64 && svc_house_tick(world->service); i++) {
    }
    if (world->peer != NULL) {
        rpc_pump(world->peer, 0);
    }
}

void world_client(world_t *world, rpc_client_t *client, const char *host_name)
{
    rpc_client_init(client, world_path(world), host_name);
    if (world->manual) {
        client->idle = world_tick;
        client->idle_arg = world;
    }
    assert_int_equal(rpc_client_open(client), MCS_OK);
}

/* Ticks until a poll of all sockets that began after now has been finished: what was sent before has been heard. */
static void tick_through_poll(world_t *world)
{
    uint64_t from = svc_clock(world->service);
    for (int i = 0; i < 20000; i++) {
        world->service->next_poll_ns = 0; /* the clock stands still */
        world_tick(world);
        if (world->service->polled_ns >= from) {
            return;
        }
        poll(NULL, 0, 1);
    }
    fail_msg("no poll was finished");
}

void world_pass(world_t *world, uint64_t ms)
{
    assert_true(world->manual);
    while (ms > 0) {
        uint64_t step = MCS_MIN(ms, (uint64_t)400);
        unit_clock_advance(step * MCS_NS_PER_MS);
        world_tick(world);
        ms -= step;
    }
    tick_through_poll(world);
    for (int i = 0; i < 64; i++) { /* every shard's open puts and lists once */
        world_tick(world);
    }
}

void world_passing(void *arg)
{
    unit_clock_advance(MCS_NS_PER_MS);
    world_tick(arg);
}

void world_stall(world_t *world, uint64_t ns)
{
    (void)world;
    unit_clock_advance(ns);
}

void unit_wait(world_t *world)
{
    world_passing(world);
}

mcs_service_totals_t world_totals(world_t *world)
{
    mcs_service_totals_t totals;
    mcs_service_totals(world->service, &totals);
    return totals;
}

bool world_until(world_t *world, bool (*cond)(void *arg), void *arg)
{
    for (int i = 0; i < 10000; i++) {
        if (cond(arg)) {
            return true;
        }
        world_tick(world);
        if (world->manual) {
            poll(NULL, 0, 1);
        }
    }
    return false;
}

uint64_t world_settle(world_t *world, rpc_client_t *const *clients, size_t count)
{
    for (int i = 0; i < 10000; i++) {
        world_tick(world);
        for (size_t c = 0; c < count; c++) {
            rpc_pump(clients[c], world->manual ? 0 : 1);
        }
        if (__atomic_load_n(&world->service->releases, __ATOMIC_SEQ_CST) == 0) {
            break;
        }
        if (world->manual) {
            poll(NULL, 0, 1);
        }
    }
    return world_totals(world).allocated_bytes;
}

uint64_t world_walk_bytes(world_t *world)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &world->service->index.shards[i];
        mcs_mutex_lock(&shard->lock);
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
            const svc_record_t *record = svc_record(&world->service->index, ref);
            bytes += svc_record_extents(record) * mcs_extent_len(record->payload_len);
        }
        MCS_LIST_FOR_EACH(node, &shard->copies)
        {
            const svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
            const svc_record_t *record = svc_record(&world->service->index, pending->record);
            bytes += pending->ending_count * mcs_extent_len(record->payload_len);
        }
        bytes += shard->spare_bytes;
        MCS_LIST_FOR_EACH(node, &shard->open)
        {
            const svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
            if (pending->successor != 0) {
                const svc_record_t *record = svc_record(&world->service->index, pending->successor);
                bytes += record->replica_count * mcs_extent_len(record->payload_len);
            }
        }
        mcs_mutex_unlock(&shard->lock);
    }
    return bytes;
}
