/* Where the replicas of an object are: ReplicaDescriptor and the classes inside it. */
#ifndef MPY_DESCRIPTORS_H
#define MPY_DESCRIPTORS_H

#include "python/src/mpy.h"

/* A new ReplicaDescriptor of a memory replica. */
PyObject *mpy_replica_new(mpy_state_t *state, const mcs_replica_info_t *info);

#endif
