/* See svc_policy.h. */
#include "master/svc_policy.h"

#include <string.h>

#include "core/base/alloc.h"

/* Protected shares that compete. The last is where it begins: plain LRU. */
static const double g_shares[SVC_POLICY_SHARES] = {0.6, 0.3, 0.0};

#define SHADOW_MIN   512u                                   /* objects of the sample: so many, or twice as many */
#define SHADOW_MAX   1536u                                  /* before the sample is made smaller */
#define SHADOW_LOW   384u                                   /* or larger */
#define GHOSTS_EACH  2u                                     /* ghosts of a shadow for each object */
#define ENTRIES      (SHADOW_MAX * (1u + GHOSTS_EACH) + 1u) /* 0 is none */
#define BUCKETS      4096u
#define KEPT         0.8  /* of the score, from one period to the next */
#define MARGIN       1.02 /* that another share must be better by */
#define GHOST_BITS   10u  /* a ghost */
#define GHOST_PROBES 4u
#define GHOST_LINE   8u /* words of a cache line */
/* Of a hash, for the place in a line. */
#define GHOST_PROBE_BITS 9u
_Static_assert((UINT32_C(1) << GHOST_PROBE_BITS) == GHOST_LINE * 64, "any bit of a line");

/* ---- one shadow: segmented LRU with ghosts ---- */

enum { LIST_FREE, LIST_PROBATION, LIST_PROTECTED, LIST_GHOST, LIST_COUNT };

typedef struct entry {
    uint64_t hash;
    uint16_t prev;
    uint16_t next;
    uint16_t chain;
    uint8_t list;
} entry_t;
_Static_assert(ENTRIES <= UINT16_MAX, "indices are 16 bits");

typedef struct order {
    uint16_t head;
    uint16_t tail;
    uint16_t count;
} order_t;

struct svc_shadow {
    order_t lists[LIST_COUNT];
    uint16_t buckets[BUCKETS];
    entry_t entries[ENTRIES];
};

static void shadow_unlink(svc_shadow_t *shadow, uint16_t at)
{
    entry_t *entry = &shadow->entries[at];
    order_t *list = &shadow->lists[entry->list];
    *(entry->prev != 0 ? &shadow->entries[entry->prev].next : &list->head) = entry->next;
    *(entry->next != 0 ? &shadow->entries[entry->next].prev : &list->tail) = entry->prev;
    list->count--;
}

static void shadow_push(svc_shadow_t *shadow, uint16_t at, uint8_t to)
{
    entry_t *entry = &shadow->entries[at];
    order_t *list = &shadow->lists[to];
    entry->list = to;
    entry->prev = 0;
    entry->next = list->head;
    *(list->head != 0 ? &shadow->entries[list->head].prev : &list->tail) = at;
    list->head = at;
    list->count++;
}

static void shadow_move(svc_shadow_t *shadow, uint16_t at, uint8_t to)
{
    shadow_unlink(shadow, at);
    shadow_push(shadow, at, to);
}

static uint16_t *bucket_of(svc_shadow_t *shadow, uint64_t hash)
{
    return &shadow->buckets[(hash >> 32) % BUCKETS];
}

static uint16_t shadow_find(svc_shadow_t *shadow, uint64_t hash)
{
    uint16_t at = *bucket_of(shadow, hash);
    while (at != 0 && shadow->entries[at].hash != hash) {
        at = shadow->entries[at].chain;
    }
    return at;
}

static void shadow_forget(svc_shadow_t *shadow, uint16_t at)
{
    uint16_t *link = bucket_of(shadow, shadow->entries[at].hash);
    while (*link != at) {
        link = &shadow->entries[*link].chain;
    }
    *link = shadow->entries[at].chain;
    shadow_move(shadow, at, LIST_FREE);
}

static uint16_t shadow_new(svc_shadow_t *shadow, uint64_t hash)
{
    uint16_t at = shadow->lists[LIST_FREE].tail;
    uint16_t *bucket = bucket_of(shadow, hash);
    shadow->entries[at].hash = hash;
    shadow->entries[at].chain = *bucket;
    *bucket = at;
    shadow_move(shadow, at, LIST_PROBATION);
    return at;
}

static uint32_t shadow_objects(const svc_shadow_t *shadow)
{
    return (uint32_t)shadow->lists[LIST_PROBATION].count + shadow->lists[LIST_PROTECTED].count;
}

