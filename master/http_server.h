/* A small HTTP server on libmicrohttpd: routes, bounded requests, replies. What is served is in http_metadata.c and
 * http_admin.c.
 *
 * A request is read whole (its body is bounded), then its route's handler runs on one of the server's few threads and
 * gives one reply: a text, a buffer, or a stream that a producer writes from a thread of its own. Handlers may take
 * locks for short stretches; they never wait for the network.
 *
 * Hostile peers (rule 10): header size, body size, bytes of all bodies and of all answers together, connections and
 * streams are bounded; a length header above the bound is answered 413 before a byte of the body is read; a request
 * that does not arrive, or an answer that is not taken, ends its connection after a time, sooner when connections run
 * short.
 *
 * A request with an Origin header that is not of this host, as a browser sends for a page from elsewhere, is refused
 * unless it only reads: whoever can make an administrator open a page must not be able to empty the cache.
 *
 * With a token, a request without it is answered 401 before its body is kept; the comparison takes the same time for
 * every wrong one.
 *
 * Life cycle: create (binds) -> start (threads) -> stop (ends connections, joins) -> destroy. Thread-safe handlers are
 * the caller's duty.
 */
#ifndef MCS_MASTER_HTTP_SERVER_H
#define MCS_MASTER_HTTP_SERVER_H

#include "core/base/buf.h"

typedef struct mcs_http_server mcs_http_server_t;
typedef struct mcs_http_request mcs_http_request_t;

/* Bytes of request line and headers; a longer one is answered 413, 414 or 431. */
#define MCS_HTTP_HEADERS_MAX        ((size_t)64 << 10)
#define MCS_HTTP_CONNECTIONS_FEWEST 16u
/* A request must have arrived this long after its connection was opened or became idle; the short time counts when
 * three quarters of the connections are in use, the shortest when nearly all are: whoever holds connections open
 * without asking for anything keeps others waiting for moments only. */
#define MCS_HTTP_RECEIVE_NS          (20 * UINT64_C(1000000000))
#define MCS_HTTP_RECEIVE_SHORT_NS    (2 * UINT64_C(1000000000))
#define MCS_HTTP_RECEIVE_SHORTEST_NS (UINT64_C(250000000))
/* An answer must have been taken. */
#define MCS_HTTP_ANSWER_NS (300 * UINT64_C(1000000000))

typedef void (*mcs_http_handler_fn)(void *arg, mcs_http_request_t *request);

typedef struct mcs_http_route {
    const char *method; /* "GET" also serves HEAD */
    const char *path;
    mcs_http_handler_fn handler;
} mcs_http_route_t;

/* PEM texts. */
typedef struct mcs_http_tls {
    mcs_buf_t cert;
    mcs_buf_t key;
} mcs_http_tls_t;
/* Reads both files. MCS_ERR_INVALID_PARAMS: one cannot be read, is longer than 1 MiB, or they do not fit each other;
 * the log says which. */
mcs_status_t mcs_http_tls_load(mcs_http_tls_t *tls, const char *cert_path, const char *key_path) MCS_MUST_CHECK;
/* Wipes the key. A zeroed struct is fine. */
void mcs_http_tls_fini(mcs_http_tls_t *tls);

typedef struct mcs_http_config {
    const char *name; /* "admin": for logs and thread names; a literal */
    const char *address;
    uint16_t port;                 /* 0: any free one */
    const char *token;             /* NULL or "": none. Else requests must have "Authorization: Bearer TOKEN" */
    const char *const *open_paths; /* that need none, NULL at the end; NULL: there are none */
    const mcs_http_tls_t *tls;     /* NULL: HTTP; else HTTPS alone. Until start has returned */
    const mcs_http_route_t *routes;
    size_t route_count;
    void *arg;                /* of the handlers */
    size_t body_max;          /* of one request */
    size_t bodies_max;        /* of all requests in flight */
    size_t answers_max;       /* bytes of all answers that have not been taken yet; streams do not count */
    uint32_t threads;         /* 2 to 4 */
    uint32_t max_connections; /* at most; fewer where the process may have few descriptors */
    uint32_t max_streams;
    uint64_t receive_ns; /* 0: MCS_HTTP_RECEIVE_NS */
    uint64_t answer_ns;  /* 0: MCS_HTTP_ANSWER_NS */
} mcs_http_config_t;

/* MCS_ERR_INVALID_PARAMS: bad address, port in use; logged. */
mcs_status_t mcs_http_server_create(const mcs_http_config_t *config, mcs_http_server_t **server_out) MCS_MUST_CHECK;
mcs_status_t mcs_http_server_start(mcs_http_server_t *server) MCS_MUST_CHECK;
void mcs_http_server_stop(mcs_http_server_t *server);    /* idempotent; NULL is fine */
void mcs_http_server_destroy(mcs_http_server_t *server); /* stops first; NULL is fine */
uint16_t mcs_http_server_port(const mcs_http_server_t *server);

/* In a handler. A query parameter: percent-decoded ("+" stays what it is, as in the original), or as it was sent.
 * Terminated; `len_out` (may be NULL) tells where a value with a zero byte in it ends. NULL when there is none; the
 * first of several. Lives as long as the request. */
const char *mcs_http_query(const mcs_http_request_t *request, const char *name, size_t *len_out);
/* The decoded value as a text: NULL also when there is a zero byte in it. */
const char *mcs_http_query_text(const mcs_http_request_t *request, const char *name);
const char *mcs_http_query_raw(const mcs_http_request_t *request, const char *name, size_t *len_out);
const uint8_t *mcs_http_body(const mcs_http_request_t *request, size_t *len_out);

#define MCS_HTTP_TEXT "text/plain; charset=utf-8"
#define MCS_HTTP_JSON "application/json; charset=utf-8"

/* One reply a request; a handler that gives none answers 500. */
void mcs_http_reply(mcs_http_request_t *request, unsigned code, const char *type, const void *bytes, size_t len);
void mcs_http_reply_text(mcs_http_request_t *request, unsigned code, const char *text);
/* Takes the buffer's memory, also on failure. */
void mcs_http_reply_buf(mcs_http_request_t *request, unsigned code, const char *type, mcs_buf_t *buf);

/* A long answer: `produce` runs on a thread of its own, with at most 256 KiB between it and the client, and writes with
 * mcs_http_pipe_write. `done(arg)` runs exactly once, also when the stream could not begin (then the reply is 503). */
typedef struct mcs_http_pipe mcs_http_pipe_t;
typedef struct mcs_http_stream {
    void (*produce)(void *arg, mcs_http_pipe_t *pipe);
    void (*done)(void *arg); /* may be NULL */
    void *arg;
} mcs_http_stream_t;
void mcs_http_reply_stream(mcs_http_request_t *request, const char *type, const mcs_http_stream_t *stream);
/* Blocks while the client is behind. False: the client is gone, produce no more. */
bool mcs_http_pipe_write(mcs_http_pipe_t *pipe, const void *bytes, size_t len);

#endif
