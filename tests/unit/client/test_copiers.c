/* core/client/copiers: jobs, and when they are shared. */
#include "core/client/copiers.h"

#include <pthread.h>
#include <sched.h>

#include "core/base/clock.h"
#include "tests/support/unit.h"

enum { UNITS = 500, CALLERS = 6, JOBS = 60 };

typedef struct job {
    mcs_copiers_t *copiers;
    uint32_t done[UNITS]; /* atomic */
} job_t;

static void mark(void *arg, size_t i)
{
    job_t *job = arg;
    __atomic_add_fetch(&job->done[i], 1, __ATOMIC_RELAXED);
}

static void *run_jobs(void *arg)
{
    job_t job = {.copiers = arg};
    for (int k = 1; k <= JOBS; k++) {
        uint64_t bytes = k % 3 != 0 ? (uint64_t)(k % 4 + 1) * MCS_COPIERS_MIN : 1;
        mcs_share_t share = mcs_copiers_ask(job.copiers, MCS_COPY_IN, bytes, 1);
        mcs_copiers_run(job.copiers, &share, mark, &job, UNITS);
        for (size_t i = 0; i < UNITS; i++) {
            assert_int_equal(__atomic_load_n(&job.done[i], __ATOMIC_RELAXED), k);
        }
    }
    return NULL;
}

static void each_unit_runs_once_and_before_the_return(void **state)
{
    (void)state;
    mcs_copiers_t *copiers;
    pthread_t threads[CALLERS];
    assert_int_equal(mcs_copiers_create(&copiers), MCS_OK);
    for (int i = 0; i < CALLERS; i++) {
        pthread_create(&threads[i], NULL, run_jobs, copiers);
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
    }
    mcs_share_t share = mcs_copiers_ask(copiers, MCS_COPY_IN, MCS_COPIERS_MIN, 1);
    mcs_copiers_run(copiers, &share, mark, NULL, 0);
    mcs_copiers_destroy(copiers);
    mcs_copiers_destroy(NULL);
}

static mcs_status_t copiers_step(void *arg)
{
    (void)arg;
    mcs_copiers_t *copiers;
    mcs_status_t status = mcs_copiers_create(&copiers);
    if (status == MCS_OK) {
        run_jobs(copiers); /* threads that do not start are only missing */
        mcs_copiers_destroy(copiers);
    }
    return status;
}

static void no_failure_leaks_or_loses_a_unit(void **state)
{
    (void)state;
    mcs_log_set_level(MCS_LOG_OFF);
    unit_torture(MCS_FAULT_ALLOC, copiers_step, NULL);
    unit_torture(MCS_FAULT_SYSCALL, copiers_step, NULL);
    mcs_log_set_level(MCS_LOG_INFO);
}

/* ---- when: the time is what the units say that they take ---- */

static uint64_t g_now_ns;

static uint64_t now(void)
{
    return __atomic_load_n(&g_now_ns, __ATOMIC_RELAXED);
}

static void take_time(void *arg, size_t i)
{
    const uint64_t *ns = arg;
    if (i == 0) {
        __atomic_add_fetch(&g_now_ns, *ns, __ATOMIC_RELAXED);
    }
}

static bool copy(mcs_copiers_t *copiers, mcs_copy_kind_t kind, uint64_t alone_ns, uint64_t shared_ns)
{
    mcs_share_t share = mcs_copiers_ask(copiers, kind, MCS_COPIERS_MIN, 1);
    mcs_copiers_run(copiers, &share, take_time, share.shared ? &shared_ns : &alone_ns, 8);
    return share.shared;
}

/* How many copies in a row are, or are not, shared, the last of which is followed by one of the other sort. */
static int row(mcs_copiers_t *copiers, bool shared, uint64_t shared_ns)
{
    int n = 0;
    while (n < 5000 && copy(copiers, MCS_COPY_IN, 1000000, shared_ns) == shared) {
        n++;
    }
    return n;
}

static bool may_share(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1;
}

static int with_clock(void **state)
{
    mcs_copiers_t *copiers;
    g_now_ns = 1000;
    mcs_clock_set_source(now);
    assert_int_equal(mcs_copiers_create(&copiers), MCS_OK);
    *state = copiers;
    return 0;
}

static int without_clock(void **state)
{
    mcs_copiers_destroy(*state);
    mcs_clock_set_source(NULL);
    return 0;
}

