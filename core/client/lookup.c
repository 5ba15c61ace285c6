/* See lookup.h. */
#include "core/client/lookup.h"

#include <string.h>

#include "core/base/log.h"
#include "core/client/lookup_cache.h"

#define AREA "client"

mcs_status_t mcs_key_take(mcs_bytes_t bytes, mcs_key_t *key_out)
{
    if (bytes.ptr == NULL || bytes.len == 0 || bytes.len > MCS_KEY_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *key_out = (mcs_key_t){bytes.ptr, (uint32_t)bytes.len};
    return MCS_OK;
}

bool mcs_found_is_same_value(const mcs_found_t *a, const mcs_found_t *b)
{
    for (uint32_t i = 0; i < a->replica_count + a->leaving_count; i++) {
        for (uint32_t j = 0; j < b->replica_count + b->leaving_count; j++) {
            if (a->replicas[i].generation == b->replicas[j].generation) {
                return a->size == b->size;
            }
        }
    }
    return false;
}

size_t mcs_batch_fit(mcs_key_at_fn key_at, void *arg, size_t from, size_t count)
{
    size_t n = 0;
    size_t bytes = 0;
    while (from + n < count && n < MCS_BATCH_KEYS) {
        bytes += key_at(arg, from + n)->len;
        if (bytes > MCS_BATCH_KEY_BYTES && n > 0) {
            break;
        }
        n++;
    }
    return n;
}

mcs_status_t mcs_key_columns_init(mcs_key_columns_t *columns, mcs_key_at_fn key_at, void *arg, size_t from, size_t n)
{
    mcs_buf_init(&columns->lens, MCS_BATCH_KEYS * sizeof(uint16_t));
    mcs_buf_init(&columns->bytes, MCS_BATCH_KEY_BYTES + MCS_KEY_MAX);
    mcs_status_t status = mcs_buf_reserve(&columns->lens, n * sizeof(uint16_t));
    for (size_t i = 0; status == MCS_OK && i < n; i++) {
        status = mcs_keys_encode(key_at(arg, from + i), 1, &columns->lens, &columns->bytes);
    }
    if (status != MCS_OK) {
        mcs_key_columns_fini(columns);
    }
    return status;
}

void mcs_key_columns_fini(mcs_key_columns_t *columns)
{
    mcs_buf_fini(&columns->lens);
    mcs_buf_fini(&columns->bytes);
}

/* One answer, checked before anything of it is used. */
static mcs_status_t check_located(const mcs_located_t *located, size_t n, size_t *replica_count_out)
{
    size_t objects;
    mcs_status_t status = mcs_column_count(located->objects->len, sizeof(mcs_col_object_t), MCS_BATCH_KEYS, &objects);
    if (status == MCS_OK) {
        status = mcs_column_count(located->replicas->len, sizeof(mcs_col_replica_t), MCS_BATCH_KEYS * MCS_REPLICAS_MAX,
                                  replica_count_out);
    }
    size_t sum = 0;
    for (size_t i = 0; status == MCS_OK && objects == n && i < n; i++) {
        mcs_col_object_t object;
        memcpy(&object, located->objects->data + i * sizeof(object), sizeof(object));
        bool sane = mcs_status_known(object.status) && object.replica_count <= MCS_REPLICAS_MAX &&
                    object.payload_len <= MCS_OBJECT_MAX &&
                    (object.status != MCS_OK || (object.replica_count > 0 && object.payload_len > 0));
        status = sane ? MCS_OK : MCS_ERR_PROTOCOL;
        sum += object.replica_count;
    }
    return status == MCS_OK && objects == n && sum == *replica_count_out ? MCS_OK : MCS_ERR_PROTOCOL;
}

/* Those that are leaving stand behind the others; the first replica is always one that can be read. */
static uint32_t count_live(const mcs_col_replica_t *replicas, uint32_t count)
{
    uint32_t live = MCS_MIN(count, 1u);
    while (live < count && replicas[live].status != MCS_REPLICA_LEAVING) {
        live++;
    }
    return live;
}

/* Entry i of an answer that was checked; `replicas` are the object's. */
static mcs_found_t found_of(const mcs_located_t *located, size_t i, const mcs_col_replica_t *replicas)
{
    mcs_col_object_t object;
    memcpy(&object, located->objects->data + i * sizeof(object), sizeof(object));
    uint64_t lease_ns = located->lease_ms * MCS_NS_PER_MS;
    uint32_t live = count_live(replicas, object.replica_count);
    return (mcs_found_t){
        .status = (mcs_status_t)object.status,
        .replica_count = live,
        .leaving_count = object.replica_count - live,
        .size = object.payload_len,
        .lease_end_ns = located->call->sent_ns + lease_ns,
        .cache_until_ns = located->call->sent_ns + lease_ns / 2,
        .session = located->call->session,
        .replicas = replicas,
    };
}

static mcs_status_t take_reply(const mcs_located_t *located, mcs_found_at_fn found_at, void *arg, size_t from, size_t n,
                               mcs_arena_t *arena)
{
    size_t replica_count = 0;
    mcs_status_t status = check_located(located, n, &replica_count);
    if (status != MCS_OK) {
        mcs_error(AREA, "get_replica_list: an answer that does not fit the question: %s", mcs_status_name(status));
        return status;
    }
    mcs_col_replica_t *replicas = mcs_arena_alloc(arena, replica_count * sizeof(*replicas));
    if (replicas == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    if (replica_count > 0) {
        memcpy(replicas, located->replicas->data, replica_count * sizeof(*replicas));
    }
    for (size_t i = 0; i < n; i++) {
        mcs_found_t found = found_of(located, i, replicas);
        *found_at(arg, from + i) = found;
        replicas += found.replica_count + found.leaving_count;
    }
    return MCS_OK;
}

mcs_status_t mcs_lookup_learn(mcs_client_t *client, const mcs_located_t *located, mcs_key_at_fn key_at, void *arg,
                              size_t from, size_t n)
{
    size_t replica_count = 0;
    mcs_status_t status = check_located(located, n, &replica_count);
    const uint8_t *at = located->replicas->data;
    for (size_t i = 0; status == MCS_OK && i < n; i++) {
        mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
        mcs_col_object_t object;
        memcpy(&object, located->objects->data + i * sizeof(object), sizeof(object));
        if (object.replica_count > 0) {
            memcpy(replicas, at, object.replica_count * sizeof(*replicas));
            at += object.replica_count * sizeof(*replicas);
            mcs_found_t found = found_of(located, i, replicas);
            mcs_lookup_cache_put(client->lookup_cache, key_at(arg, from + i), &found, true);
        }
    }
    return status;
}

static mcs_status_t lookup_some(mcs_client_t *client, mcs_key_at_fn key_at, mcs_found_at_fn found_at, void *arg,
                                size_t from, size_t n, mcs_arena_t *arena)
{
    mcs_key_columns_t columns;
    mcs_status_t status = mcs_key_columns_init(&columns, key_at, arg, from, n);
    if (status != MCS_OK) {
        return status;
    }
    Mcs__Wire__Lookup request = MCS__WIRE__LOOKUP__INIT;
    request.key_lens = mcs_buf_column(&columns.lens);
    request.keys = mcs_buf_column(&columns.bytes);
    mcs_call_t call = {
        .verb = MCS_VERB_LOOKUP, .request = &request.base, .reply_type = &mcs__wire__lookup_reply__descriptor};
    mcs_reply_t reply;
    status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        const Mcs__Wire__LookupReply *answer = (const Mcs__Wire__LookupReply *)(const void *)reply.message;
        mcs_located_t located = {&answer->objects, &answer->replicas, answer->lease_ms, &call};
        status = take_reply(&located, found_at, arg, from, n, arena);
    }
    mcs_reply_fini(&reply);
    mcs_key_columns_fini(&columns);
    return status;
}

static bool ends_all(mcs_status_t status)
{
    return status == MCS_ERR_INTERRUPTED || status == MCS_ERR_CLOSED || status == MCS_ERR_NO_MEMORY ||
           mcs_status_scope(status) == MCS_SCOPE_MASTER;
}

void mcs_lookup(mcs_client_t *client, mcs_key_at_fn key_at, mcs_found_at_fn found_at, void *arg, size_t count,
                mcs_arena_t *arena)
{
    mcs_status_t fatal = MCS_OK;
    for (size_t from = 0; from < count;) {
        size_t n = mcs_batch_fit(key_at, arg, from, count);
        mcs_status_t status = fatal != MCS_OK ? fatal : lookup_some(client, key_at, found_at, arg, from, n, arena);
        for (size_t i = 0; status != MCS_OK && i < n; i++) {
            *found_at(arg, from + i) = (mcs_found_t){.status = status};
        }
        fatal = status != MCS_OK && ends_all(status) ? status : MCS_OK;
        from += n;
    }
}
