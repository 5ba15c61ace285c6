/* core/client/lookup_cache: what is given out, until when, and what is not. */
#include "core/client/lookup_cache.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

static uint64_t g_now_ns;
static uint64_t fake_now(void)
{
    return __atomic_load_n(&g_now_ns, __ATOMIC_RELAXED);
}

static const mcs_id_t g_session = {1, 2};
static const mcs_id_t g_other_session = {1, 3};

static mcs_key_t key_of(char *text, size_t room, uint32_t i)
{
    return (mcs_key_t){text, (uint32_t)snprintf(text, room, "key-%u", i)};
}

/* A found object whose bytes all follow from `i`; asked for now, leased for 1000 ns. */
static mcs_found_t found_of(uint32_t i, uint32_t replica_count, mcs_col_replica_t *replicas)
{
    for (uint32_t r = 0; r < replica_count; r++) {
        replicas[r] = (mcs_col_replica_t){.segment = r, .status = 3, .offset = i * 64, .generation = i + 1, .mac = ~i};
    }
    return (mcs_found_t){.status = MCS_OK,
                         .replica_count = replica_count,
                         .size = i + 1,
                         .lease_end_ns = fake_now() + 1000,
                         .cache_until_ns = fake_now() + 500,
                         .session = g_session,
                         .replicas = replicas};
}

static void put(mcs_lookup_cache_t *cache, uint32_t i, uint32_t replica_count, bool by_exist)
{
    char text[32];
    mcs_key_t key = key_of(text, sizeof(text), i);
    mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
    mcs_found_t found = found_of(i, replica_count, replicas);
    mcs_lookup_cache_put(cache, &key, &found, by_exist);
}

/* False: not there. What is there is what was put. */
static bool get(mcs_lookup_cache_t *cache, uint32_t i, uint32_t replica_count)
{
    char text[32];
    mcs_key_t key = key_of(text, sizeof(text), i);
    mcs_arena_t arena;
    mcs_found_t found;
    mcs_arena_init(&arena, 4096, 1 << 20);
    bool there = mcs_lookup_cache_get(cache, &key, &arena, &found);
    if (there) {
        mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
        mcs_found_t wanted = found_of(i, replica_count, replicas);
        assert_int_equal(found.status, MCS_OK);
        assert_int_equal(found.size, wanted.size);
        assert_int_equal(found.replica_count, replica_count);
        assert_true(mcs_id_equal(found.session, g_session));
        assert_memory_equal(found.replicas, replicas, replica_count * sizeof(*replicas));
    }
    mcs_arena_fini(&arena);
    return there;
}

static int open_cache(void **state)
{
    g_now_ns = 1000000;
    mcs_clock_set_source(fake_now);
    mcs_lookup_cache_t *cache;
    if (mcs_lookup_cache_create(256, &cache) != MCS_OK) {
        return -1;
    }
    mcs_lookup_cache_begin(cache, g_session);
    *state = cache;
    return 0;
}

static int close_cache(void **state)
{
    mcs_lookup_cache_destroy(*state);
    mcs_clock_set_source(NULL);
    return 0;
}

static void what_was_put_is_found_until_half_its_lease_has_passed(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    assert_false(get(cache, 1, 1));
    put(cache, 1, 1, false);
    put(cache, 2, 3, false);
    assert_true(get(cache, 1, 1));
    assert_true(get(cache, 2, 3));
    assert_false(get(cache, 3, 1));
    g_now_ns += 499;
    assert_true(get(cache, 1, 1));
    g_now_ns += 1;
    assert_false(get(cache, 1, 1));
    put(cache, 1, 2, false);
    assert_true(get(cache, 1, 2));
}

static void what_need_not_or_must_not_be_remembered_is_not(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
    mcs_key_t key = {"key-7", 5};
    put(cache, 7, MCS_CACHED_REPLICAS + 1, false);
    assert_false(get(cache, 7, MCS_CACHED_REPLICAS + 1));
    mcs_found_t found = found_of(7, 1, replicas);
    found.status = MCS_ERR_OBJECT_NOT_FOUND;
    mcs_lookup_cache_put(cache, &key, &found, false);
    found = found_of(7, 1, replicas);
    found.cache_until_ns = fake_now();
    mcs_lookup_cache_put(cache, &key, &found, false);
    found = found_of(7, 1, replicas);
    found.session = g_other_session;
    mcs_lookup_cache_put(cache, &key, &found, false);
    assert_false(get(cache, 7, 1));
}

static void a_new_session_and_a_drop_forget(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    mcs_key_t key = {"key-1", 5};
    put(cache, 1, 1, false);
    put(cache, 2, 1, false);
    mcs_lookup_cache_drop(cache, &key);
    mcs_lookup_cache_drop(cache, &key);
    assert_false(get(cache, 1, 1));
    assert_true(get(cache, 2, 1));
    mcs_lookup_cache_begin(cache, g_other_session);
    assert_false(get(cache, 2, 1));
    put(cache, 2, 1, false); /* of the old session: its answer came late */
    assert_false(get(cache, 2, 1));
}

