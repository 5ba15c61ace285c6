/* Polling before sleeping, for as long as that pays.
 *
 * A sleeper on an idle machine costs tens of microseconds to wake, more than most answers take; on a busy one whoever
 * polls takes the processor from those who would answer, and who yields it waits for a whole slice of somebody else. So
 * each waiter keeps score. A wait whose polling ended in vain makes the next ones sleep at once, twice as many each
 * time up to MCS_SPIN_VAIN_MAX; one in which the thread was put off the processor for long, eight times as many up to
 * MCS_SPIN_PUSHED_MAX, so that a busy machine sees polling once in thousands of waits. One that paid halves the score.
 * Between two looks it yields: who shares the processor with the waiter is perhaps the one that it waits for. And only
 * while few threads of the process wait, half as many as there are processors: the others have work for the processor
 * meanwhile.
 *
 * A wait: begin, then again after each look that found nothing until it is false (sleep from then on), end. Times are
 * mcs_now_ns's. Not thread-safe: one waiter at a time. */
#ifndef MCS_BASE_SPIN_H
#define MCS_BASE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define MCS_SPIN_VAIN_MAX   64
#define MCS_SPIN_PUSHED_MAX 8192
/* Between two looks of a thread that keeps its processor pass less than this; more: others need the processor. */
#define MCS_SPIN_GAP_NS 30000

/* All zero is the start. */
typedef struct mcs_spin {
    uint32_t skip;    /* waits that are to sleep at once */
    uint32_t penalty; /* how many the next failure skips */
} mcs_spin_t;

/* One wait. */
typedef struct mcs_spin_wait {
    uint64_t end_ns; /* 0: no (more) polling */
    uint64_t last_ns;
    bool pushed;
    bool counted;
} mcs_spin_wait_t;

mcs_spin_wait_t mcs_spin_begin(mcs_spin_t *spin, uint64_t budget_ns, uint64_t now_ns);
/* For threads of which there are few, each with work of its own for a processor: neither counted among those that wait
 * nor held back by them. */
mcs_spin_wait_t mcs_spin_begin_apart(mcs_spin_t *spin, uint64_t budget_ns, uint64_t now_ns);
/* Nothing was there. True: look again; false: sleep. */
bool mcs_spin_again(mcs_spin_t *spin, mcs_spin_wait_t *wait, uint64_t now_ns);
/* `found`: it came, polled or slept for; false: the wait ended for another reason, which says nothing of polling. */
void mcs_spin_end(mcs_spin_t *spin, mcs_spin_wait_t *wait, bool found);

#endif
