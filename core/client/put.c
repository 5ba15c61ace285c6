/* Puts: see mcstore.h for what they promise.
 *
 *   check, find double keys
 *   repeat:
 *     rounds over what is to be started: put_start, write all replicas of all keys at once, put_end and put_revoke
 *     wait for one of the keys that somebody else is putting, then start those again
 *
 * A call with one plain object may have a spare (spare.h): the first round writes to it and sends put_now instead of
 * both requests. What put_now does not take is put by rounds like the others.
 *
 * A key is committed only when every replica of it was written (rule 1); what was not is revoked and, once, put again
 * with the segments that could not be written excluded (rule 7). A put that meets another's open reservation finishes
 * the rest of its batch before it waits, so two batches with the same keys in different order cannot wait for each
 * other. So does one whose reservation was revoked under it, because an upsert pre-empted it: it waits for that outcome
 * before it reserves again, and of many upserts of one key the last is left alone and commits. Between the first byte
 * of a request for reservations and the last access under one the round is registered with inflight.h (rule 5). Nothing
 * is written past a reservation's deadline (rule 6). */
#include "core/client/put.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/client/interrupt.h"
#include "core/client/lookup_cache.h"

#define AREA        "client"
#define ARENA_CHUNK ((size_t)16384)
#define ARENA_MAX   ((size_t)1 << 30)
#define TRIES       2     /* rounds for a key whose replicas could not be written */
#define OVERTAKEN   32    /* rounds for a key whose reservation is revoked each time */
#define WAIT_MS     10000 /* for another's reservation, and never more than the RPC timeout */
#define WAIT_SLICE  1000

/* ---- the items ---- */

