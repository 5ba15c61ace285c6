/* What the files of the service (svc_*.c) share. Nobody else includes it.
 *
 *   svc_slab, svc_index   records, shards, recency lists        svc_segment, svc_place   mounted segments, placement
 *   svc_session           sessions, hello, liveness             svc_outcome              kept answers of mutating
 * requests (rule 1) svc_put, svc_strike   reservations, commit, upsert's strike svc_release              the way back
 * of extents (rule 3), revocations svc_read, svc_remove  exist, lookup, remove                 svc_evict, svc_tails,
 * svc_blocks, svc_group   eviction, its order and memory, groups svc_copy, svc_task, svc_task_rpc, svc_drain* replicas
 * made and left, tasks, drain jobs svc_journal, svc_recover*, svc_adopt, svc_check   the journal, the start from it,
 * clients that come back, what their memory has svc_park, svc_house   parked requests, housekeeping thread service.c,
 * svc_admin     life cycle, dispatch, walks
 *
 * Locks, outer first (docs/locking.md): SESSIONS < session.lock < shard.lock < group.lock < segments.lock <
 * session.release_lock < segment.lock (allocator) < parked_lock < the RPC server's. Never two shards' locks at once.
 * Nothing is sent to the network and nothing waits under any of them, except frames queued on a connection. */
#ifndef MCS_MASTER_SVC_INTERNAL_H
#define MCS_MASTER_SVC_INTERNAL_H

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/op.h"
#include "core/base/rng.h"
#include "core/base/thread.h"
#include "core/wire/cap.h"
#include "core/wire/columns.h"
#include "core/wire/extent.h"
#include "core/wire/mcs.pb-c.h"
#include "master/allocator.h"
#include "master/service.h"
#include "master/svc_index.h"
#include "master/svc_tails.h"

#define SVC_AREA "master"

/* ---- limits (rule 8) ---- */
#define SVC_ENDED_RING           4096u /* ended sessions that a reconnecting owner can still be told */
#define SVC_OUTCOMES_MAX         4096u /* kept answers of one session */
#define SVC_OUTCOME_BYTES_MAX    ((size_t)64 << 20)
#define SVC_OPEN_PUTS_MAX        (UINT32_C(1) << 18) /* open or revoked and not acknowledged, of one session */
#define SVC_RELEASES_MAX         (UINT64_C(1) << 24) /* extents on their way back, of all */
#define SVC_PARKED_MAX           16384u
#define SVC_PARKED_BYTES_MAX     ((size_t)256 << 20)
#define SVC_NAME_MAX             299u
#define SVC_PREFERRED_MAX        128u
#define SVC_EXCLUDED_MAX         1024u
#define SVC_SEGMENTS_PER_SESSION 1024u
#define SVC_SPARE_NS             MCS_NS_PER_SEC /* one that no put used */
#define SVC_SPARES_MAX           8u             /* of one session */
#define SVC_PUTS_TURNS           8u             /* of svc_puts_tick for all shards */

#define SVC_TICK_NS   (10 * MCS_NS_PER_MS)
#define SVC_STEADY_NS MCS_NS_PER_SEC /* an owner that came back is hidden this long (rule 7) */
#define SVC_STALL_NS  (500 * MCS_NS_PER_MS)
#define SVC_REASK_NS  (30 * MCS_NS_PER_SEC)

typedef struct svc_session svc_session_t;
typedef struct svc_pending svc_pending_t;
typedef struct svc_group svc_group_t;
typedef struct svc_task svc_task_t;

/* ---- segments ---- */

/* SUSPECT and GONE hide it; LEFT: gone by its owner's wish. One in its GRACE is unmounted when that is over; a drain
 * job empties a DRAINING one, and nothing was left in a DRAINED one: these are read but get nothing new. RECOVERING: of
 * the journal, hidden until its owner has mounted it again. */
enum {
    SVC_SEG_SUSPECT = 1,
    SVC_SEG_GONE = 2,
    SVC_SEG_LEFT = 4,
    SVC_SEG_GRACE = 8,
    SVC_SEG_DRAINING = 16,
    SVC_SEG_DRAINED = 32,
    SVC_SEG_RECOVERING = 64
};
/* Is its owner to be asked whether its extents are what the journal says (svc_check.c)? */
typedef enum svc_check_state { SVC_CHECK_NONE, SVC_CHECK_WANTED, SVC_CHECK_ASKED } svc_check_state_t;

#define SVC_SEG_HIDDEN (SVC_SEG_SUSPECT | SVC_SEG_GONE | SVC_SEG_RECOVERING)

typedef struct svc_segment {
    uint32_t refs; /* atomic: one while mounted, one per extent, one per holder */
    uint32_t handle;
    mcs_id_t instance;
    svc_session_t *owner; /* referenced */
    char *name;
    char *protocol;
    char *ipc_path;
    char *transport_endpoint;
    char location[16]; /* "cuda:N"; "": host memory */
    uint16_t device;   /* that N */
    unsigned shift;    /* of its extents (core/wire/extent.h): 0 = host memory */
    uint8_t *wire_endpoint;
    size_t wire_endpoint_len;
    uint64_t base;
    uint64_t size;
    uint64_t name_hash;
    mcs_mac_key_t key;
    uint32_t wire;           /* data plane generation, numbered by the service */
    uint32_t flags;          /* atomic SVC_SEG_* */
    uint64_t gone_ns;        /* atomic: after this nobody is told of it any more; MCS_NEVER while it is mounted */
    uint64_t drain_until_ns; /* segments lock */
    uint32_t check;          /* atomic svc_check_state_t */
    svc_pending_t *tail;     /* RECOVERING: one ending, the space above all known extents; segments lock */
    uint64_t used;           /* atomic: bytes given out and not returned */
    uint64_t returning;      /* atomic: of these, on their way back */
    uint64_t quarantine;     /* atomic: of these, asked from the owner and not answered yet */
    mcs_mutex_t lock;        /* rank ALLOCATOR */
    mcs_allocator_t *allocator MCS_GUARDED_BY(&lock);
} svc_segment_t;

#define SVC_HANDLE_CHUNK 4096u
typedef struct svc_segments {
    mcs_rwlock_t lock;                        /* rank SEGMENTS: `active`, and adding or dropping handles */
    svc_segment_t **chunks[SVC_HANDLE_CHUNK]; /* atomic; by handle / 4096 */
    uint32_t next_handle;
    svc_segment_t **active; /* mounted ones */
    uint32_t active_count;
    uint32_t active_cap;
} svc_segments_t;

/* ---- extents on their way back (svc_release.c) ---- */

