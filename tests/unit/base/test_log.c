/* core/base/log: levels, one line stays one line, long lines are cut. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/unit.h"

static int restore(void **state)
{
    (void)state;
    unit_log_release();
    mcs_log_set_level(MCS_LOG_WARN);
    return 0;
}

static void lines_below_the_threshold_are_not_made(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    mcs_log_set_level(MCS_LOG_WARN);
    mcs_trace("a", "no");
    mcs_debug("a", "no");
    mcs_info("a", "no");
    assert_int_equal(log.lines, 0);
    mcs_warn("area", "segment %d lost", 7);
    mcs_error("area", "yes");
    assert_int_equal(log.lines, 2);
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_error("area", "no");
    assert_int_equal(log.lines, 2);
    mcs_log_set_level(MCS_LOG_TRACE);
    mcs_trace("area", "yes");
    assert_int_equal(log.lines, 3);
}

static void line_has_level_area_and_text(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    mcs_warn("client", "segment %s lost", "gpu0-3");
    assert_int_equal(log.level, MCS_LOG_WARN);
    assert_int_equal(log.last[0], 'W');
    assert_non_null(strstr(log.last, " client] segment gpu0-3 lost"));
    mcs_error("rpc", "x");
    assert_int_equal(log.last[0], 'E');
}

static void control_characters_cannot_forge_lines(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    mcs_error("rpc", "peer %s closed", "a\nE1124 forged\r\x1b[31m\tx");
    assert_null(strpbrk(log.last, "\n\r\x1b\t"));
    assert_non_null(strstr(log.last, "peer a E1124 forged"));
}

static void long_lines_are_cut_with_dots(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    char text[2 * MCS_LOG_LINE_MAX];
    for (size_t len = MCS_LOG_LINE_MAX - 80; len < MCS_LOG_LINE_MAX + 40; len++) {
        memset(text, 'x', len);
        text[len] = '\0';
        mcs_error("a", "%s", text);
        size_t got = strlen(log.last);
        assert_true(got <= MCS_LOG_LINE_MAX);
        bool cut = strcmp(log.last + got - 3, "...") == 0;
        assert_true(cut == (got == MCS_LOG_LINE_MAX - 1) || got == MCS_LOG_LINE_MAX - 1);
        assert_true(cut || log.last[got - 1] == 'x');
    }
    assert_string_equal(log.last + strlen(log.last) - 3, "...");
}

static void names_and_numbers_set_the_level(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mcs_log_level_t level;
    } good[] = {{"TRACE", MCS_LOG_TRACE},  {"debug", MCS_LOG_DEBUG}, {"Info", MCS_LOG_INFO}, {"WARN", MCS_LOG_WARN},
                {"warning", MCS_LOG_WARN}, {"ERROR", MCS_LOG_ERROR}, {"0", MCS_LOG_TRACE},   {"1", MCS_LOG_DEBUG},
                {"2", MCS_LOG_INFO},       {"3", MCS_LOG_WARN},      {"4", MCS_LOG_ERROR},   {"off", MCS_LOG_OFF}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(good); i++) {
        assert_true(mcs_log_set_level_name(good[i].name));
        assert_int_equal(mcs_log_threshold, good[i].level);
    }
    mcs_log_set_level(MCS_LOG_INFO);
    static const char *const bad[] = {"", "6", "10", "-1", "verbose", "INFO ", " INFO", "warnings"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        assert_false(mcs_log_set_level_name(bad[i]));
        assert_int_equal(mcs_log_threshold, MCS_LOG_INFO);
    }
}

static bool is_null_device(int fd)
{
    struct stat its;
    struct stat null;
    return fstat(fd, &its) == 0 && stat("/dev/null", &null) == 0 && its.st_rdev == null.st_rdev;
}

/* In a child, whose descriptors are its own. */
static void missing_standard_descriptors_are_held(void **state)
{
    (void)state;
    static const int closed[][3] = {{0, 1, 2}, {2, -1, -1}, {0, 2, -1}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(closed); i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            bool fine = true;
            for (int k = 0; k < 3 && closed[i][k] >= 0; k++) {
                close(closed[i][k]);
            }
            mcs_log_hold_descriptors();
            mcs_log_hold_descriptors(); /* again: nothing is left to do */
            for (int k = 0; k < 3 && closed[i][k] >= 0; k++) {
                fine = fine && is_null_device(closed[i][k]);
            }
            int next = open("/", O_RDONLY);
            _exit(fine && next > STDERR_FILENO ? 0 : 1);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 200; i++) {
        mcs_error("thread", "<%s>", (const char *)arg);
    }
    return NULL;
}

/* To a pipe in place of stderr: each write is one whole line. */
static void lines_of_threads_do_not_mix(void **state)
{
    (void)state;
    char texts[3][300];
    pthread_t threads[3];
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    assert_int_equal(fcntl(fileno(file), F_SETFL, O_APPEND), 0);
    dup2(fileno(file), STDERR_FILENO);
    for (int i = 0; i < 3; i++) {
        memset(texts[i], 'a' + i, 299);
        texts[i][299] = '\0';
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, texts[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    char line[1024];
    int lines = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        char *text = strchr(line, '<');
        assert_non_null(text);
        assert_int_equal(strspn(text + 1, (char[]){text[1], '\0'}), 299);
        assert_string_equal(text + 300, ">\n");
        lines++;
    }
    assert_int_equal(lines, 600);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(lines_below_the_threshold_are_not_made, restore),
        cmocka_unit_test_teardown(line_has_level_area_and_text, restore),
        cmocka_unit_test_teardown(control_characters_cannot_forge_lines, restore),
        cmocka_unit_test_teardown(long_lines_are_cut_with_dots, restore),
        cmocka_unit_test_teardown(names_and_numbers_set_the_level, restore),
        cmocka_unit_test_teardown(missing_standard_descriptors_are_held, restore),
        cmocka_unit_test_teardown(lines_of_threads_do_not_mix, restore),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
