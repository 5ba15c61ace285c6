/* See flow.h. */
#include "ucx_transport/flow_internal.h"

#include <sched.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#define AREA        FLOW_AREA
#define SLICE_MS    100
#define CHECK_EVERY 64                       /* rounds of a busy loop between two looks at the clock */
#define SETTLE_NS   (UINT64_C(50) * 1000000) /* for UCX to give back the sends of a closed connection */
#define CATCH_UP    32 /* rounds of progress on a lane that lay idle, before its connections are judged */
/* `wait_ms` for a transfer without a deadline. */
#define WAIT_LONG_MS 60000

typedef struct run {
    ucxt_lane_t *lane;
    flow_t *flows;
    uint32_t count;
    uint64_t deadline_ns;
    const ucxt_stop_t *stop;
    uint64_t stop_ns; /* when the stop was asked last */
} run_t;

static uint32_t wait_ms(uint64_t deadline_ns)
{
    int ms = mcs_deadline_poll_ms(deadline_ns);
    return ms < 0 ? WAIT_LONG_MS : (uint32_t)ms;
}

/* Keeps the window full. */
static void send_more(flow_t *flow, uint64_t deadline_ns)
{
    uint32_t window = flow->transfer->direction == MCS_FETCH ? FLOW_FETCH_WINDOW : FLOW_STORE_WINDOW;
    while (flow->unsent > 0 && flow->requests < window && flow->conn->state == UCXT_CONN_UP &&
           ucxt_conn_has_slot(flow->conn)) {
        flow_request_t *request;
        mcs_status_t status = ucxt_flow_next(flow, wait_ms(deadline_ns), &request);
        if (status != MCS_OK) {
            ucxt_conn_fail(flow->conn, status);
            return;
        }
        if (request != NULL) {
            ucxt_conn_send(flow->conn, &request->base);
        }
    }
}

/* One look at a flow. True while it goes on. */
static bool step(flow_t *flow, uint64_t deadline_ns)
{
    if (flow->over) {
        return false;
    }
    if (flow->ranges_open == 0) {
        flow->over = true;
        return false;
    }
    if (flow->conn->state == UCXT_CONN_UP) {
        send_more(flow, deadline_ns);
    }
    if (flow->conn->state == UCXT_CONN_FAILED) {
        ucxt_flow_end(flow, flow->conn->status);
        return false;
    }
    return true;
}

static bool step_all(run_t *run)
{
    bool going = false;
    for (uint32_t i = 0; i < run->count; i++) {
        going = step(&run->flows[i], run->deadline_ns) || going;
    }
    return going;
}

/* Ends what is open. The connections go too: an owner that did not answer in time is told so by that, and stops
 * sending. */
static void end_all(run_t *run, mcs_status_t status)
{
    for (uint32_t i = 0; i < run->count; i++) {
        flow_t *flow = &run->flows[i];
        if (!flow->over) {
            ucxt_conn_fail(flow->conn, status);
            ucxt_flow_end(flow, status);
        }
    }
}

/* Hellos that took too long. */
static void look_at_connecting(run_t *run, uint64_t now)
{
    for (uint32_t i = 0; i < run->count; i++) {
        flow_t *flow = &run->flows[i];
        if (!flow->over && flow->conn->state < UCXT_CONN_UP && now >= flow->conn->deadline_ns) {
            mcs_debug(AREA, "an owner did not answer the hello in time");
            ucxt_conn_fail(flow->conn, MCS_ERR_TRANSFER_FAIL);
        }
    }
}

/* What time and the caller say. */
static void look_around(run_t *run, uint64_t now)
{
    look_at_connecting(run, now);
    if (run->deadline_ns != MCS_NEVER && now >= run->deadline_ns) {
        ucxt_count(&run->lane->shared->counters->timeouts, 1);
        end_all(run, MCS_ERR_RPC_TIMEOUT);
        return;
    }
    if (now - run->stop_ns >= SLICE_MS * MCS_NS_PER_MS) {
        run->stop_ns = now;
        mcs_status_t status = run->stop->check(run->stop->arg);
        if (status != MCS_OK) {
            end_all(run, status);
        }
    }
}

