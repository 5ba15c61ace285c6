/* See wire_client.h. */
#include "bench/micro/wire_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/parse.h"

#define ROLE_CONTROL 1u
#define ROLE_CALL    2u
#define READ_CHUNK   ((size_t)256 << 10)

void wire_die(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

/* ---- connections ---- */

static int connect_to(const char *address)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_un un;
    } peer;
    socklen_t len;
    mcs_hostport_t hp;
    memset(&peer, 0, sizeof(peer));
    if (strncmp(address, "unix:", 5) == 0) {
        peer.un.sun_family = AF_UNIX;
        snprintf(peer.un.sun_path, sizeof(peer.un.sun_path), "%s", address + 5);
        len = sizeof(peer.un);
    } else {
        if (mcs_parse_hostport(address, &hp) != MCS_OK || inet_pton(AF_INET, hp.host, &peer.in.sin_addr) != 1) {
            wire_die("address: HOST:PORT with an IPv4 literal, or unix:PATH");
        }
        peer.in.sin_family = AF_INET;
        peer.in.sin_port = htons(hp.port);
        len = sizeof(peer.in);
    }
    int fd = socket(peer.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &peer.any, len) != 0) {
        wire_die("cannot connect");
    }
    if (peer.any.sa_family == AF_INET) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    return fd;
}

static void conn_open(wire_conn_t *conn, const char *address)
{
    conn->fd = connect_to(address);
    conn->taken = 0;
    mcs_buf_init(&conn->in, (size_t)64 << 20);
    mcs_buf_init(&conn->out, (size_t)64 << 20);
}

static void conn_close(wire_conn_t *conn)
{
    close(conn->fd);
    mcs_buf_fini(&conn->in);
    mcs_buf_fini(&conn->out);
}

void wire_queue(wire_session_t *session, wire_conn_t *conn, mcs_verb_t verb, uint64_t id,
                const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    mcs_frame_header_t header = {
        .kind = MCS_FRAME_REQUEST, .verb = (uint16_t)verb, .length = (uint32_t)len, .id = id, .epoch = session->epoch};
    uint8_t *frame = mcs_buf_extend(&conn->out, MCS_FRAME_HEADER + len);
    if (frame == NULL) {
        wire_die("no memory for a request");
    }
    mcs_frame_encode(&header, frame);
    protobuf_c_message_pack(message, frame + MCS_FRAME_HEADER);
}

void wire_flush(wire_conn_t *conn)
{
    size_t at = 0;
    while (at < conn->out.len) {
        ssize_t n = send(conn->fd, conn->out.bytes + at, conn->out.len - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            wire_die("the master closed the connection");
        }
        at += n > 0 ? (size_t)n : 0;
    }
    mcs_buf_reset(&conn->out);
}

void wire_fill(wire_conn_t *conn)
{
    mcs_buf_consume(&conn->in, conn->taken);
    conn->taken = 0;
    if (mcs_buf_reserve(&conn->in, READ_CHUNK) != MCS_OK) {
        wire_die("no memory for an answer");
    }
    ssize_t n = recv(conn->fd, conn->in.bytes + conn->in.len, conn->in.cap - conn->in.len, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        wire_die("the master closed the connection");
    }
    conn->in.len += n > 0 ? (size_t)n : 0;
}

bool wire_take(wire_conn_t *conn, mcs_frame_header_t *header, const uint8_t **payload)
{
    size_t have = conn->in.len - conn->taken;
    const uint8_t *at = conn->in.bytes + conn->taken;
    if (have < MCS_FRAME_HEADER) {
        return false;
    }
    if (mcs_frame_decode(at, MCS_FRAME_MAX, header) != MCS_OK) {
        wire_die("not a frame");
    }
    if (have - MCS_FRAME_HEADER < header->length) {
        return false;
    }
    *payload = at + MCS_FRAME_HEADER;
    conn->taken += MCS_FRAME_HEADER + header->length;
    return true;
}

void wire_call(wire_session_t *session, wire_conn_t *conn, mcs_verb_t verb, const ProtobufCMessage *message,
               mcs_frame_header_t *header, const uint8_t **payload)
{
    uint64_t id = ++session->next_id;
    wire_queue(session, conn, verb, id, message);
    wire_flush(conn);
    while (!wire_take(conn, header, payload) || header->kind != MCS_FRAME_REPLY || header->id != id) {
        if (conn->in.len - conn->taken < MCS_FRAME_HEADER) {
            struct pollfd fd = {.fd = conn->fd, .events = POLLIN};
            poll(&fd, 1, -1);
        }
        wire_fill(conn);
    }
    if (header->status != MCS_OK) {
        wire_die(mcs_status_name(header->status));
    }
}

