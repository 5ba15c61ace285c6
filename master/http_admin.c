/* State, health and metrics of the admin server; the routes that walk keys and segments are in http_listing.c. See
 * http_admin.h.
 *
 * Answers keep the original's shapes, so that scripts, dashboards and engines read them unchanged. */
#include "master/http_admin.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/parse.h"
#include "master/http_admin_internal.h"
#include "master/http_dashboard.h"
#include "master/http_json.h"
#include "master/http_process.h"

#define METRICS_TYPE "text/plain; version=0.0.4"
#define METRICS_MAX  ((size_t)64 << 20)

static void handle_health(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_json_reply(request, 200,
                   json_pack("{s:s, s:s, s:s, s:b, s:n, s:n}", "status", "ok", "role", "leader", "ha_state", "serving",
                             "service_ready", 1, "leader_address", "view_version"));
}

/* What a put or a new client would be refused for. A full cache is its normal state, so it is named but does not make
 * the master unready. */
json_t *mcs_i_admin_exhausted(const mcs_master_config_t *config, const mcs_service_totals_t *totals)
{
    const struct {
        const char *name;
        bool exhausted;
    } rows[] = {
        {"segments", totals->segments == 0},
        {"space",
         totals->segments > 0 && totals->allocated_bytes >= totals->capacity_bytes - totals->capacity_bytes / 50},
        {"quarantine", totals->quarantine_bytes > totals->capacity_bytes / 10},
        {"owners", totals->segments > 0 && totals->suspect_segments == totals->segments},
        {"clients", totals->clients >= config->max_clients},
        {"objects", config->max_objects > 0 && totals->objects >= config->max_objects},
    };
    json_t *list = json_array();
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        if (rows[i].exhausted && json_array_append_new(list, json_string(rows[i].name)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static void handle_ready(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_service_totals_t totals;
    mcs_service_totals(admin->config.service, &totals);
    mcs_json_reply(request, 200,
                   json_pack("{s:s, s:I, s:I, s:I, s:o}", "status", "ready", "epoch", (json_int_t)totals.epoch,
                             "clients", (json_int_t)totals.clients, "segments", (json_int_t)totals.segments,
                             "exhausted", mcs_i_admin_exhausted(admin->config.config, &totals)));
}

static void handle_metrics(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_buf_t buf;
    mcs_buf_init(&buf, METRICS_MAX);
    mcs_metrics_write_prometheus(admin->config.metrics, admin->config.service, &buf);
    mcs_http_reply_buf(request, 200, METRICS_TYPE, &buf);
}

static void handle_summary(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_buf_t buf;
    mcs_buf_init(&buf, METRICS_MAX);
    mcs_summary_write(admin->config.summary, admin->config.metrics, admin->config.service, false, &buf);
    mcs_http_reply_buf(request, 200, METRICS_TYPE, &buf);
}

static void handle_role(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, "leader");
}

static void handle_ha_status(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, "serving");
}

static void handle_leader(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_json_reply(request, 200, json_pack("{s:b, s:n, s:n}", "present", 0, "leader_address", "view_version"));
}

/* A parameter that is there and no text: it must not count as one that is not there. */
static bool is_no_text(const mcs_http_request_t *request, const char *name)
{
    return mcs_http_query(request, name, NULL) != NULL && mcs_http_query_text(request, name) == NULL;
}

static void handle_remove_all(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    const char *force_text = mcs_http_query_text(request, "force");
    const char *tenant = mcs_http_query_text(request, "tenant_id");
    bool force = false;
    if (is_no_text(request, "force") || is_no_text(request, "tenant_id") ||
        (force_text != NULL && mcs_parse_bool(force_text, &force) != MCS_OK)) {
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
        return;
    }
    if (tenant != NULL && tenant[0] != '\0' && strcmp(tenant, "default") != 0) {
        mcs_json_reply_status(request, MCS_ERR_UNAVAILABLE_IN_CURRENT_MODE); /* there are no other tenants */
        return;
    }
    int64_t count = mcs_service_remove_all(admin->config.service, force);
    if (count < 0) {
        mcs_json_reply_status(request, (mcs_status_t)count);
        return;
    }
    mcs_json_reply(request, 200, json_pack("{s:b, s:I}", "success", 1, "removed_count", (json_int_t)count));
}

/* There is no event publisher: off is the whole truth. */
static void handle_kv_events(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_json_reply(request, 200,
                   json_pack("{s:b, s:i, s:i, s:i, s:i}", "enabled", 0, "published_batches", 0, "published_events", 0,
                             "dropped_events", 0, "skipped_unparsed_keys", 0));
}

/* Tenants are off, as in the original by default: every question about quotas is answered so. */
static void handle_tenant_quotas(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_json_reply_status(request, MCS_ERR_UNAVAILABLE_IN_CURRENT_MODE);
}

static void reply_log_level(mcs_http_request_t *request)
{
    mcs_json_reply(request, 200, json_pack("{s:b, s:s}", "success", 1, "level", mcs_log_level_text()));
}

static void handle_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    reply_log_level(request);
}

