/* core/client/session and hello: notices and their answers, resuming, replacing, bad masters, tokens. */
#include "core/client/session.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/client/interrupt.h"
#include "mcstore/mcstore.h"
#include "tests/support/fake_master.h"
#include "tests/support/unit.h"

#define TOKEN "open sesame"

typedef struct fixture {
    fake_master_t *master;
    mcs_client_config_t config;
    mcs_counters_t counters;
    mcs_hello_self_t self;
    mcs_session_t *session;

    pthread_mutex_t lock; /* guards what follows */
    uint32_t opened;
    uint32_t resumed;
    mcs_status_t open_status;
    uint64_t released[64];
    size_t released_count;
    uint64_t struck[64];
    size_t struck_count;
    uint64_t acked[64];
    size_t acked_count;
    uint32_t goodbyes;
    uint64_t hello_epoch; /* that the last hello named */
    int lose;             /* released requests to answer with a lost connection */
    uint32_t challenges;
    uint32_t good_proofs;
    bool ask_token;
    bool mute; /* to hellos: a master that is stopped */
} fixture_t;

static void take_column(const fake_request_t *request, uint64_t *list, size_t *count)
{
    Mcs__Wire__Released *message = mcs__wire__released__unpack(NULL, request->header.length, request->payload);
    for (size_t i = 0; message != NULL && i < message->generations.len / 8 && *count < 64; i++) {
        list[(*count)++] = mcs_load_u64(message->generations.data + i * 8);
    }
    if (message != NULL) {
        mcs__wire__released__free_unpacked(message, NULL);
    }
}

/* Challenges the first hello of a connection; a second one with the right proof is let through. */
static fake_action_t check_token(fixture_t *f, const fake_request_t *request, fake_answer_t *answer)
{
    static uint8_t challenge[32] = "a challenge of thirty two bytes";
    static Mcs__Wire__HelloReply reply;
    static uint8_t nonce[16];
    uint8_t message[sizeof(nonce) + sizeof(challenge) + 16];
    uint8_t proof[32];
    unsigned len = sizeof(proof);
    fake_action_t action = FAKE_DEFAULT;
    Mcs__Wire__Hello *hello = mcs__wire__hello__unpack(NULL, request->header.length, request->payload);
    assert_int_equal(hello->nonce.len, sizeof(nonce));
    if (hello->proof.len == 0) {
        memcpy(nonce, hello->nonce.data, sizeof(nonce));
        mcs__wire__hello_reply__init(&reply);
        reply.challenge = (ProtobufCBinaryData){sizeof(challenge), challenge};
        answer->message = &reply.base;
        answer->status = MCS_ERR_AGAIN;
        f->challenges++;
        action = FAKE_REPLY;
    } else {
        memcpy(message, nonce, sizeof(nonce));
        memcpy(message + sizeof(nonce), challenge, sizeof(challenge));
        mcs_store_u64(message + sizeof(nonce) + sizeof(challenge), hello->client->hi);
        mcs_store_u64(message + sizeof(nonce) + sizeof(challenge) + 8, hello->client->lo);
        HMAC(EVP_sha256(), TOKEN, (int)strlen(TOKEN), message, sizeof(message), proof, &len);
        bool good = hello->proof.len == len && memcmp(hello->proof.data, proof, len) == 0;
        f->good_proofs += good;
        answer->status = MCS_ERR_ILLEGAL_CLIENT;
        action = good ? FAKE_DEFAULT : FAKE_REPLY;
    }
    mcs__wire__hello__free_unpacked(hello, NULL);
    return action;
}

static fake_action_t script(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    fixture_t *f = arg;
    fake_action_t action = FAKE_DEFAULT;
    pthread_mutex_lock(&f->lock);
    if (request->header.verb == MCS_VERB_HELLO) {
        f->hello_epoch = request->header.epoch;
    }
    if (request->header.verb == MCS_VERB_HELLO && f->mute) {
        action = FAKE_SILENCE;
    } else if (request->header.verb == MCS_VERB_RELEASED && f->lose > 0) {
        f->lose--;
        action = FAKE_CLOSE;
    } else if (request->header.verb == MCS_VERB_RELEASED) {
        take_column(request, f->released, &f->released_count);
    } else if (request->header.verb == MCS_VERB_STRUCK) {
        take_column(request, f->struck, &f->struck_count);
    } else if (request->header.verb == MCS_VERB_REVOKE_ACK) {
        take_column(request, f->acked, &f->acked_count);
    } else if (request->header.verb == MCS_VERB_GOODBYE) {
        f->goodbyes++;
    } else if (request->header.verb == MCS_VERB_HELLO && f->ask_token) {
        action = check_token(f, request, answer);
    }
    pthread_mutex_unlock(&f->lock);
    return action;
}

