/* Hello, liveness, suspicion, the end of sessions. */
#include <poll.h>
#include <stdlib.h>

#include "tests/unit/master_service/fixture.h"

#include "core/base/alloc.h"

static void a_hello_opens_resumes_and_joins_sessions(void **state)
{
    fixture_t *f = *state;
    rpc_client_t client;
    world_client(&f->world, &client, "host-c:1");
    assert_false(client.resumed);
    mcs_id_t session = client.session;
    assert_int_equal(rpc_client_join(&client), MCS_OK);
    assert_true(mcs_id_equal(session, client.session));
    rpc_client_drop_control(&client);
    assert_int_equal(rpc_client_open(&client), MCS_OK);
    assert_true(client.resumed);
    assert_true(mcs_id_equal(session, client.session));
    assert_int_equal(world_totals(&f->world).clients, 3);
    /* Another client cannot take it. */
    mcs_id_t own = client.client;
    client.client = mcs_id_random();
    assert_int_equal(rpc_client_join(&client), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_client_open(&client), MCS_ERR_ILLEGAL_CLIENT);
    client.client = own;
    client.session = mcs_id_random();
    assert_int_equal(rpc_client_join(&client), MCS_ERR_SESSION_ENDED);
    assert_int_equal(rpc_client_open(&client), MCS_ERR_SESSION_ENDED);
    rpc_client_fini(&client);
}

static void another_data_plane_generation_is_refused_by_name(void **state)
{
    fixture_t *f = *state;
    rpc_client_t client;
    rpc_client_init(&client, world_path(&f->world), "host-c:1");
    client.wire = "ucx-b";
    assert_int_equal(rpc_client_open(&client), MCS_ERR_INVALID_VERSION);
    assert_non_null(strstr(client.detail, "ucx-a"));
    assert_non_null(strstr(client.detail, "ucx-b"));
    client.wire = ""; /* no data plane at all */
    assert_int_equal(rpc_client_open(&client), MCS_OK);
    /* When the last of the old generation has left, the new one may come. */
    assert_int_equal(rpc_goodbye(&f->owner), MCS_OK);
    assert_int_equal(rpc_goodbye(&f->writer), MCS_OK);
    client.session = (mcs_id_t){0, 0};
    client.wire = "ucx-b";
    assert_int_equal(rpc_client_open(&client), MCS_OK);
    rpc_client_fini(&client);
}

static void garbage_before_the_hello_closes_the_connection(void **state)
{
    fixture_t *f = *state;
    rpc_client_t client;
    rpc_client_init(&client, world_path(&f->world), "host-c:1");
    client.client = (mcs_id_t){0, 0};
    assert_int_equal(rpc_client_open(&client), MCS_ERR_RPC_FAIL);
    client.client = mcs_id_random();
    assert_int_equal(rpc_client_open(&client), MCS_OK);
    Mcs__Wire__Ping ping = MCS__WIRE__PING__INIT;
    assert_int_equal(rpc_call(&client, MCS_VERB_PING, &ping.base, NULL, NULL),
                     MCS_ERR_RPC_FAIL); /* not on a call connection */
    rpc_client_drop_call(&client);
    assert_int_equal(rpc_call(&client, (mcs_verb_t)77, &ping.base, NULL, NULL), MCS_ERR_NOT_SUPPORTED);
    client.epoch--;
    assert_int_equal(rpc_call(&client, MCS_VERB_LIST_SEGMENTS, &ping.base, NULL, NULL), MCS_ERR_SESSION_ENDED);
    client.epoch++;
    rpc_client_fini(&client);
}

/* ---- epochs ---- */

static int setup_alone(void **state)
{
    static fixture_t fixture;
    fixture_t *f = &fixture;
    world_init(&f->world, true);
    world_start(&f->world);
    rpc_client_init(&f->owner, world_path(&f->world), "host-a:1");
    rpc_client_init(&f->writer, world_path(&f->world), "host-b:1");
    *state = f;
    return 0;
}

