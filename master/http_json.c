/* See http_json.h. */
#include "master/http_json.h"

#include "core/base/alloc.h"

#define REPLY_MAX ((size_t)128 << 20)

json_t *mcs_json_text(const char *text, size_t len)
{
    json_t *json = json_stringn(text, len);
    if (json != NULL) {
        return json;
    }
    mcs_buf_t clean;
    mcs_buf_init(&clean, SIZE_MAX);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x80) {
            mcs_buf_append(&clean, &text[i], 1);
        } else {
            mcs_buf_append(&clean, "\xef\xbf\xbd", 3);
        }
    }
    if (mcs_buf_status(&clean) == MCS_OK) {
        json = json_stringn(mcs_buf_cstr(&clean), clean.len);
    }
    mcs_buf_fini(&clean);
    return json;
}

static int append(const char *bytes, size_t len, void *arg)
{
    mcs_buf_t *buf = (mcs_buf_t *)arg;
    mcs_buf_append(buf, bytes, len);
    return mcs_buf_status(buf) == MCS_OK ? 0 : -1;
}

void mcs_json_write(json_t *root, mcs_buf_t *out)
{
    if (root == NULL || json_dump_callback(root, append, out, JSON_COMPACT | JSON_REAL_PRECISION(15)) != 0) {
        out->failed = out->failed == MCS_OK ? MCS_ERR_NO_MEMORY : out->failed;
    }
    json_decref(root);
}

void mcs_json_reply(mcs_http_request_t *request, unsigned code, json_t *root)
{
    mcs_buf_t buf;
    mcs_buf_init(&buf, REPLY_MAX);
    mcs_json_write(root, &buf);
    mcs_http_reply_buf(request, code, MCS_HTTP_JSON, &buf);
}

static unsigned http_code(mcs_status_t status)
{
    static const struct {
        mcs_status_t status;
        unsigned code;
    } rows[] = {
        {MCS_ERR_INVALID_PARAMS, 400},
        {MCS_ERR_JOB_NOT_FOUND, 404},
        {MCS_ERR_SEGMENT_NOT_FOUND, 404},
        {MCS_ERR_OBJECT_NOT_FOUND, 404},
        {MCS_ERR_TENANT_NOT_REGISTERED, 404},
        {MCS_ERR_UNAVAILABLE_IN_CURRENT_MODE, 409},
        {MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS, 409},
        {MCS_ERR_TENANT_NOT_EMPTY, 409},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        if (rows[i].status == status) {
            return rows[i].code;
        }
    }
    return 500;
}

void mcs_json_reply_error(mcs_http_request_t *request, mcs_status_t status, const char *message)
{
    status = mcs_status_public(status);
    mcs_json_reply(request, http_code(status),
                   json_pack("{s:b, s:i, s:s}", "success", 0, "error_code", (int)status, "error_message", message));
}

void mcs_json_reply_status(mcs_http_request_t *request, mcs_status_t status)
{
    mcs_json_reply_error(request, status, mcs_status_name(mcs_status_public(status)));
}
