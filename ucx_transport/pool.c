/* See pool.h. */
#include "ucx_transport/pool.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"

#define SLICE_MS 100
#define NO_LANE  UCXT_LANES_MAX

void ucxt_pool_init(ucxt_pool_t *pool, const ucxt_shared_t *shared, uint32_t max)
{
    memset(pool, 0, sizeof(*pool));
    pool->shared = shared;
    pool->max = MCS_MIN(MCS_MAX(max, 1U), (uint32_t)UCXT_LANES_MAX);
    mcs_mutex_init(&pool->lock, MCS_RANK_WORKER_POOL, "transport lanes");
    mcs_cond_init(&pool->freed);
}

static bool half_made(const ucxt_lane_t *lane)
{
    for (uint32_t i = 0, left = lane->conn_count; i < UCXT_LANE_CONNS && left > 0; i++) {
        if (lane->conns[i] != NULL) {
            left--;
            if (lane->conns[i]->state < UCXT_CONN_UP) {
                return true;
            }
        }
    }
    return false;
}

static void progress_or_sleep(ucxt_lane_t *lane)
{
    if (!ucxt_worker_progress(&lane->worker)) {
        ucxt_worker_sleep(&lane->worker, -1, 1);
    }
}

/* UCX 1.13 aborts when a worker is destroyed (ours, or that of an owner whose answer we no longer read) while the first
 * messages of an endpoint wait in it. So nobody walks away from a hello. */
static void lane_settle(ucxt_lane_t *lane, uint64_t end_ns)
{
    while (half_made(lane) && mcs_now_ns() < end_ns) {
        progress_or_sleep(lane);
    }
    for (uint32_t i = 0; i < UCXT_LANE_CONNS; i++) {
        if (lane->conns[i] != NULL) {
            ucxt_conn_fail(lane->conns[i], MCS_ERR_CLOSED);
        }
    }
    while (!ucxt_lane_reap(lane) && mcs_now_ns() < end_ns) {
        progress_or_sleep(lane);
    }
}

void ucxt_pool_settle(ucxt_pool_t *pool, uint64_t limit_ns)
{
    uint64_t end_ns = mcs_now_ns() + limit_ns;
    for (uint32_t i = 0; i < UCXT_LANES_MAX; i++) {
        ucxt_lane_t *lane = pool->lanes[i].lane;
        if (lane != NULL && lane->worker.ucp != NULL) {
            lane_settle(lane, end_ns);
        }
    }
}

void ucxt_pool_fini(ucxt_pool_t *pool)
{
    for (uint32_t i = 0; i < UCXT_LANES_MAX; i++) {
        if (pool->lanes[i].lane != NULL) {
            ucxt_lane_reset(pool->lanes[i].lane);
            mcs_free(pool->lanes[i].lane);
            pool->lanes[i].lane = NULL;
        }
    }
    mcs_cond_fini(&pool->freed);
    mcs_mutex_fini(&pool->lock);
}

/* The best free lane: connected to the owner, else made already, else one to be made. */
static uint32_t choose_locked(const ucxt_pool_t *pool, mcs_id_t owner)
{
    uint32_t made = NO_LANE;
    uint32_t empty = NO_LANE;
    for (uint32_t i = 0; i < pool->max; i++) {
        const ucxt_pool_lane_t *slot = &pool->lanes[i];
        if (slot->busy) {
            continue;
        }
        if (slot->lane == NULL) {
            empty = empty == NO_LANE ? i : empty;
        } else if (ucxt_lane_knows(slot->lane, owner)) {
            return i;
        } else {
            made = made == NO_LANE ? i : made;
        }
    }
    return made != NO_LANE ? made : empty;
}

/* Outside the lock: the lane is ours. A failure gives it back. */
static mcs_status_t make(ucxt_pool_t *pool, uint32_t index, ucxt_lane_t **lane_out)
{
    ucxt_lane_t *lane = pool->lanes[index].lane;
    if (lane == NULL) {
        lane = MCS_NEW(ucxt_lane_t);
        if (lane == NULL) {
            mcs_mutex_lock(&pool->lock);
            pool->lanes[index].busy = false;
            mcs_cond_signal(&pool->freed);
            mcs_mutex_unlock(&pool->lock);
            return MCS_ERR_NO_MEMORY;
        }
        ucxt_lane_init(lane, pool->shared);
        mcs_mutex_lock(&pool->lock);
        pool->lanes[index].lane = lane;
        mcs_mutex_unlock(&pool->lock);
    }
    mcs_status_t status = ucxt_lane_open(lane); /* also after a reset */
    if (status != MCS_OK) {
        ucxt_pool_give(pool, lane);
        return status;
    }
    *lane_out = lane;
    return MCS_OK;
}

