/* Which objects make the tensor that a call wants (tensor_read.h):
 *
 *   as it is stored   the object under the key; with a parallelism, the shard of exactly these axes
 *   shard             that shard, or the same part as one writer of several stored it; else made of the shards there
 *                     are: as many as the manifest says, or the first one's header, or the writers' manifest
 *   full              with a parallelism: made of the shards along its TP axis; without: of the writers' parts, or the
 *                     object under the key */
#include "python/src/tensor_read.h"

#include <string.h>

#include "core/base/alloc.h"

void mpy_found_drop(mpy_found_t *found)
{
    mpy_name_drop(&found->key);
    for (size_t i = 0; found->keys != NULL && i < found->count; i++) {
        mpy_name_drop(&found->keys[i]);
    }
    mcs_free(found->keys);
    mcs_free(found->headers);
    *found = (mpy_found_t){0};
}

static bool find_object(mcs_bytes_t key, const char *suffix, const mcs_parallelism_t *expected, mpy_found_t *out)
{
    mpy_found_t found = {.there = true, .key = mpy_name_make(key, suffix), .has_expected = expected != NULL};
    if (found.key.ptr == NULL) {
        return false;
    }
    if (expected != NULL) {
        found.expected = *expected;
    }
    *out = found;
    return true;
}

/* The object that is exactly the shard, under the key of its parallelism or of its writer. */
static bool find_exact(mpy_store_t *self, mcs_bytes_t key, const mcs_parallelism_t *parallelism, mpy_found_t *out)
{
    char suffixes[2][MCS_TENSOR_SUFFIX_MAX];
    mcs_bytes_t names[2] = {{0}};
    mpy_header_t headers[2];
    size_t count = 1;
    mcs_parallelism_suffix(parallelism, suffixes[0]);
    if (mcs_parallelism_is_single_tp(parallelism)) {
        const mcs_axis_t *tp = &parallelism->axes[0];
        mcs_tensor_writer_suffix(tp->rank, tp->size, tp->split_dim, suffixes[1]);
        count = 2;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        names[i] = mpy_name_make(key, suffixes[i]);
        ok = names[i].ptr != NULL;
    }
    ok = ok && mpy_headers_read(self, names, count, headers);
    for (size_t i = 0; ok && !out->there && i < count; i++) {
        if (headers[i].code == 0 && mcs_parallelism_matches(parallelism, &headers[i].header)) {
            ok = find_object(key, suffixes[i], parallelism, out);
        }
    }
    for (size_t i = 0; i < count; i++) {
        mpy_name_drop(&names[i]);
    }
    return ok;
}

/* ---- manifests ---- */

static PyObject *make_bytes(size_t size, void **memory_out)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    *memory_out = bytes != NULL ? PyBytes_AsString(bytes) : NULL;
    return bytes;
}

/* *there_out: there is one. False: an exception. */
static bool read_manifest(mpy_store_t *self, mcs_bytes_t key, const char *suffix, mcs_manifest_t *out, bool *there_out)
{
    mpy_fetch_t f;
    mcs_bytes_t name = mpy_name_make(key, suffix);
    bool ok = name.ptr != NULL && mpy_fetch_init(1, &f);
    *there_out = false;
    if (ok) {
        ok = mpy_fetch_run(self, &name, make_bytes, &f);
        *there_out = ok && f.objects[0] != NULL &&
                     mcs_manifest_parse(f.buffers[0].iov_base, f.buffers[0].iov_len, out) == MCS_OK;
        mpy_fetch_drop(&f);
    }
    mpy_name_drop(&name);
    return ok;
}

/* ---- sets of shards ---- */

/* Shard i of `count`. `parallelism` NULL: of writers. */
static mcs_parallelism_t shard_axes(const mcs_parallelism_t *parallelism, const mcs_manifest_t *manifest, int32_t i)
{
    if (parallelism == NULL) {
        return mcs_parallelism_tp(i, manifest->shard_count, manifest->split_dim);
    }
    return mcs_parallelism_with_tp(parallelism, i, manifest->shard_count);
}

