/* What goes on after a start from the journal: extents that are not what it says, tasks and drain jobs, epochs, and
 * what is told of it. */
#include "tests/support/rpc_tasks.h"
#include "tests/unit/journal/restart.h"

#include "core/base/alloc.h"

#define OTHER "host-c:1"

/* ---- extents that disagree ---- */

static uint64_t stored(fixture_t *f, const char *key)
{
    rpc_object_t object;
    assert_int_equal(rpc_store(&f->writer, key, 1000, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, key, true, &object), MCS_OK);
    return object.replica[0].generation;
}

/* Ticks until the owner has been asked about so many extents. */
static void await_checks(fixture_t *f, size_t count)
{
    for (int i = 0; i < 10000 && f->owner.checks.len < count * sizeof(mcs_col_check_t); i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(f->owner.checks.len, count * sizeof(mcs_col_check_t));
}

static void an_owner_is_asked_about_every_extent_of_before(void **state)
{
    fixture_t *f = *state;
    uint64_t generations[50];
    char key[16];
    for (int i = 0; i < 50; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        generations[i] = stored(f, key);
    }
    assert_int_equal(f->owner.checks.len, 0); /* not without a restart */
    restart(f, SEGMENT / 2);
    await_checks(f, 50);
    for (int i = 0; i < 50; i++) {
        bool asked = false;
        for (size_t at = 0; at < f->owner.checks.len; at += sizeof(mcs_col_check_t)) {
            mcs_col_check_t record;
            memcpy(&record, f->owner.checks.bytes + at, sizeof(record));
            asked = asked || (record.generation == generations[i] && record.payload_len == 1000);
        }
        assert_true(asked);
    }
    /* What is new is nobody's question. */
    (void)stored(f, "new");
    mcs_buf_reset(&f->owner.checks);
    live(f, 3000);
    assert_int_equal(f->owner.checks.len, 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, extents_checked), 50);
}

/* As the owner would answer for what it was asked about. */
static mcs_col_differ_t answer(const fixture_t *f, uint64_t generation)
{
    mcs_col_differ_t differ = {generation, UINT64_MAX};
    for (size_t at = 0; at < f->owner.checks.len; at += sizeof(mcs_col_check_t)) {
        mcs_col_check_t record;
        memcpy(&record, f->owner.checks.bytes + at, sizeof(record));
        differ.token = record.generation == generation ? record.token : differ.token;
    }
    return differ;
}

static void extents_that_disagree_are_dropped_at_once(void **state)
{
    fixture_t *f = *state;
    uint64_t a = stored(f, "a");
    uint64_t b = stored(f, "b");
    uint64_t c = stored(f, "c");
    restart(f, SEGMENT / 2);
    await_checks(f, 3);
    mcs_col_differ_t differing[] = {
        answer(f, a), answer(f, c), answer(f, a), {c + 1, answer(f, c).token}, {b, UINT64_MAX}, {b, 1u << 20},
    };
    rpc_say_differ(&f->owner, differing, MCS_ARRAY_LEN(differing));
    for (int i = 0; i < 1000 && world_totals(&f->world).objects > 1; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
    }
    assert_int_equal(rpc_exist(&f->writer, "a"), 0);
    assert_int_equal(rpc_exist(&f->writer, "b"), 1);
    assert_int_equal(rpc_exist(&f->writer, "c"), 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, extents_differed), 2);
    /* Their space is used again, and they stay away. */
    live(f, 6000);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
    restart(f, SEGMENT / 2);
    assert_int_equal(rpc_exist(&f->writer, "a"), 0);
    assert_int_equal(rpc_exist(&f->writer, "b"), 1);
}

static void nobody_says_it_of_what_is_not_theirs(void **state)
{
    fixture_t *f = *state;
    uint64_t old = stored(f, "old");
    restart(f, SEGMENT / 2);
    uint64_t fresh = stored(f, "new");
    await_checks(f, 1);
    mcs_col_differ_t differ = answer(f, old);
    rpc_say_differ(&f->writer, &differ, 1); /* another's segment */
    for (uint64_t token = 0; token < SVC_SHARDS; token++) {
        differ = (mcs_col_differ_t){fresh, token};
        rpc_say_differ(&f->owner, &differ, 1); /* this master's own */
    }
    assert_int_equal(rpc_ping(&f->owner), MCS_OK);
    assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    assert_int_equal(rpc_exist(&f->writer, "old"), 1);
    assert_int_equal(rpc_exist(&f->writer, "new"), 1);
}

