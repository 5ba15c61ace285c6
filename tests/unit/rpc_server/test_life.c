/* master/rpc_server: create, start, stop, destroy in every order; listeners that cannot be had; every allocation and
 * system call fails once. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "master/rpc_listen.h"
#include "tests/unit/rpc_server/rig.h"

static const rig_options_t g_defaults = {.threads = 3};

static int loud(void **state)
{
    (void)state;
    mcs_log_set_level(MCS_LOG_WARN);
    return 0;
}

static int quiet(void **state)
{
    (void)state;
    mcs_log_set_level(MCS_LOG_OFF);
    return 0;
}

static void server_that_never_started_is_destroyed(void **state)
{
    (void)state;
    rig_t rig;
    assert_int_equal(rig_create(&rig, &g_defaults), MCS_OK);
    mcs_rpc_server_destroy(rig.server);
    rig_remove_folder(&rig);
    assert_int_equal(rig_create(&rig, &g_defaults), MCS_OK);
    mcs_rpc_server_stop(rig.server);
    mcs_rpc_server_stop(rig.server);
    mcs_rpc_server_destroy(rig.server);
    mcs_rpc_server_destroy(NULL);
    rig_remove_folder(&rig);
}

static void stop_ends_everything_and_may_be_repeated(void **state)
{
    (void)state;
    rig_t rig;
    rig_start(&rig, &g_defaults);
    int a = rig_greeted(&rig);
    int b = rig_tcp(&rig);
    assert_true(rig_wait_connections(&rig, 2));
    mcs_rpc_server_stop(rig.server);
    rig_expect_closed(a);
    rig_expect_closed(b);
    assert_int_equal(rig.closed, 2);
    assert_int_equal(rig.ended_threads, 3);
    mcs_rpc_server_poll_begin(rig.server);
    mcs_rpc_server_stop(rig.server);
    rig_stop(&rig);
}

/* ---- stop while busy ---- */

typedef struct hammer {
    rig_t *rig;
    uint64_t answers; /* atomic */
} hammer_t;

static void *hammer_main(void *arg)
{
    hammer_t *hammer = arg;
    int fd = rig_unix(hammer->rig);
    mcs_frame_header_t header;
    uint8_t payload[2000];
    memset(payload, 7, sizeof(payload));
    rig_send(fd, RIG_HELLO, 1, "hi", 2);
    for (uint64_t id = 2;; id++) {
        rig_send(fd, RIG_ECHO, id, payload, sizeof(payload));
        if (!rig_receive(fd, &header, payload, sizeof(payload))) {
            break; /* the server stopped */
        }
        __atomic_fetch_add(&hammer->answers, 1, __ATOMIC_SEQ_CST);
    }
    close(fd);
    return NULL;
}

static void stop_while_busy_ends_every_peer(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        rig_t rig;
        hammer_t hammer = {&rig, 0};
        pthread_t threads[6];
        rig_start(&rig, &g_defaults);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, hammer_main, &hammer), 0);
        }
        assert_true(rig_wait_connections(&rig, 6));
        assert_true(rig_wait(&hammer.answers, 300));
        rig_stop(&rig);
        for (int i = 0; i < 6; i++) {
            pthread_join(threads[i], NULL);
        }
    }
}

typedef struct sender {
    mcs_rpc_conn_t *conn;
    uint32_t stop;
    uint64_t sent;
} sender_t;

