/* See http_process.h. */
#include "master/http_process.h"

#include "core/base/log.h"

void mcs_http_version(void *arg, mcs_http_request_t *request)
{
    static const char text[] =
        "{\"version\":\"" MCS_VERSION "\",\"display_version\":\"mooncake-store " MCS_VERSION "\"}";
    (void)arg;
    mcs_http_reply(request, 200, MCS_HTTP_JSON, text, sizeof(text) - 1);
}

void mcs_http_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    mcs_http_reply_text(request, 200, mcs_log_level_text());
}

bool mcs_http_try_log_level(const char *level)
{
    const char *before = mcs_log_level_text();
    if (level == NULL || !mcs_log_set_level_name(level)) {
        return false;
    }
    /* Also where the new level would not show it. */
    mcs_log_write(MCS_LOG_INFO, "http", "log level %s, was %s", mcs_log_level_text(), before);
    return true;
}

void mcs_http_set_log_level(void *arg, mcs_http_request_t *request)
{
    (void)arg;
    if (!mcs_http_try_log_level(mcs_http_query_text(request, "level"))) {
        mcs_http_reply_text(request, 400, "level=TRACE, DEBUG, INFO, WARNING or ERROR is wanted");
        return;
    }
    mcs_http_reply_text(request, 200, mcs_log_level_text());
}
