/* core/client/conn: frames in pieces, hostile frames, deadlines, cancel, the interrupt hook, and addresses that lead
 * nowhere. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>

#include "core/client/interrupt.h"
#include "mcstore/mcstore.h"
#include "tests/unit/conn/pair.h"

static pair_t g_pair;

static int set_up(void **state)
{
    (void)state;
    pair_open(&g_pair);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&g_pair);
    mcs_thread_set_interrupt(NULL, NULL);
    mcs_interrupt_begin();
    return 0;
}

static void frames_are_received_in_order_and_whole(void **state)
{
    (void)state;
    mcs_io_t io = pair_io(30000);
    mcs_frame_t frame;
    assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_ERR_AGAIN);
    for (uint64_t id = 1; id <= 20; id++) {
        mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = 20, .id = id, .epoch = 7};
        pair_say(&g_pair, &header, "payload", id % 8);
    }
    for (uint64_t id = 1; id <= 20; id++) {
        assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_OK);
        assert_true(frame.header.id == id && frame.header.epoch == 7);
        assert_int_equal(frame.header.length, id % 8);
        assert_memory_equal(frame.payload, "payload", id % 8);
    }
    assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_ERR_AGAIN);
    pair_hang_up(&g_pair);
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_RPC_FAIL);
}

static void frame_in_pieces_is_waited_for(void **state)
{
    (void)state;
    uint8_t bytes[MCS_FRAME_HEADER + 5];
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = 20, .length = 5, .id = 9};
    mcs_frame_t frame;
    mcs_frame_encode(&header, bytes);
    memcpy(bytes + MCS_FRAME_HEADER, "12345", 5);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_ERR_AGAIN);
        pair_say_bytes(&g_pair, bytes + i, 1);
    }
    assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_OK);
    assert_memory_equal(frame.payload, "12345", 5);
    pair_say_bytes(&g_pair, bytes, 10); /* a part, and then the end */
    pair_hang_up(&g_pair);
    mcs_io_t io = pair_io(30000);
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_RPC_FAIL);
}

static void what_is_no_frame_is_a_protocol_error(void **state)
{
    (void)state;
    uint8_t bytes[MCS_FRAME_HEADER];
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = 20, .length = 0, .id = 9};
    mcs_frame_encode(&header, bytes);
    for (size_t at = 0; at < 12; at++) { /* magic, version, kind, verb (any), length */
        pair_close(&g_pair);
        pair_open(&g_pair);
        uint8_t bad[MCS_FRAME_HEADER];
        memcpy(bad, bytes, sizeof(bad));
        bad[at] ^= 0xff;
        pair_say_bytes(&g_pair, bad, sizeof(bad));
        mcs_frame_t frame;
        mcs_status_t expected = at == 6 || at == 7 ? MCS_OK : MCS_ERR_PROTOCOL;
        if (at == 8) {
            expected = MCS_ERR_AGAIN; /* 255 bytes are announced: may still come */
        }
        assert_int_equal(mcs_conn_poll(&g_pair.conn, 1000, &frame), expected);
    }
    static const char http[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    pair_close(&g_pair);
    pair_open(&g_pair);
    pair_say_bytes(&g_pair, http, sizeof(http));
    mcs_frame_t frame;
    assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_ERR_PROTOCOL);
}

static void *write_large(void *arg)
{
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = 21, .id = 3};
    uint8_t *payload = malloc(MCS_FRAME_MAX);
    assert_non_null(payload);
    memset(payload, 0x5a, MCS_FRAME_MAX);
    uint8_t head[MCS_FRAME_HEADER];
    header.length = MCS_FRAME_MAX;
    mcs_frame_encode(&header, head);
    const pair_t *pair = arg;
    assert_int_equal(send(pair->far, head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
    for (size_t sent = 0; sent < MCS_FRAME_MAX;) {
        ssize_t n = send(pair->far, payload + sent, MCS_FRAME_MAX - sent, MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    free(payload);
    return NULL;
}

static void largest_frame_is_received_and_its_buffer_given_back(void **state)
{
    (void)state;
    pthread_t thread;
    mcs_frame_t frame;
    mcs_io_t io = pair_io(30000);
    assert_int_equal(pthread_create(&thread, NULL, write_large, &g_pair), 0);
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_OK);
    assert_int_equal(frame.header.length, MCS_FRAME_MAX);
    for (size_t i = 0; i < MCS_FRAME_MAX; i += 1021) {
        assert_int_equal(frame.payload[i], 0x5a);
    }
    pthread_join(thread, NULL);
    assert_int_equal(mcs_conn_poll(&g_pair.conn, MCS_FRAME_MAX, &frame), MCS_ERR_AGAIN);
    assert_true(g_pair.conn.in.cap < MCS_MIB);
}

/* ---- limits of a wait ---- */

static void wait_ends_by_deadline_cancel_or_hook(void **state)
{
    (void)state;
    mcs_frame_t frame;
    uint32_t cancel = 0;
    mcs_io_t io = {.deadline_ns = mcs_now_ns(), .cancel = &cancel};
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_RPC_TIMEOUT);
    io.deadline_ns = mcs_deadline_after_ms(5);
    io.spin_ns = 1000000;
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_RPC_TIMEOUT);
    io.deadline_ns = MCS_NEVER;
    cancel = 1;
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_CLOSED);
}

