/* core/wire/mcs.proto through protobuf-c with our arena: hostile messages unpack to something or to NULL, within the
 * arena's cap. */
#include <signal.h>

#include "core/base/arena.h"
#include "core/wire/mcs.pb-c.h"
#include "tests/unit/wire/hostile.h"

#define CAP ((size_t)1 << 20)

typedef struct target {
    const ProtobufCMessageDescriptor *type;
    mcs_arena_t arena;
} target_t;

static void *arena_alloc(void *arg, size_t size)
{
    return mcs_arena_alloc(arg, size);
}

static void arena_free(void *arg, void *ptr)
{
    (void)arg;
    (void)ptr;
}

static void unpack(void *arg, const uint8_t *bytes, size_t len)
{
    target_t *target = arg;
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &target->arena};
    ProtobufCMessage *message = protobuf_c_message_unpack(target->type, &allocator, len, bytes);
    if (message != NULL) {
        assert_ptr_equal(message->descriptor, target->type);
        size_t size = protobuf_c_message_get_packed_size(message);
        uint8_t *again = malloc(size > 0 ? size : 1);
        assert_non_null(again);
        assert_int_equal(protobuf_c_message_pack(message, again), size); /* what came in can go out: it is whole */
        free(again);
    }
    assert_true(target->arena.used <= CAP);
    mcs_arena_reset(&target->arena);
}

static void attack(const ProtobufCMessage *message)
{
    uint8_t bytes[4096];
    size_t len = protobuf_c_message_get_packed_size(message);
    assert_true(len > 0 && len <= sizeof(bytes));
    protobuf_c_message_pack(message, bytes);
    target_t target = {.type = message->descriptor};
    mcs_arena_init(&target.arena, 4096, CAP);
    unpack(&target, bytes, len);
    hostile_truncations(unpack, &target, bytes, len);
    hostile_flips(unpack, &target, bytes, len);
    mcs_arena_fini(&target.arena);
}

static void truncated_and_flipped_messages_do_no_harm(void **state)
{
    (void)state;
    uint8_t blob[200];
    memset(blob, 0x5a, sizeof(blob));
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    id.hi = 1;
    id.lo = UINT64_MAX;
    Mcs__Wire__Sequence sequence = MCS__WIRE__SEQUENCE__INIT;
    sequence.seq = 300;
    sequence.ack = 299;
    Mcs__Wire__Hello hello = MCS__WIRE__HELLO__INIT;
    hello.protocol = 1;
    hello.role = 2;
    hello.client = &id;
    hello.session = &id;
    hello.host_name = (char *)(uintptr_t) "localhost:12300";
    hello.nonce = (ProtobufCBinaryData){16, blob};
    attack(&hello.base);
    Mcs__Wire__PutConfig config = MCS__WIRE__PUT_CONFIG__INIT;
    char *segments[] = {(char *)(uintptr_t) "a:1", (char *)(uintptr_t) "b:2"};
    uint32_t excluded[] = {1, 70000};
    config.replica_num = 2;
    config.n_preferred_segments = 2;
    config.preferred_segments = segments;
    config.n_excluded_segments = 2;
    config.excluded_segments = excluded;
    Mcs__Wire__PutStart put = MCS__WIRE__PUT_START__INIT;
    put.sequence = &sequence;
    put.key_lens = (ProtobufCBinaryData){20, blob};
    put.keys = (ProtobufCBinaryData){100, blob};
    put.sizes = (ProtobufCBinaryData){80, blob};
    put.config = &config;
    attack(&put.base);
    Mcs__Wire__SegmentRecord record = MCS__WIRE__SEGMENT_RECORD__INIT;
    record.instance = &id;
    record.name = (char *)(uintptr_t) "n";
    record.endpoint = (ProtobufCBinaryData){64, blob};
    Mcs__Wire__SegmentRecord *records[] = {&record, &record};
    Mcs__Wire__SegmentList list = MCS__WIRE__SEGMENT_LIST__INIT;
    list.n_segments = 2;
    list.segments = records;
    attack(&list.base);
}

/* Few bytes that ask for much memory: 16 Ki empty sub-messages. */
static void message_that_asks_for_too_much_memory_is_refused(void **state)
{
    (void)state;
    static uint8_t bytes[2 * 16384];
    for (size_t i = 0; i < sizeof(bytes); i += 2) {
        bytes[i] = 0x0a; /* field 1, length-delimited */
        bytes[i + 1] = 0;
    }
    mcs_arena_t arena;
    mcs_arena_init(&arena, 4096, CAP);
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
    assert_null(protobuf_c_message_unpack(&mcs__wire__segment_list__descriptor, &allocator, sizeof(bytes), bytes));
    assert_true(arena.used <= CAP);
    mcs_arena_fini(&arena);
}

static mcs_status_t unpack_list(void *arg)
{
    mcs_arena_t arena;
    const ProtobufCBinaryData *packed = arg;
    mcs_arena_init(&arena, 128, CAP); /* small chunks: many allocations */
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(&mcs__wire__segment_list__descriptor, &allocator, packed->len, packed->data);
    mcs_arena_fini(&arena);
    return message != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    Mcs__Wire__SegmentRecord record = MCS__WIRE__SEGMENT_RECORD__INIT;
    Mcs__Wire__SegmentRecord *records[] = {&record, &record, &record};
    Mcs__Wire__SegmentList list = MCS__WIRE__SEGMENT_LIST__INIT;
    uint8_t bytes[512];
    record.name = (char *)(uintptr_t) "segment name of some length";
    list.n_segments = 3;
    list.segments = records;
    ProtobufCBinaryData packed = {protobuf_c_message_pack(&list.base, bytes), bytes};
    assert_true(unit_torture(MCS_FAULT_ALLOC, unpack_list, &packed) >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncated_and_flipped_messages_do_no_harm),
        cmocka_unit_test(message_that_asks_for_too_much_memory_is_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("proto", tests, NULL, NULL);
}
