/* Fetches and stores at the owner. See serve.h; the messages are in proto.h.
 *
 * A fetch request becomes a job: a checked list of accesses. The pump turns jobs into frames; only then
 * are the extents held, and no longer than until UCX has given the frame to the kernel, or the endpoint was closed. A
 * store's message carries its accesses and its bytes: UCX hands it over in its receive buffer, and it is checked,
 * copied into the extents and ended before the callback returns. So no receive of UCX's ever points into a segment, and
 * a peer that dies or stops in the middle leaves nothing behind. */
#include "ucx_transport/serve_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/op.h"

#define AREA          "transport"
#define FRAMES_A_PUMP 8 /* then progress gets its turn */

/* The caller's log and the master's have the same operation. */
void ucxt_serve_log(const ucxt_peer_t *peer, const ucxt_header_t *header, const char *what, uint64_t bytes)
{
    char id[MCS_ID_TEXT_MAX];
    if (mcs_log_is_on(MCS_LOG_DEBUG)) {
        mcs_id_format(peer->client, id);
        mcs_debug(AREA, "%s op " MCS_OP_FMT " of client %s: %u pieces, %" PRIu64 " bytes", what,
                  MCS_OP_ARGS(header->request), id, header->count, bytes);
    }
}

/* ---- stores ---- */

/* A message that is well filled is one of many: its bytes go past the caches. */
#define STREAM_MIN (UCXT_TAIL_FRAME / 2)

mcs_status_t ucxt_serve_write_begin(struct ucxt_server *server, const mcs_access_t *access, mcs_hold_t *hold_out)
{
    mcs_status_t status = MCS_ERR_INVALID_WRITE;
    if (mcs_access_is_whole_units(access)) {
        status = server->config.owner_ops->write_begin(server->config.owner, access, hold_out);
    }
    if (status != MCS_OK) {
        ucxt_count(&server->config.counters->refused, 1);
    }
    return status;
}

static mcs_status_t store_piece(struct ucxt_server *server, const mcs_access_t *access, uint32_t crc,
                                const uint8_t *bytes, bool stream)
{
    const mcs_owner_ops_t *ops = server->config.owner_ops;
    mcs_transport_counters_t *counters = server->config.counters;
    mcs_hold_t hold;
    mcs_status_t status = ucxt_serve_write_begin(server, access, &hold);
    if (status != MCS_OK) {
        return status;
    }
    uint32_t found = stream ? mcs_stream_crc32c(0, hold.bytes, bytes, access->len)
                            : mcs_copy_crc32c(0, hold.bytes, bytes, access->len);
    mcs_stream_fence();
    mcs_status_t received = found == crc ? MCS_OK : MCS_ERR_CHECKSUM_MISMATCH;
    status = ops->write_end(server->config.owner, &hold, received, &crc, 1);
    if (received != MCS_OK) {
        return received;
    }
    if (status == MCS_OK) {
        ucxt_count(&counters->served_write_bytes, access->len);
        ucxt_count(&counters->copied_bytes, access->len);
    }
    return status;
}

uint64_t ucxt_serve_check_records(const uint8_t *records, uint32_t count)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        mcs_access_t access;
        uint32_t crc;
        if (ucxt_access_decode(records + (size_t)i * UCXT_ACCESS, &access, &crc) != MCS_OK) {
            return 0;
        }
        total += access.len;
    }
    return total;
}

void ucxt_serve_store(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    uint32_t count = header->count;
    size_t table = (size_t)count * UCXT_ACCESS;
    if (count == 0 || count > UCXT_FRAME_PIECES || len < table || len - table > UCXT_FRAME_BYTES ||
        ucxt_serve_check_records(body, count) != len - table) {
        ucxt_peer_fail(peer, "malformed store");
        return;
    }
    ucxt_serve_log(peer, header, "store", len - table);
    uint8_t answer[UCXT_FRAME_PIECES * 4];
    const uint8_t *bytes = body + table;
    for (uint32_t i = 0; i < count; i++) {
        mcs_access_t access;
        uint32_t crc;
        mcs_status_t status = ucxt_access_decode(body + (size_t)i * UCXT_ACCESS, &access, &crc);
        MCS_ENSURE(status == MCS_OK);
        status = store_piece(peer->server, &access, crc, bytes, len - table >= STREAM_MIN);
        mcs_store_u32(answer + (size_t)i * 4, (uint32_t)status);
        bytes += access.len;
    }
    ucxt_header_t reply = {.kind = UCXT_STORED, .request = header->request, .count = count};
    ucxt_peer_answer(peer, reply, answer, (size_t)count * 4);
}

