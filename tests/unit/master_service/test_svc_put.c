/* put_start, put_end, put_revoke, put_wait, and what readers see of them. */
#include "tests/unit/master_service/fixture.h"

#include <sys/socket.h>

#include "core/base/alloc.h"

static void a_put_is_readable_after_its_end_and_not_before(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(put.replicas, 1);
    assert_int_equal(put.replica[0].segment, f->handle);
    assert_int_equal(put.replica[0].status, 2);
    assert_int_equal(put.replica[0].generation, put.put_id);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_exist(&f->owner, "k"), 1);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->owner, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 1000);
    assert_int_equal(object.lease_ms, f->world.conf.default_kv_lease_ttl);
    assert_int_equal(object.replica[0].generation, put.put_id);
    assert_int_equal(object.replica[0].offset, put.replica[0].offset);
}

static void rights_are_macs_for_the_session_that_asked(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(put.replica[0].mac, mcs_cap_mac(&f->key, f->writer.session, f->instance, put.replica[0].offset,
                                                     1000, put.put_id, MCS_CAP_WRITE));
    rpc_end_one(&f->writer, put.put_id);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->owner, "k", false, &object), MCS_OK);
    assert_int_equal(object.replica[0].mac, mcs_cap_mac(&f->key, f->owner.session, f->instance, put.replica[0].offset,
                                                        1000, put.put_id, MCS_CAP_READ));
    assert_int_equal(rpc_lookup(&f->owner, "k", true, &object), MCS_OK);
    assert_int_equal(object.replica[0].mac, 0);
    assert_int_equal(object.lease_ms, 0);
}

static void a_repeat_of_a_sequence_is_answered_from_its_outcome(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t again = {.seq = 100, .ack = 50};
    rpc_put_t first;
    rpc_put_t second;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, &again, &first), MCS_OK);
    rpc_client_drop_call(&f->writer); /* as after a lost connection */
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, &again, &second), MCS_OK);
    assert_int_equal(first.put_id, second.put_id);
    assert_memory_equal(&first.replica[0], &second.replica[0], sizeof(first.replica[0]));
    assert_int_equal(world_totals(&f->world).reservations, 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, rpc_replays), 1);
    /* Acknowledged: forgotten, and refused from then on. */
    rpc_put_options_t later = {.seq = 101, .ack = 101};
    assert_int_equal(rpc_put_one(&f->writer, "l", 1000, &later, NULL), MCS_OK);
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, &again, NULL), MCS_ERR_INVALID_PARAMS);
}

static void put_end_is_idempotent_by_generation(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_revoke_one(&f->owner, put.put_id), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_revoke_one(&f->writer, put.put_id), MCS_ERR_INVALID_WRITE);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id + SVC_SHARDS), MCS_ERR_OBJECT_NOT_FOUND);
    rpc_put_t other;
    assert_int_equal(rpc_put_one(&f->writer, "l", 1000, NULL, &other), MCS_OK);
    assert_int_equal(rpc_revoke_one(&f->writer, other.put_id), MCS_OK);
    assert_int_equal(rpc_revoke_one(&f->writer, other.put_id), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, other.put_id), MCS_ERR_INVALID_WRITE);
}

static void revoked_space_comes_back_by_its_owners_answer_alone(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    f->owner.auto_release = false;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    uint64_t used = world_totals(&f->world).allocated_bytes;
    assert_int_equal(used, mcs_extent_len(1000));
    assert_int_equal(rpc_revoke_one(&f->writer, put.put_id), MCS_OK);
    world_tick(&f->world);
    while (f->owner.releases == 0) {
        rpc_pump(&f->owner, 10);
    }
    world_pass(&f->world, 5000);
    assert_int_equal(world_totals(&f->world).allocated_bytes, used);
    assert_int_equal(world_totals(&f->world).quarantine_bytes, used);
    assert_int_equal(f->owner.may_write, 0); /* its writer said that it stopped */
    rpc_answer_releases(&f->owner);
    assert_int_equal(settle(f), 0);
    assert_int_equal(world_totals(&f->world).quarantine_bytes, 0);
}

