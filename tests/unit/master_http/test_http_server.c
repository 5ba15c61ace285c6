/* The HTTP server: routes, limits, hostile peers, streams. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/thread.h"
#include "http_client.h"
#include "master/http_server.h"

#define BODY_MAX    ((size_t)100000)
#define BODIES_MAX  ((size_t)250000)
#define ANSWERS_MAX ((size_t)64 << 20)

static uint64_t g_produced; /* atomic: bytes that a producer has written */
static uint32_t g_done;     /* atomic: streams that have ended */
static uint32_t g_begun;    /* atomic */

static void handle_echo(void *arg, mcs_http_request_t *request)
{
    size_t len;
    const uint8_t *body = mcs_http_body(request, &len);
    assert_ptr_equal(arg, &g_done);
    mcs_http_reply(request, 200, MCS_HTTP_TEXT, body, len);
}

static void handle_query(void *arg, mcs_http_request_t *request)
{
    mcs_buf_t out;
    size_t len = 0;
    size_t raw_len = 0;
    (void)arg;
    const char *value = mcs_http_query(request, "key", &len);
    const char *raw = mcs_http_query_raw(request, "key", &raw_len);
    mcs_buf_init(&out, 1 << 20);
    if (value == NULL) {
        mcs_buf_printf(&out, "none");
    } else {
        mcs_buf_printf(&out, "%zu:", len);
        mcs_buf_append(&out, value, len);
        mcs_buf_printf(&out, "|%zu:", raw_len);
        mcs_buf_append(&out, raw, raw_len);
    }
    mcs_http_reply_buf(request, 200, MCS_HTTP_TEXT, &out);
}

static void handle_silent(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    (void)request;
}

static void handle_empty(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, "");
}

static void produce_count(void *arg, mcs_http_pipe_t *pipe)
{
    char line[32];
    (void)arg;
    (void)__atomic_add_fetch(&g_begun, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 100000; i++) {
        int len = snprintf(line, sizeof(line), "line %d\n", i);
        if (!mcs_http_pipe_write(pipe, line, (size_t)len)) {
            return;
        }
    }
}

static void produce_endless(void *arg, mcs_http_pipe_t *pipe)
{
    static const char block[10000];
    (void)arg;
    (void)__atomic_add_fetch(&g_begun, 1, __ATOMIC_SEQ_CST);
    while (mcs_http_pipe_write(pipe, block, sizeof(block))) {
        (void)__atomic_add_fetch(&g_produced, sizeof(block), __ATOMIC_SEQ_CST);
    }
}

static void count_done(void *arg)
{
    (void)arg;
    (void)__atomic_add_fetch(&g_done, 1, __ATOMIC_SEQ_CST);
}

static void handle_large(void *arg, mcs_http_request_t *request)
{
    mcs_buf_t out;
    (void)arg;
    mcs_buf_init(&out, SIZE_MAX);
    uint8_t *bytes = mcs_buf_extend(&out, ANSWERS_MAX / 2);
    if (bytes != NULL) {
        memset(bytes, 'x', ANSWERS_MAX / 2);
    }
    mcs_http_reply_buf(request, 200, MCS_HTTP_TEXT, &out);
}

static void handle_lines(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_stream(request, MCS_HTTP_TEXT, &(mcs_http_stream_t){produce_count, count_done, NULL});
}

static void handle_endless(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_stream(request, MCS_HTTP_TEXT, &(mcs_http_stream_t){produce_endless, count_done, NULL});
}

static const mcs_http_route_t g_routes[] = {
    {"POST", "/echo", handle_echo},      {"PUT", "/echo", handle_echo},   {"GET", "/query", handle_query},
    {"GET", "/silent", handle_silent},   {"GET", "/empty", handle_empty}, {"GET", "/lines", handle_lines},
    {"GET", "/endless", handle_endless}, {"GET", "/large", handle_large},
};

static mcs_http_config_t config_of(void)
{
    return (mcs_http_config_t){
        .name = "test",
        .address = "127.0.0.1",
        .routes = g_routes,
        .route_count = MCS_ARRAY_LEN(g_routes),
        .arg = &g_done,
        .body_max = BODY_MAX,
        .bodies_max = BODIES_MAX,
        .answers_max = ANSWERS_MAX,
        .threads = 2,
        .max_connections = 40,
        .max_streams = 2,
    };
}

