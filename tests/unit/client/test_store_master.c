/* The C API with the real master in this process: what the two promise each other. */
#include "tests/unit/client/embedded.h"

static int exists(mcs_store_t *store, const char *key)
{
    mcs_bytes_t name = world_key(key);
    int result = -1;
    (void)mcs_exist(store, &name, 1, &result);
    return result;
}

static int remove_key(mcs_store_t *store, const char *key, int force)
{
    mcs_bytes_t name = world_key(key);
    int result = 1;
    (void)mcs_remove(store, &name, 1, force, &result);
    return result;
}

static void values_go_round_over_every_path(void **state)
{
    static const size_t sizes[] = {1, 4096, 1u << 20, (10u << 20) + 3};
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *same_host = world_store(*state, 0);
    mcs_store_t *remote = world_remote_store(*state, 0);
    mcs_store_t *const stores[] = {holder, same_host, remote};
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(stores); i++) {
        for (uint32_t k = 0; k < MCS_ARRAY_LEN(sizes); k++) {
            char key[32];
            snprintf(key, sizeof(key), "k%u-%u", i, k);
            assert_int_equal(world_put(stores[i], key, sizes[k], k), 0);
            for (uint32_t r = 0; r < MCS_ARRAY_LEN(stores); r++) {
                assert_int_equal(world_get(stores[r], key, sizes[k], k), sizes[k]);
            }
            assert_int_equal(remove_key(stores[i], key, 0), -706); /* just read */
            assert_int_equal(remove_key(stores[i], key, 1), 0);
            assert_int_equal(exists(stores[i], key), 0);
            assert_int_equal(world_get(stores[i], key, sizes[k], k), -704);
        }
    }
    mcs_store_destroy(same_host);
    mcs_store_destroy(remote);
    mcs_store_destroy(holder);
}

static void a_batch_of_many_keys_goes_round(void **state)
{
    enum { COUNT = 20000, LEN = 64 };
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *user = world_store(*state, 0);
    char(*names)[16] = calloc(COUNT, sizeof(*names));
    mcs_bytes_t *keys = calloc(COUNT, sizeof(*keys));
    struct iovec *iov = calloc(COUNT, sizeof(*iov));
    mcs_value_t *values = calloc(COUNT, sizeof(*values));
    int *results = calloc(COUNT, sizeof(*results));
    int64_t *sizes = calloc(COUNT, sizeof(*sizes));
    uint8_t *bytes = malloc((size_t)COUNT * LEN);
    uint8_t wanted[LEN];
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "many-%u", i);
        keys[i] = world_key(names[i]);
        unit_fill(bytes + (size_t)i * LEN, LEN, i);
        iov[i] = (struct iovec){bytes + (size_t)i * LEN, LEN};
        values[i] = (mcs_value_t){&iov[i], 1};
    }
    assert_int_equal(mcs_put(user, keys, values, COUNT, NULL, 0, results), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(results[i], 0);
    }
    assert_int_equal(mcs_exist(user, keys, COUNT, results), 0);
    memset(bytes, 0, (size_t)COUNT * LEN);
    assert_int_equal(mcs_get_into(user, keys, values, COUNT, sizes), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        unit_fill(wanted, LEN, i);
        assert_int_equal(results[i], 1);
        assert_int_equal(sizes[i], LEN);
        assert_memory_equal(bytes + (size_t)i * LEN, wanted, LEN);
    }
    assert_int_equal(mcs_remove_by_regex(user, world_key("^many-1"), 1), 11111);
    assert_int_equal(mcs_remove_by_regex(user, world_key("("), 1), -600);
    assert_int_equal(mcs_remove_all(user, 1), COUNT - 11111);
    free(names);
    free(keys);
    free(iov);
    free(values);
    free(results);
    free(sizes);
    free(bytes);
    mcs_store_destroy(user);
    mcs_store_destroy(holder);
}

