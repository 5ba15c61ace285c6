/* What one job gives to the driver for one device: see job.h.
 *
 * Pieces become stretches: neighbours on both sides are one, and none crosses the edge of a pinned piece, because the
 * driver refuses a copy whose ends belong to two registrations. How the stretches go is a matter of their number and
 * size (g_ways). Stretches of unpinned memory go by plain copies always.
 *
 * CRCs are summed over the caller's memory: before it is read from, after it was written to, so that what is checked is
 * what arrived. Rows go to the device with the zeros that the sums start from, in one copy. */
#include <string.h>

#include "core/base/alloc.h"
#include "gpu/crc_math.h"
#include "gpu/job.h"

_Static_assert(GPU_CRCS_AT + GPU_CRCS_MAX * sizeof(uint32_t) <= GPU_SCRATCH_BYTES, "the scratch holds all parts");

typedef enum way { WAY_PLAIN, WAY_BATCH, WAY_KERNEL } way_t;

/* The first row that fits and can be done. Estimates until docs/gpu-results.md has figures: `make bench-gpu` prints
 * what each way takes over numbers and sizes. A plain copy costs the driver about 2 us, a kernel about 10 us once, and
 * a kernel reaches the bus's speed only with many fragments. */
#define KERNEL_STRETCHES 8
static const struct {
    way_t way;
    size_t stretches; /* at least */
    uint64_t average; /* bytes of each, at most */
} g_ways[] = {
    {WAY_KERNEL, KERNEL_STRETCHES, 128 * 1024},
    {WAY_BATCH, 3, 8 << 20},
    {WAY_PLAIN, 1, UINT64_MAX},
};

/* ---- stretches ---- */

static const gpu_area_t *find_area(mcs_mem_job_t *job, const uint8_t *host)
{
    uint64_t at = (uint64_t)(uintptr_t)host;
    for (uint32_t i = job->area_count; i > 0; i--) { /* the last is the likeliest */
        if (at >= job->areas[i - 1].start && at < job->areas[i - 1].end) {
            return &job->areas[i - 1];
        }
    }
    if (job->area_count == GPU_AREAS_MAX) {
        return NULL;
    }
    gpu_area_t *area = &job->areas[job->area_count];
    gpu_host_t *known = gpu_host_get(job->space, host);
    cuda_ptr_t pinned;
    if (known != NULL) {
        uint64_t base = (uint64_t)(uintptr_t)known->memory.base;
        *area = (gpu_area_t){base, base + known->memory.size, known, 0};
    } else if (gpu_stage_area(job->space, host, &area->start, &pinned)) {
        *area = (gpu_area_t){area->start, area->start + MCS_MEM_STAGE_BYTES, NULL, pinned};
    } else {
        return NULL;
    }
    job->area_count++;
    return area;
}

/* How far memory of ours goes on as it begins at `host`, and where the device sees it. */
static uint64_t host_room(mcs_mem_job_t *job, const uint8_t *host, cuda_ptr_t *device_out)
{
    const gpu_area_t *area = find_area(job, host);
    uint64_t at = (uint64_t)(uintptr_t)host;
    *device_out = 0;
    if (area == NULL) {
        return UINT64_MAX;
    }
    if (area->host != NULL) {
        return gpu_host_span(job->space, area->host, host, area->end - at, device_out);
    }
    *device_out = area->pinned != 0 ? area->pinned + (at - area->start) : 0;
    return area->end - at;
}

static bool joins(const gpu_stretch_t *last, const gpu_stretch_t *next)
{
    return last->room >= next->len && last->user + last->len == next->user && last->host + last->len == next->host;
}

