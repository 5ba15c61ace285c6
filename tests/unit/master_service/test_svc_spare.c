/* Spares: reservations ahead of their key, put_now, and how they go when nobody uses them. */
#include "tests/unit/master_service/fixture.h"

#define SIZE 1000

/* A put of `key` whose end brings a spare. */
static rpc_put_t first_spare(fixture_t *f, const char *key)
{
    rpc_put_t put;
    rpc_put_t spare;
    assert_int_equal(rpc_put_one(&f->writer, key, SIZE, NULL, &put), MCS_OK);
    assert_int_equal(rpc_end_for_spare(&f->writer, put.put_id, SIZE, &spare), MCS_OK);
    assert_int_equal(spare.replicas, 1);
    return spare;
}

static void a_put_on_a_spare_is_one_request(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    rpc_put_t next;
    assert_int_equal(spare.replica[0].generation, spare.put_id);
    assert_int_equal(spare.replica[0].mac, mcs_cap_mac(&f->key, f->writer.session, f->instance, spare.replica[0].offset,
                                                       SIZE, spare.put_id, MCS_CAP_WRITE));
    assert_int_equal(world_totals(&f->world).spares, 1);
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, 0, SIZE, &next), MCS_OK);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->owner, "b", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, SIZE);
    assert_int_equal(object.replica[0].generation, spare.put_id);
    assert_int_equal(object.replica[0].offset, spare.replica[0].offset);
    assert_int_equal(next.replicas, 1);
    assert_int_not_equal(next.put_id, spare.put_id);
    assert_int_equal(world_totals(&f->world).objects, 2);
    assert_int_equal(world_totals(&f->world).allocated_bytes, 3 * mcs_extent_len(SIZE));
    assert_int_equal(world_totals(&f->world).spare_bytes, mcs_extent_len(SIZE));
    assert_int_equal(world_walk_bytes(&f->world), 3 * mcs_extent_len(SIZE));
    assert_int_equal(mcs_metric_get(&f->world.metrics, puts_on_spares), 1);
    assert_int_equal(rpc_remove(&f->owner, "b", true), MCS_OK);
}

static void nothing_is_offered_unasked_or_for_a_batch(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put[2];
    rpc_put_t spare;
    assert_int_equal(rpc_put_one(&f->writer, "a", SIZE, NULL, &put[0]), MCS_OK);
    assert_int_equal(rpc_end_for_spare(&f->writer, put[0].put_id, 0, &spare), MCS_OK);
    assert_int_equal(spare.replicas, 0);
    assert_int_equal(rpc_put_one(&f->writer, "b", SIZE, NULL, &put[0]), MCS_OK);
    assert_int_equal(rpc_end_for_spare(&f->writer, put[0].put_id, UINT64_MAX, &spare), MCS_OK);
    assert_int_equal(spare.replicas, 0);
    /* More than its part of the segment. */
    assert_int_equal(rpc_put_one(&f->writer, "c", SIZE, NULL, &put[0]), MCS_OK);
    assert_int_equal(rpc_end_for_spare(&f->writer, put[0].put_id, SEGMENT / 32, &spare), MCS_OK);
    assert_int_equal(spare.replicas, 0);
    /* A commit that failed brings none. */
    assert_int_equal(rpc_end_for_spare(&f->writer, put[0].put_id + SVC_SHARDS, SIZE, &spare), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(spare.replicas, 0);
    assert_int_equal(world_totals(&f->world).allocated_bytes, 3 * mcs_extent_len(SIZE));
}

static void a_session_has_so_many_and_no_more(void **state)
{
    fixture_t *f = *state;
    char key[8];
    for (int i = 0; i < 12; i++) {
        rpc_put_t put;
        rpc_put_t spare;
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_put_one(&f->writer, key, SIZE, NULL, &put), MCS_OK);
        assert_int_equal(rpc_end_for_spare(&f->writer, put.put_id, SIZE, &spare), MCS_OK);
        assert_int_equal(spare.replicas, i < (int)SVC_SPARES_MAX);
    }
    assert_int_equal(world_totals(&f->world).spares, SVC_SPARES_MAX);
}

