/* Read-only walks and totals for the HTTP side (service.h). Short stretches of locks; callers' functions run without
 * any. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define WALK_SLOTS 1024u

/* The readable keys of up to WALK_SLOTS records: u32 length and bytes each. True: the shard is through. */
static bool copy_keys(mcs_service_t *service, svc_shard_t *shard, uint32_t *at, uint32_t *version, mcs_buf_t *keys)
{
    bool through = false;
    mcs_buf_reset(keys);
    mcs_mutex_lock(&shard->lock);
    for (uint32_t n = 0; n < WALK_SLOTS; n++) {
        svc_ref_t ref = svc_shard_walk_locked(shard, at, version);
        if (ref == 0) {
            through = true;
            break;
        }
        const svc_record_t *record = svc_record(&service->index, ref);
        if (svc_record_readable(service, record, NULL) &&
            mcs_buf_reserve(keys, sizeof(uint32_t) + record->key_len) == MCS_OK) {
            mcs_buf_put_u32(keys, record->key_len);
            mcs_buf_append(keys, svc_record_key(record), record->key_len);
        }
    }
    mcs_mutex_unlock(&shard->lock);
    return through;
}

void mcs_service_for_each_key(mcs_service_t *service, mcs_service_key_fn fn, void *arg)
{
    mcs_buf_t keys;
    mcs_buf_init(&keys, (size_t)WALK_SLOTS * (MCS_KEY_MAX + sizeof(uint32_t)));
    bool go_on = true;
    for (uint32_t s = 0; s < SVC_SHARDS && go_on; s++) {
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        for (bool through = false; !through && go_on;) {
            through = copy_keys(service, &service->index.shards[s], &at, &version, &keys);
            for (size_t pos = 0; pos < keys.len && go_on;) {
                uint32_t len = mcs_load_u32(keys.bytes + pos);
                go_on = fn(arg, (const char *)keys.bytes + pos + sizeof(len), len);
                pos += sizeof(len) + len;
            }
        }
    }
    mcs_buf_fini(&keys);
}

void mcs_service_for_each_segment(mcs_service_t *service, mcs_service_segment_fn fn, void *arg)
{
    svc_segments_t *segments = &service->segments;
    mcs_buf_t handles;
    mcs_buf_init(&handles, (size_t)SVC_HANDLE_MAX * sizeof(uint32_t));
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        mcs_buf_put_u32(&handles, segments->active[i]->handle);
    }
    mcs_rwlock_rdunlock(&segments->lock);
    for (size_t at = 0; at < handles.len; at += sizeof(uint32_t)) {
        mcs_service_segment_t out;
        mcs_rwlock_rdlock(&segments->lock);
        const svc_segment_t *segment = svc_segment_at(service, mcs_load_u32(handles.bytes + at));
        if (segment != NULL) {
            svc_segment_fill(segment, &out);
        }
        mcs_rwlock_rdunlock(&segments->lock);
        if (segment != NULL && !fn(arg, &out)) {
            break;
        }
    }
    mcs_buf_fini(&handles);
}

static void fill_replica(const svc_segment_t *segment, const svc_record_t *record, const svc_replica_t *replica,
                         mcs_service_replica_t *out)
{
    mcs_service_segment_t text;
    svc_segment_fill(segment, &text);
    memset(out, 0, sizeof(*out));
    out->size = record->payload_len;
    out->address = segment->base + svc_place_offset(replica->place) + mcs_extent_payload_offset(record->payload_len);
    memcpy(out->protocol, text.protocol, sizeof(out->protocol));
    memcpy(out->transport_endpoint, text.transport_endpoint, sizeof(out->transport_endpoint));
}

