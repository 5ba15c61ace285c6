/* The metadata ops over HTTP: `http://host:port/metadata?key=...` of the original's metadata server, by libcurl.
 *
 * A record is two keys (`mooncake/[<cluster id>/]rpc_meta/<segment name>` and `.../ram/<segment name>`),
 * percent-encoded, with JSON bodies. The server is not trusted to be one: an answer is bounded, only status 200 counts,
 * and the descriptor is read back and compared, so that a web server that says 200 to everything is found out at setup
 * and not when a peer looks for us. Calls block for at most TOTAL_MS a request, use no signals and no state between
 * calls; thread-safe. */
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/alloc.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "ucx_transport/ucx_transport.h"

#define AREA           "metadata"
#define TOTAL_MS       3000L
#define CONNECT_MS     1500L
#define WITHDRAW_MS    3000
#define ANSWER_MAX     ((size_t)1 << 20)
#define RECORD_MAX     ((size_t)64 << 10)
#define URL_MAX_LEN    ((size_t)8 << 10)
#define EXCERPT_MAX    100
#define HTTP_OK        200
#define HTTP_DUPLICATE 400

static pthread_once_t g_curl_once = PTHREAD_ONCE_INIT;
static bool g_curl_ready;

static void init_curl(void)
{
    g_curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

/* ---- text ---- */

static void put_json_string(mcs_buf_t *out, const char *text)
{
    mcs_buf_put_u8(out, '"');
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\') {
            mcs_buf_put_u8(out, '\\');
            mcs_buf_put_u8(out, *p);
        } else if (*p < 0x20 || *p == 0x7f) {
            mcs_buf_printf(out, "\\u%04x", *p);
        } else {
            mcs_buf_put_u8(out, *p);
        }
    }
    mcs_buf_put_u8(out, '"');
}

static void put_rpc_meta(mcs_buf_t *out, const mcs_metadata_record_t *record)
{
    mcs_buf_printf(out, "{\"ip_or_host_name\":");
    put_json_string(out, record->host);
    mcs_buf_printf(out, ",\"rpc_port\":%u}", (unsigned)record->data_port);
}

/* Addresses of memory never leave the process: `addr` is 0. */
static void put_descriptor(mcs_buf_t *out, const mcs_metadata_record_t *record)
{
    char when[40];
    time_t now = (time_t)(mcs_wall_ms() / 1000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    mcs_buf_printf(out, "{\"name\":");
    put_json_string(out, record->segment_name);
    mcs_buf_printf(out, ",\"protocol\":");
    put_json_string(out, record->protocol);
    mcs_buf_printf(out, ",\"tcp_data_port\":%u,\"tcp_proto_version\":2,\"timestamp\":\"%s\",\"buffers\":[",
                   (unsigned)record->data_port, when);
    if (record->segment_bytes > 0) {
        mcs_buf_printf(out, "{\"name\":\"cpu:0\",\"addr\":0,\"length\":%llu}",
                       (unsigned long long)record->segment_bytes);
    }
    mcs_buf_printf(out, "]}");
}

static bool is_unreserved(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

static void put_percent(mcs_buf_t *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (is_unreserved(*p)) {
            mcs_buf_put_u8(out, *p);
        } else {
            mcs_buf_printf(out, "%%%02X", *p);
        }
    }
}

/* `kind`: "rpc_meta" or "ram". */
static void put_url(mcs_buf_t *out, const mcs_metadata_record_t *record, const char *kind)
{
    mcs_buf_printf(out, "%s%ckey=mooncake%%2F", record->url, strchr(record->url, '?') != NULL ? '&' : '?');
    if (record->cluster_id[0] != '\0') {
        put_percent(out, record->cluster_id);
        mcs_buf_printf(out, "%%2F");
    }
    mcs_buf_printf(out, "%s%%2F", kind);
    put_percent(out, record->segment_name);
}

/* ---- one request ---- */

typedef struct exchange {
    const char *method;
    const char *url;
    const mcs_buf_t *body; /* NULL = none */
    long timeout_ms;
    mcs_buf_t answer;
    long code; /* HTTP status, 0 = no answer */
    char why[CURL_ERROR_SIZE];
} exchange_t;

static size_t on_answer(char *bytes, size_t size, size_t count, void *arg)
{
    mcs_buf_t *answer = arg;
    mcs_buf_append(answer, bytes, size * count);
    /* Too long is an error. Lack of memory cuts the text: what a PUT is answered with is for the log only, and a record
     * that does not come back whole fails the comparison. */
    return mcs_buf_status(answer) == MCS_ERR_LIMIT ? 0 : size * count;
}

/* A proxy of the environment is for other hosts, not for this one. */
static bool is_loopback(const char *url)
{
    CURLU *parsed = curl_url();
    char *host = NULL;
    bool loopback = false;
    if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        loopback = strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0;
    }
    curl_free(host);
    curl_url_cleanup(parsed);
    return loopback;
}