static void an_existing_value_stays_and_an_upsert_replaces_it(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(*state, 0);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    assert_int_equal(world_put(remote, "key", 500, 2), 0);
    assert_int_equal(world_get(store, "key", 1000, 1), 1000);
    for (uint32_t i = 0; i < 5; i++) {
        uint8_t bytes[777];
        unit_fill(bytes, sizeof(bytes), 10 + i);
        struct iovec iov = {bytes, sizeof(bytes)};
        mcs_value_t value = {&iov, 1};
        mcs_bytes_t key = world_key("key");
        int result = 1;
        assert_int_equal(mcs_put(i % 2 == 0 ? store : remote, &key, &value, 1, NULL, MCS_PUT_UPSERT, &result), 0);
        assert_int_equal(result, 0);
        assert_int_equal(world_get(remote, "key", 1000, 10 + i), 777);
        assert_int_equal(world_get(store, "key", 1000, 10 + i), 777);
    }
    mcs_store_destroy(remote);
    mcs_store_destroy(store);
}

static void space_that_was_removed_is_given_out_again(void **state)
{
    mcs_store_t *store = world_store(*state, 8 << 20);
    mcs_store_t *remote = world_remote_store(*state, 0);
    for (uint32_t i = 0; i < 40; i++) {
        char key[16];
        snprintf(key, sizeof(key), "r%u", i);
        /* Removed extents come back through their owner, off the request path; the put waits a little for them. */
        int result = -200;
        for (uint64_t end = mcs_now_ns() + 5 * MCS_NS_PER_SEC; result == -200 && mcs_now_ns() < end;) {
            result = world_put(i % 2 == 0 ? store : remote, key, 3 << 20, i);
        }
        assert_int_equal(result, 0);
        assert_int_equal(world_get(i % 3 == 0 ? store : remote, key, 3 << 20, i), 3 << 20);
        assert_int_equal(remove_key(store, key, 1), 0);
    }
    mcs_store_destroy(remote);
    mcs_store_destroy(store);
}

static void a_full_cluster_says_so(void **state)
{
    mcs_store_t *store = world_store(*state, 4 << 20);
    assert_int_equal(world_put(store, "too large", 5 << 20, 1), -200);
    mcs_store_t *none = world_store(*state, 0);
    mcs_store_destroy(store);
    assert_int_equal(world_put(none, "nowhere", 100, 1), -200);
    mcs_store_destroy(none);
}

static void closing_takes_the_objects_away_and_a_new_set_up_begins_empty(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *other = world_store(*state, 0);
    for (uint32_t i = 0; i < 3; i++) {
        mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
        assert_int_equal(world_put(other, "key", 5000, i), 0);
        assert_int_equal(exists(other, "key"), 1);
        assert_int_equal(mcs_store_close(store), 0);
        assert_int_equal(exists(other, "key"), 0);
        assert_int_equal(world_get(other, "key", 5000, i), -704);
        assert_int_equal(mcs_store_setup(store, &setup), 0);
    }
    mcs_store_destroy(other);
    mcs_store_destroy(store);
}

static void replicas_survive_the_loss_of_one_holder(void **state)
{
    mcs_store_t *a = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *b = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *reader = world_remote_store(*state, 0);
    uint8_t bytes[5000];
    unit_fill(bytes, sizeof(bytes), 4);
    struct iovec iov = {bytes, sizeof(bytes)};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t key = world_key("two");
    mcs_replicate_config_t config = {.struct_size = sizeof(config), .replica_num = 2, .replica_num_set = 1};
    mcs_replica_info_t info[4];
    int result = 1;
    assert_int_equal(mcs_put(reader, &key, &value, 1, &config, 0, &result), 0);
    assert_int_equal(result, 0);
    assert_int_equal(mcs_replicas(reader, key, info, 4), 2);
    assert_string_not_equal(info[0].segment_name, info[1].segment_name);
    mcs_store_destroy(a);
    assert_int_equal(world_get(reader, "two", 5000, 4), 5000);
    assert_int_equal(mcs_replicas(reader, key, info, 4), 1);
    mcs_store_destroy(b);
    assert_int_equal(world_get(reader, "two", 5000, 4), -704);
    mcs_store_destroy(reader);
}

/* ---- several writers and readers of few keys ---- */

enum { KEYS = 12, THREADS = 6, CALLS = 150 };

typedef struct actor {
    mcs_store_t *store;
    uint32_t number;
    bool wrong;
} actor_t;

/* A value says its key and is the same all over: any mix of two shows. */
static bool is_whole(const uint8_t *bytes, int64_t len, uint32_t key)
{
    for (int64_t i = 0; i < len; i++) {
        if (bytes[i] != bytes[0]) {
            return false;
        }
    }
    return len <= 0 || bytes[0] % KEYS == key;
}

