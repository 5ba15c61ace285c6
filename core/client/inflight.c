/* See inflight.h. */
#include "core/client/inflight.h"

#include <string.h>

#include "core/base/log.h"

#define UNDECIDED_MAX ((size_t)16 << 20)
#define DOUBTFUL_MAX  ((size_t)1 << 20)

typedef struct undecided {
    uint64_t generation;
    uint64_t ticket;
} undecided_t;

void mcs_inflight_init(mcs_inflight_t *table, void (*ack)(void *, const uint64_t *, size_t), void *ack_arg)
{
    mcs_mutex_init(&table->lock, MCS_RANK_CLIENT_SESSION, "inflight");
    mcs_list_init(&table->rounds);
    table->next_ticket = 1;
    mcs_buf_init(&table->undecided, UNDECIDED_MAX);
    mcs_buf_init(&table->doubtful, DOUBTFUL_MAX);
    table->doubt_all = false;
    table->ack = ack;
    table->ack_arg = ack_arg;
}

void mcs_inflight_fini(mcs_inflight_t *table)
{
    MCS_ENSURE(mcs_list_empty(&table->rounds));
    mcs_buf_fini(&table->undecided);
    mcs_buf_fini(&table->doubtful);
    mcs_mutex_fini(&table->lock);
}

void mcs_put_round_begin(mcs_inflight_t *table, mcs_put_round_t *round)
{
    memset(round, 0, sizeof(*round));
    mcs_list_init(&round->node);
    mcs_buf_init(&round->revoked, UNDECIDED_MAX);
    mcs_mutex_lock(&table->lock);
    round->ticket = table->next_ticket++;
    mcs_list_push_tail(&table->rounds, &round->node);
    mcs_mutex_unlock(&table->lock);
}

static bool round_has(const mcs_put_round_t *round, uint64_t generation)
{
    for (size_t i = 0; i < round->count; i++) {
        if (round->generations[i] == generation) {
            return true;
        }
    }
    return false;
}

static bool in_doubt_locked(const mcs_inflight_t *table, uint64_t generation)
{
    if (table->doubt_all) {
        return true;
    }
    for (size_t at = 0; at < table->doubtful.len; at += sizeof(uint64_t)) {
        if (mcs_load_u64(table->doubtful.bytes + at) == generation) {
            return true;
        }
    }
    return false;
}

/* Puts the generation where it belongs: with its round, or (true) into `ack`, or back with the undecided; or drops it
 * when it is in doubt. */
static bool settle_locked(mcs_inflight_t *table, undecided_t entry, mcs_buf_t *keep)
{
    if (in_doubt_locked(table, entry.generation)) {
        return false;
    }
    MCS_LIST_FOR_EACH(node, &table->rounds)
    {
        mcs_put_round_t *round = MCS_CONTAINER_OF(node, mcs_put_round_t, node);
        if (round->known && round_has(round, entry.generation)) {
            if (round->resting) {
                round->lost = true;
                return true;
            }
            mcs_buf_put_u64(&round->revoked, entry.generation);
            return false;
        }
        if (!round->known && round->ticket <= entry.ticket) {
            mcs_buf_append(keep, &entry, sizeof(entry));
            return false;
        }
    }
    return true;
}

/* Looks at every undecided generation again; what is settled goes to `ack`. */
static void settle_all_locked(mcs_inflight_t *table, mcs_buf_t *ack)
{
    if (table->undecided.len == 0) {
        return;
    }
    mcs_buf_t old = table->undecided;
    mcs_buf_init(&table->undecided, UNDECIDED_MAX);
    for (size_t at = 0; at + sizeof(undecided_t) <= old.len; at += sizeof(undecided_t)) {
        undecided_t entry;
        memcpy(&entry, old.bytes + at, sizeof(entry));
        if (settle_locked(table, entry, &table->undecided)) {
            mcs_buf_put_u64(ack, entry.generation);
        }
    }
    mcs_buf_fini(&old);
}

/* Without memory an acknowledgement is lost: the owner then remembers the generation until this session ends, which is
 * safe. */
static void send_acks(mcs_inflight_t *table, mcs_buf_t *ack)
{
    if (ack->len > 0) {
        table->ack(table->ack_arg, (const uint64_t *)(const void *)ack->bytes, ack->len / sizeof(uint64_t));
    }
    mcs_buf_fini(ack);
}

void mcs_put_round_known(mcs_inflight_t *table, mcs_put_round_t *round, const uint64_t *generations, size_t count)
{
    mcs_buf_t ack;
    mcs_buf_init(&ack, UNDECIDED_MAX);
    mcs_mutex_lock(&table->lock);
    round->known = true;
    round->generations = generations;
    round->count = count;
    settle_all_locked(table, &ack);
    mcs_mutex_unlock(&table->lock);
    send_acks(table, &ack);
}

bool mcs_put_round_rest(mcs_inflight_t *table, mcs_put_round_t *round)
{
    mcs_mutex_lock(&table->lock);
    round->resting = round->revoked.len == 0 && mcs_buf_status(&round->revoked) == MCS_OK;
    bool rests = round->resting;
    mcs_mutex_unlock(&table->lock);
    return rests;
}

bool mcs_put_round_wake(mcs_inflight_t *table, mcs_put_round_t *round)
{
    mcs_mutex_lock(&table->lock);
    bool kept = !round->lost;
    round->resting = false;
    mcs_mutex_unlock(&table->lock);
    return kept;
}

void mcs_put_round_end(mcs_inflight_t *table, mcs_put_round_t *round)
{
    mcs_buf_t ack;
    mcs_buf_init(&ack, UNDECIDED_MAX);
    mcs_mutex_lock(&table->lock);
    mcs_list_remove(&round->node);
    for (size_t at = 0; at < round->revoked.len; at += sizeof(uint64_t)) {
        uint64_t generation = mcs_load_u64(round->revoked.bytes + at);
        if (!in_doubt_locked(table, generation)) {
            mcs_buf_put_u64(&ack, generation);
        }
    }
    settle_all_locked(table, &ack);
    mcs_mutex_unlock(&table->lock);
    mcs_buf_fini(&round->revoked);
    send_acks(table, &ack);
}

void mcs_put_round_doubt(mcs_inflight_t *table, uint64_t generation)
{
    mcs_mutex_lock(&table->lock);
    mcs_buf_put_u64(&table->doubtful, generation);
    table->doubt_all = table->doubt_all || mcs_buf_status(&table->doubtful) != MCS_OK;
    mcs_mutex_unlock(&table->lock);
}

void mcs_inflight_new_session(mcs_inflight_t *table)
{
    mcs_mutex_lock(&table->lock);
    mcs_buf_reset(&table->doubtful);
    table->doubt_all = false;
    mcs_mutex_unlock(&table->lock);
}

void mcs_inflight_revoked(mcs_inflight_t *table, const uint64_t *generations, size_t count)
{
    mcs_buf_t ack;
    mcs_buf_init(&ack, UNDECIDED_MAX);
    mcs_mutex_lock(&table->lock);
    for (size_t i = 0; i < count; i++) {
        undecided_t entry = {generations[i], table->next_ticket - 1};
        if (settle_locked(table, entry, &table->undecided)) {
            mcs_buf_put_u64(&ack, generations[i]);
        }
    }
    mcs_mutex_unlock(&table->lock);
    send_acks(table, &ack);
}
