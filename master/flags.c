/* The master's config table: every documented flag, its file key, default and bounds. `--help` and
 * docs/configuration.md print from it.
 *
 * Flags that a memory-only build cannot honour are kept as UNSUPPORTED rows: their default is accepted, anything else
 * is an error that says so. IGNORED rows change nothing by design (another mechanism does their job); the doc says
 * which. */
#include "master/master.h"

#define OFF(field) offsetof(mcs_master_config_t, field)
#define BOOL_ROW(name, def, field, doc)                                                                                \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_BOOL, 0, OFF(field), 0, 0, doc                                                     \
    }
#define UINT_ROW(name, def, field, lo, hi, doc)                                                                        \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_UINT, 0, OFF(field), lo, hi, doc                                                   \
    }
#define STRING_ROW(name, def, field, doc)                                                                              \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_STRING, 0, OFF(field), 0, 0, doc                                                   \
    }
#define DURATION_ROW(name, def, field, lo, hi, doc)                                                                    \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_DURATION, 0, OFF(field), lo, hi, doc                                               \
    }
#define RATIO_ROW(name, def, field, doc)                                                                               \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_DOUBLE, 0, OFF(field), 0, 1, doc                                                   \
    }
#define NO_BOOL(name, doc)                                                                                             \
    {                                                                                                                  \
        name, NULL, "false", MCS_CONFIG_BOOL, MCS_CONFIG_UNSUPPORTED, OFF(unsupported_bool), 0, 0, doc                 \
    }
#define NO_STRING(name, def, doc)                                                                                      \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_STRING, MCS_CONFIG_UNSUPPORTED, OFF(unsupported_string), 0, 0, doc                 \
    }
#define SKIP(name, def, kind_suffix, field, doc)                                                                       \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_##kind_suffix, MCS_CONFIG_IGNORED, OFF(field), 0, 0, doc                           \
    }

#define SKIP_ENV(name, env, def, kind_suffix, field, doc)                                                              \
    {                                                                                                                  \
        name, env, def, MCS_CONFIG_##kind_suffix, MCS_CONFIG_IGNORED, OFF(field), 0, 0, doc                            \
    }
#define SKIP_DFS(env)                                                                                                  \
    {                                                                                                                  \
        NULL, env, "", MCS_CONFIG_PRESENCE, MCS_CONFIG_IGNORED, OFF(ignored_bool), 0, 0,                               \
            "no tier on a distributed file system"                                                                     \
    }

