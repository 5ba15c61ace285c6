/* See metrics.h. Hot path: observe is two relaxed additions to shared lines, as the counters are. */
#include "master/metrics.h"

#include <inttypes.h>
#include <string.h>

static const uint64_t g_bounds[] = {4096, 65536, 262144, 1048576, 4194304, 16777216, 67108864};
_Static_assert(MCS_ARRAY_LEN(g_bounds) + 1 == MCS_ARRAY_LEN(((mcs_metrics_t *)NULL)->value_size_buckets),
               "one bucket more for what is larger");

typedef struct counter_row {
    const char *name;
    const char *help;
    size_t offset;
} counter_row_t;

static const counter_row_t g_rows[] = {
#define MCS_COUNTER_ROW(field, name, help) {name, help, offsetof(mcs_metrics_t, field)},
#include "master/metrics.def"
#undef MCS_COUNTER_ROW
};

typedef struct absent_row {
    const char *name;
    const char *help;
    const char *type;
} absent_row_t;

static const absent_row_t g_absent[] = {
#define MCS_COUNTER_ROW(field, name, help)
#define MCS_ABSENT_ROW(type, name, help) {name, help, #type},
#include "master/metrics.def"
#undef MCS_COUNTER_ROW
};

void mcs_metrics_observe_value_size(mcs_metrics_t *metrics, uint64_t bytes)
{
    size_t bucket = 0;
    while (bucket < MCS_ARRAY_LEN(g_bounds) && bytes > g_bounds[bucket]) {
        bucket++;
    }
    (void)__atomic_fetch_add(&metrics->value_size_buckets[bucket], 1, __ATOMIC_RELAXED);
    mcs_metric_add(metrics, value_size_sum, bytes);
    mcs_metric_add(metrics, value_size_count, 1);
}

/* Prometheus wants cumulative buckets, and the count equal to the last: it is summed here, not read, since the fields
 * are not read at one moment. */
static void write_value_sizes(const mcs_metrics_t *metrics, mcs_buf_t *out)
{
    uint64_t total = 0;
    mcs_buf_printf(out, "# HELP master_value_size_bytes sizes of stored objects\n"
                        "# TYPE master_value_size_bytes histogram\n");
    for (size_t i = 0; i < MCS_ARRAY_LEN(metrics->value_size_buckets); i++) {
        total += __atomic_load_n(&metrics->value_size_buckets[i], __ATOMIC_RELAXED);
        if (i < MCS_ARRAY_LEN(g_bounds)) {
            mcs_buf_printf(out, "master_value_size_bytes_bucket{le=\"%" PRIu64 "\"} %" PRIu64 "\n", g_bounds[i], total);
        }
    }
    mcs_buf_printf(out,
                   "master_value_size_bytes_bucket{le=\"+Inf\"} %" PRIu64 "\nmaster_value_size_bytes_sum %" PRIu64
                   "\nmaster_value_size_bytes_count %" PRIu64 "\n",
                   total, mcs_metric_get(metrics, value_size_sum), total);
}

static void write_absent(mcs_buf_t *out)
{
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_absent); i++) {
        const absent_row_t *row = &g_absent[i];
        mcs_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name, row->type);
        if (strcmp(row->type, "histogram") == 0) {
            mcs_buf_printf(out, "%s_bucket{le=\"+Inf\"} 0\n%s_sum 0\n%s_count 0\n", row->name, row->name, row->name);
        } else {
            mcs_buf_printf(out, "%s 0\n", row->name);
        }
    }
}

void mcs_metrics_write_counters(const mcs_metrics_t *metrics, mcs_buf_t *out)
{
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_rows); i++) {
        const counter_row_t *row = &g_rows[i];
        const uint64_t *field = (const uint64_t *)(const void *)((const char *)metrics + row->offset);
        mcs_buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n%s %" PRIu64 "\n", row->name, row->help, row->name,
                       row->name, __atomic_load_n(field, __ATOMIC_RELAXED));
    }
    write_value_sizes(metrics, out);
    write_absent(out);
}
