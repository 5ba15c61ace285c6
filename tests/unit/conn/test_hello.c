/* core/client/hello: what a master may answer, and what something that is none may. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <signal.h>

#include "core/client/hello.h"
#include "core/wire/mcs.pb-c.h"
#include "mcstore/mcstore.h"
#include "tests/unit/conn/pair.h"

const char *mcs_version(void)
{
    return "0.0.0";
}

static pair_t g_pair;
static unit_log_t g_log;
static mcs_hello_self_t g_self;
static const mcs_id_t g_session = {5, 6};

static int set_up(void **state)
{
    (void)state;
    pair_open(&g_pair);
    unit_log_capture(&g_log);
    g_self = (mcs_hello_self_t){
        .client = {1, 2}, .host_name = "node:12300", .wire = "ucx-1", .tenant = "default", .token = ""};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&g_pair);
    unit_log_release();
    return 0;
}

static void answer(mcs_status_t status, uint64_t id, const Mcs__Wire__HelloReply *reply)
{
    uint8_t bytes[2048];
    mcs_frame_header_t header = {
        .kind = MCS_FRAME_REPLY, .verb = MCS_VERB_HELLO, .id = id, .status = status, .epoch = 3};
    pair_say(&g_pair, &header, bytes, mcs__wire__hello_reply__pack(reply, bytes));
}

static Mcs__Wire__Id g_wire_id = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__id__descriptor), 5, 6};

static Mcs__Wire__HelloReply good_reply(void)
{
    Mcs__Wire__HelloReply reply = MCS__WIRE__HELLO_REPLY__INIT;
    reply.epoch = 3;
    reply.session = &g_wire_id;
    reply.heartbeat_ms = 1000;
    reply.session_ttl_ms = 10000;
    reply.lease_ttl_ms = 5000;
    reply.boot_id = (char *)(uintptr_t)mcs_boot_id();
    reply.unix_path = (char *)(uintptr_t) "/tmp/x.sock";
    return reply;
}

static mcs_status_t hello(mcs_hello_result_t *result)
{
    mcs_io_t io = pair_io(2000);
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CONTROL};
    return mcs_hello(&g_pair.conn, &g_self, &ask, &io, result);
}

/* The hello that the client sent last, as the master reads it. */
static Mcs__Wire__Hello *heard(void)
{
    uint8_t bytes[4096];
    mcs_frame_header_t header;
    ssize_t n = recv(g_pair.far, bytes, MCS_FRAME_HEADER, MSG_WAITALL);
    assert_int_equal(n, MCS_FRAME_HEADER);
    assert_int_equal(mcs_frame_decode(bytes, MCS_FRAME_HELLO_MAX, &header), MCS_OK);
    assert_int_equal(header.verb, MCS_VERB_HELLO);
    n = recv(g_pair.far, bytes, header.length, MSG_WAITALL);
    assert_int_equal(n, header.length);
    Mcs__Wire__Hello *message = mcs__wire__hello__unpack(NULL, header.length, bytes);
    assert_non_null(message);
    return message;
}

static void session_is_opened(void **state)
{
    (void)state;
    Mcs__Wire__HelloReply reply = good_reply();
    mcs_hello_result_t result;
    answer(MCS_OK, 1, &reply);
    assert_int_equal(hello(&result), MCS_OK);
    assert_true(mcs_id_equal(result.session, g_session) && result.epoch == 3 && !result.resumed);
    assert_int_equal(result.lease_ttl_ms, 5000);
    assert_string_equal(result.unix_path, "/tmp/x.sock"); /* the same kernel */
    Mcs__Wire__Hello *said = heard();
    assert_string_equal(said->host_name, "node:12300");
    assert_true(said->client->hi == 1 && said->session->hi == 0);
    assert_string_equal(said->boot_id, mcs_boot_id());
    assert_int_equal(said->nonce.len, 0); /* no token: nothing to prove */
    mcs__wire__hello__free_unpacked(said, NULL);
}

