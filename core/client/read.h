/* Reads objects, whole or parts of them, into memory: look up, choose a replica, move, check, and go on to the next
 * replica or the next lookup when that fails (rules 4 and 7). What get.c, handle.c and get_session.c are made of. */
#ifndef MCS_CLIENT_READ_H
#define MCS_CLIENT_READ_H

#include "core/client/lookup.h"
#include "core/client/move.h"

#define MCS_READ_LOOKUPS  3  /* per object: one, two more when its replicas cannot be read or its lease has run out */
#define MCS_READ_REPLACED 32 /* when each finds another value, replaced before it could be read */
#define MCS_READ_MEMORY   4  /* the last generations that failed: not tried again */

typedef struct mcs_read_item {
    mcs_key_t key;
    mcs_found_t found;
    const struct iovec *iov; /* the target; NULL: only looked up so far, or parts */
    size_t iov_count;
    mcs_part_t *parts; /* instead of the whole object; not NULL */
    size_t part_count;
    const mcs_found_t *bound; /* not NULL: only this value will do, another is MCS_ERR_OBJECT_NOT_FOUND */
    uint64_t capacity;        /* of the target */
    mcs_status_t status;      /* MCS_ERR_AGAIN: to do; MCS_OK: the bytes are there; else why not */
    mcs_status_t failure;     /* of the last replica tried */
    uint16_t tried;           /* bit per replica of `found` */
    uint8_t lookups;
    uint8_t failed_count;
    bool cached; /* `found` is what was remembered: the master has not been asked */
    bool struck; /* the last lookup named only replicas that were found dead: a strike is under way (rule 2) */
    uint64_t struck_until_ns; /* when it is over at the latest; 0: none */
    uint64_t failed[MCS_READ_MEMORY];
    mcs_move_t *moves; /* of the present round */
    size_t move_count;
} mcs_read_item_t;

typedef struct mcs_read {
    mcs_client_t *client;
    mcs_read_item_t *items;
    size_t count;
    bool fresh; /* ask the master, whatever is remembered */
    bool exact; /* the object must have the size of the target, else MCS_ERR_INVALID_PARAMS: it was replaced by another
                 */
    mcs_arena_t *arena;
    mcs_routes_t routes;
    uint32_t *picked; /* indices of the items that a lookup is for */
    size_t picked_count;
    mcs_move_t *moves; /* of one round, in the arena */
    size_t move_room;
} mcs_read_t;

/* Items zeroed but for key (and target). `arena` holds what is found as long as the items are used. */
void mcs_read_init(mcs_read_t *read, mcs_client_t *client, mcs_read_item_t *items, size_t count, mcs_arena_t *arena);
void mcs_read_fini(mcs_read_t *read);

/* Looks up all items with status AGAIN: found.status says how it went; `status` becomes that when it is not MCS_OK. */
mcs_status_t mcs_read_lookup(mcs_read_t *read) MCS_MUST_CHECK;
/* Works on all items with status AGAIN until none has it. Those that were looked up with a lease that still runs are
 * not asked for again. */
void mcs_read_run(mcs_read_t *read);

/* The best replica of an item that has not failed; -1 when there is none. */
int mcs_read_choose(mcs_read_t *read, const mcs_read_item_t *item);
/* The results of an item's parts; counts. */
void mcs_read_part_results(mcs_client_t *client, const mcs_read_item_t *item);
/* What the API says: the size, or a public code; counts. */
int64_t mcs_read_result(mcs_client_t *client, const mcs_read_item_t *item);

#endif
