/* Counters of one client: relaxed atomics, any thread. */
#ifndef MCS_CLIENT_COUNTERS_H
#define MCS_CLIENT_COUNTERS_H

#include "core/base/macros.h"

typedef struct mcs_counters {
#define MCS_COUNTER_ROW(field) uint64_t field;
#include "core/client/counters.def"
#undef MCS_COUNTER_ROW
} mcs_counters_t;

#define mcs_count(counters, field, n) ((void)__atomic_fetch_add(&(counters)->field, (uint64_t)(n), __ATOMIC_RELAXED))

void mcs_counters_each(const mcs_counters_t *counters, void (*fn)(void *arg, const char *name, uint64_t value),
                       void *arg);

#endif
