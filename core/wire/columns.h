/* Columns: batches as arrays of fixed little-endian records inside one `bytes` field of a message.
 *
 * Decoders check everything (lengths that do not add up, empty or over-long keys, too many) before the caller sees a
 * record; they do not copy. Records are read with memcpy, so alignment does not matter. Pure functions. */
#ifndef MCS_WIRE_COLUMNS_H
#define MCS_WIRE_COLUMNS_H

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "core/base/status.h"

#define MCS_PROTOCOL_VERSION 1
/* Longest key in bytes; any bytes are allowed. Longer, and empty, keys are MCS_ERR_INVALID_PARAMS. */
#define MCS_KEY_MAX 8192
/* Keys in one request; the client splits larger batches, and keeps the key bytes of one request under
 * MCS_BATCH_KEY_BYTES. */
#define MCS_BATCH_KEYS      4096
#define MCS_BATCH_KEY_BYTES ((size_t)4 << 20)
#define MCS_REPLICAS_MAX    16

typedef struct mcs_key {
    const char *bytes; /* not terminated */
    uint32_t len;
} mcs_key_t;

/* Appends keys to the two columns. MCS_ERR_INVALID_PARAMS for an empty or over-long key. */
mcs_status_t mcs_keys_encode(const mcs_key_t *keys, size_t count, mcs_buf_t *lens, mcs_buf_t *bytes) MCS_MUST_CHECK;
/* Fills `keys` (room for MCS_BATCH_KEYS) with pointers into `bytes`. MCS_ERR_PROTOCOL when lengths do not add up, a key
 * is empty or over-long, or there are too many. A batch of 0 keys is fine. */
mcs_status_t mcs_keys_decode(const void *lens, size_t lens_len, const void *bytes, size_t bytes_len, mcs_key_t *keys,
                             size_t *count_out) MCS_MUST_CHECK;

#define MCS_REPLICA_LEAVING 4u /* moved away; the extent lives until the leases on it are over */

/* Reply of a lookup, one per key. Its replicas: those that can be read, then those that are leaving. */
typedef struct mcs_col_object {
    int32_t status; /* OK, OBJECT_NOT_FOUND, REPLICA_IS_NOT_READY */
    uint32_t replica_count;
    uint64_t payload_len;
    uint32_t data_type;
    uint32_t reserved;
} mcs_col_object_t;
_Static_assert(sizeof(mcs_col_object_t) == 24, "wire ABI");

typedef struct mcs_col_replica {
    uint32_t segment; /* handle: resolved through segment_info, constant while the master lives */
    uint32_t status;  /* ReplicaStatus of the API: 2 PROCESSING, 3 COMPLETE; MCS_REPLICA_LEAVING: not to be read, only
                         says that the value once lay there */
    uint64_t offset;  /* of the extent's header */
    uint64_t generation;
    uint64_t mac; /* read capability of a lookup, write capability of a put_start; 0 without a lease */
} mcs_col_replica_t;
_Static_assert(sizeof(mcs_col_replica_t) == 32, "wire ABI");

/* Reply of a put_start, one per key. */
typedef struct mcs_col_put {
    int32_t status; /* OK: write the replicas, then put_end. OBJECT_ALREADY_EXISTS: done. PUT_IN_PROGRESS: somebody
                       else's reservation is open: put_wait. NO_AVAILABLE_HANDLE … */
    uint32_t replica_count;
    uint64_t put_id;      /* the first replica's generation */
    uint32_t deadline_ms; /* the reservation is revoked after this time */
    uint32_t reserved;
} mcs_col_put_t;
_Static_assert(sizeof(mcs_col_put_t) == 24, "wire ABI");

/* One extent that the master wants back. */
#define MCS_RELEASE_MAY_WRITE 1u /* its session has not acknowledged the end: remember the generation (rule 5) */
#define MCS_RELEASE_STRIKE    2u /* somebody waits until it is DEAD: say so when it is not free yet (rule 2) */
/* No extent but `payload_len` bytes from `offset`, of which a master that was started from its journal knows nothing:
 * everything there is to be marked DEAD, and answered for when no slot, hold or writer of an earlier epoch is in it. */
#define MCS_RELEASE_GAP 4u
typedef struct mcs_col_release {
    uint64_t instance_hi;
    uint64_t instance_lo;
    uint64_t session_hi; /* the writer's, for MAY_WRITE */
    uint64_t session_lo;
    uint64_t offset;
    uint64_t generation;
    uint64_t payload_len;
    uint32_t flags;
    uint32_t reserved;
} mcs_col_release_t;
_Static_assert(sizeof(mcs_col_release_t) == 64, "wire ABI");

/* An extent of which a master that was started from its journal asks whether it is so. */
#define MCS_CHECK_BATCH 4096
typedef struct mcs_col_check {
    uint64_t offset;
    uint64_t generation;
    uint64_t payload_len;
    uint64_t token; /* the master's; comes back with the answer */
} mcs_col_check_t;
_Static_assert(sizeof(mcs_col_check_t) == 32, "wire ABI");

/* It is not. */
typedef struct mcs_col_differ {
    uint64_t generation;
    uint64_t token;
} mcs_col_differ_t;
_Static_assert(sizeof(mcs_col_differ_t) == 16, "wire ABI");

/* What became of a task, one per record of an end_tasks. */
#define MCS_TASK_IN_DOUBT 1u /* a store without an answer may still be on its way (as in put_revoke) */
typedef struct mcs_col_task_end {
    uint64_t id_hi;
    uint64_t id_lo;
    uint64_t put_id;
    int32_t status; /* OK: every target is written */
    uint32_t flags;
} mcs_col_task_end_t;
_Static_assert(sizeof(mcs_col_task_end_t) == 32, "wire ABI");

/* Tasks that one fetch hands out. */
#define MCS_TASK_BATCH 16

/* Number of records in a column; MCS_ERR_PROTOCOL when it is not a whole number or more than `max`. */
mcs_status_t mcs_column_count(size_t bytes, size_t record, size_t max, size_t *count_out) MCS_MUST_CHECK;

#endif
