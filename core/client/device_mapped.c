/* Moves between device memory and mapped segments, own and same host: see move.h, device.h.
 *
 * A wave pins its extents as in mapped.c; then all its fragments, of all keys, go in one copy of the space, straight
 * between the extents and the caller's memory. The pins are held until that copy is done. When it fails, each key is
 * tried by itself, so that one key's bad memory is not another's failure.
 *
 * Block CRCs: the device sums what lies in its memory, when it can and the object lies on one device; otherwise the
 * processor sums the extent: for a read while the copy runs, for a write after it. */
#include "core/base/hash.h"
#include "core/client/device_wave.h"

#define PIECES_MAX ((size_t)8192)
#define UNIT       MCS_EXTENT_CRC_BLOCK

/* ---- CRCs by the processor ---- */

typedef struct unit {
    mcs_pinned_t *pinned;
    uint64_t from; /* a multiple of the block */
    uint64_t end;
} unit_t;

typedef struct sums {
    mcs_direction_t direction;
    unit_t *units;
} sums_t;

static void sum_unit(void *arg, size_t i)
{
    const sums_t *sums = arg;
    const unit_t *unit = &sums->units[i];
    mcs_pinned_t *pinned = unit->pinned;
    const uint8_t *payload = pinned->pin.payload;
    for (uint64_t from = unit->from; from < unit->end; from += MCS_EXTENT_CRC_BLOCK) {
        uint32_t *crc = &pinned->crcs[from / MCS_EXTENT_CRC_BLOCK];
        uint32_t sum = mcs_crc32c(0, payload + from, (size_t)MCS_MIN(unit->end - from, MCS_EXTENT_CRC_BLOCK));
        if (sums->direction == MCS_STORE) {
            *crc = sum;
        } else if (*crc != sum) {
            __atomic_store_n(&pinned->status, MCS_ERR_CHECKSUM_MISMATCH, __ATOMIC_RELAXED);
        }
    }
}

/* The whole blocks of those that the device does not sum. */
static mcs_status_t sum_all(mcs_wave_t *wave, mcs_pinned_t *list, size_t count, bool by_device)
{
    sums_t sums = {.direction = wave->direction};
    size_t room = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        room += (size_t)(list[i].blocks * MCS_EXTENT_CRC_BLOCK / UNIT + 1);
    }
    sums.units = mcs_arena_alloc(wave->arena, room * sizeof(unit_t));
    if (sums.units == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        mcs_pinned_t *pinned = &list[i];
        if (pinned->by_device && by_device) {
            continue;
        }
        uint64_t from = pinned->first * MCS_EXTENT_CRC_BLOCK;
        uint64_t end = MCS_MIN((pinned->first + pinned->blocks) * MCS_EXTENT_CRC_BLOCK, pinned->move->payload_len);
        bytes += pinned->blocks > 0 ? end - from : 0;
        for (; pinned->blocks > 0 && from < end; from += UNIT) {
            sums.units[n++] = (unit_t){pinned, from, MCS_MIN(from + UNIT, end)};
        }
    }
    mcs_share_t share = mcs_copiers_ask(wave->client->copiers, MCS_COPY_SUM, bytes, n);
    mcs_copiers_run(wave->client->copiers, &share, sum_unit, &sums, n);
    return MCS_OK;
}

/* ---- a wave ---- */

/* *of_caller: the device failed, not memory of ours. */
static mcs_status_t copy_once(mcs_wave_t *wave, mcs_pinned_t *list, size_t count, bool *of_caller)
{
    const mcs_mem_space_ops_t *ops = wave->client->space_ops;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job;
    bool coming;
    *of_caller = false;
    mcs_status_t status = mcs_pinned_plan(wave->direction, wave->arena, list, count, &copy);
    if (status != MCS_OK) {
        return status;
    }
    status = ops->copy_begin(wave->client->space, &copy, &job, &coming);
    if (status != MCS_OK) {
        *of_caller = true;
        return status;
    }
    mcs_status_t summed = wave->direction == MCS_FETCH ? sum_all(wave, list, count, coming) : MCS_OK;
    status = ops->copy_end(wave->client->space, job);
    *of_caller = status != MCS_OK;
    if (status == MCS_OK && wave->direction == MCS_STORE) {
        summed = sum_all(wave, list, count, coming);
    }
    if (status == MCS_OK && coming) {
        mcs_pinned_take_sums(wave->direction, list, count, copy.crcs);
    }
    return status != MCS_OK ? status : summed;
}

static void copy_pinned(mcs_wave_t *wave, mcs_pinned_t *list, size_t count)
{
    bool of_caller;
    mcs_status_t status = copy_once(wave, list, count, &of_caller);
    if (status == MCS_OK) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (count > 1) {
            list[i].status = MCS_OK; /* a mismatch found before the copy failed is found again */
            status = copy_once(wave, &list[i], 1, &of_caller);
        }
        if (status != MCS_OK) {
            list[i].status = status;
            list[i].move->of_caller = of_caller;
        }
    }
}

static void run_wave(mcs_wave_t *wave)
{
    if (mcs_client_is_cancelled(wave->client)) {
        for (size_t i = 0; i < wave->count; i++) {
            wave->pinned[i].status = MCS_ERR_CLOSED;
        }
    } else if (wave->count > 0) {
        copy_pinned(wave, wave->pinned, wave->count);
    }
    mcs_wave_finish(wave);
}

void mcs_moves_run_device_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena)
{
    mcs_wave_t wave;
    mcs_wave_init(&wave, client, direction, arena, PIECES_MAX);
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        if (move->status != MCS_ERR_AGAIN || move->devices == NULL || move->route->mapping == NULL ||
            mcs_mapping_far(move->route->mapping) != NULL) {
            continue;
        }
        if (mcs_wave_is_full(&wave, move)) {
            run_wave(&wave);
        }
        mcs_wave_add(&wave, move, deadline_ns);
        if (move->status == MCS_OK) {
            mcs_device_know(client, move->route->mapping);
        }
    }
    run_wave(&wave);
}
