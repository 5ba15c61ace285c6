/* master/rpc_server: hostile peers, slow readers, silence (on a fake clock), and the number of connections. Nobody else
 * notices. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/unit/rpc_server/rig.h"

#define IDLE_NS (100 * MCS_NS_PER_SEC)

static rig_t g_rig;
static int g_neighbour; /* a peer in good standing, served all along */
static uint64_t g_neighbour_id;

static int set_up(void **state)
{
    (void)state;
    unit_clock_start(1000 * MCS_NS_PER_SEC);
    rig_start(&g_rig, &(rig_options_t){.threads = 2, .max_connections = 200, .idle_timeout_ns = IDLE_NS});
    g_neighbour = rig_greeted(&g_rig);
    return 0;
}

static void neighbour_is_served(void)
{
    rig_send(g_neighbour, RIG_ECHO, ++g_neighbour_id, "well?", 5);
    rig_expect_echo(g_neighbour, g_neighbour_id, "well?", 5);
}

static int tear_down(void **state)
{
    (void)state;
    neighbour_is_served();
    close(g_neighbour);
    rig_stop(&g_rig);
    mcs_clock_set_source(NULL);
    return 0;
}

static void send_header(int fd, const mcs_frame_header_t *header)
{
    uint8_t bytes[MCS_FRAME_HEADER];
    mcs_frame_encode(header, bytes);
    rig_send_bytes(fd, bytes, sizeof(bytes));
}

static void what_is_no_frame_ends_the_connection(void **state)
{
    (void)state;
    static const char http[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    uint64_t errors = mcs_metric_get(&g_rig.metrics, rpc_protocol_errors);
    for (int greeted = 0; greeted < 2; greeted++) {
        for (int how = 0; how < 6; how++) {
            int fd = greeted ? rig_greeted(&g_rig) : rig_tcp(&g_rig);
            mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = RIG_ECHO};
            uint8_t bytes[MCS_FRAME_HEADER];
            switch (how) {
            case 0: rig_send_bytes(fd, http, sizeof(http) - 1); break;
            case 1:
                memset(bytes, 0xff, sizeof(bytes));
                rig_send_bytes(fd, bytes, sizeof(bytes));
                break;
            case 2:
                header.kind = MCS_FRAME_REPLY;
                send_header(fd, &header);
                break;
            case 3:
                header.kind = MCS_FRAME_NOTICE;
                send_header(fd, &header);
                break;
            case 4:
                mcs_frame_encode(&header, bytes);
                bytes[4] = 9; /* another version */
                rig_send_bytes(fd, bytes, sizeof(bytes));
                break;
            default:
                header.length = UINT32_MAX;
                send_header(fd, &header);
                break;
            }
            rig_expect_closed(fd);
            assert_true(rig_wait(&g_rig.metrics.rpc_protocol_errors, ++errors));
            neighbour_is_served();
        }
    }
}

static void length_limit_is_small_before_the_hello(void **state)
{
    (void)state;
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = RIG_ECHO, .length = MCS_FRAME_HELLO_MAX + 1};
    int fd = rig_tcp(&g_rig);
    send_header(fd, &header);
    rig_expect_closed(fd);
    uint8_t *payload = calloc(1, MCS_FRAME_HELLO_MAX);
    assert_non_null(payload);
    fd = rig_tcp(&g_rig);
    rig_send(fd, RIG_HELLO, 4, payload, MCS_FRAME_HELLO_MAX);
    rig_expect_echo(fd, 4, payload, MCS_FRAME_HELLO_MAX);
    header.length = MCS_FRAME_MAX + 1;
    send_header(fd, &header);
    rig_expect_closed(fd);
    free(payload);
}

static void connection_without_hello_ends_after_five_seconds(void **state)
{
    (void)state;
    int silent = rig_tcp(&g_rig);
    int talking = rig_unix(&g_rig); /* talks, but never says hello */
    int half = rig_unix(&g_rig);
    rig_send_bytes(half, "MCS1", 4);
    assert_true(rig_wait(&g_rig.metrics.rpc_connections, 4)); /* the clock counts from here for each of them */
    for (int second = 0; second < 4; second++) {
        rig_send(talking, RIG_ECHO, 1, NULL, 0);
        rig_expect_echo(talking, 1, NULL, 0);
        unit_clock_advance(MCS_NS_PER_SEC);
    }
    neighbour_is_served();
    assert_true(rig_wait_connections(&g_rig, 4)); /* all are still there at 4 s */
    unit_clock_advance(2 * MCS_NS_PER_SEC);
    rig_expect_closed(silent);
    rig_expect_closed(talking);
    rig_expect_closed(half);
}

