/* See fake_transport.h. */
#include "tests/support/fake_transport.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/hash.h"

#define HOLDERS 64
#define EXPOSED 16

struct mcs_transport {
    mcs_transport_config_t config;
    uint32_t number;
    uint32_t users; /* transfers that use it as a holder */
    bool rdma;
    struct iovec exposed[EXPOSED]; /* device memory; empty ones are free */
};

typedef struct behaviour {
    mcs_id_t client;
    fake_holder_t how;
} behaviour_t;

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_changed = PTHREAD_COND_INITIALIZER;
static mcs_transport_t *g_holders[HOLDERS];
static uint32_t g_next_number = 1;
static behaviour_t g_behaviours[HOLDERS];
static uint32_t g_behaviour_count;
static fake_holder_t g_all;
static uint32_t g_waiting;
static uint64_t g_ranges;
static uint64_t g_largest;
static uint64_t g_refused;

void fake_transport_set(mcs_id_t client, fake_holder_t behaviour)
{
    pthread_mutex_lock(&g_lock);
    uint32_t i = 0;
    while (i < g_behaviour_count && !mcs_id_equal(g_behaviours[i].client, client)) {
        i++;
    }
    if (i == HOLDERS) {
        abort();
    }
    g_behaviours[i] = (behaviour_t){client, behaviour};
    g_behaviour_count = i == g_behaviour_count ? i + 1 : g_behaviour_count;
    pthread_mutex_unlock(&g_lock);
}

void fake_transport_set_all(fake_holder_t behaviour)
{
    pthread_mutex_lock(&g_lock);
    g_all = behaviour;
    g_behaviour_count = 0;
    pthread_mutex_unlock(&g_lock);
}

static uint64_t read_locked(const uint64_t *value)
{
    pthread_mutex_lock(&g_lock);
    uint64_t result = *value;
    pthread_mutex_unlock(&g_lock);
    return result;
}

uint32_t fake_transport_waiting(void)
{
    pthread_mutex_lock(&g_lock);
    uint32_t waiting = g_waiting;
    pthread_mutex_unlock(&g_lock);
    return waiting;
}

uint64_t fake_transport_ranges(void)
{
    return read_locked(&g_ranges);
}

uint64_t fake_transport_largest(void)
{
    return read_locked(&g_largest);
}

uint64_t fake_transport_refused(void)
{
    return read_locked(&g_refused);
}

/* ---- life ---- */

static mcs_status_t fake_open(const mcs_transport_config_t *config, mcs_transport_t **transport_out)
{
    mcs_transport_t *transport = calloc(1, sizeof(*transport));
    transport->config = *config;
    transport->rdma = config->rdma != NULL;
    pthread_mutex_lock(&g_lock);
    transport->number = g_next_number++;
    for (size_t i = 0; i < HOLDERS; i++) {
        if (g_holders[i] == NULL) {
            g_holders[i] = transport;
            break;
        }
    }
    pthread_mutex_unlock(&g_lock);
    *transport_out = transport;
    return MCS_OK;
}

static void fake_close(mcs_transport_t *transport)
{
    if (transport == NULL) {
        return;
    }
    pthread_mutex_lock(&g_lock);
    for (size_t i = 0; i < HOLDERS; i++) {
        if (g_holders[i] == transport) {
            g_holders[i] = NULL;
        }
    }
    while (transport->users > 0) {
        pthread_cond_wait(&g_changed, &g_lock);
    }
    pthread_mutex_unlock(&g_lock);
    free(transport);
}

static void fake_describe(const mcs_transport_t *transport, mcs_transport_info_t *info_out)
{
    memset(info_out, 0, sizeof(*info_out));
    info_out->endpoint.len = sizeof(transport->number);
    memcpy(info_out->endpoint.bytes, &transport->number, sizeof(transport->number));
    snprintf(info_out->wire, sizeof(info_out->wire), "fake-1");
    snprintf(info_out->library, sizeof(info_out->library), "fake transport");
    info_out->data_port = 4242;
    info_out->rdma = transport->rdma;
}

