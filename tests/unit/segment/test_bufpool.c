/* core/segment/bufpool: the local buffer. */
#include "core/segment/bufpool.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "core/base/macros.h"
#include "tests/support/unit.h"

static mcs_bufpool_t *new_pool(uint64_t size)
{
    mcs_bufpool_t *pool;
    assert_int_equal(mcs_bufpool_create(size, &pool), MCS_OK);
    return pool;
}

static void pieces_are_aligned_apart_and_inside(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(1 * MCS_MIB);
    uint8_t *one, *two;
    assert_int_equal(mcs_bufpool_alloc(pool, 1, (void **)&one), MCS_OK);
    assert_int_equal(mcs_bufpool_alloc(pool, 65, (void **)&two), MCS_OK);
    assert_int_equal((uintptr_t)one % 64, 0);
    assert_int_equal((uintptr_t)two % 64, 0);
    assert_true(one + 64 <= two || two + 128 <= one);
    assert_int_equal(mcs_bufpool_used(pool), 64 + 128);
    assert_true(mcs_bufpool_contains(pool, one, 64));
    assert_false(mcs_bufpool_contains(pool, &pool, 1));
    assert_false(mcs_bufpool_contains(pool, one, 2 * MCS_MIB));
    assert_false(mcs_bufpool_contains(pool, one, UINT64_MAX));
    memset(one, 1, 64);
    memset(two, 2, 128);
    mcs_bufpool_free(pool, one);
    mcs_bufpool_free(pool, two);
    mcs_bufpool_free(pool, NULL);
    assert_int_equal(mcs_bufpool_used(pool), 0);
    mcs_bufpool_put(pool);
}

static void too_large_and_full_are_told_apart(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(64 * MCS_KIB);
    void *all, *more;
    assert_int_equal(mcs_bufpool_alloc(pool, 0, &all), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_bufpool_alloc(pool, 64 * MCS_KIB + 1, &all), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_bufpool_alloc(pool, UINT64_MAX, &all), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_bufpool_alloc(pool, 64 * MCS_KIB, &all), MCS_OK);
    assert_int_equal(mcs_bufpool_alloc(pool, 1, &more), MCS_ERR_NO_MEMORY);
    mcs_bufpool_free(pool, all);
    assert_int_equal(mcs_bufpool_alloc(pool, 1, &more), MCS_OK);
    mcs_bufpool_free(pool, more);
    mcs_bufpool_put(pool);
}

static void an_empty_pool_gives_nothing(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(0);
    void *piece;
    assert_int_equal(mcs_bufpool_alloc(pool, 1, &piece), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_bufpool_size(pool), 0);
    assert_false(mcs_bufpool_contains(pool, NULL, 0));
    mcs_bufpool_put(pool);
    mcs_bufpool_put(NULL);
}

static void a_reference_keeps_the_memory_after_the_creator_has_gone(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(1 * MCS_MIB);
    uint8_t *piece;
    assert_int_equal(mcs_bufpool_alloc(pool, 1000, (void **)&piece), MCS_OK);
    mcs_bufpool_t *held = mcs_bufpool_get(pool);
    mcs_bufpool_put(pool);
    memset(piece, 7, 1000);
    mcs_bufpool_free(held, piece);
    mcs_bufpool_put(held);
}

