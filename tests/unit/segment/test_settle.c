/* What an earlier master left (rule 12): its writers are refused, gaps are answered for when nobody is in them. */
#include "core/segment/slots.h"
#include "tests/unit/segment/world.h"

#define EPOCH  UINT64_C(9)
#define OLD(n) (((EPOCH - 1) << MCS_GENERATION_EPOCH_SHIFT) + (n))
#define NEW(n) ((EPOCH << MCS_GENERATION_EPOCH_SHIFT) + (n))
#define LEN    1000u
#define GAP    NEW(777) /* what the master knows the gap by */

static uint64_t place(uint64_t i)
{
    return i * mcs_extent_len(LEN);
}

/* Three objects of the earlier epoch side by side; the master knows the first and the third. */
static world_t *open_world(void)
{
    world_t *world = world_open(4 * MCS_MIB);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(world_put(world->own, place(i), OLD(i + 1), LEN), MCS_OK);
    }
    return world;
}

static void ask(world_t *world)
{
    world_release(world, place(1), GAP, mcs_extent_len(LEN), MCS_RELEASE_GAP);
}

static mcs_status_t read_one(world_t *world, uint64_t i, mcs_pin_t *pin)
{
    return mcs_pin_read(world->own, place(i), OLD(i + 1), LEN, world_hash(OLD(i + 1)), pin);
}

