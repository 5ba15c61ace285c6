// The kernels. Built to PTX for compute_75 and code for sm_80, sm_90 and sm_100, embedded as one fatbin; loaded by the
// driver API, so nothing of the run-time library is used here. Written in what C and C++ have in common:
// tests/unit/gpu/test_kernels.c runs this very file on the processor, with a thread for each of a block's.
// tests/fake_cuda/kernels.c does the same in another way.
//
// Few blocks each: a bus is full with a few tens of KiB in flight, and the rest of the GPU is the engine's.
#include "gpu/kernels/rows.h"

#ifdef __cplusplus
#define KERNEL extern "C" __global__
#else
#define KERNEL __global__
#endif

#define THREADS     256
#define CRC_THREADS 128
#define POLY        0x82f63b78u

// ---- copies ----

// 16 bytes from any address, read as two aligned words of which each is inside [first, last).
__device__ static inline uint4 load_shifted(const uint4 *words, unsigned shift_bits)
{
    uint4 low = words[0];
    uint4 high = words[1];
    uint32_t w[9] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w, 0};
    unsigned skip = shift_bits / 32;
    unsigned bits = shift_bits % 32;
    uint32_t out[4];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        uint32_t a = 0;
        uint32_t b = 0;
#pragma unroll
        for (unsigned s = 0; s < 4; s++) { // chosen without indexing by a variable, which would go through memory
            a = skip == s ? w[i + s] : a;
            b = skip == s ? w[i + s + 1] : b;
        }
        out[i] = __funnelshift_r(a, b, bits);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

// One row, by all threads of a block. Writes are aligned words of 16 bytes; so are reads. What an aligned read would
// fetch from outside the source is copied byte by byte.
__device__ static void copy_row_bytes(const uint8_t *source, uint8_t *target, uint64_t len)
{
    uint64_t head = (16 - ((uint64_t)target & 15)) & 15;
    unsigned shift = (unsigned)(((uint64_t)source + head) & 15);
    if (shift != 0) {
        // The first aligned read begins `shift` bytes before the first whole word's source: not before the source.
        while (head < shift) {
            head += 16;
        }
    }
    if (head >= len) {
        head = len;
    }
    uint64_t words = (len - head) / 16;
    if (shift != 0 && words > 0) {
        // The last aligned read ends 16 - shift bytes behind the last word's source.
        uint64_t spare = len - head - words * 16;
        words -= spare < 16 - shift ? 1 : 0;
    }
    uint4 *to = (uint4 *)(target + head);
    if (shift == 0) {
        const uint4 *from = (const uint4 *)(source + head);
        uint64_t i = threadIdx.x;
        for (; i + 3 * THREADS < words; i += 4 * THREADS) {
            uint4 a = from[i];
            uint4 b = from[i + THREADS];
            uint4 c = from[i + 2 * THREADS];
            uint4 d = from[i + 3 * THREADS];
            to[i] = a;
            to[i + THREADS] = b;
            to[i + 2 * THREADS] = c;
            to[i + 3 * THREADS] = d;
        }
        for (; i < words; i += THREADS) {
            to[i] = from[i];
        }
    } else {
        const uint4 *from = (const uint4 *)(source + head - shift);
        for (uint64_t i = threadIdx.x; i < words; i += THREADS) {
            to[i] = load_shifted(from + i, shift * 8);
        }
    }
    uint64_t tail = head + words * 16;
    for (uint64_t i = threadIdx.x; i < head; i += THREADS) {
        target[i] = source[i];
    }
    for (uint64_t i = tail + threadIdx.x; i < len; i += THREADS) {
        target[i] = source[i];
    }
}

// Copies `count` rows; targets do not overlap anything of the call.
KERNEL void __launch_bounds__(THREADS) mcs_copy_rows(const gpu_copy_row_t *rows, uint32_t count)
{
    for (uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
        gpu_copy_row_t row = rows[i];
        copy_row_bytes((const uint8_t *)row.source, (uint8_t *)row.target, row.len);
    }
}

// ---- CRC32C ----

__device__ static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        product ^= b & (uint32_t) - (int32_t)(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLY & (uint32_t) - (int32_t)(b & 1));
    }
    return product;
}

