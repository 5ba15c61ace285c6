/* See client_config.h. */
#include "core/client/client_config.h"

#include <stdio.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

#define ROW(name, env, text, kind, flags, field, min, max, doc)                                                        \
    {                                                                                                                  \
        name, env, text, MCS_CONFIG_##kind, (flags) | MCS_CONFIG_LENIENT_ENV, offsetof(mcs_client_config_t, field),    \
            min, max, doc                                                                                              \
    }

/* Without effect, whatever it says: no memory is spent on it. */
#define NONE(env, doc)                                                                                                 \
    {                                                                                                                  \
        NULL, env, "", MCS_CONFIG_PRESENCE, MCS_CONFIG_IGNORED, offsetof(mcs_client_config_t, ignored_presence), 0, 0, \
            doc                                                                                                        \
    }

static const mcs_config_row_t g_rows[] = {
    ROW("memcpy", "MC_STORE_MEMCPY", "true", BOOL, 0, memcpy_paths, 0, 0,
        "copy own and same-host replicas directly; false sends everything through the transport"),
    ROW("setup_retries", "MC_STORE_CLIENT_SETUP_RETRIES", "20", UINT, 0, setup_retries, 1, 1000,
        "ports tried when local_hostname has none"),
    ROW("min_port", "MC_STORE_CLIENT_MIN_PORT", "12300", UINT, 0, min_port, 1, 65535,
        "first port tried when local_hostname has none; 1024..65535 outside 32768..60999"),
    ROW("max_port", "MC_STORE_CLIENT_MAX_PORT", "14300", UINT, 0, max_port, 1, 65535,
        "last port tried when local_hostname has none"),
    ROW("use_hugepage", "MC_STORE_USE_HUGEPAGE", "0", PRESENCE, 0, use_hugepage, 0, 0,
        "segment in huge pages; any value, even 0, switches on"),
    ROW("hugepage_size", "MC_STORE_HUGEPAGE_SIZE", "2MB", SIZE, 0, hugepage_size, 2097152, 1073741824,
        "size of a huge page: 2MB or 1GB"),
    ROW("numa_socket_id", "MC_STORE_NUMA_SOCKET_ID", "-1", INT, 0, numa_node, -1, 1023,
        "NUMA node of the segment; -1 = any"),
    ROW("rpc_timeout_ms", "MC_RPC_TIMEOUT_MS", "30000", INT, 0, rpc_timeout_ms, 0, 0,
        "longest wait for the master's answer in ms; negative = none"),
    ROW("rpc_connect_timeout_ms", "MC_RPC_CONNECT_TIMEOUT_MS", "30000", INT, 0, connect_timeout_ms, 0, 0,
        "longest wait for a connection to the master in ms; negative = none"),
    ROW("metadata_cluster_id", "MC_METADATA_CLUSTER_ID", "", STRING, 0, metadata_cluster_id, 0, 0,
        "prefix of the keys in the metadata server"),
    ROW("bind_address", "MC_TCP_BIND_ADDRESS", "", STRING, 0, bind_address, 0, 0,
        "address that the data plane and the held port bind; empty = that of local_hostname (every interface when that "
        "is loopback and the master is not)"),
    ROW("use_ipv6", "MC_USE_IPV6", "0", PRESENCE, 0, ipv6, 0, 0, "resolve names to IPv6 addresses"),
    ROW("log_level", "MC_LOG_LEVEL", "", STRING, 0, log_level, 0, 0, "TRACE, DEBUG, INFO, WARNING, ERROR or 0 to 4"),
    ROW("transfer_timeout", "MC_TRANSFER_TIMEOUT", "5", UINT, 0, transfer_timeout_s, 1, 86400,
        "seconds a data transfer may take on top of its size"),
    ROW("transfer_floor", "MC_STORE_TRANSFER_FLOOR_MBPS", "100", UINT, 0, transfer_floor_mbps, 1, 1000000,
        "a data transfer may take its bytes at this many MB/s"),
    ROW("ipc_dir", "MC_STORE_IPC_DIR", "", STRING, 0, ipc_dir, 0, 0,
        "folder of the same-host sockets; empty = /tmp/mooncake-UID"),
    ROW("ucx_lib", "MC_STORE_UCX_LIB", "", STRING, 0, ucx_lib, 0, 0,
        "UCX to load: empty = newest found, system, or the path of libucp.so.0"),
    ROW("cluster_token", "MC_STORE_CLUSTER_TOKEN", "", STRING, MCS_CONFIG_SECRET, cluster_token, 0, 0,
        "secret that members of the cluster prove to each other; empty = none"),
    ROW("fault_window", "MC_STORE_FAULT_WINDOW", "256MB", SIZE, 0, fault_window, 0, 0,
        "segment memory kept populated ahead of use"),
    ROW("view_limit", "MC_STORE_VIEW_LIMIT", "0", SIZE, 0, view_limit, 0, 0,
        "bytes that zero-copy views may hold; 0 = half the segment that is viewed"),
    ROW("lookup_cache", "MC_STORE_LOOKUP_CACHE", "65536", UINT, 0, lookup_cache, 0, UINT64_C(1) << 24,
        "locations of objects that are remembered under their leases; 0 = none"),
    ROW("put_session_limit", "MC_STORE_PUT_SESSION_LIMIT", "1GB", SIZE, 0, put_session_limit, 0, 0,
        "bytes that values of open put sessions may hold in this process"),
    ROW("gpu", "MC_STORE_GPU", "true", BOOL, 0, gpu, 0, 0,
        "use GPU memory where the process has a CUDA driver; false = host memory only"),
    ROW("gpu_pin_limit", "MC_STORE_GPU_PIN_LIMIT", "0", SIZE, 0, gpu_pin_limit, 0, 0,
        "bytes of host memory that may be pinned for GPUs; 0 = three quarters of the machine's"),
    ROW("gpu_stage_chunks", "MC_STORE_GPU_STAGE_CHUNKS", "4", UINT, 0, gpu_stage_chunks, 2, 64,
        "pinned chunks of 16 MiB between GPU memory and the network"),
    ROW("spin_us", "MC_STORE_SPIN_US", "-1", INT, 0, spin_us, -1, 10000,
        "microseconds at most a call polls for an answer before it sleeps; -1 = by the number of CPUs"),
    ROW("max_workers", "MC_STORE_MAX_WORKERS", "3", UINT, 0, max_workers, 1, 16, "transport workers callers share"),
    ROW("call_connections", "MC_STORE_CALL_CONNECTIONS", "8", UINT, 0, call_connections, 1, 64,
        "connections to the master that calls share"),
    ROW("metric", "MC_STORE_CLIENT_METRIC", "true", BOOL, 0, metric, 0, 0, "measure calls and requests of this client"),
    ROW("metric_interval", "MC_STORE_CLIENT_METRIC_INTERVAL", "0", UINT, 0, metric_interval_s, 0, 86400,
        "seconds between summaries of the metrics in the log; 0 = none"),
    ROW("metric_bandwidth", "MC_STORE_CLIENT_METRIC_BANDWIDTH", "true", BOOL, 0, metric_bandwidth, 0, 0,
        "bandwidth lines in that summary"),
    ROW("store_cluster_id", "MC_STORE_CLUSTER_ID", "", STRING, 0, store_cluster_id, 0, 0,
        "label cluster_id of the client's metrics"),
    ROW("force_tcp", "MC_FORCE_TCP", "0", PRESENCE, 0, force_tcp, 0, 0, "protocol rdma is tcp"),
    ROW("rdma_auto_discovery", "MC_MS_AUTO_DISC", "1", BOOL, 0, rdma_auto, 0, 0,
        "protocol rdma without rdma_devices: 1 = every device that is up, TCP where there is none; 0 = an error"),
    ROW("rdma_filter", "MC_MS_FILTERS", "", STRING, 0, rdma_filter, 0, 0,
        "the only RDMA devices that are used without rdma_devices, with commas between them; empty = all"),
    ROW("rdma_transports", "MC_STORE_RDMA_TRANSPORTS", "rc", STRING, 0, rdma_transports, 0, 0,
        "UCX transports of protocol rdma, with commas between them"),
    ROW("ib_port", "MC_IB_PORT", "0", UINT, 0, ib_port, 0, 255,
        "port of RDMA devices that are named without one; 0 = the first that is up"),
    ROW("gid_index", "MC_GID_INDEX", "-1", INT, 0, gid_index, -1, 255,
        "GID of RDMA ports by number; -1 = UCX's choice"),
    ROW("ib_traffic_class", "MC_IB_TC", "-1", INT, 0, ib_tc, -1, 255, "RDMA traffic class; -1 = UCX's choice"),
    ROW("ib_service_level", "MC_IB_SL", "-1", INT, 0, ib_sl, -1, 15, "RDMA service level; -1 = UCX's choice"),
    ROW("rpc_protocol", "MC_RPC_PROTOCOL", "tcp", STRING, MCS_CONFIG_IGNORED, ignored_string, 0, 0,
        "the master is reached over TCP or a UNIX socket"),
    /* The original's, of what is not here or goes by itself: a value says that it has no effect. */
    NONE("MC_MMAP_ARENA_POOL_SIZE", "segments and buffers are files in memory of their own"),
    NONE("MC_DISABLE_MMAP_ARENA", "segments and buffers are files in memory of their own"),
    NONE("MC_STORE_LOCAL_HOT_CACHE_SIZE", "no cache of remote values in the client"),
    NONE("MC_STORE_LOCAL_HOT_BLOCK_SIZE", "no cache of remote values in the client"),
    NONE("MC_STORE_LOCAL_HOT_CACHE_USE_SHM", "no cache of remote values in the client"),
    NONE("MC_STORE_LOCAL_HOT_ADMISSION_THRESHOLD", "no cache of remote values in the client"),
    NONE("MC_STORE_REPLICA_SCORING", "own and same-host replicas first, then in the master's order"),
    NONE("MC_STORE_PIN_MEMORY_MAX_BYTES", "no restore arena"),
    NONE("MC_STORE_PINNED_RESTORE_ARENA_SIZE_BYTES", "no restore arena"),
    NONE("MOONCAKE_STORE_CHECKSUM", "every object has checksums"),
    NONE("MC_RPC_CLIENT_IO_THREADS", "calling threads do their own input and output"),
    NONE("MC_STORE_RPC_CLIENT_IO_THREADS", "calling threads do their own input and output"),
    NONE("MC_TE_RPC_CLIENT_IO_THREADS", "calling threads do their own input and output"),
    NONE("MC_CXL_DEV_SIZE", "no CXL memory"),
    NONE("MC_CXL_DEV_PATH", "no CXL memory"),
    NONE("MC_YLT_LOG_LEVEL", "use MC_LOG_LEVEL"),
    NONE("MC_FILEREAD_WORKERS", "no file tier"),
    NONE("MOONCAKE_OFFLOAD_FILE_STORAGE_PATH", "no SSD tier"),
    NONE("MOONCAKE_OFFLOAD_*", "no SSD tier"),
    NONE("MOONCAKE_AWS_*", "no object store behind the cache"),
    NONE("MOONCAKE_NVME_KV_*", "no NVMe tier"),
    NONE("MC_NVME_*", "no NVMe tier"),
    NONE("MC_NOF_*", "no NVMe-oF tier"),
    NONE("MC_USE_TENT", "another transfer engine"),
    NONE("MC_USE_TEV1", "another transfer engine"),
    NONE("MC_FORCE_HCA", "UCX decides"),
    NONE("MC_FORCE_MNNVL", "UCX decides"),
    NONE("MC_RDMA_BIND_ADDRESS", "UCX decides"),
    NONE("MC_PKEY_INDEX", "UCX decides"),
    NONE("MC_IB_PCI_RELAXED_ORDERING", "UCX decides"),
    NONE("MC_NUM_CQ_PER_CTX", "UCX decides"),
    NONE("MC_NUM_COMP_CHANNELS_PER_CTX", "UCX decides"),
    NONE("MC_MAX_CQE_PER_CTX", "UCX decides"),
    NONE("MC_MAX_EP_PER_CTX", "UCX decides"),
    NONE("MC_NUM_QP_PER_EP", "UCX decides"),
    NONE("MC_MAX_SGE", "UCX decides"),
    NONE("MC_MAX_WR", "UCX decides"),
    NONE("MC_MAX_INLINE", "UCX decides"),
    NONE("MC_MTU", "UCX decides"),
    NONE("MC_MAX_MR_SIZE", "UCX decides"),
    NONE("MC_MIN_REG_SIZE", "UCX decides"),
    NONE("MC_ENDPOINT_STORE_TYPE", "UCX decides"),
    NONE("MC_ENABLE_PARALLEL_REG_MR", "UCX decides"),
    NONE("MC_MAX_CONCURRENT_REG_MR", "UCX decides"),
    NONE("MC_ENABLE_DEST_DEVICE_AFFINITY", "UCX decides"),
    NONE("MC_ENABLE_HCA_PEER_AFFINITY", "UCX decides"),
    NONE("MC_NIC_PEER_AFFINITY", "UCX decides"),
    NONE("MC_RDMA_RAIL_PAUSE_SECONDS", "UCX decides"),
    NONE("MC_CUSTOM_TOPO_JSON", "UCX decides"),
    NONE("MC_PATH_ROUNDROBIN", "UCX decides"),
    NONE("WITH_NVIDIA_PEERMEM", "UCX decides"),
    NONE("MC_LEGACY_RPC_PORT_BINDING", "the data port is any free one"),
    NONE("MC_MIN_RPC_PORT", "the data port is any free one"),
    NONE("MC_MAX_RPC_PORT", "the data port is any free one"),
    NONE("MC_MIN_PRC_PORT", "the data port is any free one"),
    NONE("MC_MAX_PRC_PORT", "the data port is any free one"),
    NONE("MC_HANDSHAKE_PORT", "peers say hello over the data plane"),
    NONE("MC_HANDSHAKE_LISTEN_BACKLOG", "peers say hello over the data plane"),
    NONE("MC_HANDSHAKE_MAX_LENGTH", "peers say hello over the data plane"),
    NONE("MC_HANDSHAKE_CONNECT_TIMEOUT", "peers say hello over the data plane"),
    NONE("MC_DISABLE_METACACHE", "segments are known from the master"),
    NONE("MC_TE_METADATA_REFRESH_INTERVAL_SECONDS", "segments are known from the master"),
    NONE("MC_TE_FILTERS", "segments are known from the master"),
    NONE("MC_TE_METRIC", "use MC_STORE_CLIENT_METRIC_INTERVAL"),
    NONE("MC_TE_METRIC_INTERVAL_SECONDS", "use MC_STORE_CLIENT_METRIC_INTERVAL"),
    NONE("MC_LOG_DIR", "the log goes to stderr"),
    NONE("MC_REDIS_USERNAME", "no Redis metadata"),
    NONE("MC_REDIS_DB_INDEX", "no Redis metadata"),
    ROW(NULL, "MC_REDIS_PASSWORD", "", PRESENCE, MCS_CONFIG_IGNORED | MCS_CONFIG_SECRET, ignored_presence, 0, 0,
        "no Redis metadata"),
    NONE("MC_SLICE_SIZE", "UCX cuts and repeats transfers"),
    NONE("MC_SLICE_TIMEOUT", "UCX cuts and repeats transfers"),
    NONE("MC_RETRY_CNT", "UCX cuts and repeats transfers"),
    NONE("MC_FRAGMENT_RATIO", "UCX cuts and repeats transfers"),
    NONE("MC_CONN_PAUSE_TTL_MS", "UCX cuts and repeats transfers"),
    NONE("MC_TCP_SLICE_SIZE", "UCX cuts and repeats transfers"),
    NONE("MC_TCP_PROTO", "UCX cuts and repeats transfers"),
    NONE("MC_WORKERS_PER_CTX", "use MC_STORE_MAX_WORKERS"),
    NONE("MC_TCP_ENABLE_CONNECTION_POOL", "connections are kept and shared as UCX does"),
    NONE("MC_TCP_LANES_PER_PEER", "connections are kept and shared as UCX does"),
    NONE("MC_TCP_MAX_CONNECTIONS_PER_PEER", "connections are kept and shared as UCX does"),
    NONE("MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER", "connections are kept and shared as UCX does"),
    NONE("MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER", "connections are kept and shared as UCX does"),
    NONE("MC_TCP_ADMISSION_TIMEOUT_MS", "use MC_TRANSFER_TIMEOUT"),
    NONE("MC_TCP_STATUS_TIMEOUT_SEC", "use MC_TRANSFER_TIMEOUT"),
};

