/* A lane: one UCX worker of the calling side with its connections to owners. A caller checks a lane out of the pool
 * (pool.h), has it alone, drives it with its own thread, and puts it back; an idle lane is tidied once a second
 * (transport.c).
 *
 * A connection is an endpoint to the owner's serving worker and what the hello agreed on. Requests in flight hang in
 * its slots; an answer is matched by connection, slot and number, so what comes late, twice or from nobody finds
 * nothing (rule 10). Fetched bytes are copied out of UCX's receive buffer by our own callback and only while the
 * request is alive: no receive of UCX's ever points into a caller's memory, and a transfer that ends early needs no
 * more than to forget its requests. Sends do point there: a closed connection is kept until UCX has given back all of
 * them, and where it does not, the worker is torn down (ucxt_lane_reset). So it is when a request with places (proto.h)
 * is given up before its answer: with the worker go the queue pairs that the owner's device would write through. One
 * thread at a time; no locks. */
#ifndef UCXT_LANE_H
#define UCXT_LANE_H

#include "ucx_transport/auth.h"
#include "ucx_transport/counters.h"
#include "ucx_transport/regions.h"
#include "ucx_transport/ucx_calm.h"
#include "ucx_transport/ucx_worker.h"

#include "core/base/list.h"
#include "core/base/spin.h"

/* What all lanes of a transport share; constant. */
typedef struct ucxt_shared {
    ucxt_context_t context;
    mcs_id_t client;
    const char *token;
    uint64_t machine; /* see core/ops/transport.h */
    uint64_t spin_ns;
    uint64_t connect_timeout_ns;
    mcs_transport_counters_t *counters;
    ucxt_regions_t *regions;
} ucxt_shared_t;

#define UCXT_LANE_CONNS    1024 /* a power of two */
#define UCXT_CONN_REQUESTS 16   /* slots, a power of two */

typedef enum ucxt_conn_state { UCXT_CONN_HELLO, UCXT_CONN_PROVING, UCXT_CONN_UP, UCXT_CONN_FAILED } ucxt_conn_state_t;

struct ucxt_lane;
struct ucxt_request;

typedef struct ucxt_conn {
    mcs_list_t node; /* in lane->closing once its endpoint is closed */
    struct ucxt_lane *lane;
    mcs_id_t owner;
    mcs_endpoint_t endpoint;
    ucp_ep_h ep;
    ucxt_conn_state_t state;
    mcs_status_t status;  /* why it failed */
    ucxt_auth_t auth;     /* caller_conn is ours, owner_conn goes into every message */
    uint64_t deadline_ns; /* of becoming up */
    uint64_t used_ns;
    uint32_t sends;    /* in UCX's hands */
    uint32_t requests; /* slots taken */
    uint64_t serial;
    struct ucxt_request *slot[UCXT_CONN_REQUESTS];
    bool broken; /* UCX says that the endpoint has failed */
    bool rdma;   /* the owner takes places */
    ucp_dt_iov_t bye_iov;
    uint8_t bye[UCXT_HEADER];
    ucp_dt_iov_t hello_iov;
    uint8_t hello[UCXT_HEADER + UCXT_HELLO_MAX]; /* also the proof's memory */
} ucxt_conn_t;

typedef struct ucxt_lane {
    const ucxt_shared_t *shared;
    ucxt_worker_t worker; /* worker.ucp == NULL: not open */
    uint32_t address_len;
    uint8_t address[UCXT_ADDRESS_MAX];
    ucxt_conn_t *conns[UCXT_LANE_CONNS];
    uint32_t conn_count;
    mcs_list_t closing;
    mcs_list_t sending; /* requests in UCX's hands */
    mcs_spin_t spin;    /* whether polling for an owner pays */
    uint32_t exposed;   /* requests whose places an owner may still write to or read from */
    ucxt_calm_t calm;
} ucxt_lane_t;

/* One message to an owner and what its answer is for. Made by flow.c in one piece of memory with its bytes. */
typedef struct ucxt_request {
    mcs_list_t node; /* in lane->sending while `sending` */
    ucxt_lane_t *lane;
    ucxt_conn_t *conn;
    void *flow; /* NULL: nobody waits for it any more */
    uint64_t id;
    bool sending;
    bool in_slot;
    bool exposed; /* its owner has places of it */
    /* The answer (kinds from UCXT_PIECES up). Anything but MCS_OK fails the connection. Calls ucxt_request_done when
     * nothing more is to come. */
    mcs_status_t (*answer)(struct ucxt_request *request, const ucxt_header_t *header, const uint8_t *body, size_t len);
    /* Set by an answer that came while it was being sent: goes on with it then. NULL = none. */
    void (*sent)(struct ucxt_request *request);
    uint32_t iov_count;
    ucp_dt_iov_t iov[1 + UCXT_FRAME_IOVS];
} ucxt_request_t;

void ucxt_lane_init(ucxt_lane_t *lane, const ucxt_shared_t *shared);
/* Makes the worker when there is none. */
mcs_status_t ucxt_lane_open(ucxt_lane_t *lane) MCS_MUST_CHECK;
/* Closes everything; UCX touches no memory of callers afterwards. The lane can be opened again. */
void ucxt_lane_reset(ucxt_lane_t *lane);

/* The connection to an owner: the one there is, or a new one whose hello is under way. Never waits.
 * MCS_ERR_INVALID_PARAMS: not an endpoint of this transport; MCS_ERR_TRANSFER_FAIL: UCX sees no way there;
 * MCS_ERR_LIMIT. */
mcs_status_t ucxt_lane_connect(ucxt_lane_t *lane, mcs_id_t owner, const mcs_endpoint_t *endpoint,
                               ucxt_conn_t **conn_out) MCS_MUST_CHECK;
/* Ends every connection in peace; ucxt_lane_reap sees it through. */
void ucxt_lane_leave_all(ucxt_lane_t *lane);
bool ucxt_lane_knows(const ucxt_lane_t *lane, mcs_id_t owner);
void ucxt_lane_forget(ucxt_lane_t *lane, mcs_id_t owner);

/* Its requests are forgotten; their answers will find nothing. The connection stays readable until ucxt_lane_reap. */
void ucxt_conn_fail(ucxt_conn_t *conn, mcs_status_t status);
/* Frees closed connections that UCX has let go. True when none is left. */
bool ucxt_lane_reap(ucxt_lane_t *lane);

static inline bool ucxt_conn_has_slot(const ucxt_conn_t *conn)
{
    return conn->requests < UCXT_CONN_REQUESTS;
}
/* Gives the request its slot and id; the caller encodes them and then sends. Needs a free slot. */
void ucxt_conn_add(ucxt_conn_t *conn, ucxt_request_t *request);
/* Sends iov. On failure the connection has failed; in either case the request is the lane's from here on. */
void ucxt_conn_send(ucxt_conn_t *conn, ucxt_request_t *request);
/* Answered, or given up: leaves its slot; freed when UCX has let it go. */
void ucxt_request_done(ucxt_request_t *request);
/* Answered in full: its owner is done with its places. Before ucxt_request_done. */
void ucxt_request_concealed(ucxt_request_t *request);

#endif
