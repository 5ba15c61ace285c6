/* See proto.h. */
#include "ucx_transport/proto.h"

#include <string.h>

void ucxt_header_encode(const ucxt_header_t *header, uint8_t out[UCXT_HEADER])
{
    mcs_store_u32(out, UCXT_MAGIC);
    out[4] = UCXT_VERSION;
    out[5] = header->kind;
    mcs_store_u16(out + 6, 0);
    mcs_store_u64(out + 8, header->conn);
    mcs_store_u64(out + 16, header->request);
    mcs_store_u32(out + 24, header->count);
    mcs_store_u32(out + 28, header->value);
}

mcs_status_t ucxt_header_decode(const uint8_t *bytes, size_t len, ucxt_header_t *header_out)
{
    if (len < UCXT_HEADER || mcs_load_u32(bytes) != UCXT_MAGIC) {
        return MCS_ERR_PROTOCOL;
    }
    if (bytes[4] != UCXT_VERSION) {
        return MCS_ERR_INVALID_VERSION;
    }
    header_out->kind = bytes[5];
    header_out->conn = mcs_load_u64(bytes + 8);
    header_out->request = mcs_load_u64(bytes + 16);
    header_out->count = mcs_load_u32(bytes + 24);
    header_out->value = mcs_load_u32(bytes + 28);
    return MCS_OK;
}

static void id_encode(mcs_id_t id, uint8_t out[16])
{
    mcs_store_u64(out, id.hi);
    mcs_store_u64(out + 8, id.lo);
}

static mcs_id_t id_decode(const uint8_t *in)
{
    return (mcs_id_t){.hi = mcs_load_u64(in), .lo = mcs_load_u64(in + 8)};
}

void ucxt_access_encode(const mcs_access_t *access, uint32_t crc, uint8_t out[UCXT_ACCESS])
{
    id_encode(access->session, out);
    id_encode(access->instance, out + 16);
    mcs_store_u64(out + 32, access->offset);
    mcs_store_u64(out + 40, access->generation);
    mcs_store_u64(out + 48, access->payload_len);
    mcs_store_u64(out + 56, access->from);
    mcs_store_u32(out + 64, (uint32_t)access->len);
    mcs_store_u32(out + 68, crc);
    mcs_store_u64(out + 72, access->key_hash.lo);
    mcs_store_u64(out + 80, access->key_hash.hi);
    mcs_store_u64(out + 88, access->mac);
}

mcs_status_t ucxt_access_decode(const uint8_t *in, mcs_access_t *access_out, uint32_t *crc_out)
{
    mcs_access_t access = {
        .session = id_decode(in),
        .instance = id_decode(in + 16),
        .offset = mcs_load_u64(in + 32),
        .generation = mcs_load_u64(in + 40),
        .payload_len = mcs_load_u64(in + 48),
        .from = mcs_load_u64(in + 56),
        .len = mcs_load_u32(in + 64),
        .key_hash = {.lo = mcs_load_u64(in + 72), .hi = mcs_load_u64(in + 80)},
        .mac = mcs_load_u64(in + 88),
    };
    if (access.len == 0 || access.len > UCXT_PIECE_MAX || access.from > access.payload_len ||
        access.len > access.payload_len - access.from || access.from % UCXT_PIECE_MAX + access.len > UCXT_PIECE_MAX) {
        return MCS_ERR_PROTOCOL;
    }
    *access_out = access;
    *crc_out = mcs_load_u32(in + 68);
    return MCS_OK;
}

void ucxt_piece_encode(mcs_status_t status, uint32_t crc, uint8_t out[UCXT_PIECE])
{
    mcs_store_u32(out, (uint32_t)status);
    mcs_store_u32(out + 4, crc);
}

mcs_status_t ucxt_piece_decode(const uint8_t *in, mcs_status_t *status_out, uint32_t *crc_out)
{
    *crc_out = mcs_load_u32(in + 4);
    return ucxt_status_decode(mcs_load_u32(in), status_out);
}

mcs_status_t ucxt_status_decode(uint32_t value, mcs_status_t *status_out)
{
    if (!mcs_status_known((int32_t)value) ||
        (int32_t)value == MCS_ERR_AGAIN) { /* which has a meaning of its own here */
        return MCS_ERR_PROTOCOL;
    }
    *status_out = (mcs_status_t)(int32_t)value;
    return MCS_OK;
}

