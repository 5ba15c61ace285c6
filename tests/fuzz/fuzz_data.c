/* Messages of the data plane: what one process decodes that another has sent. Input: a byte that picks the decoder, the
 * bytes. */
#include <stdlib.h>
#include <string.h>

#include "ucx_transport/proto.h"

#define PIECES 8u

static uint32_t g_first[PIECES + 1];
static ucxt_stretch_t g_stretches[UCXT_STRETCHES_MAX];

static void attack_places(const uint8_t *bytes, size_t len)
{
    ucxt_places_t places;
    size_t used;
    mcs_access_t access[PIECES];
    for (uint32_t i = 0; i < PIECES; i++) {
        access[i].len = 4096u << i;
    }
    if (ucxt_places_decode(bytes, len, &places, &used) != MCS_OK) {
        return;
    }
    for (uint32_t i = 0; i < places.key_count; i++) {
        if (places.key[i] < bytes || places.key[i] + places.key_len[i] > bytes + used) {
            abort();
        }
    }
    for (uint32_t count = 1; count <= PIECES; count++) {
        if (ucxt_stretches_decode(bytes + used, len - used, &places, access, count, g_first, g_stretches) != MCS_OK) {
            continue;
        }
        for (uint32_t s = 0; s < g_first[count]; s++) {
            if (g_stretches[s].key >= places.key_count || g_stretches[s].len == 0) {
                abort();
            }
        }
    }
}

static void attack_records(const uint8_t *bytes, size_t len)
{
    ucxt_header_t header;
    mcs_access_t access;
    mcs_status_t status;
    uint32_t crc;
    if (ucxt_header_decode(bytes, len, &header) == MCS_OK) {
        uint8_t again[UCXT_HEADER];
        ucxt_header_encode(&header, again);
        if (memcmp(again + 8, bytes + 8, UCXT_HEADER - 8) != 0) {
            abort();
        }
    }
    if (len >= UCXT_ACCESS && ucxt_access_decode(bytes, &access, &crc) == MCS_OK &&
        (access.len == 0 || access.len > UCXT_PIECE_MAX || access.from + access.len > access.payload_len)) {
        abort();
    }
    if (len >= UCXT_PIECE && ucxt_piece_decode(bytes, &status, &crc) == MCS_OK && !mcs_status_known((int32_t)status)) {
        abort();
    }
}

static void attack_hellos(const uint8_t *bytes, size_t len)
{
    static ucxt_hello_t hello;
    ucxt_welcome_t welcome;
    if (ucxt_hello_decode(bytes, len, &hello) == MCS_OK && hello.address_len > UCXT_ADDRESS_MAX) {
        abort();
    }
    if (ucxt_welcome_decode(bytes, len, &welcome) == MCS_OK && len != UCXT_WELCOME_LEN) {
        abort();
    }
}

static void attack_endpoint(const uint8_t *bytes, size_t len)
{
    mcs_endpoint_t endpoint;
    const void *address;
    size_t address_len;
    endpoint.len = (uint32_t)(len < MCS_ENDPOINT_MAX ? len : MCS_ENDPOINT_MAX);
    memcpy(endpoint.bytes, bytes, endpoint.len);
    if (ucxt_endpoint_decode(&endpoint, 20, &address, &address_len) == MCS_OK &&
        (const uint8_t *)address + address_len > endpoint.bytes + endpoint.len) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const attacks[])(const uint8_t *, size_t) = {attack_places, attack_records, attack_hellos,
                                                               attack_endpoint};
    if (size > 0) {
        attacks[data[0] % MCS_ARRAY_LEN(attacks)](data + 1, size - 1);
    }
    return 0;
}
