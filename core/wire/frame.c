/* See frame.h. */
#include "core/wire/frame.h"

void mcs_frame_encode(const mcs_frame_header_t *h, uint8_t out[MCS_FRAME_HEADER])
{
    mcs_store_u32(out, MCS_FRAME_MAGIC);
    out[4] = MCS_FRAME_VERSION;
    out[5] = h->kind;
    mcs_store_u16(out + 6, h->verb);
    mcs_store_u32(out + 8, h->length);
    mcs_store_u32(out + 12, (uint32_t)h->status);
    mcs_store_u64(out + 16, h->id);
    mcs_store_u64(out + 24, h->epoch);
}

mcs_status_t mcs_frame_decode(const uint8_t *in, uint32_t max_payload, mcs_frame_header_t *h)
{
    if (mcs_load_u32(in) != MCS_FRAME_MAGIC) {
        return MCS_ERR_PROTOCOL;
    }
    if (in[4] != MCS_FRAME_VERSION) {
        return MCS_ERR_INVALID_VERSION;
    }
    mcs_frame_header_t header = {
        .kind = in[5],
        .verb = mcs_load_u16(in + 6),
        .length = mcs_load_u32(in + 8),
        .status = (int32_t)mcs_load_u32(in + 12),
        .id = mcs_load_u64(in + 16),
        .epoch = mcs_load_u64(in + 24),
    };
    if (header.kind < MCS_FRAME_REQUEST || header.kind > MCS_FRAME_NOTICE || header.length > max_payload) {
        return MCS_ERR_PROTOCOL;
    }
    *h = header;
    return MCS_OK;
}

const char *mcs_verb_name(unsigned verb)
{
    switch (verb) {
#define MCS_VERB_ROW(symbol, number, text, flags)                                                                      \
    case number:                                                                                                       \
        return text;
#include "core/wire/verbs.def"
#undef MCS_VERB_ROW
    default: return "?";
    }
}

unsigned mcs_verb_flags(unsigned verb)
{
    switch (verb) {
#define MCS_VERB_ROW(symbol, number, text, flags)                                                                      \
    case number:                                                                                                       \
        return (flags);
#include "core/wire/verbs.def"
#undef MCS_VERB_ROW
    default: return 0;
    }
}
