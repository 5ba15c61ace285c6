/* core/base hashes: published vectors, and every way of summing the same bytes agrees. */
#include <signal.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "tests/support/unit.h"

/* RFC 3720, appendix B.4. */
static void crc32c_matches_the_rfc(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0};
    uint8_t ones[32];
    uint8_t up[32];
    uint8_t down[32];
    memset(ones, 0xff, sizeof(ones));
    for (unsigned i = 0; i < 32; i++) {
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    const uint8_t read_pdu[48] = {0x01, 0xc0, 0, 0, 0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0x14, 0, 0, 0,   0,
                                  0,    0x04, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0,    0, 0, 0x02};
    assert_true(mcs_crc32c(0, zeros, 32) == 0x8a9136aa);
    assert_true(mcs_crc32c(0, ones, 32) == 0x62a8ab43);
    assert_true(mcs_crc32c(0, up, 32) == 0x46dd794e);
    assert_true(mcs_crc32c(0, down, 32) == 0x113fdb5c);
    assert_true(mcs_crc32c(0, read_pdu, 48) == 0xd9963a56);
    assert_true(mcs_crc32c(0, "123456789", 9) == 0xe3069283);
    assert_true(mcs_crc32c(0, "", 0) == 0);
}

static uint32_t bitwise(const uint8_t *p, size_t len)
{
    uint32_t crc = ~UINT32_C(0);
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) {
            crc = (crc & 1) != 0 ? (crc >> 1) ^ UINT32_C(0x82f63b78) : crc >> 1;
        }
    }
    return ~crc;
}

#define BYTES 60000

static int make_bytes(void **state)
{
    uint8_t *bytes = mcs_malloc(BYTES + 8);
    uint32_t x = 1;
    for (size_t i = 0; i < BYTES + 8; i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(x >> 24);
    }
    *state = bytes;
    return 0;
}

static int free_bytes(void **state)
{
    mcs_free(*state);
    return 0;
}

/* Lengths around every threshold of the three-stream and the folding code, at each alignment. */
static const size_t g_lengths[] = {0,    1,     7,     8,     9,     63,    64,    255,   256,  257,  511,
                                   512,  513,   767,   768,   769,   1023,  1024,  1535,  1536, 1543, 8191,
                                   8192, 24575, 24576, 24577, 25343, 25344, 25345, 49152, 50000};

static void crc32c_is_right_at_every_length_and_alignment(void **state)
{
    const uint8_t *bytes = *state;
    uint8_t *copy = mcs_malloc(BYTES + 16);
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_lengths); i++) {
        for (size_t at = 0; at < 8; at++) {
            size_t len = g_lengths[i];
            uint32_t expected = bitwise(bytes + at, len);
            assert_int_equal(mcs_crc32c(0, bytes + at, len), expected);
            memset(copy, 0xee, BYTES + 16);
            assert_int_equal(mcs_copy_crc32c(0, copy + (at * 3) % 8, bytes + at, len), expected);
            assert_memory_equal(copy + (at * 3) % 8, bytes + at, len);
            assert_int_equal(copy[(at * 3) % 8 + len], 0xee); /* not one byte further */
        }
    }
    mcs_free(copy);
}

/* They go past the caches in whole lines of the target. */
static void a_streaming_copy_is_right_at_every_alignment_of_its_target(void **state)
{
    (void)state;
    const size_t len = 10000 + 333;
    uint8_t *bytes = mcs_malloc(len + 1);
    uint8_t *copy = mcs_malloc(len + 130);
    uint32_t random = 7;
    for (size_t i = 0; i <= len; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(random >> 24);
    }
    uint32_t expected[2] = {bitwise(bytes, len), bitwise(bytes + 1, len)};
    for (size_t at = 0; at < 66; at++) {
        memset(copy, 0xee, len + 130);
        assert_int_equal(mcs_stream_crc32c(0, copy + at, bytes + at % 2, len), expected[at % 2]);
        assert_memory_equal(copy + at, bytes + at % 2, len);
        assert_true(at == 0 || copy[at - 1] == 0xee);
        assert_int_equal(copy[at + len], 0xee);
    }
    mcs_free(copy);
    mcs_free(bytes);
}

static void crc32c_in_parts_is_that_of_the_whole(void **state)
{
    const uint8_t *bytes = *state;
    uint32_t whole = mcs_crc32c(0, bytes, BYTES);
    uint8_t *sink = mcs_malloc(BYTES);
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_lengths); i++) {
        size_t cut = g_lengths[i];
        uint32_t a = mcs_crc32c(0, bytes, cut);
        uint32_t b = mcs_crc32c(0, bytes + cut, BYTES - cut);
        assert_int_equal(mcs_crc32c(a, bytes + cut, BYTES - cut), whole);
        assert_int_equal(mcs_copy_crc32c(a, sink, bytes + cut, BYTES - cut), whole);
        assert_int_equal(mcs_crc32c_combine(a, b, BYTES - cut), whole);
    }
    assert_int_equal(mcs_crc32c_combine(whole, 0, 0), whole);
    assert_int_equal(mcs_crc32c_shift(whole, 0), whole);
    mcs_free(sink);
}

