/* A service that starts from its journal: what is back, where, and who may use it when. */
#include "tests/unit/journal/restart.h"

#include "core/base/alloc.h"

static void objects_are_back_in_their_places(void **state)
{
    fixture_t *f = *state;
    static rpc_object_t before[30];
    char key[16];
    for (int i = 0; i < 30; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->writer, key, 1000 + (uint64_t)i * 100, NULL), MCS_OK);
    }
    for (int i = 0; i < 30; i += 3) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_remove(&f->writer, key, false), MCS_OK);
    }
    for (int i = 0; i < 30; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        rpc_lookup(&f->writer, key, false, &before[i]);
    }
    for (int round = 0; round < 3; round++) {
        restart(f, SEGMENT / 2);
        for (int i = 0; i < 30; i++) {
            rpc_object_t now;
            snprintf(key, sizeof(key), "k%d", i);
            assert_int_equal(rpc_lookup(&f->writer, key, false, &now), i % 3 == 0 ? MCS_ERR_OBJECT_NOT_FOUND : MCS_OK);
            if (i % 3 != 0) {
                assert_int_equal(now.object.payload_len, before[i].object.payload_len);
                assert_int_equal(now.replica[0].offset, before[i].replica[0].offset);
                assert_int_equal(now.replica[0].generation, before[i].replica[0].generation);
                assert_int_equal(now.replica[0].segment, before[i].replica[0].segment);
            }
        }
    }
    live(f, 5000); /* the grace */
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
    assert_int_equal(world_totals(&f->world).quarantine_bytes, 0);
}

static void segments_of_devices_are_back_as_such(void **state)
{
    fixture_t *f = *state;
    static const char *far_name[] = {NAME "/cuda:3"};
    rpc_put_options_t options = {.preferred = far_name, .preferred_count = 1};
    mcs_id_t instance = mcs_id_random();
    uint32_t far;
    f->owner.location = "cuda:3";
    assert_int_equal(rpc_try_mount(&f->owner, far_name[0], SEGMENT, instance, &far, NULL), MCS_OK);
    rpc_object_t before[3];
    char key[16];
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->owner, key, 5000, &options), MCS_OK);
        rpc_lookup(&f->owner, key, false, &before[i]);
        assert_int_equal(before[i].replica[0].segment, far);
        assert_int_equal(before[i].replica[0].offset % MCS_EXTENT_FAR_ALIGN, 0);
    }
    assert_int_equal(rpc_remove(&f->owner, "k1", true), MCS_OK);
    restart(f, SEGMENT / 2);
    assert_int_equal(rpc_mount_again(&f->owner, far_name[0], SEGMENT, instance, SEGMENT / 2), MCS_OK);
    world_pass(&f->world, 1100);
    const svc_segment_t *segment = svc_segment_at(f->world.service, far);
    assert_string_equal(segment->location, "cuda:3");
    for (int i = 0; i < 3; i += 2) {
        rpc_object_t now;
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_lookup(&f->owner, key, false, &now), MCS_OK);
        assert_int_equal(now.replica[0].offset, before[i].replica[0].offset);
    }
    live(f, 5000); /* the grace */
    (void)settle(f);
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->owner, "new", 5000, &options, &put), MCS_OK);
    assert_int_equal(put.replica[0].segment, far);
    assert_int_equal(put.replica[0].offset % MCS_EXTENT_FAR_ALIGN, 0);
    assert_int_equal(put.replica[0].offset, before[1].replica[0].offset); /* the hole */
}

