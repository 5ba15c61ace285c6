/* See tensor_read.h. tensor_find.c decides which objects; here they are read. */
#include "python/src/tensor_read.h"

#include <string.h>

#include "core/base/alloc.h"

mcs_bytes_t mpy_name_make(mcs_bytes_t base, const char *suffix)
{
    size_t suffix_len = strlen(suffix);
    char *text = mpy_calloc(base.len + suffix_len + 1, 1);
    if (text == NULL) {
        return (mcs_bytes_t){0};
    }
    memcpy(text, base.ptr, base.len);
    memcpy(text + base.len, suffix, suffix_len);
    return (mcs_bytes_t){.ptr = text, .len = base.len + suffix_len};
}

void mpy_name_drop(mcs_bytes_t *name)
{
    union {
        const void *in;
        void *out;
    } text = {.in = name->ptr};
    mcs_free(text.out);
    *name = (mcs_bytes_t){0};
}

/* ---- headers ---- */

/* An object may be replaced by one of another size between the lookup and the read (and a lookup may be answered from
 * memory): then header and size do not agree, and both are asked for again. Each time somebody has gone forward. */
#define HEADER_RETRIES 8

/* The sizes, then the first bytes: the second lookup is answered from the first's lease. sizes[i]: as they were. */
static void read_headers(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, mcs_part_t *parts,
                         mcs_parts_list_t *lists, mpy_header_t *headers, int64_t *sizes)
{
    mcs_get_t *get = mcs_get_begin(self->store, keys, count);
    for (size_t i = 0; i < count; i++) {
        headers[i].code = get != NULL ? mcs_get_object_size(get, i) : MCS_INVALID_PARAMS;
        sizes[i] = headers[i].code;
        parts[i] = (mcs_part_t){.ptr = &headers[i].header, .size = MCS_TENSOR_HEADER_SIZE};
        lists[i] = (mcs_parts_list_t){.parts = &parts[i], .count = headers[i].code >= MCS_TENSOR_HEADER_SIZE};
    }
    if (get == NULL) {
        return;
    }
    mcs_get_end(get);
    mcs_get_parts(self->store, keys, lists, count);
    for (size_t i = 0; i < count; i++) {
        int64_t size = headers[i].code;
        if (lists[i].count == 1) {
            headers[i].code = parts[i].result < 0 ? parts[i].result : 0;
        } else if (size >= 0) {
            headers[i].code = MCS_INVALID_PARAMS; /* too short for a tensor */
        }
        if (headers[i].code == 0 &&
            mcs_tensor_parse(&headers[i].header, (uint64_t)size, &headers[i].header) != MCS_OK) {
            headers[i].code = MCS_INVALID_PARAMS;
        }
    }
}

bool mpy_headers_read(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, mpy_header_t *headers)
{
    mcs_part_t *parts = mpy_calloc(count, sizeof(*parts));
    mcs_parts_list_t *lists = mpy_calloc(count, sizeof(*lists));
    int64_t *sizes = mpy_calloc(count, sizeof(*sizes));
    bool ok = parts != NULL && lists != NULL && sizes != NULL;
    if (ok) {
        mpy_call_t call;
        mpy_call_begin(&call);
        read_headers(self, keys, count, parts, lists, headers, sizes);
        for (size_t i = 0; i < count; i++) {
            int64_t before = -1;
            for (int again = 0;
                 again < HEADER_RETRIES && headers[i].code == MCS_INVALID_PARAMS && sizes[i] >= 0 && sizes[i] != before;
                 again++) {
                before = sizes[i]; /* the same once more: it is no tensor */
                read_headers(self, &keys[i], 1, &parts[i], &lists[i], &headers[i], &sizes[i]);
            }
        }
        ok = mpy_call_end(&call);
    }
    mcs_free(parts);
    mcs_free(lists);
    mcs_free(sizes);
    return ok;
}

/* ---- whole objects ---- */

bool mpy_tensors_fetch(mpy_store_t *self, const mcs_bytes_t *keys, size_t count, mcs_tensor_header_t *headers,
                       PyObject **tensors, int64_t *codes)
{
    mpy_fetch_t f;
    if (!mpy_fetch_init(count, &f)) {
        return false;
    }
    bool ok = mpy_fetch_run(self, keys, mpy_tensor_memory, &f);
    for (size_t i = 0; i < count; i++) {
        tensors[i] = NULL;
    }
    for (size_t i = 0; ok && i < count; i++) {
        int64_t code = f.results[i];
        if (f.objects[i] != NULL) {
            code = mcs_tensor_parse(f.buffers[i].iov_base, f.buffers[i].iov_len, &headers[i]) == MCS_OK
                       ? 0
                       : MCS_INVALID_PARAMS;
        } else if (code >= 0) {
            code = MCS_INVALID_PARAMS;
        }
        if (code == 0) {
            char *payload = (char *)f.buffers[i].iov_base + MCS_TENSOR_HEADER_SIZE;
            tensors[i] = mpy_tensor_new(mpy_store_state(self), &headers[i], payload, false, f.objects[i]);
            ok = tensors[i] != NULL;
        }
        if (codes != NULL) {
            codes[i] = code;
        }
    }
    for (size_t i = 0; !ok && i < count; i++) {
        Py_CLEAR(tensors[i]);
    }
    mpy_fetch_drop(&f);
    return ok;
}

/* ---- shards ---- */

/* Runs shorter than this that are many are not read one by one: the whole shard is, and copied from. */
#define DIRECT_RUNS_MAX  64
#define DIRECT_RUN_BYTES (UINT64_C(64) << 10)

