/* See policy_sim.h. An object is in at most one of a few queues; a queue is a doubly linked list through two arrays. */
#include "bench/micro/policy_sim.h"

#include <string.h>

#include "core/base/alloc.h"

#define NONE     UINT32_MAX
#define QUEUES   5u
#define FREQ_MAX 3u
#define SMALL_OF 10u /* the small queue has a tenth */
#define NO_QUEUE 0u

/* ARC: recent, frequent and their ghosts. S3-FIFO: small, main, ghost. LRU and FIFO: the first. */
enum { RECENT = 1, FREQUENT = 2, RECENT_GHOST = 3, FREQUENT_GHOST = 4 };
enum { SMALL = 1, MAIN = 2, GHOST = 3 };

typedef struct queue {
    uint32_t head; /* newest */
    uint32_t tail;
    uint32_t count;
} queue_t;

struct policy_sim {
    unsigned resident; /* queues 1 .. resident hold what is there, the others ghosts */
    bool (*access)(policy_sim_t *sim, uint32_t id);
    uint32_t capacity;
    uint32_t target; /* ARC: wanted size of RECENT */
    queue_t queues[QUEUES];
    uint32_t *newer;
    uint32_t *older;
    uint8_t *where;
    uint8_t *freq;
};

static void unlink_id(policy_sim_t *sim, uint32_t id)
{
    queue_t *queue = &sim->queues[sim->where[id]];
    uint32_t newer = sim->newer[id];
    uint32_t older = sim->older[id];
    *(newer == NONE ? &queue->head : &sim->older[newer]) = older;
    *(older == NONE ? &queue->tail : &sim->newer[older]) = newer;
    queue->count--;
    sim->where[id] = NO_QUEUE;
}

static void push(policy_sim_t *sim, uint32_t id, unsigned to)
{
    queue_t *queue = &sim->queues[to];
    sim->newer[id] = NONE;
    sim->older[id] = queue->head;
    *(queue->head == NONE ? &queue->tail : &sim->newer[queue->head]) = id;
    queue->head = id;
    queue->count++;
    sim->where[id] = (uint8_t)to;
}

static void move(policy_sim_t *sim, uint32_t id, unsigned to)
{
    unlink_id(sim, id);
    push(sim, id, to);
}

static void drop_oldest(policy_sim_t *sim, unsigned from)
{
    unlink_id(sim, sim->queues[from].tail);
}

/* ---- FIFO, LRU ---- */

static bool fifo_access(policy_sim_t *sim, uint32_t id)
{
    if (sim->where[id] != NO_QUEUE) {
        return true;
    }
    if (sim->queues[RECENT].count == sim->capacity) {
        drop_oldest(sim, RECENT);
    }
    push(sim, id, RECENT);
    return false;
}

static bool lru_access(policy_sim_t *sim, uint32_t id)
{
    bool hit = fifo_access(sim, id);
    move(sim, id, RECENT);
    return hit;
}

/* ---- ARC ---- */

static void arc_replace(policy_sim_t *sim, bool in_frequent_ghost)
{
    uint32_t recent = sim->queues[RECENT].count;
    if (recent > 0 &&
        (recent > sim->target || (in_frequent_ghost && recent == sim->target) || sim->queues[FREQUENT].count == 0)) {
        move(sim, sim->queues[RECENT].tail, RECENT_GHOST);
    } else {
        move(sim, sim->queues[FREQUENT].tail, FREQUENT_GHOST);
    }
}

static void arc_adapt(policy_sim_t *sim, bool towards_recent)
{
    uint32_t recent = MCS_MAX(sim->queues[RECENT_GHOST].count, 1u);
    uint32_t frequent = MCS_MAX(sim->queues[FREQUENT_GHOST].count, 1u);
    if (towards_recent) {
        sim->target = MCS_MIN(sim->target + MCS_MAX(frequent / recent, 1u), sim->capacity);
    } else {
        sim->target -= MCS_MIN(MCS_MAX(recent / frequent, 1u), sim->target);
    }
}

