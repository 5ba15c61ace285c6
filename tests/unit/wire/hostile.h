/* Byte strings as an enemy would send them: each truncation and each flip of a byte of a good one, in memory that ends
 * where the bytes end (so that the sanitizer sees a read past them). */
#ifndef MCS_TESTS_WIRE_HOSTILE_H
#define MCS_TESTS_WIRE_HOSTILE_H

#include <stdlib.h>

#include "tests/support/unit.h"

typedef void (*hostile_fn)(void *arg, const uint8_t *bytes, size_t len);

MCS_UNUSED static void hostile_exact(hostile_fn fn, void *arg, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    fn(arg, copy, len);
    free(copy);
}

/* Every prefix but the whole. */
MCS_UNUSED static void hostile_truncations(hostile_fn fn, void *arg, const uint8_t *bytes, size_t len)
{
    for (size_t cut = 0; cut < len; cut++) {
        hostile_exact(fn, arg, bytes, cut);
    }
}

/* Every byte replaced by values that hurt: each bit flipped, 0, 0x7f, 0x80, 0xff. */
MCS_UNUSED static void hostile_flips(hostile_fn fn, void *arg, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    for (size_t at = 0; at < len; at++) {
        for (unsigned how = 0; how < 12; how++) {
            static const uint8_t fixed[] = {0x00, 0x7f, 0x80, 0xff};
            memcpy(copy, bytes, len);
            copy[at] = (uint8_t)(how < 8 ? bytes[at] ^ (1u << how) : fixed[how - 8]);
            hostile_exact(fn, arg, copy, len);
        }
    }
    free(copy);
}

#endif