static void *act(void *arg)
{
    actor_t *actor = arg;
    static const size_t lens[] = {100, 5000, 70000};
    uint8_t *bytes = malloc(70000);
    uint32_t x = actor->number * 7919 + 1;
    for (int i = 0; i < CALLS && !actor->wrong; i++) {
        x = x * 1664525 + 1013904223;
        uint32_t number = (x >> 8) % KEYS;
        char name[16];
        snprintf(name, sizeof(name), "shared-%u", number);
        mcs_bytes_t key = world_key(name);
        struct iovec iov = {bytes, lens[(x >> 16) % 3]};
        mcs_value_t value = {&iov, 1};
        int result = 0;
        int64_t size = 0;
        uint32_t what = (x >> 20) % 10;
        if (what < 5) {
            iov.iov_len = 70000;
            (void)mcs_get_into(actor->store, &key, &value, 1, &size);
            actor->wrong = size > 0 ? !is_whole(bytes, size, number) : size != -704 && size != -703;
        } else if (what < 9) {
            memset(bytes, (int)(number + KEYS * ((x >> 24) % 20)), iov.iov_len);
            (void)mcs_put(actor->store, &key, &value, 1, NULL, what < 7 ? 0 : MCS_PUT_UPSERT, &result);
            actor->wrong = result != 0 && result != -200;
        } else {
            (void)mcs_remove(actor->store, &key, 1, 1, &result);
            actor->wrong = result != 0 && result != -704 && result != -703;
        }
        if (actor->wrong) {
            fprintf(stderr, "%u %s: what %u result %d size %lld\n", actor->number, name, what, result, (long long)size);
        }
    }
    free(bytes);
    return NULL;
}

static void racing_puts_upserts_removes_and_reads_show_whole_values_only(void **state)
{
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *same_host = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(*state, 0);
    mcs_store_t *const stores[] = {holder, same_host, remote};
    actor_t actors[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        actors[i] = (actor_t){.store = stores[i % 3], .number = i};
        pthread_create(&threads[i], NULL, act, &actors[i]);
    }
    bool wrong = false;
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong = wrong || actors[i].wrong;
    }
    assert_false(wrong);
    mcs_store_destroy(same_host);
    mcs_store_destroy(remote);
    mcs_store_destroy(holder);
}

/* Upserts one key until told to stop. */
typedef struct replacer {
    mcs_store_t *store;
    int stop; /* atomic */
    bool failed;
} replacer_t;

static void *replace(void *arg)
{
    replacer_t *replacer = arg;
    uint8_t bytes[5000];
    memset(bytes, KEYS, sizeof(bytes));
    mcs_bytes_t key = world_key("replaced");
    for (size_t n = 0; __atomic_load_n(&replacer->stop, __ATOMIC_RELAXED) == 0; n++) {
        struct iovec iov = {bytes, 1 + n % sizeof(bytes)};
        mcs_value_t value = {&iov, 1};
        int result = 1;
        (void)mcs_put(replacer->store, &key, &value, 1, NULL, MCS_PUT_UPSERT, &result);
        replacer->failed = replacer->failed || result != 0;
    }
    return NULL;
}

