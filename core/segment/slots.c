/* See slots.h.
 *
 * Why one of the two always sees the other. Sequentially consistent operations have one order for everybody. A reader
 * does S(slot = g)   L(header state) and the owner S(header state = DEAD)   L(slot) If the reader's load comes before
 * the owner's store, then the reader's store does too, and the owner's load, which comes later still, sees the slot.
 * Otherwise the reader sees DEAD. For a writer "header state" is the table of revoked generations: L(table), S(table +=
 * g).
 *
 * Closing a page is the same with `closed` in the place of the header: when the owner has set it and then met only
 * empty slots, no later publication can succeed, because each looks at `closed` after its store.
 *
 * The epoch of the page is a third such mark, for all reservations of earlier masters at once: an owner raises it, then
 * scans, and only then forgets which of their generations were revoked.
 *
 * Order of a writer's checks: slot, revoked table, closed, epoch. An owner that ends a session closes its pages
 * *before* it drops the session's generations from the table: a writer that no longer meets its generation there meets
 * the closed page afterwards. The other way round it could miss both.
 *
 * Cost: a publish is one locked compare-and-swap and two loads; a clear is one plain store. Where a thread looks for a
 * free slot is remembered in the thread, per page, so threads do not meet in a cache line: each begins 64 slots (8
 * lines) further than the one before. */
#include "core/segment/slots.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/wire/extent.h"

#define HINTS       8
#define HINT_STRIDE 64

_Static_assert(MCS_SLOTS_PER_PAGE % HINT_STRIDE == 0, "hints wrap around");
_Static_assert((MCS_SLOTS_PER_PAGE & (MCS_SLOTS_PER_PAGE - 1)) == 0, "hints wrap around");
_Static_assert((MCS_REVOKED_TABLE & (MCS_REVOKED_TABLE - 1)) == 0, "probing wraps around");
_Static_assert(offsetof(mcs_slot_page_t, slot) == MCS_CACHE_LINE, "memory ABI");

/* Only a place to begin: a stale one (another page now lives at the address) costs a longer search and nothing else. */
typedef struct hint {
    const mcs_slot_page_t *page;
    uint32_t next;
} hint_t;
static _Thread_local hint_t t_hints[HINTS];

static hint_t *hint_of(mcs_slot_page_t *page)
{
    hint_t *hint = &t_hints[((uintptr_t)page >> 12) % HINTS];
    if (MCS_UNLIKELY(hint->page != page)) {
        hint->page = page;
        hint->next = __atomic_fetch_add(&page->hint, HINT_STRIDE, __ATOMIC_RELAXED) % MCS_SLOTS_PER_PAGE;
    }
    return hint;
}

void mcs_slot_page_init(mcs_slot_page_t *page)
{
    memset(page, 0, sizeof(*page));
    page->magic = MCS_SLOT_PAGE_MAGIC;
    page->version = 1;
}

int mcs_slot_publish(mcs_slot_page_t *page, uint64_t generation)
{
    hint_t *hint = hint_of(page);
    for (uint32_t i = 0; i < MCS_SLOTS_PER_PAGE; i++) {
        uint32_t index = (hint->next + i) % MCS_SLOTS_PER_PAGE;
        uint64_t *slot = &page->slot[index];
        uint64_t empty = 0;
        if (__atomic_load_n(slot, __ATOMIC_RELAXED) != 0 ||
            !__atomic_compare_exchange_n(slot, &empty, generation, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            continue;
        }
        hint->next = (index + 1) % MCS_SLOTS_PER_PAGE;
        if (MCS_UNLIKELY(__atomic_load_n(&page->closed, __ATOMIC_SEQ_CST) != 0)) {
            mcs_slot_clear(page, (int)index);
            return -1;
        }
        return (int)index;
    }
    return -1;
}

void mcs_slot_clear(mcs_slot_page_t *page, int index)
{
    /* Release is enough here: what was done with the extent comes before the owner's load that meets the 0. An owner
     * that meets the old value only waits longer. */
    __atomic_store_n(&page->slot[index], 0, __ATOMIC_RELEASE);
    hint_t *hint = &t_hints[((uintptr_t)page >> 12) % HINTS];
    if (hint->page == page) {
        hint->next = (uint32_t)index; /* still in this CPU's cache */
    }
}

bool mcs_slot_page_names(const mcs_slot_page_t *page, uint64_t generation)
{
    for (uint32_t i = 0; i < MCS_SLOTS_PER_PAGE; i++) {
        if (__atomic_load_n(&page->slot[i], __ATOMIC_SEQ_CST) == generation) {
            return true;
        }
    }
    return false;
}

static void mark_named(uint64_t generation, const uint64_t *sorted, uint32_t count, uint64_t *named_bits)
{
    uint32_t low = 0;
    uint32_t high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sorted[middle] < generation) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    /* The same generation may be asked for twice. */
    for (; low < count && sorted[low] == generation; low++) {
        named_bits[low / 64] |= UINT64_C(1) << (low % 64);
    }
}

