/* core/segment/owner: served access (rule 5), puts in pieces, holds, sessions, releases (rule 3). */
#include "tests/unit/segment/world.h"

#define SIZE (32 * MCS_MIB)

static const mcs_owner_ops_t *const g_ops = &mcs_owner_serve_ops;

static int open_world(void **state)
{
    *state = world_open(SIZE);
    return 0;
}

static int close_world(void **state)
{
    world_close(*state);
    return 0;
}

static mcs_status_t try_read(world_t *world, const mcs_access_t *access)
{
    mcs_hold_t hold;
    mcs_status_t status = g_ops->read_begin(world->owner, access, &hold);
    if (status == MCS_OK) {
        g_ops->read_end(world->owner, &hold);
    }
    return status;
}

/* Receives one piece of an object. */
static mcs_status_t write_piece(world_t *world, mcs_access_t access, uint64_t from, uint64_t len)
{
    access.from = from;
    access.len = len;
    mcs_hold_t hold;
    mcs_status_t status = g_ops->write_begin(world->owner, &access, &hold);
    if (status != MCS_OK) {
        return status;
    }
    uint8_t *whole = malloc(access.payload_len);
    world_fill(whole, access.payload_len, access.generation);
    memcpy(hold.bytes, whole + from, len);
    uint32_t crcs[64];
    uint32_t count = 0;
    for (uint64_t at = from; at < from + len;) { /* of each block that it touches */
        uint64_t end = MCS_MIN(MCS_ALIGN_DOWN(at, MCS_EXTENT_CRC_BLOCK) + MCS_EXTENT_CRC_BLOCK, from + len);
        crcs[count++] = mcs_crc32c(0, whole + at, end - at);
        at = end;
    }
    free(whole);
    return g_ops->write_end(world->owner, &hold, MCS_OK, crcs, count);
}

static mcs_status_t store(world_t *world, uint64_t offset, uint64_t generation, uint64_t len)
{
    return write_piece(world, world_access(world, MCS_CAP_WRITE, offset, generation, len), 0, len);
}

/* ---- refusals ---- */

static void a_good_read_holds_the_right_bytes_and_sums(void **state)
{
    world_t *world = *state;
    const uint64_t len = 5 * MCS_MIB + 1000;
    assert_int_equal(world_put(world->own, 64, 9, len), MCS_OK);
    mcs_access_t access = world_access(world, MCS_CAP_READ, 64, 9, len);
    access.from = MCS_MIB;
    access.len = 3 * MCS_MIB;
    mcs_hold_t hold;
    assert_int_equal(g_ops->read_begin(world->owner, &access, &hold), MCS_OK);
    assert_int_equal(hold.payload_len, len);
    assert_int_equal(hold.crc_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(hold.crcs[i], mcs_crc32c(0, (uint8_t *)hold.bytes + i * MCS_MIB, MCS_MIB));
    }
    uint8_t *whole = malloc(len);
    world_fill(whole, len, 9);
    assert_memory_equal(hold.bytes, whole + MCS_MIB, 3 * MCS_MIB);
    free(whole);
    assert_int_equal(world_stats(world).holds, 1);
    g_ops->read_end(world->owner, &hold);
    assert_int_equal(world_stats(world).holds, 0);
    /* Inside one block no sum begins. */
    access.from = 100;
    access.len = 200;
    assert_int_equal(g_ops->read_begin(world->owner, &access, &hold), MCS_OK);
    assert_int_equal(hold.crc_count, 0);
    g_ops->read_end(world->owner, &hold);
}

static void reads_with_anything_wrong_are_refused(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 10000), MCS_OK);
    const mcs_access_t good = world_access(world, MCS_CAP_READ, 0, 5, 10000);
    assert_int_equal(try_read(world, &good), MCS_OK);
    mcs_access_t bad = good;
    bad.instance.lo ^= 1;
    assert_int_equal(try_read(world, &bad), MCS_ERR_SEGMENT_NOT_FOUND);
    bad = good, bad.mac ^= 1;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.session.hi ^= 1;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.generation = 6;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.offset = 64;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.len = 0;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.len = 10001;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.from = 1;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.from = UINT64_MAX, bad.len = 2;
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    bad = good, bad.key_hash.lo ^= 1; /* another key's object */
    assert_int_equal(try_read(world, &bad), MCS_ERR_REPLICA_IS_GONE);
    /* A right to write is none to read. */
    bad = world_access(world, MCS_CAP_WRITE, 0, 5, 10000);
    assert_int_equal(try_read(world, &bad), MCS_ERR_INVALID_READ);
    assert_int_equal(world_stats(world).holds, 0);
}

