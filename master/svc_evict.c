/* Eviction (reference 3.6, design section 6).
 *
 * A round starts when the segments are fuller than the watermark, or, with a ratio above 0, an allocation has failed.
 * Like the original's, it is counted in objects:
 *
 *   target = max(ratio, used - watermark + ratio)      plain objects, oldest lease end first
 *   floor  = max(target / 2, used - watermark)         below it soft-pinned ones go, too, if the flag allows
 *
 * of those that could be evicted; and it goes on until the bytes of a waiting put are on their way back. "Used" leaves
 * out what is on its way back already. Leased, hard-pinned and pending objects are never touched; a group goes together
 * or not at all. Which plain objects are protected for a while is the policy's (svc_policy.h).
 *
 * Order: each shard's list has its oldest at the tail. The victims come from the oldest of 32 tails (all of them, if so
 * few shards have any), as many as are older than the next shard's tail: close to the true order at a cost that does
 * not depend on the number of objects.
 *
 * Nobody is to notice: a turn of housekeeping evicts for 4 ms at most, and within it for PIECE_NS at a time. Between
 * the pieces the thread sleeps, or it would use up its share of a processor that the event loops want (a scheduler lets
 * a busy thread run for a millisecond or more before one that has just woken). Only when a put waits for space, or what
 * is left between the watermark and the end is half used up, it does not sleep. */
#include <math.h>
#include <time.h>

#include "master/svc_internal.h"

#define SAMPLE        32u
#define FROM_ONE_TAIL 16u
#define SLICE_NS      (4 * MCS_NS_PER_MS) /* with pauses; without, half of it */
#define PIECE_NS      (50 * MCS_NS_PER_US)
#define PAUSE_NS      (50 * MCS_NS_PER_US)
#define DRAIN_MAX     256u /* records under one hold of a shard's lock */
#define DRAIN_SOME    32u
#define FRUITLESS     4096u /* entries that could not go, before it is asked whether there are any others */
#define AGAIN_NS      (10 * MCS_NS_PER_MS)
#define PATIENCE_NS   (20 * MCS_NS_PER_MS) /* a put waits for 50, unless told otherwise */

void svc_evict_demand(mcs_service_t *service, uint64_t bytes)
{
    svc_evict_t *evict = &service->evict;
    svc_spares_drop(service);
    if (service->conf->eviction_ratio == 0) {
        return; /* reference 3.6: then only the watermark evicts */
    }
    uint64_t before = __atomic_load_n(&evict->demand_bytes, __ATOMIC_RELAXED);
    while (bytes > before && !__atomic_compare_exchange_n(&evict->demand_bytes, &before, bytes, true, __ATOMIC_RELAXED,
                                                          __ATOMIC_RELAXED)) {
    }
    if (before == 0) {
        svc_wake(service);
    }
}

/* ---- one victim ---- */

static bool frees_something(const mcs_service_t *service, const svc_record_t *record)
{
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
        if (segment != NULL && (svc_segment_flags(segment) & SVC_SEG_HIDDEN) == 0) {
            return true;
        }
    }
    return false;
}

/* False: no memory, and the round ends. */
static bool drop_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    svc_evict_t *evict = &service->evict;
    uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
    svc_shard_prefetch_slot(shard, hash);
    if (service->policy.adaptive) {
        svc_ghosts_prefetch(&shard->ghosts, hash);
    }
    svc_pending_t *block = svc_record_endings(service, record);
    if (block == NULL) {
        evict->no_memory = true;
        return false;
    }
    for (uint32_t i = 0; i < block->ending_count; i++) {
        evict->done_bytes += block->endings[i].len;
    }
    mcs_metric_add(service->metrics, evicted_bytes, record->payload_len);
    mcs_metric_add(service->metrics, evicted_bytes_mem, record->payload_len);
    mcs_metric_add(service->metrics, evicted_keys, 1);
    mcs_metric_add(service->metrics, evicted_keys_mem, 1);
    evict->done_keys++;
    if (service->policy.adaptive) {
        svc_ghosts_add(&shard->ghosts, hash, shard->count);
    }
    svc_record_drop_locked(service, shard, ref, block, now_ns);
    return true;
}

