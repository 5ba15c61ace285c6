/* See allocator.h.
 *
 *   memory   |  used  | hole |      used      |   used  |          hole           |   every granule belongs to one node
 *   nodes       7 <----> 2 <-------> 9 <----------> 4 <----------> 1                 linked in address order (before,
 * after) classes  [fl][sl] -> 2 <-> 31 <-> …                                              holes of like size, linked
 * (fore, back)
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
 * Nodes live in chunks that never move; only the small table of chunks is reallocated. A tree by address (as in
 * jemalloc) would spare the two address links but cost a search a call; boundary tags in the memory itself are
 * impossible, since it is another process's. */
#include "master/allocator.h"

#include "core/base/alloc.h"

#define SIZE_MAX_BYTES (UINT64_C(1) << 46)
#define SL_LOG2        6u
#define SL_COUNT       (1u << SL_LOG2)
/* Of 2^40 granules: bit 40 is first level 40 - SL_LOG2 + 1. */
#define FL_COUNT    36u
#define SCAN        4u
#define NONE        UINT32_MAX
#define CHUNK_LOG2  11u
#define CHUNK_NODES (1u << CHUNK_LOG2)

/* In `fore` of nodes that are no holes: above every index, and not NONE. */
#define MARK_USED  (UINT32_MAX - 1)
#define MARK_SPARE (UINT32_MAX - 2)

typedef struct node {
    uint64_t start;  /* granules */
    uint64_t len;    /* granules */
    uint32_t before; /* neighbours by address; `after` also links spare nodes */
    uint32_t after;
    uint32_t fore; /* neighbours in the class; `fore` of other nodes is their mark */
    uint32_t back;
} node_t;
_Static_assert(sizeof(node_t) <= 32, "a node is at most half a cache line");

typedef struct size_class {
    uint32_t fl;
    uint32_t sl;
} size_class_t;

struct mcs_allocator {
    uint64_t size; /* bytes, as given */
    uint64_t used_granules;
    uint64_t high_granules;
    uint64_t extents;
    uint64_t fl_bits;
    uint64_t sl_bits[FL_COUNT];
    uint32_t heads[FL_COUNT][SL_COUNT];
    node_t **chunks;
    uint32_t chunk_count;
    uint32_t chunk_cap;
    uint32_t node_count; /* nodes ever made */
    uint32_t spare;      /* list of nodes without a role */
};

static inline node_t *node_at(const mcs_allocator_t *a, uint32_t index)
{
    return &a->chunks[index >> CHUNK_LOG2][index & (CHUNK_NODES - 1)];
}

static inline bool is_hole(const node_t *n)
{
    return n->fore != MARK_USED && n->fore != MARK_SPARE;
}

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

static void link_hole(mcs_allocator_t *a, uint32_t index, node_t *n)
{
    size_class_t c = class_of(n->len);
    uint32_t head = a->heads[c.fl][c.sl];
    n->fore = NONE;
    n->back = head;
    if (head != NONE) {
        node_t *first = node_at(a, head);
        if (n->start < first->start) {
            first->fore = index;
        } else { /* second place: the first one lies lower */
            n->fore = head;
            n->back = first->back;
            first->back = index;
            if (n->back != NONE) {
                node_at(a, n->back)->fore = index;
            }
            return;
        }
    }
    a->heads[c.fl][c.sl] = index;
    a->sl_bits[c.fl] |= UINT64_C(1) << c.sl;
    a->fl_bits |= UINT64_C(1) << c.fl;
}

static void unlink_hole(mcs_allocator_t *a, node_t *n)
{
    if (n->back != NONE) {
        node_at(a, n->back)->fore = n->fore;
    }
    if (n->fore != NONE) {
        node_at(a, n->fore)->back = n->back;
        return;
    }
    size_class_t c = class_of(n->len);
    a->heads[c.fl][c.sl] = n->back;
    if (n->back == NONE) {
        a->sl_bits[c.fl] &= ~(UINT64_C(1) << c.sl);
        if (a->sl_bits[c.fl] == 0) {
            a->fl_bits &= ~(UINT64_C(1) << c.fl);
        }
    }
}

