/* The HTTP pages of a client (core/ops/http.h) on the master's small server: /health, /metrics, /metrics/summary and
 * /version, as the original's clients show them, and /log_level. */
#ifndef MCS_MASTER_HTTP_CLIENT_PAGES_H
#define MCS_MASTER_HTTP_CLIENT_PAGES_H

#include "core/ops/http.h"

extern const mcs_client_http_ops_t mcs_client_http_ops;

#endif
