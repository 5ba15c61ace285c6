"""Every call many times over: no reference, no buffer, no byte stays behind."""

import ctypes
import gc
import os
import sys

import numpy as np
import pytest
from python_support import SETUP, run_python

DATA = (ctypes.c_char * 4096)()
P = ctypes.addressof(DATA)


def calls(fake, store):
    config = fake.ReplicateConfig(preferred_segments=["a:1"], group_ids=["g"])
    value = bytearray(b"v" * 4096)
    strided = memoryview(b"abcdef" * 700)[::2]

    def refused(function, *args, **kwargs):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            function(*args, **kwargs)

    def interrupted_batch():
        refused(store.put_batch, ["a", "b"], [value, 1])
        refused(store.batch_is_exist, ["a", bytearray(b"b"), 1])
        refused(store.batch_put_from, ["a"], [1, "x"], [1])
        refused(store.batch_put_from_multi_buffers, ["a"], [[1], ["x"]], [[1]])

    def configs():
        made = fake.ReplicateConfig(replica_num=2, preferred_segments=["a", "b"], group_ids=["c"])
        made.preferred_segments = ["d"]
        made.group_ids = None
        str(made), made.preferred_segments, made.soft_pin_action, made.data_type
        refused(fake.ReplicateConfig, nothing=1)
        refused(setattr, made, "preferred_segments", ["a", 1])

    array = np.arange(512, dtype=np.int64)
    axes = fake.TensorParallelism(axes=[fake.ParallelAxis(kind="tp", rank=0, size=2, split_dim=0)]) if store else None
    bad_axes = fake.TensorParallelism() if store else None
    writer = type("Writer", (), {"rank": 0, "size": 2, "split_dim": 0})

    def target(mode, parallelism=None):
        return fake.ReadTarget(mode=mode, parallelism=parallelism)

    return {
        "put_tensor": lambda: (store.upsert_tensor("t", array), store.put_tensor("t", array.reshape(8, 64).T), store.batch_put_tensor(["t", "u"], [array, None])),
        "get_tensor": lambda: (store.put_tensor("t", array), store.get_tensor("t"), store.batch_get_tensor(["t", "x", "key"]), store.get_dlpack("t"), store.get_dlpack("key")),
        "dlpack": lambda: (
            store.upsert_tensor("t", array), np.from_dlpack(store.get_dlpack("t")), store.get_dlpack("t").__dlpack__(), store.get_dlpack("t").__dlpack__(max_version=(1, 0), copy=True),
            refused(store.get_dlpack("t").__dlpack__, stream=1), memoryview(store.get_dlpack("t")), bytes(store.get_dlpack("t").data), repr(store.get_dlpack("t")),
        ),  # fmt: skip
        "exchange table": lambda: (
            store.upsert_tensor("t", array), store.upsert_tensor("s", store.get_dlpack("t")), store.get_tensor_into_cuda("t", store.get_dlpack("s")),
            refused(store.get_dlpack, "t", "cuda"), refused(store.get_tensor, "t", "cuda:1"), store.get_dlpack("t").device,
        ),
        "tensors at addresses": lambda: (store.put_tensor("t", array[:100]), store.get_tensor_into("t", P, 4096), store.get_tensor_into("u", P, 4096), store.put_tensor_from("v", P, 4096), store.put_tensor_from("v", 0, 1)),
        "tp": lambda: (
            store.batch_put_tensor_with_tp(["t", "u"], [array, array[:3]], tp_size=2), store.get_tensor_with_tp("t", 1, 2), store.batch_get_tensor_with_tp(["t", "x"], 0, 2),
            store.get_tensor_with_tp_into("t", P, 4096, 0, 2), refused(store.put_tensor_with_tp, "t", array, "x"),
        ),  # fmt: skip
        "parallelism": lambda: (
            store.put_tensor_with_parallelism("p", array, axes), store.put_tensor_with_parallelism("p", array, bad_axes), store.put_tensor_with_parallelism("w", array, None, writer_partition=writer),
            store.get_tensor_with_parallelism("p", target("shard", axes)), store.get_tensor_with_parallelism("p", target("full", axes)),
            store.get_tensor_with_parallelism_into("w", P, 4096, target("full")), store.batch_get_tensor_with_parallelism(["w", "t"], [target("full"), 5]),
            refused(fake.ReadTarget, mode="x"), refused(fake.ParallelAxis, rank="x"), repr(target("full", axes)), refused(store.put_tensor_with_parallelism, "p", array, axes, 5),
        ),  # fmt: skip
        "serialize": lambda: (store.upsert_tensor("t", array), fake._serialize_tensor(array), refused(fake._serialize_tensor, 1), fake._deserialize_tensor(store.get("t")), refused(fake._deserialize_tensor, b"")),
        "put": lambda: store.put("key", value, config),
        "put strided": lambda: store.put("key", strided),
        "upsert": lambda: store.upsert("key", value),
        "put_batch": lambda: store.put_batch(["key", b"l", bytearray(b"m")], [value, b"", strided], fake.ReplicateConfig()),
        "put_parts": lambda: store.put_parts("key", value, strided, config=config),
        "get": lambda: store.get("key"),
        "get missing": lambda: store.get("missing"),
        "get_batch": lambda: store.get_batch(["key", "missing", b"l"]),
        "get_buffer": lambda: store.get_buffer("key"),
        "views": lambda: memoryview(store.get_buffer("key"))[3:].tobytes(),
        "batch_get_buffer": lambda: store.batch_get_buffer(["key", "missing"]),
        "get_into": lambda: store.get_into("key", P, 4096),
        "batch_get_into": lambda: store.batch_get_into(["key", "key", bytearray(b"x")], [P, 0, P], [4096] * 3),
        "multi": lambda: store.batch_get_into_multi_buffers(["key"], [[P, P]], [[2048, 2048]]),
        "put_from": lambda: store.upsert_from("key2", P, 100, config),
        "batch_put_from": lambda: store.batch_put_from(["a", "b"], [P, 0], [10, 10], fake.ReplicateConfig(group_ids=["g", "h"])),
        "multi put": lambda: store.batch_put_from_multi_buffers(["a"], [[P, P]], [[5, 6]], config),
        "metadata": lambda: store.put_from_with_metadata("key3", P, P, 5, 6),
        "ranges": lambda: (
            store.register_buffer(P, 4096),
            store.get_into_ranges([P, P], [["key", "x"], ["key"]], [[[0, 9], [1]], [[5]]], [[[0, 9], [1]], [[5]]], [[[2, 3], [1]], [[5]]]),
            store.get_into_ranges([P], [["key"]], [[[0, 9]]], [], [[[2, 3]]]),
            refused(store.get_into_ranges, [P], [["key"]], [[[0, 9]]], [[[0, "x"]]], [[[2, 3]]]),
            store.unregister_buffer(P),
        ),
        "get session": lambda: (
            store.register_buffer(P, 4096),
            store.batch_get_session_start(["key", "x"]),
            store.batch_get_into_multi_buffer_ranges(["key", "x"], [[P, P], [0]], [[3, 4], [1]], [[0, 9], [1]]),
            store.batch_get_into_multi_buffer_ranges(["key"], [[P]], [[3, 4]], [[0]]),
            refused(store.batch_get_into_multi_buffer_ranges, ["key"], [[P]], [["x"]], [[0]]),
            store.batch_get_session_end(["key", "x"]),
            store.unregister_buffer(P),
        ),
        "put session": lambda: (
            store.register_buffer(P, 4096),
            store.batch_put_session_start(["s", b"t"], [10, 20], config),
            refused(store.batch_put_session_start, ["s"], ["x"]),
            store.batch_put_from_multi_buffer_ranges(["s", "t"], [[P, P], [P]], [[5, 5], [20]], [[0, 5], [0]]),
            store.batch_put_session_end(["s"]),
            store.batch_put_session_revoke(["t", "u"]),
            store.unregister_buffer(P),
        ),
        "segments": lambda: (
            store.unmount_and_free_segment(store.allocate_and_mount_segment(1)["segment_ids"] + ["x", "1-2"]),
            store.mount_segment("/x", 1),
            refused(store.unmount_segment, [1]),
        ),
        "replica clear": lambda: (store.batch_replica_clear(["x", b"y", bytearray(b"z")], "s"), refused(store.batch_replica_clear, [1])),
        "not here": lambda: (
            store.create_copy_task("k", ["s"]),
            store.create_move_task("k", "s", "t"),
            store.query_task((1, 2)),
            refused(store.query_task, (1,)),
            store.setup_dummy(1, 1, "x"),
        ),
        "host memory": lambda: fake.MooncakeHostMemAllocator().free(fake.MooncakeHostMemAllocator().alloc(1)),
        "register": lambda: (store.register_buffer(P, 4096), store.unregister_buffer(P)),
        "keys": lambda: (store.batch_is_exist(["key"] * 10), store.is_exist("key"), store.get_size("key")),
        "replicas": lambda: (store.get_replica_desc("key"), store.batch_get_replica_desc(["key", "x", bytearray(b"key")])),
        "replica parts": lambda: repr(store.get_replica_desc("key")[0].get_memory_descriptor().buffer_descriptor),
        "removal": lambda: (store.remove("x"), store.batch_remove(["x", "y"]), store.remove_by_regex("zzz")),
        "hostname": lambda: (store.get_hostname(), store.health_check(), store.counters()),
        "setup": lambda: (store.setup(*SETUP), store.setup(dict(local_hostname="h", metadata_server="P2PHANDSHAKE", x=1))),
        "setup refused": lambda: (refused(store.setup, *SETUP, x=1), store.setup({"local_hostname": 5}), refused(store.setup, 1)),
        "configs": configs,
        "refusals": interrupted_batch,
        "enums": lambda: (fake.ObjectDataType(3), str(fake.COMPLETE), fake.COMPLETE == 3, refused(fake.TaskType, 9)),
        "stores": lambda: fake.MooncakeDistributedStore().setup(*SETUP),
        "store cycles": lambda: setattr(fake.MooncakeDistributedStore(), "self", fake.MooncakeDistributedStore()),
        "descriptors": lambda: setattr(fake.Descriptor(), "transport_endpoint", "x" * 100),
    }


