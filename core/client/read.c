/* See read.h.
 *
 * One pass: pick the items that need a lookup and ask; choose a replica for each; move all at once; judge. An item
 * leaves with MCS_OK or with an error when neither a replica nor a lookup is left, so the number of passes is bounded.
 * A generation that failed is not tried again when a later lookup names it again: what is looked for then is a replica
 * somewhere else.
 *
 * A dead replica that the master still names is one that is being struck (rule 2): the value is about to be replaced or
 * removed, and its owner knows already. Neither that it is there nor that it is not may be said then: who saw a miss
 * could be followed by one who sees the key, or by the new value. So the master is asked again until the strike is
 * over, which a lookup's lease says: it is twice what the strike can last. A replica that is named as dead as ever
 * after that was not struck, its header is broken: the lookups that are left say so. */
#include "core/client/read.h"

#include <poll.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/device.h"
#include "core/client/interrupt.h"
#include "core/client/lookup_cache.h"

#define AREA "client"

#define STRIKE_PAUSE_MS 1
#define STRIKE_SLACK_NS (100 * MCS_NS_PER_MS) /* the master's tick, and a busy machine */

void mcs_read_init(mcs_read_t *read, mcs_client_t *client, mcs_read_item_t *items, size_t count, mcs_arena_t *arena)
{
    memset(read, 0, sizeof(*read));
    read->client = client;
    read->items = items;
    read->count = count;
    read->arena = arena;
    mcs_routes_init(&read->routes, client);
}

void mcs_read_fini(mcs_read_t *read)
{
    mcs_routes_fini(&read->routes);
}

/* ---- lookups ---- */

static const mcs_key_t *picked_key(void *arg, size_t i)
{
    const mcs_read_t *read = arg;
    return &read->items[read->picked[i]].key;
}

static mcs_found_t *picked_found(void *arg, size_t i)
{
    mcs_read_t *read = arg;
    return &read->items[read->picked[i]].found;
}

static mcs_status_t add_routes(mcs_read_t *read, mcs_read_item_t *item)
{
    return mcs_routes_add(&read->routes, item->found.replicas, item->found.replica_count, 0);
}

static void fail_all(mcs_read_t *read, mcs_status_t status)
{
    for (size_t i = 0; i < read->count; i++) {
        if (read->items[i].status == MCS_ERR_AGAIN) {
            read->items[i].status = status;
        }
    }
}

static bool is_found(const mcs_read_item_t *item)
{
    return item->lookups > 0 || item->cached;
}

static bool wants_lookup(mcs_read_t *read, const mcs_read_item_t *item)
{
    return !is_found(item) || !mcs_found_is_leased(&item->found) || mcs_read_choose(read, item) < 0;
}

/* An item that was never looked up, and need not be. */
static bool remembered(mcs_read_t *read, mcs_read_item_t *item)
{
    if (read->fresh || is_found(item) || item->bound != NULL ||
        !mcs_lookup_cache_get(read->client->lookup_cache, &item->key, read->arena, &item->found)) {
        return false;
    }
    mcs_count(&read->client->counters, lookups_cached, 1);
    item->cached = true;
    mcs_status_t status = add_routes(read, item);
    if (status != MCS_OK) {
        item->status = status;
    }
    return true;
}

/* MCS_ERR_AGAIN: look it up. */
static mcs_status_t may_look_up(const mcs_read_item_t *item)
{
    if (item->struck && mcs_now_ns() < item->struck_until_ns) {
        return MCS_ERR_AGAIN;
    }
    uint8_t limit = item->failure == MCS_ERR_REPLICA_IS_GONE ? MCS_READ_REPLACED : MCS_READ_LOOKUPS;
    if (item->lookups < limit) {
        return MCS_ERR_AGAIN;
    }
    if (item->failure != MCS_OK) {
        return item->failure;
    }
    return MCS_ERR_LEASE_EXPIRED;
}

