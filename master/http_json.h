/* JSON replies of the admin server; jansson behind them. */
#ifndef MCS_MASTER_HTTP_JSON_H
#define MCS_MASTER_HTTP_JSON_H

#include <jansson.h>

#include "master/http_server.h"

/* Text that may hold any bytes: what is not UTF-8 is shown as U+FFFD. NULL: no memory. */
json_t *mcs_json_text(const char *text, size_t len);
/* Appends; takes `root`. NULL, or anything in it that could not be made, fails the buffer. */
void mcs_json_write(json_t *root, mcs_buf_t *out);
/* The same as a reply: what failed is a 500. */
void mcs_json_reply(mcs_http_request_t *request, unsigned code, json_t *root);
/* {"success":false,"error_code":N,"error_message":"NAME"} with the code that goes with the status. */
void mcs_json_reply_status(mcs_http_request_t *request, mcs_status_t status);
/* The same with a message of its own. */
void mcs_json_reply_error(mcs_http_request_t *request, mcs_status_t status, const char *message);

#endif
