/* See http_dashboard.h. The JSON is figures of one moment, the history since the last one, and lists of segments and
 * clients that end at a bound: a page that is open all day costs the master a walk over some counters every few
 * seconds. */
#include "master/http_dashboard.h"

#include <string.h>

#include "core/base/clock.h"
#include "core/base/parse.h"
#include "master/http_admin_internal.h"
#include "master/http_json.h"

/* What a person can look at; the sums cover all. */
#define SEGMENTS_SHOWN 256u
#define CLIENTS_SHOWN  256u
#define CLIENTS_MAX    65536u
#define PAGE_MAX       ((size_t)16 << 20)

void mcs_i_admin_dashboard_page(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply(request, 200, "text/html; charset=utf-8", mcs_dashboard_page, mcs_dashboard_page_len);
}

typedef struct shown {
    json_t *list;
    size_t max;
    bool failed;
} shown_t;

/* Takes `item`. False: stop. */
static bool add_shown(shown_t *shown, json_t *item)
{
    shown->failed = json_array_append_new(shown->list, item) != 0;
    return !shown->failed && json_array_size(shown->list) < shown->max;
}

static bool add_segment(void *arg, const mcs_service_segment_t *s)
{
    char id[MCS_ID_TEXT_MAX];
    mcs_id_format(s->instance, id);
    return add_shown((shown_t *)arg,
                     json_pack("{s:o, s:s, s:s, s:I, s:I, s:I, s:b}", "name", mcs_json_text(s->name, strlen(s->name)),
                               "id", id, "status", mcs_i_admin_state_name(s->state), "capacity_bytes",
                               (json_int_t)s->size, "allocated_bytes", (json_int_t)s->used, "quarantine_bytes",
                               (json_int_t)s->quarantine, "suspect", (int)s->suspect));
}

static bool add_client(void *arg, const mcs_service_client_t *c)
{
    char id[MCS_ID_TEXT_MAX];
    mcs_id_format(c->client, id);
    return add_shown((shown_t *)arg,
                     json_pack("{s:o, s:s, s:I, s:o, s:b, s:b, s:I, s:I, s:I, s:I, s:I}", "name",
                               mcs_json_text(c->name, strlen(c->name)), "client_id", id, "pid", (json_int_t)c->pid,
                               "data_plane", mcs_json_text(c->wire, strlen(c->wire)), "connected", (int)c->connected,
                               "suspect", (int)c->suspect, "segments", (json_int_t)c->segments, "open_puts",
                               (json_int_t)c->open_puts, "fences", (json_int_t)c->fences, "releases",
                               (json_int_t)c->releases, "silent_ms", (json_int_t)c->silent_ms));
}

/* NULL: no memory. */
static json_t *finish(shown_t *shown)
{
    if (shown->failed) {
        json_decref(shown->list);
        return NULL;
    }
    return shown->list;
}

static json_t *list_segments(mcs_service_t *service)
{
    shown_t shown = {.list = json_array(), .max = SEGMENTS_SHOWN};
    if (shown.list != NULL) {
        mcs_service_for_each_segment(service, add_segment, &shown);
    }
    return finish(&shown);
}

static json_t *list_clients(mcs_service_t *service, size_t max)
{
    shown_t shown = {.list = json_array(), .max = max};
    if (shown.list != NULL) {
        mcs_service_for_each_client(service, add_client, &shown);
    }
    return finish(&shown);
}

void mcs_i_admin_clients(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_service_totals_t totals;
    mcs_service_totals(admin->config.service, &totals);
    mcs_json_reply(request, 200,
                   json_pack("{s:I, s:o}", "total_clients", (json_int_t)totals.clients, "clients",
                             list_clients(admin->config.service, CLIENTS_MAX)));
}

static json_t *now_json(const mcs_http_admin_t *admin)
{
    const mcs_master_config_t *config = admin->config.config;
    mcs_service_totals_t totals;
    mcs_service_totals(admin->config.service, &totals);
    return json_pack("{s:I, s:I, s:I, s:I, s:s, s:o, s:I, s:f, s:I, s:o, s:o, s:o}", "now_ms",
                     (json_int_t)(mcs_now_ns() / MCS_NS_PER_MS), "wall_ms", (json_int_t)mcs_wall_ms(), "uptime_ms",
                     (json_int_t)((mcs_now_ns() - admin->started_ns) / MCS_NS_PER_MS), "epoch",
                     (json_int_t)totals.epoch, "version", MCS_VERSION, "cluster_id",
                     mcs_json_text(config->cluster_id, strlen(config->cluster_id)), "lease_ms",
                     (json_int_t)config->default_kv_lease_ttl, "watermark", config->eviction_high_watermark_ratio,
                     "period_ms", (json_int_t)(MCS_HISTORY_PERIOD_NS / MCS_NS_PER_MS), "exhausted",
                     mcs_i_admin_exhausted(config, &totals), "segments", list_segments(admin->config.service),
                     "clients", list_clients(admin->config.service, CLIENTS_SHOWN));
}

void mcs_i_admin_dashboard_json(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    const char *since_text = mcs_http_query(request, "since", NULL);
    uint64_t since_ms = 0;
    if (since_text != NULL && mcs_parse_u64(since_text, UINT64_MAX, &since_ms) != MCS_OK) {
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
        return;
    }
    mcs_buf_t page;
    mcs_buf_init(&page, PAGE_MAX);
    mcs_json_write(now_json(admin), &page);
    if (page.len > 0) {
        page.len--; /* the closing brace: the history follows */
        mcs_buf_append(&page, ",", 1);
        mcs_history_write(admin->config.history, since_ms, &page);
        mcs_buf_append(&page, "}", 1);
    }
    mcs_http_reply_buf(request, 200, MCS_HTTP_JSON, &page);
}
