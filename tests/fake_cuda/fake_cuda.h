/* Control of the fake driver; see README.md. Thread-safe. */
#ifndef MCS_TESTS_FAKE_CUDA_H
#define MCS_TESTS_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_API __attribute__((visibility("default")))

typedef struct fake_counts {
    int64_t contexts; /* retained */
    int64_t pushed;   /* and not popped */
    int64_t streams;
    int64_t events;
    int64_t device_allocs;
    int64_t host_allocs;
    int64_t registered;
    int64_t modules;
    int64_t pending;  /* operations on streams */
    int64_t memories; /* of the virtual kind */
    int64_t reserved; /* ranges of addresses */
    uint64_t violations;
    uint64_t calls;
    uint64_t copies; /* by cuMemcpyAsync */
    uint64_t unpinned_copies;
    uint64_t batches;
    uint64_t launches;
    uint64_t synchronized; /* events waited for */
    uint64_t most_pending; /* operations at once, ever since the reset */
    uint64_t flushes;      /* of RDMA writes */
} fake_counts_t;

typedef enum fake_kind { FAKE_DEVICE, FAKE_VMM, FAKE_MANAGED } fake_kind_t;

/* As after cuInit on a machine with that many devices. Whatever is left of before stays counted. */
FAKE_API void fake_cuda_reset(int devices, int version);
FAKE_API void fake_cuda_counts(fake_counts_t *counts_out);
/* The first violation's text since the reset; "" when there is none. */
FAKE_API const char *fake_cuda_violation(void);
/* Fails the nth call (1 = the next) of that name, NULL: of any, with a code; nth 0 disarms. */
FAKE_API void fake_cuda_fail(const char *name, uint64_t nth, int code);
FAKE_API bool fake_cuda_fired(void);
/* A device that has failed: every call that touches it returns this code until the reset; 0 heals. */
FAKE_API void fake_cuda_break(int device, int code);

/* What devices say they are, until the reset: 90 is compute capability 9.0. */
FAKE_API void fake_cuda_capabilities(int compute, bool pools);

/* Can RDMA devices reach device memory, and how are their writes seen? Until the reset. Memory that is told to wait
 * with the caller's copies (SYNC_MEMOPS) may be touched from then on, by whoever plays the RDMA device. */
typedef enum fake_rdma { FAKE_RDMA_NONE, FAKE_RDMA_ORDERED, FAKE_RDMA_FLUSHED } fake_rdma_t;
FAKE_API void fake_cuda_rdma(fake_rdma_t rdma);

/* No virtual memory: sharing is by legacy handles. Until the reset. */
FAKE_API void fake_cuda_without_vmm(void);

/* Questions about pointers need a context from now on. */
FAKE_API void fake_cuda_strict_pointers(bool strict);

/* Memory of a program's own: not counted. FAKE_VMM: made of mappings of `piece` bytes. */
FAKE_API void *fake_cuda_alloc(int device, size_t len, fake_kind_t kind, size_t piece);
FAKE_API void fake_cuda_free(void *ptr);
/* Its bytes, for as long as it is there; NULL when it is not device memory. */
FAKE_API uint8_t *fake_cuda_bytes(const void *ptr);

#endif
