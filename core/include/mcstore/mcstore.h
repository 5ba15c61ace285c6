/* mcstore.h - C API of the store client (libmcstore).
 *
 * A store is one client: it may contribute one segment of memory to the cluster (`global_segment_size`), and puts and
 * gets objects that live in the segments of all clients. Data moves directly between clients; the master only knows
 * where it is.
 *
 * Conventions
 *  - Results are 0 or a positive count for success, and the negative codes of mcs_code_name() otherwise. Batch calls
 * write one result per key.
 *  - Every call may be made from any thread at any time, also before mcs_store_setup (MCS_INVALID_PARAMS), after and
 * during mcs_store_close, and blocks no longer than the RPC timeout plus the transfer timeout. A forked child gets
 * MCS_INVALID_PARAMS.
 *  - Keys are any bytes, 1 to 8192 long. Values are 1 byte to 1 TiB. Buffers are memory of any alignment: host memory,
 * or, where the process has started the CUDA driver before the store was set up (or registered a buffer of it since),
 * GPU and managed memory, mixed as you like. What was queued to write such a buffer must be done before the call.
 *  - No call keeps a pointer of the caller's after it returned, except mcs_register_buffer (until it is unregistered)
 * and get operations (keys are copied). On return no buffer is being written any more, whatever the result.
 *  - The library starts threads at setup and joins them at close. It installs no signal handlers and writes to no file
 * descriptor but stderr.
 */
#ifndef MCSTORE_MCSTORE_H
#define MCSTORE_MCSTORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MCSTORE_API __attribute__((visibility("default")))

#define MCS_INVALID_PARAMS (-600)

typedef struct mcs_store mcs_store_t;

/* Name of a result code: "OBJECT_NOT_FOUND"; "UNKNOWN_ERROR" for what is not a code. Static storage. */
MCSTORE_API const char *mcs_code_name(int code);
/* "0.1.0". */
MCSTORE_API const char *mcs_version(void);

/* ---- life cycle ---- */

/* NULL when memory is short. */
MCSTORE_API mcs_store_t *mcs_store_create(void);
/* Closes first. NULL is fine. In a forked child it only forgets. Handles and get operations may outlive it. */
MCSTORE_API void mcs_store_destroy(mcs_store_t *store);

/* Starts with struct_size = sizeof(mcs_setup_t): fields beyond it have their defaults (zero). Strings are copied. */
typedef struct mcs_setup {
    size_t struct_size;
    const char *local_hostname;     /* host, host:port, [v6]:port …; without a port one is picked in
                                       MC_STORE_CLIENT_MIN_PORT..MAX_PORT */
    const char *metadata_server;    /* "P2PHANDSHAKE" or "http://host:port/metadata" */
    uint64_t global_segment_size;   /* bytes contributed; 0 = none */
    uint64_t local_buffer_size;     /* bytes for handles and staging; 0 = none */
    const char *protocol;           /* "tcp", "rpc_only" (no data plane) */
    const char *rdma_devices;       /* ignored with a warning for tcp */
    const char *master_server_addr; /* "host:port", "unix:/path", "embedded", "embedded:port" */
    const char *tenant_id;          /* NULL = "default" */
    uint32_t flags;                 /* 0 */
    int http_server;                /* serve this client's /health and /metrics, at the address of local_hostname */
    uint32_t http_port;             /* of that server; 0 = any free one, which the log names */
} mcs_setup_t;

/* 0; MCS_INVALID_PARAMS for bad arguments and for any failure with an explicit port; -1 when no port worked. The log
 * says what and where. A store that is set up already is closed first when the arguments are valid. Fails within the
 * connect timeout (a few seconds). */
MCSTORE_API int mcs_store_setup(mcs_store_t *store, const mcs_setup_t *setup);
/* Set-up as a client of the mooncake_client of this host and user whose port is that of `server_address` (host:port):
 * it is asked for the master's address, and the store is then one without a segment. It outlives that process. Comes
 * with a pool of `mem_pool_size` bytes of memory, reserved when it is first used. 0; -900 when no such process answers;
 * otherwise as mcs_store_setup. */
MCSTORE_API int mcs_store_setup_dummy(mcs_store_t *store, uint64_t mem_pool_size, uint64_t local_buffer_size,
                                      const char *server_address);
