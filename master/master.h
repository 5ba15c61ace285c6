/* The master as a library: what master/main.c runs as a daemon and what `master_server_addr="embedded"` runs inside a
 * client.
 *
 * Threads: `rpc_thread_num` event loops (libuv), one housekeeping thread (liveness, deadlines, releases, eviction),
 * libmicrohttpd's own. No signal handlers, no process-wide state: several masters may live in one process (tests do
 * that). */
#ifndef MCS_MASTER_MASTER_H
#define MCS_MASTER_MASTER_H

#include "core/base/config.h"
#include "core/base/status.h"

typedef struct mcs_master mcs_master_t;

/* Filled by the config table of master/flags.c: one field per documented flag (reference names). Zero it first: the
 * fields without a flag (rpc_ephemeral, rpc_no_tcp, http_off, journal_failed, epoch_floor) are not the table's. */
typedef struct mcs_master_config {
    /* RPC */
    char *config_path;
    uint64_t port;      /* deprecated spelling of rpc_port */
    uint64_t rpc_port;  /* 0: `port` */
    bool rpc_ephemeral; /* embedded and tests: any free port, see mcs_master_rpc_port */
    bool rpc_no_tcp;    /* embedded without a port: the UNIX socket alone */
    uint64_t max_threads;
    uint64_t rpc_thread_num; /* 0: min(max_threads, cores) */
    char *rpc_address;
    char *rpc_interface;
    uint64_t rpc_conn_timeout_seconds;
    bool rpc_enable_tcp_no_delay;
    char *ipc_dir;       /* folder of the UNIX socket; "" = /tmp/mooncake-<uid>, "none" = no socket */
    char *cluster_token; /* "" = no authentication */
    char *cluster_id;
    /* HTTP */
    bool enable_metric_reporting;
    uint64_t metrics_port;
    char *metrics_host;
    char *admin_token;   /* "" = no authentication */
    char *http_tls_cert; /* files; "" = no TLS */
    char *http_tls_key;
    bool enable_http_metadata_server;
    uint64_t http_metadata_server_port;
    char *http_metadata_server_host;
    bool enable_metadata_cleanup_on_timeout;
    char *metadata_server_url; /* of another process, to clean up; "" = that of engine_config_path */
    char *engine_config_path;
    bool http_off; /* embedded: no HTTP server at all */
    /* objects */
    uint64_t default_kv_lease_ttl;    /* ms */
    uint64_t default_kv_soft_pin_ttl; /* ms */
    uint64_t max_kv_soft_pin_ttl;     /* ms */
    bool allow_evict_soft_pinned_objects;
    double eviction_ratio;
    double eviction_high_watermark_ratio;
    uint64_t eviction_wait_ms; /* a put that finds no space waits this long for eviction; 0 = not at all */
    char *eviction_policy;     /* "adaptive" or "lru" */
    uint64_t client_ttl;       /* seconds */
    uint64_t put_start_discard_timeout_sec;
    uint64_t put_start_release_timeout_sec;
    uint64_t max_total_pending_tasks;
    uint64_t max_total_processing_tasks;
    uint64_t max_total_finished_tasks; /* kept for query_task */
    uint64_t pending_task_timeout_sec;
    uint64_t processing_task_timeout_sec;
    uint64_t max_retry_attempts; /* of a task; passes of a drain job that move nothing */
    uint64_t lease_guard_ms;     /* added to a lease before its extent is asked back */
    char *memory_allocator;
    char *allocation_strategy;
    uint64_t max_objects; /* 0 = no limit */
    uint64_t max_clients;
    char *journal;     /* on, off, auto */
    char *journal_dir; /* "" = none */
    bool journal_sync;
    uint64_t journal_max_mb;
    char *journal_on_error; /* stop, continue */
    /* "stop": ends the process at once, from any thread, with locks held: whatever was answered is in the journal.
     * NULL: as with "continue". */
    void (*journal_failed)(void);
    char *log_level;     /* the daemon's; mcs_master_start leaves the level alone */
    int64_t minloglevel; /* glog's names of it, the daemon's too */
    int64_t verbosity;
    uint64_t epoch_floor; /* the lowest epoch to take, persisted + 1; 0 = none */
    /* where rows without effect land */
    bool unsupported_bool;
    char *unsupported_string;
    bool ignored_bool;
    int64_t ignored_int;
    uint64_t ignored_uint;
    double ignored_double;
    char *ignored_string;
} mcs_master_config_t;

extern const mcs_config_table_t mcs_master_config_table;

/* Starts everything; when it returns OK the ports are bound and serving. On failure (a port in use, a bad address)
 * nothing is left and the log says which. The config is copied. */
mcs_status_t mcs_master_start(const mcs_master_config_t *config, mcs_master_t **master_out) MCS_MUST_CHECK;
/* Closes the ports, ends connections, joins the threads, frees. Within 5 s. NULL is fine. */
void mcs_master_stop(mcs_master_t *master);
/* The bound port of the RPC server (0 without TCP) and the path of its UNIX socket ("" = none). */
uint16_t mcs_master_rpc_port(const mcs_master_t *master);
const char *mcs_master_unix_path(const mcs_master_t *master);
/* 0: not served. */
uint16_t mcs_master_metrics_port(const mcs_master_t *master);
uint16_t mcs_master_metadata_port(const mcs_master_t *master);

#endif
