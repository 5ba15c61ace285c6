"""What calls return: the documented conventions, code by code."""

import pytest
from contract_support import Memory
from python_support import SETUP


def plain_ints(values):
    return type(values) is list and all(type(value) is int for value in values)


# (call, result before setup and after close)
NOT_SET_UP = [
    ("put", ("k", b"v"), -600),
    ("upsert", ("k", b"v"), -600),
    ("put_batch", (["k"], [b"v"]), -600),
    ("upsert_batch", (["k"], [b"v"]), -600),
    ("put_parts", ("k", b"v"), -600),
    ("put_parts", ("k",), -600),
    ("upsert_parts", ("k", b"v"), -600),
    ("get", ("k",), b""),
    ("get_batch", (["k", "l"],), [b""]),
    ("get_buffer", ("k",), None),
    ("batch_get_buffer", (["k", "l"],), [None, None]),
    ("get_size", ("k",), -600),
    ("is_exist", ("k",), -600),
    ("batch_is_exist", (["k", "l"],), [-600, -600]),
    ("batch_is_exist", ([],), []),
    ("remove", ("k",), -600),
    ("batch_remove", (["k", "l"],), [-600, -600]),
    ("remove_by_regex", ("k",), -600),
    ("remove_all", (), -600),
    ("get_replica_desc", ("k",), []),
    ("batch_get_replica_desc", (["k"],), {}),
    ("put_from", ("k", "PTR", 4), -600),
    ("put_from", ("k", "PTR", 0), -600),
    ("upsert_from", ("k", "PTR", 4), -600),
    ("put_from_with_metadata", ("k", "PTR", "PTR", 4, 4), -600),
    ("batch_put_from", (["k", "l"], ["PTR", "PTR"], [4, 4]), [-600, -600]),
    ("batch_upsert_from", (["k", "l"], ["PTR", "PTR"], [4, 4]), [-600, -600]),
    ("batch_put_from_multi_buffers", (["k"], [["PTR"]], [[4]]), []),
    ("get_into", ("k", "PTR", 4), -600),
    ("batch_get_into", (["k", "l"], ["PTR", "PTR"], [4, 4]), [-600, -600]),
    ("batch_get_into_multi_buffers", (["k"], [["PTR"]], [[4]]), [-600]),
    ("get_into_ranges", (["PTR"], [["k", "l"]], [[[0, 1], [2]]], [[[0, 1], [2]]], [[[1, 1], [1]]]), [[[-600, -600], [-600]]]),
    ("get_into_ranges", ([], [], [], [], []), []),
    ("batch_get_session_start", (["k"],), []),
    ("batch_get_into_multi_buffer_ranges", (["k"], [["PTR"]], [[4]], [[0]]), []),
    ("batch_get_session_end", (["k"],), -1),
    ("batch_put_session_start", (["k"], [4]), []),
    ("batch_put_from_multi_buffer_ranges", (["k"], [["PTR"]], [[4]], [[0]]), []),
    ("batch_put_session_end", (["k"],), []),
    ("batch_put_session_revoke", (["k"],), []),
    ("batch_replica_clear", (["k"],), []),
    ("allocate_and_mount_segment", (1,), {"ret": -600, "segment_ids": [], "allocated_size": 0}),
    ("unmount_and_free_segment", (["1-2"],), -600),
    ("unmount_segment", ([],), -600),
    ("mount_segment", ("/x", 1), {"ret": -600, "segment_ids": []}),
    ("unmount_local_disk_segment", (), 0),
    ("create_copy_task", ("k", ["s"]), ((0, 0), -600)),
    ("create_move_task", ("k", "s", "t"), ((0, 0), -600)),
    ("query_task", ((1, 2),), (None, -600)),
    ("setup_dummy", (1, 1, "127.0.0.1:1"), -900),
    ("alloc_from_mem_pool", (1,), 0),
    ("register_buffer", ("PTR", 4), -600),
    ("unregister_buffer", ("PTR",), -600),
    ("close", (), 0),
    ("health_check", (), 1),
    ("get_hostname", (), ""),
    ("get_offload_rpc_read_count", (), 0),
    ("_local_buffer_size", (), 0),
]


