/* What a mapper and an owner say to each other on the owner's UNIX socket: SOCK_SEQPACKET, one fixed-size record a
 * message, little endian, the same build or another. The first request carries the hello; every answer but a refusal
 * carries descriptors (SCM_RIGHTS).
 *
 *   request HELLO           -> answer + {slot page, revoked table}
 *   request MAP(instance)   -> answer + {memory, control page}
 *   request FAR(instance)   -> how to get at a far segment's payloads, + the descriptor of their memory, if it has one
 *
 * The memory of a far segment (its control page says that it is one) has the headers alone.
 *
 * Both sides treat the other as hostile: sizes are exact, descriptors are sealed memfds or refused. */
#ifndef MCS_SEGMENT_IPC_H
#define MCS_SEGMENT_IPC_H

#include "core/base/rng.h"
#include "core/ops/mem_space.h"

#define MCS_IPC_MAGIC   UINT32_C(0x43504953)
#define MCS_IPC_VERSION 1
#define MCS_IPC_FDS     2

typedef enum mcs_ipc_op { MCS_IPC_HELLO = 1, MCS_IPC_MAP = 2, MCS_IPC_FAR = 3 } mcs_ipc_op_t;

typedef struct mcs_ipc_request {
    uint32_t magic;
    uint32_t version;
    uint32_t op;
    uint32_t reserved;
    mcs_id_t client;   /* HELLO: who asks */
    mcs_id_t session;  /* HELLO: its session at the master */
    mcs_id_t instance; /* MAP, FAR */
} mcs_ipc_request_t;
_Static_assert(sizeof(mcs_ipc_request_t) == 64, "wire ABI");

typedef struct mcs_ipc_answer {
    uint32_t magic;
    uint32_t version;
    int32_t status;
    uint32_t reserved;
    mcs_id_t owner;
    uint64_t size; /* MAP: bytes of the memory */
    uint64_t epoch;
} mcs_ipc_answer_t;
_Static_assert(sizeof(mcs_ipc_answer_t) == 48, "wire ABI");

/* Instead of that, to FAR. */
typedef struct mcs_ipc_far {
    uint32_t magic;
    uint32_t version;
    int32_t status;
    uint32_t reserved;
    mcs_mem_share_t share;
} mcs_ipc_far_t;
_Static_assert(sizeof(mcs_ipc_far_t) == 112, "wire ABI");

#endif
