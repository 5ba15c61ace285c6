/* Mounted segments: the table of handles, mounting, unmounting, and what is told about them.
 *
 * A segment lives while it is mounted, while an extent of it is in the index or on its way back, and while somebody
 * holds it. So whoever has a record under its shard's lock may follow the handle without a lock; everybody else needs
 * the table's. Handles are never reused: what a client has cached under a handle is true for the master's life. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/parse.h"
#include "master/svc_internal.h"

#define SIZE_LIMIT     (UINT64_C(1) << 46)
#define ENDPOINT_LIMIT ((size_t)8192)
#define LIST_MAX       8192u

mcs_status_t svc_segments_init(svc_segments_t *segments)
{
    mcs_rwlock_init(&segments->lock, MCS_RANK_SEGMENTS, "segments");
    segments->next_handle = 1;
    return MCS_OK;
}

void svc_segments_fini(svc_segments_t *segments)
{
    for (uint32_t i = 0; i < SVC_HANDLE_CHUNK; i++) {
        mcs_free(segments->chunks[i]);
    }
    mcs_free(segments->active);
    mcs_rwlock_fini(&segments->lock);
}

/* ---- handles ---- */

svc_segment_t *svc_segment_at(const mcs_service_t *service, uint32_t handle)
{
    if (handle > SVC_HANDLE_MAX) {
        return NULL;
    }
    svc_segment_t **chunk = __atomic_load_n(&service->segments.chunks[handle / SVC_HANDLE_CHUNK], __ATOMIC_ACQUIRE);
    return chunk == NULL ? NULL : __atomic_load_n(&chunk[handle % SVC_HANDLE_CHUNK], __ATOMIC_ACQUIRE);
}

