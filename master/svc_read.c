/* exist and lookup: the hot path. Both grant leases; a lookup also gives the rights to read (rule 5). */
#include <string.h>

#include "master/svc_internal.h"

typedef struct read_job {
    mcs_service_t *service;
    svc_session_t *session;
    svc_batch_t batch;
    uint64_t now_ns;
    uint64_t lease_ns; /* of the answer: less when a strike is under way */
    bool no_lease;
    bool failed;      /* no memory for the replicas */
    int32_t *results; /* exist */
    mcs_col_object_t *objects;
    uint32_t *first; /* lookup: where an object's replicas are in `found` */
    mcs_col_replica_t *found;
    uint32_t found_count;
    uint32_t found_room;
    mcs_arena_t *arena;
} read_job_t;

static uint32_t lease_ms(const read_job_t *job)
{
    uint64_t ms = job->lease_ns / MCS_NS_PER_MS;
    return (uint32_t)(job->lease_ns > 0 && ms == 0 ? 1 : ms);
}

/* ---- lookup ---- */

static bool make_room(read_job_t *job)
{
    if (job->found_room - job->found_count >= MCS_REPLICAS_MAX) {
        return true;
    }
    uint32_t room = job->found_room * 2 + 2 * MCS_REPLICAS_MAX;
    mcs_col_replica_t *found = mcs_arena_alloc(job->arena, room * sizeof(*found));
    if (found == NULL) {
        return false;
    }
    memcpy(found, job->found, job->found_count * sizeof(*found));
    job->found = found;
    job->found_room = room;
    return true;
}

static void add_replicas(read_job_t *job, const svc_record_t *record)
{
    for (uint32_t r = 0; r < record->replica_count; r++) {
        const svc_replica_t *replica = &record->replicas[r];
        const svc_segment_t *segment = svc_segment_at(job->service, svc_place_handle(replica->place));
        if (segment == NULL || !svc_segment_readable(segment, job->session)) {
            continue;
        }
        uint64_t offset = svc_place_offset(replica->place);
        uint64_t generation = replica->generation;
        job->found[job->found_count++] = (mcs_col_replica_t){
            .segment = segment->handle,
            .status = 3,
            .offset = offset,
            .generation = generation,
            .mac = job->no_lease ? 0
                                 : mcs_cap_mac(&segment->key, job->session->id, segment->instance, offset,
                                               record->payload_len, generation, MCS_CAP_READ),
        };
    }
}

/* Where the value lay before it was moved, as far as there is room: who has it from there knows by these that it is the
 * same value. Nobody is sent there. */
static void add_leaving(read_job_t *job, const svc_record_t *record, uint32_t first)
{
    for (uint32_t r = record->replica_count; r < svc_record_extents(record); r++) {
        if (job->found_count - first == MCS_REPLICAS_MAX) {
            return;
        }
        const svc_replica_t *replica = &record->replicas[r];
        job->found[job->found_count++] = (mcs_col_replica_t){.segment = svc_place_handle(replica->place),
                                                             .status = MCS_REPLICA_LEAVING,
                                                             .offset = svc_place_offset(replica->place),
                                                             .generation = replica->generation};
    }
}

/* Rule 2: what is looked up while the key's old value is being struck must not be cached beyond the strike. */
static void limit_lease_locked(read_job_t *job, svc_shard_t *shard, svc_ref_t ref)
{
    const svc_pending_t *pending = svc_pending_by_record_locked(shard, ref);
    if (pending != NULL && pending->state == SVC_STRIKING) {
        uint64_t left = pending->strike_until_ns > job->now_ns ? pending->strike_until_ns - job->now_ns : 1;
        job->lease_ns = MCS_MIN(job->lease_ns, 2 * left);
    }
}

