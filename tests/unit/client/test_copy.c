/* core/client/copy: scattered memory, block CRCs. */
#include "core/client/copy.h"

#include <stdlib.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/wire/extent.h"
#include "tests/support/unit.h"

#define BLOCK MCS_EXTENT_CRC_BLOCK

static uint8_t *noise(size_t len)
{
    uint8_t *bytes = malloc(len);
    mcs_random_bytes(bytes, len);
    return bytes;
}

/* Cuts [0, len) into pieces of uneven lengths, empty ones among them. */
static size_t cut(uint8_t *bytes, size_t len, struct iovec *iov, size_t max)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        size_t piece = n % 5 == 4 ? 0 : MCS_MIN((size_t)(1 + (n * 7919) % 50000), len - at);
        piece = n == max - 1 ? len - at : piece;
        iov[n++] = (struct iovec){bytes + at, piece};
        at += piece;
    }
    return n;
}

static void check_round_trip(size_t len, bool stream)
{
    struct iovec iov[512];
    uint32_t crcs[8] = {0};
    uint8_t *source = noise(len);
    uint8_t *payload = malloc(len);
    uint8_t *target = calloc(1, len + 1);
    size_t n = cut(source, len, iov, 512);
    mcs_cursor_t cursor = mcs_cursor(iov, n);
    mcs_copy_in(payload, len, &cursor, crcs, stream);
    assert_memory_equal(payload, source, len);
    for (size_t i = 0; i * BLOCK < len; i++) {
        assert_int_equal(crcs[i], mcs_crc32c(0, source + i * BLOCK, MCS_MIN(BLOCK, len - i * BLOCK)));
    }
    n = cut(target, len, iov, 512);
    cursor = mcs_cursor(iov, n);
    assert_int_equal(mcs_copy_out(payload, len, &cursor, crcs, stream), MCS_OK);
    assert_memory_equal(target, source, len);
    assert_int_equal(target[len], 0);
    /* One bit anywhere is found. */
    payload[len / 2] ^= 4;
    cursor = mcs_cursor(iov, n);
    assert_int_equal(mcs_copy_out(payload, len, &cursor, crcs, stream), MCS_ERR_CHECKSUM_MISMATCH);
    free(source);
    free(payload);
    free(target);
}

static void what_is_copied_in_comes_out_again_with_its_sums(void **state)
{
    (void)state;
    static const size_t lens[] = {1, 63, 64, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 777};
    for (size_t i = 0; i < MCS_ARRAY_LEN(lens); i++) {
        check_round_trip(lens[i], false);
        check_round_trip(lens[i], true);
    }
}

static void a_cursor_skips_over_pieces_and_empty_ones(void **state)
{
    (void)state;
    uint8_t bytes[100];
    const struct iovec iov[] = {{bytes, 10}, {NULL, 0}, {bytes + 10, 5}, {bytes + 15, 0}, {bytes + 15, 85}};
    mcs_cursor_t cursor = mcs_cursor(iov, 5);
    uint8_t *at;
    mcs_cursor_skip(&cursor, 12);
    assert_int_equal(mcs_cursor_next(&cursor, 100, &at), 3);
    assert_ptr_equal(at, bytes + 12);
    assert_int_equal(mcs_cursor_next(&cursor, 7, &at), 7);
    assert_ptr_equal(at, bytes + 15);
    mcs_cursor_skip(&cursor, 78);
    assert_int_equal(mcs_cursor_next(&cursor, 1, &at), 0);
    cursor = mcs_cursor(iov, 5);
    mcs_cursor_skip(&cursor, 1000);
    assert_int_equal(mcs_cursor_next(&cursor, 1, &at), 0);
}

static void totals_refuse_what_cannot_be_memory(void **state)
{
    (void)state;
    char byte;
    uint64_t total = 7;
    const struct iovec null_piece[] = {{NULL, 1}};
    const struct iovec wraps[] = {{&byte, SIZE_MAX}};
    const struct iovec too_much[] = {{&byte, 10}, {&byte, 11}};
    const struct iovec fine[] = {{&byte, 10}, {NULL, 0}, {&byte, 10}};
    assert_int_equal(mcs_iov_total(null_piece, 1, UINT64_MAX, &total), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_iov_total(wraps, 1, UINT64_MAX, &total), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_iov_total(too_much, 2, 20, &total), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_iov_total(NULL, 1, 20, &total), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(total, 7);
    assert_int_equal(mcs_iov_total(fine, 3, 20, &total), MCS_OK);
    assert_int_equal(total, 20);
    assert_int_equal(mcs_iov_total(NULL, 0, 20, &total), MCS_OK);
    assert_int_equal(total, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_copied_in_comes_out_again_with_its_sums),
        cmocka_unit_test(a_cursor_skips_over_pieces_and_empty_ones),
        cmocka_unit_test(totals_refuse_what_cannot_be_memory),
    };
    return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
