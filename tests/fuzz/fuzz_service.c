/* Requests of every verb against a live service in this process: what a hostile client could send after its frames have
 * been taken apart.
 *
 * The RPC server is replaced by the functions of its interface below, so one thread runs everything and an input says
 * all: each step opens or closes a connection, lets time pass, or sends a request. Requests are made from their own
 * descriptors, field by field, mostly of values that occurred in answers before (sessions, instances, put ids,
 * generations), and now and then of raw bytes; a verb that is added is attacked without a line here.
 *
 * Checked: the allocators' bytes equal those of a walk through the index and the open puts, at any time; when all
 * clients have been gone for longer than any timeout, nothing is left. ASan sees the rest. */
#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/master.h"
#include "master/svc_internal.h"

#define CLIENTS     3u
#define POOL        64u
#define STEPS       400u
#define PAYLOAD_MAX ((size_t)1 << 20)

struct mcs_rpc_conn {
    uint32_t refs;
    uint64_t id;
    void *user;
    bool greeted;
    bool closing;
    uint32_t parked;
};

/* What the answers have told; the newest overwrite the oldest. */
typedef struct pool {
    uint64_t values[POOL];
    uint32_t count;
} pool_t;

typedef struct world {
    mcs_master_config_t conf;
    mcs_metrics_t metrics;
    mcs_service_t *service;
    mcs_rpc_ops_t ops;
    mcs_rpc_conn_t *conns[CLIENTS * 2]; /* control and call of each */
    mcs_id_t sessions[CLIENTS];
    uint64_t sequence[CLIENTS];
    pool_t generations; /* put ids are generations, too */
    pool_t handles;
    uint64_t requests;
    const uint8_t *input;
    size_t left;
} world_t;

static world_t g_world;
static uint64_t g_now_ns = UINT64_C(1000) * MCS_NS_PER_SEC;

static uint64_t fake_clock(void)
{
    return g_now_ns;
}

static void pool_add(pool_t *pool, uint64_t value)
{
    pool->values[pool->count++ % POOL] = value;
}

/* ---- the RPC server's interface ---- */

static void take_columns(const ProtobufCBinaryData *bytes, size_t record, size_t at)
{
    for (size_t i = 0; i + record <= bytes->len; i += record) {
        pool_add(&g_world.generations, mcs_load_u64(bytes->data + i + at));
    }
}

/* Learns from an answer. */
static void take_answer(const mcs_frame_header_t *header, const void *payload, const mcs_rpc_conn_t *conn)
{
    size_t len = header->length;
    if (header->verb == MCS_VERB_HELLO) {
        Mcs__Wire__HelloReply *reply = mcs__wire__hello_reply__unpack(NULL, len, payload);
        if (reply != NULL && reply->session != NULL) {
            for (uint32_t i = 0; i < CLIENTS * 2; i++) {
                if (g_world.conns[i] == conn) {
                    g_world.sessions[i / 2] = (mcs_id_t){reply->session->hi, reply->session->lo};
                }
            }
        }
        mcs__wire__hello_reply__free_unpacked(reply, NULL);
    } else if (header->verb == MCS_VERB_MOUNT_SEGMENT) {
        Mcs__Wire__MountSegmentReply *reply = mcs__wire__mount_segment_reply__unpack(NULL, len, payload);
        pool_add(&g_world.handles, reply != NULL ? reply->handle : 0);
        mcs__wire__mount_segment_reply__free_unpacked(reply, NULL);
    } else if (header->verb == MCS_VERB_PUT_START) {
        Mcs__Wire__PutStartReply *reply = mcs__wire__put_start_reply__unpack(NULL, len, payload);
        if (reply != NULL) {
            take_columns(&reply->puts, sizeof(mcs_col_put_t), offsetof(mcs_col_put_t, put_id));
        }
        mcs__wire__put_start_reply__free_unpacked(reply, NULL);
    } else if (header->verb == MCS_VERB_N_RELEASE) {
        Mcs__Wire__NoticeRelease *notice = mcs__wire__notice_release__unpack(NULL, len, payload);
        if (notice != NULL) {
            take_columns(&notice->records, sizeof(mcs_col_release_t), offsetof(mcs_col_release_t, generation));
        }
        mcs__wire__notice_release__free_unpacked(notice, NULL);
    } else if (header->verb == MCS_VERB_N_REVOKED) {
        Mcs__Wire__NoticeRevoked *notice = mcs__wire__notice_revoked__unpack(NULL, len, payload);
        if (notice != NULL) {
            take_columns(&notice->generations, sizeof(uint64_t), 0);
        }
        mcs__wire__notice_revoked__free_unpacked(notice, NULL);
    }
}

