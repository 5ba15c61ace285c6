/* put_start: reservations for a batch of keys (reference 3.1, 3.3, with the safer rules 1, 2, 6).
 *
 * A key that finds no space makes the whole request wait for eviction, up to eviction_wait_ms, off the loop: the keys
 * that were placed keep their reservations, the others are tried again when space comes back. A parked request is
 * unpacked anew into memory of its own. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define PARKED_ARENA_CHUNK ((size_t)64 << 10)
#define PARKED_ARENA_MAX   ((size_t)128 << 20)

typedef struct put_job {
    mcs_service_t *service;
    svc_session_t *session;
    const Mcs__Wire__PutStart *request;
    const Mcs__Wire__PutConfig *config;
    svc_place_ask_t ask;
    svc_batch_t batch;
    mcs_key_t *groups; /* NULL = none */
    mcs_col_put_t *puts;
    mcs_col_replica_t *replicas; /* `stride` for each key */
    uint32_t *order;             /* batch.order is replaced by what is to be tried again */
    uint32_t stride;
    uint32_t waiting;      /* keys without space that may get some */
    uint64_t largest;      /* of these */
    uint64_t wanted_bytes; /* by all of these, one replica each */
    uint64_t sequence;
    uint64_t soft_ns; /* 0 = not pinned by this request */
} put_job_t;

/* ---- what is asked for ---- */

