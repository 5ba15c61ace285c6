/* Strikes (rule 2): the old extents of a key are made unreadable before it gets its new value, or before a forced
 * removal is answered.
 *
 * Somebody may read a value that he looked up within the last half lease without asking again. So a commit in that time
 * first has the owners mark the old extents DEAD: they are asked like for a release, and their answer is both; for an
 * extent that somebody still holds (a view) they say first that it is marked. An owner that does not answer (gone) is
 * waited for until half a lease has passed since the last grant, which is as good. Meanwhile readers still get the old
 * value, with a lease that is over by then. */
#include "master/svc_internal.h"

void svc_strike_begin_locked(mcs_service_t *service, svc_pending_t *pending, svc_pending_t *block, uint64_t now_ns)
{
    svc_shard_t *shard = pending->shard;
    svc_record_t *record = svc_record(&service->index, pending->record);
    svc_journal_strike_locked(service, pending);
    pending->state = SVC_STRIKING;
    pending->strike_until_ns = svc_record_uncached_at(service, record);
    pending->struck = block;
    pending->strike_left = block->ending_count;
    mcs_list_remove(&pending->node);
    mcs_list_push_tail(&shard->strikes, &pending->node);
    __atomic_fetch_add(&shard->strike_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&service->strikes, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < block->ending_count; i++) {
        /* The record names the segment until the strike is over, and the extent's own reference goes with the answer.
         */
        svc_segment_get(block->endings[i].segment);
    }
    for (uint32_t i = 0; i < block->ending_count; i++) {
        svc_ending_begin(service, &block->endings[i], now_ns, NULL, pending);
    }
}

void svc_strike_finish_locked(mcs_service_t *service, svc_pending_t *pending, uint64_t now_ns)
{
    svc_shard_t *shard = pending->shard;
    svc_pending_t *block = pending->struck;
    pending->struck = NULL;
    __atomic_fetch_sub(&shard->strike_count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&service->strikes, 1, __ATOMIC_RELAXED);
    if (pending->kind == SVC_PUT) {
        svc_put_swap_locked(service, pending, now_ns);
    } else {
        svc_ref_t ref = pending->record;
        svc_journal_del_locked(service, shard, svc_record(&service->index, ref));
        svc_record_uncount_locked(service, shard, ref);
        svc_shard_remove_locked(&service->index, shard, ref);
        svc_pending_finish_locked(service, pending, MCS_OK);
        svc_record_free(service, ref);
    }
    for (uint32_t i = 0; i < block->ending_count; i++) {
        svc_segment_put(service, block->endings[i].segment);
    }
    svc_pending_put(block);
}

void svc_strike_answered(mcs_service_t *service, svc_pending_t *pending)
{
    mcs_mutex_lock(&pending->shard->lock);
    if (pending->state == SVC_STRIKING && --pending->strike_left == 0) {
        svc_strike_finish_locked(service, pending, mcs_now_ns());
    }
    mcs_mutex_unlock(&pending->shard->lock);
    svc_pending_put(pending);
}

svc_pending_t *svc_strike_create_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                                        svc_session_t *session, uint64_t now_ns)
{
    svc_record_t *record = svc_record(&service->index, ref);
    svc_pending_t *block = svc_record_endings(service, record);
    svc_pending_t *pending = svc_pending_create(SVC_STRIKE, 0);
    if (block == NULL || pending == NULL) {
        goto err_free;
    }
    pending->shard = shard;
    pending->record = ref;
    pending->hash = hash;
    pending->put_id = svc_shard_generation_locked(shard);
    pending->session = session;
    if (session != NULL) {
        svc_session_get(session);
    }
    if (svc_pending_insert_locked(service, pending) != MCS_OK) {
        goto err_free;
    }
    record->flags = (uint16_t)(record->flags | SVC_REC_PENDING);
    svc_strike_begin_locked(service, pending, block, now_ns);
    return pending;

err_free:
    svc_pending_put(pending);
    svc_pending_put(block);
    return NULL;
}

void svc_strikes_tick(mcs_service_t *service, uint64_t now_ns)
{
    if (__atomic_load_n(&service->strikes, __ATOMIC_RELAXED) == 0) {
        return;
    }
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &service->index.shards[i];
        if (__atomic_load_n(&shard->strike_count, __ATOMIC_RELAXED) == 0) {
            continue;
        }
        mcs_mutex_lock(&shard->lock);
        MCS_LIST_FOR_EACH_SAFE(node, next, &shard->strikes)
        {
            svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
            if (now_ns >= pending->strike_until_ns) {
                svc_strike_finish_locked(service, pending, now_ns);
            }
        }
        mcs_mutex_unlock(&shard->lock);
    }
}
