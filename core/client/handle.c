/* Handles: see mcstore.h.
 *
 *   view   a pinned extent of an own or same-host segment: the slot keeps the bytes from being given back, the pin
 * keeps the mapping copy   a piece of the local buffer, which it keeps
 *
 * Both live without the client: a view outlives close and even the owner's process, since the memory is mapped here.
 * Viewed bytes are capped per client, because a pinned extent is space that the cluster cannot reuse. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/client/read.h"

#define ARENA_CHUNK ((size_t)16384)
#define ARENA_MAX   ((size_t)1 << 30)
#define CHUNK       ((size_t)1024)
#define RESIZES     32 /* each time somebody's upsert has gone forward; a miss would be wrong (rule 2) */

struct mcs_views {
    uint32_t refs;  /* atomic: the client, each view */
    uint64_t bytes; /* atomic */
};

struct mcs_handle {
    uint64_t process; /* rule 11 */
    void *ptr;
    size_t size;
    mcs_views_t *views; /* of a view, else NULL */
    mcs_pin_t pin;
    mcs_bufpool_t *pool; /* of a copy, else NULL */
};

mcs_status_t mcs_views_create(mcs_views_t **views_out)
{
    mcs_views_t *views = MCS_NEW(mcs_views_t);
    if (views == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    views->refs = 1;
    *views_out = views;
    return MCS_OK;
}

mcs_views_t *mcs_views_get(mcs_views_t *views)
{
    __atomic_fetch_add(&views->refs, 1, __ATOMIC_RELAXED);
    return views;
}

void mcs_views_put(mcs_views_t *views)
{
    if (views != NULL && __atomic_sub_fetch(&views->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_free(views);
    }
}

static bool views_take(mcs_views_t *views, uint64_t bytes, uint64_t limit)
{
    uint64_t held = __atomic_load_n(&views->bytes, __ATOMIC_RELAXED);
    do {
        if (bytes > limit || held > limit - bytes) {
            return false;
        }
    } while (
        !__atomic_compare_exchange_n(&views->bytes, &held, held + bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

static void views_give(mcs_views_t *views, uint64_t bytes)
{
    __atomic_fetch_sub(&views->bytes, bytes, __ATOMIC_RELAXED);
}

/* ---- the handle ---- */

static bool is_ours(const mcs_handle_t *handle)
{
    return handle != NULL && handle->process == mcs_process_token();
}

void *mcs_handle_ptr(const mcs_handle_t *handle)
{
    return is_ours(handle) ? handle->ptr : NULL;
}

size_t mcs_handle_size(const mcs_handle_t *handle)
{
    return is_ours(handle) ? handle->size : 0;
}

int mcs_handle_readonly(const mcs_handle_t *handle)
{
    return handle != NULL && handle->views != NULL;
}

void mcs_handle_release(mcs_handle_t *handle)
{
    if (!is_ours(handle)) {
        return; /* a forked child: the slot and the memory are the parent's */
    }
    if (handle->views != NULL) {
        mcs_unpin(&handle->pin);
        views_give(handle->views, handle->size);
        mcs_views_put(handle->views);
    }
    if (handle->pool != NULL) {
        mcs_bufpool_free(handle->pool, handle->ptr);
        mcs_bufpool_put(handle->pool);
    }
    mcs_free(handle);
}

static mcs_handle_t *new_handle(void)
{
    mcs_handle_t *handle = MCS_NEW(mcs_handle_t);
    if (handle != NULL) {
        handle->process = mcs_process_token();
    }
    return handle;
}

/* ---- views ---- */

static mcs_status_t verify(const mcs_pin_t *pin)
{
    const uint32_t *crcs = mcs_pin_crcs(pin);
    for (uint64_t from = 0; from < pin->payload_len; from += MCS_EXTENT_CRC_BLOCK) {
        uint64_t len = MCS_MIN(pin->payload_len - from, MCS_EXTENT_CRC_BLOCK);
        if (mcs_crc32c(0, (const char *)pin->payload + from, (size_t)len) != *crcs++) {
            return MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
    return MCS_OK;
}

/* A view of one replica; MCS_ERR_AGAIN when it has to be a copy, or another replica. */
static mcs_status_t view_replica(mcs_client_t *client, mcs_read_item_t *item, mcs_route_t *route,
                                 const mcs_col_replica_t *replica, mcs_handle_t **handle_out)
{
    uint64_t size = item->found.size;
    uint64_t limit = client->config.view_limit != 0 ? client->config.view_limit : route->peer->size / 2;
    if (!views_take(client->views, size, limit)) {
        return MCS_ERR_AGAIN;
    }
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    mcs_handle_t *handle = new_handle();
    if (handle == NULL) {
        goto err_give;
    }
    status = mcs_pin_read(route->mapping, replica->offset, replica->generation, size,
                          mcs_extent_key_hash(item->key.bytes, item->key.len), &handle->pin);
    if (status != MCS_OK) {
        status = MCS_ERR_AGAIN; /* the general way finds out what it means */
        goto err_free;
    }
    status = verify(&handle->pin);
    if (status != MCS_OK) {
        status = MCS_ERR_AGAIN; /* and counts */
        goto err_unpin;
    }
    handle->ptr = handle->pin.payload;
    handle->size = (size_t)size;
    handle->views = mcs_views_get(client->views);
    mcs_count(&client->counters, views, 1);
    mcs_count(&client->counters, bytes_viewed, size);
    *handle_out = handle;
    return MCS_OK;

err_unpin:
    mcs_unpin(&handle->pin);
err_free:
    mcs_free(handle);
err_give:
    views_give(client->views, size);
    return status;
}

static mcs_status_t view(mcs_read_t *read, mcs_read_item_t *item, mcs_handle_t **handle_out)
{
    if (!mcs_found_is_leased(&item->found)) {
        return MCS_ERR_AGAIN;
    }
    int best = mcs_read_choose(read, item);
    mcs_route_t *route = best >= 0 ? mcs_routes_find(&read->routes, item->found.replicas[best].segment) : NULL;
    if (route == NULL) {
        return MCS_ERR_AGAIN;
    }
    mcs_route_map(read->client, route);
    /* What lies in a device's memory nobody can look at. */
    return route->mapping != NULL && mcs_mapping_far(route->mapping) == NULL
               ? view_replica(read->client, item, route, &item->found.replicas[best], handle_out)
               : MCS_ERR_AGAIN;
}

/* ---- copies ---- */

typedef struct target {
    mcs_handle_t *handle;
    struct iovec iov;
} target_t;

static mcs_status_t make_copy(mcs_client_t *client, mcs_read_item_t *item, target_t *target)
{
    mcs_handle_t *handle = new_handle();
    if (handle == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = mcs_bufpool_alloc(client->pool, item->found.size, &handle->ptr);
    if (status != MCS_OK) {
        mcs_free(handle);
        return status;
    }
    handle->pool = mcs_bufpool_get(client->pool);
    handle->size = (size_t)item->found.size;
    target->handle = handle;
    target->iov = (struct iovec){handle->ptr, handle->size};
    item->iov = &target->iov;
    item->iov_count = 1;
    item->capacity = item->found.size;
    return MCS_OK;
}

static void release(target_t *target)
{
    mcs_handle_release(target->handle);
    target->handle = NULL;
}

/* Was it replaced by an object of another size while we read? Then it is looked up anew. */
static bool begin_again(mcs_read_item_t *item, target_t *target)
{
    if (item->status != MCS_ERR_INVALID_PARAMS || target->handle == NULL) {
        return false;
    }
    release(target);
    mcs_key_t key = item->key;
    memset(item, 0, sizeof(*item));
    item->key = key;
    item->status = MCS_ERR_AGAIN;
    return true;
}

/* One pass over the items that are AGAIN; true when some are still. */
static mcs_status_t read_pass(mcs_client_t *client, mcs_read_item_t *items, target_t *targets, size_t n, bool last,
                              mcs_arena_t *arena, bool *again_out)
{
    mcs_read_t read;
    mcs_read_init(&read, client, items, n, arena);
    mcs_status_t status = mcs_read_lookup(&read);
    bool again = false;
    for (size_t i = 0; status == MCS_OK && i < n; i++) {
        mcs_read_item_t *item = &items[i];
        if (item->status != MCS_ERR_AGAIN) {
            continue;
        }
        item->status = view(&read, item, &targets[i].handle);
        if (item->status == MCS_ERR_AGAIN) {
            mcs_status_t copy = make_copy(client, item, &targets[i]);
            item->status = copy != MCS_OK ? copy : MCS_ERR_AGAIN;
        }
    }
    if (status == MCS_OK) {
        read.exact = true;
        mcs_read_run(&read);
    }
    for (size_t i = 0; status == MCS_OK && i < n; i++) {
        if (!last && begin_again(&items[i], &targets[i])) {
            again = true;
        } else if (items[i].status != MCS_OK) {
            release(&targets[i]);
        }
    }
    mcs_read_fini(&read);
    *again_out = again;
    return status;
}

static mcs_status_t get_chunk(mcs_client_t *client, const mcs_bytes_t *keys, size_t n, mcs_read_item_t *items,
                              target_t *targets, mcs_arena_t *arena)
{
    memset(items, 0, n * sizeof(*items));
    memset(targets, 0, n * sizeof(*targets));
    for (size_t i = 0; i < n; i++) {
        items[i].status = mcs_key_take(keys[i], &items[i].key);
        items[i].status = items[i].status == MCS_OK ? MCS_ERR_AGAIN : items[i].status;
    }
    bool again = true;
    mcs_status_t status = MCS_OK;
    for (int pass = 0; status == MCS_OK && again; pass++) {
        status = read_pass(client, items, targets, n, pass == RESIZES, arena, &again);
    }
    return status;
}

mcs_status_t mcs_client_get_handles(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, mcs_handle_t **handles,
                                    int64_t *results)
{
    size_t chunk = MCS_MIN(count, CHUNK);
    mcs_read_item_t *items = MCS_NEW_ARRAY(mcs_read_item_t, chunk);
    target_t *targets = MCS_NEW_ARRAY(target_t, chunk);
    mcs_status_t status = items == NULL || targets == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    for (size_t from = 0; status == MCS_OK && from < count; from += CHUNK) {
        size_t n = MCS_MIN(count - from, CHUNK);
        mcs_status_t chunk_status = get_chunk(client, keys + from, n, items, targets, &arena);
        for (size_t i = 0; i < n; i++) {
            if (chunk_status != MCS_OK && items[i].status == MCS_ERR_AGAIN) {
                items[i].status = chunk_status;
            }
            int64_t result = mcs_read_result(client, &items[i]);
            if (result < 0) {
                release(&targets[i]);
            }
            handles[from + i] = targets[i].handle;
            if (results != NULL) {
                results[from + i] = result;
            }
        }
        mcs_arena_reset(&arena);
    }
    mcs_arena_fini(&arena);
    mcs_free(targets);
    mcs_free(items);
    return status;
}
