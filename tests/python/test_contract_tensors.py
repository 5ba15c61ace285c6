"""Contract: tensors with the real store and master, over all three ways that bytes take; one test for each row of docs/compatibility.md, "Tensors"."""

import ctypes
import gc
import itertools
import sys
import threading

import numpy as np
import pytest
import tensor_support as ts
from contract_support import MIB, fresh, new_store

WAYS = ["own", "same_host", "transport"]


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture(scope="module", params=WAYS)
def pair(request, real, master):
    """(writer, reader): the reader gets what the writer has by way of the parameter."""
    patch = pytest.MonkeyPatch()
    if request.param == "transport":
        patch.setenv("MC_STORE_MEMCPY", "0")
    writer = new_store(real, master, segment=128 * MIB)
    reader = writer if request.param == "own" else new_store(real, master, segment=0)
    patch.undo()
    reader.way = request.param
    yield writer, reader
    reader.close()
    writer.close()


def noise(*shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def room_of(size):
    buffer = ctypes.create_string_buffer(size)
    return buffer, ctypes.addressof(buffer)


# Below, at and beyond a block of 1 MiB, and several.
SHAPES = [(3,), (1000, 7), (512, 512), (1024, 1024), (3, 700, 701)]


@pytest.mark.parametrize("shape", SHAPES)
def test_put_tensor_and_get_tensor(pair, shape):
    writer, reader = pair
    key, data = fresh(), noise(*shape)
    assert writer.put_tensor(key, data) == 0
    assert reader.get(key) == ts.header("float32", shape) + data.tobytes()
    assert reader.get_size(key) == 304 + data.nbytes
    assert ts.same(reader.get_tensor(key), data)
    assert writer.put_tensor(key, -data) == 0 and ts.same(reader.get_tensor(key), data), "what is there stays"
    assert writer.upsert_tensor(key, -data) == 0 and ts.same(reader.get_tensor(key), -data)


@pytest.mark.parametrize("name", ts.DTYPES)
def test_every_element_type_and_the_bytes_of_the_header(pair, name):
    writer, reader = pair
    for shape in ((), (5,), (2, 3), (2,) * 8, (0, 4)):
        key, bits = fresh(), ts.bytes_of(ts.array_of(ts.BITS.get(name, name), shape))
        _, address = room_of(304 + len(bits))
        ctypes.memmove(address, ts.header(name, shape) + bits, 304 + len(bits))
        assert writer.put_tensor_from(key, address, 304 + len(bits)) == 0
        assert reader.get(key) == ts.header(name, shape) + bits
        assert ts.content(reader.get_tensor(key)) == (name, shape, bits)


def test_batches_of_put_upsert_and_pub(pair, real):
    writer, reader = pair
    keys, tensors = [fresh() for _ in range(10)], [noise(10, i + 1) for i in range(10)]
    assert writer.batch_put_tensor(keys, tensors) == [0] * 10
    assert all(ts.same(got, data) for got, data in zip(reader.batch_get_tensor(keys), tensors))
    assert writer.batch_upsert_tensor(keys, [-t for t in tensors]) == [0] * 10
    assert all(ts.same(got, -data) for got, data in zip(reader.batch_get_tensor(keys), tensors))
    others = [fresh() for _ in range(10)]
    config = real.ReplicateConfig(preferred_segments=[writer.get_hostname()], with_hard_pin=True, group_ids=["g"] * 10)
    assert writer.batch_pub_tensor(others, tensors, config) == [0] * 10
    assert writer.batch_upsert_pub_tensor(others, tensors, config) == [0] * 10
    config.group_ids = None
    assert writer.pub_tensor(fresh(), tensors[0], config) == 0 == writer.upsert_pub_tensor(others[0], tensors[0], config)
    config.preferred_segments = ["a:1", "b:2"]
    assert writer.pub_tensor(fresh(), tensors[0], config) == -600
    assert all(ts.same(got, data) for got, data in zip(reader.batch_get_tensor(others), tensors))
    assert reader.batch_get_tensor([keys[0], "nothing"])[1] is None


def test_tensors_at_addresses(pair):
    writer, reader = pair
    keys, tensors = [fresh() for _ in range(5)], [noise(300, 100 * (i + 1), seed=i) for i in range(5)]
    writer.batch_put_tensor(keys, tensors)
    rooms = [room_of(304 + t.nbytes + 100) for t in tensors]
    addresses, sizes = [address for _, address in rooms], [len(buffer) for buffer, _ in rooms]
    for registered in (False, True):
        for address, size in zip(addresses, sizes):
            ctypes.memset(address, 0, size)
            assert not registered or reader.register_buffer(address, size) == 0
        got = reader.batch_get_tensor_into(keys, addresses, sizes)
        assert all(ts.same(tensor, data) for tensor, data in zip(got, tensors))
        assert ts.same(reader.get_tensor_into(keys[1], addresses[1], sizes[1]), tensors[1])
        copies = [fresh() for _ in keys]
        whole = [304 + t.nbytes for t in tensors]
        assert reader.batch_put_tensor_from(copies, addresses, whole) == [0] * 5
        assert reader.batch_upsert_tensor_from(copies, addresses, whole) == [0] * 5
        assert reader.upsert_tensor_from(copies[0], addresses[0], whole[0]) == 0
        assert all(ts.same(writer.get_tensor(key), data) for key, data in zip(copies, tensors))
    assert reader.get_tensor_into(keys[4], addresses[0], sizes[0]) is None, "too small"
    for address in addresses:
        assert reader.unregister_buffer(address) == 0


def test_elements_into_a_tensor_that_is_there(pair):
    writer, reader = pair
    key, data = fresh(), noise(300, 301)
    writer.put_tensor(key, data)
    target = np.zeros_like(data)
    assert reader.get_tensor_into_cuda(key, target) == data.nbytes and (target == data).all()
    assert reader.batch_get_tensor_into_cuda([key, fresh()], [target, target]) == [data.nbytes, -704]


@pytest.mark.parametrize("dim", [0, 1])
def test_tp_shards(pair, dim):
    writer, reader = pair
    key, data = fresh(), noise(1000, 800)  # 1000 runs of a row: as many pieces
    assert writer.put_tensor_with_tp(key, data, tp_size=4, split_dim=dim) == 0
    parts = np.split(data, 4, axis=dim)
    buffer, address = room_of(304 + data.nbytes)
    for rank, part in enumerate(parts):
        assert ts.same(reader.get_tensor_with_tp(key, rank, 4, dim), part)
        assert ts.same(reader.batch_get_tensor_with_tp([key], rank, 4)[0], part)
        assert ts.same(reader.get_tensor_with_tp_into(key, address, len(buffer), rank, 4, dim), part)
    keys = [fresh(), fresh()]
    assert writer.batch_put_tensor_with_tp(keys, [data, data.T], tp_size=2, split_dim=dim) == [0, 0]
    assert ts.same(reader.get_tensor_with_tp(keys[1], 1, 2), np.split(data.T, 2, axis=dim)[1])


class Writer:
    def __init__(self, rank, size, split_dim):
        self.rank, self.size, self.split_dim = rank, size, split_dim


def parallelism(real, **kinds):
    extra = {"tp": "split_dim", "ep": "expert_id", "pp": "stage_id"}
    axes = [real.ParallelAxis(kind=k, rank=v[0], size=v[1], **({extra[k]: v[2]} if k in extra else {})) for k, v in kinds.items()]
    return real.TensorParallelism(axes=axes)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("stored, wanted", [(4, 4), (4, 2), (2, 6), (3, 4)])
def test_parallelism_shards_cut_anew_and_put_together(pair, real, dim, stored, wanted):
    writer, reader = pair
    key, data = fresh(), noise(1200, 960)
    for rank, part in enumerate(np.split(data, stored, axis=dim)):
        assert writer.put_tensor_with_parallelism(key, part, parallelism(real, tp=(rank, stored, dim))) == 0
    buffer, address = room_of(304 + data.nbytes)
    for rank, part in enumerate(np.split(data, wanted, axis=dim)):
        target = real.ReadTarget(mode="shard", parallelism=parallelism(real, tp=(rank, wanted, dim)))
        assert ts.same(reader.get_tensor_with_parallelism(key, target), part)
        assert ts.same(reader.get_tensor_with_parallelism_into(key, address, len(buffer), target), part)
    whole = real.ReadTarget(mode="full", parallelism=parallelism(real, tp=(0, wanted, dim)))
    assert ts.same(reader.get_tensor_with_parallelism(key, whole), data)
    assert ts.same(reader.batch_get_tensor_with_parallelism_into([key], [address], [len(buffer)], [whole])[0], data)


def test_writers_parts_put_together(pair, real):
    writer, reader = pair
    key, data = fresh(), noise(600, 400)
    assert writer.batch_put_tensor_with_parallelism([key] * 4, [data] * 4, writer_partitions=[Writer(r, 4, 1) for r in range(4)]) == [0] * 4
    assert ts.same(reader.get_tensor_with_parallelism(key, real.ReadTarget(mode="full")), data)
    shard = real.ReadTarget(mode="shard", parallelism=parallelism(real, tp=(1, 4, 1)))
    assert ts.same(reader.batch_get_tensor_with_parallelism([key], [shard])[0], data[:, 100:200])
    writer.remove(f"{key}__writer_2of4_sd1", force=True)
    assert reader.get_tensor_with_parallelism(key, real.ReadTarget(mode="full")) is None


def test_axes_beside_tp(pair, real):
    writer, reader = pair
    key, data = fresh(), noise(40, 60)
    for rank in range(3):
        assert writer.upsert_tensor_with_parallelism(key, data, parallelism(real, pp=(0, 2, 1), tp=(rank, 3, 1), dp=(1, 2))) == 0
    target = real.ReadTarget(mode="shard", parallelism=parallelism(real, dp=(1, 2), tp=(1, 2, 1), pp=(0, 2, 1)))
    assert ts.same(reader.get_tensor_with_parallelism(key, target), data[:, 30:])
    assert reader.is_exist(f"{key}__dp_1of2__tp_2of3_sd1__pp_0of2_sid1") == 1


def test_safetensors_files(pair, tmp_path):
    writer, reader = pair
    key, data = fresh(), noise(300, 70)
    writer.put_tensor(key, data)
    assert reader.save_tensor_to_safetensor(key, tmp_path / "x") == 0
    assert ts.same(reader.load_tensor_from_safetensor(key + "new", tmp_path / "x"), data)
    assert ts.same(writer.get_tensor(key + "new"), data)
    assert reader.save_tensor_to_safetensor(fresh(), tmp_path / "x") == -1100


def test_get_dlpack_shows_the_stored_elements_on_this_host(pair):
    writer, reader = pair
    key, data = fresh(), noise(1024, 1024)
    writer.put_tensor(key, data)
    before = reader.counters()
    tensor = reader.get_dlpack(key)
    assert ts.same(tensor, data)
    moved = {n: v - before[n] for n, v in reader.counters().items() if n.startswith("bytes_") and v != before[n]}
    if reader.way == "transport":
        assert not tensor.readonly
        return
    assert tensor.readonly and "bytes_copied" not in moved, moved
    assert writer.upsert_tensor(key, -data) == 0 and writer.remove(key, force=True) == 0
    assert ts.same(tensor, data), "what is shown does not change"


def test_a_shown_tensor_outlives_its_store(real, master):
    writer, reader = new_store(real, master), new_store(real, master, segment=0)
    data = noise(500, 500)
    key = fresh()
    assert writer.put_tensor(key, data) == 0
    shown = [np.asarray(reader.get_dlpack(key)), np.asarray(writer.get_dlpack(key))]
    held = reader.get_dlpack(key).__dlpack__(max_version=(1, 0))
    reader.close(), writer.close()
    del reader, writer
    gc.collect()
    assert all((view == data).all() for view in shown)
    del held, shown
    gc.collect()


def test_a_tensor_larger_than_the_local_buffer_is_read_all_the_same(real, master):
    writer, reader = new_store(real, master), new_store(real, master, segment=0, buffer=MIB)
    key, data = fresh(), noise(1024, 1024)
    assert writer.put_tensor(key, data) == 0 and reader.put_tensor(key + "r", data) == 0
    assert ts.same(reader.get_tensor(key), data) and ts.same(reader.get_dlpack(key + "r"), data)
    reader.close(), writer.close()


def test_reads_see_the_old_or_the_new_tensor_while_it_is_replaced(pair, real):
    writer, reader = pair
    key = fresh()
    versions = [np.full((200 + 10 * i, 333), i, np.float32) for i in range(6)]
    writer.put_tensor(key, versions[0])
    for rank, part in enumerate(np.split(versions[0], 2, axis=0)):
        writer.put_tensor_with_parallelism(key, part, parallelism(real, tp=(rank, 2, 0)))
    stop, failures = threading.Event(), []

    def replace():
        for i in itertools.cycle(range(6)):
            if stop.is_set():
                return
            if writer.upsert_tensor(key, versions[i]) != 0:
                failures.append("upsert")

    def read():
        buffer, address = room_of(304 + 260 * 333 * 4)
        for _ in range(60):
            for tensor in (reader.get_tensor(key), reader.get_dlpack(key), reader.get_tensor_into(key, address, len(buffer))):
                if tensor is None:
                    failures.append("miss")
                    continue
                _, shape, raw = ts.content(tensor)
                i = (shape[0] - 200) // 10
                if shape != versions[i].shape or raw != versions[i].tobytes():
                    failures.append(shape)

    replacer = threading.Thread(target=replace)
    readers = [threading.Thread(target=read) for _ in range(2)]
    replacer.start(), [t.start() for t in readers], [t.join() for t in readers]
    stop.set(), replacer.join()
    assert failures == []


def test_many_threads_put_and_get(pair):
    writer, reader = pair
    failures = []

    def work(seed):
        for i in range(20):
            key, data = fresh(f"t{seed}"), noise(50, i + 1, seed=seed)
            if writer.put_tensor_with_tp(key, data, tp_size=2) != 0 or not ts.same(reader.get_tensor_with_tp(key, 1, 2), data[25:]):
                failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert failures == []
