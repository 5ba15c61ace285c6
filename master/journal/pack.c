/* See pack.h.
 *
 *   byte     kind, and which of the fields are there: bit 3 hard pin, 4 soft pin, 5 group, 6 data type
 *   numbers  7 bits a byte, the lowest first: bytes shared with the last key, bytes that follow it;
 *            with a value: replicas, payload length, [data type], [end of the soft pin], [length of the group];
 *            a replica: generation and place, each as a difference with its sign in the lowest bit
 *   texts    group, the rest of the key */
#include "master/journal/pack.h"

#include <string.h>

enum { KIND = 7, HARD = 8, SOFT = 16, GROUP = 32, TYPE = 64 };

static bool has_value(unsigned kind)
{
    return kind == MCS_REC_PUT || kind == MCS_REC_STRIKE_PUT;
}

/* ---- numbers ---- */

static uint8_t *put_number(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *put_difference(uint8_t *at, uint64_t value, uint64_t from)
{
    uint64_t difference = value - from;
    return put_number(at, difference << 1 ^ (uint64_t)((int64_t)difference >> 63));
}

typedef struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
} reader_t;

static uint64_t take_number(reader_t *reader)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->at == reader->end) {
            break;
        }
        uint8_t byte = *reader->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return value;
        }
    }
    reader->bad = true;
    return 0;
}

static uint64_t take_difference(reader_t *reader, uint64_t from)
{
    uint64_t coded = take_number(reader);
    return from + (coded >> 1 ^ (~(coded & 1) + 1));
}

/* ---- keys ---- */

static uint32_t shared_len(const mcs_pack_t *pack, const char *key, uint32_t len)
{
    uint32_t most = MCS_MIN(len, pack->key_len);
    uint32_t n = 0;
    while (n + sizeof(uint64_t) <= most && mcs_load_u64(key + n) == mcs_load_u64(pack->key + n)) {
        n += (uint32_t)sizeof(uint64_t);
    }
    while (n < most && key[n] == pack->key[n]) {
        n++;
    }
    return n;
}

/* ---- packing ---- */

static uint8_t *pack_value(mcs_pack_t *pack, const mcs_obj_head_t *head, const uint8_t *replicas, uint8_t *at)
{
    at = put_number(at, head->replica_count);
    at = put_number(at, head->payload_len);
    if (head->data_type != 0) {
        *at++ = head->data_type;
    }
    if ((head->flags & MCS_OBJ_SOFT) != 0) {
        at = put_number(at, head->soft_wall_ms);
    }
    if (head->group_len > 0) {
        at = put_number(at, head->group_len);
    }
    for (uint32_t i = 0; i < head->replica_count; i++) {
        mcs_obj_replica_t replica;
        memcpy(&replica, replicas + i * sizeof(replica), sizeof(replica));
        at = put_difference(at, replica.generation, pack->generation);
        at = put_difference(at, replica.place, pack->place);
        pack->generation = replica.generation;
        pack->place = replica.place;
    }
    return at;
}

uint32_t mcs_pack_object(mcs_pack_t *pack, const uint8_t *body, uint32_t len, uint8_t *out)
{
    mcs_obj_head_t head;
    memcpy(&head, body, sizeof(head));
    const uint8_t *replicas = body + sizeof(head);
    const char *key = (const char *)body + len - head.key_len;
    uint32_t shared = shared_len(pack, key, head.key_len);
    uint32_t rest = head.key_len - shared;
    bool value = has_value(head.kind);
    uint32_t group_len = value ? head.group_len : 0;
    uint8_t *at = out;
    unsigned fields = ((head.flags & MCS_OBJ_HARD) != 0 ? HARD : 0u) | ((head.flags & MCS_OBJ_SOFT) != 0 ? SOFT : 0u) |
                      (group_len > 0 ? GROUP : 0u) | (head.data_type != 0 ? TYPE : 0u);
    *at++ = (uint8_t)(head.kind | (value ? fields : 0u));
    at = put_number(at, shared);
    at = put_number(at, rest);
    if (value) {
        at = pack_value(pack, &head, replicas, at);
    }
    if (group_len > 0) {
        memcpy(at, key - group_len, group_len);
        at += group_len;
    }
    memcpy(at, key + shared, rest);
    memcpy(pack->key + shared, key + shared, rest);
    pack->key_len = head.key_len;
    return (uint32_t)(at + rest - out);
}

/* ---- unpacking ---- */

/* Numbers that bound what is written, before anything is. */
static bool unpack_head(reader_t *reader, uint8_t first, mcs_obj_head_t *head)
{
    memset(head, 0, sizeof(*head));
    head->kind = first & KIND;
    head->flags = (uint8_t)(((first & HARD) != 0 ? MCS_OBJ_HARD : 0) | ((first & SOFT) != 0 ? MCS_OBJ_SOFT : 0));
    if (!has_value(head->kind)) {
        return (first & ~(unsigned)KIND) == 0 && (head->kind == MCS_REC_DEL || head->kind == MCS_REC_STRIKE_DEL);
    }
    uint64_t count = take_number(reader);
    head->payload_len = take_number(reader);
    if ((first & TYPE) != 0) {
        reader->bad = reader->bad || reader->at == reader->end;
        head->data_type = reader->bad ? 0 : *reader->at++;
    }
    head->soft_wall_ms = (first & SOFT) != 0 ? take_number(reader) : 0;
    uint64_t group = (first & GROUP) != 0 ? take_number(reader) : 0;
    head->replica_count = (uint8_t)count;
    head->group_len = (uint16_t)group;
    return count <= MCS_OBJ_REPLICAS_MAX && group <= MCS_KEY_MAX;
}

mcs_status_t mcs_unpack_object(mcs_pack_t *pack, const uint8_t *body, uint32_t len, uint8_t *out, uint32_t *len_out)
{
    reader_t reader = {.at = body, .end = body + len};
    mcs_obj_head_t head;
    if (len == 0) {
        return MCS_ERR_PROTOCOL;
    }
    uint8_t first = *reader.at++;
    uint64_t shared = take_number(&reader);
    uint64_t rest = take_number(&reader);
    if (shared > pack->key_len || rest > MCS_KEY_MAX - shared || (first & 0x80) != 0 ||
        !unpack_head(&reader, first, &head) || reader.bad) {
        return MCS_ERR_PROTOCOL;
    }
    head.key_len = (uint16_t)(shared + rest);
    memcpy(out, &head, sizeof(head));
    uint8_t *at = out + sizeof(head);
    for (uint32_t i = 0; i < head.replica_count; i++) {
        mcs_obj_replica_t replica;
        replica.generation = pack->generation = take_difference(&reader, pack->generation);
        replica.place = pack->place = take_difference(&reader, pack->place);
        memcpy(at, &replica, sizeof(replica));
        at += sizeof(replica);
    }
    if (reader.bad || (uint64_t)(reader.end - reader.at) != head.group_len + rest) {
        return MCS_ERR_PROTOCOL;
    }
    memcpy(at, reader.at, head.group_len);
    at += head.group_len;
    memcpy(pack->key + shared, reader.at + head.group_len, rest);
    pack->key_len = head.key_len;
    memcpy(at, pack->key, head.key_len);
    *len_out = (uint32_t)(at + head.key_len - out);
    return MCS_OK;
}