typedef struct svc_gen_node {
    uint64_t generation;
    struct svc_gen_node *next;
} svc_gen_node_t;

typedef struct svc_gen_table {
    svc_gen_node_t **buckets;
    uint32_t mask;
    uint32_t count;
} svc_gen_table_t;

typedef enum svc_ending_state {
    SVC_END_IDLE,
    SVC_END_WAITING,
    SVC_END_READY,
    SVC_END_ASKED,
    SVC_END_DONE
} svc_ending_state_t;

typedef struct svc_ending {
    svc_gen_node_t by_owner;  /* in owner->endings */
    svc_gen_node_t by_writer; /* in writer->revoked */
    svc_pending_t *block;     /* the memory that it is part of */
    svc_segment_t *segment;   /* the extent's reference */
    svc_session_t *writer;    /* referenced while revoked and not acknowledged, as is told_owner */
    svc_session_t *told_owner;
    mcs_id_t writer_id;
    svc_pending_t *strike;    /* referenced: waits for this one to be DEAD (rule 2) */
    mcs_list_t node;          /* of owner->ready or asked */
    mcs_list_t writer_node;   /* of writer->unsent or unacked */
    struct svc_ending *child; /* owner->waiting, a pairing heap by due_ns */
    struct svc_ending *sibling;
    uint64_t due_ns;
    uint64_t asked_ns;
    uint64_t generation;
    uint64_t offset;
    uint64_t payload_len;
    uint64_t len; /* bytes of the extent */
    uint8_t state;
    bool may_write;      /* the next ask says so */
    bool may_write_told; /* an ask has said so: the owner is to forget it one day */
    bool was_put;        /* of a discarded put: counted when it comes back */
    bool gap;            /* no extent: what lies between those that the journal knows (svc_recover.c) */
} svc_ending_t;

/* ---- reservations and strikes ---- */

typedef enum svc_pending_kind { SVC_PUT, SVC_STRIKE, SVC_COPY, SVC_SPARE, SVC_ENDINGS } svc_pending_kind_t;
typedef enum svc_pending_state { SVC_OPEN, SVC_STRIKING, SVC_DONE } svc_pending_state_t;

/* An open put (new key or upsert), a forced removal that waits for owners (strike), the reservation of a task for more
 * replicas of a readable object (copy), one without a key for a put to come (spare), or only the memory of endings. One
 * block of memory, so that giving extents back can never fail for lack of it (rule 6). */
struct svc_pending {
    uint32_t refs; /* atomic: one in the shard, one per ending on its way or unacknowledged, one per ending that it
                      strikes, one per parked call */
    uint8_t kind;
    uint8_t state;    /* shard lock, as all up to the endings */
    bool discarded;   /* past the discard timeout and counted as such */
    bool kept;        /* endings: of svc_blocks.c; nothing is in it but an ending */
    bool recovered;   /* a strike of the journal: whoever asks for its outcome is told */
    uint32_t waiters; /* parked calls that collect the outcome */
    svc_shard_t *shard;
    svc_session_t *session; /* referenced */
    uint64_t put_id;
    uint64_t sequence;
    uint64_t start_ns; /* service clock */
    uint64_t hash;
    svc_ref_t record;    /* in the table */
    svc_ref_t successor; /* upsert, copy: takes its place at the commit; 0 for a new key */
    svc_pending_t *next_by_id;
    svc_pending_t *next_by_record;
    mcs_list_t node; /* shard->open, copies, spares, leaving */
    /* copy */
    svc_task_t *task;       /* referenced: hears when the reservation is lost */
    uint64_t vacates;       /* move: generation of the replica that is left at the commit; 0 = none */
    svc_pending_t *vacated; /* that one's ending; in shard->leaving its hash, put_id and leaves_ns say whose and when */
    uint64_t leaves_ns;
    /* strike (rule 2) */
    uint32_t strike_left;     /* owners' answers outstanding */
    uint64_t strike_until_ns; /* without them: half a lease after the last grant */
    svc_pending_t *struck;    /* referenced: the endings of the old extents */
    mcs_status_t outcome;
    uint32_t ending_count;
    svc_ending_t endings[];
};

/* ---- sessions ---- */

typedef enum svc_outcome_state { SVC_RUNNING, SVC_ANSWERED } svc_outcome_state_t;

typedef struct svc_outcome {
    mcs_list_t node; /* of session->outcomes, by sequence */
    uint64_t seq;
    uint16_t verb;
    uint8_t state;
    mcs_status_t status;
    mcs_rpc_conn_t *conn; /* referenced while running: who waits for the answer */
    uint64_t request_id;
    uint32_t len;
    uint32_t room;
    uint8_t payload[];
} svc_outcome_t;

struct svc_session {
    uint32_t refs; /* atomic: one in the table, one per connection, segment, reservation, revoked extent, parked call */
    uint32_t serial; /* never reused in this process */
    mcs_id_t id;
    mcs_id_t client;
    char *host_name;
    char *software;
    char boot_id[40];
    uint32_t pid;
    uint32_t wire; /* 0 = no data plane */
    char *wire_name;
    mcs_service_t *service;
    mcs_list_t node;     /* of service->sessions */
    mcs_list_t end_node; /* of service->ending */
    /* atomics */
    uint32_t ended;
    uint32_t suspect;
    uint32_t connected; /* its control connection is open */
    uint32_t open_puts; /* and revoked ones not acknowledged */
    uint32_t spares;
    uint32_t segment_count;
    uint64_t last_seen_ns; /* service clock */
    uint64_t steady_ns;    /* suspect until then, when connected */
    bool expired;          /* by its TTL */

    mcs_mutex_t lock;                              /* rank SESSION: what follows */
    mcs_rpc_conn_t *control MCS_GUARDED_BY(&lock); /* referenced; NULL = not connected */
    mcs_list_t outcomes MCS_GUARDED_BY(&lock);
    uint64_t acked MCS_GUARDED_BY(&lock); /* every sequence below has been answered and forgotten */
    uint32_t outcome_count MCS_GUARDED_BY(&lock);
    size_t outcome_bytes MCS_GUARDED_BY(&lock);

    mcs_mutex_t release_lock;                              /* rank RELEASE: what follows */
    svc_gen_table_t endings MCS_GUARDED_BY(&release_lock); /* of extents in its segments */
    svc_ending_t *waiting MCS_GUARDED_BY(&release_lock);   /* for leases */
    mcs_list_t ready MCS_GUARDED_BY(&release_lock);
    mcs_list_t asked MCS_GUARDED_BY(&release_lock);
    svc_gen_table_t revoked MCS_GUARDED_BY(&release_lock); /* written by it: revoked, not acknowledged */
    mcs_list_t unsent MCS_GUARDED_BY(&release_lock);
    mcs_list_t unacked MCS_GUARDED_BY(&release_lock);
    mcs_buf_t forget MCS_GUARDED_BY(&release_lock);    /* generations */
    bool release_closed MCS_GUARDED_BY(&release_lock); /* the session ended: nothing is queued any more */

