/* Opening a folder, replaying it, beginning to write. See journal.h. */
#include "master/journal/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/journal/internal.h"

#define LOCK_NAME "lock"

/* The folders above it, too. */
static int make_folder(const char *dir)
{
    char path[512];
    size_t len = strlen(dir);
    if (len == 0 || len >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(path, dir, len + 1);
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p == '/') {
            *p = '\0';
            if (mkdir(path, 0700) != 0 && errno != EEXIST) {
                return -1;
            }
            *p = '/';
        }
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? -1 : 0;
}

static mcs_status_t lock_folder(mcs_journal_t *journal)
{
    bool made = !mcs_fault_hit(MCS_FAULT_SYSCALL) && make_folder(journal->dir) == 0;
    journal->dir_fd = made ? open(journal->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (journal->dir_fd >= 0 && !mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        journal->lock_fd = openat(journal->dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (journal->lock_fd < 0) {
        mcs_error(JOURNAL_AREA, "journal_dir %s is not usable: %s: %s", journal->dir, strerror(errno),
                  mcs_status_name(MCS_ERR_FILE_OPEN_FAIL));
        return MCS_ERR_FILE_OPEN_FAIL;
    }
    if (mcs_fault_hit(MCS_FAULT_SYSCALL) || flock(journal->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        mcs_error(JOURNAL_AREA, "journal_dir %s is another master's: %s: %s", journal->dir, strerror(errno),
                  mcs_status_name(MCS_ERR_FILE_LOCK_FAIL));
        return MCS_ERR_FILE_LOCK_FAIL;
    }
    return MCS_OK;
}

static void remove_file(const mcs_journal_t *journal, const char *name)
{
    if (unlinkat(journal->dir_fd, name, 0) != 0 && errno != ENOENT) {
        mcs_warn(JOURNAL_AREA, "%s/%s not deleted: %s", journal->dir, name, strerror(errno));
    }
}

static void start_anew(mcs_journal_t *journal)
{
    journal->past.empty = true;
    journal->past.seed = mcs_random_u64();
    journal->past.bytes = 0;
    journal->id = mcs_id_random();
}

/* Deletes what does not count. */
static void sort_out(mcs_journal_t *journal, const char *bad_file)
{
    journal_folder_t *folder = &journal->folder;
    journal->past = folder->past;
    journal->id = folder->id;
    if (folder->refusal != NULL) {
        mcs_warn(JOURNAL_AREA, "the journal in %s does not count, the index starts empty: %s%s%s", journal->dir,
                 folder->refusal, bad_file[0] != '\0' ? ": " : "", bad_file);
        for (uint32_t i = 0; i < folder->count; i++) {
            remove_file(journal, folder->files[i].name);
        }
        journal_folder_fini(folder);
    }
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        journal_chain_t *chain = &folder->chains[s];
        if (chain->damage != NULL) {
            mcs_warn(JOURNAL_AREA,
                     "stream %u of the journal in %s is damaged, its objects are lost: %s: %s at byte %llu", s,
                     journal->dir, chain->damage_file, chain->damage, (unsigned long long)chain->damage_at);
        }
        /* Files before the last whole snapshot are a deletion that was not finished. */
        uint32_t gone = chain->damage != NULL ? chain->count : chain->start;
        for (uint32_t i = 0; i < gone; i++) {
            journal->past.bytes -= MCS_MIN(chain->files[i].size, journal->past.bytes);
            remove_file(journal, chain->files[i].name);
        }
        if (chain->damage != NULL) {
            /* The number goes on: what is left of it by a deletion that fails is no part of the new chain. */
            journal->streams[s].number = chain->files[chain->count - 1].header.number;
            chain->count = 0;
        }
    }
    if (folder->count == 0) {
        start_anew(journal);
    }
}

mcs_status_t mcs_journal_open(const mcs_journal_config_t *config, mcs_journal_t **journal_out)
{
    mcs_journal_t *journal = MCS_NEW(mcs_journal_t);
    if (journal == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    uint64_t begun_ns = mcs_now_ns();
    journal->config = *config;
    journal->dir_fd = -1;
    journal->lock_fd = -1;
    journal->wake.fd = -1;
    mcs_mutex_init(&journal->sync_lock, MCS_RANK_JOURNAL_SYNC, "journal sync");
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        journal->streams[s].fd = -1;
        mcs_mutex_init(&journal->streams[s].lock, MCS_RANK_JOURNAL, "journal");
    }
    journal_boot_id(journal->boot_id);
    journal->dir = mcs_strdup(config->dir);
    mcs_status_t status = journal->dir != NULL ? lock_folder(journal) : MCS_ERR_NO_MEMORY;
    if (status == MCS_OK) {
        status = mcs_event_init(&journal->wake);
    }
    const char *bad_file = "";
    if (status == MCS_OK) {
        status = journal_folder_read(journal->dir_fd, &journal->folder, &bad_file);
        if (status != MCS_OK) {
            mcs_error(JOURNAL_AREA, "the journal in %s is not read: %s: %s", journal->dir, bad_file,
                      mcs_status_name(status));
        }
    }
    if (status != MCS_OK) {
        mcs_journal_destroy(journal);
        return status;
    }
    sort_out(journal, bad_file);
    journal->past.took_ms = (mcs_now_ns() - begun_ns) / MCS_NS_PER_MS;
    *journal_out = journal;
    return MCS_OK;
}

const mcs_journal_past_t *mcs_journal_past(const mcs_journal_t *journal)
{
    return &journal->past;
}

typedef struct handing {
    mcs_journal_record_fn fn;
    void *arg;
} handing_t;

static void hand_on(void *arg, const uint8_t *body, uint32_t len)
{
    const handing_t *handing = arg;
    if (body[0] < MCS_JOURNAL_COMPLETE) {
        handing->fn(handing->arg, body, len);
    }
}

mcs_status_t mcs_journal_replay(mcs_journal_t *journal, uint32_t stream, mcs_journal_record_fn fn, void *arg)
{
    const journal_chain_t *chain = &journal->folder.chains[stream];
    handing_t handing = {fn, arg};
    mcs_status_t status = MCS_OK;
    for (uint32_t i = chain->start; i < chain->count && status == MCS_OK; i++) {
        status = journal_file_read(journal->dir_fd, &chain->files[i], hand_on, &handing);
    }
    return status;
}

/* What older files have must be on the disk before a file that counts after a reboot follows them. */
static mcs_status_t sync_older(mcs_journal_t *journal)
{
    for (uint32_t i = 0; i < journal->folder.count; i++) {
        int fd = openat(journal->dir_fd, journal->folder.files[i].name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
            continue; /* one of those that were deleted */
        }
        int rc = fdatasync(fd);
        close(fd);
        if (rc != 0) {
            return MCS_ERR_FILE_WRITE_FAIL;
        }
    }
    return MCS_OK;
}

static mcs_status_t begin_stream(mcs_journal_t *journal, uint32_t s)
{
    const journal_chain_t *chain = &journal->folder.chains[s];
    journal_stream_t *stream = &journal->streams[s];
    journal_stream_t made;
    uint64_t last = stream->number;
    uint64_t bytes = 0;
    uint32_t count = chain->count - MCS_MIN(chain->start, chain->count);
    if (count > 0) {
        last = chain->files[chain->count - 1].header.number;
    }
    for (uint32_t i = chain->start; i < chain->count; i++) {
        bytes += chain->files[i].end;
    }
    mcs_status_t status = journal_stream_create(journal, s, last + 1, count == 0 ? MCS_JOURNAL_FIRST : 0, &made);
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&stream->lock);
    stream->fd = made.fd;
    stream->number = made.number;
    stream->header = made.header;
    stream->window = made.window;
    stream->at = made.at;
    stream->old_files = count;
    stream->old_bytes = bytes;
    stream->snapshot_bytes = bytes / 2; /* a guess, until there is one */
    stream->used = bytes + made.at;
    stream->files = count + 1;
    mcs_mutex_unlock(&stream->lock);
    return MCS_OK;
}

mcs_status_t mcs_journal_begin(mcs_journal_t *journal, uint64_t epoch, uint64_t lease_ms)
{
    journal->epoch = epoch;
    journal->lease_ms = MCS_MAX(lease_ms, journal->past.empty ? 0 : journal->past.lease_ms);
    journal->bytes = journal->past.bytes;
    mcs_status_t status = journal->config.sync ? sync_older(journal) : MCS_OK;
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS && status == MCS_OK; s++) {
        status = begin_stream(journal, s);
    }
    if (status == MCS_OK) {
        status = journal_ahead_start(journal);
    }
    if (status != MCS_OK) {
        return status;
    }
    journal_folder_fini(&journal->folder);
    __atomic_store_n(&journal->on, 1, __ATOMIC_RELEASE);
    return MCS_OK;
}

void mcs_journal_destroy(mcs_journal_t *journal)
{
    if (journal == NULL) {
        return;
    }
    journal_ahead_stop(journal);
    mcs_event_fini(&journal->wake);
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        journal_stream_unmap(&journal->streams[s]);
        mcs_mutex_fini(&journal->streams[s].lock);
    }
    mcs_mutex_fini(&journal->sync_lock);
    journal_folder_fini(&journal->folder);
    if (journal->lock_fd >= 0) {
        close(journal->lock_fd);
    }
    if (journal->dir_fd >= 0) {
        close(journal->dir_fd);
    }
    mcs_free(journal->dir);
    mcs_free(journal);
}
