/* A thin layer over a UCX worker: create, progress, sleep, send. One thread uses a worker at a time; it may move
 * between threads under a lock of theirs. No lock is held here. */
#ifndef UCXT_UCX_WORKER_H
#define UCXT_UCX_WORKER_H

#include "ucx_transport/ucx_context.h"

typedef struct ucxt_worker {
    const ucxt_dl_t *dl;
    ucp_worker_h ucp;   /* NULL = none */
    int efd;            /* UCX's; readable when an armed worker has work */
    const char *device; /* the context's */
    bool told;          /* that another end is not on a network of ours */
} ucxt_worker_t;

/* `handler` gets whole messages of `am_id`. Nothing is left after a failure. */
mcs_status_t ucxt_worker_open(const ucxt_context_t *context, unsigned am_id, ucp_am_recv_callback_t handler, void *arg,
                              ucxt_worker_t *worker_out) MCS_MUST_CHECK;
/* Also the way to make UCX let go of memory: afterwards no buffer of any operation is touched, and no callback runs. */
void ucxt_worker_close(ucxt_worker_t *worker);

/* Does what there is to do, within bounds. True when something was done. */
bool ucxt_worker_progress(ucxt_worker_t *worker);

/* Sleeps until the worker has work, `extra_fd` (-1 = none) is readable, or the time is over; returns at once when there
 * is work already. */
void ucxt_worker_sleep(ucxt_worker_t *worker, int extra_fd, int timeout_ms);

/* Peer failure handling is always on: without it a killed peer would hang its operations for ever. Does not wait for
 * the peer. */
mcs_status_t ucxt_ep_open(ucxt_worker_t *worker, const void *address, ucp_err_handler_cb_t on_error, void *arg,
                          ucp_ep_h *ep_out) MCS_MUST_CHECK;
/* Waits for what is under way on the endpoint: results as ucxt_send. */
mcs_status_t ucxt_ep_flush(ucxt_worker_t *worker, ucp_ep_h ep, ucp_send_nbx_callback_t done, void *arg) MCS_MUST_CHECK;
/* At once; the error handler does not run again. Only after a flush has ended, or the error handler has run: closed in
 * the middle of a send, UCX 1.13 leaves a socket behind that crashes it when it becomes writable. */
void ucxt_ep_close(ucxt_worker_t *worker, ucp_ep_h ep);

/* Sends a message. MCS_OK: done, `done` does not run. MCS_ERR_AGAIN: under way; `done` runs exactly once in a progress
 * of this worker and must free the request (ucxt_request_free); iov and what it names stay valid until then. Else: not
 * sent, `done` does not run. `reply`: the receiver gets an endpoint to answer on. */
mcs_status_t ucxt_send(ucxt_worker_t *worker, ucp_ep_h ep, unsigned am_id, const ucp_dt_iov_t *iov, size_t iov_count,
                       bool reply, ucp_send_nbx_callback_t done, void *arg) MCS_MUST_CHECK;
/* Moves `len` bytes between local memory and a peer's, `get`: from there. Results as ucxt_send. `memh`: of the local
 * memory; NULL: UCX registers it for this one operation. What a put has moved is there when a later flush has ended. */
typedef struct ucxt_rma {
    bool get;
    void *local;
    size_t len;
    ucp_mem_h memh;
    uint64_t remote;
    ucp_rkey_h rkey;
} ucxt_rma_t;
mcs_status_t ucxt_move(ucxt_worker_t *worker, ucp_ep_h ep, const ucxt_rma_t *rma, ucp_send_nbx_callback_t done,
                       void *arg) MCS_MUST_CHECK;

static inline void ucxt_request_free(const ucxt_worker_t *worker, void *request)
{
    worker->dl->ucp_request_free(request);
}

#endif