static void shadow_evict(svc_shadow_t *shadow, uint32_t capacity)
{
    while (shadow_objects(shadow) >= capacity) {
        const order_t *from = &shadow->lists[shadow->lists[LIST_PROBATION].count > 0 ? LIST_PROBATION : LIST_PROTECTED];
        shadow_move(shadow, from->tail, LIST_GHOST);
    }
    while (shadow->lists[LIST_GHOST].count > capacity * GHOSTS_EACH) {
        shadow_forget(shadow, shadow->lists[LIST_GHOST].tail);
    }
}

static void shadow_protect(svc_shadow_t *shadow, uint16_t at, uint32_t capacity, double share)
{
    shadow_move(shadow, at, LIST_PROTECTED);
    while (shadow->lists[LIST_PROTECTED].count > (uint32_t)(share * capacity)) {
        shadow_move(shadow, shadow->lists[LIST_PROTECTED].tail, LIST_PROBATION);
    }
}

/* True: a hit. */
static bool shadow_access(svc_shadow_t *shadow, uint64_t hash, uint32_t capacity, double share)
{
    uint16_t at = shadow_find(shadow, hash);
    bool hit = at != 0 && shadow->entries[at].list != LIST_GHOST;
    if (!hit) {
        shadow_evict(shadow, capacity);
        /* The ghost itself may have been forgotten for that. */
        at = shadow_find(shadow, hash);
    }
    if (at != 0) {
        shadow_protect(shadow, at, capacity, share);
    } else {
        shadow_new(shadow, hash);
    }
    return hit;
}

static void shadow_thin_out(svc_shadow_t *shadow, uint64_t sample_mask)
{
    for (uint16_t at = 1; at < ENTRIES; at++) {
        if (shadow->entries[at].list != LIST_FREE && (shadow->entries[at].hash & sample_mask) != 0) {
            shadow_forget(shadow, at);
        }
    }
}

static svc_shadow_t *shadow_create(void)
{
    svc_shadow_t *shadow = MCS_NEW(svc_shadow_t);
    for (uint16_t at = 1; shadow != NULL && at < ENTRIES; at++) {
        shadow_push(shadow, at, LIST_FREE);
    }
    return shadow;
}

/* ---- the policy ---- */

void svc_policy_init(svc_policy_t *policy, bool adaptive)
{
    memset(policy, 0, sizeof(*policy));
    policy->adaptive = adaptive;
    policy->chosen = SVC_POLICY_SHARES - 1;
    mcs_mutex_init(&policy->lock, MCS_RANK_EVICT, "policy");
}

void svc_policy_fini(svc_policy_t *policy)
{
    for (uint32_t i = 0; i < SVC_POLICY_SHARES; i++) {
        mcs_free(policy->shadows[i]);
    }
    mcs_mutex_fini(&policy->lock);
}

double svc_policy_share(const svc_policy_t *policy)
{
    return g_shares[__atomic_load_n(&policy->chosen, __ATOMIC_RELAXED)];
}

static bool make_shadows_locked(svc_policy_t *policy)
{
    for (uint32_t i = 0; i < SVC_POLICY_SHARES; i++) {
        if (policy->shadows[i] == NULL) {
            policy->shadows[i] = shadow_create();
        }
        if (policy->shadows[i] == NULL) {
            return false;
        }
    }
    return true;
}

void svc_policy_resize(svc_policy_t *policy, uint64_t objects)
{
    if (!policy->adaptive || objects == 0) {
        return;
    }
    mcs_mutex_lock(&policy->lock);
    uint64_t mask = policy->sample_mask;
    uint64_t sampled = objects / (mask + 1);
    if (sampled > SHADOW_MAX || (sampled < SHADOW_LOW && mask > 0)) {
        mask = 0;
        while (objects / (mask + 1) >= 2 * SHADOW_MIN) {
            mask = mask * 2 + 1;
        }
    }
    if (make_shadows_locked(policy)) {
        for (uint32_t i = 0; mask > policy->sample_mask && i < SVC_POLICY_SHARES; i++) {
            shadow_thin_out(policy->shadows[i], mask);
        }
        policy->capacity = (uint32_t)MCS_MAX(objects / (mask + 1), UINT64_C(1));
        __atomic_store_n(&policy->sample_mask, mask, __ATOMIC_RELAXED);
        __atomic_store_n(&policy->active, 1, __ATOMIC_RELAXED);
    }
    mcs_mutex_unlock(&policy->lock);
}

