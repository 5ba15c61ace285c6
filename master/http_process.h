/* What every process of ours says of itself over HTTP: its version and its log level. Handlers of http_server.h; they
 * need no argument. */
#ifndef MCS_MASTER_HTTP_PROCESS_H
#define MCS_MASTER_HTTP_PROCESS_H

#include "master/http_server.h"

/* GET: {"version":"1.2.3","display_version":"mooncake-store 1.2.3"}. */
void mcs_http_version(void *arg, mcs_http_request_t *request);

/* The log level as text: what mooncake_client and the pages of a store serve as /log_level. (The master answers at
 * /api/v1/log_level, in JSON.) GET: "INFO". */
void mcs_http_log_level(void *arg, mcs_http_request_t *request);
/* PUT ?level=DEBUG: sets it and gives it back; 400 for what is none. */
void mcs_http_set_log_level(void *arg, mcs_http_request_t *request);
/* For handlers that answer otherwise: sets it, and says so in the log. False: it is none (also NULL). */
bool mcs_http_try_log_level(const char *level);

#endif
