/* See segment.h.
 *
 *   memory memfd  |======== faulted ========|--- window ---|...... holes ......|
 *                 0        high_mark                                          size
 *
 * The faulter is one thread for all segments of a client. It works in pieces, and publishes after each. They are small:
 * while the kernel makes the pages of one, no other thread of the process can map or unmap memory. And while nobody is
 * near what it does, it gives the processor away after each: a thread that has just been woken there (the master's,
 * that answers a put) would otherwise wait until the faulter's time slice is over, milliseconds. When the users come
 * near it takes the share that it has. Mappers of other processes move the high mark in the shared control page without
 * being able to wake it: it also looks by itself while a segment is not fully faulted, more often after the mark has
 * moved.
 *
 * What mappers can write (the control page) is never trusted further than for how much to fault: how far this process
 * has come is kept aside.
 *
 * A forked child has none of the memory (MADV_DONTFORK) and none of the descriptors: it leaves everything alone (rule
 * 11). */
#include "core/segment/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <numaif.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/segment/region.h"

#define AREA        "segment"
#define PIECE       (128 * MCS_KIB) /* some 50 us */
#define NEAR        (8 * MCS_MIB)
#define LOOK_EVERY  (25 * MCS_NS_PER_MS) /* at 2 GB/s a fifth of the default window */
#define LOOK_IDLE   (250 * MCS_NS_PER_MS)
#define BUSY_FOR    (2 * MCS_NS_PER_SEC)
#define CTL_BYTES   ((size_t)4096)
#define SEGMENT_MAX (UINT64_C(1) << 46)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct mcs_faulter {
    uint32_t refs;    /* the creator, and one per segment */
    uint32_t stop;    /* atomic */
    uint32_t waiting; /* atomic: for the lock, which would be taken again before they have woken up */
    uint64_t token;
    mcs_thread_t thread;
    mcs_event_t wake;
    mcs_mutex_t lock; /* rank FAULTER; held while a piece is populated, so that a segment cannot go meanwhile */
    mcs_list_t segments MCS_GUARDED_BY(&lock);
};

struct mcs_segment {
    uint32_t refs;   /* see segment.h */
    mcs_list_t node; /* of the faulter */
    mcs_faulter_t *faulter;
    mcs_id_t instance;
    uint8_t *base;
    uint64_t near_size; /* of the memfd; all of the segment, or its headers */
    uint64_t size;
    unsigned shift;
    mcs_far_t far;
    uint64_t window;
    int fd;
    int ctl_fd;
    mcs_segment_ctl_t *ctl;
    uint64_t faulted; /* atomic: what ctl->faulted should say */
    uint64_t token;
    bool failed; /* under the faulter's lock: the kernel has no memory; asked again later */
};

/* ---- populating ---- */

static uint64_t page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Of the memfd. */
static mcs_status_t populate(const mcs_segment_t *segment, uint64_t offset, uint64_t len)
{
    uint64_t page = page_size();
    uint64_t begin = MCS_ALIGN_DOWN(offset, page);
    uint64_t end = MCS_MIN(MCS_ALIGN_UP(offset + len, page), segment->near_size);
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        return MCS_ERR_NO_MEMORY;
    }
    int rc;
    do {
        rc = madvise(segment->base + begin, end - begin, MADV_POPULATE_WRITE);
    } while (rc != 0 && (errno == EINTR || errno == EAGAIN));
    if (rc != 0 && errno == EINVAL) {
        /* A kernel before 5.14: the file's pages are allocated (an error, no SIGBUS); mapping them is left to the first
         * touch. */
        rc = fallocate(segment->fd, 0, (off_t)begin, (off_t)(end - begin));
    }
    return rc == 0 ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static uint64_t used_end(const mcs_segment_t *segment)
{
    uint64_t mark = __atomic_load_n(&segment->ctl->high_mark, __ATOMIC_RELAXED) >> segment->shift;
    return MCS_MIN(mark, segment->near_size);
}

