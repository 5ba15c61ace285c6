/* The present file of each stream: made, filled, replaced, synced. See journal.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/journal/internal.h"

#define COMPACT_DEFAULT (UINT64_C(16) << 20)
#define FILES_BEFORE    8u /* of one stream: a snapshot makes one of them */

bool mcs_journal_is_on(const mcs_journal_t *journal)
{
    return __atomic_load_n(&journal->on, __ATOMIC_ACQUIRE) != 0;
}

void journal_stream_unmap(journal_stream_t *stream)
{
    journal_window_unmap(stream->window);
    journal_window_unmap(stream->next);
    journal_window_unmap(stream->spent);
    if (stream->header != NULL) {
        munmap(stream->header, MCS_JOURNAL_PAGE);
    }
    if (stream->fd >= 0) {
        close(stream->fd);
    }
    stream->window = NULL;
    stream->next = NULL;
    stream->spent = NULL;
    stream->header = NULL;
    stream->fd = -1;
}

/* ---- a new file ---- */

static void fill_header(const mcs_journal_t *journal, uint32_t stream, uint64_t number, uint32_t flags,
                        mcs_journal_header_t *header)
{
    memset(header, 0, sizeof(*header));
    memcpy(header->magic, MCS_JOURNAL_MAGIC, sizeof(header->magic));
    header->version = MCS_JOURNAL_VERSION;
    header->page = (uint32_t)MCS_JOURNAL_PAGE;
    header->stream = stream;
    header->streams = MCS_JOURNAL_STREAMS;
    header->number = number;
    header->id_hi = journal->id.hi;
    header->id_lo = journal->id.lo;
    header->seed = journal->past.seed;
    header->epoch = journal->epoch;
    header->lease_ms = journal->lease_ms;
    header->wall_ms = mcs_wall_ms();
    memcpy(header->boot_id, journal->boot_id, sizeof(header->boot_id));
    header->flags = flags | (journal->config.sync ? MCS_JOURNAL_SYNC : 0);
    mcs_journal_header_seal(header);
}

static mcs_status_t sync_fd(int fd)
{
    return !mcs_fault_hit(MCS_FAULT_SYSCALL) && fdatasync(fd) == 0 ? MCS_OK : MCS_ERR_FILE_WRITE_FAIL;
}

/* The file gets its name when its header is whole: whoever is killed in between leaves none, but for a nameless rest
 * that the next start deletes. */
