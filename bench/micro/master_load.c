/* Load on a running master, without data: puts, lookups, existence checks and removals over several connections, each
 * with several requests in flight, from one thread.
 *
 *   master_load ADDRESS [unix]      HOST:PORT; with "unix" over the UNIX socket that the master names
 *
 * Obeys lines of its standard input, one answer (a JSON line) each:
 *
 *   mount BYTES                                   a segment that only exists in the master's books
 *   put    FROM COUNT KEYLEN CONNS DEPTH BATCH    put_start and put_end of new keys FROM .. FROM + COUNT, of 4032
 *                                                 bytes each
 *   remove FROM COUNT KEYLEN CONNS DEPTH BATCH    by force; extents that the master wants back are given back
 *   lookup KEYS COUNT KEYLEN CONNS DEPTH BATCH    COUNT keys of 0 .. KEYS in random order
 *   exist                                         the same
 *   mixed  KEYS COUNT KEYLEN CONNS DEPTH BATCH    COUNT new keys from KEYS on are put on one connection, while another
 *                                                 looks single keys up; the latencies are those of the lookups
 *   settle MS                                     gives extents back until none was asked for MS milliseconds
 *
 * Latencies are of requests (a put: of its two together); a request in flight counts the ones before it on its
 * connection, as a pipelining client's does. Fails loudly when a key is missing that should be there. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/micro/clocks.h"
#include "bench/micro/wire_client.h"
#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/parse.h"
#include "core/wire/extent.h"

#define CONNS_MAX   64u
#define DEPTH_MAX   64u
#define BATCH_MAX   4096u
#define KEY_LEN_MAX 512u
#define PAYLOAD     4032u
#define SAMPLES_MAX ((size_t)8 << 20)

typedef enum kind { LOOKUP, EXIST, PUT, REMOVE } kind_t;

/* What one or more connections work on. */
typedef struct load {
    kind_t kind;
    uint64_t next;
    uint64_t end;
    uint64_t random_below; /* 0: keys in order */
    uint32_t key_len;
    uint32_t batch;
    uint64_t done;   /* keys */
    uint64_t absent; /* answers that say so */
    uint64_t in_flight;
    uint32_t *samples; /* ns */
    size_t sample_count;
} load_t;

typedef struct slot {
    bool busy;
    uint64_t began_ns;
    uint64_t seq;
    uint32_t count;
} slot_t;

typedef struct worker {
    wire_session_t session;
    load_t *load;
    uint32_t depth;
    slot_t slots[DEPTH_MAX];
} worker_t;

static worker_t g_workers[CONNS_MAX];
static uint32_t g_worker_count;
static wire_session_t g_owner;
static bool g_owner_open;
static const char *g_address;
static uint64_t g_random = 0x9e3779b97f4a7c15u;

static uint64_t next_random(void)
{
    g_random ^= g_random >> 12;
    g_random ^= g_random << 25;
    g_random ^= g_random >> 27;
    return g_random * UINT64_C(0x2545f4914f6cdd1d);
}

/* ---- requests ---- */

typedef struct columns {
    uint16_t lens[BATCH_MAX];
    uint64_t sizes[BATCH_MAX];
    char keys[BATCH_MAX * KEY_LEN_MAX];
} columns_t;
static columns_t g_columns;

static uint32_t fill_columns(load_t *load)
{
    uint32_t count = (uint32_t)MCS_MIN((uint64_t)load->batch, load->end - load->next);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = load->random_below > 0 ? next_random() % load->random_below : load->next + i;
        g_columns.lens[i] = (uint16_t)load->key_len;
        g_columns.sizes[i] = PAYLOAD;
        wire_key(g_columns.keys + (size_t)i * load->key_len, load->key_len, number);
    }
    load->next += count;
    return count;
}

/* Everything below the oldest request in flight has been answered. */
static Mcs__Wire__Sequence next_sequence(worker_t *worker, slot_t *slot)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    slot->seq = ++worker->session.seq;
    sequence.seq = sequence.ack = slot->seq;
    for (uint32_t i = 0; i < worker->depth; i++) {
        if (worker->slots[i].busy) {
            sequence.ack = MCS_MIN(sequence.ack, worker->slots[i].seq);
        }
    }
    return sequence;
}

static void queue(worker_t *worker, const slot_t *slot, mcs_verb_t verb, const ProtobufCMessage *message)
{
    uint64_t index = (uint64_t)(slot - worker->slots);
    wire_queue(&worker->session, &worker->session.call, verb, ++worker->session.next_id * DEPTH_MAX + index, message);
}