/* What a piece was needed for; of several the most urgent, which is the last here. */
typedef enum need { NEED_NONE, NEED_LATER, NEED_SOON } need_t;

/* One piece of one segment. NEED_NONE: nothing was done. */
static need_t fault_piece(mcs_segment_t *segment)
{
    uint64_t faulted = __atomic_load_n(&segment->faulted, __ATOMIC_RELAXED);
    uint64_t used = used_end(segment);
    uint64_t end = segment->near_size - used < segment->window ? segment->near_size : used + segment->window;
    if (faulted >= end) {
        return NEED_NONE;
    }
    uint64_t len = MCS_MIN(end - faulted, PIECE);
    if (populate(segment, faulted, len) != MCS_OK) {
        if (!segment->failed) {
            mcs_warn(AREA, "no memory to fault %llu bytes ahead at %llu of %llu: %s", (unsigned long long)len,
                     (unsigned long long)faulted, (unsigned long long)segment->near_size, strerror(errno));
        }
        segment->failed = true;
        return NEED_NONE;
    }
    segment->failed = false;
    /* Release: who sees the new end may touch the pages below it without a fault. */
    __atomic_store_n(&segment->faulted, faulted + len, __ATOMIC_RELEASE);
    __atomic_store_n(&segment->ctl->faulted, faulted + len, __ATOMIC_RELEASE);
    return faulted < used + MCS_MIN(NEAR, segment->window / 2) ? NEED_SOON : NEED_LATER;
}

/* Each segment's next piece. *unfinished: some segment may want more later. */
static need_t fault_round(mcs_faulter_t *faulter, bool *unfinished)
{
    need_t most = NEED_NONE;
    *unfinished = false;
    mcs_mutex_lock(&faulter->lock);
    MCS_LIST_FOR_EACH(node, &faulter->segments)
    {
        mcs_segment_t *segment = MCS_CONTAINER_OF(node, mcs_segment_t, node);
        need_t need = fault_piece(segment);
        most = MCS_MAX(most, need);
        *unfinished = *unfinished || __atomic_load_n(&segment->faulted, __ATOMIC_RELAXED) < segment->near_size;
    }
    mcs_mutex_unlock(&faulter->lock);
    return most;
}

static void faulter_main(void *arg)
{
    mcs_faulter_t *faulter = arg;
    /* At ordinary priority: a faulter that is kept off the processor while it holds a page's lock stalls the callers
     * that wait for that page. */
    uint64_t busy_until = 0;
    while (__atomic_load_n(&faulter->stop, __ATOMIC_ACQUIRE) == 0) {
        bool unfinished;
        uint64_t now = mcs_now_ns();
        while (__atomic_load_n(&faulter->waiting, __ATOMIC_RELAXED) > 0) { /* a hint */
            (void)sched_yield();
        }
        need_t need = fault_round(faulter, &unfinished);
        if (need != NEED_NONE) {
            busy_until = now + BUSY_FOR;
            if (need == NEED_LATER) {
                (void)sched_yield();
            }
            continue;
        }
        uint64_t look = now + (now < busy_until ? LOOK_EVERY : LOOK_IDLE);
        mcs_event_wait(&faulter->wake, unfinished ? look : MCS_NEVER);
    }
}

static void faulter_lock(mcs_faulter_t *faulter) MCS_ACQUIRE(&faulter->lock)
{
    __atomic_add_fetch(&faulter->waiting, 1, __ATOMIC_RELAXED);
    mcs_mutex_lock(&faulter->lock);
    __atomic_sub_fetch(&faulter->waiting, 1, __ATOMIC_RELAXED);
}

