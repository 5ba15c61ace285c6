/* Random operations against a naive model with exact accounting; many clients at once; every allocation failing once.
 */
#include <pthread.h>
#include <stdlib.h>

#include "tests/unit/master_service/fixture.h"

#include "core/base/alloc.h"
#include "core/base/thread.h"

/* ---- one client against a model ---- */

#define KEYS 60

typedef struct model_key {
    enum { ABSENT, OPEN, STORED } state;
    uint64_t size;
    uint64_t put_id;
    uint64_t start_ns;
    uint64_t leased_until_ns;
    /* an upsert on top */
    bool upserting;
    uint64_t new_size;
    uint64_t new_id;
} model_key_t;

static uint64_t model_bytes(const model_key_t *keys)
{
    uint64_t bytes = 0;
    for (int k = 0; k < KEYS; k++) {
        bytes += keys[k].state != ABSENT ? mcs_extent_len(keys[k].size) : 0;
        bytes += keys[k].upserting ? mcs_extent_len(keys[k].new_size) : 0;
    }
    return bytes;
}

static void big_segment(mcs_master_config_t *conf)
{
    conf->eviction_wait_ms = 0;
    conf->eviction_high_watermark_ratio = 1; /* nothing is evicted: the model knows every byte */
}

static int setup_churn(void **state)
{
    int rc = setup_with(state, big_segment);
    fixture_t *f = *state;
    rpc_mount(&f->owner, "host-a:2", 64 * SEGMENT);
    return rc;
}

static void step_put(fixture_t *f, model_key_t *key, const char *name, uint64_t size)
{
    rpc_put_t put;
    int32_t status = rpc_put_one(&f->writer, name, size, NULL, &put);
    bool old = key->state == OPEN && mcs_now_ns() >= key->start_ns + 30 * MCS_NS_PER_SEC; /* may be pre-empted */
    if (key->state == ABSENT || old) {
        assert_int_equal(status, MCS_OK);
        *key = (model_key_t){.state = OPEN, .size = size, .put_id = put.put_id, .start_ns = mcs_now_ns()};
    } else {
        assert_int_equal(status, key->state == OPEN ? MCS_ERR_PUT_IN_PROGRESS : MCS_ERR_OBJECT_ALREADY_EXISTS);
    }
}

static void step_upsert(fixture_t *f, model_key_t *key, const char *name, uint64_t size)
{
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, name, size, &(rpc_put_options_t){.upsert = true}, &put), MCS_OK);
    if (key->state == STORED) {
        key->upserting = true; /* another one is pre-empted */
        key->new_size = size;
        key->new_id = put.put_id;
    } else {
        *key = (model_key_t){.state = OPEN, .size = size, .put_id = put.put_id, .start_ns = mcs_now_ns()};
    }
}

static void step_end(fixture_t *f, model_key_t *key, bool commit)
{
    if (key->upserting) {
        assert_int_equal(commit ? rpc_end_one(&f->writer, key->new_id) : rpc_revoke_one(&f->writer, key->new_id),
                         MCS_OK);
        if (commit) {
            *key = (model_key_t){
                .state = STORED, .size = key->new_size, .put_id = key->new_id, .leased_until_ns = key->leased_until_ns};
        }
        key->upserting = false;
    } else if (key->state == OPEN) {
        assert_int_equal(commit ? rpc_end_one(&f->writer, key->put_id) : rpc_revoke_one(&f->writer, key->put_id),
                         MCS_OK);
        key->state = commit ? STORED : ABSENT;
    }
}

static void step_read(fixture_t *f, model_key_t *key, const char *name)
{
    rpc_object_t object;
    int32_t status = rpc_lookup(&f->writer, name, false, &object);
    assert_int_equal(status, key->state == STORED ? MCS_OK
                             : key->state == OPEN ? MCS_ERR_REPLICA_IS_NOT_READY
                                                  : MCS_ERR_OBJECT_NOT_FOUND);
    if (status == MCS_OK) {
        assert_int_equal(object.object.payload_len, key->size);
        assert_int_equal(object.replica[0].generation, key->put_id);
        key->leased_until_ns = mcs_now_ns() + f->world.service->lease_ns;
    }
}