static void one_of_two_replicas_goes_and_the_other_stays(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    rpc_object_t object;
    world_client(&f->world, &other, OTHER);
    mcs_id_t instance = rpc_mount(&other, OTHER, SEGMENT);
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &(rpc_put_options_t){.replica_num = 2}), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "a", true, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 2);
    rpc_client_drop_control(&other);
    rpc_client_drop_call(&other);
    restart_alone(f);
    snprintf(other.path, sizeof(other.path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(&other), MCS_OK);
    assert_int_equal(rpc_mount_again(&other, OTHER, SEGMENT, instance, 0), MCS_OK);
    come_back(f, SEGMENT / 2);
    await_checks(f, 1);
    mcs_col_check_t record;
    memcpy(&record, f->owner.checks.bytes, sizeof(record));
    mcs_col_differ_t differ = {record.generation, record.token};
    rpc_say_differ(&f->owner, &differ, 1);
    for (int i = 0; i < 1000 && object.object.replica_count > 1; i++) {
        world_tick(&f->world);
        rpc_pump(&f->owner, 1);
        assert_int_equal(rpc_lookup(&f->writer, "a", true, &object), MCS_OK);
    }
    assert_int_equal(object.object.replica_count, 1);
    assert_int_not_equal(object.replica[0].generation, record.generation);
    rpc_client_fini(&other);
}

/* ---- tasks ---- */

/* Another owner, with a segment. */
static mcs_id_t add_owner(fixture_t *f, rpc_client_t *other)
{
    world_client(&f->world, other, OTHER);
    return rpc_mount(other, OTHER, SEGMENT);
}

static void restart_with(fixture_t *f, rpc_client_t *other, mcs_id_t instance)
{
    rpc_client_drop_control(other);
    rpc_client_drop_call(other);
    restart_alone(f);
    snprintf(other->path, sizeof(other->path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(other), MCS_OK);
    assert_int_equal(rpc_mount_again(other, OTHER, SEGMENT, instance, SEGMENT / 2), MCS_OK);
    come_back(f, SEGMENT / 2);
}

enum { PENDING, PROCESSING, SUCCESS, FAILED };

/* Both do their tasks until it is over. */
static uint32_t finish(fixture_t *f, rpc_client_t *other, mcs_id_t id)
{
    for (int i = 0; i < 500; i++) {
        (void)rpc_do_tasks(&f->owner);
        (void)rpc_do_tasks(other);
        world_pass(&f->world, 20);
        (void)rpc_ping(&f->owner);
        (void)rpc_ping(other);
        (void)rpc_ping(&f->writer);
        if (rpc_task_status(&f->writer, id) > PROCESSING) {
            break;
        }
    }
    return rpc_task_status(&f->writer, id);
}

static void a_task_is_known_to_the_next_master(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    mcs_id_t instance = add_owner(f, &other);
    const char *home[] = {NAME};
    const char *targets[] = {OTHER, NULL};
    rpc_put_options_t options = {.preferred = home, .preferred_count = 1};
    mcs_id_t done;
    mcs_id_t waiting;
    mcs_id_t running;
    rpc_task_t task;
    rpc_object_t object;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &options), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "b", 1000, &options), MCS_OK);
    assert_int_equal(rpc_store(&f->writer, "c", 1000, &options), MCS_OK);
    assert_int_equal(rpc_copy_task(&f->writer, "a", targets, &done), MCS_OK);
    assert_int_equal(finish(f, &other, done), SUCCESS);
    assert_int_equal(rpc_move_task(&f->writer, "b", NAME, OTHER, &running), MCS_OK);
    assert_int_equal(rpc_fetch_tasks(&f->owner, 1, &task), 1);
    assert_int_equal(rpc_copy_task(&f->writer, "c", targets, &waiting), MCS_OK);
    for (int round = 0; round < 2; round++) {
        restart_with(f, &other, instance);
        assert_int_equal(rpc_task_status(&f->writer, done), SUCCESS);
        assert_int_equal(rpc_task_status(&f->writer, running), PENDING);
        assert_int_equal(rpc_task_status(&f->writer, waiting), PENDING);
    }
    assert_int_equal(rpc_end_task(&f->owner, &task, MCS_OK, 0), MCS_ERR_OBJECT_NO_REPLICATION_TASK);
    assert_int_equal(finish(f, &other, running), SUCCESS);
    assert_int_equal(finish(f, &other, waiting), SUCCESS);
    assert_int_equal(rpc_lookup(&f->writer, "b", true, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 1);
    assert_int_not_equal(object.replica[0].segment, f->handle);
    assert_int_equal(rpc_lookup(&f->writer, "c", true, &object), MCS_OK);
    assert_int_equal(object.object.replica_count, 2);
    restart_with(f, &other, instance);
    assert_int_equal(rpc_task_status(&f->writer, running), SUCCESS);
    assert_int_equal(rpc_task_status(&f->writer, waiting), SUCCESS);
    rpc_client_fini(&other);
}