def with_pointer(arguments, pointer):
    if arguments == "PTR":
        return pointer
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(with_pointer(item, pointer) for item in arguments)
    return arguments


@pytest.mark.parametrize("name, arguments, expected", NOT_SET_UP, ids=lambda v: str(v)[:30])
@pytest.mark.parametrize("state", ["new", "closed", "refused", "closed twice"])
def test_without_setup_calls_return_codes(fake, name, arguments, expected, state):
    memory = Memory(b"data")
    store = fake.MooncakeDistributedStore()
    if state.startswith("closed"):
        assert store.setup(*SETUP) == 0
        for _ in range(state.count("twice") + 1):
            assert store.close() == 0
    elif state == "refused":
        assert store.setup(*SETUP) == 0
        assert store.setup(*SETUP[:6], "unreachable:1") == -600
    assert getattr(store, name)(*with_pointer(arguments, memory.ptr)) == expected


def test_a_store_can_be_set_up_again(fake):
    store = fake.MooncakeDistributedStore()
    for _ in range(3):
        assert store.setup(*SETUP) == 0
        assert store.put("again", b"x") == 0
        assert store.health_check() == 0
        assert store.close() == 0
    assert store.setup(*SETUP) == 0
    assert store.setup(*SETUP) == 0
    assert store.setup("", *SETUP[1:]) == -600
    assert store.health_check() == 0, "refused arguments leave the store as it was"
    store.close()


CODES = [-1, -101, -200, -600, -703, -704, -706, -707, -800, -900, -901]


@pytest.mark.parametrize("code", CODES)
def test_codes_pass_through(store, code):
    key = f"!code:{code}"
    memory = Memory(b"data")
    assert store.put(key, b"v") == code
    assert store.upsert(key, b"v") == code
    assert store.put_parts(key, b"v") == code
    assert store.put_batch(["fine", key, "!code:-1"], [b"v"] * 3) == code
    assert store.put_from(key, memory.ptr, 4) == code
    assert store.put_from_with_metadata(key, memory.ptr, memory.ptr, 4, 4) == -code
    assert store.batch_put_from(["fine2", key], [memory.ptr] * 2, [4, 4]) == [0, code]
    assert store.get(key) == b""
    assert store.get_batch(["fine", key]) == [b"v", b""]
    assert store.get_buffer(key) is None
    assert [handle is None for handle in store.batch_get_buffer(["fine", key])] == [False, True]
    assert store.get_size(key) == code
    assert store.is_exist(key) == (0 if code == -704 else code)
    assert store.remove(key) == code
    assert store.batch_remove([key, "fine2"]) == [code, 0]
    assert store.get_into(key, memory.ptr, 4) == code
    assert store.get_replica_desc(key) == []
    assert store.batch_get_replica_desc([key, "fine"]).keys() == {"fine"}


def test_results_are_plain_lists_of_plain_ints(store):
    memory = Memory(b"data")
    keys = ["a", "b"]
    pointers, sizes = [memory.ptr] * 2, [4, 4]
    assert plain_ints(store.batch_put_from(keys, pointers, sizes))
    assert plain_ints(store.batch_upsert_from(keys, pointers, sizes))
    assert plain_ints(store.batch_put_from_multi_buffers(keys, [[memory.ptr]] * 2, [[4]] * 2))
    assert plain_ints(store.batch_get_into(keys, pointers, sizes))
    assert plain_ints(store.batch_get_into_multi_buffers(keys, [[memory.ptr]] * 2, [[4]] * 2))
    assert plain_ints(store.batch_is_exist(keys))
    assert plain_ints(store.batch_remove(keys))
    for result in (store.put("c", b"v"), store.is_exist("c"), store.get_size("c"), store.remove("c"), store.remove_all()):
        assert type(result) is int
    assert type(store.get_batch(["x"])) is list and type(store.batch_get_buffer(["x"])) is list


