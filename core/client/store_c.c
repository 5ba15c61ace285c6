/* See store_c.h: each function is its namesake of mcstore.h with other spellings. Set-up and batch paths allocate two
 * arrays per call. */
#include "mcstore/store_c.h"

#include <string.h>

#include "core/base/alloc.h"
#include "mcstore/mcstore.h"

#define INIT_ALL_BUFFER (UINT64_C(1) << 30)
#define MAX_BATCH       (SIZE_MAX / 64)

static mcs_bytes_t key_bytes(const char *key)
{
    return (mcs_bytes_t){key, strlen(key)};
}

static const mcs_replicate_config_t *convert(const mooncake_replicate_config_t *from, mcs_replicate_config_t *to)
{
    if (from == NULL) {
        return NULL;
    }
    *to = (mcs_replicate_config_t){
        .struct_size = sizeof(*to),
        .replica_num = from->replica_num,
        .replica_num_set = 1,
        .soft_pin_action = from->with_soft_pin != 0 ? 1 : 0,
        .with_hard_pin = from->with_hard_pin,
        .preferred_segments = from->preferred_segments,
        .preferred_segment_count = from->preferred_segments != NULL ? from->preferred_segments_count : 0,
    };
    return to;
}

mooncake_store_t mooncake_store_create(void)
{
    return mcs_store_create();
}

void mooncake_store_destroy(mooncake_store_t store)
{
    mcs_store_destroy(store);
}

int mooncake_store_setup(mooncake_store_t store, const char *local_hostname, const char *metadata_server,
                         uint64_t global_segment_size, uint64_t local_buffer_size, const char *protocol,
                         const char *device_name, const char *master_server_addr)
{
    if (store == NULL || local_hostname == NULL || metadata_server == NULL || protocol == NULL ||
        master_server_addr == NULL) {
        return MCS_INVALID_PARAMS;
    }
    const mcs_setup_t setup = {
        .struct_size = sizeof(setup),
        .local_hostname = local_hostname,
        .metadata_server = metadata_server,
        .global_segment_size = global_segment_size,
        .local_buffer_size = local_buffer_size,
        .protocol = protocol,
        .rdma_devices = device_name,
        .master_server_addr = master_server_addr,
    };
    return mcs_store_setup(store, &setup);
}

int mooncake_store_init_all(mooncake_store_t store, const char *protocol, const char *device_name,
                            uint64_t mount_segment_size)
{
    return mooncake_store_setup(store, "localhost:12345", "P2PHANDSHAKE", mount_segment_size, INIT_ALL_BUFFER, protocol,
                                device_name, "127.0.0.1:50051");
}

int mooncake_store_health_check(mooncake_store_t store)
{
    return store != NULL ? mcs_store_health_check(store) : 1;
}

static int put_one(mooncake_store_t store, const char *key, const void *value, size_t size,
                   const mooncake_replicate_config_t *config, unsigned flags)
{
    if (store == NULL || key == NULL || (value == NULL && size > 0)) {
        return MCS_INVALID_PARAMS;
    }
    mcs_bytes_t name = key_bytes(key);
    /* iovec has no const variant; a put only reads. */
    union {
        const void *in;
        void *out;
    } bytes = {.in = value};
    struct iovec piece = {.iov_base = bytes.out, .iov_len = size};
    mcs_value_t one = {&piece, 1};
    mcs_replicate_config_t converted;
    int result = MCS_INVALID_PARAMS;
    int status = mcs_put(store, &name, &one, 1, convert(config, &converted), flags, &result);
    return status != 0 ? status : result;
}

int mooncake_store_put(mooncake_store_t store, const char *key, const void *value, size_t size,
                       const mooncake_replicate_config_t *config)
{
    return put_one(store, key, value, size, config, MCS_PUT_STAGED);
}

int mooncake_store_put_from(mooncake_store_t store, const char *key, void *buffer, size_t size,
                            const mooncake_replicate_config_t *config)
{
    return size == 0 && store != NULL && key != NULL ? 0 : put_one(store, key, buffer, size, config, 0);
}

/* The columns of a batch: keys, pieces and values in one allocation each. */
typedef struct batch {
    mcs_bytes_t *keys;
    struct iovec *pieces;
    mcs_value_t *values;
} batch_t;

static void batch_fini(batch_t *batch)
{
    mcs_free(batch->keys);
    mcs_free(batch->pieces);
    mcs_free(batch->values);
}