static const mcs_config_row_t rows[] = {
    STRING_ROW("config_path", "", config_path, "JSON or YAML file with keys named like the flags; flags win over it"),
    UINT_ROW("port", "50051", port, 0, 65535, "RPC port (older spelling of rpc_port)"),
    UINT_ROW("rpc_port", "0", rpc_port, 0, 65535, "RPC port; 0: the value of port"),
    UINT_ROW("max_threads", "16", max_threads, 1, 256, "upper bound of RPC threads (older spelling)"),
    UINT_ROW("rpc_thread_num", "0", rpc_thread_num, 0, 256, "RPC event loops; 0: min(max_threads, cores)"),
    STRING_ROW("rpc_address", "0.0.0.0", rpc_address, "address the RPC server binds"),
    STRING_ROW("rpc_interface", "", rpc_interface, "bind the IPv4 address of this interface instead"),
    UINT_ROW("rpc_conn_timeout_seconds", "0", rpc_conn_timeout_seconds, 0, 86400,
             "close an RPC connection idle this long; 0: never"),
    BOOL_ROW("rpc_enable_tcp_no_delay", "true", rpc_enable_tcp_no_delay, "TCP_NODELAY on RPC connections"),
    {"ipc_dir", "MC_STORE_IPC_DIR", "", MCS_CONFIG_STRING, 0, OFF(ipc_dir), 0, 0,
     "folder of the UNIX socket for clients of this host; \"\": /tmp/mooncake-UID; \"none\": no socket"},
    {"cluster_token", "MC_STORE_CLUSTER_TOKEN", "", MCS_CONFIG_STRING, MCS_CONFIG_SECRET, OFF(cluster_token), 0, 0,
     "shared secret that every client must prove; \"\": no authentication"},
    {"cluster_id", "MC_METADATA_CLUSTER_ID", "mooncake_cluster", MCS_CONFIG_STRING, 0, OFF(cluster_id), 0, 0,
     "name of the cluster in metadata keys and labels"},
    BOOL_ROW("enable_metric_reporting", "true", enable_metric_reporting, "log the metrics summary every 10 s"),
    UINT_ROW("metrics_port", "9003", metrics_port, 0, 65535, "port of the admin HTTP server; 0: any free port"),
    STRING_ROW("metrics_host", "0.0.0.0", metrics_host, "address of the admin HTTP server"),
    {"admin_token", "MC_STORE_ADMIN_TOKEN", "", MCS_CONFIG_STRING, MCS_CONFIG_SECRET, OFF(admin_token), 0, 0,
     "secret that requests to the admin server must show (Authorization: Bearer ...), all but /, /health, /ready and "
     "/version; \"\": none"},
    STRING_ROW("http_tls_cert", "", http_tls_cert,
               "PEM file with the certificate chain of the HTTP servers: they speak HTTPS alone; \"\": HTTP"),
    STRING_ROW("http_tls_key", "", http_tls_key, "PEM file with the private key of that certificate"),
    BOOL_ROW("enable_http_metadata_server", "false", enable_http_metadata_server,
             "serve the transfer metadata at /metadata"),
    UINT_ROW("http_metadata_server_port", "8080", http_metadata_server_port, 0, 65535, "port of the metadata server"),
    STRING_ROW("http_metadata_server_host", "0.0.0.0", http_metadata_server_host, "address of the metadata server"),
    BOOL_ROW("enable_metadata_cleanup_on_timeout", "false", enable_metadata_cleanup_on_timeout,
             "delete the ram/ and rpc_meta/ records of clients that died: from this master's metadata server, or from "
             "the one that MOONCAKE_TE_META_DATA_SERVER names"),
    {NULL, "MOONCAKE_TE_META_DATA_SERVER", "", MCS_CONFIG_STRING, 0, OFF(metadata_server_url), 0, 0,
     "http://HOST:PORT/metadata of another process, for enable_metadata_cleanup_on_timeout"},
    {NULL, "MOONCAKE_CONFIG_PATH", "", MCS_CONFIG_STRING, 0, OFF(engine_config_path), 0, 0,
     "JSON file of the engines; its metadata_server is taken when that variable is not set"},
    DURATION_ROW("default_kv_lease_ttl", "10000", default_kv_lease_ttl, 0, 86400000.0,
                 "lease that a read or exist grants (ms; also 5s, 30m, 1h)"),
    DURATION_ROW("default_kv_soft_pin_ttl", "1800000", default_kv_soft_pin_ttl, 0, 86400000.0 * 365,
                 "soft pin without a TTL of its own (ms; also 5s, 30m, 1h)"),
    DURATION_ROW("max_kv_soft_pin_ttl", "86400000", max_kv_soft_pin_ttl, 0, 86400000.0 * 365,
                 "longest soft pin that a put may ask for (ms; also 5s, 30m, 1h)"),
    BOOL_ROW("allow_evict_soft_pinned_objects", "true", allow_evict_soft_pinned_objects,
             "evict soft-pinned objects when nothing else is left"),
    RATIO_ROW(
        "eviction_ratio", "0.05", eviction_ratio,
        "share of the objects that an eviction round frees; 0: only the watermark evicts, not a put without room"),
    RATIO_ROW("eviction_high_watermark_ratio", "0.90", eviction_high_watermark_ratio,
              "used / capacity above which eviction runs"),
    DURATION_ROW("eviction_wait_ms", "50", eviction_wait_ms, 0, 10000,
                 "a put that finds no space waits this long for eviction before -200; 0: not at all (ms)"),
    STRING_ROW("eviction_policy", "adaptive", eviction_policy,
               "adaptive (LRU that protects what was used often as far as that hits more) or lru"),
    UINT_ROW("client_ttl", "10", client_ttl, 1, 86400, "a client silent this long is dropped (s)"),
    {"client_live_ttl_sec", NULL, "10", MCS_CONFIG_UINT, MCS_CONFIG_ALIAS, OFF(client_ttl), 1, 86400,
     "the config file's name of client_ttl (s)"},
    {"client_active_ttl_sec", NULL, "10", MCS_CONFIG_UINT, MCS_CONFIG_ALIAS, OFF(client_ttl), 1, 86400,
     "the newer files' name of client_ttl (s)"},
    SKIP("client_suspicion_ttl_sec", "60", UINT, ignored_uint,
         "an owner is suspect while its connection is lost, and dropped after client_ttl"),
    UINT_ROW("put_start_discard_timeout_sec", "30", put_start_discard_timeout_sec, 1, 86400,
             "an unfinished put may be pre-empted after this time (s)"),
    UINT_ROW("put_start_release_timeout_sec", "600", put_start_release_timeout_sec, 1, 86400 * 7,
             "an unfinished put is discarded after this time at the latest; must exceed the discard timeout (s)"),
    UINT_ROW("max_total_pending_tasks", "10000", max_total_pending_tasks, 1, 1000000,
             "most copy and move tasks that wait; more are refused with -1401"),
    UINT_ROW("max_total_processing_tasks", "10000", max_total_processing_tasks, 1, 1000000,
             "most copy and move tasks under way; more wait"),
    UINT_ROW("max_total_finished_tasks", "10000", max_total_finished_tasks, 0, 1000000,
             "finished tasks that query_task still knows, the last ones"),
    UINT_ROW("pending_task_timeout_sec", "300", pending_task_timeout_sec, 1, 86400 * 7,
             "a task that has waited this long fails (s)"),
    UINT_ROW("processing_task_timeout_sec", "300", processing_task_timeout_sec, 1, 86400 * 7,
             "a task under way for this long is taken from its executor (s)"),
    UINT_ROW("max_retry_attempts", "10", max_retry_attempts, 0, 1000,
             "tries of a task after its first, and passes of a drain job that move nothing, before it fails"),
    DURATION_ROW("lease_guard_ms", "20", lease_guard_ms, 0, 10000,
                 "added to a lease before its memory is asked back (ms)"),
    STRING_ROW("memory_allocator", "offset", memory_allocator,
               "offset or cachelib: both select the extent allocator of this build"),
    STRING_ROW("allocation_strategy", "random", allocation_strategy, "random, free_ratio_first or local_first"),
    UINT_ROW("max_objects", "0", max_objects, 0, 1e12, "most objects the index takes; 0: as memory allows"),
    UINT_ROW("max_clients", "4096", max_clients, 1, 65536, "most client sessions"),
    STRING_ROW("journal", "auto", journal,
               "keep the index in journal_dir, so that a restarted master still has it: on, off, or auto: on when "
               "journal_dir is given"),
    STRING_ROW("journal_dir", "", journal_dir, "folder of the journal, of this master alone"),
    BOOL_ROW("journal_sync", "false", journal_sync,
             "answers wait for the disk: the journal counts after a reboot of the host, too; false: only after the end "
             "of the process, however it ends, and a reboot after a clean stop"),
    UINT_ROW("journal_max_mb", "16384", journal_max_mb, 0, 1e9,
             "a journal that would grow beyond this (MiB) counts as a full disk; 0: no limit"),
    STRING_ROW("journal_on_error", "stop", journal_on_error,
               "when the journal cannot be written (full disk, folder not usable): stop, or continue without it"),
    STRING_ROW("log_level", "INFO", log_level,
               "TRACE, DEBUG, INFO, WARNING or ERROR; PUT /api/v1/log_level changes it at run time"),
    /* glog's flags, which launch scripts pass. */
    {"minloglevel", "GLOG_minloglevel", "0", MCS_CONFIG_INT, MCS_CONFIG_LENIENT_ENV, OFF(minloglevel), 0, 3,
     "glog's name of log_level: 0 INFO, 1 WARNING, 2 and 3 ERROR"},
    {"v", "GLOG_v", "0", MCS_CONFIG_INT, MCS_CONFIG_LENIENT_ENV, OFF(verbosity), 0, 99,
     "glog's verbosity: 1 and 2 DEBUG, more TRACE"},
    SKIP_ENV("logtostderr", "GLOG_logtostderr", "true", BOOL, ignored_bool, "the log always goes to stderr"),
#include "core/base/glog_flags.def"
    SKIP("use_mmap_arena_allocator", "false", BOOL, ignored_bool, "the master holds no segments"),
    SKIP("mmap_arena_pool_size", "8589934592", UINT, ignored_uint, "the master holds no segments"),
    /* Other tiers and services of the original. What switches one on is refused; what only tunes one that is off has no
     * effect there either, and says so. */
    NO_BOOL("enable_ha", "high availability through etcd, Redis or Kubernetes"),
    SKIP("ha_backend_type", "etcd", STRING, ignored_string, "no high availability backend"),
    SKIP("ha_backend_connstring", "", STRING, ignored_string, "no high availability backend"),
    SKIP("etcd_endpoints", "", STRING, ignored_string, "no high availability backend"),
    SKIP_ENV("pod_name", "POD_NAME", "", STRING, ignored_string, "no high availability backend"),
    SKIP_ENV("pod_namespace", "POD_NAMESPACE", "", STRING, ignored_string, "no high availability backend"),
    NO_BOOL("enable_oplog", "operation log for hot standby"),
    NO_BOOL("enable_oplog_snapshot", "snapshots of the operation log"),
    SKIP("snapshot_chunk_object_count", "1000000", UINT, ignored_uint, "no operation log"),
    SKIP("weight_management_oplog_capability_confirmed", "false", BOOL, ignored_bool, "no operation log"),
    SKIP("oplog_poll_interval_ms", "1000", UINT, ignored_uint, "no operation log"),
    SKIP("oplog_batch_max_entries", "1024", UINT, ignored_uint, "no operation log"),
    SKIP("batch_oplog_retry_timeout_sec", "180", UINT, ignored_uint, "no operation log"),
    NO_BOOL("enable_snapshot", "periodic snapshots to an object store"),
    NO_BOOL("enable_snapshot_restore", "restore from a snapshot"),
    SKIP("snapshot_interval_seconds", "600", UINT, ignored_uint, "no snapshots"),
    SKIP("snapshot_child_timeout_seconds", "300", UINT, ignored_uint, "no snapshots"),
    SKIP("snapshot_retention_count", "2", UINT, ignored_uint, "no snapshots"),
    SKIP("snapshot_backup_dir", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_object_store_type", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_payload_store_type", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_payload_backend_type", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_catalog_store_type", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_catalog_backend_connstring", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_catalog_backend_type", "", STRING, ignored_string, "no snapshots"),
    SKIP("snapshot_catalog_store_connstring", "", STRING, ignored_string, "no snapshots"),
    NO_BOOL("enable_offload", "SSD offload tier"),
    NO_BOOL("offload_on_evict", "SSD offload at eviction"),
    NO_BOOL("offload_force_evict", "SSD offload at eviction"),
    SKIP("offloading_queue_limit", "50000", UINT, ignored_uint, "no SSD tier"),
    SKIP("offload_cap_ratio", "0.5", DOUBLE, ignored_double, "no SSD tier"),
    NO_BOOL("promotion_on_hit", "promotion from the SSD tier"),
    SKIP("promotion_admission_threshold", "2", UINT, ignored_uint, "no SSD tier"),
    SKIP("promotion_queue_limit", "50000", UINT, ignored_uint, "no SSD tier"),
    SKIP("promotion_max_per_heartbeat", "1", UINT, ignored_uint, "no SSD tier"),
    NO_STRING("dynamic_replication_mode", "off", "replication by heat: replicas are made as the put asks"),
    SKIP("dynamic_replication_heat_window_seconds", "10", UINT, ignored_uint, "no replication by heat"),
    SKIP("dynamic_replication_admission_qps_threshold", "0.8", DOUBLE, ignored_double, "no replication by heat"),
    SKIP("dynamic_replication_max_memory_replicas", "2", UINT, ignored_uint, "no replication by heat"),
    NO_BOOL("enable_multi_tenants", "tenants with quotas"),
    SKIP("tenant_quota_connector_type", "file", STRING, ignored_string, "no tenants"),
    SKIP("tenant_quota_connector_uri", "", STRING, ignored_string, "no tenants"),
    SKIP("tenant_eviction_high_watermark_ratio", "0.9", DOUBLE, ignored_double, "no tenants"),
    NO_BOOL("enable_cxl", "CXL memory"),
    SKIP("cxl_path", "/dev/dax0.0", STRING, ignored_string, "no CXL memory"),
    SKIP("cxl_size", "8589934592", UINT, ignored_uint, "no CXL memory"),
    NO_BOOL("enable_kv_events", "ZMQ event publisher"),
    SKIP("kv_events_bind_endpoint", "", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_model_name", "", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_backend_id", "", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_tenant_id", "default", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_additional_salt", "", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_lora_name", "", STRING, ignored_string, "no event publisher"),
    SKIP("kv_events_block_size", "0", UINT, ignored_uint, "no event publisher"),
    SKIP("kv_events_dp_rank", "0", UINT, ignored_uint, "no event publisher"),
    SKIP("kv_events_emit_legacy_compat", "true", BOOL, ignored_bool, "no event publisher"),
    SKIP("kv_events_emit_object_key", "true", BOOL, ignored_bool, "no event publisher"),
    SKIP("kv_events_queue_capacity", "65536", UINT, ignored_uint, "no event publisher"),
    NO_STRING("root_fs_dir", "", "file tier: memory replicas only"),
    SKIP("enable_disk_eviction", "true", BOOL, ignored_bool, "no file tier"),
    SKIP("quota_bytes", "0", UINT, ignored_uint, "no file tier"),
    SKIP("global_file_segment_size", "9223372036854775807", UINT, ignored_uint, "no file tier"),
    SKIP("nof_eviction_ratio", "0.05", DOUBLE, ignored_double, "no NVMe-oF tier"),
    SKIP("nof_eviction_high_watermark_ratio", "0.90", DOUBLE, ignored_double, "no NVMe-oF tier"),
    SKIP("nof_heartbeat_interval_sec", "10", UINT, ignored_uint, "no NVMe-oF tier"),
    SKIP("nof_heartbeat_probe_timeout_ms", "1000", UINT, ignored_uint, "no NVMe-oF tier"),
    SKIP("nof_heartbeat_failures_threshold", "3", UINT, ignored_uint, "no NVMe-oF tier"),
    /* The original's environment beside the flags. */
    {NULL, "MOONCAKE_ENABLE_DFS", "false", MCS_CONFIG_BOOL, MCS_CONFIG_UNSUPPORTED, OFF(unsupported_bool), 0, 0,
     "tier on a distributed file system"},
    {NULL, "MOONCAKE_DFS_ENABLED", "false", MCS_CONFIG_BOOL, MCS_CONFIG_UNSUPPORTED, OFF(unsupported_bool), 0, 0,
     "tier on a distributed file system"},
    SKIP_DFS("MOONCAKE_DFS_ROOT_DIR"),
    SKIP_DFS("MOONCAKE_DFS_FS_ADAPTER"),
    SKIP_DFS("MOONCAKE_DFS_SHARD_COUNT"),
    SKIP_DFS("MOONCAKE_DFS_SHARD_CAPACITY"),
    SKIP_DFS("MOONCAKE_DFS_ALIGNMENT"),
    SKIP_DFS("MOONCAKE_DFS_SINGLE_TENANT"),
    SKIP_DFS("MOONCAKE_DFS_EVICTION_ENABLED"),
    SKIP_DFS("MOONCAKE_DFS_EVICTION_HIGH_WATERMARK"),
    SKIP_DFS("MOONCAKE_DFS_EVICTION_LOW_WATERMARK"),
    SKIP_DFS("MOONCAKE_DFS_DEFERRED_FREE_SECONDS"),
    SKIP_DFS("MOONCAKE_DFS_EVICTION_CHECK_INTERVAL"),
    {NULL, "MOONCAKE_SNAPSHOT_LOCAL_PATH", "", MCS_CONFIG_PRESENCE, MCS_CONFIG_IGNORED, OFF(ignored_bool), 0, 0,
     "no snapshots"},
    {NULL, "MC_RPC_PROTOCOL", "tcp", MCS_CONFIG_STRING, MCS_CONFIG_IGNORED, OFF(ignored_string), 0, 0,
     "clients reach the master over TCP or a UNIX socket"},
};

const mcs_config_table_t mcs_master_config_table = {
    .title = "mooncake_master",
    .rows = rows,
    .row_count = MCS_ARRAY_LEN(rows),
};
