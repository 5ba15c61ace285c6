/* Memory of the index's records: size classes of 16-byte steps in 64 KiB pages, named by 32-bit references.
 *
 *   chunk (2 MiB, from the heap) = 32 pages of 64 KiB; page = 64-byte header + items of one size
 *   reference = chunk number << 17 | 16-byte unit in the chunk; 0 = none
 *
 * A reference is half a pointer: a shard's table and recency links take 4 bytes each. Pages belong to one of 16
 * domains, each with its own lock, so that shards seldom meet; a page that runs empty goes back to its chunk and serves
 * any domain and size; an empty chunk goes back to the heap. Refused: malloc per object (16 bytes each, and holes after
 * churn), one slab a shard (a page of each size in 1024 shards).
 *
 * A chunk is a huge page where the kernel gives any: with ten million keys a lookup would wait for the page tables as
 * long as for the records.
 *
 * At most 32767 chunks (64 GiB). Thread-safe: MCS_RANK_LEAF locks, held for a few list moves. */
#ifndef MCS_MASTER_SVC_SLAB_H
#define MCS_MASTER_SVC_SLAB_H

#include "core/base/lock.h"
#include "core/base/status.h"

#define SVC_SLAB_UNIT    16u
#define SVC_SLAB_PAGE    ((size_t)64 << 10)
#define SVC_SLAB_BITS    17u /* of a reference: the unit in its chunk */
#define SVC_SLAB_CHUNK   ((size_t)2 << 20)
#define SVC_SLAB_CHUNKS  32768u
#define SVC_SLAB_DOMAINS 16u
#define SVC_SLAB_CLASSES 80u
/* The largest item. */
#define SVC_SLAB_MAX ((size_t)9344)

typedef uint32_t svc_ref_t;

typedef struct svc_slab_domain {
    mcs_mutex_t lock;
    uint32_t partial[SVC_SLAB_CLASSES]; /* number of the first page with room, 0 = none */
} svc_slab_domain_t;

typedef struct svc_slab {
    uint8_t **chunks; /* atomic pointers */
    svc_slab_domain_t domains[SVC_SLAB_DOMAINS];
    mcs_mutex_t lock; /* what follows */
    uint32_t chunk_hint;
    uint32_t chunk_count;
    uint32_t free_pages;
    uint32_t *free_chunks; /* stack of chunk numbers that have free pages, each once */
    uint32_t free_chunk_count;
    uint32_t *page_bits; /* per chunk: its free pages */
} svc_slab_t;

mcs_status_t svc_slab_init(svc_slab_t *slab) MCS_MUST_CHECK;
/* Frees every chunk, whatever is in it. */
void svc_slab_fini(svc_slab_t *slab);
/* 0 when memory is short or `size` is above SVC_SLAB_MAX. Not zeroed; 16-byte aligned. */
svc_ref_t svc_slab_alloc(svc_slab_t *slab, uint32_t domain, size_t size) MCS_MUST_CHECK;
void svc_slab_free(svc_slab_t *slab, svc_ref_t ref);
/* What freeing it will write to comes into the cache. */
void svc_slab_prefetch(const svc_slab_t *slab, svc_ref_t ref);
/* Bytes taken from the heap. */
uint64_t svc_slab_bytes(svc_slab_t *slab);

static inline void *svc_slab_ptr(const svc_slab_t *slab, svc_ref_t ref)
{
    return __atomic_load_n(&slab->chunks[ref >> SVC_SLAB_BITS], __ATOMIC_RELAXED) +
           (size_t)(ref & ((UINT32_C(1) << SVC_SLAB_BITS) - 1)) * SVC_SLAB_UNIT;
}

#endif
