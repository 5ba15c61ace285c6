/* See flow.h and flow_internal.h: ranges to pieces to requests, answers to ranges. */
#include "ucx_transport/flow_internal.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/log.h"

/* ---- ranges ---- */

/* The first block that starts in the range. */
static uint64_t first_block(const mcs_access_t *access)
{
    return (access->from + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK;
}

static uint64_t blocks_started(const mcs_access_t *access)
{
    return (access->from + access->len + MCS_CRC_BLOCK - 1) / MCS_CRC_BLOCK - first_block(access);
}

static bool range_is_sound(const mcs_range_t *range, mcs_direction_t direction)
{
    const mcs_access_t *access = &range->access;
    if (access->len == 0 || access->len > MCS_RANGE_MAX || access->from > access->payload_len ||
        access->len > access->payload_len - access->from || range->iov_count == 0 ||
        range->iov_count > MCS_RANGE_IOV_MAX || range->crc_count != blocks_started(access)) {
        return false;
    }
    if (direction == MCS_STORE && (access->from % MCS_CRC_BLOCK != 0 || !mcs_access_is_whole_units(access))) {
        return false;
    }
    if (range->device && ((direction == MCS_STORE && range->crcs == NULL) || range->sums != NULL)) {
        return false;
    }
    uint64_t total = 0;
    for (uint32_t i = 0; i < range->iov_count; i++) {
        if (range->iov[i].iov_len > access->len - total) {
            return false;
        }
        total += range->iov[i].iov_len;
    }
    return total == access->len;
}

/* Pieces add to them. */
static void clear_sums(const mcs_range_t *range, mcs_direction_t direction)
{
    size_t len = range->crc_count * sizeof(uint32_t);
    bool given = range->device && direction == MCS_STORE;
    if (range->crcs != NULL && len > 0 && !given) {
        memset(range->crcs, 0, len);
    }
    if (range->sums != NULL && len > 0) {
        memset(range->sums, 0, len);
    }
}

/* Adds the CRC of a piece to that of its block. */
static void add_sum(const flow_t *flow, const flow_piece_t *piece, uint32_t *sums, uint32_t crc)
{
    const mcs_access_t *access = &flow->transfer->ranges[piece->range].access;
    uint64_t block_end = MCS_ALIGN_UP(piece->from + piece->len, MCS_CRC_BLOCK);
    uint64_t end = MCS_MIN(block_end, access->from + access->len);
    sums[piece->crc] ^= mcs_crc32c_shift(crc, end - piece->from - piece->len);
}

/* How long the piece at byte `at` of the range is, with `left` bytes of the transfer to come. A device's are blocks, of
 * which it has made the sums. */
static uint32_t piece_len(const mcs_range_t *range, uint64_t at, uint64_t left)
{
    uint64_t limit = range->device ? MCS_CRC_BLOCK : ucxt_frame_limit(left);
    return (uint32_t)MCS_MIN(range->access.len - at, limit - (range->access.from + at) % limit);
}

static uint32_t count_pieces(const mcs_range_t *range, uint64_t *left)
{
    uint32_t count = 0;
    for (uint64_t at = 0; at < range->access.len; count++) {
        uint32_t len = piece_len(range, at, *left);
        at += len;
        *left -= len;
    }
    return count;
}

void ucxt_flow_prepare(flow_t *flow)
{
    mcs_transfer_t *transfer = flow->transfer;
    for (uint32_t i = 0; i < transfer->range_count; i++) {
        mcs_range_t *range = &transfer->ranges[i];
        if (!range_is_sound(range, transfer->direction)) {
            range->status = MCS_ERR_INVALID_PARAMS;
            flow->left[i] = 0;
            continue;
        }
        range->status = MCS_OK;
        range->sent = false;
        clear_sums(range, transfer->direction);
        flow->left[i] = 1;
        flow->ranges_open++;
        flow->left_len += range->access.len;
    }
    flow->stream = flow->left_len >= MCS_STREAM_MIN;
    uint64_t left = flow->left_len;
    for (uint32_t i = 0; i < transfer->range_count; i++) {
        if (flow->left[i] > 0) {
            flow->left[i] = count_pieces(&transfer->ranges[i], &left);
            flow->unsent += flow->left[i];
        }
    }
}

void ucxt_flow_end(flow_t *flow, mcs_status_t status)
{
    for (uint32_t i = 0; i < flow->transfer->range_count; i++) {
        if (flow->left[i] > 0) {
            flow->transfer->ranges[i].status = status;
            flow->left[i] = 0;
        }
    }
    flow->ranges_open = 0;
    flow->over = true;
}

static void piece_done(flow_t *flow, flow_request_t *request, flow_piece_t *piece, mcs_status_t status)
{
    mcs_range_t *range = &flow->transfer->ranges[piece->range];
    piece->done = true;
    request->open--;
    if (status != MCS_OK && range->status == MCS_OK) {
        range->status = status; /* the first refusal of a range is its answer */
    }
    if (--flow->left[piece->range] == 0) {
        flow->ranges_open--;
    }
}

/* ---- cutting ---- */

/* The piece at the cursor; the cursor stays. There is one: unsent > 0. */
static void peek(flow_t *flow, flow_piece_t *piece_out)
{
    const mcs_range_t *ranges = flow->transfer->ranges;
    while (flow->at == ranges[flow->range].access.len || flow->left[flow->range] == 0) {
        flow->range++;
        flow->at = 0;
        flow->iov = 0;
        flow->iov_at = 0;
    }
    const mcs_range_t *range = &ranges[flow->range];
    while (flow->iov_at == range->iov[flow->iov].iov_len) {
        flow->iov++;
        flow->iov_at = 0;
    }
    uint64_t from = range->access.from + flow->at;
    uint64_t block = from / MCS_CRC_BLOCK;
    uint64_t first = first_block(&range->access);
    *piece_out = (flow_piece_t){
        .range = flow->range,
        .len = piece_len(range, flow->at, flow->left_len),
        .iov = flow->iov,
        .crc = block >= first ? (uint32_t)(block - first) : NO_CRC,
        .iov_at = flow->iov_at,
        .from = from,
    };
}

static void advance(flow_t *flow, const flow_piece_t *piece)
{
    const mcs_range_t *range = &flow->transfer->ranges[flow->range];
    uint64_t left = piece->len;
    while (left > 0) {
        uint64_t step = MCS_MIN(left, range->iov[flow->iov].iov_len - flow->iov_at);
        flow->iov_at += step;
        left -= step;
        if (left > 0) {
            flow->iov++;
            flow->iov_at = 0;
        }
    }
    flow->at += piece->len;
    flow->left_len -= piece->len;
    flow->unsent--;
}

/* Calls `visit` with each stretch of caller's memory of the piece, in order. */
typedef void (*stretch_fn)(void *arg, uint8_t *bytes, size_t len);
static void each_stretch(const flow_t *flow, const flow_piece_t *piece, stretch_fn visit, void *arg)
{
    const mcs_range_t *range = &flow->transfer->ranges[piece->range];
    uint32_t iov = piece->iov;
    uint64_t at = piece->iov_at;
    uint64_t left = piece->len;
    while (left > 0) {
        uint64_t step = MCS_MIN(left, range->iov[iov].iov_len - at);
        if (step > 0) {
            visit(arg, (uint8_t *)range->iov[iov].iov_base + at, step);
        }
        left -= step;
        iov++;
        at = 0;
    }
}

static void count_stretch(void *arg, uint8_t *bytes MCS_UNUSED, size_t len MCS_UNUSED)
{
    ++*(uint32_t *)arg;
}

/* ---- requests ---- */

/* What the next request will hold. */
typedef struct batch {
    uint32_t count;
    uint32_t entries; /* gather entries used */
    uint64_t bytes;
    uint64_t packed;
    bool last_packed;
    /* for RDMA */
    bool placed; /* any piece */
    uint32_t stretches;
    uint32_t key_count;
    size_t keys_len; /* on the wire */
    const ucxt_window_t *key[UCXT_KEYS_MAX];
    uint64_t is_placed[UCXT_FETCH_PIECES / 64];
} batch_t;

static bool batch_has_place(const batch_t *batch, uint32_t i)
{
    return (batch->is_placed[i / 64] >> (i % 64) & 1) != 0;
}

/* ---- places ---- */

typedef struct placer {
    ucxt_regions_t *regions;
    batch_t *batch;
    uint8_t *out;
    uint32_t stretches;
    bool fits;
} placer_t;

/* The number of the key to the byte that the batch has already; UCXT_KEYS_MAX: none. */
static uint32_t find_key(const batch_t *batch, const void *byte)
{
    for (uint32_t i = batch->key_count; i > 0; i--) {
        if (ucxt_window_room(batch->key[i - 1], byte) > 0) {
            return i - 1;
        }
    }
    return UCXT_KEYS_MAX;
}

static uint32_t add_key(placer_t *placer, const void *byte)
{
    batch_t *batch = placer->batch;
    const ucxt_window_t *window = ucxt_regions_find(placer->regions, byte, 1, true);
    if (window == NULL || batch->key_count == UCXT_KEYS_MAX) {
        return UCXT_KEYS_MAX;
    }
    batch->key[batch->key_count] = window;
    batch->keys_len += 2 + (size_t)window->rkey_len;
    return batch->key_count++;
}

/* Memory that lies in two windows is two stretches. */
static void look_for_place(void *arg, uint8_t *bytes, size_t len)
{
    placer_t *placer = arg;
    while (placer->fits && len > 0) {
        uint32_t key = find_key(placer->batch, bytes);
        key = key < UCXT_KEYS_MAX ? key : add_key(placer, bytes);
        placer->fits = key < UCXT_KEYS_MAX;
        placer->stretches++;
        if (placer->fits) {
            size_t here = (size_t)MCS_MIN(ucxt_window_room(placer->batch->key[key], bytes), (uint64_t)len);
            bytes += here;
            len -= here;
        }
    }
}

/* Of a piece that fitted: its keys are the batch's. */
static void put_stretch(void *arg, uint8_t *bytes, size_t len)
{
    placer_t *placer = arg;
    while (len > 0) {
        uint32_t key = find_key(placer->batch, bytes);
        MCS_ENSURE(key < UCXT_KEYS_MAX);
        size_t here = (size_t)MCS_MIN(ucxt_window_room(placer->batch->key[key], bytes), (uint64_t)len);
        ucxt_stretch_encode(&(ucxt_stretch_t){(uint64_t)(uintptr_t)bytes, (uint32_t)here, key},
                            placer->out + (size_t)placer->stretches * UCXT_STRETCH);
        placer->stretches++;
        bytes += here;
        len -= here;
    }
}

static bool is_device(const flow_t *flow, const flow_piece_t *piece)
{
    return flow->transfer->ranges[piece->range].device;
}

/* Can the owner's device reach all of the piece? Its keys are the batch's then. Keys of a piece that cannot stay, too:
 * they are not wrong. */
static bool can_place(const flow_t *flow, const flow_piece_t *piece, batch_t *batch, uint32_t *stretches_out)
{
    if (!flow->conn->rdma || (piece->len < UCXT_RDMA_MIN && !is_device(flow, piece))) {
        return false;
    }
    placer_t placer = {.regions = flow->lane->shared->regions, .batch = batch, .fits = true};
    each_stretch(flow, piece, look_for_place, &placer);
    *stretches_out = placer.stretches;
    return placer.fits && batch->stretches + placer.stretches <= UCXT_STRETCHES_MAX &&
           ucxt_stretches_fit(piece->len, placer.stretches);
}

static void add_place(batch_t *batch, uint32_t stretches)
{
    batch->placed = true;
    batch->stretches += stretches;
    batch->is_placed[batch->count / 64] |= UINT64_C(1) << (batch->count % 64);
}

static size_t places_len(const batch_t *batch)
{
    return !batch->placed ? 0
                          : UCXT_PLACES_HEADER + batch->keys_len + (size_t)batch->count * 2 +
                                (size_t)batch->stretches * UCXT_STRETCH;
}

/* ---- what a request takes ---- */

static bool add_to_fetch(const flow_t *flow, const flow_piece_t *piece, batch_t *batch)
{
    uint32_t stretches;
    if (batch->count == UCXT_FETCH_PIECES || batch->bytes + piece->len > UCXT_FETCH_BYTES) {
        return false;
    }
    if (can_place(flow, piece, batch, &stretches)) {
        add_place(batch, stretches);
    } else if (is_device(flow, piece)) {
        return false;
    }
    batch->bytes += piece->len;
    batch->count++;
    return true;
}

/* Many small stretches are cheaper to copy together than to gather. */
static bool is_packed(uint32_t stretches, uint32_t len)
{
    return stretches > UCXT_FRAME_IOVS || len / stretches < UCXT_PACK_BELOW;
}

static bool add_placed_store(const flow_piece_t *piece, batch_t *batch, uint32_t stretches)
{
    if ((batch->count > 0 && !batch->placed) || batch->count == UCXT_RDMA_PIECES ||
        batch->bytes + piece->len > UCXT_RDMA_BYTES) {
        return false;
    }
    add_place(batch, stretches);
    batch->bytes += piece->len;
    batch->count++;
    return true;
}

/* A store's bytes are all in the message, or all in places. */
static bool add_to_store(const flow_t *flow, const flow_piece_t *piece, batch_t *batch)
{
    uint32_t stretches = 0;
    if (can_place(flow, piece, batch, &stretches)) {
        return add_placed_store(piece, batch, stretches);
    }
    if (batch->placed || is_device(flow, piece)) {
        return false;
    }
    stretches = 0;
    each_stretch(flow, piece, count_stretch, &stretches);
    bool packed = is_packed(stretches, piece->len);
    /* Packed neighbours share an entry. */
    uint32_t entries = !packed ? stretches : batch->last_packed ? 0 : 1;
    uint64_t limit = ucxt_frame_limit(flow->left_len + batch->bytes); /* as it was when the message began */
    if (batch->count == UCXT_FRAME_PIECES || (batch->count > 0 && batch->bytes + piece->len > limit) ||
        batch->entries + entries > UCXT_FRAME_IOVS) {
        return false;
    }
    batch->entries += entries;
    batch->last_packed = packed;
    batch->bytes += piece->len;
    batch->packed += packed ? piece->len : 0;
    batch->count++;
    return true;
}

/* Where the bytes of a store's pieces go. */
typedef struct packer {
    ucxt_request_t *request;
    uint8_t *to;  /* for those that are copied together */
    uint32_t sum; /* of the piece */
} packer_t;

static void gather(void *arg, uint8_t *bytes, size_t len)
{
    packer_t *packer = arg;
    ucxt_request_t *request = packer->request;
    MCS_ENSURE(request->iov_count < MCS_ARRAY_LEN(request->iov));
    request->iov[request->iov_count++] = (ucp_dt_iov_t){.buffer = bytes, .length = len};
    packer->sum = mcs_crc32c(packer->sum, bytes, len);
}

static void copy_out(void *arg, uint8_t *bytes, size_t len)
{
    packer_t *packer = arg;
    packer->sum = mcs_copy_crc32c(packer->sum, packer->to, bytes, len);
    packer->to += len;
}

/* Adds the bytes of a store's piece to the gather list; their CRC. */
static uint32_t add_bytes(flow_t *flow, const flow_piece_t *piece, packer_t *packer)
{
    ucxt_request_t *request = packer->request;
    uint32_t stretches = 0;
    each_stretch(flow, piece, count_stretch, &stretches);
    packer->sum = 0;
    if (!is_packed(stretches, piece->len)) {
        each_stretch(flow, piece, gather, packer);
        return packer->sum;
    }
    uint8_t *start = packer->to;
    each_stretch(flow, piece, copy_out, packer);
    ucp_dt_iov_t *last = &request->iov[request->iov_count - 1];
    if (request->iov_count > 1 && (uint8_t *)last->buffer + last->length == start) {
        last->length += piece->len;
    } else {
        MCS_ENSURE(request->iov_count < MCS_ARRAY_LEN(request->iov));
        request->iov[request->iov_count++] = (ucp_dt_iov_t){.buffer = start, .length = piece->len};
    }
    ucxt_count(&flow->lane->shared->counters->copied_bytes, piece->len);
    return packer->sum;
}

static void sum_up(void *arg, uint8_t *bytes, size_t len)
{
    uint32_t *sum = arg;
    *sum = mcs_crc32c(*sum, bytes, len);
}

static uint32_t sum_of(const flow_t *flow, const flow_piece_t *piece)
{
    uint32_t sum = 0;
    each_stretch(flow, piece, sum_up, &sum);
    return sum;
}

static mcs_status_t answer_fetch(ucxt_request_t *base, const ucxt_header_t *header, const uint8_t *body, size_t len);
static mcs_status_t answer_store(ucxt_request_t *base, const ucxt_header_t *header, const uint8_t *body, size_t len);

static flow_request_t *request_new(flow_t *flow, const batch_t *batch)
{
    size_t pieces = (size_t)batch->count * sizeof(flow_piece_t);
    size_t records = UCXT_HEADER + (size_t)batch->count * UCXT_ACCESS;
    size_t head = records + places_len(batch);
    flow_request_t *request = mcs_malloc(sizeof(*request) + pieces + head + batch->packed);
    if (request == NULL) {
        return NULL;
    }
    request->base =
        (ucxt_request_t){.flow = flow, .answer = flow->transfer->direction == MCS_FETCH ? answer_fetch : answer_store};
    request->count = batch->count;
    request->open = batch->count;
    request->head = (uint8_t *)request->piece + pieces;
    request->places = request->head + records;
    request->pack = request->head + head;
    request->base.exposed = batch->placed;
    request->base.iov[0] = (ucp_dt_iov_t){.buffer = request->head, .length = head};
    request->base.iov_count = 1;
    return request;
}

/* The head of the places and their keys; returns what comes next. */
static uint8_t *put_keys(const batch_t *batch, uint8_t *to)
{
    mcs_store_u16(to, (uint16_t)batch->key_count);
    mcs_store_u16(to + 2, (uint16_t)batch->stretches);
    mcs_store_u32(to + 4, 0);
    to += UCXT_PLACES_HEADER;
    for (uint32_t i = 0; i < batch->key_count; i++) {
        const ucxt_window_t *window = batch->key[i];
        mcs_store_u16(to, window->rkey_len);
        memcpy(to + 2, window->rkey, window->rkey_len);
        to += 2 + (size_t)window->rkey_len;
    }
    return to;
}

/* The piece's stretches; returns what comes next. */
static uint8_t *put_place(const flow_t *flow, const flow_piece_t *piece, batch_t *batch, bool placed, uint8_t *to)
{
    placer_t placer = {.batch = batch, .out = to + 2};
    if (placed) {
        each_stretch(flow, piece, put_stretch, &placer);
    }
    mcs_store_u16(to, (uint16_t)placer.stretches);
    return to + 2 + (size_t)placer.stretches * UCXT_STRETCH;
}

/* Takes the pieces from the cursor on. */
static void fill(flow_t *flow, flow_request_t *request, batch_t *batch)
{
    packer_t packer = {.request = &request->base, .to = request->pack};
    uint8_t *places = batch->placed ? put_keys(batch, request->places) : NULL;
    for (uint32_t i = 0; i < request->count; i++) {
        flow_piece_t *piece = &request->piece[i];
        peek(flow, piece);
        mcs_range_t *range = &flow->transfer->ranges[piece->range];
        mcs_access_t access = range->access;
        range->sent = true;
        access.from = piece->from;
        access.len = piece->len;
        uint32_t crc = 0;
        if (batch->placed) {
            places = put_place(flow, piece, batch, batch_has_place(batch, i), places);
        }
        if (flow->transfer->direction == MCS_STORE && range->device) {
            crc = range->crcs[piece->crc];
        } else if (flow->transfer->direction == MCS_STORE) {
            crc = batch->placed ? sum_of(flow, piece) : add_bytes(flow, piece, &packer);
            if (range->crcs != NULL) {
                add_sum(flow, piece, range->crcs, crc);
            }
        }
        ucxt_access_encode(&access, crc, request->head + UCXT_HEADER + (size_t)i * UCXT_ACCESS);
        advance(flow, piece);
    }
}

/* The piece at the cursor is of a device and cannot be placed: what is still to be sent of its range is not. */
static void refuse_range(flow_t *flow)
{
    flow_piece_t piece;
    peek(flow, &piece);
    const uint32_t at = piece.range;
    mcs_range_t *range = &flow->transfer->ranges[at];
    if (range->status == MCS_OK) {
        range->status = MCS_ERR_NOT_SUPPORTED;
    }
    for (;;) {
        advance(flow, &piece);
        flow->left[at]--;
        if (flow->at == range->access.len) {
            break;
        }
        peek(flow, &piece);
    }
    if (flow->left[at] == 0) {
        flow->ranges_open--;
    }
}

mcs_status_t ucxt_flow_next(flow_t *flow, uint32_t wait_ms, flow_request_t **request_out)
{
    flow_t cursor = *flow; /* a dry run says how much memory it takes */
    *request_out = NULL;
    batch_t batch = {0};
    const bool fetch = flow->transfer->direction == MCS_FETCH;
    while (cursor.unsent > 0) {
        flow_piece_t piece;
        peek(&cursor, &piece);
        bool added = fetch ? add_to_fetch(&cursor, &piece, &batch) : add_to_store(&cursor, &piece, &batch);
        if (!added && batch.count == 0) {
            MCS_ENSURE(is_device(flow, &piece));
            refuse_range(flow);
            return MCS_OK;
        }
        if (!added) {
            break;
        }
        advance(&cursor, &piece);
    }
    flow_request_t *request = request_new(flow, &batch);
    if (request == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    fill(flow, request, &batch);
    if (!fetch && !batch.placed) {
        ucxt_calm_sent(&flow->lane->calm, batch.bytes);
    }
    ucxt_conn_add(flow->conn, &request->base);
    flow->requests++;
    ucxt_header_t header = {
        .kind = fetch          ? batch.placed ? UCXT_FETCH_RDMA : UCXT_FETCH
                : batch.placed ? UCXT_STORE_RDMA
                               : UCXT_STORE,
        .conn = flow->conn->auth.owner_conn,
        .request = request->base.id,
        .count = request->count,
        .value = wait_ms,
    };
    ucxt_header_encode(&header, request->head);
    *request_out = request;
    return MCS_OK;
}

/* ---- answers ---- */

static void request_over(flow_t *flow, flow_request_t *request)
{
    if (request->open == 0) {
        flow->requests--;
        ucxt_request_concealed(&request->base);
        ucxt_request_done(&request->base);
    }
}

/* An owner whose device does not get here says so of the whole request: the next go in messages. */
static void note_refusal(const flow_request_t *request, mcs_status_t status)
{
    const flow_t *flow = request->base.flow;
    if (request->base.exposed && status == MCS_ERR_TRANSFER_FAIL) {
        flow->conn->rdma = false;
    }
}

static mcs_status_t answer_refused(flow_request_t *request, const ucxt_header_t *header)
{
    flow_t *flow = request->base.flow;
    mcs_status_t status;
    if (ucxt_status_decode(header->value, &status) != MCS_OK || status == MCS_OK) {
        return MCS_ERR_PROTOCOL;
    }
    note_refusal(request, status);
    for (uint32_t i = 0; i < request->count; i++) {
        if (!request->piece[i].done) {
            piece_done(flow, request, &request->piece[i], status);
        }
    }
    request_over(flow, request);
    return MCS_OK;
}

/* Do the records and the bytes of an answer agree with each other and with what was asked? Bytes that are in their
 * places are not in the message; a device's are never. */
static bool pieces_agree(const flow_request_t *request, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    uint32_t first = header->value;
    uint32_t count = header->count;
    if (count == 0 || first >= request->count || count > request->count - first || len < (size_t)count * UCXT_PIECE) {
        return false;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        mcs_status_t status;
        uint32_t crc;
        if (request->piece[first + i].done ||
            ucxt_piece_decode(body + (size_t)i * UCXT_PIECE, &status, &crc) != MCS_OK) {
            return false;
        }
        if (status == MCS_OK && header->kind == UCXT_PIECES) {
            if (is_device(request->base.flow, &request->piece[first + i])) {
                return false;
            }
            bytes += request->piece[first + i].len;
        }
    }
    return bytes == len - (size_t)count * UCXT_PIECE;
}

typedef struct reader {
    const uint8_t *from;
    uint32_t (*copy)(uint32_t crc, void *dst, const void *src, size_t len);
    uint32_t sum;
} reader_t;

static void copy_in(void *arg, uint8_t *bytes, size_t len)
{
    reader_t *reader = arg;
    reader->sum = reader->copy(reader->sum, bytes, reader->from, len);
    reader->from += len;
}

/* The bytes of a piece; `crc` is what the owner says of the block that it starts. Without a reader they are in their
 * place, and are only summed. */
static void take_piece(flow_t *flow, const flow_piece_t *piece, uint32_t crc, reader_t *reader)
{
    mcs_range_t *range = &flow->transfer->ranges[piece->range];
    uint32_t sum = 0;
    if (reader != NULL) {
        reader->sum = 0;
        each_stretch(flow, piece, copy_in, reader);
        sum = reader->sum;
    } else if (piece->crc != NO_CRC && range->sums != NULL) {
        sum = sum_of(flow, piece);
    }
    if (piece->crc == NO_CRC) {
        return;
    }
    if (piece->from % MCS_CRC_BLOCK == 0) {
        range->crcs[piece->crc] = crc;
    }
    if (range->sums != NULL) {
        add_sum(flow, piece, range->sums, sum);
    }
}

static mcs_status_t answer_fetch(ucxt_request_t *base, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    flow_request_t *request = MCS_CONTAINER_OF(base, flow_request_t, base);
    flow_t *flow = base->flow;
    if (header->kind == UCXT_REFUSED) {
        return answer_refused(request, header);
    }
    const bool placed = header->kind == UCXT_PLACED && base->exposed;
    if ((header->kind != UCXT_PIECES && !placed) || !pieces_agree(request, header, body, len)) {
        return MCS_ERR_PROTOCOL;
    }
    reader_t reader = {.from = body + (size_t)header->count * UCXT_PIECE,
                       .copy = flow->stream ? mcs_stream_crc32c : mcs_copy_crc32c};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < header->count; i++) {
        flow_piece_t *piece = &request->piece[header->value + i];
        mcs_status_t status;
        uint32_t crc;
        mcs_status_t known = ucxt_piece_decode(body + (size_t)i * UCXT_PIECE, &status, &crc);
        MCS_ENSURE(known == MCS_OK);
        if (status == MCS_OK) {
            take_piece(flow, piece, crc, placed ? NULL : &reader);
            bytes += piece->len;
        }
        piece_done(flow, request, piece, status);
    }
    mcs_stream_fence();
    ucxt_count(&flow->lane->shared->counters->fetched_bytes, bytes);
    ucxt_count(placed ? &flow->lane->shared->counters->rdma_bytes : &flow->lane->shared->counters->copied_bytes, bytes);
    request_over(flow, request);
    return MCS_OK;
}

/* All pieces have their status, and UCX reads the caller's memory no more. */
static void finish_store(ucxt_request_t *base)
{
    flow_request_t *request = MCS_CONTAINER_OF(base, flow_request_t, base);
    flow_t *flow = base->flow;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < request->count; i++) {
        mcs_status_t status = request->piece[i].stored;
        bytes += status == MCS_OK ? request->piece[i].len : 0;
        piece_done(flow, request, &request->piece[i], status);
    }
    ucxt_count(&flow->lane->shared->counters->stored_bytes, bytes);
    if (base->exposed) {
        ucxt_count(&flow->lane->shared->counters->rdma_bytes, bytes);
    }
    request_over(flow, request);
}