mcs_status_t mcs_rpc_conn_send(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const void *payload, size_t len)
{
    mcs_frame_header_t full = *header;
    full.length = (uint32_t)len;
    if (len > MCS_FRAME_MAX) {
        abort();
    }
    if (conn->closing) {
        return MCS_ERR_CLOSED;
    }
    if (full.status == MCS_OK) {
        take_answer(&full, payload, conn);
    }
    return MCS_OK;
}

void mcs_rpc_conn_get(mcs_rpc_conn_t *conn)
{
    conn->refs++;
}

void mcs_rpc_conn_put(mcs_rpc_conn_t *conn)
{
    if (conn != NULL && --conn->refs == 0) {
        mcs_free(conn);
    }
}

void mcs_rpc_conn_close(mcs_rpc_conn_t *conn)
{
    conn->closing = true;
}

uint32_t mcs_rpc_server_connections(const mcs_rpc_server_t *server)
{
    (void)server;
    return 0;
}

size_t mcs_rpc_conn_queued(mcs_rpc_conn_t *conn)
{
    return conn->id % 7 == 6 ? MCS_RPC_OUT_HIGH : 0; /* some read slowly */
}

void mcs_rpc_conn_set_greeted(mcs_rpc_conn_t *conn)
{
    conn->greeted = true;
}

bool mcs_rpc_conn_greeted(const mcs_rpc_conn_t *conn)
{
    return conn->greeted;
}

void mcs_rpc_conn_set_user(mcs_rpc_conn_t *conn, void *user)
{
    conn->user = user;
}

void *mcs_rpc_conn_user(const mcs_rpc_conn_t *conn)
{
    return conn->user;
}

uint64_t mcs_rpc_conn_id(const mcs_rpc_conn_t *conn)
{
    return conn->id;
}

const char *mcs_rpc_conn_peer(const mcs_rpc_conn_t *conn)
{
    (void)conn;
    return "fuzz";
}

uint32_t mcs_rpc_conn_parked_add(mcs_rpc_conn_t *conn, int32_t delta)
{
    conn->parked += (uint32_t)delta;
    return conn->parked;
}

void mcs_rpc_server_poll_begin(mcs_rpc_server_t *server)
{
    (void)server;
}

bool mcs_rpc_server_poll_done(const mcs_rpc_server_t *server)
{
    (void)server;
    return true;
}

const char *mcs_rpc_server_unix_path(const mcs_rpc_server_t *server)
{
    (void)server;
    return "";
}

/* ---- the input ---- */

static uint8_t next_byte(void)
{
    if (g_world.left == 0) {
        return 0;
    }
    g_world.left--;
    return *g_world.input++;
}

/* Mostly what a client would send. */
static uint64_t next_number(void)
{
    uint8_t what = next_byte();
    uint64_t number = 0;
    switch (what) {
    case 250: return UINT64_MAX;
    case 251: return UINT64_C(1) << (next_byte() % 64);
    case 252: return UINT64_C(1000) * next_byte();
    case 253:
        for (int i = 0; i < 8; i++) {
            number = number << 8 | next_byte();
        }
        return number;
    default: return what % 4;
    }
}

/* One time in 64. */
static bool seldom(void)
{
    return next_byte() % 64 == 63;
}

static uint64_t from_pool(const pool_t *pool)
{
    uint8_t which = next_byte();
    return pool->count == 0 || which == 255 ? next_number() : pool->values[which % MCS_MIN(pool->count, POOL)];
}

/* ---- requests ---- */

/* Memory of the request being made; all of it is freed after the call. */
static void *g_pieces[4096];
static uint32_t g_piece_count;

static void *piece(size_t size)
{
    void *memory = calloc(1, size + 1);
    if (memory == NULL || g_piece_count == MCS_ARRAY_LEN(g_pieces)) {
        abort();
    }
    g_pieces[g_piece_count++] = memory;
    return memory;
}

static void free_pieces(void)
{
    while (g_piece_count > 0) {
        free(g_pieces[--g_piece_count]);
    }
}

