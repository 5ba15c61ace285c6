/* Spares: reservations that were made before their key was known, so that a put costs one request and not two.
 *
 * A caller that puts one object after another of one size asks, with each commit, for room for the next; see master/
 * svc_spare.c for what the master makes of it. The spare lies here until a put of that size takes it, for half a second
 * at most; each is a round of inflight.h from the request that asked for it on, at rest while nobody writes, so that
 * the master can revoke it at any time.
 *
 * Thread-safe: MCS_RANK_CLIENT_SESSION, not held over anything. */
#ifndef MCS_CLIENT_SPARE_H
#define MCS_CLIENT_SPARE_H

#include "core/client/inflight.h"
#include "core/client/link.h"
#include "core/wire/columns.h"

typedef struct mcs_spares mcs_spares_t;

typedef struct mcs_spare {
    mcs_list_t node;
    mcs_put_round_t round;
    uint64_t size; /* payload bytes */
    mcs_id_t session;
    uint64_t put_id;
    uint64_t use_until_ns;
    mcs_col_replica_t replica;
} mcs_spare_t;

mcs_status_t mcs_spares_create(mcs_spares_t **spares_out) MCS_MUST_CHECK;
/* Before the table goes: `inflight` may be NULL when there has never been one. NULL is fine. */
void mcs_spares_destroy(mcs_spares_t *spares, mcs_inflight_t *inflight);
/* The session, or what the master knows, has changed: none counts any more. */
void mcs_spares_clear(mcs_spares_t *spares, mcs_inflight_t *inflight);

/* A put of `size` bytes begins, alone in its call and without special wishes. The caller's spare until mcs_spare_end,
 * or NULL: by put_start. */
mcs_spare_t *mcs_spares_take(mcs_spares_t *spares, mcs_inflight_t *inflight, uint64_t size);
/* Nobody writes to it any more. */
void mcs_spare_end(mcs_inflight_t *inflight, mcs_spare_t *spare);

/* Before a request that commits a put of `size` bytes: is another of that kind to be expected? Then a spare without a
 * place, to be passed to mcs_spares_answered whatever becomes of the request; else NULL. */
mcs_spare_t *mcs_spares_ask(mcs_spares_t *spares, mcs_inflight_t *inflight, uint64_t size);
/* The answer; columns of no length: the master gave none. NULL `spare`: nothing was asked for. */
void mcs_spares_answered(mcs_spares_t *spares, mcs_inflight_t *inflight, mcs_spare_t *spare, const mcs_call_t *rpc,
                         const ProtobufCBinaryData *put, const ProtobufCBinaryData *replica);

#endif
