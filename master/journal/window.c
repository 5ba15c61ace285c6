/* Windows of the streams' files: room on the disk, pages for it, and the thread that makes them ahead.
 *
 * A fresh megabyte costs a file system some hundred microseconds. Whoever appends holds the lock of a shard, and others
 * wait for it, so the next window is made by a thread of its own when half of the present one is full. Where it does
 * not come in time, or fails, the window is made by who needs it, whose failure is the one that counts. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/journal/internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* An error here is the only way in which a full disk is met. */
uint8_t *journal_window_map(mcs_journal_t *journal, int fd, uint64_t base)
{
    uint64_t bytes = __atomic_load_n(&journal->bytes, __ATOMIC_RELAXED) + MCS_JOURNAL_WINDOW;
    if (journal->config.max_bytes != 0 && bytes > journal->config.max_bytes) {
        errno = EDQUOT;
        return NULL;
    }
    int rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? ENOSPC : posix_fallocate(fd, (off_t)base, (off_t)MCS_JOURNAL_WINDOW);
    if (rc != 0) {
        errno = rc;
        return NULL;
    }
    void *window = mcs_fault_hit(MCS_FAULT_SYSCALL)
                       ? MAP_FAILED
                       : mmap(NULL, MCS_JOURNAL_WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)base);
    if (window == MAP_FAILED) {
        return NULL;
    }
    /* All pages at once, and an error instead of a signal where the file system only promised room. */
    if (madvise(window, MCS_JOURNAL_WINDOW, MADV_POPULATE_WRITE) != 0 && errno != EINVAL && errno != EINTR &&
        errno != EAGAIN) {
        int error = errno;
        munmap(window, MCS_JOURNAL_WINDOW);
        errno = error;
        return NULL;
    }
    madvise(window, MCS_JOURNAL_WINDOW, MADV_DONTFORK);
    __atomic_fetch_add(&journal->bytes, MCS_JOURNAL_WINDOW, __ATOMIC_RELAXED);
    return window;
}

void journal_window_unmap(uint8_t *window)
{
    if (window != NULL) {
        munmap(window, MCS_JOURNAL_WINDOW);
    }
}

/* ---- ahead ---- */

void journal_ahead_ask_locked(mcs_journal_t *journal, journal_stream_t *stream)
{
    if (!stream->asked) {
        stream->asked = true;
        mcs_event_set(&journal->wake);
    }
}

/* The file may be replaced meanwhile: the copy of its descriptor keeps it, and nobody takes the window then. */
static void make_next(mcs_journal_t *journal, journal_stream_t *stream)
{
    mcs_mutex_lock(&stream->lock);
    uint8_t *spent = stream->spent;
    bool wanted = stream->asked && stream->next == NULL && mcs_journal_is_on(journal);
    uint64_t number = stream->number;
    uint64_t base = stream->base + MCS_JOURNAL_WINDOW;
    int fd = wanted ? fcntl(stream->fd, F_DUPFD_CLOEXEC, 0) : -1;
    stream->spent = NULL;
    mcs_mutex_unlock(&stream->lock);
    journal_window_unmap(spent);
    if (fd < 0) {
        return;
    }
    uint8_t *made = journal_window_map(journal, fd, base);
    close(fd);
    mcs_mutex_lock(&stream->lock);
    if (made != NULL && stream->next == NULL && stream->number == number && stream->base + MCS_JOURNAL_WINDOW == base) {
        stream->next = made;
        made = NULL;
    } else if (made != NULL && stream->number == number) {
        /* Who appended did not wait and made the same window, which grew the file once. */
        __atomic_fetch_sub(&journal->bytes, MCS_JOURNAL_WINDOW, __ATOMIC_RELAXED);
    }
    mcs_mutex_unlock(&stream->lock);
    journal_window_unmap(made);
}

static void ahead_main(void *arg)
{
    mcs_journal_t *journal = arg;
    while (__atomic_load_n(&journal->stop, __ATOMIC_ACQUIRE) == 0) {
        (void)mcs_event_wait(&journal->wake, MCS_NEVER);
        for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS && __atomic_load_n(&journal->stop, __ATOMIC_ACQUIRE) == 0; s++) {
            make_next(journal, &journal->streams[s]);
        }
    }
}

mcs_status_t journal_ahead_start(mcs_journal_t *journal)
{
    return mcs_thread_start(&journal->ahead, "mcs-journal", ahead_main, journal);
}

void journal_ahead_stop(mcs_journal_t *journal)
{
    __atomic_store_n(&journal->stop, 1, __ATOMIC_RELEASE);
    if (journal->ahead.started) {
        mcs_event_set(&journal->wake);
        mcs_thread_join(&journal->ahead);
    }
}
