/* The course of a copy: see mem_space.h.
 *
 * A job has a lane for each device that its pieces lie on: a stream, and an event behind everything that was put there.
 * Nothing is waited for but these events, never a whole device. An error while a job is being started waits for what
 * was started already: the caller's memory is touched no more when the call returns. */
#include <string.h>

#include "core/base/alloc.h"
#include "gpu/job.h"

/* Below this the processor has summed the bytes before a kernel would have been started; an estimate, as g_ways is. */
#define CRC_MIN (256 * MCS_KIB)

/* ---- lanes ---- */

static bool has_lane(const mcs_mem_job_t *job, int device)
{
    for (uint32_t i = 0; i < job->lane_count; i++) {
        if (job->lanes[i].device->ordinal == device) {
            return true;
        }
    }
    return false;
}

/* With the lane's context current: everything before this call on its stream is behind the event. */
static mcs_status_t mark(mcs_mem_job_t *job, gpu_lane_t *lane)
{
    return gpu_event_mark(job->space, lane->device, lane->stream, &lane->event);
}

/* What is left on the stream of a lane that failed half way must end before the caller has its memory back. Where not
 * even an event can be had, the device has failed and runs nothing any more. */
static void drain(mcs_mem_job_t *job, gpu_lane_t *lane)
{
    if (lane->event == NULL && mark(job, lane) == MCS_OK) {
        (void)gpu_event_wait(job->space, lane->device, lane->event, true);
    }
}

static mcs_status_t start_lane(mcs_mem_job_t *job, int device)
{
    gpu_lane_t *lane = &job->lanes[job->lane_count];
    *lane = (gpu_lane_t){0};
    mcs_status_t status = cuda_ctx_enter(job->space, device, &lane->device);
    if (status != MCS_OK) {
        return status;
    }
    job->lane_count++;
    if (job->copy->sums_only && job->copy->to_user) {
        status = gpu_rdma_arrived(job->space, lane->device);
        if (status != MCS_OK) {
            cuda_ctx_leave(job->space, lane->device);
            return status;
        }
    }
    status = gpu_stream_pick(job->space, lane->device, job->copy->to_user ? GPU_TO_USER : GPU_FROM_USER, &lane->stream);
    if (status == MCS_OK) {
        status = gpu_enqueue(job, lane);
        if (status == MCS_OK) {
            status = mark(job, lane);
        }
        if (status != MCS_OK) {
            drain(job, lane);
        }
    }
    cuda_ctx_leave(job->space, lane->device);
    return status;
}

static mcs_status_t end_lane(mcs_mem_job_t *job, gpu_lane_t *lane)
{
    gpu_device_t *device;
    mcs_status_t status = cuda_ctx_enter(job->space, lane->device->ordinal, &device);
    bool entered = status == MCS_OK;
    if (lane->event != NULL) {
        mcs_status_t waited = gpu_event_wait(job->space, lane->device, lane->event, entered);
        status = status == MCS_OK ? waited : status;
        gpu_event_put(job->space, lane->device, lane->event);
    }
    if (status == MCS_OK && lane->crcs) {
        gpu_take_crcs(job, lane);
    }
    if (lane->scratch != NULL) {
        gpu_scratch_put(lane->device, lane->scratch);
    }
    if (entered) {
        cuda_ctx_leave(job->space, device);
    }
    return status;
}

/* ---- the job ---- */

static void free_job(mcs_mem_job_t *job)
{
    for (uint32_t i = 0; i < job->area_count; i++) {
        if (job->areas[i].host != NULL) {
            gpu_host_put(job->space, job->areas[i].host);
        }
    }
    mcs_free(job->stretches);
    mcs_free(job->block_len);
    mcs_free(job);
}

static mcs_status_t end_lanes(mcs_mem_job_t *job)
{
    mcs_status_t status = MCS_OK;
    for (uint32_t i = 0; i < job->lane_count; i++) {
        mcs_status_t ended = end_lane(job, &job->lanes[i]);
        status = status == MCS_OK ? ended : status;
    }
    return status;
}

static bool worth_crcs(const mcs_mem_space_t *space, const mcs_mem_copy_t *copy)
{
    if (space->kernel_image == NULL || copy->crcs == NULL || copy->crc_count == 0 || copy->crc_count > GPU_CRCS_MAX) {
        return false;
    }
    /* What is far on both sides, or nowhere else, the processor would have to fetch first. */
    uint64_t enough = copy->far != NULL || copy->sums_only ? 1 : CRC_MIN;
    uint64_t bytes = 0;
    for (size_t i = 0; i < copy->count && bytes < enough; i++) {
        bytes += copy->pieces[i].block != MCS_MEM_NO_BLOCK ? copy->pieces[i].len : 0;
    }
    return bytes >= enough;
}

static mcs_status_t make_job(mcs_mem_space_t *space, const mcs_mem_copy_t *copy, mcs_mem_job_t **job_out)
{
    mcs_mem_job_t *job = MCS_NEW(mcs_mem_job_t);
    if (job == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    job->space = space;
    job->copy = copy;
    if (worth_crcs(space, copy)) {
        job->block_len = MCS_NEW_ARRAY(uint64_t, copy->crc_count);
        if (job->block_len == NULL) {
            mcs_free(job);
            return MCS_ERR_NO_MEMORY;
        }
    }
    *job_out = job;
    return MCS_OK;
}

static bool has_blocks(const mcs_mem_copy_t *copy, const gpu_lane_t *lane)
{
    for (size_t i = 0; i < copy->count; i++) {
        if (copy->pieces[i].block != MCS_MEM_NO_BLOCK && copy->pieces[i].device == lane->device->ordinal) {
            return true;
        }
    }
    return false;
}

/* Of all blocks: each has its pieces on a lane that makes them. */
static bool crcs_come(const mcs_mem_job_t *job)
{
    bool come = job->block_len != NULL && job->lane_count > 0;
    for (uint32_t i = 0; i < job->lane_count; i++) {
        come = come && (job->lanes[i].crcs || !has_blocks(job->copy, &job->lanes[i]));
    }
    return come;
}

mcs_status_t gpu_copy_begin(mcs_mem_space_t *space, const mcs_mem_copy_t *copy, mcs_mem_job_t **job_out,
                            bool *crcs_coming_out)
{
    mcs_mem_job_t *job;
    mcs_status_t status = make_job(space, copy, &job);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t i = 0; status == MCS_OK && i < copy->count; i++) {
        int device = gpu_lane_of(copy, &copy->pieces[i]);
        if (device == MCS_MEM_HOST || has_lane(job, device)) {
            continue;
        }
        status = job->lane_count < GPU_LANES_MAX ? start_lane(job, device) : MCS_ERR_LIMIT;
    }
    if (status != MCS_OK) {
        (void)end_lanes(job);
        free_job(job);
        return status;
    }
    /* The engines are busy; meanwhile what the processor has to do itself. */
    for (size_t i = 0; i < copy->count; i++) {
        const mcs_mem_piece_t *piece = &copy->pieces[i];
        if (gpu_lane_of(copy, piece) == MCS_MEM_HOST) {
            memcpy(copy->to_user ? piece->user : piece->host, copy->to_user ? piece->host : piece->user,
                   (size_t)piece->len);
        }
    }
    *crcs_coming_out = crcs_come(job);
    *job_out = job;
    return MCS_OK;
}

mcs_status_t gpu_copy_end(mcs_mem_space_t *space, mcs_mem_job_t *job)
{
    (void)space;
    mcs_status_t status = end_lanes(job);
    free_job(job);
    return status;
}