/* "?level=DEBUG", or {"level":"DEBUG"} as the body. */
static void handle_set_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    const char *level = mcs_http_query_text(request, "level");
    json_t *body = NULL;
    if (level == NULL) {
        size_t len = 0;
        const uint8_t *bytes = mcs_http_body(request, &len);
        body = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, NULL);
        level = json_string_value(json_object_get(body, "level")); /* of what is no object: NULL */
    }
    bool ok = mcs_http_try_log_level(level);
    json_decref(body);
    if (!ok) {
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
        return;
    }
    reply_log_level(request);
}

static const mcs_http_route_t g_routes[] = {
    {"GET", "/", mcs_i_admin_dashboard_page},
    {"GET", "/health", handle_health},
    {"GET", "/ready", handle_ready},
    {"GET", "/version", mcs_http_version},
    {"GET", "/metrics", handle_metrics},
    {"GET", "/metrics/summary", handle_summary},
    {"GET", "/role", handle_role},
    {"GET", "/ha_status", handle_ha_status},
    {"GET", "/leader", handle_leader},
    {"GET", "/query_key", mcs_i_admin_query_key},
    {"GET", "/batch_query_keys", mcs_i_admin_batch_query_keys},
    {"GET", "/get_all_keys", mcs_i_admin_all_keys},
    {"GET", "/get_all_segments", mcs_i_admin_all_segments},
    {"GET", "/get_segments_detail", mcs_i_admin_segments_detail},
    {"GET", "/query_segment", mcs_i_admin_query_segment},
    {"GET", "/api/v1/segments/status", mcs_i_admin_segment_status},
    {"POST", "/api/v1/remove_all", handle_remove_all},
    {"GET", "/kv_events/status", handle_kv_events},
    {"GET", "/api/v1/tenant_quotas", handle_tenant_quotas},
    {"PUT", "/api/v1/tenant_quotas", handle_tenant_quotas},
    {"DELETE", "/api/v1/tenant_quotas", handle_tenant_quotas},
    {"GET", "/api/v1/log_level", handle_log_level},
    {"PUT", "/api/v1/log_level", handle_set_log_level},
    {"GET", "/api/v1/clients", mcs_i_admin_clients},
    {"GET", "/api/v1/dashboard", mcs_i_admin_dashboard_json},
    {"POST", "/api/v1/drain_jobs", mcs_i_admin_drain_start},
    {"GET", "/api/v1/drain_jobs/query", mcs_i_admin_drain_query},
    {"POST", "/api/v1/drain_jobs/cancel", mcs_i_admin_drain_cancel},
};

/* What probes and a browser ask for without a token: nothing of what is stored. */
static const char *const g_open_paths[] = {"/", "/health", "/ready", "/version", NULL};

mcs_status_t mcs_http_admin_create(const mcs_http_admin_config_t *config, mcs_http_admin_t **admin_out)
{
    mcs_http_admin_t *admin = MCS_NEW(mcs_http_admin_t);
    if (admin == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    admin->config = *config;
    admin->started_ns = mcs_now_ns();
    const mcs_http_config_t http = {
        .name = "http admin",
        .address = config->address,
        .port = config->port,
        .tls = config->tls,
        .token = config->config->admin_token,
        .open_paths = g_open_paths,
        .routes = g_routes,
        .route_count = MCS_ARRAY_LEN(g_routes),
        .arg = admin,
        .body_max = (size_t)1 << 20,
        .bodies_max = (size_t)16 << 20,
        .answers_max = (size_t)256 << 20,
        .threads = 4, /* remove_all keeps one busy for its whole walk */
        .max_connections = 256,
        .max_streams = 8,
    };
    mcs_status_t status = mcs_http_server_create(&http, &admin->server);
    if (status != MCS_OK) {
        mcs_free(admin);
        return status;
    }
    *admin_out = admin;
    return MCS_OK;
}

mcs_status_t mcs_http_admin_start(mcs_http_admin_t *admin)
{
    return mcs_http_server_start(admin->server);
}

void mcs_http_admin_stop(mcs_http_admin_t *admin)
{
    if (admin != NULL) {
        mcs_http_server_stop(admin->server);
    }
}

void mcs_http_admin_destroy(mcs_http_admin_t *admin)
{
    if (admin == NULL) {
        return;
    }
    mcs_http_server_destroy(admin->server);
    mcs_free(admin);
}

uint16_t mcs_http_admin_port(const mcs_http_admin_t *admin)
{
    return mcs_http_server_port(admin->server);
}
