/* A load generator's end of the master's RPC: sessions over TCP or the master's UNIX socket, frames in and out of
 * buffers. Anything that goes wrong ends the program with a word: it is a bench, and a wrong answer is no figure.
 *
 * A session has a control connection, on which notices arrive, and a call connection. Not thread-safe. */
#ifndef MCS_BENCH_WIRE_CLIENT_H
#define MCS_BENCH_WIRE_CLIENT_H

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "core/wire/columns.h"
#include "core/wire/frame.h"
#include "core/wire/mcs.pb-c.h"

typedef struct wire_conn {
    int fd;
    mcs_buf_t in;  /* bytes read and not taken */
    size_t taken;  /* of these, frames that were handed out */
    mcs_buf_t out; /* frames queued */
} wire_conn_t;

typedef struct wire_session {
    wire_conn_t control;
    wire_conn_t call;
    mcs_id_t client;
    mcs_id_t session;
    uint64_t epoch;
    uint64_t next_id;
    uint64_t seq;
    char unix_path[108]; /* the master's, "" = none */
} wire_session_t;

void wire_die(const char *what) MCS_NORETURN;

/* "HOST:PORT" or "unix:PATH". */
void wire_session_open(wire_session_t *session, const char *address);
void wire_session_close(wire_session_t *session);
/* Mounts a segment of `size` bytes that only exists in the master's books. */
void wire_mount(wire_session_t *session, const char *name, uint64_t size);

/* Queues a request; `id` comes back with the answer. */
void wire_queue(wire_session_t *session, wire_conn_t *conn, mcs_verb_t verb, uint64_t id,
                const ProtobufCMessage *message);
/* Writes what is queued. */
void wire_flush(wire_conn_t *conn);
/* Reads what there is without waiting, and forgets the frames that were taken before. */
void wire_fill(wire_conn_t *conn);
/* The next whole frame; the payload is valid until the next wire_fill. False: no more. */
bool wire_take(wire_conn_t *conn, mcs_frame_header_t *header, const uint8_t **payload);
/* Sends one request and waits for its answer; the status must be OK. */
void wire_call(wire_session_t *session, wire_conn_t *conn, mcs_verb_t verb, const ProtobufCMessage *message,
               mcs_frame_header_t *header, const uint8_t **payload);

/* Answers each extent that the master wants back; returns how many there were. */
uint64_t wire_answer_releases(wire_session_t *session);

/* Writes key number `number` in `len` characters (at least 16). */
void wire_key(char *key, uint32_t len, uint64_t number);

#endif
