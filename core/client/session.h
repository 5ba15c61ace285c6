/* The session at the master: its control connection and the thread that keeps it ("mcs-control").
 *
 * The thread pings, answers the master's notices (release, revoked, forget, session ended) by telling the owner and the
 * puts in flight, sends back what they answer in batches, and reconnects with a backoff when the connection is lost. A
 * session that the master still knows - it has never gone, or was started again from its journal - is resumed with
 * everything it had; one that it does not know any more (restart without a journal, TTL missed) is replaced: `opened`
 * mounts anew on new memory before calls go on. An answer of a lower epoch than the highest seen is refused (rule 12).
 *
 * Thread-safe. Locks: MCS_RANK_CLIENT_SESSION for the outboxes, never held over I/O. */
#ifndef MCS_CLIENT_SESSION_H
#define MCS_CLIENT_SESSION_H

#include "core/client/inflight.h"
#include "core/client/link.h"
#include "core/segment/owner.h"

typedef struct mcs_session mcs_session_t;

/* Objects read by what the master had said before, and their bytes. */
typedef struct mcs_cached_hits {
    uint64_t gets;
    uint64_t bytes;
} mcs_cached_hits_t;

typedef struct mcs_session_config {
    const char *address;
    const mcs_client_config_t *config;
    const mcs_hello_self_t *self;
    mcs_counters_t *counters;
    mcs_client_metrics_t *metrics; /* may be NULL */
    /* A new session is open: mount. On the thread that opened it; calls with MCS_CALL_EARLY work. A failure closes the
     * session again. */
    mcs_status_t (*opened)(void *arg, const mcs_hello_result_t *hello);
    /* The session was resumed, perhaps under a new epoch: then the master was restarted, and segments are mounted again
     * with what is in them. As for `opened`. */
    mcs_status_t (*resumed)(void *arg, const mcs_hello_result_t *hello);
    /* The control connection is lost: what the master says is not known until one of the others. NULL is fine. */
    void (*lost)(void *arg);
    /* What the master has not seen since the last time; NULL: nothing. */
    mcs_cached_hits_t (*cached_hits)(void *arg);
    void *arg;
    /* The master has tasks for us. On the control thread; must not block. NULL: nobody executes any. */
    void (*tasks)(void *arg);
    void *tasks_arg;
} mcs_session_config_t;

/* No connection yet. What config points to outlives it. */
mcs_status_t mcs_session_create(const mcs_session_config_t *config, mcs_session_t **session_out) MCS_MUST_CHECK;
/* The link whose calls belong to it, and the owner that notices are for. */
mcs_link_t *mcs_session_link(mcs_session_t *session);
mcs_inflight_t *mcs_session_inflight(mcs_session_t *session);
/* Connects, opens the session, mounts (opened), starts the thread. Tries an unreachable master for a short while. */
mcs_status_t mcs_session_start(mcs_session_t *session, mcs_owner_t *owner) MCS_MUST_CHECK;
/* Ends calls, joins the thread, says goodbye (waits a second at most). Safe when it was never started. */
void mcs_session_stop(mcs_session_t *session);
void mcs_session_destroy(mcs_session_t *session); /* after stop; NULL is fine */

/* mcs_owner_released_fn: `arg` is the session. */
void mcs_session_released(void *arg, const uint64_t *generations, uint32_t count);
void mcs_session_struck(void *arg, const uint64_t *generations, uint32_t count);
void mcs_session_differ(void *arg, const mcs_col_differ_t *records, uint32_t count);
/* True when the control connection is there and the master has answered a ping lately. */
bool mcs_session_is_connected(const mcs_session_t *session);

#endif
