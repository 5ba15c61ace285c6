/* See metadata_cleanup.h. Off the request path.
 *
 * Names wait in a list. The first stays there until the server has said of each of its keys that it is deleted (200) or
 * not there (404); while the server does not answer, the others wait behind it, for they want the same server. */
#include "master/metadata_cleanup.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"

#define AREA           "metadata"
#define TOTAL_MS       3000L
#define CONNECT_MS     1500L
#define WAITING_MAX    4096u
#define TRIES_MAX      6u /* the pauses between them: 1, 2, 4, 8, 16 s */
#define FIRST_PAUSE_NS MCS_NS_PER_SEC
#define URL_MAX_LEN    ((size_t)8 << 10)
#define HTTP_OK        200
#define HTTP_NOT_FOUND 404
#define KINDS          2u

typedef struct dead_client {
    mcs_list_t node;
    uint32_t tries; /* the thread's */
    char name[];
} dead_client_t;

struct mcs_metadata_cleanup {
    mcs_metadata_cleanup_config_t config;
    char *url;
    char *cluster_id;
    mcs_thread_t thread;
    uint32_t stopping; /* atomic; set under the lock, read by a request that is under way, too */
    mcs_mutex_t lock;  /* rank HTTP: what follows */
    mcs_cond_t wake;
    mcs_list_t waiting MCS_GUARDED_BY(&lock);
    uint32_t waiting_count MCS_GUARDED_BY(&lock);
};

static bool is_stopping(const mcs_metadata_cleanup_t *cleanup)
{
    return __atomic_load_n(&cleanup->stopping, __ATOMIC_RELAXED) != 0;
}

/* ---- one request ---- */

static pthread_once_t g_curl_once = PTHREAD_ONCE_INIT;
static bool g_curl_ready;

static void init_curl(void)
{
    g_curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static size_t drop_answer(char *bytes, size_t size, size_t count, void *arg)
{
    (void)bytes;
    (void)arg;
    return size * count;
}

/* Other than 0 ends the request. */
static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    (void)down_total;
    (void)down;
    (void)up_total;
    (void)up;
    return is_stopping((const mcs_metadata_cleanup_t *)arg) ? 1 : 0;
}

/* A proxy of the environment is for other hosts, not for this one. */
static bool is_this_host(const char *url)
{
    const char *host = strstr(url, "://");
    host = host != NULL ? host + 3 : url;
    return strncmp(host, "localhost", 9) == 0 || strncmp(host, "127.", 4) == 0 || strncmp(host, "[::1]", 5) == 0;
}

/* "URL?key=mooncake/[CLUSTER/]KIND/NAME", the key percent-encoded. */
static mcs_status_t put_url(CURL *curl, const mcs_metadata_cleanup_t *cleanup, const char *kind, bool with_cluster,
                            const char *name, mcs_buf_t *url)
{
    char *cluster = curl_easy_escape(curl, cleanup->cluster_id, 0);
    char *escaped = curl_easy_escape(curl, name, 0);
    if (cluster == NULL || escaped == NULL) {
        curl_free(cluster);
        curl_free(escaped);
        return MCS_ERR_NO_MEMORY;
    }
    mcs_buf_printf(url, "%s%ckey=mooncake%%2F%s%s%s%%2F%s", cleanup->url, strchr(cleanup->url, '?') != NULL ? '&' : '?',
                   with_cluster ? cluster : "", with_cluster ? "%2F" : "", kind, escaped);
    curl_free(cluster);
    curl_free(escaped);
    mcs_buf_cstr(url);
    return mcs_buf_status(url);
}

/* The HTTP status; 0 when none came, and `why` (CURL_ERROR_SIZE) says why. */
static long ask_to_delete(mcs_metadata_cleanup_t *cleanup, CURL *curl, const char *url, char *why)
{
    long code = 0;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "DELETE");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, TOTAL_MS);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop_answer);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "mooncake-store");
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, cleanup);
    if (is_this_host(url)) {
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
    }
    why[0] = '\0';
    CURLcode rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? CURLE_COULDNT_CONNECT : curl_easy_perform(curl);
    if (rc != CURLE_OK) {
        if (why[0] == '\0') {
            snprintf(why, CURL_ERROR_SIZE, "%s", curl_easy_strerror(rc));
        }
        return 0;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
}

