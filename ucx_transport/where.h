/* Where an owner is called: the interface that carries the data, the addresses on which its serving worker listens, and
 * which of them a caller takes. No state. */
#ifndef UCXT_WHERE_H
#define UCXT_WHERE_H

#include <sys/socket.h>

#include "core/base/status.h"

#define UCXT_WHERE_MAX 8 /* addresses of one owner */

typedef struct ucxt_host {
    uint8_t version;   /* of IP: 4 or 6 */
    uint8_t bytes[16]; /* network order; four of them for IPv4, then zeros */
} ucxt_host_t;

typedef struct ucxt_where {
    uint16_t port;
    uint32_t count;
    ucxt_host_t host[UCXT_WHERE_MAX];
} ucxt_where_t;

/* What a bind host stands for. */
typedef struct ucxt_place {
    char device[64];    /* network interface, "" = every one */
    bool any;           /* listen on every address of the family of where.host[0] */
    ucxt_where_t where; /* what to tell callers; the port is 0 yet */
} ucxt_place_t;

/* `bind_host`: a name or address of this machine; "" or a wildcard = every interface: then all addresses of those that
 * are up count, the loopback address only where there is no other. MCS_ERR_INVALID_PARAMS: no interface has it;
 * logged. */
mcs_status_t ucxt_place_find(const char *bind_host, ucxt_place_t *place_out) MCS_MUST_CHECK;

/* The address of one host of it. Returns its length. */
socklen_t ucxt_where_address(const ucxt_where_t *where, uint32_t index, struct sockaddr_storage *address_out);
/* The address to bind a listening socket to; its port is 0. */
socklen_t ucxt_place_address(const ucxt_place_t *place, struct sockaddr_storage *address_out);

/* Which host to call on the `turn`-th try: those in a network of an interface of ours (of `device`, "" = of any) come
 * first. */
uint32_t ucxt_where_choose(const ucxt_where_t *where, const char *device, uint32_t turn);

#endif