/* ---- transfers ---- */

static mcs_transport_t *hold(const mcs_endpoint_t *endpoint, fake_holder_t *how_out)
{
    uint32_t number = 0;
    if (endpoint->len == sizeof(number)) {
        memcpy(&number, endpoint->bytes, sizeof(number));
    }
    mcs_transport_t *found = NULL;
    pthread_mutex_lock(&g_lock);
    *how_out = g_all;
    for (size_t i = 0; i < HOLDERS; i++) {
        if (g_holders[i] != NULL && g_holders[i]->number == number) {
            found = g_holders[i];
            found->users++;
        }
    }
    for (uint32_t i = 0; found != NULL && i < g_behaviour_count; i++) {
        if (mcs_id_equal(g_behaviours[i].client, found->config.client)) {
            *how_out = g_behaviours[i].how;
        }
    }
    pthread_mutex_unlock(&g_lock);
    return found;
}

static void release(mcs_transport_t *holder)
{
    pthread_mutex_lock(&g_lock);
    holder->users--;
    pthread_cond_broadcast(&g_changed);
    pthread_mutex_unlock(&g_lock);
}

/* ---- device memory ---- */

static void fake_expose(mcs_transport_t *transport, void *base, uint64_t len, mcs_exposure_t how)
{
    pthread_mutex_lock(&g_lock);
    for (size_t i = 0; how == MCS_EXPOSED_DEVICE && transport->rdma && i < EXPOSED; i++) {
        if (transport->exposed[i].iov_len == 0) {
            transport->exposed[i] = (struct iovec){base, len};
            break;
        }
    }
    pthread_mutex_unlock(&g_lock);
}

static void fake_conceal(mcs_transport_t *transport, const void *base)
{
    pthread_mutex_lock(&g_lock);
    for (size_t i = 0; i < EXPOSED; i++) {
        if (transport->exposed[i].iov_base == base) {
            transport->exposed[i] = (struct iovec){NULL, 0};
        }
    }
    pthread_mutex_unlock(&g_lock);
}

static bool is_exposed(const mcs_transport_t *transport, const struct iovec *iov)
{
    bool found = false;
    pthread_mutex_lock(&g_lock);
    for (size_t i = 0; i < EXPOSED; i++) {
        uint64_t at = (uint64_t)((uintptr_t)iov->iov_base - (uintptr_t)transport->exposed[i].iov_base);
        found = found || (at < transport->exposed[i].iov_len && iov->iov_len <= transport->exposed[i].iov_len - at);
    }
    pthread_mutex_unlock(&g_lock);
    return found;
}

static bool fake_reaches(mcs_transport_t *transport, const struct iovec *iov, uint64_t from, uint64_t len)
{
    bool all = true;
    uint64_t count = 0;
    (void)from;
    for (uint64_t left = len; left > 0; iov++, count++) {
        struct iovec here = {iov->iov_base, MCS_MIN((uint64_t)iov->iov_len, left)};
        all = all && is_exposed(transport, &here);
        left -= here.iov_len;
    }
    return all && (count <= 2 || len / count >= 4096);
}

