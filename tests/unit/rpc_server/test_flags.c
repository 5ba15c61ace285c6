/* master/flags: every documented flag with its default, in every spelling that consumers use. */
#include <signal.h>

#include "master/master.h"
#include "tests/support/unit.h"

typedef struct documented {
    const char *name;
    const char *default_text;
} documented_t;

static const documented_t g_documented[] = {
    {"config_path", ""},
    {"port", "50051"},
    {"max_threads", "16"},
    {"rpc_port", "0"},
    {"rpc_thread_num", "0"},
    {"rpc_address", "0.0.0.0"},
    {"rpc_interface", ""},
    {"rpc_conn_timeout_seconds", "0"},
    {"rpc_enable_tcp_no_delay", "true"},
    {"enable_metric_reporting", "true"},
    {"metrics_port", "9003"},
    {"metrics_host", "0.0.0.0"},
    {"default_kv_lease_ttl", "10000"},
    {"default_kv_soft_pin_ttl", "1800000"},
    {"max_kv_soft_pin_ttl", "86400000"},
    {"allow_evict_soft_pinned_objects", "true"},
    {"eviction_ratio", "0.05"},
    {"eviction_high_watermark_ratio", "0.90"},
    {"nof_eviction_ratio", "0.05"},
    {"nof_eviction_high_watermark_ratio", "0.90"},
    {"client_ttl", "10"},
    {"client_live_ttl_sec", "10"},
    {"put_start_discard_timeout_sec", "30"},
    {"put_start_release_timeout_sec", "600"},
    {"memory_allocator", "offset"},
    {"allocation_strategy", "random"},
    {"enable_http_metadata_server", "false"},
    {"http_metadata_server_port", "8080"},
    {"http_metadata_server_host", "0.0.0.0"},
    {"enable_metadata_cleanup_on_timeout", "false"},
    {"cluster_id", "mooncake_cluster"},
    {"root_fs_dir", ""},
    {"enable_disk_eviction", "true"},
    {"quota_bytes", "0"},
    {"enable_offload", "false"},
    {"offload_on_evict", "false"},
    {"offload_force_evict", "false"},
    {"offloading_queue_limit", "50000"},
    {"offload_cap_ratio", "0.5"},
    {"promotion_on_hit", "false"},
    {"promotion_admission_threshold", "2"},
    {"promotion_queue_limit", "50000"},
    {"promotion_max_per_heartbeat", "1"},
    {"dynamic_replication_mode", "off"},
    {"enable_multi_tenants", "false"},
    {"enable_ha", "false"},
    {"ha_backend_type", "etcd"},
    {"ha_backend_connstring", ""},
    {"etcd_endpoints", ""},
    {"enable_oplog", "false"},
    {"enable_snapshot", "false"},
    {"enable_snapshot_restore", "false"},
    {"snapshot_interval_seconds", "600"},
    {"snapshot_child_timeout_seconds", "300"},
    {"snapshot_retention_count", "2"},
    {"snapshot_backup_dir", ""},
    {"snapshot_object_store_type", ""},
    {"snapshot_payload_store_type", ""},
    {"snapshot_payload_backend_type", ""},
    {"snapshot_catalog_store_type", ""},
    {"snapshot_catalog_backend_connstring", ""},
    {"snapshot_catalog_backend_type", ""},
    {"snapshot_catalog_store_connstring", ""},
    {"oplog_poll_interval_ms", "1000"},
    {"oplog_batch_max_entries", "1024"},
    {"batch_oplog_retry_timeout_sec", "180"},
    {"pod_name", ""},
    {"pod_namespace", ""},
    {"tenant_quota_connector_type", "file"},
    {"tenant_quota_connector_uri", ""},
    {"dynamic_replication_heat_window_seconds", "10"},
    {"dynamic_replication_admission_qps_threshold", "0.8"},
    {"dynamic_replication_max_memory_replicas", "2"},
    {"global_file_segment_size", "9223372036854775807"},
    {"nof_heartbeat_interval_sec", "10"},
    {"nof_heartbeat_probe_timeout_ms", "1000"},
    {"nof_heartbeat_failures_threshold", "3"},
    {"cxl_path", "/dev/dax0.0"},
    {"cxl_size", "8589934592"},
    {"kv_events_bind_endpoint", ""},
    {"kv_events_model_name", ""},
    {"kv_events_backend_id", ""},
    {"kv_events_tenant_id", "default"},
    {"kv_events_additional_salt", ""},
    {"kv_events_lora_name", ""},
    {"kv_events_block_size", "0"},
    {"kv_events_dp_rank", "0"},
    {"kv_events_emit_legacy_compat", "true"},
    {"kv_events_emit_object_key", "true"},
    {"kv_events_queue_capacity", "65536"},
    {"log_dir", ""},
    {"alsologtostderr", "false"},
    {"stderrthreshold", "2"},
    {"vmodule", ""},
    {"use_mmap_arena_allocator", "false"},
    {"mmap_arena_pool_size", "8589934592"},
    {"enable_cxl", "false"},
    {"enable_kv_events", "false"},
    {"v", "0"},
    {"logtostderr", "true"},
    {"minloglevel", "0"},
};

/* What has no effect says so, once for each time it is asked for. */
static const char *const g_without_effect[] = {"--quota_bytes=5",
                                               "--offload_cap_ratio=0.7",
                                               "--snapshot_interval_seconds=60",
                                               "--kv_events_model_name=m",
                                               "--log_dir=/var/log",
                                               "--etcd_endpoints=h:1",
                                               "--nologtostderr",
                                               "--cxl_size=1"};

