/* The verbs that move no payload: exist, size, remove, descriptors; and the counters. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/lookup_cache.h"
#include "core/client/read.h"

#define AREA        "client"
#define ARENA_CHUNK ((size_t)16384)
#define ARENA_MAX   ((size_t)1 << 30)
#define PATTERN_MAX ((size_t)65536)

/* ---- batches of keys with one i32 each as answer ---- */

/* The keys of a call that are keys, and where their results go. */
typedef struct picked {
    mcs_key_t *keys;
    size_t *index;
    size_t count;
} picked_t;

static const mcs_key_t *picked_key(void *arg, size_t i)
{
    return &((const picked_t *)arg)->keys[i];
}

static mcs_status_t pick(const mcs_bytes_t *keys, size_t count, int *results, picked_t *picked_out)
{
    picked_t picked = {.keys = MCS_NEW_ARRAY(mcs_key_t, count), .index = MCS_NEW_ARRAY(size_t, count)};
    if (picked.keys == NULL || picked.index == NULL) {
        mcs_free(picked.keys);
        mcs_free(picked.index);
        return MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        results[i] = mcs_key_take(keys[i], &picked.keys[picked.count]);
        if (results[i] == MCS_OK) {
            picked.index[picked.count++] = i;
        }
    }
    *picked_out = picked;
    return MCS_OK;
}

static void picked_fini(picked_t *picked)
{
    mcs_free(picked->keys);
    mcs_free(picked->index);
}

/* One request of a batch. */
typedef struct ask {
    mcs_client_t *client;
    picked_t *picked;
    size_t from;
    size_t n;
    const mcs_key_columns_t *columns; /* of keys [from, from + n) */
    const void *arg;
} ask_t;

/* Sends it, and gives the answers' column in `reply`. */
typedef mcs_status_t (*ask_fn)(const ask_t *ask, mcs_reply_t *reply, ProtobufCBinaryData *answers_out);

static mcs_status_t ask_exist(const ask_t *ask, mcs_reply_t *reply, ProtobufCBinaryData *answers_out)
{
    mcs_client_t *client = ask->client;
    Mcs__Wire__Exist request = MCS__WIRE__EXIST__INIT;
    request.key_lens = mcs_buf_column(&ask->columns->lens);
    request.keys = mcs_buf_column(&ask->columns->bytes);
    request.locate = mcs_lookup_cache_wants_exist(client->lookup_cache);
    mcs_call_t call = {
        .verb = MCS_VERB_EXIST, .request = &request.base, .reply_type = &mcs__wire__exist_reply__descriptor};
    mcs_status_t status = mcs_link_call(client->link, &call, reply);
    if (status != MCS_OK) {
        return status;
    }
    const Mcs__Wire__ExistReply *answer = (const Mcs__Wire__ExistReply *)(const void *)reply->message;
    *answers_out = answer->results;
    if (answer->objects.len > 0) {
        mcs_located_t located = {&answer->objects, &answer->replicas, answer->lease_ms, &call};
        status = mcs_lookup_learn(client, &located, picked_key, ask->picked, ask->from, ask->n);
    }
    return status;
}

/* Of a verb that mutates and answers with statuses. */
static mcs_status_t ask_statuses(const ask_t *ask, mcs_verb_t verb, const ProtobufCMessage *request,
                                 Mcs__Wire__Sequence *sequence, mcs_reply_t *reply, ProtobufCBinaryData *answers_out)
{
    mcs_call_t call = {
        .verb = verb, .request = request, .sequence = sequence, .reply_type = &mcs__wire__status_column__descriptor};
    mcs_status_t status = mcs_link_call(ask->client->link, &call, reply);
    if (status == MCS_OK) {
        *answers_out = ((const Mcs__Wire__StatusColumn *)(const void *)reply->message)->statuses;
    }
    return status;
}

static mcs_status_t ask_remove(const ask_t *ask, mcs_reply_t *reply, ProtobufCBinaryData *answers_out)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Remove request = MCS__WIRE__REMOVE__INIT;
    request.sequence = &sequence;
    request.key_lens = mcs_buf_column(&ask->columns->lens);
    request.keys = mcs_buf_column(&ask->columns->bytes);
    request.force = *(const bool *)ask->arg;
    for (size_t i = 0; i < ask->n; i++) {
        mcs_lookup_cache_drop(ask->client->lookup_cache, picked_key(ask->picked, ask->from + i));
    }
    return ask_statuses(ask, MCS_VERB_REMOVE, &request.base, &sequence, reply, answers_out);
}

static mcs_status_t ask_clear(const ask_t *ask, mcs_reply_t *reply, ProtobufCBinaryData *answers_out)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__ReplicaClear request = MCS__WIRE__REPLICA_CLEAR__INIT;
    request.sequence = &sequence;
    request.key_lens = mcs_buf_column(&ask->columns->lens);
    request.keys = mcs_buf_column(&ask->columns->bytes);
    request.segment_name = (char *)(uintptr_t)ask->arg;
    return ask_statuses(ask, MCS_VERB_REPLICA_CLEAR, &request.base, &sequence, reply, answers_out);
}

