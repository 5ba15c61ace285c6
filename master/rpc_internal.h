/* What rpc_server.c and rpc_conn.c share: the loop and the connection. Not for others. */
#ifndef MCS_MASTER_RPC_INTERNAL_H
#define MCS_MASTER_RPC_INTERNAL_H

#include <uv.h>

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/thread.h"
#include "master/rpc_server.h"

#define RPC_AREA      "rpc"
#define RPC_INBOX_MAX 1024

typedef struct mcs_rpc_inbox_entry {
    int fd;
    bool is_unix;
    char peer[64];
} mcs_rpc_inbox_entry_t;

typedef struct mcs_rpc_loop {
    mcs_rpc_server_t *server;
    mcs_thread_t thread;
    uint32_t index;
    /* loop thread only */
    uv_loop_t uv;
    uv_async_t wake;
    uv_check_t check;
    uv_timer_t timer;
    mcs_list_t conns;
    bool handles_ready; /* the four handles above are initialised */
    bool ending;
    /* atomics */
    uint64_t polls;       /* finished full polls */
    uint64_t poll_target; /* housekeeping waits for this many */
    uint32_t conn_count;
    mcs_mutex_t lock; /* rank RPC_LOOP: what follows */
    mcs_list_t dirty MCS_GUARDED_BY(&lock);
    mcs_rpc_inbox_entry_t inbox[RPC_INBOX_MAX] MCS_GUARDED_BY(&lock);
    uint32_t inbox_len MCS_GUARDED_BY(&lock);
    bool stopping MCS_GUARDED_BY(&lock);
    bool gone MCS_GUARDED_BY(&lock); /* the wake-up handle is closed: never signal it again */
} mcs_rpc_loop_t;

struct mcs_rpc_server {
    mcs_rpc_config_t config;
    mcs_rpc_loop_t *loops;
    uint32_t loop_count;
    uint32_t started;
    int tcp_fd;
    int unix_fd;
    int spare_fd; /* given up for a moment to refuse a connection when descriptors are short */
    uint16_t port;
    char unix_path[108];
    uv_poll_t tcp_poll;
    uv_poll_t unix_poll;
    bool tcp_watched; /* the handles above are initialised */
    bool unix_watched;
    uint32_t conn_count;   /* atomic */
    uint64_t next_conn_id; /* loop 0 and tests of ids: atomic */
    uint64_t log_second;   /* atomic: rate limit of protocol errors */
    uint32_t log_count;    /* atomic */
};

struct mcs_rpc_conn {
    uint32_t refs;   /* one for the loop, one while in the dirty list, one per holder (session, parked call) */
    uint32_t parked; /* atomic */
    mcs_rpc_loop_t *loop;
    uint64_t id;
    char peer[64];
    /* loop thread only */
    uv_poll_t poll;
    int fd;
    int events;
    bool greeted;
    bool closing;
    bool stop_reading; /* over the high mark */
    bool turn_over;    /* whole frames may be left in `in`: handled when the others have had their turn */
    mcs_buf_t in;
    size_t in_used; /* bytes of `in` already handled */
    mcs_buf_t out;  /* being written */
    size_t out_done;
    uint64_t opened_ns;
    uint64_t last_read_ns;
    uint64_t frame_start_ns; /* when the first byte of an unfinished frame came, 0 = none */
    void *user;
    mcs_list_t node; /* of loop->conns */
    mcs_list_t dirty_node;
    mcs_mutex_t lock; /* rank CONN_OUT: what follows */
    mcs_buf_t pending MCS_GUARDED_BY(&lock);
    bool in_dirty MCS_GUARDED_BY(&lock);
    bool closed MCS_GUARDED_BY(&lock);
    bool close_wanted MCS_GUARDED_BY(&lock);
    size_t out_bytes; /* atomic: bytes in `out` not written yet, for the cap */
};

/* rpc_conn.c; loop thread. Takes the descriptor, also on failure. */
void mcs_i_rpc_conn_open(mcs_rpc_loop_t *loop, const mcs_rpc_inbox_entry_t *entry);
void mcs_i_rpc_conn_end(mcs_rpc_conn_t *conn, const char *why, bool breach);
/* Writes what is pending, ends the connection when that was asked for. */
void mcs_i_rpc_conn_service(mcs_rpc_conn_t *conn);
void mcs_i_rpc_conn_check_timeouts(mcs_rpc_conn_t *conn, uint64_t now_ns);
/* True when a line about misbehaving peers may be logged now (10 a second). */
bool mcs_i_rpc_may_log(mcs_rpc_server_t *server);

#endif
