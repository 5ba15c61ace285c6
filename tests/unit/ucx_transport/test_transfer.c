/* Fetches and stores between two transports of one process, over real UCX on loopback. */
#include "rig.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/hash.h"

static side_t g_holder;
static side_t g_reader;

static int open_sides(void **state)
{
    (void)state;
    rig_install_log();
    side_open(&g_holder, 3, NULL);
    side_open(&g_reader, 0, NULL);
    return 0;
}

static int close_sides(void **state)
{
    (void)state;
    side_close(&g_reader);
    side_close(&g_holder);
    return 0;
}

static void fetch_object(uint64_t len, uint64_t piece)
{
    fake_owner_fill(&g_holder.owner, 1, len, len + piece);
    uint8_t *into = malloc(len + 2);
    assert_non_null(into);
    into[0] = 0xaa;
    into[len + 1] = 0xbb;
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(&batch, 1, len, into + 1, piece);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(into + 1, g_holder.owner.memory + RIG_SLOT, len);
    assert_int_equal(into[0], 0xaa);
    assert_int_equal(into[len + 1], 0xbb);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        assert_int_equal(batch.crcs[i], mcs_crc32c(0, into + 1 + at, MCS_MIN(len - at, MCS_CRC_BLOCK)));
    }
    batch_fini(&batch);
    free(into);
}

static void store_object(uint64_t len, uint64_t piece)
{
    uint8_t *from = malloc(len);
    assert_non_null(from);
    fill_pattern(from, len, len * 3 + piece);
    memset(g_holder.owner.memory + 2 * RIG_SLOT, 0, MCS_MIN(len + 64, RIG_SLOT));
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_STORE, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(&batch, 2, len, from, piece);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(g_holder.owner.memory + 2 * RIG_SLOT, from, len);
    batch_fini(&batch);
    free(from);
}

static const uint64_t g_sizes[] = {1,
                                   2,
                                   63,
                                   4096,
                                   16383,
                                   16384,
                                   65536,
                                   MCS_CRC_BLOCK - 1,
                                   MCS_CRC_BLOCK,
                                   MCS_CRC_BLOCK + 1,
                                   3 << 20,
                                   (8 << 20) + 5,
                                   UINT64_C(64) << 20};

static void objects_of_all_sizes_are_fetched(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_sizes); i++) {
        fetch_object(g_sizes[i], 0);
    }
}

static void objects_of_all_sizes_are_stored(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_sizes); i++) {
        store_object(g_sizes[i], 0);
    }
}

static const uint64_t g_splits[] = {1, 7, 4096, 65536, 100003, 777777};

static void odd_splits_of_the_callers_memory_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_splits); i++) {
        uint64_t len = g_splits[i] < 4096 ? 3000 : (5 << 20) + 11;
        fetch_object(len, g_splits[i]);
        store_object(len, g_splits[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_of_all_sizes_are_fetched),
        cmocka_unit_test(objects_of_all_sizes_are_stored),
        cmocka_unit_test(odd_splits_of_the_callers_memory_work),
    };
    return cmocka_run_group_tests_name("ucx transfer", tests, open_sides, close_sides);
}
