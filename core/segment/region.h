/* Memory that two processes share: a sealed memfd and its mapping here (slot pages, tables of revoked generations,
 * control pages). Mode 0600, CLOEXEC, sealed against shrinking and growing, so that a peer's truncation cannot kill us
 * by SIGBUS; MADV_DONTFORK and MADV_DONTDUMP. Reference counted; a forked child neither unmaps nor closes anything
 * (rule 11). */
#ifndef MCS_SEGMENT_REGION_H
#define MCS_SEGMENT_REGION_H

#include "core/base/status.h"

typedef struct mcs_region {
    uint32_t refs; /* atomic */
    int fd;        /* -1 = given up */
    void *base;
    size_t size; /* of the mapping, whole pages */
    uint64_t token;
} mcs_region_t;

/* A memfd of `size` bytes with the given extra flags (MFD_HUGETLB …), mode 0600, guarded against fork; not sealed yet.
 * -1 with errno. */
int mcs_memfd_open(const char *name, uint64_t size, unsigned flags);
/* Against shrinking, growing, more seals; with `read_only_peers` also against new writable mappings where the kernel
 * can. */
bool mcs_memfd_seal(int fd, bool read_only_peers);
/* Closes and forgets a guarded descriptor; -1 is fine. */
void mcs_memfd_close(int fd);

/* Zeroed memory of our own, mapped writable. */
mcs_status_t mcs_region_create(const char *name, size_t size, bool read_only_peers, mcs_region_t **region_out)
    MCS_MUST_CHECK;
/* Maps a descriptor that a peer sent; it must be a sealed memfd of at least `size` bytes, or MCS_ERR_PROTOCOL. The
 * descriptor stays the caller's. */
mcs_status_t mcs_region_map(int fd, size_t size, bool writable, mcs_region_t **region_out) MCS_MUST_CHECK;
mcs_region_t *mcs_region_get(mcs_region_t *region);
void mcs_region_put(mcs_region_t *region); /* NULL is fine */
/* The descriptor is not needed any more; the mapping stays. */
void mcs_region_close_fd(mcs_region_t *region);

/* Is it a memfd that can neither shrink nor grow, of at least `size` bytes? */
bool mcs_memfd_is_sealed(int fd, uint64_t size);

#endif
