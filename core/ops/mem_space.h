/* The memory-space ops table: memory that the processor cannot touch (a GPU's), as the client sees it. Implemented by
 * gpu/ on the CUDA driver; core knows only this table.
 *
 * Life cycle: open (one per client, at set-up) -> everything else, from any thread -> close, when no job runs and no
 * host memory is known any more to be in use. An open space costs nothing and starts nothing: whether there can be
 * device memory is found by `look`, which sets the flag of `active` once the process has a driver. While the flag is 0
 * every address is the processor's, and no other call is made on a data path: one branch.
 *
 * No call is made with a lock of the caller's held: they go into the driver, which may take its time.
 *
 * Devices are numbered as the driver does. An address of the caller's is of a device, or MCS_MEM_HOST: the processor
 * may touch it. Managed memory counts as its device's: copies of it go through the driver, which knows where it is. */
#ifndef MCS_OPS_MEM_SPACE_H
#define MCS_OPS_MEM_SPACE_H

#include <sys/uio.h>

#include "core/base/status.h"

#define MCS_MEM_HOST     (-1)
#define MCS_MEM_NO_BLOCK UINT32_MAX
/* A staging chunk. */
#define MCS_MEM_STAGE_BYTES (UINT64_C(16) << 20)
#define MCS_MEM_HANDLE      64

typedef struct mcs_mem_space mcs_mem_space_t;
typedef struct mcs_mem_job mcs_mem_job_t;

typedef enum mcs_mem_kind {
    MCS_MEM_PAGEABLE, /* host memory the driver knows nothing of; also what is no memory at all */
    MCS_MEM_PINNED,   /* host memory that the driver has pinned */
    MCS_MEM_DEVICE,
    MCS_MEM_MANAGED /* migrates between host and device */
} mcs_mem_kind_t;

typedef struct mcs_mem_where {
    mcs_mem_kind_t kind;
    int device;     /* MCS_MEM_HOST for the first two kinds */
    uint64_t start; /* of the allocation (one mapping of it, where it is made of several) that holds the address; 0: */
    uint64_t len;   /* not known */
    uint64_t id;    /* of the allocation: no two of a process's life have the same; 0: not known */
} mcs_mem_where_t;

/* Memory of the caller's in pieces, and what it is. */
typedef struct mcs_mem_span {
    const struct iovec *iov;
    size_t count;
    int16_t *devices;    /* out: of each piece */
    bool any_device;     /* out: not all are MCS_MEM_HOST */
    mcs_status_t status; /* out: MCS_ERR_INVALID_PARAMS (logged) for a piece that reaches beyond what is allocated, or
                            into a registered range whose memory was freed since; MCS_ERR_TRANSFER_FAIL (logged) when
                            the driver does not answer */
} mcs_mem_span_t;

/* Host memory of ours that lives long and is copied to and from often: a segment, own or mapped. */
typedef struct mcs_mem_host {
    void *base;
    uint64_t size;
    const uint64_t *faulted; /* atomic, may only grow: [0, *faulted) has pages. Read with care: others may write it */
    /* The space does not touch the memory any more: called once, by the call that ended its last use (no lock held). */
    void (*released)(void *arg);
    void *arg;
} mcs_mem_host_t;

/* How another process of this host gets at far memory: sent as it is, with a descriptor for the first kind. */
typedef enum mcs_mem_share_kind { MCS_MEM_SHARE_FD = 1, MCS_MEM_SHARE_HANDLE = 2 } mcs_mem_share_kind_t;
typedef struct mcs_mem_share {
    uint32_t kind; /* mcs_mem_share_kind_t */
    uint32_t reserved;
    uint64_t size;
    uint8_t device[16]; /* the device's own name: processes number devices differently */
    uint8_t handle[MCS_MEM_HANDLE];
} mcs_mem_share_t;
_Static_assert(sizeof(mcs_mem_share_t) == 96, "wire ABI");

