/* See ucx_context.h. */
#include "ucx_transport/ucx_context.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/base/alloc.h"
#include "core/base/config.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "ucx_transport/ucx_fds.h"

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

static const char *text_or(const char *text, const char *other)
{
    return text != NULL && text[0] != '\0' ? text : other;
}

/* Seconds until a device gives up a peer that does not answer: 4 times 0.2. UCX's default is half a minute. */
#define RC_TIMEOUT "200ms"
#define RC_RETRIES "4"

static mcs_status_t set_all(const ucxt_dl_t *dl, ucp_config_t *config, const option_t *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ucs_status_t status = options[i].value == NULL || options[i].value[0] == '\0'
                                  ? UCS_OK
                                  : dl->ucp_config_modify(config, options[i].name, options[i].value);
        if (status != UCS_OK && options[i].required) {
            mcs_error(AREA, "UCX does not take %s=%s: %s", options[i].name, options[i].value,
                      dl->ucs_status_string(status));
            return MCS_ERR_INVALID_PARAMS;
        }
    }
    return MCS_OK;
}

#define NUMBER 16

/* "" for a choice of UCX's. */
static const char *number(int value, char text[NUMBER])
{
    text[0] = '\0';
    if (value >= 0) {
        snprintf(text, NUMBER, "%d", value);
    }
    return text;
}

static mcs_status_t set_rdma_options(const ucxt_dl_t *dl, ucp_config_t *config, const mcs_transport_rdma_t *rdma)
{
    char gid[NUMBER];
    char traffic[NUMBER];
    char level[NUMBER];
    const option_t options[] = {
        /* The names of the tables that rc_verbs, rc_mlx5 and dc_mlx5 share; their own (RC_VERBS_TIMEOUT) are only for
         * the environment. */
        {"RC_TIMEOUT", RC_TIMEOUT, false},
        {"RC_RETRY_COUNT", RC_RETRIES, false},
        /* Who waits for an owner has sent nothing that its device would miss an answer to. */
        {"KEEPALIVE_INTERVAL", "1s", false},
        /* UCX 1.13 drops what Soft-RoCE sends while it connects: its check of addresses is wrong there. */
        {"UD_ETH_DGID_CHECK", "n", false},
        /* Registered by regions.c; what is not, for its one operation. A cache would want hooks in munmap. */
        {"IB_REG_METHODS", "direct", false},
        {"IB_GID_INDEX", number(rdma->gid_index, gid), true},
        {"IB_TRAFFIC_CLASS", number(rdma->traffic_class, traffic), true},
        {"IB_SL", number(rdma->service_level, level), true},
    };
    return set_all(dl, config, options, MCS_ARRAY_LEN(options));
}

/* LeakSanitizer does not look into mappings, and takes for lost what only they refer to. */
#ifdef __SANITIZE_ADDRESS__
#define POOLS_IN "heap"
#else
#define POOLS_IN "mmap,heap"
#endif

#define TEXT_MAX (UCXT_DEVICES_MAX + 1024)

/* UCX has one list for both kinds: with the RDMA devices stand the interfaces of TCP, all of them when none is named.
 */
static void list_devices(const ucxt_context_t *context, char out[TEXT_MAX])
{
    snprintf(out, TEXT_MAX, "%s", context->device[0] != '\0' ? context->device : "all");
    if (context->rdma_devices[0] == '\0') {
        return;
    }
    int used = snprintf(out, TEXT_MAX, "%s", context->rdma_devices);
    struct if_nameindex *all = context->device[0] == '\0' ? if_nameindex() : NULL;
    for (const struct if_nameindex *i = all; i != NULL && i->if_index != 0 && used < TEXT_MAX; i++) {
        used += snprintf(out + used, TEXT_MAX - (size_t)used, ",%s", i->if_name);
    }
    if (all != NULL) {
        if_freenameindex(all);
    } else if (used < TEXT_MAX) {
        snprintf(out + used, TEXT_MAX - (size_t)used, ",%s", context->device);
    }
}

