/* See memprobe.h.
 *
 * Two sources of the same list. PROCMAP_QUERY asks for the one mapping that covers an address; its structure is
 * declared here because the headers we build with may be older than the kernel we run on. Without it the text of
 * /proc/self/maps is scanned from its start for each mapping not remembered, which is why small ranges are tried with
 * MADV_POPULATE first: that fails on holes and on missing rights. */
#include "core/base/memprobe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/fault.h"

#define POPULATE_MAX MCS_MIB
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* struct procmap_query of linux/fs.h (6.11). */
typedef struct procmap_query {
    uint64_t size;
    uint64_t query_flags;
    uint64_t query_addr;
    uint64_t vma_start;
    uint64_t vma_end;
    uint64_t vma_flags;
    uint64_t vma_page_size;
    uint64_t vma_offset;
    uint64_t inode;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint32_t vma_name_size;
    uint32_t build_id_size;
    uint64_t vma_name_addr;
    uint64_t build_id_addr;
} procmap_query_t;
#define PROCMAP_QUERY_IOCTL _IOWR('f', 17, procmap_query_t)
#define PROCMAP_READABLE    1u
#define PROCMAP_WRITABLE    2u

void mcs_memprobe_init(mcs_memprobe_t *probe)
{
    probe->fd = -1;
    probe->no_query = false;
    probe->seen_count = 0;
    probe->seen_next = 0;
}

void mcs_memprobe_fini(mcs_memprobe_t *probe)
{
    if (probe->fd >= 0) {
        close(probe->fd);
        probe->fd = -1;
    }
}

void mcs_memprobe_forget_query(mcs_memprobe_t *probe)
{
    probe->no_query = true;
}

static bool open_maps(mcs_memprobe_t *probe)
{
    if (probe->fd < 0 && !mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        probe->fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    }
    return probe->fd >= 0;
}

/* The mapping that covers `addr`, by ioctl. False with no_query set when the kernel does not know it. */
static bool query_area(mcs_memprobe_t *probe, uint64_t addr, mcs_memprobe_area_t *area_out)
{
    procmap_query_t query = {.size = sizeof(query), .query_addr = addr};
    if (ioctl(probe->fd, PROCMAP_QUERY_IOCTL, &query) != 0) {
        probe->no_query = errno != ENOENT;
        return false;
    }
    *area_out = (mcs_memprobe_area_t){.start = query.vma_start,
                                      .end = query.vma_end,
                                      .readable = (query.vma_flags & PROCMAP_READABLE) != 0,
                                      .writable = (query.vma_flags & PROCMAP_WRITABLE) != 0};
    return true;
}

/* Hexadecimal digits from *text on, which is moved past them and the one character that ends them. */
static uint64_t scan_hex(const char **text)
{
    uint64_t value = 0;
    const char *p = *text;
    for (;; p++) {
        unsigned digit;
        if (*p >= '0' && *p <= '9') {
            digit = (unsigned)(*p - '0');
        } else if (*p >= 'a' && *p <= 'f') {
            digit = (unsigned)(*p - 'a') + 10;
        } else {
            break;
        }
        value = value << 4 | digit;
    }
    *text = *p == '\0' ? p : p + 1;
    return value;
}

/* One line "start-end rwxp …". */
static mcs_memprobe_area_t parse_area(const char *line)
{
    mcs_memprobe_area_t area = {.start = scan_hex(&line)};
    area.end = scan_hex(&line);
    area.readable = line[0] == 'r';
    area.writable = line[0] == 'r' && line[1] == 'w';
    return area;
}

/* The mapping that covers `addr`, by reading the list, which is in ascending order. Of each line only the head matters:
 * what does not fit the line's buffer (a long path) is dropped. */
static bool scan_area(mcs_memprobe_t *probe, uint64_t addr, mcs_memprobe_area_t *area_out)
{
    char chunk[4096];
    char line[64];
    size_t line_len = 0;
    if (lseek(probe->fd, 0, SEEK_SET) != 0) {
        return false;
    }
    for (;;) {
        ssize_t got = read(probe->fd, chunk, sizeof(chunk));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (chunk[i] != '\n') {
                if (line_len < sizeof(line) - 1) {
                    line[line_len++] = chunk[i];
                }
                continue;
            }
            line[line_len] = '\0';
            line_len = 0;
            mcs_memprobe_area_t area = parse_area(line);
            if (addr < area.end) {
                *area_out = area;
                return addr >= area.start;
            }
        }
    }
}

static const mcs_memprobe_area_t *find_seen(const mcs_memprobe_t *probe, uint64_t addr)
{
    for (uint32_t i = 0; i < probe->seen_count; i++) {
        if (addr >= probe->seen[i].start && addr < probe->seen[i].end) {
            return &probe->seen[i];
        }
    }
    return NULL;
}

static const mcs_memprobe_area_t *find_area(mcs_memprobe_t *probe, uint64_t addr)
{
    const mcs_memprobe_area_t *seen = find_seen(probe, addr);
    if (seen != NULL) {
        return seen;
    }
    mcs_memprobe_area_t area;
    if (!open_maps(probe)) {
        return NULL;
    }
    if (!(!probe->no_query && query_area(probe, addr, &area)) && !(probe->no_query && scan_area(probe, addr, &area))) {
        return NULL;
    }
    mcs_memprobe_area_t *slot = &probe->seen[probe->seen_next];
    *slot = area;
    probe->seen_next = (probe->seen_next + 1) % MCS_MEMPROBE_SEEN;
    probe->seen_count = MCS_MIN(probe->seen_count + 1, (uint32_t)MCS_MEMPROBE_SEEN);
    return slot;
}

/* Old kernels, small ranges: true when the kernel could fault everything in with the right asked for; false says
 * nothing. */
static bool populate(uint64_t start, uint64_t end, bool write)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t first = MCS_ALIGN_DOWN(start, page);
    uint64_t last = MCS_ALIGN_DOWN(end - 1, page);
    void *addr =
        (void *)(uintptr_t)first; /* NOLINT(performance-no-int-to-ptr): the caller's number is the subject here */
    return madvise(addr, (size_t)(last - first + page), write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0;
}

mcs_status_t mcs_memprobe_check(mcs_memprobe_t *probe, const void *ptr, uint64_t len, bool write)
{
    uint64_t at = (uint64_t)(uintptr_t)ptr;
    uint64_t end;
    if (at == 0 || __builtin_add_overflow(at, len, &end)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    while (at < end) {
        bool old_kernel = probe->no_query && find_seen(probe, at) == NULL;
        if (old_kernel && end - at <= POPULATE_MAX && populate(at, end, write)) {
            return MCS_OK;
        }
        bool asked_before = probe->no_query;
        const mcs_memprobe_area_t *area = find_area(probe, at);
        if (area == NULL && probe->no_query && !asked_before) {
            continue; /* just learned that the kernel is an old one */
        }
        if (area == NULL || !area->readable || (write && !area->writable)) {
            return MCS_ERR_INVALID_PARAMS;
        }
        at = area->end;
    }
    return MCS_OK;
}
