/* See metrics_text.h. Off the request path: a walk over the segments and a buffer of text. */
#include "master/metrics_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"

/* Segments that are listed by name; the sums cover all. */
#define SEGMENTS_MAX ((size_t)65536)

typedef struct gauge_row {
    const char *name;
    const char *help;
    size_t offset; /* in mcs_service_totals_t */
} gauge_row_t;

#define GAUGE(name, field, help)                                                                                       \
    {                                                                                                                  \
        name, help, offsetof(mcs_service_totals_t, field)                                                              \
    }
static const gauge_row_t g_gauges[] = {
    GAUGE("master_allocated_bytes", allocated_bytes, "bytes given out in all segments"),
    GAUGE("master_total_capacity_bytes", capacity_bytes, "bytes of all segments"),
    GAUGE("master_key_count", objects, "readable objects"),
    GAUGE("master_soft_pin_key_count", soft_pinned, "objects with a soft pin"),
    GAUGE("master_active_clients", clients, "client sessions"),
    GAUGE("mem_cache_nums_", objects, "objects with a memory replica"),
    GAUGE("master_put_start_discarded_staging_size", discarded_staging_bytes,
          "bytes of unfinished puts past the discard timeout that have not come back"),
    /* Ours. */
    GAUGE("mcs_hard_pinned_keys", hard_pinned, "objects with a hard pin"),
    GAUGE("mcs_leased_keys", leased, "objects with a live lease"),
    GAUGE("mcs_reservations", reservations, "open puts"),
    GAUGE("mcs_spares", spares, "reservations made ahead of a put"),
    GAUGE("mcs_spare_bytes", spare_bytes, "allocated bytes of reservations made ahead of a put"),
    GAUGE("mcs_segments", segments, "mounted segments"),
    GAUGE("mcs_suspect_clients", suspect_clients, "owners without a steady control connection"),
    GAUGE("mcs_suspect_segments", suspect_segments, "segments whose owner has no control connection"),
    GAUGE("mcs_quarantine_bytes", quarantine_bytes, "bytes asked back from their owners and not answered yet"),
    GAUGE("mcs_releases_pending", releases, "extents on their way back to the allocators"),
    GAUGE("mcs_fences", fences, "revoked reservations that their writers have not acknowledged"),
    GAUGE("mcs_strikes", strikes, "values that their owners are being told to mark dead"),
    GAUGE("mcs_parked_requests", parked, "requests that wait for space or for an owner"),
    GAUGE("mcs_rpc_connections", connections, "open RPC connections"),
    GAUGE("mcs_index_bytes", index_bytes, "memory of the object index"),
    GAUGE("mcs_epoch", epoch, "epoch of this master"),
    GAUGE("mcs_journal_on", journal_on, "1: what changes is written to the journal"),
    GAUGE("mcs_journal_bytes", journal_bytes, "bytes of the journal's files"),
    GAUGE("mcs_journal_files", journal_files, "files of the journal"),
    GAUGE("mcs_journal_records_total", journal_records, "records written to the journal"),
    GAUGE("mcs_journal_record_bytes_total", journal_record_bytes, "bytes of these records"),
    GAUGE("mcs_journal_snapshots_total", journal_snapshots, "streams of the journal that were written anew"),
    GAUGE("mcs_journal_errors_total", journal_errors, "times the journal could not be written"),
    GAUGE("mcs_journal_windows_waited_total", journal_waits, "times a request made room in the journal by itself"),
    GAUGE("mcs_journal_last_sync_seconds", journal_synced,
          "when the journal was last written to the disk, since 1970; 0: never"),
    GAUGE("mcs_recovered_objects", recovered_objects, "objects that the start took from the journal"),
    GAUGE("mcs_recovered_segments", recovered_segments, "segments that the start took from the journal"),
    GAUGE("mcs_recovery_lost_objects", recovery_lost, "objects of the journal that had no place at the start"),
    GAUGE("mcs_recovery_damaged_streams", recovery_damaged, "streams of the journal that were given up at the start"),
    GAUGE("mcs_recovery_milliseconds", recovery_ms, "time that the start from the journal took"),
    GAUGE("mcs_unclaimed_segments", unclaimed_segments, "segments of the journal whose owner has not come back"),
};

typedef struct segment_sum {
    char *name;
    uint64_t used;
    uint64_t size;
} segment_sum_t;

typedef struct segment_list {
    segment_sum_t *sums;
    size_t count;
    size_t cap;
    bool failed;
} segment_list_t;

