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

static void kill_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){record->instance_hi, record->instance_lo});
    mcs_extent_kill((mcs_extent_header_t *)(void *)((uint8_t *)mcs_segment_base(entry->segment) + record->offset));
    mcs_i_owner_drop_write_locked(owner, record->generation);
}

/* Bits of `named` for the generations that a hold or a slot names. */
static void scan_locked(mcs_owner_t *owner, const uint64_t *sorted, uint32_t count, uint64_t *named)
{
    MCS_LIST_FOR_EACH(node, &owner->holds)
    {
        const owner_hold_t *hold = MCS_CONTAINER_OF(node, owner_hold_t, node);
        int64_t at = index_of(sorted, count, hold->access.generation);
        if (at >= 0) {
            named[at / 64] |= UINT64_C(1) << (at % 64);
        }
    }
    /* The marks (kill_locked, mcs_revoked_add) and the loads of the slots are sequentially consistent: one side sees
     * the other (slots.h). */
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        mcs_slot_page_scan(MCS_CONTAINER_OF(node, owner_page_t, node)->region->base, sorted, count, named);
    }
}

/* Answers for those of owner->pending that nobody names; the others stay. Returns how many went to `free_out` (room for
 * all). */
static uint32_t collect_locked(mcs_owner_t *owner, uint64_t *sorted, uint64_t *named, uint64_t *free_out)
{
    uint32_t count = owner->pending_count;
    for (uint32_t i = 0; i < count; i++) {
        kill_locked(owner, &owner->pending[i].record);
        sorted[i] = owner->pending[i].record.generation;
    }
    qsort(sorted, count, sizeof(*sorted), compare_u64);
    memset(named, 0, (count / 64 + 1) * sizeof(*named));
    scan_locked(owner, sorted, count, named);
    uint32_t kept = 0;
    uint32_t freed = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t generation = owner->pending[i].record.generation;
        int64_t at = index_of(sorted, count, generation);
        if ((named[at / 64] >> (at % 64) & 1) != 0) {
            owner->pending[kept++] = owner->pending[i];
        } else {
            free_out[freed++] = generation;
        }
    }
    owner->pending_count = kept;
    owner->released_total += freed;
    return freed;
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
    uint64_t *memory = mcs_malloc((2 * room + room / 64 + 1) * sizeof(uint64_t));
    if (memory == NULL) {
        return true;
    }
    uint64_t *free_out = memory + room;
    uint32_t freed = 0;
    bool left = true;
    mcs_mutex_lock(&owner->lock);
    if (owner->pending_count <= room) {
        freed = collect_locked(owner, memory, free_out + room, free_out);
        left = owner->pending_count > 0;
    }
    mcs_mutex_unlock(&owner->lock);
    if (freed > 0) {
        owner->config.released(owner->config.released_arg, free_out, freed);
    }
    mcs_free(memory);
    return left;
}

/* Is it an extent of ours at all? The master is checked as everybody is. */
static bool valid_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){record->instance_hi, record->instance_lo});
    if (entry == NULL || record->payload_len == 0 || record->payload_len > MCS_OBJECT_MAX ||
        record->offset % MCS_EXTENT_ALIGN != 0 || record->generation == 0 || record->generation == UINT64_MAX) {
        return false;
    }
    uint64_t size = mcs_segment_size(entry->segment);
    uint64_t need = mcs_extent_len(record->payload_len);
    return need <= size && record->offset <= size - need;
}

static bool is_pending_locked(const mcs_owner_t *owner, uint64_t generation)
{
    for (uint32_t i = 0; i < owner->pending_count; i++) {
        if (owner->pending[i].record.generation == generation) {
            return true;
        }
    }
    return false;
}

static bool remember_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    mcs_id_t session = {record->session_hi, record->session_lo};
    if (mcs_i_owner_ended_locked(owner, session) || mcs_revoked_has(owner_revoked_table(owner), record->generation)) {
        return true;
    }
    if (owner->revoked_count == MCS_REVOKED_MAX ||
        mcs_revoked_add(owner_revoked_table(owner), record->generation) != MCS_OK) {
        return false;
    }
    owner->revoked[owner->revoked_count++] = (owner_revoked_t){record->generation, session};
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
    owner->pending[owner->pending_count++].record = *record;
    return true;
}

void mcs_owner_release(mcs_owner_t *owner, const mcs_col_release_t *records, uint32_t count)
{
    uint32_t refused = 0;
    mcs_mutex_lock(&owner->lock);
    uint32_t before = owner->pending_count;
    for (uint32_t i = 0; i < count; i++) {
        const mcs_col_release_t *record = &records[i];
        bool known = before > 0 && is_pending_locked(owner, record->generation);
        if (!valid_locked(owner, record)) {
            refused++;
        } else if ((record->flags & MCS_RELEASE_MAY_WRITE) != 0 && !remember_locked(owner, record)) {
            refused++; /* not answered: the master keeps it in quarantine (owner.h) */
        } else if (!known && !append_locked(owner, record)) {
            refused++;
        }
    }
    mcs_mutex_unlock(&owner->lock);
    if (refused > 0) {
        mcs_debug(OWNER_AREA, "%u of %u extents not released: not ours, or no room to remember them", refused, count);
    }
    if (mcs_i_owner_rescan(owner)) {
        mcs_event_set(&owner->wake);
    }
}
