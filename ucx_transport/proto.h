/* Messages between a caller's lane and an owner's serving worker (wire format 3). Pure functions; little endian;
 * docs/transport.md has the story.
 *
 * Every message is one active message: a 32-byte header and a body, no UCX header.
 *
 *   0 u32 magic "MCD1"   4 u8 version   5 u8 kind   6 u16 0   8 u64 conn   16 u64 request   24 u32 count   28 u32 value
 *
 * `conn` is the number that the *receiver* gave this connection (0 in a hello), `request` is echoed in answers. What
 * comes from the wire is hostile until a decoder here has checked it (rule 10): counts and lengths are bounded,
 * statuses are known ones.
 *
 * A *piece* is what one message moves of one extent: at most 1 MiB, never across a multiple of 1 MiB of the payload. A
 * store's piece carries the CRC of its bytes, is checked, received and ended in one go: no state is kept at the owner
 * between messages. Of a fetch the first piece of a block carries the block's CRC.
 *
 * A message is handed over when all of it has arrived, and is copied out of UCX's buffer then, while the next is on its
 * way. So messages are large, but for the last ones of a transfer, which nothing follows: those are cut short. */
#ifndef UCXT_PROTO_H
#define UCXT_PROTO_H

#include "core/base/buf.h"
#include "core/ops/transport.h"

#define UCXT_MAGIC   UINT32_C(0x3144434d) /* "MCD1" */
#define UCXT_VERSION 3

/* Active message ids. */
#define UCXT_AM_TO_OWNER  21
#define UCXT_AM_TO_CALLER 22

#define UCXT_HEADER       32
#define UCXT_PIECE_MAX    MCS_CRC_BLOCK
#define UCXT_FETCH_PIECES 1024                  /* pieces of one fetch message */
#define UCXT_FETCH_BYTES  (UINT64_C(16) << 20)  /* payload that one fetch message asks for */
#define UCXT_FRAME_PIECES 256                   /* pieces of one message that carries payload */
#define UCXT_FRAME_BYTES  UCXT_PIECE_MAX        /* payload of one message */
#define UCXT_TAIL_FRAME   (UINT64_C(256) << 10) /* of those at the end; whole MCS_WRITE_UNITs */
#define UCXT_FRAME_IOVS   14                    /* entries that UCX gathers without a copy */
/* Payload pieces below this are copied together in front of the wire: a gather entry costs more than the copy. */
#define UCXT_PACK_BELOW 16384
#define UCXT_PACK_BYTES (256 * 1024)

typedef enum ucxt_kind {
    /* to the owner */
    UCXT_HELLO = 1, /* body: ucxt_hello */
    UCXT_PROVE = 2, /* body: mac */
    UCXT_FETCH = 3, /* count pieces; value = milliseconds the caller goes on waiting; body: access records */
    UCXT_STORE = 4, /* count pieces; body: access records, then their bytes */
    UCXT_BYE =
        5, /* the caller closes the connection: closing an endpoint alone does not tell the other side over TCP */
    UCXT_FETCH_RDMA = 6, /* as UCXT_FETCH; body: access records, then places that the owner may put the bytes to */
    UCXT_STORE_RDMA = 7, /* count pieces; body: access records, then places that the owner gets the bytes from */
    /* to the caller */
    UCXT_WELCOME = 16, /* value = status; body: ucxt_welcome when it is MCS_OK */
    UCXT_READY = 17,   /* value = status; the answer to a proof */
    UCXT_PIECES = 18,  /* fetched: value = index of the first piece, count; body: piece records, then the bytes of those
                          that are MCS_OK */
    UCXT_STORED = 19,  /* count; body: i32 statuses, one a piece */
    UCXT_REFUSED = 20, /* the whole request: value = status */
    UCXT_GONE = 21,    /* the owner has closed the connection */
    UCXT_PLACED = 22   /* fetched: as UCXT_PIECES, but the bytes are in their places already */
} ucxt_kind_t;

