/* The ops table (core/ops/transport.h): puts the parts together. See docs/transport.md.
 *
 *   callers -> pool -> lane -> connection ~~~ UCX, TCP ~~~> serving worker -> owner ops
 *
 * A second thread, "mcs-connect", connects idle lanes early so that no transfer pays for it, and once a second takes in
 * what came to lanes that nobody used: UCX accepts connections for every worker, and what a stranger left behind would
 * keep its descriptor until somebody makes progress there.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/list.h"
#include "core/base/log.h"
#include "core/base/op.h"
#include "core/base/thread.h"
#include "ucx_transport/pool.h"
#include "ucx_transport/serve.h"
#include "ucx_transport/ucx_transport.h"

#define AREA            "transport"
#define SETTLE_NS       (UINT64_C(300) * 1000000) /* for connections to end in peace at a close */
#define HINTS_MAX       1024
#define TIDY_MS         1000
#define TIDY_TURNS      64 /* of ucxt_worker_progress, for one lane: whoever floods it does not keep it */
#define CONNECT_TURN_NS (UINT64_C(50) * 1000000) /* that a hint keeps an idle lane for */

typedef struct hint {
    mcs_list_t node;
    mcs_id_t owner;
    mcs_endpoint_t endpoint;
} hint_t;

struct mcs_transport {
    ucxt_shared_t shared;
    ucxt_regions_t regions;
    char *token;
    bool (*give_up)(void *arg);
    void *give_up_arg;
    uint64_t process; /* rule 11 */
    ucxt_server_t *server;
    ucxt_pool_t pool;
    mcs_mutex_t lock; /* MCS_RANK_TRANSPORT; guards what follows; held for a few instructions */
    mcs_cond_t changed;
    bool closing;
    uint32_t inside; /* callers in transfer */
    mcs_list_t hints;
    uint32_t hint_count;
    mcs_thread_t connector;
};

/* ---- early connections ---- */

static void connect_lane(mcs_transport_t *transport, ucxt_lane_t *lane, const hint_t *hint)
{
    ucxt_conn_t *conn;
    uint64_t end = mcs_now_ns() + CONNECT_TURN_NS;
    if (ucxt_lane_open(lane) != MCS_OK || ucxt_lane_connect(lane, hint->owner, &hint->endpoint, &conn) != MCS_OK) {
        return;
    }
    /* What is not up by then goes on when somebody uses the lane. */
    while (conn->state < UCXT_CONN_UP && mcs_now_ns() < end && !ucxt_pool_is_wanted(&transport->pool)) {
        if (!ucxt_worker_progress(&lane->worker)) {
            ucxt_worker_sleep(&lane->worker, -1, 1);
        }
    }
    ucxt_lane_reap(lane);
}

/* Not on lanes that are in use: their callers do it, and would be kept waiting. */
static void tidy_lanes(mcs_transport_t *transport)
{
    for (uint32_t i = 0; i < transport->pool.max; i++) {
        ucxt_lane_t *lane = ucxt_pool_try_unused(&transport->pool, i);
        if (lane == NULL) {
            continue;
        }
        if (lane->worker.ucp != NULL) {
            for (int turn = 0; turn < TIDY_TURNS && ucxt_worker_progress(&lane->worker); turn++) {
            }
            ucxt_lane_reap(lane);
        }
        ucxt_pool_give(&transport->pool, lane);
    }
}

static hint_t *next_hint(mcs_transport_t *transport)
{
    uint64_t tidy_ns = mcs_deadline_after_ms(TIDY_MS);
    mcs_mutex_lock(&transport->lock);
    while (mcs_list_empty(&transport->hints) && !transport->closing) {
        if (!mcs_cond_wait_until(&transport->changed, &transport->lock, tidy_ns)) {
            mcs_mutex_unlock(&transport->lock);
            tidy_lanes(transport);
            tidy_ns = mcs_deadline_after_ms(TIDY_MS);
            mcs_mutex_lock(&transport->lock);
        }
    }
    hint_t *hint = NULL;
    if (!transport->closing) {
        hint = MCS_LIST_FIRST(&transport->hints, hint_t, node);
        mcs_list_remove(&hint->node);
        transport->hint_count--;
    }
    mcs_mutex_unlock(&transport->lock);
    return hint;
}

