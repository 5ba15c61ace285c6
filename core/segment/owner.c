/* See owner.h. Life, segments, sessions and pages; served access is in owner_serve.c, releases are in owner_release.c,
 * the UNIX socket in owner_ipc.c.
 *
 * How a session ends, and why in this order. Until then its revoked generations are in the table that its writers look
 * at. First it enters the list of ended sessions: served access and new hellos are refused, under the same lock in
 * which they are let in. Then its pages are closed, and only then its generations leave the table: a writer looks at
 * the table first and at `closed` second (slots.c).
 *
 * The page of this process's own mapper is never closed by a session's end: it has no session. What was revoked in a
 * session of our own therefore stays in the table until its segment goes - a new session takes a new segment - or the
 * master says so. */
#include "core/segment/owner.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/segment/owner_internal.h"

/* Generations that are forgotten under one hold of the lock. */
#define FORGET_CHUNK 512u

/* ---- life ---- */

static void owner_free(mcs_owner_t *owner)
{
    mcs_region_put(owner->revoked_region);
    mcs_free(owner->revoked);
    mcs_free(owner->ended);
    mcs_free(owner->pending);
    mcs_free(owner->gaps);
    mcs_free(owner->fds);
    mcs_event_fini(&owner->wake);
    mcs_mutex_fini(&owner->lock);
    mcs_free(owner);
}

mcs_status_t mcs_owner_create(const mcs_owner_config_t *config, mcs_owner_t **owner_out)
{
    mcs_owner_t *owner = MCS_NEW(mcs_owner_t);
    if (owner == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    owner->config = *config;
    owner->token = mcs_process_token();
    owner->listener = -1;
    owner->wake.fd = -1;
    mcs_mutex_init(&owner->lock, MCS_RANK_OWNER, "owner");
    mcs_list_init(&owner->segments);
    mcs_list_init(&owner->pages);
    mcs_list_init(&owner->holds);
    mcs_list_init(&owner->conns);
    mcs_status_t status = mcs_event_init(&owner->wake);
    if (status == MCS_OK) {
        status = mcs_region_create("mooncake-revoked", sizeof(mcs_revoked_table_t), true, &owner->revoked_region);
    }
    if (status == MCS_OK) {
        owner->revoked = MCS_NEW_ARRAY(owner_revoked_t, MCS_REVOKED_MAX);
        owner->fds = MCS_NEW_ARRAY(struct pollfd, OWNER_POLL_MAX);
        status = owner->revoked != NULL && owner->fds != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status == MCS_OK && config->ipc_dir[0] != '\0' && mcs_i_owner_listen(owner) != MCS_OK) {
        mcs_warn(OWNER_AREA, "no same-host path: peers of this host use the transport");
    }
    if (status == MCS_OK) {
        status = mcs_thread_start(&owner->thread, "mcs-owner", mcs_i_owner_main, owner);
    }
    if (status != MCS_OK) {
        mcs_owner_destroy(owner);
        return status;
    }
    *owner_out = owner;
    return MCS_OK;
}

static void close_pages_locked(mcs_owner_t *owner)
{
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        owner_page_t *page = MCS_CONTAINER_OF(node, owner_page_t, node);
        mcs_slot_page_t *slots = page->region->base;
        __atomic_store_n(&slots->closed, 1, __ATOMIC_SEQ_CST);
    }
}

void mcs_owner_destroy(mcs_owner_t *owner)
{
    if (owner == NULL || owner->token != mcs_process_token()) {
        return;
    }
    __atomic_store_n(&owner->stop, 1, __ATOMIC_RELEASE);
    if (owner->wake.fd >= 0) {
        mcs_event_set(&owner->wake);
    }
    mcs_thread_join(&owner->thread);
    mcs_mutex_lock(&owner->lock);
    close_pages_locked(owner);
    mcs_mutex_unlock(&owner->lock);
    mcs_i_owner_close_conns(owner);
    mcs_i_owner_stager_stop(owner->stager);
    MCS_ENSURE(mcs_list_empty(&owner->holds)); /* the transport is closed before */
    while (!mcs_list_empty(&owner->segments)) {
        mcs_owner_remove_segment(owner, MCS_LIST_FIRST(&owner->segments, owner_segment_t, node)->instance);
    }
    while (!mcs_list_empty(&owner->pages)) {
        owner_page_t *page = MCS_LIST_FIRST(&owner->pages, owner_page_t, node);
        mcs_list_remove(&page->node);
        mcs_i_owner_page_free(page);
    }
    mcs_i_owner_drop_writes_locked(owner, (mcs_id_t){0, 0});
    owner_free(owner);
}

