/* The segments of a client in its session at the master: see session.h for when these hooks run.
 *
 * Mounting is always a new instance id on new memory (design section 3). The segment that set-up made serves the first
 * session; when a later session is opened (the master lost this one), what was mounted goes out of service, its memory
 * going when its last reader has left, and a new segment is made. When the session goes on under a new epoch (a master
 * that was started again from its journal), the same memory is mounted again with what is in it (rule 12); only what
 * that master knows nothing of is replaced. The hooks run on one thread at a time: that of
 * set-up, then the control thread.
 *
 * Segments are also mounted and unmounted by calls. A thread that works on one has it marked busy: the others leave it
 * alone, and the lock is never held over a request. */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/device.h"
#include "core/client/local.h"
#include "core/client/lookup_cache.h"
#include "core/client/routes.h"
#include "core/client/spare.h"
#include "core/client/task.h"

#define AREA            "client"
#define MOUNT_LIMIT_MS  5000
#define LIST_LIMIT_MS   1000
#define EARLY_MAX       256
#define MOUNT_MAX       (UINT64_C(1) << 46)
#define DRAIN_MARGIN_NS (2 * MCS_NS_PER_SEC) /* the master's housekeeping ends it */

static mcs_status_t make_segment(mcs_client_t *client, const mcs_mounted_t *mounted, mcs_segment_t **segment_out)
{
    if (!mounted->far) {
        return mcs_segment_create(&mounted->config, client->faulter, segment_out);
    }
    mcs_far_t far;
    mcs_status_t status = mcs_device_make_far(client, mounted->device, mounted->config.size, &far);
    return status == MCS_OK ? mcs_segment_create_far(&mounted->config, client->faulter, far, segment_out) : status;
}

static mcs_status_t make_memory(mcs_client_t *client, mcs_mounted_t *mounted)
{
    mcs_segment_t *segment;
    mcs_status_t status = make_segment(client, mounted, &segment);
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
    mounted->segment = segment;
    mounted->offered = false;
    mcs_mutex_unlock(&client->lock);
    if (client->rdma && !mounted->far) {
        client->transport_ops->expose(client->transport, mcs_segment_base(segment), mcs_segment_size(segment),
                                      MCS_EXPOSED_LOCALLY);
    }
    return MCS_OK;

err_remove:
    mcs_owner_remove_segment(client->owner, mcs_segment_instance(segment));
err_put:
    mcs_segment_put(segment);
    return status;
}

mcs_status_t mcs_client_make_segment(mcs_client_t *client)
{
    return make_memory(client, &client->own);
}

static void drop_memory(mcs_client_t *client, mcs_mounted_t *mounted)
{
    mcs_mutex_lock(&client->lock);
    mcs_segment_t *segment = mounted->segment;
    mounted->segment = NULL;
    mcs_mutex_unlock(&client->lock);
    if (segment == NULL) {
        return;
    }
    mcs_segment_close(segment);
    if (client->rdma && client->transport != NULL) {
        client->transport_ops->conceal(client->transport, mcs_segment_base(segment));
    }
    mcs_mapper_remove_own(client->mapper, mcs_segment_instance(segment));
    mcs_owner_remove_segment(client->owner, mcs_segment_instance(segment));
    mcs_segment_put(segment);
}

/* At the end: nobody else is inside. */
void mcs_client_close_segments(mcs_client_t *client)
{
    mcs_mutex_lock(&client->lock);
    if (client->own.segment != NULL) {
        mcs_segment_close(client->own.segment);
    }
    MCS_LIST_FOR_EACH(node, &client->mounted)
    {
        mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        if (mounted->segment != NULL) {
            mcs_segment_close(mounted->segment);
        }
    }
    mcs_mutex_unlock(&client->lock);
}

void mcs_client_drop_segments(mcs_client_t *client)
{
    drop_memory(client, &client->own);
    MCS_LIST_FOR_EACH_SAFE(node, next, &client->mounted)
    {
        mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        mcs_list_remove(&mounted->node);
        drop_memory(client, mounted);
        mcs_free(mounted);
    }
}

