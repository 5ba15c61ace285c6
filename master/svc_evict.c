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
 * Order: each shard's list has its oldest at the tail, and the victims are the oldest of all tails (svc_tails.h), at a
 * cost that does not depend on the number of objects.
 *
 * An object that nobody has used for long is in no cache, and neither is what changes when it goes: its shard, its
 * table's slot, its neighbour in the list, its ghost. To wait for each of these would take as long as all the rest, so
 * the victims come in windows of some tails: what belongs to all of them is on its way from memory before the first one
 * goes.
 *
 * Nobody is to notice: a turn of housekeeping evicts for 4 ms at most, and within it for PIECE_NS at a time. Between
 * the pieces the thread sleeps, or it would use up its share of a processor that the event loops want (a scheduler lets
 * a busy thread run for a millisecond or more before one that has just woken). Only when a put waits for space, or what
 * is left between the watermark and the end is half used up, it does not sleep. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "master/svc_internal.h"

#define WINDOW        16u /* tails */
#define DEALT_MAX     32u /* entries of a window, or those that cannot go would keep it open */
#define FROM_ONE_TAIL 16u
#define SLICE_NS      (4 * MCS_NS_PER_MS) /* with pauses; without, half of it */
#define PIECE_NS      (50 * MCS_NS_PER_US)
#define PAUSE_NS      (50 * MCS_NS_PER_US)
#define DRAIN_MAX     256u /* records under one hold of a shard's lock */
#define DRAIN_SOME    32u
#define FRUITLESS     4096u /* entries that could not go, before it is asked whether there are any others */
#define AGAIN_NS      (10 * MCS_NS_PER_MS)
#define IDLE_NS       (10 * MCS_NS_PER_SEC) /* without a round, until the memory for the next one is given up */
#define PATIENCE_NS   (20 * MCS_NS_PER_MS)  /* a put waits for 50, unless told otherwise */

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

/* A block for the endings of the record's extents; NULL: no memory. */
static svc_pending_t *take_block(mcs_service_t *service, const svc_record_t *record)
{
    svc_evict_t *evict = &service->evict;
    if (svc_record_extents(record) != 1) {
        return svc_record_endings(service, record);
    }
    if (evict->fresh_count == 0) {
        evict->fresh_count = svc_blocks_take(service, evict->fresh, SVC_EVICT_BLOCKS);
    }
    if (evict->fresh_count == 0) {
        return NULL;
    }
    svc_pending_t *block = evict->fresh[--evict->fresh_count];
    svc_pending_init(block, SVC_ENDINGS, 1);
    block->kept = true;
    svc_record_set_endings(service, record, block);
    return block;
}

/* The extents of what has gone begin their way back. */
static void begin_endings(mcs_service_t *service, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    if (evict->gone_count == 0) {
        return;
    }
    mcs_metric_add(service->metrics, evicted_bytes, evict->gone_bytes);
    mcs_metric_add(service->metrics, evicted_bytes_mem, evict->gone_bytes);
    mcs_metric_add(service->metrics, evicted_keys, evict->gone_count);
    mcs_metric_add(service->metrics, evicted_keys_mem, evict->gone_count);
    svc_endings_begin(service, evict->gone, evict->gone_count, now_ns);
    evict->gone_count = 0;
    evict->gone_bytes = 0;
}

/* False: no memory, and the round ends. */
static bool drop_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    svc_evict_t *evict = &service->evict;
    uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
    svc_pending_t *block = take_block(service, record);
    if (block == NULL) {
        evict->no_memory = true;
        return false;
    }
    for (uint32_t i = 0; i < block->ending_count; i++) {
        evict->done_bytes += block->endings[i].len;
    }
    evict->gone_bytes += record->payload_len;
    evict->done_keys++;
    if (service->policy.adaptive) {
        svc_ghosts_add(&shard->ghosts, hash, shard->count);
    }
    svc_record_take_locked(service, shard, ref, hash, block, now_ns);
    evict->gone[evict->gone_count++] = block;
    if (evict->gone_count == SVC_EVICT_BLOCKS) {
        begin_endings(service, now_ns);
    }
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

/* One list of one round. */
static uint64_t pass_of(const svc_evict_t *evict, svc_list_t list)
{
    return evict->round * SVC_LIST_COUNT + list;
}

