/* core/base/config: defaults < file < environment < flags, gflags' spellings, and messages that name the knob. */
#include <signal.h>
#include <stdlib.h>

#include "core/base/config.h"
#include "tests/support/unit.h"

typedef struct conf {
    bool on;
    bool off;
    int64_t integer;
    uint64_t number;
    uint64_t size;
    uint64_t duration;
    double ratio;
    char *text;
    char *secret;
    bool present;
    bool no_such;
    bool skipped;
    int64_t skipped_int;
    uint64_t nof_limit;
} conf_t;

#define ROW(name, env, def, kind, flags, field, lo, hi)                                                                \
    {                                                                                                                  \
        name, env, def, MCS_CONFIG_##kind, flags, offsetof(conf_t, field), lo, hi, "what " #field " means"             \
    }
static const mcs_config_row_t g_rows[] = {
    ROW("turn_on", "MCS_T_ON", "true", BOOL, 0, on, 0, 0),
    ROW("turn_off", NULL, "false", BOOL, 0, off, 0, 0),
    ROW("integer", "MCS_T_INT", "-5", INT, MCS_CONFIG_LENIENT_ENV, integer, -10, 10),
    ROW("number", "MCS_T_NUMBER", "7", UINT, 0, number, 1, 100),
    ROW("size", "MCS_T_SIZE", "16MB", SIZE, 0, size, 0, 0),
    ROW("some_time", "MCS_T_TIME", "5s", DURATION, 0, duration, 0, 60000),
    ROW("ratio", "MCS_T_RATIO", "0.90", DOUBLE, 0, ratio, 0, 1),
    ROW("text", "MCS_T_TEXT", "hello", STRING, 0, text, 0, 0),
    ROW("the_text", NULL, "hello", STRING, MCS_CONFIG_ALIAS, text, 0, 0),
    ROW("secret", "MCS_T_SECRET", "", STRING, MCS_CONFIG_SECRET, secret, 0, 0),
    ROW("presence", "MCS_T_PRESENT", "0", PRESENCE, 0, present, 0, 0),
    ROW("no_such_thing", NULL, "false", BOOL, MCS_CONFIG_UNSUPPORTED, no_such, 0, 0),
    ROW("skipped", NULL, "true", BOOL, MCS_CONFIG_IGNORED, skipped, 0, 0),
    ROW("skipped_int", NULL, "0", INT, MCS_CONFIG_IGNORED, skipped_int, 0, 0),
    ROW("nof_limit", NULL, "3", UINT, 0, nof_limit, 0, 0),
    ROW(NULL, "MCS_T_ONLY_ENV", "3", UINT, 0, nof_limit, 0, 0),
    ROW(NULL, "MCS_T_FAMILY_KNOWN", "3", UINT, 0, nof_limit, 0, 0),
    ROW(NULL, "MCS_T_FAMILY_*", "", PRESENCE, MCS_CONFIG_IGNORED, present, 0, 0),
    ROW(NULL, "MCS_T_HUSH", "", PRESENCE, MCS_CONFIG_IGNORED | MCS_CONFIG_SECRET, present, 0, 0),
};
static const mcs_config_table_t g_table = {"test", g_rows, MCS_ARRAY_LEN(g_rows)};

static conf_t g_conf;
static mcs_buf_t g_why;
static unit_log_t g_log;

static int set_up(void **state)
{
    (void)state;
    memset(&g_conf, 0xa5, sizeof(g_conf)); /* init must not depend on what was there */
    mcs_buf_init(&g_why, 65536);
    unit_log_capture(&g_log);
    for (size_t i = 0; i < g_table.row_count; i++) {
        if (g_rows[i].env != NULL) {
            unsetenv(g_rows[i].env);
        }
    }
    return mcs_config_init(&g_table, &g_conf) == MCS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    mcs_config_fini(&g_table, &g_conf);
    mcs_buf_fini(&g_why);
    unit_log_release();
    return 0;
}

static mcs_status_t flags(const char *a, const char *b)
{
    char copies[2][200];
    char name[] = "prog";
    char *argv[4] = {name, NULL, NULL, NULL};
    int argc = 1;
    mcs_buf_reset(&g_why);
    for (int i = 0; i < 2; i++) {
        const char *text = i == 0 ? a : b;
        if (text != NULL) {
            snprintf(copies[i], sizeof(copies[i]), "%s", text);
            argv[argc++] = copies[i];
        }
    }
    return mcs_config_load_flags(&g_table, &g_conf, argc, argv, &g_why);
}

