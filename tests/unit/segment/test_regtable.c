/* core/segment/regtable: registered ranges. */
#include "core/segment/regtable.h"

#include <pthread.h>
#include <stdlib.h>

#include "tests/support/unit.h"

static const void *at(uint64_t address)
{
    return (const void *)(uintptr_t)address;
}

static mcs_regtable_t *new_table(void)
{
    mcs_regtable_t *table;
    assert_int_equal(mcs_regtable_create(&table), MCS_OK);
    return table;
}

static void a_range_contains_its_bytes_and_no_others(void **state)
{
    (void)state;
    mcs_regtable_t *table = new_table();
    assert_false(mcs_regtable_contains(table, at(1000), 1));
    assert_int_equal(mcs_regtable_add(table, at(1000), 100), MCS_OK);
    assert_true(mcs_regtable_contains(table, at(1000), 100));
    assert_true(mcs_regtable_contains(table, at(1050), 50));
    assert_true(mcs_regtable_contains(table, at(1099), 1));
    assert_false(mcs_regtable_contains(table, at(999), 2));
    assert_false(mcs_regtable_contains(table, at(1050), 51));
    assert_false(mcs_regtable_contains(table, at(1100), 1));
    assert_false(mcs_regtable_contains(table, at(1000), UINT64_MAX));
    assert_false(mcs_regtable_contains(table, at(UINT64_MAX), UINT64_MAX));
    mcs_regtable_destroy(table);
}

static void neighbours_are_fine_and_one_access_stays_inside_one_of_them(void **state)
{
    (void)state;
    mcs_regtable_t *table = new_table();
    assert_int_equal(mcs_regtable_add(table, at(2000), 100), MCS_OK);
    assert_int_equal(mcs_regtable_add(table, at(1900), 100), MCS_OK);
    assert_int_equal(mcs_regtable_add(table, at(2100), 100), MCS_OK);
    assert_int_equal(mcs_regtable_count(table), 3);
    assert_true(mcs_regtable_contains(table, at(2000), 100));
    assert_false(mcs_regtable_contains(table, at(1950), 100));
    mcs_regtable_destroy(table);
}

static void bad_ranges_are_refused_and_change_nothing(void **state)
{
    (void)state;
    mcs_regtable_t *table = new_table();
    assert_int_equal(mcs_regtable_add(table, at(1000), 100), MCS_OK);
    assert_int_equal(mcs_regtable_add(table, NULL, 100), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(5000), 0), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(UINT64_MAX - 10), 100), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(1000), 100), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(1099), 1), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(900), 101), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_add(table, at(900), 500), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_remove(table, at(1001)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_remove(table, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_regtable_count(table), 1);
    assert_true(mcs_regtable_contains(table, at(1000), 100));
    assert_int_equal(mcs_regtable_remove(table, at(1000)), MCS_OK);
    assert_int_equal(mcs_regtable_remove(table, at(1000)), MCS_ERR_INVALID_PARAMS);
    mcs_regtable_destroy(table);
    mcs_regtable_destroy(NULL);
}

/* Cells of 16 bytes; a model says which ranges start where. */
static void long_churn_agrees_with_a_model(void **state)
{
    (void)state;
    enum { CELLS = 512, ROUNDS = 40000 };
    mcs_regtable_t *table = new_table();
    uint64_t len[CELLS] = {0};
    bool taken[CELLS] = {0};
    uint64_t seed = 3;
    uint64_t count = 0;
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        size_t cell = (seed >> 33) % CELLS;
        uint64_t cells = 1 + (seed >> 50) % 5;
        const void *address = at(0x10000 + cell * 16);
        if ((seed >> 20 & 1) != 0) {
            bool free_cells = cell + cells <= CELLS;
            for (size_t i = cell; i < cell + cells && free_cells; i++) {
                free_cells = !taken[i];
            }
            if (cell + cells <= CELLS) {
                assert_int_equal(mcs_regtable_add(table, address, cells * 16),
                                 free_cells ? MCS_OK : MCS_ERR_INVALID_PARAMS);
            }
            if (free_cells) {
                len[cell] = cells;
                memset(&taken[cell], 1, cells * sizeof(bool));
                count++;
            }
        } else {
            assert_int_equal(mcs_regtable_remove(table, address), len[cell] > 0 ? MCS_OK : MCS_ERR_INVALID_PARAMS);
            if (len[cell] > 0) {
                memset(&taken[cell], 0, len[cell] * sizeof(bool));
                count--;
                len[cell] = 0;
            }
        }
        assert_int_equal(mcs_regtable_count(table), count);
        assert_int_equal(mcs_regtable_contains(table, address, 16), taken[cell]);
    }
    mcs_regtable_destroy(table);
}

