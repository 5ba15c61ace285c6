/* Batches: keys hashed and put in order of their shards, so that each shard is locked once. On the request path; arena
 * memory only. */
#include <string.h>
#include <time.h>

#include "master/svc_internal.h"

/* How many keys ahead a shard, and then its table's slot, is fetched into the cache. */
#define SHARD_AHEAD 16
#define SLOT_AHEAD  8
/* Reading: how many keys later than its shard a key's slot, its record and the records linked to that are fetched, and
 * when it is answered. */
#define SLOT_AFTER   ((size_t)8)
#define RECORD_AFTER ((size_t)11)
#define LINKS_AFTER  ((size_t)14)
#define ANSWER_AFTER ((size_t)16)
#define STEPS        32u /* a power of two above ANSWER_AFTER + 1 */
#define PIPELINE_MIN 4u  /* for fewer keys it is not worth it */

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

mcs_status_t svc_batch_begin(svc_call_t *call, const Mcs__Wire__Sequence *sequence, const ProtobufCBinaryData *lens,
                             const ProtobufCBinaryData *bytes, svc_batch_t *batch, int32_t **statuses_out)
{
    mcs_status_t status = svc_batch_decode(call->service, call->arena, lens, bytes, batch);
    if (status != MCS_OK) {
        return status;
    }
    int32_t *statuses = mcs_arena_zalloc(call->arena, MCS_MAX(batch->count, (size_t)1) * sizeof(*statuses));
    if (statuses == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    status = svc_begin(call, sequence, batch->count * sizeof(*statuses) + 16);
    if (status == MCS_OK) {
        *statuses_out = statuses;
    }
    return status;
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

/* A key on its way through the pipeline. */
typedef struct step {
    svc_shard_t *shard;
    uint64_t hash;
    uint32_t i;
    svc_ref_t ref;
} step_t;

/* Locks the shard, unless the key before has, and fetches the record. */
static void open_step(const mcs_service_t *service, const svc_batch_t *batch, const step_t *before,
                      step_t *step) MCS_NO_TSA
{
    if (before == NULL || before->shard != step->shard) {
        mcs_mutex_lock_same_rank(&step->shard->lock);
    }
    step->ref = svc_shard_fetch_locked(&service->index, step->shard, step->hash, batch->keys[step->i].len);
}

/* A pipeline: while one key is answered, the shards, slots and records of those behind it and the records that these
 * are linked to in their recency lists are on their way from memory; each of them would cost as much as all the work on
 * a key. Records may be looked at only under their shard's lock, so the locks of a few shards are held together
 * (ANSWER_AFTER - RECORD_AFTER + 1). They are taken in the order of their addresses, which no two threads can do to
 * each other's harm, and by nobody but this function, whose callers take none before and leave records where they are.
 */
void svc_batch_read(mcs_service_t *service, const svc_batch_t *batch, svc_batch_fn fn, void *arg) MCS_NO_TSA
{
    step_t ring[STEPS];
    const size_t count = batch->count;
    if (count < PIPELINE_MIN) {
        svc_batch_run(service, batch, fn, arg);
        return;
    }
    /* Each turn takes one key in and moves others one stage on; before the first and behind the last there is none:
     * `turn` minus the stage's delay wraps around. */
    for (size_t turn = 0; turn < count + ANSWER_AFTER; turn++) {
        step_t *step = &ring[turn % STEPS];
        if (turn < count) {
            step->i = batch->order[turn];
            step->hash = batch->hashes[step->i];
            step->shard = svc_index_shard(&service->index, step->hash);
            svc_shard_prefetch(step->shard);
        }
        if (turn - SLOT_AFTER < count) {
            step = &ring[(turn - SLOT_AFTER) % STEPS];
            svc_shard_prefetch_slot(step->shard, step->hash);
        }
        if (turn - RECORD_AFTER < count) {
            const step_t *before = turn > RECORD_AFTER ? &ring[(turn - RECORD_AFTER - 1) % STEPS] : NULL;
            open_step(service, batch, before, &ring[(turn - RECORD_AFTER) % STEPS]);
        }
        if (turn - LINKS_AFTER < count) {
            step = &ring[(turn - LINKS_AFTER) % STEPS];
            svc_shard_fetch_links_locked(&service->index, step->shard, step->ref);
        }
        if (turn - ANSWER_AFTER < count) {
            step = &ring[(turn - ANSWER_AFTER) % STEPS];
            fn(arg, step->shard, step->i);
            if (turn - ANSWER_AFTER + 1 == count || ring[(turn - ANSWER_AFTER + 1) % STEPS].shard != step->shard) {
                mcs_mutex_unlock(&step->shard->lock);
            }
        }
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