static mcs_status_t ask_some(mcs_client_t *client, ask_fn fn, const void *arg, picked_t *picked, size_t from, size_t n,
                             int *results)
{
    mcs_key_columns_t columns;
    mcs_status_t status = mcs_key_columns_init(&columns, picked_key, picked, from, n);
    if (status != MCS_OK) {
        return status;
    }
    mcs_reply_t reply;
    ProtobufCBinaryData answers = {0, NULL};
    ask_t ask = {client, picked, from, n, &columns, arg};
    status = fn(&ask, &reply, &answers);
    if (status == MCS_OK && answers.len != n * sizeof(int32_t)) {
        status = MCS_ERR_PROTOCOL;
    }
    if (status == MCS_ERR_PROTOCOL) {
        mcs_error(AREA, "an answer that does not fit the question: %s", mcs_status_name(status));
    }
    for (size_t i = 0; status == MCS_OK && i < n; i++) {
        int32_t value = mcs_column_i32(&answers, i);
        bool sane = value == 1 || mcs_status_known(value);
        results[picked->index[from + i]] = sane ? value : MCS_ERR_PROTOCOL;
    }
    mcs_reply_fini(&reply);
    mcs_key_columns_fini(&columns);
    return status;
}

/* Splits; a request that failed is the result of its keys and of those after it. */
static mcs_status_t ask_all(mcs_client_t *client, ask_fn ask, const void *arg, const mcs_bytes_t *keys, size_t count,
                            int *results)
{
    if (count == 0) {
        return MCS_OK;
    }
    picked_t picked;
    mcs_status_t status = pick(keys, count, results, &picked);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t from = 0; from < picked.count;) {
        size_t n = mcs_batch_fit(picked_key, &picked, from, picked.count);
        if (status == MCS_OK) {
            status = ask_some(client, ask, arg, &picked, from, n, results);
        }
        for (size_t i = 0; status != MCS_OK && i < n; i++) {
            results[picked.index[from + i]] = status;
        }
        from += n;
    }
    for (size_t i = 0; i < count; i++) {
        results[i] = results[i] > 0 ? results[i] : (int)mcs_status_public((mcs_status_t)results[i]);
    }
    picked_fini(&picked);
    return MCS_OK;
}

