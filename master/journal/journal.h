/* The master's journal on disk (rule 12; docs/journal.md): one append-only stream for each group of the index's shards
 * and one for the segments, each a chain of files. It knows records (format.h) and files; what they mean is the
 * service's (master/svc_journal.c, svc_recover.c).
 *
 * Files are written through shared mappings: a frame that has been copied is in the kernel's page cache, so whoever
 * kills the process loses nothing that was appended, without a system call a record. Room is allocated a window at a
 * time before it is written; a full disk is met there and never as a signal. A thread makes the next window while the
 * present one fills.
 *
 * A stream's records say what a key *is* from then on, so replaying them over any later state ends in the same one.
 * A snapshot is therefore no other kind of file: a new file is begun, everything that lives is appended to it between
 * the records of that time, and with COMPLETE at its end the files before it are deleted.
 *
 * Life: open (locks the folder, checks all files) -> replay each stream -> begin (new files) -> append …,
 * snapshots -> close -> destroy. Appending is thread-safe (rank JOURNAL, a lock a stream); snapshots, close and destroy
 * belong to one thread. */
#ifndef MCS_JOURNAL_JOURNAL_H
#define MCS_JOURNAL_JOURNAL_H

#include "master/journal/format.h"

typedef struct mcs_journal mcs_journal_t;

typedef struct mcs_journal_config {
    const char *dir;        /* made if missing, 0700 */
    uint64_t max_bytes;     /* of all files; beyond it the disk counts as full; 0 = no limit */
    uint64_t compact_bytes; /* a stream that has outgrown its last snapshot by its size and this is due; 0 = default */
    bool sync; /* files made now count after a reboot: their writer calls mcs_journal_sync before answers */
    /* A record that cannot be written: true: what is in the folder is marked as incomplete and the journal goes off;
     * false: `failed` is called before the effect shows, with locks held, and is not expected to return. */
    bool go_on;
    void (*failed)(void *arg);
    void *failed_arg;
} mcs_journal_config_t;

/* What was found. */
typedef struct mcs_journal_past {
    bool empty;        /* nothing counts: a new journal */
    uint64_t epoch;    /* highest that any file names, also of what does not count; 0 = none */
    uint64_t lease_ms; /* longest lease */
    uint64_t seed;     /* for the index */
    uint32_t damaged;  /* streams that were given up */
    uint64_t took_ms;  /* what the look at it took */
    uint64_t bytes;
} mcs_journal_past_t;

/* MCS_ERR_FILE_OPEN_FAIL: folder not usable; MCS_ERR_FILE_LOCK_FAIL: another master has it; MCS_ERR_INVALID_VERSION;
 * MCS_ERR_FILE_READ_FAIL. The log says which. A journal that may miss a removal does not count: it is deleted here,
 * with a warning. */
mcs_status_t mcs_journal_open(const mcs_journal_config_t *config, mcs_journal_t **journal_out) MCS_MUST_CHECK;
const mcs_journal_past_t *mcs_journal_past(const mcs_journal_t *journal);

typedef void (*mcs_journal_record_fn)(void *arg, const uint8_t *body, uint32_t len);
/* The records of a stream in their order; they have been checked. Before begin; a thread each stream is fine. */
mcs_status_t mcs_journal_replay(mcs_journal_t *journal, uint32_t stream, mcs_journal_record_fn fn, void *arg)
    MCS_MUST_CHECK;
/* Begins a file in each stream: the epoch is on record from here on. On failure nothing of it counts. */
mcs_status_t mcs_journal_begin(mcs_journal_t *journal, uint64_t epoch, uint64_t lease_ms) MCS_MUST_CHECK;
/* Runs fn(arg, 0) … fn(arg, count - 1) on as many threads as there are CPUs. */
void mcs_journal_parallel(uint32_t count, void (*fn)(void *arg, uint32_t i), void *arg);

/* A body of 1 … MCS_JOURNAL_BODY_MAX - MCS_PACK_SLACK bytes: in an object stream one that mcs_obj_decode takes. When it
 * returns the record is the kernel's. False: the journal is off, or has just failed. */
bool mcs_journal_append(mcs_journal_t *journal, uint32_t stream, const void *body, uint32_t len);
bool mcs_journal_is_on(const mcs_journal_t *journal);
/* Waits until what was committed before is on the disk. Of a journal with `sync` only; else it returns at once. */
void mcs_journal_sync(mcs_journal_t *journal);

bool mcs_journal_wants_snapshot(const mcs_journal_t *journal, uint32_t stream);
/* A new file: what is appended from now on stays. False: not begun. */
bool mcs_journal_snapshot_begin(mcs_journal_t *journal, uint32_t stream);
/* Everything that lives has been appended since: older files go. */
void mcs_journal_snapshot_end(mcs_journal_t *journal, uint32_t stream);

typedef struct mcs_journal_stats {
    uint64_t bytes; /* allocated in files */
    uint64_t files;
    uint64_t records;      /* appended by this process */
    uint64_t record_bytes; /* of these, as they are in the files */
    uint64_t snapshots;
    uint64_t errors;    /* what could not be written */
    uint64_t waits;     /* windows that were not made ahead */
    uint64_t synced_ms; /* wall clock: when all of it was last on the disk; 0: never */
    bool on;
} mcs_journal_stats_t;
void mcs_journal_stats(mcs_journal_t *journal, mcs_journal_stats_t *stats_out);

/* Says that nothing is missing and writes all to the disk: counts after a reboot. Appends are ignored afterwards. */
void mcs_journal_close(mcs_journal_t *journal);
/* Without close it is as if the process had been killed. NULL is fine. */
void mcs_journal_destroy(mcs_journal_t *journal);

/* Makes sure that no later start takes what is in the folder for true (a master goes on without its journal). */
mcs_status_t mcs_journal_void(const char *dir) MCS_MUST_CHECK;
/* Writes for people what is in the folder and what a master would make of it. MCS_OK: all of it counts. */
mcs_status_t mcs_journal_check(const char *dir, mcs_buf_t *out) MCS_MUST_CHECK;

#endif
