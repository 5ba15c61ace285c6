/* Publishing to a metadata server that is one, and to others. The servers are metadata_server.py on an ephemeral port.
 */
#include "rig.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"

typedef struct server {
    pid_t pid;
    FILE *to;
    FILE *from;
    unsigned port;
    char url[64];
} server_t;

static void server_start(server_t *server, const char *mode)
{
    int to[2];
    int from[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    char python[] = "python3";
    char script[] = METADATA_SERVER;
    char mode_text[16];
    snprintf(mode_text, sizeof(mode_text), "%s", mode);
    char *argv[] = {python, script, mode_text, NULL};
    assert_int_equal(posix_spawnp(&server->pid, python, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    server->to = fdopen(to[1], "w");
    server->from = fdopen(from[0], "r");
    assert_non_null(server->to);
    assert_non_null(server->from);
    char line[32];
    assert_non_null(fgets(line, sizeof(line), server->from));
    server->port = (unsigned)strtoul(line, NULL, 10);
    assert_true(server->port > 0);
    snprintf(server->url, sizeof(server->url), "http://127.0.0.1:%u/metadata", server->port);
}

static void server_stop(server_t *server)
{
    int status;
    fclose(server->to);
    fclose(server->from);
    assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
}

/* What is stored: lines "key body", the answer's number of lines. */
static unsigned server_dump(server_t *server, char *text, size_t size)
{
    fputs("dump\n", server->to);
    fflush(server->to);
    unsigned lines = 0;
    size_t at = 0;
    text[0] = '\0';
    char line[4096];
    while (fgets(line, sizeof(line), server->from) != NULL && strcmp(line, "end\n") != 0) {
        at += (size_t)snprintf(text + at, size - at, "%s", line);
        lines++;
    }
    return lines;
}

static mcs_metadata_record_t record_of(const char *url, const char *cluster, const char *name)
{
    return (mcs_metadata_record_t){.url = url,
                                   .cluster_id = cluster,
                                   .segment_name = name,
                                   .protocol = "tcp",
                                   .host = "127.0.0.1",
                                   .data_port = 15001,
                                   .segment_bytes = 3 << 20};
}

static int setup(void **state)
{
    (void)state;
    rig_install_log();
    rig_log_reset();
    return 0;
}

static void a_record_is_two_keys_and_goes_away_again(void **state)
{
    (void)state;
    server_t server;
    char text[8192];
    server_start(&server, "real");
    mcs_metadata_record_t record = record_of(server.url, "", "node-1:12345");
    assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_OK);
    assert_int_equal(server_dump(&server, text, sizeof(text)), 2);
    assert_non_null(
        strstr(text, "mooncake/rpc_meta/node-1:12345 {\"ip_or_host_name\":\"127.0.0.1\",\"rpc_port\":15001}"));
    assert_non_null(strstr(text, "mooncake/ram/node-1:12345 {\"name\":\"node-1:12345\",\"protocol\":\"tcp\","
                                 "\"tcp_data_port\":15001,\"tcp_proto_version\":2,"));
    assert_non_null(strstr(text, "\"buffers\":[{\"name\":\"cpu:0\",\"addr\":0,\"length\":3145728}]}"));
    ucxt_metadata_http_ops.withdraw(&record);
    assert_int_equal(server_dump(&server, text, sizeof(text)), 0);

    record = record_of(server.url, "blue team/7", "[fe80::1%eth0]:12345");
    record.segment_bytes = 0;
    record.host = "a\"b\\c\n";
    assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_OK);
    assert_int_equal(server_dump(&server, text, sizeof(text)), 2);
    assert_non_null(strstr(text, "mooncake/blue team/7/rpc_meta/[fe80::1%eth0]:12345 "
                                 "{\"ip_or_host_name\":\"a\\\"b\\\\c\\u000a\""));
    assert_non_null(strstr(text, "mooncake/blue team/7/ram/[fe80::1%eth0]:12345 {"));
    assert_non_null(strstr(text, "\"buffers\":[]}"));
    ucxt_metadata_http_ops.withdraw(&record);
    ucxt_metadata_http_ops.withdraw(&record); /* nothing there: no harm */
    assert_int_equal(server_dump(&server, text, sizeof(text)), 0);
    assert_int_equal(rig_log_count("metadata]"), 0);
    server_stop(&server);
}

static void a_name_that_is_taken_is_said_and_left_alone(void **state)
{
    (void)state;
    server_t server;
    char text[8192];
    server_start(&server, "real");
    mcs_metadata_record_t first = record_of(server.url, "", "node:1");
    mcs_metadata_record_t second = first;
    second.data_port = 15002;
    assert_int_equal(ucxt_metadata_http_ops.publish(&first), MCS_OK);
    assert_int_equal(ucxt_metadata_http_ops.publish(&second), MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_int_equal(server_dump(&server, text, sizeof(text)), 2);
    assert_non_null(strstr(text, "\"rpc_port\":15001"));
    assert_int_equal(rig_log_count("the name is taken"), 1);
    server_stop(&server);
}

static void a_server_that_stores_nothing_is_found_out_and_nothing_stays(void **state)
{
    (void)state;
    server_t server;
    char text[8192];
    server_start(&server, "forgetful");
    mcs_metadata_record_t record = record_of(server.url, "", "node:1");
    assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(server_dump(&server, text, sizeof(text)), 0);
    assert_int_equal(rig_log_count("does not give back"), 1);
    server_stop(&server);
}

static void servers_that_are_something_else_are_named_in_the_log(void **state)
{
    (void)state;
    static const char *const modes[][2] = {
        {"html", "It works!"},      {"500", "status 500"}, {"404", "status 404"},      {"close", "PUT http://"},
        {"garbage", "PUT http://"}, {"huge", "longer"},    {"redirect", "status 302"},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(modes); i++) {
        server_t server;
        rig_log_reset();
        server_start(&server, modes[i][0]);
        mcs_metadata_record_t record = record_of(server.url, "", "node:1");
        assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(rig_log_count(server.url), 1);
        assert_int_equal(rig_log_count(modes[i][1]), 1);
        server_stop(&server);
    }
}

static void a_server_that_hangs_costs_three_seconds(void **state)
{
    (void)state;
    server_t server;
    server_start(&server, "hang");
    mcs_metadata_record_t record = record_of(server.url, "", "node:1");
    uint64_t start = mcs_now_ns();
    assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_ERR_INVALID_PARAMS);
    assert_true(mcs_now_ns() - start < 4 * MCS_NS_PER_SEC);
    assert_int_equal(rig_log_count(server.url), 1);
    server_stop(&server);
}

static void urls_that_lead_nowhere_are_refused(void **state)
{
    (void)state;
    static const char *const urls[] = {"",
                                       "P2PHANDSHAKE",
                                       "etcd://127.0.0.1:2379",
                                       "file:///etc/passwd",
                                       "http://",
                                       "http://127.0.0.1:1/metadata",
                                       "http://no-such-host.invalid/metadata",
                                       "http://127.0.0.1:99999/metadata"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(urls); i++) {
        rig_log_reset();
        mcs_metadata_record_t record = record_of(urls[i], "", "node:1");
        assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(rig_log_count("metadata]"), 1);
        ucxt_metadata_http_ops.withdraw(&record);
    }
    char *name = malloc(20000);
    assert_non_null(name);
    memset(name, 'n', 19999);
    name[19999] = '\0';
    mcs_metadata_record_t record = record_of("http://127.0.0.1:1/metadata", "", name);
    assert_int_equal(ucxt_metadata_http_ops.publish(&record), MCS_ERR_INVALID_PARAMS);
    free(name);
}

static void every_failing_allocation_and_call_is_an_error(void **state)
{
    (void)state;
    server_t server;
    char text[8192];
    server_start(&server, "real");
    for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
        uint32_t failed = 0;
        bool fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            mcs_metadata_record_t record = record_of(server.url, "", "node:1");
            mcs_fault_arm((mcs_fault_kind_t)kind, nth);
            mcs_status_t status = ucxt_metadata_http_ops.publish(&record);
            fired = mcs_fault_fired((mcs_fault_kind_t)kind);
            mcs_fault_arm((mcs_fault_kind_t)kind, 0);
            failed += status != MCS_OK ? 1 : 0;
            assert_true(fired || status == MCS_OK);
            if (status == MCS_OK) {
                ucxt_metadata_http_ops.withdraw(&record);
            }
            assert_int_equal(server_dump(&server, text, sizeof(text)), 0);
        }
        assert_true(failed > 2);
    }
    server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_record_is_two_keys_and_goes_away_again, setup),
        cmocka_unit_test_setup(a_name_that_is_taken_is_said_and_left_alone, setup),
        cmocka_unit_test_setup(a_server_that_stores_nothing_is_found_out_and_nothing_stays, setup),
        cmocka_unit_test_setup(servers_that_are_something_else_are_named_in_the_log, setup),
        cmocka_unit_test_setup(a_server_that_hangs_costs_three_seconds, setup),
        cmocka_unit_test_setup(urls_that_lead_nowhere_are_refused, setup),
        cmocka_unit_test_setup(every_failing_allocation_and_call_is_an_error, setup),
    };
    return cmocka_run_group_tests_name("metadata over http", tests, NULL, NULL);
}
