/* Parts of objects and the sessions that read and write them, on every path. */
#include "tests/unit/client/world.h"

#define MIB ((uint64_t)1 << 20)

static mcs_parts_list_t one(mcs_part_t *part)
{
    return (mcs_parts_list_t){part, 1};
}

static int64_t get_part(mcs_store_t *store, const char *key, uint8_t *bytes, uint64_t from, uint64_t len)
{
    mcs_bytes_t name = world_key(key);
    mcs_part_t part = {.ptr = bytes, .size = len, .offset = from, .result = 1};
    mcs_parts_list_t list = one(&part);
    (void)mcs_get_parts(store, &name, &list, 1);
    return part.result;
}

typedef struct paths {
    mcs_store_t *holder;
    mcs_store_t *stores[3]; /* own, same host, transport */
} paths_t;

static paths_t open_paths(world_t *world)
{
    paths_t paths = {.holder = world_store(world, SEGMENT_BYTES)};
    paths.stores[0] = paths.holder;
    paths.stores[1] = world_store(world, 0);
    paths.stores[2] = world_remote_store(world, 0);
    return paths;
}

static void close_paths(paths_t *paths)
{
    mcs_store_destroy(paths->stores[2]);
    mcs_store_destroy(paths->stores[1]);
    mcs_store_destroy(paths->holder);
}

static void parts_of_any_place_and_size_are_exact_on_every_path(void **state)
{
    paths_t paths = open_paths(*state);
    const uint64_t size = 9 * MIB + 1234;
    uint8_t *wanted = malloc(size);
    uint8_t *got = malloc(size + 1);
    unit_fill(wanted, size, 7);
    assert_int_equal(world_put(paths.holder, "key", size, 7), 0);
    for (uint64_t round = 0; round < 120; round++) {
        /* Near block bounds as often as anywhere. */
        uint64_t from = round % 3 == 0 ? mcs_random_u64() % size : (mcs_random_u64() % 10) * MIB - (round % 3 == 1);
        from = from > size ? 0 : from;
        uint64_t len = round % 2 == 0 ? mcs_random_u64() % (size - from + 1) : MCS_MIN(size - from, MIB + round % 3);
        for (size_t i = 0; i < MCS_ARRAY_LEN(paths.stores); i++) {
            memset(got, 0xee, len + 1);
            assert_int_equal(get_part(paths.stores[i], "key", got, from, len), len);
            assert_memory_equal(got, wanted + from, len);
            assert_int_equal(got[len], 0xee);
        }
    }
    free(got);
    free(wanted);
    close_paths(&paths);
}

static void a_part_beyond_the_end_or_without_memory_fails_alone(void **state)
{
    paths_t paths = open_paths(*state);
    assert_int_equal(world_put(paths.holder, "key", 1000, 1), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(paths.stores); i++) {
        uint8_t bytes[16] = {0};
        mcs_part_t parts[] = {
            {.ptr = bytes, .size = 4, .offset = 996},        {.ptr = bytes, .size = 4, .offset = 997},
            {.ptr = bytes, .size = 1, .offset = UINT64_MAX}, {.ptr = bytes, .size = UINT64_MAX, .offset = 1},
            {.ptr = NULL, .size = 1, .offset = 0},           {.ptr = NULL, .size = 0, .offset = 1000},
            {.ptr = bytes, .size = 0, .offset = 1001},
        };
        static const int64_t results[] = {4, -600, -600, -600, -600, 0, -600};
        mcs_bytes_t keys[] = {world_key("key"), world_key("none"), {NULL, 0}};
        mcs_part_t other = {.ptr = bytes, .size = 1};
        mcs_part_t third = {.ptr = bytes, .size = 1};
        mcs_parts_list_t lists[] = {{parts, MCS_ARRAY_LEN(parts)}, {&other, 1}, {&third, 1}};
        assert_int_equal(mcs_get_parts(paths.stores[i], keys, lists, 3), 0);
        for (size_t p = 0; p < MCS_ARRAY_LEN(parts); p++) {
            assert_int_equal(parts[p].result, results[p]);
        }
        assert_int_equal(other.result, -704);
        assert_int_equal(third.result, -600);
    }
    close_paths(&paths);
}

static void blocks_read_whole_are_verified(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(world, 0);
    uint8_t *bytes = malloc(4 * MIB);
    assert_int_equal(world_put(holder, "key", 4 * MIB, 1), 0);
    mcs_log_set_level(MCS_LOG_OFF);
    fake_transport_set_all(FAKE_HOLDER_CORRUPT);
    assert_int_equal(get_part(remote, "key", bytes, MIB - 1, 2 * MIB + 2), -801);
    assert_int_equal(get_part(remote, "key", bytes, 3 * MIB, MIB), -801);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    assert_int_equal(get_part(remote, "key", bytes, MIB - 1, 2 * MIB + 2), 2 * MIB + 2);
    mcs_log_set_level(MCS_LOG_ERROR);
    free(bytes);
    mcs_store_destroy(remote);
    mcs_store_destroy(holder);
}

