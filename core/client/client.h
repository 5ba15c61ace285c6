/* One set-up client: what exists between mcs_store_setup and mcs_store_close, and what every call works on.
 *
 *   store.c      the API's entries: who may enter, when the last one out takes the client apart
 *   setup.c      makes a client from a mcs_setup_t and takes it apart
 *   mount.c      the segment in the session at the master
 *   routes.h     how the segments of others are reached
 *   lookup.h     where objects are
 *   move.h       moves payloads: copy.c (own and same host), remote.c (transport)
 *   device.h     memory that the processor cannot touch, in all of these; device_far.c: segments in it
 *   get.c handle.c put.c admin.c   the verbs
 *   get_session.c put_session.c    objects read and written piece by piece
 *   task.c task_call.c             copies and moves of replicas: executed, and asked for
 *
 * Everything but the segment and the epoch is constant from open to close; the parts have their own locks. */
#ifndef MCS_CLIENT_CLIENT_H
#define MCS_CLIENT_CLIENT_H

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/parse.h"
#include "core/client/copiers.h"
#include "core/client/copy.h"
#include "core/client/parts.h"
#include "core/client/session.h"
#include "core/segment/bufpool.h"
#include "core/segment/mapper.h"
#include "core/segment/regtable.h"
#include "mcstore/mcstore.h"

#define MCS_SEGMENT_NAME_MAX 300

typedef struct mcs_peers mcs_peers_t;
typedef struct mcs_views mcs_views_t;
typedef struct mcs_get_sessions mcs_get_sessions_t;
typedef struct mcs_put_sessions mcs_put_sessions_t;
typedef struct mcs_lookup_cache mcs_lookup_cache_t;
typedef struct mcs_spares mcs_spares_t;
typedef struct mcs_tasks mcs_tasks_t;

/* A segment that this client contributes. */
typedef struct mcs_mounted {
    mcs_list_t node;             /* in mcs_client_t.mounted, those of run time */
    mcs_id_t id;                 /* what the caller knows it by: its first instance */
    mcs_segment_config_t config; /* size 0: none */
    bool far;                    /* in the memory of a device: */
    int device;
    mcs_segment_t *segment;
    bool offered;        /* a mount of it has been sent: a new session takes new memory */
    bool busy;           /* a thread is mounting or unmounting it */
    uint64_t drained_ns; /* being unmounted with a grace period: when it is over; 0 = not */
} mcs_mounted_t;

typedef struct mcs_client {
    mcs_client_config_t config;
    mcs_id_t id;
    uint64_t serial; /* no two clients of a process have the same */
    mcs_hostport_t local;
    char name[MCS_SEGMENT_NAME_MAX];               /* "host:port": of the segment */
    char transport_endpoint[MCS_SEGMENT_NAME_MAX]; /* what descriptors show people */
    int port_fd;                                   /* holds a port that was picked; -1 = none */
    char *tenant;
    char *protocol;
    char *master_address;
    char *metadata_url; /* "" = P2PHANDSHAKE */
    bool published;
    bool joined;    /* the first session has been opened; sessions' thread only */
    bool remount;   /* segments are to be mounted again under a new epoch; sessions' thread only */
    void *embedded; /* a master of our own, NULL = none */

    mcs_hello_self_t self;
    mcs_session_t *session;
    mcs_link_t *link;                         /* the session's */
    const mcs_transport_ops_t *transport_ops; /* NULL: no data plane (rpc_only) */
    mcs_transport_t *transport;
    mcs_transport_info_t transport_info;
    mcs_owner_t *owner;
    mcs_mapper_t *mapper;
    mcs_faulter_t *faulter;
    mcs_bufpool_t *pool;
    mcs_regtable_t *buffers;
    mcs_copiers_t *copiers;
    const mcs_mem_space_ops_t *space_ops; /* NULL: host memory only */
    mcs_mem_space_t *space;
    const uint32_t *device_active; /* see device.h; never NULL in a client that is set up */
    char *rdma_devices;
    bool rdma;           /* the data plane has it; until it is open: is to have it */
    bool rdma_segments;  /* the protocol of set-up was rdma, whatever became of it */
    bool wants_rdma;     /* set-up asked for it */
    bool device_exposed; /* atomic: device memory has been registered that RDMA devices may reach */
    bool direct_warned;  /* atomic: that they did not */
    bool stage_warned;   /* atomic: that GPU memory goes another way all the same */
    mcs_peers_t *peers;
    mcs_views_t *views;
    mcs_lookup_cache_t *lookup_cache; /* NULL = none */
    mcs_spares_t *spares;
    mcs_get_sessions_t *get_sessions;
    mcs_put_sessions_t *put_sessions;
    mcs_tasks_t *tasks;
    mcs_counters_t counters;
    mcs_client_metrics_t metrics;
    mcs_client_reports_t reports;
    mcs_transport_counters_t transport_counters;

    uint32_t cancel; /* atomic: the client is being closed */

    mcs_mutex_t lock;   /* MCS_RANK_CLIENT; guards what follows */
    mcs_mounted_t own;  /* set-up's segment */
    mcs_list_t mounted; /* those of run time */
    uint64_t epoch;
} mcs_client_t;