static void set_options(CURL *curl, exchange_t *x, struct curl_slist *headers)
{
    curl_easy_setopt(curl, CURLOPT_URL, x->url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, x->method);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, x->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, MCS_MIN(CONNECT_MS, x->timeout_ms));
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, x->why);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &x->answer);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "mooncake-store");
    if (is_loopback(x->url)) {
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
    }
    if (x->body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)x->body->len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, (const char *)x->body->bytes);
    }
}

/* What came, for a log line: a short printable start of the body. */
static void excerpt(const mcs_buf_t *answer, char text[EXCERPT_MAX + 1])
{
    size_t len = MCS_MIN(answer->len, (size_t)EXCERPT_MAX);
    for (size_t i = 0; i < len; i++) {
        text[i] = answer->bytes[i] >= 0x20 && answer->bytes[i] < 0x7f ? (char)answer->bytes[i] : '?';
    }
    text[len] = '\0';
}

static void log_exchange(const exchange_t *x, const char *what)
{
    char text[EXCERPT_MAX + 1];
    excerpt(&x->answer, text);
    if (x->code == 0) {
        mcs_error(AREA, "%s %s: %s (%s)", x->method, x->url, what, x->why);
    } else {
        mcs_error(AREA, "%s %s: %s: status %ld, \"%s\"%s", x->method, x->url, what, x->code, text, x->why);
    }
}

/* MCS_OK: an answer came, see code. The answer's memory is the caller's to end (mcs_buf_fini). */
static mcs_status_t run_exchange(exchange_t *x)
{
    mcs_buf_init(&x->answer, ANSWER_MAX);
    x->why[0] = '\0';
    x->code = 0;
    pthread_once(&g_curl_once, init_curl);
    CURL *curl = g_curl_ready && !mcs_fault_hit(MCS_FAULT_SYSCALL) ? curl_easy_init() : NULL;
    /* No "100-continue": servers that do not know it would cost a second. */
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    struct curl_slist *all = headers != NULL ? curl_slist_append(headers, "Content-Type: application/json") : NULL;
    if (curl == NULL || all == NULL) {
        curl_slist_free_all(headers);
        curl_easy_cleanup(curl);
        return MCS_ERR_NO_MEMORY;
    }
    set_options(curl, x, all);
    CURLcode rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? CURLE_COULDNT_CONNECT : curl_easy_perform(curl);
    if (rc == CURLE_OK) {
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &x->code);
    } else if (x->why[0] == '\0') {
        snprintf(x->why, sizeof(x->why), "%s", curl_easy_strerror(rc));
    }
    curl_slist_free_all(all);
    curl_easy_cleanup(curl);
    if (rc == CURLE_WRITE_ERROR && mcs_buf_status(&x->answer) == MCS_ERR_LIMIT) {
        snprintf(x->why, sizeof(x->why), "the answer is longer than %zu bytes", ANSWER_MAX);
    }
    return rc == CURLE_OK ? MCS_OK : MCS_ERR_INVALID_PARAMS;
}

/* ---- the ops ---- */

typedef struct publication {
    mcs_buf_t rpc_url;
    mcs_buf_t ram_url;
    mcs_buf_t rpc_body;
    mcs_buf_t ram_body;
} publication_t;

static mcs_status_t publication_init(publication_t *p, const mcs_metadata_record_t *record)
{
    mcs_buf_init(&p->rpc_url, URL_MAX_LEN);
    mcs_buf_init(&p->ram_url, URL_MAX_LEN);
    mcs_buf_init(&p->rpc_body, RECORD_MAX);
    mcs_buf_init(&p->ram_body, RECORD_MAX);
    put_url(&p->rpc_url, record, "rpc_meta");
    put_url(&p->ram_url, record, "ram");
    put_rpc_meta(&p->rpc_body, record);
    put_descriptor(&p->ram_body, record);
    mcs_buf_cstr(&p->rpc_url);
    mcs_buf_cstr(&p->ram_url);
    const mcs_buf_t *bufs[] = {&p->rpc_url, &p->ram_url, &p->rpc_body, &p->ram_body};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bufs); i++) {
        if (mcs_buf_status(bufs[i]) != MCS_OK) {
            return mcs_buf_status(bufs[i]) == MCS_ERR_LIMIT ? MCS_ERR_INVALID_PARAMS : mcs_buf_status(bufs[i]);
        }
    }
    return MCS_OK;
}