const char *mcs_owner_ipc_path(const mcs_owner_t *owner)
{
    return owner->ipc_path;
}

/* ---- pages ---- */

static owner_page_t *page_create(mcs_owner_t *owner, mcs_id_t session, int pidfd)
{
    owner_page_t *page = MCS_NEW(owner_page_t);
    if (page == NULL) {
        return NULL;
    }
    if (mcs_region_create("mooncake-slots", sizeof(mcs_slot_page_t), false, &page->region) != MCS_OK) {
        mcs_free(page);
        return NULL;
    }
    mcs_slot_page_t *slots = page->region->base;
    mcs_slot_page_init(slots);
    __atomic_store_n(&slots->epoch, __atomic_load_n(&owner->epoch, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    page->session = session;
    page->pidfd = pidfd;
    mcs_list_init(&page->node);
    return page;
}

owner_page_t *mcs_i_owner_add_page(mcs_owner_t *owner, mcs_id_t session, int pidfd, bool *ended_out)
{
    *ended_out = false;
    owner_page_t *page = page_create(owner, session, pidfd);
    if (page == NULL) {
        mcs_memfd_close(pidfd);
        return NULL;
    }
    /* Together: a session that ends closes the pages it finds and then forgets what was revoked in it. */
    mcs_mutex_lock(&owner->lock);
    bool ended = mcs_i_owner_ended_locked(owner, session);
    bool listed = !ended && owner->page_count < OWNER_PAGES_MAX;
    if (listed) {
        mcs_list_push_tail(&owner->pages, &page->node);
        owner->page_count++;
    }
    mcs_mutex_unlock(&owner->lock);
    if (!listed) {
        *ended_out = ended;
        mcs_i_owner_page_free(page);
        return NULL;
    }
    return page;
}

void mcs_i_owner_page_free(owner_page_t *page)
{
    mcs_memfd_close(page->pidfd);
    mcs_region_put(page->region);
    mcs_free(page);
}

/* ---- segments ---- */

owner_segment_t *mcs_i_owner_find_locked(mcs_owner_t *owner, mcs_id_t instance)
{
    MCS_LIST_FOR_EACH(node, &owner->segments)
    {
        owner_segment_t *entry = MCS_CONTAINER_OF(node, owner_segment_t, node);
        if (mcs_id_equal(entry->instance, instance)) {
            return entry;
        }
    }
    return NULL;
}

mcs_status_t mcs_owner_add_segment(mcs_owner_t *owner, mcs_segment_t *segment)
{
    mcs_status_t status = mcs_segment_far(segment) != NULL ? mcs_i_owner_stager_start(owner) : MCS_OK;
    if (status != MCS_OK) {
        return status;
    }
    owner_segment_t *entry = MCS_NEW(owner_segment_t);
    if (entry == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    entry->segment = mcs_segment_get(segment);
    entry->instance = mcs_segment_instance(segment);
    mcs_mutex_lock(&owner->lock);
    mcs_list_push_tail(&owner->segments, &entry->node);
    mcs_mutex_unlock(&owner->lock);
    return MCS_OK;
}

mcs_status_t mcs_owner_set_key(mcs_owner_t *owner, mcs_id_t instance, const mcs_mac_key_t *key)
{
    mcs_mutex_lock(&owner->lock);
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, instance);
    if (entry != NULL) {
        entry->key = *key;
        entry->has_key = true;
    }
    mcs_mutex_unlock(&owner->lock);
    return entry != NULL ? MCS_OK : MCS_ERR_SEGMENT_NOT_FOUND;
}

static void drop_pending_locked(mcs_owner_t *owner, mcs_id_t instance)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->pending_count; i++) {
        const mcs_col_release_t *record = &owner->pending[i].record;
        if (record->instance_hi != instance.hi || record->instance_lo != instance.lo) {
            owner->pending[kept++] = owner->pending[i];
        }
    }
    owner->pending_count = kept;
}

