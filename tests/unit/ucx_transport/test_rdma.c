/* Fetches and stores whose bytes are moved between both sides' memory, by UCX's emulation over TCP; with MCS_TEST_RDMA
 * =rc by this machine's devices. Also the messages of it, and the choice of devices. */
#include "rig.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/hash.h"
#include "ucx_transport/proto.h"
#include "ucx_transport/rdma_devices.h"

#define MEMORY (UINT64_C(200) << 20)
#define WINDOW (UINT64_C(64) << 20)
#define MIN    (UINT64_C(16) << 10) /* pieces below go in messages */

static side_t g_holder;
static side_t g_reader;
static uint8_t *g_memory; /* the reader's, exposed */

static int open_with(const rig_options_t *holder, const rig_options_t *reader)
{
    rig_install_log();
    side_open(&g_holder, 3, holder);
    side_open(&g_reader, 0, reader);
    g_memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g_memory, MAP_FAILED);
    ucxt_transport_ops.expose(g_reader.transport, g_memory, MEMORY, MCS_EXPOSED_AHEAD);
    ucxt_transport_ops.expose(g_holder.transport, g_holder.owner.memory, g_holder.owner.slots * RIG_SLOT,
                              MCS_EXPOSED_LOCALLY);
    return 0;
}

static int open_sides(void **state)
{
    static const rig_options_t rdma = {.rdma = true};
    (void)state;
    return open_with(&rdma, &rdma);
}

static int open_with_token(void **state)
{
    static const rig_options_t rdma = {.rdma = true, .token = "together"};
    (void)state;
    return open_with(&rdma, &rdma);
}

static int open_half(void **state)
{
    static const rig_options_t rdma = {.rdma = true};
    static const rig_options_t tcp = {0};
    (void)state;
    return open_with(&tcp, &rdma);
}

static int open_other_half(void **state)
{
    static const rig_options_t rdma = {.rdma = true};
    static const rig_options_t tcp = {0};
    (void)state;
    return open_with(&rdma, &tcp);
}

static int close_sides(void **state)
{
    (void)state;
    side_close(&g_reader);
    side_close(&g_holder);
    munmap(g_memory, MEMORY);
    return 0;
}

static uint64_t moved(const side_t *side)
{
    return __atomic_load_n(&side->counters.rdma_bytes, __ATOMIC_RELAXED);
}

static void run(mcs_direction_t direction, uint32_t slot, uint64_t len, uint8_t *memory, uint64_t piece)
{
    batch_t batch;
    batch_init(&batch, &g_holder, direction, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(&batch, slot, len, memory, piece);
    assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        uint32_t crc = mcs_crc32c(0, memory + at, MCS_MIN(len - at, MCS_CRC_BLOCK));
        assert_int_equal(batch.crcs[i], crc);
        if (direction == MCS_FETCH) {
            assert_int_equal(batch.sums[i], crc);
        } else {
            assert_int_equal(g_holder.owner.crcs[slot * (RIG_SLOT / MCS_CRC_BLOCK) + i], crc);
        }
    }
    batch_fini(&batch);
}

static void fetch_to(uint64_t len, uint8_t *memory, uint64_t piece)
{
    fake_owner_fill(&g_holder.owner, 1, len, len + piece);
    memset(memory, 0x11, len);
    run(MCS_FETCH, 1, len, memory, piece);
    assert_memory_equal(memory, g_holder.owner.memory + RIG_SLOT, len);
}

static void store_from(uint64_t len, uint8_t *memory, uint64_t piece)
{
    fill_pattern(memory, len, len * 3 + piece);
    memset(g_holder.owner.memory + 2 * RIG_SLOT, 0, MCS_MIN(len + 64, RIG_SLOT));
    run(MCS_STORE, 2, len, memory, piece);
    assert_memory_equal(g_holder.owner.memory + 2 * RIG_SLOT, memory, len);
}

/* The thread that registers is through with the reader's memory. */
static void wait_until_exposed(void)
{
    uint64_t end = mcs_deadline_after_ms(10000);
    for (uint64_t at = 0; at < MEMORY; at += WINDOW) {
        uint64_t before = moved(&g_reader);
        while (moved(&g_reader) == before) {
            assert_false(mcs_deadline_passed(end));
            fetch_to(MIN, g_memory + at, 0);
        }
    }
}

