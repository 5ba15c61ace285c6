/* What mooncake_client tells about itself over HTTP. See daemon.h. Paths and bodies of the first three are the
 * original's:
 *
 *   GET /health            {"status":"healthy","code":0}: 200; 503 for not_initialized (1) and master_unreachable (2)
 *   GET /metrics           Prometheus text
 *   GET /metrics/summary   the same for people
 *   GET /log_level         "INFO"
 *   PUT /log_level?level=DEBUG
 *
 * Both ports serve all of it. Handlers run on the servers' threads: the store pointer is published once, before that
 * "not initialized" is the answer. */
#include <inttypes.h>
#include <string.h>

#include "client/daemon.h"
#include "core/base/alloc.h"
#include "core/base/log.h"
#include "master/http_server.h"

#define METRICS_TYPE "text/plain; version=0.0.4"
#define TEXT_MAX     ((size_t)1 << 20)
#define COUNTERS_MAX 128

struct mcs_daemon_status {
    const mcs_daemon_config_t *config;
    mcs_store_t *store; /* atomic: release when it is set up, acquire by the handlers */
    mcs_http_server_t *servers[2];
};

static mcs_store_t *store_of(void *arg)
{
    const mcs_daemon_status_t *status = (const mcs_daemon_status_t *)arg;
    return __atomic_load_n(&status->store, __ATOMIC_ACQUIRE);
}

static void handle_health(void *arg, mcs_http_request_t *request)
{
    static const char *const names[] = {"healthy", "not_initialized", "master_unreachable"};
    mcs_store_t *store = store_of(arg);
    int code = store != NULL ? mcs_store_health_check(store) : 1;
    const char *name = code >= 0 && (size_t)code < MCS_ARRAY_LEN(names) ? names[code] : "unknown";
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    mcs_buf_printf(&text, "{\"status\":\"%s\",\"code\":%d}", name, code);
    mcs_http_reply_buf(request, code == 0 ? 200 : 503, MCS_HTTP_JSON, &text);
}

/* ---- metrics ---- */

typedef struct figure {
    const char *name;
    uint64_t value;
} figure_t;

typedef struct figures {
    figure_t list[COUNTERS_MAX];
    size_t count;
} figures_t;

static void add_figure(void *arg, const char *name, uint64_t value)
{
    figures_t *figures = (figures_t *)arg;
    if (figures->count < COUNTERS_MAX) {
        figures->list[figures->count++] = (figure_t){name, value};
    }
}

static uint64_t figure(const figures_t *figures, const char *name)
{
    for (size_t i = 0; i < figures->count; i++) {
        if (strcmp(figures->list[i].name, name) == 0) {
            return figures->list[i].value;
        }
    }
    return 0;
}

static uint64_t bytes_read(const figures_t *f)
{
    return figure(f, "bytes_own_read") + figure(f, "bytes_same_host_read") + figure(f, "bytes_fetched");
}

static uint64_t bytes_written(const figures_t *f)
{
    return figure(f, "bytes_own_written") + figure(f, "bytes_same_host_written") + figure(f, "bytes_stored");
}

/* A label's value: backslash, quote and newline are what its grammar escapes. */
static void write_label(mcs_buf_t *text, const char *value)
{
    for (; *value != '\0'; value++) {
        if (*value == '\\' || *value == '"') {
            mcs_buf_printf(text, "\\%c", *value);
        } else if (*value == '\n') {
            mcs_buf_printf(text, "\\n");
        } else {
            mcs_buf_printf(text, "%c", *value);
        }
    }
}

static void write_sample(mcs_buf_t *text, const mcs_daemon_config_t *config, const char *kind, const char *prefix,
                         const char *name, const char *suffix, uint64_t value)
{
    mcs_buf_printf(text, "# TYPE %s%s%s %s\n%s%s%s{client_mode=\"real\",cluster_id=\"", prefix, name, suffix, kind,
                   prefix, name, suffix);
    write_label(text, config->cluster_id);
    mcs_buf_printf(text, "\"} %" PRIu64 "\n", value);
}