/* ---- sessions ---- */

static int start_get(mcs_store_t *store, const char *key)
{
    mcs_bytes_t name = world_key(key);
    int result = 1;
    (void)mcs_get_session_start(store, &name, 1, &result);
    return result;
}

static int64_t read_part(mcs_store_t *store, const char *key, uint8_t *bytes, uint64_t from, uint64_t len)
{
    mcs_bytes_t name = world_key(key);
    mcs_part_t part = {.ptr = bytes, .size = len, .offset = from, .result = 1};
    mcs_parts_list_t list = one(&part);
    (void)mcs_get_session_read(store, &name, &list, 1);
    return part.result;
}

static int end_get(mcs_store_t *store, const char *key)
{
    mcs_bytes_t name = world_key(key);
    return mcs_get_session_end(store, &name, 1);
}

static void a_get_session_looks_up_once_and_renews_at_half_the_lease(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    uint8_t bytes[100];
    uint8_t wanted[1000];
    unit_fill(wanted, sizeof(wanted), 1);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    mini_master_set_lease_ms(world->master, 60000);
    uint32_t before = mini_master_requests(world->master, MCS_VERB_LOOKUP);
    assert_int_equal(start_get(store, "key"), 0);
    for (uint64_t i = 0; i < 10; i++) {
        assert_int_equal(read_part(store, "key", bytes, i * 100, 100), 100);
        assert_memory_equal(bytes, wanted + i * 100, 100);
    }
    assert_int_equal(mini_master_requests(world->master, MCS_VERB_LOOKUP) - before, 1);
    mini_master_set_lease_ms(world->master, 200);
    assert_int_equal(start_get(store, "key"), 0);
    before = mini_master_requests(world->master, MCS_VERB_LOOKUP);
    uint64_t begin_ns = mcs_now_ns();
    while (mini_master_requests(world->master, MCS_VERB_LOOKUP) - before < 4) {
        assert_true(mcs_now_ns() - begin_ns < 10 * MCS_NS_PER_SEC);
        assert_int_equal(read_part(store, "key", bytes, 0, 100), 100);
    }
    assert_true(mcs_now_ns() - begin_ns >= 300 * MCS_NS_PER_MS);
    assert_int_equal(end_get(store, "key"), 0);
    assert_int_equal(read_part(store, "key", bytes, 0, 1), -600);
    mcs_store_destroy(store);
}

static void put_pieces(mcs_store_t *store, const char *key, const uint8_t *value, uint64_t size, uint64_t piece,
                       int64_t *worst_out)
{
    mcs_bytes_t name = world_key(key);
    *worst_out = 0;
    for (uint64_t at = 0; at < size; at += piece) {
        mcs_part_t part = {.ptr = (void *)(uintptr_t)(value + at), .size = MCS_MIN(piece, size - at), .offset = at};
        mcs_parts_list_t list = one(&part);
        (void)mcs_put_session_write(store, &name, &list, 1);
        *worst_out = MCS_MIN(*worst_out, part.result);
    }
}

static int put_in_session(mcs_store_t *store, const char *key, uint64_t size, uint64_t piece, uint32_t seed)
{
    mcs_bytes_t name = world_key(key);
    int result = 1;
    int64_t worst;
    uint8_t *value = malloc(size);
    unit_fill(value, size, seed);
    (void)mcs_put_session_start(store, &name, &size, 1, NULL, &result);
    if (result == 0) {
        put_pieces(store, key, value, size, piece, &worst);
        (void)mcs_put_session_end(store, &name, 1, &result);
        if (result == -700) { /* a piece was not taken */
            int revoked = 1;
            (void)mcs_put_session_revoke(store, &name, 1, &revoked);
            assert_int_equal(revoked, 0);
        }
    }
    free(value);
    return result;
}

static void a_put_session_gathers_pieces_in_any_order(void **state)
{
    paths_t paths = open_paths(*state);
    static const uint64_t pieces[] = {1, 7, 999, 1000, 5000};
    for (size_t i = 0; i < MCS_ARRAY_LEN(paths.stores); i++) {
        for (size_t p = 0; p < MCS_ARRAY_LEN(pieces); p++) {
            char key[32];
            snprintf(key, sizeof(key), "key%zu-%zu", i, p);
            assert_int_equal(put_in_session(paths.stores[i], key, 1000, pieces[p], 5), 0);
            assert_int_equal(world_get(paths.holder, key, 1000, 5), 1000);
        }
    }
    /* Every other byte, then the rest: many ranges that become one. */
    mcs_bytes_t name = world_key("odd");
    uint64_t size = 501;
    uint8_t value[501];
    int result;
    unit_fill(value, size, 9);
    assert_int_equal(mcs_put_session_start(paths.holder, &name, &size, 1, NULL, &result), 0);
    for (uint64_t round = 0; round < 2; round++) {
        for (uint64_t at = round; at < size; at += 2) {
            mcs_part_t part = {.ptr = &value[at], .size = 1, .offset = at};
            mcs_parts_list_t list = one(&part);
            assert_int_equal(mcs_put_session_write(paths.holder, &name, &list, 1), 0);
            assert_int_equal(part.result, 1);
            if (at == size / 2 && round == 1) {
                assert_int_equal(mcs_put_session_end(paths.holder, &name, 1, &result), 0);
                assert_int_equal(result, -700);
            }
        }
    }
    assert_int_equal(mcs_put_session_end(paths.holder, &name, 1, &result), 0);
    assert_int_equal(result, 0);
    assert_int_equal(world_get(paths.holder, "odd", size, 9), 501);
    close_paths(&paths);
}

