/* What http_server.c, http_reply.c and http_pipe.c share. Not for others. */
#ifndef MCS_MASTER_HTTP_INTERNAL_H
#define MCS_MASTER_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/thread.h"
#include "master/http_server.h"

#define HTTP_AREA       "http"
#define HTTP_PARAMS_MAX 64

/* One connection, from accept to close. */
typedef struct mcs_http_conn {
    mcs_list_t node; /* of server->conns */
    int fd;          /* open while the struct is in the list */
    uint64_t since_ns;
    bool answering; /* the handler has replied; since_ns counts from then */
    bool cut;       /* shut down already */
} mcs_http_conn_t;

typedef struct mcs_http_param {
    const char *name; /* decoded */
    const char *value;
    size_t value_len;
    const char *raw;
    size_t raw_len;
} mcs_http_param_t;

struct mcs_http_request {
    mcs_http_server_t *server;
    mcs_http_conn_t *conn;
    struct MHD_Connection *connection;
    const mcs_http_route_t *route; /* NULL: none takes it */
    bool begun;
    bool replied;
    bool close_after;
    unsigned refusal; /* 400, 401, 403, 413 or 503: the body is dropped */
    enum MHD_Result queued;
    mcs_buf_t body;
    size_t body_dropped;
    size_t param_count;
    mcs_http_param_t params[HTTP_PARAMS_MAX];
    char text[]; /* the query, raw and decoded */
};

struct mcs_http_server {
    mcs_http_config_t config;
    int listen_fd; /* -1 once libmicrohttpd owns it */
    uint16_t port;
    struct MHD_Daemon *daemon;
    mcs_thread_t reaper;
    size_t body_bytes;     /* atomic */
    size_t answer_bytes;   /* atomic */
    uint32_t stream_count; /* atomic */
    mcs_mutex_t lock;      /* rank HTTP: what follows */
    mcs_cond_t wake;
    mcs_list_t conns MCS_GUARDED_BY(&lock);
    uint32_t conn_count MCS_GUARDED_BY(&lock);
    bool stopping MCS_GUARDED_BY(&lock);
};

/* http_request.c: what is made of a request line. NULL: no memory. */
mcs_http_request_t *mcs_i_http_request_create(mcs_http_server_t *server, struct MHD_Connection *connection,
                                              mcs_http_conn_t *conn, const char *uri);
void mcs_i_http_request_destroy(mcs_http_request_t *request); /* NULL is fine */
/* The reply when no handler gives one: 404, 405, 413, 500, 503. */
void mcs_i_http_reply_error(mcs_http_request_t *request, unsigned code, const char *path);
/* Queues and lets go of the response (NULL: no memory, the connection is closed). */
void mcs_i_http_reply_response(mcs_http_request_t *request, unsigned code, const char *type,
                               struct MHD_Response *response);

#endif
