/* The extent allocator against a naive model: a byte map of granules. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/allocator.h"

#define G MCS_ALLOCATOR_GRANULE

static uint64_t g_random;

static uint64_t next_random(void)
{
    g_random ^= g_random >> 12;
    g_random ^= g_random << 25;
    g_random ^= g_random >> 27;
    return g_random * UINT64_C(0x2545f4914f6cdd1d);
}

typedef struct extent {
    uint64_t offset;
    uint64_t len;
} extent_t;

static mcs_allocator_t *create(uint64_t size)
{
    mcs_allocator_t *a = NULL;
    assert_int_equal(mcs_allocator_create(size, &a), MCS_OK);
    return a;
}

static uint64_t used_of(const mcs_allocator_t *a)
{
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(a, &stats);
    return stats.used;
}

/* The model: which granules are taken, and by what. */
typedef struct model_extent {
    uint64_t first;
    uint64_t count;
    uint64_t len; /* as asked for */
} model_extent_t;

typedef struct model {
    mcs_allocator_t *allocator;
    uint64_t granules;
    uint64_t taken; /* granules */
    uint64_t high;
    uint8_t map[4096];
    model_extent_t extents[4096];
    size_t extent_count;
} model_t;

static uint64_t model_largest_hole(const model_t *m)
{
    uint64_t largest = 0;
    uint64_t run = 0;
    for (uint64_t i = 0; i < m->granules; i++) {
        run = m->map[i] != 0 ? 0 : run + 1;
        largest = MCS_MAX(largest, run);
    }
    return largest;
}

static void model_check(const model_t *m)
{
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(m->allocator, &stats);
    assert_int_equal(stats.used, m->taken * G);
    assert_int_equal(stats.extents, m->extent_count);
    assert_int_equal(stats.high_mark, m->high * G);
    uint64_t largest = model_largest_hole(m);
    assert_true(stats.largest_free <= largest * G);
    /* A class is less than 1/32 wide: neighbours that were not merged, or a lost hole, would break this. */
    assert_true(stats.largest_free >= largest * G - largest * G / 32);
    assert_int_equal(stats.largest_free == 0, largest == 0);
}

static void model_alloc(model_t *m, uint64_t len)
{
    uint64_t count = (len + G - 1) / G;
    mcs_allocator_stats_t before;
    mcs_allocator_stats(m->allocator, &before);
    uint64_t offset = 0;
    mcs_status_t status = mcs_allocator_alloc(m->allocator, len, &offset);
    if (status != MCS_OK) {
        assert_int_equal(status, MCS_ERR_NO_AVAILABLE_HANDLE);
        assert_true(len > before.largest_free);
        return;
    }
    assert_int_equal(offset % G, 0);
    uint64_t first = offset / G;
    assert_true(first + count <= m->granules);
    for (uint64_t i = first; i < first + count; i++) {
        assert_int_equal(m->map[i], 0);
        m->map[i] = 1;
    }
    m->extents[m->extent_count++] = (model_extent_t){first, count, len};
    m->taken += count;
    m->high = MCS_MAX(m->high, first + count);
}

static void model_free(model_t *m, size_t at)
{
    model_extent_t e = m->extents[at];
    assert_int_equal(mcs_allocator_free(m->allocator, e.first * G, e.len), e.count * G);
    memset(m->map + e.first, 0, e.count);
    m->taken -= e.count;
    m->extents[at] = m->extents[--m->extent_count];
}

static void model_trim(model_t *m, size_t at)
{
    model_extent_t *e = &m->extents[at];
    uint64_t keep = 1 + next_random() % e->len;
    uint64_t count = (keep + G - 1) / G;
    assert_int_equal(mcs_allocator_trim(m->allocator, e->first * G, e->len, keep), (e->count - count) * G);
    memset(m->map + e->first + count, 0, e->count - count);
    m->taken -= e->count - count;
    e->count = count;
    e->len = keep;
}