def test_empty_lists(store):
    assert store.batch_is_exist([]) == []
    assert store.batch_remove([]) == []
    assert store.batch_get_buffer([]) == []
    assert store.get_batch([]) == [b""]
    assert store.put_batch([], []) == 0
    assert store.batch_put_from([], [], []) == []
    assert store.batch_get_into([], [], []) == []
    assert store.batch_put_from_multi_buffers([], [], []) == []
    assert store.batch_get_into_multi_buffers([], [], []) == []
    assert store.batch_get_replica_desc([]) == {}


@pytest.mark.parametrize("pointers, sizes", [(1, 2), (2, 1), (0, 2), (3, 2), (2, 3), (0, 0), (1, 1)])
def test_lists_of_different_length_fail_every_key(store, pointers, sizes):
    memory = Memory(b"data")
    keys = ["a", "b"]
    flat = ([memory.ptr] * pointers, [4] * sizes)
    nested = ([[memory.ptr]] * pointers, [[4]] * sizes)
    assert store.batch_put_from(keys, *flat) == [-600, -600]
    assert store.batch_upsert_from(keys, *flat) == [-600, -600]
    assert store.batch_get_into(keys, *flat) == [-600, -600]
    assert store.batch_put_from_multi_buffers(keys, *nested) == [-600, -600]
    assert store.batch_get_into_multi_buffers(keys, *nested) == [-600, -600]
    assert store.put_batch(keys, [b"v"] * pointers if pointers != 2 else [b"v"]) == -600
    assert store.batch_is_exist(keys) == [0, 0]


def test_rows_of_different_length_fail_their_key(store):
    memory = Memory(b"data")
    p = memory.ptr
    assert store.batch_put_from_multi_buffers(["a", "b", "c"], [[p], [p, p], [p, p]], [[4], [4], [2, 1]]) == [0, -600, 0]
    assert store.get_batch(["a", "b", "c"]) == [b"data", b"", b"dad"]
    assert store.batch_get_into_multi_buffers(["a", "c"], [[p], [p]], [[1, 3], [4]]) == [-600, 3]


def test_values_of_many_buffers_are_concatenated_and_spread(store):
    one, two, three = Memory(b"abc"), Memory(b"defg"), Memory(b"")
    assert store.batch_put_from_multi_buffers(["m"], [[one.ptr, three.ptr, two.ptr]], [[3, 0, 4]]) == [0]
    assert store.get("m") == b"abcdefg"
    out = [Memory(b"\0" * 2), Memory(b"\0" * 5)]
    assert store.batch_get_into_multi_buffers(["m"], [[m.ptr for m in out]], [[2, 5]]) == [7]
    assert [bytes(m) for m in out] == [b"ab", b"cdefg"]
    assert store.batch_get_into_multi_buffers(["m"], [[m.ptr for m in out]], [[2, 4]], True) == [-600]


def test_nothing_to_store_creates_nothing(store):
    memory = Memory(b"data")
    assert store.put_from("z", memory.ptr, 0) == 0
    assert store.put_from("z", 0, 0) == 0
    assert store.upsert_from("z", memory.ptr, 0) == 0
    assert store.put_from_with_metadata("z", memory.ptr, memory.ptr, 0, 4) == 0
    assert store.put_parts("z") == 0
    assert store.put_parts("z", b"", bytearray()) == 0
    assert store.upsert_parts("z", b"") == 0
    assert store.put("z", b"") == -600
    assert store.put_batch(["z"], [b""]) == -600
    assert store.batch_put_from(["z"], [memory.ptr], [0]) == [-600]
    assert store.is_exist("z") == 0


