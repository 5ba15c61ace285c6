/* Key columns, record columns and extent headers. Input: u16 length of the first column, the column, the rest. */
#include <stdlib.h>
#include <string.h>

#include "core/wire/columns.h"
#include "core/wire/extent.h"

static mcs_key_t g_keys[MCS_BATCH_KEYS];

/* What decodes tiles the bytes, and encodes to the same columns. */
static void attack_keys(const uint8_t *lens, size_t lens_len, const uint8_t *bytes, size_t bytes_len)
{
    size_t count;
    mcs_buf_t again_lens;
    mcs_buf_t again_bytes;
    if (mcs_keys_decode(lens, lens_len, bytes, bytes_len, g_keys, &count) != MCS_OK) {
        return;
    }
    mcs_buf_init(&again_lens, (size_t)1 << 20);
    mcs_buf_init(&again_bytes, (size_t)64 << 20);
    if (mcs_keys_encode(g_keys, count, &again_lens, &again_bytes) != MCS_OK || again_lens.len != lens_len ||
        again_bytes.len != bytes_len || (lens_len > 0 && memcmp(again_lens.bytes, lens, lens_len) != 0) ||
        (bytes_len > 0 && memcmp(again_bytes.bytes, bytes, bytes_len) != 0)) {
        abort();
    }
    mcs_buf_fini(&again_lens);
    mcs_buf_fini(&again_bytes);
}

static void attack_header(const uint8_t *bytes, size_t len)
{
    mcs_extent_header_t header;
    if (len < sizeof(header)) {
        return;
    }
    memcpy(&header, bytes, sizeof(header));
    mcs_id_t instance = {1, 2};
    if (mcs_extent_check(&header, instance, header.generation, header.payload_len) == MCS_EXTENT_WRITTEN &&
        mcs_extent_seal(&header, header.generation)) {
        abort(); /* sealed twice */
    }
    mcs_extent_kill(&header);
    if (mcs_extent_check(&header, instance, header.generation, header.payload_len) != MCS_EXTENT_DEAD) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    size_t count;
    if (len < 2) {
        return 0;
    }
    size_t first = MCS_MIN((size_t)mcs_load_u16(bytes), len - 2);
    attack_keys(bytes + 2, first, bytes + 2 + first, len - 2 - first);
    attack_header(bytes + 2, len - 2);
    if (mcs_column_count(len, sizeof(mcs_col_replica_t), 100, &count) == MCS_OK &&
        count * sizeof(mcs_col_replica_t) != len) {
        abort();
    }
    return 0;
}