static mcs_http_server_t *g_server;
static uint16_t g_port;

static void start(const mcs_http_config_t *config)
{
    assert_int_equal(mcs_http_server_create(config, &g_server), MCS_OK);
    assert_int_equal(mcs_http_server_start(g_server), MCS_OK);
    g_port = mcs_http_server_port(g_server);
    assert_true(g_port != 0);
    g_produced = 0;
    g_done = 0;
    g_begun = 0;
}

static int setup(void **state)
{
    (void)state;
    mcs_http_config_t config = config_of();
    start(&config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mcs_http_server_destroy(g_server);
    g_server = NULL;
    return 0;
}

/* Waits for what another thread does; the test's time limit ends a wait for nothing. */
static void wait_until_u32(const uint32_t *value, uint32_t least)
{
    while (__atomic_load_n(value, __ATOMIC_SEQ_CST) < least) {
        poll(NULL, 0, 1);
    }
}

static void routes_are_found_by_method_and_path(void **state)
{
    http_reply_t reply;
    char value[256];
    (void)state;
    http_expect(g_port, "POST", "/echo", "hello", 200, "hello");
    http_expect(g_port, "PUT", "/echo?x=1", "", 200, "");
    http_expect(g_port, "GET", "/nothing", NULL, 404, "no such page");
    http_expect(g_port, "GET", "/echo/", NULL, 404, "no such page");
    http_expect(g_port, "GET", "/empty", NULL, 200, "");
    http_expect(g_port, "GET", "/silent", NULL, 500, "internal error");
    http_request(g_port, "GET", "/echo", NULL, &reply);
    assert_int_equal(reply.code, 405);
    assert_string_equal(http_body(&reply), "Method not allowed");
    assert_string_equal(http_header(&reply, "Allow", value), "POST, PUT");
    http_reply_fini(&reply);
    http_expect(g_port, "BREW", "/query", NULL, 405, "Method not allowed");
    http_expect(g_port, "GET", "/query%00", NULL, 400, "zero byte in the path");
    http_expect(g_port, "GET", "/query%00x?key=1", NULL, 400, "zero byte in the path");
    http_expect(g_port, "POST", "/nothing", "a body that nobody wants", 404, "no such page");
}

static void head_is_answered_like_get_without_a_body(void **state)
{
    http_reply_t reply;
    char value[256];
    (void)state;
    http_request(g_port, "HEAD", "/query?key=abc", NULL, &reply);
    assert_int_equal(reply.code, 200);
    assert_string_equal(http_header(&reply, "Content-Length", value), "11");
    assert_string_equal(http_body(&reply), "");
    http_reply_fini(&reply);
}

static void queries_are_decoded_byte_for_byte(void **state)
{
    static const struct {
        const char *target;
        const char *answer;
    } rows[] = {
        {"/query", "none"},
        {"/query?", "none"},
        {"/query?other=1", "none"},
        {"/query?key", "0:|0:"},
        {"/query?key=", "0:|0:"},
        {"/query?a=1&key=v&key=w", "1:v|1:v"},
        {"/query?key=a%2Fb%3ac", "5:a/b:c|9:a%2Fb%3ac"},
        {"/query?key=a+b", "3:a+b|3:a+b"},
        {"/query?key=100%", "4:100%|4:100%"},
        {"/query?key=%4", "2:%4|2:%4"},
        {"/query?key=%zz%41", "4:%zzA|6:%zz%41"},
        {"/query?%6bey=v", "1:v|1:v"},
        {"/query?key=a=b", "3:a=b|3:a=b"},
        {"/query?&&key=v&", "1:v|1:v"},
        {"/query?key=%41", "1:A|3:%41"},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        http_expect(g_port, "GET", rows[i].target, NULL, 200, rows[i].answer);
    }
    http_reply_t reply;
    http_request(g_port, "GET", "/query?key=a%00b", NULL, &reply);
    assert_int_equal(reply.body.len, strlen("3:a_b|5:a%00b"));
    assert_memory_equal(reply.body.bytes, "3:a\0b|5:a%00b", reply.body.len);
    http_reply_fini(&reply);
}

static void a_query_of_many_parts_is_cut_not_overrun(void **state)
{
    mcs_buf_t target;
    (void)state;
    mcs_buf_init(&target, 1 << 20);
    mcs_buf_printf(&target, "/query?x");
    for (int i = 0; i < 200; i++) {
        mcs_buf_printf(&target, "&a%d", i % 10);
    }
    mcs_buf_printf(&target, "&key=v");
    http_expect(g_port, "GET", mcs_buf_cstr(&target), NULL, 200, "none");
    mcs_buf_fini(&target);
}

static void one_connection_serves_many_requests(void **state)
{
    static const char request[] = "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nok";
    char bytes[4096];
    (void)state;
    int fd = http_connect(g_port);
    for (int i = 0; i < 50; i++) {
        http_send(fd, request, strlen(request));
        size_t len = 0;
        do {
            len += http_recv(fd, bytes + len, sizeof(bytes) - len - 1);
            bytes[len] = '\0';
        } while (strstr(bytes, "\r\n\r\nok") == NULL);
        assert_memory_equal(bytes, "HTTP/1.1 200", 12);
    }
    close(fd);
}

static void a_body_of_the_largest_size_is_taken_and_one_byte_more_refused(void **state)
{
    http_reply_t reply;
    (void)state;
    char *body = mcs_malloc(BODY_MAX + 2);
    assert_non_null(body);
    memset(body, 'x', BODY_MAX + 1);
    body[BODY_MAX] = '\0';
    http_request(g_port, "PUT", "/echo", body, &reply);
    assert_int_equal(reply.code, 200);
    assert_int_equal(reply.body.len, BODY_MAX);
    http_reply_fini(&reply);
    mcs_free(body);
    static const char head[] = "PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 100001\r\n\r\n";
    http_raw(g_port, head, strlen(head), &reply);
    assert_int_equal(reply.code, 413);
    http_reply_fini(&reply);
}

static void a_huge_announced_length_is_refused_before_the_body(void **state)
{
    static const char *const lengths[] = {"1099511627776", "9223372036854775807", "18446744073709551615",
                                          "18446744073709551616", "99999999999999999999999999"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(lengths); i++) {
        char head[256];
        http_reply_t reply;
        snprintf(head, sizeof(head), "PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: %s\r\n\r\nsome bytes",
                 lengths[i]);
        int fd = http_connect(g_port); /* stays open for writing: the answer must not wait for the body */
        http_send(fd, head, strlen(head));
        http_finish(fd, &reply);
        assert_true(reply.code == 413 || (i >= 2 && reply.code == 400));
        http_reply_fini(&reply);
    }
    http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
}

static void an_endless_chunked_body_is_refused(void **state)
{
    char chunk[4096 + 16];
    char answer[256];
    (void)state;
    int fd = http_connect(g_port);
    static const char head[] = "PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    http_send(fd, head, strlen(head));
    memcpy(chunk, "1000\r\n", 6);
    memset(chunk + 6, 'x', 4096);
    memcpy(chunk + 6 + 4096, "\r\n", 2);
    bool closed = false;
    for (int i = 0; i < 10000 && !closed; i++) { /* 40 MB */
        closed = send(fd, chunk, 6 + 4096 + 2, MSG_NOSIGNAL) < 0;
    }
    assert_true(closed);
    (void)recv(fd, answer, sizeof(answer), 0);
    close(fd);

    http_reply_t reply; /* one that ends is told why */
    fd = http_connect(g_port);
    http_send(fd, head, strlen(head));
    for (int i = 0; i < 30; i++) {
        http_send(fd, chunk, 6 + 4096 + 2);
    }
    http_send(fd, "0\r\n\r\n", 5);
    http_finish(fd, &reply);
    assert_int_equal(reply.code, 413);
    http_reply_fini(&reply);
}

static void bodies_together_are_bounded(void **state)
{
    int fds[4];
    char *body = mcs_malloc(BODY_MAX);
    (void)state;
    assert_non_null(body);
    memset(body, 'x', BODY_MAX);
    static const char head[] = "PUT /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n";
    /* All but the last byte of four bodies: only two have room. */
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
        fds[i] = http_connect(g_port);
        http_send(fds[i], head, strlen(head));
        http_send(fds[i], body, BODY_MAX - 1);
    }
    int refused = 0;
    int taken = 0;
    bool more = true;
    while (more) { /* the last bytes; who was refused is told then */
        more = false;
        for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
            http_reply_t reply;
            http_send(fds[i], "x", 1);
            http_finish(fds[i], &reply);
            taken += reply.code == 200 ? 1 : 0;
            refused += reply.code == 503 ? 1 : 0;
            http_reply_fini(&reply);
        }
    }
    assert_int_equal(taken + refused, 4);
    assert_true(taken >= 1);
    mcs_free(body);
    http_expect(g_port, "POST", "/echo", "room again", 200, "room again");
}

