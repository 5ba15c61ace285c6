/* core/base/lock: mutual exclusion, conditions, and that debug builds abort on a lock taken out of order. */
#include <pthread.h>
#include <signal.h>

#include "core/base/lock.h"
#include "tests/support/unit.h"

static mcs_mutex_t g_low;
static mcs_mutex_t g_high;
static mcs_mutex_t g_high_too;
static mcs_rwlock_t g_rw;

static int set_up(void **state)
{
    (void)state;
    mcs_mutex_init(&g_low, MCS_RANK_STORE, "low lock");
    mcs_mutex_init(&g_high, MCS_RANK_SHARD, "high lock");
    mcs_mutex_init(&g_high_too, MCS_RANK_SHARD, "second high lock");
    mcs_rwlock_init(&g_rw, MCS_RANK_MAPPER, "rw lock");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mcs_mutex_fini(&g_low);
    mcs_mutex_fini(&g_high);
    mcs_mutex_fini(&g_high_too);
    mcs_rwlock_fini(&g_rw);
    mcs_clock_set_source(NULL);
    return 0;
}

static void rising_ranks_are_fine(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        mcs_mutex_lock(&g_low);
        mcs_rwlock_rdlock(&g_rw);
        mcs_mutex_lock(&g_high);
        mcs_mutex_lock_same_rank(&g_high_too);
        mcs_mutex_assert_held(&g_low);
        mcs_mutex_assert_held(&g_high_too);
        /* Released in any order. */
        mcs_mutex_unlock(&g_low);
        mcs_mutex_unlock(&g_high);
        mcs_mutex_unlock(&g_high_too);
        mcs_rwlock_rdunlock(&g_rw);
    }
}

static void tried_lock_counts_with_its_own_rank(void **state)
{
    (void)state;
    mcs_mutex_lock(&g_high);
    assert_true(mcs_mutex_trylock(&g_low)); /* a try cannot deadlock: any order */
    mcs_mutex_assert_held(&g_low);
    mcs_mutex_unlock(&g_high);
    mcs_rwlock_wrlock(&g_rw); /* only g_low is held now */
    assert_true(mcs_mutex_trylock(&g_high));
    mcs_mutex_unlock(&g_high);
    mcs_rwlock_wrunlock(&g_rw);
    mcs_mutex_unlock(&g_low);
}

static void *try_it(void *arg)
{
    bool *got = arg;
    *got = mcs_mutex_trylock(&g_low);
    if (*got) {
        mcs_mutex_unlock(&g_low);
    }
    return NULL;
}

static void trylock_of_a_held_lock_fails(void **state)
{
    (void)state;
    pthread_t thread;
    bool got = true;
    mcs_mutex_lock(&g_low);
    assert_int_equal(pthread_create(&thread, NULL, try_it, &got), 0);
    pthread_join(thread, NULL);
    assert_false(got);
    mcs_mutex_unlock(&g_low);
}

#ifndef NDEBUG
static void break_order(void *arg)
{
    (void)arg;
    mcs_mutex_lock(&g_high);
    mcs_mutex_lock(&g_low);
}

static void break_equal(void *arg)
{
    (void)arg;
    mcs_mutex_lock(&g_high);
    mcs_mutex_lock(&g_high_too);
}

static void break_read_lock(void *arg)
{
    (void)arg;
    mcs_mutex_lock(&g_high);
    mcs_rwlock_rdlock(&g_rw);
}

static void break_write_recursion(void *arg)
{
    (void)arg;
    mcs_rwlock_rdlock(&g_rw);
    mcs_rwlock_wrlock(&g_rw);
}

static void break_after_try(void *arg)
{
    (void)arg;
    assert_true(mcs_mutex_trylock(&g_high));
    mcs_mutex_lock(&g_low);
}

static void break_unlock(void *arg)
{
    (void)arg;
    mcs_mutex_unlock(&g_low);
}

static void break_assert(void *arg)
{
    (void)arg;
    mcs_mutex_assert_held(&g_low);
}

static void break_wait(void *arg)
{
    mcs_cond_t cond;
    (void)arg;
    mcs_cond_init(&cond);
    mcs_cond_wait(&cond, &g_low);
}

static void misuse_aborts_and_names_both_locks(void **state)
{
    (void)state;
    assert_true(unit_aborts(break_order, NULL, "taking low lock (rank 10) while holding high lock (rank 330)"));
    assert_true(
        unit_aborts(break_equal, NULL, "taking second high lock (rank 330) while holding high lock (rank 330)"));
    assert_true(unit_aborts(break_read_lock, NULL, "taking rw lock (rank 130) while holding high lock (rank 330)"));
    assert_true(unit_aborts(break_write_recursion, NULL, "taking rw lock"));
    assert_true(unit_aborts(break_after_try, NULL, "taking low lock (rank 10) while holding high lock (rank 330)"));
    assert_true(unit_aborts(break_unlock, NULL, "does not hold"));
    assert_true(unit_aborts(break_assert, NULL, "invariant broken"));
    assert_true(unit_aborts(break_wait, NULL, "invariant broken"));
}
#endif

