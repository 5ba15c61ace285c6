/* mooncake_client: the daemon. See daemon.h.
 *
 * Exit codes: 0 after SIGINT or SIGTERM, --help, --version; 1 for bad configuration, a port in use, and a set-up that
 * fails (no master, no metadata server, no memory). A master that goes away later is waited for: the client library
 * connects again and mounts its memory anew. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "client/daemon.h"
#include "core/base/log.h"
#include "core/base/parse.h"
#include "core/base/thread.h"
#include "core/client/borrow.h"
#include "core/client/parts.h"
#include "master/config_file.h"
#include "ucx_transport/ucx_transport.h"

#define AREA         "client"
#define NAME         "mooncake_client"
#define STOP_SECONDS 4
#define PATH_LIMIT   4096
/* How soon the end of set-up is noticed. */
#define SETUP_LOOK_NS 20000000

static const mcs_config_table_t *const g_table = &mcs_daemon_config_table;

/* ---- configuration ---- */

static int print_help(void)
{
    mcs_buf_t text;
    mcs_buf_init(&text, (size_t)1 << 20);
    mcs_buf_printf(&text, NAME ": lends memory of this host to a Mooncake store\n\n"
                               "usage: " NAME " [--flag=value | --flag value | --flag | --noflag] ...\n\n"
                               "A flag wins over the environment, that over the file of --config_path. Flags:\n\n");
    mcs_config_help(g_table, &text);
    mcs_buf_printf(&text, "\n  --help, -h\n  --version\n\n"
                          "SIGTERM and SIGINT end it; SIGUSR1 logs more, SIGUSR2 less. The variables of the client "
                          "library (MC_STORE_...) hold, too.\n");
    fputs(mcs_buf_cstr(&text), stdout);
    mcs_buf_fini(&text);
    return fflush(stdout) == 0 ? 0 : 1;
}

static mcs_status_t load_config(int argc, char **argv, mcs_daemon_config_t *config, mcs_buf_t *why)
{
    mcs_daemon_config_t first;
    memset(&first, 0, sizeof(first));
    mcs_status_t status = mcs_config_load_all(g_table, config, &first, &first.config_path, argc, argv, why);
    if (status == MCS_OK && !mcs_log_set_level_name(config->log_level)) {
        mcs_buf_printf(why, "log_level \"%s\": TRACE, DEBUG, INFO, WARNING or ERROR is wanted", config->log_level);
        status = MCS_ERR_INVALID_PARAMS;
    }
    return status;
}

/* ---- parts ---- */

/* In a wheel this file lies beside the package libucx, whose UCX the Python module takes, too. Elsewhere the folder
 * does not exist, and the hint finds nothing. */
static const char *ucx_hint(void)
{
    static char hint[PATH_LIMIT + 32];
    char path[PATH_LIMIT];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (len <= 0) {
        return "";
    }
    path[len] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        if (slash == NULL) {
            return "";
        }
        *slash = '\0';
    }
    snprintf(hint, sizeof(hint), "hint:%s/libucx", path);
    return hint;
}

static void plug_parts(void)
{
    static mcs_parts_t parts = {
        .transport = &ucxt_transport_ops, .metadata = &ucxt_metadata_http_ops, .http = &mcs_daemon_http_ops};
    parts.ucx_hint = ucx_hint();
    mcs_parts_set(&parts);
}

