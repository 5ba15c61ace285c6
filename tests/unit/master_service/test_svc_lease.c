/* Leases, remove in all its forms. */
#include "tests/unit/master_service/fixture.h"

static void a_fresh_object_has_no_lease_and_a_read_grants_one(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    assert_int_equal(rpc_store(&f->writer, "l", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "l", true, NULL), MCS_OK); /* without a lease */
    assert_int_equal(rpc_remove(&f->writer, "l", false), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "m", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "m", false, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "m", false), MCS_ERR_OBJECT_HAS_LEASE);
}

static void a_lease_expires_exactly_at_its_ttl(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    live(f, 9999);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    live(f, 1);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
}

static void reads_extend_a_lease_and_nothing_shortens_it(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    live(f, 6000);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    live(f, 9000);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    live(f, 1000);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
}

static void an_extent_is_asked_back_after_its_lease_and_the_guard(void **state)
{
    fixture_t *f = *state;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_OK);
    live(f, 5000); /* uncached from now on: a forced removal is immediate, the extent is still leased */
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    live(f, 5000);
    assert_int_equal(f->owner.releases, 0);
    live(f, 20); /* lease_guard_ms */
    for (int i = 0; i < 100 && f->owner.releases == 0; i++) {
        rpc_pump(&f->owner, 10);
    }
    assert_int_equal(f->owner.releases, 1);
    rpc_answer_releases(&f->owner);
    assert_int_equal(settle(f), 0);
}

static void a_forced_removal_of_a_cached_key_waits_for_its_owner(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_OK);
    f->owner.auto_release = false;
    rpc_client_t remover;
    world_client(&f->world, &remover, "host-c:1");
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Remove request = MCS__WIRE__REMOVE__INIT;
    uint16_t len = 1;
    sequence.seq = sequence.ack = 1;
    request.sequence = &sequence;
    request.key_lens = (ProtobufCBinaryData){sizeof(len), (uint8_t *)&len};
    request.keys = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "k"};
    request.force = true;
    assert_int_equal(rpc_client_join(&remover), MCS_OK);
    uint64_t id = rpc_send(&remover, &remover.call, MCS_VERB_REMOVE, &request.base);
    while (f->owner.releases == 0) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(rpc_lookup(&f->writer, "k", true, NULL), MCS_OK); /* nobody has been told that it is gone */
    sequence.seq = sequence.ack = ++f->writer.seq;
    uint64_t second = rpc_send(&f->writer, &f->writer.call, MCS_VERB_REMOVE, &request.base);
    assert_int_equal(rpc_put_one(&f->writer, "k", 10, &(rpc_put_options_t){.upsert = true}, NULL),
                     MCS_ERR_PUT_IN_PROGRESS);
    rpc_answer_releases(&f->owner);
    assert_int_equal(rpc_wait(&remover, &remover.call, id, NULL, NULL), MCS_OK);
    ProtobufCMessage *message = NULL;
    assert_int_equal(rpc_wait(&f->writer, &f->writer.call, second, &mcs__wire__status_column__descriptor, &message),
                     MCS_OK);
    const Mcs__Wire__StatusColumn *column = (const Mcs__Wire__StatusColumn *)message;
    int32_t status = 1;
    assert_int_equal(column->statuses.len, sizeof(status));
    memcpy(&status, column->statuses.data, sizeof(status));
    assert_int_equal(status, MCS_ERR_OBJECT_NOT_FOUND); /* one value is removed once */
    protobuf_c_message_free_unpacked(message, NULL);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(settle(f), 0);
    rpc_client_fini(&remover);
}

/* Exist and then get inside the lease never misses, whoever writes the key meanwhile. */
static void an_upserts_value_keeps_the_lease_of_the_key(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t upsert = {.upsert = true};
    assert_int_equal(rpc_store(&f->writer, "k", 400000, NULL), MCS_OK);
    live(f, f->world.conf.default_kv_lease_ttl * 2);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    uint64_t end_ns = mcs_now_ns() + f->world.service->lease_ns;
    f->writer.idle = world_passing; /* owners are asked to strike the old value */
    assert_int_equal(rpc_store(&f->writer, "k", 300000, &upsert), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    f->world.conf.eviction_wait_ms = 0;
    assert_int_equal(rpc_put_one(&f->writer, "large", 900000, NULL, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    settle(f);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 300000);
    f->writer.idle = world_tick; /* time stands still while an answer is waited for */
    live(f, (end_ns - mcs_now_ns()) / MCS_NS_PER_MS - 1);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    live(f, 2);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
}

static void a_key_being_put_cannot_be_removed(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
}

static void fill(fixture_t *f)
{
    const char *keys[] = {"model-a/1", "model-a/2", "model-b/1", "other", "x+y"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(keys); i++) {
        assert_int_equal(rpc_store(&f->writer, keys[i], 100, NULL), MCS_OK);
    }
}

static void regular_expressions_are_searched_for(void **state)
{
    fixture_t *f = *state;
    fill(f);
    assert_int_equal(rpc_remove_regex(&f->writer, "odel-a", false), 2);
    assert_int_equal(rpc_remove_regex(&f->writer, "^model-b/1$", false), 1);
    assert_int_equal(rpc_remove_regex(&f->writer, "^ther", false), 0);
    assert_int_equal(rpc_remove_regex(&f->writer, "x\\+y|other", false), 2);
    assert_int_equal(world_totals(&f->world).objects, 0);
    assert_int_equal(settle(f), 0);
}

static void bad_and_hard_expressions_are_refused(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_remove_regex(&f->writer, "(", false), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_remove_regex(&f->writer, "a{2,1}", false), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_remove_regex(&f->writer, "[z-a]", false), MCS_ERR_INVALID_PARAMS);
    char key[60];
    memset(key, 'a', sizeof(key) - 1);
    key[sizeof(key) - 2] = 'b';
    key[sizeof(key) - 1] = '\0';
    assert_int_equal(rpc_store(&f->writer, key, 100, NULL), MCS_OK);
    assert_int_equal(rpc_remove_regex(&f->writer, "^(a+)+$", false), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_exist(&f->writer, key), 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, remove_by_regex_failures), 4);
}

