/* A segment: one contiguous region this client contributes, in a memfd that same-host peers may map.
 *
 * Memory is faulted ahead of use, never all at once: a background thread (one faulter per client) keeps `window` bytes
 * populated (MADV_POPULATE_WRITE: an error, not SIGBUS) above the high mark, the highest offset anybody has used. The
 * populated prefix is published in a small control page that mappers share: their own populate, and GPU and RDMA
 * registration, follow it. A writer that runs ahead of the faulter populates its own range (mcs_segment_ensure). Huge
 * pages (MFD_HUGETLB) when asked for and there are any; else THP advice. The memfd is sealed against shrinking and
 * growing, mode 0600, CLOEXEC; the mapping is MADV_DONTDUMP and MADV_DONTFORK.
 *
 * A far segment has its payloads in the memory of a device; the memfd has the headers alone (core/wire/extent.h). All
 * offsets here are the segment's; what is said of faulting is about the headers.
 *
 * Reference counted: one for the creator, one per mapping or view that can still touch it. Thread-safe. */
#ifndef MCS_SEGMENT_SEGMENT_H
#define MCS_SEGMENT_SEGMENT_H

#include "core/base/rng.h"
#include "core/segment/far.h"
#include "core/wire/extent.h"

typedef struct mcs_segment mcs_segment_t;
typedef struct mcs_faulter mcs_faulter_t;

/* The control page, shared with mappers (memory ABI). Written by the owner except high_mark. */
#define MCS_SEGMENT_CTL_MAGIC UINT32_C(0x4c544353)
typedef struct mcs_segment_ctl {
    uint32_t magic;
    uint32_t version;
    uint64_t size;
    uint64_t instance_hi;
    uint64_t instance_lo;
    uint64_t faulted;   /* atomic: [0, faulted) of the memfd is populated */
    uint64_t high_mark; /* atomic, only grows (fetch-max by whoever uses an extent) */
    uint32_t closed;    /* atomic: 1 when the owner has unmounted: no new access */
    uint32_t shift;     /* 0, or MCS_EXTENT_FAR_SHIFT: the payloads are not in the memfd */
} mcs_segment_ctl_t;

typedef struct mcs_segment_config {
    uint64_t size;           /* bytes, > 0; rounded up to the page size */
    uint64_t fault_window;   /* bytes kept populated above the high mark */
    bool huge_pages;         /* try MFD_HUGETLB; falls back with one warning */
    uint64_t huge_page_size; /* 2 MiB or 1 GiB */
    int numa_node;           /* -1 = any */
} mcs_segment_config_t;

/* One thread that populates; segments are added to it. */
mcs_status_t mcs_faulter_create(mcs_faulter_t **faulter_out) MCS_MUST_CHECK;
void mcs_faulter_destroy(mcs_faulter_t *faulter); /* after its segments are put; NULL is fine */

/* Returns at once: nothing is populated yet. MCS_ERR_INVALID_PARAMS for a size of 0; MCS_ERR_NO_MEMORY when the kernel
 * refuses (with a log line). */
mcs_status_t mcs_segment_create(const mcs_segment_config_t *config, mcs_faulter_t *faulter, mcs_segment_t **segment_out)
    MCS_MUST_CHECK;
/* A far one: of the memory's size, whatever config->size says, its headers of ordinary pages. Takes the memory,
 * whatever comes of it. */
mcs_status_t mcs_segment_create_far(const mcs_segment_config_t *config, mcs_faulter_t *faulter, mcs_far_t far,
                                    mcs_segment_t **segment_out) MCS_MUST_CHECK;
mcs_segment_t *mcs_segment_get(mcs_segment_t *segment);
void mcs_segment_put(mcs_segment_t *segment); /* the last one unmaps */

mcs_id_t mcs_segment_instance(const mcs_segment_t *segment);
void *mcs_segment_base(const mcs_segment_t *segment); /* of the memfd's mapping */
uint64_t mcs_segment_size(const mcs_segment_t *segment);
uint64_t mcs_segment_near_size(const mcs_segment_t *segment); /* of the memfd */
unsigned mcs_segment_shift(const mcs_segment_t *segment);
const mcs_far_t *mcs_segment_far(const mcs_segment_t *segment); /* NULL: it is not far */
/* Where the header of an extent at `offset` is. */
mcs_extent_header_t *mcs_segment_header(const mcs_segment_t *segment, uint64_t offset);
int mcs_segment_fd(const mcs_segment_t *segment);     /* of the memory; stays the segment's */
int mcs_segment_ctl_fd(const mcs_segment_t *segment); /* of the control page */
mcs_segment_ctl_t *mcs_segment_ctl(const mcs_segment_t *segment);

/* Says that [0, end) is in use: moves the high mark and wakes the faulter when the window has to move. Lock-free, hot.
 */
void mcs_segment_touch(mcs_segment_t *segment, uint64_t end);
/* Makes [offset, offset+len) safe to write: populates what the faulter has not reached. MCS_ERR_NO_MEMORY when the
 * kernel has no page. Of a far segment: the headers of extents there. */
mcs_status_t mcs_segment_ensure(mcs_segment_t *segment, uint64_t offset, uint64_t len) MCS_MUST_CHECK;
/* No new reads, neither through mappings nor served, and no new pins to write. Before the master hears that the segment
 * is gone: from then on its keys may have other values (rule 2). */
void mcs_segment_close(mcs_segment_t *segment);
/* The master was not told after all. */
void mcs_segment_reopen(mcs_segment_t *segment);
bool mcs_segment_is_closed(const mcs_segment_t *segment);

#endif
