/* Served reads of far segments: the transport sends from host memory, so the bytes come down from the device first.
 *
 * A read that is let in takes one of a few places here, with a hold on its extent, and is told to come again
 * (MCS_ERR_AGAIN); the thread "mcs-stager" copies; who comes again with the same access takes the bytes and, when they
 * are sent, gives the place back. So the transport's thread makes no call of the device's driver and waits for none.
 * All places taken: come again. A copy that nobody fetches (its peer has gone) is dropped after a while.
 *
 *   FREE -> WANTED -> BUSY -> READY -> TAKEN -> LEFT -> CLEANED -> FREE
 *         read     thread  thread   read     sent    thread     thread
 *                            \-> LEFT (nobody came)
 *
 * Only the thread lets go of segments: the last reference gives memory back to the device. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/ops/transport.h"
#include "core/segment/owner_internal.h"

#define PLACES      16u
#define KEPT_MAX    (2 * MCS_MIB) /* a larger buffer is not kept */
#define FETCH_BY_NS (2 * MCS_NS_PER_SEC)
#define ALIGN       4096

typedef enum stage_state {
    STAGE_FREE,
    STAGE_WANTED,
    STAGE_BUSY,
    STAGE_READY,
    STAGE_TAKEN,
    STAGE_LEFT,
    STAGE_CLEANED
} stage_state_t;

struct owner_stage {
    stage_state_t state;    /* owner's lock */
    owner_hold_t *hold;     /* from WANTED to TAKEN; ended with LEFT */
    mcs_segment_t *segment; /* a reference of its own, until FREE */
    uint64_t ready_ns;
    mcs_status_t status; /* of READY */
    uint8_t *buffer;     /* the thread's, but for READY and TAKEN */
    uint64_t room;
};

struct owner_stager {
    mcs_owner_t *owner;
    uint32_t stop; /* atomic */
    mcs_event_t wake;
    mcs_thread_t thread;
    owner_stage_t places[PLACES];
};

/* ---- reads ---- */

static bool same_access(const mcs_access_t *a, const mcs_access_t *b)
{
    return mcs_id_equal(a->session, b->session) && mcs_id_equal(a->instance, b->instance) && a->offset == b->offset &&
           a->generation == b->generation && a->from == b->from && a->len == b->len;
}

static owner_stage_t *find_locked(owner_stager_t *stager, const mcs_access_t *access)
{
    for (uint32_t i = 0; i < PLACES; i++) {
        owner_stage_t *stage = &stager->places[i];
        if (stage->state >= STAGE_WANTED && stage->state <= STAGE_READY && same_access(&stage->hold->access, access)) {
            return stage;
        }
    }
    return NULL;
}

static void leave_locked(owner_stager_t *stager, owner_stage_t *stage)
{
    mcs_i_owner_drop_hold_locked(stager->owner, stage->hold);
    stage->hold = NULL;
    stage->state = STAGE_LEFT;
}

static bool want_locked(owner_stager_t *stager, const mcs_access_t *access, const owner_segment_t *entry,
                        owner_hold_t *hold)
{
    for (uint32_t i = 0; i < PLACES; i++) {
        owner_stage_t *stage = &stager->places[i];
        if (stage->state == STAGE_FREE) {
            mcs_i_owner_add_hold_locked(stager->owner, hold, access, entry);
            hold->stage = stage;
            stage->hold = hold;
            stage->segment = mcs_segment_get(entry->segment);
            stage->state = STAGE_WANTED;
            return true;
        }
    }
    return false;
}

mcs_status_t mcs_i_owner_stage_locked(mcs_owner_t *owner, const mcs_access_t *access, const owner_segment_t *entry,
                                      owner_hold_t **hold, owner_hold_t **ready_out)
{
    owner_stager_t *stager = owner->stager;
    if (access->len > MCS_RANGE_MAX) {
        return MCS_ERR_INVALID_READ;
    }
    owner_stage_t *stage = find_locked(stager, access);
    if (stage == NULL) {
        if (want_locked(stager, access, entry, *hold)) {
            *hold = NULL;
            mcs_event_set(&stager->wake);
        }
        return MCS_ERR_AGAIN;
    }
    if (stage->state != STAGE_READY) {
        return MCS_ERR_AGAIN;
    }
    mcs_status_t status = stage->status;
    if (status == MCS_OK) {
        stage->state = STAGE_TAKEN;
        *ready_out = stage->hold;
    } else {
        leave_locked(stager, stage);
        mcs_event_set(&stager->wake);
    }
    return status;
}

void *mcs_i_owner_staged(const owner_hold_t *hold)
{
    return hold->stage->buffer;
}

void mcs_i_owner_unstage(mcs_owner_t *owner, owner_hold_t *hold)
{
    mcs_mutex_lock(&owner->lock);
    leave_locked(owner->stager, hold->stage);
    mcs_mutex_unlock(&owner->lock);
    mcs_event_set(&owner->stager->wake);
}

/* ---- the thread ---- */

static mcs_status_t make_room(owner_stage_t *stage, uint64_t len)
{
    if (stage->room >= len) {
        return MCS_OK;
    }
    mcs_free(stage->buffer);
    stage->room = MCS_ALIGN_UP(len, (uint64_t)MCS_MIB);
    stage->buffer = mcs_aligned_alloc(ALIGN, (size_t)stage->room);
    if (stage->buffer == NULL) {
        stage->room = 0;
        return MCS_ERR_NO_MEMORY;
    }
    return MCS_OK;
}