/* Everything from checking the arguments to the mounted segment. On failure nothing is left. *named_port:
 * local_hostname gave a port. */
mcs_status_t mcs_client_open(const mcs_setup_t *setup, mcs_client_t **client_out, bool *named_port_out) MCS_MUST_CHECK;
/* Only what needs no other part: lets mcs_store_setup refuse bad arguments before it closes the client it has. Logs. */
mcs_status_t mcs_setup_check(const mcs_setup_t *setup) MCS_MUST_CHECK;
/* Ends the calls inside (MCS_ERR_CLOSED) and refuses new ones; returns at once. */
void mcs_client_cancel(mcs_client_t *client);
/* After the last call has left. */
void mcs_client_close(mcs_client_t *client);

static inline bool mcs_client_is_cancelled(const mcs_client_t *client)
{
    return __atomic_load_n(&client->cancel, __ATOMIC_ACQUIRE) != 0;
}

/* MCS_ERR_INTERRUPTED or MCS_ERR_CLOSED when the call that runs on this thread has to end. Between two pieces of work:
 * asks the hook at most every 100 ms. */
mcs_status_t mcs_client_check(const mcs_client_t *client) MCS_MUST_CHECK;

/* Deadline of a transfer of `bytes` that starts now. */
uint64_t mcs_client_transfer_deadline(const mcs_client_t *client, uint64_t bytes);

/* Publishes the name at the metadata server, if there is one. */
mcs_status_t mcs_client_publish(mcs_client_t *client) MCS_MUST_CHECK;

/* mount.c: the session's hooks. */
mcs_status_t mcs_client_opened(void *client, const mcs_hello_result_t *hello);
mcs_status_t mcs_client_resumed(void *client, const mcs_hello_result_t *hello);
void mcs_client_lost(void *client);
/* A segment of the configured size, known to the owner and the mapper; not mounted yet. */
mcs_status_t mcs_client_make_segment(mcs_client_t *client) MCS_MUST_CHECK;
/* All of them, for readers; before the goodbye. */
void mcs_client_close_segments(mcs_client_t *client);
/* All of them. */
void mcs_client_drop_segments(mcs_client_t *client);
/* One more segment, of whole pages; its id. -600 for a protocol without a data plane. */
mcs_status_t mcs_client_mount_memory(mcs_client_t *client, uint64_t size, int numa_node, mcs_id_t *id_out)
    MCS_MUST_CHECK;
/* In the memory of a device (driver's number); under the name "host:port/cuda:N". MCS_ERR_NOT_SUPPORTED: there is no
 * such device in this process, or no driver has been started. */
mcs_status_t mcs_client_mount_device(mcs_client_t *client, uint64_t size, int device, mcs_id_t *id_out) MCS_MUST_CHECK;
/* Of run time. MCS_ERR_SEGMENT_NOT_FOUND: not one of this client's. With a grace period it takes no new objects and
 * goes when the period is over. */
mcs_status_t mcs_client_unmount(mcs_client_t *client, mcs_id_t id, uint32_t grace_seconds) MCS_MUST_CHECK;
/* Lets go of segments whose grace period is over; when the next one's is, MCS_NEVER = none has one. */
uint64_t mcs_client_drop_drained(mcs_client_t *client);
/* Connects in the background to the segments that are there already. */
void mcs_client_connect_early(mcs_client_t *client);

/* The verbs. Keys and counts as in mcstore.h; results are public codes. The return value is MCS_OK, or why nothing was
 * done (results are then not written: store.c does). */
mcs_status_t mcs_client_put(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_value_t *values, size_t count,
                            const mcs_replicate_config_t *config, unsigned flags, int *results) MCS_MUST_CHECK;
mcs_status_t mcs_client_get_into(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_value_t *buffers,
                                 size_t count, int64_t *results) MCS_MUST_CHECK;
