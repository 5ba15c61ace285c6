/* See ucx_worker.h. */
#include "ucx_transport/ucx_worker.h"

#include <poll.h>
#include <string.h>

#include "core/base/fault.h"
#include "core/base/log.h"
#include "ucx_transport/ucx_fds.h"

#define AREA "ucx"
/* Calls of ucp_worker_progress in one go: the caller looks at its own queues in between. */
#define PROGRESS_MAX 16

mcs_status_t ucxt_worker_open(const ucxt_context_t *context, unsigned am_id, ucp_am_recv_callback_t handler, void *arg,
                              ucxt_worker_t *worker_out)
{
    const ucxt_dl_t *dl = context->dl;
    if (!ucxt_worker_has_room()) {
        return MCS_ERR_NO_MEMORY;
    }
    ucxt_worker_t worker = {.dl = dl, .efd = -1, .device = context->device};
    ucp_worker_params_t params = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED,
    };
    ucs_status_t rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_NO_MEMORY
                                                       : dl->ucp_worker_create(context->ucp, &params, &worker.ucp);
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX worker: %s", dl->ucs_status_string(rc));
        return MCS_ERR_NO_MEMORY;
    }
    ucp_am_handler_param_t am = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = am_id,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = handler,
        .arg = arg,
    };
    rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_NO_MEMORY : dl->ucp_worker_set_am_recv_handler(worker.ucp, &am);
    if (rc == UCS_OK) {
        rc = dl->ucp_worker_get_efd(worker.ucp, &worker.efd);
    }
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX worker: %s", dl->ucs_status_string(rc));
        dl->ucp_worker_destroy(worker.ucp);
        return MCS_ERR_NO_MEMORY;
    }
    *worker_out = worker;
    return MCS_OK;
}

void ucxt_worker_close(ucxt_worker_t *worker)
{
    if (worker->ucp != NULL) {
        worker->dl->ucp_worker_destroy(worker->ucp);
        worker->ucp = NULL;
        worker->efd = -1;
    }
}

bool ucxt_worker_progress(ucxt_worker_t *worker)
{
    unsigned done = 0;
    for (unsigned i = 0; i < PROGRESS_MAX; i++) {
        unsigned n = worker->dl->ucp_worker_progress(worker->ucp);
        if (n == 0) {
            break;
        }
        done += n;
    }
    return done > 0;
}

void ucxt_worker_sleep(ucxt_worker_t *worker, int extra_fd, int timeout_ms)
{
    /* BUSY: events came since the last progress. */
    if (worker->dl->ucp_worker_arm(worker->ucp) != UCS_OK) {
        return;
    }
    struct pollfd fds[2] = {{.fd = worker->efd, .events = POLLIN}, {.fd = extra_fd, .events = POLLIN}};
    poll(fds, extra_fd >= 0 ? 2 : 1, timeout_ms);
}

mcs_status_t ucxt_ep_open(ucxt_worker_t *worker, const void *address, ucp_err_handler_cb_t on_error, void *arg,
                          ucp_ep_h *ep_out)
{
    ucp_ep_params_t params = {
        .field_mask =
            UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_error, .arg = arg},
    };
    ucs_status_t rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_UNREACHABLE
                                                       : worker->dl->ucp_ep_create(worker->ucp, &params, ep_out);
    if (rc == UCS_ERR_UNREACHABLE && !worker->told) {
        worker->told = true;
        mcs_warn(AREA,
                 "no way to the data port of another store from %s: transfers with it fail. local_hostname chooses the "
                 "interface, loopback reaches no other host; MC_TCP_BIND_ADDRESS overrides it",
                 worker->device[0] != '\0' ? worker->device : "any interface");
    }
    if (rc != UCS_OK) {
        mcs_debug(AREA, "endpoint: %s", worker->dl->ucs_status_string(rc));
        return MCS_ERR_TRANSFER_FAIL;
    }
    return MCS_OK;
}

static mcs_status_t progress_of(const ucxt_dl_t *dl, ucs_status_ptr_t request, const char *what)
{
    if (request == NULL) {
        return MCS_OK;
    }
    if (UCS_PTR_IS_ERR(request)) {
        mcs_debug(AREA, "%s: %s", what, dl->ucs_status_string(UCS_PTR_STATUS(request)));
        return MCS_ERR_TRANSFER_FAIL;
    }
    return MCS_ERR_AGAIN;
}

mcs_status_t ucxt_ep_flush(ucxt_worker_t *worker, ucp_ep_h ep, ucp_send_nbx_callback_t done, void *arg)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb = {.send = done},
        .user_data = arg,
    };
    return progress_of(worker->dl, worker->dl->ucp_ep_flush_nbx(ep, &param), "flush");
}

void ucxt_ep_close(ucxt_worker_t *worker, ucp_ep_h ep)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucs_status_ptr_t request = worker->dl->ucp_ep_close_nbx(ep, &param);
    if (request != NULL && !UCS_PTR_IS_ERR(request)) {
        /* Goes on by itself. Kept until it completes, it would make UCX abort when the worker is destroyed before. */
        worker->dl->ucp_request_free(request);
    }
}

mcs_status_t ucxt_send(ucxt_worker_t *worker, ucp_ep_h ep, unsigned am_id, const ucp_dt_iov_t *iov, size_t iov_count,
                       bool reply, ucp_send_nbx_callback_t done, void *arg)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_DATATYPE,
        .flags = UCP_AM_SEND_FLAG_EAGER | (reply ? (uint32_t)UCP_AM_SEND_FLAG_REPLY : 0),
        .cb = {.send = done},
        .user_data = arg,
        .datatype = iov_count > 1 ? ucp_dt_make_iov() : ucp_dt_make_contig(1),
    };
    const void *buffer = iov_count > 1 ? (const void *)iov : iov[0].buffer;
    size_t count = iov_count > 1 ? iov_count : iov[0].length;
    ucs_status_ptr_t request = mcs_fault_hit(MCS_FAULT_SYSCALL)
                                   ? UCS_STATUS_PTR(UCS_ERR_NO_MEMORY)
                                   : worker->dl->ucp_am_send_nbx(ep, am_id, NULL, 0, buffer, count, &param);
    return progress_of(worker->dl, request, "send");
}

mcs_status_t ucxt_move(ucxt_worker_t *worker, ucp_ep_h ep, const ucxt_rma_t *rma, ucp_send_nbx_callback_t done,
                       void *arg)
{
    const ucxt_dl_t *dl = worker->dl;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE |
                        (rma->memh != NULL ? (uint32_t)UCP_OP_ATTR_FIELD_MEMH : 0),
        .cb = {.send = done},
        .user_data = arg,
        .memory_type = UCS_MEMORY_TYPE_HOST,
        .memh = rma->memh,
    };
    if (mcs_fault_hit(MCS_FAULT_SYSCALL)) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    ucs_status_ptr_t request = rma->get ? dl->ucp_get_nbx(ep, rma->local, rma->len, rma->remote, rma->rkey, &param)
                                        : dl->ucp_put_nbx(ep, rma->local, rma->len, rma->remote, rma->rkey, &param);
    return progress_of(dl, request, rma->get ? "get" : "put");
}
