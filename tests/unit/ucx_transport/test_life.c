/* Opening, closing, hellos and tokens, hints, callers inside a close, failures of every allocation and call. */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "peer.h"

static int setup(void **state)
{
    (void)state;
    rig_install_log();
    rig_log_reset();
    return 0;
}

static mcs_status_t fetch_one(side_t *reader, const side_t *owner, uint64_t len, uint32_t timeout_ms)
{
    uint8_t *memory = malloc(len);
    assert_non_null(memory);
    batch_t batch;
    batch_init(&batch, owner, MCS_FETCH, (uint32_t)(len / MCS_RANGE_MAX) + 1, 16);
    batch_add_object(&batch, 0, len, memory, 0);
    mcs_status_t status = batch_run(reader, &batch, timeout_ms);
    status = status == MCS_OK ? batch.ranges[0].status : status;
    batch_fini(&batch);
    free(memory);
    return status;
}

static void a_transport_says_what_it_is(void **state)
{
    (void)state;
    side_t side;
    side_open(&side, 1, NULL);
    assert_string_equal(ucxt_transport_ops.name, "ucx");
    assert_true(strcmp(side.info.wire, "ucx-1.13") == 0 || strcmp(side.info.wire, "ucx-1.20") == 0);
    assert_non_null(strstr(side.info.library, "UCX 1."));
    assert_true(side.info.endpoint.len > 16 && side.info.endpoint.len <= MCS_ENDPOINT_MAX);
    side_close(&side);
    ucxt_transport_ops.close(NULL);
}

static void own_extents_are_reached_through_the_transport_too(void **state)
{
    (void)state;
    side_t side;
    side_open(&side, 1, NULL);
    fake_owner_fill(&side.owner, 0, 3 << 20, 6);
    assert_int_equal(fetch_one(&side, &side, 3 << 20, 5000), MCS_OK);
    side_close(&side);
}

static void fifty_opens_and_closes_leave_no_descriptor_and_no_thread(void **state)
{
    (void)state;
    uint32_t fds = 0;
    uint32_t threads = 0;
    for (unsigned i = 0; i < 50; i++) {
        side_t holder;
        side_t reader;
        side_open(&holder, 1, NULL);
        side_open(&reader, 1, NULL);
        fake_owner_fill(&holder.owner, 0, 8192, i);
        assert_int_equal(fetch_one(&reader, &holder, 8192, 5000), MCS_OK);
        side_close(&holder); /* before the reader, which has a connection to it */
        side_close(&reader);
        if (i == 4) {
            fds = count_open_fds();
            threads = count_threads();
        }
    }
    assert_int_equal(count_open_fds(), fds);
    assert_true(count_threads() <= threads);
}

static void connections_made_and_closed_leave_no_descriptor(void **state)
{
    (void)state;
    side_t holder;
    side_t reader;
    side_open(&holder, 1, NULL);
    side_open(&reader, 0, NULL);
    fake_owner_fill(&holder.owner, 0, 4096, 1);
    uint32_t fds = 0;
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(fetch_one(&reader, &holder, 4096, 5000), MCS_OK);
        ucxt_transport_ops.forget(reader.transport, holder.id);
        if (i == 9) {
            fds = count_open_fds();
        }
    }
    assert_true(count_open_fds() <= fds + 6);
    side_close(&reader);
    side_close(&holder);
}

static void bind_hosts_that_are_not_of_this_machine_are_refused(void **state)
{
    (void)state;
    static const char *const hosts[] = {"192.0.2.77", "no-such-host.invalid", "2001:db8::1", "not a host"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(hosts); i++) {
        side_t side;
        memset(&side, 0, sizeof(side));
        mcs_transport_config_t config = rig_config(&side, NULL);
        config.bind_host = hosts[i];
        mcs_transport_t *transport = NULL;
        rig_log_reset();
        assert_int_equal(ucxt_transport_ops.open(&config, &transport), MCS_ERR_INVALID_PARAMS);
        assert_null(transport);
        assert_int_equal(rig_log_count(hosts[i]), 1);
    }
}

static void a_bind_host_on_every_interface_works(void **state)
{
    (void)state;
    static const char *const hosts[] = {"", "0.0.0.0", "::", "localhost", "127.0.0.7"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(hosts); i++) {
        side_t side;
        memset(&side, 0, sizeof(side));
        mcs_transport_config_t config = rig_config(&side, NULL);
        config.bind_host = hosts[i];
        assert_int_equal(ucxt_transport_ops.open(&config, &side.transport), MCS_OK);
        ucxt_transport_ops.close(side.transport);
    }
}

/* ---- tokens ---- */

static mcs_status_t with_tokens(const char *owner_token, const char *reader_token)
{
    side_t holder;
    side_t reader;
    rig_options_t owner_options = {.token = owner_token};
    rig_options_t reader_options = {.token = reader_token};
    side_open(&holder, 1, &owner_options);
    side_open(&reader, 0, &reader_options);
    fake_owner_fill(&holder.owner, 0, 4096, 1);
    uint64_t start = mcs_now_ns();
    mcs_status_t status = fetch_one(&reader, &holder, 4096, 8000);
    assert_true(mcs_now_ns() - start < 3 * MCS_NS_PER_SEC); /* an answer, not a time-out */
    side_close(&reader);
    side_close(&holder);
    return status;
}