static void lookup_one(void *arg, svc_shard_t *shard, uint32_t i)
{
    read_job_t *job = arg;
    const mcs_key_t *key = &job->batch.keys[i];
    mcs_col_object_t *object = &job->objects[i];
    svc_ref_t ref = svc_shard_find_locked(&job->service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    if (ref == 0) {
        object->status = MCS_ERR_OBJECT_NOT_FOUND;
        return;
    }
    const svc_record_t *record = svc_record(&job->service->index, ref);
    if ((record->flags & SVC_REC_COMMITTED) == 0) {
        object->status = MCS_ERR_REPLICA_IS_NOT_READY;
        return;
    }
    if (!make_room(job)) {
        job->failed = true;
        return;
    }
    job->first[i] = job->found_count;
    add_replicas(job, record);
    object->replica_count = job->found_count - job->first[i];
    if (object->replica_count == 0) {
        object->status = MCS_ERR_OBJECT_NOT_FOUND; /* on suspect owners only (rule 7) */
        return;
    }
    if (record->leaving_count > 0 && !job->no_lease) {
        add_leaving(job, record, job->first[i]);
        object->replica_count = job->found_count - job->first[i];
    }
    object->status = MCS_OK;
    object->payload_len = record->payload_len;
    object->data_type = record->data_type;
    if (!job->no_lease) {
        if ((record->flags & SVC_REC_PENDING) != 0) {
            limit_lease_locked(job, shard, ref);
        }
        svc_record_grant_locked(job->service, shard, ref, job->batch.hashes[i], job->now_ns);
    }
}

/* All keys of the job; the two columns of the answer are in the order of the request. */
static mcs_status_t run_lookups(svc_call_t *call, read_job_t *job, ProtobufCBinaryData *objects_out,
                                ProtobufCBinaryData *replicas_out)
{
    size_t count = MCS_MAX(job->batch.count, (size_t)1);
    job->found_room = (uint32_t)count + MCS_REPLICAS_MAX;
    job->objects = mcs_arena_zalloc(call->arena, count * sizeof(*job->objects));
    job->first = mcs_arena_zalloc(call->arena, count * sizeof(*job->first));
    job->found = mcs_arena_alloc(call->arena, job->found_room * sizeof(*job->found));
    if (job->objects == NULL || job->first == NULL || job->found == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    job->now_ns = mcs_now_ns();
    svc_batch_read(call->service, &job->batch, lookup_one, job);
    /* Found in the order of shards. */
    mcs_col_replica_t *ordered = mcs_arena_alloc(call->arena, MCS_MAX(job->found_count, 1u) * sizeof(*ordered));
    if (job->failed || ordered == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t at = 0;
    for (size_t i = 0; i < job->batch.count; i++) {
        memcpy(&ordered[at], &job->found[job->first[i]], job->objects[i].replica_count * sizeof(*ordered));
        at += job->objects[i].replica_count;
    }
    *objects_out = (ProtobufCBinaryData){job->batch.count * sizeof(*job->objects), (uint8_t *)job->objects};
    *replicas_out = (ProtobufCBinaryData){at * sizeof(*ordered), (uint8_t *)ordered};
    return MCS_OK;
}

static void count_lookups(const read_job_t *job)
{
    mcs_metrics_t *metrics = job->service->metrics;
    uint64_t hits = 0;
    uint64_t bytes = 0;
    size_t count = job->batch.count;
    for (size_t i = 0; i < count; i++) {
        if (job->objects[i].status == MCS_OK) {
            hits++;
            bytes += job->objects[i].payload_len;
        }
    }
    mcs_metric_add(metrics, total_gets, count);
    mcs_metric_add(metrics, valid_gets, hits);
    mcs_metric_add(metrics, mem_cache_hits, hits);
    mcs_metric_add(metrics, mem_cache_hit_bytes, bytes);
    if (count == 1) {
        mcs_metric_add(metrics, get_replica_list_requests, 1);
        mcs_metric_add(metrics, get_replica_list_failures, 1 - hits);
        return;
    }
    mcs_metric_add(metrics, batch_get_replica_list_requests, 1);
    mcs_metric_add(metrics, batch_get_replica_list_items, count);
    mcs_metric_add(metrics, batch_get_replica_list_failed_items, count - hits);
    mcs_metric_add(metrics, batch_get_replica_list_failures, hits == 0 && count > 0 ? 1 : 0);
    mcs_metric_add(metrics, batch_get_replica_list_partial_successes, hits > 0 && hits < count ? 1 : 0);
}

mcs_status_t svc_lookup(svc_call_t *call)
{
    const Mcs__Wire__Lookup *request = (const Mcs__Wire__Lookup *)call->message;
    read_job_t job = {.service = call->service,
                      .session = call->session,
                      .arena = call->arena,
                      .no_lease = request->no_lease != 0,
                      .lease_ns = request->no_lease ? 0 : call->service->lease_ns};
    mcs_status_t status = svc_batch_decode(call->service, call->arena, &request->key_lens, &request->keys, &job.batch);
    if (status != MCS_OK) {
        return status;
    }
    Mcs__Wire__LookupReply reply = MCS__WIRE__LOOKUP_REPLY__INIT;
    status = run_lookups(call, &job, &reply.objects, &reply.replicas);
    if (status != MCS_OK) {
        return status;
    }
    count_lookups(&job);
    reply.lease_ms = lease_ms(&job);
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- exist ---- */

static void exist_one(void *arg, svc_shard_t *shard, uint32_t i)
{
    read_job_t *job = arg;
    const mcs_key_t *key = &job->batch.keys[i];
    svc_ref_t ref = svc_shard_find_locked(&job->service->index, shard, job->batch.hashes[i], key->bytes, key->len);
    bool there = ref != 0 && svc_record_readable(job->service, svc_record(&job->service->index, ref), job->session);
    job->results[i] = there ? 1 : 0;
    if (there) {
        svc_record_grant_locked(job->service, shard, ref, job->batch.hashes[i], job->now_ns);
    }
}

mcs_status_t svc_exist(svc_call_t *call)
{
    const Mcs__Wire__Exist *request = (const Mcs__Wire__Exist *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    read_job_t job = {
        .service = call->service, .session = call->session, .arena = call->arena, .lease_ns = call->service->lease_ns};
    mcs_status_t status = svc_batch_decode(call->service, call->arena, &request->key_lens, &request->keys, &job.batch);
    if (status != MCS_OK) {
        return status;
    }
    job.results = mcs_arena_alloc(call->arena, MCS_MAX(job.batch.count, (size_t)1) * sizeof(*job.results));
    if (job.results == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    Mcs__Wire__ExistReply reply = MCS__WIRE__EXIST_REPLY__INIT;
    if (request->locate) {
        status = run_lookups(call, &job, &reply.objects, &reply.replicas);
        if (status != MCS_OK) {
            return status;
        }
        for (size_t i = 0; i < job.batch.count; i++) {
            job.results[i] = job.objects[i].status == MCS_OK ? 1 : 0;
        }
    } else {
        job.now_ns = mcs_now_ns();
        svc_batch_read(call->service, &job.batch, exist_one, &job);
    }
    if (job.batch.count == 1) {
        mcs_metric_add(metrics, exist_key_requests, 1);
    } else {
        mcs_metric_add(metrics, batch_exist_key_requests, 1);
        mcs_metric_add(metrics, batch_exist_key_items, job.batch.count);
    }
    reply.results = (ProtobufCBinaryData){job.batch.count * sizeof(*job.results), (uint8_t *)job.results};
    reply.lease_ms = lease_ms(&job);
    return svc_reply(call, MCS_OK, &reply.base);
}
