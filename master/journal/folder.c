/* Reading a journal's folder: which files there are, what of them is whole, what counts (docs/journal.md, "What
 * counts"). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/thread.h"
#include "master/journal/internal.h"

#define THREADS_MAX 64u

void journal_name(char *name, uint32_t stream, uint64_t number)
{
    snprintf(name, JOURNAL_NAME_MAX, "journal-%02u-%012" PRIu64 ".mcj", stream, number);
}

void journal_boot_id(char boot_id[40])
{
    memset(boot_id, 0, 40);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, boot_id, 39);
        close(fd);
        boot_id[n > 0 ? n : 0] = '\0';
        boot_id[strcspn(boot_id, "\n")] = '\0';
    }
}

/* ---- in parallel ---- */

typedef struct parallel {
    void (*fn)(void *arg, uint32_t i);
    void *arg;
    uint32_t count;
    uint32_t next; /* atomic */
} parallel_t;

static void parallel_main(void *arg)
{
    parallel_t *p = arg;
    for (uint32_t i; (i = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED)) < p->count;) {
        p->fn(p->arg, i);
    }
}

void mcs_journal_parallel(uint32_t count, void (*fn)(void *arg, uint32_t i), void *arg)
{
    parallel_t p = {.fn = fn, .arg = arg, .count = count};
    mcs_thread_t threads[THREADS_MAX];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t wanted = (uint32_t)MCS_MIN(MCS_MAX(cores, 1L), (long)MCS_MIN(count, THREADS_MAX));
    memset(threads, 0, sizeof(threads));
    for (uint32_t i = 1; i < wanted; i++) {
        if (mcs_thread_start(&threads[i], "mcs-replay", parallel_main, &p) != MCS_OK) {
            break; /* fewer do as well */
        }
    }
    parallel_main(&p);
    for (uint32_t i = 1; i < wanted; i++) {
        mcs_thread_join(&threads[i]);
    }
}

/* ---- the files ---- */

static int compare_files(const void *a, const void *b)
{
    const mcs_journal_header_t *x = &((const journal_file_t *)a)->header;
    const mcs_journal_header_t *y = &((const journal_file_t *)b)->header;
    if (x->stream != y->stream) {
        return x->stream < y->stream ? -1 : 1;
    }
    return (x->number > y->number) - (x->number < y->number);
}

static bool is_journal_name(const char *name)
{
    size_t len = strlen(name);
    return len < JOURNAL_NAME_MAX && strncmp(name, "journal-", 8) == 0 && len > 4 &&
           strcmp(name + len - 4, ".mcj") == 0;
}

static mcs_status_t read_header(int folder_fd, journal_file_t *file, const char **why_out)
{
    struct stat st;
    int fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : openat(folder_fd, file->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        *why_out = "cannot be opened";
        return MCS_ERR_FILE_READ_FAIL;
    }
    ssize_t n = pread(fd, &file->header, sizeof(file->header), 0);
    int rc = fstat(fd, &st);
    close(fd);
    if (n < 0 || rc != 0) {
        *why_out = "cannot be read";
        return MCS_ERR_FILE_READ_FAIL;
    }
    file->size = (uint64_t)st.st_size;
    if ((size_t)n < sizeof(file->header)) {
        *why_out = "shorter than its header";
        return MCS_ERR_PROTOCOL;
    }
    mcs_status_t status = mcs_journal_header_check(&file->header, why_out);
    char name[JOURNAL_NAME_MAX];
    if (status == MCS_OK) {
        journal_name(name, file->header.stream, file->header.number);
        if (strcmp(name, file->name) != 0) {
            *why_out = "its name is another file's";
            status = MCS_ERR_PROTOCOL;
        }
    }
    return status;
}

