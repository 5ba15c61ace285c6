/* The C API when holders, replicas or the master fail: failover, replacement, waiting, leases, a new session. */
#include "core/client/routes.h"
#include "core/client/store_entry.h"
#include "core/wire/extent.h"
#include "tests/unit/client/world.h"

/* A store's client id, learnt from what is asked of the transport; tests name holders by it. */
static mcs_id_t id_of_last_mounted(world_t *world)
{
    return mini_master_last_owner(world->master);
}

static int put_replicas(mcs_store_t *store, const char *key, size_t len, uint32_t seed, unsigned replicas)
{
    uint8_t *bytes = malloc(len);
    unit_fill(bytes, len, seed);
    struct iovec iov = {bytes, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t name = world_key(key);
    mcs_replicate_config_t config = {.struct_size = sizeof(config), .replica_num = replicas, .replica_num_set = 1};
    int result = 1;
    (void)mcs_put(store, &name, &value, 1, &config, 0, &result);
    free(bytes);
    return result;
}

/* ---- reads ---- */

static void a_read_goes_on_to_the_next_replica(void **state)
{
    static const fake_holder_t faults[] = {FAKE_HOLDER_DEAD, FAKE_HOLDER_STOPPED, FAKE_HOLDER_CORRUPT};
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *a = world_store(world, SEGMENT_BYTES);
    mcs_id_t first = id_of_last_mounted(world);
    mcs_store_t *b = world_store(world, SEGMENT_BYTES);
    mcs_id_t second = id_of_last_mounted(world);
    mcs_store_t *reader = world_remote_store(world, 0);
    assert_int_equal(put_replicas(reader, "key", 100000, 3, 2), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(faults); i++) {
        fake_transport_set_all(FAKE_HOLDER_FINE);
        fake_transport_set(first, faults[i]);
        assert_int_equal(world_get(reader, "key", 100000, 3), 100000);
        fake_transport_set_all(FAKE_HOLDER_FINE);
        fake_transport_set(second, faults[i]);
        assert_int_equal(world_get(reader, "key", 100000, 3), 100000);
    }
    assert_int_equal(world_counter(reader, "crc_errors"), 1);
    assert_true(world_counter(reader, "failovers") >= MCS_ARRAY_LEN(faults));
    mcs_store_destroy(reader);
    mcs_store_destroy(a);
    mcs_store_destroy(b);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void when_no_replica_is_left_the_error_says_why_in_time(void **state)
{
    static const struct {
        fake_holder_t fault;
        int code;
    } rows[] = {{FAKE_HOLDER_DEAD, -800}, {FAKE_HOLDER_STOPPED, -800}, {FAKE_HOLDER_CORRUPT, -801}};
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *reader = world_remote_store(world, 0);
    assert_int_equal(world_put(reader, "key", 100000, 3), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        fake_transport_set_all(rows[i].fault);
        uint64_t before = mcs_now_ns();
        assert_int_equal(world_get(reader, "key", 100000, 3), rows[i].code);
        assert_true(mcs_now_ns() - before < 4 * MCS_NS_PER_SEC);
        mcs_bytes_t key = world_key("key");
        mcs_handle_t *handle = NULL;
        int64_t size = 0;
        assert_int_equal(mcs_get_handles(reader, &key, 1, &handle, &size), 0);
        assert_int_equal(size, rows[i].code);
        assert_null(handle);
        assert_int_equal(world_counter(reader, "local_buffer_used_bytes"), 0);
    }
    fake_transport_set_all(FAKE_HOLDER_FINE);
    assert_int_equal(world_get(reader, "key", 100000, 3), 100000);
    mcs_store_destroy(reader);
    mcs_store_destroy(holder);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_holder_that_is_gone_is_a_clean_error_on_every_path(void **state)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *same_host = world_store(world, 0);
    mcs_store_t *remote = world_remote_store(world, 0);
    assert_int_equal(world_put(same_host, "key", 1000, 1), 0);
    assert_int_equal(world_get(same_host, "key", 1000, 1), 1000);
    world_script(world, MCS_VERB_GOODBYE, 1, FAKE_REPLY, MCS_OK); /* so that the master goes on naming it */
    mcs_store_destroy(holder);
    int64_t mapped = world_get(same_host, "key", 1000, 1);
    int64_t fetched = world_get(remote, "key", 1000, 1);
    assert_true(mapped == -800 || mapped == -712);
    assert_true(fetched == -800 || fetched == -712);
    mcs_store_destroy(same_host);
    mcs_store_destroy(remote);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_lease_that_has_run_out_is_asked_for_again_and_finally_an_error(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    mini_master_set_lease_ms(world->master, 0);
    uint32_t before = mini_master_requests(world->master, MCS_VERB_LOOKUP);
    assert_int_equal(world_get(store, "key", 1000, 1), -707);
    assert_int_equal(mini_master_requests(world->master, MCS_VERB_LOOKUP) - before, 3);
    /* A get in two steps whose lease ran out between them looks up once more. */
    mcs_bytes_t key = world_key("key");
    mcs_get_t *get = mcs_get_begin(store, &key, 1);
    mini_master_set_lease_ms(world->master, 10000);
    uint8_t bytes[1000];
    struct iovec iov = {bytes, sizeof(bytes)};
    int64_t result = 0;
    assert_int_equal(mcs_get_run(get, &iov, &result), 0);
    assert_int_equal(result, 1000);
    mcs_get_end(get);
    mcs_store_destroy(store);
}

/* Memory that decayed, or a program that writes where it must not: the master names a replica that nobody struck. */
static void destroy_header(mcs_store_t *store, const char *name)
{
    mcs_bytes_t key = world_key(name);
    mcs_handle_t *view = NULL;
    assert_int_equal(mcs_get_handles(store, &key, 1, &view, NULL), 0);
    assert_true(mcs_handle_readonly(view));
    uint8_t *payload = mcs_handle_ptr(view);
    memset(payload - mcs_extent_payload_offset(mcs_handle_size(view)), 0, MCS_EXTENT_HEADER);
    mcs_handle_release(view);
}

static void a_value_whose_header_is_destroyed_is_an_error_soon(void **state)
{
    world_t *world = *state;
    mini_master_set_lease_ms(world->master, 200);
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(world, 0);
    assert_int_equal(world_put(store, "broken", 1000, 1), 0);
    assert_int_equal(world_put(store, "whole", 1000, 2), 0);
    destroy_header(store, "broken");
    mcs_store_t *readers[] = {store, remote};
    for (size_t i = 0; i < MCS_ARRAY_LEN(readers); i++) {
        mcs_bytes_t keys[] = {world_key("broken"), world_key("whole")};
        mcs_handle_t *handles[2] = {NULL, NULL};
        int64_t results[2] = {1, 1};
        assert_int_equal(world_get(readers[i], "broken", 1000, 1), -712);
        assert_int_equal(mcs_get_handles(readers[i], keys, 2, handles, results), 0);
        assert_int_equal(results[0], -712);
        assert_int_equal(results[1], 1000);
        assert_null(handles[0]);
        mcs_handle_release(handles[1]);
    }
    mcs_store_destroy(remote);
    mcs_store_destroy(store);
}

static void a_get_whose_object_was_replaced_by_one_of_another_size_says_so(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    assert_int_equal(world_put(store, "key", 1000, 1), 0);
    mcs_bytes_t key = world_key("key");
    mini_master_set_lease_ms(world->master, 0);
    mcs_get_t *get = mcs_get_begin(store, &key, 1);
    mini_master_set_lease_ms(world->master, 10000);
    int result = 1;
    assert_int_equal(mcs_remove(store, &key, 1, 1, &result), 0);
    assert_int_equal(world_put(store, "key", 700, 2), 0);
    uint8_t bytes[1000];
    struct iovec iov = {bytes, sizeof(bytes)};
    int64_t size = 0;
    assert_int_equal(mcs_get_run(get, &iov, &size), 0);
    assert_int_equal(size, -600);
    mcs_get_end(get);
    mcs_store_destroy(store);
}

/* ---- writes ---- */

static void a_put_that_cannot_reach_a_segment_is_placed_elsewhere_once(void **state)
{
    static const fake_holder_t faults[] = {FAKE_HOLDER_DEAD, FAKE_HOLDER_STOPPED};
    world_t *world = *state;
    mcs_store_t *a = world_store(world, SEGMENT_BYTES);
    mcs_id_t bad = id_of_last_mounted(world);
    mcs_store_t *b = world_store(world, SEGMENT_BYTES);
    mcs_store_t *writer = world_remote_store(world, 0);
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(faults); i++) {
        fake_transport_set_all(FAKE_HOLDER_FINE);
        fake_transport_set(bad, faults[i]);
        for (uint32_t k = 0; k < 2; k++) { /* whichever segment is next in turn */
            char key[16];
            snprintf(key, sizeof(key), "%u-%u", i, k);
            assert_int_equal(world_put(writer, key, 5000, k), 0);
            assert_int_equal(world_get(writer, key, 5000, k), 5000);
        }
    }
    assert_true(world_counter(writer, "put_replacements") >= 2);
    mini_stats_t stats = mini_master_stats(world->master);
    assert_int_equal(stats.open, 0);
    assert_int_equal(stats.revoked, world_counter(writer, "put_replacements"));
    assert_int_equal(stats.revoked_in_doubt, stats.revoked); /* nobody knows what a lost owner has received */
    mcs_store_destroy(writer);
    mcs_store_destroy(a);
    mcs_store_destroy(b);
}

static void a_put_without_another_place_fails_with_what_went_wrong(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *writer = world_remote_store(world, 0);
    fake_transport_set_all(FAKE_HOLDER_DEAD);
    assert_int_equal(world_put(writer, "key", 5000, 1), -800);
    assert_int_equal(mini_master_stats(world->master).open, 0);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    assert_int_equal(world_put(writer, "key", 5000, 1), 0);
    mcs_store_destroy(writer);
    mcs_store_destroy(holder);
}

static void one_replica_that_fails_revokes_all_of_its_key_and_none_of_others(void **state)
{
    world_t *world = *state;
    mcs_store_t *a = world_store(world, SEGMENT_BYTES);
    mcs_id_t bad = id_of_last_mounted(world);
    mcs_store_t *b = world_store(world, SEGMENT_BYTES);
    mcs_store_t *c = world_store(world, SEGMENT_BYTES);
    mcs_store_t *writer = world_remote_store(world, 0);
    fake_transport_set(bad, FAKE_HOLDER_DEAD);
    for (uint32_t i = 0; i < 3; i++) {
        char key[16];
        mcs_replica_info_t info[4];
        snprintf(key, sizeof(key), "k%u", i);
        assert_int_equal(put_replicas(writer, key, 5000, i, 2), 0);
        assert_int_equal(mcs_replicas(writer, world_key(key), info, 4), 2);
        assert_int_equal(world_get(writer, key, 5000, i), 5000);
    }
    assert_true(world_counter(writer, "put_replacements") > 0);
    mcs_store_destroy(writer);
    mcs_store_destroy(a);
    mcs_store_destroy(b);
    mcs_store_destroy(c);
}

static void a_reservation_that_has_run_out_is_not_written(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mcs_store_t *writer = world_remote_store(world, 0);
    mini_master_set_deadline_ms(world->master, 0);
    uint64_t ranges = fake_transport_ranges();
    assert_int_equal(world_put(store, "own", 5000, 1), -800);
    assert_int_equal(world_put(writer, "remote", 5000, 1), -800);
    assert_int_equal(fake_transport_ranges(), ranges);
    assert_int_equal(world_counter(store, "bytes_copied"), 0);
    assert_int_equal(mini_master_stats(world->master).open, 0);
    mcs_store_destroy(writer);
    mcs_store_destroy(store);
}

/* ---- another's reservation ---- */

typedef struct waiting {
    mcs_store_t *store;
    int results[3];
} waiting_t;

static void *put_three(void *arg)
{
    waiting_t *waiting = arg;
    uint8_t bytes[100];
    unit_fill(bytes, sizeof(bytes), 1);
    struct iovec iov = {bytes, sizeof(bytes)};
    const mcs_value_t values[] = {{&iov, 1}, {&iov, 1}, {&iov, 1}};
    const mcs_bytes_t keys[] = {world_key("held"), world_key("free"), world_key("held too")};
    (void)mcs_put(waiting->store, keys, values, 3, NULL, 0, waiting->results);
    return NULL;
}

static void a_put_that_meets_anothers_finishes_its_batch_first_and_then_waits(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mini_master_hold_key(world->master, "held");
    mini_master_hold_key(world->master, "held too");
    waiting_t waiting = {store, {1, 1, 1}};
    pthread_t thread;
    pthread_create(&thread, NULL, put_three, &waiting);
    /* The free key is there while the call still waits for the others. */
    mcs_bytes_t key = world_key("free");
    int there = 0;
    while (there == 0) {
        assert_int_equal(mcs_exist(store, &key, 1, &there), 0);
    }
    mini_master_revoke_held(world->master, "held");
    mini_master_revoke_held(world->master, "held too");
    pthread_join(thread, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(waiting.results[i], 0);
    }
    assert_int_equal(world_get(store, "held", 100, 1), 100);
    assert_true(world_counter(store, "put_waits") > 0);
    mcs_store_destroy(store);
}

static void a_wait_for_another_is_bounded(void **state)
{
    world_t *world = *state;
    setenv("MC_RPC_TIMEOUT_MS", "700", 1);
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mini_master_hold_key(world->master, "held");
    uint64_t before = mcs_now_ns();
    assert_int_equal(world_put(store, "held", 100, 1), -703);
    uint64_t took = mcs_now_ns() - before;
    assert_true(took >= 600 * MCS_NS_PER_MS && took < 4 * MCS_NS_PER_SEC);
    mcs_store_destroy(store);
}

/* ---- the master ---- */

static void a_lost_answer_to_any_step_of_a_put_is_repeated(void **state)
{
    static const mcs_verb_t verbs[] = {MCS_VERB_PUT_START, MCS_VERB_PUT_END, MCS_VERB_LOOKUP, MCS_VERB_SEGMENT_INFO};
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(verbs); i++) {
        mcs_store_t *store = world_store(world, 0);
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        world_script(world, verbs[i], 2, FAKE_CLOSE, MCS_OK);
        assert_int_equal(world_put(store, key, 5000, i), 0);
        assert_int_equal(world_get(store, key, 5000, i), 5000);
        assert_int_equal(world_counter(store, "rpc_repeats"), 2);
        mcs_store_destroy(store);
    }
    mcs_store_destroy(holder);
}

static void another_master_comes(void *client)
{
    mcs_peers_flush(((mcs_client_t *)client)->peers);
}

/* Its handles mean other segments: what the one before said of its own is not remembered. */
static void an_answer_that_is_older_than_the_master_is_not_remembered(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *store = world_store(world, 0);
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    assert_non_null(client);
    world->meanwhile = another_master_comes;
    world->meanwhile_arg = client;
    uint32_t asked = mini_master_requests(world->master, MCS_VERB_SEGMENT_INFO);
    world_script(world, MCS_VERB_SEGMENT_INFO, 1, FAKE_DEFAULT, MCS_OK);
    for (uint32_t i = 0; i < 3; i++) { /* the second one asks again, the third one knows */
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        assert_int_equal(world_put(store, key, 5000, i), 0);
        assert_int_equal(mini_master_requests(world->master, MCS_VERB_SEGMENT_INFO) - asked, i == 0 ? 1 : 2);
    }
    mcs_store_leave(&entry);
    mcs_store_destroy(store);
    mcs_store_destroy(holder);
}

/* One of a batch, whose segment could not be asked about: the others of that segment ask for themselves. */
static void a_failed_question_about_a_segment_is_asked_again(void **state)
{
    enum { COUNT = 3 };
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *store = world_store(world, 0);
    mcs_bytes_t keys[COUNT];
    uint8_t bytes[COUNT][100];
    struct iovec iov[COUNT];
    mcs_value_t values[COUNT];
    int64_t results[COUNT];
    static const char *const names[COUNT] = {"k0", "k1", "k2"};
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(world_put(holder, names[i], 100, i), 0);
        keys[i] = world_key(names[i]);
        iov[i] = (struct iovec){bytes[i], 100};
        values[i] = (mcs_value_t){&iov[i], 1};
    }
    world_script(world, MCS_VERB_SEGMENT_INFO, 1, FAKE_REPLY, MCS_ERR_NO_MEMORY);
    (void)mcs_get_into(store, keys, values, COUNT, results);
    assert_int_equal(world_left(world), 0);
    assert_true(results[0] < 0);
    assert_int_equal(results[1], 100);
    assert_int_equal(results[2], 100);
    mcs_store_destroy(store);
    mcs_store_destroy(holder);
}