static void only_those_who_know_the_token_are_served(void **state)
{
    (void)state;
    assert_int_equal(with_tokens("", ""), MCS_OK);
    assert_int_equal(with_tokens("secret", "secret"), MCS_OK);
    assert_int_equal(with_tokens("secret", "Secret"), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(with_tokens("secret", ""), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(with_tokens("", "secret"), MCS_ERR_ILLEGAL_CLIENT); /* the owner could not prove it */
    assert_int_equal(rig_log_count("secret"), 0);
}

/* ---- hints ---- */

static void a_hint_connects_before_the_first_transfer(void **state)
{
    (void)state;
    side_t holder;
    side_t reader;
    side_open(&holder, 1, NULL);
    side_open(&reader, 0, NULL);
    fake_owner_fill(&holder.owner, 0, 4096, 1);
    for (unsigned i = 0; i < 100; i++) {
        ucxt_transport_ops.connect(reader.transport, holder.id, &holder.info.endpoint);
    }
    mcs_endpoint_t nonsense = {.len = 100};
    ucxt_transport_ops.connect(reader.transport, mcs_id_random(), &nonsense);
    nonsense.len = UINT32_MAX;
    ucxt_transport_ops.connect(reader.transport, mcs_id_random(), &nonsense);
    assert_int_equal(fetch_one(&reader, &holder, 4096, 5000), MCS_OK);
    ucxt_transport_ops.forget(reader.transport, holder.id);
    ucxt_transport_ops.forget(reader.transport, mcs_id_random());
    assert_int_equal(fetch_one(&reader, &holder, 4096, 5000), MCS_OK);
    ucxt_transport_ops.connect(reader.transport, holder.id, &holder.info.endpoint);
    side_close(&reader); /* with hints that wait */
    side_close(&holder);
}

/* ---- ends ---- */

typedef struct caller {
    side_t *reader;
    const side_t *owner;
    uint32_t timeout_ms;
    mcs_status_t status;
    pthread_t thread;
} caller_t;

static void *call_once(void *arg)
{
    caller_t *caller = arg;
    caller->status = fetch_one(caller->reader, caller->owner, 16 << 20, caller->timeout_ms);
    return NULL;
}

/* Counts the threads that ask, not their questions. */
static __thread bool t_asked;
static bool count_threads_that_ask(void *arg)
{
    if (!t_asked) {
        t_asked = true;
        __atomic_add_fetch((uint32_t *)arg, 1, __ATOMIC_RELAXED);
    }
    return false;
}

static void a_close_ends_the_callers_inside(void **state)
{
    (void)state;
    peer_process_t stopped;
    side_t owner;
    side_t reader;
    uint32_t asked = 0;
    rig_options_t options = {.workers = 2, .give_up = count_threads_that_ask, .give_up_arg = &asked};
    peer_start_owner(&stopped, 16 << 20, 1, &owner);
    side_open(&reader, 0, &options);
    assert_int_equal(fetch_one(&reader, &owner, 4096, 5000), MCS_OK);
    peer_stop(&stopped);
    caller_t callers[5]; /* two drive a lane, three wait for one */
    for (unsigned i = 0; i < 5; i++) {
        callers[i] = (caller_t){.reader = &reader, .owner = &owner, .timeout_ms = 60000};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call_once, &callers[i]), 0);
    }
    while (__atomic_load_n(&asked, __ATOMIC_RELAXED) < 5) { /* all are inside, and wait */
        sched_yield();
    }
    uint64_t start = mcs_now_ns();
    side_close(&reader);
    assert_true(mcs_now_ns() - start < 2 * MCS_NS_PER_SEC);
    for (unsigned i = 0; i < 5; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].status, MCS_ERR_CLOSED);
    }
    peer_end(&stopped, true);
}

static bool after_three(void *arg)
{
    return __atomic_add_fetch((uint32_t *)arg, 1, __ATOMIC_RELAXED) >= 3;
}

static void a_caller_that_gives_up_is_let_go(void **state)
{
    (void)state;
    peer_process_t stopped;
    side_t owner;
    side_t reader;
    uint32_t asked = 0;
    rig_options_t options = {.give_up = after_three, .give_up_arg = &asked};
    peer_start_owner(&stopped, 16 << 20, 1, &owner);
    peer_stop(&stopped);
    side_open(&reader, 0, &options);
    assert_int_equal(fetch_one(&reader, &owner, 4096, 60000), MCS_ERR_CLOSED);
    assert_int_equal(asked, 3);
    side_close(&reader);
    peer_end(&stopped, true);
}

