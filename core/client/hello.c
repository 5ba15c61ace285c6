/* See hello.h. */
#include "core/client/hello.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/wire/columns.h"
#include "core/wire/mcs.pb-c.h"
#include "mcstore/mcstore.h"

#define AREA      "link"
#define NONCE_LEN 16
#define PROOF_LEN 32
/* The first answer of what may not be a master at all. */
#define HELLO_REPLY_MAX MCS_FRAME_HELLO_MAX

static char g_boot_id[MCS_BOOT_ID_MAX];
static pthread_once_t g_boot_once = PTHREAD_ONCE_INIT;

static void read_boot_id(void)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    ssize_t n = read(fd, g_boot_id, sizeof(g_boot_id) - 1);
    close(fd);
    g_boot_id[n > 0 ? n : 0] = '\0';
    g_boot_id[strcspn(g_boot_id, "\n")] = '\0';
}

const char *mcs_boot_id(void)
{
    pthread_once(&g_boot_once, read_boot_id);
    return g_boot_id;
}

void mcs_error_detail(const mcs_frame_t *frame, char *text, size_t size)
{
    text[0] = '\0';
    if (frame->header.length == 0 || frame->header.length > 4096) {
        return;
    }
    Mcs__Wire__ErrorDetail *detail = mcs__wire__error_detail__unpack(NULL, frame->header.length, frame->payload);
    if (detail == NULL) {
        return;
    }
    snprintf(text, size, "%.300s", detail->text);
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ') {
            *p = '?'; /* no line breaks or escapes of others in our log */
        }
    }
    mcs__wire__error_detail__free_unpacked(detail, NULL);
}

static void make_proof(const mcs_hello_self_t *self, const uint8_t nonce[NONCE_LEN], const uint8_t *challenge,
                       size_t challenge_len, uint8_t proof_out[PROOF_LEN])
{
    uint8_t message[NONCE_LEN + 256 + sizeof(mcs_id_t)];
    size_t len = 0;
    memcpy(message, nonce, NONCE_LEN);
    len += NONCE_LEN;
    memcpy(message + len, challenge, challenge_len);
    len += challenge_len;
    mcs_store_u64(message + len, self->client.hi);
    mcs_store_u64(message + len + 8, self->client.lo);
    len += sizeof(mcs_id_t);
    unsigned proof_len = PROOF_LEN;
    HMAC(EVP_sha256(), self->token, (int)strlen(self->token), message, len, proof_out, &proof_len);
}