static mcs_status_t set(const char *name, const char *value)
{
    mcs_buf_reset(&g_why);
    return mcs_config_set(&g_table, &g_conf, MCS_CONFIG_FROM_FILE, name, value, &g_why);
}

static void defaults_are_set(void **state)
{
    (void)state;
    assert_true(g_conf.on);
    assert_false(g_conf.off);
    assert_int_equal(g_conf.integer, -5);
    assert_int_equal(g_conf.number, 7);
    assert_int_equal(g_conf.size, 16 * MCS_MIB);
    assert_int_equal(g_conf.duration, 5000);
    assert_true(g_conf.ratio == 0.90);
    assert_string_equal(g_conf.text, "hello");
    assert_string_equal(g_conf.secret, "");
    assert_false(g_conf.present);
}

static void later_sources_win(void **state)
{
    (void)state;
    assert_int_equal(set("number", "10"), MCS_OK);
    assert_int_equal(g_conf.number, 10);
    setenv("MCS_T_NUMBER", "20", 1);
    setenv("MCS_T_TEXT", "from env", 1);
    setenv("MCS_T_ONLY_ENV", "11", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_int_equal(g_conf.number, 20);
    assert_string_equal(g_conf.text, "from env");
    assert_int_equal(g_conf.nof_limit, 11);
    assert_int_equal(flags("--number=30", NULL), MCS_OK);
    assert_int_equal(g_conf.number, 30);
    assert_string_equal(g_conf.text, "from env");
    assert_int_equal(g_conf.size, 16 * MCS_MIB); /* nobody set it */
    assert_int_equal(flags("--text=", NULL), MCS_OK);
    assert_string_equal(g_conf.text, ""); /* an empty text is a text */
}

static void every_spelling_of_a_value_flag_is_taken(void **state)
{
    (void)state;
    static const char *const one[] = {"--some_time=9s", "-some_time=9s", "--some-time=9s", "-some-time=9000"};
    static const char *const two[] = {"--some_time", "-some_time", "--some-time", "-some-time"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(one); i++) {
        g_conf.duration = 0;
        assert_int_equal(flags(one[i], NULL), MCS_OK);
        assert_int_equal(g_conf.duration, 9000);
        g_conf.duration = 0;
        assert_int_equal(flags(two[i], "9s"), MCS_OK);
        assert_int_equal(g_conf.duration, 9000);
    }
    assert_int_equal(flags("--integer", "-7"), MCS_OK); /* a value may begin with a dash */
    assert_int_equal(g_conf.integer, -7);
    assert_int_equal(flags("--text=a=b", NULL), MCS_OK);
    assert_string_equal(g_conf.text, "a=b");
    assert_int_equal(flags("--the_text=alias", NULL), MCS_OK);
    assert_string_equal(g_conf.text, "alias");
    assert_int_equal(flags("--nof_limit=8", NULL), MCS_OK); /* not the negation of "f_limit" */
    assert_int_equal(g_conf.nof_limit, 8);
    assert_int_equal(flags(NULL, NULL), MCS_OK);
}

static void every_spelling_of_a_boolean_is_taken(void **state)
{
    (void)state;
    static const struct {
        const char *first;
        const char *second;
        bool value;
    } cases[] = {{"--turn_on", NULL, true},         {"-turn_on", NULL, true},      {"--turn-on", NULL, true},
                 {"--turn_on=false", NULL, false},  {"--turn_on=0", NULL, false},  {"--turn_on", "false", false},
                 {"-turn_on", "true", true},        {"--noturn_on", NULL, false},  {"-noturn_on", NULL, false},
                 {"--no-turn-on", NULL, false},     {"--no_turn_on", NULL, false}, {"--noturn-on", NULL, false},
                 {"--turn_on", "--number=3", true}, {"--turn_on=yes", NULL, true}, {"--turn_on=True", NULL, true}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(cases); i++) {
        g_conf.on = !cases[i].value;
        assert_int_equal(flags(cases[i].first, cases[i].second), MCS_OK);
        assert_int_equal(g_conf.on, cases[i].value);
    }
    assert_int_equal(g_conf.number, 3);
}

static void bad_flags_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *first;
        const char *second;
        const char *says;
    } cases[] = {{"--nothing", NULL, "unknown flag --nothing"},
                 {"--nothing=1", NULL, "unknown flag --nothing"},
                 {"--nonumber", NULL, "unknown flag --nonumber"},
                 {"--noturn_on=1", NULL, "unknown flag --noturn_on"},
                 {"--no", NULL, "unknown flag"},
                 {"--number", NULL, "needs a value"},
                 {"--number=", NULL, "--number"},
                 {"--number=abc", NULL, "abc"},
                 {"--number=101", NULL, "1 to 100"},
                 {"--number", "0", "--number"},
                 {"--number=-1", NULL, "--number"},
                 {"--turn_on=maybe", NULL, "maybe"},
                 {"--turn_on", "maybe", "unexpected argument"},
                 {"--ratio=1.01", NULL, "--ratio"},
                 {"--ratio=nan", NULL, "--ratio"},
                 {"--some_time=61s", NULL, "--some_time"},
                 {"--size=50%", NULL, "50%"},
                 {"positional", NULL, "unexpected argument"},
                 {"-", NULL, "unexpected argument"},
                 {"--", NULL, "unexpected argument"},
                 {"", NULL, "unexpected argument"},
                 {"--=1", NULL, "unknown flag"},
                 {"--NUMBER=3", NULL, "unknown flag"},
                 {"---number=3", NULL, "unknown flag"}};
    conf_t before = g_conf;
    for (size_t i = 0; i < MCS_ARRAY_LEN(cases); i++) {
        assert_int_equal(flags(cases[i].first, cases[i].second), MCS_ERR_INVALID_PARAMS);
        assert_non_null(strstr(mcs_buf_cstr(&g_why), cases[i].says));
        assert_memory_equal(&g_conf, &before, sizeof(before));
    }
    assert_int_equal(
        mcs_config_load_flags(&g_table, &g_conf, 2, (char *[]){(char *)(uintptr_t) "p", (char *)(uintptr_t) "x"}, NULL),
        MCS_ERR_INVALID_PARAMS);
}