static void queue_put(worker_t *worker, slot_t *slot, ProtobufCBinaryData lens, ProtobufCBinaryData keys)
{
    Mcs__Wire__Sequence sequence = next_sequence(worker, slot);
    Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
    Mcs__Wire__PutStart start = MCS__WIRE__PUT_START__INIT;
    config.replica_num = 1;
    start.sequence = &sequence;
    start.config = &config;
    start.key_lens = lens;
    start.keys = keys;
    start.sizes = (ProtobufCBinaryData){slot->count * sizeof(uint64_t), (uint8_t *)g_columns.sizes};
    queue(worker, slot, MCS_VERB_PUT_START, &start.base);
}

static void queue_remove(worker_t *worker, slot_t *slot, ProtobufCBinaryData lens, ProtobufCBinaryData keys)
{
    Mcs__Wire__Sequence sequence = next_sequence(worker, slot);
    Mcs__Wire__Remove remove = MCS__WIRE__REMOVE__INIT;
    remove.sequence = &sequence;
    remove.key_lens = lens;
    remove.keys = keys;
    remove.force = true;
    queue(worker, slot, MCS_VERB_REMOVE, &remove.base);
}

/* The next batch of the load, when there is one. */
static void issue(worker_t *worker, slot_t *slot)
{
    load_t *load = worker->load;
    slot->busy = false;
    if (load->next >= load->end) {
        return;
    }
    slot->count = fill_columns(load);
    slot->began_ns = mcs_now_ns();
    ProtobufCBinaryData lens = {slot->count * sizeof(uint16_t), (uint8_t *)g_columns.lens};
    ProtobufCBinaryData keys = {(size_t)slot->count * load->key_len, (uint8_t *)g_columns.keys};
    if (load->kind == LOOKUP) {
        Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
        lookup.key_lens = lens;
        lookup.keys = keys;
        queue(worker, slot, MCS_VERB_LOOKUP, &lookup.base);
    } else if (load->kind == EXIST) {
        Mcs__Wire__Exist exist = MCS__WIRE__EXIST__INIT;
        exist.key_lens = lens;
        exist.keys = keys;
        queue(worker, slot, MCS_VERB_EXIST, &exist.base);
    } else if (load->kind == PUT) {
        queue_put(worker, slot, lens, keys);
    } else {
        queue_remove(worker, slot, lens, keys);
    }
    slot->busy = true;
    load->in_flight++;
}

/* ---- answers ---- */

static void queue_put_end(worker_t *worker, slot_t *slot, const uint8_t *payload, uint32_t len)
{
    static uint64_t ids[BATCH_MAX];
    Mcs__Wire__PutStartReply *reply = mcs__wire__put_start_reply__unpack(NULL, len, payload);
    if (reply == NULL || reply->puts.len != slot->count * sizeof(mcs_col_put_t)) {
        wire_die("not an answer to put_start");
    }
    for (uint32_t i = 0; i < slot->count; i++) {
        mcs_col_put_t put;
        memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
        if (put.status != MCS_OK) {
            wire_die(mcs_status_name(put.status));
        }
        ids[i] = put.put_id;
    }
    mcs__wire__put_start_reply__free_unpacked(reply, NULL);
    Mcs__Wire__Sequence sequence = next_sequence(worker, slot);
    Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
    end.sequence = &sequence;
    end.put_ids = (ProtobufCBinaryData){slot->count * sizeof(uint64_t), (uint8_t *)ids};
    queue(worker, slot, MCS_VERB_PUT_END, &end.base);
}

/* The statuses of a lookup's, an exist's, a put_end's or a removal's answer are counted, not believed. */
static uint64_t count_absent(const load_t *load, const slot_t *slot, const uint8_t *payload, uint32_t len)
{
    uint64_t absent = 0;
    if (load->kind == LOOKUP) {
        Mcs__Wire__LookupReply *reply = mcs__wire__lookup_reply__unpack(NULL, len, payload);
        if (reply == NULL || reply->objects.len != slot->count * sizeof(mcs_col_object_t)) {
            wire_die("not an answer to a lookup");
        }
        for (uint32_t i = 0; i < slot->count; i++) {
            absent += mcs_load_u32(reply->objects.data + i * sizeof(mcs_col_object_t)) != MCS_OK;
        }
        mcs__wire__lookup_reply__free_unpacked(reply, NULL);
        return absent;
    }
    Mcs__Wire__StatusColumn *column = mcs__wire__status_column__unpack(NULL, len, payload); /* ExistReply is alike */
    if (column == NULL || column->statuses.len != slot->count * sizeof(int32_t)) {
        wire_die("not a column of statuses");
    }
    for (uint32_t i = 0; i < slot->count; i++) {
        absent += mcs_load_u32(column->statuses.data + i * sizeof(int32_t)) != (load->kind == EXIST ? 1u : MCS_OK);
    }
    mcs__wire__status_column__free_unpacked(column, NULL);
    return absent;
}