/* ---- groups ---- */

static bool member_may_go_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns,
                                 bool soft_too)
{
    svc_record_check_soft_locked(&service->index, shard, ref, now_ns);
    const svc_record_t *record = svc_record(&service->index, ref);
    unsigned never = SVC_REC_PENDING | SVC_REC_HARD | (soft_too ? 0u : (unsigned)SVC_REC_SOFT);
    return (record->flags & never) == 0 && now_ns >= svc_record_lease(record);
}

static bool each_member(mcs_service_t *service, const mcs_buf_t *members, uint64_t now_ns, bool soft_too, bool drop)
{
    bool all = true;
    for (size_t at = 0; at + sizeof(svc_member_t) <= members->len && (all || drop); at += sizeof(svc_member_t)) {
        const svc_member_t *member = (const svc_member_t *)(const void *)(members->bytes + at);
        svc_shard_t *shard = svc_index_shard(&service->index, member->hash);
        mcs_mutex_lock(&shard->lock);
        svc_ref_t ref = svc_shard_find_generation_locked(&service->index, shard, member->hash, member->generation);
        if (ref != 0 && (svc_record(&service->index, ref)->flags & SVC_REC_COMMITTED) != 0) {
            /* Looked at again before the drop: a reader may have come in between, and keeps what he leased. */
            bool may_go = member_may_go_locked(service, shard, ref, now_ns, soft_too);
            if (may_go && drop) {
                may_go = drop_locked(service, shard, ref, now_ns);
            }
            all = all && may_go;
        }
        mcs_mutex_unlock(&shard->lock);
    }
    return all;
}

/* Without locks; takes the reference. */
static void evict_group(mcs_service_t *service, svc_group_t *group, uint64_t now_ns, bool soft_too)
{
    mcs_buf_t members;
    mcs_buf_init(&members, MCS_FRAME_MAX);
    if (svc_group_members(group, &members) && each_member(service, &members, now_ns, soft_too, false)) {
        each_member(service, &members, now_ns, soft_too, true);
    }
    mcs_buf_fini(&members);
    svc_group_put(service, group);
}

/* ---- tails ---- */

/* The age of a tail is the end of its lease: smaller = older. Looking at one costs a lock and two cache misses, so what
 * was seen last is remembered. Lists grow at the head: a tail is at least as young as it was, and only the one that
 * seems to be the oldest has to be looked at again. */
#define AGE_UNKNOWN UINT64_C(0)
#define AGE_NONE    UINT64_MAX /* the list was empty */

typedef struct tail {
    svc_shard_t *shard;
    uint64_t age_ns;
} tail_t;

/* Once a turn: lists that were empty may have something, and the other way round. */
static void refresh_tails(mcs_service_t *service, svc_list_t list)
{
    uint64_t *ages = service->evict.tail_age_ns[list];
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        if (ages[s] == AGE_NONE || ages[s] == AGE_UNKNOWN) {
            uint32_t count = __atomic_load_n(&service->index.shards[s].lists[list].count, __ATOMIC_RELAXED);
            ages[s] = count > 0 ? AGE_UNKNOWN : AGE_NONE;
        }
    }
}

static uint64_t tail_age_locked(const mcs_service_t *service, const svc_shard_t *shard, svc_list_t list)
{
    svc_ref_t ref = shard->lists[list].tail;
    return ref != 0 ? MCS_MAX(svc_record(&service->index, ref)->lease_until_ns, AGE_UNKNOWN + 1) : AGE_NONE;
}

