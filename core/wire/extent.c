/* See extent.h. */
#include "core/wire/extent.h"

#include <string.h>

/* Covers what never changes between OPEN and DEAD; seeded with the instance. */
static uint32_t header_crc(const mcs_extent_header_t *header, mcs_id_t instance)
{
    uint32_t crc = mcs_crc32c(0, &instance, sizeof(instance));
    crc = mcs_crc32c(crc, header, offsetof(mcs_extent_header_t, state));
    return mcs_crc32c(crc, &header->generation,
                      offsetof(mcs_extent_header_t, crc) - offsetof(mcs_extent_header_t, generation));
}

void mcs_extent_open(mcs_extent_header_t *header, mcs_id_t instance, uint64_t generation, uint64_t payload_len,
                     mcs_hash128_t key_hash)
{
    /* DEAD first: a header that is half written must not look like the one it replaces. */
    __atomic_store_n(&header->state, (uint32_t)MCS_EXTENT_DEAD, __ATOMIC_RELEASE);
    header->magic = MCS_EXTENT_MAGIC;
    header->version = MCS_EXTENT_VERSION;
    header->flags = 0;
    header->generation = generation;
    header->payload_len = payload_len;
    header->key_hash = key_hash;
    memset(header->crc, 0, sizeof(header->crc));
    header->header_crc = header_crc(header, instance);
    __atomic_store_n(&header->state, (uint32_t)MCS_EXTENT_OPEN, __ATOMIC_RELEASE);
}

bool mcs_extent_seal(mcs_extent_header_t *header, uint64_t generation)
{
    uint32_t expected = MCS_EXTENT_OPEN;
    if (__atomic_load_n(&header->generation, __ATOMIC_RELAXED) != generation) {
        return false;
    }
    /* Release: bytes and CRCs before the state that promises them. */
    return __atomic_compare_exchange_n(&header->state, &expected, (uint32_t)MCS_EXTENT_WRITTEN, false, __ATOMIC_RELEASE,
                                       __ATOMIC_RELAXED);
}

void mcs_extent_kill(mcs_extent_header_t *header)
{
    /* Sequentially consistent: the owner's store here and its scan of the slots that follows pair with the mapper's
     * store to its slot and its load of this state: one of the two always sees the other (rule 3). */
    __atomic_store_n(&header->state, (uint32_t)MCS_EXTENT_DEAD, __ATOMIC_SEQ_CST);
}

mcs_extent_state_t mcs_extent_check(const mcs_extent_header_t *header, mcs_id_t instance, uint64_t generation,
                                    uint64_t payload_len)
{
    uint32_t state = __atomic_load_n(&header->state, __ATOMIC_SEQ_CST);
    if (state != MCS_EXTENT_OPEN && state != MCS_EXTENT_WRITTEN) {
        return MCS_EXTENT_DEAD;
    }
    if (header->magic != MCS_EXTENT_MAGIC || header->version != MCS_EXTENT_VERSION ||
        header->generation != generation || header->payload_len != payload_len ||
        header->header_crc != header_crc(header, instance)) {
        return MCS_EXTENT_DEAD;
    }
    return (mcs_extent_state_t)state;
}