static void nothing_is_used_before_its_owner_has_spoken(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->writer, "a", 300000, NULL), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "b", 300000, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "a", false), MCS_OK);
    restart_alone(f);
    assert_int_equal(rpc_exist(&f->writer, "b"), 0);
    assert_int_equal(rpc_put_one(&f->writer, "c", 1000, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    reconnect(f, &f->owner);
    world_pass(&f->world, 1100);
    assert_int_equal(rpc_exist(&f->writer, "b"), 0); /* connected and steady, but not mounted */
    assert_int_equal(rpc_put_one(&f->writer, "c", 1000, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    come_back(f, 700000);
    assert_int_equal(rpc_exist(&f->writer, "b"), 1);
    /* Above the high mark at once, the rest after the grace. */
    assert_int_equal(rpc_put_one(&f->writer, "c", 300000, NULL, &put), MCS_OK);
    assert_in_range(put.replica[0].offset, 700000, SEGMENT);
    assert_int_equal(rpc_put_one(&f->writer, "d", 300000, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    live(f, 5000);
    settle(f);
    assert_int_equal(rpc_put_one(&f->writer, "d", 300000, NULL, &put), MCS_OK);
    assert_in_range(put.replica[0].offset, 0, 10000);
}

static void a_gap_that_is_not_answered_stays(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->writer, "a", 900000, NULL), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "a", false), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "b", 1000, NULL), MCS_OK);
    f->owner.auto_release = false;
    restart(f, SEGMENT);
    live(f, 5000);
    assert_true(f->owner.kept_releases.len > 0);
    mcs_col_release_t record;
    memcpy(&record, f->owner.kept_releases.bytes, sizeof(record));
    assert_int_equal(record.flags, MCS_RELEASE_GAP);
    assert_int_equal(rpc_put_one(&f->writer, "c", 900000, NULL, &put), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_true(world_totals(&f->world).quarantine_bytes >= 900000);
    f->owner.auto_release = true;
    rpc_answer_releases(&f->owner);
    settle(f);
    assert_int_equal(rpc_put_one(&f->writer, "c", 900000, NULL, &put), MCS_OK);
}

static void what_an_owner_does_not_come_for_goes(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, NULL), MCS_OK);
    restart_alone(f);
    assert_int_equal(world_totals(&f->world).segments, 1);
    for (int i = 0; i < 4; i++) {
        world_pass(&f->world, 4000);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    }
    assert_int_equal(world_totals(&f->world).segments, 0);
    assert_int_equal(world_totals(&f->world).objects, 0);
    snprintf(f->owner.path, sizeof(f->owner.path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(&f->owner), MCS_ERR_SESSION_ENDED);
    restart_alone(f); /* and stays away */
    assert_int_equal(world_totals(&f->world).segments, 0);
}

static void a_segment_that_is_not_mounted_again_goes(void **state)
{
    fixture_t *f = *state;
    mcs_id_t second = rpc_mount(&f->owner, "host-a:2", SEGMENT);
    restart_alone(f);
    come_back(f, SEGMENT);
    assert_int_equal(world_totals(&f->world).segments, 2);
    live(f, 30000);
    assert_int_equal(world_totals(&f->world).segments, 1);
    assert_int_equal(rpc_mount_again(&f->owner, "host-a:2", SEGMENT, second, 0), MCS_ERR_SEGMENT_NOT_FOUND);
}

static void nobody_else_gets_a_segment(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, NULL), MCS_OK);
    restart_alone(f);
    assert_int_equal(rpc_mount_again(&f->writer, NAME, SEGMENT, f->instance, 0), MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(rpc_mount_again(&f->writer, NAME, SEGMENT, mcs_id_random(), 0), MCS_ERR_SEGMENT_NOT_FOUND);
    reconnect(f, &f->owner);
    assert_int_equal(rpc_mount_again(&f->owner, NAME, SEGMENT / 2, f->instance, 0), MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(rpc_try_mount(&f->owner, NAME, SEGMENT, f->instance, NULL, NULL), MCS_ERR_SEGMENT_ALREADY_EXISTS);
    come_back(f, 0);
    assert_int_equal(rpc_exist(&f->writer, "a"), 1);
}

static void an_unmounted_segment_stays_away(void **state)
{
    fixture_t *f = *state;
    mcs_id_t second = rpc_mount(&f->owner, "host-a:2", SEGMENT);
    assert_int_equal(rpc_unmount(&f->owner, second), MCS_OK);
    restart_alone(f);
    assert_int_equal(world_totals(&f->world).segments, 1);
    come_back(f, 0);
    assert_int_equal(rpc_goodbye(&f->owner), MCS_OK);
    restart_alone(f);
    assert_int_equal(world_totals(&f->world).segments, 0);
}

static void attributes_are_kept(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t soft = {.soft_pin_action = 1, .has_soft_pin_ttl = true, .soft_pin_ttl_ms = 60000, .data_type = 3};
    assert_int_equal(rpc_store(&f->writer, "soft", 1000, &soft), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "hard", 1000, &(rpc_put_options_t){.hard_pin = true}), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "g1", 1000, &(rpc_put_options_t){.group = "G"}), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "g2", 1000, &(rpc_put_options_t){.group = "G"}), MCS_OK);
    restart(f, 0);
    const svc_record_t *record = record_of(f, "soft");
    assert_true((record->flags & SVC_REC_SOFT) != 0);
    assert_int_equal(record->data_type, 3);
    assert_in_range(svc_record_soft(record), mcs_now_ns() + 30 * MCS_NS_PER_SEC, mcs_now_ns() + 60 * MCS_NS_PER_SEC);
    assert_int_equal(world_totals(&f->world).soft_pinned, 1);
    assert_true((record_of(f, "hard")->flags & SVC_REC_HARD) != 0);
    assert_non_null(svc_record_group(record_of(f, "g1")));
    assert_ptr_equal(svc_record_group(record_of(f, "g1")), svc_record_group(record_of(f, "g2")));
    mcs_buf_t members;
    mcs_buf_init(&members, 4096);
    assert_true(svc_group_members(svc_record_group(record_of(f, "g1")), &members));
    assert_int_equal(members.len, 2 * sizeof(svc_member_t));
    mcs_buf_fini(&members);
}