/* ---- fetch requests ---- */

void ucxt_serve_refuse(ucxt_peer_t *peer, uint64_t request, mcs_status_t status)
{
    ucxt_count(&peer->server->config.counters->refused, 1);
    ucxt_header_t reply = {.kind = UCXT_REFUSED, .request = request, .value = (uint32_t)status};
    ucxt_peer_answer(peer, reply, NULL, 0);
}

bool ucxt_serve_has_room(const ucxt_peer_t *peer)
{
    return peer->job_count < SERVE_JOBS && peer->server->job_count < SERVE_JOBS_TOTAL;
}

void ucxt_serve_queue(ucxt_peer_t *peer, serve_job_t *job)
{
    mcs_list_push_tail(&peer->jobs, &job->node);
    if (peer->job_count++ == 0) {
        mcs_list_push_tail(&peer->server->active, &peer->active);
    }
    peer->server->job_count++;
}

void ucxt_serve_fetch(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    uint32_t count = header->count;
    uint64_t total = count == 0 || count > UCXT_FETCH_PIECES || len != (size_t)count * UCXT_ACCESS
                         ? 0
                         : ucxt_serve_check_records(body, count);
    if (total == 0 || total > UCXT_FETCH_BYTES) {
        ucxt_peer_fail(peer, "malformed fetch");
        return;
    }
    ucxt_serve_log(peer, header, "fetch", total);
    if (!ucxt_serve_has_room(peer)) {
        ucxt_serve_refuse(peer, header->request, MCS_ERR_LIMIT);
        return;
    }
    serve_job_t *job = mcs_malloc(sizeof(*job) + count * sizeof(job->access[0]));
    if (job == NULL) {
        ucxt_serve_refuse(peer, header->request, MCS_ERR_NO_MEMORY);
        return;
    }
    *job = (serve_job_t){
        .request = header->request,
        .deadline_ns = mcs_deadline_after_ms((int64_t)MCS_MIN(header->value, (uint32_t)SERVE_WAIT_MAX_MS)),
        .left = total,
        .count = count,
    };
    for (uint32_t i = 0; i < count; i++) {
        uint32_t crc;
        mcs_status_t status = ucxt_access_decode(body + (size_t)i * UCXT_ACCESS, &job->access[i], &crc);
        MCS_ENSURE(status == MCS_OK);
    }
    ucxt_serve_queue(peer, job);
}

static void job_free(ucxt_peer_t *peer, serve_job_t *job)
{
    mcs_list_remove(&job->node);
    ucxt_rdma_keys_put(job->keys);
    mcs_free(job);
    peer->server->job_count--;
    if (--peer->job_count == 0) {
        mcs_list_remove(&peer->active);
    }
}

void ucxt_serve_drop_jobs(ucxt_peer_t *peer)
{
    while (!mcs_list_empty(&peer->jobs)) {
        job_free(peer, MCS_LIST_FIRST(&peer->jobs, serve_job_t, node));
    }
}

/* ---- frames ---- */

static serve_frame_t *frame_take(ucxt_peer_t *peer)
{
    struct ucxt_server *server = peer->server;
    serve_frame_t *frame;
    if (!mcs_list_empty(&server->frames_free)) {
        frame = MCS_LIST_FIRST(&server->frames_free, serve_frame_t, node);
        mcs_list_remove(&frame->node);
        server->frames_kept -= frame->pack != NULL ? 1 : 0;
    } else {
        frame = server->frame_count < SERVE_FRAMES ? MCS_NEW(serve_frame_t) : NULL;
        if (frame == NULL) {
            return NULL;
        }
        mcs_list_init(&frame->node);
        server->frame_count++;
    }
    frame->peer = peer;
    frame->hold_count = 0;
    frame->iov_count = 1;
    frame->piece_count = 0;
    frame->packed = 0;
    frame->bytes = 0;
    frame->keys = NULL;
    frame->rdma = false;
    frame->store = false;
    return frame;
}

