/* What the HTTP side asks of the master's state: read-only walks and the few admin verbs. Thread-safe; takes shard and
 * segment locks for short stretches only. Implemented by the service (service_admin.c), used by http_*.c and metrics.c.
 */
#ifndef MCS_MASTER_SERVICE_H
#define MCS_MASTER_SERVICE_H

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "core/wire/columns.h"
#include "master/journal/journal.h"
#include "master/master.h"
#include "master/metrics.h"
#include "master/rpc_server.h"

typedef struct mcs_service mcs_service_t;

/* Life cycle: create -> (RPC server created with mcs_service_rpc_ops) -> start -> RPC server start … RPC server stop ->
 * stop -> RPC server destroy -> destroy. */
typedef struct mcs_service_config {
    const mcs_master_config_t *config; /* outlives the service */
    mcs_metrics_t *metrics;            /* outlives the service */
    uint64_t epoch;                    /* max(persisted + 1, wall seconds) */
    /* A client's session ended by its TTL: its metadata records are stale (enable_metadata_cleanup_on_timeout). Without
     * locks; may be NULL. */
    void (*client_expired)(void *arg, const char *segment_name);
    void *client_expired_arg;
    mcs_journal_t *journal; /* opened; outlives the service; NULL = none */
} mcs_service_config_t;
mcs_status_t mcs_service_create(const mcs_service_config_t *config, mcs_service_t **service_out) MCS_MUST_CHECK;
/* With a journal, before the RPC server is started: takes over what it has and begins to write it. A failure leaves the
 * service to be destroyed. */
mcs_status_t mcs_service_recover(mcs_service_t *service) MCS_MUST_CHECK;
/* The handlers for mcs_rpc_config_t.ops; they run on the RPC loops and never block. */
mcs_rpc_ops_t mcs_service_rpc_ops(mcs_service_t *service);
/* Starts the housekeeping thread (liveness, deadlines, releases, eviction). `server` has been created; it outlives
 * stop. */
mcs_status_t mcs_service_start(mcs_service_t *service, mcs_rpc_server_t *server) MCS_MUST_CHECK;
void mcs_service_stop(mcs_service_t *service);
void mcs_service_destroy(mcs_service_t *service); /* NULL is fine */

/* Return false to stop the walk. Called without locks held. */
typedef bool (*mcs_service_key_fn)(void *arg, const char *key, uint32_t key_len);
void mcs_service_for_each_key(mcs_service_t *service, mcs_service_key_fn fn, void *arg);

typedef struct mcs_service_segment {
    char name[300];
    mcs_id_t instance;
    mcs_id_t client;
    uint64_t base;
    uint64_t size;
    uint64_t used;       /* bytes the allocator has given out, quarantine included */
    uint64_t quarantine; /* bytes asked back and not answered yet */
    char transport_endpoint[300];
    char protocol[16];
    uint32_t state; /* SegmentStatus: 1 OK, 2 DRAINING … */
    bool suspect;
} mcs_service_segment_t;
typedef bool (*mcs_service_segment_fn)(void *arg, const mcs_service_segment_t *segment);
void mcs_service_for_each_segment(mcs_service_t *service, mcs_service_segment_fn fn, void *arg);

/* A client's session. */
typedef struct mcs_service_client {
    char name[300];
    mcs_id_t client;
    uint32_t pid;
    char wire[100]; /* generation of its data plane, "" = none */
    bool connected; /* its control connection is open */
    bool suspect;   /* its segments are hidden (rule 7) */
    uint32_t segments;
    uint32_t open_puts; /* and revoked ones that it has not acknowledged */
    uint32_t fences;    /* of these, revoked */
    uint32_t releases;  /* extents in its segments that are on their way back */
    uint64_t silent_ms; /* since it was heard of */
} mcs_service_client_t;
typedef bool (*mcs_service_client_fn)(void *arg, const mcs_service_client_t *client);
void mcs_service_for_each_client(mcs_service_t *service, mcs_service_client_fn fn, void *arg);
/* Has a client that calls itself so a session? */
bool mcs_service_has_client(mcs_service_t *service, const char *name);

typedef struct mcs_service_replica {
    uint64_t size;
    uint64_t address;
    char protocol[16];
    char transport_endpoint[300];
} mcs_service_replica_t;
/* MCS_ERR_OBJECT_NOT_FOUND, MCS_ERR_REPLICA_IS_NOT_READY. `lease`: grant one, as GET /query_key does. At most `max` are
 * filled. */
