/* The master's service over a UNIX socket, in process: batches of 128 puts and lookups by a few clients, and what a key
 * costs in memory.
 *
 *   service_bench [keys] [clients] [rpc threads] [journal folder]      defaults: 1000000 4 2, no journal
 *
 * Each client keeps one request in flight on one connection, as a calling thread of the store does. Keys have 56
 * characters, one replica. With a journal (an empty folder), the time of a start from it is measured, too. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/micro/clocks.h"
#include "core/base/alloc.h"
#include "core/base/parse.h"
#include "master/svc_internal.h"

#define BATCH   128u
#define KEY_LEN 56u
#define PAYLOAD 4032u
#define SEGMENT (UINT64_C(1) << 40)

typedef struct client {
    const char *path;
    int fd;
    uint64_t id;
    uint64_t seq;
    uint64_t epoch;
    mcs_id_t session;
    mcs_id_t client;
    uint64_t first;
    uint64_t count;
    uint8_t *reply;
    uint32_t reply_len;
    uint64_t *put_ids;
    pthread_t thread;
} client_t;

static void die(const char *what)
{
    fprintf(stderr, "service_bench: %s\n", what);
    exit(1);
}

static void read_all(int fd, uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = read(fd, bytes, len);
        if (n <= 0) {
            die("connection lost");
        }
        bytes += n;
        len -= (size_t)n;
    }
}

static void call(client_t *c, mcs_verb_t verb, const ProtobufCMessage *message)
{
    static _Thread_local uint8_t t_frame[64 * 1024];
    size_t len = protobuf_c_message_get_packed_size(message);
    mcs_frame_header_t header = {
        .kind = MCS_FRAME_REQUEST, .verb = (uint16_t)verb, .length = (uint32_t)len, .id = ++c->id, .epoch = c->epoch};
    if (len + MCS_FRAME_HEADER > sizeof(t_frame)) {
        die("request too long");
    }
    mcs_frame_encode(&header, t_frame);
    protobuf_c_message_pack(message, t_frame + MCS_FRAME_HEADER);
    if (write(c->fd, t_frame, MCS_FRAME_HEADER + len) != (ssize_t)(MCS_FRAME_HEADER + len)) {
        die("write");
    }
    do { /* notices are not for us */
        read_all(c->fd, t_frame, MCS_FRAME_HEADER);
        if (mcs_frame_decode(t_frame, MCS_FRAME_MAX, &header) != MCS_OK) {
            die("bad frame");
        }
        read_all(c->fd, c->reply, header.length);
    } while (header.kind != MCS_FRAME_REPLY);
    c->reply_len = header.length;
    if (header.status != MCS_OK) {
        die(mcs_status_name(header.status));
    }
}

static void hello(client_t *c, uint32_t role)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->path);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        die("connect");
    }
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__Id session = MCS__WIRE__ID__INIT;
    Mcs__Wire__Hello message = MCS__WIRE__HELLO__INIT;
    id.hi = c->client.hi;
    id.lo = c->client.lo;
    session.hi = c->session.hi;
    session.lo = c->session.lo;
    message.protocol = MCS_PROTOCOL_VERSION;
    message.role = role;
    message.client = &id;
    message.session = &session;
    call(c, MCS_VERB_HELLO, &message.base);
    Mcs__Wire__HelloReply *reply = mcs__wire__hello_reply__unpack(NULL, c->reply_len, c->reply);
    c->epoch = reply->epoch;
    c->session = (mcs_id_t){reply->session->hi, reply->session->lo};
    mcs__wire__hello_reply__free_unpacked(reply, NULL);
}

static void mount(client_t *c)
{
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__MountSegment message = MCS__WIRE__MOUNT_SEGMENT__INIT;
    char name[] = "bench:1";
    id.hi = 1;
    sequence.seq = sequence.ack = ++c->seq;
    message.sequence = &sequence;
    message.instance = &id;
    message.name = name;
    message.size = SEGMENT;
    call(c, MCS_VERB_MOUNT_SEGMENT, &message.base);
}

typedef struct batch {
    uint16_t lens[BATCH];
    char keys[BATCH * KEY_LEN + 1];
    uint64_t sizes[BATCH];
} batch_t;

static void fill(batch_t *b, uint64_t first, bool shuffled, uint64_t total)
{
    for (uint32_t i = 0; i < BATCH; i++) {
        uint64_t key = shuffled ? (first + i) * UINT64_C(2654435761) % total : first + i;
        b->lens[i] = KEY_LEN;
        b->sizes[i] = PAYLOAD;
        /* A name that all share, and a hash, as engines make keys. */
        snprintf(b->keys + i * KEY_LEN, KEY_LEN + 1, "bench-model@tp:0@pp:0@g0@%015llx%016llx",
                 (unsigned long long)(key * UINT64_C(0x9e3779b97f4a7c15) >> 4),
                 (unsigned long long)(key * UINT64_C(0xd1342543de82ef95) ^ key >> 3));
    }
}

