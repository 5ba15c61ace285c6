/* CRC32C (Castagnoli), see hash.h.
 *
 * The CPU's instruction has a latency of 3 cycles and a throughput of 1, so three streams run side by side over
 * adjacent stretches of the buffer and are joined by "shift" tables: crc(A|B) = shift_len(B)(crc(A)) ^ crc(B), where
 * shift is multiplication by x^(8 len) modulo the polynomial, a linear map, kept as 4 x 256 words for each of the two
 * stretch lengths. CPUs with wide carry-less multiplication do most of it by folding (crc32c_fold.h), at the speed of
 * memcpy. The copies store each word they have loaded for the sum, so the bytes go through the core once.
 * Tables are made once, at load time. */
#include <string.h>

#include "core/base/buf.h"
#include "core/base/crc32c_fold.h"
#include "core/base/hash.h"

#define POLY          UINT32_C(0x82f63b78) /* reflected */
#define LONG_STRETCH  ((size_t)8192)
#define SHORT_STRETCH ((size_t)256)
#define FOLD_MIN      ((size_t)512)
#define STREAM_LINE   ((size_t)64)

typedef uint32_t shift_table_t[4][256];

static uint32_t g_byte_table[8][256];
static uint32_t g_zeros[64][32]; /* the operator that appends 2^k zero bytes */
static shift_table_t g_long_shift;
static shift_table_t g_short_shift;
static bool g_have_instruction;
static bool g_have_fold;

/* Multiplies the 32x32 GF(2) matrix with a vector. */
static uint32_t matrix_times(const uint32_t *matrix, uint32_t vector)
{
    uint32_t sum = 0;
    for (; vector != 0; vector >>= 1, matrix++) {
        sum ^= (vector & 1) != 0 ? *matrix : 0;
    }
    return sum;
}

static void matrix_square(uint32_t *square, const uint32_t *matrix)
{
    for (int i = 0; i < 32; i++) {
        square[i] = matrix_times(matrix, matrix[i]);
    }
}

static void make_zeros(void)
{
    uint32_t bits[2][32];
    bits[0][0] = POLY; /* one zero bit */
    for (int i = 1; i < 32; i++) {
        bits[0][i] = UINT32_C(1) << (i - 1);
    }
    matrix_square(bits[1], bits[0]); /* 2 bits */
    matrix_square(bits[0], bits[1]); /* 4 bits */
    matrix_square(g_zeros[0], bits[0]);
    for (size_t k = 1; k < MCS_ARRAY_LEN(g_zeros); k++) {
        matrix_square(g_zeros[k], g_zeros[k - 1]);
    }
}

uint32_t mcs_crc32c_shift(uint32_t crc, uint64_t len)
{
    for (size_t k = 0; len != 0; len >>= 1, k++) {
        crc = (len & 1) != 0 ? matrix_times(g_zeros[k], crc) : crc;
    }
    return crc;
}

static void make_shift_table(shift_table_t table, size_t len)
{
    for (uint32_t n = 0; n < 256; n++) {
        for (int k = 0; k < 4; k++) {
            table[k][n] = mcs_crc32c_shift(n << (8 * k), len);
        }
    }
}

static uint32_t power_of(uint32_t bytes)
{
    return mcs_crc32c_shift(UINT32_C(1) << 31, bytes);
}

__attribute__((constructor)) static void make_tables(void)
{
    make_zeros();
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int k = 0; k < 8; k++) {
            crc = (crc & 1) != 0 ? (crc >> 1) ^ POLY : crc >> 1;
        }
        g_byte_table[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++) {
        for (int k = 1; k < 8; k++) {
            uint32_t crc = g_byte_table[k - 1][n];
            g_byte_table[k][n] = (crc >> 8) ^ g_byte_table[0][crc & 0xff];
        }
    }
    make_shift_table(g_long_shift, LONG_STRETCH);
    make_shift_table(g_short_shift, SHORT_STRETCH);
#if defined(__x86_64__)
    g_have_instruction = __builtin_cpu_supports("sse4.2") != 0;
    g_have_fold = mcs_i_crc32c_fold_init(power_of);
#endif
}

/* Table method for CPUs without the instruction, and for reference in tests. Works on the inverted value. */
static uint32_t table_crc(uint32_t crc, const uint8_t *p, size_t len)
{
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t word = mcs_load_u64(p) ^ crc;
        crc = 0;
        for (int k = 0; k < 8; k++) {
            crc ^= g_byte_table[7 - k][(word >> (8 * k)) & 0xff];
        }
    }
    for (; len > 0; len--, p++) {
        crc = (crc >> 8) ^ g_byte_table[0][(crc ^ *p) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__)
static inline uint32_t shift(shift_table_t table, uint32_t crc)
{
    return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff] ^ table[3][crc >> 24];
}