/* ---- one client ---- */

/* False: not everything was answered. */
static bool delete_records(mcs_metadata_cleanup_t *cleanup, const char *name)
{
    static const char *const kinds[KINDS] = {"rpc_meta", "ram"}; /* the name first: it is what keeps others out */
    char why[CURL_ERROR_SIZE];
    uint32_t deleted = 0;
    bool answered = true;
    pthread_once(&g_curl_once, init_curl);
    CURL *curl = g_curl_ready && !mcs_fault_hit(MCS_FAULT_SYSCALL) ? curl_easy_init() : NULL;
    for (uint32_t i = 0; i < 2 * KINDS && answered; i++) {
        mcs_buf_t url;
        mcs_buf_init(&url, URL_MAX_LEN);
        bool with_cluster = i % 2 == 1;
        answered = curl != NULL && put_url(curl, cleanup, kinds[i / 2], with_cluster, name, &url) == MCS_OK;
        if (answered && (!with_cluster || cleanup->cluster_id[0] != '\0')) {
            long code = ask_to_delete(cleanup, curl, mcs_buf_cstr(&url), why);
            deleted += code == HTTP_OK;
            answered = code == HTTP_OK || code == HTTP_NOT_FOUND;
            if (!answered && !is_stopping(cleanup)) {
                mcs_warn(AREA, "DELETE %s: status %ld %s", mcs_buf_cstr(&url), code, why);
            }
        }
        mcs_buf_fini(&url);
    }
    curl_easy_cleanup(curl);
    if (answered) {
        mcs_info(AREA, "segment %s: %u records of its dead client deleted at %s", name, deleted, cleanup->url);
    }
    return answered;
}

/* True: nothing is left to do for it. */
static bool settle(mcs_metadata_cleanup_t *cleanup, dead_client_t *client)
{
    if (cleanup->config.is_alive(cleanup->config.arg, client->name)) {
        mcs_info(AREA, "segment %s: its client is back, its records stay", client->name);
        return true;
    }
    if (delete_records(cleanup, client->name)) {
        return true;
    }
    client->tries++;
    if (client->tries < TRIES_MAX) {
        return false;
    }
    if (!is_stopping(cleanup)) {
        mcs_warn(AREA, "segment %s: the records of its dead client stay in %s", client->name, cleanup->url);
    }
    return true;
}

static void cleanup_thread(void *arg)
{
    mcs_metadata_cleanup_t *cleanup = (mcs_metadata_cleanup_t *)arg;
    mcs_mutex_lock(&cleanup->lock);
    while (!is_stopping(cleanup)) {
        if (mcs_list_empty(&cleanup->waiting)) {
            mcs_cond_wait(&cleanup->wake, &cleanup->lock);
            continue;
        }
        dead_client_t *client = MCS_LIST_FIRST(&cleanup->waiting, dead_client_t, node);
        mcs_mutex_unlock(&cleanup->lock);
        bool settled = settle(cleanup, client);
        uint64_t resume_ns = mcs_now_ns() + (FIRST_PAUSE_NS << client->tries >> 1);
        mcs_mutex_lock(&cleanup->lock);
        if (settled) {
            mcs_list_remove(&client->node);
            cleanup->waiting_count--;
            mcs_free(client);
            continue;
        }
        while (!is_stopping(cleanup) && mcs_cond_wait_until(&cleanup->wake, &cleanup->lock, resume_ns)) {
        }
    }
    mcs_mutex_unlock(&cleanup->lock);
}

void mcs_metadata_cleanup_forget(mcs_metadata_cleanup_t *cleanup, const char *segment_name)
{
    size_t len = strlen(segment_name) + 1;
    dead_client_t *client = mcs_calloc(1, sizeof(*client) + len);
    if (client != NULL) {
        memcpy(client->name, segment_name, len);
        mcs_mutex_lock(&cleanup->lock);
        bool room = cleanup->waiting_count < WAITING_MAX;
        if (room) {
            mcs_list_push_tail(&cleanup->waiting, &client->node);
            cleanup->waiting_count++;
            mcs_cond_signal(&cleanup->wake);
        }
        mcs_mutex_unlock(&cleanup->lock);
        if (room) {
            return;
        }
    }
    mcs_free(client);
    mcs_warn(AREA, "segment %s: the records of its dead client stay in %s: %s", segment_name, cleanup->url,
             mcs_status_name(client == NULL ? MCS_ERR_NO_MEMORY : MCS_ERR_LIMIT));
}

