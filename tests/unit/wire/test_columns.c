/* core/wire/columns: key columns round-trip, and lengths that do not add up are refused before a record is seen. */
#include <signal.h>

#include "core/wire/cap.h"
#include "core/wire/columns.h"
#include "tests/unit/wire/hostile.h"

static mcs_key_t g_keys[MCS_BATCH_KEYS];

static mcs_status_t decode(const mcs_buf_t *lens, const mcs_buf_t *bytes, size_t *count)
{
    return mcs_keys_decode(lens->bytes, lens->len, bytes->bytes, bytes->len, g_keys, count);
}

typedef struct columns {
    mcs_buf_t lens;
    mcs_buf_t bytes;
} columns_t;

static void columns_init(columns_t *c)
{
    mcs_buf_init(&c->lens, 1 << 20);
    mcs_buf_init(&c->bytes, (size_t)64 << 20);
}

static void columns_fini(columns_t *c)
{
    mcs_buf_fini(&c->lens);
    mcs_buf_fini(&c->bytes);
}

static void keys_come_back_as_they_were(void **state)
{
    (void)state;
    static char longest[MCS_KEY_MAX];
    memset(longest, 'k', sizeof(longest));
    const mcs_key_t keys[] = {{"a", 1}, {"with\0zero", 9}, {"\xff\xfe", 2}, {longest, MCS_KEY_MAX}, {"a", 1}};
    columns_t c;
    size_t count = 77;
    columns_init(&c);
    assert_int_equal(mcs_keys_encode(keys, MCS_ARRAY_LEN(keys), &c.lens, &c.bytes), MCS_OK);
    assert_int_equal(c.lens.len, 2 * MCS_ARRAY_LEN(keys));
    assert_int_equal(decode(&c.lens, &c.bytes, &count), MCS_OK);
    assert_int_equal(count, MCS_ARRAY_LEN(keys));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(g_keys[i].len, keys[i].len);
        assert_memory_equal(g_keys[i].bytes, keys[i].bytes, keys[i].len);
    }
    columns_fini(&c);
}

static void no_keys_are_fine(void **state)
{
    (void)state;
    size_t count = 77;
    assert_int_equal(mcs_keys_decode(NULL, 0, NULL, 0, g_keys, &count), MCS_OK);
    assert_int_equal(count, 0);
}

static void keys_that_are_no_keys_are_not_encoded(void **state)
{
    (void)state;
    static char too_long[MCS_KEY_MAX + 1];
    const mcs_key_t empty = {"", 0};
    const mcs_key_t over = {too_long, MCS_KEY_MAX + 1};
    columns_t c;
    columns_init(&c);
    assert_int_equal(mcs_keys_encode(&empty, 1, &c.lens, &c.bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_keys_encode(&over, 1, &c.lens, &c.bytes), MCS_ERR_INVALID_PARAMS);
    columns_fini(&c);
    mcs_buf_init(&c.lens, 3);
    mcs_buf_init(&c.bytes, 64);
    const mcs_key_t two[] = {{"a", 1}, {"b", 1}};
    assert_int_equal(mcs_keys_encode(two, 2, &c.lens, &c.bytes), MCS_ERR_LIMIT);
    columns_fini(&c);
    mcs_buf_init(&c.lens, 64);
    mcs_buf_init(&c.bytes, 1);
    assert_int_equal(mcs_keys_encode(two, 2, &c.lens, &c.bytes), MCS_ERR_LIMIT);
    columns_fini(&c);
}

static void the_most_keys_of_a_request_and_one_more(void **state)
{
    (void)state;
    columns_t c;
    size_t count;
    const mcs_key_t key = {"k", 1};
    columns_init(&c);
    for (size_t i = 0; i < MCS_BATCH_KEYS; i++) {
        assert_int_equal(mcs_keys_encode(&key, 1, &c.lens, &c.bytes), MCS_OK);
    }
    assert_int_equal(decode(&c.lens, &c.bytes, &count), MCS_OK);
    assert_int_equal(count, MCS_BATCH_KEYS);
    assert_int_equal(mcs_keys_encode(&key, 1, &c.lens, &c.bytes), MCS_OK);
    count = 77;
    assert_int_equal(decode(&c.lens, &c.bytes, &count), MCS_ERR_PROTOCOL);
    assert_int_equal(count, 77);
    columns_fini(&c);
}

/* Whatever the lengths say, a decoded batch tiles the bytes exactly. */
static void check(const void *lens, size_t lens_len, const void *bytes, size_t bytes_len)
{
    size_t count = 77;
    mcs_status_t status = mcs_keys_decode(lens, lens_len, bytes, bytes_len, g_keys, &count);
    if (status != MCS_OK) {
        assert_int_equal(status, MCS_ERR_PROTOCOL);
        assert_int_equal(count, 77);
        return;
    }
    const char *at = bytes;
    for (size_t i = 0; i < count; i++) {
        assert_ptr_equal(g_keys[i].bytes, at);
        assert_in_range(g_keys[i].len, 1, MCS_KEY_MAX);
        at += g_keys[i].len;
    }
    assert_ptr_equal(at, (const char *)bytes + bytes_len);
}

static columns_t g_good;

static void bad_lens(void *arg, const uint8_t *lens, size_t len)
{
    (void)arg;
    check(lens, len, g_good.bytes.bytes, g_good.bytes.len);
}

static void bad_bytes(void *arg, const uint8_t *bytes, size_t len)
{
    (void)arg;
    size_t count = 0;
    check(g_good.lens.bytes, g_good.lens.len, bytes, len);
    if (len != g_good.bytes.len) { /* a key column that is cut never passes */
        assert_int_equal(mcs_keys_decode(g_good.lens.bytes, g_good.lens.len, bytes, len, g_keys, &count),
                         MCS_ERR_PROTOCOL);
    }
}

static void truncated_and_flipped_columns_are_refused_or_whole(void **state)
{
    (void)state;
    char text[40][16];
    columns_init(&g_good);
    for (size_t i = 0; i < 40; i++) {
        int len = snprintf(text[i], sizeof(text[i]), "key-%zu", i * 1000);
        mcs_key_t key = {text[i], (uint32_t)len};
        assert_int_equal(mcs_keys_encode(&key, 1, &g_good.lens, &g_good.bytes), MCS_OK);
    }
    hostile_truncations(bad_lens, NULL, g_good.lens.bytes, g_good.lens.len);
    hostile_truncations(bad_bytes, NULL, g_good.bytes.bytes, g_good.bytes.len);
    hostile_flips(bad_lens, NULL, g_good.lens.bytes, g_good.lens.len);
    hostile_flips(bad_bytes, NULL, g_good.bytes.bytes, g_good.bytes.len);
    columns_fini(&g_good);
}

static void lengths_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint16_t lens[3];
        size_t lens_len;
        size_t bytes_len;
    } cases[] = {{{0}, 2, 0},
                 {{0, 4}, 4, 4},
                 {{4, 0}, 4, 4},
                 {{5}, 2, 4},
                 {{3}, 2, 4},
                 {{0xffff}, 2, 4},
                 {{MCS_KEY_MAX + 1}, 2, MCS_KEY_MAX + 1},
                 {{2, 2}, 3, 4},
                 {{2, 2}, 1, 4},
                 {{0}, 0, 1},
                 {{1, 0xffff, 1}, 6, 4},
                 {{0x8000, 0x8000}, 4, 0}};
    static uint8_t bytes[MCS_KEY_MAX + 1];
    for (size_t i = 0; i < MCS_ARRAY_LEN(cases); i++) {
        size_t count = 77;
        assert_int_equal(mcs_keys_decode(cases[i].lens, cases[i].lens_len, bytes, cases[i].bytes_len, g_keys, &count),
                         MCS_ERR_PROTOCOL);
        assert_int_equal(count, 77);
    }
}

