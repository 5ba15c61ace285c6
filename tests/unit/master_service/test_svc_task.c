/* Tasks: copies and moves of replicas, who executes them, what becomes of them when something is in the way. */
#include "tests/unit/master_service/task_fixture.h"

#include <stdlib.h>

#include "core/base/alloc.h"

static const char *const to_c[] = {C, NULL};
static const rpc_put_options_t upsert = {.upsert = true};

/* ---- copies and moves ---- */

static void a_copy_is_readable_when_it_is_whole_and_not_before(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *owner = &t->f->owner;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    assert_true(is_told(t, owner));
    assert_int_equal(t->other.tasks_told, 0);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->other, id, &info), MCS_OK); /* whoever knows its id may ask */
    assert_int_equal(info.type, 0);
    assert_int_equal(info.status, PENDING);
    assert_true(mcs_id_equal(info.client, owner->client));
    assert_true(info.created_ms > 0 && info.updated_ms >= info.created_ms);
    rpc_task_t task = fetch_one(owner);
    assert_true(mcs_id_equal(task.id, id));
    assert_string_equal(task.key, "k");
    assert_int_equal(task.payload_len, 1000);
    assert_int_equal(task.deadline_ms, 300 * 1000);
    assert_int_equal(task.target_count, 1);
    assert_int_equal(task.source.segment, t->f->handle);
    assert_int_equal(task.targets[0].segment, t->handle);
    assert_int_equal(task.put_id, task.targets[0].generation);
    assert_int_equal(task.source.mac, mcs_cap_mac(&t->f->key, owner->session, t->f->instance, task.source.offset, 1000,
                                                  task.source.generation, MCS_CAP_READ));
    assert_int_equal(task.targets[0].mac, mcs_cap_mac(&t->key, owner->session, t->instance, task.targets[0].offset,
                                                      1000, task.targets[0].generation, MCS_CAP_WRITE));
    assert_int_equal(rpc_task_status(&t->f->writer, id), PROCESSING);
    assert_string_equal(places(t, "k"), "a");
    rpc_task_t none;
    assert_int_equal(rpc_fetch_tasks(owner, 1, &none), 0);
    assert_int_equal(world_walk_bytes(&t->f->world), world_totals(&t->f->world).allocated_bytes);
    task.put_id++; /* another reservation */
    assert_int_equal(rpc_end_task(owner, &task, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    assert_int_equal(rpc_task_status(&t->f->writer, id), PROCESSING);
    pass(t, 1000);
    assert_string_equal(places(t, "k"), "a");
}

static void an_end_makes_the_copy_a_replica(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    assert_int_equal(rpc_end_task(&t->other, &task, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK); /* not its */
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    assert_string_equal(places(t, "k"), "ac");
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->f->writer, id, &info), MCS_OK);
    assert_int_equal(info.status, SUCCESS);
    assert_string_equal(info.message, "");
    assert_int_equal(tasks_settle(t), 2 * mcs_extent_len(1000));
    assert_int_equal(rpc_unmount(&t->f->owner, t->f->instance), MCS_OK);
    assert_string_equal(places(t, "k"), "c");
    assert_int_equal(rpc_remove(&t->f->writer, "k", false), MCS_OK);
    assert_int_equal(tasks_settle(t), 0);
    const mcs_metrics_t *metrics = &t->f->world.metrics;
    assert_int_equal(mcs_metric_get(metrics, create_copy_task_requests), 1);
    assert_int_equal(mcs_metric_get(metrics, copy_start_requests), 1);
    assert_int_equal(mcs_metric_get(metrics, copy_end_requests), 1);
    assert_int_equal(mcs_metric_get(metrics, update_task_failures), 2);
}

static uint64_t releases_asked_of(tasks_t *t, rpc_client_t *client)
{
    for (int i = 0; i < 8; i++) {
        world_tick(&t->f->world);
        rpc_pump(client, 1);
    }
    return client->releases;
}

static void a_moved_replica_lives_until_the_leases_on_it_are_over(void **state)
{
    tasks_t *t = *state;
    rpc_object_t before;
    rpc_object_t after;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_lookup(&t->f->writer, "k", false, &before), MCS_OK);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_string_equal(places(t, "k"), "c");
    /* Who looks up now is sent to the new place, and told where the value was: it is the same one. */
    assert_int_equal(rpc_lookup(&t->f->writer, "k", false, &after), MCS_OK);
    assert_int_equal(after.object.replica_count, 2);
    assert_int_equal(after.replica[0].segment, t->handle);
    assert_int_equal(after.replica[0].status, 3);
    assert_int_equal(after.replica[1].status, MCS_REPLICA_LEAVING);
    assert_int_equal(after.replica[1].generation, before.replica[0].generation);
    assert_int_equal(after.replica[1].mac, 0);
    pass(t, 9990); /* of 10000, and the guard */
    assert_int_equal(releases_asked_of(t, &t->f->owner), 0);
    assert_int_equal(world_walk_bytes(&t->f->world), 2 * mcs_extent_len(1000));
    assert_int_equal(rpc_exist(&t->f->writer, "k"), 1); /* a lease on the new place alone */
    pass(t, 100);
    assert_int_equal(releases_asked_of(t, &t->f->owner), 1);
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
    assert_int_equal(rpc_lookup(&t->f->writer, "k", false, &after), MCS_OK);
    assert_int_equal(after.object.replica_count, 1);
}