/* The master is checked as everybody is: a good capability for a bad place. */
static void places_outside_the_segment_are_refused_whoever_signed_them(void **state)
{
    world_t *world = *state;
    const struct {
        uint64_t offset, len;
    } places[] = {{SIZE, 1},       {SIZE - 64, 1},          {32, 100},       {SIZE - 128, 65},        {0, SIZE},
                  {0, UINT64_MAX}, {UINT64_MAX - 63, 1000}, {64, SIZE - 64}, {0, MCS_OBJECT_MAX + 1}, {0, 0}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(places); i++) {
        mcs_access_t access = world_access(world, MCS_CAP_READ, places[i].offset, 3, places[i].len);
        access.len = 1;
        assert_int_equal(try_read(world, &access), MCS_ERR_INVALID_READ);
        access = world_access(world, MCS_CAP_WRITE, places[i].offset, 3, places[i].len);
        mcs_hold_t hold;
        assert_int_equal(g_ops->write_begin(world->owner, &access, &hold), MCS_ERR_INVALID_WRITE);
    }
}

static void without_a_key_nothing_is_served(void **state)
{
    world_t *world = *state;
    mcs_segment_t *other = world_segment(world, MCS_MIB);
    mcs_id_t instance = mcs_segment_instance(other);
    assert_int_equal(mcs_owner_add_segment(world->owner, other), MCS_OK);
    mcs_mac_key_t zero = {0, 0};
    mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, 1, 100);
    access.instance = instance;
    access.mac = mcs_cap_mac(&zero, access.session, instance, 0, 100, 1, MCS_CAP_WRITE);
    mcs_hold_t hold;
    assert_int_equal(g_ops->write_begin(world->owner, &access, &hold), MCS_ERR_INVALID_WRITE);
    mcs_owner_remove_segment(world->owner, instance);
    assert_int_equal(g_ops->write_begin(world->owner, &access, &hold), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_int_equal(mcs_owner_set_key(world->owner, instance, &zero), MCS_ERR_SEGMENT_NOT_FOUND);
    mcs_segment_put(other);
}

static void what_is_not_written_or_dead_is_not_read(void **state)
{
    world_t *world = *state;
    mcs_access_t access = world_access(world, MCS_CAP_READ, 0, 5, 1000);
    assert_int_equal(try_read(world, &access), MCS_ERR_REPLICA_IS_GONE); /* never opened */
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_write(world->own, 0, 5, 1000, world_hash(5), &pin), MCS_OK);
    assert_int_equal(try_read(world, &access), MCS_ERR_REPLICA_IS_GONE); /* open */
    assert_int_equal(mcs_pin_seal(&pin), MCS_OK);
    mcs_unpin(&pin);
    assert_int_equal(try_read(world, &access), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    assert_int_equal(try_read(world, &access), MCS_ERR_REPLICA_IS_GONE);
    world_await(world_times_released(world, 5) == 1);
}

static void an_ended_session_is_refused_and_no_other(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_id_t second = mcs_id_random();
    mcs_access_t mine = world_access(world, MCS_CAP_READ, 0, 5, 1000);
    mcs_access_t other = mine;
    other.session = second;
    other.mac = mcs_cap_mac(&world->key, second, world->instance, 0, 1000, 5, MCS_CAP_READ);
    mcs_owner_session_ended(world->owner, (mcs_id_t){0, 0}); /* nobody's */
    mcs_owner_session_ended(world->owner, second);
    mcs_owner_session_ended(world->owner, second);
    assert_int_equal(try_read(world, &other), MCS_ERR_SESSION_ENDED);
    assert_int_equal(try_read(world, &mine), MCS_OK);
    mcs_access_t write = world_access(world, MCS_CAP_WRITE, 4096, 6, 1000);
    write.session = second;
    write.mac = mcs_cap_mac(&world->key, second, world->instance, 4096, 1000, 6, MCS_CAP_WRITE);
    assert_int_equal(write_piece(world, write, 0, 1000), MCS_ERR_SESSION_ENDED);
}

static void more_holds_than_the_limit_are_refused(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 64), MCS_OK);
    mcs_access_t access = world_access(world, MCS_CAP_READ, 0, 5, 64);
    enum { MAX = 65536 };
    mcs_hold_t *holds = calloc(MAX, sizeof(*holds));
    for (size_t i = 0; i < MAX; i++) {
        assert_int_equal(g_ops->read_begin(world->owner, &access, &holds[i]), MCS_OK);
    }
    mcs_hold_t more;
    assert_int_equal(g_ops->read_begin(world->owner, &access, &more), MCS_ERR_LIMIT);
    for (size_t i = 0; i < MAX; i++) {
        g_ops->read_end(world->owner, &holds[i]);
    }
    assert_int_equal(try_read(world, &access), MCS_OK);
    free(holds);
}