static void run_model(uint64_t seed, uint64_t granules, uint64_t max_len, int steps)
{
    static model_t m;
    g_random = seed * 2 + 1;
    memset(&m, 0, sizeof(m));
    m.granules = granules;
    m.allocator = create(granules * G + seed % G); /* the odd tail is never given out */
    for (int i = 0; i < steps; i++) {
        bool grow = next_random() % 8 < (m.taken * 10 < granules * 9 ? 5 : 3);
        if (grow || m.extent_count == 0) {
            model_alloc(&m, 1 + next_random() % max_len);
        } else if (next_random() % 8 == 0) {
            model_trim(&m, next_random() % m.extent_count);
        } else {
            model_free(&m, next_random() % m.extent_count);
        }
        model_check(&m);
    }
    while (m.extent_count > 0) {
        model_free(&m, next_random() % m.extent_count);
    }
    model_check(&m);
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(m.allocator, &stats);
    assert_int_equal(stats.largest_free, granules * G); /* all merged again */
    mcs_allocator_destroy(m.allocator);
}

static void random_operations_agree_with_a_map_of_granules(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        run_model(seed, 1 + seed % 3, 3 * G, 300);
        run_model(seed, 200, 8 * G, 2000);
        run_model(seed, 4096, 400 * G, 1000);
        run_model(seed, 3000 + seed, G, 1500);
    }
}