/* What is live never overlaps, keeps its bytes, and everything merges to one piece at the end. */
static void long_churn_agrees_with_a_model(void **state)
{
    (void)state;
    enum { LIVE = 200, ROUNDS = 60000 };
    const uint64_t size = 4 * MCS_MIB;
    mcs_bufpool_t *pool = new_pool(size);
    struct {
        uint8_t *at;
        uint64_t len;
        uint8_t mark;
    } live[LIVE] = {0};
    uint64_t seed = 5;
    uint64_t used = 0;
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        size_t i = (seed >> 33) % LIVE;
        if (live[i].at == NULL) {
            uint64_t len = 1 + (seed >> 40) % ((seed >> 30 & 7) == 0 ? 300000 : 2000);
            void *piece;
            mcs_status_t status = mcs_bufpool_alloc(pool, len, &piece);
            if (status != MCS_OK) {
                assert_int_equal(status, MCS_ERR_NO_MEMORY);
                continue;
            }
            live[i].at = piece;
            live[i].len = len;
            live[i].mark = (uint8_t)round;
            live[i].at[0] = live[i].at[len - 1] = live[i].mark;
            used += MCS_ALIGN_UP(len, UINT64_C(64));
            assert_true(mcs_bufpool_contains(pool, piece, len));
        } else {
            assert_int_equal(live[i].at[0], live[i].mark);
            assert_int_equal(live[i].at[live[i].len - 1], live[i].mark);
            mcs_bufpool_free(pool, live[i].at);
            used -= MCS_ALIGN_UP(live[i].len, UINT64_C(64));
            live[i].at = NULL;
        }
        assert_int_equal(mcs_bufpool_used(pool), used);
    }
    for (size_t i = 0; i < LIVE; i++) {
        mcs_bufpool_free(pool, live[i].at);
    }
    void *all;
    assert_int_equal(mcs_bufpool_alloc(pool, size, &all), MCS_OK);
    mcs_bufpool_free(pool, all);
    mcs_bufpool_put(pool);
}

/* The only free piece that fits may lie behind many of its kind that do not. */
static void a_piece_that_fits_is_found_among_many_that_do_not(void **state)
{
    (void)state;
    enum { PIECES = 1000 };
    mcs_bufpool_t *pool = new_pool(PIECES * (1088 + 64) + 1984 + 64);
    void *small[PIECES], *wall, *large, *last;
    assert_int_equal(mcs_bufpool_alloc(pool, 1984, &large), MCS_OK);
    assert_int_equal(mcs_bufpool_alloc(pool, 64, &wall), MCS_OK);
    void *walls[PIECES];
    for (size_t i = 0; i < PIECES; i++) {
        assert_int_equal(mcs_bufpool_alloc(pool, 1088, &small[i]), MCS_OK);
        assert_int_equal(mcs_bufpool_alloc(pool, 64, &walls[i]), MCS_OK);
    }
    mcs_bufpool_free(pool, large);
    for (size_t i = 0; i < PIECES; i++) {
        mcs_bufpool_free(pool, small[i]);
    }
    assert_int_equal(mcs_bufpool_alloc(pool, 1984, &last), MCS_OK);
    assert_ptr_equal(last, large);
    assert_int_equal(mcs_bufpool_alloc(pool, 1984, &last), MCS_ERR_NO_MEMORY);
    mcs_bufpool_put(pool);
}

typedef struct worker {
    mcs_bufpool_t *pool;
    uint8_t mark;
    uint32_t wrong;
} worker_t;

static void *work(void *arg)
{
    worker_t *worker = arg;
    for (int i = 0; i < 3000; i++) {
        uint8_t *piece;
        uint64_t len = 64 + (uint64_t)(i * 7919) % 20000;
        if (mcs_bufpool_alloc(worker->pool, len, (void **)&piece) != MCS_OK) {
            continue;
        }
        memset(piece, worker->mark, len);
        for (uint64_t at = 0; at < len; at += 61) {
            worker->wrong += piece[at] != worker->mark;
        }
        mcs_bufpool_free(worker->pool, piece);
    }
    return NULL;
}

