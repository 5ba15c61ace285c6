/* The entries of the C API: see mcstore.h. Checks who calls, lets calls into the client that is set up, and keeps it
 * until they are out.
 *
 * Life of a client: set-up makes it `live`. Each call inside counts as a user. Close detaches it (no more users come),
 * cancels it (those inside return soon) and waits until it is gone; the last one out takes it apart, be it the closer
 * or a call. Why not simply the closer: a hook (mcs_thread_set_interrupt) may run a signal handler of the embedding
 * program that closes the store in the middle of a call of the same thread, and a wait for that call would never end. A
 * closer inside a call therefore does not wait.
 *
 * Rules: 1. users, live, leaving and changing are read and written under the store's lock only. 2. The lock is never
 * held over I/O, a hook or a wait for another thread. 3. A forked child never takes the lock: another thread may have
 * held it at the fork (rule 11). */
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/memprobe.h"
#include "core/base/op.h"
#include "core/base/thread.h"
#include "core/client/borrow.h"
#include "core/client/client.h"
#include "core/client/device.h"
#include "core/client/interrupt.h"
#include "core/client/store_entry.h"

#define AREA "client"

typedef struct live {
    mcs_client_t *client;
    mcs_store_t *store; /* a reference */
    uint32_t users;
    bool detached;
} live_t;

struct mcs_store {
    uint64_t process; /* rule 11 */
    uint32_t refs;    /* atomic: the creator, each live_t, each get operation */
    mcs_mutex_t lock; /* MCS_RANK_STORE; guards everything below */
    mcs_cond_t changed;
    live_t *live;        /* NULL: not set up */
    uint32_t leaving;    /* detached clients that are not gone yet */
    bool changing;       /* a thread is in set-up */
    bool close_wanted;   /* by a hook of that thread, or another's inside a call */
    mcs_mempool_t *pool; /* of the last setup_dummy; its memory may be in use as long as the store lives */
    bool pool_open;      /* that setup is the present one */
};

/* Calls of the API that this thread is in: more than one when a hook makes calls. */
static _Thread_local uint32_t t_depth;

static bool usable(const mcs_store_t *store)
{
    return store != NULL && store->process == mcs_process_token();
}

/* ---- references and users ---- */

mcs_store_t *mcs_store_create(void)
{
    mcs_store_t *store = MCS_NEW(mcs_store_t);
    if (store == NULL) {
        return NULL;
    }
    store->process = mcs_process_token();
    store->refs = 1;
    mcs_mutex_init(&store->lock, MCS_RANK_STORE, "store");
    mcs_cond_init(&store->changed);
    return store;
}

static mcs_store_t *store_get(mcs_store_t *store)
{
    __atomic_fetch_add(&store->refs, 1, __ATOMIC_RELAXED);
    return store;
}

