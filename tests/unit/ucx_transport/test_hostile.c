/* What a stranger on the data port can and cannot do with active messages of his own: a raw UCX client, over loopback.
 */
#include "rig.h"

#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/rng.h"
#include "ucx_transport/auth.h"
#include "ucx_transport/ucx_worker.h"

static side_t g_holder;
static side_t g_reader;
static ucxt_context_t g_context;
static ucxt_worker_t g_worker;
static ucp_ep_h g_ep;
static uint32_t g_answers;
static ucxt_header_t g_last;
static ucxt_welcome_t g_welcome;
static uint32_t g_errors;
static uint32_t g_limits; /* requests refused because too many wait */
static uint8_t g_address[UCXT_ADDRESS_MAX];
static uint32_t g_address_len;

static ucs_status_t on_answer(void *arg, const void *am_header, size_t am_header_len, void *bytes, size_t len,
                              const ucp_am_recv_param_t *param)
{
    (void)arg;
    (void)am_header;
    (void)am_header_len;
    (void)param;
    if (ucxt_header_decode(bytes, len, &g_last) == MCS_OK) {
        g_answers++;
        g_limits += g_last.kind == UCXT_REFUSED && (int32_t)g_last.value == MCS_ERR_LIMIT ? 1 : 0;
        if (g_last.kind == UCXT_WELCOME && len == UCXT_HEADER + UCXT_WELCOME_LEN) {
            MCS_ENSURE(ucxt_welcome_decode((uint8_t *)bytes + UCXT_HEADER, UCXT_WELCOME_LEN, &g_welcome) == MCS_OK);
        }
    }
    return UCS_OK;
}

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t rc)
{
    (void)arg;
    (void)ep;
    (void)rc;
    g_errors++;
}

static void on_sent(void *request, ucs_status_t rc, void *arg)
{
    (void)rc;
    *(bool *)arg = true;
    ucxt_request_free(&g_worker, request);
}

static void connect_raw(void)
{
    const void *address;
    size_t len;
    assert_int_equal(ucxt_endpoint_decode(&g_holder.info.endpoint, g_holder.info.endpoint.bytes[1], &address, &len),
                     MCS_OK);
    assert_int_equal(ucxt_ep_open(&g_worker, address, on_error, NULL, &g_ep), MCS_OK);
    g_errors = 0;
    g_answers = 0;
    memset(&g_last, 0, sizeof(g_last));
}

static bool g_says_rdma; /* the raw caller, in its hello */

static int open_beside(const rig_options_t *holder)
{
    rig_install_log();
    rig_log_reset();
    side_open(&g_holder, 1, holder);
    side_open(&g_reader, 0, NULL);
    fake_owner_fill(&g_holder.owner, 0, 1 << 20, 2);
    const ucxt_dl_t *dl;
    assert_int_equal(ucxt_dl_load(rig_library(), false, &dl), MCS_OK);
    assert_int_equal(ucxt_context_open(dl, "127.0.0.1", NULL, &g_context), MCS_OK);
    assert_int_equal(ucxt_worker_open(&g_context, UCXT_AM_TO_CALLER, on_answer, NULL, &g_worker), MCS_OK);
    ucp_address_t *own;
    size_t own_len;
    assert_int_equal(dl->ucp_worker_get_address(g_worker.ucp, &own, &own_len), UCS_OK);
    assert_true(own_len <= sizeof(g_address));
    memcpy(g_address, own, own_len);
    g_address_len = (uint32_t)own_len;
    dl->ucp_worker_release_address(g_worker.ucp, own);
    connect_raw();
    g_says_rdma = holder != NULL && holder->rdma;
    return 0;
}

static int open_all(void **state)
{
    (void)state;
    return open_beside(NULL);
}

static int open_all_rdma(void **state)
{
    static const rig_options_t rdma = {.rdma = true};
    (void)state;
    return open_beside(&rdma);
}

static int close_all(void **state)
{
    (void)state;
    ucxt_ep_close(&g_worker, g_ep);
    ucxt_worker_close(&g_worker);
    ucxt_context_close(&g_context);
    side_close(&g_reader);
    side_close(&g_holder);
    return 0;
}

