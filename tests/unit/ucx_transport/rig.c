/* See rig.h. */
#include "rig.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/config.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/base/thread.h"

#define CRCS_A_SLOT (RIG_SLOT / MCS_CRC_BLOCK)

/* ---- owner ---- */

static mcs_status_t check(fake_owner_t *owner, const mcs_access_t *access, mcs_status_t bad)
{
    uint64_t slot = access->offset / RIG_SLOT;
    if (access->offset % RIG_SLOT != 0 || slot >= owner->slots || access->payload_len > RIG_SLOT ||
        access->mac != RIG_MAC || access->from + access->len > access->payload_len) {
        return bad;
    }
    if (access->generation != slot + 1 || access->generation == owner->refuse_generation) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    return MCS_OK;
}

static mcs_status_t begin(fake_owner_t *owner, const mcs_access_t *access, mcs_hold_t *hold_out, mcs_status_t bad)
{
    mcs_mutex_lock(&owner->lock);
    mcs_status_t status = check(owner, access, bad);
    if (status == MCS_OK) {
        owner->holds++;
        owner->max_holds = MCS_MAX(owner->max_holds, owner->holds);
        uint64_t slot = access->offset / RIG_SLOT;
        uint64_t first = (access->from + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
        uint64_t end = (access->from + access->len + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
        *hold_out = (mcs_hold_t){
            .bytes = owner->memory + access->offset + access->from,
            .crcs = owner->crcs + slot * CRCS_A_SLOT + first,
            .crc_count = (uint32_t)(end - first),
            .payload_len = access->payload_len,
        };
    }
    mcs_mutex_unlock(&owner->lock);
    return status;
}

static mcs_status_t read_begin(void *owner, const mcs_access_t *access, mcs_hold_t *hold_out)
{
    return begin(owner, access, hold_out, MCS_ERR_INVALID_READ);
}

static void read_end(void *arg, mcs_hold_t *hold MCS_UNUSED)
{
    fake_owner_t *owner = arg;
    mcs_mutex_lock(&owner->lock);
    MCS_ENSURE(owner->holds > 0);
    owner->holds--;
    mcs_mutex_unlock(&owner->lock);
}

static mcs_status_t write_begin(void *owner, const mcs_access_t *access, mcs_hold_t *hold_out)
{
    mcs_status_t status = begin(owner, access, hold_out, MCS_ERR_INVALID_WRITE);
    if (status == MCS_OK) {
        mcs_access_t *copy = malloc(sizeof(*copy));
        MCS_ENSURE(copy != NULL);
        *copy = *access;
        hold_out->token = copy;
    }
    return status;
}

/* A piece adds to the sum of its block; the first of a block begins it. */
static void add_crc(const fake_owner_t *owner, const mcs_access_t *access, uint32_t crc)
{
    uint64_t block = access->from / MCS_CRC_BLOCK;
    uint64_t end = MCS_MIN((block + 1) * MCS_CRC_BLOCK, access->payload_len);
    uint32_t *sum = &owner->crcs[access->offset / RIG_SLOT * CRCS_A_SLOT + block];
    *sum = access->from % MCS_CRC_BLOCK == 0 ? 0 : *sum;
    *sum ^= mcs_crc32c_shift(crc, end - access->from - access->len);
}

static mcs_status_t write_end(void *arg, mcs_hold_t *hold, mcs_status_t received, const uint32_t *crcs,
                              uint32_t crc_count)
{
    fake_owner_t *owner = arg;
    mcs_mutex_lock(&owner->lock);
    MCS_ENSURE(owner->holds > 0);
    owner->holds--;
    owner->writes_ended++;
    owner->writes_bad += received != MCS_OK ? 1 : 0;
    if (received == MCS_OK) {
        MCS_ENSURE(crc_count == 1);
        add_crc(owner, hold->token, crcs[0]);
    }
    mcs_mutex_unlock(&owner->lock);
    free(hold->token);
    return MCS_OK;
}

const mcs_owner_ops_t fake_owner_ops = {
    .read_begin = read_begin, .read_end = read_end, .write_begin = write_begin, .write_end = write_end};

void fake_owner_init(fake_owner_t *owner, uint32_t slots)
{
    memset(owner, 0, sizeof(*owner));
    mcs_mutex_init(&owner->lock, MCS_RANK_OWNER, "fake owner");
    owner->slots = slots;
    owner->memory = malloc(slots * RIG_SLOT + 1);
    owner->crcs = calloc(slots * CRCS_A_SLOT + 1, sizeof(uint32_t));
    assert_non_null(owner->memory);
    assert_non_null(owner->crcs);
}

void fake_owner_fini(fake_owner_t *owner)
{
    free(owner->memory);
    free(owner->crcs);
    mcs_mutex_fini(&owner->lock);
}

void fill_pattern(uint8_t *bytes, uint64_t len, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (uint64_t i = 0; i < len; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(bytes + i, &x, MCS_MIN(len - i, (uint64_t)8));
    }
}

void fake_owner_fill(fake_owner_t *owner, uint32_t slot, uint64_t payload_len, uint64_t seed)
{
    uint8_t *bytes = owner->memory + slot * RIG_SLOT;
    mcs_mutex_lock(&owner->lock);
    while (owner->holds > 0) { /* what is held does not change */
        mcs_mutex_unlock(&owner->lock);
        sched_yield();
        mcs_mutex_lock(&owner->lock);
    }
    fill_pattern(bytes, payload_len, seed);
    for (uint64_t at = 0; at < payload_len; at += MCS_CRC_BLOCK) {
        owner->crcs[slot * CRCS_A_SLOT + at / MCS_CRC_BLOCK] =
            mcs_crc32c(0, bytes + at, MCS_MIN(payload_len - at, MCS_CRC_BLOCK));
    }
    mcs_mutex_unlock(&owner->lock);
}

uint32_t fake_owner_read(fake_owner_t *owner, const uint32_t *count)
{
    mcs_mutex_lock(&owner->lock);
    uint32_t value = *count;
    mcs_mutex_unlock(&owner->lock);
    return value;
}

uint32_t fake_owner_holds(fake_owner_t *owner)
{
    return fake_owner_read(owner, &owner->holds);
}

/* ---- sides ---- */

const char *rig_library(void)
{
    const char *library = mcs_env("MCS_TEST_UCX");
    return library != NULL ? library : "";
}

mcs_transport_config_t rig_config(side_t *side, const rig_options_t *options)
{
    static const rig_options_t defaults;
    /* MCS_TEST_RDMA=rc: on this machine's devices. */
    static mcs_transport_rdma_t rdma = {.gid_index = -1, .traffic_class = -1, .service_level = -1};
    const char *transports = mcs_env("MCS_TEST_RDMA");
    rdma.transports = transports != NULL ? transports : "tcp";
    options = options != NULL ? options : &defaults;
    return (mcs_transport_config_t){
        .bind_host = "127.0.0.1",
        .library = rig_library(),
        .client = side->id,
        .machine = options->elsewhere ? 2 : 1,
        .rdma = options->rdma ? &rdma : NULL,
        .cluster_token = options->token != NULL ? options->token : "",
        .max_workers = options->workers != 0 ? options->workers : 3,
        .spin_ns = options->spin_us * MCS_NS_PER_US,
        .connect_timeout_ns = (options->connect_ms != 0 ? options->connect_ms : 5000) * MCS_NS_PER_MS,
        .owner_ops = &fake_owner_ops,
        .owner = &side->owner,
        .counters = &side->counters,
        .give_up = options->give_up,
        .give_up_arg = options->give_up_arg,
    };
}

void side_open(side_t *side, uint32_t slots, const rig_options_t *options)
{
    memset(side, 0, sizeof(*side));
    side->id = mcs_id_random();
    fake_owner_init(&side->owner, slots);
    mcs_transport_config_t config = rig_config(side, options);
    assert_int_equal(ucxt_transport_ops.open(&config, &side->transport), MCS_OK);
    ucxt_transport_ops.describe(side->transport, &side->info);
}

void side_close(side_t *side)
{
    ucxt_transport_ops.close(side->transport);
    assert_int_equal(side->owner.holds, 0);
    fake_owner_fini(&side->owner);
}

/* ---- batches ---- */

void batch_init(batch_t *batch, const side_t *owner, mcs_direction_t direction, uint32_t ranges, uint32_t iovs)
{
    memset(batch, 0, sizeof(*batch));
    batch->ranges = calloc(ranges, sizeof(mcs_range_t));
    batch->iovs = calloc(iovs, sizeof(struct iovec));
    batch->crcs = calloc((size_t)ranges * (MCS_RANGE_MAX / MCS_CRC_BLOCK + 1), sizeof(uint32_t));
    batch->sums = calloc((size_t)ranges * (MCS_RANGE_MAX / MCS_CRC_BLOCK + 1), sizeof(uint32_t));
    batch->iov_max = iovs;
    assert_non_null(batch->ranges);
    assert_non_null(batch->iovs);
    assert_non_null(batch->crcs);
    assert_non_null(batch->sums);
    batch->transfer = (mcs_transfer_t){
        .owner = owner->id, .endpoint = &owner->info.endpoint, .direction = direction, .ranges = batch->ranges};
}

void batch_fini(batch_t *batch)
{
    free(batch->ranges);
    free(batch->iovs);
    free(batch->crcs);
    free(batch->sums);
}

mcs_range_t *batch_add(batch_t *batch, uint32_t slot, uint64_t payload_len, uint64_t from, uint64_t len,
                       uint8_t *memory, uint64_t piece)
{
    mcs_range_t *range = &batch->ranges[batch->transfer.range_count++];
    uint64_t first = (from + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
    uint64_t end = (from + len + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
    *range = (mcs_range_t){
        .access = {.session = {1, 2},
                   .instance = {3, 4},
                   .offset = slot * RIG_SLOT,
                   .generation = slot + 1,
                   .payload_len = payload_len,
                   .from = from,
                   .len = len,
                   .mac = RIG_MAC},
        .iov = batch->iovs + batch->iov_used,
        .crcs = batch->crcs + batch->crc_used,
        .sums = batch->transfer.direction == MCS_FETCH ? batch->sums + batch->crc_used : NULL,
        .crc_count = (uint32_t)(end - first),
        .status = MCS_ERR_INTERNAL,
    };
    for (uint64_t at = 0; at < len; at += piece != 0 ? piece : len) {
        assert_true(batch->iov_used < batch->iov_max);
        batch->iovs[batch->iov_used++] =
            (struct iovec){.iov_base = memory + at, .iov_len = piece != 0 ? MCS_MIN(piece, len - at) : len};
        range->iov_count++;
    }
    batch->crc_used += range->crc_count;
    return range;
}

void batch_add_object(batch_t *batch, uint32_t slot, uint64_t payload_len, uint8_t *memory, uint64_t piece)
{
    for (uint64_t at = 0; at < payload_len; at += MCS_RANGE_MAX) {
        batch_add(batch, slot, payload_len, at, MCS_MIN(payload_len - at, MCS_RANGE_MAX), memory + at, piece);
    }
}

mcs_status_t batch_run(side_t *caller, batch_t *batch, uint32_t timeout_ms)
{
    return ucxt_transport_ops.transfer(caller->transport, &batch->transfer, 1, mcs_deadline_after_ms(timeout_ms));
}

void batch_assert_all(const batch_t *batch, mcs_status_t status)
{
    for (uint32_t i = 0; i < batch->transfer.range_count; i++) {
        assert_int_equal(batch->ranges[i].status, status);
    }
}

/* ---- process ---- */

static uint32_t count_entries(const char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    uint32_t count = 0;
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

uint32_t count_open_fds(void)
{
    return count_entries("/proc/self/fd");
}

uint32_t count_threads(void)
{
    return count_entries("/proc/self/task");
}

/* ---- log ---- */

static mcs_mutex_t g_log_lock;
static char g_log[64][512];
static uint32_t g_log_count;

static void sink(void *arg MCS_UNUSED, mcs_log_level_t level MCS_UNUSED, const char *line)
{
    mcs_mutex_lock(&g_log_lock);
    if (g_log_count < MCS_ARRAY_LEN(g_log)) {
        snprintf(g_log[g_log_count++], sizeof(g_log[0]), "%s", line);
    }
    mcs_mutex_unlock(&g_log_lock);
}

void rig_install_log(void)
{
    if (mcs_env("MCS_TEST_LOG") != NULL) {
        mcs_log_set_level_name(mcs_env("MCS_TEST_LOG"));
        return;
    }
    mcs_mutex_init(&g_log_lock, MCS_RANK_LEAF, "test log");
    mcs_log_set_sink(sink, NULL);
}

uint32_t rig_log_count(const char *needle)
{
    mcs_mutex_lock(&g_log_lock);
    uint32_t found = 0;
    for (uint32_t i = 0; i < g_log_count; i++) {
        found += strstr(g_log[i], needle) != NULL ? 1 : 0;
    }
    mcs_mutex_unlock(&g_log_lock);
    return found;
}

void rig_log_reset(void)
{
    mcs_mutex_lock(&g_log_lock);
    g_log_count = 0;
    mcs_mutex_unlock(&g_log_lock);
}
