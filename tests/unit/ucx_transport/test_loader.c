/* Which UCX is loaded. One library per process, so each case runs in a child. */
#include "rig.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/config.h"
#include "ucx_transport/ucx_dl.h"

/* Runs `body` in a child; true when it returned true. */
static bool in_child(bool (*body)(const char *text), const char *text)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        _exit(body(text) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool loads(const char *library)
{
    const ucxt_dl_t *dl = NULL;
    return ucxt_dl_load(library, false, &dl) == MCS_OK && dl->major == 1 && dl->minor >= 13 && dl->path[0] == '/' &&
           dl->ucp_am_send_nbx != NULL;
}

static bool is_refused(const char *library)
{
    const ucxt_dl_t *dl = NULL;
    return ucxt_dl_load(library, false, &dl) == MCS_ERR_INVALID_PARAMS && dl == NULL && rig_log_count("ucx]") == 1;
}

static int setup(void **state)
{
    (void)state;
    rig_install_log();
    rig_log_reset();
    return 0;
}

static void the_systems_library_is_found(void **state)
{
    (void)state;
    assert_true(in_child(loads, ""));
    assert_true(in_child(loads, "system"));
    assert_true(in_child(loads, "hint:/no/such/folder"));
    assert_true(in_child(loads, "hint:"));
}

static bool the_path_loads(const char *unused)
{
    (void)unused;
    const ucxt_dl_t *dl;
    void *found = dlopen("libucp.so.0", RTLD_LAZY | RTLD_LOCAL);
    Dl_info info;
    if (found == NULL || dladdr(dlsym(found, "ucp_get_version"), &info) == 0) {
        return false;
    }
    uint64_t version = ucxt_dl_file_version(info.dli_fname);
    return ucxt_dl_load(info.dli_fname, false, &dl) == MCS_OK &&
           version == ((uint64_t)dl->major << 32 | (uint64_t)dl->minor << 16 | dl->release);
}

static void a_library_is_loaded_by_path_and_its_file_says_its_version(void **state)
{
    (void)state;
    assert_true(in_child(the_path_loads, NULL));
}

static void files_that_are_no_ucx_are_refused(void **state)
{
    (void)state;
    char folder[] = "/tmp/mcs-ucx-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    snprintf(path, sizeof(path), "%s/libucp.so.0", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd,
                           "\x7f"
                           "ELF 1.99.99",
                           12),
                     12); /* says that it is new, and is nothing */
    assert_int_equal(write(fd, "\0", 1), 1);
    close(fd);
    assert_true(in_child(is_refused, path));
    assert_true(in_child(is_refused, "/no/such/libucp.so.0"));
    assert_true(in_child(is_refused, "newest"));
    assert_true(in_child(is_refused, folder));
    char libc[64] = "/lib/x86_64-linux-gnu/libm.so.6";
    if (access(libc, R_OK) == 0) {
        assert_true(in_child(is_refused, libc)); /* a library, but another one */
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(ucxt_dl_file_version("/no/such/file"), 0);
    assert_int_equal(ucxt_dl_file_version("/tmp"), 0);
    assert_int_equal(ucxt_dl_file_version("/dev/zero"), 0);
}

static bool a_second_one_is_refused(const char *unused)
{
    (void)unused;
    const ucxt_dl_t *first;
    const ucxt_dl_t *second = NULL;
    return ucxt_dl_load("", false, &first) == MCS_OK && ucxt_dl_load("", false, &second) == MCS_OK && first == second &&
           ucxt_dl_load("hint:/x", false, &second) == MCS_OK && ucxt_dl_load(first->path, false, &second) == MCS_OK &&
           ucxt_dl_load("/no/such/libucp.so.0", false, &second) == MCS_ERR_INVALID_PARAMS &&
           rig_log_count("loaded") == 1;
}

static void the_first_load_decides_for_the_process(void **state)
{
    (void)state;
    assert_true(in_child(a_second_one_is_refused, NULL));
}

static void on_signal(int number)
{
    (void)number;
}

static bool handlers_stay(const char *unused)
{
    (void)unused;
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < 4; i++) {
        signal(signals[i], on_signal);
    }
    side_t side;
    memset(&side, 0, sizeof(side));
    mcs_transport_config_t config = rig_config(&side, NULL);
    if (ucxt_transport_ops.open(&config, &side.transport) != MCS_OK) {
        return false;
    }
    bool same = true;
    for (size_t i = 0; i < 4; i++) {
        struct sigaction now;
        sigaction(signals[i], NULL, &now);
        same = same && now.sa_handler == on_signal;
    }
    ucxt_transport_ops.close(side.transport);
    return same;
}

static void the_programs_signal_handlers_stay(void **state)
{
    (void)state;
    assert_true(in_child(handlers_stay, NULL));
}

/* UCX's memory hooks overwrite the first bytes of these functions of libc. */
static bool code_stays(const char *unused)
{
    (void)unused;
    char **real = environ;
    static const char *const names[] = {"mmap", "munmap", "mremap", "madvise", "shmat", "shmdt", "sbrk", "brk"};
    uint8_t before[8][16];
    const void *at[8];
    for (size_t i = 0; i < 8; i++) {
        at[i] = dlsym(RTLD_DEFAULT, names[i]);
        memcpy(before[i], at[i], sizeof(before[i]));
    }
    side_t side;
    memset(&side, 0, sizeof(side));
    mcs_transport_config_t config = rig_config(&side, NULL);
    if (ucxt_transport_ops.open(&config, &side.transport) != MCS_OK) {
        return false;
    }
    bool same = true;
    for (size_t i = 0; i < 8; i++) {
        same = same && memcmp(before[i], at[i], sizeof(before[i])) == 0;
    }
    ucxt_transport_ops.close(side.transport);
    /* And the environment is what it was. */
    return same && environ == real && mcs_env("UCX_MEM_MMAP_HOOK_MODE") == NULL;
}

static void no_function_of_the_program_is_patched(void **state)
{
    (void)state;
    assert_true(in_child(code_stays, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_systems_library_is_found, setup),
        cmocka_unit_test_setup(a_library_is_loaded_by_path_and_its_file_says_its_version, setup),
        cmocka_unit_test_setup(files_that_are_no_ucx_are_refused, setup),
        cmocka_unit_test_setup(the_first_load_decides_for_the_process, setup),
        cmocka_unit_test_setup(the_programs_signal_handlers_stay, setup),
        cmocka_unit_test_setup(no_function_of_the_program_is_patched, setup),
    };
    return cmocka_run_group_tests_name("ucx loader", tests, NULL, NULL);
}
