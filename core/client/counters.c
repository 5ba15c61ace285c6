/* See counters.h. */
#include "core/client/counters.h"

void mcs_counters_each(const mcs_counters_t *counters, void (*fn)(void *arg, const char *name, uint64_t value),
                       void *arg)
{
#define MCS_COUNTER_ROW(field) fn(arg, #field, __atomic_load_n(&counters->field, __ATOMIC_RELAXED));
#include "core/client/counters.def"
#undef MCS_COUNTER_ROW
}
