/* The usual fixture: an owner with a segment of a megabyte, a writer without, a fake clock. */
#ifndef MCS_TESTS_FIXTURE_H
#define MCS_TESTS_FIXTURE_H

#include "tests/unit/master_service/world.h"

#define SEGMENT (UINT64_C(1) << 20)

typedef struct fixture {
    world_t world;
    rpc_client_t owner;
    rpc_client_t writer;
    uint32_t handle;
    mcs_mac_key_t key;
    mcs_id_t instance;
} fixture_t;

MCS_UNUSED static int setup_with(void **state, void (*change)(mcs_master_config_t *conf))
{
    static fixture_t fixture;
    fixture_t *f = &fixture;
    world_init(&f->world, true);
    if (change != NULL) {
        change(&f->world.conf);
    }
    world_start(&f->world);
    world_client(&f->world, &f->owner, "host-a:1");
    world_client(&f->world, &f->writer, "host-b:1");
    f->instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(&f->owner, "host-a:1", SEGMENT, f->instance, &f->handle, &f->key), MCS_OK);
    f->world.peer = &f->owner;
    *state = f;
    return 0;
}

MCS_UNUSED static int setup(void **state)
{
    return setup_with(state, NULL);
}

MCS_UNUSED static int teardown(void **state)
{
    fixture_t *f = *state;
    rpc_client_fini(&f->owner);
    rpc_client_fini(&f->writer);
    world_stop(&f->world);
    return 0;
}

MCS_UNUSED static uint64_t settle(fixture_t *f)
{
    rpc_client_t *clients[] = {&f->owner, &f->writer};
    return world_settle(&f->world, clients, 2);
}

/* Time passes with heartbeats of both. */
MCS_UNUSED static void live(fixture_t *f, uint64_t ms)
{
    while (ms > 0) {
        uint64_t step = MCS_MIN(ms, (uint64_t)4000);
        world_pass(&f->world, step);
        assert_int_equal(rpc_ping(&f->owner), MCS_OK);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
        ms -= step;
    }
}

#endif
