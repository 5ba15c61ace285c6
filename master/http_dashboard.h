/* The page at "/" of the admin server, and the JSON that it draws. The page is master/dashboard/index.html, put into
 * the binary at build time: it loads nothing from anywhere else. */
#ifndef MCS_MASTER_HTTP_DASHBOARD_H
#define MCS_MASTER_HTTP_DASHBOARD_H

#include "master/http_server.h"

/* Made by the build (master/CMakeLists.txt). */
extern const unsigned char mcs_dashboard_page[];
extern const size_t mcs_dashboard_page_len;

/* Handlers; `arg` is the mcs_http_admin_t. */
void mcs_i_admin_dashboard_page(void *arg, mcs_http_request_t *request);
void mcs_i_admin_dashboard_json(void *arg, mcs_http_request_t *request);
void mcs_i_admin_clients(void *arg, mcs_http_request_t *request);

#endif
