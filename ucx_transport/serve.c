/* See serve.h: the thread, its peers and their hello. */
#include "ucx_transport/serve_internal.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#define AREA        SERVE_AREA
#define SLOT_MASK   ((uint64_t)SERVE_PEERS - 1)
#define TIMERS_NS   (UINT64_C(100) * 1000000)
#define DRAIN_NS    (UINT64_C(500) * 1000000) /* of sends that a stop cuts off; then the worker's end cuts them off */
#define WAITING_MS  1                         /* between two questions for bytes that are on their way */
#define CHECK_EVERY 64                        /* rounds of a busy loop between two looks at the clock */

/* ---- answers ---- */

static void note_free(serve_note_t *note)
{
    if (note->peer != NULL) {
        note->peer->notes--;
    } else {
        note->server->refusals--;
    }
    mcs_list_remove(&note->node);
    mcs_free(note);
}

static void on_note_sent(void *request, ucs_status_t rc MCS_UNUSED, void *arg)
{
    serve_note_t *note = arg;
    ucxt_request_free(&note->server->worker, request);
    note_free(note);
}

/* `peer` may be NULL. */
static mcs_status_t send_note(struct ucxt_server *server, ucxt_peer_t *peer, ucp_ep_h ep, const ucxt_header_t *header,
                              const void *body, size_t body_len)
{
    serve_note_t *note = mcs_malloc(sizeof(*note) + UCXT_HEADER + body_len);
    if (note == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    note->peer = peer;
    note->server = server;
    note->iov = (ucp_dt_iov_t){.buffer = note->bytes, .length = UCXT_HEADER + body_len};
    ucxt_header_encode(header, note->bytes);
    if (body_len > 0) {
        memcpy(note->bytes + UCXT_HEADER, body, body_len);
    }
    mcs_list_push_tail(&server->notes_busy, &note->node);
    if (peer != NULL) {
        peer->notes++;
    } else {
        server->refusals++;
    }
    mcs_status_t status = ucxt_send(&server->worker, ep, UCXT_AM_TO_CALLER, &note->iov, 1, false, on_note_sent, note);
    if (status == MCS_ERR_AGAIN) {
        return MCS_OK;
    }
    note_free(note);
    return status;
}

void ucxt_peer_answer(ucxt_peer_t *peer, ucxt_header_t header, const void *body, size_t body_len)
{
    if (peer->state >= PEER_FAILED) {
        return;
    }
    if (peer->notes >= SERVE_NOTES) {
        ucxt_peer_fail(peer, "reads no answers");
        return;
    }
    header.conn = peer->auth.caller_conn;
    if (send_note(peer->server, peer, peer->ep, &header, body, body_len) != MCS_OK) {
        ucxt_peer_fail(peer, "answer not sent");
    }
}

/* To somebody who is no peer, on the endpoint that came with his message. Best effort. */
static void refuse(struct ucxt_server *server, const ucp_am_recv_param_t *param, const ucxt_hello_t *hello,
                   mcs_status_t why)
{
    ucxt_count(&server->config.counters->refused, 1);
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0 || server->refusals >= SERVE_REFUSALS) {
        return;
    }
    ucxt_header_t header = {.kind = UCXT_WELCOME, .conn = hello->conn, .value = (uint32_t)why};
    mcs_status_t status = send_note(server, NULL, param->reply_ep, &header, NULL, 0);
    if (status != MCS_OK) {
        mcs_debug(AREA, "refusal not sent: %s", mcs_status_name(status));
    }
}

/* ---- peers ---- */

void ucxt_peer_fail(ucxt_peer_t *peer, const char *why)
{
    if (peer->state >= PEER_FAILED) {
        return;
    }
    char id[MCS_ID_TEXT_MAX];
    mcs_id_format(peer->client, id);
    mcs_debug(AREA, "peer %s dropped: %s", id, why);
    if (peer->state == PEER_PROVING) {
        peer->server->proving_count--;
    }
    peer->state = PEER_FAILED;
    peer->server->failed_count++;
}

static void on_peer_error(void *arg, ucp_ep_h ep MCS_UNUSED, ucs_status_t rc)
{
    ucxt_peer_t *peer = arg;
    peer->deaf = true;
    peer->broken = true;
    ucxt_peer_fail(peer, peer->server->worker.dl->ucs_status_string(rc));
}

