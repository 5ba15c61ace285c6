/* core/base/memprobe: which numbers are memory that may be touched. Every case runs on both sources of the answer. */
#include "core/base/memprobe.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "core/base/fault.h"

#define PAGE  4096u
#define PAGES 1024u

typedef struct fixture {
    uint8_t *area; /* PAGES pages: 0..255 rw, 256 none, 257..511 r, 512..767 hole, 768.. rw */
} fixture_t;

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof(*f));
    f->area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->area, MAP_FAILED);
    assert_int_equal(mprotect(f->area + 256 * PAGE, PAGE, PROT_NONE), 0);
    assert_int_equal(mprotect(f->area + 257 * PAGE, 255 * PAGE, PROT_READ), 0);
    assert_int_equal(munmap(f->area + 512 * PAGE, 256 * PAGE), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    munmap(f->area, 512 * PAGE);
    munmap(f->area + 768 * PAGE, 256 * PAGE);
    free(f);
    return 0;
}

static bool ok(bool old_kernel, const void *ptr, uint64_t len, bool write)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    if (old_kernel) {
        mcs_memprobe_forget_query(&probe);
    }
    mcs_status_t status = mcs_memprobe_check(&probe, ptr, len, write);
    mcs_memprobe_fini(&probe);
    assert_true(status == MCS_OK || status == MCS_ERR_INVALID_PARAMS);
    return status == MCS_OK;
}

static void check_all(void **state, bool old)
{
    fixture_t *f = *state;
    uint8_t *a = f->area;
    int local = 0;
    /* ranges that are there */
    assert_true(ok(old, a, 1, false));
    assert_true(ok(old, a, 256 * PAGE, true));
    assert_true(ok(old, a + 17, 256 * PAGE - 17, true));
    assert_true(ok(old, a + 257 * PAGE, 255 * PAGE, false));
    assert_true(ok(old, a + 768 * PAGE, 256 * PAGE, true));
    assert_true(ok(old, &local, sizeof(local), true));
    assert_true(ok(old, a + 512 * PAGE, 0, true));
    /* rights that are not */
    assert_false(ok(old, a + 257 * PAGE, 1, true));
    assert_false(ok(old, a + 511 * PAGE, PAGE, true));
    assert_false(ok(old, a + 256 * PAGE, 1, false));
    assert_false(ok(old, "text", 1, true));
    assert_true(ok(old, "text", 4, false));
    /* holes at the end, in the middle, at the start */
    assert_false(ok(old, a, 256 * PAGE + 1, false));
    assert_false(ok(old, a + 255 * PAGE, 2 * PAGE, false));
    assert_false(ok(old, a + 511 * PAGE, PAGE + 1, false));
    assert_false(ok(old, a + 512 * PAGE, 1, false));
    assert_false(ok(old, a + 767 * PAGE + 4095, 2, false));
    assert_false(ok(old, a + 257 * PAGE, 600 * PAGE, false));
    /* numbers that are no memory at all */
    assert_false(ok(old, NULL, 0, false));
    assert_false(ok(old, NULL, 1, false));
    static const uintptr_t wild[] = {1,          0xdeadbeef, 0x7fffffffffff, 0xffff800000000000, 0xfffffffffffff000,
                                     UINTPTR_MAX};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wild); i++) {
        const void *ptr = (const void *)wild[i];
        assert_false(ok(old, ptr, 1, false));
        assert_false(ok(old, ptr, 4096, true));
    }
    assert_false(ok(old, a, UINT64_MAX, false));
    assert_false(ok(old, a, UINT64_MAX - (uintptr_t)a, false));
    assert_false(ok(old, a, UINT64_C(1) << 63, false));
}

static void ranges_are_accepted_exactly_when_mapped_with_the_right(void **state)
{
    check_all(state, false);
}

static void an_old_kernel_gets_the_same_answers(void **state)
{
    check_all(state, true);
}

static void both_sources_agree_on_random_ranges(void **state)
{
    fixture_t *f = *state;
    unsigned seed = 7;
    for (int i = 0; i < 2000; i++) {
        uint64_t from = (uint64_t)rand_r(&seed) % (PAGES * PAGE);
        uint64_t len = (uint64_t)rand_r(&seed) % (PAGES * PAGE - from) + 1;
        bool write = (rand_r(&seed) & 1) != 0;
        uint64_t first = from / PAGE;
        uint64_t last = (from + len - 1) / PAGE;
        bool low = last < 256;
        bool high = first >= 768;
        bool read_only = first >= 257 && last < 512 && !write;
        bool expect = low || high || read_only;
        assert_int_equal(ok(false, f->area + from, len, write), expect);
        assert_int_equal(ok(true, f->area + from, len, write), expect);
    }
}

static void more_mappings_than_are_remembered_are_found_again(void **state)
{
    (void)state;
    enum { COUNT = 3 * MCS_MEMPROBE_SEEN };
    uint8_t *area = mmap(NULL, (size_t)COUNT * 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(area, MAP_FAILED);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(mprotect(area + i * 2 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    }
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            assert_int_equal(mcs_memprobe_check(&probe, area + i * 2 * PAGE, PAGE, true), MCS_OK);
            assert_int_equal(mcs_memprobe_check(&probe, area + i * 2 * PAGE, PAGE + 1, true), MCS_ERR_INVALID_PARAMS);
        }
    }
    assert_int_equal(mcs_memprobe_check(&probe, area, (uint64_t)COUNT * 2 * PAGE, false), MCS_OK);
    mcs_memprobe_fini(&probe);
    munmap(area, (size_t)COUNT * 2 * PAGE);
}

static void without_proc_every_range_is_refused(void **state)
{
    fixture_t *f = *state;
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 1);
    assert_int_equal(mcs_memprobe_check(&probe, f->area, 1, false), MCS_ERR_INVALID_PARAMS);
    assert_true(mcs_fault_fired(MCS_FAULT_SYSCALL));
    mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
    assert_int_equal(mcs_memprobe_check(&probe, f->area, 1, false), MCS_OK);
    mcs_memprobe_fini(&probe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranges_are_accepted_exactly_when_mapped_with_the_right, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_old_kernel_gets_the_same_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(both_sources_agree_on_random_ranges, set_up, tear_down),
        cmocka_unit_test(more_mappings_than_are_remembered_are_found_again),
        cmocka_unit_test_setup_teardown(without_proc_every_range_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("memprobe", tests, NULL, NULL);
}
