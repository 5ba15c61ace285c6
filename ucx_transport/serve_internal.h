/* Shared by serve.c (thread, peers, hello) and serve_io.c (fetches, stores). Everything belongs to the serving thread.
 */
#ifndef UCXT_SERVE_INTERNAL_H
#define UCXT_SERVE_INTERNAL_H

#include "ucx_transport/auth.h"
#include "ucx_transport/counters.h"
#include "ucx_transport/serve.h"
#include "ucx_transport/ucx_calm.h"

#include "core/base/list.h"
#include "core/base/spin.h"
#include "core/base/thread.h"

#define SERVE_AREA        "serve"
#define SERVE_PEERS       1024 /* slots; a power of two */
#define SERVE_PROVING     64   /* peers that have not proved the token yet */
#define SERVE_PROVE_NS    (UINT64_C(5) * 1000000000)
#define SERVE_JOBS        16   /* fetch requests that wait, of one peer */
#define SERVE_JOBS_TOTAL  4096 /* and of all: 460 MiB of records at the very worst, 700 with places */
#define SERVE_WINDOW      4    /* frames of one peer in UCX's hands */
#define SERVE_FRAMES      256  /* and of all */
#define SERVE_FRAMES_KEPT 32   /* free ones that keep their packing buffer */
#define SERVE_NOTES       256  /* small answers of one peer in UCX's hands */
#define SERVE_REFUSALS    64   /* answers to those who are no peers */
/* A peer that takes nothing for this long is dropped; the kernel cuts its connection off at the same time, which ends
 * what is under way. */
#define SERVE_STALL_NS    (UINT64_C(10) * 1000000000)
#define SERVE_WAIT_MAX_MS 60000 /* a request is good for this long at most */

typedef enum peer_state { PEER_PROVING, PEER_READY, PEER_FAILED, PEER_CLOSING } peer_state_t;

typedef struct ucxt_peer {
    mcs_list_t active; /* in server->active while it has jobs */
    struct ucxt_server *server;
    uint64_t conn; /* ours: slot in the low bits, the rest random */
    mcs_id_t client;
    ucp_ep_h ep;
    peer_state_t state;
    bool deaf;             /* no word reaches it, or it wants none */
    bool broken;           /* UCX says that the endpoint has failed */
    bool rdma;             /* both sides have it: it may offer places */
    uint64_t address_hash; /* of the caller's worker: it has one connection to us at a time */
    ucxt_auth_t auth;      /* caller_conn goes into every message to it */
    mcs_list_t jobs;
    uint32_t job_count;
    uint32_t frames; /* in UCX's hands */
    uint32_t notes;
    uint64_t since_ns;        /* of the last frame that UCX gave back, or of the hello */
    uint64_t frames_until_ns; /* when the requests of the frames under way stop being of use */
} ucxt_peer_t;

/* The remote keys of one request; freed with the last frame that uses them. */
typedef struct serve_keys {
    const ucxt_dl_t *dl;
    uint32_t refs;
    uint32_t count;
    ucp_rkey_h rkey[UCXT_KEYS_MAX];
} serve_keys_t;

/* One request that is being answered: a fetch, or a store whose bytes are in the caller's memory. */
typedef struct serve_job {
    mcs_list_t node;
    uint64_t request;
    uint64_t deadline_ns;
    uint64_t left; /* bytes that are to be sent */
    uint32_t count;
    uint32_t next;
    bool store;
    /* With places (serve_rdma.c); in the same memory. keys == NULL: none */
    serve_keys_t *keys;
    uint32_t *first; /* stretches of piece i: first[i] .. first[i + 1] */
    ucxt_stretch_t *stretches;
    uint32_t *crcs; /* of a store's pieces */
    mcs_access_t access[];
} serve_job_t;

/* One message with payload: gathers from segments (held until UCX has sent it) and from its own packing buffer. */
typedef struct serve_frame {
    mcs_list_t node; /* in server->frames_busy or frames_free */
    ucxt_peer_t *peer;
    uint32_t hold_count;
    uint32_t iov_count;
    uint32_t piece_count;
    uint32_t packed; /* bytes used of pack */
    uint64_t bytes;
    mcs_hold_t holds[UCXT_FRAME_IOVS];
    ucp_dt_iov_t iov[1 + UCXT_FRAME_IOVS];
    uint8_t *pack; /* UCXT_PACK_BYTES, NULL until needed */
    /* Moved by RDMA (serve_rdma.c) before the message is sent. */
    bool rdma; /* its holds are of that */
    bool store;
    serve_keys_t *keys;
    bool failed;
    uint32_t ops;                         /* in UCX's hands */
    unsigned half;                        /* of the regions' users */
    uint32_t hold_piece[UCXT_FRAME_IOVS]; /* a store's: index of its record */
    uint32_t hold_crc[UCXT_FRAME_IOVS];
    uint64_t hold_len[UCXT_FRAME_IOVS];
    uint8_t head[UCXT_HEADER + UCXT_FRAME_PIECES * UCXT_PIECE];
} serve_frame_t;