mcs_status_t ucxt_pool_take(ucxt_pool_t *pool, mcs_id_t owner, uint64_t deadline_ns, const ucxt_stop_t *stop,
                            ucxt_lane_t **lane_out)
{
    mcs_mutex_lock(&pool->lock);
    for (;;) {
        uint32_t index = choose_locked(pool, owner);
        if (index != NO_LANE) {
            pool->lanes[index].busy = true;
            pool->lanes[index].used = true;
            mcs_mutex_unlock(&pool->lock);
            return make(pool, index, lane_out);
        }
        pool->waiting++;
        bool in_time =
            mcs_cond_wait_until(&pool->freed, &pool->lock, MCS_MIN(deadline_ns, mcs_deadline_after_ms(SLICE_MS)));
        pool->waiting--;
        mcs_mutex_unlock(&pool->lock);
        mcs_status_t status = mcs_deadline_passed(deadline_ns) ? MCS_ERR_RPC_TIMEOUT : MCS_OK;
        if (status == MCS_OK && !in_time) {
            status = stop->check(stop->arg);
        }
        if (status != MCS_OK) {
            return status;
        }
        mcs_mutex_lock(&pool->lock);
    }
}

static ucxt_lane_t *try_locked(ucxt_pool_t *pool, uint32_t index)
{
    ucxt_pool_lane_t *slot = &pool->lanes[index];
    ucxt_lane_t *lane = index < pool->max && !slot->busy ? slot->lane : NULL;
    if (lane != NULL) {
        slot->busy = true;
    }
    return lane;
}

ucxt_lane_t *ucxt_pool_try(ucxt_pool_t *pool, uint32_t index)
{
    mcs_mutex_lock(&pool->lock);
    ucxt_lane_t *lane = try_locked(pool, index);
    mcs_mutex_unlock(&pool->lock);
    return lane;
}

ucxt_lane_t *ucxt_pool_try_unused(ucxt_pool_t *pool, uint32_t index)
{
    mcs_mutex_lock(&pool->lock);
    bool used = pool->lanes[index].used;
    pool->lanes[index].used = false;
    ucxt_lane_t *lane = used ? NULL : try_locked(pool, index);
    mcs_mutex_unlock(&pool->lock);
    return lane;
}

static void forget_now(ucxt_lane_t *lane, const mcs_id_t *owners, uint32_t count)
{
    if (lane->worker.ucp == NULL) {
        return;
    }
    if (count > UCXT_FORGET_LATER) {
        ucxt_lane_reset(lane);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        ucxt_lane_forget(lane, owners[i]);
    }
    ucxt_lane_reap(lane);
}

void ucxt_pool_give(ucxt_pool_t *pool, ucxt_lane_t *lane)
{
    mcs_mutex_lock(&pool->lock);
    ucxt_pool_lane_t *slot = &pool->lanes[0];
    while (slot->lane != lane) {
        slot++;
        MCS_ENSURE(slot < pool->lanes + UCXT_LANES_MAX);
    }
    while (slot->forget_count > 0) {
        mcs_id_t owners[UCXT_FORGET_LATER];
        uint32_t count = slot->forget_count;
        memcpy(owners, slot->forget, MCS_MIN(count, (uint32_t)UCXT_FORGET_LATER) * sizeof(owners[0]));
        slot->forget_count = 0;
        mcs_mutex_unlock(&pool->lock);
        forget_now(lane, owners, count);
        mcs_mutex_lock(&pool->lock);
    }
    slot->busy = false;
    mcs_cond_signal(&pool->freed);
    mcs_mutex_unlock(&pool->lock);
}

bool ucxt_pool_is_wanted(ucxt_pool_t *pool)
{
    mcs_mutex_lock(&pool->lock);
    bool wanted = pool->waiting > 0;
    mcs_mutex_unlock(&pool->lock);
    return wanted;
}

void ucxt_pool_forget(ucxt_pool_t *pool, mcs_id_t owner)
{
    for (uint32_t i = 0; i < pool->max; i++) {
        mcs_mutex_lock(&pool->lock);
        ucxt_pool_lane_t *slot = &pool->lanes[i];
        ucxt_lane_t *lane = slot->lane;
        if (lane != NULL) {
            if (slot->forget_count < UCXT_FORGET_LATER) {
                slot->forget[slot->forget_count] = owner;
            }
            slot->forget_count = MCS_MIN(slot->forget_count + 1, (uint32_t)UCXT_FORGET_LATER + 1);
        }
        mcs_mutex_unlock(&pool->lock);
        lane = lane != NULL ? ucxt_pool_try(pool, i) : NULL;
        if (lane != NULL) {
            ucxt_pool_give(pool, lane); /* does it now */
        }
    }
}
