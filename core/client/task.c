/* See task.h.
 *
 * A batch of tasks: fetch (the master reserves their targets for us), pin the sources, which lie in our own segments,
 * store them to the targets straight from there, tell what became of each. It is a put whose value is in a segment: the
 * same registration of reservations (inflight.h, rule 5), the same moves, the same deadlines (rule 6). The pin keeps
 * the source's bytes where they are (rule 3), whatever becomes of the object meanwhile.
 *
 * The checksums that the stores made of the bytes are compared with those of the source before the commit: a source
 * that has decayed is not copied (rule 4). */
#include "core/client/task.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/client/read.h"

#define AREA        "tasks"
#define ARENA_CHUNK ((size_t)16384)
#define ARENA_MAX   ((size_t)64 << 20)
#define MAP_MS      1000
#define RETRY_MS    200 /* after a fetch or an end that failed */

struct mcs_tasks {
    mcs_client_t *client;
    mcs_event_t wake;
    uint32_t wanted;  /* atomic: ask the master */
    uint32_t stop;    /* atomic, set under the lock */
    mcs_mutex_t lock; /* MCS_RANK_CLIENT_KEYS: guards what follows */
    mcs_thread_t thread;
    bool started;
};

typedef struct item {
    mcs_id_t id;
    mcs_key_t key;
    uint64_t payload_len;
    uint64_t put_id;
    uint64_t deadline_ns;
    mcs_col_replica_t source;
    const mcs_col_replica_t *targets; /* in the arena */
    size_t target_count;
    mcs_pin_t pin;
    bool pinned;
    struct iovec payload;
    mcs_move_t *moves; /* one per target */
    uint32_t *crcs;    /* of what was written, target by target */
    bool in_doubt;
    mcs_status_t status;
} item_t;

typedef struct batch {
    mcs_client_t *client;
    mcs_arena_t arena;
    item_t items[MCS_TASK_BATCH];
    size_t count;
    uint64_t *generations;
    size_t generation_count;
    mcs_id_t session;
    bool more;
} batch_t;

/* ---- fetch ---- */

static bool is_sane(const Mcs__Wire__TaskAssignment *task)
{
    size_t targets;
    return task->id != NULL && task->key.len > 0 && task->key.len <= MCS_KEY_MAX && task->payload_len > 0 &&
           task->payload_len <= MCS_OBJECT_MAX && task->source.len == sizeof(mcs_col_replica_t) && task->put_id != 0 &&
           mcs_column_count(task->targets.len, sizeof(mcs_col_replica_t), MCS_REPLICAS_MAX, &targets) == MCS_OK &&
           targets > 0;
}

