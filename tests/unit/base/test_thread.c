/* core/base/thread: names, joining, blocked signals, the event, fork detection. */
#include <pthread.h>
#include <signal.h>

#include "core/base/thread.h"
#include "tests/support/unit.h"

typedef struct seen {
    char name[16];
    int tid;
    bool term_blocked;
} seen_t;

static void look(void *arg)
{
    seen_t *seen = arg;
    sigset_t mask;
    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    seen->tid = mcs_thread_tid();
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    seen->term_blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1;
}

static void thread_has_its_name_and_takes_no_signals(void **state)
{
    (void)state;
    mcs_thread_t thread = {.started = false};
    seen_t seen = {.tid = 0};
    sigset_t before;
    sigset_t after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(mcs_thread_start(&thread, "a-name-that-is-too-long", look, &seen), MCS_OK);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    mcs_thread_join(&thread);
    assert_string_equal(seen.name, "a-name-that-is-");
    assert_true(seen.term_blocked);
    assert_int_not_equal(seen.tid, mcs_thread_tid());
    assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
    mcs_thread_join(&thread); /* a second time is fine */
}

static void joining_what_never_started_is_fine(void **state)
{
    (void)state;
    mcs_thread_t thread = {.started = false};
    mcs_thread_join(&thread);
}

static void failed_start_leaves_no_thread(void **state)
{
    (void)state;
    seen_t seen = {.tid = 0};
    unit_log_t log;
    unit_log_capture(&log);
    for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
        mcs_thread_t thread = {.started = false};
        mcs_fault_arm((mcs_fault_kind_t)kind, 1);
        assert_int_equal(mcs_thread_start(&thread, "x", look, &seen), MCS_ERR_NO_MEMORY);
        mcs_fault_arm((mcs_fault_kind_t)kind, 0);
        assert_false(thread.started);
        mcs_thread_join(&thread);
    }
    unit_log_release();
    assert_int_equal(seen.tid, 0);
}

static void event_is_set_once_and_cleared_once(void **state)
{
    (void)state;
    mcs_event_t event;
    assert_int_equal(mcs_event_init(&event), MCS_OK);
    assert_false(mcs_event_clear(&event));
    for (int i = 0; i < 100; i++) {
        mcs_event_set(&event);
    }
    assert_true(mcs_event_clear(&event));
    assert_false(mcs_event_clear(&event));
    assert_false(mcs_event_wait(&event, mcs_now_ns()));
    mcs_event_set(&event);
    assert_true(mcs_event_wait(&event, mcs_now_ns())); /* set wins over a passed deadline */
    uint64_t deadline = mcs_deadline_after_ms(3);
    assert_false(mcs_event_wait(&event, deadline));
    assert_true(mcs_now_ns() >= deadline);
    mcs_event_fini(&event);
    mcs_event_fini(&event);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 1);
    assert_int_equal(mcs_event_init(&event), MCS_ERR_NO_MEMORY);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
    mcs_event_fini(&event);
}

static void set_it(void *arg)
{
    mcs_event_set(arg);
}

static void waiter_is_woken_by_another_thread(void **state)
{
    (void)state;
    mcs_event_t event;
    assert_int_equal(mcs_event_init(&event), MCS_OK);
    for (int i = 0; i < 50; i++) {
        mcs_thread_t thread;
        assert_int_equal(mcs_thread_start(&thread, "setter", set_it, &event), MCS_OK);
        assert_true(mcs_event_wait(&event, MCS_NEVER));
        mcs_thread_join(&thread);
    }
    mcs_event_fini(&event);
}

static void forked_child_has_another_token(void **state)
{
    (void)state;
    uint64_t token = mcs_process_token();
    assert_true(token != 0 && token == mcs_process_token());
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t mine = mcs_process_token();
        pid_t grandchild = fork();
        if (grandchild == 0) {
            _exit(mcs_process_token() != mine && mcs_process_token() != token ? 0 : 1);
        }
        int status = 1;
        waitpid(grandchild, &status, 0);
        _exit(mine != token && status == 0 ? 0 : 1);
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(token == mcs_process_token());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thread_has_its_name_and_takes_no_signals),
        cmocka_unit_test(joining_what_never_started_is_fine),
        cmocka_unit_test(failed_start_leaves_no_thread),
        cmocka_unit_test(event_is_set_once_and_cleared_once),
        cmocka_unit_test(waiter_is_woken_by_another_thread),
        cmocka_unit_test(forked_child_has_another_token),
    };
    return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
