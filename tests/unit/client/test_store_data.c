/* The C API's data calls over each path: own segment, same host, transport. */
#include "tests/unit/client/paths.h"

static const char *const g_written[] = {"bytes_own_written", "bytes_same_host_written", "bytes_stored"};
static const char *const g_read[] = {"bytes_own_read", "bytes_same_host_read", "bytes_fetched"};

static void values_of_all_sizes_come_back_over_every_path_copied_once_at_most(void **state)
{
    static const size_t sizes[] = {1, 63, 4096, 65536, (1u << 20) - 1, 1u << 20, (1u << 20) + 1, (9u << 20) + 77};
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        uint64_t total = 0;
        for (uint32_t i = 0; i < MCS_ARRAY_LEN(sizes); i++) {
            char key[32];
            snprintf(key, sizeof(key), "key-%u", i);
            assert_int_equal(world_put(pair.user, key, sizes[i], i), 0);
            assert_int_equal(world_get(pair.user, key, sizes[i], i), sizes[i]);
            assert_int_equal(world_get(pair.holder, key, sizes[i] + 5, i), sizes[i]);
            total += sizes[i];
        }
        assert_int_equal(world_counter(pair.user, g_written[g_paths[p]]), total);
        if (g_paths[p] != OWN) {
            assert_int_equal(world_counter(pair.user, g_read[g_paths[p]]), total);
            assert_int_equal(world_counter(pair.user, "bytes_copied"), g_paths[p] == REMOTE ? 0 : 2 * total);
        } else {
            assert_int_equal(world_counter(pair.user, "bytes_copied"), 3 * total);
        }
        end_pair(pair);
    }
    assert_true(fake_transport_largest() <= MCS_RANGE_MAX);
}

/* Of a kind of copy the first goes alone and the next ones are shared where there are two processors: each sort writes
 * what both read. */
static void large_values_are_whole_and_checked_shared_or_not(void **state)
{
    enum { VALUES = 12, LEN = (3 << 20) + 12345 };
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        char key[32];
        for (uint32_t i = 0; i < VALUES; i++) {
            snprintf(key, sizeof(key), "key-%u", i);
            assert_int_equal(world_put(pair.user, key, LEN, i), 0);
        }
        for (uint32_t i = 0; i < VALUES; i++) {
            snprintf(key, sizeof(key), "key-%u", i);
            assert_int_equal(world_get(pair.user, key, LEN, i), LEN);
        }
        end_pair(pair);
    }
}

static void a_wrong_bit_anywhere_is_found_shared_or_not(void **state)
{
    enum { TRIES = 24, LEN = (3 << 20) + 12345 };
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    mcs_bytes_t key = world_key("key");
    mcs_handle_t *handle = NULL;
    int64_t size = 0;
    assert_int_equal(world_put(store, "key", LEN, 1), 0);
    assert_int_equal(mcs_get_handles(store, &key, 1, &handle, &size), 0);
    uint8_t *bytes = (uint8_t *)(uintptr_t)mcs_handle_ptr(handle); /* a view of the segment */
    for (size_t i = 0; i < TRIES; i++) {
        size_t at = i == 0 ? 0 : i == TRIES - 1 ? LEN - 1 : LEN / TRIES * i;
        bytes[at] ^= 1;
        assert_int_equal(world_get(store, "key", LEN, 1), -801);
        bytes[at] ^= 1;
        assert_int_equal(world_get(store, "key", LEN, 1), LEN);
    }
    mcs_handle_release(handle);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void scattered_values_are_gathered_and_scattered(void **state)
{
    enum { PIECES = 700, LEN = 3 << 20 };
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        uint8_t *bytes = malloc(LEN);
        uint8_t *back = calloc(1, LEN);
        static struct iovec out[PIECES];
        static struct iovec in[PIECES];
        size_t at = 0;
        for (size_t i = 0; i < PIECES; i++) {
            size_t len = i == PIECES - 1 ? LEN - at : (i * 37) % 8000;
            out[i] = (struct iovec){bytes + at, len};
            in[PIECES - 1 - i] = (struct iovec){back + LEN - at - len, len};
            at += len;
        }
        unit_fill(bytes, LEN, 3);
        mcs_value_t value = {out, PIECES};
        mcs_value_t target = {in, PIECES};
        mcs_bytes_t key = world_key("scattered");
        int put = 1;
        int64_t got = 1;
        assert_int_equal(mcs_put(pair.user, &key, &value, 1, NULL, 0, &put), 0);
        assert_int_equal(put, 0);
        assert_int_equal(mcs_get_into(pair.user, &key, &target, 1, &got), 0);
        assert_int_equal(got, LEN);
        assert_memory_equal(bytes, back, LEN);
        free(bytes);
        free(back);
        end_pair(pair);
    }
}

