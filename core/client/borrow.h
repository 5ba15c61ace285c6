/* setup_dummy: a store that is set up by asking a mooncake_client of this host where the master is.
 *
 * In the original such a store is a thin one, without a data path: every byte goes through the client process. Here the
 * same-host path gives every process of a user the segments of the others anyway, so it is an ordinary store without a
 * segment of its own; from the client process it needs the settings alone. What was set up goes on when the client
 * process ends.
 *
 * The question goes to a UNIX socket in the folder of the same-host sockets, named by the port of the client process
 * (client-50052): SOCK_SEQPACKET, one record each way, little endian, same user by peer credentials on both sides.
 * Both treat the other as hostile all the same: sizes are exact, texts are terminated or refused. No secret travels; a
 * cluster token is the asker's own business.
 *
 * A memory pool goes with such a store (alloc_from_mem_pool): plain memory of this process, reserved by its first use,
 * given out in order and never taken back. */
#ifndef MCS_CLIENT_BORROW_H
#define MCS_CLIENT_BORROW_H

#include "core/base/status.h"

#define MCS_BORROW_MAGIC   UINT32_C(0x4342434d)
#define MCS_BORROW_VERSION 1
#define MCS_BORROW_TEXT    1024

typedef struct mcs_borrow_request {
    uint32_t magic;
    uint32_t version;
    uint64_t reserved;
} mcs_borrow_request_t;
_Static_assert(sizeof(mcs_borrow_request_t) == 16, "wire ABI");

typedef struct mcs_borrow_settings {
    char master_address[MCS_BORROW_TEXT];
    char local_hostname[MCS_BORROW_TEXT]; /* without a port */
    char protocol[MCS_BORROW_TEXT];
    char tenant[MCS_BORROW_TEXT];
} mcs_borrow_settings_t;

typedef struct mcs_borrow_answer {
    uint32_t magic;
    uint32_t version;
    uint64_t reserved;
    mcs_borrow_settings_t settings;
} mcs_borrow_answer_t;
_Static_assert(sizeof(mcs_borrow_answer_t) == 16 + 4 * MCS_BORROW_TEXT, "wire ABI");

/* ---- the client process ---- */

typedef struct mcs_lender mcs_lender_t;
/* Listens in `ipc_dir` ("": the configured one) and answers from a thread of its own until the stop.
 * MCS_ERR_INVALID_PARAMS: the folder cannot be used, or another process answers for this port; logged. */
mcs_status_t mcs_lender_start(const char *ipc_dir, uint16_t port, const mcs_borrow_settings_t *settings,
                              mcs_lender_t **lender_out) MCS_MUST_CHECK;
void mcs_lender_stop(mcs_lender_t *lender); /* NULL is fine */

/* ---- the store ---- */

/* `server_address` is host:port of a client process of this host. Blocks two seconds at most. MCS_ERR_INVALID_PARAMS:
 * no such address; MCS_ERR_RPC_FAIL: nobody answers; MCS_ERR_RPC_TIMEOUT; MCS_ERR_PROTOCOL: something else answers. */
mcs_status_t mcs_borrow_ask(const char *ipc_dir, const char *server_address, mcs_borrow_settings_t *settings_out)
    MCS_MUST_CHECK;

typedef struct mcs_mempool mcs_mempool_t;
/* Nothing is reserved yet. */
mcs_status_t mcs_mempool_create(uint64_t size, mcs_mempool_t **pool_out) MCS_MUST_CHECK;
/* NULL: not that much is left. Aligned to 64 bytes, to a page from a page on. The caller keeps others out. */
void *mcs_mempool_take(mcs_mempool_t *pool, uint64_t size);
void mcs_mempool_destroy(mcs_mempool_t *pool); /* NULL is fine */

#endif
