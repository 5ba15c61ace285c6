/* core/segment/slots: publishing, scanning, the table of revoked generations and its deleted places. */
#include "core/segment/slots.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "tests/support/unit.h"

static mcs_slot_page_t *new_page(void)
{
    mcs_slot_page_t *page = aligned_alloc(MCS_CACHE_LINE, sizeof(*page));
    mcs_slot_page_init(page);
    return page;
}

/* ---- slots ---- */

static void a_published_generation_is_named_until_it_is_cleared(void **state)
{
    (void)state;
    mcs_slot_page_t *page = new_page();
    assert_false(mcs_slot_page_names(page, 7));
    int one = mcs_slot_publish(page, 7);
    int two = mcs_slot_publish(page, 7);
    assert_true(one >= 0 && two >= 0 && one != two);
    assert_true(mcs_slot_page_names(page, 7));
    assert_false(mcs_slot_page_names(page, 8));
    mcs_slot_clear(page, one);
    assert_true(mcs_slot_page_names(page, 7)); /* the other still does */
    mcs_slot_clear(page, two);
    assert_false(mcs_slot_page_names(page, 7));
    free(page);
}

static void a_full_page_refuses_and_keeps_what_it_has(void **state)
{
    (void)state;
    mcs_slot_page_t *page = new_page();
    for (uint64_t i = 1; i <= MCS_SLOTS_PER_PAGE; i++) {
        assert_true(mcs_slot_publish(page, i) >= 0);
    }
    assert_int_equal(mcs_slot_publish(page, 99999), -1);
    for (uint64_t i = 1; i <= MCS_SLOTS_PER_PAGE; i++) {
        assert_true(mcs_slot_page_names(page, i));
    }
    assert_false(mcs_slot_page_names(page, 99999));
    mcs_slot_clear(page, 1234);
    assert_int_equal(mcs_slot_publish(page, 99999), 1234); /* the only free one is found */
    free(page);
}

static void a_closed_page_takes_nothing_and_names_nothing_new(void **state)
{
    (void)state;
    mcs_slot_page_t *page = new_page();
    int held = mcs_slot_publish(page, 5);
    __atomic_store_n(&page->closed, 1, __ATOMIC_SEQ_CST);
    assert_int_equal(mcs_slot_publish(page, 6), -1);
    assert_false(mcs_slot_page_names(page, 6));
    assert_true(mcs_slot_page_names(page, 5)); /* what was held is held */
    mcs_slot_clear(page, held);
    assert_false(mcs_slot_page_names(page, 5));
    free(page);
}

static void a_scan_finds_exactly_what_is_published(void **state)
{
    (void)state;
    mcs_slot_page_t *page = new_page();
    uint64_t sorted[300];
    uint64_t named[300 / 64 + 1] = {0};
    for (uint64_t i = 0; i < 300; i++) {
        sorted[i] = 1000 + 10 * (i / 2); /* each twice */
    }
    for (uint64_t i = 0; i < 300; i += 6) {
        assert_true(mcs_slot_publish(page, sorted[i]) >= 0);
    }
    assert_true(mcs_slot_publish(page, 1) >= 0); /* below, between and above */
    assert_true(mcs_slot_publish(page, 1005) >= 0);
    assert_true(mcs_slot_publish(page, UINT64_MAX) >= 0);
    mcs_slot_page_scan(page, sorted, 300, named);
    for (uint64_t i = 0; i < 300; i++) {
        assert_int_equal(named[i / 64] >> (i % 64) & 1, i / 2 % 3 == 0);
    }
    free(page);
}

/* Many threads publish and clear: no slot is given to two. */
typedef struct user {
    mcs_slot_page_t *page;
    uint64_t generation;
    uint32_t *owners; /* of each slot */
    uint32_t *clashes;
} user_t;

static void *use_slots(void *arg)
{
    user_t *user = arg;
    for (int round = 0; round < 5000; round++) {
        int slot = mcs_slot_publish(user->page, user->generation);
        if (slot < 0) {
            continue;
        }
        if (__atomic_exchange_n(&user->owners[slot], 1, __ATOMIC_ACQ_REL) != 0 ||
            !__atomic_load_n(&user->page->slot[slot], __ATOMIC_RELAXED)) {
            __atomic_add_fetch(user->clashes, 1, __ATOMIC_RELAXED);
        }
        __atomic_store_n(&user->owners[slot], 0, __ATOMIC_RELEASE);
        mcs_slot_clear(user->page, slot);
    }
    return NULL;
}

