/* See mini_master.h. */
#include "tests/support/mini_master.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire/cap.h"
#include "core/wire/columns.h"
#include "core/wire/extent.h"

#define SEGMENTS    16
#define SESSIONS    64
#define CONNECTIONS 4096
#define HELD        UINT64_MAX /* put id of a held key */
#define BUCKETS     8192

typedef struct segment {
    Mcs__Wire__MountSegment *mount; /* NULL = free */
    uint32_t handle;
    mcs_id_t owner;
    mcs_id_t session;
    char wire[32];
    char boot_id[64];
    mcs_mac_key_t key;
    uint64_t next;
} segment_t;

typedef struct session {
    mcs_id_t id;
    mcs_id_t client;
    char wire[32];
    char boot_id[64];
} session_t;

typedef struct object {
    struct object *next;     /* of its key's bucket */
    struct object *next_put; /* of its put id's bucket */
    char *key;
    uint32_t key_len;
    uint64_t size;
    bool complete;
    uint64_t put_id;
    mcs_id_t session;
    uint32_t replica_count;
    mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
} object_t;

struct mini_master {
    fake_master_t *fake;
    fake_script_fn filter;
    void *filter_arg;
    pthread_mutex_t lock; /* guards everything below */
    segment_t segments[SEGMENTS];
    session_t sessions[SESSIONS];
    uint32_t session_count;
    uint32_t of_connection[CONNECTIONS]; /* index into sessions, by connection number */
    object_t *objects[BUCKETS];
    object_t *puts[BUCKETS];
    uint32_t object_count;
    uint64_t next_generation;
    uint32_t next_handle;
    uint32_t next_place;
    uint32_t lease_ms;
    uint32_t deadline_ms;
    uint32_t requests[256];
    uint64_t epoch;
    mini_stats_t stats;
    /* The answer being made. */
    mcs_buf_t column[2];
    Mcs__Wire__Id id;
};

/* ---- objects ---- */

