/* See fake_service.h. */
#include "fake_service.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"

struct mcs_service {
    bool running;
};

fake_state_t g_fake;

void fake_reset(void)
{
    memset(&g_fake, 0, sizeof(g_fake));
    g_fake.remove_all_force = -1;
}

void fake_add_object(const char *key, mcs_status_t status)
{
    fake_object_t *object = &g_fake.objects[g_fake.object_count++];
    snprintf(object->key, sizeof(object->key), "%s", key);
    object->key_len = (uint32_t)strlen(key);
    object->status = status;
    object->replica = (mcs_service_replica_t){.size = 4096, .address = 0x7f0000001000};
    snprintf(object->replica.protocol, sizeof(object->replica.protocol), "tcp");
    snprintf(object->replica.transport_endpoint, sizeof(object->replica.transport_endpoint), "node-1:12345");
}

void fake_add_segment(const char *name, uint64_t size, uint64_t used)
{
    mcs_service_segment_t *segment = &g_fake.segments[g_fake.segment_count++];
    *segment = (mcs_service_segment_t){
        .instance = {1, 2}, .client = {3, 4}, .base = 0x7f00dead0000, .size = size, .used = used, .state = 1};
    snprintf(segment->name, sizeof(segment->name), "%s", name);
    snprintf(segment->transport_endpoint, sizeof(segment->transport_endpoint), "%.280s:1", name);
    snprintf(segment->protocol, sizeof(segment->protocol), "tcp");
}

