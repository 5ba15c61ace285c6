/* See tensor_put.h. */
#include "python/src/tensor_put.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

/* A slice of more runs than this is copied together: the library's own work for a piece would cost more. On a device
 * the pieces are given as they are. */
#define HOST_RUNS_MAX   1024
#define DEVICE_RUNS_MAX (UINT64_C(1) << 20)

void mpy_puts_drop(mpy_puts_t *puts)
{
    for (size_t i = 0; i < puts->count; i++) {
        mcs_free(puts->puts[i].key);
        Py_CLEAR(puts->puts[i].owner);
    }
    mcs_free(puts->puts);
    mcs_free(puts->pieces);
    *puts = (mpy_puts_t){0};
}

void mpy_puts_cut(mpy_puts_t *puts, size_t count)
{
    while (puts->count > count) {
        mpy_put_t *put = &puts->puts[--puts->count];
        mcs_free(put->key);
        Py_CLEAR(put->owner);
    }
}

static bool grow(void **array, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity) {
        return true;
    }
    size_t wanted = MCS_MAX(needed, *capacity * 2);
    void *larger = wanted <= SIZE_MAX / size ? mcs_realloc(*array, wanted * size) : NULL;
    if (larger == NULL) {
        PyErr_NoMemory();
        return false;
    }
    *array = larger;
    *capacity = wanted;
    return true;
}

static bool add_piece(mpy_puts_t *puts, const void *data, uint64_t len)
{
    void *pieces = puts->pieces;
    bool grown = grow(&pieces, &puts->piece_capacity, puts->piece_count + 1, sizeof(*puts->pieces));
    puts->pieces = pieces;
    if (grown) {
        union {
            const void *in;
            void *out; /* an iovec's memory is only read by a put */
        } base = {.in = data};
        puts->pieces[puts->piece_count++] = (struct iovec){.iov_base = base.out, .iov_len = len};
    }
    return grown;
}

/* A new put with its key, at the end of the list; its first piece is for the head. NULL: an exception. */
static mpy_put_t *add_put(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix)
{
    void *array = puts->puts;
    bool grown = grow(&array, &puts->capacity, puts->count + 1, sizeof(*puts->puts));
    puts->puts = array;
    size_t suffix_len = strlen(suffix);
    char *text = grown ? mpy_calloc(key.len + suffix_len + 1, 1) : NULL;
    size_t first = puts->piece_count;
    if (text == NULL || !add_piece(puts, NULL, 0)) {
        mcs_free(text);
        return NULL;
    }
    memcpy(text, key.ptr, key.len);
    memcpy(text + key.len, suffix, suffix_len);
    mpy_put_t *put = &puts->puts[puts->count++];
    *put = (mpy_put_t){.item = item, .key = text, .key_len = key.len + suffix_len, .first = first, .pieces = 1};
    return put;
}

/* The slice's elements next to each other in memory of ours, which `put` then owns. */
static bool copy_slice(mpy_puts_t *puts, mpy_put_t *put, const mpy_source_t *source, const mcs_tensor_slice_t *slice)
{
    void *memory;
    put->owner = mpy_tensor_memory(MCS_TENSOR_HEADER_SIZE + slice->rows * slice->row_bytes, &memory);
    if (put->owner == NULL) {
        return false;
    }
    char *to = (char *)memory + MCS_TENSOR_HEADER_SIZE;
    const char *from = source->data + slice->offset;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    for (uint64_t i = 0; i < slice->rows; i++) {
        memcpy(to + i * slice->row_bytes, from + i * slice->stride, slice->row_bytes);
    }
    mpy_quiet_end(&call);
    put->pieces++;
    return add_piece(puts, to, slice->rows * slice->row_bytes);
}

static bool add_runs(mpy_puts_t *puts, mpy_put_t *put, const mpy_source_t *source, const mcs_tensor_slice_t *slice)
{
    put->owner = Py_XNewRef(source->owner);
    for (uint64_t i = 0; i < slice->rows; i++) {
        if (!add_piece(puts, source->data + slice->offset + i * slice->stride, slice->row_bytes)) {
            return false;
        }
        put->pieces++;
    }
    return true;
}