static void past_a_million_entries_there_is_a_limit(void **state)
{
    (void)state;
    mcs_regtable_t *table = new_table();
    for (uint64_t i = 1; i <= 1 << 20; i++) {
        assert_int_equal(mcs_regtable_add(table, at(i * 64), 64), MCS_OK);
    }
    assert_int_equal(mcs_regtable_add(table, at(64 * ((1 << 20) + 1)), 64), MCS_ERR_LIMIT);
    assert_true(mcs_regtable_contains(table, at(64 * 77777), 64));
    mcs_regtable_destroy(table);
}

typedef struct mover {
    mcs_regtable_t *table;
    uint64_t base;
    uint32_t wrong;
} mover_t;

static void *come_and_go(void *arg)
{
    mover_t *mover = arg;
    for (uint64_t i = 0; i < 4000; i++) {
        const void *address = at(mover->base + i % 100 * 64);
        bool fine =
            mcs_regtable_add(mover->table, address, 64) == MCS_OK && mcs_regtable_contains(mover->table, address, 64) &&
            mcs_regtable_contains(mover->table, at(64), 64) && mcs_regtable_remove(mover->table, address) == MCS_OK;
        mover->wrong += fine ? 0 : 1;
    }
    return NULL;
}

static void threads_see_their_own_ranges(void **state)
{
    (void)state;
    mcs_regtable_t *table = new_table();
    assert_int_equal(mcs_regtable_add(table, at(64), 64), MCS_OK);
    pthread_t threads[4];
    mover_t movers[4];
    for (uint64_t i = 0; i < 4; i++) {
        movers[i] = (mover_t){.table = table, .base = 0x100000 * (i + 1)};
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &movers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(movers[i].wrong, 0);
    }
    assert_int_equal(mcs_regtable_count(table), 1);
    mcs_regtable_destroy(table);
}

static mcs_status_t fill_and_drop(void *arg)
{
    (void)arg;
    mcs_regtable_t *table = NULL;
    mcs_status_t status = mcs_regtable_create(&table);
    uint64_t added = 0;
    for (uint64_t i = 1; i <= 100 && status == MCS_OK; i++) {
        status = mcs_regtable_add(table, at(i * 64), 64);
        added += status == MCS_OK ? 1 : 0;
    }
    if (table != NULL) {
        assert_int_equal(mcs_regtable_count(table), added); /* a failure adds nothing and loses nothing */
        for (uint64_t i = 1; i <= added; i++) {
            assert_true(mcs_regtable_contains(table, at(i * 64), 64));
        }
    }
    mcs_regtable_destroy(table);
    return status;
}

static void a_failed_allocation_leaves_the_table_as_it_was(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, fill_and_drop, NULL) >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_range_contains_its_bytes_and_no_others),
        cmocka_unit_test(neighbours_are_fine_and_one_access_stays_inside_one_of_them),
        cmocka_unit_test(bad_ranges_are_refused_and_change_nothing),
        cmocka_unit_test(long_churn_agrees_with_a_model),
        cmocka_unit_test(past_a_million_entries_there_is_a_limit),
        cmocka_unit_test(threads_see_their_own_ranges),
        cmocka_unit_test(a_failed_allocation_leaves_the_table_as_it_was),
    };
    return cmocka_run_group_tests_name("segment/regtable", tests, NULL, NULL);
}