static const uint64_t g_sizes[] = {1,
                                   4096,
                                   MIN - 1,
                                   MIN,
                                   65536,
                                   MCS_CRC_BLOCK - 1,
                                   MCS_CRC_BLOCK,
                                   MCS_CRC_BLOCK + 1,
                                   (3 << 20) + 5,
                                   (8 << 20) + 5,
                                   UINT64_C(40) << 20};

static void objects_of_all_sizes_are_moved_and_not_copied(void **state)
{
    (void)state;
    wait_until_exposed();
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_sizes); i++) {
        uint64_t len = g_sizes[i];
        uint64_t before = moved(&g_reader);
        uint64_t served = moved(&g_holder);
        uint64_t copied = g_reader.counters.copied_bytes;
        fetch_to(len, g_memory + 3, 0);
        store_from(len, g_memory + 5, 0);
        /* A short piece at the end goes in a message. */
        uint64_t short_piece = len % MCS_CRC_BLOCK < MIN ? len % MCS_CRC_BLOCK : 0;
        assert_int_equal(moved(&g_reader) - before, 2 * (len - short_piece));
        assert_int_equal(moved(&g_holder) - served, 2 * (len - short_piece));
        assert_true(g_reader.counters.copied_bytes - copied <= 2 * short_piece);
    }
}

static void memory_in_parts_is_moved_too(void **state)
{
    static const uint64_t pieces[] = {4096, 65536, 100003, 777777};
    (void)state;
    wait_until_exposed();
    for (size_t i = 0; i < MCS_ARRAY_LEN(pieces); i++) {
        uint64_t before = moved(&g_reader);
        fetch_to((5 << 20) + 11, g_memory + 1, pieces[i]);
        store_from((5 << 20) + 11, g_memory + 7, pieces[i]);
        assert_true(moved(&g_reader) - before >= 2 * (UINT64_C(5) << 20));
    }
    uint64_t before = moved(&g_reader);
    fetch_to(2 << 20, g_memory + 1, 1000); /* smaller than it pays for */
    assert_int_equal(moved(&g_reader), before);
}

static void bytes_at_the_edge_of_two_windows_are_right(void **state)
{
    (void)state;
    wait_until_exposed();
    for (uint64_t back = 1; back < (1 << 20); back = back * 7 + 3) {
        fetch_to(2 << 20, g_memory + WINDOW - back, 0);
        store_from(2 << 20, g_memory + 2 * WINDOW - back, 0);
    }
}

static void memory_that_is_not_exposed_works_and_is_copied(void **state)
{
    uint64_t len = (5 << 20) + 3;
    uint8_t *memory = malloc(len);
    (void)state;
    assert_non_null(memory);
    fetch_to(len, memory, 0);
    store_from(len, memory, 0);
    assert_int_equal(moved(&g_reader), 0);
    free(memory);
}

static void concealed_memory_is_never_used_again(void **state)
{
    (void)state;
    wait_until_exposed();
    uint64_t before = moved(&g_reader);
    ucxt_transport_ops.conceal(g_reader.transport, g_memory);
    fetch_to(3 << 20, g_memory, 0);
    store_from(3 << 20, g_memory, 0);
    assert_int_equal(moved(&g_reader), before);
    ucxt_transport_ops.conceal(g_reader.transport, g_memory); /* once more is nothing */
    ucxt_transport_ops.expose(g_reader.transport, g_memory, MEMORY, MCS_EXPOSED_AHEAD);
    wait_until_exposed();
}

/* No memory for a region, or no registration: the bytes take the other way. */
static void what_cannot_be_registered_works_and_is_copied(void **state)
{
    static const mcs_fault_kind_t kinds[] = {MCS_FAULT_ALLOC, MCS_FAULT_SYSCALL};
    (void)state;
    ucxt_transport_ops.conceal(g_reader.transport, g_memory);
    for (size_t i = 0; i < MCS_ARRAY_LEN(kinds); i++) {
        mcs_fault_arm(kinds[i], 1);
        ucxt_transport_ops.expose(g_reader.transport, g_memory, WINDOW, MCS_EXPOSED_AHEAD);
        uint64_t end = mcs_deadline_after_ms(5000);
        while (!mcs_fault_fired(kinds[i])) {
            assert_false(mcs_deadline_passed(end));
        }
        mcs_fault_arm(kinds[i], 0);
        fetch_to(3 << 20, g_memory, 0);
        store_from(3 << 20, g_memory, 0);
        assert_int_equal(moved(&g_reader), 0);
        ucxt_transport_ops.conceal(g_reader.transport, g_memory);
    }
    assert_int_equal(rig_log_count("could not be registered"), 1);
}