typedef struct ucxt_header {
    uint8_t kind;
    uint64_t conn;
    uint64_t request;
    uint32_t count;
    uint32_t value;
} ucxt_header_t;

void ucxt_header_encode(const ucxt_header_t *header, uint8_t out[UCXT_HEADER]);
/* MCS_ERR_PROTOCOL: too short, wrong magic or kind; MCS_ERR_INVALID_VERSION. */
mcs_status_t ucxt_header_decode(const uint8_t *bytes, size_t len, ucxt_header_t *header_out) MCS_MUST_CHECK;

/* Payload of the next message when `left` bytes are still to be sent. */
static inline uint64_t ucxt_frame_limit(uint64_t left)
{
    return left > UCXT_FRAME_BYTES ? UCXT_FRAME_BYTES : UCXT_TAIL_FRAME;
}

/* One access record: the access and, for a store, the CRC32C of the piece's bytes. */
#define UCXT_ACCESS 96
void ucxt_access_encode(const mcs_access_t *access, uint32_t crc, uint8_t out[UCXT_ACCESS]);
/* MCS_ERR_PROTOCOL: a length of 0 or over UCXT_PIECE_MAX, across a multiple of
 * that, or outside payload_len. */
mcs_status_t ucxt_access_decode(const uint8_t *in, mcs_access_t *access_out, uint32_t *crc_out) MCS_MUST_CHECK;

/* One piece record of a fetch's answer. */
#define UCXT_PIECE 8
void ucxt_piece_encode(mcs_status_t status, uint32_t crc, uint8_t out[UCXT_PIECE]);
mcs_status_t ucxt_piece_decode(const uint8_t *in, mcs_status_t *status_out, uint32_t *crc_out) MCS_MUST_CHECK;

/* A status from the wire: MCS_ERR_PROTOCOL for a value that is not in the list. */
mcs_status_t ucxt_status_decode(uint32_t value, mcs_status_t *status_out) MCS_MUST_CHECK;

/* Where the bytes of pieces are in the caller's memory. Peers' memory is reached by the caller's keys alone, and by the
 * owner alone, who has checked the accesses:
 *
 *   u16 keys, u16 stretches, u32 0; for each key: u16 length, the packed remote key
 *   for each piece: u16 stretches; then for each stretch: u64 address  u32 length  u32 key
 *
 * A fetch's piece without stretches comes in a message. */
#define UCXT_KEYS_MAX      64
#define UCXT_KEY_MAX       256
#define UCXT_STRETCHES_MAX 4096 /* of a request */
#define UCXT_PLACES_HEADER 8
#define UCXT_STRETCH       16
#define UCXT_RDMA_MIN      (UINT64_C(16) << 10) /* shorter pieces are cheaper in a message */
#define UCXT_RDMA_STRETCH  4096                 /* so are those that are cut smaller, on the average */
#define UCXT_RDMA_PIECES   14                   /* of one store, and of what an owner moves in one go */
#define UCXT_RDMA_BYTES    (UINT64_C(4) << 20)  /* the same */
typedef struct ucxt_stretch {
    uint64_t address;
    uint32_t len;
    uint32_t key;
} ucxt_stretch_t;

/* Of a piece: two of any length, or so few that each pays for itself. */
static inline bool ucxt_stretches_fit(uint64_t bytes, uint32_t stretches)
{
    return stretches <= 2 || bytes / stretches >= UCXT_RDMA_STRETCH;
}

typedef struct ucxt_places {
    uint32_t key_count;
    const uint8_t *key[UCXT_KEYS_MAX]; /* in the message */
    uint16_t key_len[UCXT_KEYS_MAX];
    uint32_t stretch_count;
} ucxt_places_t;

void ucxt_stretch_encode(const ucxt_stretch_t *stretch, uint8_t out[UCXT_STRETCH]);
/* Reads the head and the keys; *used_out is their length. */
mcs_status_t ucxt_places_decode(const uint8_t *in, size_t len, ucxt_places_t *places_out, size_t *used_out)
    MCS_MUST_CHECK;