void ucxt_stretch_encode(const ucxt_stretch_t *stretch, uint8_t out[UCXT_STRETCH])
{
    mcs_store_u64(out, stretch->address);
    mcs_store_u32(out + 8, stretch->len);
    mcs_store_u32(out + 12, stretch->key);
}

mcs_status_t ucxt_places_decode(const uint8_t *in, size_t len, ucxt_places_t *places_out, size_t *used_out)
{
    if (len < UCXT_PLACES_HEADER) {
        return MCS_ERR_PROTOCOL;
    }
    places_out->key_count = mcs_load_u16(in);
    places_out->stretch_count = mcs_load_u16(in + 2);
    if (places_out->key_count > UCXT_KEYS_MAX || places_out->stretch_count > UCXT_STRETCHES_MAX) {
        return MCS_ERR_PROTOCOL;
    }
    size_t at = UCXT_PLACES_HEADER;
    for (uint32_t i = 0; i < places_out->key_count; i++) {
        if (len - at < 2) {
            return MCS_ERR_PROTOCOL;
        }
        uint16_t key_len = mcs_load_u16(in + at);
        if (key_len == 0 || key_len > UCXT_KEY_MAX || key_len > len - at - 2) {
            return MCS_ERR_PROTOCOL;
        }
        places_out->key[i] = in + at + 2;
        places_out->key_len[i] = key_len;
        at += 2 + (size_t)key_len;
    }
    *used_out = at;
    return MCS_OK;
}

mcs_status_t ucxt_stretches_decode(const uint8_t *in, size_t len, const ucxt_places_t *places,
                                   const mcs_access_t *access, uint32_t count, uint32_t *first,
                                   ucxt_stretch_t *stretches)
{
    uint32_t used = 0;
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        first[i] = used;
        if (len - at < 2) {
            return MCS_ERR_PROTOCOL;
        }
        uint32_t here = mcs_load_u16(in + at);
        uint64_t bytes = 0;
        at += 2;
        if (here > places->stretch_count - used || (len - at) / UCXT_STRETCH < here) {
            return MCS_ERR_PROTOCOL;
        }
        for (uint32_t k = 0; k < here; k++, at += UCXT_STRETCH) {
            ucxt_stretch_t stretch = {mcs_load_u64(in + at), mcs_load_u32(in + at + 8), mcs_load_u32(in + at + 12)};
            if (stretch.len == 0 || stretch.key >= places->key_count) {
                return MCS_ERR_PROTOCOL;
            }
            bytes += stretch.len;
            stretches[used++] = stretch;
        }
        if (here > 0 && (bytes != access[i].len || !ucxt_stretches_fit(bytes, here))) {
            return MCS_ERR_PROTOCOL;
        }
    }
    first[count] = used;
    return at == len && used == places->stretch_count ? MCS_OK : MCS_ERR_PROTOCOL;
}

size_t ucxt_hello_signed(const ucxt_hello_t *hello, uint8_t out[UCXT_HELLO_MAX])
{
    id_encode(hello->client, out);
    mcs_store_u64(out + 16, hello->conn);
    mcs_store_u64(out + 24, hello->machine);
    memcpy(out + 32, hello->nonce, UCXT_NONCE);
    memcpy(out + 32 + UCXT_NONCE, hello->wire, UCXT_WIRE);
    mcs_store_u32(out + UCXT_HELLO_FIXED - 8, hello->rdma ? 1 : 0);
    mcs_store_u32(out + UCXT_HELLO_FIXED - 4, hello->address_len);
    memcpy(out + UCXT_HELLO_FIXED, hello->address, hello->address_len);
    return UCXT_HELLO_FIXED + hello->address_len;
}

size_t ucxt_hello_encode(const ucxt_hello_t *hello, uint8_t out[UCXT_HELLO_MAX])
{
    size_t len = ucxt_hello_signed(hello, out);
    memcpy(out + len, hello->mac, UCXT_MAC);
    len += UCXT_MAC;
    mcs_store_u32(out + len, mcs_crc32c(0, out, len));
    return len + 4;
}