def test_a_second_put_keeps_the_value_and_an_upsert_replaces_it(store):
    assert store.put("k", b"one") == 0
    assert store.put("k", b"two") == 0
    assert store.get("k") == b"one"
    assert store.upsert("k", b"three!") == 0
    assert store.get("k") == b"three!"
    assert store.upsert_parts("k", b"fo", b"ur") == 0
    assert store.get("k") == b"four"
    assert store.upsert_batch(["k", "l"], [b"five", b"six"]) == 0
    assert store.get_batch(["k", "l"]) == [b"five", b"six"]
    memory = Memory(b"seven")
    assert store.upsert_from("k", memory.ptr, 5) == 0
    assert store.get("k") == b"seven"
    assert store.batch_upsert_from(["k"], [memory.ptr], [2]) == [0]
    assert store.get("k") == b"se"


def test_the_same_key_twice_in_a_batch(store):
    assert store.put_batch(["k", "k"], [b"first", b"second"]) == 0
    assert store.get_batch(["k", "k"]) == [b"first", b"first"]
    assert [bytes(handle) for handle in store.batch_get_buffer(["k", "k"])] == [b"first"] * 2
    out = [Memory(b"\0" * 5), Memory(b"\0" * 5)]
    assert store.batch_get_into(["k", "k"], [m.ptr for m in out], [5, 5]) == [5, 5]
    assert [bytes(m) for m in out] == [b"first", b"first"]


def test_a_staged_value_must_fit_the_local_buffer(store):
    big = b"x" * ((1 << 20) + 1)
    memory = Memory(big)
    assert store.put("big", big) == -600
    assert store.put_parts("big", big[:9], big[9:]) == -600
    assert store.put_from("big", memory.ptr, memory.size) == 0
    assert store.get("big") == big


def test_get_into_needs_room(store):
    store.put("k", b"12345")
    out = Memory(b"\0" * 8)
    assert store.get_into("k", out.ptr, 4) == -600
    assert bytes(out) == b"\0" * 8
    assert store.get_into("k", out.ptr, 8) == 5
    assert bytes(out) == b"12345\0\0\0"


def test_metadata_comes_before_the_data(store):
    meta, data = Memory(b"META"), Memory(b"data")
    assert store.put_from_with_metadata("k", data.ptr, meta.ptr, data.size, meta.size) == 0
    assert store.get("k") == b"METAdata"
    assert store.put_from_with_metadata("l", data.ptr, meta.ptr, data.size, 0) == 0
    assert store.get("l") == b"data"


def test_a_value_replaced_between_lookup_and_read_is_read_again(store):
    assert store.put("!shrink", b"value") == 0
    assert store.get("!shrink") == b"value"


def test_registered_buffers(store):
    memory = Memory(b"0123456789")
    assert store.register_buffer(memory.ptr, 10) == 0
    assert store.register_buffer(memory.ptr, 10) == -600
    assert store.register_buffer(memory.ptr + 5, 1) == -600
    assert store.put_from("r", memory.ptr + 2, 3) == 0
    assert store.get("r") == b"234"
    assert store.unregister_buffer(memory.ptr + 1) == -600
    assert store.unregister_buffer(memory.ptr) == 0
    assert store.unregister_buffer(memory.ptr) == -600
    assert store.register_buffer(memory.ptr, 10) == 0
    assert store.unregister_buffer(memory.ptr, 10) == 0
    assert store.register_buffer(0, 10) == -600
    assert store.register_buffer(memory.ptr, 0) == -600


