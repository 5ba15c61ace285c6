/* Puts of tensors: a list of objects to store, each a header (or a manifest) and pieces of elements where they lie, and
 * one call of the library for all of them. Nothing is staged: header and elements go as they are. */
#ifndef MPY_TENSOR_PUT_H
#define MPY_TENSOR_PUT_H

#include "core/tensor/parallel.h"
#include "python/src/store.h"
#include "python/src/tensor_source.h"

typedef struct mpy_put {
    size_t item; /* of the caller's list: where the result goes */
    char *key;
    size_t key_len;
    union {
        mcs_tensor_header_t header;
        mcs_manifest_t manifest;
    } head;
    size_t head_len;
    bool is_manifest; /* put when all that the item has else is stored */
    bool on_device;
    size_t first; /* piece, in mpy_puts_t */
    size_t pieces;
    PyObject *owner; /* of the pieces' memory; NULL: the caller does */
} mpy_put_t;

typedef struct mpy_puts {
    const char *name; /* of the method, for messages */
    size_t count;
    size_t capacity;
    mpy_put_t *puts;
    size_t piece_count;
    size_t piece_capacity;
    struct iovec *pieces;
} mpy_puts_t;

void mpy_puts_drop(mpy_puts_t *puts);
/* Forgets those after the first `count`: of an item that cannot be stored whole. */
void mpy_puts_cut(mpy_puts_t *puts, size_t count);

/* One object: key + suffix, the header, and all elements of `source` (its `slice`, where that is not NULL). A slice of
 * very many runs is copied. MPY_REFUSED: too many runs on a device. */
mpy_take_t mpy_puts_add(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                        const mcs_tensor_header_t *header, const mpy_source_t *source, const mcs_tensor_slice_t *slice);
mpy_take_t mpy_puts_add_manifest(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                                 const mcs_manifest_t *manifest);

/* ---- what a tensor becomes ---- */

/* As it is. */
mpy_take_t mpy_puts_whole(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source);
/* All shards of a TP group of `size`, under key_tp_<rank>; of 1 the tensor itself. */
mpy_take_t mpy_puts_tp(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source, int32_t size,
                       int32_t split_dim);
/* One writer's part, and the manifest. */
mpy_take_t mpy_puts_writer(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source,
                           const mcs_parallelism_t *writer);
/* The shard of a parallelism: `source` is the shard itself for a single TP axis, the whole tensor for TP among other
 * axes, and stored as it is without TP. With TP also a manifest. */
mpy_take_t mpy_puts_parallel(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source,
                             const mcs_parallelism_t *parallelism);

/* Stores everything. results[i] of an item that has puts becomes 0 or its first failure; others are left alone. `items`
 * is the length of the caller's list, for config.group_ids. False: an exception. */
bool mpy_puts_run(mpy_store_t *self, const mpy_puts_t *puts, const mpy_placement_t *placement, size_t items,
                  unsigned flags, int64_t *results);

#endif