static object_t **find(mini_master_t *mini, const char *key, uint32_t len)
{
    object_t **at = &mini->objects[mcs_hash64(0, key, len) % BUCKETS];
    while (*at != NULL && ((*at)->key_len != len || memcmp((*at)->key, key, len) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

static object_t **find_put(mini_master_t *mini, uint64_t put_id)
{
    object_t **at = &mini->puts[put_id % BUCKETS];
    while (*at != NULL && (*at)->put_id != put_id) {
        at = &(*at)->next_put;
    }
    return at;
}

static void drop(mini_master_t *mini, object_t *object)
{
    *find_put(mini, object->put_id) = object->next_put;
    *find(mini, object->key, object->key_len) = object->next;
    free(object->key);
    free(object);
    mini->object_count--;
}

static object_t *add(mini_master_t *mini, const char *key, uint32_t len, uint64_t size, uint64_t put_id)
{
    object_t *object = calloc(1, sizeof(*object));
    object->key = malloc(len);
    memcpy(object->key, key, len);
    object->key_len = len;
    object->size = size;
    object->put_id = put_id;
    *find(mini, key, len) = object;
    object->next_put = mini->puts[put_id % BUCKETS];
    mini->puts[put_id % BUCKETS] = object;
    mini->object_count++;
    return object;
}

static void drop_all(mini_master_t *mini)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        while (mini->objects[i] != NULL) {
            drop(mini, mini->objects[i]);
        }
    }
}

static bool excluded(const Mcs__Wire__PutConfig *config, uint32_t handle)
{
    for (size_t i = 0; config != NULL && i < config->n_excluded_segments; i++) {
        if (config->excluded_segments[i] == handle) {
            return true;
        }
    }
    return false;
}

static bool is_far(const segment_t *segment)
{
    return strncmp(segment->mount->location, "cuda:", 5) == 0;
}

/* Segments in the memory of a device are for who names them, and come first then. */
static bool wanted_now(const Mcs__Wire__PutConfig *config, const segment_t *segment, bool far_now)
{
    bool named = false;
    for (size_t i = 0; i < config->n_preferred_segments; i++) {
        named = named || strcmp(config->preferred_segments[i], segment->mount->name) == 0;
    }
    return is_far(segment) ? far_now && named : !far_now;
}

/* Up to `wanted` replicas on distinct segments; how many there were. */
static uint32_t place(mini_master_t *mini, const Mcs__Wire__PutConfig *config, mcs_id_t session, uint64_t size,
                      mcs_col_replica_t *replicas)
{
    uint32_t n = 0;
    uint32_t start = mini->next_place++;
    for (uint32_t k = 0; k < 2 * SEGMENTS && n < config->replica_num; k++) {
        segment_t *segment = &mini->segments[(start + k) % SEGMENTS];
        if (segment->mount == NULL || excluded(config, segment->handle) || !wanted_now(config, segment, k < SEGMENTS)) {
            continue;
        }
        uint64_t room = mcs_extent_room(size, is_far(segment) ? MCS_EXTENT_FAR_SHIFT : 0);
        if (segment->next + room > segment->mount->size) {
            continue;
        }
        mcs_id_t instance = {segment->mount->instance->hi, segment->mount->instance->lo};
        replicas[n] = (mcs_col_replica_t){
            .segment = segment->handle, .status = 2, .offset = segment->next, .generation = ++mini->next_generation};
        replicas[n].mac =
            mcs_cap_mac(&segment->key, session, instance, segment->next, size, replicas[n].generation, MCS_CAP_WRITE);
        segment->next += room;
        n++;
    }
    return n;
}

static segment_t *segment_of(mini_master_t *mini, uint32_t handle)
{
    for (size_t i = 0; i < SEGMENTS; i++) {
        if (mini->segments[i].mount != NULL && mini->segments[i].handle == handle) {
            return &mini->segments[i];
        }
    }
    return NULL;
}

/* ---- verbs: each fills `answer`; the message lives until the next request ---- */

typedef fake_action_t (*verb_fn)(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                 fake_answer_t *answer);

static fake_action_t do_hello(mini_master_t *mini, const fake_request_t *request, fake_answer_t *answer)
{
    static Mcs__Wire__HelloReply reply;
    static char boot_id[64];
    Mcs__Wire__Hello *hello = mcs__wire__hello__unpack(NULL, request->header.length, request->payload);
    mcs_id_t asked = {hello->session != NULL ? hello->session->hi : 0, hello->session != NULL ? hello->session->lo : 0};
    uint32_t found = UINT32_MAX;
    for (uint32_t i = 0; i < mini->session_count; i++) {
        if (mcs_id_equal(mini->sessions[i].id, asked)) {
            found = i;
        }
    }
    if (mcs_id_is_none(asked) && hello->role == 1 && mini->session_count < SESSIONS) {
        found = mini->session_count++;
        mini->stats.sessions++;
        session_t *session = &mini->sessions[found];
        session->id = mcs_id_random();
        session->client = (mcs_id_t){hello->client->hi, hello->client->lo};
        snprintf(session->wire, sizeof(session->wire), "%s", hello->wire);
        snprintf(session->boot_id, sizeof(session->boot_id), "%s", hello->boot_id);
    }
    answer->status = MCS_ERR_SESSION_ENDED;
    if (found != UINT32_MAX && request->connection < CONNECTIONS) {
        mini->of_connection[request->connection] = found + 1;
        mcs__wire__hello_reply__init(&reply);
        mini->id = (Mcs__Wire__Id)MCS__WIRE__ID__INIT;
        mini->id.hi = mini->sessions[found].id.hi;
        mini->id.lo = mini->sessions[found].id.lo;
        snprintf(boot_id, sizeof(boot_id), "%s", hello->boot_id);
        reply.epoch = mini->epoch;
        reply.session = &mini->id;
        reply.resumed = !mcs_id_is_none(asked);
        reply.heartbeat_ms = 100;
        reply.session_ttl_ms = 10000;
        reply.lease_ttl_ms = mini->lease_ms;
        reply.boot_id = boot_id;
        answer->status = MCS_OK;
        answer->message = &reply.base;
    }
    mcs__wire__hello__free_unpacked(hello, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_mount(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                              fake_answer_t *answer)
{
    static Mcs__Wire__MountSegmentReply reply;
    Mcs__Wire__MountSegment *mount = mcs__wire__mount_segment__unpack(NULL, request->header.length, request->payload);
    for (size_t i = 0; i < SEGMENTS; i++) {
        segment_t *segment = &mini->segments[i];
        if (segment->mount != NULL) {
            continue;
        }
        *segment = (segment_t){.mount = mount,
                               .handle = ++mini->next_handle,
                               .owner = session->client,
                               .session = session->id,
                               .key = {mcs_random_u64(), mcs_random_u64()}};
        snprintf(segment->wire, sizeof(segment->wire), "%s", session->wire);
        snprintf(segment->boot_id, sizeof(segment->boot_id), "%s", session->boot_id);
        mini->stats.segments++;
        mcs__wire__mount_segment_reply__init(&reply);
        reply.handle = segment->handle;
        reply.mac_k0 = segment->key.k0;
        reply.mac_k1 = segment->key.k1;
        answer->message = &reply.base;
        return FAKE_REPLY;
    }
    mcs__wire__mount_segment__free_unpacked(mount, NULL);
    answer->status = MCS_ERR_LIMIT;
    return FAKE_REPLY;
}

static Mcs__Wire__SegmentRecord g_records[SEGMENTS];
static Mcs__Wire__SegmentRecord *g_record_list[SEGMENTS];
static Mcs__Wire__Id g_record_ids[SEGMENTS][2];

static void add_record(const segment_t *segment, size_t n)
{
    Mcs__Wire__SegmentRecord *record = &g_records[n];
    mcs__wire__segment_record__init(record);
    mcs__wire__id__init(&g_record_ids[n][0]);
    mcs__wire__id__init(&g_record_ids[n][1]);
    g_record_ids[n][0] = *segment->mount->instance;
    g_record_ids[n][1].hi = segment->owner.hi;
    g_record_ids[n][1].lo = segment->owner.lo;
    record->handle = segment->handle;
    record->instance = &g_record_ids[n][0];
    record->owner = &g_record_ids[n][1];
    record->name = segment->mount->name;
    record->size = segment->mount->size;
    record->protocol = segment->mount->protocol;
    record->endpoint = segment->mount->endpoint;
    record->ipc_path = segment->mount->ipc_path;
    record->transport_endpoint = segment->mount->transport_endpoint;
    record->base_address = segment->mount->base_address;
    record->location = is_far(segment) ? segment->mount->location : (char *)(uintptr_t) "";
    record->wire = (char *)(uintptr_t)segment->wire;
    record->boot_id = (char *)(uintptr_t)segment->boot_id;
    record->state = 1;
    g_record_list[n] = record;
}

static fake_action_t do_segments(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                 fake_answer_t *answer)
{
    static Mcs__Wire__SegmentList list;
    (void)session;
    Mcs__Wire__SegmentInfo *info = request->header.verb == MCS_VERB_SEGMENT_INFO
                                       ? mcs__wire__segment_info__unpack(NULL, request->header.length, request->payload)
                                       : NULL;
    size_t n = 0;
    for (size_t i = 0; i < SEGMENTS; i++) {
        bool wanted = info == NULL && mini->segments[i].mount != NULL;
        for (size_t k = 0; info != NULL && k < info->n_handles; k++) {
            wanted = wanted || (mini->segments[i].mount != NULL && mini->segments[i].handle == info->handles[k]);
        }
        if (wanted) {
            add_record(&mini->segments[i], n++);
        }
    }
    mcs__wire__segment_list__init(&list);
    list.segments = g_record_list;
    list.n_segments = n;
    answer->message = &list.base;
    if (info != NULL) {
        mcs__wire__segment_info__free_unpacked(info, NULL);
    }
    return FAKE_REPLY;
}

static mcs_key_t g_keys[MCS_BATCH_KEYS];

static fake_action_t do_exist(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                              fake_answer_t *answer)
{
    static Mcs__Wire__ExistReply reply;
    (void)session;
    Mcs__Wire__Exist *exist = mcs__wire__exist__unpack(NULL, request->header.length, request->payload);
    size_t count = 0;
    answer->status =
        mcs_keys_decode(exist->key_lens.data, exist->key_lens.len, exist->keys.data, exist->keys.len, g_keys, &count);
    for (size_t i = 0; answer->status == MCS_OK && i < count; i++) {
        const object_t *object = *find(mini, g_keys[i].bytes, g_keys[i].len);
        mcs_buf_put_u32(&mini->column[0], object != NULL && object->complete);
    }
    mcs__wire__exist_reply__init(&reply);
    reply.results = (ProtobufCBinaryData){mini->column[0].len, mini->column[0].bytes};
    reply.lease_ms = mini->lease_ms;
    answer->message = &reply.base;
    mcs__wire__exist__free_unpacked(exist, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_lookup(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                               fake_answer_t *answer)
{
    static Mcs__Wire__LookupReply reply;
    Mcs__Wire__Lookup *lookup = mcs__wire__lookup__unpack(NULL, request->header.length, request->payload);
    size_t count = 0;
    answer->status = mcs_keys_decode(lookup->key_lens.data, lookup->key_lens.len, lookup->keys.data, lookup->keys.len,
                                     g_keys, &count);
    for (size_t i = 0; answer->status == MCS_OK && i < count; i++) {
        const object_t *object = *find(mini, g_keys[i].bytes, g_keys[i].len);
        mcs_col_object_t row = {.status = MCS_ERR_OBJECT_NOT_FOUND};
        if (object != NULL) {
            row.status = object->complete ? MCS_OK : MCS_ERR_REPLICA_IS_NOT_READY;
            row.payload_len = object->size;
            row.replica_count = object->complete ? object->replica_count : 0;
        }
        for (uint32_t k = 0; k < row.replica_count; k++) {
            mcs_col_replica_t replica = object->replicas[k];
            const segment_t *segment = segment_of(mini, replica.segment);
            replica.status = 3;
            if (segment != NULL) {
                mcs_id_t instance = {segment->mount->instance->hi, segment->mount->instance->lo};
                replica.mac = mcs_cap_mac(&segment->key, session->id, instance, replica.offset, object->size,
                                          replica.generation, MCS_CAP_READ);
            }
            mcs_buf_append(&mini->column[1], &replica, sizeof(replica));
        }
        mcs_buf_append(&mini->column[0], &row, sizeof(row));
    }
    mcs__wire__lookup_reply__init(&reply);
    reply.objects = (ProtobufCBinaryData){mini->column[0].len, mini->column[0].bytes};
    reply.replicas = (ProtobufCBinaryData){mini->column[1].len, mini->column[1].bytes};
    reply.lease_ms = mini->lease_ms;
    answer->message = &reply.base;
    mcs__wire__lookup__free_unpacked(lookup, NULL);
    return FAKE_REPLY;
}

static mcs_col_put_t start_one(mini_master_t *mini, const Mcs__Wire__PutStart *start, const session_t *session,
                               const mcs_key_t *key, uint64_t size)
{
    mcs_col_put_t row = {.deadline_ms = mini->deadline_ms};
    object_t *old = *find(mini, key->bytes, key->len);
    if (old != NULL && !(start->upsert && old->complete)) {
        row.status = old->complete ? MCS_ERR_OBJECT_ALREADY_EXISTS : MCS_ERR_PUT_IN_PROGRESS;
        return row;
    }
    mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
    row.replica_count = place(mini, start->config, session->id, size, replicas);
    if (row.replica_count == 0) {
        row.status = MCS_ERR_NO_AVAILABLE_HANDLE;
        return row;
    }
    if (old != NULL) {
        drop(mini, old); /* not atomic, as the real one is */
    }
    object_t *object = add(mini, key->bytes, key->len, size, replicas[0].generation);
    object->session = session->id;
    object->replica_count = row.replica_count;
    memcpy(object->replicas, replicas, row.replica_count * sizeof(*replicas));
    mcs_buf_append(&mini->column[1], replicas, row.replica_count * sizeof(*replicas));
    row.put_id = object->put_id;
    return row;
}

static fake_action_t do_put_start(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                  fake_answer_t *answer)
{
    static Mcs__Wire__PutStartReply reply;
    Mcs__Wire__PutStart *start = mcs__wire__put_start__unpack(NULL, request->header.length, request->payload);
    size_t count = 0;
    answer->status =
        mcs_keys_decode(start->key_lens.data, start->key_lens.len, start->keys.data, start->keys.len, g_keys, &count);
    for (size_t i = 0; answer->status == MCS_OK && i < count; i++) {
        mcs_col_put_t row = start_one(mini, start, session, &g_keys[i], mcs_load_u64(start->sizes.data + i * 8));
        mcs_buf_append(&mini->column[0], &row, sizeof(row));
    }
    mcs__wire__put_start_reply__init(&reply);
    reply.puts = (ProtobufCBinaryData){mini->column[0].len, mini->column[0].bytes};
    reply.replicas = (ProtobufCBinaryData){mini->column[1].len, mini->column[1].bytes};
    answer->message = &reply.base;
    mcs__wire__put_start__free_unpacked(start, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_put_end(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                fake_answer_t *answer)
{
    static Mcs__Wire__StatusColumn reply;
    bool commit = request->header.verb == MCS_VERB_PUT_END;
    (void)session;
    /* Field 2 of both messages; in_doubt is unknown to a put_end. */
    Mcs__Wire__PutRevoke *ids = mcs__wire__put_revoke__unpack(NULL, request->header.length, request->payload);
    for (size_t i = 0; i < ids->put_ids.len / 8; i++) {
        object_t *object = *find_put(mini, mcs_load_u64(ids->put_ids.data + i * 8));
        mcs_buf_put_u32(&mini->column[0], (uint32_t)(object != NULL ? MCS_OK : MCS_ERR_OBJECT_NOT_FOUND));
        if (object != NULL && commit) {
            object->complete = true;
        } else if (object != NULL) {
            mini->stats.revoked++;
            mini->stats.revoked_in_doubt += ids->in_doubt != 0;
            drop(mini, object);
        }
    }
    mcs__wire__status_column__init(&reply);
    reply.statuses = (ProtobufCBinaryData){mini->column[0].len, mini->column[0].bytes};
    answer->message = &reply.base;
    mcs__wire__put_revoke__free_unpacked(ids, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_put_wait(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                 fake_answer_t *answer)
{
    static Mcs__Wire__Empty reply;
    (void)session;
    Mcs__Wire__PutWait *wait = mcs__wire__put_wait__unpack(NULL, request->header.length, request->payload);
    const object_t *object = *find(mini, (const char *)wait->key.data, (uint32_t)wait->key.len);
    answer->status = object == NULL ? MCS_ERR_OBJECT_NOT_FOUND : object->complete ? MCS_OK : MCS_ERR_PUT_IN_PROGRESS;
    mcs__wire__empty__init(&reply);
    answer->message = answer->status == MCS_OK ? &reply.base : NULL;
    mcs__wire__put_wait__free_unpacked(wait, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_remove(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                               fake_answer_t *answer)
{
    static Mcs__Wire__StatusColumn reply;
    (void)session;
    Mcs__Wire__Remove *remove = mcs__wire__remove__unpack(NULL, request->header.length, request->payload);
    size_t count = 0;
    answer->status = mcs_keys_decode(remove->key_lens.data, remove->key_lens.len, remove->keys.data, remove->keys.len,
                                     g_keys, &count);
    for (size_t i = 0; answer->status == MCS_OK && i < count; i++) {
        object_t *object = *find(mini, g_keys[i].bytes, g_keys[i].len);
        mcs_buf_put_u32(&mini->column[0], (uint32_t)(object != NULL ? MCS_OK : MCS_ERR_OBJECT_NOT_FOUND));
        if (object != NULL) {
            drop(mini, object);
        }
    }
    mcs__wire__status_column__init(&reply);
    reply.statuses = (ProtobufCBinaryData){mini->column[0].len, mini->column[0].bytes};
    answer->message = &reply.base;
    mcs__wire__remove__free_unpacked(remove, NULL);
    return FAKE_REPLY;
}

static fake_action_t do_remove_all(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                   fake_answer_t *answer)
{
    static Mcs__Wire__CountReply reply;
    (void)request;
    (void)session;
    mcs__wire__count_reply__init(&reply);
    reply.count = mini->object_count;
    drop_all(mini);
    answer->message = &reply.base;
    return FAKE_REPLY;
}

/* Objects that no segment has any more. */
static void drop_lost(mini_master_t *mini)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        for (object_t *object = mini->objects[i]; object != NULL;) {
            object_t *next = object->next;
            bool lost = object->replica_count > 0;
            for (uint32_t k = 0; k < object->replica_count; k++) {
                lost = lost && segment_of(mini, object->replicas[k].segment) == NULL;
            }
            if (lost) {
                drop(mini, object);
            }
            object = next;
        }
    }
}

static void drop_segments_of(mini_master_t *mini, mcs_id_t session)
{
    for (size_t i = 0; i < SEGMENTS; i++) {
        segment_t *segment = &mini->segments[i];
        if (segment->mount != NULL && mcs_id_equal(segment->session, session)) {
            mcs__wire__mount_segment__free_unpacked(segment->mount, NULL);
            segment->mount = NULL;
            mini->stats.segments--;
        }
    }
    drop_lost(mini);
}

static fake_action_t do_goodbye(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                fake_answer_t *answer)
{
    (void)request;
    (void)answer;
    drop_segments_of(mini, session->id);
    return FAKE_REPLY;
}

static fake_action_t do_unmount(mini_master_t *mini, const fake_request_t *request, const session_t *session,
                                fake_answer_t *answer)
{
    static Mcs__Wire__Empty reply;
    Mcs__Wire__UnmountSegment *unmount =
        mcs__wire__unmount_segment__unpack(NULL, request->header.length, request->payload);
    answer->status = MCS_ERR_SEGMENT_NOT_FOUND;
    for (size_t i = 0; i < SEGMENTS; i++) {
        segment_t *segment = &mini->segments[i];
        if (segment->mount != NULL && mcs_id_equal(segment->session, session->id) &&
            segment->mount->instance->hi == unmount->instance->hi &&
            segment->mount->instance->lo == unmount->instance->lo) {
            mcs__wire__mount_segment__free_unpacked(segment->mount, NULL);
            segment->mount = NULL;
            mini->stats.segments--;
            answer->status = MCS_OK;
        }
    }
    drop_lost(mini);
    mcs__wire__unmount_segment__free_unpacked(unmount, NULL);
    mcs__wire__empty__init(&reply);
    answer->message = &reply.base;
    return FAKE_REPLY;
}

static const struct {
    mcs_verb_t verb;
    verb_fn handle;
} g_verbs[] = {
    {MCS_VERB_MOUNT_SEGMENT, do_mount}, {MCS_VERB_SEGMENT_INFO, do_segments},   {MCS_VERB_LIST_SEGMENTS, do_segments},
    {MCS_VERB_EXIST, do_exist},         {MCS_VERB_LOOKUP, do_lookup},           {MCS_VERB_PUT_START, do_put_start},
    {MCS_VERB_PUT_END, do_put_end},     {MCS_VERB_PUT_REVOKE, do_put_end},      {MCS_VERB_PUT_WAIT, do_put_wait},
    {MCS_VERB_REMOVE, do_remove},       {MCS_VERB_REMOVE_ALL, do_remove_all},   {MCS_VERB_REMOVE_REGEX, do_remove_all},
    {MCS_VERB_GOODBYE, do_goodbye},     {MCS_VERB_UNMOUNT_SEGMENT, do_unmount},
};

static fake_action_t script(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    mini_master_t *mini = arg;
    fake_action_t action = mini->filter != NULL ? mini->filter(mini->filter_arg, request, answer) : FAKE_DEFAULT;
    pthread_mutex_lock(&mini->lock);
    mini->requests[request->header.verb % 256]++;
    mcs_buf_reset(&mini->column[0]);
    mcs_buf_reset(&mini->column[1]);
    uint32_t index = request->connection < CONNECTIONS ? mini->of_connection[request->connection] : 0;
    if (action != FAKE_DEFAULT) {
        pthread_mutex_unlock(&mini->lock);
        return action;
    }
    if (request->header.verb == MCS_VERB_HELLO) {
        action = do_hello(mini, request, answer);
    } else if (index == 0 || index > mini->session_count) {
        answer->status = MCS_ERR_SESSION_ENDED;
        action = FAKE_REPLY;
    } else {
        for (size_t i = 0; i < MCS_ARRAY_LEN(g_verbs); i++) {
            if (g_verbs[i].verb == request->header.verb) {
                action = g_verbs[i].handle(mini, request, &mini->sessions[index - 1], answer);
            }
        }
    }
    /* Only this thread makes answers, and it packs this one before the next request. */
    pthread_mutex_unlock(&mini->lock);
    return action;
}

/* ---- life and knobs ---- */

mini_master_t *mini_master_start(fake_script_fn filter, void *arg)
{
    mini_master_t *mini = calloc(1, sizeof(*mini));
    mini->filter = filter;
    mini->filter_arg = arg;
    mini->lease_ms = 10000;
    mini->deadline_ms = 30000;
    mini->epoch = 7;
    mini->next_generation = UINT64_C(7) << 32;
    pthread_mutex_init(&mini->lock, NULL);
    mcs_buf_init(&mini->column[0], (size_t)64 << 20);
    mcs_buf_init(&mini->column[1], (size_t)64 << 20);
    mini->fake = fake_master_start(script, mini);
    return mini;
}

void mini_master_stop(mini_master_t *mini)
{
    fake_master_stop(mini->fake);
    drop_all(mini);
    for (size_t i = 0; i < SEGMENTS; i++) {
        if (mini->segments[i].mount != NULL) {
            mcs__wire__mount_segment__free_unpacked(mini->segments[i].mount, NULL);
        }
    }
    mcs_buf_fini(&mini->column[0]);
    mcs_buf_fini(&mini->column[1]);
    pthread_mutex_destroy(&mini->lock);
    free(mini);
}

fake_master_t *mini_master_fake(mini_master_t *mini)
{
    return mini->fake;
}

const char *mini_master_address(mini_master_t *mini)
{
    return fake_master_address(mini->fake);
}

void mini_master_set_lease_ms(mini_master_t *mini, uint32_t lease_ms)
{
    pthread_mutex_lock(&mini->lock);
    mini->lease_ms = lease_ms;
    pthread_mutex_unlock(&mini->lock);
}

void mini_master_set_deadline_ms(mini_master_t *mini, uint32_t deadline_ms)
{
    pthread_mutex_lock(&mini->lock);
    mini->deadline_ms = deadline_ms;
    pthread_mutex_unlock(&mini->lock);
}

void mini_master_hold_key(mini_master_t *mini, const char *key)
{
    pthread_mutex_lock(&mini->lock);
    (void)add(mini, key, (uint32_t)strlen(key), 1, HELD);
    pthread_mutex_unlock(&mini->lock);
}

void mini_master_revoke_held(mini_master_t *mini, const char *key)
{
    pthread_mutex_lock(&mini->lock);
    drop(mini, *find(mini, key, (uint32_t)strlen(key)));
    pthread_mutex_unlock(&mini->lock);
}

void mini_master_revoke_open(mini_master_t *mini)
{
    pthread_mutex_lock(&mini->lock);
    for (size_t i = 0; i < BUCKETS; i++) {
        for (object_t *object = mini->objects[i]; object != NULL;) {
            object_t *next = object->next;
            if (!object->complete) {
                drop(mini, object);
            }
            object = next;
        }
    }
    pthread_mutex_unlock(&mini->lock);
}

mcs_id_t mini_master_last_owner(mini_master_t *mini)
{
    pthread_mutex_lock(&mini->lock);
    const segment_t *segment = segment_of(mini, mini->next_handle);
    mcs_id_t owner = segment != NULL ? segment->owner : (mcs_id_t){0, 0};
    pthread_mutex_unlock(&mini->lock);
    return owner;
}

void mini_master_restart(mini_master_t *mini)
{
    pthread_mutex_lock(&mini->lock);
    for (uint32_t i = 0; i < mini->session_count; i++) {
        drop_segments_of(mini, mini->sessions[i].id);
    }
    drop_all(mini);
    memset(mini->of_connection, 0, sizeof(mini->of_connection));
    mini->session_count = 0;
    mini->epoch++;
    mini->next_generation = mini->epoch << 32;
    mini->next_handle = 0;
    pthread_mutex_unlock(&mini->lock);
    fake_master_drop_all(mini->fake);
}

mini_stats_t mini_master_stats(mini_master_t *mini)
{
    pthread_mutex_lock(&mini->lock);
    mini_stats_t stats = mini->stats;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const object_t *object = mini->objects[i]; object != NULL; object = object->next) {
            stats.objects += object->complete;
            stats.open += !object->complete;
        }
    }
    pthread_mutex_unlock(&mini->lock);
    return stats;
}

uint32_t mini_master_requests(mini_master_t *mini, mcs_verb_t verb)
{
    pthread_mutex_lock(&mini->lock);
    uint32_t count = mini->requests[verb % 256];
    pthread_mutex_unlock(&mini->lock);
    return count;
}