def test_pieces_of_values_go_to_registered_buffers(store):
    one, two = bytes(range(40)), bytes(range(100, 140))
    assert store.put_batch(["key1", "key2"], [one, two]) == 0
    out = [Memory(b"\xee" * 32), Memory(b"\xee" * 32)]
    for memory in out:
        assert store.register_buffer(memory.ptr, memory.size) == 0
    results = store.get_into_ranges(
        [memory.ptr for memory in out],
        [["key1", "key2", "missing"], ["key2", b"key1"]],
        [[[0, 20], [8], [0, 1]], [[4], [16, 0]]],
        [[[1, 30], [2], [0, 0]], [[0], [10, 0]]],
        [[[4, 3], [5], [1, 1]], [[6], [4, 0]]],
    )
    assert results == [[[4, 3], [5], [-704, -704]], [[6], [4, 0]]]
    expected = [bytearray(b"\xee" * 32), bytearray(b"\xee" * 32)]
    expected[0][0:4], expected[0][20:23], expected[0][8:13] = one[1:5], one[30:33], two[2:7]
    expected[1][4:10], expected[1][16:20] = two[0:6], one[10:14]
    assert [bytes(memory) for memory in out] == expected


@pytest.mark.parametrize(
    "dst, src, size, result",
    [
        (0, 0, 10, 10),
        (0, 10, 0, 0),
        (22, 0, 10, 10),
        (32, 0, 0, 0),
        (23, 0, 10, -600),
        (0, 1, 10, -600),
        (0, 11, 0, -600),
        (33, 0, 0, -600),
        ((1 << 64) - 1, 0, 1, -600),
        (0, (1 << 64) - 1, 1, -600),
        (0, 0, (1 << 64) - 1, -600),
        (0, 1 << 63, 1 << 63, -600),
    ],
)
def test_pieces_stay_inside_the_value_and_the_buffer(store, dst, src, size, result):
    store.put("k", b"0123456789")
    out = Memory(b"\xee" * 32)
    arguments = ([["k"]], [[[dst, 0]]], [[[src, 0]]], [[[size, 1]]])
    assert store.get_into_ranges([out.ptr], *arguments) == [[[-600, -600]]], "not registered"
    assert store.register_buffer(out.ptr, 32) == 0
    assert store.get_into_ranges([out.ptr], *arguments) == [[[result, 1]]]
    assert store.get_into_ranges([out.ptr - 1], *arguments) == [[[-600, -600]]]
    assert store.get_into_ranges([0], *arguments) == [[[-600, -600]]]


@pytest.mark.parametrize(
    "pointers, keys, dst, src, sizes, result",
    [
        (1, [["k"]], [[[0]]], [[[0]]], [[[1]]], [[[1]]]),
        (2, [["k"]], [[[0]]], [[[0]]], [[[1]]], [[[-600]]]),
        (0, [["k"]], [[[0]]], [[[0]]], [[[1]]], [[[-600]]]),
        (1, [["k"], ["k"]], [[[0]]], [[[0]]], [[[1]]], [[[-600]]]),
        (1, [["k", "k"]], [[[0]]], [[[0]]], [[[1]]], [[[-600]]]),
        (1, [["k"]], [[[0, 1]]], [[[0]]], [[[1, 1]]], [[[-600, -600]]]),
        (1, [["k"]], [[[0]]], [[[0], [0]]], [[[1]]], [[[-600]]]),
        (1, [["k"]], [[[0]]], [[[0]]], [], [[[-600]]]),
        (1, [["k"]], [], [[[0]]], [[[1]]], []),
        (1, [[]], [[]], [[]], [[]], [[]]),
        (1, [["k"]], [[[]]], [[[]]], [[[]]], [[[]]]),
        (2, [["k"], ["k"]], [[[0]], [[0, 1]]], [[[0]], [[0]]], [[[1]], [[1, 1]]], [[[1]], [[-600, -600]]]),
    ],
)
def test_piece_lists_of_different_length_fail_their_row(store, pointers, keys, dst, src, sizes, result):
    store.put("k", b"0123456789")
    out = Memory(b"\xee" * 32)
    assert store.register_buffer(out.ptr, 32) == 0
    assert store.get_into_ranges([out.ptr] * pointers, keys, dst, src, sizes) == result


