/* Polling before sleeping: see spin.h. */
#include "core/base/spin.h"

#include <sched.h>
#include <stddef.h>
#include <unistd.h>

#include "core/base/thread.h"

/* Threads of the process that wait now, polling or asleep. Relaxed: a bound on waste, nothing is published by it. */
static int32_t g_waiting;
/* Whose they are: a forked child has none of its parent's threads. */
static uint64_t g_process;

static int32_t count_in(void)
{
    uint64_t process = mcs_process_token();
    if (__atomic_load_n(&g_process, __ATOMIC_RELAXED) != process) {
        __atomic_store_n(&g_waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&g_process, process, __ATOMIC_RELAXED);
    }
    return __atomic_add_fetch(&g_waiting, 1, __ATOMIC_RELAXED);
}

static int32_t most_pollers(void)
{
    static int32_t most; /* written with one value, by whoever comes first */
    int32_t limit = __atomic_load_n(&most, __ATOMIC_RELAXED);
    if (limit == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        limit = online > 2 ? (int32_t)(online / 2) : 1;
        __atomic_store_n(&most, limit, __ATOMIC_RELAXED);
    }
    return limit;
}

static void failed(mcs_spin_t *spin, bool pushed)
{
    uint32_t most = pushed ? MCS_SPIN_PUSHED_MAX : MCS_SPIN_VAIN_MAX;
    uint32_t grown = pushed ? spin->penalty * 8 + 8 : spin->penalty * 2 + 1;
    if (spin->penalty < most) {
        spin->penalty = grown < most ? grown : most;
    }
    spin->skip = spin->penalty;
}

static mcs_spin_wait_t begin(mcs_spin_t *spin, uint64_t budget_ns, uint64_t now_ns, bool may_poll)
{
    mcs_spin_wait_t wait = {.end_ns = 0, .last_ns = now_ns};
    if (spin->skip > 0) {
        spin->skip--;
    } else if (may_poll) {
        wait.end_ns = now_ns + budget_ns;
    }
    return wait;
}

mcs_spin_wait_t mcs_spin_begin(mcs_spin_t *spin, uint64_t budget_ns, uint64_t now_ns)
{
    if (budget_ns == 0) {
        return (mcs_spin_wait_t){.end_ns = 0, .last_ns = now_ns};
    }
    bool crowded = count_in() > most_pollers();
    mcs_spin_wait_t wait = begin(spin, budget_ns, now_ns, !crowded);
    wait.counted = true;
    return wait;
}

mcs_spin_wait_t mcs_spin_begin_apart(mcs_spin_t *spin, uint64_t budget_ns, uint64_t now_ns)
{
    return begin(spin, budget_ns, now_ns, true);
}

bool mcs_spin_again(mcs_spin_t *spin, mcs_spin_wait_t *wait, uint64_t now_ns)
{
    if (wait->end_ns == 0) {
        return false;
    }
    wait->pushed = wait->pushed || now_ns - wait->last_ns > MCS_SPIN_GAP_NS;
    wait->last_ns = now_ns;
    if (now_ns < wait->end_ns) {
        (void)sched_yield();
        return true;
    }
    wait->end_ns = 0;
    failed(spin, wait->pushed);
    return false;
}

void mcs_spin_end(mcs_spin_t *spin, mcs_spin_wait_t *wait, bool found)
{
    if (wait->counted) {
        wait->counted = false;
        (void)__atomic_sub_fetch(&g_waiting, 1, __ATOMIC_RELAXED);
    }
    if (!found || wait->end_ns == 0) {
        return; /* it slept, or did not poll at all: nothing is learnt of polling */
    }
    wait->end_ns = 0;
    if (wait->pushed) {
        failed(spin, true);
    } else {
        spin->penalty /= 2;
    }
}
