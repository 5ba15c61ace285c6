/* See rpc_client.h. */
#include "tests/support/rpc_client.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/unit.h"

#include "core/base/hash.h"

#define WAIT_LIMIT_MS 20000

/* ---- frames ---- */

static int connect_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static void close_wire(rpc_wire_t *wire)
{
    if (wire->fd >= 0) {
        close(wire->fd);
        wire->fd = -1;
    }
    mcs_buf_reset(&wire->in);
}

static void send_all(int fd, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return; /* the wait for the answer sees the end */
        }
        bytes += n;
        len -= (size_t)n;
    }
}

uint64_t rpc_send(rpc_client_t *client, rpc_wire_t *wire, mcs_verb_t verb, const ProtobufCMessage *request)
{
    size_t len = request != NULL ? protobuf_c_message_get_packed_size(request) : 0;
    uint8_t *frame = malloc(MCS_FRAME_HEADER + len);
    assert_non_null(frame);
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST,
                                 .verb = (uint16_t)verb,
                                 .length = (uint32_t)len,
                                 .id = ++wire->last_id,
                                 .epoch = client->epoch};
    mcs_frame_encode(&header, frame);
    if (len > 0) {
        protobuf_c_message_pack(request, frame + MCS_FRAME_HEADER);
    }
    send_all(wire->fd, frame, MCS_FRAME_HEADER + len);
    free(frame);
    return header.id;
}

/* Reads what is there. False: closed. */
static bool fill(rpc_wire_t *wire)
{
    for (;;) {
        assert_int_equal(mcs_buf_reserve(&wire->in, 65536), MCS_OK);
        ssize_t n = recv(wire->fd, wire->in.bytes + wire->in.len, wire->in.cap - wire->in.len, MSG_DONTWAIT);
        if (n > 0) {
            wire->in.len += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            return n < 0 && errno == EAGAIN;
        }
    }
}

static bool next_frame(rpc_wire_t *wire, mcs_frame_header_t *header)
{
    if (wire->in.len < MCS_FRAME_HEADER) {
        return false;
    }
    assert_int_equal(mcs_frame_decode(wire->in.bytes, MCS_FRAME_MAX, header), MCS_OK);
    return wire->in.len >= MCS_FRAME_HEADER + (size_t)header->length;
}

/* ---- notices ---- */

static void send_generations(rpc_client_t *client, mcs_verb_t verb, const uint64_t *generations, size_t count)
{
    /* Released, Struck and RevokeAck are the same on the wire. */
    Mcs__Wire__Released message = MCS__WIRE__RELEASED__INIT;
    message.generations = (ProtobufCBinaryData){count * sizeof(uint64_t), (uint8_t *)(uintptr_t)generations};
    if (client->control.fd >= 0) {
        rpc_send(client, &client->control, verb, &message.base);
    }
}

void rpc_answer_releases(rpc_client_t *client)
{
    size_t count = client->kept_releases.len / sizeof(mcs_col_release_t);
    uint64_t *generations = malloc(MCS_MAX(count, (size_t)1) * sizeof(*generations));
    assert_non_null(generations);
    for (size_t i = 0; i < count; i++) {
        mcs_col_release_t record;
        memcpy(&record, client->kept_releases.bytes + i * sizeof(record), sizeof(record));
        generations[i] = record.generation;
    }
    mcs_buf_reset(&client->kept_releases);
    if (count > 0) {
        send_generations(client, MCS_VERB_RELEASED, generations, count);
    }
    free(generations);
}

void rpc_say_struck(rpc_client_t *client, const uint64_t *generations, size_t count)
{
    send_generations(client, MCS_VERB_STRUCK, generations, count);
}

void rpc_say_differ(rpc_client_t *client, const mcs_col_differ_t *records, size_t count)
{
    send_generations(client, MCS_VERB_DIFFER, &records->generation, count * (sizeof(*records) / sizeof(uint64_t)));
}

void rpc_ack(rpc_client_t *client, const uint64_t *generations, size_t count)
{
    send_generations(client, MCS_VERB_REVOKE_ACK, generations, count);
}