static bool arc_access(policy_sim_t *sim, uint32_t id)
{
    unsigned where = sim->where[id];
    if (where == RECENT || where == FREQUENT) {
        move(sim, id, FREQUENT);
        return true;
    }
    if (where == RECENT_GHOST || where == FREQUENT_GHOST) {
        arc_adapt(sim, where == RECENT_GHOST);
        arc_replace(sim, where == FREQUENT_GHOST);
        move(sim, id, FREQUENT);
        return false;
    }
    uint32_t seen_once = sim->queues[RECENT].count + sim->queues[RECENT_GHOST].count;
    uint32_t all = seen_once + sim->queues[FREQUENT].count + sim->queues[FREQUENT_GHOST].count;
    if (seen_once == sim->capacity && sim->queues[RECENT].count == sim->capacity) {
        drop_oldest(sim, RECENT);
    } else if (seen_once == sim->capacity) {
        drop_oldest(sim, RECENT_GHOST);
        arc_replace(sim, false);
    } else if (all >= sim->capacity) {
        if (all == 2 * sim->capacity) {
            drop_oldest(sim, FREQUENT_GHOST);
        }
        arc_replace(sim, false);
    }
    push(sim, id, RECENT);
    return false;
}

/* ---- S3-FIFO ---- */

static void s3_to_ghost(policy_sim_t *sim, uint32_t id)
{
    move(sim, id, GHOST);
    if (sim->queues[GHOST].count > sim->capacity - sim->capacity / SMALL_OF) {
        drop_oldest(sim, GHOST);
    }
}

/* True: something left. */
static bool s3_evict_small(policy_sim_t *sim)
{
    uint32_t id = sim->queues[SMALL].tail;
    if (sim->freq[id] > 1) {
        sim->freq[id] = 0;
        move(sim, id, MAIN);
        return false;
    }
    s3_to_ghost(sim, id);
    return true;
}

static bool s3_evict_main(policy_sim_t *sim)
{
    uint32_t id = sim->queues[MAIN].tail;
    if (sim->freq[id] > 0) {
        sim->freq[id]--;
        move(sim, id, MAIN);
        return false;
    }
    unlink_id(sim, id);
    return true;
}

static bool s3_access(policy_sim_t *sim, uint32_t id)
{
    unsigned where = sim->where[id];
    if (where == SMALL || where == MAIN) {
        sim->freq[id] = (uint8_t)MCS_MIN(sim->freq[id] + 1u, FREQ_MAX);
        return true;
    }
    while (sim->queues[SMALL].count + sim->queues[MAIN].count >= sim->capacity) {
        bool small =
            sim->queues[SMALL].count > 0 &&
            (sim->queues[SMALL].count >= MCS_MAX(sim->capacity / SMALL_OF, 1u) || sim->queues[MAIN].count == 0);
        (void)(small ? s3_evict_small(sim) : s3_evict_main(sim));
    }
    /* It may have left the ghost while room was made. */
    bool was_ghost = sim->where[id] == GHOST;
    if (was_ghost) {
        unlink_id(sim, id);
    }
    sim->freq[id] = 0;
    push(sim, id, was_ghost ? MAIN : SMALL);
    return false;
}

/* ---- by name ---- */

policy_sim_t *policy_sim_create(const char *name, uint32_t ids, uint32_t capacity)
{
    static const struct {
        const char *name;
        unsigned resident;
        bool (*access)(policy_sim_t *sim, uint32_t id);
    } policies[] = {{"fifo", RECENT, fifo_access},
                    {"lru", RECENT, lru_access},
                    {"arc", FREQUENT, arc_access},
                    {"s3fifo", MAIN, s3_access}};
    policy_sim_t *sim = MCS_NEW(policy_sim_t);
    if (sim == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(policies); i++) {
        if (strcmp(name, policies[i].name) == 0) {
            sim->access = policies[i].access;
            sim->resident = policies[i].resident;
        }
    }
    for (unsigned i = 0; i < QUEUES; i++) {
        sim->queues[i] = (queue_t){NONE, NONE, 0};
    }
    sim->capacity = capacity;
    sim->newer = MCS_NEW_ARRAY(uint32_t, ids);
    sim->older = MCS_NEW_ARRAY(uint32_t, ids);
    sim->where = MCS_NEW_ARRAY(uint8_t, ids);
    sim->freq = MCS_NEW_ARRAY(uint8_t, ids);
    if (sim->access == NULL || capacity == 0 || sim->newer == NULL || sim->older == NULL || sim->where == NULL ||
        sim->freq == NULL) {
        policy_sim_destroy(sim);
        return NULL;
    }
    return sim;
}

void policy_sim_destroy(policy_sim_t *sim)
{
    if (sim != NULL) {
        mcs_free(sim->newer);
        mcs_free(sim->older);
        mcs_free(sim->where);
        mcs_free(sim->freq);
        mcs_free(sim);
    }
}

bool policy_sim_has(const policy_sim_t *sim, uint32_t id)
{
    return sim->where[id] != NO_QUEUE && sim->where[id] <= sim->resident;
}

bool policy_sim_access(policy_sim_t *sim, uint32_t id)
{
    return sim->access(sim, id);
}
