/* See crc32c_fold.h. */
#include "core/base/crc32c_fold.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define PAGE   4096
#define TARGET __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,avx512bw,vpclmulqdq")))
#define INLINE TARGET __attribute__((always_inline)) static inline

/* For moving by `bits`: {of the half that comes first, of the other}. */
typedef struct fold_key {
    uint64_t first;
    uint64_t second;
} fold_key_t;

static fold_key_t g_by_2048;
static fold_key_t g_by_512;
static fold_key_t g_by_128;

/* Products of reflected values come out one bit low: the key is shifted for it. Each lacks 32 bits of its power, which
 * is the place of a 33-bit value in 64 bits. */
static fold_key_t make_key(mcs_fold_power_fn power_of, uint32_t bits)
{
    return (fold_key_t){(uint64_t)power_of((bits + 32) / 8) << 1, (uint64_t)power_of((bits - 32) / 8) << 1};
}

bool mcs_i_crc32c_fold_init(mcs_fold_power_fn power_of)
{
    bool can = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") &&
               __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("vpclmulqdq");
    if (can) {
        g_by_2048 = make_key(power_of, 2048);
        g_by_512 = make_key(power_of, 512);
        g_by_128 = make_key(power_of, 128);
    }
    return can;
}

INLINE __m512i wide_key(const fold_key_t *key)
{
    return _mm512_broadcast_i32x4(_mm_set_epi64x((long long)key->second, (long long)key->first));
}

INLINE __m512i fold(__m512i acc, __m512i next, __m512i key)
{
    __m512i first = _mm512_clmulepi64_epi128(acc, key, 0x00);
    __m512i second = _mm512_clmulepi64_epi128(acc, key, 0x11);
    return _mm512_ternarylogic_epi64(first, second, next, 0x96); /* xor of the three */
}

INLINE __m128i fold_narrow(__m128i acc, __m128i next, __m128i key)
{
    __m128i first = _mm_clmulepi64_si128(acc, key, 0x00);
    __m128i second = _mm_clmulepi64_si128(acc, key, 0x11);
    return _mm_xor_si128(_mm_xor_si128(first, second), next);
}

INLINE __m512i take(uint8_t *dst, const uint8_t *src, size_t at, mcs_fold_store_t store)
{
    __m512i bytes = _mm512_loadu_si512(src + at);
    if (store == MCS_FOLD_COPY) {
        _mm512_storeu_si512(dst + at, bytes);
    } else if (store == MCS_FOLD_STREAM) {
        _mm512_stream_si512((void *)(dst + at), bytes);
    }
    return bytes;
}

/* A store past the caches waits for its page's translation, and every one behind it does. Segments have small pages:
 * each page is asked for while the one before it is filled. A prefetch faults nowhere, so the end needs no care. */
INLINE void translate_ahead(const uint8_t *dst, size_t at, mcs_fold_store_t store)
{
    if (store == MCS_FOLD_STREAM && (uintptr_t)(dst + at) % PAGE < MCS_FOLD_STEP) {
        _mm_prefetch((const char *)dst + at + PAGE, _MM_HINT_T0);
    }
}

INLINE uint32_t reduce(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i key = wide_key(&g_by_512);
    __m512i all = fold(fold(fold(a, b, key), c, key), d, key);
    __m128i narrow = _mm_set_epi64x((long long)g_by_128.second, (long long)g_by_128.first);
    __m128i acc = _mm512_castsi512_si128(all);
    acc = fold_narrow(acc, _mm512_extracti32x4_epi32(all, 1), narrow);
    acc = fold_narrow(acc, _mm512_extracti32x4_epi32(all, 2), narrow);
    acc = fold_narrow(acc, _mm512_extracti32x4_epi32(all, 3), narrow);
    uint64_t sum = __builtin_ia32_crc32di(0, (uint64_t)_mm_extract_epi64(acc, 0));
    return (uint32_t)__builtin_ia32_crc32di(sum, (uint64_t)_mm_extract_epi64(acc, 1));
}

/* One body for all: `store` is a compile-time constant in each. */
INLINE uint32_t run(uint32_t crc, uint8_t *dst, const uint8_t *src, size_t len, mcs_fold_store_t store)
{
    __m512i key = wide_key(&g_by_2048);
    __m512i a = take(dst, src, 0, store);
    __m512i b = take(dst, src, 64, store);
    __m512i c = take(dst, src, 128, store);
    __m512i d = take(dst, src, 192, store);
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (size_t at = MCS_FOLD_STEP; at < len; at += MCS_FOLD_STEP) {
        translate_ahead(dst, at, store);
        a = fold(a, take(dst, src, at, store), key);
        b = fold(b, take(dst, src, at + 64, store), key);
        c = fold(c, take(dst, src, at + 128, store), key);
        d = fold(d, take(dst, src, at + 192, store), key);
    }
    return reduce(a, b, c, d);
}

TARGET uint32_t mcs_i_crc32c_fold(uint32_t crc, void *dst, const void *src, size_t len, mcs_fold_store_t store)
{
    switch (store) {
    case MCS_FOLD_COPY: return run(crc, dst, src, len, MCS_FOLD_COPY);
    case MCS_FOLD_STREAM: return run(crc, dst, src, len, MCS_FOLD_STREAM);
    case MCS_FOLD_NONE:
    default: return run(crc, NULL, src, len, MCS_FOLD_NONE);
    }
}

void mcs_i_crc32c_fold_fence(void)
{
    _mm_sfence();
}

#else

void mcs_i_crc32c_fold_fence(void)
{
}

bool mcs_i_crc32c_fold_init(mcs_fold_power_fn power_of)
{
    (void)power_of;
    return false;
}

uint32_t mcs_i_crc32c_fold(uint32_t crc, void *dst, const void *src, size_t len, mcs_fold_store_t store)
{
    (void)dst, (void)src, (void)len, (void)store;
    return crc;
}

#endif
