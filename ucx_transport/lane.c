/* See lane.h. */
#include "ucx_transport/lane.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/op.h"

#define AREA      "lane"
#define CONN_MASK ((uint64_t)UCXT_LANE_CONNS - 1)
#define SLOT_MASK ((uint64_t)UCXT_CONN_REQUESTS - 1)

/* ---- requests ---- */

static void request_leave(ucxt_request_t *request)
{
    if (request->in_slot) {
        request->conn->slot[request->id & SLOT_MASK] = NULL;
        request->conn->requests--;
        request->in_slot = false;
    }
}

void ucxt_request_concealed(ucxt_request_t *request)
{
    if (request->exposed) {
        request->exposed = false;
        request->lane->exposed--;
    }
}

void ucxt_request_done(ucxt_request_t *request)
{
    request_leave(request);
    request->flow = NULL;
    if (!request->sending) {
        mcs_free(request);
    }
}

static void on_request_sent(void *ucp_request, ucs_status_t rc, void *arg)
{
    ucxt_request_t *request = arg;
    ucxt_conn_t *conn = request->conn;
    ucxt_request_free(&request->lane->worker, ucp_request);
    request->sending = false;
    mcs_list_remove(&request->node);
    conn->sends--;
    if (!request->in_slot) {
        mcs_free(request);
    } else if (request->sent != NULL && rc == UCS_OK) {
        request->sent(request);
    }
    if (rc != UCS_OK) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    }
}

void ucxt_conn_add(ucxt_conn_t *conn, ucxt_request_t *request)
{
    uint64_t slot = 0;
    while (conn->slot[slot] != NULL) {
        slot++;
        MCS_ENSURE(slot < UCXT_CONN_REQUESTS);
    }
    mcs_list_init(&request->node);
    request->lane = conn->lane;
    request->conn = conn;
    request->sending = false;
    request->in_slot = true;
    request->id = mcs_op_with(++conn->serial * UCXT_CONN_REQUESTS + slot);
    conn->slot[slot] = request;
    conn->requests++;
}

void ucxt_conn_send(ucxt_conn_t *conn, ucxt_request_t *request)
{
    ucxt_lane_t *lane = conn->lane;
    lane->exposed += request->exposed ? 1 : 0;
    request->sending = true;
    mcs_list_push_tail(&lane->sending, &request->node);
    conn->sends++;
    mcs_status_t status = ucxt_send(&lane->worker, conn->ep, UCXT_AM_TO_OWNER, request->iov, request->iov_count, false,
                                    on_request_sent, request);
    if (status == MCS_ERR_AGAIN) {
        return;
    }
    request->sending = false;
    mcs_list_remove(&request->node);
    conn->sends--;
    if (!request->in_slot) {
        mcs_free(request); /* UCX reported the connection's failure from inside the call */
    }
    if (status != MCS_OK) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    }
}

/* ---- connections ---- */

void ucxt_conn_fail(ucxt_conn_t *conn, mcs_status_t status)
{
    if (conn->state == UCXT_CONN_FAILED) {
        return;
    }
    char id[MCS_ID_TEXT_MAX];
    mcs_id_format(conn->owner, id);
    mcs_debug(AREA, "connection to %s closed: %s", id, mcs_status_name(status));
    conn->state = UCXT_CONN_FAILED;
    conn->status = status;
    for (uint32_t i = 0; i < UCXT_CONN_REQUESTS; i++) {
        if (conn->slot[i] != NULL) {
            ucxt_request_done(conn->slot[i]);
        }
    }
}

static void on_conn_error(void *arg, ucp_ep_h ep MCS_UNUSED, ucs_status_t rc)
{
    ucxt_conn_t *conn = arg;
    mcs_debug(AREA, "endpoint error: %s", conn->lane->worker.dl->ucs_status_string(rc));
    conn->broken = true;
    if (conn->state != UCXT_CONN_FAILED) {
        ucxt_count(&conn->lane->shared->counters->peer_errors, 1);
    }
    ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
}

