/* The journal's files (docs/journal.md): layout and checks. Pure functions; what they look at is treated as hostile.
 *
 *   file     journal-SS-NNNNNNNNNNNN.mcj: stream, number. [page of the header] [frames …] in windows of 1 MiB; a frame
 *            never crosses the end of a window
 *   frame    8-byte word {u32 length of the body, u32 CRC32C of the body}, body, padding to 8
 *   word 0   the end: what follows was never written. Length 0xffffffff: the rest of the window is empty
 *
 * The word is stored after the body, in one instruction: whoever is killed in between leaves a word of 0, so the tail
 * that kill -9 tears is cut without a guess, and a frame whose CRC is wrong has been damaged later. The CRC begins with
 * the file's number and the frame's place: a frame is good in its own place only. */
#ifndef MCS_JOURNAL_FORMAT_H
#define MCS_JOURNAL_FORMAT_H

#include "core/base/buf.h"
#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/wire/columns.h"

/* Of files that are made; older ones are read, too: of version 1 are files whose bodies are not packed (pack.h). */
#define MCS_JOURNAL_VERSION       2
#define MCS_JOURNAL_VERSION_FIRST 1
#define MCS_JOURNAL_MAGIC         "MCSJRNL"
#define MCS_JOURNAL_PAGE          UINT64_C(4096)
#define MCS_JOURNAL_WINDOW        (UINT64_C(1) << 20)
/* Object streams, by shard; the last one has the segments. */
#define MCS_JOURNAL_GROUPS  16u
#define MCS_JOURNAL_META    MCS_JOURNAL_GROUPS
#define MCS_JOURNAL_STREAMS (MCS_JOURNAL_GROUPS + 1)
/* The longest body. */
#define MCS_JOURNAL_BODY_MAX 32768u

typedef struct mcs_journal_header {
    char magic[8];
    uint32_t version;
    uint32_t page;
    uint32_t stream;
    uint32_t streams;
    uint64_t number; /* files of a stream count up by one */
    uint64_t id_hi;  /* of the journal: the same in all its files */
    uint64_t id_lo;
    uint64_t seed;     /* of the index: says which key is in which stream */
    uint64_t epoch;    /* of the master that wrote the file */
    uint64_t lease_ms; /* the longest lease that it granted */
    uint64_t wall_ms;  /* when it was made, for people */
    char boot_id[40];
    uint32_t flags; /* MCS_JOURNAL_SYNC, MCS_JOURNAL_FIRST */
    uint32_t crc;   /* of all before it */
    /* Changed in place, without a checksum. */
    uint64_t synced; /* bytes of the file that are on the disk */
    uint32_t voided; /* not 0: records are missing, the journal is not to be used */
    uint32_t reserved;
} mcs_journal_header_t;
_Static_assert(sizeof(mcs_journal_header_t) == 144, "file ABI");

#define MCS_JOURNAL_SYNC  1u /* an answer waits for the disk (journal_sync) */
#define MCS_JOURNAL_FIRST 2u /* nothing before this file counts */

/* First byte of a body. Those of 0xf0 and above are the journal's own. */
enum { MCS_JOURNAL_COMPLETE = 0xf0, MCS_JOURNAL_CLOSED = 0xf1 };

void mcs_journal_header_seal(mcs_journal_header_t *header);
/* MCS_ERR_INVALID_VERSION, or MCS_ERR_PROTOCOL with why in `text`. */
mcs_status_t mcs_journal_header_check(const mcs_journal_header_t *header, const char **text_out) MCS_MUST_CHECK;

#define MCS_JOURNAL_SKIP UINT64_C(0x50494b53ffffffff)
uint64_t mcs_journal_word(uint64_t number, uint64_t at, const void *body, uint32_t len);
static inline uint64_t mcs_journal_frame_len(uint64_t body_len)
{
    return MCS_ALIGN_UP(body_len, UINT64_C(8)) + 8;
}

typedef enum mcs_journal_step {
    MCS_JOURNAL_FRAME,
    MCS_JOURNAL_WINDOW_END,
    MCS_JOURNAL_END,
    MCS_JOURNAL_BAD
} mcs_journal_step_t;
/* What is at `at` of the window whose first byte is byte `base` of file `number`; `len` bytes of it are there. FRAME:
 * the body. */
mcs_journal_step_t mcs_journal_next(const uint8_t *window, uint64_t len, uint64_t number, uint64_t base, uint64_t at,
                                    const uint8_t **body_out, uint32_t *len_out);

/* ---- bodies ---- */

typedef enum mcs_record_kind {
    MCS_REC_PUT = 1,        /* the key has this value */
    MCS_REC_DEL = 2,        /* it has none */
    MCS_REC_STRIKE_PUT = 3, /* it is about to get this value: the old one is being made unreadable */
    MCS_REC_STRIKE_DEL = 4, /* about to have none */
    MCS_REC_SEGMENT = 5,
    MCS_REC_UNMOUNT = 6,
    MCS_REC_TASK = 7, /* a copy or move task is in this state */
    MCS_REC_JOB = 8   /* a drain job is */
} mcs_record_kind_t;
#define MCS_REC_KINDS 9u

