/* master/rpc_server: framing, pipelining, replies from any thread, and rule 9's full poll. */
#include <pthread.h>
#include <signal.h>

#include "tests/unit/rpc_server/rig.h"

static rig_t g_rig;

static int set_up(void **state)
{
    (void)state;
    rig_start(&g_rig, &(rig_options_t){.threads = 3});
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&g_rig);
    return 0;
}

static void request_is_answered_over_both_transports(void **state)
{
    (void)state;
    int fds[] = {rig_tcp(&g_rig), rig_unix(&g_rig)};
    for (int i = 0; i < 2; i++) {
        rig_hello(fds[i]);
        rig_send(fds[i], RIG_ECHO, UINT64_MAX, NULL, 0);
        rig_expect_echo(fds[i], UINT64_MAX, NULL, 0);
        close(fds[i]);
    }
}

static void pipelined_requests_are_handled_in_order(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    mcs_buf_t all;
    mcs_buf_init(&all, 1 << 20);
    for (uint64_t id = 0; id < 2000; id++) {
        mcs_frame_header_t header = {
            .kind = MCS_FRAME_REQUEST, .verb = RIG_ECHO, .length = (uint32_t)(id % 50), .id = id};
        mcs_frame_encode(&header, mcs_buf_extend(&all, MCS_FRAME_HEADER));
        memset(mcs_buf_extend(&all, id % 50), (int)(id & 0xff), id % 50);
    }
    rig_send_bytes(fd, all.bytes, all.len);
    for (uint64_t id = 0; id < 2000; id++) {
        uint8_t expected[50];
        memset(expected, (int)(id & 0xff), sizeof(expected));
        rig_expect_echo(fd, id, expected, id % 50);
    }
    mcs_buf_fini(&all);
    close(fd);
}

static void frames_may_arrive_in_any_pieces(void **state)
{
    (void)state;
    uint8_t bytes[2 * (MCS_FRAME_HEADER + 7)];
    for (uint64_t id = 0; id < 2; id++) {
        mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = RIG_ECHO, .length = 7, .id = 10 + id};
        mcs_frame_encode(&header, bytes + id * sizeof(bytes) / 2);
        memcpy(bytes + id * sizeof(bytes) / 2 + MCS_FRAME_HEADER, "payload", 7);
    }
    int fd = rig_tcp(&g_rig);
    rig_hello(fd);
    for (size_t i = 0; i < sizeof(bytes); i++) { /* one by one: TCP_NODELAY is not set here, the kernel may join some */
        rig_send_bytes(fd, bytes + i, 1);
    }
    rig_expect_echo(fd, 10, "payload", 7);
    rig_expect_echo(fd, 11, "payload", 7);
    close(fd);
    for (size_t cut = 1; cut < sizeof(bytes); cut++) { /* cut in two at each place: the server has polled in between */
        fd = rig_greeted(&g_rig);
        rig_send_bytes(fd, bytes, cut);
        mcs_rpc_server_poll_begin(g_rig.server);
        while (!mcs_rpc_server_poll_done(g_rig.server)) {
        }
        rig_send_bytes(fd, bytes + cut, sizeof(bytes) - cut);
        rig_expect_echo(fd, 10, "payload", 7);
        rig_expect_echo(fd, 11, "payload", 7);
        close(fd);
    }
}

static void largest_frame_goes_both_ways(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    uint8_t *payload = malloc(MCS_FRAME_MAX);
    assert_non_null(payload);
    for (size_t i = 0; i < MCS_FRAME_MAX; i++) {
        payload[i] = (uint8_t)(i * 31 + (i >> 12));
    }
    rig_send(fd, RIG_ECHO, 5, payload, MCS_FRAME_MAX);
    rig_expect_echo(fd, 5, payload, MCS_FRAME_MAX);
    rig_send(fd, RIG_ECHO, 6, "after", 5);
    rig_expect_echo(fd, 6, "after", 5);
    free(payload);
    close(fd);
}

/* ---- other threads ---- */

typedef struct sender {
    mcs_rpc_conn_t *conn;
    uint64_t first;
} sender_t;

#define NOTICES 500

static void *send_notices(void *arg)
{
    const sender_t *sender = arg;
    uint8_t payload[300];
    for (uint64_t i = 0; i < NOTICES; i++) {
        mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_N_RELEASE, .id = sender->first + i};
        memset(payload, (int)((sender->first + i) & 0xff), sizeof(payload));
        assert_int_equal(mcs_rpc_conn_send(sender->conn, &header, payload, sizeof(payload)), MCS_OK);
    }
    return NULL;
}

static void frames_of_many_threads_stay_whole_and_in_order(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, 2));
    pthread_t threads[4];
    sender_t senders[4];
    uint64_t next[4];
    for (uint64_t i = 0; i < 4; i++) {
        senders[i] = (sender_t){rig_kept(&g_rig), i * 1000000};
        next[i] = senders[i].first;
        assert_int_equal(pthread_create(&threads[i], NULL, send_notices, &senders[i]), 0);
    }
    for (int n = 0; n < 4 * NOTICES; n++) {
        mcs_frame_header_t header;
        uint8_t payload[300];
        assert_true(rig_receive(fd, &header, payload, sizeof(payload)));
        assert_int_equal(header.kind, MCS_FRAME_NOTICE);
        assert_int_equal(header.length, sizeof(payload));
        assert_true(header.id == next[header.id / 1000000]++);
        for (size_t i = 0; i < sizeof(payload); i++) {
            assert_int_equal(payload[i], header.id & 0xff);
        }
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    close(fd);
}

