/* What the master said lately: locations under leases, so that a get right after an exist or another get asks nobody.
 *
 * An entry is used within the first half of its lease only, counted from when the request was sent: the master strikes
 * a value (upsert, forced removal) no later than that, so no reader takes the old value from here after another got the
 * new one (rule 2). Whoever uses an entry checks the extent itself (rule 4), and looks up anew when it has gone.
 *
 * Fixed size, sets of a few ways, each under its own lock; keys are known by a 128-bit hash with a random seed. What
 * was found in another session is not given out: its capabilities are void. Misses are never remembered.
 * Thread-safe: MCS_RANK_CLIENT_KEYS. */
#ifndef MCS_CLIENT_LOOKUP_CACHE_H
#define MCS_CLIENT_LOOKUP_CACHE_H

#include "core/client/lookup.h"

#define MCS_CACHED_REPLICAS 3 /* of an object; one with more is not remembered */

/* `entries` is rounded up; 0: *cache_out is NULL, which all functions take as a cache that is always empty. */
mcs_status_t mcs_lookup_cache_create(uint64_t entries, mcs_lookup_cache_t **cache_out) MCS_MUST_CHECK;
void mcs_lookup_cache_destroy(mcs_lookup_cache_t *cache);

/* Everything before is forgotten; what is put from now on must be of `session`. */
void mcs_lookup_cache_begin(mcs_lookup_cache_t *cache, mcs_id_t session);
/* True: *found_out is as the lookup gave it, replicas in `arena`. False also for lack of memory. */
bool mcs_lookup_cache_get(mcs_lookup_cache_t *cache, const mcs_key_t *key, mcs_arena_t *arena, mcs_found_t *found_out);
/* Of a key that was found. `by_exist`: nobody has wanted its bytes yet. */
void mcs_lookup_cache_put(mcs_lookup_cache_t *cache, const mcs_key_t *key, const mcs_found_t *found, bool by_exist);
/* The caller knows better. */
void mcs_lookup_cache_drop(mcs_lookup_cache_t *cache, const mcs_key_t *key);

/* Whether locations that exist would bring are worth their bytes: engines that ask in one process and read in another
 * never use them. By what became of the last ones. */
bool mcs_lookup_cache_wants_exist(const mcs_lookup_cache_t *cache);

/* Hits since the last call. */
mcs_cached_hits_t mcs_lookup_cache_take_hits(mcs_lookup_cache_t *cache);

#endif
