/* See spare.h. */
#include "core/client/spare.h"

#include <string.h>

#include "core/base/alloc.h"

#define STREAK     3u                    /* puts of one size in a row before a spare is asked for */
#define STREAK_GAP (100 * MCS_NS_PER_MS) /* between two of them at most */
#define REST_MAX   4u                    /* spares at rest */

struct mcs_spares {
    mcs_mutex_t lock;
    mcs_list_t resting MCS_GUARDED_BY(&lock);
    uint32_t count MCS_GUARDED_BY(&lock);
    uint64_t size MCS_GUARDED_BY(&lock); /* of the last put */
    uint64_t last_ns MCS_GUARDED_BY(&lock);
    uint32_t streak MCS_GUARDED_BY(&lock);
};

mcs_status_t mcs_spares_create(mcs_spares_t **spares_out)
{
    mcs_spares_t *spares = MCS_NEW(mcs_spares_t);
    if (spares == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&spares->lock, MCS_RANK_CLIENT_SESSION, "spares");
    mcs_list_init(&spares->resting);
    *spares_out = spares;
    return MCS_OK;
}

void mcs_spare_end(mcs_inflight_t *inflight, mcs_spare_t *spare)
{
    mcs_put_round_end(inflight, &spare->round);
    mcs_free(spare);
}

static void end_all(mcs_inflight_t *inflight, mcs_list_t *list)
{
    while (!mcs_list_empty(list)) {
        mcs_spare_t *spare = MCS_LIST_FIRST(list, mcs_spare_t, node);
        mcs_list_remove(&spare->node);
        mcs_spare_end(inflight, spare);
    }
}

/* Takes one of that size out, and what is too old, or of another size, into `old`. */
static mcs_spare_t *pick_locked(mcs_spares_t *spares, uint64_t size, uint64_t now_ns, mcs_list_t *old)
{
    mcs_spare_t *found = NULL;
    MCS_LIST_FOR_EACH_SAFE(node, next, &spares->resting)
    {
        mcs_spare_t *spare = MCS_CONTAINER_OF(node, mcs_spare_t, node);
        bool fits = spare->size == size && now_ns < spare->use_until_ns;
        if (fits && found != NULL) {
            continue;
        }
        mcs_list_remove(&spare->node);
        spares->count--;
        if (fits) {
            found = spare;
        } else {
            mcs_list_push_tail(old, &spare->node);
        }
    }
    return found;
}

void mcs_spares_clear(mcs_spares_t *spares, mcs_inflight_t *inflight)
{
    mcs_list_t old;
    mcs_list_init(&old);
    mcs_mutex_lock(&spares->lock);
    (void)pick_locked(spares, 0, 0, &old); /* none has that size: all go */
    spares->streak = 0;
    mcs_mutex_unlock(&spares->lock);
    end_all(inflight, &old);
}

void mcs_spares_destroy(mcs_spares_t *spares, mcs_inflight_t *inflight)
{
    if (spares == NULL) {
        return;
    }
    mcs_spares_clear(spares, inflight);
    mcs_mutex_fini(&spares->lock);
    mcs_free(spares);
}

/* ---- use ---- */

mcs_spare_t *mcs_spares_take(mcs_spares_t *spares, mcs_inflight_t *inflight, uint64_t size)
{
    uint64_t now_ns = mcs_now_ns();
    mcs_list_t old;
    mcs_list_init(&old);
    mcs_mutex_lock(&spares->lock);
    bool goes_on = size == spares->size && now_ns - spares->last_ns < STREAK_GAP;
    spares->streak = goes_on ? spares->streak + (spares->streak < STREAK) : 1;
    spares->size = size;
    spares->last_ns = now_ns;
    mcs_spare_t *spare = pick_locked(spares, size, now_ns, &old);
    mcs_mutex_unlock(&spares->lock);
    if (spare != NULL && !mcs_put_round_wake(inflight, &spare->round)) {
        mcs_list_push_tail(&old, &spare->node); /* revoked while it lay there */
        spare = NULL;
    }
    end_all(inflight, &old);
    return spare;
}

/* ---- supply ---- */

mcs_spare_t *mcs_spares_ask(mcs_spares_t *spares, mcs_inflight_t *inflight, uint64_t size)
{
    mcs_mutex_lock(&spares->lock);
    bool wanted = spares->streak >= STREAK && spares->size == size && spares->count < REST_MAX;
    mcs_mutex_unlock(&spares->lock);
    mcs_spare_t *spare = wanted ? MCS_NEW(mcs_spare_t) : NULL;
    if (spare != NULL) {
        mcs_list_init(&spare->node);
        spare->size = size;
        mcs_put_round_begin(inflight, &spare->round);
    }
    return spare;
}

static bool take_columns(mcs_spare_t *spare, const mcs_call_t *rpc, const ProtobufCBinaryData *put,
                         const ProtobufCBinaryData *replica)
{
    mcs_col_put_t place;
    if (put->len != sizeof(place) || replica->len != sizeof(spare->replica)) {
        return false;
    }
    memcpy(&place, put->data, sizeof(place));
    memcpy(&spare->replica, replica->data, sizeof(spare->replica));
    spare->session = rpc->session;
    spare->put_id = place.put_id;
    spare->use_until_ns = rpc->sent_ns + place.deadline_ms * MCS_NS_PER_MS;
    return place.status == MCS_OK && place.replica_count == 1 && place.put_id != 0 &&
           place.put_id == spare->replica.generation;
}

void mcs_spares_answered(mcs_spares_t *spares, mcs_inflight_t *inflight, mcs_spare_t *spare, const mcs_call_t *rpc,
                         const ProtobufCBinaryData *put, const ProtobufCBinaryData *replica)
{
    if (spare == NULL) {
        return;
    }
    bool given = take_columns(spare, rpc, put, replica);
    mcs_put_round_known(inflight, &spare->round, given ? &spare->replica.generation : NULL, given ? 1 : 0);
    if (!given || !mcs_put_round_rest(inflight, &spare->round)) {
        mcs_spare_end(inflight, spare);
        return;
    }
    mcs_mutex_lock(&spares->lock);
    mcs_list_push_tail(&spares->resting, &spare->node);
    spares->count++;
    mcs_mutex_unlock(&spares->lock);
}
