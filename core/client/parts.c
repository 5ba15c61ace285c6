/* See parts.h. */
#include "core/client/parts.h"

static mcs_parts_t g_parts;

void mcs_parts_set(const mcs_parts_t *parts)
{
    g_parts = *parts;
}

const mcs_parts_t *mcs_parts(void)
{
    return &g_parts;
}
