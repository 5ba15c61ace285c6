/* The RPC client: calls to the master on a small pool of connections.
 *
 * A calling thread checks a connection out, writes its request, reads the reply and puts the connection back: no
 * hand-over to another thread. Connections are made lazily, say hello for the session that session.c keeps, prefer the
 * master's UNIX socket on the same host, and resolve the master's name anew each time.
 *
 * A lost connection is not an error yet: the request is sent again on another one until the deadline, or until the
 * master has been unreachable for MCS_LINK_DOWN_MS. Verbs that mutate carry (seq, ack), the same in each repeat, so
 * that they take effect once (rule 1): the master answers a repeat from the outcome it kept. When the session itself
 * was replaced meanwhile its outcomes are gone: verbs whose effect on the new session is the same are sent again with a
 * new sequence, put_end and put_revoke fail with MCS_ERR_SESSION_ENDED.
 *
 * Thread-safe. Locks: MCS_RANK_LINK_POOL, never held over I/O. */
#ifndef MCS_CLIENT_LINK_H
#define MCS_CLIENT_LINK_H

#include "core/base/arena.h"
#include "core/client/client_config.h"
#include "core/client/client_metrics.h"
#include "core/client/counters.h"
#include "core/client/hello.h"
#include "core/wire/mcs.pb-c.h"

/* Calls fail with MCS_ERR_RPC_FAIL after the master could not be reached for this long, by them or before by the
 * control connection: a restart is survived, and of a dead master it is only the first calls that cost that long. Each
 * call tries once all the same, so that none fails after a restart. */
#define MCS_LINK_DOWN_MS 3000

typedef struct mcs_link mcs_link_t;

typedef struct mcs_link_config {
    const char *address; /* copied */
    const mcs_client_config_t *config;
    const mcs_hello_self_t *self;
    mcs_counters_t *counters;
    mcs_client_metrics_t *metrics; /* NULL = nothing is measured */
    /* Runs on a calling thread without locks: the master refused this session. */
    void (*session_refused)(void *arg, mcs_id_t session);
    void *session_refused_arg;
} mcs_link_config_t;

/* Makes no connection. config, self and counters outlive it. */
mcs_status_t mcs_link_create(const mcs_link_config_t *config, mcs_link_t **link_out) MCS_MUST_CHECK;
/* After the last call has returned. NULL is fine. */
void mcs_link_destroy(mcs_link_t *link);
/* Calls inside and later ones fail with MCS_ERR_CLOSED. */
void mcs_link_close(mcs_link_t *link);

/* The session of a control connection: sequences start anew when its id is new. `ready` false: only calls with
 * MCS_CALL_EARLY go on, others wait. unix_path: of the master, "" = none. */
void mcs_link_set_session(mcs_link_t *link, const mcs_hello_result_t *hello, bool ready);
/* The control connection is lost, and somebody tries to get it back until there is a session again. */
void mcs_link_lost(mcs_link_t *link);
/* Calls wait for the next session (the master refused this one). */
void mcs_link_drop_session(mcs_link_t *link);

#define MCS_CALL_EARLY        1u /* do not wait until the session is ready (mount) */
#define MCS_CALL_NO_INTERRUPT 2u /* clean-up: the interrupt hook is not asked */
/* When the hook ends the call, its answer is waited for a second more (the request is repeated with its sequence): a
 * put_start must say what it reserved, or nobody can revoke it. `interrupted` then tells, whatever the result. */
#define MCS_CALL_FINISH 4u

typedef struct mcs_call {
    mcs_verb_t verb;
    const ProtobufCMessage *request;
    Mcs__Wire__Sequence *sequence; /* of the request, for verbs that mutate: filled in here */
    const ProtobufCMessageDescriptor *reply_type;
    int64_t timeout_ms; /* 0 = the RPC timeout; negative = none */
    unsigned flags;
    uint64_t sent_ns; /* out: when the request was first sent; leases and reservations count from here */
    mcs_id_t session; /* out: in which it was last tried; capabilities in the reply are for it */
    bool interrupted; /* out, MCS_CALL_FINISH: the hook has ended the call */
    bool repeated;    /* out: sent before its last try, too, so that a refusal of that does not say it had no effect */
} mcs_call_t;

/* Zeroed by mcs_reply_init or by a call; fini is fine at any time. */
typedef struct mcs_reply {
    mcs_arena_t arena;
    ProtobufCMessage *message; /* of the type asked for, NULL unless the call returned MCS_OK */
} mcs_reply_t;
void mcs_reply_init(mcs_reply_t *reply);
void mcs_reply_fini(mcs_reply_t *reply);

/* Blocks until the answer or the deadline. Returns the master's status for the request, or MCS_ERR_RPC_FAIL
 * (unreachable, or what answers is no master), MCS_ERR_RPC_TIMEOUT, MCS_ERR_CLOSED, MCS_ERR_INTERRUPTED,
 * MCS_ERR_SESSION_ENDED, MCS_ERR_NO_MEMORY, MCS_ERR_LIMIT (request too long). `reply` is initialised here in every
 * case. */
mcs_status_t mcs_link_call(mcs_link_t *link, mcs_call_t *call, mcs_reply_t *reply) MCS_MUST_CHECK;

#endif
