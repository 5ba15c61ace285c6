/* See copy.h. Hot path: no memory is taken here. */
#include "core/client/copy.h"

#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/thread.h"
#include "core/wire/extent.h"

/* One core moves several GB/s and the memory of one socket is full with a few: more threads only take cores from the
 * engine. */
#define HELPERS_MAX 3

void mcs_cursor_skip(mcs_cursor_t *cursor, uint64_t bytes)
{
    while (bytes > 0 && cursor->left > 0) {
        size_t here = cursor->iov->iov_len - cursor->at;
        if (bytes < here) {
            cursor->at += (size_t)bytes;
            return;
        }
        bytes -= here;
        cursor->iov++;
        cursor->left--;
        cursor->at = 0;
    }
}

mcs_status_t mcs_iov_total(const struct iovec *iov, size_t count, uint64_t max, uint64_t *total_out)
{
    if (iov == NULL && count > 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        uintptr_t end;
        if (iov[i].iov_len == 0) {
            continue;
        }
        if (iov[i].iov_base == NULL || __builtin_add_overflow((uintptr_t)iov[i].iov_base, iov[i].iov_len, &end) ||
            iov[i].iov_len > max - total) {
            return MCS_ERR_INVALID_PARAMS;
        }
        total += iov[i].iov_len;
    }
    *total_out = total;
    return MCS_OK;
}

/* ---- blocks ---- */

typedef uint32_t (*copy_fn)(uint32_t crc, void *dst, const void *src, size_t len);

static copy_fn copy_of(bool stream)
{
    return stream ? mcs_stream_crc32c : mcs_copy_crc32c;
}

void mcs_copy_in(uint8_t *payload, uint64_t len, mcs_cursor_t *source, uint32_t *crcs, bool stream)
{
    copy_fn copy = copy_of(stream);
    for (uint64_t done = 0; done < len;) {
        uint64_t block = MCS_MIN(len - done, MCS_EXTENT_CRC_BLOCK);
        uint32_t crc = 0;
        uint8_t *bytes;
        for (uint64_t filled = 0; filled < block;) {
            size_t n = mcs_cursor_next(source, block - filled, &bytes);
            MCS_ENSURE(n > 0);
            crc = copy(crc, payload + done + filled, bytes, n);
            filled += n;
        }
        *crcs++ = crc;
        done += block;
    }
}

mcs_status_t mcs_copy_out(const uint8_t *payload, uint64_t len, mcs_cursor_t *target, const uint32_t *crcs, bool stream)
{
    copy_fn copy = copy_of(stream);
    for (uint64_t done = 0; done < len;) {
        uint64_t block = MCS_MIN(len - done, MCS_EXTENT_CRC_BLOCK);
        uint32_t crc = 0;
        uint8_t *bytes;
        for (uint64_t filled = 0; filled < block;) {
            size_t n = mcs_cursor_next(target, block - filled, &bytes);
            MCS_ENSURE(n > 0);
            crc = copy(crc, bytes, payload + done + filled, n);
            filled += n;
        }
        if (crc != *crcs++) {
            return MCS_ERR_CHECKSUM_MISMATCH;
        }
        done += block;
    }
    return MCS_OK;
}

static void copy_plain(const uint8_t *payload, uint64_t len, mcs_cursor_t *target)
{
    uint8_t *bytes;
    for (uint64_t done = 0; done < len;) {
        size_t n = mcs_cursor_next(target, len - done, &bytes);
        MCS_ENSURE(n > 0);
        memcpy(bytes, payload + done, n);
        done += n;
    }
}

mcs_status_t mcs_copy_out_part(const uint8_t *payload, uint64_t payload_len, uint64_t from, uint64_t len,
                               mcs_cursor_t *target, const uint32_t *crcs, bool stream)
{
    uint64_t end = from + len;
    while (from < end) {
        uint64_t block = from / MCS_EXTENT_CRC_BLOCK;
        uint64_t block_end = MCS_MIN((block + 1) * MCS_EXTENT_CRC_BLOCK, payload_len);
        uint64_t n = MCS_MIN(block_end, end) - from;
        if (from % MCS_EXTENT_CRC_BLOCK == 0 && from + n == block_end) {
            mcs_status_t status = mcs_copy_out(payload + from, n, target, &crcs[block], stream);
            if (status != MCS_OK) {
                return status;
            }
        } else {
            copy_plain(payload + from, n, target);
        }
        from += n;
    }
    return MCS_OK;
}

/* ---- copy threads ---- */