__device__ static uint32_t power_of(uint64_t bytes)
{
    uint32_t power = 0x80000000u;
    uint32_t square = 0x80000000u >> 8;
    for (; bytes > 0; bytes >>= 1) {
        if (bytes & 1) {
            power = multiply(power, square);
        }
        square = multiply(square, square);
    }
    return power;
}

typedef struct crc_tables {
    uint32_t t[4][256];
} crc_tables_t;

__device__ static inline uint32_t step_byte(const crc_tables_t *tables, uint32_t crc, uint8_t byte)
{
    return tables->t[0][(crc ^ byte) & 255] ^ (crc >> 8);
}

__device__ static inline uint32_t step_word(const crc_tables_t *tables, uint32_t crc, uint32_t word)
{
    crc ^= word;
    return tables->t[3][crc & 255] ^ tables->t[2][(crc >> 8) & 255] ^ tables->t[1][(crc >> 16) & 255] ^
           tables->t[0][crc >> 24];
}

// The register of a stretch, from 0 on.
__device__ static uint32_t sum_stretch(const crc_tables_t *tables, const uint8_t *at, const uint8_t *end)
{
    uint32_t crc = 0;
    while (at < end && ((uint64_t)at & 15) != 0) {
        crc = step_byte(tables, crc, *at++);
    }
    for (; end - at >= 16; at += 16) {
        uint4 words = *(const uint4 *)at;
        crc = step_word(tables, crc, words.x);
        crc = step_word(tables, crc, words.y);
        crc = step_word(tables, crc, words.z);
        crc = step_word(tables, crc, words.w);
    }
    while (at < end) {
        crc = step_byte(tables, crc, *at++);
    }
    return crc;
}

// Adds the register of each row, moved over the `after` bytes behind it, to crcs[row.block] (exclusive or; zero
// before). The threads' stretches are of one length, the row ending with the last one's end: zeros before it, which the
// first threads stand for, change nothing.
KERNEL void __launch_bounds__(CRC_THREADS) mcs_crc_rows(const gpu_crc_row_t *rows, uint32_t count, uint32_t *crcs)
{
    __shared__ crc_tables_t tables;
    __shared__ uint32_t parts[CRC_THREADS];
    __shared__ uint32_t powers[8];
    unsigned thread = threadIdx.x;
    for (unsigned i = thread; i < 256; i += CRC_THREADS) {
        uint32_t crc = i;
        for (int level = 0; level < 4; level++) {
            for (int bit = 0; bit < 8; bit++) {
                crc = (crc >> 1) ^ (POLY & (uint32_t) - (int32_t)(crc & 1));
            }
            tables.t[level][i] = crc;
        }
    }
    for (uint32_t r = blockIdx.x; r < count; r += gridDim.x) {
        gpu_crc_row_t row = rows[r];
        uint32_t stretch = (row.len + CRC_THREADS - 1) / CRC_THREADS;
        stretch = (stretch + 15) & ~15u;
        if (thread == 0) {
            powers[0] = power_of(stretch);
            for (int level = 1; level < 7; level++) {
                powers[level] = multiply(powers[level - 1], powers[level - 1]);
            }
            powers[7] = power_of(row.after);
        }
        int64_t end = (int64_t)row.len - (int64_t)(CRC_THREADS - 1 - thread) * stretch;
        int64_t begin = end - stretch;
        begin = begin < 0 ? 0 : begin;
        const uint8_t *source = (const uint8_t *)row.source;
        __syncthreads(); // the tables and powers are there
        parts[thread] = end > 0 ? sum_stretch(&tables, source + begin, source + end) : 0;
        __syncthreads();
        for (int level = 0; level < 7; level++) {
            unsigned width = 1u << level;
            if (thread % (2 * width) == 2 * width - 1) {
                parts[thread] ^= multiply(parts[thread - width], powers[level]);
            }
            __syncthreads();
        }
        if (thread == CRC_THREADS - 1) {
            atomicXor(&crcs[row.block], multiply(parts[thread], powers[7]));
        }
        __syncthreads();
    }
}
