/* See http_client_pages.h. */
#include "master/http_client_pages.h"

#include "core/base/alloc.h"
#include "master/http_json.h"
#include "master/http_process.h"

#define METRICS_TYPE "text/plain; version=0.0.4"
#define METRICS_MAX  ((size_t)16 << 20)

typedef struct client_server {
    mcs_client_pages_t pages;
    mcs_http_server_t *http;
} client_server_t;

static void handle_health(void *arg, mcs_http_request_t *request)
{
    static const char *const names[] = {"healthy", "not_initialized", "master_unreachable"};
    const client_server_t *server = (const client_server_t *)arg;
    int health = server->pages.health(server->pages.arg);
    bool known = health >= 0 && (size_t)health < MCS_ARRAY_LEN(names);
    mcs_json_reply(request, health == 0 ? 200 : 503,
                   json_pack("{s:s, s:i}", "status", known ? names[health] : "unknown", "code", health));
}

static void reply_metrics(const client_server_t *server, mcs_http_request_t *request, bool summary)
{
    mcs_buf_t text;
    mcs_buf_init(&text, METRICS_MAX);
    if (server->pages.metrics(server->pages.arg, summary, &text)) {
        mcs_http_reply_buf(request, 200, METRICS_TYPE, &text);
    } else {
        mcs_buf_fini(&text);
        mcs_http_reply(request, 503, METRICS_TYPE, "metrics not available", sizeof("metrics not available") - 1);
    }
}

static void handle_metrics(void *arg, mcs_http_request_t *request)
{
    reply_metrics((const client_server_t *)arg, request, false);
}

static void handle_summary(void *arg, mcs_http_request_t *request)
{
    reply_metrics((const client_server_t *)arg, request, true);
}

static const mcs_http_route_t g_routes[] = {
    {"GET", "/health", handle_health},           {"GET", "/metrics", handle_metrics},
    {"GET", "/metrics/summary", handle_summary}, {"GET", "/version", mcs_http_version},
    {"GET", "/log_level", mcs_http_log_level},   {"PUT", "/log_level", mcs_http_set_log_level},
};

static void stop(void *arg)
{
    client_server_t *server = (client_server_t *)arg;
    if (server != NULL) {
        mcs_http_server_destroy(server->http);
        mcs_free(server);
    }
}

static mcs_status_t start(const char *address, uint16_t port, const mcs_client_pages_t *pages, void **server_out,
                          uint16_t *port_out)
{
    client_server_t *server = MCS_NEW(client_server_t);
    if (server == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    server->pages = *pages;
    const mcs_http_config_t http = {
        .name = "http client",
        .address = address,
        .port = port,
        .routes = g_routes,
        .route_count = MCS_ARRAY_LEN(g_routes),
        .arg = server,
        .body_max = (size_t)64 << 10,
        .bodies_max = (size_t)1 << 20,
        .answers_max = (size_t)64 << 20,
        .threads = 2,
        .max_connections = 64,
        .max_streams = 0,
    };
    mcs_status_t status = mcs_http_server_create(&http, &server->http);
    if (status == MCS_OK) {
        status = mcs_http_server_start(server->http);
    }
    if (status != MCS_OK) {
        stop(server);
        return status;
    }
    *port_out = mcs_http_server_port(server->http);
    *server_out = server;
    return MCS_OK;
}

const mcs_client_http_ops_t mcs_client_http_ops = {.start = start, .stop = stop};