static mcs_status_t set_options(const ucxt_context_t *context, ucp_config_t *config, bool ipv6,
                                const mcs_transport_rdma_t *rdma)
{
    const ucxt_dl_t *dl = context->dl;
    char transports[TEXT_MAX] = "tcp";
    char devices[TEXT_MAX];
    if (rdma != NULL) {
        snprintf(transports, sizeof(transports), "%.64s,tcp", text_or(rdma->transports, "rc"));
    }
    list_devices(context, devices);
    const option_t options[] = {
        {"TLS", transports, true},
        {"NET_DEVICES", devices, true},
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
        {"ALLOC_PRIO", POOLS_IN, false},
        /* No remote memory access is asked for, so none is sent either. */
        {"TCP_PUT_ENABLE", "n", false},
        {"WARN_UNUSED_ENV_VARS", "n", false},
        {"WARN_INVALID_CONFIG", "n", false},
    };
    mcs_status_t status = set_all(dl, config, options, MCS_ARRAY_LEN(options));
    return status == MCS_OK && rdma != NULL ? set_rdma_options(dl, config, rdma) : status;
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

#define INFO_MAX    ((size_t)256 << 10) /* what UCX prints of a context */
#define EP_INFO_MAX ((size_t)16 << 10)  /* and of an endpoint: its lanes come first */

/* Does what UCX says of the context, or of one endpoint of it, name one of the RDMA devices? MCS_ERR_NOT_SUPPORTED: no.
 */
static mcs_status_t look_for_devices(const ucxt_context_t *context, ucp_ep_h ep)
{
    size_t size = ep != NULL ? EP_INFO_MAX : INFO_MAX;
    char *text = mcs_calloc(1, size);
    FILE *file = text != NULL ? fmemopen(text, size - 1, "w") : NULL;
    if (file == NULL) {
        mcs_free(text);
        return MCS_ERR_NO_MEMORY;
    }
    if (ep != NULL) {
        context->dl->ucp_ep_print_info(ep, file);
    } else {
        context->dl->ucp_context_print_info(context->ucp, file);
    }
    fclose(file);
    const char *list = context->rdma_devices;
    char name[UCXT_DEVICES_MAX + 1] = "/";
    bool found = false;
    while (!found && ucxt_next_name(&list, name + 1, UCXT_DEVICES_MAX)) {
        found = strstr(text, name) != NULL;
    }
    mcs_free(text);
    return found ? MCS_OK : MCS_ERR_NOT_SUPPORTED;
}

/* A UCX without the module for RDMA, or whose module finds no libibverbs, only leaves it out. */
static mcs_status_t check_rdma(const ucxt_context_t *context)
{
    mcs_status_t status = look_for_devices(context, NULL);
    if (status == MCS_ERR_NOT_SUPPORTED) {
        mcs_error(
            AREA, "protocol rdma: UCX %u.%u.%u (%s) has no RDMA transport for %s: MC_STORE_UCX_LIB names another one",
            context->dl->major, context->dl->minor, context->dl->release, context->dl->path, context->rdma_devices);
        status = MCS_ERR_INVALID_PARAMS;
    }
    return status;
}

bool ucxt_context_has_rdma_to(const ucxt_context_t *context, ucp_ep_h ep)
{
    return context->rdma && (context->rdma_devices[0] == '\0' || look_for_devices(context, ep) == MCS_OK);
}

bool ucxt_rdma_is_emulated(const mcs_transport_rdma_t *rdma)
{
    return strcmp(text_or(rdma->transports, ""), "tcp") == 0;
}

/* The names of the interface and, with `rdma`, of the devices. */
static mcs_status_t find_devices(ucxt_context_t *context, const char *bind_host, const mcs_transport_rdma_t *rdma,
                                 bool *ipv6_out)
{
    mcs_status_t status = ucxt_find_device(bind_host, context->device, sizeof(context->device), ipv6_out);
    if (status != MCS_OK || rdma == NULL || ucxt_rdma_is_emulated(rdma)) {
        return status;
    }
    return ucxt_rdma_devices("/sys", text_or(rdma->devices, ""), text_or(rdma->filter, ""), rdma->port,
                             context->rdma_devices, sizeof(context->rdma_devices));
}

mcs_status_t ucxt_context_open(const ucxt_dl_t *dl, const char *bind_host, const mcs_transport_rdma_t *rdma,
                               ucxt_context_t *context_out)
{
    ucxt_context_t context = {.dl = dl, .rdma = rdma != NULL};
    bool ipv6;
    mcs_status_t status = find_devices(&context, bind_host, rdma, &ipv6);
    if (status == MCS_OK && !ucxt_worker_has_room()) {
        status = MCS_ERR_NO_MEMORY;
    }
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
    status = set_options(&context, config, ipv6, rdma);
    if (status != MCS_OK) {
        dl->ucp_config_release(config);
        return status;
    }
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP | (rdma != NULL ? (uint64_t)UCP_FEATURE_RMA : 0),
        .mt_workers_shared = 1,
        .name = "mcs",
    };
    rc = mcs_fault_hit(MCS_FAULT_SYSCALL)
             ? UCS_ERR_NO_DEVICE
             : dl->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &context.ucp);
    dl->ucp_config_release(config);
    if (rc != UCS_OK) {
        mcs_error(AREA, "UCX %u.%u.%u has no TCP on %s%s%s: %s", dl->major, dl->minor, dl->release,
                  context.device[0] != '\0' ? context.device : "any interface",
                  context.rdma_devices[0] != '\0' ? ", or no RDMA on " : "", context.rdma_devices,
                  dl->ucs_status_string(rc));
        return MCS_ERR_INVALID_PARAMS;
    }
    status = context.rdma_devices[0] != '\0' ? check_rdma(&context) : MCS_OK;
    if (status != MCS_OK) {
        dl->ucp_cleanup(context.ucp);
        return status;
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
