/* A world whose master is the real one, in this process. */
#ifndef MCS_TESTS_CLIENT_EMBEDDED_H
#define MCS_TESTS_CLIENT_EMBEDDED_H

#include "master/embed.h"
#include "tests/unit/client/world.h"

static void *g_master;

static int embedded_set_up(void **state)
{
    world_t *world = world_make();
    assert_int_equal(mcs_master_embed_ops.start(0, &g_master, world->address, sizeof(world->address)), MCS_OK);
    *state = world;
    return 0;
}

static int embedded_tear_down(void **state)
{
    mcs_master_embed_ops.stop(g_master);
    world_end(*state);
    return 0;
}

#endif
