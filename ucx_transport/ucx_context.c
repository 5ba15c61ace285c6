/* See ucx_context.h. */
#include "ucx_transport/ucx_context.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/base/config.h"
#include "core/base/fault.h"
#include "core/base/log.h"

#define AREA "ucx"

/* ---- which interface ---- */

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family) {
        return false;
    }
    if (a->sa_family == AF_INET) {
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    }
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* All of 127.0.0.0/8 is on the loopback interface, whatever addresses it lists. */
static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    }
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static bool is_wildcard(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr == INADDR_ANY;
    }
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static const char *carrier(const struct ifaddrs *interfaces, const struct sockaddr *address)
{
    for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
        if (i->ifa_addr != NULL && (i->ifa_flags & IFF_UP) != 0 &&
            (is_loopback(address) ? (i->ifa_flags & IFF_LOOPBACK) != 0 : same_address(i->ifa_addr, address))) {
            return i->ifa_name;
        }
    }
    return NULL;
}

mcs_status_t ucxt_find_device(const char *bind_host, char *device, size_t size, bool *is_ipv6_out)
{
    if (bind_host[0] == '\0') {
        device[0] = '\0';
        *is_ipv6_out = false;
        return MCS_OK;
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? EAI_FAIL : getaddrinfo(bind_host, NULL, &hints, &list);
    if (rc != 0) {
        mcs_error(AREA, "data plane host %s: %s", bind_host, gai_strerror(rc));
        return MCS_ERR_INVALID_PARAMS;
    }
    struct ifaddrs *interfaces = NULL;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (mcs_fault_hit(MCS_FAULT_SYSCALL) || getifaddrs(&interfaces) != 0) {
        mcs_error(AREA, "network interfaces cannot be listed");
        freeaddrinfo(list);
        return status;
    }
    for (const struct addrinfo *ai = list; ai != NULL && status != MCS_OK; ai = ai->ai_next) {
        const char *name = is_wildcard(ai->ai_addr) ? "" : carrier(interfaces, ai->ai_addr);
        if (name != NULL) {
            snprintf(device, size, "%s", name);
            *is_ipv6_out = ai->ai_family == AF_INET6;
            status = MCS_OK;
        }
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "data plane host %s: no interface of this machine has its address", bind_host);
    }
    freeifaddrs(interfaces);
    freeaddrinfo(list);
    return status;
}

/* ---- options ---- */

typedef struct option {
    const char *name;
    const char *value;
    bool required;
} option_t;

/* One message of ours (1 MiB of payload and what describes it) is one segment: neither cut in pieces by the
 * sender nor put together by a copy in the receiver. UCX's default of 8 KiB costs four fifths of the speed. */
#define SEGMENT_BYTES "1088K"

static mcs_status_t set_options(const ucxt_dl_t *dl, ucp_config_t *config, const char *device, bool ipv6)
{
    const option_t options[] = {
        {"TLS", "tcp", true},
        {"NET_DEVICES", device[0] != '\0' ? device : "all", true},
        {"TCP_TX_SEG_SIZE", SEGMENT_BYTES, true},
        {"TCP_RX_SEG_SIZE", SEGMENT_BYTES, true},
        {"TCP_MAX_IOV", "18", true},
        /* A connect to a host that drops packets must not hold the thread that connects. */
        {"TCP_CONN_NB", "y", true},
        {"TCP_AF_PRIO", ipv6 ? "inet6,inet" : "inet,inet6", false},
        /* TCP registers no memory. Either cache would patch mmap, munmap and madvise of the program that we live in. */
        {"RCACHE_ENABLE", "n", false},
        {"MEMTYPE_CACHE", "n", false},
        /* By default UCX turns stretches of the program's heap into huge pages for its pools; given back, they stay so,
         * and each store that was opened and closed leaves the heap in more pieces. */
        {"ALLOC_PRIO", "mmap,heap", false},
        /* No remote memory access is asked for, so none is sent either. */
        {"TCP_PUT_ENABLE", "n", false},
        {"WARN_UNUSED_ENV_VARS", "n", false},
        {"WARN_INVALID_CONFIG", "n", false},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(options); i++) {
        ucs_status_t status = dl->ucp_config_modify(config, options[i].name, options[i].value);
        if (status != UCS_OK && options[i].required) {
            mcs_error(AREA, "UCX does not take %s=%s: %s", options[i].name, options[i].value,
                      dl->ucs_status_string(status));
            return MCS_ERR_INVALID_PARAMS;
        }
    }
    return MCS_OK;
}

/* UCX writes its messages to the standard streams: what matters is said by us, with the names that operators know. */
static void quieten(const ucxt_dl_t *dl)
{
    if (dl->ucs_global_opts_set_value == NULL) {
        return;
    }
    if (mcs_env("UCX_LOG_LEVEL") == NULL) {
        dl->ucs_global_opts_set_value("LOG_LEVEL", "fatal");
    }
    dl->ucs_global_opts_set_value("HANDLE_ERRORS", "none");
    dl->ucs_global_opts_set_value("ERROR_SIGNALS", "");
    dl->ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS", "n");
}

mcs_status_t ucxt_context_open(const ucxt_dl_t *dl, const char *bind_host, ucxt_context_t *context_out)
{
    ucxt_context_t context = {.dl = dl};
    bool ipv6;
    mcs_status_t status = ucxt_find_device(bind_host, context.device, sizeof(context.device), &ipv6);
    if (status != MCS_OK) {
        return status;
    }
    quieten(dl);
    ucp_config_t *config = NULL;
    ucs_status_t rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_NO_MEMORY : dl->ucp_config_read(NULL, NULL, &config);
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX configuration: %s", dl->ucs_status_string(rc));
        return MCS_ERR_INVALID_PARAMS;
    }
    status = set_options(dl, config, context.device, ipv6);
    if (status != MCS_OK) {
        dl->ucp_config_release(config);
        return status;
    }
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .mt_workers_shared = 1,
        .name = "mcs",
    };
    rc = mcs_fault_hit(MCS_FAULT_SYSCALL)
             ? UCS_ERR_NO_DEVICE
             : dl->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &context.ucp);
    dl->ucp_config_release(config);
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX %u.%u.%u has no TCP on %s: %s", dl->major, dl->minor, dl->release,
                  context.device[0] != '\0' ? context.device : "any interface", dl->ucs_status_string(rc));
        return MCS_ERR_INVALID_PARAMS;
    }
    *context_out = context;
    return MCS_OK;
}

void ucxt_context_close(ucxt_context_t *context)
{
    if (context->ucp != NULL) {
        context->dl->ucp_cleanup(context->ucp);
        context->ucp = NULL;
    }
}