/* Without locks; takes the reference. One that has to stay is asked once in a pass, and not for each of its members. */
static void evict_group(mcs_service_t *service, svc_group_t *group, uint64_t now_ns, svc_list_t list)
{
    bool soft_too = list == SVC_LIST_SOFT;
    mcs_buf_t members;
    mcs_buf_init(&members, MCS_FRAME_MAX);
    if (svc_group_members(group, &members) && each_member(service, &members, now_ns, soft_too, false)) {
        each_member(service, &members, now_ns, soft_too, true);
        begin_endings(service, now_ns);
    } else {
        svc_group_keep(group, pass_of(&service->evict, list));
    }
    mcs_buf_fini(&members);
    svc_group_put(service, group);
}

/* ---- tails ---- */

typedef struct tail {
    svc_shard_t *shard;
    uint64_t age_ns;
    uint64_t hash; /* of its key */
} tail_t;

/* The oldest tails, the oldest of them last, and the age of the oldest that is not among them. */
typedef struct window {
    tail_t tails[WINDOW];
    uint32_t count;
    uint64_t limit_ns;
} window_t;

/* Once a turn: lists that were empty may have something, and the other way round. */
static void refresh_tails(mcs_service_t *service, svc_list_t list)
{
    svc_tails_t *tails = &service->evict.tails[list];
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        uint64_t age_ns = svc_tails_age(tails, s);
        if (age_ns == SVC_TAIL_NONE || age_ns == SVC_TAIL_UNKNOWN) {
            uint32_t count = __atomic_load_n(&service->index.shards[s].lists[list].count, __ATOMIC_RELAXED);
            svc_tails_set(tails, s, count > 0 ? SVC_TAIL_UNKNOWN : SVC_TAIL_NONE);
        }
    }
}

/* Leases that have run out, of one shard. When there will be more is remembered, so that most looks at a shard need not
 * look at its leases: a bound, since a lease may be taken over by a new value or end with its object; whoever is missed
 * by that is found by housekeeping's walk (tidy_shards). True: there are more now. */
static bool drain_locked(mcs_service_t *service, svc_shard_t *shard, uint64_t now_ns, uint32_t max)
{
    uint64_t *until_ns = &service->evict.leased_until_ns[shard->index];
    if (now_ns < *until_ns) {
        return false;
    }
    bool more = svc_shard_drain_locked(&service->index, shard, now_ns, max);
    svc_ref_t ref = shard->lists[SVC_LIST_LEASED].tail;
    *until_ns = now_ns + service->lease_ns;
    if (ref != 0) {
        *until_ns = MCS_MIN(*until_ns, svc_record(&service->index, ref)->lease_until_ns);
    }
    return more;
}

/* The tail that the shard's list has now; its neighbours are fetched. */
static void see_tail_locked(mcs_service_t *service, svc_list_t list, tail_t *tail)
{
    svc_ref_t ref = tail->shard->lists[list].tail;
    service->evict.tails[list].seen[tail->shard->index] = ref;
    tail->age_ns = SVC_TAIL_NONE;
    if (ref != 0) {
        const svc_record_t *record = svc_record(&service->index, ref);
        tail->age_ns = MCS_MAX(record->lease_until_ns, SVC_TAIL_UNKNOWN + 1);
        tail->hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
        svc_record_fetch_removal_locked(&service->index, record, ref);
    }
}

static void look_at_tail(mcs_service_t *service, svc_list_t list, uint64_t now_ns, tail_t *tail)
{
    mcs_mutex_lock(&tail->shard->lock);
    drain_locked(service, tail->shard, now_ns, DRAIN_SOME);
    see_tail_locked(service, list, tail);
    mcs_mutex_unlock(&tail->shard->lock);
}

/* What its hash leads to. Ghosts are housekeeping's, and are read here without the lock. */
static void fetch_places(const mcs_service_t *service, const tail_t *tail)
{
    svc_shard_prefetch_run(tail->shard, tail->hash);
    if (service->policy.adaptive) {
        svc_ghosts_prefetch(&tail->shard->ghosts, tail->hash);
    }
}

/* Into the window, when it belongs there, or back. */
static void place_tail(svc_tails_t *tails, window_t *window, const tail_t *tail)
{
    if (tail->age_ns == SVC_TAIL_NONE || tail->age_ns > window->limit_ns || window->count == WINDOW) {
        svc_tails_set(tails, tail->shard->index, tail->age_ns);
        return;
    }
    uint32_t at = window->count++;
    for (; at > 0 && window->tails[at - 1].age_ns < tail->age_ns; at--) {
        window->tails[at] = window->tails[at - 1];
    }
    window->tails[at] = *tail;
}

/* A window of at most `most` tails; it may turn out that all of them have become younger than others. False: the list
 * is empty everywhere. */