static void memory_in_more_fragments_than_a_range_may_have_is_moved_too(void **state)
{
    enum { PIECES = 20000, PIECE = 110 };
    pair_t pair = make_pair(*state, REMOTE, SEGMENT_BYTES);
    uint8_t *bytes = malloc(PIECES * PIECE);
    uint8_t *back = calloc(PIECES, PIECE);
    struct iovec *out = calloc(PIECES, sizeof(*out));
    struct iovec *in = calloc(PIECES, sizeof(*in));
    unit_fill(bytes, PIECES * PIECE, 4);
    for (size_t i = 0; i < PIECES; i++) {
        out[i] = (struct iovec){bytes + i * PIECE, PIECE};
        in[i] = (struct iovec){back + i * PIECE, PIECE};
    }
    mcs_value_t value = {out, PIECES};
    mcs_value_t target = {in, PIECES};
    mcs_bytes_t key = world_key("fragments");
    int put = 1;
    int64_t got = 1;
    assert_int_equal(mcs_put(pair.user, &key, &value, 1, NULL, 0, &put), 0);
    assert_int_equal(put, 0);
    assert_int_equal(mcs_get_into(pair.user, &key, &target, 1, &got), 0);
    assert_int_equal(got, PIECES * PIECE);
    assert_memory_equal(bytes, back, PIECES * PIECE);
    assert_true(world_counter(pair.user, "bytes_copied") > 0); /* the price of such fragments, and it shows */
    free(bytes);
    free(back);
    free(out);
    free(in);
    end_pair(pair);
}

/* ---- batches ---- */

static void check_batch(const pair_t *pair, size_t count, size_t len)
{
    char(*names)[48] = calloc(count, sizeof(*names));
    mcs_bytes_t *keys = calloc(count, sizeof(*keys));
    uint8_t *bytes = malloc(count * len);
    struct iovec *iov = calloc(count, sizeof(*iov));
    mcs_value_t *values = calloc(count, sizeof(*values));
    int *results = calloc(count, sizeof(*results));
    int64_t *sizes = calloc(count, sizeof(*sizes));
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof(names[i]), "b%zu-%zu", count, i);
        keys[i] = world_key(names[i]);
        iov[i] = (struct iovec){bytes + i * len, len};
        values[i] = (mcs_value_t){&iov[i], 1};
        unit_fill(bytes + i * len, len, (uint32_t)i);
        results[i] = 1;
    }
    assert_int_equal(mcs_put(pair->user, keys, values, count, NULL, 0, results), 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(results[i], 0);
    }
    assert_int_equal(mcs_exist(pair->user, keys, count, results), 0);
    memset(bytes, 0, count * len);
    assert_int_equal(mcs_get_into(pair->user, keys, values, count, sizes), 0);
    uint8_t *wanted = malloc(len);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(results[i], 1);
        assert_int_equal(sizes[i], len);
        unit_fill(wanted, len, (uint32_t)i);
        assert_memory_equal(bytes + i * len, wanted, len);
    }
    assert_int_equal(mcs_remove(pair->user, keys, count, 0, results), 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(results[i], 0);
    }
    free(wanted);
    free(names);
    free(keys);
    free(bytes);
    free(iov);
    free(values);
    free(results);
    free(sizes);
}

static void batches_of_any_size_are_split_unseen(void **state)
{
    static const size_t counts[] = {0, 1, 2, 100, 4096, 4097, 9001};
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        for (size_t i = 0; i < MCS_ARRAY_LEN(counts); i++) {
            check_batch(&pair, counts[i], 100);
        }
        end_pair(pair);
    }
}