/* Memory of that pool; NULL: not that much is left, or the store is not set up so. It stays valid until the store is
 * destroyed or set up by mcs_store_setup_dummy again; there is no giving back. */
MCSTORE_API void *mcs_store_pool_take(mcs_store_t *store, uint64_t size);
/* Always 0. Unmounts, tells the master, joins the threads. Calls in other threads return MCS_INVALID_PARAMS. */
MCSTORE_API int mcs_store_close(mcs_store_t *store);
/* 0 healthy, 1 not set up, 2 master unreachable. */
MCSTORE_API int mcs_store_health_check(mcs_store_t *store);
/* "host:port" into `text` (always terminated, cut to `size`); "" before setup. Returns the full length. */
MCSTORE_API size_t mcs_store_hostname(mcs_store_t *store, char *text, size_t size);

/* ---- keys, configuration ---- */

typedef struct mcs_bytes {
    const void *ptr;
    size_t len;
} mcs_bytes_t;

/* Starts with struct_size. Zeroed = defaults of the API with replica_num 1 (0 is taken as given only when
 * `replica_num_set`). */
typedef struct mcs_replicate_config {
    size_t struct_size;
    uint64_t replica_num;
    int replica_num_set;
    int soft_pin_action; /* 0 preserve, 1 enable, 2 disable */
    int has_soft_pin_ttl;
    uint64_t soft_pin_ttl_ms;
    int with_hard_pin;
    int prefer_alloc_in_same_node;
    int data_type;
    const char *const *preferred_segments;
    size_t preferred_segment_count;
    const mcs_bytes_t *group_ids; /* one per key, or NULL */
    size_t group_id_count;
} mcs_replicate_config_t;

/* A part of an object: `size` bytes from `offset` on, and where in the caller's memory they go (come from). A read ends
 * each with its own result: the size, or negative: MCS_INVALID_PARAMS for a part that reaches beyond the object's end,
 * or that has no memory (`ptr` NULL and a size). */
typedef struct mcs_part {
    void *ptr;
    uint64_t size;
    uint64_t offset;
    int64_t result;
} mcs_part_t;
typedef struct mcs_parts_list {
    mcs_part_t *parts;
    size_t count;
} mcs_parts_list_t;

/* ---- put ---- */

/* How a value is given changes only the checks the API documents. */
#define MCS_PUT_STAGED 1u /* put, put_batch, put_parts: a value larger than the local buffer is MCS_INVALID_PARAMS */
#define MCS_PUT_UPSERT                                                                                                 \
    2u /* an existing value is replaced, at once for all readers: they see the old or the new one                      \
        */

/* One value, in pieces that are written one after another. */
typedef struct mcs_value {
    const struct iovec *iov;
    size_t iov_count;
} mcs_value_t;

/* Stores count objects; results[i] is 0 (stored, or the key exists already: the old value stays) or negative. The same
 * key twice: the first value wins, both succeed. An empty value is MCS_INVALID_PARAMS. `config` may be NULL. Returns 0,
 * or the error that made the whole call impossible (then in every result too). */
MCSTORE_API int mcs_put(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *values, size_t count,
                        const mcs_replicate_config_t *config, unsigned flags, int *results);

/* Sessions for callers that write objects piece by piece: the pieces are gathered in memory of this process, and the
 * end stores the value as mcs_put does. Before that nobody sees the key, and space is found at the end. */
/* results[i]: 0, MCS_INVALID_PARAMS (also for a key that is in session already), or -200 when the sessions of this
 * store hold as much memory as they may (MC_STORE_PUT_SESSION_LIMIT). */
MCSTORE_API int mcs_put_session_start(mcs_store_t *store, const mcs_bytes_t *keys, const uint64_t *sizes, size_t count,
                                      const mcs_replicate_config_t *config, int *results);
/* Each part's result is its size, or MCS_INVALID_PARAMS when it is beyond the size or its key is not in session. */
MCSTORE_API int mcs_put_session_write(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *sources,
                                      size_t count);
/* results[i]: as mcs_put. -700 for a value of which bytes were never written: the session then goes on. A session whose
 * put failed is over. */
MCSTORE_API int mcs_put_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results);
/* results[i]: 0, or MCS_INVALID_PARAMS for a key that is not in session. */
MCSTORE_API int mcs_put_session_revoke(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results);

