/* core/client/link, conn, hello: calls to a master that answers, loses connections, lies or says nothing. */
#include "core/client/link.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/client/interrupt.h"
#include "mcstore/mcstore.h"
#include "tests/support/fake_master.h"
#include "tests/support/unit.h"

#define SEEN_MAX 64

typedef struct fixture {
    fake_master_t *master;
    mcs_client_config_t config;
    mcs_counters_t counters;
    mcs_hello_self_t self;
    mcs_link_t *link;
    mcs_hello_result_t session;
    uint32_t refused; /* atomic */

    pthread_mutex_t lock; /* the script's */
    int failures;         /* requests left that the action below is for */
    fake_action_t failure;
    mcs_status_t status;
    int32_t verb_offset;
    uint64_t seq[SEEN_MAX];
    uint64_t ack[SEEN_MAX];
    uint32_t seen;
    uint32_t hellos;
} fixture_t;

static fake_action_t script(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    fixture_t *f = arg;
    static const Mcs__Wire__CountReply count = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__count_reply__descriptor), 42};
    if (request->header.verb == MCS_VERB_HELLO) {
        pthread_mutex_lock(&f->lock);
        f->hellos++;
        pthread_mutex_unlock(&f->lock);
        return FAKE_DEFAULT;
    }
    if (request->header.verb != MCS_VERB_REMOVE_ALL && request->header.verb != MCS_VERB_PUT_START &&
        request->header.verb != MCS_VERB_PUT_END) {
        return FAKE_DEFAULT;
    }
    Mcs__Wire__RemoveAll *remove = mcs__wire__remove_all__unpack(NULL, request->header.length, request->payload);
    fake_action_t action = FAKE_REPLY;
    pthread_mutex_lock(&f->lock);
    if (remove != NULL && remove->sequence != NULL && f->seen < SEEN_MAX) {
        f->seq[f->seen] = remove->sequence->seq;
        f->ack[f->seen++] = remove->sequence->ack;
    }
    answer->message = &count.base;
    answer->status = f->status;
    if (f->failures > 0) {
        f->failures--;
        action = f->failure;
        answer->verb_offset = f->verb_offset;
        mcs_buf_append(&answer->raw, "HTTP/1.1 400 Bad Request\r\nServer: something else\r\n\r\n", 52);
    }
    pthread_mutex_unlock(&f->lock);
    if (remove != NULL) {
        mcs__wire__remove_all__free_unpacked(remove, NULL);
    }
    return action;
}

static void refused(void *arg, mcs_id_t session)
{
    fixture_t *f = arg;
    (void)session;
    __atomic_add_fetch(&f->refused, 1, __ATOMIC_SEQ_CST);
}

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof(*f));
    pthread_mutex_init(&f->lock, NULL);
    f->master = fake_master_start(script, f);
    assert_int_equal(mcs_config_init(&mcs_client_config_table, &f->config), MCS_OK);
    f->config.rpc_timeout_ms = 5000;
    f->config.connect_timeout_ms = 5000; /* a busy machine */
    f->config.spin_us = 0;
    f->self = (mcs_hello_self_t){.client = {1, 2}, .host_name = "h:1", .wire = "", .tenant = "default", .token = ""};
    mcs_link_config_t config = {.address = fake_master_address(f->master),
                                .config = &f->config,
                                .self = &f->self,
                                .counters = &f->counters,
                                .session_refused = refused,
                                .session_refused_arg = f};
    assert_int_equal(mcs_link_create(&config, &f->link), MCS_OK);
    f->session = (mcs_hello_result_t){.epoch = 7, .session = {0x5e55, 1}};
    mcs_link_set_session(f->link, &f->session, true);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    mcs_link_close(f->link);
    mcs_link_destroy(f->link);
    fake_master_stop(f->master);
    mcs_client_config_fini(&f->config);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return 0;
}

static void fail_next(fixture_t *f, int count, fake_action_t action)
{
    pthread_mutex_lock(&f->lock);
    f->failures = count;
    f->failure = action;
    pthread_mutex_unlock(&f->lock);
}

typedef struct asked {
    mcs_call_t call;
    int64_t count;
} asked_t;

static mcs_status_t ask_verb(fixture_t *f, mcs_verb_t verb, unsigned flags, int64_t timeout_ms, asked_t *asked)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__RemoveAll request = MCS__WIRE__REMOVE_ALL__INIT;
    request.sequence = &sequence;
    asked->call = (mcs_call_t){.verb = verb,
                               .request = &request.base,
                               .sequence = &sequence,
                               .reply_type = &mcs__wire__count_reply__descriptor,
                               .timeout_ms = timeout_ms,
                               .flags = flags};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(f->link, &asked->call, &reply);
    asked->count = status == MCS_OK ? ((const Mcs__Wire__CountReply *)(const void *)reply.message)->count : -1;
    assert_true((status == MCS_OK) == (reply.message != NULL));
    mcs_reply_fini(&reply);
    return status;
}

