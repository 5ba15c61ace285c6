/* The journal's format: headers, frames in a window, bodies. Input: a header, then a window from its first frame on.
 * Bodies are attacked twice: as frames whose checksum is right by chance (never), and as they are. */
#include <stdlib.h>
#include <string.h>

#include "master/journal/format.h"

static uint8_t g_window[MCS_JOURNAL_WINDOW];

static void attack_body(const uint8_t *body, uint32_t len)
{
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
