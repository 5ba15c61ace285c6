/* See client_metrics.h. */
#include "core/client/client_metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/client/client.h"
#include "core/client/local.h"
#include "core/client/parts.h"

#define AREA       "client"
#define TEXT_MAX   ((size_t)4 << 20)
#define LABELS_MAX 320

static const uint64_t g_bounds_us[] = {50,    75,     125,    150,    200,     250,     300,     400,      500,
                                       750,   1000,   1500,   2000,   3000,    5000,    7000,    15000,    20000,
                                       50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 20000000};
_Static_assert(MCS_ARRAY_LEN(g_bounds_us) + 1 == MCS_LATENCY_BUCKETS, "one bucket more for what is longer");

typedef struct op_row {
    const char *name;
    mcs_op_family_t family;
    bool is_read;
} op_row_t;
static const op_row_t g_ops[] = {
#define MCS_OP_ROW(symbol, name, family, is_read) {name, family, is_read},
#include "core/client/client_metrics.def"
#undef MCS_OP_ROW
};
static const char *const g_families[] = {"get", "batch_get", "put", "batch_put"};

/* ---- measuring ---- */

static void add(uint64_t *field, uint64_t n)
{
    (void)__atomic_fetch_add(field, n, __ATOMIC_RELAXED);
}

static uint64_t read_field(const uint64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static void observe(mcs_latency_t *latency, uint64_t us)
{
    size_t bucket = 0;
    while (bucket < MCS_ARRAY_LEN(g_bounds_us) && us > g_bounds_us[bucket]) {
        bucket++;
    }
    add(&latency->buckets[bucket], 1);
    add(&latency->sum_us, us);
}

static void observe_op(mcs_client_metrics_t *metrics, mcs_op_kind_t one, size_t keys, uint64_t begun_ns, uint64_t bytes)
{
    size_t kind = (size_t)one + (keys == 1 ? 0 : 1);
    uint64_t us = (mcs_now_ns() - begun_ns) / MCS_NS_PER_US;
    observe(&metrics->families[g_ops[kind].family], us);
    observe(&metrics->ops[kind].latency, us);
    add(&metrics->ops[kind].bytes, bytes);
    add(g_ops[kind].is_read ? &metrics->read_bytes : &metrics->written_bytes, bytes);
}

void mcs_metrics_get(mcs_client_metrics_t *metrics, mcs_op_kind_t one, uint64_t begun_ns, const struct iovec *buffers,
                     const int64_t *results, size_t count)
{
    if (begun_ns == 0) {
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; results != NULL && i < count; i++) {
        bool is_set = buffers == NULL || buffers[i].iov_base != NULL;
        bytes += is_set && results[i] > 0 ? (uint64_t)results[i] : 0;
    }
    observe_op(metrics, one, count, begun_ns, bytes);
}

void mcs_metrics_put(mcs_client_metrics_t *metrics, unsigned flags, uint64_t begun_ns, const mcs_value_t *values,
                     const int *results, size_t count)
{
    if (begun_ns == 0) {
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; results[i] == 0 && k < values[i].iov_count; k++) {
            bytes += values[i].iov[k].iov_len;
        }
    }
    observe_op(metrics, (flags & MCS_PUT_UPSERT) != 0 ? MCS_OP_UPSERT : MCS_OP_PUT, count, begun_ns, bytes);
}

void mcs_metrics_parts(mcs_client_metrics_t *metrics, mcs_op_kind_t one, uint64_t begun_ns,
                       const mcs_parts_list_t *lists, size_t count)
{
    if (begun_ns == 0) {
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t p = 0; p < lists[i].count; p++) {
            bytes += lists[i].parts[p].result > 0 ? (uint64_t)lists[i].parts[p].result : 0;
        }
    }
    observe_op(metrics, one, count, begun_ns, bytes);
}