static uint32_t free_slot(const struct ucxt_server *server)
{
    for (uint32_t i = 0; i < SERVE_PEERS; i++) {
        if (server->peers[i] == NULL) {
            return i;
        }
    }
    return SERVE_PEERS;
}

static ucxt_peer_t *find_peer(const struct ucxt_server *server, uint64_t conn)
{
    ucxt_peer_t *peer = server->peers[conn & SLOT_MASK];
    return peer != NULL && peer->conn == conn && peer->state < PEER_FAILED ? peer : NULL;
}

static mcs_status_t peer_add(struct ucxt_server *server, const ucxt_hello_t *hello, ucxt_peer_t **peer_out)
{
    bool prove = server->config.token[0] != '\0';
    uint32_t slot = free_slot(server);
    if (slot == SERVE_PEERS || (prove && server->proving_count >= SERVE_PROVING)) {
        mcs_warn(AREA, "a peer is refused: %u are connected, %u unproven", server->peer_count, server->proving_count);
        return MCS_ERR_LIMIT;
    }
    ucxt_peer_t *peer = MCS_NEW(ucxt_peer_t);
    if (peer == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    peer->server = server;
    peer->client = hello->client;
    peer->conn = (mcs_random_u64() & ~SLOT_MASK) | slot;
    peer->state = prove ? PEER_PROVING : PEER_READY;
    peer->since_ns = mcs_now_ns();
    peer->address_hash = mcs_hash64(0, hello->address, hello->address_len);
    peer->auth.caller_conn = hello->conn;
    peer->auth.owner_conn = peer->conn;
    memcpy(peer->auth.caller_nonce, hello->nonce, UCXT_NONCE);
    mcs_random_bytes(peer->auth.owner_nonce, UCXT_NONCE);
    mcs_list_init(&peer->active);
    mcs_list_init(&peer->jobs);
    mcs_status_t status = ucxt_ep_open(&server->worker, hello->address, on_peer_error, peer, &peer->ep);
    if (status != MCS_OK) {
        mcs_free(peer);
        return status;
    }
    peer->rdma = hello->rdma && ucxt_context_has_rdma_to(server->config.context, peer->ep);
    server->peers[slot] = peer;
    server->peer_count++;
    server->proving_count += prove ? 1 : 0;
    ucxt_listeners_protect(&server->listeners);
    if (hello->machine != 0 && hello->machine == server->config.machine) {
        ucxt_calm_add(&server->calm, hello->address, hello->address_len, &server->listeners);
    }
    *peer_out = peer;
    return MCS_OK;
}

/* A caller whose first connection broke on its side alone is back: nobody reads on that one any more. */
static void drop_former(const ucxt_peer_t *peer)
{
    for (uint32_t i = 0; i < SERVE_PEERS; i++) {
        ucxt_peer_t *other = peer->server->peers[i];
        if (other != NULL && other != peer && other->address_hash == peer->address_hash &&
            mcs_id_equal(other->client, peer->client)) {
            other->deaf = true;
            ucxt_peer_fail(other, "it has connected anew");
        }
    }
}

/* Best effort: what UCX does not send at once is cut off by the close. */
static void say_gone(ucxt_peer_t *peer)
{
    ucxt_header_t header = {.kind = UCXT_GONE, .conn = peer->auth.caller_conn};
    if (!peer->deaf && send_note(peer->server, peer, peer->ep, &header, NULL, 0) != MCS_OK) {
        mcs_debug(AREA, "a peer is dropped without a word");
    }
}

static void on_flushed(void *request, ucs_status_t rc MCS_UNUSED, void *arg)
{
    ucxt_peer_t *peer = arg;
    ucxt_request_free(&peer->server->worker, request);
    peer->notes--;
}

/* What is under way ends first: the peer reads it, dies, or is cut off by the kernel after SERVE_STALL_NS. */
static void peer_take_down(ucxt_peer_t *peer)
{
    peer->state = PEER_CLOSING;
    ucxt_serve_drop_jobs(peer);
    say_gone(peer);
    peer->notes++;
    if (peer->broken || ucxt_ep_flush(&peer->server->worker, peer->ep, on_flushed, peer) != MCS_ERR_AGAIN) {
        peer->notes--;
    }
}

/* Takes failed peers down, and frees those that UCX has let go. */
static void reap(struct ucxt_server *server)
{
    for (uint32_t i = 0; i < SERVE_PEERS && server->failed_count > 0; i++) {
        ucxt_peer_t *peer = server->peers[i];
        if (peer == NULL || peer->state < PEER_FAILED) {
            continue;
        }
        if (peer->state == PEER_FAILED) {
            peer_take_down(peer);
        }
        if (peer->frames == 0 && peer->notes == 0) {
            ucxt_ep_close(&server->worker, peer->ep);
            server->peers[i] = NULL;
            server->peer_count--;
            server->failed_count--;
            mcs_free(peer);
        }
    }
}

/* ---- hello ---- */

static mcs_status_t check_hello(const struct ucxt_server *server, const ucxt_hello_t *hello)
{
    const char *wire = ucxt_dl_wire(server->worker.dl);
    if (strncmp(hello->wire, wire, UCXT_WIRE) != 0) {
        mcs_warn(AREA, "a peer of wire generation %.31s is refused: this process has %s", hello->wire, wire);
        return MCS_ERR_INVALID_VERSION;
    }
    if (server->config.token[0] == '\0') {
        return MCS_OK;
    }
    uint8_t mac[UCXT_MAC];
    mcs_status_t status = ucxt_auth_hello(server->config.token, hello, mac);
    if (status == MCS_OK && !ucxt_mac_equal(mac, hello->mac)) {
        mcs_warn(AREA, "a peer does not know the cluster token: refused");
        status = MCS_ERR_ILLEGAL_CLIENT;
    }
    return status;
}

static void serve_hello(struct ucxt_server *server, const uint8_t *body, size_t len, const ucp_am_recv_param_t *param)
{
    ucxt_hello_t hello;
    if (ucxt_hello_decode(body, len, &hello) != MCS_OK) {
        ucxt_count(&server->config.counters->refused, 1);
        mcs_debug(AREA, "malformed hello");
        return;
    }
    ucxt_peer_t *peer = NULL;
    mcs_status_t status = check_hello(server, &hello);
    if (status == MCS_OK) {
        status = peer_add(server, &hello, &peer);
    }
    if (status != MCS_OK) {
        refuse(server, param, &hello, status);
        return;
    }
    if (peer->state == PEER_READY) {
        drop_former(peer);
    }
    ucxt_welcome_t welcome = {.conn = peer->conn,
                              .machine = server->config.machine,
                              .prove = peer->state == PEER_PROVING,
                              .rdma = peer->rdma};
    memcpy(welcome.nonce, peer->auth.owner_nonce, UCXT_NONCE);
    if (welcome.prove && ucxt_auth_owner(server->config.token, &peer->auth, welcome.mac) != MCS_OK) {
        ucxt_peer_fail(peer, "no proof could be made");
        return;
    }
    uint8_t text[UCXT_WELCOME_LEN];
    ucxt_welcome_encode(&welcome, text);
    ucxt_header_t header = {.kind = UCXT_WELCOME, .value = (uint32_t)MCS_OK};
    ucxt_peer_answer(peer, header, text, sizeof(text));
}

static void serve_proof(ucxt_peer_t *peer, const uint8_t *body, size_t len)
{
    uint8_t mac[UCXT_MAC];
    if (peer->state != PEER_PROVING || len != UCXT_MAC ||
        ucxt_auth_caller(peer->server->config.token, &peer->auth, mac) != MCS_OK || !ucxt_mac_equal(mac, body)) {
        ucxt_peer_fail(peer, "bad proof");
        return;
    }
    peer->state = PEER_READY;
    peer->server->proving_count--;
    drop_former(peer);
    ucxt_header_t header = {.kind = UCXT_READY, .value = (uint32_t)MCS_OK};
    ucxt_peer_answer(peer, header, NULL, 0);
}

/* ---- messages ---- */

static void dispatch(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    if (header->kind == UCXT_BYE) {
        peer->deaf = true;
        ucxt_peer_fail(peer, "it left");
    } else if (header->kind == UCXT_PROVE) {
        serve_proof(peer, body, len);
    } else if (peer->state != PEER_READY) {
        ucxt_peer_fail(peer, "a request before the proof");
    } else if (header->kind == UCXT_FETCH) {
        ucxt_serve_fetch(peer, header, body, len);
    } else if (header->kind == UCXT_STORE) {
        ucxt_serve_store(peer, header, body, len);
    } else if (peer->rdma && (header->kind == UCXT_FETCH_RDMA || header->kind == UCXT_STORE_RDMA)) {
        ucxt_serve_rdma(peer, header, body, len);
    } else {
        ucxt_peer_fail(peer, "unknown message");
    }
}

/* Always UCS_OK: the data stay UCX's, and a rendezvous that somebody offers is turned down. */
static ucs_status_t on_message(void *arg, const void *am_header MCS_UNUSED, size_t am_header_len MCS_UNUSED,
                               void *bytes, size_t len, const ucp_am_recv_param_t *param)
{
    struct ucxt_server *server = arg;
    ucxt_header_t header;
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0 || ucxt_header_decode(bytes, len, &header) != MCS_OK) {
        ucxt_count(&server->config.counters->refused, 1);
        mcs_debug(AREA, "a message that is none of ours, %zu bytes", len);
        return UCS_OK;
    }
    const uint8_t *body = (const uint8_t *)bytes + UCXT_HEADER;
    if (header.kind == UCXT_HELLO) {
        serve_hello(server, body, len - UCXT_HEADER, param);
        return UCS_OK;
    }
    ucxt_peer_t *peer = find_peer(server, header.conn);
    if (peer == NULL) {
        ucxt_count(&server->config.counters->refused, 1);
        mcs_debug(AREA, "a message on a connection that is gone");
        return UCS_OK;
    }
    dispatch(peer, &header, body, len - UCXT_HEADER);
    return UCS_OK;
}

