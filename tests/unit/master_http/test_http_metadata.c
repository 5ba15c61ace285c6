/* The metadata server: the protocol of the original's embedded server, its bounds, its housekeeping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "http_client.h"
#include "master/http_metadata.h"

static mcs_http_metadata_t *g_metadata;
static uint16_t g_port;

static void drop_line(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    (void)level;
    (void)line;
}

static int start(size_t max_entries, size_t max_bytes)
{
    const mcs_http_metadata_config_t config = {
        .address = "127.0.0.1", .cluster_id = "prod", .max_entries = max_entries, .max_bytes = max_bytes};
    assert_int_equal(mcs_http_metadata_create(&config, &g_metadata), MCS_OK);
    assert_int_equal(mcs_http_metadata_start(g_metadata), MCS_OK);
    g_port = mcs_http_metadata_port(g_metadata);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return start(0, 0);
}

static int teardown(void **state)
{
    (void)state;
    mcs_http_metadata_destroy(g_metadata);
    g_metadata = NULL;
    return 0;
}

static void a_record_is_put_read_overwritten_and_deleted(void **state)
{
    (void)state;
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 404, "metadata not found");
    http_expect(g_port, "PUT", "/metadata?key=k", "{\"a\":1}", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 200, "{\"a\":1}");
    http_expect(g_port, "PUT", "/metadata?key=k", "not even JSON", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 200, "not even JSON");
    http_expect(g_port, "PUT", "/metadata?key=k", "", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 200, "");
    http_expect(g_port, "DELETE", "/metadata?key=k", NULL, 200, "metadata deleted");
    http_expect(g_port, "DELETE", "/metadata?key=k", NULL, 404, "metadata not found");
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 404, "metadata not found");
}

static void a_hit_is_json_and_the_rest_is_text(void **state)
{
    http_reply_t reply;
    char value[256];
    (void)state;
    http_expect(g_port, "PUT", "/metadata?key=k", "{}", 200, "metadata updated");
    http_request(g_port, "GET", "/metadata?key=k", NULL, &reply);
    assert_string_equal(http_header(&reply, "Content-Type", value), "application/json");
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/metadata?key=none", NULL, &reply);
    assert_memory_equal(http_header(&reply, "Content-Type", value), "text/plain", 10);
    http_reply_fini(&reply);
}

static void a_missing_key_is_an_error(void **state)
{
    static const char *const methods[] = {"GET", "PUT", "DELETE"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(methods); i++) {
        http_expect(g_port, methods[i], "/metadata", NULL, 400, "Missing key parameter");
        http_expect(g_port, methods[i], "/metadata?key=", NULL, 400, "Missing key parameter");
        http_expect(g_port, methods[i], "/metadata?Key=k", NULL, 400, "Missing key parameter");
    }
}

static void an_rpc_meta_record_is_not_taken_over(void **state)
{
    static const char target[] = "/metadata?key=mooncake%2Frpc_meta%2Fhost%3A12345";
    (void)state;
    http_expect(g_port, "PUT", target, "{\"rpc_port\":1}", 200, "metadata updated");
    http_expect(g_port, "PUT", target, "{\"rpc_port\":1}", 200, "metadata unchanged");
    http_expect(g_port, "PUT", target, "{\"rpc_port\":2}", 400, "Duplicate rpc_meta key not allowed");
    http_expect(g_port, "GET", target, NULL, 200, "{\"rpc_port\":1}");
    http_expect(g_port, "DELETE", target, NULL, 200, "metadata deleted");
    http_expect(g_port, "PUT", target, "{\"rpc_port\":2}", 200, "metadata updated");
}

static void keys_are_compared_decoded(void **state)
{
    (void)state;
    http_expect(g_port, "PUT", "/metadata?key=mooncake%2Fram%2Fhost%3A1", "v", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=mooncake/ram/host:1", NULL, 200, "v");
    http_expect(g_port, "GET", "/metadata?key=mooncake%2fram/host%3a1", NULL, 200, "v");
    http_expect(g_port, "GET", "/metadata?key=mooncake%252Fram%252Fhost%253A1", NULL, 404, "metadata not found");
    /* Bytes behind a zero byte count. */
    http_expect(g_port, "PUT", "/metadata?key=z%00a", "1", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=z%00b", NULL, 404, "metadata not found");
    http_expect(g_port, "GET", "/metadata?key=z", NULL, 404, "metadata not found");
    http_expect(g_port, "GET", "/metadata?key=z%00a", NULL, 200, "1");
    http_expect(g_port, "PUT", "/metadata?key=%F0%9F%8C%99+%20", "moon", 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=%f0%9f%8c%99%2B%20", NULL, 200, "moon");
}

static void other_methods_are_refused_and_health_says_ok(void **state)
{
    http_reply_t reply;
    char value[256];
    (void)state;
    http_request(g_port, "POST", "/metadata?key=k", "v", &reply);
    assert_int_equal(reply.code, 405);
    assert_string_equal(http_header(&reply, "Allow", value), "GET, PUT, DELETE");
    http_reply_fini(&reply);
    http_expect(g_port, "PATCH", "/metadata?key=k", "v", 405, "Method not allowed");
    http_expect(g_port, "GET", "/health", NULL, 200, "OK");
    http_expect(g_port, "GET", "/", NULL, 404, "no such page");
}

static char *filled(size_t len)
{
    char *text = mcs_malloc(len + 1);
    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = '\0';
    return text;
}

static void values_and_keys_have_a_largest_size(void **state)
{
    http_reply_t reply;
    char target[MCS_METADATA_KEY_MAX + 64];
    (void)state;
    char *value = filled(MCS_METADATA_VALUE_MAX + 1);
    http_request(g_port, "PUT", "/metadata?key=k", value, &reply);
    assert_int_equal(reply.code, 413);
    http_reply_fini(&reply);
    value[MCS_METADATA_VALUE_MAX] = '\0';
    http_expect(g_port, "PUT", "/metadata?key=k", value, 200, "metadata updated");
    http_expect(g_port, "GET", "/metadata?key=k", NULL, 200, value);
    mcs_free(value);
    memset(target, 'k', sizeof(target));
    memcpy(target, "/metadata?key=", 14);
    target[14 + MCS_METADATA_KEY_MAX] = '\0';
    http_expect(g_port, "PUT", target, "v", 200, "metadata updated");
    target[14 + MCS_METADATA_KEY_MAX] = 'k';
    target[14 + MCS_METADATA_KEY_MAX + 1] = '\0';
    http_expect(g_port, "PUT", target, "v", 400, "Key too long");
}

static void a_full_store_refuses_what_is_new(void **state)
{
    (void)state;
    teardown(state);
    mcs_log_set_sink(drop_line, NULL);
    start(3, 100);
    http_expect(g_port, "PUT", "/metadata?key=a", "1", 200, "metadata updated");
    http_expect(g_port, "PUT", "/metadata?key=b", "1", 200, "metadata updated");
    http_expect(g_port, "PUT", "/metadata?key=c", "1", 200, "metadata updated");
    http_expect(g_port, "PUT", "/metadata?key=d", "1", 507, "metadata store is full");
    http_expect(g_port, "PUT", "/metadata?key=a", "2", 200, "metadata updated");
    char *value = filled(95);
    http_expect(g_port, "PUT", "/metadata?key=a", value, 200, "metadata updated"); /* 3 keys, 95 + 1 + 1 */
    http_expect(g_port, "PUT", "/metadata?key=b", value, 507, "metadata store is full");
    http_expect(g_port, "GET", "/metadata?key=b", NULL, 200, "1"); /* what was there stays */
    http_expect(g_port, "DELETE", "/metadata?key=a", NULL, 200, "metadata deleted");
    http_expect(g_port, "PUT", "/metadata?key=d", "1", 200, "metadata updated");
    mcs_free(value);
    mcs_log_set_sink(NULL, NULL);
}

static void many_records_are_found_again(void **state)
{
    char target[64];
    char value[32];
    (void)state;
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < 500; i++) {
            snprintf(target, sizeof(target), "/metadata?key=host-%d", i);
            snprintf(value, sizeof(value), "value %d", i);
            if (pass == 0) {
                http_expect(g_port, "PUT", target, value, 200, "metadata updated");
            } else if (pass == 1) {
                http_expect(g_port, "GET", target, NULL, 200, value);
            } else {
                http_expect(g_port, "DELETE", target, NULL, 200, "metadata deleted");
            }
        }
    }
}