static void answers_that_nobody_takes_are_bounded(void **state)
{
    static const char request[] = "GET /large HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    http_reply_t reply;
    int fds[2];
    char byte;
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) { /* 32 MiB each: more than the sockets take */
        fds[i] = http_connect(g_port);
        http_send(fds[i], request, strlen(request));
        assert_int_equal(http_recv(fds[i], &byte, 1), 1);
    }
    http_request(g_port, "GET", "/large", NULL, &reply);
    assert_int_equal(reply.code, 503);
    http_reply_fini(&reply);
    http_finish(fds[0], &reply); /* is taken whole */
    assert_true(reply.raw.len > ANSWERS_MAX / 2);
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/large", NULL, &reply);
    assert_int_equal(reply.code, 200);
    assert_int_equal(reply.body.len, ANSWERS_MAX / 2);
    http_reply_fini(&reply);
    close(fds[1]);
}

static void a_page_from_elsewhere_may_only_read(void **state)
{
    static const struct {
        const char *method;
        const char *origin;
        unsigned code;
    } rows[] = {
        {"PUT", "http://evil.example", 403}, {"POST", "null", 403},
        {"PUT", "http://store:9003", 200},   {"PUT", "http://store:9004", 403},
        {"GET", "http://evil.example", 405},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        char text[256];
        http_reply_t reply;
        int len = snprintf(text, sizeof(text),
                           "%s /echo HTTP/1.1\r\nHost: store:9003\r\nOrigin: %s\r\nContent-Length: 2\r\n\r\nok",
                           rows[i].method, rows[i].origin);
        http_raw(g_port, text, (size_t)len, &reply);
        assert_int_equal(reply.code, rows[i].code);
        http_reply_fini(&reply);
    }
}