    uint64_t ended_sent;  /* housekeeping: position in service->ended */
    uint64_t ended_floor; /* housekeeping: what it may have missed begins here */
    uint32_t resumed;     /* atomic: the control connection is new: ask and tell again */
    uint32_t tasks;       /* atomic: tasks wait for it, which it has not been told */
    uint32_t tell;        /* atomic: there is something to send */
    uint64_t next_due_ns; /* atomic: when `waiting` has the next one; MCS_NEVER = none */
};

/* ---- parked requests (svc_park.c) ---- */

typedef struct svc_parked svc_parked_t;
struct svc_parked {
    mcs_list_t node;
    mcs_service_t *service;
    svc_session_t *session; /* referenced */
    mcs_rpc_conn_t *conn;   /* referenced */
    svc_outcome_t *outcome; /* of a mutating request */
    uint16_t verb;
    uint64_t request_id;
    uint64_t deadline_ns;
    /* Space that it waits for, 0 = none: the largest piece and all of it. Asks for eviction as long as it does. */
    uint64_t wants_largest;
    uint64_t wants_bytes;
    size_t bytes;
    /* On the housekeeping thread. True: answered. `last`: the deadline has passed, or the session or the service ends.
     */
    bool (*step)(svc_parked_t *parked, uint64_t now_ns, bool last);
    void (*destroy)(svc_parked_t *parked);
};

/* ---- bulk removals (svc_bulk.c) ---- */
typedef struct svc_bulk svc_bulk_t;

/* ---- the service ---- */

#define SVC_BLOCKS_MAX 8192u
typedef struct svc_blocks {
    mcs_mutex_t lock; /* rank LEAF: what follows */
    uint32_t count MCS_GUARDED_BY(&lock);
    svc_pending_t *kept[SVC_BLOCKS_MAX] MCS_GUARDED_BY(&lock);
} svc_blocks_t;

#define SVC_EVICT_BLOCKS 32u

typedef struct svc_evict {
    /* atomic: the largest allocation that failed since the last look, and that nobody waits for */
    uint64_t demand_bytes;
    uint64_t waited_for; /* at the last look: the largest that parked requests wait for */
    /* housekeeping only */
    double used_ratio;     /* of the segments, without what is on its way back */
    bool hurry;            /* too full to be polite */
    bool wanted;           /* a round begins when leases that have run out are in their lists */
    uint32_t drain_shard;  /* so far */
    uint64_t piece_end_ns; /* of work without a pause */
    /* the present round */
    bool in_round;
    uint64_t round;      /* its number */
    bool no_memory;      /* what makes room needs a little: the round is over, whatever is left */
    uint64_t target;     /* plain objects to evict */
    uint64_t floor;      /* soft-pinned ones, too, until so many are evicted */
    uint64_t need_bytes; /* and until so many bytes are on their way back */
    uint64_t done_keys;
    uint64_t done_bytes;
    uint64_t fruitless[SVC_LIST_COUNT]; /* entries of the list dealt with since the last that went */
    uint64_t idle_since_ns;             /* the end of the last one */
    uint64_t not_before_ns;             /* the next round on demand */
    uint64_t trust_until_ns;            /* until then what is on its way back is expected; 0 = it is not enough */
    uint64_t protected_now;             /* about: counted now and then */
    uint64_t plain_now;
    uint64_t count_again_ns; /* by the kernel's clock */
    svc_tails_t tails[SVC_LIST_COUNT];
    uint64_t leased_until_ns[SVC_SHARDS]; /* no lease of the shard runs out before; a bound */
    /* Memory of endings: for what goes next, and of what has gone and is not on its way back yet. */
    svc_pending_t *fresh[SVC_EVICT_BLOCKS];
    svc_pending_t *gone[SVC_EVICT_BLOCKS];
    uint32_t fresh_count;
    uint32_t gone_count;
    uint64_t gone_bytes; /* of their payloads */
} svc_evict_t;

/* The snapshot under way (svc_journal.c); housekeeping only. */
typedef struct svc_snapshot {
    bool active;
    uint32_t stream;
    uint32_t shard;
    uint32_t at;
    uint32_t version;
    uint64_t not_before_ns; /* a file could not be made */
} svc_snapshot_t;

/* The walk that asks owners about their extents (svc_check.c); housekeeping only, but `wanted`. */
typedef struct svc_check {
    uint32_t wanted; /* atomic: segments have come back */
    bool active;
    bool gathered; /* all of the shard is in `entries` */
    uint32_t shard;
    uint32_t at;
    uint32_t version;
    mcs_buf_t entries;
    size_t sent; /* of `entries` */
    uint64_t not_before_ns;
} svc_check_t;

/* What the start from the journal has brought; constant afterwards. */
typedef struct svc_recovered {
    uint64_t objects;
    uint64_t segments;
    uint64_t lost;    /* objects: no memory, max_objects, segments that are not known, places that overlap */
    uint64_t damaged; /* streams of the journal */
    uint64_t took_ms;
} svc_recovered_t;

struct mcs_service {
    mcs_service_config_t config;
    const mcs_master_config_t *conf;
    mcs_metrics_t *metrics;
    mcs_rpc_server_t *server;
    uint64_t epoch; /* atomic; raised by a hello while nobody has a session (svc_epoch) */
    uint64_t lease_ns;
    mcs_journal_t *journal; /* NULL = none */
    /* After a start from the journal; 0 without. What was leased before has run out; segments that nobody claimed go.
     */
    uint64_t grace_end_ns;
    uint64_t claim_end_ns;
    char boot_id[40];
    svc_index_t index;
    svc_policy_t policy;
    svc_segments_t segments;
    svc_blocks_t blocks;

    mcs_mutex_t lock; /* rank SESSIONS: what follows */
    mcs_list_t sessions MCS_GUARDED_BY(&lock);
    uint32_t session_count MCS_GUARDED_BY(&lock);
    uint32_t data_sessions MCS_GUARDED_BY(&lock);
    uint32_t next_serial MCS_GUARDED_BY(&lock);
    char *wire MCS_GUARDED_BY(&lock); /* of the data sessions, NULL = none yet */
    uint32_t wire_number MCS_GUARDED_BY(&lock);
    mcs_list_t ending MCS_GUARDED_BY(&lock); /* ended, housekeeping has to clear them away */

