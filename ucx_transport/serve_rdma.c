/* Requests whose bytes the devices move: see serve.h; the messages are in proto.h.
 *
 * The owner moves them, not the caller. It checks each access as it does for a message, holds the extent, and puts the
 * bytes into the caller's memory, or gets them from there, by the remote keys that came with the request; then it
 * answers. So no key of a segment ever leaves its process: nobody can read an extent that is another's by now, or write
 * to one after its reservation was revoked, and rules 3 to 6 hold as they do over TCP. It costs the owner a look at
 * each piece (and the sum of what was stored), and no copy.
 *
 * A frame is what is moved in one go: 14 pieces and 4 MiB at most, four at a time for a peer. Its holds end when UCX
 * has flushed the bytes, or says that the peer is gone: a device ends what is under way to a dead peer by itself. */
#include "ucx_transport/serve_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#define AREA SERVE_AREA

/* ---- keys ---- */

void ucxt_rdma_keys_put(serve_keys_t *keys)
{
    if (keys == NULL || --keys->refs > 0) {
        return;
    }
    for (uint32_t i = 0; i < keys->count; i++) {
        keys->dl->ucp_rkey_destroy(keys->rkey[i]);
    }
    mcs_free(keys);
}

static mcs_status_t keys_open(ucxt_peer_t *peer, const ucxt_places_t *places, serve_keys_t **keys_out)
{
    serve_keys_t *keys = MCS_NEW(serve_keys_t);
    if (keys == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    keys->dl = peer->server->worker.dl;
    keys->refs = 1;
    for (uint32_t i = 0; i < places->key_count; i++) {
        /* Aligned, and with room behind it. */
        uint64_t packed[UCXT_KEY_MAX / 8 + 1] = {0};
        memcpy(packed, places->key[i], places->key_len[i]);
        ucs_status_t rc = keys->dl->ucp_ep_rkey_unpack(peer->ep, packed, &keys->rkey[i]);
        if (rc != UCS_OK) {
            mcs_debug(AREA, "a peer's remote key: %s", keys->dl->ucs_status_string(rc));
            ucxt_rdma_keys_put(keys);
            return MCS_ERR_TRANSFER_FAIL;
        }
        keys->count++;
    }
    *keys_out = keys;
    return MCS_OK;
}

/* ---- requests ---- */

static serve_job_t *job_new(uint32_t count, uint32_t stretches)
{
    serve_job_t *job =
        mcs_calloc(1, sizeof(*job) + count * sizeof(job->access[0]) + stretches * sizeof(ucxt_stretch_t) +
                          ((size_t)count + 1 + count) * sizeof(uint32_t));
    if (job != NULL) {
        job->count = count;
        job->stretches = (ucxt_stretch_t *)(void *)&job->access[count];
        job->first = (uint32_t *)(void *)&job->stretches[stretches];
        job->crcs = job->first + count + 1;
    }
    return job;
}

static bool is_bounded(const ucxt_header_t *header, size_t len, const uint8_t *body, uint64_t *total_out)
{
    bool store = header->kind == UCXT_STORE_RDMA;
    uint32_t most = store ? UCXT_RDMA_PIECES : UCXT_FETCH_PIECES;
    if (header->count == 0 || header->count > most || len < (size_t)header->count * UCXT_ACCESS) {
        return false;
    }
    *total_out = ucxt_serve_check_records(body, header->count);
    return *total_out > 0 && *total_out <= (store ? UCXT_RDMA_BYTES : UCXT_FETCH_BYTES);
}

/* A store has all its bytes in places. */
static bool all_placed(const serve_job_t *job)
{
    for (uint32_t i = 0; i < job->count; i++) {
        if (job->first[i] == job->first[i + 1]) {
            return false;
        }
    }
    return true;
}

static mcs_status_t parse(const ucxt_header_t *header, const uint8_t *body, size_t len, ucxt_places_t *places,
                          serve_job_t **job_out)
{
    size_t table = (size_t)header->count * UCXT_ACCESS;
    size_t keys;
    mcs_status_t status = ucxt_places_decode(body + table, len - table, places, &keys);
    if (status != MCS_OK) {
        return status;
    }
    serve_job_t *job = job_new(header->count, places->stretch_count);
    if (job == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    job->request = header->request;
    job->store = header->kind == UCXT_STORE_RDMA;
    job->deadline_ns = mcs_deadline_after_ms((int64_t)MCS_MIN(header->value, (uint32_t)SERVE_WAIT_MAX_MS));
    for (uint32_t i = 0; i < header->count; i++) {
        status = ucxt_access_decode(body + (size_t)i * UCXT_ACCESS, &job->access[i], &job->crcs[i]);
        MCS_ENSURE(status == MCS_OK);
    }
    status = ucxt_stretches_decode(body + table + keys, len - table - keys, places, job->access, job->count, job->first,
                                   job->stretches);
    if (status == MCS_OK && job->store && !all_placed(job)) {
        status = MCS_ERR_PROTOCOL;
    }
    if (status != MCS_OK) {
        mcs_free(job);
        return status;
    }
    *job_out = job;
    return MCS_OK;
}

void ucxt_serve_rdma(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    uint64_t total;
    ucxt_places_t places;
    serve_job_t *job = NULL;
    if (!is_bounded(header, len, body, &total)) {
        ucxt_peer_fail(peer, "malformed request");
        return;
    }
    ucxt_serve_log(peer, header, header->kind == UCXT_STORE_RDMA ? "store" : "fetch", total);
    if (!ucxt_serve_has_room(peer)) {
        ucxt_serve_refuse(peer, header->request, MCS_ERR_LIMIT);
        return;
    }
    mcs_status_t status = parse(header, body, len, &places, &job);
    if (status == MCS_ERR_NO_MEMORY) {
        ucxt_serve_refuse(peer, header->request, status);
        return;
    }
    if (status != MCS_OK) {
        ucxt_peer_fail(peer, "malformed places");
        return;
    }
    job->left = total;
    status = keys_open(peer, &places, &job->keys);
    if (status != MCS_OK) {
        mcs_free(job);
        ucxt_serve_refuse(peer, header->request, status);
        return;
    }
    ucxt_serve_queue(peer, job);
}

/* ---- frames ---- */

bool ucxt_rdma_is_next(const serve_job_t *job)
{
    return job->keys != NULL && job->next < job->count && job->first[job->next] < job->first[job->next + 1];
}

/* Holds the next piece, or records why not. False: not now. */
static bool add_piece(struct ucxt_server *server, serve_frame_t *frame, const serve_job_t *job)
{
    const mcs_access_t *access = &job->access[job->next];
    mcs_hold_t *hold = &frame->holds[frame->hold_count];
    mcs_status_t status = job->store ? ucxt_serve_write_begin(server, access, hold)
                                     : server->config.owner_ops->read_begin(server->config.owner, access, hold);
    if (status == MCS_ERR_AGAIN) {
        return false;
    }
    if (status != MCS_OK && !job->store) {
        ucxt_count(&server->config.counters->refused, 1);
    }
    uint32_t crc = status == MCS_OK && !job->store && hold->crc_count > 0 ? hold->crcs[0] : 0;
    if (job->store) {
        mcs_store_u32(frame->head + UCXT_HEADER + (size_t)frame->piece_count * 4, (uint32_t)status);
    } else {
        ucxt_piece_encode(status, crc, frame->head + UCXT_HEADER + (size_t)frame->piece_count * UCXT_PIECE);
    }
    if (status == MCS_OK) {
        frame->hold_piece[frame->hold_count] = frame->piece_count;
        frame->hold_crc[frame->hold_count] = job->crcs[job->next];
        frame->hold_len[frame->hold_count] = access->len;
        frame->hold_count++;
        frame->bytes += access->len;
    }
    frame->piece_count++;
    return true;
}

void ucxt_rdma_fill(struct ucxt_server *server, serve_frame_t *frame, serve_job_t *job)
{
    ucxt_header_t header = {.kind = job->store ? UCXT_STORED : UCXT_PLACED,
                            .conn = frame->peer->auth.caller_conn,
                            .request = job->request,
                            .value = job->store ? 0 : job->next};
    uint64_t asked = 0;
    while (ucxt_rdma_is_next(job) && frame->piece_count < UCXT_RDMA_PIECES &&
           asked + job->access[job->next].len <= UCXT_RDMA_BYTES) {
        if (!add_piece(server, frame, job)) {
            server->bytes_coming = true;
            break;
        }
        asked += job->access[job->next].len;
        job->left -= job->access[job->next].len;
        job->next++;
    }
    header.count = frame->piece_count;
    ucxt_header_encode(&header, frame->head);
    frame->iov[0] = (ucp_dt_iov_t){.buffer = frame->head,
                                   .length = UCXT_HEADER +
                                             (size_t)frame->piece_count * (job->store ? sizeof(uint32_t) : UCXT_PIECE)};
    if (frame->piece_count > 0) {
        frame->rdma = true;
        frame->store = job->store;
        frame->keys = job->keys;
        frame->keys->refs++;
        frame->half = ucxt_regions_enter(server->config.regions);
    }
}

/* ---- moving ---- */

/* What has come is summed before anybody may see it. */
static void end_writes(struct ucxt_server *server, serve_frame_t *frame, bool moved)
{
    for (uint32_t i = 0; i < frame->hold_count; i++) {
        mcs_hold_t *hold = &frame->holds[i];
        mcs_status_t received = MCS_ERR_TRANSFER_FAIL;
        if (moved) {
            received = mcs_crc32c(0, hold->bytes, frame->hold_len[i]) == frame->hold_crc[i] ? MCS_OK
                                                                                            : MCS_ERR_CHECKSUM_MISMATCH;
        }
        mcs_status_t status =
            server->config.owner_ops->write_end(server->config.owner, hold, received, &frame->hold_crc[i], 1);
        status = received != MCS_OK ? received : status;
        mcs_store_u32(frame->head + UCXT_HEADER + (size_t)frame->hold_piece[i] * 4, (uint32_t)status);
        if (status == MCS_OK) {
            ucxt_count(&server->config.counters->served_write_bytes, frame->hold_len[i]);
        }
    }
    frame->hold_count = 0;
}

static void end_holds(struct ucxt_server *server, serve_frame_t *frame, bool moved)
{
    if (frame->store) {
        end_writes(server, frame, moved);
    } else {
        ucxt_serve_end_reads(server, frame);
    }
    frame->rdma = false;
    ucxt_rdma_keys_put(frame->keys);
    frame->keys = NULL;
    ucxt_regions_leave(server->config.regions, frame->half);
}

void ucxt_rdma_abandon(serve_frame_t *frame)
{
    end_holds(frame->peer->server, frame, false);
}

void ucxt_rdma_drop_keys(struct ucxt_server *server)
{
    MCS_LIST_FOR_EACH(node, &server->frames_busy)
    {
        serve_frame_t *frame = MCS_CONTAINER_OF(node, serve_frame_t, node);
        ucxt_rdma_keys_put(frame->keys);
        frame->keys = NULL;
    }
}

static void all_moved(serve_frame_t *frame)
{
    ucxt_peer_t *peer = frame->peer;
    bool failed = frame->failed;
    end_holds(peer->server, frame, !failed);
    if (failed || peer->state >= PEER_FAILED) { /* the latter: its last word has been said */
        ucxt_serve_frame_over(frame, false);
        ucxt_peer_fail(peer, "its memory is out of reach");
        return;
    }
    ucxt_count(&peer->server->config.counters->rdma_bytes, frame->bytes);
    ucxt_serve_frame_send(frame);
}

static void op_done(serve_frame_t *frame, bool ok)
{
    frame->failed = frame->failed || !ok;
    if (--frame->ops == 0) {
        all_moved(frame);
    }
}

static void on_op(void *request, ucs_status_t rc, void *arg)
{
    serve_frame_t *frame = arg;
    ucxt_request_free(&frame->peer->server->worker, request);
    op_done(frame, rc == UCS_OK);
}

/* One operation: the guard of ucxt_rdma_start keeps the count above zero. */
static void count_op(serve_frame_t *frame, mcs_status_t status)
{
    if (status != MCS_ERR_AGAIN) {
        op_done(frame, status == MCS_OK);
    }
}

static void move_piece(serve_frame_t *frame, const serve_job_t *job, uint32_t piece, const mcs_hold_t *hold)
{
    struct ucxt_server *server = frame->peer->server;
    const mcs_access_t *access = &job->access[piece];
    const ucxt_window_t *window = ucxt_regions_find(server->config.regions, hold->bytes, access->len, false);
    uint8_t *at = hold->bytes;
    for (uint32_t s = job->first[piece]; s < job->first[piece + 1]; s++) {
        const ucxt_stretch_t *stretch = &job->stretches[s];
        const ucxt_rma_t rma = {
            .get = job->store,
            .local = at,
            .len = stretch->len,
            .memh = window != NULL ? window->memh : NULL,
            .remote = stretch->address,
            .rkey = frame->keys->rkey[stretch->key],
        };
        frame->ops++;
        count_op(frame, ucxt_move(&server->worker, frame->peer->ep, &rma, on_op, frame));
        at += stretch->len;
    }
}

void ucxt_rdma_start(serve_frame_t *frame, const serve_job_t *job, uint32_t from)
{
    ucxt_peer_t *peer = frame->peer;
    frame->failed = false;
    frame->ops = 1; /* until all have been started */
    for (uint32_t i = 0; i < frame->hold_count; i++) {
        move_piece(frame, job, from + frame->hold_piece[i], &frame->holds[i]);
    }
    if (frame->hold_count > 0 && !frame->store) {
        frame->ops++;
        count_op(frame, ucxt_ep_flush(&peer->server->worker, peer->ep, on_op, frame));
    }
    op_done(frame, true);
}
