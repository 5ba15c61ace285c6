"""Contract: one test for each method of the store, named after it: its arguments by position and by keyword, its defaults, the type of its result, each code."""

import ctypes
import re
import time

import pytest
from contract_support import MIB, Memory, found, fresh, inside_a_lease, new_store, pattern
from python_support import free_ports, wait_until

SIZE = 10_000


@pytest.fixture(scope="module")
def pair(real, master):
    stores = new_store(real, master, buffer=32 * MIB), new_store(real, master)
    yield stores
    for store in stores:
        assert store.close() == 0


@pytest.fixture
def store(pair):
    return pair[0]


@pytest.fixture
def other(pair):
    return pair[1]


@pytest.fixture
def memory(store):
    """The first half is known bytes, the second is to be read into."""
    memory = Memory(pattern(SIZE) + bytes(SIZE))
    assert store.register_buffer(memory.ptr, memory.size) == 0
    yield memory
    assert store.unregister_buffer(memory.ptr) == 0


@pytest.fixture
def config(real):
    return real.ReplicateConfig()


@pytest.fixture
def same_node(real):
    config = real.ReplicateConfig()
    config.prefer_alloc_in_same_node = True
    return config


def put(store, value=b"value"):
    key = fresh()
    assert store.put(key, value) == 0
    return key


def exactly(got, expected):
    """Equal, and plain lists of plain ints all the way down."""
    assert got == expected
    assert type(got) is type(expected)
    for item in got if isinstance(got, list) else []:
        assert type(item) in (int, list, bytes) and type(item) is not bool


def refuses(call, *arguments, **keywords):
    with pytest.raises(TypeError):
        call(*arguments, **keywords)


# ---- life cycle ----


def test_setup(real, master):
    names = ["local_hostname", "metadata_server", "global_segment_size", "local_buffer_size", "protocol", "rdma_devices", "master_server_addr"]
    values = ["127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address]
    rest = {"engine": None, "enable_ssd_offload": False, "ssd_offload_path": "", "tenant_id": "default", "enable_client_http_server": False, "client_http_port": 9300}
    forms = [(values[:count], dict(zip(names[count:], values[count:]))) for count in range(8)]
    forms += [(values, rest), (values + list(rest.values()), {}), (values + [None], {}), ([dict(zip(names, values))], {}), ([], {"config": dict(zip(names, values), **rest)})]
    for arguments, keywords in forms:
        store = real.MooncakeDistributedStore()
        exactly(store.setup(*arguments, **keywords), 0)
        assert store.put(fresh(), b"x") == 0 and store.close() == 0
    for count in range(7):
        refuses(real.MooncakeDistributedStore().setup, *values[:count])
    refuses(real.MooncakeDistributedStore().setup, *values, *rest.values(), 1)
    refuses(real.MooncakeDistributedStore().setup, *values, protocol="tcp")
    with pytest.raises(TypeError, match="bogus"):
        real.MooncakeDistributedStore().setup(*values, bogus=1)
    for position, wrong in ((0, ""), (1, "garbage://x"), (2, 1 << 46), (2, 1 << 63), (3, 1 << 63), (4, "pigeon")):
        exactly(real.MooncakeDistributedStore().setup(*values[:position], wrong, *values[position + 1 :]), -600)


def test_setup_dummy(real):
    store = real.MooncakeDistributedStore()
    address = f"127.0.0.1:{free_ports(1)[0]}"
    exactly(store.setup_dummy(MIB, MIB, address), -900)
    exactly(store.setup_dummy(mem_pool_size=MIB, local_buffer_size=MIB, server_address=address), -900)
    refuses(store.setup_dummy, MIB, MIB)


def test_alloc_from_mem_pool(real, store):
    for one in (store, real.MooncakeDistributedStore()):
        exactly(one.alloc_from_mem_pool(16), 0)
        exactly(one.alloc_from_mem_pool(size=1 << 63), 0)
        refuses(one.alloc_from_mem_pool, -1)


def test_init_all(real):
    exactly(real.MooncakeDistributedStore().init_all("tcp", "", 16 * MIB), -600)
    exactly(real.MooncakeDistributedStore().init_all(protocol="tcp", device_name="", mount_segment_size=0), -600)
    refuses(real.MooncakeDistributedStore().init_all)


def test_close(real, master):
    store = real.MooncakeDistributedStore()
    exactly(store.close(), 0)
    for _ in range(2):
        assert store.setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address) == 0
        exactly(store.close(), 0)
        exactly(store.close(), 0)
    refuses(store.close, 1)