/* "" for host memory of any node. */
static void format_location(const mcs_mounted_t *mounted, char *text, size_t size)
{
    text[0] = '\0';
    if (mounted->far) {
        snprintf(text, size, "cuda:%d", mounted->device);
    } else if (mounted->config.numa_node >= 0) {
        snprintf(text, size, "cpu:%d", mounted->config.numa_node);
    }
}

/* `resumes`: with its contents. */
static mcs_status_t send_mount(mcs_client_t *client, const mcs_mounted_t *mounted, mcs_segment_t *segment, bool resumes,
                               unsigned flags, mcs_mac_key_t *key_out)
{
    mcs_id_t instance = mcs_segment_instance(segment);
    const mcs_far_t *far = mcs_segment_far(segment);
    char location[16];
    char name[MCS_SEGMENT_NAME_MAX + sizeof(location)];
    format_location(mounted, location, sizeof(location));
    /* A tier of its own has a name of its own: it is asked for by that, and a value may lie in both. */
    snprintf(name, sizeof(name), "%s%s%s", client->name, mounted->far ? "/" : "", mounted->far ? location : "");
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment request;
    mcs__wire__mount_segment__init(&request);
    id.hi = instance.hi;
    id.lo = instance.lo;
    request.sequence = &sequence;
    request.instance = &id;
    request.name = name;
    request.size = mcs_segment_size(segment);
    request.protocol = client->protocol;
    request.endpoint =
        (ProtobufCBinaryData){client->transport_info.endpoint.len, client->transport_info.endpoint.bytes};
    request.ipc_path = (char *)(uintptr_t)mcs_owner_ipc_path(client->owner);
    request.transport_endpoint = client->transport_endpoint;
    request.location = location;
    request.base_address = (uint64_t)(uintptr_t)(far != NULL ? far->memory->base : mcs_segment_base(segment));
    request.resumes = resumes;
    request.high_mark = resumes ? mcs_owner_high_mark(client->owner, instance) : 0;
    mcs_call_t call = {.verb = MCS_VERB_MOUNT_SEGMENT,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__mount_segment_reply__descriptor,
                       .timeout_ms = MOUNT_LIMIT_MS,
                       .flags = flags};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    if (status == MCS_OK) {
        const Mcs__Wire__MountSegmentReply *answer = (const Mcs__Wire__MountSegmentReply *)(const void *)reply.message;
        *key_out = (mcs_mac_key_t){answer->mac_k0, answer->mac_k1};
    }
    mcs_reply_fini(&reply);
    return status;
}

static mcs_status_t mount(mcs_client_t *client, mcs_mounted_t *mounted, unsigned flags)
{
    mcs_mutex_lock(&client->lock);
    bool stale = mounted->segment != NULL && mounted->offered;
    mcs_mutex_unlock(&client->lock);
    mcs_status_t status = MCS_OK;
    if (stale) {
        drop_memory(client, mounted);
    }
    if (mounted->segment == NULL) {
        status = make_memory(client, mounted);
    }
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&client->lock);
    mcs_segment_t *segment = mcs_segment_get(mounted->segment);
    mounted->offered = true;
    mcs_mutex_unlock(&client->lock);
    mcs_mac_key_t key;
    status = send_mount(client, mounted, segment, false, flags, &key);
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

/* Under a new epoch. */
static mcs_status_t mount_resumed(mcs_client_t *client, mcs_mounted_t *mounted)
{
    mcs_mutex_lock(&client->lock);
    mcs_segment_t *segment = mounted->segment != NULL && mounted->offered ? mcs_segment_get(mounted->segment) : NULL;
    mcs_mutex_unlock(&client->lock);
    if (segment == NULL) {
        return mount(client, mounted, MCS_CALL_EARLY);
    }
    mcs_mac_key_t key;
    mcs_status_t status = send_mount(client, mounted, segment, true, MCS_CALL_EARLY, &key);
    if (status == MCS_OK) {
        status = mcs_owner_set_key(client->owner, mcs_segment_instance(segment), &key);
    }
    mcs_segment_put(segment);
    if (status == MCS_ERR_SEGMENT_NOT_FOUND) {
        status = mount(client, mounted, MCS_CALL_EARLY); /* new memory */
    }
    return status;
}

