/* Life cycle of the master as a library, and of the embedded one, over a hand-written state. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "fake_service.h"
#include "http_client.h"
#include "master/embed.h"
#include "master/http_metadata.h"
#include "master/master.h"

static char g_folder[] = "/tmp/mcs-master-XXXXXX";
static mcs_master_config_t g_config;

#define LINES_MAX 64
static char g_lines[LINES_MAX][1024];
static uint32_t g_line_count;        /* atomic */
static bool g_line_ready[LINES_MAX]; /* atomic: the line is written */

static void keep_line(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    (void)level;
    uint32_t at = __atomic_fetch_add(&g_line_count, 1, __ATOMIC_SEQ_CST);
    if (at < LINES_MAX) {
        snprintf(g_lines[at], sizeof(g_lines[at]), "%s", line);
        __atomic_store_n(&g_line_ready[at], true, __ATOMIC_RELEASE);
    }
}

static bool logged(const char *text)
{
    uint32_t count = MCS_MIN(__atomic_load_n(&g_line_count, __ATOMIC_SEQ_CST), (uint32_t)LINES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        if (__atomic_load_n(&g_line_ready[i], __ATOMIC_ACQUIRE) && strstr(g_lines[i], text) != NULL) {
            return true;
        }
    }
    return false;
}