static void long_keys_are_split_by_their_bytes(void **state)
{
    enum { COUNT = 1200, LEN = 8192 };
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    char *text = malloc((size_t)COUNT * LEN);
    static mcs_bytes_t keys[COUNT];
    static int results[COUNT];
    memset(text, 'k', (size_t)COUNT * LEN);
    for (size_t i = 0; i < COUNT; i++) {
        memcpy(text + i * LEN, &i, sizeof(i)); /* binary, with zeros */
        keys[i] = (mcs_bytes_t){text + i * LEN, LEN};
    }
    uint32_t before = mini_master_requests(((world_t *)*state)->master, MCS_VERB_EXIST);
    assert_int_equal(mcs_exist(pair.user, keys, COUNT, results), 0);
    assert_int_equal(mini_master_requests(((world_t *)*state)->master, MCS_VERB_EXIST) - before, 3);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(results[i], 0);
    }
    free(text);
    end_pair(pair);
}

static void the_same_key_twice_keeps_the_first_value_and_fills_both_buffers(void **state)
{
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    char first[] = "first value";
    char second[] = "second";
    char a[32] = "";
    char b[32] = "";
    struct iovec iov[] = {{first, sizeof(first)}, {second, sizeof(second)}};
    struct iovec targets[] = {{a, sizeof(a)}, {b, sizeof(b)}};
    const mcs_value_t values[] = {{&iov[0], 1}, {&iov[1], 1}};
    const mcs_value_t buffers[] = {{&targets[0], 1}, {&targets[1], 1}};
    const mcs_bytes_t keys[] = {world_key("twice"), world_key("twice")};
    int results[2] = {1, 1};
    int64_t sizes[2] = {0, 0};
    for (unsigned flags = 0; flags <= MCS_PUT_UPSERT; flags += MCS_PUT_UPSERT) {
        assert_int_equal(mcs_put(pair.user, keys, values, 2, NULL, flags, results), 0);
        assert_int_equal(results[0], 0);
        assert_int_equal(results[1], 0);
        assert_int_equal(mcs_get_into(pair.user, keys, buffers, 2, sizes), 0);
        assert_int_equal(sizes[0], sizeof(first));
        assert_int_equal(sizes[1], sizeof(first));
        assert_string_equal(a, first);
        assert_string_equal(b, first);
    }
    end_pair(pair);
}

static void bad_items_fail_alone(void **state)
{
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    char byte = 'x';
    static char long_key[8193];
    memset(long_key, 'k', sizeof(long_key));
    struct iovec one = {&byte, 1};
    struct iovec none = {&byte, 0};
    struct iovec null_base = {NULL, 5};
    struct iovec huge = {&byte, SIZE_MAX / 2};
    const struct {
        mcs_bytes_t key;
        mcs_value_t value;
        int result;
    } items[] = {
        {world_key("good"), {&one, 1}, 0},
        {{"", 0}, {&one, 1}, -600},
        {{NULL, 4}, {&one, 1}, -600},
        {{long_key, 8193}, {&one, 1}, -600},
        {{long_key, 8192}, {&one, 1}, 0},
        {world_key("empty"), {&none, 1}, -600},
        {world_key("no pieces"), {NULL, 0}, -600},
        {world_key("null iov"), {NULL, 3}, -600},
        {world_key("null"), {&null_base, 1}, -600},
        {world_key("huge"), {&huge, 1}, -600},
        {world_key("good too"), {&one, 1}, 0},
    };
    mcs_bytes_t keys[MCS_ARRAY_LEN(items)];
    mcs_value_t values[MCS_ARRAY_LEN(items)];
    int results[MCS_ARRAY_LEN(items)];
    for (size_t i = 0; i < MCS_ARRAY_LEN(items); i++) {
        keys[i] = items[i].key;
        values[i] = items[i].value;
    }
    assert_int_equal(mcs_put(pair.user, keys, values, MCS_ARRAY_LEN(items), NULL, 0, results), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(items); i++) {
        assert_int_equal(results[i], items[i].result);
    }
    end_pair(pair);
}