def rss_pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


NAMES = list(calls(type("F", (), {"ReplicateConfig": lambda **k: None}), None))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_stays_behind(fake, store, name):
    store.put("key", b"v" * 4096)
    call = calls(fake, store)[name]
    for _ in range(50):
        call()
    counters, blocks, pages = store.counters(), [], []
    for _ in range(3):  # the interpreter's own lists of free objects grow at first
        gc.collect()
        blocks.append(-sys.getallocatedblocks())
        pages.append(-rss_pages())
        for _ in range(2000):
            call()
        gc.collect()
        blocks[-1] += sys.getallocatedblocks()
        pages[-1] += rss_pages()
    after = store.counters()
    assert min(blocks) < 500, "a block a call would be 2000"
    if "PYTHONMALLOC" not in os.environ:  # a sanitizer's allocator keeps freed memory for a while
        assert min(pages) * 4096 < 8 << 20
    assert {n: after[n] for n in ("gets", "handles", "registered")} == {n: counters[n] for n in ("gets", "handles", "registered")}


def test_open_files_stay_the_same(store):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        store.put_from("k", P, 10)
        store.get_into("k", 4096, 10)
        store.register_buffer(P, 10)
        store.unregister_buffer(P)
    assert len(os.listdir("/proc/self/fd")) == before


