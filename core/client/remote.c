/* Moves through the transport: see move.h.
 *
 * Each move is cut into ranges of at most MCS_RANGE_MAX bytes at multiples of the CRC block; the ranges of
 * one owner make one transfer; all transfers run at once. A range points straight into the caller's memory. Only a
 * range of more than MCS_RANGE_IOV_MAX fragments within a single CRC block (fragments of less than 256 bytes) goes
 * through a piece of memory of its own. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/interrupt.h"
#include "core/client/move.h"

#define AREA "client"

typedef struct piece {
    mcs_move_t *move;
    struct iovec *iov;  /* of the range, in the arena */
    uint8_t *staged;    /* heap; NULL: the range uses the caller's memory */
    struct iovec whole; /* `staged` as the one fragment of the range */
} piece_t;

typedef struct plan {
    mcs_client_t *client;
    mcs_direction_t direction;
    mcs_arena_t *arena;
    mcs_move_t **moves; /* by owner */
    size_t move_count;
    mcs_range_t *ranges;
    piece_t *pieces; /* one per range */
    size_t range_count;
    size_t range_room;
    mcs_transfer_t *transfers;
    uint32_t transfer_count;
} plan_t;

static int by_owner(const void *a, const void *b)
{
    const mcs_peer_t *x = (*(mcs_move_t *const *)a)->route->peer;
    const mcs_peer_t *y = (*(mcs_move_t *const *)b)->route->peer;
    if (x->owner.hi != y->owner.hi) {
        return x->owner.hi < y->owner.hi ? -1 : 1;
    }
    if (x->owner.lo != y->owner.lo) {
        return x->owner.lo < y->owner.lo ? -1 : 1;
    }
    return 0;
}

/* ---- ranges ---- */

/* Fragments of the next `len` bytes; stops counting above `max`. */
static size_t fragments(mcs_cursor_t cursor, uint64_t len, size_t max)
{
    size_t n = 0;
    uint8_t *bytes;
    while (len > 0 && n <= max) {
        len -= mcs_cursor_next(&cursor, len, &bytes);
        n++;
    }
    return n;
}

/* How long the next range, from `from` on, may be: up to a block's end at most MCS_RANGE_MAX away, or fewer blocks when
 * the memory is in too many fragments. */
static uint64_t range_len(const mcs_cursor_t *cursor, uint64_t from, uint64_t left)
{
    uint64_t into_block = from % MCS_EXTENT_CRC_BLOCK;
    uint64_t len = MCS_MIN(left, MCS_RANGE_MAX - into_block);
    while (len > MCS_EXTENT_CRC_BLOCK && fragments(*cursor, len, MCS_RANGE_IOV_MAX) > MCS_RANGE_IOV_MAX) {
        len = MCS_EXTENT_CRC_BLOCK * MCS_MAX(len / MCS_EXTENT_CRC_BLOCK / 2, (uint64_t)1) - into_block;
    }
    return len;
}

