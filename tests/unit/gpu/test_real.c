/* The memory space on whatever driver the process finds: a real GPU in `make test-gpu`, the fake driver in CI, so that
 * the test itself is known to work. Every way of a copy in both directions, every alignment, CRCs made by the device.
 * Without a driver it is skipped. */
#include <dlfcn.h>

#include "core/base/hash.h"
#include "core/base/macros.h"
#include "gpu/gpu.h"
#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_left.h"

#include <stdlib.h>
#include <sys/mman.h>

static const mcs_mem_space_ops_t *const ops = &mcs_gpu_space_ops;

/* The few calls that a program of its own would make. */
static struct {
    int (*init)(unsigned);
    int (*device_get)(int *, int);
    int (*retain)(cuda_context_t *, int);
    int (*release)(int);
    int (*set)(cuda_context_t);
    int (*alloc)(cuda_ptr_t *, size_t);
    int (*free)(cuda_ptr_t);
    int (*upload)(cuda_ptr_t, const void *, size_t);
    int (*download)(void *, cuda_ptr_t, size_t);
} g_cuda;
static void *g_library;
static int g_handle;
static mcs_mem_space_t *g_space;

static void take(void *library, const char *name, void *field)
{
    *(void **)field = dlsym(library, name);
    assert_non_null(*(void **)field);
}

static int set_up(void **state)
{
    (void)state;
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) {
        return 0;
    }
    g_library = library;
    take(library, "cuInit", &g_cuda.init);
    take(library, "cuDeviceGet", &g_cuda.device_get);
    take(library, "cuDevicePrimaryCtxRetain", &g_cuda.retain);
    take(library, "cuDevicePrimaryCtxRelease_v2", &g_cuda.release);
    take(library, "cuCtxSetCurrent", &g_cuda.set);
    take(library, "cuMemAlloc_v2", &g_cuda.alloc);
    take(library, "cuMemFree_v2", &g_cuda.free);
    take(library, "cuMemcpyHtoD_v2", &g_cuda.upload);
    take(library, "cuMemcpyDtoH_v2", &g_cuda.download);
    cuda_context_t context;
    if (g_cuda.init(0) != 0) {
        return 0;
    }
    assert_int_equal(g_cuda.device_get(&g_handle, 0), 0);
    assert_int_equal(g_cuda.retain(&context, g_handle), 0);
    assert_int_equal(g_cuda.set(context), 0);
    mcs_mem_space_config_t config = {.pin_limit = 4 * MCS_GIB, .stage_count = 2};
    assert_int_equal(ops->open(&config, &g_space), MCS_OK);
    assert_true(ops->look(g_space));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (g_space != NULL) {
        ops->close(g_space);
        assert_int_equal(g_cuda.set(NULL), 0);
        assert_int_equal(g_cuda.release(g_handle), 0);
        gpu_assert_nothing_left_in(g_library);
    }
    return 0;
}

static uint32_t g_random = 99;
static uint32_t random_below(uint32_t below)
{
    g_random = g_random * 1664525u + 1013904223u;
    return (g_random >> 8) % below;
}

#define POOL ((size_t)20 << 20)

typedef struct host {
    uint8_t *base;
    uint64_t faulted;
} host_t;

static void released(void *arg)
{
    munmap(((host_t *)arg)->base, POOL);
}

/* Host memory that copies pin, and as much of the device's; `mirror` is what the device is to have. */
typedef struct world {
    host_t host;
    cuda_ptr_t device;
    uint8_t *mirror;
} world_t;

static void make_world(world_t *world)
{
    world->host.base = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(world->host.base, MAP_FAILED);
    world->host.faulted = POOL;
    world->mirror = malloc(POOL);
    for (size_t i = 0; i < POOL; i++) {
        world->host.base[i] = (uint8_t)(i * 31 + i / 4093);
        world->mirror[i] = (uint8_t)(i * 17 + i / 997);
    }
    assert_int_equal(g_cuda.alloc(&world->device, POOL), 0);
    assert_int_equal(g_cuda.upload(world->device, world->mirror, POOL), 0);
    mcs_mem_host_t host = {world->host.base, POOL, &world->host.faulted, released, &world->host};
    assert_int_equal(ops->add_host(g_space, &host), MCS_OK);
}