static void an_owner_that_answers_no_hello_fails_after_the_connect_timeout(void **state)
{
    (void)state;
    peer_process_t stopped;
    side_t owner;
    side_t reader;
    rig_options_t options = {.connect_ms = 300};
    peer_start_owner(&stopped, 4096, 1, &owner);
    peer_stop(&stopped);
    side_open(&reader, 0, &options);
    assert_int_equal(fetch_one(&reader, &owner, 4096, 60000), MCS_ERR_TRANSFER_FAIL);
    peer_signal(&stopped, SIGCONT);
    mcs_status_t status = MCS_ERR_TRANSFER_FAIL;
    for (int tries = 0; tries < 50 && status != MCS_OK; tries++) { /* on a busy machine it wakes up late */
        status = fetch_one(&reader, &owner, 4096, 60000);
    }
    assert_int_equal(status, MCS_OK);
    side_close(&reader);
    peer_end(&stopped, false);
}

static void a_forked_child_gets_errors_and_hurts_nobody(void **state)
{
    (void)state;
    side_t holder;
    side_t reader;
    side_open(&holder, 1, NULL);
    side_open(&reader, 0, NULL);
    fake_owner_fill(&holder.owner, 0, 4096, 1);
    assert_int_equal(fetch_one(&reader, &holder, 4096, 5000), MCS_OK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        mcs_status_t status = fetch_one(&reader, &holder, 4096, 5000);
        ucxt_transport_ops.connect(reader.transport, holder.id, &holder.info.endpoint);
        ucxt_transport_ops.forget(reader.transport, holder.id);
        ucxt_transport_ops.close(reader.transport);
        _exit(status == MCS_ERR_FORKED ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(fetch_one(&reader, &holder, 4096, 5000), MCS_OK);
    side_close(&reader);
    side_close(&holder);
}

/* ---- torture ---- */

#define CONNECT_MS 400 /* an owner that could not send its answer to the hello is found out by this timeout */

/* connect_ms: 0 = as long as elsewhere. */
static mcs_status_t open_fetch_close(uint32_t connect_ms)
{
    static side_t holder;
    side_t reader;
    memset(&reader, 0, sizeof(reader));
    reader.id = mcs_id_random();
    if (holder.transport == NULL) {
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        side_open(&holder, 1, NULL);
        fake_owner_fill(&holder.owner, 0, 70000, 1);
    }
    const rig_options_t options = {.connect_ms = connect_ms};
    mcs_transport_config_t config = rig_config(&reader, &options);
    mcs_status_t status = ucxt_transport_ops.open(&config, &reader.transport);
    if (status == MCS_OK) {
        status = fetch_one(&reader, &holder, 70000, 5000);
    }
    ucxt_transport_ops.close(reader.transport);
    return status;
}

/* With the nth call failing. */
static mcs_status_t torture_once(mcs_fault_kind_t kind, uint64_t nth, bool *fired_out)
{
    mcs_fault_arm(kind, nth);
    mcs_status_t status = open_fetch_close(CONNECT_MS);
    *fired_out = mcs_fault_fired(kind);
    mcs_fault_arm(kind, 0);
    return status;
}

static void every_failing_allocation_and_call_is_an_error_and_no_more(void **state)
{
    (void)state;
    assert_int_equal(open_fetch_close(0), MCS_OK);
    for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
        uint32_t failed = 0;
        bool fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            mcs_status_t status = torture_once((mcs_fault_kind_t)kind, nth, &fired);
            for (int late = 0; late < 50 && !fired && status == MCS_ERR_TRANSFER_FAIL; late++) {
                /* The machine was busy for longer than the connect timeout. */
                status = torture_once((mcs_fault_kind_t)kind, nth, &fired);
            }
            failed += status != MCS_OK ? 1 : 0;
            assert_true(fired || status == MCS_OK);
            assert_true(nth < 500);
        }
        assert_true(failed > 3);
        assert_int_equal(open_fetch_close(0), MCS_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transport_says_what_it_is),
        cmocka_unit_test(own_extents_are_reached_through_the_transport_too),
        cmocka_unit_test(fifty_opens_and_closes_leave_no_descriptor_and_no_thread),
        cmocka_unit_test(connections_made_and_closed_leave_no_descriptor),
        cmocka_unit_test(bind_hosts_that_are_not_of_this_machine_are_refused),
        cmocka_unit_test(a_bind_host_on_every_interface_works),
        cmocka_unit_test(only_those_who_know_the_token_are_served),
        cmocka_unit_test(a_hint_connects_before_the_first_transfer),
        cmocka_unit_test(a_close_ends_the_callers_inside),
        cmocka_unit_test(a_caller_that_gives_up_is_let_go),
        cmocka_unit_test(an_owner_that_answers_no_hello_fails_after_the_connect_timeout),
        cmocka_unit_test(a_forked_child_gets_errors_and_hurts_nobody),
        cmocka_unit_test(every_failing_allocation_and_call_is_an_error_and_no_more),
    };
    return cmocka_run_group_tests_name("ucx life", tests, setup, NULL);
}