void mcs_metrics_rpc(mcs_client_metrics_t *metrics, unsigned verb, uint64_t begun_ns)
{
    if (metrics != NULL && metrics->on && begun_ns != 0 && verb < MCS_METRIC_VERBS) {
        observe(&metrics->rpc[verb], (mcs_now_ns() - begun_ns) / MCS_NS_PER_US);
    }
}

/* ---- Prometheus ---- */

static void head(mcs_buf_t *out, const char *name, const char *type, const char *help)
{
    mcs_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `client_mode="real",cluster_id="…"`, escaped. */
static void make_labels(const mcs_client_t *client, char labels[LABELS_MAX])
{
    static const char start[] = "client_mode=\"real\",cluster_id=\"";
    size_t len = sizeof(start) - 1;
    memcpy(labels, start, len);
    for (const char *c = client->config.store_cluster_id; *c != '\0' && len < LABELS_MAX - 4; c++) {
        if (*c == '"' || *c == '\\') {
            labels[len++] = '\\';
        }
        labels[len++] = *c == '\n' ? ' ' : *c;
    }
    memcpy(labels + len, "\"", 2);
}

static uint64_t count_of(const mcs_latency_t *latency)
{
    uint64_t count = 0;
    for (size_t i = 0; i < MCS_LATENCY_BUCKETS; i++) {
        count += read_field(&latency->buckets[i]);
    }
    return count;
}

static void write_latency(mcs_buf_t *out, const char *name, const char *labels, const mcs_latency_t *latency)
{
    uint64_t total = 0;
    for (size_t i = 0; i < MCS_LATENCY_BUCKETS; i++) {
        total += read_field(&latency->buckets[i]);
        if (i < MCS_ARRAY_LEN(g_bounds_us)) {
            mcs_buf_printf(out, "%s_bucket{%s,le=\"%" PRIu64 "\"} %" PRIu64 "\n", name, labels, g_bounds_us[i], total);
        }
    }
    mcs_buf_printf(out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n%s_sum{%s} %" PRIu64 "\n%s_count{%s} %" PRIu64 "\n",
                   name, labels, total, name, labels, read_field(&latency->sum_us), name, labels, total);
}

/* "get_replica_list" is GetReplicaList to dashboards. */
static void camel(const char *verb, char *name, size_t size)
{
    size_t len = 0;
    bool upper = true;
    for (const char *c = verb; *c != '\0' && len + 1 < size; c++) {
        if (*c == '_') {
            upper = true;
        } else {
            name[len++] = (char)(upper && *c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
            upper = false;
        }
    }
    name[len] = '\0';
}

static void write_rpc(const mcs_client_metrics_t *metrics, const char *labels, mcs_buf_t *out)
{
    for (int pass = 0; pass < 2; pass++) {
        head(out, pass == 0 ? "mooncake_client_rpc_count" : "mooncake_client_rpc_latency",
             pass == 0 ? "counter" : "histogram", pass == 0 ? "requests to the master" : "their time in us");
        for (unsigned verb = 0; verb < MCS_METRIC_VERBS; verb++) {
            uint64_t count = count_of(&metrics->rpc[verb]);
            char name[48];
            char all[LABELS_MAX + 80];
            if (count == 0) {
                continue;
            }
            camel(mcs_verb_name(verb), name, sizeof(name));
            snprintf(all, sizeof(all), "%s,rpc_name=\"%s\"", labels, name);
            if (pass == 0) {
                mcs_buf_printf(out, "mooncake_client_rpc_count{%s} %" PRIu64 "\n", all, count);
            } else {
                write_latency(out, "mooncake_client_rpc_latency", all, &metrics->rpc[verb]);
            }
        }
    }
}

static void write_op(mcs_buf_t *out, const char *name, const char *labels, int what, const mcs_op_figures_t *op)
{
    if (what == 2) {
        write_latency(out, name, labels, &op->latency);
    } else {
        mcs_buf_printf(out, "%s{%s} %" PRIu64 "\n", name, labels,
                       what == 0 ? count_of(&op->latency) : read_field(&op->bytes));
    }
}

/* Those that were called. */
static void write_ops(const mcs_client_metrics_t *metrics, const char *labels, bool reads, mcs_buf_t *out)
{
    static const char *const whats[] = {"count", "bytes", "latency"};
    static const char *const helps[] = {"calls that move payload", "bytes of these calls", "their time in us"};
    for (int what = 0; what < 3; what++) {
        char name[64];
        snprintf(name, sizeof(name), "mooncake_transfer_%s_operation_%s", reads ? "read" : "write", whats[what]);
        head(out, name, what == 2 ? "histogram" : "counter", helps[what]);
        for (size_t i = 0; i < MCS_OP_KINDS; i++) {
            char all[LABELS_MAX + 80];
            if (g_ops[i].is_read == reads && count_of(&metrics->ops[i].latency) > 0) {
                snprintf(all, sizeof(all), "%s,op_name=\"%s\"", labels, g_ops[i].name);
                write_op(out, name, all, what, &metrics->ops[i]);
            }
        }
    }
}

/* There is no SSD tier: the names are there and stay zero. */
static void write_ssd(const char *labels, mcs_buf_t *out)
{
    static const char *const counters[] = {"read_bytes", "write_bytes", "read_ops",
                                           "write_ops",  "total_bytes", "total_ops"};
    static const char *const latencies[] = {"read", "write", "total"};
    char name[64];
    for (size_t i = 0; i < MCS_ARRAY_LEN(counters); i++) {
        snprintf(name, sizeof(name), "mooncake_ssd_%s_total", counters[i]);
        head(out, name, "counter", "no SSD tier in this build");
        mcs_buf_printf(out, "%s{%s} 0\n", name, labels);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(latencies); i++) {
        snprintf(name, sizeof(name), "mooncake_ssd_%s_latency_us", latencies[i]);
        head(out, name, "histogram", "no SSD tier in this build");
        mcs_buf_printf(out, "%s_bucket{%s,le=\"+Inf\"} 0\n%s_sum{%s} 0\n%s_count{%s} 0\n", name, labels, name, labels,
                       name, labels);
        snprintf(name, sizeof(name), "mooncake_ssd_%s_latency_summary_us", latencies[i]);
        head(out, name, "summary", "no SSD tier in this build");
        mcs_buf_printf(out, "%s_sum{%s} 0\n%s_count{%s} 0\n", name, labels, name, labels);
    }
}

typedef struct own_counters {
    mcs_buf_t *out;
    const char *labels;
} own_counters_t;

static void write_own(void *arg, const char *name, uint64_t value)
{
    const own_counters_t *own = (const own_counters_t *)arg;
    mcs_buf_printf(own->out, "# TYPE mcs_client_%s untyped\nmcs_client_%s{%s} %" PRIu64 "\n", name, name, own->labels,
                   value);
}

void mcs_client_metrics_write(mcs_client_t *client, mcs_buf_t *out)
{
    const mcs_client_metrics_t *metrics = &client->metrics;
    char labels[LABELS_MAX];
    make_labels(client, labels);
    head(out, "mooncake_transfer_read_bytes", "counter", "payload that calls of this client read");
    mcs_buf_printf(out, "mooncake_transfer_read_bytes{%s} %" PRIu64 "\n", labels, read_field(&metrics->read_bytes));
    head(out, "mooncake_transfer_write_bytes", "counter", "payload that calls of this client stored");
    mcs_buf_printf(out, "mooncake_transfer_write_bytes{%s} %" PRIu64 "\n", labels, read_field(&metrics->written_bytes));
    for (size_t i = 0; i < MCS_FAMILIES; i++) {
        char name[64];
        snprintf(name, sizeof(name), "mooncake_transfer_%s_latency", g_families[i]);
        head(out, name, "histogram", "time of a call in us");
        write_latency(out, name, labels, &metrics->families[i]);
    }
    write_rpc(metrics, labels, out);
    write_ops(metrics, labels, true, out);
    write_ops(metrics, labels, false, out);
    write_ssd(labels, out);
    own_counters_t own = {.out = out, .labels = labels};
    mcs_client_counters(client, write_own, &own);
}

/* ---- the summary ---- */

/* The upper bound of the bucket that holds the q-th of them, in us; the last bound for what is longer. */
static uint64_t quantile(const mcs_latency_t *latency, uint64_t count, double q)
{
    uint64_t rank = (uint64_t)((double)count * q);
    uint64_t seen = 0;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_bounds_us); i++) {
        seen += read_field(&latency->buckets[i]);
        if (seen > rank) {
            return g_bounds_us[i];
        }
    }
    return g_bounds_us[MCS_ARRAY_LEN(g_bounds_us) - 1];
}