static mcs_status_t ask(fixture_t *f)
{
    asked_t asked;
    mcs_status_t status = ask_verb(f, MCS_VERB_REMOVE_ALL, 0, 0, &asked);
    assert_true(status != MCS_OK || asked.count == 42);
    return status;
}

static void a_call_gets_its_answer_and_says_when_it_was_sent_and_in_which_session(void **state)
{
    fixture_t *f = *state;
    asked_t asked;
    uint64_t before = mcs_now_ns();
    assert_int_equal(ask_verb(f, MCS_VERB_REMOVE_ALL, 0, 0, &asked), MCS_OK);
    assert_int_equal(asked.count, 42);
    assert_true(asked.call.sent_ns >= before && asked.call.sent_ns <= mcs_now_ns());
    assert_true(mcs_id_equal(asked.call.session, f->session.session));
    assert_false(asked.call.interrupted);
}

static void sequences_count_up_and_acknowledge_what_was_answered(void **state)
{
    fixture_t *f = *state;
    for (uint64_t i = 1; i <= 3; i++) {
        assert_int_equal(ask(f), MCS_OK);
        assert_int_equal(f->seq[i - 1], i);
        assert_int_equal(f->ack[i - 1], i);
    }
    assert_int_equal(fake_master_connections(f->master), 1);
}

static void a_connection_lost_before_the_answer_is_repeated_with_the_same_sequence(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(ask(f), MCS_OK);
    fail_next(f, 2, FAKE_CLOSE);
    assert_int_equal(ask(f), MCS_OK);
    assert_int_equal(f->seen, 4);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(f->seq[i], 2);
    }
    assert_int_equal(f->counters.rpc_repeats, 2);
}

static void a_lost_idle_connection_costs_nothing_but_a_new_one(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(ask(f), MCS_OK);
    fake_master_drop_all(f->master);
    assert_int_equal(ask(f), MCS_OK);
    assert_int_equal(fake_master_connections(f->master), 2);
}

static void the_masters_own_status_is_returned(void **state)
{
    fixture_t *f = *state;
    f->status = MCS_ERR_NO_AVAILABLE_HANDLE;
    assert_int_equal(ask(f), MCS_ERR_NO_AVAILABLE_HANDLE);
}

static void silence_ends_at_the_timeout_of_the_call(void **state)
{
    fixture_t *f = *state;
    asked_t asked;
    fail_next(f, 1, FAKE_SILENCE);
    uint64_t before = mcs_now_ns();
    assert_int_equal(ask_verb(f, MCS_VERB_REMOVE_ALL, 0, 150, &asked), MCS_ERR_RPC_TIMEOUT);
    uint64_t took_ms = (mcs_now_ns() - before) / MCS_NS_PER_MS;
    assert_true(took_ms >= 150 && took_ms < 3000);
    assert_int_equal(ask(f), MCS_OK); /* and the late answer could not have reached this one: another connection */
    assert_int_equal(fake_master_connections(f->master), 2);
}

static void garbage_is_no_master(void **state)
{
    fixture_t *f = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    fail_next(f, 1, FAKE_RAW);
    assert_int_equal(ask(f), MCS_ERR_RPC_FAIL);
    mcs_log_set_level(MCS_LOG_INFO);
    assert_int_equal(ask(f), MCS_OK);
}

static void an_answer_to_another_question_is_no_answer(void **state)
{
    fixture_t *f = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    f->verb_offset = 1;
    fail_next(f, 1, FAKE_REPLY);
    assert_int_equal(ask(f), MCS_ERR_RPC_FAIL);
    mcs_log_set_level(MCS_LOG_INFO);
    f->verb_offset = 0;
    assert_int_equal(ask(f), MCS_OK);
}

typedef struct waiter {
    fixture_t *f;
    mcs_status_t status;
    asked_t asked;
    mcs_verb_t verb;
    uint32_t started; /* atomic */
} waiter_t;

static void *wait_in_call(void *arg)
{
    waiter_t *w = arg;
    __atomic_store_n(&w->started, 1, __ATOMIC_SEQ_CST);
    w->status = ask_verb(w->f, w->verb, 0, 0, &w->asked);
    return NULL;
}