/* ---- get ---- */

/* Into the caller's memory: results[i] is the object's size or negative: MCS_INVALID_PARAMS when the buffers are too
 * small (nothing written). */
MCSTORE_API int mcs_get_into(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_value_t *buffers, size_t count,
                             int64_t *results);

/* In two steps, for a caller that makes the memory when it knows the sizes: begin looks the keys up (under a lease),
 * sizes are read, run moves the bytes, end frees. A key not found, or a step left out, costs nothing. begin returns
 * NULL only when memory is short or the store is not set up. */
typedef struct mcs_get mcs_get_t;
MCSTORE_API mcs_get_t *mcs_get_begin(mcs_store_t *store, const mcs_bytes_t *keys, size_t count);
/* Size of object i, or its negative code. */
MCSTORE_API int64_t mcs_get_object_size(const mcs_get_t *get, size_t i);
/* buffers[i].iov_base may be NULL to skip; lengths must be the sizes. results as above; skipped ones are left alone.
 * MCS_INVALID_PARAMS also when an object was replaced by one of another size meanwhile: begin again. */
MCSTORE_API int mcs_get_run(mcs_get_t *get, const struct iovec *buffers, int64_t *results);
MCSTORE_API void mcs_get_end(mcs_get_t *get);

/* Parts of count objects. Only these bytes move; the blocks of 1 MiB that a part contains whole are verified. A key may
 * be listed any number of times. Returns 0, or the error that made the whole call impossible (then in every part). */
MCSTORE_API int mcs_get_parts(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                              size_t count);

/* Sessions for callers that read objects piece by piece (layer by layer): start looks the keys up once and keeps what
 * it found; until the end the leases are renewed in the background at half their life, for as long as the session is
 * read from at least once in about eight leases. A read of a key in session asks the master nothing; one after a longer
 * pause does, and has the lease renewed again. It is of the value that was there at the start: when that is gone
 * (removed, evicted in such a pause, replaced, its owner lost) reads are -704, never of another value. A key that is
 * started again is looked up again; it ends once. Sessions belong to the store and end with close. */
/* results[i]: 0 or negative (-704). */
MCSTORE_API int mcs_get_session_start(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results);
/* As mcs_get_parts; a key that is not in session is MCS_INVALID_PARAMS. */
MCSTORE_API int mcs_get_session_read(mcs_store_t *store, const mcs_bytes_t *keys, const mcs_parts_list_t *targets,
                                     size_t count);
/* 0 or MCS_INVALID_PARAMS. Keys that are not in session are passed over. */
MCSTORE_API int mcs_get_session_end(mcs_store_t *store, const mcs_bytes_t *keys, size_t count);

/* A handle: an object's bytes without a buffer of the caller's. A same-host replica is a read-only view of the segment
 * itself (no copy), held until the release; otherwise, and past the cap on viewed bytes, a private writable copy in the
 * local buffer. It may outlive the store. */
typedef struct mcs_handle mcs_handle_t;
/* handles[i] is NULL when results[i] (size or negative, may be NULL) is negative. */
MCSTORE_API int mcs_get_handles(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, mcs_handle_t **handles,
                                int64_t *results);
MCSTORE_API void *mcs_handle_ptr(const mcs_handle_t *handle);
MCSTORE_API size_t mcs_handle_size(const mcs_handle_t *handle);
MCSTORE_API int mcs_handle_readonly(const mcs_handle_t *handle);
/* Never blocks; any thread; NULL is fine. */
MCSTORE_API void mcs_handle_release(mcs_handle_t *handle);

/* ---- exist, size, remove ---- */

/* results[i]: 1, 0 or negative. A 1 grants a lease. */
MCSTORE_API int mcs_exist(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int *results);
/* Bytes or negative. Grants a lease. */
MCSTORE_API int64_t mcs_object_size(mcs_store_t *store, mcs_bytes_t key);
MCSTORE_API int mcs_remove(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, int force, int *results);
/* Number removed, or negative. The pattern is searched for, not anchored. */
MCSTORE_API int64_t mcs_remove_by_regex(mcs_store_t *store, mcs_bytes_t pattern, int force);
MCSTORE_API int64_t mcs_remove_all(mcs_store_t *store, int force);

