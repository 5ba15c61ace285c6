/* The daemon as a process: flags, exit codes, signals, what it prints. Runs main.c over a hand-written state
 * (mooncake_master_fake). */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/wait.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "http_client.h"

#define ARGS_MAX 16

static char g_folder[] = "/tmp/mcs-main-XXXXXX";
static char g_ipc[64];

typedef struct process {
    pid_t pid;
    int out_fd; /* stdout and stderr together */
    mcs_buf_t out;
} process_t;

/* `args` ends with NULL. */
static void spawn(process_t *p, const char *const *args)
{
    char *argv[ARGS_MAX + 2];
    char *envp[] = {NULL};
    int fds[2];
    size_t count = 0;
    argv[count++] = strdup(MCS_FAKE_MASTER);
    for (; *args != NULL; args++) {
        assert_true(count < ARGS_MAX);
        argv[count++] = strdup(*args);
    }
    argv[count] = NULL;
    assert_int_equal(pipe(fds), 0);
    posix_spawn_file_actions_t actions;
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    assert_int_equal(posix_spawn(&p->pid, argv[0], &actions, NULL, argv, envp), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    for (size_t i = 0; i < count; i++) {
        free(argv[i]);
    }
    p->out_fd = fds[0];
    mcs_buf_init(&p->out, 1 << 20);
}

/* False at the end of the output. */
static bool read_more(process_t *p)
{
    char piece[4096];
    struct pollfd pfd = {.fd = p->out_fd, .events = POLLIN};
    assert_int_equal(poll(&pfd, 1, 30000), 1);
    ssize_t n = read(p->out_fd, piece, sizeof(piece));
    if (n > 0) {
        mcs_buf_append(&p->out, piece, (size_t)n);
    }
    return n > 0;
}

static int finish(process_t *p)
{
    int status = 0;
    while (read_more(p)) {
    }
    close(p->out_fd);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool printed(process_t *p, const char *text)
{
    return strstr(mcs_buf_cstr(&p->out), text) != NULL;
}

static void expect_run(const char *const *args, int code, const char *text)
{
    process_t p;
    spawn(&p, args);
    int got = finish(&p);
    if (got != code || !printed(&p, text)) {
        print_error("%s: code %d, wanted %d with \"%s\":\n%s\n", args[0], got, code, text, mcs_buf_cstr(&p.out));
        fail();
    }
    mcs_buf_fini(&p.out);
}

/* Starts a daemon on free ports and waits for its line; `extra` (may be NULL) comes last. Returns the RPC port. */
static unsigned start(process_t *p, const char *extra)
{
    static const char line[] = "Master service started on port ";
    const char *const args[] = {"--port=0",
                                "--rpc_port=0",
                                "--metrics_port=0",
                                "-rpc_address=127.0.0.1",
                                "-metrics_host",
                                "127.0.0.1",
                                "--ipc-dir",
                                g_ipc,
                                "--max_threads=2",
                                extra,
                                NULL};
    spawn(p, args);
    while (!printed(p, line)) {
        if (!read_more(p)) {
            print_error("%s\n", mcs_buf_cstr(&p->out));
            fail();
        }
    }
    return (unsigned)strtoul(strstr(mcs_buf_cstr(&p->out), line) + strlen(line), NULL, 10);
}

static void help_names_every_flag(void **state)
{
    static const char *const spellings[] = {"--help", "-help", "-h"};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(spellings); i++) {
        const char *const args[] = {spellings[i], NULL};
        expect_run(args, 0, "--rpc_port");
        expect_run(args, 0, "--enable_http_metadata_server");
    }
    expect_run((const char *const[]){"--rpc_port=1", "--nonsense", "--help", NULL}, 0, "--rpc_port");
}

static void version_is_printed(void **state)
{
    (void)state;
    expect_run((const char *const[]){"--version", NULL}, 0, "mooncake_master 1.2.3");
    expect_run((const char *const[]){"-version", NULL}, 0, "mooncake_master 1.2.3");
}

static void bad_command_lines_exit_1_and_say_why(void **state)
{
    (void)state;
    expect_run((const char *const[]){"--no_such_flag=1", NULL}, 1, "unknown flag --no_such_flag");
    expect_run((const char *const[]){"-nosuch", NULL}, 1, "unknown flag --nosuch");
    expect_run((const char *const[]){"word", NULL}, 1, "unexpected argument \"word\"");
    expect_run((const char *const[]){"--rpc_port=99999", NULL}, 1, "rpc_port");
    expect_run((const char *const[]){"--rpc_port", NULL}, 1, "--rpc_port needs a value");
    expect_run((const char *const[]){"--eviction_ratio=2", NULL}, 1, "eviction_ratio");
    expect_run((const char *const[]){"--log_level=loud", NULL}, 1, "log_level");
    expect_run((const char *const[]){"--enable_ha=true", NULL}, 1, "this build has no high availability");
    expect_run((const char *const[]){"--config_path=/no/such/file.json", NULL}, 1, "No such file");
    expect_run((const char *const[]){"--allocation_strategy=best", NULL}, 1, "allocation_strategy must be");
    expect_run((const char *const[]){"--put_start_discard_timeout_sec=600", NULL}, 1,
               "put_start_release_timeout_sec must be greater");
}

static void both_signals_end_it_cleanly_and_soon(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(signals); i++) {
        process_t p;
        unsigned port = start(&p, NULL);
        assert_true(printed(&p, "max_threads=2"));
        int fd = http_connect((uint16_t)port); /* a connection does not hold it up */
        uint64_t began = mcs_now_ns();
        assert_int_equal(kill(p.pid, signals[i]), 0);
        assert_int_equal(finish(&p), 0);
        assert_true(mcs_now_ns() - began < 5 * MCS_NS_PER_SEC);
        assert_true(printed(&p, "stopped"));
        close(fd);
        mcs_buf_fini(&p.out);
    }
}

