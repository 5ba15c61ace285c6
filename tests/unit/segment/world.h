/* What the tests of core/segment share: an owner with a segment, a mapper, who was released, and the master's part in
 * small (generations, capabilities, release records). Header only. */
#ifndef MCS_TESTS_SEGMENT_WORLD_H
#define MCS_TESTS_SEGMENT_WORLD_H

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "core/base/hash.h"
#include "core/segment/mapper.h"
#include "core/segment/owner.h"
#include "core/segment/segment.h"
#include "core/wire/cap.h"
#include "core/wire/extent.h"
#include "tests/support/unit.h"

#define WORLD_RELEASED 65536u

typedef struct world {
    char folder[64];
    mcs_faulter_t *faulter;
    mcs_owner_t *owner;
    mcs_segment_t *segment;
    mcs_mapper_t *mapper; /* of the owner's own process */
    mcs_mapping_t *own;
    mcs_id_t client;
    mcs_id_t instance;
    mcs_id_t session;
    mcs_mac_key_t key;
    pthread_mutex_t lock; /* of the next four: the owner's thread answers, too, so an answer is waited for */
    uint64_t *released;   /* in the order of the answers */
    uint32_t released_count;
    uint32_t struck_count;
    uint64_t last_struck;
    uint32_t differing_count;
    uint64_t differing[64];
    mcs_owner_released_fn also; /* told, too; set before the first release */
} world_t;

/* Waits for a condition; ten seconds are for ever. */
#define world_await(condition)                                                                                         \
    do {                                                                                                               \
        uint64_t give_up = mcs_now_ns() + 10 * MCS_NS_PER_SEC;                                                         \
        while (!(condition)) {                                                                                         \
            assert_true(mcs_now_ns() < give_up);                                                                       \
            poll(NULL, 0, 1);                                                                                          \
        }                                                                                                              \
    } while (0)

static void world_on_released(void *arg, const uint64_t *generations, uint32_t count)
{
    world_t *world = arg;
    pthread_mutex_lock(&world->lock);
    for (uint32_t i = 0; i < count && world->released_count < WORLD_RELEASED; i++) {
        world->released[world->released_count++] = generations[i];
    }
    pthread_mutex_unlock(&world->lock);
    if (world->also != NULL) {
        world->also(world, generations, count);
    }
}

static void world_on_struck(void *arg, const uint64_t *generations, uint32_t count)
{
    world_t *world = arg;
    pthread_mutex_lock(&world->lock);
    world->struck_count += count;
    world->last_struck = generations[count - 1];
    pthread_mutex_unlock(&world->lock);
}

static void world_on_differs(void *arg, const mcs_col_differ_t *records, uint32_t count)
{
    world_t *world = arg;
    for (uint32_t i = 0; i < count && world->differing_count < MCS_ARRAY_LEN(world->differing); i++) {
        assert_int_equal(records[i].token, 77);
        world->differing[world->differing_count++] = records[i].generation;
    }
}

MCS_UNUSED static uint32_t world_times_released(world_t *world, uint64_t generation)
{
    uint32_t times = 0;
    pthread_mutex_lock(&world->lock);
    for (uint32_t i = 0; i < world->released_count; i++) {
        times += world->released[i] == generation;
    }
    pthread_mutex_unlock(&world->lock);
    return times;
}

/* How many strikes were answered, when the last was of this generation. */
MCS_UNUSED static uint32_t world_times_struck(world_t *world, uint64_t generation)
{
    pthread_mutex_lock(&world->lock);
    uint32_t times = world->last_struck == generation ? world->struck_count : 0;
    pthread_mutex_unlock(&world->lock);
    return times;
}

MCS_UNUSED static mcs_segment_t *world_segment(world_t *world, uint64_t size)
{
    mcs_segment_config_t config = {
        .size = size, .fault_window = 4 * MCS_MIB, .huge_page_size = 2 * MCS_MIB, .numa_node = -1};
    mcs_segment_t *segment;
    assert_int_equal(mcs_segment_create(&config, world->faulter, &segment), MCS_OK);
    return segment;
}