static void a_replica_that_nobody_read_is_given_back_at_once(void **state)
{
    tasks_t *t = *state;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
    assert_string_equal(places(t, "k"), "c");
}

static void a_value_that_moves_to_and_fro_is_never_hidden(void **state)
{
    tasks_t *t = *state;
    store_in(t, "k", 1000, A);
    for (int i = 0; i < 40; i++) {
        bool there = i % 2 == 0;
        assert_int_equal(rpc_lookup(&t->f->writer, "k", false, NULL), MCS_OK);
        assert_int_equal(rpc_move_task(&t->f->writer, "k", there ? A : C, there ? C : A, NULL), MCS_OK);
        rpc_client_t *executor = there ? &t->f->owner : &t->other;
        for (int wait = 0; rpc_do_tasks(executor) == 0; wait++) { /* as many places are left as may be */
            assert_true(wait < 40);
            pass(t, 500);
        }
        assert_string_equal(places(t, "k"), there ? "c" : "a");
    }
    pass(t, 11000);
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
}

/* ---- what is refused ---- */

static void targets_that_have_a_replica_stay_and_a_move_gives_up_its_source(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    const char *to_both[] = {C, A, NULL};
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(w, "k", to_both, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_string_equal(places(t, "k"), "ac");
    assert_int_equal(rpc_copy_task(w, "k", to_both, &id), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner) + rpc_do_tasks(&t->other), 0); /* nothing to write */
    assert_int_equal(rpc_task_status(w, id), SUCCESS);
    assert_string_equal(places(t, "k"), "ac");
    /* What is in the target cannot be read: the source stays, until it can. */
    assert_int_equal(rpc_move_task(w, "k", A, C, &id), MCS_OK);
    rpc_client_drop_control(&t->other);
    for (int i = 0; i < 2000 && world_totals(&t->f->world).suspect_segments == 0; i++) {
        unit_wait(&t->f->world);
    }
    assert_int_equal(rpc_do_tasks(&t->f->owner), 0);
    assert_int_equal(rpc_task_status(w, id), PENDING);
    assert_int_equal(rpc_exist(w, "k"), 1);
    assert_int_equal(rpc_client_open(&t->other), MCS_OK);
    for (int i = 0; i < 200 && rpc_task_status(w, id) == PENDING; i++) {
        pass(t, 100);
        assert_int_equal(rpc_do_tasks(&t->f->owner), 0);
    }
    assert_int_equal(rpc_task_status(w, id), SUCCESS);
    assert_string_equal(places(t, "k"), "c");
    pass(t, 11000);
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
}