static void store_put(mcs_store_t *store)
{
    if (__atomic_sub_fetch(&store->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_mempool_destroy(store->pool);
        mcs_cond_fini(&store->changed);
        mcs_mutex_fini(&store->lock);
        mcs_free(store);
    }
}

static void take_apart(live_t *live)
{
    mcs_store_t *store = live->store;
    mcs_client_close(live->client);
    mcs_free(live);
    mcs_mutex_lock(&store->lock);
    store->leaving--;
    mcs_cond_broadcast(&store->changed);
    mcs_mutex_unlock(&store->lock);
    store_put(store);
}

/* The client, as its user; NULL when there is none. */
static live_t *enter(mcs_store_t *store)
{
    if (!usable(store)) {
        return NULL;
    }
    mcs_mutex_lock(&store->lock);
    live_t *live = store->live;
    if (live != NULL) {
        live->users++;
    }
    mcs_mutex_unlock(&store->lock);
    if (live != NULL) {
        if (t_depth++ == 0) {
            mcs_op_begin();
        }
        mcs_interrupt_begin();
    }
    return live;
}

static void leave(live_t *live)
{
    mcs_store_t *store = live->store;
    if (--t_depth == 0) {
        mcs_op_end();
    }
    mcs_mutex_lock(&store->lock);
    bool last = --live->users == 0 && live->detached;
    mcs_mutex_unlock(&store->lock);
    if (last) {
        take_apart(live);
    }
}

mcs_client_t *mcs_store_enter(mcs_store_t *store, mcs_entry_t *entry_out)
{
    live_t *live = enter(store);
    entry_out->live = live;
    return live != NULL ? live->client : NULL;
}

void mcs_store_leave(const mcs_entry_t *entry)
{
    leave(entry->live);
}

/* Ends the present client. Returns it when nobody is inside: the caller takes it apart, without the lock. */
static live_t *detach_locked(mcs_store_t *store)
{
    live_t *live = store->live;
    store->pool_open = false;
    if (live == NULL) {
        return NULL;
    }
    store->live = NULL;
    store->leaving++;
    live->detached = true;
    mcs_client_cancel(live->client);
    return live->users == 0 ? live : NULL;
}

static void wait_gone(mcs_store_t *store)
{
    if (t_depth > 0) {
        return;
    }
    mcs_mutex_lock(&store->lock);
    while (store->leaving > 0) {
        mcs_cond_wait(&store->changed, &store->lock);
    }
    mcs_mutex_unlock(&store->lock);
}

/* ---- life cycle ---- */

int mcs_store_close(mcs_store_t *store)
{
    if (!usable(store)) {
        return 0;
    }
    mcs_mutex_lock(&store->lock);
    while (store->changing) {
        store->close_wanted = true;
        if (t_depth > 0) {
            mcs_mutex_unlock(&store->lock);
            return 0; /* set-up may be waiting for this thread */
        }
        mcs_cond_wait(&store->changed, &store->lock);
    }
    live_t *gone = detach_locked(store);
    mcs_mutex_unlock(&store->lock);
    if (gone != NULL) {
        take_apart(gone);
    }
    wait_gone(store);
    return 0;
}

void mcs_store_destroy(mcs_store_t *store)
{
    if (!usable(store)) {
        return;
    }
    mcs_store_close(store);
    store_put(store);
}

/* What a caller built against an older or a newer header gave, in our layout. */
static mcs_status_t take_setup(const mcs_setup_t *given, mcs_setup_t *setup_out)
{
    if (given == NULL || given->struct_size < sizeof(size_t)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    memset(setup_out, 0, sizeof(*setup_out));
    memcpy(setup_out, given, MCS_MIN(given->struct_size, sizeof(*setup_out)));
    return mcs_setup_check(setup_out);
}

static int setup_code(mcs_status_t status, bool named_port)
{
    switch ((int)status) {
    case MCS_OK: return 0;
    case MCS_ERR_INTERRUPTED: return MCS_INTERRUPTED;
    case MCS_ERR_INVALID_PARAMS:
    case MCS_ERR_NO_MEMORY: return MCS_INVALID_PARAMS;
    default: return named_port ? MCS_INVALID_PARAMS : -1;
    }
}

static bool begin_change(mcs_store_t *store)
{
    mcs_mutex_lock(&store->lock);
    while (store->changing && t_depth == 0) {
        mcs_cond_wait(&store->changed, &store->lock);
    }
    bool mine = !store->changing;
    live_t *gone = NULL;
    if (mine) {
        store->changing = true;
        store->close_wanted = false;
        gone = detach_locked(store);
    }
    mcs_mutex_unlock(&store->lock);
    if (gone != NULL) {
        take_apart(gone);
    }
    if (mine) {
        wait_gone(store);
    }
    return mine;
}

static mcs_status_t end_change(mcs_store_t *store, live_t *live, mcs_status_t status)
{
    mcs_mutex_lock(&store->lock);
    live_t *gone = NULL;
    if (status == MCS_OK) {
        store->live = live;
        if (store->close_wanted) {
            gone = detach_locked(store);
            status = MCS_ERR_CLOSED;
        }
    }
    store->changing = false;
    mcs_cond_broadcast(&store->changed);
    mcs_mutex_unlock(&store->lock);
    if (gone != NULL) {
        take_apart(gone);
    }
    return status;
}

int mcs_store_setup(mcs_store_t *store, const mcs_setup_t *given)
{
    mcs_setup_t setup;
    if (!usable(store) || take_setup(given, &setup) != MCS_OK) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = MCS_NEW(live_t);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    if (!begin_change(store)) {
        mcs_free(live);
        return MCS_INVALID_PARAMS; /* from a hook inside a set-up of this store */
    }
    bool named_port = true;
    t_depth++;
    mcs_interrupt_begin();
    mcs_log_hold_descriptors();
    mcs_status_t status = mcs_client_open(&setup, &live->client, &named_port);
    t_depth--;
    if (status == MCS_OK) {
        live->store = store_get(store);
        status = end_change(store, live, status);
        return status == MCS_ERR_CLOSED ? MCS_INVALID_PARAMS : 0;
    }
    mcs_free(live);
    (void)end_change(store, NULL, status);
    return setup_code(status, named_port);
}

int mcs_store_setup_dummy(mcs_store_t *store, uint64_t mem_pool_size, uint64_t local_buffer_size,
                          const char *server_address)
{
    mcs_borrow_settings_t settings;
    mcs_mempool_t *pool;
    if (!usable(store) || server_address == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = mcs_borrow_ask("", server_address, &settings);
    if (status != MCS_OK) {
        return mcs_status_public(status);
    }
    if (mcs_mempool_create(mem_pool_size, &pool) != MCS_OK) {
        return MCS_INVALID_PARAMS;
    }
    const mcs_setup_t setup = {
        .struct_size = sizeof(setup),
        .local_hostname = settings.local_hostname,
        .metadata_server = "P2PHANDSHAKE",
        .local_buffer_size = local_buffer_size,
        .protocol = settings.protocol,
        .master_server_addr = settings.master_address,
        .tenant_id = settings.tenant,
    };
    int code = mcs_store_setup(store, &setup);
    if (code == 0) {
        mcs_mutex_lock(&store->lock);
        mcs_mempool_t *old = store->pool;
        store->pool = pool;
        store->pool_open = store->live != NULL; /* another thread may have closed it again */
        pool = old;
        mcs_mutex_unlock(&store->lock);
    }
    mcs_mempool_destroy(pool);
    return code;
}

void *mcs_store_pool_take(mcs_store_t *store, uint64_t size)
{
    if (!usable(store)) {
        return NULL;
    }
    mcs_mutex_lock(&store->lock);
    void *memory = store->pool_open ? mcs_mempool_take(store->pool, size) : NULL;
    mcs_mutex_unlock(&store->lock);
    return memory;
}

int mcs_store_health_check(mcs_store_t *store)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return 1;
    }
    int health = mcs_session_is_connected(live->client->session) ? 0 : 2;
    leave(live);
    return health;
}

size_t mcs_store_hostname(mcs_store_t *store, char *text, size_t size)
{
    live_t *live = enter(store);
    const char *name = live != NULL ? live->client->name : "";
    size_t len = strlen(name);
    if (text != NULL && size > 0) {
        snprintf(text, size, "%s", name);
    }
    if (live != NULL) {
        leave(live);
    }
    return len;
}

/* ---- put ---- */

static int fill_int(int *results, size_t count, mcs_status_t status)
{
    int code = mcs_status_public(status);
    for (size_t i = 0; i < count; i++) {
        results[i] = code;
    }
    return code;
}

static int fill_i64(int64_t *results, size_t count, mcs_status_t status)
{
    int code = mcs_status_public(status);
    for (size_t i = 0; results != NULL && i < count; i++) {
        results[i] = code;
    }
    return code;
}

int mcs_put(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *values, size_t count,
            const mcs_replicate_config_t *config, unsigned flags, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_replicate_config_t full = {.struct_size = sizeof(full)};
    if (config != NULL) {
        memcpy(&full, config, MCS_MIN(config->struct_size, sizeof(full)));
    }
    live_t *live = enter(store);
    bool sane = live != NULL && (count == 0 || (keys != NULL && values != NULL)) &&
                (config == NULL || config->struct_size >= sizeof(size_t)) &&
                (flags & ~(MCS_PUT_STAGED | MCS_PUT_UPSERT)) == 0;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (sane) {
        uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
        status = mcs_client_put(live->client, keys, values, count, config != NULL ? &full : NULL, flags, results);
        if (status == MCS_OK) {
            mcs_metrics_put(&live->client->metrics, flags, begun_ns, values, results, count);
        }
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

/* ---- get ---- */

int mcs_get_into(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *buffers, size_t count,
                 int64_t *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || (keys != NULL && buffers != NULL))) {
        uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
        status = mcs_client_get_into(live->client, keys, buffers, count, results);
        if (status == MCS_OK) {
            mcs_metrics_get(&live->client->metrics, MCS_OP_GET_INTO, begun_ns, NULL, results, count);
        }
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_i64(results, count, status);
}

mcs_get_t *mcs_get_begin(mcs_store_t *store, const mcs_bytes_t *keys, size_t count)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return NULL;
    }
    mcs_get_t *get = NULL;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
    if (count == 0 || keys != NULL) {
        status = mcs_client_get_begin(live->client, keys, count, &get);
    }
    if (status == MCS_OK) {
        mcs_get_owner_t *owner = mcs_get_owner(get);
        owner->store = store_get(store);
        owner->client_serial = live->client->serial;
        owner->op = mcs_op_current();
        owner->lookup_ns = begun_ns != 0 ? mcs_now_ns() - begun_ns : 0;
    }
    leave(live);
    return status == MCS_OK ? get : NULL;
}

