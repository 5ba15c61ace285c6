/* What an address is, by asking the driver, and whether all bytes of a piece are there.
 *
 * One question costs about a tenth of a microsecond, and a paged cache asks for thousands of fragments that lie in few
 * allocations, one after another in the same order for each key. So the answers of a call are remembered, and the one
 * after the last that fitted is tried first. They are not remembered longer: memory may be freed between two calls, and
 * that must be seen. */
#include "gpu/internal.h"

#define MEMO 64

typedef struct known {
    uint64_t start;
    uint64_t end;
    int16_t device;
} known_t;

typedef struct memo {
    known_t known[MEMO];
    uint32_t count;
    uint32_t next; /* overwritten next, once full */
    uint32_t last; /* that fitted */
} memo_t;

/* What the driver says of addresses that are none of its own. Every other error says nothing about the address (a
 * device that has failed reports it from any call): to take it for host memory would be to touch it. */
static bool says_unknown(cuda_result_t result)
{
    return result == CUDA_BAD_VALUE || result == CUDA_BAD_CONTEXT || result == CUDA_NOT_INITIALIZED ||
           result == CUDA_DEINITIALIZED;
}

/* Some drivers answer a thread only that has a context: one that is in use will do. */
static cuda_result_t ask(mcs_mem_space_t *space, unsigned count, int *attributes, void **values, cuda_ptr_t ptr)
{
    gpu_device_t *device;
    cuda_result_t result = space->driver->pointer_get_attributes(count, attributes, values, ptr);
    if (MCS_UNLIKELY(result == CUDA_BAD_CONTEXT) && cuda_ctx_enter_active(space, &device)) {
        result = space->driver->pointer_get_attributes(count, attributes, values, ptr);
        cuda_ctx_leave(space, device);
    }
    return result;
}

mcs_status_t gpu_query(mcs_mem_space_t *space, const void *ptr, mcs_mem_where_t *where_out)
{
    uint32_t type = 0;
    uint32_t managed = 0;
    int ordinal = MCS_MEM_HOST;
    uint64_t id = 0;
    cuda_ptr_t start = 0;
    size_t len = 0;
    int attributes[] = {CUDA_POINTER_MEMORY_TYPE, CUDA_POINTER_IS_MANAGED,  CUDA_POINTER_DEVICE_ORDINAL,
                        CUDA_POINTER_BUFFER_ID,   CUDA_POINTER_RANGE_START, CUDA_POINTER_RANGE_SIZE};
    void *values[] = {&type, &managed, &ordinal, &id, &start, &len};
    mcs_mem_where_t where = {.kind = MCS_MEM_PAGEABLE, .device = MCS_MEM_HOST};
    cuda_result_t result = ask(space, MCS_ARRAY_LEN(attributes), attributes, values, (cuda_ptr_t)(uintptr_t)ptr);
    if (result != CUDA_OK && !says_unknown(result)) {
        return cuda_failed(space->driver, NULL, "pointer_get_attributes", result);
    }
    bool known = result == CUDA_OK;
    if (known && managed == 0 && type == CUDA_MEMORY_HOST) {
        where.kind = MCS_MEM_PINNED;
    } else if (known && (managed != 0 || type == CUDA_MEMORY_DEVICE)) {
        where.kind = managed != 0 ? MCS_MEM_MANAGED : MCS_MEM_DEVICE;
        /* Managed memory may have no device of its own yet. */
        where.device = ordinal >= 0 && ordinal < space->device_count ? ordinal : 0;
        where.start = start;
        where.len = len;
        where.id = id;
    }
    *where_out = where;
    return MCS_OK;
}

/* ---- the memo ---- */

static bool fits(const known_t *known, uint64_t at)
{
    return at >= known->start && at < known->end;
}