enum { MCS_OBJ_HARD = 1, MCS_OBJ_SOFT = 2 };

#define MCS_OBJ_REPLICAS_MAX 16u
typedef struct mcs_obj_replica {
    uint64_t generation;
    uint64_t place; /* segment handle << 40 | offset / 64 */
} mcs_obj_replica_t;

/* PUT, DEL and the strikes. Fixed part of a body; followed by replicas, group, key. In files they are packed (pack.h).
 */
typedef struct mcs_obj_head {
    uint8_t kind;
    uint8_t flags;
    uint8_t data_type;
    uint8_t replica_count; /* 0 in those without a value */
    uint16_t key_len;
    uint16_t group_len;
    uint64_t payload_len;
    uint64_t soft_wall_ms; /* end of the soft pin */
} mcs_obj_head_t;
_Static_assert(sizeof(mcs_obj_head_t) == 24, "file ABI");

typedef struct mcs_obj {
    mcs_obj_head_t head;
    const uint8_t *replicas; /* mcs_obj_replica_t each, unaligned */
    const char *group;
    const char *key;
} mcs_obj_t;

enum { MCS_SEG_DRAINED = 1 };

typedef struct mcs_seg_head {
    uint8_t kind;
    uint8_t flags;
    uint16_t device; /* 0: in host memory; else in that of a device, one more than its number */
    uint32_t handle;
    mcs_id_t instance;
    mcs_id_t client;
    mcs_id_t session;
    uint64_t size;
    uint64_t base;
    uint32_t pid;
    uint16_t lens[6]; /* of the texts that follow: mcs_seg_text */
} mcs_seg_head_t;
_Static_assert(sizeof(mcs_seg_head_t) == 88, "file ABI");

enum mcs_seg_text { MCS_SEG_NAME, MCS_SEG_PROTOCOL, MCS_SEG_ENDPOINT, MCS_SEG_HOST, MCS_SEG_WIRE, MCS_SEG_BOOT };
#define MCS_SEG_TEXT_MAX 299u

/* SEGMENT has all, UNMOUNT the handle alone. */
typedef struct mcs_seg {
    mcs_seg_head_t head;
    const char *texts[6]; /* not terminated */
} mcs_seg_t;

/* TASK: followed by hashes of the targets' names (u64 each), then the key. */
typedef struct mcs_task_head {
    uint8_t kind;
    uint8_t type;  /* 0 copy, 1 move */
    uint8_t state; /* 0 pending, 1 processing, 2 success, 3 failed */
    uint8_t target_count;
    int32_t last; /* status of the last failure */
    mcs_id_t id;
    mcs_id_t client;
    uint64_t created_ms;
    uint64_t updated_ms;
    uint64_t source; /* hash of the segment's name; 0 = any */
    uint32_t attempts;
    uint32_t key_len;
} mcs_task_head_t;
_Static_assert(sizeof(mcs_task_head_t) == 72, "file ABI");

typedef struct mcs_task {
    mcs_task_head_t head;
    const uint8_t *targets; /* unaligned */
    const char *key;
} mcs_task_t;

#define MCS_JOB_SEGMENTS_MAX 64u
#define MCS_JOB_TARGETS_MAX  128u
#define MCS_JOB_MESSAGE_MAX  127u
/* JOB: followed by hashes of the targets' names (u64 each), the sources' names, each with its end, and the message. */
typedef struct mcs_job_head {
    uint8_t kind;
    uint8_t status; /* 0 created, 1 planning, 2 running, 3 succeeded, 4 failed, 5 canceled */
    uint16_t source_count;
    uint16_t target_count;
    uint16_t message_len;
    uint32_t names_len;
    uint32_t max_concurrency;
    mcs_id_t id;
    uint64_t created_ms;
    uint64_t updated_ms;
    uint64_t succeeded;
    uint64_t failed;
    uint64_t bytes;
} mcs_job_head_t;
_Static_assert(sizeof(mcs_job_head_t) == 72, "file ABI");

typedef struct mcs_job {
    mcs_job_head_t head;
    const uint8_t *targets; /* unaligned */
    const char *names;
    const char *message; /* not terminated */
} mcs_job_t;

/* MCS_ERR_PROTOCOL: not such a body. Pointers go into it. */
mcs_status_t mcs_obj_decode(const uint8_t *body, uint32_t len, mcs_obj_t *obj_out) MCS_MUST_CHECK;
mcs_status_t mcs_seg_decode(const uint8_t *body, uint32_t len, mcs_seg_t *seg_out) MCS_MUST_CHECK;
mcs_status_t mcs_task_decode(const uint8_t *body, uint32_t len, mcs_task_t *task_out) MCS_MUST_CHECK;
mcs_status_t mcs_job_decode(const uint8_t *body, uint32_t len, mcs_job_t *job_out) MCS_MUST_CHECK;
/* Is it one of those that the stream of segments has? */
bool mcs_meta_is_record(const uint8_t *body, uint32_t len);
static inline uint32_t mcs_obj_len(const mcs_obj_head_t *head)
{
    return (uint32_t)(sizeof(*head) + head->replica_count * sizeof(mcs_obj_replica_t) + head->group_len +
                      head->key_len);
}

#endif
