/* The journal's format: headers, frames in a window, bodies. Input: a header, then a window from its first frame on.
 * Bodies are attacked twice: as frames whose checksum is right by chance (never), and as they are. */
#include <stdlib.h>
#include <string.h>

#include "master/journal/pack.h"

static uint8_t g_window[MCS_JOURNAL_WINDOW];

/* What comes out is no longer than there is room for, and goes in again. */
static void attack_packed(mcs_pack_t *pack, const uint8_t *body, uint32_t len)
{
    static uint8_t out[MCS_JOURNAL_BODY_MAX];
    static uint8_t again[MCS_JOURNAL_BODY_MAX + MCS_PACK_SLACK];
    static uint8_t back[MCS_JOURNAL_BODY_MAX];
    static mcs_pack_t fresh[2];
    uint32_t out_len = 0;
    uint32_t back_len = 0;
    mcs_obj_t obj;
    if (mcs_unpack_object(pack, body, len, out, &out_len) != MCS_OK) {
        return;
    }
    if (out_len > sizeof(out) - MCS_PACK_SLACK) {
        abort();
    }
    if (mcs_obj_decode(out, out_len, &obj) == MCS_OK) {
        mcs_pack_reset(&fresh[0]);
        mcs_pack_reset(&fresh[1]);
        uint32_t packed = mcs_pack_object(&fresh[0], out, out_len, again);
        if (packed > out_len + MCS_PACK_SLACK ||
            mcs_unpack_object(&fresh[1], again, packed, back, &back_len) != MCS_OK || back_len != out_len ||
            memcmp(back, out, out_len) != 0) {
            abort();
        }
    }
}

static void attack_body(const uint8_t *body, uint32_t len)
{
    if (len > 0) {
        (void)mcs_meta_is_record(body, len);
    }
    mcs_obj_t obj;
    mcs_seg_t seg;
    if (mcs_obj_decode(body, len, &obj) == MCS_OK &&
        ((const uint8_t *)obj.key + obj.head.key_len != body + len || obj.head.key_len == 0)) {
        abort(); /* a record fills its body */
    }
    if (mcs_seg_decode(body, len, &seg) == MCS_OK && seg.head.kind == MCS_REC_SEGMENT &&
        (seg.head.lens[MCS_SEG_NAME] == 0 ||
         seg.texts[MCS_SEG_BOOT] + seg.head.lens[MCS_SEG_BOOT] != (const char *)body + len)) {
        abort();
    }
}

static void attack_window(uint64_t len)
{
    uint64_t at = MCS_JOURNAL_PAGE;
    static mcs_pack_t pack;
    mcs_pack_reset(&pack);
    for (;;) {
        const uint8_t *body = NULL;
        uint32_t body_len = 0;
        if (mcs_journal_next(g_window, len, 7, 0, at, &body, &body_len) != MCS_JOURNAL_FRAME) {
            return;
        }
        if (body < g_window || body + body_len > g_window + len) {
            abort();
        }
        attack_body(body, body_len);
        attack_packed(&pack, body, body_len);
        at += mcs_journal_frame_len(body_len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    mcs_journal_header_t header;
    const char *text = NULL;
    if (len >= sizeof(header)) {
        memcpy(&header, bytes, sizeof(header));
        (void)mcs_journal_header_check(&header, &text);
        mcs_journal_header_seal(&header);
        (void)mcs_journal_header_check(&header, &text);
    }
    static mcs_pack_t last;
    last.key_len = MCS_KEY_MAX; /* any part of it may be shared */
    attack_body(bytes, (uint32_t)len);
    attack_packed(&last, bytes, (uint32_t)len);
    len = len < sizeof(g_window) - MCS_JOURNAL_PAGE ? len : sizeof(g_window) - MCS_JOURNAL_PAGE;
    memset(g_window, 0, sizeof(g_window));
    memcpy(g_window + MCS_JOURNAL_PAGE, bytes, len);
    attack_window(MCS_JOURNAL_WINDOW);
    attack_window(MCS_JOURNAL_PAGE + len);
    if (len > sizeof(uint64_t)) {
        /* The same as a frame that is whole. */
        uint32_t body_len = (uint32_t)(len - sizeof(uint64_t));
        body_len = body_len < MCS_JOURNAL_BODY_MAX ? body_len : MCS_JOURNAL_BODY_MAX;
        mcs_store_u64(g_window + MCS_JOURNAL_PAGE,
                      mcs_journal_word(7, MCS_JOURNAL_PAGE, g_window + MCS_JOURNAL_PAGE + sizeof(uint64_t), body_len));
        attack_window(MCS_JOURNAL_WINDOW);
    }
    return 0;
}