/* Far memory: a device's, with a segment in it; made here, or shared by another process of the host. */
typedef struct mcs_mem_far {
    uint8_t *base; /* where the device sees it; no processor does */
    uint64_t size;
    int device;
    uint64_t reach;        /* a bit for each device that can copy to and from it */
    mcs_mem_share_t share; /* of memory made here */
    int fd;                /* of the share, open as long as the memory; -1: none */
} mcs_mem_far_t;

/* `len` bytes between an address of the caller's and memory of ours. */
typedef struct mcs_mem_piece {
    uint8_t *user;
    uint8_t *host;
    uint64_t len;
    int16_t device; /* of `user`: what `locate` said */
    uint32_t block; /* MCS_MEM_NO_BLOCK, or which CRC of the copy these bytes belong to; the pieces of a block stand
                       next to each other, in order, and are of one device */
} mcs_mem_piece_t;

typedef struct mcs_mem_copy {
    bool to_user;   /* else from the caller's memory into ours */
    bool sums_only; /* nothing is copied: `host` means nothing, all pieces are of devices. With to_user an RDMA
                       device has written them, which their own device is made to see first */
    const mcs_mem_far_t *far; /* NULL, or the far memory that all of `host` lies in; pieces of devices that reach it */
    const mcs_mem_piece_t *pieces;
    size_t count;
    uint32_t *crcs; /* NULL, or room for the CRC32C of each block as it lies in the caller's memory; there at copy_end
                       when copy_begin said so */
    size_t crc_count;
} mcs_mem_copy_t;

/* Memory of a device that the space made. It may outlive the space's close: what it needs of the driver is kept until
 * the last one is freed. */
typedef struct mcs_mem_block {
    mcs_mem_space_t *space;
    void *ptr;
    uint64_t len;
    int device;
    bool pooled; /* the space's own affair */
} mcs_mem_block_t;

typedef struct mcs_mem_space_config {
    uint64_t pin_limit;   /* bytes of host memory that may be pinned at once, staging chunks included */
    uint32_t stage_count; /* staging chunks, made when first needed; at least 2 */
} mcs_mem_space_config_t;

