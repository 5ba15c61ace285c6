/* The name of a client and where it may bind: what follows from `local_hostname`. Blocking (names are resolved); set-up
 * only. */
#ifndef MCS_CLIENT_LOCAL_H
#define MCS_CLIENT_LOCAL_H

#include "core/base/parse.h"

/* A free port in [min, max], held bound on every interface (or on `bind_address`) as long as *fd_out is open: no other
 * store of this host picks it meanwhile. MCS_ERR_LIMIT when none is free. */
mcs_status_t mcs_local_pick_port(const char *bind_address, bool ipv6, uint16_t min, uint16_t max, int *fd_out,
                                 uint16_t *port_out) MCS_MUST_CHECK;
void mcs_local_release_port(int fd); /* -1 is fine */

/* Where the data plane of a host of this name binds: the name when it is an address of this machine that others may
 * reach by it, else "" (every interface): a name that is only a name, or one that /etc/hosts maps to loopback, must not
 * cut the client off. Nor must loopback itself, which engines have as their default, when the master at `master`
 * ("host:port"; "": it does not matter) is on a network: there are owners on other hosts then. */
const char *mcs_local_bind_host(const char *host, const char *master, bool ipv6);

/* False: more than this machine's memory and swap together. Segments cost what is used of them; one that can never be
 * filled would end in the kernel's killing somebody. */
bool mcs_local_has_memory(uint64_t bytes);

#endif