static int count_and_stop(void *arg)
{
    int *asked = arg;
    return ++*asked >= 2;
}

static void hook_ends_an_interruptible_wait_only(void **state)
{
    (void)state;
    mcs_frame_t frame;
    int asked = 0;
    mcs_thread_set_interrupt(count_and_stop, &asked);
    mcs_interrupt_begin();
    mcs_io_t io = {.deadline_ns = MCS_NEVER, .interruptible = true};
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_INTERRUPTED);
    assert_int_equal(asked, 2);
    assert_true(mcs_interrupt_seen());
    assert_true(mcs_interrupt_pending()); /* stays, without asking again */
    assert_int_equal(asked, 2);
    mcs_interrupt_begin();
    assert_false(mcs_interrupt_seen());
    io = pair_io(150);
    assert_int_equal(mcs_conn_receive(&g_pair.conn, MCS_FRAME_MAX, &io, &frame), MCS_ERR_RPC_TIMEOUT);
    assert_int_equal(asked, 2); /* not asked */
}

static void flush_to_a_full_socket_ends_in_time(void **state)
{
    (void)state;
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = 30, .id = 1};
    uint8_t *payload = mcs_conn_prepare(&g_pair.conn, &header, MCS_FRAME_MAX);
    assert_non_null(payload);
    memset(payload, 1, MCS_FRAME_MAX);
    mcs_io_t io = pair_io(20);
    assert_int_equal(mcs_conn_flush(&g_pair.conn, &io), MCS_ERR_RPC_TIMEOUT);
    assert_null(mcs_conn_prepare(&g_pair.conn, &header, (size_t)MCS_FRAME_MAX + 1));
    pair_hang_up(&g_pair);
    assert_non_null(mcs_conn_prepare(&g_pair.conn, &header, 0));
    io = pair_io(30000);
    assert_int_equal(mcs_conn_flush(&g_pair.conn, &io), MCS_ERR_RPC_FAIL);
}

/* ---- connecting ---- */

static int listen_on_loopback(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void addresses_lead_to_a_connection_or_a_status(void **state)
{
    (void)state;
    uint16_t port;
    int listener = listen_on_loopback(&port);
    mcs_conn_t conn;
    mcs_io_t io = pair_io(30000);
    char text[64];
    mcs_conn_init(&conn);
    for (size_t i = 0; i < 2; i++) {
        snprintf(text, sizeof(text), i == 0 ? "127.0.0.1:%u" : "localhost:%u", port);
        assert_int_equal(mcs_conn_open(&conn, text, false, &io), MCS_OK);
        assert_true(mcs_conn_is_open(&conn));
    }
    close(listener);
    assert_int_equal(mcs_conn_open(&conn, text, false, &io), MCS_ERR_RPC_FAIL); /* nobody there any more */
    assert_false(mcs_conn_is_open(&conn));
    static const char *const bad[] = {
        "",
        ":",
        "host:99999",
        "a b:1",
        "no-such-host.invalid:1",
        "unix:",
        "unix:/no/such/socket",
        "[::1",
        "unix:/etc/passwd",
        "unix:/"
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        assert_int_equal(mcs_conn_open(&conn, bad[i], false, &io), MCS_ERR_RPC_FAIL);
        assert_false(mcs_conn_is_open(&conn));
    }
    mcs_conn_fini(&conn);
}

/* ---- torture ---- */

static mcs_status_t exchange(void *arg)
{
    (void)arg;
    pair_t pair;
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = 20, .id = 1};
    mcs_frame_t frame;
    mcs_io_t io = pair_io(30000);
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    pair_open(&pair);
    uint8_t *payload = mcs_conn_prepare(&pair.conn, &header, 100);
    if (payload == NULL) {
        goto out;
    }
    memset(payload, 1, 100);
    status = mcs_conn_flush(&pair.conn, &io);
    if (status == MCS_OK) {
        header.kind = MCS_FRAME_REPLY;
        pair_say(&pair, &header, "answer", 6);
        status = mcs_conn_receive(&pair.conn, MCS_FRAME_MAX, &io, &frame);
    }
    assert_true(status == MCS_OK || status == MCS_ERR_NO_MEMORY || status == MCS_ERR_RPC_FAIL);
out:
    pair_close(&pair);
    return status;
}

static void every_call_may_fail(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, exchange, NULL) >= 2);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, exchange, NULL) >= 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frames_are_received_in_order_and_whole), TEST(frame_in_pieces_is_waited_for),
        TEST(what_is_no_frame_is_a_protocol_error),   TEST(largest_frame_is_received_and_its_buffer_given_back),
        TEST(wait_ends_by_deadline_cancel_or_hook),   TEST(hook_ends_an_interruptible_wait_only),
        TEST(flush_to_a_full_socket_ends_in_time),    TEST(addresses_lead_to_a_connection_or_a_status),
        cmocka_unit_test(every_call_may_fail),
    };
    return cmocka_run_group_tests_name("conn", tests, NULL, NULL);
}