typedef struct mcs_mem_space_ops {
    const char *name; /* "cuda" */
    mcs_status_t (*open)(const mcs_mem_space_config_t *config, mcs_mem_space_t **space_out);
    /* Everything of the space's is undone: pinned memory, streams, contexts. NULL is fine. */
    void (*close)(mcs_mem_space_t *space);
    /* The flag: atomic, 0 or 1, goes up once; valid until close. */
    const uint32_t *(*active)(const mcs_mem_space_t *space);
    /* Has this process loaded and started a driver? Sets the flag. Loads and starts nothing itself. About a
     * microsecond while the answer is no. */
    bool (*look)(mcs_mem_space_t *space);

    /* What one address is. An error (logged) is the driver's: whose the address is nobody knows then. */
    mcs_status_t (*query)(mcs_mem_space_t *space, const void *ptr, mcs_mem_where_t *where_out);
    /* Fills the outputs of each span. Many spans at once cost less than many calls. */
    void (*locate)(mcs_mem_space_t *space, mcs_mem_span_t *spans, size_t count);
    /* Remembers what a range of device memory is made of. MCS_ERR_INVALID_PARAMS: not all of it is. */
    mcs_status_t (*add_range)(mcs_mem_space_t *space, const void *ptr, uint64_t len);
    /* Of that very address; no matter if there is none. */
    void (*remove_range)(mcs_mem_space_t *space, const void *ptr);
    /* Makes device memory ready to be read and written by RDMA devices, as far as its own device has a say. False
     * (logged once, with the reason): it cannot be, or the device would not sum it. */
    bool (*open_to_rdma)(mcs_mem_space_t *space, const void *ptr, uint64_t len);

    /* From now on copies may pin pieces of it. Known already: MCS_ERR_SEGMENT_ALREADY_EXISTS, nothing is kept and
     * `released` is not called. */
    mcs_status_t (*add_host)(mcs_mem_space_t *space, const mcs_mem_host_t *host);
    /* No new use of the memory at that base; `released` follows, now or when the last job that uses it ends. */
    void (*forget_host)(mcs_mem_space_t *space, const void *base);

    /* `size` bytes of a device's memory (or some more), to be shared with other processes. Logged: which call failed on
     * which device. MCS_ERR_NOT_SUPPORTED: the process has no such device, or it has not been started. */
    mcs_status_t (*far_create)(mcs_mem_space_t *space, int device, uint64_t size, mcs_mem_far_t **far_out);
    /* Another process's, of at least `share->size` bytes. Nothing of the share is believed. `fd` stays the caller's;
     * -1: none came with it. */
    mcs_status_t (*far_open)(mcs_mem_space_t *space, const mcs_mem_share_t *share, int fd, mcs_mem_far_t **far_out);
    /* When no copy runs; NULL is fine. */
    void (*far_close)(mcs_mem_space_t *space, mcs_mem_far_t *far);

    /* Starts a copy. `copy` and what it points to stay until copy_end. After an error nothing runs. A failure of the
     * device is MCS_ERR_TRANSFER_FAIL, logged with the names of device and driver. *crcs_coming_out: the device makes
     * the CRCs; false: the caller has to. */
    mcs_status_t (*copy_begin)(mcs_mem_space_t *space, const mcs_mem_copy_t *copy, mcs_mem_job_t **job_out,
                               bool *crcs_coming_out);
    /* Waits until it is done, whatever came of it. */
    mcs_status_t (*copy_end)(mcs_mem_space_t *space, mcs_mem_job_t *job);

    /* A chunk of pinned memory. With `wait` it waits for one until the deadline, else NULL when none is free. */
    void *(*stage_get)(mcs_mem_space_t *space, bool wait, uint64_t deadline_ns);
    void (*stage_put)(mcs_mem_space_t *space, void *chunk);

    /* As `look`, for a caller who asks for something on a device: a driver that is not there is loaded and started. */
    bool (*start)(mcs_mem_space_t *space);
    /* A stream of the space's that others may make wait for their work, by its handle: for wait_stream. */
    mcs_status_t (*order_stream)(mcs_mem_space_t *space, int device, uint64_t *stream_out);
    /* Waits until what is queued now on a stream of the device's primary context is done. Handles as the driver has
     * them: 0 and 1 are the legacy default stream, 2 is the calling thread's. */
    mcs_status_t (*wait_stream)(mcs_mem_space_t *space, int device, uint64_t stream);
    /* Device memory for a caller; len > 0. MCS_ERR_NO_MEMORY (logged): the device has not that much;
     * MCS_ERR_INVALID_PARAMS: there is no such device. */
    mcs_status_t (*block_alloc)(mcs_mem_space_t *space, int device, uint64_t len, mcs_mem_block_t **block_out);
    /* Any thread, also after close; does not wait for the device. Work of the caller's on the legacy default stream and
     * on streams that wait for it may still run: the memory is used again behind it. NULL is fine. */
    void (*block_free)(mcs_mem_block_t *block);
    /* `len` bytes from `offset` of the block to host memory, or to another block of the device. Waits. Also after
     * close. */
    mcs_status_t (*block_copy)(const mcs_mem_block_t *block, uint64_t offset, void *target, uint64_t len);
} mcs_mem_space_ops_t;

/* A copy without sums, waited for. */
static inline mcs_status_t mcs_mem_copy_now(const mcs_mem_space_ops_t *ops, mcs_mem_space_t *space,
                                            const mcs_mem_copy_t *copy)
{
    mcs_mem_job_t *job;
    bool ignored;
    mcs_status_t status = ops->copy_begin(space, copy, &job, &ignored);
    return status == MCS_OK ? ops->copy_end(space, job) : status;
}

#endif
