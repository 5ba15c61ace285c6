/* See op.h. On the request path: some loads and stores of the thread's own. */
#include "core/base/op.h"

#include "core/base/rng.h"

#define OP_MASK ((UINT64_C(1) << (64 - MCS_OP_STEP_BITS)) - 1)

#define RESUMED_STEP 0x100u

static _Thread_local uint64_t t_last; /* begun here; 0: none yet */
static _Thread_local uint64_t t_op;   /* the present one */
static _Thread_local uint64_t t_step;
static _Thread_local bool t_inside;

static void next_op(void)
{
    if (t_last == 0) {
        t_last = mcs_random_u64();
    }
    t_last = (t_last + 1) & OP_MASK;
    t_last += t_last == 0; /* 0 is "none" */
    t_op = t_last;
    t_step = 0;
}

void mcs_op_begin(void)
{
    next_op();
    t_inside = true;
}

void mcs_op_end(void)
{
    t_inside = false;
}

uint64_t mcs_op_current(void)
{
    return t_op;
}

void mcs_op_resume(uint64_t op)
{
    t_op = op & OP_MASK;
    t_step = RESUMED_STEP - 1;
    t_inside = true;
}

uint64_t mcs_op_with(uint64_t step)
{
    if (!t_inside) {
        next_op();
    }
    return t_op << MCS_OP_STEP_BITS | (step & MCS_OP_STEP_MASK);
}

uint64_t mcs_op_next(void)
{
    uint64_t id = mcs_op_with(t_step + 1);
    t_step = id & MCS_OP_STEP_MASK;
    return id;
}
