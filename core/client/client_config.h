/* The client's knobs: one table for the documented environment of the store client and for ours. Read once at each
 * setup; afterwards constant. */
#ifndef MCS_CLIENT_CONFIG_H
#define MCS_CLIENT_CONFIG_H

#include "core/base/config.h"

typedef struct mcs_client_config {
    bool memcpy_paths; /* own and same-host replicas are copied directly */
    uint64_t setup_retries;
    uint64_t min_port;
    uint64_t max_port;
    bool use_hugepage;
    uint64_t hugepage_size;
    int64_t numa_node;
    int64_t rpc_timeout_ms; /* negative = none */
    int64_t connect_timeout_ms;
    char *metadata_cluster_id;
    char *bind_address;
    bool ipv6;
    char *log_level;
    uint64_t transfer_timeout_s;
    uint64_t transfer_floor_mbps; /* a transfer may take its bytes at this speed on top of the base */
    char *ipc_dir;
    char *ucx_lib;
    char *cluster_token;
    uint64_t fault_window;
    uint64_t view_limit;
    uint64_t lookup_cache;
    uint64_t put_session_limit;
    bool gpu;
    uint64_t gpu_pin_limit;
    uint64_t gpu_stage_chunks;
    int64_t spin_us;
    uint64_t max_workers;
    uint64_t call_connections;
    bool metric;
    uint64_t metric_interval_s; /* 0 = no lines in the log */
    bool metric_bandwidth;
    char *store_cluster_id; /* of metrics' labels */
    bool force_tcp;
    bool rdma_auto;
    char *rdma_filter;
    char *rdma_transports;
    uint64_t ib_port;
    int64_t gid_index;
    int64_t ib_tc;
    int64_t ib_sl;
    bool ignored_presence;
    char *ignored_string;
} mcs_client_config_t;

extern const mcs_config_table_t mcs_client_config_table;

/* Defaults, then the environment. Bad values warn and keep the default. Fails only for lack of memory. */
mcs_status_t mcs_client_config_load(mcs_client_config_t *config) MCS_MUST_CHECK;
void mcs_client_config_fini(mcs_client_config_t *config);

#endif