static uint64_t look_at_tail(mcs_service_t *service, uint32_t s, svc_list_t list, uint64_t now_ns)
{
    svc_shard_t *shard = &service->index.shards[s];
    mcs_mutex_lock(&shard->lock);
    svc_shard_drain_locked(&service->index, shard, now_ns, DRAIN_SOME);
    uint64_t age_ns = tail_age_locked(service, shard, list);
    mcs_mutex_unlock(&shard->lock);
    return age_ns;
}

static uint32_t sample_tails(const uint64_t *ages, uint32_t *sample)
{
    uint32_t start = svc_random32();
    uint32_t seen = 0;
    for (uint32_t n = 0; n < SVC_SHARDS && seen < SAMPLE; n++) {
        uint32_t s = (start + n) % SVC_SHARDS;
        if (ages[s] != AGE_NONE) {
            sample[seen++] = s;
        }
    }
    return seen;
}

/* The shards with the oldest and the second oldest tail of a sample. False: the list is empty everywhere. */
static bool find_oldest(mcs_service_t *service, svc_list_t list, uint64_t now_ns, tail_t *oldest, tail_t *next)
{
    uint64_t *ages = service->evict.tail_age_ns[list];
    uint32_t sample[SAMPLE];
    for (uint32_t seen; (seen = sample_tails(ages, sample)) > 0;) {
        for (uint32_t looks = 0; looks <= seen; looks++) {
            *oldest = *next = (tail_t){NULL, AGE_NONE};
            for (uint32_t n = 0; n < seen; n++) {
                tail_t tail = {&service->index.shards[sample[n]], ages[sample[n]]};
                if (tail.age_ns < oldest->age_ns) {
                    *next = *oldest;
                    *oldest = tail;
                } else if (tail.age_ns < next->age_ns) {
                    *next = tail;
                }
            }
            if (oldest->shard == NULL) {
                break; /* all of them were emptied by others: another sample */
            }
            uint32_t s = oldest->shard->index;
            ages[s] = look_at_tail(service, s, list, now_ns);
            if (ages[s] <= MCS_MIN(next->age_ns, AGE_NONE - 1)) {
                oldest->age_ns = ages[s];
                return true;
            }
        }
    }
    return false;
}

/* Evicts from one shard's tail what is older than `limit_ns`. Returns how many entries it dealt with; a group is left
 * in *group_out, referenced. */
static uint32_t evict_tail(mcs_service_t *service, svc_shard_t *shard, svc_list_t list, uint64_t limit_ns, uint64_t max,
                           uint64_t now_ns, svc_group_t **group_out)
{
    uint32_t dealt = 0;
    *group_out = NULL;
    mcs_mutex_lock(&shard->lock);
    while (dealt < FROM_ONE_TAIL && dealt < max && *group_out == NULL) {
        svc_ref_t ref = shard->lists[list].tail;
        if (ref == 0) {
            break;
        }
        svc_record_t *record = svc_record(&service->index, ref);
        if (dealt > 0 && record->lease_until_ns > limit_ns) {
            break;
        }
        if (record->prev != 0) { /* the next victim */
            __builtin_prefetch(svc_record(&service->index, record->prev), 1);
        }
        dealt++;
        svc_group_t *group = svc_record_group(record);
        if ((record->flags & SVC_REC_PENDING) != 0 || !frees_something(service, record)) {
            /* Not now: as if it had been used just now, or its shard's tail would be the oldest again at once. */
            record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns);
            svc_recency_set_locked(&service->index, shard, ref, list);
        } else if (group != NULL && now_ns < svc_group_lease(group)) {
            record->lease_until_ns = svc_group_lease(group); /* leased through another member */
            svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_LEASED);
        } else if (group != NULL) {
            *group_out = svc_group_again(service, group);
            record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns);
            svc_recency_set_locked(&service->index, shard, ref, list); /* if it stays */
        } else if (!drop_locked(service, shard, ref, now_ns)) {
            break;
        }
    }
    service->evict.tail_age_ns[list][shard->index] = tail_age_locked(service, shard, list);
    mcs_mutex_unlock(&shard->lock);
    return dealt;
}

