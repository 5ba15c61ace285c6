/* CRC32C as polynomials over GF(2), for sums that are made in parts. A register (32 bits, reflected: bit 31 is x^0) is
 * multiplied by x^(8n) when n zero bytes pass; the sum of a whole is the exclusive or of its parts' registers, each
 * moved over the bytes behind it. Registers here start at 0; `finish` adds the usual start and end. */
#ifndef MCS_GPU_CRC_MATH_H
#define MCS_GPU_CRC_MATH_H

#include <stdint.h>

#define GPU_CRC_POLY UINT32_C(0x82f63b78)
#define GPU_CRC_ONE  UINT32_C(0x80000000)

static inline uint32_t gpu_crc_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (int i = 0; i < 32; i++) {
        product ^= b & (uint32_t) - (int32_t)(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (GPU_CRC_POLY & (uint32_t) - (int32_t)(b & 1));
    }
    return product;
}

/* x^(8 * bytes). */
static inline uint32_t gpu_crc_power(uint64_t bytes)
{
    uint32_t power = GPU_CRC_ONE;
    uint32_t square = GPU_CRC_ONE >> 8;
    for (; bytes > 0; bytes >>= 1) {
        if ((bytes & 1) != 0) {
            power = gpu_crc_multiply(power, square);
        }
        square = gpu_crc_multiply(square, square);
    }
    return power;
}

/* The CRC32C of `len` bytes whose register, from 0 on, is `sum`. */
static inline uint32_t gpu_crc_finish(uint32_t sum, uint64_t len)
{
    return sum ^ gpu_crc_multiply(UINT32_MAX, gpu_crc_power(len)) ^ UINT32_MAX;
}

#endif
