/* Drain jobs: segments are emptied by moves, and what they do when that cannot be. */
#include "tests/unit/master_service/task_fixture.h"

#include "core/base/alloc.h"

static const char *const just_a[] = {A};
static const char *const just_c[] = {C};

static mcs_status_t start(tasks_t *t, const char *const *segments, size_t count, uint64_t most, mcs_id_t *id_out)
{
    const mcs_service_drain_ask_t ask = {.segments = segments, .segment_count = count, .max_concurrency = most};
    return mcs_service_drain_start(t->f->world.service, &ask, id_out);
}

static mcs_service_drain_t query(tasks_t *t, mcs_id_t id)
{
    mcs_service_drain_t drain;
    assert_int_equal(mcs_service_drain_query(t->f->world.service, id, &drain), MCS_OK);
    mcs_service_drain_fini(&drain);
    return drain;
}

static bool find_state(void *arg, const mcs_service_segment_t *segment)
{
    mcs_service_segment_t *wanted = arg;
    if (strcmp(segment->name, wanted->name) != 0) {
        return true;
    }
    wanted->state = segment->state;
    return false;
}

/* OK 1, DRAINING 2, DRAINED 3, GRACEFULLY_UNMOUNTING 4; 0: not mounted. */
static uint32_t state_of(tasks_t *t, const char *name)
{
    mcs_service_segment_t wanted = {.state = 0};
    snprintf(wanted.name, sizeof(wanted.name), "%s", name);
    mcs_service_for_each_segment(t->f->world.service, find_state, &wanted);
    return wanted.state;
}

/* Both owners do what they are told until the job is over; how long that takes on the fake clock is bounded. */
static mcs_service_drain_t run(tasks_t *t, mcs_id_t id)
{
    mcs_service_drain_t drain = query(t, id);
    for (int i = 0; i < 2000 && drain.status <= 2; i++) {
        (void)rpc_do_tasks(&t->f->owner);
        (void)rpc_do_tasks(&t->other);
        world_passing(&t->f->world);
        if (i % 100 == 99) {
            pass(t, 600);
        }
        drain = query(t, id);
    }
    return drain;
}

static void store_n(tasks_t *t, const char *segment, int count, uint64_t size)
{
    for (int i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        store_in(t, key, size, segment);
    }
}

static void expect_all(tasks_t *t, int count, const char *where)
{
    for (int i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        assert_string_equal(places(t, key), where);
    }
}

/* ---- that work ---- */

static void a_job_empties_its_segments(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_n(t, A, 40, 5000);
    assert_int_equal(rpc_lookup(&t->f->writer, "k3", false, NULL), MCS_OK);
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    assert_int_equal(state_of(t, A), 2); /* at once */
    mcs_service_drain_t drain = query(t, id);
    assert_int_equal(drain.status, 0);
    assert_string_equal(drain.status_name, "CREATED");
    assert_int_equal(drain.segment_count, 1);
    assert_true(drain.created_ms > 0);
    store_in(t, "new", 5000, A);
    assert_string_equal(places(t, "new"), "c"); /* takes nothing new */
    expect_all(t, 40, "a");                     /* and is read */
    drain = run(t, id);
    assert_string_equal(drain.status_name, "SUCCEEDED");
    assert_int_equal(drain.succeeded, 40);
    assert_int_equal(drain.bytes, 40 * 5000);
    assert_int_equal(drain.failed + drain.blocked + drain.active, 0);
    assert_string_equal(drain.message, "");
    assert_int_equal(state_of(t, A), 3);
    expect_all(t, 40, "c");
    store_in(t, "newer", 5000, A);
    assert_string_equal(places(t, "newer"), "c");
    pass(t, 11000);
    assert_int_equal(tasks_settle(t), 42 * mcs_extent_len(5000));
    assert_int_equal(rpc_unmount(&t->f->owner, t->f->instance), MCS_OK);
    expect_all(t, 40, "c");
}

/* A turn of the walk is bounded in time, so that a busy machine needs more of them. */
static void expect_active(tasks_t *t, mcs_id_t id, uint32_t count)
{
    for (int i = 0; i < 1000 && query(t, id).active < count; i++) {
        world_passing(&t->f->world);
    }
    assert_int_equal(query(t, id).active, count);
}

static void no_more_is_moved_at_a_time_than_the_job_may(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_task_t tasks[8];
    store_n(t, A, 20, 1000);
    assert_int_equal(start(t, just_a, 1, 3, &id), MCS_OK);
    assert_true(is_told(t, &t->f->owner));
    expect_active(t, id, 3);
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 8, tasks), 3);
    assert_int_equal(query(t, id).status, 2);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[0], MCS_OK, 0), MCS_OK);
    expect_active(t, id, 3);
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 8, &tasks[3]), 1);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[1], MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[2], MCS_OK, 0), MCS_OK);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[3], MCS_OK, 0), MCS_OK);
    assert_int_equal(run(t, id).succeeded, 20);
    rpc_task_info_t info; /* its units are no tasks that can be asked for */
    assert_int_equal(rpc_query_task(&t->f->writer, tasks[0].id, &info), MCS_ERR_TASK_NOT_FOUND);
}

