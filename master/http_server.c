/* Connections and threads; see http_server.h. Requests and replies are in http_request.c, streams in http_pipe.c.
 *
 * libmicrohttpd has a timeout for silence only: a peer that sends a byte now and then holds its connection for ever. So
 * every connection is in a list here, from the library's first notice to its last (the descriptor is open between the
 * two), and a reaper thread shuts down those whose request or answer takes too long. The library then sees the end of
 * the stream and cleans up in its own way. */
#include <fcntl.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/http_internal.h"
#include "master/rpc_listen.h"

#define TLS_PRIORITIES    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
#define SILENCE_TIMEOUT_S 15u
#define REAPER_TICK_NS    (100 * MCS_NS_PER_MS)
/* Of a body that is refused, so much is read and dropped before the connection is closed unanswered. */
#define DROP_MAX ((size_t)1 << 20)

static void on_library_log(void *cls, const char *fmt, va_list args)
{
    char line[512];
    (void)cls;
    if (vsnprintf(line, sizeof(line), fmt, args) > 0) {
        mcs_debug(HTTP_AREA, "%s", line);
    }
}

static mcs_http_conn_t *conn_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *facts = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return facts != NULL ? (mcs_http_conn_t *)facts->socket_context : NULL;
}

static void conn_opened(mcs_http_server_t *server, struct MHD_Connection *connection, void **context)
{
    const union MHD_ConnectionInfo *facts = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    mcs_http_conn_t *conn = MCS_NEW(mcs_http_conn_t);
    if (conn == NULL || facts == NULL) {
        if (facts != NULL) {
            shutdown(facts->connect_fd, SHUT_RDWR);
        }
        mcs_free(conn);
        return;
    }
    conn->fd = facts->connect_fd;
    conn->since_ns = mcs_now_ns();
    *context = conn;
    mcs_mutex_lock(&server->lock);
    mcs_list_push_tail(&server->conns, &conn->node);
    server->conn_count++;
    if (server->conn_count == 1) {
        mcs_cond_signal(&server->wake);
    }
    mcs_mutex_unlock(&server->lock);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    mcs_http_server_t *server = (mcs_http_server_t *)cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        conn_opened(server, connection, context);
        return;
    }
    mcs_http_conn_t *conn = (mcs_http_conn_t *)*context;
    if (conn == NULL) {
        return;
    }
    mcs_mutex_lock(&server->lock);
    mcs_list_remove(&conn->node);
    server->conn_count--;
    mcs_mutex_unlock(&server->lock);
    *context = NULL;
    mcs_free(conn);
}

/* A new stretch of time for the connection. */
static void set_phase(mcs_http_server_t *server, mcs_http_conn_t *conn, bool answering)
{
    mcs_mutex_lock(&server->lock);
    conn->answering = answering;
    conn->since_ns = mcs_now_ns();
    mcs_mutex_unlock(&server->lock);
}

/* The request line has been read: the earliest moment with a hook. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    mcs_http_server_t *server = (mcs_http_server_t *)cls;
    mcs_http_conn_t *conn = conn_of(connection);
    return conn != NULL ? mcs_i_http_request_create(server, connection, conn, uri) : NULL;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    mcs_http_request_t *request = (mcs_http_request_t *)*context;
    (void)connection;
    (void)code;
    if (request != NULL) {
        set_phase((mcs_http_server_t *)cls, request->conn, false);
    }
    mcs_i_http_request_destroy(request);
    *context = NULL;
}

static bool route_takes(const mcs_http_route_t *route, const char *method, const char *path)
{
    return strcmp(route->path, path) == 0 &&
           (strcmp(route->method, method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0));
}

/* "http://host:port" against "host:port". "null" (a sandboxed page) is foreign too. */
static bool is_foreign(const char *origin, const char *host)
{
    const char *at = origin != NULL ? strstr(origin, "://") : NULL;
    return origin != NULL && (at == NULL || host == NULL || strcasecmp(at + 3, host) != 0);
}

