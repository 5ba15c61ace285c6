/* Host memory that copies pin: in pieces, behind what has been faulted in, within a limit, undone on every way out. */
#include <pthread.h>
#include <sys/mman.h>

#include "core/base/macros.h"
#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_world.h"

static const mcs_mem_space_ops_t *const ops = &mcs_gpu_space_ops;

#define SIZE (GPU_HOST_PIECE * 3 + 4096)

typedef struct segment {
    uint8_t *base;
    uint64_t faulted;
    int released;
} segment_t;

typedef struct fixture {
    mcs_mem_space_t *space;
    segment_t segment;
    uint8_t *device;
} fixture_t;

static void released(void *arg)
{
    segment_t *segment = arg;
    segment->released++;
    munmap(segment->base, SIZE); /* the fake driver looks whether it was still pinned */
}

static void open_fixture(fixture_t *fixture, uint64_t pin_limit)
{
    gpu_start(1, 13000);
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_mem_space_config_t config = {.pin_limit = pin_limit, .stage_count = 2};
    assert_int_equal(ops->open(&config, &fixture->space), MCS_OK);
    assert_true(ops->look(fixture->space));
    fixture->segment = (segment_t){0};
    fixture->segment.base =
        mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(fixture->segment.base, MAP_FAILED);
    fixture->device = gpu_memory(0, 64 * 1024, FAKE_DEVICE, 0, 4);
    mcs_mem_host_t host = {fixture->segment.base, SIZE, &fixture->segment.faulted, released, &fixture->segment};
    assert_int_equal(ops->add_host(fixture->space, &host), MCS_OK);
    assert_int_equal(ops->add_host(fixture->space, &host), MCS_ERR_SEGMENT_ALREADY_EXISTS);
}

static void close_fixture(fixture_t *fixture)
{
    ops->close(fixture->space);
    assert_int_equal(fixture->segment.released, 1);
    fake_cuda_free(fixture->device);
    gpu_assert_nothing_left();
}

static mcs_mem_job_t *begin(fixture_t *fixture, uint64_t offset, const mcs_mem_copy_t *copy, mcs_mem_piece_t *piece)
{
    *piece = (mcs_mem_piece_t){fixture->device, fixture->segment.base + offset, 64 * 1024, 0, MCS_MEM_NO_BLOCK};
    mcs_mem_job_t *job = NULL;
    bool coming;
    assert_int_equal(ops->copy_begin(fixture->space, copy, &job, &coming), MCS_OK);
    return job;
}

static void copy_at(fixture_t *fixture, uint64_t offset)
{
    mcs_mem_piece_t piece;
    mcs_mem_copy_t copy = {.pieces = &piece, .count = 1};
    assert_int_equal(ops->copy_end(fixture->space, begin(fixture, offset, &copy, &piece)), MCS_OK);
    assert_memory_equal(fixture->segment.base + offset, fake_cuda_bytes(fixture->device), 64 * 1024);
}

static fake_counts_t counts(void)
{
    fake_counts_t now;
    fake_cuda_counts(&now);
    return now;
}

static void pieces_are_pinned_once_they_have_been_faulted_in(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, MCS_GIB);
    f.segment.faulted = GPU_HOST_PIECE * 2 - 1;
    copy_at(&f, 100);
    assert_int_equal(counts().registered, 1);
    assert_int_equal(counts().unpinned_copies, 0);
    copy_at(&f, GPU_HOST_PIECE + 100); /* not all of it */
    assert_int_equal(counts().registered, 1);
    assert_int_equal(counts().unpinned_copies, 1);
    f.segment.faulted = SIZE;
    copy_at(&f, GPU_HOST_PIECE * 2 - 1000); /* over an edge: two copies */
    copy_at(&f, GPU_HOST_PIECE * 3 - 60 * 1024 - 4096 + 4096);
    assert_int_equal(counts().registered, 4);
    assert_int_equal(counts().unpinned_copies, 1);
    close_fixture(&f);
}

static void what_may_be_pinned_has_a_limit(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, GPU_HOST_PIECE);
    f.segment.faulted = SIZE;
    copy_at(&f, 0);
    copy_at(&f, GPU_HOST_PIECE);
    copy_at(&f, 0);
    assert_int_equal(counts().registered, 1);
    assert_int_equal(counts().unpinned_copies, 1);
    close_fixture(&f);
}

static void a_piece_that_cannot_be_pinned_is_copied_all_the_same(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, MCS_GIB);
    f.segment.faulted = SIZE;
    fake_cuda_fail("cuMemHostRegister_v2", 1, 2);
    copy_at(&f, 0);
    fake_cuda_fail("cuMemHostGetDevicePointer_v2", 1, 1);
    copy_at(&f, GPU_HOST_PIECE);
    copy_at(&f, 0);
    assert_int_equal(counts().registered, 0);
    assert_int_equal(counts().unpinned_copies, 3);
    close_fixture(&f);
}

static void forgotten_memory_is_released_when_the_last_job_has_ended(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, MCS_GIB);
    f.segment.faulted = SIZE;
    mcs_mem_piece_t piece;
    mcs_mem_copy_t copy = {.pieces = &piece, .count = 1};
    mcs_mem_job_t *job = begin(&f, 0, &copy, &piece);
    ops->forget_host(f.space, f.segment.base);
    assert_int_equal(f.segment.released, 0);
    assert_int_equal(counts().registered, 1);
    assert_int_equal(ops->copy_end(f.space, job), MCS_OK);
    assert_int_equal(f.segment.released, 1);
    assert_int_equal(counts().registered, 0);
    ops->forget_host(f.space, f.segment.base); /* nothing there */
    close_fixture(&f);
}

typedef struct worker {
    fixture_t *fixture;
    uint64_t offset;
} worker_t;

static void *work(void *arg)
{
    const worker_t *worker = arg;
    for (int i = 0; i < 50; i++) {
        mcs_mem_piece_t piece = {worker->fixture->device, worker->fixture->segment.base + worker->offset, 4096, 0,
                                 MCS_MEM_NO_BLOCK};
        mcs_mem_copy_t copy = {.pieces = &piece, .count = 1};
        mcs_mem_job_t *job = NULL;
        bool coming;
        if (ops->copy_begin(worker->fixture->space, &copy, &job, &coming) == MCS_OK) {
            (void)ops->copy_end(worker->fixture->space, job);
        }
    }
    return NULL;
}

static void threads_pin_a_piece_once(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, MCS_GIB);
    f.segment.faulted = SIZE;
    pthread_t threads[4];
    worker_t workers[4];
    for (size_t i = 0; i < 4; i++) {
        workers[i] = (worker_t){&f, (i % 2) * GPU_HOST_PIECE + i * 8192};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_memory_equal(f.segment.base + workers[i].offset, fake_cuda_bytes(f.device), 4096);
    }
    assert_int_equal(counts().registered, 2);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_pinned_once_they_have_been_faulted_in),
        cmocka_unit_test(what_may_be_pinned_has_a_limit),
        cmocka_unit_test(a_piece_that_cannot_be_pinned_is_copied_all_the_same),
        cmocka_unit_test(forgotten_memory_is_released_when_the_last_job_has_ended),
        cmocka_unit_test(threads_pin_a_piece_once),
    };
    return cmocka_run_group_tests_name("gpu_hosts", tests, NULL, NULL);
}
