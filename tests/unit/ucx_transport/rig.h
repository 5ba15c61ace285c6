/* What the transport's tests share: an owner over a plain buffer, transports on loopback, and transfers over extents of
 * that buffer.
 *
 * The fake owner's extent k is the slot [k * SLOT, (k + 1) * SLOT) of its memory; offset = k * SLOT, generation = k +
 * 1, mac = RIG_MAC. It counts holds, so that a test sees when one is left over. Thread-safe. */
#ifndef TESTS_UCX_TRANSPORT_RIG_H
#define TESTS_UCX_TRANSPORT_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/lock.h"
#include "ucx_transport/ucx_transport.h"

#define RIG_SLOT (UINT64_C(64) << 20)
#define RIG_MAC  UINT64_C(0x6d61632d6f6b2121)

typedef struct fake_owner {
    mcs_mutex_t lock;
    uint8_t *memory;
    uint32_t slots;
    uint32_t *crcs; /* 64 a slot */
    uint32_t holds;
    uint32_t max_holds;
    uint32_t refuse_generation; /* answers MCS_ERR_REPLICA_IS_GONE */
    uint32_t writes_ended;
    uint32_t writes_bad; /* ended with something else than MCS_OK */
} fake_owner_t;

extern const mcs_owner_ops_t fake_owner_ops;
void fake_owner_init(fake_owner_t *owner, uint32_t slots);
void fake_owner_fini(fake_owner_t *owner);
/* Fills a slot with bytes that differ by position and seed, and its CRCs over `payload_len`. */
void fake_owner_fill(fake_owner_t *owner, uint32_t slot, uint64_t payload_len, uint64_t seed);
uint32_t fake_owner_holds(fake_owner_t *owner);
/* One of its counts, under its lock. */
uint32_t fake_owner_read(fake_owner_t *owner, const uint32_t *count);

typedef struct rig_options {
    const char *token;
    uint32_t workers;
    uint64_t connect_ms;
    uint64_t spin_us;
    bool elsewhere; /* says that it is on another machine */
    bool rdma;      /* its messages and its moves of memory, over TCP: UCX does there in software what devices do */
    bool (*give_up)(void *arg);
    void *give_up_arg;
} rig_options_t;

typedef struct side {
    fake_owner_t owner;
    mcs_id_t id;
    mcs_transport_t *transport;
    mcs_transport_counters_t counters;
    mcs_transport_info_t info;
} side_t;

/* Which library the tests use: MCS_TEST_UCX, else "". */
const char *rig_library(void);
mcs_transport_config_t rig_config(side_t *side, const rig_options_t *options);
void side_open(side_t *side, uint32_t slots, const rig_options_t *options);
void side_close(side_t *side);

/* A transfer of `count` ranges that the test fills with rig_range. */
typedef struct batch {
    mcs_transfer_t transfer;
    mcs_range_t *ranges;
    struct iovec *iovs;
    uint32_t *crcs;
    uint32_t *sums; /* of a fetch */
    uint32_t iov_used;
    uint32_t iov_max;
    uint32_t crc_used;
} batch_t;
void batch_init(batch_t *batch, const side_t *owner, mcs_direction_t direction, uint32_t ranges, uint32_t iovs);
void batch_fini(batch_t *batch);
/* Adds a range of the slot's payload that lies at `memory`, cut in iovs of `piece` bytes (0: one). */
mcs_range_t *batch_add(batch_t *batch, uint32_t slot, uint64_t payload_len, uint64_t from, uint64_t len,
                       uint8_t *memory, uint64_t piece);
mcs_status_t batch_run(side_t *caller, batch_t *batch, uint32_t timeout_ms);
/* Adds a whole object in ranges of 8 MiB. */
void batch_add_object(batch_t *batch, uint32_t slot, uint64_t payload_len, uint8_t *memory, uint64_t piece);
void batch_assert_all(const batch_t *batch, mcs_status_t status);

uint32_t count_open_fds(void);
uint32_t count_threads(void);
void fill_pattern(uint8_t *bytes, uint64_t len, uint64_t seed);

/* Log lines of warning level and up since the last call; the tests install their own sink. */
void rig_install_log(void);
uint32_t rig_log_count(const char *needle);
void rig_log_reset(void);

#endif