static void send_after_the_end_says_closed(void **state)
{
    (void)state;
    mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_N_RELEASE};
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, 2));
    close(fd);
    assert_true(rig_wait(&g_rig.closed, 1));
    assert_int_equal(mcs_rpc_conn_send(rig_kept(&g_rig), &header, NULL, 0), MCS_ERR_CLOSED);
    mcs_rpc_conn_close(rig_kept(&g_rig)); /* harmless */
    assert_string_equal(mcs_rpc_conn_peer(rig_kept(&g_rig)), "unix");
    assert_true(mcs_rpc_conn_id(rig_kept(&g_rig)) > 0);
}

static void close_sends_what_was_queued_first(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_CLOSE, 7, "last words", 10);
    rig_expect_echo(fd, 7, "last words", 10);
    rig_expect_closed(fd);
    /* From another thread. */
    fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_KEEP, 2, NULL, 0);
    assert_true(rig_wait(&g_rig.frames, 4));
    mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_N_FORGET, .id = 9};
    assert_int_equal(mcs_rpc_conn_send(rig_kept(&g_rig), &header, "bye", 3), MCS_OK);
    mcs_rpc_conn_close(rig_kept(&g_rig));
    char text[3];
    assert_true(rig_receive(fd, &header, text, 3));
    assert_memory_equal(text, "bye", 3);
    rig_expect_closed(fd);
}

static void refused_request_ends_the_connection_after_its_answer(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_REFUSE, 3, NULL, 0);
    rig_expect_echo(fd, 3, "no", 2);
    rig_expect_closed(fd);
    assert_int_equal(mcs_metric_get(&g_rig.metrics, rpc_protocol_errors), 1);
}

/* Rule 9: what had arrived before poll_begin has been handled when poll_done says so. */
static void full_poll_sees_everything_that_had_arrived(void **state)
{
    (void)state;
    int fds[6];
    for (int i = 0; i < 6; i++) {
        fds[i] = rig_greeted(&g_rig);
    }
    uint64_t expected = rig_frames(&g_rig);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < 6; i++) {
            rig_send(fds[i], RIG_SILENT, 1, "x", 1); /* a UNIX socket: it has arrived when send returns */
        }
        expected += 6;
        mcs_rpc_server_poll_begin(g_rig.server);
        while (!mcs_rpc_server_poll_done(g_rig.server)) {
        }
        assert_true(rig_frames(&g_rig) == expected);
    }
    for (int i = 0; i < 6; i++) {
        close(fds[i]);
    }
}

static void busy_loop_has_not_polled(void **state)
{
    (void)state;
    int fd = rig_greeted(&g_rig);
    rig_send(fd, RIG_WAIT, 2, NULL, 0);
    while (__atomic_load_n(&g_rig.waiting, __ATOMIC_SEQ_CST) == 0) {
    }
    mcs_rpc_server_poll_begin(g_rig.server);
    for (int i = 0; i < 1000; i++) {
        assert_false(mcs_rpc_server_poll_done(g_rig.server));
    }
    __atomic_store_n(&g_rig.gate, 1, __ATOMIC_SEQ_CST);
    while (!mcs_rpc_server_poll_done(g_rig.server)) {
    }
    rig_expect_echo(fd, 2, NULL, 0);
    close(fd);
}

static int set_up_one_loop(void **state)
{
    (void)state;
    rig_start(&g_rig, &(rig_options_t){.threads = 1});
    return 0;
}

/* While the loop is busy with the first request of one connection, three more have arrived behind it and one from
 * somebody else. The last of the three is answered only when the other connection has been. */
static void requests_in_a_row_let_the_others_of_the_loop_have_their_turn(void **state)
{
    (void)state;
    static const unsigned verbs[] = {RIG_WAIT, RIG_WORK, RIG_WORK, RIG_WAIT_AGAIN};
    uint8_t frames[MCS_ARRAY_LEN(verbs) * MCS_FRAME_HEADER];
    int first = rig_greeted(&g_rig);
    int other = rig_greeted(&g_rig);
    for (size_t i = 0; i < MCS_ARRAY_LEN(verbs); i++) {
        mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = (uint16_t)verbs[i], .id = i};
        mcs_frame_encode(&header, frames + i * MCS_FRAME_HEADER);
    }
    rig_send_bytes(first, frames, sizeof(frames));
    while (__atomic_load_n(&g_rig.waiting, __ATOMIC_SEQ_CST) == 0) {
    }
    rig_send(other, RIG_ECHO, 7, "x", 1);
    __atomic_store_n(&g_rig.gate, 1, __ATOMIC_SEQ_CST);
    rig_expect_echo(other, 7, "x", 1);
    __atomic_store_n(&g_rig.gate, 2, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < MCS_ARRAY_LEN(verbs); i++) {
        rig_expect_echo(first, i, NULL, 0);
    }
    close(first);
    close(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(request_is_answered_over_both_transports),
        TEST(pipelined_requests_are_handled_in_order),
        TEST(frames_may_arrive_in_any_pieces),
        TEST(largest_frame_goes_both_ways),
        TEST(frames_of_many_threads_stay_whole_and_in_order),
        TEST(send_after_the_end_says_closed),
        TEST(close_sends_what_was_queued_first),
        TEST(refused_request_ends_the_connection_after_its_answer),
        TEST(full_poll_sees_everything_that_had_arrived),
        TEST(busy_loop_has_not_polled),
        cmocka_unit_test_setup_teardown(requests_in_a_row_let_the_others_of_the_loop_have_their_turn, set_up_one_loop,
                                        tear_down),
    };
    return cmocka_run_group_tests_name("rpc serving", tests, NULL, NULL);
}