static void bad_sizes_are_refused(void **state)
{
    (void)state;
    mcs_allocator_t *a = NULL;
    assert_int_equal(mcs_allocator_create(0, &a), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_allocator_create((UINT64_C(1) << 46) + 1, &a), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_allocator_create(UINT64_MAX, &a), MCS_ERR_INVALID_PARAMS);
    assert_null(a);
    mcs_allocator_destroy(NULL);

    a = create(1000); /* 15 granules and a tail */
    uint64_t offset = 7;
    assert_int_equal(mcs_allocator_alloc(a, 0, &offset), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_allocator_alloc(a, 961, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, 1000, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, UINT64_MAX, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, UINT64_MAX - 62, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(offset, 7); /* outputs only on success */
    assert_int_equal(mcs_allocator_alloc(a, 960, &offset), MCS_OK);
    assert_int_equal(offset, 0);
    mcs_allocator_destroy(a);
}

static void a_segment_shorter_than_a_granule_has_no_space(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(63);
    uint64_t offset;
    assert_int_equal(mcs_allocator_alloc(a, 1, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(used_of(a), 0);
    mcs_allocator_destroy(a);
}

static void the_largest_segment_is_given_out_whole(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(UINT64_C(1) << 46);
    uint64_t offset;
    assert_int_equal(mcs_allocator_alloc(a, UINT64_C(1) << 46, &offset), MCS_OK);
    assert_int_equal(mcs_allocator_free(a, offset, UINT64_C(1) << 46), UINT64_C(1) << 46);
    assert_int_equal(mcs_allocator_alloc(a, (UINT64_C(1) << 46) - 64, &offset), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, 64, &offset), MCS_OK);
    assert_int_equal(offset, (UINT64_C(1) << 46) - 64);
    mcs_allocator_destroy(a);
}

static void low_addresses_are_used_first(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(1024 * G);
    uint64_t offset;
    for (uint64_t i = 0; i < 8; i++) {
        assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
        assert_int_equal(offset, i * G);
    }
    /* Equal holes, freed in either order: the lower one is taken. */
    mcs_allocator_free(a, G, G);
    mcs_allocator_free(a, 5 * G, G);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
    assert_int_equal(offset, G);
    mcs_allocator_free(a, G, G);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
    assert_int_equal(offset, G);
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(a, &stats);
    assert_int_equal(stats.high_mark, 8 * G); /* a hole below is better than new memory */
    mcs_allocator_destroy(a);
}

/* 100 and 101 granules, say, share a class: the search must not skip the one that fits. */
static void a_hole_of_the_same_class_is_found(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(300 * G);
    uint64_t offset;
    assert_int_equal(mcs_allocator_alloc(a, 129 * G, &offset), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, 170 * G, &offset), MCS_OK);
    mcs_allocator_free(a, 0, 129 * G);
    assert_int_equal(mcs_allocator_alloc(a, 129 * G, &offset), MCS_OK);
    assert_int_equal(offset, 0);
    mcs_allocator_free(a, 0, 129 * G);
    assert_int_equal(mcs_allocator_alloc(a, 130 * G, &offset), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, 128 * G, &offset), MCS_OK);
    mcs_allocator_destroy(a);
}

static void the_largest_free_can_be_had(void **state)
{
    (void)state;
    g_random = 99;
    mcs_allocator_t *a = create(UINT64_C(1) << 24);
    static extent_t extents[2048];
    size_t count = 0;
    for (int round = 0; round < 2000; round++) {
        extents[count].len = 1 + next_random() % 30000;
        if (count < MCS_ARRAY_LEN(extents) - 1 &&
            mcs_allocator_alloc(a, extents[count].len, &extents[count].offset) == MCS_OK) {
            count++;
        } else {
            for (int i = 0; i < 40 && count > 0; i++) {
                size_t at = next_random() % count;
                mcs_allocator_free(a, extents[at].offset, extents[at].len);
                extents[at] = extents[--count];
            }
        }
        mcs_allocator_stats_t stats;
        mcs_allocator_stats(a, &stats);
        if (stats.largest_free > 0) {
            uint64_t offset;
            assert_int_equal(mcs_allocator_alloc(a, stats.largest_free, &offset), MCS_OK);
            mcs_allocator_free(a, offset, stats.largest_free);
        }
    }
    mcs_allocator_destroy(a);
}

static void uniform_sizes_fill_a_segment(void **state)
{
    (void)state;
    uint64_t size = UINT64_C(1) << 30;
    mcs_allocator_t *a = create(size);
    uint64_t offset;
    while (mcs_allocator_alloc(a, 1234567, &offset) == MCS_OK) {
    }
    assert_true(used_of(a) >= size / 100 * 99);
    mcs_allocator_destroy(a);
}

/* Rounds of random eviction and refilling, sizes of two tensors a block and random ones. */
static double churned_fill(bool pairs)
{
    uint64_t size = UINT64_C(1) << 30;
    mcs_allocator_t *a = create(size);
    extent_t *extents = mcs_malloc(65536 * sizeof(*extents));
    assert_non_null(extents);
    size_t count = 0;
    uint64_t written = 0;
    double sum = 0;
    int refusals = 0;
    g_random = 4711;
    for (uint64_t i = 0; written < 11 * size; i++) {
        uint64_t len = pairs ? (i % 2 == 0 ? 3271557 : 658432) : 1024 + next_random() % (UINT64_C(1) << 21);
        uint64_t offset = 0;
        mcs_status_t status = mcs_allocator_alloc(a, len, &offset);
        if (status != MCS_OK && written > 10 * size) {
            sum += (double)used_of(a) / (double)size;
            refusals++;
        }
        while (status != MCS_OK) {
            size_t victim = next_random() % count;
            mcs_allocator_free(a, extents[victim].offset, extents[victim].len);
            extents[victim] = extents[--count];
            status = mcs_allocator_alloc(a, len, &offset);
        }
        assert_true(count < 65536);
        extents[count++] = (extent_t){offset, len};
        written += len;
    }
    mcs_allocator_destroy(a);
    mcs_free(extents);
    return sum / refusals;
}

static void churn_does_not_shred_a_segment(void **state)
{
    (void)state;
    assert_true(churned_fill(true) >= 0.985);
    assert_true(churned_fill(false) >= 0.92);
}

static void every_lost_allocation_leaves_the_allocator_as_it_was(void **state)
{
    (void)state;
    mcs_allocator_t *a = NULL;
    for (uint64_t nth = 1;; nth++) {
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        mcs_status_t status = mcs_allocator_create(UINT64_C(1) << 30, &a);
        bool fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        if (!fired) {
            assert_int_equal(status, MCS_OK);
            break;
        }
        assert_int_equal(status, MCS_ERR_NO_MEMORY);
        assert_null(a);
    }
    /* Room runs out in the middle: the call fails once, then goes on. */
    int failures = 0;
    uint64_t expected = 0;
    for (int i = 0; i < 50000; i++) {
        uint64_t offset;
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        mcs_status_t status = mcs_allocator_alloc(a, G, &offset);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        if (status != MCS_OK) {
            assert_int_equal(status, MCS_ERR_NO_MEMORY);
            failures++;
            assert_int_equal(used_of(a), expected);
            assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
        }
        assert_int_equal(offset, expected); /* no hole was lost */
        expected += G;
        assert_int_equal(used_of(a), expected);
    }
    assert_true(failures >= 1);
    mcs_allocator_destroy(a);
}

static jmp_buf g_jump;
static bool g_caught;

static void jump_on_ensure(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    (void)level;
    g_caught = strstr(line, "invariant broken") != NULL;
    longjmp(g_jump, 1);
}

static bool free_is_caught(mcs_allocator_t *a, uint64_t offset, uint64_t len)
{
    g_caught = false;
    mcs_log_set_sink(jump_on_ensure, NULL);
    if (setjmp(g_jump) == 0) {
        mcs_allocator_free(a, offset, len);
    }
    mcs_log_set_sink(NULL, NULL);
    return g_caught;
}

static void what_does_not_fit_into_the_books_is_caught(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(100 * G);
    uint64_t offset;
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
        assert_int_equal(offset, i * G);
    }
    assert_int_equal(mcs_allocator_free(a, G, G), G);
    assert_true(free_is_caught(a, G, G));         /* again */
    assert_true(free_is_caught(a, 0, 2 * G));     /* its end is a hole's */
    assert_true(free_is_caught(a, G, 2 * G));     /* its start is */
    assert_true(free_is_caught(a, 3 * G, 2 * G)); /* beyond what was ever given out */
    assert_true(free_is_caught(a, 0, 4 * G));     /* more than is given out */
    assert_true(free_is_caught(a, 32, G));
    assert_true(free_is_caught(a, 100 * G, G));
    assert_true(free_is_caught(a, UINT64_MAX - 63, G));
    assert_true(free_is_caught(a, 0, UINT64_MAX));
    assert_true(free_is_caught(a, 0, 0));
    assert_int_equal(mcs_allocator_free(a, 0, G), G);
    assert_int_equal(mcs_allocator_free(a, 2 * G, G), G);
    assert_int_equal(mcs_allocator_free(a, 3 * G, G), G);
    assert_true(free_is_caught(a, 2 * G, G)); /* all merged: nothing is given out */
    assert_int_equal(used_of(a), 0);
    mcs_allocator_destroy(a);
}

