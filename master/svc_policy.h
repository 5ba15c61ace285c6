/* Which objects are worth their place: the policy of eviction.
 *
 * Plain objects are in two lists (segmented LRU). New ones are on probation; one that is read, or put again soon after
 * it was evicted (a ghost), is protected; protected ones beyond their share go back on probation, and the oldest on
 * probation is the next victim. How large the protected share should be depends on the load: with little room what was
 * used often is worth more, with much room what was used lately. So the policy plays the same game with several shares
 * at once on a sample of the keys, by hash, each in a shadow cache of some hundred entries, and takes the share that
 * hits most. One of them is none: LRU. That is where it begins.
 *
 * Shadows cost nothing before the first eviction, and then a few hundred kilobytes and one access in (objects / 512).
 *
 * svc_policy_access: any thread, with a shard's lock; the rest: housekeeping. Lock: MCS_RANK_EVICT. */
#ifndef MCS_MASTER_SVC_POLICY_H
#define MCS_MASTER_SVC_POLICY_H

#include "core/base/lock.h"
#include "core/base/status.h"

#define SVC_POLICY_SHARES 3

typedef struct svc_shadow svc_shadow_t;

typedef struct svc_policy {
    bool adaptive;        /* constant; false: LRU */
    uint32_t active;      /* atomic: there has been an eviction */
    uint64_t sample_mask; /* atomic: keys whose hash has none of these bits are in the sample */
    uint32_t chosen;      /* atomic: index of the share */
    mcs_mutex_t lock;     /* what follows */
    uint32_t capacity;    /* of each shadow */
    svc_shadow_t *shadows[SVC_POLICY_SHARES];
    uint32_t hits[SVC_POLICY_SHARES]; /* in this period */
    double score[SVC_POLICY_SHARES];
    uint32_t accesses;
} svc_policy_t;

void svc_policy_init(svc_policy_t *policy, bool adaptive);
void svc_policy_fini(svc_policy_t *policy);

/* Eviction has to choose, among so many objects. Without memory for shadows the order stays LRU's. */
void svc_policy_resize(svc_policy_t *policy, uint64_t objects);
/* What part of the objects may be protected. */
double svc_policy_share(const svc_policy_t *policy);

void svc_policy_sampled(svc_policy_t *policy, uint64_t hash);
/* The object was used for the first time since its last lease, or was put. */
static inline void svc_policy_access(svc_policy_t *policy, uint64_t hash)
{
    if (MCS_UNLIKELY(__atomic_load_n(&policy->active, __ATOMIC_RELAXED) != 0) &&
        (hash & __atomic_load_n(&policy->sample_mask, __ATOMIC_RELAXED)) == 0) {
        svc_policy_sampled(policy, hash);
    }
}
static inline bool svc_policy_is_active(const svc_policy_t *policy)
{
    return __atomic_load_n(&policy->active, __ATOMIC_RELAXED) != 0;
}

/* Keys that were evicted lately: two Bloom filters, one being filled, with a key's bits in one cache line. Guarded by
 * its owner (a shard). */
typedef struct svc_ghosts {
    uint64_t *bits; /* both; NULL: none were added */
    uint32_t words; /* of one, a power of two */
    uint32_t added; /* to the one that is being filled */
    uint32_t limit;
    uint32_t current;
} svc_ghosts_t;
/* `objects`: that live beside it; about twice as many ghosts are remembered. Forgets some when there is no memory. */
void svc_ghosts_add(svc_ghosts_t *ghosts, uint64_t hash, uint32_t objects);
/* What adding will write to comes into the cache. */
void svc_ghosts_prefetch(const svc_ghosts_t *ghosts, uint64_t hash);
bool svc_ghosts_have(const svc_ghosts_t *ghosts, uint64_t hash);
void svc_ghosts_fini(svc_ghosts_t *ghosts);

#endif