    mcs_mutex_t parked_lock; /* rank WAITERS: what follows */
    mcs_list_t parked_inbox MCS_GUARDED_BY(&parked_lock);
    mcs_list_t bulk_inbox MCS_GUARDED_BY(&parked_lock);
    mcs_list_t deferred MCS_GUARDED_BY(&parked_lock); /* endings whose owner is gone */
    uint32_t parked_count MCS_GUARDED_BY(&parked_lock);
    size_t parked_bytes MCS_GUARDED_BY(&parked_lock);
    bool closing MCS_GUARDED_BY(&parked_lock);
    mcs_cond_t bulk_done;

    /* atomics */
    uint64_t releases;       /* extents on their way back */
    uint64_t stall_ns;       /* time that the master itself stood still: no deadline counts it (rule 9) */
    uint64_t clock_limit_ns; /* of the service's clock: where a stall begins that housekeeping has not noticed yet */
    uint32_t woken;
    uint32_t stop;
    uint32_t sweep_wanted;
    uint32_t parked_stir; /* something that parked requests wait for has happened */
    uint64_t discarded_bytes;
    uint64_t strikes;    /* under way */
    uint64_t leaving;    /* extents that wait for leases after a move */
    uint32_t spares_out; /* turns of svc_puts_tick that still revoke spares however young: space is short */

    /* housekeeping thread only */
    mcs_thread_t thread;
    mcs_event_t wake;
    bool wake_ready;
    mcs_list_t parked;
    mcs_list_t bulk;
    mcs_id_t ended[SVC_ENDED_RING];
    uint64_t ended_count; /* atomic for others */
    uint64_t last_tick_ns;
    uint64_t poll_begun_ns; /* service clock; 0 = no poll under way */
    uint64_t polled_ns;     /* when the last finished poll had begun: what expires is measured by it (rule 9) */
    uint64_t next_poll_ns;
    uint32_t shard_cursor;
    uint32_t tidy_cursor;
    uint32_t leaving_cursor;
    uint32_t sweep_shard; /* SVC_SHARDS = no sweep under way */
    uint32_t sweep_at;
    uint32_t sweep_version;
    uint64_t sweep_again_ns;
    svc_evict_t evict;
    svc_snapshot_t snapshot;
    svc_check_t check;
    svc_recovered_t recovered;
    mcs_buf_t scratch;
    struct svc_groups *groups;
    struct svc_tasks *tasks;
};

/* A request being handled, on a loop's thread. */
typedef struct svc_call {
    mcs_service_t *service;
    mcs_rpc_conn_t *conn;
    svc_session_t *session; /* NULL before the hello */
    const mcs_frame_header_t *header;
    mcs_arena_t *arena;
    const ProtobufCMessage *message;
    const uint8_t *payload; /* what it was unpacked from, header->length bytes */
    svc_outcome_t *outcome; /* of a mutating request after svc_begin */
} svc_call_t;

/* A connection's state: mcs_rpc_conn_user. */
typedef struct svc_link {
    svc_session_t *session;
    uint32_t role;
    bool challenged;
    uint8_t challenge[32];
} svc_link_t;

/* ---- service.c ---- */
void svc_wake(mcs_service_t *service);
static inline uint64_t svc_epoch(const mcs_service_t *service)
{
    return __atomic_load_n(&service->epoch, __ATOMIC_ACQUIRE);
}

/* Without the time in which the master stood still, also on a thread that runs again before housekeeping has noticed:
 * it stands at most SVC_STALL_NS after the last turn. Never goes back. The limit is read first: who sees a new one sees
 * the new stall, too. */
static inline uint64_t svc_clock(const mcs_service_t *service)
{
    uint64_t limit_ns = __atomic_load_n(&service->clock_limit_ns, __ATOMIC_ACQUIRE);
    uint64_t now_ns = mcs_now_ns() - __atomic_load_n(&service->stall_ns, __ATOMIC_ACQUIRE);
    return MCS_MIN(now_ns, limit_ns);
}
/* What a verb's request consists of; NULL: no such request. */
const ProtobufCMessageDescriptor *svc_request_type(uint16_t verb);
/* A message out of an arena; NULL: garbage, or no memory. */
ProtobufCMessage *svc_unpack(const ProtobufCMessageDescriptor *type, mcs_arena_t *arena, const uint8_t *payload,
                             size_t len);
/* Answers with a message (may be NULL), or with a status and words. A request with an outcome is answered through it.
 */
mcs_status_t svc_reply(svc_call_t *call, mcs_status_t status, const ProtobufCMessage *message);
mcs_status_t svc_reply_statuses(svc_call_t *call, const int32_t *statuses, size_t count);
mcs_status_t svc_refuse(svc_call_t *call, mcs_status_t status, const char *text);
/* At debug: an answer or a notice, and whether it is on its way. */
void svc_log_answer(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, mcs_status_t sent);
void svc_send(mcs_service_t *service, mcs_rpc_conn_t *conn, uint16_t verb, uint64_t id, mcs_status_t status,
              const ProtobufCMessage *message);

/* A batch of keys, hashed and in order of shards. */
typedef struct svc_batch {
    mcs_key_t *keys;
    uint64_t *hashes;
    uint32_t *order;
    size_t count;
} svc_batch_t;
mcs_status_t svc_batch_decode(const mcs_service_t *service, mcs_arena_t *arena, const ProtobufCBinaryData *lens,
                              const ProtobufCBinaryData *bytes, svc_batch_t *batch) MCS_MUST_CHECK;
/* Begins a mutating request over keys that is answered with a status for each; they are MCS_OK. As svc_begin. */
mcs_status_t svc_batch_begin(svc_call_t *call, const Mcs__Wire__Sequence *sequence, const ProtobufCBinaryData *lens,
                             const ProtobufCBinaryData *bytes, svc_batch_t *batch, int32_t **statuses_out)
    MCS_MUST_CHECK;
typedef void (*svc_batch_fn)(void *arg, svc_shard_t *shard, uint32_t i);
/* Calls fn for every key with its shard locked; each shard is locked once. */
void svc_batch_run(mcs_service_t *service, const svc_batch_t *batch, svc_batch_fn fn, void *arg);
/* The same for a function that neither makes nor destroys records: faster, with several shards' locks at once. */
void svc_batch_read(mcs_service_t *service, const svc_batch_t *batch, svc_batch_fn fn, void *arg);
/* The same for generations (put ids), in order of shards; `order` has room for count. */
void svc_generations_order(const uint64_t *generations, uint32_t count, uint32_t *order);