/* Rule 12, for a master without a journal whose wall clock was put back. */
static void a_master_takes_a_later_epoch_than_its_first_client_has_seen(void **state)
{
    fixture_t *f = *state;
    uint64_t before = world_totals(&f->world).epoch;
    f->owner.epoch = before + 1000;
    f->owner.session = mcs_id_random(); /* of the master before */
    assert_int_equal(rpc_client_open(&f->owner), MCS_ERR_SESSION_ENDED);
    f->owner.session = (mcs_id_t){0, 0};
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_int_equal(f->owner.epoch, before + 1001);
    assert_int_equal(world_totals(&f->world).epoch, before + 1001);
    rpc_mount(&f->owner, "host-a:1", SEGMENT);
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->owner, "k", 100, NULL, &put), MCS_OK);
    assert_int_equal(mcs_generation_epoch(put.replica[0].generation), before + 1001);
}

static void a_hello_disturbs_nobody_whatever_epoch_it_names(void **state)
{
    fixture_t *f = *state;
    uint64_t before = world_totals(&f->world).epoch;
    f->owner.epoch = UINT64_MAX;
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_int_equal(f->owner.epoch, before); /* no epoch at all */
    f->writer.epoch = before + 1000;
    assert_int_equal(rpc_client_open(&f->writer), MCS_OK);
    assert_int_equal(f->writer.epoch, before); /* the owner has a session */
    rpc_mount(&f->owner, "host-a:1", SEGMENT);
    assert_int_equal(rpc_store(&f->owner, "k", 100, NULL), MCS_OK);
}

static void with_token(mcs_master_config_t *conf)
{
    mcs_free(conf->cluster_token);
    conf->cluster_token = mcs_strdup("secret");
}

static int setup_token(void **state)
{
    static fixture_t fixture;
    fixture_t *f = &fixture;
    world_init(&f->world, true);
    with_token(&f->world.conf);
    world_start(&f->world);
    rpc_client_init(&f->owner, world_path(&f->world), "host-a:1");
    rpc_client_init(&f->writer, world_path(&f->world), "host-b:1");
    *state = f;
    return 0;
}

static void a_token_is_asked_for_and_checked(void **state)
{
    fixture_t *f = *state;
    f->owner.token = "secret";
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_int_equal(rpc_client_join(&f->owner), MCS_OK);
    f->writer.token = "wrong";
    assert_int_equal(rpc_client_open(&f->writer), MCS_ERR_ILLEGAL_CLIENT);
    f->writer.token = "";
    assert_int_equal(rpc_client_open(&f->writer), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(world_totals(&f->world).clients, 1);
}

static void few_clients(mcs_master_config_t *conf)
{
    conf->max_clients = 2;
}

static int setup_few(void **state)
{
    return setup_with(state, few_clients);
}

static void sessions_are_bounded(void **state)
{
    fixture_t *f = *state;
    rpc_client_t client;
    rpc_client_init(&client, world_path(&f->world), "host-c:1");
    assert_int_equal(rpc_client_open(&client), MCS_ERR_LIMIT);
    assert_int_equal(rpc_goodbye(&f->writer), MCS_OK);
    assert_int_equal(rpc_client_open(&client), MCS_OK);
    rpc_client_fini(&client);
}

/* ---- liveness ---- */

static bool is_hidden(void *arg)
{
    fixture_t *f = arg;
    return rpc_exist(&f->writer, "k") == 0;
}

static void a_lost_owner_is_hidden_at_once_and_seen_again_when_steady(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    rpc_client_drop_control(&f->owner);
    assert_true(world_until(&f->world, is_hidden, f));
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_store(&f->writer, "new", 100, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(world_totals(&f->world).suspect_segments, 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, owners_suspected), 1);
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_true(f->owner.resumed);
    world_pass(&f->world, 900);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    world_pass(&f->world, 200);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(rpc_store(&f->writer, "new", 100, NULL), MCS_OK);
}

static void a_flapping_owner_stays_hidden(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(rpc_client_open(&f->owner), MCS_OK); /* takes the place of a connection not known to be lost */
        world_pass(&f->world, 700);
        assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    }
    world_pass(&f->world, 400);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
}