static bool open_window(mcs_service_t *service, svc_list_t list, uint32_t most, uint64_t now_ns, window_t *window)
{
    svc_tails_t *tails = &service->evict.tails[list];
    uint32_t taken[WINDOW];
    uint32_t count = 0;
    for (uint32_t s; count < most && (s = svc_tails_take(tails)) < SVC_SHARDS;) {
        svc_shard_prefetch(&service->index.shards[s]);
        svc_shard_prefetch_counts(&service->index.shards[s]);
        svc_record_prefetch(&service->index, tails->seen[s]);
        taken[count++] = s;
    }
    window->count = 0;
    window->limit_ns = svc_tails_oldest(tails);
    for (uint32_t i = 0; i < count; i++) {
        tail_t tail = {.shard = &service->index.shards[taken[i]]};
        look_at_tail(service, list, now_ns, &tail);
        place_tail(tails, window, &tail);
    }
    /* At once: each of these waits for the page tables, which can be walked for several at a time, but not past a lock.
     */
    for (uint32_t i = 0; i < window->count; i++) {
        fetch_places(service, &window->tails[i]);
    }
    return count > 0;
}

static void close_window(svc_tails_t *tails, window_t *window)
{
    while (window->count > 0) {
        const tail_t *tail = &window->tails[--window->count];
        svc_tails_set(tails, tail->shard->index, tail->age_ns);
    }
}

/* Takes the oldest out. Up to *limit_ns its shard has the oldest. */
static tail_t take_oldest(window_t *window, uint64_t *limit_ns)
{
    tail_t tail = window->tails[--window->count];
    *limit_ns = window->count > 0 ? window->tails[window->count - 1].age_ns : window->limit_ns;
    return tail;
}

/* ---- victims ---- */

/* The round's keys up to `keys`, and its bytes. */
static bool wants_more(const svc_evict_t *evict, uint64_t keys)
{
    return !evict->no_memory && (evict->done_keys < keys || evict->done_bytes < evict->need_bytes);
}

/* Evicts from one shard's tail what is no younger than `limit_ns`, and sees its tail again: nothing, when another one
 * has become its tail since it was seen. Returns how many entries it dealt with; a group is left in *group_out,
 * referenced.
 */
static uint32_t evict_tail(mcs_service_t *service, tail_t *tail, svc_list_t list, uint64_t limit_ns, uint64_t keys,
                           uint64_t now_ns, svc_group_t **group_out)
{
    svc_shard_t *shard = tail->shard;
    uint32_t dealt = 0;
    bool passed_over = false;
    *group_out = NULL;
    mcs_mutex_lock(&shard->lock);
    while (dealt < FROM_ONE_TAIL && wants_more(&service->evict, keys) && *group_out == NULL) {
        svc_ref_t ref = shard->lists[list].tail;
        svc_record_t *record = svc_record(&service->index, ref);
        if (ref == 0 || record->lease_until_ns > limit_ns) {
            break;
        }
        dealt++;
        svc_group_t *group = svc_record_group(record);
        if ((record->flags & SVC_REC_PENDING) != 0 || !frees_something(service, record) ||
            (group != NULL && svc_group_was_kept(group, pass_of(&service->evict, list)))) {
            /* Not now: as if it had been used just now, or its shard's tail would be the oldest again at once. */
            record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns);
            svc_recency_set_locked(&service->index, shard, ref, list);
            passed_over = true;
        } else if (group != NULL && now_ns < svc_group_lease(group)) {
            record->lease_until_ns = svc_group_lease(group); /* leased through another member */
            svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_LEASED);
        } else if (group != NULL) {
            *group_out = svc_group_again(service, group);
            record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns);
            svc_recency_set_locked(&service->index, shard, ref, list); /* if it stays */
            passed_over = true;
        } else if (!drop_locked(service, shard, ref, now_ns)) {
            break;
        }
    }
    see_tail_locked(service, list, tail);
    mcs_mutex_unlock(&shard->lock);
    tail->age_ns += passed_over ? 1 : 0; /* after all that are as young, or nobody else would get a turn */
    return dealt;
}

/* Returns how many entries it dealt with, or looked at. */
static uint32_t evict_window(mcs_service_t *service, window_t *window, svc_list_t list, uint64_t keys, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    uint32_t dealt = 0;
    while (window->count > 0 && dealt < DEALT_MAX && wants_more(evict, keys)) {
        uint64_t limit_ns;
        svc_group_t *group;
        tail_t tail = take_oldest(window, &limit_ns);
        uint32_t entries = evict_tail(service, &tail, list, limit_ns, keys, now_ns, &group);
        dealt += MCS_MAX(entries, 1u);
        place_tail(&evict->tails[list], window, &tail);
        if (group != NULL) { /* may be large, and have changed the other tails */
            evict_group(service, group, now_ns, list);
            break;
        }
    }
    close_window(&evict->tails[list], window);
    begin_endings(service, now_ns);
    return dealt;
}

