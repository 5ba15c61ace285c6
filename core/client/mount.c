/* The segment of a client in its session at the master: see session.h for when these hooks run.
 *
 * Mounting is always a new instance id on new memory (design section 3). The segment that set-up made serves the first
 * session; when a later session is opened (the master lost this one), what was mounted goes out of service, its memory
 * going when its last reader has left, and a new segment is made. The hooks run on one thread at a time: that of
 * set-up, then the control thread. */
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/client/routes.h"

#define AREA           "client"
#define MOUNT_LIMIT_MS 5000
#define LIST_LIMIT_MS  1000
#define EARLY_MAX      256

mcs_status_t mcs_client_make_segment(mcs_client_t *client)
{
    mcs_segment_t *segment;
    mcs_status_t status = mcs_segment_create(&client->segment_config, client->faulter, &segment);
    if (status != MCS_OK) {
        return status;
    }
    status = mcs_owner_add_segment(client->owner, segment);
    if (status != MCS_OK) {
        goto err_put;
    }
    status = mcs_mapper_add_own(client->mapper, segment);
    if (status != MCS_OK) {
        goto err_remove;
    }
    mcs_mutex_lock(&client->lock);
    client->segment = segment;
    client->segment_offered = false;
    mcs_mutex_unlock(&client->lock);
    return MCS_OK;

err_remove:
    mcs_owner_remove_segment(client->owner, mcs_segment_instance(segment));
err_put:
    mcs_segment_put(segment);
    return status;
}

void mcs_client_drop_segment(mcs_client_t *client)
{
    mcs_mutex_lock(&client->lock);
    mcs_segment_t *segment = client->segment;
    client->segment = NULL;
    mcs_mutex_unlock(&client->lock);
    if (segment == NULL) {
        return;
    }
    mcs_segment_close(segment);
    mcs_mapper_remove_own(client->mapper, mcs_segment_instance(segment));
    mcs_owner_remove_segment(client->owner, mcs_segment_instance(segment));
    mcs_segment_put(segment);
}

static mcs_status_t send_mount(mcs_client_t *client, mcs_segment_t *segment, mcs_mac_key_t *key_out)
{
    mcs_id_t instance = mcs_segment_instance(segment);
    char location[16] = "";
    if (client->segment_config.numa_node >= 0) {
        snprintf(location, sizeof(location), "cpu:%d", client->segment_config.numa_node);
    }
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment request;
    mcs__wire__mount_segment__init(&request);
    id.hi = instance.hi;
    id.lo = instance.lo;
    request.sequence = &sequence;
    request.instance = &id;
    request.name = client->name;
    request.size = mcs_segment_size(segment);
    request.protocol = client->protocol;
    request.endpoint =
        (ProtobufCBinaryData){client->transport_info.endpoint.len, client->transport_info.endpoint.bytes};
    request.ipc_path = (char *)(uintptr_t)mcs_owner_ipc_path(client->owner);
    request.transport_endpoint = client->transport_endpoint;
    request.location = location;
    request.base_address = (uint64_t)(uintptr_t)mcs_segment_base(segment);
    mcs_call_t call = {.verb = MCS_VERB_MOUNT_SEGMENT,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__mount_segment_reply__descriptor,
                       .timeout_ms = MOUNT_LIMIT_MS,
                       .flags = MCS_CALL_EARLY};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        const Mcs__Wire__MountSegmentReply *mounted = (const Mcs__Wire__MountSegmentReply *)(const void *)reply.message;
        *key_out = (mcs_mac_key_t){mounted->mac_k0, mounted->mac_k1};
    }
    mcs_reply_fini(&reply);
    return status;
}

static mcs_status_t mount(mcs_client_t *client)
{
    mcs_mutex_lock(&client->lock);
    bool stale = client->segment != NULL && client->segment_offered;
    mcs_mutex_unlock(&client->lock);
    mcs_status_t status = MCS_OK;
    if (stale) {
        mcs_client_drop_segment(client);
    }
    if (client->segment == NULL) {
        status = mcs_client_make_segment(client);
    }
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&client->lock);
    mcs_segment_t *segment = mcs_segment_get(client->segment);
    client->segment_offered = true;
    mcs_mutex_unlock(&client->lock);
    mcs_mac_key_t key;
    status = send_mount(client, segment, &key);
    if (status == MCS_OK) {
        status = mcs_owner_set_key(client->owner, mcs_segment_instance(segment), &key);
    }
    if (status != MCS_OK) {
        mcs_error(AREA, "segment %s of %llu bytes not mounted: %s", client->name,
                  (unsigned long long)mcs_segment_size(segment), mcs_status_name(status));
    }
    mcs_segment_put(segment);
    return status;
}

/* A new session may be another master's, whose handles mean other segments. */
static void take_epoch(mcs_client_t *client, uint64_t epoch, bool new_session)
{
    mcs_mutex_lock(&client->lock);
    bool other = client->epoch != epoch;
    client->epoch = epoch;
    mcs_mutex_unlock(&client->lock);
    if (other || new_session) {
        mcs_peers_flush(client->peers);
    }
}

/* A master that lost the session may have withdrawn our name, or lost it with everything else. */
static void publish_again(mcs_client_t *client)
{
    mcs_status_t status = mcs_client_publish(client);
    if (status != MCS_OK && status != MCS_ERR_SEGMENT_ALREADY_EXISTS) {
        mcs_warn(AREA, "the name %s is not published again: %s", client->name, mcs_status_name(status));
    }
}

mcs_status_t mcs_client_opened(void *arg, const mcs_hello_result_t *hello)
{
    mcs_client_t *client = arg;
    take_epoch(client, hello->epoch, true);
    mcs_mapper_set_session(client->mapper, hello->session);
    mcs_status_t status = client->segment_config.size > 0 ? mount(client) : MCS_OK;
    if (status == MCS_OK && client->joined) {
        publish_again(client);
    }
    client->joined = client->joined || status == MCS_OK;
    return status;
}

void mcs_client_resumed(void *arg, const mcs_hello_result_t *hello)
{
    mcs_client_t *client = arg;
    take_epoch(client, hello->epoch, false);
    mcs_mapper_set_session(client->mapper, hello->session);
}

void mcs_client_connect_early(mcs_client_t *client)
{
    if (client->transport == NULL) {
        return;
    }
    Mcs__Wire__ListSegments request = MCS__WIRE__LIST_SEGMENTS__INIT;
    mcs_call_t call = {.verb = MCS_VERB_LIST_SEGMENTS,
                       .request = &request.base,
                       .reply_type = &mcs__wire__segment_list__descriptor,
                       .timeout_ms = LIST_LIMIT_MS};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        const Mcs__Wire__SegmentList *list = (const Mcs__Wire__SegmentList *)(const void *)reply.message;
        for (size_t i = 0; i < list->n_segments && i < EARLY_MAX; i++) {
            mcs_peer_t *peer = mcs_peer_make(client, list->segments[i]);
            bool mapped = peer != NULL && client->config.memcpy_paths && (peer->own || peer->same_host);
            if (peer != NULL && peer->wired && !mapped) {
                client->transport_ops->connect(client->transport, peer->owner, &peer->endpoint);
            }
            mcs_peer_put(peer);
        }
    }
    mcs_reply_fini(&reply);
}
