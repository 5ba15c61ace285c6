/* Batches: keys hashed and put in order of their shards, so that each shard is locked once. On the request path; arena
 * memory only. */
#include <string.h>
#include <time.h>

#include "master/svc_internal.h"

/* How many keys ahead a shard, and then its table's slot, is fetched into the cache. */
#define SHARD_AHEAD 16
#define SLOT_AHEAD  8
/* Reading: how many keys ahead the shard is locked to fetch the record, and then the records that it is linked to. */
#define RECORD_AHEAD 6
#define LINKS_AHEAD  3

/* A stable counting sort: keys of one shard keep the order of the request, which is what makes duplicates in a batch
 * defined. */
static void order_by_shard(const uint64_t *hashes, uint32_t shift, size_t count, uint32_t *order)
{
    uint32_t start[SVC_SHARDS + 1];
    memset(start, 0, sizeof(start));
    for (size_t i = 0; i < count; i++) {
        start[((hashes[i] >> shift) & (SVC_SHARDS - 1)) + 1]++;
    }
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        start[s + 1] += start[s];
    }
    for (size_t i = 0; i < count; i++) {
        order[start[(hashes[i] >> shift) & (SVC_SHARDS - 1)]++] = (uint32_t)i;
    }
}

mcs_status_t svc_batch_decode(const mcs_service_t *service, mcs_arena_t *arena, const ProtobufCBinaryData *lens,
                              const ProtobufCBinaryData *bytes, svc_batch_t *batch)
{
    size_t room = MCS_MIN(lens->len / sizeof(uint16_t), (size_t)MCS_BATCH_KEYS);
    memset(batch, 0, sizeof(*batch));
    batch->keys = mcs_arena_alloc(arena, MCS_MAX(room, (size_t)1) * sizeof(mcs_key_t));
    batch->hashes = mcs_arena_alloc(arena, MCS_MAX(room, (size_t)1) * sizeof(uint64_t));
    batch->order = mcs_arena_alloc(arena, MCS_MAX(room, (size_t)1) * sizeof(uint32_t));
    if (batch->keys == NULL || batch->hashes == NULL || batch->order == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = mcs_keys_decode(lens->data, lens->len, bytes->data, bytes->len, batch->keys, &batch->count);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t i = 0; i < batch->count; i++) {
        batch->hashes[i] = svc_index_hash(&service->index, batch->keys[i].bytes, batch->keys[i].len);
    }
    if (batch->count > 16) {
        order_by_shard(batch->hashes, 64 - SVC_SHARD_BITS, batch->count, batch->order);
        return MCS_OK;
    }
    for (uint32_t i = 0; i < batch->count; i++) { /* insertion sort: cheaper than 1024 counters */
        uint32_t at = i;
        uint64_t shard = batch->hashes[i] >> (64 - SVC_SHARD_BITS);
        while (at > 0 && batch->hashes[batch->order[at - 1]] >> (64 - SVC_SHARD_BITS) > shard) {
            batch->order[at] = batch->order[at - 1];
            at--;
        }
        batch->order[at] = i;
    }
    return MCS_OK;
}

static uint64_t hash_at(const svc_batch_t *batch, size_t n)
{
    return batch->hashes[batch->order[n]];
}

static svc_shard_t *shard_at(const mcs_service_t *service, const svc_batch_t *batch, size_t n)
{
    return svc_index_shard(&service->index, hash_at(batch, n));
}

static void fetch_ahead(const mcs_service_t *service, const svc_batch_t *batch, size_t n)
{
    if (n + SHARD_AHEAD < batch->count) {
        svc_shard_prefetch(shard_at(service, batch, n + SHARD_AHEAD));
    }
    if (n + SLOT_AHEAD < batch->count) {
        svc_shard_prefetch_slot(shard_at(service, batch, n + SLOT_AHEAD), hash_at(batch, n + SLOT_AHEAD));
    }
}

