/* See owner.h. Segments, sessions and served access; releases are in owner_release.c, the UNIX socket in owner_ipc.c.
 *
 * A served access is published as a hold under the owner's lock, and a release marks and scans under the same lock: one
 * always sees the other. The lock is held for checks and list moves; memory is populated and bytes are moved without
 * it. */
#include "core/segment/owner.h"

#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fork.h"
#include "core/base/log.h"
#include "core/segment/owner_internal.h"
#include "core/wire/cap.h"

/* ---- life ---- */

static void owner_free(mcs_owner_t *owner)
{
    mcs_region_put(owner->revoked_region);
    mcs_free(owner->revoked);
    mcs_free(owner->ended);
    mcs_free(owner->pending);
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
        status = owner->revoked != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
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
    if (owner == NULL) {
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
    MCS_ENSURE(mcs_list_empty(&owner->holds)); /* the transport is closed before */
    while (!mcs_list_empty(&owner->segments)) {
        mcs_owner_remove_segment(owner, MCS_LIST_FIRST(&owner->segments, owner_segment_t, node)->instance);
    }
    while (!mcs_list_empty(&owner->pages)) {
        owner_page_t *page = MCS_LIST_FIRST(&owner->pages, owner_page_t, node);
        mcs_list_remove(&page->node);
        mcs_i_owner_page_free(page);
    }
    for (size_t i = 0; i < OWNER_WRITE_BUCKETS; i++) {
        while (owner->writes[i] != NULL) {
            owner_write_t *write = owner->writes[i];
            owner->writes[i] = write->next;
            mcs_free(write->have);
            mcs_free(write);
        }
    }
    owner_free(owner);
}

const char *mcs_owner_ipc_path(const mcs_owner_t *owner)
{
    return owner->ipc_path;
}

/* ---- pages ---- */

owner_page_t *mcs_i_owner_add_page(mcs_owner_t *owner, mcs_id_t session, int pidfd)
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
    mcs_mutex_lock(&owner->lock);
    mcs_list_push_tail(&owner->pages, &page->node);
    mcs_mutex_unlock(&owner->lock);
    return page;
}

void mcs_i_owner_page_free(owner_page_t *page)
{
    if (page->pidfd >= 0) {
        mcs_fork_guard_remove(page->pidfd);
        close(page->pidfd);
    }
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

void mcs_owner_remove_segment(mcs_owner_t *owner, mcs_id_t instance)
{
    mcs_mutex_lock(&owner->lock);
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, instance);
    if (entry != NULL) {
        mcs_list_remove(&entry->node);
        drop_pending_locked(owner, instance);
    }
    mcs_mutex_unlock(&owner->lock);
    if (entry != NULL) {
        mcs_segment_close(entry->segment);
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
    if (owner->ended == NULL) {
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

static void forget_session_locked(mcs_owner_t *owner, mcs_id_t session)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < owner->revoked_count; i++) {
        if (mcs_id_equal(owner->revoked[i].session, session)) {
            mcs_revoked_remove(owner_revoked_table(owner), owner->revoked[i].generation);
        } else {
            owner->revoked[kept++] = owner->revoked[i];
        }
    }
    owner->revoked_count = kept;
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
        }
    }
    if (remembered) {
        forget_session_locked(owner, session); /* refused as a whole from now on */
    }
    mcs_mutex_unlock(&owner->lock);
    if (!remembered) {
        mcs_warn(OWNER_AREA, "%u ended sessions are remembered: its revoked generations stay", OWNER_ENDED_MAX);
    }
}

void mcs_owner_set_epoch(mcs_owner_t *owner, uint64_t epoch)
{
    __atomic_store_n(&owner->epoch, epoch, __ATOMIC_RELAXED);
    mcs_mutex_lock(&owner->lock);
    MCS_LIST_FOR_EACH(node, &owner->pages)
    {
        mcs_slot_page_t *slots = MCS_CONTAINER_OF(node, owner_page_t, node)->region->base;
        __atomic_store_n(&slots->epoch, epoch, __ATOMIC_RELAXED);
    }
    mcs_mutex_unlock(&owner->lock);
}

