/* The oldest of all tails: against a look at each of them. */
#include "master/svc_tails.h"

#include "tests/support/unit.h"

static uint64_t g_ages[SVC_SHARDS];

static uint64_t oldest_by_a_look_at_all(void)
{
    uint64_t oldest = SVC_TAIL_NONE;
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        oldest = MCS_MIN(oldest, g_ages[s]);
    }
    return oldest;
}

static void the_oldest_is_taken_whatever_was_set(void **state)
{
    (void)state;
    static svc_tails_t tails;
    uint64_t seed = 5;
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        g_ages[s] = SVC_TAIL_UNKNOWN;
    }
    for (uint32_t step = 0; step < 200000; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint32_t s = (uint32_t)(seed >> 40) % SVC_SHARDS;
        if ((seed >> 33) % 3 != 0) {
            /* Few ages, so that many are alike. */
            uint64_t age = (seed >> 50) % 5 == 0 ? SVC_TAIL_NONE : (seed >> 52) % 300;
            svc_tails_set(&tails, s, age);
            g_ages[s] = age;
        } else {
            uint64_t oldest = oldest_by_a_look_at_all();
            assert_int_equal(svc_tails_oldest(&tails), oldest);
            uint32_t taken = svc_tails_take(&tails);
            assert_in_range(taken, 0, SVC_SHARDS - 1);
            assert_int_equal(g_ages[taken], oldest);
            assert_int_equal(svc_tails_age(&tails, taken), SVC_TAIL_NONE);
            g_ages[taken] = SVC_TAIL_NONE;
        }
    }
}

static void there_is_none_when_all_are_empty_or_taken(void **state)
{
    (void)state;
    static svc_tails_t tails;
    static bool seen[SVC_SHARDS];
    for (uint32_t n = 0; n < SVC_SHARDS; n++) {
        uint32_t s = svc_tails_take(&tails);
        assert_in_range(s, 0, SVC_SHARDS - 1);
        assert_false(seen[s]);
        seen[s] = true;
    }
    assert_int_equal(svc_tails_take(&tails), SVC_SHARDS);
    assert_int_equal(svc_tails_oldest(&tails), SVC_TAIL_NONE);
    svc_tails_set(&tails, 700, 9);
    assert_int_equal(svc_tails_take(&tails), 700);
    assert_int_equal(svc_tails_take(&tails), SVC_SHARDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_is_taken_whatever_was_set),
        cmocka_unit_test(there_is_none_when_all_are_empty_or_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