static mcs_status_t push(mcs_mem_job_t *job, gpu_stretch_t next)
{
    gpu_stretch_t *last = job->stretch_count > 0 ? &job->stretches[job->stretch_count - 1] : NULL;
    if (last != NULL && joins(last, &next)) {
        last->len += next.len;
        last->room -= next.len;
        return MCS_OK;
    }
    if (job->stretch_count == job->stretch_room) {
        size_t room = job->stretch_room == 0 ? job->copy->count + 16 : job->stretch_room * 2;
        gpu_stretch_t *grown = mcs_realloc(job->stretches, room * sizeof(*grown));
        if (grown == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        job->stretches = grown;
        job->stretch_room = room;
    }
    job->stretches[job->stretch_count++] = next;
    return MCS_OK;
}

/* The same where our side is far memory: one piece for the device. The caller's side, when that is the host's, may be
 * pinned in pieces, too (it may be a segment of ours). */
static uint64_t far_room(mcs_mem_job_t *job, const mcs_mem_piece_t *piece, uint64_t done, cuda_ptr_t *device_out)
{
    const mcs_mem_far_t *far = job->copy->far;
    uint64_t at = (uint64_t)(uintptr_t)(piece->host + done);
    uint64_t room = (uint64_t)(uintptr_t)far->base + far->size - at;
    cuda_ptr_t ignored;
    *device_out = piece->device != MCS_MEM_HOST ? at : 0; /* plain copies where a side is the host's */
    return piece->device != MCS_MEM_HOST ? room : MCS_MIN(room, host_room(job, piece->user + done, &ignored));
}

static mcs_status_t add_piece(mcs_mem_job_t *job, const mcs_mem_piece_t *piece)
{
    mcs_status_t status = MCS_OK;
    for (uint64_t done = 0; status == MCS_OK && done < piece->len;) {
        cuda_ptr_t pinned;
        uint64_t room =
            job->copy->far != NULL ? far_room(job, piece, done, &pinned) : host_room(job, piece->host + done, &pinned);
        uint64_t len = MCS_MIN(piece->len - done, room);
        status = push(job, (gpu_stretch_t){
                               .user = (uint64_t)(uintptr_t)(piece->user + done),
                               .host = (uint64_t)(uintptr_t)(piece->host + done),
                               .pinned = pinned,
                               .len = len,
                               .room = room - len,
                           });
        done += len;
    }
    return status;
}

static mcs_status_t make_stretches(mcs_mem_job_t *job, const gpu_lane_t *lane)
{
    mcs_status_t status = MCS_OK;
    job->stretch_count = 0;
    for (size_t i = 0; status == MCS_OK && !job->copy->sums_only && i < job->copy->count; i++) {
        if (gpu_lane_of(job->copy, &job->copy->pieces[i]) == lane->device->ordinal) {
            status = add_piece(job, &job->copy->pieces[i]);
        }
    }
    return status;
}

/* ---- copies ---- */

static mcs_status_t copy_one(const mcs_mem_job_t *job, const gpu_lane_t *lane, const gpu_stretch_t *stretch)
{
    const cuda_driver_t *driver = job->space->driver;
    cuda_ptr_t target = job->copy->to_user ? stretch->user : stretch->host;
    cuda_ptr_t source = job->copy->to_user ? stretch->host : stretch->user;
    return CUDA_TRY(driver, lane->device, memcpy_async, (target, source, (size_t)stretch->len, lane->stream));
}

/* Those that are (not) pinned. */
static mcs_status_t copy_plain(const mcs_mem_job_t *job, const gpu_lane_t *lane, bool pinned)
{
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; status == MCS_OK && i < job->stretch_count; i++) {
        if ((job->stretches[i].pinned != 0) == pinned) {
            status = copy_one(job, lane, &job->stretches[i]);
        }
    }
    return status;
}

static cuda_result_t submit_batch(const mcs_mem_job_t *job, const gpu_lane_t *lane, cuda_ptr_t *targets,
                                  cuda_ptr_t *sources, size_t *lens, size_t count)
{
    const cuda_driver_t *driver = job->space->driver;
    cuda_copy_attributes_t attributes = {.order = CUDA_COPY_ORDER_STREAM, .flags = CUDA_COPY_OVERLAP};
    size_t from = 0;
    size_t failed = SIZE_MAX;
    if (driver->memcpy_batch != NULL) {
        return driver->memcpy_batch(targets, sources, lens, count, &attributes, &from, 1, lane->stream);
    }
    return driver->memcpy_batch_12(targets, sources, lens, count, &attributes, &from, 1, &failed, lane->stream);
}

