/* What the C unit tests share: the torture loop, "this aborts" in a forked child, a fake clock, captured log lines.
 * Header only. */
#ifndef MCS_TESTS_UNIT_H
#define MCS_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/base/status.h"

/* Bytes that follow from a seed and their position. */
MCS_UNUSED static void unit_fill(uint8_t *bytes, size_t len, uint32_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < len; i++) {
        if (i % 8 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        bytes[i] = (uint8_t)(x >> (8 * (i % 8)));
    }
}

/* Runs `step` with the 1st, 2nd, 3rd … call of a kind failing, until a run meets no fault. A step checks for itself
 * that what it works on is unchanged after a failure, and leaves nothing behind (the leak checker looks). Returns how
 * many runs met a fault. */
typedef mcs_status_t (*unit_step_fn)(void *arg);
MCS_UNUSED static uint64_t unit_torture(mcs_fault_kind_t kind, unit_step_fn step, void *arg)
{
    for (uint64_t nth = 1;; nth++) {
        mcs_fault_arm(kind, nth);
        mcs_status_t status = step(arg);
        bool fired = mcs_fault_fired(kind);
        mcs_fault_arm(kind, 0);
        if (!fired) {
            assert_int_equal(status, MCS_OK);
            return nth - 1;
        }
        assert_true(nth < 10000);
    }
}

/* Runs fn(arg) in a child. True when it died by SIGABRT and its stderr has `text`. */
MCS_UNUSED static bool unit_aborts(void (*fn)(void *arg), void *arg, const char *text)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would go on with the next test */
        fn(arg);
        _exit(0);
    }
    close(fds[1]);
    char said[8192];
    size_t len = 0;
    for (ssize_t n; len < sizeof(said) - 1 && (n = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0;) {
        len += (size_t)n;
    }
    said[len] = '\0';
    close(fds[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, text) != NULL;
}

/* A clock that stands still until it is moved. */
MCS_UNUSED static uint64_t g_unit_now_ns;
MCS_UNUSED static uint64_t unit_now(void)
{
    return __atomic_load_n(&g_unit_now_ns, __ATOMIC_SEQ_CST);
}
MCS_UNUSED static void unit_clock_start(uint64_t now_ns)
{
    __atomic_store_n(&g_unit_now_ns, now_ns, __ATOMIC_SEQ_CST);
    mcs_clock_set_source(unit_now);
}
MCS_UNUSED static void unit_clock_advance(uint64_t ns)
{
    __atomic_add_fetch(&g_unit_now_ns, ns, __ATOMIC_SEQ_CST);
}

/* The last log line and how many there were, while captured. One thread at a time logs in the tests that use it. */
typedef struct unit_log {
    unsigned lines;
    mcs_log_level_t level;
    char last[MCS_LOG_LINE_MAX + 1];
} unit_log_t;
MCS_UNUSED static void unit_log_sink(void *arg, mcs_log_level_t level, const char *line)
{
    unit_log_t *log = arg;
    log->lines++;
    log->level = level;
    snprintf(log->last, sizeof(log->last), "%s", line);
}
MCS_UNUSED static void unit_log_capture(unit_log_t *log)
{
    memset(log, 0, sizeof(*log));
    mcs_log_set_sink(unit_log_sink, log);
}
MCS_UNUSED static void unit_log_release(void)
{
    mcs_log_set_sink(NULL, NULL);
}

#endif
