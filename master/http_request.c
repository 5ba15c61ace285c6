/* Requests and replies; see http_server.h. Request path: one allocation a request, and what the library takes.
 *
 * The query is parsed here, not by the library: keys are bytes, and the library turns "+" into a blank and stops at a
 * zero byte. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/http_internal.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Writes at most `len` bytes and a terminator; a "%" without two digits behind it stays. Returns the bytes written. */
static size_t percent_decode(const char *text, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int high = text[i] == '%' && i + 2 < len ? hex_digit(text[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
        if (low >= 0) {
            out[n++] = (char)(high * 16 + low);
            i += 2;
        } else {
            out[n++] = text[i];
        }
    }
    out[n] = '\0';
    return n;
}

/* "a=b&c": cuts `raw` in place, decodes into `decoded` (room for the query and a terminator for each part). */
static void parse_query(mcs_http_request_t *request, char *raw, char *decoded)
{
    char *part = raw;
    while (part != NULL && request->param_count < HTTP_PARAMS_MAX) {
        char *end = strchr(part, '&');
        if (end != NULL) {
            *end = '\0';
        }
        if (*part != '\0') {
            mcs_http_param_t *param = &request->params[request->param_count++];
            char *equals = strchr(part, '=');
            size_t name_len = equals != NULL ? (size_t)(equals - part) : strlen(part);
            param->name = decoded;
            decoded += percent_decode(part, name_len, decoded) + 1;
            param->raw = equals != NULL ? equals + 1 : part + name_len;
            param->raw_len = strlen(param->raw);
            param->value = decoded;
            param->value_len = percent_decode(param->raw, param->raw_len, decoded);
            decoded += param->value_len + 1;
        }
        part = end != NULL ? end + 1 : NULL;
    }
}

mcs_http_request_t *mcs_i_http_request_create(mcs_http_server_t *server, struct MHD_Connection *connection,
                                              mcs_http_conn_t *conn, const char *uri)
{
    const char *query = strchr(uri, '?');
    size_t len = query != NULL ? strlen(query + 1) : 0;
    /* Raw, and decoded: never longer, but each of the parts gets a terminator of its own and its "=" one more. */
    mcs_http_request_t *request = mcs_calloc(1, sizeof(*request) + 2 * len + (size_t)2 * HTTP_PARAMS_MAX + 2);
    if (request == NULL) {
        return NULL;
    }
    request->server = server;
    request->conn = conn;
    request->connection = connection;
    request->queued = MHD_NO;
    /* The library gives paths as C strings: this one would be cut. */
    const char *zero = strstr(uri, "%00");
    request->refusal = zero != NULL && (query == NULL || zero < query) ? MHD_HTTP_BAD_REQUEST : 0;
    mcs_buf_init(&request->body, server->config.body_max);
    if (len > 0) {
        memcpy(request->text, query + 1, len);
        parse_query(request, request->text, request->text + len + 1);
    }
    return request;
}

void mcs_i_http_request_destroy(mcs_http_request_t *request)
{
    if (request == NULL) {
        return;
    }
    (void)__atomic_sub_fetch(&request->server->body_bytes, request->body.len, __ATOMIC_RELAXED);
    mcs_buf_fini(&request->body);
    mcs_free(request);
}

static const mcs_http_param_t *find_param(const mcs_http_request_t *request, const char *name)
{
    for (size_t i = 0; i < request->param_count; i++) {
        if (strcmp(request->params[i].name, name) == 0) {
            return &request->params[i];
        }
    }
    return NULL;
}

const char *mcs_http_query(const mcs_http_request_t *request, const char *name, size_t *len_out)
{
    const mcs_http_param_t *param = find_param(request, name);
    if (param != NULL && len_out != NULL) {
        *len_out = param->value_len;
    }
    return param != NULL ? param->value : NULL;
}

const char *mcs_http_query_text(const mcs_http_request_t *request, const char *name)
{
    size_t len = 0;
    const char *text = mcs_http_query(request, name, &len);
    return text != NULL && strlen(text) == len ? text : NULL;
}

const char *mcs_http_query_raw(const mcs_http_request_t *request, const char *name, size_t *len_out)
{
    const mcs_http_param_t *param = find_param(request, name);
    if (param != NULL && len_out != NULL) {
        *len_out = param->raw_len;
    }
    return param != NULL ? param->raw : NULL;
}

const uint8_t *mcs_http_body(const mcs_http_request_t *request, size_t *len_out)
{
    *len_out = request->body.len;
    return request->body.len > 0 ? request->body.bytes : (const uint8_t *)"";
}

void mcs_i_http_reply_response(mcs_http_request_t *request, unsigned code, const char *type,
                               struct MHD_Response *response)
{
    request->replied = true;
    if (response == NULL) {
        return; /* `queued` is MHD_NO: the connection is closed */
    }
    bool ok = MHD_add_response_header(response, "Content-Type", type) == MHD_YES &&
              MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") == MHD_YES &&
              MHD_add_response_header(response, "Cache-Control", "no-store") == MHD_YES &&
              (!request->close_after || MHD_add_response_header(response, "Connection", "close") == MHD_YES);
    if (ok) {
        request->queued = MHD_queue_response(request->connection, code, response);
    }
    MHD_destroy_response(response);
}

void mcs_http_reply(mcs_http_request_t *request, unsigned code, const char *type, const void *bytes, size_t len)
{
    mcs_buf_t copy;
    mcs_buf_init(&copy, SIZE_MAX);
    mcs_buf_append(&copy, bytes, len);
    mcs_http_reply_buf(request, code, type, &copy);
}

void mcs_http_reply_text(mcs_http_request_t *request, unsigned code, const char *text)
{
    mcs_http_reply(request, code, MCS_HTTP_TEXT, text, strlen(text));
}

/* An answer's bytes while the client takes them. */
typedef struct held_answer {
    mcs_http_server_t *server;
    uint8_t *bytes;
    size_t len;
} held_answer_t;

static void free_answer(void *cls)
{
    held_answer_t *held = (held_answer_t *)cls;
    (void)__atomic_sub_fetch(&held->server->answer_bytes, held->len, __ATOMIC_RELAXED);
    mcs_free(held->bytes);
    mcs_free(held);
}

/* Takes the buffer's memory on success. NULL: no memory, or too many bytes wait for slow clients. */
static struct MHD_Response *hold_answer(mcs_http_server_t *server, mcs_buf_t *buf)
{
    held_answer_t *held = MCS_NEW(held_answer_t);
    if (held == NULL) {
        return NULL;
    }
    *held = (held_answer_t){.server = server, .bytes = buf->bytes, .len = buf->len};
    struct MHD_Response *response = NULL;
    if (__atomic_add_fetch(&server->answer_bytes, held->len, __ATOMIC_RELAXED) <= server->config.answers_max) {
        response = MHD_create_response_from_buffer_with_free_callback_cls(held->len, held->bytes, free_answer, held);
    }
    if (response == NULL) {
        (void)__atomic_sub_fetch(&server->answer_bytes, held->len, __ATOMIC_RELAXED);
        mcs_free(held);
        return NULL;
    }
    *buf = (mcs_buf_t){.limit = buf->limit};
    return response;
}

static struct MHD_Response *constant_answer(const char *text)
{
    /* The library takes a mutable pointer but does not write. */
    return MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
}

void mcs_http_reply_buf(mcs_http_request_t *request, unsigned code, const char *type, mcs_buf_t *buf)
{
    if (mcs_buf_status(buf) != MCS_OK) {
        mcs_i_http_reply_response(request, MHD_HTTP_INTERNAL_SERVER_ERROR, MCS_HTTP_TEXT,
                                  constant_answer("the answer does not fit into memory"));
    } else if (buf->len == 0) {
        mcs_i_http_reply_response(request, code, type, constant_answer(""));
    } else {
        struct MHD_Response *response = hold_answer(request->server, buf);
        if (response != NULL) {
            mcs_i_http_reply_response(request, code, type, response);
        } else {
            mcs_i_http_reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "");
        }
    }
    mcs_buf_fini(buf);
}