mcs_status_t mcs_service_query_key(mcs_service_t *service, const char *key, uint32_t key_len, bool lease,
                                   mcs_service_replica_t *replicas, uint32_t max, uint32_t *count_out)
{
    if (key_len == 0 || key_len > MCS_KEY_MAX) {
        return MCS_ERR_OBJECT_NOT_FOUND;
    }
    uint64_t hash = svc_index_hash(&service->index, key, key_len);
    svc_shard_t *shard = svc_index_shard(&service->index, hash);
    uint32_t count = 0;
    mcs_status_t status = MCS_ERR_OBJECT_NOT_FOUND;
    mcs_mutex_lock(&shard->lock);
    svc_ref_t ref = svc_shard_find_locked(&service->index, shard, hash, key, key_len);
    const svc_record_t *record = ref != 0 ? svc_record(&service->index, ref) : NULL;
    if (record != NULL && (record->flags & SVC_REC_COMMITTED) == 0) {
        status = MCS_ERR_REPLICA_IS_NOT_READY;
    } else if (record != NULL && svc_record_readable(service, record, NULL)) {
        for (uint32_t i = 0; i < record->replica_count && count < max; i++) {
            const svc_segment_t *segment = svc_segment_at(service, svc_place_handle(record->replicas[i].place));
            if (segment != NULL && svc_segment_readable(segment, NULL)) {
                fill_replica(segment, record, &record->replicas[i], &replicas[count++]);
            }
        }
        if (lease) {
            svc_record_grant_locked(service, shard, ref, hash, mcs_now_ns());
        }
        status = MCS_OK;
    }
    mcs_mutex_unlock(&shard->lock);
    if (status == MCS_OK) {
        *count_out = count;
    }
    return status;
}

static void add_segments(mcs_service_t *service, mcs_service_totals_t *totals)
{
    svc_segments_t *segments = &service->segments;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        const svc_segment_t *segment = segments->active[i];
        totals->segments++;
        totals->suspect_segments += (svc_segment_flags(segment) & SVC_SEG_SUSPECT) != 0;
        totals->unclaimed_segments += (svc_segment_flags(segment) & SVC_SEG_RECOVERING) != 0;
        totals->capacity_bytes += segment->size;
        totals->allocated_bytes += __atomic_load_n(&segment->used, __ATOMIC_RELAXED);
        totals->quarantine_bytes += __atomic_load_n(&segment->quarantine, __ATOMIC_RELAXED);
    }
    mcs_rwlock_rdunlock(&segments->lock);
}

/* Counters of the shards, without their locks: each is right, the sum is of about one moment. */
static void add_shards(const mcs_service_t *service, mcs_service_totals_t *totals)
{
    uint64_t listed = 0;
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        const svc_shard_t *shard = &service->index.shards[i];
        totals->objects += __atomic_load_n(&shard->committed, __ATOMIC_RELAXED);
        totals->soft_pinned += __atomic_load_n(&shard->soft_pinned, __ATOMIC_RELAXED);
        totals->reservations += __atomic_load_n(&shard->open_puts, __ATOMIC_RELAXED);
        totals->spares += __atomic_load_n(&shard->spare_count, __ATOMIC_RELAXED);
        totals->spare_bytes += __atomic_load_n(&shard->spare_bytes, __ATOMIC_RELAXED);
        totals->leased += __atomic_load_n(&shard->lists[SVC_LIST_LEASED].count, __ATOMIC_RELAXED);
        for (svc_list_t list = SVC_LIST_NONE + 1; list < SVC_LIST_COUNT; list++) {
            listed += __atomic_load_n(&shard->lists[list].count, __ATOMIC_RELAXED);
        }
    }
    /* Of what can be read, only hard-pinned objects are in no list. */
    totals->hard_pinned = totals->objects > listed ? totals->objects - listed : 0;
}

static uint32_t count_fences(svc_session_t *session)
{
    mcs_mutex_lock(&session->release_lock);
    uint32_t fences = session->revoked.count;
    mcs_mutex_unlock(&session->release_lock);
    return fences;
}

static bool is_suspect(mcs_service_t *service, svc_session_t *session)
{
    return __atomic_load_n(&session->connected, __ATOMIC_ACQUIRE) == 0 ||
           __atomic_load_n(&session->steady_ns, __ATOMIC_ACQUIRE) > svc_clock(service);
}

static void add_sessions(mcs_service_t *service, mcs_service_totals_t *totals)
{
    mcs_mutex_lock(&service->lock);
    totals->clients = service->session_count;
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        bool owns = __atomic_load_n(&session->segment_count, __ATOMIC_RELAXED) > 0;
        totals->suspect_clients += owns && is_suspect(service, session);
        totals->fences += count_fences(session);
    }
    mcs_mutex_unlock(&service->lock);
}

