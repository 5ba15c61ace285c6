/* Randomness from the kernel (getrandom): identities, keys, seeds. Thread-safe. */
#ifndef MCS_BASE_RNG_H
#define MCS_BASE_RNG_H

#include "core/base/status.h"

/* 128-bit identity: client, session, segment instance. All zero = none. */
typedef struct mcs_id {
    uint64_t hi;
    uint64_t lo;
} mcs_id_t;

/* Aborts the process only if the kernel refuses getrandom altogether. */
void mcs_random_bytes(void *bytes, size_t len);
uint64_t mcs_random_u64(void);
mcs_id_t mcs_id_random(void); /* never all zero */

static inline bool mcs_id_equal(mcs_id_t a, mcs_id_t b)
{
    return a.hi == b.hi && a.lo == b.lo;
}
static inline bool mcs_id_is_none(mcs_id_t a)
{
    return (a.hi | a.lo) == 0;
}
/* "<hi>-<lo>" in decimal, as the API prints ids: at most 42 bytes with the terminator. */
#define MCS_ID_TEXT_MAX 42
void mcs_id_format(mcs_id_t id, char text[MCS_ID_TEXT_MAX]);
mcs_status_t mcs_id_parse(const char *text, mcs_id_t *id_out) MCS_MUST_CHECK;

#endif
