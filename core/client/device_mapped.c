/* Moves between device memory and mapped segments, own and same host: see move.h, device.h.
 *
 * A wave pins its extents as in mapped.c; then all its fragments, of all keys, go in one copy of the space, straight
 * between the extents and the caller's memory. The pins are held until that copy is done. When it fails, each key is
 * tried by itself, so that one key's bad memory is not another's failure.
 *
 * Block CRCs: the device sums what lies in its memory, when it can and the object lies on one device; otherwise the
 * processor sums the extent: for a read while the copy runs, for a write after it. */
#include <string.h>

#include "core/base/hash.h"
#include "core/client/device.h"

#define WAVE         64
#define PIECES_MAX   ((size_t)8192) /* of a wave, unless a single key has more */
#define UNIT         (4 * MCS_MIB)
#define PARALLEL_MIN (8 * MCS_MIB)

typedef struct pinned {
    mcs_move_t *move;
    mcs_pin_t pin;
    uint32_t *crcs;      /* of the extent */
    bool by_device;      /* the device may sum its whole blocks */
    uint64_t first;      /* of the payload's blocks that the move has whole */
    uint64_t blocks;     /* how many */
    uint32_t at;         /* where they stand among the copy's */
    mcs_status_t status; /* atomic while units run */
} pinned_t;

typedef struct wave {
    mcs_client_t *client;
    mcs_direction_t direction;
    mcs_arena_t *arena;
    pinned_t pinned[WAVE];
    size_t count;
    size_t piece_room;
} wave_t;

/* ---- pieces ---- */

static bool on_one_device(const mcs_move_t *move)
{
    mcs_device_cursor_t cursor = mcs_device_cursor(move, 0);
    uint8_t *user;
    int16_t first = MCS_MEM_HOST;
    int16_t device;
    for (uint64_t done = 0; done < move->len;) {
        uint64_t len = mcs_device_next(&cursor, move->len - done, &user, &device);
        if (device == MCS_MEM_HOST || (done > 0 && device != first)) {
            return false;
        }
        first = device;
        done += len;
    }
    return true;
}

/* The blocks that lie in the move whole. */
static void find_blocks(pinned_t *pinned)
{
    const mcs_move_t *move = pinned->move;
    uint64_t end = move->from + move->len;
    pinned->first = (move->from + MCS_EXTENT_CRC_BLOCK - 1) / MCS_EXTENT_CRC_BLOCK;
    uint64_t last = end == move->payload_len ? mcs_extent_block_count(end) : end / MCS_EXTENT_CRC_BLOCK;
    pinned->blocks = last > pinned->first ? last - pinned->first : 0;
    pinned->by_device = pinned->blocks > 0 && on_one_device(move);
}

static uint32_t block_of(const pinned_t *pinned, uint64_t from)
{
    uint64_t block = from / MCS_EXTENT_CRC_BLOCK;
    bool whole = pinned->by_device && block >= pinned->first && block - pinned->first < pinned->blocks;
    return whole ? pinned->at + (uint32_t)(block - pinned->first) : MCS_MEM_NO_BLOCK;
}

static size_t add_pieces(const pinned_t *pinned, mcs_mem_piece_t *pieces)
{
    const mcs_move_t *move = pinned->move;
    mcs_device_cursor_t cursor = mcs_device_cursor(move, 0);
    uint64_t end = move->from + move->len;
    size_t n = 0;
    for (uint64_t from = move->from; from < end;) {
        uint64_t max = end - from;
        if (pinned->by_device) {
            max = MCS_MIN(max, MCS_EXTENT_CRC_BLOCK - from % MCS_EXTENT_CRC_BLOCK);
        }
        mcs_mem_piece_t *piece = &pieces[n++];
        piece->host = (uint8_t *)pinned->pin.payload + from;
        piece->block = block_of(pinned, from);
        piece->len = mcs_device_next(&cursor, max, &piece->user, &piece->device);
        MCS_ENSURE(piece->len > 0);
        from += piece->len;
    }
    return n;
}

static size_t pieces_at_most(const mcs_move_t *move)
{
    return move->iov_count + (size_t)mcs_extent_block_count(move->len) + 1;
}

/* ---- CRCs by the processor ---- */

typedef struct unit {
    pinned_t *pinned;
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
    pinned_t *pinned = unit->pinned;
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
static mcs_status_t sum_all(wave_t *wave, pinned_t *list, size_t count, bool by_device)
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
        pinned_t *pinned = &list[i];
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
    mcs_copiers_run(wave->client->copiers, bytes >= PARALLEL_MIN, sum_unit, &sums, n);
    return MCS_OK;
}