/* Results of objects whose buffer is not NULL. */
static int fill_run(const mcs_get_t *get, const struct iovec *buffers, int64_t *results, mcs_status_t status)
{
    int code = mcs_status_public(status);
    for (size_t i = 0; i < mcs_get_count(get); i++) {
        if (buffers[i].iov_base != NULL) {
            results[i] = code;
        }
    }
    return code;
}

int mcs_get_run(mcs_get_t *get, const struct iovec *buffers, int64_t *results)
{
    if (get == NULL || (mcs_get_count(get) > 0 && (buffers == NULL || results == NULL))) {
        return MCS_INVALID_PARAMS;
    }
    const mcs_get_owner_t *owner = mcs_get_owner(get);
    live_t *live = enter(owner->store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && live->client->serial == owner->client_serial) {
        mcs_op_resume(owner->op);
        uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
        status = mcs_client_get_run(live->client, get, buffers, results);
        if (status == MCS_OK && begun_ns != 0) { /* the time between the two halves is the caller's */
            mcs_metrics_get(&live->client->metrics, MCS_OP_GET, begun_ns - owner->lookup_ns, buffers, results,
                            mcs_get_count(get));
        }
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_run(get, buffers, results, status);
}

void mcs_get_end(mcs_get_t *get)
{
    if (get == NULL) {
        return;
    }
    mcs_store_t *store = mcs_get_owner(get)->store;
    mcs_get_free(get);
    if (usable(store)) {
        store_put(store);
    }
}

int mcs_get_handles(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, mcs_handle_t **handles, int64_t *results)
{
    if (count > 0 && handles == NULL) {
        return MCS_INVALID_PARAMS;
    }
    for (size_t i = 0; i < count; i++) {
        handles[i] = NULL;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || keys != NULL)) {
        uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
        status = mcs_client_get_handles(live->client, keys, count, handles, results);
        if (status == MCS_OK) {
            mcs_metrics_get(&live->client->metrics, MCS_OP_GET_BUFFER, begun_ns, NULL, results, count);
        }
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_i64(results, count, status);
}

/* ---- parts and sessions ---- */

static int fill_parts(const mcs_parts_list_t *lists, size_t count, mcs_status_t status)
{
    int code = mcs_status_public(status);
    for (size_t i = 0; lists != NULL && i < count; i++) {
        for (size_t p = 0; lists[i].parts != NULL && p < lists[i].count; p++) {
            lists[i].parts[p].result = code;
        }
    }
    return code;
}

typedef mcs_status_t (*parts_fn)(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_parts_list_t *lists,
                                 size_t count);

static int call_parts(mcs_store_t *store, parts_fn fn, mcs_op_kind_t kind, const mcs_bytes_t *keys,
                      const mcs_parts_list_t *lists, size_t count)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return fill_parts(lists, count, MCS_ERR_INVALID_PARAMS);
    }
    bool sane = count == 0 || (keys != NULL && lists != NULL);
    for (size_t i = 0; sane && i < count; i++) {
        sane = lists[i].count == 0 || lists[i].parts != NULL;
    }
    uint64_t begun_ns = mcs_metrics_begin(&live->client->metrics);
    mcs_status_t status = sane ? fn(live->client, keys, lists, count) : MCS_ERR_INVALID_PARAMS;
    if (status == MCS_OK) {
        mcs_metrics_parts(&live->client->metrics, kind, begun_ns, lists, count);
    }
    leave(live);
    return status == MCS_OK ? 0 : fill_parts(lists, count, status);
}

