/* The transport of core/ops/transport.h over UCX on TCP, and the HTTP client of core/ops/metadata.h. A main plugs them
 * in; docs/transport.md says what they are, how they talk and what they do not protect. */
#ifndef UCXT_UCX_TRANSPORT_H
#define UCXT_UCX_TRANSPORT_H

#include "core/ops/metadata.h"
#include "core/ops/transport.h"

/* config->library: "" = the newest UCX found on the system; "hint:DIR" = that or the one of an installed PyPI package
 * in DIR, whichever is newer; "system"; or the path of a libucp.so.0. One UCX per process: the first open decides. */
extern const mcs_transport_ops_t ucxt_transport_ops;

extern const mcs_metadata_ops_t ucxt_metadata_http_ops;

#endif