static const known_t *remembered(memo_t *memo, uint64_t at)
{
    if (memo->count == 0) {
        return NULL;
    }
    for (uint32_t i = 0; i < memo->count; i++) {
        uint32_t at_memo = (memo->last + 1 + i) % memo->count;
        if (fits(&memo->known[at_memo], at)) {
            memo->last = at_memo;
            return &memo->known[at_memo];
        }
    }
    return NULL;
}

static const known_t *remember(memo_t *memo, known_t known)
{
    uint32_t at = memo->next;
    memo->known[at] = known;
    memo->last = at;
    memo->next = (at + 1) % MEMO;
    memo->count = MCS_MIN(memo->count + 1, (uint32_t)MEMO);
    return &memo->known[at];
}

/* ---- pieces ---- */

static mcs_status_t freed(uint64_t at, const gpu_range_t *range)
{
    mcs_error(GPU_AREA, "address %#llx of the buffer registered at %#llx: its memory on cuda:%d has been freed: %s",
              (unsigned long long)at, (unsigned long long)range->base, range->device,
              mcs_status_name(MCS_ERR_INVALID_PARAMS));
    return MCS_ERR_INVALID_PARAMS;
}

/* What holds the address, the rest of the piece after it being `len` bytes. */
static mcs_status_t look_up(mcs_mem_space_t *space, memo_t *memo, uint64_t at, uint64_t len, const known_t **known_out)
{
    gpu_range_t range;
    mcs_mem_where_t where;
    mcs_status_t status = gpu_query(space, (const void *)(uintptr_t)at, &where); /* NOLINT(performance-no-int-to-ptr) */
    if (status != MCS_OK) {
        return status;
    }
    if (gpu_ranges_find(space, at, &range)) {
        if (where.device < 0 || (range.id != 0 && where.id != range.id)) {
            return freed(at, &range);
        }
        *known_out = remember(memo, (known_t){range.start, range.end, range.device});
        return MCS_OK;
    }
    known_t known = {at, at + len, (int16_t)where.device};
    if (where.device >= 0 && where.len > 0 && where.start <= at) {
        known = (known_t){where.start, where.start + where.len, (int16_t)where.device};
    }
    *known_out = remember(memo, known);
    return MCS_OK;
}

static mcs_status_t locate_piece(mcs_mem_space_t *space, memo_t *memo, const struct iovec *piece, int16_t *device_out)
{
    uint64_t at = (uint64_t)(uintptr_t)piece->iov_base;
    uint64_t end = at + piece->iov_len;
    int16_t device = MCS_MEM_HOST;
    bool first = true;
    for (; at < end; first = false) {
        const known_t *known = remembered(memo, at);
        if (known == NULL) {
            mcs_status_t status = look_up(space, memo, at, end - at, &known);
            if (status != MCS_OK) {
                return status;
            }
        }
        if (!first && known->device != device) {
            mcs_error(GPU_AREA, "buffer %p of %zu bytes reaches beyond its memory on cuda:%d: %s", piece->iov_base,
                      piece->iov_len, device, mcs_status_name(MCS_ERR_INVALID_PARAMS));
            return MCS_ERR_INVALID_PARAMS;
        }
        device = known->device;
        if (device == MCS_MEM_HOST) {
            break; /* host memory is not ours to judge, and its answer is for these bytes only */
        }
        at = known->end;
    }
    *device_out = device;
    return MCS_OK;
}

void gpu_locate(mcs_mem_space_t *space, mcs_mem_span_t *spans, size_t count)
{
    memo_t memo = {.count = 0};
    for (size_t i = 0; i < count; i++) {
        mcs_mem_span_t *span = &spans[i];
        span->any_device = false;
        span->status = MCS_OK;
        for (size_t p = 0; p < span->count && span->status == MCS_OK; p++) {
            span->status = locate_piece(space, &memo, &span->iov[p], &span->devices[p]);
            span->any_device = span->any_device || (span->status == MCS_OK && span->devices[p] != MCS_MEM_HOST);
        }
    }
}