static void a_gap_without_anybody_is_dead_and_free(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_pin_t pin;
    mcs_owner_set_epoch(world->owner, EPOCH);
    ask(world);
    world_await(world_times_released(world, GAP) == 1);
    assert_int_equal(read_one(world, 1, &pin), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(read_one(world, 0, &pin), MCS_OK); /* its neighbours are as they were */
    mcs_unpin(&pin);
    assert_int_equal(read_one(world, 2, &pin), MCS_OK);
    mcs_unpin(&pin);
    world_close(world);
}

static void a_reader_in_a_gap_is_waited_for_and_others_are_not(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_pin_t inside;
    mcs_pin_t outside;
    assert_int_equal(read_one(world, 1, &inside), MCS_OK);
    assert_int_equal(read_one(world, 2, &outside), MCS_OK); /* a view of what the master knows: for hours */
    mcs_owner_set_epoch(world->owner, EPOCH);
    ask(world);
    ask(world); /* a repeat is answered once */
    world_await(__atomic_load_n(&inside.header->state, __ATOMIC_SEQ_CST) == MCS_EXTENT_DEAD);
    assert_int_equal(world_times_released(world, GAP), 0);
    mcs_unpin(&inside);
    world_await(world_times_released(world, GAP) == 1);
    mcs_unpin(&outside);
    world_close(world);
}

static void a_slot_whose_place_is_not_known_keeps_every_gap(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_pin_t pin;
    /* As a writer that has published its slot and not opened its header: it could be anywhere. */
    assert_int_equal(mcs_pin_write(world->own, place(9), OLD(50), LEN, world_hash(OLD(50)), &pin), MCS_OK);
    memset(pin.header, 0, sizeof(*pin.header));
    mcs_owner_set_epoch(world->owner, EPOCH);
    assert_true(mcs_owner_high_mark(world->owner, world->instance) == mcs_segment_size(world->segment));
    mcs_pin_t killed;
    ask(world);
    world_await(read_one(world, 1, &killed) != MCS_OK || (mcs_unpin(&killed), false));
    assert_int_equal(world_times_released(world, GAP), 0);
    mcs_unpin(&pin);
    world_await(world_times_released(world, GAP) == 1);
    assert_true(mcs_owner_high_mark(world->owner, world->instance) < mcs_segment_size(world->segment));
    world_close(world);
}

static void writes_of_an_earlier_epoch_are_refused(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_owner_set_epoch(world->owner, EPOCH);
    assert_int_equal(world_put(world->own, place(5), OLD(60), LEN), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(world_put(world->own, place(5), NEW(60), LEN), MCS_OK);
    assert_true(mcs_owner_high_mark(world->owner, world->instance) >= place(5) + mcs_extent_len(LEN));
    world_close(world);
}

static void what_is_no_gap_of_ours_is_not_answered(void **state)
{
    (void)state;
    world_t *world = open_world();
    world_release(world, place(1) + 1, GAP, 64, MCS_RELEASE_GAP);
    world_release(world, 0, GAP, 5 * MCS_MIB, MCS_RELEASE_GAP);
    world_release(world, UINT64_MAX - 63, GAP, 128, MCS_RELEASE_GAP);
    world_release(world, 0, GAP, 0, MCS_RELEASE_GAP);
    mcs_pin_t pin;
    assert_int_equal(read_one(world, 1, &pin), MCS_OK);
    mcs_unpin(&pin);
    assert_int_equal(world_times_released(world, GAP), 0);
    world_close(world);
}

/* ---- what the journal says of extents ---- */

static mcs_col_check_t check_of(uint64_t i)
{
    return (mcs_col_check_t){place(i), OLD(i + 1), LEN, 77};
}

static void extents_that_are_so_are_not_named(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_col_check_t records[] = {check_of(0), check_of(1), check_of(2)};
    mcs_owner_check(world->owner, world->instance, records, 3);
    assert_int_equal(world->differing_count, 0);
    world_close(world);
}

static void every_field_of_a_header_is_looked_at(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_extent_header_t *header = mcs_segment_base(world->segment);
    mcs_extent_header_t good = *header;
    mcs_col_check_t record = check_of(0);
    uint32_t expected = 0;
    for (size_t at = 0; at < offsetof(mcs_extent_header_t, crc); at++) {
        ((uint8_t *)header)[at] ^= 0x20;
        mcs_owner_check(world->owner, world->instance, &record, 1);
        expected++;
        assert_int_equal(world->differing_count, expected);
        assert_true(world->differing[expected - 1] == OLD(1));
        *header = good;
    }
    mcs_owner_check(world->owner, world->instance, &record, 1);
    assert_int_equal(world->differing_count, expected);
    world_close(world);
}

static void what_is_not_written_differs(void **state)
{
    (void)state;
    world_t *world = open_world();
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_write(world->own, place(5), OLD(6), LEN, world_hash(OLD(6)), &pin), MCS_OK);
    mcs_extent_kill((mcs_extent_header_t *)(void *)((uint8_t *)mcs_segment_base(world->segment) + place(1)));
    mcs_col_check_t records[] = {
        check_of(5),                               /* open */
        check_of(1),                               /* dead */
        {place(0), OLD(9), LEN, 77},               /* another generation's */
        {place(0), OLD(1), LEN + 1, 77},           /* another length */
        {place(900), OLD(1), LEN, 77},             /* never touched */
        {place(0) + 1, OLD(1), LEN, 77},           /* no place of an extent */
        {4 * MCS_MIB - 64, OLD(1), LEN, 77},       /* reaches out of the segment */
        {UINT64_MAX - 63, OLD(1), UINT64_MAX, 77}, /* garbage */
        {place(0), OLD(1), 0, 77},
    };
    mcs_owner_check(world->owner, world->instance, records, MCS_ARRAY_LEN(records));
    assert_int_equal(world->differing_count, MCS_ARRAY_LEN(records));
    mcs_owner_check(world->owner, mcs_id_random(), records, 1); /* not ours: nothing is said */
    assert_int_equal(world->differing_count, MCS_ARRAY_LEN(records));
    mcs_unpin(&pin);
    world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gap_without_anybody_is_dead_and_free),
        cmocka_unit_test(a_reader_in_a_gap_is_waited_for_and_others_are_not),
        cmocka_unit_test(a_slot_whose_place_is_not_known_keeps_every_gap),
        cmocka_unit_test(writes_of_an_earlier_epoch_are_refused),
        cmocka_unit_test(what_is_no_gap_of_ours_is_not_answered),
        cmocka_unit_test(extents_that_are_so_are_not_named),
        cmocka_unit_test(every_field_of_a_header_is_looked_at),
        cmocka_unit_test(what_is_not_written_differs),
    };
    return cmocka_run_group_tests_name("settle", tests, NULL, NULL);
}
