/* put_now, and the spares it takes: reservations that were made before their key was known.
 *
 * A client that puts one object after another of the same size asks, with the commit of one, for a spare of that size.
 * It writes the next object there at once and says put_now: reservation and commit in one request, half the round trips
 * of a put. A spare is a reservation like others (rules 1, 5, 6): a generation and a capability of its session, written
 * to by nobody else, revoked in the same way. It has no record. Its generation is of the shard where it waits; the
 * record that is made of it lies where its key belongs.
 *
 * put_now is for the plain case alone: a key that has neither value nor reservation, on a segment that takes new
 * objects. In every other case the spare is given back and the client puts by put_start, which has an answer for all.
 *
 * Spares take space from others, so they are few, small beside their segment, and short-lived: they are revoked after
 * SVC_SPARE_NS, and all at once as soon as any request lacks space. */
#include <string.h>

#include "master/svc_internal.h"

#define USE_MS        500u /* what the client is told: no put begins later */
#define SEGMENT_SHARE 64u  /* a spare has at most this part of its segment */

/* ---- made ---- */

static bool wanted(const mcs_service_t *service, const svc_session_t *session, uint64_t payload_len)
{
    return payload_len > 0 && payload_len <= MCS_OBJECT_MAX &&
           __atomic_load_n(&session->spares, __ATOMIC_RELAXED) < SVC_SPARES_MAX &&
           __atomic_load_n(&service->spares_out, __ATOMIC_RELAXED) == 0;
}

static bool place(svc_call_t *call, uint64_t payload_len, svc_extent_t *extent)
{
    Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
    svc_place_ask_t ask;
    bool possible;
    config.replica_num = 1;
    if (svc_place_init(&ask, call->service, call->session, &config) != MCS_OK ||
        svc_place_extents(&ask, payload_len, 1, extent, &possible) == 0) {
        return false;
    }
    if (extent->len > extent->segment->size / SEGMENT_SHARE) {
        svc_segment_give_back(call->service, extent->segment, extent->offset, extent->len);
        return false;
    }
    return true;
}

/* Enters it in some shard, and says in *spare what the client has to know. */
static bool enter(svc_call_t *call, svc_pending_t *pending, const svc_extent_t *extent, uint64_t payload_len,
                  svc_spare_t *spare)
{
    mcs_service_t *service = call->service;
    svc_segment_t *segment = extent->segment;
    svc_shard_t *shard = &service->index.shards[svc_random32() % SVC_SHARDS];
    pending->shard = shard;
    pending->session = call->session;
    svc_session_get(call->session);
    pending->start_ns = svc_clock(service);
    mcs_mutex_lock(&shard->lock);
    uint64_t generation = svc_shard_generation_locked(shard);
    svc_replica_t replica = {generation, svc_place(segment->handle, extent->offset)};
    svc_ending_set(pending, 0, segment, &replica, payload_len);
    pending->put_id = generation;
    *spare = (svc_spare_t){.put = {.status = MCS_OK, .replica_count = 1, .put_id = generation, .deadline_ms = USE_MS},
                           .replica = {.segment = segment->handle,
                                       .status = 2,
                                       .offset = extent->offset,
                                       .generation = generation,
                                       .mac = mcs_cap_mac(&segment->key, call->session->id, segment->instance,
                                                          extent->offset, payload_len, generation, MCS_CAP_WRITE)}};
    /* Whoever ends the session after this finds the spare in the shard; who ended it before is seen here. */
    bool entered = !svc_session_ended(call->session) && svc_pending_insert_locked(service, pending) == MCS_OK;
    mcs_mutex_unlock(&shard->lock);
    return entered;
}

void svc_spare_offer(svc_call_t *call, uint64_t payload_len, svc_spare_t *spare, Mcs__Wire__PutEndReply *reply)
{
    mcs_service_t *service = call->service;
    svc_extent_t extent;
    if (!wanted(service, call->session, payload_len) || !place(call, payload_len, &extent)) {
        return;
    }
    svc_pending_t *pending = svc_pending_create(SVC_SPARE, 1);
    if (pending == NULL || !enter(call, pending, &extent, payload_len, spare)) {
        svc_pending_put(pending);
        svc_segment_give_back(service, extent.segment, extent.offset, extent.len); /* nobody has seen it */
        return;
    }
    reply->spare = (ProtobufCBinaryData){sizeof(spare->put), (uint8_t *)&spare->put};
    reply->replica = (ProtobufCBinaryData){sizeof(spare->replica), (uint8_t *)&spare->replica};
}

/* ---- taken ---- */

/* The session's spare, out of its shard; or NULL. */
static svc_pending_t *take(const svc_call_t *call, uint64_t put_id)
{
    svc_shard_t *shard = svc_index_shard_of(&call->service->index, put_id);
    mcs_mutex_lock(&shard->lock);
    svc_pending_t *pending = svc_pending_by_id_locked(shard, put_id);
    if (pending != NULL && (pending->kind != SVC_SPARE || pending->session != call->session)) {
        pending = NULL;
    }
    if (pending != NULL) {
        svc_spare_take_locked(pending);
    }
    mcs_mutex_unlock(&shard->lock);
    return pending;
}