/* The owner is as it was: others are served, and served right. */
static void assert_others_are_served(void)
{
    uint8_t *memory = malloc(1 << 20);
    assert_non_null(memory);
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, 1, 1);
    batch_add_object(&batch, 0, 1 << 20, memory, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(memory, g_holder.owner.memory, 1 << 20);
    batch_fini(&batch);
    free(memory);
    uint64_t end = mcs_now_ns() + 5 * MCS_NS_PER_SEC; /* the bytes come before UCX gives back the owner's send */
    while (fake_owner_holds(&g_holder.owner) > 0) {
        assert_true(mcs_now_ns() < end);
    }
}

static void send_raw(unsigned am_id, const void *bytes, size_t len)
{
    bool sent = false;
    ucp_dt_iov_t iov = {.buffer = (void *)(uintptr_t)bytes, .length = len};
    mcs_status_t status = ucxt_send(&g_worker, g_ep, am_id, &iov, 1, true, on_sent, &sent);
    uint64_t end = mcs_now_ns() + 5 * MCS_NS_PER_SEC;
    while (status == MCS_ERR_AGAIN && !sent) {
        ucxt_worker_progress(&g_worker);
        assert_true(mcs_now_ns() < end);
    }
}

static void await_answer(uint32_t count)
{
    uint64_t end = mcs_now_ns() + 5 * MCS_NS_PER_SEC;
    while (g_answers < count) {
        ucxt_worker_progress(&g_worker);
        assert_true(mcs_now_ns() < end);
    }
}

/* A request for one piece: its head and table are written here, what follows them is the caller's. Waits for its
 * answer.
 */
static void ask_piece(uint8_t kind, const mcs_access_t *access, uint32_t crc, uint8_t *message, size_t len)
{
    static uint32_t request;
    uint32_t before = g_answers;
    ucxt_header_t header = {
        .kind = kind, .conn = g_welcome.conn, .request = ++request, .count = 1, .value = 1000 /* ms */};
    ucxt_header_encode(&header, message);
    ucxt_access_encode(access, crc, message + UCXT_HEADER);
    send_raw(UCXT_AM_TO_OWNER, message, len);
    await_answer(before + 1);
    assert_int_equal(g_last.request, request);
}

/* Until the owner has closed the connection. */
static void await_end(void)
{
    uint64_t end = mcs_now_ns() + 5 * MCS_NS_PER_SEC;
    while (g_errors == 0 && g_last.kind != UCXT_GONE) {
        ucxt_worker_progress(&g_worker);
        assert_true(mcs_now_ns() < end);
    }
    ucxt_ep_close(&g_worker, g_ep);
    connect_raw();
}

#define HELLO_MAX (UCXT_HEADER + UCXT_HELLO_MAX)

/* Its length. */
static size_t make_hello(const char wire[UCXT_WIRE], uint8_t message[HELLO_MAX])
{
    ucxt_header_t header = {.kind = UCXT_HELLO};
    ucxt_hello_t hello = {.client = {1, 1}, .conn = 77, .rdma = g_says_rdma, .address_len = g_address_len};
    memcpy(hello.address, g_address, g_address_len);
    memcpy(hello.wire, wire, UCXT_WIRE);
    ucxt_header_encode(&header, message);
    return UCXT_HEADER + ucxt_hello_encode(&hello, message + UCXT_HEADER);
}

static void send_hello(void)
{
    uint8_t message[HELLO_MAX];
    size_t len = make_hello(g_holder.info.wire, message);
    send_raw(UCXT_AM_TO_OWNER, message, len);
}

static void say_hello(void)
{
    uint32_t before = g_answers;
    send_hello();
    await_answer(before + 1);
    assert_int_equal(g_last.kind, UCXT_WELCOME);
    assert_int_equal(g_last.value, MCS_OK);
    assert_int_equal(g_last.conn, 77);
}

static void random_bytes_are_ignored(void **state)
{
    (void)state;
    static const size_t lens[] = {1, 4, 31, 32, 33, 100, 4000, 70000, 3 << 20};
    uint8_t *junk = malloc(3 << 20);
    assert_non_null(junk);
    for (unsigned round = 0; round < 4; round++) {
        for (size_t i = 0; i < MCS_ARRAY_LEN(lens); i++) {
            mcs_random_bytes(junk, lens[i]);
            if (round > 0 && lens[i] > 8) { /* the right magic and version before rubbish */
                mcs_store_u32(junk, UCXT_MAGIC);
                junk[4] = round == 3 ? UCXT_VERSION + 1 : UCXT_VERSION;
            }
            send_raw(UCXT_AM_TO_OWNER, junk, lens[i]);
            send_raw(UCXT_AM_TO_CALLER, junk, lens[i]); /* not even a handler there */
        }
    }
    free(junk);
    assert_others_are_served();
    assert_int_equal(g_answers, 0);
}

