/* Element types of tensors: one row for each of the fifteen that the API knows, with its names in the other formats.
 * Pure tables; any thread. */
#ifndef MCS_TENSOR_DTYPE_H
#define MCS_TENSOR_DTYPE_H

#include "core/base/status.h"

/* The values are on the wire (layout.h). */
typedef enum mcs_dtype {
    MCS_DTYPE_FLOAT32,
    MCS_DTYPE_FLOAT64,
    MCS_DTYPE_INT8,
    MCS_DTYPE_UINT8,
    MCS_DTYPE_INT16,
    MCS_DTYPE_UINT16,
    MCS_DTYPE_INT32,
    MCS_DTYPE_UINT32,
    MCS_DTYPE_INT64,
    MCS_DTYPE_UINT64,
    MCS_DTYPE_BOOL,
    MCS_DTYPE_FLOAT16,
    MCS_DTYPE_BFLOAT16,
    MCS_DTYPE_FLOAT8_E4M3,
    MCS_DTYPE_FLOAT8_E5M2,
    MCS_DTYPE_COUNT
} mcs_dtype_t;

typedef struct mcs_dtype_row {
    const char *name;        /* torch's and numpy's: "float32" */
    const char *safetensors; /* "F32" */
    const char *format;      /* of the struct module and of Py_buffer; NULL where there is none */
    uint8_t size;            /* bytes of an element */
    uint8_t dl_code;         /* DLDataTypeCode */
} mcs_dtype_row_t;

/* `dtype` is in range. */
const mcs_dtype_row_t *mcs_dtype_row(mcs_dtype_t dtype);
/* Each false, with nothing written, for what is none of the fifteen. */
bool mcs_dtype_by_name(const char *name, mcs_dtype_t *out) MCS_MUST_CHECK;
bool mcs_dtype_by_safetensors(const char *name, mcs_dtype_t *out) MCS_MUST_CHECK;
bool mcs_dtype_by_dlpack(unsigned code, unsigned bits, unsigned lanes, mcs_dtype_t *out) MCS_MUST_CHECK;
/* A single item in native (little-endian) byte order; `format` NULL means bytes. */
bool mcs_dtype_by_format(const char *format, uint64_t item_size, mcs_dtype_t *out) MCS_MUST_CHECK;

#endif