/* ---- the thread ---- */

/* True when the timers have to be looked at again soon. */
static bool look_at_peer(ucxt_peer_t *peer, uint64_t now)
{
    if (peer->state == PEER_PROVING && now - peer->since_ns > SERVE_PROVE_NS) {
        ucxt_peer_fail(peer, "no proof came");
    } else if (peer->frames > 0 && now - peer->since_ns > SERVE_STALL_NS) {
        ucxt_peer_fail(peer, "it stopped reading");
    } else if (peer->frames > 0 && now > peer->frames_until_ns) {
        ucxt_peer_fail(peer, "its requests are past their deadline");
    }
    return peer->state == PEER_PROVING || peer->frames > 0 || peer->job_count > 0;
}

static bool look_at_timers(struct ucxt_server *server, uint64_t now)
{
    bool again = server->failed_count > 0;
    uint32_t left = server->peer_count;
    for (uint32_t i = 0; i < SERVE_PEERS && left > 0; i++) {
        if (server->peers[i] != NULL) {
            left--;
            again = look_at_peer(server->peers[i], now) || again;
        }
    }
    server->timers_ns = now;
    return again;
}

static bool is_stopped(struct ucxt_server *server)
{
    return __atomic_load_n(&server->stop, __ATOMIC_ACQUIRE) != 0;
}

