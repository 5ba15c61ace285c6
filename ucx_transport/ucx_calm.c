/* See ucx_calm.h. */
#include "ucx_transport/ucx_calm.h"

#include <linux/tcp.h> /* not netinet's, whose tcp_info is too short */
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "core/base/log.h"

#define AREA "ucx"
/* tcpi_snd_ssthresh of a connection that never left slow start (net/tcp.h). */
#define NO_SSTHRESH UINT32_C(0x7fffffff)

static const char g_calm[] = "reno";

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof(cookie);
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

static bool set_congestion(int fd, const char *name)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0;
}

/* Who switches a socket is the one who looks at it: to the next it is no longer BBR's. */
static void calm_down(void *arg, int fd)
{
    ucxt_calm_t *calm = arg;
    ucxt_calm_socket_t found = {.fd = fd, .cookie = cookie_of(fd)};
    socklen_t len = sizeof(found.paced) - 1;
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, found.paced, &len) != 0 || !set_congestion(fd, g_calm)) {
        mcs_debug(AREA, "a connection within this machine keeps its congestion control");
        return;
    }
    /* No other one paces. */
    if (strncmp(found.paced, "bbr", 3) == 0 && found.cookie != 0 && calm->count < UCXT_CALM_MAX) {
        calm->socket[calm->count++] = found;
    }
}

void ucxt_calm_add(ucxt_calm_t *calm, const void *address, size_t len, const ucxt_listeners_t *listeners)
{
    ucxt_fds_of_worker(address, len, listeners, calm_down, calm);
}

bool ucxt_calm_forgives(ucxt_calm_socket_t *held, uint32_t retransmitted, uint32_t needless)
{
    uint32_t lost = retransmitted - MCS_MIN(retransmitted, needless);
    if (lost > held->lost) {
        held->rest = held->rest == 0 ? UCXT_CALM_REST : held->rest - 1;
        held->lost = held->rest == 0 ? lost : held->lost;
        return false;
    }
    held->rest = 0;
    return true;
}

static bool is_held_up(ucxt_calm_socket_t *held)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);
    if (getsockopt(held->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        len < offsetof(struct tcp_info, tcpi_dsack_dups) + sizeof(info.tcpi_dsack_dups)) {
        return false;
    }
    return ucxt_calm_forgives(held, info.tcpi_total_retrans, info.tcpi_dsack_dups) &&
           info.tcpi_snd_ssthresh < NO_SSTHRESH && info.tcpi_ca_state == TCP_CA_Open;
}

void ucxt_calm_look(ucxt_calm_t *calm)
{
    if (calm->count == 0) {
        return;
    }
    calm->next = calm->next < calm->count ? calm->next : 0;
    ucxt_calm_socket_t *held = &calm->socket[calm->next];
    bool gone = cookie_of(held->fd) != held->cookie;
    if (!gone && is_held_up(held)) {
        gone = !set_congestion(held->fd, held->paced) || !set_congestion(held->fd, g_calm);
    }
    if (gone) {
        *held = calm->socket[--calm->count];
    } else {
        calm->next++;
    }
}