static void crc32c_combine_takes_any_length(void **state)
{
    (void)state;
    /* Appending zeros one by one and by the operator is the same, also across a 4 GiB length: 2^32 zeros are 2^16 times
     * 2^16 zeros. */
    uint32_t crc = mcs_crc32c(0, "mooncake", 8);
    uint8_t zeros[4096] = {0};
    uint32_t zeros_4k = mcs_crc32c(0, zeros, 4096);
    uint32_t by_parts = crc;
    uint32_t zeros_1m = 0;
    for (int i = 0; i < 256; i++) {
        by_parts = mcs_crc32c_combine(by_parts, zeros_4k, 4096);
        zeros_1m = i == 0 ? zeros_4k : mcs_crc32c_combine(zeros_1m, zeros_4k, 4096);
    }
    assert_int_equal(by_parts, mcs_crc32c_combine(crc, zeros_1m, MCS_MIB));
    uint32_t a = crc;
    uint32_t zeros_4g = 0;
    for (int i = 0; i < 4096; i++) {
        a = mcs_crc32c_combine(a, zeros_1m, MCS_MIB);
        zeros_4g = i == 0 ? zeros_1m : mcs_crc32c_combine(zeros_4g, zeros_1m, MCS_MIB);
    }
    assert_int_equal(a, mcs_crc32c_combine(crc, zeros_4g, 4 * MCS_GIB));
}

/* The vectors of the reference implementation: key 00..0f, message 00, 01 … of each length. */
static void siphash_matches_the_reference(void **state)
{
    (void)state;
    static const uint64_t expected[] = {
        UINT64_C(0x726fdb47dd0e0e31), UINT64_C(0x74f839c593dc67fd), UINT64_C(0x0d6c8009d9a94f5a),
        UINT64_C(0x85676696d7fb7e2d), UINT64_C(0xcf2794e0277187b7), UINT64_C(0x18765564cd99a68d),
        UINT64_C(0xcbc9466e58fee3ce), UINT64_C(0xab0200f58b01d137), UINT64_C(0x93f5f5799a932462),
        UINT64_C(0x9e0082df0ba9e4b0), UINT64_C(0x7a5dbbc594ddb9f3), UINT64_C(0xf4b32f46226bada7),
        UINT64_C(0x751e8fbc860ee5fb), UINT64_C(0x14ea5627c0843d90), UINT64_C(0xf723ca908e7af2ee),
        UINT64_C(0xa129ca6149be45e5)};
    const mcs_mac_key_t key = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    uint8_t message[64];
    for (unsigned i = 0; i < 64; i++) {
        message[i] = (uint8_t)i;
    }
    for (size_t len = 0; len < MCS_ARRAY_LEN(expected); len++) {
        assert_true(mcs_siphash24(&key, message, len) == expected[len]);
    }
    assert_true(mcs_siphash24(&key, message, 63) == UINT64_C(0x958a324ceb064572));
}

static void xxh3_matches_known_answers(void **state)
{
    (void)state;
    /* XXH3_64bits and XXH3_128bits of no bytes, seed 0: from the specification's test values. */
    assert_true(mcs_hash64(0, "", 0) == UINT64_C(0x2d06800538d394c2));
    mcs_hash128_t empty = mcs_hash128(0, "", 0);
    assert_true(empty.lo == UINT64_C(0x6001c324468d497f) && empty.hi == UINT64_C(0x99aa06d3014798d8));
    mcs_hash128_t a = mcs_hash128(1, "key", 3);
    mcs_hash128_t b = mcs_hash128(2, "key", 3);
    mcs_hash128_t c = mcs_hash128(1, "kez", 3);
    assert_true(a.lo != b.lo && a.hi != b.hi && a.lo != c.lo && a.hi != c.hi);
    assert_true(mcs_hash64(1, "key", 3) != mcs_hash64(2, "key", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_matches_the_rfc),
        cmocka_unit_test_setup_teardown(crc32c_is_right_at_every_length_and_alignment, make_bytes, free_bytes),
        cmocka_unit_test(a_streaming_copy_is_right_at_every_alignment_of_its_target),
        cmocka_unit_test_setup_teardown(crc32c_in_parts_is_that_of_the_whole, make_bytes, free_bytes),
        cmocka_unit_test(crc32c_combine_takes_any_length),
        cmocka_unit_test(siphash_matches_the_reference),
        cmocka_unit_test(xxh3_matches_known_answers),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