/* ---- puts in pieces ---- */

/* The block CRCs that readers check. */
static void assert_sums_are_right(world_t *world, uint64_t generation, uint64_t len)
{
    mcs_access_t access = world_access(world, MCS_CAP_READ, 0, generation, len);
    mcs_hold_t hold;
    assert_int_equal(g_ops->read_begin(world->owner, &access, &hold), MCS_OK);
    for (uint32_t i = 0; i < hold.crc_count; i++) {
        uint64_t at = i * MCS_EXTENT_CRC_BLOCK;
        assert_int_equal(hold.crcs[i],
                         mcs_crc32c(0, (uint8_t *)hold.bytes + at, MCS_MIN(MCS_EXTENT_CRC_BLOCK, len - at)));
    }
    g_ops->read_end(world->owner, &hold);
}

static void pieces_of_a_block_add_up_in_any_order(void **state)
{
    world_t *world = *state;
    const uint64_t len = 4 * MCS_MIB + 333; /* its CRCs have a table of their own */
    const uint64_t units = (len + MCS_WRITE_UNIT - 1) / MCS_WRITE_UNIT;
    static const uint64_t steps[] = {5, 32}; /* none has a factor in common with 33 */
    for (uint64_t i = 0; i < MCS_ARRAY_LEN(steps); i++) {
        uint64_t generation = 200 + i;
        mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, generation, len);
        assert_int_equal(units, 33);
        for (uint64_t n = 0; n < units; n++) {
            uint64_t from = n * steps[i] % units * MCS_WRITE_UNIT;
            assert_int_equal(world_get(world->own, 0, generation, len), MCS_ERR_REPLICA_IS_GONE);
            assert_int_equal(write_piece(world, access, from, MCS_MIN(MCS_WRITE_UNIT, len - from)), MCS_OK);
        }
        assert_int_equal(world_get(world->own, 0, generation, len), MCS_OK);
        assert_sums_are_right(world, generation, len);
        world_release(world, 0, generation, len, 0);
    }
}

static void pieces_may_come_in_any_order(void **state)
{
    world_t *world = *state;
    static const uint64_t orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}};
    const uint64_t len = 5 * MCS_MIB + 333; /* pieces of 2, 2 and the rest */
    for (uint64_t i = 0; i < MCS_ARRAY_LEN(orders); i++) {
        uint64_t generation = 100 + i;
        mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, generation, len);
        for (size_t n = 0; n < 3; n++) {
            assert_int_equal(world_get(world->own, 0, generation, len), MCS_ERR_REPLICA_IS_GONE);
            uint64_t from = orders[i][n] * 2 * MCS_MIB;
            assert_int_equal(write_piece(world, access, from, MCS_MIN(2 * MCS_MIB, len - from)), MCS_OK);
        }
        assert_int_equal(world_get(world->own, 0, generation, len), MCS_OK);
        assert_sums_are_right(world, generation, len);
        /* Complete is complete (rule 2). */
        assert_int_equal(write_piece(world, access, 0, 2 * MCS_MIB), MCS_ERR_INVALID_WRITE);
        world_release(world, 0, generation, len, 0);
        world_await(world_times_released(world, generation) == 1);
    }
}

static void pieces_that_are_no_whole_units_are_refused(void **state)
{
    world_t *world = *state;
    mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, 1, 3 * MCS_MIB + 5);
    assert_int_equal(write_piece(world, access, 1, MCS_MIB), MCS_ERR_INVALID_WRITE);
    assert_int_equal(write_piece(world, access, 0, MCS_MIB + 1), MCS_ERR_INVALID_WRITE);
    assert_int_equal(write_piece(world, access, 3 * MCS_MIB, 4), MCS_ERR_INVALID_WRITE);
    assert_int_equal(write_piece(world, access, 3 * MCS_MIB, 5), MCS_OK);
    assert_int_equal(world_stats(world).holds, 0);
}

static void a_piece_that_came_twice_counts_once(void **state)
{
    world_t *world = *state;
    const uint64_t len = 2 * MCS_MIB;
    mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, 7, len);
    assert_int_equal(write_piece(world, access, 0, MCS_MIB), MCS_OK);
    mcs_status_t again = write_piece(world, access, 0, MCS_MIB);
    assert_true(again == MCS_OK || again == MCS_ERR_INVALID_WRITE);
    assert_int_equal(world_get(world->own, 0, 7, len), MCS_ERR_REPLICA_IS_GONE); /* half is not the whole */
    assert_int_equal(write_piece(world, access, MCS_MIB, MCS_MIB), MCS_OK);
    assert_int_equal(world_get(world->own, 0, 7, len), MCS_OK);
}

