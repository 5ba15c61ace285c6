/* See lookup_cache.h. */
#include "core/client/lookup_cache.h"

#include <string.h>
#include <sys/mman.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/hash.h"
#include "core/base/lock.h"
#include "core/base/rng.h"

#define WAYS        4u
#define LOCKS       64u
#define ENTRIES_MAX (UINT64_C(1) << 24)

/* Exist's locations are asked for while one in PAYS of them is used, and to begin with. */
#define TRIAL UINT64_C(4096)
#define PAYS  UINT64_C(8)

typedef struct entry {
    mcs_hash128_t key; /* 0, 0: free */
    uint64_t until_ns;
    uint64_t lease_end_ns;
    uint64_t size;
    mcs_col_replica_t replicas[MCS_CACHED_REPLICAS];
    uint32_t replica_count;
    bool by_exist; /* and not used yet */
} entry_t;

struct mcs_lookup_cache {
    entry_t *entries;
    size_t bytes;
    uint64_t set_mask;
    uint64_t seed;
    mcs_mutex_t locks[LOCKS]; /* of the sets with that number modulo LOCKS, and all of them guard `session` */
    mcs_id_t session;
    /* atomics */
    uint64_t hits;
    uint64_t hit_bytes;
    uint64_t exist_put;
    uint64_t exist_used;
};

/* Pages that nothing was put in cost nothing, and come empty again when the kernel is told to drop them. */
static entry_t *map_entries(size_t bytes)
{
    void *entries = mcs_fault_hit(MCS_FAULT_ALLOC)
                        ? MAP_FAILED
                        : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return entries != MAP_FAILED ? entries : NULL;
}

