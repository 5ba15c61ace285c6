/* Adds to a counter of mcs_transport_counters_t: relaxed, metrics read them without a lock. */
#ifndef UCXT_COUNTERS_H
#define UCXT_COUNTERS_H

#include "core/ops/transport.h"

static inline void ucxt_count(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

#endif