static void leased_and_open_keys_are_skipped_by_bulk_removals(void **state)
{
    fixture_t *f = *state;
    fill(f);
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "model-open", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "model-a/1"), 1);
    assert_int_equal(rpc_remove_regex(&f->writer, "model", false), 2);
    assert_int_equal(rpc_remove_all(&f->writer, false), 2);
    assert_int_equal(rpc_exist(&f->writer, "model-a/1"), 1);
    assert_int_equal(rpc_remove_all(&f->writer, true), 1);
    assert_int_equal(rpc_exist(&f->writer, "model-a/1"), 0);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "model-open"), 1);
    assert_int_equal(settle(f), mcs_extent_len(100));
}

static void a_read_of_one_member_leases_its_group(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t grouped = {.group = "g"};
    assert_int_equal(rpc_store(&f->writer, "a", 100, &grouped), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "b", 100, &grouped), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "c", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "a"), 1);
    assert_int_equal(rpc_remove(&f->writer, "b", false), MCS_ERR_OBJECT_HAS_LEASE);
    assert_int_equal(rpc_remove(&f->writer, "c", false), MCS_OK);
    live(f, 4000);
    assert_int_equal(rpc_exist(&f->writer, "a"), 1); /* more than half is left: the group's stays */
    live(f, 6000);
    assert_int_equal(rpc_remove(&f->writer, "b", false), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "a", false), MCS_ERR_OBJECT_HAS_LEASE);
}

static bool count_key(void *arg, const char *key, uint32_t key_len)
{
    (void)key;
    assert_true(key_len > 0);
    return ++*(uint32_t *)arg < 4;
}

