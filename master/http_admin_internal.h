/* What http_admin.c, http_listing.c, http_dashboard.c and http_tasks.c share. Not for others. */
#ifndef MCS_MASTER_HTTP_ADMIN_INTERNAL_H
#define MCS_MASTER_HTTP_ADMIN_INTERNAL_H

#include <jansson.h>

#include "master/http_admin.h"

struct mcs_http_admin {
    mcs_http_admin_config_t config;
    mcs_http_server_t *server;
    uint64_t started_ns;
};

/* http_admin.c: names of what a put or a new client would be refused for. NULL: no memory. */
json_t *mcs_i_admin_exhausted(const mcs_master_config_t *config, const mcs_service_totals_t *totals);
/* http_listing.c: of a segment's state. */
const char *mcs_i_admin_state_name(uint32_t state);

/* http_listing.c; `arg` is the mcs_http_admin_t. */
void mcs_i_admin_query_key(void *arg, mcs_http_request_t *request);
void mcs_i_admin_batch_query_keys(void *arg, mcs_http_request_t *request);
void mcs_i_admin_all_keys(void *arg, mcs_http_request_t *request);
void mcs_i_admin_all_segments(void *arg, mcs_http_request_t *request);
void mcs_i_admin_segments_detail(void *arg, mcs_http_request_t *request);
void mcs_i_admin_query_segment(void *arg, mcs_http_request_t *request);
void mcs_i_admin_segment_status(void *arg, mcs_http_request_t *request);

/* http_tasks.c; `arg` is the mcs_http_admin_t. */
void mcs_i_admin_drain_start(void *arg, mcs_http_request_t *request);
void mcs_i_admin_drain_query(void *arg, mcs_http_request_t *request);
void mcs_i_admin_drain_cancel(void *arg, mcs_http_request_t *request);

#endif
