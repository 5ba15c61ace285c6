/* A folder for a journal, and files in it that are read, changed and written back. Header only. */
#ifndef MCS_TESTS_JOURNAL_FOLDER_H
#define MCS_TESTS_JOURNAL_FOLDER_H

#include "tests/support/unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "master/journal/journal.h"

/* The same numbers in every run. */
MCS_UNUSED static uint32_t g_dice_state;
MCS_UNUSED static uint32_t dice(uint32_t sides)
{
    g_dice_state = g_dice_state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(g_dice_state >> 4) * sides) >> 28);
}

typedef struct folder {
    char path[64];
} folder_t;

MCS_UNUSED static void folder_make(folder_t *folder)
{
    /* Memory where there is a file system of it: a start makes seventeen files. */
    snprintf(folder->path, sizeof(folder->path), "%s/mcs-journal-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(folder->path));
}

MCS_UNUSED static void folder_clear(const folder_t *folder)
{
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] != '.') {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    closedir(dir);
}

MCS_UNUSED static void folder_drop(const folder_t *folder)
{
    folder_clear(folder);
    rmdir(folder->path);
}

MCS_UNUSED static uint32_t folder_count(const folder_t *folder)
{
    uint32_t count = 0;
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += strncmp(entry->d_name, "journal-", 8) == 0;
    }
    closedir(dir);
    return count;
}

MCS_UNUSED static void folder_name(const folder_t *folder, uint32_t stream, uint64_t number, char *path, size_t size)
{
    snprintf(path, size, "%s/journal-%02u-%012llu.mcj", folder->path, stream, (unsigned long long)number);
}

/* Bytes [at, at + len) of a file. */
MCS_UNUSED static void folder_read(const folder_t *folder, uint32_t stream, uint64_t number, uint64_t at, void *bytes,
                                   size_t len)
{
    char path[128];
    folder_name(folder, stream, number, path, sizeof(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, bytes, len, (off_t)at), (ssize_t)len);
    close(fd);
}

MCS_UNUSED static void folder_write(const folder_t *folder, uint32_t stream, uint64_t number, uint64_t at,
                                    const void *bytes, size_t len)
{
    char path[128];
    folder_name(folder, stream, number, path, sizeof(path));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)at), (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)MCS_JOURNAL_WINDOW), 0);
    close(fd);
}

/* All files as if the host had been booted since. */
MCS_UNUSED static void folder_reboot(const folder_t *folder)
{
    for (uint32_t stream = 0; stream < MCS_JOURNAL_STREAMS; stream++) {
        for (uint64_t number = 1; number < 20; number++) {
            char path[128];
            mcs_journal_header_t header;
            folder_name(folder, stream, number, path, sizeof(path));
            int fd = open(path, O_RDWR | O_CLOEXEC);
            if (fd < 0) {
                continue;
            }
            assert_int_equal(pread(fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
            snprintf(header.boot_id, sizeof(header.boot_id), "another");
            mcs_journal_header_seal(&header);
            assert_int_equal(pwrite(fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
            close(fd);
        }
    }
}

#endif