mcs_status_t mcs_client_exist(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
{
    return ask_all(client, ask_exist, NULL, keys, count, results);
}

mcs_status_t mcs_client_remove(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, bool force, int *results)
{
    return ask_all(client, ask_remove, &force, keys, count, results);
}

mcs_status_t mcs_client_replica_clear(mcs_client_t *client, const mcs_bytes_t *keys, size_t count,
                                      const char *segment_name, int *results)
{
    if (strnlen(segment_name, MCS_SEGMENT_NAME_MAX) == MCS_SEGMENT_NAME_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    return ask_all(client, ask_clear, segment_name, keys, count, results);
}

/* ---- removals by the dozen ---- */

/* Sends a removal; how many objects it took, or a code. */
static int64_t remove_many(mcs_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request,
                           Mcs__Wire__Sequence *sequence)
{
    mcs_call_t call = {
        .verb = verb, .request = request, .sequence = sequence, .reply_type = &mcs__wire__count_reply__descriptor};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    int64_t count = 0;
    if (status == MCS_OK) {
        count = ((const Mcs__Wire__CountReply *)(const void *)reply.message)->count;
        status = count >= 0 ? MCS_OK : MCS_ERR_PROTOCOL;
    }
    mcs_reply_fini(&reply);
    return status == MCS_OK ? count : (int64_t)mcs_status_public(status);
}

int64_t mcs_client_remove_by_regex(mcs_client_t *client, mcs_bytes_t pattern, bool force)
{
    if (pattern.ptr == NULL || pattern.len > PATTERN_MAX) {
        return MCS_INVALID_PARAMS;
    }
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__RemoveRegex request = MCS__WIRE__REMOVE_REGEX__INIT;
    request.sequence = &sequence;
    request.pattern = (ProtobufCBinaryData){pattern.len, (uint8_t *)(uintptr_t)pattern.ptr};
    request.force = force;
    return remove_many(client, MCS_VERB_REMOVE_REGEX, &request.base, &sequence);
}

int64_t mcs_client_remove_all(mcs_client_t *client, bool force)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__RemoveAll request = MCS__WIRE__REMOVE_ALL__INIT;
    request.sequence = &sequence;
    request.force = force;
    return remove_many(client, MCS_VERB_REMOVE_ALL, &request.base, &sequence);
}

/* ---- one key ---- */

int64_t mcs_client_object_size(mcs_client_t *client, mcs_bytes_t key)
{
    mcs_read_item_t item;
    memset(&item, 0, sizeof(item));
    mcs_status_t status = mcs_key_take(key, &item.key);
    if (status != MCS_OK) {
        return mcs_status_public(status);
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    mcs_read_t read;
    item.status = MCS_ERR_AGAIN;
    mcs_read_init(&read, client, &item, 1, &arena);
    read.fresh = true;
    status = mcs_read_lookup(&read);
    status = status == MCS_OK ? item.found.status : status;
    int64_t size = status == MCS_OK ? (int64_t)item.found.size : (int64_t)mcs_status_public(status);
    mcs_read_fini(&read);
    mcs_arena_fini(&arena);
    return size;
}

static void describe(const mcs_found_t *found, const mcs_col_replica_t *replica, const mcs_route_t *route,
                     mcs_replica_info_t *info)
{
    memset(info, 0, sizeof(*info));
    info->status = (int)replica->status;
    info->size = found->size;
    if (route != NULL && route->peer != NULL) {
        const mcs_peer_t *peer = route->peer;
        uint64_t before = peer->far ? 0 : mcs_extent_payload_offset(found->size);
        info->buffer_address = peer->base_address + replica->offset + before;
        snprintf(info->transport_endpoint, sizeof(info->transport_endpoint), "%s", peer->transport_endpoint);
        snprintf(info->segment_name, sizeof(info->segment_name), "%s", peer->name);
    }
}

/* One lookup for all keys. */
static mcs_status_t find_replicas(mcs_read_t *read, const mcs_bytes_t *keys, mcs_replica_info_t *replicas, size_t max,
                                  int *counts)
{
    for (size_t k = 0; k < read->count; k++) {
        read->items[k].status = mcs_key_take(keys[k], &read->items[k].key);
        if (read->items[k].status == MCS_OK) {
            read->items[k].status = MCS_ERR_AGAIN;
        }
    }
    mcs_status_t status = mcs_read_lookup(read);
    for (size_t k = 0; status == MCS_OK && k < read->count; k++) {
        const mcs_read_item_t *item = &read->items[k];
        if (item->status != MCS_ERR_AGAIN) {
            counts[k] = (int)mcs_status_public(item->status);
            continue;
        }
        counts[k] = (int)item->found.replica_count;
        for (uint32_t i = 0; i < item->found.replica_count && i < max; i++) {
            const mcs_col_replica_t *replica = &item->found.replicas[i];
            describe(&item->found, replica, mcs_routes_find(&read->routes, replica->segment), &replicas[k * max + i]);
        }
    }
    return status;
}

mcs_status_t mcs_client_replicas(mcs_client_t *client, const mcs_bytes_t *keys, size_t count,
                                 mcs_replica_info_t *replicas, size_t max, int *counts)
{
    mcs_read_item_t *items = MCS_NEW_ARRAY(mcs_read_item_t, count);
    if (items == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    mcs_read_t read;
    mcs_read_init(&read, client, items, count, &arena);
    read.fresh = true;
    mcs_status_t status = find_replicas(&read, keys, replicas, max, counts);
    mcs_read_fini(&read);
    mcs_arena_fini(&arena);
    mcs_free(items);
    return status;
}

/* ---- counters ---- */

void mcs_client_counters(mcs_client_t *client, mcs_counter_fn fn, void *arg)
{
    mcs_counters_each(&client->counters, fn, arg);
    const struct {
        const char *name;
        const uint64_t *value;
    } transport[] = {
        {"transport_fetched_bytes", &client->transport_counters.fetched_bytes},
        {"transport_stored_bytes", &client->transport_counters.stored_bytes},
        {"transport_served_read_bytes", &client->transport_counters.served_read_bytes},
        {"transport_served_write_bytes", &client->transport_counters.served_write_bytes},
        {"transport_copied_bytes", &client->transport_counters.copied_bytes},
        {"transport_rdma_bytes", &client->transport_counters.rdma_bytes},
        {"transport_transfers", &client->transport_counters.transfers},
        {"transport_timeouts", &client->transport_counters.timeouts},
        {"transport_peer_errors", &client->transport_counters.peer_errors},
        {"transport_refused", &client->transport_counters.refused},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(transport); i++) {
        fn(arg, transport[i].name, __atomic_load_n(transport[i].value, __ATOMIC_RELAXED));
    }
    mcs_owner_stats_t owner;
    mcs_owner_stats(client->owner, &owner);
    fn(arg, "owner_segments", owner.segments);
    fn(arg, "owner_mappers", owner.mappers);
    fn(arg, "owner_holds", owner.holds);
    fn(arg, "owner_pending_releases", owner.pending_releases);
    fn(arg, "owner_revoked", owner.revoked);
    mcs_mapper_stats_t mapper;
    mcs_mapper_stats(client->mapper, &mapper);
    fn(arg, "mapper_mappings", mapper.mappings);
    fn(arg, "mapper_mapped_bytes", mapper.mapped_bytes);
    fn(arg, "mapper_pins", mapper.pins);
    fn(arg, "local_buffer_bytes", mcs_bufpool_size(client->pool));
    fn(arg, "local_buffer_used_bytes", mcs_bufpool_used(client->pool));
    fn(arg, "registered_buffers", mcs_regtable_count(client->buffers));
}
