/* The master's metrics for people and for Prometheus: counters of metrics.h, gauges of service.h. Thread-safe. */
#ifndef MCS_MASTER_METRICS_TEXT_H
#define MCS_MASTER_METRICS_TEXT_H

#include "core/base/buf.h"
#include "core/base/lock.h"
#include "master/metrics.h"
#include "master/service.h"

/* Everything in Prometheus text format 0.0.4, zeros included. */
void mcs_metrics_write_prometheus(const mcs_metrics_t *metrics, mcs_service_t *service, mcs_buf_t *out);

/* The one-line summary. Rates are relative to the last tick. */
typedef struct mcs_summary {
    mcs_mutex_t lock; /* rank METRICS */
    mcs_metrics_t last MCS_GUARDED_BY(&lock);
    uint64_t last_ns MCS_GUARDED_BY(&lock);
} mcs_summary_t;
void mcs_summary_init(mcs_summary_t *summary);
void mcs_summary_fini(mcs_summary_t *summary);
/* "role=leader, state=serving, …"; `tick`: the next rates count from now. */
void mcs_summary_write(mcs_summary_t *summary, const mcs_metrics_t *metrics, mcs_service_t *service, bool tick,
                       mcs_buf_t *out);

#endif
