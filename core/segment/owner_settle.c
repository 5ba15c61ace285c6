/* Settling what an earlier master left (rule 12): the gaps between the extents that the present one knows from its
 * journal. In them lie extents that were removed, evicted or only reserved before; somebody may still read one of them
 * through a slot, and a writer may still be in one. Reservations of earlier epochs are refused since the epoch was
 * raised, so nobody enters anew to write.
 *
 * A look marks every header in a gap DEAD - so nobody enters anew to read - and then gathers the generations of earlier
 * epochs that slots name. A slot has no place. Where its extent lies is found by walking the headers of all segments,
 * which is done only when there are such slots, and seldom: a view may be held for hours. A gap is answered for when no
 * extent named lies in it, no hold reaches into it, and every slot has been found somewhere: a writer that has
 * published its slot but not opened its header yet could be anywhere, for that moment.
 *
 * All on the owner's thread, in memory that is populated before it is read. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/segment/owner_internal.h"

#define GAPS_MAX     (UINT32_C(1) << 20)
#define WAIT_MIN_NS  (20 * MCS_NS_PER_MS)
#define WAIT_MAX_NS  (5 * MCS_NS_PER_SEC)
#define WALK_PIECE   MCS_MIB /* populated and walked at a time */
#define ANSWERS      512u
#define NAMED_MAX    ((size_t)1 << 24)
#define SEGMENTS_MAX 1024u

/* ---- the list ---- */

bool mcs_i_owner_add_gap_locked(mcs_owner_t *owner, const mcs_col_release_t *record)
{
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){record->instance_hi, record->instance_lo});
    uint64_t size = entry != NULL ? mcs_segment_size(entry->segment) : 0;
    if (entry == NULL || record->offset % mcs_extent_align(mcs_segment_shift(entry->segment)) != 0 ||
        record->payload_len == 0 || record->offset > size || record->payload_len > size - record->offset ||
        record->generation == 0) {
        return false;
    }
    if (owner->gap_count == owner->gap_cap) {
        uint32_t cap = owner->gap_cap == 0 ? 256 : owner->gap_cap * 2;
        owner_gap_t *gaps = cap > GAPS_MAX ? NULL : mcs_realloc(owner->gaps, cap * sizeof(*gaps));
        if (gaps == NULL) {
            return false; /* the master asks again */
        }
        owner->gaps = gaps;
        owner->gap_cap = cap;
    }
    owner->gaps[owner->gap_count++] = (owner_gap_t){.record = *record};
    return true;
}

void mcs_i_owner_drop_gaps_locked(mcs_owner_t *owner, mcs_id_t instance)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->gap_count; i++) {
        const mcs_col_release_t *record = &owner->gaps[i].record;
        if (record->instance_hi != instance.hi || record->instance_lo != instance.lo) {
            owner->gaps[kept++] = owner->gaps[i];
        }
    }
    owner->gap_count = kept;
}

/* ---- walking headers ---- */

typedef void (*header_fn)(void *arg, mcs_extent_header_t *header, const mcs_extent_header_t *copy, uint64_t offset);

/* Every header in [from, to). An extent that is not DEAD has no other in it. */
static mcs_status_t walk(mcs_segment_t *segment, uint64_t from, uint64_t to, header_fn fn, void *arg)
{
    mcs_id_t instance = mcs_segment_instance(segment);
    unsigned shift = mcs_segment_shift(segment);
    uint64_t align = mcs_extent_align(shift);
    uint64_t ready = from;
    for (uint64_t at = from; at + align <= to;) {
        if (at + align > ready) {
            ready = MCS_MIN(at + (WALK_PIECE << shift), to);
            mcs_status_t status = mcs_segment_ensure(segment, at, ready - at);
            if (status != MCS_OK) {
                return status;
            }
        }
        mcs_extent_header_t *header = mcs_segment_header(segment, at);
        mcs_extent_header_t copy;
        uint64_t step = align;
        if (mcs_extent_find(header, instance, &copy)) {
            fn(arg, header, &copy, at);
            step = copy.state == MCS_EXTENT_DEAD ? step : mcs_extent_room(copy.payload_len, shift);
        }
        at += MCS_MIN(step, to - at);
    }
    return MCS_OK;
}

static void kill_header(void *arg, mcs_extent_header_t *header, const mcs_extent_header_t *copy, uint64_t offset)
{
    (void)arg;
    (void)offset;
    if (copy->state != MCS_EXTENT_DEAD) {
        mcs_extent_kill(header);
    }
}

/* ---- who is named ---- */

/* A generation of an earlier epoch that a slot names, and where its extent lies. */
typedef struct named {
    uint64_t generation;
    mcs_id_t instance; /* none: not found */
    uint64_t offset;
} named_t;

typedef struct naming {
    mcs_buf_t list;         /* named_t, by generation */
    mcs_segment_t *segment; /* being walked */
    bool unknown;           /* some were not found: they may be anywhere */
} naming_t;

static size_t named_count(const naming_t *naming)
{
    return naming->list.len / sizeof(named_t);
}

static named_t *named_at(const naming_t *naming, size_t i)
{
    return (named_t *)(void *)naming->list.bytes + i;
}

