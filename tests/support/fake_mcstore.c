/* An in-memory stand-in for libmcstore (mcstore.h): one dictionary shared by all stores of the process, no threads, no
 * network. The Python tests of arguments, conversions, leaks and signals run against it, because there every call is
 * quick and every code can be had at will:
 *
 *   key "!code:-707…"  every call with this key gives -707
 *   key "!block…"      every call with this key waits until the store is closed (-600), the interrupt hook asks to end
 * (-9100), or 20 s passed key "!shrink…"     the first run after a begin finds a value of another size key "view:…"
 * handles are read-only, as views of a segment are
 *
 * setup_dummy finds "dummy:1" alone (-900), its pool is 1 MiB. setup refuses (-600) an empty host name, a protocol
 * other than tcp and rpc_only, and the master "unreachable:1"; the master "noport" gives -1. counters: what is alive
 * ("gets", "handles", "objects", "registered") and the arguments of the last put. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/memprobe.h"
#include "core/base/status.h"
#include "mcstore/mcstore.h"

#define NOT_FOUND (-704)
#define NO_ANSWER (-900)

static char g_pool[1 << 20]; /* of all stores that setup_dummy set up */

typedef struct object {
    struct object *next;
    char *key;
    size_t key_len;
    char *bytes;
    size_t len;
} object_t;

typedef struct range {
    struct range *next;
    uintptr_t start;
    uint64_t len;
} range_t;

struct mcs_store {
    char hostname[300]; /* "" = not set up */
    uint64_t local_buffer;
    uint64_t pool_left; /* of g_pool, from its end */
    pid_t pid;
    range_t *ranges;
};

struct mcs_get {
    mcs_store_t *store;
    size_t count;
    mcs_bytes_t *keys;
    int64_t *sizes;
};

struct mcs_handle {
    char *bytes;
    size_t len;
    int readonly;
};

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below and the stores' fields */
static object_t *g_objects;
static uint64_t g_gets;
static uint64_t g_handles;
static int g_shrunk;
static uint64_t g_last_flags;
static uint64_t g_last_replicas;
static uint64_t g_last_pin;
static uint64_t g_last_ttl;
static uint64_t g_last_hard;
static uint64_t g_last_type;
static uint64_t g_last_segments;
static uint64_t g_last_groups;
static uint64_t g_last_same_node;

static _Thread_local int (*t_check)(void *arg);
static _Thread_local void *t_check_arg;

void mcs_thread_set_interrupt(int (*check)(void *arg), void *arg)
{
    t_check = check;
    t_check_arg = arg;
}

const char *mcs_code_name(int code)
{
    return mcs_status_name(code);
}

const char *mcs_version(void)
{
    return "0.1.0-fake";
}

static bool has_prefix(mcs_bytes_t key, const char *prefix)
{
    return key.len >= strlen(prefix) && memcmp(key.ptr, prefix, strlen(prefix)) == 0;
}

static bool is_up(const mcs_store_t *store)
{
    return store->hostname[0] != '\0' && store->pid == getpid();
}

/* Waits as a call on a dead network would. */
static int block(mcs_store_t *store)
{
    for (int i = 0; i < 1000; i++) {
        struct timespec nap = {.tv_nsec = 20 * 1000 * 1000};
        nanosleep(&nap, NULL);
        if (t_check != NULL && t_check(t_check_arg) != 0) {
            return MCS_INTERRUPTED;
        }
        pthread_mutex_lock(&g_lock);
        bool up = is_up(store);
        pthread_mutex_unlock(&g_lock);
        if (!up) {
            return MCS_INVALID_PARAMS;
        }
    }
    return -901;
}

