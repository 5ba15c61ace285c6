/* Time. Durations and deadlines count on CLOCK_BOOTTIME (it goes on during suspend, so a lease cannot outlive a nap);
 * only durations ever travel between processes. Thread-safe. Tests may install a fake clock. */
#ifndef MCS_BASE_CLOCK_H
#define MCS_BASE_CLOCK_H

#include "core/base/macros.h"

#define MCS_NS_PER_US  UINT64_C(1000)
#define MCS_NS_PER_MS  UINT64_C(1000000)
#define MCS_NS_PER_SEC UINT64_C(1000000000)
/* A deadline that never comes. */
#define MCS_NEVER UINT64_MAX

/* Nanoseconds of CLOCK_BOOTTIME. */
uint64_t mcs_now_ns(void);
/* Milliseconds since 1970 (CLOCK_REALTIME), for people and for reports only. */
uint64_t mcs_wall_ms(void);

/* now + ms, saturating at MCS_NEVER. A negative ms means never. */
uint64_t mcs_deadline_after_ms(int64_t ms);
/* Milliseconds until a deadline, rounded up, clipped to [0, INT_MAX]; -1 for MCS_NEVER: what poll() wants. */
int mcs_deadline_poll_ms(uint64_t deadline_ns);
static inline bool mcs_deadline_passed(uint64_t deadline_ns)
{
    return deadline_ns != MCS_NEVER && mcs_now_ns() >= deadline_ns;
}

/* Tests: replaces mcs_now_ns; NULL restores the real clock. Set before threads start. */
void mcs_clock_set_source(uint64_t (*source)(void));

#endif