/* ---- pieces ---- */

static bool is_pressed(const svc_evict_t *evict)
{
    return evict->hurry || evict->done_bytes < evict->need_bytes || evict->waited_for != 0 ||
           __atomic_load_n(&evict->demand_bytes, __ATOMIC_RELAXED) != 0;
}

bool svc_evict_pause(const svc_evict_t *evict)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    if (is_pressed(evict)) {
        return false;
    }
    nanosleep(&pause, NULL);
    return true;
}

/* Between two pieces of work, without locks. False: the turn is over. */
static bool go_on(svc_evict_t *evict, uint64_t slice_end_ns)
{
    uint64_t now_ns = svc_real_ns();
    if (now_ns < evict->piece_end_ns) {
        return true;
    }
    (void)svc_evict_pause(evict);
    now_ns = svc_real_ns();
    evict->piece_end_ns = now_ns + PIECE_NS;
    return now_ns < (is_pressed(evict) ? slice_end_ns - SLICE_NS / 2 : slice_end_ns);
}

/* ---- the protected ---- */

static void demote_tail(mcs_service_t *service, tail_t *tail, uint64_t limit_ns, uint64_t max, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    svc_shard_t *shard = tail->shard;
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < FROM_ONE_TAIL && n < max; n++) {
        svc_ref_t ref = shard->lists[SVC_LIST_PROTECTED].tail;
        svc_record_t *record = svc_record(&service->index, ref);
        if (ref == 0 || record->lease_until_ns > limit_ns) {
            break;
        }
        record->lease_until_ns = MCS_MAX(record->lease_until_ns, now_ns); /* its place in the order is the newest */
        svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_PLAIN);
        if (svc_tails_age(&evict->tails[SVC_LIST_PLAIN], shard->index) == SVC_TAIL_NONE) {
            svc_tails_set(&evict->tails[SVC_LIST_PLAIN], shard->index, SVC_TAIL_UNKNOWN);
        }
        evict->protected_now -= MCS_MIN(evict->protected_now, UINT64_C(1));
        evict->plain_now++;
    }
    see_tail_locked(service, SVC_LIST_PROTECTED, tail);
    mcs_mutex_unlock(&shard->lock);
    svc_tails_set(&evict->tails[SVC_LIST_PROTECTED], shard->index, tail->age_ns);
}

/* Those beyond their share are on probation again. False: the turn is over. */
static bool demote(mcs_service_t *service, uint64_t now_ns, uint64_t slice_end_ns)
{
    svc_evict_t *evict = &service->evict;
    for (;;) {
        double share = svc_policy_share(&service->policy);
        uint64_t allowed = (uint64_t)(share * (double)(evict->protected_now + evict->plain_now));
        window_t window;
        if (evict->protected_now <= allowed || !open_window(service, SVC_LIST_PROTECTED, WINDOW, now_ns, &window)) {
            return true;
        }
        while (window.count > 0 && evict->protected_now > allowed) {
            uint64_t limit_ns;
            tail_t tail = take_oldest(&window, &limit_ns);
            demote_tail(service, &tail, limit_ns, evict->protected_now - allowed, now_ns);
        }
        close_window(&evict->tails[SVC_LIST_PROTECTED], &window);
        if (!go_on(evict, slice_end_ns)) {
            return false;
        }
    }
}

/* ---- a list ---- */

/* How many tails are worth a look for what is left of the round. */
static uint32_t window_size(const svc_evict_t *evict, uint64_t keys)
{
    uint64_t left = keys - MCS_MIN(keys, evict->done_keys);
    return (uint32_t)MCS_MIN(MCS_MAX(left, UINT64_C(4)), (uint64_t)WINDOW); /* or for bytes: who knows */
}

/* Evicts from the list until the round's keys reach `keys` and its bytes what is needed, or the slice ends. True: the
 * list has nothing more to give. */