mcs_status_t mcs_lookup_cache_create(uint64_t entries, mcs_lookup_cache_t **cache_out)
{
    *cache_out = NULL;
    if (entries == 0) {
        return MCS_OK;
    }
    uint64_t sets = LOCKS;
    while (sets * WAYS < MCS_MIN(entries, ENTRIES_MAX)) {
        sets *= 2;
    }
    mcs_lookup_cache_t *cache = MCS_NEW(mcs_lookup_cache_t);
    if (cache == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    cache->bytes = sets * WAYS * sizeof(entry_t);
    cache->entries = map_entries(cache->bytes);
    if (cache->entries == NULL) {
        mcs_free(cache);
        return MCS_ERR_NO_MEMORY;
    }
    cache->set_mask = sets - 1;
    cache->seed = mcs_random_u64();
    for (size_t i = 0; i < LOCKS; i++) {
        mcs_mutex_init(&cache->locks[i], MCS_RANK_CLIENT_KEYS, "lookup_cache");
    }
    *cache_out = cache;
    return MCS_OK;
}

void mcs_lookup_cache_destroy(mcs_lookup_cache_t *cache)
{
    if (cache == NULL) {
        return;
    }
    for (size_t i = 0; i < LOCKS; i++) {
        mcs_mutex_fini(&cache->locks[i]);
    }
    munmap(cache->entries, cache->bytes);
    mcs_free(cache);
}

void mcs_lookup_cache_begin(mcs_lookup_cache_t *cache, mcs_id_t session)
{
    if (cache == NULL) {
        return;
    }
    /* In the order of their addresses; whoever puts under one of them sees the session that is now. */
    mcs_mutex_lock(&cache->locks[0]);
    for (size_t i = 1; i < LOCKS; i++) {
        mcs_mutex_lock_same_rank(&cache->locks[i]);
    }
    cache->session = session;
    if (madvise(cache->entries, cache->bytes, MADV_DONTNEED) != 0) {
        memset(cache->entries, 0, cache->bytes);
    }
    for (size_t i = LOCKS; i-- > 0;) {
        mcs_mutex_unlock(&cache->locks[i]);
    }
}

/* ---- sets ---- */

static mcs_hash128_t hash_of(const mcs_lookup_cache_t *cache, const mcs_key_t *key)
{
    mcs_hash128_t hash = mcs_hash128(cache->seed, key->bytes, key->len);
    hash.hi |= 1; /* not free */
    return hash;
}

static mcs_mutex_t *lock_of(mcs_lookup_cache_t *cache, mcs_hash128_t hash)
{
    return &cache->locks[hash.lo % LOCKS];
}

static entry_t *set_of(const mcs_lookup_cache_t *cache, mcs_hash128_t hash)
{
    return &cache->entries[(hash.lo & cache->set_mask) * WAYS];
}

static entry_t *find_locked(const mcs_lookup_cache_t *cache, mcs_hash128_t hash)
{
    entry_t *set = set_of(cache, hash);
    for (uint32_t i = 0; i < WAYS; i++) {
        if (set[i].key.lo == hash.lo && set[i].key.hi == hash.hi) {
            return &set[i];
        }
    }
    return NULL;
}

/* The free one, or the one that ends first. */
static entry_t *victim_locked(const mcs_lookup_cache_t *cache, mcs_hash128_t hash)
{
    entry_t *set = set_of(cache, hash);
    entry_t *victim = &set[0];
    for (uint32_t i = 1; i < WAYS; i++) {
        if (set[i].until_ns < victim->until_ns) {
            victim = &set[i];
        }
    }
    return victim;
}

/* ---- the three verbs ---- */

bool mcs_lookup_cache_get(mcs_lookup_cache_t *cache, const mcs_key_t *key, mcs_arena_t *arena, mcs_found_t *found_out)
{
    if (cache == NULL) {
        return false;
    }
    mcs_col_replica_t replicas[MCS_CACHED_REPLICAS];
    mcs_hash128_t hash = hash_of(cache, key);
    uint64_t now_ns = mcs_now_ns();
    bool there = false;
    bool first_use = false;
    mcs_mutex_t *lock = lock_of(cache, hash);
    mcs_mutex_lock(lock);
    entry_t *entry = find_locked(cache, hash);
    if (entry != NULL && now_ns < entry->until_ns) {
        there = true;
        first_use = entry->by_exist;
        entry->by_exist = false;
        *found_out = (mcs_found_t){.status = MCS_OK,
                                   .replica_count = entry->replica_count,
                                   .size = entry->size,
                                   .lease_end_ns = entry->lease_end_ns,
                                   .cache_until_ns = entry->until_ns,
                                   .session = cache->session};
        memcpy(replicas, entry->replicas, entry->replica_count * sizeof(*replicas));
    }
    mcs_mutex_unlock(lock);
    mcs_col_replica_t *kept = there ? mcs_arena_alloc(arena, found_out->replica_count * sizeof(*kept)) : NULL;
    if (kept == NULL) {
        return false;
    }
    memcpy(kept, replicas, found_out->replica_count * sizeof(*kept));
    found_out->replicas = kept;
    if (first_use) {
        __atomic_fetch_add(&cache->exist_used, 1, __ATOMIC_RELAXED);
    }
    __atomic_fetch_add(&cache->hits, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&cache->hit_bytes, found_out->size, __ATOMIC_RELAXED);
    return true;
}

void mcs_lookup_cache_put(mcs_lookup_cache_t *cache, const mcs_key_t *key, const mcs_found_t *found, bool by_exist)
{
    if (cache == NULL || found->status != MCS_OK || found->replica_count > MCS_CACHED_REPLICAS ||
        found->cache_until_ns <= mcs_now_ns()) {
        return;
    }
    mcs_hash128_t hash = hash_of(cache, key);
    mcs_mutex_t *lock = lock_of(cache, hash);
    mcs_mutex_lock(lock);
    if (mcs_id_equal(found->session, cache->session)) {
        entry_t *entry = find_locked(cache, hash);
        if (entry == NULL) {
            entry = victim_locked(cache, hash);
        }
        entry->key = hash;
        entry->until_ns = found->cache_until_ns;
        entry->lease_end_ns = found->lease_end_ns;
        entry->size = found->size;
        entry->replica_count = found->replica_count;
        entry->by_exist = by_exist;
        memcpy(entry->replicas, found->replicas, found->replica_count * sizeof(*found->replicas));
    }
    mcs_mutex_unlock(lock);
    if (by_exist && __atomic_add_fetch(&cache->exist_put, 1, __ATOMIC_RELAXED) == 4 * TRIAL) {
        /* What was long ago counts half. A race with others only blurs it. */
        __atomic_store_n(&cache->exist_put, 2 * TRIAL, __ATOMIC_RELAXED);
        __atomic_store_n(&cache->exist_used, __atomic_load_n(&cache->exist_used, __ATOMIC_RELAXED) / 2,
                         __ATOMIC_RELAXED);
    }
}

void mcs_lookup_cache_drop(mcs_lookup_cache_t *cache, const mcs_key_t *key)
{
    if (cache == NULL) {
        return;
    }
    mcs_hash128_t hash = hash_of(cache, key);
    mcs_mutex_t *lock = lock_of(cache, hash);
    mcs_mutex_lock(lock);
    entry_t *entry = find_locked(cache, hash);
    if (entry != NULL) {
        memset(entry, 0, sizeof(*entry));
    }
    mcs_mutex_unlock(lock);
}

/* ---- what becomes of it ---- */

bool mcs_lookup_cache_wants_exist(const mcs_lookup_cache_t *cache)
{
    if (cache == NULL) {
        return false;
    }
    uint64_t put = __atomic_load_n(&cache->exist_put, __ATOMIC_RELAXED);
    return put < TRIAL || __atomic_load_n(&cache->exist_used, __ATOMIC_RELAXED) >= put / PAYS;
}

mcs_cached_hits_t mcs_lookup_cache_take_hits(mcs_lookup_cache_t *cache)
{
    if (cache == NULL) {
        return (mcs_cached_hits_t){0, 0};
    }
    return (mcs_cached_hits_t){__atomic_exchange_n(&cache->hits, 0, __ATOMIC_RELAXED),
                               __atomic_exchange_n(&cache->hit_bytes, 0, __ATOMIC_RELAXED)};
}