static void step_remove(fixture_t *f, model_key_t *key, const char *name, bool force)
{
    int32_t status = rpc_remove(&f->writer, name, force);
    bool leased = mcs_now_ns() < key->leased_until_ns;
    int32_t expected = key->state == ABSENT                   ? MCS_ERR_OBJECT_NOT_FOUND
                       : key->state == OPEN || key->upserting ? MCS_ERR_REPLICA_IS_NOT_READY
                       : leased && !force                     ? MCS_ERR_OBJECT_HAS_LEASE
                                                              : MCS_OK;
    assert_int_equal(status, expected);
    if (status == MCS_OK) {
        *key = (model_key_t){.state = ABSENT};
    }
}

static void random_operations_agree_with_a_model_to_the_byte(void **state)
{
    fixture_t *f = *state;
    model_key_t keys[KEYS];
    memset(keys, 0, sizeof(keys));
    uint64_t seed = 11;
    for (int step = 0; step < 4000; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        int k = (int)((seed >> 33) % KEYS);
        uint64_t size = (seed >> 40) % 5000 + 1;
        char name[16];
        snprintf(name, sizeof(name), "k%d", k);
        switch ((seed >> 16) % 8) {
        case 0:
        case 1: step_put(f, &keys[k], name, size); break;
        case 2: step_upsert(f, &keys[k], name, size); break;
        case 3:
        case 4: step_end(f, &keys[k], (seed >> 24) % 4 != 0); break;
        case 5: step_read(f, &keys[k], name); break;
        case 6: step_remove(f, &keys[k], name, (seed >> 24) % 2 == 0); break;
        default:
            world_pass(&f->world, (seed >> 24) % 500);
            rpc_ping(&f->writer);
            rpc_ping(&f->owner);
        }
        if (step % 500 == 499) {
            live(f, 12000); /* every lease runs out, so every extent may come back */
            assert_int_equal(settle(f), model_bytes(keys));
            assert_int_equal(world_walk_bytes(&f->world), model_bytes(keys));
            assert_int_equal(world_totals(&f->world).quarantine_bytes, 0);
        }
    }
    assert_true(mcs_metric_get(&f->world.metrics, releases_done) > 100);
}

/* ---- many at once, real time, real housekeeping ---- */

typedef struct worker {
    const world_t *world;
    uint32_t index;
    uint32_t steps;
    uint64_t errors;
    mcs_thread_t thread;
} worker_t;

static void work(void *arg)
{
    worker_t *worker = arg;
    rpc_client_t client;
    char host[32];
    snprintf(host, sizeof(host), "host-%u:1", worker->index);
    rpc_client_start(&client, world_path(worker->world), host);
    if (worker->index % 2 == 0) {
        rpc_mount(&client, host, 256 * 1024);
    }
    uint64_t seed = worker->index * 77 + 1;
    for (uint32_t step = 0; step < worker->steps; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        char key[32];
        snprintf(key, sizeof(key), "k%u", (unsigned)((seed >> 33) % 200));
        rpc_put_t put;
        int32_t status = MCS_OK;
        switch ((seed >> 20) % 10) {
        case 0:
        case 1:
        case 2:
        case 3: status = rpc_store(&client, key, (seed >> 40) % 8192 + 1, NULL); break;
        case 4:
            status = rpc_store(&client, key, (seed >> 40) % 8192 + 1,
                               &(rpc_put_options_t){.upsert = true, .replica_num = 2});
            break;
        case 5: status = rpc_exist(&client, key); break;
        case 6: status = rpc_lookup(&client, key, false, NULL); break;
        case 7: status = rpc_remove(&client, key, (seed >> 24) % 2 == 0); break;
        case 8:
            status = rpc_put_one(&client, key, 100, &(rpc_put_options_t){.group = "g"}, &put);
            if (status == MCS_OK && (seed >> 24) % 2 == 0) {
                status = rpc_revoke_one(&client, put.put_id);
            }
            break;
        default:
            rpc_client_drop_call(&client);
            if ((seed >> 24) % 8 == 0) {
                rpc_client_drop_control(&client);
                rpc_client_open(&client);
            }
            rpc_pump(&client, 0);
        }
        worker->errors += status == MCS_ERR_INTERNAL || status == MCS_ERR_PROTOCOL || status == MCS_ERR_NO_MEMORY ||
                          status == MCS_ERR_RPC_FAIL;
    }
    if (worker->index % 3 == 0) {
        rpc_goodbye(&client);
    }
    rpc_client_fini(&client);
}

