/* See parallel.h. */
#include "core/tensor/parallel.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* In the order of the enum, which is also the order in key names. */
static const char *const g_kinds[MCS_AXIS_KINDS] = {"dp", "tp", "ep", "pp"};

bool mcs_axis_kind_by_name(const char *name, mcs_axis_kind_t *out)
{
    for (int i = 0; i < MCS_AXIS_KINDS; i++) {
        if (strcasecmp(g_kinds[i], name) == 0) {
            *out = (mcs_axis_kind_t)i;
            return true;
        }
    }
    return false;
}

static bool has_own_id(mcs_axis_kind_t kind)
{
    return kind == MCS_AXIS_EP || kind == MCS_AXIS_PP;
}

mcs_status_t mcs_parallelism_check(const mcs_parallelism_t *parallelism)
{
    bool seen[MCS_AXIS_KINDS] = {false};
    if (parallelism->count == 0 || parallelism->count > MCS_TENSOR_AXES_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    for (size_t i = 0; i < parallelism->count; i++) {
        const mcs_axis_t *axis = &parallelism->axes[i];
        bool splits = axis->split_dim >= 0;
        if (axis->kind >= MCS_AXIS_KINDS || seen[axis->kind] || axis->size <= 0 || axis->rank < 0 ||
            axis->rank >= axis->size || splits != (axis->kind == MCS_AXIS_TP) || axis->split_dim < -1 ||
            (has_own_id(axis->kind) && !axis->has_id)) {
            return MCS_ERR_INVALID_PARAMS;
        }
        seen[axis->kind] = true;
    }
    return MCS_OK;
}

static const mcs_axis_t *find_axis(const mcs_parallelism_t *parallelism, mcs_axis_kind_t kind)
{
    for (size_t i = 0; i < parallelism->count; i++) {
        if (parallelism->axes[i].kind == kind) {
            return &parallelism->axes[i];
        }
    }
    return NULL;
}

const mcs_axis_t *mcs_parallelism_find_tp(const mcs_parallelism_t *parallelism)
{
    return find_axis(parallelism, MCS_AXIS_TP);
}

mcs_parallelism_t mcs_parallelism_with_tp(const mcs_parallelism_t *parallelism, int32_t rank, int32_t size)
{
    mcs_parallelism_t other = *parallelism;
    for (size_t i = 0; i < other.count; i++) {
        if (other.axes[i].kind == MCS_AXIS_TP) {
            other.axes[i].rank = rank;
            other.axes[i].size = size;
        }
    }
    return other;
}

bool mcs_parallelism_is_single_tp(const mcs_parallelism_t *parallelism)
{
    return parallelism->count == 1 && parallelism->axes[0].kind == MCS_AXIS_TP;
}

mcs_status_t mcs_tensor_shard(mcs_dtype_t dtype, int32_t ndim, const int64_t *global, const int64_t *local,
                              const mcs_parallelism_t *parallelism, mcs_tensor_header_t *out)
{
    mcs_tensor_header_t header;
    uint64_t whole;
    mcs_status_t status = mcs_tensor_bytes(dtype, ndim, global, &whole);
    if (status == MCS_OK) {
        status = mcs_tensor_full(dtype, ndim, local, &header);
    }
    if (status != MCS_OK) {
        return status;
    }
    header.kind = MCS_TENSOR_SHARD;
    header.axis_count = (uint32_t)parallelism->count;
    for (int32_t i = 0; i < ndim; i++) {
        header.global_shape[i] = global[i];
    }
    for (size_t i = 0; i < parallelism->count; i++) {
        const mcs_axis_t *axis = &parallelism->axes[i];
        if (axis->split_dim >= ndim) {
            return MCS_ERR_INVALID_PARAMS;
        }
        header.axes[i] = (mcs_tensor_axis_t){.kind = (int32_t)axis->kind,
                                             .index = (int32_t)i,
                                             .rank = axis->rank,
                                             .size = axis->size,
                                             .split_dim = axis->split_dim,
                                             .id = has_own_id(axis->kind) ? axis->id : 0,
                                             .extent = axis->split_dim >= 0 ? local[axis->split_dim] : 0};
    }
    *out = header;
    return MCS_OK;
}

bool mcs_parallelism_matches(const mcs_parallelism_t *parallelism, const mcs_tensor_header_t *header)
{
    if (header->kind != MCS_TENSOR_SHARD || header->axis_count != parallelism->count) {
        return false;
    }
    for (uint32_t i = 0; i < header->axis_count; i++) {
        const mcs_tensor_axis_t *stored = &header->axes[i];
        const mcs_axis_t *axis =
            stored->kind < MCS_AXIS_KINDS ? find_axis(parallelism, (mcs_axis_kind_t)stored->kind) : NULL;
        if (axis == NULL || axis->rank != stored->rank || axis->size != stored->size ||
            axis->split_dim != stored->split_dim || (has_own_id(axis->kind) && axis->id != stored->id)) {
            return false;
        }
    }
    return true;
}

const mcs_tensor_axis_t *mcs_tensor_find_tp(const mcs_tensor_header_t *header)
{
    for (uint32_t i = 0; header->kind == MCS_TENSOR_SHARD && i < header->axis_count; i++) {
        if (header->axes[i].kind == MCS_AXIS_TP) {
            return &header->axes[i];
        }
    }
    return NULL;
}

void mcs_tensor_tp_suffix(int32_t rank, char suffix[MCS_TENSOR_SUFFIX_MAX])
{
    snprintf(suffix, MCS_TENSOR_SUFFIX_MAX, "_tp_%d", rank);
}

void mcs_tensor_writer_suffix(int32_t rank, int32_t size, int32_t split_dim, char suffix[MCS_TENSOR_SUFFIX_MAX])
{
    snprintf(suffix, MCS_TENSOR_SUFFIX_MAX, "__writer_%dof%d_sd%d", rank, size, split_dim);
}

void mcs_parallelism_suffix(const mcs_parallelism_t *parallelism, char suffix[MCS_TENSOR_SUFFIX_MAX])
{
    if (mcs_parallelism_is_single_tp(parallelism)) {
        mcs_tensor_tp_suffix(parallelism->axes[0].rank, suffix);
        return;
    }
    int len = 0; /* at most 4 x 48 characters */
    for (int kind = 0; kind < MCS_AXIS_KINDS; kind++) {
        const mcs_axis_t *axis = find_axis(parallelism, (mcs_axis_kind_t)kind);
        if (axis == NULL) {
            continue;
        }
        char detail[32] = "";
        if (kind == MCS_AXIS_TP) {
            snprintf(detail, sizeof(detail), "_sd%d", axis->split_dim);
        } else if (has_own_id(axis->kind)) {
            snprintf(detail, sizeof(detail), "_%cid%d", kind == MCS_AXIS_EP ? 'e' : 's', axis->id);
        }
        len += snprintf(suffix + len, (size_t)(MCS_TENSOR_SUFFIX_MAX - len), "__%s_%dof%d%s", g_kinds[kind], axis->rank,
                        axis->size, detail);
    }
}

mcs_manifest_t mcs_manifest_of(const mcs_tensor_header_t *header, int32_t split_dim, int32_t shard_count)
{
    mcs_manifest_t manifest = {.magic = MCS_MANIFEST_MAGIC,
                               .version = 1,
                               .size = MCS_MANIFEST_SIZE,
                               .dtype = header->dtype,
                               .ndim = header->ndim,
                               .split_dim = split_dim,
                               .shard_count = shard_count};
    memcpy(manifest.global_shape, header->global_shape, sizeof(manifest.global_shape));
    return manifest;
}

mcs_status_t mcs_manifest_parse(const void *bytes, uint64_t size, mcs_manifest_t *out)
{
    mcs_manifest_t manifest;
    uint64_t whole;
    if (size < sizeof(manifest)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(&manifest, bytes, sizeof(manifest));
    if (manifest.magic != MCS_MANIFEST_MAGIC || manifest.version != 1 || manifest.size != MCS_MANIFEST_SIZE ||
        manifest.dtype < 0 || manifest.dtype >= MCS_DTYPE_COUNT || manifest.ndim < 1 ||
        manifest.ndim > MCS_TENSOR_DIMS_MAX || manifest.split_dim < 0 || manifest.split_dim >= manifest.ndim ||
        manifest.shard_count <= 0 || manifest.shard_count > MCS_TENSOR_SHARDS_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = mcs_tensor_bytes((mcs_dtype_t)manifest.dtype, manifest.ndim, manifest.global_shape, &whole);
    if (status != MCS_OK || manifest.global_shape[manifest.split_dim] % manifest.shard_count != 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *out = manifest;
    return MCS_OK;
}
