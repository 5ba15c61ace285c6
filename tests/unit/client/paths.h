/* A store with a segment, and one that reaches it by each of the ways there are. */
#ifndef MCS_TESTS_CLIENT_PATHS_H
#define MCS_TESTS_CLIENT_PATHS_H

#include "tests/unit/client/world.h"

typedef enum path { OWN, SAME_HOST, REMOTE } path_t;
static const path_t g_paths[] = {OWN, SAME_HOST, REMOTE};

typedef struct pair {
    mcs_store_t *holder;
    mcs_store_t *user; /* the holder itself on the first path */
} pair_t;

static pair_t make_pair(world_t *world, path_t path, uint64_t segment_bytes)
{
    pair_t pair;
    pair.holder = world_store(world, segment_bytes);
    pair.user = path == OWN ? pair.holder : path == SAME_HOST ? world_store(world, 0) : world_remote_store(world, 0);
    return pair;
}

static void end_pair(pair_t pair)
{
    if (pair.user != pair.holder) {
        mcs_store_destroy(pair.user);
    }
    mcs_store_destroy(pair.holder);
}

#endif