/* ---- the protected ---- */

static void demote_tail(mcs_service_t *service, svc_shard_t *shard, uint64_t limit_ns, uint64_t max, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < FROM_ONE_TAIL && n < max; n++) {
        svc_ref_t ref = shard->lists[SVC_LIST_PROTECTED].tail;
        svc_record_t *record = svc_record(&service->index, ref);
        if (ref == 0 || (n > 0 && record->lease_until_ns > limit_ns)) {
            break;
        }
        record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns); /* its place in the order is the newest */
        svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_PLAIN);
        if (evict->tail_age_ns[SVC_LIST_PLAIN][shard->index] == AGE_NONE) {
            evict->tail_age_ns[SVC_LIST_PLAIN][shard->index] = AGE_UNKNOWN;
        }
        evict->protected_now -= MCS_MIN(evict->protected_now, UINT64_C(1));
        evict->plain_now++;
    }
    evict->tail_age_ns[SVC_LIST_PROTECTED][shard->index] = tail_age_locked(service, shard, SVC_LIST_PROTECTED);
    mcs_mutex_unlock(&shard->lock);
}

/* Those beyond their share are on probation again. */
static void demote(mcs_service_t *service, uint64_t now_ns)
{
    const svc_evict_t *evict = &service->evict;
    for (;;) {
        double share = svc_policy_share(&service->policy);
        uint64_t allowed = (uint64_t)(share * (double)(evict->protected_now + evict->plain_now));
        tail_t oldest;
        tail_t next;
        if (evict->protected_now <= allowed || !find_oldest(service, SVC_LIST_PROTECTED, now_ns, &oldest, &next)) {
            return;
        }
        demote_tail(service, oldest.shard, next.age_ns, evict->protected_now - allowed, now_ns);
    }
}

/* ---- pieces ---- */

static bool is_pressed(const svc_evict_t *evict)
{
    return evict->hurry || evict->done_bytes < evict->need_bytes || evict->waited_for != 0 ||
           __atomic_load_n(&evict->demand_bytes, __ATOMIC_RELAXED) != 0;
}

void svc_evict_pause(const svc_evict_t *evict)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    if (!is_pressed(evict)) {
        nanosleep(&pause, NULL);
    }
}

/* Between two pieces of work, without locks. False: the turn is over. */
static bool go_on(svc_evict_t *evict, uint64_t slice_end_ns)
{
    uint64_t now_ns = svc_real_ns();
    if (now_ns < evict->piece_end_ns) {
        return true;
    }
    svc_evict_pause(evict);
    now_ns = svc_real_ns();
    evict->piece_end_ns = now_ns + PIECE_NS;
    return now_ns < (is_pressed(evict) ? slice_end_ns - SLICE_NS / 2 : slice_end_ns);
}

/* Evicts from the list until the round's keys reach `keys` and its bytes what is needed, or the slice ends. True: the
 * list has nothing more to give. */
static bool evict_list(mcs_service_t *service, svc_list_t list, uint64_t keys, uint64_t now_ns, uint64_t slice_end_ns)
{
    svc_evict_t *evict = &service->evict;
    uint64_t fruitless = 0;
    while (!evict->no_memory && (evict->done_keys < keys || evict->done_bytes < evict->need_bytes)) {
        tail_t oldest;
        tail_t next;
        if (!go_on(evict, slice_end_ns)) {
            return false;
        }
        if (list == SVC_LIST_PLAIN) {
            demote(service, now_ns);
        }
        if ((fruitless > FRUITLESS && fruitless > svc_evict_count(service, list)) ||
            __atomic_load_n(&service->releases, __ATOMIC_RELAXED) >= SVC_RELEASES_MAX ||
            !find_oldest(service, list, now_ns, &oldest, &next)) {
            return true;
        }
        uint64_t before = evict->done_keys;
        uint64_t want = evict->done_keys < keys ? keys - evict->done_keys : 1;
        svc_group_t *group;
        uint32_t dealt = evict_tail(service, oldest.shard, list, next.age_ns, want, now_ns, &group);
        if (group != NULL) {
            evict_group(service, group, now_ns, list == SVC_LIST_SOFT);
        }
        fruitless = evict->done_keys != before ? 0 : fruitless + MCS_MAX(dealt, 1u);
    }
    return true;
}

