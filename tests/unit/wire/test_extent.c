/* core/wire/extent: layout arithmetic, states, and that nothing but the very extent asked for passes the check. */
#include <pthread.h>
#include <signal.h>

#include "core/wire/extent.h"
#include "tests/unit/wire/hostile.h"

static const mcs_id_t g_instance = {11, 22};

static void layout_adds_up_at_every_size(void **state)
{
    (void)state;
    static const struct {
        uint64_t payload;
        uint64_t offset; /* of the payload */
        uint64_t len;
    } rows[] = {{1, 64, 128},
                {63, 64, 128},
                {64, 64, 128},
                {65, 64, 192},
                {4096, 64, 4160},
                {MCS_MIB, 64, MCS_MIB + 64},
                {4 * MCS_MIB, 64, 4 * MCS_MIB + 64},
                {4 * MCS_MIB + 1, 128, 4 * MCS_MIB + 192},
                {16 * MCS_MIB, 128, 16 * MCS_MIB + 128},
                {17 * MCS_MIB, 192, 17 * MCS_MIB + 192}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        assert_true(mcs_extent_payload_offset(rows[i].payload) == rows[i].offset);
        assert_true(mcs_extent_len(rows[i].payload) == rows[i].len);
    }
    for (uint64_t payload = 1; payload < MCS_OBJECT_MAX; payload = payload * 3 + 1) {
        uint64_t blocks = mcs_extent_block_count(payload);
        assert_true((blocks - 1) * MCS_EXTENT_CRC_BLOCK < payload && payload <= blocks * MCS_EXTENT_CRC_BLOCK);
        assert_int_equal(mcs_extent_payload_offset(payload) % MCS_EXTENT_ALIGN, 0);
        assert_int_equal(mcs_extent_len(payload) % MCS_EXTENT_ALIGN, 0);
        assert_true(mcs_extent_len(payload) >= mcs_extent_payload_offset(payload) + payload);
        assert_true(blocks <= MCS_EXTENT_INLINE_CRCS || mcs_extent_payload_offset(payload) - 64 >= blocks * 4);
    }
}

static void crcs_lie_in_the_header_or_behind_it(void **state)
{
    (void)state;
    mcs_extent_header_t h[4];
    assert_ptr_equal(mcs_extent_crcs(h, 1), h[0].crc);
    assert_ptr_equal(mcs_extent_crcs(h, 4 * MCS_MIB), h[0].crc);
    assert_ptr_equal(mcs_extent_crcs(h, 4 * MCS_MIB + 1), &h[1]);
}

static void life_goes_open_written_dead(void **state)
{
    (void)state;
    mcs_extent_header_t h;
    memset(&h, 0xcc, sizeof(h));
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 100), MCS_EXTENT_DEAD); /* whatever lay there */
    mcs_extent_open(&h, g_instance, 7, 100, mcs_extent_key_hash("k", 1));
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 100), MCS_EXTENT_OPEN);
    assert_false(mcs_extent_seal(&h, 8));
    assert_true(mcs_extent_seal(&h, 7));
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 100), MCS_EXTENT_WRITTEN);
    assert_false(mcs_extent_seal(&h, 7)); /* once */
    mcs_extent_kill(&h);
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 100), MCS_EXTENT_DEAD);
    assert_false(mcs_extent_seal(&h, 7));
    mcs_extent_open(&h, g_instance, 9, 50, mcs_extent_key_hash("k", 1)); /* given out again */
    assert_int_equal(mcs_extent_check(&h, g_instance, 9, 50), MCS_EXTENT_OPEN);
    assert_false(mcs_extent_seal(&h, 7));
    mcs_extent_kill(&h); /* an open one dies too */
    assert_false(mcs_extent_seal(&h, 9));
    memset(&h, 0, sizeof(h));
    mcs_extent_kill(&h);
    assert_int_equal(mcs_extent_check(&h, g_instance, 0, 0), MCS_EXTENT_DEAD);
}