static mcs_status_t opened(void *arg, const mcs_hello_result_t *hello)
{
    fixture_t *f = arg;
    assert_false(mcs_id_is_none(hello->session));
    pthread_mutex_lock(&f->lock);
    f->opened++;
    mcs_status_t status = f->open_status;
    pthread_mutex_unlock(&f->lock);
    return status;
}

static mcs_status_t resumed(void *arg, const mcs_hello_result_t *hello)
{
    fixture_t *f = arg;
    (void)hello;
    pthread_mutex_lock(&f->lock);
    f->resumed++;
    pthread_mutex_unlock(&f->lock);
    return MCS_OK;
}

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof(*f));
    mcs_log_set_level(MCS_LOG_OFF);
    pthread_mutex_init(&f->lock, NULL);
    f->master = fake_master_start(script, f);
    assert_int_equal(mcs_config_init(&mcs_client_config_table, &f->config), MCS_OK);
    f->config.rpc_timeout_ms = 2000;
    f->config.connect_timeout_ms = 1000;
    f->config.spin_us = 0;
    f->self = (mcs_hello_self_t){.client = {1, 2}, .host_name = "h:1", .wire = "", .tenant = "default", .token = ""};
    mcs_session_config_t config = {.address = fake_master_address(f->master),
                                   .config = &f->config,
                                   .self = &f->self,
                                   .counters = &f->counters,
                                   .opened = opened,
                                   .resumed = resumed,
                                   .arg = f};
    assert_int_equal(mcs_session_create(&config, &f->session), MCS_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    mcs_session_stop(f->session);
    mcs_session_destroy(f->session);
    fake_master_stop(f->master);
    mcs_client_config_fini(&f->config);
    pthread_mutex_destroy(&f->lock);
    mcs_log_set_level(MCS_LOG_INFO);
    free(f);
    return 0;
}

#define WAIT_UNTIL(f, condition)                                                                                       \
    do {                                                                                                               \
        bool there = false;                                                                                            \
        uint64_t give_up = mcs_now_ns() + 10 * MCS_NS_PER_SEC;                                                         \
        while (!there) {                                                                                               \
            pthread_mutex_lock(&(f)->lock);                                                                            \
            there = (condition);                                                                                       \
            pthread_mutex_unlock(&(f)->lock);                                                                          \
            assert_true(there || mcs_now_ns() < give_up);                                                              \
            sched_yield();                                                                                             \
        }                                                                                                              \
    } while (0)

static void start(fixture_t *f)
{
    assert_int_equal(mcs_session_start(f->session, NULL), MCS_OK);
    assert_true(mcs_session_is_connected(f->session));
    assert_int_equal(f->opened, 1);
}

static void what_was_released_or_struck_is_told_to_the_master(void **state)
{
    fixture_t *f = *state;
    const uint64_t generations[] = {11, 12, 13};
    start(f);
    mcs_session_struck(f->session, generations + 1, 2);
    WAIT_UNTIL(f, f->struck_count == 2);
    assert_memory_equal(f->struck, generations + 1, 2 * sizeof(uint64_t));
    mcs_session_released(f->session, generations, 3);
    WAIT_UNTIL(f, f->released_count == 3);
    assert_memory_equal(f->released, generations, sizeof(generations));
}

static void an_answer_lost_with_its_connection_is_sent_again_in_the_resumed_session(void **state)
{
    fixture_t *f = *state;
    const uint64_t generations[] = {21, 22};
    start(f);
    f->lose = 2;
    mcs_session_released(f->session, generations, 2);
    WAIT_UNTIL(f, f->released_count == 2);
    assert_memory_equal(f->released, generations, sizeof(generations));
    assert_true(f->resumed >= 1);
    assert_int_equal(f->opened, 1);
}

