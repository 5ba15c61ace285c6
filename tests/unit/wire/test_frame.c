/* core/wire/frame: the header's bytes are ABI; nothing hostile gets through. */
#include <signal.h>

#include "core/wire/frame.h"
#include "tests/unit/wire/hostile.h"

static const mcs_frame_header_t g_header = {.kind = MCS_FRAME_REPLY,
                                            .verb = 30,
                                            .length = 0x01020304 & 0xffffff,
                                            .status = -704,
                                            .id = UINT64_C(0x1122334455667788),
                                            .epoch = UINT64_C(0x99aabbccddeeff00)};

static void header_bytes_are_as_documented(void **state)
{
    (void)state;
    static const uint8_t expected[MCS_FRAME_HEADER] = {'M',  'C',  'S',  '1',  1,    2,    30,   0,    0x04, 0x03, 0x02,
                                                       0x00, 0x40, 0xfd, 0xff, 0xff, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
                                                       0x22, 0x11, 0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99};
    uint8_t bytes[MCS_FRAME_HEADER];
    mcs_frame_encode(&g_header, bytes);
    assert_memory_equal(bytes, expected, sizeof(expected));
}

static bool same(const mcs_frame_header_t *a, const mcs_frame_header_t *b)
{
    return a->kind == b->kind && a->verb == b->verb && a->length == b->length && a->status == b->status &&
           a->id == b->id && a->epoch == b->epoch;
}

static void what_is_encoded_is_decoded(void **state)
{
    (void)state;
    static const int32_t statuses[] = {0, -1, INT32_MIN, INT32_MAX};
    static const uint64_t words[] = {0, 1, UINT64_MAX, UINT64_C(1) << 63};
    for (unsigned kind = MCS_FRAME_REQUEST; kind <= MCS_FRAME_NOTICE; kind++) {
        for (size_t i = 0; i < 4; i++) {
            mcs_frame_header_t in = {.kind = (uint8_t)kind,
                                     .verb = (uint16_t)(i * 21845),
                                     .length = i == 3 ? MCS_FRAME_MAX : (uint32_t)i,
                                     .status = statuses[i],
                                     .id = words[i],
                                     .epoch = words[3 - i]};
            mcs_frame_header_t out;
            uint8_t bytes[MCS_FRAME_HEADER];
            mcs_frame_encode(&in, bytes);
            assert_int_equal(mcs_frame_decode(bytes, MCS_FRAME_MAX, &out), MCS_OK);
            assert_true(same(&in, &out));
        }
    }
}

static void length_over_the_limit_is_refused(void **state)
{
    (void)state;
    static const uint32_t limits[] = {0, 1, MCS_FRAME_HELLO_MAX, MCS_FRAME_MAX};
    for (size_t i = 0; i < 4; i++) {
        for (int over = 0; over < 2; over++) {
            mcs_frame_header_t h = g_header;
            mcs_frame_header_t out = {.id = 5};
            uint8_t bytes[MCS_FRAME_HEADER];
            h.length = limits[i] + (uint32_t)over;
            mcs_frame_encode(&h, bytes);
            assert_int_equal(mcs_frame_decode(bytes, limits[i], &out), over ? MCS_ERR_PROTOCOL : MCS_OK);
            assert_true(!over || out.id == 5); /* nothing is written on failure */
        }
    }
}

static void check_flip(void *arg, const uint8_t *bytes, size_t len)
{
    const uint8_t *good = arg;
    mcs_frame_header_t out = {.id = 5};
    assert_int_equal(len, MCS_FRAME_HEADER);
    mcs_status_t status = mcs_frame_decode(bytes, MCS_FRAME_MAX, &out);
    if (memcmp(bytes, good, 4) != 0) {
        assert_int_equal(status, MCS_ERR_PROTOCOL);
    } else if (bytes[4] != MCS_FRAME_VERSION) {
        assert_int_equal(status, MCS_ERR_INVALID_VERSION);
    } else if (bytes[5] < 1 || bytes[5] > 3 || mcs_load_u32(bytes + 8) > MCS_FRAME_MAX) {
        assert_int_equal(status, MCS_ERR_PROTOCOL);
    } else {
        uint8_t again[MCS_FRAME_HEADER];
        assert_int_equal(status, MCS_OK);
        mcs_frame_encode(&out, again);
        assert_memory_equal(again, bytes, MCS_FRAME_HEADER);
        return;
    }
    assert_true(out.id == 5);
}

static void every_flipped_byte_is_seen_or_harmless(void **state)
{
    (void)state;
    uint8_t bytes[MCS_FRAME_HEADER];
    mcs_frame_encode(&g_header, bytes);
    hostile_flips(check_flip, bytes, bytes, sizeof(bytes));
}

static void verbs_have_names_and_flags(void **state)
{
    (void)state;
    assert_string_equal(mcs_verb_name(MCS_VERB_PUT_START), "put_start");
    assert_string_equal(mcs_verb_name(MCS_VERB_HELLO), "hello");
    assert_string_equal(mcs_verb_name(0), "?");
    assert_string_equal(mcs_verb_name(65535), "?");
    assert_int_equal(mcs_verb_flags(MCS_VERB_PUT_START), MCS_VERB_MUTATES);
    assert_int_equal(mcs_verb_flags(MCS_VERB_EXIST), 0);
    assert_int_equal(mcs_verb_flags(MCS_VERB_N_RELEASE), MCS_VERB_NOTICE);
    assert_int_equal(mcs_verb_flags(65535), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_bytes_are_as_documented),   cmocka_unit_test(what_is_encoded_is_decoded),
        cmocka_unit_test(length_over_the_limit_is_refused), cmocka_unit_test(every_flipped_byte_is_seen_or_harmless),
        cmocka_unit_test(verbs_have_names_and_flags),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