static void suspicion_hides_and_does_not_decide(void **state)
{
    fixture_t *f = *state;
    rpc_object_t object;
    assert_int_equal(rpc_store(&f->writer, "struck", 100, NULL), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "replaced", 100, NULL), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "kept", 100, NULL), MCS_OK);
    rpc_client_t other;
    world_client(&f->world, &other, "host-c:1");
    rpc_mount(&other, "host-c:1", SEGMENT);
    rpc_client_drop_control(&f->owner);
    for (int i = 0; i < 1000 && rpc_exist(&f->writer, "kept") != 0; i++) {
        poll(NULL, 0, 1);
    }
    assert_int_equal(rpc_exist(&f->writer, "kept"), 0);
    assert_int_equal(rpc_remove(&f->writer, "struck", false), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "struck", false), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_store(&f->writer, "replaced", 200, NULL), MCS_OK);
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    world_pass(&f->world, 1100);
    assert_int_equal(rpc_exist(&f->writer, "kept"), 1);
    assert_int_equal(rpc_exist(&f->writer, "struck"), 0); /* a struck replica never returns */
    assert_int_equal(rpc_lookup(&f->writer, "replaced", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 200);
    rpc_client_t *clients[] = {&f->owner, &f->writer, &other};
    assert_int_equal(world_settle(&f->world, clients, 3), mcs_extent_len(100) + mcs_extent_len(200));
    rpc_client_fini(&other);
}

static void a_silent_client_is_dropped_at_its_ttl(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    world_pass(&f->world, 9000);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    assert_int_equal(world_totals(&f->world).clients, 2);
    world_pass(&f->world, 1000);
    assert_int_equal(world_totals(&f->world).clients, 1);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(world_totals(&f->world).segments, 0);
    assert_int_equal(world_totals(&f->world).objects, 0);
    assert_int_equal(f->world.expired, 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, sessions_expired), 1);
    assert_int_equal(rpc_client_open(&f->owner), MCS_ERR_SESSION_ENDED);
    f->owner.session = (mcs_id_t){0, 0};
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_false(f->owner.resumed);
}

static void a_stalled_master_drops_nobody(void **state)
{
    fixture_t *f = *state;
    world_pass(&f->world, 1000);
    uint64_t stall = 3600 * MCS_NS_PER_SEC;
    world_stall(&f->world, stall);
    world_tick(&f->world);
    world_pass(&f->world, 5000);
    assert_int_equal(world_totals(&f->world).clients, 2);
    assert_int_equal(rpc_ping(&f->owner), MCS_OK);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    world_pass(&f->world, 9000);
    assert_int_equal(world_totals(&f->world).clients, 2);
    world_pass(&f->world, 2000);
    assert_int_equal(world_totals(&f->world).clients, 0);
}

