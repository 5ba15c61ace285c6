/* setup_dummy's question and answer, and the memory pool (core/client/borrow.h). */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/support/unit.h"

#include "core/client/borrow.h"

#define PORT 50052

static char g_folder[64];

static mcs_borrow_settings_t settings_of(const char *master)
{
    mcs_borrow_settings_t settings;
    memset(&settings, 0, sizeof(settings));
    snprintf(settings.master_address, sizeof(settings.master_address), "%s", master);
    snprintf(settings.local_hostname, sizeof(settings.local_hostname), "here");
    snprintf(settings.protocol, sizeof(settings.protocol), "tcp");
    snprintf(settings.tenant, sizeof(settings.tenant), "default");
    return settings;
}

static mcs_lender_t *start(const char *master)
{
    mcs_lender_t *lender = NULL;
    mcs_borrow_settings_t settings = settings_of(master);
    assert_int_equal(mcs_lender_start(g_folder, PORT, &settings, &lender), MCS_OK);
    return lender;
}

static struct sockaddr_un address_of(unsigned port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/client-%u", g_folder, port);
    return address;
}

static int connect_to(unsigned port)
{
    struct sockaddr_un address = address_of(port);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void an_asker_gets_the_settings(void **state)
{
    (void)state;
    mcs_borrow_settings_t got;
    mcs_lender_t *lender = start("10.0.0.1:50051");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(mcs_borrow_ask(g_folder, "127.0.0.1:50052", &got), MCS_OK);
        assert_string_equal(got.master_address, "10.0.0.1:50051");
        assert_string_equal(got.local_hostname, "here");
        assert_string_equal(got.protocol, "tcp");
        assert_string_equal(got.tenant, "default");
    }
    mcs_lender_stop(lender);
    struct stat st;
    assert_int_equal(lstat(address_of(PORT).sun_path, &st), -1);
}

static void who_asks_nobody_is_told_so(void **state)
{
    (void)state;
    mcs_borrow_settings_t got;
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(mcs_borrow_ask(g_folder, "127.0.0.1:50052", &got), MCS_ERR_RPC_FAIL);
    static const char *const wrong[] = {"", "host", "host:0", "host:70000", ":1", "[::1", "host:port"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        assert_int_equal(mcs_borrow_ask(g_folder, wrong[i], &got), MCS_ERR_INVALID_PARAMS);
    }
    char longer[200];
    memset(longer, 'x', sizeof(longer));
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(mcs_borrow_ask(longer, "host:1", &got), MCS_ERR_INVALID_PARAMS);
    mcs_log_set_level(MCS_LOG_WARN);
}

static void two_processes_do_not_answer_for_one_port(void **state)
{
    (void)state;
    mcs_lender_t *lender = start("first:1");
    mcs_lender_t *second = NULL;
    mcs_borrow_settings_t settings = settings_of("second:1");
    mcs_borrow_settings_t got;
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(mcs_lender_start(g_folder, PORT, &settings, &second), MCS_ERR_INVALID_PARAMS);
    mcs_log_set_level(MCS_LOG_WARN);
    assert_null(second);
    assert_int_equal(mcs_borrow_ask(g_folder, "h:50052", &got), MCS_OK);
    assert_string_equal(got.master_address, "first:1");
    mcs_lender_stop(lender);
}