static void a_revoked_generation_of_nobody_is_acknowledged(void **state)
{
    fixture_t *f = *state;
    uint64_t generations[] = {31, 32};
    Mcs__Wire__NoticeRevoked notice = MCS__WIRE__NOTICE_REVOKED__INIT;
    notice.generations = (ProtobufCBinaryData){sizeof(generations), (uint8_t *)generations};
    start(f);
    fake_master_notice(f->master, MCS_VERB_N_REVOKED, &notice.base);
    WAIT_UNTIL(f, f->acked_count == 2);
    assert_memory_equal(f->acked, generations, sizeof(generations));
}

static void a_revoked_generation_of_a_put_waits_for_it(void **state)
{
    fixture_t *f = *state;
    uint64_t generations[] = {41, 42};
    Mcs__Wire__NoticeRevoked notice = MCS__WIRE__NOTICE_REVOKED__INIT;
    notice.generations = (ProtobufCBinaryData){sizeof(generations), (uint8_t *)generations};
    mcs_put_round_t round;
    start(f);
    mcs_put_round_begin(mcs_session_inflight(f->session), &round);
    mcs_put_round_known(mcs_session_inflight(f->session), &round, &generations[1], 1);
    fake_master_notice(f->master, MCS_VERB_N_REVOKED, &notice.base);
    WAIT_UNTIL(f, f->acked_count == 1);
    assert_int_equal(f->acked[0], 41);
    mcs_put_round_end(mcs_session_inflight(f->session), &round);
    WAIT_UNTIL(f, f->acked_count == 2);
    assert_int_equal(f->acked[1], 42);
}

static void a_lost_connection_resumes_and_a_lost_session_is_opened_anew(void **state)
{
    fixture_t *f = *state;
    start(f);
    fake_master_drop_all(f->master);
    WAIT_UNTIL(f, f->resumed == 1);
    assert_int_equal(f->opened, 1);
    fake_master_set_session(f->master, (mcs_id_t){0x5e55, 2}, 8);
    fake_master_drop_all(f->master);
    WAIT_UNTIL(f, f->opened == 2);
    assert_int_equal(f->resumed, 1);
}

static void a_master_of_a_lower_epoch_is_refused(void **state)
{
    fixture_t *f = *state;
    start(f);
    uint32_t before = fake_master_connections(f->master);
    fake_master_set_session(f->master, (mcs_id_t){0x5e55, 2}, 6);
    fake_master_drop_all(f->master);
    while (fake_master_connections(f->master) < before + 3) {
        sched_yield();
    }
    assert_int_equal(f->opened, 1);
    assert_int_equal(f->resumed, 0);
    assert_false(mcs_session_is_connected(f->session));
    pthread_mutex_lock(&f->lock);
    assert_int_equal(f->hello_epoch, 7); /* the master is told why */
    pthread_mutex_unlock(&f->lock);
    fake_master_set_session(f->master, (mcs_id_t){0x5e55, 3}, 7);
    WAIT_UNTIL(f, f->opened == 2);
}

static void a_notice_that_is_none_costs_the_connection_and_nothing_else(void **state)
{
    fixture_t *f = *state;
    uint8_t odd[7] = {1, 2, 3, 4, 5, 6, 7};
    Mcs__Wire__NoticeRevoked bad = MCS__WIRE__NOTICE_REVOKED__INIT;
    Mcs__Wire__ErrorDetail text = MCS__WIRE__ERROR_DETAIL__INIT;
    bad.generations = (ProtobufCBinaryData){sizeof(odd), odd};
    text.text = (char *)(uintptr_t) "hello";
    start(f);
    fake_master_notice(f->master, MCS_VERB_N_REVOKED, &bad.base);
    WAIT_UNTIL(f, f->resumed == 1);
    fake_master_notice(f->master, (mcs_verb_t)250, &text.base); /* of a newer master: passed over */
    const uint64_t generation = 51;
    mcs_session_released(f->session, &generation, 1);
    WAIT_UNTIL(f, f->released_count == 1);
    assert_int_equal(f->resumed, 1);
}

static void a_failed_mount_closes_the_session_and_fails_the_start(void **state)
{
    fixture_t *f = *state;
    f->open_status = MCS_ERR_SEGMENT_ALREADY_EXISTS;
    assert_int_equal(mcs_session_start(f->session, NULL), MCS_ERR_SEGMENT_ALREADY_EXISTS);
    assert_false(mcs_session_is_connected(f->session));
    f->open_status = MCS_OK;
    assert_int_equal(mcs_session_start(f->session, NULL), MCS_OK);
}

