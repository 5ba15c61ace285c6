/* master/journal/pack: what is packed comes out as it was, whatever it is; garbage does not come out at all. */
#include "tests/unit/journal/folder.h"

#include "core/base/alloc.h"
#include "core/wire/extent.h"
#include "master/journal/pack.h"

static mcs_pack_t g_in;
static mcs_pack_t g_out;
static uint8_t g_body[MCS_JOURNAL_BODY_MAX];
static uint8_t g_packed[MCS_JOURNAL_BODY_MAX + MCS_PACK_SLACK];
static uint8_t g_again[MCS_JOURNAL_BODY_MAX];

static int setup(void **state)
{
    (void)state;
    mcs_pack_reset(&g_in);
    mcs_pack_reset(&g_out);
    g_dice_state = 99;
    return 0;
}

static uint64_t dice64(void)
{
    uint64_t value = 0;
    for (int i = 0; i < 4; i++) {
        value = value << 16 ^ dice(1u << 16);
    }
    return value >> dice(64);
}

/* A body of these texts; the rest by chance. */
static uint32_t make(mcs_record_kind_t kind, const char *key, uint32_t key_len, uint32_t group_len, uint32_t replicas)
{
    bool value = kind == MCS_REC_PUT || kind == MCS_REC_STRIKE_PUT;
    mcs_obj_head_t head = {.kind = (uint8_t)kind, .key_len = (uint16_t)key_len};
    if (value) {
        head.flags = (uint8_t)dice(4);
        head.data_type = (uint8_t)(dice(2) * dice(200));
        head.replica_count = (uint8_t)replicas;
        head.group_len = (uint16_t)group_len;
        head.payload_len = dice64() % MCS_OBJECT_MAX + 1;
        head.soft_wall_ms = (head.flags & MCS_OBJ_SOFT) != 0 ? dice64() : 0;
    }
    memcpy(g_body, &head, sizeof(head));
    uint8_t *at = g_body + sizeof(head);
    for (uint32_t i = 0; i < head.replica_count; i++) {
        mcs_obj_replica_t replica = {dice64(), dice64()};
        memcpy(at, &replica, sizeof(replica));
        at += sizeof(replica);
    }
    memset(at, 'g', head.group_len);
    memcpy(at + head.group_len, key, key_len);
    mcs_obj_t obj;
    assert_int_equal(mcs_obj_decode(g_body, mcs_obj_len(&head), &obj), MCS_OK);
    return mcs_obj_len(&head);
}

/* The length that it had. */
static uint32_t there_and_back(uint32_t len)
{
    uint32_t again = 0;
    uint32_t packed = mcs_pack_object(&g_in, g_body, len, g_packed);
    assert_true(packed <= len + MCS_PACK_SLACK);
    assert_int_equal(mcs_unpack_object(&g_out, g_packed, packed, g_again, &again), MCS_OK);
    assert_int_equal(again, len);
    assert_memory_equal(g_again, g_body, len);
    return packed;
}

static void a_record_comes_out_as_it_was(void **state)
{
    (void)state;
    static char key[MCS_KEY_MAX];
    for (int round = 0; round < 20000; round++) {
        uint32_t len = dice(50) == 0 ? MCS_KEY_MAX - dice(3) : 1 + dice(200);
        for (uint32_t i = dice(len + 1); i < len; i++) { /* what is before it is the last one's */
            key[i] = (char)dice(256);
        }
        mcs_record_kind_t kind = (mcs_record_kind_t)(1 + dice(4));
        uint32_t group = dice(3) == 0 ? dice(50) == 0 ? MCS_KEY_MAX : dice(40) : 0;
        there_and_back(make(kind, key, len, group, dice(10) == 0 ? MCS_OBJ_REPLICAS_MAX : 1 + dice(3)));
        if (dice(100) == 0) {
            mcs_pack_reset(&g_in);
            mcs_pack_reset(&g_out);
        }
    }
}

static void keys_that_share_their_text_are_small(void **state)
{
    (void)state;
    char key[160];
    uint64_t generation = UINT64_C(1) << 60;
    uint64_t place = UINT64_C(1) << 40;
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "meta-llama/Llama-3.1-70B-Instruct@pcp0@dcp0@head_or_tp_rank:0@pp_rank:0@%016llx",
                 (unsigned long long)i * 0x9e3779b97f4a7c15u);
        uint32_t len = make(MCS_REC_PUT, key, (uint32_t)strlen(key), 0, 1);
        mcs_obj_head_t head;
        memcpy(&head, g_body, sizeof(head));
        head.flags = head.data_type = 0;
        head.soft_wall_ms = 0;
        head.payload_len = 65536;
        memcpy(g_body, &head, sizeof(head));
        mcs_obj_replica_t replica = {generation += 1024 + dice(4096), place += 1025};
        memcpy(g_body + sizeof(head), &replica, sizeof(replica));
        uint32_t packed = there_and_back(len);
        assert_true(i == 0 || packed <= 32); /* of 128 */
    }
}

static void half_a_record_is_none(void **state)
{
    (void)state;
    const char key[] = "a key of some length";
    uint32_t again;
    for (int kind = 1; kind <= 4; kind++) {
        mcs_pack_reset(&g_in);
        uint32_t packed = mcs_pack_object(&g_in, g_body, make((mcs_record_kind_t)kind, key, 20, 5, 2), g_packed);
        for (uint32_t len = 0; len < packed; len++) {
            mcs_pack_reset(&g_out);
            assert_int_equal(mcs_unpack_object(&g_out, g_packed, len, g_again, &again), MCS_ERR_PROTOCOL);
        }
        g_packed[packed] = 0;
        mcs_pack_reset(&g_out);
        assert_int_equal(mcs_unpack_object(&g_out, g_packed, packed + 1, g_again, &again), MCS_ERR_PROTOCOL);
    }
}

static void what_is_no_record_does_not_come_out(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[24];
        uint32_t len;
    } rows[] = {
        {{0, 0, 1, 'k'}, 4},                                                      /* no kind */
        {{5, 0, 1, 'k'}, 4},                                                      /* another's kind */
        {{2, 1, 1, 'k'}, 4},                                                      /* shares a key that is not there */
        {{2 | 8, 0, 1, 'k'}, 4},                                                  /* a removal with attributes */
        {{0x82, 0, 1, 'k'}, 4},                                                   /* a bit that means nothing */
        {{2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 12},    /* longer than any key */
        {{2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 12}, /* a number without an end */
        {{1, 0, 1, 17, 1, 'k'}, 6},                                               /* too many replicas */
        {{1 | 32, 0, 1, 1, 1, 0x81, 0x40, 0, 0, 'k'}, 10},                        /* a group that is too long */
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        uint32_t again = 0;
        mcs_pack_reset(&g_out);
        assert_int_equal(mcs_unpack_object(&g_out, rows[i].bytes, rows[i].len, g_again, &again), MCS_ERR_PROTOCOL);
    }
}

#define TEST(name) cmocka_unit_test_setup(name, setup)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_record_comes_out_as_it_was),
        TEST(keys_that_share_their_text_are_small),
        TEST(half_a_record_is_none),
        TEST(what_is_no_record_does_not_come_out),
    };
    return cmocka_run_group_tests_name("packed records", tests, NULL, NULL);
}