static void path_of_another_host_is_not_used(void **state)
{
    (void)state;
    Mcs__Wire__HelloReply reply = good_reply();
    mcs_hello_result_t result;
    char other[] = "00000000-0000-0000-0000-000000000000";
    char long_path[300];
    memset(long_path, 'p', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    reply.boot_id = other;
    answer(MCS_OK, 1, &reply);
    assert_int_equal(hello(&result), MCS_OK);
    assert_string_equal(result.unix_path, "");
    reply = good_reply();
    reply.unix_path = long_path;
    answer(MCS_OK, 2, &reply);
    assert_int_equal(hello(&result), MCS_OK);
    assert_string_equal(result.unix_path, "");
}

static void answers_that_are_none_are_protocol_errors(void **state)
{
    (void)state;
    Mcs__Wire__HelloReply reply = good_reply();
    mcs_hello_result_t result = {.epoch = 77};
    uint8_t bytes[2048];
    size_t len = mcs__wire__hello_reply__pack(&reply, bytes);
    static const mcs_frame_header_t bad[] = {
        {.kind = MCS_FRAME_NOTICE, .verb = MCS_VERB_HELLO, .id = 1},                 /* not a reply */
        {.kind = MCS_FRAME_REQUEST, .verb = MCS_VERB_HELLO, .id = 1},                /* an echo */
        {.kind = MCS_FRAME_REPLY, .verb = MCS_VERB_PING, .id = 1},                   /* of another verb */
        {.kind = MCS_FRAME_REPLY, .verb = MCS_VERB_HELLO, .id = 2},                  /* of another request */
        {.kind = MCS_FRAME_REPLY, .verb = MCS_VERB_HELLO, .id = 1, .status = 12345}, /* no status of ours */
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        pair_close(&g_pair);
        pair_open(&g_pair);
        pair_say(&g_pair, &bad[i], bytes, len);
        assert_int_equal(hello(&result), MCS_ERR_PROTOCOL);
    }
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = MCS_VERB_HELLO, .id = 1};
    for (size_t cut = 1; cut < len; cut++) { /* every truncation: an error, or a reply that still has its session */
        pair_close(&g_pair);
        pair_open(&g_pair);
        pair_say(&g_pair, &header, bytes, cut);
        mcs_status_t status = hello(&result);
        assert_true(status == MCS_ERR_PROTOCOL || (status == MCS_OK && mcs_id_equal(result.session, g_session)));
    }
    pair_close(&g_pair);
    pair_open(&g_pair);
    pair_say(&g_pair, &header, NULL, 0); /* no session in it */
    assert_int_equal(hello(&result), MCS_ERR_PROTOCOL);
}

static void silence_and_hanging_up_end_in_time(void **state)
{
    (void)state;
    mcs_hello_result_t result;
    mcs_io_t io = pair_io(10);
    mcs_hello_ask_t ask = {.role = MCS_HELLO_CALL, .session = g_session};
    assert_int_equal(mcs_hello(&g_pair.conn, &g_self, &ask, &io, &result), MCS_ERR_RPC_TIMEOUT);
    pair_hang_up(&g_pair);
    assert_int_equal(hello(&result), MCS_ERR_RPC_FAIL);
}

static void refusals_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        mcs_status_t said;
        mcs_status_t returned;
        bool logged;
    } rows[] = {{MCS_ERR_SESSION_ENDED, MCS_ERR_SESSION_ENDED, false},
                {MCS_ERR_CLIENT_NOT_FOUND, MCS_ERR_SESSION_ENDED, false},
                {MCS_ERR_ILLEGAL_CLIENT, MCS_ERR_ILLEGAL_CLIENT, true},
                {MCS_ERR_INVALID_VERSION, MCS_ERR_INVALID_VERSION, true}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        uint8_t bytes[256];
        Mcs__Wire__ErrorDetail detail = MCS__WIRE__ERROR_DETAIL__INIT;
        mcs_hello_result_t result;
        pair_close(&g_pair);
        pair_open(&g_pair);
        unit_log_capture(&g_log);
        detail.text = (char *)(uintptr_t) "because\nE1125 forged";
        mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = MCS_VERB_HELLO, .id = 1, .status = rows[i].said};
        pair_say(&g_pair, &header, bytes, mcs__wire__error_detail__pack(&detail, bytes));
        assert_int_equal(hello(&result), rows[i].returned);
        assert_int_equal(g_log.lines, rows[i].logged ? 1 : 0);
        assert_true(!rows[i].logged || strstr(g_log.last, "because?E1125 forged") != NULL);
    }
}

