/* See svc_tails.h. */
#include "master/svc_tails.h"

/* Four at a time, or each comparison would wait for the one before. `count` is a multiple of four. */
static uint64_t lowest(const uint64_t *values, uint32_t count)
{
    uint64_t a = SVC_TAIL_NONE;
    uint64_t b = SVC_TAIL_NONE;
    uint64_t c = SVC_TAIL_NONE;
    uint64_t d = SVC_TAIL_NONE;
    for (uint32_t i = 0; i < count; i += 4) {
        a = MCS_MIN(a, values[i]);
        b = MCS_MIN(b, values[i + 1]);
        c = MCS_MIN(c, values[i + 2]);
        d = MCS_MIN(d, values[i + 3]);
    }
    return MCS_MIN(MCS_MIN(a, b), MCS_MIN(c, d));
}

static uint32_t find(const uint64_t *values, uint64_t value)
{
    uint32_t at = 0;
    while (values[at] != value) {
        at++;
    }
    return at;
}

void svc_tails_set(svc_tails_t *tails, uint32_t shard, uint64_t age_ns)
{
    uint32_t group = shard / SVC_TAIL_GROUP;
    uint64_t before = tails->age_ns[shard];
    tails->age_ns[shard] = age_ns;
    if (age_ns <= tails->oldest_ns[group]) {
        tails->oldest_ns[group] = age_ns;
    } else if (before == tails->oldest_ns[group]) {
        tails->oldest_ns[group] = lowest(&tails->age_ns[group * SVC_TAIL_GROUP], SVC_TAIL_GROUP);
    }
}

uint64_t svc_tails_oldest(const svc_tails_t *tails)
{
    return lowest(tails->oldest_ns, SVC_TAIL_GROUPS);
}

uint32_t svc_tails_take(svc_tails_t *tails)
{
    uint64_t oldest_ns = svc_tails_oldest(tails);
    if (oldest_ns == SVC_TAIL_NONE) {
        return SVC_SHARDS;
    }
    uint32_t group = find(tails->oldest_ns, oldest_ns);
    uint32_t shard = group * SVC_TAIL_GROUP + find(&tails->age_ns[group * SVC_TAIL_GROUP], oldest_ns);
    svc_tails_set(tails, shard, SVC_TAIL_NONE);
    return shard;
}