static void set(const char *name, const char *value)
{
    assert_int_equal(mcs_config_set(&mcs_master_config_table, &g_config, MCS_CONFIG_FROM_FLAG, name, value, NULL),
                     MCS_OK);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(g_folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(g_folder); /* fails when a socket was left */
}

static int setup(void **state)
{
    (void)state;
    fake_reset();
    memset(g_lines, 0, sizeof(g_lines));
    memset(g_line_ready, 0, sizeof(g_line_ready));
    g_line_count = 0;
    mcs_log_set_sink(keep_line, NULL);
    mcs_log_set_level(MCS_LOG_INFO);
    memset(&g_config, 0, sizeof(g_config));
    assert_int_equal(mcs_config_init(&mcs_master_config_table, &g_config), MCS_OK);
    g_config.rpc_ephemeral = true;
    set("rpc_address", "127.0.0.1");
    set("metrics_host", "127.0.0.1");
    set("metrics_port", "0");
    set("http_metadata_server_host", "127.0.0.1");
    set("http_metadata_server_port", "0");
    set("enable_http_metadata_server", "true");
    set("rpc_thread_num", "2");
    set("ipc_dir", g_folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mcs_config_fini(&mcs_master_config_table, &g_config);
    mcs_log_set_sink(NULL, NULL);
    mcs_log_set_level(MCS_LOG_WARN);
    return 0;
}

static mcs_master_t *start(void)
{
    mcs_master_t *master = NULL;
    assert_int_equal(mcs_master_start(&g_config, &master), MCS_OK);
    return master;
}

static void a_started_master_serves_all_its_ports(void **state)
{
    (void)state;
    mcs_master_t *master = start();
    assert_int_equal(g_fake.started, 1);
    int fd = http_connect(mcs_master_rpc_port(master)); /* accepts */
    close(fd);
    http_expect(mcs_master_metrics_port(master), "GET", "/role", NULL, 200, "leader");
    http_expect(mcs_master_metadata_port(master), "GET", "/health", NULL, 200, "OK");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", mcs_master_unix_path(master));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    close(fd);
    char line[128];
    snprintf(line, sizeof(line), "Master service started on port %u, max_threads=16", mcs_master_rpc_port(master));
    assert_true(logged(line));
    mcs_master_stop(master);
    assert_int_equal(g_fake.stopped, 1);
    assert_int_equal(g_fake.destroyed, 1);
    assert_int_not_equal(access(addr.sun_path, F_OK), 0);
    mcs_master_stop(NULL);
}

static void parts_that_are_off_have_no_port(void **state)
{
    (void)state;
    set("enable_http_metadata_server", "false");
    set("ipc_dir", "none");
    mcs_master_t *master = start();
    assert_int_equal(mcs_master_metadata_port(master), 0);
    assert_string_equal(mcs_master_unix_path(master), "");
    mcs_master_stop(master);
    g_config.http_off = true;
    g_config.rpc_no_tcp = true;
    set("ipc_dir", g_folder);
    set("enable_http_metadata_server", "true");
    master = start();
    assert_int_equal(mcs_master_rpc_port(master), 0);
    assert_int_equal(mcs_master_metrics_port(master), 0);
    assert_int_equal(mcs_master_metadata_port(master), 0);
    assert_true(strlen(mcs_master_unix_path(master)) > 0);
    mcs_master_stop(master);
}

static void several_masters_live_in_one_process(void **state)
{
    (void)state;
    mcs_master_t *one = start();
    uint64_t epoch = g_fake.config.epoch;
    mcs_master_t *two = start();
    assert_true(g_fake.config.epoch > epoch); /* also within a second */
    assert_int_not_equal(mcs_master_rpc_port(one), mcs_master_rpc_port(two));
    assert_string_not_equal(mcs_master_unix_path(one), mcs_master_unix_path(two));
    mcs_master_stop(one);
    http_expect(mcs_master_metrics_port(two), "GET", "/role", NULL, 200, "leader");
    mcs_master_stop(two);
}

static void the_epoch_is_at_least_the_clock_and_what_is_given(void **state)
{
    (void)state;
    uint64_t now = mcs_wall_ms() / 1000;
    mcs_master_stop(start());
    assert_true(g_fake.config.epoch >= now);
    g_config.epoch_floor = now + 100000;
    mcs_master_stop(start());
    assert_true(g_fake.config.epoch >= now + 100000);
}

static void a_port_in_use_is_fatal_and_leaves_nothing(void **state)
{
    static const char *const flags[] = {"rpc_port", "metrics_port", "http_metadata_server_port"};
    static const char *const names[] = {
        "rpc port 127.0.0.1:", "http admin port 127.0.0.1:", "http metadata port 127.0.0.1:"};
    (void)state;
    mcs_master_t *first = start();
    const uint16_t ports[] = {mcs_master_rpc_port(first), mcs_master_metrics_port(first),
                              mcs_master_metadata_port(first)};
    uint32_t started = g_fake.started;
    for (size_t i = 0; i < MCS_ARRAY_LEN(flags); i++) {
        char port[8];
        char text[64];
        mcs_master_t *second = NULL;
        snprintf(port, sizeof(port), "%u", ports[i]);
        snprintf(text, sizeof(text), "%s%u not bound: Address already in use", names[i], ports[i]);
        set(flags[i], port);
        g_config.rpc_ephemeral = i != 0;
        assert_int_equal(mcs_master_start(&g_config, &second), MCS_ERR_INVALID_PARAMS);
        assert_null(second);
        assert_true(logged(text));
        set(flags[i], "0");
    }
    assert_int_equal(g_fake.started, started); /* no thread ran */
    assert_int_equal(g_fake.created, g_fake.destroyed + 1);
    mcs_master_stop(first);
}

static void a_bad_setting_is_refused_with_its_name(void **state)
{
    static const struct {
        const char *name;
        const char *value;
        const char *text;
    } rows[] = {
        {"allocation_strategy", "best", "allocation_strategy must be"},
        {"allocation_strategy", "cxl", "cxl are not in this build"},
        {"memory_allocator", "malloc", "memory_allocator must be"},
        {"eviction_policy", "fifo", "eviction_policy must be adaptive or lru"},
        {"put_start_release_timeout_sec", "30", "put_start_release_timeout_sec must be greater"},
        {"eviction_high_watermark_ratio", "0", "eviction_high_watermark_ratio must be"},
        {"rpc_address", "192.0.2.1", "rpc port 192.0.2.1:0 not bound"},
        {"rpc_interface", "no-such-if0", "interface no-such-if0 has no IPv4 address"},
        {"ipc_dir", "/proc/nowhere", "ipc folder /proc/nowhere"},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_master_t *master = NULL;
        teardown(state);
        setup(state);
        set(rows[i].name, rows[i].value);
        assert_int_equal(mcs_master_start(&g_config, &master), MCS_ERR_INVALID_PARAMS);
        if (!logged(rows[i].text)) {
            print_error("not logged: %s\n", rows[i].text);
            fail();
        }
        assert_null(master);
        assert_int_equal(g_fake.created, g_fake.destroyed);
    }
}

static void the_config_is_copied(void **state)
{
    (void)state;
    mcs_master_t *master = start();
    set("cluster_id", "changed");
    assert_string_equal(g_fake.config.config->cluster_id, "mooncake_cluster");
    mcs_config_fini(&mcs_master_config_table, &g_config);
    assert_int_equal(mcs_config_init(&mcs_master_config_table, &g_config), MCS_OK);
    assert_string_equal(g_fake.config.config->rpc_address, "127.0.0.1");
    mcs_master_stop(master);
}

static void an_open_port_without_a_token_is_warned_about(void **state)
{
    static const char warning[] = "cluster_token is not set";
    (void)state;
    mcs_master_stop(start());
    assert_false(logged(warning)); /* loopback */
    set("rpc_address", "0.0.0.0");
    set("cluster_token", "secret");
    mcs_master_stop(start());
    assert_false(logged(warning));
    set("cluster_token", "");
    mcs_master_stop(start());
    assert_true(logged(warning));
    assert_false(logged("secret"));
    assert_false(logged("has admin_token is not set"));
    set("metrics_host", "0.0.0.0");
    mcs_master_stop(start());
    assert_true(logged("admin_token is not set"));
}

static void records_of_dead_clients_are_deleted_when_asked(void **state)
{
    (void)state;
    mcs_master_t *master = start();
    assert_null(g_fake.config.client_expired); /* off by default */
    mcs_master_stop(master);
    set("enable_metadata_cleanup_on_timeout", "true");
    master = start();
    uint16_t port = mcs_master_metadata_port(master);
    http_expect(port, "PUT", "/metadata?key=mooncake%2Fram%2Fnode-1%3A12345", "{}", 200, "metadata updated");
    http_expect(port, "PUT", "/metadata?key=mooncake%2Fmooncake_cluster%2Frpc_meta%2Fnode-1%3A12345", "{}", 200,
                "metadata updated");
    g_fake.config.client_expired(g_fake.config.client_expired_arg, "node-1:12345");
    http_expect(port, "GET", "/metadata?key=mooncake%2Fram%2Fnode-1%3A12345", NULL, 404, "metadata not found");
    http_expect(port, "GET", "/metadata?key=mooncake/mooncake_cluster/rpc_meta/node-1:12345", NULL, 404,
                "metadata not found");
    http_expect(port, "PUT", "/metadata?key=mooncake%2Fram%2Fnode-1%3A12345", "{}", 200, "metadata updated");
    snprintf(g_fake.clients[0].name, sizeof(g_fake.clients[0].name), "node-1:12345");
    g_fake.client_count = 1;
    g_fake.config.client_expired(g_fake.config.client_expired_arg, "node-1:12345");
    http_expect(port, "GET", "/metadata?key=mooncake%2Fram%2Fnode-1%3A12345", NULL, 200, "{}"); /* it is back */
    mcs_master_stop(master);
    assert_false(logged("has no effect"));
}

static void records_in_another_server_are_deleted_too(void **state)
{
    (void)state;
    mcs_http_metadata_t *elsewhere = NULL;
    const mcs_http_metadata_config_t config = {.address = "127.0.0.1", .cluster_id = ""};
    char url[64];
    assert_int_equal(mcs_http_metadata_create(&config, &elsewhere), MCS_OK);
    assert_int_equal(mcs_http_metadata_start(elsewhere), MCS_OK);
    uint16_t port = mcs_http_metadata_port(elsewhere);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/metadata", port);
    http_expect(port, "PUT", "/metadata?key=mooncake/ram/node-1:12345", "{}", 200, "metadata updated");
    set("enable_metadata_cleanup_on_timeout", "true");
    set("enable_http_metadata_server", "false");
    mcs_master_stop(start());
    assert_null(g_fake.config.client_expired); /* no server is named */
    assert_true(logged("enable_metadata_cleanup_on_timeout has no effect: the master serves no metadata"));
    setenv("MOONCAKE_TE_META_DATA_SERVER", url, 1);
    assert_int_equal(mcs_config_load_env(&mcs_master_config_table, &g_config, NULL), MCS_OK);
    unsetenv("MOONCAKE_TE_META_DATA_SERVER");
    mcs_master_t *master = start();
    g_fake.config.client_expired(g_fake.config.client_expired_arg, "node-1:12345");
    for (http_reply_t reply = {0}; reply.code != 404;) {
        http_request(port, "GET", "/metadata?key=mooncake/ram/node-1:12345", NULL, &reply);
        http_reply_fini(&reply);
    }
    mcs_master_stop(master);
    mcs_http_metadata_destroy(elsewhere);
}

static uint64_t g_now_ns = 1000000000000;

static uint64_t fake_now(void)
{
    return __atomic_load_n(&g_now_ns, __ATOMIC_SEQ_CST);
}

static void the_summary_is_logged_every_ten_seconds_unless_off(void **state)
{
    (void)state;
    mcs_clock_set_source(fake_now);
    set("enable_metric_reporting", "false");
    mcs_master_t *silent = start();
    (void)__atomic_add_fetch(&g_now_ns, 30 * MCS_NS_PER_SEC, __ATOMIC_SEQ_CST);
    mcs_master_stop(silent);
    assert_false(logged("Master Admin Metrics:"));
    set("enable_metric_reporting", "true");
    mcs_master_t *master = start();
    while (!logged("Master Admin Metrics: role=leader, state=serving, service_ready=true, master={Mem Storage: ")) {
        (void)__atomic_add_fetch(&g_now_ns, MCS_NS_PER_SEC, __ATOMIC_SEQ_CST);
        poll(NULL, 0, 1);
    }
    mcs_master_stop(master);
    mcs_clock_set_source(NULL);
}

static void a_service_that_does_not_start_leaves_nothing(void **state)
{
    mcs_master_t *master = NULL;
    (void)state;
    g_fake.create_result = MCS_ERR_NO_MEMORY;
    assert_int_equal(mcs_master_start(&g_config, &master), MCS_ERR_NO_MEMORY);
    g_fake.create_result = MCS_OK;
    g_fake.start_result = MCS_ERR_LIMIT;
    assert_int_equal(mcs_master_start(&g_config, &master), MCS_ERR_LIMIT);
    assert_null(master);
    assert_int_equal(g_fake.stopped, 0);
    assert_int_equal(g_fake.created, g_fake.destroyed);
}

static void starting_survives_every_lost_allocation(void **state)
{
    (void)state;
    for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
        bool fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            mcs_master_t *master = NULL;
            mcs_fault_arm((mcs_fault_kind_t)kind, nth);
            mcs_status_t status = mcs_master_start(&g_config, &master);
            fired = mcs_fault_fired((mcs_fault_kind_t)kind);
            mcs_fault_arm((mcs_fault_kind_t)kind, 0);
            assert_int_equal(status == MCS_OK, !fired);
            assert_int_equal(master != NULL, !fired);
            mcs_master_stop(master);
            assert_int_equal(g_fake.created, g_fake.destroyed);
        }
    }
}