static void a_damaged_hello_never_reaches_ucx(void **state)
{
    (void)state;
    uint8_t message[HELLO_MAX];
    for (unsigned i = 0; i < 200; i++) {
        size_t len = make_hello(g_holder.info.wire, message);
        size_t at = UCXT_HEADER + mcs_random_u64() % (len - UCXT_HEADER);
        message[at] ^= (uint8_t)(1 + mcs_random_u64() % 255);
        send_raw(UCXT_AM_TO_OWNER, message, i % 2 == 0 ? len : len - 1);
    }
    assert_others_are_served();
    assert_int_equal(g_answers, 0);
}

static void another_wire_generation_is_told_so(void **state)
{
    (void)state;
    static const char other[UCXT_WIRE] = "ucx-9.99";
    uint8_t message[HELLO_MAX];
    size_t len = make_hello(other, message);
    send_raw(UCXT_AM_TO_OWNER, message, len);
    await_answer(1);
    assert_int_equal(g_last.kind, UCXT_WELCOME);
    assert_int_equal((int32_t)g_last.value, MCS_ERR_INVALID_VERSION);
    assert_int_equal(rig_log_count("ucx-9.99"), 1);
}

static void an_owner_of_another_generation_is_never_called(void **state)
{
    (void)state;
    const void *address;
    size_t len;
    uint8_t own = g_holder.info.endpoint.bytes[1];
    uint8_t other = own == 13 ? 20 : 13;
    assert_int_equal(ucxt_endpoint_decode(&g_holder.info.endpoint, own, &address, &len), MCS_OK);
    side_t foreign = {.id = mcs_id_random()};
    assert_int_equal(ucxt_endpoint_encode(other, address, len, &foreign.info.endpoint), MCS_OK);
    uint8_t memory[4096];
    batch_t batch;
    batch_init(&batch, &foreign, MCS_FETCH, 1, 1);
    batch_add(&batch, 0, 4096, 0, 4096, memory, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_INVALID_VERSION);
    batch_fini(&batch);
    assert_int_equal(rig_log_count(g_holder.info.wire), 1);
}

static void requests_without_a_hello_find_nobody(void **state)
{
    (void)state;
    uint8_t message[UCXT_HEADER + UCXT_ACCESS] = {0};
    for (uint64_t conn = 0; conn < 2048; conn++) {
        ucxt_header_t header = {.kind = conn % 2 == 0 ? UCXT_FETCH : UCXT_PROVE, .conn = conn, .count = 1};
        ucxt_header_encode(&header, message);
        send_raw(UCXT_AM_TO_OWNER, message, sizeof(message));
    }
    assert_others_are_served();
    assert_int_equal(g_answers, 0);
}

typedef struct bad_request {
    const char *what;
    uint8_t kind;
    uint32_t count;
    uint64_t from;
    uint32_t len;
    uint64_t payload_len;
    size_t body;
} bad_request_t;

