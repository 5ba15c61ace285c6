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

#define PAGE UINT64_C(4096) /* the smallest there is */

/* ---- populating a peer's memory ---- */

typedef enum purpose { PURPOSE_LOOK, PURPOSE_READ, PURPOSE_WRITE } purpose_t;

static mcs_status_t populate_range(uint8_t *base, uint64_t len, int advice)
{
    int rc;
    do {
        rc = madvise(base, len, advice);
    } while (rc != 0 && (errno == EINTR || errno == EAGAIN));
    /* EINVAL: a kernel before 5.14 populates by touch. */
    return rc == 0 || errno == EINVAL ? MCS_OK : MCS_ERR_NO_MEMORY;
}

/* Whole pieces, remembered: hot accesses cost a look at a bit. Where the owner has faulted there are pages to map,
 * which MADV_POPULATE_READ does for many at once (the mapping is writable all the same). Beyond, somebody writes or has
 * written, and what is still a hole in that piece will be needed next. Only a first look at a header, which may be a
 * wrong one, takes no more than the pages asked for. */
static mcs_status_t populate_peer(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, purpose_t purpose)
{
    uint64_t size = mapping->memory->size;
    uint64_t faulted = __atomic_load_n(&mapping->ctl->faulted, __ATOMIC_ACQUIRE);
    uint64_t end = offset + len;
    for (uint64_t piece = offset / MAPPER_PIECE; piece * MAPPER_PIECE < end; piece++) {
        uint64_t bit = UINT64_C(1) << (piece % 64);
        uint64_t *word = &mapping->populated[piece / 64];
        if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bit) != 0) {
            continue;
        }
        uint64_t from = piece * MAPPER_PIECE;
        uint64_t to = MCS_MIN(from + MAPPER_PIECE, size);
        bool whole = to <= faulted || purpose != PURPOSE_LOOK;
        if (!whole) {
            from = MCS_ALIGN_DOWN(MCS_MAX(from, offset), PAGE);
            to = MCS_MIN(MCS_ALIGN_UP(MCS_MIN(to, end), PAGE), size);
        }
        bool fresh = to > faulted && purpose == PURPOSE_WRITE;
        mcs_status_t status =
            populate_range(mapping->base + from, to - from, fresh ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
        if (status != MCS_OK) {
            return status;
        }
        if (whole) {
            __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
        }
    }
    return MCS_OK;
}

/* So that the owner faults further ahead. */
static void raise_high_mark(mcs_segment_ctl_t *ctl, uint64_t end)
{
    uint64_t high = __atomic_load_n(&ctl->high_mark, __ATOMIC_RELAXED);
    while (high < end &&
           !__atomic_compare_exchange_n(&ctl->high_mark, &high, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        /* `high` was read again. */
    }
}

static mcs_status_t populate(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, purpose_t purpose)
{
    if (mapping->own != NULL) {
        if (purpose == PURPOSE_WRITE) {
            mcs_segment_touch(mapping->own, offset + len);
        }
        return mcs_segment_ensure(mapping->own, offset, len);
    }
    if (purpose == PURPOSE_WRITE) {
        raise_high_mark(mapping->ctl, offset + len);
    }
    /* Of a far segment: the headers that stand for these bytes. */
    uint64_t from = offset >> mapping->shift;
    uint64_t to = MCS_ALIGN_UP(offset + len, UINT64_C(1) << mapping->shift) >> mapping->shift;
    return populate_peer(mapping, from, to - from, purpose);
}

/* ---- pins ---- */

static mcs_slot_page_t *slots_of(const mcs_mapping_t *mapping)
{
    return mapping->conn->slots->base;
}

/* Publishes the slot and fills the pin, unchecked. */
static mcs_status_t pin_begin(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                              mcs_status_t out_of_bounds, mcs_pin_t *pin)
{
    if (!mcs_extent_fits(offset, payload_len, mapping->size, mapping->shift) || generation == 0 ||
        generation == UINT64_MAX) {
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
    const mcs_mem_far_t *far = mapping->far.memory;
    *pin = (mcs_pin_t){
        .mapping = mcs_mapping_ref(mapping),
        .header = (mcs_extent_header_t *)(void *)(mapping->base + (offset >> mapping->shift)),
        .payload = far != NULL ? far->base + offset : mapping->base + offset + mcs_extent_payload_offset(payload_len),
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
    mcs_status_t status = populate(mapping, offset, MCS_EXTENT_HEADER, PURPOSE_LOOK);
    if (status != MCS_OK) {
        return status;
    }
    if (is_closed(mapping) ||
        mcs_extent_check(pin->header, mapping->instance, pin->generation, pin->payload_len) != MCS_EXTENT_WRITTEN ||
        pin->header->key_hash.lo != key_hash.lo || pin->header->key_hash.hi != key_hash.hi) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    return populate(mapping, offset, mcs_extent_room(pin->payload_len, mapping->shift), PURPOSE_READ);
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

/* The order is slots.c's: the table of revoked generations, then whether anything is closed, then the epoch: a
 * reservation of an earlier master is void (rule 12). */
static mcs_status_t check_write(mcs_mapping_t *mapping, const mcs_pin_t *pin, uint64_t offset)
{
    if (mcs_revoked_has(mapping->conn->revoked->base, pin->generation) || is_closed(mapping) ||
        mcs_generation_epoch(pin->generation) < __atomic_load_n(&slots_of(mapping)->epoch, __ATOMIC_SEQ_CST)) {
        return MCS_ERR_REPLICA_IS_GONE;
    }
    mcs_status_t status = populate(mapping, offset, mcs_extent_room(pin->payload_len, mapping->shift), PURPOSE_WRITE);
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
