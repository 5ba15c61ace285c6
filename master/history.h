/* The master's last minutes in figures, a row a second (history.def): what a dashboard shows after a reload, without
 * anything outside the master. A ring of fixed size; taking a row costs a walk over counters, never over objects.
 *
 * Times are milliseconds of the master's monotonic clock. Thread-safe. Lock: MCS_RANK_METRICS, held to copy rows. */
#ifndef MCS_MASTER_HISTORY_H
#define MCS_MASTER_HISTORY_H

#include "core/base/buf.h"
#include "master/metrics.h"
#include "master/service.h"

#define MCS_HISTORY_ROWS 600u
/* A row is due this long after the one before. */
#define MCS_HISTORY_PERIOD_NS (UINT64_C(1000000000))

typedef struct mcs_history mcs_history_t;

mcs_status_t mcs_history_create(mcs_history_t **history_out) MCS_MUST_CHECK;
void mcs_history_destroy(mcs_history_t *history); /* NULL is fine */
/* Takes a row of this moment; the oldest one goes. */
void mcs_history_sample(mcs_history_t *history, const mcs_metrics_t *metrics, mcs_service_t *service);
/* Appends `"fields":["at_ms",…],"samples":[[…],…]`: the rows after `since_ms` (0: all), oldest first. */
void mcs_history_write(mcs_history_t *history, uint64_t since_ms, mcs_buf_t *out);

#endif
