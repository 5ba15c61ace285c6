/* What the machine can do at best: memcpy over a ring larger than the caches, a raw TCP stream, and a blocking round
 * trip. The suite runs it between the rounds of everybody else, so that a ratio compares two figures of the same
 * moment.
 *
 *   ceilings serve HOST [CC]      prints "port N"; answers one connection at a time until its standard input ends
 *   ceilings run HOST PORT [CC]   obeys lines of its standard input, one answer (a JSON line) each:
 *       memcpy SIZE BYTES      copies BYTES in pieces of SIZE, by one thread
 *       get SIZE BYTES         the server writes BYTES in pieces of SIZE, read in pieces of SIZE; put: the other way
 *       ping SIZE COUNT        COUNT times: 64 bytes there, SIZE bytes back, each awaited in read()
 *
 * Rings are 128 MiB, faulted in before the first command. A stream of `get` needs one request for all its bytes: no
 * round trip an object, which no store can have. Sockets are as the system makes them, but for TCP_NODELAY and, when it
 * is named, the congestion control CC. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/micro/clocks.h"
#include "core/base/alloc.h"
#include "core/base/parse.h"

#define RING      (128 * MCS_MIB)
#define ASK_BYTES 64u
#define COUNT_MAX UINT64_C(10000000)

typedef enum op { OP_GET = 1, OP_PUT, OP_PING } op_t;

/* The first bytes of a request of ASK_BYTES. */
typedef struct ask {
    uint64_t op;
    uint64_t size;
    uint64_t count; /* pieces, or round trips */
} ask_t;

static uint8_t *g_ring;
static uint64_t g_ring_at;