void mcs_slot_page_scan(const mcs_slot_page_t *page, const uint64_t *sorted, uint32_t count, uint64_t *named_bits)
{
    for (uint32_t i = 0; i < MCS_SLOTS_PER_PAGE; i++) {
        uint64_t generation = __atomic_load_n(&page->slot[i], __ATOMIC_SEQ_CST);
        if (MCS_UNLIKELY(generation != 0)) {
            mark_named(generation, sorted, count, named_bits);
        }
    }
}

void mcs_slot_page_older(const mcs_slot_page_t *page, uint64_t epoch, void (*fn)(void *arg, uint64_t generation),
                         void *arg)
{
    for (uint32_t i = 0; i < MCS_SLOTS_PER_PAGE; i++) {
        uint64_t generation = __atomic_load_n(&page->slot[i], __ATOMIC_SEQ_CST);
        if (generation != 0 && mcs_generation_epoch(generation) < epoch) {
            fn(arg, generation);
        }
    }
}

/* ---- revoked generations ----
 *
 * Linear probing; a search ends at a 0. Readers search while the owner changes the table, so an entry never moves, and
 * a place becomes 0 again only when nothing but deleted places lies between it and the next 0: no search for an entry
 * that is in the table passes there. */

#define DELETED UINT64_MAX

static uint32_t home_of(uint64_t generation)
{
    /* Generations of one batch are neighbours: multiply to spread them. */
    return (uint32_t)((generation * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (MCS_REVOKED_TABLE - 1);
}

static uint64_t entry_at(const mcs_revoked_table_t *table, uint32_t index)
{
    return __atomic_load_n(&table->generation[index], __ATOMIC_SEQ_CST);
}

static void set_entry(mcs_revoked_table_t *table, uint32_t index, uint64_t value)
{
    __atomic_store_n(&table->generation[index], value, __ATOMIC_SEQ_CST);
}

/* Index of the entry, or MCS_REVOKED_TABLE. */
static uint32_t find_entry(const mcs_revoked_table_t *table, uint64_t generation)
{
    uint32_t index = home_of(generation);
    for (uint32_t i = 0; i < MCS_REVOKED_TABLE; i++) {
        uint64_t entry = entry_at(table, index);
        if (entry == generation) {
            return index;
        }
        if (entry == 0) {
            break;
        }
        index = (index + 1) % MCS_REVOKED_TABLE;
    }
    return MCS_REVOKED_TABLE;
}

static bool is_live(uint64_t entry)
{
    return entry != 0 && entry != DELETED;
}

mcs_status_t mcs_revoked_add(mcs_revoked_table_t *table, uint64_t generation)
{
    if (!is_live(generation)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (find_entry(table, generation) != MCS_REVOKED_TABLE) {
        return MCS_OK;
    }
    if (table->live >= MCS_REVOKED_MAX) {
        return MCS_ERR_LIMIT;
    }
    uint32_t index = home_of(generation);
    while (is_live(table->generation[index])) {
        index = (index + 1) % MCS_REVOKED_TABLE;
    }
    set_entry(table, index, generation);
    table->live++;
    return MCS_OK;
}

void mcs_revoked_remove(mcs_revoked_table_t *table, uint64_t generation)
{
    uint32_t index = is_live(generation) ? find_entry(table, generation) : MCS_REVOKED_TABLE;
    if (index == MCS_REVOKED_TABLE) {
        return;
    }
    set_entry(table, index, DELETED);
    table->live--;
    /* Not endless: at least the half that is never live would have to be DELETED, and then `index` itself is met again.
     */
    if (table->generation[(index + 1) % MCS_REVOKED_TABLE] != 0) {
        return;
    }
    while (table->generation[index] == DELETED) {
        set_entry(table, index, 0);
        index = (index + MCS_REVOKED_TABLE - 1) % MCS_REVOKED_TABLE;
    }
}

bool mcs_revoked_has(const mcs_revoked_table_t *table, uint64_t generation)
{
    return is_live(generation) && find_entry(table, generation) != MCS_REVOKED_TABLE;
}
