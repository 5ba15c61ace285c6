/* core/base/parse: tables of what is taken and what is refused; a refusal leaves the output alone. */
#include <locale.h>
#include <signal.h>

#include "core/base/parse.h"
#include "tests/support/unit.h"

typedef struct number {
    const char *text;
    uint64_t value;
} number_t;

static void sizes_are_parsed(void **state)
{
    (void)state;
    static const number_t good[] = {
        {"0", 0},
        {"1", 1},
        {"16777216", 16777216},
        {"16MB", 16 * MCS_MIB},
        {"16 MB", 16 * MCS_MIB},
        {"  16 mb \t", 16 * MCS_MIB},
        {"4g", 4 * MCS_GIB},
        {"4GB", 4 * MCS_GIB},
        {"1.5 GB", MCS_GIB + MCS_GIB / 2},
        {"0.5k", 512},
        {".5K", 512},
        {"5.b", 5},
        {"1.9", 1},
        {"2T", 2048 * MCS_GIB},
        {"1tb", 1024 * MCS_GIB},
        {"100B", 100},
        {"3 K", 3072},
        {"1e3", 1000},
        {"1.6E+07", 16000000},
        {"1e3MB", 1000 * MCS_MIB},
        {"1e-3 GB", 1073741},
        {"2e0t", 2048 * MCS_GIB},
        {"infinite", UINT64_MAX},
        {" INFINITE ", UINT64_MAX},
        {"18446744073709551615", UINT64_MAX},
        {"9007199254740993", UINT64_C(9007199254740993)}, /* more bits than a double has */
        {"16777215.99999999T", UINT64_C(18446744073698556116)},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(good); i++) {
        uint64_t bytes = 12345;
        assert_int_equal(mcs_parse_size(good[i].text, &bytes), MCS_OK);
        if (strchr(good[i].text, '9') != NULL && strchr(good[i].text, 'T') != NULL) {
            assert_true(bytes > UINT64_C(18446744073690000000)); /* a fraction has a double's precision */
        } else {
            assert_true(bytes == good[i].value);
        }
    }
    static const char *const bad[] = {"",
                                      " ",
                                      "MB",
                                      "-1",
                                      "-1MB",
                                      "+1",
                                      "50%",
                                      "1PB",
                                      "1 M B",
                                      "1..5G",
                                      "1.5.",
                                      ".",
                                      "0x10",
                                      "1e",
                                      "1e MB",
                                      "1e+",
                                      "1e-x",
                                      "e3",
                                      "nan",
                                      "inf",
                                      "1GiB",
                                      "1 2",
                                      "infinitely",
                                      "1,5G",
                                      "1_000",
                                      "١",
                                      "16MBx",
                                      "18446744073709551616",
                                      "16777216TB",
                                      "1e309",
                                      "99999999999999999999999999999999999999",
                                      "99999999999999999999.5T"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        uint64_t bytes = 12345;
        assert_int_equal(mcs_parse_size(bad[i], &bytes), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(bytes, 12345);
    }
}

static void durations_are_parsed(void **state)
{
    (void)state;
    static const number_t good[] = {{"10000", 10000},  {"0", 0},          {"5000ms", 5000}, {"500 ms", 500},
                                    {"5s", 5000},      {"1.5s", 1500},    {"30m", 1800000}, {"1h", 3600000},
                                    {" 1H ", 3600000}, {"0.25h", 900000}, {"0.5", 0},       {"24h", 86400000}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(good); i++) {
        uint64_t ms = 12345;
        assert_int_equal(mcs_parse_duration_ms(good[i].text, &ms), MCS_OK);
        assert_true(ms == good[i].value);
    }
    static const char *const bad[] = {
        "", "ms", "-5s", "5d", "5 s s", "5sec", "s5", "1e3", "inf", "99999999999999999999999h", "5s5m"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        uint64_t ms = 12345;
        assert_int_equal(mcs_parse_duration_ms(bad[i], &ms), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(ms, 12345);
    }
}

static void booleans_are_parsed(void **state)
{
    (void)state;
    static const char *const yes[] = {"1", "true", "TRUE", "yes", "on", " On ", "t", "y"};
    static const char *const no[] = {"0", "false", "No", "off", "F", "n"};
    static const char *const bad[] = {"", " ", "2", "10", "truee", "tru", "o", "enable", "yes no", "-1"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(yes); i++) {
        bool value = false;
        assert_int_equal(mcs_parse_bool(yes[i], &value), MCS_OK);
        assert_true(value);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(no); i++) {
        bool value = true;
        assert_int_equal(mcs_parse_bool(no[i], &value), MCS_OK);
        assert_false(value);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        bool value = true;
        assert_int_equal(mcs_parse_bool(bad[i], &value), MCS_ERR_INVALID_PARAMS);
        assert_true(value);
    }
}

static void integers_are_bounded(void **state)
{
    (void)state;
    uint64_t u = 7;
    int64_t i = 7;
    assert_int_equal(mcs_parse_u64("18446744073709551615", UINT64_MAX, &u), MCS_OK);
    assert_true(u == UINT64_MAX);
    assert_int_equal(mcs_parse_u64(" 65535 ", 65535, &u), MCS_OK);
    assert_int_equal(u, 65535);
    static const char *const bad_u[] = {"",    " ",   "-1", "+1", "65536", "18446744073709551616",
                                        "1.0", "0x1", "1a", "1 1"};
    for (size_t k = 0; k < MCS_ARRAY_LEN(bad_u); k++) {
        assert_int_equal(mcs_parse_u64(bad_u[k], 65535, &u), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(u, 65535);
    }
    assert_int_equal(mcs_parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &i), MCS_OK);
    assert_true(i == INT64_MIN);
    assert_int_equal(mcs_parse_i64("+5", 0, 10, &i), MCS_OK);
    assert_int_equal(i, 5);
    static const char *const bad_i[] = {"", "-", "+", "--1", "11", "-1", "9223372036854775808", "5x", "0.5"};
    for (size_t k = 0; k < MCS_ARRAY_LEN(bad_i); k++) {
        assert_int_equal(mcs_parse_i64(bad_i[k], 0, 10, &i), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(i, 5);
    }
}

static void reals_are_bounded_and_finite(void **state)
{
    (void)state;
    double d = 7;
    assert_int_equal(mcs_parse_double(" 0.95 ", 0, 1, &d), MCS_OK);
    assert_true(d == 0.95);
    assert_int_equal(mcs_parse_double("1e-2", 0, 1, &d), MCS_OK);
    static const char *const bad[] = {"", " ", "nan", "inf", "-inf", "1e999", "1.1", "-0.1", "0.5x", "0,5", "."};
    d = 0.25;
    for (size_t k = 0; k < MCS_ARRAY_LEN(bad); k++) {
        assert_int_equal(mcs_parse_double(bad[k], 0, 1, &d), MCS_ERR_INVALID_PARAMS);
        assert_true(d == 0.25);
    }
}

/* A host program may have set a locale with a decimal comma. */
static void decimal_point_is_a_point_in_every_locale(void **state)
{
    (void)state;
    static const char *const locales[] = {"de_DE.utf8", "de_DE.UTF-8", "fr_FR.utf8", "de_DE"};
    const char *set = NULL;
    for (size_t i = 0; i < MCS_ARRAY_LEN(locales) && set == NULL; i++) {
        set = setlocale(LC_NUMERIC, locales[i]);
    }
    if (set == NULL) {
        skip(); /* no such locale on this machine */
    }
    uint64_t bytes = 0;
    double d = 0;
    assert_int_equal(mcs_parse_size("1.5K", &bytes), MCS_OK);
    assert_int_equal(mcs_parse_double("0.5", 0, 1, &d), MCS_OK);
    setlocale(LC_NUMERIC, "C");
    assert_int_equal(bytes, 1536);
    assert_true(d == 0.5);
}

/* ---- hosts ---- */

typedef struct host {
    const char *text;
    const char *host;
    int port; /* -1 = none */
    bool ipv6;
    const char *printed; /* NULL: as given */
} host_t;

static const host_t g_hosts[] = {
    {"localhost", "localhost", -1, false, NULL},
    {"localhost:12345", "localhost", 12345, false, NULL},
    {"node-1.rack_2.example", "node-1.rack_2.example", -1, false, NULL},
    {"1.2.3.4", "1.2.3.4", -1, false, NULL},
    {"1.2.3.4:1", "1.2.3.4", 1, false, NULL},
    {"1.2.3.4:0", "1.2.3.4", 0, false, NULL},
    {"1.2.3.4:65535", "1.2.3.4", 65535, false, NULL},
    {"::1", "::1", -1, true, NULL},
    {"::", "::", -1, true, NULL},
    {"2001:db8::1", "2001:db8::1", -1, true, NULL},
    {"::ffff:1.2.3.4", "::ffff:1.2.3.4", -1, true, NULL},
    {"[::1]", "::1", -1, true, "::1"},
    {"[::1]:50051", "::1", 50051, true, NULL},
    {"[2001:db8::1]:80", "2001:db8::1", 80, true, NULL},
    {"fe80::1%eth0", "fe80::1%eth0", -1, true, NULL},
    {"fe80::1%eth0:99", "fe80::1%eth0", 99, true, "[fe80::1%eth0]:99"},
    {"[fe80::1%eth0]", "fe80::1%eth0", -1, true, "fe80::1%eth0"},
    {"[fe80::1%eth0]:99", "fe80::1%eth0", 99, true, NULL},
    {"1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8", 9, true, "[1:2:3:4:5:6:7:8]:9"}, /* not a literal as a whole */
    {"host:007", "host", 7, false, "host:7"},
};

static void hosts_are_parsed_and_printed(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_hosts); i++) {
        const host_t *row = &g_hosts[i];
        mcs_hostport_t hp;
        char text[300];
        assert_int_equal(mcs_parse_hostport(row->text, &hp), MCS_OK);
        assert_string_equal(hp.host, row->host);
        assert_int_equal(hp.has_port, row->port >= 0);
        assert_int_equal(hp.port, MCS_MAX(row->port, 0));
        assert_int_equal(hp.is_ipv6, row->ipv6);
        mcs_hostport_format(&hp, text, sizeof(text));
        assert_string_equal(text, row->printed != NULL ? row->printed : row->text);
        mcs_hostport_t again; /* what is printed parses to the same */
        assert_int_equal(mcs_parse_hostport(text, &again), MCS_OK);
        assert_string_equal(again.host, hp.host);
        assert_int_equal(again.port, hp.port);
    }
}

static void other_texts_are_no_hosts(void **state)
{
    (void)state;
    char at_limit[MCS_HOST_MAX];
    char too_long[MCS_HOST_MAX + 1];
    memset(at_limit, 'a', sizeof(at_limit));
    memset(too_long, 'a', sizeof(too_long));
    at_limit[MCS_HOST_MAX - 1] = '\0';
    too_long[MCS_HOST_MAX] = '\0';
    mcs_hostport_t hp;
    assert_int_equal(mcs_parse_hostport(at_limit, &hp), MCS_OK);
    const char *const bad[] = {"",
                               ":",
                               ":80",
                               "host:",
                               "host:x",
                               "host:-1",
                               "host:+1",
                               "host:65536",
                               "host: 80",
                               "host:80 ",
                               "a b",
                               "a/b",
                               "http://a",
                               "a:b:c",
                               "a:1:2",
                               "[::1",
                               "[::1]x",
                               "[::1]:",
                               "[::1]:x",
                               "[]",
                               "[]:80",
                               "[host]:80",
                               "[1.2.3.4]",
                               "::1]:80",
                               "[%eth0]",
                               "[::1%]:80",
                               "1:2:3:4:5:6:7:8:x",
                               "ho\nst",
                               "h\xc3\xb6st",
                               "host:18446744073709551616",
                               "host:99999999999999999999999",
                               "user@host",
                               "[e80::1%::1%91]",
                               "fe80::1%a%b:1",
                               "host:80:90",
                               too_long};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        mcs_hostport_t out = {.port = 77};
        if (mcs_parse_hostport(bad[i], &out) != MCS_ERR_INVALID_PARAMS) {
            fail_msg("taken as a host: \"%s\"", bad[i]);
        }
        assert_int_equal(out.port, 77);
    }
    char small[5];
    assert_int_equal(mcs_parse_hostport("localhost:80", &hp), MCS_OK);
    mcs_hostport_format(&hp, small, sizeof(small));
    assert_string_equal(small, "loca");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed),
        cmocka_unit_test(durations_are_parsed),
        cmocka_unit_test(booleans_are_parsed),
        cmocka_unit_test(integers_are_bounded),
        cmocka_unit_test(reals_are_bounded_and_finite),
        cmocka_unit_test(decimal_point_is_a_point_in_every_locale),
        cmocka_unit_test(hosts_are_parsed_and_printed),
        cmocka_unit_test(other_texts_are_no_hosts),
    };
    return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