/* Of what arrived, block by block as the real one sums its pieces. */
static void sum_arrived(const mcs_range_t *range)
{
    uint8_t *all = malloc(range->access.len);
    uint64_t at = 0;
    for (uint32_t i = 0; i < range->iov_count; i++) {
        memcpy(all + at, range->iov[i].iov_base, range->iov[i].iov_len);
        at += range->iov[i].iov_len;
    }
    uint64_t from = (range->access.from + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK * MCS_CRC_BLOCK - range->access.from;
    for (uint32_t i = 0; i < range->crc_count; i++, from += MCS_CRC_BLOCK) {
        range->sums[i] = mcs_crc32c(0, all + from, MCS_MIN(range->access.len - from, MCS_CRC_BLOCK));
    }
    free(all);
}

static mcs_status_t fetch(mcs_transport_t *holder, mcs_range_t *range, bool corrupt)
{
    mcs_hold_t held;
    mcs_status_t status;
    while ((status = holder->config.owner_ops->read_begin(holder->config.owner, &range->access, &held)) ==
           MCS_ERR_AGAIN) {
        poll(NULL, 0, 1); /* a device's bytes are on their way */
    }
    if (status != MCS_OK) {
        return status;
    }
    const char *from = held.bytes;
    for (uint32_t i = 0; i < range->iov_count; i++) {
        memcpy(range->iov[i].iov_base, from, range->iov[i].iov_len);
        from += range->iov[i].iov_len;
    }
    if (corrupt) {
        ((char *)range->iov[0].iov_base)[range->iov[0].iov_len / 2] ^= 1;
    }
    memcpy(range->crcs, held.crcs, held.crc_count * sizeof(uint32_t));
    if (range->sums != NULL) {
        sum_arrived(range);
    }
    holder->config.owner_ops->read_end(holder->config.owner, &held);
    return MCS_OK;
}

/* Of what is sent, as the real one does. */
static uint32_t *sum_sent(const mcs_range_t *range)
{
    mcs_range_t sent = *range;
    sent.sums = malloc((range->crc_count + 1) * sizeof(uint32_t));
    sum_arrived(&sent);
    if (range->crcs != NULL && !range->device) {
        memcpy(range->crcs, sent.sums, range->crc_count * sizeof(uint32_t));
    }
    return sent.sums;
}

static mcs_status_t store(mcs_transport_t *holder, const mcs_range_t *range, bool wrong)
{
    mcs_hold_t held;
    mcs_status_t status = holder->config.owner_ops->write_begin(holder->config.owner, &range->access, &held);
    if (status != MCS_OK) {
        return status;
    }
    char *to = held.bytes;
    for (uint32_t i = 0; i < range->iov_count; i++) {
        memcpy(to, range->iov[i].iov_base, range->iov[i].iov_len);
        to += range->iov[i].iov_len;
    }
    uint32_t *crcs = sum_sent(range);
    mcs_status_t received = MCS_OK;
    if (wrong || (range->device && memcmp(crcs, range->crcs, range->crc_count * sizeof(uint32_t)) != 0)) {
        received = MCS_ERR_CHECKSUM_MISMATCH;
    }
    status = holder->config.owner_ops->write_end(holder->config.owner, &held, received, crcs, range->crc_count);
    free(crcs);
    return received != MCS_OK ? received : status;
}

/* That start before a byte. */
static uint64_t blocks_before(uint64_t at)
{
    return (at + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
}

static void note_range(const mcs_transport_t *mine, const mcs_range_t *range, mcs_direction_t direction)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < range->iov_count; i++) {
        sum += range->iov[i].iov_len;
    }
    /* The contract of transport.h, checked here once for all tests. */
    bool sane = sum == range->access.len && sum > 0 && sum <= MCS_RANGE_MAX && range->iov_count > 0 &&
                range->iov_count <= MCS_RANGE_IOV_MAX &&
                (direction == MCS_FETCH || range->access.from % MCS_CRC_BLOCK == 0) &&
                range->crc_count == blocks_before(range->access.from + sum) - blocks_before(range->access.from);
    for (uint32_t i = 0; i < range->iov_count && !range->device; i++) {
        sane = sane && !is_exposed(mine, &range->iov[i]);
    }
    sane = sane && (!range->device || (range->crcs != NULL && range->sums == NULL));
    if (!sane) {
        abort();
    }
    pthread_mutex_lock(&g_lock);
    g_ranges++;
    g_largest = sum > g_largest ? sum : g_largest;
    pthread_mutex_unlock(&g_lock);
}

