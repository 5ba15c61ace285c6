/* See interrupt.h. */
#include "core/client/interrupt.h"

#include "core/base/clock.h"
#include "mcstore/mcstore.h"

static _Thread_local int (*t_check)(void *arg);
static _Thread_local void *t_check_arg;
static _Thread_local bool t_seen;
static _Thread_local uint64_t t_asked_ns; /* or begun */
#define ASK_NS (100 * MCS_NS_PER_MS)

void mcs_thread_set_interrupt(int (*check)(void *arg), void *arg)
{
    t_check = check;
    t_check_arg = arg;
}

bool mcs_interrupt_pending(void)
{
    /* The hook may make calls of its own, which begin anew: what it answers is stored after it has returned. */
    if (!t_seen && t_check != NULL && t_check(t_check_arg) != 0) {
        t_seen = true;
    }
    return t_seen;
}

bool mcs_interrupt_due(void)
{
    if (!t_seen && t_check != NULL && mcs_now_ns() - t_asked_ns >= ASK_NS) {
        t_asked_ns = mcs_now_ns();
        return mcs_interrupt_pending();
    }
    return t_seen;
}

void mcs_interrupt_begin(void)
{
    t_seen = false;
    t_asked_ns = t_check != NULL ? mcs_now_ns() : 0;
}

bool mcs_interrupt_seen(void)
{
    return t_seen;
}
