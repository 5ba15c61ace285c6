/* Hashes and checksums. Pure functions.
 *  - mcs_hash128: XXH3-128 with a seed: keys of the index and of extent headers.
 *  - mcs_siphash24: the capability MAC (SipHash-2-4, Aumasson & Bernstein 2012).
 *  - CRC32C (Castagnoli, reflected, init and final xor ~0, RFC 3720 B.4): the CPU's instruction, several streams at
 * once; a table on CPUs without it. mcs_copy_crc32c copies and sums in one pass. */
#ifndef MCS_BASE_HASH_H
#define MCS_BASE_HASH_H

#include "core/base/macros.h"

typedef struct mcs_hash128 {
    uint64_t lo;
    uint64_t hi;
} mcs_hash128_t;

mcs_hash128_t mcs_hash128(uint64_t seed, const void *bytes, size_t len);
uint64_t mcs_hash64(uint64_t seed, const void *bytes, size_t len);

typedef struct mcs_mac_key {
    uint64_t k0;
    uint64_t k1;
} mcs_mac_key_t;
uint64_t mcs_siphash24(const mcs_mac_key_t *key, const void *bytes, size_t len);

/* crc of the first part is passed on to the next; start with 0. */
uint32_t mcs_crc32c(uint32_t crc, const void *bytes, size_t len);
/* memcpy + mcs_crc32c of the copied bytes, in one pass. Regions do not overlap. */
uint32_t mcs_copy_crc32c(uint32_t crc, void *dst, const void *src, size_t len);
/* The same past the caches, where the CPU can: for pieces of something larger than those. The target is not read to be
 * written, and whoever reads it soon finds it in memory only. Other threads are to be told of the bytes only after
 * mcs_stream_fence on this one, which waits until they have arrived: once for many pieces. */
uint32_t mcs_stream_crc32c(uint32_t crc, void *dst, const void *src, size_t len);
void mcs_stream_fence(void);
#define MCS_STREAM_MIN ((uint64_t)512 << 10) /* a call that moves as much streams */
/* What crc(A) adds (by xor) to the crc of a whole in which `len` bytes follow A: the crc of the whole is the xor of
 * what its parts add, in any order. Some nanoseconds for each bit that is set in `len`. */
uint32_t mcs_crc32c_shift(uint32_t crc, uint64_t len);
/* crc(A|B) from crc(A), crc(B) and the length of B. */
uint32_t mcs_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);

#endif
