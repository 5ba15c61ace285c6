/* The table of a group's members. */
#include "core/base/fault.h"
#include "tests/unit/master_service/fixture.h"

#include <stdlib.h>

#define MEMBERS_MAX 65536u

typedef struct group_fixture {
    fixture_t *f;
    svc_group_t *group;
    mcs_buf_t members;
} group_fixture_t;

static group_fixture_t open_group(fixture_t *f)
{
    group_fixture_t g = {.f = f, .group = svc_group_get(f->world.service, "g", 1)};
    assert_non_null(g.group);
    mcs_buf_init(&g.members, MCS_FRAME_MAX);
    return g;
}

static void close_group(group_fixture_t *g)
{
    mcs_buf_fini(&g->members);
    svc_group_put(g->f->world.service, g->group);
}

static const svc_member_t *members_of(group_fixture_t *g, uint32_t *count_out)
{
    assert_true(svc_group_members(g->group, &g->members));
    *count_out = (uint32_t)(g->members.len / sizeof(svc_member_t));
    return (const svc_member_t *)(const void *)g->members.bytes;
}

/* generation - 1 is the place, 0 = no member. */
static void assert_members(group_fixture_t *g, const uint64_t *hash_of, uint32_t generations)
{
    uint32_t expected = 0;
    for (uint32_t i = 0; i < generations; i++) {
        expected += hash_of[i] != 0;
    }
    uint32_t count;
    const svc_member_t *members = members_of(g, &count);
    assert_int_equal(count, expected);
    for (uint32_t i = 0; i < count; i++) {
        assert_in_range(members[i].generation, 1, generations);
        assert_true(members[i].hash == hash_of[members[i].generation - 1]);
        for (uint32_t other = 0; other < i; other++) {
            assert_true(members[other].generation != members[i].generation);
        }
    }
}

static void members_are_who_joined_and_has_not_left(void **state)
{
    enum { GENERATIONS = 300, STEPS = 20000 };
    static uint64_t hash_of[GENERATIONS];
    memset(hash_of, 0, sizeof(hash_of));
    group_fixture_t g = open_group(*state);
    unsigned seed = 7;
    for (uint32_t step = 0; step < STEPS; step++) {
        /* Grows and shrinks: for a while most steps join, for a while most leave. */
        bool grows = step / 1000 % 2 == 0;
        uint32_t at = (uint32_t)rand_r(&seed) % GENERATIONS;
        uint32_t to = (uint32_t)rand_r(&seed) % GENERATIONS;
        if (hash_of[at] == 0 && (grows || step % 8 == 0)) {
            hash_of[at] = step + 1;
            assert_int_equal(svc_group_join(g.group, hash_of[at], at + 1), MCS_OK);
        } else if (hash_of[to] == 0) {
            svc_group_rename(g.group, at + 1, to + 1); /* which may be of nobody */
            hash_of[to] = hash_of[at];
            hash_of[at] = 0;
        } else if (!grows || step % 8 == 0) {
            svc_group_leave(g.group, at + 1); /* which may be of nobody */
            hash_of[at] = 0;
        }
        if (step % 50 == 0) {
            assert_members(&g, hash_of, GENERATIONS);
        }
    }
    for (uint32_t i = 0; i < GENERATIONS; i++) {
        svc_group_leave(g.group, i + 1);
    }
    uint32_t count;
    (void)members_of(&g, &count);
    assert_int_equal(count, 0);
    close_group(&g);
}

static void a_full_group_takes_nobody_until_one_leaves(void **state)
{
    group_fixture_t g = open_group(*state);
    for (uint64_t i = 1; i <= MEMBERS_MAX; i++) {
        assert_int_equal(svc_group_join(g.group, i, i * SVC_SHARDS), MCS_OK);
    }
    assert_int_equal(svc_group_join(g.group, 1, 1), MCS_ERR_LIMIT);
    svc_group_leave(g.group, 2); /* no member */
    assert_int_equal(svc_group_join(g.group, 1, 1), MCS_ERR_LIMIT);
    svc_group_leave(g.group, 7 * SVC_SHARDS);
    assert_int_equal(svc_group_join(g.group, 1, 1), MCS_OK);
    uint32_t count;
    (void)members_of(&g, &count);
    assert_int_equal(count, MEMBERS_MAX);
    close_group(&g);
}

static void without_memory_nobody_joins_and_nobody_is_lost(void **state)
{
    group_fixture_t g = open_group(*state);
    uint64_t hash_of[100] = {0};
    uint32_t failed = 0;
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(hash_of); i++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        mcs_status_t status = svc_group_join(g.group, i + 1, i + 1);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        if (status != MCS_OK) {
            assert_int_equal(status, MCS_ERR_NO_MEMORY);
            assert_members(&g, hash_of, MCS_ARRAY_LEN(hash_of));
            assert_int_equal(svc_group_join(g.group, i + 1, i + 1), MCS_OK);
            failed++;
        }
        hash_of[i] = i + 1;
    }
    assert_in_range(failed, 2, 10); /* where the table grows */
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(hash_of); i++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        svc_group_leave(g.group, i + 1);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        hash_of[i] = 0;
        assert_members(&g, hash_of, MCS_ARRAY_LEN(hash_of));
    }
    close_group(&g);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(members_are_who_joined_and_has_not_left),
        TEST(a_full_group_takes_nobody_until_one_leaves),
        TEST(without_memory_nobody_joins_and_nobody_is_lost),
    };
    return cmocka_run_group_tests_name("svc_group", tests, NULL, NULL);
}
