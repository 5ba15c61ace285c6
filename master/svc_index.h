/* The object index: 1024 shards, each with its lock, an open-addressing table, and recency lists.
 *
 * Memory (at most 160 bytes a key all in at 56-character keys, one replica):
 *
 *   table slot   8 bytes / load (0.64 .. 0.8)    {32 bits of hash, reference}          ~11
 *   record      36 + 16 a replica + key          in 16-byte steps from the slab         112 + 0.1 %
 *   allocator    0                               48 a hole, none an extent               ~0
 *
 * Table: linear probing in the order of hash * capacity >> 32, which lets it grow by a quarter instead of doubling; no
 * wrap-around (a short tail after the last home slot), so that a walk from the high end to the low end survives
 * removals (they shift entries towards the low end). The slot has the hash, so growing and removing never touch
 * records; the full key is compared on every hit. The hash is XXH3 with a random seed: keys cannot be chosen to
 * collide.
 *
 * Recency (rule: eviction touches only what it evicts):
 *
 *   SVC_LIST_LEASED     objects with a live lease, in order of its end    head ... tail = ends first
 *   SVC_LIST_PLAIN      evictable, newest at the head
 *   SVC_LIST_PROTECTED  has been read, or was put again soon after its eviction: evicted when no plain one is left, or
 *                       plain again when there are more than their share (svc_policy.h)
 *   SVC_LIST_SOFT       evictable in the second pass only
 *   SVC_LIST_NONE       hard-pinned or not committed: in no list
 *
 * svc_shard_drain moves what has run out from LEASED to where it belongs, so the tail of PLAIN is always the next
 * victim.
 *
 * Not thread-safe by itself: everything but the atomics needs the shard's lock (MCS_RANK_SHARD). */
#ifndef MCS_MASTER_SVC_INDEX_H
#define MCS_MASTER_SVC_INDEX_H

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/wire/columns.h"
#include "master/svc_policy.h"
#include "master/svc_slab.h"

#define SVC_SHARD_BITS 10u
#define SVC_SHARDS     (1u << SVC_SHARD_BITS)

typedef enum svc_list {
    SVC_LIST_NONE,
    SVC_LIST_LEASED,
    SVC_LIST_PLAIN,
    SVC_LIST_PROTECTED,
    SVC_LIST_SOFT,
    SVC_LIST_COUNT
} svc_list_t;

enum {
    SVC_REC_LIST = 7,        /* the list it is in */
    SVC_REC_COMMITTED = 8,   /* readable, as far as its replicas' segments are */
    SVC_REC_PENDING = 16,    /* a svc_pending_t names it: open put, upsert, or strike */
    SVC_REC_SOFT = 32,       /* soft pin active */
    SVC_REC_SOFT_FIELD = 64, /* has the field */
    SVC_REC_HARD = 128,
    SVC_REC_GROUP_FIELD = 256,
    SVC_REC_LEASED = 512 /* a lease was granted at least once */
};

typedef struct __attribute__((packed, aligned(4))) svc_replica {
    uint64_t generation;
    uint64_t place; /* segment handle << 40 | offset / 64 */
} svc_replica_t;
_Static_assert(sizeof(svc_replica_t) == 16, "memory per key");

/* An extent's length follows from payload_len, so that the allocator of its segment need not know it.
 *
 * Followed by replicas, soft pin (u64 ns; a duration until the commit), group pointer, key.
 *
 * Behind the replicas that can be read stand those that are leaving: a move took the object away from there, and the
 * extent waits for the leases on it to run out (rule 3). Nobody is sent there any more, but somebody may have it
 * cached; so whatever ends the value ends these extents with the others (rule 2). */
typedef struct __attribute__((packed, aligned(4))) svc_record {
    uint32_t prev; /* recency list: towards the head */
    uint32_t next;
    uint64_t lease_until_ns; /* of its own lease; of an object never read: when it was committed */
    uint64_t payload_len;
    uint32_t putter; /* serial of the session that put it */
    uint16_t key_len;
    uint16_t flags;
    uint8_t replica_count;
    uint8_t data_type;
    uint8_t replica_room;
    uint8_t leaving_count;
    svc_replica_t replicas[];
} svc_record_t;
_Static_assert(sizeof(svc_record_t) == 36, "memory per key");

#define SVC_LEAVING_MAX 16u
#define SVC_EXTENTS_MAX (MCS_REPLICAS_MAX + SVC_LEAVING_MAX)
/* Replicas and those that are leaving, which stand in this order in `replicas`. */
static inline uint32_t svc_record_extents(const svc_record_t *record)
{
    return (uint32_t)record->replica_count + record->leaving_count;
}