mpy_take_t mpy_puts_add(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                        const mcs_tensor_header_t *header, const mpy_source_t *source, const mcs_tensor_slice_t *slice)
{
    mcs_tensor_slice_t whole = {
        .rows = source->bytes > 0, .row_bytes = source->bytes, .stride = source->bytes, .offset = 0};
    const mcs_tensor_slice_t *part = slice != NULL ? slice : &whole;
    if (source->on_device && part->rows > DEVICE_RUNS_MAX) {
        mcs_warn("python", "%s refused: a shard of %llu pieces on a device: make it contiguous first: %s", puts->name,
                 (unsigned long long)part->rows, mcs_code_name(MCS_INVALID_PARAMS));
        return MPY_REFUSED;
    }
    mpy_put_t *put = add_put(puts, item, key, suffix);
    if (put == NULL) {
        return MPY_RAISED;
    }
    put->head.header = *header;
    put->head_len = MCS_TENSOR_HEADER_SIZE;
    put->on_device = source->on_device;
    bool copied = !source->on_device && part->rows > HOST_RUNS_MAX;
    bool added = copied ? copy_slice(puts, put, source, part) : add_runs(puts, put, source, part);
    return added ? MPY_TAKEN : MPY_RAISED;
}

mpy_take_t mpy_puts_add_manifest(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                                 const mcs_manifest_t *manifest)
{
    mpy_put_t *put = add_put(puts, item, key, suffix);
    if (put == NULL) {
        return MPY_RAISED;
    }
    put->head.manifest = *manifest;
    put->head_len = MCS_MANIFEST_SIZE;
    put->is_manifest = true;
    return MPY_TAKEN;
}

/* ---- what a tensor becomes ---- */

static mpy_take_t refuse(const mpy_puts_t *puts, const char *why)
{
    mcs_warn("python", "%s refused: %s: %s", puts->name, why, mcs_code_name(MCS_INVALID_PARAMS));
    return MPY_REFUSED;
}

mpy_take_t mpy_puts_whole(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source)
{
    mcs_tensor_header_t header;
    if (mcs_tensor_full(source->dtype, source->ndim, source->shape, &header) != MCS_OK) {
        return refuse(puts, "no such tensor");
    }
    return mpy_puts_add(puts, item, key, "", &header, source, NULL);
}

/* The part of `source`, a whole tensor, that the TP axis of `parallelism` has. */
static mpy_take_t add_split(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                            const mpy_source_t *source, const mcs_parallelism_t *parallelism)
{
    const mcs_axis_t *tp = mcs_parallelism_find_tp(parallelism);
    mcs_tensor_header_t header;
    mcs_tensor_slice_t slice;
    int64_t start;
    int64_t local[MCS_TENSOR_DIMS_MAX];
    if (tp->split_dim < 0 || tp->split_dim >= source->ndim || tp->size > MCS_TENSOR_SHARDS_MAX) {
        return refuse(puts, "split_dim is not a dimension of the tensor");
    }
    memcpy(local, source->shape, sizeof(local));
    if (mcs_tensor_shard_range(source->shape[tp->split_dim], tp->rank, tp->size, &start, &local[tp->split_dim]) !=
        MCS_OK) {
        return refuse(puts, "the dimension is not divisible by the number of shards");
    }
    if (mcs_tensor_slice(source->dtype, source->ndim, source->shape, tp->split_dim, start, local[tp->split_dim],
                         &slice) != MCS_OK ||
        mcs_tensor_shard(source->dtype, source->ndim, source->shape, local, parallelism, &header) != MCS_OK) {
        return refuse(puts, "no such shard");
    }
    return mpy_puts_add(puts, item, key, suffix, &header, source, &slice);
}

