/* See routes.h.
 *
 * The cache is an open-addressing table under a read-write lock: looked up once per distinct segment of a call, written
 * when a segment is met for the first time. Bounded: a full cache is emptied, which costs an RPC and nothing else. */
#include "core/client/routes.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/device.h"

#define AREA         "client"
#define CACHE_MAX    65536
#define INFO_BATCH   1024 /* handles in one segment_info */
#define MAP_LIMIT_MS 1000 /* for connecting to an owner of this host */

struct mcs_peers {
    mcs_rwlock_t lock; /* MCS_RANK_CLIENT_PEERS; guards everything below */
    mcs_peer_t **table;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
    uint64_t masters; /* flushes: what was asked before the last one is of another master */
};

static uint32_t slot_of(uint32_t handle, uint32_t capacity)
{
    return (uint32_t)((handle * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (capacity - 1);
}

/* ---- records ---- */

static mcs_peer_t *peer_get(mcs_peer_t *peer)
{
    __atomic_fetch_add(&peer->refs, 1, __ATOMIC_RELAXED);
    return peer;
}

void mcs_peer_put(mcs_peer_t *peer)
{
    /* acq_rel: whoever frees sees all uses by the others. */
    if (peer != NULL && __atomic_sub_fetch(&peer->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_free(peer);
    }
}

mcs_peer_t *mcs_peer_make(const mcs_client_t *client, const Mcs__Wire__SegmentRecord *record)
{
    if (record->instance == NULL || record->owner == NULL) {
        return NULL;
    }
    mcs_peer_t *peer = MCS_NEW(mcs_peer_t);
    if (peer == NULL) {
        return NULL;
    }
    peer->refs = 1;
    peer->handle = record->handle;
    peer->instance = (mcs_id_t){record->instance->hi, record->instance->lo};
    peer->owner = (mcs_id_t){record->owner->hi, record->owner->lo};
    peer->size = record->size;
    peer->base_address = record->base_address;
    peer->own = mcs_id_equal(peer->owner, client->id);
    peer->same_host = record->ipc_path[0] != '\0' && strlen(record->ipc_path) < sizeof(peer->ipc_path) &&
                      record->boot_id[0] != '\0' && strcmp(record->boot_id, mcs_boot_id()) == 0;
    peer->wired = client->transport != NULL && record->endpoint.len > 0 && record->endpoint.len <= MCS_ENDPOINT_MAX &&
                  strcmp(record->wire, client->transport_info.wire) == 0;
    peer->far = strncmp(record->location, "cuda:", 5) == 0;
    if (peer->same_host) {
        snprintf(peer->ipc_path, sizeof(peer->ipc_path), "%s", record->ipc_path);
    }
    if (peer->wired) {
        peer->endpoint.len = (uint32_t)record->endpoint.len;
        memcpy(peer->endpoint.bytes, record->endpoint.data, record->endpoint.len);
    }
    snprintf(peer->name, sizeof(peer->name), "%s", record->name);
    snprintf(peer->transport_endpoint, sizeof(peer->transport_endpoint), "%s", record->transport_endpoint);
    return peer;
}

/* ---- the cache ---- */

mcs_status_t mcs_peers_create(mcs_peers_t **peers_out)
{
    mcs_peers_t *peers = MCS_NEW(mcs_peers_t);
    if (peers == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_rwlock_init(&peers->lock, MCS_RANK_CLIENT_PEERS, "peers");
    *peers_out = peers;
    return MCS_OK;
}

static void flush_locked(mcs_peers_t *peers)
{
    for (uint32_t i = 0; i < peers->capacity; i++) {
        mcs_peer_put(peers->table[i]);
    }
    mcs_free(peers->table);
    peers->table = NULL;
    peers->capacity = 0;
    peers->count = 0;
}

void mcs_peers_flush(mcs_peers_t *peers)
{
    mcs_rwlock_wrlock(&peers->lock);
    flush_locked(peers);
    peers->masters++;
    mcs_rwlock_wrunlock(&peers->lock);
}

void mcs_peers_destroy(mcs_peers_t *peers)
{
    if (peers == NULL) {
        return;
    }
    flush_locked(peers);
    mcs_rwlock_fini(&peers->lock);
    mcs_free(peers);
}

/* Where the handle is, or the free slot where it belongs. The table is never full. */
static uint32_t probe(mcs_peer_t *const *table, uint32_t capacity, uint32_t handle)
{
    uint32_t i = slot_of(handle, capacity);
    while (table[i] != NULL && table[i]->handle != handle) {
        i = (i + 1) & (capacity - 1);
    }
    return i;
}

static mcs_peer_t *cache_find(mcs_peers_t *peers, uint32_t handle)
{
    mcs_rwlock_rdlock(&peers->lock);
    mcs_peer_t *peer = NULL;
    if (peers->capacity > 0) {
        peer = peers->table[probe(peers->table, peers->capacity, handle)];
        peer = peer != NULL ? peer_get(peer) : NULL;
    }
    mcs_rwlock_rdunlock(&peers->lock);
    return peer;
}

static uint64_t masters_so_far(mcs_peers_t *peers)
{
    mcs_rwlock_rdlock(&peers->lock);
    uint64_t masters = peers->masters;
    mcs_rwlock_rdunlock(&peers->lock);
    return masters;
}

static bool grow_locked(mcs_peers_t *peers)
{
    if (peers->count >= CACHE_MAX) {
        flush_locked(peers);
    }
    if ((peers->count + 1) * 2 <= peers->capacity) {
        return true;
    }
    uint32_t capacity = peers->capacity == 0 ? 64 : peers->capacity * 2;
    mcs_peer_t **table = MCS_NEW_ARRAY(mcs_peer_t *, capacity);
    if (table == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < peers->capacity; i++) {
        if (peers->table[i] != NULL) {
            table[probe(table, capacity, peers->table[i]->handle)] = peers->table[i];
        }
    }
    mcs_free(peers->table);
    peers->table = table;
    peers->capacity = capacity;
    return true;
}

/* Takes a reference of its own. Without memory the record is merely not remembered. Nor is one that leads nowhere:
 * after a restart a master knows segments before their owners are back, and not yet how these are reached. `masters`
 * as it was before the record was asked for: the answer may be older than a flush that has come in between, and its
 * handle another segment's by now. */
static void cache_add(mcs_peers_t *peers, mcs_peer_t *peer, uint64_t masters)
{
    if (!peer->own && !peer->same_host && !peer->wired) {
        return;
    }
    mcs_rwlock_wrlock(&peers->lock);
    if (peers->masters == masters && grow_locked(peers)) {
        uint32_t i = probe(peers->table, peers->capacity, peer->handle);
        if (peers->table[i] == NULL) {
            peers->count++;
        }
        mcs_peer_put(peers->table[i]);
        peers->table[i] = peer_get(peer);
    }
    mcs_rwlock_wrunlock(&peers->lock);
}

/* ---- routes of a call ---- */

void mcs_routes_init(mcs_routes_t *routes, mcs_client_t *client)
{
    memset(routes, 0, sizeof(*routes));
    routes->client = client;
    routes->table = routes->inlined;
    routes->capacity = MCS_ROUTES_INLINE;
}

void mcs_routes_fini(mcs_routes_t *routes)
{
    for (uint32_t i = 0; i < routes->capacity; i++) {
        mcs_route_t *route = &routes->table[i];
        if (route->mapping != NULL) {
            mcs_mapping_put(route->mapping);
        }
        mcs_peer_put(route->peer);
    }
    if (routes->table != routes->inlined) {
        mcs_free(routes->table);
    }
}

static mcs_route_t *route_slot(mcs_route_t *table, uint32_t capacity, uint32_t handle)
{
    uint32_t i = slot_of(handle, capacity);
    while (table[i].used && table[i].handle != handle) {
        i = (i + 1) & (capacity - 1);
    }
    return &table[i];
}

mcs_route_t *mcs_routes_find(mcs_routes_t *routes, uint32_t handle)
{
    mcs_route_t *route = route_slot(routes->table, routes->capacity, handle);
    return route->used ? route : NULL;
}

static mcs_status_t routes_grow(mcs_routes_t *routes)
{
    if ((routes->count + 1) * 4 <= routes->capacity * 3) {
        return MCS_OK;
    }
    uint32_t capacity = routes->capacity * 2;
    mcs_route_t *table = MCS_NEW_ARRAY(mcs_route_t, capacity);
    if (table == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < routes->capacity; i++) {
        if (routes->table[i].used) {
            *route_slot(table, capacity, routes->table[i].handle) = routes->table[i];
        }
    }
    if (routes->table != routes->inlined) {
        mcs_free(routes->table);
    }
    routes->table = table;
    routes->capacity = capacity;
    return MCS_OK;
}

static void route_set_peer(const mcs_client_t *client, mcs_route_t *route, mcs_peer_t *peer)
{
    route->peer = peer;
    route->path = MCS_PATH_NONE;
    if (peer == NULL) {
        return;
    }
    if (client->config.memcpy_paths && peer->own) {
        route->path = MCS_PATH_OWN;
    } else if (client->config.memcpy_paths && peer->same_host && (!peer->far || mcs_device_active(client))) {
        route->path = MCS_PATH_SAME_HOST;
    } else if (peer->wired) {
        route->path = MCS_PATH_TRANSPORT;
    }
}

/* Asks the master about handles that the cache does not know. */
static mcs_status_t ask(mcs_routes_t *routes, uint32_t *handles, size_t count, unsigned flags)
{
    mcs_client_t *client = routes->client;
    Mcs__Wire__SegmentInfo request = MCS__WIRE__SEGMENT_INFO__INIT;
    request.n_handles = count;
    request.handles = handles;
    mcs_call_t call = {.verb = MCS_VERB_SEGMENT_INFO,
                       .request = &request.base,
                       .reply_type = &mcs__wire__segment_list__descriptor,
                       .flags = flags};
    mcs_reply_t reply;
    uint64_t masters = masters_so_far(client->peers);
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        for (size_t i = 0; i < count; i++) {
            route_slot(routes->table, routes->capacity, handles[i])->asked = true; /* it is there */
        }
        const Mcs__Wire__SegmentList *list = (const Mcs__Wire__SegmentList *)(const void *)reply.message;
        for (size_t i = 0; i < list->n_segments; i++) {
            mcs_route_t *route = mcs_routes_find(routes, list->segments[i]->handle);
            mcs_peer_t *peer = route != NULL && route->peer == NULL ? mcs_peer_make(client, list->segments[i]) : NULL;
            if (peer != NULL) {
                cache_add(client->peers, peer, masters);
                route_set_peer(client, route, peer);
            }
        }
    }
    mcs_reply_fini(&reply);
    return status;
}

mcs_status_t mcs_routes_add(mcs_routes_t *routes, const mcs_col_replica_t *replicas, size_t count, unsigned flags)
{
    uint32_t unknown[INFO_BATCH];
    size_t unknown_count = 0;
    mcs_status_t status = MCS_OK;
    uint32_t last = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t handle = replicas[i].segment;
        if (i > 0 && handle == last) {
            continue;
        }
        last = handle;
        mcs_route_t *route = mcs_routes_find(routes, handle);
        if (route == NULL) {
            status = routes_grow(routes);
            if (status != MCS_OK) {
                return status;
            }
            route = route_slot(routes->table, routes->capacity, handle);
            route->used = true;
            route->handle = handle;
            routes->count++;
            route_set_peer(routes->client, route, cache_find(routes->client->peers, handle));
        }
        if (route->peer == NULL && !route->asked) {
            unknown[unknown_count++] = handle;
        }
        if (unknown_count == INFO_BATCH) {
            status = ask(routes, unknown, unknown_count, flags);
            unknown_count = 0;
        }
        if (status != MCS_OK) {
            return status;
        }
    }
    return unknown_count > 0 ? ask(routes, unknown, unknown_count, flags) : MCS_OK;
}

void mcs_route_map(mcs_client_t *client, mcs_route_t *route)
{
    if (route->mapped || route->path > MCS_PATH_SAME_HOST) {
        return;
    }
    route->mapped = true;
    const mcs_peer_t *peer = route->peer;
    mcs_mapper_peer_t wanted = {
        .owner = peer->owner, .instance = peer->instance, .size = peer->size, .ipc_path = peer->ipc_path};
    mcs_status_t status = mcs_mapper_get(client->mapper, &wanted, mcs_deadline_after_ms(MAP_LIMIT_MS), &route->mapping);
    if (status != MCS_OK) {
        route->mapping = NULL;
        /* An own segment that is not there any more was replaced: nobody serves it. */
        route->path = peer->wired && !peer->own ? MCS_PATH_TRANSPORT : MCS_PATH_NONE;
        mcs_debug(AREA, "segment %s: no mapping, %s: %s", peer->name,
                  route->path == MCS_PATH_TRANSPORT ? "the transport is used" : "lost", mcs_status_name(status));
    }
}
