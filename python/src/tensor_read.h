/* Reads of tensors: whole objects into memory of ours or of the caller's, headers alone, and tensors put together from
 * the shards that others stored.
 *
 * What a read returns was one value at one moment: headers are looked at again after the bytes came, and a tensor whose
 * shards changed meanwhile is read again. (Shards of several keys are several values: who replaces them one by one is
 * seen half way.) */
#ifndef MPY_TENSOR_READ_H
#define MPY_TENSOR_READ_H

#include "python/src/fetch.h"
#include "python/src/parallelism.h"

/* What is under a key. */
typedef struct mpy_header {
    mcs_tensor_header_t header;
    int64_t code; /* 0: a tensor; MCS_INVALID_PARAMS: something else; or the failure of the read */
} mpy_header_t;

/* Headers of many keys, in one read. False: an exception. */
bool mpy_headers_read(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, mpy_header_t *headers);

/* New StoredTensors in memory of their own; tensors[i] is NULL where there is none, and codes[i] (may be NULL) why.
 * False: an exception, and nothing was made. */
bool mpy_tensors_fetch(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, mcs_tensor_header_t *headers,
                       PyObject **tensors, int64_t *codes);

/* A key of ours: base + suffix. Free with mpy_name_drop; NULL bytes: MemoryError. */
mcs_bytes_t mpy_name_make(mcs_bytes_t base, const char *suffix);
void mpy_name_drop(mcs_bytes_t *name);

/* Where the tensor is that a call wants: one object, or a range of several shards. */
typedef struct mpy_found {
    bool there;
    bool in_shards;
    mcs_bytes_t key;   /* of the one object */
    bool has_expected; /* that object must be this shard */
    mcs_parallelism_t expected;
    size_t count; /* shards */
    mcs_bytes_t *keys;
    mpy_header_t *headers;
    mcs_tensor_header_t result; /* of the tensor that the shards make */
    int32_t dim;
    int64_t start; /* of the result along `dim` of the whole */
    int64_t extent;
} mpy_found_t;

/* False: an exception. */
bool mpy_tensor_find(mpy_store_t *self, mcs_bytes_t key, const mpy_read_target_t *target, mpy_found_t *out);
void mpy_found_drop(mpy_found_t *found);

/* Puts the elements of found->result at `payload`. *code_out: 0, MCS_INVALID_PARAMS when a shard is not any more what
 * was found, or why one could not be read. False: an exception. */
bool mpy_shards_read(mpy_store_t *self, const mpy_found_t *found, char *payload, int64_t *code_out);

#endif
