/* Moves between device memory and other hosts without a copy (GPUDirect): see move.h, device.h.
 *
 *   store   summed by its device | read by the owner's RDMA device, summed by the owner
 *   fetch   written by the owner's RDMA device | summed by its device, compared with the owner's sums
 *
 * For memory in registered buffers that RDMA devices reach. What cannot go like this stays as it was, for
 * device_staged.c: small values and fragments, memory of two devices, what is still being registered, an owner without
 * RDMA. So does a fetch whose bytes are not what the owner says: if they are right there, they are right by the other
 * way. Of a store the owner finds it; then this way is not taken any more, because the device and the RDMA device have
 * not seen the same bytes. */
#include "core/base/log.h"
#include "core/client/device_wave.h"

#define AREA "client"
/* Shorter values and fragments are cheaper through a chunk. */
#define VALUE_MIN    (16 * MCS_KIB)
#define FRAGMENT_MIN ((uint64_t)4096)
/* So that a device has room for the sums of a wave. */
#define PIECES_MAX ((size_t)4096)

static bool is_on(const mcs_client_t *client)
{
    /* Relaxed: hints; what they stand for has locks of its own. */
    return client->rdma && __atomic_load_n(&client->device_exposed, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&client->direct_failed, __ATOMIC_RELAXED);
}

static bool can_go(const mcs_client_t *client, const mcs_move_t *move)
{
    return move->status == MCS_ERR_AGAIN && move->devices != NULL && move->len >= VALUE_MIN &&
           move->len / move->iov_count >= FRAGMENT_MIN && mcs_device_of_move(move) != MCS_MEM_HOST &&
           client->transport_ops->reaches(client->transport, move->iov, move->iov_count, move->from);
}

/* ---- sums ---- */

/* Into the pinned's `crcs`, or compared with them. MCS_ERR_AGAIN: the device does not make them. */
static mcs_status_t sum(mcs_wave_t *wave, mcs_pinned_t *list, size_t count)
{
    const mcs_mem_space_ops_t *ops = wave->client->space_ops;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job;
    bool come = false;
    mcs_status_t status = mcs_wave_fill(wave, list, count, &copy);
    if (status != MCS_OK) {
        return status;
    }
    copy.sums_only = true;
    status = ops->copy_begin(wave->client->space, &copy, &job, &come);
    if (status == MCS_OK) {
        status = ops->copy_end(wave->client->space, job);
    }
    if (status == MCS_OK && copy.crc_count > 0 && !come) {
        return MCS_ERR_AGAIN;
    }
    if (status == MCS_OK) {
        mcs_wave_take_sums(wave, list, count, copy.crcs);
    }
    return status;
}

/* One value's failure is not another's. */
static void sum_each(mcs_wave_t *wave)
{
    mcs_status_t status = wave->count > 0 ? sum(wave, wave->pinned, wave->count) : MCS_OK;
    for (size_t i = 0; i < wave->count; i++) {
        mcs_pinned_t *pinned = &wave->pinned[i];
        mcs_status_t alone = status;
        if (status != MCS_OK && status != MCS_ERR_AGAIN && wave->count > 1) {
            alone = sum(wave, pinned, 1);
        }
        pinned->status = alone != MCS_OK ? alone : pinned->status;
    }
}

/* ---- the network ---- */

/* What a store is told when its place may still be good. */
static mcs_status_t once_more(mcs_wave_t *wave, mcs_status_t status, const mcs_move_t *sub)
{
    if (wave->direction == MCS_STORE && status == MCS_ERR_CHECKSUM_MISMATCH) {
        if (!__atomic_exchange_n(&wave->client->direct_failed, true, __ATOMIC_RELAXED)) {
            mcs_warn(AREA, "an RDMA device read other bytes from GPU memory than the GPU: it goes through pinned host "
                           "memory from now on");
        }
        return MCS_ERR_REPLICA_IS_GONE;
    }
    if (status == MCS_ERR_NOT_SUPPORTED) { /* a store that has begun cannot begin again in that place */
        return wave->direction == MCS_STORE && sub->begun ? MCS_ERR_REPLICA_IS_GONE : MCS_ERR_AGAIN;
    }
    return status;
}

/* Those that have not failed, by the transport: their statuses. */
static void transfer(mcs_wave_t *wave, uint64_t deadline_ns)
{
    mcs_move_t *subs = mcs_arena_alloc(wave->arena, wave->count * sizeof(*subs));
    size_t n = 0;
    for (size_t i = 0; i < wave->count; i++) {
        mcs_pinned_t *pinned = &wave->pinned[i];
        if (pinned->status == MCS_OK && subs == NULL) {
            pinned->status = MCS_ERR_NO_MEMORY;
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
    mcs_moves_run_remote(wave->client, wave->direction, subs, n, deadline_ns, wave->arena);
    for (size_t i = wave->count; i > 0; i--) {
        mcs_pinned_t *pinned = &wave->pinned[i - 1];
        if (pinned->status == MCS_OK) {
            const mcs_move_t *sub = &subs[--n];
            pinned->move->in_doubt = pinned->move->in_doubt || sub->in_doubt;
            pinned->status = once_more(wave, sub->status, sub);
        }
    }
}

/* ---- a wave ---- */

/* With AGAIN the move is as it was. */
static void settle(mcs_wave_t *wave, const mcs_pinned_t *pinned)
{
    pinned->move->status = pinned->status;
    if (pinned->status == MCS_OK) {
        mcs_count(&wave->client->counters, bytes_gpudirect, pinned->move->len);
    }
}

/* Of the device: it has summed, or failed. */
static void judge(mcs_wave_t *wave)
{
    sum_each(wave);
    for (size_t i = 0; i < wave->count; i++) {
        mcs_pinned_t *pinned = &wave->pinned[i];
        if (pinned->status == MCS_ERR_CHECKSUM_MISMATCH) {
            pinned->status = MCS_ERR_AGAIN;
        }
        pinned->move->of_caller = pinned->status == MCS_ERR_TRANSFER_FAIL;
    }
}

/* What has come; the others are settled. */
static void keep_arrived(mcs_wave_t *wave)
{
    size_t n = 0;
    for (size_t i = 0; i < wave->count; i++) {
        if (wave->pinned[i].status == MCS_OK) {
            wave->pinned[n++] = wave->pinned[i];
        } else {
            settle(wave, &wave->pinned[i]);
        }
    }
    wave->count = n;
}

static void run_wave(mcs_wave_t *wave, uint64_t deadline_ns)
{
    if (wave->direction == MCS_STORE) {
        judge(wave);
        transfer(wave, deadline_ns);
    } else {
        transfer(wave, deadline_ns);
        keep_arrived(wave);
        judge(wave);
    }
    for (size_t i = 0; i < wave->count; i++) {
        settle(wave, &wave->pinned[i]);
    }
    wave->count = 0;
    wave->piece_room = 0;
}

void mcs_moves_run_device_direct(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena)
{
    mcs_wave_t wave;
    mcs_wave_init(&wave, client, direction, arena, PIECES_MAX);
    for (size_t i = 0; i < count && is_on(client); i++) {
        mcs_move_t *move = &moves[i];
        if (!can_go(client, move)) {
            continue;
        }
        if (mcs_wave_is_full(&wave, move)) {
            run_wave(&wave, deadline_ns);
        }
        mcs_wave_add_unpinned(&wave, move);
    }
    run_wave(&wave, deadline_ns);
}