/* Room for one chunk more; the chunks themselves stay where they are. */
static mcs_status_t add_chunk(mcs_allocator_t *a)
{
    if (a->chunk_count == a->chunk_cap) {
        uint32_t cap = MCS_MAX(a->chunk_cap * 2, 8u);
        node_t **chunks = mcs_realloc(a->chunks, cap * sizeof(node_t *));
        if (chunks == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        a->chunks = chunks;
        a->chunk_cap = cap;
    }
    node_t *chunk = mcs_malloc(CHUNK_NODES * sizeof(node_t));
    if (chunk == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    a->chunks[a->chunk_count++] = chunk;
    return MCS_OK;
}

static mcs_status_t take_spare(mcs_allocator_t *a, uint32_t *index_out)
{
    if (a->spare != NONE) {
        *index_out = a->spare;
        a->spare = node_at(a, a->spare)->after;
        return MCS_OK;
    }
    if (a->node_count == NONE - CHUNK_NODES) { /* four thousand million extents in one segment */
        return MCS_ERR_NO_MEMORY;
    }
    if (a->node_count == a->chunk_count << CHUNK_LOG2) {
        mcs_status_t status = add_chunk(a);
        if (status != MCS_OK) {
            return status;
        }
    }
    *index_out = a->node_count++;
    return MCS_OK;
}

static void give_spare(mcs_allocator_t *a, uint32_t index, node_t *n)
{
    n->fore = MARK_SPARE;
    n->after = a->spare;
    a->spare = index;
}

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
    a->spare = NONE;
    for (uint32_t fl = 0; fl < FL_COUNT; fl++) {
        for (uint32_t sl = 0; sl < SL_COUNT; sl++) {
            a->heads[fl][sl] = NONE;
        }
    }
    uint64_t granules = size / MCS_ALLOCATOR_GRANULE;
    if (granules > 0) {
        uint32_t index;
        mcs_status_t status = take_spare(a, &index);
        if (status != MCS_OK) {
            mcs_allocator_destroy(a);
            return status;
        }
        node_t *all = node_at(a, index);
        *all = (node_t){.len = granules, .before = NONE, .after = NONE};
        link_hole(a, index, all);
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
        mcs_free(allocator->chunks[i]);
    }
    mcs_free(allocator->chunks);
    mcs_free(allocator);
}

/* The best of a class's first holes that take `granules`; the lower of two equal ones. */
static uint32_t scan_class(const mcs_allocator_t *a, size_class_t c, uint64_t granules)
{
    uint32_t best = NONE;
    uint64_t best_len = UINT64_MAX;
    uint64_t best_start = 0;
    uint32_t at = a->heads[c.fl][c.sl];
    for (uint32_t i = 0; i < SCAN && at != NONE; i++) {
        const node_t *n = node_at(a, at);
        if (n->len >= granules && (n->len < best_len || (n->len == best_len && n->start < best_start))) {
            best = at;
            best_len = n->len;
            best_start = n->start;
            if (best_len == granules) {
                break;
            }
        }
        at = n->back;
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

mcs_status_t mcs_allocator_alloc(mcs_allocator_t *allocator, uint64_t len, uint64_t *offset_out, uint32_t *node_out)
{
    mcs_allocator_t *a = allocator;
    if (len == 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (len > a->size) {
        return MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    uint64_t granules = (len + MCS_ALLOCATOR_GRANULE - 1) / MCS_ALLOCATOR_GRANULE;
    uint32_t index = find_hole(a, granules);
    if (index == NONE) {
        return MCS_ERR_NO_AVAILABLE_HANDLE;
    }
    node_t *n = node_at(a, index);
    if (n->len == granules) {
        unlink_hole(a, n);
    } else {
        uint32_t rest_index;
        mcs_status_t status = take_spare(a, &rest_index);
        if (status != MCS_OK) {
            return status; /* nothing has changed yet */
        }
        unlink_hole(a, n);
        node_t *rest = node_at(a, rest_index);
        *rest = (node_t){.start = n->start + granules, .len = n->len - granules, .before = index, .after = n->after};
        if (rest->after != NONE) {
            node_at(a, rest->after)->before = rest_index;
        }
        n->after = rest_index;
        n->len = granules;
        link_hole(a, rest_index, rest);
    }
    n->fore = MARK_USED;
    a->used_granules += granules;
    a->extents++;
    a->high_granules = MCS_MAX(a->high_granules, n->start + granules);
    *offset_out = n->start * MCS_ALLOCATOR_GRANULE;
    *node_out = index;
    return MCS_OK;
}

uint64_t mcs_allocator_free(mcs_allocator_t *allocator, uint32_t node)
{
    mcs_allocator_t *a = allocator;
    MCS_ENSURE(node < a->node_count);
    node_t *n = node_at(a, node);
    MCS_ENSURE(n->fore == MARK_USED);
    uint64_t granules = n->len;
    a->used_granules -= granules;
    a->extents--;
    if (n->after != NONE) {
        uint32_t after_index = n->after;
        node_t *after = node_at(a, after_index);
        if (is_hole(after)) {
            unlink_hole(a, after);
            n->len += after->len;
            n->after = after->after;
            if (n->after != NONE) {
                node_at(a, n->after)->before = node;
            }
            give_spare(a, after_index, after);
        }
    }
    if (n->before != NONE) {
        uint32_t before_index = n->before;
        node_t *before = node_at(a, before_index);
        if (is_hole(before)) {
            unlink_hole(a, before);
            before->len += n->len;
            before->after = n->after;
            if (n->after != NONE) {
                node_at(a, n->after)->before = before_index;
            }
            give_spare(a, node, n);
            node = before_index;
            n = before;
        }
    }
    link_hole(a, node, n);
    return granules * MCS_ALLOCATOR_GRANULE;
}

uint64_t mcs_allocator_trim(mcs_allocator_t *allocator, uint32_t node, uint64_t len)
{
    mcs_allocator_t *a = allocator;
    MCS_ENSURE(node < a->node_count && len > 0);
    uint64_t granules = (len + MCS_ALLOCATOR_GRANULE - 1) / MCS_ALLOCATOR_GRANULE;
    uint32_t rest_index;
    if (granules >= node_at(a, node)->len || take_spare(a, &rest_index) != MCS_OK) {
        return 0;
    }
    node_t *n = node_at(a, node);
    MCS_ENSURE(n->fore == MARK_USED);
    node_t *rest = node_at(a, rest_index);
    *rest = (node_t){.start = n->start + granules, .len = n->len - granules, .before = node, .after = n->after};
    rest->fore = MARK_USED;
    if (rest->after != NONE) {
        node_at(a, rest->after)->before = rest_index;
    }
    n->after = rest_index;
    n->len = granules;
    a->extents++;
    return mcs_allocator_free(a, rest_index);
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
        const node_t *n = node_at(a, at);
        largest = MCS_MAX(largest, n->len);
        at = n->back;
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
        .memory_bytes =
            sizeof(*a) + a->chunk_cap * sizeof(node_t *) + (uint64_t)a->chunk_count * CHUNK_NODES * sizeof(node_t),
    };
}
