/* More replicas of a readable object, and fewer: what copies, moves and drains do to the index.
 *
 *   begin    extents on other segments are reserved for a session, as for a put (rules 5, 6). The record stays as it
 * is, marked pending: eviction, removal and the sweep leave it alone. A put that replaces the value goes first: it
 *            revokes the reservation (svc_put.c).
 *   commit   a record with the new replicas takes the place of the old one, in one step (rule 1). Its value is the
 * same, so nothing is struck (rule 2): who has the old record cached reads the same bytes. leave    a move's source is
 * no replica any more, but its extent stays with the record ("leaving") until the last lease on it is over, and only
 * then goes back (rule 3). Whatever ends the value before ends it as well.
 *
 * The memory for all of that is had at the begin, so a commit cannot fail for lack of it. */
#include <string.h>

#include "master/svc_internal.h"

/* Shards looked at in one turn. */
#define SHARDS_A_TURN (SVC_SHARDS / 8)

static uint32_t live_index(const svc_record_t *record, uint64_t generation)
{
    uint32_t i = 0;
    while (i < record->replica_count && record->replicas[i].generation != generation) {
        i++;
    }
    return i;
}

/* ---- begin ---- */

/* The record-to-be, with the new replicas alone; the rest is filled in at the commit. */
static svc_ref_t make_record_locked(mcs_service_t *service, svc_shard_t *shard, const svc_record_t *old,
                                    const svc_copy_ask_t *ask)
{
    uint16_t fields = (uint16_t)(old->flags & (SVC_REC_SOFT_FIELD | SVC_REC_GROUP_FIELD));
    svc_ref_t ref = svc_record_create(&service->index, shard, svc_record_key(old), old->key_len,
                                      svc_record_extents(old) + ask->count, fields);
    if (ref == 0) {
        return 0;
    }
    svc_record_t *record = svc_record(&service->index, ref);
    for (uint32_t i = 0; i < ask->count; i++) {
        const svc_extent_t *extent = &ask->extents[i];
        record->replicas[i] =
            (svc_replica_t){svc_shard_generation_locked(shard), svc_place(extent->segment->handle, extent->offset)};
    }
    return ref;
}

static svc_pending_t *make_pending_locked(svc_shard_t *shard, svc_ref_t ref, const svc_copy_ask_t *ask)
{
    svc_pending_t *pending = svc_pending_create(SVC_COPY, ask->count);
    if (pending == NULL) {
        return NULL;
    }
    pending->shard = shard;
    pending->session = ask->session;
    svc_session_get(ask->session);
    pending->task = ask->task;
    svc_task_get(ask->task);
    pending->start_ns = mcs_now_ns();
    pending->hash = ask->hash;
    pending->record = ref;
    pending->vacates = ask->vacates;
    pending->vacated = ask->vacates != 0 ? svc_pending_create(SVC_ENDINGS, 1) : NULL;
    if (ask->vacates != 0 && pending->vacated == NULL) {
        svc_pending_put(pending);
        return NULL;
    }
    return pending;
}