/* ---- svc_session.c ---- */
void svc_session_get(svc_session_t *session);
void svc_session_put(svc_session_t *session);
mcs_status_t svc_hello(svc_call_t *call);
mcs_status_t svc_ping(svc_call_t *call);
mcs_status_t svc_goodbye(svc_call_t *call);
void svc_session_closed(mcs_service_t *service, svc_link_t *link, mcs_rpc_conn_t *conn);
/* Any thread: hidden at once; housekeeping clears it away. Once. */
void svc_session_end(svc_session_t *session, bool expired);
static inline bool svc_session_ended(const svc_session_t *session)
{
    return __atomic_load_n(&session->ended, __ATOMIC_ACQUIRE) != 0;
}
/* Housekeeping. */
void svc_sessions_tick(mcs_service_t *service, uint64_t now_ns);
void svc_sessions_clear_ended(mcs_service_t *service);
void svc_sessions_tell(mcs_service_t *service, uint64_t now_ns);
void svc_sessions_end_all(mcs_service_t *service);
/* The control connection with a reference, or NULL. */
mcs_rpc_conn_t *svc_session_control(svc_session_t *session);

/* Under the service's lock; NULL: there is none. No reference is taken. */
svc_session_t *svc_session_find_locked(const mcs_service_t *service, mcs_id_t id);
/* For svc_recover.c. A session that is in no list yet; NULL: no memory. */
svc_session_t *svc_session_create(mcs_service_t *service, const Mcs__Wire__Hello *hello) MCS_MUST_CHECK;
/* The data plane's generation, by the name that clients give it. MCS_ERR_INVALID_VERSION: another than the cluster's.
 */
mcs_status_t svc_session_check_wire_locked(mcs_service_t *service, const char *wire, char *text, size_t size);

/* ---- svc_outcome.c ---- */
/* OK: call->outcome is set, execute and answer. MCS_ERR_AGAIN: a repeat, taken care of. Others: refuse with it. */
mcs_status_t svc_begin(svc_call_t *call, const Mcs__Wire__Sequence *sequence, size_t reply_room) MCS_MUST_CHECK;
/* Keeps the answer and sends it to whoever asked last. */
void svc_outcome_answer(mcs_service_t *service, svc_session_t *session, svc_outcome_t *outcome, mcs_status_t status,
                        const ProtobufCMessage *message);
void svc_outcomes_clear(svc_session_t *session);
/* The last reference is gone: without locks. */
void svc_outcomes_fini(svc_session_t *session);

/* ---- svc_segment.c ---- */
mcs_status_t svc_segments_init(svc_segments_t *segments) MCS_MUST_CHECK;
void svc_segments_fini(svc_segments_t *segments);
/* The segment of an extent that is alive: it is there. NULL for an unknown handle. */
svc_segment_t *svc_segment_at(const mcs_service_t *service, uint32_t handle);
void svc_segment_put(mcs_service_t *service, svc_segment_t *segment);
static inline void svc_segment_get(svc_segment_t *segment)
{
    __atomic_fetch_add(&segment->refs, 1, __ATOMIC_RELAXED);
}
static inline uint32_t svc_segment_flags(const svc_segment_t *segment)
{
    return __atomic_load_n(&segment->flags, __ATOMIC_ACQUIRE);
}
/* May `session` (NULL = anybody) be sent to it? */
static inline bool svc_segment_readable(const svc_segment_t *segment, const svc_session_t *session)
{
    return (svc_segment_flags(segment) & SVC_SEG_HIDDEN) == 0 &&
           (session == NULL || session->wire == 0 || session->wire == segment->wire);
}
void svc_segments_set_suspect(svc_session_t *session, bool suspect);
/* Unmounts what the session has: hidden at once. */
void svc_segments_unmount_all(svc_session_t *session, bool left);
/* Returns the extent, as long as it was asked for, to the allocator and drops its reference. */
void svc_segment_give_back(mcs_service_t *service, svc_segment_t *segment, uint64_t offset, uint64_t len);
uint32_t svc_segment_state(uint32_t flags); /* SegmentStatus of the API */
void svc_segment_fill(const svc_segment_t *segment, mcs_service_segment_t *out);
void svc_segments_usage(mcs_service_t *service, uint64_t *used, uint64_t *returning, uint64_t *capacity);
/* Housekeeping: ends what has drained long enough. */
void svc_segments_tick(mcs_service_t *service, uint64_t now_ns);
mcs_status_t svc_mount_segment(svc_call_t *call);
mcs_status_t svc_unmount_segment(svc_call_t *call);
mcs_status_t svc_segment_info(svc_call_t *call);
mcs_status_t svc_list_segments(svc_call_t *call);

/* For svc_recover.c: makes a segment, in no table; NULL: no memory. */
svc_segment_t *svc_segment_create(svc_session_t *owner, const Mcs__Wire__MountSegment *request) MCS_MUST_CHECK;
void svc_segment_free(svc_segment_t *segment);
/* Takes it out of the mounted ones; the caller drops their reference. False: it is none. */
bool svc_segment_drop_locked(svc_segments_t *segments, const svc_segment_t *segment);
/* Enters it under this handle, or (0) the next one. */
mcs_status_t svc_segment_add_locked(svc_segments_t *segments, svc_segment_t *segment, uint32_t handle) MCS_MUST_CHECK;

/* ---- svc_place.c ---- */
typedef struct svc_extent {
    svc_segment_t *segment; /* with the extent's reference */
    uint64_t offset;
    uint64_t len;
} svc_extent_t;

typedef struct svc_place_ask {
    mcs_service_t *service;
    svc_session_t *session;
    uint64_t preferred[SVC_PREFERRED_MAX + 1]; /* hashes of names; one more for same_node */
    uint32_t preferred_count;
    const uint32_t *excluded;
    uint32_t excluded_count;
    uint64_t host_hash; /* of the host part of names; 0 = none */
    bool same_node;
    bool only_preferred;
    uint64_t avoided[SVC_EXTENTS_MAX]; /* hashes of names that get nothing */
    uint32_t avoided_count;
} svc_place_ask_t;
/* MCS_ERR_INVALID_PARAMS: too many names. */
mcs_status_t svc_place_init(svc_place_ask_t *ask, mcs_service_t *service, svc_session_t *session,
                            const Mcs__Wire__PutConfig *config) MCS_MUST_CHECK;
/* 1 .. want extents for a payload on distinct segment names; 0: none. *possible: some segment could hold it if it were
 * empty. */
uint32_t svc_place_extents(svc_place_ask_t *ask, uint64_t payload_len, uint32_t want, svc_extent_t *extents,
                           bool *possible);
