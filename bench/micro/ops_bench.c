/* What one operation costs, one kind at a time: in nanoseconds, or in instructions when it runs under callgrind.
 *
 *   ops_bench list                prints the kinds
 *   ops_bench KIND COUNT          does COUNT operations; prints a JSON line with the nanoseconds of one
 *
 * Instructions do not depend on who else uses the machine: bench/instructions.py runs each kind twice, with N and 2 N
 * operations, and takes the difference, so that set-up and the program's start do not count. Everything is seeded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/micro/world.h"
#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/parse.h"
#include "core/client/copy.h"
#include "core/wire/extent.h"

#define KEY_LEN 56u
#define KEYS    100000u
#define BATCH   128u
#define PAYLOAD 4032u
#define RING    (64 * MCS_MIB)

static volatile uint64_t g_sink; /* results go here, or the compiler drops the work */

static uint64_t next_random(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(0x2545f4914f6cdd1d);
}

static void need(bool fine, const char *what)
{
    if (!fine) {
        wire_die(what);
    }
}

static uint8_t *map_ring(void)
{
    uint8_t *ring = mmap(NULL, RING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    need(ring != MAP_FAILED, "mmap");
    memset(ring, 0x5a, RING);
    return ring;
}

static uint64_t real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * MCS_NS_PER_SEC + (uint64_t)now.tv_nsec;
}

/* Set by a kind when its set-up is done. By the kernel's clock: a world's stands still. */
static uint64_t g_began_ns;

static void begin(void)
{
    g_began_ns = real_ns();
}

/* ---- allocator: a free of a random extent and an allocation ---- */

static void run_allocator(uint64_t count)
{
    enum { EXTENTS = 10000 };
    static struct {
        uint64_t offset;
        uint64_t len;
    } extents[EXTENTS];
    mcs_allocator_t *allocator;
    need(mcs_allocator_create(EXTENTS * 80 * MCS_KIB, &allocator) == MCS_OK, "allocator");
    for (uint32_t i = 0; i < EXTENTS; i++) {
        extents[i].len = 4096 + next_random() % (124 * MCS_KIB);
        need(mcs_allocator_alloc(allocator, extents[i].len, &extents[i].offset) == MCS_OK, "fill");
    }
    begin();
    for (uint64_t i = 0; i < count; i++) {
        uint32_t victim = (uint32_t)(next_random() % EXTENTS);
        mcs_allocator_free(allocator, extents[victim].offset, extents[victim].len);
        do {
            extents[victim].len = 4096 + next_random() % (124 * MCS_KIB);
        } while (mcs_allocator_alloc(allocator, extents[victim].len, &extents[victim].offset) != MCS_OK);
        g_sink += extents[victim].offset;
    }
}

/* ---- index ---- */

static svc_index_t g_index;

static void insert_key(uint64_t number)
{
    char key[KEY_LEN];
    wire_key(key, KEY_LEN, number);
    uint64_t hash = svc_index_hash(&g_index, key, KEY_LEN);
    svc_shard_t *shard = svc_index_shard(&g_index, hash);
    mcs_mutex_lock(&shard->lock);
    svc_ref_t ref = svc_record_create(&g_index, shard, key, KEY_LEN, 1, 0);
    need(ref != 0 && svc_shard_insert_locked(&g_index, shard, hash, ref) == MCS_OK, "insert");
    mcs_mutex_unlock(&shard->lock);
}

static void fill_index(void)
{
    need(svc_index_init(&g_index, 1, 0) == MCS_OK, "index");
    for (uint32_t i = 0; i < KEYS; i++) {
        insert_key(i);
    }
}

static void run_index_find(uint64_t count)
{
    char key[KEY_LEN];
    fill_index();
    begin();
    for (uint64_t i = 0; i < count; i++) {
        wire_key(key, KEY_LEN, next_random() % KEYS);
        uint64_t hash = svc_index_hash(&g_index, key, KEY_LEN);
        svc_shard_t *shard = svc_index_shard(&g_index, hash);
        mcs_mutex_lock(&shard->lock);
        svc_ref_t ref = svc_shard_find_locked(&g_index, shard, hash, key, KEY_LEN);
        mcs_mutex_unlock(&shard->lock);
        need(ref != 0, "a key is missing");
        g_sink += ref;
    }
}

static void run_index_insert(uint64_t count)
{
    fill_index();
    begin();
    for (uint64_t i = 0; i < count; i++) {
        insert_key(KEYS + i);
    }
}

/* ---- wire ---- */

