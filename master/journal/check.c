/* For people: what is in a journal's folder (mooncake_master --check-journal), and taking it out of use. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "master/journal/internal.h"

static void write_file(const journal_file_t *file, mcs_buf_t *out)
{
    const mcs_journal_header_t *header = &file->header;
    time_t made = (time_t)(header->wall_ms / 1000);
    struct tm tm;
    char when[32] = "?";
    if (gmtime_r(&made, &tm) != NULL) {
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
    }
    mcs_buf_printf(
        out, "  %s: format %u, epoch %" PRIu64 ", made %s UTC, %" PRIu64 " records in %" PRIu64 " of %" PRIu64 " bytes",
        file->name, header->version, header->epoch, when, file->records, file->end, file->size);
    if (header->stream == MCS_JOURNAL_META) {
        mcs_buf_printf(out,
                       " (%" PRIu64 " segments, %" PRIu64 " unmounted, %" PRIu64 " states of tasks, %" PRIu64
                       " of drain jobs)",
                       file->by_kind[MCS_REC_SEGMENT], file->by_kind[MCS_REC_UNMOUNT], file->by_kind[MCS_REC_TASK],
                       file->by_kind[MCS_REC_JOB]);
    } else {
        mcs_buf_printf(out, " (%" PRIu64 " values, %" PRIu64 " removed, %" PRIu64 " strikes)",
                       file->by_kind[MCS_REC_PUT], file->by_kind[MCS_REC_DEL],
                       file->by_kind[MCS_REC_STRIKE_PUT] + file->by_kind[MCS_REC_STRIKE_DEL]);
    }
    mcs_buf_printf(out, "%s%s%s%s%s\n", (header->flags & MCS_JOURNAL_FIRST) != 0 ? ", first" : "",
                   file->complete ? ", snapshot" : "", file->closed ? ", closed" : "",
                   (header->flags & MCS_JOURNAL_SYNC) != 0 ? ", synced" : "", header->voided != 0 ? ", VOID" : "");
}

static void write_folder(const journal_folder_t *folder, mcs_buf_t *out)
{
    mcs_buf_printf(out, "journal %016" PRIx64 "%016" PRIx64 ", %u files, %" PRIu64 " bytes, epoch %" PRIu64 "\n",
                   folder->id.hi, folder->id.lo, folder->count, folder->past.bytes, folder->past.epoch);
    for (uint32_t s = 0; s < MCS_JOURNAL_STREAMS; s++) {
        const journal_chain_t *chain = &folder->chains[s];
        mcs_buf_printf(out, "stream %u%s: %s", s, s == MCS_JOURNAL_META ? " (segments)" : "",
                       chain->damage != NULL ? "DAMAGED" : "whole");
        if (chain->damage != NULL) {
            mcs_buf_printf(out, ": %s: %s at byte %" PRIu64, chain->damage_file, chain->damage, chain->damage_at);
        }
        mcs_buf_printf(out, "\n");
        for (uint32_t i = 0; i < chain->count; i++) {
            write_file(&chain->files[i], out);
        }
    }
}

mcs_status_t mcs_journal_check(const char *dir, mcs_buf_t *out)
{
    journal_folder_t folder;
    const char *bad_file = "";
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        mcs_buf_printf(out, "%s: %s\n", dir, strerror(errno));
        return MCS_ERR_FILE_OPEN_FAIL;
    }
    mcs_status_t status = journal_folder_read(fd, &folder, &bad_file);
    if (status != MCS_OK) {
        mcs_buf_printf(out, "not readable: %s: %s\n", bad_file, mcs_status_name(status));
        mcs_buf_printf(out,
                       status == MCS_ERR_INVALID_VERSION
                           ? "verdict: a master of this version does not start on it (it knows formats up to %d); move "
                             "it away, or use the version that wrote it\n"
                           : "verdict: a master does not start on it\n",
                       MCS_JOURNAL_VERSION);
    } else if (folder.count == 0) {
        mcs_buf_printf(out, "no journal in %s\nverdict: a master starts with an empty index\n", dir);
    } else if (bad_file[0] != '\0') {
        mcs_buf_printf(out, "%s\nverdict: does not count: a master deletes it and starts with an empty index\n",
                       bad_file);
        status = MCS_ERR_CHECKSUM_MISMATCH;
    } else {
        write_folder(&folder, out);
        if (folder.refusal != NULL) {
            mcs_buf_printf(out, "verdict: does not count (%s): a master deletes it and starts with an empty index\n",
                           folder.refusal);
            status = MCS_ERR_CHECKSUM_MISMATCH;
        } else if (folder.past.damaged > 0) {
            mcs_buf_printf(out,
                           "verdict: %u of %u streams are damaged: a master loses their objects and keeps the others\n",
                           folder.past.damaged, MCS_JOURNAL_STREAMS);
            status = MCS_ERR_CHECKSUM_MISMATCH;
        } else {
            mcs_buf_printf(out, "verdict: good\n");
        }
    }
    journal_folder_fini(&folder);
    close(fd);
    return status;
}

mcs_status_t mcs_journal_void(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? MCS_OK : MCS_ERR_FILE_OPEN_FAIL;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    DIR *list = copy >= 0 ? fdopendir(copy) : NULL;
    mcs_status_t status = list != NULL ? MCS_OK : MCS_ERR_FILE_READ_FAIL;
    for (struct dirent *entry; list != NULL && (entry = readdir(list)) != NULL;) {
        if (strncmp(entry->d_name, "journal-", 8) == 0 && unlinkat(fd, entry->d_name, 0) != 0) {
            status = MCS_ERR_FILE_WRITE_FAIL;
        }
    }
    if (list != NULL) {
        closedir(list);
    } else if (copy >= 0) {
        close(copy);
    }
    close(fd);
    return status;
}