/* ---- registered buffers ---- */

/* Host or GPU memory. Registered GPU memory that was freed is found out by the call that uses it, which then fails with
 * MCS_INVALID_PARAMS. */
MCSTORE_API int mcs_register_buffer(mcs_store_t *store, const void *ptr, uint64_t len);
MCSTORE_API int mcs_unregister_buffer(mcs_store_t *store, const void *ptr);
/* 1: the address is GPU or managed memory, which every data call may use; 0: it is not, or there is no driver. From the
 * first 1 on the store knows that there is one. */
MCSTORE_API int mcs_is_device_memory(mcs_store_t *store, const void *ptr);

/* ---- GPUs: order of work, memory ---- */

/* For libraries that are told on which stream their data will be used (DLPack): a stream of the store's that they may
 * make wait for their work, by its CUDA handle; then mcs_device_wait_stream. `device`: CUDA's ordinal. 0, or negative
 * (MCS_INVALID_PARAMS without a driver or such a device). */
MCSTORE_API int mcs_device_order_stream(mcs_store_t *store, int device, uint64_t *stream_out);
/* Waits until what is queued now on a stream of the device's primary context is done: an event is recorded there and
 * waited for, nothing else of the device is. The stream is a CUstream; 0 and 1 are the legacy default stream, 2 is the
 * thread's. */
MCSTORE_API int mcs_device_wait_stream(mcs_store_t *store, int device, uint64_t stream);
/* CUDA's ordinal of the device whose memory the address is; negative: none. */
MCSTORE_API int mcs_device_of_memory(mcs_store_t *store, const void *ptr);
/* `len` bytes of GPU or managed memory to or from host memory. */
MCSTORE_API int mcs_device_read(mcs_store_t *store, void *target, const void *source, uint64_t len);
MCSTORE_API int mcs_device_write(mcs_store_t *store, void *target, const void *source, uint64_t len);

/* GPU memory of the store's making. It may outlive the store. */
typedef struct mcs_device_memory mcs_device_memory_t;
/* The CUDA driver is loaded and started when nobody has done so. MCS_INVALID_PARAMS: there is no such device;
 * -1012: no driver; -200: the device has not that much memory. */
MCSTORE_API int mcs_device_memory_alloc(mcs_store_t *store, int device, uint64_t len, mcs_device_memory_t **memory_out);
MCSTORE_API void *mcs_device_memory_ptr(const mcs_device_memory_t *memory);
/* To host memory, and to new memory of the same device; also when the store is closed. */
MCSTORE_API int mcs_device_memory_read(const mcs_device_memory_t *memory, uint64_t offset, void *target, uint64_t len);
MCSTORE_API int mcs_device_memory_copy(const mcs_device_memory_t *memory, uint64_t offset, uint64_t len,
                                       mcs_device_memory_t **copy_out);
/* Does not wait for the device: the memory is used again behind what runs on the legacy default stream, and on streams
 * that wait for it. Any thread; NULL is fine. */
MCSTORE_API void mcs_device_memory_free(mcs_device_memory_t *memory);

/* ---- replicas (descriptors for people and schedulers) ---- */

typedef struct mcs_replica_info {
    int status; /* ReplicaStatus: 3 = COMPLETE */
    uint64_t size;
    uint64_t buffer_address;
    char transport_endpoint[300];
    char segment_name[300];
} mcs_replica_info_t;
/* Fills at most `max` of one key's replicas; returns how many there are, or negative. Grants a lease. */
MCSTORE_API int mcs_replicas(mcs_store_t *store, mcs_bytes_t key, mcs_replica_info_t *replicas, size_t max);
/* The same of many keys in one request: counts[i] is how many key i has, or negative, the first `max` of them are at
 * replicas[i * max]. Returns 0, or the error that made the whole call impossible (then in every count too). */
MCSTORE_API int mcs_replicas_of_many(mcs_store_t *store, const mcs_bytes_t *keys, size_t count,
                                     mcs_replica_info_t *replicas, size_t max, int *counts);

/* Gives up the replicas that lie in the segment of that name ("" = everywhere) of objects that this store put and that
 * nobody has a lease on. results[i]: 0 (cleared), or why not: -601 (another client's), -704, -706, -710 (none there) …
 */