/* One body for "sum" and "copy and sum": `dst` is a compile-time NULL in the first, so its stores vanish. */
__attribute__((target("sse4.2"), always_inline)) static inline uint32_t
three_streams(uint32_t crc, uint8_t *dst, const uint8_t *p, size_t stretch, shift_table_t table)
{
    uint64_t a = crc;
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < stretch; i += 8) {
        uint64_t wa = mcs_load_u64(p + i);
        uint64_t wb = mcs_load_u64(p + stretch + i);
        uint64_t wc = mcs_load_u64(p + 2 * stretch + i);
        a = __builtin_ia32_crc32di(a, wa);
        b = __builtin_ia32_crc32di(b, wb);
        c = __builtin_ia32_crc32di(c, wc);
        if (dst != NULL) {
            mcs_store_u64(dst + i, wa);
            mcs_store_u64(dst + stretch + i, wb);
            mcs_store_u64(dst + 2 * stretch + i, wc);
        }
    }
    uint32_t ab = shift(table, (uint32_t)a) ^ (uint32_t)b;
    return shift(table, ab) ^ (uint32_t)c;
}

__attribute__((target("sse4.2"), always_inline)) static inline uint32_t instruction_crc(uint32_t crc, uint8_t *dst,
                                                                                        const uint8_t *p, size_t len)
{
    for (; len >= 3 * LONG_STRETCH; len -= 3 * LONG_STRETCH, p += 3 * LONG_STRETCH) {
        crc = three_streams(crc, dst, p, LONG_STRETCH, g_long_shift);
        dst = dst != NULL ? dst + 3 * LONG_STRETCH : NULL;
    }
    for (; len >= 3 * SHORT_STRETCH; len -= 3 * SHORT_STRETCH, p += 3 * SHORT_STRETCH) {
        crc = three_streams(crc, dst, p, SHORT_STRETCH, g_short_shift);
        dst = dst != NULL ? dst + 3 * SHORT_STRETCH : NULL;
    }
    uint64_t sum = crc;
    if (dst != NULL) {
        memcpy(dst, p, len);
    }
    for (; len >= 8; len -= 8, p += 8) {
        sum = __builtin_ia32_crc32di(sum, mcs_load_u64(p));
    }
    crc = (uint32_t)sum;
    for (; len > 0; len--, p++) {
        crc = __builtin_ia32_crc32qi(crc, *p);
    }
    return crc;
}

__attribute__((target("sse4.2"))) static uint32_t fast_sum(uint32_t crc, const uint8_t *p, size_t len)
{
    if (g_have_fold && len >= FOLD_MIN) {
        size_t n = len - len % MCS_FOLD_STEP;
        crc = mcs_i_crc32c_fold(crc, NULL, p, n, MCS_FOLD_NONE);
        p += n;
        len -= n;
    }
    return instruction_crc(crc, NULL, p, len);
}

__attribute__((target("sse4.2"))) static uint32_t fast_copy(uint32_t crc, uint8_t *dst, const uint8_t *p, size_t len,
                                                            mcs_fold_store_t store)
{
    if (g_have_fold && len >= FOLD_MIN) {
        size_t head = -(uintptr_t)dst % STREAM_LINE;
        if (store == MCS_FOLD_STREAM && head != 0) {
            crc = instruction_crc(crc, dst, p, head);
            dst += head;
            p += head;
            len -= head;
        }
        size_t n = len - len % MCS_FOLD_STEP;
        crc = mcs_i_crc32c_fold(crc, dst, p, n, store);
        dst += n;
        p += n;
        len -= n;
    }
    return instruction_crc(crc, dst, p, len);
}
#endif

uint32_t mcs_crc32c(uint32_t crc, const void *bytes, size_t len)
{
#if defined(__x86_64__)
    if (MCS_LIKELY(g_have_instruction)) {
        return ~fast_sum(~crc, bytes, len);
    }
#endif
    return ~table_crc(~crc, bytes, len);
}

static uint32_t copy(uint32_t crc, void *dst, const void *src, size_t len, mcs_fold_store_t store)
{
    if (len == 0) {
        return crc;
    }
#if defined(__x86_64__)
    if (MCS_LIKELY(g_have_instruction)) {
        return ~fast_copy(~crc, dst, src, len, store);
    }
#endif
    (void)store;
    memcpy(dst, src, len);
    return ~table_crc(~crc, src, len);
}

uint32_t mcs_copy_crc32c(uint32_t crc, void *dst, const void *src, size_t len)
{
    return copy(crc, dst, src, len, MCS_FOLD_COPY);
}

uint32_t mcs_stream_crc32c(uint32_t crc, void *dst, const void *src, size_t len)
{
    return copy(crc, dst, src, len, MCS_FOLD_STREAM);
}

void mcs_stream_fence(void)
{
    mcs_i_crc32c_fold_fence();
}

uint32_t mcs_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    return mcs_crc32c_shift(crc_a, len_b) ^ crc_b;
}