static void the_socket_of_a_killed_process_is_taken_over(void **state)
{
    (void)state;
    struct sockaddr_un address = address_of(PORT);
    int dead = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(dead, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(dead);
    mcs_lender_t *lender = start("m:1");
    mcs_borrow_settings_t got;
    assert_int_equal(mcs_borrow_ask(g_folder, "h:50052", &got), MCS_OK);
    mcs_lender_stop(lender);
}

static void a_folder_that_others_write_to_is_not_used(void **state)
{
    (void)state;
    mcs_lender_t *lender = NULL;
    mcs_borrow_settings_t settings = settings_of("m:1");
    assert_int_equal(chmod(g_folder, 0777), 0);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(mcs_lender_start(g_folder, PORT, &settings, &lender), MCS_ERR_INVALID_PARAMS);
    mcs_log_set_level(MCS_LOG_WARN);
    assert_int_equal(chmod(g_folder, 0700), 0);
}

/* Garbage, silence and askers that leave: the next one is served all the same. */
static void bad_askers_do_no_harm(void **state)
{
    (void)state;
    mcs_lender_t *lender = start("m:1");
    const mcs_borrow_request_t requests[] = {
        {.magic = 1, .version = MCS_BORROW_VERSION},
        {.magic = MCS_BORROW_MAGIC, .version = MCS_BORROW_VERSION + 1},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(requests); i++) {
        int fd = connect_to(PORT);
        char answer[8];
        assert_int_equal(send(fd, &requests[i], sizeof(requests[i]), 0), sizeof(requests[i]));
        assert_int_equal(recv(fd, answer, sizeof(answer), 0), 0);
        close(fd);
    }
    char big[4096];
    memset(big, 'x', sizeof(big));
    int fd = connect_to(PORT);
    assert_int_equal(send(fd, big, sizeof(big), 0), sizeof(big));
    assert_int_equal(recv(fd, big, sizeof(big), 0), 0);
    close(fd);
    close(connect_to(PORT));
    int silent = connect_to(PORT);
    mcs_borrow_settings_t got;
    assert_int_equal(mcs_borrow_ask(g_folder, "h:50052", &got), MCS_OK);
    close(silent);
    mcs_lender_stop(lender);
}

/* A process that is no mooncake_client: what it answers is believed only when it has the right form. */
typedef struct liar {
    int listener;
    const void *bytes;
    size_t len;
} liar_t;

static void *lie(void *arg)
{
    const liar_t *liar = arg;
    mcs_borrow_request_t request;
    int fd = accept(liar->listener, NULL, NULL);
    assert_int_equal(recv(fd, &request, sizeof(request), 0), sizeof(request));
    if (liar->len > 0) {
        assert_int_equal(send(fd, liar->bytes, liar->len, 0), liar->len);
    }
    close(fd);
    return NULL;
}

static mcs_status_t ask_liar(const void *bytes, size_t len)
{
    struct sockaddr_un address = address_of(PORT);
    liar_t liar = {socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), bytes, len};
    pthread_t thread;
    mcs_borrow_settings_t got;
    assert_int_equal(bind(liar.listener, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(liar.listener, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, lie, &liar), 0);
    mcs_status_t status = mcs_borrow_ask(g_folder, "h:50052", &got);
    pthread_join(thread, NULL);
    close(liar.listener);
    unlink(address.sun_path);
    return status;
}

static void answers_without_the_right_form_are_refused(void **state)
{
    (void)state;
    mcs_borrow_answer_t answer = {
        .magic = MCS_BORROW_MAGIC, .version = MCS_BORROW_VERSION, .settings = settings_of("m:1")};
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(ask_liar(&answer, sizeof(answer)), MCS_OK);
    assert_int_equal(ask_liar(&answer, sizeof(answer) - 1), MCS_ERR_PROTOCOL);
    assert_int_equal(ask_liar(&answer, 0), MCS_ERR_RPC_FAIL);
    memset(answer.settings.tenant, 'x', sizeof(answer.settings.tenant));
    assert_int_equal(ask_liar(&answer, sizeof(answer)), MCS_ERR_PROTOCOL);
    answer.settings = settings_of("m:1");
    answer.magic = 1;
    assert_int_equal(ask_liar(&answer, sizeof(answer)), MCS_ERR_PROTOCOL);
    mcs_log_set_level(MCS_LOG_WARN);
}

static mcs_status_t lend_and_ask(void *arg)
{
    (void)arg;
    mcs_lender_t *lender = NULL;
    mcs_borrow_settings_t settings = settings_of("m:1");
    mcs_borrow_settings_t got = settings_of("untouched:1");
    mcs_status_t status = mcs_lender_start(g_folder, PORT, &settings, &lender);
    if (status != MCS_OK) {
        assert_null(lender);
        return status;
    }
    status = mcs_borrow_ask(g_folder, "h:50052", &got);
    assert_string_equal(got.master_address, status == MCS_OK ? "m:1" : "untouched:1");
    mcs_lender_stop(lender);
    return status;
}

static void each_failure_leaves_nothing_behind(void **state)
{
    (void)state;
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_ALLOC, lend_and_ask, NULL) >= 3);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, lend_and_ask, NULL) >= 2);
    mcs_log_set_level(MCS_LOG_WARN);
}

/* ---- the pool ---- */

static void the_pool_gives_memory_in_order_until_it_is_used_up(void **state)
{
    (void)state;
    mcs_mempool_t *pool = NULL;
    assert_int_equal(mcs_mempool_create(3 * 4096, &pool), MCS_OK);
    char *first = mcs_mempool_take(pool, 1);
    char *second = mcs_mempool_take(pool, 100);
    assert_non_null(first);
    assert_ptr_equal(second, first + 64);
    char *page = mcs_mempool_take(pool, 4096);
    assert_ptr_equal(page, first + 4096);
    assert_null(mcs_mempool_take(pool, 4097));
    assert_null(mcs_mempool_take(pool, UINT64_MAX));
    assert_null(mcs_mempool_take(pool, 0));
    char *last = mcs_mempool_take(pool, 4096);
    assert_ptr_equal(last, first + 2 * 4096);
    memset(first, 1, 3 * 4096);
    assert_null(mcs_mempool_take(pool, 1));
    mcs_mempool_destroy(pool);
    mcs_mempool_destroy(NULL);
}

static void a_pool_of_nothing_and_one_too_large(void **state)
{
    (void)state;
    mcs_mempool_t *pool = NULL;
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(mcs_mempool_create(UINT64_MAX, &pool), MCS_ERR_INVALID_PARAMS);
    assert_null(pool);
    assert_int_equal(mcs_mempool_create(0, &pool), MCS_OK);
    assert_null(mcs_mempool_take(pool, 1));
    mcs_mempool_destroy(pool);
    assert_int_equal(mcs_mempool_create(4096, &pool), MCS_OK);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 1);
    assert_null(mcs_mempool_take(pool, 1));
    mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
    assert_non_null(mcs_mempool_take(pool, 1));
    mcs_mempool_destroy(pool);
    mcs_log_set_level(MCS_LOG_WARN);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(g_folder, sizeof(g_folder), "/tmp/mcs-borrow-XXXXXX");
    return mkdtemp(g_folder) != NULL ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return rmdir(g_folder); /* fails when a test has left something */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_asker_gets_the_settings),
        cmocka_unit_test(who_asks_nobody_is_told_so),
        cmocka_unit_test(two_processes_do_not_answer_for_one_port),
        cmocka_unit_test(the_socket_of_a_killed_process_is_taken_over),
        cmocka_unit_test(a_folder_that_others_write_to_is_not_used),
        cmocka_unit_test(bad_askers_do_no_harm),
        cmocka_unit_test(answers_without_the_right_form_are_refused),
        cmocka_unit_test(each_failure_leaves_nothing_behind),
        cmocka_unit_test(the_pool_gives_memory_in_order_until_it_is_used_up),
        cmocka_unit_test(a_pool_of_nothing_and_one_too_large),
    };
    return cmocka_run_group_tests_name("borrow", tests, make_folder, drop_folder);
}
