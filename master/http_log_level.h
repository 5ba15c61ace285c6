/* The log level of a process over HTTP, as text: what mooncake_client and the pages of a store serve as /log_level.
 * (The master answers at /api/v1/log_level, in JSON.) Handlers of http_server.h; they need no argument. */
#ifndef MCS_MASTER_HTTP_LOG_LEVEL_H
#define MCS_MASTER_HTTP_LOG_LEVEL_H

#include "master/http_server.h"

/* GET: "INFO". */
void mcs_http_log_level(void *arg, mcs_http_request_t *request);
/* PUT ?level=DEBUG: sets it and gives it back; 400 for what is none. */
void mcs_http_set_log_level(void *arg, mcs_http_request_t *request);

#endif