/* What a driver refuses as a batch goes copy by copy: those it may have started are the same bytes once more. */
static mcs_status_t copy_batch(const mcs_mem_job_t *job, const gpu_lane_t *lane, size_t count)
{
    cuda_ptr_t *targets = MCS_NEW_ARRAY(cuda_ptr_t, count);
    cuda_ptr_t *sources = MCS_NEW_ARRAY(cuda_ptr_t, count);
    size_t *lens = MCS_NEW_ARRAY(size_t, count);
    mcs_status_t status = targets == NULL || sources == NULL || lens == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    size_t n = 0;
    for (size_t i = 0; status == MCS_OK && i < job->stretch_count; i++) {
        const gpu_stretch_t *stretch = &job->stretches[i];
        if (stretch->pinned != 0) {
            targets[n] = job->copy->to_user ? stretch->user : stretch->host;
            sources[n] = job->copy->to_user ? stretch->host : stretch->user;
            lens[n++] = (size_t)stretch->len;
        }
    }
    if (status == MCS_OK) {
        cuda_result_t result = submit_batch(job, lane, targets, sources, lens, n);
        if (result != CUDA_OK) {
            mcs_debug(GPU_AREA, "cuda:%d: a batch of %zu copies is refused (error %d): one by one",
                      lane->device->ordinal, n, result);
            status = copy_plain(job, lane, true);
        }
    }
    mcs_free(targets);
    mcs_free(sources);
    mcs_free(lens);
    return status;
}

static mcs_status_t upload(const mcs_mem_job_t *job, const gpu_lane_t *lane, size_t at, size_t len)
{
    uint64_t host = (uint64_t)(uintptr_t)lane->scratch->host;
    return CUDA_TRY(job->space->driver, lane->device, memcpy_async,
                    (lane->scratch->device + at, host + at, len, lane->stream));
}

static mcs_status_t copy_by_kernel(const mcs_mem_job_t *job, const gpu_lane_t *lane)
{
    gpu_copy_row_t *rows = lane->scratch->host;
    uint32_t n = 0;
    for (size_t i = 0; i < job->stretch_count; i++) {
        const gpu_stretch_t *stretch = &job->stretches[i];
        if (stretch->pinned != 0) {
            rows[n++] = job->copy->to_user ? (gpu_copy_row_t){stretch->pinned, stretch->user, stretch->len}
                                           : (gpu_copy_row_t){stretch->user, stretch->pinned, stretch->len};
        }
    }
    mcs_status_t status = upload(job, lane, 0, n * sizeof(*rows));
    return status != MCS_OK ? status
                            : gpu_launch_copy(job->space, lane->device, lane->stream, lane->scratch->device, n);
}

static bool can_do(const mcs_mem_job_t *job, const gpu_lane_t *lane, way_t way, size_t pinned)
{
    switch (way) {
    case WAY_KERNEL: return lane->scratch != NULL && pinned <= GPU_COPY_ROWS_MAX;
    case WAY_BATCH: return job->space->driver->memcpy_batch != NULL || job->space->driver->memcpy_batch_12 != NULL;
    case WAY_PLAIN:
    default: return true;
    }
}

static mcs_status_t copy_all(const mcs_mem_job_t *job, const gpu_lane_t *lane)
{
    size_t pinned = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < job->stretch_count; i++) {
        pinned += job->stretches[i].pinned != 0;
        bytes += job->stretches[i].pinned != 0 ? job->stretches[i].len : 0;
    }
    way_t way = WAY_PLAIN;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_ways); i++) {
        if (pinned >= g_ways[i].stretches && bytes / pinned <= g_ways[i].average &&
            can_do(job, lane, g_ways[i].way, pinned)) {
            way = g_ways[i].way;
            break;
        }
    }
    mcs_status_t status = MCS_OK;
    switch (way) {
    case WAY_KERNEL: status = copy_by_kernel(job, lane); break;
    case WAY_BATCH: status = copy_batch(job, lane, pinned); break;
    case WAY_PLAIN:
    default: status = copy_plain(job, lane, true); break;
    }
    return status == MCS_OK ? copy_plain(job, lane, false) : status;
}

/* ---- CRCs ---- */

/* Long enough that the rows of large jobs find room, short enough that small ones keep many threads busy. */
static uint64_t crc_stretch(const mcs_mem_copy_t *copy)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < copy->count; i++) {
        bytes += copy->pieces[i].block != MCS_MEM_NO_BLOCK ? copy->pieces[i].len : 0;
    }
    uint64_t stretch = GPU_CRC_STRETCH_MIN;
    while (stretch < GPU_CRC_STRETCH_MAX && bytes / stretch > GPU_CRC_ROWS_MAX / 4) {
        stretch *= 2;
    }
    return stretch;
}

