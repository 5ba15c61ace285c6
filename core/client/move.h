/* Moves payloads, whole or (fetches) any part of them, between a caller's memory and replicas, over the path of each
 * (design section 4).
 *
 * Device memory (device.h) goes the same ways, by copies of the device: straight to and from the extent, or through
 * staging memory and the transport; or with no copy at all, where RDMA devices reach it.
 *
 *   own, same host   pinned by a slot, copied on the calling thread (and on copy threads when large), CRCs summed in
 * the same pass transport        all owners at once, pieces of at most MCS_RANGE_MAX; CRCs made as a store is sent,
 * checked after a fetch
 *
 * What a move reports as MCS_OK is right: for a read generation, state, length, key and the CRC of every block read
 * whole agreed (rule 4), for a write the extent is sealed. On return no memory of the caller's is touched any more.
 * Copies count in `bytes_copied`: one per byte on the mapped paths, none on the transport. */
#ifndef MCS_CLIENT_MOVE_H
#define MCS_CLIENT_MOVE_H

#include "core/client/routes.h"

typedef struct mcs_move {
    mcs_route_t *route;
    const mcs_col_replica_t *replica;
    mcs_id_t session;     /* that the replica's MAC is for */
    uint64_t payload_len; /* of the object */
    uint64_t from;        /* bytes [from, from + len) of it are moved; len > 0; a store moves all */
    uint64_t len;
    mcs_hash128_t key_hash;
    const struct iovec *iov; /* holds at least len bytes */
    size_t iov_count;
    struct iovec piece;     /* for `iov` of one piece to point to */
    const int16_t *devices; /* of each piece of iov (core/ops/mem_space.h); NULL: all is host memory; set by
                               mcs_moves_run */
    uint32_t *crcs;         /* out, stores: one CRC32C per block of the payload, as it was written; NULL: not wanted */
    bool direct; /* for remote.c: device memory that goes by RDMA or not at all (MCS_ERR_NOT_SUPPORTED). `crcs` is then
                    one for each block that the bytes touch: of a store in; of a fetch out, for blocks that begin in
                    them, what the owner says, not verified */
    mcs_status_t
        status;   /* out: MCS_ERR_TRANSFER_FAIL, MCS_ERR_REPLICA_IS_GONE, MCS_ERR_CHECKSUM_MISMATCH, MCS_ERR_RPC_TIMEOUT
                     (the deadline), MCS_ERR_LIMIT, MCS_ERR_CLOSED, MCS_ERR_INTERRUPTED, MCS_ERR_NO_MEMORY … */
    bool begun;   /* out, direct: some of it has been asked for or sent, whatever the status */
    bool spoiled; /* out, stores that have failed: what came of it says nothing of the place, which cannot be used again
                   */
    bool in_doubt;  /* out, stores: bytes may still be on their way to the owner */
    bool of_caller; /* out: the caller's memory failed, no other replica will do better */
} mcs_move_t;

/* Sets every status. `deadline_ns` bounds the transport, and no write begins after it. Scratch memory comes from
 * `arena`. */
void mcs_moves_run(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                   uint64_t deadline_ns, mcs_arena_t *arena);

/* What moves over mappings begin and end with (mapped.c). The pin for a move; MCS_ERR_AGAIN: no slot is free, the move
 * is for another wave or the transport. */
mcs_status_t mcs_move_pin(mcs_direction_t direction, const mcs_move_t *move, mcs_pin_t *pin_out) MCS_MUST_CHECK;
/* `status` is how its copy went: a store that did is sealed. Sets the move's status. */
void mcs_move_unpin(mcs_direction_t direction, mcs_move_t *move, mcs_pin_t *pin, mcs_status_t status);
void mcs_move_count_mapped(mcs_client_t *client, mcs_direction_t direction, const mcs_move_t *move);

/* Parts of it: mapped.c and remote.c, device_mapped.c, device_direct.c and device_staged.c for moves with device
 * memory, and device_far.c for all moves over mappings of far segments. Work on the moves whose status is MCS_ERR_AGAIN
 * and whose route has their path; a mapped move that finds no slot, and a direct one that cannot be, stay AGAIN. */
void mcs_moves_run_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                          uint64_t deadline_ns);
void mcs_moves_run_remote(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                          uint64_t deadline_ns, mcs_arena_t *arena);
void mcs_moves_run_device_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena);
void mcs_moves_run_far(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                       uint64_t deadline_ns, mcs_arena_t *arena);
void mcs_moves_run_device_direct(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena);
void mcs_moves_run_device_staged(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena);

#endif