static void a_full_cache_keeps_what_ends_last(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    for (uint32_t i = 0; i < 10000; i++) {
        g_now_ns++;
        put(cache, i, 1, false);
    }
    uint32_t there = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        char text[32];
        mcs_key_t key = key_of(text, sizeof(text), i);
        mcs_arena_t arena;
        mcs_found_t found;
        mcs_arena_init(&arena, 4096, 1 << 20);
        if (mcs_lookup_cache_get(cache, &key, &arena, &found)) {
            assert_int_equal(found.size, i + 1);
            assert_true(i >= 10000 - 500); /* put 500 ns ago at most */
            there++;
        }
        mcs_arena_fini(&arena);
    }
    assert_in_range(there, 200, 256); /* of 256 places, nearly all are in use */
}

static void hits_are_counted_once(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    put(cache, 9, 1, false);
    assert_true(get(cache, 9, 1) && get(cache, 9, 1));
    assert_false(get(cache, 8, 1));
    mcs_cached_hits_t hits = mcs_lookup_cache_take_hits(cache);
    assert_int_equal(hits.gets, 2);
    assert_int_equal(hits.bytes, 20);
    assert_int_equal(mcs_lookup_cache_take_hits(cache).gets, 0);
}

static void locations_of_exist_are_wanted_while_they_are_used(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    assert_true(mcs_lookup_cache_wants_exist(cache));
    for (uint32_t i = 0; i < 5000; i++) {
        put(cache, i, 1, true);
    }
    assert_false(mcs_lookup_cache_wants_exist(cache));
    for (uint32_t i = 0; i < 20000; i++) {
        put(cache, i, 1, true);
        assert_true(get(cache, i, 1) && get(cache, i, 1)); /* the second says nothing new */
    }
    assert_true(mcs_lookup_cache_wants_exist(cache));
    for (uint32_t i = 0; i < 40000; i++) {
        put(cache, i, 1, true);
    }
    assert_false(mcs_lookup_cache_wants_exist(cache));
}

static void no_cache_is_an_empty_one(void **state)
{
    (void)state;
    mcs_lookup_cache_t *cache = NULL;
    assert_int_equal(mcs_lookup_cache_create(0, &cache), MCS_OK);
    assert_null(cache);
    mcs_lookup_cache_begin(cache, g_session);
    put(cache, 1, 1, true);
    assert_false(get(cache, 1, 1));
    assert_false(mcs_lookup_cache_wants_exist(cache));
    assert_int_equal(mcs_lookup_cache_take_hits(cache).gets, 0);
    mcs_lookup_cache_drop(cache, &(mcs_key_t){"key-1", 5});
    mcs_lookup_cache_destroy(cache);
}

static void lack_of_memory_is_a_miss(void **state)
{
    mcs_lookup_cache_t *cache = *state;
    mcs_lookup_cache_t *none = cache;
    put(cache, 1, 1, false);
    for (uint32_t n = 1; n <= 2; n++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, n);
        assert_int_equal(mcs_lookup_cache_create(100, &none), MCS_ERR_NO_MEMORY);
        assert_null(none);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    }
    mcs_fault_arm(MCS_FAULT_ALLOC, 1);
    assert_false(get(cache, 1, 1));
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    assert_true(get(cache, 1, 1));
}

/* ---- threads ---- */

static void *hammer(void *arg)
{
    mcs_lookup_cache_t *cache = arg;
    for (uint32_t i = 0; i < 20000; i++) {
        put(cache, i % 300, 1, false);
        (void)get(cache, (i * 7) % 300, 1);
        if (i % 64 == 0) {
            mcs_lookup_cache_begin(cache, g_session);
        }
        (void)mcs_lookup_cache_take_hits(cache);
    }
    return NULL;
}

static void threads_see_whole_entries(void **state)
{
    pthread_t threads[4];
    for (size_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, *state), 0);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], NULL);
    }
}

#define WITH_CACHE(test) cmocka_unit_test_setup_teardown(test, open_cache, close_cache)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CACHE(what_was_put_is_found_until_half_its_lease_has_passed),
        WITH_CACHE(what_need_not_or_must_not_be_remembered_is_not),
        WITH_CACHE(a_new_session_and_a_drop_forget),
        WITH_CACHE(a_full_cache_keeps_what_ends_last),
        WITH_CACHE(hits_are_counted_once),
        WITH_CACHE(locations_of_exist_are_wanted_while_they_are_used),
        cmocka_unit_test(no_cache_is_an_empty_one),
        WITH_CACHE(lack_of_memory_is_a_miss),
        WITH_CACHE(threads_see_whole_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