static const bad_request_t g_bad[] = {
    {"no piece", UCXT_FETCH, 0, 0, 4096, 4096, 0},
    {"more than its table", UCXT_FETCH, 2, 0, 4096, 4096, UCXT_ACCESS},
    {"less than its table", UCXT_FETCH, 1, 0, 4096, 4096, UCXT_ACCESS + 1},
    {"a count that overflows", UCXT_FETCH, UINT32_MAX, 0, 4096, 4096, UCXT_ACCESS},
    {"an empty piece", UCXT_FETCH, 1, 0, 0, 4096, UCXT_ACCESS},
    {"a piece that is too long", UCXT_FETCH, 1, 0, UCXT_PIECE_MAX + 1, 8 << 20, UCXT_ACCESS},
    {"a piece across two", UCXT_FETCH, 1, 4096, UCXT_PIECE_MAX, 8 << 20, UCXT_ACCESS},
    {"a piece past the end", UCXT_FETCH, 1, 4096, 4096, 8191, UCXT_ACCESS},
    {"an offset that overflows", UCXT_FETCH, 1, UINT64_MAX - 100, 4096, 8191, UCXT_ACCESS},
    {"a store without bytes", UCXT_STORE, 1, 0, 4096, 4096, UCXT_ACCESS},
    {"a store with too many bytes", UCXT_STORE, 1, 0, 4096, 4096, UCXT_ACCESS + 4097},
    {"a store without a table", UCXT_STORE, 1, 0, 4096, 4096, 10},
    {"a store of too many pieces", UCXT_STORE, UCXT_FRAME_PIECES + 1, 0, 1, 1, UCXT_ACCESS * 2},
    {"a kind that does not exist", 200, 1, 0, 4096, 4096, UCXT_ACCESS},
    {"a proof that nobody asked for", UCXT_PROVE, 0, 0, 0, 0, UCXT_MAC},
    {"places of one who has no RDMA", UCXT_FETCH_RDMA, 1, 0, 4096, 4096, UCXT_ACCESS + UCXT_PLACES_HEADER + 2},
    {"bytes of one who has no RDMA", UCXT_STORE_RDMA, 1, 0, 4096, 4096, UCXT_ACCESS + UCXT_PLACES_HEADER + 2},
};

/* With places that have neither keys nor stretches: all zero. */
#define NO_PLACES (UCXT_ACCESS + UCXT_PLACES_HEADER + 2)
static const bad_request_t g_bad_places[] = {
    {"no piece", UCXT_FETCH_RDMA, 0, 0, 4096, 4096, NO_PLACES},
    {"no table", UCXT_FETCH_RDMA, 1, 0, 4096, 4096, 10},
    {"no places", UCXT_FETCH_RDMA, 1, 0, 4096, 4096, UCXT_ACCESS},
    {"places cut off", UCXT_FETCH_RDMA, 1, 0, 4096, 4096, NO_PLACES - 1},
    {"more than its places", UCXT_FETCH_RDMA, 1, 0, 4096, 4096, NO_PLACES + 1},
    {"a count that overflows", UCXT_FETCH_RDMA, UINT32_MAX, 0, 4096, 4096, NO_PLACES},
    {"a piece past the end", UCXT_FETCH_RDMA, 1, 4096, 4096, 8191, NO_PLACES},
    {"a store without places", UCXT_STORE_RDMA, 1, 0, 4096, 4096, NO_PLACES},
    {"a store of too many pieces", UCXT_STORE_RDMA, UCXT_RDMA_PIECES + 1, 0, 1, 1, UCXT_ACCESS *(UCXT_RDMA_PIECES + 2)},
};

static void send_each(const bad_request_t *requests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const bad_request_t *bad = &requests[i];
        say_hello();
        static uint8_t message[UCXT_HEADER + 8192];
        memset(message, 0, sizeof(message));
        ucxt_header_t header = {.kind = bad->kind, .conn = g_welcome.conn, .count = bad->count, .value = 1000};
        ucxt_header_encode(&header, message);
        mcs_access_t access = {
            .generation = 1, .mac = RIG_MAC, .from = bad->from, .len = bad->len, .payload_len = bad->payload_len};
        ucxt_access_encode(&access, 0, message + UCXT_HEADER);
        send_raw(UCXT_AM_TO_OWNER, message, UCXT_HEADER + bad->body);
        await_end();
        assert_others_are_served();
    }
    assert_int_equal(g_holder.owner.writes_ended, 0);
}

static void malformed_requests_cost_their_sender_the_connection(void **state)
{
    (void)state;
    send_each(g_bad, MCS_ARRAY_LEN(g_bad));
}

static void malformed_places_cost_their_sender_the_connection(void **state)
{
    (void)state;
    send_each(g_bad_places, MCS_ARRAY_LEN(g_bad_places));
    /* Without stretches a fetch is one as over TCP. */
    say_hello();
    uint8_t message[UCXT_HEADER + NO_PLACES] = {0};
    mcs_access_t access = {.generation = 1, .mac = RIG_MAC, .from = 0, .len = 4096, .payload_len = 1 << 20};
    ask_piece(UCXT_FETCH_RDMA, &access, 0, message, sizeof(message));
    assert_int_equal(g_last.kind, UCXT_PIECES);
    assert_others_are_served();
}