static void a_buffer_that_is_too_small_is_not_written(void **state)
{
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        char buffer[8] = "untouch";
        struct iovec iov = {buffer, 8};
        mcs_value_t target = {&iov, 1};
        mcs_bytes_t key = world_key("nine");
        int64_t size = 0;
        assert_int_equal(world_put(pair.user, "nine", 9, 1), 0);
        assert_int_equal(mcs_get_into(pair.user, &key, &target, 1, &size), 0);
        assert_int_equal(size, -600);
        assert_string_equal(buffer, "untouch");
        assert_int_equal(world_get(pair.user, "missing", 8, 1), -704);
        end_pair(pair);
    }
}

static void an_existing_value_stays_and_an_upsert_replaces_it(void **state)
{
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    assert_int_equal(world_put(pair.user, "key", 1000, 1), 0);
    assert_int_equal(world_put(pair.user, "key", 500, 2), 0);
    assert_int_equal(world_get(pair.user, "key", 1000, 1), 1000);
    uint8_t bytes[77];
    unit_fill(bytes, sizeof(bytes), 9);
    struct iovec iov = {bytes, sizeof(bytes)};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t key = world_key("key");
    int result = 1;
    assert_int_equal(mcs_put(pair.user, &key, &value, 1, NULL, MCS_PUT_UPSERT, &result), 0);
    assert_int_equal(result, 0);
    assert_int_equal(world_get(pair.user, "key", 1000, 9), 77);
    end_pair(pair);
}