/* The methods that a path has, for the Allow header. */
static void list_methods(const mcs_http_request_t *request, const char *path, char *text, size_t size)
{
    const mcs_http_config_t *config = &request->server->config;
    size_t len = 0;
    text[0] = '\0';
    for (size_t i = 0; i < config->route_count; i++) {
        if (strcmp(config->routes[i].path, path) == 0 && len < size) {
            int n = snprintf(text + len, size - len, "%s%s", len == 0 ? "" : ", ", config->routes[i].method);
            len += n > 0 ? (size_t)n : 0;
        }
    }
}

void mcs_i_http_reply_error(mcs_http_request_t *request, unsigned code, const char *path)
{
    char methods[64];
    const char *text = "internal error";
    list_methods(request, path, methods, sizeof(methods));
    if (code == MHD_HTTP_NOT_FOUND && methods[0] != '\0') {
        code = MHD_HTTP_METHOD_NOT_ALLOWED;
    }
    switch (code) {
    case MHD_HTTP_BAD_REQUEST: text = "zero byte in the path"; break;
    case MHD_HTTP_UNAUTHORIZED: text = "a token is needed: Authorization: Bearer TOKEN"; break;
    case MHD_HTTP_FORBIDDEN: text = "request of a page from another host"; break;
    case MHD_HTTP_NOT_FOUND: text = "no such page"; break;
    case MHD_HTTP_METHOD_NOT_ALLOWED: text = "Method not allowed"; break;
    case MHD_HTTP_CONTENT_TOO_LARGE: text = "request body too large"; break;
    case MHD_HTTP_SERVICE_UNAVAILABLE: text = "too much at once, try again"; break;
    default: break;
    }
    struct MHD_Response *response = constant_answer(text);
    if (response != NULL && code == MHD_HTTP_METHOD_NOT_ALLOWED) {
        (void)MHD_add_response_header(response, "Allow", methods);
    }
    if (response != NULL && code == MHD_HTTP_UNAUTHORIZED) {
        (void)MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    }
    mcs_i_http_reply_response(request, code, MCS_HTTP_TEXT, response);
}
