/* Far memory with the part that made it (core/ops/mem_space.h): what a segment or a mapping has of it, and closes. */
#ifndef MCS_SEGMENT_FAR_H
#define MCS_SEGMENT_FAR_H

#include "core/ops/mem_space.h"

/* memory NULL: none. */
typedef struct mcs_far {
    const mcs_mem_space_ops_t *ops;
    mcs_mem_space_t *space;
    mcs_mem_far_t *memory;
} mcs_far_t;

static inline void mcs_far_close(mcs_far_t *far)
{
    if (far->memory != NULL) {
        far->ops->far_close(far->space, far->memory);
        far->memory = NULL;
    }
}

#endif
