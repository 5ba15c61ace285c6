/* Yardsticks for the master's eviction: classical cache policies over objects of one size, by name. Single-threaded.
 *
 *   fifo     evicts what came first
 *   lru      evicts what was used longest ago
 *   arc      Megiddo & Modha 2003: two LRU lists (seen once, seen again) whose sizes follow hits in their ghosts
 *   s3fifo   Yang et al. 2023: a small queue in front of a main one; what was used only once leaves through the ghost
 */
#ifndef MCS_BENCH_POLICY_SIM_H
#define MCS_BENCH_POLICY_SIM_H

#include "core/base/macros.h"

typedef struct policy_sim policy_sim_t;

/* Objects are numbered 0 .. ids - 1. NULL: an unknown name, or no memory. */
policy_sim_t *policy_sim_create(const char *name, uint32_t ids, uint32_t capacity);
void policy_sim_destroy(policy_sim_t *sim);
bool policy_sim_has(const policy_sim_t *sim, uint32_t id);
/* Uses the object, and takes it in when it is not there. True: it was there. */
bool policy_sim_access(policy_sim_t *sim, uint32_t id);

#endif
