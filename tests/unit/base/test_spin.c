/* Polling before sleeping: budget, score, crowd. */
#include <unistd.h>

#include "core/base/spin.h"
#include "tests/support/unit.h"

#define BUDGET 50000
#define STEP   1000

/* One wait whose answer never comes while it polls. Returns how often it looked. */
static uint32_t wait_in_vain(mcs_spin_t *spin, uint64_t step_ns)
{
    uint64_t now = 1000000;
    uint32_t looks = 0;
    mcs_spin_wait_t wait = mcs_spin_begin(spin, BUDGET, now);
    while (mcs_spin_again(spin, &wait, now += step_ns)) {
        looks++;
    }
    assert_false(mcs_spin_again(spin, &wait, now)); /* stays so */
    mcs_spin_end(spin, &wait, true);
    return looks;
}

/* One wait whose answer comes after the first look. */
static void wait_a_little(mcs_spin_t *spin, uint64_t took_ns)
{
    mcs_spin_wait_t wait = mcs_spin_begin(spin, BUDGET, 1000000);
    (void)mcs_spin_again(spin, &wait, 1000000 + took_ns);
    mcs_spin_end(spin, &wait, true);
}

static void polls_for_the_budget_and_not_without_one(void **state)
{
    (void)state;
    mcs_spin_t spin = {0};
    assert_int_equal(wait_in_vain(&spin, STEP), BUDGET / STEP - 1);
    mcs_spin_t other = {0};
    mcs_spin_wait_t wait = mcs_spin_begin(&other, 0, 5);
    assert_false(mcs_spin_again(&other, &wait, 6));
    mcs_spin_end(&other, &wait, true);
    assert_int_equal(other.skip, 0);
}

static void polling_in_vain_is_tried_ever_more_rarely(void **state)
{
    (void)state;
    mcs_spin_t spin = {0};
    uint32_t expected = 0;
    for (int i = 0; i < 10; i++) {
        for (uint32_t j = 0; j < expected; j++) {
            assert_int_equal(wait_in_vain(&spin, STEP), 0);
        }
        assert_int_not_equal(wait_in_vain(&spin, STEP), 0);
        expected = expected * 2 + 1 < MCS_SPIN_VAIN_MAX ? expected * 2 + 1 : MCS_SPIN_VAIN_MAX;
        assert_int_equal(spin.skip, expected);
    }
}

static void polling_that_pays_goes_on(void **state)
{
    (void)state;
    mcs_spin_t spin = {.skip = 0, .penalty = 31};
    for (int i = 0; i < 5; i++) {
        wait_a_little(&spin, STEP);
        assert_int_equal(spin.skip, 0);
    }
    assert_int_equal(spin.penalty, 0);
}

static void thread_that_lost_its_processor_sleeps_for_long(void **state)
{
    (void)state;
    mcs_spin_t spin = {0};
    wait_a_little(&spin, MCS_SPIN_GAP_NS + 1);
    assert_int_equal(spin.skip, 8);
    for (int i = 0; i < 10; i++) {
        spin.skip = 0;
        wait_a_little(&spin, MCS_SPIN_GAP_NS + 1);
    }
    assert_int_equal(spin.skip, MCS_SPIN_PUSHED_MAX);
    spin.skip = 0;
    wait_in_vain(&spin, STEP); /* a lesser failure takes nothing back */
    assert_int_equal(spin.skip, MCS_SPIN_PUSHED_MAX);
}

static void wait_that_ended_otherwise_teaches_nothing(void **state)
{
    (void)state;
    mcs_spin_t spin = {.skip = 0, .penalty = 6};
    mcs_spin_wait_t wait = mcs_spin_begin(&spin, BUDGET, 0);
    assert_true(mcs_spin_again(&spin, &wait, STEP));
    mcs_spin_end(&spin, &wait, false);
    assert_int_equal(spin.penalty, 6);
    assert_int_equal(spin.skip, 0);
}

static void in_a_crowd_nobody_polls(void **state)
{
    (void)state;
    mcs_spin_t spins[256] = {0};
    mcs_spin_wait_t waits[256];
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t most = online > 2 ? (uint32_t)online / 2 : 1;
    if (most >= 256) {
        skip();
    }
    for (uint32_t i = 0; i <= most; i++) {
        waits[i] = mcs_spin_begin(&spins[i], BUDGET, 0);
        assert_int_equal(mcs_spin_again(&spins[i], &waits[i], STEP), i < most);
    }
    for (uint32_t i = 0; i <= most; i++) {
        mcs_spin_end(&spins[i], &waits[i], true);
    }
    assert_int_equal(spins[most].skip, 0); /* a crowd is no failure */
    assert_int_not_equal(wait_in_vain(&spins[most], STEP), 0);
}

static void who_waits_apart_is_not_of_the_crowd(void **state)
{
    (void)state;
    mcs_spin_t spins[4] = {0};
    mcs_spin_wait_t apart[2];
    mcs_spin_wait_t counted;
    apart[0] = mcs_spin_begin_apart(&spins[0], BUDGET, 0);
    counted = mcs_spin_begin(&spins[1], BUDGET, 0);
    assert_true(mcs_spin_again(&spins[0], &apart[0], STEP));
    assert_true(mcs_spin_again(&spins[1], &counted, STEP));
    apart[1] = mcs_spin_begin_apart(&spins[2], BUDGET, 0);
    assert_true(mcs_spin_again(&spins[2], &apart[1], STEP));
    for (int i = 0; i < 2; i++) {
        mcs_spin_end(&spins[2 * i], &apart[i], true);
    }
    mcs_spin_end(&spins[1], &counted, true);
    /* It keeps score as all do, and its end has counted nobody out. */
    spins[3].skip = 1;
    apart[0] = mcs_spin_begin_apart(&spins[3], BUDGET, 0);
    assert_false(mcs_spin_again(&spins[3], &apart[0], STEP));
    in_a_crowd_nobody_polls(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(polls_for_the_budget_and_not_without_one),
        cmocka_unit_test(polling_in_vain_is_tried_ever_more_rarely),
        cmocka_unit_test(polling_that_pays_goes_on),
        cmocka_unit_test(thread_that_lost_its_processor_sleeps_for_long),
        cmocka_unit_test(wait_that_ended_otherwise_teaches_nothing),
        cmocka_unit_test(in_a_crowd_nobody_polls),
        cmocka_unit_test(who_waits_apart_is_not_of_the_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
