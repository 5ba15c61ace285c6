/* A client connection whose other end is in the test's hand: what the master is to say is written before the call that
 * reads it, so one thread is enough and nothing is left to timing. */
#ifndef MCS_TESTS_CONN_PAIR_H
#define MCS_TESTS_CONN_PAIR_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "core/client/conn.h"
#include "tests/support/unit.h"

typedef struct pair {
    mcs_conn_t conn;
    int far; /* the master's end */
} pair_t;

MCS_UNUSED static void pair_open(pair_t *pair)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    mcs_conn_init(&pair->conn);
    pair->conn.fd = fds[0];
    pair->far = fds[1];
}

MCS_UNUSED static void pair_close(pair_t *pair)
{
    mcs_conn_fini(&pair->conn);
    if (pair->far >= 0) {
        close(pair->far);
    }
}

MCS_UNUSED static void pair_say_bytes(pair_t *pair, const void *bytes, size_t len)
{
    assert_int_equal(send(pair->far, bytes, len, MSG_NOSIGNAL), len);
}

MCS_UNUSED static void pair_say(pair_t *pair, const mcs_frame_header_t *header, const void *payload, size_t len)
{
    uint8_t head[MCS_FRAME_HEADER];
    mcs_frame_header_t full = *header;
    full.length = (uint32_t)len;
    mcs_frame_encode(&full, head);
    pair_say_bytes(pair, head, sizeof(head));
    if (len > 0) {
        pair_say_bytes(pair, payload, len);
    }
}

/* The other side is heard to the end: nothing more will come. */
MCS_UNUSED static void pair_hang_up(pair_t *pair)
{
    close(pair->far);
    pair->far = -1;
}

MCS_UNUSED static mcs_io_t pair_io(int64_t ms)
{
    return (mcs_io_t){.deadline_ns = mcs_deadline_after_ms(ms)};
}

#endif