/* ---- threads ---- */

typedef struct crowd {
    mcs_store_t *store;
    int number;
    int wrong;
} crowd_t;

static void *crowd_main(void *arg)
{
    crowd_t *crowd = arg;
    uint8_t bytes[64];
    uint8_t wanted[1000];
    unit_fill(wanted, sizeof(wanted), 3);
    for (int i = 0; i < 60; i++) {
        char own[32];
        snprintf(own, sizeof(own), "own%d-%d", crowd->number, i);
        int64_t got = 0;
        (void)start_get(crowd->store, "shared");
        got = read_part(crowd->store, "shared", bytes, (uint64_t)i, 64);
        crowd->wrong += got != -600 && !(got == 64 && memcmp(bytes, wanted + i, 64) == 0);
        (void)end_get(crowd->store, "shared");
        crowd->wrong += put_in_session(crowd->store, own, 300, 100, 4) != 0;
        int common =
            put_in_session(crowd->store, "common", 300, 100, 4); /* in session with another, or its pieces mixed */
        crowd->wrong += common != 0 && common != -600 && common != -700;
    }
    return NULL;
}

static void threads_share_keys_in_session(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    pthread_t threads[4];
    crowd_t crowds[4];
    assert_int_equal(world_put(store, "shared", 1000, 3), 0);
    for (int i = 0; i < 4; i++) {
        crowds[i] = (crowd_t){store, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &crowds[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(crowds[i].wrong, 0);
    }
    int64_t common = world_get(store, "common", 300, 4);
    assert_true(common == 300 || common == -704);
    mcs_store_destroy(store);
}

/* ---- every failure once ---- */

typedef struct torture {
    mcs_store_t *stores[2];
    uint32_t number;
} torture_t;

static mcs_status_t step(void *arg)
{
    torture_t *t = arg;
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; i < MCS_ARRAY_LEN(t->stores); i++) {
        mcs_store_t *store = t->stores[i];
        char key[16];
        uint8_t got[1500];
        uint8_t wanted[3000];
        snprintf(key, sizeof(key), "p%u", t->number++);
        unit_fill(wanted, sizeof(wanted), t->number);
        int put = put_in_session(store, key, 3000, 1000, t->number);
        int64_t part = get_part(store, key, got, 700, 1500);
        assert_true(part < 0 || memcmp(got, wanted + 700, 1500) == 0);
        int started = start_get(store, key);
        int64_t read = read_part(store, key, got, 1500, 1500);
        assert_true(read < 0 || memcmp(got, wanted + 1500, 1500) == 0);
        (void)end_get(store, key);
        status = put == 0 && part == 1500 && started == 0 && read == 1500 ? status : MCS_ERR_NO_MEMORY;
    }
    return status;
}

static void no_allocation_that_fails_leaks_or_gives_a_wrong_byte(void **state)
{
    world_t *world = *state;
    setenv("MC_RPC_TIMEOUT_MS", "300", 1);
    mcs_log_set_level(MCS_LOG_OFF);
    torture_t t = {.stores = {world_store(world, SEGMENT_BYTES), world_remote_store(world, 0)}};
    assert_int_equal(step(&t), MCS_OK);
    unit_torture(MCS_FAULT_ALLOC, step, &t);
    mcs_store_destroy(t.stores[1]);
    mcs_store_destroy(t.stores[0]);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void calls_before_and_after_are_refused(void **state)
{
    (void)state;
    mcs_store_t *store = mcs_store_create();
    uint8_t bytes[4];
    assert_int_equal(get_part(store, "key", bytes, 0, 4), -600);
    assert_int_equal(start_get(store, "key"), -600);
    assert_int_equal(read_part(store, "key", bytes, 0, 4), -600);
    assert_int_equal(end_get(store, "key"), -600);
    assert_int_equal(put_in_session(store, "key", 4, 4, 1), -600);
    mcs_store_destroy(store);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(parts_of_any_place_and_size_are_exact_on_every_path),
        TEST(a_part_beyond_the_end_or_without_memory_fails_alone),
        TEST(blocks_read_whole_are_verified),
        TEST(a_get_session_looks_up_once_and_renews_at_half_the_lease),
        TEST(a_put_session_gathers_pieces_in_any_order),
        TEST(threads_share_keys_in_session),
        TEST(no_allocation_that_fails_leaks_or_gives_a_wrong_byte),
        TEST(calls_before_and_after_are_refused),
    };
    return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