void mcs_owner_forget(mcs_owner_t *owner, const uint64_t *generations, uint32_t count)
{
    mcs_mutex_lock(&owner->lock);
    for (uint32_t i = 0; i < owner->revoked_count;) {
        bool found = false;
        for (uint32_t g = 0; g < count && !found; g++) {
            found = owner->revoked[i].generation == generations[g];
        }
        if (found) {
            mcs_revoked_remove(owner_revoked_table(owner), owner->revoked[i].generation);
            owner->revoked[i] = owner->revoked[--owner->revoked_count];
        } else {
            i++;
        }
    }
    mcs_mutex_unlock(&owner->lock);
}

/* ---- served access ---- */

/* Rule 5, everything but the header. *entry_out on success. */
static mcs_status_t check_locked(mcs_owner_t *owner, const mcs_access_t *access, mcs_cap_right_t right,
                                 owner_segment_t **entry_out)
{
    mcs_status_t bad = right == MCS_CAP_READ ? MCS_ERR_INVALID_READ : MCS_ERR_INVALID_WRITE;
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, access->instance);
    if (entry == NULL) {
        return MCS_ERR_SEGMENT_NOT_FOUND;
    }
    if (access->payload_len == 0 || access->payload_len > MCS_OBJECT_MAX || access->offset % MCS_EXTENT_ALIGN != 0 ||
        access->len == 0 || access->len > access->payload_len || access->from > access->payload_len - access->len) {
        return bad;
    }
    uint64_t size = mcs_segment_size(entry->segment);
    uint64_t need = mcs_extent_len(access->payload_len);
    if (need > size || access->offset > size - need) {
        return bad;
    }
    if (!entry->has_key || mcs_cap_mac(&entry->key, access->session, access->instance, access->offset,
                                       access->payload_len, access->generation, right) != access->mac) {
        return bad;
    }
    if (mcs_i_owner_ended_locked(owner, access->session)) {
        return MCS_ERR_SESSION_ENDED;
    }
    if (owner->hold_count >= OWNER_HOLDS_MAX) {
        return MCS_ERR_LIMIT;
    }
    *entry_out = entry;
    return MCS_OK;
}

static mcs_extent_header_t *header_at(const mcs_segment_t *segment, uint64_t offset)
{
    return (mcs_extent_header_t *)(void *)((uint8_t *)mcs_segment_base(segment) + offset);
}

static void add_hold_locked(mcs_owner_t *owner, owner_hold_t *hold, const mcs_access_t *access,
                            const owner_segment_t *entry)
{
    hold->access = *access;
    hold->segment = mcs_segment_get(entry->segment);
    hold->header = header_at(entry->segment, access->offset);
    mcs_list_push_tail(&owner->holds, &hold->node);
    owner->hold_count++;
}

static void end_hold(mcs_owner_t *owner, owner_hold_t *hold)
{
    mcs_mutex_lock(&owner->lock);
    mcs_list_remove(&hold->node);
    owner->hold_count--;
    bool wanted = owner->pending_count > 0;
    mcs_mutex_unlock(&owner->lock);
    mcs_segment_put(hold->segment);
    mcs_free(hold);
    if (wanted) {
        mcs_event_set(&owner->wake);
    }
}

static void fill_hold(const owner_hold_t *hold, mcs_hold_t *hold_out)
{
    const mcs_access_t *access = &hold->access;
    uint64_t first = (access->from + MCS_EXTENT_CRC_BLOCK - 1) / MCS_EXTENT_CRC_BLOCK;
    uint64_t end = mcs_extent_block_count(access->from + access->len);
    *hold_out = (mcs_hold_t){
        .bytes = (uint8_t *)hold->header + mcs_extent_payload_offset(access->payload_len) + access->from,
        .crcs = mcs_extent_crcs(hold->header, access->payload_len) + first,
        .crc_count = end > first ? (uint32_t)(end - first) : 0,
        .payload_len = access->payload_len,
        .token = (void *)(uintptr_t)hold,
    };
}

