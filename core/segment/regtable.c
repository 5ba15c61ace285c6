/* See regtable.h: an array sorted by base address. Thousands of entries move a few tens of KiB per change. */
#include "core/segment/regtable.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/lock.h"

#define ENTRIES_MAX ((size_t)1 << 20)

typedef struct entry {
    uint64_t base;
    uint64_t len;
} entry_t;

struct mcs_regtable {
    mcs_rwlock_t lock;
    entry_t *entries;
    size_t count;
    size_t cap;
};

mcs_status_t mcs_regtable_create(mcs_regtable_t **table_out)
{
    mcs_regtable_t *table = MCS_NEW(mcs_regtable_t);
    if (table == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_rwlock_init(&table->lock, MCS_RANK_CLIENT_REGTABLE, "regtable");
    *table_out = table;
    return MCS_OK;
}

void mcs_regtable_destroy(mcs_regtable_t *table)
{
    if (table != NULL) {
        mcs_rwlock_fini(&table->lock);
        mcs_free(table->entries);
        mcs_free(table);
    }
}

/* Index of the first entry whose base is above `base`. */
static size_t upper_bound(const mcs_regtable_t *table, uint64_t base)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->entries[middle].base <= base) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static mcs_status_t insert_locked(mcs_regtable_t *table, uint64_t base, uint64_t len)
{
    size_t at = upper_bound(table, base);
    if (at > 0 && table->entries[at - 1].base + table->entries[at - 1].len > base) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (at < table->count && base + len > table->entries[at].base) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (table->count == ENTRIES_MAX) {
        return MCS_ERR_LIMIT;
    }
    if (table->count == table->cap) {
        size_t cap = table->cap == 0 ? 16 : table->cap * 2;
        entry_t *entries = mcs_realloc(table->entries, cap * sizeof(*entries));
        if (entries == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        table->entries = entries;
        table->cap = cap;
    }
    memmove(&table->entries[at + 1], &table->entries[at], (table->count - at) * sizeof(entry_t));
    table->entries[at] = (entry_t){base, len};
    table->count++;
    return MCS_OK;
}

mcs_status_t mcs_regtable_add(mcs_regtable_t *table, const void *ptr, uint64_t len)
{
    uint64_t base = (uint64_t)(uintptr_t)ptr;
    if (ptr == NULL || len == 0 || base + len < base) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_rwlock_wrlock(&table->lock);
    mcs_status_t status = insert_locked(table, base, len);
    mcs_rwlock_wrunlock(&table->lock);
    return status;
}

mcs_status_t mcs_regtable_remove(mcs_regtable_t *table, const void *ptr)
{
    uint64_t base = (uint64_t)(uintptr_t)ptr;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    mcs_rwlock_wrlock(&table->lock);
    size_t at = upper_bound(table, base);
    if (at > 0 && table->entries[at - 1].base == base) {
        memmove(&table->entries[at - 1], &table->entries[at], (table->count - at) * sizeof(entry_t));
        table->count--;
        status = MCS_OK;
    }
    mcs_rwlock_wrunlock(&table->lock);
    return status;
}

bool mcs_regtable_contains(mcs_regtable_t *table, const void *ptr, uint64_t len)
{
    uint64_t base = (uint64_t)(uintptr_t)ptr;
    mcs_rwlock_rdlock(&table->lock);
    size_t at = upper_bound(table, base);
    const entry_t *entry = at > 0 ? &table->entries[at - 1] : NULL;
    bool inside = entry != NULL && base - entry->base <= entry->len && len <= entry->len - (base - entry->base);
    mcs_rwlock_rdunlock(&table->lock);
    return inside;
}

uint64_t mcs_regtable_count(mcs_regtable_t *table)
{
    mcs_rwlock_rdlock(&table->lock);
    uint64_t count = table->count;
    mcs_rwlock_rdunlock(&table->lock);
    return count;
}