static void run_frame(uint64_t count)
{
    uint8_t bytes[MCS_FRAME_HEADER];
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = MCS_VERB_LOOKUP, .length = 100, .epoch = 7};
    begin();
    for (uint64_t i = 0; i < count; i++) {
        header.id = i;
        mcs_frame_encode(&header, bytes);
        need(mcs_frame_decode(bytes, MCS_FRAME_MAX, &header) == MCS_OK, "frame");
        g_sink += header.id;
    }
}

/* Keys into columns and back, 128 a batch; an operation is a key. */
static void run_key_columns(uint64_t count)
{
    static char text[BATCH][KEY_LEN];
    static mcs_key_t decoded[MCS_BATCH_KEYS];
    mcs_key_t keys[BATCH];
    mcs_buf_t lens;
    mcs_buf_t bytes;
    size_t found;
    mcs_buf_init(&lens, MCS_BATCH_KEY_BYTES);
    mcs_buf_init(&bytes, MCS_BATCH_KEY_BYTES);
    for (uint32_t i = 0; i < BATCH; i++) {
        wire_key(text[i], KEY_LEN, i);
        keys[i] = (mcs_key_t){text[i], KEY_LEN};
    }
    begin();
    for (uint64_t i = 0; i < count; i += BATCH) {
        mcs_buf_reset(&lens);
        mcs_buf_reset(&bytes);
        need(mcs_keys_encode(keys, BATCH, &lens, &bytes) == MCS_OK, "encode");
        need(mcs_keys_decode(lens.bytes, lens.len, bytes.bytes, bytes.len, decoded, &found) == MCS_OK, "decode");
        g_sink += found;
    }
    mcs_buf_fini(&lens);
    mcs_buf_fini(&bytes);
}

/* ---- copies: an operation moves one piece over a ring larger than the caches ---- */

typedef void (*copy_fn)(uint8_t *target, uint8_t *source, uint64_t len);

static void copy_plain(uint8_t *target, uint8_t *source, uint64_t len)
{
    memcpy(target, source, len);
    __asm__ volatile("" : : "r"(target) : "memory");
}

static void copy_summed(uint8_t *target, uint8_t *source, uint64_t len)
{
    g_sink += (len >= MCS_STREAM_MIN ? mcs_stream_crc32c : mcs_copy_crc32c)(0, target, source, len);
}

static void copy_in(uint8_t *target, uint8_t *source, uint64_t len)
{
    struct iovec iov = {source, len};
    mcs_cursor_t cursor = mcs_cursor(&iov, 1);
    uint32_t crcs[MCS_EXTENT_INLINE_CRCS];
    mcs_copy_in(target, len, &cursor, crcs, len >= MCS_STREAM_MIN);
    g_sink += crcs[0];
}

static void run_copy(uint64_t count, copy_fn copy, uint64_t len)
{
    uint8_t *source = map_ring();
    uint8_t *target = map_ring();
    uint64_t at = 0;
    begin();
    for (uint64_t i = 0; i < count; i++) {
        copy(target + at, source + at, len);
        at = at + 2 * len > RING ? 0 : at + len;
    }
}

static void run_memcpy_4k(uint64_t count)
{
    run_copy(count, copy_plain, 4 * MCS_KIB);
}

static void run_memcpy_1m(uint64_t count)
{
    run_copy(count, copy_plain, MCS_MIB);
}

static void run_copy_crc_4k(uint64_t count)
{
    run_copy(count, copy_summed, 4 * MCS_KIB);
}

static void run_copy_crc_1m(uint64_t count)
{
    run_copy(count, copy_summed, MCS_MIB);
}

static void run_copy_in_1m(uint64_t count)
{
    run_copy(count, copy_in, MCS_MIB);
}

/* ---- RPC: client and master in one process, over a UNIX socket; an operation is a key ---- */

static bench_world_t g_world;
static uint16_t g_lens[BATCH];
static uint64_t g_sizes[BATCH];
static char g_keys[BATCH * KEY_LEN];

static void fill_batch(uint32_t batch, uint64_t first, bool random)
{
    for (uint32_t i = 0; i < batch; i++) {
        g_lens[i] = KEY_LEN;
        g_sizes[i] = PAYLOAD;
        wire_key(g_keys + (size_t)i * KEY_LEN, KEY_LEN, random ? next_random() % KEYS : first + i);
    }
}