static mcs_status_t check_item(mcs_put_call_t *call, mcs_put_item_t *item, mcs_bytes_t key, unsigned flags)
{
    mcs_client_t *client = call->client;
    mcs_status_t status = mcs_key_take(key, &item->key);
    if (status == MCS_OK) {
        status = mcs_iov_total(item->value->iov, item->value->iov_count, MCS_OBJECT_MAX, &item->size);
    }
    if (status == MCS_OK && item->size == 0) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    /* The documented rule for values that the original stages; nothing is staged here. */
    if (status == MCS_OK && (flags & MCS_PUT_STAGED) != 0 && item->size > mcs_bufpool_size(client->pool)) {
        mcs_error(AREA, "put: a value of %llu bytes does not fit the local buffer of %llu: %s",
                  (unsigned long long)item->size, (unsigned long long)mcs_bufpool_size(client->pool),
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        status = MCS_ERR_INVALID_PARAMS;
    }
    return status;
}

static void finish(mcs_put_item_t *item, mcs_status_t status)
{
    item->state = MCS_PUT_DONE;
    item->status = status;
}

static bool same_key(const mcs_put_item_t *a, const mcs_put_item_t *b)
{
    return a->key_hash.lo == b->key_hash.lo && a->key_hash.hi == b->key_hash.hi && a->key.len == b->key.len &&
           memcmp(a->key.bytes, b->key.bytes, a->key.len) == 0;
}

/* Marks keys that stand in the call before. Open addressing over the items that are TODO; entries are index + 1. */
static mcs_status_t find_same(mcs_put_call_t *call)
{
    if (call->count < 2) {
        return MCS_OK;
    }
    size_t capacity = 4;
    while (capacity < call->count * 2) {
        capacity *= 2;
    }
    size_t *table = MCS_NEW_ARRAY(size_t, capacity);
    if (table == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < call->count; i++) {
        mcs_put_item_t *item = &call->items[i];
        if (item->state != MCS_PUT_TODO) {
            continue;
        }
        size_t at = (size_t)item->key_hash.lo & (capacity - 1);
        while (table[at] != 0 && !same_key(&call->items[table[at] - 1], item)) {
            at = (at + 1) & (capacity - 1);
        }
        if (table[at] == 0) {
            table[at] = i + 1;
        } else {
            item->state = MCS_PUT_SAME;
            item->first = table[at] - 1;
        }
    }
    mcs_free(table);
    return MCS_OK;
}

static mcs_status_t prepare(mcs_put_call_t *call, const mcs_bytes_t *keys, const mcs_value_t *values, unsigned flags)
{
    for (size_t i = 0; i < call->count; i++) {
        mcs_put_item_t *item = &call->items[i];
        item->index = i;
        item->value = &values[i];
        mcs_status_t status = check_item(call, item, keys[i], flags);
        if (status != MCS_OK) {
            finish(item, status);
            continue;
        }
        item->state = MCS_PUT_TODO;
        item->key_hash = mcs_extent_key_hash(item->key.bytes, item->key.len);
    }
    return find_same(call);
}

/* ---- one round ---- */

/* Takes items that are to be started, from *next on, as many as one request may carry. */
static void pick_round(mcs_put_call_t *call, size_t *next)
{
    size_t bytes = 0;
    call->round_count = 0;
    for (; *next < call->count && call->round_count < MCS_BATCH_KEYS; (*next)++) {
        mcs_put_item_t *item = &call->items[*next];
        if (item->state != MCS_PUT_TODO) {
            continue;
        }
        size_t group = call->config != NULL && call->config->group_ids != NULL ? call->config->group_ids[*next].len : 0;
        bytes += item->key.len + group;
        if (bytes > MCS_BATCH_KEY_BYTES && call->round_count > 0) {
            return;
        }
        call->round[call->round_count++] = item;
    }
}

static mcs_status_t plan_item(mcs_put_call_t *call, mcs_routes_t *routes, mcs_put_item_t *item, mcs_move_t *moves)
{
    mcs_status_t status = mcs_routes_add(routes, item->replicas, item->replica_count, 0);
    if (status != MCS_OK) {
        return status;
    }
    item->moves = moves;
    for (uint32_t i = 0; i < item->replica_count; i++) {
        moves[i] = (mcs_move_t){
            .replica = &item->replicas[i],
            .session = call->session,
            .payload_len = item->size,
            .len = item->size,
            .key_hash = item->key_hash,
            .iov = item->value->iov,
            .iov_count = item->value->iov_count,
            .status = MCS_ERR_AGAIN,
        };
    }
    return MCS_OK;
}

/* Moves for every replica of every open item. An item that cannot be planned keeps moves == NULL. */
static mcs_status_t plan_moves(mcs_put_call_t *call, mcs_routes_t *routes, mcs_move_t *moves, size_t *count_out,
                               uint64_t *bytes_out, uint64_t *deadline_out)
{
    size_t count = 0;
    uint64_t bytes = 0;
    uint64_t deadline_ns = MCS_NEVER;
    for (size_t i = 0; i < call->round_count; i++) {
        mcs_put_item_t *item = call->round[i];
        item->moves = NULL;
        if (item->state != MCS_PUT_OPEN) {
            continue;
        }
        mcs_status_t status = plan_item(call, routes, item, moves + count);
        if (status != MCS_OK) {
            item->moves = NULL;
            return status;
        }
        count += item->replica_count;
        bytes += item->size * item->replica_count;
        deadline_ns = MCS_MIN(deadline_ns, item->deadline_ns);
    }
    /* Only now: routes move when more are added. */
    for (size_t i = 0; i < count; i++) {
        moves[i].route = mcs_routes_find(routes, moves[i].replica->segment);
    }
    *count_out = count;
    *bytes_out = bytes;
    *deadline_out = deadline_ns;
    return MCS_OK;
}

static mcs_status_t write_all(mcs_put_call_t *call, mcs_routes_t *routes, size_t replica_count)
{
    if (call->interrupted) {
        return MCS_ERR_INTERRUPTED;
    }
    mcs_move_t *moves = mcs_arena_zalloc(&call->arena, replica_count * sizeof(*moves));
    if (moves == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    size_t count;
    uint64_t bytes;
    uint64_t deadline_ns;
    mcs_status_t status = plan_moves(call, routes, moves, &count, &bytes, &deadline_ns);
    if (status == MCS_OK && count > 0) {
        deadline_ns = MCS_MIN(deadline_ns, mcs_client_transfer_deadline(call->client, bytes));
        mcs_moves_run(call->client, MCS_STORE, moves, count, deadline_ns, &call->arena);
    }
    return status;
}

static void exclude(mcs_put_call_t *call, uint32_t handle)
{
    for (size_t i = 0; i < call->wire.n_excluded_segments; i++) {
        if (call->excluded[i] == handle) {
            return;
        }
    }
    if (call->wire.n_excluded_segments < MCS_EXCLUDED_MAX) {
        call->excluded[call->wire.n_excluded_segments++] = handle;
    }
}

/* Whether another place may do better, and which segment is to be left out then. */
static bool blames_segment(mcs_status_t status)
{
    return status != MCS_ERR_REPLICA_IS_GONE && status != MCS_ERR_SESSION_ENDED;
}

static bool ends_call(mcs_status_t status)
{
    return status == MCS_ERR_CLOSED || status == MCS_ERR_INTERRUPTED;
}

/* What the moves of an item amount to. Marks what is in doubt. */
static mcs_status_t judge(mcs_put_call_t *call, mcs_inflight_t *inflight, mcs_put_item_t *item)
{
    mcs_status_t result = MCS_OK;
    item->in_doubt = false;
    item->of_caller = false;
    for (uint32_t i = 0; i < item->replica_count; i++) {
        const mcs_move_t *move = &item->moves[i];
        if (move->in_doubt) {
            item->in_doubt = true;
            mcs_put_round_doubt(inflight, move->replica->generation);
        }
        if (move->status == MCS_OK || ends_call(result) || item->of_caller) {
            continue;
        }
        result = move->status;
        item->of_caller = move->of_caller;
        if (blames_segment(result) && !ends_call(result) && !move->of_caller && !move->spoiled) {
            exclude(call, move->replica->segment);
        }
        mcs_debug(AREA, "replica in segment %s not written: %s",
                  move->route != NULL && move->route->peer != NULL ? move->route->peer->name : "unknown",
                  mcs_status_name(result));
    }
    return result;
}

/* The result of a put that could not be written. The transport's deadline is a failed transfer too; -901 is the
 * master's. */
static mcs_status_t write_failure(mcs_status_t status)
{
    return ends_call(status) || status == MCS_ERR_NO_MEMORY ? status : MCS_ERR_TRANSFER_FAIL;
}

/* An item whose reservation is gone: once more, or failed. */
static void retry_or_fail(mcs_put_call_t *call, mcs_put_item_t *item, mcs_status_t failure)
{
    item->failure = failure;
    if (ends_call(failure) || ++item->tries >= TRIES) {
        finish(item, failure);
        return;
    }
    item->state = MCS_PUT_TODO;
    mcs_count(&call->client->counters, put_replacements, 1);
}

/* An item whose reservation somebody else has ended: what became of the key is waited for. */
static void wait_or_fail(mcs_put_item_t *item)
{
    if (++item->overtaken >= OVERTAKEN) {
        finish(item, MCS_ERR_TRANSFER_FAIL);
    } else {
        item->state = MCS_PUT_WAITING;
    }
}

typedef struct ids {
    uint64_t *id;
    size_t count;
} ids_t;

/* Had before anything is written: afterwards nothing may fail that stands between a store in doubt and its entry. */
typedef struct outcome {
    ids_t written;
    ids_t failed;
    ids_t doubtful;
    mcs_put_item_t **items; /* of `written` */
    mcs_status_t *statuses;
} outcome_t;

static mcs_status_t outcome_init(mcs_put_call_t *call, outcome_t *outcome)
{
    size_t n = call->round_count;
    memset(outcome, 0, sizeof(*outcome));
    outcome->written.id = mcs_arena_alloc(&call->arena, n * sizeof(uint64_t));
    outcome->failed.id = mcs_arena_alloc(&call->arena, n * sizeof(uint64_t));
    outcome->doubtful.id = mcs_arena_alloc(&call->arena, n * sizeof(uint64_t));
    outcome->items = mcs_arena_alloc(&call->arena, n * sizeof(mcs_put_item_t *));
    outcome->statuses = mcs_arena_alloc(&call->arena, n * sizeof(mcs_status_t));
    bool complete = outcome->written.id != NULL && outcome->failed.id != NULL && outcome->doubtful.id != NULL &&
                    outcome->items != NULL && outcome->statuses != NULL;
    return complete ? MCS_OK : MCS_ERR_NO_MEMORY;
}

/* Commits what was written. */
static void commit(mcs_put_call_t *call, const outcome_t *outcome)
{
    const ids_t *written = &outcome->written;
    mcs_put_item_t **items = outcome->items;
    if (written->count == 0) {
        return;
    }
    if (items[0]->on_spare) {
        mcs_status_t status = mcs_put_now(call, items[0]);
        if (status == MCS_ERR_AGAIN) {
            items[0]->state = MCS_PUT_TODO;
        } else {
            finish(items[0], status);
            mcs_count(&call->client->counters, puts_on_spares, status == MCS_OK);
        }
        return;
    }
    mcs_status_t status = mcs_put_end(call, written->id, written->count, outcome->statuses);
    for (size_t i = 0; i < written->count; i++) {
        mcs_status_t result = status != MCS_OK ? status : outcome->statuses[i];
        switch ((int)result) {
        case MCS_ERR_OBJECT_NOT_FOUND:
        case MCS_ERR_SESSION_ENDED:
            if (call->repeated) {
                /* By a master that does not know it any more. The one before may have committed it, and others may have
                 * read and removed it since: put again it would come back, and no later refusal would be the truth. */
                finish(items[i], MCS_ERR_RPC_FAIL);
                break;
            }
            wait_or_fail(items[i]); /* its session was replaced */
            break;
        case MCS_ERR_INVALID_WRITE:
        case MCS_ERR_REPLICA_IS_GONE: wait_or_fail(items[i]); break; /* revoked meanwhile */
        default: finish(items[i], result); break;
        }
    }
}

/* After the writes: who is committed, who is revoked, who is tried again. */
static void settle(mcs_put_call_t *call, mcs_inflight_t *inflight, mcs_status_t planned, outcome_t *outcome)
{
    for (size_t i = 0; i < call->round_count; i++) {
        mcs_put_item_t *item = call->round[i];
        if (item->state != MCS_PUT_OPEN) {
            continue;
        }
        item->in_doubt = false;
        mcs_status_t status = planned != MCS_OK ? planned : judge(call, inflight, item);
        if (status == MCS_OK && (call->interrupted || mcs_interrupt_seen())) {
            status = MCS_ERR_INTERRUPTED; /* not yet committed: revoked */
        }
        if (status == MCS_OK) {
            outcome->items[outcome->written.count] = item;
            outcome->written.id[outcome->written.count++] = item->put_id;
            continue;
        }
        ids_t *revoke = item->in_doubt ? &outcome->doubtful : &outcome->failed;
        revoke->id[revoke->count++] = item->put_id;
        if (planned != MCS_OK) {
            finish(item, planned);
        } else if (item->of_caller) {
            finish(item, status);
        } else if (status == MCS_ERR_REPLICA_IS_GONE) {
            wait_or_fail(item);
        } else {
            retry_or_fail(call, item, write_failure(status));
        }
    }
    commit(call, outcome);
    if (outcome->failed.count > 0) {
        mcs_put_revoke(call, outcome->failed.id, outcome->failed.count, false);
    }
    if (outcome->doubtful.count > 0) {
        mcs_put_revoke(call, outcome->doubtful.id, outcome->doubtful.count, true);
    }
}

static void fail_round(mcs_put_call_t *call, mcs_status_t status)
{
    for (size_t i = 0; i < call->round_count; i++) {
        if (call->round[i]->state == MCS_PUT_OPEN || call->round[i]->state == MCS_PUT_TODO) {
            finish(call->round[i], status);
        }
    }
}

/* The call's only object, on its spare. */
static void run_on_spare(mcs_put_call_t *call, mcs_spare_t *spare)
{
    mcs_inflight_t *inflight = mcs_session_inflight(call->client->session);
    mcs_put_item_t *item = call->round[0];
    outcome_t outcome;
    mcs_status_t status = outcome_init(call, &outcome);
    if (status == MCS_OK) {
        mcs_routes_t routes;
        item->state = MCS_PUT_OPEN;
        item->on_spare = true;
        item->put_id = spare->put_id;
        item->replicas = &spare->replica;
        item->replica_count = 1;
        item->deadline_ns = MCS_NEVER; /* the master says when it is over */
        call->session = spare->session;
        mcs_routes_init(&routes, call->client);
        settle(call, inflight, write_all(call, &routes, 1), &outcome);
        mcs_routes_fini(&routes);
        item->on_spare = false;
        item->tries = 0; /* this was none of those that the ordinary way has */
        item->failure = MCS_OK;
    } else {
        fail_round(call, status);
    }
    mcs_spare_end(inflight, spare);
    mcs_arena_reset(&call->arena);
}

static void run_round(mcs_put_call_t *call)
{
    mcs_inflight_t *inflight = mcs_session_inflight(call->client->session);
    mcs_put_round_t round;
    uint64_t *generations = NULL;
    size_t count = 0;
    outcome_t outcome;
    mcs_put_round_begin(inflight, &round);
    mcs_status_t status = outcome_init(call, &outcome);
    if (status == MCS_OK) {
        status = mcs_put_start(call, &generations, &count);
    }
    mcs_put_round_known(inflight, &round, generations, count);
    if (status == MCS_OK) {
        mcs_routes_t routes;
        mcs_routes_init(&routes, call->client);
        settle(call, inflight, write_all(call, &routes, count), &outcome);
        mcs_routes_fini(&routes);
    }
    mcs_put_round_end(inflight, &round);
    if (status != MCS_OK) {
        fail_round(call, status);
    }
    mcs_arena_reset(&call->arena);
}

/* Starts everything that is TODO. Items that are to be tried again are TODO afterwards. */
static void run_rounds(mcs_put_call_t *call)
{
    size_t next = 0;
    for (;;) {
        pick_round(call, &next);
        if (call->round_count == 0) {
            return;
        }
        if (call->interrupted || mcs_interrupt_seen()) {
            fail_round(call, MCS_ERR_INTERRUPTED);
        } else if (call->spare != NULL) {
            mcs_spare_t *spare = call->spare;
            call->spare = NULL;
            run_on_spare(call, spare);
        } else {
            run_round(call);
        }
    }
}

/* ---- waiting for others ---- */

/* Waits for the first that is WAITING and makes all of them TODO; or gives them up. True when there was any. */
static void wait_for_others(mcs_put_call_t *call, mcs_put_item_t *first, uint64_t deadline_ns)
{
    int left_ms = mcs_deadline_poll_ms(deadline_ns);
    mcs_status_t status = MCS_ERR_PUT_IN_PROGRESS;
    if (left_ms != 0) {
        mcs_count(&call->client->counters, put_waits, 1);
        uint32_t slice_ms = left_ms < 0 || left_ms > WAIT_SLICE ? WAIT_SLICE : (uint32_t)left_ms;
        status = mcs_put_wait(call->client, &first->key, slice_ms);
    }
    bool retry =
        left_ms != 0 && (status == MCS_OK || status == MCS_ERR_OBJECT_NOT_FOUND || status == MCS_ERR_PUT_IN_PROGRESS);
    if (status == MCS_OK && !call->upsert) {
        finish(first, MCS_OK);
    }
    for (size_t i = 0; i < call->count; i++) {
        mcs_put_item_t *item = &call->items[i];
        if (item->state == MCS_PUT_WAITING && retry) {
            item->state = MCS_PUT_TODO;
        } else if (item->state == MCS_PUT_WAITING) {
            finish(item, status);
        }
    }
}

static mcs_put_item_t *find_state(const mcs_put_call_t *call, mcs_put_state_t state)
{
    for (size_t i = 0; i < call->count; i++) {
        if (call->items[i].state == state) {
            return &call->items[i];
        }
    }
    return NULL;
}

static void run(mcs_put_call_t *call)
{
    int64_t limit_ms = call->client->config.rpc_timeout_ms;
    uint64_t wait_end_ns = mcs_deadline_after_ms(limit_ms < 0 ? WAIT_MS : MCS_MIN(limit_ms, (int64_t)WAIT_MS));
    for (;;) {
        run_rounds(call);
        if (find_state(call, MCS_PUT_TODO) != NULL) {
            continue;
        }
        mcs_put_item_t *waiting = find_state(call, MCS_PUT_WAITING);
        if (waiting == NULL) {
            return;
        }
        wait_for_others(call, waiting, wait_end_ns);
    }
}

/* ---- the call ---- */

static void report(mcs_put_call_t *call, int *results)
{
    for (size_t i = 0; i < call->count; i++) {
        const mcs_put_item_t *item = &call->items[i];
        item = item->state == MCS_PUT_SAME ? &call->items[item->first] : item;
        results[i] = mcs_status_public(item->status);
        if (call->upsert) {
            mcs_lookup_cache_drop(call->client->lookup_cache, &item->key);
        }
        if (results[i] == 0) {
            mcs_count(&call->client->counters, puts, 1);
        } else {
            mcs_count(&call->client->counters, put_failures, 1);
        }
    }
}

static bool is_plain(const mcs_replicate_config_t *config)
{
    return config == NULL || ((!config->replica_num_set || config->replica_num == 1) && config->soft_pin_action == 0 &&
                              !config->with_hard_pin && !config->prefer_alloc_in_same_node && config->data_type == 0 &&
                              config->preferred_segment_count == 0 && config->group_ids == NULL);
}

static void take_spare(mcs_put_call_t *call)
{
    call->plain = call->count == 1 && !call->upsert && call->items[0].state == MCS_PUT_TODO && is_plain(call->config);
    if (call->plain) {
        mcs_client_t *client = call->client;
        call->spare = mcs_spares_take(client->spares, mcs_session_inflight(client->session), call->items[0].size);
    }
}

mcs_status_t mcs_client_put(mcs_client_t *client, const mcs_bytes_t *keys, const mcs_value_t *values, size_t count,
                            const mcs_replicate_config_t *config, unsigned flags, int *results)
{
    if (count == 0) {
        return MCS_OK;
    }
    mcs_put_call_t *call = MCS_NEW(mcs_put_call_t);
    if (call == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    call->client = client;
    call->count = count;
    call->upsert = (flags & MCS_PUT_UPSERT) != 0;
    mcs_arena_init(&call->arena, ARENA_CHUNK, ARENA_MAX);
    call->items = MCS_NEW_ARRAY(mcs_put_item_t, count);
    call->round = MCS_NEW_ARRAY(mcs_put_item_t *, MCS_MIN(count, (size_t)MCS_BATCH_KEYS));
    mcs_status_t status = call->items == NULL || call->round == NULL ? MCS_ERR_NO_MEMORY : MCS_OK;
    if (status == MCS_OK) {
        status = mcs_put_config(call, config);
    }
    if (status == MCS_OK) {
        status = prepare(call, keys, values, flags);
    }
    if (status == MCS_OK) {
        take_spare(call);
        run(call);
        report(call, results);
    }
    if (call->spare != NULL) {
        mcs_spare_end(mcs_session_inflight(client->session), call->spare); /* no round has begun */
    }
    mcs_arena_fini(&call->arena);
    mcs_free(call->round);
    mcs_free(call->items);
    mcs_free(call);
    return status;
}