static bool add_segment(void *arg, const mcs_service_segment_t *segment)
{
    segment_list_t *list = (segment_list_t *)arg;
    if (list->count == list->cap) {
        size_t cap = MCS_MIN(MCS_MAX(list->cap * 2, (size_t)64), SEGMENTS_MAX);
        segment_sum_t *sums = cap == list->cap ? NULL : mcs_realloc(list->sums, cap * sizeof(*sums));
        if (sums == NULL) {
            list->failed = cap != list->cap;
            return false;
        }
        list->sums = sums;
        list->cap = cap;
    }
    char *name = mcs_strdup(segment->name);
    if (name == NULL) {
        list->failed = true;
        return false;
    }
    list->sums[list->count++] = (segment_sum_t){.name = name, .used = segment->used, .size = segment->size};
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const segment_sum_t *)a)->name, ((const segment_sum_t *)b)->name);
}

/* Several segments may bear one name (a client that mounted twice): Prometheus takes one sample of it. */
static void merge_names(segment_list_t *list)
{
    if (list->count == 0) {
        return;
    }
    qsort(list->sums, list->count, sizeof(*list->sums), compare_names);
    size_t kept = 1;
    for (size_t i = 1; i < list->count; i++) {
        segment_sum_t *into = &list->sums[kept - 1];
        if (strcmp(into->name, list->sums[i].name) == 0) {
            into->used += list->sums[i].used;
            into->size += list->sums[i].size;
            mcs_free(list->sums[i].name);
        } else {
            list->sums[kept++] = list->sums[i];
        }
    }
    list->count = kept;
}

static void write_label_value(mcs_buf_t *out, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '\n') {
            mcs_buf_append(out, "\\n", 2);
            continue;
        }
        if (*c == '\\' || *c == '"') {
            mcs_buf_append(out, "\\", 1);
        }
        mcs_buf_append(out, c, 1);
    }
}

static void write_segments(const segment_list_t *list, const char *metric, const char *help, bool used, mcs_buf_t *out)
{
    mcs_buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", metric, help, metric);
    for (size_t i = 0; i < list->count; i++) {
        mcs_buf_printf(out, "%s{segment=\"", metric);
        write_label_value(out, list->sums[i].name);
        mcs_buf_printf(out, "\"} %" PRIu64 "\n", used ? list->sums[i].used : list->sums[i].size);
    }
}

/* By its name, as Prometheus has it. */
static bool is_counter(const char *name)
{
    static const char end[] = "_total";
    size_t len = strlen(name);
    return len >= sizeof(end) && strcmp(name + len - (sizeof(end) - 1), end) == 0;
}

void mcs_metrics_write_prometheus(const mcs_metrics_t *metrics, mcs_service_t *service, mcs_buf_t *out)
{
    mcs_service_totals_t totals;
    segment_list_t list = {0};
    const segment_list_t none = {0};
    mcs_service_totals(service, &totals);
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_gauges); i++) {
        const gauge_row_t *row = &g_gauges[i];
        const uint64_t *value = (const uint64_t *)(const void *)((const char *)&totals + row->offset);
        mcs_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", row->name, row->help, row->name,
                       is_counter(row->name) ? "counter" : "gauge", row->name, *value);
    }
    mcs_service_for_each_segment(service, add_segment, &list);
    merge_names(&list);
    write_segments(&list, "segment_allocated_bytes", "bytes given out in the segments of this name", true, out);
    write_segments(&list, "segment_total_capacity_bytes", "bytes of the segments of this name", false, out);
    write_segments(&none, "nof_segment_allocated_bytes", "no NVMe-oF segments in this build", true, out);
    write_segments(&none, "nof_segment_total_capacity_bytes", "no NVMe-oF segments in this build", false, out);
    for (size_t i = 0; i < list.count; i++) {
        mcs_free(list.sums[i].name);
    }
    mcs_free(list.sums);
    mcs_metrics_write_counters(metrics, out);
    if (list.failed && out->failed == MCS_OK) {
        out->failed = MCS_ERR_NO_MEMORY;
    }
}

/* Summary line. */

void mcs_summary_init(mcs_summary_t *summary)
{
    *summary = (mcs_summary_t){.last_ns = mcs_now_ns()};
    mcs_mutex_init(&summary->lock, MCS_RANK_METRICS, "metrics summary");
}

void mcs_summary_fini(mcs_summary_t *summary)
{
    mcs_mutex_fini(&summary->lock);
}

