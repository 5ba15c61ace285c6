/* mooncake.store.ParallelAxis, TensorParallelism and ReadTarget: how a tensor is spread over processes, and what of it
 * a read wants. Calls take any object with the same attributes. */
#ifndef MPY_PARALLELISM_H
#define MPY_PARALLELISM_H

#include "core/tensor/parallel.h"
#include "python/src/tensor_source.h"

typedef enum mpy_read_mode { MPY_READ_AS_STORED, MPY_READ_SHARD, MPY_READ_FULL } mpy_read_mode_t;

typedef struct mpy_read_target {
    mpy_read_mode_t mode;
    bool has_parallelism;
    mcs_parallelism_t parallelism;
} mpy_read_target_t;

/* MPY_REFUSED for what has not the attributes, or not values that make sense (logged); attributes of wrong types are
 * exceptions. */
mpy_take_t mpy_parallelism_take(const char *name, PyObject *object, mcs_parallelism_t *out);
/* NULL and None: the value as it is stored. */
mpy_take_t mpy_read_target_take(const char *name, PyObject *object, mpy_read_target_t *out);
/* A writer's part, as the TP axis that its shard has: rank, size, split_dim of any object. */
mpy_take_t mpy_writer_take(const char *name, PyObject *object, mcs_parallelism_t *out);

#endif