/* One shard that has a part of the result. */
typedef struct source {
    size_t shard;
    mcs_tensor_header_t header; /* as it was when the elements were read */
    mcs_tensor_slice_t from;
    mcs_tensor_slice_t to;
    char *copy; /* the shard's elements, NULL: they are read to where they belong */
    mcs_part_t *parts;
    size_t part_count;
} source_t;

/* What shard i and the result have in common. False: nothing. */
static bool overlap(const mpy_found_t *found, size_t i, source_t *source)
{
    const mcs_tensor_header_t *shard = &found->headers[i].header;
    const mcs_tensor_header_t *result = &found->result;
    int64_t shard_extent = shard->local_shape[found->dim];
    int64_t shard_start = (int64_t)i * shard_extent;
    int64_t start = MCS_MAX(shard_start, found->start);
    int64_t end = MCS_MIN(shard_start + shard_extent, found->start + found->extent);
    if (start >= end) {
        return false;
    }
    source->shard = i;
    mcs_dtype_t dtype = (mcs_dtype_t)result->dtype;
    return mcs_tensor_slice(dtype, shard->ndim, shard->local_shape, found->dim, start - shard_start, end - start,
                            &source->from) == MCS_OK &&
           mcs_tensor_slice(dtype, result->ndim, result->local_shape, found->dim, start - found->start, end - start,
                            &source->to) == MCS_OK &&
           source->from.rows > 0;
}

static void drop_sources(source_t *sources, size_t count)
{
    for (size_t i = 0; sources != NULL && i < count; i++) {
        mcs_free(sources[i].copy);
        mcs_free(sources[i].parts);
    }
    mcs_free(sources);
}

/* The parts to read: the header again, and the elements. */
static bool plan_parts(const mpy_found_t *found, source_t *source, char *payload)
{
    const mcs_tensor_slice_t *from = &source->from;
    uint64_t bytes = found->headers[source->shard].header.data_bytes;
    bool direct = from->rows <= DIRECT_RUNS_MAX || from->row_bytes >= DIRECT_RUN_BYTES;
    size_t runs = direct ? from->rows : 1;
    source->parts = mpy_calloc(runs + 1, sizeof(*source->parts));
    if (source->parts == NULL) {
        return false;
    }
    source->part_count = runs + 1;
    source->parts[0] = (mcs_part_t){.ptr = &source->header, .size = MCS_TENSOR_HEADER_SIZE};
    if (!direct) {
        source->copy = mpy_calloc(bytes, 1);
        source->parts[1] = (mcs_part_t){.ptr = source->copy, .size = bytes, .offset = MCS_TENSOR_HEADER_SIZE};
        return source->copy != NULL;
    }
    for (size_t i = 0; i < runs; i++) {
        source->parts[i + 1] = (mcs_part_t){.ptr = payload + source->to.offset + i * source->to.stride,
                                            .size = from->row_bytes,
                                            .offset = MCS_TENSOR_HEADER_SIZE + from->offset + i * from->stride};
    }
    return true;
}

/* 0, or why this source is not what it was. */
static int64_t check_source(const mpy_found_t *found, const source_t *source)
{
    for (size_t i = 0; i < source->part_count; i++) {
        if (source->parts[i].result != (int64_t)source->parts[i].size) {
            return source->parts[i].result < 0 ? source->parts[i].result : MCS_INVALID_PARAMS;
        }
    }
    return memcmp(&source->header, &found->headers[source->shard].header, sizeof(source->header)) == 0
               ? 0
               : MCS_INVALID_PARAMS;
}

static void scatter(const source_t *source, char *payload)
{
    for (uint64_t i = 0; source->copy != NULL && i < source->from.rows; i++) {
        memcpy(payload + source->to.offset + i * source->to.stride,
               source->copy + source->from.offset + i * source->from.stride, source->from.row_bytes);
    }
}

static int64_t read_sources(mpy_store_t *self, const mpy_found_t *found, source_t *sources, size_t count,
                            mcs_bytes_t *keys, mcs_parts_list_t *lists, char *payload)
{
    for (size_t i = 0; i < count; i++) {
        keys[i] = found->keys[sources[i].shard];
        lists[i] = (mcs_parts_list_t){.parts = sources[i].parts, .count = sources[i].part_count};
    }
    mcs_get_parts(self->store, keys, lists, count);
    int64_t code = 0;
    for (size_t i = 0; code == 0 && i < count; i++) {
        code = check_source(found, &sources[i]);
    }
    for (size_t i = 0; code == 0 && i < count; i++) {
        scatter(&sources[i], payload);
    }
    return code;
}

bool mpy_shards_read(mpy_store_t *self, const mpy_found_t *found, char *payload, int64_t *code_out)
{
    source_t *sources = mpy_calloc(found->count, sizeof(*sources));
    mcs_bytes_t *keys = mpy_calloc(found->count, sizeof(*keys));
    mcs_parts_list_t *lists = mpy_calloc(found->count, sizeof(*lists));
    size_t count = 0;
    bool ok = sources != NULL && keys != NULL && lists != NULL;
    for (size_t i = 0; ok && i < found->count; i++) {
        if (overlap(found, i, &sources[count])) {
            ok = plan_parts(found, &sources[count++], payload);
        }
    }
    if (ok && count > 0) {
        mpy_call_t call;
        mpy_call_begin(&call);
        *code_out = read_sources(self, found, sources, count, keys, lists, payload);
        ok = mpy_call_end(&call);
    } else {
        *code_out = 0; /* a tensor without elements */
    }
    drop_sources(sources, count);
    mcs_free(keys);
    mcs_free(lists);
    return ok;
}