static void wait_until_seen(fixture_t *f, uint32_t count)
{
    for (;;) {
        pthread_mutex_lock(&f->lock);
        bool there = f->seen >= count;
        pthread_mutex_unlock(&f->lock);
        if (there) {
            return;
        }
        sched_yield();
    }
}

static void close_ends_calls_inside_and_refuses_later_ones(void **state)
{
    fixture_t *f = *state;
    waiter_t w = {.f = f, .verb = MCS_VERB_REMOVE_ALL};
    pthread_t thread;
    fail_next(f, 1, FAKE_SILENCE);
    pthread_create(&thread, NULL, wait_in_call, &w);
    wait_until_seen(f, 1);
    mcs_link_close(f->link);
    pthread_join(thread, NULL);
    assert_int_equal(w.status, MCS_ERR_CLOSED);
    assert_int_equal(ask(f), MCS_ERR_CLOSED);
}

static void an_ack_holds_back_while_an_older_call_is_unanswered(void **state)
{
    fixture_t *f = *state;
    waiter_t w = {.f = f, .verb = MCS_VERB_REMOVE_ALL};
    pthread_t thread;
    fail_next(f, 1, FAKE_SILENCE);
    pthread_create(&thread, NULL, wait_in_call, &w);
    wait_until_seen(f, 1);
    assert_int_equal(ask(f), MCS_OK);
    assert_int_equal(f->seq[1], 2);
    assert_int_equal(f->ack[1], 1);
    mcs_link_close(f->link);
    pthread_join(thread, NULL);
}

static int stop_now(void *arg)
{
    (*(int *)arg)++;
    return 1;
}

static void the_hook_ends_a_waiting_call(void **state)
{
    fixture_t *f = *state;
    int asked_hook = 0;
    fail_next(f, 1, FAKE_SILENCE);
    mcs_thread_set_interrupt(stop_now, &asked_hook);
    mcs_interrupt_begin();
    assert_int_equal(ask(f), MCS_ERR_INTERRUPTED);
    mcs_thread_set_interrupt(NULL, NULL);
    assert_int_equal(asked_hook, 1);
    assert_true(mcs_interrupt_seen());
    mcs_interrupt_begin();
    assert_false(mcs_interrupt_seen());
    assert_int_equal(ask(f), MCS_OK);
}

static void an_interrupted_call_that_must_be_known_is_repeated_once_with_its_sequence(void **state)
{
    fixture_t *f = *state;
    int asked_hook = 0;
    asked_t asked;
    fail_next(f, 1, FAKE_SILENCE);
    mcs_thread_set_interrupt(stop_now, &asked_hook);
    mcs_interrupt_begin();
    assert_int_equal(ask_verb(f, MCS_VERB_REMOVE_ALL, MCS_CALL_FINISH, 0, &asked), MCS_OK);
    mcs_thread_set_interrupt(NULL, NULL);
    assert_true(asked.call.interrupted);
    assert_int_equal(asked.count, 42);
    assert_int_equal(f->seen, 2);
    assert_int_equal(f->seq[0], f->seq[1]);
}

static void an_interrupted_call_that_stays_unknown_is_interrupted(void **state)
{
    fixture_t *f = *state;
    int asked_hook = 0;
    asked_t asked;
    fail_next(f, 5, FAKE_SILENCE);
    mcs_thread_set_interrupt(stop_now, &asked_hook);
    mcs_interrupt_begin();
    assert_int_equal(ask_verb(f, MCS_VERB_REMOVE_ALL, MCS_CALL_FINISH, 0, &asked), MCS_ERR_INTERRUPTED);
    mcs_thread_set_interrupt(NULL, NULL);
    assert_true(asked.call.interrupted);
}

static void without_a_hook_clean_up_is_not_interrupted(void **state)
{
    fixture_t *f = *state;
    int asked_hook = 0;
    asked_t asked;
    fail_next(f, 1, FAKE_SILENCE);
    mcs_thread_set_interrupt(stop_now, &asked_hook);
    mcs_interrupt_begin();
    assert_int_equal(ask_verb(f, MCS_VERB_REMOVE_ALL, MCS_CALL_NO_INTERRUPT, 250, &asked), MCS_ERR_RPC_TIMEOUT);
    mcs_thread_set_interrupt(NULL, NULL);
    assert_int_equal(asked_hook, 0);
}

static void *open_new_session(void *arg)
{
    fixture_t *f = arg;
    while (__atomic_load_n(&f->refused, __ATOMIC_SEQ_CST) == 0) {
        sched_yield();
    }
    mcs_hello_result_t next = {.epoch = 7, .session = {0x5e55, 2}};
    mcs_link_set_session(f->link, &next, true);
    return NULL;
}

