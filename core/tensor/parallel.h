/* Which shard of a tensor an object is: axes of parallelism, the names of the keys that shards are stored under, and
 * the manifests beside them.
 *
 * A tensor under key K, split along one TP axis, lies under K_tp_<rank>; along several axes under
 * K__dp_<r>of<s>__tp_<r>of<s>_sd<dim>__ep_<r>of<s>_eid<id>__pp_<r>of<s>_sid<id> (those there are, in this order); the
 * part of one writer of several under K__writer_<rank>of<size>_sd<dim>. A manifest says into how many shards, and of
 * what: K__parallelism_manifest, K__writer_manifest. Pure functions; any thread. */
#ifndef MCS_TENSOR_PARALLEL_H
#define MCS_TENSOR_PARALLEL_H

#include "core/tensor/layout.h"

/* Shards of one tensor: more are refused, written or read. */
#define MCS_TENSOR_SHARDS_MAX 65536

typedef struct mcs_axis {
    mcs_axis_kind_t kind;
    int32_t rank;
    int32_t size;
    int32_t split_dim; /* -1: none */
    bool has_id;
    int32_t id; /* EP: the expert; PP: the stage; of other kinds 0 */
} mcs_axis_t;

typedef struct mcs_parallelism {
    size_t count;
    mcs_axis_t axes[MCS_TENSOR_AXES_MAX];
} mcs_parallelism_t;

/* "tp", "DP", ...; false for anything else. */
bool mcs_axis_kind_by_name(const char *name, mcs_axis_kind_t *out) MCS_MUST_CHECK;
/* MCS_ERR_INVALID_PARAMS for no axes, two of a kind, a rank outside its size, TP without split_dim, another kind with
 * one, EP and PP without their ids. */
mcs_status_t mcs_parallelism_check(const mcs_parallelism_t *parallelism) MCS_MUST_CHECK;
/* One axis, and it is TP. */
static inline mcs_parallelism_t mcs_parallelism_tp(int32_t rank, int32_t size, int32_t split_dim)
{
    return (mcs_parallelism_t){.count = 1,
                               .axes = {{.kind = MCS_AXIS_TP, .rank = rank, .size = size, .split_dim = split_dim}}};
}
/* The TP axis, or NULL. */
const mcs_axis_t *mcs_parallelism_find_tp(const mcs_parallelism_t *parallelism);
/* The same parallelism with another TP axis's rank and size; it has one. */
mcs_parallelism_t mcs_parallelism_with_tp(const mcs_parallelism_t *parallelism, int32_t rank, int32_t size);
bool mcs_parallelism_is_single_tp(const mcs_parallelism_t *parallelism);

/* The header of the shard with `local` of a tensor with `global`. MCS_ERR_INVALID_PARAMS also for a split_dim beyond
 * the dimensions. */
mcs_status_t mcs_tensor_shard(mcs_dtype_t dtype, int32_t ndim, const int64_t *global, const int64_t *local,
                              const mcs_parallelism_t *parallelism, mcs_tensor_header_t *out) MCS_MUST_CHECK;
/* The object is the shard of exactly these axes. */
bool mcs_parallelism_matches(const mcs_parallelism_t *parallelism, const mcs_tensor_header_t *header);
/* The TP axis of a shard, or NULL. */
const mcs_tensor_axis_t *mcs_tensor_find_tp(const mcs_tensor_header_t *header);

/* What follows the key. Each is shorter than the array. */
#define MCS_TENSOR_SUFFIX_MAX           256
#define MCS_TENSOR_WRITER_MANIFEST      "__writer_manifest"
#define MCS_TENSOR_PARALLELISM_MANIFEST "__parallelism_manifest"
void mcs_tensor_tp_suffix(int32_t rank, char suffix[MCS_TENSOR_SUFFIX_MAX]);
void mcs_tensor_writer_suffix(int32_t rank, int32_t size, int32_t split_dim, char suffix[MCS_TENSOR_SUFFIX_MAX]);
void mcs_parallelism_suffix(const mcs_parallelism_t *parallelism, char suffix[MCS_TENSOR_SUFFIX_MAX]);

/* ---- manifests ---- */

#define MCS_MANIFEST_SIZE  96
#define MCS_MANIFEST_MAGIC UINT32_C(0x574d414e)

typedef struct mcs_manifest {
    uint32_t magic;
    uint16_t version;
    uint16_t size;
    int32_t dtype;
    int32_t ndim;
    int32_t split_dim;
    int32_t shard_count;
    int32_t reserved;
    int32_t padding;
    int64_t global_shape[MCS_TENSOR_DIMS_MAX];
} mcs_manifest_t;
_Static_assert(sizeof(mcs_manifest_t) == MCS_MANIFEST_SIZE, "memory ABI");

/* `header` is of a shard of the tensor. */
mcs_manifest_t mcs_manifest_of(const mcs_tensor_header_t *header, int32_t split_dim, int32_t shard_count);
/* MCS_ERR_INVALID_PARAMS for what is no manifest, or of shards that are not uniform. */
mcs_status_t mcs_manifest_parse(const void *bytes, uint64_t size, mcs_manifest_t *out) MCS_MUST_CHECK;

#endif
