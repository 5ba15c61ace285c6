/* The pool of lanes (lane.h): at most `max`, made when they are needed, one caller each. A caller that finds none free
 * waits for one. Thread-safe: the lock (MCS_RANK_WORKER_POOL) guards who has which lane and is never held while UCX is
 * called. */
#ifndef UCXT_POOL_H
#define UCXT_POOL_H

#include "ucx_transport/flow.h"

#include "core/base/lock.h"

#define UCXT_LANES_MAX    16
#define UCXT_FORGET_LATER 64

typedef struct ucxt_pool_lane {
    ucxt_lane_t *lane; /* NULL: not made yet */
    bool busy;
    bool used; /* since the last ucxt_pool_try_unused */
    /* Owners that were forgotten while it was busy; more than fit: all of them. */
    uint32_t forget_count;
    mcs_id_t forget[UCXT_FORGET_LATER];
} ucxt_pool_lane_t;

typedef struct ucxt_pool {
    const ucxt_shared_t *shared;
    uint32_t max;
    mcs_mutex_t lock;
    mcs_cond_t freed;
    ucxt_pool_lane_t lanes[UCXT_LANES_MAX];
    uint32_t waiting; /* callers that wait for a lane */
} ucxt_pool_t;

void ucxt_pool_init(ucxt_pool_t *pool, const ucxt_shared_t *shared, uint32_t max);
/* No lane is in use any more: closes the connections in peace, as far as their owners go along in this time. Half made
 * ones are finished first. */
void ucxt_pool_settle(ucxt_pool_t *pool, uint64_t limit_ns);
void ucxt_pool_fini(ucxt_pool_t *pool);

/* A lane of one's own, open; one that is connected to `owner` if there is. Waits until the deadline
 * (MCS_ERR_RPC_TIMEOUT) or until `stop` says so. */
mcs_status_t ucxt_pool_take(ucxt_pool_t *pool, mcs_id_t owner, uint64_t deadline_ns, const ucxt_stop_t *stop,
                            ucxt_lane_t **lane_out) MCS_MUST_CHECK;
/* Lane number `index` when it has been made and nobody has it, else NULL. */
ucxt_lane_t *ucxt_pool_try(ucxt_pool_t *pool, uint32_t index);
/* The same, and NULL also when somebody had it since the last such call. */
ucxt_lane_t *ucxt_pool_try_unused(ucxt_pool_t *pool, uint32_t index);
void ucxt_pool_give(ucxt_pool_t *pool, ucxt_lane_t *lane);
bool ucxt_pool_is_wanted(ucxt_pool_t *pool);
void ucxt_pool_forget(ucxt_pool_t *pool, mcs_id_t owner);

#endif
