/* What the files of gpu/ share. Not for others.
 *
 * Locks: all of rank MCS_RANK_GPU, never two at once, never held over a call into the driver. What several threads may
 * make at once (a context, a stream, a chunk) is made without a lock and published under it; who comes second gives its
 * own back. */
#ifndef MCS_GPU_INTERNAL_H
#define MCS_GPU_INTERNAL_H

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/ops/mem_space.h"
#include "gpu/cuda_api.h"
#include "gpu/kernels/rows.h"

#define GPU_AREA          "gpu"
#define GPU_DEVICES_MAX   64
#define GPU_STREAMS       4 /* of each device and use; jobs take turns */
#define GPU_SCRATCH_COUNT 4 /* of each device: jobs that use kernels at once; others copy */
#define GPU_EVENTS_MAX    64

/* ---- the driver (cuda_dl.c, cuda_call.c) ---- */

typedef struct cuda_driver {
    void *library;
    int version;
#define CUDA_SYMBOL(field, symbol, since, need, parameters) cuda_result_t(*field) parameters;
#include "gpu/cuda_symbols.def"
#undef CUDA_SYMBOL
} cuda_driver_t;

/* The driver that this process has loaded. MCS_ERR_AGAIN: none, or it is not started; MCS_ERR_NOT_SUPPORTED (logged
 * once): too old. */
mcs_status_t cuda_driver_find(cuda_driver_t *driver_out) MCS_MUST_CHECK;
void cuda_driver_forget(cuda_driver_t *driver);
/* Loads and starts the machine's driver. False (logged): there is none, or it does not start. */
bool cuda_driver_start(void);

typedef struct gpu_device gpu_device_t;

/* Logs what failed and where, and makes a status of it. `device` NULL: of none. */
mcs_status_t cuda_failed(const cuda_driver_t *driver, const gpu_device_t *device, const char *call,
                         cuda_result_t result);
