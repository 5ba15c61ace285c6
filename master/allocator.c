/* See allocator.h.
 *
 *   memory   |  used  | hole |      used      |   used  |          hole           |
 *   holes              2                                       1                      start, length
 *   classes  [fl][sl] -> 2 <-> 31 <-> ...                                             holes of like size
 *   ends     hash of start, hash of end -> hole                                       who is my neighbour?
 *
 * Two-level segregated fit (Masmano et al., 2004): a size in granules is binned by its highest bit (first level) and
 * the next SL_LOG2 bits (second level), so a class is at most 1.6 % wide; bitmaps find the next class that is not empty
 * in two instructions. Sizes below SL_COUNT granules have a class each.
 *
 * Plain TLSF never looks into the class of the size asked for, because a hole there may be too small; that costs some
 * per cent when memory is nearly full, which is a cache's normal state. Here that class is searched first, for the best
 * of its first SCAN holes, before a larger hole is split. SCAN is a constant, so this stays O(1).
 *
 * Low addresses: a hole is given out from its low end, a freed hole goes before the class's first one if it lies lower
 * and behind it otherwise, and of two equal holes that are looked at the lower one wins. A tendency, not an order: an
 * ordered list would cost O(n).
 *
 * Neighbours: a freed extent asks two hash tables whether a hole ends where it begins, and whether one begins where it
 * ends. A node for each extent, linked by address, answers that as well, but costs 32 bytes an object and a cache miss
 * a neighbour; a tree by address (as in jemalloc) a search a call; boundary tags in the memory itself are impossible,
 * since it is another process's. The tables grow by linear hashing (Litwin, 1980), two buckets for each hole that is
 * made anew: no call ever rehashes all of them.
 *
 * Giving back never fails: room for a hole more than there are extents is had before an extent is given out. That room
 * lies in chunks of a megabyte, which never move and are touched only as far as holes come. */
#include "master/allocator.h"

#include "core/base/alloc.h"

#define SIZE_MAX_BYTES (UINT64_C(1) << 46)
#define SL_LOG2        6u
#define SL_COUNT       (1u << SL_LOG2)
/* Of 2^40 granules: bit 40 is first level 40 - SL_LOG2 + 1. */
#define FL_COUNT    36u
#define SCAN        4u
#define NONE        UINT32_MAX
#define CHUNK_LOG2  15u
#define CHUNK_HOLES (1u << CHUNK_LOG2)
#define HOLES_MAX   (UINT32_C(1) << 31) /* twice as many buckets have 32 bits, too */

typedef struct hole {
    uint64_t start; /* granules */
    uint64_t len;   /* granules */
    uint32_t fore;  /* neighbours in the class */
    uint32_t back;
    uint32_t next_start; /* in the bucket of its start; also links spare ones */
    uint32_t next_end;
} hole_t;
_Static_assert(sizeof(hole_t) == 32, "half a cache line");

/* Heads of chains. */
typedef struct bucket {
    uint32_t by_start;
    uint32_t by_end;
} bucket_t;

typedef struct size_class {
    uint32_t fl;
    uint32_t sl;
} size_class_t;

struct mcs_allocator {
    uint64_t size; /* bytes, as given */
    uint64_t granules;
    uint64_t used_granules;
    uint64_t high_granules;
    uint64_t extents;
    uint64_t fl_bits;
    uint64_t sl_bits[FL_COUNT];
    uint32_t heads[FL_COUNT][SL_COUNT];
    hole_t **holes;     /* chunks */
    bucket_t **buckets; /* two for each hole of the chunk */
    uint32_t chunk_count;
    uint32_t chunk_cap;
    uint32_t hole_count;   /* ever made */
    uint32_t spare;        /* list of those without a role */
    uint32_t bucket_count; /* in use */
    uint32_t bucket_mask;  /* of the doubling under way */
};

static inline hole_t *hole_at(const mcs_allocator_t *a, uint32_t index)
{
    return &a->holes[index >> CHUNK_LOG2][index & (CHUNK_HOLES - 1)];
}

static inline bucket_t *bucket_at(const mcs_allocator_t *a, uint32_t index)
{
    return &a->buckets[index >> (CHUNK_LOG2 + 1)][index & (2 * CHUNK_HOLES - 1)];
}

