/* CRC32C by carry-less multiplication over 512-bit vectors, for CPUs that have it. Internal to core/base.
 *
 * A stretch of bytes is a polynomial over GF(2). Moving 128 bits of it D bits towards the end multiplies it by x^D, of
 * which only the remainder counts: two 64 x 33-bit products (the upper half by x^(D+64), the lower by x^D), so that
 * four accumulators of 512 bits swallow 256 bytes at a time with two multiplications each. What is left in the end is
 * 16 bytes with the same remainder as all, which the CPU's crc32 instruction finishes ("Fast CRC Computation for
 * Generic Polynomials Using PCLMULQDQ Instruction", Gopal et al., Intel 2009). */
#ifndef MCS_BASE_CRC32C_FOLD_H
#define MCS_BASE_CRC32C_FOLD_H

#include "core/base/macros.h"

#define MCS_FOLD_STEP ((size_t)256)

typedef enum mcs_fold_store {
    MCS_FOLD_NONE,  /* sum only */
    MCS_FOLD_COPY,  /* and copy */
    MCS_FOLD_STREAM /* and copy past the caches; dst is a multiple of 64 */
} mcs_fold_store_t;

/* x^(bits) modulo the polynomial, bit-reflected: what crc32c.c knows how to make. */
typedef uint32_t (*mcs_fold_power_fn)(uint32_t bytes);
/* False: this CPU cannot. Once, at load time. */
bool mcs_i_crc32c_fold_init(mcs_fold_power_fn power_of);
/* After MCS_FOLD_STREAM, before anybody is told that the bytes are there. */
void mcs_i_crc32c_fold_fence(void);
/* `crc` is the inverted value, as the instruction takes it. `len` is a multiple of MCS_FOLD_STEP, not 0. */
uint32_t mcs_i_crc32c_fold(uint32_t crc, void *dst, const void *src, size_t len, mcs_fold_store_t store);

#endif