int mcs_get_parts(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets, size_t count)
{
    return call_parts(store, mcs_client_get_parts, MCS_OP_GET_PARTS, keys, targets, count);
}

int mcs_get_session_read(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets, size_t count)
{
    return call_parts(store, mcs_client_get_session_read, MCS_OP_GET_PARTS, keys, targets, count);
}

int mcs_put_session_write(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *sources, size_t count)
{
    return call_parts(store, mcs_client_put_session_write, MCS_OP_PUT_PARTS, keys, sources, count);
}

typedef mcs_status_t (*keys_fn)(mcs_client_t *client, const mcs_bytes_t *keys, size_t count, int *results);

static int call_keys(mcs_store_t *store, keys_fn fn, const mcs_bytes_t *keys, size_t count, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || keys != NULL)) {
        status = count > 0 ? fn(live->client, keys, count, results) : MCS_OK;
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

int mcs_get_session_start(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    return call_keys(store, mcs_client_get_session_start, keys, count, results);
}

int mcs_get_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    bool sane = count == 0 || keys != NULL;
    if (sane) {
        mcs_client_get_session_end(live->client, keys, count);
    }
    leave(live);
    return sane ? 0 : MCS_INVALID_PARAMS;
}

int mcs_put_session_start(mcs_store_t *store, const mcs_bytes_t *keys, const uint64_t *sizes, size_t count,
                          const mcs_replicate_config_t *config, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_replicate_config_t full = {.struct_size = sizeof(full)};
    if (config != NULL) {
        memcpy(&full, config, MCS_MIN(config->struct_size, sizeof(full)));
    }
    live_t *live = enter(store);
    bool sane = live != NULL && (count == 0 || (keys != NULL && sizes != NULL)) &&
                (config == NULL || config->struct_size >= sizeof(size_t));
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (sane) {
        status = mcs_client_put_session_start(live->client, keys, sizes, count, config != NULL ? &full : NULL, results);
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

int mcs_put_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    return call_keys(store, mcs_client_put_session_end, keys, count, results);
}

int mcs_put_session_revoke(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    return call_keys(store, mcs_client_put_session_revoke, keys, count, results);
}

/* ---- exist, size, remove ---- */

int mcs_exist(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || keys != NULL)) {
        status = mcs_client_exist(live->client, keys, count, results);
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

int64_t mcs_object_size(mcs_store_t *store, mcs_bytes_t key)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    int64_t size = mcs_client_object_size(live->client, key);
    leave(live);
    return size;
}

