/* master/svc_policy: which share of the objects is protected, and the ghosts. */
#include "master/svc_policy.h"

#include "core/base/hash.h"
#include "tests/support/unit.h"

static uint64_t hash_of(uint64_t key)
{
    return mcs_hash64(7, &key, sizeof(key));
}

static int open_policy(void **state)
{
    static svc_policy_t policy;
    svc_policy_init(&policy, true);
    *state = &policy;
    return 0;
}

static int close_policy(void **state)
{
    svc_policy_fini(*state);
    return 0;
}

static void nothing_is_counted_before_an_eviction_and_the_order_is_lru(void **state)
{
    svc_policy_t *policy = *state;
    svc_policy_access(policy, 0);
    assert_false(svc_policy_is_active(policy));
    assert_true(svc_policy_share(policy) == 0);
    svc_policy_resize(policy, 0);
    assert_false(svc_policy_is_active(policy));
    svc_policy_resize(policy, 1000);
    assert_true(svc_policy_is_active(policy));
    assert_true(svc_policy_share(policy) == 0);
}

static void lru_stays_lru(void **state)
{
    svc_policy_t policy;
    (void)state;
    svc_policy_init(&policy, false);
    svc_policy_resize(&policy, 1000);
    assert_false(svc_policy_is_active(&policy));
    assert_true(svc_policy_share(&policy) == 0);
    svc_policy_fini(&policy);
}

/* A hot set that is read now and then between ever new keys: LRU would lose it. */
static void scan_over_a_hot_set(svc_policy_t *policy, uint64_t objects)
{
    uint64_t hot = objects / 4;
    uint64_t fresh = UINT64_C(1) << 40;
    for (uint64_t i = 0; i < 60 * objects; i++) {
        svc_policy_access(policy, hash_of(i % 8 == 0 ? i / 8 % hot : fresh++));
    }
}

static void what_is_used_often_is_protected_when_that_hits_more(void **state)
{
    svc_policy_t *policy = *state;
    svc_policy_resize(policy, 800);
    scan_over_a_hot_set(policy, 800);
    assert_true(svc_policy_share(policy) > 0);
}

static void a_sample_of_many_keys_says_the_same(void **state)
{
    svc_policy_t *policy = *state;
    svc_policy_resize(policy, 16000);
    assert_true(policy->sample_mask > 0);
    assert_in_range(policy->capacity, 512, 1535);
    scan_over_a_hot_set(policy, 16000);
    assert_true(svc_policy_share(policy) > 0);
}

static void what_was_used_lately_wins_when_the_load_changes(void **state)
{
    svc_policy_t *policy = *state;
    svc_policy_resize(policy, 800);
    scan_over_a_hot_set(policy, 800);
    assert_true(svc_policy_share(policy) > 0);
    /* Each key is used twice, the second time when 700 others have been: with a large protected share of what will not
     * be used again, its first use is forgotten by then. */
    uint64_t base = UINT64_C(1) << 50;
    for (uint64_t i = 0; i < 200000; i++) {
        svc_policy_access(policy, hash_of(base + (i % 2 == 0 ? i / 2 : i / 2 - MCS_MIN(i / 2, UINT64_C(350)))));
    }
    assert_true(svc_policy_share(policy) == 0);
}

static void the_size_may_change_at_any_time(void **state)
{
    static const uint64_t sizes[] = {1, 2, 100, 5000, 1000000, 3, 700, 1536, 1537, 383, 100000};
    svc_policy_t *policy = *state;
    for (uint64_t i = 0; i < 20000; i++) {
        if (i % 100 == 0) {
            svc_policy_resize(policy, sizes[i / 100 % MCS_ARRAY_LEN(sizes)]);
            assert_in_range(policy->capacity, 1, 1536);
        }
        svc_policy_sampled(policy, hash_of(i % 3000));
    }
}

static void without_memory_the_order_stays_lru(void **state)
{
    svc_policy_t *policy = *state;
    for (uint64_t nth = 1; nth <= SVC_POLICY_SHARES; nth++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        svc_policy_resize(policy, 1000);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        assert_false(svc_policy_is_active(policy));
    }
    svc_policy_resize(policy, 1000);
    assert_true(svc_policy_is_active(policy));
}

static void ghosts_are_remembered_for_about_twice_the_objects_beside_them(void **state)
{
    (void)state;
    svc_ghosts_t ghosts = {0};
    assert_false(svc_ghosts_have(&ghosts, hash_of(1)));
    for (uint64_t i = 0; i < 10000; i++) {
        svc_ghosts_add(&ghosts, hash_of(i), 1000);
        assert_true(svc_ghosts_have(&ghosts, hash_of(i)));
    }
    for (uint64_t i = 10000 - 1500; i < 10000; i++) {
        assert_true(svc_ghosts_have(&ghosts, hash_of(i)));
    }
    uint32_t wrong = 0;
    for (uint64_t i = 0; i < 7000; i++) {
        wrong += svc_ghosts_have(&ghosts, hash_of(i)) ? 1 : 0;
    }
    assert_true(wrong < 700); /* most of what is older is forgotten */
    svc_ghosts_fini(&ghosts);
    assert_false(svc_ghosts_have(&ghosts, hash_of(9999)));
}

static void ghosts_without_memory_are_forgotten(void **state)
{
    (void)state;
    svc_ghosts_t ghosts = {0};
    mcs_fault_arm(MCS_FAULT_ALLOC, 1);
    svc_ghosts_add(&ghosts, hash_of(1), 10);
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    assert_false(svc_ghosts_have(&ghosts, hash_of(1)));
    svc_ghosts_add(&ghosts, hash_of(1), 10);
    assert_true(svc_ghosts_have(&ghosts, hash_of(1)));
    svc_ghosts_fini(&ghosts);
}

#define WITH_POLICY(test) cmocka_unit_test_setup_teardown(test, open_policy, close_policy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_POLICY(nothing_is_counted_before_an_eviction_and_the_order_is_lru),
        cmocka_unit_test(lru_stays_lru),
        WITH_POLICY(what_is_used_often_is_protected_when_that_hits_more),
        WITH_POLICY(a_sample_of_many_keys_says_the_same),
        WITH_POLICY(what_was_used_lately_wins_when_the_load_changes),
        WITH_POLICY(the_size_may_change_at_any_time),
        WITH_POLICY(without_memory_the_order_stays_lru),
        cmocka_unit_test(ghosts_are_remembered_for_about_twice_the_objects_beside_them),
        cmocka_unit_test(ghosts_without_memory_are_forgotten),
    };
    return cmocka_run_group_tests_name("svc_policy", tests, NULL, NULL);
}
