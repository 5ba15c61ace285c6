/* Puts the master's parts together; see master.h.
 *
 * Order of life (each arrow: needs, and outlives nothing to its left):
 *
 *   metadata store -> service -> RPC server -> admin server      create and bind: every port is known to be free before
 * a thread runs service, RPC, metadata, admin, summary                       start summary, admin, metadata (HTTP),
 * RPC, service                stop: first who asks, then who is asked RPC server, service, admin, metadata store
 * destroy: the service's housekeeping uses the store until it has stopped
 */
#include "master/master.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/wire/extent.h"
#include "master/history.h"
#include "master/http_admin.h"
#include "master/http_metadata.h"
#include "master/metadata_cleanup.h"
#include "master/metrics_text.h"
#include "master/rpc_listen.h"
#include "master/rpc_server.h"
#include "master/service.h"

#define AREA               "master"
#define SUMMARY_PERIOD_NS  (10 * MCS_NS_PER_SEC)
#define CONNS_PER_CLIENT   4 /* one for control, some for calls */
#define CONNECTIONS_FEWEST 64

struct mcs_master {
    mcs_master_config_t config;
    mcs_metrics_t metrics;
    mcs_summary_t summary;
    mcs_http_metadata_t *metadata;
    mcs_metadata_cleanup_t *cleanup; /* of another metadata server; NULL = none */
    mcs_journal_t *journal;          /* NULL = none */
    mcs_service_t *service;
    mcs_rpc_server_t *rpc;
    mcs_http_admin_t *admin;
    mcs_history_t *history; /* NULL without an admin server */
    mcs_http_tls_t tls;     /* while starting */
    bool service_started;
    mcs_thread_t reporter;
    mcs_mutex_t lock; /* rank MASTER: what follows */
    mcs_cond_t wake;
    bool stopping MCS_GUARDED_BY(&lock);
};

/* Epochs of one process differ, even when a master follows another within a second. */
static uint64_t g_last_epoch;

/* Epochs count the wall clock in ticks, so that a master that is started again at once, without a journal, still has a
 * later one. 34 bits of a generation are the epoch's: enough until 2042. */
#define EPOCH_TICK_MS  UINT64_C(31)
#define EPOCH_SINCE_MS UINT64_C(1735689600000) /* 2025-01-01 */

static uint64_t wall_tick(void)
{
    uint64_t now_ms = mcs_wall_ms();
    return now_ms > EPOCH_SINCE_MS ? MCS_MIN((now_ms - EPOCH_SINCE_MS) / EPOCH_TICK_MS, MCS_EPOCH_TAKEN_MAX) : 0;
}

/* Returns when the tick is over: whoever starts after this master is up gets a later one. When the wall clock was put
 * back between two masters, clients say what they have seen (svc_session.c). */
