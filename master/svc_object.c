/* What becomes of records: reading rights, leases, commit, removal, and the sweep after segments are gone. All with the
 * shard's lock. */
#include <string.h>

#include "master/svc_internal.h"

/* Slots that the sweep looks at under one hold of a shard's lock, and how long a turn of it takes. */
#define SWEEP_SLOTS    1024u
#define SWEEP_NS       (2 * MCS_NS_PER_MS)
#define SWEEP_AGAIN_NS (500 * MCS_NS_PER_MS)

bool svc_record_readable(const mcs_service_t *service, const svc_record_t *record, const svc_session_t *session)
{
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return false;
    }
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
        if (segment != NULL && svc_segment_readable(segment, session)) {
            return true;
        }
    }
    return false;
}

uint64_t svc_record_lease(const svc_record_t *record)
{
    const svc_group_t *group = svc_record_group(record);
    return group == NULL ? record->lease_until_ns : MCS_MAX(record->lease_until_ns, svc_group_lease(group));
}

uint64_t svc_record_uncached_at(const mcs_service_t *service, const svc_record_t *record)
{
    return (record->flags & SVC_REC_LEASED) == 0
               ? 0
               : record->lease_until_ns - MCS_MIN(record->lease_until_ns, service->lease_ns / 2);
}

void svc_record_grant_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash, uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    uint64_t until = now_ns + service->lease_ns;
    uint64_t before = record->lease_until_ns;
    if (until > before) {
        record->lease_until_ns = until;
    }
    record->flags = (uint16_t)(record->flags | SVC_REC_LEASED);
    svc_group_t *group = svc_record_group(record);
    if (group != NULL) {
        svc_group_grant(group, now_ns, service->lease_ns);
    }
    if ((record->flags & SVC_REC_HARD) != 0) {
        return;
    }
    svc_record_check_soft_locked(&service->index, shard, ref, now_ns);
    if (svc_policy_is_active(&service->policy) && svc_record_list(record) != SVC_LIST_LEASED) {
        svc_policy_access(&service->policy, hash);
    }
    /* A hot object is not moved for each read: the list's order is right to a sixteenth of a lease. */
    if (svc_record_list(record) != SVC_LIST_LEASED || until - MCS_MIN(until, before) >= service->lease_ns / 16) {
        svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_LEASED);
    }
}

void svc_record_settle_soft(mcs_service_t *service, svc_ref_t ref, svc_ref_t old, uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_SOFT) == 0) {
        return;
    }
    uint64_t duration = svc_record_soft(record);
    if (duration != 0) {
        svc_record_set_soft(record, now_ns + duration); /* counts from the first readable moment */
        return;
    }
    const svc_record_t *before = old != 0 ? svc_record(&service->index, old) : NULL;
    if (before != NULL && (before->flags & SVC_REC_SOFT) != 0 && now_ns < svc_record_soft(before)) {
        svc_record_set_soft(record, svc_record_soft(before));
    } else {
        record->flags = (uint16_t)(record->flags & ~SVC_REC_SOFT); /* it ran out meanwhile */
    }
}

void svc_record_commit_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    record->flags = (uint16_t)((record->flags & ~SVC_REC_PENDING) | SVC_REC_COMMITTED);
    record->lease_until_ns = now_ns; /* no lease (reference 3.1), and its place in the order of eviction */
    __atomic_fetch_add(&shard->committed, 1, __ATOMIC_RELAXED);
    if ((record->flags & SVC_REC_SOFT) != 0) {
        __atomic_fetch_add(&shard->soft_pinned, 1, __ATOMIC_RELAXED);
    }
    bool comes_back = false;
    if (svc_policy_is_active(&service->policy)) {
        uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
        svc_policy_access(&service->policy, hash);
        comes_back =
            __atomic_load_n(&service->index.protects, __ATOMIC_RELAXED) != 0 && svc_ghosts_have(&shard->ghosts, hash);
    }
    svc_list_t list = (record->flags & SVC_REC_HARD) != 0   ? SVC_LIST_NONE
                      : (record->flags & SVC_REC_SOFT) != 0 ? SVC_LIST_SOFT
                      : comes_back                          ? SVC_LIST_PROTECTED
                                                            : SVC_LIST_PLAIN;
    svc_recency_set_locked(&service->index, shard, ref, list);
    svc_journal_put_locked(service, shard, ref);
}