static void an_answer_to_what_was_not_asked_frees_nothing(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    Mcs__Wire__Released released = MCS__WIRE__RELEASED__INIT;
    uint64_t generations[] = {put.put_id, 0, UINT64_MAX, put.put_id + SVC_SHARDS};
    released.generations = (ProtobufCBinaryData){sizeof(generations), (uint8_t *)generations};
    assert_int_equal(rpc_call_control(&f->owner, MCS_VERB_RELEASED, &released.base, NULL, NULL), MCS_OK);
    assert_int_equal(rpc_call_control(&f->writer, MCS_VERB_RELEASED, &released.base, NULL, NULL), MCS_OK);
    assert_int_equal(world_totals(&f->world).allocated_bytes, mcs_extent_len(1000));
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
}

static void a_second_put_learns_that_the_key_exists_or_is_being_put(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 1000, NULL, NULL), MCS_ERR_PUT_IN_PROGRESS);
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, NULL), MCS_ERR_PUT_IN_PROGRESS);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 500, NULL, NULL), MCS_ERR_OBJECT_ALREADY_EXISTS);
    assert_int_equal(world_totals(&f->world).allocated_bytes, mcs_extent_len(1000));
}

static void an_old_open_put_is_pre_empted_and_its_writer_fenced(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    rpc_put_t second;
    f->writer.auto_ack = false;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    for (int i = 0; i < 6; i++) { /* 30 s, with heartbeats */
        world_pass(&f->world, 5000);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
        assert_int_equal(rpc_ping(&f->owner), MCS_OK);
    }
    assert_int_equal(rpc_put_one(&f->owner, "k", 2000, NULL, &second), MCS_OK);
    assert_int_not_equal(second.put_id, put.put_id);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_ERR_INVALID_WRITE);
    assert_int_equal(rpc_end_one(&f->owner, second.put_id), MCS_OK);
    for (int i = 0; i < 1000 && (f->owner.releases == 0 || f->writer.revoked.len == 0); i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
        rpc_pump(&f->writer, 1);
    }
    assert_int_equal(f->owner.may_write, 1);
    assert_int_equal(f->writer.revoked.len, sizeof(uint64_t));
    assert_int_equal(mcs_load_u64(f->writer.revoked.bytes), put.put_id);
    assert_int_equal(f->owner.forgotten.len, 0);
    rpc_ack(&f->writer, &put.put_id, 1);
    for (int i = 0; i < 1000 && f->owner.forgotten.len == 0; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(mcs_load_u64(f->owner.forgotten.bytes), put.put_id);
    assert_int_equal(settle(f), mcs_extent_len(2000));
    assert_int_equal(mcs_metric_get(&f->world.metrics, discarded_puts), 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, released_puts), 1);
    assert_int_equal(world_totals(&f->world).discarded_staging_bytes, 0);
}

static void an_open_put_ends_at_its_deadline(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    f->world.conf.put_start_release_timeout_sec = 60;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    for (int i = 0; i < 11; i++) {
        world_pass(&f->world, 5000);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
        assert_int_equal(rpc_ping(&f->owner), MCS_OK);
    }
    assert_int_equal(world_totals(&f->world).reservations, 1);
    world_pass(&f->world, 5500);
    assert_int_equal(world_totals(&f->world).reservations, 0);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_ERR_INVALID_WRITE);
    assert_int_equal(settle(f), 0);
    assert_int_equal(rpc_store(&f->owner, "k", 10, NULL), MCS_OK);
}

static void the_same_key_twice_in_a_batch_counts_once(void **state)
{
    fixture_t *f = *state;
    const char *keys[] = {"a", "b", "a"};
    uint64_t sizes[] = {100, 200, 300};
    rpc_put_t puts[3];
    for (int upsert = 0; upsert < 2; upsert++) {
        rpc_put_options_t options = {.upsert = upsert != 0};
        assert_int_equal(rpc_put_start(&f->writer, keys, sizes, 3, &options, puts), MCS_OK);
        assert_int_equal(puts[0].status, MCS_OK);
        assert_int_equal(puts[1].status, MCS_OK);
        assert_int_equal(puts[2].status, MCS_ERR_PUT_IN_PROGRESS);
        uint64_t ids[] = {puts[0].put_id, puts[1].put_id};
        int32_t statuses[2];
        assert_int_equal(rpc_put_end(&f->writer, ids, 2, statuses), MCS_OK);
        assert_int_equal(statuses[0], MCS_OK);
        assert_int_equal(statuses[1], MCS_OK);
    }
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "a", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100);
}

