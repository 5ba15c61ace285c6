/* core/client/inflight: when a revoked generation is acknowledged (rule 5). */
#include "core/client/inflight.h"

#include <pthread.h>
#include <stdlib.h>

#include "tests/support/unit.h"

typedef struct fixture {
    mcs_inflight_t table;
    pthread_mutex_t lock;
    uint64_t acked[64];
    size_t count;
} fixture_t;

static void take_ack(void *arg, const uint64_t *generations, size_t count)
{
    fixture_t *f = arg;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < count && f->count < MCS_ARRAY_LEN(f->acked); i++) {
        f->acked[f->count++] = generations[i];
    }
    pthread_mutex_unlock(&f->lock);
}

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof(*f));
    pthread_mutex_init(&f->lock, NULL);
    mcs_inflight_init(&f->table, take_ack, f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    mcs_inflight_fini(&f->table);
    free(f);
    return 0;
}

static void revoke_one(fixture_t *f, uint64_t generation)
{
    mcs_inflight_revoked(&f->table, &generation, 1);
}

static void nobodys_generation_is_acknowledged_at_once(void **state)
{
    fixture_t *f = *state;
    revoke_one(f, 5);
    assert_int_equal(f->count, 1);
    assert_int_equal(f->acked[0], 5);
}

static void a_rounds_own_generation_waits_for_its_end(void **state)
{
    fixture_t *f = *state;
    const uint64_t mine[] = {5, 6};
    mcs_put_round_t round;
    mcs_put_round_begin(&f->table, &round);
    mcs_put_round_known(&f->table, &round, mine, 2);
    revoke_one(f, 6);
    revoke_one(f, 7);
    assert_int_equal(f->count, 1);
    assert_int_equal(f->acked[0], 7);
    mcs_put_round_end(&f->table, &round);
    assert_int_equal(f->count, 2);
    assert_int_equal(f->acked[1], 6);
}

static void a_revoke_before_the_reply_is_undecided_until_the_reply(void **state)
{
    fixture_t *f = *state;
    const uint64_t mine[] = {5};
    mcs_put_round_t round;
    mcs_put_round_begin(&f->table, &round);
    revoke_one(f, 5);
    revoke_one(f, 9);
    assert_int_equal(f->count, 0);
    mcs_put_round_known(&f->table, &round, mine, 1);
    assert_int_equal(f->count, 1);
    assert_int_equal(f->acked[0], 9);
    mcs_put_round_end(&f->table, &round);
    assert_int_equal(f->count, 2);
    assert_int_equal(f->acked[1], 5);
}

static void a_round_that_began_later_does_not_hold_a_generation_back(void **state)
{
    fixture_t *f = *state;
    mcs_put_round_t first;
    mcs_put_round_t second;
    mcs_put_round_begin(&f->table, &first);
    revoke_one(f, 5);
    mcs_put_round_begin(&f->table, &second);
    mcs_put_round_known(&f->table, &first, NULL, 0);
    assert_int_equal(f->count, 1);
    mcs_put_round_known(&f->table, &second, NULL, 0);
    mcs_put_round_end(&f->table, &first);
    mcs_put_round_end(&f->table, &second);
}

static void what_is_in_doubt_is_not_acknowledged_in_this_session(void **state)
{
    fixture_t *f = *state;
    const uint64_t mine[] = {5, 6};
    mcs_put_round_t round;
    mcs_put_round_begin(&f->table, &round);
    mcs_put_round_known(&f->table, &round, mine, 2);
    revoke_one(f, 5);
    mcs_put_round_doubt(&f->table, 5);
    mcs_put_round_doubt(&f->table, 6);
    mcs_put_round_end(&f->table, &round);
    revoke_one(f, 6);
    assert_int_equal(f->count, 0);
    mcs_inflight_new_session(&f->table);
    revoke_one(f, 6);
    assert_int_equal(f->count, 1);
}

enum { THREADS = 4, ROUNDS = 500 };
static void *puts_loop(void *arg)
{
    fixture_t *f = arg;
    static uint64_t next;
    for (int i = 0; i < ROUNDS; i++) {
        const uint64_t mine[] = {__atomic_add_fetch(&next, 1, __ATOMIC_RELAXED)};
        mcs_put_round_t round;
        mcs_put_round_begin(&f->table, &round);
        mcs_put_round_known(&f->table, &round, mine, 1);
        mcs_inflight_revoked(&f->table, mine, 1);
        mcs_put_round_end(&f->table, &round);
    }
    return NULL;
}

