/* Puts in flight: which generations this client may still write to, so that a revoked one is acknowledged only when
 * nobody here will touch it any more (rule 5: an owner forgets a revoked generation once its session acknowledged).
 *
 * A store whose transfer ended without the owner's answer (deadline, lost endpoint) may still lie in a socket on its
 * way: its generation is in doubt and is never acknowledged, so that the owner remembers it until this session ends.
 *
 * A put round begins before its put_start is sent, because the master may revoke a reservation before the reply with
 * its generations has been read. A revoked generation that no known round has is therefore undecided while a round that
 * had begun before is still without its reply. Rounds are as many as threads in put, revocations are rare: lists, no
 * index. Thread-safe: MCS_RANK_CLIENT_SESSION. */
#ifndef MCS_CLIENT_INFLIGHT_H
#define MCS_CLIENT_INFLIGHT_H

#include "core/base/buf.h"
#include "core/base/list.h"
#include "core/base/lock.h"

typedef struct mcs_inflight {
    mcs_mutex_t lock;
    mcs_list_t rounds; /* in order of their tickets */
    uint64_t next_ticket;
    mcs_buf_t undecided; /* pairs of u64: generation, ticket of the last round that had begun */
    mcs_buf_t doubtful;  /* u64 generations of this session */
    bool doubt_all;      /* the list was full: nothing is acknowledged any more in this session */
    /* Runs without locks: these generations will not be written to any more. */
    void (*ack)(void *arg, const uint64_t *generations, size_t count);
    void *ack_arg;
} mcs_inflight_t;

/* Lives on the stack of a put, or in a spare. */
typedef struct mcs_put_round {
    mcs_list_t node;
    uint64_t ticket;
    bool known;
    bool resting; /* nobody writes to its generations now */
    bool lost;    /* resting, and one of them was revoked: acknowledged, never to be written to */
    const uint64_t *generations;
    size_t count;
    mcs_buf_t revoked; /* to be acknowledged at the end */
} mcs_put_round_t;

void mcs_inflight_init(mcs_inflight_t *table, void (*ack)(void *, const uint64_t *, size_t), void *ack_arg);
void mcs_inflight_fini(mcs_inflight_t *table);

void mcs_put_round_begin(mcs_inflight_t *table, mcs_put_round_t *round);
/* The reservations that the reply named; the array stays the caller's and valid until the end. Once per round. */
void mcs_put_round_known(mcs_inflight_t *table, mcs_put_round_t *round, const uint64_t *generations, size_t count);
/* Between known and end: nobody writes to them until wake. Both are false when a generation was revoked meanwhile: the
 * round ends then without having been used. */
bool mcs_put_round_rest(mcs_inflight_t *table, mcs_put_round_t *round) MCS_MUST_CHECK;
bool mcs_put_round_wake(mcs_inflight_t *table, mcs_put_round_t *round) MCS_MUST_CHECK;
/* A store of `generation` may have been sent and was not answered. Between known and end. */
void mcs_put_round_doubt(mcs_inflight_t *table, uint64_t generation);
/* No access with any of them will be made any more. */
void mcs_put_round_end(mcs_inflight_t *table, mcs_put_round_t *round);

/* The master revoked these. Those nobody writes to are acknowledged at once. */
void mcs_inflight_revoked(mcs_inflight_t *table, const uint64_t *generations, size_t count);

/* A new session has begun: generations of the old one need no acknowledgement any more. */
void mcs_inflight_new_session(mcs_inflight_t *table);

#endif