static void a_staged_value_larger_than_the_local_buffer_is_refused(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    size_t len = (size_t)BUFFER_BYTES + 4096;
    uint8_t *bytes = calloc(1, len);
    struct iovec iov = {bytes, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t key = world_key("staged");
    int result = 1;
    assert_int_equal(mcs_put(pair.user, &key, &value, 1, NULL, MCS_PUT_STAGED, &result), 0);
    assert_int_equal(result, -600);
    assert_int_equal(mcs_put(pair.user, &key, &value, 1, NULL, 0, &result), 0);
    assert_int_equal(result, 0);
    free(bytes);
    end_pair(pair);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void replicas_are_written_to_distinct_segments_and_described(void **state)
{
    mcs_store_t *a = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *b = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *c = world_remote_store(*state, SEGMENT_BYTES);
    mcs_replicate_config_t config = {.struct_size = sizeof(config), .replica_num = 3, .replica_num_set = 1};
    uint8_t bytes[5000];
    unit_fill(bytes, sizeof(bytes), 6);
    struct iovec iov = {bytes, sizeof(bytes)};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t key = world_key("three");
    mcs_replica_info_t info[4];
    int result = 1;
    assert_int_equal(mcs_put(a, &key, &value, 1, &config, 0, &result), 0);
    assert_int_equal(result, 0);
    assert_int_equal(mcs_replicas(b, key, info, 4), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(info[i].status, 3);
        assert_int_equal(info[i].size, sizeof(bytes));
        assert_true(info[i].buffer_address != 0);
        assert_non_null(strstr(info[i].segment_name, "localhost:"));
        assert_string_equal(info[i].transport_endpoint, "localhost:4242");
        assert_string_not_equal(info[i].segment_name, info[(i + 1) % 3].segment_name);
    }
    assert_int_equal(mcs_replicas(b, key, info, 1), 3);
    assert_int_equal(mcs_replicas(b, world_key("none"), info, 4), -704);
    assert_int_equal(mcs_object_size(c, key), sizeof(bytes));
    assert_int_equal(mcs_object_size(c, world_key("none")), -704);
    assert_int_equal(mcs_object_size(c, (mcs_bytes_t){NULL, 0}), -600);
    assert_int_equal(world_get(a, "three", 5000, 6), 5000);
    assert_int_equal(world_counter(a, "bytes_own_read"), 5000);
    mcs_store_destroy(a);
    mcs_store_destroy(b);
    mcs_store_destroy(c);
}

static void replicas_of_many_keys_are_found_in_one_request(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    assert_int_equal(world_put(store, "a", 100, 1), 0);
    assert_int_equal(world_put(store, "b", 200, 2), 0);
    mcs_bytes_t keys[] = {world_key("b"), world_key("missing"), world_key(""), world_key("a"), world_key("b")};
    mcs_replica_info_t infos[5 * 2];
    int counts[5];
    uint32_t before = mini_master_requests(world->master, MCS_VERB_LOOKUP);
    assert_int_equal(mcs_replicas_of_many(store, keys, 5, infos, 2, counts), 0);
    assert_int_equal(mini_master_requests(world->master, MCS_VERB_LOOKUP) - before, 1);
    static const int wanted[] = {1, -704, -600, 1, 1};
    static const uint64_t sizes[] = {200, 0, 0, 100, 200};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(counts[i], wanted[i]);
        assert_true(counts[i] < 0 || infos[i * 2].size == sizes[i]);
    }
    assert_int_equal(mcs_replicas_of_many(store, keys, 5, NULL, 0, counts), 0);
    assert_int_equal(counts[0], 1);
    assert_int_equal(mcs_replicas_of_many(store, NULL, 0, NULL, 0, NULL), 0);
    assert_int_equal(mcs_replicas_of_many(store, keys, 5, NULL, 2, counts), -600);
    assert_int_equal(counts[3], -600);
    mcs_store_destroy(store);
}

static void odd_configurations_are_refused_for_every_key(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    const mcs_bytes_t one_group[] = {{"g", 1}};
    const mcs_replicate_config_t configs[] = {
        {.struct_size = sizeof(mcs_replicate_config_t), .replica_num_set = 1},
        {.struct_size = sizeof(mcs_replicate_config_t), .soft_pin_action = 3},
        {.struct_size = sizeof(mcs_replicate_config_t), .soft_pin_action = -1},
        {.struct_size = sizeof(mcs_replicate_config_t), .has_soft_pin_ttl = 1},
        {.struct_size = sizeof(mcs_replicate_config_t), .group_ids = one_group, .group_id_count = 1},
        {.struct_size = 0},
    };
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    const mcs_value_t values[] = {{&iov, 1}, {&iov, 1}};
    const mcs_bytes_t keys[] = {world_key("a"), world_key("b")};
    for (size_t i = 0; i < MCS_ARRAY_LEN(configs); i++) {
        int results[2] = {1, 1};
        assert_int_equal(mcs_put(pair.user, keys, values, 2, &configs[i], 0, results), -600);
        assert_int_equal(results[0], -600);
        assert_int_equal(results[1], -600);
    }
    /* More than there can be is as many as there are; unknown and absurd preferred names are passed over. */
    const char *preferred[200];
    for (size_t i = 0; i < 200; i++) {
        preferred[i] = i % 3 == 0 ? "nobody:1" : i % 3 == 1 ? "" : NULL;
    }
    mcs_replicate_config_t fine = {.struct_size = sizeof(fine),
                                   .replica_num = UINT64_MAX,
                                   .replica_num_set = 1,
                                   .preferred_segments = preferred,
                                   .preferred_segment_count = 200};
    int results[2] = {1, 1};
    assert_int_equal(mcs_put(pair.user, keys, values, 2, &fine, 0, results), 0);
    assert_int_equal(results[0], 0);
    end_pair(pair);
    mcs_log_set_level(MCS_LOG_ERROR);
}

/* ---- gets in two steps ---- */

static void a_get_in_two_steps_tells_sizes_first_and_may_skip(void **state)
{
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        assert_int_equal(world_put(pair.user, "a", 100, 1), 0);
        assert_int_equal(world_put(pair.user, "b", 200, 2), 0);
        const mcs_bytes_t keys[] = {world_key("a"), world_key("none"), world_key("b"), {"", 0}, world_key("a")};
        mcs_get_t *get = mcs_get_begin(pair.user, keys, 5);
        assert_non_null(get);
        assert_int_equal(mcs_get_object_size(get, 0), 100);
        assert_int_equal(mcs_get_object_size(get, 1), -704);
        assert_int_equal(mcs_get_object_size(get, 2), 200);
        assert_int_equal(mcs_get_object_size(get, 3), -600);
        assert_int_equal(mcs_get_object_size(get, 4), 100);
        assert_int_equal(mcs_get_object_size(get, 5), -600);
        uint8_t a[100];
        uint8_t again[99];
        uint8_t wanted[100];
        const struct iovec buffers[] = {{a, 100}, {NULL, 0}, {NULL, 0}, {NULL, 0}, {again, 99}};
        int64_t results[] = {7, 7, 7, 7, 7};
        assert_int_equal(mcs_get_run(get, buffers, results), 0);
        assert_int_equal(results[0], 100);
        assert_int_equal(results[1], -704);
        assert_int_equal(results[2], 7);
        assert_int_equal(results[3], -600);
        assert_int_equal(results[4], -600);
        unit_fill(wanted, 100, 1);
        assert_memory_equal(a, wanted, 100);
        memset(a, 0, sizeof(a));
        assert_int_equal(mcs_get_run(get, buffers, results), 0); /* and again */
        assert_memory_equal(a, wanted, 100);
        mcs_get_end(get);
        mcs_get_end(NULL);
        end_pair(pair);
    }
}