static size_t g_acks; /* atomic */
static void count_acks(void *arg, const uint64_t *generations, size_t count)
{
    (void)arg;
    (void)generations;
    __atomic_add_fetch(&g_acks, count, __ATOMIC_RELAXED);
}

static void each_of_many_threads_revokes_is_acknowledged_once(void **state)
{
    fixture_t *f = *state;
    pthread_t threads[THREADS];
    f->table.ack = count_acks;
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, puts_loop, f);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(__atomic_load_n(&g_acks, __ATOMIC_RELAXED), THREADS * ROUNDS);
}

/* Without memory an acknowledgement may be lost, never given too early. */
static mcs_status_t revoke_step(void *arg)
{
    fixture_t *f = arg;
    const uint64_t mine[] = {5};
    mcs_put_round_t round;
    f->count = 0;
    mcs_put_round_begin(&f->table, &round);
    revoke_one(f, 5);
    mcs_put_round_known(&f->table, &round, mine, 1);
    assert_int_equal(f->count, 0);
    mcs_put_round_end(&f->table, &round);
    assert_true(f->count <= 1);
    return MCS_OK;
}

static void short_memory_never_acknowledges_too_early(void **state)
{
    assert_true(unit_torture(MCS_FAULT_ALLOC, revoke_step, *state) > 0);
}

/* With the reservation 5. */
static void begin_known(fixture_t *f, mcs_put_round_t *round)
{
    static const uint64_t mine[] = {5};
    mcs_put_round_begin(&f->table, round);
    mcs_put_round_known(&f->table, round, mine, 1);
}

static void a_resting_round_gives_way_to_a_revocation_at_once(void **state)
{
    fixture_t *f = *state;
    mcs_put_round_t round;
    begin_known(f, &round);
    assert_true(mcs_put_round_rest(&f->table, &round));
    assert_true(mcs_put_round_wake(&f->table, &round));
    assert_true(mcs_put_round_rest(&f->table, &round));
    revoke_one(f, 5);
    assert_int_equal(f->count, 1);
    assert_false(mcs_put_round_wake(&f->table, &round));
    mcs_put_round_end(&f->table, &round);
    assert_int_equal(f->count, 1);
}

static void a_round_that_woke_holds_its_generation_again(void **state)
{
    fixture_t *f = *state;
    mcs_put_round_t round;
    begin_known(f, &round);
    assert_true(mcs_put_round_rest(&f->table, &round));
    assert_true(mcs_put_round_wake(&f->table, &round));
    revoke_one(f, 5);
    assert_int_equal(f->count, 0);
    mcs_put_round_end(&f->table, &round);
    assert_int_equal(f->count, 1);
}

static void a_round_revoked_before_its_reply_does_not_rest(void **state)
{
    fixture_t *f = *state;
    const uint64_t mine[] = {5};
    mcs_put_round_t round;
    mcs_put_round_begin(&f->table, &round);
    revoke_one(f, 5);
    mcs_put_round_known(&f->table, &round, mine, 1);
    assert_false(mcs_put_round_rest(&f->table, &round));
    assert_int_equal(f->count, 0);
    mcs_put_round_end(&f->table, &round);
    assert_int_equal(f->count, 1);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nobodys_generation_is_acknowledged_at_once),
        TEST(a_rounds_own_generation_waits_for_its_end),
        TEST(a_revoke_before_the_reply_is_undecided_until_the_reply),
        TEST(a_round_that_began_later_does_not_hold_a_generation_back),
        TEST(what_is_in_doubt_is_not_acknowledged_in_this_session),
        TEST(each_of_many_threads_revokes_is_acknowledged_once),
        TEST(a_resting_round_gives_way_to_a_revocation_at_once),
        TEST(a_round_that_woke_holds_its_generation_again),
        TEST(a_round_revoked_before_its_reply_does_not_rest),
        TEST(short_memory_never_acknowledges_too_early),
    };
    return cmocka_run_group_tests_name("inflight", tests, NULL, NULL);
}
