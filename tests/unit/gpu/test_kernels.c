/* The kernels themselves, on the processor: gpu/kernels/paged.cu compiled as C, a thread for each of a block's. */
#include <pthread.h>
#include <stdlib.h>

#include "core/base/hash.h"
#include "gpu/crc_math.h"
#include "tests/support/unit.h"

#define BLOCK_MAX 256

typedef struct uint3 {
    unsigned x;
} uint3_t;
typedef struct uint4 {
    uint32_t x, y, z, w;
} uint4;

static _Thread_local uint3_t threadIdx;
static _Thread_local uint3_t blockIdx;
static uint3_t gridDim;
static pthread_barrier_t g_barrier;

static uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return (uint4){x, y, z, w};
}

static uint32_t __funnelshift_r(uint32_t low, uint32_t high, unsigned shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}

static void atomicXor(uint32_t *target, uint32_t value)
{
    (void)__atomic_fetch_xor(target, value, __ATOMIC_RELAXED);
}

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#define __syncthreads() (void)pthread_barrier_wait(&g_barrier)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "gpu/kernels/paged.cu"
#pragma GCC diagnostic pop

/* ---- a launch ---- */

typedef struct launch {
    const void *rows;
    uint32_t count;
    uint32_t *crcs; /* NULL: copies */
    unsigned block;
    unsigned thread;
} launch_t;

static void *run_thread(void *arg)
{
    const launch_t *launch = arg;
    threadIdx.x = launch->thread;
    blockIdx.x = launch->block;
    if (launch->crcs != NULL) {
        mcs_crc_rows(launch->rows, launch->count, launch->crcs);
    } else {
        mcs_copy_rows(launch->rows, launch->count);
    }
    return NULL;
}

/* Blocks one after another: they share nothing. */
static void run_kernel(const void *rows, uint32_t count, uint32_t *crcs, unsigned grid, unsigned threads)
{
    static launch_t launches[BLOCK_MAX];
    static pthread_t ids[BLOCK_MAX];
    gridDim.x = grid;
    pthread_barrier_init(&g_barrier, NULL, threads);
    for (unsigned block = 0; block < grid; block++) {
        for (unsigned t = 0; t < threads; t++) {
            launches[t] = (launch_t){rows, count, crcs, block, t};
            assert_int_equal(pthread_create(&ids[t], NULL, run_thread, &launches[t]), 0);
        }
        for (unsigned t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
        }
    }
    pthread_barrier_destroy(&g_barrier);
}

static uint32_t g_random = 12345;
static uint32_t random_below(uint32_t below)
{
    g_random = g_random * 1664525u + 1013904223u;
    return (g_random >> 8) % below;
}

/* Exact blocks of memory, so that the sanitizer sees every byte too many that is read or written. */
static uint8_t *exact(size_t len, uint8_t **whole_out, size_t offset)
{
    uint8_t *whole = NULL;
    assert_int_equal(posix_memalign((void **)&whole, 16, offset + len), 0);
    for (size_t i = 0; i < offset + len; i++) {
        whole[i] = (uint8_t)random_below(256);
    }
    *whole_out = whole;
    return whole + offset;
}

static void copies_are_right_at_every_alignment_and_length(void **state)
{
    (void)state;
    enum { ROWS = 1100 };
    static gpu_copy_row_t rows[ROWS];
    static uint8_t *sources[ROWS];
    static uint8_t *targets[ROWS];
    static uint8_t *wholes[2][ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        /* All pairs of alignments with short lengths, then longer ones. */
        size_t len = i < 600 ? i / 8 : 1 + random_below(i < 1090 ? 700 : 70000);
        sources[i] = exact(len, &wholes[0][i], i % 16);
        targets[i] = exact(len, &wholes[1][i], i / 16 % 16);
        rows[i] = (gpu_copy_row_t){(uint64_t)(uintptr_t)sources[i], (uint64_t)(uintptr_t)targets[i], len};
    }
    run_kernel(rows, ROWS, NULL, 3, THREADS);
    for (uint32_t i = 0; i < ROWS; i++) {
        assert_memory_equal(targets[i], sources[i], rows[i].len);
        free(wholes[0][i]);
        free(wholes[1][i]);
    }
}

static void sums_of_scattered_blocks_are_the_crc_of_the_whole(void **state)
{
    (void)state;
    enum { BLOCKS = 12, ROWS_MAX = 256 };
    static gpu_crc_row_t rows[ROWS_MAX];
    static const size_t lens[BLOCKS] = {1, 15, 16, 17, 127, 128, 2048, 2049, 65536, 65537, 200001, 1 << 20};
    uint32_t wanted[BLOCKS];
    uint32_t sums[BLOCKS] = {0};
    uint8_t *bytes[BLOCKS];
    uint8_t *wholes[BLOCKS];
    uint32_t count = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        bytes[b] = exact(lens[b], &wholes[b], b % 16);
        wanted[b] = mcs_crc32c(0, bytes[b], lens[b]);
        for (size_t at = 0; at < lens[b];) {
            uint32_t len = 1 + random_below(65536);
            len = len < lens[b] - at ? len : (uint32_t)(lens[b] - at);
            rows[count++] = (gpu_crc_row_t){(uint64_t)(uintptr_t)(bytes[b] + at), len, b, lens[b] - at - len};
            at += len;
            assert_true(count < ROWS_MAX);
        }
    }
    run_kernel(rows, count, sums, 5, CRC_THREADS);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        assert_int_equal(gpu_crc_finish(sums[b], lens[b]), wanted[b]);
        free(wholes[b]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_right_at_every_alignment_and_length),
        cmocka_unit_test(sums_of_scattered_blocks_are_the_crc_of_the_whole),
    };
    return cmocka_run_group_tests_name("gpu_kernels", tests, NULL, NULL);
}