static void on_reply(worker_t *worker, const mcs_frame_header_t *header, const uint8_t *payload)
{
    slot_t *slot = &worker->slots[header->id % DEPTH_MAX];
    load_t *load = worker->load;
    if (header->kind != MCS_FRAME_REPLY || !slot->busy) {
        return;
    }
    if (header->status != MCS_OK) {
        wire_die(mcs_status_name(header->status));
    }
    if (header->verb == MCS_VERB_PUT_START) {
        queue_put_end(worker, slot, payload, header->length);
        return;
    }
    load->absent += count_absent(load, slot, payload, header->length);
    load->done += slot->count;
    load->in_flight--;
    if (load->sample_count < SAMPLES_MAX) {
        uint64_t took_ns = mcs_now_ns() - slot->began_ns;
        load->samples[load->sample_count++] = (uint32_t)MCS_MIN(took_ns, (uint64_t)UINT32_MAX);
    }
    issue(worker, slot);
}

static void pump(worker_t *worker)
{
    mcs_frame_header_t header;
    const uint8_t *payload;
    wire_fill(&worker->session.call);
    while (wire_take(&worker->session.call, &header, &payload)) {
        on_reply(worker, &header, payload);
    }
    wire_flush(&worker->session.call);
}

/* ---- runs ---- */

static void need_workers(uint32_t count)
{
    for (; g_worker_count < count; g_worker_count++) {
        wire_session_open(&g_workers[g_worker_count].session, g_address);
    }
}

static void begin(worker_t *worker, load_t *load, uint32_t depth)
{
    worker->load = load;
    worker->depth = depth;
    memset(worker->slots, 0, sizeof(worker->slots));
    for (uint32_t i = 0; i < depth; i++) {
        issue(worker, &worker->slots[i]);
    }
    wire_flush(&worker->session.call);
}