static int sleep_ms(const run_t *run)
{
    int left = mcs_deadline_poll_ms(run->deadline_ns);
    return left < 0 || left > SLICE_MS ? SLICE_MS : left;
}

static void drive(run_t *run)
{
    ucxt_lane_t *lane = run->lane;
    mcs_spin_wait_t wait;
    bool waiting = false;
    uint32_t round = 0;
    while (step_all(run)) {
        bool worked = ucxt_worker_progress(&lane->worker);
        if (worked && waiting) {
            mcs_spin_end(&lane->spin, &wait, true);
            waiting = false;
        }
        if (worked && ++round % CHECK_EVERY != 0) {
            continue;
        }
        uint64_t now = mcs_now_ns();
        look_around(run, now);
        if (worked) {
            sched_yield(); /* the other side may be waiting for this very core */
            continue;
        }
        if (!waiting) {
            wait = mcs_spin_begin(&lane->spin, lane->shared->spin_ns, now);
            waiting = true;
        }
        if (!mcs_spin_again(&lane->spin, &wait, now) && step_all(run)) {
            ucxt_worker_sleep(&lane->worker, -1, sleep_ms(run));
        }
    }
    if (waiting) {
        mcs_spin_end(&lane->spin, &wait, false);
    }
}

/* Failed connections may have sends from the caller's memory in UCX's hands: they come back now, or the worker goes. It
 * goes in any case when an owner that has not answered may still reach that memory. */
static void settle(ucxt_lane_t *lane)
{
    bool renew = lane->exposed > 0;
    if (renew) {
        mcs_debug(AREA, "an owner was given up that may still reach this process's memory: the worker is made anew");
        ucxt_lane_leave_all(lane); /* the others are told, too: a device does not tell them */
    }
    uint64_t end = mcs_now_ns() + SETTLE_NS;
    while (!ucxt_lane_reap(lane)) {
        if (!ucxt_worker_progress(&lane->worker) && mcs_now_ns() >= end) {
            if (!renew) {
                mcs_warn(AREA, "UCX did not give back the sends of a closed connection: its worker is made anew");
            }
            renew = true;
            break;
        }
    }
    if (renew) {
        ucxt_lane_reset(lane);
    }
}

/* Connections of a lane that lay idle may have died: their errors come with the first progress. */
static void catch_up(ucxt_lane_t *lane)
{
    for (uint32_t i = 0; i < CATCH_UP && ucxt_worker_progress(&lane->worker); i++) {
    }
    ucxt_lane_reap(lane);
}

static void start(run_t *run, mcs_transfer_t *transfers, uint32_t *left)
{
    for (uint32_t i = 0; i < run->count; i++) {
        flow_t *flow = &run->flows[i];
        memset(flow, 0, sizeof(*flow));
        flow->transfer = &transfers[i];
        flow->lane = run->lane;
        flow->left = left;
        left += transfers[i].range_count;
        ucxt_flow_prepare(flow);
        if (flow->ranges_open == 0) {
            flow->over = true;
            continue;
        }
        mcs_status_t status = ucxt_lane_connect(run->lane, transfers[i].owner, transfers[i].endpoint, &flow->conn);
        if (status != MCS_OK) {
            ucxt_flow_end(flow, status);
        }
    }
}

mcs_status_t ucxt_flows_run(ucxt_lane_t *lane, mcs_transfer_t *transfers, uint32_t count, uint64_t deadline_ns,
                            const ucxt_stop_t *stop)
{
    size_t ranges = 0;
    for (uint32_t i = 0; i < count; i++) {
        ranges += transfers[i].range_count;
    }
    run_t run = {.lane = lane, .count = count, .deadline_ns = deadline_ns, .stop = stop, .stop_ns = mcs_now_ns()};
    run.flows = mcs_malloc(count * sizeof(flow_t) + ranges * sizeof(uint32_t));
    if (run.flows == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    catch_up(lane);
    unsigned inside = ucxt_regions_enter(lane->shared->regions);
    start(&run, transfers, (uint32_t *)(void *)(run.flows + count));
    drive(&run);
    settle(lane);
    ucxt_regions_leave(lane->shared->regions, inside);
    mcs_free(run.flows);
    return MCS_OK;
}
