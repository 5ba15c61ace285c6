/* The admin server: shapes, codes and content types of its routes over a hand-written state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "fake_service.h"
#include "http_client.h"
#include "master/http_admin.h"

static mcs_master_config_t g_config;
static mcs_metrics_t g_metrics;
static mcs_summary_t g_summary;
static mcs_service_t *g_service;
static mcs_http_admin_t *g_admin;
static mcs_history_t *g_history;
static uint16_t g_port;

static uint64_t g_now_ns = 1000000000000;

static uint64_t fake_now(void)
{
    return __atomic_load_n(&g_now_ns, __ATOMIC_RELAXED);
}

static const char *g_token = ""; /* of the next setup */

static int setup(void **state)
{
    (void)state;
    fake_reset();
    memset(&g_config, 0, sizeof(g_config));
    memset(&g_metrics, 0, sizeof(g_metrics));
    assert_int_equal(mcs_config_init(&mcs_master_config_table, &g_config), MCS_OK);
    assert_int_equal(
        mcs_config_set(&mcs_master_config_table, &g_config, MCS_CONFIG_FROM_FLAG, "admin_token", g_token, NULL),
        MCS_OK);
    mcs_summary_init(&g_summary);
    assert_int_equal(mcs_history_create(&g_history), MCS_OK);
    assert_int_equal(mcs_service_create(&(mcs_service_config_t){.config = &g_config}, &g_service), MCS_OK);
    const mcs_http_admin_config_t config = {.address = "127.0.0.1",
                                            .config = &g_config,
                                            .service = g_service,
                                            .metrics = &g_metrics,
                                            .summary = &g_summary,
                                            .history = g_history};
    assert_int_equal(mcs_http_admin_create(&config, &g_admin), MCS_OK);
    assert_int_equal(mcs_http_admin_start(g_admin), MCS_OK);
    g_port = mcs_http_admin_port(g_admin);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mcs_http_admin_destroy(g_admin);
    mcs_history_destroy(g_history);
    mcs_service_destroy(g_service);
    mcs_summary_fini(&g_summary);
    mcs_config_fini(&mcs_master_config_table, &g_config);
    return 0;
}

#define JSON_TYPE "application/json; charset=utf-8"

static void expect_json(const char *method, const char *target, unsigned code, const char *answer)
{
    http_reply_t reply;
    char type[256];
    http_request(g_port, method, target, NULL, &reply);
    assert_string_equal(http_body(&reply), answer);
    assert_int_equal(reply.code, code);
    assert_string_equal(http_header(&reply, "Content-Type", type), JSON_TYPE);
    http_reply_fini(&reply);
}

static void health_and_roles_are_those_of_a_single_master(void **state)
{
    (void)state;
    expect_json("GET", "/health", 200,
                "{\"status\":\"ok\",\"role\":\"leader\",\"ha_state\":\"serving\",\"service_ready\":true,"
                "\"leader_address\":null,\"view_version\":null}");
    http_expect(g_port, "GET", "/role", NULL, 200, "leader");
    http_expect(g_port, "GET", "/ha_status", NULL, 200, "serving");
    expect_json("GET", "/leader", 200, "{\"present\":false,\"leader_address\":null,\"view_version\":null}");
}

static void ready_names_what_is_exhausted(void **state)
{
    (void)state;
    g_fake.totals.epoch = 7;
    expect_json("GET", "/ready", 200,
                "{\"status\":\"ready\",\"epoch\":7,\"clients\":0,\"segments\":0,\"exhausted\":[\"segments\"]}");
    g_fake.totals = (mcs_service_totals_t){.segments = 2, .clients = 1, .capacity_bytes = 1000, .allocated_bytes = 500};
    expect_json("GET", "/ready", 200,
                "{\"status\":\"ready\",\"epoch\":0,\"clients\":1,\"segments\":2,\"exhausted\":[]}");
    g_fake.totals.allocated_bytes = 990;
    g_fake.totals.quarantine_bytes = 101;
    g_fake.totals.suspect_segments = 2;
    g_fake.totals.clients = 4096;
    expect_json("GET", "/ready", 200,
                "{\"status\":\"ready\",\"epoch\":0,\"clients\":4096,\"segments\":2,"
                "\"exhausted\":[\"space\",\"quarantine\",\"owners\",\"clients\"]}");
}

