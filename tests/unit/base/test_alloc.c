/* core/base/alloc and fault: sizes at the edges, and that an armed fault fails exactly the call it names. */
#include <pthread.h>
#include <signal.h>

#include "core/base/alloc.h"
#include "tests/support/unit.h"

static void size_zero_gives_a_block(void **state)
{
    (void)state;
    void *blocks[] = {mcs_malloc(0), mcs_calloc(0, 8), mcs_calloc(8, 0), mcs_realloc(NULL, 0),
                      mcs_aligned_alloc(64, 0)};
    for (size_t i = 0; i < MCS_ARRAY_LEN(blocks); i++) {
        assert_non_null(blocks[i]);
        mcs_free(blocks[i]);
    }
    mcs_free(NULL);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    volatile size_t huge = SIZE_MAX / 2 + 2; /* the compiler would warn of a constant */
    assert_null(mcs_calloc(huge, 2));
    assert_null(mcs_calloc(huge, huge));
    assert_null(mcs_aligned_alloc(64, SIZE_MAX - 8));
}

static void calloc_is_zeroed_and_aligned_is_aligned(void **state)
{
    (void)state;
    uint8_t *zeros = mcs_calloc(100, 3);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(zeros[i], 0);
    }
    mcs_free(zeros);
    for (size_t align = sizeof(void *); align <= 65536; align *= 2) {
        void *block = mcs_aligned_alloc(align, 10);
        assert_int_equal((uintptr_t)block % align, 0);
        mcs_free(block);
    }
}

static void strings_are_copied(void **state)
{
    (void)state;
    char *whole = mcs_strdup("seg-1");
    char *part = mcs_strndup("seg-1", 3);
    char *empty = mcs_strdup("");
    char *text = mcs_asprintf("%s:%d/%s", "host", 7, "");
    assert_string_equal(whole, "seg-1");
    assert_string_equal(part, "seg");
    assert_string_equal(empty, "");
    assert_string_equal(text, "host:7/");
    mcs_free(whole);
    mcs_free(part);
    mcs_free(empty);
    mcs_free(text);
}

static void armed_fault_fails_the_named_call_once(void **state)
{
    (void)state;
    mcs_fault_arm(MCS_FAULT_ALLOC, 3);
    void *blocks[5];
    for (size_t i = 0; i < 5; i++) {
        blocks[i] = mcs_malloc(8);
        assert_int_equal(blocks[i] == NULL, i == 2);
    }
    assert_true(mcs_fault_fired(MCS_FAULT_ALLOC));
    assert_int_equal(mcs_fault_count(MCS_FAULT_ALLOC), 5);
    assert_false(mcs_fault_fired(MCS_FAULT_SYSCALL));
    for (size_t i = 0; i < 5; i++) {
        mcs_free(blocks[i]);
    }
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    assert_false(mcs_fault_fired(MCS_FAULT_ALLOC));
    assert_false(mcs_fault_hit(MCS_FAULT_ALLOC));
}

static void every_kind_of_allocation_can_fail(void **state)
{
    (void)state;
    char *block = mcs_strdup("stays");
    for (int kind = 0; kind < 6; kind++) {
        void *got = NULL;
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        switch (kind) {
        case 0: got = mcs_malloc(8); break;
        case 1: got = mcs_calloc(1, 8); break;
        case 2: got = mcs_realloc(block, 4096); break;
        case 3: got = mcs_aligned_alloc(64, 64); break;
        case 4: got = mcs_strdup("x"); break;
        default: got = mcs_asprintf("%d", 1); break;
        }
        assert_null(got);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    }
    assert_string_equal(block, "stays"); /* a failed realloc leaves the old block */
    mcs_free(block);
}

static void *hit_many(void *arg)
{
    uint64_t *hits = arg;
    for (int i = 0; i < 10000; i++) {
        *hits += mcs_fault_hit(MCS_FAULT_SYSCALL) ? 1 : 0;
    }
    return NULL;
}

static void fault_fires_in_one_thread_of_many(void **state)
{
    (void)state;
    pthread_t threads[4];
    uint64_t hits[4] = {0};
    mcs_fault_arm(MCS_FAULT_SYSCALL, 12345);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, hit_many, &hits[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(hits[0] + hits[1] + hits[2] + hits[3], 1);
    assert_int_equal(mcs_fault_count(MCS_FAULT_SYSCALL), 40000);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_zero_gives_a_block),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(calloc_is_zeroed_and_aligned_is_aligned),
        cmocka_unit_test(strings_are_copied),
        cmocka_unit_test(armed_fault_fails_the_named_call_once),
        cmocka_unit_test(every_kind_of_allocation_can_fail),
        cmocka_unit_test(fault_fires_in_one_thread_of_many),
    };
    return cmocka_run_group_tests_name("alloc", tests, NULL, NULL);
}