static void drop_world(world_t *world)
{
    ops->forget_host(g_space, world->host.base);
    assert_int_equal(g_cuda.free(world->device), 0);
    free(world->mirror);
}

/* Pieces of about `len` bytes at any alignment, not overlapping, with blocks of several pieces. */
static size_t make_pieces(const world_t *world, size_t count, size_t len, mcs_mem_piece_t *pieces)
{
    size_t at_user = 0;
    size_t at_host = 0;
    size_t n = 0;
    for (; n < count; n++) {
        size_t this_len = len - len / 4 + random_below((uint32_t)(len / 2 + 1)) + 1;
        at_user += random_below(37);
        at_host += random_below(37);
        if (at_user + this_len > POOL || at_host + this_len > POOL) {
            break;
        }
        pieces[n] = (mcs_mem_piece_t){.user = (uint8_t *)(uintptr_t)(world->device + at_user),
                                      .host = world->host.base + at_host,
                                      .len = this_len,
                                      .device = 0,
                                      .block = (uint32_t)(n / 5)};
        at_user += this_len;
        at_host += this_len;
    }
    return n;
}

static void run(world_t *world, size_t count, size_t len, bool to_user)
{
    static mcs_mem_piece_t pieces[5000];
    static uint32_t crcs[1000];
    size_t n = make_pieces(world, count, len, pieces);
    size_t blocks = (n + 4) / 5;
    mcs_mem_copy_t copy = {.to_user = to_user, .pieces = pieces, .count = n, .crcs = crcs, .crc_count = blocks};
    mcs_mem_job_t *job;
    bool coming;
    assert_int_equal(ops->copy_begin(g_space, &copy, &job, &coming), MCS_OK);
    assert_int_equal(ops->copy_end(g_space, job), MCS_OK);
    uint32_t wanted[1000] = {0};
    for (size_t i = 0; i < n; i++) {
        uint8_t *mirror = world->mirror + ((uintptr_t)pieces[i].user - world->device);
        if (to_user) {
            memcpy(mirror, pieces[i].host, pieces[i].len);
        } else {
            assert_memory_equal(pieces[i].host, mirror, pieces[i].len);
        }
        wanted[pieces[i].block] = mcs_crc32c(wanted[pieces[i].block], mirror, pieces[i].len);
    }
    if (coming) {
        assert_memory_equal(crcs, wanted, blocks * sizeof(uint32_t));
    }
    if (to_user) {
        uint8_t *back = malloc(POOL);
        assert_int_equal(g_cuda.download(back, world->device, POOL), 0);
        assert_memory_equal(back, world->mirror, POOL); /* and nothing beside it */
        free(back);
    }
}

static void copies_of_every_number_and_size_are_right_both_ways(void **state)
{
    static const struct {
        size_t count, len;
    } rows[] = {{1, 1},       {1, 4096}, {1, 8 << 20},  {2, 65536}, {5, 1000000}, {64, 65536},
                {64, 400000}, {300, 33}, {1024, 16384}, {5000, 5},  {5000, 4096}, {16, 65536}};
    (void)state;
    if (g_space == NULL) {
        print_message("no CUDA driver: skipped\n");
        skip();
    }
    world_t world;
    make_world(&world);
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        run(&world, rows[i].count, rows[i].len, false);
        run(&world, rows[i].count, rows[i].len, true);
    }
    drop_world(&world);
}

static void the_device_makes_the_crcs_when_it_has_kernels(void **state)
{
    (void)state;
    if (g_space == NULL) {
        skip();
    }
    if (g_space->kernel_image == NULL) {
        print_message("built without kernels: skipped\n");
        skip();
    }
    world_t world;
    make_world(&world);
    mcs_mem_piece_t pieces[8];
    uint32_t crcs[2];
    size_t n = make_pieces(&world, 8, 100000, pieces);
    mcs_mem_copy_t copy = {.pieces = pieces, .count = n, .crcs = crcs, .crc_count = 2};
    mcs_mem_job_t *job;
    bool coming = false;
    assert_int_equal(ops->copy_begin(g_space, &copy, &job, &coming), MCS_OK);
    assert_int_equal(ops->copy_end(g_space, job), MCS_OK);
    assert_true(coming);
    drop_world(&world);
}