/* ---- sessions ---- */

static void hello(wire_session_t *session, wire_conn_t *conn, uint32_t role)
{
    Mcs__Wire__Id client = MCS__WIRE__ID__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__Hello message = MCS__WIRE__HELLO__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    client.hi = session->client.hi;
    client.lo = session->client.lo;
    id.hi = session->session.hi;
    id.lo = session->session.lo;
    message.protocol = MCS_PROTOCOL_VERSION;
    message.role = role;
    message.client = &client;
    message.session = &id;
    wire_call(session, conn, MCS_VERB_HELLO, &message.base, &header, &payload);
    Mcs__Wire__HelloReply *reply = mcs__wire__hello_reply__unpack(NULL, header.length, payload);
    if (reply == NULL || reply->session == NULL) {
        wire_die("no answer to the hello");
    }
    session->epoch = reply->epoch;
    session->session = (mcs_id_t){reply->session->hi, reply->session->lo};
    snprintf(session->unix_path, sizeof(session->unix_path), "%s", reply->unix_path);
    mcs__wire__hello_reply__free_unpacked(reply, NULL);
}

void wire_session_open(wire_session_t *session, const char *address)
{
    memset(session, 0, sizeof(*session));
    session->client = mcs_id_random();
    conn_open(&session->control, address);
    hello(session, &session->control, ROLE_CONTROL);
    conn_open(&session->call, address);
    hello(session, &session->call, ROLE_CALL);
}

void wire_session_close(wire_session_t *session)
{
    conn_close(&session->call);
    conn_close(&session->control);
}

void wire_mount(wire_session_t *session, const char *name, uint64_t size)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment message = MCS__WIRE__MOUNT_SEGMENT__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    char text[64];
    mcs_id_t instance = mcs_id_random();
    snprintf(text, sizeof(text), "%s", name);
    id.hi = instance.hi;
    id.lo = instance.lo;
    sequence.seq = sequence.ack = ++session->seq;
    message.sequence = &sequence;
    message.instance = &id;
    message.name = text;
    message.size = size;
    wire_call(session, &session->call, MCS_VERB_MOUNT_SEGMENT, &message.base, &header, &payload);
}

/* ---- notices ---- */

static uint64_t answer_release(wire_session_t *session, const uint8_t *payload, uint32_t len)
{
    Mcs__Wire__NoticeRelease *notice = mcs__wire__notice_release__unpack(NULL, len, payload);
    if (notice == NULL) {
        wire_die("not a notice");
    }
    Mcs__Wire__Released message = MCS__WIRE__RELEASED__INIT;
    uint64_t count = notice->records.len / sizeof(mcs_col_release_t);
    uint64_t *generations = (uint64_t *)(void *)notice->records.data;
    /* In place: a generation is smaller than a record. */
    for (uint64_t i = 0; i < count; i++) {
        mcs_col_release_t record;
        memcpy(&record, notice->records.data + i * sizeof(record), sizeof(record));
        memcpy(&generations[i], &record.generation, sizeof(record.generation));
    }
    message.generations = (ProtobufCBinaryData){count * sizeof(uint64_t), notice->records.data};
    wire_queue(session, &session->control, MCS_VERB_RELEASED, ++session->next_id, &message.base);
    mcs__wire__notice_release__free_unpacked(notice, NULL);
    return count;
}

uint64_t wire_answer_releases(wire_session_t *session)
{
    mcs_frame_header_t header;
    const uint8_t *payload;
    uint64_t count = 0;
    wire_fill(&session->control);
    while (wire_take(&session->control, &header, &payload)) {
        if (header.kind == MCS_FRAME_NOTICE && header.verb == MCS_VERB_N_RELEASE) {
            count += answer_release(session, payload, header.length);
        }
    }
    wire_flush(&session->control);
    return count;
}

void wire_key(char *key, uint32_t len, uint64_t number)
{
    static const char digits[] = "0123456789abcdef";
    memset(key, 'k', len - 16);
    for (uint32_t i = 0; i < 16; i++) {
        key[len - 1 - i] = digits[number >> (4 * i) & 15];
    }
}