static bool shard_fits(const mcs_tensor_header_t *header, const mcs_parallelism_t *axes, const mcs_manifest_t *manifest)
{
    if (!mcs_parallelism_matches(axes, header) || header->dtype != manifest->dtype || header->ndim != manifest->ndim) {
        return false;
    }
    for (int32_t i = 0; i < header->ndim; i++) {
        int64_t whole = manifest->global_shape[i];
        int64_t local = i == manifest->split_dim ? whole / manifest->shard_count : whole;
        if (header->global_shape[i] != whole || header->local_shape[i] != local) {
            return false;
        }
    }
    return true;
}

static bool name_shards(mcs_bytes_t key, const mcs_parallelism_t *parallelism, const mcs_manifest_t *manifest,
                        mpy_found_t *found)
{
    found->headers = mpy_calloc((size_t)manifest->shard_count, sizeof(*found->headers));
    found->keys = mpy_calloc((size_t)manifest->shard_count, sizeof(*found->keys));
    found->count = found->keys != NULL ? (size_t)manifest->shard_count : 0;
    bool ok = found->headers != NULL && found->keys != NULL;
    for (size_t i = 0; ok && i < found->count; i++) {
        char suffix[MCS_TENSOR_SUFFIX_MAX];
        mcs_parallelism_t axes = shard_axes(parallelism, manifest, (int32_t)i);
        if (parallelism == NULL) {
            mcs_tensor_writer_suffix((int32_t)i, manifest->shard_count, manifest->split_dim, suffix);
        } else {
            mcs_parallelism_suffix(&axes, suffix);
        }
        found->keys[i] = mpy_name_make(key, suffix);
        ok = found->keys[i].ptr != NULL;
    }
    return ok;
}

/* What is made of the shards: the part that `wanted` names, or with NULL all. False: it is no uniform part. */
static bool describe_result(const mcs_manifest_t *manifest, const mcs_parallelism_t *wanted, mpy_found_t *found)
{
    mcs_dtype_t dtype = (mcs_dtype_t)manifest->dtype;
    found->dim = manifest->split_dim;
    found->extent = manifest->global_shape[found->dim];
    if (wanted == NULL) {
        return mcs_tensor_full(dtype, manifest->ndim, manifest->global_shape, &found->result) == MCS_OK;
    }
    const mcs_axis_t *tp = mcs_parallelism_find_tp(wanted);
    int64_t local[MCS_TENSOR_DIMS_MAX];
    memcpy(local, manifest->global_shape, sizeof(local));
    if (tp->split_dim != found->dim ||
        mcs_tensor_shard_range(found->extent, tp->rank, tp->size, &found->start, &found->extent) != MCS_OK) {
        return false;
    }
    local[found->dim] = found->extent;
    return mcs_tensor_shard(dtype, manifest->ndim, manifest->global_shape, local, wanted, &found->result) == MCS_OK;
}

/* All shards of the manifest must be there and be what it says. False: an exception. */
static bool find_shards(mpy_store_t *self, mcs_bytes_t key, const mcs_parallelism_t *parallelism,
                        const mcs_manifest_t *manifest, const mcs_parallelism_t *wanted, mpy_found_t *out)
{
    mpy_found_t found = {.in_shards = true};
    if (!describe_result(manifest, wanted, &found)) {
        return true;
    }
    bool ok = name_shards(key, parallelism, manifest, &found) &&
              mpy_headers_read(self, found.keys, found.count, found.headers);
    found.there = ok;
    for (size_t i = 0; found.there && i < found.count; i++) {
        mcs_parallelism_t axes = shard_axes(parallelism, manifest, (int32_t)i);
        found.there = found.headers[i].code == 0 && shard_fits(&found.headers[i].header, &axes, manifest);
    }
    if (!found.there) {
        mpy_found_drop(&found);
        return ok;
    }
    *out = found;
    return true;
}