void ucxt_serve_end_reads(struct ucxt_server *server, serve_frame_t *frame)
{
    for (uint32_t i = 0; i < frame->hold_count; i++) {
        server->config.owner_ops->read_end(server->config.owner, &frame->holds[i]);
    }
    frame->hold_count = 0;
}

static void frame_put(serve_frame_t *frame)
{
    struct ucxt_server *server = frame->peer->server;
    if (frame->rdma) {
        ucxt_rdma_abandon(frame);
    } else {
        ucxt_serve_end_reads(server, frame);
    }
    frame->peer = NULL;
    if (frame->pack != NULL && server->frames_kept >= SERVE_FRAMES_KEPT) {
        mcs_free(frame->pack);
        frame->pack = NULL;
    }
    server->frames_kept += frame->pack != NULL ? 1 : 0;
    mcs_list_remove(&frame->node);
    mcs_list_push_head(&server->frames_free, &frame->node);
}

void ucxt_serve_frame_over(serve_frame_t *frame, bool ok)
{
    ucxt_peer_t *peer = frame->peer;
    if (ok && !frame->store) {
        ucxt_count(&peer->server->config.counters->served_read_bytes, frame->bytes);
    }
    peer->frames--;
    peer->since_ns = mcs_now_ns();
    frame_put(frame);
}

static void on_frame_sent(void *request, ucs_status_t rc, void *arg)
{
    serve_frame_t *frame = arg;
    ucxt_request_free(&frame->peer->server->worker, request);
    ucxt_serve_frame_over(frame, rc == UCS_OK);
}

void ucxt_serve_frame_send(serve_frame_t *frame)
{
    ucxt_peer_t *peer = frame->peer;
    mcs_status_t status = ucxt_send(&peer->server->worker, peer->ep, UCXT_AM_TO_CALLER, frame->iov, frame->iov_count,
                                    false, on_frame_sent, frame);
    if (status != MCS_ERR_AGAIN) {
        ucxt_serve_frame_over(frame, status == MCS_OK);
        if (status != MCS_OK) {
            ucxt_peer_fail(peer, "send failed");
        }
    }
}

/* Room for one more piece of `len` bytes in a frame of up to `limit`? There is always room for one. */
static bool frame_fits(serve_frame_t *frame, uint64_t len, uint64_t limit)
{
    if (frame->piece_count == UCXT_FRAME_PIECES || (frame->piece_count > 0 && frame->bytes + len > limit)) {
        return false;
    }
    bool run_open = frame->packed > 0 && frame->iov_count > 1 &&
                    (uint8_t *)frame->iov[frame->iov_count - 1].buffer + frame->iov[frame->iov_count - 1].length ==
                        frame->pack + frame->packed;
    if (frame->iov_count == 1 + UCXT_FRAME_IOVS && !(len < UCXT_PACK_BELOW && run_open)) {
        return false;
    }
    return len >= UCXT_PACK_BELOW || frame->packed + len <= UCXT_PACK_BYTES;
}

static void frame_gather(serve_frame_t *frame, void *bytes, size_t len)
{
    ucp_dt_iov_t *last = &frame->iov[frame->iov_count - 1];
    if (frame->iov_count > 1 && (uint8_t *)last->buffer + last->length == bytes) {
        last->length += len;
    } else {
        frame->iov[frame->iov_count++] = (ucp_dt_iov_t){.buffer = bytes, .length = len};
    }
    frame->bytes += len;
}

/* Holds the piece and adds it, or adds why not. False: not now. */
static bool frame_add(struct ucxt_server *server, serve_frame_t *frame, const mcs_access_t *access)
{
    const mcs_owner_ops_t *ops = server->config.owner_ops;
    mcs_hold_t hold;
    uint32_t crc = 0;
    mcs_status_t status = MCS_OK;
    bool pack = access->len < UCXT_PACK_BELOW;
    if (pack && frame->pack == NULL) {
        frame->pack = mcs_malloc(UCXT_PACK_BYTES);
        status = frame->pack == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    }
    if (status == MCS_OK) {
        status = ops->read_begin(server->config.owner, access, &hold);
        if (status == MCS_ERR_AGAIN) {
            return false;
        }
        if (status != MCS_OK) {
            ucxt_count(&server->config.counters->refused, 1);
        }
    }
    if (status == MCS_OK) {
        crc = hold.crc_count > 0 ? hold.crcs[0] : 0;
        if (pack) {
            uint8_t *to = frame->pack + frame->packed;
            memcpy(to, hold.bytes, access->len);
            frame->packed += (uint32_t)access->len;
            frame_gather(frame, to, access->len);
            ops->read_end(server->config.owner, &hold);
            ucxt_count(&server->config.counters->copied_bytes, access->len);
        } else {
            frame_gather(frame, hold.bytes, access->len);
            frame->holds[frame->hold_count++] = hold;
        }
    }
    ucxt_piece_encode(status, crc, frame->head + UCXT_HEADER + (size_t)frame->piece_count * UCXT_PIECE);
    frame->piece_count++;
    return true;
}