static void write_size(mcs_buf_t *out, uint64_t bytes)
{
    static const char *const units[] = {"KB", "MB", "GB", "TB"};
    if (bytes >= INT64_MAX) {
        mcs_buf_printf(out, "infinite");
        return;
    }
    if (bytes < 1024) {
        mcs_buf_printf(out, "%" PRIu64 " B", bytes);
        return;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < MCS_ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    mcs_buf_printf(out, "%.2f %s", value, units[unit]);
}

typedef struct op_row {
    const char *name;
    size_t requests;
    size_t failures;
} op_row_t;
#define OP(name, op)                                                                                                   \
    {                                                                                                                  \
        name, offsetof(mcs_metrics_t, op##_requests), offsetof(mcs_metrics_t, op##_failures)                           \
    }
static const op_row_t g_ops[] = {
    OP("PutStart", put_start),     OP("PutEnd", put_end),
    OP("PutRevoke", put_revoke),   OP("Get", get_replica_list),
    OP("Exist", exist_key),        OP("Del", remove),
    OP("DelAll", remove_all),      OP("Ping", ping),
    OP("CopyStart", copy_start),   OP("CopyEnd", copy_end),
    OP("CopyRevoke", copy_revoke), OP("MoveStart", move_start),
    OP("MoveEnd", move_end),       OP("MoveRevoke", move_revoke),
};

/* Among the batches in the original's line. */
static const op_row_t g_task_ops[] = {
    OP("CreateMoveTask", create_move_task), OP("CreateCopyTask", create_copy_task), OP("QueryTask", query_task),
    OP("FetchTasks", fetch_tasks),          OP("MarkTaskToComplete", update_task),
};

typedef struct batch_row {
    const char *name;
    size_t requests;
    size_t failures;
    size_t partial;
    size_t items;
    size_t failed_items;
} batch_row_t;
#define BATCH(name, op)                                                                                                \
    {                                                                                                                  \
        name, offsetof(mcs_metrics_t, batch_##op##_requests), offsetof(mcs_metrics_t, batch_##op##_failures),          \
            offsetof(mcs_metrics_t, batch_##op##_partial_successes), offsetof(mcs_metrics_t, batch_##op##_items),      \
            offsetof(mcs_metrics_t, batch_##op##_failed_items)                                                         \
    }
static const batch_row_t g_batches[] = {
    BATCH("PutStart", put_start),   BATCH("PutEnd", put_end),     BATCH("PutRevoke", put_revoke),
    BATCH("Get", get_replica_list), BATCH("ExistKey", exist_key), BATCH("QueryIp", query_ip),
    BATCH("Clear", replica_clear),
};

/* The counters at one moment, field by field: relaxed loads, so that no thread races with the ones that count. */
static void copy_metrics(const mcs_metrics_t *metrics, mcs_metrics_t *copy)
{
    const uint64_t *from = (const uint64_t *)(const void *)metrics;
    uint64_t *to = (uint64_t *)(void *)copy;
    for (size_t i = 0; i < sizeof(*metrics) / sizeof(uint64_t); i++) {
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    }
}
_Static_assert(sizeof(mcs_metrics_t) % sizeof(uint64_t) == 0, "all fields are counters of 64 bits");

typedef struct rates {
    mcs_metrics_t delta;
    double seconds;
} rates_t;

/* now - last of the field at `offset`, less the same of the two others (SIZE_MAX: none), a second. Fields are not read
 * at one moment: a failure may be counted before its request is seen. */
static double rate_of(const rates_t *rates, size_t offset, size_t less, size_t less_too)
{
    const char *base = (const char *)&rates->delta;
    uint64_t value = *(const uint64_t *)(const void *)(base + offset);
    uint64_t minus = less == SIZE_MAX ? 0 : *(const uint64_t *)(const void *)(base + less);
    minus += less_too == SIZE_MAX ? 0 : *(const uint64_t *)(const void *)(base + less_too);
    return value > minus ? (double)(value - minus) / rates->seconds : 0;
}

static void write_rates(const rates_t *rates, mcs_buf_t *out)
{
    mcs_buf_printf(out, " | Requests (Success/Total per sec): ");
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_ops); i++) {
        const op_row_t *op = &g_ops[i];
        mcs_buf_printf(out, "%s%s=%.2f/%.2f", i == 0 ? "" : ", ", op->name,
                       rate_of(rates, op->requests, op->failures, SIZE_MAX),
                       rate_of(rates, op->requests, SIZE_MAX, SIZE_MAX));
    }
    mcs_buf_printf(out, ", EvictDiskReplica=0.00/0.00 | Batch Requests (per sec, Req=Success/PartialSuccess/Total, "
                        "Item=Success/Total): ");
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_batches); i++) {
        const batch_row_t *b = &g_batches[i];
        mcs_buf_printf(out, "%s%s:(Req=%.2f/%.2f/%.2f, Item=%.2f/%.2f)", i == 0 ? "" : ", ", b->name,
                       rate_of(rates, b->requests, b->failures, b->partial),
                       rate_of(rates, b->partial, SIZE_MAX, SIZE_MAX), rate_of(rates, b->requests, SIZE_MAX, SIZE_MAX),
                       rate_of(rates, b->items, b->failed_items, SIZE_MAX),
                       rate_of(rates, b->items, SIZE_MAX, SIZE_MAX));
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_task_ops); i++) {
        const op_row_t *op = &g_task_ops[i];
        mcs_buf_printf(out, ", %s:(Req=%.2f/%.2f)", op->name, rate_of(rates, op->requests, op->failures, SIZE_MAX),
                       rate_of(rates, op->requests, SIZE_MAX, SIZE_MAX));
    }
}