/* ---- conditions ---- */

typedef struct box {
    mcs_mutex_t lock;
    mcs_cond_t filled;
    int value;
} box_t;

static void *put_value(void *arg)
{
    box_t *box = arg;
    mcs_mutex_lock(&box->lock);
    box->value = 42;
    mcs_cond_signal(&box->filled);
    mcs_mutex_unlock(&box->lock);
    return NULL;
}

static void waiter_sees_what_was_signalled(void **state)
{
    (void)state;
    box_t box = {.value = 0};
    pthread_t thread;
    mcs_mutex_init(&box.lock, MCS_RANK_LEAF, "box");
    mcs_cond_init(&box.filled);
    mcs_mutex_lock(&box.lock);
    assert_int_equal(pthread_create(&thread, NULL, put_value, &box), 0);
    while (box.value == 0) {
        mcs_cond_wait(&box.filled, &box.lock);
    }
    box.value = 0;
    mcs_mutex_unlock(&box.lock);
    pthread_join(thread, NULL);
    mcs_mutex_lock(&box.lock);
    assert_int_equal(pthread_create(&thread, NULL, put_value, &box), 0);
    bool in_time = true;
    while (box.value == 0 && in_time) {
        in_time = mcs_cond_wait_until(&box.filled, &box.lock, mcs_deadline_after_ms(30000));
    }
    assert_int_equal(box.value, 42);
    mcs_mutex_unlock(&box.lock);
    pthread_join(thread, NULL);
    mcs_cond_fini(&box.filled);
    mcs_mutex_fini(&box.lock);
}

static void wait_ends_at_its_deadline(void **state)
{
    (void)state;
    box_t box = {.value = 0};
    mcs_mutex_init(&box.lock, MCS_RANK_LEAF, "box");
    mcs_cond_init(&box.filled);
    mcs_mutex_lock(&box.lock);
    assert_false(mcs_cond_wait_until(&box.filled, &box.lock, 0));
    assert_false(mcs_cond_wait_until(&box.filled, &box.lock, mcs_now_ns()));
    uint64_t deadline = mcs_deadline_after_ms(5);
    while (mcs_cond_wait_until(&box.filled, &box.lock, deadline)) {
    }
    assert_true(mcs_now_ns() >= deadline);
    mcs_mutex_assert_held(&box.lock);
    mcs_mutex_unlock(&box.lock);
    mcs_cond_fini(&box.filled);
    mcs_mutex_fini(&box.lock);
}

/* ---- threads ---- */

typedef struct counter {
    mcs_mutex_t lock;
    mcs_rwlock_t rw;
    uint64_t under_lock;
    uint64_t under_rw;
} counter_t;

static void *count(void *arg)
{
    counter_t *c = arg;
    for (int i = 0; i < 5000; i++) {
        mcs_rwlock_wrlock(&c->rw);
        c->under_rw++;
        mcs_rwlock_wrunlock(&c->rw);
        mcs_mutex_lock(&c->lock);
        c->under_lock++;
        mcs_mutex_unlock(&c->lock);
        mcs_rwlock_rdlock(&c->rw);
        assert_true(c->under_rw > 0);
        mcs_rwlock_rdunlock(&c->rw);
    }
    return NULL;
}

static void locks_exclude_each_other(void **state)
{
    (void)state;
    counter_t c = {.under_lock = 0};
    pthread_t threads[4];
    mcs_mutex_init(&c.lock, MCS_RANK_LEAF, "counter");
    mcs_rwlock_init(&c.rw, MCS_RANK_METRICS, "counter rw");
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count, &c), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(c.under_lock, 20000);
    assert_int_equal(c.under_rw, 20000);
    mcs_mutex_fini(&c.lock);
    mcs_rwlock_fini(&c.rw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rising_ranks_are_fine, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tried_lock_counts_with_its_own_rank, set_up, tear_down),
        cmocka_unit_test_setup_teardown(trylock_of_a_held_lock_fails, set_up, tear_down),
#ifndef NDEBUG
        cmocka_unit_test_setup_teardown(misuse_aborts_and_names_both_locks, set_up, tear_down),
#endif
        cmocka_unit_test(waiter_sees_what_was_signalled),
        cmocka_unit_test(wait_ends_at_its_deadline),
        cmocka_unit_test(locks_exclude_each_other),
    };
    return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}