static void garbage_columns_are_refused_and_nothing_is_written(void **state)
{
    static const mcs_verb_t verbs[] = {MCS_VERB_PUT_START, MCS_VERB_PUT_END, MCS_VERB_LOOKUP, MCS_VERB_EXIST,
                                       MCS_VERB_REMOVE};
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    setenv("MC_STORE_LOOKUP_CACHE", "0", 1);
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    unsetenv("MC_STORE_LOOKUP_CACHE");
    assert_int_equal(world_put(store, "key", 5000, 1), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(verbs); i++) {
        mcs_bytes_t key = world_key("key");
        int result = 1;
        world_script(world, verbs[i], 1, FAKE_REPLY, MCS_OK); /* an empty message where columns should be */
        int put = world_put(store, "other", 100, 1);
        int64_t got = world_get(store, "key", 5000, 1);
        (void)mcs_exist(store, &key, 1, &result);
        int gone = 0;
        mcs_bytes_t none = world_key("none");
        (void)mcs_remove(store, &none, 1, 0, &gone);
        int bad = (put == -900) + (got == -900) + (result == -900) + (gone == -900);
        assert_int_equal(bad, 1);
        key = world_key("other");
        (void)mcs_remove(store, &key, 1, 1, &result);
        mini_master_revoke_open(world->master);
    }
    assert_int_equal(world_get(store, "key", 5000, 1), 5000);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_master_that_says_nothing_costs_the_rpc_timeout(void **state)
{
    world_t *world = *state;
    setenv("MC_RPC_TIMEOUT_MS", "300", 1);
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mcs_bytes_t key = world_key("key");
    int result = 0;
    world_script(world, MCS_VERB_EXIST, 1, FAKE_SILENCE, MCS_OK);
    uint64_t before = mcs_now_ns();
    assert_int_equal(mcs_exist(store, &key, 1, &result), 0);
    assert_int_equal(result, -901);
    assert_true(mcs_now_ns() - before < 3 * MCS_NS_PER_SEC);
    assert_int_equal(mcs_exist(store, &key, 1, &result), 0);
    assert_int_equal(result, 0);
    mcs_store_destroy(store);
}

/* A location may be remembered until the loss of the master is noticed; then the bytes are right. */
static void await_miss(mcs_store_t *store, const char *key, uint32_t fill)
{
    uint64_t give_up = mcs_now_ns() + 10 * MCS_NS_PER_SEC;
    int64_t got = world_get(store, key, 5000, fill);
    while (got != -704) {
        assert_int_equal(got, 5000);
        assert_true(mcs_now_ns() < give_up);
        got = world_get(store, key, 5000, fill);
    }
}

static void a_master_that_forgot_the_session_gets_new_memory_mounted(void **state)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mcs_store_t *other = world_store(world, 0);
    mcs_bytes_t key = world_key("key");
    mcs_handle_t *handle = NULL;
    uint8_t wanted[5000];
    unit_fill(wanted, sizeof(wanted), 1);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(world_put(other, "key", 5000, 1), 0);
        mcs_handle_release(handle);
        assert_int_equal(mcs_get_handles(store, &key, 1, &handle, NULL), 0);
        mini_master_restart(world->master);
        /* By themselves; what was in memory is not there any more, what is viewed stays. */
        await_miss(other, "key", 1);
        while (mini_master_stats(world->master).segments == 0) {
            sched_yield();
        }
        assert_int_equal(world_put(other, "after", 5000, i), 0);
        assert_int_equal(world_get(store, "after", 5000, i), 5000);
        assert_memory_equal(mcs_handle_ptr(handle), wanted, sizeof(wanted));
    }
    assert_int_equal(world_counter(store, "sessions"), 4);
    assert_int_equal(mcs_store_health_check(store), 0);
    mcs_handle_release(handle);
    mcs_store_destroy(store);
    mcs_store_destroy(other);
    mcs_log_set_level(MCS_LOG_ERROR);
}