static mcs_master_config_t g_config;
static unit_log_t g_log;

static int set_up(void **state)
{
    (void)state;
    unit_log_capture(&g_log);
    return mcs_config_init(&mcs_master_config_table, &g_config) == MCS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    mcs_config_fini(&mcs_master_config_table, &g_config);
    unit_log_release();
    return 0;
}

static mcs_status_t load(const char *a, const char *b)
{
    char copies[2][300];
    char name[] = "mooncake_master";
    char *argv[4] = {name, NULL, NULL, NULL};
    int argc = 1;
    for (int i = 0; i < 2; i++) {
        const char *text = i == 0 ? a : b;
        if (text != NULL) {
            snprintf(copies[i], sizeof(copies[i]), "%s", text);
            argv[argc++] = copies[i];
        }
    }
    return mcs_config_load_flags(&mcs_master_config_table, &g_config, argc, argv, NULL);
}

static void documented_flags_are_there_with_their_defaults(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_documented); i++) {
        const mcs_config_row_t *found = NULL;
        for (size_t k = 0; k < mcs_master_config_table.row_count; k++) {
            const mcs_config_row_t *row = &mcs_master_config_table.rows[k];
            if (row->name != NULL && strcmp(row->name, g_documented[i].name) == 0) {
                assert_null(found); /* once */
                found = row;
            }
        }
        if (found == NULL) {
            fail_msg("no flag %s", g_documented[i].name);
        } else {
            assert_string_equal(found->default_text, g_documented[i].default_text);
        }
    }
}

static void default_is_accepted_in_each_spelling(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_documented); i++) {
        char text[300];
        for (int form = 0; form < 2; form++) {
            snprintf(text, sizeof(text), form == 0 ? "--%s=%s" : "-%s=%s", g_documented[i].name,
                     g_documented[i].default_text);
            assert_int_equal(load(text, NULL), MCS_OK);
        }
        snprintf(text, sizeof(text), "--%s", g_documented[i].name);
        for (char *p = text + 2; *p != '\0'; p++) {
            *p = *p == '_' ? '-' : *p;
        }
        assert_int_equal(load(text, g_documented[i].default_text), MCS_OK);
    }
    assert_int_equal(g_log.lines, 0); /* a default is nothing to warn of */
    assert_int_equal(g_config.port, 50051);
    assert_int_equal(g_config.default_kv_lease_ttl, 10000);
}

static void command_lines_in_use_are_taken(void **state)
{
    (void)state;
    static const char *const lines[][2] = {{"--port", "12345"},
                                           {"--port=12345", NULL},
                                           {"-rpc_port", "0"},
                                           {"--max_threads=2", NULL},
                                           {"--cluster_id=x", NULL},
                                           {"--metrics_port=0", NULL},
                                           {"--eviction_high_watermark_ratio=0.95", NULL},
                                           {"--default_kv_lease_ttl=500ms", NULL},
                                           {"--default_kv_lease_ttl", "500"},
                                           {"--default_kv_soft_pin_ttl=30m", NULL},
                                           {"--enable_http_metadata_server", NULL},
                                           {"--enable_http_metadata_server=true", NULL},
                                           {"--enable_http_metadata_server", "true"},
                                           {"--noenable_metric_reporting", NULL},
                                           {"--enable-metric-reporting=false", NULL},
                                           {"--http_metadata_server_host=0.0.0.0", NULL},
                                           {"--client_ttl=60", NULL},
                                           {"--allow_evict_soft_pinned_objects=false", NULL}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(lines); i++) {
        if (load(lines[i][0], lines[i][1]) != MCS_OK) {
            fail_msg("refused: %s %s", lines[i][0], lines[i][1] != NULL ? lines[i][1] : "");
        }
    }
    assert_int_equal(g_config.port, 12345);
    assert_int_equal(g_config.default_kv_lease_ttl, 500);
    assert_true(g_config.enable_http_metadata_server);
    assert_false(g_config.enable_metric_reporting);
    assert_int_equal(g_config.client_ttl, 60);
}

static void values_out_of_range_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"--port=65536",
                                      "--port=-1",
                                      "--metrics_port=99999",
                                      "--eviction_ratio=1.5",
                                      "--eviction_ratio=-0.1",
                                      "--client_ttl=0",
                                      "--max_threads=0",
                                      "--rpc_thread_num=100000",
                                      "--default_kv_lease_ttl=1d",
                                      "--default_kv_lease_ttl=-5s",
                                      "--enable_ha=true",
                                      "--enable_offload",
                                      "--enable_snapshot=1",
                                      "--root_fs_dir=/mnt",
                                      "--dynamic_replication_mode=enforce",
                                      "--minloglevel=4",
                                      "--v=-1",
                                      "--nosuch=1",
                                      "extra"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        if (load(bad[i], NULL) != MCS_ERR_INVALID_PARAMS) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

static void what_has_no_effect_says_so(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_without_effect); i++) {
        unsigned before = g_log.lines;
        assert_int_equal(load(g_without_effect[i], NULL), MCS_OK);
        if (g_log.lines != before + 1) {
            fail_msg("silent: %s", g_without_effect[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(documented_flags_are_there_with_their_defaults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(default_is_accepted_in_each_spelling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(command_lines_in_use_are_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(values_out_of_range_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_no_effect_says_so, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("master flags", tests, NULL, NULL);
}
