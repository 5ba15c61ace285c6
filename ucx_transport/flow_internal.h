/* Shared by flow.c (the loop) and flow_plan.c (cutting ranges into requests, adding up answers). */
#ifndef UCXT_FLOW_INTERNAL_H
#define UCXT_FLOW_INTERNAL_H

#include "ucx_transport/flow.h"

#define FLOW_AREA         "transfer"
#define FLOW_FETCH_WINDOW 4 /* requests of up to 16 MiB */
#define FLOW_STORE_WINDOW 8 /* requests of up to 1 MiB */
#define NO_CRC            UINT32_MAX

typedef struct flow_piece {
    uint32_t range;
    uint32_t len;
    uint32_t iov;    /* of the range: where its bytes start */
    uint32_t crc;    /* index in the range's crcs of its block, NO_CRC: the block starts before the range */
    uint64_t iov_at; /* in that entry */
    uint64_t from;
    mcs_status_t stored; /* a store's, when its answer has come */
    bool done;
} flow_piece_t;

typedef struct flow {
    mcs_transfer_t *transfer;
    ucxt_lane_t *lane;
    ucxt_conn_t *conn; /* NULL: none could be had */
    bool over;
    uint32_t *left; /* pieces that are open, one count a range */
    uint32_t ranges_open;
    uint64_t unsent;   /* pieces that no request has taken */
    uint64_t left_len; /* and their bytes */
    uint32_t requests; /* under way */
    bool stream;       /* fetched bytes go past the caches: it is more than they hold */
    /* where the next piece starts */
    uint32_t range;
    uint32_t iov;
    uint64_t at; /* in the range */
    uint64_t iov_at;
} flow_t;

typedef struct flow_request {
    ucxt_request_t base;
    uint32_t count;
    uint32_t open;
    uint8_t *head;   /* header and records */
    uint8_t *pack;   /* store: fragments copied together */
    uint8_t *places; /* for RDMA; behind the records */
    flow_piece_t piece[];
} flow_request_t;

/* Checks the ranges (a bad one gets MCS_ERR_INVALID_PARAMS and is left out) and counts their pieces. */
void ucxt_flow_prepare(flow_t *flow);
/* Makes the next request, in a slot of the connection. `wait_ms` tells the owner how long it is good for. NULL: there
 * was a range of a device that cannot go (MCS_ERR_NOT_SUPPORTED), nothing is to be sent for it. */
mcs_status_t ucxt_flow_next(flow_t *flow, uint32_t wait_ms, flow_request_t **request_out) MCS_MUST_CHECK;
/* Ranges that are open end with `status`. */
void ucxt_flow_end(flow_t *flow, mcs_status_t status);

#endif