static void targets_are_kept_to(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_mount(&t->f->writer, B, SEGMENT);
    store_n(t, A, 20, 1000);
    const char *const to_b[] = {B};
    const mcs_service_drain_ask_t ask = {
        .segments = just_a, .segment_count = 1, .targets = to_b, .target_count = 1, .max_concurrency = 8};
    assert_int_equal(mcs_service_drain_start(t->f->world.service, &ask, &id), MCS_OK);
    assert_int_equal(run(t, id).succeeded, 20);
    expect_all(t, 20, "?"); /* B */
}

static void a_put_that_was_open_is_waited_for_and_moved(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_put_t fresh;
    rpc_put_t again;
    const char *preferred[] = {A};
    rpc_put_options_t options = {.preferred = preferred, .preferred_count = 1};
    rpc_put_options_t upsert = options;
    upsert.upsert = true;
    store_in(t, "k0", 1000, C);
    assert_int_equal(rpc_put_one(&t->f->writer, "k1", 1000, &options, &fresh), MCS_OK);
    assert_int_equal(rpc_put_one(&t->f->writer, "k0", 1000, &upsert, &again), MCS_OK);
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    for (int i = 0; i < 5; i++) {
        pass(t, 600);
        assert_int_equal(query(t, id).status, 2);
    }
    assert_int_equal(rpc_end_one(&t->f->writer, fresh.put_id), MCS_OK);
    pass(t, 600);
    (void)rpc_do_tasks(&t->f->owner);
    pass(t, 600);
    assert_int_equal(query(t, id).status, 2);
    assert_int_equal(rpc_end_one(&t->f->writer, again.put_id), MCS_OK);
    assert_string_equal(run(t, id).status_name, "SUCCEEDED");
    expect_all(t, 2, "c");
}

static void a_replica_that_has_no_place_to_go_is_left_when_there_is_another(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_put_options_t two = {.replica_num = 2};
    assert_int_equal(rpc_store(&t->f->writer, "k0", 1000, &two), MCS_OK);
    assert_int_equal(rpc_lookup(&t->f->writer, "k0", false, NULL), MCS_OK);
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    mcs_service_drain_t drain = run(t, id);
    assert_string_equal(drain.status_name, "SUCCEEDED");
    assert_int_equal(drain.succeeded, 1);
    assert_int_equal(drain.bytes, 0);
    expect_all(t, 1, "c");
    assert_int_equal(tasks_settle(t), 2 * mcs_extent_len(1000)); /* for whoever has a lease on it */
    pass(t, 11000);
    assert_int_equal(tasks_settle(t), mcs_extent_len(1000));
}

static void an_empty_segment_is_drained_at_once(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    assert_int_equal(start(t, just_a, 1, 1, &id), MCS_OK);
    mcs_service_drain_t drain = run(t, id);
    assert_string_equal(drain.status_name, "SUCCEEDED");
    assert_int_equal(drain.succeeded, 0);
    assert_int_equal(start(t, just_a, 1, 1, &id), MCS_OK); /* once more: nothing came */
    assert_string_equal(run(t, id).status_name, "SUCCEEDED");
}

/* ---- that do not ---- */