static void threads_never_share_a_slot(void **state)
{
    (void)state;
    enum { THREADS = 6 };
    mcs_slot_page_t *page = new_page();
    /* Nearly full, so that they meet. */
    for (int i = 0; i < MCS_SLOTS_PER_PAGE - 8; i++) {
        assert_true(mcs_slot_publish(page, UINT64_C(1) << 40) >= 0);
    }
    uint32_t *owners = calloc(MCS_SLOTS_PER_PAGE, sizeof(*owners));
    uint32_t clashes = 0;
    pthread_t threads[THREADS];
    user_t users[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        users[i] = (user_t){page, i + 1, owners, &clashes};
        assert_int_equal(pthread_create(&threads[i], NULL, use_slots, &users[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_false(mcs_slot_page_names(page, users[i].generation));
    }
    assert_int_equal(clashes, 0);
    free(owners);
    free(page);
}

/* Dekker: a reader that passed its check and an owner that released never both go ahead. */
typedef struct duel {
    mcs_slot_page_t *page;
    uint32_t dead;
    uint32_t reading;
    uint32_t stop;
    uint64_t generation; /* of the round; odd: over */
    uint64_t broken;
} duel_t;

static void *duel_reader(void *arg)
{
    duel_t *duel = arg;
    while (__atomic_load_n(&duel->stop, __ATOMIC_ACQUIRE) == 0) {
        uint64_t generation = __atomic_load_n(&duel->generation, __ATOMIC_ACQUIRE);
        int slot = mcs_slot_publish(duel->page, generation);
        if (__atomic_load_n(&duel->dead, __ATOMIC_SEQ_CST) < generation) {
            /* Ours until the slot is cleared: the owner may not have got past its scan. */
            if (__atomic_load_n(&duel->reading, __ATOMIC_RELAXED) >= generation) {
                __atomic_add_fetch(&duel->broken, 1, __ATOMIC_RELAXED);
            }
        }
        mcs_slot_clear(duel->page, slot);
    }
    return NULL;
}

static void reader_and_owner_never_both_go_ahead(void **state)
{
    (void)state;
    duel_t duel = {.page = new_page(), .generation = 1};
    pthread_t readers[2];
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, duel_reader, &duel), 0);
    }
    for (uint32_t generation = 1; generation < 1500; generation++) {
        __atomic_store_n(&duel.generation, generation, __ATOMIC_RELEASE);
        __atomic_store_n(&duel.dead, generation, __ATOMIC_SEQ_CST); /* this generation is DEAD */
        while (mcs_slot_page_names(duel.page, generation)) {
        }
        __atomic_store_n(&duel.reading, generation, __ATOMIC_RELAXED); /* overwritten from here on */
    }
    __atomic_store_n(&duel.stop, 1, __ATOMIC_RELEASE);
    for (size_t i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
    }
    assert_int_equal(duel.broken, 0);
    free(duel.page);
}

/* ---- revoked generations ---- */

static void revoked_generations_are_found_and_forgotten(void **state)
{
    (void)state;
    mcs_revoked_table_t *table = calloc(1, sizeof(*table));
    assert_false(mcs_revoked_has(table, 3));
    assert_int_equal(mcs_revoked_add(table, 3), MCS_OK);
    assert_int_equal(mcs_revoked_add(table, 3), MCS_OK); /* once is enough */
    assert_true(mcs_revoked_has(table, 3));
    mcs_revoked_remove(table, 3);
    assert_false(mcs_revoked_has(table, 3));
    mcs_revoked_remove(table, 3);
    /* What marks empty and deleted places is no generation. */
    assert_int_equal(mcs_revoked_add(table, 0), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_revoked_add(table, UINT64_MAX), MCS_ERR_INVALID_PARAMS);
    assert_false(mcs_revoked_has(table, 0));
    assert_false(mcs_revoked_has(table, UINT64_MAX));
    mcs_revoked_remove(table, 0);
    mcs_revoked_remove(table, UINT64_MAX);
    free(table);
}

static void a_full_table_says_so_and_has_room_again_after_a_removal(void **state)
{
    (void)state;
    mcs_revoked_table_t *table = calloc(1, sizeof(*table));
    for (uint64_t i = 1; i <= MCS_REVOKED_MAX; i++) {
        assert_int_equal(mcs_revoked_add(table, i * 7), MCS_OK);
    }
    assert_int_equal(mcs_revoked_add(table, 5), MCS_ERR_LIMIT);
    assert_int_equal(mcs_revoked_add(table, 7), MCS_OK); /* is in it already */
    for (uint64_t i = 1; i <= MCS_REVOKED_MAX; i++) {
        assert_true(mcs_revoked_has(table, i * 7));
    }
    mcs_revoked_remove(table, 14);
    assert_int_equal(mcs_revoked_add(table, 5), MCS_OK);
    assert_false(mcs_revoked_has(table, 14));
    assert_true(mcs_revoked_has(table, 5));
    free(table);
}

