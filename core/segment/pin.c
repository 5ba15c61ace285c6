/* Pins of mapped memory (mapper.h): the slot, the checks behind it, the memory below it. Hot path: no lock, no
 * allocation, and no system call on memory that has been populated. */
#include <errno.h>
#include <sys/mman.h>

#include "core/base/thread.h"
#include "core/segment/mapper_internal.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* ---- populating a peer's memory ---- */

/* Whole pieces that the owner has faulted are populated at once and remembered; what is beyond is populated as far as
 * needed, each time. */
static mcs_status_t populate_peer(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, bool write)
{
    uint64_t faulted = __atomic_load_n(&mapping->ctl->faulted, __ATOMIC_ACQUIRE);
    uint64_t end = offset + len;
    for (uint64_t piece = offset / MAPPER_PIECE; piece * MAPPER_PIECE < end; piece++) {
        uint64_t bit = UINT64_C(1) << (piece % 64);
        uint64_t *word = &mapping->populated[piece / 64];
        if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bit) != 0) {
            continue;
        }
        uint64_t from = piece * MAPPER_PIECE;
        uint64_t to = MCS_MIN(from + MAPPER_PIECE, mapping->size);
        bool whole = to <= faulted;
        if (!whole) {
            from = MCS_ALIGN_DOWN(MCS_MAX(from, offset), UINT64_C(4096));
            to = MCS_MIN(MCS_ALIGN_UP(MCS_MIN(to, end), UINT64_C(4096)), mapping->size);
        }
        int rc;
        do {
            rc = madvise(mapping->base + from, to - from, whole || write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
        } while (rc != 0 && (errno == EINTR || errno == EAGAIN));
        if (rc != 0 && errno != EINVAL) {
            return MCS_ERR_NO_MEMORY;
        }
        if (whole) {
            __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
        }
    }
    return MCS_OK;
}

