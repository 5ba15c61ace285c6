/* A server whose handler does what the verb says, and a raw client that may misbehave. */
#ifndef MCS_TESTS_RPC_RIG_H
#define MCS_TESTS_RPC_RIG_H

#include <stdlib.h>

#include "master/rpc_server.h"
#include "tests/support/unit.h"

/* What the rig's handler does with a request. */
enum {
    RIG_HELLO = 1,  /* sets greeted, echoes */
    RIG_ECHO = 200, /* replies with the payload */
    RIG_SILENT,     /* no reply */
    RIG_REFUSE,     /* a status: the connection ends */
    RIG_BIG,        /* payload u32 size: replies with so many bytes, each the low byte of the id */
    RIG_KEEP,       /* keeps a reference (rig->kept), no reply */
    RIG_PARK,       /* one more parked, no reply */
    RIG_CLOSE,      /* replies, then asks to be closed */
    RIG_WAIT,       /* replies after rig->gate was opened: a handler that is busy */
    RIG_WAIT_AGAIN, /* the same until the gate was opened twice */
    RIG_WORK        /* replies after a millisecond of work */
};

typedef struct rig {
    mcs_rpc_server_t *server;
    mcs_metrics_t metrics;
    char folder[64];
    /* atomics */
    uint64_t frames;
    uint64_t closed;
    uint64_t ended_threads;
    uint32_t gate;
    uint32_t waiting;
    mcs_rpc_conn_t *kept;
} rig_t;

/* threads 0: 2. max_connections 0: 1000. A server that is created, and with `start` started. */
typedef struct rig_options {
    uint32_t threads;
    uint32_t max_connections;
    uint64_t idle_timeout_ns;
} rig_options_t;
mcs_status_t rig_create(rig_t *rig, const rig_options_t *options);
void rig_start(rig_t *rig, const rig_options_t *options);
void rig_stop(rig_t *rig);
void rig_remove_folder(rig_t *rig);

/* Blocking sockets; a receive that takes 30 s fails the test instead of hanging. */
int rig_socket(void); /* TCP, not connected */
void rig_connect(const rig_t *rig, int fd);
int rig_tcp(const rig_t *rig);
int rig_unix(const rig_t *rig);
int rig_greeted(const rig_t *rig); /* UNIX, hello said and answered */

void rig_send_bytes(int fd, const void *bytes, size_t len);
void rig_send(int fd, unsigned verb, uint64_t id, const void *payload, size_t len);
/* The next frame; its payload into `payload` (up to `size`, the rest is dropped). False: the other side closed. */
bool rig_receive(int fd, mcs_frame_header_t *header, void *payload, size_t size);
/* Asserts that the other side closes without another byte. */
void rig_expect_closed(int fd);
/* Says hello and asserts that it is answered. */
void rig_hello(int fd);
void rig_expect_echo(int fd, uint64_t id, const void *payload, size_t len);
/* What the loops have done so far. */
uint64_t rig_frames(const rig_t *rig);
/* The connection of the RIG_KEEP that was sent last; waits for it. */
mcs_rpc_conn_t *rig_kept(const rig_t *rig);
/* True once *counter has reached `value`; false after 30 s. */
bool rig_wait(const uint64_t *counter, uint64_t value);
bool rig_wait_connections(const rig_t *rig, uint32_t count);

#endif