static void challenge_without_a_token_says_what_to_set(void **state)
{
    (void)state;
    Mcs__Wire__HelloReply reply = MCS__WIRE__HELLO_REPLY__INIT;
    uint8_t nonce[32] = {1, 2, 3};
    mcs_hello_result_t result;
    reply.challenge = (ProtobufCBinaryData){sizeof(nonce), nonce};
    answer(MCS_ERR_AGAIN, 1, &reply);
    assert_int_equal(hello(&result), MCS_ERR_ILLEGAL_CLIENT);
    assert_non_null(strstr(g_log.last, "MC_STORE_CLUSTER_TOKEN"));
}

static void challenge_is_answered_with_the_proof(void **state)
{
    (void)state;
    Mcs__Wire__HelloReply challenge = MCS__WIRE__HELLO_REPLY__INIT;
    Mcs__Wire__HelloReply reply = good_reply();
    uint8_t nonce[32] = {9, 8, 7};
    mcs_hello_result_t result;
    g_self.token = "open sesame";
    challenge.challenge = (ProtobufCBinaryData){sizeof(nonce), nonce};
    answer(MCS_ERR_AGAIN, 1, &challenge);
    answer(MCS_OK, 2, &reply);
    assert_int_equal(hello(&result), MCS_OK);
    Mcs__Wire__Hello *first = heard();
    Mcs__Wire__Hello *second = heard();
    assert_int_equal(first->nonce.len, 16);
    assert_int_equal(first->proof.len, 0);
    uint8_t message[16 + 32 + 16];
    uint8_t expected[32];
    unsigned len = sizeof(expected);
    memcpy(message, second->nonce.data, 16);
    memcpy(message + 16, nonce, 32);
    mcs_store_u64(message + 48, 1);
    mcs_store_u64(message + 56, 2);
    HMAC(EVP_sha256(), "open sesame", 11, message, sizeof(message), expected, &len);
    assert_int_equal(second->proof.len, 32);
    assert_memory_equal(second->proof.data, expected, 32);
    mcs__wire__hello__free_unpacked(first, NULL);
    mcs__wire__hello__free_unpacked(second, NULL);
}

static void challenge_of_a_wrong_length_is_a_protocol_error(void **state)
{
    (void)state;
    uint8_t nonce[300] = {0};
    static const size_t lens[] = {0, 1, 15, 257, 300};
    g_self.token = "t";
    for (size_t i = 0; i < MCS_ARRAY_LEN(lens); i++) {
        Mcs__Wire__HelloReply challenge = MCS__WIRE__HELLO_REPLY__INIT;
        mcs_hello_result_t result;
        pair_close(&g_pair);
        pair_open(&g_pair);
        challenge.challenge = (ProtobufCBinaryData){lens[i], nonce};
        answer(MCS_ERR_AGAIN, 1, &challenge);
        assert_int_equal(hello(&result), MCS_ERR_PROTOCOL);
    }
    /* A master that challenges for ever is left after the second hello. */
    Mcs__Wire__HelloReply challenge = MCS__WIRE__HELLO_REPLY__INIT;
    mcs_hello_result_t result;
    pair_close(&g_pair);
    pair_open(&g_pair);
    challenge.challenge = (ProtobufCBinaryData){32, nonce};
    answer(MCS_ERR_AGAIN, 1, &challenge);
    answer(MCS_ERR_AGAIN, 2, &challenge);
    assert_int_not_equal(hello(&result), MCS_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(session_is_opened),
        TEST(path_of_another_host_is_not_used),
        TEST(answers_that_are_none_are_protocol_errors),
        TEST(silence_and_hanging_up_end_in_time),
        TEST(refusals_are_told_apart),
        TEST(challenge_without_a_token_says_what_to_set),
        TEST(challenge_is_answered_with_the_proof),
        TEST(challenge_of_a_wrong_length_is_a_protocol_error),
    };
    return cmocka_run_group_tests_name("hello", tests, NULL, NULL);
}