static bool evict_list(mcs_service_t *service, svc_list_t list, uint64_t keys, uint64_t now_ns, uint64_t slice_end_ns)
{
    svc_evict_t *evict = &service->evict;
    uint64_t *fruitless = &evict->fruitless[list]; /* of the round: a turn may be too short for all of them */
    while (wants_more(evict, keys)) {
        window_t window;
        if (!go_on(evict, slice_end_ns) || (list == SVC_LIST_PLAIN && !demote(service, now_ns, slice_end_ns))) {
            return false;
        }
        if ((*fruitless > FRUITLESS && *fruitless > svc_evict_count(service, list)) ||
            __atomic_load_n(&service->releases, __ATOMIC_RELAXED) >= SVC_RELEASES_MAX ||
            !open_window(service, list, window_size(evict, keys), now_ns, &window)) {
            return true;
        }
        uint64_t before = evict->done_keys;
        uint32_t dealt = evict_window(service, &window, list, keys, now_ns);
        *fruitless = evict->done_keys != before ? 0 : *fruitless + MCS_MAX(dealt, 1u); /* a window may be empty */
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
        if (now_ns >= evict->leased_until_ns[evict->drain_shard] &&
            __atomic_load_n(&shard->lists[SVC_LIST_LEASED].count, __ATOMIC_RELAXED) > 0) {
            mcs_mutex_lock(&shard->lock);
            uint32_t max = evict->need_bytes > 0 ? DRAIN_SOME : DRAIN_MAX;
            more = drain_locked(service, shard, now_ns, max) && evict->need_bytes == 0;
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
    evict->round++;
    evict->no_memory = false;
    evict->target = (uint64_t)ceil(target * evictable);
    evict->floor = (uint64_t)ceil(floor_ratio * evictable);
    evict->done_keys = 0;
    memset(evict->fruitless, 0, sizeof(evict->fruitless));
    evict->not_before_ns = now_ns + AGAIN_NS;
    evict->trust_until_ns = now_ns + PATIENCE_NS;
    mcs_metric_add(service->metrics, evictions_attempted, 1);
    mcs_metric_add(service->metrics, evictions_attempted_mem, 1);
}

/* Nothing is evicted for those for whom enough is on its way back already, unless it does not come: a reader may hold
 * it, or its owner may have stopped. So patience begins when it is enough, and is not there when it is not. */
static void keep_patience(svc_evict_t *evict, bool enough, uint64_t now_ns)
{
    if (!enough) {
        evict->trust_until_ns = 0;
        return;
    }
    if (evict->trust_until_ns == 0) {
        evict->trust_until_ns = now_ns + PATIENCE_NS;
    }
    if (now_ns < evict->trust_until_ns) { /* who failed and does not wait comes again */
        __atomic_store_n(&evict->demand_bytes, 0, __ATOMIC_RELAXED);
    }
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
    if (returning == 0) {
        evict->trust_until_ns = 0; /* all has come back: an old wait says nothing of what goes from here on */
    }
    uint64_t wanted_bytes;
    svc_parked_wants(service, &evict->waited_for, &wanted_bytes);
    if (service->conf->eviction_ratio == 0) {
        evict->waited_for = wanted_bytes = 0;
    }
    wanted_bytes += __atomic_load_n(&evict->demand_bytes, __ATOMIC_RELAXED);
    if (wanted_bytes > 0) {
        keep_patience(evict, wanted_bytes <= returning, now_ns);
    }
    bool demanded = wanted_bytes > 0 && now_ns >= evict->trust_until_ns;
    bool due = now_ns >= evict->not_before_ns;
    if (evict->in_round || (!demanded && !due)) {
        return;
    }
    uint64_t demand = 0;
    if (demanded && due) {
        uint64_t failed = __atomic_exchange_n(&evict->demand_bytes, 0, __ATOMIC_ACQ_REL);
        demand = MCS_MAX(failed, evict->waited_for);
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

void svc_evict_fini(mcs_service_t *service)
{
    svc_evict_t *evict = &service->evict;
    while (evict->fresh_count > 0) {
        svc_blocks_give(service, evict->fresh[--evict->fresh_count]);
    }
}

static void give_up_blocks(mcs_service_t *service, uint64_t now_ns)
{
    svc_evict_t *evict = &service->evict;
    svc_evict_fini(service);
    if (now_ns - evict->idle_since_ns > IDLE_NS) {
        svc_blocks_trim(service); /* again and again: an owner may answer late */
    }
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
        give_up_blocks(service, now_ns);
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
    evict->idle_since_ns = now_ns;
    evict->need_bytes = 0; /* or the thread would not pause, though it got all there was */
    if (evict->done_keys > 0) {
        mcs_metric_add(service->metrics, evictions_successful, 1);
        mcs_metric_add(service->metrics, evictions_successful_mem, 1);
        mcs_debug(SVC_AREA, "evicted %llu objects, %llu bytes", (unsigned long long)evict->done_keys,
                  (unsigned long long)evict->done_bytes);
    }
    return false;
}