static void on_sent(void *ucp_request, ucs_status_t rc, void *arg)
{
    ucxt_conn_t *conn = arg;
    ucxt_request_free(&conn->lane->worker, ucp_request);
    conn->sends--;
    if (rc != UCS_OK) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    }
}

/* Tells an owner that it need not go on. Best effort: what UCX does not send at once is cut off by the close. */
static void say_bye(ucxt_conn_t *conn)
{
    if (conn->broken || conn->auth.owner_conn == 0) {
        return;
    }
    ucxt_header_t header = {.kind = UCXT_BYE, .conn = conn->auth.owner_conn};
    ucxt_header_encode(&header, conn->bye);
    conn->bye_iov = (ucp_dt_iov_t){.buffer = conn->bye, .length = UCXT_HEADER};
    conn->sends++;
    if (ucxt_send(&conn->lane->worker, conn->ep, UCXT_AM_TO_OWNER, &conn->bye_iov, 1, false, on_sent, conn) !=
        MCS_ERR_AGAIN) {
        conn->sends--;
    }
}

/* Out of the table and onto the closing list. */
static void conn_leave(ucxt_conn_t *conn)
{
    ucxt_lane_t *lane = conn->lane;
    ucxt_conn_fail(conn, MCS_ERR_CLOSED);
    lane->conns[conn->auth.caller_conn & CONN_MASK] = NULL;
    lane->conn_count--;
    mcs_list_push_tail(&lane->closing, &conn->node);
}

/* Never inside a callback of UCX's. The endpoint goes when UCX has given back everything (ucxt_lane_reap). */
static void conn_close(ucxt_conn_t *conn)
{
    ucxt_lane_t *lane = conn->lane;
    conn_leave(conn);
    say_bye(conn);
    conn->sends++;
    if (conn->broken || ucxt_ep_flush(&lane->worker, conn->ep, on_sent, conn) != MCS_ERR_AGAIN) {
        conn->sends--;
    }
}

void ucxt_lane_leave_all(ucxt_lane_t *lane)
{
    for (uint32_t i = 0; i < UCXT_LANE_CONNS; i++) {
        if (lane->conns[i] != NULL) {
            conn_close(lane->conns[i]);
        }
    }
}

bool ucxt_lane_reap(ucxt_lane_t *lane)
{
    for (uint32_t i = 0, left = lane->conn_count; i < UCXT_LANE_CONNS && left > 0; i++) {
        ucxt_conn_t *conn = lane->conns[i];
        if (conn == NULL) {
            continue;
        }
        left--;
        if (conn->state == UCXT_CONN_FAILED) {
            conn_close(conn);
        }
    }
    MCS_LIST_FOR_EACH_SAFE(node, next, &lane->closing)
    {
        ucxt_conn_t *conn = MCS_CONTAINER_OF(node, ucxt_conn_t, node);
        if (conn->sends == 0) {
            ucxt_ep_close(&lane->worker, conn->ep);
            mcs_list_remove(node);
            mcs_free(conn);
        }
    }
    return mcs_list_empty(&lane->closing);
}

static ucxt_conn_t *find_owner(const ucxt_lane_t *lane, mcs_id_t owner)
{
    for (uint32_t i = 0, left = lane->conn_count; i < UCXT_LANE_CONNS && left > 0; i++) {
        if (lane->conns[i] != NULL) {
            left--;
            if (mcs_id_equal(lane->conns[i]->owner, owner)) {
                return lane->conns[i];
            }
        }
    }
    return NULL;
}

bool ucxt_lane_knows(const ucxt_lane_t *lane, mcs_id_t owner)
{
    const ucxt_conn_t *conn = find_owner(lane, owner);
    return conn != NULL && conn->state == UCXT_CONN_UP;
}

void ucxt_lane_forget(ucxt_lane_t *lane, mcs_id_t owner)
{
    ucxt_conn_t *conn = find_owner(lane, owner);
    if (conn != NULL) {
        conn_close(conn);
    }
}