static void headers_too_long_are_refused(void **state)
{
    mcs_buf_t text;
    http_reply_t reply;
    (void)state;
    mcs_buf_init(&text, 1 << 24);
    mcs_buf_printf(&text, "GET /query?key=");
    for (int i = 0; i < 200000; i++) {
        mcs_buf_append(&text, "k", 1);
    }
    mcs_buf_printf(&text, " HTTP/1.1\r\nHost: t\r\n\r\n");
    http_raw(g_port, text.bytes, text.len, &reply);
    assert_true(reply.code == 0 || reply.code == 414 || reply.code == 413 || reply.code == 431);
    http_reply_fini(&reply);
    mcs_buf_reset(&text);
    mcs_buf_printf(&text, "GET /query HTTP/1.1\r\nHost: t\r\n");
    for (int i = 0; i < 20000; i++) {
        mcs_buf_printf(&text, "X-%d: yes\r\n", i);
    }
    mcs_buf_printf(&text, "\r\n");
    http_raw(g_port, text.bytes, text.len, &reply);
    assert_true(reply.code == 0 || reply.code == 413 || reply.code == 431);
    http_reply_fini(&reply);
    mcs_buf_fini(&text);
    http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
}

static void garbage_ends_its_own_connection_only(void **state)
{
    static const char *const rows[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /query\r\n\r\n",
        "GET /query HTTP/9.9\r\n\r\n",
        "GET /query HTTP/1.1\r\n\r\n",
        "GET /query HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        "GET /query HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n",
        "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        "\x16\x03\x01\x02\x01\x01\xfc\x03\x03 a TLS hello",
        "GET %s%n%x HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET ../../../etc/passwd HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /query?key=%%%%&%=%&=& HTTP/1.1\r\nHost: t\r\n\r\n",
        "PUT /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        "GET http://elsewhere/query?key=v HTTP/1.1\r\nHost: t\r\n\r\n",
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        http_reply_t reply;
        http_raw(g_port, rows[i], strlen(rows[i]), &reply); /* returns: the connection was ended */
        http_reply_fini(&reply);
        http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
    }
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < 100; i++) {
        char bytes[512];
        for (size_t k = 0; k < sizeof(bytes); k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes[k] = (char)random;
        }
        http_reply_t reply;
        memcpy(bytes, "POST /echo HTTP/1.1\r\n", i % 2 == 0 ? 21 : 0);
        http_raw(g_port, bytes, sizeof(bytes), &reply);
        http_reply_fini(&reply);
    }
    http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
}

