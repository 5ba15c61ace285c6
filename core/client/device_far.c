/* Moves over far mappings, own and same host: segments whose payloads lie in the memory of a device. See move.h,
 * device.h.
 *
 * A wave is of one mapping. What goes straight is one copy of the space:
 *
 *   device memory   on a device that reaches the segment's: between the two, summed by the device
 *   host memory     one transfer by the device of the segment, summed by the processor
 *
 * What cannot (a device that does not reach the segment's, memory of both kinds in one value, a device that makes no
 * sums) goes in two steps, through a chunk of host memory, and is summed there.
 *
 * A copy that fails is not taken for the caller's memory's fault: the next replica, or another place, decides that. */
#include "core/base/hash.h"
#include "core/client/device_wave.h"

/* So that a device has room for the sums of a wave: without them it would have to go in two steps. */
#define PIECES_MAX ((size_t)4096)

/* ---- sums over host memory ---- */

/* The cursor stands at the beginning of a block; crcs[0] is its. */
static void sum_blocks(mcs_cursor_t *cursor, uint64_t len, uint32_t *crcs)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t block = MCS_MIN(len - done, MCS_EXTENT_CRC_BLOCK);
        uint32_t sum = 0;
        for (uint64_t at = 0; at < block;) {
            uint8_t *bytes;
            size_t n = mcs_cursor_next(cursor, block - at, &bytes);
            MCS_ENSURE(n > 0);
            sum = mcs_crc32c(sum, bytes, n);
            at += n;
        }
        *crcs++ = sum;
        done += block;
    }
}