/* A free place in the table; makes one by closing the idle connection that was used longest ago. */
static uint32_t free_place(ucxt_lane_t *lane)
{
    ucxt_conn_t *oldest = NULL;
    for (uint32_t i = 0; i < UCXT_LANE_CONNS; i++) {
        ucxt_conn_t *conn = lane->conns[i];
        if (conn == NULL) {
            return i;
        }
        if (conn->requests == 0 && (oldest == NULL || conn->used_ns < oldest->used_ns)) {
            oldest = conn;
        }
    }
    if (oldest == NULL) {
        return UCXT_LANE_CONNS;
    }
    uint32_t place = (uint32_t)(oldest->auth.caller_conn & CONN_MASK);
    conn_close(oldest);
    return place;
}

/* ---- hello ---- */

/* Sends conn->hello[0, len). One of these is under way at a time: the next is sent in answer to the owner's. */
static void send_hello_bytes(ucxt_conn_t *conn, size_t len)
{
    conn->hello_iov = (ucp_dt_iov_t){.buffer = conn->hello, .length = len};
    conn->sends++;
    mcs_status_t status =
        ucxt_send(&conn->lane->worker, conn->ep, UCXT_AM_TO_OWNER, &conn->hello_iov, 1, true, on_sent, conn);
    if (status != MCS_ERR_AGAIN) {
        conn->sends--;
        if (status != MCS_OK) {
            ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
        }
    }
}

static mcs_status_t send_hello(ucxt_conn_t *conn)
{
    ucxt_lane_t *lane = conn->lane;
    ucxt_hello_t hello = {
        .client = lane->shared->client,
        .conn = conn->auth.caller_conn,
        .machine = lane->shared->machine,
        .rdma = lane->shared->context.rdma,
        .address_len = lane->address_len,
    };
    memcpy(hello.nonce, conn->auth.caller_nonce, UCXT_NONCE);
    memcpy(hello.address, lane->address, lane->address_len);
    snprintf(hello.wire, sizeof(hello.wire), "%s", ucxt_dl_wire(lane->worker.dl));
    if (lane->shared->token[0] != '\0') {
        mcs_status_t status = ucxt_auth_hello(lane->shared->token, &hello, hello.mac);
        if (status != MCS_OK) {
            return status;
        }
    }
    ucxt_header_t header = {.kind = UCXT_HELLO};
    ucxt_header_encode(&header, conn->hello);
    send_hello_bytes(conn, UCXT_HEADER + ucxt_hello_encode(&hello, conn->hello + UCXT_HEADER));
    return MCS_OK;
}