static void bad_requests_are_refused(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    const char *many[200];
    for (size_t i = 0; i < 200; i++) {
        many[i] = "x:1";
    }
    const rpc_put_options_t bad[] = {
        {.zero_replicas = true},
        {.soft_pin_action = 3},
        {.soft_pin_action = 0, .has_soft_pin_ttl = true, .soft_pin_ttl_ms = 1},
        {.soft_pin_action = 2, .has_soft_pin_ttl = true, .soft_pin_ttl_ms = 1},
        {.soft_pin_action = 1, .has_soft_pin_ttl = true, .soft_pin_ttl_ms = 86400001},
        {.preferred = many, .preferred_count = 200},
        {.data_type = 256},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        assert_int_equal(rpc_put_one(&f->writer, "k", 10, &bad[i], &put), MCS_ERR_INVALID_PARAMS);
    }
    assert_int_equal(rpc_put_one(&f->writer, "k", 0, NULL, &put), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_put_one(&f->writer, "k", UINT64_MAX, NULL, &put), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(world_totals(&f->world).allocated_bytes, 0);
    /* Garbage ends the connection and nothing else. */
    const char *empty = "";
    uint64_t size = 10;
    assert_int_equal(rpc_put_start(&f->writer, &empty, &size, 1, NULL, &put), MCS_ERR_RPC_FAIL);
    rpc_client_drop_call(&f->writer);
    assert_int_equal(rpc_store(&f->writer, "k", 10, NULL), MCS_OK);
}

static void replicas_lie_on_distinct_names(void **state)
{
    fixture_t *f = *state;
    rpc_mount(&f->owner, "host-a:1", SEGMENT); /* the same place once more */
    rpc_mount(&f->writer, "host-b:1", SEGMENT);
    for (int i = 0; i < 20; i++) {
        char key[16];
        rpc_put_t put;
        rpc_put_options_t options = {.replica_num = 3};
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_put_one(&f->writer, key, 100, &options, &put), MCS_OK);
        assert_int_equal(put.replicas, 2); /* best effort: there are two names */
        const svc_segment_t *a = svc_segment_at(f->world.service, put.replica[0].segment);
        const svc_segment_t *b = svc_segment_at(f->world.service, put.replica[1].segment);
        assert_string_not_equal(a->name, b->name);
        assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    }
    assert_int_equal(mcs_metric_get(&f->world.metrics, put_start_partial_allocations), 20);
}

static void preferred_segments_come_first_and_excluded_ones_never(void **state)
{
    fixture_t *f = *state;
    uint32_t other;
    assert_int_equal(rpc_try_mount(&f->writer, "host-b:1", SEGMENT, mcs_id_random(), &other, NULL), MCS_OK);
    const char *preferred[] = {"nowhere:1", "host-b:1", "host-a:1"};
    for (int i = 0; i < 20; i++) {
        char key[16];
        rpc_put_t put;
        snprintf(key, sizeof(key), "k%d", i);
        rpc_put_options_t options = {.preferred = preferred, .preferred_count = 3};
        assert_int_equal(rpc_put_one(&f->owner, key, 100, &options, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, other);
        snprintf(key, sizeof(key), "e%d", i);
        options.excluded = &other;
        options.excluded_count = 1;
        assert_int_equal(rpc_put_one(&f->owner, key, 100, &options, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, f->handle);
        snprintf(key, sizeof(key), "h%d", i);
        rpc_put_options_t same_node = {.same_node = true, .host_id = "host-b"};
        assert_int_equal(rpc_put_one(&f->owner, key, 100, &same_node, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, other);
    }
    uint32_t both[] = {other, f->handle};
    rpc_put_options_t options = {.excluded = both, .excluded_count = 2};
    assert_int_equal(rpc_put_one(&f->owner, "none", 100, &options, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
}

static void local_first_takes_the_senders_own_segment(void **state)
{
    fixture_t *f = *state;
    uint32_t own;
    assert_int_equal(rpc_try_mount(&f->writer, "host-b:1", SEGMENT, mcs_id_random(), &own, NULL), MCS_OK);
    mcs_free(f->world.conf.allocation_strategy);
    f->world.conf.allocation_strategy = mcs_strdup("local_first");
    for (int i = 0; i < 20; i++) {
        char key[16];
        rpc_put_t put;
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_put_one(&f->writer, key, 100, NULL, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, own);
    }
}

static void free_ratio_first_levels_the_segments(void **state)
{
    fixture_t *f = *state;
    uint32_t other;
    assert_int_equal(rpc_try_mount(&f->writer, "host-b:1", SEGMENT, mcs_id_random(), &other, NULL), MCS_OK);
    mcs_free(f->world.conf.allocation_strategy);
    f->world.conf.allocation_strategy = mcs_strdup("free_ratio_first");
    uint32_t on_other = 0;
    for (int i = 0; i < 100; i++) {
        char key[16];
        rpc_put_t put;
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_put_one(&f->writer, key, 4096, NULL, &put), MCS_OK);
        on_other += put.replica[0].segment == other;
    }
    assert_in_range(on_other, 45, 55);
}

static void a_put_that_can_never_fit_fails_at_once(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "big", 2 * SEGMENT, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_metric_get(&f->world.metrics, puts_waited), 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, put_start_alloc_failures), 1);
}

static void a_full_store_refuses_a_put_at_once_when_it_is_not_to_wait(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "a", SEGMENT - 4096, NULL, &put),
                     MCS_OK); /* open: nothing can be evicted */
    uint64_t before = mcs_now_ns();
    f->world.conf.eviction_wait_ms = 0;
    assert_int_equal(rpc_put_one(&f->writer, "b", 8192, NULL, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_metric_get(&f->world.metrics, puts_waited), 0);
    assert_int_equal(mcs_now_ns(), before);
}

static void a_waiting_put_is_refused_at_its_deadline(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "a", SEGMENT - 4096, NULL, &put), MCS_OK);
    f->writer.idle = world_passing;
    uint64_t before = mcs_now_ns();
    const char *keys[] = {"small", "b"};
    uint64_t sizes[] = {1000, 8192};
    rpc_put_t puts[2];
    assert_int_equal(rpc_put_start(&f->writer, keys, sizes, 2, NULL, puts), MCS_OK);
    assert_int_equal(puts[0].status, MCS_OK); /* what fits is not held up in vain */
    assert_int_equal(puts[1].status, MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_true(mcs_now_ns() - before >= 50 * MCS_NS_PER_MS);
    assert_true(mcs_now_ns() - before < 500 * MCS_NS_PER_MS);
    assert_int_equal(mcs_metric_get(&f->world.metrics, puts_waited), 1);
}