static void on_notice(rpc_client_t *client, const mcs_frame_header_t *header, const uint8_t *payload)
{
    switch ((int)header->verb) {
    case MCS_VERB_N_RELEASE: {
        Mcs__Wire__NoticeRelease *notice = mcs__wire__notice_release__unpack(NULL, header->length, payload);
        assert_non_null(notice);
        for (size_t at = 0; at < notice->records.len; at += sizeof(mcs_col_release_t)) {
            mcs_col_release_t record;
            memcpy(&record, notice->records.data + at, sizeof(record));
            client->releases++;
            client->may_write += (record.flags & MCS_RELEASE_MAY_WRITE) != 0;
        }
        mcs_buf_append(&client->kept_releases, notice->records.data, notice->records.len);
        mcs__wire__notice_release__free_unpacked(notice, NULL);
        if (client->auto_release) {
            rpc_answer_releases(client);
        }
        break;
    }
    case MCS_VERB_N_REVOKED: {
        Mcs__Wire__NoticeRevoked *notice = mcs__wire__notice_revoked__unpack(NULL, header->length, payload);
        assert_non_null(notice);
        mcs_buf_append(&client->revoked, notice->generations.data, notice->generations.len);
        if (client->auto_ack) {
            rpc_ack(client, (const uint64_t *)(const void *)notice->generations.data,
                    notice->generations.len / sizeof(uint64_t));
        }
        mcs__wire__notice_revoked__free_unpacked(notice, NULL);
        break;
    }
    case MCS_VERB_N_CHECK: {
        Mcs__Wire__NoticeCheck *notice = mcs__wire__notice_check__unpack(NULL, header->length, payload);
        assert_non_null(notice);
        mcs_buf_append(&client->checks, notice->records.data, notice->records.len);
        mcs__wire__notice_check__free_unpacked(notice, NULL);
        break;
    }
    case MCS_VERB_N_FORGET: {
        Mcs__Wire__NoticeForget *notice = mcs__wire__notice_forget__unpack(NULL, header->length, payload);
        assert_non_null(notice);
        mcs_buf_append(&client->forgotten, notice->generations.data, notice->generations.len);
        mcs__wire__notice_forget__free_unpacked(notice, NULL);
        break;
    }
    case MCS_VERB_N_SESSION_ENDED: {
        Mcs__Wire__NoticeSessionEnded *notice = mcs__wire__notice_session_ended__unpack(NULL, header->length, payload);
        assert_non_null(notice);
        for (size_t i = 0; i < notice->n_sessions; i++) {
            mcs_id_t id = {notice->sessions[i]->hi, notice->sessions[i]->lo};
            mcs_buf_append(&client->ended, &id, sizeof(id));
        }
        mcs__wire__notice_session_ended__free_unpacked(notice, NULL);
        break;
    }
    case MCS_VERB_N_TASKS: client->tasks_told++; break;
    default: fail_msg("unknown notice %u", header->verb);
    }
}

/* Takes frames off the control connection; a reply with `id` stays in front: true. */
static bool take_notices(rpc_client_t *client, uint64_t id)
{
    mcs_frame_header_t header;
    while (next_frame(&client->control, &header)) {
        if (header.kind == MCS_FRAME_REPLY && header.id == id) {
            return true;
        }
        if (header.kind == MCS_FRAME_NOTICE) {
            on_notice(client, &header, client->control.in.bytes + MCS_FRAME_HEADER);
        }
        mcs_buf_consume(&client->control.in, MCS_FRAME_HEADER + header.length);
    }
    return false;
}

bool rpc_pump(rpc_client_t *client, int wait_ms)
{
    if (client->control.fd < 0 || client->busy) {
        return client->busy;
    }
    struct pollfd fd = {.fd = client->control.fd, .events = POLLIN};
    poll(&fd, 1, wait_ms);
    bool open = fill(&client->control);
    take_notices(client, UINT64_MAX);
    return open;
}

/* ---- calls ---- */

