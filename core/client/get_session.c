/* Parts of objects, and sessions of reads: see mcstore.h.
 *
 * A session is one key with what a lookup found. A read copies that (under the lock) and goes its way without the
 * master; a thread ("mcs-renew", started by the first session) looks the keys up again when half their lease is over.
 * A value is known by its generations: once a lookup finds another under the key, the session is gone and stays so,
 * because a caller that reads layer after layer must not get half of each. A renewal that fails for want of the master
 * changes nothing: reads whose lease runs out meanwhile ask themselves.
 *
 * Callers forget sessions (a start that found not every key, and is given up): one that nobody reads from rests after
 * UNREAD_RENEWALS renewals, else its object could never be evicted. The next read wakes it.
 *
 * Lock: MCS_RANK_CLIENT_KEYS, never held over I/O or a copy of payload. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/client/keymap.h"
#include "core/client/read.h"

#define AREA         "client"
#define ARENA_CHUNK  ((size_t)16384)
#define ARENA_MAX    ((size_t)1 << 30)
#define PARTS_MAX    ((size_t)1 << 16) /* moved at once, about */
#define SESSIONS_MAX ((size_t)1 << 18)
#define RETRY_MS     100 /* after a renewal that failed */
#define MISSING_MS   1000
#define RENEW_MIN_MS 10

#define UNREAD_RENEWALS 16U /* since the last read: eight leases */

typedef struct session {
    mcs_keymap_node_t node;
    bool gone;         /* its value is */
    uint64_t renew_ns; /* half the lease is over */
    uint32_t unread;   /* renewals since the last read */
    mcs_found_t found; /* replicas: of this struct's */
    mcs_col_replica_t replicas[MCS_REPLICAS_MAX];
    char key[];
} session_t;

struct mcs_get_sessions {
    mcs_client_t *client;
    mcs_mutex_t lock; /* guards all below */
    mcs_cond_t changed;
    mcs_keymap_t map;
    mcs_thread_t thread;
    bool started;
    bool stop;
};

/* ---- parts ---- */

/* What one lookup may carry, and not too many parts. */
static size_t chunk_len(const mcs_parts_list_t *targets, size_t count)
{
    size_t parts = 0;
    for (size_t i = 0; i < MCS_MIN(count, (size_t)MCS_BATCH_KEYS); i++) {
        parts += targets[i].count;
        if (parts > PARTS_MAX && i > 0) {
            return i;
        }
    }
    return MCS_MIN(count, (size_t)MCS_BATCH_KEYS);
}

/* A session's lookup for an item; MCS_OK, or what is wrong with the key. */
typedef mcs_status_t (*preset_fn)(mcs_get_sessions_t *sessions, mcs_arena_t *arena, mcs_read_item_t *item);

static void prepare(mcs_client_t *client, preset_fn preset, mcs_bytes_t key, const mcs_parts_list_t *target,
                    mcs_arena_t *arena, mcs_read_item_t *item)
{
    static mcs_part_t none;
    memset(item, 0, sizeof(*item));
    item->parts = target->parts != NULL ? target->parts : &none;
    item->part_count = target->parts != NULL ? target->count : 0;
    item->status = mcs_key_take(key, &item->key);
    if (item->status == MCS_OK && preset != NULL) {
        item->status = preset(client->get_sessions, arena, item);
    }
    item->status = item->status == MCS_OK ? MCS_ERR_AGAIN : item->status;
}

