/* Block hit rate of a trace: by the master's own eviction on a virtual clock, and by classical policies as yardsticks.
 *
 *   policy_bench POLICY CAPACITY < requests
 *
 * A request is a line of block numbers, 0 upwards without gaps; a block is an object, all of one size. CAPACITY is in
 * blocks. POLICY: lru, arc, s3fifo, fifo (policy_sim.h), or "master:NAME": a service in this process with
 * --eviction_policy=NAME and a segment of CAPACITY extents. There each request looks its blocks up and puts those that
 * are missing; a second passes; leases last a millisecond, and eviction runs on demand alone, so that the whole segment
 * is used. Prints a JSON line. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/micro/policy_sim.h"
#include "bench/micro/world.h"
#include "core/base/alloc.h"
#include "core/base/parse.h"

#define PAYLOAD    4032u
#define KEY_LEN    16u
#define LINE_BYTES ((size_t)16 << 20)
#define BATCH      32u

typedef struct trace {
    uint32_t *ids;
    size_t id_count;
    size_t *ends; /* of requests, in ids */
    size_t request_count;
    uint32_t unique;
} trace_t;

/* ---- the trace ---- */

/* Doubles the array when it is full. */
static void *room(void *array, size_t count, size_t size)
{
    if ((count & (count - 1)) != 0) {
        return array;
    }
    void *grown = mcs_realloc(array, MCS_MAX(2 * count, (size_t)64) * size);
    if (grown == NULL) {
        wire_die("no memory for the trace");
    }
    return grown;
}

static void read_line(trace_t *trace, char *line)
{
    char *at = line;
    char *save;
    for (unsigned long id; id = strtoul(at, &save, 10), save != at; at = save) {
        if (id >= UINT32_MAX) {
            wire_die("block numbers are below 2^32 - 1");
        }
        trace->ids = room(trace->ids, trace->id_count, sizeof(*trace->ids));
        trace->ids[trace->id_count++] = (uint32_t)id;
        trace->unique = MCS_MAX(trace->unique, (uint32_t)id + 1);
    }
    trace->ends = room(trace->ends, trace->request_count, sizeof(*trace->ends));
    trace->ends[trace->request_count++] = trace->id_count;
}

static void read_trace(trace_t *trace)
{
    char *line = mcs_malloc(LINE_BYTES);
    if (line == NULL) {
        wire_die("no memory");
    }
    while (fgets(line, (int)LINE_BYTES, stdin) != NULL) {
        read_line(trace, line);
    }
    mcs_free(line);
    if (trace->id_count == 0) {
        wire_die("the trace is empty");
    }
}

/* Blocks looked up, and put, at once. More than a part of the segment would have to wait for itself. */
static uint32_t batch_of(uint32_t capacity)
{
    return MCS_MAX(MCS_MIN(BATCH, capacity / 4), 1u);
}

/* ---- yardsticks ---- */

/* As the master is used: what a batch finds is found before anything of it is taken in. */
static uint64_t replay_sim(const trace_t *trace, const char *policy, uint32_t capacity)
{
    policy_sim_t *sim = policy_sim_create(policy, trace->unique, capacity);
    uint32_t most = batch_of(capacity);
    uint32_t misses[BATCH];
    uint64_t hits = 0;
    size_t at = 0;
    if (sim == NULL) {
        wire_die("unknown policy");
    }
    for (size_t r = 0; r < trace->request_count; r++) {
        while (at < trace->ends[r]) {
            uint32_t missing = 0;
            for (uint32_t n = 0; at < trace->ends[r] && n < most; n++, at++) {
                if (policy_sim_has(sim, trace->ids[at])) {
                    hits += policy_sim_access(sim, trace->ids[at]);
                } else {
                    misses[missing++] = trace->ids[at];
                }
            }
            for (uint32_t i = 0; i < missing; i++) {
                policy_sim_access(sim, misses[i]);
            }
        }
    }
    policy_sim_destroy(sim);
    return hits;
}

/* ---- the master ---- */

typedef struct batch {
    uint32_t count;
    uint32_t ids[BATCH];
    uint16_t lens[BATCH];
    uint64_t sizes[BATCH];
    char keys[BATCH * KEY_LEN];
} batch_t;

static void batch_add(batch_t *batch, uint32_t id)
{
    uint32_t i = batch->count++;
    batch->ids[i] = id;
    batch->lens[i] = KEY_LEN;
    batch->sizes[i] = PAYLOAD;
    wire_key(batch->keys + (size_t)i * KEY_LEN, KEY_LEN, id);
}

