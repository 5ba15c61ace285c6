/* One connection to the master: a non-blocking stream socket that the calling thread writes to and reads from itself.
 *
 * A caller waits in slices of at most 100 ms, so that its interrupt hook runs and a close of the client is noticed.
 * Whatever comes from the other side is hostile (rule 10): bad frames are MCS_ERR_PROTOCOL, lengths are bounded, and
 * the caller closes the connection. Not thread-safe: one user at a time. */
#ifndef MCS_CLIENT_CONN_H
#define MCS_CLIENT_CONN_H

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/spin.h"
#include "core/wire/frame.h"

/* For how long, and for whose sake, a caller waits. */
typedef struct mcs_io {
    uint64_t deadline_ns;
    const uint32_t *cancel; /* atomic; not 0 = MCS_ERR_CLOSED. May be NULL */
    uint64_t spin_ns;       /* poll for an answer at most this long before sleeping */
    bool interruptible;     /* ask the thread's interrupt hook */
} mcs_io_t;

typedef struct mcs_conn {
    int fd; /* -1 = closed */
    uint64_t last_id;
    mcs_buf_t in;
    size_t taken; /* bytes at the front of `in` that the last receive gave out */
    mcs_buf_t out;
    mcs_spin_t spin; /* whether polling for an answer pays */
} mcs_conn_t;

void mcs_conn_init(mcs_conn_t *conn);
/* Closes and frees. */
void mcs_conn_fini(mcs_conn_t *conn);
void mcs_conn_close(mcs_conn_t *conn);
static inline bool mcs_conn_is_open(const mcs_conn_t *conn)
{
    return conn->fd >= 0;
}

/* `address`: "host:port", "host" (default port) or "unix:/path". The name is resolved each time. MCS_ERR_RPC_FAIL:
 * refused, unresolved, unreachable; MCS_ERR_RPC_TIMEOUT; MCS_ERR_CLOSED; MCS_ERR_INTERRUPTED. Failures are logged at
 * debug: the caller knows how often. */
#define MCS_MASTER_PORT 50051
mcs_status_t mcs_conn_open(mcs_conn_t *conn, const char *address, bool ipv6, const mcs_io_t *io) MCS_MUST_CHECK;

/* Room for a request of `length` bytes of payload: returns where it goes (the caller fills it), NULL when memory is
 * short or it is too long. */
uint8_t *mcs_conn_prepare(mcs_conn_t *conn, const mcs_frame_header_t *header, size_t length);
/* Sends what was prepared. MCS_ERR_RPC_FAIL: the connection is lost. */
mcs_status_t mcs_conn_flush(mcs_conn_t *conn, const mcs_io_t *io) MCS_MUST_CHECK;

typedef struct mcs_frame {
    mcs_frame_header_t header;
    const uint8_t *payload; /* until the next receive on this connection */
} mcs_frame_t;
/* The next frame. MCS_ERR_RPC_FAIL: closed by the other side; MCS_ERR_PROTOCOL: not a frame. */
mcs_status_t mcs_conn_receive(mcs_conn_t *conn, uint32_t max_payload, const mcs_io_t *io, mcs_frame_t *frame_out)
    MCS_MUST_CHECK;
/* The next frame if it is here already, else MCS_ERR_AGAIN. */
mcs_status_t mcs_conn_poll(mcs_conn_t *conn, uint32_t max_payload, mcs_frame_t *frame_out) MCS_MUST_CHECK;

#endif