static bool only_reads(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

static bool shows_token(const mcs_http_request_t *request)
{
    static const char scheme[] = "Bearer ";
    const size_t scheme_len = sizeof(scheme) - 1;
    const char *token = request->server->config.token;
    const char *given = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Authorization");
    if (given == NULL || strncasecmp(given, scheme, scheme_len) != 0) {
        return false;
    }
    given += scheme_len;
    given += strspn(given, " \t");
    size_t len = strlen(token);
    size_t given_len = strlen(given);
    /* Blanks at the end of a line are no part of its value, unless the token has them. */
    while (given_len > len && (given[given_len - 1] == ' ' || given[given_len - 1] == '\t')) {
        given_len--;
    }
    return given_len == len && CRYPTO_memcmp(given, token, len) == 0;
}

static bool needs_token(const mcs_http_config_t *config, const char *path)
{
    const char *const *open_path = config->open_paths;
    if (config->token == NULL || config->token[0] == '\0') {
        return false;
    }
    while (open_path != NULL && *open_path != NULL && strcmp(*open_path, path) != 0) {
        open_path++;
    }
    return open_path == NULL || *open_path == NULL;
}

/* Headers are in. A body that is announced too large is refused before it is read. */
static enum MHD_Result begin_request(mcs_http_request_t *request, const char *path, const char *method)
{
    const mcs_http_config_t *config = &request->server->config;
    for (size_t i = 0; i < config->route_count && request->route == NULL; i++) {
        if (route_takes(&config->routes[i], method, path)) {
            request->route = &config->routes[i];
        }
    }
    if (request->refusal != 0) {
        request->route = NULL;
    } else if (!only_reads(method) &&
               is_foreign(MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Origin"),
                          MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Host"))) {
        request->refusal = MHD_HTTP_FORBIDDEN;
    } else if (needs_token(config, path) && !shows_token(request)) {
        request->refusal = MHD_HTTP_UNAUTHORIZED;
    }
    const char *length = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Content-Length");
    uint64_t announced = 0;
    for (const char *c = length != NULL ? length : ""; *c >= '0' && *c <= '9' && announced < (UINT64_C(1) << 60); c++) {
        announced = announced * 10 + (uint64_t)(*c - '0');
    }
    if (announced <= config->body_max) {
        return MHD_YES;
    }
    request->close_after = true;
    mcs_i_http_reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, path);
    return request->queued;
}

/* A piece of the body. What is refused is dropped until the end, for the answer can only be given there. */
static enum MHD_Result take_body(mcs_http_request_t *request, const char *bytes, size_t len)
{
    mcs_http_server_t *server = request->server;
    if (request->refusal == 0 && request->route != NULL) {
        if (len > server->config.body_max - request->body.len) {
            request->refusal = MHD_HTTP_CONTENT_TOO_LARGE;
        } else if (__atomic_add_fetch(&server->body_bytes, len, __ATOMIC_RELAXED) > server->config.bodies_max) {
            (void)__atomic_sub_fetch(&server->body_bytes, len, __ATOMIC_RELAXED);
            request->refusal = MHD_HTTP_SERVICE_UNAVAILABLE;
        } else {
            mcs_buf_append(&request->body, bytes, len);
            if (mcs_buf_status(&request->body) == MCS_OK) {
                return MHD_YES;
            }
            (void)__atomic_sub_fetch(&server->body_bytes, len, __ATOMIC_RELAXED);
            request->refusal = MHD_HTTP_SERVICE_UNAVAILABLE;
        }
    }
    request->body_dropped += len;
    return request->body_dropped <= DROP_MAX ? MHD_YES : MHD_NO;
}

static enum MHD_Result answer(mcs_http_request_t *request, const char *path)
{
    if (request->replied) {
        return request->queued;
    }
    set_phase(request->server, request->conn, true);
    if (request->refusal != 0) {
        request->close_after = true;
        mcs_i_http_reply_error(request, request->refusal, path);
    } else if (request->route == NULL) {
        mcs_i_http_reply_error(request, MHD_HTTP_NOT_FOUND, path);
    } else {
        request->route->handler(request->server->config.arg, request);
        if (!request->replied) {
            mcs_i_http_reply_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, path);
        }
    }
    return request->queued;
}

