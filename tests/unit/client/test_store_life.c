/* The C API's life cycle: set-up and its arguments, calls before, after and during close, two stores, hooks, fork. */
#include "tests/unit/client/world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "core/client/interrupt.h"

/* Every call of the API with sane arguments. `code`: what they all must say. */
static void check_all_calls(mcs_store_t *store, int code)
{
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t key = world_key("key");
    mcs_replica_info_t info;
    mcs_handle_t *handle = (mcs_handle_t *)&byte;
    int result = 1;
    int64_t size = 1;
    assert_int_equal(mcs_put(store, &key, &value, 1, NULL, 0, &result), code);
    assert_int_equal(result, code);
    assert_int_equal(mcs_get_into(store, &key, &value, 1, &size), code);
    assert_int_equal(size, code);
    assert_null(mcs_get_begin(store, &key, 1));
    size = 1;
    assert_int_equal(mcs_get_handles(store, &key, 1, &handle, &size), code);
    assert_null(handle);
    assert_int_equal(size, code);
    assert_int_equal(mcs_exist(store, &key, 1, &result), code);
    assert_int_equal(mcs_object_size(store, key), code);
    assert_int_equal(mcs_remove(store, &key, 1, 0, &result), code);
    assert_int_equal(mcs_remove_by_regex(store, key, 0), code);
    assert_int_equal(mcs_remove_all(store, 0), code);
    assert_int_equal(mcs_register_buffer(store, &byte, 1), code);
    assert_int_equal(mcs_unregister_buffer(store, &byte), code);
    assert_int_equal(mcs_replicas(store, key, &info, 1), code);
}

static void calls_before_set_up_and_after_close_return_codes(void **state)
{
    mcs_store_t *store = mcs_store_create();
    char name[32] = "?";
    check_all_calls(store, MCS_INVALID_PARAMS);
    assert_int_equal(mcs_store_health_check(store), 1);
    assert_int_equal(mcs_store_hostname(store, name, sizeof(name)), 0);
    assert_string_equal(name, "");
    assert_int_equal(mcs_store_close(store), 0);
    mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    assert_int_equal(mcs_store_health_check(store), 0);
    assert_true(mcs_store_hostname(store, name, sizeof(name)) > strlen("localhost:"));
    assert_int_equal(strncmp(name, "localhost:", 10), 0);
    assert_int_equal(mcs_store_hostname(store, name, 4), strlen("localhost:21400"));
    assert_string_equal(name, "loc");
    assert_int_equal(mcs_store_close(store), 0);
    assert_int_equal(mcs_store_close(store), 0);
    check_all_calls(store, MCS_INVALID_PARAMS);
    assert_int_equal(mcs_store_health_check(store), 1);
    mcs_store_destroy(store);
    check_all_calls(NULL, MCS_INVALID_PARAMS);
    mcs_store_destroy(NULL);
    assert_int_equal(mcs_store_close(NULL), 0);
}

static void null_arguments_are_refused(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    int result = 1;
    int64_t size = 1;
    mcs_bytes_t key = world_key("k");
    assert_int_equal(mcs_put(store, NULL, NULL, 1, NULL, 0, &result), -600);
    assert_int_equal(mcs_put(store, NULL, NULL, 1, NULL, 0, NULL), -600);
    assert_int_equal(mcs_put(store, NULL, NULL, 0, NULL, 0, NULL), 0);
    assert_int_equal(mcs_put(store, NULL, NULL, 0, NULL, 64, NULL), -600);
    assert_int_equal(mcs_get_into(store, &key, NULL, 1, &size), -600);
    assert_int_equal(mcs_get_into(store, &key, NULL, 1, NULL), -600);
    assert_int_equal(mcs_get_handles(store, &key, 1, NULL, NULL), -600);
    assert_int_equal(mcs_exist(store, NULL, 1, &result), -600);
    assert_int_equal(mcs_exist(store, NULL, 0, NULL), 0);
    assert_int_equal(mcs_remove(store, NULL, 1, 0, NULL), -600);
    assert_int_equal(mcs_get_run(NULL, NULL, NULL), -600);
    assert_int_equal(mcs_get_object_size(NULL, 0), -600);
    mcs_get_t *get = mcs_get_begin(store, NULL, 0);
    assert_non_null(get);
    assert_int_equal(mcs_get_run(get, NULL, NULL), 0);
    mcs_get_end(get);
    mcs_store_destroy(store);
}