static mcs_status_t stage(plan_t *plan, piece_t *piece, mcs_range_t *range, mcs_cursor_t *cursor, uint64_t len)
{
    piece->staged = mcs_malloc((size_t)len);
    if (piece->staged == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    piece->whole = (struct iovec){piece->staged, (size_t)len};
    range->iov = &piece->whole;
    range->iov_count = 1;
    uint8_t *bytes;
    for (uint64_t done = 0; done < len;) {
        size_t n = mcs_cursor_next(cursor, len - done, &bytes);
        if (plan->direction == MCS_STORE) {
            memcpy(piece->staged + done, bytes, n);
        }
        done += n;
    }
    return MCS_OK;
}

static mcs_status_t set_memory(plan_t *plan, piece_t *piece, mcs_range_t *range, mcs_cursor_t *cursor, uint64_t len)
{
    size_t count = fragments(*cursor, len, MCS_RANGE_IOV_MAX);
    if (count > MCS_RANGE_IOV_MAX && range->device) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    if (count > MCS_RANGE_IOV_MAX) {
        return stage(plan, piece, range, cursor, len);
    }
    piece->iov = mcs_arena_alloc(plan->arena, count * sizeof(*piece->iov));
    if (piece->iov == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    uint8_t *bytes;
    for (size_t i = 0; i < count; i++) {
        size_t n = mcs_cursor_next(cursor, len, &bytes);
        piece->iov[i] = (struct iovec){bytes, n};
        len -= n;
    }
    range->iov = piece->iov;
    range->iov_count = (uint32_t)count;
    return MCS_OK;
}

static mcs_status_t add_range(plan_t *plan, mcs_move_t *move, uint64_t from, mcs_cursor_t *cursor, uint64_t *len_out)
{
    MCS_ENSURE(plan->range_count < plan->range_room);
    uint64_t len = range_len(cursor, from, move->from + move->len - from);
    /* One for each block that starts in the range. */
    uint64_t first_block = mcs_extent_block_count(from);
    uint32_t crc_count = (uint32_t)(mcs_extent_block_count(from + len) - first_block);
    mcs_range_t *range = &plan->ranges[plan->range_count];
    piece_t *piece = &plan->pieces[plan->range_count];
    memset(range, 0, sizeof(*range));
    memset(piece, 0, sizeof(*piece));
    range->access = (mcs_access_t){
        .session = move->session,
        .instance = move->route->peer->instance,
        .offset = move->replica->offset,
        .generation = move->replica->generation,
        .payload_len = move->payload_len,
        .from = from,
        .len = len,
        .key_hash = move->key_hash,
        .mac = move->replica->mac,
    };
    mcs_status_t status = MCS_OK;
    range->device = move->direct;
    if (move->direct) {
        range->crcs = move->crcs + (first_block - move->from / MCS_EXTENT_CRC_BLOCK);
    } else if (plan->direction == MCS_FETCH) {
        range->crcs = mcs_arena_alloc(plan->arena, 2 * MCS_MAX(crc_count, 1u) * sizeof(uint32_t));
        range->sums = range->crcs + crc_count;
        status = range->crcs == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    } else if (move->crcs != NULL) {
        range->crcs = move->crcs + from / MCS_EXTENT_CRC_BLOCK;
    }
    range->crc_count = crc_count;
    range->status = MCS_ERR_TRANSFER_FAIL;
    piece->move = move;
    status = status == MCS_OK ? set_memory(plan, piece, range, cursor, len) : status;
    if (status == MCS_OK) {
        plan->range_count++;
        *len_out = len;
    }
    return status;
}

static void drop_staged(piece_t *piece)
{
    mcs_free(piece->staged);
    piece->staged = NULL;
}

/* The ranges of one move, or none of them. */
static mcs_status_t add_move(plan_t *plan, mcs_move_t *move)
{
    size_t first = plan->range_count;
    mcs_cursor_t cursor = mcs_cursor(move->iov, move->iov_count);
    mcs_status_t status = MCS_OK;
    uint64_t len;
    for (uint64_t from = move->from; status == MCS_OK && from < move->from + move->len; from += len) {
        status = add_range(plan, move, from, &cursor, &len);
        if (status != MCS_OK) {
            break;
        }
    }
    while (status != MCS_OK && plan->range_count > first) {
        drop_staged(&plan->pieces[--plan->range_count]);
    }
    return status;
}

/* ---- the plan ---- */

/* How many ranges at most: shorter ranges come only from memory in very many fragments. */
static size_t range_room(const mcs_move_t *move)
{
    uint64_t bytes = move->from % MCS_EXTENT_CRC_BLOCK + move->len;
    return (size_t)(move->iov_count > MCS_RANGE_IOV_MAX / 2 ? mcs_extent_block_count(bytes)
                                                            : (bytes + MCS_RANGE_MAX - 1) / MCS_RANGE_MAX);
}

static mcs_status_t make_plan(plan_t *plan, mcs_move_t *moves, size_t count)
{
    plan->moves = mcs_arena_alloc(plan->arena, count * sizeof(mcs_move_t *));
    if (plan->moves == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        if (moves[i].status == MCS_ERR_AGAIN && moves[i].devices == NULL) {
            plan->moves[plan->move_count++] = &moves[i];
            plan->range_room += range_room(&moves[i]);
        }
    }
    qsort(plan->moves, plan->move_count, sizeof(mcs_move_t *), by_owner);
    plan->ranges = mcs_arena_alloc(plan->arena, plan->range_room * sizeof(mcs_range_t));
    plan->pieces = mcs_arena_alloc(plan->arena, plan->range_room * sizeof(piece_t));
    plan->transfers = mcs_arena_alloc(plan->arena, plan->move_count * sizeof(mcs_transfer_t));
    return plan->ranges == NULL || plan->pieces == NULL || plan->transfers == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
}

static void fill_plan(plan_t *plan)
{
    const mcs_peer_t *last = NULL;
    for (size_t i = 0; i < plan->move_count; i++) {
        mcs_move_t *move = plan->moves[i];
        const mcs_peer_t *peer = move->route->peer;
        size_t first = plan->range_count;
        move->status = add_move(plan, move);
        if (move->status != MCS_OK) {
            continue;
        }
        if (last == NULL || !mcs_id_equal(last->owner, peer->owner)) {
            plan->transfers[plan->transfer_count++] = (mcs_transfer_t){.owner = peer->owner,
                                                                       .endpoint = &peer->endpoint,
                                                                       .direction = plan->direction,
                                                                       .ranges = &plan->ranges[first]};
            last = peer;
        }
        plan->transfers[plan->transfer_count - 1].range_count += (uint32_t)(plan->range_count - first);
    }
}

/* ---- the result ---- */

/* The blocks that were read whole. */
static mcs_status_t verify(const mcs_range_t *range)
{
    const mcs_access_t *access = &range->access;
    uint64_t from = MCS_ALIGN_UP(access->from, MCS_EXTENT_CRC_BLOCK);
    for (uint32_t i = 0; i < range->crc_count; i++, from += MCS_EXTENT_CRC_BLOCK) {
        uint64_t block = MCS_MIN(access->payload_len - from, MCS_EXTENT_CRC_BLOCK);
        if (from + block > access->from + access->len) {
            break;
        }
        if (range->sums[i] != range->crcs[i]) {
            return MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
    return MCS_OK;
}

static void scatter(mcs_client_t *client, const piece_t *piece, const mcs_range_t *range)
{
    mcs_cursor_t target = mcs_cursor(piece->move->iov, piece->move->iov_count);
    mcs_cursor_skip(&target, range->access.from - piece->move->from);
    uint8_t *bytes;
    for (uint64_t done = 0; done < range->access.len;) {
        size_t n = mcs_cursor_next(&target, range->access.len - done, &bytes);
        memcpy(bytes, piece->staged + done, n);
        done += n;
    }
    mcs_count(&client->counters, bytes_copied, range->access.len);
}

/* Whether the owner said so itself; otherwise nobody knows what it has received. */
static bool answered(mcs_status_t status)
{
    return status == MCS_OK ||
           (mcs_status_scope(status) != MCS_SCOPE_PEER && status != MCS_ERR_RPC_TIMEOUT && status != MCS_ERR_CLOSED);
}

static void take_range(plan_t *plan, size_t i)
{
    mcs_range_t *range = &plan->ranges[i];
    piece_t *piece = &plan->pieces[i];
    mcs_move_t *move = piece->move;
    mcs_status_t status = range->status;
    move->in_doubt = move->in_doubt || (plan->direction == MCS_STORE && !answered(status));
    move->begun = move->begun || range->sent;
    if (status == MCS_OK && plan->direction == MCS_FETCH && !move->direct) {
        status = verify(range);
        if (status == MCS_OK && piece->staged != NULL) {
            scatter(plan->client, piece, range);
        }
    } else if (status == MCS_OK && piece->staged != NULL) {
        mcs_count(&plan->client->counters, bytes_copied, range->access.len);
    }
    if (status == MCS_ERR_CLOSED && mcs_interrupt_seen()) {
        status = MCS_ERR_INTERRUPTED;
    }
    if (status != MCS_OK && move->status == MCS_OK) {
        move->status = status;
    }
    drop_staged(piece);
}

static void count_moved(const plan_t *plan)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < plan->move_count; i++) {
        bytes += plan->moves[i]->status == MCS_OK ? plan->moves[i]->len : 0;
    }
    if (plan->direction == MCS_STORE) {
        mcs_count(&plan->client->counters, bytes_stored, bytes);
    } else {
        mcs_count(&plan->client->counters, bytes_fetched, bytes);
    }
}

void mcs_moves_run_remote(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                          uint64_t deadline_ns, mcs_arena_t *arena)
{
    plan_t plan = {.client = client, .direction = direction, .arena = arena};
    mcs_status_t status = mcs_client_check(client);
    if (status == MCS_OK && direction == MCS_STORE && mcs_deadline_passed(deadline_ns)) {
        status = MCS_ERR_REPLICA_IS_GONE; /* the reservation has run out (rule 6) */
    }
    if (status == MCS_OK) {
        status = make_plan(&plan, moves, count);
    }
    if (status != MCS_OK) {
        for (size_t i = 0; i < count; i++) {
            moves[i].status = moves[i].status == MCS_ERR_AGAIN ? status : moves[i].status;
        }
        return;
    }
    fill_plan(&plan);
    if (plan.transfer_count > 0) {
        status = client->transport_ops->transfer(client->transport, plan.transfers, plan.transfer_count, deadline_ns);
        if (status != MCS_OK) {
            mcs_debug(AREA, "no transfer started: %s", mcs_status_name(status));
        }
    }
    for (size_t i = 0; i < plan.range_count; i++) {
        if (status != MCS_OK && plan.ranges[i].status == MCS_OK) {
            plan.ranges[i].status = status;
        }
        take_range(&plan, i);
    }
    count_moved(&plan);
}