uint64_t svc_name_hash(const char *name, size_t len);
/* The kernel's clock, for slices of work: a test's clock stands still while they run. */
uint64_t svc_real_ns(void);
/* A quick random number of this thread: placement and sampling, nothing secret. */
uint32_t svc_random32(void);

/* ---- svc_release.c ---- */
mcs_status_t svc_gen_table_init(svc_gen_table_t *table) MCS_MUST_CHECK;
void svc_gen_table_fini(svc_gen_table_t *table);
svc_pending_t *svc_pending_create(svc_pending_kind_t kind, uint32_t endings) MCS_MUST_CHECK;
/* In memory with room for so many endings. */
void svc_pending_init(svc_pending_t *pending, svc_pending_kind_t kind, uint32_t endings);
void svc_pending_get(svc_pending_t *pending);
void svc_pending_put(svc_pending_t *pending);
void svc_ending_set(svc_pending_t *block, uint32_t i, svc_segment_t *segment, const svc_replica_t *replica,
                    uint64_t payload_len);
/* Starts the way back of one extent; asks the owner from due_ns on. `writer`: may still write (rule 5); NULL = not. */
void svc_ending_begin(mcs_service_t *service, svc_ending_t *ending, uint64_t due_ns, svc_session_t *writer,
                      svc_pending_t *strike);
/* Starts it for all extents of the blocks, which it takes, from each one's due_ns on. Housekeeping, which tells owners
 * in the same turn: it is not woken. */
void svc_endings_begin(mcs_service_t *service, svc_pending_t *const *blocks, uint32_t count, uint64_t now_ns);
mcs_status_t svc_released(svc_call_t *call);
mcs_status_t svc_struck(svc_call_t *call);
mcs_status_t svc_revoke_ack(svc_call_t *call);
/* Housekeeping: what the owner is to be asked and told. */
void svc_release_tell(svc_session_t *session, mcs_rpc_conn_t *conn, uint64_t now_ns);
void svc_release_resume(svc_session_t *session);
/* Housekeeping finishes it: for callers with locks. */
void svc_release_defer(mcs_service_t *service, svc_ending_t *ending);
void svc_release_deferred_tick(mcs_service_t *service);
/* The session has ended: as owner (its extents are gone) and as writer. */
void svc_release_close(svc_session_t *session);

/* ---- svc_blocks.c: blocks with one ending, kept for the next eviction ---- */
/* At most `max`, for svc_pending_init; 0: no memory. One that is marked as kept comes back when its ending is finished.
 */
uint32_t svc_blocks_take(mcs_service_t *service, svc_pending_t **blocks_out, uint32_t max) MCS_MUST_CHECK;
/* A block that nobody refers to any more, or that was not used. Any thread. */
void svc_blocks_give(mcs_service_t *service, svc_pending_t *block);
/* Frees what is kept. */
void svc_blocks_trim(mcs_service_t *service);

/* ---- svc_put.c, svc_commit.c ---- */
mcs_status_t svc_put_start(svc_call_t *call);
mcs_status_t svc_put_end(svc_call_t *call);
mcs_status_t svc_put_revoke(svc_call_t *call);
mcs_status_t svc_put_wait(svc_call_t *call);
/* A request that waits for strikes: made (and admitted) before the first one begins; NULL: no memory, or too many wait.
 */
svc_parked_t *svc_parked_strikes_create(mcs_service_t *service, uint32_t count) MCS_MUST_CHECK;
/* With the shard's lock: the i-th answer is the outcome of `pending`. */
void svc_parked_strikes_add_locked(svc_parked_t *parked, uint32_t i, svc_pending_t *pending);
void svc_parked_strikes_start(svc_call_t *call, svc_parked_t *parked, const int32_t *statuses);
/* True: none was added, it is gone. */
bool svc_parked_strikes_give_up(mcs_service_t *service, svc_parked_t *parked);

/* ---- svc_spare.c: reservations without a key ---- */
mcs_status_t svc_put_now(svc_call_t *call);
/* Room for the spare in a kept answer. */
#define SVC_SPARE_ROOM (sizeof(mcs_col_put_t) + sizeof(mcs_col_replica_t) + 16)
typedef struct svc_spare {
    mcs_col_put_t put;
    mcs_col_replica_t replica;
} svc_spare_t;
/* Reserves one for `payload_len` bytes and adds it to the answer; where that is not easy, it does not. */
void svc_spare_offer(svc_call_t *call, uint64_t payload_len, svc_spare_t *spare, Mcs__Wire__PutEndReply *reply);
/* Space is short: the spares go. Any thread. */
void svc_spares_drop(mcs_service_t *service);

/* ---- svc_pending.c ---- */
mcs_status_t svc_pending_insert_locked(mcs_service_t *service, svc_pending_t *pending) MCS_MUST_CHECK;
svc_pending_t *svc_pending_by_id_locked(const svc_shard_t *shard, uint64_t put_id);
svc_pending_t *svc_pending_by_record_locked(const svc_shard_t *shard, svc_ref_t record);
/* Takes it out of the shard and drops the shard's reference; a parked call that waits keeps it and finds `outcome`. */
void svc_pending_finish_locked(mcs_service_t *service, svc_pending_t *pending, mcs_status_t outcome);
/* Takes a spare out of the shard, whose reference becomes the caller's. */
void svc_spare_take_locked(svc_pending_t *pending);
/* Ends an open put without a commit: its extents go back. `by_writer`: the session itself said that it will not write
 * any more. */
void svc_put_revoke_locked(mcs_service_t *service, svc_pending_t *pending, bool by_writer, mcs_status_t outcome);
/* Commits. MCS_OK: done; MCS_ERR_AGAIN: the strike of the old extents is under way; others: not committed. */
mcs_status_t svc_put_commit_locked(mcs_service_t *service, svc_pending_t *pending);
/* The successor takes the old record's place, whose extents are somebody else's business. */
void svc_put_swap_locked(mcs_service_t *service, svc_pending_t *pending, uint64_t now_ns);
/* Destroy: frees what is pending. */
void svc_pending_drop_all_locked(mcs_service_t *service, svc_shard_t *shard);
/* Housekeeping: puts past their deadline, an eighth of the shards a turn. */
void svc_puts_tick(mcs_service_t *service, uint64_t now_ns);
void svc_puts_end_session(mcs_service_t *service, svc_session_t *session);