static void frame_fill(struct ucxt_server *server, serve_frame_t *frame, serve_job_t *job)
{
    ucxt_header_t header = {
        .kind = UCXT_PIECES, .conn = frame->peer->auth.caller_conn, .request = job->request, .value = job->next};
    uint64_t limit = ucxt_frame_limit(job->left);
    while (job->next < job->count && frame->hold_count < UCXT_FRAME_IOVS && !ucxt_rdma_is_next(job) &&
           frame_fits(frame, job->access[job->next].len, limit)) {
        if (!frame_add(server, frame, &job->access[job->next])) {
            server->bytes_coming = true;
            break;
        }
        job->left -= job->access[job->next].len;
        job->next++;
    }
    header.count = frame->piece_count;
    ucxt_header_encode(&header, frame->head);
    frame->iov[0] =
        (ucp_dt_iov_t){.buffer = frame->head, .length = UCXT_HEADER + (size_t)frame->piece_count * UCXT_PIECE};
}

/* One frame of the peer's first job. False when its window is full or there is nothing to send. */
static bool pump_peer(ucxt_peer_t *peer)
{
    struct ucxt_server *server = peer->server;
    if (peer->state != PEER_READY || peer->frames >= SERVE_WINDOW) {
        return false;
    }
    serve_job_t *job = MCS_LIST_FIRST(&peer->jobs, serve_job_t, node);
    if (mcs_deadline_passed(job->deadline_ns)) {
        job_free(peer, job); /* nobody waits for it any more */
        return true;
    }
    serve_frame_t *frame = frame_take(peer);
    if (frame == NULL) {
        return false;
    }
    uint32_t from = job->next;
    bool rdma = ucxt_rdma_is_next(job);
    if (rdma) {
        ucxt_rdma_fill(server, frame, job);
    } else {
        frame_fill(server, frame, job);
    }
    if (frame->piece_count == 0) {
        frame_put(frame); /* its first bytes are not there yet */
        return false;
    }
    if (peer->frames == 0) {
        peer->since_ns = mcs_now_ns();
        peer->frames_until_ns = 0;
    }
    peer->frames_until_ns = MCS_MAX(peer->frames_until_ns, job->deadline_ns);
    peer->frames++;
    ucxt_calm_sent(&server->calm, frame->bytes);
    mcs_list_push_tail(&server->frames_busy, &frame->node);
    if (rdma) {
        ucxt_rdma_start(frame, job, from);
    } else {
        ucxt_serve_frame_send(frame);
    }
    if (job->next == job->count) {
        job_free(peer, job);
    }
    return true;
}

bool ucxt_serve_pump(struct ucxt_server *server)
{
    uint32_t sent = 0;
    bool more = true;
    server->bytes_coming = false;
    while (more && sent < FRAMES_A_PUMP) {
        more = false;
        MCS_LIST_FOR_EACH_SAFE(node, next, &server->active)
        {
            if (pump_peer(MCS_CONTAINER_OF(node, ucxt_peer_t, active))) {
                sent++;
                more = true;
            }
        }
    }
    return sent > 0;
}

void ucxt_serve_free_frames(struct ucxt_server *server)
{
    while (!mcs_list_empty(&server->frames_busy)) {
        frame_put(MCS_LIST_FIRST(&server->frames_busy, serve_frame_t, node));
    }
    while (!mcs_list_empty(&server->frames_free)) {
        serve_frame_t *frame = MCS_LIST_FIRST(&server->frames_free, serve_frame_t, node);
        mcs_list_remove(&frame->node);
        mcs_free(frame->pack);
        mcs_free(frame);
    }
}
