/* mcs_status_t: the one result type. Thread-safe: only constants.
 * The first function that detects a failure logs it and picks the code; everybody above returns it unchanged. */
#ifndef MCS_BASE_STATUS_H
#define MCS_BASE_STATUS_H

#include "core/base/macros.h"

typedef enum mcs_status {
#define MCS_STATUS_ROW(symbol, value, name, scope) symbol = value,
#include "core/base/status.def"
#undef MCS_STATUS_ROW
} mcs_status_t;

/* What a failure has taken down; see status.def. */
typedef enum mcs_scope {
    MCS_SCOPE_REQUEST,
    MCS_SCOPE_PEER,
    MCS_SCOPE_MASTER,
    MCS_SCOPE_SEGMENT,
    MCS_SCOPE_PROCESS
} mcs_scope_t;

/* The API's name of a code ("OBJECT_NOT_FOUND"); "UNKNOWN_ERROR" for a value not in the list. Static storage. */
const char *mcs_status_name(int status);

/* What the failure took down. Unknown values are PROCESS. */
mcs_scope_t mcs_status_scope(int status);

/* True when `value` is in the list: what came from the wire is checked with this before it is used as a status. */
bool mcs_status_known(int64_t value);

/* Maps codes that are ours alone to the documented ones (NO_MEMORY -> NO_AVAILABLE_HANDLE, LIMIT -> INVALID_PARAMS,
 * CLOSED/FORKED -> INVALID_PARAMS, AGAIN/PUT_IN_PROGRESS -> REPLICA_IS_NOT_READY, PROTOCOL -> RPC_FAIL,
 * SESSION_ENDED -> RPC_FAIL). Documented codes pass unchanged. */
mcs_status_t mcs_status_public(mcs_status_t status);

#endif