static mcs_status_t set_up(const mcs_daemon_config_t *config, mcs_store_t *store)
{
    char name[512];
    mcs_daemon_local_name(config, name, sizeof(name));
    const mcs_setup_t setup = {
        .struct_size = sizeof(setup),
        .local_hostname = name,
        .metadata_server = config->metadata_server,
        .global_segment_size = config->global_segment_size,
        .local_buffer_size = config->local_buffer_size,
        .protocol = config->protocol,
        .rdma_devices = config->device_names,
        .master_server_addr = config->master_server_address,
        .tenant_id = config->tenant_id,
        .http_server = 1, /* status.c */
    };
    mcs_info(AREA, "setting up as %s: master %s, metadata %s, segment of %llu bytes", name,
             config->master_server_address, config->metadata_server, (unsigned long long)config->global_segment_size);
    mcs_log_level_t level = (mcs_log_level_t)__atomic_load_n(&mcs_log_threshold, __ATOMIC_RELAXED);
    int code = mcs_store_setup(store, &setup);
    if (mcs_env("MC_LOG_LEVEL") != NULL) {
        mcs_log_set_level(level); /* set-up takes it, but the flag wins */
    }
    if (code != 0) {
        mcs_error(AREA, "not set up with master %s and metadata %s: %s", config->master_server_address,
                  config->metadata_server, mcs_code_name(code));
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_store_hostname(store, name, sizeof(name));
    mcs_info(AREA, "Mooncake client started: segment %s of %llu bytes", name,
             (unsigned long long)config->global_segment_size);
    return MCS_OK;
}

/* Stores that ask for it by setup_dummy. Without it the segment is lent all the same. */
static mcs_lender_t *start_lender(const mcs_daemon_config_t *config, mcs_store_t *store, uint16_t port)
{
    mcs_borrow_settings_t settings;
    mcs_hostport_t local;
    char name[512];
    mcs_lender_t *lender = NULL;
    memset(&settings, 0, sizeof(settings));
    mcs_store_hostname(store, name, sizeof(name));
    mcs_status_t status = mcs_parse_hostport(name, &local);
    local.has_port = false;
    local.port = 0;
    if (status == MCS_OK) {
        mcs_hostport_format(&local, settings.local_hostname, sizeof(settings.local_hostname));
        snprintf(settings.master_address, sizeof(settings.master_address), "%s", config->master_server_address);
        snprintf(settings.protocol, sizeof(settings.protocol), "%s", config->protocol);
        snprintf(settings.tenant, sizeof(settings.tenant), "%s", config->tenant_id);
        status = mcs_lender_start("", port, &settings, &lender);
    }
    if (status != MCS_OK) {
        mcs_warn(AREA, "setup_dummy will not find this process: %s", mcs_status_name(status));
        return NULL;
    }
    return lender;
}

/* ---- running ---- */

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Nothing is lost by it: the memory goes with the process, and the master notices the closed connections. */
static void on_slow_stop(int number)
{
    static const char text[] = NAME ": stopping took too long, leaving\n";
    (void)number;
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)ignored;
    _exit(0);
}

static void shift_log_level(int by)
{
    int level = __atomic_load_n(&mcs_log_threshold, __ATOMIC_RELAXED) + by;
    level = MCS_MAX(level, (int)MCS_LOG_TRACE);
    level = MCS_MIN(level, (int)MCS_LOG_ERROR);
    mcs_log_set_level((mcs_log_level_t)level);
    /* Written whatever the level is now: who changed it wants to see that. */
    mcs_log_write(MCS_LOG_INFO, AREA, "log level %s by signal", mcs_log_level_text());
}

/* Says it when the master goes or comes back. */
static void watch_health(mcs_store_t *store, const mcs_daemon_config_t *config, int *health)
{
    int now = mcs_store_health_check(store);
    if (now != *health && now == 0) {
        mcs_info(AREA, "master %s: connected again", config->master_server_address);
    } else if (now != *health) {
        mcs_warn(AREA, "master %s: not reachable", config->master_server_address);
    }
    *health = now;
}

/* Until SIGINT or SIGTERM; its number. */
static int wait_for_stop(const sigset_t *signals, mcs_store_t *store, const mcs_daemon_config_t *config)
{
    const struct timespec second = {.tv_sec = 1};
    int health = 0;
    while (true) {
        int number = sigtimedwait(signals, NULL, &second);
        if (number == SIGUSR1 || number == SIGUSR2) {
            shift_log_level(number == SIGUSR1 ? -1 : 1);
        } else if (number > 0) {
            return number;
        } else {
            watch_health(store, config, &health);
        }
    }
}

/* ---- set-up ---- */

/* On a thread of its own: this one waits for signals meanwhile, and every thread that set-up makes, UCX's among them,
 * has all signals blocked as that thread has (core/base/thread.h). One that took a signal would keep it from us. */
typedef struct setup_job {
    const mcs_daemon_config_t *config;
    mcs_store_t *store;
    mcs_status_t status;
    uint32_t stop; /* atomic: it is to end */
    uint32_t done; /* atomic: status is there */
} setup_job_t;