static mcs_status_t send_hello(mcs_conn_t *conn, const mcs_hello_self_t *self, const mcs_hello_ask_t *ask,
                               const uint8_t *nonce, const uint8_t *proof, const mcs_io_t *io)
{
    Mcs__Wire__Id client = MCS__WIRE__ID__INIT;
    Mcs__Wire__Id session_id = MCS__WIRE__ID__INIT;
    Mcs__Wire__Hello hello;
    mcs__wire__hello__init(&hello);
    char software[64];
    snprintf(software, sizeof(software), "mooncake-store %s", mcs_version());
    client.hi = self->client.hi;
    client.lo = self->client.lo;
    session_id.hi = ask->session.hi;
    session_id.lo = ask->session.lo;
    hello.protocol = MCS_PROTOCOL_VERSION;
    hello.role = (uint32_t)ask->role;
    hello.client = &client;
    hello.session = &session_id;
    hello.software = software;
    /* protobuf-c has no const: these are only read. */
    hello.host_name = (char *)(uintptr_t)self->host_name;
    hello.boot_id = (char *)(uintptr_t)mcs_boot_id();
    hello.pid = (uint32_t)getpid();
    hello.wire = (char *)(uintptr_t)self->wire;
    hello.tenant = (char *)(uintptr_t)self->tenant;
    if (self->token[0] != '\0') {
        hello.nonce = (ProtobufCBinaryData){NONCE_LEN, (uint8_t *)(uintptr_t)nonce};
    }
    if (proof != NULL) {
        hello.proof = (ProtobufCBinaryData){PROOF_LEN, (uint8_t *)(uintptr_t)proof};
    }
    mcs_frame_header_t header = {
        .kind = MCS_FRAME_REQUEST, .verb = MCS_VERB_HELLO, .id = ++conn->last_id, .epoch = ask->highest_epoch};
    uint8_t *payload = mcs_conn_prepare(conn, &header, mcs__wire__hello__get_packed_size(&hello));
    if (payload == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs__wire__hello__pack(&hello, payload);
    return mcs_conn_flush(conn, io);
}

static mcs_status_t receive_reply(mcs_conn_t *conn, const mcs_io_t *io, mcs_frame_t *frame_out)
{
    mcs_status_t status = mcs_conn_receive(conn, HELLO_REPLY_MAX, io, frame_out);
    if (status != MCS_OK) {
        return status;
    }
    const mcs_frame_header_t *header = &frame_out->header;
    if (header->kind != MCS_FRAME_REPLY || header->verb != MCS_VERB_HELLO || header->id != conn->last_id ||
        !mcs_status_known(header->status)) {
        return MCS_ERR_PROTOCOL;
    }
    return MCS_OK;
}

static mcs_status_t take_result(const mcs_frame_t *frame, mcs_hello_result_t *result_out)
{
    Mcs__Wire__HelloReply *reply = mcs__wire__hello_reply__unpack(NULL, frame->header.length, frame->payload);
    if (reply == NULL) {
        return MCS_ERR_PROTOCOL;
    }
    mcs_status_t status = MCS_ERR_PROTOCOL;
    if (reply->session != NULL && (reply->session->hi | reply->session->lo) != 0) {
        mcs_hello_result_t result = {
            .epoch = reply->epoch,
            .session = {reply->session->hi, reply->session->lo},
            .resumed = reply->resumed != 0,
            .heartbeat_ms = reply->heartbeat_ms,
            .session_ttl_ms = reply->session_ttl_ms,
            .lease_ttl_ms = reply->lease_ttl_ms,
            .max_batch_keys = reply->max_batch_keys,
        };
        if (reply->boot_id[0] != '\0' && strcmp(reply->boot_id, mcs_boot_id()) == 0 &&
            strlen(reply->unix_path) < sizeof(result.unix_path)) {
            snprintf(result.unix_path, sizeof(result.unix_path), "%s", reply->unix_path);
        }
        *result_out = result;
        status = MCS_OK;
    }
    mcs__wire__hello_reply__free_unpacked(reply, NULL);
    return status;
}

/* Answers the master's challenge. The frame's status is AGAIN. */
static mcs_status_t answer_challenge(mcs_conn_t *conn, const mcs_hello_self_t *self, const mcs_hello_ask_t *ask,
                                     const uint8_t nonce[NONCE_LEN], const mcs_io_t *io, mcs_frame_t *frame)
{
    if (self->token[0] == '\0') {
        mcs_error(AREA, "the master asks for a cluster token and none is set (MC_STORE_CLUSTER_TOKEN): %s",
                  mcs_status_name(MCS_ERR_ILLEGAL_CLIENT));
        return MCS_ERR_ILLEGAL_CLIENT;
    }
    Mcs__Wire__HelloReply *reply = mcs__wire__hello_reply__unpack(NULL, frame->header.length, frame->payload);
    if (reply == NULL || reply->challenge.len < NONCE_LEN || reply->challenge.len > 256) {
        if (reply != NULL) {
            mcs__wire__hello_reply__free_unpacked(reply, NULL);
        }
        return MCS_ERR_PROTOCOL;
    }
    uint8_t proof[PROOF_LEN];
    make_proof(self, nonce, reply->challenge.data, reply->challenge.len, proof);
    mcs__wire__hello_reply__free_unpacked(reply, NULL);
    mcs_status_t status = send_hello(conn, self, ask, nonce, proof, io);
    return status == MCS_OK ? receive_reply(conn, io, frame) : status;
}

mcs_status_t mcs_hello(mcs_conn_t *conn, const mcs_hello_self_t *self, const mcs_hello_ask_t *ask, const mcs_io_t *io,
                       mcs_hello_result_t *result_out)
{
    uint8_t nonce[NONCE_LEN];
    mcs_frame_t frame;
    mcs_random_bytes(nonce, sizeof(nonce));
    mcs_status_t status = send_hello(conn, self, ask, nonce, NULL, io);
    if (status == MCS_OK) {
        status = receive_reply(conn, io, &frame);
    }
    if (status == MCS_OK && frame.header.status == MCS_ERR_AGAIN) {
        status = answer_challenge(conn, self, ask, nonce, io, &frame);
    }
    if (status != MCS_OK) {
        return status;
    }
    if (frame.header.status != MCS_OK) {
        char detail[320];
        status = (mcs_status_t)frame.header.status;
        mcs_error_detail(&frame, detail, sizeof(detail));
        if (status != MCS_ERR_SESSION_ENDED && status != MCS_ERR_CLIENT_NOT_FOUND) {
            mcs_error(AREA, "hello refused by the master: %s: %s", detail, mcs_status_name(status));
        }
        return status == MCS_ERR_CLIENT_NOT_FOUND || status == MCS_ERR_AGAIN ? MCS_ERR_SESSION_ENDED : status;
    }
    return take_result(&frame, result_out);
}
