/* What mooncake_client tells about itself over HTTP. See daemon.h. Paths and bodies of the first three are the
 * original's:
 *
 *   GET /health            {"status":"healthy","code":0}: 200; 503 for not_initialized (1) and master_unreachable (2)
 *   GET /metrics           Prometheus text
 *   GET /metrics/summary   the same for people
 *   GET /version
 *   GET /log_level         "INFO"
 *   PUT /log_level?level=DEBUG
 *
 * Both ports serve all of it. Handlers run on the servers' threads. What they show is the client library's: it would
 * start a server of its own for its pages (core/ops/http.h), and gets these instead, which are bound before it is set
 * up. Until then "not initialized" is the answer. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/daemon.h"
#include "core/base/alloc.h"
#include "core/ops/http.h"
#include "master/http_process.h"
#include "master/http_server.h"

#define METRICS_TYPE "text/plain; version=0.0.4"
#define TEXT_MAX     ((size_t)16 << 20)

struct mcs_daemon_status {
    const mcs_daemon_config_t *config;
    mcs_http_server_t *servers[2];
    mcs_client_pages_t pages; /* while published */
    uint32_t published;       /* atomic */
    uint32_t users;           /* atomic: handlers that may be using the pages */
    char segment[512];        /* "" = not known; complete once named is set */
    uint32_t named;           /* atomic */
};

/* The one of this process, for what the library starts and stops. Written before and after there are threads. */
static mcs_daemon_status_t *g_status;

/* ---- the library's pages ---- */

/* NULL: the store is not set up. Else leave_pages follows. */
static const mcs_client_pages_t *enter_pages(mcs_daemon_status_t *status)
{
    /* Both sequentially consistent: either stop_pages sees the user, or the user sees that they are withdrawn. */
    (void)__atomic_add_fetch(&status->users, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&status->published, __ATOMIC_SEQ_CST) != 0) {
        return &status->pages;
    }
    (void)__atomic_sub_fetch(&status->users, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void leave_pages(mcs_daemon_status_t *status)
{
    (void)__atomic_sub_fetch(&status->users, 1, __ATOMIC_SEQ_CST);
}

static mcs_status_t start_pages(const char *address, uint16_t port, const mcs_client_pages_t *pages, void **server_out,
                                uint16_t *port_out)
{
    (void)address;
    (void)port;
    g_status->pages = *pages;
    __atomic_store_n(&g_status->published, 1, __ATOMIC_SEQ_CST);
    *server_out = g_status;
    *port_out = 0; /* the daemon names its ports itself */
    return MCS_OK;
}

/* At the end of a set-up that failed, or of the process: then the servers are gone already, and nobody asks. */
static void stop_pages(void *server)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    if (server == NULL || server != g_status) {
        return;
    }
    __atomic_store_n(&g_status->published, 0, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&g_status->users, __ATOMIC_SEQ_CST) != 0) {
        nanosleep(&moment, NULL);
    }
}

const mcs_client_http_ops_t mcs_daemon_http_ops = {.start = start_pages, .stop = stop_pages};

/* ---- health and metrics ---- */

static void handle_health(void *arg, mcs_http_request_t *request)
{
    static const char *const names[] = {"healthy", "not_initialized", "master_unreachable"};
    mcs_daemon_status_t *status = (mcs_daemon_status_t *)arg;
    const mcs_client_pages_t *pages = enter_pages(status);
    int code = 1;
    if (pages != NULL) {
        code = pages->health(pages->arg);
        leave_pages(status);
    }
    const char *name = code >= 0 && (size_t)code < MCS_ARRAY_LEN(names) ? names[code] : "unknown";
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    mcs_buf_printf(&text, "{\"status\":\"%s\",\"code\":%d}", name, code);
    mcs_http_reply_buf(request, code == 0 ? 200 : 503, MCS_HTTP_JSON, &text);
}

static void write_gauge(mcs_buf_t *text, const char *name, const char *help, uint64_t value)
{
    mcs_buf_printf(text, "# HELP %s %s\n# TYPE %s gauge\n%s %" PRIu64 "\n", name, help, name, name, value);
}

