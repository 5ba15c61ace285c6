/* See http_metadata.h. A chained hash table; entries own their key and value. Set-up path of clients: a mutex is
 * enough.
 *
 * The texts of the answers are those of the original's embedded server; its clients look at the code and, for GET, at
 * the body. */
#include "master/http_metadata.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/rng.h"

#define AREA            "metadata"
#define BUCKETS_FIRST   ((size_t)64)
#define ENTRIES_DEFAULT ((size_t)65536)
#define BYTES_DEFAULT   ((size_t)256 << 20)
#define BODIES_MAX      ((size_t)64 << 20)
#define ANSWERS_MAX     ((size_t)256 << 20)

typedef struct entry {
    struct entry *next;
    uint64_t hash;
    uint8_t *value;
    size_t value_len;
    size_t key_len;
    char key[];
} entry_t;

struct mcs_http_metadata {
    mcs_http_server_t *server;
    char *cluster_id;
    size_t max_entries;
    size_t max_bytes;
    uint64_t seed;    /* so that nobody can choose keys of one bucket */
    mcs_mutex_t lock; /* rank HTTP: what follows */
    entry_t **buckets MCS_GUARDED_BY(&lock);
    size_t bucket_count MCS_GUARDED_BY(&lock);
    size_t entry_count MCS_GUARDED_BY(&lock);
    size_t bytes MCS_GUARDED_BY(&lock);
};