static void sigpipe_does_not_end_it(void **state)
{
    process_t p;
    (void)state;
    start(&p, NULL);
    assert_int_equal(kill(p.pid, SIGPIPE), 0);
    assert_int_equal(kill(p.pid, SIGTERM), 0);
    assert_int_equal(finish(&p), 0);
    mcs_buf_fini(&p.out);
}

static void a_port_in_use_exits_1_and_is_named(void **state)
{
    process_t p;
    char flag[64];
    char text[64];
    (void)state;
    unsigned port = start(&p, NULL);
    snprintf(flag, sizeof(flag), "--rpc_port=%u", port);
    snprintf(text, sizeof(text), "rpc port 127.0.0.1:%u not bound: Address already in use", port);
    expect_run((const char *const[]){flag, "--rpc_address=127.0.0.1", "--metrics_port=0", "--ipc_dir=none", NULL}, 1,
               text);
    snprintf(flag, sizeof(flag), "--metrics_port=%u", port);
    snprintf(text, sizeof(text), "http admin port 127.0.0.1:%u not bound", port);
    expect_run((const char *const[]){flag, "--port=0", "--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1",
                                     "--ipc_dir=none", NULL},
               1, text);
    kill(p.pid, SIGTERM);
    assert_int_equal(finish(&p), 0);
    mcs_buf_fini(&p.out);
}

static void flags_win_over_the_file(void **state)
{
    process_t p;
    char path[128];
    char flag[160];
    (void)state;
    snprintf(path, sizeof(path), "%s/m.yaml", g_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("max_threads: 7\ncluster_id: from-file\nport: 1\nlog_level: INFO\n", file);
    fclose(file);
    snprintf(flag, sizeof(flag), "--config_path=%s", path);
    start(&p, flag); /* with --port=0 and --max_threads=2, for root and others alike */
    assert_true(printed(&p, "max_threads=2"));
    kill(p.pid, SIGTERM);
    assert_int_equal(finish(&p), 0);
    mcs_buf_fini(&p.out);
    const char *const args[] = {flag, "--port=0", "--metrics_port=0", "--rpc_address=127.0.0.1", "--ipc_dir=none",
                                NULL};
    spawn(&p, args);
    while (!printed(&p, "Master service started") && read_more(&p)) {
    }
    assert_true(printed(&p, "max_threads=7"));
    kill(p.pid, SIGTERM);
    assert_int_equal(finish(&p), 0);
    mcs_buf_fini(&p.out);
    unlink(path);
}

static int make_folder(void **state)
{
    (void)state;
    if (mkdtemp(g_folder) == NULL) {
        return -1;
    }
    snprintf(g_ipc, sizeof(g_ipc), "%s/ipc", g_folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(g_ipc) == 0 && rmdir(g_folder) == 0 ? 0 : -1; /* no socket was left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_names_every_flag),
        cmocka_unit_test(version_is_printed),
        cmocka_unit_test(bad_command_lines_exit_1_and_say_why),
        cmocka_unit_test(both_signals_end_it_cleanly_and_soon),
        cmocka_unit_test(sigpipe_does_not_end_it),
        cmocka_unit_test(a_port_in_use_exits_1_and_is_named),
        cmocka_unit_test(flags_win_over_the_file),
    };
    return cmocka_run_group_tests_name("main", tests, make_folder, remove_folder);
}
