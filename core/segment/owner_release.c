/* Giving extents back (rule 3): mark DEAD, then look at the holds and at every mapper's slots; what is named stays
 * pending and is looked at again.
 *
 * A pending extent is marked DEAD at each look: a same-host writer that had published its slot before the first mark
 * may have opened it since. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/segment/owner_internal.h"

/* Records that are looked at under one hold of the lock: serving threads wait for it. */
#define RELEASE_CHUNK 2048u

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int64_t index_of(const uint64_t *sorted, uint32_t count, uint64_t generation)
{
    const uint64_t *found = bsearch(&generation, sorted, count, sizeof(*sorted), compare_u64);
    return found != NULL ? found - sorted : -1;
}

/* False: there is no memory to write the mark to. */
static bool kill_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){record->instance_hi, record->instance_lo});
    mcs_i_owner_drop_write_locked(owner, record->generation);
    /* Nobody may ever have touched this extent: its first page may be a hole. */
    if (mcs_segment_ensure(entry->segment, record->offset, MCS_EXTENT_HEADER) != MCS_OK) {
        return false;
    }
    mcs_extent_header_t *header = mcs_segment_header(entry->segment, record->offset);
    /* Not another generation's header. It may be an older one's, dead already: then this generation was never opened
     * here, and who still may has a slot or is stopped by the revoked table. Or a newer one's: the master repeated a
     * request whose answer had crossed it. */
    if (__atomic_load_n(&header->generation, __ATOMIC_SEQ_CST) == record->generation &&
        __atomic_load_n(&header->state, __ATOMIC_SEQ_CST) != MCS_EXTENT_DEAD) {
        mcs_extent_kill(header);
    }
    return true;
}

static bool get_bit(const uint64_t *bits, int64_t at)
{
    return (bits[at / 64] >> (at % 64) & 1) != 0;
}

static void set_bit(uint64_t *bits, int64_t at)
{
    bits[at / 64] |= UINT64_C(1) << (at % 64);
}

/* Bits of `named` for the generations that a hold or a slot names. */
static void scan_locked(mcs_owner_t *owner, const uint64_t *sorted, uint32_t count, uint64_t *named)
{
    MCS_LIST_FOR_EACH(node, &owner->holds)
    {
        owner_hold_t *hold = MCS_CONTAINER_OF(node, owner_hold_t, node);
        int64_t at = index_of(sorted, count, hold->access.generation);
        if (at >= 0) {
            hold->wanted = true; /* its end wakes the thread; that of others need not */
            set_bit(named, at);
        }
    }
    /* The marks (kill_locked, mcs_revoked_add) and the loads of the slots are sequentially consistent: one side sees
     * the other (slots.h). */
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        mcs_slot_page_scan(MCS_CONTAINER_OF(node, owner_page_t, node)->region->base, sorted, count, named);
    }
}

/* Room for one look: `count` generations each, and bits. */
typedef struct look {
    uint64_t *sorted;
    uint64_t *freed;
    uint64_t *struck;
    uint64_t *named;
    uint64_t *met;
    uint32_t freed_count;
    uint32_t struck_count;
} look_t;

static size_t look_words(size_t count)
{
    return 3 * count + 2 * (count / 64 + 1);
}

static look_t look_init(uint64_t *memory, size_t count)
{
    look_t look = {.sorted = memory,
                   .freed = memory + count,
                   .struck = memory + 2 * count,
                   .named = memory + 3 * count,
                   .met = memory + 3 * count + count / 64 + 1};
    memset(look.named, 0, 2 * (count / 64 + 1) * sizeof(uint64_t));
    return look;
}

/* Somebody waits for the mark itself (rule 2): who comes now finds it. */
static void say_struck(look_t *look, owner_pending_t *pending)
{
    if (pending->marked && !pending->struck && (pending->record.flags & MCS_RELEASE_STRIKE) != 0) {
        pending->struck = true;
        look->struck[look->struck_count++] = pending->record.generation;
    }
}

/* Answers for those of owner->pending that nobody names; the others stay. The same record twice (the master may repeat
 * a request, not knowing what of its answers has arrived) is answered once, but that it is struck once more. */
static void collect_locked(mcs_owner_t *owner, look_t *look)
{
    uint32_t count = owner->pending_count;
    for (uint32_t i = 0; i < count; i++) {
        owner->pending[i].marked = kill_locked(owner, &owner->pending[i].record);
        look->sorted[i] = owner->pending[i].record.generation;
    }
    qsort(look->sorted, count, sizeof(*look->sorted), compare_u64);
    scan_locked(owner, look->sorted, count, look->named);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        owner_pending_t *pending = &owner->pending[i];
        int64_t at = index_of(look->sorted, count, pending->record.generation);
        bool held = !pending->marked || get_bit(look->named, at);
        if (held) {
            say_struck(look, pending);
        }
        if (get_bit(look->met, at)) {
            continue;
        }
        set_bit(look->met, at);
        if (held) {
            owner->pending[kept++] = *pending;
        } else {
            look->freed[look->freed_count++] = pending->record.generation;
        }
    }
    owner->pending_count = kept;
    owner->released_total += look->freed_count;
}

