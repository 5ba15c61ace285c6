/* Sessions of writes: see mcstore.h.
 *
 * A value that is written piece by piece is gathered in memory of this process and put as a whole at the end. So the
 * rules of a put hold for it as they are: nobody sees a part of it (rule 1), its blocks are summed once over all their
 * bytes, a segment that cannot be written is replaced by another (rule 7), and a writer that stops in the middle holds
 * no space of the cluster (rule 6). What it costs is one copy and, until the end, the memory, which is bounded.
 *
 * Which bytes have been written is kept as a sorted list of ranges: a value with a hole is not put.
 *
 * Lock: MCS_RANK_CLIENT_KEYS, never held over a copy of payload or I/O. A session that is being written to (`writers`)
 * is not freed: its end takes it out of the table, so that no more come, and waits for those inside. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/buf.h"
#include "core/client/device.h"
#include "core/client/keymap.h"
#include "core/client/put.h"

#define RANGES_MAX   ((size_t)1 << 20) /* bytes of ranges of one value */
#define SESSIONS_MAX ((size_t)1 << 18)
#define ARENA_CHUNK  ((size_t)16384)
#define ARENA_MAX    ((size_t)1 << 26)

/* How the values of one start call are to be put; the texts are copies. */
typedef struct shared_config {
    uint32_t refs; /* lock */
    bool given;
    mcs_replicate_config_t c;
    const char **names;
    mcs_arena_t texts;
} shared_config_t;

typedef struct session {
    mcs_keymap_node_t node;
    shared_config_t *config;
    mcs_bytes_t group; /* in the config's texts */
    uint64_t size;
    uint8_t *bytes;
    uint32_t writers;
    mcs_buf_t ranges; /* written_t, sorted, apart */
    char key[];
} session_t;

typedef struct written {
    uint64_t from;
    uint64_t end;
} written_t;

struct mcs_put_sessions {
    mcs_mutex_t lock; /* guards all below */
    mcs_cond_t changed;
    mcs_keymap_t map;
    uint64_t bytes;
};

/* ---- configuration ---- */

static void drop_config(mcs_put_sessions_t *sessions, shared_config_t *config)
{
    mcs_mutex_lock(&sessions->lock);
    bool last = --config->refs == 0;
    mcs_mutex_unlock(&sessions->lock);
    if (last) {
        mcs_arena_fini(&config->texts);
        mcs_free(config);
    }
}