/* As before a store and after a fetch by RDMA devices; where the device is open to them, too. */
static void bytes_are_summed_where_they_lie(void **state)
{
    static const struct {
        size_t count, len;
    } rows[] = {{1, 10}, {1, 1 << 20}, {8, 100000}, {64, 65536}, {1000, 16384}, {4000, 4096}};
    static mcs_mem_piece_t pieces[4000];
    static uint32_t crcs[800];
    (void)state;
    if (g_space == NULL || g_space->kernel_image == NULL) {
        skip();
    }
    world_t world;
    make_world(&world);
    for (size_t i = 0; i < 2 * MCS_ARRAY_LEN(rows); i++) {
        if (i == MCS_ARRAY_LEN(rows)) {
            bool open = ops->open_to_rdma(g_space, (const void *)(uintptr_t)world.device, POOL);
            const gpu_device_t *device = &g_space->devices[0];
            print_message("open to RDMA devices: %s\n", open ? "yes" : "no");
            assert_true(open || device->rdma == GPU_RDMA_NONE);
        }
        size_t n = make_pieces(&world, rows[i / 2].count, rows[i / 2].len, pieces);
        uint32_t wanted[800] = {0};
        for (size_t p = 0; p < n; p++) {
            const uint8_t *mirror = world.mirror + ((uintptr_t)pieces[p].user - world.device);
            wanted[pieces[p].block] = mcs_crc32c(wanted[pieces[p].block], mirror, pieces[p].len);
            pieces[p].host = NULL;
        }
        mcs_mem_copy_t copy = {.to_user = i % 2 == 0,
                               .sums_only = true,
                               .pieces = pieces,
                               .count = n,
                               .crcs = crcs,
                               .crc_count = (n + 4) / 5};
        mcs_mem_job_t *job;
        bool coming = false;
        assert_int_equal(ops->copy_begin(g_space, &copy, &job, &coming), MCS_OK);
        assert_int_equal(ops->copy_end(g_space, job), MCS_OK);
        assert_true(coming);
        assert_memory_equal(crcs, wanted, copy.crc_count * sizeof(uint32_t));
    }
    drop_world(&world);
}

static void *ask(void *arg)
{
    mcs_mem_where_t where = {.kind = MCS_MEM_PAGEABLE};
    cuda_ptr_t ptr = *(const cuda_ptr_t *)arg;
    bool known = ops->query(g_space, (const void *)(uintptr_t)ptr, &where) == MCS_OK && where.kind == MCS_MEM_DEVICE;
    return known ? arg : NULL;
}

static void threads_without_a_context_know_device_memory(void **state)
{
    (void)state;
    if (g_space == NULL) {
        skip();
    }
    cuda_ptr_t ptr;
    assert_int_equal(g_cuda.alloc(&ptr, 4096), 0);
    pthread_t thread;
    void *known = NULL;
    assert_int_equal(pthread_create(&thread, NULL, ask, &ptr), 0);
    pthread_join(thread, &known);
    assert_ptr_equal(known, &ptr);
    assert_int_equal(g_cuda.free(ptr), 0);
}

