/* What the journal's files share. Not for others. */
#ifndef MCS_JOURNAL_INTERNAL_H
#define MCS_JOURNAL_INTERNAL_H

#include "core/base/lock.h"
#include "core/base/thread.h"
#include "master/journal/journal.h"
#include "master/journal/pack.h"

#define JOURNAL_AREA      "journal"
#define JOURNAL_NAME_MAX  48
#define JOURNAL_FILES_MAX 4096u /* in a folder */

/* A file that was found. */
typedef struct journal_file {
    mcs_journal_header_t header;
    uint64_t size;
    uint64_t end;     /* of the last good frame */
    uint64_t records; /* of the service's */
    uint64_t by_kind[MCS_REC_KINDS];
    bool complete; /* has a whole snapshot */
    bool closed;
    char name[JOURNAL_NAME_MAX];
} journal_file_t;

/* What a stream's files amount to. */
typedef struct journal_chain {
    journal_file_t *files; /* of one stream, by number */
    uint32_t count;
    uint32_t start; /* the first that counts */
    const char *damage;
    uint64_t damage_at;
    const char *damage_file;
} journal_chain_t;

typedef struct journal_folder {
    int fd;
    journal_file_t *files; /* by stream and number */
    uint32_t count;
    journal_chain_t chains[MCS_JOURNAL_STREAMS];
    mcs_journal_past_t past;
    mcs_id_t id;
    const char *refusal; /* why nothing of it counts; NULL = it does */
} journal_folder_t;

/* folder.c */
void journal_name(char *name, uint32_t stream, uint64_t number);
/* Reads and checks; deletes nothing. `fd` stays the caller's. */
mcs_status_t journal_folder_read(int fd, journal_folder_t *folder, const char **bad_file_out) MCS_MUST_CHECK;
void journal_folder_fini(journal_folder_t *folder);
/* Frames of a file, in order; the journal's own ones, too. Stops at `end`. */
mcs_status_t journal_file_read(int folder_fd, const journal_file_t *file, mcs_journal_record_fn fn, void *arg)
    MCS_MUST_CHECK;
void journal_boot_id(char boot_id[40]);

typedef struct journal_stream {
    mcs_mutex_t lock; /* rank JOURNAL: what follows */
    int fd;           /* of the present file; -1 = none */
    uint64_t number;
    mcs_journal_header_t *header; /* its page, mapped */
    uint8_t *window;
    uint64_t base;           /* of the window in the file */
    uint8_t *next;           /* the window after it, made ahead; NULL = not yet */
    uint8_t *spent;          /* the one before it, to be unmapped */
    bool asked;              /* the thread has been told to make `next`, or could not */
    uint64_t at;             /* where the next frame goes, in the file */
    uint64_t old_bytes;      /* of the files before it */
    uint64_t snapshot_bytes; /* what the last snapshot took */
    uint64_t records;
    uint64_t record_bytes;
    uint32_t old_files;
    bool in_snapshot;
    /* atomics, for a look without the lock */
    uint64_t used; /* bytes of the chain */
    uint32_t files;
} journal_stream_t;

struct mcs_journal {
    mcs_journal_config_t config;
    char *dir;
    int dir_fd;
    int lock_fd;
    journal_folder_t folder; /* until begin */
    mcs_journal_past_t past;
    mcs_id_t id;
    uint64_t epoch;
    uint64_t lease_ms;
    char boot_id[40];
    uint32_t on;        /* atomic */
    uint64_t bytes;     /* atomic: allocated in files */
    uint64_t snapshots; /* atomic */
    uint64_t errors;    /* atomic */
    uint64_t waits;     /* atomic: windows that were not there in time */
    uint64_t synced_ms; /* atomic: wall clock */
    mcs_thread_t ahead; /* makes windows before they are needed (window.c) */
    mcs_event_t wake;
    uint32_t stop;         /* atomic */
    mcs_mutex_t sync_lock; /* rank JOURNAL_SYNC: one waits for the disk, and no file is replaced meanwhile */
    journal_stream_t streams[MCS_JOURNAL_STREAMS];
    mcs_pack_t packs[MCS_JOURNAL_GROUPS]; /* each stream's lock: of the records in its window */
};

/* write.c: the present file of a stream. */
mcs_status_t journal_stream_create(mcs_journal_t *journal, uint32_t stream, uint64_t number, uint32_t flags,
                                   journal_stream_t *made) MCS_MUST_CHECK;
void journal_stream_unmap(journal_stream_t *stream);

/* window.c: room on the disk, and pages for it. */
/* NULL: errno says why. */
uint8_t *journal_window_map(mcs_journal_t *journal, int fd, uint64_t base);
void journal_window_unmap(uint8_t *window); /* NULL is fine */
/* The thread that makes them ahead; without it each is made when it is needed. */
mcs_status_t journal_ahead_start(mcs_journal_t *journal) MCS_MUST_CHECK;
void journal_ahead_stop(mcs_journal_t *journal);
/* With the stream's lock: the next window will be wanted soon. */
void journal_ahead_ask_locked(mcs_journal_t *journal, journal_stream_t *stream);

#endif
