/* Placement: which segments get the extents of an object.
 *
 * Order: preferred names as given, then (same_node) the sender's host, then the strategy of the flag: a random start
 * and a scan over all (random), the sender's own segments first (local_first), the emptiest of a sample
 * (free_ratio_first). Segments in the memory of a device are only for who names them, and runs on their host. Each
 * extent of an object lies on a segment of another name; suspect, draining and gone segments, those the sender could
 * not reach and those of another data plane generation get nothing. Best effort: one extent is enough.
 *
 * The scan looks at two atomics of a segment before it takes its allocator's lock. Under the table's read lock; on the
 * request path. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

/* Allocators that a scan really asks before it gives up: each failed, though it had the bytes free in sum. */
#define TRIES_MAX 100u
#define SAMPLE    6u

uint64_t svc_name_hash(const char *name, size_t len)
{
    return mcs_hash64(0x6d63732d6e616d65, name, len);
}

/* The host of "host:port", "[v6]:port" or one of these and "/device"; the whole name when there is no port. */
static size_t host_len(const char *name)
{
    size_t len = strcspn(name, "/");
    for (size_t i = len; i > 0; i--) {
        if (name[i - 1] == ':') {
            return i - 1;
        }
    }
    return len;
}

static mcs_status_t add_preferred(svc_place_ask_t *ask, const char *name)
{
    size_t len = strlen(name);
    if (len == 0) {
        return MCS_OK;
    }
    if (len > SVC_NAME_MAX || ask->preferred_count >= SVC_PREFERRED_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    ask->preferred[ask->preferred_count++] = svc_name_hash(name, len);
    return MCS_OK;
}

mcs_status_t svc_place_init(svc_place_ask_t *ask, mcs_service_t *service, svc_session_t *session,
                            const Mcs__Wire__PutConfig *config)
{
    memset(ask, 0, sizeof(*ask));
    ask->service = service;
    ask->session = session;
    if (config->n_preferred_segments > SVC_PREFERRED_MAX || config->n_excluded_segments > SVC_EXCLUDED_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    for (size_t i = 0; i < config->n_preferred_segments; i++) {
        mcs_status_t status = add_preferred(ask, config->preferred_segments[i]);
        if (status != MCS_OK) {
            return status;
        }
    }
    ask->excluded = config->excluded_segments;
    ask->excluded_count = (uint32_t)config->n_excluded_segments;
    ask->same_node = config->same_node != 0;
    if (ask->same_node) {
        const char *host = config->host_id[0] != '\0' ? config->host_id : session->host_name;
        ask->host_hash = svc_name_hash(host, host_len(host));
    }
    return MCS_OK;
}

/* The search for the extents of one object. */
typedef struct search {
    svc_place_ask_t *ask;
    uint64_t payload_len;
    uint32_t want;
    uint32_t found;
    bool named; /* the segments at hand were asked for by name */
    uint32_t tries;
    svc_extent_t *extents;
    bool possible;
} search_t;

static bool is_excluded(const svc_place_ask_t *ask, uint32_t handle)
{
    for (uint32_t i = 0; i < ask->excluded_count; i++) {
        if (ask->excluded[i] == handle) {
            return true;
        }
    }
    return false;
}

static bool may_take(const search_t *search, const svc_segment_t *segment)
{
    if (svc_segment_flags(segment) != 0 || !svc_segment_readable(segment, search->ask->session) ||
        is_excluded(search->ask, segment->handle)) {
        return false;
    }
    if (segment->shift != 0 && (!search->named || segment->owner->boot_id[0] == '\0' ||
                                strcmp(segment->owner->boot_id, search->ask->session->boot_id) != 0)) {
        return false;
    }
    for (uint32_t i = 0; i < search->found; i++) {
        if (search->extents[i].segment->name_hash == segment->name_hash) {
            return false;
        }
    }
    for (uint32_t i = 0; i < search->ask->avoided_count; i++) {
        if (search->ask->avoided[i] == segment->name_hash) {
            return false;
        }
    }
    return true;
}

static void try_segment(search_t *search, svc_segment_t *segment)
{
    uint64_t len = mcs_extent_room(search->payload_len, segment->shift);
    if (!may_take(search, segment) || len > segment->size) {
        return;
    }
    search->possible = true;
    if (len > segment->size - MCS_MIN(segment->size, __atomic_load_n(&segment->used, __ATOMIC_RELAXED)) ||
        search->tries >= TRIES_MAX) {
        return;
    }
    svc_extent_t extent = {.segment = segment, .len = len};
    mcs_mutex_lock(&segment->lock);
    mcs_status_t status = mcs_allocator_alloc(segment->allocator, len, &extent.offset);
    if (status == MCS_OK) {
        __atomic_fetch_add(&segment->used, len, __ATOMIC_RELAXED);
    }
    mcs_mutex_unlock(&segment->lock);
    if (status == MCS_OK) {
        svc_segment_get(segment);
        search->extents[search->found++] = extent;
    } else {
        search->tries++;
    }
}

static void try_preferred_locked(search_t *search, const svc_segments_t *segments)
{
    const svc_place_ask_t *ask = search->ask;
    search->named = true;
    for (uint32_t p = 0; p < ask->preferred_count && search->found < search->want; p++) {
        for (uint32_t i = 0; i < segments->active_count && search->found < search->want; i++) {
            if (segments->active[i]->name_hash == ask->preferred[p]) {
                try_segment(search, segments->active[i]);
            }
        }
    }
    search->named = false;
    for (uint32_t i = 0; ask->host_hash != 0 && i < segments->active_count && search->found < search->want; i++) {
        const char *name = segments->active[i]->name;
        if (svc_name_hash(name, host_len(name)) == ask->host_hash) {
            try_segment(search, segments->active[i]);
        }
    }
}

static void try_local_locked(search_t *search, const svc_segments_t *segments)
{
    for (uint32_t i = 0; i < segments->active_count && search->found < search->want; i++) {
        if (segments->active[i]->owner == search->ask->session) {
            try_segment(search, segments->active[i]);
        }
    }
}

static double free_ratio(const svc_segment_t *segment)
{
    uint64_t used = __atomic_load_n(&segment->used, __ATOMIC_RELAXED);
    return 1.0 - (double)used / (double)segment->size;
}

/* The emptiest of a sample, again and again until all are found or the samples bring nothing. */
static void try_emptiest_locked(search_t *search, const svc_segments_t *segments)
{
    for (uint32_t round = 0; round < 2 * search->want && search->found < search->want; round++) {
        svc_segment_t *best = NULL;
        for (uint32_t i = 0; i < SAMPLE * search->want; i++) {
            svc_segment_t *segment = segments->active[svc_random32() % segments->active_count];
            if (may_take(search, segment) && (best == NULL || free_ratio(segment) > free_ratio(best))) {
                best = segment;
            }
        }
        if (best == NULL) {
            return;
        }
        try_segment(search, best);
    }
}

static void try_all_locked(search_t *search, const svc_segments_t *segments)
{
    uint32_t start = svc_random32() % segments->active_count;
    for (uint32_t i = 0; i < segments->active_count && search->found < search->want; i++) {
        try_segment(search, segments->active[(start + i) % segments->active_count]);
    }
}

uint32_t svc_place_extents(svc_place_ask_t *ask, uint64_t payload_len, uint32_t want, svc_extent_t *extents,
                           bool *possible)
{
    svc_segments_t *segments = &ask->service->segments;
    search_t search = {.ask = ask, .payload_len = payload_len, .want = want, .extents = extents};
    const char *strategy = ask->service->conf->allocation_strategy;
    mcs_rwlock_rdlock(&segments->lock);
    if (segments->active_count > 0) {
        try_preferred_locked(&search, segments);
        if (ask->only_preferred) {
            goto out;
        }
        if (strcmp(strategy, "local_first") == 0) {
            try_local_locked(&search, segments);
        } else if (strcmp(strategy, "free_ratio_first") == 0) {
            try_emptiest_locked(&search, segments);
        }
        try_all_locked(&search, segments);
    }
out:
    mcs_rwlock_rdunlock(&segments->lock);
    *possible = search.possible;
    if (search.found > 0 && ask->same_node && ask->preferred_count < MCS_ARRAY_LEN(ask->preferred)) {
        /* The rest of the batch follows its first object. */
        ask->same_node = false;
        ask->preferred[ask->preferred_count++] = extents[0].segment->name_hash;
    }
    return search.found;
}
