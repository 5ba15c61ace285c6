/* See region.h. */
#include "core/segment/region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/fork.h"
#include "core/base/log.h"
#include "core/base/thread.h"

#define AREA "segment"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; without it newer kernels warn in their log */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

static int open_memfd(const char *name, unsigned flags)
{
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        errno = ENOMEM;
        return -1;
    }
    flags |= MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create(name, flags);
    }
    return fd;
}

int mcs_memfd_open(const char *name, uint64_t size, unsigned flags)
{
    int fd = open_memfd(name, flags);
    if (fd < 0) {
        return -1;
    }
    /* The kernel's default mode is 0777: whoever could open /proc/<pid>/fd/N might map it. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) != 0 || mcs_fault_hit(MCS_FAULT_SYSCALL) || ftruncate(fd, (off_t)size) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    mcs_fork_guard_add(fd); /* a child that keeps it would keep the memory */
    return fd;
}

bool mcs_memfd_seal(int fd, bool read_only_peers)
{
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        return false;
    }
    if (read_only_peers && fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0) {
        mcs_debug(AREA, "memfd: no seal against writable mappings: %s", strerror(errno));
    }
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
}

void mcs_memfd_close(int fd)
{
    if (fd >= 0) {
        mcs_fork_guard_remove(fd);
        close(fd);
    }
}

bool mcs_memfd_is_sealed(int fd, uint64_t size)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           st.st_size >= 0 && (uint64_t)st.st_size >= size;
}

static mcs_status_t map_fd(int fd, size_t size, int prot, mcs_region_t **region_out)
{
    mcs_region_t *region = MCS_NEW(mcs_region_t);
    if (region == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    region->refs = 1;
    region->fd = -1;
    region->size = MCS_ALIGN_UP(size, (size_t)sysconf(_SC_PAGESIZE));
    region->token = mcs_process_token();
    void *base = mcs_fault_hit(MCS_FAULT_SYSCALL) ? MAP_FAILED : mmap(NULL, region->size, prot, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        mcs_warn(AREA, "shared page of %zu bytes not mapped: %s", size, strerror(errno));
        mcs_free(region);
        return MCS_ERR_NO_MEMORY;
    }
    madvise(base, region->size, MADV_DONTFORK);
    madvise(base, region->size, MADV_DONTDUMP);
    region->base = base;
    *region_out = region;
    return MCS_OK;
}

mcs_status_t mcs_region_create(const char *name, size_t size, bool read_only_peers, mcs_region_t **region_out)
{
    size_t whole = MCS_ALIGN_UP(size, (size_t)sysconf(_SC_PAGESIZE));
    int fd = mcs_memfd_open(name, whole, 0);
    if (fd < 0) {
        mcs_warn(AREA, "memfd %s of %zu bytes: %s", name, whole, strerror(errno));
        return MCS_ERR_NO_MEMORY;
    }
    mcs_region_t *region;
    mcs_status_t status = map_fd(fd, whole, PROT_READ | PROT_WRITE, &region);
    if (status != MCS_OK) {
        goto err_close;
    }
    /* Sealed after the mapping: the last seal forbids writable mappings that are not there yet. */
    if (!mcs_memfd_seal(fd, read_only_peers)) {
        mcs_warn(AREA, "memfd %s not sealed: %s", name, strerror(errno));
        status = MCS_ERR_NO_MEMORY;
        goto err_unmap;
    }
    /* Now, so that a lack of memory is an error here and not a signal later. */
    if (mcs_fault_hit(MCS_FAULT_SYSCALL) || fallocate(fd, 0, 0, (off_t)whole) != 0) {
        mcs_warn(AREA, "memfd %s of %zu bytes: no memory", name, whole);
        status = MCS_ERR_NO_MEMORY;
        goto err_unmap;
    }
    region->fd = fd;
    *region_out = region;
    return MCS_OK;

err_unmap:
    mcs_region_put(region);
err_close:
    mcs_memfd_close(fd);
    return status;
}

mcs_status_t mcs_region_map(int fd, size_t size, bool writable, mcs_region_t **region_out)
{
    if (!mcs_memfd_is_sealed(fd, size)) {
        return MCS_ERR_PROTOCOL;
    }
    return map_fd(fd, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, region_out);
}

mcs_region_t *mcs_region_get(mcs_region_t *region)
{
    __atomic_add_fetch(&region->refs, 1, __ATOMIC_RELAXED);
    return region;
}

void mcs_region_close_fd(mcs_region_t *region)
{
    mcs_memfd_close(region->fd);
    region->fd = -1;
}

void mcs_region_put(mcs_region_t *region)
{
    if (region == NULL || region->token != mcs_process_token() ||
        __atomic_sub_fetch(&region->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    munmap(region->base, region->size);
    mcs_region_close_fd(region);
    mcs_free(region);
}