mpy_take_t mpy_puts_tp(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source, int32_t size,
                       int32_t split_dim)
{
    if (size == 1) {
        return mpy_puts_whole(puts, item, key, source);
    }
    if (size < 1 || size > MCS_TENSOR_SHARDS_MAX || split_dim < 0 || split_dim >= source->ndim ||
        source->shape[split_dim] % size != 0) {
        return refuse(puts, "the dimension is not divisible by the number of shards");
    }
    mpy_take_t taken = MPY_TAKEN;
    for (int32_t rank = 0; taken == MPY_TAKEN && rank < size; rank++) {
        mcs_parallelism_t parallelism = mcs_parallelism_tp(rank, size, split_dim);
        char suffix[MCS_TENSOR_SUFFIX_MAX];
        mcs_tensor_tp_suffix(rank, suffix);
        taken = add_split(puts, item, key, suffix, source, &parallelism);
    }
    return taken;
}

/* The manifest of the shard that was added last. */
static mpy_take_t add_manifest_of_last(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                                       const mcs_axis_t *tp)
{
    mcs_manifest_t manifest = mcs_manifest_of(&puts->puts[puts->count - 1].head.header, tp->split_dim, tp->size);
    return mpy_puts_add_manifest(puts, item, key, suffix, &manifest);
}

mpy_take_t mpy_puts_writer(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source,
                           const mcs_parallelism_t *writer)
{
    const mcs_axis_t *tp = &writer->axes[0];
    char suffix[MCS_TENSOR_SUFFIX_MAX];
    mcs_tensor_writer_suffix(tp->rank, tp->size, tp->split_dim, suffix);
    mpy_take_t taken = add_split(puts, item, key, suffix, source, writer);
    return taken == MPY_TAKEN ? add_manifest_of_last(puts, item, key, MCS_TENSOR_WRITER_MANIFEST, tp) : taken;
}

/* `source` is the shard: the whole has `size` times its extent along split_dim. */
static mpy_take_t add_own_shard(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const char *suffix,
                                const mpy_source_t *source, const mcs_parallelism_t *parallelism)
{
    const mcs_axis_t *tp = mcs_parallelism_find_tp(parallelism);
    mcs_tensor_header_t header;
    int64_t global[MCS_TENSOR_DIMS_MAX];
    memcpy(global, source->shape, sizeof(global));
    if (tp != NULL && (tp->split_dim >= source->ndim ||
                       __builtin_mul_overflow(global[tp->split_dim], tp->size, &global[tp->split_dim]))) {
        return refuse(puts, "split_dim is not a dimension of the tensor");
    }
    if (mcs_tensor_shard(source->dtype, source->ndim, global, source->shape, parallelism, &header) != MCS_OK) {
        return refuse(puts, "no such shard");
    }
    return mpy_puts_add(puts, item, key, suffix, &header, source, NULL);
}

mpy_take_t mpy_puts_parallel(mpy_puts_t *puts, size_t item, mcs_bytes_t key, const mpy_source_t *source,
                             const mcs_parallelism_t *parallelism)
{
    const mcs_axis_t *tp = mcs_parallelism_find_tp(parallelism);
    char suffix[MCS_TENSOR_SUFFIX_MAX];
    mcs_parallelism_suffix(parallelism, suffix);
    bool splits = tp != NULL && !mcs_parallelism_is_single_tp(parallelism);
    mpy_take_t taken = splits ? add_split(puts, item, key, suffix, source, parallelism)
                              : add_own_shard(puts, item, key, suffix, source, parallelism);
    if (taken != MPY_TAKEN || tp == NULL) {
        return taken;
    }
    return add_manifest_of_last(puts, item, key, MCS_TENSOR_PARALLELISM_MANIFEST, tp);
}

/* ---- storing ---- */

/* What the library is given: the puts of one stage, next to each other. */
typedef struct stage {
    size_t count;
    size_t *index; /* in mpy_puts_t */
    mcs_bytes_t *keys;
    mcs_value_t *values;
    mcs_bytes_t *groups;
    int *results;
} stage_t;

static void drop_stage(stage_t *stage)
{
    mcs_free(stage->index);
    mcs_free(stage->keys);
    mcs_free(stage->values);
    mcs_free(stage->groups);
    mcs_free(stage->results);
}