MCS_UNUSED static world_t *world_open(uint64_t size)
{
    world_t *world = calloc(1, sizeof(*world));
    pthread_mutex_init(&world->lock, NULL);
    world->released = calloc(WORLD_RELEASED, sizeof(uint64_t));
    snprintf(world->folder, sizeof(world->folder), "/tmp/mcs-segment-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    world->client = mcs_id_random();
    world->session = mcs_id_random();
    world->key = (mcs_mac_key_t){mcs_random_u64(), mcs_random_u64()};
    mcs_owner_config_t owner_config = {.client = world->client,
                                       .ipc_dir = world->folder,
                                       .released = world_on_released,
                                       .struck = world_on_struck,
                                       .differs = world_on_differs,
                                       .released_arg = world};
    assert_int_equal(mcs_faulter_create(&world->faulter), MCS_OK);
    assert_int_equal(mcs_owner_create(&owner_config, &world->owner), MCS_OK);
    world->segment = world_segment(world, size);
    world->instance = mcs_segment_instance(world->segment);
    assert_int_equal(mcs_owner_add_segment(world->owner, world->segment), MCS_OK);
    assert_int_equal(mcs_owner_set_key(world->owner, world->instance, &world->key), MCS_OK);
    mcs_mapper_config_t mapper_config = {.client = world->client, .owner = world->owner};
    assert_int_equal(mcs_mapper_create(&mapper_config, &world->mapper), MCS_OK);
    mcs_mapper_set_session(world->mapper, world->session);
    assert_int_equal(mcs_mapper_add_own(world->mapper, world->segment), MCS_OK);
    mcs_mapper_peer_t peer = {world->client, world->instance, mcs_segment_size(world->segment), ""};
    assert_int_equal(mcs_mapper_get(world->mapper, &peer, MCS_NEVER, &world->own), MCS_OK);
    assert_true(mcs_mapping_is_own(world->own));
    return world;
}

/* Pins and holds that are still there keep what they need. */
MCS_UNUSED static void world_close(world_t *world)
{
    mcs_mapping_put(world->own);
    mcs_mapper_remove_own(world->mapper, world->instance);
    mcs_mapper_destroy(world->mapper);
    mcs_owner_destroy(world->owner);
    mcs_segment_put(world->segment);
    mcs_faulter_destroy(world->faulter);
    assert_int_equal(rmdir(world->folder), 0); /* the socket has gone */
    pthread_mutex_destroy(&world->lock);
    free(world->released);
    free(world);
}

MCS_UNUSED static mcs_hash128_t world_hash(uint64_t generation)
{
    return mcs_extent_key_hash(&generation, sizeof(generation));
}

/* The whole payload, with a good capability. */
MCS_UNUSED static mcs_access_t world_access(const world_t *world, mcs_cap_right_t right, uint64_t offset,
                                            uint64_t generation, uint64_t payload_len)
{
    return (mcs_access_t){
        .session = world->session,
        .instance = world->instance,
        .offset = offset,
        .generation = generation,
        .payload_len = payload_len,
        .len = payload_len,
        .key_hash = world_hash(generation),
        .mac = mcs_cap_mac(&world->key, world->session, world->instance, offset, payload_len, generation, right),
    };
}

MCS_UNUSED static mcs_col_release_t world_record(const world_t *world, uint64_t offset, uint64_t generation,
                                                 uint64_t payload_len, uint32_t flags)
{
    return (mcs_col_release_t){.instance_hi = world->instance.hi,
                               .instance_lo = world->instance.lo,
                               .session_hi = world->session.hi,
                               .session_lo = world->session.lo,
                               .offset = offset,
                               .generation = generation,
                               .payload_len = payload_len,
                               .flags = flags};
}

MCS_UNUSED static void world_release(world_t *world, uint64_t offset, uint64_t generation, uint64_t payload_len,
                                     uint32_t flags)
{
    mcs_col_release_t record = world_record(world, offset, generation, payload_len, flags);
    mcs_owner_release(world->owner, &record, 1);
}

MCS_UNUSED static mcs_owner_stats_t world_stats(const world_t *world)
{
    mcs_owner_stats_t stats;
    mcs_owner_stats(world->owner, &stats);
    return stats;
}

/* Bytes that tell the generation and the place. */
MCS_UNUSED static void world_fill(void *bytes, uint64_t len, uint64_t generation)
{
    for (uint64_t i = 0; i < len; i++) {
        ((uint8_t *)bytes)[i] = (uint8_t)(generation * 131 + i * 7 + (i >> 8));
    }
}

MCS_UNUSED static bool world_is_filled(const void *bytes, uint64_t len, uint64_t generation)
{
    for (uint64_t i = 0; i < len; i++) {
        if (((const uint8_t *)bytes)[i] != (uint8_t)(generation * 131 + i * 7 + (i >> 8))) {
            return false;
        }
    }
    return true;
}

/* Writes one object through a mapping, as a put does. */
MCS_UNUSED static mcs_status_t world_put(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t len)
{
    mcs_pin_t pin;
    mcs_status_t status = mcs_pin_write(mapping, offset, generation, len, world_hash(generation), &pin);
    if (status != MCS_OK) {
        return status;
    }
    world_fill(pin.payload, len, generation);
    for (uint64_t block = 0; block < mcs_extent_block_count(len); block++) {
        uint64_t from = block * MCS_EXTENT_CRC_BLOCK;
        mcs_pin_crcs(&pin)[block] =
            mcs_crc32c(0, (uint8_t *)pin.payload + from, MCS_MIN(MCS_EXTENT_CRC_BLOCK, len - from));
    }
    status = mcs_pin_seal(&pin);
    mcs_unpin(&pin);
    return status;
}

/* Reads it and looks at every byte. */
MCS_UNUSED static mcs_status_t world_get(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t len)
{
    mcs_pin_t pin;
    mcs_status_t status = mcs_pin_read(mapping, offset, generation, len, world_hash(generation), &pin);
    if (status != MCS_OK) {
        return status;
    }
    status = world_is_filled(pin.payload, len, generation) ? MCS_OK : MCS_ERR_CHECKSUM_MISMATCH;
    mcs_unpin(&pin);
    return status;
}

#endif
