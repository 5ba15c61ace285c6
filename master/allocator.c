/* See allocator.h.
 *
 *   memory   |  used  | hole |      used      |   used  |          hole           |
 *   holes              2                                       1                      start, length
 *   classes  [fl][sl] -> 2 <-> 31 <-> ...                                             holes of like size
 *   borders  hash of start or end -> hole                                             who is my neighbour?
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
 * Neighbours: a freed extent asks a hash table whether a hole ends where it begins, and whether one begins where it
 * ends. Both borders of a hole are in the one table: no two holes share one, or they would be one, so that a walk of
 * one chain answers both what is next to an extent and whether it is free already. A node for each extent, linked by
 * address, answers that as well, but costs 32 bytes an object and a cache miss a neighbour; a tree by address (as in
 * jemalloc) a search a call; boundary tags in the memory itself are impossible, since it is another process's. The
 * table grows by linear hashing (Litwin, 1980), four buckets for each hole that is made anew: no call ever rehashes all
 * of it.
 *
 * A call waits for branches that nobody can foresee (which of two holes lies lower, is this one the first of its class)
 * as long as it works, so these are arithmetic.
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
/* Four times as many buckets have 32 bits, too. */
#define HOLES_MAX ((UINT32_C(1) << 30) - CHUNK_HOLES)
#define EACH      4u /* buckets */

typedef struct hole {
    uint64_t start; /* granules */
    uint64_t len;   /* granules */
    uint32_t fore;  /* neighbours in the class */
    uint32_t back;
    uint32_t next[2]; /* in the bucket of its start, which also links spare ones, and of its end */
} hole_t;
_Static_assert(sizeof(hole_t) == 32, "half a cache line");

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
    uint32_t **buckets; /* first borders of chains; EACH for each hole of the chunk */
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

static inline uint32_t *bucket_at(const mcs_allocator_t *a, uint32_t index)
{
    return &a->buckets[index / (EACH * CHUNK_HOLES)][index % (EACH * CHUNK_HOLES)];
}

/* ---- neighbours ---- */

/* A border is named by its hole's index and its side, in the lowest bit. */
enum { START, END };

static inline uint32_t border(uint32_t index, uint32_t side)
{
    return index << 1 | side;
}

static inline uint64_t end_of(const hole_t *h)
{
    return h->start + h->len;
}

static inline uint64_t place_of(const hole_t *h, uint32_t side)
{
    return h->start + (h->len & (0 - (uint64_t)side));
}

