/* Drain jobs on the admin server: begin, look at, cancel. See http_admin.h; what a job does is in svc_drain.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/parse.h"
#include "master/http_admin_internal.h"
#include "master/http_json.h"

#define NAMES_MAX           1024u /* of one list; what a job takes is fewer */
#define DEFAULT_CONCURRENCY 4

typedef struct names {
    const char *text[NAMES_MAX];
    size_t count;
} names_t;

typedef struct drain_body {
    names_t segments;
    names_t targets;
} drain_body_t;

/* A list of strings; one that is not there is empty. */
static bool take_names(const json_t *root, const char *field, names_t *names)
{
    const json_t *list = json_object_get(root, field);
    names->count = 0;
    if (list == NULL || json_is_null(list)) {
        return true;
    }
    if (!json_is_array(list) || json_array_size(list) > NAMES_MAX) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name == NULL) {
            return false;
        }
        names->text[names->count++] = name;
    }
    return true;
}

static bool take_body(const json_t *root, drain_body_t *body, mcs_service_drain_ask_t *ask)
{
    const json_t *concurrency = json_object_get(root, "max_concurrency");
    if (!json_is_object(root) || !take_names(root, "segments", &body->segments) ||
        !take_names(root, "target_segments", &body->targets)) {
        return false;
    }
    json_int_t most =
        concurrency != NULL && !json_is_null(concurrency) ? json_integer_value(concurrency) : DEFAULT_CONCURRENCY;
    *ask = (mcs_service_drain_ask_t){.segments = body->segments.text,
                                     .segment_count = body->segments.count,
                                     .targets = body->targets.text,
                                     .target_count = body->targets.count,
                                     .max_concurrency = most > 0 ? (uint64_t)most : 0};
    return true;
}

static void format_id(mcs_id_t id, char *text, size_t size)
{
    snprintf(text, size, "%" PRIu64 "-%" PRIu64, id.hi, id.lo);
}

static void reply_job(mcs_http_request_t *request, mcs_id_t id, const char *status)
{
    char text[64];
    format_id(id, text, sizeof(text));
    mcs_json_reply(request, 200,
                   json_pack("{s:b, s:s, s:s, s:i, s:s}", "success", 1, "job_id", text, "status", status, "error_code",
                             0, "error_message", ""));
}

void mcs_i_admin_drain_start(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    size_t len = 0;
    const uint8_t *bytes = mcs_http_body(request, &len);
    json_t *root = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, NULL);
    drain_body_t *body = MCS_NEW(drain_body_t);
    mcs_service_drain_ask_t ask;
    mcs_id_t id = {0, 0};
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (body == NULL) {
        status = MCS_ERR_NO_MEMORY;
    } else if (root != NULL && take_body(root, body, &ask)) {
        status = mcs_service_drain_start(admin->config.service, &ask, &id);
    }
    json_decref(root); /* the names are its own */
    mcs_free(body);
    if (status != MCS_OK) {
        mcs_json_reply_status(request, status);
    } else {
        reply_job(request, id, "CREATED");
    }
}

/* "a-b", both decimal; else 400. */
static bool take_id(mcs_http_request_t *request, mcs_id_t *id_out)
{
    char high[32];
    const char *text = mcs_http_query_text(request, "job_id");
    const char *dash = text != NULL ? strchr(text, '-') : NULL;
    bool ok = dash != NULL && (size_t)(dash - text) < sizeof(high);
    if (ok) {
        memcpy(high, text, (size_t)(dash - text));
        high[dash - text] = '\0';
        ok = mcs_parse_u64(high, UINT64_MAX, &id_out->hi) == MCS_OK &&
             mcs_parse_u64(dash + 1, UINT64_MAX, &id_out->lo) == MCS_OK;
    }
    if (!ok) {
        mcs_json_reply_error(request, MCS_ERR_INVALID_PARAMS, "Missing or invalid job_id");
    }
    return ok;
}

/* NULL: no memory. */
static json_t *segments_json(const mcs_service_drain_t *drain)
{
    json_t *list = json_array();
    const char *name = drain->segments;
    for (size_t i = 0; list != NULL && i < drain->segment_count; i++) {
        size_t len = strlen(name);
        if (json_array_append_new(list, mcs_json_text(name, len)) != 0) {
            json_decref(list);
            return NULL;
        }
        name += len + 1;
    }
    return list;
}

void mcs_i_admin_drain_query(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_service_drain_t drain;
    mcs_id_t id;
    char text[64];
    if (!take_id(request, &id)) {
        return;
    }
    mcs_status_t status = mcs_service_drain_query(admin->config.service, id, &drain);
    if (status != MCS_OK) {
        mcs_json_reply_status(request, status);
        return;
    }
    format_id(id, text, sizeof(text));
    mcs_json_reply(request, 200,
                   json_pack("{s:b, s:s, s:i, s:s, s:i, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:s, s:i, s:s}",
                             "success", 1, "job_id", text, "type", 0, "type_name", "DRAIN", "status", (int)drain.status,
                             "status_name", drain.status_name, "created_at_ms_epoch", (json_int_t)drain.created_ms,
                             "last_updated_at_ms_epoch", (json_int_t)drain.updated_ms, "segments",
                             segments_json(&drain), "succeeded_units", (json_int_t)drain.succeeded, "failed_units",
                             (json_int_t)drain.failed, "blocked_units", (json_int_t)drain.blocked, "active_units",
                             (json_int_t)drain.active, "migrated_bytes", (json_int_t)drain.bytes, "message",
                             drain.message, "error_code", 0, "error_message", ""));
    mcs_service_drain_fini(&drain);
}

void mcs_i_admin_drain_cancel(void *arg, mcs_http_request_t *request)
{
    const mcs_http_admin_t *admin = (const mcs_http_admin_t *)arg;
    mcs_id_t id;
    if (!take_id(request, &id)) {
        return;
    }
    mcs_status_t status = mcs_service_drain_cancel(admin->config.service, id);
    if (status != MCS_OK) {
        mcs_json_reply_status(request, status);
    } else {
        reply_job(request, id, "CANCELED");
    }
}