static void bad_jobs_are_refused(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    const char *const nobody[] = {"nobody:1"};
    const char *const twice[] = {A, A};
    const char *const empty[] = {""};
    const char *many[65];
    char names[65][16];
    for (int i = 0; i < 65; i++) {
        snprintf(names[i], sizeof(names[i]), "host:%d", i);
        many[i] = names[i];
    }
    assert_int_equal(start(t, just_a, 0, 1, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, just_a, 1, 0, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, just_a, 1, 1000000, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, twice, 2, 1, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, empty, 1, 1, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, many, 65, 1, &id), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(start(t, nobody, 1, 1, &id), MCS_ERR_SEGMENT_NOT_FOUND);
    mcs_service_drain_ask_t ask = {
        .segments = just_a, .segment_count = 1, .targets = just_a, .target_count = 1, .max_concurrency = 1};
    assert_int_equal(mcs_service_drain_start(t->f->world.service, &ask, &id), MCS_ERR_INVALID_PARAMS);
    ask.targets = nobody;
    assert_int_equal(mcs_service_drain_start(t->f->world.service, &ask, &id), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_int_equal(state_of(t, A), 1);
    store_n(t, A, 1, 1000);
    assert_int_equal(start(t, just_a, 1, 1, &id), MCS_OK);
    mcs_id_t second;
    assert_int_equal(start(t, just_a, 1, 1, &second), MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS);
    mcs_service_drain_t drain;
    assert_int_equal(mcs_service_drain_query(t->f->world.service, (mcs_id_t){1, 2}, &drain), MCS_ERR_JOB_NOT_FOUND);
    assert_int_equal(mcs_service_drain_cancel(t->f->world.service, (mcs_id_t){1, 2}), MCS_ERR_JOB_NOT_FOUND);
}

static void a_canceled_job_leaves_the_rest_where_it_is(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_task_t tasks[4];
    store_n(t, A, 20, 1000);
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    assert_true(is_told(t, &t->f->owner));
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 1, tasks), 1);
    assert_int_equal(mcs_service_drain_cancel(t->f->world.service, id), MCS_OK);
    assert_int_equal(mcs_service_drain_cancel(t->f->world.service, id), MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS);
    assert_int_equal(state_of(t, A), 1);
    assert_int_equal(rpc_end_task(&t->f->owner, &tasks[0], MCS_OK, 0), MCS_OK); /* what was moving is moved */
    pass(t, 1000);
    assert_int_equal(rpc_fetch_tasks(&t->f->owner, 4, tasks), 0);
    mcs_service_drain_t drain = query(t, id);
    assert_string_equal(drain.status_name, "CANCELED");
    assert_int_equal(drain.succeeded, 1);
    assert_int_equal(drain.active, 0);
    int moved = 0;
    for (int i = 0; i < 20; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        moved += strcmp(places(t, key), "c") == 0;
    }
    assert_int_equal(moved, 1);
    store_in(t, "new", 1000, A);
    assert_string_equal(places(t, "new"), "a");
}

static void few_tries(mcs_master_config_t *conf)
{
    conf->max_retry_attempts = 2;
}

static int setup_few_tries(void **state)
{
    return tasks_setup_with(state, few_tries);
}

static void a_job_without_room_fails_and_its_segments_take_objects_again(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    const char *preferred[] = {C};
    rpc_put_options_t hard = {.hard_pin = true, .preferred = preferred, .preferred_count = 1};
    assert_int_equal(rpc_store(&t->f->writer, "full", SEGMENT - 100000, &hard), MCS_OK);
    preferred[0] = A;
    for (int i = 0; i < 4; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&t->f->writer, key, 60000, &hard), MCS_OK);
    }
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    mcs_service_drain_t drain = run(t, id);
    assert_string_equal(drain.status_name, "FAILED");
    assert_int_equal(drain.succeeded, 1); /* there was room for one */
    assert_int_equal(drain.failed, 3);
    assert_true(drain.message[0] != '\0');
    assert_int_equal(state_of(t, A), 1);
    assert_int_equal(tasks_settle(t), mcs_extent_len(SEGMENT - 100000) + 4 * mcs_extent_len(60000));
}

static void a_job_whose_segment_goes_away_fails(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_n(t, A, 5, 1000);
    assert_int_equal(start(t, just_a, 1, 1, &id), MCS_OK);
    assert_int_equal(rpc_unmount(&t->f->owner, t->f->instance), MCS_OK);
    mcs_service_drain_t drain = run(t, id);
    assert_string_equal(drain.status_name, "FAILED");
    assert_string_equal(drain.message, "a segment went away before it was empty");
    pass(t, 600);
    assert_int_equal(tasks_settle(t), 0);
}

static void an_executor_that_fails_a_unit_is_asked_again_in_the_next_pass(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    rpc_task_t task;
    store_n(t, A, 3, 1000);
    assert_int_equal(start(t, just_a, 1, 1, &id), MCS_OK);
    assert_true(is_told(t, &t->f->owner));
    task = fetch_one(&t->f->owner);
    assert_int_equal(rpc_end_task(&t->f->owner, &task, MCS_ERR_TRANSFER_FAIL, 0), MCS_OK);
    assert_int_equal(query(t, id).blocked, 1);
    mcs_service_drain_t drain = run(t, id);
    assert_string_equal(drain.status_name, "SUCCEEDED");
    assert_int_equal(drain.succeeded, 3);
    expect_all(t, 3, "c");
}

/* ---- unmounting with a grace period ---- */

static mcs_status_t unmount_later(rpc_client_t *client, mcs_id_t instance, uint32_t grace_seconds)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__UnmountSegment unmount = MCS__WIRE__UNMOUNT_SEGMENT__INIT;
    sequence.seq = sequence.ack = ++client->seq;
    id.hi = instance.hi;
    id.lo = instance.lo;
    unmount.sequence = &sequence;
    unmount.instance = &id;
    unmount.grace_seconds = grace_seconds;
    return rpc_call(client, MCS_VERB_UNMOUNT_SEGMENT, &unmount.base, NULL, NULL);
}

