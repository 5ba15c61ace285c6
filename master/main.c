/* mooncake_master: the daemon. Configuration (defaults < file < environment < flags), signals, exit codes; the rest is
 * master.h.
 *
 * Exit codes: 0 after SIGINT or SIGTERM, --help, --version, --check-journal of a good one; 1 for bad configuration, for
 * a port that cannot be bound and for a journal that is not good; 2 when the journal cannot be written any more
 * (journal_on_error). */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/log.h"
#include "master/config_file.h"
#include "master/journal/journal.h"
#include "master/master.h"

#define AREA            "main"
#define STOP_SECONDS    4
#define FEW_DESCRIPTORS 80 /* the journal of an idle master included */

static const mcs_config_table_t *const g_table = &mcs_master_config_table;

static int print_help(void)
{
    mcs_buf_t text;
    mcs_buf_init(&text, (size_t)1 << 20);
    mcs_buf_printf(&text, "mooncake_master: the metadata master of the Mooncake store\n\n"
                          "usage: mooncake_master [--flag=value | --flag value | --flag | --noflag] ...\n\n"
                          "A flag wins over the environment, that over the file of --config_path. Flags:\n\n");
    mcs_config_help(g_table, &text);
    mcs_buf_printf(
        &text,
        "\n  --help, -h\n  --version\n  --check-journal DIR   say what is in a journal's folder, and whether it is "
        "good\n");
    fputs(mcs_buf_cstr(&text), stdout);
    mcs_buf_fini(&text);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* "--check-journal DIR" or "--check-journal=DIR"; NULL: not asked for. */
static const char *check_journal_of(int argc, char **argv)
{
    static const char name[] = "check-journal";
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i] + (argv[i][0] != '-' ? 0 : argv[i][1] == '-' ? 2 : 1);
        if (word == argv[i] || strncmp(word, name, sizeof(name) - 1) != 0) {
            continue;
        }
        if (word[sizeof(name) - 1] == '=') {
            return word + sizeof(name);
        }
        if (word[sizeof(name) - 1] == '\0') {
            return i + 1 < argc ? argv[i + 1] : "";
        }
    }
    return NULL;
}

static int check_journal(const char *dir)
{
    mcs_buf_t text;
    mcs_buf_init(&text, (size_t)16 << 20);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (dir[0] == '\0') {
        mcs_buf_printf(&text, "--check-journal needs a folder\n");
    } else {
        status = mcs_journal_check(dir, &text);
    }
    fputs(mcs_buf_cstr(&text), stdout);
    mcs_buf_fini(&text);
    return fflush(stdout) == 0 && status == MCS_OK ? 0 : 1;
}

/* As good as a kill: what was answered is in the journal. */
static void on_journal_failed(void)
{
    static const char text[] = "mooncake_master: the journal cannot be written, stopping (journal_on_error=stop)\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)ignored;
    _exit(2);
}

static int print_version(void)
{
    printf("mooncake_master %s\n", MCS_VERSION);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* glog's flags count where log_level says what it says by default. */
static mcs_status_t apply_log_level(const mcs_master_config_t *config, mcs_buf_t *why)
{
    if (!mcs_log_set_level_name(config->log_level)) {
        mcs_buf_printf(why, "log_level \"%s\": TRACE, DEBUG, INFO, WARNING or ERROR is wanted", config->log_level);
        return MCS_ERR_INVALID_PARAMS;
    }
    if (strcasecmp(config->log_level, "INFO") == 0) {
        if (config->verbosity > 0) {
            mcs_log_set_level(config->verbosity > 2 ? MCS_LOG_TRACE : MCS_LOG_DEBUG);
        } else if (config->minloglevel > 0) {
            mcs_log_set_level(config->minloglevel > 1 ? MCS_LOG_ERROR : MCS_LOG_WARN);
        }
    }
    return MCS_OK;
}

static mcs_status_t load_config(int argc, char **argv, mcs_master_config_t *config, mcs_buf_t *why)
{
    mcs_master_config_t first;
    memset(&first, 0, sizeof(first));
    mcs_status_t status = mcs_config_load_all(g_table, config, &first, &first.config_path, argc, argv, why);
    return status == MCS_OK ? apply_log_level(config, why) : status;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < FEW_DESCRIPTORS) {
        /* Not each place that then fails says why; libuv aborts. */
        mcs_warn(AREA, "this process may open %llu files only (ulimit -n): too few",
                 (unsigned long long)limit.rlim_cur);
    }
}

/* Nothing is lost by it: the ports are closed, and the journal is as after a kill. */
static void on_slow_stop(int number)
{
    static const char text[] = "mooncake_master: stopping took too long, leaving\n";
    (void)number;
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)ignored;
    _exit(0);
}

static int run(const mcs_master_config_t *config)
{
    mcs_master_t *master = NULL;
    sigset_t stops;
    int number = 0;
    raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* an error of the write is enough */
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stops, NULL); /* before any thread, so that sigwait gets them */
    if (mcs_master_start(config, &master) != MCS_OK) {
        fprintf(stderr, "mooncake_master: not started, see the log above\n");
        return 1;
    }
    while (sigwait(&stops, &number) != 0) {
    }
    mcs_info(AREA, "signal %d: stopping", number);
    (void)signal(SIGALRM, on_slow_stop);
    alarm(STOP_SECONDS);
    mcs_master_stop(master);
    alarm(0);
    mcs_info(AREA, "stopped");
    return 0;
}

int main(int argc, char **argv)
{
    mcs_master_config_t config;
    mcs_buf_t why;
    mcs_log_hold_descriptors();
    if (mcs_config_asks_for(argc, argv, "help", "-h") || mcs_config_asks_for(argc, argv, "helpfull", NULL) ||
        mcs_config_asks_for(argc, argv, "helpshort", NULL)) {
        return print_help();
    }
    if (mcs_config_asks_for(argc, argv, "version", NULL)) {
        return print_version();
    }
    if (check_journal_of(argc, argv) != NULL) {
        return check_journal(check_journal_of(argc, argv));
    }
    memset(&config, 0, sizeof(config));
    mcs_buf_init(&why, (size_t)64 << 10);
    int code = 1;
    if (mcs_config_init(g_table, &config) != MCS_OK) {
        fprintf(stderr, "mooncake_master: out of memory\n");
        return 1;
    }
    mcs_status_t status = load_config(argc, argv, &config, &why);
    config.journal_failed = on_journal_failed;
    if (status == MCS_OK) {
        code = run(&config);
    } else {
        fprintf(stderr, "mooncake_master: %s\n", why.len > 0 ? mcs_buf_cstr(&why) : mcs_status_name(status));
    }
    mcs_buf_fini(&why);
    mcs_config_fini(g_table, &config);
    return code;
}
