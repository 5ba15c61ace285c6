/* Fault injection: fails the Nth call of a kind, for torture tests. Thread-safe counters; compiled in always (one
 * relaxed load on paths that already allocate or make a system call), armed only by tests. */
#ifndef MCS_BASE_FAULT_H
#define MCS_BASE_FAULT_H

#include "core/base/macros.h"

typedef enum mcs_fault_kind { MCS_FAULT_ALLOC, MCS_FAULT_SYSCALL, MCS_FAULT_KIND_COUNT } mcs_fault_kind_t;

/* Fails the nth call from now (1 = the next); 0 disarms. Resets the count. */
void mcs_fault_arm(mcs_fault_kind_t kind, uint64_t nth);
/* Calls of this kind since it was last armed. */
uint64_t mcs_fault_count(mcs_fault_kind_t kind);
/* True when an armed fault fired. */
bool mcs_fault_fired(mcs_fault_kind_t kind);
/* Called by the wrapped place: true = behave as if the call had failed. */
bool mcs_fault_hit(mcs_fault_kind_t kind);

#endif