static void connector_main(void *arg)
{
    mcs_transport_t *transport = arg;
    for (hint_t *hint = next_hint(transport); hint != NULL; hint = next_hint(transport)) {
        for (uint32_t i = 0; i < transport->pool.max; i++) {
            ucxt_lane_t *lane = ucxt_pool_try(&transport->pool, i);
            if (lane != NULL) {
                connect_lane(transport, lane, hint);
                ucxt_pool_give(&transport->pool, lane);
            }
        }
        mcs_free(hint);
    }
}

static void connect_early(mcs_transport_t *transport, mcs_id_t owner, const mcs_endpoint_t *endpoint)
{
    if (transport->process != mcs_process_token() || endpoint->len > MCS_ENDPOINT_MAX) {
        return;
    }
    hint_t *hint = MCS_NEW(hint_t);
    if (hint == NULL) {
        return;
    }
    mcs_list_init(&hint->node);
    hint->owner = owner;
    hint->endpoint.len = endpoint->len;
    memcpy(hint->endpoint.bytes, endpoint->bytes, endpoint->len);
    mcs_mutex_lock(&transport->lock);
    bool room = !transport->closing && transport->hint_count < HINTS_MAX;
    if (room) {
        mcs_list_push_tail(&transport->hints, &hint->node);
        transport->hint_count++;
        mcs_cond_broadcast(&transport->changed);
    }
    mcs_mutex_unlock(&transport->lock);
    if (!room) {
        mcs_free(hint);
    }
}

static void forget(mcs_transport_t *transport, mcs_id_t owner)
{
    if (transport->process == mcs_process_token()) {
        ucxt_pool_forget(&transport->pool, owner);
    }
}

/* ---- memory for RDMA ---- */

static void expose(mcs_transport_t *transport, void *base, uint64_t len, mcs_exposure_t how)
{
    if (transport->process != mcs_process_token()) {
        return;
    }
    mcs_status_t status = ucxt_regions_add(&transport->regions, base, len, how);
    if (status != MCS_OK) {
        mcs_debug(AREA, "%p + %llu is not registered: %s", base, (unsigned long long)len, mcs_status_name(status));
    }
}

static void conceal(mcs_transport_t *transport, const void *base)
{
    if (transport->process == mcs_process_token()) {
        ucxt_regions_remove(&transport->regions, base);
    }
}

static bool reaches(mcs_transport_t *transport, const struct iovec *iov, uint64_t from, uint64_t len)
{
    return transport->process == mcs_process_token() && ucxt_regions_cover(&transport->regions, iov, from, len);
}

/* ---- transfers ---- */

static mcs_status_t check_stop(void *arg)
{
    mcs_transport_t *transport = arg;
    mcs_mutex_lock(&transport->lock);
    bool closing = transport->closing;
    mcs_mutex_unlock(&transport->lock);
    return closing || (transport->give_up != NULL && transport->give_up(transport->give_up_arg)) ? MCS_ERR_CLOSED
                                                                                                 : MCS_OK;
}

static bool enter(mcs_transport_t *transport)
{
    mcs_mutex_lock(&transport->lock);
    bool open = !transport->closing;
    transport->inside += open ? 1 : 0;
    mcs_mutex_unlock(&transport->lock);
    return open;
}

static void leave(mcs_transport_t *transport)
{
    mcs_mutex_lock(&transport->lock);
    transport->inside--;
    mcs_cond_broadcast(&transport->changed);
    mcs_mutex_unlock(&transport->lock);
}

static mcs_status_t all_ranges(mcs_transfer_t *transfers, uint32_t count, mcs_status_t status)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < transfers[i].range_count; k++) {
            transfers[i].ranges[k].status = status;
        }
    }
    return status;
}

