/* Slots: same-host access without clocks (design section 3; rules 3 and 4).
 *
 * Each mapper (one process's connection to one owner; the owner's own process has one too) has a page of slots, shared
 * with the owner. To touch an extent a mapper stores the extent's generation, which is never reused, in a free slot;
 * fences; and then checks that the access is still right: for a read the header (WRITTEN, generation, length, key), for
 * a write the owner's table of revoked generations, both also that the page and the segment are not closed. The owner,
 * to give an extent back, marks its header DEAD (and enters a never-committed generation in the revoked table), fences,
 * then scans the slots. All four operations are sequentially consistent, so one of the two always sees the other:
 * either the mapper sees DEAD/revoked and leaves, or the owner sees the slot and does not release.
 *
 * A stopped process keeps its slot; only its death (pidfd) clears the page.
 * All functions are lock-free; a slot belongs to the thread that took it until it is cleared (any thread may clear). */
#ifndef MCS_SEGMENT_SLOTS_H
#define MCS_SEGMENT_SLOTS_H

#include "core/base/status.h"

#define MCS_SLOTS_PER_PAGE  4096
#define MCS_SLOT_PAGE_MAGIC UINT32_C(0x544c534d)
typedef struct mcs_slot_page {
    uint32_t magic;
    uint32_t version;
    uint32_t closed; /* atomic; set by the owner: the session has ended, or the owner is leaving */
    uint32_t hint;   /* atomic; where to look for a free slot first */
    uint64_t epoch;  /* atomic; master epoch as the owner knows it */
    uint64_t reserved[5];
    uint64_t slot[MCS_SLOTS_PER_PAGE]; /* atomic; generation, 0 = free */
} mcs_slot_page_t;

/* Generations revoked before their commit, in memory that mappers share read-only: open addressing, 0 = empty,
 * UINT64_MAX = deleted. */
#define MCS_REVOKED_TABLE 8192
#define MCS_REVOKED_MAX   (MCS_REVOKED_TABLE / 2)
typedef struct mcs_revoked_table {
    uint64_t generation[MCS_REVOKED_TABLE];
    uint64_t live; /* the owner's own count of them */
} mcs_revoked_table_t;

void mcs_slot_page_init(mcs_slot_page_t *page);
/* Publishes `generation` and fences. The slot's index, or -1 when all are taken or the page is closed (then nothing is
 * published). */
int mcs_slot_publish(mcs_slot_page_t *page, uint64_t generation);
void mcs_slot_clear(mcs_slot_page_t *page, int index);
/* Owner side, after the mark and a fence: does any slot name the generation? */
bool mcs_slot_page_names(const mcs_slot_page_t *page, uint64_t generation);
/* Owner side: the same for many generations at once: sets bits of `named` (count bits) for those found; `sorted` is
 * ascending. */
void mcs_slot_page_scan(const mcs_slot_page_t *page, const uint64_t *sorted, uint32_t count, uint64_t *named_bits);

/* Owner side, after it has raised the epoch: calls fn for every generation of an earlier one that a slot names. */
void mcs_slot_page_older(const mcs_slot_page_t *page, uint64_t epoch, void (*fn)(void *arg, uint64_t generation),
                         void *arg);

/* Owner only (one writer). MCS_ERR_LIMIT when MCS_REVOKED_MAX are in it. */
mcs_status_t mcs_revoked_add(mcs_revoked_table_t *table, uint64_t generation);
void mcs_revoked_remove(mcs_revoked_table_t *table, uint64_t generation);
/* Any mapper. */
bool mcs_revoked_has(const mcs_revoked_table_t *table, uint64_t generation);

#endif