static ProtobufCBinaryData raw_bytes(void)
{
    size_t len = next_byte();
    ProtobufCBinaryData bytes = {.len = len, .data = piece(len)};
    for (size_t i = 0; i < len; i++) {
        bytes.data[i] = next_byte();
    }
    return bytes;
}

/* How many entries the columns of this request have, so that they mostly agree. */
static uint32_t g_rows;
static bool g_grouped;

static ProtobufCBinaryData u64_column(bool generations)
{
    ProtobufCBinaryData bytes = {.len = g_rows * sizeof(uint64_t), .data = piece(g_rows * sizeof(uint64_t))};
    for (uint32_t i = 0; i < g_rows; i++) {
        mcs_store_u64(bytes.data + i * sizeof(uint64_t), generations ? from_pool(&g_world.generations)
                                                         : seldom()  ? next_number()
                                                                     : 1 + UINT64_C(1500) * next_byte());
    }
    return bytes;
}

/* The lengths of keys k0 … k9, and the keys: both columns say the same without knowing of each other. */
static ProtobufCBinaryData key_lens(void)
{
    ProtobufCBinaryData bytes = {.len = g_rows * 2, .data = piece(g_rows * 2)};
    for (uint32_t i = 0; i < g_rows; i++) {
        bytes.data[i * 2] = 2;
    }
    return bytes;
}

static ProtobufCBinaryData keys(void)
{
    ProtobufCBinaryData bytes = {.len = g_rows * 2, .data = piece(g_rows * 2)};
    for (uint32_t i = 0; i < g_rows; i++) {
        bytes.data[i * 2] = 'k';
        bytes.data[i * 2 + 1] = (uint8_t)('0' + next_byte() % 10);
    }
    return bytes;
}

static ProtobufCBinaryData make_bytes(const char *name)
{
    if (seldom()) {
        return raw_bytes();
    }
    if (strncmp(name, "group", 5) == 0 && !g_grouped) {
        return (ProtobufCBinaryData){0, NULL};
    }
    if (strcmp(name, "key_lens") == 0 || strcmp(name, "group_lens") == 0) {
        return key_lens();
    }
    if (strcmp(name, "keys") == 0 || strcmp(name, "groups") == 0) {
        return keys();
    }
    if (strcmp(name, "sizes") == 0) {
        return u64_column(false);
    }
    if (strcmp(name, "put_ids") == 0 || strcmp(name, "generations") == 0) {
        return u64_column(true);
    }
    if (strcmp(name, "key") == 0) {
        g_rows = 1;
        return keys();
    }
    if (strcmp(name, "nonce") == 0 || strcmp(name, "proof") == 0) {
        return (ProtobufCBinaryData){0, NULL};
    }
    return raw_bytes();
}

static char *make_string(void)
{
    static const char *const texts[] = {"host-a:1", "host-b:1", "host-a:2", "ucx-1.13", "tcp", "", "cpu:0", "?"};
    uint8_t which = next_byte() % 10;
    if (which < MCS_ARRAY_LEN(texts)) {
        return (char *)(uintptr_t)texts[which]; /* protobuf-c has no const; only read */
    }
    size_t len = which == 8 ? 299 : (size_t)next_byte() * 20;
    char *text = piece(len);
    memset(text, 'x', len);
    return text;
}

static void make_message(ProtobufCMessage *message, uint32_t client, int depth);

static ProtobufCMessage *make_child(const ProtobufCMessageDescriptor *type, const char *name, uint32_t client,
                                    int depth)
{
    ProtobufCMessage *child = piece(type->sizeof_message);
    protobuf_c_message_init(type, child);
    if (type == &mcs__wire__id__descriptor) {
        Mcs__Wire__Id *id = (Mcs__Wire__Id *)child;
        uint8_t which = next_byte() % 8;
        if (strcmp(name, "session") == 0) {
            mcs_id_t session = which == 7 ? g_world.sessions[next_byte() % CLIENTS] : g_world.sessions[client];
            id->hi = session.hi;
            id->lo = session.lo;
        } else {
            id->hi = strcmp(name, "client") == 0 ? 100 + (which == 7 ? next_byte() % CLIENTS : client) : 1 + which;
            id->lo = which == 6 && seldom() ? next_number() : 5;
        }
    } else if (type == &mcs__wire__sequence__descriptor) {
        Mcs__Wire__Sequence *sequence = (Mcs__Wire__Sequence *)child;
        uint8_t which = next_byte() % 8;
        sequence->seq = which == 7 && seldom() ? next_number()
                        : which == 6           ? g_world.sequence[client]
                                               : ++g_world.sequence[client];
        sequence->ack = which == 5 ? next_number() : sequence->seq;
    } else {
        make_message(child, client, depth + 1);
    }
    return child;
}

