/* See keymap.h. */
#include "core/client/keymap.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/wire/extent.h"

#define BUCKETS_MIN ((size_t)64)

void mcs_keymap_init(mcs_keymap_t *map)
{
    memset(map, 0, sizeof(*map));
    mcs_list_init(&map->order);
}

void mcs_keymap_fini(mcs_keymap_t *map)
{
    mcs_free(map->buckets);
    mcs_keymap_init(map);
}

static uint64_t hash_of(const mcs_key_t *key)
{
    return mcs_extent_key_hash(key->bytes, key->len).lo;
}

mcs_keymap_node_t *mcs_keymap_find(const mcs_keymap_t *map, const mcs_key_t *key)
{
    if (map->count == 0) {
        return NULL;
    }
    uint64_t hash = hash_of(key);
    mcs_keymap_node_t *node = map->buckets[hash & (map->bucket_count - 1)];
    while (node != NULL &&
           !(node->hash == hash && node->key.len == key->len && memcmp(node->key.bytes, key->bytes, key->len) == 0)) {
        node = node->chain;
    }
    return node;
}

/* Longer chains are the price when there is no memory for more buckets. */
static mcs_status_t grow(mcs_keymap_t *map)
{
    size_t wanted = MCS_MAX(map->bucket_count * 2, BUCKETS_MIN);
    mcs_keymap_node_t **buckets = MCS_NEW_ARRAY(mcs_keymap_node_t *, wanted);
    if (buckets == NULL) {
        return map->bucket_count > 0 ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    MCS_LIST_FOR_EACH(entry, &map->order)
    {
        mcs_keymap_node_t *node = MCS_CONTAINER_OF(entry, mcs_keymap_node_t, order);
        mcs_keymap_node_t **at = &buckets[node->hash & (wanted - 1)];
        node->chain = *at;
        *at = node;
    }
    mcs_free(map->buckets);
    map->buckets = buckets;
    map->bucket_count = wanted;
    return MCS_OK;
}

mcs_status_t mcs_keymap_insert(mcs_keymap_t *map, mcs_keymap_node_t *node)
{
    if (map->count >= map->bucket_count) {
        mcs_status_t status = grow(map);
        if (status != MCS_OK) {
            return status;
        }
    }
    node->hash = hash_of(&node->key);
    mcs_keymap_node_t **at = &map->buckets[node->hash & (map->bucket_count - 1)];
    node->chain = *at;
    *at = node;
    mcs_list_push_tail(&map->order, &node->order);
    map->count++;
    return MCS_OK;
}

void mcs_keymap_remove(mcs_keymap_t *map, mcs_keymap_node_t *node)
{
    mcs_keymap_node_t **at = &map->buckets[node->hash & (map->bucket_count - 1)];
    while (*at != node) {
        at = &(*at)->chain;
    }
    *at = node->chain;
    mcs_list_remove(&node->order);
    map->count--;
}