static void a_key_that_is_there_or_being_put_takes_none(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    rpc_put_t put;
    assert_int_equal(rpc_put_now(&f->writer, "a", spare.put_id, 0, SIZE, NULL), MCS_ERR_OBJECT_ALREADY_EXISTS);
    assert_int_equal(world_totals(&f->world).spares, 0);
    assert_int_equal(settle(f), mcs_extent_len(SIZE)); /* given back */
    spare = first_spare(f, "b");
    assert_int_equal(rpc_put_one(&f->owner, "c", SIZE, NULL, &put), MCS_OK);
    assert_int_equal(rpc_put_now(&f->writer, "c", spare.put_id, 0, 0, NULL), MCS_ERR_OBJECT_ALREADY_EXISTS);
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_OK);
    assert_int_equal(settle(f), 3 * mcs_extent_len(SIZE));
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->writer, "c", false, &object), MCS_OK);
    assert_int_equal(object.replica[0].generation, put.put_id);
}

static void it_is_its_sessions_alone_and_used_once(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    assert_int_equal(rpc_put_now(&f->owner, "b", spare.put_id, 0, 0, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_end_one(&f->writer, spare.put_id), MCS_ERR_OBJECT_NOT_FOUND); /* it has no key */
    assert_int_equal(rpc_revoke_one(&f->owner, spare.put_id), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, 0, 0, NULL), MCS_OK);
    assert_int_equal(rpc_put_now(&f->writer, "c", spare.put_id, 0, 0, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_exist(&f->writer, "c"), 0);
    assert_int_equal(rpc_put_now(&f->writer, "", spare.put_id, 0, 0, NULL), MCS_ERR_INVALID_PARAMS);
    rpc_put_t open;
    assert_int_equal(rpc_put_one(&f->writer, "d", SIZE, NULL, &open), MCS_OK);
    assert_int_equal(rpc_put_now(&f->writer, "e", open.put_id, 0, 0, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_end_one(&f->writer, open.put_id), MCS_OK);
}

static void a_repeat_is_answered_and_not_done_again(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    rpc_put_t next[2];
    uint64_t seq = f->writer.seq + 10;
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, seq, SIZE, &next[0]), MCS_OK);
    rpc_client_drop_call(&f->writer);
    f->writer.seq = seq - 5;
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, seq, SIZE, &next[1]), MCS_OK);
    assert_int_equal(next[0].put_id, next[1].put_id);
    assert_int_equal(world_totals(&f->world).spares, 1);
}

static void its_writer_gives_it_up(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    assert_int_equal(rpc_revoke_one(&f->writer, spare.put_id), MCS_OK);
    assert_int_equal(world_totals(&f->world).spares, 0);
    assert_int_equal(settle(f), mcs_extent_len(SIZE));
    assert_int_equal(f->owner.may_write, 0);
}

static bool is_revoked(void *arg)
{
    fixture_t *f = arg;
    rpc_pump(&f->owner, 0);
    rpc_pump(&f->writer, 0);
    return f->writer.revoked.len > 0 && f->owner.may_write > 0;
}

static void one_that_is_not_used_is_revoked_after_a_second(void **state)
{
    fixture_t *f = *state;
    f->writer.auto_ack = false;
    rpc_put_t spare = first_spare(f, "a");
    world_pass(&f->world, 800);
    assert_int_equal(world_totals(&f->world).spares, 1);
    world_pass(&f->world, 500);
    assert_int_equal(world_totals(&f->world).spares, 0);
    assert_true(world_until(&f->world, is_revoked, f));
    assert_int_equal(mcs_load_u64(f->writer.revoked.bytes), spare.put_id);
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, 0, 0, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(f->owner.may_write, 1); /* fenced: its writer has not said that it stopped */
    rpc_ack(&f->writer, &spare.put_id, 1);
    assert_int_equal(settle(f), mcs_extent_len(SIZE));
    assert_int_equal(mcs_metric_get(&f->world.metrics, discarded_puts), 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, spares_unused), 1);
}