static int stop_wanted(void *arg)
{
    setup_job_t *job = (setup_job_t *)arg;
    return __atomic_load_n(&job->stop, __ATOMIC_RELAXED) != 0;
}

static void run_setup(void *arg)
{
    setup_job_t *job = (setup_job_t *)arg;
    mcs_thread_set_interrupt(stop_wanted, job);
    job->status = set_up(job->config, job->store);
    mcs_thread_set_interrupt(NULL, NULL);
    __atomic_store_n(&job->done, 1, __ATOMIC_RELEASE);
}

/* *number_out: the signal that ended it; 0 = none. */
static mcs_status_t set_up_stoppable(const mcs_daemon_config_t *config, mcs_store_t *store, const sigset_t *signals,
                                     int *number_out)
{
    const struct timespec moment = {.tv_nsec = SETUP_LOOK_NS};
    setup_job_t job = {.config = config, .store = store};
    mcs_thread_t thread = {0};
    *number_out = 0;
    mcs_status_t status = mcs_thread_start(&thread, "mcs-setup", run_setup, &job);
    if (status != MCS_OK) {
        return status;
    }
    while (__atomic_load_n(&job.done, __ATOMIC_ACQUIRE) == 0) {
        int number = sigtimedwait(signals, NULL, &moment);
        if (number == SIGUSR1 || number == SIGUSR2) {
            shift_log_level(number == SIGUSR1 ? -1 : 1);
        } else if (number > 0 && *number_out == 0) {
            *number_out = number;
            __atomic_store_n(&job.stop, 1, __ATOMIC_RELAXED);
            alarm(STOP_SECONDS); /* whatever set-up waits for */
        }
    }
    mcs_thread_join(&thread);
    return job.status;
}

static int serve(const mcs_daemon_config_t *config, mcs_daemon_status_t *status, mcs_store_t *store,
                 const sigset_t *signals)
{
    mcs_lender_t *lender = NULL;
    int number;
    mcs_status_t result = set_up_stoppable(config, store, signals, &number);
    if (number == 0 && result != MCS_OK) {
        return 1;
    }
    if (number == 0) {
        uint16_t port = mcs_daemon_status_port(status);
        lender = start_lender(config, store, port);
        char name[512];
        mcs_store_hostname(store, name, sizeof(name));
        mcs_daemon_status_set_segment(status, name);
        mcs_info(AREA, "serving health and metrics on %s:%u", config->host, (unsigned)port);
        number = wait_for_stop(signals, store, config);
        alarm(STOP_SECONDS);
    }
    mcs_info(AREA, "signal %d: stopping", number);
    mcs_lender_stop(lender);
    return 0;
}

static int run(const mcs_daemon_config_t *config)
{
    mcs_daemon_status_t *status = NULL;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGALRM, on_slow_stop);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: they are waited for */
    plug_parts();
    mcs_store_t *store = mcs_store_create();
    int code = 1;
    if (store != NULL && mcs_daemon_status_start(config, &status) == MCS_OK) {
        code = serve(config, status, store, &signals);
    }
    mcs_daemon_status_stop(status);
    mcs_store_destroy(store);
    alarm(0);
    if (code == 0) {
        mcs_info(AREA, "stopped");
    } else {
        fprintf(stderr, NAME ": not started, see the log above\n");
    }
    return code;
}

int main(int argc, char **argv)
{
    mcs_daemon_config_t config;
    mcs_buf_t why;
    mcs_log_hold_descriptors();
    if (mcs_config_asks_for(argc, argv, "help", "-h")) {
        return print_help();
    }
    if (mcs_config_asks_for(argc, argv, "version", NULL)) {
        printf(NAME " %s\n", MCS_VERSION);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    memset(&config, 0, sizeof(config));
    mcs_buf_init(&why, (size_t)64 << 10);
    int code = 1;
    if (mcs_config_init(g_table, &config) != MCS_OK) {
        fprintf(stderr, NAME ": out of memory\n");
        return 1;
    }
    mcs_status_t status = load_config(argc, argv, &config, &why);
    if (status == MCS_OK) {
        code = run(&config);
    } else {
        fprintf(stderr, NAME ": %s\n", why.len > 0 ? mcs_buf_cstr(&why) : mcs_status_name(status));
    }
    mcs_buf_fini(&why);
    mcs_config_fini(g_table, &config);
    return code;
}