/* Rows for every block that lies on this device, last bytes first so that what is behind each is known. 0: too many. */
static uint32_t crc_rows(const mcs_mem_job_t *job, const gpu_lane_t *lane)
{
    gpu_crc_row_t *rows = (gpu_crc_row_t *)(void *)((char *)lane->scratch->host + GPU_CRC_ROWS_AT);
    uint64_t stretch = crc_stretch(job->copy);
    uint32_t block = MCS_MEM_NO_BLOCK;
    uint64_t after = 0;
    size_t n = 0;
    for (size_t i = job->copy->count; i > 0; i--) {
        const mcs_mem_piece_t *piece = &job->copy->pieces[i - 1];
        if (piece->block == MCS_MEM_NO_BLOCK || piece->device != lane->device->ordinal) {
            continue;
        }
        after = piece->block == block ? after : 0;
        block = piece->block;
        for (uint64_t left = piece->len; left > 0;) {
            uint32_t len = (uint32_t)MCS_MIN(left, stretch);
            left -= len;
            if (n == GPU_CRC_ROWS_MAX) {
                return 0;
            }
            rows[n++] = (gpu_crc_row_t){(uint64_t)(uintptr_t)(piece->user + left), len, block, after};
            after += len;
        }
        job->block_len[block] = after;
    }
    return (uint32_t)n;
}

static mcs_status_t sum_blocks(const mcs_mem_job_t *job, gpu_lane_t *lane, uint32_t rows)
{
    const cuda_driver_t *driver = job->space->driver;
    size_t len = job->copy->crc_count * sizeof(uint32_t);
    char *host = lane->scratch->host;
    cuda_ptr_t device = lane->scratch->device;
    memset(host + GPU_CRCS_AT, 0, len);
    mcs_status_t status = upload(job, lane, GPU_CRC_ROWS_AT, rows * sizeof(gpu_crc_row_t));
    if (status == MCS_OK) {
        status = upload(job, lane, GPU_CRCS_AT, len);
    }
    if (status == MCS_OK) {
        status = gpu_launch_crc(job->space, lane->device, lane->stream, device + GPU_CRC_ROWS_AT, rows,
                                device + GPU_CRCS_AT);
    }
    if (status == MCS_OK) {
        status = CUDA_TRY(driver, lane->device, memcpy_async,
                          ((cuda_ptr_t)(uintptr_t)(host + GPU_CRCS_AT), device + GPU_CRCS_AT, len, lane->stream));
    }
    lane->crcs = status == MCS_OK;
    return status;
}

void gpu_take_crcs(const mcs_mem_job_t *job, const gpu_lane_t *lane)
{
    const uint32_t *sums = (const uint32_t *)(const void *)((const char *)lane->scratch->host + GPU_CRCS_AT);
    for (size_t i = 0; i < job->copy->count; i++) {
        const mcs_mem_piece_t *piece = &job->copy->pieces[i];
        bool first = i == 0 || job->copy->pieces[i - 1].block != piece->block;
        if (piece->block != MCS_MEM_NO_BLOCK && first && piece->device == lane->device->ordinal) {
            job->copy->crcs[piece->block] = gpu_crc_finish(sums[piece->block], job->block_len[piece->block]);
        }
    }
}

/* ---- the whole ---- */

/* A process whose copies are few and large never loads the kernels. */
static bool wants_kernels(const mcs_mem_job_t *job)
{
    return job->block_len != NULL || job->stretch_count >= KERNEL_STRETCHES;
}

mcs_status_t gpu_enqueue(mcs_mem_job_t *job, gpu_lane_t *lane)
{
    mcs_status_t status = make_stretches(job, lane);
    if (status == MCS_OK && wants_kernels(job) && gpu_kernels_ready(job->space, lane->device)) {
        lane->scratch = job->copy->sums_only ? gpu_scratch_wait(job->space, lane->device)
                                             : gpu_scratch_get(job->space, lane->device);
    }
    uint32_t rows = status == MCS_OK && lane->scratch != NULL && job->block_len != NULL ? crc_rows(job, lane) : 0;
    if (status == MCS_OK && rows > 0 && !job->copy->to_user) {
        status = sum_blocks(job, lane, rows);
    }
    if (status == MCS_OK) {
        status = copy_all(job, lane);
    }
    if (status == MCS_OK && rows > 0 && job->copy->to_user) {
        status = sum_blocks(job, lane, rows);
    }
    return status;
}