static void bad_tasks_are_refused_by_their_codes(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    const char *none[] = {NULL};
    const char *twice[] = {C, C, NULL};
    const char *nobody[] = {"nobody:1", NULL};
    const char *empty[] = {"", NULL};
    char long_name[400];
    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    const char *too_long[] = {long_name, NULL};
    const char *seventeen[18] = {NULL};
    for (int i = 0; i < 17; i++) {
        seventeen[i] = C;
    }
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(w, "k", none, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "k", twice, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "k", nobody, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "k", empty, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "k", too_long, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "k", seventeen, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "", to_c, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_copy_task(w, "nothing", to_c, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_move_task(w, "k", A, A, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_move_task(w, "k", "", C, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_move_task(w, "k", "nobody:1", C, NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_move_task(w, "k", A, "nobody:1", NULL), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rpc_move_task(w, "k", C, A, NULL), MCS_ERR_REPLICA_NOT_FOUND);
    assert_int_equal(rpc_move_task(w, "nothing", A, C, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    rpc_mount(w, B, SEGMENT);
    assert_int_equal(rpc_move_task(w, "k", C, B, NULL), MCS_ERR_REPLICA_NOT_FOUND);
    rpc_put_t put;
    assert_int_equal(rpc_put_one(w, "open", 100, NULL, &put), MCS_OK);
    assert_int_equal(rpc_copy_task(w, "open", to_c, NULL), MCS_ERR_REPLICA_IS_NOT_READY);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(w, (mcs_id_t){1, 2}, &info), MCS_ERR_TASK_NOT_FOUND);
    assert_int_equal(rpc_query_task(w, (mcs_id_t){0, 0}, &info), MCS_ERR_TASK_NOT_FOUND);
    rpc_task_t task;
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 1, &task), 0);
}

static void garbage_costs_the_connection_or_an_error(void **state)
{
    tasks_t *t = *state;
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__EndTasks end = MCS__WIRE__END_TASKS__INIT;
    uint8_t bytes[33] = {0};
    sequence.seq = sequence.ack = ++t->other.seq;
    end.sequence = &sequence;
    end.records = (ProtobufCBinaryData){sizeof(bytes), bytes};
    assert_int_equal(rpc_call(&t->other, MCS_VERB_END_TASKS, &end.base, NULL, NULL), MCS_ERR_RPC_FAIL);
    rpc_client_drop_call(&t->other);
    Mcs__Wire__CreateTask create = MCS__WIRE__CREATE_TASK__INIT;
    create.type = 7;
    create.key = (ProtobufCBinaryData){1, bytes};
    sequence.seq = sequence.ack = ++t->other.seq;
    create.sequence = &sequence;
    assert_int_equal(rpc_call(&t->other, MCS_VERB_CREATE_TASK, &create.base, NULL, NULL), MCS_ERR_INVALID_PARAMS);
    create.sequence = NULL;
    assert_int_equal(rpc_call(&t->other, MCS_VERB_CREATE_TASK, &create.base, NULL, NULL), MCS_ERR_RPC_FAIL);
    rpc_client_drop_call(&t->other);
    Mcs__Wire__QueryTask query = MCS__WIRE__QUERY_TASK__INIT;
    assert_int_equal(rpc_call(&t->other, MCS_VERB_QUERY_TASK, &query.base, NULL, NULL), MCS_ERR_TASK_NOT_FOUND);
}

/* ---- what a task keeps from others ---- */

static bool is_there(tasks_t *t, const char *key)
{
    return rpc_lookup(&t->f->writer, key, true, NULL) == MCS_OK;
}

static void an_object_under_a_task_is_neither_removed_nor_evicted(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    store_in(t, "k", 16 * 1024 - 64, A);
    assert_int_equal(rpc_move_task(w, "k", A, C, NULL), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    assert_int_equal(rpc_copy_task(w, "k", to_c, NULL), MCS_ERR_OBJECT_HAS_REPLICATION_TASK);
    assert_int_equal(rpc_remove(w, "k", false), MCS_ERR_OBJECT_HAS_REPLICATION_TASK);
    assert_int_equal(rpc_remove(w, "k", true), MCS_ERR_OBJECT_HAS_REPLICATION_TASK);
    assert_int_equal(rpc_lookup(w, "k", false, NULL), MCS_OK);
    assert_int_equal(rpc_remove(w, "k", true), MCS_ERR_OBJECT_HAS_REPLICATION_TASK);
    pass(t, 11000); /* the lease is over */
    assert_int_equal(rpc_remove_regex(w, "k", true), 0);
    assert_int_equal(rpc_remove_all(w, true), 0);
    for (int i = 0; i < 140; i++) { /* more than both segments hold */
        char key[16];
        snprintf(key, sizeof(key), "n%d", i);
        assert_int_equal(rpc_store(w, key, 16 * 1024 - 64, NULL), MCS_OK);
    }
    assert_true(is_there(t, "k"));
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_remove(w, "k", false), MCS_OK);
    assert_true(rpc_remove_all(w, true) > 0);
    pass(t, 100); /* eviction passed it over: as if it had been used just now */
    assert_int_equal(tasks_settle(t), 0);
}

/* The clock stands still, so that all are of one age. */
static void those_that_cannot_go_leave_the_turn_to_others_as_old(void **state)
{
    enum { KEPT = 40 };
    tasks_t *t = *state;
    static rpc_task_t tasks[KEPT];
    char key[16];
    for (int i = 0; i < KEPT; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        store_in(t, key, 16 * 1024 - 64, A);
        assert_int_equal(rpc_copy_task(&t->f->writer, key, to_c, NULL), MCS_OK);
    }
    uint32_t fetched = 0; /* a fetch has a limit of its own */
    for (uint32_t got; (got = rpc_fetch_tasks(&t->f->owner, KEPT - fetched, tasks + fetched)) > 0;) {
        fetched += got;
    }
    assert_true(fetched > 16); /* more than a window of tails */
    for (int i = 0; i < 140; i++) {
        snprintf(key, sizeof(key), "n%d", i);
        assert_int_equal(rpc_store(&t->f->writer, key, 16 * 1024 - 64, NULL), MCS_OK);
    }
    for (uint32_t i = 0; i < fetched; i++) {
        assert_true(is_there(t, tasks[i].key));
    }
}

static void an_upsert_wins_and_the_task_begins_again_with_its_value(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    mcs_id_t id;
    rpc_put_t put;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(w, "k", to_c, &id), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    const char *preferred[] = {A};
    rpc_put_options_t again = {.upsert = true, .preferred = preferred, .preferred_count = 1};
    assert_int_equal(rpc_put_one(w, "k", 2000, &again, &put), MCS_OK);
    /* The executor hears that its reservation is revoked, and its end comes too late. */
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    while (t->f->owner.revoked.len == 0) {
        world_tick(&t->f->world);
        rpc_pump(&t->f->owner, 1);
    }
    assert_memory_equal(t->f->owner.revoked.bytes, &task.put_id, sizeof(task.put_id));
    pass(t, 1000); /* the put is open: the task waits */
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 1, &task), 0);
    assert_int_equal(rpc_end_one(w, put.put_id), MCS_OK);
    for (int i = 0; i < 100 && rpc_fetch_tasks(&t->f->owner, 1, &task) == 0; i++) {
        pass(t, 100);
    }
    assert_int_equal(task.payload_len, 2000);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_OK);
    assert_string_equal(places(t, "k"), "ac");
    assert_int_equal(rpc_task_status(w, id), SUCCESS);
    assert_int_equal(tasks_settle(t), 2 * mcs_extent_len(2000));
}