static mcs_status_t add_file(journal_folder_t *folder, const char *name, const char **why_out)
{
    if (folder->count == JOURNAL_FILES_MAX) {
        *why_out = "too many files";
        return MCS_ERR_LIMIT;
    }
    if ((folder->count & (folder->count + 1)) == 0) { /* 0, 1, 3, 7 …: full */
        size_t room = 2 * ((size_t)folder->count + 1) - 1;
        journal_file_t *files = mcs_realloc(folder->files, room * sizeof(*files));
        if (files == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        folder->files = files;
    }
    journal_file_t *file = &folder->files[folder->count];
    memset(file, 0, sizeof(*file));
    memcpy(file->name, name, strlen(name) + 1);
    mcs_status_t status = read_header(folder->fd, file, why_out);
    if (status == MCS_OK) {
        folder->past.epoch = MCS_MAX(folder->past.epoch, file->header.epoch);
        folder->past.lease_ms = MCS_MAX(folder->past.lease_ms, file->header.lease_ms);
    } else if (status == MCS_ERR_PROTOCOL && folder->refusal == NULL) {
        folder->refusal = *why_out;
    }
    if (status != MCS_OK && status != MCS_ERR_PROTOCOL) {
        return status;
    }
    folder->count++; /* also a bad one: it is to be deleted */
    return MCS_OK;
}

static mcs_status_t list_files(journal_folder_t *folder, const char **bad_file_out)
{
    static _Thread_local char t_bad[JOURNAL_NAME_MAX + 64];
    int fd = fcntl(folder->fd, F_DUPFD_CLOEXEC, 0);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        *bad_file_out = "the folder";
        return MCS_ERR_FILE_READ_FAIL;
    }
    mcs_status_t status = MCS_OK;
    rewinddir(dir);
    for (struct dirent *entry; status == MCS_OK && (entry = readdir(dir)) != NULL;) {
        const char *why = "";
        if (is_journal_name(entry->d_name)) {
            bool first = folder->refusal == NULL;
            status = add_file(folder, entry->d_name, &why);
            if (status != MCS_OK || (first && folder->refusal != NULL)) {
                snprintf(t_bad, sizeof(t_bad), "%.47s: %.60s", entry->d_name, why);
                *bad_file_out = t_bad;
            }
        }
    }
    closedir(dir);
    return status;
}

/* ---- frames ---- */

typedef struct reading {
    mcs_journal_record_fn fn;
    void *arg;
    uint64_t end;        /* where to stop; UINT64_MAX: at the file's end */
    uint64_t stopped_at; /* out */
    bool bad;            /* out: stopped at what is no frame */
    bool strange;        /* out: stopped at a frame that is no record */
    bool packed;
    mcs_pack_t pack;
    uint8_t body[MCS_JOURNAL_BODY_MAX];
} reading_t;

/* On the heap: it is large. */
static reading_t *reading_create(const journal_file_t *file, mcs_journal_record_fn fn, void *arg, uint64_t end)
{
    reading_t *reading = MCS_NEW(reading_t);
    if (reading != NULL) {
        reading->fn = fn;
        reading->arg = arg;
        reading->end = end;
        reading->packed = file->header.version > 1 && file->header.stream != MCS_JOURNAL_META;
    }
    return reading;
}

/* False: it is no record. */
static bool hand_body(reading_t *reading, const uint8_t *body, uint32_t len)
{
    if (reading->packed && body[0] < MCS_JOURNAL_COMPLETE) {
        uint32_t packed_len = len;
        if (mcs_unpack_object(&reading->pack, body, packed_len, reading->body, &len) != MCS_OK) {
            reading->strange = true;
            return false;
        }
        body = reading->body;
    }
    reading->fn(reading->arg, body, len);
    return true;
}

/* One window. True: go on with the next. */
static bool read_window(const uint8_t *bytes, uint64_t len, uint64_t number, uint64_t base, reading_t *reading)
{
    uint64_t at = base == 0 ? MCS_JOURNAL_PAGE : 0;
    mcs_pack_reset(&reading->pack);
    for (;;) {
        const uint8_t *body = NULL;
        uint32_t body_len = 0;
        reading->stopped_at = base + at;
        if (base + at >= reading->end) {
            return false;
        }
        switch (mcs_journal_next(bytes, len, number, base, at, &body, &body_len)) {
        case MCS_JOURNAL_FRAME:
            if (!hand_body(reading, body, body_len)) {
                return false;
            }
            at += mcs_journal_frame_len(body_len);
            break;
        case MCS_JOURNAL_WINDOW_END: reading->stopped_at = base + MCS_JOURNAL_WINDOW; return true;
        case MCS_JOURNAL_END: return false;
        case MCS_JOURNAL_BAD:
        default: reading->bad = true; return false;
        }
    }
}