static void columns_hold_whole_records_up_to_a_maximum(void **state)
{
    (void)state;
    size_t count = 77;
    assert_int_equal(mcs_column_count(0, 8, 10, &count), MCS_OK);
    assert_int_equal(count, 0);
    assert_int_equal(mcs_column_count(80, 8, 10, &count), MCS_OK);
    assert_int_equal(count, 10);
    assert_int_equal(mcs_column_count(88, 8, 10, &count), MCS_ERR_PROTOCOL);
    assert_int_equal(mcs_column_count(79, 8, 10, &count), MCS_ERR_PROTOCOL);
    assert_int_equal(mcs_column_count(SIZE_MAX, 8, SIZE_MAX, &count), MCS_ERR_PROTOCOL);
    assert_int_equal(count, 10);
}

/* Rule 5: the mac binds each thing that a right is about. */
static void capability_differs_in_every_field(void **state)
{
    (void)state;
    const mcs_mac_key_t key = {1, 2};
    const mcs_id_t session = {3, 4};
    const mcs_id_t instance = {5, 6};
    uint64_t macs[] = {
        mcs_cap_mac(&key, session, instance, 64, 100, 7, MCS_CAP_READ),
        mcs_cap_mac(&key, session, instance, 64, 100, 7, MCS_CAP_WRITE),
        mcs_cap_mac(&key, session, instance, 128, 100, 7, MCS_CAP_READ),
        mcs_cap_mac(&key, session, instance, 64, 101, 7, MCS_CAP_READ),
        mcs_cap_mac(&key, session, instance, 64, 100, 8, MCS_CAP_READ),
        mcs_cap_mac(&key, instance, session, 64, 100, 7, MCS_CAP_READ),
        mcs_cap_mac(&key, session, session, 64, 100, 7, MCS_CAP_READ),
        mcs_cap_mac(&(mcs_mac_key_t){1, 3}, session, instance, 64, 100, 7, MCS_CAP_READ),
        mcs_cap_mac(&(mcs_mac_key_t){2, 2}, session, instance, 64, 100, 7, MCS_CAP_READ),
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(macs); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_true(macs[i] != macs[k]);
        }
    }
    assert_true(macs[0] == mcs_cap_mac(&key, session, instance, 64, 100, 7, MCS_CAP_READ));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_come_back_as_they_were),
        cmocka_unit_test(no_keys_are_fine),
        cmocka_unit_test(keys_that_are_no_keys_are_not_encoded),
        cmocka_unit_test(the_most_keys_of_a_request_and_one_more),
        cmocka_unit_test(truncated_and_flipped_columns_are_refused_or_whole),
        cmocka_unit_test(lengths_that_lie_are_refused),
        cmocka_unit_test(columns_hold_whole_records_up_to_a_maximum),
        cmocka_unit_test(capability_differs_in_every_field),
    };
    return cmocka_run_group_tests_name("columns", tests, NULL, NULL);
}
