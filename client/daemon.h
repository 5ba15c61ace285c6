/* mooncake_client: a process that lends memory to the cluster and does nothing else, so that what is stored outlives
 * the engines that stored it.
 *
 *   main.c       configuration, signals, exit codes
 *   flags.c      the config table
 *   local_name.c the name of the segment when --host is every interface
 *   status.c     health, metrics and the log level over HTTP
 *
 * Everything else is the client library (a store with a segment) and core/client/borrow.h (stores of this host that
 * were set up by setup_dummy ask this process for the master's address). */
#ifndef MCS_CLIENT_DAEMON_H
#define MCS_CLIENT_DAEMON_H

#include "core/base/config.h"
#include "core/ops/http.h"
#include "mcstore/mcstore.h"

typedef struct mcs_daemon_config {
    char *config_path;
    char *host;
    uint64_t port;
    char *local_hostname;
    uint64_t global_segment_size;
    uint64_t local_buffer_size;
    char *master_server_address;
    char *metadata_server;
    char *protocol;
    char *device_names;
    char *tenant_id;
    bool enable_http_server;
    uint64_t http_port;
    char *log_level;
    bool unsupported_bool;
    bool ignored_bool;
    uint64_t ignored_uint;
    int64_t ignored_int;
    char *ignored_string;
} mcs_daemon_config_t;

extern const mcs_config_table_t mcs_daemon_config_table;

/* What the segment is named after: local_hostname; else host; and when that is every interface, the first address of
 * this machine that others can reach ("127.0.0.1" when it has none). Cut to `size`. */
void mcs_daemon_local_name(const mcs_daemon_config_t *config, char *name, size_t size);

/* HTTP on one or two ports: --port always, --http_port when asked for. Threads of its own; `config` outlives it. One a
 * process. */
typedef struct mcs_daemon_status mcs_daemon_status_t;
/* The part of a client that shows its pages there (mcs_parts_t.http): a store that is set up with http_server. */
extern const mcs_client_http_ops_t mcs_daemon_http_ops;
/* Binds and serves; "not_initialized" until that store is set up. MCS_ERR_INVALID_PARAMS: a port is in use; logged. */
mcs_status_t mcs_daemon_status_start(const mcs_daemon_config_t *config, mcs_daemon_status_t **status_out)
    MCS_MUST_CHECK;
/* For the summary; once. */
void mcs_daemon_status_set_segment(mcs_daemon_status_t *status, const char *name);
uint16_t mcs_daemon_status_port(const mcs_daemon_status_t *status);
void mcs_daemon_status_stop(mcs_daemon_status_t *status); /* NULL is fine */

#endif
