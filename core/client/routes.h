/* How the segments of the cluster are reached.
 *
 * peers: the client's cache of segment records, filled by segment_info. A handle means one segment for as long as the
 * master lives; a new master (another epoch) empties the cache. A record that is stale does no harm: the generation in
 * its extents does not match (rule 4).
 *
 * routes: what one call has found out about the segments it meets: the record, the path, the mapping. Lives on the
 * stack of the call, used by its thread alone. A route pointer is valid until the next mcs_routes_add. */
#ifndef MCS_CLIENT_ROUTES_H
#define MCS_CLIENT_ROUTES_H

#include "core/client/client.h"

/* One segment; immutable, reference counted: one in the cache, one per route. */
typedef struct mcs_peer {
    uint32_t refs; /* atomic */
    uint32_t handle;
    mcs_id_t instance;
    mcs_id_t owner;
    uint64_t size;
    uint64_t base_address;
    bool own;                /* ours */
    bool same_host;          /* its owner runs on this kernel and offers the same-host path */
    bool wired;              /* its data plane and ours understand each other */
    bool far;                /* its payloads lie in the memory of a device */
    uint64_t direct_from_ns; /* atomic: device memory goes by RDMA from then on (device_direct.c); 0: at once */
    char ipc_path[MCS_UNIX_PATH_MAX];
    char name[MCS_SEGMENT_NAME_MAX];
    char transport_endpoint[MCS_SEGMENT_NAME_MAX];
    mcs_endpoint_t endpoint;
} mcs_peer_t;

mcs_status_t mcs_peers_create(mcs_peers_t **peers_out) MCS_MUST_CHECK;
void mcs_peers_destroy(mcs_peers_t *peers); /* NULL is fine */
void mcs_peers_flush(mcs_peers_t *peers);

/* In order of preference. */
typedef enum mcs_path {
    MCS_PATH_OWN,
    MCS_PATH_SAME_HOST,
    MCS_PATH_TRANSPORT,
    MCS_PATH_NONE /* no way: unknown segment, no data plane in common */
} mcs_path_t;

typedef struct mcs_route {
    uint32_t handle;
    bool used;
    bool mapped;            /* the mapping has been tried */
    bool asked;             /* the master has answered what it knows of the handle */
    mcs_peer_t *peer;       /* NULL: not asked, or the master does not know the handle (any more) */
    mcs_mapping_t *mapping; /* NULL: none */
    mcs_path_t path;        /* first choice, and after mcs_route_map what is really there */
} mcs_route_t;

#define MCS_ROUTES_INLINE 16
typedef struct mcs_routes {
    mcs_client_t *client;
    mcs_route_t *table; /* open addressing by handle; `inlined` until it grows */
    uint32_t capacity;  /* a power of two */
    uint32_t count;
    mcs_route_t inlined[MCS_ROUTES_INLINE];
} mcs_routes_t;

void mcs_routes_init(mcs_routes_t *routes, mcs_client_t *client);
void mcs_routes_fini(mcs_routes_t *routes);
/* Resolves the segments of these replicas: from the cache, the rest by RPC. `flags` as of mcs_call_t. After an error
 * the next one asks again. */
mcs_status_t mcs_routes_add(mcs_routes_t *routes, const mcs_col_replica_t *replicas, size_t count, unsigned flags)
    MCS_MUST_CHECK;
/* NULL when it was never added. */
mcs_route_t *mcs_routes_find(mcs_routes_t *routes, uint32_t handle);
/* Is it in a device's memory that this process maps, or may? */
static inline bool mcs_route_is_far(const mcs_route_t *route)
{
    return route->peer != NULL && route->peer->far && route->path <= MCS_PATH_SAME_HOST;
}
/* Own and same-host routes: makes the mapping, or falls back to the transport. */
void mcs_route_map(mcs_client_t *client, mcs_route_t *route);

/* Of a record as it came from the master: bounded and checked. NULL: not usable, or no memory. */
mcs_peer_t *mcs_peer_make(const mcs_client_t *client, const Mcs__Wire__SegmentRecord *record);
void mcs_peer_put(mcs_peer_t *peer);

#endif
