/* core/base/rng: identities and their text. */
#include <signal.h>

#include "core/base/rng.h"
#include "tests/support/unit.h"

static void random_identities_differ(void **state)
{
    (void)state;
    mcs_id_t ids[256];
    for (size_t i = 0; i < 256; i++) {
        ids[i] = mcs_id_random();
        assert_false(mcs_id_is_none(ids[i]));
        for (size_t k = 0; k < i; k++) {
            assert_false(mcs_id_equal(ids[i], ids[k]));
        }
    }
    assert_true(mcs_random_u64() != mcs_random_u64());
    uint8_t none[1] = {7};
    mcs_random_bytes(none, 0);
    assert_int_equal(none[0], 7);
}

static void text_and_identity_are_inverse(void **state)
{
    (void)state;
    const mcs_id_t ids[] = {{0, 0}, {1, 2}, {UINT64_MAX, UINT64_MAX}, {0, UINT64_MAX}, {UINT64_C(1) << 63, 10}};
    char text[MCS_ID_TEXT_MAX];
    mcs_id_t back;
    for (size_t i = 0; i < MCS_ARRAY_LEN(ids); i++) {
        mcs_id_format(ids[i], text);
        assert_int_equal(mcs_id_parse(text, &back), MCS_OK);
        assert_true(mcs_id_equal(back, ids[i]));
    }
    mcs_id_format((mcs_id_t){12, 34}, text);
    assert_string_equal(text, "12-34");
    mcs_id_format((mcs_id_t){UINT64_MAX, UINT64_MAX}, text);
    assert_string_equal(text, "18446744073709551615-18446744073709551615");
}

static void other_texts_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "-",
                                      "1",
                                      "1-",
                                      "-1",
                                      "1-2-",
                                      "1-2-3",
                                      "a-1",
                                      "1-a",
                                      " 1-2",
                                      "1 -2",
                                      "1- 2",
                                      "1-2 ",
                                      "+1-2",
                                      "1--2",
                                      "0x1-2",
                                      "1_2",
                                      "18446744073709551616-1",
                                      "1-18446744073709551616",
                                      "000000000000000000001-1"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        mcs_id_t id = {5, 6};
        assert_int_equal(mcs_id_parse(bad[i], &id), MCS_ERR_INVALID_PARAMS);
        assert_true(id.hi == 5 && id.lo == 6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_identities_differ),
        cmocka_unit_test(text_and_identity_are_inverse),
        cmocka_unit_test(other_texts_are_refused),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
