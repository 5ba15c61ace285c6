/* Device memory in the calls of a client: which addresses are a device's, and how their bytes come and go.
 *
 * Everything here asks the memory space that a main has plugged in (core/ops/mem_space.h). Data calls find out with one
 * branch that there is nothing to ask: mcs_device_active. It goes up when the process has a driver: looked for at
 * set-up, when a buffer is registered, and when somebody asks about an address (mcs_is_device_memory). */
#ifndef MCS_CLIENT_DEVICE_H
#define MCS_CLIENT_DEVICE_H

#include "core/client/client.h"
#include "core/client/move.h"

/* At set-up, before the mapper is made; at close, after it and the owner are gone. */
mcs_status_t mcs_device_open(mcs_client_t *client) MCS_MUST_CHECK;
void mcs_device_close(mcs_client_t *client);
/* The mapper's hook (mcs_mapper_config_t.retired); `client`. */
void mcs_device_retired(void *client, void *base);
/* The mapper's other hook (mcs_mapper_config_t.open_far); `client`. */
mcs_status_t mcs_device_open_far(void *client, const mcs_mem_share_t *share, int fd, mcs_far_t *far_out) MCS_MUST_CHECK;
/* Memory of a device for a segment. Logged: which device, and what failed. */
mcs_status_t mcs_device_make_far(mcs_client_t *client, int device, uint64_t size, mcs_far_t *far_out) MCS_MUST_CHECK;

static inline bool mcs_device_active(const mcs_client_t *client)
{
    /* Acquire: pairs with the look that found the driver. */
    return MCS_UNLIKELY(__atomic_load_n(client->device_active, __ATOMIC_ACQUIRE) != 0);
}
/* Looks for a driver. */
bool mcs_device_look(mcs_client_t *client);
/* Is the first byte a device's? */
bool mcs_device_holds(mcs_client_t *client, const void *ptr);

/* Registered ranges of device memory. */
mcs_status_t mcs_device_register(mcs_client_t *client, const void *ptr, uint64_t len) MCS_MUST_CHECK;
void mcs_device_unregister(mcs_client_t *client, const void *ptr);
/* Of a registered range, with a data plane that has RDMA: may RDMA devices reach it? */
bool mcs_device_open_to_rdma(mcs_client_t *client, const void *ptr, uint64_t len);

/* Sets `devices` of the moves that have device memory; true when any has. Moves whose memory is not there get their
 * status. */
bool mcs_device_locate(mcs_client_t *client, mcs_move_t *moves, size_t count, mcs_arena_t *arena);
/* Copies pinned pages of a mapping's memory to come: makes it known, once. */
void mcs_device_know(mcs_client_t *client, mcs_mapping_t *mapping);
/* Between host memory of ours and the caller's memory of any kind. Waits. */
mcs_status_t mcs_device_copy_in(mcs_client_t *client, void *target, const void *user, uint64_t len) MCS_MUST_CHECK;
mcs_status_t mcs_device_copy_out(mcs_client_t *client, void *user, const void *source, uint64_t len) MCS_MUST_CHECK;

/* The device that all of the memory of a located move is on; MCS_MEM_HOST: not one alone, or the host's. */
int mcs_device_of_move(const mcs_move_t *move);

/* Walks over the memory of a move, with the device of each piece. */
typedef struct mcs_device_cursor {
    const struct iovec *iov;
    const int16_t *devices; /* NULL: all is the host's */
    size_t left;
    size_t at;
} mcs_device_cursor_t;
mcs_device_cursor_t mcs_device_cursor(const mcs_move_t *move, uint64_t skip);
/* The next piece in one stretch, at most `max` bytes (> 0); 0 at the end. */
uint64_t mcs_device_next(mcs_device_cursor_t *cursor, uint64_t max, uint8_t **user_out, int16_t *device_out);

#endif