/* CUDA_TRY(driver, device, memcpy_async, (…)): a status. */
#define CUDA_TRY(driver, device, field, arguments)                                                                     \
    __extension__({                                                                                                    \
        cuda_result_t try_result = (driver)->field arguments;                                                          \
        try_result == CUDA_OK ? MCS_OK : cuda_failed((driver), (device), #field, try_result);                          \
    })

/* ---- devices (cuda_ctx.c, pools.c, kernels.c) ---- */

/* Memory that one job's descriptors and results travel in. */
#define GPU_SCRATCH_BYTES ((size_t)512 * 1024)
typedef struct gpu_scratch {
    void *host;        /* pinned */
    cuda_ptr_t device; /* as long */
    bool busy;         /* under the device's lock */
} gpu_scratch_t;

/* Made as they are needed. Under the device's lock. */
typedef struct gpu_scratches {
    gpu_scratch_t item[GPU_SCRATCH_COUNT];
    uint32_t count;
    uint32_t making;
    bool failed;
} gpu_scratches_t;

/* What a stream is for: a GPU has copy engines for both directions, and what others make wait must not hold up
 * copies. */
typedef enum gpu_use { GPU_FROM_USER, GPU_TO_USER, GPU_ORDER, GPU_USES } gpu_use_t;

typedef enum gpu_kernels_state { GPU_KERNELS_UNTRIED, GPU_KERNELS_READY, GPU_KERNELS_NONE } gpu_kernels_state_t;

/* What must happen before a device sees what RDMA devices have written to its memory. */
typedef enum gpu_rdma {
    GPU_RDMA_NONE /* they cannot, or it never does */,
    GPU_RDMA_FLUSHED,
    GPU_RDMA_ORDERED
} gpu_rdma_t;

struct gpu_device {
    int ordinal;
    cuda_handle_t handle;
    char name[96];
    int compute;   /* capability: 90 is 9.0 */
    bool has_pool; /* of memory in the order of streams */
    bool has_vmm;  /* virtual memory, shared by descriptors */
    gpu_rdma_t rdma;
    mcs_mutex_t lock;                             /* guards what follows */
    cuda_context_t context;                       /* the primary one, retained; atomic, NULL = not yet */
    int priority;                                 /* the least: what the engine computes goes first */
    cuda_stream_t streams[GPU_USES][GPU_STREAMS]; /* made at first use */
    uint32_t next_stream[GPU_USES];
    cuda_event_t events[GPU_EVENTS_MAX]; /* free ones */
    uint32_t event_count;
    gpu_scratches_t copies;
    gpu_scratches_t sums;
    mcs_cond_t scratch_free;     /* of sums */
    gpu_kernels_state_t kernels; /* atomic */
    cuda_module_t module;
    cuda_function_t copy_kernel;
    cuda_function_t crc_kernel;
};

/* What the device can do (probe.c). No context is needed. */
void gpu_probe(const cuda_driver_t *driver, gpu_device_t *device);
/* What the kernels are compiled for, at least. */
#define GPU_COMPUTE_MIN 75

/* Makes the device's primary context current on this thread (retains it the first time); every OK is followed by a
 * leave. */
mcs_status_t cuda_ctx_enter(mcs_mem_space_t *space, int ordinal, gpu_device_t **device_out) MCS_MUST_CHECK;
/* Of any device whose primary context somebody is using already; false: there is none. */
bool cuda_ctx_enter_active(mcs_mem_space_t *space, gpu_device_t **device_out);
void cuda_ctx_leave(mcs_mem_space_t *space, gpu_device_t *device);
/* At close: gives the context back. */
void cuda_ctx_release(mcs_mem_space_t *space, gpu_device_t *device);

/* With the device's context current. A stream is shared: jobs take turns over them. */
mcs_status_t gpu_stream_pick(mcs_mem_space_t *space, gpu_device_t *device, gpu_use_t use, cuda_stream_t *stream_out)
    MCS_MUST_CHECK;
mcs_status_t gpu_event_get(mcs_mem_space_t *space, gpu_device_t *device, cuda_event_t *event_out) MCS_MUST_CHECK;
void gpu_event_put(mcs_mem_space_t *space, gpu_device_t *device, cuda_event_t event);
/* Everything that is on the stream now is behind the event. */
mcs_status_t gpu_event_mark(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_event_t *event_out)
    MCS_MUST_CHECK;
/* Waits for it. `entered`: the device's context is current. */
mcs_status_t gpu_event_wait(const mcs_mem_space_t *space, const gpu_device_t *device, cuda_event_t event, bool entered);
/* For a copy. NULL: all are in use (as long as a transfer between two copies takes), or there is no memory. */
gpu_scratch_t *gpu_scratch_get(mcs_mem_space_t *space, gpu_device_t *device);
/* For sums alone. Waits for other sums, which are soon done. NULL: there is no memory. */
gpu_scratch_t *gpu_scratch_wait(mcs_mem_space_t *space, gpu_device_t *device);
void gpu_scratch_put(gpu_device_t *device, gpu_scratch_t *scratch);
/* At close, with the context current. */
void gpu_pools_drop(mcs_mem_space_t *space, gpu_device_t *device);

/* ---- what addresses are (kinds.c, ranges.c) ---- */

mcs_status_t gpu_query(mcs_mem_space_t *space, const void *ptr, mcs_mem_where_t *where_out);
void gpu_locate(mcs_mem_space_t *space, mcs_mem_span_t *spans, size_t count);
/* The end of what holds the address (`where` is of it), at most `end`: of the mapping, in memory that is mapped piece
 * by piece. No more than the address: the driver's answers make no sense. */
uint64_t gpu_mapping_end(const mcs_mem_space_t *space, uint64_t address, const mcs_mem_where_t *where, uint64_t end);

typedef struct gpu_range {
    uint64_t start; /* a piece of a registered range: one allocation or mapping, cut to the range */
    uint64_t end;
    uint64_t id;
    uint64_t base; /* what was registered */
    int16_t device;
} gpu_range_t;
#define GPU_RANGES_MAX ((size_t)1 << 20)

mcs_status_t gpu_ranges_add(mcs_mem_space_t *space, const void *ptr, uint64_t len);
void gpu_ranges_remove(mcs_mem_space_t *space, const void *ptr);
/* The piece of a registered range that holds the address. */
bool gpu_ranges_find(mcs_mem_space_t *space, uint64_t address, gpu_range_t *range_out);

/* ---- RDMA (rdma.c) ---- */

bool gpu_rdma_open(mcs_mem_space_t *space, const void *ptr, uint64_t len);
/* What has been written is seen by the work that is put on the device from now on. With its context current. */
mcs_status_t gpu_rdma_arrived(const mcs_mem_space_t *space, const gpu_device_t *device) MCS_MUST_CHECK;

/* ---- host memory (hosts.c, stage.c) ---- */

#define GPU_HOST_PIECE (64 * MCS_MIB)
/* A known segment. refs: one while it is in the list, one for each job that uses it. */
typedef struct gpu_host {
    mcs_list_t node;
    uint32_t refs; /* under the hosts' lock */
    mcs_mem_host_t memory;
    uint64_t piece_count;
    uint8_t *pieces; /* atomic: gpu_piece_state_t of each */
    uint64_t *shift; /* of each registered piece: the device's address of it less the host's */
} gpu_host_t;

typedef enum gpu_piece_state { GPU_PIECE_NEW, GPU_PIECE_BUSY, GPU_PIECE_PINNED, GPU_PIECE_FAILED } gpu_piece_state_t;

mcs_status_t gpu_host_add(mcs_mem_space_t *space, const mcs_mem_host_t *memory);
void gpu_host_forget(mcs_mem_space_t *space, const void *base);
void gpu_host_forget_all(mcs_mem_space_t *space);
/* The known memory that holds the address, with a reference; NULL: none. */
gpu_host_t *gpu_host_get(mcs_mem_space_t *space, const void *ptr);
void gpu_host_put(mcs_mem_space_t *space, gpu_host_t *host);
/* Bytes from `ptr` (at most len) that lie in one piece, pinned first when that can be done. *device_out: where the
 * device sees them; 0 = not pinned. With a context current. */
uint64_t gpu_host_span(mcs_mem_space_t *space, gpu_host_t *host, const void *ptr, uint64_t len, cuda_ptr_t *device_out);
/* Takes from, gives to, what may be pinned. */
bool gpu_pin_take(mcs_mem_space_t *space, uint64_t bytes);
void gpu_pin_give(mcs_mem_space_t *space, uint64_t bytes);

void *gpu_stage_get(mcs_mem_space_t *space, bool wait, uint64_t deadline_ns);
void gpu_stage_put(mcs_mem_space_t *space, void *chunk);
void gpu_stage_drop(mcs_mem_space_t *space);
/* The table of a space's chunks, empty. NULL when memory is short. */
struct gpu_chunk *gpu_stage_array(uint32_t count);
/* The chunk that holds the address: its start, and where the device sees that (0: it is not pinned). */
bool gpu_stage_area(mcs_mem_space_t *space, const void *ptr, uint64_t *start_out, cuda_ptr_t *device_out);

/* ---- kernels (kernels.c; kernels/paged.cu says what they do) ---- */

#define GPU_CRC_STRETCH_MIN (64 * MCS_KIB)
#define GPU_CRC_STRETCH_MAX MCS_MIB

/* Loads them, the first time. With the context current. */
bool gpu_kernels_ready(mcs_mem_space_t *space, gpu_device_t *device);
void gpu_kernels_drop(mcs_mem_space_t *space, gpu_device_t *device);
mcs_status_t gpu_launch_copy(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_ptr_t rows,
                             uint32_t count) MCS_MUST_CHECK;
mcs_status_t gpu_launch_crc(mcs_mem_space_t *space, gpu_device_t *device, cuda_stream_t stream, cuda_ptr_t rows,
                            uint32_t count, cuda_ptr_t crcs) MCS_MUST_CHECK;

/* ---- far memory (far.c) ---- */

mcs_status_t gpu_far_create(mcs_mem_space_t *space, int device, uint64_t size, mcs_mem_far_t **far_out);
mcs_status_t gpu_far_open(mcs_mem_space_t *space, const mcs_mem_share_t *share, int fd, mcs_mem_far_t **far_out);
void gpu_far_close(mcs_mem_space_t *space, mcs_mem_far_t *far);

/* ---- copies (copy.c, enqueue.c) ---- */

mcs_status_t gpu_copy_begin(mcs_mem_space_t *space, const mcs_mem_copy_t *copy, mcs_mem_job_t **job_out,
                            bool *crcs_coming_out);
mcs_status_t gpu_copy_end(mcs_mem_space_t *space, mcs_mem_job_t *job);

/* ---- for callers (blocks.c) ---- */

bool gpu_start_driver(mcs_mem_space_t *space);
mcs_status_t gpu_order_stream(mcs_mem_space_t *space, int ordinal, uint64_t *stream_out);
mcs_status_t gpu_wait_stream(mcs_mem_space_t *space, int ordinal, uint64_t stream);
mcs_status_t gpu_block_alloc(mcs_mem_space_t *space, int ordinal, uint64_t len, mcs_mem_block_t **block_out);
void gpu_block_free(mcs_mem_block_t *block);
mcs_status_t gpu_block_copy(const mcs_mem_block_t *block, uint64_t offset, void *target, uint64_t len);

/* ---- the space ---- */

bool gpu_look(mcs_mem_space_t *space);
void gpu_space_put(mcs_mem_space_t *space);

struct mcs_mem_space {
    mcs_mem_space_config_t config;
    uint64_t process; /* after a fork the driver is the parent's */
    uint32_t refs;    /* atomic: one until close, one for each block */
    const void *kernel_image;
    uint32_t active; /* atomic */
    cuda_driver_t *driver;
    int device_count;
    gpu_device_t *devices;
    uint64_t pinned;  /* atomic: bytes */
    bool pin_warned;  /* atomic */
    bool rdma_warned; /* atomic */

    mcs_rwlock_t range_lock; /* guards the ranges */
    gpu_range_t *ranges;     /* sorted by start */
    size_t range_count;
    size_t range_room;

    mcs_mutex_t host_lock; /* guards the list, and the references */
    mcs_list_t hosts;

    mcs_mutex_t stage_lock; /* guards the chunks */
    mcs_cond_t stage_free;
    struct gpu_chunk *chunks;
    uint32_t chunk_count;  /* made */
    mcs_mutex_t look_lock; /* guards the driver's publication */
};

#endif