static mcs_status_t check_soft_pin(put_job_t *job)
{
    const Mcs__Wire__PutConfig *config = job->config;
    const mcs_master_config_t *conf = job->service->conf;
    enum { PRESERVE, ENABLE, DISABLE };
    if (config->soft_pin_action > DISABLE || (config->has_soft_pin_ttl && config->soft_pin_action != ENABLE) ||
        (config->has_soft_pin_ttl && config->soft_pin_ttl_ms > conf->max_kv_soft_pin_ttl)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (config->soft_pin_action == ENABLE) {
        uint64_t ttl_ms = config->has_soft_pin_ttl ? config->soft_pin_ttl_ms : conf->default_kv_soft_pin_ttl;
        job->soft_ns = ttl_ms * MCS_NS_PER_MS;
    }
    return MCS_OK;
}

/* Groups are a second list of keys; an empty one = none. */
static mcs_status_t decode_groups(put_job_t *job, mcs_arena_t *arena)
{
    const ProtobufCBinaryData *lens = &job->request->group_lens;
    const ProtobufCBinaryData *bytes = &job->request->groups;
    if (lens->len == 0) {
        return bytes->len == 0 ? MCS_OK : MCS_ERR_PROTOCOL;
    }
    if (lens->len != job->batch.count * sizeof(uint16_t)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    job->groups = mcs_arena_alloc(arena, job->batch.count * sizeof(*job->groups));
    if (job->groups == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t used = 0;
    for (size_t i = 0; i < job->batch.count; i++) {
        uint16_t len = mcs_load_u16(lens->data + i * sizeof(uint16_t));
        if (len > MCS_KEY_MAX || len > bytes->len - used) {
            return MCS_ERR_PROTOCOL;
        }
        job->groups[i] = (mcs_key_t){(const char *)bytes->data + used, len};
        used += len;
    }
    return used == bytes->len ? MCS_OK : MCS_ERR_PROTOCOL;
}

static mcs_status_t job_init(put_job_t *job, mcs_service_t *service, svc_session_t *session, mcs_arena_t *arena,
                             const Mcs__Wire__PutStart *request)
{
    memset(job, 0, sizeof(*job));
    job->service = service;
    job->session = session;
    job->request = request;
    job->config = request->config;
    if (request->config == NULL || request->config->replica_num == 0 || request->config->data_type > UINT8_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    job->sequence = request->sequence != NULL ? request->sequence->seq : 0;
    job->stride = MCS_MIN(request->config->replica_num, (uint32_t)MCS_REPLICAS_MAX);
    mcs_status_t status = svc_batch_decode(service, arena, &request->key_lens, &request->keys, &job->batch);
    if (status == MCS_OK && request->sizes.len != job->batch.count * sizeof(uint64_t)) {
        status = MCS_ERR_PROTOCOL;
    }
    if (status == MCS_OK) {
        status = check_soft_pin(job);
    }
    if (status == MCS_OK) {
        status = decode_groups(job, arena);
    }
    if (status == MCS_OK) {
        status = svc_place_init(&job->ask, service, session, request->config);
    }
    if (status != MCS_OK) {
        return status;
    }
    size_t count = MCS_MAX(job->batch.count, (size_t)1);
    job->puts = mcs_arena_zalloc(arena, count * sizeof(*job->puts));
    job->replicas = mcs_arena_alloc(arena, count * job->stride * sizeof(*job->replicas));
    job->order = mcs_arena_alloc(arena, count * sizeof(*job->order));
    return job->puts == NULL || job->replicas == NULL || job->order == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
}

static uint64_t size_of(const put_job_t *job, uint32_t i)
{
    return mcs_load_u64(job->request->sizes.data + i * sizeof(uint64_t));
}

/* ---- one key ---- */

/* What stands in the way of a new reservation. OK: nothing, or *preempt_out has to go first. */
static mcs_status_t judge_locked(const put_job_t *job, svc_shard_t *shard, svc_ref_t ref, uint32_t i,
                                 svc_pending_t **preempt_out)
{
    mcs_service_t *service = job->service;
    const svc_record_t *record = svc_record(&service->index, ref);
    bool upsert = job->request->upsert != 0;
    *preempt_out = NULL;
    if (!upsert && svc_record_readable(service, record, job->session)) {
        return MCS_ERR_OBJECT_ALREADY_EXISTS;
    }
    if ((record->flags & SVC_REC_COMMITTED) != 0 && job->groups != NULL) {
        const svc_group_t *group = svc_record_group(record);
        bool same =
            group == NULL ? job->groups[i].len == 0 : svc_group_is(group, job->groups[i].bytes, job->groups[i].len);
        if (upsert && !same) {
            return MCS_ERR_INVALID_PARAMS; /* reference 3.3: the group of a key does not change */
        }
    }
    if ((record->flags & SVC_REC_PENDING) == 0) {
        return MCS_OK;
    }
    svc_pending_t *pending = svc_pending_by_record_locked(shard, ref);
    if (pending->kind == SVC_COPY) {
        *preempt_out = pending; /* a copy of the value that is replaced is of no use; its task looks again */
        return MCS_OK;
    }
    if (pending->kind == SVC_STRIKE || pending->state != SVC_OPEN) {
        return MCS_ERR_PUT_IN_PROGRESS; /* its outcome is being decided */
    }
    if (pending->session == job->session && pending->sequence == job->sequence) {
        return MCS_ERR_PUT_IN_PROGRESS; /* the same key twice in this batch: the first counts */
    }
    uint64_t discard_ns = service->conf->put_start_discard_timeout_sec * MCS_NS_PER_SEC;
    if (!upsert && svc_clock(service) < pending->start_ns + discard_ns) {
        return MCS_ERR_PUT_IN_PROGRESS;
    }
    *preempt_out = pending;
    return MCS_OK;
}

static uint16_t record_fields(const put_job_t *job, const svc_record_t *old, uint32_t i)
{
    unsigned fields = 0;
    bool old_soft = old != NULL && (old->flags & SVC_REC_SOFT) != 0;
    if (job->soft_ns != 0 || (old_soft && job->config->soft_pin_action == 0)) {
        fields |= SVC_REC_SOFT | SVC_REC_SOFT_FIELD;
    }
    if (job->config->hard_pin || (old != NULL && (old->flags & SVC_REC_HARD) != 0)) {
        fields |= SVC_REC_HARD;
    }
    bool grouped = job->groups != NULL && job->groups[i].len > 0;
    if (grouped || (old != NULL && svc_record_group(old) != NULL)) {
        fields |= SVC_REC_GROUP_FIELD;
    }
    return (uint16_t)fields;
}

/* The record of the new value with generations and places; in no table yet. */
static mcs_status_t make_record_locked(const put_job_t *job, svc_shard_t *shard, uint32_t i, const svc_record_t *old,
                                       const svc_extent_t *extents, uint32_t count, svc_ref_t *ref_out)
{
    mcs_service_t *service = job->service;
    const mcs_key_t *key = &job->batch.keys[i];
    uint16_t fields = record_fields(job, old, i);
    svc_ref_t ref = svc_record_create(&service->index, shard, key->bytes, key->len, count, fields);
    if (ref == 0) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_record_t *record = svc_record(&service->index, ref);
    record->payload_len = size_of(job, i);
    record->putter = job->session->serial;
    record->data_type = (uint8_t)job->config->data_type;
    record->replica_count = (uint8_t)count;
    for (uint32_t r = 0; r < count; r++) {
        record->replicas[r] = (svc_replica_t){svc_shard_generation_locked(shard),
                                              svc_place(extents[r].segment->handle, extents[r].offset)};
    }
    if ((fields & SVC_REC_SOFT_FIELD) != 0) {
        svc_record_set_soft(record, job->soft_ns);
    }
    if ((fields & SVC_REC_GROUP_FIELD) != 0) {
        bool named = job->groups != NULL && job->groups[i].len > 0; /* else the one that the key has */
        svc_group_t *group = named ? svc_group_get(service, job->groups[i].bytes, job->groups[i].len)
                                   : svc_group_again(service, svc_record_group(old));
        mcs_status_t status = group == NULL
                                  ? MCS_ERR_NO_MEMORY
                                  : svc_group_join(group, job->batch.hashes[i], record->replicas[0].generation);
        if (status != MCS_OK) {
            svc_group_put(service, group);
            svc_record_destroy(&service->index, ref);
            return status;
        }
        svc_record_set_group(record, group);
    }
    *ref_out = ref;
    return MCS_OK;
}

static void fill_answer(put_job_t *job, uint32_t i, const svc_record_t *record, const svc_extent_t *extents)
{
    mcs_col_put_t *put = &job->puts[i];
    put->status = MCS_OK;
    put->replica_count = record->replica_count;
    put->put_id = record->replicas[0].generation;
    put->deadline_ms = (uint32_t)(job->service->conf->put_start_release_timeout_sec * 1000);
    for (uint32_t r = 0; r < record->replica_count; r++) {
        const svc_segment_t *segment = extents[r].segment;
        uint64_t generation = record->replicas[r].generation;
        job->replicas[i * job->stride + r] = (mcs_col_replica_t){
            .segment = segment->handle,
            .status = 2,
            .offset = extents[r].offset,
            .generation = generation,
            .mac = mcs_cap_mac(&segment->key, job->session->id, segment->instance, extents[r].offset,
                               record->payload_len, generation, MCS_CAP_WRITE),
        };
    }
}

/* Enters the reservation in the shard; `pending` has its record(s). On failure nothing is entered. */
static mcs_status_t enter_locked(put_job_t *job, svc_shard_t *shard, svc_pending_t *pending)
{
    mcs_service_t *service = job->service;
    bool is_new = pending->successor == 0;
    mcs_status_t status = MCS_OK;
    if (is_new) {
        status = svc_shard_insert_locked(&service->index, shard, pending->hash, pending->record);
    }
    if (status != MCS_OK) {
        return status;
    }
    status = svc_pending_insert_locked(service, pending);
    if (status != MCS_OK) {
        if (is_new) {
            svc_shard_remove_locked(&service->index, shard, pending->record);
        }
        return status;
    }
    svc_record_t *named = svc_record(&service->index, pending->record);
    named->flags = (uint16_t)(named->flags | SVC_REC_PENDING);
    return MCS_OK;
}

/* Makes the reservation on extents that are allocated already; on failure the caller frees them. `ref`: the key's
 * record, 0 = none. */
static mcs_status_t reserve_locked(put_job_t *job, svc_shard_t *shard, uint32_t i, svc_ref_t ref,
                                   const svc_extent_t *extents, uint32_t count)
{
    mcs_service_t *service = job->service;
    const svc_record_t *old = ref != 0 ? svc_record(&service->index, ref) : NULL;
    svc_pending_t *pending = svc_pending_create(SVC_PUT, count);
    if (pending == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    svc_ref_t made = 0;
    mcs_status_t status = make_record_locked(job, shard, i, old, extents, count, &made);
    if (status != MCS_OK) {
        svc_pending_put(pending);
        return status;
    }
    const svc_record_t *record = svc_record(&service->index, made);
    for (uint32_t r = 0; r < count; r++) {
        svc_ending_set(pending, r, extents[r].segment, &record->replicas[r], record->payload_len);
    }
    pending->shard = shard;
    pending->session = job->session;
    svc_session_get(job->session);
    pending->put_id = record->replicas[0].generation;
    pending->sequence = job->sequence;
    pending->start_ns = svc_clock(service);
    pending->hash = job->batch.hashes[i];
    pending->record = ref != 0 ? ref : made;
    pending->successor = ref != 0 ? made : 0;
    status = enter_locked(job, shard, pending);
    if (status != MCS_OK) {
        svc_record_free(service, made);
        svc_pending_put(pending);
        return status;
    }
    fill_answer(job, i, record, extents);
    return MCS_OK;
}

static mcs_status_t start_locked(put_job_t *job, svc_shard_t *shard, uint32_t i, bool *wants_space)
{
    mcs_service_t *service = job->service;
    const mcs_key_t *key = &job->batch.keys[i];
    uint64_t size = size_of(job, i);
    if (size == 0 || size > MCS_OBJECT_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (svc_session_ended(job->session)) {
        return MCS_ERR_SESSION_ENDED;
    }
    svc_pending_t *preempt = NULL;
    svc_ref_t ref = svc_shard_find_locked(&service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    if (ref != 0) {
        mcs_status_t verdict = judge_locked(job, shard, ref, i, &preempt);
        if (verdict != MCS_OK) {
            return verdict;
        }
    }
    if (__atomic_load_n(&job->session->open_puts, __ATOMIC_RELAXED) >= SVC_OPEN_PUTS_MAX) {
        return MCS_ERR_LIMIT;
    }
    svc_extent_t extents[MCS_REPLICAS_MAX];
    bool possible = false;
    uint32_t count = svc_place_extents(&job->ask, size, job->stride, extents, &possible);
    if (count == 0) {
        *wants_space = possible;
        return MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    if (preempt != NULL) {
        /* Only now, when there is something to put in its place. Its writer is told; its extents come back by rule 3.
         */
        mcs_debug(SVC_AREA, "put %llu pre-empted", (unsigned long long)preempt->put_id);
        svc_put_revoke_locked(service, preempt, false, MCS_ERR_INVALID_WRITE);
        ref = svc_shard_find_locked(&service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    }
    mcs_status_t status = reserve_locked(job, shard, i, ref, extents, count);
    if (status != MCS_OK) {
        for (uint32_t r = 0; r < count; r++) {
            /* Nobody has seen them. */
            svc_segment_give_back(service, extents[r].segment, extents[r].offset, extents[r].len);
        }
    } else {
        mcs_metrics_observe_value_size(service->metrics, size);
        if (count < job->stride) {
            mcs_metric_add(service->metrics, put_start_partial_allocations, 1);
        }
    }
    return status;
}

static void start_one(void *arg, svc_shard_t *shard, uint32_t i)
{
    put_job_t *job = arg;
    bool wants_space = false;
    job->puts[i].status = start_locked(job, shard, i, &wants_space);
    if (wants_space) {
        job->order[job->waiting++] = i;
        uint64_t len = mcs_extent_len(size_of(job, i));
        job->largest = MCS_MAX(job->largest, len);
        job->wanted_bytes += len;
    }
}

/* Tries the keys of batch.order; those that may get space later are its order afterwards. */
static void job_run(put_job_t *job)
{
    job->waiting = 0;
    job->largest = job->wanted_bytes = 0;
    svc_batch_run(job->service, &job->batch, start_one, job);
    uint32_t *tried = job->batch.order;
    job->batch.order = job->order;
    job->order = tried;
}

/* ---- the answer ---- */

static void count_results(const put_job_t *job, size_t count)
{
    mcs_metrics_t *metrics = job->service->metrics;
    uint64_t failed = 0;
    uint64_t no_space = 0;
    for (size_t i = 0; i < count; i++) {
        failed += job->puts[i].status != MCS_OK;
        no_space += job->puts[i].status == MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    mcs_metric_add(metrics, put_start_alloc_failures, no_space);
    if (count == 1) {
        mcs_metric_add(metrics, put_start_requests, 1);
        mcs_metric_add(metrics, put_start_failures, failed);
        return;
    }
    mcs_metric_add(metrics, batch_put_start_requests, 1);
    mcs_metric_add(metrics, batch_put_start_items, count);
    mcs_metric_add(metrics, batch_put_start_failed_items, failed);
    if (failed == count && count > 0) {
        mcs_metric_add(metrics, batch_put_start_failures, 1);
    } else if (failed > 0) {
        mcs_metric_add(metrics, batch_put_start_partial_successes, 1);
    }
}

static void build_reply(put_job_t *job, size_t count, Mcs__Wire__PutStartReply *reply)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memmove(&job->replicas[at], &job->replicas[i * job->stride],
                job->puts[i].replica_count * sizeof(*job->replicas));
        at += job->puts[i].replica_count;
    }
    mcs__wire__put_start_reply__init(reply);
    reply->puts = (ProtobufCBinaryData){count * sizeof(*job->puts), (uint8_t *)job->puts};
    reply->replicas = (ProtobufCBinaryData){at * sizeof(*job->replicas), (uint8_t *)job->replicas};
    count_results(job, count);
}

/* ---- waiting for space ---- */

typedef struct parked_put {
    svc_parked_t base;
    mcs_arena_t arena;
    put_job_t job;
    size_t count; /* keys of the request; batch.count is of those to be tried */
} parked_put_t;

static void parked_put_destroy(svc_parked_t *base)
{
    parked_put_t *parked = MCS_CONTAINER_OF(base, parked_put_t, base);
    mcs_arena_fini(&parked->arena);
    mcs_free(parked);
}

static bool parked_put_step(svc_parked_t *base, uint64_t now_ns, bool last)
{
    parked_put_t *parked = MCS_CONTAINER_OF(base, parked_put_t, base);
    put_job_t *job = &parked->job;
    (void)now_ns;
    job_run(job);
    job->batch.count = job->waiting;
    if (job->waiting > 0 && !last) {
        base->wants_largest = job->largest;
        base->wants_bytes = job->wanted_bytes;
        svc_spares_drop(job->service);
        return false;
    }
    Mcs__Wire__PutStartReply reply;
    build_reply(job, parked->count, &reply);
    svc_parked_answer(base, svc_session_ended(job->session) ? MCS_ERR_SESSION_ENDED : MCS_OK, &reply.base);
    return true;
}

/* True: the request waits. False: it has to be answered as it is. */
static bool park_put(svc_call_t *call, const put_job_t *job)
{
    size_t count = job->batch.count;
    size_t bytes = sizeof(parked_put_t) + 2 * (size_t)call->header->length +
                   count * (sizeof(mcs_col_put_t) + job->stride * sizeof(mcs_col_replica_t) + 2 * sizeof(mcs_key_t));
    uint64_t wait_ms = call->service->conf->eviction_wait_ms;
    if (wait_ms == 0 || !svc_park_admit(call->service, bytes)) {
        return false;
    }
    parked_put_t *parked = MCS_NEW(parked_put_t);
    if (parked == NULL) {
        svc_park_give_up(call->service, bytes);
        return false;
    }
    mcs_arena_init(&parked->arena, PARKED_ARENA_CHUNK, PARKED_ARENA_MAX);
    ProtobufCMessage *copy =
        svc_unpack(&mcs__wire__put_start__descriptor, &parked->arena, call->payload, call->header->length);
    if (copy == NULL || job_init(&parked->job, call->service, call->session, &parked->arena,
                                 (const Mcs__Wire__PutStart *)copy) != MCS_OK) {
        parked_put_destroy(&parked->base);
        svc_park_give_up(call->service, bytes);
        return false;
    }
    put_job_t *kept = &parked->job;
    parked->count = job->batch.count;
    memcpy(kept->puts, job->puts, parked->count * sizeof(*kept->puts));
    memcpy(kept->replicas, job->replicas, parked->count * job->stride * sizeof(*kept->replicas));
    memcpy(kept->batch.order, job->batch.order, job->waiting * sizeof(*kept->batch.order));
    kept->batch.count = job->waiting;
    parked->base.bytes = bytes;
    parked->base.deadline_ns = mcs_now_ns() + wait_ms * MCS_NS_PER_MS;
    parked->base.wants_largest = job->largest;
    parked->base.wants_bytes = job->wanted_bytes;
    parked->base.step = parked_put_step;
    parked->base.destroy = parked_put_destroy;
    mcs_metric_add(call->service->metrics, puts_waited, 1);
    svc_park(call, &parked->base);
    return true;
}

mcs_status_t svc_put_start(svc_call_t *call)
{
    const Mcs__Wire__PutStart *request = (const Mcs__Wire__PutStart *)call->message;
    put_job_t *job = mcs_arena_alloc(call->arena, sizeof(*job));
    if (job == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = job_init(job, call->service, call->session, call->arena, request);
    if (status != MCS_OK) {
        return status;
    }
    size_t count = job->batch.count;
    status = svc_begin(call, request->sequence,
                       count * (sizeof(mcs_col_put_t) + job->stride * sizeof(mcs_col_replica_t)) + 64);
    if (status != MCS_OK) {
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    job_run(job);
    if (svc_session_ended(call->session)) {
        return MCS_ERR_SESSION_ENDED; /* what was reserved goes with it */
    }
    if (job->waiting > 0) {
        svc_spares_drop(call->service);
        if (park_put(call, job)) {
            return MCS_OK;
        }
        svc_evict_demand(call->service, job->largest);
    }
    Mcs__Wire__PutStartReply reply;
    build_reply(job, count, &reply);
    return svc_reply(call, MCS_OK, &reply.base);
}