static void callers_get_memory_and_wait_for_streams(void **state)
{
    (void)state;
    if (g_space == NULL) {
        skip();
    }
    enum { LEN = 3000001 };
    mcs_mem_block_t *blocks[2];
    mcs_mem_where_t where;
    uint64_t stream;
    uint8_t *bytes = malloc(LEN);
    uint8_t *back = calloc(LEN, 1);
    for (size_t i = 0; i < LEN; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 1001);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ops->block_alloc(g_space, 0, LEN, &blocks[i]), MCS_OK);
        assert_int_equal(ops->query(g_space, (char *)blocks[i]->ptr + LEN - 1, &where), MCS_OK);
        assert_int_equal(where.kind, MCS_MEM_DEVICE);
        assert_int_equal(where.device, 0);
    }
    assert_int_equal(g_cuda.upload((cuda_ptr_t)(uintptr_t)blocks[0]->ptr, bytes, LEN), 0);
    assert_int_equal(ops->order_stream(g_space, 0, &stream), MCS_OK);
    assert_int_equal(ops->wait_stream(g_space, 0, stream), MCS_OK);
    for (stream = 0; stream <= 2; stream++) {
        assert_int_equal(ops->wait_stream(g_space, 0, stream), MCS_OK);
    }
    assert_int_equal(ops->block_copy(blocks[0], 0, blocks[1]->ptr, LEN), MCS_OK);
    assert_int_equal(ops->block_copy(blocks[1], 1, back + 1, LEN - 1), MCS_OK);
    assert_memory_equal(back + 1, bytes + 1, LEN - 1);
    ops->block_free(blocks[0]);
    ops->block_free(blocks[1]);
    assert_int_equal(ops->block_alloc(g_space, 0, UINT64_C(1) << 50, &blocks[0]), MCS_ERR_NO_MEMORY);
    free(bytes);
    free(back);
}

static void run_far(const mcs_mem_far_t *far, bool to_user, void *user, int device, size_t len, uint32_t *crc)
{
    bool coming;
    mcs_mem_job_t *job;
    mcs_mem_piece_t piece = {.user = user,
                             .host = far->base + 4096,
                             .len = len,
                             .device = (int16_t)device,
                             .block = crc != NULL ? 0 : MCS_MEM_NO_BLOCK};
    mcs_mem_copy_t copy = {
        .to_user = to_user, .far = far, .pieces = &piece, .count = 1, .crcs = crc, .crc_count = crc != NULL ? 1 : 0};
    assert_int_equal(ops->copy_begin(g_space, &copy, &job, &coming), MCS_OK);
    assert_int_equal(ops->copy_end(g_space, job), MCS_OK);
    if (crc != NULL && !coming) {
        *crc = 0;
    }
}

/* As a second process opens it, and after its maker has let go of it (virtual memory; legacy handles are for other
 * processes alone). */
static void far_memory_is_there_for_who_opens_it(void **state)
{
    (void)state;
    if (g_space == NULL) {
        skip();
    }
    const size_t len = 5 * MCS_MIB + 77;
    mcs_mem_far_t *mine;
    mcs_mem_far_t *theirs;
    cuda_ptr_t device;
    uint8_t *from = malloc(len);
    uint8_t *to = calloc(1, len);
    uint32_t crc = 0;
    for (size_t i = 0; i < len; i++) {
        from[i] = (uint8_t)(i * 13 + i / 1021);
    }
    assert_int_equal(ops->far_create(g_space, 0, 6 * MCS_MIB + 1, &mine), MCS_OK);
    assert_true(mine->size > 6 * MCS_MIB);
    run_far(mine, false, from, MCS_MEM_HOST, len, NULL);
    if (mine->share.kind == MCS_MEM_SHARE_FD) {
        assert_int_equal(ops->far_open(g_space, &mine->share, mine->fd, &theirs), MCS_OK);
        ops->far_close(g_space, mine);
        mine = theirs;
    }
    assert_int_equal(g_cuda.alloc(&device, len), 0);
    run_far(mine, true, (void *)(uintptr_t)device, 0, len, &crc);
    assert_true(crc == 0 || crc == mcs_crc32c(0, from, len));
    assert_int_equal(g_cuda.download(to, device, len), 0);
    assert_memory_equal(to, from, len);
    memset(to, 0, len);
    run_far(mine, true, to, MCS_MEM_HOST, len, NULL);
    assert_memory_equal(to, from, len);
    ops->far_close(g_space, mine);
    assert_int_equal(g_cuda.free(device), 0);
    free(from);
    free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_of_every_number_and_size_are_right_both_ways),
        cmocka_unit_test(threads_without_a_context_know_device_memory),
        cmocka_unit_test(callers_get_memory_and_wait_for_streams),
        cmocka_unit_test(the_device_makes_the_crcs_when_it_has_kernels),
        cmocka_unit_test(bytes_are_summed_where_they_lie),
        cmocka_unit_test(far_memory_is_there_for_who_opens_it),
    };
    return cmocka_run_group_tests_name("gpu_real", tests, set_up, tear_down);
}