static mcs_status_t take_item(batch_t *batch, const Mcs__Wire__TaskAssignment *task, uint64_t sent_ns)
{
    item_t *item = &batch->items[batch->count];
    memset(item, 0, sizeof(*item));
    char *key = mcs_arena_alloc(&batch->arena, task->key.len);
    mcs_col_replica_t *targets = mcs_arena_alloc(&batch->arena, task->targets.len);
    if (key == NULL || targets == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    memcpy(key, task->key.data, task->key.len);
    memcpy(targets, task->targets.data, task->targets.len);
    memcpy(&item->source, task->source.data, sizeof(item->source));
    item->id = (mcs_id_t){task->id->hi, task->id->lo};
    item->key = (mcs_key_t){key, (uint32_t)task->key.len};
    item->payload_len = task->payload_len;
    item->put_id = task->put_id;
    item->deadline_ns = sent_ns + task->deadline_ms * MCS_NS_PER_MS;
    item->targets = targets;
    item->target_count = task->targets.len / sizeof(*targets);
    item->status = MCS_ERR_AGAIN;
    for (size_t i = 0; i < item->target_count; i++) {
        batch->generations[batch->generation_count++] = targets[i].generation;
    }
    batch->count++;
    return MCS_OK;
}

static mcs_status_t take_reply(batch_t *batch, const mcs_call_t *call, const Mcs__Wire__FetchTasksReply *reply)
{
    mcs_status_t status = reply->n_tasks <= MCS_TASK_BATCH ? MCS_OK : MCS_ERR_PROTOCOL;
    for (size_t i = 0; status == MCS_OK && i < reply->n_tasks; i++) {
        status = is_sane(reply->tasks[i]) ? take_item(batch, reply->tasks[i], call->sent_ns) : MCS_ERR_PROTOCOL;
    }
    if (status != MCS_OK) {
        /* Nothing was written: the reservations run into their deadline. */
        mcs_error(AREA, "fetch_tasks: %s", mcs_status_name(status));
        batch->count = 0;
        return status;
    }
    batch->session = call->session;
    batch->more = reply->more != 0;
    return MCS_OK;
}

static mcs_status_t fetch(batch_t *batch)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__FetchTasks request = MCS__WIRE__FETCH_TASKS__INIT;
    batch->generations =
        mcs_arena_alloc(&batch->arena, MCS_TASK_BATCH * MCS_REPLICAS_MAX * sizeof(*batch->generations));
    if (batch->generations == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    request.sequence = &sequence;
    request.max = MCS_TASK_BATCH;
    request.idle = true; /* one batch is ended before the next is asked for */
    mcs_call_t call = {.verb = MCS_VERB_FETCH_TASKS,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__fetch_tasks_reply__descriptor,
                       .flags = MCS_CALL_NO_INTERRUPT};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(batch->client->link, &call, &reply);
    if (status == MCS_OK) {
        status = take_reply(batch, &call, (const Mcs__Wire__FetchTasksReply *)(const void *)reply.message);
    }
    mcs_reply_fini(&reply);
    return status;
}

/* ---- write ---- */

/* The source's bytes stay where they are from now on. */
static mcs_status_t pin_source(batch_t *batch, mcs_routes_t *routes, item_t *item)
{
    const mcs_route_t *route = mcs_routes_find(routes, item->source.segment);
    if (route == NULL || route->peer == NULL || !route->peer->own) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    const mcs_peer_t *peer = route->peer;
    mcs_mapper_peer_t wanted = {.owner = peer->owner, .instance = peer->instance, .size = peer->size, .ipc_path = ""};
    mcs_mapping_t *mapping;
    mcs_status_t status = mcs_mapper_get(batch->client->mapper, &wanted, mcs_deadline_after_ms(MAP_MS), &mapping);
    if (status != MCS_OK) {
        return MCS_ERR_REPLICA_IS_GONE; /* that segment was unmounted */
    }
    status = mcs_pin_read(mapping, item->source.offset, item->source.generation, item->payload_len,
                          mcs_extent_key_hash(item->key.bytes, item->key.len), &item->pin);
    item->pinned = status == MCS_OK;
    mcs_mapping_put(mapping);
    return status;
}

static mcs_status_t plan_item(batch_t *batch, mcs_routes_t *routes, item_t *item, mcs_move_t *moves)
{
    size_t blocks = (size_t)mcs_extent_block_count(item->payload_len);
    item->crcs = mcs_arena_alloc(&batch->arena, item->target_count * blocks * sizeof(*item->crcs));
    if (item->crcs == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = pin_source(batch, routes, item);
    if (status != MCS_OK) {
        return status;
    }
    item->moves = moves;
    item->payload = (struct iovec){item->pin.payload, (size_t)item->payload_len};
    for (size_t i = 0; i < item->target_count; i++) {
        moves[i] = (mcs_move_t){
            .route = mcs_routes_find(routes, item->targets[i].segment),
            .replica = &item->targets[i],
            .session = batch->session,
            .payload_len = item->payload_len,
            .len = item->payload_len,
            .key_hash = mcs_extent_key_hash(item->key.bytes, item->key.len),
            .iov = &item->payload,
            .iov_count = 1,
            .crcs = item->crcs + i * blocks,
        };
    }
    return MCS_OK;
}

/* Have all targets the bytes that the source's writer wrote? */
static bool is_true_copy(const item_t *item)
{
    size_t blocks = (size_t)mcs_extent_block_count(item->payload_len);
    for (size_t i = 0; i < item->target_count; i++) {
        if (memcmp(item->crcs + i * blocks, mcs_pin_crcs(&item->pin), blocks * sizeof(*item->crcs)) != 0) {
            return false;
        }
    }
    return true;
}

/* What the stores of a task amount to; lets go of its source. */
static void judge(batch_t *batch, item_t *item)
{
    mcs_inflight_t *inflight = mcs_session_inflight(batch->client->session);
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; i < item->target_count; i++) {
        const mcs_move_t *move = &item->moves[i];
        if (move->in_doubt) {
            item->in_doubt = true;
            mcs_put_round_doubt(inflight, move->replica->generation);
        }
        if (move->status != MCS_OK) {
            /* The transport's deadline is a failed transfer; what the master calls a timeout is its own. */
            status = move->status == MCS_ERR_RPC_TIMEOUT ? MCS_ERR_TRANSFER_FAIL : move->status;
            mcs_debug(AREA, "replica in segment %s not written: %s",
                      move->route->peer != NULL ? move->route->peer->name : "unknown", mcs_status_name(status));
        }
    }
    if (status == MCS_OK && !is_true_copy(item)) {
        status = MCS_ERR_CHECKSUM_MISMATCH;
        mcs_count(&batch->client->counters, crc_errors, 1);
        mcs_error(AREA, "replica of %llu bytes in our segment: %s", (unsigned long long)item->payload_len,
                  mcs_status_name(status));
    }
    mcs_unpin(&item->pin);
    item->pinned = false;
    item->status = status;
}

static mcs_status_t add_routes(batch_t *batch, mcs_routes_t *routes)
{
    mcs_status_t status = MCS_OK;
    for (size_t i = 0; status == MCS_OK && i < batch->count; i++) {
        const item_t *item = &batch->items[i];
        status = mcs_routes_add(routes, &item->source, 1, MCS_CALL_NO_INTERRUPT);
        if (status == MCS_OK) {
            status = mcs_routes_add(routes, item->targets, item->target_count, MCS_CALL_NO_INTERRUPT);
        }
    }
    return status;
}

/* Sets the status of every item. */
static void write_all(batch_t *batch, mcs_routes_t *routes)
{
    mcs_move_t *moves = mcs_arena_zalloc(&batch->arena, batch->generation_count * sizeof(*moves));
    mcs_status_t status = moves != NULL ? add_routes(batch, routes) : MCS_ERR_NO_MEMORY;
    uint64_t bytes = 0;
    uint64_t deadline_ns = MCS_NEVER;
    size_t count = 0;
    for (size_t i = 0; i < batch->count; i++) {
        item_t *item = &batch->items[i];
        item->status = status == MCS_OK ? plan_item(batch, routes, item, moves + count) : status;
        if (item->status == MCS_OK) {
            count += item->target_count;
            bytes += item->payload_len * item->target_count;
            deadline_ns = MCS_MIN(deadline_ns, item->deadline_ns);
        }
    }
    if (count > 0) {
        deadline_ns = MCS_MIN(deadline_ns, mcs_client_transfer_deadline(batch->client, bytes));
        mcs_moves_run(batch->client, MCS_STORE, moves, count, deadline_ns, &batch->arena);
    }
    for (size_t i = 0; i < batch->count; i++) {
        if (batch->items[i].pinned) {
            judge(batch, &batch->items[i]);
        }
    }
}

/* ---- end ---- */

static void report(const batch_t *batch, const Mcs__Wire__StatusColumn *column)
{
    for (size_t i = 0; i < batch->count && (i + 1) * sizeof(int32_t) <= column->statuses.len; i++) {
        const item_t *item = &batch->items[i];
        mcs_status_t told = (mcs_status_t)mcs_column_i32(&column->statuses, i);
        mcs_status_t status = item->status != MCS_OK ? item->status : told;
        if (status == MCS_OK) {
            mcs_count(&batch->client->counters, tasks_done, 1);
        } else {
            mcs_count(&batch->client->counters, task_failures, 1);
            mcs_debug(AREA, "task %llu-%llu: %s", (unsigned long long)item->id.hi, (unsigned long long)item->id.lo,
                      mcs_status_name(status));
        }
    }
}

static mcs_status_t end_all(const batch_t *batch)
{
    mcs_col_task_end_t records[MCS_TASK_BATCH];
    for (size_t i = 0; i < batch->count; i++) {
        const item_t *item = &batch->items[i];
        records[i] = (mcs_col_task_end_t){.id_hi = item->id.hi,
                                          .id_lo = item->id.lo,
                                          .put_id = item->put_id,
                                          .status = (int32_t)item->status,
                                          .flags = item->in_doubt ? MCS_TASK_IN_DOUBT : 0};
    }
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__EndTasks request = MCS__WIRE__END_TASKS__INIT;
    request.sequence = &sequence;
    request.records = (ProtobufCBinaryData){batch->count * sizeof(records[0]), (uint8_t *)records};
    mcs_call_t call = {.verb = MCS_VERB_END_TASKS,
                       .request = &request.base,
                       .sequence = &sequence,
                       .reply_type = &mcs__wire__status_column__descriptor,
                       .flags = MCS_CALL_NO_INTERRUPT};
    mcs_reply_t reply;
    mcs_status_t status = mcs_link_call(batch->client->link, &call, &reply);
    if (status == MCS_OK) {
        report(batch, (const Mcs__Wire__StatusColumn *)(const void *)reply.message);
    } else {
        mcs_debug(AREA, "end of %zu tasks: %s", batch->count, mcs_status_name(status));
    }
    mcs_reply_fini(&reply);
    return status;
}

/* MCS_OK: there may be more. MCS_ERR_AGAIN: there is nothing more to do now. Others: to be tried again, later. */
static mcs_status_t run_batch(mcs_client_t *client)
{
    mcs_inflight_t *inflight = mcs_session_inflight(client->session);
    batch_t *batch = MCS_NEW(batch_t);
    if (batch == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_put_round_t round;
    batch->client = client;
    mcs_arena_init(&batch->arena, ARENA_CHUNK, ARENA_MAX);
    mcs_put_round_begin(inflight, &round);
    mcs_status_t status = fetch(batch);
    mcs_put_round_known(inflight, &round, batch->generations, status == MCS_OK ? batch->generation_count : 0);
    if (status == MCS_OK && batch->count > 0) {
        mcs_routes_t routes;
        mcs_routes_init(&routes, client);
        write_all(batch, &routes);
        status = end_all(batch);
        mcs_routes_fini(&routes);
    }
    mcs_put_round_end(inflight, &round);
    if (status == MCS_OK && !batch->more && batch->count == 0) {
        status = MCS_ERR_AGAIN;
    }
    mcs_arena_fini(&batch->arena);
    mcs_free(batch);
    return status;
}

/* ---- the thread ---- */

static bool stopping(const mcs_tasks_t *tasks)
{
    return __atomic_load_n(&tasks->stop, __ATOMIC_ACQUIRE) != 0 || mcs_client_is_cancelled(tasks->client);
}

static void tasks_main(void *arg)
{
    mcs_tasks_t *tasks = arg;
    while (!stopping(tasks)) {
        uint64_t next_ns = mcs_client_drop_drained(tasks->client);
        if (__atomic_exchange_n(&tasks->wanted, 0, __ATOMIC_ACQ_REL) != 0) {
            mcs_status_t status = MCS_OK;
            while (!stopping(tasks) && status == MCS_OK) {
                status = run_batch(tasks->client);
            }
            if (status == MCS_ERR_AGAIN) {
                continue;
            }
            __atomic_store_n(&tasks->wanted, 1, __ATOMIC_RELEASE); /* the master may wait for what we have lost */
            next_ns = MCS_MIN(next_ns, mcs_deadline_after_ms(RETRY_MS));
        }
        (void)mcs_event_wait(&tasks->wake, next_ns);
    }
}

static void wake(mcs_tasks_t *tasks)
{
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&tasks->lock);
    if (!tasks->started && __atomic_load_n(&tasks->stop, __ATOMIC_RELAXED) == 0) {
        status = mcs_thread_start(&tasks->thread, "mcs-tasks", tasks_main, tasks);
        tasks->started = status == MCS_OK;
    }
    mcs_mutex_unlock(&tasks->lock);
    if (status != MCS_OK) {
        mcs_warn(AREA, "no thread for tasks: %s", mcs_status_name(status));
    }
    mcs_event_set(&tasks->wake);
}

void mcs_tasks_wanted(void *arg)
{
    mcs_tasks_t *tasks = arg;
    __atomic_store_n(&tasks->wanted, 1, __ATOMIC_RELEASE);
    wake(tasks);
}

void mcs_tasks_look(mcs_tasks_t *tasks)
{
    wake(tasks);
}

mcs_status_t mcs_tasks_create(mcs_client_t *client, mcs_tasks_t **tasks_out)
{
    mcs_tasks_t *tasks = MCS_NEW(mcs_tasks_t);
    if (tasks == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = mcs_event_init(&tasks->wake);
    if (status != MCS_OK) {
        mcs_free(tasks);
        return status;
    }
    tasks->client = client;
    mcs_mutex_init(&tasks->lock, MCS_RANK_CLIENT_KEYS, "tasks");
    *tasks_out = tasks;
    return MCS_OK;
}

void mcs_tasks_stop(mcs_tasks_t *tasks)
{
    if (tasks == NULL) {
        return;
    }
    mcs_mutex_lock(&tasks->lock);
    __atomic_store_n(&tasks->stop, 1, __ATOMIC_RELEASE);
    mcs_mutex_unlock(&tasks->lock);
    mcs_event_set(&tasks->wake);
    mcs_thread_join(&tasks->thread);
}

void mcs_tasks_destroy(mcs_tasks_t *tasks)
{
    if (tasks == NULL) {
        return;
    }
    mcs_mutex_fini(&tasks->lock);
    mcs_event_fini(&tasks->wake);
    mcs_free(tasks);
}