static mcs_status_t pick(mcs_read_t *read, bool all)
{
    read->picked_count = 0;
    if (read->picked == NULL) {
        read->picked = mcs_arena_alloc(read->arena, read->count * sizeof(uint32_t));
        if (read->picked == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    for (size_t i = 0; i < read->count; i++) {
        mcs_read_item_t *item = &read->items[i];
        if (item->status != MCS_ERR_AGAIN || remembered(read, item) || (!all && !wants_lookup(read, item))) {
            continue;
        }
        item->status = may_look_up(item);
        if (item->status == MCS_ERR_AGAIN) {
            read->picked[read->picked_count++] = (uint32_t)i;
        }
    }
    return MCS_OK;
}

static bool is_bound_value(const mcs_read_item_t *item)
{
    return item->bound == NULL || mcs_found_is_same_value(&item->found, item->bound);
}

static bool has_failed(const mcs_read_item_t *item, uint64_t generation)
{
    for (uint8_t i = 0; i < MCS_MIN(item->failed_count, MCS_READ_MEMORY); i++) {
        if (item->failed[i] == generation) {
            return true;
        }
    }
    return false;
}

/* After a lookup of an item. */
static void note_strike(mcs_read_item_t *item)
{
    item->struck = item->failure == MCS_ERR_REPLICA_IS_GONE;
    for (uint32_t i = 0; i < item->found.replica_count && item->struck; i++) {
        item->struck = has_failed(item, item->found.replicas[i].generation);
    }
    if (!item->struck) {
        item->struck_until_ns = 0;
    } else if (item->struck_until_ns == 0) {
        uint64_t now_ns = mcs_now_ns();
        uint64_t lease_ns = item->found.lease_end_ns > now_ns ? item->found.lease_end_ns - now_ns : 0;
        item->struck_until_ns = now_ns + lease_ns / 2 + STRIKE_SLACK_NS;
    }
}

/* After the answers: what they leave to be done. */
static void take_answers(mcs_read_t *read)
{
    for (size_t i = 0; i < read->picked_count; i++) {
        mcs_read_item_t *item = &read->items[read->picked[i]];
        if (!item->struck || mcs_now_ns() >= item->struck_until_ns) { /* time bounds the others */
            item->lookups++;
        }
        item->tried = 0;
        item->cached = false;
        mcs_lookup_cache_put(read->client->lookup_cache, &item->key, &item->found, false);
        if (item->lookups > 1) {
            mcs_count(&read->client->counters, failovers, 1);
        }
        if (item->found.status != MCS_OK || !is_bound_value(item)) {
            item->status = item->found.status != MCS_OK ? item->found.status : MCS_ERR_OBJECT_NOT_FOUND;
            continue;
        }
        note_strike(item);
        mcs_status_t status = add_routes(read, item);
        if (status != MCS_OK) {
            item->status = status;
        }
    }
}

/* MCS_ERR_INTERRUPTED, or there is nothing to wait for any more. */
static mcs_status_t wait_for_strikes(const mcs_read_t *read)
{
    bool struck = false;
    for (size_t i = 0; i < read->picked_count && !struck; i++) {
        struck = read->items[read->picked[i]].struck;
    }
    if (struck) {
        poll(NULL, 0, STRIKE_PAUSE_MS);
    }
    return struck && mcs_interrupt_due() ? MCS_ERR_INTERRUPTED : MCS_OK;
}

mcs_status_t mcs_read_lookup(mcs_read_t *read)
{
    mcs_status_t status = pick(read, true);
    if (status == MCS_OK && read->picked_count > 0) {
        mcs_lookup(read->client, picked_key, picked_found, read, read->picked_count, read->arena);
        take_answers(read);
    }
    return status;
}

static mcs_status_t look_up_needed(mcs_read_t *read)
{
    mcs_status_t status = pick(read, false);
    if (status == MCS_OK) {
        status = wait_for_strikes(read);
    }
    if (status == MCS_OK && read->picked_count > 0) {
        mcs_lookup(read->client, picked_key, picked_found, read, read->picked_count, read->arena);
        take_answers(read);
    }
    return status;
}

/* ---- replicas ---- */

static bool is_into_device(const mcs_read_t *read, const mcs_read_item_t *item)
{
    const void *memory = item->parts != NULL   ? item->part_count > 0 ? item->parts[0].ptr : NULL
                         : item->iov_count > 0 ? item->iov[0].iov_base
                                               : NULL;
    return mcs_device_active(read->client) && memory != NULL && mcs_device_holds(read->client, memory);
}

/* The smaller the better. A device's memory is near to what goes into a device, and for the rest it is the last that is
 * on this host. */
static int rank(const mcs_read_t *read, const mcs_read_item_t *item, const mcs_route_t *route)
{
    enum { FIRST, OWN, SAME_HOST, FAR, TRANSPORT, FAR_TRANSPORT, NONE };
    static const int ranks[] = {[MCS_PATH_OWN] = OWN,
                                [MCS_PATH_SAME_HOST] = SAME_HOST,
                                [MCS_PATH_TRANSPORT] = TRANSPORT,
                                [MCS_PATH_NONE] = NONE};
    if (mcs_route_is_far(route)) {
        return is_into_device(read, item) ? FIRST : FAR;
    }
    bool far = route->path == MCS_PATH_TRANSPORT && route->peer->far; /* brought down by its owner first */
    return far ? FAR_TRANSPORT : ranks[route->path];
}

int mcs_read_choose(mcs_read_t *read, const mcs_read_item_t *item)
{
    int best = -1;
    int best_rank = 0;
    for (uint32_t i = 0; i < item->found.replica_count; i++) {
        const mcs_col_replica_t *replica = &item->found.replicas[i];
        const mcs_route_t *route = mcs_routes_find(&read->routes, replica->segment);
        if ((item->tried & (1u << i)) != 0 || route == NULL || has_failed(item, replica->generation)) {
            continue;
        }
        int rank_here = item->found.replica_count > 1 ? rank(read, item, route) : 0;
        if (best < 0 || rank_here < best_rank) {
            best = (int)i;
            best_rank = rank_here;
        }
    }
    return best;
}

/* A part that has bytes of this object. */
static bool part_moves(const mcs_part_t *part, uint64_t object_size)
{
    return part->size > 0 && part->ptr != NULL && part->offset <= object_size &&
           part->size <= object_size - part->offset;
}

static size_t moves_needed(const mcs_read_item_t *item)
{
    if (item->parts == NULL) {
        return 1;
    }
    size_t n = 0;
    for (size_t i = 0; i < item->part_count; i++) {
        n += part_moves(&item->parts[i], item->found.size);
    }
    return n;
}

static void fill_moves(mcs_read_t *read, mcs_read_item_t *item, int replica)
{
    mcs_move_t common = {
        .route = mcs_routes_find(&read->routes, item->found.replicas[replica].segment),
        .replica = &item->found.replicas[replica],
        .session = item->found.session,
        .payload_len = item->found.size,
        .len = item->found.size,
        .key_hash = mcs_extent_key_hash(item->key.bytes, item->key.len),
        .iov = item->iov,
        .iov_count = item->iov_count,
    };
    item->tried = (uint16_t)(item->tried | (1u << replica));
    if (item->parts == NULL) {
        item->moves[0] = common;
        return;
    }
    mcs_move_t *move = item->moves;
    for (size_t i = 0; i < item->part_count; i++) {
        const mcs_part_t *part = &item->parts[i];
        if (part_moves(part, item->found.size)) {
            *move = common;
            move->from = part->offset;
            move->len = part->size;
            move->piece = (struct iovec){part->ptr, (size_t)part->size};
            move->iov = &move->piece;
            move->iov_count = 1;
            move++;
        }
    }
}

static mcs_status_t check_size(const mcs_read_t *read, const mcs_read_item_t *item)
{
    if (item->parts != NULL) {
        return moves_needed(item) > 0 ? MCS_ERR_AGAIN : MCS_OK;
    }
    bool fits = read->exact ? item->found.size == item->capacity : item->found.size <= item->capacity;
    return fits ? MCS_ERR_AGAIN : MCS_ERR_INVALID_PARAMS;
}

/* Moves for all items that can have one now. */
static mcs_status_t plan_moves(mcs_read_t *read, mcs_move_t **moves_out, size_t *count_out, uint64_t *bytes_out)
{
    size_t n = 0;
    for (size_t i = 0; i < read->count; i++) {
        mcs_read_item_t *item = &read->items[i];
        item->move_count = 0;
        if (item->status == MCS_ERR_AGAIN) {
            item->status = check_size(read, item);
        }
        if (item->status == MCS_ERR_AGAIN && mcs_found_is_leased(&item->found) && mcs_read_choose(read, item) >= 0) {
            item->move_count = moves_needed(item);
            n += item->move_count;
        }
    }
    if (n > read->move_room) {
        read->moves = mcs_arena_alloc(read->arena, n * sizeof(mcs_move_t));
        read->move_room = read->moves != NULL ? n : 0;
        if (read->moves == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    size_t at = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < read->count; i++) {
        mcs_read_item_t *item = &read->items[i];
        if (item->move_count > 0) {
            item->moves = &read->moves[at];
            fill_moves(read, item, mcs_read_choose(read, item));
            at += item->move_count;
            bytes += item->found.size;
        }
    }
    *moves_out = read->moves;
    *count_out = n;
    *bytes_out = bytes;
    return MCS_OK;
}

/* The move that decides about its item: the first that failed, before all one that ends the call. */
static const mcs_move_t *deciding_move(const mcs_read_item_t *item)
{
    const mcs_move_t *move = &item->moves[0];
    for (size_t i = 0; i < item->move_count; i++) {
        mcs_status_t status = item->moves[i].status;
        if (status == MCS_ERR_CLOSED || status == MCS_ERR_INTERRUPTED) {
            return &item->moves[i];
        }
        if (move->status == MCS_OK) {
            move = &item->moves[i];
        }
    }
    return move;
}

static void judge(mcs_read_t *read, mcs_read_item_t *item)
{
    const mcs_move_t *move = deciding_move(item);
    mcs_client_t *client = read->client;
    mcs_status_t status = move->status;
    if (status == MCS_OK || status == MCS_ERR_CLOSED || status == MCS_ERR_INTERRUPTED || move->of_caller) {
        item->status = status;
        return;
    }
    if (status == MCS_ERR_CHECKSUM_MISMATCH) {
        mcs_count(&client->counters, crc_errors, 1);
        mcs_error(AREA, "replica of %llu bytes in segment %s: %s", (unsigned long long)move->payload_len,
                  move->route->peer->name, mcs_status_name(status));
    } else {
        mcs_debug(AREA, "replica in segment %s not read: %s",
                  move->route->peer != NULL ? move->route->peer->name : "unknown", mcs_status_name(status));
    }
    mcs_count(&client->counters, failovers, 1);
    if (item->cached) {
        mcs_lookup_cache_drop(client->lookup_cache, &item->key);
    }
    item->failure = status;
    if (status != MCS_ERR_LIMIT) {
        item->failed[item->failed_count++ % MCS_READ_MEMORY] = move->replica->generation;
    }
}

void mcs_read_run(mcs_read_t *read)
{
    for (size_t i = 0; i < read->count; i++) {
        mcs_read_item_t *item = &read->items[i];
        mcs_status_t status = item->status == MCS_ERR_AGAIN && is_found(item) ? add_routes(read, item) : MCS_OK;
        if (status != MCS_OK) {
            item->status = status;
        }
    }
    for (;;) {
        mcs_status_t status = look_up_needed(read);
        if (status != MCS_OK) {
            fail_all(read, status);
            return;
        }
        bool open = false;
        for (size_t i = 0; i < read->count && !open; i++) {
            open = read->items[i].status == MCS_ERR_AGAIN;
        }
        if (!open) {
            return;
        }
        mcs_move_t *moves;
        size_t n;
        uint64_t bytes;
        status = plan_moves(read, &moves, &n, &bytes);
        if (status != MCS_OK) {
            fail_all(read, status);
            return;
        }
        mcs_moves_run(read->client, MCS_FETCH, moves, n, mcs_client_transfer_deadline(read->client, bytes),
                      read->arena);
        for (size_t i = 0; i < read->count; i++) {
            if (read->items[i].move_count > 0) {
                judge(read, &read->items[i]);
                read->items[i].move_count = 0;
            }
        }
    }
}

/* ---- the result ---- */

/* The transport's deadline is a failed transfer; -901 is the master's. */
static mcs_status_t public_status(mcs_status_t status, mcs_status_t failure)
{
    bool of_a_replica = status == failure && (status == MCS_ERR_RPC_TIMEOUT || status == MCS_ERR_LIMIT ||
                                              status == MCS_ERR_SESSION_ENDED || status == MCS_ERR_SEGMENT_NOT_FOUND);
    return mcs_status_public(of_a_replica ? MCS_ERR_TRANSFER_FAIL : status);
}

int64_t mcs_read_result(mcs_client_t *client, const mcs_read_item_t *item)
{
    if (item->status == MCS_OK) {
        mcs_count(&client->counters, gets, 1);
        return (int64_t)item->found.size;
    }
    if (item->status == MCS_ERR_OBJECT_NOT_FOUND) {
        mcs_count(&client->counters, misses, 1);
    } else {
        mcs_count(&client->counters, get_failures, 1);
    }
    return public_status(item->status, item->failure);
}

void mcs_read_part_results(mcs_client_t *client, const mcs_read_item_t *item)
{
    int64_t result = mcs_read_result(client, item);
    for (size_t i = 0; i < item->part_count; i++) {
        mcs_part_t *part = &item->parts[i];
        if (result < 0) {
            part->result = result;
        } else if (part->size == 0 && part->offset <= item->found.size) {
            part->result = 0;
        } else {
            part->result = part_moves(part, item->found.size) ? (int64_t)part->size : MCS_INVALID_PARAMS;
        }
    }
}