static void one_processor_has_no_copy_threads(void **state)
{
    cpu_set_t all;
    cpu_set_t one;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(row(*state, false, 1), 5000);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void small_copies_are_never_shared(void **state)
{
    mcs_copiers_t *copiers = *state;
    uint64_t ns = 1000;
    for (int i = 0; i < 100; i++) {
        mcs_share_t share = mcs_copiers_ask(copiers, MCS_COPY_IN, MCS_COPIERS_MIN - 1, 1);
        assert_false(share.shared);
        mcs_copiers_run(copiers, &share, take_time, &ns, 8);
    }
}

static void what_sharing_speeds_up_is_shared_but_for_samples(void **state)
{
    if (!may_share()) {
        skip();
    }
    assert_false(copy(*state, MCS_COPY_IN, 1000000, 0));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(row(*state, true, 700000), 4 * MCS_COPIERS_ROUND);
    }
    /* Other groups are measured by themselves. */
    assert_false(copy(*state, MCS_COPY_OUT, 1000000, 0));
    assert_true(copy(*state, MCS_COPY_OUT, 1000000, 700000));
}

static void what_sharing_does_not_speed_up_goes_alone_for_longer_each_time(void **state)
{
    if (!may_share()) {
        skip();
    }
    assert_false(copy(*state, MCS_COPY_IN, 1000000, 0));
    int alone = 0;
    for (int i = 0; i < 12; i++) { /* row() has taken one of the next sort */
        assert_int_equal(row(*state, true, 850000), MCS_COPIERS_ROUND / 2 - (i > 0));
        alone = MCS_MIN(alone * 4 + MCS_COPIERS_DULL_MIN, MCS_COPIERS_ALONE_MAX);
        assert_int_equal(row(*state, false, 850000), alone - 1);
    }
    /* And is shared for good once it does. */
    assert_int_equal(row(*state, true, 600000), 4 * MCS_COPIERS_ROUND - 1);
    assert_int_equal(row(*state, true, 600000), 4 * MCS_COPIERS_ROUND);
}

static void calls_share_that_are_half_as_many_as_processors(void **state)
{
    if (!may_share()) {
        skip();
    }
    cpu_set_t set;
    uint64_t ns = 1000000;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    int most = MCS_MIN(CPU_COUNT(&set) / 2, MCS_COPIERS_ROUND);
    assert_false(copy(*state, MCS_COPY_IN, ns, 0));
    mcs_share_t shares[MCS_COPIERS_ROUND + 1];
    for (int i = 0; i <= most; i++) {
        shares[i] = mcs_copiers_ask(*state, MCS_COPY_IN, MCS_COPIERS_MIN, 1);
        assert_int_equal(shares[i].shared, i < most);
    }
    for (int i = 0; i <= most; i++) {
        mcs_copiers_run(*state, &shares[i], take_time, &ns, 8);
    }
}

/* A copy thread that holds up its caller: it has taken a unit, and goes on only when the clock has moved far. */
typedef struct slow {
    pthread_t caller;
    bool taken; /* atomic */
} slow_t;

static void be_slow(void *arg, size_t i)
{
    (void)i;
    slow_t *slow = arg;
    if (pthread_equal(pthread_self(), slow->caller)) {
        while (!__atomic_load_n(&slow->taken, __ATOMIC_ACQUIRE)) {
            sched_yield(); /* the last unit is the other's */
        }
        return;
    }
    __atomic_store_n(&slow->taken, true, __ATOMIC_RELEASE);
    while (now() < 100000000) {
        __atomic_add_fetch(&g_now_ns, 1000, __ATOMIC_RELAXED);
        sched_yield();
    }
}

static void after_a_late_copy_thread_all_go_alone(void **state)
{
    if (!may_share()) {
        skip();
    }
    mcs_copiers_t *copiers = *state;
    assert_false(copy(copiers, MCS_COPY_IN, 1000000, 0));
    assert_false(copy(copiers, MCS_COPY_OUT, 1000000, 0));
    slow_t slow = {.caller = pthread_self()};
    mcs_share_t share = mcs_copiers_ask(copiers, MCS_COPY_IN, MCS_COPIERS_MIN, 1);
    assert_true(share.shared);
    mcs_copiers_run(copiers, &share, be_slow, &slow, 2);
    for (int i = 0; i < MCS_COPIERS_LATE_MIN / 2; i++) {
        assert_false(copy(copiers, MCS_COPY_IN, 1000000, 0));
        assert_false(copy(copiers, MCS_COPY_OUT, 1000000, 0));
    }
    assert_true(copy(copiers, MCS_COPY_OUT, 1000000, 500000));
}

int main(void)
{
#define TIMED(test) cmocka_unit_test_setup_teardown(test, with_clock, without_clock)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_unit_runs_once_and_before_the_return),
        cmocka_unit_test(no_failure_leaks_or_loses_a_unit),
        TIMED(one_processor_has_no_copy_threads),
        TIMED(small_copies_are_never_shared),
        TIMED(what_sharing_speeds_up_is_shared_but_for_samples),
        TIMED(what_sharing_does_not_speed_up_goes_alone_for_longer_each_time),
        TIMED(calls_share_that_are_half_as_many_as_processors),
        TIMED(after_a_late_copy_thread_all_go_alone),
    };
    return cmocka_run_group_tests_name("copiers", tests, NULL, NULL);
}
