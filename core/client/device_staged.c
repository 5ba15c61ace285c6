/* Moves between device memory and the transport, through pinned chunks: see move.h, device.h.
 *
 *   store   device -> chunk A | A -> owner, summed | …           while chunk B is filled by the device
 *   fetch   owner -> chunk A  | A -> device, checked | …       while chunk B comes from the owner
 *
 * A load is what one chunk takes: parts of moves, cut at blocks of the CRC, as ordinary moves of host memory that
 * remote.c runs. Two loads take turns, so that the device's copies and the network overlap; where only one chunk can be
 * had they follow each other. A load's memory is the chunk's again only when neither the device nor the transport uses
 * it. */
#include <string.h>

#include "core/base/log.h"
#include "core/client/device.h"

#define AREA     "client"
#define SUBS_MAX 512
#define ALIGN    UINT64_C(64)

typedef struct load {
    uint8_t *chunk;
    mcs_move_t *subs; /* SUBS_MAX: parts, with the chunk as their memory */
    mcs_move_t **of;  /* the move of each */
    size_t count;
    mcs_mem_piece_t *pieces;
    size_t piece_room;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job; /* NULL: none runs */
} load_t;

typedef struct stage {
    mcs_client_t *client;
    mcs_direction_t direction;
    mcs_arena_t *arena;
    uint64_t deadline_ns;
    mcs_move_t **moves; /* those that are to be staged */
    size_t count;
    size_t next;   /* the move at hand */
    uint64_t done; /* bytes of it that are in loads */
    load_t loads[2];
} stage_t;

static void fail(mcs_move_t *move, mcs_status_t status, bool of_caller)
{
    if (move->status == MCS_OK) {
        move->status = status;
        move->of_caller = of_caller;
    }
}

/* ---- loads ---- */

/* Bytes of the next part: whole blocks, or what is left, or up to the first block's edge. 0: not into this load. */
static uint64_t part_len(const mcs_move_t *move, uint64_t from, uint64_t room)
{
    uint64_t left = move->from + move->len - from;
    if (left <= room) {
        return left;
    }
    uint64_t edge = MCS_ALIGN_DOWN(from + room, MCS_EXTENT_CRC_BLOCK);
    return edge > from ? edge - from : 0;
}

static void add_part(load_t *load, mcs_move_t *move, uint64_t from, uint64_t len, uint8_t *memory)
{
    mcs_move_t *sub = &load->subs[load->count];
    *sub = *move;
    sub->from = from;
    sub->len = len;
    sub->piece = (struct iovec){memory, (size_t)len};
    sub->iov = &sub->piece;
    sub->iov_count = 1;
    sub->devices = NULL;
    sub->status = MCS_ERR_AGAIN;
    sub->in_doubt = false;
    load->of[load->count++] = move;
}

/* The next parts, as many as the chunk takes. */
static void fill(stage_t *stage, load_t *load)
{
    uint64_t used = 0;
    load->count = 0;
    while (stage->next < stage->count && load->count < SUBS_MAX) {
        mcs_move_t *move = stage->moves[stage->next];
        if (move->status == MCS_OK) {
            uint64_t room = MCS_MEM_STAGE_BYTES - used;
            uint64_t len = room > 0 ? part_len(move, move->from + stage->done, room) : 0;
            if (len == 0) {
                return;
            }
            add_part(load, move, move->from + stage->done, len, load->chunk + used);
            used = MCS_ALIGN_UP(used + len, ALIGN);
            stage->done += len;
        }
        if (move->status != MCS_OK || stage->done == move->len) {
            stage->next++;
            stage->done = 0;
        }
    }
}

