/* Inside a copy: shared by copy.c (the course of a job) and enqueue.c (what is given to the driver). */
#ifndef MCS_GPU_JOB_H
#define MCS_GPU_JOB_H

#include "gpu/internal.h"

#define GPU_LANES_MAX 16  /* devices of one job */
#define GPU_AREAS_MAX 128 /* segments of one job */

/* Which device copies a piece: the caller's, or that of the far memory. */
static inline int gpu_lane_of(const mcs_mem_copy_t *copy, const mcs_mem_piece_t *piece)
{
    return piece->device == MCS_MEM_HOST && copy->far != NULL ? copy->far->device : piece->device;
}

/* Bytes that are next to each other on both sides, in one pinned piece or in unpinned memory. */
typedef struct gpu_stretch {
    uint64_t user;
    uint64_t host;
    uint64_t pinned; /* where the device sees `host`; 0: unpinned */
    uint64_t len;
    uint64_t room; /* bytes behind it that the host's piece still has */
} gpu_stretch_t;

/* Of one device. */
typedef struct gpu_lane {
    gpu_device_t *device;
    cuda_stream_t stream;
    cuda_event_t event; /* NULL: nothing is to be waited for */
    gpu_scratch_t *scratch;
    bool crcs; /* are made on it */
} gpu_lane_t;

/* Host memory that pieces lie in. */
typedef struct gpu_area {
    uint64_t start;
    uint64_t end;
    gpu_host_t *host; /* a reference; NULL: a staging chunk */
    uint64_t pinned;  /* of a chunk: its start as the device sees it; 0: unpinned */
} gpu_area_t;

struct mcs_mem_job {
    mcs_mem_space_t *space;
    const mcs_mem_copy_t *copy;
    gpu_lane_t lanes[GPU_LANES_MAX];
    uint32_t lane_count;
    gpu_area_t areas[GPU_AREAS_MAX];
    uint32_t area_count;
    gpu_stretch_t *stretches; /* of the lane at hand */
    size_t stretch_count;
    size_t stretch_room;
    uint64_t *block_len; /* with CRCs: bytes of each block */
};

/* Where the parts of a scratch lie: rows of copies, rows of CRCs, the CRCs. */
#define GPU_COPY_ROWS_MAX ((size_t)10240)
#define GPU_CRC_ROWS_MAX  ((size_t)8192)
#define GPU_CRCS_MAX      ((size_t)16384)
#define GPU_CRC_ROWS_AT   (GPU_COPY_ROWS_MAX * sizeof(gpu_copy_row_t))
#define GPU_CRCS_AT       (GPU_CRC_ROWS_AT + GPU_CRC_ROWS_MAX * sizeof(gpu_crc_row_t))

/* Everything of one device: copies, CRCs and the event behind them. The context is current. */
mcs_status_t gpu_enqueue(mcs_mem_job_t *job, gpu_lane_t *lane) MCS_MUST_CHECK;
/* After the event: takes the CRCs of a lane that made some. */
void gpu_take_crcs(const mcs_mem_job_t *job, const gpu_lane_t *lane);

#endif
