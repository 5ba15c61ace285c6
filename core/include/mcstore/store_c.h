/* store_c.h - the C API of the original Mooncake Store, over libmcstore, for bindings that load it (Go, Rust).
 *
 * Same names, arguments and results; semantics are those of mcstore.h, which new code should use. Keys are terminated
 * strings. All calls may be made from any thread and before setup or after destroy's caller-side end of use only as
 * documented there. Results: 0 or a size for success, negative codes otherwise; -600 for NULL arguments. No pointer is
 * kept after a call returned. Buffers of put_from and get_into need no registration. */
#ifndef MCSTORE_STORE_C_H
#define MCSTORE_STORE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef MCSTORE_API
#define MCSTORE_API __attribute__((visibility("default")))
#endif

typedef void *mooncake_store_t;

/* NULL where a function takes one means the defaults: one replica, no pins, no preference. */
typedef struct mooncake_replicate_config {
    size_t replica_num;
    int with_soft_pin;
    int with_hard_pin;
    const char **preferred_segments; /* tried in order */
    size_t preferred_segments_count;
} mooncake_replicate_config_t;

/* NULL when memory is short. Destroy closes; NULL is fine. */
MCSTORE_API mooncake_store_t mooncake_store_create(void);
MCSTORE_API void mooncake_store_destroy(mooncake_store_t store);
/* Sizes in bytes; `device_name` may be NULL. */
MCSTORE_API int mooncake_store_setup(mooncake_store_t store, const char *local_hostname, const char *metadata_server,
                                     uint64_t global_segment_size, uint64_t local_buffer_size, const char *protocol,
                                     const char *device_name, const char *master_server_addr);
/* setup on localhost:12345 with the master at 127.0.0.1:50051, P2PHANDSHAKE metadata and a local buffer of 1 GiB. */
MCSTORE_API int mooncake_store_init_all(mooncake_store_t store, const char *protocol, const char *device_name,
                                        uint64_t mount_segment_size);
/* 0 healthy, 1 not set up, 2 master unreachable. */
MCSTORE_API int mooncake_store_health_check(mooncake_store_t store);

MCSTORE_API int mooncake_store_put(mooncake_store_t store, const char *key, const void *value, size_t size,
                                   const mooncake_replicate_config_t *config);
/* As put, straight from `buffer`. Size 0: 0, and nothing is created. */
MCSTORE_API int mooncake_store_put_from(mooncake_store_t store, const char *key, void *buffer, size_t size,
                                        const mooncake_replicate_config_t *config);
/* 0 when results_out[0..count) have been written. */
MCSTORE_API int mooncake_store_batch_put_from(mooncake_store_t store, const char **keys, void **buffers,
                                              const size_t *sizes, size_t count,
                                              const mooncake_replicate_config_t *config, int *results_out);

/* Bytes read, or negative. */
MCSTORE_API int64_t mooncake_store_get_into(mooncake_store_t store, const char *key, void *buffer, size_t size);
MCSTORE_API int mooncake_store_batch_get_into(mooncake_store_t store, const char **keys, void **buffers,
                                              const size_t *sizes, size_t count, int64_t *results_out);

/* 1, 0 or negative. */
MCSTORE_API int mooncake_store_is_exist(mooncake_store_t store, const char *key);
MCSTORE_API int mooncake_store_batch_is_exist(mooncake_store_t store, const char **keys, size_t count,
                                              int *results_out);
MCSTORE_API int64_t mooncake_store_get_size(mooncake_store_t store, const char *key);
/* Length of "host:port" (terminated, cut to buf_len), or negative. */
MCSTORE_API int mooncake_store_get_hostname(mooncake_store_t store, char *buf_out, size_t buf_len);

MCSTORE_API int mooncake_store_remove(mooncake_store_t store, const char *key, int force);
/* Number removed, or negative. */
MCSTORE_API int64_t mooncake_store_remove_by_regex(mooncake_store_t store, const char *pattern, int force);
MCSTORE_API int64_t mooncake_store_remove_all(mooncake_store_t store, int force);

MCSTORE_API int mooncake_store_register_buffer(mooncake_store_t store, void *buffer, size_t size);
MCSTORE_API int mooncake_store_unregister_buffer(mooncake_store_t store, void *buffer);

#ifdef __cplusplus
}
#endif

#endif