def test_types_are_given_back_with_the_module():
    run_python(
        "import gc, sys, weakref\n"
        "import mooncake.store as m\n"
        "store = m.MooncakeDistributedStore()\n"
        "config, kind = m.ReplicateConfig(), m.KVCACHE\n"
        "m._close_all()\n"
        "del sys.modules['mooncake.store'], sys.modules['mooncake'], m\n"
        "gc.collect()\n"
        "import mooncake.store as again\n"
        "assert again.KVCACHE is not kind\n"
        "print(config, kind, store.get('k'), again.ReplicateConfig())\n"
        "try:\n"
        "    again.MooncakeDistributedStore().put('k', b'v', config)\n"
        "except TypeError:\n"
        "    print('refused')\n"
        "del store, config, kind\n"
        "gc.collect()\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_allocation_may_fail(fake, store, name):
    """The nth allocation of the module fails, for each n there is: MemoryError, and the next call is as good as ever."""
    store.put("key", b"v" * 4096)
    call = calls(fake, store)[name]
    failures = 0
    for nth in range(1, 200):
        assert store.put(f"!fault:{nth}", b"x") == 0
        try:
            call()
        except (MemoryError, AssertionError, AttributeError, TypeError, pytest.fail.Exception):
            failures += 1
        if not store.counters()["fault_fired"]:
            break
    else:
        raise AssertionError("the allocations never ended")
    assert store.put("!fault:0", b"x") == 0
    assert store.setup(*SETUP) == 0
    call()
    gc.collect()
    assert {n: store.counters()[n] for n in ("gets", "handles", "registered")} == {"gets": 0, "handles": 0, "registered": 0}
    if name in ("put_batch", "get_batch", "batch_put_from", "multi put", "batch_get_into", "replicas", "stores"):
        assert failures > 0