/* What the device summed. */
static void take_sums(const wave_t *wave, pinned_t *list, size_t count, const uint32_t *crcs)
{
    for (size_t i = 0; i < count; i++) {
        pinned_t *pinned = &list[i];
        if (!pinned->by_device) {
            continue;
        }
        size_t bytes = (size_t)pinned->blocks * sizeof(uint32_t);
        uint32_t *of_extent = &pinned->crcs[pinned->first];
        if (wave->direction == MCS_STORE) {
            memcpy(of_extent, &crcs[pinned->at], bytes);
        } else if (memcmp(of_extent, &crcs[pinned->at], bytes) != 0) {
            pinned->status = MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
}

/* ---- a wave ---- */

static mcs_status_t fill_copy(wave_t *wave, pinned_t *list, size_t count, mcs_mem_copy_t *copy)
{
    size_t room = 0;
    uint64_t blocks = 0;
    for (size_t i = 0; i < count; i++) {
        find_blocks(&list[i]);
        list[i].at = (uint32_t)blocks;
        blocks += list[i].by_device ? list[i].blocks : 0;
        room += pieces_at_most(list[i].move);
    }
    mcs_mem_piece_t *pieces = mcs_arena_alloc(wave->arena, room * sizeof(*pieces));
    uint32_t *crcs = mcs_arena_alloc(wave->arena, (size_t)MCS_MAX(blocks, UINT64_C(1)) * sizeof(uint32_t));
    if (pieces == NULL || crcs == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        n += add_pieces(&list[i], pieces + n);
    }
    *copy = (mcs_mem_copy_t){
        .to_user = wave->direction == MCS_FETCH,
        .pieces = pieces,
        .count = n,
        .crcs = blocks > 0 ? crcs : NULL,
        .crc_count = (size_t)blocks,
    };
    return MCS_OK;
}

/* *of_caller: the device failed, not memory of ours. */
static mcs_status_t copy_once(wave_t *wave, pinned_t *list, size_t count, bool *of_caller)
{
    const mcs_mem_space_ops_t *ops = wave->client->space_ops;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job;
    bool coming;
    *of_caller = false;
    mcs_status_t status = fill_copy(wave, list, count, &copy);
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
        take_sums(wave, list, count, copy.crcs);
    }
    return status != MCS_OK ? status : summed;
}

static void copy_pinned(wave_t *wave, pinned_t *list, size_t count)
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

static void finish(const wave_t *wave, pinned_t *pinned)
{
    mcs_counters_t *counters = &wave->client->counters;
    if (pinned->status == MCS_OK) {
        if (wave->direction == MCS_STORE) {
            mcs_count(counters, bytes_device_written, pinned->move->len);
        } else {
            mcs_count(counters, bytes_device_read, pinned->move->len);
        }
        mcs_move_count_mapped(wave->client, wave->direction, pinned->move);
    }
    mcs_move_unpin(wave->direction, pinned->move, &pinned->pin, pinned->status);
}

static void run_wave(wave_t *wave)
{
    if (mcs_client_is_cancelled(wave->client)) {
        for (size_t i = 0; i < wave->count; i++) {
            wave->pinned[i].status = MCS_ERR_CLOSED;
        }
    } else if (wave->count > 0) {
        copy_pinned(wave, wave->pinned, wave->count);
    }
    for (size_t i = 0; i < wave->count; i++) {
        finish(wave, &wave->pinned[i]);
    }
    wave->count = 0;
    wave->piece_room = 0;
}

static mcs_status_t pin(wave_t *wave, mcs_move_t *move)
{
    pinned_t *pinned = &wave->pinned[wave->count];
    mcs_status_t status = mcs_move_pin(wave->direction, move, &pinned->pin);
    if (status != MCS_OK) {
        return status;
    }
    pinned->move = move;
    pinned->crcs = mcs_pin_crcs(&pinned->pin);
    pinned->status = MCS_OK;
    mcs_device_know(wave->client, move->route->mapping);
    wave->count++;
    wave->piece_room += pieces_at_most(move);
    return MCS_OK;
}

void mcs_moves_run_device_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                                 uint64_t deadline_ns, mcs_arena_t *arena)
{
    wave_t wave;
    wave.client = client;
    wave.direction = direction;
    wave.arena = arena;
    wave.count = 0;
    wave.piece_room = 0;
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        if (move->status != MCS_ERR_AGAIN || move->devices == NULL || move->route->mapping == NULL) {
            continue;
        }
        if (wave.count == WAVE || (wave.count > 0 && wave.piece_room + pieces_at_most(move) > PIECES_MAX)) {
            run_wave(&wave);
        }
        if (wave.count == 0) {
            move->status = mcs_client_check(client);
            if (move->status == MCS_OK && direction == MCS_STORE && mcs_deadline_passed(deadline_ns)) {
                move->status = MCS_ERR_REPLICA_IS_GONE; /* the reservation has run out (rule 6) */
            }
            if (move->status != MCS_OK) {
                continue;
            }
        }
        move->status = pin(&wave, move);
    }
    run_wave(&wave);
}
