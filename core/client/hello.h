/* The hello of a connection to the master: opens, resumes or joins a session; proves the cluster token when the master
 * asks for it. */
#ifndef MCS_CLIENT_HELLO_H
#define MCS_CLIENT_HELLO_H

#include "core/base/rng.h"
#include "core/client/conn.h"

typedef enum mcs_hello_role { MCS_HELLO_CONTROL = 1, MCS_HELLO_CALL = 2 } mcs_hello_role_t;

#define MCS_BOOT_ID_MAX   40
#define MCS_UNIX_PATH_MAX 108

/* What does not change while a client is set up. Strings belong to the caller. */
typedef struct mcs_hello_self {
    mcs_id_t client;
    const char *host_name; /* the segment name */
    const char *wire;      /* generation of the data plane, "" = none */
    const char *tenant;
    const char *token; /* "" = none */
} mcs_hello_self_t;

typedef struct mcs_hello_result {
    uint64_t epoch;
    mcs_id_t session;
    bool resumed;
    uint32_t heartbeat_ms;
    uint32_t session_ttl_ms;
    uint32_t lease_ttl_ms;
    uint32_t max_batch_keys;
    char unix_path[MCS_UNIX_PATH_MAX]; /* of the master, when this host may use it, else "" */
} mcs_hello_result_t;

/* What a hello asks for. */
typedef struct mcs_hello_ask {
    mcs_hello_role_t role;
    mcs_id_t session;       /* none opens a new one (control only) */
    uint64_t highest_epoch; /* that the client has seen, so that a master takes a later one (rule 12); 0 = none */
} mcs_hello_ask_t;

/* On a fresh connection. MCS_ERR_SESSION_ENDED: the master does not know that session; MCS_ERR_ILLEGAL_CLIENT: the
 * token is refused; MCS_ERR_INVALID_VERSION: another protocol or data plane generation (logged with the master's
 * words); MCS_ERR_PROTOCOL: not a master. Other failures as mcs_conn_receive. The caller closes the connection on
 * failure. */
mcs_status_t mcs_hello(mcs_conn_t *conn, const mcs_hello_self_t *self, const mcs_hello_ask_t *ask, const mcs_io_t *io,
                       mcs_hello_result_t *result_out) MCS_MUST_CHECK;

/* /proc/sys/kernel/random/boot_id: the same for all processes of one running kernel. "" when it cannot be read.
 * Constant. */
const char *mcs_boot_id(void);

/* The text of an error reply (ErrorDetail), printable, "" when there is none. */
void mcs_error_detail(const mcs_frame_t *frame, char *text, size_t size);

#endif
