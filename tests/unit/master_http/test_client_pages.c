/* A client's own pages over answers written by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/fault.h"
#include "core/base/log.h"
#include "http_client.h"
#include "master/http_client_pages.h"

static int g_health;
static bool g_off;
static void *g_server;
static uint16_t g_port;

static int health(void *arg)
{
    assert_ptr_equal(arg, &g_health);
    return g_health;
}

static bool metrics(void *arg, bool summary, mcs_buf_t *out)
{
    assert_ptr_equal(arg, &g_health);
    if (!g_off) {
        mcs_buf_printf(out, summary ? "for people\n" : "for_machines 1\n");
    }
    return !g_off;
}

static const mcs_client_pages_t g_pages = {.arg = &g_health, .health = health, .metrics = metrics};

static int setup(void **state)
{
    (void)state;
    g_health = 0;
    g_off = false;
    assert_int_equal(mcs_client_http_ops.start("127.0.0.1", 0, &g_pages, &g_server, &g_port), MCS_OK);
    assert_true(g_port != 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mcs_client_http_ops.stop(g_server);
    return 0;
}

static void health_has_the_documented_words(void **state)
{
    static const struct {
        int health;
        unsigned code;
        const char *body;
    } rows[] = {
        {0, 200, "{\"status\":\"healthy\",\"code\":0}"},
        {1, 503, "{\"status\":\"not_initialized\",\"code\":1}"},
        {2, 503, "{\"status\":\"master_unreachable\",\"code\":2}"},
        {3, 503, "{\"status\":\"unknown\",\"code\":3}"},
        {-1, 503, "{\"status\":\"unknown\",\"code\":-1}"},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        g_health = rows[i].health;
        http_expect(g_port, "GET", "/health", NULL, rows[i].code, rows[i].body);
    }
}

static void metrics_are_those_of_the_client_or_say_that_they_are_off(void **state)
{
    http_reply_t reply;
    char type[256];
    (void)state;
    http_expect(g_port, "GET", "/metrics", NULL, 200, "for_machines 1\n");
    http_expect(g_port, "GET", "/metrics/summary", NULL, 200, "for people\n");
    http_request(g_port, "GET", "/metrics", NULL, &reply);
    assert_string_equal(http_header(&reply, "Content-Type", type), "text/plain; version=0.0.4");
    http_reply_fini(&reply);
    g_off = true;
    http_expect(g_port, "GET", "/metrics", NULL, 503, "metrics not available");
    http_expect(g_port, "GET", "/metrics/summary", NULL, 503, "metrics not available");
}

static void nothing_else_is_served(void **state)
{
    (void)state;
    http_expect(g_port, "POST", "/metrics", "x", 405, "Method not allowed");
    http_expect(g_port, "GET", "/get_all_keys", NULL, 404, "no such page");
    http_expect(g_port, "GET", "/version", NULL, 200,
                "{\"version\":\"1.2.3\",\"display_version\":\"mooncake-store 1.2.3\"}");
}

static void the_log_level_is_shown_and_set(void **state)
{
    (void)state;
    mcs_log_set_level(MCS_LOG_WARN);
    http_expect(g_port, "GET", "/log_level", NULL, 200, "WARNING");
    http_expect(g_port, "PUT", "/log_level?level=debug", NULL, 200, "DEBUG");
    http_expect(g_port, "GET", "/log_level", NULL, 200, "DEBUG");
    const char *wanted = "level=TRACE, DEBUG, INFO, WARNING or ERROR is wanted";
    http_expect(g_port, "PUT", "/log_level", NULL, 400, wanted);
    http_expect(g_port, "PUT", "/log_level?level=loud", NULL, 400, wanted);
    http_expect(g_port, "PUT", "/log_level?level=INFO%00", NULL, 400, wanted);
    http_expect(g_port, "PUT", "/log_level?level=WARNING", NULL, 200, "WARNING");
}

static void a_port_in_use_is_refused_and_leaves_nothing(void **state)
{
    void *other = NULL;
    uint16_t port = 0;
    (void)state;
    assert_int_equal(mcs_client_http_ops.start("127.0.0.1", g_port, &g_pages, &other, &port), MCS_ERR_INVALID_PARAMS);
    assert_null(other);
    http_expect(g_port, "GET", "/metrics", NULL, 200, "for_machines 1\n");
}

static void a_failed_start_leaves_nothing(void **state)
{
    bool fired = true;
    (void)state;
    for (uint64_t nth = 1; fired && nth < 100; nth++) {
        void *server = NULL;
        uint16_t port = 0;
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        mcs_status_t status = mcs_client_http_ops.start("127.0.0.1", 0, &g_pages, &server, &port);
        fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        assert_true(status == MCS_OK ? server != NULL : (fired && server == NULL));
        mcs_client_http_ops.stop(server);
    }
    assert_false(fired);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(health_has_the_documented_words), TEST(metrics_are_those_of_the_client_or_say_that_they_are_off),
        TEST(nothing_else_is_served),          TEST(a_port_in_use_is_refused_and_leaves_nothing),
        TEST(the_log_level_is_shown_and_set),  TEST(a_failed_start_leaves_nothing),
    };
    return cmocka_run_group_tests_name("client pages", tests, NULL, NULL);
}
