/* What the kernels are given: rows in device memory. For the host's C, nvcc, and whoever plays the kernels' part in
 * tests. */
#ifndef MCS_GPU_KERNELS_ROWS_H
#define MCS_GPU_KERNELS_ROWS_H

#include <stdint.h>

typedef struct gpu_copy_row {
    uint64_t source;
    uint64_t target;
    uint64_t len;
} gpu_copy_row_t;

/* One stretch of one block of a CRC. */
typedef struct gpu_crc_row {
    uint64_t source;
    uint32_t len;
    uint32_t block;
    uint64_t after; /* bytes of the block behind it */
} gpu_crc_row_t;

#endif
