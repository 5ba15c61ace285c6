/* What a client measures of itself, for Prometheus and for people: bytes and latencies of transfers, of the calls of
 * the API, and of the requests to the master. The names are those of the original's clients; counters.def is shown
 * beside them.
 *
 * Relaxed atomics, any thread; written on the request path (some additions), read off it. With MC_STORE_CLIENT_METRIC=0
 * nothing is measured. */
#ifndef MCS_CLIENT_METRICS_H
#define MCS_CLIENT_METRICS_H

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/thread.h"
#include "mcstore/mcstore.h"

struct mcs_client;

/* Latency in microseconds; the last bucket is for what is longer. */
#define MCS_LATENCY_BUCKETS 28
typedef struct mcs_latency {
    uint64_t buckets[MCS_LATENCY_BUCKETS];
    uint64_t sum_us;
} mcs_latency_t;

/* Calls of the API that move payload. */
typedef enum mcs_op_kind {
#define MCS_OP_ROW(symbol, name, family, is_read) symbol,
#include "core/client/client_metrics.def"
#undef MCS_OP_ROW
    MCS_OP_KINDS
} mcs_op_kind_t;

/* The histograms that calls are summed up in. */
typedef enum mcs_op_family {
    MCS_FAMILY_GET,
    MCS_FAMILY_BATCH_GET,
    MCS_FAMILY_PUT,
    MCS_FAMILY_BATCH_PUT,
    MCS_FAMILIES
} mcs_op_family_t;

typedef struct mcs_op_figures {
    uint64_t bytes;
    mcs_latency_t latency;
} mcs_op_figures_t;

#define MCS_METRIC_VERBS 64 /* requests have numbers below */

typedef struct mcs_client_metrics {
    bool on; /* constant after set-up */
    uint64_t read_bytes;
    uint64_t written_bytes;
    mcs_latency_t families[MCS_FAMILIES];
    mcs_op_figures_t ops[MCS_OP_KINDS];
    mcs_latency_t rpc[MCS_METRIC_VERBS];
    uint64_t started_ns;
    /* The bandwidth lines of the last periodic summary: its thread's alone. */
    uint64_t last_ns;
    uint64_t last_read;
    uint64_t last_written;
} mcs_client_metrics_t;

/* 0 when nothing is measured. */
static inline uint64_t mcs_metrics_begin(const mcs_client_metrics_t *metrics)
{
    return metrics->on ? mcs_now_ns() : 0;
}
/* A call that has ended; with begun_ns 0 nothing happens. `one` is its kind with one key; the kind with several is the
 * next one. What was moved is in the results; of a get's, those without a buffer are not set (`buffers` NULL: all are).
 */
void mcs_metrics_get(mcs_client_metrics_t *metrics, mcs_op_kind_t one, uint64_t begun_ns, const struct iovec *buffers,
                     const int64_t *results, size_t count);
void mcs_metrics_put(mcs_client_metrics_t *metrics, unsigned flags, uint64_t begun_ns, const mcs_value_t *values,
                     const int *results, size_t count);
void mcs_metrics_parts(mcs_client_metrics_t *metrics, mcs_op_kind_t one, uint64_t begun_ns,
                       const mcs_parts_list_t *lists, size_t count);
void mcs_metrics_rpc(mcs_client_metrics_t *metrics, unsigned verb, uint64_t begun_ns);

/* Appends everything in Prometheus text format 0.0.4. */
void mcs_client_metrics_write(struct mcs_client *client, mcs_buf_t *out);
/* Appends the summary: lines for people. `tick`: the bandwidth lines of the next one count from now. */
void mcs_client_metrics_summary(struct mcs_client *client, bool tick, mcs_buf_t *out);

typedef struct mcs_client_reports {
    bool begun;
    mcs_event_t stop;
    mcs_thread_t thread;
    void *http; /* the server, NULL = none */
} mcs_client_reports_t;

/* What set-up begins as configuration says, and close ends: the thread that logs the summary
 * (MC_STORE_CLIENT_METRIC_INTERVAL) and the HTTP server. */
mcs_status_t mcs_client_reports_start(struct mcs_client *client, bool http, uint16_t http_port) MCS_MUST_CHECK;
void mcs_client_reports_stop(struct mcs_client *client);

#endif