/* Takes out of both lists what `session`, or (with an instance) whoever, was refused. */
static void forget_revoked_locked(mcs_owner_t *owner, mcs_id_t session, mcs_id_t instance)
{
    bool by_session = mcs_id_is_none(instance);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->revoked_count; i++) {
        const owner_revoked_t *entry = &owner->revoked[i];
        if (by_session ? mcs_id_equal(entry->session, session) : mcs_id_equal(entry->instance, instance)) {
            mcs_revoked_remove(owner_revoked_table(owner), entry->generation);
        } else {
            owner->revoked[kept++] = *entry;
        }
    }
    owner->revoked_count = kept;
}

/* Connections that mapped it are ended, so that peers unmap it; what else they map of ours they ask for again. */
static void part_with_mappers_locked(mcs_owner_t *owner)
{
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        MCS_CONTAINER_OF(node, owner_page_t, node)->unwelcome = true;
    }
}

void mcs_owner_remove_segment(mcs_owner_t *owner, mcs_id_t instance)
{
    mcs_mutex_lock(&owner->lock);
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, instance);
    if (entry != NULL) {
        mcs_list_remove(&entry->node);
        /* Before its revoked generations are forgotten: a writer looks at that table first (slots.c). */
        mcs_segment_close(entry->segment);
        drop_pending_locked(owner, instance);
        mcs_i_owner_drop_gaps_locked(owner, instance);
        mcs_i_owner_drop_writes_locked(owner, instance);
        forget_revoked_locked(owner, (mcs_id_t){0, 0}, instance);
        part_with_mappers_locked(owner);
    }
    mcs_mutex_unlock(&owner->lock);
    if (entry != NULL) {
        mcs_event_set(&owner->wake);
        mcs_segment_put(entry->segment);
        mcs_free(entry);
    }
}

/* ---- sessions ---- */

static uint32_t ended_home(mcs_id_t session)
{
    return (uint32_t)((session.hi ^ session.lo) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (2 * OWNER_ENDED_MAX - 1);
}

bool mcs_i_owner_ended_locked(const mcs_owner_t *owner, mcs_id_t session)
{
    if (owner->ended == NULL || mcs_id_is_none(session)) {
        return false;
    }
    for (uint32_t at = ended_home(session);; at = (at + 1) & (2 * OWNER_ENDED_MAX - 1)) {
        if (mcs_id_equal(owner->ended[at], session)) {
            return true;
        }
        if (mcs_id_is_none(owner->ended[at])) {
            return false;
        }
    }
}

/* False: the list is full. */
static bool add_ended_locked(mcs_owner_t *owner, mcs_id_t session)
{
    if (owner->ended == NULL) {
        owner->ended = MCS_NEW_ARRAY(mcs_id_t, 2 * OWNER_ENDED_MAX);
    }
    if (owner->ended == NULL || owner->ended_count == OWNER_ENDED_MAX) {
        return false;
    }
    uint32_t at = ended_home(session);
    while (!mcs_id_is_none(owner->ended[at])) {
        if (mcs_id_equal(owner->ended[at], session)) {
            return true;
        }
        at = (at + 1) & (2 * OWNER_ENDED_MAX - 1);
    }
    owner->ended[at] = session;
    owner->ended_count++;
    return true;
}

bool mcs_i_owner_is_own_locked(const mcs_owner_t *owner, mcs_id_t session)
{
    for (uint32_t i = 0; i < OWNER_SESSIONS_OWN; i++) {
        if (mcs_id_equal(owner->own_sessions[i], session)) {
            return true;
        }
    }
    return false;
}

void mcs_i_owner_own_session(mcs_owner_t *owner, mcs_id_t session)
{
    mcs_mutex_lock(&owner->lock);
    if (!mcs_id_is_none(session) && !mcs_i_owner_is_own_locked(owner, session)) {
        owner->own_sessions[owner->own_session_next++ % OWNER_SESSIONS_OWN] = session;
    }
    mcs_mutex_unlock(&owner->lock);
}

void mcs_owner_session_ended(mcs_owner_t *owner, mcs_id_t session)
{
    if (mcs_id_is_none(session)) {
        return;
    }
    mcs_mutex_lock(&owner->lock);
    bool remembered = add_ended_locked(owner, session);
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        owner_page_t *page = MCS_CONTAINER_OF(node, owner_page_t, node);
        if (mcs_id_equal(page->session, session)) {
            mcs_slot_page_t *slots = page->region->base;
            __atomic_store_n(&slots->closed, 1, __ATOMIC_SEQ_CST);
            page->unwelcome = true;
        }
    }
    /* Refused as a whole from now on. Our own slots stay open, though: what was revoked in a session of this process
     * goes with the segment. */
    if (remembered && !mcs_i_owner_is_own_locked(owner, session)) {
        forget_revoked_locked(owner, session, (mcs_id_t){0, 0});
    }
    mcs_mutex_unlock(&owner->lock);
    mcs_event_set(&owner->wake);
    if (!remembered) {
        mcs_warn(OWNER_AREA, "%u ended sessions are remembered: its revoked generations stay", OWNER_ENDED_MAX);
    }
}

