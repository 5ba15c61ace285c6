/* Records of dead clients in a metadata server of another process: the master's own one plays that here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/macros.h"
#include "http_client.h"
#include "master/http_metadata.h"
#include "master/metadata_cleanup.h"
#include "tests/support/unit.h"

static mcs_http_metadata_t *g_server;
static uint16_t g_port;
static char g_url[128];
static const char *g_alive; /* NULL: nobody */

static int start_server(void **state)
{
    const mcs_http_metadata_config_t config = {.address = "127.0.0.1", .cluster_id = ""};
    (void)state;
    assert_int_equal(mcs_http_metadata_create(&config, &g_server), MCS_OK);
    assert_int_equal(mcs_http_metadata_start(g_server), MCS_OK);
    g_port = mcs_http_metadata_port(g_server);
    snprintf(g_url, sizeof(g_url), "http://127.0.0.1:%u/metadata", g_port);
    g_alive = NULL;
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    mcs_http_metadata_destroy(g_server);
    g_server = NULL;
    return 0;
}

static bool is_alive(void *arg, const char *segment_name)
{
    (void)arg;
    return g_alive != NULL && strcmp(g_alive, segment_name) == 0;
}

static mcs_metadata_cleanup_t *start(const char *url, const char *config_path, const char *cluster_id)
{
    const mcs_metadata_cleanup_config_t config = {
        .url = url, .config_path = config_path, .cluster_id = cluster_id, .is_alive = is_alive};
    mcs_metadata_cleanup_t *cleanup = NULL;
    assert_int_equal(mcs_metadata_cleanup_start(&config, &cleanup), MCS_OK);
    return cleanup;
}

static unsigned code_of(const char *key)
{
    char target[256];
    http_reply_t reply;
    snprintf(target, sizeof(target), "/metadata?key=%s", key);
    http_request(g_port, "GET", target, NULL, &reply);
    unsigned code = reply.code;
    http_reply_fini(&reply);
    return code;
}

static void put(const char *key)
{
    char target[256];
    snprintf(target, sizeof(target), "/metadata?key=%s", key);
    http_expect(g_port, "PUT", target, "{}", 200, "metadata updated");
}

static void wait_gone(const char *key)
{
    uint64_t deadline = mcs_deadline_after_ms(20000);
    while (code_of(key) != 404) {
        assert_true(mcs_now_ns() < deadline);
    }
}

static void records_go_with_and_without_the_cluster(void **state)
{
    static const char *const keys[] = {"mooncake/ram/a%20b%3A1", "mooncake/rpc_meta/a%20b%3A1",
                                       "mooncake/prod/ram/a%20b%3A1", "mooncake/prod/rpc_meta/a%20b%3A1"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(keys); i++) {
        put(keys[i]);
    }
    put("mooncake/ram/other:1");
    mcs_metadata_cleanup_t *cleanup = start(g_url, "", "prod");
    mcs_metadata_cleanup_forget(cleanup, "a b:1");
    for (size_t i = 0; i < MCS_ARRAY_LEN(keys); i++) {
        wait_gone(keys[i]);
    }
    assert_int_equal(code_of("mooncake/ram/other:1"), 200);
    mcs_metadata_cleanup_stop(cleanup);
}

static void who_is_back_keeps_its_records(void **state)
{
    (void)state;
    put("mooncake/ram/back:1");
    put("mooncake/ram/dead:1");
    g_alive = "back:1";
    mcs_metadata_cleanup_t *cleanup = start(g_url, "", "");
    mcs_metadata_cleanup_forget(cleanup, "back:1");
    mcs_metadata_cleanup_forget(cleanup, "dead:1"); /* after the other */
    wait_gone("mooncake/ram/dead:1");
    assert_int_equal(code_of("mooncake/ram/back:1"), 200);
    mcs_metadata_cleanup_stop(cleanup);
}

static void the_engines_file_names_the_server(void **state)
{
    char path[] = "/tmp/mcs-cleanup-XXXXXX";
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    char text[256];
    int len = snprintf(text, sizeof(text), "{\"metadata_server\": \"%s\", \"protocol\": \"tcp\"}", g_url);
    assert_int_equal(write(fd, text, (size_t)len), len);
    close(fd);
    put("mooncake/ram/dead:1");
    mcs_metadata_cleanup_t *cleanup = start("", path, "");
    assert_non_null(cleanup);
    mcs_metadata_cleanup_forget(cleanup, "dead:1");
    wait_gone("mooncake/ram/dead:1");
    mcs_metadata_cleanup_stop(cleanup);
    unlink(path);
}

static mcs_mutex_t g_lock;
static char g_line[512] MCS_GUARDED_BY(&g_lock); /* the last warning */

static void keep_line(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    if (level >= MCS_LOG_WARN) {
        mcs_mutex_lock(&g_lock);
        snprintf(g_line, sizeof(g_line), "%s", line);
        mcs_mutex_unlock(&g_lock);
    }
}

static bool warned(const char *word)
{
    mcs_mutex_lock(&g_lock);
    bool found = strstr(g_line, word) != NULL;
    mcs_mutex_unlock(&g_lock);
    return found;
}