/* Replies itself and gives false when there is nothing to write. */
static bool begin_metrics(mcs_daemon_status_t *status, mcs_http_request_t *request, figures_t *figures)
{
    mcs_store_t *store = store_of(status);
    figures->count = 0;
    if (!status->config->metrics) {
        mcs_http_reply_text(request, 503, "metrics not available");
        return false;
    }
    if (store == NULL) {
        mcs_http_reply_text(request, 503, "client not initialized");
        return false;
    }
    mcs_store_counters(store, add_figure, figures);
    return true;
}

static void handle_metrics(void *arg, mcs_http_request_t *request)
{
    mcs_daemon_status_t *status = (mcs_daemon_status_t *)arg;
    const mcs_daemon_config_t *config = status->config;
    figures_t figures;
    if (!begin_metrics(status, request, &figures)) {
        return;
    }
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    write_sample(&text, config, "counter", "mooncake_transfer_", "read_bytes", "", bytes_read(&figures));
    write_sample(&text, config, "counter", "mooncake_transfer_", "write_bytes", "", bytes_written(&figures));
    write_sample(&text, config, "gauge", "mcs_client_", "segment_bytes", "", config->global_segment_size);
    write_sample(&text, config, "gauge", "mcs_client_", "health", "",
                 (uint64_t)mcs_store_health_check(store_of(status)));
    for (size_t i = 0; i < figures.count; i++) {
        write_sample(&text, config, "counter", "mcs_client_", figures.list[i].name, "_total", figures.list[i].value);
    }
    mcs_http_reply_buf(request, 200, METRICS_TYPE, &text);
}

static void handle_summary(void *arg, mcs_http_request_t *request)
{
    mcs_daemon_status_t *status = (mcs_daemon_status_t *)arg;
    figures_t figures;
    if (!begin_metrics(status, request, &figures)) {
        return;
    }
    char name[300];
    mcs_store_hostname(store_of(status), name, sizeof(name));
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    mcs_buf_printf(&text,
                   "Client Metrics Summary\nsegment %s of %" PRIu64 " bytes, master %s\n"
                   "=== Transfer Metrics Summary ===\nread %" PRIu64 " bytes, written %" PRIu64 " bytes\n"
                   "=== RPC Metrics Summary ===\ncalls %" PRIu64 ", failures %" PRIu64 ", repeats %" PRIu64 "\n"
                   "=== Counters ===\n",
                   name, status->config->global_segment_size, status->config->master_server_address,
                   bytes_read(&figures), bytes_written(&figures), figure(&figures, "rpc_calls"),
                   figure(&figures, "rpc_failures"), figure(&figures, "rpc_repeats"));
    for (size_t i = 0; i < figures.count; i++) {
        mcs_buf_printf(&text, "%s %" PRIu64 "\n", figures.list[i].name, figures.list[i].value);
    }
    mcs_http_reply_buf(request, 200, METRICS_TYPE, &text);
}

/* ---- log level ---- */

const char *mcs_daemon_log_level(void)
{
    static const char *const names[] = {"TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "OFF"};
    return names[__atomic_load_n(&mcs_log_threshold, __ATOMIC_RELAXED)];
}

static void handle_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, mcs_daemon_log_level());
}

static void handle_set_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    const char *level = mcs_http_query(request, "level", NULL);
    if (level == NULL || !mcs_log_set_level_name(level)) {
        mcs_http_reply_text(request, 400, "level=TRACE, DEBUG, INFO, WARNING or ERROR is wanted");
        return;
    }
    mcs_info("client", "log level %s by request", mcs_daemon_log_level());
    mcs_http_reply_text(request, 200, mcs_daemon_log_level());
}

/* ---- life cycle ---- */

static const mcs_http_route_t g_routes[] = {
    {"GET", "/health", handle_health},           {"GET", "/metrics", handle_metrics},
    {"GET", "/metrics/summary", handle_summary}, {"GET", "/log_level", handle_log_level},
    {"PUT", "/log_level", handle_set_log_level},
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
    *status_out = status;
    return MCS_OK;
}

void mcs_daemon_status_set_store(mcs_daemon_status_t *status, mcs_store_t *store)
{
    __atomic_store_n(&status->store, store, __ATOMIC_RELEASE);
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
    mcs_free(status);
}
