/* See svc_index.h. */
#include "master/svc_index.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/wire/extent.h"

#define FIRST_CAP 16u
#define TAIL      48u /* slots after the last home slot; a run that is longer makes the table grow */

/* ---- life ---- */

static bool table_init(svc_shard_t *shard, uint32_t cap)
{
    svc_slot_t *slots = MCS_NEW_ARRAY(svc_slot_t, (size_t)cap + TAIL);
    if (slots == NULL) {
        return false;
    }
    shard->slots = slots;
    shard->cap = cap;
    shard->limit = cap + TAIL;
    return true;
}

mcs_status_t svc_index_init(svc_index_t *index, uint64_t epoch, uint64_t max_objects)
{
    memset(index, 0, sizeof(*index));
    mcs_status_t status = svc_slab_init(&index->slab);
    if (status != MCS_OK) {
        return status;
    }
    index->seed = mcs_random_u64();
    index->max_objects = max_objects;
    index->shards = mcs_aligned_alloc(_Alignof(svc_shard_t), SVC_SHARDS * sizeof(svc_shard_t));
    if (index->shards == NULL) {
        svc_slab_fini(&index->slab);
        return MCS_ERR_NO_MEMORY;
    }
    memset(index->shards, 0, SVC_SHARDS * sizeof(svc_shard_t));
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &index->shards[i];
        shard->index = i;
        mcs_list_init(&shard->open);
        mcs_list_init(&shard->strikes);
        mcs_list_init(&shard->copies);
        mcs_list_init(&shard->spares);
        mcs_list_init(&shard->leaving);
        mcs_mutex_init(&shard->lock, MCS_RANK_SHARD, "shard");
    }
    svc_index_set_epoch(index, epoch);
    return MCS_OK;
}

void svc_index_set_epoch(svc_index_t *index, uint64_t epoch)
{
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &index->shards[i];
        mcs_mutex_lock(&shard->lock);
        shard->next_generation = (epoch << MCS_GENERATION_EPOCH_SHIFT) + SVC_SHARDS + i;
        mcs_mutex_unlock(&shard->lock);
    }
}

void svc_index_fini(svc_index_t *index)
{
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        mcs_free(index->shards[i].slots);
        mcs_free(index->shards[i].pending);
        svc_ghosts_fini(&index->shards[i].ghosts);
        mcs_mutex_fini(&index->shards[i].lock);
    }
    mcs_free(index->shards);
    svc_slab_fini(&index->slab);
}

uint64_t svc_index_bytes(svc_index_t *index)
{
    uint64_t bytes = svc_slab_bytes(&index->slab) + SVC_SHARDS * sizeof(svc_shard_t);
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &index->shards[i];
        mcs_mutex_lock(&shard->lock);
        bytes += (uint64_t)shard->limit * sizeof(svc_slot_t) + 2 * (uint64_t)shard->ghosts.words * sizeof(uint64_t);
        mcs_mutex_unlock(&shard->lock);
    }
    return bytes;
}

uint64_t svc_index_hash(const svc_index_t *index, const char *key, uint32_t key_len)
{
    return mcs_hash64(index->seed, key, key_len);
}

uint64_t svc_shard_generation_locked(svc_shard_t *shard)
{
    uint64_t generation = shard->next_generation;
    shard->next_generation += SVC_SHARDS;
    return generation;
}

/* ---- records ---- */

static size_t fields_offset(uint32_t replica_room)
{
    return sizeof(svc_record_t) + replica_room * sizeof(svc_replica_t);
}

static size_t key_offset(const svc_record_t *record)
{
    return fields_offset(record->replica_room) + ((record->flags & SVC_REC_SOFT_FIELD) != 0 ? sizeof(uint64_t) : 0) +
           ((record->flags & SVC_REC_GROUP_FIELD) != 0 ? sizeof(struct svc_group *) : 0);
}

svc_ref_t svc_record_create(svc_index_t *index, svc_shard_t *shard, const char *key, uint32_t key_len,
                            uint32_t replica_room, uint16_t fields)
{
    svc_record_t head = {.key_len = (uint16_t)key_len, .flags = fields, .replica_room = (uint8_t)replica_room};
    size_t at = key_offset(&head);
    svc_ref_t ref = svc_slab_alloc(&index->slab, shard->index, at + key_len);
    if (ref == 0) {
        return 0;
    }
    svc_record_t *record = svc_record(index, ref);
    memset(record, 0, at);
    memcpy(record, &head, sizeof(head));
    memcpy((char *)record + at, key, key_len);
    return ref;
}