/* A byte now and then keeps the library's own timeout from firing. */
static void a_request_that_dribbles_in_is_cut(void **state)
{
    char byte;
    (void)state;
    mcs_http_server_destroy(g_server);
    mcs_http_config_t config = config_of();
    config.receive_ns = 300 * MCS_NS_PER_MS;
    start(&config);
    static const char *const starts[] = {
        "GET /query?key=",                                                      /* no request line yet */
        "GET /query HTTP/1.1\r\nHost: t\r\nX-Slow: ",                           /* headers */
        "PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10000\r\n\r\n",       /* body */
        "PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1", /* chunk head */
        "",
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(starts); i++) {
        int fd = http_connect(g_port);
        http_send(fd, starts[i], strlen(starts[i]));
        bool closed = false;
        for (int k = 0; k < 2000 && !closed; k++) {
            struct pollfd pfd = {.fd = fd, .events = POLLIN};
            closed = poll(&pfd, 1, 10) == 1 && recv(fd, &byte, 1, 0) <= 0;
            if (!closed && strlen(starts[i]) > 0) {
                http_send(fd, "1", 1);
            }
        }
        assert_true(closed);
        close(fd);
    }
    http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
}

static void silent_connections_do_not_keep_others_out(void **state)
{
    int fds[60];
    (void)state;
    /* More than the limit of 40: under pressure the short time counts for them. */
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
        fds[i] = http_connect(g_port);
        http_send(fds[i], "GET /query", 10);
    }
    uint64_t began = mcs_now_ns();
    http_expect(g_port, "POST", "/echo", "let me in", 200, "let me in");
    assert_true(mcs_now_ns() - began < 5 * MCS_NS_PER_SEC);
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
        close(fds[i]);
    }
}

static void a_stream_arrives_whole(void **state)
{
    http_reply_t reply;
    mcs_buf_t expected;
    (void)state;
    http_request(g_port, "GET", "/lines", NULL, &reply);
    assert_int_equal(reply.code, 200);
    mcs_buf_init(&expected, SIZE_MAX);
    for (int i = 0; i < 100000; i++) {
        mcs_buf_printf(&expected, "line %d\n", i);
    }
    assert_int_equal(reply.body.len, expected.len);
    assert_memory_equal(reply.body.bytes, expected.bytes, expected.len);
    mcs_buf_fini(&expected);
    http_reply_fini(&reply);
    wait_until_u32(&g_done, 1);
}

static void a_stream_is_also_for_clients_of_http_1_0(void **state)
{
    http_reply_t reply;
    static const char request[] = "GET /lines HTTP/1.0\r\n\r\n";
    (void)state;
    int fd = http_connect(g_port);
    http_send(fd, request, strlen(request));
    http_finish(fd, &reply);
    assert_int_equal(reply.code, 200);
    assert_memory_equal(reply.body.bytes + reply.body.len - 11, "line 99999\n", 11);
    http_reply_fini(&reply);
}

static void a_stream_waits_for_a_slow_reader_with_bounded_memory(void **state)
{
    char bytes[1000];
    uint64_t before;
    uint64_t now = 0;
    (void)state;
    int fd = http_connect(g_port);
    int small = 16384;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    static const char request[] = "GET /endless HTTP/1.1\r\nHost: t\r\n\r\n";
    http_send(fd, request, strlen(request));
    assert_true(http_recv(fd, bytes, sizeof(bytes)) > 0);
    /* Until the producer stands still. */
    do {
        before = now;
        poll(NULL, 0, 50);
        now = __atomic_load_n(&g_produced, __ATOMIC_SEQ_CST);
    } while (now == 0 || now != before);
    assert_true(now < 8 * MCS_MIB); /* the ring, and what the kernel's sockets hold */
    /* The client leaves: the producer is told. */
    close(fd);
    wait_until_u32(&g_done, 1);
}