int mcs_remove(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int force, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || keys != NULL)) {
        status = mcs_client_remove(live->client, keys, count, force != 0, results);
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

int mcs_replica_clear(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, const char *segment_name, int *results)
{
    if (count > 0 && results == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && segment_name != NULL && (count == 0 || keys != NULL)) {
        status = mcs_client_replica_clear(live->client, keys, count, segment_name, results);
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(results, count, status);
}

int64_t mcs_remove_by_regex(mcs_store_t *store, mcs_bytes_t pattern, int force)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    int64_t count = mcs_client_remove_by_regex(live->client, pattern, force != 0);
    leave(live);
    return count;
}

int64_t mcs_remove_all(mcs_store_t *store, int force)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    int64_t count = mcs_client_remove_all(live->client, force != 0);
    leave(live);
    return count;
}

/* ---- registered buffers, replicas, counters ---- */

static mcs_status_t check_host(const void *ptr, uint64_t len)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    mcs_status_t status = mcs_memprobe_check(&probe, ptr, len, true);
    mcs_memprobe_fini(&probe);
    return status;
}

static mcs_status_t register_buffer(mcs_client_t *client, const void *ptr, uint64_t len)
{
    if (len == 0 || ptr == NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    bool device = mcs_device_holds(client, ptr);
    mcs_status_t status = device ? mcs_device_register(client, ptr, len) : check_host(ptr, len);
    if (status != MCS_OK) {
        return status;
    }
    status = mcs_regtable_add(client->buffers, ptr, len);
    if (status != MCS_OK && device) {
        mcs_device_unregister(client, ptr);
    }
    if (status == MCS_OK && client->rdma && (!device || mcs_device_open_to_rdma(client, ptr, len))) {
        client->transport_ops->expose(client->transport, (void *)(uintptr_t)ptr, len,
                                      device ? MCS_EXPOSED_DEVICE : MCS_EXPOSED_AHEAD);
        if (!mcs_regtable_contains(client->buffers, ptr, len)) { /* somebody has taken it back meanwhile */
            client->transport_ops->conceal(client->transport, ptr);
        }
    }
    return status;
}

int mcs_register_buffer(mcs_store_t *store, const void *ptr, uint64_t len)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = register_buffer(live->client, ptr, len);
    leave(live);
    return mcs_status_public(status);
}

