/* See copy.h. Hot path: no memory is taken here. */
#include "core/client/copy.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/wire/extent.h"

void mcs_cursor_skip(mcs_cursor_t *cursor, uint64_t bytes)
{
    while (bytes > 0 && cursor->left > 0) {
        size_t here = cursor->iov->iov_len - cursor->at;
        if (bytes < here) {
            cursor->at += (size_t)bytes;
            return;
        }
        bytes -= here;
        cursor->iov++;
        cursor->left--;
        cursor->at = 0;
    }
}

mcs_status_t mcs_iov_total(const struct iovec *iov, size_t count, uint64_t max, uint64_t *total_out)
{
    if (iov == NULL && count > 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        uintptr_t end;
        if (iov[i].iov_len == 0) {
            continue;
        }
        if (iov[i].iov_base == NULL || __builtin_add_overflow((uintptr_t)iov[i].iov_base, iov[i].iov_len, &end) ||
            iov[i].iov_len > max - total) {
            return MCS_ERR_INVALID_PARAMS;
        }
        total += iov[i].iov_len;
    }
    *total_out = total;
    return MCS_OK;
}

/* ---- blocks ---- */

typedef uint32_t (*copy_fn)(uint32_t crc, void *dst, const void *src, size_t len);

static copy_fn copy_of(bool stream)
{
    return stream ? mcs_stream_crc32c : mcs_copy_crc32c;
}

uint32_t mcs_copy_piece_in(uint8_t *payload, uint64_t len, mcs_cursor_t *source, bool stream)
{
    copy_fn copy = copy_of(stream);
    uint32_t crc = 0;
    uint8_t *bytes;
    for (uint64_t done = 0; done < len;) {
        size_t n = mcs_cursor_next(source, len - done, &bytes);
        MCS_ENSURE(n > 0);
        crc = copy(crc, payload + done, bytes, n);
        done += n;
    }
    return crc;
}

uint32_t mcs_copy_piece_out(const uint8_t *payload, uint64_t len, mcs_cursor_t *target, bool stream)
{
    copy_fn copy = copy_of(stream);
    uint32_t crc = 0;
    uint8_t *bytes;
    for (uint64_t done = 0; done < len;) {
        size_t n = mcs_cursor_next(target, len - done, &bytes);
        MCS_ENSURE(n > 0);
        crc = copy(crc, bytes, payload + done, n);
        done += n;
    }
    return crc;
}

void mcs_copy_in(uint8_t *payload, uint64_t len, mcs_cursor_t *source, uint32_t *crcs, bool stream)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t block = MCS_MIN(len - done, MCS_EXTENT_CRC_BLOCK);
        *crcs++ = mcs_copy_piece_in(payload + done, block, source, stream);
        done += block;
    }
}

mcs_status_t mcs_copy_out(const uint8_t *payload, uint64_t len, mcs_cursor_t *target, const uint32_t *crcs, bool stream)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t block = MCS_MIN(len - done, MCS_EXTENT_CRC_BLOCK);
        if (mcs_copy_piece_out(payload + done, block, target, stream) != *crcs++) {
            return MCS_ERR_CHECKSUM_MISMATCH;
        }
        done += block;
    }
    return MCS_OK;
}

static void copy_plain(const uint8_t *payload, uint64_t len, mcs_cursor_t *target)
{
    uint8_t *bytes;
    for (uint64_t done = 0; done < len;) {
        size_t n = mcs_cursor_next(target, len - done, &bytes);
        MCS_ENSURE(n > 0);
        memcpy(bytes, payload + done, n);
        done += n;
    }
}

mcs_status_t mcs_copy_out_part(const uint8_t *payload, uint64_t payload_len, uint64_t from, uint64_t len,
                               mcs_cursor_t *target, const uint32_t *crcs, bool stream)
{
    uint64_t end = from + len;
    while (from < end) {
        uint64_t block = from / MCS_EXTENT_CRC_BLOCK;
        uint64_t block_end = MCS_MIN((block + 1) * MCS_EXTENT_CRC_BLOCK, payload_len);
        uint64_t n = MCS_MIN(block_end, end) - from;
        if (from % MCS_EXTENT_CRC_BLOCK == 0 && from + n == block_end) {
            mcs_status_t status = mcs_copy_out(payload + from, n, target, &crcs[block], stream);
            if (status != MCS_OK) {
                return status;
            }
        } else {
            copy_plain(payload + from, n, target);
        }
        from += n;
    }
    return MCS_OK;
}