static void only_the_extent_asked_for_passes(void **state)
{
    (void)state;
    mcs_extent_header_t h;
    mcs_extent_open(&h, g_instance, 7, 100, mcs_extent_key_hash("k", 1));
    assert_true(mcs_extent_seal(&h, 7));
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 100), MCS_EXTENT_WRITTEN);
    assert_int_equal(mcs_extent_check(&h, g_instance, 8, 100), MCS_EXTENT_DEAD);
    assert_int_equal(mcs_extent_check(&h, g_instance, 7, 101), MCS_EXTENT_DEAD);
    assert_int_equal(mcs_extent_check(&h, (mcs_id_t){11, 23}, 7, 100),
                     MCS_EXTENT_DEAD); /* payload bytes of another segment */
    assert_int_equal(mcs_extent_check(&h, (mcs_id_t){22, 11}, 7, 100), MCS_EXTENT_DEAD);
}

/* Any changed byte outside state and block CRCs makes it DEAD; a changed state is another state or DEAD, never a crash.
 */
static void check_flip(void *arg, const uint8_t *bytes, size_t len)
{
    const uint8_t *good = arg;
    mcs_extent_header_t h;
    assert_int_equal(len, sizeof(h));
    memcpy(&h, bytes, len);
    mcs_extent_state_t found = mcs_extent_check(&h, g_instance, 7, 100);
    size_t at = 0;
    while (at < len && bytes[at] == good[at]) {
        at++;
    }
    bool in_state = at >= offsetof(mcs_extent_header_t, state) && at < offsetof(mcs_extent_header_t, header_crc);
    bool covered = at < offsetof(mcs_extent_header_t, crc) && !in_state;
    assert_int_equal(found, covered || in_state ? MCS_EXTENT_DEAD : MCS_EXTENT_WRITTEN);
}

static void every_flipped_byte_of_a_header_is_seen(void **state)
{
    (void)state;
    mcs_extent_header_t h;
    mcs_extent_open(&h, g_instance, 7, 100, mcs_extent_key_hash("k", 1));
    assert_true(mcs_extent_seal(&h, 7));
    hostile_flips(check_flip, &h, (const uint8_t *)&h, sizeof(h));
}

/* Sealing races with the owner's kill: exactly one outcome, and a dead extent is never sealed. */
typedef struct race {
    mcs_extent_header_t header;
    pthread_barrier_t start;
    bool sealed;
} race_t;

#define ROUNDS 2000

static void *seal_rounds(void *arg)
{
    race_t *race = arg;
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        pthread_barrier_wait(&race->start);
        race->sealed = mcs_extent_seal(&race->header, i);
        pthread_barrier_wait(&race->start);
    }
    return NULL;
}

static void seal_and_kill_race_to_one_outcome(void **state)
{
    (void)state;
    race_t race = {.sealed = false};
    pthread_t thread;
    assert_int_equal(pthread_barrier_init(&race.start, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, seal_rounds, &race), 0);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        mcs_extent_open(&race.header, g_instance, i, 100, mcs_extent_key_hash("k", 1));
        pthread_barrier_wait(&race.start);
        mcs_extent_kill(&race.header);
        pthread_barrier_wait(&race.start);
        assert_int_equal(mcs_extent_check(&race.header, g_instance, i, 100), MCS_EXTENT_DEAD);
        assert_false(mcs_extent_seal(&race.header, i));
    }
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&race.start);
}

static void key_hash_is_the_same_in_every_build(void **state)
{
    (void)state;
    mcs_hash128_t a = mcs_extent_key_hash("hello", 5);
    mcs_hash128_t b = mcs_extent_key_hash("hello", 5);
    mcs_hash128_t c = mcs_extent_key_hash("hellp", 5);
    assert_true(a.lo == b.lo && a.hi == b.hi && a.lo != c.lo);
    assert_true(a.lo == mcs_hash128(MCS_EXTENT_KEY_SEED, "hello", 5).lo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_adds_up_at_every_size),
        cmocka_unit_test(crcs_lie_in_the_header_or_behind_it),
        cmocka_unit_test(life_goes_open_written_dead),
        cmocka_unit_test(only_the_extent_asked_for_passes),
        cmocka_unit_test(every_flipped_byte_of_a_header_is_seen),
        cmocka_unit_test(seal_and_kill_race_to_one_outcome),
        cmocka_unit_test(key_hash_is_the_same_in_every_build),
    };
    return cmocka_run_group_tests_name("extent", tests, NULL, NULL);
}
