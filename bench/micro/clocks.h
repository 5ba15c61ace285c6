/* Seconds by the clocks that benchmarks compare. */
#ifndef MCS_BENCH_CLOCKS_H
#define MCS_BENCH_CLOCKS_H

#include <time.h>

static inline double bench_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline double now_s(void)
{
    return bench_seconds(CLOCK_MONOTONIC);
}

/* Of all threads: says more than the clock on a busy machine. */
static inline double cpu_s(void)
{
    return bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

/* Of this thread, which takes its part in what threads do together: about what the clock says on an idle machine. */
static inline double own_cpu_s(void)
{
    return bench_seconds(CLOCK_THREAD_CPUTIME_ID);
}

#endif