static int keep_lines(void **state)
{
    (void)state;
    mcs_mutex_lock(&g_lock);
    g_line[0] = '\0';
    mcs_mutex_unlock(&g_lock);
    mcs_log_set_sink(keep_line, NULL);
    return 0;
}

static int keep_lines_and_start(void **state)
{
    return keep_lines(state) + start_server(state);
}

static int stop_and_show_lines(void **state)
{
    stop_server(state);
    mcs_log_set_sink(NULL, NULL);
    return 0;
}

static void without_a_server_there_is_a_word_and_no_cleanup(void **state)
{
    static const struct {
        const char *url;
        const char *path;
        const char *word;
    } rows[] = {
        {"", "", "MOONCAKE_TE_META_DATA_SERVER does not name"},
        {"P2PHANDSHAKE", "", "not at P2PHANDSHAKE"},
        {"etcd://127.0.0.1:1", "", "not at etcd://127.0.0.1:1"},
        {"", "/no/such/file", "MOONCAKE_CONFIG_PATH: unable to open"},
        {"", "/dev/null", "MOONCAKE_CONFIG_PATH: "},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        assert_null(start(rows[i].url, rows[i].path, ""));
        assert_true(warned(rows[i].word));
        assert_true(warned("enable_metadata_cleanup_on_timeout has no effect"));
    }
    mcs_metadata_cleanup_stop(NULL);
}

/* A server that takes connections and says nothing, and one that is not there, hold up neither reports nor the end. */
static void a_server_that_does_not_answer_holds_up_nobody(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    (void)state;
    for (int listening = 0; listening < 2; listening++) {
        char url[64];
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        address.sin_port = 0;
        assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
        assert_true(listening == 0 || listen(fd, 8) == 0);
        snprintf(url, sizeof(url), "http://127.0.0.1:%u/metadata", ntohs(address.sin_port));
        mcs_metadata_cleanup_t *cleanup = start(url, "", "");
        uint64_t begun_ns = mcs_now_ns();
        for (int i = 0; i < 5000; i++) { /* more than may wait */
            mcs_metadata_cleanup_forget(cleanup, "dead:1");
        }
        assert_true(warned("stay in"));
        mcs_metadata_cleanup_stop(cleanup);
        assert_true(mcs_now_ns() - begun_ns < 4 * MCS_NS_PER_SEC);
        close(fd);
    }
}

/* The server comes up after the first try. */
static void a_server_that_comes_back_is_asked_again(void **state)
{
    (void)state;
    uint16_t port = g_port;
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/metadata", port);
    mcs_http_metadata_destroy(g_server);
    mcs_metadata_cleanup_t *cleanup = start(url, "", "");
    mcs_metadata_cleanup_forget(cleanup, "dead:1");
    uint64_t deadline = mcs_deadline_after_ms(20000);
    while (!warned("DELETE")) {
        assert_true(mcs_now_ns() < deadline);
    }
    const mcs_http_metadata_config_t config = {.address = "127.0.0.1", .port = port, .cluster_id = ""};
    assert_int_equal(mcs_http_metadata_create(&config, &g_server), MCS_OK);
    assert_int_equal(mcs_http_metadata_start(g_server), MCS_OK);
    put("mooncake/ram/dead:1");
    wait_gone("mooncake/ram/dead:1");
    mcs_metadata_cleanup_stop(cleanup);
}

static mcs_status_t start_and_stop(void *arg)
{
    const mcs_metadata_cleanup_config_t config = {
        .url = g_url, .config_path = "", .cluster_id = "c", .is_alive = is_alive, .arg = arg};
    mcs_metadata_cleanup_t *cleanup = NULL;
    mcs_status_t status = mcs_metadata_cleanup_start(&config, &cleanup);
    mcs_metadata_cleanup_stop(cleanup);
    return status;
}

static void every_failure_of_the_start_leaves_nothing(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_SYSCALL, start_and_stop, NULL) > 0);
    assert_true(unit_torture(MCS_FAULT_ALLOC, start_and_stop, NULL) > 0);
}

int main(void)
{
    mcs_mutex_init(&g_lock, MCS_RANK_LEAF, "lines");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(records_go_with_and_without_the_cluster, start_server, stop_server),
        cmocka_unit_test_setup_teardown(who_is_back_keeps_its_records, start_server, stop_server),
        cmocka_unit_test_setup_teardown(the_engines_file_names_the_server, start_server, stop_server),
        cmocka_unit_test_setup_teardown(without_a_server_there_is_a_word_and_no_cleanup, keep_lines,
                                        stop_and_show_lines),
        cmocka_unit_test_setup_teardown(a_server_that_does_not_answer_holds_up_nobody, keep_lines, stop_and_show_lines),
        cmocka_unit_test_setup_teardown(a_server_that_comes_back_is_asked_again, keep_lines_and_start,
                                        stop_and_show_lines),
        cmocka_unit_test_setup_teardown(every_failure_of_the_start_leaves_nothing, keep_lines_and_start,
                                        stop_and_show_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