mcs_status_t journal_stream_create(mcs_journal_t *journal, uint32_t stream, uint64_t number, uint32_t flags,
                                   journal_stream_t *made)
{
    char name[JOURNAL_NAME_MAX];
    char raw[JOURNAL_NAME_MAX];
    void *page = MAP_FAILED;
    memset(made, 0, sizeof(*made));
    made->number = number;
    made->at = MCS_JOURNAL_PAGE;
    journal_name(name, stream, number);
    snprintf(raw, sizeof(raw), "new-%02u.tmp", stream);
    (void)unlinkat(journal->dir_fd, raw, 0);
    made->fd = mcs_fault_hit(MCS_FAULT_SYSCALL)
                   ? -1
                   : openat(journal->dir_fd, raw, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int error = errno;
    if (made->fd < 0) {
        goto err_log;
    }
    made->window = journal_window_map(journal, made->fd, 0);
    error = errno;
    if (made->window == NULL) {
        goto err_unmap;
    }
    if (!mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        page = mmap(NULL, MCS_JOURNAL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, made->fd, 0);
    }
    error = errno;
    if (page == MAP_FAILED) {
        goto err_bytes;
    }
    made->header = page;
    fill_header(journal, stream, number, flags, made->header);
    if (journal->config.sync && sync_fd(made->fd) != MCS_OK) {
        error = errno;
        goto err_bytes;
    }
    if (mcs_fault_hit(MCS_FAULT_SYSCALL) || renameat(journal->dir_fd, raw, journal->dir_fd, name) != 0) {
        error = errno;
        goto err_bytes;
    }
    if (journal->config.sync && fsync(journal->dir_fd) != 0) {
        mcs_warn(JOURNAL_AREA, "%s: the folder was not synced: %s", journal->dir, strerror(errno));
    }
    return MCS_OK;

err_bytes:
    __atomic_fetch_sub(&journal->bytes, MCS_JOURNAL_WINDOW, __ATOMIC_RELAXED);
err_unmap:
    journal_stream_unmap(made);
    (void)unlinkat(journal->dir_fd, raw, 0);
err_log:
    mcs_error(JOURNAL_AREA, "%s/%s not made: %s: %s", journal->dir, name, strerror(error),
              mcs_status_name(MCS_ERR_FILE_WRITE_FAIL));
    return MCS_ERR_FILE_WRITE_FAIL;
}

/* ---- appending ---- */

static void fail_locked(mcs_journal_t *journal, journal_stream_t *stream, int error)
{
    if (!mcs_journal_is_on(journal)) {
        return;
    }
    __atomic_fetch_add(&journal->errors, 1, __ATOMIC_RELAXED);
    mcs_error(JOURNAL_AREA, "%s cannot take more, %s: %s: %s", journal->dir,
              error == EDQUOT ? "journal_max_mb or a quota is reached" : strerror(error),
              journal->config.go_on ? "going on without it" : "stopping", mcs_status_name(MCS_ERR_FILE_WRITE_FAIL));
    if (journal->config.go_on) {
        /* Before anybody does what is not in it; one mark is enough, and it takes no room. */
        __atomic_store_n(&stream->header->voided, 1, __ATOMIC_SEQ_CST);
    } else if (journal->config.failed != NULL) {
        journal->config.failed(journal->config.failed_arg);
    }
    __atomic_store_n(&journal->on, 0, __ATOMIC_SEQ_CST);
}

/* A window begins. */
static void begin_packing(mcs_journal_t *journal, const journal_stream_t *stream)
{
    ptrdiff_t number = stream - journal->streams;
    if (number < (ptrdiff_t)MCS_JOURNAL_GROUPS) {
        mcs_pack_reset(&journal->packs[number]);
    }
}

static bool next_window_locked(mcs_journal_t *journal, journal_stream_t *stream)
{
    uint64_t base = stream->base + MCS_JOURNAL_WINDOW;
    uint8_t *window = stream->next != NULL ? stream->next : journal_window_map(journal, stream->fd, base);
    if (window == NULL) {
        fail_locked(journal, stream, errno);
        return false;
    }
    __atomic_fetch_add(&journal->waits, stream->next == NULL, __ATOMIC_RELAXED);
    if (stream->base + MCS_JOURNAL_WINDOW - stream->at >= sizeof(uint64_t)) {
        uint64_t *word = (uint64_t *)(void *)(stream->window + (stream->at - stream->base));
        __atomic_store_n(word, MCS_JOURNAL_SKIP, __ATOMIC_RELEASE);
    }
    journal_window_unmap(stream->spent);
    stream->spent = stream->window;
    stream->window = window;
    stream->next = NULL;
    stream->asked = false;
    stream->base = base;
    stream->at = base;
    begin_packing(journal, stream);
    return true;
}

bool mcs_journal_append(mcs_journal_t *journal, uint32_t number, const void *body, uint32_t len)
{
    journal_stream_t *stream = &journal->streams[number];
    bool packed = number != MCS_JOURNAL_META && *(const uint8_t *)body < MCS_JOURNAL_COMPLETE;
    MCS_ENSURE(len > 0 && len <= MCS_JOURNAL_BODY_MAX - MCS_PACK_SLACK);
    uint64_t room = mcs_journal_frame_len(len + MCS_PACK_SLACK);
    mcs_mutex_lock(&stream->lock);
    uint64_t left = stream->base + MCS_JOURNAL_WINDOW - stream->at;
    if (!mcs_journal_is_on(journal) || (left < room && !next_window_locked(journal, stream))) {
        mcs_mutex_unlock(&stream->lock);
        return false;
    }
    /* Packed and summed up here and not in the window: a look at what was just stored in memory that is in no cache
     * waits for the memory. */
    static _Thread_local uint8_t t_packed[MCS_JOURNAL_BODY_MAX];
    uint8_t *frame = stream->window + (stream->at - stream->base);
    if (packed) {
        len = mcs_pack_object(&journal->packs[number], body, len, t_packed);
        body = t_packed;
    }
    uint64_t word = mcs_journal_word(stream->number, stream->at, body, len);
    memcpy(frame + sizeof(word), body, len);
    /* After the body: see format.h. */
    __atomic_store_n((uint64_t *)(void *)frame, word, __ATOMIC_RELEASE);
    stream->at += mcs_journal_frame_len(len);
    stream->records++;
    stream->record_bytes += mcs_journal_frame_len(len);
    __atomic_store_n(&stream->used, stream->old_bytes + stream->at, __ATOMIC_RELAXED);
    if (stream->at - stream->base > MCS_JOURNAL_WINDOW / 2 && stream->next == NULL) {
        journal_ahead_ask_locked(journal, stream);
    }
    mcs_mutex_unlock(&stream->lock);
    return true;
}

static void append_mark(mcs_journal_t *journal, uint32_t stream, uint8_t kind)
{
    (void)mcs_journal_append(journal, stream, &kind, sizeof(kind));
}

/* ---- the disk ---- */

/* With sync_lock: the file stays. */
static mcs_status_t sync_stream(journal_stream_t *stream)
{
    mcs_mutex_lock(&stream->lock);
    uint64_t upto = stream->at;
    bool needed = stream->header != NULL && __atomic_load_n(&stream->header->synced, __ATOMIC_RELAXED) < upto;
    mcs_mutex_unlock(&stream->lock);
    if (!needed) {
        return MCS_OK;
    }
    mcs_status_t status = sync_fd(stream->fd);
    if (status == MCS_OK) {
        mcs_mutex_lock(&stream->lock);
        __atomic_store_n(&stream->header->synced, upto, __ATOMIC_RELEASE);
        mcs_mutex_unlock(&stream->lock);
    }
    return status;
}

/* The first that failed, NULL = none. */
static journal_stream_t *sync_all(mcs_journal_t *journal)
{
    journal_stream_t *failed = NULL;
    mcs_mutex_lock(&journal->sync_lock);
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS && failed == NULL; s++) {
        failed = sync_stream(&journal->streams[s]) == MCS_OK ? NULL : &journal->streams[s];
    }
    mcs_mutex_unlock(&journal->sync_lock);
    if (failed == NULL) {
        __atomic_store_n(&journal->synced_ms, mcs_wall_ms(), __ATOMIC_RELAXED);
    }
    return failed;
}

