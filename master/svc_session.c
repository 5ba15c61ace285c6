/* Sessions: the hello, liveness, the end.
 *
 * A session ends by goodbye or by its TTL; a closed control connection only makes it suspect: its segments are hidden
 * within the same turn of the loop, and seen again when it has been back for a second (rule 7). The end is in two
 * steps: hiding, on any thread and at once, and clearing away, by housekeeping alone, so that owners hear of an ended
 * session before they are asked for extents it may still write (rule 5). */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define NONCE_LEN     16u
#define PROOF_LEN     32u
#define CHALLENGE_LEN 32u
#define ROLE_CONTROL  1u
#define ROLE_CALL     2u
#define POLL_EVERY_NS (100 * MCS_NS_PER_MS)
#define ENDS_A_TURN   64u
#define TEXT_MAX      299u
#define SOFTWARE_NAME "mooncake-master"

/* ---- references ---- */

void svc_session_get(svc_session_t *session)
{
    __atomic_fetch_add(&session->refs, 1, __ATOMIC_RELAXED);
}

void svc_session_put(svc_session_t *session)
{
    if (session == NULL || __atomic_sub_fetch(&session->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    svc_outcomes_fini(session);
    svc_gen_table_fini(&session->endings);
    svc_gen_table_fini(&session->revoked);
    mcs_buf_fini(&session->forget);
    mcs_mutex_fini(&session->release_lock);
    mcs_mutex_fini(&session->lock);
    mcs_free(session->host_name);
    mcs_free(session->wire_name);
    mcs_free(session);
}

svc_session_t *svc_session_create(mcs_service_t *service, const Mcs__Wire__Hello *hello)
{
    svc_session_t *session = MCS_NEW(svc_session_t);
    if (session == NULL) {
        return NULL;
    }
    session->refs = 1;
    session->service = service;
    session->id = mcs_id_random();
    session->client = (mcs_id_t){hello->client->hi, hello->client->lo};
    session->pid = hello->pid;
    session->last_seen_ns = svc_clock(service);
    session->next_due_ns = MCS_NEVER;
    memcpy(session->boot_id, hello->boot_id, strlen(hello->boot_id) + 1);
    mcs_list_init(&session->node);
    mcs_list_init(&session->end_node);
    mcs_list_init(&session->outcomes);
    mcs_list_init(&session->ready);
    mcs_list_init(&session->asked);
    mcs_list_init(&session->unsent);
    mcs_list_init(&session->unacked);
    mcs_buf_init(&session->forget, (size_t)1 << 20);
    mcs_mutex_init(&session->lock, MCS_RANK_SESSION, "session");
    mcs_mutex_init(&session->release_lock, MCS_RANK_RELEASE, "session releases");
    session->host_name = mcs_strdup(hello->host_name);
    session->wire_name = mcs_strdup(hello->wire);
    if (session->host_name == NULL || session->wire_name == NULL || svc_gen_table_init(&session->endings) != MCS_OK ||
        svc_gen_table_init(&session->revoked) != MCS_OK) {
        svc_session_put(session);
        return NULL;
    }
    return session;
}

mcs_rpc_conn_t *svc_session_control(svc_session_t *session)
{
    mcs_mutex_lock(&session->lock);
    mcs_rpc_conn_t *conn = session->control;
    if (conn != NULL) {
        mcs_rpc_conn_get(conn);
    }
    mcs_mutex_unlock(&session->lock);
    return conn;
}

/* ---- hello ---- */

static bool hello_is_sane(const Mcs__Wire__Hello *hello)
{
    return hello->client != NULL && (hello->client->hi | hello->client->lo) != 0 &&
           (hello->role == ROLE_CONTROL || hello->role == ROLE_CALL) && strlen(hello->host_name) <= TEXT_MAX &&
           strlen(hello->boot_id) < 40 && strlen(hello->wire) <= TEXT_MAX &&
           (hello->nonce.len == 0 || hello->nonce.len == NONCE_LEN) &&
           (hello->proof.len == 0 || hello->proof.len == PROOF_LEN);
}

static mcs_status_t send_challenge(svc_call_t *call, svc_link_t *link)
{
    if (link->challenged) {
        return svc_refuse(call, MCS_ERR_ILLEGAL_CLIENT, "this cluster needs a token");
    }
    link->challenged = true;
    mcs_random_bytes(link->challenge, CHALLENGE_LEN);
    Mcs__Wire__HelloReply reply = MCS__WIRE__HELLO_REPLY__INIT;
    reply.challenge = (ProtobufCBinaryData){CHALLENGE_LEN, link->challenge};
    return svc_reply(call, MCS_ERR_AGAIN, &reply.base);
}

static bool proof_is_right(const mcs_service_t *service, const svc_link_t *link, const Mcs__Wire__Hello *hello)
{
    uint8_t message[NONCE_LEN + CHALLENGE_LEN + 16];
    uint8_t right[EVP_MAX_MD_SIZE];
    unsigned right_len = 0;
    if (!link->challenged || hello->nonce.len != NONCE_LEN || hello->proof.len != PROOF_LEN) {
        return false;
    }
    memcpy(message, hello->nonce.data, NONCE_LEN);
    memcpy(message + NONCE_LEN, link->challenge, CHALLENGE_LEN);
    mcs_store_u64(message + NONCE_LEN + CHALLENGE_LEN, hello->client->hi);
    mcs_store_u64(message + NONCE_LEN + CHALLENGE_LEN + 8, hello->client->lo);
    const char *token = service->conf->cluster_token;
    return HMAC(EVP_sha256(), token, (int)strlen(token), message, sizeof(message), right, &right_len) != NULL &&
           right_len == PROOF_LEN && CRYPTO_memcmp(right, hello->proof.data, PROOF_LEN) == 0;
}

/* The data plane's generation (design section 4): one a cluster, that of its first data client. Fills the text when
 * refused. */
mcs_status_t svc_session_check_wire_locked(mcs_service_t *service, const char *wire, char *text, size_t size)
{
    if (wire[0] == '\0') {
        return MCS_OK;
    }
    if (service->data_sessions > 0 && strcmp(service->wire, wire) != 0) {
        snprintf(text, size, "this cluster's data plane is %.100s, the client's is %.100s", service->wire, wire);
        return MCS_ERR_INVALID_VERSION;
    }
    if (service->data_sessions == 0 && (service->wire == NULL || strcmp(service->wire, wire) != 0)) {
        char *copy = mcs_strdup(wire);
        if (copy == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        mcs_free(service->wire);
        service->wire = copy;
        service->wire_number++;
    }
    return MCS_OK;
}

/* Opens a session: it is in the list, with a reference for the caller. */
static mcs_status_t open_session(mcs_service_t *service, const Mcs__Wire__Hello *hello, mcs_rpc_conn_t *conn,
                                 svc_session_t **session_out, char *text, size_t size)
{
    svc_session_t *session = svc_session_create(service, hello);
    if (session == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    session->control = conn;
    session->connected = 1;
    mcs_rpc_conn_get(conn);
    mcs_mutex_lock(&service->lock);
    mcs_status_t status = svc_session_check_wire_locked(service, hello->wire, text, size);
    if (status == MCS_OK && service->session_count >= service->conf->max_clients) {
        snprintf(text, size, "%u clients are connected, the limit of max_clients", service->session_count);
        status = MCS_ERR_LIMIT;
    }
    if (status == MCS_OK) {
        session->serial = ++service->next_serial;
        /* Those that ended before had no rights at its segments. */
        session->ended_floor = __atomic_load_n(&service->ended_count, __ATOMIC_ACQUIRE);
        session->ended_sent = session->ended_floor;
        if (hello->wire[0] != '\0') {
            session->wire = service->wire_number;
            service->data_sessions++;
        }
        service->session_count++;
        svc_session_get(session);
        mcs_list_push_tail(&service->sessions, &session->node);
    }
    mcs_mutex_unlock(&service->lock);
    if (status != MCS_OK) {
        session->control = NULL;
        mcs_rpc_conn_put(conn);
        svc_session_put(session);
        return status;
    }
    mcs_metric_add(service->metrics, sessions_opened, 1);
    *session_out = session;
    return MCS_OK;
}

svc_session_t *svc_session_find_locked(const mcs_service_t *service, mcs_id_t id)
{
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        if (mcs_id_equal(session->id, id)) {
            return session;
        }
    }
    return NULL;
}

/* A live session with a reference. */
static mcs_status_t find_session(mcs_service_t *service, const Mcs__Wire__Hello *hello, svc_session_t **session_out)
{
    mcs_id_t id = hello->session != NULL ? (mcs_id_t){hello->session->hi, hello->session->lo} : (mcs_id_t){0, 0};
    mcs_status_t status = MCS_ERR_SESSION_ENDED;
    mcs_mutex_lock(&service->lock);
    svc_session_t *session = svc_session_find_locked(service, id);
    if (session != NULL) {
        bool same = session->client.hi == hello->client->hi && session->client.lo == hello->client->lo;
        status = same ? MCS_OK : MCS_ERR_ILLEGAL_CLIENT;
        if (same) {
            svc_session_get(session);
            *session_out = session;
        }
    }
    mcs_mutex_unlock(&service->lock);
    return status;
}

static void resume_session(svc_session_t *session, mcs_rpc_conn_t *conn)
{
    mcs_service_t *service = session->service;
    mcs_mutex_lock(&session->lock);
    mcs_rpc_conn_t *old = session->control;
    __atomic_store_n(&session->last_seen_ns, svc_clock(service), __ATOMIC_RELEASE);
    __atomic_store_n(&session->steady_ns, svc_clock(service) + SVC_STEADY_NS, __ATOMIC_RELEASE);
    /* Also when the master has not noticed the loss of the old connection: what was sent on it may be lost. */
    svc_segments_set_suspect(session, true);
    session->control = conn;
    mcs_rpc_conn_get(conn);
    __atomic_store_n(&session->connected, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&session->resumed, 1, __ATOMIC_RELEASE);
    mcs_mutex_unlock(&session->lock);
    if (old != NULL) {
        mcs_rpc_conn_close(old);
        mcs_rpc_conn_put(old);
    }
    svc_wake(service);
}

static mcs_status_t greet(svc_call_t *call, svc_link_t *link, const Mcs__Wire__Hello *hello, svc_session_t *session,
                          bool resumed)
{
    mcs_service_t *service = call->service;
    link->session = session; /* takes the reference */
    link->role = hello->role;
    mcs_rpc_conn_set_greeted(call->conn);
    Mcs__Wire__HelloReply reply = MCS__WIRE__HELLO_REPLY__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    uint64_t ttl_ms = service->conf->client_ttl * 1000;
    id.hi = session->id.hi;
    id.lo = session->id.lo;
    reply.epoch = svc_epoch(service);
    reply.session = &id;
    reply.resumed = resumed;
    reply.heartbeat_ms = (uint32_t)MCS_MIN(ttl_ms / 4, (uint64_t)1000);
    reply.session_ttl_ms = (uint32_t)ttl_ms;
    reply.lease_ttl_ms = (uint32_t)service->conf->default_kv_lease_ttl;
    reply.software = (char *)(uintptr_t)SOFTWARE_NAME; /* protobuf-c has no const */
    reply.max_batch_keys = MCS_BATCH_KEYS;
    reply.unix_path = (char *)(uintptr_t)mcs_rpc_server_unix_path(service->server);
    reply.boot_id = service->boot_id;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* Rule 12: the epoch is higher than any that a client has seen; clients refuse a lower one for good. A master without a
 * journal whose wall clock was put back cannot know it but from them, and takes theirs while nobody has a session yet:
 * nobody is disturbed, whatever a hello says. */
static void learn_epoch(mcs_service_t *service, uint64_t seen)
{
    if (seen <= svc_epoch(service) || seen > MCS_EPOCH_TAKEN_MAX) {
        return;
    }
    mcs_mutex_lock(&service->lock);
    bool raised = seen > service->epoch && service->session_count == 0;
    if (raised) {
        svc_index_set_epoch(&service->index, seen + 1);
        __atomic_store_n(&service->epoch, seen + 1, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&service->lock);
    if (raised) {
        mcs_warn(SVC_AREA, "a client has seen epoch %llu (was the clock put back?): this master goes on with %llu",
                 (unsigned long long)seen, (unsigned long long)seen + 1);
    } else {
        mcs_warn(
            SVC_AREA,
            "a client that has seen epoch %llu refuses this master, %llu, and others are connected: start it again",
            (unsigned long long)seen, (unsigned long long)svc_epoch(service));
    }
}

/* Does the client have the cluster's token, or need none? False: it was answered; the verb's result is *result_out. */
static bool check_token(svc_call_t *call, svc_link_t *link, const Mcs__Wire__Hello *hello, mcs_status_t *result_out)
{
    mcs_service_t *service = call->service;
    if (service->conf->cluster_token[0] == '\0') {
        return true;
    }
    if (hello->proof.len == 0) {
        *result_out = send_challenge(call, link);
        return false;
    }
    if (proof_is_right(service, link, hello)) {
        return true;
    }
    mcs_warn(SVC_AREA, "hello of %s refused, wrong cluster token: %s", mcs_rpc_conn_peer(call->conn),
             mcs_status_name(MCS_ERR_ILLEGAL_CLIENT));
    svc_refuse(call, MCS_ERR_ILLEGAL_CLIENT, "wrong cluster token");
    mcs_rpc_conn_close(call->conn);
    *result_out = MCS_OK;
    return false;
}

mcs_status_t svc_hello(svc_call_t *call)
{
    const Mcs__Wire__Hello *hello = (const Mcs__Wire__Hello *)call->message;
    mcs_service_t *service = call->service;
    svc_link_t *link = mcs_rpc_conn_user(call->conn);
    char text[320] = "";
    if (link->session != NULL || !hello_is_sane(hello)) {
        return MCS_ERR_PROTOCOL;
    }
    if (hello->protocol != MCS_PROTOCOL_VERSION) {
        snprintf(text, sizeof(text), "the master speaks protocol %d, the client %u", MCS_PROTOCOL_VERSION,
                 hello->protocol);
        return svc_refuse(call, MCS_ERR_INVALID_VERSION, text);
    }
    mcs_status_t status;
    if (!check_token(call, link, hello, &status)) {
        return status;
    }
    learn_epoch(service, call->header->epoch);
    svc_session_t *session = NULL;
    bool opens =
        hello->role == ROLE_CONTROL && (hello->session == NULL || (hello->session->hi | hello->session->lo) == 0);
    status = opens ? open_session(service, hello, call->conn, &session, text, sizeof(text))
                   : find_session(service, hello, &session);
    if (status != MCS_OK) {
        if (status != MCS_ERR_SESSION_ENDED) {
            mcs_warn(SVC_AREA, "hello of %s refused: %s: %s", mcs_rpc_conn_peer(call->conn), text,
                     mcs_status_name(status));
        }
        return svc_refuse(call, status, text);
    }
    bool resumes = hello->role == ROLE_CONTROL && !opens;
    if (resumes) {
        resume_session(session, call->conn);
    }
    mcs_debug(SVC_AREA, "session %u %s by %s (%s)", session->serial,
              opens     ? "opened"
              : resumes ? "resumed"
                        : "joined",
              session->host_name, mcs_rpc_conn_peer(call->conn));
    return greet(call, link, hello, session, resumes);
}

/* ---- small verbs ---- */

mcs_status_t svc_ping(svc_call_t *call)
{
    const Mcs__Wire__Ping *request = (const Mcs__Wire__Ping *)call->message;
    mcs_metrics_t *metrics = call->service->metrics;
    mcs_metric_add(metrics, ping_requests, 1);
    mcs_metric_add(metrics, total_gets, request->cached_gets);
    mcs_metric_add(metrics, valid_gets, request->cached_gets);
    mcs_metric_add(metrics, mem_cache_hits, request->cached_gets);
    mcs_metric_add(metrics, mem_cache_hit_bytes, request->cached_bytes);
    Mcs__Wire__PingReply reply = MCS__WIRE__PING_REPLY__INIT;
    mcs_mutex_lock(&call->service->lock);
    reply.session_count = call->service->session_count;
    mcs_mutex_unlock(&call->service->lock);
    return svc_reply(call, MCS_OK, &reply.base);
}

mcs_status_t svc_goodbye(svc_call_t *call)
{
    svc_session_end(call->session, false);
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- losing and ending ---- */

void svc_session_closed(mcs_service_t *service, svc_link_t *link, mcs_rpc_conn_t *conn)
{
    svc_session_t *session = link->session;
    if (session == NULL) {
        return;
    }
    bool was_control = false;
    mcs_mutex_lock(&session->lock);
    if (session->control == conn) {
        session->control = NULL;
        __atomic_store_n(&session->connected, 0, __ATOMIC_RELEASE);
        was_control = true;
        if (!svc_session_ended(session)) {
            svc_segments_set_suspect(session, true);
        }
    }
    mcs_mutex_unlock(&session->lock);
    if (was_control) {
        if (__atomic_load_n(&session->segment_count, __ATOMIC_RELAXED) > 0 && !svc_session_ended(session)) {
            mcs_metric_add(service->metrics, owners_suspected, 1);
            mcs_warn(SVC_AREA, "client %s suspect: its control connection closed", session->host_name);
        }
        mcs_rpc_conn_put(conn);
    }
    link->session = NULL;
    svc_session_put(session);
}

void svc_session_end(svc_session_t *session, bool expired)
{
    mcs_service_t *service = session->service;
    if (__atomic_exchange_n(&session->ended, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    session->expired = expired;
    if (expired) {
        mcs_metric_add(service->metrics, sessions_expired, 1);
        mcs_warn(SVC_AREA, "client %s dropped: silent for %llu s", session->host_name,
                 (unsigned long long)service->conf->client_ttl);
    }
    svc_segments_unmount_all(session, !expired);
    mcs_mutex_lock(&service->lock);
    mcs_list_remove(&session->node);
    service->session_count--;
    if (session->wire != 0) {
        service->data_sessions--;
    }
    mcs_list_push_tail(&service->ending, &session->end_node); /* with the table's reference */
    mcs_mutex_unlock(&service->lock);
    svc_wake(service);
}

static svc_session_t *next_ending(mcs_service_t *service)
{
    svc_session_t *session = NULL;
    mcs_mutex_lock(&service->lock);
    if (!mcs_list_empty(&service->ending)) {
        session = MCS_LIST_FIRST(&service->ending, svc_session_t, end_node);
        mcs_list_remove(&session->end_node);
    }
    mcs_mutex_unlock(&service->lock);
    return session;
}

void svc_sessions_clear_ended(mcs_service_t *service)
{
    for (svc_session_t *session; (session = next_ending(service)) != NULL;) {
        service->ended[service->ended_count % SVC_ENDED_RING] = session->id;
        __atomic_store_n(&service->ended_count, service->ended_count + 1, __ATOMIC_RELEASE);
        svc_puts_end_session(service, session);
        svc_release_close(session);
        svc_outcomes_clear(session);
        mcs_mutex_lock(&session->lock);
        mcs_rpc_conn_t *control = session->control;
        if (session->expired) {
            session->control = NULL;
        } else {
            control = NULL; /* a client that said goodbye closes by itself, after our answer */
        }
        mcs_mutex_unlock(&session->lock);
        if (control != NULL) {
            mcs_rpc_conn_close(control);
            mcs_rpc_conn_put(control);
        }
        if (session->expired && service->config.client_expired != NULL) {
            service->config.client_expired(service->config.client_expired_arg, session->host_name);
        }
        svc_stir(service);
        svc_session_put(session);
    }
}

void svc_sessions_end_all(mcs_service_t *service)
{
    for (;;) {
        svc_session_t *session = NULL;
        mcs_mutex_lock(&service->lock);
        if (!mcs_list_empty(&service->sessions)) {
            session = MCS_LIST_FIRST(&service->sessions, svc_session_t, node);
            svc_session_get(session);
        }
        mcs_mutex_unlock(&service->lock);
        if (session == NULL) {
            break;
        }
        svc_session_end(session, false);
        svc_session_put(session);
    }
    svc_sessions_clear_ended(service);
}

/* ---- liveness ---- */

/* Sessions that may come out of suspicion, and those whose time is up. */
static uint32_t collect(mcs_service_t *service, svc_session_t **expired, svc_session_t **steady, uint32_t *steady_count)
{
    uint64_t ttl_ns = service->conf->client_ttl * MCS_NS_PER_SEC;
    uint64_t now_ns = svc_clock(service);
    uint32_t count = 0;
    *steady_count = 0;
    mcs_mutex_lock(&service->lock);
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        uint64_t seen = __atomic_load_n(&session->last_seen_ns, __ATOMIC_ACQUIRE);
        if (count < ENDS_A_TURN && service->polled_ns >= seen + ttl_ns) {
            svc_session_get(session);
            expired[count++] = session;
        } else if (*steady_count < ENDS_A_TURN && __atomic_load_n(&session->suspect, __ATOMIC_ACQUIRE) != 0 &&
                   __atomic_load_n(&session->connected, __ATOMIC_ACQUIRE) != 0 &&
                   now_ns >= __atomic_load_n(&session->steady_ns, __ATOMIC_ACQUIRE)) {
            svc_session_get(session);
            steady[(*steady_count)++] = session;
        }
    }
    mcs_mutex_unlock(&service->lock);
    return count;
}

static void end_suspicion(svc_session_t *session)
{
    mcs_mutex_lock(&session->lock);
    bool ends =
        session->control != NULL && svc_clock(session->service) >= session->steady_ns && !svc_session_ended(session);
    if (ends) {
        svc_segments_set_suspect(session, false);
    }
    mcs_mutex_unlock(&session->lock);
    if (ends) {
        mcs_info(SVC_AREA, "client %s is back and steady", session->host_name);
        svc_stir(session->service);
    }
}

void svc_sessions_tick(mcs_service_t *service, uint64_t now_ns)
{
    (void)now_ns;
    uint64_t clock = svc_clock(service);
    if (service->poll_begun_ns == 0 && clock >= service->next_poll_ns) {
        service->poll_begun_ns = clock;
        mcs_rpc_server_poll_begin(service->server);
    }
    if (service->poll_begun_ns != 0 && mcs_rpc_server_poll_done(service->server)) {
        service->polled_ns = service->poll_begun_ns;
        service->poll_begun_ns = 0;
        service->next_poll_ns = clock + POLL_EVERY_NS;
    }
    svc_session_t *expired[ENDS_A_TURN];
    svc_session_t *steady[ENDS_A_TURN];
    uint32_t steady_count;
    uint32_t count = collect(service, expired, steady, &steady_count);
    for (uint32_t i = 0; i < count; i++) {
        svc_session_end(expired[i], true);
        svc_session_put(expired[i]);
    }
    for (uint32_t i = 0; i < steady_count; i++) {
        end_suspicion(steady[i]);
        svc_session_put(steady[i]);
    }
}

/* ---- telling owners and writers ---- */

static void tell_ended(mcs_service_t *service, svc_session_t *session, mcs_rpc_conn_t *conn)
{
    while (session->ended_sent < service->ended_count) {
        enum { BATCH = 256 };
        Mcs__Wire__Id ids[BATCH];
        Mcs__Wire__Id *pointers[BATCH];
        size_t count = 0;
        while (session->ended_sent < service->ended_count && count < BATCH) {
            mcs_id_t id = service->ended[session->ended_sent++ % SVC_ENDED_RING];
            mcs__wire__id__init(&ids[count]);
            ids[count].hi = id.hi;
            ids[count].lo = id.lo;
            pointers[count] = &ids[count];
            count++;
        }
        Mcs__Wire__NoticeSessionEnded notice = MCS__WIRE__NOTICE_SESSION_ENDED__INIT;
        notice.sessions = pointers;
        notice.n_sessions = count;
        svc_send(service, conn, MCS_VERB_N_SESSION_ENDED, 0, MCS_OK, &notice.base);
    }
}

static void tell_one(mcs_service_t *service, svc_session_t *session, uint64_t now_ns)
{
    mcs_rpc_conn_t *conn = svc_session_control(session);
    if (conn == NULL) {
        return;
    }
    bool lost = service->ended_count - session->ended_sent > SVC_ENDED_RING / 2;
    if (__atomic_exchange_n(&session->resumed, 0, __ATOMIC_ACQ_REL) != 0) {
        /* What the lost connection carried may not have arrived: all that the ring has once more (owners and writers
         * take repeats). */
        uint64_t oldest = service->ended_count - MCS_MIN(service->ended_count, (uint64_t)SVC_ENDED_RING);
        session->ended_sent = MCS_MAX(session->ended_floor, oldest);
        svc_release_resume(session);
        svc_tasks_resume(service, session);
    }
    if (lost) {
        /* It cannot be told of all ended sessions any more, so it must not serve them: it has to open a new session. */
        svc_session_end(session, true);
    } else {
        tell_ended(service, session, conn);
        svc_release_tell(session, conn, now_ns);
        svc_tasks_tell(service, session, conn);
    }
    mcs_rpc_conn_put(conn);
}

void svc_sessions_tell(mcs_service_t *service, uint64_t now_ns)
{
    mcs_buf_reset(&service->scratch);
    mcs_mutex_lock(&service->lock);
    MCS_LIST_FOR_EACH(node, &service->sessions)
    {
        svc_session_t *session = MCS_CONTAINER_OF(node, svc_session_t, node);
        bool has = __atomic_load_n(&session->tell, __ATOMIC_ACQUIRE) != 0 ||
                   session->ended_sent < service->ended_count ||
                   __atomic_load_n(&session->resumed, __ATOMIC_ACQUIRE) != 0 ||
                   __atomic_load_n(&session->next_due_ns, __ATOMIC_ACQUIRE) <= now_ns;
        if (has) {
            size_t before = service->scratch.len;
            mcs_buf_append(&service->scratch, &session, sizeof(session));
            if (service->scratch.len != before) { /* without memory: the next turn */
                svc_session_get(session);
            }
        }
    }
    mcs_mutex_unlock(&service->lock);
    for (size_t at = 0; at + sizeof(svc_session_t *) <= service->scratch.len; at += sizeof(svc_session_t *)) {
        svc_session_t *session;
        memcpy(&session, service->scratch.bytes + at, sizeof(session));
        tell_one(service, session, now_ns);
        svc_session_put(session);
    }
}
