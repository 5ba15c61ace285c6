/* What a transport asks of the owner side of this process: checked access to extents of its own segments (rules 3 and
 * 5).
 *
 * Implemented by core/segment (mcs_owner_*), called by the transport's serving thread (and by the same-process path).
 * None of the calls blocks: they take short locks of rank MCS_RANK_OWNER only, never wait for the network, the master
 * or Python. */
#ifndef MCS_OPS_OWNER_H
#define MCS_OPS_OWNER_H

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/status.h"

/* A peer's request for bytes [from, from + len) of one extent's payload. Everything in it came from the network:
 * hostile until checked. */
typedef struct mcs_access {
    mcs_id_t session;       /* the peer's session at the master */
    mcs_id_t instance;      /* the segment's instance id */
    uint64_t offset;        /* of the extent's header in the segment, multiple of 64 */
    uint64_t generation;    /* of the extent */
    uint64_t payload_len;   /* of the whole object */
    uint64_t from;          /* first payload byte; a multiple of MCS_WRITE_UNIT for a store of part of an object */
    uint64_t len;           /* > 0 */
    mcs_hash128_t key_hash; /* stores: written to the header; fetches: must equal the header's */
    uint64_t mac;           /* mcs_cap_mac (core/wire/cap.h) */
} mcs_access_t;

/* A granted access. Holds the extent: it is not given back to the master until the hold ends. */
typedef struct mcs_hold {
    void *bytes;          /* payload + from; readable (fetch) or writable (store) for `len` bytes */
    const uint32_t *crcs; /* fetch: CRC32C of the 1 MiB blocks that start in [from, from + len), one each; the last
                             block of an object may be short. Valid while held. */
    uint32_t crc_count;
    uint64_t payload_len;
    void *token; /* the owner's own */
} mcs_hold_t;

typedef struct mcs_owner_ops {
    /* MCS_ERR_INVALID_READ/INVALID_WRITE: out of bounds, bad capability, or a write to a WRITTEN extent;
     * MCS_ERR_REPLICA_IS_GONE: dead, revoked or another generation; MCS_ERR_SEGMENT_NOT_FOUND; MCS_ERR_SESSION_ENDED;
     * MCS_ERR_LIMIT: too many holds. Of device memory: MCS_ERR_AGAIN to a read whose bytes are on their way to host
     * memory; the same access is to be asked for again soon. MCS_ERR_NOT_SUPPORTED to a write. */
    mcs_status_t (*read_begin)(void *owner, const mcs_access_t *access, mcs_hold_t *hold_out);
    void (*read_end)(void *owner, mcs_hold_t *hold);
    /* The first write opens the extent (header OPEN); bytes may then be received straight into hold->bytes. Pieces are
     * whole units, or end with the payload, and come in any order. A unit is received once: MCS_ERR_INVALID_WRITE when
     * it has arrived, or another hold is receiving it. */
    mcs_status_t (*write_begin)(void *owner, const mcs_access_t *access, mcs_hold_t *hold_out);
    /* Ends the hold. `received` is MCS_OK when all `len` bytes are in place; `crcs` has one CRC32C for each 1 MiB block
     * that the range touches, of the range's bytes in it (computed by the writer). When the whole payload has arrived
     * the header becomes WRITTEN. After an error the units may be sent again. Returns MCS_ERR_REPLICA_IS_GONE when the
     * extent died meanwhile. */
    mcs_status_t (*write_end)(void *owner, mcs_hold_t *hold, mcs_status_t received, const uint32_t *crcs,
                              uint32_t crc_count);
} mcs_owner_ops_t;

/* Payload block that one CRC32C covers. */
#define MCS_CRC_BLOCK ((uint64_t)1 << 20)
/* What pieces of a store are made of; a whole number of them is a block. */
#define MCS_WRITE_UNIT ((uint64_t)128 << 10)

/* Of a store: may it be a piece? It begins with a unit, and ends with one or with the payload. */
static inline bool mcs_access_is_whole_units(const mcs_access_t *access)
{
    return access->from % MCS_WRITE_UNIT == 0 &&
           (access->len % MCS_WRITE_UNIT == 0 || access->from + access->len == access->payload_len);
}

#endif
