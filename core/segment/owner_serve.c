/* Access that the transport's thread serves (rules 3 and 5), see owner.h and core/ops/owner.h.
 *
 * An access is published as a hold under the owner's lock, and a release marks and scans under the same lock: one
 * always sees the other. The lock is held for checks and list moves; memory is populated and bytes are moved without
 * it. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/segment/owner_internal.h"
#include "core/wire/cap.h"

/* Rule 5, everything but the header. *entry_out on success. */
static mcs_status_t check_locked(mcs_owner_t *owner, const mcs_access_t *access, mcs_cap_right_t right,
                                 owner_segment_t **entry_out)
{
    mcs_status_t bad = right == MCS_CAP_READ ? MCS_ERR_INVALID_READ : MCS_ERR_INVALID_WRITE;
    owner_segment_t *entry = mcs_i_owner_find_locked(owner, access->instance);
    if (entry == NULL) {
        return MCS_ERR_SEGMENT_NOT_FOUND;
    }
    if (!mcs_extent_fits(access->offset, access->payload_len, mcs_segment_size(entry->segment),
                         mcs_segment_shift(entry->segment)) ||
        access->len == 0 || access->len > access->payload_len || access->from > access->payload_len - access->len) {
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

void mcs_i_owner_add_hold_locked(mcs_owner_t *owner, owner_hold_t *hold, const mcs_access_t *access,
                                 const owner_segment_t *entry)
{
    hold->access = *access;
    hold->segment = mcs_segment_get(entry->segment);
    hold->header = mcs_segment_header(entry->segment, access->offset);
    mcs_list_push_tail(&owner->holds, &hold->node);
    owner->hold_count++;
}

/* Out of the list; true: a release waits for that. */
static bool unlist_hold_locked(mcs_owner_t *owner, owner_hold_t *hold)
{
    mcs_list_remove(&hold->node);
    owner->hold_count--;
    return hold->wanted;
}

void mcs_i_owner_drop_hold_locked(mcs_owner_t *owner, owner_hold_t *hold)
{
    if (unlist_hold_locked(owner, hold)) {
        mcs_event_set(&owner->wake);
    }
    mcs_segment_put(hold->segment);
    mcs_free(hold);
}

static void end_hold(mcs_owner_t *owner, owner_hold_t *hold)
{
    mcs_mutex_lock(&owner->lock);
    bool wanted = unlist_hold_locked(owner, hold);
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
    uint8_t *payload = (uint8_t *)hold->header + mcs_extent_payload_offset(access->payload_len);
    *hold_out = (mcs_hold_t){
        .bytes = hold->stage != NULL ? mcs_i_owner_staged(hold) : payload + access->from,
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
        /* Without a system call but for what a mapper wrote ahead of the faulter. */
        status = mcs_segment_ensure(entry->segment, access->offset, MCS_EXTENT_HEADER);
    }
    if (status == MCS_OK) {
        const mcs_extent_header_t *header = mcs_segment_header(entry->segment, access->offset);
        mcs_extent_state_t state = mcs_extent_check(header, access->instance, access->generation, access->payload_len);
        /* Of a WRITTEN one only: another's may just be filled in. */
        bool right = state == MCS_EXTENT_WRITTEN && !mcs_segment_is_closed(entry->segment) &&
                     header->key_hash.lo == access->key_hash.lo && header->key_hash.hi == access->key_hash.hi;
        status = right ? MCS_OK : MCS_ERR_REPLICA_IS_GONE;
    }
    owner_hold_t *held = hold;
    if (status == MCS_OK && mcs_segment_far(entry->segment) != NULL) {
        status = mcs_i_owner_stage_locked(owner, access, entry, &hold, &held);
    } else if (status == MCS_OK) {
        mcs_i_owner_add_hold_locked(owner, hold, access, entry);
        hold = NULL;
    }
    mcs_mutex_unlock(&owner->lock);
    mcs_free(hold);
    if (status == MCS_OK) {
        fill_hold(held, hold_out);
    }
    return status;
}

static void read_end(void *arg, mcs_hold_t *hold)
{
    owner_hold_t *mine = hold->token;
    if (mine->stage != NULL) {
        mcs_i_owner_unstage(arg, mine);
    } else {
        end_hold(arg, mine);
    }
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

static void write_free(owner_write_t *write)
{
    mcs_free(write->claimed);
    mcs_free(write);
}

void mcs_i_owner_drop_writes_locked(mcs_owner_t *owner, mcs_id_t instance)
{
    for (size_t i = 0; i < OWNER_WRITE_BUCKETS; i++) {
        for (owner_write_t **at = &owner->writes[i]; *at != NULL;) {
            owner_write_t *write = *at;
            if (mcs_id_is_none(instance) || mcs_id_equal(write->instance, instance)) {
                *at = write->next;
                write_free(write);
            } else {
                at = &write->next;
            }
        }
    }
}

void mcs_i_owner_drop_write_locked(mcs_owner_t *owner, uint64_t generation)
{
    owner_write_t **at = write_at(owner, generation);
    owner_write_t *write = *at;
    if (write != NULL) {
        *at = write->next;
        write_free(write);
    }
}

/* Units that begin before byte `end`. */
static uint64_t units_before(uint64_t end)
{
    return (end + MCS_WRITE_UNIT - 1) / MCS_WRITE_UNIT;
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
    write->instance = access->instance;
    write->units_left = units_before(access->payload_len);
    write->claimed = MCS_NEW_ARRAY(uint64_t, (write->units_left + 63) / 64);
    if (write->claimed == NULL) {
        mcs_free(write);
        return MCS_ERR_NO_MEMORY;
    }
    *at = write;
    return MCS_OK;
}

/* What the revoked table and the header say to a write. */
static mcs_status_t may_write_locked(mcs_owner_t *owner, const mcs_access_t *access, const mcs_extent_header_t *header)
{
    if (mcs_revoked_has(owner_revoked_table(owner), access->generation) ||
        mcs_generation_epoch(access->generation) < __atomic_load_n(&owner->epoch, __ATOMIC_RELAXED)) {
        return MCS_ERR_REPLICA_IS_GONE; /* also by rule 12: of a master before the present one */
    }
    if (__atomic_load_n(&header->generation, __ATOMIC_RELAXED) != access->generation) {
        return MCS_OK; /* not opened yet */
    }
    switch ((mcs_extent_state_t)__atomic_load_n(&header->state, __ATOMIC_SEQ_CST)) {
    case MCS_EXTENT_OPEN: return MCS_OK;
    case MCS_EXTENT_WRITTEN: return MCS_ERR_INVALID_WRITE; /* rule 2 */
    case MCS_EXTENT_DEAD:
    default: return MCS_ERR_REPLICA_IS_GONE;
    }
}

/* The units of an access: [first, end). */
static uint64_t first_unit(const mcs_access_t *access)
{
    return access->from / MCS_WRITE_UNIT;
}

static uint64_t end_unit(const mcs_access_t *access)
{
    return units_before(access->from + access->len);
}

/* A unit arrives once: when two stores of one unit were under way, the second could still be arriving after the first
 * had made the extent WRITTEN (rule 2). False: one of them is taken. */
static bool claim_units(owner_write_t *write, const mcs_access_t *access)
{
    for (uint64_t unit = first_unit(access); unit < end_unit(access); unit++) {
        if ((write->claimed[unit / 64] >> (unit % 64) & 1) != 0) {
            return false;
        }
    }
    for (uint64_t unit = first_unit(access); unit < end_unit(access); unit++) {
        write->claimed[unit / 64] |= UINT64_C(1) << (unit % 64);
    }
    return true;
}

static void give_units_up_locked(mcs_owner_t *owner, const mcs_access_t *access)
{
    owner_write_t *write = *write_at(owner, access->generation);
    for (uint64_t unit = first_unit(access); write != NULL && unit < end_unit(access); unit++) {
        write->claimed[unit / 64] &= ~(UINT64_C(1) << (unit % 64));
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
    if (status != MCS_OK) {
        return status;
    }
    if (!claim_units(*write_at(owner, access->generation), access)) {
        return MCS_ERR_INVALID_WRITE;
    }
    if (!opened) {
        mcs_extent_open(hold->header, access->instance, access->generation, access->payload_len, access->key_hash);
        memset(mcs_extent_crcs(hold->header, access->payload_len), 0,
               mcs_extent_block_count(access->payload_len) * sizeof(uint32_t)); /* pieces add to them */
    }
    return MCS_OK;
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
    if (status == MCS_OK && mcs_segment_far(entry->segment) != NULL) {
        status = MCS_ERR_NOT_SUPPORTED; /* only who maps the device's memory writes there */
    }
    if (status == MCS_OK && !mcs_access_is_whole_units(access)) {
        status = MCS_ERR_INVALID_WRITE;
    }
    if (status == MCS_OK) {
        mcs_i_owner_add_hold_locked(owner, hold, access, entry); /* from here on a release leaves it pending */
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

/* A piece adds what its bytes are of the CRC of each block: pieces of a block come in any order. */
static void add_crcs(const owner_hold_t *hold, const uint32_t *crcs)
{
    const mcs_access_t *access = &hold->access;
    uint32_t *sums = mcs_extent_crcs(hold->header, access->payload_len);
    uint64_t end = access->from + access->len;
    for (uint64_t at = access->from; at < end;) {
        uint64_t block = at / MCS_EXTENT_CRC_BLOCK;
        uint64_t block_end = MCS_MIN((block + 1) * MCS_EXTENT_CRC_BLOCK, access->payload_len);
        uint64_t here_end = MCS_MIN(block_end, end);
        sums[block] ^= mcs_crc32c_shift(*crcs++, block_end - here_end);
        at = here_end;
    }
}

/* All bytes of the piece are here. */
static mcs_status_t take_piece_locked(mcs_owner_t *owner, const owner_hold_t *hold, const uint32_t *crcs,
                                      uint32_t crc_count)
{
    const mcs_access_t *access = &hold->access;
    owner_write_t *write = *write_at(owner, access->generation);
    if (write == NULL || __atomic_load_n(&hold->header->state, __ATOMIC_SEQ_CST) != MCS_EXTENT_OPEN) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    if (crc_count != mcs_extent_block_count(access->from + access->len) - access->from / MCS_EXTENT_CRC_BLOCK) {
        return MCS_ERR_INVALID_WRITE;
    }
    add_crcs(hold, crcs);
    write->units_left -= end_unit(access) - first_unit(access);
    if (write->units_left > 0) {
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
    mcs_mutex_lock(&owner->lock);
    if (status == MCS_OK) {
        status = take_piece_locked(owner, mine, crcs, crc_count);
    }
    if (status != MCS_OK) {
        give_units_up_locked(owner, &mine->access); /* the same session may send them again */
    }
    mcs_mutex_unlock(&owner->lock);
    end_hold(owner, mine);
    return status;
}

const mcs_owner_ops_t mcs_owner_serve_ops = {
    .read_begin = read_begin,
    .read_end = read_end,
    .write_begin = write_begin,
    .write_end = write_end,
};