static void a_store_of_no_whole_unit_is_refused(void **state)
{
    (void)state;
    say_hello();
    uint8_t message[UCXT_HEADER + UCXT_ACCESS + 100] = {0};
    mcs_access_t access = {.generation = 1, .mac = RIG_MAC, .from = 0, .len = 100, .payload_len = 1 << 20};
    ask_piece(UCXT_STORE, &access, 0, message, sizeof(message));
    assert_int_equal(g_last.kind, UCXT_STORED);
    assert_int_equal(g_holder.owner.writes_ended, 0);
    assert_others_are_served();
}

static void a_stored_piece_that_does_not_match_its_crc_is_refused(void **state)
{
    (void)state;
    say_hello();
    uint8_t message[UCXT_HEADER + UCXT_ACCESS + 4096] = {0};
    mcs_access_t access = {.generation = 1, .mac = RIG_MAC, .from = 0, .len = 4096, .payload_len = 4096};
    uint32_t bad = fake_owner_read(&g_holder.owner, &g_holder.owner.writes_bad);
    uint32_t wrong = mcs_crc32c(0, message + UCXT_HEADER + UCXT_ACCESS, 4096) ^ 1;
    ask_piece(UCXT_STORE, &access, wrong, message, sizeof(message));
    assert_int_equal(g_last.kind, UCXT_STORED);
    assert_int_equal(fake_owner_read(&g_holder.owner, &g_holder.owner.writes_bad), bad + 1);
    assert_others_are_served();
}

static void requests_beyond_what_may_wait_are_refused(void **state)
{
    (void)state;
    say_hello();
    static uint8_t message[UCXT_HEADER + 16 * UCXT_ACCESS];
    mcs_access_t access = {.generation = 1, .mac = RIG_MAC, .from = 0, .len = UCXT_PIECE_MAX, .payload_len = 1 << 20};
    for (unsigned i = 0; i < 16; i++) {
        ucxt_access_encode(&access, 0, message + UCXT_HEADER + i * UCXT_ACCESS);
    }
    bool sent[64] = {false};
    ucp_dt_iov_t iov = {.buffer = message, .length = sizeof(message)};
    ucxt_header_t header = {.kind = UCXT_FETCH, .conn = g_welcome.conn, .request = 5, .count = 16, .value = 60000};
    ucxt_header_encode(&header, message);
    for (unsigned i = 0; i < 64; i++) { /* a gigabyte, and nobody reads */
        mcs_status_t status = ucxt_send(&g_worker, g_ep, UCXT_AM_TO_OWNER, &iov, 1, false, on_sent, &sent[i]);
        assert_true(status == MCS_OK || status == MCS_ERR_AGAIN);
        while (status == MCS_ERR_AGAIN && !sent[i]) {
            ucxt_worker_progress(&g_worker);
        }
    }
    assert_int_equal(g_errors, 0);
    uint64_t end = mcs_now_ns() + 10 * MCS_NS_PER_SEC;
    while (g_limits == 0) {
        ucxt_worker_progress(&g_worker);
        assert_true(mcs_now_ns() < end);
    }
    assert_true(fake_owner_read(&g_holder.owner, &g_holder.owner.max_holds) <=
                4 * UCXT_FRAME_IOVS + 14); /* the window of one peer, and the other reader's */
    uint8_t bye[UCXT_HEADER];
    header = (ucxt_header_t){.kind = UCXT_BYE, .conn = g_welcome.conn};
    ucxt_header_encode(&header, bye);
    send_raw(UCXT_AM_TO_OWNER, bye, sizeof(bye)); /* and leaves in the middle */
    ucxt_ep_close(&g_worker, g_ep);
    connect_raw();
    uint64_t start = mcs_now_ns();
    while (fake_owner_holds(&g_holder.owner) > 0) {
        ucxt_worker_progress(&g_worker);
        assert_true(mcs_now_ns() - start < 5 * MCS_NS_PER_SEC);
    }
    assert_others_are_served();
}