static void more_streams_than_allowed_are_refused(void **state)
{
    http_reply_t reply;
    int fds[2];
    static const char request[] = "GET /endless HTTP/1.1\r\nHost: t\r\n\r\n";
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
        fds[i] = http_connect(g_port);
        http_send(fds[i], request, strlen(request));
    }
    wait_until_u32(&g_begun, 2);
    http_request(g_port, "GET", "/endless", NULL, &reply);
    assert_int_equal(reply.code, 503);
    http_reply_fini(&reply);
    assert_int_equal(__atomic_load_n(&g_done, __ATOMIC_SEQ_CST), 1); /* of the one that did not begin */
    http_expect(g_port, "POST", "/echo", "not blocked", 200, "not blocked");
    close(fds[0]);
    close(fds[1]);
    wait_until_u32(&g_done, 3);
    http_request(g_port, "GET", "/lines", NULL, &reply);
    assert_int_equal(reply.code, 200);
    http_reply_fini(&reply);
}

static void stopping_ends_streams_and_idle_connections_at_once(void **state)
{
    static const char request[] = "GET /endless HTTP/1.1\r\nHost: t\r\n\r\n";
    char byte;
    (void)state;
    int idle = http_connect(g_port);
    int streaming = http_connect(g_port);
    http_send(streaming, request, strlen(request));
    wait_until_u32(&g_begun, 1);
    uint64_t began = mcs_now_ns();
    mcs_http_server_stop(g_server);
    assert_true(mcs_now_ns() - began < 3 * MCS_NS_PER_SEC);
    assert_int_equal(g_done, 1);
    mcs_http_server_stop(g_server); /* again: nothing */
    assert_int_equal(http_recv(idle, &byte, 1), 0);
    close(idle);
    close(streaming);
}

static void client_thread(void *arg)
{
    uint32_t *failures = (uint32_t *)arg;
    for (int i = 0; i < 40; i++) {
        http_reply_t reply;
        char text[64];
        snprintf(text, sizeof(text), "%p %d", arg, i);
        http_request(g_port, i % 10 == 0 ? "GET" : "PUT", i % 10 == 0 ? "/query?key=v" : "/echo",
                     i % 10 == 0 ? NULL : text, &reply);
        const char *expected = i % 10 == 0 ? "1:v|1:v" : text;
        *failures += reply.code == 200 && strcmp(http_body(&reply), expected) == 0 ? 0 : 1;
        http_reply_fini(&reply);
    }
}

static void many_clients_at_once_get_their_own_answers(void **state)
{
    mcs_thread_t threads[8] = {0};
    uint32_t failures[8] = {0};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        assert_int_equal(mcs_thread_start(&threads[i], "client", client_thread, &failures[i]), MCS_OK);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(threads); i++) {
        mcs_thread_join(&threads[i]);
        assert_int_equal(failures[i], 0);
    }
}

static void an_ipv6_address_is_bound_in_brackets_or_without(void **state)
{
    static const char *const addresses[] = {"::1", "[::1]"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(addresses); i++) {
        mcs_http_server_t *server = NULL;
        mcs_http_config_t config = config_of();
        struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        config.address = addresses[i];
        int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0) {
            close(fd);
            skip(); /* this host has no IPv6 */
        }
        close(fd);
        assert_int_equal(mcs_http_server_create(&config, &server), MCS_OK);
        assert_int_equal(mcs_http_server_start(server), MCS_OK);
        addr.sin6_port = htons(mcs_http_server_port(server));
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
        static const char request[] = "GET /query?key=v HTTP/1.0\r\n\r\n";
        http_reply_t reply;
        http_send(fd, request, strlen(request));
        http_finish(fd, &reply);
        assert_int_equal(reply.code, 200);
        http_reply_fini(&reply);
        mcs_http_server_destroy(server);
    }
}