static void *put_all(void *arg)
{
    client_t *c = arg;
    batch_t b;
    for (uint64_t k = 0; k + BATCH <= c->count; k += BATCH) {
        Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
        Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
        Mcs__Wire__PutStart start = MCS__WIRE__PUT_START__INIT;
        fill(&b, c->first + k, false, 0);
        sequence.seq = sequence.ack = ++c->seq;
        config.replica_num = 1;
        start.sequence = &sequence;
        start.config = &config;
        start.key_lens = (ProtobufCBinaryData){sizeof(b.lens), (uint8_t *)b.lens};
        start.keys = (ProtobufCBinaryData){BATCH * KEY_LEN, (uint8_t *)b.keys};
        start.sizes = (ProtobufCBinaryData){sizeof(b.sizes), (uint8_t *)b.sizes};
        call(c, MCS_VERB_PUT_START, &start.base);
        Mcs__Wire__PutStartReply *reply = mcs__wire__put_start_reply__unpack(NULL, c->reply_len, c->reply);
        for (uint32_t i = 0; i < BATCH; i++) {
            mcs_col_put_t put;
            memcpy(&put, reply->puts.data + i * sizeof(put), sizeof(put));
            if (put.status != MCS_OK) {
                die(mcs_status_name(put.status));
            }
            c->put_ids[i] = put.put_id;
        }
        mcs__wire__put_start_reply__free_unpacked(reply, NULL);
        Mcs__Wire__PutEnd end = MCS__WIRE__PUT_END__INIT;
        sequence.seq = sequence.ack = ++c->seq;
        end.sequence = &sequence;
        end.put_ids = (ProtobufCBinaryData){BATCH * sizeof(uint64_t), (uint8_t *)c->put_ids};
        call(c, MCS_VERB_PUT_END, &end.base);
    }
    return NULL;
}

static uint64_t g_total;

static void *look_up_all(void *arg)
{
    client_t *c = arg;
    batch_t b;
    for (uint64_t k = 0; k + BATCH <= c->count; k += BATCH) {
        Mcs__Wire__Lookup lookup = MCS__WIRE__LOOKUP__INIT;
        fill(&b, c->first + k, true, g_total);
        lookup.key_lens = (ProtobufCBinaryData){sizeof(b.lens), (uint8_t *)b.lens};
        lookup.keys = (ProtobufCBinaryData){BATCH * KEY_LEN, (uint8_t *)b.keys};
        call(c, MCS_VERB_LOOKUP, &lookup.base);
        if (c->reply_len < BATCH * (sizeof(mcs_col_object_t) + sizeof(mcs_col_replica_t))) {
            die("a key is missing");
        }
    }
    return NULL;
}