static void a_waiting_put_gets_the_space_that_comes_back(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->owner, "a", SEGMENT - 4096, NULL), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "b", 8192, NULL, &put), MCS_OK); /* "a" is evicted for it */
    assert_int_equal(rpc_exist(&f->owner, "a"), 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, puts_waited), 1);
    assert_int_equal(settle(f), mcs_extent_len(8192));
}

static void the_index_takes_no_more_than_max_objects(void **state)
{
    fixture_t *f = *state;
    f->world.service->index.max_objects = 3;
    for (int i = 0; i < 3; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->writer, key, 10, NULL), MCS_OK);
    }
    uint64_t used = world_totals(&f->world).allocated_bytes;
    assert_int_equal(rpc_store(&f->writer, "k3", 10, NULL), MCS_ERR_LIMIT);
    assert_int_equal(world_totals(&f->world).allocated_bytes, used);
    assert_int_equal(rpc_remove(&f->writer, "k0", false), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "k3", 10, NULL), MCS_OK);
}

static void a_put_needs_a_segment(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_unmount(&f->owner, f->instance), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "k", 10, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
}

/* ---- put_wait ---- */

static uint64_t send_wait(rpc_client_t *client, const char *key, uint32_t timeout_ms)
{
    Mcs__Wire__PutWait request = MCS__WIRE__PUT_WAIT__INIT;
    request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    request.timeout_ms = timeout_ms;
    if (client->call.fd < 0) {
        assert_int_equal(rpc_client_join(client), MCS_OK);
    }
    return rpc_send(client, &client->call, MCS_VERB_PUT_WAIT, &request.base);
}

static void put_wait_tells_the_outcome_of_anothers_put(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_wait(&f->owner, "k", 1000), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_put_one(&f->writer, "k", 10, NULL, &put), MCS_OK);
    uint64_t id = send_wait(&f->owner, "k", 60000);
    world_tick(&f->world);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_wait(&f->owner, &f->owner.call, id, NULL, NULL), MCS_OK);
    assert_int_equal(rpc_put_wait(&f->owner, "k", 1000), MCS_OK);

    assert_int_equal(rpc_put_one(&f->writer, "l", 10, NULL, &put), MCS_OK);
    id = send_wait(&f->owner, "l", 60000);
    world_tick(&f->world);
    assert_int_equal(rpc_revoke_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_wait(&f->owner, &f->owner.call, id, NULL, NULL), MCS_ERR_OBJECT_NOT_FOUND);

    assert_int_equal(rpc_put_one(&f->writer, "m", 10, NULL, &put), MCS_OK);
    f->owner.idle = world_passing;
    assert_int_equal(rpc_put_wait(&f->owner, "m", 30), MCS_ERR_PUT_IN_PROGRESS);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
}