static void a_dead_clients_records_are_deleted(void **state)
{
    static const char *const gone[] = {"mooncake/ram/h:1", "mooncake/rpc_meta/h:1", "mooncake/prod/ram/h:1",
                                       "mooncake/prod/rpc_meta/h:1"};
    static const char *const kept[] = {"mooncake/ram/h:12", "mooncake/ram/h", "mooncake/other/ram/h:1", "h:1"};
    char target[256];
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        snprintf(target, sizeof(target), "/metadata?key=%s", gone[i]);
        http_expect(g_port, "PUT", target, "v", 200, "metadata updated");
        snprintf(target, sizeof(target), "/metadata?key=%s", kept[i]);
        http_expect(g_port, "PUT", target, "v", 200, "metadata updated");
    }
    mcs_http_metadata_forget_segment(g_metadata, "h:1");
    for (size_t i = 0; i < 4; i++) {
        snprintf(target, sizeof(target), "/metadata?key=%s", gone[i]);
        http_expect(g_port, "GET", target, NULL, 404, "metadata not found");
        snprintf(target, sizeof(target), "/metadata?key=%s", kept[i]);
        http_expect(g_port, "GET", target, NULL, 200, "v");
    }
    char *long_name = filled(MCS_METADATA_KEY_MAX * 2);
    mcs_http_metadata_forget_segment(g_metadata, long_name); /* no such key can exist */
    mcs_free(long_name);
    mcs_http_metadata_stop(g_metadata);
    mcs_http_metadata_forget_segment(g_metadata, "h:1"); /* the store outlives its server */
}

