/* Memory of this process that is registered for RDMA: callers' buffers, which owners write to and read from by remote
 * key, and segments, which this process's serving thread gives UCX as the local side: their keys are never made, so
 * they cannot leave it.
 *
 * A region is registered in windows of 64 MiB by a thread of its own: a buffer ahead, all of it; a segment window by
 * window when it is first used, because registering memory takes it from the system. Where a window is not registered
 * (yet) the bytes travel in messages as over TCP, so a registration that fails costs speed and nothing else.
 *
 * Device memory is registered by its address, as host memory is: the RDMA device's kernel module asks the other
 * device's for its pages (nvidia-peermem), and where it cannot the registration fails. UCX is not told what memory it
 * is: this process only ever gives keys to it away, no call here or at the peer has it as its local side.
 *
 * Windows are looked up and used between enter and leave. A region that is removed is not found any more; its
 * registration ends when all are out who were inside then. Nobody waits for that: until it ends the devices have the
 * memory as it was, mapped or not. Thread-safe (MCS_RANK_REGIONS). */
#ifndef UCXT_REGIONS_H
#define UCXT_REGIONS_H

#include "ucx_transport/proto.h"
#include "ucx_transport/ucx_context.h"

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/thread.h"

#define UCXT_WINDOW_BYTES (UINT64_C(64) << 20)

typedef enum ucxt_window_state {
    UCXT_WINDOW_NONE,
    UCXT_WINDOW_WANTED,
    UCXT_WINDOW_READY,
    UCXT_WINDOW_FAILED
} ucxt_window_state_t;

typedef struct ucxt_window {
    uint64_t base;
    uint64_t len;
    ucp_mem_h memh;
    ucxt_window_state_t state;
    uint16_t rkey_len;
    uint8_t rkey[UCXT_KEY_MAX]; /* for peers; none of a segment's */
} ucxt_window_t;

/* Bytes of the window from the address on; 0: it is not in it. */
static inline uint64_t ucxt_window_room(const ucxt_window_t *window, const void *ptr)
{
    uint64_t at = (uint64_t)(uintptr_t)ptr - window->base;
    return at < window->len ? window->len - at : 0;
}

struct ucxt_region;

typedef struct ucxt_regions {
    const ucxt_context_t *context;
    mcs_mutex_t lock;
    mcs_cond_t changed;
    struct ucxt_region **region; /* by address */
    size_t count;
    size_t cap;
    mcs_list_t wanted;  /* regions with windows that the thread is to register */
    mcs_list_t removed; /* whose registrations it is to end */
    bool stop;
    bool warned[2]; /* of host memory, of devices' */
    /* Users count in the half that is the present one; to be rid of what was removed, the thread turns to the other and
     * waits for the former to be empty. */
    unsigned half;
    uint64_t inside[2];
    mcs_thread_t thread;
} ucxt_regions_t;

void ucxt_regions_init(ucxt_regions_t *regions, const ucxt_context_t *context);
/* The thread; with a context that has no RDMA nothing is ever registered and there is none. */
mcs_status_t ucxt_regions_start(ucxt_regions_t *regions) MCS_MUST_CHECK;
/* Nobody is inside any more. */
void ucxt_regions_fini(ucxt_regions_t *regions);

/* [base, base + len) stays mapped until it is removed. Once more is fine. MCS_ERR_INVALID_PARAMS: empty, or overlaps
 * another region. */
mcs_status_t ucxt_regions_add(ucxt_regions_t *regions, void *base, uint64_t len, mcs_exposure_t how) MCS_MUST_CHECK;
/* The region that begins at `base`, if there is one. Waits for nothing but a window of it that is being registered. */
void ucxt_regions_remove(ucxt_regions_t *regions, const void *base);

unsigned ucxt_regions_enter(ucxt_regions_t *regions);
void ucxt_regions_leave(ucxt_regions_t *regions, unsigned half);
/* The registered window that holds all of [ptr, ptr + len), or NULL: then it is registered soon if it can be. Valid
 * until leave. `for_peers`: one whose key may be given away. */
const ucxt_window_t *ucxt_regions_find(ucxt_regions_t *regions, const void *ptr, uint64_t len, bool for_peers);
/* Are `len` bytes of a payload, from its byte `from` on, in registered windows whose keys may be given away, each piece
 * in at most UCXT_KEYS_MAX and not in too many stretches? */
bool ucxt_regions_cover(ucxt_regions_t *regions, const struct iovec *iov, uint64_t from, uint64_t len);

#endif