/* The first keys have nothing before them that could hide their latency: all of them at once. */
static void fetch_first(const mcs_service_t *service, const svc_batch_t *batch)
{
    for (size_t n = 0; n < MCS_MIN(batch->count, (size_t)SHARD_AHEAD); n++) {
        svc_shard_prefetch(shard_at(service, batch, n));
    }
    for (size_t n = 0; n < MCS_MIN(batch->count, (size_t)SLOT_AHEAD); n++) {
        svc_shard_prefetch_slot(shard_at(service, batch, n), hash_at(batch, n));
    }
}

void svc_batch_run(mcs_service_t *service, const svc_batch_t *batch, svc_batch_fn fn, void *arg)
{
    svc_shard_t *locked = NULL;
    fetch_first(service, batch);
    for (size_t n = 0; n < batch->count; n++) {
        fetch_ahead(service, batch, n);
        uint32_t i = batch->order[n];
        svc_shard_t *shard = svc_index_shard(&service->index, batch->hashes[i]);
        if (shard != locked) {
            if (locked != NULL) {
                mcs_mutex_unlock(&locked->lock);
            }
            mcs_mutex_lock(&shard->lock);
            locked = shard;
        }
        fn(arg, shard, i);
    }
    if (locked != NULL) {
        mcs_mutex_unlock(&locked->lock);
    }
}

/* Locks the shard of the n-th key, unless the key before it has, and fetches the key's record. */
static void open_nth(mcs_service_t *service, const svc_batch_t *batch, size_t n, svc_ref_t *refs) MCS_NO_TSA
{
    svc_shard_t *shard = shard_at(service, batch, n);
    if (n == 0 || shard != shard_at(service, batch, n - 1)) {
        mcs_mutex_lock_same_rank(&shard->lock);
    }
    refs[n % RECORD_AHEAD] =
        svc_shard_fetch_locked(&service->index, shard, hash_at(batch, n), batch->keys[batch->order[n]].len);
}

static void close_nth(const mcs_service_t *service, const svc_batch_t *batch, size_t n) MCS_NO_TSA
{
    svc_shard_t *shard = shard_at(service, batch, n);
    if (n + 1 == batch->count || shard != shard_at(service, batch, n + 1)) {
        mcs_mutex_unlock(&shard->lock);
    }
}

/* A pipeline: while one key is answered, the records of those behind it and the records that these are linked to in
 * their recency lists are on their way from memory; each of them would cost as much as all the work on a key. Records
 * may be looked at only under their shard's lock, so the locks of up to RECORD_AHEAD shards are held together. They are
 * taken in the order of their addresses, which no two threads can do to each other's harm, and by nobody but this
 * function, whose callers take none before and leave records where they are. */
void svc_batch_read(mcs_service_t *service, const svc_batch_t *batch, svc_batch_fn fn, void *arg) MCS_NO_TSA
{
    svc_ref_t refs[RECORD_AHEAD] = {0};
    size_t opened = 0;
    size_t linked = 0;
    fetch_first(service, batch);
    for (size_t n = 0; n < batch->count; n++) {
        fetch_ahead(service, batch, n);
        for (; opened < MCS_MIN(batch->count, n + RECORD_AHEAD); opened++) {
            open_nth(service, batch, opened, refs);
        }
        for (; linked < MCS_MIN(batch->count, n + LINKS_AHEAD); linked++) {
            svc_shard_fetch_links_locked(&service->index, shard_at(service, batch, linked),
                                         refs[linked % RECORD_AHEAD]);
        }
        fn(arg, shard_at(service, batch, n), batch->order[n]);
        close_nth(service, batch, n);
    }
}

void svc_generations_order(const uint64_t *generations, uint32_t count, uint32_t *order)
{
    order_by_shard(generations, 0, count, order);
}

uint32_t svc_random32(void)
{
    static _Thread_local uint64_t t_random;
    if (t_random == 0) {
        t_random = mcs_random_u64() | 1;
    }
    /* xorshift64* (Vigna, 2016) */
    t_random ^= t_random >> 12;
    t_random ^= t_random << 25;
    t_random ^= t_random >> 27;
    return (uint32_t)((t_random * UINT64_C(0x2545f4914f6cdd1d)) >> 32);
}

uint64_t svc_real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * MCS_NS_PER_SEC + (uint64_t)now.tv_nsec;
}
