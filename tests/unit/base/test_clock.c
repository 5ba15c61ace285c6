/* core/base/clock: saturation, rounding, the fake clock. */
#include <limits.h>
#include <signal.h>

#include "tests/support/unit.h"

static int restore(void **state)
{
    (void)state;
    mcs_clock_set_source(NULL);
    return 0;
}

static void real_clock_goes_forward(void **state)
{
    (void)state;
    uint64_t before = mcs_now_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = mcs_now_ns();
        assert_true(now >= before);
        before = now;
    }
    assert_true(mcs_wall_ms() > UINT64_C(1600000000000));
}

static void deadlines_saturate_at_never(void **state)
{
    (void)state;
    unit_clock_start(1000);
    assert_true(mcs_deadline_after_ms(-1) == MCS_NEVER);
    assert_true(mcs_deadline_after_ms(INT64_MIN) == MCS_NEVER);
    assert_true(mcs_deadline_after_ms(INT64_MAX) == MCS_NEVER);
    assert_true(mcs_deadline_after_ms(0) == 1000);
    assert_true(mcs_deadline_after_ms(5) == 1000 + 5 * MCS_NS_PER_MS);
    unit_clock_start(UINT64_MAX - 10);
    assert_true(mcs_deadline_after_ms(1) == MCS_NEVER);
}

static void deadline_passes_at_its_time(void **state)
{
    (void)state;
    unit_clock_start(1000);
    uint64_t deadline = mcs_deadline_after_ms(10);
    assert_false(mcs_deadline_passed(deadline));
    unit_clock_advance(10 * MCS_NS_PER_MS - 1);
    assert_false(mcs_deadline_passed(deadline));
    unit_clock_advance(1);
    assert_true(mcs_deadline_passed(deadline));
    unit_clock_start(UINT64_MAX);
    assert_false(mcs_deadline_passed(MCS_NEVER));
}

static void poll_time_is_rounded_up_and_clipped(void **state)
{
    (void)state;
    unit_clock_start(1000);
    assert_int_equal(mcs_deadline_poll_ms(MCS_NEVER), -1);
    assert_int_equal(mcs_deadline_poll_ms(0), 0);
    assert_int_equal(mcs_deadline_poll_ms(1000), 0);
    assert_int_equal(mcs_deadline_poll_ms(1001), 1); /* never a busy loop for the last microseconds */
    assert_int_equal(mcs_deadline_poll_ms(1000 + MCS_NS_PER_MS), 1);
    assert_int_equal(mcs_deadline_poll_ms(1001 + MCS_NS_PER_MS), 2);
    assert_int_equal(mcs_deadline_poll_ms(1000 + (uint64_t)INT_MAX * MCS_NS_PER_MS * 2), INT_MAX);
    assert_int_equal(mcs_deadline_poll_ms(MCS_NEVER - 1), INT_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_clock_goes_forward),
        cmocka_unit_test_teardown(deadlines_saturate_at_never, restore),
        cmocka_unit_test_teardown(deadline_passes_at_its_time, restore),
        cmocka_unit_test_teardown(poll_time_is_rounded_up_and_clipped, restore),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