static void a_port_in_use_or_a_bad_address_is_refused(void **state)
{
    mcs_http_server_t *other = NULL;
    mcs_http_config_t config = config_of();
    (void)state;
    config.port = g_port;
    assert_int_equal(mcs_http_server_create(&config, &other), MCS_ERR_INVALID_PARAMS);
    config.port = 0;
    config.address = "192.0.2.1"; /* nobody has it (RFC 5737) */
    assert_int_equal(mcs_http_server_create(&config, &other), MCS_ERR_INVALID_PARAMS);
    assert_null(other);
    mcs_http_server_destroy(NULL);
    mcs_http_server_stop(NULL);
    config.address = "127.0.0.1";
    assert_int_equal(mcs_http_server_create(&config, &other), MCS_OK);
    mcs_http_server_destroy(other); /* never started */
}

static void starting_survives_every_lost_allocation(void **state)
{
    (void)state;
    for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
        bool fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            mcs_http_server_t *server = NULL;
            mcs_http_config_t config = config_of();
            mcs_fault_arm((mcs_fault_kind_t)kind, nth);
            mcs_status_t status = mcs_http_server_create(&config, &server);
            if (status == MCS_OK) {
                status = mcs_http_server_start(server);
            }
            fired = mcs_fault_fired((mcs_fault_kind_t)kind);
            mcs_fault_arm((mcs_fault_kind_t)kind, 0);
            assert_int_equal(status, fired ? MCS_ERR_NO_MEMORY : MCS_OK);
            mcs_http_server_destroy(server);
        }
    }
}

/* A request whose memory runs out is answered 500 or 503, or its connection is closed; the next one is served. */
static void requests_survive_every_lost_allocation(void **state)
{
    static const char *const targets[] = {"/query?key=v", "/lines", "/nothing", "/empty"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(targets); i++) {
        bool fired = true;
        for (uint64_t nth = 1; fired && nth < 100; nth++) {
            http_reply_t reply;
            char head[128];
            snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", targets[i]);
            int fd = http_connect(g_port);
            mcs_fault_arm(MCS_FAULT_ALLOC, nth);
            http_send(fd, head, strlen(head));
            char byte;
            struct pollfd pfd = {.fd = fd, .events = POLLIN};
            assert_int_equal(poll(&pfd, 1, 20000), 1);
            (void)recv(fd, &byte, 1, MSG_PEEK);
            fired = mcs_fault_fired(MCS_FAULT_ALLOC);
            mcs_fault_arm(MCS_FAULT_ALLOC, 0);
            http_finish(fd, &reply);
            assert_true(fired || reply.code == 200 || reply.code == 404);
            http_reply_fini(&reply);
            http_expect(g_port, "POST", "/echo", "still here", 200, "still here");
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(routes_are_found_by_method_and_path),
        TEST(head_is_answered_like_get_without_a_body),
        TEST(queries_are_decoded_byte_for_byte),
        TEST(a_query_of_many_parts_is_cut_not_overrun),
        TEST(one_connection_serves_many_requests),
        TEST(a_body_of_the_largest_size_is_taken_and_one_byte_more_refused),
        TEST(a_huge_announced_length_is_refused_before_the_body),
        TEST(an_endless_chunked_body_is_refused),
        TEST(bodies_together_are_bounded),
        TEST(answers_that_nobody_takes_are_bounded),
        TEST(a_page_from_elsewhere_may_only_read),
        TEST(headers_too_long_are_refused),
        TEST(garbage_ends_its_own_connection_only),
        TEST(a_request_that_dribbles_in_is_cut),
        TEST(silent_connections_do_not_keep_others_out),
        TEST(a_stream_arrives_whole),
        TEST(a_stream_is_also_for_clients_of_http_1_0),
        TEST(a_stream_waits_for_a_slow_reader_with_bounded_memory),
        TEST(more_streams_than_allowed_are_refused),
        TEST(stopping_ends_streams_and_idle_connections_at_once),
        TEST(many_clients_at_once_get_their_own_answers),
        TEST(an_ipv6_address_is_bound_in_brackets_or_without),
        TEST(a_port_in_use_or_a_bad_address_is_refused),
        TEST(starting_survives_every_lost_allocation),
        TEST(requests_survive_every_lost_allocation),
    };
    return cmocka_run_group_tests_name("http server", tests, NULL, NULL);
}