static void fail(mcs_journal_t *journal, journal_stream_t *stream)
{
    int error = errno;
    mcs_mutex_lock(&stream->lock);
    fail_locked(journal, stream, error);
    mcs_mutex_unlock(&stream->lock);
}

void mcs_journal_sync(mcs_journal_t *journal)
{
    if (journal->config.sync && mcs_journal_is_on(journal)) {
        journal_stream_t *failed = sync_all(journal);
        if (failed != NULL) {
            fail(journal, failed);
        }
    }
}

/* The older files of the chains. */
static mcs_status_t sync_chain(mcs_journal_t *journal, uint32_t number)
{
    const journal_stream_t *stream = &journal->streams[number];
    mcs_status_t status = MCS_OK;
    for (uint64_t old = stream->number - stream->old_files; old < stream->number && status == MCS_OK; old++) {
        char name[JOURNAL_NAME_MAX];
        journal_name(name, number, old);
        int fd = openat(journal->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        status = fd >= 0 ? sync_fd(fd) : MCS_ERR_FILE_WRITE_FAIL;
        if (fd >= 0) {
            close(fd);
        }
    }
    return status;
}

void mcs_journal_close(mcs_journal_t *journal)
{
    if (!mcs_journal_is_on(journal)) {
        return;
    }
    /* The mark says that all before it is on the disk, so it comes last. */
    mcs_status_t status = MCS_OK;
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS && status == MCS_OK; s++) {
        status = sync_chain(journal, s);
    }
    if (status != MCS_OK || sync_all(journal) != NULL || fsync(journal->dir_fd) != 0) {
        mcs_warn(JOURNAL_AREA, "%s was not synced, it will not count after a reboot of the host: %s", journal->dir,
                 strerror(errno));
    } else {
        for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
            append_mark(journal, s, MCS_JOURNAL_CLOSED);
        }
        (void)sync_all(journal);
    }
    __atomic_store_n(&journal->on, 0, __ATOMIC_RELEASE);
}

/* ---- snapshots ---- */