static mcs_status_t take_answer(rpc_client_t *client, rpc_wire_t *wire, const mcs_frame_header_t *header,
                                const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out)
{
    const uint8_t *payload = wire->in.bytes + MCS_FRAME_HEADER;
    mcs_status_t status = (mcs_status_t)header->status;
    client->detail[0] = '\0';
    if (status != MCS_OK && status != MCS_ERR_AGAIN && header->length > 0) {
        Mcs__Wire__ErrorDetail *detail = mcs__wire__error_detail__unpack(NULL, header->length, payload);
        if (detail != NULL) {
            snprintf(client->detail, sizeof(client->detail), "%s", detail->text);
            mcs__wire__error_detail__free_unpacked(detail, NULL);
        }
    } else if ((status == MCS_OK || status == MCS_ERR_AGAIN) && reply_out != NULL && type != NULL) {
        *reply_out = protobuf_c_message_unpack(type, NULL, header->length, payload);
        assert_non_null(*reply_out);
    }
    mcs_buf_consume(&wire->in, MCS_FRAME_HEADER + header->length);
    return status;
}

mcs_status_t rpc_wait(rpc_client_t *client, rpc_wire_t *wire, uint64_t id, const ProtobufCMessageDescriptor *type,
                      ProtobufCMessage **reply_out)
{
    if (reply_out != NULL) {
        *reply_out = NULL;
    }
    bool open = true;
    for (int waited = 0; waited < WAIT_LIMIT_MS;) {
        mcs_frame_header_t header;
        if (wire == &client->control) {
            if (take_notices(client, id) && next_frame(wire, &header)) {
                return take_answer(client, wire, &header, type, reply_out);
            }
        } else {
            while (next_frame(wire, &header)) {
                if (header.id == id) {
                    return take_answer(client, wire, &header, type, reply_out);
                }
                mcs_buf_consume(&wire->in, MCS_FRAME_HEADER + header.length); /* of an abandoned request */
            }
        }
        if (!open) {
            return MCS_ERR_RPC_FAIL; /* and what came before the end has been read */
        }
        struct pollfd fds[2] = {{.fd = wire->fd, .events = POLLIN}, {.fd = client->control.fd, .events = POLLIN}};
        int ready = poll(fds, 2, client->idle != NULL ? 1 : 100);
        if (ready == 0) {
            waited += client->idle != NULL ? 1 : 100;
            if (client->idle != NULL) {
                client->idle(client->idle_arg);
            }
        }
        if (fds[0].revents != 0) {
            open = fill(wire);
        }
        if (wire != &client->control && client->control.fd >= 0 && fds[1].revents != 0) {
            if (fill(&client->control)) {
                take_notices(client, UINT64_MAX);
            } else {
                close_wire(&client->control);
            }
        }
    }
    fail_msg("no answer within %d ms", WAIT_LIMIT_MS);
    return MCS_ERR_RPC_TIMEOUT;
}

mcs_status_t rpc_call(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out)
{
    if (reply_out != NULL) {
        *reply_out = NULL;
    }
    if (client->call.fd < 0) {
        mcs_status_t status = rpc_client_join(client);
        if (status != MCS_OK) {
            return status;
        }
    }
    uint64_t id = rpc_send(client, &client->call, verb, request);
    return rpc_wait(client, &client->call, id, type, reply_out);
}

mcs_status_t rpc_call_control(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request,
                              const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out)
{
    uint64_t id = rpc_send(client, &client->control, verb, request);
    client->busy = true; /* an idle function must not take the answer away */
    mcs_status_t status = rpc_wait(client, &client->control, id, type, reply_out);
    client->busy = false;
    return status;
}

/* ---- hello ---- */