/* ---- segments of run time ---- */

/* Takes those out whose grace period is over: the master has let go of them. */
static mcs_mounted_t *take_drained(mcs_client_t *client)
{
    mcs_mounted_t *drained = NULL;
    uint64_t now_ns = mcs_now_ns();
    mcs_mutex_lock(&client->lock);
    MCS_LIST_FOR_EACH(node, &client->mounted)
    {
        mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        if (!mounted->busy && mounted->drained_ns != 0 && now_ns >= mounted->drained_ns) {
            drained = mounted;
            break;
        }
    }
    if (drained != NULL) {
        mcs_list_remove(&drained->node);
    }
    mcs_mutex_unlock(&client->lock);
    return drained;
}

uint64_t mcs_client_drop_drained(mcs_client_t *client)
{
    for (mcs_mounted_t *drained; (drained = take_drained(client)) != NULL;) {
        drop_memory(client, drained);
        mcs_free(drained);
    }
    uint64_t next_ns = MCS_NEVER;
    mcs_mutex_lock(&client->lock);
    MCS_LIST_FOR_EACH(node, &client->mounted)
    {
        const mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        if (mounted->drained_ns != 0 && !mounted->busy) {
            next_ns = MCS_MIN(next_ns, mounted->drained_ns);
        }
    }
    mcs_mutex_unlock(&client->lock);
    return next_ns;
}

static void set_idle(mcs_client_t *client, mcs_mounted_t *mounted)
{
    mcs_mutex_lock(&client->lock);
    mounted->busy = false;
    mcs_mutex_unlock(&client->lock);
}

static void forget(mcs_client_t *client, mcs_mounted_t *mounted)
{
    mcs_mutex_lock(&client->lock);
    mcs_list_remove(&mounted->node);
    mcs_mutex_unlock(&client->lock);
    drop_memory(client, mounted);
    mcs_free(mounted);
}

