/* See clock.h. */
#include "core/base/clock.h"

#include <limits.h>
#include <time.h>

static uint64_t (*g_source)(void);

uint64_t mcs_now_ns(void)
{
    uint64_t (*source)(void) = __atomic_load_n(&g_source, __ATOMIC_ACQUIRE);
    if (MCS_UNLIKELY(source != NULL)) {
        return source();
    }
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * MCS_NS_PER_SEC + (uint64_t)now.tv_nsec;
}

uint64_t mcs_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / MCS_NS_PER_MS;
}

uint64_t mcs_deadline_after_ms(int64_t ms)
{
    uint64_t delta;
    uint64_t deadline;
    if (ms < 0 || __builtin_mul_overflow((uint64_t)ms, MCS_NS_PER_MS, &delta) ||
        __builtin_add_overflow(mcs_now_ns(), delta, &deadline)) {
        return MCS_NEVER;
    }
    return deadline;
}

int mcs_deadline_poll_ms(uint64_t deadline_ns)
{
    if (deadline_ns == MCS_NEVER) {
        return -1;
    }
    uint64_t now = mcs_now_ns();
    if (now >= deadline_ns) {
        return 0;
    }
    uint64_t ms = (deadline_ns - now - 1) / MCS_NS_PER_MS + 1; /* rounded up */
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

void mcs_clock_set_source(uint64_t (*source)(void))
{
    __atomic_store_n(&g_source, source, __ATOMIC_RELEASE);
}