bool mcs_journal_wants_snapshot(const mcs_journal_t *journal, uint32_t number)
{
    const journal_stream_t *stream = &journal->streams[number];
    uint64_t slack = journal->config.compact_bytes != 0 ? journal->config.compact_bytes : COMPACT_DEFAULT;
    uint64_t used = __atomic_load_n(&stream->used, __ATOMIC_RELAXED);
    uint64_t live = __atomic_load_n(&stream->snapshot_bytes, __ATOMIC_RELAXED);
    uint64_t most = journal->config.max_bytes;
    if (most != 0 && __atomic_load_n(&journal->bytes, __ATOMIC_RELAXED) > most / 2) {
        slack = MCS_MIN(slack, live / 4 + MCS_JOURNAL_PAGE); /* it is getting tight */
        live = 0;
    }
    return mcs_journal_is_on(journal) && (used > 3 * live + slack || stream->files > FILES_BEFORE);
}

bool mcs_journal_snapshot_begin(mcs_journal_t *journal, uint32_t number)
{
    journal_stream_t *stream = &journal->streams[number];
    journal_stream_t made;
    if (!mcs_journal_is_on(journal) || journal_stream_create(journal, number, stream->number + 1, 0, &made) != MCS_OK) {
        return false; /* the old file has room yet, or fails by itself */
    }
    mcs_mutex_lock(&journal->sync_lock);
    if (journal->config.sync && sync_stream(stream) != MCS_OK) { /* a later file must not count without this one */
        fail(journal, stream);
    }
    mcs_mutex_lock(&stream->lock);
    journal_stream_t old = {.fd = stream->fd,
                            .header = stream->header,
                            .window = stream->window,
                            .next = stream->next,
                            .spent = stream->spent};
    stream->old_bytes += stream->at;
    stream->old_files++;
    stream->fd = made.fd;
    stream->header = made.header;
    stream->window = made.window;
    stream->number = made.number;
    stream->next = NULL;
    stream->spent = NULL;
    stream->asked = false;
    stream->base = 0;
    stream->at = made.at;
    begin_packing(journal, stream);
    __atomic_store_n(&stream->files, stream->old_files + 1, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&stream->lock);
    mcs_mutex_unlock(&journal->sync_lock);
    journal_stream_unmap(&old);
    return true;
}

void mcs_journal_snapshot_end(mcs_journal_t *journal, uint32_t number)
{
    journal_stream_t *stream = &journal->streams[number];
    append_mark(journal, number, MCS_JOURNAL_COMPLETE);
    if (!mcs_journal_is_on(journal)) {
        return;
    }
    mcs_journal_sync(journal);
    mcs_mutex_lock(&stream->lock);
    uint64_t last = stream->number;
    uint64_t first = last - stream->old_files;
    stream->old_bytes = 0;
    stream->old_files = 0;
    __atomic_store_n(&stream->snapshot_bytes, stream->at, __ATOMIC_RELAXED);
    __atomic_store_n(&stream->used, stream->at, __ATOMIC_RELAXED);
    __atomic_store_n(&stream->files, 1, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&stream->lock);
    for (uint64_t old = first; old < last; old++) {
        char name[JOURNAL_NAME_MAX];
        journal_name(name, number, old);
        int fd = openat(journal->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
        if (fd >= 0) {
            close(fd);
        }
        if (unlinkat(journal->dir_fd, name, 0) == 0) {
            __atomic_fetch_sub(&journal->bytes, (uint64_t)MCS_MAX(size, (off_t)0), __ATOMIC_RELAXED);
        }
    }
    __atomic_fetch_add(&journal->snapshots, 1, __ATOMIC_RELAXED);
}

void mcs_journal_stats(mcs_journal_t *journal, mcs_journal_stats_t *stats_out)
{
    mcs_journal_stats_t stats = {
        .bytes = __atomic_load_n(&journal->bytes, __ATOMIC_RELAXED),
        .snapshots = __atomic_load_n(&journal->snapshots, __ATOMIC_RELAXED),
        .errors = __atomic_load_n(&journal->errors, __ATOMIC_RELAXED),
        .waits = __atomic_load_n(&journal->waits, __ATOMIC_RELAXED),
        .synced_ms = __atomic_load_n(&journal->synced_ms, __ATOMIC_RELAXED),
        .on = mcs_journal_is_on(journal),
    };
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        mcs_mutex_lock(&journal->streams[s].lock);
        stats.records += journal->streams[s].records;
        stats.record_bytes += journal->streams[s].record_bytes;
        stats.files += journal->streams[s].files;
        mcs_mutex_unlock(&journal->streams[s].lock);
    }
    *stats_out = stats;
}
