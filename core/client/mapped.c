/* Moves over mapped segments, own and same host: see move.h.
 *
 * Waves: at most WAVE moves are pinned at once, so that a batch of thousands leaves slots to other threads. Each wave
 * is cut into units, which the calling thread works off alone or shares with the copy threads (copiers.h). Slots make
 * this safe without the lease: what is pinned is not given back before the unpin (rule 3).
 *
 * Units are cut at multiples of their length in the payload: UNIT, which holds whole CRC blocks; or, where they are
 * shared, PIECE, of which a block has several. Those keep the CRC of their bytes, and when all are done it is joined to
 * that of the block. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/client/move.h"

#define WAVE         64
#define UNIT         (4 * MCS_MIB)
#define PIECE        MCS_COPIERS_TAKE
#define INLINE_UNITS (2 * WAVE)
_Static_assert(UNIT % MCS_EXTENT_CRC_BLOCK == 0 && MCS_EXTENT_CRC_BLOCK % PIECE == 0, "units and blocks");

typedef struct pinned {
    mcs_move_t *move;
    mcs_pin_t pin;
    uint32_t *crcs;      /* of the extent */
    mcs_status_t status; /* atomic while units run */
} pinned_t;

typedef struct unit {
    pinned_t *pinned;
    uint64_t from;       /* in the payload */
    mcs_cursor_t cursor; /* at its place in the caller's memory */
    uint32_t len;
    uint32_t crc; /* out, shared waves */
} unit_t;

typedef struct wave {
    mcs_client_t *client;
    mcs_direction_t direction;
    pinned_t pinned[WAVE];
    size_t count;
    uint64_t bytes;
    bool stream; /* past the caches: it is more than they hold */
    mcs_share_t share;
    unit_t *units;
} wave_t;

static mcs_status_t copy_unit(const wave_t *wave, unit_t *unit)
{
    const pinned_t *pinned = unit->pinned;
    uint8_t *payload = pinned->pin.payload;
    mcs_cursor_t cursor = unit->cursor;
    bool store = wave->direction == MCS_STORE;
    if (wave->share.shared) {
        unit->crc = store ? mcs_copy_piece_in(payload + unit->from, unit->len, &cursor, wave->stream)
                          : mcs_copy_piece_out(payload + unit->from, unit->len, &cursor, wave->stream);
        return MCS_OK;
    }
    if (store) {
        mcs_copy_in(payload + unit->from, unit->len, &cursor, pinned->crcs + unit->from / MCS_EXTENT_CRC_BLOCK,
                    wave->stream);
        return MCS_OK;
    }
    return mcs_copy_out_part(payload, pinned->move->payload_len, unit->from, unit->len, &cursor, pinned->crcs,
                             wave->stream);
}

static void run_unit(void *arg, size_t i)
{
    const wave_t *wave = arg;
    unit_t *unit = &wave->units[i];
    pinned_t *pinned = unit->pinned;
    mcs_status_t status = MCS_OK;
    if (mcs_client_is_cancelled(wave->client)) {
        status = MCS_ERR_CLOSED;
    } else if (__atomic_load_n(&pinned->status, __ATOMIC_RELAXED) == MCS_OK) {
        status = copy_unit(wave, unit);
    }
    if (status != MCS_OK) {
        __atomic_store_n(&pinned->status, status, __ATOMIC_RELAXED);
    }
}

