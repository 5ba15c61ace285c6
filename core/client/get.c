/* Gets into the caller's memory, in one step and in two. See client.h, mcstore.h.
 *
 * A call of many keys is worked off in chunks of what one lookup may carry, each looked up and moved before the next,
 * so that leases are young when they are used and memory is bounded. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/client/read.h"

#define CHUNK       MCS_BATCH_KEYS
#define ARENA_CHUNK ((size_t)16384)
#define ARENA_MAX   ((size_t)1 << 30)
#define COUNT_MAX   ((size_t)64 << 20) /* keys in one call */

/* ---- in one step ---- */

static void set_target(mcs_read_item_t *item, mcs_bytes_t key, const mcs_value_t *buffer)
{
    memset(item, 0, sizeof(*item));
    item->iov = buffer->iov;
    item->iov_count = buffer->iov_count;
    item->status = mcs_key_take(key, &item->key);
    if (item->status == MCS_OK) {
        item->status = mcs_iov_total(buffer->iov, buffer->iov_count, UINT64_MAX, &item->capacity);
    }
    if (item->status == MCS_OK) {
        item->status = MCS_ERR_AGAIN;
    }
}

/* Small calls keep their items on the stack. */
#define FEW 4

mcs_status_t mcs_client_get_into(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_value_t *buffers,
                                 size_t count, int64_t *results)
{
    mcs_read_item_t few[FEW];
    mcs_read_item_t *items = few;
    if (count > FEW) {
        items = MCS_NEW_ARRAY(mcs_read_item_t, MCS_MIN(count, (size_t)CHUNK));
        if (items == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    for (size_t from = 0; from < count; from += CHUNK) {
        size_t n = MCS_MIN(count - from, (size_t)CHUNK);
        for (size_t i = 0; i < n; i++) {
            set_target(&items[i], keys[from + i], &buffers[from + i]);
        }
        mcs_read_t read;
        mcs_read_init(&read, client, items, n, &arena);
        mcs_read_run(&read);
        for (size_t i = 0; i < n; i++) {
            results[from + i] = mcs_read_result(client, &items[i]);
        }
        mcs_read_fini(&read);
        mcs_arena_reset(&arena);
    }
    mcs_arena_fini(&arena);
    if (items != few) {
        mcs_free(items);
    }
    return MCS_OK;
}

/* ---- in two steps ---- */

struct mcs_get {
    mcs_get_owner_t owner;
    mcs_arena_t arena; /* what was found, and the keys */
    mcs_read_item_t *items;
    size_t count;
};

size_t mcs_get_count(const struct mcs_get *get)
{
    return get->count;
}

mcs_get_owner_t *mcs_get_owner(struct mcs_get *get)
{
    return &get->owner;
}

void mcs_get_free(struct mcs_get *get)
{
    mcs_arena_fini(&get->arena);
    mcs_free(get->items);
    mcs_free(get);
}

static mcs_status_t copy_key(mcs_arena_t *arena, mcs_bytes_t from, mcs_read_item_t *item)
{
    item->status = mcs_key_take(from, &item->key);
    if (item->status != MCS_OK) {
        return MCS_OK;
    }
    char *bytes = mcs_arena_alloc(arena, from.len);
    if (bytes == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    memcpy(bytes, from.ptr, from.len);
    item->key.bytes = bytes;
    item->status = MCS_ERR_AGAIN;
    return MCS_OK;
}

mcs_status_t mcs_client_get_begin(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, struct mcs_get **get_out)
{
    struct mcs_get *get = MCS_NEW(struct mcs_get);
    if (get == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = MCS_OK;
    mcs_arena_init(&get->arena, ARENA_CHUNK, ARENA_MAX);
    get->count = count;
    get->items = count <= COUNT_MAX ? MCS_NEW_ARRAY(mcs_read_item_t, count) : NULL;
    if (get->items == NULL) {
        status = MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; status == MCS_OK && i < count; i++) {
        status = copy_key(&get->arena, keys[i], &get->items[i]);
    }
    if (status == MCS_OK) {
        mcs_read_t read;
        mcs_read_init(&read, client, get->items, count, &get->arena);
        status = mcs_read_lookup(&read);
        mcs_read_fini(&read);
    }
    if (status != MCS_OK) {
        mcs_get_free(get);
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        if (get->items[i].status != MCS_ERR_AGAIN) {
            (void)mcs_read_result(client, &get->items[i]); /* counted once: run passes it by */
        }
    }
    *get_out = get;
    return MCS_OK;
}

int64_t mcs_get_object_size(const mcs_get_t *get, size_t i)
{
    if (get == NULL || i >= get->count) {
        return MCS_INVALID_PARAMS;
    }
    const mcs_read_item_t *item = &get->items[i];
    bool found = item->status == MCS_ERR_AGAIN && item->found.status == MCS_OK;
    return found ? (int64_t)item->found.size : (int64_t)mcs_status_public(item->status);
}

/* One chunk: items are copied, so that a get may be run again. */
static void run_chunk(mcs_client_t *client, const mcs_read_item_t *found, mcs_read_item_t *items, size_t n,
                      const struct iovec *buffers, int64_t *results, mcs_arena_t *arena)
{
    for (size_t i = 0; i < n; i++) {
        items[i] = found[i];
        items[i].iov = &buffers[i];
        items[i].iov_count = 1;
        items[i].capacity = buffers[i].iov_len;
        if (items[i].status != MCS_ERR_AGAIN) {
            continue;
        }
        if (buffers[i].iov_base == NULL) {
            items[i].status = MCS_OK; /* skipped */
        } else if (buffers[i].iov_len != found[i].found.size) {
            items[i].status = MCS_ERR_INVALID_PARAMS;
        }
    }
    mcs_read_t read;
    mcs_read_init(&read, client, items, n, arena);
    read.exact = true;
    mcs_read_run(&read);
    for (size_t i = 0; i < n; i++) {
        if (found[i].status != MCS_ERR_AGAIN) {
            results[i] = mcs_status_public(found[i].status);
        } else if (buffers[i].iov_base != NULL) {
            results[i] = mcs_read_result(client, &items[i]);
        }
    }
    mcs_read_fini(&read);
}

mcs_status_t mcs_client_get_run(mcs_client_t *client, struct mcs_get *get, const struct iovec *buffers,
                                int64_t *results)
{
    mcs_read_item_t few[FEW];
    mcs_read_item_t *items = few;
    if (get->count > FEW) {
        items = MCS_NEW_ARRAY(mcs_read_item_t, MCS_MIN(get->count, (size_t)CHUNK));
        if (items == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    for (size_t from = 0; from < get->count; from += CHUNK) {
        size_t n = MCS_MIN(get->count - from, (size_t)CHUNK);
        run_chunk(client, get->items + from, items, n, buffers + from, results + from, &arena);
        mcs_arena_reset(&arena);
    }
    mcs_arena_fini(&arena);
    if (items != few) {
        mcs_free(items);
    }
    return MCS_OK;
}