static void old_objects_count_as_leased_for_the_grace(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, NULL), MCS_OK);
    restart(f, 0);
    assert_int_equal(rpc_remove(&f->writer, "a", false), MCS_ERR_OBJECT_HAS_LEASE);
    live(f, 3500);
    assert_int_equal(rpc_remove(&f->writer, "a", false), MCS_OK);
}

static void an_outcome_is_told_by_the_next_master(void **state)
{
    fixture_t *f = *state;
    rpc_put_t done;
    rpc_put_t open;
    assert_int_equal(rpc_put_one(&f->writer, "done", 1000, NULL, &done), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, done.put_id), MCS_OK);
    assert_int_equal(rpc_put_one(&f->writer, "open", 1000, NULL, &open), MCS_OK);
    restart(f, SEGMENT);
    assert_int_equal(rpc_end_one(&f->writer, done.put_id), MCS_OK);
    assert_int_equal(rpc_end_one(&f->writer, open.put_id), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_exist(&f->writer, "open"), 0);
    live(f, 5000); /* a question that costs something is answered for a while only */
    assert_int_equal(rpc_end_one(&f->writer, done.put_id), MCS_ERR_OBJECT_NOT_FOUND);
}

/* An upsert whose owner has been asked to strike the old value, and not answered. */
static uint64_t strike_in(fixture_t *f, const char *group, rpc_object_t *old)
{
    rpc_put_t put;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &(rpc_put_options_t){.group = group}), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "a", false, old), MCS_OK);
    f->owner.auto_release = false;
    assert_int_equal(rpc_put_one(&f->writer, "a", 2000, &(rpc_put_options_t){.upsert = true, .group = group}, &put),
                     MCS_OK);
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    sequence.seq = sequence.ack = ++f->writer.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(put.put_id), (uint8_t *)&put.put_id};
    rpc_send(&f->writer, &f->writer.call, MCS_VERB_PUT_END, &end.base);
    for (int i = 0; i < 10000 && f->owner.kept_releases.len == 0; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_true(f->owner.kept_releases.len > 0);
    mcs_buf_reset(&f->owner.kept_releases);
    return put.put_id;
}

static uint64_t strike(fixture_t *f, rpc_object_t *old)
{
    return strike_in(f, NULL, old);
}

static void a_strike_that_had_begun_is_finished(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    rpc_object_t now;
    uint64_t put_id = strike(f, &old);
    for (int round = 0; round < 2; round++) { /* a second kill in the middle of it */
        restart_alone(f);
        reconnect(f, &f->owner);
        f->world.peer = &f->owner;
        assert_int_equal(rpc_mount_again(&f->owner, NAME, SEGMENT, f->instance, SEGMENT), MCS_OK);
        assert_int_equal(record_of(f, "a")->payload_len, 1000); /* whoever cached it may still read it */
    }
    f->owner.auto_release = true;
    rpc_answer_releases(&f->owner);
    assert_int_equal(rpc_end_one(&f->writer, put_id), MCS_OK);
    world_pass(&f->world, 1100);
    assert_int_equal(rpc_lookup(&f->writer, "a", false, &now), MCS_OK);
    assert_int_equal(now.object.payload_len, 2000);
    assert_int_equal(now.replica[0].generation, put_id);
    restart(f, SEGMENT);
    assert_int_equal(rpc_lookup(&f->writer, "a", false, &now), MCS_OK);
    assert_int_equal(now.object.payload_len, 2000);
    live(f, 6000);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
}