/* Pieces of those parts whose move has not failed. */
static mcs_status_t plan_copy(stage_t *stage, load_t *load)
{
    size_t n = 0;
    for (size_t i = 0; i < load->count; i++) {
        n += load->of[i]->iov_count;
    }
    if (n > load->piece_room) {
        load->pieces = mcs_arena_alloc(stage->arena, n * sizeof(*load->pieces));
        load->piece_room = load->pieces != NULL ? n : 0;
        if (load->pieces == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
    }
    n = 0;
    for (size_t i = 0; i < load->count; i++) {
        const mcs_move_t *sub = &load->subs[i];
        if (load->of[i]->status != MCS_OK) {
            continue;
        }
        mcs_device_cursor_t cursor = mcs_device_cursor(load->of[i], sub->from - load->of[i]->from);
        for (uint64_t done = 0; done < sub->len;) {
            mcs_mem_piece_t *piece = &load->pieces[n++];
            piece->host = (uint8_t *)sub->piece.iov_base + done;
            piece->block = MCS_MEM_NO_BLOCK;
            piece->len = mcs_device_next(&cursor, sub->len - done, &piece->user, &piece->device);
            MCS_ENSURE(piece->len > 0);
            done += piece->len;
        }
    }
    load->copy = (mcs_mem_copy_t){.to_user = stage->direction == MCS_FETCH, .pieces = load->pieces, .count = n};
    return MCS_OK;
}

static void fail_load(load_t *load, mcs_status_t status, bool of_caller)
{
    for (size_t i = 0; i < load->count; i++) {
        fail(load->of[i], status, of_caller);
    }
}

static void begin_copy(stage_t *stage, load_t *load)
{
    const mcs_mem_space_ops_t *ops = stage->client->space_ops;
    bool ignored;
    mcs_status_t status = plan_copy(stage, load);
    bool of_caller = false;
    if (status == MCS_OK && load->copy.count > 0) {
        status = ops->copy_begin(stage->client->space, &load->copy, &load->job, &ignored);
        of_caller = status != MCS_OK;
        load->job = status == MCS_OK ? load->job : NULL;
    }
    if (status != MCS_OK) {
        fail_load(load, status, of_caller);
    }
}

static void end_copy(stage_t *stage, load_t *load)
{
    if (load->job == NULL) {
        return;
    }
    mcs_status_t status = stage->client->space_ops->copy_end(stage->client->space, load->job);
    load->job = NULL;
    if (status != MCS_OK) {
        fail_load(load, status, true);
        return;
    }
    for (size_t i = 0; i < load->count; i++) {
        if (load->of[i]->status == MCS_OK) {
            mcs_count(&stage->client->counters, bytes_staged, load->subs[i].len);
        }
    }
}

/* ---- the network ---- */

static void transfer(stage_t *stage, load_t *load)
{
    size_t n = 0;
    for (size_t i = 0; i < load->count; i++) {
        if (load->of[i]->status == MCS_OK) {
            load->subs[n] = load->subs[i];
            load->subs[n].iov = &load->subs[n].piece;
            load->of[n++] = load->of[i];
        }
    }
    load->count = n;
    if (n == 0) {
        return;
    }
    mcs_moves_run_remote(stage->client, stage->direction, load->subs, n, stage->deadline_ns, stage->arena);
    for (size_t i = 0; i < n; i++) {
        load->of[i]->in_doubt = load->of[i]->in_doubt || load->subs[i].in_doubt;
        if (load->subs[i].status != MCS_OK) {
            fail(load->of[i], load->subs[i].status, false);
        }
    }
}

/* ---- the course ---- */

static void store_all(stage_t *stage)
{
    load_t *now = &stage->loads[0];
    load_t *next = &stage->loads[stage->loads[1].chunk != NULL ? 1 : 0];
    fill(stage, now);
    begin_copy(stage, now);
    while (now->count > 0) {
        end_copy(stage, now);
        if (next != now) {
            fill(stage, next);
            begin_copy(stage, next); /* runs during the transfer */
        }
        transfer(stage, now);
        if (next == now) {
            fill(stage, now);
            begin_copy(stage, now);
        } else {
            load_t *swap = now;
            now = next;
            next = swap;
        }
    }
}

static void fetch_all(stage_t *stage)
{
    load_t *now = &stage->loads[0];
    load_t *other = &stage->loads[stage->loads[1].chunk != NULL ? 1 : 0];
    for (;;) {
        fill(stage, now);
        if (now->count == 0) {
            break;
        }
        transfer(stage, now); /* while the other's copy runs */
        end_copy(stage, other);
        begin_copy(stage, now);
        if (other == now) {
            end_copy(stage, now);
        } else {
            load_t *swap = now;
            now = other;
            other = swap;
        }
    }
    end_copy(stage, other);
}

/* Once for a client that asked for RDMA, whose device would reach GPU memory by itself (GPUDirect). Where buffers are
 * registered and cannot be opened to it, somebody else has said so. */
static void warn_of_the_way(mcs_client_t *client)
{
    if (!client->wants_rdma || __atomic_load_n(&client->device_exposed, __ATOMIC_RELAXED) ||
        __atomic_exchange_n(&client->stage_warned, true, __ATOMIC_RELAXED)) {
        return;
    }
    mcs_warn(AREA, "GPU memory goes to other hosts through pinned host memory, not by GPUDirect: %s%s",
             client->rdma ? "no GPU buffer is registered that RDMA devices may reach" : "the data plane is ",
             client->rdma ? "" : client->protocol);
}

static mcs_status_t open_loads(stage_t *stage)
{
    const mcs_mem_space_ops_t *ops = stage->client->space_ops;
    mcs_status_t status = mcs_client_check(stage->client);
    warn_of_the_way(stage->client);
    for (size_t i = 0; status == MCS_OK && i < MCS_ARRAY_LEN(stage->loads); i++) {
        load_t *load = &stage->loads[i];
        load->chunk = ops->stage_get(stage->client->space, i == 0, stage->deadline_ns);
        load->subs = mcs_arena_alloc(stage->arena, SUBS_MAX * sizeof(*load->subs));
        load->of = mcs_arena_alloc(stage->arena, SUBS_MAX * sizeof(*load->of));
        if (load->subs == NULL || load->of == NULL || (i == 0 && load->chunk == NULL)) {
            status = MCS_ERR_NO_MEMORY;
        }
        if (load->chunk != NULL && stage->client->rdma) {
            stage->client->transport_ops->expose(stage->client->transport, load->chunk, MCS_MEM_STAGE_BYTES,
                                                 MCS_EXPOSED_AHEAD);
        }
    }
    return status;
}

static void close_loads(stage_t *stage)
{
    for (size_t i = 0; i < MCS_ARRAY_LEN(stage->loads); i++) {
        if (stage->loads[i].chunk != NULL) {
            stage->client->space_ops->stage_put(stage->client->space, stage->loads[i].chunk);
        }
    }
}

/* Those that nothing has moved yet; their status is OK from here on until they fail. */
static mcs_status_t collect(stage_t *stage, mcs_move_t *moves, size_t count)
{
    stage->moves = mcs_arena_alloc(stage->arena, count * sizeof(mcs_move_t *));
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        if (move->devices == NULL || move->status != MCS_ERR_AGAIN) {
            continue;
        }
        move->status = stage->moves != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
        if (stage->moves != NULL) {
            stage->moves[stage->count++] = move;
        }
    }
    return stage->moves != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
}

void mcs_moves_run_device_staged(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena)
{
    stage_t stage = {
        .client = client,
        .direction = direction,
        .arena = arena,
        .deadline_ns = deadline_ns,
    };
    if (collect(&stage, moves, count) != MCS_OK) {
        return;
    }
    mcs_status_t status = open_loads(&stage);
    if (status == MCS_OK && direction == MCS_STORE) {
        store_all(&stage);
    } else if (status == MCS_OK) {
        fetch_all(&stage);
    }
    close_loads(&stage);
    for (size_t i = 0; i < stage.count; i++) {
        mcs_move_t *move = stage.moves[i];
        if (status != MCS_OK) {
            fail(move, status, false);
        }
    }
}
