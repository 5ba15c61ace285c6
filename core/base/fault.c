/* See fault.h. */
#include "core/base/fault.h"

typedef struct fault {
    uint64_t nth; /* atomic; 0 = disarmed */
    uint64_t count;
    bool fired;
} fault_t;

static fault_t g_faults[MCS_FAULT_KIND_COUNT];

void mcs_fault_arm(mcs_fault_kind_t kind, uint64_t nth)
{
    fault_t *f = &g_faults[kind];
    __atomic_store_n(&f->nth, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&f->count, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&f->fired, false, __ATOMIC_SEQ_CST);
    __atomic_store_n(&f->nth, nth, __ATOMIC_SEQ_CST);
}

uint64_t mcs_fault_count(mcs_fault_kind_t kind)
{
    return __atomic_load_n(&g_faults[kind].count, __ATOMIC_SEQ_CST);
}

bool mcs_fault_fired(mcs_fault_kind_t kind)
{
    return __atomic_load_n(&g_faults[kind].fired, __ATOMIC_SEQ_CST);
}

bool mcs_fault_hit(mcs_fault_kind_t kind)
{
    fault_t *f = &g_faults[kind];
    uint64_t nth = __atomic_load_n(&f->nth, __ATOMIC_RELAXED);
    if (MCS_LIKELY(nth == 0)) {
        return false;
    }
    if (__atomic_add_fetch(&f->count, 1, __ATOMIC_RELAXED) != nth) {
        return false;
    }
    __atomic_store_n(&f->fired, true, __ATOMIC_RELAXED);
    return true;
}
