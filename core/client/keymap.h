/* A hash map of the caller's structures by their key, and a list of them in order of insertion. The structure holds the
 * node and owns the key's bytes. Not thread-safe: the caller has a lock. */
#ifndef MCS_CLIENT_KEYMAP_H
#define MCS_CLIENT_KEYMAP_H

#include "core/base/list.h"
#include "core/base/status.h"
#include "core/wire/columns.h"

typedef struct mcs_keymap_node {
    struct mcs_keymap_node *chain;
    mcs_list_t order;
    uint64_t hash;
    mcs_key_t key;
} mcs_keymap_node_t;

typedef struct mcs_keymap {
    mcs_keymap_node_t **buckets;
    size_t bucket_count; /* a power of two, 0 = none yet */
    size_t count;
    mcs_list_t order;
} mcs_keymap_t;

void mcs_keymap_init(mcs_keymap_t *map);
/* Empty, or its structures are no longer needed. */
void mcs_keymap_fini(mcs_keymap_t *map);
mcs_keymap_node_t *mcs_keymap_find(const mcs_keymap_t *map, const mcs_key_t *key);
/* node->key is set, and not in the map. Into a map that has had a node before it cannot fail. */
mcs_status_t mcs_keymap_insert(mcs_keymap_t *map, mcs_keymap_node_t *node) MCS_MUST_CHECK;
void mcs_keymap_remove(mcs_keymap_t *map, mcs_keymap_node_t *node);

#endif
