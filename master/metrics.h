/* The master's counters: one X-macro list (metrics.def), relaxed atomics, printed in Prometheus text format 0.0.4. */
#ifndef MCS_MASTER_METRICS_H
#define MCS_MASTER_METRICS_H

#include "core/base/buf.h"

typedef struct mcs_metrics {
#define MCS_COUNTER_ROW(field, name, help) uint64_t field;
#include "master/metrics.def"
#undef MCS_COUNTER_ROW
    /* master_value_size_bytes: 4096, 65536, 262144, 1048576, 4194304, 16777216, 67108864, +Inf; then sum and count */
    uint64_t value_size_buckets[8];
    uint64_t value_size_sum;
    uint64_t value_size_count;
} mcs_metrics_t;

#define mcs_metric_add(metrics, field, n) ((void)__atomic_fetch_add(&(metrics)->field, (uint64_t)(n), __ATOMIC_RELAXED))
#define mcs_metric_get(metrics, field)    __atomic_load_n(&(metrics)->field, __ATOMIC_RELAXED)
void mcs_metrics_observe_value_size(mcs_metrics_t *metrics, uint64_t bytes);
/* Counters, the histogram, and what is always zero here; the other gauges are in metrics_text.h. */
void mcs_metrics_write_counters(const mcs_metrics_t *metrics, mcs_buf_t *out);

#endif