#define SVC_PLACE_OFFSET_BITS 40u
#define SVC_HANDLE_MAX        ((UINT32_C(1) << 24) - 1)
static inline uint64_t svc_place(uint32_t handle, uint64_t offset)
{
    return (uint64_t)handle << SVC_PLACE_OFFSET_BITS | offset / 64;
}
static inline uint32_t svc_place_handle(uint64_t place)
{
    return (uint32_t)(place >> SVC_PLACE_OFFSET_BITS);
}
static inline uint64_t svc_place_offset(uint64_t place)
{
    return (place & ((UINT64_C(1) << SVC_PLACE_OFFSET_BITS) - 1)) * 64;
}

struct svc_pending;
struct svc_group;

typedef struct svc_slot {
    uint32_t hash;
    svc_ref_t ref; /* 0 = empty */
} svc_slot_t;

typedef struct svc_recency {
    svc_ref_t head;
    svc_ref_t tail;
    uint32_t count; /* read without the lock, too */
} svc_recency_t;

#define SVC_OUTCOMES 64
typedef struct svc_recent {
    uint64_t put_id;
    uint32_t session; /* serial */
    int32_t status;
} svc_recent_t;

/* What a lookup touches comes first: two cache lines. */
typedef struct svc_shard {
    _Alignas(64) mcs_mutex_t lock;
    svc_slot_t *slots;
    uint32_t cap;   /* home slots */
    uint32_t limit; /* slots in all */
    uint32_t count;
    uint32_t version; /* bumped when the table is replaced: walks start again */
    svc_recency_t lists[SVC_LIST_COUNT];
    uint32_t index;
    uint64_t next_generation;
    /* Open puts and strikes, by id and by record. */
    struct svc_pending **pending; /* 2 * (mask + 1) chains */
    uint32_t pending_mask;
    uint32_t pending_count;
    mcs_list_t open;    /* open puts, oldest first */
    mcs_list_t strikes; /* waiting for owners (rule 2) */
    mcs_list_t copies;  /* reservations of tasks */
    mcs_list_t spares;  /* reservations without a key, oldest first */
    mcs_list_t leaving; /* extents that wait for leases after a move */
    /* Outcomes of the last puts: a put_end repeated under a new sequence learns what became of it (rule 1). */
    svc_recent_t recent[SVC_OUTCOMES];
    uint32_t recent_at;
    svc_ghosts_t ghosts; /* keys evicted lately */
    /* atomics, read without the lock */
    uint64_t committed;
    uint64_t soft_pinned;
    uint64_t open_puts;
    uint64_t spare_count;
    uint64_t spare_bytes;
    uint64_t strike_count;
    uint64_t leaving_count;
} svc_shard_t;

typedef struct svc_index {
    svc_slab_t slab;
    uint64_t seed;
    uint64_t max_objects; /* 0 = no limit */
    uint32_t protects;    /* atomic: what has been read is protected; 0: LRU */
    uint64_t objects;     /* atomic: records in the table */
    svc_shard_t *shards;
} svc_index_t;

mcs_status_t svc_index_init(svc_index_t *index, uint64_t epoch, uint64_t max_objects) MCS_MUST_CHECK;
/* Generations are of this epoch from here on. Higher than the one before. */
void svc_index_set_epoch(svc_index_t *index, uint64_t epoch);
void svc_index_fini(svc_index_t *index);
/* Of tables and records. */
uint64_t svc_index_bytes(svc_index_t *index);

uint64_t svc_index_hash(const svc_index_t *index, const char *key, uint32_t key_len);
static inline svc_shard_t *svc_index_shard(const svc_index_t *index, uint64_t hash)
{
    return &index->shards[hash >> (64 - SVC_SHARD_BITS)];
}
/* The shard that a generation was made in. */
static inline svc_shard_t *svc_index_shard_of(const svc_index_t *index, uint64_t generation)
{
    return &index->shards[generation & (SVC_SHARDS - 1)];
}
static inline svc_record_t *svc_record(const svc_index_t *index, svc_ref_t ref)
{
    return (svc_record_t *)svc_slab_ptr(&index->slab, ref);
}

/* Never used before in any epoch: epoch << 30, plus a count in steps of SVC_SHARDS, plus the shard. A master that makes
 * less than 2^30 generations a tick on average cannot reach those of a later epoch, since an epoch is at least its
 * start in ticks of the wall clock. */
uint64_t svc_shard_generation_locked(svc_shard_t *shard);

/* A record that is in no table yet, zeroed up to its replicas; the key is copied. 0 when memory is short. */
svc_ref_t svc_record_create(svc_index_t *index, svc_shard_t *shard, const char *key, uint32_t key_len,
                            uint32_t replica_room, uint16_t fields) MCS_MUST_CHECK;