static void wait_end(struct ucxt_server *server, bool found)
{
    if (server->waiting) {
        server->waiting = false;
        mcs_spin_end(&server->spin, &server->wait, found);
    }
}

/* Nothing is to be done: polls while that pays, then sleeps. Asleep it does not count as a waiting thread (spin.h): it
 * sleeps most of its life. */
static void idle(struct ucxt_server *server, uint64_t now, int sleep_ms)
{
    if (!server->waiting) {
        server->wait = mcs_spin_begin(&server->spin, server->config.spin_ns, now);
        server->waiting = true;
    }
    if (!mcs_spin_again(&server->spin, &server->wait, now)) {
        wait_end(server, false);
        ucxt_worker_sleep(&server->worker, server->wake.fd, sleep_ms);
    }
}

static void serve_main(void *arg)
{
    struct ucxt_server *server = arg;
    uint32_t round = 0;
    while (!is_stopped(server)) {
        bool worked = ucxt_worker_progress(&server->worker);
        worked = ucxt_serve_pump(server) || worked;
        if (server->failed_count > 0) {
            reap(server);
        }
        if (worked) {
            wait_end(server, true);
        }
        if (worked && ++round % CHECK_EVERY != 0) {
            continue;
        }
        uint64_t now = mcs_now_ns();
        bool timers = true;
        if (now - server->timers_ns > TIMERS_NS) {
            timers = look_at_timers(server, now);
        }
        if (worked) {
            sched_yield(); /* the other side may be waiting for this very core */
        } else {
            int sleep_ms = server->bytes_coming ? WAITING_MS : timers ? (int)(TIMERS_NS / 1000000) : -1;
            idle(server, now, sleep_ms);
        }
    }
    wait_end(server, false);
}