def test_health_check(real, store):
    exactly(store.health_check(), 0)
    exactly(real.MooncakeDistributedStore().health_check(), 1)


def test_get_hostname(real, store):
    assert re.fullmatch(r"127\.0\.0\.1:\d+", store.get_hostname())
    exactly(real.MooncakeDistributedStore().get_hostname(), "")


def test_get_offload_rpc_read_count(store):
    exactly(store.get_offload_rpc_read_count(), 0)


# ---- values of Python objects ----


def test_put(store, config, same_node):
    for arguments, keywords in (((b"a",), {}), ((b"a", config), {}), ((b"a",), {"config": config}), ((), {"value": b"a", "config": config})):
        key = fresh()
        exactly(store.put(key, *arguments, **keywords), 0)
        assert store.get(key) == b"a"
        exactly(store.put(key=key, value=b"other"), 0)
        assert store.get(key) == b"a", "a key that is there keeps its value"
    exactly(store.put(fresh(), b""), -600)
    exactly(store.put("", b"a"), -600)
    exactly(store.put(fresh(), bytes(33 * MIB)), -600)
    exactly(store.put(fresh(), b"a", same_node), -600)
    refuses(store.put, fresh(), b"a", None)
    refuses(store.put, fresh(), "text")
    refuses(store.put, fresh())


def test_get(store):
    exactly(store.get(put(store)), b"value")
    exactly(store.get(key=put(store)), b"value")
    exactly(store.get(fresh()), b"")


def test_put_batch(store, config, same_node):
    keys = [fresh() for _ in range(3)]
    exactly(store.put_batch(keys[:2], [b"1", b"2"]), 0)
    exactly(store.put_batch(keys=keys, values=(b"x", b"x", b"3"), config=config), 0)
    assert store.get_batch(keys) == [b"1", b"2", b"3"], "those that are there count as stored"
    exactly(store.put_batch(keys, [b"1"]), -600)
    exactly(store.put_batch([fresh(), fresh()], [b"1", b""]), -600)
    exactly(store.put_batch([fresh()], [b"1"], same_node), -600)
    exactly(store.put_batch([], []), 0)
    twice = fresh()
    exactly(store.put_batch([twice, twice], [b"first", b"second"]), 0)
    assert store.get(twice) == b"first"
    refuses(store.put_batch, keys, [b"1", 2, b"3"])


def test_get_batch(real, store):
    keys = [put(store, b"1"), fresh(), put(store, b"3")]
    exactly(store.get_batch(keys), [b"1", b"", b"3"])
    exactly(store.get_batch(keys=tuple(keys)), [b"1", b"", b"3"])
    exactly(store.get_batch([]), [b""])
    exactly(real.MooncakeDistributedStore().get_batch(keys), [b""])
    refuses(store.get_batch, "key")


def test_put_parts(store, config, same_node):
    key = fresh()
    exactly(store.put_parts(key, b"ab", bytearray(b"cd"), memoryview(b"ef"), config=config), 0)
    assert store.get(key) == b"abcdef"
    for parts in ((), (b"",), (b"", bytearray())):
        key = fresh()
        exactly(store.put_parts(key, *parts), 0)
        assert store.is_exist(key) == 0, "nothing is created"
    for part in ((ctypes.c_int * 2)(), memoryview(bytes(4)).cast("B", (2, 2)), memoryview(bytes(8)).cast("d")):
        with pytest.raises(RuntimeError, match="parts must be 1-D bytes-like"):
            store.put_parts(fresh(), part)
    exactly(store.put_parts(fresh(), b"a", config=same_node), -600)
    exactly(store.put_parts(fresh(), bytes(20 * MIB), bytes(20 * MIB)), -600)
    refuses(store.put_parts, fresh(), b"a", config)
    refuses(store.put_parts, fresh(), b"a", config=None)