static mcs_status_t copy_bytes(mcs_arena_t *arena, const void *bytes, size_t len, void **copy_out)
{
    char *copy = mcs_arena_alloc(arena, len + 1);
    if (copy == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    if (len > 0) {
        memcpy(copy, bytes, len);
    }
    copy[len] = '\0';
    *copy_out = copy;
    return MCS_OK;
}

static mcs_status_t copy_names(shared_config_t *config)
{
    size_t count = MCS_MIN(config->c.preferred_segment_count, (size_t)MCS_PREFERRED_MAX);
    config->names = mcs_arena_alloc(&config->texts, MCS_MAX(count, (size_t)1) * sizeof(char *));
    if (config->names == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        const char *name = config->c.preferred_segments[i];
        void *copy;
        mcs_status_t status = copy_bytes(&config->texts, name, name != NULL ? strlen(name) : 0, &copy);
        if (status != MCS_OK) {
            return status;
        }
        config->names[i] = copy;
    }
    config->c.preferred_segments = config->names;
    config->c.preferred_segment_count = count;
    return MCS_OK;
}

/* What a put would say about it. */
static mcs_status_t check_config(mcs_client_t *client, const mcs_replicate_config_t *given, size_t count)
{
    mcs_put_call_t *call = MCS_NEW(mcs_put_call_t);
    if (call == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    call->client = client;
    call->count = count;
    mcs_status_t status = mcs_put_config(call, given);
    mcs_free(call);
    return status;
}

static mcs_status_t make_config(mcs_client_t *client, const mcs_replicate_config_t *given, size_t count,
                                shared_config_t **config_out)
{
    mcs_status_t status = check_config(client, given, count);
    if (status != MCS_OK) {
        return status;
    }
    shared_config_t *config = MCS_NEW(shared_config_t);
    if (config == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_arena_init(&config->texts, ARENA_CHUNK, ARENA_MAX);
    config->refs = 1;
    config->given = given != NULL;
    if (given != NULL) {
        config->c = *given;
        status = copy_names(config);
    }
    if (status != MCS_OK) {
        mcs_arena_fini(&config->texts);
        mcs_free(config);
        return status;
    }
    *config_out = config;
    return MCS_OK;
}

/* ---- the table ---- */

mcs_status_t mcs_put_sessions_create(mcs_put_sessions_t **sessions_out)
{
    mcs_put_sessions_t *sessions = MCS_NEW(mcs_put_sessions_t);
    if (sessions == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&sessions->lock, MCS_RANK_CLIENT_KEYS, "put sessions");
    mcs_cond_init(&sessions->changed);
    mcs_keymap_init(&sessions->map);
    *sessions_out = sessions;
    return MCS_OK;
}

static session_t *session_of(mcs_keymap_node_t *node)
{
    return node != NULL ? MCS_CONTAINER_OF(node, session_t, node) : NULL;
}

static session_t *find_locked(mcs_put_sessions_t *sessions, mcs_bytes_t bytes)
{
    mcs_key_t key;
    return mcs_key_take(bytes, &key) == MCS_OK ? session_of(mcs_keymap_find(&sessions->map, &key)) : NULL;
}

/* Of the table no more; nobody writes. */
static void free_session(mcs_put_sessions_t *sessions, session_t *session)
{
    mcs_mutex_lock(&sessions->lock);
    sessions->bytes -= session->size;
    mcs_mutex_unlock(&sessions->lock);
    drop_config(sessions, session->config);
    mcs_buf_fini(&session->ranges);
    mcs_free(session->bytes);
    mcs_free(session);
}

void mcs_put_sessions_destroy(mcs_put_sessions_t *sessions)
{
    if (sessions == NULL) {
        return;
    }
    MCS_LIST_FOR_EACH_SAFE(entry, next, &sessions->map.order)
    {
        session_t *session = session_of(MCS_CONTAINER_OF(entry, mcs_keymap_node_t, order));
        mcs_keymap_remove(&sessions->map, &session->node);
        free_session(sessions, session);
    }
    mcs_keymap_fini(&sessions->map);
    mcs_cond_fini(&sessions->changed);
    mcs_mutex_fini(&sessions->lock);
    mcs_free(sessions);
}

/* ---- start ---- */

static mcs_status_t admit(mcs_client_t *client, const mcs_key_t *key, uint64_t size)
{
    mcs_put_sessions_t *sessions = client->put_sessions;
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&sessions->lock);
    if (mcs_keymap_find(&sessions->map, key) != NULL) {
        status = MCS_ERR_INVALID_PARAMS;
    } else if (sessions->map.count >= SESSIONS_MAX || size > client->config.put_session_limit ||
               sessions->bytes > client->config.put_session_limit - size) {
        status = MCS_ERR_NO_AVAILABLE_HANDLE;
    } else {
        sessions->bytes += size;
    }
    mcs_mutex_unlock(&sessions->lock);
    return status;
}

static void retire(mcs_put_sessions_t *sessions, uint64_t size)
{
    mcs_mutex_lock(&sessions->lock);
    sessions->bytes -= size;
    mcs_mutex_unlock(&sessions->lock);
}

static mcs_status_t insert(mcs_put_sessions_t *sessions, session_t *session)
{
    mcs_status_t status = MCS_ERR_INVALID_PARAMS; /* another thread has started the key meanwhile */
    mcs_mutex_lock(&sessions->lock);
    if (mcs_keymap_find(&sessions->map, &session->node.key) == NULL) {
        status = mcs_keymap_insert(&sessions->map, &session->node);
    }
    if (status == MCS_OK) {
        session->config->refs++;
    }
    mcs_mutex_unlock(&sessions->lock);
    return status;
}

static mcs_status_t start_one(mcs_client_t *client, mcs_bytes_t bytes, uint64_t size, shared_config_t *config,
                              const mcs_bytes_t *group)
{
    mcs_key_t key;
    mcs_status_t status = mcs_key_take(bytes, &key);
    if (status == MCS_OK && (size == 0 || size > MCS_OBJECT_MAX)) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    if (status == MCS_OK) {
        status = admit(client, &key, size);
    }
    if (status != MCS_OK) {
        return status;
    }
    void *group_copy = NULL;
    session_t *session = mcs_calloc(1, sizeof(*session) + key.len);
    uint8_t *memory = mcs_malloc((size_t)size);
    status = session == NULL || memory == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    if (status == MCS_OK && group != NULL) {
        status = copy_bytes(&config->texts, group->ptr, group->len, &group_copy);
    }
    if (status != MCS_OK) {
        goto err_free;
    }
    memcpy(session->key, key.bytes, key.len);
    session->node.key = (mcs_key_t){session->key, key.len};
    session->config = config;
    session->group = (mcs_bytes_t){group_copy, group != NULL ? group->len : 0};
    session->size = size;
    session->bytes = memory;
    mcs_buf_init(&session->ranges, RANGES_MAX);
    status = insert(client->put_sessions, session);
    if (status != MCS_OK) {
        goto err_free;
    }
    return MCS_OK;

err_free:
    mcs_free(memory);
    mcs_free(session);
    retire(client->put_sessions, size);
    return status;
}

mcs_status_t mcs_client_put_session_start(mcs_client_t *client, const mcs_bytes_t *keys, const uint64_t *sizes,
                                          size_t count, const mcs_replicate_config_t *given, int *results)
{
    shared_config_t *config;
    mcs_status_t status = make_config(client, given, count, &config);
    if (status != MCS_OK) {
        return status;
    }
    const mcs_bytes_t *groups = given != NULL ? given->group_ids : NULL;
    for (size_t i = 0; i < count; i++) {
        status = start_one(client, keys[i], sizes[i], config, groups != NULL ? &groups[i] : NULL);
        results[i] = mcs_status_public(status);
    }
    drop_config(client->put_sessions, config);
    return MCS_OK;
}

/* ---- write ---- */

/* Adds a range: those that it touches become one with it. */
static mcs_status_t add_range_locked(session_t *session, uint64_t from, uint64_t end)
{
    session->ranges.failed = MCS_OK;
    mcs_status_t status = mcs_buf_reserve(&session->ranges, sizeof(written_t));
    if (status != MCS_OK) {
        return status;
    }
    written_t *ranges = (written_t *)(void *)session->ranges.bytes;
    size_t count = session->ranges.len / sizeof(written_t);
    size_t first = 0;
    while (first < count && ranges[first].end < from) {
        first++;
    }
    size_t last = first;
    while (last < count && ranges[last].from <= end) {
        from = MCS_MIN(from, ranges[last].from);
        end = MCS_MAX(end, ranges[last].end);
        last++;
    }
    memmove(&ranges[first + 1], &ranges[last], (count - last) * sizeof(written_t));
    ranges[first] = (written_t){from, end};
    session->ranges.len = (count - (last - first) + 1) * sizeof(written_t);
    return MCS_OK;
}

static void write_parts(mcs_client_t *client, session_t *session, const mcs_parts_list_t *source)
{
    mcs_put_sessions_t *sessions = client->put_sessions;
    for (size_t i = 0; i < source->count; i++) {
        mcs_part_t *part = &source->parts[i];
        part->result = MCS_INVALID_PARAMS;
        if (part->offset > session->size || part->size > session->size - part->offset ||
            (part->ptr == NULL && part->size > 0)) {
            continue;
        }
        mcs_status_t status = MCS_OK;
        if (part->size > 0) {
            status = mcs_device_copy_in(client, session->bytes + part->offset, part->ptr, part->size);
        }
        if (part->size > 0 && status == MCS_OK) {
            mcs_mutex_lock(&sessions->lock);
            status = add_range_locked(session, part->offset, part->offset + part->size);
            mcs_mutex_unlock(&sessions->lock);
        }
        part->result = status == MCS_OK ? (int64_t)part->size : (int64_t)mcs_status_public(status);
    }
}

mcs_status_t mcs_client_put_session_write(mcs_client_t *client, const mcs_bytes_t *keys,
                                          const mcs_parts_list_t *sources, size_t count)
{
    mcs_put_sessions_t *sessions = client->put_sessions;
    for (size_t i = 0; i < count; i++) {
        mcs_mutex_lock(&sessions->lock);
        session_t *session = find_locked(sessions, keys[i]);
        if (session != NULL) {
            session->writers++;
        }
        mcs_mutex_unlock(&sessions->lock);
        if (session == NULL) {
            for (size_t p = 0; p < sources[i].count; p++) {
                sources[i].parts[p].result = MCS_INVALID_PARAMS;
            }
            continue;
        }
        write_parts(client, session, &sources[i]);
        mcs_mutex_lock(&sessions->lock);
        if (--session->writers == 0) {
            mcs_cond_broadcast(&sessions->changed);
        }
        mcs_mutex_unlock(&sessions->lock);
    }
    return MCS_OK;
}

/* ---- end, revoke ---- */

static bool is_complete(const session_t *session)
{
    const written_t *first = (const written_t *)(const void *)session->ranges.bytes;
    return session->ranges.len == sizeof(written_t) && first->from == 0 && first->end == session->size;
}

/* Out of the table and written by nobody: the caller's. NULL when the key is not in session. */
static session_t *take(mcs_put_sessions_t *sessions, mcs_bytes_t key)
{
    mcs_mutex_lock(&sessions->lock);
    session_t *session = find_locked(sessions, key);
    if (session != NULL) {
        mcs_keymap_remove(&sessions->map, &session->node);
        while (session->writers > 0) {
            mcs_cond_wait(&sessions->changed, &sessions->lock);
        }
    }
    mcs_mutex_unlock(&sessions->lock);
    return session;
}

/* A value with a hole goes on, unless its key was started again meanwhile. */
static void give_back(mcs_put_sessions_t *sessions, session_t *session)
{
    mcs_mutex_lock(&sessions->lock);
    bool kept = mcs_keymap_find(&sessions->map, &session->node.key) == NULL &&
                mcs_keymap_insert(&sessions->map, &session->node) == MCS_OK;
    mcs_mutex_unlock(&sessions->lock);
    if (!kept) {
        free_session(sessions, session);
    }
}

/* Those of one start call, put at once. */
typedef struct batch {
    mcs_bytes_t *keys;
    mcs_value_t *values;
    struct iovec *iov;
    mcs_bytes_t *groups;
    size_t *index;
    int *results;
    size_t count;
} batch_t;

static mcs_status_t batch_init(batch_t *batch, mcs_arena_t *arena, size_t count)
{
    batch->keys = mcs_arena_alloc(arena, count * sizeof(*batch->keys));
    batch->values = mcs_arena_alloc(arena, count * sizeof(*batch->values));
    batch->iov = mcs_arena_alloc(arena, count * sizeof(*batch->iov));
    batch->groups = mcs_arena_alloc(arena, count * sizeof(*batch->groups));
    batch->index = mcs_arena_alloc(arena, count * sizeof(*batch->index));
    batch->results = mcs_arena_alloc(arena, count * sizeof(*batch->results));
    bool complete = batch->keys != NULL && batch->values != NULL && batch->iov != NULL && batch->groups != NULL &&
                    batch->index != NULL && batch->results != NULL;
    return complete ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static void batch_add(batch_t *batch, const session_t *session, size_t index)
{
    size_t n = batch->count++;
    batch->keys[n] = (mcs_bytes_t){session->node.key.bytes, session->node.key.len};
    batch->iov[n] = (struct iovec){session->bytes, (size_t)session->size};
    batch->values[n] = (mcs_value_t){&batch->iov[n], 1};
    batch->groups[n] = session->group;
    batch->index[n] = index;
}

/* Puts every session of `taken` that has the configuration of the first one left; frees them. */
static void put_some(mcs_client_t *client, session_t **taken, size_t first, size_t count, batch_t *batch, int *results)
{
    shared_config_t *config = taken[first]->config;
    batch->count = 0;
    for (size_t i = first; i < count; i++) {
        if (taken[i] != NULL && taken[i]->config == config) {
            batch_add(batch, taken[i], i);
        }
    }
    mcs_replicate_config_t c = config->c;
    if (c.group_ids != NULL) {
        c.group_ids = batch->groups;
        c.group_id_count = batch->count;
    }
    mcs_status_t status =
        mcs_client_put(client, batch->keys, batch->values, batch->count, config->given ? &c : NULL, 0, batch->results);
    for (size_t i = 0; i < batch->count; i++) {
        size_t index = batch->index[i];
        results[index] = status == MCS_OK ? batch->results[i] : (int)mcs_status_public(status);
        free_session(client->put_sessions, taken[index]);
        taken[index] = NULL;
    }
}

mcs_status_t mcs_client_put_session_end(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
{
    mcs_put_sessions_t *sessions = client->put_sessions;
    batch_t batch = {0};
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, SIZE_MAX);
    session_t **taken = mcs_arena_zalloc(&arena, count * sizeof(session_t *));
    mcs_status_t status = taken == NULL ? MCS_ERR_NO_MEMORY : batch_init(&batch, &arena, count);
    for (size_t i = 0; status == MCS_OK && i < count; i++) {
        session_t *session = take(sessions, keys[i]);
        results[i] = MCS_INVALID_PARAMS;
        if (session != NULL && !is_complete(session)) {
            results[i] = MCS_ERR_INVALID_WRITE;
            give_back(sessions, session);
        } else {
            taken[i] = session;
        }
    }
    for (size_t i = 0; status == MCS_OK && i < count; i++) {
        if (taken[i] != NULL) {
            put_some(client, taken, i, count, &batch, results);
        }
    }
    mcs_arena_fini(&arena);
    return status;
}

mcs_status_t mcs_client_put_session_revoke(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
{
    for (size_t i = 0; i < count; i++) {
        session_t *session = take(client->put_sessions, keys[i]);
        results[i] = session != NULL ? 0 : MCS_INVALID_PARAMS;
        if (session != NULL) {
            free_session(client->put_sessions, session);
        }
    }
    return MCS_OK;
}