static void put_batch(uint32_t batch, uint64_t first)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
    Mcs__Wire__PutStart start = MCS__WIRE__PUT_START__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    uint64_t ids[BATCH];
    fill_batch(batch, first, false);
    sequence.seq = sequence.ack = ++g_world.client.seq;
    config.replica_num = 1;
    start.sequence = &sequence;
    start.config = &config;
    start.key_lens = (ProtobufCBinaryData){batch * sizeof(uint16_t), (uint8_t *)g_lens};
    start.keys = (ProtobufCBinaryData){(size_t)batch * KEY_LEN, (uint8_t *)g_keys};
    start.sizes = (ProtobufCBinaryData){batch * sizeof(uint64_t), (uint8_t *)g_sizes};
    bench_world_ask(&g_world, MCS_VERB_PUT_START, &start.base, &header, &payload);
    Mcs__Wire__PutStartReply *reply = mcs__wire__put_start_reply__unpack(NULL, header.length, payload);
    need(reply != NULL && reply->puts.len == batch * sizeof(mcs_col_put_t), "put_start");
    for (uint32_t i = 0; i < batch; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        need(put.status == MCS_OK, "put_start of a key");
        ids[i] = put.put_id;
    }
    mcs__wire__put_start_reply__free_unpacked(reply, NULL);
    sequence.seq = sequence.ack = ++g_world.client.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){batch * sizeof(uint64_t), (uint8_t *)ids};
    bench_world_ask(&g_world, MCS_VERB_PUT_END, &end.base, &header, &payload);
}

static void look_up_batch(uint32_t batch)
{
    Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    fill_batch(batch, 0, true);
    lookup.key_lens = (ProtobufCBinaryData){batch * sizeof(uint16_t), (uint8_t *)g_lens};
    lookup.keys = (ProtobufCBinaryData){(size_t)batch * KEY_LEN, (uint8_t *)g_keys};
    bench_world_ask(&g_world, MCS_VERB_LOOKUP, &lookup.base, &header, &payload);
    need(header.length > batch * (sizeof(mcs_col_object_t) + sizeof(mcs_col_replica_t)), "a key is missing");
}

static void start_world(bool filled)
{
    bench_world_start(&g_world, NULL, NULL, UINT64_C(1) << 40);
    for (uint64_t i = 0; filled && i < KEYS; i += BATCH) {
        put_batch(BATCH, i);
    }
}

static void run_rpc_lookup_1(uint64_t count)
{
    start_world(true);
    begin();
    for (uint64_t i = 0; i < count; i++) {
        look_up_batch(1);
    }
    bench_world_stop(&g_world);
}

static void run_rpc_lookup_128(uint64_t count)
{
    start_world(true);
    begin();
    for (uint64_t i = 0; i < count; i += BATCH) {
        look_up_batch(BATCH);
    }
    bench_world_stop(&g_world);
}

static void run_rpc_put_128(uint64_t count)
{
    start_world(false);
    begin();
    for (uint64_t i = 0; i < count; i += BATCH) {
        put_batch(BATCH, i);
    }
    bench_world_stop(&g_world);
}

/* ---- kinds ---- */

typedef struct kind {
    const char *name;
    void (*run)(uint64_t count);
    bool instructions; /* steady enough to be held to a baseline: no threads */
} kind_t;

static const kind_t g_kinds[] = {
    {"allocator", run_allocator, true},       {"index_find", run_index_find, true},
    {"index_insert", run_index_insert, true}, {"frame", run_frame, true},
    {"key_columns", run_key_columns, true},   {"memcpy_4k", run_memcpy_4k, false},
    {"memcpy_1m", run_memcpy_1m, false},      {"copy_crc_4k", run_copy_crc_4k, true},
    {"copy_crc_1m", run_copy_crc_1m, true},   {"copy_in_1m", run_copy_in_1m, true},
    {"rpc_lookup_1", run_rpc_lookup_1, true}, {"rpc_lookup_128", run_rpc_lookup_128, true},
    {"rpc_put_128", run_rpc_put_128, true},
};

int main(int argc, char **argv)
{
    uint64_t count;
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < MCS_ARRAY_LEN(g_kinds); i++) {
            printf("%s%s\n", g_kinds[i].name, g_kinds[i].instructions ? " instructions" : "");
        }
        return 0;
    }
    if (argc != 3 || mcs_parse_u64(argv[2], UINT64_C(1) << 40, &count) != MCS_OK || count == 0) {
        fprintf(stderr, "usage: ops_bench list | ops_bench KIND COUNT\n");
        return 2;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_kinds); i++) {
        if (strcmp(argv[1], g_kinds[i].name) == 0) {
            g_kinds[i].run(count);
            printf("{\"kind\": \"%s\", \"count\": %llu, \"ns\": %.2f}\n", argv[1], (unsigned long long)count,
                   (double)(real_ns() - g_began_ns) / (double)count);
            return 0;
        }
    }
    fprintf(stderr, "ops_bench: no such kind: %s\n", argv[1]);
    return 2;
}
