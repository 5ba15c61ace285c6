/* The few threads that share a client's large copies.
 *
 * A copy thread has no state: a caller posts a job of numbered units, works on it itself, and any idle copy thread
 * helps. They start at the first large copy: one where this process may run on two or three processors, up to
 * MCS_COPIERS_MAX where on more, none where on one. A sleeper wakes up in 10 to 40 us, so a copy thread that has had a
 * job polls for the next before it sleeps (spin.h), and a call asks for help as soon as it knows what it copies.
 *
 * Sharing is adaptive. It is worth a second processor's time only while one is free, and only as far as memory has
 * more to give than one takes. So what counts is measured, for each group of like copies by itself (direction, size,
 * many pieces or few): the time of a byte, alone and shared. Shared copies go in rounds of MCS_COPIERS_ROUND, with one
 * alone after every few rounds. When half a round has not taken a fifth less time it ends, and the next copies of the
 * group go alone: MCS_COPIERS_DULL_MIN, then more than four times as many each time up to MCS_COPIERS_ALONE_MAX. A copy
 * whose caller waited in the end for as long as it takes alone had a copy thread that lost its processor in the middle
 * of a unit: that ends the round, and the next MCS_COPIERS_LATE_MIN to MCS_COPIERS_ALONE_MAX copies of all groups go
 * alone, so that fewer than one in a hundred wait. Nor does a call ask while others of the client share, half as many
 * as there are processors.
 *
 * Thread-safe. Lock: MCS_RANK_CLIENT_COPY, never held over a copy. */
#ifndef MCS_CLIENT_COPIERS_H
#define MCS_CLIENT_COPIERS_H

#include "core/base/status.h"

#define MCS_COPIERS_MAX       3
#define MCS_COPIERS_ROUND     8
#define MCS_COPIERS_DULL_MIN  32
#define MCS_COPIERS_LATE_MIN  128
#define MCS_COPIERS_ALONE_MAX 1024
/* Below this a hand-over costs more than it brings. */
#define MCS_COPIERS_MIN (1 * MCS_MIB)
/* What a thread takes at once: as little as hides the cost of taking it, since callers wait for the last to be done. */
#define MCS_COPIERS_TAKE (128 * MCS_KIB)

typedef enum mcs_copy_kind { MCS_COPY_IN, MCS_COPY_OUT, MCS_COPY_SUM, MCS_COPY_KINDS } mcs_copy_kind_t;

typedef struct mcs_copiers mcs_copiers_t;

/* What was decided about one copy. */
typedef struct mcs_share {
    bool shared;
    uint8_t group; /* copiers.c */
    uint64_t bytes;
} mcs_share_t;

mcs_status_t mcs_copiers_create(mcs_copiers_t **copiers_out) MCS_MUST_CHECK;
void mcs_copiers_destroy(mcs_copiers_t *copiers); /* no job is running; NULL is fine */

/* Whether a copy of `bytes` in `pieces` pieces of memory, which is about to begin, is to be shared; and wakes whom it
 * takes. Is always followed by a run. */
mcs_share_t mcs_copiers_ask(mcs_copiers_t *copiers, mcs_copy_kind_t kind, uint64_t bytes, size_t pieces) MCS_MUST_CHECK;
/* Runs unit(arg, i) for all i < count on this thread and, when shared, on idle copy threads, each of which takes some
 * MCS_COPIERS_TAKE at a time; returns when all are done, streams (hash.h) included. */
void mcs_copiers_run(mcs_copiers_t *copiers, const mcs_share_t *share, void (*unit)(void *arg, size_t i), void *arg,
                     size_t count);

#endif
