/* The transfer-metadata ops table: where a client publishes how it is reached in the central mode
 * (`http://host:port/metadata`). Implemented by ucx_transport/metadata_http.c (libcurl); P2PHANDSHAKE needs none.
 * Blocking calls, set-up and close only. */
#ifndef MCS_OPS_METADATA_H
#define MCS_OPS_METADATA_H

#include "core/base/status.h"

typedef struct mcs_metadata_record {
    const char *url;          /* "http://127.0.0.1:8080/metadata" */
    const char *cluster_id;   /* MC_METADATA_CLUSTER_ID, may be "" */
    const char *segment_name; /* host:port */
    const char *protocol;     /* "tcp" */
    const char *host;         /* ip or host name of the data plane */
    uint16_t data_port;
    uint64_t segment_bytes; /* 0 = no segment */
} mcs_metadata_record_t;

typedef struct mcs_metadata_ops {
    /* PUTs mooncake/[id/]rpc_meta/<segment name> then mooncake/[id/]ram/<segment name>, and reads the latter back: a
     * server that stores nothing or answers something else is MCS_ERR_INVALID_PARAMS with a log line that names URL,
     * status and what came. A name already taken (400 on rpc_meta) is MCS_ERR_SEGMENT_ALREADY_EXISTS. On error nothing
     * of ours stays. */
    mcs_status_t (*publish)(const mcs_metadata_record_t *record);
    /* DELETEs both; best effort, within 3 s. */
    void (*withdraw)(const mcs_metadata_record_t *record);
} mcs_metadata_ops_t;

#endif
