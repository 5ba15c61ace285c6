/* One UCX context: TCP, active messages and wake-up, and for RDMA the devices' transports and remote memory access.
 * Without RDMA UCP_FEATURE_RMA is left out on purpose: over TCP it has no memory protection (docs/transport.md).
 * Options are set through ucp_config_modify, never through the environment; what an operator sets in UCX_* variables
 * for other options still counts. Created and destroyed by one thread; workers of it may be used by several. */
#ifndef UCXT_UCX_CONTEXT_H
#define UCXT_UCX_CONTEXT_H

#include "core/ops/transport.h"
#include "ucx_transport/rdma_devices.h"
#include "ucx_transport/ucx_dl.h"

typedef struct ucxt_context {
    const ucxt_dl_t *dl;
    ucp_context_h ucp;
    char device[64]; /* network interface, "" = every one */
    bool rdma;       /* it has devices, and remote memory access */
    char rdma_devices[UCXT_DEVICES_MAX];
} ucxt_context_t;

/* `bind_host`: a name or address of this machine whose interface carries the data; "" or a wildcard = every interface.
 * `rdma` may be NULL. MCS_ERR_INVALID_PARAMS: no interface has it, no such device, or UCX refuses; logged. */
mcs_status_t ucxt_context_open(const ucxt_dl_t *dl, const char *bind_host, const mcs_transport_rdma_t *rdma,
                               ucxt_context_t *context_out) MCS_MUST_CHECK;
/* Transports "tcp": no devices, UCX does what they would in software. For tests. */
bool ucxt_rdma_is_emulated(const mcs_transport_rdma_t *rdma);
void ucxt_context_close(ucxt_context_t *context);
/* May memory be moved over this endpoint? Where UCX has found no way between the devices of both sides it would do it
 * in messages over TCP, by the other side's processor, which must not touch all of that memory. */
bool ucxt_context_has_rdma_to(const ucxt_context_t *context, ucp_ep_h ep);

/* The interface that carries the host's address; `is_ipv6_out`: it was found by an IPv6 address. */
mcs_status_t ucxt_find_device(const char *bind_host, char *device, size_t size, bool *is_ipv6_out) MCS_MUST_CHECK;

#endif
