/* The admin HTTP server: health, Prometheus metrics, listings, a few admin verbs (the routes of the original's metrics
 * port).
 *
 * Everything is read through master/service.h. Lists of keys are streamed; other answers are built in bounded buffers.
 */
#ifndef MCS_MASTER_HTTP_ADMIN_H
#define MCS_MASTER_HTTP_ADMIN_H

#include "master/history.h"
#include "master/http_server.h"
#include "master/metrics_text.h"
#include "master/service.h"

typedef struct mcs_http_admin mcs_http_admin_t;

typedef struct mcs_http_admin_config {
    const char *address;
    uint16_t port;                     /* 0: any free one */
    const mcs_http_tls_t *tls;         /* NULL: none; until start has returned */
    const mcs_master_config_t *config; /* outlives stop */
    mcs_service_t *service;            /* outlives stop */
    const mcs_metrics_t *metrics;      /* outlives stop */
    mcs_summary_t *summary;            /* outlives stop */
    mcs_history_t *history;            /* outlives stop */
} mcs_http_admin_config_t;

/* Binds. MCS_ERR_INVALID_PARAMS: bad address, port in use; logged. */
mcs_status_t mcs_http_admin_create(const mcs_http_admin_config_t *config, mcs_http_admin_t **admin_out) MCS_MUST_CHECK;
mcs_status_t mcs_http_admin_start(mcs_http_admin_t *admin) MCS_MUST_CHECK;
void mcs_http_admin_stop(mcs_http_admin_t *admin);    /* NULL is fine */
void mcs_http_admin_destroy(mcs_http_admin_t *admin); /* NULL is fine */
uint16_t mcs_http_admin_port(const mcs_http_admin_t *admin);

#endif