const mcs_config_table_t mcs_client_config_table = {"Client", g_rows, MCS_ARRAY_LEN(g_rows)};

static bool port_allowed(uint64_t port)
{
    return port >= 1024 && port <= 65535 && (port < 32768 || port > 60999);
}

/* What a single row cannot say: values that must fit each other. */
static mcs_status_t settle(mcs_client_config_t *config)
{
    if (!port_allowed(config->min_port) || !port_allowed(config->max_port) || config->min_port > config->max_port) {
        mcs_warn("config", "ports %llu..%llu: not in 1024..65535 outside 32768..60999; 12300..14300 is used",
                 (unsigned long long)config->min_port, (unsigned long long)config->max_port);
        config->min_port = 12300;
        config->max_port = 14300;
    }
    if (config->hugepage_size != 2 * MCS_MIB && config->hugepage_size != MCS_GIB) {
        mcs_warn("config", "MC_STORE_HUGEPAGE_SIZE: only 2MB and 1GB; 2MB is used");
        config->hugepage_size = 2 * MCS_MIB;
    }
    if (config->log_level[0] != '\0' && !mcs_log_set_level_name(config->log_level)) {
        mcs_warn("config", "MC_LOG_LEVEL=%.40s: not a level", config->log_level);
    }
    if (config->spin_us < 0) {
        config->spin_us = sysconf(_SC_NPROCESSORS_ONLN) >= 2 ? 50 : 0;
    }
    if (config->gpu_pin_limit == 0) {
        config->gpu_pin_limit = (uint64_t)sysconf(_SC_PHYS_PAGES) / 4 * 3 * (uint64_t)sysconf(_SC_PAGESIZE);
    }
    if (config->ipc_dir[0] == '\0') {
        char *dir = mcs_asprintf("/tmp/mooncake-%u", (unsigned)getuid());
        if (dir == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        mcs_free(config->ipc_dir);
        config->ipc_dir = dir;
    }
    return MCS_OK;
}

mcs_status_t mcs_client_config_load(mcs_client_config_t *config)
{
    mcs_status_t status = mcs_config_init(&mcs_client_config_table, config);
    if (status != MCS_OK) {
        return status;
    }
    status = mcs_config_load_env(&mcs_client_config_table, config, NULL);
    if (status == MCS_OK) {
        status = settle(config);
    }
    if (status != MCS_OK) {
        mcs_config_fini(&mcs_client_config_table, config);
    }
    return status;
}

void mcs_client_config_fini(mcs_client_config_t *config)
{
    mcs_config_fini(&mcs_client_config_table, config);
}