static void die(const char *what)
{
    fprintf(stderr, "ceilings: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint8_t *map_ring(void)
{
    uint8_t *ring = mmap(NULL, RING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ring == MAP_FAILED) {
        die("mmap");
    }
    memset(ring, 0x5a, RING); /* a populated page that was never written may be the one zero page */
    return ring;
}

/* The next piece of the ring. */
static uint8_t *next_piece(uint64_t size)
{
    if (g_ring_at + size > RING) {
        g_ring_at = 0;
    }
    uint8_t *piece = g_ring + g_ring_at;
    g_ring_at += MCS_ALIGN_UP(size, (uint64_t)64);
    return piece;
}

/* False: the other side has closed. */
static bool read_all(int fd, void *bytes, size_t len)
{
    uint8_t *at = bytes;
    while (len > 0) {
        ssize_t n = read(fd, at, len);
        if (n <= 0) {
            if (n < 0 && errno == EINTR) {
                continue;
            }
            return false;
        }
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static const char *g_congestion; /* NULL: the system's */

/* Before a socket is connected: one on which BBR has begun stays paced whatever comes after it. */
static void set_up(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (g_congestion != NULL &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, g_congestion, (socklen_t)strlen(g_congestion)) != 0) {
        die(g_congestion);
    }
}

/* ---- serve ---- */

static bool serve_one(int fd, const ask_t *ask)
{
    uint8_t request[ASK_BYTES];
    bool fine = true;
    for (uint64_t i = 0; i < ask->count && fine; i++) {
        uint8_t *piece = next_piece(ask->size);
        if (ask->op == OP_PUT) {
            fine = read_all(fd, piece, ask->size);
        } else {
            fine = (ask->op == OP_GET || read_all(fd, request, sizeof(request))) && write_all(fd, piece, ask->size);
        }
    }
    return fine && (ask->op != OP_PUT || write_all(fd, "1", 1));
}

static void serve_connection(int fd)
{
    uint8_t request[ASK_BYTES];
    ask_t ask;
    while (read_all(fd, request, sizeof(request))) {
        memcpy(&ask, request, sizeof(ask));
        if (ask.size == 0 || ask.size > RING || ask.op < OP_GET || ask.op > OP_PING || !serve_one(fd, &ask)) {
            break;
        }
    }
    close(fd);
}

static struct sockaddr_in address_of(const char *host, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        die(host);
    }
    return address;
}

static int serve(const char *host)
{
    struct sockaddr_in address = address_of(host, 0);
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 8) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        die("listen");
    }
    set_up(fd); /* goes over to what it accepts */
    g_ring = map_ring();
    printf("port %u\n", (unsigned)ntohs(address.sin_port));
    fflush(stdout);
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    while (poll(fds, 2, -1) >= 0 && fds[1].revents == 0) {
        int peer = (fds[0].revents & POLLIN) != 0 ? accept4(fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (peer >= 0) {
            serve_connection(peer);
        }
    }
    return 0;
}

/* ---- run ---- */

static void report(uint64_t bytes, double began, double cpu)
{
    printf("{\"bytes\": %llu, \"seconds\": %.9f, \"cpu\": %.9f}\n", (unsigned long long)bytes, now_s() - began,
           cpu_s() - cpu);
}

static void run_memcpy(uint64_t size, uint64_t bytes)
{
    static uint8_t *target;
    if (target == NULL) {
        target = map_ring();
    }
    double cpu = cpu_s();
    double began = now_s();
    uint64_t copied = 0;
    for (uint64_t at = 0; copied < bytes; copied += size, at += size) {
        at = at + size > RING ? 0 : at;
        memcpy(target + at, g_ring + at, size);
        __asm__ volatile("" : : "r"(target) : "memory"); /* the copy is wanted although nobody reads it */
    }
    report(copied, began, cpu);
}

static void send_ask(int fd, op_t op, uint64_t size, uint64_t count)
{
    uint8_t request[ASK_BYTES] = {0};
    ask_t ask = {.op = op, .size = size, .count = count};
    memcpy(request, &ask, sizeof(ask));
    if (!write_all(fd, request, sizeof(request))) {
        die("send");
    }
}

static void run_stream(int fd, op_t op, uint64_t size, uint64_t bytes)
{
    uint64_t count = MCS_MAX(bytes / size, (uint64_t)1);
    double cpu = cpu_s();
    double began = now_s();
    uint8_t done;
    send_ask(fd, op, size, count);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *piece = next_piece(size);
        if (!(op == OP_GET ? read_all(fd, piece, size) : write_all(fd, piece, size))) {
            die("stream");
        }
    }
    if (op == OP_PUT && !read_all(fd, &done, 1)) {
        die("stream");
    }
    report(count * size, began, cpu);
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run_ping(int fd, uint64_t size, uint64_t count)
{
    double *times = mcs_calloc(count, sizeof(*times));
    uint8_t request[ASK_BYTES] = {0};
    if (times == NULL) {
        die("memory");
    }
    double cpu = cpu_s();
    double began = now_s();
    send_ask(fd, OP_PING, size, count);
    for (uint64_t i = 0; i < count; i++) {
        double before = now_s();
        if (!write_all(fd, request, sizeof(request)) || !read_all(fd, next_piece(size), size)) {
            die("ping");
        }
        times[i] = now_s() - before;
    }
    double seconds = now_s() - began;
    double spent = cpu_s() - cpu;
    qsort(times, count, sizeof(*times), compare_double);
    printf("{\"count\": %llu, \"bytes\": %llu, \"seconds\": %.9f, \"cpu\": %.9f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
           "\"p999_us\": %.3f}\n",
           (unsigned long long)count, (unsigned long long)(count * size), seconds, spent, times[count / 2] * 1e6,
           times[count * 99 / 100] * 1e6, times[count * 999 / 1000] * 1e6);
    mcs_free(times);
}

/* One line; false when it is no command. */
static bool obey(int fd, const char *line)
{
    char verb[16];
    char size_text[32];
    char amount_text[32];
    uint64_t size;
    uint64_t amount;
    if (sscanf(line, "%15s %31s %31s", verb, size_text, amount_text) != 3 ||
        mcs_parse_u64(size_text, RING, &size) != MCS_OK ||
        mcs_parse_u64(amount_text, UINT64_C(1) << 40, &amount) != MCS_OK || size == 0 || amount == 0) {
        return false;
    }
    if (strcmp(verb, "memcpy") == 0) {
        run_memcpy(size, amount);
    } else if (strcmp(verb, "get") == 0 || strcmp(verb, "put") == 0) {
        run_stream(fd, verb[0] == 'g' ? OP_GET : OP_PUT, size, amount);
    } else if (strcmp(verb, "ping") == 0 && amount <= COUNT_MAX) {
        run_ping(fd, size, amount);
    } else {
        return false;
    }
    return true;
}

static int run(const char *host, const char *port_text)
{
    uint64_t port;
    char line[128];
    if (mcs_parse_u64(port_text, UINT16_MAX, &port) != MCS_OK) {
        fprintf(stderr, "ceilings: no port: %s\n", port_text);
        return 2;
    }
    struct sockaddr_in address = address_of(host, (uint16_t)port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        die("socket");
    }
    set_up(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        die("connect");
    }
    g_ring = map_ring();
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (!obey(fd, line)) {
            fprintf(stderr, "ceilings: not a command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "serve") == 0) {
        g_congestion = argv[3];
        return serve(argv[2]);
    }
    if ((argc == 4 || argc == 5) && strcmp(argv[1], "run") == 0) {
        g_congestion = argv[4];
        return run(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: ceilings serve HOST [CC] | ceilings run HOST PORT [CC]\n");
    return 2;
}
