/* Reservations: the table of open puts in each shard, commit, revocation, deadlines (rules 1, 2, 6).
 *
 * A put of a new key has its record in the table from the start, not readable. A put of a key that has a value (upsert,
 * or the value is on suspect owners only) has a successor record outside the table, which takes the old one's slot at
 * the commit. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define FIRST_CHAINS 8u

/* ---- the table: chains by id, then chains by record ---- */

static svc_pending_t **chain_of_id(const svc_shard_t *shard, uint64_t put_id)
{
    return &shard->pending[(put_id >> SVC_SHARD_BITS) & shard->pending_mask];
}

static svc_pending_t **chain_of_record(const svc_shard_t *shard, svc_ref_t record)
{
    return &shard->pending[shard->pending_mask + 1 + ((record * UINT32_C(0x9e3779b1)) >> 12 & shard->pending_mask)];
}

static void link_locked(svc_shard_t *shard, svc_pending_t *pending)
{
    svc_pending_t **by_id = chain_of_id(shard, pending->put_id);
    svc_pending_t **by_record = chain_of_record(shard, pending->record);
    pending->next_by_id = *by_id;
    *by_id = pending;
    pending->next_by_record = *by_record;
    *by_record = pending;
}

static bool grow_locked(svc_shard_t *shard)
{
    uint32_t mask = shard->pending == NULL ? FIRST_CHAINS - 1 : shard->pending_mask * 2 + 1;
    svc_pending_t **chains = MCS_NEW_ARRAY(svc_pending_t *, 2 * ((size_t)mask + 1));
    if (chains == NULL) {
        return shard->pending != NULL; /* longer chains do as well */
    }
    svc_pending_t **old = shard->pending;
    uint32_t old_count = old == NULL ? 0 : shard->pending_mask + 1;
    shard->pending = chains;
    shard->pending_mask = mask;
    for (uint32_t i = 0; i < old_count; i++) {
        for (svc_pending_t *pending = old[i], *next; pending != NULL; pending = next) {
            next = pending->next_by_id;
            link_locked(shard, pending);
        }
    }
    mcs_free(old);
    return true;
}

mcs_status_t svc_pending_insert_locked(mcs_service_t *service, svc_pending_t *pending)
{
    svc_shard_t *shard = pending->shard;
    (void)service;
    if ((shard->pending == NULL || shard->pending_count > 2 * shard->pending_mask) && !grow_locked(shard)) {
        return MCS_ERR_NO_MEMORY;
    }
    link_locked(shard, pending);
    shard->pending_count++;
    if (pending->kind == SVC_PUT) {
        mcs_list_push_tail(&shard->open, &pending->node);
        __atomic_fetch_add(&shard->open_puts, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&pending->session->open_puts, 1, __ATOMIC_RELAXED);
    } else if (pending->kind == SVC_COPY) {
        mcs_list_push_tail(&shard->copies, &pending->node);
    } else if (pending->kind == SVC_SPARE) {
        mcs_list_push_tail(&shard->spares, &pending->node);
        __atomic_fetch_add(&shard->spare_count, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&shard->spare_bytes, pending->endings[0].len, __ATOMIC_RELAXED);
        __atomic_fetch_add(&pending->session->spares, 1, __ATOMIC_RELAXED);
    }
    return MCS_OK;
}

svc_pending_t *svc_pending_by_id_locked(const svc_shard_t *shard, uint64_t put_id)
{
    svc_pending_t *pending = shard->pending == NULL ? NULL : *chain_of_id(shard, put_id);
    while (pending != NULL && pending->put_id != put_id) {
        pending = pending->next_by_id;
    }
    return pending;
}

svc_pending_t *svc_pending_by_record_locked(const svc_shard_t *shard, svc_ref_t record)
{
    svc_pending_t *pending = shard->pending == NULL ? NULL : *chain_of_record(shard, record);
    while (pending != NULL && pending->record != record) {
        pending = pending->next_by_record;
    }
    return pending;
}