static void odd_set_ups_are_refused_with_a_log_line_and_leave_the_store_as_it_was(void **state)
{
    static const struct {
        const char *host;
        const char *metadata;
        const char *protocol;
        const char *master;
        uint64_t segment;
        uint64_t buffer;
        const char *said; /* in the log */
    } rows[] = {
        {"", "P2PHANDSHAKE", "tcp", NULL, 0, 0, "empty"},
        {NULL, "P2PHANDSHAKE", "tcp", NULL, 0, 0, "empty"},
        {"a b", "P2PHANDSHAKE", "tcp", NULL, 0, 0, "a b"},
        {"host:0", "P2PHANDSHAKE", "tcp", NULL, 0, 0, "host:0"},
        {"host:70000", "P2PHANDSHAKE", "tcp", NULL, 0, 0, "host:70000"},
        {"host:port", "P2PHANDSHAKE", "tcp", NULL, 0, 0, "host:port"},
        {"localhost", "p2phandshake", "tcp", NULL, 0, 0, "p2phandshake"},
        {"localhost", "garbage://x", "tcp", NULL, 0, 0, "garbage://x"},
        {"localhost", "etcd://x:1", "tcp", NULL, 0, 0, "etcd://x:1"},
        {"localhost", "http://x:1/metadata", "tcp", NULL, 0, 0, "http://x:1"},
        {"localhost", "P2PHANDSHAKE", "efa", NULL, 0, 0, "efa"},
        {"localhost", "P2PHANDSHAKE", "TCP", NULL, 0, 0, "this build has tcp, rdma and rpc_only"},
        {"localhost", "P2PHANDSHAKE", "tcp", "", 0, 0, "empty"},
        {"localhost", "P2PHANDSHAKE", "tcp", "etcd://x", 0, 0, "etcd://x"},
        {"localhost", "P2PHANDSHAKE", "tcp", "host:99999", 0, 0, "host:99999"},
        {"localhost", "P2PHANDSHAKE", "tcp", "host:0", 0, 0, "host:0"},
        {"localhost", "P2PHANDSHAKE", "tcp", "unix:", 0, 0, "unix:"},
        {"localhost", "P2PHANDSHAKE", "tcp", "embedded", 0, 0, "no master inside"},
        {"localhost", "P2PHANDSHAKE", "tcp", "embedded:x", 0, 0, "embedded:x"},
        {"localhost", "P2PHANDSHAKE", "tcp", NULL, 1023, 0, "1023"},
        {"localhost", "P2PHANDSHAKE", "tcp", NULL, UINT64_MAX, 0, "18446744073709551615"},
        {"localhost", "P2PHANDSHAKE", "tcp", NULL, UINT64_C(1) << 46, 0, "more than this machine's memory"},
        {"localhost", "P2PHANDSHAKE", "tcp", NULL, 0, UINT64_MAX, "18446744073709551615"},
    };
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    assert_int_equal(world_put(store, "key", 100, 1), 0);
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        unit_log_t log;
        mcs_setup_t setup = world_setup(*state, rows[i].segment);
        setup.local_hostname = rows[i].host;
        setup.metadata_server = rows[i].metadata;
        setup.protocol = rows[i].protocol;
        setup.local_buffer_size = rows[i].buffer;
        setup.master_server_addr = rows[i].master != NULL ? rows[i].master : setup.master_server_addr;
        unit_log_capture(&log);
        int code = mcs_store_setup(store, &setup);
        unit_log_release();
        assert_int_equal(code, MCS_INVALID_PARAMS);
        assert_non_null(strstr(log.last, rows[i].said));
    }
    assert_int_equal(mcs_store_setup(store, NULL), MCS_INVALID_PARAMS);
    mcs_setup_t small = {.struct_size = 0};
    assert_int_equal(mcs_store_setup(store, &small), MCS_INVALID_PARAMS);
    assert_int_equal(world_get(store, "key", 100, 1), 100);
    mcs_store_destroy(store);
}

