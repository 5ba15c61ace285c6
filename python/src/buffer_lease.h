/* mooncake.store.BufferLease: one borrowed buffer of a BufferPool (python/mooncake/buffer_pool.py has the pool).
 * It is in C for its buffer export: a memoryview of a lease keeps it alive, and a lease with memoryviews cannot be
 * released. */
#ifndef MPY_BUFFER_LEASE_H
#define MPY_BUFFER_LEASE_H

#include "python/src/mpy.h"

/* Module function _make_lease(ptr, size, region, give_back): when the lease ends, give_back(region, size) is called
 * once. */
PyObject *mpy_lease_make(PyObject *module, PyObject *args);

#endif
