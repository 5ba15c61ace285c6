/* RPC frames: a fixed 32-byte header, then a protobuf message (mcs.proto), over TCP or a UNIX stream socket.
 *
 *   0 u32 magic "MCS1"   4 u8 version  5 u8 kind  6 u16 verb   8 u32 payload bytes   12 i32 status
 *  16 u64 id            24 u64 epoch
 *
 * Everything is little endian. A request's id is echoed in its reply and appears in the logs of client, master and
 * owner. `status` is meaningful in replies: when it is not 0 the payload is empty or an ErrorDetail. `epoch` is the
 * master's epoch as the sender knows it (0 in the first hello). Requests on one connection are pipelined; replies may
 * come in any order. Bounded: a payload over MCS_FRAME_MAX closes the connection (rule 8, rule 10). Pure functions, no
 * I/O. */
#ifndef MCS_WIRE_FRAME_H
#define MCS_WIRE_FRAME_H

#include "core/base/buf.h"
#include "core/base/status.h"

#define MCS_FRAME_MAGIC   UINT32_C(0x3153434d)
#define MCS_FRAME_VERSION 1
#define MCS_FRAME_HEADER  32
#define MCS_FRAME_MAX     (UINT32_C(16) << 20)
/* Before the hello is accepted a peer may send no more than this (limits before authentication). */
#define MCS_FRAME_HELLO_MAX (UINT32_C(64) << 10)

typedef enum mcs_frame_kind {
    MCS_FRAME_REQUEST = 1, /* wants a reply with the same id */
    MCS_FRAME_REPLY = 2,
    MCS_FRAME_NOTICE = 3 /* from the master, no reply */
} mcs_frame_kind_t;

/* Verbs: MCS_VERB_ROW(symbol, number, text, flags). Numbers are wire ABI: never reuse one. */
#define MCS_VERB_MUTATES                                                                                               \
    1 /* carries (session, sequence): repeated after a lost connection it is answered from the outcome */
#define MCS_VERB_NOTICE 2 /* master to client */
typedef enum mcs_verb {
#define MCS_VERB_ROW(symbol, number, text, flags) symbol = number,
#include "core/wire/verbs.def"
#undef MCS_VERB_ROW
} mcs_verb_t;

/* "put_start"; "?" for an unknown number. */
const char *mcs_verb_name(unsigned verb);
unsigned mcs_verb_flags(unsigned verb);

typedef struct mcs_frame_header {
    uint8_t kind;
    uint16_t verb;
    uint32_t length;
    int32_t status;
    uint64_t id;
    uint64_t epoch;
} mcs_frame_header_t;

void mcs_frame_encode(const mcs_frame_header_t *h, uint8_t out[MCS_FRAME_HEADER]);
/* `in` holds MCS_FRAME_HEADER bytes. MCS_ERR_PROTOCOL: wrong magic, kind or length over `max_payload`;
 * MCS_ERR_INVALID_VERSION: another frame version. */
mcs_status_t mcs_frame_decode(const uint8_t *in, uint32_t max_payload, mcs_frame_header_t *h) MCS_MUST_CHECK;

#endif