/* The CRCs of the blocks that a shared wave has moved whole. */
static void join_pieces(const wave_t *wave, size_t count)
{
    for (size_t i = 0; i < count;) {
        pinned_t *pinned = wave->units[i].pinned;
        const mcs_move_t *move = pinned->move;
        uint64_t from = wave->units[i].from;
        uint64_t block = from / MCS_EXTENT_CRC_BLOCK;
        uint64_t block_end = MCS_MIN((block + 1) * MCS_EXTENT_CRC_BLOCK, move->payload_len);
        uint64_t end = MCS_MIN(block_end, move->from + move->len);
        uint32_t crc = 0;
        for (uint64_t at = from; at < end; i++) {
            crc = mcs_crc32c_combine(crc, wave->units[i].crc, wave->units[i].len);
            at += wave->units[i].len;
        }
        if (pinned->status != MCS_OK || from % MCS_EXTENT_CRC_BLOCK != 0 || end != block_end) {
            continue;
        }
        if (wave->direction == MCS_STORE) {
            pinned->crcs[block] = crc;
        } else if (pinned->crcs[block] != crc) {
            pinned->status = MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
}

mcs_status_t mcs_move_pin(mcs_direction_t direction, const mcs_move_t *move, mcs_pin_t *pin_out)
{
    const mcs_col_replica_t *replica = move->replica;
    mcs_status_t status = direction == MCS_STORE
                              ? mcs_pin_write(move->route->mapping, replica->offset, replica->generation,
                                              move->payload_len, move->key_hash, pin_out)
                              : mcs_pin_read(move->route->mapping, replica->offset, replica->generation,
                                             move->payload_len, move->key_hash, pin_out);
    return status == MCS_ERR_LIMIT ? MCS_ERR_AGAIN : status;
}

void mcs_move_unpin(mcs_direction_t direction, mcs_move_t *move, mcs_pin_t *pin, mcs_status_t status)
{
    if (direction == MCS_STORE && status == MCS_OK) {
        status = mcs_pin_seal(pin);
        if (move->crcs != NULL) {
            memcpy(move->crcs, mcs_pin_crcs(pin), mcs_extent_block_count(move->payload_len) * sizeof(uint32_t));
        }
    }
    mcs_unpin(pin);
    move->status = status;
}

void mcs_move_count_mapped(mcs_client_t *client, mcs_direction_t direction, const mcs_move_t *move)
{
    bool own = mcs_mapping_is_own(move->route->mapping);
    if (direction == MCS_STORE) {
        if (own) {
            mcs_count(&client->counters, bytes_own_written, move->len);
        } else {
            mcs_count(&client->counters, bytes_same_host_written, move->len);
        }
    } else if (own) {
        mcs_count(&client->counters, bytes_own_read, move->len);
    } else {
        mcs_count(&client->counters, bytes_same_host_read, move->len);
    }
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
    wave->count++;
    wave->bytes += move->len;
    return MCS_OK;
}

static void finish(const wave_t *wave, pinned_t *pinned)
{
    mcs_status_t status = pinned->status;
    if (status == MCS_OK || status == MCS_ERR_CHECKSUM_MISMATCH) {
        mcs_count(&wave->client->counters, bytes_copied, pinned->move->len);
        mcs_move_count_mapped(wave->client, wave->direction, pinned->move);
    }
    mcs_move_unpin(wave->direction, pinned->move, &pinned->pin, status);
}

static size_t count_units(const wave_t *wave, uint64_t unit)
{
    size_t n = 0;
    for (size_t i = 0; i < wave->count; i++) {
        const mcs_move_t *move = wave->pinned[i].move;
        n += (size_t)((move->from + move->len - 1) / unit - move->from / unit + 1);
    }
    return n;
}

static void cut_units(wave_t *wave, uint64_t unit)
{
    size_t n = 0;
    for (size_t i = 0; i < wave->count; i++) {
        pinned_t *pinned = &wave->pinned[i];
        mcs_cursor_t cursor = mcs_cursor(pinned->move->iov, pinned->move->iov_count);
        uint64_t end = pinned->move->from + pinned->move->len;
        for (uint64_t from = pinned->move->from; from < end;) {
            uint64_t len = MCS_MIN(unit - from % unit, end - from);
            wave->units[n++] = (unit_t){.pinned = pinned, .from = from, .cursor = cursor, .len = (uint32_t)len};
            mcs_cursor_skip(&cursor, len);
            from += len;
        }
    }
}

static void run_wave(wave_t *wave)
{
    unit_t inlined[INLINE_UNITS];
    wave->share = mcs_copiers_ask(wave->client->copiers, wave->direction == MCS_STORE ? MCS_COPY_IN : MCS_COPY_OUT,
                                  wave->bytes, wave->count);
    wave->stream = wave->bytes >= MCS_STREAM_MIN;
    uint64_t unit = wave->share.shared ? PIECE : UNIT;
    size_t n = count_units(wave, unit);
    wave->units = n > INLINE_UNITS ? MCS_NEW_ARRAY(unit_t, n) : inlined;
    if (wave->units != NULL) {
        cut_units(wave, unit);
    } else {
        n = 0;
        for (size_t i = 0; i < wave->count; i++) {
            wave->pinned[i].status = MCS_ERR_NO_MEMORY;
        }
    }
    mcs_copiers_run(wave->client->copiers, &wave->share, run_unit, wave, n);
    if (wave->share.shared) {
        join_pieces(wave, n);
    }
    for (size_t i = 0; i < wave->count; i++) {
        finish(wave, &wave->pinned[i]);
    }
    if (wave->units != inlined) {
        mcs_free(wave->units);
    }
    wave->count = 0;
    wave->bytes = 0;
}

void mcs_moves_run_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                          uint64_t deadline_ns)
{
    wave_t wave;
    wave.client = client;
    wave.direction = direction;
    wave.count = 0;
    wave.bytes = 0;
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        if (move->status != MCS_ERR_AGAIN || move->route->mapping == NULL || move->devices != NULL ||
            mcs_mapping_far(move->route->mapping) != NULL) {
            continue;
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
        if (wave.count == WAVE) {
            run_wave(&wave);
        }
    }
    if (wave.count > 0) {
        run_wave(&wave);
    }
}