static void write_evictions(const mcs_metrics_t *now, const mcs_service_totals_t *totals, mcs_buf_t *out)
{
    mcs_buf_printf(out,
                   " | Eviction: Success/Attempts=%" PRIu64 "/%" PRIu64 ", AllocFail=%" PRIu64 ", PartialAlloc=%" PRIu64
                   ", keys=%" PRIu64 ", size=",
                   now->evictions_successful, now->evictions_attempted, now->put_start_alloc_failures,
                   now->put_start_partial_allocations, now->evicted_keys);
    write_size(out, now->evicted_bytes);
    mcs_buf_printf(out, " | Mem Eviction: Success/Attempts=%" PRIu64 "/%" PRIu64 ", keys=%" PRIu64 ", size=",
                   now->evictions_successful_mem, now->evictions_attempted_mem, now->evicted_keys_mem);
    write_size(out, now->evicted_bytes_mem);
    mcs_buf_printf(out, " | NoF Eviction: Success/Attempts=0/0, keys=0, size=0 B");
    mcs_buf_printf(out, " | Discard: Released/Total=%" PRIu64 "/%" PRIu64 ", StagingSize=", now->released_puts,
                   now->discarded_puts);
    write_size(out, totals->discarded_staging_bytes);
    mcs_buf_printf(out, " | Promotion: Admitted=0, Completed=0, InFlight=0 | Snapshots: Success=0, Fail=0");
}

void mcs_summary_write(mcs_summary_t *summary, const mcs_metrics_t *metrics, mcs_service_t *service, bool tick,
                       mcs_buf_t *out)
{
    mcs_service_totals_t totals;
    mcs_metrics_t now;
    rates_t rates;
    mcs_service_totals(service, &totals);
    copy_metrics(metrics, &now);
    mcs_mutex_lock(&summary->lock);
    uint64_t now_ns = mcs_now_ns();
    uint64_t elapsed_ns = MCS_MAX(now_ns - summary->last_ns, MCS_NS_PER_MS);
    const uint64_t *from = (const uint64_t *)(const void *)&summary->last;
    const uint64_t *to = (const uint64_t *)(const void *)&now;
    uint64_t *delta = (uint64_t *)(void *)&rates.delta;
    for (size_t i = 0; i < sizeof(now) / sizeof(uint64_t); i++) {
        delta[i] = to[i] - from[i];
    }
    if (tick) {
        summary->last = now;
        summary->last_ns = now_ns;
    }
    mcs_mutex_unlock(&summary->lock);
    rates.seconds = (double)elapsed_ns / 1e9;

    mcs_buf_printf(out, "role=leader, state=serving, service_ready=true, master={Mem Storage: ");
    write_size(out, totals.allocated_bytes);
    mcs_buf_printf(out, " / ");
    write_size(out, totals.capacity_bytes);
    double share =
        totals.capacity_bytes == 0 ? 0 : 100.0 * (double)totals.allocated_bytes / (double)totals.capacity_bytes;
    mcs_buf_printf(out,
                   " (%.1f%%) | NVMe-oF SSD: 0 B / 0 B | SSD Storage: 0 B / infinite | Keys: %" PRIu64
                   " (soft-pinned: %" PRIu64 ") | Clients: %" PRIu64,
                   share, totals.objects, totals.soft_pinned, totals.clients);
    write_rates(&rates, out);
    write_evictions(&now, &totals, out);
    mcs_buf_printf(out, "}, ha={disabled}");
}