/* ---- neighbours ---- */

static inline uint32_t hash_of(uint64_t granule)
{
    return (uint32_t)((granule * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

static inline bucket_t *bucket_of(const mcs_allocator_t *a, uint64_t granule)
{
    uint32_t index = hash_of(granule) & a->bucket_mask;
    return bucket_at(a, index < a->bucket_count ? index : index & (a->bucket_mask >> 1));
}

static inline uint64_t end_of(const hole_t *h)
{
    return h->start + h->len;
}

static inline uint32_t find_start(const mcs_allocator_t *a, const bucket_t *bucket, uint64_t granule)
{
    uint32_t at = bucket->by_start;
    while (at != NONE && hole_at(a, at)->start != granule) {
        at = hole_at(a, at)->next_start;
    }
    return at;
}

static inline uint32_t find_end(const mcs_allocator_t *a, const bucket_t *bucket, uint64_t granule)
{
    uint32_t at = bucket->by_end;
    while (at != NONE && end_of(hole_at(a, at)) != granule) {
        at = hole_at(a, at)->next_end;
    }
    return at;
}

static inline void link_start(bucket_t *bucket, uint32_t index, hole_t *h)
{
    h->next_start = bucket->by_start;
    bucket->by_start = index;
}

static inline void link_end(bucket_t *bucket, uint32_t index, hole_t *h)
{
    h->next_end = bucket->by_end;
    bucket->by_end = index;
}

static inline void unlink_start(const mcs_allocator_t *a, bucket_t *bucket, uint32_t index, const hole_t *h)
{
    uint32_t *link = &bucket->by_start;
    while (*link != index) {
        link = &hole_at(a, *link)->next_start;
    }
    *link = h->next_start;
}

static inline void unlink_end(const mcs_allocator_t *a, bucket_t *bucket, uint32_t index, const hole_t *h)
{
    uint32_t *link = &bucket->by_end;
    while (*link != index) {
        link = &hole_at(a, *link)->next_end;
    }
    *link = h->next_end;
}

/* One bucket more: what belongs there moves over from the one that had both shares. */
static void split_bucket(mcs_allocator_t *a)
{
    uint32_t fresh_index = a->bucket_count++;
    if (fresh_index > a->bucket_mask) {
        a->bucket_mask = a->bucket_mask * 2 + 1;
    }
    bucket_t *old = bucket_at(a, fresh_index & (a->bucket_mask >> 1));
    bucket_t *fresh = bucket_at(a, fresh_index);
    bucket_t was = *old;
    *old = *fresh = (bucket_t){NONE, NONE};
    for (uint32_t at = was.by_start, next; at != NONE; at = next) {
        hole_t *h = hole_at(a, at);
        next = h->next_start;
        link_start(bucket_of(a, h->start), at, h);
    }
    for (uint32_t at = was.by_end, next; at != NONE; at = next) {
        hole_t *h = hole_at(a, at);
        next = h->next_end;
        link_end(bucket_of(a, end_of(h)), at, h);
    }
}

/* ---- classes ---- */

static inline size_class_t class_of(uint64_t granules)
{
    if (granules < SL_COUNT) {
        return (size_class_t){0, (uint32_t)granules};
    }
    uint32_t top = 63u - (uint32_t)__builtin_clzll(granules);
    return (size_class_t){top - SL_LOG2 + 1, (uint32_t)(granules >> (top - SL_LOG2)) & (SL_COUNT - 1)};
}

/* The first class that is not empty, from `from` on. */
static bool next_class(const mcs_allocator_t *a, size_class_t from, size_class_t *class_out)
{
    uint64_t sl_bits = a->sl_bits[from.fl] & (~UINT64_C(0) << from.sl);
    if (sl_bits == 0) {
        uint64_t fl_bits = a->fl_bits & (~UINT64_C(1) << from.fl);
        if (fl_bits == 0) {
            return false;
        }
        from.fl = (uint32_t)__builtin_ctzll(fl_bits);
        sl_bits = a->sl_bits[from.fl];
    }
    *class_out = (size_class_t){from.fl, (uint32_t)__builtin_ctzll(sl_bits)};
    return true;
}

static void link_class(mcs_allocator_t *a, uint32_t index, hole_t *h)
{
    size_class_t c = class_of(h->len);
    uint32_t head = a->heads[c.fl][c.sl];
    h->fore = NONE;
    h->back = head;
    if (head != NONE) {
        hole_t *first = hole_at(a, head);
        if (h->start < first->start) {
            first->fore = index;
        } else { /* second place: the first one lies lower */
            h->fore = head;
            h->back = first->back;
            first->back = index;
            if (h->back != NONE) {
                hole_at(a, h->back)->fore = index;
            }
            return;
        }
    }
    a->heads[c.fl][c.sl] = index;
    a->sl_bits[c.fl] |= UINT64_C(1) << c.sl;
    a->fl_bits |= UINT64_C(1) << c.fl;
}

static void unlink_class(mcs_allocator_t *a, const hole_t *h)
{
    if (h->back != NONE) {
        hole_at(a, h->back)->fore = h->fore;
    }
    if (h->fore != NONE) {
        hole_at(a, h->fore)->back = h->back;
        return;
    }
    size_class_t c = class_of(h->len);
    a->heads[c.fl][c.sl] = h->back;
    if (h->back == NONE) {
        a->sl_bits[c.fl] &= ~(UINT64_C(1) << c.sl);
        if (a->sl_bits[c.fl] == 0) {
            a->fl_bits &= ~(UINT64_C(1) << c.fl);
        }
    }
}

/* ---- room for holes ---- */

static mcs_status_t add_chunk(mcs_allocator_t *a)
{
    if (a->chunk_count == HOLES_MAX / CHUNK_HOLES) {
        return MCS_ERR_NO_MEMORY;
    }
    if (a->chunk_count == a->chunk_cap) {
        uint32_t cap = MCS_MAX(a->chunk_cap * 2, 4u);
        hole_t **holes = mcs_realloc(a->holes, cap * sizeof(*holes));
        a->holes = holes != NULL ? holes : a->holes;
        bucket_t **buckets = mcs_realloc(a->buckets, cap * sizeof(*buckets));
        a->buckets = buckets != NULL ? buckets : a->buckets;
        if (holes == NULL || buckets == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        a->chunk_cap = cap;
    }
    hole_t *holes = mcs_malloc(CHUNK_HOLES * sizeof(*holes));
    bucket_t *buckets = mcs_malloc(2 * CHUNK_HOLES * sizeof(*buckets));
    if (holes == NULL || buckets == NULL) {
        mcs_free(holes);
        mcs_free(buckets);
        return MCS_ERR_NO_MEMORY;
    }
    a->holes[a->chunk_count] = holes;
    a->buckets[a->chunk_count++] = buckets;
    return MCS_OK;
}

/* So many extents can never leave more holes than there is room for: one between any two, and one at the end. */
static inline mcs_status_t reserve_for(mcs_allocator_t *a, uint64_t extents)
{
    return extents < (uint64_t)a->chunk_count * CHUNK_HOLES ? MCS_OK : add_chunk(a);
}

/* There is room: reserve_for. */
static uint32_t take_spare(mcs_allocator_t *a)
{
    uint32_t index = a->spare;
    if (index != NONE) {
        a->spare = hole_at(a, index)->next_start;
        return index;
    }
    while (a->bucket_count < 2 * (a->hole_count + 1)) {
        split_bucket(a);
    }
    return a->hole_count++;
}

static void give_spare(mcs_allocator_t *a, uint32_t index, hole_t *h)
{
    h->next_start = a->spare;
    a->spare = index;
}

static void add_hole(mcs_allocator_t *a, uint64_t start, uint64_t len)
{
    uint32_t index = take_spare(a);
    hole_t *h = hole_at(a, index);
    h->start = start;
    h->len = len;
    link_start(bucket_of(a, start), index, h);
    link_end(bucket_of(a, start + len), index, h);
    link_class(a, index, h);
}

/* ---- life ---- */

mcs_status_t mcs_allocator_create(uint64_t size, mcs_allocator_t **allocator_out)
{
    if (size == 0 || size > SIZE_MAX_BYTES) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_allocator_t *a = MCS_NEW(mcs_allocator_t);
    if (a == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    a->size = size;
    a->granules = size / MCS_ALLOCATOR_GRANULE;
    a->spare = NONE;
    for (uint32_t fl = 0; fl < FL_COUNT; fl++) {
        for (uint32_t sl = 0; sl < SL_COUNT; sl++) {
            a->heads[fl][sl] = NONE;
        }
    }
    mcs_status_t status = reserve_for(a, 0);
    if (status != MCS_OK) {
        mcs_allocator_destroy(a);
        return status;
    }
    a->bucket_count = 1;
    *bucket_at(a, 0) = (bucket_t){NONE, NONE};
    if (a->granules > 0) {
        add_hole(a, 0, a->granules);
    }
    *allocator_out = a;
    return MCS_OK;
}

void mcs_allocator_destroy(mcs_allocator_t *allocator)
{
    if (allocator == NULL) {
        return;
    }
    for (uint32_t i = 0; i < allocator->chunk_count; i++) {
        mcs_free(allocator->holes[i]);
        mcs_free(allocator->buckets[i]);
    }
    mcs_free(allocator->holes);
    mcs_free(allocator->buckets);
    mcs_free(allocator);
}

/* ---- giving out ---- */

static inline uint64_t granules_of(uint64_t len)
{
    return (len + MCS_ALLOCATOR_GRANULE - 1) / MCS_ALLOCATOR_GRANULE;
}

/* The best of a class's first holes that take `granules`; the lower of two equal ones. */
static uint32_t scan_class(const mcs_allocator_t *a, size_class_t c, uint64_t granules)
{
    uint32_t best = NONE;
    uint64_t best_len = UINT64_MAX;
    uint64_t best_start = 0;
    uint32_t at = a->heads[c.fl][c.sl];
    for (uint32_t i = 0; i < SCAN && at != NONE; i++) {
        const hole_t *h = hole_at(a, at);
        if (h->len >= granules && (h->len < best_len || (h->len == best_len && h->start < best_start))) {
            best = at;
            best_len = h->len;
            best_start = h->start;
            if (best_len == granules) {
                break;
            }
        }
        at = h->back;
    }
    return best;
}

static uint32_t find_hole(const mcs_allocator_t *a, uint64_t granules)
{
    size_class_t c = class_of(granules);
    uint32_t found = scan_class(a, c, granules);
    if (found != NONE) {
        return found;
    }
    c.sl++;
    if (c.sl == SL_COUNT) {
        c = (size_class_t){c.fl + 1, 0};
    }
    return c.fl < FL_COUNT && next_class(a, c, &c) ? scan_class(a, c, granules) : NONE;
}

mcs_status_t mcs_allocator_alloc(mcs_allocator_t *allocator, uint64_t len, uint64_t *offset_out)
{
    mcs_allocator_t *a = allocator;
    if (len == 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (len > a->size) {
        return MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    uint64_t granules = granules_of(len);
    uint32_t index = find_hole(a, granules);
    if (index == NONE) {
        return MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    mcs_status_t status = reserve_for(a, a->extents + 1);
    if (status != MCS_OK) {
        return status; /* nothing has changed yet */
    }
    hole_t *h = hole_at(a, index);
    uint64_t start = h->start;
    unlink_class(a, h);
    unlink_start(a, bucket_of(a, start), index, h);
    if (h->len == granules) {
        unlink_end(a, bucket_of(a, start + granules), index, h);
        give_spare(a, index, h);
    } else {
        h->start += granules;
        h->len -= granules;
        link_start(bucket_of(a, h->start), index, h);
        link_class(a, index, h);
    }
    a->used_granules += granules;
    a->extents++;
    a->high_granules = MCS_MAX(a->high_granules, start + granules);
    *offset_out = start * MCS_ALLOCATOR_GRANULE;
    return MCS_OK;
}

/* The holes `before` and `after` become one with what lies between them; `high` is the bucket of the later one's start.
 */
static void close_gap(mcs_allocator_t *a, bucket_t *high, hole_t *before, uint32_t before_index, uint32_t after_index)
{
    hole_t *after = hole_at(a, after_index);
    bucket_t *end = bucket_of(a, end_of(after));
    unlink_class(a, after);
    unlink_start(a, high, after_index, after);
    unlink_end(a, end, after_index, after);
    before->len = end_of(after) - before->start;
    link_end(end, before_index, before);
    give_spare(a, after_index, after);
}

/* Together with the free neighbours that it has. */
static void give_back(mcs_allocator_t *a, uint64_t start, uint64_t granules)
{
    uint64_t end = start + granules;
    MCS_ENSURE(granules > 0 && granules <= a->used_granules && start < a->granules && end <= a->high_granules);
    bucket_t *low = bucket_of(a, start);
    bucket_t *high = bucket_of(a, end);
    /* What is given out neither begins where a hole begins nor ends where one ends. */
    MCS_ENSURE(find_start(a, low, start) == NONE && find_end(a, high, end) == NONE);
    uint32_t before_index = find_end(a, low, start);
    uint32_t after_index = find_start(a, high, end);
    a->used_granules -= granules;
    if (before_index != NONE) {
        hole_t *before = hole_at(a, before_index);
        unlink_class(a, before);
        unlink_end(a, low, before_index, before);
        if (after_index != NONE) {
            close_gap(a, high, before, before_index, after_index);
        } else {
            before->len += granules;
            link_end(high, before_index, before);
        }
        link_class(a, before_index, before);
    } else if (after_index != NONE) {
        hole_t *after = hole_at(a, after_index);
        unlink_class(a, after);
        unlink_start(a, high, after_index, after);
        after->start = start;
        after->len += granules;
        link_start(low, after_index, after);
        link_class(a, after_index, after);
    } else {
        add_hole(a, start, granules);
    }
}

uint64_t mcs_allocator_free(mcs_allocator_t *allocator, uint64_t offset, uint64_t len)
{
    uint64_t granules = granules_of(len);
    MCS_ENSURE(offset % MCS_ALLOCATOR_GRANULE == 0 && len <= allocator->size);
    give_back(allocator, offset / MCS_ALLOCATOR_GRANULE, granules);
    allocator->extents--;
    return granules * MCS_ALLOCATOR_GRANULE;
}

uint64_t mcs_allocator_trim(mcs_allocator_t *allocator, uint64_t offset, uint64_t len, uint64_t keep)
{
    uint64_t granules = granules_of(len);
    uint64_t kept = granules_of(keep);
    MCS_ENSURE(offset % MCS_ALLOCATOR_GRANULE == 0 && len <= allocator->size && keep > 0);
    if (kept >= granules) {
        return 0;
    }
    give_back(allocator, offset / MCS_ALLOCATOR_GRANULE + kept, granules - kept);
    return (granules - kept) * MCS_ALLOCATOR_GRANULE;
}

/* The largest hole that a request would find: it looks at the first SCAN of a class only, and so does this. */
static uint64_t largest_free(const mcs_allocator_t *a)
{
    if (a->fl_bits == 0) {
        return 0;
    }
    uint32_t fl = 63u - (uint32_t)__builtin_clzll(a->fl_bits);
    uint32_t sl = 63u - (uint32_t)__builtin_clzll(a->sl_bits[fl]);
    uint64_t largest = 0;
    uint32_t at = a->heads[fl][sl];
    for (uint32_t i = 0; i < SCAN && at != NONE; i++) {
        const hole_t *h = hole_at(a, at);
        largest = MCS_MAX(largest, h->len);
        at = h->back;
    }
    return largest * MCS_ALLOCATOR_GRANULE;
}

void mcs_allocator_stats(const mcs_allocator_t *allocator, mcs_allocator_stats_t *stats_out)
{
    const mcs_allocator_t *a = allocator;
    *stats_out = (mcs_allocator_stats_t){
        .size = a->size,
        .used = a->used_granules * MCS_ALLOCATOR_GRANULE,
        .largest_free = largest_free(a),
        .high_mark = a->high_granules * MCS_ALLOCATOR_GRANULE,
        .extents = a->extents,
        .memory_bytes = sizeof(*a) + a->hole_count * sizeof(hole_t) + a->bucket_count * sizeof(bucket_t),
    };
}