/* ---- svc_object.c: what becomes of records ---- */
/* Some replica can be read by the session. */
bool svc_record_readable(const mcs_service_t *service, const svc_record_t *record, const svc_session_t *session);
uint64_t svc_record_lease(const svc_record_t *record); /* with its group's */
/* Grants a read lease from now; `hash` is the key's. */
void svc_record_grant_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash, uint64_t now_ns);
/* Makes a committed record of the open one: flags, counters, list. */
void svc_record_commit_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t now_ns);
/* The soft pin of a record that is about to be committed in place of `old` (0 = none): from a duration, or the old
 * one's, to a time. */
void svc_record_settle_soft(mcs_service_t *service, svc_ref_t ref, svc_ref_t old, uint64_t now_ns);
/* An upsert's value, just committed, stays as long as the key was promised: who was told that it exists shall get it.
 */
void svc_record_inherit_lease_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t lease_until_ns,
                                     uint64_t now_ns);
/* A block with the endings of the record's extents, or NULL. */
svc_pending_t *svc_record_endings(mcs_service_t *service, const svc_record_t *record);
/* The same in a block with room for them. */
void svc_record_set_endings(mcs_service_t *service, const svc_record_t *record, svc_pending_t *block);
/* When the owners may be asked for its extents: every lease has run out, plus the guard (rule 3). */
uint64_t svc_record_due(const mcs_service_t *service, const svc_record_t *record, uint64_t now_ns);
/* Removes the committed record from the index and gives its extents back through `block`, which it takes. */
void svc_record_drop_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, svc_pending_t *block,
                            uint64_t now_ns);
/* The same in two steps: takes the record (`hash`: its key's) out of the index, whose extents are the block's now; they
 * begin their way back with svc_endings_begin. */
void svc_record_take_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                            svc_pending_t *block, uint64_t now_ns);
/* Which of its extents (a bit each, in the order of `replicas`) lie in segments that `wanted` says yes to. */
uint32_t svc_record_mask(const mcs_service_t *service, const svc_record_t *record,
                         bool (*wanted)(const svc_segment_t *segment, const void *arg), const void *arg);
/* How many of these are replicas that can be read. */
static inline uint32_t svc_record_live(const svc_record_t *record, uint32_t mask)
{
    return (uint32_t)__builtin_popcount(mask & ((UINT32_C(1) << record->replica_count) - 1));
}
/* Gives back the extents of the mask, which is not 0. The record goes with its last replica. False: no memory, nothing
 * has changed. */
bool svc_record_drop_some_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint32_t mask,
                                 uint64_t now_ns) MCS_MUST_CHECK;
/* Destroy: the record and its extents go without ceremony. */
void svc_record_forget_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref);
/* Takes a committed record's counts back, without the index and the extents. */
void svc_record_uncount_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref);
/* Frees record and what its fields refer to. */
void svc_record_free(mcs_service_t *service, svc_ref_t ref);
/* Half a lease since the last grant: nobody may use what was cached any more (rule 2). */
uint64_t svc_record_uncached_at(const mcs_service_t *service, const svc_record_t *record);
/* Removes replicas on gone segments; the record when none is left. Housekeeping. */
void svc_sweep_tick(mcs_service_t *service, uint64_t now_ns);

/* ---- svc_strike.c ---- */
/* Starts the strike of a committed record's extents; `block` (taken) has their endings. */
void svc_strike_begin_locked(mcs_service_t *service, svc_pending_t *pending, svc_pending_t *block, uint64_t now_ns);
/* The owners have answered, or need not any more: the swap, or the removal. */
void svc_strike_finish_locked(mcs_service_t *service, svc_pending_t *pending, uint64_t now_ns);
/* One owner has answered. Any thread, without locks. Takes the reference. */
void svc_strike_answered(mcs_service_t *service, svc_pending_t *pending);
/* A forced removal: a pending strike in the shard. NULL: no memory. */
svc_pending_t *svc_strike_create_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                                        svc_session_t *session, uint64_t now_ns);
/* Housekeeping: strikes whose owners did not answer in time. */
void svc_strikes_tick(mcs_service_t *service, uint64_t now_ns);

/* ---- svc_copy.c: more replicas of a readable object, and fewer ---- */
typedef struct svc_copy_ask {
    svc_session_t *session; /* who writes them */
    svc_task_t *task;
    uint64_t hash;
    const svc_extent_t *extents;
    uint32_t count;
    uint64_t vacates; /* generation of the replica that is left at the commit; 0 = none */
} svc_copy_ask_t;
/* Reserves: nothing else than its commit, its revocation or a put that replaces the value touches the record until
 * then. The extents' references go to the reservation. MCS_ERR_AGAIN: too many replicas are on their way;
 * MCS_ERR_NO_MEMORY. */
mcs_status_t svc_copy_begin_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, const svc_copy_ask_t *ask,
                                   svc_pending_t **pending_out) MCS_MUST_CHECK;
/* The new replicas can be read; the vacated one is left. MCS_ERR_REPLICA_IS_GONE: every target's segment is; revoked.
 */
mcs_status_t svc_copy_commit_locked(mcs_service_t *service, svc_pending_t *pending);
/* Leaves a replica of several. MCS_ERR_AGAIN, MCS_ERR_NO_MEMORY. */
mcs_status_t svc_copy_leave_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                                   uint64_t generation);
/* Housekeeping: extents that nobody has a lease on any more. */
void svc_leaving_tick(mcs_service_t *service, uint64_t now_ns);

/* ---- svc_task.c, svc_task_rpc.c, svc_drain.c ---- */
mcs_status_t svc_tasks_init(mcs_service_t *service) MCS_MUST_CHECK;
void svc_tasks_fini(mcs_service_t *service);
void svc_task_get(svc_task_t *task);
void svc_task_put(svc_task_t *task);
/* Its reservation was revoked. Any lock may be held. */
void svc_task_lost(mcs_service_t *service, svc_task_t *task, mcs_status_t status);
/* Housekeeping. */
void svc_tasks_tick(mcs_service_t *service, uint64_t now_ns);
void svc_tasks_tell(mcs_service_t *service, svc_session_t *session, mcs_rpc_conn_t *conn);
void svc_tasks_resume(mcs_service_t *service, const svc_session_t *session); /* what it was told may be lost */
mcs_status_t svc_create_task(svc_call_t *call);
mcs_status_t svc_query_task(svc_call_t *call);
mcs_status_t svc_fetch_tasks(svc_call_t *call);
mcs_status_t svc_end_tasks(svc_call_t *call);

/* ---- svc_journal.c: what goes into the journal; each does nothing without one ---- */
/* The record's present state is the key's: after it has changed, before anybody else can see it or an extent that it
 * does not name any more can be given back. */
