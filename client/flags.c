/* The config table of mooncake_client: the original's flags, and ours. See master/flags.c for what the kinds of rows
 * mean. */
#include "client/daemon.h"

#define OFF(field) offsetof(mcs_daemon_config_t, field)
#define TEXT_ROW(name, def, field, doc)                                                                                \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_STRING, 0, OFF(field), 0, 0, doc                                                   \
    }
#define SKIP(name, def, kind_suffix, field, doc)                                                                       \
    {                                                                                                                  \
        name, NULL, def, MCS_CONFIG_##kind_suffix, MCS_CONFIG_IGNORED, OFF(field), 0, 0, doc                           \
    }

static const mcs_config_row_t rows[] = {
    TEXT_ROW("config_path", "", config_path, "JSON or YAML file with keys named like the flags; flags win over it"),
    TEXT_ROW("host", "0.0.0.0", host, "address that port and http_port bind; names the segment unless it is every one"),
    {"port", NULL, "50052", MCS_CONFIG_UINT, 0, OFF(port), 0, 65535,
     "health, metrics and log level over HTTP; the number by which setup_dummy finds this process; 0: any free port"},
    TEXT_ROW("local_hostname", "", local_hostname,
             "name of the segment, with or without a port; \"\": from host, or an address of this machine"),
    {"global_segment_size", NULL, "4 GB", MCS_CONFIG_SIZE, 0, OFF(global_segment_size), 0, 0,
     "memory lent to the cluster"},
    {"local_buffer_size", NULL, "0", MCS_CONFIG_SIZE, 0, OFF(local_buffer_size), 0, 0,
     "memory for transfers of this process itself, which makes none"},
    TEXT_ROW("master_server_address", "127.0.0.1:50051", master_server_address, "host:port or unix:/path"),
    TEXT_ROW("metadata_server", "http://127.0.0.1:8080/metadata", metadata_server, "URL, or P2PHANDSHAKE for none"),
    TEXT_ROW("protocol", "tcp", protocol, "tcp"),
    TEXT_ROW("device_names", "", device_names, "RDMA devices; ignored with a warning for tcp"),
    TEXT_ROW("tenant_id", "default", tenant_id, "accepted; the master has no tenants"),
    {"enable_http_server", NULL, "false", MCS_CONFIG_BOOL, 0, OFF(enable_http_server), 0, 0,
     "serve health and metrics at http_port too"},
    {"http_port", NULL, "9300", MCS_CONFIG_UINT, 0, OFF(http_port), 0, 65535, "port of that server; 0: any free port"},
    {"log_level", "MC_LOG_LEVEL", "INFO", MCS_CONFIG_STRING, 0, OFF(log_level), 0, 0,
     "TRACE, DEBUG, INFO, WARNING or ERROR; changed at run time by SIGUSR1 (more), SIGUSR2 (less), PUT /log_level"},
    {"enable_offload", NULL, "false", MCS_CONFIG_BOOL, MCS_CONFIG_UNSUPPORTED, OFF(unsupported_bool), 0, 0,
     "SSD offload tier"},
    SKIP("start_offload_rpc_server", "true", BOOL, ignored_bool, "no SSD tier"),
    SKIP("threads", "1", UINT, ignored_uint, "requests are served by the data plane's own thread"),
    /* glog's flags, which launch scripts pass. */
    SKIP("logtostderr", "true", BOOL, ignored_bool, "the log always goes to stderr"),
    SKIP("minloglevel", "0", INT, ignored_int, "use log_level"),
    SKIP("v", "0", INT, ignored_int, "use log_level"),
#include "core/base/glog_flags.def"
    SKIP("use_mmap_arena_allocator", "false", BOOL, ignored_bool, "segments are memory files"),
    SKIP("mmap_arena_pool_size", "8589934592", UINT, ignored_uint, "segments are memory files"),
};

const mcs_config_table_t mcs_daemon_config_table = {
    .title = "mooncake_client",
    .rows = rows,
    .row_count = MCS_ARRAY_LEN(rows),
};