/* Rule 2: nobody gets the old value after somebody got the new one, also not where it lay before a move. */
static void an_upsert_after_a_move_ends_the_place_that_was_left(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    rpc_put_t put;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_lookup(w, "k", false, NULL), MCS_OK);
    assert_int_equal(rpc_move_task(w, "k", A, C, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    t->f->owner.auto_release = false;
    t->other.auto_release = false;
    assert_int_equal(rpc_put_one(w, "k", 3000, &upsert, &put), MCS_OK);
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    sequence.seq = sequence.ack = ++w->seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(put.put_id), (uint8_t *)&put.put_id};
    uint64_t request = rpc_send(w, &w->call, MCS_VERB_PUT_END, &end.base);
    while (t->f->owner.releases == 0 || t->other.releases == 0) {
        world_tick(&t->f->world);
        rpc_pump(&t->f->owner, 1);
        rpc_pump(&t->other, 1);
    }
    rpc_answer_releases(&t->other);
    pass(t, 100);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&t->other, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 1000); /* the old one: its first place may still be read */
    rpc_answer_releases(&t->f->owner);
    assert_int_equal(rpc_wait(w, &w->call, request, NULL, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&t->other, "k", true, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 3000);
    t->f->owner.auto_release = true;
    t->other.auto_release = true;
    assert_int_equal(tasks_settle(t), mcs_extent_len(3000));
}

static void a_forced_removal_after_a_move_waits_for_the_place_that_was_left(void **state)
{
    tasks_t *t = *state;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_lookup(&t->f->writer, "k", false, NULL), MCS_OK);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_int_equal(rpc_remove(&t->other, "k", true), MCS_OK);
    assert_int_equal(t->f->owner.releases, 1);
    assert_int_equal(t->other.releases, 1);
    assert_int_equal(tasks_settle(t), 0);
    pass(t, 11000); /* what waited for the lease finds nothing more to do */
    assert_int_equal(tasks_settle(t), 0);
    assert_int_equal(t->f->owner.releases, 1);
}

static void pins_groups_and_leases_go_along(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *w = &t->f->writer;
    const char *preferred[] = {A};
    rpc_put_options_t options = {
        .preferred = preferred, .preferred_count = 1, .soft_pin_action = 1, .hard_pin = true, .group = "g"};
    assert_int_equal(rpc_store(w, "k", 1000, &options), MCS_OK);
    assert_int_equal(rpc_lookup(w, "k", false, NULL), MCS_OK);
    assert_int_equal(rpc_move_task(w, "k", A, C, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_int_equal(world_totals(&t->f->world).soft_pinned, 1);
    assert_int_equal(world_totals(&t->f->world).objects, 1);
    assert_int_equal(rpc_remove(w, "k", false), MCS_ERR_OBJECT_HAS_LEASE);
    svc_index_t *index = &t->f->world.service->index;
    uint64_t hash = svc_index_hash(index, "k", 1);
    svc_shard_t *shard = svc_index_shard(index, hash);
    mcs_mutex_lock(&shard->lock);
    const svc_record_t *record = svc_record(index, svc_shard_find_locked(index, shard, hash, "k", 1));
    bool pinned = (record->flags & SVC_REC_HARD) != 0;
    svc_group_t *group = svc_record_group(record);
    uint64_t generation = record->replicas[0].generation;
    mcs_buf_t members;
    mcs_buf_init(&members, 4096);
    assert_non_null(group);
    assert_true(svc_group_members(group, &members));
    mcs_mutex_unlock(&shard->lock);
    assert_true(pinned);
    assert_int_equal(members.len, sizeof(svc_member_t));
    assert_int_equal(((const svc_member_t *)(const void *)members.bytes)->generation, generation);
    mcs_buf_fini(&members);
    pass(t, 11000);
    assert_int_equal(rpc_remove(w, "k", false), MCS_OK);
    assert_int_equal(world_totals(&t->f->world).soft_pinned, 0);
    assert_int_equal(tasks_settle(t), 0);
}

/* ---- executors that fail ---- */

static void nobody_comes_for_a_task(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    pass(t, 299000);
    assert_int_equal(rpc_task_status(&t->f->writer, id), PENDING);
    pass(t, 2000);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->f->writer, id, &info), MCS_OK);
    assert_int_equal(info.status, FAILED);
    assert_string_equal(info.message, "RPC_TIMEOUT");
    rpc_task_t task;
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 1, &task), 0);
    assert_int_equal(rpc_remove(&t->f->writer, "k", false), MCS_OK);
}