def test_get_buffer(store):
    handle = store.get_buffer(put(store))
    view = memoryview(handle)
    assert (handle.size(), len(handle), bytes(handle), type(handle.ptr())) == (5, 5, b"value", int)
    assert (view.format, view.ndim, view.itemsize, view.shape, view.strides) == ("b", 1, 1, (5,), (1,))
    assert ctypes.string_at(handle.ptr(), 5) == b"value"
    assert store.get_buffer(key=fresh()) is None


def test_batch_get_buffer(store):
    keys = [put(store, b"1"), fresh(), put(store, b"3")]
    handles = store.batch_get_buffer(keys)
    assert type(handles) is list and [handle and bytes(handle) for handle in handles] == [b"1", None, b"3"]
    assert store.batch_get_buffer(keys=[]) == []


# ---- keys ----


def test_is_exist(store):
    exactly(store.is_exist(put(store)), 1)
    exactly(store.is_exist(key=fresh()), 0)
    exactly(store.is_exist(""), -600)


def test_batch_is_exist(store):
    exactly(store.batch_is_exist([put(store), fresh(), ""]), [1, 0, -600])
    exactly(store.batch_is_exist(keys=()), [])


def test_get_size(store):
    exactly(store.get_size(put(store)), 5)
    exactly(store.get_size(key=fresh()), -704)


def test_remove(store):
    exactly(store.remove(put(store)), 0)
    exactly(store.remove(fresh()), -704)
    for force in ({"force": True}, (True,)):
        key, refused = inside_a_lease(lambda: found(store), lambda key: [store.remove(key), store.remove(key=key, force=False)])
        exactly(refused, [-706, -706])
        exactly(store.remove(key, **force) if isinstance(force, dict) else store.remove(key, *force), 0)
    key = found(store)
    wait_until(lambda: store.remove(key) == 0, "the lease runs out")


def test_batch_remove(store):
    keys, codes = inside_a_lease(lambda: [put(store), found(store), fresh()], store.batch_remove)
    exactly(codes, [0, -706, -704])
    exactly(store.batch_remove(keys=keys, force=True), [-704, 0, -704])
    exactly(store.batch_remove([], True), [])


def test_remove_by_regex(store):
    stem = fresh("pattern")
    keys = [f"{stem}-{name}" for name in ("a1", "a2", "b1")]
    assert store.put_batch(keys, [b"x"] * 3) == 0 and store.is_exist(keys[0]) == 1
    exactly(store.remove_by_regex(f"{stem}-a"), 1)
    exactly(store.remove_by_regex(regex_pattern=f"^{stem}-[ab]\\d$", force=True), 2)
    exactly(store.remove_by_regex(f"^{stem}$", True), 0)
    exactly(store.remove_by_regex("("), -600)


def test_remove_all(real, master_binary):
    store = real.MooncakeDistributedStore()
    assert store.setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", "embedded") == 0
    keys = [put(store) for _ in range(3)]
    assert store.is_exist(keys[0]) == 1
    exactly(store.remove_all(), 2)
    exactly(store.remove_all(force=True), 1)
    exactly(store.remove_all(True), 0)
    assert store.close() == 0


# ---- addresses ----


def test_register_buffer(store):
    memory = Memory(8192)
    exactly(store.register_buffer(memory.ptr, 4096), 0)
    exactly(store.register_buffer(memory.ptr + 4095, 10), -600)
    exactly(store.register_buffer(buffer_ptr=memory.ptr + 4096, size=4096), 0)
    for wrong in ((0, 10), (memory.ptr, 0), (1 << 40, 4096), (memory.ptr, 1 << 63), ((1 << 64) - 1, 2)):
        exactly(store.register_buffer(*wrong), -600)
    refuses(store.register_buffer, memory.ptr)
    assert [store.unregister_buffer(memory.ptr + at) for at in (0, 4096)] == [0, 0]


def test_unregister_buffer(store):
    memory = Memory(100)
    assert store.register_buffer(memory.ptr, 100) == 0
    exactly(store.unregister_buffer(memory.ptr + 1), -600)
    exactly(store.unregister_buffer(buffer_ptr=memory.ptr), 0)
    exactly(store.unregister_buffer(memory.ptr), -600)


