/* Records of objects as they lie in files (docs/journal.md, "Records"): small, because what a page of the page cache
 * costs is what a journal costs. Against the body that the rest of the program knows (mcs_obj_head_t and what follows
 * it) a packed one has numbers of as many bytes as they need, generations and places as what they differ from the last
 * one's, and of the key only what follows the part that it shares with the last key. Keys of a model share most of
 * their text.
 *
 * The context is what "the last one" means: of the same window of the same file; it begins anew with each window. Pure
 * functions; what is unpacked is treated as hostile. */
#ifndef MCS_JOURNAL_PACK_H
#define MCS_JOURNAL_PACK_H

#include "master/journal/format.h"

typedef struct mcs_pack {
    uint64_t generation;
    uint64_t place;
    uint32_t key_len;
    char key[MCS_KEY_MAX];
} mcs_pack_t;

/* A window begins. */
static inline void mcs_pack_reset(mcs_pack_t *pack)
{
    pack->generation = 0;
    pack->place = 0;
    pack->key_len = 0;
}

/* A packed body may be longer than the other by this much. */
#define MCS_PACK_SLACK 96u
/* `body` is one that mcs_obj_decode takes; `out` has room for len + MCS_PACK_SLACK. The length. */
uint32_t mcs_pack_object(mcs_pack_t *pack, const uint8_t *body, uint32_t len, uint8_t *out);
/* `out` has room for MCS_JOURNAL_BODY_MAX. MCS_ERR_PROTOCOL: not a packed record; the context is of no use then. What
 * comes out is yet to be checked by mcs_obj_decode. */
mcs_status_t mcs_unpack_object(mcs_pack_t *pack, const uint8_t *body, uint32_t len, uint8_t *out, uint32_t *len_out)
    MCS_MUST_CHECK;

#endif