static mcs_status_t say_hello(rpc_client_t *client, rpc_wire_t *wire, uint32_t role)
{
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__Id session = MCS__WIRE__ID__INIT;
    Mcs__Wire__Hello hello = MCS__WIRE__HELLO__INIT;
    uint8_t nonce[16];
    uint8_t proof[EVP_MAX_MD_SIZE];
    unsigned proof_len = 0;
    id.hi = client->client.hi;
    id.lo = client->client.lo;
    session.hi = client->session.hi;
    session.lo = client->session.lo;
    hello.protocol = MCS_PROTOCOL_VERSION;
    hello.role = role;
    hello.client = &id;
    hello.session = &session;
    hello.host_name = (char *)(uintptr_t)client->host_name;
    hello.wire = (char *)(uintptr_t)client->wire;
    hello.boot_id = (char *)(uintptr_t)(client->boot_id != NULL ? client->boot_id : "boot");
    mcs_random_bytes(nonce, sizeof(nonce));
    if (client->token[0] != '\0') {
        hello.nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
    }
    ProtobufCMessage *message;
    client->busy = true;
    uint64_t request = rpc_send(client, wire, MCS_VERB_HELLO, &hello.base);
    mcs_status_t status = rpc_wait(client, wire, request, &mcs__wire__hello_reply__descriptor, &message);
    if (status == MCS_ERR_AGAIN) {
        Mcs__Wire__HelloReply *challenge = (Mcs__Wire__HelloReply *)message;
        uint8_t text[16 + 64 + 16];
        memcpy(text, nonce, 16);
        assert_true(challenge->challenge.len <= 64);
        memcpy(text + 16, challenge->challenge.data, challenge->challenge.len);
        size_t len = 16 + challenge->challenge.len;
        mcs_store_u64(text + len, id.hi);
        mcs_store_u64(text + len + 8, id.lo);
        HMAC(EVP_sha256(), client->token, (int)strlen(client->token), text, len + 16, proof, &proof_len);
        protobuf_c_message_free_unpacked(message, NULL);
        hello.proof = (ProtobufCBinaryData){client->token[0] != '\0' ? proof_len : 0, proof};
        request = rpc_send(client, wire, MCS_VERB_HELLO, &hello.base);
        status = rpc_wait(client, wire, request, &mcs__wire__hello_reply__descriptor, &message);
    }
    client->busy = false;
    client->hello_status = status;
    if (status == MCS_OK) {
        Mcs__Wire__HelloReply *reply = (Mcs__Wire__HelloReply *)message;
        client->epoch = reply->epoch;
        client->session = (mcs_id_t){reply->session->hi, reply->session->lo};
        client->resumed = reply->resumed;
    }
    if (message != NULL) {
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return status;
}

void rpc_client_init(rpc_client_t *client, const char *path, const char *host_name)
{
    memset(client, 0, sizeof(*client));
    snprintf(client->path, sizeof(client->path), "%s", path);
    client->control.fd = -1;
    client->call.fd = -1;
    client->client = mcs_id_random();
    client->host_name = host_name;
    client->wire = "ucx-a";
    client->token = "";
    client->auto_release = true;
    client->auto_ack = true;
    mcs_buf_t *bufs[] = {&client->control.in, &client->call.in, &client->kept_releases, &client->revoked,
                         &client->forgotten,  &client->ended,   &client->checks};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bufs); i++) {
        mcs_buf_init(bufs[i], (size_t)256 << 20);
    }
}

mcs_status_t rpc_client_open(rpc_client_t *client)
{
    close_wire(&client->control);
    client->control.fd = connect_to(client->path);
    return say_hello(client, &client->control, 1);
}

mcs_status_t rpc_client_join(rpc_client_t *client)
{
    close_wire(&client->call);
    client->call.fd = connect_to(client->path);
    mcs_status_t status = say_hello(client, &client->call, 2);
    if (status != MCS_OK) {
        close_wire(&client->call);
    }
    return status;
}

void rpc_client_drop_control(rpc_client_t *client)
{
    close_wire(&client->control);
}

void rpc_client_drop_call(rpc_client_t *client)
{
    close_wire(&client->call);
}

void rpc_client_fini(rpc_client_t *client)
{
    close_wire(&client->control);
    close_wire(&client->call);
    mcs_buf_t *bufs[] = {&client->control.in, &client->call.in, &client->kept_releases, &client->revoked,
                         &client->forgotten,  &client->ended,   &client->checks};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bufs); i++) {
        mcs_buf_fini(bufs[i]);
    }
}

void rpc_client_start(rpc_client_t *client, const char *path, const char *host_name)
{
    rpc_client_init(client, path, host_name);
    assert_int_equal(rpc_client_open(client), MCS_OK);
}

/* ---- verbs ---- */

static void next_sequence(rpc_client_t *client, Mcs__Wire__Sequence *sequence)
{
    mcs__wire__sequence__init(sequence);
    sequence->seq = ++client->seq;
    sequence->ack = sequence->seq;
}