static void threads_have_pieces_of_their_own(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(256 * MCS_KIB);
    pthread_t threads[4];
    worker_t workers[4];
    for (uint8_t i = 0; i < 4; i++) {
        workers[i] = (worker_t){.pool = pool, .mark = (uint8_t)(i + 1)};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_int_equal(mcs_bufpool_used(pool), 0);
    mcs_bufpool_put(pool);
}

static void large_pieces_come_and_go_while_others_work(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(64 * MCS_MIB);
    worker_t worker = {.pool = pool, .mark = 9};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work, &worker), 0);
    for (uint8_t i = 1; i <= 20; i++) {
        uint8_t *piece;
        assert_int_equal(mcs_bufpool_alloc(pool, 16 * MCS_MIB, (void **)&piece), MCS_OK);
        for (uint64_t at = 0; at < 16 * MCS_MIB; at += 4096) {
            piece[at] = i;
        }
        for (uint64_t at = 0; at < 16 * MCS_MIB; at += 4096) {
            assert_int_equal(piece[at], i);
        }
        mcs_bufpool_free(pool, piece);
    }
    pthread_join(thread, NULL);
    assert_int_equal(worker.wrong, 0);
    mcs_bufpool_put(pool);
}

static void free_twice(void *arg)
{
    (void)arg;
    mcs_bufpool_t *pool;
    void *piece;
    if (mcs_bufpool_create(64 * MCS_KIB, &pool) == MCS_OK && mcs_bufpool_alloc(pool, 100, &piece) == MCS_OK) {
        mcs_bufpool_free(pool, piece);
        mcs_bufpool_free(pool, piece);
    }
}

static void a_piece_given_back_twice_ends_the_process(void **state)
{
    (void)state;
    assert_true(unit_aborts(free_twice, NULL, "block"));
}

/* Rule 11: the child has none of the memory, and what it does to the pool touches nothing. */
static void a_forked_child_leaves_the_pool_alone(void **state)
{
    (void)state;
    mcs_bufpool_t *pool = new_pool(1 * MCS_MIB);
    uint8_t *piece;
    assert_int_equal(mcs_bufpool_alloc(pool, 1000, (void **)&piece), MCS_OK);
    memset(piece, 3, 1000);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        void *more;
        bool fine = mcs_bufpool_alloc(pool, 10, &more) == MCS_ERR_FORKED;
        mcs_bufpool_free(pool, piece);
        mcs_bufpool_put(pool);
        _exit(fine ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(piece[999], 3);
    mcs_bufpool_free(pool, piece);
    mcs_bufpool_put(pool);
}

static mcs_status_t make_and_use(void *arg)
{
    (void)arg;
    mcs_bufpool_t *pool = NULL;
    mcs_status_t status = mcs_bufpool_create(1 * MCS_MIB, &pool);
    void *pieces[8] = {NULL};
    for (size_t i = 0; i < 8 && status == MCS_OK; i++) {
        uint64_t used = mcs_bufpool_used(pool);
        status = mcs_bufpool_alloc(pool, 1000, &pieces[i]);
        if (status != MCS_OK) {
            assert_int_equal(mcs_bufpool_used(pool), used);
        }
    }
    for (size_t i = 0; i < 8; i++) {
        if (pool != NULL) {
            mcs_bufpool_free(pool, pieces[i]);
        }
    }
    if (pool != NULL) {
        assert_int_equal(mcs_bufpool_used(pool), 0);
    }
    mcs_bufpool_put(pool);
    return status;
}

static void failures_leave_the_pool_as_it_was(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, make_and_use, NULL) >= 3);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, make_and_use, NULL) >= 1);
    mcs_log_set_level(MCS_LOG_WARN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_apart_and_inside),
        cmocka_unit_test(too_large_and_full_are_told_apart),
        cmocka_unit_test(an_empty_pool_gives_nothing),
        cmocka_unit_test(a_reference_keeps_the_memory_after_the_creator_has_gone),
        cmocka_unit_test(long_churn_agrees_with_a_model),
        cmocka_unit_test(a_piece_that_fits_is_found_among_many_that_do_not),
        cmocka_unit_test(threads_have_pieces_of_their_own),
        cmocka_unit_test(large_pieces_come_and_go_while_others_work),
        cmocka_unit_test(a_piece_given_back_twice_ends_the_process),
        cmocka_unit_test(a_forked_child_leaves_the_pool_alone),
        cmocka_unit_test(failures_leave_the_pool_as_it_was),
    };
    return cmocka_run_group_tests_name("segment/bufpool", tests, NULL, NULL);
}