/* ---- which server ---- */

static bool is_http(const char *url)
{
    return strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
}

static void no_server(const char *why, const char *what)
{
    mcs_warn(AREA, "enable_metadata_cleanup_on_timeout has no effect: %s%s", why, what);
}

/* The metadata_server of the engines' file, to be freed; NULL, after a warning, when there is none. */
static char *url_of_file(const char *path)
{
    json_error_t error;
    char *url = NULL;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    const char *text = json_string_value(json_object_get(root, "metadata_server"));
    if (root == NULL) {
        no_server("MOONCAKE_CONFIG_PATH: ", error.text);
    } else if (text == NULL) {
        no_server("no metadata_server in ", path);
    } else {
        url = mcs_strdup(text);
    }
    json_decref(root);
    return url;
}

/* NULL, after a warning, when there is no server to ask. */
static char *choose_url(const mcs_metadata_cleanup_config_t *config)
{
    char *url = NULL;
    if (config->url[0] != '\0') {
        url = mcs_strdup(config->url);
    } else if (config->config_path[0] != '\0') {
        url = url_of_file(config->config_path);
    } else {
        no_server("the master serves no metadata (enable_http_metadata_server), and MOONCAKE_TE_META_DATA_SERVER does "
                  "not name the server that does",
                  "");
    }
    if (url != NULL && !is_http(url)) {
        no_server("records are deleted over http:// and https:// only, not at ", url);
        mcs_free(url);
        url = NULL;
    }
    return url;
}

/* ---- life ---- */

mcs_status_t mcs_metadata_cleanup_start(const mcs_metadata_cleanup_config_t *config,
                                        mcs_metadata_cleanup_t **cleanup_out)
{
    char *url = choose_url(config);
    if (url == NULL) {
        *cleanup_out = NULL;
        return MCS_OK;
    }
    mcs_metadata_cleanup_t *cleanup = MCS_NEW(mcs_metadata_cleanup_t);
    if (cleanup == NULL) {
        mcs_free(url);
        return MCS_ERR_NO_MEMORY;
    }
    cleanup->config = *config;
    cleanup->url = url;
    cleanup->cluster_id = mcs_strdup(config->cluster_id);
    mcs_mutex_init(&cleanup->lock, MCS_RANK_HTTP, "metadata cleanup");
    mcs_cond_init(&cleanup->wake);
    mcs_list_init(&cleanup->waiting);
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    if (cleanup->cluster_id != NULL) {
        status = mcs_thread_start(&cleanup->thread, "mcs-meta-clean", cleanup_thread, cleanup);
    }
    if (status != MCS_OK) {
        mcs_metadata_cleanup_stop(cleanup);
        return status;
    }
    mcs_info(AREA, "records of clients that die are deleted at %s", url);
    *cleanup_out = cleanup;
    return MCS_OK;
}

void mcs_metadata_cleanup_stop(mcs_metadata_cleanup_t *cleanup)
{
    if (cleanup == NULL) {
        return;
    }
    mcs_mutex_lock(&cleanup->lock);
    __atomic_store_n(&cleanup->stopping, 1, __ATOMIC_RELAXED);
    mcs_cond_broadcast(&cleanup->wake);
    mcs_mutex_unlock(&cleanup->lock);
    mcs_thread_join(&cleanup->thread);
    while (!mcs_list_empty(&cleanup->waiting)) {
        dead_client_t *client = MCS_LIST_FIRST(&cleanup->waiting, dead_client_t, node);
        mcs_list_remove(&client->node);
        mcs_free(client);
    }
    mcs_cond_fini(&cleanup->wake);
    mcs_mutex_fini(&cleanup->lock);
    mcs_free(cleanup->cluster_id);
    mcs_free(cleanup->url);
    mcs_free(cleanup);
}