/* NOLINTNEXTLINE(readability-function-size): the library gives eight parameters */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *upload_len, void **context)
{
    mcs_http_request_t *request = (mcs_http_request_t *)*context;
    (void)cls;
    (void)connection;
    (void)version;
    if (request == NULL) {
        return MHD_NO;
    }
    if (!request->begun) {
        request->begun = true;
        return begin_request(request, path, method);
    }
    if (*upload_len > 0) {
        size_t len = *upload_len;
        *upload_len = 0;
        return take_body(request, upload, len);
    }
    return answer(request, path);
}

static uint64_t receive_limit_locked(const mcs_http_server_t *server) MCS_REQUIRES(&server->lock)
{
    uint64_t used = (uint64_t)server->conn_count * 16;
    uint64_t most = server->config.max_connections;
    uint64_t limit = server->config.receive_ns;
    if (used >= most * 15) {
        return MCS_MIN(limit, MCS_HTTP_RECEIVE_SHORTEST_NS);
    }
    return used >= most * 12 ? MCS_MIN(limit, MCS_HTTP_RECEIVE_SHORT_NS) : limit;
}

static void reap_locked(mcs_http_server_t *server) MCS_REQUIRES(&server->lock)
{
    uint64_t now = mcs_now_ns();
    uint64_t receive_ns = receive_limit_locked(server);
    MCS_LIST_FOR_EACH(node, &server->conns)
    {
        mcs_http_conn_t *conn = MCS_CONTAINER_OF(node, mcs_http_conn_t, node);
        uint64_t limit = conn->answering ? server->config.answer_ns : receive_ns;
        if (!conn->cut && now - conn->since_ns >= limit) {
            conn->cut = true;
            shutdown(conn->fd, SHUT_RDWR);
        }
    }
}

static void reaper_thread(void *arg)
{
    mcs_http_server_t *server = (mcs_http_server_t *)arg;
    mcs_mutex_lock(&server->lock);
    while (!server->stopping) {
        if (server->conn_count == 0) {
            mcs_cond_wait(&server->wake, &server->lock);
        } else {
            mcs_cond_wait_until(&server->wake, &server->lock, mcs_now_ns() + REAPER_TICK_NS);
            reap_locked(server);
        }
    }
    mcs_mutex_unlock(&server->lock);
}

/* No more than a sixteenth of the process's descriptors: whoever fills a server with idle connections takes none from
 * what else the process does. */
static uint32_t connections_allowed(const mcs_http_config_t *config)
{
    struct rlimit limit;
    uint64_t allowed = config->max_connections;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        allowed = MCS_MIN(allowed, MCS_MAX((uint64_t)limit.rlim_cur / 16, (uint64_t)MCS_HTTP_CONNECTIONS_FEWEST));
    }
    return (uint32_t)allowed;
}