mcs_status_t rpc_try_mount(rpc_client_t *client, const char *name, uint64_t size, mcs_id_t instance,
                           uint32_t *handle_out, mcs_mac_key_t *key_out)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment mount = MCS__WIRE__MOUNT_SEGMENT__INIT;
    uint8_t endpoint[] = "endpoint";
    next_sequence(client, &sequence);
    id.hi = instance.hi;
    id.lo = instance.lo;
    mount.sequence = &sequence;
    mount.instance = &id;
    mount.name = (char *)(uintptr_t)name;
    mount.size = size;
    mount.protocol = (char *)(uintptr_t) "tcp";
    mount.transport_endpoint = (char *)(uintptr_t)name;
    mount.endpoint = (ProtobufCBinaryData){sizeof(endpoint), endpoint};
    if (client->location != NULL) {
        mount.location = (char *)(uintptr_t)client->location;
    }
    ProtobufCMessage *message;
    mcs_status_t status =
        rpc_call(client, MCS_VERB_MOUNT_SEGMENT, &mount.base, &mcs__wire__mount_segment_reply__descriptor, &message);
    if (status == MCS_OK) {
        Mcs__Wire__MountSegmentReply *reply = (Mcs__Wire__MountSegmentReply *)message;
        if (handle_out != NULL) {
            *handle_out = reply->handle;
        }
        if (key_out != NULL) {
            *key_out = (mcs_mac_key_t){reply->mac_k0, reply->mac_k1};
        }
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return status;
}

mcs_id_t rpc_mount(rpc_client_t *client, const char *name, uint64_t size)
{
    mcs_id_t instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(client, name, size, instance, NULL, NULL), MCS_OK);
    return instance;
}

mcs_status_t rpc_mount_again(rpc_client_t *client, const char *name, uint64_t size, mcs_id_t instance,
                             uint64_t high_mark)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment mount = MCS__WIRE__MOUNT_SEGMENT__INIT;
    next_sequence(client, &sequence);
    id.hi = instance.hi;
    id.lo = instance.lo;
    mount.sequence = &sequence;
    mount.instance = &id;
    mount.name = (char *)(uintptr_t)name;
    mount.size = size;
    mount.protocol = (char *)(uintptr_t) "tcp";
    mount.resumes = true;
    mount.high_mark = high_mark;
    return rpc_call(client, MCS_VERB_MOUNT_SEGMENT, &mount.base, NULL, NULL);
}

mcs_status_t rpc_unmount(rpc_client_t *client, mcs_id_t instance)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__UnmountSegment unmount = MCS__WIRE__UNMOUNT_SEGMENT__INIT;
    next_sequence(client, &sequence);
    id.hi = instance.hi;
    id.lo = instance.lo;
    unmount.sequence = &sequence;
    unmount.instance = &id;
    return rpc_call(client, MCS_VERB_UNMOUNT_SEGMENT, &unmount.base, NULL, NULL);
}

typedef struct key_columns {
    mcs_buf_t lens;
    mcs_buf_t bytes;
} key_columns_t;

static void encode_keys(key_columns_t *columns, const char *const *keys, size_t count)
{
    mcs_buf_init(&columns->lens, MCS_FRAME_MAX);
    mcs_buf_init(&columns->bytes, MCS_FRAME_MAX);
    for (size_t i = 0; i < count; i++) {
        mcs_buf_put_u16(&columns->lens, (uint16_t)strlen(keys[i]));
        mcs_buf_append(&columns->bytes, keys[i], strlen(keys[i]));
    }
}

static void free_keys(key_columns_t *columns)
{
    mcs_buf_fini(&columns->lens);
    mcs_buf_fini(&columns->bytes);
}

static ProtobufCBinaryData data_of(const mcs_buf_t *buf)
{
    return (ProtobufCBinaryData){buf->len, buf->bytes};
}

static void fill_config(Mcs__Wire__PutConfig *config, const rpc_put_options_t *options)
{
    mcs__wire__put_config__init(config);
    config->replica_num = options->zero_replicas ? 0 : MCS_MAX(options->replica_num, 1u);
    config->soft_pin_action = options->soft_pin_action;
    config->has_soft_pin_ttl = options->has_soft_pin_ttl;
    config->soft_pin_ttl_ms = options->soft_pin_ttl_ms;
    config->hard_pin = options->hard_pin;
    config->same_node = options->same_node;
    config->data_type = options->data_type;
    if (options->host_id != NULL) {
        config->host_id = (char *)(uintptr_t)options->host_id;
    }
    config->preferred_segments = (char **)(uintptr_t)options->preferred;
    config->n_preferred_segments = options->preferred_count;
    config->excluded_segments = (uint32_t *)(uintptr_t)options->excluded;
    config->n_excluded_segments = options->excluded_count;
}