void svc_record_destroy(svc_index_t *index, svc_ref_t ref)
{
    if (ref != 0) {
        svc_slab_free(&index->slab, ref);
    }
}

const char *svc_record_key(const svc_record_t *record)
{
    return (const char *)record + key_offset(record);
}

uint64_t svc_record_soft(const svc_record_t *record)
{
    uint64_t value = 0;
    if ((record->flags & SVC_REC_SOFT_FIELD) != 0) {
        memcpy(&value, (const char *)record + fields_offset(record->replica_room), sizeof(value));
    }
    return value;
}

void svc_record_set_soft(svc_record_t *record, uint64_t value)
{
    MCS_ENSURE((record->flags & SVC_REC_SOFT_FIELD) != 0);
    memcpy((char *)record + fields_offset(record->replica_room), &value, sizeof(value));
}

static size_t group_offset(const svc_record_t *record)
{
    return key_offset(record) - sizeof(struct svc_group *);
}

struct svc_group *svc_record_group(const svc_record_t *record)
{
    struct svc_group *group = NULL;
    if ((record->flags & SVC_REC_GROUP_FIELD) != 0) {
        memcpy(&group, (const char *)record + group_offset(record), sizeof(group));
    }
    return group;
}

void svc_record_set_group(svc_record_t *record, struct svc_group *group)
{
    MCS_ENSURE((record->flags & SVC_REC_GROUP_FIELD) != 0);
    memcpy((char *)record + group_offset(record), &group, sizeof(group));
}

/* ---- table ---- */

static inline uint32_t home_of(uint32_t cap, uint32_t hash)
{
    return (uint32_t)(((uint64_t)hash * cap) >> 32);
}

static bool has_key(const svc_record_t *record, const char *key, uint32_t key_len)
{
    return record->key_len == key_len && memcmp(svc_record_key(record), key, key_len) == 0;
}

/* Without the lock the pair may be torn; a prefetch of a wrong address does nothing. */
static uintptr_t slot_address(const svc_shard_t *shard, uint64_t hash)
{
    const svc_slot_t *slots = __atomic_load_n(&shard->slots, __ATOMIC_RELAXED);
    uint32_t cap = __atomic_load_n(&shard->cap, __ATOMIC_RELAXED);
    return (uintptr_t)slots + sizeof(svc_slot_t) * home_of(cap, (uint32_t)hash);
}

void svc_shard_prefetch_slot(const svc_shard_t *shard, uint64_t hash)
{
    __builtin_prefetch((const void *)slot_address(shard, hash));
}

void svc_shard_prefetch_run(const svc_shard_t *shard, uint64_t hash)
{
    uintptr_t at = slot_address(shard, hash);
    __builtin_prefetch((const void *)at, 1);
    __builtin_prefetch((const void *)(at + 64), 1);
}

svc_ref_t svc_shard_fetch_locked(const svc_index_t *index, const svc_shard_t *shard, uint64_t hash, uint32_t key_len)
{
    uint32_t short_hash = (uint32_t)hash;
    uint32_t at = home_of(shard->cap, short_hash);
    while (at < shard->limit && shard->slots[at].ref != 0 && shard->slots[at].hash != short_hash) {
        at++;
    }
    svc_ref_t ref = at < shard->limit ? shard->slots[at].ref : 0;
    if (ref != 0) {
        const char *record = (const char *)svc_record(index, ref);
        const char *end = record + fields_offset(1) + key_len;
        for (const char *line = record; line < end; line += 64) {
            __builtin_prefetch(line, 1);
        }
        __builtin_prefetch(end - 1);
    }
    return ref;
}

void svc_shard_fetch_links_locked(const svc_index_t *index, const svc_shard_t *shard, svc_ref_t ref)
{
    if (ref == 0) {
        return;
    }
    const svc_record_t *record = svc_record(index, ref);
    const svc_ref_t others[] = {record->prev, record->next, shard->lists[SVC_LIST_LEASED].head};
    for (size_t i = 0; i < MCS_ARRAY_LEN(others); i++) {
        if (others[i] != 0) {
            __builtin_prefetch(svc_record(index, others[i]), 1);
        }
    }
}