mcs_status_t svc_copy_begin_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, const svc_copy_ask_t *ask,
                                   svc_pending_t **pending_out)
{
    svc_record_t *old = svc_record(&service->index, ref);
    if (old->replica_count + ask->count > MCS_REPLICAS_MAX ||
        (ask->vacates != 0 && old->leaving_count >= SVC_LEAVING_MAX)) {
        return MCS_ERR_AGAIN;
    }
    svc_pending_t *pending = make_pending_locked(shard, ref, ask);
    if (pending == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    const svc_record_t *made;
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    pending->successor = make_record_locked(service, shard, old, ask);
    if (pending->successor == 0) {
        goto err_put;
    }
    made = svc_record(&service->index, pending->successor);
    for (uint32_t i = 0; i < ask->count; i++) {
        svc_ending_set(pending, i, ask->extents[i].segment, &made->replicas[i], old->payload_len);
    }
    pending->put_id = made->replicas[0].generation;
    status = svc_pending_insert_locked(service, pending);
    if (status != MCS_OK) {
        goto err_record;
    }
    old->flags = (uint16_t)(old->flags | SVC_REC_PENDING);
    *pending_out = pending;
    return MCS_OK;

err_record:
    svc_record_destroy(&service->index, pending->successor);
err_put:
    svc_pending_put(pending);
    return status;
}

/* ---- leaving ---- */

/* From now on `left` (its ending is set) waits for the leases that were granted up to now. */
static void wait_for_leases_locked(mcs_service_t *service, svc_shard_t *shard, svc_pending_t *left, uint64_t hash,
                                   uint64_t due_ns)
{
    left->shard = shard;
    left->hash = hash;
    left->put_id = left->endings[0].generation;
    left->leaves_ns = due_ns;
    mcs_list_push_tail(&shard->leaving, &left->node);
    __atomic_fetch_add(&shard->leaving_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&service->leaving, 1, __ATOMIC_RELAXED);
}

static void set_left(mcs_service_t *service, svc_pending_t *left, const svc_replica_t *replica, uint64_t payload_len)
{
    svc_ending_set(left, 0, svc_segment_at(service, svc_place_handle(replica->place)), replica, payload_len);
}

/* True: `left` is done with. */
static bool try_leave_locked(mcs_service_t *service, svc_shard_t *shard, svc_pending_t *left, uint64_t now_ns)
{
    svc_ref_t ref = svc_shard_find_leaving_locked(&service->index, shard, left->hash, left->put_id);
    if (ref == 0) {
        return true; /* the value was ended, and this extent with it */
    }
    svc_record_t *record = svc_record(&service->index, ref);
    if ((record->flags & SVC_REC_PENDING) != 0 && svc_pending_by_record_locked(shard, ref)->state == SVC_STRIKING) {
        return false; /* being ended right now */
    }
    uint32_t extents = svc_record_extents(record);
    uint32_t at = record->replica_count;
    while (record->replicas[at].generation != left->put_id) {
        at++;
    }
    memmove(&record->replicas[at], &record->replicas[at + 1], (extents - at - 1) * sizeof(record->replicas[0]));
    record->leaving_count--;
    svc_ending_begin(service, &left->endings[0], now_ns, NULL, NULL);
    return true;
}

void svc_leaving_tick(mcs_service_t *service, uint64_t now_ns)
{
    if (__atomic_load_n(&service->leaving, __ATOMIC_RELAXED) == 0) {
        return;
    }
    for (uint32_t n = 0; n < SHARDS_A_TURN; n++) {
        svc_shard_t *shard = &service->index.shards[service->leaving_cursor++ % SVC_SHARDS];
        if (__atomic_load_n(&shard->leaving_count, __ATOMIC_RELAXED) == 0) {
            continue;
        }
        mcs_mutex_lock(&shard->lock);
        MCS_LIST_FOR_EACH_SAFE(node, next, &shard->leaving)
        {
            svc_pending_t *left = MCS_CONTAINER_OF(node, svc_pending_t, node);
            if (now_ns >= left->leaves_ns && try_leave_locked(service, shard, left, now_ns)) {
                mcs_list_remove(&left->node);
                __atomic_fetch_sub(&shard->leaving_count, 1, __ATOMIC_RELAXED);
                __atomic_fetch_sub(&service->leaving, 1, __ATOMIC_RELAXED);
                svc_pending_put(left);
            }
        }
        mcs_mutex_unlock(&shard->lock);
    }
}

/* ---- commit ---- */

/* The targets whose segment is still there. */
static uint32_t take_targets_locked(mcs_service_t *service, svc_pending_t *pending, svc_replica_t *targets)
{
    const svc_record_t *made = svc_record(&service->index, pending->successor);
    uint32_t count = 0;
    uint32_t gone = 0;
    for (uint32_t i = 0; i < pending->ending_count; i++) {
        if ((svc_segment_flags(pending->endings[i].segment) & SVC_SEG_GONE) == 0) {
            targets[count++] = made->replicas[i];
        } else {
            gone |= UINT32_C(1) << i;
        }
    }
    for (uint32_t i = 0; count > 0 && i < pending->ending_count; i++) {
        if ((gone >> i & 1) != 0) {
            svc_ending_begin(service, &pending->endings[i], mcs_now_ns(), NULL, NULL);
        }
    }
    return count;
}

/* Everything that `made` has from `old`; `leave`: index of the replica that is left, or none. The first target stands
 * where that one was. */
static void fill_record(svc_record_t *made, const svc_record_t *old, const svc_replica_t *targets, uint32_t count,
                        uint32_t leave, bool stays_leaving)
{
    uint16_t flags = (uint16_t)(old->flags & ~(SVC_REC_LIST | SVC_REC_PENDING));
    uint32_t n = 0;
    for (uint32_t i = 0; i < old->replica_count; i++) {
        made->replicas[n++] = i == leave ? targets[0] : old->replicas[i];
    }
    for (uint32_t i = leave < old->replica_count ? 1 : 0; i < count; i++) {
        made->replicas[n++] = targets[i];
    }
    made->replica_count = (uint8_t)n;
    if (stays_leaving) {
        made->replicas[n++] = old->replicas[leave];
    }
    for (uint32_t i = old->replica_count; i < svc_record_extents(old); i++) {
        made->replicas[n++] = old->replicas[i];
    }
    made->leaving_count = (uint8_t)(n - made->replica_count);
    made->flags = flags;
    made->lease_until_ns = old->lease_until_ns;
    made->payload_len = old->payload_len;
    made->putter = old->putter;
    made->data_type = old->data_type;
    if ((flags & SVC_REC_SOFT_FIELD) != 0) {
        svc_record_set_soft(made, svc_record_soft(old));
    }
    svc_group_t *group = svc_record_group(old);
    if (group != NULL) {
        svc_record_set_group(made, group);
        svc_group_rename(group, old->replicas[0].generation, made->replicas[0].generation);
    }
}

mcs_status_t svc_copy_commit_locked(mcs_service_t *service, svc_pending_t *pending)
{
    svc_shard_t *shard = pending->shard;
    svc_replica_t targets[MCS_REPLICAS_MAX];
    uint32_t count = take_targets_locked(service, pending, targets);
    if (count == 0) {
        svc_put_revoke_locked(service, pending, true, MCS_ERR_REPLICA_IS_GONE);
        return MCS_ERR_REPLICA_IS_GONE;
    }
    svc_ref_t from = pending->record;
    svc_ref_t to = pending->successor;
    const svc_record_t *old = svc_record(&service->index, from);
    uint64_t now_ns = mcs_now_ns();
    uint64_t due_ns = svc_record_due(service, old, now_ns);
    uint32_t leave = pending->vacates != 0 ? live_index(old, pending->vacates) : old->replica_count;
    svc_pending_t *left = pending->vacated;
    pending->vacated = NULL;
    uint64_t hash = pending->hash;
    bool leaves = leave < old->replica_count;
    bool waits = leaves && due_ns > now_ns;
    if (leaves) {
        set_left(service, left, &old->replicas[leave], old->payload_len);
    }
    fill_record(svc_record(&service->index, to), old, targets, count, leave, waits);
    svc_shard_renew_locked(&service->index, shard, from, to);
    svc_journal_put_locked(service, shard, to);
    svc_pending_finish_locked(service, pending, MCS_OK);
    svc_record_destroy(&service->index, from);
    if (waits) {
        wait_for_leases_locked(service, shard, left, hash, due_ns);
        return MCS_OK;
    }
    if (leaves) {
        svc_ending_begin(service, &left->endings[0], now_ns, NULL, NULL);
    }
    svc_pending_put(left);
    return MCS_OK;
}

mcs_status_t svc_copy_leave_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                                   uint64_t generation)
{
    svc_record_t *record = svc_record(&service->index, ref);
    uint32_t at = live_index(record, generation);
    if (record->replica_count < 2 || at == record->replica_count || record->leaving_count >= SVC_LEAVING_MAX) {
        return MCS_ERR_AGAIN;
    }
    svc_pending_t *left = svc_pending_create(SVC_ENDINGS, 1);
    if (left == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    uint64_t first = record->replicas[0].generation;
    svc_replica_t replica = record->replicas[at];
    uint32_t last = record->replica_count - 1u;
    set_left(service, left, &replica, record->payload_len);
    memmove(&record->replicas[at], &record->replicas[at + 1], (last - at) * sizeof(replica));
    record->replicas[last] = replica; /* the first of those that are leaving */
    record->replica_count--;
    record->leaving_count++;
    svc_journal_put_locked(service, shard, ref);
    svc_group_t *group = svc_record_group(record);
    if (group != NULL) {
        svc_group_rename(group, first, record->replicas[0].generation);
    }
    wait_for_leases_locked(service, shard, left, hash, svc_record_due(service, record, mcs_now_ns()));
    return MCS_OK;
}