static void file_keys_are_checked(void **state)
{
    (void)state;
    assert_int_equal(set("nothing", "1"), MCS_ERR_OBJECT_NOT_FOUND);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "config file nothing"));
    assert_int_equal(set("number", "x"), MCS_ERR_INVALID_PARAMS);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "config file number"));
    assert_int_equal(g_conf.number, 7);
    assert_int_equal(set("turn-off", "on"), MCS_OK);
    assert_true(g_conf.off);
    assert_int_equal(mcs_config_set(&g_table, &g_conf, MCS_CONFIG_FROM_FILE, "nothing", "1", NULL),
                     MCS_ERR_OBJECT_NOT_FOUND);
}

static void bad_environment_fails_or_warns(void **state)
{
    (void)state;
    setenv("MCS_T_INT", "eleven", 1); /* lenient */
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_int_equal(g_conf.integer, -5);
    assert_int_equal(g_log.lines, 1);
    assert_non_null(strstr(g_log.last, "MCS_T_INT"));
    assert_non_null(strstr(g_log.last, "eleven"));
    setenv("MCS_T_SIZE", "huge", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_ERR_INVALID_PARAMS);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "MCS_T_SIZE"));
    assert_int_equal(g_conf.size, 16 * MCS_MIB);
}

static void message_of_a_long_bad_value_still_names_the_knob(void **state)
{
    (void)state;
    char value[10001];
    memset(value, '9', 10000);
    value[10000] = '\0';
    setenv("MCS_T_INT", value, 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_non_null(strstr(g_log.last, "MCS_T_INT"));
    setenv("MCS_T_SIZE", value, 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_ERR_INVALID_PARAMS);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "MCS_T_SIZE"));
}

static void presence_is_any_value(void **state)
{
    (void)state;
    setenv("MCS_T_PRESENT", "0", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_true(g_conf.present);
    g_conf.present = false;
    assert_int_equal(set("presence", g_rows[10].default_text),
                     MCS_OK); /* the same text as the default is a value too */
    assert_true(g_conf.present);
}

static void what_the_build_lacks_is_an_error_and_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(flags("--no_such_thing=false", NULL), MCS_OK);
    assert_int_equal(flags("--no_such_thing", NULL), MCS_ERR_INVALID_PARAMS);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "this build has no"));
    assert_false(g_conf.no_such);
    assert_int_equal(g_log.lines, 0);
    assert_int_equal(flags("--skipped=true", NULL), MCS_OK);
    assert_int_equal(flags("--skipped_int=0", NULL), MCS_OK);
    assert_int_equal(g_log.lines, 0);
    assert_int_equal(flags("--skipped=false", NULL), MCS_OK);
    assert_non_null(strstr(g_log.last, "--skipped=false has no effect"));
    assert_int_equal(flags("--skipped_int=1", NULL), MCS_OK);
    assert_int_equal(g_log.lines, 2);
}