static void a_task_whose_owner_stays_away_fails(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    const char *home[] = {NAME};
    const char *targets[] = {OTHER, NULL};
    rpc_put_options_t options = {.preferred = home, .preferred_count = 1};
    mcs_id_t id;
    mcs_id_t instance = add_owner(f, &other);
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &options), MCS_OK);
    assert_int_equal(rpc_copy_task(&f->writer, "a", targets, &id), MCS_OK);
    rpc_client_drop_control(&other);
    rpc_client_drop_call(&other);
    restart_alone(f);
    snprintf(other.path, sizeof(other.path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(&other), MCS_OK);
    assert_int_equal(rpc_mount_again(&other, OTHER, SEGMENT, instance, 0), MCS_OK);
    for (int i = 0; i < 100 && rpc_task_status(&f->writer, id) == PENDING; i++) {
        world_pass(&f->world, 1000);
        assert_int_equal(rpc_ping(&other), MCS_OK);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    }
    assert_int_equal(rpc_task_status(&f->writer, id), FAILED);
    rpc_client_fini(&other);
}

/* ---- drain jobs ---- */

static mcs_service_drain_t job_of(fixture_t *f, mcs_id_t id)
{
    mcs_service_drain_t drain;
    assert_int_equal(mcs_service_drain_query(f->world.service, id, &drain), MCS_OK);
    mcs_service_drain_fini(&drain);
    return drain;
}

static bool take_state(void *arg, const mcs_service_segment_t *segment)
{
    uint32_t *state = arg;
    *state = strcmp(segment->name, NAME) == 0 ? segment->state : *state;
    return true;
}

static uint32_t state_of_segment(fixture_t *f)
{
    uint32_t state = 0;
    mcs_service_for_each_segment(f->world.service, take_state, &state);
    return state;
}

enum { RUNNING = 2, SUCCEEDED = 3, JOB_FAILED = 4, CANCELED = 5 };
enum { SEGMENT_OK = 1, SEGMENT_DRAINING = 2, SEGMENT_DRAINED = 3 };

static void a_drain_job_goes_on(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    mcs_id_t instance = add_owner(f, &other);
    const char *home[] = {NAME};
    const mcs_service_drain_ask_t ask = {.segments = home, .segment_count = 1, .max_concurrency = 2};
    rpc_put_options_t options = {.preferred = home, .preferred_count = 1};
    char key[16];
    mcs_id_t id;
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->writer, key, 1000, &options), MCS_OK);
    }
    assert_int_equal(mcs_service_drain_start(f->world.service, &ask, &id), MCS_OK);
    for (int i = 0; i < 5; i++) {
        world_pass(&f->world, 20);
        (void)rpc_do_tasks(&f->owner);
    }
    assert_in_range(job_of(f, id).succeeded, 1, 39);
    restart_with(f, &other, instance);
    assert_true(job_of(f, id).status <= RUNNING);
    assert_int_equal(state_of_segment(f), SEGMENT_DRAINING);
    for (int i = 0; i < 1000 && job_of(f, id).status <= RUNNING; i++) {
        (void)rpc_do_tasks(&f->owner);
        (void)rpc_do_tasks(&other);
        world_pass(&f->world, 50);
        (void)rpc_ping(&f->owner);
        (void)rpc_ping(&other);
        (void)rpc_ping(&f->writer);
    }
    assert_int_equal(job_of(f, id).status, SUCCEEDED);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(state_of_segment(f), SEGMENT_DRAINED);
        for (int i = 0; i < 40; i++) {
            rpc_object_t object;
            snprintf(key, sizeof(key), "k%d", i);
            assert_int_equal(rpc_lookup(&f->writer, key, true, &object), MCS_OK);
            assert_int_not_equal(object.replica[0].segment, f->handle);
        }
        restart_with(f, &other, instance);
        assert_int_equal(job_of(f, id).status, SUCCEEDED);
    }
    assert_int_equal(mcs_service_drain_cancel(f->world.service, id), MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS);
    rpc_client_fini(&other);
}