mcs_status_t ucxt_lane_connect(ucxt_lane_t *lane, mcs_id_t owner, const mcs_endpoint_t *endpoint,
                               ucxt_conn_t **conn_out)
{
    uint64_t now = mcs_now_ns();
    uint64_t deadline = now + lane->shared->connect_timeout_ns;
    ucxt_conn_t *conn = find_owner(lane, owner);
    if (conn != NULL && conn->state != UCXT_CONN_FAILED && conn->endpoint.len == endpoint->len &&
        memcmp(conn->endpoint.bytes, endpoint->bytes, endpoint->len) == 0) {
        /* While the lane lay idle nobody looked for the answer: the time for it counts anew. */
        conn->deadline_ns = deadline;
        conn->used_ns = now;
        *conn_out = conn;
        return MCS_OK;
    }
    if (conn != NULL) {
        conn_close(conn); /* the owner has another endpoint now */
    }
    const void *address;
    size_t len;
    mcs_status_t status = ucxt_endpoint_decode(endpoint, ucxt_dl_generation(lane->worker.dl), &address, &len);
    if (status != MCS_OK) {
        mcs_warn(AREA, "an owner's endpoint of %u bytes is not of this transport and of %s: %s", endpoint->len,
                 ucxt_dl_wire(lane->worker.dl), mcs_status_name(status));
        return status;
    }
    uint32_t place = free_place(lane);
    if (place == UCXT_LANE_CONNS) {
        return MCS_ERR_LIMIT;
    }
    conn = MCS_NEW(ucxt_conn_t);
    if (conn == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_list_init(&conn->node);
    conn->lane = lane;
    conn->owner = owner;
    conn->endpoint.len = endpoint->len;
    memcpy(conn->endpoint.bytes, endpoint->bytes, endpoint->len);
    conn->deadline_ns = deadline;
    conn->used_ns = now;
    conn->auth.caller_conn = (mcs_random_u64() & ~CONN_MASK) | place;
    mcs_random_bytes(conn->auth.caller_nonce, UCXT_NONCE);
    status = ucxt_ep_open(&lane->worker, address, on_conn_error, conn, &conn->ep);
    if (status != MCS_OK) {
        mcs_free(conn);
        return status;
    }
    lane->conns[place] = conn;
    lane->conn_count++;
    status = send_hello(conn);
    if (status != MCS_OK) {
        ucxt_conn_fail(conn, status);
    }
    *conn_out = conn;
    return MCS_OK;
}

static void prove(ucxt_conn_t *conn, const ucxt_welcome_t *welcome)
{
    const char *token = conn->lane->shared->token;
    uint8_t mac[UCXT_MAC];
    if (ucxt_auth_owner(token, &conn->auth, mac) != MCS_OK || !ucxt_mac_equal(mac, welcome->mac)) {
        mcs_warn(AREA, "an owner does not know the cluster token: refused");
        ucxt_conn_fail(conn, MCS_ERR_ILLEGAL_CLIENT);
        return;
    }
    if (conn->sends != 0 || ucxt_auth_caller(token, &conn->auth, conn->hello + UCXT_HEADER) != MCS_OK) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL); /* an answer before the hello has left */
        return;
    }
    ucxt_header_t header = {.kind = UCXT_PROVE, .conn = conn->auth.owner_conn};
    ucxt_header_encode(&header, conn->hello);
    conn->state = UCXT_CONN_PROVING;
    send_hello_bytes(conn, UCXT_HEADER + UCXT_MAC);
}

static void on_welcome(ucxt_conn_t *conn, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    mcs_status_t status;
    if (ucxt_status_decode(header->value, &status) != MCS_OK || conn->state != UCXT_CONN_HELLO) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
        return;
    }
    if (status != MCS_OK) {
        mcs_warn(AREA, "an owner refuses this client: %s", mcs_status_name(status));
        ucxt_conn_fail(conn, status);
        return;
    }
    ucxt_welcome_t welcome;
    if (ucxt_welcome_decode(body, len, &welcome) != MCS_OK) {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
        return;
    }
    conn->rdma = welcome.rdma && ucxt_context_has_rdma_to(&conn->lane->shared->context, conn->ep);
    conn->auth.owner_conn = welcome.conn;
    memcpy(conn->auth.owner_nonce, welcome.nonce, UCXT_NONCE);
    if (welcome.machine != 0 && welcome.machine == conn->lane->shared->machine) {
        ucxt_calm_add(&conn->lane->calm, conn->endpoint.bytes, conn->endpoint.len, NULL);
    }
    if (conn->lane->shared->token[0] != '\0' || welcome.prove) {
        prove(conn, &welcome); /* with a token of ours, an owner that has none is refused there */
    } else {
        conn->state = UCXT_CONN_UP;
    }
}

static void on_ready(ucxt_conn_t *conn, const ucxt_header_t *header)
{
    if (conn->state == UCXT_CONN_PROVING && header->value == (uint32_t)MCS_OK) {
        conn->state = UCXT_CONN_UP;
    } else {
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    }
}

/* ---- messages ---- */

static void on_answer(ucxt_conn_t *conn, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    ucxt_request_t *request = conn->slot[header->request & SLOT_MASK];
    if (request == NULL || request->id != header->request) {
        return; /* late: nobody waits for it */
    }
    mcs_status_t status = request->answer(request, header, body, len);
    if (status != MCS_OK) {
        mcs_warn(AREA, "an owner's answer is malformed: its connection is closed");
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    }
}

