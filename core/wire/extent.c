/* See extent.h. */
#include "core/wire/extent.h"

#include <string.h>

/* A reader with an old descriptor may look at a header while the extent's next writer fills it. What it meets then is
 * told by the state, the generation and the CRC; that the accesses themselves are no data race takes atomic words. */
static void store_word(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static void store_header(mcs_extent_header_t *to, const mcs_extent_header_t *from)
{
    uint64_t words[MCS_EXTENT_HEADER / sizeof(uint64_t)];
    memcpy(words, from, sizeof(words));
    uint64_t *at = (uint64_t *)(void *)to;
    store_word(&at[0], words[0]);
    __atomic_store_n(&to->header_crc, from->header_crc, __ATOMIC_RELAXED); /* the other half is the state */
    for (size_t i = 2; i < MCS_ARRAY_LEN(words); i++) {
        store_word(&at[i], words[i]);
    }
}

/* What a reader's descriptor names may be no header any more, but lie in another value whose bytes are just being
 * written, as memcpy does it. Each word is then loaded by one instruction, may be any, and is told from a header's like
 * a header that is not the one asked for. The thread sanitizer, which cannot know that, does not look at these loads;
 * who found a header loads its state once more, under its eyes. */
MCS_NO_TSAN static uint32_t look_at_half(const uint32_t *half)
{
    return __atomic_load_n(half, __ATOMIC_SEQ_CST);
}

/* Without the block CRCs: only who holds the extent may look at those. */
MCS_NO_TSAN static void look_at_header(mcs_extent_header_t *to, const mcs_extent_header_t *from)
{
    uint64_t words[offsetof(mcs_extent_header_t, crc) / sizeof(uint64_t)];
    const uint64_t *at = (const uint64_t *)(const void *)from;
    for (size_t i = 0; i < MCS_ARRAY_LEN(words); i++) {
        words[i] = __atomic_load_n(&at[i], __ATOMIC_RELAXED);
    }
    memcpy(to, words, sizeof(words));
}
_Static_assert(offsetof(mcs_extent_header_t, state) == 8 && offsetof(mcs_extent_header_t, generation) == 16 &&
                   offsetof(mcs_extent_header_t, crc) == 48,
               "whole words");

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
    mcs_extent_header_t fresh = {
        .magic = MCS_EXTENT_MAGIC,
        .version = MCS_EXTENT_VERSION,
        .generation = generation,
        .payload_len = payload_len,
        .key_hash = key_hash,
    };
    fresh.header_crc = header_crc(&fresh, instance);
    /* DEAD first: a header that is half written must not look like the one it replaces. */
    __atomic_store_n(&header->state, (uint32_t)MCS_EXTENT_DEAD, __ATOMIC_SEQ_CST);
    store_header(header, &fresh);
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

static bool is_alive(uint32_t state)
{
    return state == MCS_EXTENT_OPEN || state == MCS_EXTENT_WRITTEN;
}

mcs_extent_state_t mcs_extent_check(const mcs_extent_header_t *header, mcs_id_t instance, uint64_t generation,
                                    uint64_t payload_len)
{
    uint32_t state = look_at_half(&header->state); /* first: see mcs_extent_kill */
    if (!is_alive(state)) {
        return MCS_EXTENT_DEAD;
    }
    mcs_extent_header_t seen;
    look_at_header(&seen, header);
    if (seen.magic != MCS_EXTENT_MAGIC || seen.version != MCS_EXTENT_VERSION || seen.generation != generation ||
        seen.payload_len != payload_len || seen.header_crc != header_crc(&seen, instance)) {
        return MCS_EXTENT_DEAD;
    }
    state = __atomic_load_n(&header->state, __ATOMIC_SEQ_CST);
    return is_alive(state) ? (mcs_extent_state_t)state : MCS_EXTENT_DEAD;
}

bool mcs_extent_find(const mcs_extent_header_t *header, mcs_id_t instance, mcs_extent_header_t *copy_out)
{
    mcs_extent_header_t copy;
    if (look_at_half(&header->magic) != MCS_EXTENT_MAGIC) {
        return false;
    }
    look_at_header(&copy, header);
    if (copy.version != MCS_EXTENT_VERSION || copy.payload_len == 0 || copy.payload_len > MCS_OBJECT_MAX ||
        copy.header_crc != header_crc(&copy, instance)) {
        return false;
    }
    copy.state = __atomic_load_n(&header->state, __ATOMIC_SEQ_CST);
    *copy_out = copy;
    return true;
}