static int compare_named(const void *a, const void *b)
{
    uint64_t x = ((const named_t *)a)->generation;
    uint64_t y = ((const named_t *)b)->generation;
    return (x > y) - (x < y);
}

static void add_named(void *arg, uint64_t generation)
{
    naming_t *naming = arg;
    named_t named = {.generation = generation};
    mcs_buf_append(&naming->list, &named, sizeof(named));
}

static void locate(void *arg, mcs_extent_header_t *header, const mcs_extent_header_t *copy, uint64_t offset)
{
    naming_t *naming = arg;
    named_t key = {.generation = copy->generation};
    (void)header;
    named_t *found = bsearch(&key, naming->list.bytes, named_count(naming), sizeof(key), compare_named);
    if (found == NULL) {
        return;
    }
    /* Each of several slots that name it. */
    while (found > named_at(naming, 0) && found[-1].generation == key.generation) {
        found--;
    }
    for (; found < named_at(naming, named_count(naming)) && found->generation == key.generation; found++) {
        found->instance = mcs_segment_instance(naming->segment);
        found->offset = offset;
    }
}

/* References to all segments; how many. */
static uint32_t get_segments(mcs_owner_t *owner, mcs_segment_t **segments, bool *all)
{
    uint32_t count = 0;
    *all = true;
    mcs_mutex_lock(&owner->lock);
    MCS_LIST_FOR_EACH(node, &owner->segments)
    {
        if (count == SEGMENTS_MAX) {
            *all = false;
            break;
        }
        segments[count++] = mcs_segment_get(MCS_CONTAINER_OF(node, owner_segment_t, node)->segment);
    }
    mcs_mutex_unlock(&owner->lock);
    return count;
}

static uint64_t used_end(const mcs_segment_t *segment)
{
    uint64_t high = __atomic_load_n(&mcs_segment_ctl(segment)->high_mark, __ATOMIC_ACQUIRE);
    return MCS_MIN(high, mcs_segment_size(segment));
}

/* Who is named by slots, and where. Without memory: as if somebody were anywhere. */
static void naming_init(mcs_owner_t *owner, naming_t *naming)
{
    mcs_segment_t *segments[SEGMENTS_MAX];
    bool all = true;
    memset(naming, 0, sizeof(*naming));
    mcs_buf_init(&naming->list, NAMED_MAX * sizeof(named_t));
    mcs_mutex_lock(&owner->lock);
    uint64_t epoch = __atomic_load_n(&owner->epoch, __ATOMIC_RELAXED);
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        mcs_slot_page_older(MCS_CONTAINER_OF(node, owner_page_t, node)->region->base, epoch, add_named, naming);
    }
    mcs_mutex_unlock(&owner->lock);
    if (mcs_buf_status(&naming->list) != MCS_OK || naming->list.len == 0) {
        naming->unknown = naming->list.len > 0 || mcs_buf_status(&naming->list) != MCS_OK;
        return;
    }
    qsort(naming->list.bytes, named_count(naming), sizeof(named_t), compare_named);
    uint32_t count = get_segments(owner, segments, &all);
    for (uint32_t i = 0; i < count; i++) {
        naming->segment = segments[i];
        all = walk(segments[i], 0, used_end(segments[i]), locate, naming) == MCS_OK && all;
        mcs_segment_put(segments[i]);
    }
    for (size_t i = 0; i < named_count(naming); i++) {
        naming->unknown = naming->unknown || mcs_id_is_none(named_at(naming, i)->instance);
    }
}

static bool naming_reaches(const naming_t *naming, const mcs_col_release_t *gap)
{
    for (size_t i = 0; i < named_count(naming); i++) {
        const named_t *named = named_at(naming, i);
        if (named->instance.hi == gap->instance_hi && named->instance.lo == gap->instance_lo &&
            named->offset >= gap->offset && named->offset < gap->offset + gap->payload_len) {
            return true;
        }
    }
    return naming->unknown;
}

static bool hold_reaches_locked(mcs_owner_t *owner, const mcs_col_release_t *gap)
{
    MCS_LIST_FOR_EACH(node, &owner->holds)
    {
        owner_hold_t *hold = MCS_CONTAINER_OF(node, owner_hold_t, node);
        uint64_t end =
            hold->access.offset + mcs_extent_room(hold->access.payload_len, mcs_segment_shift(hold->segment));
        if (hold->access.instance.hi == gap->instance_hi && hold->access.instance.lo == gap->instance_lo &&
            hold->access.offset < gap->offset + gap->payload_len && end > gap->offset) {
            hold->wanted = true;
            return true;
        }
    }
    return false;
}

/* ---- a look ---- */

static mcs_segment_t *segment_of(mcs_owner_t *owner, const mcs_col_release_t *gap)
{
    mcs_mutex_lock(&owner->lock);
    const owner_segment_t *entry = mcs_i_owner_find_locked(owner, (mcs_id_t){gap->instance_hi, gap->instance_lo});
    mcs_segment_t *segment = entry != NULL ? mcs_segment_get(entry->segment) : NULL;
    mcs_mutex_unlock(&owner->lock);
    return segment;
}

