/* What a start from a journal leaves to be done when clients come back: outcomes of puts of before are told, owners
 * mount their segments again. See svc_recover.c. */
#include "master/svc_internal.h"

/* ---- afterwards ---- */

mcs_status_t svc_recovered_outcome_locked(mcs_service_t *service, svc_shard_t *shard, uint64_t put_id)
{
    /* Only for a while, and only what can be of an earlier master: it costs a look at the whole shard. */
    if (mcs_now_ns() >= service->grace_end_ns || mcs_generation_epoch(put_id) >= svc_epoch(service)) {
        return MCS_ERR_OBJECT_NOT_FOUND;
    }
    uint32_t at = UINT32_MAX;
    uint32_t version = 0;
    for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
        const svc_record_t *record = svc_record(&service->index, ref);
        if ((record->flags & SVC_REC_COMMITTED) != 0 && record->replicas[0].generation == put_id) {
            return MCS_OK;
        }
    }
    return MCS_ERR_OBJECT_NOT_FOUND;
}

static void swap_text(char **a, char **b)
{
    char *text = *a;
    *a = *b;
    *b = text;
}

void svc_drop_tail(mcs_service_t *service, svc_segment_t *segment)
{
    svc_pending_t *block = segment->tail;
    if (block != NULL) {
        segment->tail = NULL;
        svc_segment_give_back(service, segment, block->endings[0].offset, block->endings[0].len);
        svc_pending_put(block);
    }
}

/* Above the high mark it is free at once; the rest goes the way of a gap. */
static void settle_tail(mcs_service_t *service, svc_segment_t *segment, uint64_t high_mark)
{
    svc_pending_t *block = segment->tail;
    if (block == NULL || high_mark <= block->endings[0].offset) {
        svc_drop_tail(service, segment);
        return;
    }
    svc_ending_t *ending = &block->endings[0];
    segment->tail = NULL;
    mcs_mutex_lock(&segment->lock);
    uint64_t freed = mcs_allocator_trim(segment->allocator, ending->offset, ending->len, high_mark - ending->offset);
    __atomic_fetch_sub(&segment->used, freed, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&segment->lock);
    ending->len -= freed;
    ending->payload_len = ending->len;
    svc_ending_begin(service, ending, service->grace_end_ns, NULL, NULL);
    svc_pending_put(block);
}

void svc_adopt_locked(mcs_service_t *service, svc_segment_t *segment, svc_segment_t *fresh, uint64_t high_mark)
{
    settle_tail(service, segment, high_mark);
    swap_text(&segment->protocol, &fresh->protocol);
    swap_text(&segment->ipc_path, &fresh->ipc_path);
    swap_text(&segment->transport_endpoint, &fresh->transport_endpoint);
    uint8_t *endpoint = segment->wire_endpoint;
    segment->wire_endpoint = fresh->wire_endpoint;
    fresh->wire_endpoint = endpoint;
    segment->wire_endpoint_len = fresh->wire_endpoint_len;
    segment->base = fresh->base;
    mcs_info(SVC_AREA, "segment %s is back: handle %u, %llu bytes in use", segment->name, segment->handle,
             (unsigned long long)__atomic_load_n(&segment->used, __ATOMIC_RELAXED));
    /* Last: who sees it without this flag reads what was set above. */
    __atomic_fetch_and(&segment->flags, ~(uint32_t)SVC_SEG_RECOVERING, __ATOMIC_ACQ_REL);
    svc_check_want(service, segment);
}