static void an_unreachable_master_fails_within_seconds(void **state)
{
    static const struct {
        const char *master;
        const char *host;
        int code;
    } rows[] = {{"127.0.0.1:1", "localhost", -1}, {"unix:/nonexistent/m", "localhost:4711", MCS_INVALID_PARAMS}};
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = mcs_store_create();
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
        setup.master_server_addr = rows[i].master;
        setup.local_hostname = rows[i].host;
        uint64_t before = mcs_now_ns();
        assert_int_equal(mcs_store_setup(store, &setup), rows[i].code);
        assert_true(mcs_now_ns() - before < 5 * MCS_NS_PER_SEC);
        check_all_calls(store, MCS_INVALID_PARAMS);
    }
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_master_that_is_none_fails_the_set_up(void **state)
{
    world_t *world = *state;
    static const struct {
        fake_action_t action;
        mcs_status_t status;
    } rows[] = {{FAKE_REPLY, MCS_OK}, {FAKE_REPLY, MCS_ERR_INVALID_VERSION}, {FAKE_REPLY, MCS_ERR_ILLEGAL_CLIENT}};
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = mcs_store_create();
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
        world_script(world, MCS_VERB_HELLO, 1, rows[i].action, rows[i].status);
        assert_int_equal(mcs_store_setup(store, &setup), -1);
    }
    /* A mount that is refused, too: nothing stays behind. */
    mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
    world_script(world, MCS_VERB_MOUNT_SEGMENT, 1, FAKE_REPLY, MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_store_setup(store, &setup), MCS_INVALID_PARAMS);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_name_that_is_taken_is_tried_with_another_port(void **state)
{
    world_t *world = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
    world_script(world, MCS_VERB_MOUNT_SEGMENT, 2, FAKE_REPLY, MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    assert_int_equal(world_put(store, "key", 100, 1), 0);
    setup.local_hostname = "localhost:4712";
    world_script(world, MCS_VERB_MOUNT_SEGMENT, 1, FAKE_REPLY, MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(mcs_store_setup(store, &setup), MCS_INVALID_PARAMS);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void an_explicit_port_is_only_a_name(void **state)
{
    char name[32];
    mcs_replica_info_t info;
    mcs_store_t *a = mcs_store_create();
    mcs_store_t *b = mcs_store_create();
    mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
    setup.local_hostname = "localhost:21400";
    assert_int_equal(mcs_store_setup(a, &setup), 0);
    assert_int_equal(mcs_store_setup(b, &setup), 0);
    mcs_store_hostname(a, name, sizeof(name));
    assert_string_equal(name, "localhost:21400");
    assert_int_equal(world_put(a, "key", 10, 1), 0);
    assert_int_equal(mcs_replicas(a, world_key("key"), &info, 1), 1);
    assert_string_equal(info.transport_endpoint, "localhost:21400");
    setup.local_hostname = "[::1]:21401";
    assert_int_equal(mcs_store_setup(a, &setup), 0);
    mcs_store_hostname(a, name, sizeof(name));
    assert_string_equal(name, "[::1]:21401");
    mcs_store_destroy(a);
    mcs_store_destroy(b);
}

static void a_store_is_set_up_again_on_the_same_object(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    for (int i = 0; i < 3; i++) {
        mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
        assert_int_equal(world_put(store, "key", 100, 1), 0);
        assert_int_equal(world_get(store, "key", 100, 1), 100);
        assert_int_equal(mcs_store_setup(store, &setup), 0);
        assert_int_equal(mini_master_stats(world->master).segments, 1);
        assert_int_equal(mcs_remove_all(store, 1), 0); /* went with its segment */
    }
    mcs_store_destroy(store);
    assert_int_equal(mini_master_stats(world->master).segments, 0);
}

static void a_get_begun_before_a_new_set_up_is_not_run_after_it(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    assert_int_equal(world_put(store, "key", 100, 1), 0);
    mcs_bytes_t key = world_key("key");
    mcs_get_t *get = mcs_get_begin(store, &key, 1);
    mcs_get_t *other = mcs_get_begin(store, &key, 1);
    mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
    uint8_t bytes[100];
    struct iovec iov = {bytes, 100};
    int64_t result = 1;
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    assert_int_equal(mcs_get_run(get, &iov, &result), MCS_INVALID_PARAMS);
    assert_int_equal(result, MCS_INVALID_PARAMS);
    mcs_store_destroy(store);
    assert_int_equal(mcs_get_run(other, &iov, &result), MCS_INVALID_PARAMS);
    mcs_get_end(get);
    mcs_get_end(other);
}

/* ---- the metadata server ---- */

static struct {
    uint32_t published;
    uint32_t withdrawn;
    uint32_t taken; /* names to refuse */
    mcs_status_t status;
    char name[64];
    uint16_t data_port;
    uint64_t bytes;
} g_metadata;

static mcs_status_t publish(const mcs_metadata_record_t *record)
{
    if (g_metadata.taken > 0) {
        g_metadata.taken--;
        return MCS_ERR_SEGMENT_ALREADY_EXISTS;
    }
    if (g_metadata.status != MCS_OK) {
        return g_metadata.status;
    }
    assert_string_equal(record->url, "http://meta:1/metadata");
    assert_string_equal(record->protocol, "tcp");
    assert_string_equal(record->host, "localhost");
    snprintf(g_metadata.name, sizeof(g_metadata.name), "%s", record->segment_name);
    g_metadata.data_port = record->data_port;
    g_metadata.bytes = record->segment_bytes;
    g_metadata.published++;
    return MCS_OK;
}

static void withdraw(const mcs_metadata_record_t *record)
{
    assert_string_equal(record->segment_name, g_metadata.name);
    g_metadata.withdrawn++;
}

static void a_name_is_published_and_withdrawn(void **state)
{
    static const mcs_metadata_ops_t ops = {publish, withdraw};
    mcs_parts_t parts = {.transport = &fake_transport_ops, .metadata = &ops};
    world_t *world = *state;
    char name[64];
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_parts_set(&parts);
    memset(&g_metadata, 0, sizeof(g_metadata));
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
    setup.metadata_server = "http://meta:1/metadata";
    g_metadata.taken = 2;
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    assert_int_equal(g_metadata.published, 1);
    mcs_store_hostname(store, name, sizeof(name));
    assert_string_equal(name, g_metadata.name);
    assert_int_equal(g_metadata.data_port, 4242);
    assert_int_equal(g_metadata.bytes, SEGMENT_BYTES);
    assert_int_equal(mcs_store_close(store), 0);
    assert_int_equal(g_metadata.withdrawn, 1);
    /* The master refuses: nothing stays published. */
    world_script(world, MCS_VERB_MOUNT_SEGMENT, 1, FAKE_REPLY, MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_store_setup(store, &setup), MCS_INVALID_PARAMS);
    assert_int_equal(g_metadata.published, 2);
    assert_int_equal(g_metadata.withdrawn, 2);
    /* The server does not answer: no port helps, and none is tried twice. */
    g_metadata.status = MCS_ERR_RPC_FAIL;
    assert_int_equal(mcs_store_setup(store, &setup), -1);
    setup.local_hostname = "localhost:4713";
    assert_int_equal(mcs_store_setup(store, &setup), MCS_INVALID_PARAMS);
    g_metadata.status = MCS_ERR_INVALID_PARAMS;
    assert_int_equal(mcs_store_setup(store, &setup), MCS_INVALID_PARAMS);
    assert_int_equal(g_metadata.withdrawn, 2);
    mcs_store_destroy(store);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void a_client_without_a_data_plane_asks_but_moves_nothing(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_store_t *holder = world_store(*state, SEGMENT_BYTES);
    assert_int_equal(world_put(holder, "key", 1000, 1), 0);
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(*state, SEGMENT_BYTES);
    setup.protocol = "rpc_only";
    setenv("MC_STORE_MEMCPY", "0", 1);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    setenv("MC_STORE_MEMCPY", "1", 1);
    mcs_bytes_t key = world_key("key");
    int there = 0;
    assert_int_equal(mcs_exist(store, &key, 1, &there), 0);
    assert_int_equal(there, 1);
    assert_int_equal(mcs_object_size(store, key), 1000);
    assert_int_equal(world_get(store, "key", 1000, 1), -800);
    assert_int_equal(world_put(store, "other", 1000, 1), -800);
    assert_int_equal(mini_master_stats(((world_t *)*state)->master).segments, 1);
    mcs_store_destroy(store);
    mcs_store_destroy(holder);
    mcs_log_set_level(MCS_LOG_ERROR);
}

/* ---- close and other threads ---- */

typedef struct worker {
    mcs_store_t *store;
    uint32_t number;
    uint32_t *stop; /* atomic */
    uint32_t calls;
    bool wrong;
} worker_t;

static void *work(void *arg)
{
    worker_t *worker = arg;
    while (__atomic_load_n(worker->stop, __ATOMIC_RELAXED) == 0) {
        char key[32];
        snprintf(key, sizeof(key), "w%u-%u", worker->number, worker->calls % 50);
        int put = world_put(worker->store, key, 3000, worker->number);
        int64_t got = world_get(worker->store, key, 3000, worker->number);
        /* Closed is -600; a get may miss what a put of another life of the store stored. */
        worker->wrong = worker->wrong || (put != 0 && put != -600) || (got != 3000 && got != -600 && got != -704);
        worker->calls++;
    }
    return NULL;
}

static void close_and_set_up_during_calls_of_other_threads(void **state)
{
    enum { WORKERS = 4, ROUNDS = 8 };
    world_t *world = *state;
    uint32_t stop = 0;
    worker_t workers[WORKERS];
    pthread_t threads[WORKERS];
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker_t){.store = store, .number = i, .stop = &stop};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    for (int i = 0; i < ROUNDS; i++) {
        mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
        if (i % 2 == 0) {
            assert_int_equal(mcs_store_close(store), 0);
        }
        assert_int_equal(mcs_store_setup(store, &setup), 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_false(workers[i].wrong);
    }
    mcs_store_destroy(store);
}

typedef struct waiting_put {
    mcs_store_t *store;
    int result;
} waiting_put_t;

static void *put_key(void *arg)
{
    waiting_put_t *put = arg;
    put->result = world_put(put->store, "held", 100, 1);
    return NULL;
}

static void wait_for_request(world_t *world, mcs_verb_t verb)
{
    while (mini_master_requests(world->master, verb) == 0) {
        sched_yield();
    }
}

static void close_ends_a_call_that_waits_for_the_master(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    waiting_put_t put = {store, 1};
    pthread_t thread;
    world_script(world, MCS_VERB_PUT_START, 1, FAKE_SILENCE, MCS_OK);
    pthread_create(&thread, NULL, put_key, &put);
    wait_for_request(world, MCS_VERB_PUT_START);
    uint64_t before = mcs_now_ns();
    assert_int_equal(mcs_store_close(store), 0);
    assert_true(mcs_now_ns() - before < 2 * MCS_NS_PER_SEC);
    pthread_join(thread, NULL);
    assert_int_equal(put.result, MCS_INVALID_PARAMS);
    mcs_store_destroy(store);
}

static void close_ends_a_call_that_waits_for_a_stopped_holder(void **state)
{
    world_t *world = *state;
    setenv("MC_TRANSFER_TIMEOUT", "30", 1);
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *store = world_remote_store(world, 0);
    waiting_put_t put = {store, 1};
    pthread_t thread;
    fake_transport_set_all(FAKE_HOLDER_STOPPED);
    pthread_create(&thread, NULL, put_key, &put);
    while (fake_transport_waiting() == 0) {
        sched_yield();
    }
    uint64_t before = mcs_now_ns();
    assert_int_equal(mcs_store_close(store), 0);
    assert_true(mcs_now_ns() - before < 5 * MCS_NS_PER_SEC);
    pthread_join(thread, NULL);
    assert_int_equal(put.result, MCS_INVALID_PARAMS);
    mcs_store_destroy(store);
    mcs_store_destroy(holder);
}

/* ---- hooks ---- */

typedef struct hook {
    mcs_store_t *store;
    world_t *world;
    int calls;
    int answer;
    bool destroy;
    bool set_up;
    bool inside;
} hook_t;

static int close_in_hook(void *arg)
{
    hook_t *hook = arg;
    if (hook->inside) {
        return 0; /* of the calls made below */
    }
    if (hook->calls++ == 0) {
        hook->inside = true;
        assert_int_equal(mcs_store_close(hook->store), 0);
        if (hook->set_up) {
            mcs_setup_t setup = world_setup(hook->world, SEGMENT_BYTES);
            assert_int_equal(mcs_store_setup(hook->store, &setup), 0);
            assert_int_equal(world_put(hook->store, "from the hook", 10, 1), 0);
        }
        if (hook->destroy) {
            mcs_store_destroy(hook->store);
        }
        hook->inside = false;
    }
    return hook->answer;
}

static void a_hook_may_close_the_store_its_call_is_in(void **state)
{
    world_t *world = *state;
    for (int i = 0; i < 6; i++) {
        mcs_store_t *store = world_store(world, SEGMENT_BYTES);
        hook_t hook = {.store = store, .world = world, .answer = i % 2, .destroy = i >= 4, .set_up = i == 2 || i == 3};
        world_script(world, MCS_VERB_PUT_START, 1, FAKE_SILENCE, MCS_OK);
        mcs_thread_set_interrupt(close_in_hook, &hook);
        int result = world_put(store, "held", 100, 1);
        mcs_thread_set_interrupt(NULL, NULL);
        assert_int_equal(result, i % 2 != 0 ? MCS_INTERRUPTED : MCS_INVALID_PARAMS);
        if (!hook.destroy) {
            assert_int_equal(mcs_store_health_check(store), hook.set_up ? 0 : 1);
            mcs_store_destroy(store);
        }
    }
}

static int stop_now(void *arg)
{
    (*(int *)arg)++;
    return 1;
}

static void an_interrupted_put_leaves_no_reservation(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    int calls = 0;
    /* No answer comes to the first request: its repeat says what was reserved. */
    world_script(world, MCS_VERB_PUT_START, 1, FAKE_SILENCE, MCS_OK);
    mcs_thread_set_interrupt(stop_now, &calls);
    assert_int_equal(world_put(store, "key", 100, 1), MCS_INTERRUPTED);
    mcs_thread_set_interrupt(NULL, NULL);
    assert_int_equal(calls, 1);
    mini_stats_t stats = mini_master_stats(world->master);
    assert_int_equal(stats.objects, 0);
    assert_int_equal(stats.open, 0);
    assert_int_equal(stats.revoked, 1);
    assert_int_equal(world_put(store, "key", 100, 1), 0);
    mcs_store_destroy(store);
}

static int count_asked(void *arg)
{
    (*(int *)arg)++;
    return 0;
}

static void the_hook_is_not_asked_by_calls_that_hardly_wait(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    int calls = 0;
    mcs_thread_set_interrupt(count_asked, &calls);
    for (uint32_t i = 0; i < 200; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        assert_int_equal(world_put(store, key, 1000, i), 0);
        assert_int_equal(world_get(store, key, 1000, i), 1000);
    }
    mcs_thread_set_interrupt(NULL, NULL);
    assert_true(calls < 20); /* a hook may take an interpreter's lock; a busy machine may ask now and then */
    mcs_store_destroy(store);
}

/* ---- fork ---- */

static void a_forked_child_gets_errors_and_harms_nobody(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    mcs_handle_t *handle = NULL;
    mcs_bytes_t key = world_key("key");
    assert_int_equal(world_put(store, "key", 5000, 1), 0);
    assert_int_equal(mcs_get_handles(store, &key, 1, &handle, NULL), 0);
    mcs_get_t *get = mcs_get_begin(store, &key, 1);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint8_t bytes[5000];
        struct iovec iov = {bytes, 5000};
        mcs_value_t value = {&iov, 1};
        int64_t size = 1;
        int bad = mcs_get_into(store, &key, &value, 1, &size) != MCS_INVALID_PARAMS || size != MCS_INVALID_PARAMS;
        bad += mcs_get_run(get, &iov, &size) != MCS_INVALID_PARAMS;
        mcs_setup_t setup = world_setup(world, SEGMENT_BYTES);
        bad += mcs_store_setup(store, &setup) != MCS_INVALID_PARAMS;
        bad += mcs_store_health_check(store) != 1;
        bad += mcs_handle_ptr(handle) != NULL;
        mcs_handle_release(handle);
        mcs_get_end(get);
        bad += mcs_store_close(store) != 0;
        mcs_store_destroy(store);
        _exit(bad);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(world_get(store, "key", 5000, 1), 5000);
    assert_int_equal(mcs_handle_size(handle), 5000);
    assert_int_equal(world_counter(store, "mapper_pins"), 1);
    mcs_handle_release(handle);
    mcs_get_end(get);
    mcs_store_destroy(store);
}

/* ---- every failure once ---- */

static mcs_status_t life_step(void *arg)
{
    world_t *world = arg;
    mcs_store_t *store = mcs_store_create();
    if (store == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_setup_t setup = world_setup(world, 1 << 20);
    int code = mcs_store_setup(store, &setup);
    int put = code == 0 ? world_put(store, "key", 1000, 1) : code;
    int64_t got = put == 0 ? world_get(store, "key", 1000, 1) : put;
    mcs_store_destroy(store);
    return got == 1000 ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static mcs_status_t life_step_clean(void *arg)
{
    world_t *world = arg;
    mcs_status_t status = life_step(world);
    mini_master_restart(world->master); /* a goodbye may have failed */
    return status;
}

static void no_allocation_that_fails_leaks_or_hangs(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    setenv("MC_RPC_TIMEOUT_MS", "500", 1);
    unit_torture(MCS_FAULT_ALLOC, life_step_clean, *state);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void no_system_call_that_fails_leaks_or_hangs(void **state)
{
    mcs_log_set_level(MCS_LOG_OFF);
    setenv("MC_RPC_TIMEOUT_MS", "500", 1);
    unit_torture(MCS_FAULT_SYSCALL, life_step_clean, *state);
    mcs_log_set_level(MCS_LOG_ERROR);
}

static void codes_have_their_names(void **state)
{
    (void)state;
    assert_string_equal(mcs_code_name(-704), "OBJECT_NOT_FOUND");
    assert_string_equal(mcs_code_name(12345), "UNKNOWN_ERROR");
    assert_string_equal(mcs_version(), "0.1.0");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(calls_before_set_up_and_after_close_return_codes),
        TEST(null_arguments_are_refused),
        TEST(odd_set_ups_are_refused_with_a_log_line_and_leave_the_store_as_it_was),
        TEST(an_unreachable_master_fails_within_seconds),
        TEST(a_master_that_is_none_fails_the_set_up),
        TEST(a_name_that_is_taken_is_tried_with_another_port),
        TEST(an_explicit_port_is_only_a_name),
        TEST(a_store_is_set_up_again_on_the_same_object),
        TEST(a_get_begun_before_a_new_set_up_is_not_run_after_it),
        TEST(a_name_is_published_and_withdrawn),
        TEST(a_client_without_a_data_plane_asks_but_moves_nothing),
        TEST(close_and_set_up_during_calls_of_other_threads),
        TEST(close_ends_a_call_that_waits_for_the_master),
        TEST(close_ends_a_call_that_waits_for_a_stopped_holder),
        TEST(a_hook_may_close_the_store_its_call_is_in),
        TEST(an_interrupted_put_leaves_no_reservation),
        TEST(the_hook_is_not_asked_by_calls_that_hardly_wait),
        TEST(a_forked_child_gets_errors_and_harms_nobody),
        TEST(no_allocation_that_fails_leaks_or_hangs),
        TEST(no_system_call_that_fails_leaks_or_hangs),
        TEST(codes_have_their_names),
    };
    return cmocka_run_group_tests_name("store life", tests, NULL, NULL);
}
