/* core/base/arena: alignment, the cap, what reset keeps. */
#include <signal.h>

#include "core/base/arena.h"
#include "tests/support/unit.h"

static void pieces_are_aligned_and_do_not_overlap(void **state)
{
    (void)state;
    mcs_arena_t a;
    uint8_t *pieces[200];
    mcs_arena_init(&a, 1024, MCS_MIB);
    for (size_t i = 0; i < 200; i++) { /* sizes around and above the chunk */
        size_t size = i * 13;
        pieces[i] = mcs_arena_alloc(&a, size);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        memset(pieces[i], (int)i, size);
    }
    for (size_t i = 0; i < 200; i++) {
        for (size_t at = 0; at < i * 13; at++) {
            assert_int_equal(pieces[i][at], (uint8_t)i);
        }
    }
    mcs_arena_fini(&a);
}

static void cap_bounds_what_is_handed_out(void **state)
{
    (void)state;
    mcs_arena_t a;
    mcs_arena_init(&a, 256, 1000);
    assert_null(mcs_arena_alloc(&a, 1001));
    assert_non_null(mcs_arena_alloc(&a, 500));
    assert_null(mcs_arena_alloc(&a, 500)); /* 512 are used: pieces are rounded up */
    assert_non_null(mcs_arena_alloc(&a, 400));
    mcs_arena_reset(&a);
    assert_non_null(mcs_arena_alloc(&a, 900));
    mcs_arena_fini(&a);
}

static void sizes_that_wrap_around_are_refused(void **state)
{
    (void)state;
    mcs_arena_t a;
    const size_t caps[] = {1000, SIZE_MAX};
    for (size_t i = 0; i < MCS_ARRAY_LEN(caps); i++) {
        mcs_arena_init(&a, 256, caps[i]);
        for (size_t less = 0; less < 64; less++) {
            assert_null(mcs_arena_alloc(&a, SIZE_MAX - less));
            assert_null(mcs_arena_zalloc(&a, SIZE_MAX - less));
            assert_null(mcs_arena_strndup(&a, "x", SIZE_MAX - less));
        }
        assert_int_equal(a.used, 0);
        mcs_arena_fini(&a);
    }
}

static void reset_keeps_one_chunk_and_frees_the_rest(void **state)
{
    (void)state;
    mcs_arena_t a;
    mcs_arena_init(&a, 4096, MCS_MIB);
    void *first = mcs_arena_alloc(&a, 100);
    for (int i = 0; i < 50; i++) {
        assert_non_null(mcs_arena_alloc(&a, 3000));
    }
    mcs_arena_reset(&a);
    mcs_fault_arm(MCS_FAULT_ALLOC, 1); /* the kept chunk needs no new memory */
    assert_ptr_equal(mcs_arena_alloc(&a, 100), first);
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    mcs_arena_fini(&a);
    mcs_arena_reset(&a);
    mcs_arena_fini(&a);
}

static void zalloc_zeroes_and_strndup_terminates(void **state)
{
    (void)state;
    mcs_arena_t a;
    mcs_arena_init(&a, 4096, MCS_MIB);
    memset(mcs_arena_alloc(&a, 4000), 0xff, 4000);
    mcs_arena_reset(&a);
    uint8_t *zeros = mcs_arena_zalloc(&a, 2000);
    for (size_t i = 0; i < 2000; i++) {
        assert_int_equal(zeros[i], 0);
    }
    assert_string_equal(mcs_arena_strndup(&a, "abcdef", 3), "abc");
    assert_string_equal(mcs_arena_strndup(&a, "abc", 0), "");
    mcs_arena_fini(&a);
}

static mcs_status_t fill(void *arg)
{
    mcs_arena_t a;
    (void)arg;
    mcs_arena_init(&a, 512, MCS_MIB);
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; i < 20 && status == MCS_OK; i++) {
        size_t used = a.used;
        if (mcs_arena_zalloc(&a, i * 50) == NULL) {
            assert_int_equal(a.used, used);
            status = MCS_ERR_NO_MEMORY;
            assert_non_null(mcs_arena_alloc(&a, i * 50)); /* goes on when there is memory again */
        }
    }
    mcs_arena_fini(&a);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, fill, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_and_do_not_overlap),
        cmocka_unit_test(cap_bounds_what_is_handed_out),
        cmocka_unit_test(sizes_that_wrap_around_are_refused),
        cmocka_unit_test(reset_keeps_one_chunk_and_frees_the_rest),
        cmocka_unit_test(zalloc_zeroes_and_strndup_terminates),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
