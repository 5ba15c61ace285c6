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
    uint32_t node;
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
    uint32_t node = 0;
    mcs_status_t status = mcs_allocator_alloc(m->allocator, len, &offset, &node);
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
    m->extents[m->extent_count++] = (model_extent_t){first, count, node};
    m->taken += count;
    m->high = MCS_MAX(m->high, first + count);
}

static void model_free(model_t *m, size_t at)
{
    model_extent_t e = m->extents[at];
    assert_int_equal(mcs_allocator_free(m->allocator, e.node), e.count * G);
    memset(m->map + e.first, 0, e.count);
    m->taken -= e.count;
    m->extents[at] = m->extents[--m->extent_count];
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
    uint32_t node = 7;
    assert_int_equal(mcs_allocator_alloc(a, 0, &offset, &node), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_allocator_alloc(a, 961, &offset, &node), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, 1000, &offset, &node), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, UINT64_MAX, &offset, &node), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, UINT64_MAX - 62, &offset, &node), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(offset, 7); /* outputs only on success */
    assert_int_equal(node, 7);
    assert_int_equal(mcs_allocator_alloc(a, 960, &offset, &node), MCS_OK);
    assert_int_equal(offset, 0);
    mcs_allocator_destroy(a);
}

static void a_segment_shorter_than_a_granule_has_no_space(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(63);
    uint64_t offset;
    uint32_t node;
    assert_int_equal(mcs_allocator_alloc(a, 1, &offset, &node), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(used_of(a), 0);
    mcs_allocator_destroy(a);
}

static void the_largest_segment_is_given_out_whole(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(UINT64_C(1) << 46);
    uint64_t offset;
    uint32_t node;
    assert_int_equal(mcs_allocator_alloc(a, UINT64_C(1) << 46, &offset, &node), MCS_OK);
    assert_int_equal(mcs_allocator_free(a, node), UINT64_C(1) << 46);
    assert_int_equal(mcs_allocator_alloc(a, (UINT64_C(1) << 46) - 64, &offset, &node), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, 64, &offset, &node), MCS_OK);
    assert_int_equal(offset, (UINT64_C(1) << 46) - 64);
    mcs_allocator_destroy(a);
}

static void low_addresses_are_used_first(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(1024 * G);
    uint32_t nodes[8];
    uint64_t offset;
    for (uint64_t i = 0; i < 8; i++) {
        assert_int_equal(mcs_allocator_alloc(a, G, &offset, &nodes[i]), MCS_OK);
        assert_int_equal(offset, i * G);
    }
    /* Equal holes, freed in either order: the lower one is taken. */
    mcs_allocator_free(a, nodes[1]);
    mcs_allocator_free(a, nodes[5]);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset, &nodes[1]), MCS_OK);
    assert_int_equal(offset, G);
    mcs_allocator_free(a, nodes[1]);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset, &nodes[1]), MCS_OK);
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
    uint32_t small;
    uint32_t wall;
    uint32_t rest;
    assert_int_equal(mcs_allocator_alloc(a, 129 * G, &offset, &small), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset, &wall), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, 170 * G, &offset, &rest), MCS_OK);
    mcs_allocator_free(a, small);
    assert_int_equal(mcs_allocator_alloc(a, 129 * G, &offset, &small), MCS_OK);
    assert_int_equal(offset, 0);
    mcs_allocator_free(a, small);
    assert_int_equal(mcs_allocator_alloc(a, 130 * G, &offset, &small), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_allocator_alloc(a, 128 * G, &offset, &small), MCS_OK);
    mcs_allocator_destroy(a);
}

static void the_largest_free_can_be_had(void **state)
{
    (void)state;
    g_random = 99;
    mcs_allocator_t *a = create(UINT64_C(1) << 24);
    uint32_t nodes[2048];
    size_t count = 0;
    for (int round = 0; round < 2000; round++) {
        uint64_t offset;
        if (count < MCS_ARRAY_LEN(nodes) - 1 &&
            mcs_allocator_alloc(a, 1 + next_random() % 30000, &offset, &nodes[count]) == MCS_OK) {
            count++;
        } else {
            for (int i = 0; i < 40 && count > 0; i++) {
                size_t at = next_random() % count;
                mcs_allocator_free(a, nodes[at]);
                nodes[at] = nodes[--count];
            }
        }
        mcs_allocator_stats_t stats;
        mcs_allocator_stats(a, &stats);
        if (stats.largest_free > 0) {
            uint32_t node;
            assert_int_equal(mcs_allocator_alloc(a, stats.largest_free, &offset, &node), MCS_OK);
            mcs_allocator_free(a, node);
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
    uint32_t node;
    while (mcs_allocator_alloc(a, 1234567, &offset, &node) == MCS_OK) {
    }
    assert_true(used_of(a) >= size / 100 * 99);
    mcs_allocator_destroy(a);
}

/* Rounds of random eviction and refilling, sizes of two tensors a block and random ones. */
static double churned_fill(bool pairs)
{
    uint64_t size = UINT64_C(1) << 30;
    mcs_allocator_t *a = create(size);
    uint32_t *nodes = mcs_malloc(65536 * sizeof(uint32_t));
    assert_non_null(nodes);
    size_t count = 0;
    uint64_t written = 0;
    double sum = 0;
    int refusals = 0;
    g_random = 4711;
    for (uint64_t i = 0; written < 11 * size; i++) {
        uint64_t len = pairs ? (i % 2 == 0 ? 3271557 : 658432) : 1024 + next_random() % (UINT64_C(1) << 21);
        uint64_t offset;
        uint32_t node;
        mcs_status_t status = mcs_allocator_alloc(a, len, &offset, &node);
        if (status != MCS_OK && written > 10 * size) {
            sum += (double)used_of(a) / (double)size;
            refusals++;
        }
        while (status != MCS_OK) {
            size_t victim = next_random() % count;
            mcs_allocator_free(a, nodes[victim]);
            nodes[victim] = nodes[--count];
            status = mcs_allocator_alloc(a, len, &offset, &node);
        }
        assert_true(count < 65536);
        nodes[count++] = node;
        written += len;
    }
    mcs_allocator_destroy(a);
    mcs_free(nodes);
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
    /* Nodes run out in the middle: the call fails once, then goes on. */
    int failures = 0;
    uint64_t expected = 0;
    for (int i = 0; i < 50000; i++) {
        uint64_t offset;
        uint32_t node;
        mcs_fault_arm(MCS_FAULT_ALLOC, 1);
        mcs_status_t status = mcs_allocator_alloc(a, G, &offset, &node);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        if (status != MCS_OK) {
            assert_int_equal(status, MCS_ERR_NO_MEMORY);
            failures++;
            assert_int_equal(used_of(a), expected);
            assert_int_equal(mcs_allocator_alloc(a, G, &offset, &node), MCS_OK);
        }
        assert_int_equal(offset, expected); /* no hole was lost */
        expected += G;
        assert_int_equal(used_of(a), expected);
    }
    assert_true(failures > 3);
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

static bool free_is_caught(mcs_allocator_t *a, uint32_t node)
{
    g_caught = false;
    mcs_log_set_sink(jump_on_ensure, NULL);
    if (setjmp(g_jump) == 0) {
        mcs_allocator_free(a, node);
    }
    mcs_log_set_sink(NULL, NULL);
    return g_caught;
}

static void a_node_freed_twice_or_never_given_is_caught(void **state)
{
    (void)state;
    mcs_allocator_t *a = create(100 * G);
    uint64_t offset;
    uint32_t first;
    uint32_t second;
    assert_int_equal(mcs_allocator_alloc(a, G, &offset, &first), MCS_OK);
    assert_int_equal(mcs_allocator_alloc(a, G, &offset, &second), MCS_OK);
    assert_int_equal(mcs_allocator_free(a, first), G);
    assert_true(free_is_caught(a, first)); /* a hole now */
    assert_int_equal(mcs_allocator_free(a, second), G);
    assert_true(free_is_caught(a, second)); /* merged: a spare node */
    assert_true(free_is_caught(a, 12345));
    assert_true(free_is_caught(a, UINT32_MAX));
    assert_int_equal(used_of(a), 0);
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
        cmocka_unit_test(a_node_freed_twice_or_never_given_is_caught),
    };
    return cmocka_run_group_tests_name("allocator", tests, NULL, NULL);
}
