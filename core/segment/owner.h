/* The owner side of a client: its mounted segments, who holds which extent, and giving extents back (rules 3, 5, 6).
 *
 * Accesses come on three ways: served (the transport's thread, through mcs_owner_serve_ops), same-host mappers (no call
 * here: they use slots; the owner serves their connections on its UNIX socket), and this process's own callers (through
 * a mapping of their own, mapper.h).
 *
 * Release: the master asks for extents by (instance, offset, generation). mcs_owner_release marks them DEAD, then
 * answers - at once or later, through `released` - for those that no hold and no slot names. What is still named stays
 * pending and is looked at again every few milliseconds by the owner's thread. A release with MCS_RELEASE_MAY_WRITE
 * enters the generation in the revoked table first, until mcs_owner_forget or the end of its session; when that table
 * is full the extent is not answered (quarantined by the master).
 *
 * A master that was started from its journal asks with MCS_RELEASE_GAP for everything between the extents that it
 * knows: owner_settle.c.
 *
 * One thread ("mcs-owner"): the UNIX socket (accept, hello, fd passing, end of connection, pidfd of mappers), pending
 * releases. Thread-safe; lock rank MCS_RANK_OWNER; no call blocks on a peer. */
#ifndef MCS_SEGMENT_OWNER_H
#define MCS_SEGMENT_OWNER_H

#include "core/ops/owner.h"
#include "core/segment/segment.h"
#include "core/wire/columns.h"

typedef struct mcs_owner mcs_owner_t;

/* Called on the owner's thread or inside mcs_owner_release, without locks held: these generations are free. Must not
 * call back. */
typedef void (*mcs_owner_released_fn)(void *arg, const uint64_t *generations, uint32_t count);

/* Called inside mcs_owner_check, without locks held: these are not so. Must not call back. */
typedef void (*mcs_owner_differs_fn)(void *arg, const mcs_col_differ_t *records, uint32_t count);

typedef struct mcs_owner_config {
    mcs_id_t client;
    const char *ipc_dir; /* folder of the UNIX socket, made if missing (0700); "" = offer no same-host path */
    mcs_owner_released_fn released;
    mcs_owner_released_fn struck; /* not free yet, but DEAD: of records with MCS_RELEASE_STRIKE. NULL: not told */
    mcs_owner_differs_fn differs; /* NULL: not told */
    void *released_arg;
} mcs_owner_config_t;

mcs_status_t mcs_owner_create(const mcs_owner_config_t *config, mcs_owner_t **owner_out) MCS_MUST_CHECK;
/* Closes every mapper's page, stops the thread, removes the socket. Segments live on for whoever references them. */
void mcs_owner_destroy(mcs_owner_t *owner);
/* Path of the UNIX socket, "" when there is none. */
const char *mcs_owner_ipc_path(const mcs_owner_t *owner);

/* Takes a reference. The segment serves from now on. */
mcs_status_t mcs_owner_add_segment(mcs_owner_t *owner, mcs_segment_t *segment) MCS_MUST_CHECK;
/* The capability key that the master gave at mount; until then served access is refused. */
mcs_status_t mcs_owner_set_key(mcs_owner_t *owner, mcs_id_t instance, const mcs_mac_key_t *key) MCS_MUST_CHECK;
/* No new access; pending releases of it are dropped. The memory goes when the last hold, mapping and view end. */
void mcs_owner_remove_segment(mcs_owner_t *owner, mcs_id_t instance);

void mcs_owner_release(mcs_owner_t *owner, const mcs_col_release_t *records, uint32_t count);
/* Tells through `differs` which of these extents' headers say something else, or nothing. */
void mcs_owner_check(mcs_owner_t *owner, mcs_id_t instance, const mcs_col_check_t *records, uint32_t count);
void mcs_owner_forget(mcs_owner_t *owner, const uint64_t *generations, uint32_t count);
/* Served access of this session is refused from now on; its mappers' pages are closed. Bounded list. */
void mcs_owner_session_ended(mcs_owner_t *owner, mcs_id_t session);
/* Of the master. Writes by reservations of lower epochs are refused from now on. */
void mcs_owner_set_epoch(mcs_owner_t *owner, uint64_t epoch);
/* After the epoch was set: nothing at or above this offset was ever used, nor will be by a right of an earlier epoch.
 * The size when that cannot be said. */
uint64_t mcs_owner_high_mark(mcs_owner_t *owner, mcs_id_t instance);

typedef struct mcs_owner_stats {
    uint64_t segments;
    uint64_t mappers;
    uint64_t holds;
    uint64_t pending_releases; /* named by a slot or a hold */
    uint64_t revoked;
    uint64_t released_total;
} mcs_owner_stats_t;
void mcs_owner_stats(mcs_owner_t *owner, mcs_owner_stats_t *stats_out);

/* For the transport: `owner` argument is the mcs_owner_t. */
extern const mcs_owner_ops_t mcs_owner_serve_ops;

#endif