static void choose_locked(svc_policy_t *policy)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < SVC_POLICY_SHARES; i++) {
        policy->score[i] = policy->score[i] * KEPT + policy->hits[i];
        policy->hits[i] = 0;
        best = policy->score[i] > policy->score[best] ? i : best;
    }
    policy->accesses = 0;
    if (policy->score[best] > policy->score[policy->chosen] * MARGIN) {
        __atomic_store_n(&policy->chosen, best, __ATOMIC_RELAXED);
    }
}

void svc_policy_sampled(svc_policy_t *policy, uint64_t hash)
{
    mcs_mutex_lock(&policy->lock);
    for (uint32_t i = 0; i < SVC_POLICY_SHARES; i++) {
        policy->hits[i] += shadow_access(policy->shadows[i], hash, policy->capacity, g_shares[i]) ? 1 : 0;
    }
    if (++policy->accesses >= policy->capacity) {
        choose_locked(policy);
    }
    mcs_mutex_unlock(&policy->lock);
}

/* ---- ghosts ---- */

static uint64_t *filter_of(const svc_ghosts_t *ghosts, uint32_t which)
{
    return ghosts->bits + (size_t)which * ghosts->words;
}

/* A key's bits lie in one cache line: a ghost costs one miss and not one for each bit. */
static uint64_t *line_of(const svc_ghosts_t *ghosts, uint32_t which, uint64_t hash)
{
    /* The shard's number is in the upper bits of a hash: they are the same for all of its keys. */
    return filter_of(ghosts, which) + ((uint32_t)hash & (ghosts->words - 1) & ~(GHOST_LINE - 1));
}

/* The i-th bit in its line. */
static uint32_t probe(const svc_ghosts_t *ghosts, uint64_t hash, uint32_t i)
{
    uint64_t mixed = hash * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(mixed >> (64 - (i + 1) * GHOST_PROBE_BITS)) & (MCS_MIN(ghosts->words, GHOST_LINE) * 64 - 1);
}

static bool filter_has(const svc_ghosts_t *ghosts, uint32_t which, uint64_t hash)
{
    const uint64_t *line = line_of(ghosts, which, hash);
    for (uint32_t i = 0; i < GHOST_PROBES; i++) {
        uint32_t bit = probe(ghosts, hash, i);
        if ((line[bit / 64] >> (bit % 64) & 1) == 0) {
            return false;
        }
    }
    return true;
}

/* The older half goes; the filters grow with the shard when it is time to begin a new one. */
static bool begin_filter(svc_ghosts_t *ghosts, uint32_t objects)
{
    uint32_t limit = MCS_MAX(objects + objects / 2, 8u);
    uint32_t words = 2;
    while ((uint64_t)words * 64 < (uint64_t)limit * GHOST_BITS) {
        words *= 2;
    }
    if (words != ghosts->words) {
        uint64_t *bits = mcs_aligned_alloc(GHOST_LINE * sizeof(uint64_t), (size_t)words * 2 * sizeof(uint64_t));
        if (bits == NULL) {
            return false;
        }
        memset(bits, 0, (size_t)words * 2 * sizeof(uint64_t));
        mcs_free(ghosts->bits);
        ghosts->bits = bits;
        ghosts->words = words;
    }
    ghosts->limit = limit;
    ghosts->added = 0;
    ghosts->current ^= 1;
    memset(filter_of(ghosts, ghosts->current), 0, ghosts->words * sizeof(uint64_t));
    return true;
}

void svc_ghosts_add(svc_ghosts_t *ghosts, uint64_t hash, uint32_t objects)
{
    if (ghosts->added >= ghosts->limit && !begin_filter(ghosts, objects)) {
        return;
    }
    uint64_t *line = line_of(ghosts, ghosts->current, hash);
    for (uint32_t i = 0; i < GHOST_PROBES; i++) {
        uint32_t bit = probe(ghosts, hash, i);
        line[bit / 64] |= UINT64_C(1) << (bit % 64);
    }
    ghosts->added++;
}

void svc_ghosts_prefetch(const svc_ghosts_t *ghosts, uint64_t hash)
{
    if (ghosts->bits != NULL) {
        __builtin_prefetch(line_of(ghosts, ghosts->current, hash), 1);
    }
}

bool svc_ghosts_have(const svc_ghosts_t *ghosts, uint64_t hash)
{
    return ghosts->bits != NULL && (filter_has(ghosts, 0, hash) || filter_has(ghosts, 1, hash));
}

void svc_ghosts_fini(svc_ghosts_t *ghosts)
{
    mcs_free(ghosts->bits);
    memset(ghosts, 0, sizeof(*ghosts));
}
