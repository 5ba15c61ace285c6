/* Capabilities (rule 5): a keyed MAC over what a session may do with an extent. The master makes it with the key it
 * gave the owner at mount; the owner recomputes it. Pure function. */
#ifndef MCS_WIRE_CAP_H
#define MCS_WIRE_CAP_H

#include "core/base/hash.h"
#include "core/base/rng.h"

typedef enum mcs_cap_right { MCS_CAP_READ = 1, MCS_CAP_WRITE = 2 } mcs_cap_right_t;

static inline uint64_t mcs_cap_mac(const mcs_mac_key_t *instance_key, mcs_id_t session, mcs_id_t instance,
                                   uint64_t offset, uint64_t payload_len, uint64_t generation, mcs_cap_right_t right)
{
    const uint64_t words[8] = {session.hi, session.lo,  instance.hi, instance.lo,
                               offset,     payload_len, generation,  (uint64_t)right};
    return mcs_siphash24(instance_key, words, sizeof(words));
}

#endif
