/* Operation ids: what ties the log lines of client, master and owner together.
 *
 * A call of the API is one operation; everything that it asks of others carries its number: RPC frames and the data
 * plane's requests have a 64-bit id that is the operation (44 bits) and a step within it (20 bits). Logs write it as
 * "op 1f00ab23c4d.2", so that a search for the number finds the call wherever it went. Numbers start at a random value
 * in each thread: two operations of a cluster share one by a chance of some in 10^13. They mean nothing beyond logs.
 *
 * Thread-local, no locks, never fails. Outside an operation each request is one of its own. */
#ifndef MCS_BASE_OP_H
#define MCS_BASE_OP_H

#include <inttypes.h>

#include "core/base/macros.h"

#define MCS_OP_STEP_BITS 20
#define MCS_OP_STEP_MASK ((UINT64_C(1) << MCS_OP_STEP_BITS) - 1)

/* The thread begins and ends an operation; they do not nest. */
void mcs_op_begin(void);
void mcs_op_end(void);
/* The number of the thread's operation, and an operation that was begun before, perhaps by another thread: a call that
 * is the second half of another goes on under its number. Its steps start at 0x100. */
uint64_t mcs_op_current(void);
void mcs_op_resume(uint64_t op);
/* The id of the next request of the thread's operation. */
uint64_t mcs_op_next(void);
/* An id of the thread's operation with a step of the caller's choosing (its low 20 bits count). */
uint64_t mcs_op_with(uint64_t step);

/* mcs_debug(area, "lookup op " MCS_OP_FMT, MCS_OP_ARGS(id)) */
#define MCS_OP_FMT      "%011" PRIx64 ".%" PRIx64
#define MCS_OP_ARGS(id) ((uint64_t)(id) >> MCS_OP_STEP_BITS), ((uint64_t)(id)&MCS_OP_STEP_MASK)

#endif