def test_thousands_of_registered_buffers(store):
    memory = Memory(bytes(range(256)) * 400)
    order = list(range(0, memory.size, 32))
    shuffled = order[1::2] + order[-2::-2]
    for offset in shuffled:
        assert store.register_buffer(memory.ptr + offset, 32) == 0
    for offset in order[:: len(order) // 50]:
        assert store.upsert_from("t", memory.ptr + offset, 32) == 0
        assert store.get("t") == bytes(memory)[offset : offset + 32]
    for offset in shuffled:
        assert store.unregister_buffer(memory.ptr + offset) == 0


def test_replica_descriptors(fake, store):
    store.put("k", b"12345")
    (replica,) = store.get_replica_desc("k")
    assert replica.status is fake.ReplicaStatus.COMPLETE and replica.status == fake.COMPLETE
    assert replica.is_memory_replica() is True
    assert replica.is_disk_replica() is False and replica.is_local_disk_replica() is False
    descriptor = replica.get_memory_descriptor().buffer_descriptor
    assert (descriptor.size, descriptor.transport_endpoint) == (5, "fake:1")
    assert repr(descriptor) == "<Descriptor size=5 buffer_address=4096 transport_endpoint=fake:1>"
    with pytest.raises(RuntimeError):
        replica.get_disk_descriptor()
    assert replica.segment_name == store.get_hostname()
    found = store.batch_get_replica_desc(["k", "missing", b"k", bytearray(b"k")])
    assert set(found) == {"k", b"k"} and len(found["k"]) == 1


def test_descriptor_classes_are_records(fake):
    descriptor = fake.Descriptor()
    assert (descriptor.size, descriptor.buffer_address, descriptor.transport_endpoint) == (0, 0, "")
    descriptor.size, descriptor.buffer_address, descriptor.transport_endpoint = 1, 2, "host:3"
    memory = fake.MemoryDescriptor()
    assert memory.buffer_descriptor is None
    memory.buffer_descriptor = descriptor
    assert memory.buffer_descriptor is descriptor
    disk = fake.DiskDescriptor()
    disk.file_path, disk.object_size = "/x", 1 << 63
    assert (disk.file_path, disk.object_size) == ("/x", 1 << 63)
    for target, name, wrong in ((descriptor, "size", -1), (descriptor, "transport_endpoint", 1), (memory, "buffer_descriptor", 1)):
        with pytest.raises(TypeError):
            setattr(target, name, wrong)
    with pytest.raises(AttributeError):
        del descriptor.size
    with pytest.raises(AttributeError):
        descriptor.other = 1


def test_remove_in_its_forms(store):
    store.put_batch([f"a{i}" for i in range(5)] + ["b"], [b"v"] * 6)
    assert store.remove("a0") == 0
    assert store.remove("a0") == -704
    assert store.batch_remove(["a1", "missing"], force=True) == [0, -704]
    assert store.remove_by_regex("a") == 3
    assert store.remove_by_regex("[") == -600
    assert store.remove_all() == 1
    assert store.remove_all(force=True) == 0


def test_subclasses_and_attributes(fake):
    class Mine(fake.MooncakeDistributedStore):
        def __init__(self, name, extra=1):
            super().__init__()
            self.name = name

        def put(self, key, value):
            return super().put(f"{self.name}/{key}", value)

    mine = Mine("me", extra=2)
    mine.more = [1]
    assert mine.setup(*SETUP) == 0
    assert mine.put("k", b"v") == 0
    assert fake.MooncakeDistributedStore.get(mine, "me/k") == b"v"
    plain = fake.MooncakeDistributedStore()
    plain.anything = plain
    assert plain.__dict__["anything"] is plain
    import weakref

    assert weakref.ref(plain)() is plain
    with pytest.raises(AttributeError):
        plain.no_such_attribute