void svc_record_prefetch(const svc_index_t *index, svc_ref_t ref)
{
    enum { USUAL = 128 }; /* bytes of a record with one replica and a key of some sixty */
    uintptr_t chunk = (uintptr_t)__atomic_load_n(&index->slab.chunks[ref >> SVC_SLAB_BITS], __ATOMIC_RELAXED);
    uintptr_t at = chunk + (uintptr_t)(ref & ((UINT32_C(1) << SVC_SLAB_BITS) - 1)) * SVC_SLAB_UNIT;
    for (uintptr_t line = at; line < at + USUAL; line += 64) {
        __builtin_prefetch((const void *)line, 1);
    }
}

void svc_record_fetch_removal_locked(const svc_index_t *index, const svc_record_t *record, svc_ref_t ref)
{
    svc_slab_prefetch(&index->slab, ref);
    if (record->prev != 0) {
        __builtin_prefetch(svc_record(index, record->prev), 1);
    }
    if (record->next != 0) {
        __builtin_prefetch(svc_record(index, record->next), 1);
    }
}

svc_ref_t svc_shard_find_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash, const char *key,
                                uint32_t key_len)
{
    uint32_t short_hash = (uint32_t)hash;
    for (uint32_t at = home_of(shard->cap, short_hash); at < shard->limit && shard->slots[at].ref != 0; at++) {
        if (shard->slots[at].hash == short_hash && has_key(svc_record(index, shard->slots[at].ref), key, key_len)) {
            return shard->slots[at].ref;
        }
    }
    return 0;
}

svc_ref_t svc_shard_find_generation_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash,
                                           uint64_t generation)
{
    uint32_t short_hash = (uint32_t)hash;
    for (uint32_t at = home_of(shard->cap, short_hash); at < shard->limit && shard->slots[at].ref != 0; at++) {
        if (shard->slots[at].hash == short_hash) {
            const svc_record_t *record = svc_record(index, shard->slots[at].ref);
            if (record->replica_count > 0 && record->replicas[0].generation == generation) {
                return shard->slots[at].ref;
            }
        }
    }
    return 0;
}

static bool has_leaving(const svc_record_t *record, uint64_t generation)
{
    for (uint32_t i = record->replica_count; i < svc_record_extents(record); i++) {
        if (record->replicas[i].generation == generation) {
            return true;
        }
    }
    return false;
}

svc_ref_t svc_shard_find_leaving_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash,
                                        uint64_t generation)
{
    uint32_t short_hash = (uint32_t)hash;
    for (uint32_t at = home_of(shard->cap, short_hash); at < shard->limit && shard->slots[at].ref != 0; at++) {
        if (shard->slots[at].hash == short_hash && has_leaving(svc_record(index, shard->slots[at].ref), generation)) {
            return shard->slots[at].ref;
        }
    }
    return 0;
}

/* Into the first free slot from its home on. */
static bool place_slot(svc_slot_t *slots, uint32_t cap, uint32_t limit, svc_slot_t entry)
{
    uint32_t at = home_of(cap, entry.hash);
    while (at < limit && slots[at].ref != 0) {
        at++;
    }
    if (at == limit) {
        return false;
    }
    slots[at] = entry;
    return true;
}

static bool resize_locked(svc_shard_t *shard, uint32_t cap)
{
    svc_shard_t next = {.slots = NULL};
    if (!table_init(&next, cap)) {
        return false;
    }
    for (uint32_t at = 0; at < shard->limit; at++) {
        if (shard->slots[at].ref != 0 && !place_slot(next.slots, next.cap, next.limit, shard->slots[at])) {
            mcs_free(next.slots);
            return false; /* an unlucky run; a larger table spreads it */
        }
    }
    mcs_free(shard->slots);
    __atomic_store_n(&shard->slots, next.slots, __ATOMIC_RELAXED);
    __atomic_store_n(&shard->cap, next.cap, __ATOMIC_RELAXED);
    shard->limit = next.limit;
    shard->version++;
    return true;
}

