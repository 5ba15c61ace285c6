/* The transport ops table: moves payload bytes between this process and the owners of extents. Implemented by
 * ucx_transport/.
 *
 * Life cycle: open (one per client; starts the serving thread) -> transfer… -> close. `transfer` may be called from any
 * number of threads at once; all others, but expose and conceal, from one. The serving thread answers peers' fetches
 * and stores through the owner ops and is never blocked by callers (rule 9). Sizes and counts that come from peers are
 * bounded (rule 8); a peer that breaks the protocol is dropped, nobody else notices (rule 10). */
#ifndef MCS_OPS_TRANSPORT_H
#define MCS_OPS_TRANSPORT_H

#include <sys/uio.h>

#include "core/ops/owner.h"

/* A transport's address of one process, opaque to everybody else; travels through the master with the segment. */
#define MCS_ENDPOINT_MAX 1024
typedef struct mcs_endpoint {
    uint32_t len;
    uint8_t bytes[MCS_ENDPOINT_MAX];
} mcs_endpoint_t;

typedef struct mcs_transport_info {
    mcs_endpoint_t endpoint; /* how peers reach this process */
    char wire[32];           /* wire generation: processes of different text cannot talk ("ucx-1.13", "ucx-1.20") */
    char library[128];       /* for people: version and path of what was loaded */
    uint16_t data_port;      /* TCP port of the data plane when it is known, else 0 */
    bool rdma;               /* it has RDMA devices */
} mcs_transport_info_t;

/* Counters, relaxed atomics; owned by the client, read by metrics. */
typedef struct mcs_transport_counters {
    uint64_t fetched_bytes; /* payload received by this process's reads */
    uint64_t stored_bytes;  /* payload sent by this process's writes */
    uint64_t served_read_bytes;
    uint64_t served_write_bytes;
    uint64_t copied_bytes; /* payload bytes moved by a memcpy of ours (eager receives) on top of what UCX does */
    uint64_t rdma_bytes;   /* payload bytes, fetched, stored or served, that devices moved between both sides' memory */
    uint64_t transfers;
    uint64_t timeouts;
    uint64_t peer_errors;
    uint64_t refused; /* served requests refused by the owner's checks */
} mcs_transport_counters_t;

/* What protocol rdma asks for. Texts may be NULL where "" is meant. */
typedef struct mcs_transport_rdma {
    const char *devices;    /* names or name:port, with commas; "" = every one that is up */
    const char *filter;     /* of those that are found: the only ones to use, "" = all */
    const char *transports; /* UCX's names, "" = "rc" */
    unsigned port;          /* of devices named without one; 0 = the first that is up */
    int gid_index;          /* < 0: UCX's choice; the same for what follows */
    int traffic_class;
    int service_level;
} mcs_transport_rdma_t;

typedef struct mcs_transport_config {
    const char *bind_host;     /* resolved name or address whose interface carries the data; "" = every interface */
    const char *library;       /* "" = newest found, "system", or a path of libucp.so.0 */
    mcs_id_t client;           /* this process's client id, for logs and hellos */
    const char *cluster_token; /* "" = none; otherwise peers prove it in the hello (HMAC) */
    const mcs_transport_rdma_t *rdma; /* NULL = TCP alone */
    uint64_t machine;                 /* the same in all processes of one running kernel; 0 = not known */
    uint32_t max_workers;             /* workers that callers check out; 1..16, default 3 */
    uint64_t spin_ns;                 /* progress this long before sleeping */
    uint64_t connect_timeout_ns;
    const mcs_owner_ops_t *owner_ops;
    void *owner;
    mcs_transport_counters_t *counters;
    /* Asked on the calling thread of a transfer that has waited, about every 100 ms: true = give up (the client is
     * closing, or the caller was interrupted): the ranges still open end with MCS_ERR_CLOSED. NULL = never. */
    bool (*give_up)(void *arg);
    void *give_up_arg;
} mcs_transport_config_t;

typedef struct mcs_transport mcs_transport_t;