typedef struct one_put {
    mcs_store_t *store;
    int code;
} one_put_t;

static void *put_one(void *arg)
{
    one_put_t *put = arg;
    put->code = world_put(put->store, "key", 5000, 1);
    return NULL;
}

/* The commit may have been made, seen and removed by others. Put again, the value would come back; refused then, the
 * refusal would deny what others saw. */
static void a_commit_that_nobody_can_answer_for_is_neither_repeated_nor_denied(void **state)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    one_put_t put = {.store = world_store(world, SEGMENT_BYTES), .code = 1};
    pthread_t thread;
    world_script(world, MCS_VERB_PUT_END, 1, FAKE_SILENCE, MCS_OK);
    pthread_create(&thread, NULL, put_one, &put);
    uint64_t end = mcs_deadline_after_ms(20000);
    while (mini_master_requests(world->master, MCS_VERB_PUT_START) == 0 || world_left(world) > 0) {
        assert_false(mcs_deadline_passed(end));
        sched_yield();
    }
    mini_master_restart(world->master);
    pthread_join(thread, NULL);
    assert_int_equal(put.code, -900);
    end = mcs_deadline_after_ms(20000);
    while (mini_master_stats(world->master).segments == 0) {
        assert_false(mcs_deadline_passed(end));
        sched_yield();
    }
    assert_int_equal(mini_master_stats(world->master).objects, 0);
    assert_int_equal(world_put(put.store, "key", 5000, 2), 0);
    assert_int_equal(world_get(put.store, "key", 5000, 2), 5000);
    mcs_store_destroy(put.store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void segments_of_run_time_are_mounted_again_too(void **state)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = world_store(world, 0);
    mcs_segment_id_t ids[2];
    assert_int_equal(mcs_mount_memory(store, SEGMENT_BYTES, -1, &ids[0]), 0);
    assert_int_equal(mcs_mount_memory(store, SEGMENT_BYTES, -1, &ids[1]), 0);
    assert_int_equal(mcs_mount_memory(store, 0, -1, &ids[1]), -600);
    assert_int_equal(mcs_mount_memory(store, UINT64_C(1) << 46, -1, &ids[1]), -600);
    for (uint32_t i = 0; i < 3; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key%u", i);
        assert_int_equal(world_put(store, key, 5000, i), 0);
        assert_int_equal(world_get(store, key, 5000, i), 5000);
        mini_master_restart(world->master);
        await_miss(store, key, i);
        while (mini_master_stats(world->master).segments < 2) {
            sched_yield();
        }
    }
    assert_int_equal(world_counter(store, "owner_segments"), 2);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

/* ---- every failure once, in a store that goes on ---- */

typedef struct torture {
    mcs_store_t *holder;
    mcs_store_t *remote;
    mcs_store_t *same_host;
    uint32_t number;
} torture_t;

static mcs_status_t data_step(void *arg)
{
    torture_t *t = arg;
    mcs_store_t *const stores[] = {t->holder, t->same_host, t->remote};
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; i < MCS_ARRAY_LEN(stores); i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%u", t->number++);
        mcs_bytes_t key = world_key(name);
        mcs_handle_t *handle = NULL;
        int put = world_put(stores[i], name, 3000, t->number);
        int64_t got = world_get(stores[i], name, 3000, t->number);
        (void)mcs_get_handles(stores[i], &key, 1, &handle, NULL);
        bool copied = handle != NULL;
        mcs_handle_release(handle);
        status = put == 0 && got == 3000 && copied ? status : MCS_ERR_NO_MEMORY;
    }
    return status;
}

