/* Moves over mapped segments, own and same host: see move.h.
 *
 * Waves: at most WAVE moves are pinned at once, so that a batch of thousands leaves slots to other threads. Each wave
 * is cut into units of up to UNIT bytes (at multiples of UNIT, which is one of the CRC block), which the calling thread
 * works off alone or, when the wave is large, with the copy threads. Slots make this safe without the lease: what is
 * pinned is not given back before the unpin (rule 3). */
#include <string.h>

#include "core/base/alloc.h"
#include "core/client/move.h"

#define WAVE         64
#define UNIT         (4 * MCS_MIB)
#define PARALLEL_MIN (8 * MCS_MIB) /* below this a hand-over costs more than it brings */
#define INLINE_UNITS (2 * WAVE)

typedef struct pinned {
    mcs_move_t *move;
    mcs_pin_t pin;
    uint32_t *crcs;      /* of the extent */
    mcs_status_t status; /* atomic while units run */
} pinned_t;

typedef struct unit {
    pinned_t *pinned;
    uint64_t from; /* in the payload */
    uint64_t len;
} unit_t;

typedef struct wave {
    mcs_client_t *client;
    mcs_direction_t direction;
    pinned_t pinned[WAVE];
    size_t count;
    uint64_t bytes;
    bool stream; /* past the caches: it is more than they hold */
    unit_t *units;
    size_t unit_count;
} wave_t;

static void run_unit(void *arg, size_t i)
{
    const wave_t *wave = arg;
    pinned_t *pinned = wave->units[i].pinned;
    const mcs_move_t *move = pinned->move;
    uint64_t from = wave->units[i].from;
    uint64_t len = wave->units[i].len;
    mcs_status_t status = MCS_OK;
    if (mcs_client_is_cancelled(wave->client)) {
        status = MCS_ERR_CLOSED;
    } else if (__atomic_load_n(&pinned->status, __ATOMIC_RELAXED) == MCS_OK) {
        mcs_cursor_t cursor = mcs_cursor(move->iov, move->iov_count);
        mcs_cursor_skip(&cursor, from - move->from);
        uint8_t *payload = pinned->pin.payload;
        if (wave->direction == MCS_STORE) {
            mcs_copy_in(payload + from, len, &cursor, pinned->crcs + from / MCS_EXTENT_CRC_BLOCK, wave->stream);
        } else {
            status = mcs_copy_out_part(payload, move->payload_len, from, len, &cursor, pinned->crcs, wave->stream);
        }
    }
    if (status != MCS_OK) {
        __atomic_store_n(&pinned->status, status, __ATOMIC_RELAXED);
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
    wave->unit_count += (size_t)((move->from + move->len - 1) / UNIT - move->from / UNIT + 1);
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

static void run_wave(wave_t *wave)
{
    unit_t inlined[INLINE_UNITS];
    mcs_status_t status = MCS_OK;
    wave->units = inlined;
    if (wave->unit_count > INLINE_UNITS) {
        wave->units = MCS_NEW_ARRAY(unit_t, wave->unit_count);
        status = wave->units == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    }
    size_t n = 0;
    for (size_t i = 0; i < wave->count; i++) {
        pinned_t *pinned = &wave->pinned[i];
        pinned->status = status;
        uint64_t end = pinned->move->from + pinned->move->len;
        for (uint64_t from = pinned->move->from; status == MCS_OK && from < end;) {
            uint64_t len = MCS_MIN(UNIT - from % UNIT, end - from);
            wave->units[n++] = (unit_t){pinned, from, len};
            from += len;
        }
    }
    wave->stream = wave->bytes >= MCS_STREAM_MIN;
    mcs_copiers_run(wave->client->copiers, wave->bytes >= PARALLEL_MIN, run_unit, wave, n);
    for (size_t i = 0; i < wave->count; i++) {
        finish(wave, &wave->pinned[i]);
    }
    if (wave->units != inlined) {
        mcs_free(wave->units);
    }
    wave->count = 0;
    wave->bytes = 0;
    wave->unit_count = 0;
}

void mcs_moves_run_mapped(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                          uint64_t deadline_ns)
{
    wave_t wave;
    wave.client = client;
    wave.direction = direction;
    wave.count = 0;
    wave.bytes = 0;
    wave.unit_count = 0;
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
