/* A client of the master's RPC for tests: one session with a control and a call connection over a UNIX socket, in the
 * calling thread.
 *
 * While it waits for an answer it also reads the control connection: releases are answered (or kept, auto_release =
 * false) and revocations acknowledged (auto_ack), and every notice is counted. Failures of the transport end the test.
 * Not thread-safe: one a thread. */
#ifndef MCS_TESTS_RPC_CLIENT_H
#define MCS_TESTS_RPC_CLIENT_H

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/wire/columns.h"
#include "core/wire/frame.h"
#include "core/wire/mcs.pb-c.h"

typedef struct rpc_wire {
    int fd;
    uint64_t last_id;
    mcs_buf_t in;
} rpc_wire_t;

typedef struct rpc_client {
    char path[108];
    rpc_wire_t control;
    rpc_wire_t call;
    mcs_id_t client;
    mcs_id_t session;
    uint64_t epoch;
    uint64_t seq;
    bool resumed;
    bool busy; /* waits for an answer on the control connection */
    mcs_status_t hello_status;
    char detail[400]; /* of the last refusal */
    const char *host_name;
    const char *wire;
    const char *token;    /* "" = none */
    const char *boot_id;  /* NULL = the usual */
    const char *location; /* of what is mounted next; NULL = host memory */
    /* what the notices said */
    bool auto_release;
    bool auto_ack;
    uint64_t releases;       /* records asked */
    uint64_t may_write;      /* of these, flagged */
    mcs_buf_t kept_releases; /* mcs_col_release_t not answered yet */
    mcs_buf_t checks;        /* mcs_col_check_t that the master asked about */
    mcs_buf_t revoked;       /* generations */
    mcs_buf_t forgotten;     /* generations */
    mcs_buf_t ended;         /* mcs_id_t */
    uint64_t tasks_told;     /* notices of tasks */
    /* called while it waits, once a millisecond */
    void (*idle)(void *arg);
    void *idle_arg;
} rpc_client_t;

void rpc_client_init(rpc_client_t *client, const char *path, const char *host_name);
/* Connects the control connection and says hello: a new session, or `client->session` again. Returns the master's
 * status. */
mcs_status_t rpc_client_open(rpc_client_t *client);
/* Connects the call connection (done by itself at the first call). */
mcs_status_t rpc_client_join(rpc_client_t *client);
void rpc_client_drop_control(rpc_client_t *client);
void rpc_client_drop_call(rpc_client_t *client);
void rpc_client_fini(rpc_client_t *client);
/* A new client with a session. */
void rpc_client_start(rpc_client_t *client, const char *path, const char *host_name);

/* On the call connection, or the control connection. Returns the status; *reply_out (may be NULL) is the message, freed
 * by the caller. */
mcs_status_t rpc_call(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out);
mcs_status_t rpc_call_control(rpc_client_t *client, mcs_verb_t verb, const ProtobufCMessage *request,
                              const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out);
/* The halves of a call: the request's id, and the answer to it. */
uint64_t rpc_send(rpc_client_t *client, rpc_wire_t *wire, mcs_verb_t verb, const ProtobufCMessage *request);
mcs_status_t rpc_wait(rpc_client_t *client, rpc_wire_t *wire, uint64_t id, const ProtobufCMessageDescriptor *type,
                      ProtobufCMessage **reply_out);
/* Reads what the control connection has; waits up to wait_ms for something. False: it is closed. */
bool rpc_pump(rpc_client_t *client, int wait_ms);
/* Answers the releases that were kept. */
void rpc_answer_releases(rpc_client_t *client);
void rpc_say_struck(rpc_client_t *client, const uint64_t *generations, size_t count);
void rpc_say_differ(rpc_client_t *client, const mcs_col_differ_t *records, size_t count);
void rpc_ack(rpc_client_t *client, const uint64_t *generations, size_t count);

/* ---- verbs ---- */
mcs_id_t rpc_mount(rpc_client_t *client, const char *name, uint64_t size); /* must succeed */
mcs_status_t rpc_try_mount(rpc_client_t *client, const char *name, uint64_t size, mcs_id_t instance,
                           uint32_t *handle_out, mcs_mac_key_t *key_out);
/* What the session had before the master was restarted. */
mcs_status_t rpc_mount_again(rpc_client_t *client, const char *name, uint64_t size, mcs_id_t instance,
                             uint64_t high_mark);
mcs_status_t rpc_unmount(rpc_client_t *client, mcs_id_t instance);

typedef struct rpc_put {
    int32_t status;
    uint32_t replicas;
    uint64_t put_id;
    mcs_col_replica_t replica[MCS_REPLICAS_MAX];
} rpc_put_t;
typedef struct rpc_put_options {
    uint32_t replica_num; /* 0 = 1 */
    uint32_t soft_pin_action;
    bool has_soft_pin_ttl;
    uint64_t soft_pin_ttl_ms;
    bool hard_pin;
    bool upsert;
    bool same_node;
    const char *host_id;
    const char *group; /* for all keys */
    const char **preferred;
    size_t preferred_count;
    const uint32_t *excluded;
    size_t excluded_count;
    uint64_t seq; /* 0 = the next */
    uint64_t ack; /* 0 = seq */
    uint32_t data_type;
    bool zero_replicas;
} rpc_put_options_t;
mcs_status_t rpc_put_start(rpc_client_t *client, const char *const *keys, const uint64_t *sizes, size_t count,
                           const rpc_put_options_t *options, rpc_put_t *puts);
/* One key; the key's own status. */
int32_t rpc_put_one(rpc_client_t *client, const char *key, uint64_t size, const rpc_put_options_t *options,
                    rpc_put_t *put);
mcs_status_t rpc_put_end(rpc_client_t *client, const uint64_t *ids, size_t count, int32_t *statuses);
int32_t rpc_end_one(rpc_client_t *client, uint64_t id);
/* The same, asking for a spare; *spare has replicas 0 when there is none. */
int32_t rpc_end_for_spare(rpc_client_t *client, uint64_t id, uint64_t spare_len, rpc_put_t *spare);
/* `spare_len` 0: no other is asked for; `seq` 0: the next. */
int32_t rpc_put_now(rpc_client_t *client, const char *key, uint64_t id, uint64_t seq, uint64_t spare_len,
                    rpc_put_t *spare);
int32_t rpc_revoke_one(rpc_client_t *client, uint64_t id);
/* put_start and put_end. */
int32_t rpc_store(rpc_client_t *client, const char *key, uint64_t size, const rpc_put_options_t *options);
int32_t rpc_exist(rpc_client_t *client, const char *key);
typedef struct rpc_object {
    mcs_col_object_t object;
    uint32_t lease_ms;
    mcs_col_replica_t replica[MCS_REPLICAS_MAX];
} rpc_object_t;
int32_t rpc_lookup(rpc_client_t *client, const char *key, bool no_lease, rpc_object_t *out); /* out may be NULL */
int32_t rpc_remove(rpc_client_t *client, const char *key, bool force);
int64_t rpc_remove_regex(rpc_client_t *client, const char *pattern, bool force);
int64_t rpc_remove_all(rpc_client_t *client, bool force);
mcs_status_t rpc_put_wait(rpc_client_t *client, const char *key, uint32_t timeout_ms);
mcs_status_t rpc_ping(rpc_client_t *client);
mcs_status_t rpc_goodbye(rpc_client_t *client);

#endif
