/* Flows: what the calling thread does for one transfer() on the lane that it has checked out. Each mcs_transfer_t is a
 * flow: its ranges are cut into pieces (proto.h), the pieces are put into requests, a window of requests is kept under
 * way on the owner's connection, and answers are added up per range. All flows of a call run at once, driven by one
 * loop that spins a while and then sleeps. */
#ifndef UCXT_FLOW_H
#define UCXT_FLOW_H

#include "ucx_transport/lane.h"

/* Asked about every 100 ms: MCS_OK = go on, else the status that open ranges end with. */
typedef struct ucxt_stop {
    mcs_status_t (*check)(void *arg);
    void *arg;
} ucxt_stop_t;

/* Every range has its status on return, and no buffer of the caller is touched any more. A lane whose sends could not
 * be taken back has been reset. The return value: MCS_OK, or MCS_ERR_NO_MEMORY when nothing was started (the ranges
 * carry it too). */
mcs_status_t ucxt_flows_run(ucxt_lane_t *lane, mcs_transfer_t *transfers, uint32_t count, uint64_t deadline_ns,
                            const ucxt_stop_t *stop) MCS_MUST_CHECK;

#endif