static mcs_status_t ask_across_sessions(fixture_t *f, mcs_verb_t verb, asked_t *asked)
{
    pthread_t thread;
    assert_int_equal(ask(f), MCS_OK);
    assert_int_equal(ask(f), MCS_OK);
    /* The connection is lost after the request, and the master has another session by the time of the repeat. */
    fail_next(f, 1, FAKE_CLOSE);
    fake_master_set_session(f->master, (mcs_id_t){0x5e55, 2}, 7);
    pthread_create(&thread, NULL, open_new_session, f);
    mcs_status_t status = ask_verb(f, verb, 0, 0, asked);
    pthread_join(thread, NULL);
    return status;
}

static void a_repeatable_verb_goes_on_in_the_next_session_with_a_sequence_of_its(void **state)
{
    fixture_t *f = *state;
    asked_t asked;
    assert_int_equal(ask_across_sessions(f, MCS_VERB_PUT_START, &asked), MCS_OK);
    assert_int_equal(f->seq[2], 3);
    assert_int_equal(f->seq[3], 1);
    assert_int_equal(f->ack[3], 1);
    assert_int_equal(asked.call.session.lo, 2);
}

static void a_commit_is_not_carried_into_another_session(void **state)
{
    fixture_t *f = *state;
    asked_t asked;
    assert_int_equal(ask_across_sessions(f, MCS_VERB_PUT_END, &asked), MCS_ERR_SESSION_ENDED);
    assert_int_equal(f->seen, 3);
    assert_true(asked.call.repeated);
}

static void a_removal_that_may_have_been_done_is_not_done_again_in_another_session(void **state)
{
    fixture_t *f = *state;
    asked_t asked;
    assert_int_equal(ask_across_sessions(f, MCS_VERB_REMOVE_ALL, &asked), MCS_ERR_RPC_FAIL);
    assert_int_equal(f->seen, 3);
    assert_int_equal(ask(f), MCS_OK);
}

static void a_session_that_was_dropped_and_resumed_keeps_its_sequences(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(ask(f), MCS_OK);
    mcs_link_drop_session(f->link);
    mcs_link_set_session(f->link, &f->session, true);
    assert_int_equal(ask(f), MCS_OK);
    assert_int_equal(f->seq[1], 2);
}