/* Of the caller's memory, which is all the host's: into the extent, or compared with what is there. */
static mcs_status_t sum_host(const mcs_wave_t *wave, const mcs_pinned_t *pinned)
{
    const mcs_move_t *move = pinned->move;
    mcs_cursor_t cursor = mcs_cursor(move->iov, move->iov_count);
    if (wave->direction == MCS_STORE) {
        sum_blocks(&cursor, move->payload_len, pinned->crcs);
        return MCS_OK;
    }
    if (pinned->blocks == 0) {
        return MCS_OK;
    }
    uint32_t *sums = mcs_arena_alloc(wave->arena, (size_t)pinned->blocks * sizeof(*sums));
    if (sums == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    uint64_t from = pinned->first * MCS_EXTENT_CRC_BLOCK;
    uint64_t end = MCS_MIN(from + pinned->blocks * MCS_EXTENT_CRC_BLOCK, move->payload_len);
    mcs_cursor_skip(&cursor, from - move->from);
    sum_blocks(&cursor, end - from, sums);
    bool same = true;
    for (uint64_t i = 0; i < pinned->blocks; i++) {
        same = same && sums[i] == pinned->crcs[pinned->first + i];
    }
    return same ? MCS_OK : MCS_ERR_CHECKSUM_MISMATCH;
}

/* ---- in two steps ---- */

/* Between the chunk and the caller's memory. */
static mcs_status_t copy_user(const mcs_wave_t *wave, const mcs_move_t *move, uint64_t from, uint64_t len,
                              uint8_t *chunk)
{
    mcs_mem_piece_t *pieces = mcs_arena_alloc(wave->arena, (move->iov_count + 1) * sizeof(*pieces));
    if (pieces == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_device_cursor_t cursor = mcs_device_cursor(move, from - move->from);
    size_t n = 0;
    for (uint64_t done = 0; done < len; n++) {
        mcs_mem_piece_t *piece = &pieces[n];
        piece->host = chunk + done;
        piece->block = MCS_MEM_NO_BLOCK;
        piece->len = mcs_device_next(&cursor, len - done, &piece->user, &piece->device);
        MCS_ENSURE(piece->len > 0);
        done += piece->len;
    }
    mcs_mem_copy_t copy = {.to_user = wave->direction == MCS_FETCH, .pieces = pieces, .count = n};
    return mcs_mem_copy_now(wave->client->space_ops, wave->client->space, &copy);
}

/* Between the chunk and the extent. */
static mcs_status_t copy_far(const mcs_wave_t *wave, const mcs_pinned_t *pinned, uint64_t from, uint64_t len,
                             uint8_t *chunk)
{
    mcs_mem_piece_t piece = {.user = chunk,
                             .host = (uint8_t *)pinned->pin.payload + from,
                             .len = len,
                             .device = MCS_MEM_HOST,
                             .block = MCS_MEM_NO_BLOCK};
    mcs_mem_copy_t copy = {.to_user = wave->direction == MCS_FETCH,
                           .far = mcs_mapping_far(pinned->move->route->mapping),
                           .pieces = &piece,
                           .count = 1};
    return mcs_mem_copy_now(wave->client->space_ops, wave->client->space, &copy);
}

/* The blocks that a part has whole; it begins and ends at blocks' edges but for the move's own ends. */
static mcs_status_t sum_part(const mcs_wave_t *wave, const mcs_pinned_t *pinned, uint64_t from, uint64_t len,
                             const uint8_t *chunk)
{
    uint64_t end = from + len;
    for (uint64_t at = MCS_ALIGN_UP(from, MCS_EXTENT_CRC_BLOCK); at < end; at += MCS_EXTENT_CRC_BLOCK) {
        uint64_t block = MCS_MIN(pinned->move->payload_len - at, MCS_EXTENT_CRC_BLOCK);
        if (at + block > end) {
            break;
        }
        uint32_t sum = mcs_crc32c(0, chunk + (at - from), (size_t)block);
        uint32_t *crc = &pinned->crcs[at / MCS_EXTENT_CRC_BLOCK];
        if (wave->direction == MCS_STORE) {
            *crc = sum;
        } else if (*crc != sum) {
            return MCS_ERR_CHECKSUM_MISMATCH;
        }
    }
    return MCS_OK;
}

static mcs_status_t stage_part(const mcs_wave_t *wave, const mcs_pinned_t *pinned, uint64_t from, uint64_t len,
                               uint8_t *chunk, bool *of_caller)
{
    mcs_status_t status;
    *of_caller = false;
    if (wave->direction == MCS_STORE) {
        status = copy_user(wave, pinned->move, from, len, chunk);
        *of_caller = status != MCS_OK;
        if (status == MCS_OK) {
            status = sum_part(wave, pinned, from, len, chunk);
        }
        return status == MCS_OK ? copy_far(wave, pinned, from, len, chunk) : status;
    }
    status = copy_far(wave, pinned, from, len, chunk);
    if (status == MCS_OK) {
        status = sum_part(wave, pinned, from, len, chunk);
    }
    if (status == MCS_OK) {
        status = copy_user(wave, pinned->move, from, len, chunk);
        *of_caller = status != MCS_OK;
    }
    return status;
}

static void stage(const mcs_wave_t *wave, mcs_pinned_t *pinned, uint64_t deadline_ns)
{
    mcs_client_t *client = wave->client;
    mcs_move_t *move = pinned->move;
    uint8_t *chunk = client->space_ops->stage_get(client->space, true, deadline_ns);
    if (chunk == NULL) {
        pinned->status = MCS_ERR_NO_MEMORY;
        return;
    }
    uint64_t end = move->from + move->len;
    for (uint64_t from = move->from; pinned->status == MCS_OK && from < end;) {
        uint64_t to = MCS_MIN(MCS_ALIGN_DOWN(from, MCS_EXTENT_CRC_BLOCK) + MCS_MEM_STAGE_BYTES, end);
        pinned->status = stage_part(wave, pinned, from, to - from, chunk, &move->of_caller);
        if (pinned->status == MCS_OK) {
            mcs_count(&client->counters, bytes_staged, to - from);
        }
        from = to;
    }
    client->space_ops->stage_put(client->space, chunk);
}

/* ---- straight ---- */

/* *sums_out: whole blocks of device memory have been summed. */
static mcs_status_t copy_once(mcs_wave_t *wave, mcs_pinned_t *list, size_t count, bool *sums_out)
{
    const mcs_mem_space_ops_t *ops = wave->client->space_ops;
    mcs_mem_copy_t copy;
    mcs_mem_job_t *job;
    mcs_status_t status = mcs_pinned_plan(wave->direction, wave->arena, list, count, &copy);
    if (status != MCS_OK) {
        return status;
    }
    copy.far = mcs_mapping_far(list[0].move->route->mapping);
    status = ops->copy_begin(wave->client->space, &copy, &job, sums_out);
    if (status == MCS_OK) {
        status = ops->copy_end(wave->client->space, job);
    }
    if (status == MCS_OK && *sums_out) {
        mcs_pinned_take_sums(wave->direction, list, count, copy.crcs);
    }
    return status;
}

/* One key's failure is not another's. */
static void copy_each(mcs_wave_t *wave, mcs_pinned_t *list, size_t count, bool host, uint64_t deadline_ns)
{
    bool summed = false;
    mcs_status_t status = copy_once(wave, list, count, &summed);
    for (size_t i = 0; i < count; i++) {
        mcs_pinned_t *pinned = &list[i];
        mcs_status_t alone = status;
        if (status != MCS_OK && count > 1) {
            pinned->status = MCS_OK;
            alone = copy_once(wave, pinned, 1, &summed);
        }
        if (alone == MCS_OK && host) {
            alone = sum_host(wave, pinned);
        } else if (alone == MCS_OK && !summed && pinned->blocks > 0) {
            stage(wave, pinned, deadline_ns); /* nobody has summed it */
        }
        if (alone != MCS_OK) {
            pinned->status = alone;
        }
    }
}

/* ---- a wave ---- */

typedef enum way { WAY_DEVICE, WAY_HOST, WAY_STAGED, WAYS } way_t;

static way_t way_of(const mcs_pinned_t *pinned)
{
    const mcs_mem_far_t *far = mcs_mapping_far(pinned->move->route->mapping);
    if (pinned->move->devices == NULL) {
        return WAY_HOST;
    }
    return pinned->device != MCS_MEM_HOST && (far->reach >> pinned->device & 1) != 0 ? WAY_DEVICE : WAY_STAGED;
}

/* In the order of their ways; how many there are of each. */
static void sort(mcs_wave_t *wave, size_t counts[WAYS])
{
    size_t at = 0;
    for (int way = 0; way < WAYS; way++) {
        size_t first = at;
        for (size_t i = at; i < wave->count; i++) {
            if ((int)way_of(&wave->pinned[i]) == way) {
                mcs_pinned_t swap = wave->pinned[at];
                wave->pinned[at++] = wave->pinned[i];
                wave->pinned[i] = swap;
            }
        }
        counts[way] = at - first;
    }
}

static void run_wave(mcs_wave_t *wave, uint64_t deadline_ns)
{
    size_t counts[WAYS];
    if (mcs_client_is_cancelled(wave->client)) {
        for (size_t i = 0; i < wave->count; i++) {
            wave->pinned[i].status = MCS_ERR_CLOSED;
        }
        mcs_wave_finish(wave);
        return;
    }
    sort(wave, counts);
    mcs_pinned_t *list = wave->pinned;
    if (counts[WAY_DEVICE] > 0) {
        copy_each(wave, list, counts[WAY_DEVICE], false, deadline_ns);
    }
    list += counts[WAY_DEVICE];
    if (counts[WAY_HOST] > 0) {
        copy_each(wave, list, counts[WAY_HOST], true, deadline_ns);
    }
    list += counts[WAY_HOST];
    for (size_t i = 0; i < counts[WAY_STAGED]; i++) {
        stage(wave, &list[i], deadline_ns);
    }
    mcs_wave_finish(wave);
}

void mcs_moves_run_far(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                       uint64_t deadline_ns, mcs_arena_t *arena)
{
    mcs_wave_t wave;
    const mcs_mapping_t *of = NULL;
    mcs_wave_init(&wave, client, direction, arena, PIECES_MAX);
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        const mcs_mapping_t *mapping = move->route->mapping;
        if (move->status != MCS_ERR_AGAIN || mapping == NULL || mcs_mapping_far(mapping) == NULL) {
            continue;
        }
        if (mapping != of || mcs_wave_is_full(&wave, move)) {
            run_wave(&wave, deadline_ns);
        }
        of = mapping;
        mcs_wave_add(&wave, move, deadline_ns);
    }
    run_wave(&wave, deadline_ns);
}