static mcs_status_t get_parts(mcs_client_t *client, preset_fn preset, const mcs_bytes_t *keys,
                              const mcs_parts_list_t *targets, size_t count)
{
    mcs_read_item_t *items = MCS_NEW_ARRAY(mcs_read_item_t, MCS_MIN(count, (size_t)MCS_BATCH_KEYS));
    if (items == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    for (size_t from = 0, n; from < count; from += n) {
        n = chunk_len(targets + from, count - from);
        for (size_t i = 0; i < n; i++) {
            prepare(client, preset, keys[from + i], &targets[from + i], &arena, &items[i]);
        }
        mcs_read_t read;
        mcs_read_init(&read, client, items, n, &arena);
        mcs_read_run(&read);
        for (size_t i = 0; i < n; i++) {
            mcs_read_part_results(client, &items[i]);
        }
        mcs_read_fini(&read);
        mcs_arena_reset(&arena);
    }
    mcs_arena_fini(&arena);
    mcs_free(items);
    return MCS_OK;
}

mcs_status_t mcs_client_get_parts(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                                  size_t count)
{
    return count > 0 ? get_parts(client, NULL, keys, targets, count) : MCS_OK;
}

/* ---- the table ---- */

mcs_status_t mcs_get_sessions_create(mcs_client_t *client, mcs_get_sessions_t **sessions_out)
{
    mcs_get_sessions_t *sessions = MCS_NEW(mcs_get_sessions_t);
    if (sessions == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    sessions->client = client;
    mcs_mutex_init(&sessions->lock, MCS_RANK_CLIENT_KEYS, "get sessions");
    mcs_cond_init(&sessions->changed);
    mcs_keymap_init(&sessions->map);
    *sessions_out = sessions;
    return MCS_OK;
}

static session_t *session_of(mcs_keymap_node_t *node)
{
    return node != NULL ? MCS_CONTAINER_OF(node, session_t, node) : NULL;
}

void mcs_get_sessions_destroy(mcs_get_sessions_t *sessions)
{
    if (sessions == NULL) {
        return;
    }
    mcs_mutex_lock(&sessions->lock);
    sessions->stop = true;
    mcs_cond_broadcast(&sessions->changed);
    mcs_mutex_unlock(&sessions->lock);
    if (sessions->started) {
        mcs_thread_join(&sessions->thread);
    }
    MCS_LIST_FOR_EACH_SAFE(entry, next, &sessions->map.order)
    {
        mcs_free(session_of(MCS_CONTAINER_OF(entry, mcs_keymap_node_t, order)));
    }
    mcs_keymap_fini(&sessions->map);
    mcs_cond_fini(&sessions->changed);
    mcs_mutex_fini(&sessions->lock);
    mcs_free(sessions);
}

static session_t *new_session(const mcs_key_t *key)
{
    session_t *session = mcs_calloc(1, sizeof(*session) + key->len);
    if (session != NULL) {
        memcpy(session->key, key->bytes, key->len);
        session->node.key = (mcs_key_t){session->key, key->len};
    }
    return session;
}

/* Forgotten, as far as one can tell: its lease is renewed no more. */
static bool is_resting(const session_t *session)
{
    return session->unread >= UNREAD_RENEWALS;
}

/* By which the value is known again when it was moved meanwhile. */
static size_t count_known(const mcs_found_t *found)
{
    return (size_t)found->replica_count + found->leaving_count;
}

/* Without the lock when nobody else knows the session. */
static void take_found(session_t *session, const mcs_found_t *found, uint64_t now_ns)
{
    session->found = *found;
    session->found.replica_count = MCS_MIN(found->replica_count, (uint32_t)MCS_REPLICAS_MAX);
    session->found.leaving_count =
        MCS_MIN(found->leaving_count, (uint32_t)MCS_REPLICAS_MAX - session->found.replica_count);
    memcpy(session->replicas, found->replicas, count_known(&session->found) * sizeof(mcs_col_replica_t));
    session->found.replicas = session->replicas;
    uint64_t left_ns = found->lease_end_ns > now_ns ? found->lease_end_ns - now_ns : 0;
    session->renew_ns = now_ns + MCS_MAX(left_ns / 2, RENEW_MIN_MS * MCS_NS_PER_MS);
}

/* ---- renewal ---- */

typedef struct renewal {
    mcs_key_t *keys; /* copies: a session may end meanwhile */
    mcs_found_t *found;
    size_t count;
} renewal_t;

static const mcs_key_t *renewal_key(void *arg, size_t i)
{
    return &((const renewal_t *)arg)->keys[i];
}

static mcs_found_t *renewal_found(void *arg, size_t i)
{
    return &((renewal_t *)arg)->found[i];
}

/* The sessions that are due, at most one request of them, and when the next is. */
static mcs_status_t collect_locked(mcs_get_sessions_t *sessions, mcs_arena_t *arena, renewal_t *out,
                                   uint64_t *next_ns_out)
{
    uint64_t now_ns = mcs_now_ns();
    *out = (renewal_t){0};
    *next_ns_out = MCS_NEVER;
    MCS_LIST_FOR_EACH(entry, &sessions->map.order)
    {
        session_t *session = session_of(MCS_CONTAINER_OF(entry, mcs_keymap_node_t, order));
        if (session->gone || is_resting(session)) {
            continue;
        }
        if (session->renew_ns > now_ns || out->count == MCS_BATCH_KEYS) {
            *next_ns_out = MCS_MIN(*next_ns_out, session->renew_ns);
            continue;
        }
        if (out->keys == NULL) {
            out->keys = mcs_arena_alloc(arena, MCS_BATCH_KEYS * sizeof(mcs_key_t));
            out->found = mcs_arena_zalloc(arena, MCS_BATCH_KEYS * sizeof(mcs_found_t));
        }
        char *bytes = out->keys != NULL && out->found != NULL ? mcs_arena_alloc(arena, session->node.key.len) : NULL;
        if (bytes == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        memcpy(bytes, session->node.key.bytes, session->node.key.len);
        out->keys[out->count++] = (mcs_key_t){bytes, session->node.key.len};
        session->renew_ns = now_ns + RETRY_MS * MCS_NS_PER_MS; /* unless the answer says otherwise */
    }
    return MCS_OK;
}

static void take_renewal_locked(mcs_get_sessions_t *sessions, const renewal_t *renewal)
{
    uint64_t now_ns = mcs_now_ns();
    for (size_t i = 0; i < renewal->count; i++) {
        session_t *session = session_of(mcs_keymap_find(&sessions->map, &renewal->keys[i]));
        const mcs_found_t *found = &renewal->found[i];
        if (session == NULL) {
            continue;
        }
        if (found->status == MCS_OK && mcs_found_is_same_value(found, &session->found)) {
            take_found(session, found, now_ns);
            session->unread++;
        } else if (found->status == MCS_OK) {
            session->gone = true;
        } else if (found->status == MCS_ERR_OBJECT_NOT_FOUND) {
            /* Or its owner is suspect and back in a second (rule 7). */
            session->renew_ns = now_ns + MISSING_MS * MCS_NS_PER_MS;
        }
    }
}

static void renew_main(void *arg)
{
    mcs_get_sessions_t *sessions = arg;
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    mcs_mutex_lock(&sessions->lock);
    while (!sessions->stop) {
        renewal_t renewal;
        uint64_t next_ns;
        mcs_status_t status = collect_locked(sessions, &arena, &renewal, &next_ns);
        if (status != MCS_OK || renewal.count == 0) {
            if (status != MCS_OK) {
                mcs_arena_reset(&arena);
                next_ns = mcs_now_ns() + RETRY_MS * MCS_NS_PER_MS;
            }
            if (next_ns == MCS_NEVER) {
                mcs_cond_wait(&sessions->changed, &sessions->lock);
            } else {
                (void)mcs_cond_wait_until(&sessions->changed, &sessions->lock, next_ns);
            }
            continue;
        }
        mcs_mutex_unlock(&sessions->lock);
        mcs_lookup(sessions->client, renewal_key, renewal_found, &renewal, renewal.count, &arena);
        mcs_mutex_lock(&sessions->lock);
        take_renewal_locked(sessions, &renewal);
        mcs_arena_reset(&arena);
    }
    mcs_mutex_unlock(&sessions->lock);
    mcs_arena_fini(&arena);
}

/* ---- start, read, end ---- */

/* Puts what was found under the key of `session`, which becomes the table's or is freed. */
static mcs_status_t keep_locked(mcs_get_sessions_t *sessions, session_t *session)
{
    mcs_status_t status = sessions->map.count < SESSIONS_MAX ? MCS_OK : MCS_ERR_NO_AVAILABLE_HANDLE;
    if (status == MCS_OK && !sessions->started) {
        status = mcs_thread_start(&sessions->thread, "mcs-renew", renew_main, sessions);
        sessions->started = status == MCS_OK;
    }
    session_t *old = session_of(mcs_keymap_find(&sessions->map, &session->node.key));
    if (status == MCS_OK && old != NULL) {
        mcs_keymap_remove(&sessions->map, &old->node);
        mcs_free(old);
    }
    if (status == MCS_OK) {
        status = mcs_keymap_insert(&sessions->map, &session->node);
    }
    if (status != MCS_OK) {
        mcs_free(session);
    }
    return status;
}

static mcs_status_t keep(mcs_get_sessions_t *sessions, const mcs_read_item_t *item)
{
    if (item->status != MCS_ERR_AGAIN) {
        return item->status;
    }
    session_t *session = new_session(&item->key);
    if (session == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    take_found(session, &item->found, mcs_now_ns());
    mcs_mutex_lock(&sessions->lock);
    mcs_status_t status = keep_locked(sessions, session);
    mcs_mutex_unlock(&sessions->lock);
    return status;
}

mcs_status_t mcs_client_get_session_start(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results)
{
    mcs_read_item_t *items = MCS_NEW_ARRAY(mcs_read_item_t, MCS_MIN(count, (size_t)MCS_BATCH_KEYS));
    mcs_status_t status = items == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    mcs_arena_t arena;
    mcs_arena_init(&arena, ARENA_CHUNK, ARENA_MAX);
    for (size_t from = 0; status == MCS_OK && from < count; from += MCS_BATCH_KEYS) {
        size_t n = MCS_MIN(count - from, (size_t)MCS_BATCH_KEYS);
        memset(items, 0, n * sizeof(*items));
        for (size_t i = 0; i < n; i++) {
            items[i].status = mcs_key_take(keys[from + i], &items[i].key);
            items[i].status = items[i].status == MCS_OK ? MCS_ERR_AGAIN : items[i].status;
        }
        mcs_read_t read;
        mcs_read_init(&read, client, items, n, &arena);
        read.fresh = true; /* a lease of its own, which is renewed from now on */
        mcs_status_t looked_up = mcs_read_lookup(&read);
        for (size_t i = 0; i < n; i++) {
            mcs_status_t kept = looked_up == MCS_OK ? keep(client->get_sessions, &items[i]) : looked_up;
            results[from + i] = mcs_status_public(kept);
        }
        mcs_read_fini(&read);
        mcs_arena_reset(&arena);
    }
    /* Once for all of them: each makes the thread look through the list. */
    mcs_mutex_lock(&client->get_sessions->lock);
    mcs_cond_signal(&client->get_sessions->changed);
    mcs_mutex_unlock(&client->get_sessions->lock);
    mcs_arena_fini(&arena);
    mcs_free(items);
    return status;
}

static mcs_status_t preset_session(mcs_get_sessions_t *sessions, mcs_arena_t *arena, mcs_read_item_t *item)
{
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    mcs_mutex_lock(&sessions->lock);
    session_t *session = session_of(mcs_keymap_find(&sessions->map, &item->key));
    if (session != NULL && session->gone) {
        status = MCS_ERR_OBJECT_NOT_FOUND;
    } else if (session != NULL) {
        size_t bytes = count_known(&session->found) * sizeof(mcs_col_replica_t);
        mcs_found_t *bound = mcs_arena_alloc(arena, sizeof(*bound));
        mcs_col_replica_t *replicas = mcs_arena_alloc(arena, bytes);
        status = bound == NULL || replicas == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
        if (status == MCS_OK) {
            memcpy(replicas, session->replicas, bytes);
            *bound = session->found;
            bound->replicas = replicas;
            item->bound = bound;
            item->found = *bound;
            item->lookups = 1;
        }
        if (is_resting(session)) {
            mcs_cond_signal(&sessions->changed);
        }
        session->unread = 0;
    }
    mcs_mutex_unlock(&sessions->lock);
    return status;
}

mcs_status_t mcs_client_get_session_read(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                                         size_t count)
{
    return count > 0 ? get_parts(client, preset_session, keys, targets, count) : MCS_OK;
}

void mcs_client_get_session_end(mcs_client_t *client, const mcs_bytes_t *keys, size_t count)
{
    mcs_get_sessions_t *sessions = client->get_sessions;
    for (size_t i = 0; i < count; i++) {
        mcs_key_t key;
        if (mcs_key_take(keys[i], &key) != MCS_OK) {
            continue;
        }
        mcs_mutex_lock(&sessions->lock);
        session_t *session = session_of(mcs_keymap_find(&sessions->map, &key));
        if (session != NULL) {
            mcs_keymap_remove(&sessions->map, &session->node);
        }
        mcs_mutex_unlock(&sessions->lock);
        mcs_free(session);
    }
}