mcs_status_t rpc_put_start(rpc_client_t *client, const char *const *keys, const uint64_t *sizes, size_t count,
                           const rpc_put_options_t *options, rpc_put_t *puts)
{
    static const rpc_put_options_t none;
    options = options != NULL ? options : &none;
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__PutConfig config;
    Mcs__Wire__PutStart start = MCS__WIRE__PUT_START__INIT;
    key_columns_t columns;
    key_columns_t groups;
    encode_keys(&columns, keys, count);
    encode_keys(&groups, NULL, 0);
    if (options->seq != 0) {
        mcs__wire__sequence__init(&sequence);
        sequence.seq = options->seq;
        sequence.ack = options->ack != 0 ? options->ack : options->seq;
    } else {
        next_sequence(client, &sequence);
    }
    for (size_t i = 0; options->group != NULL && i < count; i++) {
        mcs_buf_put_u16(&groups.lens, (uint16_t)strlen(options->group));
        mcs_buf_append(&groups.bytes, options->group, strlen(options->group));
    }
    fill_config(&config, options);
    start.sequence = &sequence;
    start.config = &config;
    start.key_lens = data_of(&columns.lens);
    start.keys = data_of(&columns.bytes);
    start.sizes = (ProtobufCBinaryData){count * sizeof(*sizes), (uint8_t *)(uintptr_t)sizes};
    start.group_lens = data_of(&groups.lens);
    start.groups = data_of(&groups.bytes);
    start.upsert = options->upsert;
    ProtobufCMessage *message;
    mcs_status_t status =
        rpc_call(client, MCS_VERB_PUT_START, &start.base, &mcs__wire__put_start_reply__descriptor, &message);
    free_keys(&columns);
    free_keys(&groups);
    if (status != MCS_OK) {
        return status;
    }
    const Mcs__Wire__PutStartReply *reply = (const Mcs__Wire__PutStartReply *)message;
    assert_int_equal(reply->puts.len, count * sizeof(mcs_col_put_t));
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        puts[i].status = put.status;
        puts[i].replicas = put.replica_count;
        puts[i].put_id = put.put_id;
        if (put.replica_count > 0) {
            memcpy(puts[i].replica, reply->replicas.data + at, put.replica_count * sizeof(mcs_col_replica_t));
        }
        at += put.replica_count * sizeof(mcs_col_replica_t);
    }
    assert_int_equal(at, reply->replicas.len);
    protobuf_c_message_free_unpacked(message, NULL);
    return MCS_OK;
}

int32_t rpc_put_one(rpc_client_t *client, const char *key, uint64_t size, const rpc_put_options_t *options,
                    rpc_put_t *put)
{
    rpc_put_t own;
    put = put != NULL ? put : &own;
    mcs_status_t status = rpc_put_start(client, &key, &size, 1, options, put);
    return status != MCS_OK ? (int32_t)status : put->status;
}

static mcs_status_t call_statuses(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request, size_t count,
                                  int32_t *statuses)
{
    ProtobufCMessage *message;
    mcs_status_t status = rpc_call(client, verb, request, &mcs__wire__status_column__descriptor, &message);
    if (status == MCS_OK) {
        const Mcs__Wire__StatusColumn *reply = (const Mcs__Wire__StatusColumn *)message;
        assert_int_equal(reply->statuses.len, count * sizeof(int32_t));
        if (count > 0) {
            memcpy(statuses, reply->statuses.data, reply->statuses.len);
        }
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return status;
}

mcs_status_t rpc_put_end(rpc_client_t *client, const uint64_t *ids, size_t count, int32_t *statuses)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    next_sequence(client, &sequence);
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){count * sizeof(*ids), (uint8_t *)(uintptr_t)ids};
    return call_statuses(client, MCS_VERB_PUT_END, &end.base, count, statuses);
}

