/* What the library says about itself and its codes: see mcstore.h. */
#include "core/base/status.h"
#include "mcstore/mcstore.h"

const char *mcs_code_name(int code)
{
    return mcs_status_name(code);
}

const char *mcs_version(void)
{
    return MCS_VERSION_TEXT;
}