static void few_tries(mcs_master_config_t *conf)
{
    conf->max_retry_attempts = 2;
    conf->processing_task_timeout_sec = 20;
}

static int setup_few_tries(void **state)
{
    return tasks_setup_with(state, few_tries);
}

static rpc_task_t fetch_later(tasks_t *t, rpc_client_t *client)
{
    rpc_task_t task;
    for (int i = 0; i < 200; i++) {
        if (rpc_fetch_tasks(client, 1, &task) == 1) {
            return task;
        }
        pass(t, 100);
    }
    fail_msg("the task does not come again");
    return task;
}

static void an_overdue_task_is_taken_back_and_tried_again(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *owner = &t->f->owner;
    mcs_id_t id;
    owner->auto_ack = false; /* a stopped executor */
    t->other.auto_release = false;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    rpc_task_t first = fetch_one(owner);
    pass(t, 19000);
    assert_int_equal(rpc_task_status(owner, id), PROCESSING);
    pass(t, 2000);
    pass(t, 100); /* the poll that proves its silence has been finished */
    assert_int_equal(rpc_task_status(owner, id), PENDING);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(owner, id, &info), MCS_OK);
    assert_string_equal(info.message, "another try after RPC_TIMEOUT");
    /* What it may still write to comes back by its owner's answer alone, which remembers the generation (rule 5). */
    assert_int_equal(t->other.releases, 1);
    assert_int_equal(t->other.may_write, 1);
    assert_int_equal(rpc_end_task(owner, &first, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    assert_string_equal(places(t, "k"), "a");
    t->other.auto_release = true;
    rpc_answer_releases(&t->other);
    for (int tries = 0; tries < 2; tries++) {
        (void)fetch_later(t, owner);
        pass(t, 21000);
        pass(t, 100);
    }
    assert_int_equal(rpc_query_task(owner, id, &info), MCS_OK);
    assert_int_equal(info.status, FAILED);
    assert_string_equal(info.message, "RPC_TIMEOUT");
    rpc_ack(owner, (const uint64_t *)(const void *)owner->revoked.bytes, owner->revoked.len / sizeof(uint64_t));
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
}

static void a_failed_transfer_is_tried_again_and_its_extent_comes_back(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_ERR_TRANSFER_FAIL, 0), MCS_OK);
    assert_int_equal(t->other.may_write, 0); /* it says that it writes no more */
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
    task = fetch_later(t, &t->f->owner);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_ERR_TRANSFER_FAIL, MCS_TASK_IN_DOUBT), MCS_OK);
    tasks_settle(t);
    assert_int_equal(t->other.may_write, 1); /* this time something may still arrive */
    task = fetch_later(t, &t->f->owner);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, (mcs_status_t)-12345, 0), MCS_OK); /* no code at all */
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->f->owner, id, &info), MCS_OK);
    assert_int_equal(info.status, FAILED);
    assert_string_equal(info.message, "TRANSFER_FAIL");
    assert_string_equal(places(t, "k"), "a");
}

static void the_end_of_the_executors_session_gives_a_copy_to_another_owner(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_client_t third;
    world_client(&t->f->world, &third, "host-d:1");
    rpc_mount(&third, "host-d:1", SEGMENT);
    const char *to_d[] = {"host-d:1", NULL};
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, NULL), MCS_OK);
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_string_equal(places(t, "k"), "ac");
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_d, &id), MCS_OK);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->f->writer, id, &info), MCS_OK);
    bool by_owner = mcs_id_equal(info.client, t->f->owner.client);
    rpc_client_t *executor = by_owner ? &t->f->owner : &t->other;
    rpc_client_t *stays = by_owner ? &t->other : &t->f->owner;
    (void)fetch_one(executor);
    assert_int_equal(rpc_goodbye(executor), MCS_OK);
    t->f->world.peer = NULL;
    rpc_task_t task = {.put_id = 0};
    for (int i = 0; i < 2000 && rpc_fetch_tasks(stays, 1, &task) == 0; i++) {
        unit_wait(&t->f->world);
    }
    assert_int_equal(rpc_end_task(stays, &task, MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_task_status(&t->f->writer, id), SUCCESS);
    rpc_client_t *clients[] = {stays, &third, &t->f->writer};
    assert_int_equal(world_settle(&t->f->world, clients, 3), 2 * mcs_extent_len(1000));
    rpc_client_fini(&third);
}

