/* The layout of an extent in a segment: what writers, readers and owners agree on (memory ABI between processes).
 *
 *   offset (multiple of 64)
 *   +0   64-byte header
 *   +64  CRC table: one u32 per 1 MiB block of payload, only when there are more than MCS_EXTENT_INLINE_CRCS blocks;
 * padded to 64 +…   payload, 64-byte aligned; the extent's length is rounded up to 64
 *
 * CRCs of objects of up to 4 MiB live in the header itself, so that a 4 KiB object costs 64 bytes and not 128.
 * The header's own CRC covers every field but `state` and the block CRCs and is seeded with the segment's instance id,
 * so that payload bytes that look like a header do not pass for one. `state` changes by compare-and-swap: OPEN ->
 * WRITTEN by the writer, any -> DEAD by the owner.
 *
 * A far segment has its payloads in the memory of a device, where no processor can look, and its headers apart, in host
 * memory: for each 4 KiB of the segment a place of 64 bytes. An extent begins at a multiple of 4 KiB with its payload;
 * its header lies at the place of that offset and its CRC table, if it has one, in the places behind, which are its own
 * too.
 *
 *   host memory    | header | table … |        | header |
 *   offset / 64    0                           n
 *
 * Pure functions on memory the caller may touch. */
#ifndef MCS_WIRE_EXTENT_H
#define MCS_WIRE_EXTENT_H

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/status.h"

#define MCS_EXTENT_MAGIC       UINT32_C(0x5458434d) /* "MCXT" */
#define MCS_EXTENT_VERSION     1
#define MCS_EXTENT_ALIGN       64
#define MCS_EXTENT_HEADER      64
#define MCS_EXTENT_INLINE_CRCS 4
#define MCS_EXTENT_CRC_BLOCK   (UINT64_C(1) << 20)
/* Seed of the key hash in headers: the same in every client, or readers refuse what writers wrote. */
#define MCS_EXTENT_KEY_SEED UINT64_C(0x6d6f6f6e63616b65)
/* The largest payload of one object. */
#define MCS_OBJECT_MAX (UINT64_C(1) << 40)

typedef enum mcs_extent_state {
    MCS_EXTENT_OPEN = 0x4e45504f,    /* being written */
    MCS_EXTENT_WRITTEN = 0x54495257, /* all bytes and CRCs are in place */
    MCS_EXTENT_DEAD = 0x44414544     /* given back, or on its way */
} mcs_extent_state_t;

typedef struct mcs_extent_header {
    uint32_t magic;
    uint16_t version;
    uint16_t flags; /* 0 */
    uint32_t state; /* atomic; mcs_extent_state_t */
    uint32_t header_crc;
    uint64_t generation;
    uint64_t payload_len;
    mcs_hash128_t key_hash;
    uint32_t crc[MCS_EXTENT_INLINE_CRCS];
} mcs_extent_header_t;
_Static_assert(sizeof(mcs_extent_header_t) == MCS_EXTENT_HEADER, "memory ABI");

/* What a header says about its key. */
static inline mcs_hash128_t mcs_extent_key_hash(const void *key, size_t len)
{
    return mcs_hash128(MCS_EXTENT_KEY_SEED, key, len);
}
static inline uint64_t mcs_extent_block_count(uint64_t payload_len)
{
    return (payload_len + MCS_EXTENT_CRC_BLOCK - 1) / MCS_EXTENT_CRC_BLOCK;
}
/* Bytes before the payload. */
static inline uint64_t mcs_extent_payload_offset(uint64_t payload_len)
{
    uint64_t blocks = mcs_extent_block_count(payload_len);
    uint64_t table = blocks > MCS_EXTENT_INLINE_CRCS ? MCS_ALIGN_UP(blocks * sizeof(uint32_t), MCS_EXTENT_ALIGN) : 0;
    return MCS_EXTENT_HEADER + table;
}
/* Bytes the allocator hands out for a payload. payload_len <= MCS_OBJECT_MAX. */
static inline uint64_t mcs_extent_len(uint64_t payload_len)
{
    return MCS_ALIGN_UP(mcs_extent_payload_offset(payload_len) + payload_len, MCS_EXTENT_ALIGN);
}
/* Far segments. */
#define MCS_EXTENT_FAR_SHIFT 6
#define MCS_EXTENT_FAR_ALIGN ((uint64_t)MCS_EXTENT_HEADER << MCS_EXTENT_FAR_SHIFT)
/* What an extent begins and ends at, in a segment whose headers lie at offset >> shift. */
static inline uint64_t mcs_extent_align(unsigned shift)
{
    return (uint64_t)MCS_EXTENT_ALIGN << shift;
}
/* Bytes the allocator hands out there. */
static inline uint64_t mcs_extent_room(uint64_t payload_len, unsigned shift)
{
    return shift == 0 ? mcs_extent_len(payload_len) : MCS_ALIGN_UP(payload_len, mcs_extent_align(shift));
}
/* Can an extent of that payload lie there, in a segment of `size` bytes? */
static inline bool mcs_extent_fits(uint64_t offset, uint64_t payload_len, uint64_t size, unsigned shift)
{
    if (payload_len == 0 || payload_len > MCS_OBJECT_MAX || offset % mcs_extent_align(shift) != 0) {
        return false;
    }
    uint64_t need = mcs_extent_room(payload_len, shift);
    return need <= size && offset <= size - need;
}
/* Where block CRCs are, given the header's address. */
static inline uint32_t *mcs_extent_crcs(mcs_extent_header_t *header, uint64_t payload_len)
{
    return mcs_extent_block_count(payload_len) > MCS_EXTENT_INLINE_CRCS
               ? (uint32_t *)(void *)((char *)header + MCS_EXTENT_HEADER)
               : header->crc;
}

/* A generation is the epoch of the master that made it, and a count: never used twice. */
#define MCS_GENERATION_EPOCH_SHIFT 30u
/* The highest epoch that a clock or a client's word makes a master take: 16 million restarts are left above it. */
#define MCS_EPOCH_TAKEN_MAX ((UINT64_C(1) << (64u - MCS_GENERATION_EPOCH_SHIFT)) - (UINT64_C(1) << 24))
static inline uint64_t mcs_generation_epoch(uint64_t generation)
{
    return generation >> MCS_GENERATION_EPOCH_SHIFT;
}

/* Fills a header in state OPEN (state stored last, release). */
void mcs_extent_open(mcs_extent_header_t *header, mcs_id_t instance, uint64_t generation, uint64_t payload_len,
                     mcs_hash128_t key_hash);
/* OPEN -> WRITTEN (release). False when the owner has marked it DEAD meanwhile or it is another generation's. */
bool mcs_extent_seal(mcs_extent_header_t *header, uint64_t generation);
/* any -> DEAD, whatever was there (sequentially consistent store). */
void mcs_extent_kill(mcs_extent_header_t *header);
/* The state if magic, version, generation, header CRC and length agree, else MCS_EXTENT_DEAD. Sequentially consistent
 * load first. */
mcs_extent_state_t mcs_extent_check(const mcs_extent_header_t *header, mcs_id_t instance, uint64_t generation,
                                    uint64_t payload_len);
/* Is there a header of this instance at all, in whatever state? *copy_out has it, but for the block CRCs. */
bool mcs_extent_find(const mcs_extent_header_t *header, mcs_id_t instance, mcs_extent_header_t *copy_out);

#endif