/* ---- upsert ---- */

static const rpc_put_options_t upsert = {.upsert = true};

static void an_upsert_of_a_missing_key_is_a_put(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, &upsert), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(world_totals(&f->world).objects, 1);
}

static void an_upsert_pre_empts_an_open_put_at_once(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_store(&f->owner, "k", 200, &upsert), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_ERR_INVALID_WRITE);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 200);
    assert_int_equal(settle(f), mcs_extent_len(200));
}

static void an_upsert_swaps_at_its_commit_and_gives_the_old_extents_back(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    rpc_object_t object;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 300, &upsert, &put), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100); /* the old value until then */
    assert_int_equal(rpc_put_one(&f->writer, "k", 10, NULL, NULL), MCS_ERR_OBJECT_ALREADY_EXISTS);
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 300);
    assert_int_equal(object.replica[0].generation, put.put_id);
    world_pass(&f->world, 100);
    assert_int_equal(settle(f), mcs_extent_len(300));
    assert_int_equal(world_totals(&f->world).objects, 1);
}

/* A reader's lease is the key's; the values that come after the one he looked up were given to nobody. */
static void values_that_nobody_looked_up_keep_no_space_till_the_lease_ends(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    for (uint64_t size = 200; size <= 1000; size += 200) {
        assert_int_equal(rpc_store(&f->writer, "k", size, &upsert), MCS_OK);
    }
    assert_int_equal(settle(f), mcs_extent_len(1000)); /* no time has passed */
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
}

static void a_revoked_upsert_leaves_the_old_value(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 300, &upsert, &put), MCS_OK);
    assert_int_equal(rpc_revoke_one(&f->owner, put.put_id), MCS_OK);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100);
    assert_int_equal(settle(f), mcs_extent_len(100));
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
}

/* Upserts the cached "k" of 100 bytes to 300; its owner has been asked to strike it, and put_end is parked. Its id. */
static uint64_t upsert_cached(fixture_t *f, uint64_t *old_out)
{
    rpc_put_t put;
    rpc_object_t object;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK); /* may be cached for half a lease */
    assert_int_equal(rpc_put_one(&f->owner, "k", 300, &upsert, &put), MCS_OK);
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    sequence.seq = sequence.ack = ++f->owner.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(put.put_id), (uint8_t *)&put.put_id};
    uint64_t id = rpc_send(&f->owner, &f->owner.call, MCS_VERB_PUT_END, &end.base);
    while (f->owner.releases == 0) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    mcs_col_release_t asked;
    memcpy(&asked, f->owner.kept_releases.bytes, sizeof(asked));
    assert_int_equal(asked.generation, object.replica[0].generation);
    assert_int_equal(asked.flags, MCS_RELEASE_STRIKE);
    *old_out = asked.generation;
    return id;
}

static void await_end(fixture_t *f, uint64_t id)
{
    ProtobufCMessage *message;
    assert_int_equal(rpc_wait(&f->owner, &f->owner.call, id, &mcs__wire__status_column__descriptor, &message), MCS_OK);
    int32_t status;
    memcpy(&status, ((Mcs__Wire__StatusColumn *)message)->statuses.data, sizeof(status));
    assert_int_equal(status, MCS_OK);
    protobuf_c_message_free_unpacked(message, NULL);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 300);
}

static void an_upsert_of_a_cached_value_waits_for_its_owner_to_strike_it(void **state)
{
    fixture_t *f = *state;
    uint64_t old;
    uint64_t id = upsert_cached(f, &old);
    /* Not answered: readers still get the old value, and no longer than its owner is waited for. */
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100);
    assert_true(object.lease_ms <= f->world.conf.default_kv_lease_ttl);
    assert_int_equal(rpc_put_one(&f->writer, "k", 10, &upsert, NULL), MCS_ERR_PUT_IN_PROGRESS);
    rpc_answer_releases(&f->owner);
    await_end(f, id);
    assert_int_equal(settle(f), mcs_extent_len(300));
}