static void add_journal(mcs_service_t *service, mcs_service_totals_t *totals)
{
    mcs_journal_stats_t stats;
    if (service->journal == NULL) {
        return;
    }
    mcs_journal_stats(service->journal, &stats);
    totals->journal_on = stats.on;
    totals->journal_bytes = stats.bytes;
    totals->journal_files = stats.files;
    totals->journal_records = stats.records;
    totals->journal_record_bytes = stats.record_bytes;
    totals->journal_snapshots = stats.snapshots;
    totals->journal_errors = stats.errors;
    totals->journal_waits = stats.waits;
    totals->journal_synced = stats.synced_ms / 1000;
    totals->recovered_objects = service->recovered.objects;
    totals->recovered_segments = service->recovered.segments;
    totals->recovery_lost = service->recovered.lost;
    totals->recovery_damaged = service->recovered.damaged;
    totals->recovery_ms = service->recovered.took_ms;
}

/* References to the sessions of this moment, as pointers. */
static void copy_sessions(mcs_service_t *service, mcs_buf_t *sessions)
{
    mcs_mutex_lock(&service->lock);
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        if (mcs_buf_reserve(sessions, sizeof(session)) != MCS_OK) {
            break;
        }
        svc_session_get(session);
        mcs_buf_append(sessions, &session, sizeof(session));
    }
    mcs_mutex_unlock(&service->lock);
}

static void fill_client(mcs_service_t *service, svc_session_t *session, mcs_service_client_t *out)
{
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", session->host_name);
    snprintf(out->wire, sizeof(out->wire), "%s", session->wire_name);
    out->client = session->client;
    out->pid = session->pid;
    out->connected = __atomic_load_n(&session->connected, __ATOMIC_ACQUIRE) != 0;
    out->suspect = is_suspect(service, session);
    out->segments = __atomic_load_n(&session->segment_count, __ATOMIC_RELAXED);
    out->open_puts = __atomic_load_n(&session->open_puts, __ATOMIC_RELAXED);
    mcs_mutex_lock(&session->release_lock);
    out->fences = session->revoked.count;
    out->releases = session->endings.count;
    mcs_mutex_unlock(&session->release_lock);
    uint64_t seen_ns = __atomic_load_n(&session->last_seen_ns, __ATOMIC_ACQUIRE);
    uint64_t now_ns = svc_clock(service);
    out->silent_ms = now_ns > seen_ns ? (now_ns - seen_ns) / MCS_NS_PER_MS : 0;
}

void mcs_service_for_each_client(mcs_service_t *service, mcs_service_client_fn fn, void *arg)
{
    mcs_buf_t sessions;
    mcs_buf_init(&sessions, (size_t)UINT16_MAX * 2 * sizeof(svc_session_t *));
    copy_sessions(service, &sessions);
    bool go_on = true;
    for (size_t at = 0; at < sessions.len; at += sizeof(svc_session_t *)) {
        svc_session_t *session;
        mcs_service_client_t client;
        memcpy(&session, sessions.bytes + at, sizeof(session));
        if (go_on && !svc_session_ended(session)) {
            fill_client(service, session, &client);
            go_on = fn(arg, &client);
        }
        svc_session_put(session);
    }
    mcs_buf_fini(&sessions);
}

bool mcs_service_has_client(mcs_service_t *service, const char *name)
{
    bool found = false;
    mcs_mutex_lock(&service->lock);
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        const svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        found = found || strcmp(session->host_name, name) == 0;
    }
    mcs_mutex_unlock(&service->lock);
    return found;
}

void mcs_service_totals(mcs_service_t *service, mcs_service_totals_t *totals_out)
{
    mcs_service_totals_t totals = {.epoch = svc_epoch(service)};
    add_shards(service, &totals);
    add_segments(service, &totals);
    add_sessions(service, &totals);
    add_journal(service, &totals);
    totals.connections = service->server != NULL ? mcs_rpc_server_connections(service->server) : 0;
    totals.releases = __atomic_load_n(&service->releases, __ATOMIC_RELAXED);
    totals.strikes = __atomic_load_n(&service->strikes, __ATOMIC_RELAXED);
    totals.index_bytes = svc_index_bytes(&service->index);
    mcs_mutex_lock(&service->parked_lock);
    totals.parked = service->parked_count;
    mcs_mutex_unlock(&service->parked_lock);
    totals.discarded_staging_bytes = __atomic_load_n(&service->discarded_bytes, __ATOMIC_RELAXED);
    *totals_out = totals;
}