static void writer_thread(void *arg)
{
    int id = *(int *)arg;
    char target[64];
    char value[64];
    for (int i = 0; i < 60; i++) {
        http_reply_t reply;
        snprintf(target, sizeof(target), "/metadata?key=shared-%d", i % 5);
        snprintf(value, sizeof(value), "%d-%d", id, i);
        http_request(g_port, i % 3 == 0 ? "PUT" : (i % 3 == 1 ? "GET" : "DELETE"), target, i % 3 == 0 ? value : NULL,
                     &reply);
        MCS_ENSURE(reply.code == 200 || reply.code == 404);
        http_reply_fini(&reply);
        mcs_http_metadata_forget_segment(g_metadata, "h:1");
    }
}

static void threads_do_not_disturb_each_other(void **state)
{
    mcs_thread_t threads[4] = {0};
    int ids[4] = {0, 1, 2, 3};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(mcs_thread_start(&threads[i], "writer", writer_thread, &ids[i]), MCS_OK);
    }
    for (size_t i = 0; i < 4; i++) {
        mcs_thread_join(&threads[i]);
    }
    http_expect(g_port, "PUT", "/metadata?key=after", "v", 200, "metadata updated");
}

static void starting_survives_every_lost_allocation(void **state)
{
    bool fired = true;
    (void)state;
    mcs_log_set_sink(drop_line, NULL);
    for (uint64_t nth = 1; fired; nth++) {
        const mcs_http_metadata_config_t config = {.address = "127.0.0.1", .cluster_id = "c"};
        mcs_http_metadata_t *metadata = NULL;
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        mcs_status_t status = mcs_http_metadata_create(&config, &metadata);
        if (status == MCS_OK) {
            status = mcs_http_metadata_start(metadata);
        }
        fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MCS_ERR_NO_MEMORY : MCS_OK);
        mcs_http_metadata_destroy(metadata);
    }
    mcs_log_set_sink(NULL, NULL);
}

/* A put whose memory runs out leaves the old record. */
static void puts_survive_every_lost_allocation(void **state)
{
    static const char request[] =
        "PUT /metadata?key=k HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 3\r\n\r\nnew";
    bool fired = true;
    (void)state;
    for (uint64_t nth = 1; fired; nth++) {
        http_reply_t reply;
        http_expect(g_port, "PUT", "/metadata?key=k", "old", 200, "metadata updated");
        int fd = http_connect(g_port);
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        http_send(fd, request, strlen(request));
        char peeked[1];
        (void)peeked;
        /* Disarm only when the server is done: its end of the stream. */
        char bytes[1024];
        size_t len = 0;
        for (size_t n; len < sizeof(bytes) - 1 && (n = http_recv(fd, bytes + len, sizeof(bytes) - 1 - len)) > 0;) {
            len += n;
        }
        bytes[len] = '\0';
        fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        http_request(g_port, "GET", "/metadata?key=k", NULL, &reply);
        bool stored = strcmp(http_body(&reply), "new") == 0;
        assert_true(stored || strcmp(http_body(&reply), "old") == 0);
        assert_true(stored || strstr(bytes, " 200 ") == NULL); /* never "updated" when it was not */
        http_reply_fini(&reply);
        http_finish(fd, &reply);
        http_reply_fini(&reply);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_record_is_put_read_overwritten_and_deleted),
        TEST(a_hit_is_json_and_the_rest_is_text),
        TEST(a_missing_key_is_an_error),
        TEST(an_rpc_meta_record_is_not_taken_over),
        TEST(keys_are_compared_decoded),
        TEST(other_methods_are_refused_and_health_says_ok),
        TEST(values_and_keys_have_a_largest_size),
        TEST(a_full_store_refuses_what_is_new),
        TEST(many_records_are_found_again),
        TEST(a_dead_clients_records_are_deleted),
        TEST(threads_do_not_disturb_each_other),
        TEST(starting_survives_every_lost_allocation),
        TEST(puts_survive_every_lost_allocation),
    };
    return cmocka_run_group_tests_name("http metadata", tests, NULL, NULL);
}