static void a_struck_extent_that_is_still_held_keeps_nobody_waiting(void **state)
{
    fixture_t *f = *state;
    uint64_t old;
    uint64_t id = upsert_cached(f, &old);
    const uint64_t strangers[] = {old + 1, 0, old};
    rpc_say_struck(&f->writer, &old, 1); /* not its owner: means nothing */
    rpc_say_struck(&f->owner, strangers, 2);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100);
    rpc_say_struck(&f->owner, strangers, 3);
    await_end(f, id);
    /* Its space is another matter. */
    assert_int_equal(world_totals(&f->world).allocated_bytes, mcs_extent_len(100) + mcs_extent_len(300));
    rpc_say_struck(&f->owner, &old, 1); /* a repeat */
    rpc_answer_releases(&f->owner);
    assert_int_equal(settle(f), mcs_extent_len(300));
}

static void a_strike_without_an_answer_ends_half_a_lease_after_the_last_grant(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    rpc_object_t object;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    uint64_t granted = mcs_now_ns();
    assert_int_equal(rpc_put_one(&f->owner, "k", 300, &upsert, &put), MCS_OK);
    world_pass(&f->world, 1000);
    f->owner.idle = world_passing;
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_OK);
    uint64_t waited_ms = (mcs_now_ns() - granted) / MCS_NS_PER_MS;
    assert_in_range(waited_ms, 5000, 5100);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 300);
    /* The old extent is in quarantine until its owner answers. */
    assert_int_equal(world_totals(&f->world).allocated_bytes, mcs_extent_len(100) + mcs_extent_len(300));
    f->owner.auto_release = true;
    rpc_answer_releases(&f->owner);
    assert_int_equal(settle(f), mcs_extent_len(300));
}

static void a_lookup_during_a_strike_gets_a_lease_that_is_over_before_the_swap(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    rpc_object_t object;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 300, &upsert, &put), MCS_OK);
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    sequence.seq = sequence.ack = ++f->owner.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(put.put_id), (uint8_t *)&put.put_id};
    uint64_t id = rpc_send(&f->owner, &f->owner.call, MCS_VERB_PUT_END, &end.base);
    while (f->owner.releases == 0) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    world_pass(&f->world, 4000); /* of 5000 */
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 100);
    assert_in_range(object.lease_ms, 1, 2000); /* used for half of it at most */
    f->owner.idle = world_passing;
    assert_int_equal(rpc_wait(&f->owner, &f->owner.call, id, NULL, NULL), MCS_OK);
}

static void upserts_keep_pins_and_do_not_change_groups(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t pinned = {.hard_pin = true, .soft_pin_action = 1, .group = "g"};
    rpc_put_options_t same_group = {.upsert = true, .group = "g"};
    rpc_put_options_t other_group = {.upsert = true, .group = "h"};
    assert_int_equal(rpc_store(&f->writer, "k", 100, &pinned), MCS_OK);
    assert_int_equal(world_totals(&f->world).soft_pinned, 1);
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, &other_group, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_store(&f->writer, "k", 200, &same_group), MCS_OK);
    assert_int_equal(world_totals(&f->world).soft_pinned, 1);
    uint64_t hash = svc_index_hash(&f->world.service->index, "k", 1);
    svc_shard_t *shard = svc_index_shard(&f->world.service->index, hash);
    mcs_mutex_lock(&shard->lock);
    const svc_record_t *record =
        svc_record(&f->world.service->index, svc_shard_find_locked(&f->world.service->index, shard, hash, "k", 1));
    unsigned flags = record->flags;
    mcs_mutex_unlock(&shard->lock);
    assert_true((flags & SVC_REC_HARD) != 0);
    rpc_put_options_t unpin = {.upsert = true, .soft_pin_action = 2, .group = "g"};
    assert_int_equal(rpc_store(&f->writer, "k", 200, &unpin), MCS_OK);
    assert_int_equal(world_totals(&f->world).soft_pinned, 0);
}

/* ---- ends of sessions ---- */

static void the_end_of_a_session_revokes_its_puts_and_owners_hear_of_it_first(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, NULL, &put), MCS_OK);
    mcs_id_t session = f->writer.session;
    f->owner.auto_release = false;
    assert_int_equal(rpc_goodbye(&f->writer), MCS_OK);
    for (int i = 0; i < 1000 && f->owner.releases == 0; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(f->owner.releases, 1);
    assert_int_equal(f->owner.may_write, 0);
    assert_int_equal(f->owner.ended.len, sizeof(mcs_id_t));
    assert_memory_equal(f->owner.ended.bytes, &session, sizeof(session));
    assert_int_equal(rpc_exist(&f->owner, "k"), 0);
    assert_int_equal(world_totals(&f->world).reservations, 0);
    rpc_answer_releases(&f->owner);
    rpc_client_t *clients[] = {&f->owner};
    assert_int_equal(world_settle(&f->world, clients, 1), 0);
}

