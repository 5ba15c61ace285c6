/* See status.h. */
#include "core/base/status.h"

const char *mcs_status_name(int status)
{
    switch (status) {
#define MCS_STATUS_ROW(symbol, value, name, scope)                                                                     \
    case value:                                                                                                        \
        return name;
#include "core/base/status.def"
#undef MCS_STATUS_ROW
    default: return "UNKNOWN_ERROR";
    }
}

mcs_scope_t mcs_status_scope(int status)
{
    switch (status) {
#define MCS_STATUS_ROW(symbol, value, name, scope)                                                                     \
    case value:                                                                                                        \
        return MCS_SCOPE_##scope;
#include "core/base/status.def"
#undef MCS_STATUS_ROW
    default: return MCS_SCOPE_PROCESS;
    }
}

bool mcs_status_known(int64_t value)
{
    switch (value) {
#define MCS_STATUS_ROW(symbol, value, name, scope)                                                                     \
    case value:                                                                                                        \
        return true;
#include "core/base/status.def"
#undef MCS_STATUS_ROW
    default: return false;
    }
}

mcs_status_t mcs_status_public(mcs_status_t status)
{
    if (status > -9000 || status == MCS_ERR_INTERRUPTED) {
        return status;
    }
    static const struct {
        mcs_status_t ours;
        mcs_status_t public;
    } map[] = {
        {MCS_ERR_NO_MEMORY, MCS_ERR_NO_AVAILABLE_HANDLE},
        {MCS_ERR_LIMIT, MCS_ERR_INVALID_PARAMS},
        {MCS_ERR_CLOSED, MCS_ERR_INVALID_PARAMS},
        {MCS_ERR_FORKED, MCS_ERR_INVALID_PARAMS},
        {MCS_ERR_AGAIN, MCS_ERR_REPLICA_IS_NOT_READY},
        {MCS_ERR_PUT_IN_PROGRESS, MCS_ERR_REPLICA_IS_NOT_READY},
        {MCS_ERR_PROTOCOL, MCS_ERR_RPC_FAIL},
        {MCS_ERR_SESSION_ENDED, MCS_ERR_RPC_FAIL},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(map); i++) {
        if (map[i].ours == status) {
            return map[i].public;
        }
    }
    return MCS_ERR_INTERNAL;
}