mcs_status_t mcs_service_create(const mcs_service_config_t *config, mcs_service_t **service_out)
{
    if (g_fake.create_result != MCS_OK) {
        return g_fake.create_result;
    }
    mcs_service_t *service = MCS_NEW(mcs_service_t);
    if (service == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    g_fake.config = *config;
    g_fake.created++;
    *service_out = service;
    return MCS_OK;
}

static mcs_status_t on_frame(void *arg, mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const uint8_t *payload)
{
    (void)arg;
    (void)conn;
    (void)header;
    (void)payload;
    return MCS_ERR_PROTOCOL;
}

static void on_closed(void *arg, mcs_rpc_conn_t *conn)
{
    (void)arg;
    (void)conn;
}

static void on_thread_end(void *arg)
{
    (void)arg;
}

mcs_status_t mcs_service_recover(mcs_service_t *service)
{
    (void)service;
    return mcs_journal_begin(g_fake.config.journal, g_fake.config.epoch, 1000);
}

mcs_rpc_ops_t mcs_service_rpc_ops(mcs_service_t *service)
{
    return (mcs_rpc_ops_t){.frame = on_frame, .closed = on_closed, .thread_end = on_thread_end, .arg = service};
}

mcs_status_t mcs_service_start(mcs_service_t *service, mcs_rpc_server_t *server)
{
    (void)server;
    if (g_fake.start_result != MCS_OK) {
        return g_fake.start_result;
    }
    service->running = true;
    g_fake.started++;
    return MCS_OK;
}

void mcs_service_stop(mcs_service_t *service)
{
    service->running = false;
    g_fake.stopped++;
}

void mcs_service_destroy(mcs_service_t *service)
{
    if (service != NULL) {
        MCS_ENSURE(!service->running);
        g_fake.destroyed++;
    }
    mcs_free(service);
}

void mcs_service_for_each_key(mcs_service_t *service, mcs_service_key_fn fn, void *arg)
{
    (void)service;
    bool goes_on = true;
    for (uint32_t i = 0; goes_on && i < g_fake.object_count; i++) {
        goes_on = fn(arg, g_fake.objects[i].key, g_fake.objects[i].key_len);
    }
    for (uint64_t i = 0; goes_on && i < g_fake.generated_keys; i++) {
        char key[32];
        int len = snprintf(key, sizeof(key), "key-%010llu", (unsigned long long)i);
        goes_on = fn(arg, key, (uint32_t)len);
        (void)__atomic_add_fetch(&g_fake.walked_keys, 1, __ATOMIC_RELAXED);
    }
    (void)__atomic_add_fetch(&g_fake.walks_ended, 1, __ATOMIC_SEQ_CST);
}

void mcs_service_for_each_segment(mcs_service_t *service, mcs_service_segment_fn fn, void *arg)
{
    (void)service;
    for (uint32_t i = 0; i < g_fake.segment_count && fn(arg, &g_fake.segments[i]); i++) {
    }
}

void mcs_service_for_each_client(mcs_service_t *service, mcs_service_client_fn fn, void *arg)
{
    (void)service;
    for (uint32_t i = 0; i < g_fake.client_count && fn(arg, &g_fake.clients[i]); i++) {
    }
}

bool mcs_service_has_client(mcs_service_t *service, const char *name)
{
    bool found = false;
    (void)service;
    for (uint32_t i = 0; i < g_fake.client_count; i++) {
        found = found || strcmp(g_fake.clients[i].name, name) == 0;
    }
    return found;
}

mcs_status_t mcs_service_query_key(mcs_service_t *service, const char *key, uint32_t key_len, bool lease,
                                   mcs_service_replica_t *replicas, uint32_t max, uint32_t *count_out)
{
    (void)service;
    for (uint32_t i = 0; i < g_fake.object_count; i++) {
        const fake_object_t *object = &g_fake.objects[i];
        if (object->key_len != key_len || memcmp(object->key, key, key_len) != 0) {
            continue;
        }
        if (object->status != MCS_OK) {
            return object->status;
        }
        if (lease) {
            (void)__atomic_add_fetch(&g_fake.leases, 1, __ATOMIC_RELAXED);
        }
        MCS_ENSURE(max > 0);
        replicas[0] = object->replica;
        *count_out = 1;
        return MCS_OK;
    }
    return MCS_ERR_OBJECT_NOT_FOUND;
}

int64_t mcs_service_remove_all(mcs_service_t *service, bool force)
{
    (void)service;
    g_fake.remove_all_force = force;
    return g_fake.remove_all_result;
}

void mcs_service_totals(mcs_service_t *service, mcs_service_totals_t *totals_out)
{
    (void)service;
    *totals_out = g_fake.totals;
}

static void note_names(const char *const *names, size_t count)
{
    size_t at = strlen(g_fake.drain_asked);
    for (size_t i = 0; i < count; i++) {
        at += (size_t)snprintf(g_fake.drain_asked + at, sizeof(g_fake.drain_asked) - at, "%s ", names[i]);
    }
}

mcs_status_t mcs_service_drain_start(mcs_service_t *service, const mcs_service_drain_ask_t *ask, mcs_id_t *id_out)
{
    (void)service;
    g_fake.drain_asked[0] = '\0';
    note_names(ask->segments, ask->segment_count);
    snprintf(g_fake.drain_asked + strlen(g_fake.drain_asked), 32, "to ");
    note_names(ask->targets, ask->target_count);
    snprintf(g_fake.drain_asked + strlen(g_fake.drain_asked), 32, "by %llu", (unsigned long long)ask->max_concurrency);
    if (g_fake.drain_result == MCS_OK) {
        *id_out = g_fake.drain_id;
    }
    return g_fake.drain_result;
}

static bool is_the_job(mcs_id_t id)
{
    return g_fake.drain.segment_count > 0 && mcs_id_equal(id, g_fake.drain_id);
}

mcs_status_t mcs_service_drain_query(mcs_service_t *service, mcs_id_t id, mcs_service_drain_t *out)
{
    (void)service;
    if (!is_the_job(id)) {
        return MCS_ERR_JOB_NOT_FOUND;
    }
    char *segments = mcs_malloc(64);
    if (segments == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    memcpy(segments, g_fake.drain.segments, 64);
    *out = g_fake.drain;
    out->segments = segments;
    return MCS_OK;
}

void mcs_service_drain_fini(mcs_service_drain_t *drain)
{
    mcs_free(drain->segments);
}

mcs_status_t mcs_service_drain_cancel(mcs_service_t *service, mcs_id_t id)
{
    (void)service;
    if (!is_the_job(id)) {
        return MCS_ERR_JOB_NOT_FOUND;
    }
    return g_fake.drains_canceled++ == 0 ? MCS_OK : MCS_ERR_UNAVAILABLE_IN_CURRENT_STATUS;
}