void svc_record_inherit_lease_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t lease_until_ns,
                                     uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    if (lease_until_ns <= now_ns) {
        return;
    }
    record->lease_until_ns = lease_until_ns; /* without SVC_REC_LEASED: nobody has looked this value up */
    if ((record->flags & SVC_REC_HARD) == 0) {
        svc_recency_set_locked(&service->index, shard, ref, SVC_LIST_LEASED);
    }
}

void svc_record_set_endings(mcs_service_t *service, const svc_record_t *record, svc_pending_t *block)
{
    for (uint32_t i = 0; i < block->ending_count; i++) {
        const svc_replica_t *replica = &record->replicas[i];
        svc_ending_set(block, i, svc_segment_at(service, svc_place_handle(replica->place)), replica,
                       record->payload_len);
    }
}

svc_pending_t *svc_record_endings(mcs_service_t *service, const svc_record_t *record)
{
    svc_pending_t *block = svc_pending_create(SVC_ENDINGS, svc_record_extents(record));
    if (block != NULL) {
        svc_record_set_endings(service, record, block);
    }
    return block;
}

void svc_record_free(mcs_service_t *service, svc_ref_t ref)
{
    svc_record_t *record = svc_record(&service->index, ref);
    svc_group_t *group = svc_record_group(record);
    if (group != NULL) {
        svc_group_leave(group, record->replicas[0].generation);
        svc_group_put(service, group);
    }
    svc_record_destroy(&service->index, ref);
}

void svc_record_uncount_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return;
    }
    __atomic_fetch_sub(&shard->committed, 1, __ATOMIC_RELAXED);
    if ((record->flags & SVC_REC_SOFT) != 0) {
        __atomic_fetch_sub(&shard->soft_pinned, 1, __ATOMIC_RELAXED);
    }
}

/* When the owner may be asked: every lease has run out, plus the guard (rule 3). */
uint64_t svc_record_due(const mcs_service_t *service, const svc_record_t *record, uint64_t now_ns)
{
    return (record->flags & SVC_REC_LEASED) == 0
               ? now_ns
               : record->lease_until_ns + service->conf->lease_guard_ms * MCS_NS_PER_MS;
}

void svc_record_take_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                            svc_pending_t *block, uint64_t now_ns)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    uint64_t due_ns = svc_record_due(service, record, now_ns);
    for (uint32_t i = 0; i < block->ending_count; i++) {
        block->endings[i].due_ns = due_ns;
    }
    svc_journal_del_locked(service, shard, record);
    svc_record_uncount_locked(service, shard, ref);
    svc_shard_remove_hash_locked(&service->index, shard, hash, ref);
    svc_record_free(service, ref);
}

void svc_record_drop_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, svc_pending_t *block,
                            uint64_t now_ns)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
    svc_record_take_locked(service, shard, ref, hash, block, now_ns);
    for (uint32_t i = 0; i < block->ending_count; i++) {
        svc_ending_begin(service, &block->endings[i], block->endings[i].due_ns, NULL, NULL);
    }
    svc_pending_put(block);
}

void svc_record_forget_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref)
{
    svc_record_t *record = svc_record(&service->index, ref);
    svc_segment_t *segments[SVC_EXTENTS_MAX];
    uint32_t count = svc_record_extents(record);
    for (uint32_t i = 0; i < count; i++) {
        segments[i] = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
    }
    svc_record_uncount_locked(service, shard, ref);
    svc_shard_remove_locked(&service->index, shard, ref);
    svc_record_free(service, ref);
    for (uint32_t i = 0; i < count; i++) {
        svc_segment_put(service, segments[i]);
    }
}

uint32_t svc_record_mask(const mcs_service_t *service, const svc_record_t *record,
                         bool (*wanted)(const svc_segment_t *segment, const void *arg), const void *arg)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < svc_record_extents(record); i++) {
        if (wanted(svc_segment_at(service, svc_place_handle(record->replicas[i].place)), arg)) {
            mask |= UINT32_C(1) << i;
        }
    }
    return mask;
}