int32_t rpc_end_one(rpc_client_t *client, uint64_t id)
{
    int32_t own = 1;
    mcs_status_t status = rpc_put_end(client, &id, 1, &own);
    return status != MCS_OK ? (int32_t)status : own;
}

static int32_t call_end(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request, rpc_put_t *spare)
{
    ProtobufCMessage *message;
    int32_t result = (int32_t)rpc_call(client, verb, request, &mcs__wire__put_end_reply__descriptor, &message);
    memset(spare, 0, sizeof(*spare));
    if (result != MCS_OK) {
        return result;
    }
    const Mcs__Wire__PutEndReply *reply = (const Mcs__Wire__PutEndReply *)message;
    assert_int_equal(reply->statuses.len, sizeof(result));
    memcpy(&result, reply->statuses.data, sizeof(result));
    if (reply->spare.len > 0) {
        mcs_col_put_t put;
        assert_int_equal(reply->spare.len, sizeof(put));
        assert_int_equal(reply->replica.len, sizeof(spare->replica[0]));
        memcpy(&put, reply->spare.data, sizeof(put));
        memcpy(spare->replica, reply->replica.data, sizeof(spare->replica[0]));
        spare->status = put.status;
        spare->replicas = put.replica_count;
        spare->put_id = put.put_id;
    } else {
        assert_int_equal(reply->replica.len, 0);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return result;
}

int32_t rpc_end_for_spare(rpc_client_t *client, uint64_t id, uint64_t spare_len, rpc_put_t *spare)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    next_sequence(client, &sequence);
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){sizeof(id), (uint8_t *)&id};
    end.spare_len = spare_len;
    return call_end(client, MCS_VERB_PUT_END, &end.base, spare);
}

int32_t rpc_put_now(rpc_client_t *client, const char *key, uint64_t id, uint64_t seq, uint64_t spare_len,
                    rpc_put_t *spare)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__PutNow now = MCS__WIRE__PUT_NOW__INIT;
    rpc_put_t own;
    next_sequence(client, &sequence);
    sequence.seq = seq != 0 ? seq : sequence.seq;
    sequence.ack = MCS_MIN(sequence.ack, sequence.seq);
    now.sequence = &sequence;
    now.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    now.put_id = id;
    now.spare_len = spare_len;
    return call_end(client, MCS_VERB_PUT_NOW, &now.base, spare != NULL ? spare : &own);
}

int32_t rpc_revoke_one(rpc_client_t *client, uint64_t id)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__PutRevoke revoke = MCS__WIRE__PUT_REVOKE__INIT;
    int32_t own = 1;
    next_sequence(client, &sequence);
    revoke.sequence = &sequence;
    revoke.put_ids = (ProtobufCBinaryData){sizeof(id), (uint8_t *)&id};
    mcs_status_t status = call_statuses(client, MCS_VERB_PUT_REVOKE, &revoke.base, 1, &own);
    return status != MCS_OK ? (int32_t)status : own;
}

int32_t rpc_store(rpc_client_t *client, const char *key, uint64_t size, const rpc_put_options_t *options)
{
    rpc_put_t put;
    int32_t status = rpc_put_one(client, key, size, options, &put);
    return status != MCS_OK ? status : rpc_end_one(client, put.put_id);
}

int32_t rpc_exist(rpc_client_t *client, const char *key)
{
    Mcs__Wire__Exist exist = MCS__WIRE__EXIST__INIT;
    key_columns_t columns;
    encode_keys(&columns, &key, 1);
    exist.key_lens = data_of(&columns.lens);
    exist.keys = data_of(&columns.bytes);
    ProtobufCMessage *message;
    int32_t result =
        (int32_t)rpc_call(client, MCS_VERB_EXIST, &exist.base, &mcs__wire__exist_reply__descriptor, &message);
    if (result == MCS_OK) {
        const Mcs__Wire__ExistReply *reply = (const Mcs__Wire__ExistReply *)message;
        assert_int_equal(reply->results.len, sizeof(result));
        memcpy(&result, reply->results.data, sizeof(result));
        protobuf_c_message_free_unpacked(message, NULL);
    }
    free_keys(&columns);
    return result;
}