static bool kill_all(mcs_owner_t *owner, const mcs_col_release_t *gap)
{
    mcs_segment_t *segment = segment_of(owner, gap);
    if (segment == NULL) {
        return false;
    }
    mcs_status_t status = walk(segment, gap->offset, gap->offset + gap->payload_len, kill_header, NULL);
    mcs_segment_put(segment);
    return status == MCS_OK;
}

/* Answers for those that nobody is in; the others go back to the list. */
static void answer(mcs_owner_t *owner, owner_gap_t *gaps, uint32_t count)
{
    uint64_t freed[ANSWERS];
    for (uint32_t at = 0; at < count;) {
        uint32_t n = 0;
        mcs_mutex_lock(&owner->lock);
        for (; at < count && n < ANSWERS; at++) {
            const mcs_col_release_t *record = &gaps[at].record;
            /* Kept: without room the master asks again. Segments that have gone are not found then. */
            if (gaps[at].blocked || gaps[at].failed || hold_reaches_locked(owner, record)) {
                (void)mcs_i_owner_add_gap_locked(owner, record);
            } else {
                freed[n++] = record->generation;
            }
        }
        owner->released_total += n;
        mcs_mutex_unlock(&owner->lock);
        if (n > 0) {
            owner->config.released(owner->config.released_arg, freed, n);
        }
    }
}

static int compare_gaps(const void *a, const void *b)
{
    uint64_t x = ((const owner_gap_t *)a)->record.generation;
    uint64_t y = ((const owner_gap_t *)b)->record.generation;
    return (x > y) - (x < y);
}

/* The master may have asked again for one that waits. */
static uint32_t drop_repeats(owner_gap_t *gaps, uint32_t count)
{
    uint32_t kept = 0;
    qsort(gaps, count, sizeof(*gaps), compare_gaps);
    for (uint32_t i = 0; i < count; i++) {
        if (kept == 0 || gaps[kept - 1].record.generation != gaps[i].record.generation) {
            gaps[kept++] = gaps[i];
        }
    }
    return kept;
}

uint64_t mcs_i_owner_settle(mcs_owner_t *owner)
{
    uint64_t now_ns = mcs_now_ns();
    mcs_mutex_lock(&owner->lock);
    uint32_t count = owner->gap_count;
    owner_gap_t *gaps = NULL;
    if (count > 0 && now_ns >= owner->gaps_at_ns) {
        gaps = owner->gaps;
        owner->gaps = NULL;
        owner->gap_count = 0;
        owner->gap_cap = 0;
    }
    mcs_mutex_unlock(&owner->lock);
    if (gaps == NULL) {
        return count > 0 ? owner->gaps_at_ns - now_ns : MCS_NEVER;
    }
    count = drop_repeats(gaps, count);
    for (uint32_t i = 0; i < count; i++) {
        gaps[i].failed = !kill_all(owner, &gaps[i].record);
    }
    naming_t naming;
    naming_init(owner, &naming); /* after the marks: one of the two always sees the other (slots.h) */
    for (uint32_t i = 0; i < count; i++) {
        gaps[i].blocked = naming_reaches(&naming, &gaps[i].record);
    }
    mcs_buf_fini(&naming.list);
    answer(owner, gaps, count);
    mcs_free(gaps);
    mcs_mutex_lock(&owner->lock);
    count = owner->gap_count;
    mcs_mutex_unlock(&owner->lock);
    owner->gaps_wait_ns = count == 0                 ? 0
                          : owner->gaps_wait_ns == 0 ? WAIT_MIN_NS
                                                     : MCS_MIN(owner->gaps_wait_ns * 2, WAIT_MAX_NS);
    owner->gaps_at_ns = mcs_now_ns() + owner->gaps_wait_ns;
    return count == 0 ? MCS_NEVER : owner->gaps_wait_ns;
}

/* ---- how far a segment was used ---- */

uint64_t mcs_owner_high_mark(mcs_owner_t *owner, mcs_id_t instance)
{
    const mcs_col_release_t whole = {.instance_hi = instance.hi, .instance_lo = instance.lo};
    mcs_segment_t *segment = segment_of(owner, &whole);
    if (segment == NULL) {
        return 0;
    }
    uint64_t size = mcs_segment_size(segment);
    naming_t naming;
    naming_init(owner, &naming);
    /* Who has opened its header had raised the mark before; who has not may do so yet. */
    uint64_t high = naming.unknown ? size : used_end(segment);
    mcs_buf_fini(&naming.list);
    mcs_mutex_lock(&owner->lock);
    MCS_LIST_FOR_EACH(node, &owner->holds)
    {
        const mcs_access_t *access = &MCS_CONTAINER_OF(node, owner_hold_t, node)->access;
        if (mcs_id_equal(access->instance, instance)) {
            high = MCS_MAX(high, access->offset + mcs_extent_room(access->payload_len, mcs_segment_shift(segment)));
        }
    }
    mcs_mutex_unlock(&owner->lock);
    mcs_segment_put(segment);
    return MCS_MIN(high, size);
}