static void write_line(mcs_buf_t *out, const char *name, const mcs_latency_t *latency)
{
    uint64_t count = count_of(latency);
    if (count == 0) {
        mcs_buf_printf(out, "%s: No data\n", name);
        return;
    }
    mcs_buf_printf(
        out, "%s: count=%" PRIu64 ", avg=%" PRIu64 "us, p50<=%" PRIu64 "us, p95<=%" PRIu64 "us, p99<=%" PRIu64 "us\n",
        name, count, read_field(&latency->sum_us) / count, quantile(latency, count, 0.5),
        quantile(latency, count, 0.95), quantile(latency, count, 0.99));
}

static void write_bandwidth(mcs_client_metrics_t *metrics, bool tick, mcs_buf_t *out)
{
    uint64_t now = mcs_now_ns();
    uint64_t read = read_field(&metrics->read_bytes);
    uint64_t written = read_field(&metrics->written_bytes);
    uint64_t last_read = tick ? metrics->last_read : 0;
    uint64_t last_written = tick ? metrics->last_written : 0;
    uint64_t since = tick && metrics->last_ns != 0 ? metrics->last_ns : metrics->started_ns;
    double seconds = (double)(now - since) / 1e9;
    seconds = seconds > 0.001 ? seconds : 0.001;
    mcs_buf_printf(out, "Read Bandwidth: %.2f MB/s\nWrite Bandwidth: %.2f MB/s\n",
                   (double)(read - last_read) / seconds / 1e6, (double)(written - last_written) / seconds / 1e6);
    if (tick) {
        metrics->last_ns = now;
        metrics->last_read = read;
        metrics->last_written = written;
    }
}

