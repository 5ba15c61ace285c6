/* Which RDMA devices a transport of protocol rdma uses. */
#ifndef UCXT_RDMA_DEVICES_H
#define UCXT_RDMA_DEVICES_H

#include "core/base/status.h"

#define UCXT_DEVICES_MAX 512

/* `wanted`: names or name:port, with commas between them; "" or "auto-discovery" = every device with a port that is
 * up, of those that `filter` names ("" = all). `port`: of devices that are named without one. Writes
 * "mlx5_0:1,mlx5_1:1" as UCX wants it. `root` is /sys. MCS_ERR_INVALID_PARAMS: none, or one that is not there or not
 * up; logged. */
mcs_status_t ucxt_rdma_devices(const char *root, const char *wanted, const char *filter, unsigned port, char *out,
                               size_t size) MCS_MUST_CHECK;

/* Is any device asked for, and none by its name? */
bool ucxt_rdma_is_any(const char *wanted);
/* Has the machine a device, up or not? */
bool ucxt_rdma_is_there(const char *root);

/* Takes the next name off a list with commas or blanks between them; false at its end. What does not fit is cut off. */
bool ucxt_next_name(const char **list, char *name, size_t size);

#endif
