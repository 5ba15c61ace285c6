/* The transfer engine's metadata server: a bounded map of text keys to small bodies behind GET, PUT and DELETE
 * /metadata?key=K.
 *
 * Keys are compared percent-decoded. A key that contains "rpc_meta" cannot be overwritten with another body: two
 * processes must not claim one name. The store outlives its HTTP server, so that the housekeeping of dead clients can
 * go on using it.
 *
 * Thread-safe. Lock: MCS_RANK_HTTP, held for a hash look-up and a copy. */
#ifndef MCS_MASTER_HTTP_METADATA_H
#define MCS_MASTER_HTTP_METADATA_H

#include "master/http_server.h"

typedef struct mcs_http_metadata mcs_http_metadata_t;

#define MCS_METADATA_KEY_MAX   4096
#define MCS_METADATA_VALUE_MAX ((size_t)1 << 20)

typedef struct mcs_http_metadata_config {
    const char *address;
    uint16_t port;             /* 0: any free one */
    const mcs_http_tls_t *tls; /* NULL: none; until start has returned */
    const char *cluster_id;    /* of the keys that forget_segment deletes */
    size_t max_entries;        /* 0: 65536 */
    size_t max_bytes;          /* keys and values together; 0: 256 MiB */
} mcs_http_metadata_config_t;

/* Binds. MCS_ERR_INVALID_PARAMS: bad address, port in use; logged. */
mcs_status_t mcs_http_metadata_create(const mcs_http_metadata_config_t *config, mcs_http_metadata_t **metadata_out)
    MCS_MUST_CHECK;
mcs_status_t mcs_http_metadata_start(mcs_http_metadata_t *metadata) MCS_MUST_CHECK;
/* Ends the HTTP server; the records stay. */
void mcs_http_metadata_stop(mcs_http_metadata_t *metadata);    /* NULL is fine */
void mcs_http_metadata_destroy(mcs_http_metadata_t *metadata); /* NULL is fine */
uint16_t mcs_http_metadata_port(const mcs_http_metadata_t *metadata);
/* Deletes the ram/ and rpc_meta/ records of a segment (a client that died), with and without the cluster in the key. */
void mcs_http_metadata_forget_segment(mcs_http_metadata_t *metadata, const char *segment_name);

#endif