static inline uint32_t hash_of(uint64_t granule)
{
    return (uint32_t)((granule * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

static inline uint32_t *bucket_of(const mcs_allocator_t *a, uint64_t granule)
{
    uint32_t index = hash_of(granule) & a->bucket_mask;
    return bucket_at(a, index < a->bucket_count ? index : index & (a->bucket_mask >> 1));
}

/* The border at this place. */
static inline uint32_t find_border(const mcs_allocator_t *a, const uint32_t *bucket, uint64_t granule)
{
    uint32_t at = *bucket;
    while (at != NONE) {
        const hole_t *h = hole_at(a, at >> 1);
        if (place_of(h, at & 1) == granule) {
            break;
        }
        at = h->next[at & 1];
    }
    return at;
}

static inline void link_border(uint32_t *bucket, uint32_t index, uint32_t side, hole_t *h)
{
    h->next[side] = *bucket;
    *bucket = border(index, side);
}

static inline void unlink_border(const mcs_allocator_t *a, uint32_t *bucket, uint32_t index, uint32_t side,
                                 const hole_t *h)
{
    uint32_t *link = bucket;
    while (*link != border(index, side)) {
        link = &hole_at(a, *link >> 1)->next[*link & 1];
    }
    *link = h->next[side];
}

/* One bucket more: what belongs there moves over from the one that had both shares. */
static void split_bucket(mcs_allocator_t *a)
{
    uint32_t fresh_index = a->bucket_count++;
    if (fresh_index > a->bucket_mask) {
        a->bucket_mask = a->bucket_mask * 2 + 1;
    }
    uint32_t *old = bucket_at(a, fresh_index & (a->bucket_mask >> 1));
    uint32_t was = *old;
    *old = *bucket_at(a, fresh_index) = NONE;
    for (uint32_t at = was, next; at != NONE; at = next) {
        hole_t *h = hole_at(a, at >> 1);
        next = h->next[at & 1];
        link_border(bucket_of(a, place_of(h, at & 1)), at >> 1, at & 1, h);
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

/* Of the new one and the first one, the lower is the first and the other the second. */
static inline void link_class(mcs_allocator_t *a, uint32_t index, hole_t *h)
{
    size_class_t c = class_of(h->len);
    uint32_t *head = &a->heads[c.fl][c.sl];
    uint32_t first_index = *head;
    h->fore = NONE;
    h->back = NONE;
    if (first_index == NONE) {
        *head = index;
        a->sl_bits[c.fl] |= UINT64_C(1) << c.sl;
        a->fl_bits |= UINT64_C(1) << c.fl;
        return;
    }
    hole_t *first = hole_at(a, first_index);
    uint32_t third = first->back;
    uint32_t lower = 0 - (uint32_t)(h->start < first->start); /* all bits or none */
    *head = (index & lower) | (first_index & ~lower);
    h->fore = first_index | lower; /* NONE is all bits */
    h->back = (first_index & lower) | (third & ~lower);
    first->fore = index | ~lower;
    first->back = (third & lower) | (index & ~lower);
    /* Before the third one is the new one, or the first one, as it was: then the new one is written once more. */
    uint32_t same = lower | (0 - (uint32_t)(third == NONE));
    hole_at(a, (index & same) | (third & ~same))->fore = (h->fore & same) | (index & ~same);
}

static inline void unlink_class(mcs_allocator_t *a, const hole_t *h)
{
    size_class_t c = class_of(h->len);
    uint32_t *head = &a->heads[c.fl][c.sl];
    uint32_t fore = h->fore;
    uint32_t back = h->back;
    if (back != NONE) {
        hole_at(a, back)->fore = fore;
    }
    hole_t *before = hole_at(a, fore != NONE ? fore : 0); /* hole 0: not used */
    uint32_t *link = fore != NONE ? &before->back : head;
    *link = back;
    if (*head == NONE) {
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
        uint32_t **buckets = mcs_realloc(a->buckets, cap * sizeof(*buckets));
        a->buckets = buckets != NULL ? buckets : a->buckets;
        if (holes == NULL || buckets == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        a->chunk_cap = cap;
    }
    hole_t *holes = mcs_malloc(CHUNK_HOLES * sizeof(*holes));
    uint32_t *buckets = mcs_malloc(EACH * CHUNK_HOLES * sizeof(*buckets));
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
        a->spare = hole_at(a, index)->next[START];
        return index;
    }
    while (a->bucket_count < EACH * (a->hole_count + 1)) {
        split_bucket(a);
    }
    return a->hole_count++;
}

static void give_spare(mcs_allocator_t *a, uint32_t index, hole_t *h)
{
    h->next[START] = a->spare;
    a->spare = index;
}

static void add_hole(mcs_allocator_t *a, uint64_t start, uint64_t len)
{
    uint32_t index = take_spare(a);
    hole_t *h = hole_at(a, index);
    h->start = start;
    h->len = len;
    link_border(bucket_of(a, start), index, START, h);
    link_border(bucket_of(a, start + len), index, END, h);
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
    *bucket_at(a, 0) = NONE;
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
static inline uint32_t scan_class(const mcs_allocator_t *a, size_class_t c, uint64_t granules)
{
    uint32_t best = NONE;
    uint64_t best_over = INT64_MAX; /* what would be left of it; of one that is too small it is above this */
    uint64_t best_start = 0;
    uint32_t at = a->heads[c.fl][c.sl];
    for (uint32_t i = 0; i < SCAN && at != NONE; i++) {
        const hole_t *h = hole_at(a, at);
        uint64_t over = h->len - granules;
        uint64_t start = h->start;
        if (over < best_over || (over == best_over && start < best_start)) {
            best = at;
            best_over = over;
            best_start = start;
            if (over == 0) {
                break;
            }
        }
        at = h->back;
    }
    return best;
}

static inline uint32_t find_hole(const mcs_allocator_t *a, uint64_t granules)
{
    size_class_t exact = class_of(granules);
    size_class_t c = {exact.fl, exact.sl + 1};
    if (c.sl == SL_COUNT) {
        c = (size_class_t){exact.fl + 1, 0};
    }
    bool larger = c.fl < FL_COUNT && next_class(a, c, &c);
    if (larger) { /* on its way meanwhile */
        __builtin_prefetch(hole_at(a, a->heads[c.fl][c.sl]));
    }
    uint32_t found = scan_class(a, exact, granules);
    return found != NONE || !larger ? found : scan_class(a, c, granules);
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
    uint32_t *low = bucket_of(a, start);
    uint32_t *high = bucket_of(a, start + granules);
    __builtin_prefetch(low, 1);
    __builtin_prefetch(high, 1);
    unlink_class(a, h);
    unlink_border(a, low, index, START, h);
    if (h->len == granules) {
        unlink_border(a, high, index, END, h);
        give_spare(a, index, h);
    } else {
        h->start += granules;
        h->len -= granules;
        link_border(high, index, START, h);
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
static void close_gap(mcs_allocator_t *a, uint32_t *high, hole_t *before, uint32_t before_index, uint32_t after_index)
{
    hole_t *after = hole_at(a, after_index);
    uint32_t *end = bucket_of(a, end_of(after));
    unlink_class(a, after);
    unlink_border(a, high, after_index, START, after);
    unlink_border(a, end, after_index, END, after);
    before->len = end_of(after) - before->start;
    link_border(end, before_index, END, before);
    give_spare(a, after_index, after);
}

/* Together with the free neighbours that it has. */
static void give_back(mcs_allocator_t *a, uint64_t start, uint64_t granules)
{
    uint64_t end = start + granules;
    MCS_ENSURE(granules > 0 && granules <= a->used_granules && start < a->granules && end <= a->high_granules);
    uint32_t *low = bucket_of(a, start);
    uint32_t *high = bucket_of(a, end);
    uint32_t before_border = find_border(a, low, start);
    uint32_t after_border = find_border(a, high, end);
    /* What is given out neither begins where a hole begins nor ends where one ends. */
    MCS_ENSURE((before_border & 1) == END && (after_border == NONE || (after_border & 1) == START));
    uint32_t before_index = before_border >> 1;
    uint32_t after_index = after_border >> 1;
    a->used_granules -= granules;
    if (before_border != NONE) {
        hole_t *before = hole_at(a, before_index);
        unlink_class(a, before);
        unlink_border(a, low, before_index, END, before);
        if (after_border != NONE) {
            close_gap(a, high, before, before_index, after_index);
        } else {
            before->len += granules;
            link_border(high, before_index, END, before);
        }
        link_class(a, before_index, before);
    } else if (after_border != NONE) {
        hole_t *after = hole_at(a, after_index);
        unlink_class(a, after);
        unlink_border(a, high, after_index, START, after);
        after->start = start;
        after->len += granules;
        link_border(low, after_index, START, after);
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
        .memory_bytes = sizeof(*a) + a->hole_count * sizeof(hole_t) + a->bucket_count * sizeof(uint32_t),
    };
}