/* Where the entry's pointer is, or the NULL where it would be. */
static entry_t **find_locked(mcs_http_metadata_t *m, const char *key, size_t len) MCS_REQUIRES(&m->lock)
{
    uint64_t hash = mcs_hash64(m->seed, key, len);
    entry_t **at = &m->buckets[hash & (m->bucket_count - 1)];
    while (*at != NULL && ((*at)->hash != hash || (*at)->key_len != len || memcmp((*at)->key, key, len) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

static void free_entry(entry_t *entry)
{
    if (entry != NULL) {
        mcs_free(entry->value);
        mcs_free(entry);
    }
}

static bool delete_locked(mcs_http_metadata_t *m, const char *key, size_t len) MCS_REQUIRES(&m->lock)
{
    entry_t **at = find_locked(m, key, len);
    entry_t *entry = *at;
    if (entry == NULL) {
        return false;
    }
    *at = entry->next;
    m->entry_count--;
    m->bytes -= entry->key_len + entry->value_len;
    free_entry(entry);
    return true;
}

/* Longer chains are the only harm when memory is short. */
static void grow_locked(mcs_http_metadata_t *m) MCS_REQUIRES(&m->lock)
{
    size_t count = m->bucket_count * 2;
    entry_t **buckets = MCS_NEW_ARRAY(entry_t *, count);
    if (buckets == NULL) {
        return;
    }
    for (size_t i = 0; i < m->bucket_count; i++) {
        for (entry_t *entry = m->buckets[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            entry->next = buckets[entry->hash & (count - 1)];
            buckets[entry->hash & (count - 1)] = entry;
        }
    }
    mcs_free(m->buckets);
    m->buckets = buckets;
    m->bucket_count = count;
}

typedef enum put_result { PUT_DONE, PUT_UNCHANGED, PUT_DUPLICATE, PUT_FULL, PUT_NO_MEMORY } put_result_t;

static put_result_t replace_locked(mcs_http_metadata_t *m, entry_t *entry, const void *value, size_t len)
    MCS_REQUIRES(&m->lock)
{
    if (memmem(entry->key, entry->key_len, "rpc_meta", strlen("rpc_meta")) != NULL) {
        bool same = entry->value_len == len && memcmp(entry->value, value, len) == 0;
        return same ? PUT_UNCHANGED : PUT_DUPLICATE;
    }
    if (m->bytes - entry->value_len + len > m->max_bytes) {
        return PUT_FULL;
    }
    uint8_t *copy = mcs_malloc(len);
    if (copy == NULL) {
        return PUT_NO_MEMORY;
    }
    memcpy(copy, value, len);
    m->bytes = m->bytes - entry->value_len + len;
    mcs_free(entry->value);
    entry->value = copy;
    entry->value_len = len;
    return PUT_DONE;
}

static put_result_t put_locked(mcs_http_metadata_t *m, const char *key, size_t key_len, const void *value,
                               size_t value_len) MCS_REQUIRES(&m->lock)
{
    entry_t **at = find_locked(m, key, key_len);
    if (*at != NULL) {
        return replace_locked(m, *at, value, value_len);
    }
    if (m->entry_count >= m->max_entries || m->bytes + key_len + value_len > m->max_bytes) {
        return PUT_FULL;
    }
    entry_t *entry = mcs_malloc(sizeof(*entry) + key_len);
    uint8_t *copy = mcs_malloc(value_len);
    if (entry == NULL || copy == NULL) {
        mcs_free(entry);
        mcs_free(copy);
        return PUT_NO_MEMORY;
    }
    memcpy(copy, value, value_len);
    *entry =
        (entry_t){.hash = mcs_hash64(m->seed, key, key_len), .value = copy, .value_len = value_len, .key_len = key_len};
    memcpy(entry->key, key, key_len);
    *at = entry;
    m->entry_count++;
    m->bytes += key_len + value_len;
    if (m->entry_count > m->bucket_count) {
        grow_locked(m);
    }
    return PUT_DONE;
}

/* The key of a request, or NULL after a 400. */
static const char *key_of(mcs_http_request_t *request, size_t *len_out)
{
    const char *key = mcs_http_query(request, "key", len_out);
    if (key == NULL || *len_out == 0) {
        mcs_http_reply_text(request, 400, "Missing key parameter");
        return NULL;
    }
    if (*len_out > MCS_METADATA_KEY_MAX) {
        mcs_http_reply_text(request, 400, "Key too long");
        return NULL;
    }
    return key;
}

static void handle_get(void *arg, mcs_http_request_t *request)
{
    mcs_http_metadata_t *m = (mcs_http_metadata_t *)arg;
    size_t len;
    const char *key = key_of(request, &len);
    if (key == NULL) {
        return;
    }
    mcs_buf_t copy;
    mcs_buf_init(&copy, MCS_METADATA_VALUE_MAX);
    mcs_mutex_lock(&m->lock);
    const entry_t *entry = *find_locked(m, key, len);
    if (entry != NULL) {
        mcs_buf_append(&copy, entry->value, entry->value_len);
    }
    mcs_mutex_unlock(&m->lock);
    if (entry != NULL) {
        mcs_http_reply_buf(request, 200, "application/json", &copy);
    } else {
        mcs_http_reply_text(request, 404, "metadata not found");
    }
}

static void handle_put(void *arg, mcs_http_request_t *request)
{
    mcs_http_metadata_t *m = (mcs_http_metadata_t *)arg;
    size_t key_len;
    size_t value_len;
    const char *key = key_of(request, &key_len);
    const uint8_t *value = mcs_http_body(request, &value_len);
    if (key == NULL) {
        return;
    }
    mcs_mutex_lock(&m->lock);
    put_result_t result = put_locked(m, key, key_len, value, value_len);
    mcs_mutex_unlock(&m->lock);
    switch (result) {
    case PUT_DONE: mcs_http_reply_text(request, 200, "metadata updated"); break;
    case PUT_UNCHANGED: mcs_http_reply_text(request, 200, "metadata unchanged"); break;
    case PUT_DUPLICATE: mcs_http_reply_text(request, 400, "Duplicate rpc_meta key not allowed"); break;
    case PUT_FULL:
        mcs_warn(AREA, "record of %zu bytes refused: the store is full: %s", value_len, mcs_status_name(MCS_ERR_LIMIT));
        mcs_http_reply_text(request, 507, "metadata store is full");
        break;
    case PUT_NO_MEMORY: mcs_http_reply_text(request, 500, "out of memory"); break;
    default: break;
    }
}

static void handle_delete(void *arg, mcs_http_request_t *request)
{
    mcs_http_metadata_t *m = (mcs_http_metadata_t *)arg;
    size_t len;
    const char *key = key_of(request, &len);
    if (key == NULL) {
        return;
    }
    mcs_mutex_lock(&m->lock);
    bool deleted = delete_locked(m, key, len);
    mcs_mutex_unlock(&m->lock);
    if (deleted) {
        mcs_http_reply_text(request, 200, "metadata deleted");
    } else {
        mcs_http_reply_text(request, 404, "metadata not found");
    }
}

static void handle_health(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, "OK");
}

static const mcs_http_route_t g_routes[] = {
    {"GET", "/metadata", handle_get},
    {"PUT", "/metadata", handle_put},
    {"DELETE", "/metadata", handle_delete},
    {"GET", "/health", handle_health},
};

mcs_status_t mcs_http_metadata_create(const mcs_http_metadata_config_t *config, mcs_http_metadata_t **metadata_out)
{
    mcs_http_metadata_t *m = MCS_NEW(mcs_http_metadata_t);
    if (m == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    const mcs_http_config_t http = {
        .name = "http metadata",
        .address = config->address,
        .port = config->port,
        .tls = config->tls,
        .routes = g_routes,
        .route_count = MCS_ARRAY_LEN(g_routes),
        .arg = m,
        .body_max = MCS_METADATA_VALUE_MAX,
        .bodies_max = BODIES_MAX,
        .answers_max = ANSWERS_MAX,
        .threads = 2,
        .max_connections = 1024,
        .max_streams = 1,
    };
    mcs_mutex_init(&m->lock, MCS_RANK_HTTP, "metadata store");
    m->max_entries = config->max_entries != 0 ? config->max_entries : ENTRIES_DEFAULT;
    m->max_bytes = config->max_bytes != 0 ? config->max_bytes : BYTES_DEFAULT;
    m->seed = mcs_random_u64();
    m->bucket_count = BUCKETS_FIRST;
    m->buckets = MCS_NEW_ARRAY(entry_t *, BUCKETS_FIRST);
    m->cluster_id = mcs_strdup(config->cluster_id);
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    if (m->buckets == NULL || m->cluster_id == NULL) {
        goto err_destroy;
    }
    status = mcs_http_server_create(&http, &m->server);
    if (status != MCS_OK) {
        goto err_destroy;
    }
    *metadata_out = m;
    return MCS_OK;

err_destroy:
    mcs_http_metadata_destroy(m);
    return status;
}

mcs_status_t mcs_http_metadata_start(mcs_http_metadata_t *metadata)
{
    return mcs_http_server_start(metadata->server);
}

void mcs_http_metadata_stop(mcs_http_metadata_t *metadata)
{
    if (metadata != NULL) {
        mcs_http_server_stop(metadata->server);
    }
}

void mcs_http_metadata_destroy(mcs_http_metadata_t *metadata)
{
    if (metadata == NULL) {
        return;
    }
    mcs_http_server_destroy(metadata->server);
    for (size_t i = 0; metadata->buckets != NULL && i < metadata->bucket_count; i++) {
        for (entry_t *entry = metadata->buckets[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            free_entry(entry);
        }
    }
    mcs_mutex_fini(&metadata->lock);
    mcs_free(metadata->buckets);
    mcs_free(metadata->cluster_id);
    mcs_free(metadata);
}

uint16_t mcs_http_metadata_port(const mcs_http_metadata_t *metadata)
{
    return mcs_http_server_port(metadata->server);
}

void mcs_http_metadata_forget_segment(mcs_http_metadata_t *metadata, const char *segment_name)
{
    static const char *const kinds[] = {"ram", "rpc_meta"};
    uint32_t deleted = 0;
    for (size_t i = 0; i < 2 * MCS_ARRAY_LEN(kinds); i++) {
        char key[MCS_METADATA_KEY_MAX + 1];
        const char *kind = kinds[i / 2];
        int len = i % 2 == 0
                      ? snprintf(key, sizeof(key), "mooncake/%s/%s", kind, segment_name)
                      : snprintf(key, sizeof(key), "mooncake/%s/%s/%s", metadata->cluster_id, kind, segment_name);
        if (len > 0 && (size_t)len < sizeof(key)) {
            mcs_mutex_lock(&metadata->lock);
            deleted += delete_locked(metadata, key, (size_t)len) ? 1 : 0;
            mcs_mutex_unlock(&metadata->lock);
        }
    }
    mcs_info(AREA, "segment %s: %u records of its dead client deleted", segment_name, deleted);
}