static void forget_older_locked(mcs_owner_t *owner, uint64_t epoch)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->revoked_count; i++) {
        const owner_revoked_t *entry = &owner->revoked[i];
        if (mcs_generation_epoch(entry->generation) < epoch) {
            mcs_revoked_remove(owner_revoked_table(owner), entry->generation);
        } else {
            owner->revoked[kept++] = *entry;
        }
    }
    owner->revoked_count = kept;
}

void mcs_owner_set_epoch(mcs_owner_t *owner, uint64_t epoch)
{
    mcs_mutex_lock(&owner->lock);
    __atomic_store_n(&owner->epoch, epoch, __ATOMIC_RELAXED);
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        mcs_slot_page_t *slots = MCS_CONTAINER_OF(node, owner_page_t, node)->region->base;
        /* Sequentially consistent: a writer publishes its slot and then looks at the epoch, we raise it and then look
         * at the slots (owner_settle.c). */
        __atomic_store_n(&slots->epoch, epoch, __ATOMIC_SEQ_CST);
    }
    /* Every write of an earlier epoch is refused from here on: no need to remember some of them. */
    forget_older_locked(owner, epoch);
    mcs_mutex_unlock(&owner->lock);
}

static int compare_generations(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void forget_sorted_locked(mcs_owner_t *owner, const uint64_t *sorted, uint32_t count)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->revoked_count; i++) {
        const owner_revoked_t *entry = &owner->revoked[i];
        if (bsearch(&entry->generation, sorted, count, sizeof(*sorted), compare_generations) != NULL) {
            mcs_revoked_remove(owner_revoked_table(owner), entry->generation);
        } else {
            owner->revoked[kept++] = *entry;
        }
    }
    owner->revoked_count = kept;
}

void mcs_owner_forget(mcs_owner_t *owner, const uint64_t *generations, uint32_t count)
{
    uint64_t sorted[FORGET_CHUNK];
    while (count > 0) {
        uint32_t some = MCS_MIN(count, FORGET_CHUNK);
        memcpy(sorted, generations, some * sizeof(*sorted));
        qsort(sorted, some, sizeof(*sorted), compare_generations);
        mcs_mutex_lock(&owner->lock);
        forget_sorted_locked(owner, sorted, some);
        mcs_mutex_unlock(&owner->lock);
        generations += some;
        count -= some;
    }
}

/* ---- numbers ---- */

void mcs_owner_stats(mcs_owner_t *owner, mcs_owner_stats_t *stats_out)
{
    mcs_owner_stats_t stats = {0};
    mcs_mutex_lock(&owner->lock);
    MCS_LIST_FOR_EACH(node, &owner->segments)
    {
        stats.segments++;
    }
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        stats.mappers += MCS_CONTAINER_OF(node, owner_page_t, node)->pidfd >= 0 ? 1 : 0;
    }
    stats.holds = owner->hold_count;
    stats.pending_releases = owner->pending_count;
    stats.revoked = owner->revoked_count;
    stats.released_total = owner->released_total;
    mcs_mutex_unlock(&owner->lock);
    *stats_out = stats;
}