static bool grow_locked(svc_shard_t *shard)
{
    for (uint32_t cap = MCS_MAX(shard->cap + shard->cap / 4, FIRST_CAP); cap < UINT32_MAX / 4; cap += cap / 4) {
        if (resize_locked(shard, cap)) {
            return true;
        }
        if (cap > 4 * shard->cap + FIRST_CAP) {
            return false;
        }
    }
    return false;
}

mcs_status_t svc_shard_insert_locked(svc_index_t *index, svc_shard_t *shard, uint64_t hash, svc_ref_t ref)
{
    if (index->max_objects != 0 && __atomic_load_n(&index->objects, __ATOMIC_RELAXED) >= index->max_objects) {
        return MCS_ERR_LIMIT;
    }
    if ((uint64_t)shard->count * 5 >= (uint64_t)shard->cap * 4 && !grow_locked(shard)) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_slot_t entry = {(uint32_t)hash, ref};
    while (!place_slot(shard->slots, shard->cap, shard->limit, entry)) {
        if (!grow_locked(shard)) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    shard->count++;
    __atomic_fetch_add(&index->objects, 1, __ATOMIC_RELAXED);
    return MCS_OK;
}

static uint64_t hash_of(const svc_index_t *index, svc_ref_t ref)
{
    const svc_record_t *record = svc_record(index, ref);
    return svc_index_hash(index, svc_record_key(record), record->key_len);
}

static uint32_t slot_of(const svc_shard_t *shard, uint32_t hash, svc_ref_t ref)
{
    for (uint32_t at = home_of(shard->cap, hash); at < shard->limit; at++) {
        if (shard->slots[at].ref == ref) {
            return at;
        }
        MCS_ENSURE(shard->slots[at].ref != 0);
    }
    MCS_ENSURE(!"a record is in the table of its shard");
    return 0;
}

void svc_shard_remove_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref)
{
    svc_shard_remove_hash_locked(index, shard, hash_of(index, ref), ref);
}

void svc_shard_remove_hash_locked(svc_index_t *index, svc_shard_t *shard, uint64_t hash, svc_ref_t ref)
{
    svc_recency_set_locked(index, shard, ref, SVC_LIST_NONE);
    uint32_t hole = slot_of(shard, (uint32_t)hash, ref);
    /* Backward shift: pull down every later entry of the run that may lie in the hole. */
    for (uint32_t at = hole + 1; at < shard->limit && shard->slots[at].ref != 0; at++) {
        if (home_of(shard->cap, shard->slots[at].hash) <= hole) {
            shard->slots[hole] = shard->slots[at];
            hole = at;
        }
    }
    shard->slots[hole] = (svc_slot_t){0, 0};
    shard->count--;
    __atomic_fetch_sub(&index->objects, 1, __ATOMIC_RELAXED);
    if (shard->cap > 4 * FIRST_CAP && shard->count < shard->cap / 4) {
        (void)resize_locked(shard, shard->cap / 2); /* without memory it stays large */
    }
}

void svc_shard_replace_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_ref_t with)
{
    svc_recency_set_locked(index, shard, ref, SVC_LIST_NONE);
    shard->slots[slot_of(shard, (uint32_t)hash_of(index, ref), ref)].ref = with;
}

void svc_shard_renew_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_ref_t with)
{
    svc_record_t *old = svc_record(index, ref);
    svc_record_t *fresh = svc_record(index, with);
    svc_recency_t *list = &shard->lists[svc_record_list(old)];
    fresh->flags = (uint16_t)((fresh->flags & (uint16_t)~SVC_REC_LIST) | (old->flags & SVC_REC_LIST));
    fresh->prev = old->prev;
    fresh->next = old->next;
    if (svc_record_list(old) != SVC_LIST_NONE) {
        *(old->prev != 0 ? &svc_record(index, old->prev)->next : &list->head) = with;
        *(old->next != 0 ? &svc_record(index, old->next)->prev : &list->tail) = with;
    }
    old->flags = (uint16_t)(old->flags & ~SVC_REC_LIST);
    old->prev = old->next = 0;
    shard->slots[slot_of(shard, (uint32_t)hash_of(index, ref), ref)].ref = with;
}