int mcs_unregister_buffer(mcs_store_t *store, const void *ptr)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = mcs_regtable_remove(live->client->buffers, ptr);
    if (status == MCS_OK) {
        mcs_device_unregister(live->client, ptr);
    }
    if (status == MCS_OK && live->client->rdma) {
        live->client->transport_ops->conceal(live->client->transport, ptr);
    }
    leave(live);
    return mcs_status_public(status);
}

int mcs_replicas(mcs_store_t *store, mcs_bytes_t key, mcs_replica_info_t *replicas, size_t max)
{
    int count = MCS_INVALID_PARAMS;
    int code = mcs_replicas_of_many(store, &key, 1, replicas, max, &count);
    return code != 0 ? code : count;
}

int mcs_replicas_of_many(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, mcs_replica_info_t *replicas,
                         size_t max, int *counts)
{
    if (count > 0 && counts == NULL) {
        return MCS_INVALID_PARAMS;
    }
    live_t *live = enter(store);
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (live != NULL && (count == 0 || (keys != NULL && (replicas != NULL || max == 0)))) {
        status = count > 0 ? mcs_client_replicas(live->client, keys, count, replicas, max, counts) : MCS_OK;
    }
    if (live != NULL) {
        leave(live);
    }
    return status == MCS_OK ? 0 : fill_int(counts, count, status);
}

static int create_task(mcs_store_t *store, int type, mcs_bytes_t key, const char *source, const char *const *targets,
                       size_t count, mcs_task_id_t *id_out)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_id_t id;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (id_out != NULL && targets != NULL) {
        status = mcs_client_create_task(live->client, type, key, source, targets, count, &id);
    }
    if (status == MCS_OK) {
        *id_out = (mcs_task_id_t){id.hi, id.lo};
    }
    leave(live);
    return mcs_status_public(status);
}

int mcs_create_copy_task(mcs_store_t *store, mcs_bytes_t key, const char *const *targets, size_t count,
                         mcs_task_id_t *id_out)
{
    return create_task(store, MCS_TASK_COPY, key, NULL, targets, count, id_out);
}

int mcs_create_move_task(mcs_store_t *store, mcs_bytes_t key, const char *source, const char *target,
                         mcs_task_id_t *id_out)
{
    return create_task(store, MCS_TASK_MOVE, key, source, &target, 1, id_out);
}

int mcs_query_task(mcs_store_t *store, mcs_task_id_t id, mcs_task_info_t *info_out)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (info_out != NULL) {
        status = mcs_client_query_task(live->client, (mcs_id_t){.hi = id.hi, .lo = id.lo}, info_out);
    }
    leave(live);
    return mcs_status_public(status);
}

/* `where`: a NUMA node, or a device. */
static int mount(mcs_store_t *store, uint64_t size, int where, mcs_segment_id_t *id_out,
                 mcs_status_t (*call)(mcs_client_t *client, uint64_t size, int where, mcs_id_t *id_out))
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_id_t id;
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (id_out != NULL) {
        status = call(live->client, size, where, &id);
    }
    if (status == MCS_OK) {
        *id_out = (mcs_segment_id_t){id.hi, id.lo};
    }
    leave(live);
    return mcs_status_public(status);
}

int mcs_has_rdma(mcs_store_t *store)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return 0;
    }
    int has = live->client->rdma_segments ? 1 : 0;
    leave(live);
    return has;
}

int mcs_mount_memory(mcs_store_t *store, uint64_t size, int numa_node, mcs_segment_id_t *id_out)
{
    return mount(store, size, numa_node, id_out, mcs_client_mount_memory);
}

int mcs_mount_device_memory(mcs_store_t *store, uint64_t size, int device, mcs_segment_id_t *id_out)
{
    return mount(store, size, device, id_out, mcs_client_mount_device);
}

int mcs_unmount_memory(mcs_store_t *store, mcs_segment_id_t id, uint32_t grace_seconds)
{
    live_t *live = enter(store);
    if (live == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = mcs_client_unmount(live->client, (mcs_id_t){.hi = id.hi, .lo = id.lo}, grace_seconds);
    leave(live);
    return mcs_status_public(status);
}

void mcs_store_counters(mcs_store_t *store, mcs_counter_fn fn, void *arg)
{
    live_t *live = enter(store);
    if (live != NULL) {
        mcs_client_counters(live->client, fn, arg);
        leave(live);
    }
}