static double run(client_t *clients, uint32_t count, void *(*fn)(void *))
{
    double begin = now_s();
    for (uint32_t i = 0; i < count; i++) {
        if (pthread_create(&clients[i].thread, NULL, fn, &clients[i]) != 0) {
            die("pthread_create");
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        pthread_join(clients[i].thread, NULL);
    }
    return now_s() - begin;
}

static uint64_t number(int argc, char **argv, int i, uint64_t otherwise)
{
    uint64_t value = otherwise;
    if (i < argc && mcs_parse_u64(argv[i], 1u << 30, &value) != MCS_OK) {
        die("usage: service_bench [keys] [clients] [rpc threads] [journal folder]");
    }
    return value;
}

static mcs_journal_t *open_journal(const char *dir)
{
    const mcs_journal_config_t config = {.dir = dir};
    mcs_journal_t *journal = NULL;
    if (dir != NULL && mcs_journal_open(&config, &journal) != MCS_OK) {
        die("journal");
    }
    return journal;
}

static void start_again(mcs_service_config_t *config, const char *dir)
{
    mcs_service_t *service = NULL;
    double begin = now_s();
    double cpu = cpu_s();
    double own = own_cpu_s();
    config->journal = open_journal(dir);
    uint64_t bytes = mcs_journal_past(config->journal)->bytes;
    double opened = now_s();
    config->epoch++;
    if (mcs_service_create(config, &service) != MCS_OK || mcs_service_recover(service) != MCS_OK) {
        die("recovery");
    }
    double end = now_s();
    printf(
        "start from the journal %6.2f s (checked in %.2f s), %.2f s of it on a CPU: %llu keys, %.1f MiB, CPU %.0f ns a "
        "key\n",
        end - begin, opened - begin, own_cpu_s() - own, (unsigned long long)service->index.objects,
        (double)bytes / 1048576.0, (cpu_s() - cpu) / (double)service->index.objects * 1e9);
    mcs_journal_close(config->journal);
    mcs_service_destroy(service);
    mcs_journal_destroy(config->journal);
}

int main(int argc, char **argv)
{
    static mcs_metrics_t metrics;
    static client_t clients[64];
    static client_t owner;
    mcs_master_config_t conf;
    char dir[] = "/tmp/mcs-bench-XXXXXX";
    uint32_t count = (uint32_t)MCS_MIN(number(argc, argv, 2, 4), (uint64_t)64);
    uint64_t keys = number(argc, argv, 1, 1000000) / count / BATCH * BATCH * count;
    mcs_service_t *service;
    mcs_rpc_server_t *server;
    if (mkdtemp(dir) == NULL || mcs_config_init(&mcs_master_config_table, &conf) != MCS_OK) {
        die("set-up");
    }
    mcs_log_set_level(MCS_LOG_ERROR);
    mcs_service_config_t config = {.config = &conf, .metrics = &metrics, .epoch = mcs_wall_ms() / 1000};
    const char *journal_dir = argc > 4 ? argv[4] : NULL;
    config.journal = open_journal(journal_dir);
    if (mcs_service_create(&config, &service) != MCS_OK ||
        (config.journal != NULL && mcs_service_recover(service) != MCS_OK)) {
        die("service");
    }
    mcs_rpc_config_t rpc = {.address = "",
                            .interface = "",
                            .ipc_dir = dir,
                            .threads = (uint32_t)number(argc, argv, 3, 2),
                            .max_connections = 256,
                            .metrics = &metrics,
                            .ops = mcs_service_rpc_ops(service)};
    conf.client_ttl = 3600; /* nobody pings here */
    if (mcs_rpc_server_create(&rpc, &server) != MCS_OK || mcs_service_start(service, server) != MCS_OK ||
        mcs_rpc_server_start(server) != MCS_OK) {
        die("server");
    }
    owner.path = mcs_rpc_server_unix_path(server);
    owner.client = mcs_id_random();
    owner.reply = mcs_malloc(MCS_FRAME_MAX);
    hello(&owner, 1);
    client_t mounter = owner;
    hello(&mounter, 2);
    mount(&mounter);
    uint64_t empty = svc_index_bytes(&service->index);
    for (uint32_t i = 0; i < count; i++) {
        client_t *c = &clients[i];
        *c =
            (client_t){.path = owner.path, .client = mcs_id_random(), .first = keys / count * i, .count = keys / count};
        c->reply = mcs_malloc(MCS_FRAME_MAX);
        c->put_ids = mcs_malloc(BATCH * sizeof(uint64_t));
        hello(c, 1);
        hello(c, 2); /* the control connection stays open, unread */
    }
    g_total = keys;
    double put_cpu_s = cpu_s();
    double put_s = run(clients, count, put_all);
    put_cpu_s = cpu_s() - put_cpu_s;
    double get_s = run(clients, count, look_up_all);
    double again_s = run(clients, count, look_up_all);
    uint64_t index = svc_index_bytes(&service->index) - empty;
    mcs_allocator_stats_t stats;
    mcs_allocator_stats(svc_segment_at(service, 1)->allocator, &stats);
    printf("%llu keys of %u bytes, batches of %u, %u clients, %u rpc threads\n", (unsigned long long)keys, KEY_LEN,
           BATCH, count, rpc.threads);
    printf("put_start + put_end  %8.0f keys/s   CPU %.0f ns a key, clients and all\n", (double)keys / put_s,
           put_cpu_s / (double)keys * 1e9);
    printf("lookup               %8.0f keys/s   again (leased) %8.0f keys/s\n", (double)keys / get_s,
           (double)keys / again_s);
    printf("memory a key         %8.1f bytes = index %.1f + allocator %.1f\n",
           (double)(index + stats.memory_bytes) / (double)keys, (double)index / (double)keys,
           (double)stats.memory_bytes / (double)keys);
    mcs_rpc_server_stop(server);
    mcs_service_stop(service);
    if (config.journal != NULL) {
        mcs_journal_close(config.journal);
    }
    mcs_rpc_server_destroy(server);
    mcs_service_destroy(service);
    mcs_journal_destroy(config.journal);
    if (journal_dir != NULL) {
        start_again(&config, journal_dir);
    }
    rmdir(dir);
    return 0;
}