static void faulter_put(mcs_faulter_t *faulter)
{
    if (__atomic_sub_fetch(&faulter->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_event_fini(&faulter->wake);
        mcs_mutex_fini(&faulter->lock);
        mcs_free(faulter);
    }
}

mcs_status_t mcs_faulter_create(mcs_faulter_t **faulter_out)
{
    mcs_faulter_t *faulter = MCS_NEW(mcs_faulter_t);
    if (faulter == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    faulter->refs = 1;
    faulter->token = mcs_process_token();
    mcs_status_t status = mcs_event_init(&faulter->wake);
    if (status != MCS_OK) {
        mcs_free(faulter);
        return status;
    }
    mcs_mutex_init(&faulter->lock, MCS_RANK_FAULTER, "faulter");
    mcs_list_init(&faulter->segments);
    status = mcs_thread_start(&faulter->thread, "mcs-faulter", faulter_main, faulter);
    if (status != MCS_OK) {
        faulter_put(faulter);
        return status;
    }
    *faulter_out = faulter;
    return MCS_OK;
}

void mcs_faulter_destroy(mcs_faulter_t *faulter)
{
    if (faulter == NULL || faulter->token != mcs_process_token()) {
        return;
    }
    __atomic_store_n(&faulter->stop, 1, __ATOMIC_RELEASE);
    mcs_event_set(&faulter->wake);
    mcs_thread_join(&faulter->thread);
    faulter_put(faulter); /* segments that views keep alive still refer to it */
}

/* ---- creating ---- */

/* A sealed memory file of `size` bytes. -1 with errno. */
static int memory_file(const char *name, uint64_t size, unsigned flags)
{
    int fd = mcs_memfd_open(name, size, flags);
    if (fd >= 0 && !mcs_memfd_seal(fd, false)) {
        int error = errno;
        mcs_memfd_close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}

static void *map_file(int fd, uint64_t size)
{
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        errno = ENOMEM;
        return NULL;
    }
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    madvise(base, size, MADV_DONTDUMP);
    madvise(base, size, MADV_DONTFORK);
    return base;
}

static bool is_huge_size(uint64_t size)
{
    return size >= 2 * MCS_MIB && (size & (size - 1)) == 0;
}

/* Huge pages are reserved by mmap: a pool that is too small fails here and not at a touch. */
static bool make_huge(mcs_segment_t *segment, const mcs_segment_config_t *config)
{
    unsigned shift = (unsigned)__builtin_ctzll(config->huge_page_size);
    uint64_t size = MCS_ALIGN_UP(config->size, config->huge_page_size);
    errno = 0;
    segment->fd = memory_file("mooncake-segment", size, MFD_HUGETLB | shift << MAP_HUGE_SHIFT);
    segment->base = segment->fd >= 0 ? map_file(segment->fd, size) : NULL;
    if (segment->base == NULL) {
        mcs_warn(AREA, "no huge pages for a segment of %llu bytes (%s): ordinary pages are used",
                 (unsigned long long)config->size, strerror(errno));
        mcs_memfd_close(segment->fd);
        segment->fd = -1;
        return false;
    }
    segment->size = size;
    segment->near_size = size;
    return true;
}

static mcs_status_t make_memory(mcs_segment_t *segment, const mcs_segment_config_t *config)
{
    if (config->huge_pages && segment->far.memory == NULL && is_huge_size(config->huge_page_size) &&
        make_huge(segment, config)) {
        return MCS_OK;
    }
    bool far = segment->far.memory != NULL;
    segment->size = far ? segment->far.memory->size : MCS_ALIGN_UP(config->size, page_size());
    segment->near_size = far ? MCS_ALIGN_UP(segment->size >> segment->shift, page_size()) : segment->size;
    segment->fd = memory_file("mooncake-segment", segment->near_size, 0);
    segment->base = segment->fd >= 0 ? map_file(segment->fd, segment->near_size) : NULL;
    if (segment->base == NULL) {
        mcs_error(AREA, "segment of %llu bytes: %s: %s", (unsigned long long)segment->size, strerror(errno),
                  mcs_status_name(MCS_ERR_NO_MEMORY));
        return MCS_ERR_NO_MEMORY;
    }
    if (!far) {
        madvise(segment->base, segment->size, MADV_HUGEPAGE); /* where the kernel has them for shared memory */
    }
    return MCS_OK;
}

static mcs_status_t make_ctl(mcs_segment_t *segment)
{
    segment->ctl_fd = memory_file("mooncake-segment-ctl", CTL_BYTES, 0);
    segment->ctl = segment->ctl_fd >= 0 ? map_file(segment->ctl_fd, CTL_BYTES) : NULL;
    if (segment->ctl == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    *segment->ctl = (mcs_segment_ctl_t){
        .magic = MCS_SEGMENT_CTL_MAGIC,
        .version = 1,
        .size = segment->size,
        .instance_hi = segment->instance.hi,
        .instance_lo = segment->instance.lo,
        .shift = segment->shift,
    };
    return MCS_OK;
}

static void bind_to_node(const mcs_segment_t *segment, int node)
{
    unsigned long mask[16] = {0};
    unsigned long bits = sizeof(mask) * 8;
    if (node < 0 || (unsigned long)node >= bits) {
        return;
    }
    mask[(unsigned long)node / (8 * sizeof(long))] |= 1UL << ((unsigned long)node % (8 * sizeof(long)));
    if (mbind(segment->base, segment->near_size, MPOL_PREFERRED, mask, bits, 0) != 0) {
        mcs_warn(AREA, "NUMA node %d: %s: memory comes from any node", node, strerror(errno));
    }
}

static void segment_free(mcs_segment_t *segment)
{
    if (segment->ctl != NULL) {
        munmap(segment->ctl, CTL_BYTES);
    }
    mcs_memfd_close(segment->ctl_fd);
    if (segment->base != NULL) {
        munmap(segment->base, segment->near_size);
    }
    mcs_memfd_close(segment->fd);
    mcs_far_close(&segment->far);
    mcs_free(segment);
}

/* Takes the far memory, if there is any. */
static mcs_status_t create(const mcs_segment_config_t *config, mcs_faulter_t *faulter, mcs_far_t far,
                           mcs_segment_t **segment_out)
{
    mcs_segment_t *segment = MCS_NEW(mcs_segment_t);
    if (segment == NULL) {
        mcs_far_close(&far);
        return MCS_ERR_NO_MEMORY;
    }
    segment->refs = 1;
    segment->far = far;
    segment->shift = far.memory != NULL ? MCS_EXTENT_FAR_SHIFT : 0;
    segment->fd = -1;
    segment->ctl_fd = -1;
    segment->instance = mcs_id_random();
    segment->window = config->fault_window;
    segment->token = mcs_process_token();
    mcs_list_init(&segment->node);
    mcs_status_t status = make_memory(segment, config);
    if (status == MCS_OK) {
        status = make_ctl(segment);
    }
    if (status != MCS_OK) {
        segment_free(segment);
        return status;
    }
    bind_to_node(segment, config->numa_node);
    segment->faulter = faulter;
    __atomic_fetch_add(&faulter->refs, 1, __ATOMIC_RELAXED);
    faulter_lock(faulter);
    mcs_list_push_tail(&faulter->segments, &segment->node);
    mcs_mutex_unlock(&faulter->lock);
    mcs_event_set(&faulter->wake);
    *segment_out = segment;
    return MCS_OK;
}

mcs_status_t mcs_segment_create(const mcs_segment_config_t *config, mcs_faulter_t *faulter, mcs_segment_t **segment_out)
{
    if (config->size == 0 || config->size > SEGMENT_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    return create(config, faulter, (mcs_far_t){0}, segment_out);
}

mcs_status_t mcs_segment_create_far(const mcs_segment_config_t *config, mcs_faulter_t *faulter, mcs_far_t far,
                                    mcs_segment_t **segment_out)
{
    uint64_t size = far.memory->size;
    if (size == 0 || size > SEGMENT_MAX || size % MCS_EXTENT_FAR_ALIGN != 0) {
        mcs_far_close(&far);
        return MCS_ERR_INVALID_PARAMS;
    }
    return create(config, faulter, far, segment_out);
}

mcs_segment_t *mcs_segment_get(mcs_segment_t *segment)
{
    __atomic_fetch_add(&segment->refs, 1, __ATOMIC_RELAXED);
    return segment;
}

void mcs_segment_put(mcs_segment_t *segment)
{
    if (segment == NULL || segment->token != mcs_process_token() ||
        __atomic_sub_fetch(&segment->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    faulter_lock(segment->faulter);
    mcs_list_remove(&segment->node);
    mcs_mutex_unlock(&segment->faulter->lock);
    faulter_put(segment->faulter);
    segment_free(segment);
}

/* ---- use ---- */

mcs_id_t mcs_segment_instance(const mcs_segment_t *segment)
{
    return segment->instance;
}

void *mcs_segment_base(const mcs_segment_t *segment)
{
    return segment->base;
}

uint64_t mcs_segment_size(const mcs_segment_t *segment)
{
    return segment->size;
}

uint64_t mcs_segment_near_size(const mcs_segment_t *segment)
{
    return segment->near_size;
}

unsigned mcs_segment_shift(const mcs_segment_t *segment)
{
    return segment->shift;
}

const mcs_far_t *mcs_segment_far(const mcs_segment_t *segment)
{
    return segment->far.memory != NULL ? &segment->far : NULL;
}

mcs_extent_header_t *mcs_segment_header(const mcs_segment_t *segment, uint64_t offset)
{
    return (mcs_extent_header_t *)(void *)(segment->base + (offset >> segment->shift));
}

int mcs_segment_fd(const mcs_segment_t *segment)
{
    return segment->fd;
}

int mcs_segment_ctl_fd(const mcs_segment_t *segment)
{
    return segment->ctl_fd;
}

mcs_segment_ctl_t *mcs_segment_ctl(const mcs_segment_t *segment)
{
    return segment->ctl;
}

void mcs_segment_touch(mcs_segment_t *segment, uint64_t end)
{
    end = MCS_MIN(end, segment->size);
    uint64_t high = __atomic_load_n(&segment->ctl->high_mark, __ATOMIC_RELAXED);
    if (high >= end) {
        return;
    }
    while (high < end && !__atomic_compare_exchange_n(&segment->ctl->high_mark, &high, end, true, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {
        /* `high` was read again. */
    }
    /* Woken when half the window is used up, not at every step. */
    uint64_t faulted = __atomic_load_n(&segment->faulted, __ATOMIC_RELAXED);
    if (faulted < segment->near_size && (end >> segment->shift) + segment->window / 2 > faulted) {
        mcs_event_set(&segment->faulter->wake);
    }
}

mcs_status_t mcs_segment_ensure(mcs_segment_t *segment, uint64_t offset, uint64_t len)
{
    if (len > segment->size || offset > segment->size - len) {
        return MCS_ERR_INVALID_PARAMS;
    }
    uint64_t from = offset >> segment->shift;
    uint64_t to = MCS_ALIGN_UP(offset + len, UINT64_C(1) << segment->shift) >> segment->shift;
    /* Acquire: pairs with the faulter's store. */
    if (len == 0 || to <= __atomic_load_n(&segment->faulted, __ATOMIC_ACQUIRE)) {
        return MCS_OK;
    }
    mcs_status_t status = populate(segment, from, to - from);
    if (status != MCS_OK) {
        mcs_warn(AREA, "no memory for %llu bytes at %llu of a segment: %s", (unsigned long long)len,
                 (unsigned long long)offset, strerror(errno));
    }
    return status;
}

void mcs_segment_close(mcs_segment_t *segment)
{
    /* Sequentially consistent: pairs with the mapper's publish, which loads it after its slot. */
    __atomic_store_n(&segment->ctl->closed, 1, __ATOMIC_SEQ_CST);
}

void mcs_segment_reopen(mcs_segment_t *segment)
{
    __atomic_store_n(&segment->ctl->closed, 0, __ATOMIC_SEQ_CST);
}

bool mcs_segment_is_closed(const mcs_segment_t *segment)
{
    return __atomic_load_n(&segment->ctl->closed, __ATOMIC_SEQ_CST) != 0;
}