/* On the stopping thread, after the serving one has ended. */
static void drain(struct ucxt_server *server)
{
    for (uint32_t i = 0; i < SERVE_PEERS; i++) {
        if (server->peers[i] != NULL) {
            ucxt_peer_fail(server->peers[i], "this process is closing");
        }
    }
    uint64_t end = mcs_now_ns() + DRAIN_NS;
    reap(server);
    while ((server->peer_count > 0 || server->refusals > 0) && mcs_now_ns() < end) {
        ucxt_worker_progress(&server->worker);
        reap(server);
    }
}

static void free_all(struct ucxt_server *server)
{
    ucxt_listeners_close(&server->listeners);
    ucxt_rdma_drop_keys(server);
    ucxt_worker_close(&server->worker);
    ucxt_serve_free_frames(server);
    while (!mcs_list_empty(&server->notes_busy)) {
        note_free(MCS_LIST_FIRST(&server->notes_busy, serve_note_t, node));
    }
    for (uint32_t i = 0; i < SERVE_PEERS; i++) {
        mcs_free(server->peers[i]);
    }
    mcs_event_fini(&server->wake);
    mcs_free(server);
}

static mcs_status_t read_endpoint(struct ucxt_server *server, const ucxt_fds_seen_t *before)
{
    const ucxt_dl_t *dl = server->worker.dl;
    ucp_address_t *address;
    size_t len;
    ucs_status_t rc = dl->ucp_worker_get_address(server->worker.ucp, &address, &len);
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX worker address: %s", dl->ucs_status_string(rc));
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = ucxt_endpoint_encode(ucxt_dl_generation(dl), address, len, &server->endpoint);
    if (status != MCS_OK) {
        mcs_error(AREA, "UCX worker address of %zu bytes is too long: name one interface", len);
    }
    ucxt_listeners_open(before, address, len, SERVE_STALL_NS / MCS_NS_PER_MS, &server->listeners);
    dl->ucp_worker_release_address(server->worker.ucp, address);
    return status;
}

mcs_status_t ucxt_server_start(const ucxt_server_config_t *config, ucxt_server_t **server_out)
{
    struct ucxt_server *server = MCS_NEW(struct ucxt_server);
    if (server == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    server->config = *config;
    mcs_list_init(&server->active);
    mcs_list_init(&server->frames_free);
    mcs_list_init(&server->frames_busy);
    mcs_list_init(&server->notes_busy);
    ucxt_fds_seen_t before;
    ucxt_fds_look(&before);
    mcs_status_t status = mcs_event_init(&server->wake);
    if (status == MCS_OK) {
        status = ucxt_worker_open(config->context, UCXT_AM_TO_OWNER, on_message, server, &server->worker);
    }
    if (status == MCS_OK) {
        status = read_endpoint(server, &before);
    }
    if (status == MCS_OK) {
        status = mcs_thread_start(&server->thread, "mcs-serve", serve_main, server);
    }
    if (status != MCS_OK) {
        free_all(server);
        return status;
    }
    *server_out = server;
    return MCS_OK;
}

void ucxt_server_stop(ucxt_server_t *server)
{
    if (server == NULL) {
        return;
    }
    __atomic_store_n(&server->stop, 1, __ATOMIC_RELEASE);
    mcs_event_set(&server->wake);
    mcs_thread_join(&server->thread);
    drain(server);
    free_all(server);
}

const mcs_endpoint_t *ucxt_server_endpoint(const ucxt_server_t *server)
{
    return &server->endpoint;
}

uint16_t ucxt_server_port(const ucxt_server_t *server)
{
    return server->listeners.count > 0 ? server->listeners.port[0] : 0;
}