bool svc_record_drop_some_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint32_t mask,
                                 uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    bool all = svc_record_live(record, mask) == record->replica_count;
    svc_pending_t *block =
        all ? svc_record_endings(service, record) : svc_pending_create(SVC_ENDINGS, (uint32_t)__builtin_popcount(mask));
    if (block == NULL) {
        return false;
    }
    if (all) {
        svc_record_drop_locked(service, shard, ref, block, now_ns);
        return true;
    }
    uint64_t first = record->replicas[0].generation;
    uint32_t extents = svc_record_extents(record);
    uint32_t live = record->replica_count - svc_record_live(record, mask);
    uint32_t kept = 0;
    uint32_t ended = 0;
    for (uint32_t i = 0; i < extents; i++) {
        svc_replica_t replica = record->replicas[i];
        if ((mask >> i & 1) != 0) {
            svc_ending_set(block, ended++, svc_segment_at(service, svc_place_handle(replica.place)), &replica,
                           record->payload_len);
        } else {
            record->replicas[kept++] = replica;
        }
    }
    svc_group_t *group = svc_record_group(record);
    if (group != NULL) {
        svc_group_rename(group, first, record->replicas[0].generation);
    }
    record->replica_count = (uint8_t)live;
    record->leaving_count = (uint8_t)(kept - live);
    svc_journal_put_locked(service, shard, ref);
    for (uint32_t i = 0; i < block->ending_count; i++) {
        svc_ending_begin(service, &block->endings[i], svc_record_due(service, record, now_ns), NULL, NULL);
    }
    svc_pending_put(block);
    return true;
}

/* ---- the sweep ---- */

static bool is_gone(const svc_segment_t *segment, const void *arg)
{
    (void)arg;
    return (svc_segment_flags(segment) & SVC_SEG_GONE) != 0;
}

/* An extent of a lost owner may still be read by whoever cached its place before the segment was gone: by the map of a
 * process that stands still, for one. While that may be, it stays in the record, so that a strike waits for it, too
 * (rule 2). Owners that left have closed their memory. */
static bool may_be_read(const mcs_service_t *service, const svc_record_t *record, uint32_t gone, uint64_t now_ns)
{
    uint64_t uncached_ns = svc_record_uncached_at(service, record);
    for (uint32_t i = 0; i < svc_record_extents(record); i++) {
        if ((gone >> i & 1) == 0) {
            continue;
        }
        const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
        uint64_t gone_ns = __atomic_load_n(&segment->gone_ns, __ATOMIC_ACQUIRE);
        uint64_t until_ns = gone_ns == MCS_NEVER ? uncached_ns : MCS_MIN(uncached_ns, gone_ns + service->lease_ns / 2);
        if ((svc_segment_flags(segment) & SVC_SEG_LEFT) == 0 && now_ns < until_ns) {
            return true;
        }
    }
    return false;
}

/* True when nothing of the gone segments is left in the record (or the record is). False: it has to be looked at again.
 */
static bool sweep_record_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        return true; /* an open put: its commit looks by itself */
    }
    uint32_t gone = svc_record_mask(service, record, is_gone, NULL);
    if (gone == 0) {
        return true;
    }
    if ((record->flags & SVC_REC_PENDING) != 0) {
        return false; /* a strike or an upsert refers to it */
    }
    if (may_be_read(service, record, gone, now_ns)) {
        return false; /* a key that has nothing else stays hidden, and is not free for a new value yet */
    }
    return svc_record_drop_some_locked(service, shard, ref, gone, now_ns);
}

/* One hold of the shard's lock. True: the shard is through. */
static bool sweep_slice(mcs_service_t *service, svc_shard_t *shard, uint64_t now_ns)
{
    bool through = false;
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < SWEEP_SLOTS; n++) {
        svc_ref_t ref = svc_shard_walk_locked(shard, &service->sweep_at, &service->sweep_version);
        if (ref == 0) {
            through = true;
            break;
        }
        if (!sweep_record_locked(service, shard, ref, now_ns)) {
            service->sweep_again_ns = now_ns + SWEEP_AGAIN_NS;
        }
    }
    mcs_mutex_unlock(&shard->lock);
    return through;
}

void svc_sweep_tick(mcs_service_t *service, uint64_t now_ns)
{
    if (service->sweep_again_ns != 0 && now_ns >= service->sweep_again_ns) {
        service->sweep_again_ns = 0;
        __atomic_store_n(&service->sweep_wanted, 1, __ATOMIC_RELEASE);
    }
    if (service->sweep_shard >= SVC_SHARDS) {
        if (__atomic_exchange_n(&service->sweep_wanted, 0, __ATOMIC_ACQ_REL) == 0) {
            return;
        }
        service->sweep_shard = 0;
        service->sweep_version = 0;
    }
    uint64_t end_ns = svc_real_ns() + SWEEP_NS;
    while (service->sweep_shard < SVC_SHARDS && svc_real_ns() < end_ns) {
        if (sweep_slice(service, &service->index.shards[service->sweep_shard], now_ns)) {
            service->sweep_shard++;
            service->sweep_version = 0;
        }
    }
    if (service->sweep_shard < SVC_SHARDS) {
        svc_wake(service);
    }
}
