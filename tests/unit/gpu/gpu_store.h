/* Stores over the fake driver: what the tests of the C API with device memory start from and end with. */
#ifndef MCS_TESTS_GPU_STORE_H
#define MCS_TESTS_GPU_STORE_H

#include "tests/unit/client/world.h"
#include "tests/unit/gpu/gpu_world.h"

MCS_UNUSED static int gpu_store_set_up(void **state)
{
    gpu_start(3, 13000);
    int rc = world_set_up(state);
    setenv("MC_TRANSFER_TIMEOUT", "30", 1); /* a busy machine sums slowly */
    mcs_parts_t parts = {.transport = &fake_transport_ops, .mem_space = &mcs_gpu_space_ops};
    mcs_parts_set(&parts);
    return rc;
}

MCS_UNUSED static int gpu_store_tear_down(void **state)
{
    int rc = world_tear_down(state);
    gpu_assert_nothing_left();
    return rc;
}

#endif