def test_put_from(store, memory, config, same_node):
    key = fresh()
    exactly(store.put_from(key, memory.ptr, 100), 0)
    exactly(store.put_from(key=key, buffer_ptr=memory.ptr + 1, size=50, config=config), 0)
    assert store.get(key) == memory[:100]
    empty = fresh()
    exactly(store.put_from(empty, memory.ptr, 0), 0)
    assert store.is_exist(empty) == 0
    for wrong in ((0, 10), (1 << 40, 10), (memory.ptr, 1 << 63)):
        exactly(store.put_from(fresh(), *wrong), -600)
    exactly(store.put_from(fresh(), memory.ptr, 10, same_node), -600)
    large = Memory(140 * MIB)
    exactly(store.put_from(fresh(), large.ptr, large.size), -200)


def test_get_into(store, memory):
    key = put(store, pattern(100))
    exactly(store.get_into(key, memory.ptr + SIZE, 200), 100)
    assert memory[SIZE : SIZE + 101] == pattern(100) + b"\0"
    exactly(store.get_into(key=key, buffer_ptr=memory.ptr + SIZE, size=100), 100)
    exactly(store.get_into(key, memory.ptr, 99), -600)
    exactly(store.get_into(key, 0, 100), -600)
    exactly(store.get_into(fresh(), memory.ptr, 100), -704)


def test_batch_put_from(store, memory, config, same_node):
    keys = [fresh() for _ in range(3)]
    exactly(store.batch_put_from(keys, [memory.ptr, 0, memory.ptr + 5], [5, 5, 5]), [0, -600, 0])
    exactly(store.batch_put_from(keys=keys[:1], buffer_ptrs=[memory.ptr + 9], sizes=[1], config=config), [0])
    assert store.get_batch(keys) == [memory[:5], b"", memory[5:10]]
    exactly(store.batch_put_from(keys, [memory.ptr], [1]), [-600] * 3)
    exactly(store.batch_put_from([fresh()], [memory.ptr], [1], same_node), [-600])
    exactly(store.batch_put_from([], [], []), [])


def test_batch_get_into(store, memory):
    keys = [put(store, b"12345"), fresh(), put(store, b"678")]
    at = [memory.ptr + SIZE + 10 * n for n in range(3)]
    exactly(store.batch_get_into(keys, at, [5, 5, 2]), [5, -704, -600])
    exactly(store.batch_get_into(keys=keys, buffer_ptrs=at, sizes=[9, 9, 9]), [5, -704, 3])
    assert memory[SIZE : SIZE + 5] + memory[SIZE + 20 : SIZE + 23] == b"12345678"
    exactly(store.batch_get_into(keys, at[:1], [5]), [-600] * 3)
    exactly(store.batch_get_into([], [], []), [])


def test_put_from_with_metadata(real, store, memory, config):
    key = fresh()
    exactly(store.put_from_with_metadata(key, memory.ptr, memory.ptr + 100, 10, 5), 0)
    assert store.get(key) == memory[100:105] + memory[:10]
    exactly(store.put_from_with_metadata(key=fresh(), buffer_ptr=memory.ptr, metadata_buffer_ptr=memory.ptr, size=1, metadata_size=0, config=config), 0)
    empty = fresh()
    exactly(store.put_from_with_metadata(empty, memory.ptr, memory.ptr, 0, 5), 0)
    assert store.is_exist(empty) == 0
    exactly(store.put_from_with_metadata(fresh(), 0, memory.ptr, 10, 5), 600)
    exactly(store.put_from_with_metadata(fresh(), memory.ptr, 0, 10, 5), 600)
    exactly(real.MooncakeDistributedStore().put_from_with_metadata(key, memory.ptr, memory.ptr, 1, 1), -600)


# ---- upserts ----


def test_upsert(store, other, config, same_node):
    key = fresh()
    for value in (b"new", b"two", b"longer"):
        exactly(store.upsert(key, value), 0)
        assert store.get(key) == other.get(key) == value, "under a lease, of the same and another size"
    exactly(other.upsert(key=key, value=b"theirs", config=config), 0)
    assert store.get(key) == b"theirs"
    exactly(store.upsert(key, b""), -600)
    exactly(store.upsert(key, b"x", same_node), -600)
    assert store.get(key) == b"theirs"