/* `buffers` may be NULL for batches of keys alone. */
static int batch_init(batch_t *batch, const char **keys, void **buffers, const size_t *sizes, size_t count)
{
    memset(batch, 0, sizeof(*batch));
    if (keys == NULL || count > MAX_BATCH) {
        return MCS_INVALID_PARAMS;
    }
    batch->keys = MCS_NEW_ARRAY(mcs_bytes_t, count);
    batch->pieces = MCS_NEW_ARRAY(struct iovec, buffers != NULL ? count : 0);
    batch->values = MCS_NEW_ARRAY(mcs_value_t, buffers != NULL ? count : 0);
    if (batch->keys == NULL || batch->pieces == NULL || batch->values == NULL) {
        batch_fini(batch);
        return MCS_INVALID_PARAMS;
    }
    for (size_t i = 0; i < count; i++) {
        if (keys[i] == NULL || (buffers != NULL && buffers[i] == NULL && sizes[i] > 0)) {
            batch_fini(batch);
            return MCS_INVALID_PARAMS;
        }
        batch->keys[i] = key_bytes(keys[i]);
        if (buffers != NULL) {
            batch->pieces[i] = (struct iovec){buffers[i], sizes[i]};
            batch->values[i] = (mcs_value_t){&batch->pieces[i], 1};
        }
    }
    return 0;
}

int mooncake_store_batch_put_from(mooncake_store_t store, const char **keys, void **buffers, const size_t *sizes,
                                  size_t count, const mooncake_replicate_config_t *config, int *results_out)
{
    if (store == NULL || buffers == NULL || sizes == NULL || results_out == NULL) {
        return MCS_INVALID_PARAMS;
    }
    batch_t batch;
    int status = batch_init(&batch, keys, buffers, sizes, count);
    if (status != 0) {
        return status;
    }
    mcs_replicate_config_t converted;
    status = mcs_put(store, batch.keys, batch.values, count, convert(config, &converted), 0, results_out);
    batch_fini(&batch);
    return status;
}

int64_t mooncake_store_get_into(mooncake_store_t store, const char *key, void *buffer, size_t size)
{
    int64_t result = MCS_INVALID_PARAMS;
    int status = mooncake_store_batch_get_into(store, &key, &buffer, &size, 1, &result);
    return status != 0 ? status : result;
}

int mooncake_store_batch_get_into(mooncake_store_t store, const char **keys, void **buffers, const size_t *sizes,
                                  size_t count, int64_t *results_out)
{
    if (store == NULL || buffers == NULL || sizes == NULL || results_out == NULL) {
        return MCS_INVALID_PARAMS;
    }
    batch_t batch;
    int status = batch_init(&batch, keys, buffers, sizes, count);
    if (status != 0) {
        return status;
    }
    status = mcs_get_into(store, batch.keys, batch.values, count, results_out);
    batch_fini(&batch);
    return status;
}

int mooncake_store_is_exist(mooncake_store_t store, const char *key)
{
    int result = MCS_INVALID_PARAMS;
    int status = mooncake_store_batch_is_exist(store, &key, 1, &result);
    return status != 0 ? status : result;
}

int mooncake_store_batch_is_exist(mooncake_store_t store, const char **keys, size_t count, int *results_out)
{
    if (store == NULL || results_out == NULL) {
        return MCS_INVALID_PARAMS;
    }
    batch_t batch;
    int status = batch_init(&batch, keys, NULL, NULL, count);
    if (status != 0) {
        return status;
    }
    status = mcs_exist(store, batch.keys, count, results_out);
    batch_fini(&batch);
    return status;
}

int64_t mooncake_store_get_size(mooncake_store_t store, const char *key)
{
    return store != NULL && key != NULL ? mcs_object_size(store, key_bytes(key)) : MCS_INVALID_PARAMS;
}

int mooncake_store_get_hostname(mooncake_store_t store, char *buf_out, size_t buf_len)
{
    return store != NULL && buf_out != NULL && buf_len > 0 ? (int)mcs_store_hostname(store, buf_out, buf_len)
                                                           : MCS_INVALID_PARAMS;
}

int mooncake_store_remove(mooncake_store_t store, const char *key, int force)
{
    if (store == NULL || key == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_bytes_t name = key_bytes(key);
    int result = MCS_INVALID_PARAMS;
    int status = mcs_remove(store, &name, 1, force, &result);
    return status != 0 ? status : result;
}

int64_t mooncake_store_remove_by_regex(mooncake_store_t store, const char *pattern, int force)
{
    return store != NULL && pattern != NULL ? mcs_remove_by_regex(store, key_bytes(pattern), force)
                                            : MCS_INVALID_PARAMS;
}

int64_t mooncake_store_remove_all(mooncake_store_t store, int force)
{
    return store != NULL ? mcs_remove_all(store, force) : MCS_INVALID_PARAMS;
}

int mooncake_store_register_buffer(mooncake_store_t store, void *buffer, size_t size)
{
    return store != NULL ? mcs_register_buffer(store, buffer, size) : MCS_INVALID_PARAMS;
}

int mooncake_store_unregister_buffer(mooncake_store_t store, void *buffer)
{
    return store != NULL ? mcs_unregister_buffer(store, buffer) : MCS_INVALID_PARAMS;
}