mcs_status_t svc_segment_add_locked(svc_segments_t *segments, svc_segment_t *segment, uint32_t handle)
{
    handle = handle != 0 ? handle : segments->next_handle;
    if (handle > SVC_HANDLE_MAX) {
        return MCS_ERR_LIMIT;
    }
    if (segments->active_count == segments->active_cap) {
        uint32_t cap = MCS_MAX(segments->active_cap * 2, 64u);
        svc_segment_t **active = mcs_realloc(segments->active, cap * sizeof(*active));
        if (active == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        segments->active = active;
        segments->active_cap = cap;
    }
    svc_segment_t ***chunk = &segments->chunks[handle / SVC_HANDLE_CHUNK];
    if (*chunk == NULL) {
        svc_segment_t **fresh = MCS_NEW_ARRAY(svc_segment_t *, SVC_HANDLE_CHUNK);
        if (fresh == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        __atomic_store_n(chunk, fresh, __ATOMIC_RELEASE);
    }
    segment->handle = handle;
    segments->next_handle = MCS_MAX(segments->next_handle, handle + 1);
    __atomic_store_n(&(*chunk)[segment->handle % SVC_HANDLE_CHUNK], segment, __ATOMIC_RELEASE);
    segments->active[segments->active_count++] = segment;
    return MCS_OK;
}

bool svc_segment_drop_locked(svc_segments_t *segments, const svc_segment_t *segment)
{
    for (uint32_t i = 0; i < segments->active_count; i++) {
        if (segments->active[i] == segment) {
            segments->active[i] = segments->active[--segments->active_count];
            return true;
        }
    }
    return false;
}

static svc_segment_t *find_instance_locked(const svc_segments_t *segments, mcs_id_t instance)
{
    for (uint32_t i = 0; i < segments->active_count; i++) {
        if (mcs_id_equal(segments->active[i]->instance, instance)) {
            return segments->active[i];
        }
    }
    return NULL;
}

/* ---- life of one ---- */

void svc_segment_free(svc_segment_t *segment)
{
    mcs_allocator_destroy(segment->allocator);
    mcs_mutex_fini(&segment->lock);
    mcs_free(segment->name);
    mcs_free(segment->protocol);
    mcs_free(segment->ipc_path);
    mcs_free(segment->transport_endpoint);
    mcs_free(segment->wire_endpoint);
    svc_session_put(segment->owner);
    mcs_free(segment);
}

void svc_segment_put(mcs_service_t *service, svc_segment_t *segment)
{
    if (__atomic_sub_fetch(&segment->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    svc_segments_t *segments = &service->segments;
    mcs_rwlock_wrlock(&segments->lock);
    svc_segment_t **chunk = segments->chunks[segment->handle / SVC_HANDLE_CHUNK];
    __atomic_store_n(&chunk[segment->handle % SVC_HANDLE_CHUNK], NULL, __ATOMIC_RELEASE);
    mcs_rwlock_wrunlock(&segments->lock);
    svc_segment_free(segment);
}

void svc_segment_give_back(mcs_service_t *service, svc_segment_t *segment, uint64_t offset, uint64_t len)
{
    mcs_mutex_lock(&segment->lock);
    uint64_t bytes = mcs_allocator_free(segment->allocator, offset, len);
    __atomic_fetch_sub(&segment->used, bytes, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&segment->lock);
    svc_segment_put(service, segment);
}

#define DEVICE     "cuda:"
#define DEVICE_MAX 1023u

/* Is it the memory of a device, and of which? False: it says so, but of which is not to be understood. */
static bool parse_location(const char *location, bool *far, uint64_t *device)
{
    *far = strncmp(location, DEVICE, strlen(DEVICE)) == 0;
    return !*far || mcs_parse_u64(location + strlen(DEVICE), DEVICE_MAX, device) == MCS_OK;
}

svc_segment_t *svc_segment_create(svc_session_t *owner, const Mcs__Wire__MountSegment *request)
{
    svc_segment_t *segment = MCS_NEW(svc_segment_t);
    if (segment == NULL) {
        return NULL;
    }
    segment->refs = 1;
    segment->gone_ns = MCS_NEVER;
    segment->owner = owner;
    svc_session_get(owner);
    mcs_mutex_init(&segment->lock, MCS_RANK_ALLOCATOR, "allocator");
    segment->instance = (mcs_id_t){request->instance->hi, request->instance->lo};
    segment->name = mcs_strdup(request->name);
    segment->protocol = mcs_strdup(request->protocol);
    segment->ipc_path = mcs_strdup(request->ipc_path);
    segment->transport_endpoint = mcs_strdup(request->transport_endpoint);
    segment->wire_endpoint_len = request->endpoint.len;
    segment->wire_endpoint = mcs_malloc(request->endpoint.len);
    segment->base = request->base_address;
    segment->size = request->size;
    bool far;
    uint64_t device = 0;
    if (parse_location(request->location, &far, &device) && far) {
        snprintf(segment->location, sizeof(segment->location), "%s", request->location);
        segment->device = (uint16_t)device;
        segment->shift = MCS_EXTENT_FAR_SHIFT;
    }
    segment->wire = owner->wire;
    segment->key = (mcs_mac_key_t){mcs_random_u64(), mcs_random_u64()};
    if (segment->name == NULL || segment->protocol == NULL || segment->ipc_path == NULL ||
        segment->transport_endpoint == NULL || segment->wire_endpoint == NULL ||
        mcs_allocator_create(request->size, &segment->allocator) != MCS_OK) {
        svc_segment_free(segment);
        return NULL;
    }
    if (request->endpoint.len > 0) {
        memcpy(segment->wire_endpoint, request->endpoint.data, request->endpoint.len);
    }
    segment->name_hash = svc_name_hash(segment->name, strlen(segment->name));
    return segment;
}

/* ---- mount and unmount ---- */

static bool mount_is_valid(const Mcs__Wire__MountSegment *request)
{
    size_t name = strlen(request->name);
    bool far;
    uint64_t device = 0;
    if (!parse_location(request->location, &far, &device) || (far && request->size % MCS_EXTENT_FAR_ALIGN != 0)) {
        return false;
    }
    return request->instance != NULL && (request->instance->hi | request->instance->lo) != 0 && name > 0 &&
           name <= SVC_NAME_MAX && request->size >= MCS_ALLOCATOR_GRANULE && request->size <= SIZE_LIMIT &&
           strlen(request->protocol) < 16 && request->endpoint.len <= ENDPOINT_LIMIT &&
           strlen(request->ipc_path) <= 107 && strlen(request->transport_endpoint) <= SVC_NAME_MAX;
}

/* What a mount of memory that is mounted already comes to. The same again from its owner is fine (idempotent by
 * instance); memory has one owner. */
static mcs_status_t mount_again_locked(svc_call_t *call, const Mcs__Wire__MountSegment *request, svc_segment_t *other,
                                       svc_segment_t *fresh)
{
    if (other->owner != call->session || other->size != fresh->size) {
        return MCS_ERR_SEGMENT_ALREADY_EXISTS;
    }
    if ((svc_segment_flags(other) & SVC_SEG_RECOVERING) == 0) {
        return MCS_OK;
    }
    if (!request->resumes) {
        return MCS_ERR_SEGMENT_ALREADY_EXISTS;
    }
    svc_adopt_locked(call->service, other, fresh, request->high_mark);
    return MCS_OK;
}

static mcs_status_t mount(svc_call_t *call, const Mcs__Wire__MountSegment *request, svc_segment_t **segment_out)
{
    svc_segments_t *segments = &call->service->segments;
    svc_session_t *session = call->session;
    svc_segment_t *segment = svc_segment_create(session, request);
    if (segment == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = MCS_OK;
    mcs_rwlock_wrlock(&segments->lock);
    svc_segment_t *other = find_instance_locked(segments, segment->instance);
    if (other != NULL) {
        status = mount_again_locked(call, request, other, segment);
        if (status == MCS_OK) {
            svc_segment_get(other);
            *segment_out = other;
        }
    } else if (request->resumes) {
        status = MCS_ERR_SEGMENT_NOT_FOUND; /* nothing of it is known: its owner mounts new memory */
    } else if (svc_session_ended(session)) {
        status = MCS_ERR_SESSION_ENDED; /* its other segments are being unmounted right now */
    } else if (__atomic_load_n(&session->segment_count, __ATOMIC_RELAXED) >= SVC_SEGMENTS_PER_SESSION) {
        status = MCS_ERR_LIMIT;
    } else {
        if (__atomic_load_n(&session->suspect, __ATOMIC_ACQUIRE) != 0) {
            segment->flags = SVC_SEG_SUSPECT;
        }
        status = svc_segment_add_locked(segments, segment, 0);
        if (status == MCS_OK) {
            __atomic_fetch_add(&session->segment_count, 1, __ATOMIC_RELAXED);
            svc_journal_segment(call->service, segment);
            svc_segment_get(segment);
            *segment_out = segment;
            segment = NULL;
        }
    }
    mcs_rwlock_wrunlock(&segments->lock);
    if (segment != NULL) {
        svc_segment_free(segment);
    }
    return status;
}

mcs_status_t svc_mount_segment(svc_call_t *call)
{
    const Mcs__Wire__MountSegment *request = (const Mcs__Wire__MountSegment *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    mcs_status_t status = svc_begin(call, request->sequence, 64);
    if (status == MCS_ERR_AGAIN) {
        return MCS_OK;
    }
    mcs_metric_add(metrics, mount_segment_requests, 1);
    svc_segment_t *segment = NULL;
    if (status == MCS_OK) {
        status = mount_is_valid(request) ? mount(call, request, &segment) : MCS_ERR_INVALID_PARAMS;
    }
    if (status != MCS_OK) {
        mcs_metric_add(metrics, mount_segment_failures, 1);
        mcs_warn(SVC_AREA, "segment %.300s of %s not mounted: %s", request->name, mcs_rpc_conn_peer(call->conn),
                 mcs_status_name(status));
        return status;
    }
    mcs_info(SVC_AREA, "segment %s mounted: %llu bytes, handle %u", segment->name, (unsigned long long)segment->size,
             segment->handle);
    Mcs__Wire__MountSegmentReply reply = MCS__WIRE__MOUNT_SEGMENT_REPLY__INIT;
    reply.handle = segment->handle;
    reply.mac_k0 = segment->key.k0;
    reply.mac_k1 = segment->key.k1;
    svc_segment_put(call->service, segment);
    svc_stir(call->service); /* a put may wait for space */
    return svc_reply(call, MCS_OK, &reply.base);
}

/* Hides it and takes it out of the list; the caller drops the list's reference. */
static bool unmount_locked(svc_segments_t *segments, svc_segment_t *segment, bool left)
{
    if (!svc_segment_drop_locked(segments, segment)) {
        return false;
    }
    __atomic_fetch_or(&segment->flags, (uint32_t)(SVC_SEG_GONE | (left ? SVC_SEG_LEFT : 0)), __ATOMIC_ACQ_REL);
    __atomic_store_n(&segment->gone_ns, mcs_now_ns(), __ATOMIC_RELEASE);
    __atomic_fetch_sub(&segment->owner->segment_count, 1, __ATOMIC_RELAXED);
    return true;
}

static void after_unmount(mcs_service_t *service, svc_segment_t *segment)
{
    mcs_info(SVC_AREA, "segment %s unmounted: handle %u", segment->name, segment->handle);
    svc_journal_unmount(service, segment->handle);
    svc_drop_tail(service, segment);
    svc_segment_put(service, segment);
    __atomic_store_n(&service->sweep_wanted, 1, __ATOMIC_RELEASE);
    svc_wake(service);
}

mcs_status_t svc_unmount_segment(svc_call_t *call)
{
    const Mcs__Wire__UnmountSegment *request = (const Mcs__Wire__UnmountSegment *)call->message;
    mcs_service_t *service = call->service;
    mcs_status_t status = svc_begin(call, request->sequence, 16);
    if (status == MCS_ERR_AGAIN) {
        return MCS_OK;
    }
    mcs_metric_add(service->metrics, unmount_segment_requests, 1);
    svc_segment_t *segment = NULL;
    if (status == MCS_OK) {
        mcs_id_t instance =
            request->instance != NULL ? (mcs_id_t){request->instance->hi, request->instance->lo} : (mcs_id_t){0, 0};
        mcs_rwlock_wrlock(&service->segments.lock);
        segment = find_instance_locked(&service->segments, instance);
        status = segment == NULL                   ? MCS_ERR_SEGMENT_NOT_FOUND
                 : segment->owner != call->session ? MCS_ERR_ILLEGAL_CLIENT
                                                   : MCS_OK;
        if (status == MCS_OK && request->grace_seconds > 0) {
            uint64_t grace = MCS_MIN(request->grace_seconds, 86400u) * MCS_NS_PER_SEC;
            __atomic_fetch_or(&segment->flags, SVC_SEG_GRACE, __ATOMIC_ACQ_REL);
            segment->drain_until_ns = svc_clock(service) + grace;
            segment = NULL; /* housekeeping ends it */
        } else if (status == MCS_OK) {
            unmount_locked(&service->segments, segment, true);
        }
        mcs_rwlock_wrunlock(&service->segments.lock);
    }
    if (status != MCS_OK) {
        mcs_metric_add(service->metrics, unmount_segment_failures, 1);
        return status;
    }
    if (segment != NULL) {
        after_unmount(service, segment);
    }
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* Unmounts segments one by one: `next` picks one under the lock. */
static void unmount_where(mcs_service_t *service, bool (*wanted)(const svc_segment_t *segment, const void *arg),
                          const void *arg, bool left)
{
    svc_segments_t *segments = &service->segments;
    for (;;) {
        svc_segment_t *found = NULL;
        mcs_rwlock_wrlock(&segments->lock);
        for (uint32_t i = 0; i < segments->active_count && found == NULL; i++) {
            if (wanted(segments->active[i], arg)) {
                found = segments->active[i];
                unmount_locked(segments, found, left);
            }
        }
        mcs_rwlock_wrunlock(&segments->lock);
        if (found == NULL) {
            return;
        }
        after_unmount(service, found);
    }
}

static bool is_of_session(const svc_segment_t *segment, const void *session)
{
    return segment->owner == session;
}

void svc_segments_unmount_all(svc_session_t *session, bool left)
{
    unmount_where(session->service, is_of_session, session, left);
}

static bool has_drained(const svc_segment_t *segment, const void *now)
{
    return (svc_segment_flags(segment) & SVC_SEG_GRACE) != 0 && *(const uint64_t *)now >= segment->drain_until_ns;
}

static bool is_unclaimed(const svc_segment_t *segment, const void *arg)
{
    (void)arg;
    return (svc_segment_flags(segment) & SVC_SEG_RECOVERING) != 0;
}

void svc_segments_tick(mcs_service_t *service, uint64_t now_ns)
{
    /* By our clock: its owner may not have closed it yet. */
    unmount_where(service, has_drained, &now_ns, false);
    if (service->claim_end_ns != 0 && now_ns >= service->claim_end_ns) {
        service->claim_end_ns = 0;
        unmount_where(service, is_unclaimed, NULL, false);
    }
}

void svc_segments_set_suspect(svc_session_t *session, bool suspect)
{
    svc_segments_t *segments = &session->service->segments;
    mcs_rwlock_wrlock(&segments->lock);
    __atomic_store_n(&session->suspect, suspect ? 1 : 0, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        svc_segment_t *segment = segments->active[i];
        if (segment->owner != session) {
            continue;
        }
        if (suspect) {
            __atomic_fetch_or(&segment->flags, SVC_SEG_SUSPECT, __ATOMIC_ACQ_REL);
        } else {
            __atomic_fetch_and(&segment->flags, ~(uint32_t)SVC_SEG_SUSPECT, __ATOMIC_ACQ_REL);
        }
    }
    mcs_rwlock_wrunlock(&segments->lock);
}

/* ---- what is told ---- */

typedef struct record_box {
    Mcs__Wire__SegmentRecord record;
    Mcs__Wire__Id ids[3];
} record_box_t;

static void set_id(Mcs__Wire__Id *id, mcs_id_t value)
{
    mcs__wire__id__init(id);
    id->hi = value.hi;
    id->lo = value.lo;
}

/* Pointers into the segment: good while the table's lock is held. */
static void fill_record(const mcs_service_t *service, const svc_segment_t *segment, record_box_t *box)
{
    Mcs__Wire__SegmentRecord *record = &box->record;
    uint32_t flags = svc_segment_flags(segment);
    mcs__wire__segment_record__init(record);
    set_id(&box->ids[0], segment->instance);
    set_id(&box->ids[1], segment->owner->client);
    set_id(&box->ids[2], segment->owner->id);
    record->handle = segment->handle;
    record->instance = &box->ids[0];
    record->owner = &box->ids[1];
    record->owner_session = &box->ids[2];
    record->name = segment->name;
    record->size = segment->size;
    record->protocol = segment->protocol;
    record->endpoint = (ProtobufCBinaryData){segment->wire_endpoint_len, segment->wire_endpoint};
    record->wire = segment->owner->wire_name;
    record->ipc_path = segment->ipc_path;
    record->boot_id = segment->owner->boot_id;
    record->transport_endpoint = segment->transport_endpoint;
    record->base_address = segment->base;
    record->state = svc_segment_state(flags);
    record->location = (char *)(uintptr_t)segment->location;
    record->used = __atomic_load_n(&segment->used, __ATOMIC_RELAXED);
    (void)service;
}

static mcs_status_t reply_segments(svc_call_t *call, record_box_t *boxes, size_t count)
{
    Mcs__Wire__SegmentList reply = MCS__WIRE__SEGMENT_LIST__INIT;
    reply.segments = mcs_arena_alloc(call->arena, MCS_MAX(count, (size_t)1) * sizeof(*reply.segments));
    if (reply.segments == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        reply.segments[i] = &boxes[i].record;
    }
    reply.n_segments = count;
    return svc_reply(call, MCS_OK, &reply.base);
}

mcs_status_t svc_segment_info(svc_call_t *call)
{
    const Mcs__Wire__SegmentInfo *request = (const Mcs__Wire__SegmentInfo *)call->message;
    if (request->n_handles > 1024) {
        return MCS_ERR_INVALID_PARAMS;
    }
    record_box_t *boxes = mcs_arena_alloc(call->arena, MCS_MAX(request->n_handles, (size_t)1) * sizeof(*boxes));
    if (boxes == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t count = 0;
    mcs_rwlock_rdlock(&call->service->segments.lock);
    for (size_t i = 0; i < request->n_handles; i++) {
        const svc_segment_t *segment = svc_segment_at(call->service, request->handles[i]);
        if (segment != NULL) {
            fill_record(call->service, segment, &boxes[count++]);
        }
    }
    mcs_status_t status = reply_segments(call, boxes, count);
    mcs_rwlock_rdunlock(&call->service->segments.lock);
    return status;
}

mcs_status_t svc_list_segments(svc_call_t *call)
{
    svc_segments_t *segments = &call->service->segments;
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    mcs_rwlock_rdlock(&segments->lock);
    size_t count = MCS_MIN(segments->active_count, LIST_MAX);
    record_box_t *boxes = mcs_arena_alloc(call->arena, MCS_MAX(count, (size_t)1) * sizeof(*boxes));
    if (boxes != NULL) {
        for (size_t i = 0; i < count; i++) {
            fill_record(call->service, segments->active[i], &boxes[i]);
        }
        status = reply_segments(call, boxes, count);
    }
    mcs_rwlock_rdunlock(&segments->lock);
    return status;
}

uint32_t svc_segment_state(uint32_t flags)
{
    enum { OK = 1, DRAINING, DRAINED, GRACEFULLY_UNMOUNTING, UNMOUNTING };
    return (flags & SVC_SEG_GONE) != 0       ? UNMOUNTING
           : (flags & SVC_SEG_GRACE) != 0    ? GRACEFULLY_UNMOUNTING
           : (flags & SVC_SEG_DRAINED) != 0  ? DRAINED
           : (flags & SVC_SEG_DRAINING) != 0 ? DRAINING
                                             : OK;
}

static void copy_text(char *to, size_t size, const char *from)
{
    size_t len = MCS_MIN(strlen(from), size - 1);
    memcpy(to, from, len);
    to[len] = '\0';
}

void svc_segment_fill(const svc_segment_t *segment, mcs_service_segment_t *out)
{
    uint32_t flags = svc_segment_flags(segment);
    memset(out, 0, sizeof(*out));
    copy_text(out->name, sizeof(out->name), segment->name);
    copy_text(out->transport_endpoint, sizeof(out->transport_endpoint), segment->transport_endpoint);
    copy_text(out->protocol, sizeof(out->protocol), segment->protocol);
    out->instance = segment->instance;
    out->client = segment->owner->client;
    out->base = segment->base;
    out->size = segment->size;
    out->used = __atomic_load_n(&segment->used, __ATOMIC_RELAXED);
    out->quarantine = __atomic_load_n(&segment->quarantine, __ATOMIC_RELAXED);
    out->state = svc_segment_state(flags);
    out->suspect = (flags & SVC_SEG_SUSPECT) != 0;
}

void svc_segments_usage(mcs_service_t *service, uint64_t *used, uint64_t *returning, uint64_t *capacity)
{
    svc_segments_t *segments = &service->segments;
    *used = *returning = *capacity = 0;
    mcs_rwlock_rdlock(&segments->lock);
    for (uint32_t i = 0; i < segments->active_count; i++) {
        const svc_segment_t *segment = segments->active[i];
        /* Devices' memory is no space for who does not name it. */
        if (svc_segment_flags(segment) == 0 && segment->shift == 0) { /* what can take something */
            *returning +=
                __atomic_load_n(&segment->returning, __ATOMIC_ACQUIRE); /* first: see finish in svc_release.c */
            *used += __atomic_load_n(&segment->used, __ATOMIC_RELAXED);
            *capacity += segment->size;
        }
    }
    mcs_rwlock_rdunlock(&segments->lock);
}