void mcs_client_metrics_summary(mcs_client_t *client, bool tick, mcs_buf_t *out)
{
    mcs_client_metrics_t *metrics = &client->metrics;
    mcs_buf_printf(out,
                   "Client Metrics Summary\n=== Transfer Metrics Summary ===\nTotal Read: %" PRIu64
                   " bytes\nTotal Write: %" PRIu64 " bytes\n",
                   read_field(&metrics->read_bytes), read_field(&metrics->written_bytes));
    if (client->config.metric_bandwidth) {
        write_bandwidth(metrics, tick, out);
    }
    static const char *const names[] = {"Get", "Batch Get", "Put", "Batch Put"};
    for (size_t i = 0; i < MCS_FAMILIES; i++) {
        write_line(out, names[i], &metrics->families[i]);
    }
    mcs_buf_printf(out, "=== RPC Metrics Summary ===\n");
    for (unsigned verb = 0; verb < MCS_METRIC_VERBS; verb++) {
        char name[48];
        if (count_of(&metrics->rpc[verb]) > 0) {
            camel(mcs_verb_name(verb), name, sizeof(name));
            write_line(out, name, &metrics->rpc[verb]);
        }
    }
    mcs_buf_printf(out, "=== Interface Operation Metrics Summary ===\n");
    for (size_t i = 0; i < MCS_OP_KINDS; i++) {
        if (count_of(&metrics->ops[i].latency) > 0) {
            write_line(out, g_ops[i].name, &metrics->ops[i].latency);
        }
    }
    mcs_buf_printf(out, "=== SSD Metrics Summary ===\nNo data\n");
}