void svc_record_destroy(svc_index_t *index, svc_ref_t ref);
const char *svc_record_key(const svc_record_t *record);
uint64_t svc_record_soft(const svc_record_t *record); /* 0 without the field */
void svc_record_set_soft(svc_record_t *record, uint64_t value);
struct svc_group *svc_record_group(const svc_record_t *record); /* NULL without */
void svc_record_set_group(svc_record_t *record, struct svc_group *group);

/* The record of a key, 0 = none. */
svc_ref_t svc_shard_find_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash, const char *key,
                                uint32_t key_len);
/* The record of that hash whose first replica has this generation. */
svc_ref_t svc_shard_find_generation_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash,
                                           uint64_t generation);
/* The record of that hash which a replica with this generation is leaving. */
svc_ref_t svc_shard_find_leaving_locked(const svc_index_t *index, svc_shard_t *shard, uint64_t hash,
                                        uint64_t generation);
/* The key is not in the table. MCS_ERR_NO_MEMORY, MCS_ERR_LIMIT (max_objects). */
mcs_status_t svc_shard_insert_locked(svc_index_t *index, svc_shard_t *shard, uint64_t hash, svc_ref_t ref)
    MCS_MUST_CHECK;
/* Takes the record out of its list and the table; it lives on. */
void svc_shard_remove_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref);
/* The same, for who has the hash of its key. */
void svc_shard_remove_hash_locked(svc_index_t *index, svc_shard_t *shard, uint64_t hash, svc_ref_t ref);
/* Puts `with` in the slot of `ref`, whose key is the same; `ref` leaves its list and lives on. Cannot fail. */
void svc_shard_replace_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_ref_t with);
/* The same, and in the place of `ref` in its list: a record that was only made anew. */
void svc_shard_renew_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_ref_t with);
/* The shard's own lines; without its lock. */
static inline void svc_shard_prefetch(const svc_shard_t *shard)
{
    __builtin_prefetch(shard, 1);
    __builtin_prefetch((const char *)shard + 64, 1);
}
/* And those that a removal changes. */
static inline void svc_shard_prefetch_counts(const svc_shard_t *shard)
{
    __builtin_prefetch(&shard->ghosts, 1);
}
/* Where its table has what has this hash; without its lock. */
void svc_shard_prefetch_slot(const svc_shard_t *shard, uint64_t hash);
/* And what lies behind it, which a removal moves down: eight slots in the mean. */
void svc_shard_prefetch_run(const svc_shard_t *shard, uint64_t hash);
/* Fetches the record that most likely has the key with this hash and length into the cache and returns it, 0 = none. */
svc_ref_t svc_shard_fetch_locked(const svc_index_t *index, const svc_shard_t *shard, uint64_t hash, uint32_t key_len);
/* A record of usual size, which may be gone meanwhile; without a lock. */
void svc_record_prefetch(const svc_index_t *index, svc_ref_t ref);
/* What changes when the record goes, but for its table's slot. With its shard's lock. */
void svc_record_fetch_removal_locked(const svc_index_t *index, const svc_record_t *record, svc_ref_t ref);
/* And what changes when that record (0: nothing) is moved to the head of a list. */
void svc_shard_fetch_links_locked(const svc_index_t *index, const svc_shard_t *shard, svc_ref_t ref);

/* Walks down from slot *at (start with UINT32_MAX): the next record and its slot in *at, 0 at the end. *version (start
 * with 0) notices a replaced table and starts again, so that nothing that stays is missed; something may be seen twice.
 */
svc_ref_t svc_shard_walk_locked(svc_shard_t *shard, uint32_t *at, uint32_t *version);

/* Moves the record to the head of the list. */
void svc_recency_set_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, svc_list_t list);
static inline svc_list_t svc_record_list(const svc_record_t *record)
{
    return (svc_list_t)(record->flags & SVC_REC_LIST);
}
/* Moves objects whose lease has run out from LEASED to PLAIN or SOFT; at most `max`. True: there may be more. */
bool svc_shard_drain_locked(svc_index_t *index, svc_shard_t *shard, uint64_t now_ns, uint32_t max);
/* Ends a soft pin whose time is over. */
void svc_record_check_soft_locked(svc_index_t *index, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns);

void svc_shard_remember_locked(svc_shard_t *shard, uint64_t put_id, uint32_t session, mcs_status_t status);
/* MCS_ERR_OBJECT_NOT_FOUND: not among the last ones. MCS_ERR_ILLEGAL_CLIENT: another session's. */
mcs_status_t svc_shard_recall_locked(const svc_shard_t *shard, uint64_t put_id, uint32_t session);

#endif