/* ---- handles ---- */

static void check_handle(mcs_store_t *store, const char *name, size_t len, uint32_t seed, int readonly)
{
    mcs_bytes_t key = world_key(name);
    mcs_handle_t *handle = NULL;
    int64_t size = 0;
    uint8_t *wanted = malloc(len);
    unit_fill(wanted, len, seed);
    assert_int_equal(mcs_get_handles(store, &key, 1, &handle, &size), 0);
    assert_int_equal(size, len);
    assert_int_equal(mcs_handle_size(handle), len);
    assert_int_equal(mcs_handle_readonly(handle), readonly);
    assert_memory_equal(mcs_handle_ptr(handle), wanted, len);
    mcs_handle_release(handle);
    free(wanted);
}

static void a_handle_is_a_view_of_a_mapped_replica_and_a_copy_of_a_remote_one(void **state)
{
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        assert_int_equal(world_put(pair.user, "v", 3 << 20, 5), 0);
        uint64_t copied = world_counter(pair.user, "bytes_copied");
        check_handle(pair.user, "v", 3 << 20, 5, g_paths[p] != REMOTE);
        assert_int_equal(world_counter(pair.user, "bytes_copied"), copied);
        assert_int_equal(world_counter(pair.user, "views"), g_paths[p] != REMOTE);
        assert_int_equal(world_counter(pair.user, "local_buffer_used_bytes"), 0);
        end_pair(pair);
    }
}

static void past_the_cap_on_viewed_bytes_a_handle_is_a_copy(void **state)
{
    setenv("MC_STORE_VIEW_LIMIT", "1048576", 1);
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    unsetenv("MC_STORE_VIEW_LIMIT");
    assert_int_equal(world_put(pair.user, "a", 600000, 1), 0);
    const mcs_bytes_t keys[] = {world_key("a"), world_key("a"), world_key("none")};
    mcs_handle_t *handles[3];
    int64_t sizes[3];
    assert_int_equal(mcs_get_handles(pair.user, keys, 3, handles, sizes), 0);
    assert_int_equal(mcs_handle_readonly(handles[0]), 1);
    assert_int_equal(mcs_handle_readonly(handles[1]), 0);
    assert_null(handles[2]);
    assert_int_equal(sizes[2], -704);
    assert_memory_equal(mcs_handle_ptr(handles[0]), mcs_handle_ptr(handles[1]), 600000);
    mcs_handle_release(handles[0]);
    mcs_handle_release(handles[1]);
    mcs_handle_release(NULL);
    check_handle(pair.user, "a", 600000, 1, 1);
    end_pair(pair);
}

static void a_copy_that_does_not_fit_the_local_buffer_is_refused(void **state)
{
    pair_t pair = make_pair(*state, REMOTE, SEGMENT_BYTES);
    assert_int_equal(world_put(pair.user, "large", (size_t)BUFFER_BYTES + 1, 1), 0);
    assert_int_equal(world_put(pair.user, "half", (size_t)BUFFER_BYTES * 2 / 3, 1), 0);
    const mcs_bytes_t keys[] = {world_key("large"), world_key("half"), world_key("half")};
    mcs_handle_t *handles[3];
    int64_t sizes[3];
    assert_int_equal(mcs_get_handles(pair.user, keys, 3, handles, sizes), 0);
    assert_int_equal(sizes[0], -600);
    assert_int_equal(sizes[1], BUFFER_BYTES * 2 / 3);
    assert_int_equal(sizes[2], -200);
    assert_null(handles[0]);
    assert_null(handles[2]);
    mcs_handle_release(handles[1]);
    end_pair(pair);
}