mcs_status_t mcs_service_query_key(mcs_service_t *service, const char *key, uint32_t key_len, bool lease,
                                   mcs_service_replica_t *replicas, uint32_t max, uint32_t *count_out);
/* Count of removed objects, or a status. */
int64_t mcs_service_remove_all(mcs_service_t *service, bool force);

/* Drain jobs (svc_drain.c): move every replica out of the segments of these names. */
typedef struct mcs_service_drain_ask {
    const char *const *segments;
    size_t segment_count;
    const char *const *targets; /* names of segments that may take; none: all others */
    size_t target_count;
    uint64_t max_concurrency; /* moves at a time */
} mcs_service_drain_ask_t;
/* MCS_ERR_INVALID_PARAMS, MCS_ERR_SEGMENT_NOT_FOUND, MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS (another job drains one of
 * them), MCS_ERR_TASK_PENDING_LIMIT_EXCEEDED. */
mcs_status_t mcs_service_drain_start(mcs_service_t *service, const mcs_service_drain_ask_t *ask, mcs_id_t *id_out)
    MCS_MUST_CHECK;
typedef struct mcs_service_drain {
    char *segments; /* names, one after another, each with its end */
    size_t segment_count;
    uint32_t status; /* CREATED 0, PLANNING, RUNNING, SUCCEEDED, FAILED, CANCELED */
    const char *status_name;
    uint64_t created_ms; /* since 1970 */
    uint64_t updated_ms;
    uint64_t succeeded;
    uint64_t failed;
    uint64_t blocked; /* could not be moved in the present pass over the index; tried again */
    uint64_t active;
    uint64_t bytes;
    char message[128];
} mcs_service_drain_t;
/* MCS_ERR_JOB_NOT_FOUND. The caller calls fini. */
mcs_status_t mcs_service_drain_query(mcs_service_t *service, mcs_id_t id, mcs_service_drain_t *out) MCS_MUST_CHECK;
void mcs_service_drain_fini(mcs_service_drain_t *drain);
/* What is moving is moved; the segments take objects again. MCS_ERR_JOB_NOT_FOUND,
 * MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS: it is over. */
mcs_status_t mcs_service_drain_cancel(mcs_service_t *service, mcs_id_t id) MCS_MUST_CHECK;

typedef struct mcs_service_totals {
    uint64_t epoch;
    uint64_t objects; /* readable */
    uint64_t soft_pinned;
    uint64_t hard_pinned;
    uint64_t leased;       /* with a live lease; one that has run out counts for about a second more */
    uint64_t reservations; /* open puts */
    uint64_t spares;       /* reservations without a key */
    uint64_t spare_bytes;  /* of allocated_bytes, theirs */
    uint64_t clients;
    uint64_t suspect_clients; /* owners without a steady control connection */
    uint64_t connections;     /* RPC */
    uint64_t segments;
    uint64_t suspect_segments;
    uint64_t capacity_bytes;
    uint64_t allocated_bytes;
    uint64_t quarantine_bytes;
    uint64_t releases;                /* extents on their way back to the allocators */
    uint64_t fences;                  /* revoked reservations that their writers have not acknowledged */
    uint64_t strikes;                 /* values that their owners are being told to mark dead (rule 2) */
    uint64_t parked;                  /* requests that wait for space or an owner */
    uint64_t index_bytes;             /* memory of the object index */
    uint64_t discarded_staging_bytes; /* of puts past the discard timeout, not yet back */
    uint64_t unclaimed_segments;      /* of the journal: their owner has not come back */
    /* 0 without a journal. */
    uint64_t journal_on; /* 1: it is written */
    uint64_t journal_bytes;
    uint64_t journal_files;
    uint64_t journal_records;
    uint64_t journal_record_bytes;
    uint64_t journal_snapshots;
    uint64_t journal_errors;
    uint64_t journal_waits;  /* windows that a request had to make */
    uint64_t journal_synced; /* seconds since 1970; 0: never */
    uint64_t recovered_objects;
    uint64_t recovered_segments;
    uint64_t recovery_lost;
    uint64_t recovery_damaged;
    uint64_t recovery_ms;
} mcs_service_totals_t;
void mcs_service_totals(mcs_service_t *service, mcs_service_totals_t *totals_out);

/* Counters of master/metrics.h are bumped by the service; metrics.c prints them with the gauges above. */

#endif
