/* Keys and segments on the admin server; see http_admin.h. Lists that grow with the cache are streamed: no buffer here
 * holds them. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/http_admin_internal.h"
#include "master/http_json.h"

/* Segments in one JSON answer. */
#define SEGMENTS_MAX 65536u

/* Keys. */

static json_t *replica_json(const mcs_service_replica_t *replica)
{
    return json_pack("{s:I, s:I, s:o, s:o}", "size_", (json_int_t)replica->size, "buffer_address_",
                     (json_int_t)replica->address, "protocol_",
                     mcs_json_text(replica->protocol, strlen(replica->protocol)), "transport_endpoint_",
                     mcs_json_text(replica->transport_endpoint, strlen(replica->transport_endpoint)));
}

/* NULL: no memory. */
static json_t *replicas_json(const mcs_service_replica_t *replicas, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++) {
        if (json_array_append_new(list, replica_json(&replicas[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

void mcs_i_admin_query_key(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_service_replica_t replicas[MCS_REPLICAS_MAX];
    uint32_t count = 0;
    size_t len = 0;
    /* The original takes the value as it was sent; a key that only exists decoded is found too. */
    const char *key = mcs_http_query_raw(request, "key", &len);
    if (key == NULL || len == 0 || len > (size_t)MCS_KEY_MAX * 3) {
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
        return;
    }
    mcs_status_t status = MCS_ERR_OBJECT_NOT_FOUND;
    if (len <= MCS_KEY_MAX) {
        status =
            mcs_service_query_key(admin->config.service, key, (uint32_t)len, true, replicas, MCS_REPLICAS_MAX, &count);
    }
    if (status == MCS_ERR_OBJECT_NOT_FOUND && memchr(key, '%', len) != NULL) {
        key = mcs_http_query(request, "key", &len);
        if (key != NULL && len > 0 && len <= MCS_KEY_MAX) {
            status = mcs_service_query_key(admin->config.service, key, (uint32_t)len, true, replicas, MCS_REPLICAS_MAX,
                                           &count);
        }
    }
    if (status != MCS_OK) {
        mcs_json_reply_status(request, status);
        return;
    }
    mcs_json_reply(request, 200, json_pack("{s:b, s:o}", "success", 1, "data", replicas_json(replicas, count)));
}

static json_t *key_result_json(mcs_service_t *service, const char *key, size_t len)
{
    mcs_service_replica_t replicas[MCS_REPLICAS_MAX];
    uint32_t count = 0;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (len > 0 && len <= MCS_KEY_MAX) {
        status = mcs_service_query_key(service, key, (uint32_t)len, false, replicas, MCS_REPLICAS_MAX, &count);
    }
    json_t *error = status == MCS_OK ? json_null() : json_string(mcs_status_name(mcs_status_public(status)));
    return json_pack("{s:b, s:o, s:o, s:n, s:n, s:n}", "ok", status == MCS_OK, "error", error, "values",
                     replicas_json(replicas, status == MCS_OK ? count : 0), "disk_values", "local_disk_values",
                     "nof_values");
}

/* False: no memory. */
static bool add_key_result(mcs_service_t *service, json_t *results, const char *key, size_t len)
{
    json_t *shown = mcs_json_text(key, len);
    json_t *result = key_result_json(service, key, len);
    bool ok = shown != NULL && result != NULL &&
              json_object_setn(results, json_string_value(shown), json_string_length(shown), result) == 0;
    json_decref(shown);
    json_decref(result);
    return ok;
}

void mcs_i_admin_batch_query_keys(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    size_t len = 0;
    const char *keys = mcs_http_query(request, "keys", &len);
    json_t *results = json_object();
    size_t count = 0;
    bool ok = results != NULL;
    for (size_t at = 0; ok && keys != NULL && at < len && count <= MCS_BATCH_KEYS;) {
        const char *comma = memchr(keys + at, ',', len - at);
        size_t key_len = comma != NULL ? (size_t)(comma - (keys + at)) : len - at;
        if (key_len > 0) {
            count++;
            ok = add_key_result(admin->config.service, results, keys + at, key_len);
        }
        at += key_len + 1;
    }
    if (count > MCS_BATCH_KEYS) {
        json_decref(results);
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
    } else if (count == 0) {
        json_decref(results);
        mcs_json_reply(request, 400,
                       json_pack("{s:b, s:s}", "success", 0, "error", "No keys provided. Use ?keys=key1,key2,..."));
    } else if (!ok) {
        json_decref(results);
        mcs_json_reply(request, 500, NULL);
    } else {
        mcs_json_reply(request, 200, json_pack("{s:b, s:o}", "success", 1, "data", results));
    }
}

/* Lines are gathered: the pipe's lock is taken once for some hundred keys. */
typedef struct walk {
    mcs_http_pipe_t *pipe;
    size_t used;
    char lines[8192];
} walk_t;

static bool flush_walk(walk_t *walk)
{
    size_t used = walk->used;
    walk->used = 0;
    return used == 0 || mcs_http_pipe_write(walk->pipe, walk->lines, used);
}

static bool write_line(walk_t *walk, const char *text, size_t len)
{
    if (walk->used + len + 1 > sizeof(walk->lines) && !flush_walk(walk)) {
        return false;
    }
    if (len + 1 > sizeof(walk->lines)) {
        return mcs_http_pipe_write(walk->pipe, text, len) && mcs_http_pipe_write(walk->pipe, "\n", 1);
    }
    memcpy(walk->lines + walk->used, text, len);
    walk->lines[walk->used + len] = '\n';
    walk->used += len + 1;
    return true;
}

static bool write_key(void *arg, const char *key, uint32_t key_len)
{
    return write_line((walk_t *)arg, key, key_len);
}

static void produce_keys(void *arg, mcs_http_pipe_t *pipe)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    walk_t walk;
    walk.pipe = pipe;
    walk.used = 0;
    mcs_service_for_each_key(admin->config.service, write_key, &walk);
    (void)flush_walk(&walk);
}

void mcs_i_admin_all_keys(void *arg, mcs_http_request_t *request)
{
    mcs_http_reply_stream(request, MCS_HTTP_TEXT, &(mcs_http_stream_t){.produce = produce_keys, .arg = arg});
}

/* Segments. */

static bool write_segment(void *arg, const mcs_service_segment_t *segment)
{
    return write_line((walk_t *)arg, segment->name, strlen(segment->name));
}

static void produce_segments(void *arg, mcs_http_pipe_t *pipe)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    walk_t walk;
    walk.pipe = pipe;
    walk.used = 0;
    mcs_service_for_each_segment(admin->config.service, write_segment, &walk);
    (void)flush_walk(&walk);
}

void mcs_i_admin_all_segments(void *arg, mcs_http_request_t *request)
{
    mcs_http_reply_stream(request, MCS_HTTP_TEXT, &(mcs_http_stream_t){.produce = produce_segments, .arg = arg});
}

const char *mcs_i_admin_state_name(uint32_t state)
{
    static const char *const names[] = {"UNDEFINED", "OK", "DRAINING", "DRAINED", "GRACEFULLY_UNMOUNTING",
                                        "UNMOUNTING"};
    return state < MCS_ARRAY_LEN(names) ? names[state] : names[0];
}

/* "16 GiB", "1.50 GiB". */
static void human_size(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < MCS_ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, value == floor(value) ? "%.0f %s" : "%.2f %s", value, units[unit]);
}

static json_t *segment_json(const mcs_service_segment_t *s)
{
    char id[MCS_ID_TEXT_MAX];
    char client[MCS_ID_TEXT_MAX];
    char base[24];
    char human[32];
    mcs_id_format(s->instance, id);
    mcs_id_format(s->client, client);
    snprintf(base, sizeof(base), "0x%" PRIx64, s->base);
    human_size(s->size, human, sizeof(human));
    double percent = s->size == 0 ? 0 : round(10000.0 * (double)s->used / (double)s->size) / 100;
    return json_pack("{s:o, s:s, s:s, s:s, s:I, s:s, s:o, s:o, s:s, s:I, s:I, s:f, s:I, s:b}", "segment_name",
                     mcs_json_text(s->name, strlen(s->name)), "segment_id", id, "client_id", client, "base_address",
                     base, "size_bytes", (json_int_t)s->size, "size_human", human, "te_endpoint",
                     mcs_json_text(s->transport_endpoint, strlen(s->transport_endpoint)), "protocol",
                     mcs_json_text(s->protocol, strlen(s->protocol)), "status", mcs_i_admin_state_name(s->state),
                     "allocator_used_bytes", (json_int_t)s->used, "allocator_capacity_bytes", (json_int_t)s->size,
                     "allocator_usage_percent", percent, "quarantine_bytes", (json_int_t)s->quarantine, "suspect",
                     (int)s->suspect);
}

typedef struct detail {
    json_t *list;
    bool failed;
} detail_t;

static bool add_detail(void *arg, const mcs_service_segment_t *segment)
{
    detail_t *detail = (detail_t *)arg;
    if (json_array_size(detail->list) >= SEGMENTS_MAX) {
        return false;
    }
    detail->failed = json_array_append_new(detail->list, segment_json(segment)) != 0;
    return !detail->failed;
}

void mcs_i_admin_segments_detail(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    detail_t detail = {.list = json_array()};
    if (detail.list != NULL) {
        mcs_service_for_each_segment(admin->config.service, add_detail, &detail);
    }
    if (detail.failed) {
        json_decref(detail.list);
        detail.list = NULL;
    }
    json_t *root = detail.list == NULL ? NULL
                                       : json_pack("{s:I, s:o}", "total_segments",
                                                   (json_int_t)json_array_size(detail.list), "segments", detail.list);
    mcs_json_reply(request, 200, root);
}

/* The segments of one name, summed. */
typedef struct named {
    const char *name;
    uint32_t count;
    uint32_t state; /* of the last */
    uint64_t used;
    uint64_t size;
} named_t;

static bool add_named(void *arg, const mcs_service_segment_t *segment)
{
    named_t *named = (named_t *)arg;
    if (strcmp(segment->name, named->name) == 0) {
        named->count++;
        named->state = segment->state;
        named->used += segment->used;
        named->size += segment->size;
    }
    return true;
}

void mcs_i_admin_query_segment(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    named_t named = {.name = mcs_http_query_text(request, "segment")};
    if (named.name != NULL) {
        mcs_service_for_each_segment(admin->config.service, add_named, &named);
    }
    if (named.count == 0) {
        mcs_http_reply_text(request, 500, "Failed to query segment");
        return;
    }
    mcs_buf_t text;
    mcs_buf_init(&text, 4096);
    mcs_buf_printf(&text, "%s\nUsed(bytes): %" PRIu64 "\nCapacity(bytes) : %" PRIu64 "\n", named.name, named.used,
                   named.size);
    mcs_http_reply_buf(request, 200, MCS_HTTP_TEXT, &text);
}

void mcs_i_admin_segment_status(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    named_t named = {.name = mcs_http_query_text(request, "segment")};
    if (named.name == NULL || named.name[0] == '\0') {
        mcs_json_reply_status(request, MCS_ERR_INVALID_PARAMS);
        return;
    }
    mcs_service_for_each_segment(admin->config.service, add_named, &named);
    if (named.count == 0) {
        mcs_json_reply_status(request, MCS_ERR_SEGMENT_NOT_FOUND);
        return;
    }
    mcs_json_reply(request, 200,
                   json_pack("{s:b, s:o, s:i, s:s, s:i, s:s}", "success", 1, "segment",
                             mcs_json_text(named.name, strlen(named.name)), "status", (int)named.state, "status_name",
                             mcs_i_admin_state_name(named.state), "error_code", 0, "error_message", ""));
}
