"""The flows of the API's documentation, on the real store: each as a script of its own, against a master process with its HTTP metadata server, against
the same master with P2PHANDSHAKE, and with the master embedded. A flow prints what it saw; the last line is "ok"."""

import pytest
from python_support import run_python

HEAD = """
import ctypes, json
import numpy as np
from mooncake.store import MooncakeDistributedStore, ReplicateConfig

METADATA, MASTER = {metadata!r}, {master!r}

def connect(segment=512 * 1024 * 1024, buffer=128 * 1024 * 1024):
    store = MooncakeDistributedStore()
    assert store.setup("localhost", METADATA, segment, buffer, "tcp", "", MASTER) == 0
    return store
"""

FLOWS = {
    "hello world": """
store = MooncakeDistributedStore()
store.setup(
    "localhost",
    METADATA,
    512*1024*1024,
    128*1024*1024,
    "tcp",
    "",
    MASTER
)
store.put("hello_key", b"Hello, Mooncake Store!")
data = store.get("hello_key")
assert data.decode() == "Hello, Mooncake Store!"
store.close()
""",
    "numpy": """
store = connect()
store.put("config", b'{"model": "llama-7b", "temperature": 0.7}')
weights = np.random.randn(1000, 1000).astype(np.float32)
store.put("weights", weights.tobytes())
store.put("weights too", weights)
store.put("cache", b"some serialized cache data")
assert json.loads(store.get("config").decode())["model"] == "llama-7b"
for key in ("weights", "weights too"):
    back = np.frombuffer(store.get(key), dtype=np.float32).reshape(1000, 1000)
    assert np.array_equal(back, weights)
assert bool(store.is_exist("cache")) and not store.is_exist("nothing")
store.close()
""",
    "registration": """
store = connect()
buffer = np.zeros(100 * 1024 * 1024, dtype=np.uint8)
assert store.register_buffer(buffer.ctypes.data, buffer.nbytes) == 0
assert store.unregister_buffer(buffer.ctypes.data) == 0
assert store.unregister_buffer(buffer.ctypes.data) == -600
store.close()
""",
    "zero copy": """
store = connect(buffer=16 * 1024 * 1024)
original = np.random.randn(1000, 1000).astype(np.float32)
assert store.register_buffer(original.ctypes.data, original.nbytes) == 0
assert store.put_from("large_tensor", original.ctypes.data, original.nbytes) == 0
received = np.empty((1000, 1000), dtype=np.float32)
assert store.register_buffer(received.ctypes.data, received.nbytes) == 0
assert store.get_into("large_tensor", received.ctypes.data, received.nbytes) == original.nbytes
assert np.array_equal(original, received)
assert store.get_into("large_tensor", received.ctypes.data, received.nbytes - 1) == -600
assert store.get_into("nothing", received.ctypes.data, received.nbytes) == -704
store.unregister_buffer(original.ctypes.data)
store.unregister_buffer(received.ctypes.data)
store.close()
""",
    "batch": """
store = connect()
keys = [f"key{i}" for i in range(64)]
values = [bytes([i]) * (1000 + i) for i in range(64)]
assert store.put_batch(keys, values) == 0
assert store.get_batch(keys) == values
assert store.get_batch(["key5", "nothing"]) == [values[5], b""]
assert store.batch_is_exist(keys + ["nothing"]) == [1] * 64 + [0]
one, two, three = (np.random.randint(0, 255, size, dtype=np.uint8) for size in (1 << 20, 3 << 20, 17))
arrays = [one, two, three]
for array in arrays:
    assert store.register_buffer(array.ctypes.data, array.nbytes) == 0
names = ["t1", "t2", "t3"]
assert store.batch_put_from(names, [a.ctypes.data for a in arrays], [a.nbytes for a in arrays]) == [0, 0, 0]
back = [np.zeros_like(a) for a in arrays]
for array in back:
    assert store.register_buffer(array.ctypes.data, array.nbytes) == 0
sizes = store.batch_get_into(names, [a.ctypes.data for a in back], [a.nbytes for a in back])
assert sizes == [a.nbytes for a in arrays]
assert all(np.array_equal(a, b) for a, b in zip(arrays, back))
for array in arrays + back:
    assert store.unregister_buffer(array.ctypes.data) == 0
store.close()
""",
    "buffer protocol": """
store = connect()
store.put("large_object", np.arange(1 << 20, dtype=np.int32))
buffer = store.get_buffer("large_object")
assert buffer is not None and buffer.size() == len(buffer) == 4 << 20 and buffer.ptr() > 0
view = memoryview(buffer)
assert view.format == "b" and view.shape == (4 << 20,)
assert np.array_equal(np.frombuffer(buffer, dtype=np.int32), np.arange(1 << 20, dtype=np.int32))
assert np.array(buffer, copy=False).nbytes == 4 << 20
assert bytes(view[4:8]) == b"\\x01\\0\\0\\0"
assert store.get_buffer("nothing") is None
assert [b is None for b in store.batch_get_buffer(["large_object", "nothing"])] == [False, True]
del buffer
store.close()
assert bytes(view[8:12]) == b"\\x02\\0\\0\\0", "a view outlives close"
""",
    "parts": """
store = connect()
assert store.put_parts("k", b"part1", bytearray(b"part2"), memoryview(b"part3")) == 0
assert store.get("k") == b"part1part2part3"
assert store.get_size("k") == 15
meta, data = np.frombuffer(b"meta", dtype=np.uint8).copy(), np.frombuffer(b"data!", dtype=np.uint8).copy()
assert store.put_from_with_metadata("m", data.ctypes.data, meta.ctypes.data, data.nbytes, meta.nbytes) == 0
assert store.get("m") == b"metadata!"
store.close()
""",
    "replication config": """
store = connect()
config = ReplicateConfig()
config.replica_num = 2
config.with_soft_pin = True
config.preferred_segment = store.get_hostname()
assert "replica_num: 2" in str(config)
assert store.put("replicated", b"important", config) == 0, "best effort over the segments there are"
(replica,) = store.get_replica_desc("replicated")
assert replica.is_memory_replica() and replica.get_memory_descriptor().buffer_descriptor.size == 9
assert set(store.batch_get_replica_desc(["replicated", "nothing"])) == {"replicated"}
store.close()
""",
    "removal": """
store = connect()
for i in range(4):
    assert store.put(f"user_{i}", b"x") == 0
assert store.put("other", b"x") == 0
assert store.remove("user_0") == 0 and store.remove("user_0") == -704
assert store.is_exist("user_1") == 1
assert store.remove("user_1") == -706, "exist granted a lease"
assert store.remove("user_1", force=True) == 0
assert store.remove_by_regex("^user_[0-9]$") == 2
assert store.remove_by_regex("(") == -600
assert store.batch_remove(["other", "nothing"], force=True) == [0, -704]
assert store.put("last", b"x") == 0
assert store.remove_all(True) >= 1
store.close()
""",
    "multi buffers": """
store = connect()
layers = [np.random.randint(0, 255, 65536, dtype=np.uint8) for _ in range(8)]
for layer in layers:
    assert store.register_buffer(layer.ctypes.data, layer.nbytes) == 0
keys = [f"block{i}" for i in range(4)]
table = [[layer.ctypes.data + i * 16384 for layer in layers] for i in range(4)]
sizes = [[16384] * 8] * 4
assert store.batch_put_from_multi_buffers(keys, table, sizes, ReplicateConfig()) == [0] * 4
expected = [layer.copy() for layer in layers]
for layer in layers:
    layer[:] = 0
assert store.batch_get_into_multi_buffers(keys, table, sizes) == [131072] * 4
assert all(np.array_equal(a, b) for a, b in zip(layers, expected))
store.close()
""",
    "ranges": """
store = connect()
assert store.put("key1", bytes(range(40))) == 0 and store.put("key2", bytes(range(100, 140))) == 0
buffers = [np.zeros(32, dtype=np.uint8), np.zeros(32, dtype=np.uint8)]
for buffer in buffers:
    assert store.register_buffer(buffer.ctypes.data, 32) == 0
results = store.get_into_ranges(
    [buffer.ctypes.data for buffer in buffers],
    [["key1", "key2"], ["key2", "nothing"]],
    [[[0, 20], [8]], [[4], [16]]],
    [[[1, 30], [2]], [[0], [10]]],
    [[[4, 3], [5]], [[6], [4]]],
)
assert results == [[[4, 3], [5]], [[6], [-704]]]
assert bytes(buffers[0][0:4]) == bytes(range(1, 5)) and bytes(buffers[1][4:10]) == bytes(range(100, 106))
store.close()
""",
    "upsert": """
store = connect()
assert store.put("k", b"old") == 0 and store.put("k", b"ignored") == 0
assert store.get("k") == b"old"
assert store.upsert("k", b"new value") == 0
assert store.get("k") == b"new value"
assert store.upsert_parts("k", b"ne", b"west") == 0 and store.get("k") == b"newest"
assert store.upsert_batch(["k", "l"], [b"1", b"2"]) == 0 and store.get_batch(["k", "l"]) == [b"1", b"2"]
data = np.arange(100, dtype=np.uint8)
assert store.upsert_from("k", data.ctypes.data, 100) == 0
assert store.batch_upsert_from(["l", "m"], [data.ctypes.data] * 2, [50, 60]) == [0, 0]
assert [store.get_size(k) for k in "klm"] == [100, 50, 60]
store.close()
""",
    "setup again": """
store = connect()
name = store.get_hostname()
host, port = name.rsplit(":", 1)
assert host == "localhost" and 12300 <= int(port) <= 14300
assert store.health_check() == 0
assert store.put("k", b"x") == 0
assert store.close() == 0 and store.close() == 0
assert store.health_check() == 1 and store.get("k") == b"" and store.put("k", b"x") == -600
assert store.setup("localhost", METADATA, 64 << 20, 16 << 20, "tcp", "", MASTER) == 0
assert store.get("k") == b"", "the segment went with close"
assert store.put("k", b"y") == 0 and store.get("k") == b"y"
store.close()
assert store.setup({"local_hostname": "localhost", "metadata_server": METADATA, "global_segment_size": "64MB",
                    "local_buffer_size": "16 MB", "protocol": "tcp", "device_name": "", "master_server_address": MASTER}) == 0
assert store.put("k", b"z") == 0 and store.get("k") == b"z"
""",
    "pool": """
from mooncake import BufferPool
store = connect()
assert store.put("my_key", b"0123456789" * 1000) == 0
pool = BufferPool(store)
with pool.buffer(1024 * 1024) as lease:
    n = store.get_into("my_key", lease.ptr, lease.size)
    assert n == 10000 and bytes(lease.buffer[:n]) == b"0123456789" * 1000
pool.close()
store.close()
""",
    "async": """
import asyncio
from mooncake.async_store import MooncakeDistributedStoreAsync
async def main():
    store = MooncakeDistributedStoreAsync()
    assert await store.async_setup("localhost", METADATA, 64 << 20, 16 << 20, "tcp", "", MASTER) == 0
    await asyncio.gather(*(store.async_put(f"k{i}", bytes([i]) * 1000) for i in range(20)))
    assert await store.async_get_batch([f"k{i}" for i in range(20)]) == [bytes([i]) * 1000 for i in range(20)]
    assert await store.async_close() == 0
asyncio.run(main())
""",
    "two stores in one process": """
a, b = connect(64 << 20, 16 << 20), None
if MASTER != "embedded":
    b = connect(0, 16 << 20)
    assert a.put("k", b"from a") == 0 and b.get("k") == b"from a"
    assert b.put("l", b"from b") == 0 and a.get("l") == b"from b"
    handle = b.get_buffer("k")
    a.close()
    assert b.is_exist("k") == 0
    b.close()
    assert bytes(handle) == b"from a"
""",
    "exceptions in user code": """
store = connect(64 << 20, 16 << 20)
view = None
try:
    store.put("k", b"x")
    view = memoryview(store.get_buffer("k"))
    raise LookupError
except LookupError:
    pass
assert bytes(view) == b"x"
""",
}

MODES = ["http metadata", "p2p", "embedded"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flow", FLOWS)
def test_flow(master, flow, mode):
    metadata = master.metadata if mode == "http metadata" else "P2PHANDSHAKE"
    address = "embedded" if mode == "embedded" else master.address
    done = run_python(HEAD.format(metadata=metadata, master=address) + FLOWS[flow] + '\nprint("ok")\n', package="real")
    assert done.stdout.splitlines()[-1:] == ["ok"]
    assert "Fatal" not in done.stderr and "ERROR: " not in done.stderr