static void check_torture(void **state, mcs_fault_kind_t kind)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    torture_t t = {.holder = world_store(world, SEGMENT_BYTES)};
    t.same_host = world_store(world, 0);
    t.remote = world_remote_store(world, 0);
    assert_int_equal(data_step(&t), MCS_OK); /* mappings and connections are there */
    unit_torture(kind, data_step, &t);
    assert_int_equal(world_counter(t.remote, "local_buffer_used_bytes"), 0);
    assert_int_equal(world_counter(t.same_host, "mapper_pins"), 0);
    assert_int_equal(world_counter(t.holder, "mapper_pins"), 0);
    mcs_store_destroy(t.same_host);
    mcs_store_destroy(t.remote);
    mcs_store_destroy(t.holder);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void no_allocation_that_fails_leaks_or_gives_a_wrong_byte(void **state)
{
    setenv("MC_RPC_TIMEOUT_MS", "300", 1); /* reservations whose answer was lost are waited for */
    check_torture(state, MCS_FAULT_ALLOC);
}

static void no_system_call_that_fails_leaks_or_gives_a_wrong_byte(void **state)
{
    setenv("MC_RPC_TIMEOUT_MS", "300", 1);
    check_torture(state, MCS_FAULT_SYSCALL);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_read_goes_on_to_the_next_replica),
        TEST(when_no_replica_is_left_the_error_says_why_in_time),
        TEST(a_holder_that_is_gone_is_a_clean_error_on_every_path),
        TEST(a_lease_that_has_run_out_is_asked_for_again_and_finally_an_error),
        TEST(a_value_whose_header_is_destroyed_is_an_error_soon),
        TEST(a_get_whose_object_was_replaced_by_one_of_another_size_says_so),
        TEST(a_put_that_cannot_reach_a_segment_is_placed_elsewhere_once),
        TEST(a_put_without_another_place_fails_with_what_went_wrong),
        TEST(one_replica_that_fails_revokes_all_of_its_key_and_none_of_others),
        TEST(a_reservation_that_has_run_out_is_not_written),
        TEST(a_put_that_meets_anothers_finishes_its_batch_first_and_then_waits),
        TEST(a_wait_for_another_is_bounded),
        TEST(a_lost_answer_to_any_step_of_a_put_is_repeated),
        TEST(an_answer_that_is_older_than_the_master_is_not_remembered),
        TEST(a_failed_question_about_a_segment_is_asked_again),
        TEST(garbage_columns_are_refused_and_nothing_is_written),
        TEST(a_master_that_says_nothing_costs_the_rpc_timeout),
        TEST(a_master_that_forgot_the_session_gets_new_memory_mounted),
        TEST(a_commit_that_nobody_can_answer_for_is_neither_repeated_nor_denied),
        TEST(segments_of_run_time_are_mounted_again_too),
        TEST(no_allocation_that_fails_leaks_or_gives_a_wrong_byte),
        TEST(no_system_call_that_fails_leaks_or_gives_a_wrong_byte),
    };
    return cmocka_run_group_tests_name("store fault", tests, NULL, NULL);
}
