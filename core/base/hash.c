/* See hash.h: XXH3 from libxxhash. */
#include "core/base/hash.h"

#include <xxhash.h>

mcs_hash128_t mcs_hash128(uint64_t seed, const void *bytes, size_t len)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(bytes, len, seed);
    return (mcs_hash128_t){.lo = h.low64, .hi = h.high64};
}

uint64_t mcs_hash64(uint64_t seed, const void *bytes, size_t len)
{
    return XXH3_64bits_withSeed(bytes, len, seed);
}