static ucs_status_t on_message(void *arg, const void *am_header MCS_UNUSED, size_t am_header_len MCS_UNUSED,
                               void *bytes, size_t len, const ucp_am_recv_param_t *param)
{
    ucxt_lane_t *lane = arg;
    ucxt_header_t header;
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0 || ucxt_header_decode(bytes, len, &header) != MCS_OK) {
        mcs_debug(AREA, "a message that is none of ours, %zu bytes", len);
        return UCS_OK;
    }
    ucxt_conn_t *conn = lane->conns[header.conn & CONN_MASK];
    if (conn == NULL || conn->auth.caller_conn != header.conn || conn->state == UCXT_CONN_FAILED) {
        return UCS_OK;
    }
    const uint8_t *body = (const uint8_t *)bytes + UCXT_HEADER;
    if (header.kind == UCXT_WELCOME) {
        on_welcome(conn, &header, body, len - UCXT_HEADER);
    } else if (header.kind == UCXT_READY) {
        on_ready(conn, &header);
    } else if (header.kind == UCXT_GONE) {
        conn->auth.owner_conn = 0;
        ucxt_conn_fail(conn, MCS_ERR_TRANSFER_FAIL);
    } else {
        on_answer(conn, &header, body, len - UCXT_HEADER);
    }
    return UCS_OK;
}

/* ---- life ---- */

void ucxt_lane_init(ucxt_lane_t *lane, const ucxt_shared_t *shared)
{
    memset(lane, 0, sizeof(*lane));
    lane->shared = shared;
    mcs_list_init(&lane->closing);
    mcs_list_init(&lane->sending);
}

mcs_status_t ucxt_lane_open(ucxt_lane_t *lane)
{
    if (lane->worker.ucp != NULL) {
        return MCS_OK;
    }
    const ucxt_dl_t *dl = lane->shared->context.dl;
    mcs_status_t status = ucxt_worker_open(&lane->shared->context, UCXT_AM_TO_CALLER, on_message, lane, &lane->worker);
    if (status != MCS_OK) {
        return status;
    }
    ucp_address_t *address;
    size_t len;
    if (dl->ucp_worker_get_address(lane->worker.ucp, &address, &len) != UCS_OK) {
        ucxt_worker_close(&lane->worker);
        return MCS_ERR_NO_MEMORY;
    }
    if (len <= UCXT_ADDRESS_MAX) {
        memcpy(lane->address, address, len);
        lane->address_len = (uint32_t)len;
    } else {
        mcs_error(AREA, "UCX worker address of %zu bytes is too long: name one interface", len);
        status = MCS_ERR_LIMIT;
    }
    dl->ucp_worker_release_address(lane->worker.ucp, address);
    if (status != MCS_OK) {
        ucxt_worker_close(&lane->worker);
    }
    return status;
}

void ucxt_lane_reset(ucxt_lane_t *lane)
{
    if (lane->worker.ucp == NULL) {
        return;
    }
    for (uint32_t i = 0; i < UCXT_LANE_CONNS; i++) {
        if (lane->conns[i] != NULL) {
            conn_leave(lane->conns[i]);
        }
    }
    /* Takes the endpoints along; their sockets are closed, which the owners notice, and their queue pairs, which no
     * device reaches any more. */
    ucxt_worker_close(&lane->worker);
    lane->exposed = 0;
    /* What UCX did not give back while it lived is ours again now. */
    while (!mcs_list_empty(&lane->sending)) {
        ucxt_request_t *request = MCS_LIST_FIRST(&lane->sending, ucxt_request_t, node);
        mcs_list_remove(&request->node);
        mcs_free(request);
    }
    while (!mcs_list_empty(&lane->closing)) {
        ucxt_conn_t *conn = MCS_LIST_FIRST(&lane->closing, ucxt_conn_t, node);
        mcs_list_remove(&conn->node);
        mcs_free(conn);
    }
}