mcs_status_t ucxt_hello_decode(const uint8_t *body, size_t len, ucxt_hello_t *hello_out)
{
    if (len < UCXT_HELLO_FIXED || len > UCXT_HELLO_MAX) {
        return MCS_ERR_PROTOCOL;
    }
    uint32_t address_len = mcs_load_u32(body + UCXT_HELLO_FIXED - 4);
    if (address_len == 0 || address_len > UCXT_ADDRESS_MAX || len != UCXT_HELLO_FIXED + address_len + UCXT_MAC + 4 ||
        mcs_load_u32(body + len - 4) != mcs_crc32c(0, body, len - 4)) {
        return MCS_ERR_PROTOCOL;
    }
    hello_out->client = id_decode(body);
    hello_out->conn = mcs_load_u64(body + 16);
    hello_out->machine = mcs_load_u64(body + 24);
    memcpy(hello_out->nonce, body + 32, UCXT_NONCE);
    memcpy(hello_out->wire, body + 32 + UCXT_NONCE, UCXT_WIRE);
    hello_out->wire[UCXT_WIRE - 1] = '\0';
    hello_out->rdma = mcs_load_u32(body + UCXT_HELLO_FIXED - 8) != 0;
    hello_out->address_len = address_len;
    memcpy(hello_out->address, body + UCXT_HELLO_FIXED, address_len);
    memcpy(hello_out->mac, body + UCXT_HELLO_FIXED + address_len, UCXT_MAC);
    return MCS_OK;
}

#define WELCOME_PROVE 1u
#define WELCOME_RDMA  2u

void ucxt_welcome_encode(const ucxt_welcome_t *welcome, uint8_t out[UCXT_WELCOME_LEN])
{
    mcs_store_u64(out, welcome->conn);
    mcs_store_u64(out + 8, welcome->machine);
    mcs_store_u32(out + 16, (welcome->prove ? WELCOME_PROVE : 0) | (welcome->rdma ? WELCOME_RDMA : 0));
    memcpy(out + 20, welcome->nonce, UCXT_NONCE);
    memcpy(out + 20 + UCXT_NONCE, welcome->mac, UCXT_MAC);
}

mcs_status_t ucxt_welcome_decode(const uint8_t *body, size_t len, ucxt_welcome_t *welcome_out)
{
    if (len != UCXT_WELCOME_LEN) {
        return MCS_ERR_PROTOCOL;
    }
    welcome_out->conn = mcs_load_u64(body);
    welcome_out->machine = mcs_load_u64(body + 8);
    welcome_out->prove = (mcs_load_u32(body + 16) & WELCOME_PROVE) != 0;
    welcome_out->rdma = (mcs_load_u32(body + 16) & WELCOME_RDMA) != 0;
    memcpy(welcome_out->nonce, body + 20, UCXT_NONCE);
    memcpy(welcome_out->mac, body + 20 + UCXT_NONCE, UCXT_MAC);
    return MCS_OK;
}

#define ENDPOINT_FORMAT 1
#define ENDPOINT_EXTRA  8

mcs_status_t ucxt_endpoint_encode(uint8_t generation, const void *address, size_t len, mcs_endpoint_t *endpoint_out)
{
    if (len == 0 || len > UCXT_ADDRESS_MAX) {
        return MCS_ERR_LIMIT;
    }
    uint8_t *out = endpoint_out->bytes;
    out[0] = ENDPOINT_FORMAT;
    out[1] = generation;
    mcs_store_u16(out + 2, (uint16_t)len);
    memcpy(out + 4, address, len);
    mcs_store_u32(out + 4 + len, mcs_crc32c(0, out, 4 + len));
    endpoint_out->len = (uint32_t)len + ENDPOINT_EXTRA;
    return MCS_OK;
}

mcs_status_t ucxt_endpoint_decode(const mcs_endpoint_t *endpoint, uint8_t generation, const void **address_out,
                                  size_t *len_out)
{
    const uint8_t *in = endpoint->bytes;
    if (endpoint->len < ENDPOINT_EXTRA || endpoint->len > UCXT_ADDRESS_MAX + ENDPOINT_EXTRA ||
        in[0] != ENDPOINT_FORMAT) {
        return MCS_ERR_INVALID_PARAMS;
    }
    size_t len = mcs_load_u16(in + 2);
    if (len == 0 || len + ENDPOINT_EXTRA != endpoint->len || mcs_load_u32(in + 4 + len) != mcs_crc32c(0, in, 4 + len)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (in[1] != generation) {
        return MCS_ERR_INVALID_VERSION;
    }
    *address_out = in + 4;
    *len_out = len;
    return MCS_OK;
}