/* What the op did on the data plane; its requests are in the owners' logs. */
static void log_transfers(const mcs_transfer_t *transfers, uint32_t count, mcs_status_t status)
{
    char id[MCS_ID_TEXT_MAX];
    for (uint32_t i = 0; mcs_log_is_on(MCS_LOG_DEBUG) && i < count; i++) {
        mcs_status_t first = transfers[i].range_count > 0 ? transfers[i].ranges[0].status : status;
        mcs_id_format(transfers[i].owner, id);
        mcs_debug(AREA, "%s op " MCS_OP_FMT " at owner %s: %u ranges: %s",
                  transfers[i].direction == MCS_FETCH ? "fetch" : "store", MCS_OP_ARGS(mcs_op_with(0)), id,
                  transfers[i].range_count, mcs_status_name(first));
    }
}

static mcs_status_t run_transfers(mcs_transport_t *transport, mcs_transfer_t *transfers, uint32_t count,
                                  uint64_t deadline_ns)
{
    const ucxt_stop_t stop = {.check = check_stop, .arg = transport};
    ucxt_lane_t *lane;
    mcs_status_t status = ucxt_pool_take(&transport->pool, transfers[0].owner, deadline_ns, &stop, &lane);
    if (status != MCS_OK) {
        return all_ranges(transfers, count, status);
    }
    status = ucxt_flows_run(lane, transfers, count, deadline_ns, &stop);
    ucxt_pool_give(&transport->pool, lane);
    log_transfers(transfers, count, status);
    if (status != MCS_OK) {
        return all_ranges(transfers, count, status);
    }
    ucxt_count(&transport->shared.counters->transfers, count);
    return MCS_OK;
}

static mcs_status_t transfer(mcs_transport_t *transport, mcs_transfer_t *transfers, uint32_t count,
                             uint64_t deadline_ns)
{
    if (transport->process != mcs_process_token()) {
        return all_ranges(transfers, count, MCS_ERR_FORKED);
    }
    if (count == 0) {
        return MCS_OK;
    }
    if (!enter(transport)) {
        return all_ranges(transfers, count, MCS_ERR_CLOSED);
    }
    mcs_status_t status = run_transfers(transport, transfers, count, deadline_ns);
    leave(transport);
    return status;
}

/* ---- life ---- */

static void describe(const mcs_transport_t *transport, mcs_transport_info_t *info_out)
{
    const ucxt_dl_t *dl = transport->shared.context.dl;
    memset(info_out, 0, sizeof(*info_out));
    info_out->data_port = ucxt_server_port(transport->server);
    info_out->rdma = transport->shared.context.rdma;
    info_out->endpoint = *ucxt_server_endpoint(transport->server);
    snprintf(info_out->wire, sizeof(info_out->wire), "%s", ucxt_dl_wire(dl));
    snprintf(info_out->library, sizeof(info_out->library), "UCX %u.%u.%u %.100s", dl->major, dl->minor, dl->release,
             dl->path);
}

static mcs_status_t start_parts(mcs_transport_t *transport, const mcs_transport_config_t *config)
{
    const ucxt_server_config_t serve = {
        .context = &transport->shared.context,
        .token = transport->token,
        .machine = config->machine,
        .spin_ns = config->spin_ns,
        .owner_ops = config->owner_ops,
        .owner = config->owner,
        .counters = config->counters,
        .regions = &transport->regions,
    };
    mcs_status_t status = ucxt_regions_start(&transport->regions);
    status = status == MCS_OK ? ucxt_server_start(&serve, &transport->server) : status;
    if (status != MCS_OK) {
        return status;
    }
    /* The first lane is made now: what is wrong with UCX shows at setup. */
    const ucxt_stop_t stop = {.check = check_stop, .arg = transport};
    ucxt_lane_t *lane;
    status = ucxt_pool_take(&transport->pool, config->client, MCS_NEVER, &stop, &lane);
    if (status != MCS_OK) {
        return status;
    }
    ucxt_pool_give(&transport->pool, lane);
    return mcs_thread_start(&transport->connector, "mcs-connect", connector_main, transport);
}

static void free_transport(mcs_transport_t *transport)
{
    /* The lanes first, while the server runs: it is an owner that they are connected to, too. */
    ucxt_pool_settle(&transport->pool, SETTLE_NS);
    ucxt_server_stop(transport->server);
    ucxt_pool_fini(&transport->pool);
    ucxt_regions_fini(&transport->regions);
    ucxt_context_close(&transport->shared.context);
    mcs_cond_fini(&transport->changed);
    mcs_mutex_fini(&transport->lock);
    mcs_free(transport->token);
    mcs_free(transport);
}