/* ---- rounds ---- */

uint64_t svc_evict_count(const mcs_service_t *service, svc_list_t list)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        count += __atomic_load_n(&service->index.shards[i].lists[list].count, __ATOMIC_RELAXED);
    }
    return count;
}

/* Before a round: leases that have run out, so that its share is one of all that could go; when a put waits, only some
 * of each shard. False: more in the next turn. */
static bool drain_all(mcs_service_t *service, uint64_t now_ns, uint64_t slice_end_ns)
{
    svc_evict_t *evict = &service->evict;
    while (evict->drain_shard < SVC_SHARDS) {
        svc_shard_t *shard = &service->index.shards[evict->drain_shard];
        if (!go_on(evict, slice_end_ns)) {
            return false;
        }
        bool more = false;
        if (__atomic_load_n(&shard->lists[SVC_LIST_LEASED].count, __ATOMIC_RELAXED) > 0) {
            mcs_mutex_lock(&shard->lock);
            uint32_t max = evict->need_bytes > 0 ? DRAIN_SOME : DRAIN_MAX;
            more = svc_shard_drain_locked(&service->index, shard, now_ns, max) && evict->need_bytes == 0;
            mcs_mutex_unlock(&shard->lock);
        }
        evict->drain_shard += more ? 0 : 1;
    }
    return true;
}

static void start_round(mcs_service_t *service, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    double ratio = service->conf->eviction_ratio;
    double over = evict->used_ratio - service->conf->eviction_high_watermark_ratio;
    double target = MCS_MAX(ratio, over + ratio);
    double floor_ratio = MCS_MAX(target / 2, over);
    uint64_t unpinned = svc_evict_count(service, SVC_LIST_PLAIN) + svc_evict_count(service, SVC_LIST_PROTECTED);
    double evictable = (double)(unpinned + svc_evict_count(service, SVC_LIST_SOFT));
    svc_policy_resize(&service->policy, unpinned + svc_evict_count(service, SVC_LIST_LEASED));
    evict->wanted = false;
    evict->in_round = true;
    evict->no_memory = false;
    evict->target = (uint64_t)ceil(target * evictable);
    evict->floor = (uint64_t)ceil(floor_ratio * evictable);
    evict->done_keys = 0;
    evict->not_before_ns = now_ns + AGAIN_NS;
    evict->trust_until_ns = now_ns + PATIENCE_NS;
    mcs_metric_add(service->metrics, evictions_attempted, 1);
    mcs_metric_add(service->metrics, evictions_attempted_mem, 1);
}

/* Nothing is evicted for those for whom enough is on its way back already, unless it does not come: a reader may hold
 * it, or its owner may have stopped. */
static bool is_coming(svc_evict_t *evict, uint64_t wanted_bytes, uint64_t returning, uint64_t now_ns)
{
    if (wanted_bytes > returning) {
        evict->trust_until_ns = 0;
        return false;
    }
    if (evict->trust_until_ns == 0) {
        evict->trust_until_ns = now_ns + PATIENCE_NS;
    }
    /* Who failed and does not wait comes again. */
    __atomic_store_n(&evict->demand_bytes, 0, __ATOMIC_RELAXED);
    return now_ns < evict->trust_until_ns;
}

/* How full it is, and whether somebody waits: now, and not when it once failed, or a put that has been served would
 * evict once more. */
