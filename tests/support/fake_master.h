/* A scripted master on a UNIX socket, in this process: one thread that accepts connections, takes frames apart and asks
 * the test's script what to do with each. Hello, ping and goodbye are answered by itself unless the script does.
 *
 * The script runs on the fake's thread; what it shares with the test it guards itself. */
#ifndef MCS_TESTS_FAKE_MASTER_H
#define MCS_TESTS_FAKE_MASTER_H

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "core/wire/frame.h"
#include "core/wire/mcs.pb-c.h"

typedef struct fake_master fake_master_t;

typedef enum fake_action {
    FAKE_DEFAULT,     /* the fake's own answer: hello and ping as a master, MCS_ERR_NOT_SUPPORTED otherwise */
    FAKE_REPLY,       /* answer->status and answer->message */
    FAKE_CLOSE,       /* close the connection instead of an answer */
    FAKE_REPLY_CLOSE, /* answer, then close */
    FAKE_SILENCE,     /* no answer, the connection stays */
    FAKE_RAW          /* answer->raw as it is */
} fake_action_t;

typedef struct fake_answer {
    mcs_status_t status;
    const ProtobufCMessage *message; /* packed at once; NULL = empty payload */
    mcs_buf_t raw;
    int32_t verb_offset; /* added to the verb and the id of the reply: an answer to another question */
} fake_answer_t;

typedef struct fake_request {
    mcs_frame_header_t header;
    const uint8_t *payload;
    uint32_t connection; /* 1, 2, 3 … in order of acceptance */
    bool control;        /* said hello as one */
} fake_request_t;

typedef fake_action_t (*fake_script_fn)(void *arg, const fake_request_t *request, fake_answer_t *answer);

/* `address` is what a client takes: "unix:/…". */
fake_master_t *fake_master_start(fake_script_fn script, void *arg);
void fake_master_stop(fake_master_t *master);
const char *fake_master_address(const fake_master_t *master);

/* Of the session that hellos are given; a control hello for another one is refused with MCS_ERR_SESSION_ENDED, one
 * without opens it. */
void fake_master_set_session(fake_master_t *master, mcs_id_t session, uint64_t epoch);
/* Closes every connection. */
void fake_master_drop_all(fake_master_t *master);
/* Sends a notice on every control connection. */
void fake_master_notice(fake_master_t *master, mcs_verb_t verb, const ProtobufCMessage *message);
uint32_t fake_master_connections(fake_master_t *master); /* accepted so far */

#endif