def test_upsert_parts(store, config):
    key = put(store)
    exactly(store.upsert_parts(key, b"a", b"b", config=config), 0)
    exactly(store.upsert_parts(key), 0)
    exactly(store.upsert_parts(key, b""), 0)
    assert store.get(key) == b"ab"


def test_upsert_batch(store, config):
    keys = [put(store), fresh()]
    exactly(store.upsert_batch(keys, [b"1", b"2"]), 0)
    exactly(store.upsert_batch(keys=keys, values=[b"3", b"4"], config=config), 0)
    assert store.get_batch(keys) == [b"3", b"4"]
    exactly(store.upsert_batch(keys, [b"5"]), -600)


def test_upsert_from(store, memory, config):
    key = put(store)
    exactly(store.upsert_from(key, memory.ptr, 10), 0)
    exactly(store.upsert_from(key=key, buffer_ptr=memory.ptr + 5, size=9, config=config), 0)
    exactly(store.upsert_from(key, memory.ptr, 0), 0)
    exactly(store.upsert_from(key, 0, 5), -600)
    assert store.get(key) == memory[5:14]


def test_batch_upsert_from(real, store, memory, config):
    keys = [put(store), fresh()]
    exactly(store.batch_upsert_from(keys, [memory.ptr] * 2, [3, 4]), [0, 0])
    exactly(store.batch_upsert_from(keys=keys, buffer_ptrs=[memory.ptr + 1, 0], sizes=[3, 4], config=config), [0, -600])
    assert store.get_batch(keys) == [memory[1:4], memory[:4]]
    exactly(store.batch_upsert_from(keys, [], []), [-600, -600])
    exactly(real.MooncakeDistributedStore().batch_upsert_from(keys, [memory.ptr] * 2, [3, 4]), [-600, -600])


# ---- many buffers, pieces, sessions ----


def test_batch_put_from_multi_buffers(store, memory, config, same_node):
    keys = [fresh(), fresh()]
    exactly(store.batch_put_from_multi_buffers(keys, [[memory.ptr, memory.ptr + 100], [memory.ptr]], [[5, 6], [7]]), [0, 0])
    assert store.get_batch(keys) == [memory[:5] + memory[100:106], memory[:7]]
    exactly(store.batch_put_from_multi_buffers(keys=[fresh()], all_buffer_ptrs=[[memory.ptr]], all_sizes=[[5]], config=config), [0])
    exactly(store.batch_put_from_multi_buffers([fresh()], [[memory.ptr]], [[5]], same_node), [0])
    exactly(store.batch_put_from_multi_buffers([fresh(), fresh()], [[memory.ptr] * 2, [memory.ptr]], [[5], [5]]), [-600, 0])
    exactly(store.batch_put_from_multi_buffers([fresh(), fresh()], [[memory.ptr]], [[5]]), [-600, -600])


def test_batch_get_into_multi_buffers(store, memory):
    keys = [put(store, pattern(100)), fresh()]
    at = memory.ptr + SIZE
    exactly(store.batch_get_into_multi_buffers(keys, [[at, at + 500], [at]], [[30, 70], [5]]), [100, -704])
    assert memory[SIZE : SIZE + 30] + memory[SIZE + 500 : SIZE + 570] == pattern(100)
    exactly(store.batch_get_into_multi_buffers(keys[:1], [[at]], [[200]], True), [100])
    exactly(store.batch_get_into_multi_buffers(keys=keys[:1], all_buffer_ptrs=[[at]], all_sizes=[[99]], prefer_alloc_in_same_node=False), [-600])
    exactly(store.batch_get_into_multi_buffers(keys, [[at]], [[99]]), [-600, -600])