static void a_move_whose_source_is_gone_fails(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, &id), MCS_OK);
    (void)fetch_one(&t->f->owner);
    assert_int_equal(rpc_goodbye(&t->f->owner), MCS_OK);
    t->f->world.peer = NULL;
    rpc_task_info_t info = {.status = PENDING};
    for (int i = 0; i < 2000 && info.status != FAILED; i++) {
        unit_wait(&t->f->world);
        assert_int_equal(rpc_query_task(&t->f->writer, id, &info), MCS_OK);
    }
    assert_int_equal(info.status, FAILED);
    assert_true(strcmp(info.message, "OBJECT_NOT_FOUND") == 0 || strcmp(info.message, "REPLICA_NOT_FOUND") == 0);
    rpc_client_t *clients[] = {&t->other, &t->f->writer};
    assert_int_equal(world_settle(&t->f->world, clients, 2), 0);
}

static void a_target_that_goes_away_costs_a_try_and_nothing_else(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, &id), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    assert_int_equal(rpc_unmount(&t->other, t->instance), MCS_OK);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_ERR_REPLICA_IS_GONE);
    assert_string_equal(places(t, "k"), "a");
    assert_int_equal(rpc_task_status(&t->f->writer, id), PENDING);
    t->instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(&t->other, C, SEGMENT, t->instance, &t->handle, &t->key), MCS_OK);
    task = fetch_later(t, &t->f->owner);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_OK);
    assert_string_equal(places(t, "k"), "c");
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
}

static void a_copy_to_two_places_of_which_one_is_lost_keeps_the_other(void **state)
{
    tasks_t *t = *state;
    const char *both[] = {C, B, NULL};
    mcs_id_t instance = rpc_mount(&t->f->writer, B, SEGMENT);
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", both, NULL), MCS_OK);
    rpc_task_t task = fetch_one(&t->f->owner);
    assert_int_equal(task.target_count, 2);
    assert_int_equal(rpc_unmount(&t->f->writer, instance), MCS_OK);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_OK, 0), MCS_OK);
    assert_string_equal(places(t, "k"), "ac");
    assert_int_equal(tasks_settle(t), 2 * mcs_extent_len(1000));
}

static void a_task_that_finds_no_room_is_tried_again_and_then_fails(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    const char *preferred[] = {A};
    rpc_put_options_t hard = {.hard_pin = true, .preferred = preferred, .preferred_count = 1};
    assert_int_equal(rpc_store(&t->f->writer, "k", 100000, &hard), MCS_OK);
    preferred[0] = C;
    assert_int_equal(rpc_store(&t->f->writer, "full", SEGMENT - 50000, &hard), MCS_OK);
    assert_int_equal(rpc_move_task(&t->f->writer, "k", A, C, &id), MCS_OK);
    rpc_task_t task;
    rpc_task_info_t info = {.status = PENDING};
    for (int i = 0; i < 300 && info.status != FAILED; i++) {
        assert_int_equal(rpc_fetch_tasks(&t->f->owner, 1, &task), 0);
        pass(t, 200);
        assert_int_equal(rpc_query_task(&t->f->writer, id, &info), MCS_OK);
    }
    assert_int_equal(info.status, FAILED);
    assert_string_equal(info.message, "NO_AVAILABLE_HANDLE");
    assert_int_equal(mcs_metric_get(&t->f->world.metrics, move_start_failures), 11);
    assert_string_equal(places(t, "k"), "a");
}

static void an_executor_that_reconnects_is_told_again(void **state)
{
    tasks_t *t = *state;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, NULL), MCS_OK);
    assert_true(is_told(t, &t->f->owner));
    rpc_client_drop_control(&t->f->owner);
    assert_int_equal(rpc_client_open(&t->f->owner), MCS_OK);
    assert_true(t->f->owner.resumed);
    assert_true(is_told(t, &t->f->owner));
    pass(t, 1500); /* steady again: a suspect owner's replicas are no sources */
    assert_int_equal(rpc_do_tasks(&t->f->owner), 1);
    assert_string_equal(places(t, "k"), "ac");
}