static void half_a_frame_ends_after_thirty_seconds_of_silence(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = RIG_ECHO, .length = 10, .id = 3};
    send_header(fd, &header);
    rig_send_bytes(fd, "12345", 5);
    mcs_rpc_server_poll_begin(g_rig.server);
    while (!mcs_rpc_server_poll_done(g_rig.server)) {
    }
    unit_clock_advance(29 * MCS_NS_PER_SEC);
    neighbour_is_served();
    rig_send_bytes(fd, "67890", 5); /* in time */
    rig_expect_echo(fd, 3, "1234567890", 10);
    unit_clock_advance(40 * MCS_NS_PER_SEC); /* between frames it may be silent */
    neighbour_is_served();
    rig_send(fd, RIG_ECHO, 4, NULL, 0);
    rig_expect_echo(fd, 4, NULL, 0);
    send_header(fd, &header);
    mcs_rpc_server_poll_begin(g_rig.server);
    while (!mcs_rpc_server_poll_done(g_rig.server)) {
    }
    unit_clock_advance(31 * MCS_NS_PER_SEC);
    rig_expect_closed(fd);
}

static void idle_connection_ends_unless_an_answer_is_owed(void **state)
{
    (void)state;
    int idle = rig_greeted(&g_rig);
    int parked = rig_greeted(&g_rig);
    uint64_t frames = rig_frames(&g_rig);
    rig_send(parked, RIG_PARK, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, frames + 1));
    unit_clock_advance(IDLE_NS - MCS_NS_PER_SEC);
    neighbour_is_served();
    unit_clock_advance(2 * MCS_NS_PER_SEC);
    rig_expect_closed(idle);
    rig_send(parked, RIG_ECHO, 3, NULL, 0);
    rig_expect_echo(parked, 3, NULL, 0);
    close(parked);
}

/* A reader that asks for far more than it reads: its requests are not read any more, and everything comes when it
 * reads. */
static void slow_reader_is_throttled_and_loses_nothing(void **state)
{
    (void)state;
    const uint32_t size = 1 << 20;
    const uint64_t count = 64;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, 3));
    uint64_t before = rig_frames(&g_rig);
    for (uint64_t id = 0; id < count; id++) {
        rig_send(fd, RIG_BIG, 100 + id, &size, sizeof(size));
    }
    /* 4 MiB are queued, not 64: the high mark plus the answer that passed it, plus what the socket took. */
    assert_true(rig_wait(&g_rig.frames, before + 4));
    for (int i = 0; i < 20; i++) {
        mcs_rpc_server_poll_begin(g_rig.server);
        while (!mcs_rpc_server_poll_done(g_rig.server)) {
        }
        assert_true(mcs_rpc_conn_queued(rig_kept(&g_rig)) <= MCS_RPC_OUT_HIGH + size + 2 * MCS_FRAME_HEADER);
    }
    assert_true(rig_frames(&g_rig) < before + count);
    neighbour_is_served();
    uint8_t *payload = malloc(size);
    assert_non_null(payload);
    for (uint64_t id = 0; id < count; id++) {
        mcs_frame_header_t header;
        assert_true(rig_receive(fd, &header, payload, size));
        assert_int_equal(header.id, 100 + id);
        assert_int_equal(header.length, size);
        for (size_t i = 0; i < size; i += 4093) {
            assert_int_equal(payload[i], (100 + id) & 0xff);
        }
    }
    free(payload);
    rig_send(fd, RIG_ECHO, 5, NULL, 0);
    rig_expect_echo(fd, 5, NULL, 0);
    close(fd);
}

typedef struct asker {
    int fd;
    uint64_t count;
    uint32_t size;
} asker_t;

static void *ask(void *arg)
{
    const asker_t *asker = arg;
    for (uint64_t id = 0; id < asker->count; id++) {
        rig_send(asker->fd, RIG_BIG, id, &asker->size, sizeof(asker->size));
    }
    return NULL;
}

/* Reading stops and goes on hundreds of times while the peer reads as fast as it can: it must never be left without an
 * event. */
