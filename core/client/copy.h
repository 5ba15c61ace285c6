/* Copies between a caller's scattered memory and the payload of an extent, with the CRC of each block summed in the
 * same pass. Pure functions. */
#ifndef MCS_CLIENT_COPY_H
#define MCS_CLIENT_COPY_H

#include <sys/uio.h>

#include "core/base/status.h"

/* Walks over scattered memory. */
typedef struct mcs_cursor {
    const struct iovec *iov;
    size_t left; /* entries, the present one included */
    size_t at;   /* bytes of the present entry that are behind us */
} mcs_cursor_t;

static inline mcs_cursor_t mcs_cursor(const struct iovec *iov, size_t count)
{
    return (mcs_cursor_t){iov, count, 0};
}
void mcs_cursor_skip(mcs_cursor_t *cursor, uint64_t bytes);
/* The next piece in one stretch, at most `max` bytes; 0 at the end. */
static inline size_t mcs_cursor_next(mcs_cursor_t *cursor, uint64_t max, uint8_t **bytes_out)
{
    while (cursor->left > 0 && cursor->at == cursor->iov->iov_len) {
        cursor->iov++;
        cursor->left--;
        cursor->at = 0;
    }
    if (cursor->left == 0) {
        *bytes_out = NULL;
        return 0;
    }
    size_t len = (size_t)MCS_MIN((uint64_t)(cursor->iov->iov_len - cursor->at), max);
    *bytes_out = (uint8_t *)cursor->iov->iov_base + cursor->at;
    cursor->at += len;
    return len;
}

/* Sum of the lengths. MCS_ERR_INVALID_PARAMS: a null pointer with a length, a piece that wraps around, or a sum over
 * `max`. */
mcs_status_t mcs_iov_total(const struct iovec *iov, size_t count, uint64_t max, uint64_t *total_out) MCS_MUST_CHECK;

/* Any bytes of a payload, in or out; the CRC of those alone. The cursor stands at their place in the caller's memory.
 * `stream`: past the caches (MCS_STREAM_MIN), in a unit of mcs_copiers_run, which fences. */
uint32_t mcs_copy_piece_in(uint8_t *payload, uint64_t len, mcs_cursor_t *source, bool stream);
uint32_t mcs_copy_piece_out(const uint8_t *payload, uint64_t len, mcs_cursor_t *target, bool stream);
/* Whole blocks, from the beginning of one on; crcs[0] is the first block's. */
void mcs_copy_in(uint8_t *payload, uint64_t len, mcs_cursor_t *source, uint32_t *crcs, bool stream);
/* MCS_ERR_CHECKSUM_MISMATCH at the first block that does not agree; what has been copied is not to be used. */
mcs_status_t mcs_copy_out(const uint8_t *payload, uint64_t len, mcs_cursor_t *target, const uint32_t *crcs, bool stream)
    MCS_MUST_CHECK;
/* Bytes [from, from + len) of a payload of payload_len bytes, both given whole: `crcs` are those of the whole payload.
 * Blocks that lie in the part whole are checked, of others only bytes are copied. */
mcs_status_t mcs_copy_out_part(const uint8_t *payload, uint64_t payload_len, uint64_t from, uint64_t len,
                               mcs_cursor_t *target, const uint32_t *crcs, bool stream) MCS_MUST_CHECK;

#endif