static void they_go_when_somebody_lacks_space(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t pinned = {.hard_pin = true};
    f->world.conf.eviction_high_watermark_ratio = 1; /* or there is room before anybody lacks it */
    first_spare(f, "a");
    first_spare(f, "b");
    assert_int_equal(world_totals(&f->world).spares, 2);
    /* What is free without the spares is not enough. */
    uint64_t free_bytes = SEGMENT - world_totals(&f->world).allocated_bytes;
    assert_int_equal(rpc_store(&f->owner, "large", free_bytes - 200, &pinned), MCS_OK);
    assert_int_equal(rpc_store(&f->owner, "more", SIZE, NULL), MCS_OK);
    world_pass(&f->world, 200); /* less than a spare's time */
    assert_int_equal(world_totals(&f->world).spares, 0);
    rpc_put_t put;
    rpc_put_t spare;
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
    world_pass(&f->world, 100);
    assert_int_equal(rpc_remove(&f->owner, "large", true), MCS_OK);
    settle(f);
    assert_int_equal(rpc_put_one(&f->writer, "c", SIZE, NULL, &put), MCS_OK);
    assert_int_equal(rpc_end_for_spare(&f->writer, put.put_id, SIZE, &spare), MCS_OK);
    assert_int_equal(spare.replicas, 1); /* there is room again */
}

static void they_end_with_their_session(void **state)
{
    fixture_t *f = *state;
    first_spare(f, "a");
    assert_int_equal(rpc_goodbye(&f->writer), MCS_OK);
    for (int i = 0; i < 100; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(world_totals(&f->world).spares, 0);
    rpc_client_t *clients[] = {&f->owner};
    assert_int_equal(world_settle(&f->world, clients, 1), mcs_extent_len(SIZE));
}

static void nothing_is_put_on_one_whose_owner_is_lost(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    f->world.peer = NULL;
    rpc_client_drop_control(&f->owner);
    rpc_client_drop_call(&f->owner);
    while (world_totals(&f->world).suspect_segments == 0) {
        world_tick(&f->world);
    }
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, 0, 0, NULL), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(rpc_exist(&f->writer, "b"), 0);
    assert_int_equal(world_totals(&f->world).spares, 0);
}

static void an_unmounted_segments_spare_is_of_no_use(void **state)
{
    fixture_t *f = *state;
    rpc_put_t spare = first_spare(f, "a");
    assert_int_equal(rpc_unmount(&f->owner, f->instance), MCS_OK);
    assert_int_equal(rpc_put_now(&f->writer, "b", spare.put_id, 0, 0, NULL), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(rpc_exist(&f->writer, "b"), 0);
}

static mcs_status_t torture_step(void *arg)
{
    fixture_t *f = arg;
    rpc_put_t put;
    rpc_put_t spare;
    static uint32_t n;
    char key[16];
    snprintf(key, sizeof(key), "t%u", n++);
    int32_t status = rpc_put_one(&f->writer, key, SIZE, NULL, &put);
    status = status == MCS_OK ? rpc_end_for_spare(&f->writer, put.put_id, SIZE, &spare) : status;
    if (status == MCS_OK && spare.replicas == 1) {
        snprintf(key, sizeof(key), "t%u", n++);
        status = rpc_put_now(&f->writer, key, spare.put_id, 0, 0, NULL);
        assert_int_equal(rpc_exist(&f->owner, key), status == MCS_OK ? 1 : 0);
    }
    return (mcs_status_t)status;
}

static void short_memory_loses_no_extent(void **state)
{
    fixture_t *f = *state;
    for (int i = 0; i < 40; i++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, (uint64_t)i + 1);
        (void)torture_step(f);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    }
    world_pass(&f->world, 2000);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_put_on_a_spare_is_one_request),
        TEST(nothing_is_offered_unasked_or_for_a_batch),
        TEST(a_session_has_so_many_and_no_more),
        TEST(a_key_that_is_there_or_being_put_takes_none),
        TEST(it_is_its_sessions_alone_and_used_once),
        TEST(a_repeat_is_answered_and_not_done_again),
        TEST(its_writer_gives_it_up),
        TEST(one_that_is_not_used_is_revoked_after_a_second),
        TEST(they_go_when_somebody_lacks_space),
        TEST(they_end_with_their_session),
        TEST(nothing_is_put_on_one_whose_owner_is_lost),
        TEST(an_unmounted_segments_spare_is_of_no_use),
        TEST(short_memory_loses_no_extent),
    };
    return cmocka_run_group_tests_name("svc_spare", tests, NULL, NULL);
}