int32_t rpc_lookup(rpc_client_t *client, const char *key, bool no_lease, rpc_object_t *out)
{
    Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
    rpc_object_t own;
    out = out != NULL ? out : &own;
    key_columns_t columns;
    encode_keys(&columns, &key, 1);
    lookup.key_lens = data_of(&columns.lens);
    lookup.keys = data_of(&columns.bytes);
    lookup.no_lease = no_lease;
    ProtobufCMessage *message;
    int32_t result =
        (int32_t)rpc_call(client, MCS_VERB_LOOKUP, &lookup.base, &mcs__wire__lookup_reply__descriptor, &message);
    if (result == MCS_OK) {
        const Mcs__Wire__LookupReply *reply = (const Mcs__Wire__LookupReply *)message;
        assert_int_equal(reply->objects.len, sizeof(out->object));
        memcpy(&out->object, reply->objects.data, sizeof(out->object));
        assert_int_equal(reply->replicas.len, out->object.replica_count * sizeof(mcs_col_replica_t));
        if (reply->replicas.len > 0) {
            memcpy(out->replica, reply->replicas.data, reply->replicas.len);
        }
        out->lease_ms = reply->lease_ms;
        result = out->object.status;
        protobuf_c_message_free_unpacked(message, NULL);
    }
    free_keys(&columns);
    return result;
}

int32_t rpc_remove(rpc_client_t *client, const char *key, bool force)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__Remove remove_key = MCS__WIRE__REMOVE__INIT;
    key_columns_t columns;
    int32_t own = 1;
    encode_keys(&columns, &key, 1);
    next_sequence(client, &sequence);
    remove_key.sequence = &sequence;
    remove_key.key_lens = data_of(&columns.lens);
    remove_key.keys = data_of(&columns.bytes);
    remove_key.force = force;
    mcs_status_t status = call_statuses(client, MCS_VERB_REMOVE, &remove_key.base, 1, &own);
    free_keys(&columns);
    return status != MCS_OK ? (int32_t)status : own;
}

static int64_t call_count(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request)
{
    ProtobufCMessage *message;
    mcs_status_t status = rpc_call(client, verb, request, &mcs__wire__count_reply__descriptor, &message);
    if (status != MCS_OK) {
        return (int64_t)status;
    }
    int64_t count = ((const Mcs__Wire__CountReply *)message)->count;
    protobuf_c_message_free_unpacked(message, NULL);
    return count;
}

int64_t rpc_remove_regex(rpc_client_t *client, const char *pattern, bool force)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__RemoveRegex request = MCS__WIRE__REMOVE_REGEX__INIT;
    next_sequence(client, &sequence);
    request.sequence = &sequence;
    request.pattern = (ProtobufCBinaryData){strlen(pattern), (uint8_t *)(uintptr_t)pattern};
    request.force = force;
    return call_count(client, MCS_VERB_REMOVE_REGEX, &request.base);
}

int64_t rpc_remove_all(rpc_client_t *client, bool force)
{
    Mcs__Wire__Sequence sequence;
    Mcs__Wire__RemoveAll request = MCS__WIRE__REMOVE_ALL__INIT;
    next_sequence(client, &sequence);
    request.sequence = &sequence;
    request.force = force;
    return call_count(client, MCS_VERB_REMOVE_ALL, &request.base);
}

mcs_status_t rpc_put_wait(rpc_client_t *client, const char *key, uint32_t timeout_ms)
{
    Mcs__Wire__PutWait request = MCS__WIRE__PUT_WAIT__INIT;
    request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    request.timeout_ms = timeout_ms;
    return rpc_call(client, MCS_VERB_PUT_WAIT, &request.base, NULL, NULL);
}

mcs_status_t rpc_ping(rpc_client_t *client)
{
    Mcs__Wire__Ping request = MCS__WIRE__PING__INIT;
    return rpc_call_control(client, MCS_VERB_PING, &request.base, NULL, NULL);
}

mcs_status_t rpc_goodbye(rpc_client_t *client)
{
    Mcs__Wire__Goodbye request = MCS__WIRE__GOODBYE__INIT;
    return rpc_call_control(client, MCS_VERB_GOODBYE, &request.base, NULL, NULL);
}