static void throttling_never_forgets_a_connection(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        asker_t asker = {rig_greeted(&g_rig), 400, 700000u + (uint32_t)round * 1500000u};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, ask, &asker), 0);
        uint8_t *payload = malloc(asker.size);
        assert_non_null(payload);
        for (uint64_t id = 0; id < asker.count; id++) {
            mcs_frame_header_t header;
            assert_true(rig_receive(asker.fd, &header, payload, asker.size));
            assert_int_equal(header.id, id);
        }
        free(payload);
        pthread_join(thread, NULL);
        close(asker.fd);
    }
}

static void reader_over_the_hard_cap_is_closed(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, 3));
    uint8_t *payload = calloc(1, MCS_MIB);
    assert_non_null(payload);
    mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_N_RELEASE};
    mcs_status_t status = MCS_OK;
    size_t sent = 0;
    while (status == MCS_OK && sent < 200) {
        status = mcs_rpc_conn_send(rig_kept(&g_rig), &header, payload, MCS_MIB);
        assert_true(mcs_rpc_conn_queued(rig_kept(&g_rig)) <= MCS_RPC_OUT_MAX);
        sent++;
    }
    assert_int_equal(status, MCS_ERR_LIMIT);
    assert_true(sent * MCS_MIB > MCS_RPC_OUT_MAX - MCS_MIB);
    assert_int_equal(mcs_rpc_conn_send(rig_kept(&g_rig), &header, NULL, 0), MCS_ERR_CLOSED);
    assert_true(rig_wait(&g_rig.closed, 1));
    assert_int_equal(mcs_rpc_conn_send(rig_kept(&g_rig), &header, payload, MCS_FRAME_MAX + 1), MCS_ERR_LIMIT);
    free(payload);
    close(fd);
}

static void many_connections_are_served_and_one_too_many_is_not(void **state)
{
    (void)state;
    int fds[199];
    for (int i = 0; i < 199; i++) {
        fds[i] = i % 2 == 0 ? rig_unix(&g_rig) : rig_tcp(&g_rig);
    }
    for (int i = 0; i < 199; i++) {
        rig_send(fds[i], RIG_HELLO, (uint64_t)i, "hi", 2);
    }
    for (int i = 0; i < 199; i++) {
        rig_expect_echo(fds[i], (uint64_t)i, "hi", 2);
    }
    assert_int_equal(mcs_rpc_server_connections(g_rig.server), 200);
    rig_expect_closed(rig_tcp(&g_rig)); /* the 201st */
    rig_expect_closed(rig_unix(&g_rig));
    close(fds[0]);
    assert_true(rig_wait_connections(&g_rig, 199));
    fds[0] = rig_greeted(&g_rig); /* room again */
    for (int i = 0; i < 199; i++) {
        close(fds[i]);
    }
    assert_true(rig_wait_connections(&g_rig, 1));
}

/* Without descriptors left a waiting peer is refused instead of spinning the loop, and service goes on afterwards. */
static void descriptors_run_out_and_come_back(void **state)
{
    (void)state;
    int fillers[64];
    size_t count = 0;
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int probe = rig_tcp(&g_rig);
    int waiting = rig_socket();
    struct rlimit few = {.rlim_cur = (rlim_t)waiting + 1, .rlim_max = old.rlim_max};
    assert_true(rig_wait_connections(&g_rig, 2));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (count < MCS_ARRAY_LEN(fillers) && (fillers[count] = dup(probe)) >= 0) {
        count++;
    }
    rig_connect(&g_rig, waiting);
    rig_expect_closed(waiting);
    neighbour_is_served();
    while (count > 0) {
        close(fillers[--count]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    close(probe);
    int fd = rig_greeted(&g_rig);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_no_frame_ends_the_connection),
        TEST(length_limit_is_small_before_the_hello),
        TEST(connection_without_hello_ends_after_five_seconds),
        TEST(half_a_frame_ends_after_thirty_seconds_of_silence),
        TEST(idle_connection_ends_unless_an_answer_is_owed),
        TEST(slow_reader_is_throttled_and_loses_nothing),
        TEST(throttling_never_forgets_a_connection),
        TEST(reader_over_the_hard_cap_is_closed),
        TEST(many_connections_are_served_and_one_too_many_is_not),
        TEST(descriptors_run_out_and_come_back),
    };
    return cmocka_run_group_tests_name("rpc limits", tests, NULL, NULL);
}
