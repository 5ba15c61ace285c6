/* Inside a put: shared by put.c (the course of a call) and put_rpc.c (its requests). */
#ifndef MCS_CLIENT_PUT_H
#define MCS_CLIENT_PUT_H

#include "core/client/lookup.h"
#include "core/client/move.h"
#include "core/client/spare.h"

#define MCS_PREFERRED_MAX 128  /* names that travel */
#define MCS_EXCLUDED_MAX  1024 /* handles that travel */

typedef enum mcs_put_state {
    MCS_PUT_TODO,    /* to be started */
    MCS_PUT_OPEN,    /* reserved in the present round */
    MCS_PUT_WAITING, /* another's reservation of the key is open */
    MCS_PUT_SAME,    /* the key stands earlier in the call: `first` */
    MCS_PUT_DONE
} mcs_put_state_t;

typedef struct mcs_put_item {
    mcs_key_t key;
    mcs_hash128_t key_hash;
    const mcs_value_t *value;
    uint64_t size;
    size_t index; /* in the caller's arrays */
    size_t first; /* SAME: the item whose value wins */
    mcs_put_state_t state;
    mcs_status_t status;  /* DONE: the result */
    mcs_status_t failure; /* of the try before, MCS_OK = none */
    uint8_t tries;        /* rounds in which a replica could not be written */
    uint8_t overtaken;    /* rounds whose reservation was revoked by somebody else */
    /* The present round. */
    uint64_t put_id;
    uint64_t deadline_ns; /* of the reservation, on our clock */
    uint32_t replica_count;
    const mcs_col_replica_t *replicas; /* in the round's arena */
    mcs_move_t *moves;                 /* one per replica */
    bool in_doubt;
    bool of_caller; /* the value could not be read from the caller's memory */
    bool on_spare;
} mcs_put_item_t;

typedef struct mcs_put_call {
    mcs_client_t *client;
    mcs_put_item_t *items;
    size_t count;
    const mcs_replicate_config_t *config;
    bool upsert;
    bool plain;                /* one object, without special wishes: may use a spare */
    mcs_spare_t *spare;        /* for the first round */
    Mcs__Wire__PutConfig wire; /* the same in every request but for the excluded segments */
    char *preferred[MCS_PREFERRED_MAX];
    uint32_t excluded[MCS_EXCLUDED_MAX];
    mcs_arena_t arena; /* of one round */
    /* One round: which items, in the order of the request. */
    mcs_put_item_t **round;
    size_t round_count;
    mcs_id_t session; /* the round's reservations are of this one */
    bool interrupted; /* the hook has ended the call */
    bool repeated;    /* the last request that commits was sent more than once */
} mcs_put_call_t;

/* Checks the configuration and prepares what of it travels. */
mcs_status_t mcs_put_config(mcs_put_call_t *call, const mcs_replicate_config_t *config) MCS_MUST_CHECK;
/* Asks for reservations for the items of the round; sets their state, put_id, replicas, deadline. The generations of
 * all go to *generations_out (in the arena). Sets call->interrupted. On failure no item has changed. */
mcs_status_t mcs_put_start(mcs_put_call_t *call, uint64_t **generations_out, size_t *count_out) MCS_MUST_CHECK;
/* Commits (or revokes) these put ids; statuses_out[i] for each. */
mcs_status_t mcs_put_end(mcs_put_call_t *call, const uint64_t *put_ids, size_t count, mcs_status_t *statuses_out)
    MCS_MUST_CHECK;
/* Commits the item, which was written on call->spare. MCS_ERR_AGAIN: it has to be put by put_start. */
mcs_status_t mcs_put_now(mcs_put_call_t *call, mcs_put_item_t *item) MCS_MUST_CHECK;
/* Best effort: what it does not reach runs into its deadline. */
void mcs_put_revoke(mcs_put_call_t *call, const uint64_t *put_ids, size_t count, bool in_doubt);
/* Waits at most timeout_ms for another's reservation: MCS_OK committed, MCS_ERR_OBJECT_NOT_FOUND revoked,
 * MCS_ERR_PUT_IN_PROGRESS still open. */
mcs_status_t mcs_put_wait(mcs_client_t *client, const mcs_key_t *key, uint32_t timeout_ms) MCS_MUST_CHECK;

#endif