static mcs_status_t populate(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, bool write)
{
    if (mapping->own != NULL) {
        if (write) {
            mcs_segment_touch(mapping->own, offset + len);
        }
        return mcs_segment_ensure(mapping->own, offset, len);
    }
    if (write) {
        uint64_t high = __atomic_load_n(&mapping->ctl->high_mark, __ATOMIC_RELAXED);
        while (high < offset + len && !__atomic_compare_exchange_n(&mapping->ctl->high_mark, &high, offset + len, true,
                                                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            /* `high` was read again. */
        }
    }
    return populate_peer(mapping, offset, len, write);
}

/* ---- pins ---- */

static bool in_bounds(const mcs_mapping_t *mapping, uint64_t offset, uint64_t payload_len)
{
    if (payload_len == 0 || payload_len > MCS_OBJECT_MAX || offset % MCS_EXTENT_ALIGN != 0) {
        return false;
    }
    uint64_t need = mcs_extent_len(payload_len);
    return need <= mapping->size && offset <= mapping->size - need;
}

static mcs_slot_page_t *slots_of(const mcs_mapping_t *mapping)
{
    return mapping->conn->slots->base;
}

/* Publishes the slot and fills the pin, unchecked. */
static mcs_status_t pin_begin(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                              mcs_status_t out_of_bounds, mcs_pin_t *pin)
{
    if (!in_bounds(mapping, offset, payload_len) || generation == 0 || generation == UINT64_MAX) {
        return out_of_bounds;
    }
    if (mapper_conn_lost(mapping->conn)) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    int slot = mcs_slot_publish(slots_of(mapping), generation);
    if (slot < 0) {
        bool closed = __atomic_load_n(&slots_of(mapping)->closed, __ATOMIC_RELAXED) != 0;
        return closed ? MCS_ERR_TRANSFER_FAIL : MCS_ERR_LIMIT;
    }
    *pin = (mcs_pin_t){
        .mapping = mcs_mapping_ref(mapping),
        .header = (mcs_extent_header_t *)(void *)(mapping->base + offset),
        .payload = mapping->base + offset + mcs_extent_payload_offset(payload_len),
        .payload_len = payload_len,
        .generation = generation,
        .slot = slot,
    };
    __atomic_fetch_add(&mapping->counts->pins, 1, __ATOMIC_RELAXED);
    return MCS_OK;
}

/* The page (its session has ended, or the owner is leaving) or the segment. */
static bool is_closed(const mcs_mapping_t *mapping)
{
    return __atomic_load_n(&slots_of(mapping)->closed, __ATOMIC_SEQ_CST) != 0 ||
           __atomic_load_n(&mapping->ctl->closed, __ATOMIC_SEQ_CST) != 0;
}

static mcs_status_t check_read(mcs_mapping_t *mapping, const mcs_pin_t *pin, uint64_t offset, mcs_hash128_t key_hash)
{
    /* The header first: what a wrong descriptor points to may be a hole. */
    mcs_status_t status = populate(mapping, offset, MCS_EXTENT_HEADER, false);
    if (status != MCS_OK) {
        return status;
    }
    if (is_closed(mapping) ||
        mcs_extent_check(pin->header, mapping->instance, pin->generation, pin->payload_len) != MCS_EXTENT_WRITTEN ||
        pin->header->key_hash.lo != key_hash.lo || pin->header->key_hash.hi != key_hash.hi) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    return populate(mapping, offset, mcs_extent_len(pin->payload_len), false);
}

mcs_status_t mcs_pin_read(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                          mcs_hash128_t key_hash, mcs_pin_t *pin_out)
{
    mcs_pin_t pin;
    mcs_status_t status = pin_begin(mapping, offset, generation, payload_len, MCS_ERR_INVALID_READ, &pin);
    if (status != MCS_OK) {
        return status;
    }
    status = check_read(mapping, &pin, offset, key_hash);
    if (status != MCS_OK) {
        mcs_unpin(&pin);
        return status;
    }
    *pin_out = pin;
    return MCS_OK;
}

/* The order of the first two is slots.c's: the table of revoked generations, then whether anything is closed. */
static mcs_status_t check_write(mcs_mapping_t *mapping, const mcs_pin_t *pin, uint64_t offset)
{
    if (mcs_revoked_has(mapping->conn->revoked->base, pin->generation) || is_closed(mapping)) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    mcs_status_t status = populate(mapping, offset, mcs_extent_len(pin->payload_len), true);
    if (status != MCS_OK) {
        return status;
    }
    bool written =
        mcs_extent_check(pin->header, mapping->instance, pin->generation, pin->payload_len) == MCS_EXTENT_WRITTEN;
    return written ? MCS_ERR_INVALID_WRITE : MCS_OK; /* rule 2 */
}

mcs_status_t mcs_pin_write(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                           mcs_hash128_t key_hash, mcs_pin_t *pin_out)
{
    mcs_pin_t pin;
    mcs_status_t status = pin_begin(mapping, offset, generation, payload_len, MCS_ERR_INVALID_WRITE, &pin);
    if (status != MCS_OK) {
        return status;
    }
    status = check_write(mapping, &pin, offset);
    if (status != MCS_OK) {
        mcs_unpin(&pin);
        return status;
    }
    mcs_extent_open(pin.header, mapping->instance, generation, payload_len, key_hash);
    *pin_out = pin;
    return MCS_OK;
}

uint32_t *mcs_pin_crcs(const mcs_pin_t *pin)
{
    return mcs_extent_crcs(pin->header, pin->payload_len);
}

mcs_status_t mcs_pin_seal(mcs_pin_t *pin)
{
    return mcs_extent_seal(pin->header, pin->generation) ? MCS_OK : MCS_ERR_REPLICA_IS_GONE;
}

void mcs_unpin(mcs_pin_t *pin)
{
    mcs_mapping_t *mapping = pin->mapping;
    if (mapping == NULL) {
        return;
    }
    pin->mapping = NULL;
    if (mapping->token != mcs_process_token()) {
        return; /* a forked child: the slot is its parent's (rule 11) */
    }
    mcs_slot_clear(slots_of(mapping), pin->slot);
    __atomic_fetch_sub(&mapping->counts->pins, 1, __ATOMIC_RELAXED);
    mcs_mapping_put(mapping);
}