static void a_side_without_rdma_gets_messages(void **state)
{
    (void)state;
    fetch_to((5 << 20) + 3, g_memory, 0);
    store_from((5 << 20) + 3, g_memory, 0);
    assert_int_equal(moved(&g_reader) + moved(&g_holder), 0);
}

static void what_the_owner_refuses_stays_as_it_was(void **state)
{
    (void)state;
    wait_until_exposed();
    g_holder.owner.refuse_generation = 2; /* of slot 1 */
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, 4, 16);
    memset(g_memory, 0x22, 4 << 20);
    fake_owner_fill(&g_holder.owner, 2, 1 << 20, 7);
    batch_add(&batch, 1, 1 << 20, 0, 1 << 20, g_memory, 0);
    batch_add(&batch, 2, 1 << 20, 0, 1 << 20, g_memory + (1 << 20), 0);
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    assert_int_equal(batch.ranges[0].status, MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(batch.ranges[1].status, MCS_OK);
    assert_int_equal(g_memory[0], 0x22);
    assert_memory_equal(g_memory + (1 << 20), g_holder.owner.memory + 2 * RIG_SLOT, 1 << 20);
    batch_fini(&batch);
    batch_init(&batch, &g_holder, MCS_STORE, 4, 16);
    batch_add(&batch, 1, 1 << 20, 0, 1 << 20, g_memory, 0);
    batch_add(&batch, 2, 1 << 20, 0, 1 << 20, g_memory + (1 << 20), 0);
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    assert_int_equal(batch.ranges[0].status, MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(batch.ranges[1].status, MCS_OK);
    batch_fini(&batch);
    assert_int_equal(fake_owner_holds(&g_holder.owner), 0);
}

static void no_peer_gets_the_key_of_a_segment(void **state)
{
    (void)state;
    ucxt_transport_ops.conceal(g_reader.transport, g_memory);
    ucxt_transport_ops.expose(g_reader.transport, g_memory, MEMORY, MCS_EXPOSED_LOCALLY);
    for (int i = 0; i < 20; i++) {
        fetch_to(2 << 20, g_memory, 0);
        store_from(2 << 20, g_memory, 0);
    }
    assert_int_equal(moved(&g_reader), 0);
}

#define MANY 70 /* more than a request has keys */

static void more_buffers_than_keys_and_some_that_are_not_exposed_work(void **state)
{
    static uint8_t *buffers[MANY];
    uint64_t len = 64 << 10;
    (void)state;
    wait_until_exposed();
    fake_owner_fill(&g_holder.owner, 1, MANY * len, 5);
    for (size_t i = 0; i < MANY; i++) {
        buffers[i] = malloc(len);
        assert_non_null(buffers[i]);
        if (i % 7 != 0) {
            ucxt_transport_ops.expose(g_reader.transport, buffers[i], len, MCS_EXPOSED_AHEAD);
        }
    }
    for (int turn = 0; turn < 10; turn++) { /* while they are being registered, and afterwards */
        batch_t batch;
        batch_init(&batch, &g_holder, MCS_FETCH, MANY, MANY);
        for (size_t i = 0; i < MANY; i++) {
            memset(buffers[i], 0, len);
            batch_add(&batch, 1, MANY * len, i * len, len, buffers[i], 0);
        }
        assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
        batch_assert_all(&batch, MCS_OK);
        batch_fini(&batch);
        for (size_t i = 0; i < MANY; i++) {
            assert_memory_equal(buffers[i], g_holder.owner.memory + RIG_SLOT + i * len, len);
        }
        batch_init(&batch, &g_holder, MCS_STORE, 1, MANY); /* one object out of all of them */
        mcs_range_t *range = batch_add(&batch, 2, MANY * len, 0, MANY * len, g_memory, len);
        assert_int_equal(range->iov_count, MANY);
        for (size_t i = 0; i < MANY; i++) {
            fill_pattern(buffers[i], len, i + (uint64_t)turn);
            batch.iovs[i].iov_base = buffers[i];
        }
        assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
        batch_assert_all(&batch, MCS_OK);
        batch_fini(&batch);
        for (size_t i = 0; i < MANY; i++) {
            assert_memory_equal(buffers[i], g_holder.owner.memory + 2 * RIG_SLOT + i * len, len);
        }
    }
    for (size_t i = 0; i < MANY; i++) {
        ucxt_transport_ops.conceal(g_reader.transport, buffers[i]);
        free(buffers[i]);
    }
}

static uint32_t g_stop; /* atomic */

static void *conceal_and_expose(void *arg)
{
    (void)arg;
    while (__atomic_load_n(&g_stop, __ATOMIC_ACQUIRE) == 0) {
        ucxt_transport_ops.conceal(g_reader.transport, g_memory);
        ucxt_transport_ops.expose(g_reader.transport, g_memory, MEMORY, MCS_EXPOSED_AHEAD);
        ucxt_transport_ops.conceal(g_holder.transport, g_holder.owner.memory);
        ucxt_transport_ops.expose(g_holder.transport, g_holder.owner.memory, g_holder.owner.slots * RIG_SLOT,
                                  MCS_EXPOSED_LOCALLY);
    }
    return NULL;
}

static void memory_may_be_concealed_at_any_moment(void **state)
{
    pthread_t thread;
    (void)state;
    g_stop = 0;
    assert_int_equal(pthread_create(&thread, NULL, conceal_and_expose, NULL), 0);
    uint64_t end = mcs_deadline_after_ms(1500);
    while (!mcs_deadline_passed(end)) {
        fetch_to(5 << 20, g_memory, 0);
        store_from(5 << 20, g_memory, 0);
    }
    __atomic_store_n(&g_stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
}

/* Each call of UCX in turn, on both sides: an error, or nothing at all; and then everything works again. */
static void a_failing_call_in_the_middle_is_an_error_and_no_more(void **state)
{
    (void)state;
    wait_until_exposed();
    uint32_t failed = 0;
    for (uint64_t nth = 1; nth <= 24; nth++) {
        fake_owner_fill(&g_holder.owner, 1, 3 << 20, nth);
        batch_t batch;
        batch_init(&batch, &g_holder, nth % 2 == 0 ? MCS_FETCH : MCS_STORE, 1, 1);
        batch_add(&batch, nth % 2 == 0 ? 1 : 2, 3 << 20, 0, 3 << 20, g_memory, 0);
        mcs_fault_arm(MCS_FAULT_SYSCALL, (nth + 1) / 2);
        mcs_status_t status = batch_run(&g_reader, &batch, 3000);
        mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
        status = status == MCS_OK ? batch.ranges[0].status : status;
        failed += status != MCS_OK;
        batch_fini(&batch);
        uint64_t end = mcs_deadline_after_ms(3000);
        while (fake_owner_holds(&g_holder.owner) > 0) {
            assert_false(mcs_deadline_passed(end));
        }
        fetch_to(3 << 20, g_memory, 0);
        store_from(3 << 20, g_memory, 0);
    }
    assert_true(failed > 2);
}

/* ---- the messages ---- */

#define PIECES 3

static size_t make_places(uint8_t *out, const mcs_access_t *access)
{
    uint8_t *to = out;
    mcs_store_u16(to, 2);
    mcs_store_u16(to + 2, 3);
    mcs_store_u32(to + 4, 0);
    to += UCXT_PLACES_HEADER;
    for (uint16_t i = 0; i < 2; i++) {
        mcs_store_u16(to, (uint16_t)(11 + i));
        memset(to + 2, 0x40 + i, 11u + i);
        to += 2 + 11 + i;
    }
    mcs_store_u16(to, 2);
    ucxt_stretch_encode(&(ucxt_stretch_t){0x1000, (uint32_t)access[0].len - 10, 0}, to + 2);
    ucxt_stretch_encode(&(ucxt_stretch_t){0x9000, 10, 1}, to + 2 + UCXT_STRETCH);
    to += 2 + 2 * UCXT_STRETCH;
    mcs_store_u16(to, 0);
    to += 2;
    mcs_store_u16(to, 1);
    ucxt_stretch_encode(&(ucxt_stretch_t){0x20000, (uint32_t)access[2].len, 1}, to + 2);
    return (size_t)(to + 2 + UCXT_STRETCH - out);
}

static mcs_status_t read_places(const uint8_t *in, size_t len, const mcs_access_t *access, uint32_t *first,
                                ucxt_stretch_t *stretches)
{
    ucxt_places_t places;
    size_t used;
    mcs_status_t status = ucxt_places_decode(in, len, &places, &used);
    return status != MCS_OK ? status
                            : ucxt_stretches_decode(in + used, len - used, &places, access, PIECES, first, stretches);
}

static void places_are_read_as_they_were_written_and_nothing_else_is(void **state)
{
    const mcs_access_t access[PIECES] = {{.len = 10000}, {.len = 70}, {.len = 1 << 20}};
    uint8_t text[256];
    uint32_t first[PIECES + 1];
    ucxt_stretch_t *stretches = calloc(UCXT_STRETCHES_MAX, sizeof(*stretches));
    (void)state;
    assert_non_null(stretches);
    size_t len = make_places(text, access);
    assert_int_equal(read_places(text, len, access, first, stretches), MCS_OK);
    assert_int_equal(first[1], 2);
    assert_int_equal(first[2], 2);
    assert_int_equal(first[3], 3);
    assert_int_equal(stretches[0].len, 9990);
    assert_int_equal(stretches[1].key, 1);
    assert_int_equal(stretches[2].address, 0x20000);
    for (size_t cut = 0; cut < len; cut++) { /* in memory of its own: a read beyond it is noticed */
        uint8_t *part = malloc(cut + 1);
        assert_non_null(part);
        memcpy(part, text, cut);
        assert_int_equal(read_places(part, cut, access, first, stretches), MCS_ERR_PROTOCOL);
        free(part);
    }
    assert_int_equal(read_places(text, len + 1, access, first, stretches), MCS_ERR_PROTOCOL);
    mcs_access_t other[PIECES] = {{.len = 10001}, {.len = 70}, {.len = 1 << 20}};
    assert_int_equal(read_places(text, len, other, first, stretches), MCS_ERR_PROTOCOL);
    static const struct {
        size_t at;
        uint16_t value;
    } wrong[] = {{0, 1}, {0, 3}, {0, 65535}, {2, 2}, {2, 4}, {2, 65535}, {8, 0}, {8, 300}, {8, 65535}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        make_places(text, access);
        mcs_store_u16(text + wrong[i].at, wrong[i].value);
        assert_int_equal(read_places(text, len, access, first, stretches), MCS_ERR_PROTOCOL);
    }
    free(stretches);
}

/* One piece of `len` bytes in stretches of one byte, but for the first. */
static mcs_status_t read_crumbs(uint64_t len, uint16_t count)
{
    static uint8_t text[UCXT_PLACES_HEADER + 3 + 2 + 8 * UCXT_STRETCH];
    uint32_t first[2];
    ucxt_stretch_t stretches[8];
    const mcs_access_t access = {.len = len};
    ucxt_places_t places;
    size_t used;
    memset(text, 0, sizeof(text));
    mcs_store_u16(text, 1);
    mcs_store_u16(text + 2, count);
    mcs_store_u16(text + 8, 1);
    mcs_store_u16(text + 11, count);
    for (uint16_t i = 0; i < count; i++) {
        uint32_t here = i == 0 ? (uint32_t)len - count + 1 : 1;
        ucxt_stretch_encode(&(ucxt_stretch_t){0x1000, here, 0}, text + 13 + (size_t)i * UCXT_STRETCH);
    }
    size_t size = 13 + (size_t)count * UCXT_STRETCH;
    assert_int_equal(ucxt_places_decode(text, size, &places, &used), MCS_OK);
    return ucxt_stretches_decode(text + used, size - used, &places, &access, 1, first, stretches);
}

static void crumbs_are_refused(void **state)
{
    (void)state;
    assert_int_equal(read_crumbs(1, 1), MCS_OK);
    assert_int_equal(read_crumbs(2, 2), MCS_OK); /* memory in two windows */
    assert_int_equal(read_crumbs(3, 3), MCS_ERR_PROTOCOL);
    assert_int_equal(read_crumbs(3 * 4096 - 1, 3), MCS_ERR_PROTOCOL);
    assert_int_equal(read_crumbs(3 * 4096, 3), MCS_OK);
}

/* ---- devices ---- */

static char g_root[] = "/tmp/mcs-rdma-XXXXXX";

static void add_port(const char *device, unsigned port, const char *text)
{
    char path[256];
    char number[16];
    snprintf(number, sizeof(number), "%u", port);
    const char *const parts[] = {"class", "infiniband", device, "ports", number};
    int used = snprintf(path, sizeof(path), "%s", g_root);
    for (size_t i = 0; i < MCS_ARRAY_LEN(parts); i++) {
        used += snprintf(path + used, sizeof(path) - (size_t)used, "/%s", parts[i]);
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    snprintf(path, sizeof(path), "%s/class/infiniband/%s/ports/%u/state", g_root, device, port);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void devices_are_those_that_are_up_or_those_that_are_named(void **state)
{
    char found[UCXT_DEVICES_MAX];
    (void)state;
    rig_install_log();
    assert_non_null(mkdtemp(g_root));
    assert_int_equal(ucxt_rdma_devices(g_root, "", "", 0, found, sizeof(found)), MCS_ERR_INVALID_PARAMS);
    assert_false(ucxt_rdma_is_there(g_root));
    add_port("mlx5_0", 1, "4: ACTIVE\n");
    add_port("mlx5_1", 1, "1: DOWN\n");
    add_port("mlx5_1", 2, "4: ACTIVE\n");
    add_port("rxe0", 1, "1: DOWN\n");
    assert_true(ucxt_rdma_is_there(g_root));
    static const struct {
        const char *wanted, *filter;
        unsigned port;
        const char *found; /* NULL: refused */
    } rows[] = {
        {"", "", 0, "mlx5_0:1,mlx5_1:2"},
        {"auto-discovery", "", 0, "mlx5_0:1,mlx5_1:2"},
        {" , ", "mlx5_1, rxe0", 0, "mlx5_1:2"},
        {"", "rxe0", 0, NULL},
        {"", "", 2, "mlx5_1:2"},
        {"mlx5_1", "", 0, "mlx5_1:2"},
        {"mlx5_1,mlx5_0", "nothing", 0, "mlx5_1:2,mlx5_0:1"},
        {"mlx5_1:2", "", 1, "mlx5_1:2"},
        {"mlx5_1:1", "", 0, NULL},
        {"mlx5_1", "", 1, NULL},
        {"rxe0", "", 0, NULL},
        {"mlx5_9", "", 0, NULL},
        {"mlx5_0:x", "", 0, NULL},
        {"../infiniband/mlx5_0", "", 0, NULL},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_status_t status =
            ucxt_rdma_devices(g_root, rows[i].wanted, rows[i].filter, rows[i].port, found, sizeof(found));
        assert_int_equal(status, rows[i].found != NULL ? MCS_OK : MCS_ERR_INVALID_PARAMS);
        if (rows[i].found != NULL) {
            assert_string_equal(found, rows[i].found);
        }
    }
    assert_int_equal(ucxt_rdma_devices(g_root, "", "", 0, found, 12), MCS_ERR_INVALID_PARAMS); /* no room */
    assert_int_equal(nftw(g_root, drop, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void any_device_is_one_without_a_name(void **state)
{
    (void)state;
    assert_true(ucxt_rdma_is_any(""));
    assert_true(ucxt_rdma_is_any(" , "));
    assert_true(ucxt_rdma_is_any("auto-discovery"));
    assert_false(ucxt_rdma_is_any("mlx5_0"));
    assert_false(ucxt_rdma_is_any(",auto-discovery"));
}

#define RDMA(test) cmocka_unit_test_setup_teardown(test, open_sides, close_sides)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RDMA(objects_of_all_sizes_are_moved_and_not_copied),
        RDMA(memory_in_parts_is_moved_too),
        RDMA(bytes_at_the_edge_of_two_windows_are_right),
        RDMA(memory_that_is_not_exposed_works_and_is_copied),
        RDMA(concealed_memory_is_never_used_again),
        RDMA(what_cannot_be_registered_works_and_is_copied),
        RDMA(what_the_owner_refuses_stays_as_it_was),
        RDMA(no_peer_gets_the_key_of_a_segment),
        RDMA(more_buffers_than_keys_and_some_that_are_not_exposed_work),
        RDMA(memory_may_be_concealed_at_any_moment),
        RDMA(a_failing_call_in_the_middle_is_an_error_and_no_more),
        cmocka_unit_test_setup_teardown(objects_of_all_sizes_are_moved_and_not_copied, open_with_token, close_sides),
        cmocka_unit_test_setup_teardown(a_side_without_rdma_gets_messages, open_half, close_sides),
        cmocka_unit_test_setup_teardown(a_side_without_rdma_gets_messages, open_other_half, close_sides),
        cmocka_unit_test(places_are_read_as_they_were_written_and_nothing_else_is),
        cmocka_unit_test(crumbs_are_refused),
        cmocka_unit_test(devices_are_those_that_are_up_or_those_that_are_named),
        cmocka_unit_test(any_device_is_one_without_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