/* Reads the rest, all of it: first[i] .. first[i + 1] are the stretches of piece i. first has `count` + 1 entries,
 * stretches places->stretch_count. MCS_ERR_PROTOCOL also when stretches do not sum up to their piece, or do not fit it.
 */
mcs_status_t ucxt_stretches_decode(const uint8_t *in, size_t len, const ucxt_places_t *places,
                                   const mcs_access_t *access, uint32_t count, uint32_t *first,
                                   ucxt_stretch_t *stretches) MCS_MUST_CHECK;

#define UCXT_NONCE       32
#define UCXT_MAC         32
#define UCXT_WIRE        32
#define UCXT_ADDRESS_MAX 900

/* The first message of a caller. With a cluster token `mac` proves that the sender knows it before its UCX address is
 * looked at. */
typedef struct ucxt_hello {
    mcs_id_t client;
    uint64_t conn;    /* what the owner's messages are to carry */
    uint64_t machine; /* see core/ops/transport.h */
    uint8_t nonce[UCXT_NONCE];
    char wire[UCXT_WIRE];
    bool rdma; /* it has registered memory that the owner may reach */
    uint32_t address_len;
    uint8_t address[UCXT_ADDRESS_MAX];
    uint8_t mac[UCXT_MAC];
} ucxt_hello_t;
#define UCXT_HELLO_FIXED (16 + 8 + 8 + UCXT_NONCE + UCXT_WIRE + 4 + 4)
#define UCXT_HELLO_MAX   (UCXT_HELLO_FIXED + UCXT_ADDRESS_MAX + UCXT_MAC + 4)
/* The part that the mac covers; returns its length. */
size_t ucxt_hello_signed(const ucxt_hello_t *hello, uint8_t out[UCXT_HELLO_MAX]);
/* The whole body, closed by a CRC32C: a UCX address that was damaged must not reach UCX. Returns its length. */
size_t ucxt_hello_encode(const ucxt_hello_t *hello, uint8_t out[UCXT_HELLO_MAX]);
mcs_status_t ucxt_hello_decode(const uint8_t *body, size_t len, ucxt_hello_t *hello_out) MCS_MUST_CHECK;

typedef struct ucxt_welcome {
    uint64_t conn; /* what the caller's messages are to carry */
    uint64_t machine;
    bool prove; /* a proof is wanted before anything else */
    bool rdma;  /* places may be offered */
    uint8_t nonce[UCXT_NONCE];
    uint8_t mac[UCXT_MAC];
} ucxt_welcome_t;
#define UCXT_WELCOME_LEN (8 + 8 + 4 + UCXT_NONCE + UCXT_MAC)
void ucxt_welcome_encode(const ucxt_welcome_t *welcome, uint8_t out[UCXT_WELCOME_LEN]);
mcs_status_t ucxt_welcome_decode(const uint8_t *body, size_t len, ucxt_welcome_t *welcome_out) MCS_MUST_CHECK;

/* An endpoint of core/ops/transport.h: u8 format 1, u8 wire generation, u16 address length, the address, u32 CRC32C of
 * all that. The generation is checked before UCX sees the address: a UCX of 1.20 or later that connects to one of
 * before makes that one abort. */
mcs_status_t ucxt_endpoint_encode(uint8_t generation, const void *address, size_t len, mcs_endpoint_t *endpoint_out)
    MCS_MUST_CHECK;
/* MCS_ERR_INVALID_PARAMS: not an endpoint of this transport; MCS_ERR_INVALID_VERSION: of another generation.
 * `address_out` points into the endpoint. */
mcs_status_t ucxt_endpoint_decode(const mcs_endpoint_t *endpoint, uint8_t generation, const void **address_out,
                                  size_t *len_out) MCS_MUST_CHECK;

#endif