static void make_value(const ProtobufCFieldDescriptor *field, void *at, uint32_t client, int depth)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL: *(protobuf_c_boolean *)at = next_byte() & 1; break;
    case PROTOBUF_C_TYPE_STRING: *(char **)at = make_string(); break;
    case PROTOBUF_C_TYPE_BYTES: *(ProtobufCBinaryData *)at = make_bytes(field->name); break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(ProtobufCMessage **)at = depth < 3 ? make_child(field->descriptor, field->name, client, depth) : NULL;
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
        *(uint64_t *)at = strcmp(field->name, "size") == 0 ? UINT64_C(65536) * (1 + next_byte() % 32) : next_number();
        break;
    default:
        *(uint32_t *)at = strstr(field->name, "handle") != NULL || strstr(field->name, "segment") != NULL
                              ? (uint32_t)from_pool(&g_world.handles)
                              : (uint32_t)next_number();
        break;
    }
}

static size_t size_of(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING: return sizeof(char *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    default: return sizeof(uint64_t);
    }
}

/* Only 64-bit and 32-bit numbers differ in an array. */
static size_t stride_of(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_UINT32 || field->type == PROTOBUF_C_TYPE_INT32 ||
                   field->type == PROTOBUF_C_TYPE_FIXED32
               ? sizeof(uint32_t)
               : size_of(field);
}

static void make_message(ProtobufCMessage *message, uint32_t client, int depth)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        uint8_t *at = (uint8_t *)message + field->offset;
        if (seldom()) {
            continue; /* left out */
        }
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            make_value(field, at, client, depth);
            continue;
        }
        size_t count = next_byte() % 8;
        uint8_t *array = piece(count * size_of(field));
        for (size_t n = 0; n < count; n++) {
            make_value(field, array + n * stride_of(field), client, depth);
            if (field->type == PROTOBUF_C_TYPE_MESSAGE && *(void **)(array + n * stride_of(field)) == NULL) {
                count = n;
            }
        }
        *(void **)at = array;
        *(size_t *)((uint8_t *)message + field->quantifier_offset) = count;
    }
}

static void close_conn(uint32_t i)
{
    mcs_rpc_conn_t *conn = g_world.conns[i];
    if (conn != NULL) {
        g_world.conns[i] = NULL;
        conn->closing = true;
        g_world.ops.closed(g_world.ops.arg, conn);
        mcs_rpc_conn_put(conn);
    }
}

static void deliver(uint32_t i, uint16_t verb, const void *payload, size_t len)
{
    mcs_rpc_conn_t *conn = g_world.conns[i];
    if (conn == NULL) {
        conn = calloc(1, sizeof(*conn)); /* mcs_free takes what free takes */
        if (conn == NULL) {
            abort();
        }
        conn->refs = 1;
        conn->id = ++g_world.requests;
        g_world.conns[i] = conn;
    }
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = verb, .length = (uint32_t)len};
    header.id = ++g_world.requests;
    header.epoch = next_byte() == 255 ? next_number() : g_world.service->epoch;
    mcs_status_t status = g_world.ops.frame(g_world.ops.arg, conn, &header, payload);
    if (status != MCS_OK || conn->closing) {
        close_conn(i);
    }
}

static void send_request(uint32_t i, uint16_t verb)
{
    const ProtobufCMessageDescriptor *type = svc_request_type(verb);
    uint8_t *payload = NULL;
    size_t len = 0;
    g_rows = next_byte() % 6;
    g_grouped = next_byte() % 4 == 3;
    if (type == NULL || seldom()) {
        ProtobufCBinaryData raw = raw_bytes();
        payload = raw.data;
        len = raw.len;
    } else {
        ProtobufCMessage *message = piece(type->sizeof_message);
        protobuf_c_message_init(type, message);
        make_message(message, i / 2, 0);
        len = protobuf_c_message_get_packed_size(message);
        if (len > PAYLOAD_MAX) {
            abort();
        }
        payload = piece(len);
        protobuf_c_message_pack(message, payload);
    }
    deliver(i, verb, payload, len);
    free_pieces();
}