/* Without a manifest: the header of the first shard says the same. */
static bool manifest_of_first(mpy_store_t *self, mcs_bytes_t key, const mcs_parallelism_t *parallelism,
                              mcs_manifest_t *out, bool *there_out)
{
    char suffix[MCS_TENSOR_SUFFIX_MAX];
    mpy_header_t first;
    const mcs_axis_t *tp = mcs_parallelism_find_tp(parallelism);
    mcs_parallelism_t axes = mcs_parallelism_with_tp(parallelism, 0, tp->size);
    mcs_parallelism_suffix(&axes, suffix);
    mcs_bytes_t name = mpy_name_make(key, suffix);
    bool ok = name.ptr != NULL && mpy_headers_read(self, &name, 1, &first);
    mpy_name_drop(&name);
    const mcs_tensor_axis_t *stored = ok && first.code == 0 ? mcs_tensor_find_tp(&first.header) : NULL;
    *there_out = false;
    if (stored != NULL && stored->split_dim >= 0) {
        mcs_manifest_t manifest = mcs_manifest_of(&first.header, stored->split_dim, stored->size);
        *there_out = mcs_manifest_parse(&manifest, sizeof(manifest), out) == MCS_OK;
    }
    return ok;
}

/* Made of the shards along the TP axis. `wanted` NULL: the whole tensor. */
static bool find_along_tp(mpy_store_t *self, mcs_bytes_t key, const mcs_parallelism_t *parallelism,
                          const mcs_parallelism_t *wanted, mpy_found_t *out)
{
    mcs_manifest_t manifest;
    bool there;
    if (mcs_parallelism_find_tp(parallelism) == NULL) {
        return true;
    }
    if (!read_manifest(self, key, MCS_TENSOR_PARALLELISM_MANIFEST, &manifest, &there) ||
        (there && !find_shards(self, key, parallelism, &manifest, wanted, out))) {
        return false;
    }
    if (out->there) {
        return true;
    }
    if (!manifest_of_first(self, key, parallelism, &manifest, &there) ||
        (there && !find_shards(self, key, parallelism, &manifest, wanted, out))) {
        return false;
    }
    if (out->there || !mcs_parallelism_is_single_tp(parallelism)) {
        return true;
    }
    return read_manifest(self, key, MCS_TENSOR_WRITER_MANIFEST, &manifest, &there) &&
           (!there || find_shards(self, key, NULL, &manifest, wanted, out));
}

static bool find_shard(mpy_store_t *self, mcs_bytes_t key, const mcs_parallelism_t *parallelism, mpy_found_t *out)
{
    if (!find_exact(self, key, parallelism, out)) {
        return false;
    }
    if (out->there) {
        return true;
    }
    if (!find_along_tp(self, key, parallelism, parallelism, out)) {
        return false;
    }
    if (!out->there && mcs_parallelism_is_single_tp(parallelism) && parallelism->axes[0].size == 1) {
        return find_object(key, "", NULL, out); /* a group of one stores the tensor itself */
    }
    return true;
}

/* What the writers stored, or the tensor itself. */
static bool find_full(mpy_store_t *self, mcs_bytes_t key, mpy_found_t *out)
{
    mcs_manifest_t manifest;
    bool there;
    if (!read_manifest(self, key, MCS_TENSOR_WRITER_MANIFEST, &manifest, &there) ||
        (there && !find_shards(self, key, NULL, &manifest, NULL, out))) {
        return false;
    }
    return out->there || find_object(key, "", NULL, out);
}

bool mpy_tensor_find(mpy_store_t *self, mcs_bytes_t key, const mpy_read_target_t *target, mpy_found_t *out)
{
    *out = (mpy_found_t){0};
    bool ok;
    if (!target->has_parallelism) {
        if (target->mode == MPY_READ_SHARD) {
            return true; /* of what? */
        }
        ok = target->mode == MPY_READ_FULL ? find_full(self, key, out) : find_object(key, "", NULL, out);
    } else if (target->mode == MPY_READ_AS_STORED) {
        ok = find_exact(self, key, &target->parallelism, out);
    } else if (target->mode == MPY_READ_SHARD) {
        ok = find_shard(self, key, &target->parallelism, out);
    } else {
        ok = find_along_tp(self, key, &target->parallelism, NULL, out);
    }
    if (!ok) {
        mpy_found_drop(out);
    }
    return ok;
}