static void a_key_is_found_with_its_replicas_and_a_lease(void **state)
{
    (void)state;
    fake_add_object("model/layer-1", MCS_OK);
    fake_add_object("half", MCS_ERR_REPLICA_IS_NOT_READY);
    expect_json("GET", "/query_key?key=model/layer-1", 200,
                "{\"success\":true,\"data\":[{\"size_\":4096,\"buffer_address_\":139637976731648,\"protocol_\":\"tcp\","
                "\"transport_endpoint_\":\"node-1:12345\"}]}");
    assert_int_equal(g_fake.leases, 1);
    expect_json("GET", "/query_key?key=none", 404,
                "{\"success\":false,\"error_code\":-704,\"error_message\":\"OBJECT_NOT_FOUND\"}");
    expect_json("GET", "/query_key?key=half", 500,
                "{\"success\":false,\"error_code\":-703,\"error_message\":\"REPLICA_IS_NOT_READY\"}");
    expect_json("GET", "/query_key", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    expect_json("GET", "/query_key?key=", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    assert_int_equal(g_fake.leases, 1);
}

static void a_key_is_taken_as_sent_first_and_decoded_second(void **state)
{
    http_reply_t reply;
    (void)state;
    fake_add_object("a b", MCS_OK);
    fake_add_object("100%25", MCS_OK);
    http_request(g_port, "GET", "/query_key?key=a%20b", NULL, &reply);
    assert_int_equal(reply.code, 200);
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/query_key?key=100%25", NULL, &reply);
    assert_int_equal(reply.code, 200);
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/query_key?key=100%2525", NULL, &reply);
    assert_int_equal(reply.code, 200);
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/query_key?key=a+b", NULL, &reply);
    assert_int_equal(reply.code, 404);
    http_reply_fini(&reply);
}

static void a_batch_of_keys_is_answered_one_by_one_without_leases(void **state)
{
    (void)state;
    fake_add_object("a", MCS_OK);
    expect_json("GET", "/batch_query_keys?keys=a,b", 200,
                "{\"success\":true,\"data\":{\"a\":{\"ok\":true,\"error\":null,\"values\":[{\"size_\":4096,"
                "\"buffer_address_\":139637976731648,\"protocol_\":\"tcp\",\"transport_endpoint_\":\"node-1:12345\"}],"
                "\"disk_values\":null,\"local_disk_values\":null,\"nof_values\":null},\"b\":{\"ok\":false,"
                "\"error\":\"OBJECT_NOT_FOUND\",\"values\":[],\"disk_values\":null,\"local_disk_values\":null,"
                "\"nof_values\":null}}}");
    assert_int_equal(g_fake.leases, 0);
    static const char *const empty[] = {"/batch_query_keys", "/batch_query_keys?keys=", "/batch_query_keys?keys=,,"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(empty); i++) {
        expect_json("GET", empty[i], 400,
                    "{\"success\":false,\"error\":\"No keys provided. Use ?keys=key1,key2,...\"}");
    }
    /* An encoded comma separates too: clients encode the whole list. */
    http_reply_t reply;
    http_request(g_port, "GET", "/batch_query_keys?keys=a%2Cb%2Ca", NULL, &reply);
    json_t *root = json_loads(http_body(&reply), 0, NULL);
    assert_int_equal(json_object_size(json_object_get(root, "data")), 2);
    json_decref(root);
    http_reply_fini(&reply);
}

static void a_batch_of_too_many_keys_is_refused(void **state)
{
    mcs_buf_t target;
    http_reply_t reply;
    (void)state;
    mcs_buf_init(&target, 1 << 20);
    mcs_buf_printf(&target, "/batch_query_keys?keys=x");
    for (int i = 0; i < MCS_BATCH_KEYS - 1; i++) {
        mcs_buf_printf(&target, ",%d", i);
    }
    http_request(g_port, "GET", mcs_buf_cstr(&target), NULL, &reply);
    assert_int_equal(reply.code, 200);
    http_reply_fini(&reply);
    mcs_buf_printf(&target, ",y");
    http_request(g_port, "GET", mcs_buf_cstr(&target), NULL, &reply);
    assert_int_equal(reply.code, 400);
    http_reply_fini(&reply);
    mcs_buf_fini(&target);
}

static void bytes_that_are_no_text_do_not_break_the_json(void **state)
{
    http_reply_t reply;
    (void)state;
    fake_add_segment("se\xffgment\"\\\n", 1 << 20, 0);
    http_request(g_port, "GET", "/batch_query_keys?keys=%ff%fe,%22%5c%0a,%01x", NULL, &reply);
    assert_int_equal(reply.code, 200);
    json_t *root = json_loadb((const char *)reply.body.bytes, reply.body.len, 0, NULL);
    assert_non_null(root);
    json_decref(root);
    http_reply_fini(&reply);
    http_request(g_port, "GET", "/get_segments_detail", NULL, &reply);
    root = json_loads(http_body(&reply), 0, NULL);
    assert_non_null(root);
    json_decref(root);
    http_reply_fini(&reply);
}

static void all_keys_are_listed_one_a_line(void **state)
{
    http_reply_t reply;
    char type[256];
    (void)state;
    http_expect(g_port, "GET", "/get_all_keys", NULL, 200, "");
    fake_add_object("first", MCS_OK);
    fake_add_object("second", MCS_OK);
    g_fake.generated_keys = 2;
    http_request(g_port, "GET", "/get_all_keys", NULL, &reply);
    assert_string_equal(http_body(&reply), "first\nsecond\nkey-0000000000\nkey-0000000001\n");
    assert_memory_equal(http_header(&reply, "Content-Type", type), "text/plain", 10);
    http_reply_fini(&reply);
}

static void a_million_keys_are_streamed_as_they_are_walked(void **state)
{
    char bytes[8192];
    (void)state;
    g_fake.generated_keys = 1000000;
    static const char request[] = "GET /get_all_keys HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    int fd = http_connect(g_port);
    http_send(fd, request, strlen(request));
    size_t total = http_recv(fd, bytes, sizeof(bytes));
    assert_true(total > 0);
    /* The walk has not run ahead: the rest is not in a buffer somewhere. */
    assert_true(__atomic_load_n(&g_fake.walked_keys, __ATOMIC_RELAXED) < 1000000);
    for (size_t n; (n = http_recv(fd, bytes, sizeof(bytes))) > 0;) {
        total += n;
    }
    assert_true(total > 1000000 * strlen("key-0000000000\n"));
    http_reply_t reply;
    http_finish(fd, &reply);
    http_reply_fini(&reply);
    assert_int_equal(g_fake.walked_keys, 1000000);
}

static void segments_are_listed_and_described(void **state)
{
    (void)state;
    fake_add_segment("node-1:12345", UINT64_C(16) << 30, UINT64_C(4) << 30);
    fake_add_segment("node-2:12346", 1536, 1);
    g_fake.segments[1].state = 2;
    g_fake.segments[1].suspect = true;
    g_fake.segments[1].quarantine = 64;
    http_expect(g_port, "GET", "/get_all_segments", NULL, 200, "node-1:12345\nnode-2:12346\n");
    expect_json("GET", "/get_segments_detail", 200,
                "{\"total_segments\":2,\"segments\":[{\"segment_name\":\"node-1:12345\",\"segment_id\":\"1-2\","
                "\"client_id\":\"3-4\",\"base_address\":\"0x7f00dead0000\",\"size_bytes\":17179869184,"
                "\"size_human\":\"16 GiB\",\"te_endpoint\":\"node-1:12345:1\",\"protocol\":\"tcp\",\"status\":\"OK\","
                "\"allocator_used_bytes\":4294967296,\"allocator_capacity_bytes\":17179869184,"
                "\"allocator_usage_percent\":25.0,\"quarantine_bytes\":0,\"suspect\":false},"
                "{\"segment_name\":\"node-2:12346\",\"segment_id\":\"1-2\",\"client_id\":\"3-4\","
                "\"base_address\":\"0x7f00dead0000\",\"size_bytes\":1536,\"size_human\":\"1.50 KiB\","
                "\"te_endpoint\":\"node-2:12346:1\",\"protocol\":\"tcp\",\"status\":\"DRAINING\","
                "\"allocator_used_bytes\":1,\"allocator_capacity_bytes\":1536,"
                "\"allocator_usage_percent\":0.07,\"quarantine_bytes\":64,\"suspect\":true}]}");
    http_expect(g_port, "GET", "/query_segment?segment=node-1:12345", NULL, 200,
                "node-1:12345\nUsed(bytes): 4294967296\nCapacity(bytes) : 17179869184\n");
    http_expect(g_port, "GET", "/query_segment?segment=nobody", NULL, 500, "Failed to query segment");
    http_expect(g_port, "GET", "/query_segment", NULL, 500, "Failed to query segment");
    expect_json("GET", "/api/v1/segments/status?segment=node-2%3A12346", 200,
                "{\"success\":true,\"segment\":\"node-2:12346\",\"status\":2,\"status_name\":\"DRAINING\","
                "\"error_code\":0,\"error_message\":\"\"}");
    expect_json("GET", "/api/v1/segments/status", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    expect_json("GET", "/api/v1/segments/status?segment=nobody", 404,
                "{\"success\":false,\"error_code\":-101,\"error_message\":\"SEGMENT_NOT_FOUND\"}");
    /* A name ends where it ends, not at a zero byte. */
    http_expect(g_port, "GET", "/query_segment?segment=node-1:12345%00x", NULL, 500, "Failed to query segment");
    expect_json("GET", "/api/v1/segments/status?segment=node-2%3A12346%00", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
}

static void remove_all_counts_and_passes_force_on(void **state)
{
    (void)state;
    g_fake.remove_all_result = 42;
    expect_json("POST", "/api/v1/remove_all", 200, "{\"success\":true,\"removed_count\":42}");
    assert_int_equal(g_fake.remove_all_force, 0);
    expect_json("POST", "/api/v1/remove_all?force=true", 200, "{\"success\":true,\"removed_count\":42}");
    assert_int_equal(g_fake.remove_all_force, 1);
    g_fake.remove_all_force = -1;
    expect_json("POST", "/api/v1/remove_all?force=perhaps", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    expect_json("POST", "/api/v1/remove_all?tenant_id=%00", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    expect_json("POST", "/api/v1/remove_all?force=1%00", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    expect_json("POST", "/api/v1/remove_all?tenant_id=someone", 409,
                "{\"success\":false,\"error_code\":-1011,\"error_message\":\"UNAVAILABLE_IN_CURRENT_MODE\"}");
    http_expect(g_port, "GET", "/api/v1/remove_all", NULL, 405, "Method not allowed");
    assert_int_equal(g_fake.remove_all_force, -1);
    expect_json("POST", "/api/v1/remove_all?tenant_id=default", 200, "{\"success\":true,\"removed_count\":42}");
    g_fake.remove_all_result = MCS_ERR_INTERNAL;
    expect_json("POST", "/api/v1/remove_all", 500,
                "{\"success\":false,\"error_code\":-1,\"error_message\":\"INTERNAL_ERROR\"}");
}

/* ---- drain jobs ---- */

static void expect_drain(const char *body, unsigned code, const char *answer)
{
    http_expect(g_port, "POST", "/api/v1/drain_jobs", body, code, answer);
}

static void a_drain_job_is_begun_with_the_names_and_limits_of_the_body(void **state)
{
    (void)state;
    g_fake.drain_id = (mcs_id_t){.hi = UINT64_MAX, .lo = 7};
    const char *created = "{\"success\":true,\"job_id\":\"18446744073709551615-7\",\"status\":\"CREATED\","
                          "\"error_code\":0,\"error_message\":\"\"}";
    expect_drain("{\"segments\":[\"a:1\",\"b:2\"],\"target_segments\":[\"c:3\"],\"max_concurrency\":9}", 200, created);
    assert_string_equal(g_fake.drain_asked, "a:1 b:2 to c:3 by 9");
    expect_drain("{\"segments\":[\"a:1\"],\"target_segments\":null}", 200, created);
    assert_string_equal(g_fake.drain_asked, "a:1 to by 4");
    expect_drain("{\"segments\":[\"a:1\"],\"max_concurrency\":null}", 200, created);
    assert_string_equal(g_fake.drain_asked, "a:1 to by 4");
    const char *invalid = "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}";
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "7",
                                      "{\"segments\":\"a\"}",
                                      "{\"segments\":[1]}",
                                      "{\"segments\":[\"a\"],\"target_segments\":[null]}",
                                      "{\"segments\":[\"a\"],\"segments\":[\"b\"]}"};
    g_fake.drain_asked[0] = '\0';
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        expect_drain(bad[i], 400, invalid);
        assert_string_equal(g_fake.drain_asked, "");
    }
    expect_drain("{\"segments\":[\"a\"],\"max_concurrency\":-1}", 200, created); /* the service refuses a zero */
    assert_string_equal(g_fake.drain_asked, "a to by 0");
    g_fake.drain_result = MCS_ERR_SEGMENT_NOT_FOUND;
    expect_drain("{\"segments\":[\"x\"]}", 404,
                 "{\"success\":false,\"error_code\":-101,\"error_message\":\"SEGMENT_NOT_FOUND\"}");
    g_fake.drain_result = MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS;
    expect_drain("{\"segments\":[\"x\"]}", 409,
                 "{\"success\":false,\"error_code\":-1010,\"error_message\":\"UNAVAILABLE_IN_CURRENT_STATUS\"}");
}

static void a_drain_job_is_described_and_canceled_by_its_id(void **state)
{
    (void)state;
    char names[64] = "a:1\0b:2";
    g_fake.drain_id = (mcs_id_t){.hi = 3, .lo = 7};
    g_fake.drain = (mcs_service_drain_t){.segments = names,
                                         .segment_count = 2,
                                         .status = 2,
                                         .status_name = "RUNNING",
                                         .created_ms = 1000,
                                         .updated_ms = 2000,
                                         .succeeded = 5,
                                         .failed = 1,
                                         .blocked = 2,
                                         .active = 4,
                                         .bytes = 4096,
                                         .message = "words"};
    expect_json("GET", "/api/v1/drain_jobs/query?job_id=3-7", 200,
                "{\"success\":true,\"job_id\":\"3-7\",\"type\":0,\"type_name\":\"DRAIN\",\"status\":2,\"status_name\":"
                "\"RUNNING\",\"created_at_ms_epoch\":1000,\"last_updated_at_ms_epoch\":2000,\"segments\":[\"a:1\","
                "\"b:2\"],\"succeeded_units\":5,\"failed_units\":1,\"blocked_units\":2,\"active_units\":4,"
                "\"migrated_bytes\":4096,\"message\":\"words\",\"error_code\":0,\"error_message\":\"\"}");
    const char *invalid = "{\"success\":false,\"error_code\":-600,\"error_message\":\"Missing or invalid job_id\"}";
    const char *unknown = "{\"success\":false,\"error_code\":-1402,\"error_message\":\"JOB_NOT_FOUND\"}";
    static const char *const bad[] = {"",
                                      "?job_id=",
                                      "?job_id=3",
                                      "?job_id=3-",
                                      "?job_id=-7",
                                      "?job_id=3-x",
                                      "?job_id=3-7%00",
                                      "?job_id=99999999999999999999999999999999999-1",
                                      "?job_id=18446744073709551616-1"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        char target[128];
        snprintf(target, sizeof(target), "/api/v1/drain_jobs/query%s", bad[i]);
        expect_json("GET", target, 400, invalid);
        snprintf(target, sizeof(target), "/api/v1/drain_jobs/cancel%s", bad[i]);
        expect_json("POST", target, 400, invalid);
    }
    expect_json("GET", "/api/v1/drain_jobs/query?job_id=3-8", 404, unknown);
    expect_json("POST", "/api/v1/drain_jobs/cancel?job_id=3-8", 404, unknown);
    http_expect(g_port, "GET", "/api/v1/drain_jobs/cancel?job_id=3-7", NULL, 405, "Method not allowed");
    assert_int_equal(g_fake.drains_canceled, 0);
    expect_json(
        "POST", "/api/v1/drain_jobs/cancel?job_id=3-7", 200,
        "{\"success\":true,\"job_id\":\"3-7\",\"status\":\"CANCELED\",\"error_code\":0,\"error_message\":\"\"}");
    expect_json("POST", "/api/v1/drain_jobs/cancel?job_id=3-7", 409,
                "{\"success\":false,\"error_code\":-1010,\"error_message\":\"UNAVAILABLE_IN_CURRENT_STATUS\"}");
}

static void metrics_have_every_counter_and_every_gauge(void **state)
{
    static const char *const names[] = {
#define MCS_COUNTER_ROW(field, name, help) name,
#define MCS_ABSENT_ROW(type, name, help)   MCS_ABSENT_##type(name)
#define MCS_ABSENT_counter(name)           name,
#define MCS_ABSENT_gauge(name)             name,
#define MCS_ABSENT_histogram(name)         name "_count",
#include "master/metrics.def"
#undef MCS_COUNTER_ROW
        "master_allocated_bytes",
        "master_total_capacity_bytes",
        "master_key_count",
        "master_soft_pin_key_count",
        "master_active_clients",
        "mem_cache_nums_",
        "master_put_start_discarded_staging_size",
        "mcs_quarantine_bytes",
        "mcs_suspect_segments",
        "mcs_suspect_clients",
        "mcs_hard_pinned_keys",
        "mcs_leased_keys",
        "mcs_releases_pending",
        "mcs_fences",
        "mcs_strikes",
        "mcs_parked_requests",
        "mcs_rpc_connections",
        "mcs_index_bytes",
        "mcs_journal_on",
        "mcs_journal_bytes",
        "mcs_journal_files",
        "mcs_journal_records_total",
        "mcs_journal_record_bytes_total",
        "mcs_journal_snapshots_total",
        "mcs_journal_errors_total",
        "mcs_journal_windows_waited_total",
        "mcs_journal_last_sync_seconds",
        "mcs_recovered_objects",
        "mcs_recovered_segments",
        "mcs_recovery_lost_objects",
        "mcs_recovery_damaged_streams",
        "mcs_recovery_milliseconds",
        "mcs_unclaimed_segments",
    };
    http_reply_t reply;
    char type[256];
    (void)state;
    http_request(g_port, "GET", "/metrics", NULL, &reply);
    assert_int_equal(reply.code, 200);
    assert_string_equal(http_header(&reply, "Content-Type", type), "text/plain; version=0.0.4");
    for (size_t i = 0; i < MCS_ARRAY_LEN(names); i++) {
        char line[256];
        snprintf(line, sizeof(line), "\n%s 0\n", names[i]);
        assert_non_null(strstr(http_body(&reply), line));
        int name_len = (int)strlen(names[i]);
        name_len -= name_len > 6 && strcmp(names[i] + name_len - 6, "_count") == 0 &&
                            strcmp(names[i], "master_evicted_key_count") != 0
                        ? 6
                        : 0;
        snprintf(line, sizeof(line), "# TYPE %.*s", name_len, names[i]);
        assert_non_null(strstr(http_body(&reply), line));
        snprintf(line, sizeof(line), "# HELP %.*s", name_len, names[i]);
        assert_non_null(strstr(http_body(&reply), line));
    }
    http_reply_fini(&reply);
}

static void metrics_show_values_labels_and_the_histogram(void **state)
{
    static const char *const lines[] = {
        "\nmaster_put_start_requests_total 5\n",
        "\nmaster_evicted_size_bytes 123456789012\n",
        "\nmaster_key_count 11\n",
        "\nmaster_allocated_bytes 77\n",
        "# TYPE segment_allocated_bytes gauge\nsegment_allocated_bytes{segment=\"a\"} 30\n"
        "segment_allocated_bytes{segment=\"b\\\"\\\\\\n\"} 5\n",
        "\nsegment_total_capacity_bytes{segment=\"a\"} 300\n",
        "# TYPE master_value_size_bytes histogram\nmaster_value_size_bytes_bucket{le=\"4096\"} 2\n"
        "master_value_size_bytes_bucket{le=\"65536\"} 3\nmaster_value_size_bytes_bucket{le=\"262144\"} 3\n"
        "master_value_size_bytes_bucket{le=\"1048576\"} 3\nmaster_value_size_bytes_bucket{le=\"4194304\"} 3\n"
        "master_value_size_bytes_bucket{le=\"16777216\"} 3\nmaster_value_size_bytes_bucket{le=\"67108864\"} 3\n"
        "master_value_size_bytes_bucket{le=\"+Inf\"} 4\nmaster_value_size_bytes_sum 1099511636009\n"
        "master_value_size_bytes_count 4\n",
    };
    http_reply_t reply;
    (void)state;
    mcs_metric_add(&g_metrics, put_start_requests, 5);
    mcs_metric_add(&g_metrics, evicted_bytes, 123456789012);
    mcs_metrics_observe_value_size(&g_metrics, 40);
    mcs_metrics_observe_value_size(&g_metrics, 4096);
    mcs_metrics_observe_value_size(&g_metrics, 4097);
    mcs_metrics_observe_value_size(&g_metrics, UINT64_C(1) << 40);
    g_fake.totals = (mcs_service_totals_t){.objects = 11, .allocated_bytes = 77};
    fake_add_segment("b\"\\\n", 50, 5);
    fake_add_segment("a", 100, 10);
    fake_add_segment("a", 200, 20); /* of one name: one sample */
    http_request(g_port, "GET", "/metrics", NULL, &reply);
    for (size_t i = 0; i < MCS_ARRAY_LEN(lines); i++) {
        if (strstr(http_body(&reply), lines[i]) == NULL) {
            print_error("missing: %s\n", lines[i]);
            fail();
        }
    }
    http_reply_fini(&reply);
}

static void the_summary_has_rates_since_the_last_tick(void **state)
{
    mcs_buf_t line;
    (void)state;
    mcs_buf_init(&line, 1 << 16);
    mcs_clock_set_source(fake_now);
    g_fake.totals = (mcs_service_totals_t){
        .objects = 9, .soft_pinned = 2, .clients = 3, .allocated_bytes = 1536, .capacity_bytes = UINT64_C(3) << 30};
    mcs_summary_write(&g_summary, &g_metrics, g_service, true, &line);
    mcs_buf_reset(&line);
    mcs_metric_add(&g_metrics, put_start_requests, 30);
    mcs_metric_add(&g_metrics, put_start_failures, 5);
    mcs_metric_add(&g_metrics, batch_exist_key_requests, 20);
    mcs_metric_add(&g_metrics, batch_exist_key_failures, 2);
    mcs_metric_add(&g_metrics, batch_exist_key_partial_successes, 3);
    mcs_metric_add(&g_metrics, batch_exist_key_items, 1000);
    mcs_metric_add(&g_metrics, batch_exist_key_failed_items, 10);
    mcs_metric_add(&g_metrics, evicted_bytes, 5 << 20);
    g_now_ns += 10 * MCS_NS_PER_SEC;
    mcs_summary_write(&g_summary, &g_metrics, g_service, false, &line);
    static const char *const parts[] = {
        "role=leader, state=serving, service_ready=true, master={Mem Storage: 1.50 KB / 3.00 GB (0.0%)",
        "| Keys: 9 (soft-pinned: 2) | Clients: 3 | Requests (Success/Total per sec): PutStart=2.50/3.00, "
        "PutEnd=0.00/0.00",
        "ExistKey:(Req=1.50/0.30/2.00, Item=99.00/100.00)",
        "keys=0, size=5.00 MB",
        "}, ha={",
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(parts); i++) {
        if (strstr(mcs_buf_cstr(&line), parts[i]) == NULL) {
            print_error("missing: %s\nin: %s\n", parts[i], mcs_buf_cstr(&line));
            fail();
        }
    }
    assert_true(line.len < MCS_LOG_LINE_MAX - 100); /* a log line holds it, with its first words */
    mcs_buf_reset(&line);
    mcs_summary_write(&g_summary, &g_metrics, g_service, true, &line);
    mcs_buf_reset(&line);
    mcs_summary_write(&g_summary, &g_metrics, g_service, false, &line);
    assert_non_null(strstr(mcs_buf_cstr(&line), "PutStart=0.00/0.00"));
    mcs_clock_set_source(NULL);
    mcs_buf_fini(&line);
    http_reply_t reply;
    char type[256];
    http_request(g_port, "GET", "/metrics/summary", NULL, &reply);
    assert_int_equal(reply.code, 200);
    assert_string_equal(http_header(&reply, "Content-Type", type), "text/plain; version=0.0.4");
    assert_memory_equal(http_body(&reply), "role=leader, state=serving, service_ready=true, master={", 55);
    http_reply_fini(&reply);
}

static void the_line_of_the_busiest_cluster_fits_into_the_log(void **state)
{
    mcs_buf_t line;
    (void)state;
    mcs_buf_init(&line, 1 << 16);
    mcs_clock_set_source(fake_now);
    mcs_summary_write(&g_summary, &g_metrics, g_service, true, &line);
    uint64_t *counters = (uint64_t *)(void *)&g_metrics;
    for (size_t i = 0; i < sizeof(g_metrics) / sizeof(uint64_t); i++) {
        counters[i] += UINT64_C(1000000000000); /* 100 G a second */
    }
    (void)__atomic_add_fetch(&g_now_ns, 10 * MCS_NS_PER_SEC, __ATOMIC_RELAXED);
    mcs_buf_reset(&line);
    mcs_summary_write(&g_summary, &g_metrics, g_service, false, &line);
    assert_true(line.len > 1500 && line.len < MCS_LOG_LINE_MAX - 100);
    mcs_clock_set_source(NULL);
    mcs_buf_fini(&line);
}

static void the_page_is_one_file_that_asks_nobody_else(void **state)
{
    http_reply_t reply;
    char type[256];
    (void)state;
    http_request(g_port, "GET", "/", NULL, &reply);
    assert_int_equal(reply.code, 200);
    assert_string_equal(http_header(&reply, "Content-Type", type), "text/html; charset=utf-8");
    const char *page = http_body(&reply);
    assert_memory_equal(page, "<!doctype html>", 15);
    assert_non_null(strstr(page, "</html>"));
    assert_non_null(strstr(page, "/api/v1/dashboard"));
    assert_null(strstr(page, "https://"));
    for (const char *at = page; (at = strstr(at, "http://")) != NULL; at++) {
        assert_memory_equal(at, "http://www.w3.org/", 18); /* names of formats, nothing that is fetched */
    }
    assert_null(strstr(page, "src="));
    http_reply_fini(&reply);
}

static json_t *get_json(const char *target)
{
    http_reply_t reply;
    http_request(g_port, "GET", target, NULL, &reply);
    assert_int_equal(reply.code, 200);
    json_t *root = json_loadb((const char *)reply.body.bytes, reply.body.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    http_reply_fini(&reply);
    return root;
}

static size_t column(const json_t *root, const char *name)
{
    size_t i;
    json_t *field;
    json_array_foreach(json_object_get(root, "fields"), i, field)
    {
        if (strcmp(json_string_value(field), name) == 0) {
            return i;
        }
    }
    fail_msg("no column %s", name);
    return 0;
}

static json_int_t cell(const json_t *root, size_t row, const char *name)
{
    return json_integer_value(
        json_array_get(json_array_get(json_object_get(root, "samples"), row), column(root, name)));
}

static void the_dashboard_gives_the_rows_since_the_last_one(void **state)
{
    (void)state;
    mcs_clock_set_source(fake_now);
    json_t *root = get_json("/api/v1/dashboard");
    assert_int_equal(json_array_size(json_object_get(root, "samples")), 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(root, "exhausted"), 0)), "segments");
    json_decref(root);
    for (uint64_t i = 0; i < 3; i++) {
        g_fake.totals.objects = 10 + i;
        mcs_metric_add(&g_metrics, total_gets, 5);
        mcs_history_sample(g_history, &g_metrics, g_service);
        (void)__atomic_add_fetch(&g_now_ns, MCS_NS_PER_SEC, __ATOMIC_RELAXED);
    }
    root = get_json("/api/v1/dashboard?since=0");
    assert_int_equal(json_array_size(json_object_get(root, "samples")), 3);
    assert_int_equal(cell(root, 0, "objects"), 10);
    assert_int_equal(cell(root, 2, "objects"), 12);
    assert_int_equal(cell(root, 2, "gets_total"), 15);
    assert_int_equal(cell(root, 1, "at_ms") - cell(root, 0, "at_ms"), 1000);
    char target[80];
    snprintf(target, sizeof(target), "/api/v1/dashboard?since=%lld", (long long)cell(root, 1, "at_ms"));
    json_decref(root);
    root = get_json(target);
    assert_int_equal(json_array_size(json_object_get(root, "samples")), 1);
    assert_int_equal(cell(root, 0, "objects"), 12);
    json_decref(root);
    expect_json("GET", "/api/v1/dashboard?since=soon", 400,
                "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    mcs_clock_set_source(NULL);
}

static void the_history_is_a_ring_of_the_last_rows(void **state)
{
    (void)state;
    mcs_clock_set_source(fake_now);
    for (uint64_t i = 0; i < MCS_HISTORY_ROWS + 7; i++) {
        g_fake.totals.objects = i;
        mcs_history_sample(g_history, &g_metrics, g_service);
        (void)__atomic_add_fetch(&g_now_ns, MCS_NS_PER_SEC, __ATOMIC_RELAXED);
    }
    json_t *root = get_json("/api/v1/dashboard");
    assert_int_equal(json_array_size(json_object_get(root, "samples")), MCS_HISTORY_ROWS);
    assert_int_equal(cell(root, 0, "objects"), 7);
    assert_int_equal(cell(root, MCS_HISTORY_ROWS - 1, "objects"), MCS_HISTORY_ROWS + 6);
    json_decref(root);
    mcs_clock_set_source(NULL);
}

static void the_dashboard_lists_segments_and_clients(void **state)
{
    (void)state;
    fake_add_segment("node-1:1 <b>\"", 100, 40);
    g_fake.segments[0].quarantine = 8;
    g_fake.clients[0] = (mcs_service_client_t){
        .name = "node-1:1", .client = {5, 6}, .pid = 77, .connected = true, .segments = 1, .fences = 2, .silent_ms = 9};
    g_fake.client_count = 1;
    g_fake.totals.clients = 1;
    json_t *root = get_json("/api/v1/dashboard");
    json_t *segment = json_array_get(json_object_get(root, "segments"), 0);
    assert_string_equal(json_string_value(json_object_get(segment, "name")), "node-1:1 <b>\"");
    assert_int_equal(json_integer_value(json_object_get(segment, "quarantine_bytes")), 8);
    json_t *client = json_array_get(json_object_get(root, "clients"), 0);
    assert_int_equal(json_integer_value(json_object_get(client, "pid")), 77);
    json_decref(root);
    expect_json("GET", "/api/v1/clients", 200,
                "{\"total_clients\":1,\"clients\":[{\"name\":\"node-1:1\",\"client_id\":\"5-6\",\"pid\":77,"
                "\"data_plane\":\"\",\"connected\":true,\"suspect\":false,\"segments\":1,\"open_puts\":0,\"fences\":2,"
                "\"releases\":0,\"silent_ms\":9}]}");
}

static void the_log_level_changes_at_run_time(void **state)
{
    (void)state;
    int before = mcs_log_threshold;
    mcs_log_set_level(MCS_LOG_INFO);
    expect_json("GET", "/api/v1/log_level", 200, "{\"success\":true,\"level\":\"INFO\"}");
    expect_json("PUT", "/api/v1/log_level?level=error", 200, "{\"success\":true,\"level\":\"ERROR\"}");
    assert_int_equal(mcs_log_threshold, MCS_LOG_ERROR);
    http_expect(g_port, "PUT", "/api/v1/log_level", "{\"level\":\"WARNING\"}", 200,
                "{\"success\":true,\"level\":\"WARNING\"}");
    static const char *const bad[] = {"", "{", "[]", "{\"level\":3}", "{\"level\":\"LOUD\"}", "\"DEBUG\""};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        http_expect(g_port, "PUT", "/api/v1/log_level", bad[i], 400,
                    "{\"success\":false,\"error_code\":-600,\"error_message\":\"INVALID_PARAMS\"}");
    }
    http_expect(g_port, "POST", "/api/v1/log_level", NULL, 405, "Method not allowed");
    assert_int_equal(mcs_log_threshold, MCS_LOG_WARN);
    mcs_log_set_level((mcs_log_level_t)before);
}

static void what_is_off_says_so(void **state)
{
    (void)state;
    static const char *const methods[] = {"GET", "PUT", "DELETE"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(methods); i++) {
        expect_json(methods[i], "/api/v1/tenant_quotas?tenant_id=t", 409,
                    "{\"success\":false,\"error_code\":-1011,\"error_message\":\"UNAVAILABLE_IN_CURRENT_MODE\"}");
    }
    expect_json("GET", "/kv_events/status", 200,
                "{\"enabled\":false,\"published_batches\":0,\"published_events\":0,\"dropped_events\":0,"
                "\"skipped_unparsed_keys\":0}");
    expect_json("GET", "/version", 200, "{\"version\":\"1.2.3\",\"display_version\":\"mooncake-store 1.2.3\"}");
}

static int setup_with_token(void **state)
{
    g_token = "a secret";
    int result = setup(state);
    g_token = "";
    return result;
}

static unsigned ask_with(const char *method, const char *target, const char *header)
{
    char head[512];
    http_reply_t reply;
    char text[256];
    snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: t\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n",
             method, target, header);
    http_raw(g_port, head, strlen(head), &reply);
    unsigned code = reply.code;
    assert_string_equal(http_header(&reply, "WWW-Authenticate", text), code == 401 ? "Bearer" : "");
    http_reply_fini(&reply);
    return code;
}

static void without_the_token_only_probes_are_answered(void **state)
{
    static const char *const closed[] = {"/metrics",          "/get_all_keys",     "/query_key?key=a",
                                         "/api/v1/dashboard", "/api/v1/log_level", "/nothing"};
    static const char *const open[] = {"/", "/health", "/ready", "/version"};
    static const char *const wrong[] = {"",
                                        "Authorization: Bearer\r\n",
                                        "Authorization: Bearer a secre\r\n",
                                        "Authorization: Bearer a secret!\r\n",
                                        "Authorization: Basic a secret\r\n",
                                        "Authorization: a secret\r\n"};
    (void)state;
    g_fake.remove_all_result = 3;
    for (size_t i = 0; i < MCS_ARRAY_LEN(closed); i++) {
        for (size_t k = 0; k < MCS_ARRAY_LEN(wrong); k++) {
            assert_int_equal(ask_with("GET", closed[i], wrong[k]), 401);
        }
    }
    assert_int_equal(ask_with("POST", "/api/v1/remove_all?force=true", ""), 401);
    assert_int_equal(g_fake.remove_all_force, -1);
    for (size_t i = 0; i < MCS_ARRAY_LEN(open); i++) {
        assert_int_equal(ask_with("GET", open[i], ""), 200);
    }
    assert_int_equal(ask_with("GET", "/metrics", "Authorization: Bearer a secret\r\n"), 200);
    assert_int_equal(ask_with("GET", "/metrics", "authorization: bearer   a secret\r\n"), 200);
    assert_int_equal(ask_with("GET", "/nothing", "Authorization: Bearer a secret\r\n"), 404);
    assert_int_equal(ask_with("POST", "/api/v1/remove_all?force=true", "Authorization: Bearer a secret\r\n"), 200);
    assert_int_equal(g_fake.remove_all_force, 1);
}

static void answers_survive_every_lost_allocation(void **state)
{
    static const char *const targets[] = {"/metrics",         "/metrics/summary",           "/get_segments_detail",
                                          "/query_key?key=a", "/batch_query_keys?keys=a,b", "/get_all_keys",
                                          "/api/v1/clients",  "/api/v1/dashboard",          "/api/v1/log_level"};
    (void)state;
    fake_add_object("a", MCS_OK);
    fake_add_segment("s", 100, 1);
    g_fake.client_count = 1;
    mcs_history_sample(g_history, &g_metrics, g_service);
    for (size_t i = 0; i < MCS_ARRAY_LEN(targets); i++) {
        bool fired = true;
        for (uint64_t nth = 1; fired && nth < 200; nth++) {
            char head[128];
            char bytes[4096];
            snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", targets[i]);
            int fd = http_connect(g_port);
            mcs_fault_arm(MCS_FAULT_ALLOC, nth);
            http_send(fd, head, strlen(head));
            size_t got = http_recv(fd, bytes, 12);
            bytes[got] = '\0';
            while (http_recv(fd, bytes + 16, sizeof(bytes) - 16) > 0) {
            }
            fired = mcs_fault_fired(MCS_FAULT_ALLOC);
            mcs_fault_arm(MCS_FAULT_ALLOC, 0);
            assert_true(got == 0 || strcmp(bytes, "HTTP/1.1 200") == 0 || strcmp(bytes, "HTTP/1.1 500") == 0 ||
                        strcmp(bytes, "HTTP/1.1 503") == 0);
            assert_true(fired || strcmp(bytes, "HTTP/1.1 200") == 0);
            http_reply_t reply;
            http_finish(fd, &reply);
            http_reply_fini(&reply);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(health_and_roles_are_those_of_a_single_master),
        TEST(ready_names_what_is_exhausted),
        TEST(a_key_is_found_with_its_replicas_and_a_lease),
        TEST(a_key_is_taken_as_sent_first_and_decoded_second),
        TEST(a_batch_of_keys_is_answered_one_by_one_without_leases),
        TEST(a_batch_of_too_many_keys_is_refused),
        TEST(bytes_that_are_no_text_do_not_break_the_json),
        TEST(all_keys_are_listed_one_a_line),
        TEST(a_million_keys_are_streamed_as_they_are_walked),
        TEST(segments_are_listed_and_described),
        TEST(remove_all_counts_and_passes_force_on),
        TEST(a_drain_job_is_begun_with_the_names_and_limits_of_the_body),
        TEST(a_drain_job_is_described_and_canceled_by_its_id),
        TEST(metrics_have_every_counter_and_every_gauge),
        TEST(metrics_show_values_labels_and_the_histogram),
        TEST(the_summary_has_rates_since_the_last_tick),
        TEST(the_line_of_the_busiest_cluster_fits_into_the_log),
        TEST(the_page_is_one_file_that_asks_nobody_else),
        TEST(the_dashboard_gives_the_rows_since_the_last_one),
        TEST(the_history_is_a_ring_of_the_last_rows),
        TEST(the_dashboard_lists_segments_and_clients),
        TEST(the_log_level_changes_at_run_time),
        TEST(what_is_off_says_so),
        cmocka_unit_test_setup_teardown(without_the_token_only_probes_are_answered, setup_with_token, teardown),
        TEST(answers_survive_every_lost_allocation),
    };
    return cmocka_run_group_tests_name("http admin", tests, NULL, NULL);
}