/* Puts what fits; a block that finds no room is none of the cache's, as with any policy. */
static void put_batch(bench_world_t *world, batch_t *batch)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
    Mcs__Wire__PutStart start = MCS__WIRE__PUT_START__INIT;
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    uint64_t ids[BATCH];
    size_t stored = 0;
    sequence.seq = sequence.ack = ++world->client.seq;
    config.replica_num = 1;
    start.sequence = &sequence;
    start.config = &config;
    start.key_lens = (ProtobufCBinaryData){batch->count * sizeof(uint16_t), (uint8_t *)batch->lens};
    start.keys = (ProtobufCBinaryData){(size_t)batch->count * KEY_LEN, (uint8_t *)batch->keys};
    start.sizes = (ProtobufCBinaryData){batch->count * sizeof(uint64_t), (uint8_t *)batch->sizes};
    bench_world_ask(world, MCS_VERB_PUT_START, &start.base, &header, &payload);
    Mcs__Wire__PutStartReply *reply = mcs__wire__put_start_reply__unpack(NULL, header.length, payload);
    if (reply == NULL || reply->puts.len != batch->count * sizeof(mcs_col_put_t)) {
        wire_die("not an answer to put_start");
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        if (put.status == MCS_OK) {
            ids[stored++] = put.put_id;
        }
    }
    mcs__wire__put_start_reply__free_unpacked(reply, NULL);
    batch->count = 0;
    if (stored == 0) {
        return;
    }
    sequence.seq = sequence.ack = ++world->client.seq;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){stored * sizeof(uint64_t), (uint8_t *)ids};
    bench_world_ask(world, MCS_VERB_PUT_END, &end.base, &header, &payload);
}

/* Looks the batch up; what is missing goes to `misses`. Returns the hits. */
static uint64_t look_up_batch(bench_world_t *world, batch_t *batch, batch_t *misses)
{
    Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
    mcs_frame_header_t header;
    const uint8_t *payload;
    uint64_t hits = 0;
    lookup.key_lens = (ProtobufCBinaryData){batch->count * sizeof(uint16_t), (uint8_t *)batch->lens};
    lookup.keys = (ProtobufCBinaryData){(size_t)batch->count * KEY_LEN, (uint8_t *)batch->keys};
    bench_world_ask(world, MCS_VERB_LOOKUP, &lookup.base, &header, &payload);
    Mcs__Wire__LookupReply *reply = mcs__wire__lookup_reply__unpack(NULL, header.length, payload);
    if (reply == NULL || reply->objects.len != batch->count * sizeof(mcs_col_object_t)) {
        wire_die("not an answer to a lookup");
    }
    misses->count = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        if (mcs_load_u32(reply->objects.data + i * sizeof(mcs_col_object_t)) == MCS_OK) {
            hits++;
        } else {
            batch_add(misses, batch->ids[i]);
        }
    }
    mcs__wire__lookup_reply__free_unpacked(reply, NULL);
    return hits;
}

static void configure(mcs_master_config_t *conf, const void *policy)
{
    if (mcs_config_set(&mcs_master_config_table, conf, MCS_CONFIG_FROM_FLAG, "eviction_policy", policy, NULL) !=
        MCS_OK) {
        wire_die("eviction_policy");
    }
    conf->default_kv_lease_ttl = 1;
    conf->lease_guard_ms = 0;
    conf->eviction_high_watermark_ratio = 1;
    conf->eviction_ratio = 1e-9;    /* on demand, and no more than that; 0 would mean never */
    conf->eviction_wait_ms = 10000; /* what is missing is always put */
}

static uint64_t replay_master(const trace_t *trace, const char *policy, uint32_t capacity)
{
    static bench_world_t world;
    batch_t batch = {.count = 0};
    batch_t misses;
    uint64_t hits = 0;
    size_t at = 0;
    uint32_t most = batch_of(capacity);
    bench_world_start(&world, configure, policy, capacity * mcs_extent_len(PAYLOAD));
    for (size_t r = 0; r < trace->request_count; r++) {
        while (at < trace->ends[r]) {
            for (batch.count = 0; at < trace->ends[r] && batch.count < most; at++) {
                batch_add(&batch, trace->ids[at]);
            }
            hits += look_up_batch(&world, &batch, &misses);
            bench_world_pass(2 * MCS_NS_PER_MS); /* the leases run out */
            if (misses.count > 0) {
                put_batch(&world, &misses);
            }
        }
        bench_world_pass(100 * MCS_NS_PER_MS); /* less than what housekeeping takes for a stall */
        bench_world_tick(&world);
    }
    bench_world_stop(&world);
    return hits;
}

int main(int argc, char **argv)
{
    static trace_t trace;
    uint64_t capacity;
    if (argc != 3 || mcs_parse_u64(argv[2], UINT32_MAX, &capacity) != MCS_OK || capacity == 0) {
        fprintf(stderr, "usage: policy_bench POLICY BLOCKS < requests\n");
        return 2;
    }
    read_trace(&trace);
    bool master = strncmp(argv[1], "master:", 7) == 0;
    uint64_t hits = master ? replay_master(&trace, argv[1] + 7, (uint32_t)capacity)
                           : replay_sim(&trace, argv[1], (uint32_t)capacity);
    printf("{\"policy\": \"%s\", \"capacity\": %llu, \"accesses\": %zu, \"unique\": %u, \"hits\": %llu}\n", argv[1],
           (unsigned long long)capacity, trace.id_count, trace.unique, (unsigned long long)hits);
    mcs_free(trace.ids);
    mcs_free(trace.ends);
    return 0;
}