/* Embedded. */

static void an_embedded_master_has_a_unix_socket_only(void **state)
{
    void *master = NULL;
    char address[160];
    (void)state;
    setenv("MC_STORE_IPC_DIR", g_folder, 1);
    assert_int_equal(mcs_master_embed_ops.start(0, &master, address, sizeof(address)), MCS_OK);
    assert_memory_equal(address, "unix:", 5);
    assert_memory_equal(address + 5, g_folder, strlen(g_folder));
    assert_int_equal(mcs_master_rpc_port(master), 0);
    assert_int_equal(mcs_master_metrics_port(master), 0);
    struct stat st;
    assert_int_equal(stat(address + 5, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    mcs_master_embed_ops.stop(master);
    assert_int_not_equal(stat(address + 5, &st), 0);
}

static void an_embedded_master_with_a_port_is_on_loopback(void **state)
{
    void *master = NULL;
    void *second = NULL;
    char address[160] = "untouched";
    (void)state;
    setenv("MC_STORE_IPC_DIR", g_folder, 1);
    mcs_master_t *other = start(); /* whose port is surely free after its end */
    uint16_t port = mcs_master_rpc_port(other);
    assert_int_equal(mcs_master_embed_ops.start(port, &master, address, sizeof(address)), MCS_ERR_INVALID_PARAMS);
    assert_null(master);
    assert_string_equal(address, "untouched");
    mcs_master_stop(other);
    assert_int_equal(mcs_master_embed_ops.start(port, &master, address, sizeof(address)), MCS_OK);
    assert_int_equal(mcs_master_rpc_port(master), port);
    close(http_connect(port));
    assert_false(logged("cluster_token is not set"));
    assert_int_equal(mcs_master_embed_ops.start(0, &second, address, sizeof(address)), MCS_OK);
    mcs_master_embed_ops.stop(second);
    mcs_master_embed_ops.stop(master);
}

static void without_a_socket_an_embedded_master_takes_a_loopback_port(void **state)
{
    void *master = NULL;
    char address[160];
    char expected[64];
    (void)state;
    setenv("MC_STORE_IPC_DIR", "none", 1);
    assert_int_equal(mcs_master_embed_ops.start(0, &master, address, sizeof(address)), MCS_OK);
    snprintf(expected, sizeof(expected), "127.0.0.1:%u", mcs_master_rpc_port(master));
    assert_string_equal(address, expected);
    mcs_master_embed_ops.stop(master);
    assert_int_equal(mcs_master_embed_ops.start(0, &master, address, 5), MCS_ERR_BUFFER_OVERFLOW);
    assert_int_equal(g_fake.created, g_fake.destroyed);
}

static void a_folder_of_somebody_else_is_refused(void **state)
{
    void *master = NULL;
    char address[160];
    char folder[64];
    (void)state;
    snprintf(folder, sizeof(folder), "%s/open", g_folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(chmod(folder, 0777), 0);
    setenv("MC_STORE_IPC_DIR", folder, 1);
    assert_int_equal(mcs_master_embed_ops.start(0, &master, address, sizeof(address)), MCS_ERR_INVALID_PARAMS);
    assert_true(logged("is not a folder that this user alone may write"));
    rmdir(folder);
    unsetenv("MC_STORE_IPC_DIR");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_started_master_serves_all_its_ports),
        TEST(parts_that_are_off_have_no_port),
        TEST(several_masters_live_in_one_process),
        TEST(the_epoch_is_at_least_the_clock_and_what_is_given),
        TEST(a_port_in_use_is_fatal_and_leaves_nothing),
        TEST(a_bad_setting_is_refused_with_its_name),
        TEST(the_config_is_copied),
        TEST(an_open_port_without_a_token_is_warned_about),
        TEST(records_of_dead_clients_are_deleted_when_asked),
        TEST(records_in_another_server_are_deleted_too),
        TEST(the_summary_is_logged_every_ten_seconds_unless_off),
        TEST(a_service_that_does_not_start_leaves_nothing),
        TEST(starting_survives_every_lost_allocation),
        TEST(an_embedded_master_has_a_unix_socket_only),
        TEST(an_embedded_master_with_a_port_is_on_loopback),
        TEST(without_a_socket_an_embedded_master_takes_a_loopback_port),
        TEST(a_folder_of_somebody_else_is_refused),
    };
    return cmocka_run_group_tests_name("master", tests, make_folder, remove_folder);
}