static void *sender_main(void *arg)
{
    sender_t *sender = arg;
    mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_N_FORGET};
    while (__atomic_load_n(&sender->stop, __ATOMIC_SEQ_CST) == 0) {
        if (mcs_rpc_conn_send(sender->conn, &header, "x", 1) == MCS_OK) {
            __atomic_fetch_add(&sender->sent, 1, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

/* A housekeeping thread that goes on sending after the loops are gone. */
static void sender_outlives_the_loops(void **state)
{
    (void)state;
    rig_t rig;
    sender_t sender = {.conn = NULL};
    pthread_t thread;
    rig_start(&rig, &g_defaults);
    int fd = rig_greeted(&rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&rig.frames, 2));
    sender.conn = rig_kept(&rig);
    assert_int_equal(pthread_create(&thread, NULL, sender_main, &sender), 0);
    assert_true(rig_wait(&sender.sent, 10));
    mcs_rpc_server_stop(rig.server);
    __atomic_store_n(&sender.stop, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    rig_stop(&rig);
    close(fd);
}

/* ---- listeners ---- */

static void ports_and_addresses_that_cannot_be_had_are_refused(void **state)
{
    (void)state;
    rig_t rig;
    mcs_rpc_server_t *other = NULL;
    rig_start(&rig, &g_defaults);
    quiet(NULL);
    mcs_rpc_config_t config = {.address = "127.0.0.1",
                               .interface = "",
                               .port = mcs_rpc_server_port(rig.server),
                               .tcp = true,
                               .ipc_dir = "",
                               .threads = 1,
                               .max_connections = 10,
                               .metrics = &rig.metrics};
    assert_int_equal(mcs_rpc_server_create(&config, &other), MCS_ERR_INVALID_PARAMS); /* in use */
    config.port = 0;
    static const char *const bad[] = {"no.such.host.invalid", "1.2.3.4.5", "256.0.0.1", "192.0.2.1", "[::1", "a b"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        config.address = bad[i];
        assert_int_equal(mcs_rpc_server_create(&config, &other), MCS_ERR_INVALID_PARAMS);
    }
    config.address = "127.0.0.1";
    config.interface = "no-such-if0";
    assert_int_equal(mcs_rpc_server_create(&config, &other), MCS_ERR_INVALID_PARAMS);
    assert_null(other);
    config.interface = "lo";
    config.address = "ignored";
    assert_int_equal(mcs_rpc_server_create(&config, &other), MCS_OK);
    mcs_rpc_server_destroy(other);
    rig_stop(&rig);
}

static void folder_of_the_socket_must_be_ours_alone(void **state)
{
    (void)state;
    char base[] = "/tmp/mcs-listen-XXXXXX";
    char path[400];
    char socket_path[108];
    int fd = -1;
    assert_non_null(mkdtemp(base));
    snprintf(path, sizeof(path), "%s/new", base);
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_OK); /* made when missing */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(socket_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
    assert_int_equal(unlink(socket_path), 0);
    assert_int_equal(chmod(path, 0777), 0); /* others could put their own socket there */
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink(base, path), 0);
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(unlink(path), 0);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof(path), "%s/missing/deep", base);
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_ERR_INVALID_PARAMS);
    snprintf(path, sizeof(path), "%s/%0100d", base, 1); /* longer than a socket path can be */
    assert_int_equal(mcs_rpc_listen_unix(path, &fd, socket_path, sizeof(socket_path)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(rmdir(base), 0); /* and was not made */
}

static void sockets_of_dead_masters_are_removed_and_those_of_living_ones_stay(void **state)
{
    (void)state;
    char base[] = "/tmp/mcs-listen-XXXXXX";
    char dead[108];
    char living[108];
    char mine[108];
    char other[400];
    int fds[3];
    assert_non_null(mkdtemp(base));
    snprintf(other, sizeof(other), "%s/master-notes", base); /* no socket: not ours to remove */
    int file = open(other, O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(mcs_rpc_listen_unix(base, &fds[0], dead, sizeof(dead)), MCS_OK);
    assert_int_equal(mcs_rpc_listen_unix(base, &fds[1], living, sizeof(living)), MCS_OK);
    close(fds[0]); /* as a kill leaves it: the name stays */
    assert_int_equal(access(dead, F_OK), 0);
    assert_int_equal(mcs_rpc_listen_unix(base, &fds[2], mine, sizeof(mine)), MCS_OK);
    assert_int_not_equal(access(dead, F_OK), 0);
    assert_int_equal(access(living, F_OK), 0);
    assert_int_equal(access(mine, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
    close(fds[1]);
    close(fds[2]);
    assert_int_equal(unlink(living), 0);
    assert_int_equal(unlink(mine), 0);
    assert_int_equal(unlink(other), 0);
    assert_int_equal(rmdir(base), 0);
}

/* ---- torture ---- */

static mcs_status_t create_and_start(void *arg)
{
    rig_t rig;
    (void)arg;
    mcs_status_t status = rig_create(&rig, &g_defaults);
    if (status != MCS_OK) {
        return status;
    }
    status = mcs_rpc_server_start(rig.server);
    mcs_rpc_server_stop(rig.server);
    mcs_rpc_server_destroy(rig.server);
    rig_remove_folder(&rig);
    return status;
}

static void every_step_of_the_start_may_fail(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, create_and_start, NULL) >= 5); /* the server, its loops, each thread */
    assert_true(unit_torture(MCS_FAULT_SYSCALL, create_and_start, NULL) >= 3);
}

/* One connection with traffic: an answer is right or the connection ends, and the next one is served. */
static mcs_status_t traffic(void *arg)
{
    rig_t *rig = arg;
    static uint8_t payload[100000];
    mcs_frame_header_t header;
    bool fine = true;
    int fd = rig_unix(rig);
    for (uint64_t id = 1; id < 6 && fine; id++) {
        size_t len = id == 1 ? 10 : sizeof(payload) / id;
        rig_send(fd, id == 1 ? RIG_HELLO : RIG_ECHO, id, payload, len);
        fine = rig_receive(fd, &header, NULL, 0);
        assert_true(!fine || (header.id == id && header.length == len));
    }
    close(fd);
    assert_true(rig_wait_connections(rig, 0));
    return fine ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static void connection_without_memory_ends_and_others_are_served(void **state)
{
    (void)state;
    rig_t rig;
    rig_start(&rig, &(rig_options_t){.threads = 1});
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_ALLOC, traffic, &rig) >= 4);
    assert_int_equal(traffic(&rig), MCS_OK);
    rig_stop(&rig);
}

#define TEST(name) cmocka_unit_test_teardown(name, loud)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(server_that_never_started_is_destroyed),
        TEST(stop_ends_everything_and_may_be_repeated),
        TEST(stop_while_busy_ends_every_peer),
        TEST(sender_outlives_the_loops),
        TEST(ports_and_addresses_that_cannot_be_had_are_refused),
        cmocka_unit_test_setup_teardown(folder_of_the_socket_must_be_ours_alone, quiet, loud),
        cmocka_unit_test(sockets_of_dead_masters_are_removed_and_those_of_living_ones_stay),
        cmocka_unit_test_setup_teardown(every_step_of_the_start_may_fail, quiet, loud),
        TEST(connection_without_memory_ends_and_others_are_served),
    };
    return cmocka_run_group_tests_name("rpc life", tests, NULL, NULL);
}