/* The record of the key on the spare's extent, committed. On failure nothing has changed. */
static mcs_status_t commit_locked(svc_call_t *call, svc_shard_t *shard, uint64_t hash, const mcs_key_t *key,
                                  const svc_pending_t *spare)
{
    mcs_service_t *service = call->service;
    const svc_ending_t *ending = &spare->endings[0];
    if (svc_session_ended(call->session)) {
        return MCS_ERR_SESSION_ENDED;
    }
    if (svc_shard_find_locked(&service->index, shard, hash, key->bytes, key->len) != 0) {
        return MCS_ERR_OBJECT_ALREADY_EXISTS;
    }
    if (svc_segment_flags(ending->segment) != 0) {
        return MCS_ERR_REPLICA_IS_GONE; /* suspect, draining or gone since: it takes nothing new */
    }
    svc_ref_t ref = svc_record_create(&service->index, shard, key->bytes, key->len, 1, 0);
    if (ref == 0) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_record_t *record = svc_record(&service->index, ref);
    record->payload_len = ending->payload_len;
    record->putter = call->session->serial;
    record->replica_count = 1;
    record->replicas[0] = (svc_replica_t){ending->generation, svc_place(ending->segment->handle, ending->offset)};
    mcs_status_t status = svc_shard_insert_locked(&service->index, shard, hash, ref);
    if (status != MCS_OK) {
        svc_record_free(service, ref);
        return status;
    }
    svc_record_commit_locked(service, shard, ref, mcs_now_ns());
    return MCS_OK;
}

/* A repeat at a master that has its objects from the journal and no outcomes: is it what the key has? */
static mcs_status_t committed_before(svc_call_t *call, svc_shard_t *shard, uint64_t hash, const mcs_key_t *key,
                                     uint64_t put_id)
{
    svc_index_t *index = &call->service->index;
    mcs_mutex_lock(&shard->lock);
    svc_ref_t ref = svc_shard_find_locked(index, shard, hash, key->bytes, key->len);
    const svc_record_t *record = ref != 0 ? svc_record(index, ref) : NULL;
    bool same = record != NULL && (record->flags & SVC_REC_COMMITTED) != 0 && record->replicas[0].generation == put_id;
    mcs_mutex_unlock(&shard->lock);
    return same ? MCS_OK : MCS_ERR_OBJECT_NOT_FOUND;
}

static mcs_status_t put_now(svc_call_t *call, const mcs_key_t *key, uint64_t put_id)
{
    mcs_service_t *service = call->service;
    uint64_t hash = svc_index_hash(&service->index, key->bytes, key->len);
    svc_shard_t *shard = svc_index_shard(&service->index, hash);
    svc_shard_prefetch_slot(shard, hash);
    svc_pending_t *spare = take(call, put_id);
    if (spare == NULL) {
        return committed_before(call, shard, hash, key, put_id);
    }
    uint64_t size = spare->endings[0].payload_len;
    mcs_mutex_lock(&shard->lock);
    mcs_status_t status = commit_locked(call, shard, hash, key, spare);
    mcs_mutex_unlock(&shard->lock);
    if (status == MCS_OK) {
        mcs_metric_add(service->metrics, puts_on_spares, 1);
        mcs_metrics_observe_value_size(service->metrics, size);
    } else {
        svc_ending_begin(service, &spare->endings[0], mcs_now_ns(), NULL, NULL); /* who sends put_now writes no more */
    }
    svc_pending_put(spare);
    return status;
}

mcs_status_t svc_put_now(svc_call_t *call)
{
    const Mcs__Wire__PutNow *request = (const Mcs__Wire__PutNow *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    if (request->key.len == 0 || request->key.len > MCS_KEY_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = svc_begin(call, request->sequence, sizeof(int32_t) + 16 + SVC_SPARE_ROOM);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    mcs_key_t key = {(const char *)request->key.data, (uint32_t)request->key.len};
    int32_t result = put_now(call, &key, request->put_id);
    Mcs__Wire__PutEndReply reply = MCS__WIRE__PUT_END_REPLY__INIT;
    svc_spare_t spare;
    reply.statuses = (ProtobufCBinaryData){sizeof(result), (uint8_t *)&result};
    if (result == MCS_OK) {
        mcs_metric_add(metrics, put_start_requests, 1);
        mcs_metric_add(metrics, put_end_requests, 1);
        svc_spare_offer(call, request->spare_len, &spare, &reply);
    }
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- not used ---- */

void svc_spares_drop(mcs_service_t *service)
{
    __atomic_store_n(&service->spares_out, SVC_PUTS_TURNS, __ATOMIC_RELAXED);
}