/* Waits for nothing: until the deadline, or the caller gives up. */
static mcs_status_t wait_stopped(const mcs_transport_t *mine, uint64_t deadline_ns)
{
    mcs_status_t status = MCS_OK;
    pthread_mutex_lock(&g_lock);
    g_waiting++;
    pthread_mutex_unlock(&g_lock);
    while (status == MCS_OK) {
        if (mine->config.give_up(mine->config.give_up_arg)) {
            status = MCS_ERR_CLOSED;
        } else if (mcs_deadline_passed(deadline_ns)) {
            status = MCS_ERR_RPC_TIMEOUT;
        } else {
            poll(NULL, 0, 5);
        }
    }
    pthread_mutex_lock(&g_lock);
    g_waiting--;
    pthread_mutex_unlock(&g_lock);
    return status;
}

static void count_refused(void)
{
    pthread_mutex_lock(&g_lock);
    g_refused++;
    pthread_mutex_unlock(&g_lock);
}

static bool goes_direct(mcs_transport_t *mine, mcs_transport_t *holder, const mcs_range_t *range, fake_holder_t how)
{
    if (how == FAKE_HOLDER_DIRECT_ENDS && range->access.from > 0) {
        pthread_mutex_lock(&g_lock);
        holder->rdma = false;
        pthread_mutex_unlock(&g_lock);
    }
    return holder->rdma && fake_reaches(mine, range->iov, range->access.from, range->access.len);
}

static void run_transfer(mcs_transport_t *mine, mcs_transfer_t *transfer, uint64_t deadline_ns, mcs_status_t *stopped)
{
    fake_holder_t how;
    mcs_transport_t *holder = hold(transfer->endpoint, &how);
    for (uint32_t i = 0; i < transfer->range_count; i++) {
        mcs_range_t *range = &transfer->ranges[i];
        range->sent = false;
        bool wrong = how == FAKE_HOLDER_CORRUPT || (how == FAKE_HOLDER_DIRECT_WRONG && range->device);
        note_range(mine, range, transfer->direction);
        if (holder == NULL || how == FAKE_HOLDER_DEAD) {
            range->status = MCS_ERR_TRANSFER_FAIL;
        } else if (range->device && !goes_direct(mine, holder, range, how)) {
            range->status = MCS_ERR_NOT_SUPPORTED;
            count_refused();
        } else if (range->device && how == FAKE_HOLDER_DIRECT_DEAD) {
            range->sent = true;
            range->status = MCS_ERR_TRANSFER_FAIL;
        } else if (how == FAKE_HOLDER_STOPPED) {
            *stopped = *stopped == MCS_OK ? wait_stopped(mine, deadline_ns) : *stopped;
            range->status = *stopped;
        } else if (transfer->direction == MCS_FETCH) {
            range->sent = true;
            range->status = fetch(holder, range, wrong);
        } else {
            range->sent = true;
            range->status = store(holder, range, wrong && range->device);
        }
    }
    if (holder != NULL) {
        release(holder);
    }
}

static mcs_status_t fake_transfer(mcs_transport_t *transport, mcs_transfer_t *transfers, uint32_t count,
                                  uint64_t deadline_ns)
{
    mcs_status_t stopped = MCS_OK;
    for (uint32_t i = 0; i < count; i++) {
        run_transfer(transport, &transfers[i], deadline_ns, &stopped);
    }
    return MCS_OK;
}

static void fake_connect(mcs_transport_t *transport, mcs_id_t owner, const mcs_endpoint_t *endpoint)
{
    (void)transport;
    (void)owner;
    (void)endpoint;
}

static void fake_forget(mcs_transport_t *transport, mcs_id_t owner)
{
    (void)transport;
    (void)owner;
}

const mcs_transport_ops_t fake_transport_ops = {
    .name = "fake",
    .open = fake_open,
    .close = fake_close,
    .describe = fake_describe,
    .transfer = fake_transfer,
    .connect = fake_connect,
    .forget = fake_forget,
    .expose = fake_expose,
    .conceal = fake_conceal,
    .reaches = fake_reaches,
};
