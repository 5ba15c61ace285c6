/* See rng.h. */
#include "core/base/rng.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void mcs_random_bytes(void *bytes, size_t len)
{
    uint8_t *p = bytes;
    while (len > 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            MCS_ENSURE(errno == EINTR);
            continue;
        }
        p += n;
        len -= (size_t)n;
    }
}

uint64_t mcs_random_u64(void)
{
    uint64_t v;
    mcs_random_bytes(&v, sizeof(v));
    return v;
}

mcs_id_t mcs_id_random(void)
{
    mcs_id_t id;
    do {
        mcs_random_bytes(&id, sizeof(id));
    } while (mcs_id_is_none(id));
    return id;
}

void mcs_id_format(mcs_id_t id, char text[MCS_ID_TEXT_MAX])
{
    snprintf(text, MCS_ID_TEXT_MAX, "%" PRIu64 "-%" PRIu64, id.hi, id.lo);
}

/* Decimal digits only, up to `end`; no sign, no space. */
static mcs_status_t parse_half(const char *text, char end, uint64_t *value_out, const char **rest_out)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 20 || text[digits] != end) {
        return MCS_ERR_INVALID_PARAMS;
    }
    errno = 0;
    uint64_t value = strtoull(text, NULL, 10);
    if (errno != 0) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *value_out = value;
    *rest_out = text + digits + 1;
    return MCS_OK;
}

mcs_status_t mcs_id_parse(const char *text, mcs_id_t *id_out)
{
    mcs_id_t id;
    const char *rest;
    if (parse_half(text, '-', &id.hi, &rest) != MCS_OK || parse_half(rest, '\0', &id.lo, &rest) != MCS_OK) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *id_out = id;
    return MCS_OK;
}