static void unlink_locked(svc_shard_t *shard, svc_pending_t *pending)
{
    svc_pending_t **at = chain_of_id(shard, pending->put_id);
    while (*at != pending) {
        at = &(*at)->next_by_id;
    }
    *at = pending->next_by_id;
    at = chain_of_record(shard, pending->record);
    while (*at != pending) {
        at = &(*at)->next_by_record;
    }
    *at = pending->next_by_record;
    shard->pending_count--;
}

/* Out of the tables and lists; the shard's reference is the caller's. */
static void leave_locked(svc_pending_t *pending)
{
    unlink_locked(pending->shard, pending);
    mcs_list_remove(&pending->node);
    if (pending->kind == SVC_SPARE) {
        __atomic_fetch_sub(&pending->shard->spare_count, 1, __ATOMIC_RELAXED);
        __atomic_fetch_sub(&pending->shard->spare_bytes, pending->endings[0].len, __ATOMIC_RELAXED);
        __atomic_fetch_sub(&pending->session->spares, 1, __ATOMIC_RELAXED);
    }
    pending->state = SVC_DONE;
}

void svc_spare_take_locked(svc_pending_t *pending)
{
    MCS_ENSURE(pending->kind == SVC_SPARE && pending->state == SVC_OPEN);
    leave_locked(pending);
}

void svc_pending_finish_locked(mcs_service_t *service, svc_pending_t *pending, mcs_status_t outcome)
{
    svc_shard_t *shard = pending->shard;
    leave_locked(pending);
    if (pending->kind == SVC_PUT) {
        svc_shard_remember_locked(shard, pending->put_id, pending->session->serial, outcome);
        __atomic_fetch_sub(&shard->open_puts, 1, __ATOMIC_RELAXED);
        __atomic_fetch_sub(&pending->session->open_puts, 1, __ATOMIC_RELAXED);
    }
    pending->outcome = outcome;
    if (pending->waiters > 0) {
        svc_stir(service);
    }
    svc_pending_put(pending);
}

/* ---- revoke ---- */

/* Gives the reservation's extents back. `writer`: who may still write to them, NULL = nobody. */
static void end_extents_locked(mcs_service_t *service, svc_pending_t *pending, svc_session_t *writer)
{
    uint64_t now_ns = mcs_now_ns();
    for (uint32_t i = 0; i < pending->ending_count; i++) {
        svc_ending_t *ending = &pending->endings[i];
        if (ending->state != SVC_END_IDLE) {
            continue; /* a replica that was dropped before */
        }
        if (pending->discarded) {
            ending->was_put = true;
            __atomic_fetch_add(&service->discarded_bytes, ending->len, __ATOMIC_RELAXED);
        }
        svc_ending_begin(service, ending, now_ns, writer, NULL);
    }
}

void svc_put_revoke_locked(mcs_service_t *service, svc_pending_t *pending, bool by_writer, mcs_status_t outcome)
{
    svc_shard_t *shard = pending->shard;
    MCS_ENSURE(pending->kind != SVC_STRIKE && pending->kind != SVC_ENDINGS && pending->state == SVC_OPEN);
    if (pending->kind == SVC_PUT && !by_writer && !svc_session_ended(pending->session)) {
        pending->discarded = true;
        mcs_metric_add(service->metrics, discarded_puts, 1);
    }
    end_extents_locked(service, pending, by_writer ? NULL : pending->session);
    if (pending->kind == SVC_COPY) {
        svc_record_t *record = svc_record(&service->index, pending->record);
        record->flags = (uint16_t)(record->flags & ~SVC_REC_PENDING);
        svc_record_destroy(&service->index, pending->successor); /* the group is still the record's */
        svc_task_lost(service, pending->task, outcome);
    } else if (pending->kind == SVC_SPARE) {
        mcs_metric_add(service->metrics, spares_unused, 1);
    } else if (pending->successor != 0) {
        svc_record_t *old = svc_record(&service->index, pending->record);
        old->flags = (uint16_t)(old->flags & ~SVC_REC_PENDING);
        svc_record_free(service, pending->successor);
    } else {
        svc_shard_remove_locked(&service->index, shard, pending->record);
        svc_record_free(service, pending->record);
    }
    svc_pending_finish_locked(service, pending, outcome);
}