/* What is asked of the RDMA devices; NULL: nothing. Devices that nobody named need not be there. */
static const mcs_transport_rdma_t *rdma_of(const mcs_transport_config_t *config)
{
    const mcs_transport_rdma_t *rdma = config->rdma;
    bool any = rdma != NULL && (rdma->devices == NULL || ucxt_rdma_is_any(rdma->devices)) &&
               (rdma->filter == NULL || rdma->filter[0] == '\0');
    if (!any || ucxt_rdma_is_emulated(rdma) || ucxt_rdma_is_there("/sys")) {
        return rdma;
    }
    mcs_warn(AREA, "protocol rdma: this machine has no RDMA device, data moves by TCP");
    return NULL;
}

static mcs_status_t open_transport(const mcs_transport_config_t *config, mcs_transport_t **transport_out)
{
    const mcs_transport_rdma_t *rdma = rdma_of(config);
    const ucxt_dl_t *dl;
    mcs_status_t status =
        ucxt_dl_load(config->library != NULL ? config->library : "", rdma != NULL && !ucxt_rdma_is_emulated(rdma), &dl);
    if (status != MCS_OK) {
        return status;
    }
    mcs_transport_t *transport = MCS_NEW(mcs_transport_t);
    char *token = mcs_strdup(config->cluster_token != NULL ? config->cluster_token : "");
    if (transport == NULL || token == NULL) {
        mcs_free(transport);
        mcs_free(token);
        return MCS_ERR_NO_MEMORY;
    }
    transport->token = token;
    transport->process = mcs_process_token();
    transport->give_up = config->give_up;
    transport->give_up_arg = config->give_up_arg;
    transport->shared = (ucxt_shared_t){
        .client = config->client,
        .token = token,
        .machine = config->machine,
        .spin_ns = config->spin_ns,
        .connect_timeout_ns = config->connect_timeout_ns,
        .counters = config->counters,
        .regions = &transport->regions,
    };
    mcs_mutex_init(&transport->lock, MCS_RANK_TRANSPORT, "transport");
    mcs_cond_init(&transport->changed);
    mcs_list_init(&transport->hints);
    ucxt_pool_init(&transport->pool, &transport->shared, config->max_workers);
    ucxt_regions_init(&transport->regions, &transport->shared.context);
    status =
        ucxt_context_open(dl, config->bind_host != NULL ? config->bind_host : "", rdma, &transport->shared.context);
    if (status == MCS_OK) {
        status = start_parts(transport, config);
    }
    if (status != MCS_OK) {
        free_transport(transport);
        return status;
    }
    const ucxt_context_t *context = &transport->shared.context;
    mcs_debug(AREA, "UCX %u.%u.%u (%s) on %s%s%s", dl->major, dl->minor, dl->release, dl->path,
              context->device[0] != '\0' ? context->device : "all interfaces",
              context->rdma_devices[0] != '\0' ? " and " : "", context->rdma_devices);
    *transport_out = transport;
    return MCS_OK;
}

static void close_transport(mcs_transport_t *transport)
{
    /* A forked child has the memory of the connections but not the threads: it must not touch them. */
    if (transport == NULL || transport->process != mcs_process_token()) {
        return;
    }
    mcs_mutex_lock(&transport->lock);
    transport->closing = true;
    mcs_cond_broadcast(&transport->changed);
    while (transport->inside > 0) {
        mcs_cond_wait(&transport->changed, &transport->lock);
    }
    mcs_mutex_unlock(&transport->lock);
    mcs_thread_join(&transport->connector);
    while (!mcs_list_empty(&transport->hints)) {
        hint_t *hint = MCS_LIST_FIRST(&transport->hints, hint_t, node);
        mcs_list_remove(&hint->node);
        mcs_free(hint);
    }
    free_transport(transport);
}

const mcs_transport_ops_t ucxt_transport_ops = {
    .name = "ucx",
    .open = open_transport,
    .close = close_transport,
    .describe = describe,
    .transfer = transfer,
    .connect = connect_early,
    .forget = forget,
    .expose = expose,
    .conceal = conceal,
    .reaches = reaches,
};