static void a_segment_in_its_grace_is_read_takes_nothing_and_can_be_drained(void **state)
{
    tasks_t *t = *state;
    mcs_id_t id;
    store_n(t, A, 5, 1000);
    assert_int_equal(unmount_later(&t->f->owner, t->f->instance, 60), MCS_OK);
    assert_int_equal(state_of(t, A), 4);
    expect_all(t, 5, "a");
    store_in(t, "new", 1000, A);
    assert_string_equal(places(t, "new"), "c");
    assert_int_equal(start(t, just_a, 1, 4, &id), MCS_OK);
    assert_int_equal(state_of(t, A), 4);
    assert_string_equal(run(t, id).status_name, "SUCCEEDED");
    expect_all(t, 5, "c");
    pass(t, 61000);
    assert_int_equal(state_of(t, A), 0);
    expect_all(t, 5, "c");
}

static void the_last_call_decides_when_a_grace_period_ends(void **state)
{
    tasks_t *t = *state;
    store_n(t, A, 1, 1000);
    assert_int_equal(unmount_later(&t->f->owner, t->f->instance, 60), MCS_OK);
    assert_int_equal(unmount_later(&t->f->owner, t->f->instance, 5), MCS_OK);
    pass(t, 4000);
    assert_int_equal(state_of(t, A), 4);
    pass(t, 2000);
    assert_int_equal(state_of(t, A), 0);
    assert_int_equal(unmount_later(&t->f->owner, t->f->instance, 5), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_int_equal(unmount_later(&t->other, t->instance, 60), MCS_OK);
    assert_int_equal(unmount_later(&t->other, t->instance, 0), MCS_OK);
    assert_int_equal(state_of(t, C), 0);
}

/* ---- limits and torture ---- */

static void old_jobs_are_forgotten(void **state)
{
    tasks_t *t = *state;
    mcs_id_t first;
    mcs_id_t id;
    mcs_service_drain_t drain;
    assert_int_equal(start(t, just_a, 1, 1, &first), MCS_OK);
    assert_string_equal(run(t, first).status_name, "SUCCEEDED");
    for (int i = 0; i < 256; i++) {
        assert_int_equal(start(t, i % 2 == 0 ? just_a : just_c, 1, 1, &id), MCS_OK);
        assert_string_equal(run(t, id).status_name, "SUCCEEDED");
        world_tick(&t->f->world);
    }
    assert_int_equal(mcs_service_drain_query(t->f->world.service, first, &drain), MCS_ERR_JOB_NOT_FOUND);
    assert_string_equal(query(t, id).status_name, "SUCCEEDED");
}

static mcs_status_t tortured(void *arg)
{
    tasks_t *t = arg;
    mcs_id_t id;
    mcs_status_t status = start(t, just_a, 1, 2, &id);
    if (status != MCS_OK) {
        assert_int_equal(status, MCS_ERR_NO_MEMORY);
        assert_int_equal(state_of(t, A), 1);
    }
    return status;
}

static void a_start_without_memory_changes_nothing(void **state)
{
    tasks_t *t = *state;
    store_n(t, A, 1, 1000);
    assert_true(unit_torture(MCS_FAULT_ALLOC, tortured, t) > 0);
}

#define TEST(name)             cmocka_unit_test_setup_teardown(name, tasks_setup, tasks_teardown)
#define TEST_WITH(name, setup) cmocka_unit_test_setup_teardown(name, setup, tasks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_empties_its_segments),
        TEST(no_more_is_moved_at_a_time_than_the_job_may),
        TEST(targets_are_kept_to),
        TEST(a_put_that_was_open_is_waited_for_and_moved),
        TEST(a_replica_that_has_no_place_to_go_is_left_when_there_is_another),
        TEST(an_empty_segment_is_drained_at_once),
        TEST(bad_jobs_are_refused),
        TEST(a_canceled_job_leaves_the_rest_where_it_is),
        TEST_WITH(a_job_without_room_fails_and_its_segments_take_objects_again, setup_few_tries),
        TEST(a_job_whose_segment_goes_away_fails),
        TEST(an_executor_that_fails_a_unit_is_asked_again_in_the_next_pass),
        TEST(a_segment_in_its_grace_is_read_takes_nothing_and_can_be_drained),
        TEST(the_last_call_decides_when_a_grace_period_ends),
        TEST(old_jobs_are_forgotten),
        TEST(a_start_without_memory_changes_nothing),
    };
    return cmocka_run_group_tests_name("drain jobs of the master", tests, NULL, NULL);
}