static void a_put_whose_segment_went_away_does_not_commit(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_unmount(&f->owner, f->instance), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(world_totals(&f->world).reservations, 0);
}

static void a_put_that_lost_one_of_its_segments_commits_with_the_rest(void **state)
{
    fixture_t *f = *state;
    rpc_mount(&f->writer, "host-b:1", SEGMENT);
    rpc_put_options_t two = {.replica_num = 2};
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, &two, &put), MCS_OK);
    assert_int_equal(put.replicas, 2);
    assert_int_equal(rpc_unmount(&f->owner, f->instance), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 1);
    world_pass(&f->world, 11000);
}

static void a_repeat_of_a_waiting_put_end_takes_its_place(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_OK);
    assert_int_equal(rpc_put_one(&f->writer, "k", 300, &upsert, &put), MCS_OK);
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    sequence.seq = sequence.ack = ++f->writer.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(put.put_id), (uint8_t *)&put.put_id};
    rpc_send(&f->writer, &f->writer.call, MCS_VERB_PUT_END, &end.base);
    while (f->owner.releases == 0) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(rpc_client_join(&f->writer), MCS_OK); /* the connection was lost */
    uint64_t id = rpc_send(&f->writer, &f->writer.call, MCS_VERB_PUT_END, &end.base);
    while (mcs_metric_get(&f->world.metrics, rpc_replays) == 0) {
        world_tick(&f->world);
    }
    rpc_answer_releases(&f->owner);
    assert_int_equal(rpc_wait(&f->writer, &f->writer.call, id, NULL, NULL), MCS_OK);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 300);
}

static void batches_of_4096_keys_work_and_larger_ones_are_garbage(void **state)
{
    fixture_t *f = *state;
    enum { N = MCS_BATCH_KEYS + 1 };
    rpc_mount(&f->owner, "host-a:2", 64 * SEGMENT);
    char(*text)[16] = mcs_calloc(N, sizeof(*text));
    const char **keys = mcs_calloc(N, sizeof(*keys));
    uint64_t *sizes = mcs_calloc(N, sizeof(*sizes));
    rpc_put_t *puts = mcs_calloc(N, sizeof(*puts));
    uint64_t *ids = mcs_calloc(N, sizeof(*ids));
    int32_t *statuses = mcs_calloc(N, sizeof(*statuses));
    for (size_t i = 0; i < N; i++) {
        snprintf(text[i], sizeof(*text), "key-%zu", i);
        keys[i] = text[i];
        sizes[i] = i + 1;
    }
    assert_int_equal(rpc_put_start(&f->writer, keys, sizes, MCS_BATCH_KEYS, NULL, puts), MCS_OK);
    for (size_t i = 0; i < MCS_BATCH_KEYS; i++) {
        assert_int_equal(puts[i].status, MCS_OK);
        assert_int_equal(puts[i].replica[0].generation, puts[i].put_id);
        ids[i] = puts[i].put_id;
    }
    assert_int_equal(rpc_put_end(&f->writer, ids, MCS_BATCH_KEYS, statuses), MCS_OK);
    for (size_t i = 0; i < MCS_BATCH_KEYS; i += 97) {
        rpc_object_t object;
        assert_int_equal(statuses[i], MCS_OK);
        assert_int_equal(rpc_lookup(&f->writer, keys[i], true, &object), MCS_OK);
        assert_int_equal(object.object.payload_len, i + 1);
    }
    assert_int_equal(world_totals(&f->world).objects, MCS_BATCH_KEYS);
    assert_int_equal(rpc_put_start(&f->writer, keys, sizes, N, NULL, puts), MCS_ERR_RPC_FAIL);
    rpc_client_drop_call(&f->writer);
    assert_int_equal(rpc_put_start(&f->writer, keys, sizes, 0, NULL, puts), MCS_OK);
    mcs_free(text);
    mcs_free(keys);
    mcs_free(sizes);
    mcs_free(puts);
    mcs_free(ids);
    mcs_free(statuses);
}