static mcs_status_t copy_down(owner_stage_t *stage)
{
    const mcs_access_t *access = &stage->hold->access;
    const mcs_far_t *far = mcs_segment_far(stage->segment);
    mcs_status_t status = make_room(stage, access->len);
    if (status != MCS_OK) {
        return status;
    }
    mcs_mem_piece_t piece = {.user = stage->buffer,
                             .host = far->memory->base + access->offset + access->from,
                             .len = access->len,
                             .device = MCS_MEM_HOST,
                             .block = MCS_MEM_NO_BLOCK};
    mcs_mem_copy_t copy = {.to_user = true, .far = far->memory, .pieces = &piece, .count = 1};
    return mcs_mem_copy_now(far->ops, far->space, &copy);
}

static void clean(mcs_owner_t *owner, owner_stage_t *stage)
{
    mcs_segment_put(stage->segment);
    if (stage->room > KEPT_MAX) {
        mcs_free(stage->buffer);
        stage->buffer = NULL;
        stage->room = 0;
    }
    mcs_mutex_lock(&owner->lock);
    stage->segment = NULL;
    stage->state = STAGE_FREE;
    mcs_mutex_unlock(&owner->lock);
}

static void copy(mcs_owner_t *owner, owner_stage_t *stage)
{
    mcs_status_t status = copy_down(stage);
    mcs_mutex_lock(&owner->lock);
    stage->status = status;
    stage->ready_ns = mcs_now_ns();
    stage->state = STAGE_READY;
    mcs_mutex_unlock(&owner->lock);
}

/* What is to be done next. NULL: nothing; *until_ns: until when. */
static owner_stage_t *next(owner_stager_t *stager, stage_state_t *state_out, uint64_t *until_ns)
{
    owner_stage_t *found = NULL;
    uint64_t now_ns = mcs_now_ns();
    *until_ns = MCS_NEVER;
    mcs_mutex_lock(&stager->owner->lock);
    for (uint32_t i = 0; i < PLACES && found == NULL; i++) {
        owner_stage_t *stage = &stager->places[i];
        if (stage->state == STAGE_READY && now_ns - stage->ready_ns >= FETCH_BY_NS) {
            leave_locked(stager, stage);
        }
        if (stage->state == STAGE_READY) {
            *until_ns = MCS_MIN(*until_ns, stage->ready_ns + FETCH_BY_NS);
        }
        if (stage->state == STAGE_WANTED || stage->state == STAGE_LEFT) {
            *state_out = stage->state;
            /* One that is cleaned has no hold any more: it must not be found. */
            stage->state = stage->state == STAGE_WANTED ? STAGE_BUSY : STAGE_CLEANED;
            found = stage;
        }
    }
    mcs_mutex_unlock(&stager->owner->lock);
    return found;
}

static void stager_main(void *arg)
{
    owner_stager_t *stager = arg;
    while (__atomic_load_n(&stager->stop, __ATOMIC_ACQUIRE) == 0) {
        uint64_t until_ns;
        stage_state_t state = STAGE_FREE;
        owner_stage_t *stage = next(stager, &state, &until_ns);
        if (stage == NULL) {
            (void)mcs_event_wait(&stager->wake, until_ns);
            (void)mcs_event_clear(&stager->wake);
        } else if (state == STAGE_LEFT) {
            clean(stager->owner, stage);
        } else {
            copy(stager->owner, stage);
        }
    }
}

/* ---- life ---- */

mcs_status_t mcs_i_owner_stager_start(mcs_owner_t *owner)
{
    mcs_mutex_lock(&owner->lock);
    bool there = owner->stager != NULL;
    mcs_mutex_unlock(&owner->lock);
    if (there) {
        return MCS_OK;
    }
    owner_stager_t *stager = MCS_NEW(owner_stager_t);
    if (stager == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    stager->owner = owner;
    mcs_status_t status = mcs_event_init(&stager->wake);
    if (status != MCS_OK) {
        mcs_free(stager);
        return status;
    }
    status = mcs_thread_start(&stager->thread, "mcs-stager", stager_main, stager);
    mcs_mutex_lock(&owner->lock);
    bool mine = status == MCS_OK && owner->stager == NULL;
    if (mine) {
        owner->stager = stager;
    }
    mcs_mutex_unlock(&owner->lock);
    if (!mine) {
        mcs_i_owner_stager_stop(stager); /* another thread was first, or there is none */
    }
    return status;
}

void mcs_i_owner_stager_stop(owner_stager_t *stager)
{
    if (stager == NULL) {
        return;
    }
    __atomic_store_n(&stager->stop, 1, __ATOMIC_RELEASE);
    mcs_event_set(&stager->wake);
    mcs_thread_join(&stager->thread);
    for (uint32_t i = 0; i < PLACES; i++) {
        owner_stage_t *stage = &stager->places[i];
        mcs_mutex_lock(&stager->owner->lock);
        if (stage->hold != NULL) {
            leave_locked(stager, stage);
        }
        mcs_mutex_unlock(&stager->owner->lock);
        mcs_segment_put(stage->segment);
        mcs_free(stage->buffer);
    }
    mcs_event_fini(&stager->wake);
    mcs_free(stager);
}
