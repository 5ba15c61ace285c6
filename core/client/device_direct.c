/* Moves between device memory and other hosts without a copy (GPUDirect): see move.h, device.h.
 *
 *   store   summed by its device | read by the owner's RDMA device, summed by the owner
 *   fetch   written by the owner's RDMA device | summed by its device, compared with the owner's sums
 *
 * For memory in registered buffers that RDMA devices reach. What cannot go like this stays as it was, for
 * device_staged.c: small values, fragments that are too small, memory of two devices, what is still being registered,
 * an owner without RDMA.
 *
 * So does a fetch that fails on the way, or whose bytes are not what the owner says: what can be had, can be had by the
 * other way. A store has begun then, and cannot begin again in its place: it is put once more. After any of this the
 * owner is given device memory by the other way alone for a while; and every owner, when the device makes no sums. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/client/device_wave.h"

#define AREA       "client"
#define VALUE_MIN  (16 * MCS_KIB) /* shorter ones are cheaper through a chunk */
#define PIECES_MAX ((size_t)4096) /* of one sum: so that a device has room for it */
#define COOL_MS    30000

typedef struct direct {
    mcs_client_t *client;
    mcs_direction_t direction;
    mcs_arena_t *arena;
    mcs_pinned_t *list; /* moves that go, without pins */
    size_t count;
} direct_t;

static bool is_on(const mcs_client_t *client)
{
    /* Relaxed: a hint; the registrations have a lock of their own. */
    return client->rdma && __atomic_load_n(&client->device_exposed, __ATOMIC_RELAXED);
}

static bool can_go(const mcs_client_t *client, const mcs_move_t *move)
{
    return move->status == MCS_ERR_AGAIN && move->devices != NULL && move->len >= VALUE_MIN &&
           mcs_wave_pieces(move) <= PIECES_MAX &&
           __atomic_load_n(&move->route->peer->direct_from_ns, __ATOMIC_RELAXED) <= mcs_now_ns() &&
           client->transport_ops->reaches(client->transport, move->iov, move->from, move->len);
}

/* Failed: not because the owner has no RDMA. */
static void cool(const mcs_move_t *move, mcs_client_t *client, bool failed)
{
    /* Relaxed: a hint. */
    __atomic_store_n(&move->route->peer->direct_from_ns, mcs_deadline_after_ms(COOL_MS), __ATOMIC_RELAXED);
    if (failed && !__atomic_exchange_n(&client->direct_warned, true, __ATOMIC_RELAXED)) {
        mcs_warn(AREA,
                 "GPU memory did not go by the RDMA device of %s, or its checksums do not fit: it goes through pinned "
                 "host memory, and is tried again every %d s",
                 move->route->peer->name, COOL_MS / 1000);
    }
}

/* What registration made sure of is not so: bytes would go over the network twice. */
static void switch_off(mcs_client_t *client, int device)
{
    if (__atomic_exchange_n(&client->device_exposed, false, __ATOMIC_RELAXED)) {
        mcs_warn(AREA, "cuda:%d makes no checksums: GPU memory goes through pinned host memory from now on", device);
    }
}

/* ---- which ---- */

