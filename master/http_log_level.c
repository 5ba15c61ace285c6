/* See http_log_level.h. */
#include "master/http_log_level.h"

#include "core/base/log.h"

void mcs_http_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, mcs_log_level_text());
}

void mcs_http_set_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    const char *level = mcs_http_query_text(request, "level");
    const char *before = mcs_log_level_text();
    if (level == NULL || !mcs_log_set_level_name(level)) {
        mcs_http_reply_text(request, 400, "level=TRACE, DEBUG, INFO, WARNING or ERROR is wanted");
        return;
    }
    /* Also where the new level would not show it. */
    mcs_log_write(MCS_LOG_INFO, "http", "log level %s, was %s", mcs_log_level_text(), before);
    mcs_http_reply_text(request, 200, mcs_log_level_text());
}