static void variables_of_a_family_without_effect_are_named_and_not_shown(void **state)
{
    (void)state;
    setenv("MCS_T_FAMILY_KNOWN", "4", 1);
    setenv("MCS_T_FAMILY_ENABLED", "0", 1);
    setenv("MCS_T_FAMILY_EMPTY", "", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_int_equal(g_log.lines, 0);
    assert_int_equal(g_conf.nof_limit, 4);
    setenv("MCS_T_FAMILY_KEY", "hunter2", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_int_equal(g_log.lines, 1);
    assert_non_null(strstr(g_log.last, "environment MCS_T_FAMILY_KEY has no effect: what present means"));
    assert_null(strstr(g_log.last, "hunter2"));
    setenv("MCS_T_FAMILY_KEY", "off", 1);
    setenv("MCS_T_HUSH", "hunter2", 1);
    assert_int_equal(mcs_config_load_env(&g_table, &g_conf, &g_why), MCS_OK);
    assert_int_equal(g_log.lines, 2);
    assert_non_null(strstr(g_log.last, "environment MCS_T_HUSH has no effect"));
    assert_null(strstr(g_log.last, "hunter2"));
    static const char *const set[] = {"MCS_T_FAMILY_KNOWN", "MCS_T_FAMILY_ENABLED", "MCS_T_FAMILY_EMPTY",
                                      "MCS_T_FAMILY_KEY", "MCS_T_HUSH"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(set); i++) {
        unsetenv(set[i]);
    }
}

static void help_and_docs_have_every_row_and_no_secret(void **state)
{
    (void)state;
    assert_int_equal(flags("--secret=hunter2", NULL), MCS_OK);
    mcs_buf_reset(&g_why);
    mcs_config_help(&g_table, &g_why);
    const char *help = mcs_buf_cstr(&g_why);
    for (size_t i = 0; i < g_table.row_count; i++) {
        assert_true(g_rows[i].name == NULL || strstr(help, g_rows[i].name) != NULL);
    }
    assert_non_null(strstr(help, "--ratio (what ratio means) type: double default: 0.90"));
    assert_null(strstr(help, "hunter2"));
    mcs_buf_reset(&g_why);
    mcs_config_markdown(&g_table, &g_why);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "| MCS_T_ONLY_ENV |"));
    assert_string_equal(mcs_env("MCS_T_NOT_SET") == NULL ? "" : "set", "");
}

/* ---- torture ---- */

static mcs_status_t load_all(void *arg)
{
    conf_t conf;
    mcs_buf_t why;
    char *argv[] = {(char *)(uintptr_t) "p", (char *)(uintptr_t) "--text=new text", (char *)(uintptr_t) "--secret",
                    (char *)(uintptr_t) "x"};
    (void)arg;
    memset(&conf, 0xa5, sizeof(conf));
    mcs_buf_init(&why, 4096);
    mcs_status_t status = mcs_config_init(&g_table, &conf);
    if (status != MCS_OK) {
        assert_int_equal(status, MCS_ERR_NO_MEMORY);
        assert_null(conf.text);
        goto out;
    }
    status = mcs_config_load_env(&g_table, &conf, &why);
    if (status == MCS_OK) {
        status = mcs_config_load_flags(&g_table, &conf, 4, argv, &why);
    }
    assert_true(status == MCS_OK || status == MCS_ERR_NO_MEMORY);
    assert_non_null(conf.text); /* never NULL after init, whatever failed */
    assert_non_null(conf.secret);
    mcs_config_fini(&g_table, &conf);
out:
    mcs_buf_fini(&why);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    setenv("MCS_T_TEXT", "env text", 1);
    assert_true(unit_torture(MCS_FAULT_ALLOC, load_all, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_are_set, set_up, tear_down),
        cmocka_unit_test_setup_teardown(later_sources_win, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_spelling_of_a_value_flag_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_spelling_of_a_boolean_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_flags_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(file_keys_are_checked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_environment_fails_or_warns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(message_of_a_long_bad_value_still_names_the_knob, set_up, tear_down),
        cmocka_unit_test_setup_teardown(presence_is_any_value, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_the_build_lacks_is_an_error_and_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(variables_of_a_family_without_effect_are_named_and_not_shown, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(help_and_docs_have_every_row_and_no_secret, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