static int stop_now(void *arg)
{
    (*(int *)arg)++;
    return 1;
}

static void a_start_at_a_master_that_is_silent_can_be_interrupted(void **state)
{
    fixture_t *f = *state;
    int asked = 0;
    f->mute = true;
    f->config.connect_timeout_ms = 30000;
    mcs_interrupt_begin();
    mcs_thread_set_interrupt(stop_now, &asked);
    assert_int_equal(mcs_session_start(f->session, NULL), MCS_ERR_INTERRUPTED);
    mcs_thread_set_interrupt(NULL, NULL);
    mcs_interrupt_begin();
    assert_int_equal(asked, 1);
}

static void stop_says_goodbye_once(void **state)
{
    fixture_t *f = *state;
    start(f);
    mcs_session_stop(f->session);
    assert_int_equal(f->goodbyes, 1);
    mcs_session_stop(f->session);
    assert_int_equal(f->goodbyes, 1);
}

static void the_cluster_token_is_proven_and_never_sent(void **state)
{
    fixture_t *f = *state;
    f->ask_token = true;
    f->self.token = TOKEN;
    start(f);
    assert_int_equal(f->challenges, 1);
    assert_int_equal(f->good_proofs, 1);
}

static void a_wrong_token_is_refused(void **state)
{
    fixture_t *f = *state;
    f->ask_token = true;
    f->self.token = "open barley";
    assert_int_equal(mcs_session_start(f->session, NULL), MCS_ERR_ILLEGAL_CLIENT);
    assert_int_equal(f->good_proofs, 0);
}

static fake_action_t ask_anybody(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    static uint8_t challenge[32];
    static Mcs__Wire__HelloReply reply;
    (void)arg;
    (void)request;
    mcs__wire__hello_reply__init(&reply);
    reply.challenge = (ProtobufCBinaryData){sizeof(challenge), challenge};
    answer->message = &reply.base;
    answer->status = MCS_ERR_AGAIN;
    return FAKE_REPLY;
}

static void without_a_token_a_challenge_is_refused(void **state)
{
    fixture_t *f = *state;
    fake_master_t *strict = fake_master_start(ask_anybody, NULL);
    mcs_conn_t conn;
    mcs_hello_result_t result;
    mcs_conn_init(&conn);
    mcs_io_t io = {.deadline_ns = mcs_deadline_after_ms(2000)};
    assert_int_equal(mcs_conn_open(&conn, fake_master_address(strict), false, &io), MCS_OK);
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CONTROL};
    assert_int_equal(mcs_hello(&conn, &f->self, &ask, &io, &result), MCS_ERR_ILLEGAL_CLIENT);
    mcs_conn_fini(&conn);
    fake_master_stop(strict);
}

static mcs_status_t release_step(void *arg)
{
    fixture_t *f = arg;
    const uint64_t generation = 61;
    mcs_session_released(f->session, &generation, 1);
    return MCS_OK;
}

static void short_memory_loses_an_answer_at_worst(void **state)
{
    fixture_t *f = *state;
    start(f);
    unit_torture(MCS_FAULT_ALLOC, release_step, f);
    const uint64_t last = 62;
    mcs_session_released(f->session, &last, 1);
    WAIT_UNTIL(f, f->released_count > 0 && f->released[f->released_count - 1] == 62);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_was_released_or_struck_is_told_to_the_master),
        TEST(an_answer_lost_with_its_connection_is_sent_again_in_the_resumed_session),
        TEST(a_revoked_generation_of_nobody_is_acknowledged),
        TEST(a_revoked_generation_of_a_put_waits_for_it),
        TEST(a_lost_connection_resumes_and_a_lost_session_is_opened_anew),
        TEST(a_master_of_a_lower_epoch_is_refused),
        TEST(a_notice_that_is_none_costs_the_connection_and_nothing_else),
        TEST(a_failed_mount_closes_the_session_and_fails_the_start),
        TEST(a_start_at_a_master_that_is_silent_can_be_interrupted),
        TEST(stop_says_goodbye_once),
        TEST(the_cluster_token_is_proven_and_never_sent),
        TEST(a_wrong_token_is_refused),
        TEST(without_a_token_a_challenge_is_refused),
        TEST(short_memory_loses_an_answer_at_worst),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
