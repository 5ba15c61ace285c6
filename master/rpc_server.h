/* The RPC server: N event loops on N threads, a TCP and a UNIX listener, framed requests (core/wire/frame.h).
 *
 *   listeners -> loop 0 accepts -> the loop with the fewest connections (bounded inbox + wake-up) -> frames ->
 * ops->frame()
 *
 * Each connection belongs to one loop for its life: reading, framing and the handler run on that loop's thread, so
 * requests of one connection are handled in their order. Replies and notices may be sent from any thread. Everything is
 * bounded (rule 8): a payload by the frame limits (the hello's before the hello), the bytes waiting to be written by a
 * high mark that stops reading and a hard cap that closes, connections by a maximum, silence before the hello by 5 s
 * and half a frame by 30 s. A breach of the protocol closes the one connection and is logged at a limited rate (rule
 * 10).
 *
 * Life cycle: create (binds) -> start (threads) -> stop (closes every connection, joins) -> destroy. Handlers never
 * block. */
#ifndef MCS_MASTER_RPC_SERVER_H
#define MCS_MASTER_RPC_SERVER_H

#include "core/base/buf.h"
#include "core/wire/frame.h"
#include "master/metrics.h"

typedef struct mcs_rpc_server mcs_rpc_server_t;
typedef struct mcs_rpc_conn mcs_rpc_conn_t;

/* Bytes waiting for a slow reader: above the high mark its requests are not read any more, above the cap it is closed.
 */
#define MCS_RPC_OUT_HIGH              ((size_t)4 << 20)
#define MCS_RPC_OUT_MAX               ((size_t)64 << 20)
#define MCS_RPC_HELLO_TIMEOUT_NS      (5 * UINT64_C(1000000000))
#define MCS_RPC_HALF_FRAME_TIMEOUT_NS (30 * UINT64_C(1000000000))

typedef struct mcs_rpc_ops {
    /* A whole frame, on the connection's loop thread; `payload` is valid during the call. A status other than OK closes
     * the connection. */
    mcs_status_t (*frame)(void *arg, mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const uint8_t *payload);
    /* Once per connection, on its loop thread, after its last frame. */
    void (*closed)(void *arg, mcs_rpc_conn_t *conn);
    /* Once per loop thread, before it ends. */
    void (*thread_end)(void *arg);
    void *arg;
} mcs_rpc_ops_t;

typedef struct mcs_rpc_config {
    const char *address;   /* IP literal or host name; ignored without tcp */
    const char *interface; /* "" or the interface whose first IPv4 address is bound instead */
    uint16_t port;         /* 0: any free one */
    bool tcp;
    bool tcp_nodelay;
    const char *ipc_dir; /* "" = no UNIX socket */
    uint32_t threads;
    uint32_t max_connections;
    uint64_t idle_timeout_ns; /* 0 = none */
    mcs_metrics_t *metrics;
    mcs_rpc_ops_t ops;
} mcs_rpc_config_t;

/* Binds the listeners. MCS_ERR_INVALID_PARAMS: bad address, port in use, folder not usable; the log says which. */
mcs_status_t mcs_rpc_server_create(const mcs_rpc_config_t *config, mcs_rpc_server_t **server_out) MCS_MUST_CHECK;
mcs_status_t mcs_rpc_server_start(mcs_rpc_server_t *server) MCS_MUST_CHECK;
/* Closes listeners and connections, joins the threads. Idempotent. */
void mcs_rpc_server_stop(mcs_rpc_server_t *server);
/* After stop, and after the last foreign reference to a connection is gone. NULL is fine. */
void mcs_rpc_server_destroy(mcs_rpc_server_t *server);
uint16_t mcs_rpc_server_port(const mcs_rpc_server_t *server);
const char *mcs_rpc_server_unix_path(const mcs_rpc_server_t *server);
uint32_t mcs_rpc_server_connections(const mcs_rpc_server_t *server);

/* Rule 9, one caller thread: begin asks every loop for a full poll of its sockets that starts after this call; done
 * tells whether all have finished it. */
void mcs_rpc_server_poll_begin(mcs_rpc_server_t *server);
bool mcs_rpc_server_poll_done(const mcs_rpc_server_t *server);

/* References keep the memory, not the socket. Thread-safe. */
void mcs_rpc_conn_get(mcs_rpc_conn_t *conn);
void mcs_rpc_conn_put(mcs_rpc_conn_t *conn);
/* Queues a frame; header->length is set from `len`. Thread-safe, never blocks. MCS_ERR_CLOSED when the connection is
 * gone; a connection over its hard cap, or out of memory for its queue, is closed: MCS_ERR_LIMIT, MCS_ERR_NO_MEMORY. */
mcs_status_t mcs_rpc_conn_send(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const void *payload, size_t len);
/* Closes soon, from any thread; what is queued is tried first. */
void mcs_rpc_conn_close(mcs_rpc_conn_t *conn);
/* Bytes queued and not written yet. Thread-safe, a snapshot. */
size_t mcs_rpc_conn_queued(mcs_rpc_conn_t *conn);

/* Loop thread only. */
void mcs_rpc_conn_set_greeted(mcs_rpc_conn_t *conn); /* the hello was accepted: full frame limit, no hello timeout */
bool mcs_rpc_conn_greeted(const mcs_rpc_conn_t *conn);
void mcs_rpc_conn_set_user(mcs_rpc_conn_t *conn, void *user);
void *mcs_rpc_conn_user(const mcs_rpc_conn_t *conn);
uint64_t mcs_rpc_conn_id(const mcs_rpc_conn_t *conn);
/* "10.0.0.1:4711" or "unix": for logs. */
const char *mcs_rpc_conn_peer(const mcs_rpc_conn_t *conn);
/* Requests of this connection that will be answered later. */
uint32_t mcs_rpc_conn_parked_add(mcs_rpc_conn_t *conn, int32_t delta);

#endif