static mcs_status_t mount_new(mcs_client_t *client, uint64_t size, const mcs_mounted_t *wanted, mcs_id_t *id_out)
{
    if (size == 0 || size > MOUNT_MAX || client->transport == NULL) {
        mcs_error(AREA, "mount of %llu bytes: %s", (unsigned long long)size,
                  client->transport == NULL ? "this protocol has no data plane" : "not a size");
        return MCS_ERR_INVALID_PARAMS;
    }
    if (!wanted->far && !mcs_local_has_memory(size)) { /* a device says so itself */
        mcs_error(AREA, "mount of %llu bytes: more than this machine's memory", (unsigned long long)size);
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_mounted_t *mounted = MCS_NEW(mcs_mounted_t);
    if (mounted == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    *mounted = *wanted;
    mounted->config.size = size;
    mounted->busy = true;
    mcs_status_t status = make_memory(client, mounted);
    if (status != MCS_OK) {
        mcs_free(mounted);
        return status;
    }
    mounted->id = mcs_segment_instance(mounted->segment);
    mcs_mutex_lock(&client->lock);
    mcs_list_push_tail(&client->mounted, &mounted->node);
    mcs_mutex_unlock(&client->lock);
    status = mount(client, mounted, 0);
    if (status != MCS_OK) {
        forget(client, mounted);
        return status;
    }
    *id_out = mounted->id;
    set_idle(client, mounted);
    return MCS_OK;
}

mcs_status_t mcs_client_mount_memory(mcs_client_t *client, uint64_t size, int numa_node, mcs_id_t *id_out)
{
    mcs_mounted_t wanted = {.config = client->own.config};
    wanted.config.numa_node = numa_node >= 0 ? numa_node : client->own.config.numa_node;
    return mount_new(client, size, &wanted, id_out);
}

mcs_status_t mcs_client_mount_device(mcs_client_t *client, uint64_t size, int device, mcs_id_t *id_out)
{
    mcs_mounted_t wanted = {.config = client->own.config, .far = true, .device = device};
    return mount_new(client, size, &wanted, id_out);
}

static mcs_status_t take_mounted(mcs_client_t *client, mcs_id_t id, mcs_mounted_t **mounted_out)
{
    mcs_status_t status = MCS_ERR_SEGMENT_NOT_FOUND;
    mcs_mutex_lock(&client->lock);
    MCS_LIST_FOR_EACH(node, &client->mounted)
    {
        mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        bool over = mounted->drained_ns != 0 && mcs_now_ns() + DRAIN_MARGIN_NS >= mounted->drained_ns;
        if (mcs_id_equal(mounted->id, id) && !over) { /* in its grace period, too: the last call counts */
            status = mounted->busy ? MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS : MCS_OK;
            mounted->busy = true;
            *mounted_out = mounted;
            break;
        }
    }
    mcs_mutex_unlock(&client->lock);
    return status;
}

static mcs_status_t send_unmount(mcs_client_t *client, mcs_id_t instance, uint32_t grace_seconds)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__UnmountSegment request = MCS__WIRE__UNMOUNT_SEGMENT__INIT;
    id.hi = instance.hi;
    id.lo = instance.lo;
    request.sequence = &sequence;
    request.instance = &id;
    request.grace_seconds = grace_seconds;
    mcs_call_t call = {.verb = MCS_VERB_UNMOUNT_SEGMENT,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__empty__descriptor};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(client->link, &call, &reply);
    mcs_reply_fini(&reply);
    /* A new session does not know it: then it is unmounted. */
    return status == MCS_ERR_SEGMENT_NOT_FOUND || status == MCS_ERR_SESSION_ENDED ? MCS_OK : status;
}

mcs_status_t mcs_client_unmount(mcs_client_t *client, mcs_id_t id, uint32_t grace_seconds)
{
    mcs_mounted_t *mounted = NULL;
    mcs_status_t status = take_mounted(client, id, &mounted);
    if (status != MCS_OK) {
        return status;
    }
    uint64_t begun_ns = mcs_now_ns(); /* not later than the master's clock begins to count */
    /* Only this thread changes `segment` while it is busy. */
    mcs_segment_t *segment = mounted->segment;
    if (segment != NULL && grace_seconds == 0) {
        mcs_segment_close(segment);
    }
    status = segment != NULL ? send_unmount(client, mcs_segment_instance(segment), grace_seconds) : MCS_OK;
    if (status != MCS_OK) {
        if (segment != NULL) {
            mcs_segment_reopen(segment);
        }
        set_idle(client, mounted);
        return status;
    }
    if (grace_seconds == 0) {
        forget(client, mounted);
        return MCS_OK;
    }
    mcs_mutex_lock(&client->lock);
    mounted->drained_ns = begun_ns + grace_seconds * MCS_NS_PER_SEC + DRAIN_MARGIN_NS;
    mounted->busy = false;
    mcs_mutex_unlock(&client->lock);
    mcs_tasks_look(client->tasks); /* lets go of it in time */
    return MCS_OK;
}

/* The next one that the new session has to learn about; marks it busy. */
static mcs_mounted_t *next_to_mount(mcs_client_t *client, const mcs_list_t *after)
{
    mcs_mounted_t *found = NULL;
    mcs_mutex_lock(&client->lock);
    for (mcs_list_t *node = after->next; node != &client->mounted && found == NULL; node = node->next) {
        mcs_mounted_t *mounted = MCS_CONTAINER_OF(node, mcs_mounted_t, node);
        if (!mounted->busy && mounted->drained_ns == 0) {
            mounted->busy = true;
            found = mounted;
        }
    }
    mcs_mutex_unlock(&client->lock);
    return found;
}

/* Those that a thread is busy with are its: a mount is repeated in the new session, an unmount is done with the old. */
static mcs_status_t mount_again(mcs_client_t *client, bool resumed)
{
    mcs_status_t status = MCS_OK;
    mcs_mounted_t *last = NULL;
    for (;;) {
        mcs_mounted_t *mounted = next_to_mount(client, last != NULL ? &last->node : &client->mounted);
        if (last != NULL) {
            set_idle(client, last); /* until now, so that it stayed in the list */
        }
        if (mounted == NULL || status != MCS_OK) {
            if (mounted != NULL) {
                set_idle(client, mounted);
            }
            return status;
        }
        status = resumed ? mount_resumed(client, mounted) : mount(client, mounted, MCS_CALL_EARLY);
        if (status != MCS_OK && mounted->far && mounted->segment == NULL) {
            /* The device has no memory left, or has failed: the host's segments go on without it. */
            mcs_warn(AREA, "segment %s/cuda:%d stays unmounted: %s", client->name, mounted->device,
                     mcs_status_name(status));
            status = MCS_OK;
        }
        last = mounted;
    }
}

/* ---- the session ---- */

/* A new session may be another master's, whose handles mean other segments. True: the epoch is another one. */
static bool take_epoch(mcs_client_t *client, uint64_t epoch, bool new_session)
{
    mcs_mutex_lock(&client->lock);
    bool other = client->epoch != epoch;
    client->epoch = epoch;
    mcs_mutex_unlock(&client->lock);
    if (other || new_session) {
        mcs_peers_flush(client->peers);
    }
    return other;
}

/* A master that lost the session may have withdrawn our name, or lost it with everything else. */
static void publish_again(mcs_client_t *client)
{
    mcs_status_t status = mcs_client_publish(client);
    if (status != MCS_OK && status != MCS_ERR_SEGMENT_ALREADY_EXISTS) {
        mcs_warn(AREA, "the name %s is not published again: %s", client->name, mcs_status_name(status));
    }
}

/* What was known from the master before. */
static void forget_master(mcs_client_t *client, mcs_id_t session)
{
    mcs_lookup_cache_begin(client->lookup_cache, session);
    mcs_spares_clear(client->spares, mcs_session_inflight(client->session));
}

mcs_status_t mcs_client_opened(void *arg, const mcs_hello_result_t *hello)
{
    mcs_client_t *client = arg;
    (void)take_epoch(client, hello->epoch, true);
    client->remount = false; /* all of them are new */
    forget_master(client, hello->session);
    mcs_mapper_set_session(client->mapper, hello->session);
    mcs_status_t status = client->own.config.size > 0 ? mount(client, &client->own, MCS_CALL_EARLY) : MCS_OK;
    if (status == MCS_OK) {
        status = mount_again(client, false);
    }
    if (status == MCS_OK && client->joined) {
        publish_again(client);
    }
    client->joined = client->joined || status == MCS_OK;
    return status;
}

mcs_status_t mcs_client_resumed(void *arg, const mcs_hello_result_t *hello)
{
    mcs_client_t *client = arg;
    client->remount = take_epoch(client, hello->epoch, false) || client->remount;
    forget_master(client, hello->session);
    mcs_mapper_set_session(client->mapper, hello->session);
    if (!client->remount) {
        return MCS_OK;
    }
    mcs_status_t status = client->own.config.size > 0 ? mount_resumed(client, &client->own) : MCS_OK;
    if (status == MCS_OK) {
        status = mount_again(client, true);
    }
    if (status == MCS_OK) {
        client->remount = false;
        publish_again(client);
    }
    return status;
}

/* The next master may know nothing of the leases that this one granted. */
void mcs_client_lost(void *arg)
{
    mcs_client_t *client = arg;
    forget_master(client, (mcs_id_t){0, 0});
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