static mcs_status_t read_frames(int folder_fd, const journal_file_t *file, reading_t *reading)
{
    uint8_t *window = mcs_malloc(MCS_JOURNAL_WINDOW);
    if (window == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = MCS_OK;
    int fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : openat(folder_fd, file->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        status = MCS_ERR_FILE_READ_FAIL;
        goto out;
    }
    reading->stopped_at = MCS_JOURNAL_PAGE;
    for (uint64_t base = 0; base < file->size; base += MCS_JOURNAL_WINDOW) {
        uint64_t len = 0;
        while (len < MCS_JOURNAL_WINDOW) {
            ssize_t n = mcs_fault_hit(MCS_FAULT_SYSCALL)
                            ? -1
                            : pread(fd, window + len, MCS_JOURNAL_WINDOW - len, (off_t)(base + len));
            if (n < 0 && errno != EINTR) {
                status = MCS_ERR_FILE_READ_FAIL;
                goto out_close;
            }
            if (n == 0) {
                break;
            }
            len += n > 0 ? (uint64_t)n : 0;
        }
        if (!read_window(window, len, file->header.number, base, reading)) {
            break;
        }
    }
out_close:
    close(fd);
out:
    mcs_free(window);
    return status;
}

mcs_status_t journal_file_read(int folder_fd, const journal_file_t *file, mcs_journal_record_fn fn, void *arg)
{
    reading_t *reading = reading_create(file, fn, arg, file->end);
    if (reading == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = read_frames(folder_fd, file, reading);
    status = status == MCS_OK && (reading->bad || reading->strange) ? MCS_ERR_FILE_READ_FAIL : status;
    mcs_free(reading);
    return status;
}

/* ---- checking a stream ---- */

typedef struct checking {
    journal_file_t *file;
    bool meta;
    bool strange; /* a body that is none */
} checking_t;

static void check_body(void *arg, const uint8_t *body, uint32_t len)
{
    checking_t *checking = arg;
    journal_file_t *file = checking->file;
    mcs_obj_t obj;
    file->closed = body[0] == MCS_JOURNAL_CLOSED;
    if (body[0] >= MCS_JOURNAL_COMPLETE) {
        checking->strange = checking->strange || len != 1 || body[0] > MCS_JOURNAL_CLOSED;
        file->complete = file->complete || body[0] == MCS_JOURNAL_COMPLETE;
        return;
    }
    bool record = checking->meta ? mcs_meta_is_record(body, len) : mcs_obj_decode(body, len, &obj) == MCS_OK;
    if (!record) {
        checking->strange = true;
        return;
    }
    file->records++;
    file->by_kind[body[0] % MCS_ARRAY_LEN(file->by_kind)]++;
}

static void damage(journal_chain_t *chain, const char *what, const journal_file_t *file, uint64_t at)
{
    if (chain->damage == NULL) {
        chain->damage = what;
        chain->damage_file = file->name;
        chain->damage_at = at;
    }
}

/* `last`: of its stream. `other_boot`: written before the host was booted. */
static mcs_status_t check_file(int folder_fd, journal_chain_t *chain, journal_file_t *file, bool last, bool other_boot)
{
    checking_t checking = {.file = file, .meta = file->header.stream == MCS_JOURNAL_META};
    reading_t *reading = reading_create(file, check_body, &checking, UINT64_MAX);
    if (reading == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = read_frames(folder_fd, file, reading);
    bool bad = reading->bad;
    bool strange = reading->strange;
    file->end = reading->stopped_at;
    mcs_free(reading);
    if (status != MCS_OK) {
        return status;
    }
    bool whole = file->size > 0 && file->size % MCS_JOURNAL_WINDOW == 0;
    /* What was not synced when the host went down may be there in part. */
    bool may_be_torn = last && other_boot && (file->header.flags & MCS_JOURNAL_SYNC) != 0 && !file->closed;
    if (may_be_torn) {
        if (file->end < file->header.synced) {
            damage(chain, "bad frame in what was on the disk", file, file->end);
        }
    } else if (bad) {
        damage(chain, "bad frame", file, file->end);
    } else if (!whole) {
        damage(chain, "not as long as it was made", file, file->size);
    }
    if (checking.strange || strange) {
        damage(chain, "a frame that is no record", file, file->end);
    }
    return MCS_OK;
}

typedef struct checker {
    journal_folder_t *folder;
    char boot_id[40];
    mcs_status_t status; /* atomic */
} checker_t;

static void check_chain(void *arg, uint32_t stream)
{
    checker_t *checker = arg;
    journal_folder_t *folder = checker->folder;
    journal_chain_t *chain = &folder->chains[stream];
    for (uint32_t i = 0; i < chain->count; i++) {
        journal_file_t *file = &chain->files[i];
        bool other_boot = strcmp(file->header.boot_id, checker->boot_id) != 0;
        mcs_status_t status = check_file(folder->fd, chain, file, i + 1 == chain->count, other_boot);
        if (status != MCS_OK) {
            __atomic_store_n(&checker->status, status, __ATOMIC_RELAXED);
            return;
        }
    }
    /* From the last whole snapshot, or the first file of all. */
    bool found = false;
    for (uint32_t i = chain->count; i > 0 && !found; i--) {
        const journal_file_t *file = &chain->files[i - 1];
        if (i < chain->count && chain->files[i].header.number != file->header.number + 1) {
            damage(chain, "the file after it is missing", file, 0);
            break;
        }
        chain->start = i - 1;
        found = file->complete || (file->header.flags & MCS_JOURNAL_FIRST) != 0;
    }
    if (chain->count > 0 && !found) {
        damage(chain, "the files before it are missing", &chain->files[chain->start], 0);
    }
}

/* ---- what counts ---- */

static bool counts_after_boot(const journal_chain_t *chain, const char *boot_id)
{
    const journal_file_t *last = &chain->files[chain->count - 1];
    return strcmp(last->header.boot_id, boot_id) == 0 || last->closed || (last->header.flags & MCS_JOURNAL_SYNC) != 0;
}

/* Why nothing counts, NULL = it does. */
static const char *judge(journal_folder_t *folder, const char *boot_id)
{
    for (uint32_t i = 0; i < folder->count; i++) {
        const mcs_journal_header_t *header = &folder->files[i].header;
        if (header->voided != 0) {
            return "it misses records: its master went on without it";
        }
        if (header->id_hi != folder->id.hi || header->id_lo != folder->id.lo || header->seed != folder->past.seed) {
            return "its files are of several journals";
        }
    }
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        const journal_chain_t *chain = &folder->chains[s];
        if (chain->count == 0) {
            return "a stream has no file";
        }
        if (!counts_after_boot(chain, boot_id)) {
            return "the host was booted since, and it was not synced: it may miss removals";
        }
        folder->past.damaged += chain->damage != NULL;
    }
    if (folder->chains[MCS_JOURNAL_META].damage != NULL) {
        return "the stream of segments is damaged";
    }
    return NULL;
}

static void split_chains(journal_folder_t *folder)
{
    qsort(folder->files, folder->count, sizeof(*folder->files), compare_files);
    for (uint32_t i = 0; i < folder->count; i++) {
        const mcs_journal_header_t *header = &folder->files[i].header;
        journal_chain_t *chain = &folder->chains[header->stream];
        chain->files = chain->count == 0 ? &folder->files[i] : chain->files;
        chain->count++;
        folder->past.bytes += folder->files[i].size;
        folder->past.seed = header->seed;
        folder->id = (mcs_id_t){header->id_hi, header->id_lo};
    }
}

mcs_status_t journal_folder_read(int fd, journal_folder_t *folder, const char **bad_file_out)
{
    memset(folder, 0, sizeof(*folder));
    folder->fd = fd;
    *bad_file_out = "";
    mcs_status_t status = list_files(folder, bad_file_out);
    if (status != MCS_OK || folder->refusal != NULL) {
        return status; /* a file that is none of ours: the others are not looked at */
    }
    folder->past.empty = folder->count == 0;
    if (folder->count == 0) {
        return MCS_OK;
    }
    checker_t checker = {.folder = folder};
    journal_boot_id(checker.boot_id);
    split_chains(folder);
    mcs_journal_parallel(MCS_JOURNAL_STREAMS, check_chain, &checker);
    if (checker.status != MCS_OK) {
        *bad_file_out = "a file that cannot be read";
        return checker.status;
    }
    folder->refusal = judge(folder, checker.boot_id);
    return MCS_OK;
}

void journal_folder_fini(journal_folder_t *folder)
{
    mcs_free(folder->files);
    folder->files = NULL;
    folder->count = 0;
    memset(folder->chains, 0, sizeof(folder->chains));
}
