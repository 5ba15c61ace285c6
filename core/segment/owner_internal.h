/* What the files of the owner share, and what the mapper of the same process needs of it. Not for others. */
#ifndef MCS_SEGMENT_OWNER_INTERNAL_H
#define MCS_SEGMENT_OWNER_INTERNAL_H

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/buf.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/thread.h"
#include "core/segment/ipc.h"
#include "core/segment/owner.h"
#include "core/segment/region.h"
#include "core/segment/slots.h"
#include "core/wire/extent.h"

#define OWNER_AREA         "owner"
#define OWNER_HOLDS_MAX    65536u
#define OWNER_CONNS_MAX    512u /* three descriptors each */
#define OWNER_POLL_MAX     (2u + 2u * OWNER_CONNS_MAX)
#define OWNER_SESSIONS_OWN 8u
/* Pages without a connection, of processes that live and hold slots, come on top of those with one. */
#define OWNER_PAGES_MAX     1024u
#define OWNER_ENDED_MAX     65536u
#define OWNER_PENDING_MAX   (UINT32_C(1) << 20)
#define OWNER_WRITE_BUCKETS 256u

typedef struct owner_segment {
    mcs_list_t node;
    mcs_segment_t *segment; /* a reference */
    mcs_id_t instance;
    mcs_mac_key_t key;
    bool has_key;
} owner_segment_t;

/* A mapper's slots: of a connection, or of this process's own mapper. */
typedef struct owner_page {
    mcs_list_t node;
    mcs_region_t *region; /* a mcs_slot_page_t */
    mcs_id_t session;     /* none: of this process */
    int pidfd;            /* -1: of this process */
    bool unwelcome;       /* its connection is to be ended: the session is over, or a segment has gone */
    bool orphan;          /* its connection has ended; dropped when its process is dead or no slot is taken */
} owner_page_t;

/* A put that arrives in pieces. */
typedef struct owner_write {
    struct owner_write *next;
    uint64_t generation;
    mcs_id_t instance;
    uint64_t units_left; /* that have not arrived */
    uint64_t *claimed;   /* a bit per unit: arrived, or on its way in a hold */
} owner_write_t;

typedef struct owner_stage owner_stage_t;
typedef struct owner_stager owner_stager_t;

/* The token of a mcs_hold_t. */
typedef struct owner_hold {
    mcs_list_t node;
    mcs_access_t access;
    mcs_segment_t *segment; /* a reference */
    mcs_extent_header_t *header;
    bool wanted;          /* a release waits for its end */
    owner_stage_t *stage; /* of a far segment: where its bytes are; NULL: of another */
} owner_hold_t;

typedef struct owner_pending {
    mcs_col_release_t record;
    bool marked; /* DEAD, at the last look */
    bool struck; /* and that was said */
} owner_pending_t;

/* What a master that was started from its journal knows nothing of (owner_settle.c). */
typedef struct owner_gap {
    mcs_col_release_t record;
    bool blocked; /* at the last look */
    bool failed;  /* there is no memory to look at */
} owner_gap_t;

typedef struct owner_revoked {
    uint64_t generation;
    mcs_id_t session;
    mcs_id_t instance;
} owner_revoked_t;

typedef struct owner_conn {
    mcs_list_t node;
    int fd;
    pid_t pid;
    uint64_t hello_by_ns;
    owner_page_t *page; /* NULL before the hello */
} owner_conn_t;

struct mcs_owner {
    mcs_owner_config_t config;
    uint64_t token; /* of the process that made it */
    char ipc_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int listener;  /* -1 = none */
    uint32_t stop; /* atomic */
    mcs_thread_t thread;
    mcs_event_t wake;
    uint64_t epoch; /* atomic */

