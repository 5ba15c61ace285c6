/* Logging: one line to stderr (or a sink), "I1124 16:20:01.123456  1234 client] text". Thread-safe, never allocates.
 *
 * Lines are lower case, subject first, carry the identifier an operator greps for, and end in the status name.
 * No secrets; key bytes at debug only. Library code logs at debug, and at warn or error only where it is the first to
 * see a failure that the user must act on; daemons log at info. The level comes from the config table (MC_LOG_LEVEL:
 * TRACE DEBUG INFO WARNING ERROR, or 0-4); it may be changed at run time from any thread. */
#ifndef MCS_BASE_LOG_H
#define MCS_BASE_LOG_H

#include "core/base/macros.h"

typedef enum mcs_log_level {
    MCS_LOG_TRACE,
    MCS_LOG_DEBUG,
    MCS_LOG_INFO,
    MCS_LOG_WARN,
    MCS_LOG_ERROR,
    MCS_LOG_OFF
} mcs_log_level_t;

/* A sink gets each finished line (no newline). It runs on the logging thread and must not log. */
typedef void (*mcs_log_sink_fn)(void *arg, mcs_log_level_t level, const char *line);

extern int mcs_log_threshold; /* read with a relaxed load by the macros; set with mcs_log_set_level */

void mcs_log_set_level(mcs_log_level_t level);
/* "debug", "WARNING", "2" …; false (and no change) for anything else. */
bool mcs_log_set_level_name(const char *name);
/* The name of the level that counts now: "INFO". Constant text. */
const char *mcs_log_level_text(void);
/* Replaces the sink; NULL restores stderr. Set before threads start. */
void mcs_log_set_sink(mcs_log_sink_fn sink, void *arg);

/* /dev/null in place of each standard descriptor that the program was started without: else the next socket, event or
 * file would get the number, and with it every line that is written there. Before anything is opened. */
void mcs_log_hold_descriptors(void);

/* At most `MCS_LOG_LINE_MAX` bytes; longer lines are cut and end in "...". */
#define MCS_LOG_LINE_MAX 4096
void mcs_log_write(mcs_log_level_t level, const char *area, const char *fmt, ...) MCS_PRINTF(3, 4);

/* For what has to be made before it can be logged. */
static inline bool mcs_log_is_on(mcs_log_level_t level)
{
    return (int)level >= __atomic_load_n(&mcs_log_threshold, __ATOMIC_RELAXED);
}

#define mcs_log(level, area, ...)                                                                                      \
    do {                                                                                                               \
        if (mcs_log_is_on(level)) {                                                                                    \
            mcs_log_write((level), (area), __VA_ARGS__);                                                               \
        }                                                                                                              \
    } while (0)

#define mcs_trace(area, ...) mcs_log(MCS_LOG_TRACE, area, __VA_ARGS__)
#define mcs_debug(area, ...) mcs_log(MCS_LOG_DEBUG, area, __VA_ARGS__)
#define mcs_info(area, ...)  mcs_log(MCS_LOG_INFO, area, __VA_ARGS__)
#define mcs_warn(area, ...)  mcs_log(MCS_LOG_WARN, area, __VA_ARGS__)
#define mcs_error(area, ...) mcs_log(MCS_LOG_ERROR, area, __VA_ARGS__)

#endif