/* Its connections may be served before housekeeping has noticed. */
static void what_is_heard_at_the_end_of_a_stall_is_not_of_the_future(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    world_pass(&f->world, 1000);
    f->owner.idle = f->writer.idle = NULL;
    world_stall(&f->world, 3600 * MCS_NS_PER_SEC);
    rpc_client_drop_control(&f->owner);
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    assert_int_equal(rpc_put_one(&f->writer, "open", 100, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    f->owner.idle = f->writer.idle = world_tick;
    world_tick(&f->world);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    world_pass(&f->world, 1100);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1); /* steady for a second, not for an hour and a second */
    world_pass(&f->world, 11000);
    assert_int_equal(world_totals(&f->world).clients, 0); /* and silent for their time */
}

static bool are_swept(void *arg)
{
    return world_totals(arg).objects == 0;
}

static void goodbye_unmounts_at_once(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(rpc_goodbye(&f->owner), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(world_totals(&f->world).segments, 0);
    assert_true(world_until(&f->world, are_swept, &f->world));
    assert_int_equal(f->world.expired, 0);
    Mcs__Wire__Exist exist = MCS__WIRE__EXIST__INIT;
    assert_int_equal(rpc_call(&f->owner, MCS_VERB_EXIST, &exist.base, NULL, NULL), MCS_ERR_SESSION_ENDED);
}

static void ttl_shorter_than_half_a_lease(mcs_master_config_t *conf)
{
    conf->client_ttl = 1;
    conf->default_kv_lease_ttl = 6000;
}

static int setup_short_ttl(void **state)
{
    return setup_with(state, ttl_shorter_than_half_a_lease);
}

/* Rule 2: who mapped its memory on its host can read there what he may have cached, whatever became of it. */
static void the_end_of_a_silent_owner_is_no_answer_to_a_strike(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    uint64_t granted = mcs_now_ns();
    f->owner.auto_release = false;
    rpc_client_drop_control(&f->owner);
    world_pass(&f->world, 800);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    f->writer.idle = world_passing;
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
    assert_in_range((mcs_now_ns() - granted) / MCS_NS_PER_MS, 3000, 3200);
    assert_true(f->world.expired >= 1); /* and the writer, who has not pinged meanwhile */
}

static void a_removal_after_the_end_of_a_silent_owner_waits_too(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    uint64_t granted = mcs_now_ns();
    rpc_client_drop_control(&f->owner);
    f->writer.idle = world_passing;
    world_pass(&f->world, 800);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    world_pass(&f->world, 700);
    assert_int_equal(f->world.expired, 1);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_OK);
    assert_in_range((mcs_now_ns() - granted) / MCS_NS_PER_MS, 3000, 3200);
}

/* Its other replica is struck at once, but the lost one may be read by whoever was told of it. */
static void a_lost_replica_is_waited_for_although_another_is_left(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t two = {.replica_num = 2};
    rpc_object_t object;
    rpc_mount(&f->writer, "host-b:1", SEGMENT);
    assert_int_equal(rpc_store(&f->writer, "k", 100, &two), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 2);
    uint64_t granted = mcs_now_ns();
    f->world.peer = NULL;
    rpc_client_drop_control(&f->owner);
    while (f->world.expired == 0) {
        world_pass(&f->world, 100);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    }
    assert_int_equal(rpc_lookup(&f->writer, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 1);
    world_pass(&f->world, 100);
    f->writer.idle = world_passing;
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_OK);
    assert_in_range((mcs_now_ns() - granted) / MCS_NS_PER_MS, 3000, 3200);
}

static void an_owner_that_left_keeps_nobody_waiting(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    uint64_t granted = mcs_now_ns();
    assert_int_equal(rpc_goodbye(&f->owner), MCS_OK); /* it closed its memory before */
    f->writer.idle = world_passing;
    (void)rpc_remove(&f->writer, "k", true);
    assert_true((mcs_now_ns() - granted) / MCS_NS_PER_MS < 500);
    assert_int_equal(rpc_remove(&f->writer, "k", true), MCS_ERR_OBJECT_NOT_FOUND);
}

static void objects_with_replicas_elsewhere_survive(void **state)
{
    fixture_t *f = *state;
    rpc_object_t object;
    rpc_put_options_t two = {.replica_num = 2};
    rpc_mount(&f->writer, "host-b:1", SEGMENT);
    assert_int_equal(rpc_store(&f->writer, "k", 100, &two), MCS_OK);
    assert_int_equal(rpc_goodbye(&f->owner), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 1);
    world_tick(&f->world);
    assert_int_equal(world_totals(&f->world).objects, 1);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 1);
    assert_int_equal(world_totals(&f->world).allocated_bytes, mcs_extent_len(100));
}

static void releases_are_asked_again_after_a_reconnect(void **state)
{
    fixture_t *f = *state;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
    while (f->owner.releases == 0) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(world_totals(&f->world).quarantine_bytes, mcs_extent_len(100));
    mcs_buf_reset(&f->owner.kept_releases); /* lost with the connection */
    rpc_client_drop_control(&f->owner);
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    while (f->owner.releases == 1) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    rpc_answer_releases(&f->owner);
    assert_int_equal(settle(f), 0);
}

