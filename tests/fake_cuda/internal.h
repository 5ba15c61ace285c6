/* What the files of the fake driver share. One lock guards everything. */
#ifndef MCS_TESTS_FAKE_CUDA_INTERNAL_H
#define MCS_TESTS_FAKE_CUDA_INTERNAL_H

#include <pthread.h>

#include "gpu/cuda_api.h"
#include "tests/fake_cuda/fake_cuda.h"

#define DEVICES_MAX 16
#define ALIAS       (UINT64_C(1) << 46) /* where devices see registered host memory: above where the processor does */

typedef struct alloc {
    struct alloc *next;
    uint64_t start;
    uint64_t len;
    uint64_t id;
    uint64_t piece; /* VMM: bytes of each mapping */
    int device;
    fake_kind_t kind;
    bool counted;   /* made by the driver's call */
    unsigned peers; /* a bit for each device that has access, besides its own */
    int shared_fd;  /* legacy sharing, RDMA: where its bytes are, 0 = not shared */
    bool opened;    /* to RDMA devices: it may be touched */
    uint8_t *bytes;
} alloc_t;

typedef struct host_range {
    struct host_range *next;
    uint64_t start;
    uint64_t len;
    bool allocated; /* cuMemHostAlloc; else registered */
} host_range_t;

struct CUctx_st {
    int device;
    int retained;
};

typedef struct operation {
    struct operation *next;
    uint64_t serial;    /* of all streams: which came first */
    cuda_event_t event; /* an event that comes to pass; else */
    cuda_event_t wait;  /* one that is waited for, as it was recorded then; else */
    uint64_t wait_serial;
    int function; /* a launch: 1 copies, 2 CRCs; 0: a copy */
    uint64_t target;
    uint64_t source;
    uint64_t len;
    uint64_t target_id; /* of the device memory meant; 0: host memory */
    uint64_t source_id;
    uint64_t rows;
    uint32_t count;
    uint64_t crcs;
} operation_t;

struct CUstream_st {
    int device;
    bool blocking; /* waits for the legacy default stream, which waits for it */
    bool legacy;
    operation_t *first;
    operation_t **last;
};

struct CUevent_st {
    cuda_stream_t stream; /* recorded on; NULL: nothing pending */
    uint64_t serial;
    int device;
    bool recorded;
};

typedef struct fake {
    pthread_mutex_t lock;
    bool started;
    int device_count;
    int version;
    int compute;
    bool pools;
    struct CUctx_st contexts[DEVICES_MAX];
    int broken[DEVICES_MAX];
    alloc_t *allocs;
    alloc_t *spare; /* freed: their addresses are used again */
    host_range_t *hosts;
    bool strict_pointers;
    bool no_vmm;
    fake_rdma_t rdma;
    uint64_t next_id;
    uint64_t next_serial;
    fake_counts_t counts;
    char violation[256];
    char fail_name[64];
    uint64_t fail_nth;
    int fail_code;
    bool fired;
} fake_t;
extern fake_t g_fake;

void fake_violate(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The beginning of every call, taking the lock: counts, fails when told so. */
int fake_enter(const char *name, bool needs_context);
int fake_leave(int result);
#define ENTER(needs_context)                                                                                           \
    do {                                                                                                               \
        int enter_result = fake_enter(__func__, (needs_context));                                                      \
        if (enter_result != CUDA_OK) {                                                                                 \
            return enter_result;                                                                                       \
        }                                                                                                              \
    } while (0)
/* What gives something back does so whatever it says. */
#define ENTER_UNDO(result_var) int result_var = fake_enter_undo(__func__)
int fake_enter_undo(const char *name);
/* Of the thread's current context; -1: none. */
int fake_current_device(void);

/* With the lock. */
alloc_t *fake_find_alloc(uint64_t ptr);
host_range_t *fake_find_host(uint64_t ptr);
/* Bytes behind an address as a device sees it; NULL: it sees none. */
uint8_t *fake_device_view(uint64_t ptr, uint64_t len);
void fake_run_kernel(const operation_t *operation);
alloc_t *fake_make_alloc(int device, uint64_t len, fake_kind_t kind, uint64_t piece, bool counted);
int fake_drop_alloc(uint64_t ptr, bool counted);
/* Its bytes move to where others can map them. */
bool fake_publish(alloc_t *alloc);
/* Is anything pending that touches the memory? */
bool fake_is_pending(uint64_t start, uint64_t len);
/* All that the streams with that index have; NULL: there is none. */
cuda_stream_t fake_stream_at(int i);
#define FAKE_STREAMS_MAX 256
/* The stream of a handle, also of 0, 1 (the legacy default stream) and 2 (the thread's). */
cuda_stream_t fake_stream(cuda_stream_t handle);
/* Everything that is on it, and what it has to wait for. */
void fake_drain(cuda_stream_t stream);

#endif
