/* See dtype.h. */
#include "core/tensor/dtype.h"

#include <string.h>

#include "core/tensor/dlpack.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers and payloads are little-endian as they are");

/* In the order of the enum. */
static const mcs_dtype_row_t g_rows[MCS_DTYPE_COUNT] = {
    {"float32", "F32", "f", 4, MCS_DL_FLOAT},
    {"float64", "F64", "d", 8, MCS_DL_FLOAT},
    {"int8", "I8", "b", 1, MCS_DL_INT},
    {"uint8", "U8", "B", 1, MCS_DL_UINT},
    {"int16", "I16", "h", 2, MCS_DL_INT},
    {"uint16", "U16", "H", 2, MCS_DL_UINT},
    {"int32", "I32", "i", 4, MCS_DL_INT},
    {"uint32", "U32", "I", 4, MCS_DL_UINT},
    {"int64", "I64", "q", 8, MCS_DL_INT},
    {"uint64", "U64", "Q", 8, MCS_DL_UINT},
    {"bool", "BOOL", "?", 1, MCS_DL_BOOL},
    {"float16", "F16", "e", 2, MCS_DL_FLOAT},
    {"bfloat16", "BF16", NULL, 2, MCS_DL_BFLOAT},
    {"float8_e4m3fn", "F8_E4M3", NULL, 1, MCS_DL_FLOAT8_E4M3FN},
    {"float8_e5m2", "F8_E5M2", NULL, 1, MCS_DL_FLOAT8_E5M2},
};

const mcs_dtype_row_t *mcs_dtype_row(mcs_dtype_t dtype)
{
    return &g_rows[dtype];
}

bool mcs_dtype_by_name(const char *name, mcs_dtype_t *out)
{
    for (size_t i = 0; i < MCS_DTYPE_COUNT; i++) {
        if (strcmp(g_rows[i].name, name) == 0) {
            *out = (mcs_dtype_t)i;
            return true;
        }
    }
    return false;
}

bool mcs_dtype_by_safetensors(const char *name, mcs_dtype_t *out)
{
    for (size_t i = 0; i < MCS_DTYPE_COUNT; i++) {
        if (strcmp(g_rows[i].safetensors, name) == 0) {
            *out = (mcs_dtype_t)i;
            return true;
        }
    }
    return false;
}

bool mcs_dtype_by_dlpack(unsigned code, unsigned bits, unsigned lanes, mcs_dtype_t *out)
{
    for (size_t i = 0; lanes == 1 && i < MCS_DTYPE_COUNT; i++) {
        if (g_rows[i].dl_code == code && g_rows[i].size * 8U == bits) {
            *out = (mcs_dtype_t)i;
            return true;
        }
    }
    return false;
}

/* What a format letter means is settled by its size: 'l' has 8 bytes where it is native, 4 after '<'. */
bool mcs_dtype_by_format(const char *format, uint64_t item_size, mcs_dtype_t *out)
{
    static const struct {
        const char *letters;
        unsigned code;
    } rows[] = {{"bhilqn", MCS_DL_INT}, {"BHILQN", MCS_DL_UINT}, {"efd", MCS_DL_FLOAT}, {"?", MCS_DL_BOOL}};
    const char *at = format != NULL ? format : "B";
    const char *orders = item_size == 1 ? "@=<>!" : "@=<"; /* of one byte there is no wrong order */
    if (*at != '\0' && strchr(orders, *at) != NULL) {
        at++;
    }
    if (*at == '\0' || at[1] != '\0' || item_size > 8) {
        return false;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        if (strchr(rows[i].letters, *at) != NULL) {
            return mcs_dtype_by_dlpack(rows[i].code, (unsigned)item_size * 8, 1, out);
        }
    }
    return false;
}