void svc_journal_put_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref);
/* The key has no value any more. */
void svc_journal_del_locked(mcs_service_t *service, svc_shard_t *shard, const svc_record_t *record);
/* Before owners are asked to make the old value unreadable: what will be. */
void svc_journal_strike_locked(mcs_service_t *service, const svc_pending_t *pending);
void svc_journal_segment(mcs_service_t *service, const svc_segment_t *segment);
void svc_journal_unmount(mcs_service_t *service, uint32_t handle);
/* With the table's lock: what has become of it. */
void svc_journal_task_locked(mcs_service_t *service, const svc_task_t *task);
struct svc_job;
void svc_journal_job_locked(mcs_service_t *service, const struct svc_job *job);
/* Before the answer to a request that may have changed something, without locks: waits for the disk if asked to. */
void svc_journal_sync(mcs_service_t *service, uint16_t verb);
/* Housekeeping: snapshots. */
void svc_journal_tick(mcs_service_t *service);

/* ---- svc_adopt.c: after a start from the journal ---- */
/* What became of a put of an earlier epoch: MCS_OK: committed, MCS_ERR_OBJECT_NOT_FOUND: not known. */
mcs_status_t svc_recovered_outcome_locked(mcs_service_t *service, svc_shard_t *shard, uint64_t put_id);
/* The owner of a segment of the journal mounts it again: under the table's lock. `fresh` has what the request says and
 * is left with what is not needed any more. */
void svc_adopt_locked(mcs_service_t *service, svc_segment_t *segment, svc_segment_t *fresh, uint64_t high_mark);
/* It is unmounted before its owner has spoken. */
void svc_drop_tail(mcs_service_t *service, svc_segment_t *segment);

/* ---- svc_check.c ---- */
/* Its owner is to be asked about its extents. */
void svc_check_want(mcs_service_t *service, svc_segment_t *segment);
mcs_status_t svc_differ(svc_call_t *call);
/* Housekeeping. */
void svc_check_tick(mcs_service_t *service, uint64_t now_ns);
void svc_check_fini(mcs_service_t *service);

/* ---- svc_read.c, svc_remove.c, svc_clear.c, svc_bulk.c ---- */
mcs_status_t svc_exist(svc_call_t *call);
mcs_status_t svc_lookup(svc_call_t *call);
mcs_status_t svc_remove(svc_call_t *call);
/* MCS_OK: removed. MCS_ERR_AGAIN: *strike_out has to be waited for (referenced). */
mcs_status_t svc_remove_locked(mcs_service_t *service, svc_shard_t *shard, svc_ref_t ref, uint64_t hash,
                               svc_session_t *session, bool force, svc_pending_t **strike_out);
mcs_status_t svc_replica_clear(svc_call_t *call);
mcs_status_t svc_remove_regex(svc_call_t *call);
mcs_status_t svc_remove_all(svc_call_t *call);
void svc_bulk_tick(mcs_service_t *service, uint64_t now_ns);
void svc_bulk_end_all(mcs_service_t *service);

/* ---- svc_park.c ---- */
/* Room for one more with this many bytes? What was admitted is parked or given up. */
bool svc_park_admit(mcs_service_t *service, size_t bytes) MCS_MUST_CHECK;
void svc_park_give_up(mcs_service_t *service, size_t bytes);
/* Takes `parked`, which was admitted with parked->bytes, and the call's outcome: its step will run soon. */
void svc_park(svc_call_t *call, svc_parked_t *parked);
void svc_parked_tick(mcs_service_t *service, uint64_t now_ns);
/* Housekeeping: the space that they wait for, the largest piece and all of it. */
void svc_parked_wants(const mcs_service_t *service, uint64_t *largest, uint64_t *bytes);
void svc_parked_end_all(mcs_service_t *service);
/* Parked requests are looked at soon. */
void svc_stir(mcs_service_t *service);
void svc_parked_answer(svc_parked_t *parked, mcs_status_t status, const ProtobufCMessage *message);

/* ---- svc_evict.c ---- */
uint64_t svc_evict_count(const mcs_service_t *service, svc_list_t list);
/* An allocation has failed and is not parked (those ask by wants_bytes). */
void svc_evict_demand(mcs_service_t *service, uint64_t bytes);
/* Housekeeping, without locks: lets others run for a moment, unless (false) somebody waits for space. */
bool svc_evict_pause(const svc_evict_t *evict);
/* Gives its memory back. */
void svc_evict_fini(mcs_service_t *service);
/* Housekeeping. True: there is more to do at once. */
bool svc_evict_tick(mcs_service_t *service, uint64_t now_ns);

/* ---- svc_group.c ---- */
mcs_status_t svc_groups_init(mcs_service_t *service) MCS_MUST_CHECK;
void svc_groups_fini(mcs_service_t *service);
/* A reference to the group of that name, made when it is new. NULL: no memory. */
svc_group_t *svc_group_get(mcs_service_t *service, const char *id, uint32_t len) MCS_MUST_CHECK;
void svc_group_put(mcs_service_t *service, svc_group_t *group);
svc_group_t *svc_group_again(mcs_service_t *service, svc_group_t *group); /* one more reference */
const char *svc_group_id(const svc_group_t *group, uint32_t *len_out);
bool svc_group_is(const svc_group_t *group, const char *id, uint32_t len);
uint64_t svc_group_lease(const svc_group_t *group);
void svc_group_grant(svc_group_t *group, uint64_t now_ns, uint64_t ttl_ns);
/* Housekeeping: that this pass of eviction, which is not 0, could not take it; and whether that was so. */
void svc_group_keep(svc_group_t *group, uint64_t pass);
bool svc_group_was_kept(const svc_group_t *group, uint64_t pass);
mcs_status_t svc_group_join(svc_group_t *group, uint64_t hash, uint64_t generation) MCS_MUST_CHECK;
void svc_group_leave(svc_group_t *group, uint64_t generation);
void svc_group_rename(svc_group_t *group, uint64_t from, uint64_t to);
typedef struct svc_member {
    uint64_t hash;
    uint64_t generation;
} svc_member_t;
/* A copy of the members in `out`; false: no memory. */
bool svc_group_members(svc_group_t *group, mcs_buf_t *out);

/* ---- svc_house.c ---- */
mcs_status_t svc_house_start(mcs_service_t *service) MCS_MUST_CHECK;
/* One turn of housekeeping. True: run again at once. Tests call it instead of starting the thread. */
bool svc_house_tick(mcs_service_t *service);
void svc_house_thread(void *arg);
/* Housekeeping runs: the service's clock may go on. */
void svc_clock_go_on(mcs_service_t *service, uint64_t now_ns);
/* Housekeeping without a thread: set before mcs_service_start (tests). */
void svc_house_manual(bool manual);

#endif
