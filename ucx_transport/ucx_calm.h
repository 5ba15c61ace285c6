/* Connections inside one machine, where no network can be congested.
 *
 * BBR, which many systems have for the wide area, paces there what is a copy of memory: half the speed at twice the
 * processor time. Such connections are switched to Reno, which every system has and allows and which stays out of the
 * way where nothing is lost. All others keep what the system has chosen.
 *
 * A switch is not all. A socket on which BBR has once begun is paced for ever, and UCX's are connected before anybody
 * can ask for something else. Pacing hurts nobody while Reno is in slow start, where it allows twice a window that
 * grows with what is sent. But two processors that send for one socket (the sender's, and the one that takes in the
 * acknowledgements) can let packets overtake each other, in a cable between two network namespaces above all; Reno
 * takes that for a loss and leaves slow start for good. Then the pacing is what limits: a window that is never full
 * does not grow, and the pacing's timers, which fire on either processor, let more packets overtake. What helps is to
 * let BBR begin anew for a moment: that forgets the loss. So a worker that sends payload looks at one of its switched
 * connections each UCXT_CALM_EVERY bytes (a microsecond), and does that where retransmissions were not needed. Where
 * packets do get lost, as behind a traffic shaper, Reno's answer stands for UCXT_CALM_REST looks.
 *
 * One worker's, on the thread that has the worker. A descriptor is UCX's: the socket's cookie says whether it is still
 * the same one. */
#ifndef UCXT_UCX_CALM_H
#define UCXT_UCX_CALM_H

#include "ucx_transport/ucx_fds.h"

#define UCXT_CALM_MAX   128                 /* connections that are looked at; more are switched all the same */
#define UCXT_CALM_EVERY (UINT64_C(1) << 20) /* bytes of payload */
#define UCXT_CALM_REST  64

typedef struct ucxt_calm_socket {
    int fd;
    uint32_t lost; /* retransmissions that were needed, and are forgiven */
    uint32_t rest; /* looks until more of them are */
    uint64_t cookie;
    char paced[16]; /* what it had before */
} ucxt_calm_socket_t;

/* All zero is the start. */
typedef struct ucxt_calm {
    uint32_t count;
    uint32_t next;
    uint64_t sent; /* since the last look */
    ucxt_calm_socket_t socket[UCXT_CALM_MAX];
} ucxt_calm_t;

/* The worker with this address (or an endpoint that has it) is of this machine: switches what connects it with us, on
 * the calling side (no listeners) or on that of the worker with these. */
void ucxt_calm_add(ucxt_calm_t *calm, const void *address, size_t len, const ucxt_listeners_t *listeners);

/* May a connection that has retransmitted so many segments, so many of them without need, begin anew? Those that were
 * needed stand against it, and those whose acknowledgement is still on its way, which says that they were not. */
bool ucxt_calm_forgives(ucxt_calm_socket_t *held, uint32_t retransmitted, uint32_t needless);
/* Looks at one of them. */
void ucxt_calm_look(ucxt_calm_t *calm);
static inline void ucxt_calm_sent(ucxt_calm_t *calm, uint64_t bytes)
{
    calm->sent += bytes;
    if (calm->sent >= UCXT_CALM_EVERY) {
        calm->sent = 0;
        ucxt_calm_look(calm);
    }
}

#endif
