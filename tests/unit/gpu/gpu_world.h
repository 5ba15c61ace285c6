/* What the tests over the fake driver share: memory of its devices with known bytes, and "nothing is left". */
#ifndef MCS_TESTS_GPU_WORLD_H
#define MCS_TESTS_GPU_WORLD_H

#include <stdlib.h>

#include "gpu/gpu.h"
#include "tests/support/unit.h"
#include "tests/unit/gpu/gpu_left.h"

#define GPU_MIB ((size_t)1 << 20)

MCS_UNUSED static void gpu_fill(uint8_t *bytes, size_t len, uint32_t seed)
{
    unit_fill(bytes, len, seed);
}

/* Device memory with bytes of a seed. */
MCS_UNUSED static uint8_t *gpu_memory(int device, size_t len, fake_kind_t kind, size_t piece, uint32_t seed)
{
    uint8_t *memory = fake_cuda_alloc(device, len, kind, piece);
    gpu_fill(fake_cuda_bytes(memory), len, seed);
    return memory;
}

MCS_UNUSED static void gpu_assert_bytes(const uint8_t *memory, size_t len, uint32_t seed)
{
    uint8_t *wanted = malloc(len);
    gpu_fill(wanted, len, seed);
    assert_memory_equal(fake_cuda_bytes(memory), wanted, len);
    free(wanted);
}

/* A step that uses the driver, with a fresh one. */
MCS_UNUSED static void gpu_start(int devices, int version)
{
    static const char image[] = "an image";
    mcs_gpu_set_kernel_image(image);
    fake_cuda_reset(devices, version);
}

MCS_UNUSED static void gpu_assert_nothing_left(void)
{
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    gpu_assert_nothing(&counts, fake_cuda_violation());
}

#endif