/* The repeated put_end comes when the strike is over: the answer is the same. */
static void a_strike_that_was_finished_meanwhile_is_told(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    uint64_t put_id = strike(f, &old);
    f->owner.auto_release = true;
    restart(f, SEGMENT);
    for (int i = 0; i < 10000 && record_of(f, "a")->payload_len != 2000; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(record_of(f, "a")->payload_len, 2000);
    assert_int_equal(rpc_end_one(&f->writer, put_id), MCS_OK);
}

static void a_strike_without_an_owners_answer_ends_by_time(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    rpc_object_t now;
    strike(f, &old);
    restart_alone(f);
    reconnect(f, &f->owner);
    assert_int_equal(rpc_mount_again(&f->owner, NAME, SEGMENT, f->instance, SEGMENT), MCS_OK);
    live(f, 5000);
    assert_int_equal(rpc_lookup(&f->writer, "a", false, &now), MCS_OK);
    assert_int_equal(now.object.payload_len, 2000);
}

static void a_forced_removal_that_had_begun_is_finished(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "a", false, &old), MCS_OK);
    f->owner.auto_release = false;
    Mcs__Wire__Remove remove = MCS__WIRE__REMOVE__INIT;
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    uint16_t len = 1;
    char key[] = "a";
    sequence.seq = sequence.ack = ++f->writer.seq;
    remove.sequence = &sequence;
    remove.key_lens = (ProtobufCBinaryData){sizeof(len), (uint8_t *)&len};
    remove.keys = (ProtobufCBinaryData){1, (uint8_t *)key};
    remove.force = true;
    rpc_send(&f->writer, &f->writer.call, MCS_VERB_REMOVE, &remove.base);
    for (int i = 0; i < 10000 && f->owner.kept_releases.len == 0; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    mcs_buf_reset(&f->owner.kept_releases);
    f->owner.auto_release = true;
    restart(f, SEGMENT);
    live(f, 5000);
    assert_int_equal(rpc_exist(&f->writer, "a"), 0);
    assert_int_equal(world_totals(&f->world).objects, 0);
    assert_int_equal(settle(f), 0);
}

static void without_a_removal_on_record_nothing_is_evicted_twice(void **state)
{
    fixture_t *f = *state;
    /* More than fits: each put evicts. */
    f->world.conf.eviction_wait_ms = 100;
    f->writer.idle = world_passing;
    f->writer.idle_arg = &f->world;
    char key[16];
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->writer, key, 50000, NULL), MCS_OK);
    }
    uint64_t objects = world_totals(&f->world).objects;
    assert_in_range(objects, 5, 25);
    assert_int_equal(rpc_exist(&f->writer, "k99"), 1);
    restart(f, SEGMENT);
    assert_int_equal(world_totals(&f->world).objects, objects);
    assert_int_equal(rpc_exist(&f->writer, "k99"), 1);
    assert_int_equal(rpc_exist(&f->writer, "k0"), 0);
}

/* ---- a long life against a model ---- */

#define MODEL_KEYS 80

static void whatever_happened_the_index_is_the_same(void **state)
{
    fixture_t *f = *state;
    uint64_t generation[MODEL_KEYS] = {0};
    g_dice_state = 815;
    f->world.journal_config.compact_bytes = 4096;
    for (int round = 0; round < 25; round++) {
        for (int i = 0; i < 60; i++) {
            char name[16];
            uint32_t key = dice(MODEL_KEYS);
            rpc_put_t put;
            snprintf(name, sizeof(name), "key-%u", key);
            switch (dice(5)) {
            case 0:
                if (rpc_remove(&f->writer, name, dice(2) == 0) == MCS_OK) {
                    generation[key] = 0;
                }
                break;
            case 1: rpc_lookup(&f->writer, name, false, NULL); break;
            default: {
                rpc_put_options_t options = {.upsert = dice(2) == 0};
                int32_t status = rpc_put_one(&f->writer, name, dice(4000) + UINT64_C(1), &options, &put);
                if (status == MCS_OK && dice(8) == 0) {
                    rpc_revoke_one(&f->writer, put.put_id);
                } else if (status == MCS_OK) {
                    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
                    generation[key] = put.put_id;
                }
                break;
            }
            }
            world_tick(&f->world);
        }
        restart(f, SEGMENT);
        for (uint32_t key = 0; key < MODEL_KEYS; key++) {
            char name[16];
            snprintf(name, sizeof(name), "key-%u", key);
            const svc_record_t *record = record_of(f, name);
            assert_int_equal(record != NULL, generation[key] != 0);
            assert_true(record == NULL || record->replicas[0].generation == generation[key]);
        }
        live(f, 4500);
    }
    live(f, 6000);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
    mcs_journal_stats_t stats;
    mcs_journal_stats(f->world.journal, &stats);
    assert_true(stats.bytes <= 8 * MCS_JOURNAL_STREAMS * MCS_JOURNAL_WINDOW);
}

