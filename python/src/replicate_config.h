/* mooncake.store.ReplicateConfig: how an object is placed and kept (reference section "ReplicateConfig"). */
#ifndef MPY_REPLICATE_CONFIG_H
#define MPY_REPLICATE_CONFIG_H

#include "python/src/args.h"

/* A copy of a config for one call: unchanged by what other threads do to the Python object while the GIL is released.
 */
typedef struct mpy_placement {
    mcs_replicate_config_t c;
    bool unavailable;       /* asks for a tier that does not exist here: the call's result is MCS_INVALID_PARAMS */
    size_t listed_segments; /* in preferred_segments, without the deprecated single one */
    const char **segments;
    mcs_bytes_t *groups;
    PyObject *refs[3];
} mpy_placement_t;

/* `config` NULL (not given) is the default. None and everything that is not a ReplicateConfig are TypeError. */
bool mpy_placement_take(mpy_state_t *state, const char *name, PyObject *config, mpy_placement_t *out);
void mpy_placement_drop(mpy_placement_t *placement);
/* Only whether it could be taken: for calls that have nothing to do. */
bool mpy_placement_check(mpy_state_t *state, const char *name, PyObject *config);

#endif