static void hostile_payloads_cost_one_connection_each(void **state)
{
    fixture_t *f = *state;
    static const mcs_verb_t verbs[] = {
#define MCS_VERB_ROW(symbol, number, text, flags) symbol,
#include "core/wire/verbs.def"
#undef MCS_VERB_ROW
    };
    uint64_t seed = 5;
    for (int round = 0; round < 600; round++) {
        uint8_t bytes[MCS_FRAME_HEADER + 200];
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint32_t len = (uint32_t)(seed >> 33) % 200;
        for (uint32_t i = 0; i < len; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            /* Mostly small numbers: field tags and short lengths get further than noise. */
            bytes[MCS_FRAME_HEADER + i] = (uint8_t)((seed >> 40) % 3 == 0 ? seed >> 48 : (seed >> 50) % 40);
        }
        mcs_verb_t verb = verbs[(size_t)(seed >> 35) % MCS_ARRAY_LEN(verbs)];
        if (verb == MCS_VERB_GOODBYE) {
            continue;
        }
        mcs_frame_header_t header = {
            .kind = MCS_FRAME_REQUEST, .verb = (uint16_t)verb, .length = len, .id = 77, .epoch = f->writer.epoch};
        mcs_frame_encode(&header, bytes);
        if (f->writer.call.fd < 0) {
            assert_int_equal(rpc_client_join(&f->writer), MCS_OK);
        }
        bool sent = send(f->writer.call.fd, bytes, MCS_FRAME_HEADER + len, MSG_NOSIGNAL) > 0;
        if (!sent || round % 10 == 9) { /* closed for the last one, or time for a fresh start */
            rpc_client_drop_call(&f->writer);
            world_tick(&f->world);
        }
    }
    rpc_client_drop_call(&f->writer);
    assert_int_equal(rpc_store(&f->owner, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_put_is_readable_after_its_end_and_not_before, setup, teardown),
        cmocka_unit_test_setup_teardown(rights_are_macs_for_the_session_that_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(a_repeat_of_a_sequence_is_answered_from_its_outcome, setup, teardown),
        cmocka_unit_test_setup_teardown(put_end_is_idempotent_by_generation, setup, teardown),
        cmocka_unit_test_setup_teardown(revoked_space_comes_back_by_its_owners_answer_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_to_what_was_not_asked_frees_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_put_learns_that_the_key_exists_or_is_being_put, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_open_put_is_pre_empted_and_its_writer_fenced, setup, teardown),
        cmocka_unit_test_setup_teardown(an_open_put_ends_at_its_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(the_same_key_twice_in_a_batch_counts_once, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_requests_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(replicas_lie_on_distinct_names, setup, teardown),
        cmocka_unit_test_setup_teardown(preferred_segments_come_first_and_excluded_ones_never, setup, teardown),
        cmocka_unit_test_setup_teardown(local_first_takes_the_senders_own_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(free_ratio_first_levels_the_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(a_put_that_can_never_fit_fails_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_store_refuses_a_put_at_once_when_it_is_not_to_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(a_waiting_put_is_refused_at_its_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(a_waiting_put_gets_the_space_that_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(the_index_takes_no_more_than_max_objects, setup, teardown),
        cmocka_unit_test_setup_teardown(a_put_needs_a_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(put_wait_tells_the_outcome_of_anothers_put, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upsert_of_a_missing_key_is_a_put, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upsert_pre_empts_an_open_put_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upsert_swaps_at_its_commit_and_gives_the_old_extents_back, setup, teardown),
        cmocka_unit_test_setup_teardown(values_that_nobody_looked_up_keep_no_space_till_the_lease_ends, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_revoked_upsert_leaves_the_old_value, setup, teardown),
        cmocka_unit_test_setup_teardown(an_upsert_of_a_cached_value_waits_for_its_owner_to_strike_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_struck_extent_that_is_still_held_keeps_nobody_waiting, setup, teardown),
        cmocka_unit_test_setup_teardown(a_strike_without_an_answer_ends_half_a_lease_after_the_last_grant, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_lookup_during_a_strike_gets_a_lease_that_is_over_before_the_swap, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(upserts_keep_pins_and_do_not_change_groups, setup, teardown),
        cmocka_unit_test_setup_teardown(the_end_of_a_session_revokes_its_puts_and_owners_hear_of_it_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_put_whose_segment_went_away_does_not_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_put_that_lost_one_of_its_segments_commits_with_the_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(a_repeat_of_a_waiting_put_end_takes_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(batches_of_4096_keys_work_and_larger_ones_are_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_payloads_cost_one_connection_each, setup, teardown),
    };
    return cmocka_run_group_tests_name("svc_put", tests, NULL, NULL);
}
