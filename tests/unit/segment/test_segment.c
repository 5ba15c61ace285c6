/* core/segment/segment: memory that is faulted ahead and never all at once. */
#include "core/segment/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/segment/world.h"

static mcs_faulter_t *g_faulter;
static uint64_t g_yields; /* atomic */

int __wrap_sched_yield(void);
int __real_sched_yield(void);

int __wrap_sched_yield(void)
{
    __atomic_fetch_add(&g_yields, 1, __ATOMIC_RELAXED);
    return __real_sched_yield();
}

static int start_faulter(void **state)
{
    (void)state;
    return mcs_faulter_create(&g_faulter);
}

static int stop_faulter(void **state)
{
    (void)state;
    mcs_faulter_destroy(g_faulter);
    return 0;
}

static mcs_segment_t *new_segment(uint64_t size, uint64_t window)
{
    mcs_segment_config_t config = {
        .size = size, .fault_window = window, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    mcs_segment_t *segment;
    assert_int_equal(mcs_segment_create(&config, g_faulter, &segment), MCS_OK);
    return segment;
}

/* Bytes that the memory file takes. */
static uint64_t allocated(const mcs_segment_t *segment)
{
    struct stat st;
    assert_int_equal(fstat(mcs_segment_fd(segment), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static uint64_t faulted(mcs_segment_t *segment)
{
    return __atomic_load_n(&mcs_segment_ctl(segment)->faulted, __ATOMIC_ACQUIRE);
}

static void three_gibibytes_cost_their_window(void **state)
{
    (void)state;
    uint64_t begin = mcs_now_ns();
    mcs_segment_t *segment = new_segment(3 * MCS_GIB, 16 * MCS_MIB);
    assert_true(mcs_now_ns() - begin < MCS_NS_PER_SEC / 2);
    world_await(faulted(segment) == 16 * MCS_MIB);
    /* Looked at again when the faulter has had every reason to go on. */
    mcs_segment_touch(segment, 1);
    world_await(faulted(segment) > 16 * MCS_MIB);
    assert_true(allocated(segment) <= 17 * MCS_MIB + 8 * MCS_MIB);
    mcs_segment_put(segment);
}

static void the_window_moves_with_the_high_mark_and_ends_with_the_segment(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(40 * MCS_MIB, 8 * MCS_MIB);
    world_await(faulted(segment) == 8 * MCS_MIB);
    mcs_segment_touch(segment, 10 * MCS_MIB);
    world_await(faulted(segment) == 18 * MCS_MIB);
    mcs_segment_touch(segment, 5 * MCS_MIB); /* the mark only grows */
    mcs_segment_touch(segment, UINT64_MAX);
    world_await(faulted(segment) == 40 * MCS_MIB);
    assert_int_equal(mcs_segment_ctl(segment)->high_mark, 40 * MCS_MIB);
    mcs_segment_put(segment);
}

static uint64_t yields(void)
{
    return __atomic_load_n(&g_yields, __ATOMIC_RELAXED);
}

/* Who was woken on its processor meanwhile, or wants to map memory, waits for a piece and not for a time slice. */
static void far_ahead_of_its_users_the_faulter_gives_way_after_each_small_piece(void **state)
{
    (void)state;
    uint64_t before = yields();
    mcs_segment_t *segment = new_segment(64 * MCS_MIB, 64 * MCS_MIB);
    world_await(faulted(segment) == 64 * MCS_MIB);
    assert_true(yields() - before >= 64 * MCS_MIB / 2 / (256 * MCS_KIB));
    mcs_segment_put(segment);
}

static void near_its_users_the_faulter_keeps_its_share(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(64 * MCS_MIB, 4 * MCS_MIB);
    mcs_segment_touch(segment, 64 * MCS_MIB);
    uint64_t before = yields();
    world_await(faulted(segment) == 64 * MCS_MIB);
    assert_true(yields() - before <= 1); /* the piece that it was at */
    mcs_segment_put(segment);
}

/* A mapper has no way to wake the faulter. */
static void a_mark_moved_by_another_process_is_noticed(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(64 * MCS_MIB, 8 * MCS_MIB);
    world_await(faulted(segment) == 8 * MCS_MIB);
    __atomic_store_n(&mcs_segment_ctl(segment)->high_mark, 16 * MCS_MIB, __ATOMIC_RELAXED);
    world_await(faulted(segment) == 24 * MCS_MIB);
    mcs_segment_put(segment);
}

static void a_writer_ahead_of_the_faulter_gets_its_own_range(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(1 * MCS_GIB, 4 * MCS_MIB);
    world_await(faulted(segment) == 4 * MCS_MIB);
    uint64_t before = allocated(segment);
    uint64_t at = 700 * MCS_MIB + 777;
    assert_int_equal(mcs_segment_ensure(segment, at, 1 * MCS_MIB), MCS_OK);
    assert_true(allocated(segment) >= before + 1 * MCS_MIB);
    assert_true(allocated(segment) <= before + 2 * MCS_MIB);
    memset((uint8_t *)mcs_segment_base(segment) + at, 1, 1 * MCS_MIB);
    assert_true(faulted(segment) == 4 * MCS_MIB); /* the prefix is what it was */
    mcs_segment_put(segment);
}

static void ranges_outside_are_refused(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(8 * MCS_MIB, 1 * MCS_MIB);
    assert_int_equal(mcs_segment_ensure(segment, 0, 8 * MCS_MIB), MCS_OK);
    assert_int_equal(mcs_segment_ensure(segment, 8 * MCS_MIB, 0), MCS_OK);
    assert_int_equal(mcs_segment_ensure(segment, 0, 8 * MCS_MIB + 1), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_segment_ensure(segment, 8 * MCS_MIB, 1), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_segment_ensure(segment, UINT64_MAX, 2), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_segment_ensure(segment, 4096, UINT64_MAX), MCS_ERR_INVALID_PARAMS);
    mcs_segment_put(segment);
}

/* The control page is writable for peers of the same user. */
static void a_control_page_full_of_lies_harms_nobody(void **state)
{
    (void)state;
    static const uint64_t lies[] = {0, 1, 4095, UINT64_MAX, UINT64_MAX - 4096, UINT64_C(1) << 63};
    mcs_segment_t *segment = new_segment(16 * MCS_MIB, 2 * MCS_MIB);
    for (size_t i = 0; i < MCS_ARRAY_LEN(lies); i++) {
        mcs_segment_ctl_t *ctl = mcs_segment_ctl(segment);
        __atomic_store_n(&ctl->faulted, lies[i], __ATOMIC_RELAXED);
        __atomic_store_n(&ctl->high_mark, lies[i], __ATOMIC_RELAXED);
        __atomic_store_n(&ctl->size, lies[i], __ATOMIC_RELAXED);
        mcs_segment_touch(segment, 12 * MCS_MIB);
        /* What is ensured is there, whatever the page says. */
        uint64_t at = (5 + i) * MCS_MIB;
        assert_int_equal(mcs_segment_ensure(segment, at, 1 * MCS_MIB), MCS_OK);
        unsigned char core[256];
        assert_int_equal(mincore((uint8_t *)mcs_segment_base(segment) + at, 1 * MCS_MIB, core), 0);
        assert_int_equal(core[0] & core[255] & 1, 1);
        memset((uint8_t *)mcs_segment_base(segment) + at, 1, 1 * MCS_MIB);
    }
    assert_int_equal(mcs_segment_size(segment), 16 * MCS_MIB);
    assert_int_equal(mcs_segment_ensure(segment, 16 * MCS_MIB, 1), MCS_ERR_INVALID_PARAMS);
    mcs_segment_put(segment);
}

static void a_file_that_is_handed_out_is_private_sealed_and_closed_on_exec(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(1 * MCS_MIB, 0);
    int fds[] = {mcs_segment_fd(segment), mcs_segment_ctl_fd(segment)};
    for (size_t i = 0; i < 2; i++) {
        struct stat st;
        assert_int_equal(fstat(fds[i], &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_true((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0);
        assert_int_equal(fcntl(fds[i], F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
                         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        assert_int_not_equal(ftruncate(fds[i], 0), 0);
        assert_int_not_equal(ftruncate(fds[i], 1 << 30), 0);
    }
    mcs_segment_put(segment);
}

static void bad_sizes_are_refused(void **state)
{
    (void)state;
    mcs_segment_t *segment = NULL;
    mcs_segment_config_t config = {.size = 0, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    assert_int_equal(mcs_segment_create(&config, g_faulter, &segment), MCS_ERR_INVALID_PARAMS);
    config.size = UINT64_MAX;
    assert_int_equal(mcs_segment_create(&config, g_faulter, &segment), MCS_ERR_INVALID_PARAMS);
    assert_null(segment);
    config.size = 1;
    assert_int_equal(mcs_segment_create(&config, g_faulter, &segment), MCS_OK);
    assert_int_equal(mcs_segment_size(segment), (uint64_t)sysconf(_SC_PAGESIZE));
    mcs_segment_put(segment);
}

static void each_segment_is_another_instance(void **state)
{
    (void)state;
    mcs_segment_t *one = new_segment(4096, 0);
    mcs_segment_t *two = new_segment(4096, 0);
    assert_false(mcs_id_equal(mcs_segment_instance(one), mcs_segment_instance(two)));
    mcs_segment_put(one);
    mcs_segment_put(two);
}

static void a_reference_outlives_creator_and_faulter(void **state)
{
    (void)state;
    mcs_faulter_t *faulter;
    assert_int_equal(mcs_faulter_create(&faulter), MCS_OK);
    mcs_segment_config_t config = {
        .size = 32 * MCS_MIB, .fault_window = 1 * MCS_MIB, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    mcs_segment_t *segment;
    assert_int_equal(mcs_segment_create(&config, faulter, &segment), MCS_OK);
    mcs_segment_t *view = mcs_segment_get(segment);
    mcs_segment_put(segment);
    mcs_faulter_destroy(faulter);
    mcs_segment_touch(view, 20 * MCS_MIB); /* nobody is there to be woken */
    assert_int_equal(mcs_segment_ensure(view, 20 * MCS_MIB, 4096), MCS_OK);
    memset((uint8_t *)mcs_segment_base(view) + 20 * MCS_MIB, 5, 4096);
    mcs_segment_close(view);
    assert_int_equal(mcs_segment_ctl(view)->closed, 1);
    mcs_segment_put(view);
    mcs_segment_put(NULL);
    mcs_faulter_destroy(NULL);
}

/* More than the pool of almost any machine. Where it is not, the segment has huge pages and nothing is said. */
static void without_huge_pages_a_segment_has_ordinary_ones_and_one_warning_says_so(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    mcs_segment_config_t config = {
        .size = UINT64_C(1) << 39, .huge_pages = true, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    mcs_segment_t *segment = NULL;
    mcs_status_t status = mcs_segment_create(&config, g_faulter, &segment);
    unit_log_release();
    assert_int_equal(status, MCS_OK);
    struct stat st;
    assert_int_equal(fstat(mcs_segment_fd(segment), &st), 0);
    bool huge = (uint64_t)st.st_blksize == 2 * MCS_MIB;
    assert_int_equal(log.lines, huge ? 0 : 1);
    assert_true(huge || (log.level == MCS_LOG_WARN && strstr(log.last, "huge pages") != NULL));
    mcs_segment_put(segment);
}

static void odd_huge_page_sizes_do_not_crash(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, 1, 3, 4096, UINT64_C(1) << 63, UINT64_MAX};
    mcs_log_set_level(MCS_LOG_OFF);
    for (size_t i = 0; i < MCS_ARRAY_LEN(sizes); i++) {
        mcs_segment_config_t config = {
            .size = 1 * MCS_MIB, .huge_pages = true, .huge_page_size = sizes[i], .numa_node = 1000};
        mcs_segment_t *segment = NULL;
        mcs_status_t status = mcs_segment_create(&config, g_faulter, &segment);
        assert_true(status == MCS_OK || status == MCS_ERR_INVALID_PARAMS);
        mcs_segment_put(segment);
    }
    mcs_log_set_level(MCS_LOG_WARN);
}

/* Rule 11. */
static void a_forked_child_has_no_memory_and_no_descriptors(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(1 * MCS_MIB, 1 * MCS_MIB);
    memset(mcs_segment_base(segment), 9, 4096);
    int fd = mcs_segment_fd(segment);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        unsigned char core;
        bool gone = mincore(mcs_segment_base(segment), 4096, &core) != 0 && fcntl(fd, F_GETFD) < 0;
        mcs_segment_put(segment);
        mcs_faulter_destroy(g_faulter);
        _exit(gone ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(((uint8_t *)mcs_segment_base(segment))[4095], 9);
    mcs_segment_put(segment);
}

typedef struct toucher {
    mcs_segment_t *segment;
    uint64_t begin;
    uint32_t wrong;
} toucher_t;

static void *touch_and_write(void *arg)
{
    toucher_t *toucher = arg;
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t at = toucher->begin + i * 20 * MCS_KIB;
        mcs_segment_touch(toucher->segment, at + 4096);
        toucher->wrong += mcs_segment_ensure(toucher->segment, at, 4096) != MCS_OK;
        memset((uint8_t *)mcs_segment_base(toucher->segment) + at, 7, 4096);
        if (i % 50 == 0) {
            mcs_segment_put(mcs_segment_get(toucher->segment));
        }
    }
    return NULL;
}

static void threads_write_while_the_faulter_works(void **state)
{
    (void)state;
    mcs_segment_t *segment = new_segment(32 * MCS_MIB, 1 * MCS_MIB);
    pthread_t threads[4];
    toucher_t touchers[4];
    for (uint64_t i = 0; i < 4; i++) {
        touchers[i] = (toucher_t){.segment = segment, .begin = i * 7 * MCS_MIB};
        assert_int_equal(pthread_create(&threads[i], NULL, touch_and_write, &touchers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(touchers[i].wrong, 0);
    }
    mcs_segment_put(segment);
}

static mcs_status_t make_and_drop(void *arg)
{
    (void)arg;
    mcs_faulter_t *faulter = NULL;
    mcs_segment_t *segment = NULL;
    mcs_segment_config_t config = {
        .size = 1 * MCS_MIB, .fault_window = 0, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    mcs_status_t status = mcs_faulter_create(&faulter);
    if (status == MCS_OK) {
        status = mcs_segment_create(&config, faulter, &segment);
    }
    if (status == MCS_OK) {
        status = mcs_segment_ensure(segment, 0, 4096);
    }
    mcs_segment_put(segment);
    mcs_faulter_destroy(faulter);
    return status;
}

static int open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static void every_failure_is_a_status_and_leaves_nothing(void **state)
{
    (void)state;
    int before = open_fds();
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_ALLOC, make_and_drop, NULL) >= 2);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, make_and_drop, NULL) >= 5);
    mcs_log_set_level(MCS_LOG_WARN);
    assert_int_equal(open_fds(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_gibibytes_cost_their_window),
        cmocka_unit_test(the_window_moves_with_the_high_mark_and_ends_with_the_segment),
        cmocka_unit_test(far_ahead_of_its_users_the_faulter_gives_way_after_each_small_piece),
        cmocka_unit_test(near_its_users_the_faulter_keeps_its_share),
        cmocka_unit_test(a_mark_moved_by_another_process_is_noticed),
        cmocka_unit_test(a_writer_ahead_of_the_faulter_gets_its_own_range),
        cmocka_unit_test(ranges_outside_are_refused),
        cmocka_unit_test(a_control_page_full_of_lies_harms_nobody),
        cmocka_unit_test(a_file_that_is_handed_out_is_private_sealed_and_closed_on_exec),
        cmocka_unit_test(bad_sizes_are_refused),
        cmocka_unit_test(each_segment_is_another_instance),
        cmocka_unit_test(a_reference_outlives_creator_and_faulter),
        cmocka_unit_test(without_huge_pages_a_segment_has_ordinary_ones_and_one_warning_says_so),
        cmocka_unit_test(odd_huge_page_sizes_do_not_crash),
        cmocka_unit_test(a_forked_child_has_no_memory_and_no_descriptors),
        cmocka_unit_test(threads_write_while_the_faulter_works),
        cmocka_unit_test(every_failure_is_a_status_and_leaves_nothing),
    };
    return cmocka_run_group_tests_name("segment/segment", tests, start_faulter, stop_faulter);
}