def test_get_into_ranges(store, memory):
    key, at = put(store, pattern(100)), memory.ptr + SIZE
    answer = store.get_into_ranges([memory.ptr, at], [[key], [key, fresh()]], [[[SIZE]], [[100, 200], [0]]], [[[5]], [[90, 0], [0]]], [[[10]], [[10, 11], [1]]])
    exactly(answer, [[[10]], [[10, 11], [-704]]])
    assert type(answer[0][0][0]) is int
    assert memory[SIZE : SIZE + 10] == pattern(100)[5:15] and memory[SIZE + 100 : SIZE + 110] == pattern(100)[90:]
    names = ("buffer_ptrs", "all_keys", "all_dst_offsets", "all_src_offsets", "all_sizes")
    exactly(store.get_into_ranges(**dict(zip(names, ([at], [[key]], [[[0]]], [[[0]]], [[[1]]])))), [[[1]]])
    exactly(store.get_into_ranges([at], [[key]], [[[0, 1]]], [[[0]]], [[[1, 1]]]), [[[-600, -600]]])
    exactly(store.get_into_ranges([at], [[key]], [[[SIZE - 1, 0]]], [[[0, 0]]], [[[2, 2]]]), [[[-600, 2]]])
    exactly(store.get_into_ranges([at], [[key]], [[[0]]], [[[99]]], [[[2]]]), [[[-600]]])
    stranger = Memory(100)
    exactly(store.get_into_ranges([stranger.ptr], [[key]], [[[0]]], [[[0]]], [[[1]]]), [[[-600]]])


def test_batch_get_session_start(real, store):
    keys = [put(store), fresh()]
    exactly(store.batch_get_session_start(keys), [0, -704])
    exactly(store.batch_get_session_start(keys=[]), [])
    exactly(real.MooncakeDistributedStore().batch_get_session_start(keys), [])
    assert store.batch_get_session_end(keys) == 0


def test_batch_get_into_multi_buffer_ranges(real, store, memory):
    key, at = put(store, pattern(100)), memory.ptr + SIZE
    assert store.batch_get_session_start([key]) == [0]
    exactly(store.batch_get_into_multi_buffer_ranges([key], [[at, at + 50]], [[10, 20]], [[5, 80]]), [30])
    assert memory[SIZE : SIZE + 10] + memory[SIZE + 50 : SIZE + 70] == pattern(100)[5:15] + pattern(100)[80:]
    exactly(store.batch_get_into_multi_buffer_ranges(keys=[key], all_buffer_ptrs=[[at]], all_sizes=[[2]], all_src_offsets=[[99]]), [-600])
    assert store.batch_get_session_end([key]) == 0
    exactly(store.batch_get_into_multi_buffer_ranges([key], [[at]], [[1]], [[0]]), [-600])
    exactly(real.MooncakeDistributedStore().batch_get_into_multi_buffer_ranges([key], [[at]], [[1]], [[0]]), [])


def test_batch_get_session_end(real, store):
    key = put(store)
    assert store.batch_get_session_start([key]) == [0]
    exactly(store.batch_get_session_end([key]), 0)
    exactly(store.batch_get_session_end(keys=[]), 0)
    exactly(real.MooncakeDistributedStore().batch_get_session_end([key]), -1)


def test_batch_put_session_start(real, store, config):
    keys = [fresh(), fresh()]
    exactly(store.batch_put_session_start(keys[:1], [10]), [0])
    exactly(store.batch_put_session_start(keys=keys, sizes=[10, 10], config=config), [-600, 0])
    exactly(store.batch_put_session_start([fresh(), fresh()], [1]), [-600, -600])
    exactly(real.MooncakeDistributedStore().batch_put_session_start(keys, [1, 1]), [])
    assert store.batch_put_session_revoke(keys) == [0, 0]


def test_batch_put_from_multi_buffer_ranges(real, store, memory):
    key = fresh()
    assert store.batch_put_session_start([key], [10]) == [0]
    exactly(store.batch_put_from_multi_buffer_ranges([key], [[memory.ptr, memory.ptr + 50]], [[4, 6]], [[6, 0]]), [10])
    exactly(store.batch_put_from_multi_buffer_ranges(keys=[key], all_buffer_ptrs=[[memory.ptr]], all_sizes=[[2]], all_dst_offsets=[[9]]), [-600])
    assert store.batch_put_session_end([key]) == [0] and store.get(key) == memory[50:56] + memory[:4]
    exactly(real.MooncakeDistributedStore().batch_put_from_multi_buffer_ranges([key], [[memory.ptr]], [[1]], [[0]]), [])