/* A hello that is right, so that inputs get further than the door. */
static void greet(uint32_t i, bool resume)
{
    Mcs__Wire__Hello hello = MCS__WIRE__HELLO__INIT;
    Mcs__Wire__Id client = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__id__descriptor), 100 + i / 2, 5};
    Mcs__Wire__Id session = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__id__descriptor), g_world.sessions[i / 2].hi,
                             g_world.sessions[i / 2].lo};
    static char *const names[CLIENTS] = {"host-a:1", "host-b:1", "host-c:1"};
    uint8_t payload[256];
    hello.protocol = MCS_PROTOCOL_VERSION;
    hello.role = i % 2 == 0 ? 1 : 2;
    hello.client = &client;
    hello.host_name = names[i / 2];
    hello.wire = (char *)(uintptr_t) "ucx-1.13"; /* protobuf-c has no const */
    hello.session = resume || i % 2 == 1 ? &session : NULL;
    if (g_world.conns[i] != NULL) {
        close_conn(i);
    }
    if (hello.session == NULL) {
        g_world.sequence[i / 2] = 0;
    }
    deliver(i, MCS_VERB_HELLO, payload, mcs__wire__hello__pack(&hello, payload));
}

static void mount(uint32_t i)
{
    Mcs__Wire__MountSegment request = MCS__WIRE__MOUNT_SEGMENT__INIT;
    Mcs__Wire__Sequence sequence = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__sequence__descriptor), 0, 0};
    Mcs__Wire__Id instance = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__id__descriptor), 1 + i / 2, 5};
    uint8_t payload[256];
    sequence.seq = ++g_world.sequence[i / 2];
    sequence.ack = sequence.seq;
    request.sequence = &sequence;
    request.instance = &instance;
    request.name = (char *)(uintptr_t)(i / 2 == 0 ? "host-a:1" : "host-b:1");
    request.size = (uint64_t)1 << 20;
    request.protocol = (char *)(uintptr_t) "tcp";
    deliver(i, MCS_VERB_MOUNT_SEGMENT, payload, mcs__wire__mount_segment__pack(&request, payload));
}

/* Ends the puts begun last: few inputs would find the way from one random request to the next. */
static void end_puts(uint32_t i, uint32_t begun)
{
    Mcs__Wire__PutEnd request = MCS__WIRE__PUT_END__INIT;
    Mcs__Wire__Sequence sequence = {PROTOBUF_C_MESSAGE_INIT(&mcs__wire__sequence__descriptor), 0, 0};
    uint8_t ids[8 * sizeof(uint64_t)];
    uint8_t payload[256];
    uint32_t count = MCS_MIN(g_world.generations.count - begun, 8U);
    for (uint32_t n = 0; n < count; n++) {
        mcs_store_u64(ids + n * sizeof(uint64_t), g_world.generations.values[(begun + n) % POOL]);
    }
    sequence.seq = ++g_world.sequence[i / 2];
    sequence.ack = sequence.seq;
    request.sequence = &sequence;
    request.put_ids = (ProtobufCBinaryData){count * sizeof(uint64_t), ids};
    deliver(i, MCS_VERB_PUT_END, payload, mcs__wire__put_end__pack(&request, payload));
}

/* ---- time, and what must hold ---- */

static void turns(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        svc_house_tick(g_world.service);
    }
}

/* In steps that are no stall of the master. */
static void pass(uint64_t ms)
{
    while (ms > 0) {
        uint64_t step = MCS_MIN(ms, (uint64_t)400);
        g_now_ns += step * MCS_NS_PER_MS;
        turns(1);
        ms -= step;
    }
}

/* Of the record's extents, those in segments that are mounted. */
static uint64_t held_by(const svc_record_t *record)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < record->replica_count; i++) {
        const svc_segment_t *segment = svc_segment_at(g_world.service, svc_place_handle(record->replicas[i].place));
        if (segment != NULL && (svc_segment_flags(segment) & SVC_SEG_GONE) == 0) {
            bytes += mcs_extent_room(record->payload_len, segment->shift);
        }
    }
    return bytes;
}

static uint64_t walk(void)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < SVC_SHARDS; i++) {
        svc_shard_t *shard = &g_world.service->index.shards[i];
        mcs_mutex_lock(&shard->lock);
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
            bytes += held_by(svc_record(&g_world.service->index, ref));
        }
        MCS_LIST_FOR_EACH(node, &shard->open)
        {
            const svc_pending_t *pending = MCS_CONTAINER_OF(node, svc_pending_t, node);
            bytes += pending->successor != 0 ? held_by(svc_record(&g_world.service->index, pending->successor)) : 0;
        }
        mcs_mutex_unlock(&shard->lock);
    }
    return bytes;
}