/* Every second extent of many is given back, with no memory to be had: each makes a hole of its own. */
static void giving_back_never_needs_memory(void **state)
{
    (void)state;
    enum { EXTENTS = 20001 };
    mcs_allocator_t *a = create(EXTENTS * G);
    uint64_t offset;
    for (uint64_t i = 0; i < EXTENTS; i++) {
        assert_int_equal(mcs_allocator_alloc(a, G, &offset), MCS_OK);
    }
    mcs_fault_arm(MCS_FAULT_ALLOC, 1);
    for (uint64_t i = 0; i < EXTENTS; i += 2) {
        assert_int_equal(mcs_allocator_free(a, i * G, G), G);
    }
    assert_false(mcs_fault_fired(MCS_FAULT_ALLOC));
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(a, &stats);
    assert_int_equal(stats.largest_free, G);
    assert_int_equal(stats.used, EXTENTS / 2 * G);
    for (uint64_t i = 1; i < EXTENTS; i += 2) {
        assert_int_equal(mcs_allocator_free(a, i * G, G), G);
    }
    mcs_allocator_stats(a, &stats);
    assert_int_equal(stats.largest_free, EXTENTS * G);
    mcs_allocator_destroy(a);
}

static void what_is_given_out_costs_no_memory(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(UINT64_C(1) << 32);
    mcs_allocator_stats_t before;
    mcs_allocator_stats_t after;
    uint64_t offset;
    mcs_allocator_stats(a, &before);
    for (uint64_t i = 0; i < 100000; i++) {
        assert_int_equal(mcs_allocator_alloc(a, 100, &offset), MCS_OK);
    }
    mcs_allocator_stats(a, &after);
    assert_int_equal(after.extents, 100000);
    assert_int_equal(after.memory_bytes, before.memory_bytes);
    mcs_allocator_destroy(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_agree_with_a_map_of_granules),
        cmocka_unit_test(bad_sizes_are_refused),
        cmocka_unit_test(a_segment_shorter_than_a_granule_has_no_space),
        cmocka_unit_test(the_largest_segment_is_given_out_whole),
        cmocka_unit_test(low_addresses_are_used_first),
        cmocka_unit_test(a_hole_of_the_same_class_is_found),
        cmocka_unit_test(the_largest_free_can_be_had),
        cmocka_unit_test(uniform_sizes_fill_a_segment),
        cmocka_unit_test(churn_does_not_shred_a_segment),
        cmocka_unit_test(every_lost_allocation_leaves_the_allocator_as_it_was),
        cmocka_unit_test(what_does_not_fit_into_the_books_is_caught),
        cmocka_unit_test(giving_back_never_needs_memory),
        cmocka_unit_test(what_is_given_out_costs_no_memory),
    };
    return cmocka_run_group_tests_name("allocator", tests, NULL, NULL);
}