static uint64_t next_epoch(uint64_t floor)
{
    uint64_t last = __atomic_load_n(&g_last_epoch, __ATOMIC_RELAXED);
    uint64_t epoch;
    do {
        uint64_t tick = wall_tick();
        epoch = MCS_MAX(MCS_MAX(tick, floor), last + 1);
    } while (!__atomic_compare_exchange_n(&g_last_epoch, &last, epoch, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    if (wall_tick() == epoch) {
        uint64_t passed_ms = (mcs_wall_ms() - EPOCH_SINCE_MS) % EPOCH_TICK_MS;
        struct timespec rest = {.tv_nsec = (long)((EPOCH_TICK_MS - passed_ms) * MCS_NS_PER_MS)};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
    }
    return epoch;
}

static bool is_one_of(const char *text, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static mcs_status_t refuse(const char *what)
{
    mcs_error(AREA, "master not started: %s: %s", what, mcs_status_name(MCS_ERR_INVALID_PARAMS));
    return MCS_ERR_INVALID_PARAMS;
}

/* Flags that take one of a few words. */
static mcs_status_t check_words(const mcs_master_config_t *config)
{
    static const char *const missing[] = {"ssd_free_ratio_first", "cxl"};
    static const char *const strategies[] = {"random", "free_ratio_first", "local_first"};
    static const char *const allocators[] = {"offset", "cachelib"};
    static const char *const policies[] = {"adaptive", "lru"};
    static const char *const journals[] = {"auto", "on", "off"};
    static const char *const on_error[] = {"stop", "continue"};
    const struct {
        const char *word;
        const char *const *words;
        size_t count;
        const char *otherwise;
    } rows[] = {
        {config->allocation_strategy, strategies, MCS_ARRAY_LEN(strategies),
         "allocation_strategy must be random, free_ratio_first or local_first"},
        {config->memory_allocator, allocators, MCS_ARRAY_LEN(allocators),
         "memory_allocator must be offset or cachelib"},
        {config->eviction_policy, policies, MCS_ARRAY_LEN(policies), "eviction_policy must be adaptive or lru"},
        {config->journal, journals, MCS_ARRAY_LEN(journals), "journal must be on, off or auto"},
        {config->journal_on_error, on_error, MCS_ARRAY_LEN(on_error), "journal_on_error must be stop or continue"},
    };
    if (is_one_of(config->allocation_strategy, missing, MCS_ARRAY_LEN(missing))) {
        return refuse("allocation_strategy: ssd_free_ratio_first and cxl are not in this build");
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        if (!is_one_of(rows[i].word, rows[i].words, rows[i].count)) {
            return refuse(rows[i].otherwise);
        }
    }
    return MCS_OK;
}

/* What the table's bounds cannot say. */
static mcs_status_t check_config(const mcs_master_config_t *config)
{
    mcs_status_t status = check_words(config);
    if (status != MCS_OK) {
        return status;
    }
    if (config->put_start_release_timeout_sec <= config->put_start_discard_timeout_sec) {
        return refuse("put_start_release_timeout_sec must be greater than put_start_discard_timeout_sec");
    }
    /* Also written so that a NaN fails. */
    if (!(config->eviction_high_watermark_ratio > 0 && config->eviction_high_watermark_ratio <= 1)) {
        return refuse("eviction_high_watermark_ratio must be above 0 and at most 1");
    }
    if (!(config->eviction_ratio >= 0 && config->eviction_ratio <= 1)) {
        return refuse("eviction_ratio must be 0 to 1");
    }
    if ((config->http_tls_cert[0] == '\0') != (config->http_tls_key[0] == '\0')) {
        return refuse("http_tls_cert and http_tls_key go together");
    }
    if (strcmp(config->journal, "on") == 0 && config->journal_dir[0] == '\0') {
        return refuse("journal=on needs journal_dir");
    }
    if (config->rpc_no_tcp && strcmp(config->ipc_dir, "none") == 0) {
        return refuse("neither a TCP port nor a UNIX socket is asked for");
    }
    return MCS_OK;
}

static mcs_status_t copy_config(const mcs_master_config_t *from, mcs_master_config_t *to)
{
    const mcs_config_table_t *table = &mcs_master_config_table;
    *to = *from;
    for (size_t i = 0; i < table->row_count; i++) { /* several rows may share a field */
        if (table->rows[i].kind == MCS_CONFIG_STRING) {
            *(char **)(void *)((char *)to + table->rows[i].offset) = NULL;
        }
    }
    for (size_t i = 0; i < table->row_count; i++) {
        const mcs_config_row_t *row = &table->rows[i];
        char **field = (char **)(void *)((char *)to + row->offset);
        if (row->kind == MCS_CONFIG_STRING && *field == NULL) {
            *field = mcs_strdup(*(char *const *)(const void *)((const char *)from + row->offset));
            if (*field == NULL) {
                mcs_config_fini(table, to);
                return MCS_ERR_NO_MEMORY;
            }
        }
    }
    return MCS_OK;
}

/* The records of a client that has come back under its name are its new session's. */
static bool is_alive(void *arg, const char *segment_name)
{
    return mcs_service_has_client(((mcs_master_t *)arg)->service, segment_name);
}

static void on_client_expired(void *arg, const char *segment_name)
{
    mcs_master_t *m = (mcs_master_t *)arg;
    if (m->cleanup != NULL) {
        mcs_metadata_cleanup_forget(m->cleanup, segment_name);
    } else if (!is_alive(m, segment_name)) {
        mcs_http_metadata_forget_segment(m->metadata, segment_name);
    }
}

/* "" is the default folder; when that cannot be used and there is TCP, the master goes without. */
static void choose_ipc_dir(const mcs_master_config_t *config, char *folder, size_t size)
{
    if (strcmp(config->ipc_dir, "none") == 0) {
        folder[0] = '\0';
        return;
    }
    if (config->ipc_dir[0] != '\0') {
        snprintf(folder, size, "%s", config->ipc_dir);
        return;
    }
    snprintf(folder, size, "/tmp/mooncake-%u", (unsigned)geteuid());
    char path[108];
    int fd;
    if (config->rpc_no_tcp) {
        return;
    }
    if (mcs_rpc_listen_unix(folder, &fd, path, sizeof(path)) == MCS_OK) {
        close(fd);
        unlink(path);
    } else {
        mcs_warn(AREA, "no UNIX socket: clients of this host use TCP (ipc_dir sets another folder)");
        folder[0] = '\0';
    }
}

static uint32_t max_connections(const mcs_master_config_t *config)
{
    struct rlimit limit;
    uint64_t wanted = MCS_MAX(config->max_clients * CONNS_PER_CLIENT, (uint64_t)CONNECTIONS_FEWEST);
    /* A quarter of the descriptors is for HTTP and the rest. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        wanted = MCS_MIN(wanted, MCS_MAX((uint64_t)limit.rlim_cur / 4 * 3, (uint64_t)CONNECTIONS_FEWEST));
    }
    return (uint32_t)wanted;
}

static uint32_t rpc_threads(const mcs_master_config_t *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t most = MCS_MIN(config->max_threads, (uint64_t)MCS_MAX(cores, 1L));
    return (uint32_t)(config->rpc_thread_num != 0 ? config->rpc_thread_num : MCS_MAX(most, (uint64_t)1));
}

static mcs_status_t create_rpc(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    char folder[256];
    choose_ipc_dir(c, folder, sizeof(folder));
    const mcs_rpc_config_t rpc = {
        .address = c->rpc_address,
        .interface = c->rpc_interface,
        .port = (uint16_t)(c->rpc_ephemeral ? 0 : (c->rpc_port != 0 ? c->rpc_port : c->port)),
        .tcp = !c->rpc_no_tcp,
        .tcp_nodelay = c->rpc_enable_tcp_no_delay,
        .ipc_dir = folder,
        .threads = rpc_threads(c),
        .max_connections = max_connections(c),
        .idle_timeout_ns = c->rpc_conn_timeout_seconds * MCS_NS_PER_SEC,
        .metrics = &m->metrics,
        .ops = mcs_service_rpc_ops(m->service),
    };
    return mcs_rpc_server_create(&rpc, &m->rpc);
}

static const mcs_http_tls_t *tls_of(const mcs_master_t *m)
{
    return m->config.http_tls_cert[0] != '\0' ? &m->tls : NULL;
}

static mcs_status_t load_tls(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    bool wanted = tls_of(m) != NULL && !c->http_off;
    return wanted ? mcs_http_tls_load(&m->tls, c->http_tls_cert, c->http_tls_key) : MCS_OK;
}

static mcs_status_t create_http(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    if (c->http_off) {
        return MCS_OK;
    }
    mcs_status_t status = mcs_history_create(&m->history);
    if (status != MCS_OK) {
        return status;
    }
    const mcs_http_admin_config_t admin = {
        .address = c->metrics_host,
        .port = (uint16_t)c->metrics_port,
        .tls = tls_of(m),
        .config = c,
        .service = m->service,
        .metrics = &m->metrics,
        .summary = &m->summary,
        .history = m->history,
    };
    return mcs_http_admin_create(&admin, &m->admin);
}

static bool goes_on(const mcs_master_config_t *c)
{
    return strcmp(c->journal_on_error, "continue") == 0 || c->journal_failed == NULL;
}

static void on_journal_failed(void *arg)
{
    ((mcs_master_t *)arg)->config.journal_failed();
}

/* Without it, if that was asked for: then what is in the folder must not be taken for true later. */
static mcs_status_t do_without_journal(mcs_master_t *m, mcs_status_t failure)
{
    mcs_journal_destroy(m->journal);
    m->journal = NULL;
    bool someone_elses = failure == MCS_ERR_FILE_LOCK_FAIL || failure == MCS_ERR_INVALID_VERSION;
    if (strcmp(m->config.journal_on_error, "continue") != 0 || someone_elses) {
        return failure;
    }
    mcs_status_t status = mcs_journal_void(m->config.journal_dir);
    if (status != MCS_OK) {
        mcs_error(AREA, "the journal in %s can neither be used nor deleted: %s", m->config.journal_dir,
                  mcs_status_name(status));
        return failure;
    }
    mcs_warn(AREA, "going on without a journal (journal_on_error=continue): a restart empties the cache");
    return MCS_OK;
}

static mcs_status_t open_journal(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    if (strcmp(c->journal, "off") == 0 || c->journal_dir[0] == '\0') {
        return MCS_OK;
    }
    const mcs_journal_config_t journal = {
        .dir = c->journal_dir,
        .max_bytes = c->journal_max_mb * MCS_MIB,
        .sync = c->journal_sync,
        .go_on = goes_on(c),
        .failed = goes_on(c) ? NULL : on_journal_failed,
        .failed_arg = m,
    };
    mcs_status_t status = mcs_journal_open(&journal, &m->journal);
    return status == MCS_OK ? MCS_OK : do_without_journal(m, status);
}

static mcs_status_t create_service(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    bool cleans_up = (m->metadata != NULL || m->cleanup != NULL) && c->enable_metadata_cleanup_on_timeout;
    uint64_t persisted = m->journal != NULL ? mcs_journal_past(m->journal)->epoch + 1 : 0;
    const mcs_service_config_t service = {
        .config = c,
        .metrics = &m->metrics,
        .epoch = next_epoch(MCS_MAX(c->epoch_floor, persisted)),
        .client_expired = cleans_up ? on_client_expired : NULL,
        .client_expired_arg = m,
        .journal = m->journal,
    };
    mcs_status_t status = mcs_service_create(&service, &m->service);
    if (status != MCS_OK || m->journal == NULL) {
        return status;
    }
    status = mcs_service_recover(m->service);
    if (status == MCS_OK) {
        return MCS_OK;
    }
    mcs_error(AREA, "the journal in %s was not taken over: %s", c->journal_dir, mcs_status_name(status));
    mcs_service_destroy(m->service);
    m->service = NULL;
    return do_without_journal(m, status);
}

static mcs_status_t start_cleanup(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    const mcs_metadata_cleanup_config_t cleanup = {
        .url = c->metadata_server_url,
        .config_path = c->engine_config_path,
        .cluster_id = c->cluster_id,
        .is_alive = is_alive,
        .arg = m,
    };
    return mcs_metadata_cleanup_start(&cleanup, &m->cleanup);
}

static mcs_status_t create_parts(mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    mcs_status_t status = load_tls(m);
    if (status == MCS_OK && c->enable_http_metadata_server && !c->http_off) {
        const mcs_http_metadata_config_t metadata = {
            .address = c->http_metadata_server_host,
            .port = (uint16_t)c->http_metadata_server_port,
            .tls = tls_of(m),
            .cluster_id = c->cluster_id,
        };
        status = mcs_http_metadata_create(&metadata, &m->metadata);
    } else if (status == MCS_OK && c->enable_metadata_cleanup_on_timeout && !c->http_off) {
        status = start_cleanup(m);
    }
    if (status == MCS_OK) {
        status = open_journal(m);
    }
    if (status == MCS_OK) {
        status = create_service(m);
    }
    if (status == MCS_OK && m->service == NULL) {
        status = create_service(m); /* without the journal */
    }
    if (status == MCS_OK) {
        status = create_rpc(m);
    }
    if (status == MCS_OK) {
        status = create_http(m);
    }
    return status;
}

static void report(mcs_master_t *m)
{
    mcs_buf_t line;
    mcs_buf_init(&line, (size_t)MCS_LOG_LINE_MAX * 2);
    mcs_summary_write(&m->summary, &m->metrics, m->service, true, &line);
    mcs_info(AREA, "Master Admin Metrics: %s", mcs_buf_cstr(&line));
    mcs_buf_fini(&line);
}

/* Takes a row of the history each second, and logs the summary line every ten; the line's rates are of the period
 * before. */
static void reporter_thread(void *arg)
{
    mcs_master_t *m = (mcs_master_t *)arg;
    uint64_t next_report = mcs_now_ns() + SUMMARY_PERIOD_NS;
    mcs_mutex_lock(&m->lock);
    while (!m->stopping) {
        uint64_t next = m->history != NULL ? mcs_now_ns() + MCS_HISTORY_PERIOD_NS : next_report;
        mcs_mutex_unlock(&m->lock);
        if (m->history != NULL) {
            mcs_history_sample(m->history, &m->metrics, m->service);
        }
        if (m->config.enable_metric_reporting && mcs_now_ns() >= next_report) {
            next_report = mcs_now_ns() + SUMMARY_PERIOD_NS;
            report(m);
        }
        mcs_mutex_lock(&m->lock);
        while (!m->stopping && mcs_cond_wait_until(&m->wake, &m->lock, next)) {
        }
    }
    mcs_mutex_unlock(&m->lock);
}

static mcs_status_t start_parts(mcs_master_t *m)
{
    mcs_status_t status = mcs_service_start(m->service, m->rpc);
    m->service_started = status == MCS_OK;
    if (status == MCS_OK) {
        status = mcs_rpc_server_start(m->rpc);
    }
    if (status == MCS_OK && m->metadata != NULL) {
        status = mcs_http_metadata_start(m->metadata);
    }
    if (status == MCS_OK && m->admin != NULL) {
        status = mcs_http_admin_start(m->admin);
    }
    if (status == MCS_OK && (m->config.enable_metric_reporting || m->history != NULL)) {
        status = mcs_thread_start(&m->reporter, "mcs-report", reporter_thread, m);
    }
    return status;
}

static bool is_any_address(const char *address)
{
    static const char *const any[] = {"", "0.0.0.0", "::", "[::]", "0"};
    return is_one_of(address, any, MCS_ARRAY_LEN(any));
}

static void announce(const mcs_master_t *m)
{
    const mcs_master_config_t *c = &m->config;
    /* The first words are what scripts look for. */
    mcs_info(AREA,
             "Master service started on port %u, max_threads=%u, rpc_threads=%u, unix socket %s, admin port %u, "
             "metadata port %u",
             mcs_master_rpc_port(m), (unsigned)c->max_threads, rpc_threads(c),
             mcs_master_unix_path(m)[0] != '\0' ? mcs_master_unix_path(m) : "none", mcs_master_metrics_port(m),
             mcs_master_metadata_port(m));
    if (!c->rpc_no_tcp && c->cluster_token[0] == '\0' && c->rpc_interface[0] == '\0' &&
        is_any_address(c->rpc_address)) {
        mcs_warn(AREA,
                 "rpc port %u is open to every network and cluster_token is not set: whoever reaches it can read and "
                 "delete objects; set rpc_address, rpc_interface or cluster_token",
                 mcs_master_rpc_port(m));
    }
    if (m->admin != NULL && is_any_address(c->metrics_host) && c->admin_token[0] == '\0') {
        mcs_warn(
            AREA,
            "admin port %u is open to every network and admin_token is not set: whoever reaches it can list keys and "
            "remove objects; set metrics_host or admin_token",
            mcs_master_metrics_port(m));
    }
}

mcs_status_t mcs_master_start(const mcs_master_config_t *config, mcs_master_t **master_out)
{
    mcs_status_t status = check_config(config);
    if (status != MCS_OK) {
        return status;
    }
    mcs_master_t *m = MCS_NEW(mcs_master_t);
    if (m == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    status = copy_config(config, &m->config);
    if (status != MCS_OK) {
        mcs_free(m);
        return status;
    }
    mcs_summary_init(&m->summary);
    mcs_mutex_init(&m->lock, MCS_RANK_MASTER, "master");
    mcs_cond_init(&m->wake);
    status = create_parts(m);
    if (status == MCS_OK) {
        status = start_parts(m);
    }
    mcs_http_tls_fini(&m->tls); /* the servers have what they need */
    if (status != MCS_OK) {
        mcs_master_stop(m);
        return status;
    }
    announce(m);
    *master_out = m;
    return MCS_OK;
}

/* Also of a master that got half-way. */
void mcs_master_stop(mcs_master_t *master)
{
    mcs_master_t *m = master;
    if (m == NULL) {
        return;
    }
    mcs_mutex_lock(&m->lock);
    m->stopping = true;
    mcs_cond_broadcast(&m->wake);
    mcs_mutex_unlock(&m->lock);
    mcs_thread_join(&m->reporter);
    mcs_http_admin_stop(m->admin);
    mcs_http_metadata_stop(m->metadata);
    if (m->rpc != NULL) {
        mcs_rpc_server_stop(m->rpc);
    }
    if (m->service_started) {
        mcs_service_stop(m->service);
    }
    if (m->service_started && m->journal != NULL) {
        mcs_journal_close(m->journal); /* before the service takes its state apart, which is no removal */
    }
    mcs_metadata_cleanup_stop(m->cleanup); /* nobody reports deaths any more, and the service is there to be asked */
    mcs_rpc_server_destroy(m->rpc);
    mcs_service_destroy(m->service);
    mcs_journal_destroy(m->journal);
    mcs_http_admin_destroy(m->admin);
    mcs_history_destroy(m->history);
    mcs_http_metadata_destroy(m->metadata);
    mcs_cond_fini(&m->wake);
    mcs_mutex_fini(&m->lock);
    mcs_summary_fini(&m->summary);
    mcs_config_fini(&mcs_master_config_table, &m->config);
    mcs_free(m);
}

uint16_t mcs_master_rpc_port(const mcs_master_t *master)
{
    return mcs_rpc_server_port(master->rpc);
}

const char *mcs_master_unix_path(const mcs_master_t *master)
{
    return mcs_rpc_server_unix_path(master->rpc);
}

uint16_t mcs_master_metrics_port(const mcs_master_t *master)
{
    return master->admin != NULL ? mcs_http_admin_port(master->admin) : 0;
}

uint16_t mcs_master_metadata_port(const mcs_master_t *master)
{
    return master->metadata != NULL ? mcs_http_metadata_port(master->metadata) : 0;
}