    mcs_mutex_t lock; /* rank OWNER: what follows */
    mcs_list_t segments;
    mcs_list_t pages;
    uint32_t page_count;
    mcs_list_t holds;
    uint32_t hold_count;
    owner_write_t *writes[OWNER_WRITE_BUCKETS];
    mcs_region_t *revoked_region; /* a mcs_revoked_table_t that mappers read */
    owner_revoked_t *revoked;
    uint32_t revoked_count;
    mcs_id_t *ended; /* open addressing, none = empty; allocated at the first */
    uint32_t ended_count;
    mcs_id_t own_sessions[OWNER_SESSIONS_OWN]; /* of this process, the newest ones */
    uint32_t own_session_next;
    owner_pending_t *pending;
    uint32_t pending_count;
    uint32_t pending_cap;
    owner_gap_t *gaps;
    uint32_t gap_count;
    uint32_t gap_cap;
    uint64_t released_total;
    owner_stager_t *stager; /* from the first far segment on; never replaced */

    /* owner thread only */
    uint64_t gaps_at_ns; /* when the gaps are looked at again */
    uint64_t gaps_wait_ns;
    mcs_list_t conns;
    uint32_t conn_count;
    uint64_t accept_after_ns; /* no descriptors: the listener is left alone until then */
    struct pollfd *fds;
};

static inline mcs_revoked_table_t *owner_revoked_table(const mcs_owner_t *owner)
{
    return owner->revoked_region->base;
}

/* owner.c */
owner_segment_t *mcs_i_owner_find_locked(mcs_owner_t *owner, mcs_id_t instance);
bool mcs_i_owner_ended_locked(const mcs_owner_t *owner, mcs_id_t session);
bool mcs_i_owner_is_own_locked(const mcs_owner_t *owner, mcs_id_t session);
/* This process has begun a session: what is revoked in it is not forgotten with it (its own slots are never closed). */
void mcs_i_owner_own_session(mcs_owner_t *owner, mcs_id_t session);
/* A page of slots for `session`; in the list; takes `pidfd`. NULL: no memory, too many, or the session has ended
 * (*ended_out). */
owner_page_t *mcs_i_owner_add_page(mcs_owner_t *owner, mcs_id_t session, int pidfd, bool *ended_out);
void mcs_i_owner_page_free(owner_page_t *page);

/* owner_serve.c */
void mcs_i_owner_add_hold_locked(mcs_owner_t *owner, owner_hold_t *hold, const mcs_access_t *access,
                                 const owner_segment_t *entry);
/* Frees it; the caller has another reference of its segment. */
void mcs_i_owner_drop_hold_locked(mcs_owner_t *owner, owner_hold_t *hold);
void mcs_i_owner_drop_write_locked(mcs_owner_t *owner, uint64_t generation);
/* Of one instance; none: all. */
void mcs_i_owner_drop_writes_locked(mcs_owner_t *owner, mcs_id_t instance);

/* owner_stage.c */
mcs_status_t mcs_i_owner_stager_start(mcs_owner_t *owner) MCS_MUST_CHECK;
void mcs_i_owner_stager_stop(owner_stager_t *stager); /* when nothing is served any more; NULL is fine */
/* A read of a far segment that was let in. MCS_OK: *ready_out has its bytes; MCS_ERR_AGAIN: they are on their way, or
 * all places are taken. *hold becomes NULL when it was taken. */
mcs_status_t mcs_i_owner_stage_locked(mcs_owner_t *owner, const mcs_access_t *access, const owner_segment_t *entry,
                                      owner_hold_t **hold, owner_hold_t **ready_out) MCS_MUST_CHECK;
void *mcs_i_owner_staged(const owner_hold_t *hold);
void mcs_i_owner_unstage(mcs_owner_t *owner, owner_hold_t *hold);

/* owner_release.c */
/* Looks at the pending releases again. True when some are left. */
bool mcs_i_owner_rescan(mcs_owner_t *owner);

/* owner_settle.c */
bool mcs_i_owner_add_gap_locked(mcs_owner_t *owner, const mcs_col_release_t *record);
void mcs_i_owner_drop_gaps_locked(mcs_owner_t *owner, mcs_id_t instance);
/* Owner's thread. Looks at the gaps when it is time; returns when the next look is due, MCS_NEVER = there are none. */
uint64_t mcs_i_owner_settle(mcs_owner_t *owner);

/* owner_ipc.c */
mcs_status_t mcs_i_owner_listen(mcs_owner_t *owner);
void mcs_i_owner_main(void *arg);
void mcs_i_owner_close_conns(mcs_owner_t *owner);

#endif