static bool make_stage(size_t count, stage_t *out)
{
    stage_t stage = {.index = mpy_calloc(count, sizeof(*stage.index)),
                     .keys = mpy_calloc(count, sizeof(*stage.keys)),
                     .values = mpy_calloc(count, sizeof(*stage.values)),
                     .groups = mpy_calloc(count, sizeof(*stage.groups)),
                     .results = mpy_calloc(count, sizeof(*stage.results))};
    if (stage.index == NULL || stage.keys == NULL || stage.values == NULL || stage.groups == NULL ||
        stage.results == NULL) {
        drop_stage(&stage);
        return false;
    }
    *out = stage;
    return true;
}

/* Elements on a device go only where the library takes such addresses. Without the GIL. */
static bool device_is_usable(mpy_store_t *self, const mpy_puts_t *puts, const mpy_put_t *put)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    bool usable = true;
    for (size_t p = 1; usable && put->on_device && p < put->pieces; p++) {
        const struct iovec *piece = &puts->pieces[put->first + p];
        usable = mpy_memory_usable(self->memory, self->store, &probe, piece->iov_base, piece->iov_len, false);
    }
    mcs_memprobe_fini(&probe);
    if (!usable) {
        mcs_warn("python", "%s refused: the tensor is in device memory, which this store cannot read: %s", puts->name,
                 mcs_code_name(MCS_INVALID_PARAMS));
    }
    return usable;
}

static void fill_stage(mpy_store_t *self, const mpy_puts_t *puts, const mpy_placement_t *placement, bool manifests,
                       int64_t *results, stage_t *stage)
{
    for (size_t i = 0; i < puts->count; i++) {
        mpy_put_t *put = &puts->puts[i];
        if (put->is_manifest != manifests || results[put->item] != 0) {
            continue;
        }
        if (!device_is_usable(self, puts, put)) {
            results[put->item] = MCS_INVALID_PARAMS;
            continue;
        }
        puts->pieces[put->first] = (struct iovec){.iov_base = &put->head, .iov_len = put->head_len};
        stage->index[stage->count] = i;
        stage->keys[stage->count] = (mcs_bytes_t){.ptr = put->key, .len = put->key_len};
        stage->values[stage->count] = (mcs_value_t){.iov = &puts->pieces[put->first], .iov_count = put->pieces};
        if (placement->c.group_ids != NULL) {
            stage->groups[stage->count] = placement->c.group_ids[put->item];
        }
        stage->count++;
    }
}

/* False: an exception. */
static bool run_stage(mpy_store_t *self, const mpy_puts_t *puts, const mpy_placement_t *placement, bool manifests,
                      unsigned flags, int64_t *results)
{
    stage_t stage;
    if (!make_stage(puts->count, &stage)) {
        return false;
    }
    mcs_replicate_config_t config = placement->c;
    mpy_call_t call;
    mpy_call_begin(&call);
    fill_stage(self, puts, placement, manifests, results, &stage);
    if (config.group_ids != NULL) {
        config.group_ids = stage.groups;
        config.group_id_count = stage.count;
    }
    if (stage.count > 0) {
        mcs_put(self->store, stage.keys, stage.values, stage.count, &config, flags, stage.results);
    }
    for (size_t i = 0; i < stage.count; i++) {
        int64_t *result = &results[puts->puts[stage.index[i]].item];
        *result = *result == 0 ? stage.results[i] : *result;
    }
    bool ok = mpy_call_end(&call);
    drop_stage(&stage);
    return ok;
}

bool mpy_puts_run(mpy_store_t *self, const mpy_puts_t *puts, const mpy_placement_t *placement, size_t items,
                  unsigned flags, int64_t *results)
{
    bool refused = placement->unavailable || (placement->c.group_ids != NULL && placement->c.group_id_count != items);
    bool any_manifest = false;
    for (size_t i = 0; i < puts->count; i++) {
        results[puts->puts[i].item] = refused ? MCS_INVALID_PARAMS : 0;
        any_manifest = any_manifest || puts->puts[i].is_manifest;
    }
    if (refused || puts->count == 0) {
        return true;
    }
    return run_stage(self, puts, placement, false, flags, results) &&
           (!any_manifest || run_stage(self, puts, placement, true, flags, results));
}