/* Until the loads of the first `count` workers have nothing in flight; `rider` (may be NULL) then stops issuing. */
static void run_until_done(uint32_t count, const load_t *main_load, load_t *rider)
{
    struct pollfd fds[CONNS_MAX + 1];
    while (main_load->in_flight > 0 || (rider != NULL && rider->in_flight > 0)) {
        for (uint32_t i = 0; i < count; i++) {
            fds[i] = (struct pollfd){.fd = g_workers[i].session.call.fd, .events = POLLIN};
        }
        fds[count] = (struct pollfd){.fd = g_owner_open ? g_owner.control.fd : -1, .events = POLLIN};
        if (poll(fds, count + 1, 10000) <= 0) {
            wire_die("the master does not answer");
        }
        for (uint32_t i = 0; i < count; i++) {
            if (fds[i].revents != 0) {
                pump(&g_workers[i]);
            }
        }
        if (fds[count].revents != 0) {
            wire_answer_releases(&g_owner);
        }
        if (rider != NULL && main_load->in_flight == 0) {
            rider->end = rider->next;
        }
    }
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(load_t *load, uint64_t keys, double seconds, double cpu)
{
    size_t n = load->sample_count;
    qsort(load->samples, n, sizeof(*load->samples), compare_u32);
#define AT(share) (n > 0 ? (double)load->samples[MCS_MIN((size_t)((double)n * (share)), n - 1)] / 1e3 : 0.0)
    printf("{\"keys\": %llu, \"seconds\": %.6f, \"cpu\": %.6f, \"absent\": %llu, \"requests\": %zu, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)keys, seconds, cpu, (unsigned long long)load->absent, n, AT(0.5), AT(0.99), AT(0.999),
           AT(1.0));
#undef AT
}

typedef struct numbers {
    uint64_t from; /* or the keys there are */
    uint64_t count;
    uint64_t key_len;
    uint64_t conns;
    uint64_t depth;
    uint64_t batch;
} numbers_t;

static load_t make_load(kind_t kind, const numbers_t *n)
{
    load_t load = {.kind = kind, .key_len = (uint32_t)n->key_len, .batch = (uint32_t)n->batch};
    if (kind == LOOKUP || kind == EXIST) {
        load.random_below = n->from;
        load.end = n->count;
    } else {
        load.next = n->from;
        load.end = n->from + n->count;
    }
    load.samples = mcs_malloc(SAMPLES_MAX * sizeof(*load.samples));
    if (load.samples == NULL) {
        wire_die("no memory for samples");
    }
    return load;
}

static void run_load(kind_t kind, const numbers_t *n)
{
    load_t load = make_load(kind, n);
    need_workers((uint32_t)n->conns);
    double cpu = cpu_s();
    uint64_t began = mcs_now_ns();
    for (uint32_t i = 0; i < n->conns; i++) {
        begin(&g_workers[i], &load, (uint32_t)n->depth);
    }
    run_until_done((uint32_t)n->conns, &load, NULL);
    report(&load, load.done, (double)(mcs_now_ns() - began) / 1e9, cpu_s() - cpu);
    mcs_free(load.samples);
}

static void run_mixed(const numbers_t *n)
{
    numbers_t single = {.from = n->from, .count = UINT64_MAX / 2, .key_len = n->key_len, .batch = 1};
    load_t puts = make_load(PUT, n);
    load_t lookups = make_load(LOOKUP, &single);
    need_workers(2);
    double cpu = cpu_s();
    uint64_t began = mcs_now_ns();
    begin(&g_workers[0], &puts, (uint32_t)n->depth);
    begin(&g_workers[1], &lookups, 1);
    run_until_done(2, &puts, &lookups);
    report(&lookups, puts.done, (double)(mcs_now_ns() - began) / 1e9, cpu_s() - cpu);
    mcs_free(puts.samples);
    mcs_free(lookups.samples);
}

static void settle(uint64_t quiet_ms)
{
    uint64_t released = 0;
    struct pollfd fd = {.fd = g_owner.control.fd, .events = POLLIN};
    while (g_owner_open && poll(&fd, 1, (int)quiet_ms) > 0) {
        released += wire_answer_releases(&g_owner);
    }
    printf("{\"released\": %llu}\n", (unsigned long long)released);
}

/* ---- commands ---- */

static bool obey_numbers(const char *verb, const numbers_t *n)
{
    if (n->count == 0 || n->key_len < 16 || n->key_len > KEY_LEN_MAX || n->conns == 0 || n->conns > CONNS_MAX ||
        n->depth == 0 || n->depth > DEPTH_MAX || n->batch == 0 || n->batch > BATCH_MAX) {
        return false;
    }
    static const char *const kinds[] = {[LOOKUP] = "lookup", [EXIST] = "exist", [PUT] = "put", [REMOVE] = "remove"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(kinds); i++) {
        if (strcmp(verb, kinds[i]) == 0) {
            run_load((kind_t)i, n);
            return true;
        }
    }
    if (strcmp(verb, "mixed") != 0) {
        return false;
    }
    run_mixed(n);
    return true;
}

static bool obey(const char *line)
{
    char verb[16];
    char text[6][24];
    uint64_t value[6] = {0};
    int words =
        sscanf(line, "%15s %23s %23s %23s %23s %23s %23s", verb, text[0], text[1], text[2], text[3], text[4], text[5]);
    for (int i = 0; i + 1 < words; i++) {
        if (mcs_parse_u64(text[i], UINT64_MAX, &value[i]) != MCS_OK) {
            return false;
        }
    }
    if (words == 2 && strcmp(verb, "mount") == 0) {
        if (!g_owner_open) {
            wire_session_open(&g_owner, g_address);
            g_owner_open = true;
        }
        wire_mount(&g_owner, "load:1", value[0]);
        printf("{\"mounted\": %llu, \"extent\": %llu}\n", (unsigned long long)value[0],
               (unsigned long long)mcs_extent_len(PAYLOAD));
        return true;
    }
    if (words == 2 && strcmp(verb, "settle") == 0) {
        settle(value[0]);
        return true;
    }
    numbers_t n = {value[0], value[1], value[2], value[3], value[4], value[5]};
    return words == 7 && obey_numbers(verb, &n);
}

int main(int argc, char **argv)
{
    static char unix_address[128];
    char line[256];
    if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "unix") != 0)) {
        fprintf(stderr, "usage: master_load HOST:PORT [unix]\n");
        return 2;
    }
    g_address = argv[1];
    if (argc == 3) {
        wire_session_t probe;
        wire_session_open(&probe, g_address);
        if (probe.unix_path[0] == '\0') {
            wire_die("the master has no UNIX socket");
        }
        snprintf(unix_address, sizeof(unix_address), "unix:%s", probe.unix_path);
        g_address = unix_address;
        wire_session_close(&probe);
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (!obey(line)) {
            fprintf(stderr, "master_load: not a command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