typedef struct job {
    mcs_list_t node;
    void (*unit)(void *arg, size_t i);
    void *arg;
    size_t count;
    size_t next;     /* atomic: the next unit to take */
    uint32_t inside; /* guarded by the lock: helpers that work on it */
} job_t;

struct mcs_copiers {
    mcs_mutex_t lock; /* guards everything below, held for list moves only */
    mcs_cond_t work;
    mcs_cond_t left; /* a helper has left a job */
    mcs_list_t jobs;
    bool started;
    bool stop;
    mcs_thread_t threads[HELPERS_MAX];
};

mcs_status_t mcs_copiers_create(mcs_copiers_t **copiers_out)
{
    mcs_copiers_t *copiers = MCS_NEW(mcs_copiers_t);
    if (copiers == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&copiers->lock, MCS_RANK_CLIENT_COPY, "copiers");
    mcs_cond_init(&copiers->work);
    mcs_cond_init(&copiers->left);
    mcs_list_init(&copiers->jobs);
    *copiers_out = copiers;
    return MCS_OK;
}

void mcs_copiers_destroy(mcs_copiers_t *copiers)
{
    if (copiers == NULL) {
        return;
    }
    mcs_mutex_lock(&copiers->lock);
    copiers->stop = true;
    mcs_cond_broadcast(&copiers->work);
    mcs_mutex_unlock(&copiers->lock);
    for (size_t i = 0; i < HELPERS_MAX; i++) {
        mcs_thread_join(&copiers->threads[i]);
    }
    mcs_cond_fini(&copiers->left);
    mcs_cond_fini(&copiers->work);
    mcs_mutex_fini(&copiers->lock);
    mcs_free(copiers);
}

static void work_on(job_t *job)
{
    for (;;) {
        /* Relaxed: a unit's inputs are older than the job; its outputs are published by the lock on leaving. */
        size_t i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (i >= job->count) {
            break;
        }
        job->unit(job->arg, i);
    }
    mcs_stream_fence();
}

static job_t *find_work_locked(mcs_copiers_t *copiers)
{
    MCS_LIST_FOR_EACH(node, &copiers->jobs)
    {
        job_t *job = MCS_CONTAINER_OF(node, job_t, node);
        if (__atomic_load_n(&job->next, __ATOMIC_RELAXED) < job->count) {
            return job;
        }
    }
    return NULL;
}

static void helper_main(void *arg)
{
    mcs_copiers_t *copiers = arg;
    mcs_mutex_lock(&copiers->lock);
    while (!copiers->stop) {
        job_t *job = find_work_locked(copiers);
        if (job == NULL) {
            mcs_cond_wait(&copiers->work, &copiers->lock);
            continue;
        }
        job->inside++;
        mcs_mutex_unlock(&copiers->lock);
        work_on(job);
        mcs_mutex_lock(&copiers->lock);
        job->inside--;
        mcs_cond_broadcast(&copiers->left);
    }
    mcs_mutex_unlock(&copiers->lock);
}

static size_t helper_count(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < 4 ? 0 : MCS_MIN((size_t)cpus / 2 - 1, (size_t)HELPERS_MAX);
}

/* A thread that does not start is one helper less. */
static void start_helpers(mcs_copiers_t *copiers)
{
    mcs_mutex_lock(&copiers->lock);
    bool mine = !copiers->started;
    copiers->started = true;
    mcs_mutex_unlock(&copiers->lock);
    size_t count = mine ? helper_count() : 0;
    for (size_t i = 0; i < count; i++) {
        if (mcs_thread_start(&copiers->threads[i], "mcs-copy", helper_main, copiers) != MCS_OK) {
            return;
        }
    }
}

void mcs_copiers_run(mcs_copiers_t *copiers, bool parallel, void (*unit)(void *arg, size_t i), void *arg, size_t count)
{
    job_t job = {.unit = unit, .arg = arg, .count = count};
    if (!parallel || count < 2) {
        for (size_t i = 0; i < count; i++) { /* without an atomic, which would wait for streams to arrive */
            unit(arg, i);
        }
        mcs_stream_fence();
        return;
    }
    start_helpers(copiers);
    mcs_mutex_lock(&copiers->lock);
    mcs_list_push_tail(&copiers->jobs, &job.node);
    mcs_cond_broadcast(&copiers->work);
    mcs_mutex_unlock(&copiers->lock);
    work_on(&job);
    mcs_mutex_lock(&copiers->lock);
    mcs_list_remove(&job.node);
    while (job.inside > 0) {
        mcs_cond_wait(&copiers->left, &copiers->lock);
    }
    mcs_mutex_unlock(&copiers->lock);
}