/* ---- failures of the start itself ---- */

typedef struct start {
    world_t *world;
    uint64_t objects;
    uint32_t removals; /* starts that had no memory for the new value of "a": its strike ends as a removal */
    uint32_t untold;   /* of them, those that did not count it as lost */
} start_t;

static void look_at_strike(start_t *start, mcs_service_t *service)
{
    svc_index_t *index = &service->index;
    uint64_t hash = svc_index_hash(index, "a", 1);
    svc_shard_t *shard = svc_index_shard(index, hash);
    svc_ref_t ref = svc_shard_find_locked(index, shard, hash, "a", 1);
    const svc_pending_t *pending = ref != 0 ? svc_pending_by_record_locked(shard, ref) : NULL;
    if (pending != NULL && pending->kind == SVC_STRIKE) {
        start->removals++;
        start->untold += service->recovered.lost != 1;
    }
}

static mcs_status_t start_once(void *arg)
{
    start_t *start = arg;
    mcs_journal_config_t journal_config = {.dir = g_folder.path, .go_on = true};
    mcs_journal_t *journal = NULL;
    mcs_service_t *service = NULL;
    mcs_status_t status = mcs_journal_open(&journal_config, &journal);
    mcs_service_config_t config = {
        .config = &start->world->conf, .metrics = &start->world->metrics, .epoch = 1u << 31, .journal = journal};
    if (status == MCS_OK) {
        status = mcs_service_create(&config, &service);
    }
    if (status == MCS_OK) {
        status = mcs_service_recover(service);
    }
    if (status == MCS_OK) {
        start->objects = service->index.objects;
        look_at_strike(start, service);
        service->journal = NULL;
    }
    mcs_service_destroy(service);
    mcs_journal_destroy(journal);
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) { /* the next start finds what this one found */
        char path[128];
        folder_name(&g_folder, s, 2, path, sizeof(path));
        unlink(path);
    }
    /* Objects may be lost to a failing allocation; the start says so, and goes on. */
    return status == MCS_OK && mcs_fault_fired(MCS_FAULT_ALLOC) ? MCS_ERR_NO_MEMORY : status;
}

static void give_folder_up(fixture_t *f)
{
    mcs_journal_t *journal = f->world.journal;
    f->world.service->journal = NULL;
    f->world.journal = NULL;
    mcs_journal_destroy(journal);
}

static void a_start_without_memory_fails_and_leaves_nothing(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    char key[16];
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        rpc_put_options_t options = {.group = i % 4 == 0 ? "G" : NULL, .soft_pin_action = i % 5 == 0};
        assert_int_equal(rpc_store(&f->writer, key, 1000, &options), MCS_OK);
        if (i % 3 == 0) {
            assert_int_equal(rpc_remove(&f->writer, key, false), MCS_OK);
        }
    }
    strike(f, &old);
    give_folder_up(f);
    start_t start = {.world = &f->world};
    assert_true(unit_torture(MCS_FAULT_ALLOC, start_once, &start) > 20);
    assert_int_equal(start.objects, 27);
    f->owner.auto_release = true;
}

static uint32_t hash_stream(fixture_t *f, uint64_t hash)
{
    return svc_index_shard(&f->world.service->index, hash)->index % MCS_JOURNAL_GROUPS;
}

/* Members for a group until the next needs memory, of the stream of "a": it is replayed in this order. */
static void fill_group(fixture_t *f, const char *group)
{
    const svc_index_t *index = &f->world.service->index;
    uint32_t members = 1;                /* "a" */
    for (int i = 0; members < 12; i++) { /* three quarters of a table of 16 */
        char key[16];
        int len = snprintf(key, sizeof(key), "g%d", i);
        uint64_t hash = svc_index_hash(index, key, (uint32_t)len);
        if (hash_stream(f, hash) == hash_stream(f, svc_index_hash(index, "a", 1))) {
            assert_int_equal(rpc_store(&f->writer, key, 1000, &(rpc_put_options_t){.group = group}), MCS_OK);
            members++;
        }
    }
}