static void an_unanswered_release_is_asked_again_after_a_while(void **state)
{
    fixture_t *f = *state;
    f->owner.auto_release = false;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k", false), MCS_OK);
    live(f, 31000);
    for (int i = 0; i < 1000 && f->owner.releases < 2; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(f->owner.releases, 2);
    rpc_answer_releases(&f->owner); /* both: the second is a repeat */
    assert_int_equal(settle(f), 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, releases_done), 1);
}

static void revocations_are_told_again_after_a_reconnect(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    f->writer.auto_ack = false;
    assert_int_equal(rpc_put_one(&f->writer, "k", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_put_one(&f->owner, "k", 100, &(rpc_put_options_t){.upsert = true}, NULL), MCS_OK);
    for (int i = 0; i < 1000 && f->writer.revoked.len == 0; i++) {
        world_tick(&f->world);
        rpc_pump(&f->writer, 1);
    }
    assert_int_equal(f->writer.revoked.len, sizeof(uint64_t));
    rpc_client_drop_control(&f->writer);
    assert_int_equal(rpc_client_open(&f->writer), MCS_OK);
    for (int i = 0; i < 1000 && f->writer.revoked.len == sizeof(uint64_t); i++) {
        world_tick(&f->world);
        rpc_pump(&f->writer, 1);
    }
    assert_int_equal(f->writer.revoked.len, 2 * sizeof(uint64_t));
}

/* ---- segments ---- */

static void instances_are_mounted_once_and_handles_never_come_again(void **state)
{
    fixture_t *f = *state;
    uint32_t again;
    mcs_mac_key_t key;
    assert_int_equal(rpc_try_mount(&f->owner, "host-a:1", SEGMENT, f->instance, &again, &key), MCS_OK);
    assert_int_equal(again, f->handle);
    assert_memory_equal(&key, &f->key, sizeof(key));
    assert_int_equal(rpc_try_mount(&f->writer, "host-a:1", SEGMENT, f->instance, NULL, NULL),
                     MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(rpc_try_mount(&f->writer, "host-a:1", SEGMENT, mcs_id_random(), NULL, NULL), MCS_OK);
    assert_int_equal(rpc_unmount(&f->writer, f->instance), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(rpc_unmount(&f->owner, mcs_id_random()), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_int_equal(rpc_unmount(&f->owner, f->instance), MCS_OK);
    assert_int_equal(rpc_try_mount(&f->owner, "host-a:1", SEGMENT, f->instance, &again, NULL), MCS_OK);
    assert_true(again > f->handle);
    assert_int_equal(rpc_try_mount(&f->owner, "", SEGMENT, mcs_id_random(), NULL, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_try_mount(&f->owner, "x", 0, mcs_id_random(), NULL, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_try_mount(&f->owner, "x", UINT64_MAX, mcs_id_random(), NULL, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_try_mount(&f->owner, "x", SEGMENT, (mcs_id_t){0, 0}, NULL, NULL), MCS_ERR_INVALID_PARAMS);
}

static void segment_info_tells_how_to_reach_an_owner(void **state)
{
    fixture_t *f = *state;
    Mcs__Wire__SegmentInfo request = MCS__WIRE__SEGMENT_INFO__INIT;
    uint32_t handles[] = {999, f->handle};
    request.handles = handles;
    request.n_handles = 2;
    ProtobufCMessage *message;
    assert_int_equal(
        rpc_call(&f->writer, MCS_VERB_SEGMENT_INFO, &request.base, &mcs__wire__segment_list__descriptor, &message),
        MCS_OK);
    const Mcs__Wire__SegmentList *list = (const Mcs__Wire__SegmentList *)message;
    assert_int_equal(list->n_segments, 1);
    const Mcs__Wire__SegmentRecord *record = list->segments[0];
    assert_int_equal(record->handle, f->handle);
    assert_string_equal(record->name, "host-a:1");
    assert_string_equal(record->wire, "ucx-a");
    assert_int_equal(record->size, SEGMENT);
    assert_int_equal(record->state, 1);
    assert_int_equal(record->owner->hi, f->owner.client.hi);
    assert_int_equal(record->owner_session->lo, f->owner.session.lo);
    assert_int_equal(record->instance->lo, f->instance.lo);
    assert_memory_equal(record->endpoint.data, "endpoint", 9);
    protobuf_c_message_free_unpacked(message, NULL);
    Mcs__Wire__ListSegments all = MCS__WIRE__LIST_SEGMENTS__INIT;
    assert_int_equal(
        rpc_call(&f->writer, MCS_VERB_LIST_SEGMENTS, &all.base, &mcs__wire__segment_list__descriptor, &message),
        MCS_OK);
    assert_int_equal(((const Mcs__Wire__SegmentList *)message)->n_segments, 1);
    protobuf_c_message_free_unpacked(message, NULL);
}

static void a_draining_segment_is_read_and_gets_nothing_new(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "k", 100, NULL), MCS_OK);
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__UnmountSegment request = MCS__WIRE__UNMOUNT_SEGMENT__INIT;
    sequence.seq = sequence.ack = ++f->owner.seq;
    id.hi = f->instance.hi;
    id.lo = f->instance.lo;
    request.sequence = &sequence;
    request.instance = &id;
    request.grace_seconds = 5;
    assert_int_equal(rpc_call(&f->owner, MCS_VERB_UNMOUNT_SEGMENT, &request.base, NULL, NULL), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    assert_int_equal(rpc_store(&f->writer, "l", 100, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    world_pass(&f->world, 4900);
    assert_int_equal(rpc_exist(&f->writer, "k"), 1);
    world_pass(&f->world, 200);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_hello_opens_resumes_and_joins_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(another_data_plane_generation_is_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(garbage_before_the_hello_closes_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(a_master_takes_a_later_epoch_than_its_first_client_has_seen, setup_alone,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_hello_disturbs_nobody_whatever_epoch_it_names, setup_alone, teardown),
        cmocka_unit_test_setup_teardown(a_token_is_asked_for_and_checked, setup_token, teardown),
        cmocka_unit_test_setup_teardown(sessions_are_bounded, setup_few, teardown),
        cmocka_unit_test_setup_teardown(a_lost_owner_is_hidden_at_once_and_seen_again_when_steady, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flapping_owner_stays_hidden, setup, teardown),
        cmocka_unit_test_setup_teardown(suspicion_hides_and_does_not_decide, setup, teardown),
        cmocka_unit_test_setup_teardown(a_silent_client_is_dropped_at_its_ttl, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stalled_master_drops_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_heard_at_the_end_of_a_stall_is_not_of_the_future, setup, teardown),
        cmocka_unit_test_setup_teardown(goodbye_unmounts_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(the_end_of_a_silent_owner_is_no_answer_to_a_strike, setup_short_ttl, teardown),
        cmocka_unit_test_setup_teardown(a_removal_after_the_end_of_a_silent_owner_waits_too, setup_short_ttl, teardown),
        cmocka_unit_test_setup_teardown(a_lost_replica_is_waited_for_although_another_is_left, setup_short_ttl,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_owner_that_left_keeps_nobody_waiting, setup_short_ttl, teardown),
        cmocka_unit_test_setup_teardown(objects_with_replicas_elsewhere_survive, setup, teardown),
        cmocka_unit_test_setup_teardown(releases_are_asked_again_after_a_reconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unanswered_release_is_asked_again_after_a_while, setup, teardown),
        cmocka_unit_test_setup_teardown(revocations_are_told_again_after_a_reconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(instances_are_mounted_once_and_handles_never_come_again, setup, teardown),
        cmocka_unit_test_setup_teardown(segment_info_tells_how_to_reach_an_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(a_draining_segment_is_read_and_gets_nothing_new, setup, teardown),
    };
    return cmocka_run_group_tests_name("svc_session", tests, NULL, NULL);
}
