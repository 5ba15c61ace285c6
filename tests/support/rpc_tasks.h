/* The verbs of tasks for rpc_client.h: a client that makes tasks, and one that plays their executor. */
#ifndef MCS_TESTS_RPC_TASKS_H
#define MCS_TESTS_RPC_TASKS_H

#include "tests/support/rpc_client.h"

/* `targets` ends with NULL. */
mcs_status_t rpc_copy_task(rpc_client_t *client, const char *key, const char *const *targets, mcs_id_t *id_out);
mcs_status_t rpc_move_task(rpc_client_t *client, const char *key, const char *source, const char *target,
                           mcs_id_t *id_out);

typedef struct rpc_task_info {
    uint32_t type;
    uint32_t status;
    uint64_t created_ms;
    uint64_t updated_ms;
    mcs_id_t client;
    char message[128];
} rpc_task_info_t;
mcs_status_t rpc_query_task(rpc_client_t *client, mcs_id_t id, rpc_task_info_t *info_out);
/* The status of a task that there is. */
uint32_t rpc_task_status(rpc_client_t *client, mcs_id_t id);

typedef struct rpc_task {
    mcs_id_t id;
    uint32_t type;
    char key[128];
    uint64_t payload_len;
    uint64_t put_id;
    uint32_t deadline_ms;
    mcs_col_replica_t source;
    mcs_col_replica_t targets[MCS_REPLICAS_MAX];
    uint32_t target_count;
} rpc_task_t;
/* How many came, at most `max`. */
uint32_t rpc_fetch_tasks(rpc_client_t *client, uint32_t max, rpc_task_t *tasks);
/* The same by an executor that says that it works on nothing. */
uint32_t rpc_fetch_tasks_idle(rpc_client_t *client, uint32_t max, rpc_task_t *tasks);
/* The answer for that task. */
int32_t rpc_end_task(rpc_client_t *client, const rpc_task_t *task, mcs_status_t status, uint32_t flags);
/* Fetches and ends well what there is for the client; how many. */
uint32_t rpc_do_tasks(rpc_client_t *client);

#endif