svc_ref_t svc_shard_walk_locked(svc_shard_t *shard, uint32_t *at, uint32_t *version)
{
    if (*version != shard->version + 1) {
        *version = shard->version + 1;
        *at = UINT32_MAX;
    }
    uint32_t next = MCS_MIN(*at, shard->limit);
    while (next > 0) {
        next--;
        if (shard->slots[next].ref != 0) {
            *at = next;
            return shard->slots[next].ref;
        }
    }
    *at = 0;
    return 0;
}

/* ---- recency ---- */

static void unlink_locked(const svc_index_t *index, svc_shard_t *shard, svc_record_t *record)
{
    svc_recency_t *list = &shard->lists[svc_record_list(record)];
    if (record->prev != 0) {
        svc_record(index, record->prev)->next = record->next;
    } else {
        list->head = record->next;
    }
    if (record->next != 0) {
        svc_record(index, record->next)->prev = record->prev;
    } else {
        list->tail = record->prev;
    }
    record->prev = 0;
    record->next = 0;
    __atomic_store_n(&list->count, list->count - 1, __ATOMIC_RELAXED);
}

void svc_recency_set_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_list_t to)
{
    svc_record_t *record = svc_record(index, ref);
    svc_list_t from = svc_record_list(record);
    if (from == to && shard->lists[to].head == ref) {
        return;
    }
    if (from != SVC_LIST_NONE) {
        unlink_locked(index, shard, record);
    }
    record->flags = (uint16_t)((record->flags & (uint16_t)~SVC_REC_LIST) | (uint16_t)to);
    if (to == SVC_LIST_NONE) {
        return;
    }
    svc_recency_t *list = &shard->lists[to];
    record->next = list->head;
    if (list->head != 0) {
        svc_record(index, list->head)->prev = ref;
    } else {
        list->tail = ref;
    }
    list->head = ref;
    __atomic_store_n(&list->count, list->count + 1, __ATOMIC_RELAXED);
}

void svc_record_check_soft_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns)
{
    svc_record_t *record = svc_record(index, ref);
    if ((record->flags & SVC_REC_SOFT) == 0 || (record->flags & SVC_REC_COMMITTED) == 0 ||
        now_ns < svc_record_soft(record)) {
        return;
    }
    record->flags = (uint16_t)(record->flags & ~SVC_REC_SOFT);
    __atomic_fetch_sub(&shard->soft_pinned, 1, __ATOMIC_RELAXED);
    if (svc_record_list(record) == SVC_LIST_SOFT) {
        svc_recency_set_locked(index, shard, ref, SVC_LIST_PLAIN);
    }
}

bool svc_shard_drain_locked(svc_index_t *index, svc_shard_t *shard, uint64_t now_ns, uint32_t max)
{
    for (; shard->lists[SVC_LIST_LEASED].tail != 0; max--) {
        svc_ref_t ref = shard->lists[SVC_LIST_LEASED].tail;
        const svc_record_t *record = svc_record(index, ref);
        if (now_ns < record->lease_until_ns) {
            return false;
        }
        if (max == 0) {
            return true;
        }
        svc_record_check_soft_locked(index, shard, ref, now_ns);
        bool protects = __atomic_load_n(&index->protects, __ATOMIC_RELAXED) != 0;
        svc_list_t unpinned = protects ? SVC_LIST_PROTECTED : SVC_LIST_PLAIN;
        svc_recency_set_locked(index, shard, ref, (record->flags & SVC_REC_SOFT) != 0 ? SVC_LIST_SOFT : unpinned);
    }
    return false;
}

/* ---- outcomes ---- */

void svc_shard_remember_locked(svc_shard_t *shard, uint64_t put_id, uint32_t session, mcs_status_t status)
{
    shard->recent[shard->recent_at++ % SVC_OUTCOMES] = (svc_recent_t){put_id, session, (int32_t)status};
}

mcs_status_t svc_shard_recall_locked(const svc_shard_t *shard, uint64_t put_id, uint32_t session)
{
    for (uint32_t i = 0; i < SVC_OUTCOMES; i++) {
        if (shard->recent[i].put_id == put_id) {
            return shard->recent[i].session == session ? (mcs_status_t)shard->recent[i].status : MCS_ERR_ILLEGAL_CLIENT;
        }
    }
    return MCS_ERR_OBJECT_NOT_FOUND;
}