static mcs_status_t add(direct_t *direct, mcs_move_t *move, int device)
{
    uint64_t from = move->from / MCS_EXTENT_CRC_BLOCK;
    uint64_t blocks = mcs_extent_block_count(move->from + move->len) - from;
    uint32_t *crcs = move->crcs;
    if (crcs == NULL || direct->direction == MCS_FETCH) {
        crcs = mcs_arena_alloc(direct->arena, (size_t)blocks * sizeof(*crcs));
    }
    if (crcs == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    direct->list[direct->count++] =
        (mcs_pinned_t){.move = move, .crcs = crcs, .crcs_from = from, .device = device, .status = MCS_OK};
    return MCS_OK;
}

/* Without memory for it they stay as they are. */
static void collect(direct_t *direct, mcs_move_t *moves, size_t count)
{
    direct->list = mcs_arena_alloc(direct->arena, count * sizeof(*direct->list));
    for (size_t i = 0; direct->list != NULL && i < count; i++) {
        int device = can_go(direct->client, &moves[i]) ? mcs_device_of_move(&moves[i]) : MCS_MEM_HOST;
        if (device != MCS_MEM_HOST && add(direct, &moves[i], device) != MCS_OK) {
            return;
        }
    }
}

/* ---- sums ---- */

/* Into the `crcs` of each, or compared with them. MCS_ERR_AGAIN: the device does not make them. */
static mcs_status_t sum(direct_t *direct, mcs_pinned_t *list, size_t count)
{
    const mcs_mem_space_ops_t *ops = direct->client->space_ops;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job;
    bool come = false;
    mcs_status_t status = mcs_pinned_plan(direct->direction, direct->arena, list, count, &copy);
    if (status != MCS_OK) {
        return status;
    }
    copy.sums_only = true;
    status = ops->copy_begin(direct->client->space, &copy, &job, &come);
    if (status == MCS_OK) {
        status = ops->copy_end(direct->client->space, job);
    }
    if (status == MCS_OK && copy.crc_count > 0 && !come) {
        return MCS_ERR_AGAIN;
    }
    if (status == MCS_OK) {
        mcs_pinned_take_sums(direct->direction, list, count, copy.crcs);
    }
    return status;
}

/* Of one device. One value's failure is not another's. */
static void sum_group(direct_t *direct, mcs_pinned_t *list, size_t count)
{
    mcs_status_t status = sum(direct, list, count);
    for (size_t i = 0; i < count && status != MCS_OK; i++) {
        mcs_status_t alone = count > 1 ? sum(direct, &list[i], 1) : status;
        list[i].status = alone != MCS_OK ? alone : list[i].status;
    }
    for (size_t i = 0; i < count; i++) {
        if (list[i].status == MCS_ERR_AGAIN) {
            switch_off(direct->client, list[i].device);
        } else if (list[i].status == MCS_ERR_CHECKSUM_MISMATCH) {
            cool(list[i].move, direct->client, true);
            list[i].status = MCS_ERR_AGAIN;
        }
        list[i].move->of_caller = list[i].status == MCS_ERR_TRANSFER_FAIL;
    }
}

static void sum_all(direct_t *direct)
{
    for (size_t i = 0; i < direct->count;) {
        size_t first = i;
        size_t pieces = 0;
        while (i < direct->count && direct->list[i].device == direct->list[first].device &&
               (pieces += mcs_wave_pieces(direct->list[i].move)) <= PIECES_MAX) {
            i++;
        }
        sum_group(direct, &direct->list[first], i - first);
    }
}

/* ---- the network ---- */

/* What a move is told that did not go. */
static mcs_status_t otherwise(direct_t *direct, mcs_move_t *move, const mcs_move_t *sub)
{
    bool failed = sub->status == MCS_ERR_TRANSFER_FAIL || sub->status == MCS_ERR_CHECKSUM_MISMATCH;
    if (sub->status != MCS_ERR_NOT_SUPPORTED && (!failed || !sub->begun)) {
        return sub->status; /* the owner is not there, or says why not */
    }
    cool(move, direct->client, failed);
    if (direct->direction == MCS_STORE && sub->begun) {
        move->spoiled = true;
        return MCS_ERR_TRANSFER_FAIL;
    }
    return MCS_ERR_AGAIN;
}

static void transfer(direct_t *direct, uint64_t deadline_ns)
{
    mcs_move_t *subs = mcs_arena_alloc(direct->arena, direct->count * sizeof(*subs));
    size_t n = 0;
    for (size_t i = 0; i < direct->count; i++) {
        mcs_pinned_t *pinned = &direct->list[i];
        if (pinned->status == MCS_OK && subs == NULL) {
            pinned->status = MCS_ERR_AGAIN;
        } else if (pinned->status == MCS_OK) {
            subs[n] = *pinned->move;
            subs[n].devices = NULL;
            subs[n].crcs = pinned->crcs;
            subs[n].direct = true;
            subs[n++].begun = false;
        }
    }
    if (n == 0) {
        return;
    }
    mcs_moves_run_remote(direct->client, direct->direction, subs, n, deadline_ns, direct->arena);
    for (size_t i = direct->count; i > 0; i--) {
        mcs_pinned_t *pinned = &direct->list[i - 1];
        if (pinned->status == MCS_OK) {
            const mcs_move_t *sub = &subs[--n];
            pinned->move->in_doubt = pinned->move->in_doubt || sub->in_doubt;
            pinned->status = sub->status == MCS_OK ? MCS_OK : otherwise(direct, pinned->move, sub);
        }
    }
}

/* ---- the course ---- */

/* With AGAIN the move is as it was. Those that are over leave the list. */
static void settle(direct_t *direct, bool all)
{
    size_t n = 0;
    for (size_t i = 0; i < direct->count; i++) {
        const mcs_pinned_t *pinned = &direct->list[i];
        if (pinned->status == MCS_OK && !all) {
            direct->list[n++] = *pinned;
            continue;
        }
        pinned->move->status = pinned->status;
        if (pinned->status == MCS_OK) {
            mcs_count(&direct->client->counters, bytes_gpudirect, pinned->move->len);
        }
    }
    direct->count = n;
}

void mcs_moves_run_device_direct(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena)
{
    if (!is_on(client)) {
        return;
    }
    direct_t direct = {.client = client, .direction = direction, .arena = arena};
    collect(&direct, moves, count);
    if (direction == MCS_STORE) {
        sum_all(&direct);
        settle(&direct, false);
        transfer(&direct, deadline_ns);
    } else {
        transfer(&direct, deadline_ns);
        settle(&direct, false);
        sum_all(&direct);
    }
    settle(&direct, true);
}
