/* See buf.h. */
#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"

#define FIRST_CAP 256

void mcs_buf_init(mcs_buf_t *b, size_t limit)
{
    *b = (mcs_buf_t){.limit = limit};
}

void mcs_buf_fini(mcs_buf_t *b)
{
    mcs_free(b->bytes);
    *b = (mcs_buf_t){.limit = b->limit};
}

void mcs_buf_reset(mcs_buf_t *b)
{
    b->len = 0;
    b->failed = MCS_OK;
}

mcs_status_t mcs_buf_reserve(mcs_buf_t *b, size_t extra)
{
    if (extra <= b->cap - b->len) {
        return MCS_OK;
    }
    if (extra > b->limit - b->len) {
        return b->failed = MCS_ERR_LIMIT;
    }
    size_t need = b->len + extra;
    size_t cap = MCS_MAX(b->cap * 2, (size_t)FIRST_CAP);
    cap = MCS_MIN(MCS_MAX(cap, need), b->limit);
    uint8_t *bytes = mcs_realloc(b->bytes, cap);
    if (bytes == NULL) {
        return b->failed = MCS_ERR_NO_MEMORY;
    }
    b->bytes = bytes;
    b->cap = cap;
    return MCS_OK;
}

uint8_t *mcs_buf_extend(mcs_buf_t *b, size_t len)
{
    if (b->failed != MCS_OK || mcs_buf_reserve(b, len) != MCS_OK) {
        return NULL;
    }
    uint8_t *at = b->bytes + b->len;
    b->len += len;
    return at;
}

void mcs_buf_append(mcs_buf_t *b, const void *bytes, size_t len)
{
    if (len == 0) {
        return;
    }
    uint8_t *at = mcs_buf_extend(b, len);
    if (at != NULL) {
        memcpy(at, bytes, len);
    }
}

void mcs_buf_put_u8(mcs_buf_t *b, uint8_t v)
{
    mcs_buf_append(b, &v, sizeof(v));
}

void mcs_buf_put_u16(mcs_buf_t *b, uint16_t v)
{
    mcs_buf_append(b, &v, sizeof(v));
}

void mcs_buf_put_u32(mcs_buf_t *b, uint32_t v)
{
    mcs_buf_append(b, &v, sizeof(v));
}

void mcs_buf_put_u64(mcs_buf_t *b, uint64_t v)
{
    mcs_buf_append(b, &v, sizeof(v));
}

void mcs_buf_printf(mcs_buf_t *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int need = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    /* One byte more for the terminator that vsnprintf writes. */
    if (need < 0 || b->failed != MCS_OK || mcs_buf_reserve(b, (size_t)need + 1) != MCS_OK) {
        return;
    }
    va_start(args, fmt);
    vsnprintf((char *)b->bytes + b->len, (size_t)need + 1, fmt, args);
    va_end(args);
    b->len += (size_t)need;
}

void mcs_buf_consume(mcs_buf_t *b, size_t len)
{
    MCS_ENSURE(len <= b->len);
    b->len -= len;
    if (b->len > 0) {
        memmove(b->bytes, b->bytes + len, b->len);
    }
}

const char *mcs_buf_cstr(mcs_buf_t *b)
{
    if (b->failed != MCS_OK || mcs_buf_reserve(b, 1) != MCS_OK) {
        return "";
    }
    b->bytes[b->len] = '\0';
    return (const char *)b->bytes;
}