static void endpoints_and_statuses_from_the_wire_are_checked(void **state)
{
    (void)state;
    mcs_endpoint_t endpoint = g_holder.info.endpoint;
    const void *address;
    size_t len;
    for (uint32_t i = 0; i < endpoint.len; i++) {
        mcs_endpoint_t bad = endpoint;
        bad.bytes[i] ^= 0x40;
        assert_int_equal(ucxt_endpoint_decode(&bad, g_holder.info.endpoint.bytes[1], &address, &len),
                         MCS_ERR_INVALID_PARAMS);
        bad = endpoint;
        bad.len = i;
        assert_int_equal(ucxt_endpoint_decode(&bad, g_holder.info.endpoint.bytes[1], &address, &len),
                         MCS_ERR_INVALID_PARAMS);
    }
    endpoint.len = UINT32_MAX;
    assert_int_equal(ucxt_endpoint_decode(&endpoint, g_holder.info.endpoint.bytes[1], &address, &len),
                     MCS_ERR_INVALID_PARAMS);
    mcs_status_t status;
    assert_int_equal(ucxt_status_decode(12345, &status), MCS_ERR_PROTOCOL);
    assert_int_equal(ucxt_status_decode((uint32_t)MCS_ERR_LIMIT, &status), MCS_OK);
    assert_int_equal(status, MCS_ERR_LIMIT);
    uint8_t address_bytes[UCXT_ADDRESS_MAX + 1] = {0};
    assert_int_equal(ucxt_endpoint_encode(13, address_bytes, 0, &endpoint), MCS_ERR_LIMIT);
    assert_int_equal(ucxt_endpoint_encode(13, address_bytes, sizeof(address_bytes), &endpoint), MCS_ERR_LIMIT);
}

/* The port of a listening TCP socket, 0 = it is none. */
static uint16_t listening_port(int fd)
{
    struct sockaddr_in name;
    socklen_t len = sizeof(name);
    int listening = 0;
    socklen_t listening_len = sizeof(listening);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &listening_len) != 0 || listening == 0 ||
        getsockname(fd, (struct sockaddr *)&name, &len) != 0 || name.sin_family != AF_INET) {
        return 0;
    }
    return ntohs(name.sin_port);
}

static void visit(uint16_t port, const char *words, size_t len)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(send(fd, words, len, MSG_NOSIGNAL), (ssize_t)len);
    close(fd);
}

/* UCX listens for each worker, also for the lanes, which nobody uses meanwhile. */
static void strangers_who_leave_keep_no_descriptor(void **state)
{
    (void)state;
    side_t quiet;
    bool before[1024];
    for (int fd = 0; fd < 1024; fd++) {
        before[fd] = listening_port(fd) != 0;
    }
    side_open(&quiet, 1, NULL);
    uint16_t ports[8];
    uint32_t count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        if (!before[fd] && listening_port(fd) != 0) {
            assert_true(count < MCS_ARRAY_LEN(ports));
            ports[count++] = listening_port(fd);
        }
    }
    assert_true(count >= 2); /* the serving worker's, and the first lane's */
    uint32_t open_fds = count_open_fds();
    static const char words[] = "GET / HTTP/1.1\r\n\r\n";
    for (uint32_t i = 0; i < count; i++) {
        for (size_t len = 0; len < sizeof(words); len++) {
            visit(ports[i], words, len);
        }
    }
    uint64_t end = mcs_now_ns() + 20 * MCS_NS_PER_SEC;
    while (count_open_fds() > open_fds + 1) { /* UCX may keep an epoll set of its own */
        assert_true(mcs_now_ns() < end);
        sched_yield();
    }
    side_close(&quiet);
    assert_others_are_served();
}

#define HOSTILE(test) cmocka_unit_test_setup_teardown(test, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOSTILE(random_bytes_are_ignored),
        HOSTILE(a_damaged_hello_never_reaches_ucx),
        HOSTILE(another_wire_generation_is_told_so),
        HOSTILE(an_owner_of_another_generation_is_never_called),
        HOSTILE(requests_without_a_hello_find_nobody),
        HOSTILE(malformed_requests_cost_their_sender_the_connection),
        cmocka_unit_test_setup_teardown(malformed_places_cost_their_sender_the_connection, open_all_rdma, close_all),
        HOSTILE(a_store_of_no_whole_unit_is_refused),
        HOSTILE(a_stored_piece_that_does_not_match_its_crc_is_refused),
        HOSTILE(requests_beyond_what_may_wait_are_refused),
        HOSTILE(strangers_who_leave_keep_no_descriptor),
        HOSTILE(endpoints_and_statuses_from_the_wire_are_checked),
    };
    return cmocka_run_group_tests_name("ucx hostile", tests, NULL, NULL);
}