/* The answer may be here before UCX says that the message has left: a device tells in another order, and an owner may
 * lie. Until then UCX may read the caller's memory, and the transfer goes on. */
static mcs_status_t answer_store(ucxt_request_t *base, const ucxt_header_t *header, const uint8_t *body, size_t len)
{
    flow_request_t *request = MCS_CONTAINER_OF(base, flow_request_t, base);
    if (header->kind == UCXT_REFUSED && !base->sending) {
        return answer_refused(request, header);
    }
    if (base->sent != NULL || (header->kind != UCXT_STORED && header->kind != UCXT_REFUSED)) {
        return MCS_ERR_PROTOCOL; /* a second answer, or none of a store */
    }
    bool refused = header->kind == UCXT_REFUSED;
    if (!refused && (header->count != request->count || len != (size_t)request->count * 4)) {
        return MCS_ERR_PROTOCOL;
    }
    for (uint32_t i = 0; i < request->count; i++) {
        uint32_t value = refused ? header->value : mcs_load_u32(body + (size_t)i * 4);
        if (ucxt_status_decode(value, &request->piece[i].stored) != MCS_OK || (refused && value == (uint32_t)MCS_OK)) {
            return MCS_ERR_PROTOCOL;
        }
    }
    if (refused) {
        note_refusal(request, request->piece[0].stored);
    }
    if (base->sending) {
        base->sent = finish_store;
    } else {
        finish_store(base);
    }
    return MCS_OK;
}