static int setup_real(void **state)
{
    static world_t world;
    world_init(&world, false);
    world.conf.default_kv_lease_ttl = 20;
    world.conf.client_ttl = 1;
    world_start(&world);
    *state = &world;
    return 0;
}

static int teardown_real(void **state)
{
    world_stop(*state);
    return 0;
}

static bool all_gone(void *arg)
{
    world_t *world = arg;
    mcs_service_totals_t totals = world_totals(world);
    return totals.clients == 0 && totals.segments == 0 && totals.objects == 0 && totals.reservations == 0 &&
           totals.allocated_bytes == 0 && __atomic_load_n(&world->service->releases, __ATOMIC_SEQ_CST) == 0 &&
           __atomic_load_n(&world->service->index.objects, __ATOMIC_SEQ_CST) == 0;
}

static bool keep_walking(void *arg, const char *key, uint32_t len)
{
    (void)key;
    (void)len;
    (void)arg;
    return true;
}

static void many_clients_leave_nothing_behind(void **state)
{
    world_t *world = *state;
    enum { WORKERS = 6 };
    worker_t workers[WORKERS];
    memset(workers, 0, sizeof(workers));
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i].world = world;
        workers[i].index = i;
        workers[i].steps = 400;
        assert_int_equal(mcs_thread_start(&workers[i].thread, "worker", work, &workers[i]), MCS_OK);
    }
    for (int i = 0; i < 20; i++) {
        mcs_service_for_each_key(world->service, keep_walking, NULL);
        mcs_service_remove_all(world->service, i % 2 == 0);
        world_totals(world);
        world_tick(world);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        mcs_thread_join(&workers[i].thread);
        assert_int_equal(workers[i].errors, 0);
    }
    /* Those that did not say goodbye end by their TTL. */
    assert_true(world_until(world, all_gone, world));
}

/* ---- leases under pressure ---- */

static void press(void *arg)
{
    worker_t *worker = arg;
    rpc_client_t client;
    char host[32];
    snprintf(host, sizeof(host), "press-%u:1", worker->index);
    rpc_client_start(&client, world_path(worker->world), host);
    rpc_mount(&client, host, SEGMENT);
    for (uint32_t step = 0; __atomic_load_n(&worker->steps, __ATOMIC_SEQ_CST) != 0; step++) {
        char key[32];
        snprintf(key, sizeof(key), "p%u", step % 400);
        int32_t status = rpc_store(&client, key, 8000, NULL);
        worker->errors += status != MCS_OK && status != MCS_ERR_OBJECT_ALREADY_EXISTS &&
                          status != MCS_ERR_PUT_IN_PROGRESS && status != MCS_ERR_NO_AVAILABLE_HANDLE &&
                          status != MCS_ERR_REPLICA_IS_GONE; /* the other one left first */
        rpc_pump(&client, 0);
        rpc_ping(&client);
    }
    rpc_goodbye(&client);
    rpc_client_fini(&client);
}

