/* The fake driver: what the kernels of gpu/kernels/paged.cu do, byte by byte. An address that a device
 * could not reach is the end of that device, as on a real one. */
#include <string.h>

#include "gpu/crc_math.h"
#include "gpu/kernels/rows.h"
#include "tests/fake_cuda/internal.h"

_Static_assert(sizeof(gpu_copy_row_t) == sizeof(gpu_crc_row_t), "rows of one size");

static void illegal(void)
{
    fake_violate("a kernel touched memory that the device does not see");
    g_fake.broken[0] = 700;
}

static void copy_rows(const gpu_copy_row_t *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *target = fake_device_view(rows[i].target, rows[i].len);
        const uint8_t *source = fake_device_view(rows[i].source, rows[i].len);
        if (target == NULL || source == NULL) {
            illegal();
            return;
        }
        memcpy(target, source, rows[i].len);
    }
}

static uint32_t next(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++) {
        crc = crc >> 1 ^ ((crc & 1) != 0 ? UINT32_C(0x82f63b78) : 0);
    }
    return crc;
}

static void crc_rows(const gpu_crc_row_t *rows, uint32_t count, uint32_t *crcs)
{
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = next(0, (uint8_t)i);
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *source = fake_device_view(rows[i].source, rows[i].len);
        if (source == NULL) {
            illegal();
            return;
        }
        uint32_t crc = 0;
        for (uint32_t at = 0; at < rows[i].len; at++) {
            crc = table[(crc ^ source[at]) & 255] ^ crc >> 8;
        }
        crcs[rows[i].block] ^= gpu_crc_multiply(crc, gpu_crc_power(rows[i].after));
    }
}

void fake_run_kernel(const operation_t *operation)
{
    const void *rows = fake_device_view(operation->rows, operation->count * sizeof(gpu_copy_row_t));
    if (rows == NULL) {
        illegal();
    } else if (operation->function == 1) {
        copy_rows(rows, operation->count);
    } else {
        crc_rows(rows, operation->count, (uint32_t *)(void *)fake_device_view(operation->crcs, sizeof(uint32_t)));
    }
}