static mcs_status_t read_begin(void *arg, const mcs_access_t *access, mcs_hold_t *hold_out)
{
    mcs_owner_t *owner = arg;
    owner_hold_t *hold = MCS_NEW(owner_hold_t);
    if (hold == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_list_init(&hold->node);
    owner_segment_t *entry = NULL;
    mcs_mutex_lock(&owner->lock);
    mcs_status_t status = check_locked(owner, access, MCS_CAP_READ, &entry);
    if (status == MCS_OK) {
        const mcs_extent_header_t *header = header_at(entry->segment, access->offset);
        mcs_extent_state_t state = mcs_extent_check(header, access->instance, access->generation, access->payload_len);
        bool same_key = header->key_hash.lo == access->key_hash.lo && header->key_hash.hi == access->key_hash.hi;
        status = state == MCS_EXTENT_WRITTEN && same_key ? MCS_OK : MCS_ERR_REPLICA_IS_GONE;
    }
    if (status == MCS_OK) {
        add_hold_locked(owner, hold, access, entry);
    }
    mcs_mutex_unlock(&owner->lock);
    if (status != MCS_OK) {
        mcs_free(hold);
        return status;
    }
    fill_hold(hold, hold_out);
    return MCS_OK;
}

static void read_end(void *arg, mcs_hold_t *hold)
{
    end_hold(arg, hold->token);
}

/* ---- served writes ---- */

static owner_write_t **write_at(mcs_owner_t *owner, uint64_t generation)
{
    owner_write_t **at = &owner->writes[(generation * UINT64_C(0x9e3779b97f4a7c15) >> 32) % OWNER_WRITE_BUCKETS];
    while (*at != NULL && (*at)->generation != generation) {
        at = &(*at)->next;
    }
    return at;
}

void mcs_i_owner_drop_write_locked(mcs_owner_t *owner, uint64_t generation)
{
    owner_write_t **at = write_at(owner, generation);
    owner_write_t *write = *at;
    if (write != NULL) {
        *at = write->next;
        mcs_free(write->have);
        mcs_free(write);
    }
}

static mcs_status_t start_write_locked(mcs_owner_t *owner, const mcs_access_t *access)
{
    owner_write_t **at = write_at(owner, access->generation);
    if (*at != NULL) {
        return MCS_OK;
    }
    owner_write_t *write = MCS_NEW(owner_write_t);
    if (write == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    write->generation = access->generation;
    write->blocks = write->blocks_left = mcs_extent_block_count(access->payload_len);
    write->have = MCS_NEW_ARRAY(uint64_t, (write->blocks + 63) / 64);
    if (write->have == NULL) {
        mcs_free(write);
        return MCS_ERR_NO_MEMORY;
    }
    *at = write;
    return MCS_OK;
}

/* Pieces are whole blocks, or end with the payload. */
static bool whole_blocks(const mcs_access_t *access)
{
    return access->from % MCS_EXTENT_CRC_BLOCK == 0 &&
           (access->len % MCS_EXTENT_CRC_BLOCK == 0 || access->from + access->len == access->payload_len);
}

/* What the header says to a write. */
static mcs_status_t may_write_locked(mcs_owner_t *owner, const mcs_access_t *access, const mcs_extent_header_t *header)
{
    if (mcs_revoked_has(owner_revoked_table(owner), access->generation)) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    if (header->magic != MCS_EXTENT_MAGIC || header->generation != access->generation) {
        return MCS_OK; /* not opened yet */
    }
    switch ((mcs_extent_state_t)__atomic_load_n(&header->state, __ATOMIC_SEQ_CST)) {
    case MCS_EXTENT_OPEN: return MCS_OK;
    case MCS_EXTENT_WRITTEN: return MCS_ERR_INVALID_WRITE; /* rule 2 */
    case MCS_EXTENT_DEAD:
    default: return MCS_ERR_REPLICA_IS_GONE;
    }
}

/* Opens the extent if this is its first piece. Under the lock, after the memory is there. */
static mcs_status_t open_extent_locked(mcs_owner_t *owner, owner_hold_t *hold)
{
    const mcs_access_t *access = &hold->access;
    mcs_status_t status = may_write_locked(owner, access, hold->header);
    if (status != MCS_OK) {
        return status;
    }
    bool opened = *write_at(owner, access->generation) != NULL;
    status = start_write_locked(owner, access);
    if (status == MCS_OK && !opened) {
        mcs_extent_open(hold->header, access->instance, access->generation, access->payload_len, access->key_hash);
    }
    return status;
}

static mcs_status_t write_begin(void *arg, const mcs_access_t *access, mcs_hold_t *hold_out)
{
    mcs_owner_t *owner = arg;
    owner_hold_t *hold = MCS_NEW(owner_hold_t);
    if (hold == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_list_init(&hold->node);
    owner_segment_t *entry = NULL;
    mcs_mutex_lock(&owner->lock);
    mcs_status_t status = check_locked(owner, access, MCS_CAP_WRITE, &entry);
    if (status == MCS_OK && !whole_blocks(access)) {
        status = MCS_ERR_INVALID_WRITE;
    }
    if (status == MCS_OK) {
        status = may_write_locked(owner, access, header_at(entry->segment, access->offset));
    }
    if (status == MCS_OK) {
        add_hold_locked(owner, hold, access, entry); /* from here on a release leaves it pending */
    }
    mcs_mutex_unlock(&owner->lock);
    if (status != MCS_OK) {
        mcs_free(hold);
        return status;
    }
    uint64_t len = mcs_extent_len(access->payload_len);
    mcs_segment_touch(hold->segment, access->offset + len);
    status = mcs_segment_ensure(hold->segment, access->offset, mcs_extent_payload_offset(access->payload_len));
    if (status == MCS_OK) {
        uint64_t from = access->offset + mcs_extent_payload_offset(access->payload_len) + access->from;
        status = mcs_segment_ensure(hold->segment, from, access->len);
    }
    if (status == MCS_OK) {
        mcs_mutex_lock(&owner->lock);
        status = open_extent_locked(owner, hold);
        mcs_mutex_unlock(&owner->lock);
    }
    if (status != MCS_OK) {
        end_hold(owner, hold);
        return status;
    }
    fill_hold(hold, hold_out);
    hold_out->crcs = NULL;
    return MCS_OK;
}

/* All blocks of the piece are here. */
static mcs_status_t take_blocks_locked(mcs_owner_t *owner, const owner_hold_t *hold, const uint32_t *crcs,
                                       uint32_t crc_count)
{
    const mcs_access_t *access = &hold->access;
    owner_write_t *write = *write_at(owner, access->generation);
    uint64_t first = access->from / MCS_EXTENT_CRC_BLOCK;
    uint64_t end = mcs_extent_block_count(access->from + access->len);
    if (write == NULL || __atomic_load_n(&hold->header->state, __ATOMIC_SEQ_CST) != MCS_EXTENT_OPEN ||
        hold->header->generation != access->generation) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    if (crc_count != end - first) {
        return MCS_ERR_INVALID_WRITE;
    }
    memcpy(mcs_extent_crcs(hold->header, access->payload_len) + first, crcs, crc_count * sizeof(*crcs));
    for (uint64_t block = first; block < end; block++) {
        uint64_t bit = UINT64_C(1) << (block % 64);
        write->blocks_left -= (write->have[block / 64] & bit) == 0;
        write->have[block / 64] |= bit;
    }
    if (write->blocks_left > 0) {
        return MCS_OK;
    }
    mcs_i_owner_drop_write_locked(owner, access->generation);
    return mcs_extent_seal(hold->header, access->generation) ? MCS_OK : MCS_ERR_REPLICA_IS_GONE;
}

static mcs_status_t write_end(void *arg, mcs_hold_t *hold, mcs_status_t received, const uint32_t *crcs,
                              uint32_t crc_count)
{
    mcs_owner_t *owner = arg;
    owner_hold_t *mine = hold->token;
    mcs_status_t status = received;
    if (status == MCS_OK) {
        mcs_mutex_lock(&owner->lock);
        status = take_blocks_locked(owner, mine, crcs, crc_count);
        mcs_mutex_unlock(&owner->lock);
    }
    end_hold(owner, mine);
    return status;
}

const mcs_owner_ops_t mcs_owner_serve_ops = {
    .read_begin = read_begin,
    .read_end = read_end,
    .write_begin = write_begin,
    .write_end = write_end,
};

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