/* A naive model: a flag per generation. The table is half full, so entries lie in long chains, and what is removed lies
 * in the middle of them. */
static void long_churn_agrees_with_a_model_and_leaves_an_empty_table(void **state)
{
    (void)state;
    enum { KINDS = 7000, ROUNDS = 12000 };
    mcs_revoked_table_t *table = calloc(1, sizeof(*table));
    uint8_t *in = calloc(KINDS + 1, 1);
    uint64_t seed = 1;
    uint32_t live = 0;
    for (uint64_t i = 1; i <= 3500; i++) {
        assert_int_equal(mcs_revoked_add(table, i * 2), MCS_OK);
        in[i * 2] = 1;
        live++;
    }
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t generation = 1 + (seed >> 33) % KINDS;
        if ((seed >> 20 & 1) != 0) {
            bool fits = in[generation] != 0 || live < MCS_REVOKED_MAX;
            assert_int_equal(mcs_revoked_add(table, generation), fits ? MCS_OK : MCS_ERR_LIMIT);
            live += fits && in[generation] == 0;
            in[generation] |= fits;
        } else {
            mcs_revoked_remove(table, generation);
            live -= in[generation];
            in[generation] = 0;
        }
        uint64_t probe = 1 + (seed >> 40) % KINDS;
        assert_int_equal(mcs_revoked_has(table, probe), in[probe]);
    }
    for (uint64_t i = 1; i <= KINDS; i++) {
        assert_int_equal(mcs_revoked_has(table, i), in[i]);
        mcs_revoked_remove(table, i);
    }
    /* Nothing is left of deleted entries either, or searches would get longer for ever. */
    for (size_t i = 0; i < MCS_REVOKED_TABLE; i++) {
        assert_int_equal(table->generation[i], 0);
    }
    free(in);
    free(table);
}

typedef struct searcher {
    const mcs_revoked_table_t *table;
    uint32_t stop;
    uint64_t missed;
} searcher_t;

static void *search_always_there(void *arg)
{
    searcher_t *searcher = arg;
    while (__atomic_load_n(&searcher->stop, __ATOMIC_ACQUIRE) == 0) {
        for (uint64_t i = 1; i <= 200; i++) {
            if (!mcs_revoked_has(searcher->table, i * 3)) {
                __atomic_add_fetch(&searcher->missed, 1, __ATOMIC_RELAXED);
            }
        }
    }
    return NULL;
}

static void a_search_never_misses_an_entry_while_others_come_and_go(void **state)
{
    (void)state;
    mcs_revoked_table_t *table = calloc(1, sizeof(*table));
    /* Neighbours come first, so that removing them digs holes before those that stay. */
    for (uint64_t i = 1; i <= 500; i++) {
        assert_int_equal(mcs_revoked_add(table, (UINT64_C(1) << 32) + i), MCS_OK);
    }
    for (uint64_t i = 1; i <= 200; i++) {
        assert_int_equal(mcs_revoked_add(table, i * 3), MCS_OK);
    }
    searcher_t searcher = {.table = table};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, search_always_there, &searcher), 0);
    for (uint64_t round = 0; round < 8; round++) {
        for (uint64_t i = 1; i <= 500; i++) {
            mcs_revoked_remove(table, (UINT64_C(1) << 32) + i + round * 500);
            assert_int_equal(mcs_revoked_add(table, (UINT64_C(1) << 32) + i + (round + 1) * 500), MCS_OK);
        }
    }
    __atomic_store_n(&searcher.stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    assert_int_equal(searcher.missed, 0);
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_published_generation_is_named_until_it_is_cleared),
        cmocka_unit_test(a_full_page_refuses_and_keeps_what_it_has),
        cmocka_unit_test(a_closed_page_takes_nothing_and_names_nothing_new),
        cmocka_unit_test(a_scan_finds_exactly_what_is_published),
        cmocka_unit_test(threads_never_share_a_slot),
        cmocka_unit_test(reader_and_owner_never_both_go_ahead),
        cmocka_unit_test(revoked_generations_are_found_and_forgotten),
        cmocka_unit_test(a_full_table_says_so_and_has_room_again_after_a_removal),
        cmocka_unit_test(long_churn_agrees_with_a_model_and_leaves_an_empty_table),
        cmocka_unit_test(a_search_never_misses_an_entry_while_others_come_and_go),
    };
    return cmocka_run_group_tests_name("segment/slots", tests, NULL, NULL);
}
