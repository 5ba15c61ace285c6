/* core/base/buf: growth up to the limit, the sticky failure, little-endian fields. */
#include <signal.h>

#include "core/base/buf.h"
#include "tests/support/unit.h"

static void fields_are_little_endian_and_unaligned(void **state)
{
    (void)state;
    const uint8_t expected[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
                                0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08};
    mcs_buf_t b;
    mcs_buf_init(&b, 64);
    mcs_buf_put_u8(&b, 0x01);
    mcs_buf_put_u16(&b, 0x0203);
    mcs_buf_put_u32(&b, 0x04050607);
    mcs_buf_put_u64(&b, UINT64_C(0x08090a0b0c0d0e0f));
    assert_int_equal(b.len, sizeof(expected));
    assert_memory_equal(b.bytes, expected, sizeof(expected));
    assert_int_equal(mcs_load_u16(b.bytes + 1), 0x0203);
    assert_int_equal(mcs_load_u32(b.bytes + 3), 0x04050607);
    assert_true(mcs_load_u64(b.bytes + 7) == UINT64_C(0x08090a0b0c0d0e0f));
    mcs_store_u16(b.bytes + 1, 0xbeef);
    mcs_store_u32(b.bytes + 3, 0xdeadbeef);
    mcs_store_u64(b.bytes + 7, 1);
    assert_int_equal(mcs_load_u16(b.bytes + 1), 0xbeef);
    assert_true(mcs_load_u32(b.bytes + 3) == 0xdeadbeef);
    assert_true(mcs_load_u64(b.bytes + 7) == 1);
    mcs_buf_fini(&b);
}

static void limit_is_exact_and_failure_sticks(void **state)
{
    (void)state;
    for (size_t limit = 0; limit < 600; limit += 7) {
        mcs_buf_t b;
        mcs_buf_init(&b, limit);
        for (size_t i = 0; i < limit; i++) {
            mcs_buf_put_u8(&b, (uint8_t)i);
        }
        assert_int_equal(mcs_buf_status(&b), MCS_OK);
        assert_int_equal(b.len, limit);
        assert_true(b.cap <= limit);
        mcs_buf_put_u8(&b, 1);
        assert_int_equal(mcs_buf_status(&b), MCS_ERR_LIMIT);
        assert_int_equal(b.len, limit);
        assert_null(mcs_buf_extend(&b, 0)); /* no append after a failure, not even one that would fit */
        mcs_buf_reset(&b);
        assert_int_equal(mcs_buf_status(&b), MCS_OK);
        mcs_buf_append(&b, NULL, 0);
        assert_int_equal(b.len, 0);
        mcs_buf_fini(&b);
    }
}

static void huge_requests_do_not_wrap(void **state)
{
    (void)state;
    mcs_buf_t b;
    mcs_buf_init(&b, 4096);
    mcs_buf_put_u64(&b, 1);
    assert_int_equal(mcs_buf_reserve(&b, SIZE_MAX), MCS_ERR_LIMIT);
    assert_null(mcs_buf_extend(&b, SIZE_MAX - 4));
    assert_int_equal(b.len, 8);
    mcs_buf_fini(&b);
}

static void text_is_formatted_and_terminated(void **state)
{
    (void)state;
    mcs_buf_t b;
    mcs_buf_init(&b, 4096);
    assert_string_equal(mcs_buf_cstr(&b), "");
    mcs_buf_printf(&b, "%s=%d", "port", 50051);
    mcs_buf_printf(&b, "%s", "");
    assert_string_equal(mcs_buf_cstr(&b), "port=50051");
    assert_int_equal(b.len, 10);
    mcs_buf_printf(&b, "%5000d", 1);
    assert_int_equal(mcs_buf_status(&b), MCS_ERR_LIMIT);
    assert_int_equal(b.len, 10);
    assert_string_equal(mcs_buf_cstr(&b), ""); /* a text that is not whole is not shown as one */
    mcs_buf_fini(&b);
}

static void consume_moves_the_rest_down(void **state)
{
    (void)state;
    mcs_buf_t b;
    mcs_buf_init(&b, 64);
    mcs_buf_append(&b, "abcdef", 6);
    mcs_buf_consume(&b, 0);
    mcs_buf_consume(&b, 2);
    assert_memory_equal(b.bytes, "cdef", 4);
    assert_int_equal(b.len, 4);
    mcs_buf_consume(&b, 4);
    assert_int_equal(b.len, 0);
    mcs_buf_fini(&b);
}

static void consume_too_much(void *arg)
{
    mcs_buf_t b;
    (void)arg;
    mcs_buf_init(&b, 64);
    mcs_buf_put_u8(&b, 1);
    mcs_buf_consume(&b, 2);
}

static void consuming_more_than_there_is_aborts(void **state)
{
    (void)state;
    assert_true(unit_aborts(consume_too_much, NULL, "len <= b->len"));
}

static mcs_status_t grow(void *arg)
{
    mcs_buf_t b;
    (void)arg;
    mcs_buf_init(&b, MCS_MIB);
    for (uint32_t i = 0; i < 1000; i++) {
        mcs_buf_put_u32(&b, i);
    }
    mcs_buf_printf(&b, "%0400d", 0);
    mcs_status_t status = mcs_buf_status(&b);
    assert_true(status == MCS_OK || status == MCS_ERR_NO_MEMORY);
    for (size_t at = 0; at + 4 <= MCS_MIN(b.len, (size_t)4000);
         at += 4) { /* what was there before the failure is whole */
        assert_int_equal(mcs_load_u32(b.bytes + at), at / 4);
    }
    mcs_buf_fini(&b);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, grow, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_little_endian_and_unaligned),
        cmocka_unit_test(limit_is_exact_and_failure_sticks),
        cmocka_unit_test(huge_requests_do_not_wrap),
        cmocka_unit_test(text_is_formatted_and_terminated),
        cmocka_unit_test(consume_moves_the_rest_down),
        cmocka_unit_test(consuming_more_than_there_is_aborts),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