def test_batch_put_session_end(real, store, memory):
    key = fresh()
    assert store.batch_put_session_start([key], [3]) == [0] and store.is_exist(key) == 0
    exactly(store.batch_put_session_end([key]), [-700])
    assert store.batch_put_from_multi_buffer_ranges([key], [[memory.ptr]], [[3]], [[0]]) == [3]
    exactly(store.batch_put_session_end(keys=[key]), [0])
    assert store.is_exist(key) == 1
    exactly(store.batch_put_session_end([key]), [-600])
    exactly(real.MooncakeDistributedStore().batch_put_session_end([key]), [])


def test_batch_put_session_revoke(real, store):
    key = fresh()
    assert store.batch_put_session_start([key], [3]) == [0]
    exactly(store.batch_put_session_revoke([key]), [0])
    exactly(store.batch_put_session_revoke(keys=[key]), [-600])
    assert store.is_exist(key) == 0
    exactly(real.MooncakeDistributedStore().batch_put_session_revoke([key]), [])


# ---- segments, replicas, tasks ----

ID = r"\d+-\d+"


def test_mount_segment(store, tmp_path):
    path = tmp_path / "segment"
    path.write_bytes(bytes(2 * MIB))
    for arguments, keywords in ((([str(path), MIB]), {}), ([], {"path": str(path), "size": MIB, "offset": MIB, "protocol": "tcp", "location": ""})):
        answer = store.mount_segment(*arguments, **keywords)
        assert answer == {"ret": 0, "segment_ids": answer["segment_ids"]} and re.fullmatch(ID, *answer["segment_ids"])
        exactly(store.unmount_segment(answer["segment_ids"]), 0)
    for wrong in ((str(path), 4 * MIB), (str(path), MIB, 5), (str(tmp_path), MIB), (str(path), 0), (str(path), MIB, 0, "pigeon")):
        answer = store.mount_segment(*wrong)
        assert answer["ret"] < 0 and answer["segment_ids"] == []


def test_unmount_segment(store, other):
    ids = store.allocate_and_mount_segment(16 * MIB)["segment_ids"]
    assert other.unmount_segment(ids) == -101
    exactly(store.unmount_segment(segment_ids=ids, grace_period_seconds=0), 0)
    for wrong in (ids, ["1-2"], ["x"], [""]):
        assert store.unmount_segment(wrong) == -101
    exactly(store.unmount_segment([]), 0)
    refuses(store.unmount_segment, "1-2")


def test_allocate_and_mount_segment(store):
    for arguments, keywords in (((20 * MIB,), {}), ((), {"size": 17 * MIB, "protocol": "tcp", "location": ""})):
        answer = store.allocate_and_mount_segment(*arguments, **keywords)
        assert answer == {"ret": 0, "segment_ids": answer["segment_ids"], "allocated_size": 32 * MIB}
        assert len(answer["segment_ids"]) == 1 and re.fullmatch(ID, answer["segment_ids"][0])
        exactly(store.unmount_and_free_segment(answer["segment_ids"]), 0)
    for wrong in ((0,), (1 << 46,), (1 << 63,), ((1 << 64) - 1,), (MIB, "pigeon")):
        answer = store.allocate_and_mount_segment(*wrong)
        assert answer["ret"] < 0 and (answer["segment_ids"], answer["allocated_size"]) == ([], 0)


def test_unmount_and_free_segment(store):
    ids = store.allocate_and_mount_segment(MIB)["segment_ids"]
    exactly(store.unmount_and_free_segment(segment_ids=ids, grace_period_seconds=0), 0)
    exactly(store.unmount_and_free_segment(ids), -101)


def test_unmount_local_disk_segment(store):
    exactly(store.unmount_local_disk_segment(), 0)
    exactly(store.unmount_local_disk_segment(grace_period_seconds=5), 0)