/* Rule 2. Its owner knows that the old one is dead before the master names the new one: a read in between waits. */
static void a_value_that_is_being_replaced_is_never_a_miss(void **state)
{
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *same_host = world_store(*state, 0);
    mcs_store_t *remote = world_remote_store(*state, 0);
    mcs_store_t *const readers[] = {same_host, remote};
    assert_int_equal(world_put(holder, "replaced", 1, KEYS), 0);
    replacer_t replacer = {.store = holder};
    pthread_t thread;
    pthread_create(&thread, NULL, replace, &replacer);
    int64_t worst = 1;
    uint8_t bytes[5000];
    mcs_bytes_t key = world_key("replaced");
    for (uint32_t i = 0; i < 600; i++) {
        struct iovec iov = {bytes, sizeof(bytes)};
        mcs_value_t value = {&iov, 1};
        int64_t size = 0;
        (void)mcs_get_into(readers[i % 2], &key, &value, 1, &size);
        mcs_handle_t *handle = NULL;
        (void)mcs_get_handles(readers[i % 2], &key, 1, &handle, NULL);
        worst = size < worst ? size : worst;
        worst = handle == NULL ? -1 : worst;
        mcs_handle_release(handle);
    }
    __atomic_store_n(&replacer.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_int_equal(worst, 1);
    assert_false(replacer.failed);
    mcs_store_destroy(remote);
    mcs_store_destroy(same_host);
    mcs_store_destroy(holder);
}

static void an_embedded_master_is_one_line(void **state)
{
    mcs_parts_t parts = {.transport = &fake_transport_ops, .embed = &mcs_master_embed_ops};
    mcs_parts_set(&parts);
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
    setup.master_server_addr = "embedded";
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(mcs_store_setup(store, &setup), 0);
        assert_int_equal(world_put(store, "key", 5000, 1), 0);
        assert_int_equal(world_get(store, "key", 5000, 1), 5000);
    }
    mcs_store_destroy(store);
}

/* ---- segments of run time ---- */

typedef struct tenant {
    mcs_store_t *store;
    int number;
    int wrong;
} tenant_t;

static void *mount_main(void *arg)
{
    tenant_t *tenant = arg;
    for (int i = 0; i < 20; i++) {
        mcs_segment_id_t id = {0, 0};
        tenant->wrong += mcs_mount_memory(tenant->store, 4u << 20, -1, &id) != 0;
        tenant->wrong += mcs_unmount_memory(tenant->store, id, 0) != 0;
        tenant->wrong += mcs_unmount_memory(tenant->store, id, 0) != -101;
    }
    return NULL;
}

static void *put_main(void *arg)
{
    tenant_t *tenant = arg;
    for (int i = 0; i < 60; i++) {
        char key[32];
        snprintf(key, sizeof(key), "t%d-%d", tenant->number, i);
        int put = world_put(tenant->store, key, 50000, 1);
        int64_t got = world_get(tenant->store, key, 50000, 1);
        tenant->wrong += put != 0 && put != -800;
        tenant->wrong += got != 50000 && got != -704 && got != -800;
    }
    return NULL;
}

static void segments_of_run_time_come_and_go_beside_puts(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    pthread_t threads[4];
    tenant_t tenants[4];
    for (int i = 0; i < 4; i++) {
        tenants[i] = (tenant_t){store, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, i < 2 ? mount_main : put_main, &tenants[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(tenants[i].wrong, 0);
    }
    assert_int_equal(world_counter(store, "owner_segments"), 1);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static int clear(mcs_store_t *store, const char *key, const char *segment)
{
    mcs_bytes_t name = world_key(key);
    int result = 1;
    (void)mcs_replica_clear(store, &name, 1, segment, &result);
    return result;
}

static void replicas_are_given_up_by_who_put_them(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *other = world_store(*state, 0);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    assert_int_equal(clear(other, "key", ""), -601);
    assert_int_equal(clear(store, "key", "nowhere:1"), -710);
    assert_int_equal(clear(store, "none", ""), -704);
    assert_int_equal(clear(store, "", ""), -600);
    assert_int_equal(clear(store, "key", NULL), -600);
    assert_int_equal(clear(store, "key", ""), 0);
    assert_int_equal(exists(other, "key"), 0);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    assert_int_equal(exists(other, "key"), 1);
    assert_int_equal(clear(store, "key", ""), -706);
    mcs_store_destroy(other);
    mcs_store_destroy(store);
}

/* Puts of one size, one after another. */
static void put_row(mcs_store_t *store, const char *prefix, uint32_t count, size_t size)
{
    for (uint32_t i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof(key), "%s%u", prefix, i);
        assert_int_equal(world_put(store, key, size, i), 0);
    }
}

static void check_row(mcs_store_t *store, const char *prefix, uint32_t count, size_t size)
{
    for (uint32_t i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof(key), "%s%u", prefix, i);
        assert_int_equal(world_get(store, key, size, i), size);
    }
}

static void puts_in_a_row_take_one_request_each(void **state)
{
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(*state, 0);
    mcs_store_t *const stores[] = {holder, remote};
    for (uint32_t i = 0; i < 2; i++) {
        char prefix[8];
        snprintf(prefix, sizeof(prefix), "r%u-", i);
        put_row(stores[i], prefix, 3, 5000); /* connections */
        uint64_t calls = world_counter(stores[i], "rpc_calls");
        uint64_t before = world_counter(stores[i], "puts_on_spares");
        put_row(stores[i], i == 0 ? "s0-" : "s1-", 40, 5000);
        uint64_t on_spares = world_counter(stores[i], "puts_on_spares") - before;
        assert_true(on_spares > 0); /* 40, where nothing stops this process for long */
        assert_true(world_counter(stores[i], "rpc_calls") - calls <= 80 - on_spares);
        check_row(stores[1 - i], i == 0 ? "s0-" : "s1-", 40, 5000);
    }
    /* Another size, and back. */
    put_row(holder, "t", 5, 5001);
    put_row(holder, "u", 10, 5000);
    check_row(remote, "t", 5, 5001);
    check_row(remote, "u", 10, 5000);
    assert_int_equal(world_counter(holder, "puts"), 3 + 40 + 5 + 10);
    mcs_store_destroy(remote);
    mcs_store_destroy(holder);
}

static void a_row_over_keys_that_are_there_changes_none(void **state)
{
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    put_row(holder, "k", 10, 5000);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 10; i++) {
            char key[32];
            snprintf(key, sizeof(key), "k%u", i);
            assert_int_equal(world_put(holder, key, 5000, i + 1000), 0);
        }
    }
    check_row(holder, "k", 10, 5000);
    put_row(holder, "l", 10, 5000);
    check_row(holder, "l", 10, 5000);
    mcs_store_destroy(holder);
}