/* Memory that transfers will use. */
typedef enum mcs_exposure {
    MCS_EXPOSED_AHEAD,   /* a caller's buffer: registered at once, in the background */
    MCS_EXPOSED_BY_USE,  /* the same, in pieces when they are first used */
    MCS_EXPOSED_LOCALLY, /* a segment: in pieces when they are first used, and no peer gets its key */
    MCS_EXPOSED_DEVICE,  /* a caller's device memory, open to RDMA devices: as the first, and no processor touches it */
} mcs_exposure_t;

/* One piece of one extent. Pieces of more than MCS_RANGE_MAX bytes are split by the caller at multiples of
 * MCS_CRC_BLOCK. */
#define MCS_RANGE_MAX (UINT64_C(8) << 20)
typedef struct mcs_range {
    mcs_access_t access;
    const struct iovec *iov; /* caller's memory; lengths sum to access.len; any alignment; stays valid until return */
    uint32_t iov_count;      /* 1..MCS_RANGE_IOV_MAX */
    bool device; /* of a device, exposed as such: goes by RDMA alone, or what cannot does not: MCS_ERR_NOT_SUPPORTED */
    bool sent;   /* out, of a device: some of it has been asked for or sent */
    uint32_t *crcs; /* one CRC32C for each block that starts in the range.
                       store: out, of the bytes that were sent (NULL: not wanted); of a device's: in.
                       fetch: out, from the owner; the caller verifies the blocks it read whole, */
    uint32_t *sums; /* fetch: with these, out: of the bytes that arrived of each such block, made as they were copied.
                       NULL: not wanted; a device's are made by nobody here */
    uint32_t crc_count;
    mcs_status_t status; /* out, always set */
} mcs_range_t;
#define MCS_RANGE_IOV_MAX 4096

typedef enum mcs_direction { MCS_FETCH, MCS_STORE } mcs_direction_t;

/* All ranges of one owner in one call. */
typedef struct mcs_transfer {
    mcs_id_t owner; /* the owner's client id: the key of the endpoint cache */
    const mcs_endpoint_t *endpoint;
    mcs_direction_t direction;
    mcs_range_t *ranges;
    uint32_t range_count; /* any number; sent in messages of at most 1024 ranges and 16 MiB */
} mcs_transfer_t;

typedef struct mcs_transport_ops {
    const char *name; /* "ucx" */
    mcs_status_t (*open)(const mcs_transport_config_t *config, mcs_transport_t **transport_out);
    /* Waits for callers inside transfer to leave (they fail with MCS_ERR_CLOSED), stops serving, frees. NULL is fine.
     */
    void (*close)(mcs_transport_t *transport);
    void (*describe)(const mcs_transport_t *transport, mcs_transport_info_t *info_out);
    /* Runs all transfers at once and returns when every range has its status: MCS_OK, the owner's refusal,
     * MCS_ERR_TRANSFER_FAIL (peer unreachable or died), or MCS_ERR_RPC_TIMEOUT at the deadline. On return no buffer of
     * the caller is written or read any more, whatever happened (a worker with receives that cannot be cancelled is
     * torn down first). The return value is MCS_OK, or why nothing could be started (ranges then carry it too). */
    mcs_status_t (*transfer)(mcs_transport_t *transport, mcs_transfer_t *transfers, uint32_t count,
                             uint64_t deadline_ns);
    /* A hint: connect in the background, return at once. */
    void (*connect)(mcs_transport_t *transport, mcs_id_t owner, const mcs_endpoint_t *endpoint);
    /* The owner is gone: close its endpoints when idle. */
    void (*forget)(mcs_transport_t *transport, mcs_id_t owner);
    /* A hint: what is not registered with devices is moved all the same. The memory stays mapped until it is concealed,
     * or the transport closed; conceal does not wait for anybody. Both may be called by any thread. */
    void (*expose)(mcs_transport_t *transport, void *base, uint64_t len, mcs_exposure_t how);
    void (*conceal)(mcs_transport_t *transport, const void *base);
    /* Has this side what ranges of device memory take (mcs_range_t.device): are `len` bytes, of which the first is the
     * payload's byte `from`, all registered, in not too many places? False for want of time, too. Any thread. */
    bool (*reaches)(mcs_transport_t *transport, const struct iovec *iov, uint64_t from, uint64_t len);
} mcs_transport_ops_t;

#endif