static void what_exists_is_there_for_its_lease_while_eviction_runs(void **state)
{
    world_t *world = *state;
    worker_t workers[2];
    memset(workers, 0, sizeof(workers));
    for (uint32_t i = 0; i < 2; i++) {
        workers[i].world = world;
        workers[i].index = i;
        workers[i].steps = 1;
        assert_int_equal(mcs_thread_start(&workers[i].thread, "press", press, &workers[i]), MCS_OK);
    }
    rpc_client_t reader;
    rpc_client_start(&reader, world_path(world), "reader:1");
    uint32_t found = 0;
    for (uint32_t i = 0; i < 20000 && (found < 500 || mcs_metric_get(&world->metrics, evicted_keys) < 200); i++) {
        char key[32];
        snprintf(key, sizeof(key), "p%u", svc_random32() % 400);
        uint64_t before = mcs_now_ns();
        if (rpc_exist(&reader, key) == 1) {
            int32_t status = rpc_lookup(&reader, key, true, NULL);
            if (mcs_now_ns() - before < world->service->lease_ns) {
                assert_int_equal(status, MCS_OK);
                found++;
            }
        }
        rpc_ping(&reader);
    }
    assert_true(found >= 500);
    assert_true(mcs_metric_get(&world->metrics, evicted_keys) >= 200);
    for (uint32_t i = 0; i < 2; i++) {
        __atomic_store_n(&workers[i].steps, 0, __ATOMIC_SEQ_CST);
        mcs_thread_join(&workers[i].thread);
        assert_int_equal(workers[i].errors, 0);
    }
    rpc_client_fini(&reader);
    assert_true(world_until(world, all_gone, world));
}

/* ---- torture ---- */

static mcs_status_t torture_life(void *arg)
{
    (void)arg;
    mcs_master_config_t conf;
    static mcs_metrics_t metrics;
    uint64_t nth = mcs_fault_count(MCS_FAULT_ALLOC);
    (void)nth;
    mcs_status_t status = mcs_config_init(&mcs_master_config_table, &conf);
    if (status != MCS_OK) {
        return status;
    }
    mcs_service_config_t config = {.config = &conf, .metrics = &metrics, .epoch = 1};
    mcs_service_t *service = NULL;
    status = mcs_service_create(&config, &service);
    if (status == MCS_OK) {
        mcs_service_destroy(service);
    } else {
        assert_null(service);
    }
    mcs_config_fini(&mcs_master_config_table, &conf);
    return status;
}

static void creation_survives_every_allocation_failure(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, torture_life, NULL) > 5);
}

/* Fails the nth allocation of the process while one client does one of everything; whatever fails, nothing is lost and
 * the accounting is right. */
static void requests_survive_every_allocation_failure(void **state)
{
    fixture_t *f = *state;
    uint64_t failed = 0;
    for (uint64_t nth = 1; nth <= 260; nth++) {
        char key[32];
        rpc_put_t put;
        snprintf(key, sizeof(key), "t%u", (unsigned)nth);
        /* Connected before, so that only the requests themselves meet the fault. */
        assert_int_equal(rpc_exist(&f->writer, "warm"), 0);
        mcs_fault_arm(MCS_FAULT_ALLOC, nth % 26 + 1);
        int32_t status =
            rpc_put_one(&f->writer, key, 100, &(rpc_put_options_t){.group = nth % 2 == 0 ? "g" : NULL}, &put);
        if (status == MCS_OK) {
            status = rpc_end_one(&f->writer, put.put_id);
        }
        if (status == MCS_OK && nth % 3 == 0) {
            status = rpc_store(&f->writer, key, 200, &(rpc_put_options_t){.upsert = true});
        }
        if (nth % 5 == 0) {
            rpc_remove(&f->writer, key, true);
        }
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        failed += status != MCS_OK;
        if (f->owner.control.fd < 0 || !rpc_pump(&f->owner, 0)) {
            assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
            world_pass(&f->world, 1100);
        }
        if (!rpc_pump(&f->writer, 0)) {
            assert_int_equal(rpc_client_open(&f->writer), MCS_OK);
        }
        rpc_client_drop_call(&f->writer);
    }
    assert_true(failed > 0);
    live(f, 12000);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
    assert_int_equal(rpc_remove_all(&f->writer, true) >= 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_operations_agree_with_a_model_to_the_byte, setup_churn, teardown),
        cmocka_unit_test_setup_teardown(many_clients_leave_nothing_behind, setup_real, teardown_real),
        cmocka_unit_test_setup_teardown(what_exists_is_there_for_its_lease_while_eviction_runs, setup_real,
                                        teardown_real),
        cmocka_unit_test(creation_survives_every_allocation_failure),
        cmocka_unit_test_setup_teardown(requests_survive_every_allocation_failure, setup, teardown),
    };
    return cmocka_run_group_tests_name("svc_churn", tests, NULL, NULL);
}
