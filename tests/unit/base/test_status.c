/* core/base/status: the documented numbers and names, and that ours never leave the library. */
#include <signal.h>

#include "tests/support/unit.h"

typedef struct row {
    int value;
    const char *name;
    mcs_scope_t scope;
} row_t;

static const row_t g_all[] = {
#define MCS_STATUS_ROW(symbol, value, name, scope) {value, name, MCS_SCOPE_##scope},
#include "core/base/status.def"
#undef MCS_STATUS_ROW
};

/* The API's list, written down a second time: a change of a number is a broken engine. */
static const row_t g_documented[] = {
    {0, "OK", 0},
    {-1, "INTERNAL_ERROR", 0},
    {-10, "BUFFER_OVERFLOW", 0},
    {-101, "SEGMENT_NOT_FOUND", 0},
    {-102, "SEGMENT_ALREADY_EXISTS", 0},
    {-103, "CLIENT_NOT_FOUND", 0},
    {-200, "NO_AVAILABLE_HANDLE", 0},
    {-300, "INVALID_VERSION", 0},
    {-400, "INVALID_KEY", 0},
    {-500, "WRITE_FAIL", 0},
    {-600, "INVALID_PARAMS", 0},
    {-601, "ILLEGAL_CLIENT", 0},
    {-700, "INVALID_WRITE", 0},
    {-703, "REPLICA_IS_NOT_READY", 0},
    {-704, "OBJECT_NOT_FOUND", 0},
    {-705, "OBJECT_ALREADY_EXISTS", 0},
    {-706, "OBJECT_HAS_LEASE", 0},
    {-707, "LEASE_EXPIRED", 0},
    {-800, "TRANSFER_FAIL", 0},
    {-801, "CHECKSUM_MISMATCH", 0},
    {-900, "RPC_FAIL", 0},
    {-901, "RPC_TIMEOUT", 0},
    {-1011, "UNAVAILABLE_IN_CURRENT_MODE", 0},
    {-1402, "JOB_NOT_FOUND", 0},
    {-1702, "TENANT_NOT_EMPTY", 0},
};

static void documented_codes_keep_their_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_documented); i++) {
        assert_string_equal(mcs_status_name(g_documented[i].value), g_documented[i].name);
    }
}

static void every_code_is_known_by_name_and_scope(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_all); i++) {
        assert_true(mcs_status_known(g_all[i].value));
        assert_string_equal(mcs_status_name(g_all[i].value), g_all[i].name);
        assert_int_equal(mcs_status_scope(g_all[i].value), g_all[i].scope);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(g_all[i].name, g_all[k].name);
        }
    }
    assert_int_equal(mcs_status_scope(MCS_ERR_RPC_FAIL), MCS_SCOPE_MASTER);
    assert_int_equal(mcs_status_scope(MCS_ERR_TRANSFER_FAIL), MCS_SCOPE_PEER);
}

static void unknown_values_are_unknown(void **state)
{
    (void)state;
    const int64_t values[] = {
        1, -2, -999, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, (int64_t)1 << 32, -704 - ((int64_t)1 << 32)};
    for (size_t i = 0; i < MCS_ARRAY_LEN(values); i++) {
        assert_false(mcs_status_known(values[i]));
    }
    assert_string_equal(mcs_status_name(12345), "UNKNOWN_ERROR");
    assert_int_equal(mcs_status_scope(12345), MCS_SCOPE_PROCESS);
}

static void only_documented_codes_leave_the_library(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_all); i++) {
        mcs_status_t out = mcs_status_public((mcs_status_t)g_all[i].value);
        if (g_all[i].value > -9000) {
            assert_int_equal(out, g_all[i].value);
        } else if (g_all[i].value == MCS_ERR_INTERRUPTED) {
            assert_int_equal(out, MCS_ERR_INTERRUPTED);
        } else {
            assert_true(out < 0 && out > -9000);
            assert_int_not_equal(out, MCS_ERR_INTERNAL); /* each has a meaning of its own outside */
        }
    }
    assert_int_equal(mcs_status_public(MCS_ERR_NO_MEMORY), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_status_public(MCS_ERR_SESSION_ENDED), MCS_ERR_RPC_FAIL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documented_codes_keep_their_numbers),
        cmocka_unit_test(every_code_is_known_by_name_and_scope),
        cmocka_unit_test(unknown_values_are_unknown),
        cmocka_unit_test(only_documented_codes_leave_the_library),
    };
    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