/* Rule 2: nothing may still be receiving into an extent that became WRITTEN. */
static void a_unit_is_received_by_one_hold_at_a_time(void **state)
{
    world_t *world = *state;
    mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, 7, 2 * MCS_MIB);
    mcs_access_t first = access;
    first.len = MCS_MIB;
    mcs_hold_t slow;
    assert_int_equal(g_ops->write_begin(world->owner, &first, &slow), MCS_OK);
    assert_int_not_equal(write_piece(world, access, 0, MCS_MIB), MCS_OK);
    assert_int_not_equal(write_piece(world, access, 0, 2 * MCS_MIB), MCS_OK);
    assert_int_equal(write_piece(world, access, MCS_MIB, MCS_MIB), MCS_OK);
    assert_int_equal(world_get(world->own, 0, 7, 2 * MCS_MIB), MCS_ERR_REPLICA_IS_GONE);
    /* It fails: the piece may be sent again, and then all is there. */
    uint32_t crc = 0;
    assert_int_equal(g_ops->write_end(world->owner, &slow, MCS_ERR_TRANSFER_FAIL, &crc, 1), MCS_ERR_TRANSFER_FAIL);
    assert_int_equal(write_piece(world, access, 0, MCS_MIB), MCS_OK);
    assert_int_equal(world_get(world->own, 0, 7, 2 * MCS_MIB), MCS_OK);
}

static void a_piece_with_the_wrong_number_of_sums_is_refused_and_may_come_again(void **state)
{
    world_t *world = *state;
    mcs_access_t access = world_access(world, MCS_CAP_WRITE, 0, 7, MCS_MIB);
    mcs_hold_t hold;
    uint32_t crcs[2] = {0};
    assert_int_equal(g_ops->write_begin(world->owner, &access, &hold), MCS_OK);
    assert_int_equal(g_ops->write_end(world->owner, &hold, MCS_OK, crcs, 2), MCS_ERR_INVALID_WRITE);
    assert_int_equal(store(world, 0, 7, MCS_MIB), MCS_OK);
    assert_int_equal(world_get(world->own, 0, 7, MCS_MIB), MCS_OK);
}

/* ---- releases ---- */