static void handles_outlive_their_store(void **state)
{
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], SEGMENT_BYTES);
        uint8_t *wanted = malloc(100000);
        unit_fill(wanted, 100000, 8);
        assert_int_equal(world_put(pair.user, "v", 100000, 8), 0);
        mcs_bytes_t key = world_key("v");
        mcs_handle_t *handle = NULL;
        assert_int_equal(mcs_get_handles(pair.user, &key, 1, &handle, NULL), 0);
        assert_non_null(handle);
        end_pair(pair);
        assert_memory_equal(mcs_handle_ptr(handle), wanted, 100000);
        mcs_handle_release(handle);
        free(wanted);
    }
}

/* ---- registered buffers, removal ---- */

static void buffers_are_registered_by_their_exact_base(void **state)
{
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    static char memory[4096];
    assert_int_equal(mcs_register_buffer(pair.user, memory, sizeof(memory)), 0);
    assert_int_equal(mcs_register_buffer(pair.user, memory + 10, 10), -600);
    assert_int_equal(mcs_register_buffer(pair.user, NULL, 10), -600);
    assert_int_equal(mcs_register_buffer(pair.user, memory, 0), -600);
    assert_int_equal(mcs_register_buffer(pair.user, (void *)(uintptr_t)4096, 10), -600);
    assert_int_equal(mcs_unregister_buffer(pair.user, memory + 1), -600);
    assert_int_equal(mcs_unregister_buffer(pair.user, memory), 0);
    assert_int_equal(mcs_unregister_buffer(pair.user, memory), -600);
    end_pair(pair);
}

static void removals_count_and_answer_per_key(void **state)
{
    pair_t pair = make_pair(*state, OWN, SEGMENT_BYTES);
    assert_int_equal(world_put(pair.user, "a", 10, 1), 0);
    assert_int_equal(world_put(pair.user, "b", 10, 1), 0);
    assert_int_equal(world_put(pair.user, "c", 10, 1), 0);
    const mcs_bytes_t keys[] = {world_key("a"), {"", 0}, world_key("none")};
    int results[3];
    assert_int_equal(mcs_remove(pair.user, keys, 3, 0, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], -600);
    assert_int_equal(results[2], -704);
    assert_int_equal(mcs_remove_by_regex(pair.user, world_key("."), 0), 2);
    assert_int_equal(mcs_remove_by_regex(pair.user, (mcs_bytes_t){NULL, 1}, 0), -600);
    assert_int_equal(mcs_remove_all(pair.user, 1), 0);
    end_pair(pair);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(values_of_all_sizes_come_back_over_every_path_copied_once_at_most),
        TEST(large_values_are_whole_and_checked_shared_or_not),
        TEST(a_wrong_bit_anywhere_is_found_shared_or_not),
        TEST(scattered_values_are_gathered_and_scattered),
        TEST(memory_in_more_fragments_than_a_range_may_have_is_moved_too),
        TEST(batches_of_any_size_are_split_unseen),
        TEST(long_keys_are_split_by_their_bytes),
        TEST(the_same_key_twice_keeps_the_first_value_and_fills_both_buffers),
        TEST(bad_items_fail_alone),
        TEST(a_buffer_that_is_too_small_is_not_written),
        TEST(an_existing_value_stays_and_an_upsert_replaces_it),
        TEST(a_staged_value_larger_than_the_local_buffer_is_refused),
        TEST(replicas_are_written_to_distinct_segments_and_described),
        TEST(replicas_of_many_keys_are_found_in_one_request),
        TEST(odd_configurations_are_refused_for_every_key),
        TEST(a_get_in_two_steps_tells_sizes_first_and_may_skip),
        TEST(a_handle_is_a_view_of_a_mapped_replica_and_a_copy_of_a_remote_one),
        TEST(past_the_cap_on_viewed_bytes_a_handle_is_a_copy),
        TEST(a_copy_that_does_not_fit_the_local_buffer_is_refused),
        TEST(handles_outlive_their_store),
        TEST(buffers_are_registered_by_their_exact_base),
        TEST(removals_count_and_answer_per_key),
    };
    return cmocka_run_group_tests_name("store data", tests, NULL, NULL);
}