static void a_canceled_job_stays_so(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    mcs_id_t instance = add_owner(f, &other);
    const char *home[] = {NAME};
    const mcs_service_drain_ask_t ask = {.segments = home, .segment_count = 1, .max_concurrency = 2};
    mcs_id_t id;
    (void)stored(f, "a");
    assert_int_equal(mcs_service_drain_start(f->world.service, &ask, &id), MCS_OK);
    assert_int_equal(mcs_service_drain_cancel(f->world.service, id), MCS_OK);
    restart_with(f, &other, instance);
    assert_int_equal(job_of(f, id).status, CANCELED);
    assert_string_equal(job_of(f, id).message, "canceled");
    assert_int_equal(state_of_segment(f), SEGMENT_OK);
    rpc_client_fini(&other);
}

static void a_job_whose_segment_does_not_come_back_fails(void **state)
{
    fixture_t *f = *state;
    const char *home[] = {NAME};
    const mcs_service_drain_ask_t ask = {.segments = home, .segment_count = 1, .max_concurrency = 2};
    mcs_id_t id;
    (void)stored(f, "a");
    assert_int_equal(mcs_service_drain_start(f->world.service, &ask, &id), MCS_OK);
    restart_alone(f);
    for (int i = 0; i < 100 && job_of(f, id).status <= RUNNING; i++) {
        world_pass(&f->world, 1000);
        assert_int_equal(rpc_ping(&f->writer), MCS_OK);
    }
    assert_int_equal(job_of(f, id).status, JOB_FAILED);
}

static void a_snapshot_has_tasks_and_jobs(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    mcs_id_t instance = add_owner(f, &other);
    const char *home[] = {NAME};
    const char *targets[] = {OTHER, NULL};
    const mcs_service_drain_ask_t ask = {.segments = home, .segment_count = 1, .max_concurrency = 2};
    rpc_put_options_t options = {.preferred = home, .preferred_count = 1};
    mcs_id_t task;
    mcs_id_t job;
    assert_int_equal(rpc_store(&f->writer, "a", 1000, &options), MCS_OK);
    assert_int_equal(rpc_copy_task(&f->writer, "a", targets, &task), MCS_OK);
    assert_int_equal(mcs_service_drain_start(f->world.service, &ask, &job), MCS_OK);
    assert_int_equal(mcs_service_drain_cancel(f->world.service, job), MCS_OK);
    f->world.journal_config.compact_bytes = 1; /* of the next master */
    for (int round = 0; round < 12; round++) {
        restart_with(f, &other, instance);
        world_pass(&f->world, 100);
    }
    mcs_journal_stats_t stats;
    mcs_journal_stats(f->world.journal, &stats);
    assert_true(stats.snapshots > 0);
    assert_int_equal(job_of(f, job).status, CANCELED);
    assert_int_equal(finish(f, &other, task), SUCCESS);
    rpc_client_fini(&other);
}

/* ---- what is told ---- */

static void totals_say_what_the_start_brought(void **state)
{
    fixture_t *f = *state;
    mcs_service_totals_t totals = world_totals(&f->world);
    assert_int_equal(totals.journal_on, 1);
    assert_int_equal(totals.journal_files, MCS_JOURNAL_STREAMS);
    assert_int_equal(totals.recovered_objects, 0);
    (void)stored(f, "a");
    (void)stored(f, "b");
    totals = world_totals(&f->world);
    assert_int_equal(totals.journal_records, 3); /* and the segment */
    assert_true(totals.journal_record_bytes > 50 && totals.journal_record_bytes < totals.journal_bytes);
    restart_alone(f);
    totals = world_totals(&f->world);
    assert_int_equal(totals.recovered_objects, 2);
    assert_int_equal(totals.recovered_segments, 1);
    assert_int_equal(totals.recovery_lost, 0);
    assert_int_equal(totals.unclaimed_segments, 1);
    assert_int_equal(totals.journal_errors, 0);
    come_back(f, SEGMENT);
    assert_int_equal(world_totals(&f->world).unclaimed_segments, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_journal, teardown_journal)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_owner_is_asked_about_every_extent_of_before),
        TEST(extents_that_disagree_are_dropped_at_once),
        TEST(nobody_says_it_of_what_is_not_theirs),
        TEST(one_of_two_replicas_goes_and_the_other_stays),
        TEST(a_task_is_known_to_the_next_master),
        TEST(a_task_whose_owner_stays_away_fails),
        TEST(a_drain_job_goes_on),
        TEST(a_canceled_job_stays_so),
        TEST(a_job_whose_segment_does_not_come_back_fails),
        TEST(a_snapshot_has_tasks_and_jobs),
        TEST(totals_say_what_the_start_brought),
    };
    return cmocka_run_group_tests_name("after a start from the journal", tests, NULL, NULL);
}