/* ---- reports ---- */

/* Whoever asked for the lines gets them, whatever the log's level is. */
static void log_summary(mcs_client_t *client)
{
    mcs_buf_t text;
    mcs_buf_init(&text, TEXT_MAX);
    mcs_client_metrics_summary(client, true, &text);
    const char *at = mcs_buf_cstr(&text);
    for (const char *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        mcs_log_write(MCS_LOG_INFO, AREA, "%s: %.*s", client->name, (int)(end - at), at);
    }
    mcs_buf_fini(&text);
}

static void reporter_thread(void *arg)
{
    mcs_client_t *client = (mcs_client_t *)arg;
    uint64_t period_ns = client->config.metric_interval_s * MCS_NS_PER_SEC;
    while (!mcs_event_wait(&client->reports.stop, mcs_now_ns() + period_ns)) {
        log_summary(client);
    }
}

static int page_health(void *arg)
{
    return mcs_session_is_connected(((mcs_client_t *)arg)->session) ? 0 : 2;
}

static bool page_metrics(void *arg, bool summary, mcs_buf_t *out)
{
    mcs_client_t *client = (mcs_client_t *)arg;
    if (!client->metrics.on) {
        return false;
    }
    if (summary) {
        mcs_client_metrics_summary(client, false, out);
    } else {
        mcs_client_metrics_write(client, out);
    }
    return true;
}

static mcs_status_t start_http(mcs_client_t *client, uint16_t port)
{
    const mcs_client_http_ops_t *ops = mcs_parts()->http;
    const mcs_client_config_t *config = &client->config;
    const char *address = config->bind_address[0] != '\0' ? config->bind_address
                                                          : mcs_local_bind_host(client->local.host, "", config->ipv6);
    const mcs_client_pages_t pages = {.arg = client, .health = page_health, .metrics = page_metrics};
    uint16_t bound = 0;
    if (ops == NULL) {
        mcs_warn(AREA, "no HTTP server for client metrics in this program");
        return MCS_OK;
    }
    mcs_status_t status = ops->start(address, port, &pages, &client->reports.http, &bound);
    if (status == MCS_OK) {
        if (bound != 0) {
            mcs_log_write(MCS_LOG_INFO, AREA, "client %s: metrics on http port %u", client->name, bound);
        }
        return MCS_OK;
    }
    /* Several clients of a host with one port in their configuration: the first has it, all work. */
    mcs_error(AREA, "client %s: no metrics on http port %u: %s", client->name, port, mcs_status_name(status));
    return status == MCS_ERR_NO_MEMORY ? status : MCS_OK;
}

mcs_status_t mcs_client_reports_start(mcs_client_t *client, bool http, uint16_t http_port)
{
    mcs_status_t status = mcs_event_init(&client->reports.stop);
    if (status != MCS_OK) {
        return status;
    }
    client->reports.begun = true;
    if (client->metrics.on && client->config.metric_interval_s > 0) {
        status = mcs_thread_start(&client->reports.thread, "mcs-metrics", reporter_thread, client);
    }
    return status == MCS_OK && http ? start_http(client, http_port) : status;
}

void mcs_client_reports_stop(mcs_client_t *client)
{
    if (!client->reports.begun) {
        return;
    }
    client->reports.begun = false;
    if (client->reports.http != NULL) {
        mcs_parts()->http->stop(client->reports.http);
    }
    mcs_event_set(&client->reports.stop);
    mcs_thread_join(&client->reports.thread);
    mcs_event_fini(&client->reports.stop);
}