/* A small answer. */
typedef struct serve_note {
    mcs_list_t node;   /* in server->notes_busy */
    ucxt_peer_t *peer; /* NULL: to somebody who is none */
    struct ucxt_server *server;
    ucp_dt_iov_t iov;
    uint8_t bytes[];
} serve_note_t;

struct ucxt_server {
    ucxt_server_config_t config;
    ucxt_worker_t worker;
    mcs_endpoint_t endpoint;
    ucxt_listeners_t listeners;
    ucxt_calm_t calm;
    mcs_event_t wake;
    mcs_thread_t thread;
    uint32_t stop; /* atomic */
    ucxt_peer_t *peers[SERVE_PEERS];
    uint32_t peer_count;
    uint32_t proving_count;
    uint32_t failed_count; /* peers to be taken down */
    uint32_t refusals;
    uint32_t job_count;
    mcs_list_t active;
    mcs_list_t frames_free;
    mcs_list_t frames_busy;
    mcs_list_t notes_busy;
    uint32_t frame_count;
    uint32_t frames_kept;
    uint64_t timers_ns;   /* when they were looked at last */
    mcs_spin_t spin;      /* whether polling for peers pays */
    mcs_spin_wait_t wait; /* while `waiting` */
    bool waiting;
    bool bytes_coming; /* of some job, from a device: asked for again soon */
};

/* serve.c */
/* Takes the peer down later, outside UCX's callbacks. */
void ucxt_peer_fail(ucxt_peer_t *peer, const char *why);
/* A message of `body_len` bytes of body (copied) to a peer; `header` gets the peer's connection. A peer that has too
 * many under way is failed. */
void ucxt_peer_answer(ucxt_peer_t *peer, ucxt_header_t header, const void *body, size_t body_len);

/* serve_io.c */
void ucxt_serve_fetch(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len);
void ucxt_serve_store(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len);
/* Sends what the windows allow, a frame a peer in turn. True when something was sent. */
bool ucxt_serve_pump(struct ucxt_server *server);
void ucxt_serve_drop_jobs(ucxt_peer_t *peer);
/* Puts the job at the end of the peer's. */
void ucxt_serve_queue(ucxt_peer_t *peer, serve_job_t *job);
/* Sum of the lengths that the records name; 0 when one of them is bad. */
uint64_t ucxt_serve_check_records(const uint8_t *records, uint32_t count);
void ucxt_serve_refuse(ucxt_peer_t *peer, uint64_t request, mcs_status_t status);
void ucxt_serve_log(const ucxt_peer_t *peer, const ucxt_header_t *header, const char *what, uint64_t bytes);
/* Room among all that wait? */
bool ucxt_serve_has_room(const ucxt_peer_t *peer);
/* MCS_ERR_INVALID_WRITE: a piece that is not of whole units. */
mcs_status_t ucxt_serve_write_begin(struct ucxt_server *server, const mcs_access_t *access, mcs_hold_t *hold_out);
/* A fetch's: its bytes are not read any more. */
void ucxt_serve_end_reads(struct ucxt_server *server, serve_frame_t *frame);
/* The frame is through with UCX: it goes, with its holds. */
void ucxt_serve_frame_over(serve_frame_t *frame, bool ok);
void ucxt_serve_frame_send(serve_frame_t *frame);

/* serve_rdma.c */
void ucxt_serve_rdma(ucxt_peer_t *peer, const ucxt_header_t *header, const uint8_t *body, size_t len);
/* Does the job's next piece go by RDMA? */
bool ucxt_rdma_is_next(const serve_job_t *job);
/* Takes pieces from the job, as many as go in one go. The frame has none when their bytes are not there yet. */
void ucxt_rdma_fill(struct ucxt_server *server, serve_frame_t *frame, serve_job_t *job);
/* Starts what was filled; the frame goes on by itself. */
void ucxt_rdma_start(serve_frame_t *frame, const serve_job_t *job, uint32_t from);
/* Ends what it holds; for frames whose operations UCX will not end any more. */
void ucxt_rdma_abandon(serve_frame_t *frame);
/* Before the worker goes, whose they are. */
void ucxt_rdma_drop_keys(struct ucxt_server *server);
void ucxt_rdma_keys_put(serve_keys_t *keys);
/* After the worker is gone: ends holds and frees. */
void ucxt_serve_free_frames(struct ucxt_server *server);

#endif