/* 0, or the code that every call with this key gives. */
static int key_code(mcs_store_t *store, mcs_bytes_t key)
{
    pthread_mutex_lock(&g_lock);
    bool up = is_up(store);
    pthread_mutex_unlock(&g_lock);
    if (!up || key.len == 0 || key.len > 8192) {
        return MCS_INVALID_PARAMS;
    }
    if (has_prefix(key, "!code:") && key.len < 32) {
        char text[32] = {0};
        memcpy(text, (const char *)key.ptr + 6, key.len - 6);
        return (int)strtol(text, NULL, 10);
    }
    if (has_prefix(key, "!fault:") && key.len < 32) {
        char text[32] = {0};
        memcpy(text, (const char *)key.ptr + 7, key.len - 7);
        mcs_fault_arm(MCS_FAULT_ALLOC, strtoull(text, NULL, 10));
    }
    return has_prefix(key, "!block") ? block(store) : 0;
}

static object_t **find(mcs_bytes_t key)
{
    object_t **at = &g_objects;
    while (*at != NULL && ((*at)->key_len != key.len || memcmp((*at)->key, key.ptr, key.len) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

static void drop_object(object_t **at)
{
    object_t *object = *at;
    *at = object->next;
    free(object->key);
    free(object->bytes);
    free(object);
}

/* ---- life cycle ---- */

mcs_store_t *mcs_store_create(void)
{
    mcs_store_t *store = calloc(1, sizeof(*store));
    if (store != NULL) {
        store->pid = getpid();
    }
    return store;
}

int mcs_store_close(mcs_store_t *store)
{
    pthread_mutex_lock(&g_lock);
    store->hostname[0] = '\0';
    while (store->ranges != NULL) {
        range_t *range = store->ranges;
        store->ranges = range->next;
        free(range);
    }
    pthread_mutex_unlock(&g_lock);
    return 0;
}

void mcs_store_destroy(mcs_store_t *store)
{
    if (store != NULL) {
        mcs_store_close(store);
        free(store);
    }
}

int mcs_store_setup(mcs_store_t *store, const mcs_setup_t *setup)
{
    if (store->pid != getpid() || setup->local_hostname[0] == '\0' ||
        (strcmp(setup->protocol, "tcp") != 0 && strcmp(setup->protocol, "rpc_only") != 0)) {
        return MCS_INVALID_PARAMS;
    }
    mcs_store_close(store);
    if (strcmp(setup->master_server_addr, "unreachable:1") == 0 || strncmp(setup->metadata_server, "garbage", 7) == 0) {
        return MCS_INVALID_PARAMS;
    }
    if (strcmp(setup->master_server_addr, "noport") == 0) {
        return -1;
    }
    pthread_mutex_lock(&g_lock);
    snprintf(store->hostname, sizeof(store->hostname), "%s%s", setup->local_hostname,
             strchr(setup->local_hostname, ':') == NULL ? ":12300" : "");
    store->local_buffer = setup->local_buffer_size;
    pthread_mutex_unlock(&g_lock);
    return 0;
}

int mcs_store_setup_dummy(mcs_store_t *store, uint64_t mem_pool_size, uint64_t local_buffer_size,
                          const char *server_address)
{
    (void)mem_pool_size;
    const mcs_setup_t setup = {.struct_size = sizeof(setup),
                               .local_hostname = "localhost",
                               .metadata_server = "P2PHANDSHAKE",
                               .local_buffer_size = local_buffer_size,
                               .protocol = "tcp",
                               .master_server_addr = "fake:1"};
    if (strcmp(server_address, "dummy:1") != 0) {
        return NO_ANSWER;
    }
    int code = mcs_store_setup(store, &setup);
    store->pool_left = code == 0 ? sizeof(g_pool) : 0;
    return code;
}

void *mcs_store_pool_take(mcs_store_t *store, uint64_t size)
{
    if (store->hostname[0] == '\0' || size > store->pool_left) {
        return NULL;
    }
    store->pool_left -= size;
    return g_pool + store->pool_left;
}

int mcs_store_health_check(mcs_store_t *store)
{
    return is_up(store) ? 0 : 1;
}

size_t mcs_store_hostname(mcs_store_t *store, char *text, size_t size)
{
    return (size_t)snprintf(text, size, "%s", store->hostname);
}

/* ---- put ---- */

static int put_one(mcs_store_t *store, mcs_bytes_t key, const mcs_value_t *value, unsigned flags)
{
    int code = key_code(store, key);
    size_t total = 0;
    if (code != 0) {
        return code;
    }
    for (size_t i = 0; i < value->iov_count; i++) {
        total += value->iov[i].iov_len;
    }
    if (total == 0 || ((flags & MCS_PUT_STAGED) != 0 && total > store->local_buffer)) {
        return MCS_INVALID_PARAMS;
    }
    pthread_mutex_lock(&g_lock);
    object_t **at = find(key);
    if (*at != NULL && (flags & MCS_PUT_UPSERT) != 0) {
        drop_object(at);
        at = find(key);
    }
    if (*at == NULL) {
        object_t *object = calloc(1, sizeof(*object));
        object->key = malloc(key.len);
        memcpy(object->key, key.ptr, key.len);
        object->key_len = key.len;
        object->bytes = malloc(total);
        object->len = 0;
        for (size_t i = 0; i < value->iov_count; i++) {
            if (value->iov[i].iov_len > 0) {
                memcpy(object->bytes + object->len, value->iov[i].iov_base, value->iov[i].iov_len);
            }
            object->len += value->iov[i].iov_len;
        }
        *at = object;
    }
    pthread_mutex_unlock(&g_lock);
    return 0;
}

int mcs_put(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *values, size_t count,
            const mcs_replicate_config_t *config, unsigned flags, int *results)
{
    bool bad_groups = config->group_ids != NULL && config->group_id_count != count;
    pthread_mutex_lock(&g_lock);
    g_last_flags = flags;
    g_last_replicas = config->replica_num;
    g_last_pin = (uint64_t)config->soft_pin_action;
    g_last_ttl = config->has_soft_pin_ttl ? config->soft_pin_ttl_ms : UINT64_MAX;
    g_last_hard = (uint64_t)config->with_hard_pin;
    g_last_type = (uint64_t)config->data_type;
    g_last_segments = config->preferred_segment_count;
    g_last_groups = config->group_id_count;
    g_last_same_node = (uint64_t)config->prefer_alloc_in_same_node;
    pthread_mutex_unlock(&g_lock);
    for (size_t i = 0; i < count; i++) {
        results[i] = bad_groups ? MCS_INVALID_PARAMS : put_one(store, keys[i], &values[i], flags);
    }
    return bad_groups ? MCS_INVALID_PARAMS : 0;
}

/* ---- get ---- */

static int64_t get_one(mcs_store_t *store, mcs_bytes_t key, const mcs_value_t *buffer)
{
    int code = key_code(store, key);
    if (code != 0) {
        return code;
    }
    size_t room = 0;
    for (size_t i = 0; i < buffer->iov_count; i++) {
        room += buffer->iov[i].iov_len;
    }
    pthread_mutex_lock(&g_lock);
    object_t *object = *find(key);
    int64_t result = object == NULL ? NOT_FOUND : object->len > room ? MCS_INVALID_PARAMS : (int64_t)object->len;
    size_t done = 0;
    for (size_t i = 0; result > 0 && i < buffer->iov_count && done < object->len; i++) {
        size_t part = object->len - done < buffer->iov[i].iov_len ? object->len - done : buffer->iov[i].iov_len;
        if (part > 0) {
            memcpy(buffer->iov[i].iov_base, object->bytes + done, part);
        }
        done += part;
    }
    pthread_mutex_unlock(&g_lock);
    return result;
}

int mcs_get_into(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *buffers, size_t count,
                 int64_t *results)
{
    for (size_t i = 0; i < count; i++) {
        results[i] = get_one(store, keys[i], &buffers[i]);
    }
    return 0;
}

int64_t mcs_object_size(mcs_store_t *store, mcs_bytes_t key)
{
    int code = key_code(store, key);
    if (code != 0) {
        return code;
    }
    pthread_mutex_lock(&g_lock);
    object_t *object = *find(key);
    int64_t size = object != NULL ? (int64_t)object->len : NOT_FOUND;
    pthread_mutex_unlock(&g_lock);
    return size;
}

mcs_get_t *mcs_get_begin(mcs_store_t *store, const mcs_bytes_t *keys, size_t count)
{
    if (!is_up(store)) {
        return NULL;
    }
    mcs_get_t *get = calloc(1, sizeof(*get));
    get->store = store;
    get->count = count;
    get->keys = calloc(count + 1, sizeof(*get->keys));
    get->sizes = calloc(count + 1, sizeof(*get->sizes));
    for (size_t i = 0; i < count; i++) {
        void *copy = malloc(keys[i].len + 1);
        memcpy(copy, keys[i].ptr, keys[i].len);
        get->keys[i] = (mcs_bytes_t){.ptr = copy, .len = keys[i].len};
        get->sizes[i] = mcs_object_size(store, keys[i]);
    }
    pthread_mutex_lock(&g_lock);
    g_gets++;
    pthread_mutex_unlock(&g_lock);
    return get;
}

int64_t mcs_get_object_size(const mcs_get_t *get, size_t i)
{
    return get->sizes[i];
}

int mcs_get_run(mcs_get_t *get, const struct iovec *buffers, int64_t *results)
{
    for (size_t i = 0; i < get->count; i++) {
        if (buffers[i].iov_base == NULL) {
            continue;
        }
        if (has_prefix(get->keys[i], "!shrink") && !g_shrunk) {
            g_shrunk = 1;
            results[i] = MCS_INVALID_PARAMS;
            continue;
        }
        mcs_value_t buffer = {.iov = &buffers[i], .iov_count = 1};
        results[i] = get_one(get->store, get->keys[i], &buffer);
    }
    return 0;
}

void mcs_get_end(mcs_get_t *get)
{
    for (size_t i = 0; i < get->count; i++) {
        union {
            const void *in;
            void *out;
        } key = {.in = get->keys[i].ptr};
        free(key.out);
    }
    free(get->keys);
    free(get->sizes);
    free(get);
    pthread_mutex_lock(&g_lock);
    g_gets--;
    pthread_mutex_unlock(&g_lock);
}

static mcs_handle_t *make_handle(mcs_store_t *store, mcs_bytes_t key, int64_t *result)
{
    *result = mcs_object_size(store, key);
    if (*result < 0) {
        return NULL;
    }
    mcs_handle_t *handle = calloc(1, sizeof(*handle));
    handle->len = (size_t)*result;
    handle->bytes = malloc(handle->len);
    handle->readonly = has_prefix(key, "view:");
    struct iovec iov = {.iov_base = handle->bytes, .iov_len = handle->len};
    mcs_value_t buffer = {.iov = &iov, .iov_count = 1};
    *result = get_one(store, key, &buffer);
    if (*result != (int64_t)handle->len) { /* removed, replaced or closed since its size was asked */
        free(handle->bytes);
        free(handle);
        *result = *result < 0 ? *result : NOT_FOUND;
        return NULL;
    }
    pthread_mutex_lock(&g_lock);
    g_handles++;
    pthread_mutex_unlock(&g_lock);
    return handle;
}

int mcs_get_handles(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, mcs_handle_t **handles, int64_t *results)
{
    for (size_t i = 0; i < count; i++) {
        int64_t result;
        handles[i] = make_handle(store, keys[i], &result);
        if (results != NULL) {
            results[i] = result;
        }
    }
    return 0;
}

void *mcs_handle_ptr(const mcs_handle_t *handle)
{
    return handle->bytes;
}

size_t mcs_handle_size(const mcs_handle_t *handle)
{
    return handle->len;
}

int mcs_handle_readonly(const mcs_handle_t *handle)
{
    return handle->readonly;
}

void mcs_handle_release(mcs_handle_t *handle)
{
    if (handle != NULL) {
        free(handle->bytes);
        free(handle);
        pthread_mutex_lock(&g_lock);
        g_handles--;
        pthread_mutex_unlock(&g_lock);
    }
}

int mcs_replica_clear(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, const char *segment_name, int *results)
{
    (void)segment_name;
    return mcs_remove(store, keys, count, 1, results);
}

static uint64_t g_mounted;

int mcs_has_rdma(mcs_store_t *store)
{
    (void)store;
    return 0;
}

int mcs_mount_memory(mcs_store_t *store, uint64_t size, int numa_node, mcs_segment_id_t *id_out)
{
    (void)numa_node;
    if (!is_up(store) || size == 0 || size > UINT64_C(1) << 46) {
        return MCS_INVALID_PARAMS;
    }
    pthread_mutex_lock(&g_lock);
    *id_out = (mcs_segment_id_t){7, ++g_mounted};
    pthread_mutex_unlock(&g_lock);
    return 0;
}

int mcs_mount_device_memory(mcs_store_t *store, uint64_t size, int device, mcs_segment_id_t *id_out)
{
    return device == 0 ? mcs_mount_memory(store, size, -1, id_out) : -1012;
}

int mcs_unmount_memory(mcs_store_t *store, mcs_segment_id_t id, uint32_t grace_seconds)
{
    (void)grace_seconds;
    return is_up(store) && id.hi == 7 && id.lo > 0 && id.lo <= g_mounted ? 0 : -101;
}

/* ---- tasks: done at once ---- */

static mcs_task_info_t g_tasks[64]; /* by id.lo - 1 */
static uint64_t g_task_count;

static int make_task(mcs_store_t *store, int type, mcs_bytes_t key, const char *const *targets, size_t count,
                     mcs_task_id_t *id_out)
{
    int code = key_code(store, key);
    if (!is_up(store) || count == 0 || targets == NULL) {
        return MCS_INVALID_PARAMS;
    }
    pthread_mutex_lock(&g_lock);
    code = code != 0 ? code : *find(key) == NULL ? NOT_FOUND : 0;
    if (code == 0) {
        uint64_t n = g_task_count++ % 64;
        *id_out = (mcs_task_id_t){UINT64_MAX, n + 1};
        g_tasks[n] = (mcs_task_info_t){.id = *id_out,
                                       .type = type,
                                       .status = MCS_TASK_SUCCESS,
                                       .created_ms = 1000,
                                       .updated_ms = 2000,
                                       .client = {3, 4}};
        snprintf(g_tasks[n].message, sizeof(g_tasks[n].message), "%s", targets[0]);
    }
    pthread_mutex_unlock(&g_lock);
    return code;
}

int mcs_create_copy_task(mcs_store_t *store, mcs_bytes_t key, const char *const *targets, size_t count,
                         mcs_task_id_t *id_out)
{
    return make_task(store, MCS_TASK_COPY, key, targets, count, id_out);
}

int mcs_create_move_task(mcs_store_t *store, mcs_bytes_t key, const char *source, const char *target,
                         mcs_task_id_t *id_out)
{
    return source != NULL ? make_task(store, MCS_TASK_MOVE, key, &target, 1, id_out) : MCS_INVALID_PARAMS;
}

int mcs_query_task(mcs_store_t *store, mcs_task_id_t id, mcs_task_info_t *info_out)
{
    if (!is_up(store)) {
        return MCS_INVALID_PARAMS;
    }
    pthread_mutex_lock(&g_lock);
    bool known = id.hi == UINT64_MAX && id.lo > 0 && id.lo <= 64 && g_tasks[id.lo - 1].id.lo == id.lo;
    if (known) {
        *info_out = g_tasks[id.lo - 1];
    }
    pthread_mutex_unlock(&g_lock);
    return known ? 0 : -1400;
}

/* ---- parts and sessions ---- */

static int get_part_list(mcs_store_t *store, mcs_bytes_t key, const mcs_parts_list_t *list)
{
    int code = key_code(store, key);
    pthread_mutex_lock(&g_lock);
    object_t *object = code == 0 ? *find(key) : NULL;
    for (size_t i = 0; i < list->count; i++) {
        mcs_part_t *part = &list->parts[i];
        if (object == NULL) {
            part->result = code != 0 ? code : NOT_FOUND;
        } else if (part->offset > object->len || part->size > object->len - part->offset ||
                   (part->ptr == NULL && part->size > 0)) {
            part->result = MCS_INVALID_PARAMS;
        } else {
            if (part->size > 0) {
                memcpy(part->ptr, object->bytes + part->offset, part->size);
            }
            part->result = (int64_t)part->size;
        }
    }
    pthread_mutex_unlock(&g_lock);
    return 0;
}

int mcs_get_parts(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        get_part_list(store, keys[i], &targets[i]);
    }
    return 0;
}

int mcs_get_session_start(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    for (size_t i = 0; i < count; i++) {
        int64_t size = mcs_object_size(store, keys[i]);
        results[i] = size < 0 ? (int)size : 0;
    }
    return 0;
}

int mcs_get_session_read(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets, size_t count)
{
    return mcs_get_parts(store, keys, targets, count);
}

int mcs_get_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count)
{
    (void)keys;
    (void)count;
    return is_up(store) ? 0 : MCS_INVALID_PARAMS;
}

/* Open put sessions: objects of another list, with bytes of zero where nothing was written. */
static object_t *g_open;

static object_t **find_open(mcs_bytes_t key)
{
    object_t **at = &g_open;
    while (*at != NULL && ((*at)->key_len != key.len || memcmp((*at)->key, key.ptr, key.len) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

int mcs_put_session_start(mcs_store_t *store, const mcs_bytes_t *keys, const uint64_t *sizes, size_t count,
                          const mcs_replicate_config_t *config, int *results)
{
    (void)config;
    for (size_t i = 0; i < count; i++) {
        results[i] = key_code(store, keys[i]);
        pthread_mutex_lock(&g_lock);
        object_t **at = find_open(keys[i]);
        if (results[i] == 0 && (*at != NULL || sizes[i] == 0 || sizes[i] > 1 << 20)) {
            results[i] = MCS_INVALID_PARAMS;
        }
        if (results[i] == 0) {
            object_t *object = calloc(1, sizeof(*object));
            object->key = malloc(keys[i].len);
            memcpy(object->key, keys[i].ptr, keys[i].len);
            object->key_len = keys[i].len;
            object->bytes = calloc(1, sizes[i]);
            object->len = sizes[i];
            *at = object;
        }
        pthread_mutex_unlock(&g_lock);
    }
    return 0;
}

int mcs_put_session_write(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *sources, size_t count)
{
    (void)store;
    pthread_mutex_lock(&g_lock);
    for (size_t i = 0; i < count; i++) {
        object_t *object = *find_open(keys[i]);
        for (size_t p = 0; p < sources[i].count; p++) {
            mcs_part_t *part = &sources[i].parts[p];
            part->result = MCS_INVALID_PARAMS;
            if (object != NULL && part->offset <= object->len && part->size <= object->len - part->offset) {
                memcpy(object->bytes + part->offset, part->ptr, part->size);
                part->result = (int64_t)part->size;
            }
        }
    }
    pthread_mutex_unlock(&g_lock);
    return 0;
}

static void end_session(mcs_store_t *store, mcs_bytes_t key, bool put, int *result)
{
    pthread_mutex_lock(&g_lock);
    object_t **at = find_open(key);
    object_t *object = *at;
    if (object != NULL) {
        *at = object->next;
    }
    pthread_mutex_unlock(&g_lock);
    *result = object == NULL ? MCS_INVALID_PARAMS : 0;
    if (object == NULL) {
        return;
    }
    if (put) {
        struct iovec piece = {object->bytes, object->len};
        *result = put_one(store, key, &(mcs_value_t){&piece, 1}, 0);
    }
    free(object->bytes);
    free(object->key);
    free(object);
}

int mcs_put_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    for (size_t i = 0; i < count; i++) {
        end_session(store, keys[i], true, &results[i]);
    }
    return 0;
}

int mcs_put_session_revoke(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    for (size_t i = 0; i < count; i++) {
        end_session(store, keys[i], false, &results[i]);
    }
    return 0;
}

/* ---- exist, remove ---- */

int mcs_exist(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results)
{
    for (size_t i = 0; i < count; i++) {
        int64_t size = mcs_object_size(store, keys[i]);
        results[i] = size >= 0 ? 1 : size == NOT_FOUND ? 0 : (int)size;
    }
    return 0;
}

int mcs_remove(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int force, int *results)
{
    for (size_t i = 0; i < count; i++) {
        results[i] = key_code(store, keys[i]);
        if (results[i] == -706 && force) {
            results[i] = 0;
        } else if (results[i] == 0) {
            pthread_mutex_lock(&g_lock);
            object_t **at = find(keys[i]);
            results[i] = *at != NULL ? 0 : NOT_FOUND;
            if (*at != NULL) {
                drop_object(at);
            }
            pthread_mutex_unlock(&g_lock);
        }
    }
    return 0;
}

/* The "pattern" is a substring. */
int64_t mcs_remove_by_regex(mcs_store_t *store, mcs_bytes_t pattern, int force)
{
    (void)force;
    if (!is_up(store) || has_prefix(pattern, "[")) {
        return MCS_INVALID_PARAMS;
    }
    int64_t count = 0;
    pthread_mutex_lock(&g_lock);
    object_t **at = &g_objects;
    while (*at != NULL) {
        if (memmem((*at)->key, (*at)->key_len, pattern.ptr, pattern.len) != NULL) {
            drop_object(at);
            count++;
        } else {
            at = &(*at)->next;
        }
    }
    pthread_mutex_unlock(&g_lock);
    return count;
}

int64_t mcs_remove_all(mcs_store_t *store, int force)
{
    return mcs_remove_by_regex(store, (mcs_bytes_t){.ptr = "", .len = 0}, force);
}

/* ---- registered buffers ---- */

int mcs_register_buffer(mcs_store_t *store, const void *ptr, uint64_t len)
{
    uintptr_t start = (uintptr_t)ptr;
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    int code = is_up(store) && len > 0 ? (int)mcs_memprobe_check(&probe, ptr, len, true) : MCS_INVALID_PARAMS;
    mcs_memprobe_fini(&probe);
    pthread_mutex_lock(&g_lock);
    for (range_t *r = store->ranges; r != NULL; r = r->next) {
        if (start < r->start + r->len && r->start < start + len) {
            code = MCS_INVALID_PARAMS;
        }
    }
    if (code == 0) {
        range_t *range = calloc(1, sizeof(*range));
        range->start = start;
        range->len = len;
        range->next = store->ranges;
        store->ranges = range;
    }
    pthread_mutex_unlock(&g_lock);
    return code;
}

int mcs_is_device_memory(mcs_store_t *store, const void *ptr)
{
    (void)store;
    (void)ptr;
    return 0;
}

/* A machine without a GPU. */
int mcs_device_order_stream(mcs_store_t *store, int device, uint64_t *stream_out)
{
    (void)store;
    (void)device;
    (void)stream_out;
    return MCS_INVALID_PARAMS;
}

int mcs_device_wait_stream(mcs_store_t *store, int device, uint64_t stream)
{
    (void)store;
    (void)device;
    (void)stream;
    return MCS_INVALID_PARAMS;
}

int mcs_device_read(mcs_store_t *store, void *target, const void *source, uint64_t len)
{
    (void)store;
    (void)target;
    (void)source;
    (void)len;
    return MCS_INVALID_PARAMS;
}

int mcs_device_write(mcs_store_t *store, void *target, const void *source, uint64_t len)
{
    (void)store;
    (void)target;
    (void)source;
    (void)len;
    return MCS_INVALID_PARAMS;
}

int mcs_device_of_memory(mcs_store_t *store, const void *ptr)
{
    (void)store;
    (void)ptr;
    return MCS_INVALID_PARAMS;
}

int mcs_device_memory_copy(const mcs_device_memory_t *memory, uint64_t offset, uint64_t len,
                           mcs_device_memory_t **copy_out)
{
    (void)memory;
    (void)offset;
    (void)len;
    (void)copy_out;
    return MCS_INVALID_PARAMS;
}

int mcs_device_memory_alloc(mcs_store_t *store, int device, uint64_t len, mcs_device_memory_t **memory_out)
{
    (void)store;
    (void)device;
    (void)len;
    (void)memory_out;
    return -1012;
}

void *mcs_device_memory_ptr(const mcs_device_memory_t *memory)
{
    (void)memory;
    return NULL;
}

int mcs_device_memory_read(const mcs_device_memory_t *memory, uint64_t offset, void *target, uint64_t len)
{
    (void)memory;
    (void)offset;
    (void)target;
    (void)len;
    return MCS_INVALID_PARAMS;
}

void mcs_device_memory_free(mcs_device_memory_t *memory)
{
    (void)memory;
}

int mcs_unregister_buffer(mcs_store_t *store, const void *ptr)
{
    int code = MCS_INVALID_PARAMS;
    pthread_mutex_lock(&g_lock);
    for (range_t **at = &store->ranges; *at != NULL; at = &(*at)->next) {
        if ((*at)->start == (uintptr_t)ptr) {
            range_t *range = *at;
            *at = range->next;
            free(range);
            code = 0;
            break;
        }
    }
    pthread_mutex_unlock(&g_lock);
    return code;
}

/* ---- replicas, counters ---- */

int mcs_replicas(mcs_store_t *store, mcs_bytes_t key, mcs_replica_info_t *replicas, size_t max)
{
    int64_t size = mcs_object_size(store, key);
    if (size < 0) {
        return (int)size;
    }
    if (max > 0) {
        replicas[0] = (mcs_replica_info_t){.status = 3, .size = (uint64_t)size, .buffer_address = 4096};
        snprintf(replicas[0].transport_endpoint, sizeof(replicas[0].transport_endpoint), "fake:1");
        snprintf(replicas[0].segment_name, sizeof(replicas[0].segment_name), "%s", store->hostname);
    }
    return 1;
}

int mcs_replicas_of_many(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, mcs_replica_info_t *replicas,
                         size_t max, int *counts)
{
    for (size_t i = 0; i < count; i++) {
        counts[i] = mcs_replicas(store, keys[i], &replicas[i * max], max);
    }
    return 0;
}

void mcs_store_counters(mcs_store_t *store, mcs_counter_fn fn, void *arg)
{
    uint64_t objects = 0;
    uint64_t registered = 0;
    for (object_t *object = g_objects; object != NULL; object = object->next) {
        objects++;
    }
    for (range_t *range = store->ranges; range != NULL; range = range->next) {
        registered++;
    }
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"objects", objects},
        {"registered", registered},
        {"gets", g_gets},
        {"handles", g_handles},
        {"last_flags", g_last_flags},
        {"last_replica_num", g_last_replicas},
        {"last_soft_pin", g_last_pin},
        {"last_soft_pin_ttl", g_last_ttl},
        {"last_hard_pin", g_last_hard},
        {"last_data_type", g_last_type},
        {"last_segments", g_last_segments},
        {"last_groups", g_last_groups},
        {"last_same_node", g_last_same_node},
        {"fault_fired", mcs_fault_fired(MCS_FAULT_ALLOC)},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fn(arg, rows[i].name, rows[i].value);
    }
}