/* Bytes that the allocators have given out and that are not on their way back. */
static uint64_t given_out(void)
{
    const svc_segments_t *segments = &g_world.service->segments;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < segments->active_count; i++) {
        const svc_segment_t *segment = segments->active[i];
        if (segment->returning > segment->used || segment->used > segment->size) {
            abort();
        }
        bytes += segment->used - segment->returning;
    }
    return bytes;
}

/* While an upsert or a removal waits for owners, an extent is in the index and on its way back. */
static void check_accounts(void)
{
    if (g_world.service->strikes == 0 && given_out() != walk()) {
        abort();
    }
}

static bool something_is_left(void)
{
    mcs_service_totals_t totals;
    mcs_service_totals(g_world.service, &totals);
    return totals.objects != 0 || totals.reservations != 0 || totals.clients != 0 || totals.segments != 0 ||
           totals.soft_pinned != 0 || g_world.service->releases != 0 || g_world.service->strikes != 0 ||
           g_world.service->parked_count != 0;
}

static void everybody_leaves(void)
{
    for (uint32_t i = 0; i < CLIENTS * 2; i++) {
        close_conn(i);
    }
    pass(1000 * (g_world.conf.client_ttl + 2));
    /* What housekeeping does in slices of real time may take some more turns. */
    for (uint32_t n = 0; something_is_left(); n++) {
        if (n == 200) {
            abort();
        }
        pass(100);
    }
}

/* ---- one input ---- */

static void step(void)
{
    uint8_t what = next_byte();
    uint32_t i = next_byte() % (CLIENTS * 2);
    static const uint16_t verbs[] = {
#define MCS_VERB_ROW(symbol, number, text, flags) symbol,
#include "core/wire/verbs.def"
#undef MCS_VERB_ROW
    };
    uint32_t begun = g_world.generations.count;
    switch (what % 32) {
    case 0: greet(i, false); break;
    case 1: greet(i, true); break;
    case 2: close_conn(i); break;
    case 3: pass(1 + next_byte()); break;
    case 4: pass(UINT64_C(50) * next_byte()); break;
    case 5: turns(1 + next_byte() % 16); break;
    case 6:
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
        send_request(i, MCS_VERB_PUT_START);
        if (what / 32 % 4 != 0) {
            turns(1); /* it may have waited for room */
            end_puts(i, begun);
        }
        break;
    default:
        if (g_world.conns[i] == NULL && what % 2 == 0) {
            greet(i, true);
        }
        send_request(i, next_byte() == 255 ? (uint16_t)next_number() : verbs[next_byte() % MCS_ARRAY_LEN(verbs)]);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    world_t *world = &g_world;
    memset(world, 0, sizeof(*world));
    world->input = bytes;
    world->left = len;
    mcs_clock_set_source(fake_clock);
    mcs_log_set_level(MCS_LOG_OFF);
    svc_house_manual(true);
    if (mcs_config_init(&mcs_master_config_table, &world->conf) != MCS_OK) {
        abort();
    }
    world->conf.default_kv_lease_ttl = 2000;
    world->conf.client_ttl = 4;
    world->conf.put_start_discard_timeout_sec = 3;
    world->conf.put_start_release_timeout_sec = 6;
    mcs_service_config_t config = {.config = &world->conf, .metrics = &world->metrics, .epoch = 1000};
    if (mcs_service_create(&config, &world->service) != MCS_OK ||
        mcs_service_start(world->service, (mcs_rpc_server_t *)world) != MCS_OK) {
        abort();
    }
    world->ops = mcs_service_rpc_ops(world->service);
    for (uint32_t i = 0; i < CLIENTS * 2; i++) {
        greet(i, false);
        if (i % 2 == 1 && i < 2 * CLIENTS - 1) {
            mount(i);
        }
    }
    for (uint32_t n = 0; n < STEPS && world->left > 0; n++) {
        step();
        if (n % 32 == 31) {
            check_accounts();
        }
    }
    everybody_leaves();
    mcs_service_stop(world->service);
    mcs_service_destroy(world->service);
    mcs_config_fini(&mcs_master_config_table, &world->conf);
    return 0;
}
