/* The order of eviction over all shards: which list ends in the oldest object.
 *
 * The age of a tail is the end of its lease: smaller = older. Looking at one costs a lock and two cache misses, so what
 * was seen last is remembered. Lists grow at the head: a tail is at least as young as it was, and only the one that
 * seems to be the oldest has to be looked at again.
 *
 * Groups of shards remember their oldest, so that the oldest of all is found in two short passes over memory that is in
 * the cache. Refused: a heap or a tournament tree (as many steps, each waiting for the one before); sampling a few
 * tails (no cheaper, and not the true order).
 *
 * One list's. Housekeeping only. */
#ifndef MCS_MASTER_SVC_TAILS_H
#define MCS_MASTER_SVC_TAILS_H

#include "master/svc_index.h"

#define SVC_TAIL_UNKNOWN UINT64_C(0)
#define SVC_TAIL_NONE    UINT64_MAX /* the list was empty, or somebody is at work on it */

#define SVC_TAIL_GROUP  32u
#define SVC_TAIL_GROUPS (SVC_SHARDS / SVC_TAIL_GROUP)

typedef struct svc_tails {
    uint64_t age_ns[SVC_SHARDS];
    uint64_t oldest_ns[SVC_TAIL_GROUPS];
    svc_ref_t seen[SVC_SHARDS]; /* the record: to fetch it ahead, no more; it may be gone */
} svc_tails_t;

static inline uint64_t svc_tails_age(const svc_tails_t *tails, uint32_t shard)
{
    return tails->age_ns[shard];
}
void svc_tails_set(svc_tails_t *tails, uint32_t shard, uint64_t age_ns);
/* The age of the oldest, SVC_TAIL_NONE: there is none. */
uint64_t svc_tails_oldest(const svc_tails_t *tails);
/* The shard with the oldest, which becomes SVC_TAIL_NONE until it is set again. SVC_SHARDS: there is none. */
uint32_t svc_tails_take(svc_tails_t *tails);

#endif
