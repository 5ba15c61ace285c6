/* Makes a client from its arguments, and takes one apart. See client.h; the rules of names and ports are those of the
 * API.
 *
 * Order: what this process needs alone (owner, transport, mapper, segment) is made first; then, once per name tried,
 * the name is published and the session opened, because a name may be taken. An explicit port is only a name: it is not
 * bound and not tried twice. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/device.h"
#include "core/client/hello.h"
#include "core/client/interrupt.h"
#include "core/client/local.h"
#include "core/client/lookup_cache.h"
#include "core/client/routes.h"
#include "core/client/spare.h"
#include "core/client/task.h"

#define AREA          "client"
#define SEGMENT_MIN   1024
#define SEGMENT_MAX   (UINT64_C(1) << 46)
#define BUFFER_MAX    (UINT64_C(1) << 40)
#define TEXT_MAX      1024
#define EMBEDDED      "embedded"
#define P2P           "P2PHANDSHAKE"
#define RETRY_WAIT_MS 100
#define ADDRESS_MAX   256

static uint64_t g_serial; /* atomic */

/* ---- arguments ---- */

static bool text_ok(const char *text)
{
    return text != NULL && text[0] != '\0' && strnlen(text, TEXT_MAX) < TEXT_MAX;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static mcs_status_t check_sizes(const mcs_setup_t *setup)
{
    if (setup->global_segment_size != 0 &&
        (setup->global_segment_size < SEGMENT_MIN || setup->global_segment_size > SEGMENT_MAX)) {
        mcs_error(AREA, "setup: global_segment_size %llu is not 0 or %d B to 64 TB",
                  (unsigned long long)setup->global_segment_size, SEGMENT_MIN);
        return MCS_ERR_INVALID_PARAMS;
    }
    if (!mcs_local_has_memory(setup->global_segment_size)) {
        mcs_error(AREA, "setup: global_segment_size %llu is more than this machine's memory",
                  (unsigned long long)setup->global_segment_size);
        return MCS_ERR_INVALID_PARAMS;
    }
    if (setup->local_buffer_size > BUFFER_MAX) {
        mcs_error(AREA, "setup: local_buffer_size %llu is over 1 TB", (unsigned long long)setup->local_buffer_size);
        return MCS_ERR_INVALID_PARAMS;
    }
    if (setup->http_server != 0 && setup->http_port > UINT16_MAX) {
        mcs_error(AREA, "setup: client_http_port %u is not a port", setup->http_port);
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

static mcs_status_t check_protocol(const char *protocol)
{
    if (strcmp(protocol, "rpc_only") == 0) {
        return MCS_OK;
    }
    if (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "rdma") != 0) {
        mcs_error(AREA, "setup: protocol %.40s: this build has %s rpc_only", protocol,
                  mcs_parts()->transport != NULL ? "tcp, rdma and" : "only");
        return MCS_ERR_INVALID_PARAMS;
    }
    if (mcs_parts()->transport == NULL) {
        mcs_error(AREA, "setup: protocol %s: this program has no data transport", protocol);
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

static mcs_status_t check_metadata(const char *metadata)
{
    if (strcmp(metadata, P2P) == 0) {
        return MCS_OK;
    }
    if (!starts_with(metadata, "http://") && !starts_with(metadata, "https://")) {
        mcs_error(AREA, "setup: metadata_server %.200s: neither " P2P " nor http://host:port/metadata", metadata);
        return MCS_ERR_INVALID_PARAMS;
    }
    if (mcs_parts()->metadata == NULL) {
        mcs_error(AREA, "setup: metadata_server %.200s: this program has no HTTP client, only " P2P, metadata);
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

static mcs_status_t embedded_port(const char *address, uint16_t *port_out)
{
    uint64_t port = 0;
    const char *text = address + strlen(EMBEDDED);
    if (*text == ':') {
        mcs_status_t status = mcs_parse_u64(text + 1, 65535, &port);
        if (status != MCS_OK || port == 0) {
            return MCS_ERR_INVALID_PARAMS;
        }
    } else if (*text != '\0') {
        return MCS_ERR_INVALID_PARAMS;
    }
    *port_out = (uint16_t)port;
    return MCS_OK;
}

static mcs_status_t check_master(const char *address)
{
    mcs_hostport_t target;
    uint16_t port;
    mcs_status_t status;
    if (strncmp(address, EMBEDDED, strlen(EMBEDDED)) == 0 && embedded_port(address, &port) == MCS_OK) {
        status = mcs_parts()->embed != NULL ? MCS_OK : MCS_ERR_INVALID_PARAMS;
        if (status != MCS_OK) {
            mcs_error(AREA, "setup: master_server_addr embedded: this program has no master inside");
        }
        return status;
    }
    if (starts_with(address, "unix:")) {
        status = address[5] != '\0' && strlen(address + 5) < MCS_UNIX_PATH_MAX ? MCS_OK : MCS_ERR_INVALID_PARAMS;
    } else {
        status = strstr(address, "://") != NULL ? MCS_ERR_INVALID_PARAMS : mcs_parse_hostport(address, &target);
    }
    if (status == MCS_OK && !starts_with(address, "unix:") && target.has_port && target.port == 0) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "setup: master_server_addr %.200s: not host:port, unix:/path or " EMBEDDED "[:port]", address);
    }
    return status;
}

static mcs_status_t parse_local(const char *text, mcs_hostport_t *local_out)
{
    mcs_status_t status = mcs_parse_hostport(text, local_out);
    if (status == MCS_OK && local_out->has_port && local_out->port == 0) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "setup: local_hostname %.200s: not a host or host:port", text);
    }
    return status;
}

static const char *protocol_of(const mcs_setup_t *setup)
{
    return setup->protocol != NULL ? setup->protocol : "tcp";
}

mcs_status_t mcs_setup_check(const mcs_setup_t *setup)
{
    mcs_hostport_t local;
    if (!text_ok(setup->local_hostname) || !text_ok(setup->metadata_server) || !text_ok(setup->master_server_addr) ||
        strnlen(protocol_of(setup), TEXT_MAX) == TEXT_MAX ||
        (setup->tenant_id != NULL && strnlen(setup->tenant_id, TEXT_MAX) == TEXT_MAX) || setup->flags != 0) {
        mcs_error(AREA,
                  "setup: local_hostname, metadata_server or master_server_addr is empty, or an argument is too long");
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = parse_local(setup->local_hostname, &local);
    status = status == MCS_OK ? check_sizes(setup) : status;
    status = status == MCS_OK ? check_protocol(protocol_of(setup)) : status;
    status = status == MCS_OK ? check_metadata(setup->metadata_server) : status;
    return status == MCS_OK ? check_master(setup->master_server_addr) : status;
}

/* ---- the parts ---- */

static bool give_up(void *arg)
{
    return mcs_client_is_cancelled(arg) || mcs_interrupt_pending();
}

static mcs_status_t start_embedded(mcs_client_t *client)
{
    uint16_t port;
    if (!starts_with(client->master_address, EMBEDDED) || embedded_port(client->master_address, &port) != MCS_OK) {
        return MCS_OK;
    }
    char address[ADDRESS_MAX] = "";
    mcs_status_t status = mcs_parts()->embed->start(port, &client->embedded, address, sizeof(address));
    if (status != MCS_OK) {
        mcs_error(AREA, "setup: the embedded master does not start: %s", mcs_status_name(status));
        return status;
    }
    char *copy = mcs_strdup(address);
    if (copy == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_free(client->master_address);
    client->master_address = copy;
    return MCS_OK;
}

/* What protocol rdma asks of the transport. */
static mcs_status_t wants_rdma(const mcs_client_t *client, mcs_transport_rdma_t *rdma_out)
{
    const mcs_client_config_t *config = &client->config;
    if (client->rdma_devices[0] == '\0' && !config->rdma_auto) {
        mcs_error(AREA, "setup: protocol rdma with MC_MS_AUTO_DISC=0: rdma_devices must name them");
        return MCS_ERR_INVALID_PARAMS;
    }
    *rdma_out = (mcs_transport_rdma_t){
        .devices = client->rdma_devices,
        .filter = config->rdma_filter,
        .transports = config->rdma_transports,
        .port = (unsigned)config->ib_port,
        .gid_index = (int)config->gid_index,
        .traffic_class = (int)config->ib_tc,
        .service_level = (int)config->ib_sl,
    };
    return MCS_OK;
}

static mcs_status_t open_transport(mcs_client_t *client)
{
    if (strcmp(client->protocol, "rpc_only") == 0) {
        return MCS_OK;
    }
    const mcs_parts_t *parts = mcs_parts();
    const mcs_client_config_t *config = &client->config;
    const char *hint = parts->ucx_hint != NULL ? parts->ucx_hint : "";
    mcs_transport_rdma_t rdma;
    mcs_status_t status = client->rdma ? wants_rdma(client, &rdma) : MCS_OK;
    if (status != MCS_OK) {
        return status;
    }
    mcs_transport_config_t transport_config = {
        .bind_host = config->bind_address[0] != '\0'
                         ? config->bind_address
                         : mcs_local_bind_host(client->local.host, client->master_address, config->ipv6),
        .library = config->ucx_lib[0] != '\0' ? config->ucx_lib : hint,
        .client = client->id,
        .cluster_token = config->cluster_token,
        .rdma = client->rdma ? &rdma : NULL,
        .machine = mcs_boot_id()[0] != '\0' ? mcs_hash64(0, mcs_boot_id(), strlen(mcs_boot_id())) : 0,
        .max_workers = (uint32_t)config->max_workers,
        .spin_ns = (uint64_t)config->spin_us * MCS_NS_PER_US,
        .connect_timeout_ns = config->transfer_timeout_s * MCS_NS_PER_SEC,
        .owner_ops = &mcs_owner_serve_ops,
        .owner = client->owner,
        .counters = &client->transport_counters,
        .give_up = give_up,
        .give_up_arg = client,
    };
    status = parts->transport->open(&transport_config, &client->transport);
    if (status != MCS_OK) {
        mcs_error(AREA, "setup: the data transport does not open on %s: %s",
                  transport_config.bind_host[0] != '\0' ? transport_config.bind_host : "every interface",
                  mcs_status_name(status));
        client->transport = NULL;
        return status;
    }
    client->transport_ops = parts->transport;
    parts->transport->describe(client->transport, &client->transport_info);
    if (client->rdma && !client->transport_info.rdma) {
        client->rdma = false;
        memcpy(client->protocol, "tcp", sizeof("tcp"));
    }
    if (client->rdma && mcs_bufpool_size(client->pool) > 0) {
        client->transport_ops->expose(client->transport, mcs_bufpool_keep(client->pool), mcs_bufpool_size(client->pool),
                                      MCS_EXPOSED_BY_USE);
    }
    return MCS_OK;
}

static mcs_cached_hits_t cached_hits(void *arg)
{
    return mcs_lookup_cache_take_hits(((mcs_client_t *)arg)->lookup_cache);
}

static mcs_status_t make_session(mcs_client_t *client)
{
    client->self = (mcs_hello_self_t){
        .client = client->id,
        .host_name = client->name,
        .wire = client->transport_info.wire,
        .tenant = client->tenant,
        .token = client->config.cluster_token,
    };
    mcs_session_config_t session_config = {
        .address = client->master_address,
        .config = &client->config,
        .self = &client->self,
        .counters = &client->counters,
        .metrics = &client->metrics,
        .opened = mcs_client_opened,
        .resumed = mcs_client_resumed,
        .lost = mcs_client_lost,
        .cached_hits = cached_hits,
        .arg = client,
        .tasks = mcs_tasks_wanted,
        .tasks_arg = client->tasks,
    };
    mcs_status_t status = mcs_session_create(&session_config, &client->session);
    if (status == MCS_OK) {
        client->link = mcs_session_link(client->session);
    }
    return status;
}

static mcs_status_t make_owner(mcs_client_t *client)
{
    mcs_owner_config_t owner_config = {
        .client = client->id,
        .ipc_dir = client->config.memcpy_paths ? client->config.ipc_dir : "",
        .released = mcs_session_released,
        .differs = mcs_session_differ,
        .struck = mcs_session_struck,
        .released_arg = client->session,
    };
    return mcs_owner_create(&owner_config, &client->owner);
}

static mcs_status_t make_mapper(mcs_client_t *client)
{
    mcs_mapper_config_t mapper_config = {
        .client = client->id,
        .owner = client->owner,
        .retired = mcs_device_retired,
        .retired_arg = client,
        .open_far = mcs_device_open_far,
        .open_far_arg = client,
    };
    return mcs_mapper_create(&mapper_config, &client->mapper);
}

static mcs_status_t make_parts(mcs_client_t *client, const mcs_setup_t *setup)
{
    mcs_status_t status = mcs_views_create(&client->views);
    status = status == MCS_OK ? mcs_lookup_cache_create(client->config.lookup_cache, &client->lookup_cache) : status;
    status = status == MCS_OK ? mcs_spares_create(&client->spares) : status;
    status = status == MCS_OK ? mcs_get_sessions_create(client, &client->get_sessions) : status;
    status = status == MCS_OK ? mcs_put_sessions_create(&client->put_sessions) : status;
    status = status == MCS_OK ? mcs_tasks_create(client, &client->tasks) : status;
    status = status == MCS_OK ? mcs_peers_create(&client->peers) : status;
    status = status == MCS_OK ? mcs_copiers_create(&client->copiers) : status;
    status = status == MCS_OK ? mcs_regtable_create(&client->buffers) : status;
    status = status == MCS_OK ? mcs_bufpool_create(setup->local_buffer_size, &client->pool) : status;
    status = status == MCS_OK ? start_embedded(client) : status;
    status = status == MCS_OK ? make_session(client) : status;
    status = status == MCS_OK ? make_owner(client) : status;
    status = status == MCS_OK ? mcs_device_open(client) : status;
    status = status == MCS_OK ? make_mapper(client) : status;
    status = status == MCS_OK ? mcs_faulter_create(&client->faulter) : status;
    status = status == MCS_OK ? open_transport(client) : status;
    if (status == MCS_OK && client->own.config.size > 0) {
        status = mcs_client_make_segment(client);
    }
    return status;
}

/* ---- the name ---- */

static void format_endpoint(mcs_client_t *client, bool named_port)
{
    mcs_hostport_t shown = client->local;
    /* Without a server that maps names, descriptors show where the data plane is; a port that was asked for stands for
     * itself. */
    if (client->metadata_url[0] == '\0' && !named_port && client->transport_info.data_port != 0) {
        shown.port = client->transport_info.data_port;
    }
    mcs_hostport_format(&client->local, client->name, sizeof(client->name));
    mcs_hostport_format(&shown, client->transport_endpoint, sizeof(client->transport_endpoint));
}

static mcs_metadata_record_t metadata_record(const mcs_client_t *client)
{
    return (mcs_metadata_record_t){
        .url = client->metadata_url,
        .cluster_id = client->config.metadata_cluster_id,
        .segment_name = client->name,
        .protocol = client->protocol,
        .host = client->local.host,
        .data_port = client->transport_info.data_port,
        .segment_bytes = client->own.config.size,
    };
}

mcs_status_t mcs_client_publish(mcs_client_t *client)
{
    if (client->metadata_url[0] == '\0') {
        return MCS_OK;
    }
    mcs_metadata_record_t record = metadata_record(client);
    mcs_status_t status = mcs_parts()->metadata->publish(&record);
    client->published = client->published || status == MCS_OK;
    return status;
}

static void withdraw(mcs_client_t *client)
{
    if (client->published) {
        mcs_metadata_record_t record = metadata_record(client);
        mcs_parts()->metadata->withdraw(&record);
        client->published = false;
    }
}

static void release_port(mcs_client_t *client)
{
    mcs_local_release_port(client->port_fd);
    client->port_fd = -1;
}

static mcs_status_t try_name(mcs_client_t *client, bool named_port)
{
    const mcs_client_config_t *config = &client->config;
    mcs_status_t status = MCS_OK;
    if (!named_port) {
        status =
            mcs_local_pick_port(config->bind_address, config->ipv6 || client->local.is_ipv6, (uint16_t)config->min_port,
                                (uint16_t)config->max_port, &client->port_fd, &client->local.port);
        client->local.has_port = status == MCS_OK;
    }
    if (status == MCS_OK) {
        format_endpoint(client, named_port);
        status = mcs_client_publish(client);
    }
    if (status == MCS_OK) {
        status = mcs_session_start(client->session, client->owner);
        if (status != MCS_OK) {
            withdraw(client);
        }
    }
    if (status != MCS_OK) {
        release_port(client);
    }
    return status;
}

/* Only a name that is taken is worth another port; a master that is not there will not be there for the next one
 * either. */
static mcs_status_t join(mcs_client_t *client, bool named_port)
{
    mcs_status_t status = MCS_OK;
    for (uint64_t i = 0; i < client->config.setup_retries; i++) {
        status = try_name(client, named_port);
        if (named_port || status != MCS_ERR_SEGMENT_ALREADY_EXISTS) {
            break;
        }
        mcs_debug(AREA, "the name %s is taken, another port is tried", client->name);
        poll(NULL, 0, RETRY_WAIT_MS);
        if (mcs_interrupt_pending()) {
            status = MCS_ERR_INTERRUPTED;
            break;
        }
    }
    return status;
}

/* ---- open and close ---- */

static mcs_status_t take_arguments(mcs_client_t *client, const mcs_setup_t *setup)
{
    mcs_status_t status = parse_local(setup->local_hostname, &client->local);
    if (status != MCS_OK) {
        return status;
    }
    client->rdma_segments = strcmp(protocol_of(setup), "rdma") == 0;
    client->rdma = client->rdma_segments && !client->config.force_tcp;
    client->protocol = mcs_strdup(client->rdma_segments && !client->rdma ? "tcp" : protocol_of(setup));
    client->master_address = mcs_strdup(setup->master_server_addr);
    client->metadata_url = mcs_strdup(strcmp(setup->metadata_server, P2P) == 0 ? "" : setup->metadata_server);
    client->tenant = mcs_strdup(setup->tenant_id != NULL && setup->tenant_id[0] != '\0' ? setup->tenant_id : "default");
    client->rdma_devices = mcs_strdup(setup->rdma_devices != NULL ? setup->rdma_devices : "");
    if (client->protocol == NULL || client->master_address == NULL || client->metadata_url == NULL ||
        client->tenant == NULL || client->rdma_devices == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    client->wants_rdma = client->rdma || client->rdma_devices[0] != '\0';
    if (client->wants_rdma && !client->rdma) {
        mcs_warn(AREA, "rdma_devices %.100s: ignored for protocol %s", client->rdma_devices, client->protocol);
    }
    client->own.config = (mcs_segment_config_t){
        .size = setup->global_segment_size,
        .fault_window = client->config.fault_window,
        .huge_pages = client->config.use_hugepage,
        .huge_page_size = client->config.hugepage_size,
        .numa_node = (int)client->config.numa_node,
    };
    if (client->own.config.size > 0 && strcmp(client->protocol, "rpc_only") == 0) {
        mcs_warn(AREA, "protocol rpc_only has no data plane: no segment is contributed");
        client->own.config.size = 0;
    }
    return MCS_OK;
}

mcs_status_t mcs_client_open(const mcs_setup_t *setup, mcs_client_t **client_out, bool *named_port_out)
{
    mcs_client_t *client = MCS_NEW(mcs_client_t);
    if (client == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    client->port_fd = -1;
    mcs_status_t status = mcs_client_config_load(&client->config);
    if (status != MCS_OK) {
        mcs_free(client);
        return status;
    }
    client->metrics.on = client->config.metric;
    client->metrics.started_ns = mcs_now_ns();
    mcs_list_init(&client->mounted);
    mcs_mutex_init(&client->lock, MCS_RANK_CLIENT, "client");
    client->id = mcs_id_random();
    client->serial = __atomic_add_fetch(&g_serial, 1, __ATOMIC_RELAXED);
    status = take_arguments(client, setup);
    bool named_port = client->local.has_port;
    *named_port_out = named_port;
    status = status == MCS_OK ? make_parts(client, setup) : status;
    status = status == MCS_OK ? join(client, named_port) : status;
    if (status == MCS_OK) {
        status = mcs_client_reports_start(client, setup->http_server != 0, (uint16_t)setup->http_port);
    }
    if (status != MCS_OK) {
        mcs_client_close(client);
        return status;
    }
    mcs_client_connect_early(client);
    mcs_debug(AREA, "client %s set up: segment of %llu bytes, local buffer of %llu, master %s, data plane %s",
              client->name, (unsigned long long)client->own.config.size, (unsigned long long)setup->local_buffer_size,
              client->master_address, client->transport != NULL ? client->transport_info.library : "none");
    *client_out = client;
    return MCS_OK;
}

void mcs_client_cancel(mcs_client_t *client)
{
    __atomic_store_n(&client->cancel, 1, __ATOMIC_RELEASE);
    mcs_link_close(client->link);
}

/* Half-built clients too. */
void mcs_client_close(mcs_client_t *client)
{
    mcs_client_reports_stop(client);
    mcs_get_sessions_destroy(client->get_sessions); /* its thread asks the master */
    mcs_put_sessions_destroy(client->put_sessions);
    mcs_tasks_stop(client->tasks); /* its thread asks the master, too */
    withdraw(client);
    if (client->session != NULL) {
        mcs_client_close_segments(client);
        mcs_session_stop(client->session);
    }
    if (client->transport != NULL) {
        client->transport_ops->close(client->transport);
        client->transport = NULL;
    }
    if (client->mapper != NULL && client->owner != NULL) {
        mcs_client_drop_segments(client);
    }
    if (client->mapper != NULL) {
        mcs_mapper_destroy(client->mapper);
    }
    if (client->owner != NULL) {
        mcs_owner_destroy(client->owner);
    }
    mcs_device_close(client); /* the last of its segments has gone */
    mcs_faulter_destroy(client->faulter);
    mcs_spares_destroy(client->spares, client->session != NULL ? mcs_session_inflight(client->session) : NULL);
    mcs_session_destroy(client->session);
    mcs_tasks_destroy(client->tasks);
    if (client->embedded != NULL) {
        mcs_parts()->embed->stop(client->embedded);
    }
    if (client->pool != NULL) {
        mcs_bufpool_put(client->pool);
    }
    if (client->buffers != NULL) {
        mcs_regtable_destroy(client->buffers);
    }
    mcs_copiers_destroy(client->copiers);
    mcs_peers_destroy(client->peers);
    mcs_lookup_cache_destroy(client->lookup_cache);
    mcs_views_put(client->views);
    release_port(client);
    mcs_free(client->tenant);
    mcs_free(client->protocol);
    mcs_free(client->rdma_devices);
    mcs_free(client->master_address);
    mcs_free(client->metadata_url);
    mcs_client_config_fini(&client->config);
    mcs_mutex_fini(&client->lock);
    mcs_free(client);
}