static void a_release_waits_for_the_holds_that_name_it(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_access_t read = world_access(world, MCS_CAP_READ, 0, 5, 1000);
    mcs_hold_t one, two;
    assert_int_equal(g_ops->read_begin(world->owner, &read, &one), MCS_OK);
    assert_int_equal(g_ops->read_begin(world->owner, &read, &two), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_int_equal(world_stats(world).pending_releases, 1);
    g_ops->read_end(world->owner, &one);
    world_release(world, 0, 5, 1000, 0); /* the master asks again */
    assert_int_equal(world_stats(world).pending_releases, 1);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_true(world_is_filled(two.bytes, 1000, 5));
    g_ops->read_end(world->owner, &two);
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(world_stats(world).pending_releases, 0);
}

static void a_release_waits_for_a_receive_that_names_it_and_the_receive_fails(void **state)
{
    world_t *world = *state;
    mcs_access_t write = world_access(world, MCS_CAP_WRITE, 0, 5, 1000);
    mcs_hold_t hold;
    assert_int_equal(g_ops->write_begin(world->owner, &write, &hold), MCS_OK);
    world_release(world, 0, 5, 1000, MCS_RELEASE_MAY_WRITE);
    assert_int_equal(world_times_released(world, 5), 0);
    world_fill(hold.bytes, 1000, 5); /* still its memory */
    uint32_t crc = 0;
    assert_int_equal(g_ops->write_end(world->owner, &hold, MCS_OK, &crc, 1), MCS_ERR_REPLICA_IS_GONE);
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(store(world, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
}

static void a_release_waits_for_the_pins_that_name_it(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(world->own, 0, 5, 1000, world_hash(5), &pin), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_int_equal(world_get(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE); /* no new ones */
    assert_true(world_is_filled(pin.payload, 1000, 5));
    mcs_unpin(&pin);
    mcs_unpin(&pin); /* once is enough */
    world_await(world_times_released(world, 5) == 1);
}

/* Rule 2: a new value waits until nobody can begin to read the old one, not until the last view has gone. */
static void a_strike_of_a_viewed_extent_is_answered_before_its_release(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(world->own, 0, 5, 1000, world_hash(5), &pin), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    assert_int_equal(world_times_struck(world, 5), 0); /* nobody waits for it */
    world_release(world, 0, 5, 1000, MCS_RELEASE_STRIKE);
    world_await(world_times_struck(world, 5) == 1);
    assert_int_equal(world_get(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
    world_release(world, 0, 5, 1000, MCS_RELEASE_STRIKE); /* the answer was lost */
    world_await(world_times_struck(world, 5) == 2);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_true(world_is_filled(pin.payload, 1000, 5));
    mcs_unpin(&pin);
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(world_times_struck(world, 5), 2);
}

static void a_strike_of_a_free_extent_is_answered_by_its_release_alone(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    world_release(world, 0, 5, 1000, MCS_RELEASE_STRIKE);
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(world_times_struck(world, 5), 0);
}

/* Rule 6: the writer was there first, and opens and seals after the mark. */
static void a_writer_that_seals_late_gets_an_error_and_its_extent_comes_back(void **state)
{
    world_t *world = *state;
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_write(world->own, 0, 5, 1000, world_hash(5), &pin), MCS_OK);
    world_release(world, 0, 5, 1000, MCS_RELEASE_MAY_WRITE);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_int_equal(mcs_pin_seal(&pin), MCS_ERR_REPLICA_IS_GONE);
    mcs_unpin(&pin);
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(world_get(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
}

static void a_revoked_generation_is_remembered_until_it_is_forgotten(void **state)
{
    world_t *world = *state;
    world_release(world, 0, 5, 1000, MCS_RELEASE_MAY_WRITE); /* never opened */
    world_await(world_times_released(world, 5) == 1);
    assert_int_equal(world_stats(world).revoked, 1);
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(store(world, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
    uint64_t others[] = {6, 7};
    mcs_owner_forget(world->owner, others, 2);
    assert_int_equal(world_stats(world).revoked, 1);
    uint64_t all[] = {9, 5, 3};
    mcs_owner_forget(world->owner, all, 3);
    assert_int_equal(world_stats(world).revoked, 0);
}

static void the_end_of_a_session_forgets_what_was_revoked_in_it(void **state)
{
    world_t *world = *state;
    mcs_id_t stranger = mcs_id_random();
    for (uint64_t i = 1; i <= 10; i++) {
        mcs_col_release_t record = world_record(world, i * 4096, i, 1000, MCS_RELEASE_MAY_WRITE);
        record.session_hi = i % 2 != 0 ? stranger.hi : world->session.hi;
        record.session_lo = i % 2 != 0 ? stranger.lo : world->session.lo;
        mcs_owner_release(world->owner, &record, 1);
    }
    assert_int_equal(world_stats(world).revoked, 10);
    mcs_owner_session_ended(world->owner, stranger);
    assert_int_equal(world_stats(world).revoked, 5);
    /* Later ones of it need no entry: it is refused as a whole. */
    mcs_col_release_t record = world_record(world, 0, 77, 1000, MCS_RELEASE_MAY_WRITE);
    record.session_hi = stranger.hi;
    record.session_lo = stranger.lo;
    mcs_owner_release(world->owner, &record, 1);
    assert_int_equal(world_stats(world).revoked, 5);
    world_await(world_times_released(world, 77) == 1);
    for (uint64_t i = 2; i <= 10; i += 2) {
        assert_int_equal(world_put(world->own, i * 4096, i, 1000), MCS_ERR_REPLICA_IS_GONE);
    }
}

/* This process's slots belong to no session, and are not closed with one. */
static void a_writer_of_this_process_stays_revoked_after_its_session_ended(void **state)
{
    world_t *world = *state;
    world_release(world, 0, 5, 1000, MCS_RELEASE_MAY_WRITE);
    mcs_owner_session_ended(world->owner, world->session);
    world_release(world, 4096, 6, 1000, MCS_RELEASE_MAY_WRITE);
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(world_put(world->own, 4096, 6, 1000), MCS_ERR_REPLICA_IS_GONE);
}

static void a_full_table_of_revoked_generations_quarantines(void **state)
{
    world_t *world = *state;
    enum { MAX = 4096 };
    mcs_col_release_t *records = calloc(MAX + 1, sizeof(*records));
    for (uint64_t i = 0; i <= MAX; i++) {
        records[i] = world_record(world, i * 128, i + 1, 64, MCS_RELEASE_MAY_WRITE);
    }
    mcs_owner_release(world->owner, records, MAX + 1);
    assert_int_equal(world_stats(world).revoked, MAX);
    assert_int_equal(world_stats(world).released_total, MAX);
    assert_int_equal(world_times_released(world, MAX + 1), 0);
    uint64_t one = 17;
    mcs_owner_forget(world->owner, &one, 1);
    mcs_owner_release(world->owner, &records[MAX], 1); /* asked again, there is room */
    world_await(world_times_released(world, MAX + 1) == 1);
    free(records);
}

static void records_of_nothing_of_ours_are_ignored(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_col_release_t good = world_record(world, 0, 5, 1000, 0);
    mcs_col_release_t bad[9];
    for (size_t i = 0; i < 9; i++) {
        bad[i] = good;
    }
    bad[0].instance_hi ^= 1;
    bad[1].offset = SIZE;
    bad[2].offset = 1;
    bad[3].payload_len = 0;
    bad[4].payload_len = UINT64_MAX;
    bad[5].generation = 0;
    bad[6].generation = UINT64_MAX;
    bad[7].offset = UINT64_MAX - 63;
    bad[8].payload_len = MCS_OBJECT_MAX;
    mcs_owner_release(world->owner, bad, 9);
    mcs_owner_release(world->owner, bad, 0);
    assert_int_equal(world_stats(world).released_total, 0);
    assert_int_equal(world_get(world->own, 0, 5, 1000), MCS_OK);
}

/* The master repeats a request whose answer crossed it, and the place has a new tenant. */
static void a_repeated_release_does_not_touch_what_came_after(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    assert_int_equal(world_put(world->own, 4096, 6, 1000), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    world_release(world, 4096, 6, 1000, 0);
    assert_int_equal(world_put(world->own, 0, 7, 100000), MCS_OK); /* over both */
    world_release(world, 0, 5, 1000, 0);
    world_release(world, 4096, 6, 1000, 0); /* in the middle of the new one's payload */
    world_await(world_times_released(world, 5) == 2);
    world_await(world_times_released(world, 6) == 2);
    assert_int_equal(world_get(world->own, 0, 7, 100000), MCS_OK);
}

static void many_releases_are_answered_once_each(void **state)
{
    world_t *world = *state;
    enum { COUNT = 20000 };
    mcs_col_release_t *records = calloc(COUNT, sizeof(*records));
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_int_equal(world_put(world->own, i * 128, i + 1, 64), MCS_OK);
        records[i] = world_record(world, i * 128, i + 1, 64, 0);
    }
    mcs_pin_t pins[3];
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t n = i * 9999;
        assert_int_equal(mcs_pin_read(world->own, n * 128, n + 1, 64, world_hash(n + 1), &pins[i]), MCS_OK);
    }
    mcs_owner_release(world->owner, records, COUNT);
    assert_int_equal(world_stats(world).pending_releases, 3);
    mcs_owner_release(world->owner, records, 1);
    assert_int_equal(world_stats(world).released_total, COUNT - 3);
    for (size_t i = 0; i < 3; i++) {
        mcs_unpin(&pins[i]);
        world_await(world_times_released(world, i * 9999 + 1) == 1); /* told after it is counted */
    }
    assert_int_equal(world_stats(world).released_total, COUNT);
    assert_int_equal(world_stats(world).pending_releases, 0);
    for (uint64_t n = 1; n <= COUNT; n += 1111) {
        world_await(world_times_released(world, n) == 1);
    }
    free(records);
}

static void a_removed_segment_serves_nothing_and_its_releases_are_dropped(void **state)
{
    world_t *world = *state;
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    mcs_access_t read = world_access(world, MCS_CAP_READ, 0, 5, 1000);
    mcs_hold_t hold;
    mcs_pin_t pin;
    assert_int_equal(g_ops->read_begin(world->owner, &read, &hold), MCS_OK);
    assert_int_equal(mcs_pin_read(world->own, 0, 5, 1000, world_hash(5), &pin), MCS_OK);
    world_release(world, 0, 5, 1000, 0);
    mcs_owner_remove_segment(world->owner, world->instance);
    mcs_owner_remove_segment(world->owner, world->instance);
    assert_int_equal(world_stats(world).pending_releases, 0);
    assert_int_equal(world_stats(world).segments, 0);
    assert_int_equal(try_read(world, &read), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_int_not_equal(world_get(world->own, 0, 5, 1000), MCS_OK);
    assert_int_not_equal(world_put(world->own, 4096, 6, 1000), MCS_OK);
    /* What is held has its memory. */
    assert_true(world_is_filled(hold.bytes, 1000, 5));
    assert_true(world_is_filled(pin.payload, 1000, 5));
    g_ops->read_end(world->owner, &hold);
    mcs_unpin(&pin);
    assert_int_equal(world_times_released(world, 5), 0);
}

static void pins_outlive_mapper_and_owner(void **state)
{
    (void)state;
    world_t *world = world_open(SIZE);
    assert_int_equal(world_put(world->own, 0, 5, 100000), MCS_OK);
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(world->own, 0, 5, 100000, world_hash(5), &pin), MCS_OK);
    world_close(world);
    assert_true(world_is_filled(pin.payload, 100000, 5));
    mcs_unpin(&pin);
}

static void pins_outside_their_segment_are_refused(void **state)
{
    world_t *world = *state;
    mcs_pin_t pin;
    static const struct {
        uint64_t offset, len;
    } places[] = {{SIZE, 1}, {1, 1}, {0, 0}, {0, SIZE}, {SIZE - 64, 1}, {UINT64_MAX - 63, 1}, {0, UINT64_MAX}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(places); i++) {
        assert_int_equal(mcs_pin_read(world->own, places[i].offset, 5, places[i].len, world_hash(5), &pin),
                         MCS_ERR_INVALID_READ);
        assert_int_equal(mcs_pin_write(world->own, places[i].offset, 5, places[i].len, world_hash(5), &pin),
                         MCS_ERR_INVALID_WRITE);
    }
    assert_int_equal(mcs_pin_write(world->own, 0, 0, 10, world_hash(5), &pin), MCS_ERR_INVALID_WRITE);
    assert_int_equal(mcs_pin_write(world->own, 0, UINT64_MAX, 10, world_hash(5), &pin), MCS_ERR_INVALID_WRITE);
    mcs_mapper_stats_t stats;
    mcs_mapper_stats(world->mapper, &stats);
    assert_int_equal(stats.pins, 0);
}

static void all_slots_taken_is_a_limit(void **state)
{
    world_t *world = *state;
    enum { MAX = 4096 };
    assert_int_equal(world_put(world->own, 0, 5, 64), MCS_OK);
    mcs_pin_t *pins = calloc(MAX, sizeof(*pins));
    for (size_t i = 0; i < MAX; i++) {
        assert_int_equal(mcs_pin_read(world->own, 0, 5, 64, world_hash(5), &pins[i]), MCS_OK);
    }
    assert_int_equal(world_get(world->own, 0, 5, 64), MCS_ERR_LIMIT);
    for (size_t i = 0; i < MAX; i++) {
        mcs_unpin(&pins[i]);
    }
    assert_int_equal(world_get(world->own, 0, 5, 64), MCS_OK);
    free(pins);
}

/* ---- failures ---- */

static mcs_status_t use_it_all(void *arg)
{
    world_t *world = arg;
    static uint64_t generation = 1000;
    generation++;
    mcs_access_t write = world_access(world, MCS_CAP_WRITE, 0, generation, 2 * MCS_MIB);
    mcs_status_t status = write_piece(world, write, MCS_MIB, MCS_MIB);
    status = status == MCS_OK ? write_piece(world, write, 0, MCS_MIB) : status;
    if (status == MCS_OK) {
        mcs_access_t read = world_access(world, MCS_CAP_READ, 0, generation, 2 * MCS_MIB);
        status = try_read(world, &read);
    }
    /* The extent comes back, now or when it is asked for again. */
    world_release(world, 0, generation, 2 * MCS_MIB, 0);
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    bool fired = status != MCS_OK;
    for (int asked = 0; world_times_released(world, generation) == 0; asked++) {
        fired = true;
        assert_true(asked < 3);
        world_release(world, 0, generation, 2 * MCS_MIB, 0);
    }
    assert_int_equal(world_stats(world).holds, 0);
    return fired ? MCS_ERR_NO_MEMORY : MCS_OK;
}

static void failing_allocations_lose_no_extent(void **state)
{
    world_t *world = *state;
    assert_int_equal(use_it_all(world), MCS_OK);
    uint64_t failures = 0;
    for (uint64_t nth = 1; nth < 12; nth++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        failures += use_it_all(world) != MCS_OK;
    }
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    assert_true(failures >= 4);
}

static mcs_status_t make_owner(void *arg)
{
    mcs_owner_config_t config = {
        .client = mcs_id_random(), .ipc_dir = arg, .released = world_on_released, .released_arg = NULL};
    mcs_owner_t *owner = NULL;
    mcs_mapper_t *mapper = NULL;
    mcs_status_t status = mcs_owner_create(&config, &owner);
    if (status == MCS_OK) {
        mcs_mapper_config_t mapper_config = {.client = config.client, .owner = owner};
        status = mcs_mapper_create(&mapper_config, &mapper);
    }
    /* No socket is not a failure: peers take the transport. */
    if (status == MCS_OK && mcs_owner_ipc_path(owner)[0] == '\0') {
        status = MCS_ERR_INTERNAL;
    }
    mcs_mapper_destroy(mapper);
    mcs_owner_destroy(owner);
    return status;
}

static void an_owner_that_cannot_be_made_leaves_nothing(void **state)
{
    (void)state;
    char folder[] = "/tmp/mcs-segment-XXXXXX";
    assert_non_null(mkdtemp(folder));
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_ALLOC, make_owner, folder) >= 5);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, make_owner, folder) >= 5);
    mcs_log_set_level(MCS_LOG_WARN);
    assert_int_equal(rmdir(folder), 0);
}

static void a_folder_that_is_not_ours_alone_offers_no_socket(void **state)
{
    (void)state;
    char folder[] = "/tmp/mcs-segment-XXXXXX";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chmod(folder, 0777), 0);
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_owner_config_t config = {
        .client = mcs_id_random(), .ipc_dir = folder, .released = world_on_released, .released_arg = NULL};
    mcs_owner_t *owner;
    assert_int_equal(mcs_owner_create(&config, &owner), MCS_OK);
    assert_string_equal(mcs_owner_ipc_path(owner), "");
    mcs_owner_destroy(owner);
    char longer[200];
    snprintf(longer, sizeof(longer), "%s/%0120d", folder, 7);
    config.ipc_dir = longer;
    assert_int_equal(mcs_owner_create(&config, &owner), MCS_OK);
    assert_string_equal(mcs_owner_ipc_path(owner), "");
    mcs_owner_destroy(owner);
    mcs_log_set_level(MCS_LOG_WARN);
    mcs_owner_destroy(NULL);
    mcs_mapper_destroy(NULL);
    assert_int_equal(rmdir(folder), 0);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(a_good_read_holds_the_right_bytes_and_sums),
        IN_WORLD(reads_with_anything_wrong_are_refused),
        IN_WORLD(places_outside_the_segment_are_refused_whoever_signed_them),
        IN_WORLD(without_a_key_nothing_is_served),
        IN_WORLD(what_is_not_written_or_dead_is_not_read),
        IN_WORLD(an_ended_session_is_refused_and_no_other),
        IN_WORLD(more_holds_than_the_limit_are_refused),
        IN_WORLD(pieces_may_come_in_any_order),
        IN_WORLD(pieces_of_a_block_add_up_in_any_order),
        IN_WORLD(pieces_that_are_no_whole_units_are_refused),
        IN_WORLD(a_piece_that_came_twice_counts_once),
        IN_WORLD(a_unit_is_received_by_one_hold_at_a_time),
        IN_WORLD(a_piece_with_the_wrong_number_of_sums_is_refused_and_may_come_again),
        IN_WORLD(a_release_waits_for_the_holds_that_name_it),
        IN_WORLD(a_release_waits_for_a_receive_that_names_it_and_the_receive_fails),
        IN_WORLD(a_release_waits_for_the_pins_that_name_it),
        IN_WORLD(a_strike_of_a_viewed_extent_is_answered_before_its_release),
        IN_WORLD(a_strike_of_a_free_extent_is_answered_by_its_release_alone),
        IN_WORLD(a_writer_that_seals_late_gets_an_error_and_its_extent_comes_back),
        IN_WORLD(a_revoked_generation_is_remembered_until_it_is_forgotten),
        IN_WORLD(the_end_of_a_session_forgets_what_was_revoked_in_it),
        IN_WORLD(a_writer_of_this_process_stays_revoked_after_its_session_ended),
        IN_WORLD(a_full_table_of_revoked_generations_quarantines),
        IN_WORLD(records_of_nothing_of_ours_are_ignored),
        IN_WORLD(a_repeated_release_does_not_touch_what_came_after),
        IN_WORLD(many_releases_are_answered_once_each),
        IN_WORLD(a_removed_segment_serves_nothing_and_its_releases_are_dropped),
        cmocka_unit_test(pins_outlive_mapper_and_owner),
        IN_WORLD(pins_outside_their_segment_are_refused),
        IN_WORLD(all_slots_taken_is_a_limit),
        IN_WORLD(failing_allocations_lose_no_extent),
        cmocka_unit_test(an_owner_that_cannot_be_made_leaves_nothing),
        cmocka_unit_test(a_folder_that_is_not_ours_alone_offers_no_socket),
    };
    return cmocka_run_group_tests_name("segment/owner", tests, NULL, NULL);
}
