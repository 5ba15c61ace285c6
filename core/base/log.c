/* See log.h. A line is formatted on the stack and written with one write(2), so that lines of threads never mix. */
#include "core/base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int mcs_log_threshold = MCS_LOG_WARN;

static mcs_log_sink_fn g_sink;
static void *g_sink_arg;

static const char *const g_level_names[] = {"TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "OFF"};

void mcs_log_set_level(mcs_log_level_t level)
{
    __atomic_store_n(&mcs_log_threshold, (int)level, __ATOMIC_RELAXED);
}

bool mcs_log_set_level_name(const char *name)
{
    if (name[0] >= '0' && name[0] <= '5' && name[1] == '\0') {
        mcs_log_set_level((mcs_log_level_t)(name[0] - '0'));
        return true;
    }
    if (strcasecmp(name, "WARN") == 0) {
        name = "WARNING";
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_level_names); i++) {
        if (strcasecmp(name, g_level_names[i]) == 0) {
            mcs_log_set_level((mcs_log_level_t)i);
            return true;
        }
    }
    return false;
}

const char *mcs_log_level_text(void)
{
    int level = __atomic_load_n(&mcs_log_threshold, __ATOMIC_RELAXED);
    return g_level_names[MCS_MIN(MCS_MAX(level, 0), (int)MCS_LOG_OFF)];
}

void mcs_log_set_sink(mcs_log_sink_fn sink, void *arg)
{
    g_sink = sink;
    g_sink_arg = arg;
}

void mcs_log_hold_descriptors(void)
{
    for (int number = STDIN_FILENO; number <= STDERR_FILENO; number++) {
        if (fcntl(number, F_GETFD) >= 0) {
            continue;
        }
        int fd = open("/dev/null", O_RDWR); /* the lowest that is free; children have it, too */
        if (fd > STDERR_FILENO) {           /* another thread was faster */
            close(fd);
        }
    }
}

static size_t format_prefix(char *line, size_t size, mcs_log_level_t level, const char *area)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    int n = snprintf(line, size, "%c%02d%02d %02d:%02d:%02d.%06ld %6ld %s] ", g_level_names[level][0], tm.tm_mon + 1,
                     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000, syscall(SYS_gettid), area);
    return n < 0 ? 0 : MCS_MIN((size_t)n, size - 1);
}

void mcs_log_write(mcs_log_level_t level, const char *area, const char *fmt, ...)
{
    char line[MCS_LOG_LINE_MAX + 1];
    size_t len = format_prefix(line, MCS_LOG_LINE_MAX, level, area);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line + len, MCS_LOG_LINE_MAX - len, fmt, args);
    va_end(args);
    if (n < 0) {
        return;
    }
    if ((size_t)n >= MCS_LOG_LINE_MAX - len) {
        len = MCS_LOG_LINE_MAX - 1;
        memcpy(line + len - 3, "...", 3);
    } else {
        len += (size_t)n;
    }
    for (size_t i = 0; i < len; i++) { /* one line stays one line, whatever a peer's name holds */
        if ((unsigned char)line[i] < 0x20) {
            line[i] = ' ';
        }
    }
    line[len] = '\0';
    if (g_sink != NULL) {
        g_sink(g_sink_arg, level, line);
        return;
    }
    line[len] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, len + 1);
    (void)ignored;
}

void mcs_ensure_failed(const char *cond, const char *file, int line)
{
    mcs_log_write(MCS_LOG_ERROR, "ensure", "invariant broken: %s at %s:%d", cond, file, line);
    abort();
}