static void publication_fini(publication_t *p)
{
    mcs_buf_fini(&p->rpc_url);
    mcs_buf_fini(&p->ram_url);
    mcs_buf_fini(&p->rpc_body);
    mcs_buf_fini(&p->ram_body);
}

/* `duplicate`: what status 400 means for this key. */
static mcs_status_t put(mcs_buf_t *url, const mcs_buf_t *body, mcs_status_t duplicate)
{
    exchange_t x = {.method = "PUT", .url = mcs_buf_cstr(url), .body = body, .timeout_ms = TOTAL_MS};
    mcs_status_t status = run_exchange(&x);
    if (status != MCS_OK) {
        log_exchange(&x, "no metadata server answers");
    } else if (x.code == HTTP_DUPLICATE && duplicate != MCS_OK) {
        log_exchange(&x, "the name is taken");
        status = duplicate;
    } else if (x.code != HTTP_OK) {
        log_exchange(&x, "not stored");
        status = MCS_ERR_INVALID_PARAMS;
    }
    mcs_buf_fini(&x.answer);
    return status;
}

static mcs_status_t verify(mcs_buf_t *url, const mcs_buf_t *body)
{
    exchange_t x = {.method = "GET", .url = mcs_buf_cstr(url), .timeout_ms = TOTAL_MS};
    mcs_status_t status = run_exchange(&x);
    if (status != MCS_OK) {
        log_exchange(&x, "no metadata server answers");
    } else if (x.code != HTTP_OK || x.answer.len != body->len || memcmp(x.answer.bytes, body->bytes, body->len) != 0) {
        log_exchange(&x, "not a metadata server: it does not give back what was stored");
        status = MCS_ERR_INVALID_PARAMS;
    }
    mcs_buf_fini(&x.answer);
    return status;
}

static void delete_key(mcs_buf_t *url, long timeout_ms)
{
    exchange_t x = {.method = "DELETE", .url = mcs_buf_cstr(url), .timeout_ms = timeout_ms};
    mcs_status_t status = run_exchange(&x);
    if (status != MCS_OK || x.code != HTTP_OK) {
        mcs_debug(AREA, "DELETE %s: status %ld %s", x.url, x.code, x.why);
    }
    mcs_buf_fini(&x.answer);
}

static bool is_http(const char *url)
{
    return strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
}

static mcs_status_t publish(const mcs_metadata_record_t *record)
{
    if (!is_http(record->url)) {
        mcs_error(AREA, "metadata server \"%s\": want http://host:port/metadata", record->url);
        return MCS_ERR_INVALID_PARAMS;
    }
    publication_t p;
    mcs_status_t status = publication_init(&p, record);
    if (status != MCS_OK) {
        goto out;
    }
    status = put(&p.rpc_url, &p.rpc_body, MCS_ERR_SEGMENT_ALREADY_EXISTS);
    if (status != MCS_OK) {
        goto out; /* what is there is somebody else's */
    }
    status = put(&p.ram_url, &p.ram_body, MCS_OK);
    if (status == MCS_OK) {
        status = verify(&p.ram_url, &p.ram_body);
    }
    if (status != MCS_OK) {
        delete_key(&p.ram_url, CONNECT_MS);
        delete_key(&p.rpc_url, CONNECT_MS);
    }
out:
    publication_fini(&p);
    return status;
}

static void withdraw(const mcs_metadata_record_t *record)
{
    publication_t p;
    uint64_t deadline = mcs_deadline_after_ms(WITHDRAW_MS);
    if (is_http(record->url) && publication_init(&p, record) == MCS_OK) {
        /* The name first: without it nobody else can take our place. */
        delete_key(&p.rpc_url, WITHDRAW_MS / 2);
        delete_key(&p.ram_url, MCS_MAX(mcs_deadline_poll_ms(deadline), 1));
        publication_fini(&p);
    }
}

const mcs_metadata_ops_t ucxt_metadata_http_ops = {.publish = publish, .withdraw = withdraw};
