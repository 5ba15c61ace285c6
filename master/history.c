/* See history.h. */
#include "master/history.h"

#include <inttypes.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/lock.h"

static const char *const g_names[] = {
    "at_ms",
#define MCS_HISTORY_ROW(name, expression) #name,
#include "master/history.def"
#undef MCS_HISTORY_ROW
};
#define FIELDS MCS_ARRAY_LEN(g_names)

/* Rows that are copied at a time while a page is written: the sampler does not wait for it. */
#define COPY_ROWS 16u

struct mcs_history {
    mcs_mutex_t lock;                     /* rank METRICS: what follows */
    uint64_t taken MCS_GUARDED_BY(&lock); /* rows ever; row n is at n % MCS_HISTORY_ROWS */
    uint64_t rows[MCS_HISTORY_ROWS][FIELDS] MCS_GUARDED_BY(&lock);
};

mcs_status_t mcs_history_create(mcs_history_t **history_out)
{
    mcs_history_t *history = MCS_NEW(mcs_history_t);
    if (history == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&history->lock, MCS_RANK_METRICS, "history");
    *history_out = history;
    return MCS_OK;
}

void mcs_history_destroy(mcs_history_t *history)
{
    if (history == NULL) {
        return;
    }
    mcs_mutex_fini(&history->lock);
    mcs_free(history);
}

void mcs_history_sample(mcs_history_t *history, const mcs_metrics_t *metrics, mcs_service_t *service)
{
    mcs_service_totals_t totals;
    const mcs_service_totals_t *t = &totals;
    const mcs_metrics_t *m = metrics;
    mcs_service_totals(service, &totals);
    const uint64_t row[FIELDS] = {
        mcs_now_ns() / MCS_NS_PER_MS,
#define MCS_HISTORY_ROW(name, expression) (expression),
#include "master/history.def"
#undef MCS_HISTORY_ROW
    };
    mcs_mutex_lock(&history->lock);
    __builtin_memcpy(history->rows[history->taken % MCS_HISTORY_ROWS], row, sizeof(row));
    history->taken++;
    mcs_mutex_unlock(&history->lock);
}

/* Copies rows from *next on; *next moves behind them. Rows that were overwritten meanwhile are passed over. */
static uint32_t copy_rows(mcs_history_t *history, uint64_t *next, uint64_t rows[COPY_ROWS][FIELDS])
{
    uint32_t count = 0;
    mcs_mutex_lock(&history->lock);
    uint64_t oldest = history->taken > MCS_HISTORY_ROWS ? history->taken - MCS_HISTORY_ROWS : 0;
    *next = MCS_MAX(*next, oldest);
    while (count < COPY_ROWS && *next < history->taken) {
        __builtin_memcpy(rows[count++], history->rows[*next % MCS_HISTORY_ROWS], sizeof(rows[0]));
        (*next)++;
    }
    mcs_mutex_unlock(&history->lock);
    return count;
}

static void write_row(const uint64_t row[FIELDS], bool first, mcs_buf_t *out)
{
    for (size_t i = 0; i < FIELDS; i++) {
        mcs_buf_printf(out, "%s%" PRIu64, i > 0 ? "," : (first ? "[" : ",["), row[i]);
    }
    mcs_buf_printf(out, "]");
}

void mcs_history_write(mcs_history_t *history, uint64_t since_ms, mcs_buf_t *out)
{
    uint64_t rows[COPY_ROWS][FIELDS];
    uint64_t next = 0;
    bool first = true;
    mcs_buf_printf(out, "\"fields\":[");
    for (size_t i = 0; i < FIELDS; i++) {
        mcs_buf_printf(out, "%s\"%s\"", i > 0 ? "," : "", g_names[i]);
    }
    mcs_buf_printf(out, "],\"samples\":[");
    for (uint32_t count; (count = copy_rows(history, &next, rows)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            if (rows[i][0] > since_ms) {
                write_row(rows[i], first, out);
                first = false;
            }
        }
    }
    mcs_buf_printf(out, "]");
}