static void walks_and_queries_tell_what_is_readable(void **state)
{
    fixture_t *f = *state;
    fill(f);
    rpc_put_t put;
    mcs_service_replica_t replicas[4];
    uint32_t count = 0;
    assert_int_equal(rpc_put_one(&f->writer, "open", 100, NULL, &put), MCS_OK);
    mcs_service_for_each_key(f->world.service, count_key, &count);
    assert_int_equal(count, 4); /* stopped by the function */
    assert_int_equal(mcs_service_query_key(f->world.service, "other", 5, false, replicas, 4, &count), MCS_OK);
    assert_int_equal(count, 1);
    assert_int_equal(replicas[0].size, 100);
    assert_string_equal(replicas[0].transport_endpoint, "host-a:1");
    assert_string_equal(replicas[0].protocol, "tcp");
    assert_int_equal(rpc_remove(&f->writer, "other", false), MCS_OK);
    assert_int_equal(mcs_service_query_key(f->world.service, "x+y", 3, true, replicas, 4, &count), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "x+y", false), MCS_ERR_OBJECT_HAS_LEASE);
    assert_int_equal(mcs_service_query_key(f->world.service, "open", 4, true, replicas, 4, &count),
                     MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(mcs_service_query_key(f->world.service, "none", 4, true, replicas, 4, &count),
                     MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(world_totals(&f->world).objects, 4);
    assert_int_equal(world_totals(&f->world).reservations, 1);
    assert_int_equal(world_totals(&f->world).capacity_bytes, SEGMENT);
}

/* ---- batches ---- */

enum { BATCH_THERE = 2000, BATCH_ASKED = 4096 };

static uint32_t batch_key(char *text, uint32_t number)
{
    return (uint32_t)snprintf(text, 16, "b%u", number);
}

static void store_batch(fixture_t *f)
{
    enum { STEP = 100 };
    static char texts[STEP][16];
    static rpc_put_t puts[STEP];
    for (uint32_t k = 0; k < BATCH_THERE; k += STEP) {
        const char *keys[STEP];
        uint64_t sizes[STEP];
        uint64_t ids[STEP];
        int32_t statuses[STEP];
        for (uint32_t i = 0; i < STEP; i++) {
            batch_key(texts[i], k + i);
            keys[i] = texts[i];
            sizes[i] = 1 + k + i;
        }
        assert_int_equal(rpc_put_start(&f->writer, keys, sizes, STEP, NULL, puts), MCS_OK);
        for (uint32_t i = 0; i < STEP; i++) {
            assert_int_equal(puts[i].status, MCS_OK);
            ids[i] = puts[i].put_id;
        }
        assert_int_equal(rpc_put_end(&f->writer, ids, STEP, statuses), MCS_OK);
    }
}

/* Half of the keys asked for are there, and some are asked for twice. */
static uint32_t batch_number(uint32_t i)
{
    return i * 7919 % (2 * BATCH_THERE);
}

static void a_batch_finds_every_key_in_the_order_of_the_request(void **state)
{
    fixture_t *f = *state;
    store_batch(f);
    mcs_buf_t lens;
    mcs_buf_t bytes;
    mcs_buf_init(&lens, MCS_FRAME_MAX);
    mcs_buf_init(&bytes, MCS_FRAME_MAX);
    for (uint32_t i = 0; i < BATCH_ASKED; i++) {
        char text[16];
        mcs_key_t key = {text, batch_key(text, batch_number(i))};
        assert_int_equal(mcs_keys_encode(&key, 1, &lens, &bytes), MCS_OK);
    }
    Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
    ProtobufCMessage *message;
    lookup.key_lens = (ProtobufCBinaryData){lens.len, lens.bytes};
    lookup.keys = (ProtobufCBinaryData){bytes.len, bytes.bytes};
    assert_int_equal(
        rpc_call(&f->writer, MCS_VERB_LOOKUP, &lookup.base, &mcs__wire__lookup_reply__descriptor, &message), MCS_OK);
    const Mcs__Wire__LookupReply *reply = (const Mcs__Wire__LookupReply *)message;
    assert_int_equal(reply->objects.len, BATCH_ASKED * sizeof(mcs_col_object_t));
    size_t at = 0;
    for (uint32_t i = 0; i < BATCH_ASKED; i++) {
        mcs_col_object_t object;
        bool there = batch_number(i) < BATCH_THERE;
        memcpy(&object, reply->objects.data + i * sizeof(object), sizeof(object));
        assert_int_equal(object.status, there ? MCS_OK : MCS_ERR_OBJECT_NOT_FOUND);
        assert_int_equal(object.replica_count, there ? 1 : 0);
        if (there && i % 64 == 0) { /* what a lookup of this key alone says */
            char text[16];
            rpc_object_t alone;
            batch_key(text, batch_number(i));
            assert_int_equal(rpc_lookup(&f->writer, text, false, &alone), MCS_OK);
            assert_memory_equal(&alone.object, &object, sizeof(object));
            assert_memory_equal(alone.replica, reply->replicas.data + at, sizeof(mcs_col_replica_t));
        }
        if (there) {
            assert_int_equal(object.payload_len, 1 + batch_number(i));
        }
        at += object.replica_count * sizeof(mcs_col_replica_t);
    }
    assert_int_equal(reply->replicas.len, at);
    protobuf_c_message_free_unpacked(message, NULL);
    /* All of them are leased, whatever list they were in. */
    world_pass(&f->world, 10);
    assert_int_equal(rpc_remove(&f->writer, "b0", false), MCS_ERR_OBJECT_HAS_LEASE);
    mcs_buf_fini(&lens);
    mcs_buf_fini(&bytes);
}

static void no_eviction(mcs_master_config_t *conf)
{
    conf->eviction_high_watermark_ratio = 1;
}

static int setup_batch(void **state)
{
    int rc = setup_with(state, no_eviction);
    fixture_t *f = *state;
    assert_int_equal(rpc_try_mount(&f->owner, "host-a:2", 16 * SEGMENT, mcs_id_random(), &f->handle, &f->key), MCS_OK);
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_fresh_object_has_no_lease_and_a_read_grants_one, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lease_expires_exactly_at_its_ttl, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_extend_a_lease_and_nothing_shortens_it, setup, teardown),
        cmocka_unit_test_setup_teardown(an_extent_is_asked_back_after_its_lease_and_the_guard, setup, teardown),
        cmocka_unit_test_setup_teardown(a_forced_removal_of_a_cached_key_waits_for_its_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upserts_value_keeps_the_lease_of_the_key, setup, teardown),
        cmocka_unit_test_setup_teardown(a_key_being_put_cannot_be_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(regular_expressions_are_searched_for, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_and_hard_expressions_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(leased_and_open_keys_are_skipped_by_bulk_removals, setup, teardown),
        cmocka_unit_test_setup_teardown(a_read_of_one_member_leases_its_group, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_and_queries_tell_what_is_readable, setup, teardown),
        cmocka_unit_test_setup_teardown(a_batch_finds_every_key_in_the_order_of_the_request, setup_batch, teardown),
    };
    return cmocka_run_group_tests_name("svc_lease", tests, NULL, NULL);
}