static void look(mcs_service_t *service, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    uint64_t used;
    uint64_t returning;
    uint64_t capacity;
    svc_segments_usage(service, &used, &returning, &capacity);
    uint64_t held = used - MCS_MIN(used, returning);
    double watermark = service->conf->eviction_high_watermark_ratio;
    evict->used_ratio = capacity > 0 ? (double)held / (double)capacity : 0;
    evict->hurry = evict->used_ratio > watermark + (1 - watermark) / 2;
    uint64_t wanted_bytes;
    svc_parked_wants(service, &evict->waited_for, &wanted_bytes);
    if (service->conf->eviction_ratio == 0) {
        evict->waited_for = wanted_bytes = 0;
    }
    wanted_bytes += __atomic_load_n(&evict->demand_bytes, __ATOMIC_RELAXED);
    bool demanded = wanted_bytes > 0 && !is_coming(evict, wanted_bytes, returning, now_ns);
    bool due = now_ns >= evict->not_before_ns;
    if (evict->in_round || (!demanded && !due)) {
        return;
    }
    uint64_t demand = 0;
    if (demanded && due) {
        demand = MCS_MAX(__atomic_exchange_n(&evict->demand_bytes, 0, __ATOMIC_ACQ_REL), evict->waited_for);
    }
    bool over = evict->used_ratio > watermark;
    if (!evict->wanted && (over || demand > 0)) {
        evict->wanted = true;
        evict->drain_shard = 0;
        evict->done_bytes = 0;
        evict->need_bytes = 0;
    }
    evict->need_bytes = MCS_MAX(evict->need_bytes, demand);
}

bool svc_evict_tick(mcs_service_t *service, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    uint64_t slice_end_ns = svc_real_ns() + SLICE_NS;
    evict->piece_end_ns = slice_end_ns - SLICE_NS + PIECE_NS;
    look(service, now_ns);
    if (evict->wanted) {
        if (!drain_all(service, now_ns, slice_end_ns)) {
            return true;
        }
        if (evict->need_bytes == 0 && evict->used_ratio <= service->conf->eviction_high_watermark_ratio) {
            evict->wanted = false; /* space came back meanwhile */
            return false;
        }
        start_round(service, now_ns);
    }
    if (!evict->in_round) {
        return false;
    }
    __atomic_store_n(&service->index.protects, svc_policy_share(&service->policy) > 0 ? 1 : 0, __ATOMIC_RELAXED);
    for (unsigned list = SVC_LIST_PLAIN; list < SVC_LIST_COUNT; list++) {
        refresh_tails(service, (svc_list_t)list);
    }
    if (slice_end_ns >= evict->count_again_ns) {
        evict->protected_now = svc_evict_count(service, SVC_LIST_PROTECTED);
        evict->plain_now = svc_evict_count(service, SVC_LIST_PLAIN);
        evict->count_again_ns = slice_end_ns + AGAIN_NS;
    }
    bool through = evict_list(service, SVC_LIST_PLAIN, evict->target, now_ns, slice_end_ns);
    if (through) {
        through = evict_list(service, SVC_LIST_PROTECTED, evict->target, now_ns, slice_end_ns);
    }
    if (through && service->conf->allow_evict_soft_pinned_objects) {
        through = evict_list(service, SVC_LIST_SOFT, evict->floor, now_ns, slice_end_ns);
    }
    if (!through) {
        return true;
    }
    evict->in_round = false;
    evict->need_bytes = 0; /* or the thread would not pause, though it got all there was */
    if (evict->done_keys > 0) {
        mcs_metric_add(service->metrics, evictions_successful, 1);
        mcs_metric_add(service->metrics, evictions_successful_mem, 1);
        mcs_debug(SVC_AREA, "evicted %llu objects, %llu bytes", (unsigned long long)evict->done_keys,
                  (unsigned long long)evict->done_bytes);
    }
    return false;
}
