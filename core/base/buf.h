/* A growable byte buffer with a cap. Not thread-safe. After a failed append the contents are unchanged and `failed` is
 * set, so a chain of appends may be checked once at its end (mcs_buf_status). Integers are little endian. */
#ifndef MCS_BASE_BUF_H
#define MCS_BASE_BUF_H

#include "core/base/status.h"

typedef struct mcs_buf {
    uint8_t *bytes;
    size_t len;
    size_t cap;   /* allocated */
    size_t limit; /* never grows past this */
    mcs_status_t failed;
} mcs_buf_t;

void mcs_buf_init(mcs_buf_t *b, size_t limit);
void mcs_buf_fini(mcs_buf_t *b);
/* Empties it; keeps the memory; clears `failed`. */
void mcs_buf_reset(mcs_buf_t *b);
/* Room for `extra` more bytes: MCS_ERR_LIMIT past the limit, MCS_ERR_NO_MEMORY. */
mcs_status_t mcs_buf_reserve(mcs_buf_t *b, size_t extra);
/* Adds `len` uninitialised bytes and returns where they start; NULL on failure. */
uint8_t *mcs_buf_extend(mcs_buf_t *b, size_t len);
void mcs_buf_append(mcs_buf_t *b, const void *bytes, size_t len);
void mcs_buf_put_u8(mcs_buf_t *b, uint8_t v);
void mcs_buf_put_u16(mcs_buf_t *b, uint16_t v);
void mcs_buf_put_u32(mcs_buf_t *b, uint32_t v);
void mcs_buf_put_u64(mcs_buf_t *b, uint64_t v);
void mcs_buf_printf(mcs_buf_t *b, const char *fmt, ...) MCS_PRINTF(2, 3);
/* Drops the first `len` bytes (moves the rest down). */
void mcs_buf_consume(mcs_buf_t *b, size_t len);
/* A terminated string; empty on failure. */
const char *mcs_buf_cstr(mcs_buf_t *b);
static inline mcs_status_t mcs_buf_status(const mcs_buf_t *b)
{
    return b->failed;
}

/* Little-endian loads and stores on unaligned memory. */
static inline uint16_t mcs_load_u16(const void *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline uint32_t mcs_load_u32(const void *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline uint64_t mcs_load_u64(const void *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline void mcs_store_u16(void *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}
static inline void mcs_store_u32(void *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}
static inline void mcs_store_u64(void *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the wire is little endian and so is every host we build for");

#endif