MCSTORE_API int mcs_replica_clear(mcs_store_t *store, const mcs_bytes_t *keys, size_t count, const char *segment_name,
                                  int *results);

/* ---- tasks: replicas copied and moved by the clients that have them ---- */

typedef struct mcs_task_id {
    uint64_t hi;
    uint64_t lo;
} mcs_task_id_t;
#define MCS_TASK_COPY 0
#define MCS_TASK_MOVE 1

#define MCS_TASK_PENDING    0
#define MCS_TASK_PROCESSING 1
#define MCS_TASK_FAILED     2 /* this and SUCCESS: a task that is over */
#define MCS_TASK_SUCCESS    3
typedef struct mcs_task_info {
    mcs_task_id_t id;
    int type;            /* MCS_TASK_COPY, MCS_TASK_MOVE */
    int status;          /* MCS_TASK_PENDING … */
    uint64_t created_ms; /* since 1970 */
    uint64_t updated_ms;
    mcs_task_id_t client; /* who executes it */
    char message[128];    /* the last failure, "" without */
} mcs_task_info_t;

/* Asks for one more replica of the object in each of the segments of these names. The call returns when the task is
 * made; the object can be read all the time, also while and after a replica is moved. 0, or: -600 (names no segment
 * has, or twice; more than 16 replicas), -704, -703, -708 (a task works on it), -1401. Segments that have one already
 * stay as they are. */
MCSTORE_API int mcs_create_copy_task(mcs_store_t *store, mcs_bytes_t key, const char *const *targets, size_t count,
                                     mcs_task_id_t *id_out);
/* Asks for the replica in segment `source` to be in segment `target`. As above, and -710: none in `source`.
 * When `target` has one already, the one in `source` is given up. */
MCSTORE_API int mcs_create_move_task(mcs_store_t *store, mcs_bytes_t key, const char *source, const char *target,
                                     mcs_task_id_t *id_out);
/* -1400: unknown, or so long over that it was forgotten. */
MCSTORE_API int mcs_query_task(mcs_store_t *store, mcs_task_id_t id, mcs_task_info_t *info_out);

/* ---- segments of run time ---- */

/* 1: set up with the protocol rdma, so that segments may be of it (on a machine without RDMA devices their data moves
 * by TCP all the same); 0: not, or not set up. */
MCSTORE_API int mcs_has_rdma(mcs_store_t *store);

typedef struct mcs_segment_id {
    uint64_t hi;
    uint64_t lo;
} mcs_segment_id_t;
/* Contributes `size` more bytes of memory (NUMA node -1 = any) until they are unmounted or the store is closed. 0 or
 * negative. */
MCSTORE_API int mcs_mount_memory(mcs_store_t *store, uint64_t size, int numa_node, mcs_segment_id_t *id_out);
/* The same in the memory of a GPU (the driver's number), rounded up as the driver wants; the process must have started
 * CUDA. Objects lie there when a put prefers the segment by its name, "host:port/cuda:N". -1012: no such device, or no
 * driver; -200: it has no memory left; -800: it has failed. Undone like the other. */
MCSTORE_API int mcs_mount_device_memory(mcs_store_t *store, uint64_t size, int device, mcs_segment_id_t *id_out);
/* What lies only there is gone; views of it stay valid. With grace_seconds > 0 it takes no new objects at once and goes
 * when they are over; a later call for it changes that time. -101: not mounted by this store. */
MCSTORE_API int mcs_unmount_memory(mcs_store_t *store, mcs_segment_id_t id, uint32_t grace_seconds);

/* ---- counters ---- */

typedef void (*mcs_counter_fn)(void *arg, const char *name, uint64_t value);
/* Calls fn for each counter of this client: bytes by path (own, same_host, fetched, stored, served), bytes copied,
 * retries … */
MCSTORE_API void mcs_store_counters(mcs_store_t *store, mcs_counter_fn fn, void *arg);

/* ---- interruption ---- */

/* While the calling thread is blocked in one of the calls above, `check` is called on it about every 100 ms; non-zero
 * makes the call return early with MCS_INTERRUPTED (puts not yet committed are revoked). Per thread; NULL removes it.
 * For a Python module: PyErr_CheckSignals. */
#define MCS_INTERRUPTED (-9100)
MCSTORE_API void mcs_thread_set_interrupt(int (*check)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif
