/* The extent allocator under the loads that the design names: how full a segment gets, and what a call costs.
 *
 *   allocator_bench [--json] [--quick]
 *
 * Utilisation: fill to the first refusal, then churn for ten capacities the way the master does: a request that finds
 * no hole evicts at random until it fits. Printed are the fill of the first refusal and the mean and minimum over the
 * refusals of the last capacity. Time: one free of a random extent and one allocation, at several populations, in
 * groups of 16 calls (one clock reading costs as much as a call); p50 and p99 of the groups' means. Exits 1 when a goal
 * of the table is missed. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "master/allocator.h"

#define CHURN_CAPACITIES 10
#define GROUP            16u

typedef struct item {
    uint64_t offset;
    uint64_t len;
} item_t;

static bool g_json; /* a line a row instead of the tables */
static uint64_t g_seed = 0x9e3779b97f4a7c15u;

/* xorshift64*: the same run every time. */
static uint64_t next_random(void)
{
    g_seed ^= g_seed >> 12;
    g_seed ^= g_seed << 25;
    g_seed ^= g_seed >> 27;
    return g_seed * UINT64_C(0x2545f4914f6cdd1d);
}

static uint64_t uniform_size(uint64_t i)
{
    (void)i;
    return 2 * MCS_MIB + 128;
}

static uint64_t odd_uniform_size(uint64_t i)
{
    (void)i;
    return 1234567;
}

/* Two tensors a block, as in multi-head latent attention: 3.12 MB and 643 KB. */
static uint64_t paired_size(uint64_t i)
{
    return i % 2 == 0 ? 3271557 : 658432;
}

static uint64_t random_size(uint64_t i)
{
    (void)i;
    return 1024 + next_random() % (2 * MCS_MIB);
}

static uint64_t wide_size(uint64_t i)
{
    (void)i;
    return (UINT64_C(1) << (10 + next_random() % 13)) + next_random() % 4096;
}

typedef struct load {
    const char *name;
    uint64_t (*size)(uint64_t i);
    double goal_fill;  /* share of the segment in use at the first refusal */
    double goal_churn; /* mean at the refusals after the churn */
} load_t;

static const load_t g_loads[] = {
    {"uniform 2 MiB", uniform_size, 0.99, 0.99},
    {"uniform 1234567 B", odd_uniform_size, 0.99, 0.99},
    {"pairs 3.12 MB + 643 KB", paired_size, 0.985, 0.985},
    {"random 1 KiB - 2 MiB", random_size, 0.98, 0.92},
    {"powers of two + 4 KiB noise", wide_size, 0.98, 0.92},
};

typedef struct set {
    mcs_allocator_t *allocator;
    item_t *items;
    size_t count;
    size_t cap;
} set_t;

static void evict_random(set_t *set)
{
    size_t victim = next_random() % set->count;
    mcs_allocator_free(set->allocator, set->items[victim].offset, set->items[victim].len);
    set->items[victim] = set->items[--set->count];
}

static double fill_share(const set_t *set)
{
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(set->allocator, &stats);
    return (double)stats.used / (double)stats.size;
}

static bool put_item(set_t *set, uint64_t len)
{
    item_t item = {.len = len};
    if (set->count == set->cap || mcs_allocator_alloc(set->allocator, len, &item.offset) != MCS_OK) {
        return false;
    }
    set->items[set->count++] = item;
    return true;
}

static bool run_load(const load_t *load, uint64_t capacity)
{
    set_t set = {.cap = capacity / 1024};
    if (mcs_allocator_create(capacity, &set.allocator) != MCS_OK) {
        return false;
    }
    set.items = mcs_malloc(set.cap * sizeof(item_t));
    if (set.items == NULL) {
        mcs_allocator_destroy(set.allocator);
        return false;
    }
    uint64_t written = 0;
    uint64_t refusals = 0;
    double first = 0;
    double sum = 0;
    double low = 1;
    for (uint64_t i = 0; written < (CHURN_CAPACITIES + 1) * capacity; i++) {
        uint64_t len = load->size(i);
        if (!put_item(&set, len)) {
            double share = fill_share(&set);
            first = first == 0 ? share : first;
            if (written >= CHURN_CAPACITIES * capacity) {
                refusals++;
                sum += share;
                low = MCS_MIN(low, share);
            }
            do {
                evict_random(&set);
            } while (!put_item(&set, len));
        }
        written += len;
    }
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(set.allocator, &stats);
    double mean = sum / (double)MCS_MAX(refusals, (uint64_t)1);
    bool ok = first >= load->goal_fill && mean >= load->goal_churn;
    if (g_json) {
        printf("{\"load\": \"%s\", \"fill\": %.5f, \"churn\": %.5f, \"churn_min\": %.5f}\n", load->name, first, mean,
               low);
    } else {
        printf("%-28s  first refusal %6.2f %%   after churn mean %6.2f %%  min %6.2f %%   %8" PRIu64
               " extents  %5.1f B each  %s\n",
               load->name, first * 100, mean * 100, low * 100, stats.extents,
               (double)stats.memory_bytes / (double)stats.extents, ok ? "ok" : "BELOW GOAL");
    }
    mcs_allocator_destroy(set.allocator);
    mcs_free(set.items);
    return ok;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Shell sort: qsort() may use the heap, and 20 lines are not worth a dependency. */
static void sort_u64(uint64_t *values, size_t count)
{
    for (size_t gap = count / 2; gap > 0; gap /= 2) {
        for (size_t i = gap; i < count; i++) {
            uint64_t value = values[i];
            size_t at = i;
            for (; at >= gap && compare_u64(&value, &values[at - gap]) < 0; at -= gap) {
                values[at] = values[at - gap];
            }
            values[at] = value;
        }
    }
}

/* `mixed`: sizes of 4 KiB to 128 KiB, else all alike. */
static bool run_time(size_t population, bool mixed, size_t groups, double goal_ns)
{
    uint64_t mean_len = mixed ? 66 * MCS_KIB : 64 * MCS_KIB;
    uint64_t capacity = population * mean_len + population * mean_len / 8;
    set_t set = {.cap = population * 2};
    uint64_t *times = mcs_malloc(groups * sizeof(*times));
    set.items = mcs_malloc(set.cap * sizeof(item_t));
    if (times == NULL || set.items == NULL || mcs_allocator_create(capacity, &set.allocator) != MCS_OK) {
        return false;
    }
    for (size_t i = 0; i < population; i++) {
        if (!put_item(&set, mixed ? 4096 + next_random() % (124 * MCS_KIB) : mean_len)) {
            break;
        }
    }
    /* A round of churn so that the holes are scattered. */
    for (size_t i = 0; i < population; i++) {
        evict_random(&set);
        while (!put_item(&set, mixed ? 4096 + next_random() % (124 * MCS_KIB) : mean_len)) {
            evict_random(&set);
        }
    }
    for (size_t g = 0; g < groups; g++) {
        uint64_t lens[GROUP / 2];
        item_t victims[GROUP / 2];
        for (size_t i = 0; i < GROUP / 2; i++) {
            lens[i] = mixed ? 4096 + next_random() % (124 * MCS_KIB) : mean_len;
            size_t victim = next_random() % set.count;
            victims[i] = set.items[victim];
            set.items[victim] = set.items[--set.count];
        }
        uint64_t start = mcs_now_ns();
        for (size_t i = 0; i < GROUP / 2; i++) {
            mcs_allocator_free(set.allocator, victims[i].offset, victims[i].len);
            (void)!put_item(&set, lens[i]);
        }
        times[g] = mcs_now_ns() - start;
    }
    sort_u64(times, groups);
    const size_t middle = groups / 2;
    const size_t late = groups * 99 / 100;
    double p50 = (double)times[middle] / GROUP;
    double p99 = (double)times[late] / GROUP;
    bool ok = p50 <= goal_ns;
    if (g_json) {
        printf("{\"extents\": %zu, \"sizes\": \"%s\", \"p50_ns\": %.1f, \"p99_ns\": %.1f}\n", population,
               mixed ? "mixed" : "uniform", p50, p99);
    } else {
        printf("%9zu extents, %-7s  p50 %6.1f ns   p99 %6.1f ns a call   %s\n", population, mixed ? "mixed" : "uniform",
               p50, p99, ok ? "ok" : "BELOW GOAL");
    }
    mcs_allocator_destroy(set.allocator);
    mcs_free(set.items);
    mcs_free(times);
    return ok;
}

int main(int argc, char **argv)
{
    bool quick = false;
    bool ok = true;
    for (int i = 1; i < argc; i++) {
        quick |= strcmp(argv[i], "--quick") == 0;
        g_json |= strcmp(argv[i], "--json") == 0;
    }
    if (!g_json) {
        printf("utilisation of a %s segment\n", quick ? "2 GiB" : "16 GiB");
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_loads); i++) {
        ok &= run_load(&g_loads[i], quick ? 2 * MCS_GIB : 16 * MCS_GIB);
    }
    if (!g_json) {
        printf("time of a call\n");
    }
    static const size_t populations[] = {1000, 10000, 100000, 1000000};
    for (size_t i = 0; i < MCS_ARRAY_LEN(populations) - (quick ? 1 : 0); i++) {
        /* A million extents do not fit into the cache: then it is the memory's latency that is measured, and no goal.
         */
        double goal = populations[i] > 100000 ? 1e9 : 60;
        ok &= run_time(populations[i], false, quick ? 20000 : 100000, goal);
        ok &= run_time(populations[i], true, quick ? 20000 : 100000, goal);
    }
    return ok ? 0 : 1;
}