def test_get_replica_desc(real, store, other, config):
    config.replica_num = 2
    key = fresh()
    assert store.put(key, b"value", config) == 0
    replicas = store.get_replica_desc(key)
    assert type(replicas) is list and len(replicas) == 2
    for replica in replicas:
        assert replica.status == real.ReplicaStatus.COMPLETE
        assert (replica.is_memory_replica(), replica.is_disk_replica(), replica.is_local_disk_replica()) == (True, False, False)
        descriptor = replica.get_memory_descriptor().buffer_descriptor
        assert descriptor.size == 5 and type(descriptor.buffer_address) is int and descriptor.transport_endpoint
        with pytest.raises(RuntimeError):
            replica.get_disk_descriptor()
    assert store.get_replica_desc(key=fresh()) == []


def test_batch_get_replica_desc(store):
    keys = [put(store), fresh()]
    found = store.batch_get_replica_desc(keys)
    assert type(found) is dict and list(found) == keys[:1] and len(found[keys[0]]) == 1
    assert store.batch_get_replica_desc(keys=[]) == {}


def test_batch_replica_clear(store, other):
    key, leased, foreign = put(store), put(store), put(other)
    assert store.is_exist(leased) == 1
    exactly(store.batch_replica_clear([key], "no-such-segment:1"), [])
    answer = store.batch_replica_clear([key, leased, foreign, fresh()])
    assert answer == [key] and store.batch_is_exist([key, leased, foreign]) == [0, 1, 1]
    exactly(store.batch_replica_clear(keys=[], segment_name=""), [])


def finished(store, task):
    """What it has come to."""
    wait_until(lambda: store.query_task(task)[0].status.name in ("SUCCESS", "FAILED"), "the task is over")
    return store.query_task(task)


def from_to(real, store, other):
    config = real.ReplicateConfig()
    config.preferred_segment = store.get_hostname()
    key = fresh()
    assert store.put(key, b"value", config) == 0
    return key, store.get_hostname(), other.get_hostname()


def test_create_copy_task(real, store, other):
    key, _, target = from_to(real, store, other)
    task, code = store.create_copy_task(key, [target])
    assert code == 0 and type(task) is tuple and [type(number) for number in task] == [int, int]
    assert finished(store, task)[0].status == real.TaskStatus.SUCCESS and len(store.get_replica_desc(key)) == 2
    task, code = store.create_copy_task(key=key, targets=[target])
    assert code == 0 and finished(store, task)[0].status == real.TaskStatus.SUCCESS and len(store.get_replica_desc(key)) == 2
    assert store.create_copy_task(key, ["no-such-segment:1"]) == ((0, 0), -600)
    assert store.create_copy_task(fresh(), [target]) == ((0, 0), -704)


def test_create_move_task(real, master, store, other):
    key, source, target = from_to(real, store, other)
    third = new_store(real, master)
    assert store.create_move_task(key, source, source) == ((0, 0), -600)
    assert store.create_move_task(key, target, third.get_hostname()) == ((0, 0), -710)
    assert store.create_move_task(key, "no-such-segment:1", target) == ((0, 0), -600)
    assert store.create_move_task(fresh(), source, target) == ((0, 0), -704)
    assert third.close() == 0
    task, code = store.create_move_task(key=key, source=source, target=target)
    assert code == 0 and finished(store, task)[0].status == real.TaskStatus.SUCCESS
    assert [replica.segment_name for replica in store.get_replica_desc(key)] == [target] and other.get(key) == b"value"


def test_query_task(real, store, other):
    key, _, target = from_to(real, store, other)
    task, _ = store.create_copy_task(key, [target])
    response, code = finished(store, task)
    assert code == 0 and response.id == task and response.type == real.TaskType.REPLICA_COPY and response.message == ""
    assert 0 < response.created_at_ms_epoch <= response.last_updated_at_ms_epoch and len(response.assigned_client) == 2
    assert store.query_task(task_id=(1, 2)) == (None, -1400)
    refuses(store.query_task, (1,))


# ---- that none is missing ----


def test_every_method_of_the_store_has_a_test_of_its_name(real):
    """Those of tensors have test_contract_tensors.py."""
    methods = {name for name in dir(real.MooncakeDistributedStore) if not name.startswith("_") and "tensor" not in name}
    assert {name for name in methods - {"counters", "get_dlpack"} if f"test_{name}" not in globals()} == set()