mcs_status_t mcs_client_get_handles(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, mcs_handle_t **handles,
                                    int64_t *results) MCS_MUST_CHECK;
mcs_status_t mcs_client_exist(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results) MCS_MUST_CHECK;
int64_t mcs_client_object_size(mcs_client_t *client, mcs_bytes_t key);
mcs_status_t mcs_client_remove(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, bool force, int *results)
    MCS_MUST_CHECK;
mcs_status_t mcs_client_replica_clear(mcs_client_t *client, const mcs_bytes_t *keys, size_t count,
                                      const char *segment_name, int *results) MCS_MUST_CHECK;
int64_t mcs_client_remove_by_regex(mcs_client_t *client, mcs_bytes_t pattern, bool force);
int64_t mcs_client_remove_all(mcs_client_t *client, bool force);
/* counts[i]: how many replicas key i has (the first `max` of them at replicas[i * max]), or a public code. */
mcs_status_t mcs_client_replicas(mcs_client_t *client, const mcs_bytes_t *keys, size_t count,
                                 mcs_replica_info_t *replicas, size_t max, int *counts) MCS_MUST_CHECK;
/* `type`: MCS_TASK_COPY, MCS_TASK_MOVE (from the segment named `source` to one target). */
mcs_status_t mcs_client_create_task(mcs_client_t *client, int type, mcs_bytes_t key, const char *source,
                                    const char *const *targets, size_t count, mcs_id_t *id_out) MCS_MUST_CHECK;
mcs_status_t mcs_client_query_task(mcs_client_t *client, mcs_id_t id, mcs_task_info_t *info_out) MCS_MUST_CHECK;
void mcs_client_counters(mcs_client_t *client, mcs_counter_fn fn, void *arg);

mcs_status_t mcs_client_get_parts(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                                  size_t count) MCS_MUST_CHECK;
mcs_status_t mcs_client_get_session_start(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
    MCS_MUST_CHECK;
mcs_status_t mcs_client_get_session_read(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                                         size_t count) MCS_MUST_CHECK;
void mcs_client_get_session_end(mcs_client_t *client, const mcs_bytes_t *keys, size_t count);
mcs_status_t mcs_client_put_session_start(mcs_client_t *client, const mcs_bytes_t *keys, const uint64_t *sizes,
                                          size_t count, const mcs_replicate_config_t *config, int *results)
    MCS_MUST_CHECK;
mcs_status_t mcs_client_put_session_write(mcs_client_t *client, const mcs_bytes_t *keys,
                                          const mcs_parts_list_t *sources, size_t count) MCS_MUST_CHECK;
mcs_status_t mcs_client_put_session_end(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
    MCS_MUST_CHECK;
mcs_status_t mcs_client_put_session_revoke(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
    MCS_MUST_CHECK;
/* Made at open; destroy joins the thread that renews leases, after the client was cancelled. NULL is fine. */
mcs_status_t mcs_get_sessions_create(mcs_client_t *client, mcs_get_sessions_t **sessions_out) MCS_MUST_CHECK;
void mcs_get_sessions_destroy(mcs_get_sessions_t *sessions);
mcs_status_t mcs_put_sessions_create(mcs_put_sessions_t **sessions_out) MCS_MUST_CHECK;
void mcs_put_sessions_destroy(mcs_put_sessions_t *sessions);

/* A get in two steps, between its calls: nothing of a client, only what a lookup said. */
struct mcs_get;
mcs_status_t mcs_client_get_begin(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, struct mcs_get **get_out)
    MCS_MUST_CHECK;
mcs_status_t mcs_client_get_run(mcs_client_t *client, struct mcs_get *get, const struct iovec *buffers,
                                int64_t *results) MCS_MUST_CHECK;
size_t mcs_get_count(const struct mcs_get *get);
void mcs_get_free(struct mcs_get *get);
/* What store.c keeps with it. */
typedef struct mcs_get_owner {
    mcs_store_t *store; /* a reference */
    uint64_t client_serial;
    uint64_t op;        /* for the logs: both halves are one operation */
    uint64_t lookup_ns; /* what the first half took; 0: not measured */
} mcs_get_owner_t;
mcs_get_owner_t *mcs_get_owner(struct mcs_get *get);

/* Viewed bytes of one client; referenced by the client and by every view. */
mcs_status_t mcs_views_create(mcs_views_t **views_out) MCS_MUST_CHECK;
mcs_views_t *mcs_views_get(mcs_views_t *views);
void mcs_views_put(mcs_views_t *views);

#endif