static void many_threads_share_few_connections(void **state)
{
    fixture_t *f = *state;
    enum { THREADS = 24 };
    waiter_t w[THREADS];
    pthread_t threads[THREADS];
    memset(w, 0, sizeof(w));
    for (int i = 0; i < THREADS; i++) {
        w[i].f = f;
        w[i].verb = MCS_VERB_REMOVE_ALL;
        pthread_create(&threads[i], NULL, wait_in_call, &w[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(w[i].status, MCS_OK);
        assert_int_equal(w[i].asked.count, 42);
    }
    assert_true(fake_master_connections(f->master) <= f->config.call_connections);
}

/* ---- every failure once ---- */

static mcs_status_t ask_step(void *arg)
{
    fixture_t *f = arg;
    mcs_status_t status = ask(f);
    /* Lost connections are repeated, lack of memory is told. */
    assert_true(status == MCS_OK || status == MCS_ERR_NO_MEMORY || status == MCS_ERR_RPC_FAIL ||
                status == MCS_ERR_LIMIT);
    return status;
}

static void no_allocation_that_fails_loses_the_link(void **state)
{
    fixture_t *f = *state;
    mcs_log_set_level(MCS_LOG_OFF);
    unit_torture(MCS_FAULT_ALLOC, ask_step, f);
    fake_master_drop_all(f->master);
    mcs_log_set_level(MCS_LOG_INFO);
    assert_int_equal(ask(f), MCS_OK);
}

static mcs_status_t ask_ok_step(void *arg)
{
    mcs_status_t status = ask(arg);
    assert_int_equal(status, MCS_OK);
    return status;
}

static void no_system_call_that_fails_once_fails_a_call(void **state)
{
    fixture_t *f = *state;
    unit_torture(MCS_FAULT_SYSCALL, ask_ok_step, f);
}

/* ---- masters that are none ---- */

static fake_action_t mute(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    (void)arg;
    (void)request;
    (void)answer;
    return FAKE_SILENCE;
}

static void a_master_that_never_says_hello_is_a_timeout(void **state)
{
    fixture_t *f = *state;
    fake_master_t *dumb = fake_master_start(mute, NULL);
    mcs_conn_t conn;
    mcs_hello_result_t result;
    mcs_conn_init(&conn);
    mcs_io_t io = {.deadline_ns = mcs_deadline_after_ms(150)};
    assert_int_equal(mcs_conn_open(&conn, fake_master_address(dumb), false, &io), MCS_OK);
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CONTROL};
    assert_int_equal(mcs_hello(&conn, &f->self, &ask, &io, &result), MCS_ERR_RPC_TIMEOUT);
    mcs_conn_fini(&conn);
    fake_master_stop(dumb);
}

static uint64_t ms_until_it_fails(mcs_link_t *link, int64_t timeout_ms, mcs_status_t expected)
{
    Mcs__Wire__RemoveAll request = MCS__WIRE__REMOVE_ALL__INIT;
    mcs_call_t call = {.verb = MCS_VERB_REMOVE_ALL,
                       .request = &request.base,
                       .reply_type = &mcs__wire__count_reply__descriptor,
                       .timeout_ms = timeout_ms};
    mcs_reply_t reply;
    uint64_t began = mcs_now_ns();
    assert_int_equal(mcs_link_call(link, &call, &reply), expected);
    return (mcs_now_ns() - began) / MCS_NS_PER_MS;
}

static void a_master_that_is_known_to_be_gone_costs_nothing_more(void **state)
{
    fixture_t *f = *state;
    mcs_link_t *link;
    mcs_link_config_t config = {
        .address = "127.0.0.1:1", .config = &f->config, .self = &f->self, .counters = &f->counters};
    assert_int_equal(mcs_link_create(&config, &link), MCS_OK);
    mcs_link_set_session(link, &f->session, true);
    mcs_link_lost(link);
    assert_in_range(ms_until_it_fails(link, 20000, MCS_ERR_RPC_FAIL), MCS_LINK_DOWN_MS - 100, 15000);
    for (int i = 0; i < 10; i++) {
        assert_in_range(ms_until_it_fails(link, 20000, MCS_ERR_RPC_FAIL), 0, MCS_LINK_DOWN_MS / 2);
    }
    mcs_link_set_session(link, &f->session, true);
    ms_until_it_fails(link, 300, MCS_ERR_RPC_TIMEOUT); /* it was there again: a restart is waited for */
    mcs_link_close(link);
    mcs_link_destroy(link);
}

static void addresses_that_lead_nowhere_fail(void **state)
{
    (void)state;
    static const char *const nowhere[] = {"unix:/nonexistent/socket", "unix:", "127.0.0.1:1", "not a host:1",
                                          "no-such-host.invalid:1",   ""};
    mcs_conn_t conn;
    mcs_conn_init(&conn);
    for (size_t i = 0; i < MCS_ARRAY_LEN(nowhere); i++) {
        mcs_io_t io = {.deadline_ns = mcs_deadline_after_ms(2000)};
        assert_int_equal(mcs_conn_open(&conn, nowhere[i], false, &io), MCS_ERR_RPC_FAIL);
        assert_false(mcs_conn_is_open(&conn));
    }
    mcs_conn_fini(&conn);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_call_gets_its_answer_and_says_when_it_was_sent_and_in_which_session),
        TEST(sequences_count_up_and_acknowledge_what_was_answered),
        TEST(a_connection_lost_before_the_answer_is_repeated_with_the_same_sequence),
        TEST(a_lost_idle_connection_costs_nothing_but_a_new_one),
        TEST(the_masters_own_status_is_returned),
        TEST(silence_ends_at_the_timeout_of_the_call),
        TEST(garbage_is_no_master),
        TEST(an_answer_to_another_question_is_no_answer),
        TEST(close_ends_calls_inside_and_refuses_later_ones),
        TEST(an_ack_holds_back_while_an_older_call_is_unanswered),
        TEST(the_hook_ends_a_waiting_call),
        TEST(an_interrupted_call_that_must_be_known_is_repeated_once_with_its_sequence),
        TEST(an_interrupted_call_that_stays_unknown_is_interrupted),
        TEST(without_a_hook_clean_up_is_not_interrupted),
        TEST(a_repeatable_verb_goes_on_in_the_next_session_with_a_sequence_of_its),
        TEST(a_commit_is_not_carried_into_another_session),
        TEST(a_removal_that_may_have_been_done_is_not_done_again_in_another_session),
        TEST(a_session_that_was_dropped_and_resumed_keeps_its_sequences),
        TEST(many_threads_share_few_connections),
        TEST(no_allocation_that_fails_loses_the_link),
        TEST(no_system_call_that_fails_once_fails_a_call),
        TEST(a_master_that_never_says_hello_is_a_timeout),
        TEST(a_master_that_is_known_to_be_gone_costs_nothing_more),
        TEST(addresses_that_lead_nowhere_fail),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