bool mcs_i_owner_rescan(mcs_owner_t *owner)
{
    mcs_mutex_lock(&owner->lock);
    uint32_t count = owner->pending_count;
    mcs_mutex_unlock(&owner->lock);
    if (count == 0) {
        return false;
    }
    /* Room for more than there are now: releases may come in between. */
    size_t room = (size_t)count + 1024;
    uint64_t *memory = mcs_malloc(look_words(room) * sizeof(uint64_t));
    if (memory == NULL) {
        return true;
    }
    look_t look = look_init(memory, room);
    bool left = true;
    mcs_mutex_lock(&owner->lock);
    if (owner->pending_count <= room) {
        collect_locked(owner, &look);
        left = owner->pending_count > 0;
    }
    mcs_mutex_unlock(&owner->lock);
    if (look.freed_count > 0) {
        owner->config.released(owner->config.released_arg, look.freed, look.freed_count);
    }
    if (look.struck_count > 0 && owner->config.struck != NULL) {
        owner->config.struck(owner->config.released_arg, look.struck, look.struck_count);
    }
    mcs_free(memory);
    return left;
}

/* Is it an extent of ours at all? The master is checked as everybody is. */
static bool valid_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){record->instance_hi, record->instance_lo});
    return entry != NULL && record->generation != 0 && record->generation != UINT64_MAX &&
           mcs_extent_fits(record->offset, record->payload_len, mcs_segment_size(entry->segment),
                           mcs_segment_shift(entry->segment));
}

static bool remember_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    mcs_id_t session = {record->session_hi, record->session_lo};
    /* An ended session is refused as a whole, but for our own slots, which have none. */
    bool refused = mcs_i_owner_ended_locked(owner, session) && !mcs_i_owner_is_own_locked(owner, session);
    if (refused || mcs_revoked_has(owner_revoked_table(owner), record->generation)) {
        return true;
    }
    if (owner->revoked_count == MCS_REVOKED_MAX ||
        mcs_revoked_add(owner_revoked_table(owner), record->generation) != MCS_OK) {
        return false;
    }
    owner->revoked[owner->revoked_count++] =
        (owner_revoked_t){record->generation, session, {record->instance_hi, record->instance_lo}};
    return true;
}

static bool append_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    if (owner->pending_count == owner->pending_cap) {
        uint32_t cap = owner->pending_cap == 0 ? 1024 : owner->pending_cap * 2;
        owner_pending_t *pending = cap > OWNER_PENDING_MAX ? NULL : mcs_realloc(owner->pending, cap * sizeof(*pending));
        if (pending == NULL) {
            return false;
        }
        owner->pending = pending;
        owner->pending_cap = cap;
    }
    owner->pending[owner->pending_count++] = (owner_pending_t){.record = *record};
    return true;
}

/* Returns how many are refused. */
static uint32_t enter(mcs_owner_t *owner, const mcs_col_release_t *records, uint32_t count)
{
    uint32_t refused = 0;
    mcs_mutex_lock(&owner->lock);
    for (uint32_t i = 0; i < count; i++) {
        const mcs_col_release_t *record = &records[i];
        if ((record->flags & MCS_RELEASE_GAP) != 0) {
            refused += !mcs_i_owner_add_gap_locked(owner, record);
        } else if (!valid_locked(owner, record)) {
            refused++;
        } else if ((record->flags & MCS_RELEASE_MAY_WRITE) != 0 && !remember_locked(owner, record)) {
            refused++; /* not answered: the master keeps it in quarantine (owner.h) */
        } else if (!append_locked(owner, record)) {
            refused++;
        }
    }
    mcs_mutex_unlock(&owner->lock);
    return refused;
}

void mcs_owner_release(mcs_owner_t *owner, const mcs_col_release_t *records, uint32_t count)
{
    uint32_t refused = 0;
    bool left = false;
    for (uint32_t at = 0; at < count; at += MCS_MIN(count - at, RELEASE_CHUNK)) {
        refused += enter(owner, records + at, MCS_MIN(count - at, RELEASE_CHUNK));
        left = mcs_i_owner_rescan(owner);
    }
    mcs_mutex_lock(&owner->lock);
    left = left || owner->gap_count > 0; /* for the owner's thread */
    mcs_mutex_unlock(&owner->lock);
    if (refused > 0) {
        mcs_debug(OWNER_AREA, "%u of %u extents not released: not ours, or no room to remember them", refused, count);
    }
    if (left) {
        mcs_event_set(&owner->wake);
    }
}