static void what_an_idle_executor_has_lost_is_taken_back_and_given_again(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *owner = &t->f->owner;
    mcs_id_t id;
    rpc_task_t task;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, &id), MCS_OK);
    rpc_task_t lost = fetch_one(owner);
    assert_int_equal(rpc_fetch_tasks_idle(owner, 1, &task), 0);
    pass(t, 100);
    assert_int_equal(rpc_task_status(owner, id), PENDING);
    assert_int_equal(rpc_end_task(owner, &lost, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    task = fetch_later(t, owner);
    assert_int_equal(rpc_end_task(owner, &task, MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_fetch_tasks_idle(owner, 1, &task), 0);
    pass(t, 100);
    assert_int_equal(rpc_task_status(owner, id), SUCCESS);
    assert_int_equal(tasks_settle(t), 2 * mcs_extent_len(1000));
}

/* ---- repeats and limits ---- */

static void a_repeated_fetch_gets_the_same_tasks(void **state)
{
    tasks_t *t = *state;
    rpc_client_t *owner = &t->f->owner;
    store_in(t, "k", 1000, A);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k", to_c, NULL), MCS_OK);
    rpc_task_t first = fetch_one(owner);
    owner->seq--; /* the answer was lost */
    rpc_client_drop_call(owner);
    rpc_task_t second = fetch_one(owner);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_int_equal(rpc_end_task(owner, &second, MCS_OK, 0), MCS_OK);
    owner->seq--;
    assert_int_equal(rpc_end_task(owner, &second, MCS_OK, 0), MCS_OK);
    assert_int_equal(mcs_metric_get(&t->f->world.metrics, rpc_replays), 2);
}

static void small_limits(mcs_master_config_t *conf)
{
    conf->max_total_pending_tasks = 3;
    conf->max_total_processing_tasks = 2;
    conf->max_total_finished_tasks = 1;
}

static int setup_small_limits(void **state)
{
    return tasks_setup_with(state, small_limits);
}

static void tasks_are_bounded_in_every_state(void **state)
{
    tasks_t *t = *state;
    mcs_id_t ids[4];
    char key[8];
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        store_in(t, key, 1000, A);
        assert_int_equal(rpc_copy_task(&t->f->writer, key, to_c, &ids[i]),
                         i < 3 ? MCS_OK : MCS_ERR_TASK_PENDING_LIMIT_EXCEEDED);
    }
    rpc_task_t tasks[4];
    rpc_task_t more[4];
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 4, tasks), 2);
    assert_int_equal(rpc_copy_task(&t->f->writer, "k3", to_c, &ids[3]), MCS_OK);
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 4, more), 0);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[0], MCS_OK, 0), MCS_OK);
    assert_true(is_told(t, &t->f->owner) || t->f->owner.tasks_told > 0);
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 4, more), 1);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[1], MCS_OK, 0), MCS_OK);
    rpc_task_info_t info;
    assert_int_equal(rpc_query_task(&t->f->writer, ids[0], &info), MCS_ERR_TASK_NOT_FOUND); /* forgotten */
    assert_int_equal(rpc_task_status(&t->f->writer, ids[1]), SUCCESS);
}

/* ---- torture ---- */

static void short_tasks(mcs_master_config_t *conf)
{
    conf->default_kv_lease_ttl = 1000;
    conf->processing_task_timeout_sec = 2;
    conf->pending_task_timeout_sec = 5;
}

static int setup_short_tasks(void **state)
{
    return tasks_setup_with(state, short_tasks);
}

static mcs_status_t whole_life(void *arg)
{
    tasks_t *t = arg;
    mcs_status_t status = rpc_move_task(&t->f->writer, "k", A, C, NULL);
    if (status != MCS_OK) {
        return status;
    }
    rpc_task_t task;
    mcs_status_t result = MCS_ERR_NO_MEMORY;
    for (int i = 0; i < 100; i++) { /* a lack of memory is one of the failures that are tried again */
        if (rpc_fetch_tasks(&t->f->owner, 1, &task) == 1) {
            result = (mcs_status_t)rpc_end_task(&t->f->owner, &task, MCS_OK, 0);
            break;
        }
        world_pass(&t->f->world, 50);
    }
    return result;
}

static void work_off(tasks_t *t)
{
    (void)rpc_do_tasks(&t->f->owner);
    (void)rpc_do_tasks(&t->other);
}

static void no_lost_allocation_costs_an_object_or_an_extent(void **state)
{
    tasks_t *t = *state;
    store_in(t, "k", 1000, A);
    bool fired = true;
    for (uint64_t nth = 1; fired; nth++) {
        assert_true(nth < 500);
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        (void)whole_life(t);
        fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        pass(t, 8000); /* an executor that did not get its answer is overdue, and the task comes again or has failed */
        work_off(t);
        if (strcmp(places(t, "k"), "c") == 0) {
            assert_int_equal(rpc_move_task(&t->f->writer, "k", C, A, NULL), MCS_OK);
            work_off(t);
        }
        assert_string_equal(places(t, "k"), "a");
        assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
    }
}

