/* Is a range of this process's memory there? For addresses that come as plain numbers (Python's `put_from(key, ptr,
 * size)`): touching a wrong one would kill the process, so it is looked up first and refused with a status.
 *
 * The answer is the kernel's list of mappings, exact to the page: holes, PROT_NONE and, for writes, read-only pages are
 * found. It holds at the moment of the question: a caller that unmaps its buffer during a call has no protection, and a
 * file mapping past the end of a truncated file counts as mapped. Nothing is touched or faulted in, except that small
 * ranges on kernels before 6.11 are populated.
 *
 * Cost: one open of /proc/self/maps for a call (about 3 us), then one ioctl (PROCMAP_QUERY, Linux 6.11, about 1 us) for
 * each mapping not seen in this call; on older kernels a MADV_POPULATE for ranges up to 1 MiB, and above that a read of
 * the list (50 us and more). So: registered memory is asked about once, at its registration, and everything else at
 * each call.
 *
 * A probe belongs to one thread. Results are remembered for the probe's life only. */
#ifndef MCS_BASE_MEMPROBE_H
#define MCS_BASE_MEMPROBE_H

#include "core/base/status.h"

#define MCS_MEMPROBE_SEEN 64

typedef struct mcs_memprobe_area {
    uint64_t start;
    uint64_t end;
    bool readable;
    bool writable;
} mcs_memprobe_area_t;

typedef struct mcs_memprobe {
    int fd;        /* /proc/self/maps, -1 = not opened yet */
    bool no_query; /* the kernel has no PROCMAP_QUERY */
    uint32_t seen_count;
    uint32_t seen_next; /* overwritten next, once full */
    mcs_memprobe_area_t seen[MCS_MEMPROBE_SEEN];
} mcs_memprobe_t;

/* No system call; fini closes what was opened. */
void mcs_memprobe_init(mcs_memprobe_t *probe);
void mcs_memprobe_fini(mcs_memprobe_t *probe);

/* MCS_OK when every byte of [ptr, ptr + len) can be read (written too, with `write`); len 0 is MCS_OK for any pointer
 * but NULL. MCS_ERR_INVALID_PARAMS otherwise: also for NULL, a range that wraps around, and when /proc is not there to
 * be asked. */
mcs_status_t mcs_memprobe_check(mcs_memprobe_t *probe, const void *ptr, uint64_t len, bool write) MCS_MUST_CHECK;

/* Tests: answers as on a kernel without PROCMAP_QUERY. */
void mcs_memprobe_forget_query(mcs_memprobe_t *probe);

#endif