static void a_row_goes_on_when_a_holder_leaves(void **state)
{
    mcs_store_t *stays = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *writer = world_store(*state, 0);
    for (uint32_t round = 0; round < 3; round++) {
        mcs_store_t *leaves = world_store(*state, SEGMENT_BYTES);
        put_row(writer, "a", 8, 5000);
        mcs_store_destroy(leaves);
        char prefix[8];
        snprintf(prefix, sizeof(prefix), "b%u-", round);
        put_row(writer, prefix, 8, 5000);
        check_row(writer, prefix, 8, 5000);
    }
    mcs_store_destroy(writer);
    mcs_store_destroy(stays);
}

typedef struct row {
    mcs_store_t *store;
    uint32_t index;
} row_t;

static void *row_main(void *arg)
{
    const row_t *row = arg;
    for (uint32_t round = 0; round < 8; round++) {
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "m%u-%u-", row->index, round);
        put_row(row->store, prefix, 10, round % 2 == 0 ? 4096 : 4096 + row->index);
        check_row(row->store, prefix, 10, round % 2 == 0 ? 4096 : 4096 + row->index);
    }
    return NULL;
}

static void rows_of_many_threads_share_spares(void **state)
{
    pthread_t threads[4];
    row_t rows[MCS_ARRAY_LEN(threads)];
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        rows[i] = (row_t){holder, i};
        assert_int_equal(pthread_create(&threads[i], NULL, row_main, &rows[i]), 0);
    }
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(world_counter(holder, "put_failures"), 0);
    mcs_store_destroy(holder);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, embedded_set_up, embedded_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(values_go_round_over_every_path),
        TEST(a_batch_of_many_keys_goes_round),
        TEST(an_existing_value_stays_and_an_upsert_replaces_it),
        TEST(space_that_was_removed_is_given_out_again),
        TEST(a_full_cluster_says_so),
        TEST(closing_takes_the_objects_away_and_a_new_set_up_begins_empty),
        TEST(replicas_survive_the_loss_of_one_holder),
        TEST(racing_puts_upserts_removes_and_reads_show_whole_values_only),
        TEST(a_value_that_is_being_replaced_is_never_a_miss),
        TEST(segments_of_run_time_come_and_go_beside_puts),
        TEST(replicas_are_given_up_by_who_put_them),
        TEST(puts_in_a_row_take_one_request_each),
        TEST(a_row_over_keys_that_are_there_changes_none),
        TEST(a_row_goes_on_when_a_holder_leaves),
        TEST(rows_of_many_threads_share_spares),
        TEST(an_embedded_master_is_one_line),
    };
    return cmocka_run_group_tests_name("store and master", tests, NULL, NULL);
}