/* ---- everything at once ---- */

static void churn_step(tasks_t *t, unsigned *seed)
{
    rpc_client_t *w = &t->f->writer;
    char key[8];
    snprintf(key, sizeof(key), "k%d", rand_r(seed) % 12);
    uint64_t size = 500 + (uint64_t)(rand_r(seed) % 20000);
    rpc_task_t task;
    rpc_client_t *executor = rand_r(seed) % 2 == 0 ? &t->f->owner : &t->other;
    switch (rand_r(seed) % 10) {
    case 0: rpc_store(w, key, size, NULL); break;
    case 1: rpc_store(w, key, size, &upsert); break;
    case 2: rpc_remove(w, key, rand_r(seed) % 2 == 0); break;
    case 3: rpc_lookup(w, key, false, NULL); break;
    case 4: rpc_copy_task(w, key, to_c, NULL); break;
    case 5: rpc_move_task(w, key, A, C, NULL); break;
    case 6: rpc_move_task(w, key, C, A, NULL); break;
    case 7:
        if (rpc_fetch_tasks(executor, 1, &task) == 1) {
            rpc_end_task(executor, &task, rand_r(seed) % 4 == 0 ? MCS_ERR_TRANSFER_FAIL : MCS_OK, 0);
        }
        break;
    case 8: rpc_fetch_tasks(executor, 1, &task); break; /* and no end */
    default: world_pass(&t->f->world, 300); break;
    }
}

static void the_books_balance_whatever_happens(void **state)
{
    tasks_t *t = *state;
    unsigned seed = 7;
    tasks_idle(t, tasks_passing);
    for (int i = 0; i < 1500; i++) {
        churn_step(t, &seed);
        if (i % 50 == 0) {
            pass(t, 100);
            rpc_pump(&t->other, 0);
            rpc_pump(&t->f->owner, 0);
        }
    }
    pass(t, 20000); /* every task has ended, every lease is over */
    assert_int_equal(tasks_settle(t), world_walk_bytes(&t->f->world));
    assert_true(rpc_remove_all(&t->f->writer, true) >= 0);
    assert_int_equal(world_totals(&t->f->world).objects, 0);
    assert_int_equal(tasks_settle(t), 0);
}

#define TEST(name)             cmocka_unit_test_setup_teardown(name, tasks_setup, tasks_teardown)
#define TEST_WITH(name, setup) cmocka_unit_test_setup_teardown(name, setup, tasks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_copy_is_readable_when_it_is_whole_and_not_before),
        TEST(an_end_makes_the_copy_a_replica),
        TEST(a_moved_replica_lives_until_the_leases_on_it_are_over),
        TEST(a_replica_that_nobody_read_is_given_back_at_once),
        TEST(a_value_that_moves_to_and_fro_is_never_hidden),
        TEST(targets_that_have_a_replica_stay_and_a_move_gives_up_its_source),
        TEST(bad_tasks_are_refused_by_their_codes),
        TEST(garbage_costs_the_connection_or_an_error),
        TEST(an_object_under_a_task_is_neither_removed_nor_evicted),
        TEST(those_that_cannot_go_leave_the_turn_to_others_as_old),
        TEST(an_upsert_wins_and_the_task_begins_again_with_its_value),
        TEST(an_upsert_after_a_move_ends_the_place_that_was_left),
        TEST(a_forced_removal_after_a_move_waits_for_the_place_that_was_left),
        TEST(pins_groups_and_leases_go_along),
        TEST(nobody_comes_for_a_task),
        TEST_WITH(an_overdue_task_is_taken_back_and_tried_again, setup_few_tries),
        TEST_WITH(a_failed_transfer_is_tried_again_and_its_extent_comes_back, setup_few_tries),
        TEST(the_end_of_the_executors_session_gives_a_copy_to_another_owner),
        TEST(a_move_whose_source_is_gone_fails),
        TEST(a_target_that_goes_away_costs_a_try_and_nothing_else),
        TEST(a_copy_to_two_places_of_which_one_is_lost_keeps_the_other),
        TEST(a_task_that_finds_no_room_is_tried_again_and_then_fails),
        TEST(an_executor_that_reconnects_is_told_again),
        TEST(what_an_idle_executor_has_lost_is_taken_back_and_given_again),
        TEST(a_repeated_fetch_gets_the_same_tasks),
        TEST_WITH(tasks_are_bounded_in_every_state, setup_small_limits),
        TEST_WITH(no_lost_allocation_costs_an_object_or_an_extent, setup_short_tasks),
        TEST_WITH(the_books_balance_whatever_happens, setup_short_tasks),
    };
    return cmocka_run_group_tests_name("tasks of the master", tests, NULL, NULL);
}
