/* mooncake.store.BufferHandle: an object's bytes without a buffer of the caller's (mcs_handle_t).
 * The bytes live as long as the Python object or any memoryview of it, also after the store was closed. */
#ifndef MPY_BUFFER_HANDLE_H
#define MPY_BUFFER_HANDLE_H

#include "python/src/mpy.h"

/* Takes `handle` over, also on failure. */
PyObject *mpy_handle_new(mpy_state_t *state, mcs_handle_t *handle);

#endif