static void write_daemon(mcs_daemon_status_t *status, bool summary, int health, mcs_buf_t *text)
{
    const mcs_daemon_config_t *config = status->config;
    bool named = __atomic_load_n(&status->named, __ATOMIC_ACQUIRE) != 0;
    if (summary) {
        mcs_buf_printf(text, "=== Segment ===\n%s: %" PRIu64 " bytes, master %s\n",
                       named ? status->segment : "not named", config->global_segment_size,
                       config->master_server_address);
        return;
    }
    write_gauge(text, "mcs_client_segment_bytes", "memory lent to the cluster", config->global_segment_size);
    write_gauge(text, "mcs_client_health", "0 healthy, 2 master unreachable", (uint64_t)health);
}

static void reply_metrics(mcs_daemon_status_t *status, mcs_http_request_t *request, bool summary)
{
    const mcs_client_pages_t *pages = enter_pages(status);
    if (pages == NULL) {
        mcs_http_reply_text(request, 503, "client not initialized");
        return;
    }
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    bool measured = pages->metrics(pages->arg, summary, &text);
    if (measured) {
        write_daemon(status, summary, pages->health(pages->arg), &text);
    }
    leave_pages(status);
    if (measured) {
        mcs_http_reply_buf(request, 200, METRICS_TYPE, &text);
    } else {
        mcs_buf_fini(&text);
        mcs_http_reply_text(request, 503, "metrics not available");
    }
}

static void handle_metrics(void *arg, mcs_http_request_t *request)
{
    reply_metrics((mcs_daemon_status_t *)arg, request, false);
}

static void handle_summary(void *arg, mcs_http_request_t *request)
{
    reply_metrics((mcs_daemon_status_t *)arg, request, true);
}

/* ---- life cycle ---- */

static const mcs_http_route_t g_routes[] = {
    {"GET", "/health", handle_health},           {"GET", "/metrics", handle_metrics},
    {"GET", "/metrics/summary", handle_summary}, {"GET", "/version", mcs_http_version},
    {"GET", "/log_level", mcs_http_log_level},   {"PUT", "/log_level", mcs_http_set_log_level},
};

static mcs_status_t open_server(mcs_daemon_status_t *status, const char *name, uint64_t port,
                                mcs_http_server_t **server_out)
{
    const mcs_http_config_t http = {
        .name = name,
        .address = status->config->host,
        .port = (uint16_t)port,
        .routes = g_routes,
        .route_count = MCS_ARRAY_LEN(g_routes),
        .arg = status,
        .body_max = (size_t)64 << 10,
        .bodies_max = (size_t)1 << 20,
        .answers_max = (size_t)16 << 20,
        .threads = 2,
        .max_connections = 64,
        .max_streams = 1,
    };
    mcs_status_t result = mcs_http_server_create(&http, server_out);
    return result == MCS_OK ? mcs_http_server_start(*server_out) : result;
}

mcs_status_t mcs_daemon_status_start(const mcs_daemon_config_t *config, mcs_daemon_status_t **status_out)
{
    mcs_daemon_status_t *status = MCS_NEW(mcs_daemon_status_t);
    if (status == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    status->config = config;
    mcs_status_t result = open_server(status, "client http", config->port, &status->servers[0]);
    if (result == MCS_OK && config->enable_http_server) {
        result = open_server(status, "http", config->http_port, &status->servers[1]);
    }
    if (result != MCS_OK) {
        mcs_daemon_status_stop(status);
        return result;
    }
    g_status = status;
    *status_out = status;
    return MCS_OK;
}

void mcs_daemon_status_set_segment(mcs_daemon_status_t *status, const char *name)
{
    snprintf(status->segment, sizeof(status->segment), "%s", name);
    __atomic_store_n(&status->named, 1, __ATOMIC_RELEASE);
}

uint16_t mcs_daemon_status_port(const mcs_daemon_status_t *status)
{
    return mcs_http_server_port(status->servers[0]);
}

void mcs_daemon_status_stop(mcs_daemon_status_t *status)
{
    if (status == NULL) {
        return;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(status->servers); i++) {
        mcs_http_server_destroy(status->servers[i]);
    }
    g_status = NULL;
    mcs_free(status);
}