/* ---- commit ---- */

/* Takes out the replicas whose segment is gone. False: none is left. */
static bool drop_gone_replicas_locked(mcs_service_t *service, svc_pending_t *pending, svc_ref_t target)
{
    svc_record_t *record = svc_record(&service->index, target);
    uint32_t kept = 0;
    uint64_t first = record->replicas[0].generation;
    for (uint32_t i = 0; i < pending->ending_count; i++) {
        kept += (svc_segment_flags(pending->endings[i].segment) & SVC_SEG_GONE) == 0;
    }
    if (kept == 0 || kept == record->replica_count) {
        return kept != 0;
    }
    kept = 0;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        svc_ending_t *ending = &pending->endings[i];
        if ((svc_segment_flags(ending->segment) & SVC_SEG_GONE) != 0) {
            svc_ending_begin(service, ending, mcs_now_ns(), NULL, NULL);
        } else {
            record->replicas[kept++] = record->replicas[i];
        }
    }
    record->replica_count = (uint8_t)kept;
    svc_group_t *group = svc_record_group(record);
    if (group != NULL) {
        svc_group_rename(group, first, record->replicas[0].generation);
    }
    return kept != 0;
}

mcs_status_t svc_put_commit_locked(mcs_service_t *service, svc_pending_t *pending)
{
    svc_shard_t *shard = pending->shard;
    svc_ref_t target = pending->successor != 0 ? pending->successor : pending->record;
    uint64_t now_ns = mcs_now_ns();
    svc_pending_t *block = NULL;
    uint64_t uncached_ns = 0;
    if (pending->successor != 0) {
        const svc_record_t *old = svc_record(&service->index, pending->record);
        uncached_ns = svc_record_uncached_at(service, old);
        block = svc_record_endings(service, old);
        if (block == NULL) {
            return MCS_ERR_NO_MEMORY; /* still open: it can be tried again */
        }
    }
    if (!drop_gone_replicas_locked(service, pending, target)) {
        svc_pending_put(block);
        svc_put_revoke_locked(service, pending, true, MCS_ERR_REPLICA_IS_GONE);
        return MCS_ERR_REPLICA_IS_GONE;
    }
    if (block == NULL) {
        svc_record_settle_soft(service, target, 0, now_ns);
        svc_record_commit_locked(service, shard, target, now_ns);
        svc_pending_finish_locked(service, pending, MCS_OK);
        return MCS_OK;
    }
    if (now_ns < uncached_ns) {
        svc_strike_begin_locked(service, pending, block, now_ns);
        return MCS_ERR_AGAIN;
    }
    uint64_t due_ns = svc_record_due(service, svc_record(&service->index, pending->record), now_ns);
    svc_put_swap_locked(service, pending, now_ns);
    for (uint32_t i = 0; i < block->ending_count; i++) {
        svc_ending_begin(service, &block->endings[i], due_ns, NULL, NULL);
    }
    svc_pending_put(block);
    return MCS_OK;
}

void svc_put_swap_locked(mcs_service_t *service, svc_pending_t *pending, uint64_t now_ns)
{
    svc_shard_t *shard = pending->shard;
    svc_ref_t old = pending->record;
    uint64_t lease_until_ns = svc_record(&service->index, old)->lease_until_ns;
    svc_record_settle_soft(service, pending->successor, old, now_ns);
    svc_record_uncount_locked(service, shard, old);
    svc_shard_replace_locked(&service->index, shard, old, pending->successor);
    svc_record_commit_locked(service, shard, pending->successor, now_ns);
    svc_record_inherit_lease_locked(service, shard, pending->successor, lease_until_ns, now_ns);
    svc_pending_finish_locked(service, pending, MCS_OK);
    svc_record_free(service, old); /* after the chain by record has let go of it */
}

