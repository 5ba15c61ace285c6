/* The UCX library, found and loaded at run time: nothing of ours links to it, so one build runs with Debian's UCX, with
 * the PyPI package and with a site's own.
 *
 * One UCX per process, for its whole life: its parts (libucs, libuct, libucm) are found by soname, so that two of them
 * in one process would mix, and it cannot be unloaded. The first load decides; a later one that names another file is
 * refused. Thread-safe. */
#ifndef UCXT_UCX_DL_H
#define UCXT_UCX_DL_H

#include <ucp/api/ucp.h>

#include "core/base/status.h"

/* Every function of UCX that is called, by its declaration in the headers of 1.13. */
#define UCXT_SYMBOLS(X)                                                                                                \
    X(ucp_get_version)                                                                                                 \
    X(ucp_config_read)                                                                                                 \
    X(ucp_config_modify)                                                                                               \
    X(ucp_config_release)                                                                                              \
    X(ucp_init_version)                                                                                                \
    X(ucp_cleanup)                                                                                                     \
    X(ucp_context_query)                                                                                               \
    X(ucp_context_print_info)                                                                                          \
    X(ucp_ep_print_info)                                                                                               \
    X(ucp_worker_create)                                                                                               \
    X(ucp_worker_destroy)                                                                                              \
    X(ucp_worker_query)                                                                                                \
    X(ucp_worker_get_address)                                                                                          \
    X(ucp_worker_release_address)                                                                                      \
    X(ucp_worker_get_efd)                                                                                              \
    X(ucp_worker_arm)                                                                                                  \
    X(ucp_worker_progress)                                                                                             \
    X(ucp_worker_set_am_recv_handler)                                                                                  \
    X(ucp_ep_create)                                                                                                   \
    X(ucp_ep_close_nbx)                                                                                                \
    X(ucp_ep_flush_nbx)                                                                                                \
    X(ucp_am_send_nbx)                                                                                                 \
    X(ucp_mem_map)                                                                                                     \
    X(ucp_mem_unmap)                                                                                                   \
    X(ucp_rkey_pack)                                                                                                   \
    X(ucp_rkey_buffer_release)                                                                                         \
    X(ucp_ep_rkey_unpack)                                                                                              \
    X(ucp_rkey_destroy)                                                                                                \
    X(ucp_put_nbx)                                                                                                     \
    X(ucp_get_nbx)                                                                                                     \
    X(ucp_request_free)                                                                                                \
    X(ucs_status_string)

#define UCXT_PATH_MAX 512

typedef struct ucxt_dl {
    void *handle;
    char path[UCXT_PATH_MAX];
    unsigned major;
    unsigned minor;
    unsigned release;
    /* Of libucs; NULL where a version lacks it. Sets one of the library's process-wide options. */
    ucs_status_t (*ucs_global_opts_set_value)(const char *name, const char *value);
#define UCXT_MEMBER(name) __typeof__(&name) name;
    UCXT_SYMBOLS(UCXT_MEMBER)
#undef UCXT_MEMBER
} ucxt_dl_t;

/* `library`: "" = the newest of those found (the system's alone); "hint:DIR" = the newest of the system's and the one
 * under DIR (DIR/lib or DIR: the folder of an installed PyPI package); "system"; or the path of a libucp.so.0. A UCX
 * that the process has loaded already wins over "" and "hint:". With `rdma` only those count that have RDMA transports.
 * MCS_ERR_INVALID_PARAMS: not found, not a UCX of 1.13 or later, or another one is loaded; logged. */
mcs_status_t ucxt_dl_load(const char *library, bool rdma, const ucxt_dl_t **dl_out) MCS_MUST_CHECK;

/* Processes of different text cannot talk: the wire format changed with 1.20. */
const char *ucxt_dl_wire(const ucxt_dl_t *dl);
/* The same as a number for endpoints: 13 or 20. */
uint8_t ucxt_dl_generation(const ucxt_dl_t *dl);

/* The release that a libucp.so file says it is, read from the file and nothing run: `major << 32 | minor << 16 |
 * release`, 0 = cannot tell. */
uint64_t ucxt_dl_file_version(const char *path);

#endif
