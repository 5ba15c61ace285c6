/* See device_wave.h. */
#include "core/client/device_wave.h"

#include <string.h>

/* ---- pieces ---- */

/* The blocks that lie in the move whole. */
static void find_blocks(mcs_pinned_t *pinned)
{
    const mcs_move_t *move = pinned->move;
    uint64_t end = move->from + move->len;
    pinned->first = (move->from + MCS_EXTENT_CRC_BLOCK - 1) / MCS_EXTENT_CRC_BLOCK;
    uint64_t last = end == move->payload_len ? mcs_extent_block_count(end) : end / MCS_EXTENT_CRC_BLOCK;
    pinned->blocks = last > pinned->first ? last - pinned->first : 0;
    pinned->by_device = pinned->blocks > 0 && pinned->device != MCS_MEM_HOST;
}

static uint32_t block_of(const mcs_pinned_t *pinned, uint64_t from)
{
    uint64_t block = from / MCS_EXTENT_CRC_BLOCK;
    bool whole = pinned->by_device && block >= pinned->first && block - pinned->first < pinned->blocks;
    return whole ? pinned->at + (uint32_t)(block - pinned->first) : MCS_MEM_NO_BLOCK;
}

static size_t add_pieces(const mcs_pinned_t *pinned, mcs_mem_piece_t *pieces)
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
        piece->host = pinned->pin.payload != NULL ? (uint8_t *)pinned->pin.payload + from : NULL;
        piece->block = block_of(pinned, from);
        piece->len = mcs_device_next(&cursor, max, &piece->user, &piece->device);
        MCS_ENSURE(piece->len > 0);
        from += piece->len;
    }
    return n;
}

size_t mcs_wave_pieces(const mcs_move_t *move)
{
    size_t fragments = 0;
    for (uint64_t left = move->len; left > 0; fragments++) {
        left -= MCS_MIN((uint64_t)move->iov[fragments].iov_len, left);
    }
    return fragments + (size_t)mcs_extent_block_count(move->len) + 1;
}

/* ---- the copy ---- */

mcs_status_t mcs_pinned_plan(mcs_direction_t direction, mcs_arena_t *arena, mcs_pinned_t *list, size_t count,
                             mcs_mem_copy_t *copy)
{
    size_t room = 0;
    uint64_t blocks = 0;
    for (size_t i = 0; i < count; i++) {
        find_blocks(&list[i]);
        list[i].at = (uint32_t)blocks;
        blocks += list[i].by_device ? list[i].blocks : 0;
        room += mcs_wave_pieces(list[i].move);
    }
    mcs_mem_piece_t *pieces = mcs_arena_alloc(arena, room * sizeof(*pieces));
    uint32_t *crcs = mcs_arena_alloc(arena, (size_t)MCS_MAX(blocks, UINT64_C(1)) * sizeof(uint32_t));
    if (pieces == NULL || crcs == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        n += add_pieces(&list[i], pieces + n);
    }
    *copy = (mcs_mem_copy_t){
        .to_user = direction == MCS_FETCH,
        .pieces = pieces,
        .count = n,
        .crcs = blocks > 0 ? crcs : NULL,
        .crc_count = (size_t)blocks,
    };
    return MCS_OK;
}

void mcs_pinned_take_sums(mcs_direction_t direction, mcs_pinned_t *list, size_t count, const uint32_t *crcs)
{
    for (size_t i = 0; i < count; i++) {
        mcs_pinned_t *pinned = &list[i];
        if (!pinned->by_device) {
            continue;
        }
        size_t bytes = (size_t)pinned->blocks * sizeof(uint32_t);
        uint32_t *of_extent = &pinned->crcs[pinned->first - pinned->crcs_from];
        if (direction == MCS_STORE) {
            memcpy(of_extent, &crcs[pinned->at], bytes);
        } else if (memcmp(of_extent, &crcs[pinned->at], bytes) != 0) {
            pinned->status = MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
}

/* ---- the course ---- */

void mcs_wave_init(mcs_wave_t *wave, mcs_client_t *client, mcs_direction_t direction, mcs_arena_t *arena,
                   size_t piece_max)
{
    wave->client = client;
    wave->direction = direction;
    wave->arena = arena;
    wave->count = 0;
    wave->piece_room = 0;
    wave->piece_max = piece_max;
}

bool mcs_wave_is_full(const mcs_wave_t *wave, const mcs_move_t *move)
{
    return wave->count == MCS_WAVE || (wave->count > 0 && wave->piece_room + mcs_wave_pieces(move) > wave->piece_max);
}

void mcs_wave_add(mcs_wave_t *wave, mcs_move_t *move, uint64_t deadline_ns)
{
    if (wave->count == 0) {
        move->status = mcs_client_check(wave->client);
        if (move->status == MCS_OK && wave->direction == MCS_STORE && mcs_deadline_passed(deadline_ns)) {
            move->status = MCS_ERR_REPLICA_IS_GONE; /* the reservation has run out (rule 6) */
        }
        if (move->status != MCS_OK) {
            return;
        }
    }
    mcs_pinned_t *pinned = &wave->pinned[wave->count];
    move->status = mcs_move_pin(wave->direction, move, &pinned->pin);
    if (move->status != MCS_OK) {
        return;
    }
    pinned->move = move;
    pinned->crcs = mcs_pin_crcs(&pinned->pin);
    pinned->crcs_from = 0;
    pinned->device = mcs_device_of_move(move);
    pinned->status = MCS_OK;
    wave->count++;
    wave->piece_room += mcs_wave_pieces(move);
}

static void finish(const mcs_wave_t *wave, mcs_pinned_t *pinned)
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

void mcs_wave_finish(mcs_wave_t *wave)
{
    for (size_t i = 0; i < wave->count; i++) {
        finish(wave, &wave->pinned[i]);
    }
    wave->count = 0;
    wave->piece_room = 0;
}