mcs_status_t mcs_http_server_create(const mcs_http_config_t *config, mcs_http_server_t **server_out)
{
    mcs_http_server_t *server = MCS_NEW(mcs_http_server_t);
    if (server == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    server->config = *config;
    server->config.max_connections = connections_allowed(config);
    if (server->config.receive_ns == 0) {
        server->config.receive_ns = MCS_HTTP_RECEIVE_NS;
    }
    if (server->config.answer_ns == 0) {
        server->config.answer_ns = MCS_HTTP_ANSWER_NS;
    }
    mcs_status_t status =
        mcs_rpc_listen_tcp(config->name, config->address, "", config->port, &server->listen_fd, &server->port);
    if (status != MCS_OK) {
        mcs_free(server);
        return status;
    }
    mcs_mutex_init(&server->lock, MCS_RANK_HTTP, "http server");
    mcs_cond_init(&server->wake);
    mcs_list_init(&server->conns);
    *server_out = server;
    return MCS_OK;
}

/* The library's threads inherit the mask: signals stay with the threads of the program. */
static struct MHD_Daemon *start_daemon(mcs_http_server_t *server, int listen_fd)
{
    const mcs_http_config_t *config = &server->config;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, listen_fd, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)config->threads, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)config->max_connections, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)MCS_HTTP_HEADERS_MAX, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)SILENCE_TIMEOUT_S, NULL},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)&on_connection, server},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)&on_completed, server},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)&on_uri, server},
        {MHD_OPTION_END, 0, NULL}, /* or, with TLS: */
        {MHD_OPTION_HTTPS_MEM_KEY, 0, NULL},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    if (config->tls != NULL) {
        size_t at = MCS_ARRAY_LEN(options) - 4;
        options[at] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, config->tls->cert.bytes};
        options[at + 1].ptr_value = config->tls->key.bytes;
        options[at + 2].ptr_value = (void *)(uintptr_t)TLS_PRIORITIES; /* only read */
        flags |= MHD_USE_TLS;
    }
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    struct MHD_Daemon *daemon =
        mcs_fault_hit(MCS_FAULT_SYSCALL)
            ? NULL
            : MHD_start_daemon(flags, 0, NULL, NULL, on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_library_log,
                               NULL, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return daemon;
}

static bool same_socket(int a, int b)
{
    struct stat x;
    struct stat y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The library gets a descriptor of its own: when it fails, it has closed that or it has not, depending on where. */
static struct MHD_Daemon *start_with_duplicate(mcs_http_server_t *server)
{
    int fd = fcntl(server->listen_fd, F_DUPFD_CLOEXEC, 0);
    struct MHD_Daemon *daemon = fd >= 0 ? start_daemon(server, fd) : NULL;
    if (daemon == NULL && fd >= 0 && same_socket(fd, server->listen_fd)) {
        close(fd);
    }
    return daemon;
}

mcs_status_t mcs_http_server_start(mcs_http_server_t *server)
{
    mcs_status_t status = mcs_thread_start(&server->reaper, "mcs-http-reap", reaper_thread, server);
    if (status != MCS_OK) {
        return status;
    }
    server->daemon = start_with_duplicate(server);
    if (server->daemon == NULL) {
        mcs_error(HTTP_AREA, "%s server not started on port %u: %s", server->config.name, server->port,
                  mcs_status_name(MCS_ERR_NO_MEMORY));
        mcs_http_server_stop(server);
        return MCS_ERR_NO_MEMORY;
    }
    server->config.tls = NULL;
    close(server->listen_fd); /* the library has its own */
    server->listen_fd = -1;
    return MCS_OK;
}

void mcs_http_server_stop(mcs_http_server_t *server)
{
    if (server == NULL) {
        return;
    }
    mcs_mutex_lock(&server->lock);
    server->stopping = true;
    mcs_cond_broadcast(&server->wake);
    mcs_mutex_unlock(&server->lock);
    mcs_thread_join(&server->reaper);
    if (server->daemon != NULL) {
        MHD_stop_daemon(server->daemon);
        server->daemon = NULL;
    }
}

void mcs_http_server_destroy(mcs_http_server_t *server)
{
    if (server == NULL) {
        return;
    }
    mcs_http_server_stop(server);
    if (server->listen_fd >= 0) {
        close(server->listen_fd);
    }
    mcs_cond_fini(&server->wake);
    mcs_mutex_fini(&server->lock);
    mcs_free(server);
}

uint16_t mcs_http_server_port(const mcs_http_server_t *server)
{
    return server->port;
}
