/* See columns.h. */
#include "core/wire/columns.h"

#include <string.h>

mcs_status_t mcs_keys_encode(const mcs_key_t *keys, size_t count, mcs_buf_t *lens, mcs_buf_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        if (keys[i].len == 0 || keys[i].len > MCS_KEY_MAX) {
            return MCS_ERR_INVALID_PARAMS;
        }
        mcs_buf_put_u16(lens, (uint16_t)keys[i].len);
        mcs_buf_append(bytes, keys[i].bytes, keys[i].len);
    }
    return mcs_buf_status(lens) != MCS_OK ? mcs_buf_status(lens) : mcs_buf_status(bytes);
}

mcs_status_t mcs_keys_decode(const void *lens, size_t lens_len, const void *bytes, size_t bytes_len, mcs_key_t *keys,
                             size_t *count_out)
{
    size_t count;
    mcs_status_t status = mcs_column_count(lens_len, sizeof(uint16_t), MCS_BATCH_KEYS, &count);
    if (status != MCS_OK) {
        return status;
    }
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t len = mcs_load_u16((const char *)lens + i * sizeof(uint16_t));
        if (len == 0 || len > MCS_KEY_MAX || len > bytes_len - used) {
            return MCS_ERR_PROTOCOL;
        }
        keys[i].bytes = (const char *)bytes + used;
        keys[i].len = len;
        used += len;
    }
    if (used != bytes_len) {
        return MCS_ERR_PROTOCOL;
    }
    *count_out = count;
    return MCS_OK;
}

mcs_status_t mcs_column_count(size_t bytes, size_t record, size_t max, size_t *count_out)
{
    if (bytes % record != 0 || bytes / record > max) {
        return MCS_ERR_PROTOCOL;
    }
    *count_out = bytes / record;
    return MCS_OK;
}