static void a_new_value_without_memory_is_lost_and_the_old_one_removed(void **state)
{
    fixture_t *f = *state;
    rpc_object_t old;
    fill_group(f, "G");
    strike_in(f, "G", &old);
    give_folder_up(f);
    start_t start = {.world = &f->world};
    for (int i = 0; i < 50 && start.removals == 0; i++) { /* other streams' threads ask for memory, too */
        unit_torture(MCS_FAULT_ALLOC, start_once, &start);
    }
    assert_true(start.removals > 0);
    assert_int_equal(start.untold, 0);
    f->owner.auto_release = true;
}

/* A record that says so with a good checksum: a fault of whoever wrote it. */
static void an_object_in_anothers_place_is_gone(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    world_client(&f->world, &other, "host-c:1");
    mcs_id_t instance = rpc_mount(&other, "host-c:1", SEGMENT);
    rpc_put_options_t two = {.replica_num = 2};
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &two), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "b", 1000, &two), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "c", 1000, &two), MCS_OK);
    svc_record_t *a = (svc_record_t *)(uintptr_t)record_of(f, "a");
    svc_record_t *b = (svc_record_t *)(uintptr_t)record_of(f, "b");
    svc_record_t *c = (svc_record_t *)(uintptr_t)record_of(f, "c");
    assert_int_equal(a->replica_count, 2);
    uint64_t places[] = {b->replicas[0].place, b->replicas[1].place, c->replicas[0].place};
    bool same_order = svc_place_handle(places[0]) == svc_place_handle(a->replicas[0].place);
    b->replicas[0].place = a->replicas[same_order ? 0 : 1].place + 1;
    b->replicas[1].place = a->replicas[same_order ? 1 : 0].place + 1;
    bool c_in_first = svc_place_handle(places[2]) == svc_place_handle(a->replicas[0].place);
    c->replicas[0].place = a->replicas[c_in_first ? 0 : 1].place + 1;
    assert_int_equal(svc_place_handle(b->replicas[0].place), svc_place_handle(places[0]));
    assert_true(svc_place_offset(b->replicas[0].place) > svc_place_offset(a->replicas[same_order ? 0 : 1].place));
    svc_index_t *index = &f->world.service->index;
    svc_record_t *const changed[] = {b, c};
    static const char *const keys[] = {"b", "c"};
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t hash = svc_index_hash(index, keys[i], 1);
        svc_shard_t *shard = svc_index_shard(index, hash);
        mcs_mutex_lock(&shard->lock);
        svc_journal_put_locked(f->world.service, shard, svc_shard_find_locked(index, shard, hash, keys[i], 1));
        mcs_mutex_unlock(&shard->lock);
        assert_int_equal(changed[i]->replica_count, 2);
    }
    b->replicas[0].place = places[0];
    b->replicas[1].place = places[1];
    c->replicas[0].place = places[2];
    rpc_client_drop_control(&other);
    rpc_client_drop_call(&other);
    restart_alone(f);
    assert_int_equal(world_totals(&f->world).objects, 2);
    snprintf(other.path, sizeof(other.path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(&other), MCS_OK);
    assert_int_equal(rpc_mount_again(&other, "host-c:1", SEGMENT, instance, SEGMENT), MCS_OK);
    come_back(f, SEGMENT);
    assert_int_equal(rpc_exist(&f->writer, "a"), 1);
    assert_int_equal(rpc_exist(&f->writer, "b"), 0);
    assert_int_equal(record_of(f, "c")->replica_count, 1);
    rpc_client_fini(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_journal, teardown_journal)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(objects_are_back_in_their_places),
        TEST(segments_of_devices_are_back_as_such),
        TEST(nothing_is_used_before_its_owner_has_spoken),
        TEST(a_gap_that_is_not_answered_stays),
        TEST(what_an_owner_does_not_come_for_goes),
        TEST(a_segment_that_is_not_mounted_again_goes),
        TEST(nobody_else_gets_a_segment),
        TEST(an_unmounted_segment_stays_away),
        TEST(attributes_are_kept),
        TEST(old_objects_count_as_leased_for_the_grace),
        TEST(an_outcome_is_told_by_the_next_master),
        TEST(a_strike_that_had_begun_is_finished),
        TEST(a_strike_that_was_finished_meanwhile_is_told),
        TEST(a_strike_without_an_owners_answer_ends_by_time),
        TEST(a_forced_removal_that_had_begun_is_finished),
        TEST(without_a_removal_on_record_nothing_is_evicted_twice),
        TEST(whatever_happened_the_index_is_the_same),
        TEST(an_object_in_anothers_place_is_gone),
        TEST(a_start_without_memory_fails_and_leaves_nothing),
        TEST(a_new_value_without_memory_is_lost_and_the_old_one_removed),
    };
    return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