/* ---- deadlines and ends ---- */

/* Revokes those of the list (oldest first) that are older; 0: all. */
static void expire_locked(mcs_service_t *service, mcs_list_t *list, uint64_t timeout_ns)
{
    while (!mcs_list_empty(list)) {
        svc_pending_t *oldest = MCS_LIST_FIRST(list, svc_pending_t, node);
        if (timeout_ns != 0 && service->polled_ns < oldest->start_ns + timeout_ns) {
            break;
        }
        if (oldest->kind == SVC_PUT) {
            mcs_info(SVC_AREA, "put %llu of client %s revoked: open for %llu s", (unsigned long long)oldest->put_id,
                     oldest->session->host_name, (unsigned long long)service->conf->put_start_release_timeout_sec);
        }
        svc_put_revoke_locked(service, oldest, false, MCS_ERR_INVALID_WRITE);
    }
}

void svc_puts_tick(mcs_service_t *service, uint64_t now_ns)
{
    (void)now_ns;
    uint64_t timeout_ns = service->conf->put_start_release_timeout_sec * MCS_NS_PER_SEC;
    uint32_t turns = __atomic_load_n(&service->spares_out, __ATOMIC_RELAXED);
    for (uint32_t n = 0; n < SVC_SHARDS / SVC_PUTS_TURNS; n++) {
        svc_shard_t *shard = &service->index.shards[service->shard_cursor++ % SVC_SHARDS];
        if (__atomic_load_n(&shard->open_puts, __ATOMIC_RELAXED) == 0 &&
            __atomic_load_n(&shard->spare_count, __ATOMIC_RELAXED) == 0) {
            continue;
        }
        mcs_mutex_lock(&shard->lock);
        expire_locked(service, &shard->open, timeout_ns);
        expire_locked(service, &shard->spares, turns > 0 ? 0 : SVC_SPARE_NS);
        mcs_mutex_unlock(&shard->lock);
    }
    if (turns > 0) {
        /* When more is asked for meanwhile, that is lost: it was this that was asked for. */
        __atomic_fetch_sub(&service->spares_out, 1, __ATOMIC_RELAXED);
    }
}

static void end_of_session_locked(mcs_service_t *service, const svc_session_t *session, mcs_list_t *list)
{
    MCS_LIST_FOR_EACH_SAFE(node, next, list)
    {
        svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
        if (pending->session == session) {
            svc_put_revoke_locked(service, pending, false, MCS_ERR_SESSION_ENDED);
        }
    }
}

void svc_puts_end_session(mcs_service_t *service, svc_session_t *session)
{
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &service->index.shards[i];
        /* The count may be stale, but a put that begins now sees that its session has ended (under this lock). */
        mcs_mutex_lock(&shard->lock);
        end_of_session_locked(service, session, &shard->open);
        end_of_session_locked(service, session, &shard->copies);
        end_of_session_locked(service, session, &shard->spares);
        mcs_mutex_unlock(&shard->lock);
    }
}

void svc_pending_drop_all_locked(mcs_service_t *service, svc_shard_t *shard)
{
    for (uint32_t i = 0; shard->pending != NULL && i <= shard->pending_mask; i++) {
        while (shard->pending[i] != NULL) {
            svc_pending_t *pending = shard->pending[i];
            if (pending->state == SVC_OPEN && pending->kind != SVC_STRIKE) {
                svc_put_revoke_locked(service, pending, true, MCS_ERR_CLOSED);
            } else {
                svc_strike_finish_locked(service, pending, mcs_now_ns());
            }
        }
    }
    while (!mcs_list_empty(&shard->leaving)) {
        svc_pending_t *left = MCS_LIST_FIRST(&shard->leaving, svc_pending_t, node);
        mcs_list_remove(&left->node); /* the record still has the extent */
        svc_pending_put(left);
    }
}
