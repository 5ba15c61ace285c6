"""Shards: the keys and bytes that each kind of parallelism stores, and every way to read them."""

import ctypes
import gc
import itertools
import sys
import weakref

import numpy as np
import pytest
import tensor_support as ts

DP, TP, EP, PP = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


class Writer:
    def __init__(self, rank, size, split_dim=0):
        self.rank, self.size, self.split_dim = rank, size, split_dim


@pytest.fixture
def par(fake):
    def make(**kinds):
        axes = []
        for kind, (rank, size, *more) in kinds.items():
            extra = {"tp": "split_dim", "ep": "expert_id", "pp": "stage_id"}.get(kind)
            axes.append(fake.ParallelAxis(kind=kind, rank=rank, size=size, **({extra: more[0]} if extra else {})))
        return fake.TensorParallelism(axes=axes)

    return make


@pytest.fixture
def target(fake):
    return lambda mode, parallelism=None: fake.ReadTarget(mode=mode, parallelism=parallelism)


def data_of(*shape):
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


def part(data, rank, size, dim):
    return np.split(data, size, axis=dim)[rank]


class Room:
    def __init__(self, size=100_000):
        self.buffer = ctypes.create_string_buffer(size)
        self.address, self.size = ctypes.addressof(self.buffer), size

    def put(self, value):
        ctypes.memmove(self.address, value, len(value))
        return self.address, len(value)


# ---- TP alone ----


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 4])
def test_all_shards_of_a_group_are_stored_with_their_headers(store, dim, size):
    data = data_of(8, 4, 12)
    assert store.put_tensor_with_tp("k", data, tp_rank=3, tp_size=size, split_dim=dim) == 0
    assert store.is_exist("k") == 0 and store.is_exist(f"k_tp_{size}") == 0
    for rank in range(size):
        shard = np.ascontiguousarray(part(data, rank, size, dim))
        axis = (TP, 0, rank, size, dim, 0, shard.shape[dim])
        assert store.get(f"k_tp_{rank}") == ts.header("int32", data.shape, shard.shape, [axis]) + shard.tobytes()
        assert ts.same(store.get_tensor_with_tp("k", rank, size, dim), shard)
        assert ts.same(store.batch_get_tensor_with_tp(["k", "x"], rank, size)[0], shard)
        room = Room()
        assert ts.same(store.get_tensor_with_tp_into("k", room.address, room.size, rank, size, dim), shard)
        assert ts.same(store.batch_get_tensor_with_tp_into(["k"], [room.address], [room.size], rank, size)[0], shard)
        assert store.get_tensor_with_tp("k", rank, size + 1) is None, "of another number of ranks"
    assert store.get_tensor_with_tp("k", size, size) is None


def test_every_way_to_store_a_group_stores_the_same(store, fake):
    data = data_of(6, 4)
    room = Room()
    whole = ts.header("int32", data.shape) + data.tobytes()
    calls = {
        "a": lambda k: store.put_tensor_with_tp(k, data, 0, 3, 0),
        "b": lambda k: store.batch_put_tensor_with_tp([k], [data], tp_size=3)[0],
        "c": lambda k: store.pub_tensor_with_tp(k, data, fake.ReplicateConfig(), tp_size=3),
        "d": lambda k: store.batch_pub_tensor_with_tp([k], [data], fake.ReplicateConfig(), 0, 3)[0],
        "e": lambda k: store.put_tensor_with_tp_from(k, *room.put(whole), 1, 3),
        "f": lambda k: store.batch_put_tensor_with_tp_from([k], [room.put(whole)[0]], [len(whole)], tp_size=3)[0],
    }
    for key, call in calls.items():
        assert call(key) == 0
        assert [store.get(f"{key}_tp_{r}") for r in range(3)] == [store.get(f"a_tp_{r}") for r in range(3)]


def test_a_group_of_one_is_the_tensor_itself(store):
    data = data_of(3, 2)
    assert store.put_tensor_with_tp("k", data) == 0 == store.put_tensor_with_tp("k", data, 5, 1, 7)
    assert store.get("k") == ts.header("int32", (3, 2)) + data.tobytes() and store.is_exist("k_tp_0") == 0
    assert ts.same(store.get_tensor_with_tp("k"), data) and ts.same(store.batch_get_tensor_with_tp(["k"])[0], data)


@pytest.mark.parametrize("size, dim", [(4, 0), (2, 2), (2, -1), (0, 0), (-1, 0), (3, 1), (2**31 - 1, 0), (70000, 0)])
def test_dimensions_that_are_not_divisible_are_refused(store, size, dim):
    data = data_of(6, 4)
    assert store.put_tensor_with_tp("k", data, 0, size, dim) == -600
    assert store.batch_put_tensor_with_tp(["k", "l"], [data, data_of(24, 24)], 0, size, dim)[0] == -600
    room = Room()
    assert store.put_tensor_with_tp_from("k", *room.put(ts.header("int32", data.shape) + data.tobytes()), 0, size, dim) == -600
    assert store.is_exist("k") == 0 and store.is_exist("k_tp_0") == 0
    assert store.put_tensor_with_tp("k", np.zeros((0, 2)), 0, 2**31 - 1) == -600


def test_a_shard_is_not_split_again(store):
    store.put_tensor_with_tp("k", data_of(8, 4), tp_size=2)
    room = Room()
    shard = room.put(store.get("k_tp_1"))
    assert store.put_tensor_with_tp_from("again", *shard, 0, 2) == -600
    assert store.put_tensor_with_parallelism_from("again", *shard, writer_partition=Writer(0, 2)) == -600
    assert store.put_tensor_from("copy", *shard) == 0 and store.get("copy") == store.get("k_tp_1")


def test_shards_of_many_small_runs_are_right(store):
    data = data_of(3000, 4)
    assert store.put_tensor_with_tp("k", data, tp_size=4, split_dim=1) == 0
    for rank in range(4):
        assert ts.same(store.get_tensor_with_tp("k", rank, 4), data[:, rank : rank + 1])


def test_empty_tensors_have_empty_shards(store, par, target):
    data = np.zeros((4, 0), np.int32)
    assert store.put_tensor_with_tp("k", data, tp_size=2) == 0
    assert ts.same(store.get_tensor_with_tp("k", 1, 2), data[:2])
    assert ts.same(store.get_tensor_with_parallelism("k", target("full", par(tp=(0, 2, 0)))), data)
    assert store.put_tensor_with_tp("z", np.zeros((0, 3)), tp_size=2) == 0
    assert store.get_tensor_with_tp("z", 0, 2).shape == (0, 3)


# ---- parallelism: keys and bytes ----


def test_one_tp_axis_stores_the_shard_that_it_is_given(store, par):
    data = data_of(4, 6)
    for rank in range(2):
        shard = np.ascontiguousarray(part(data, rank, 2, 1))
        assert store.put_tensor_with_parallelism("k", shard, par(tp=(rank, 2, 1))) == 0
        assert store.get(f"k_tp_{rank}") == ts.header("int32", (4, 6), (4, 3), [(TP, 0, rank, 2, 1, 0, 3)]) + shard.tobytes()
    assert store.get("k__parallelism_manifest") == ts.manifest("int32", (4, 6), 1, 2)
    assert store.is_exist("k") == 0


def test_tp_among_other_axes_stores_its_part_of_the_whole(store, par):
    data = data_of(4, 6)
    axes = par(pp=(1, 2, 9), tp=(2, 3, 1), dp=(0, 2), ep=(3, 4, 7))
    assert store.put_tensor_with_parallelism("k", data, axes) == 0
    key = "k__dp_0of2__tp_2of3_sd1__ep_3of4_eid7__pp_1of2_sid9"
    shard = np.ascontiguousarray(part(data, 2, 3, 1))
    stored_axes = [(PP, 0, 1, 2, -1, 9, 0), (TP, 1, 2, 3, 1, 0, 2), (DP, 2, 0, 2, -1, 0, 0), (EP, 3, 3, 4, -1, 7, 0)]
    assert store.get(key) == ts.header("int32", (4, 6), (4, 2), stored_axes) + shard.tobytes()
    assert store.get("k__parallelism_manifest") == ts.manifest("int32", (4, 6), 1, 3)


@pytest.mark.parametrize(
    "kinds, suffix, axis",
    [
        ({"dp": (1, 2)}, "__dp_1of2", [(DP, 0, 1, 2, -1, 0, 0)]),
        ({"ep": (0, 4, 3)}, "__ep_0of4_eid3", [(EP, 0, 0, 4, -1, 3, 0)]),
        ({"pp": (0, 1, 0), "dp": (0, 1)}, "__dp_0of1__pp_0of1_sid0", [(PP, 0, 0, 1, -1, 0, 0), (DP, 1, 0, 1, -1, 0, 0)]),
    ],
)
def test_without_tp_the_tensor_is_stored_as_it_is(store, par, target, kinds, suffix, axis):
    data = data_of(3, 5)
    axes = par(**kinds)
    assert store.put_tensor_with_parallelism("k", data, axes) == 0
    assert store.get("k" + suffix) == ts.header("int32", (3, 5), axes=axis) + data.tobytes()
    assert store.is_exist("k__parallelism_manifest") == 0
    for mode in ("shard", "as_stored"):
        assert ts.same(store.get_tensor_with_parallelism("k", target(mode, axes)), data)
    assert store.get_tensor_with_parallelism("k", target("full", axes)) is None, "there is nothing to put together"


def test_a_writer_stores_its_part_and_a_manifest(store):
    data = data_of(4, 6)
    for rank in (1, 0):
        assert store.put_tensor_with_parallelism("k", data, writer_partition=Writer(rank, 2, 1)) == 0
        shard = np.ascontiguousarray(part(data, rank, 2, 1))
        assert store.get(f"k__writer_{rank}of2_sd1") == ts.header("int32", (4, 6), (4, 3), [(TP, 0, rank, 2, 1, 0, 3)]) + shard.tobytes()
    assert store.get("k__writer_manifest") == ts.manifest("int32", (4, 6), 1, 2)


def test_nothing_of_it_is_a_plain_put(store):
    data = data_of(2, 2)
    assert store.put_tensor_with_parallelism("k", data) == 0 == store.put_tensor_with_parallelism("l", data, None, writer_partition=None)
    assert store.batch_put_tensor_with_parallelism(["m", "n"], [data, data]) == [0, 0]
    for key in "klmn":
        assert store.get(key) == ts.header("int32", (2, 2)) + data.tobytes()
        assert ts.same(store.get_tensor_with_parallelism(key), data)


def test_addresses_store_what_objects_do(store, par):
    data = data_of(4, 6)
    whole, room = ts.header("int32", (4, 6)) + data.tobytes(), Room()
    for i, (axes, writer) in enumerate([(par(tp=(1, 2, 0)), None), (par(dp=(0, 2), tp=(1, 3, 1)), None), (par(dp=(0, 2)), None), (None, Writer(1, 2, 1)), (None, None)]):
        assert store.put_tensor_with_parallelism(f"a{i}", data, axes, writer_partition=writer) == 0
        assert store.put_tensor_with_parallelism_from(f"b{i}", *room.put(whole), axes, writer_partition=writer) == 0
        assert store.batch_put_tensor_with_parallelism([f"c{i}"], [data], [axes] if axes else None, writer_partitions=[writer] if writer else None) == [0]
        assert store.batch_put_tensor_with_parallelism_from([f"d{i}"], [room.put(whole)[0]], [len(whole)], [axes] if axes else None, writer_partitions=[writer] if writer else None) == [0]
        names = ["", "_tp_1", "__parallelism_manifest", "__writer_manifest", "__writer_1of2_sd1", "__dp_0of2", "__dp_0of2__tp_1of3_sd1"]
        stored = [[store.get(f"{letter}{i}{name}") for name in names] for letter in "abcd"]
        assert stored[0] == stored[1] == stored[2] == stored[3] and any(stored[0])


def test_upserts_replace_shards_and_manifests(store, par, target):
    for data in (data_of(4, 6), -data_of(8, 6)):
        for rank in range(2):
            assert store.upsert_tensor_with_parallelism("k", part(data, rank, 2, 0), par(tp=(rank, 2, 0))) == 0
            assert store.batch_upsert_tensor_with_parallelism(["w"], [data], writer_partitions=[Writer(rank, 2)]) == [0]
        assert ts.same(store.get_tensor_with_parallelism("k", target("full", par(tp=(0, 2, 0)))), data)
        assert ts.same(store.get_tensor_with_parallelism("w", target("full")), data)
        room = Room()
        assert store.upsert_tensor_with_parallelism_from("f", *room.put(ts.header("int32", data.shape) + data.tobytes())) == 0
        assert store.batch_upsert_tensor_with_parallelism_from(["g"], [room.address], [304 + data.nbytes]) == [0]
        assert ts.same(store.get_tensor("f"), data) and ts.same(store.get_tensor("g"), data)


def test_a_put_of_what_is_there_changes_nothing(store, par, target):
    old, new = data_of(4), -data_of(4)
    for data in (old, new):
        for rank in range(2):
            assert store.put_tensor_with_parallelism("k", part(data, rank, 2, 0), par(tp=(rank, 2, 0))) == 0
    assert ts.same(store.get_tensor_with_parallelism("k", target("full", par(tp=(0, 2, 0)))), old)


def test_a_shard_that_cannot_be_stored_has_no_manifest(store, par):
    assert store.put_tensor_with_parallelism("!code:-200", np.arange(4), par(tp=(0, 2, 0))) == -200
    assert store.is_exist("!code:-200__parallelism_manifest") == 0
    assert store.put_tensor_with_tp("k" * 8192, np.arange(4), tp_size=2) == -600, "the key with its ending is too long"
    assert store.put_tensor_with_parallelism("k" * 8190, np.arange(4), par(dp=(0, 1))) == -600


# ---- what makes no sense ----


def axis(fake, **attributes):
    made = fake.ParallelAxis()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "axes",
    [
        [], [{"kind": "tp"}], [{"kind": "tp", "split_dim": -1}], [{"kind": "tp", "split_dim": 2}], [{"kind": "xx"}], [{"kind": ""}], [{"kind": "dp", "split_dim": 0}],
        [{"kind": "ep"}], [{"kind": "ep", "expert_id": 1, "split_dim": 0}], [{"kind": "pp"}], [{"kind": "dp", "rank": 1}], [{"kind": "dp", "rank": -1}],
        [{"kind": "dp", "size": 0}], [{"kind": "dp"}, {"kind": "DP"}], [{"kind": "dp"}] * 5, [{"kind": "tp", "split_dim": 0, "size": 3}, {"kind": "dp"}],
    ],
)  # fmt: skip
def test_axes_that_make_no_sense_are_refused(fake, store, target, axes):
    wrong = fake.TensorParallelism(axes=[axis(fake, **a) for a in axes])
    data = data_of(4, 6)
    assert store.put_tensor_with_parallelism("k", data, wrong) == -600 == store.upsert_tensor_with_parallelism("k", data, wrong)
    assert store.batch_put_tensor_with_parallelism(["k", "l"], [data, data], [wrong, None]) == [-600, 0]
    room = Room()
    assert store.put_tensor_with_parallelism_from("k", *room.put(ts.header("int32", data.shape) + data.tobytes()), wrong) == -600
    for mode in ("shard", "full", "as_stored"):
        assert store.get_tensor_with_parallelism("k", target(mode, wrong)) is None
        assert store.get_tensor_with_parallelism_into("k", room.address, room.size, target(mode, wrong)) is None
    assert store.get_batch(["k", "k_tp_0"]) == [b"", b""]


def test_a_shard_of_nothing_is_none(store, target):
    store.put_tensor("k", data_of(2))
    assert store.get_tensor_with_parallelism("k", target("shard")) is None


@pytest.mark.parametrize("writer", [object(), Writer(2, 2), Writer(-1, 2), Writer(0, 0), Writer(0, 2, -1), Writer(0, 2, 2), Writer(0, 3, 0), Writer(0, 100000, 0)])
def test_writers_that_make_no_sense_are_refused(store, writer):
    assert store.put_tensor_with_parallelism("k", data_of(4, 6), writer_partition=writer) == -600
    assert store.is_exist("k__writer_manifest") == 0


def test_a_parallelism_and_a_writer_are_one_too_many(store, par):
    data = data_of(4)
    assert store.put_tensor_with_parallelism("k", data, par(dp=(0, 1)), writer_partition=Writer(0, 2)) == -600
    assert store.batch_put_tensor_with_parallelism(["k"], [data], [par(dp=(0, 1))], writer_partitions=[Writer(0, 2)]) == [-600]


def test_attributes_of_wrong_types_are_type_errors(store, fake):
    axes = fake.ParallelAxis()
    for name, value in (("kind", 5), ("rank", "x"), ("rank", None), ("size", 1.5), ("split_dim", 2**31), ("expert_id", "x"), ("stage_id", [])):
        with pytest.raises(TypeError):
            setattr(axes, name, value)
        with pytest.raises(TypeError):
            fake.ParallelAxis(**{name: value})
    for make in (lambda: fake.ParallelAxis(nothing=1), lambda: fake.ParallelAxis("tp"), lambda: fake.TensorParallelism(axes=[1]), lambda: fake.TensorParallelism(axes=5)):
        with pytest.raises(TypeError):
            make()
    for wrong in (5, None, ["shard"]):
        with pytest.raises(TypeError):
            fake.ReadTarget(mode=wrong)
    with pytest.raises(RuntimeError, match="as_stored"):
        fake.ReadTarget(mode="half")
    with pytest.raises(TypeError):
        fake.ReadTarget(parallelism=5)
    with pytest.raises(AttributeError):
        del axes.kind

    class Wrong:
        axes = [type("Axis", (), {"kind": "tp", "rank": "x", "size": 1, "split_dim": 0})]

    with pytest.raises(TypeError):
        store.put_tensor_with_parallelism("k", data_of(2), Wrong)


def test_the_types_hold_their_values(fake):
    axes = fake.ParallelAxis()
    assert (axes.kind, axes.rank, axes.size, axes.split_dim, axes.expert_id, axes.stage_id) == ("", 0, 1, None, None, None)
    axes.kind, axes.rank, axes.size, axes.split_dim = "TP", np.int64(1), True + 1, 0
    axes.split_dim = None
    assert repr(axes) == "ParallelAxis(kind='TP', rank=1, size=2, split_dim=None, expert_id=None, stage_id=None)"
    parallelism = fake.TensorParallelism()
    assert parallelism.axes == []
    parallelism.axes = (axes,)
    parallelism.axes.append(axes)
    assert parallelism.axes == [axes, axes]
    target = fake.ReadTarget()
    assert (target.mode, target.parallelism) == ("as_stored", None)
    target.mode, target.parallelism = "FULL", parallelism
    assert (target.mode, target.parallelism) == ("full", parallelism)
    class Own(fake.ParallelAxis):
        def __init__(self, rank):
            super().__init__(kind="tp", rank=rank, size=2, split_dim=0)

    parallelism.axes = [Own(1)]
    assert parallelism.axes[0].rank == 1
    kept = weakref.ref(value := Writer(0, 1))
    parallelism.axes.extend([target, value])  # a cycle
    del axes, parallelism, target, value
    gc.collect()
    assert kept() is None


def test_any_object_with_the_attributes_will_do(store, par, target):
    class Axis:
        kind, rank, size, split_dim = "tp", 0, 2, 0

    class Axes:
        axes = (Axis,)

    class Target:
        mode, parallelism = "Full", Axes

    assert store.put_tensor_with_parallelism("k", data_of(2), Axes) == 0
    assert store.put_tensor_with_parallelism("k", data_of(2), par(tp=(1, 2, 0))) == 0
    assert ts.content(store.get_tensor_with_parallelism("k", Target))[1] == (4,)
    for wrong in (5, object(), type("T", (), {"mode": "x", "parallelism": None}), type("T", (), {"mode": "full"})):
        assert store.get_tensor_with_parallelism("k", wrong) is None


# ---- reads ----


def into(store, key, target):
    """The same read by both calls; they must agree, and leave header and elements at the address."""
    room = Room()
    tensor = store.get_tensor_with_parallelism(key, target)
    there = store.get_tensor_with_parallelism_into(key, room.address, room.size, target)
    assert (tensor is None) == (there is None)
    if tensor is not None:
        assert ts.content(tensor) == ts.content(there)
        size = 304 + tensor.nbytes
        assert room.buffer.raw[304:size] == bytes(tensor.data)
        assert store.get_tensor_with_parallelism_into(key, room.address, size - 1, target) is None
        again = store.batch_get_tensor_with_parallelism_into([key], [room.address], [size], [target])
        assert ts.content(again[0]) == ts.content(tensor)
        assert ts.content(store.batch_get_tensor_with_parallelism([key], [target])[0]) == ts.content(tensor)
    return tensor


@pytest.mark.parametrize("stored, wanted", list(itertools.product([1, 2, 3, 4, 6, 12], repeat=2)))
@pytest.mark.parametrize("dim", [0, 1])
def test_shards_are_cut_anew(store, par, target, stored, wanted, dim):
    data = data_of(12, 12)
    for rank in range(stored):
        assert store.put_tensor_with_parallelism("k", part(data, rank, stored, dim), par(tp=(rank, stored, dim))) == 0
    for rank in range(wanted):
        shard = into(store, "k", target("shard", par(tp=(rank, wanted, dim))))
        assert ts.same(shard, part(data, rank, wanted, dim))
    assert ts.same(into(store, "k", target("full", par(tp=(0, wanted, dim)))), data)


@pytest.mark.parametrize("stored, wanted", [(2, 4), (4, 2), (3, 2)])
def test_shards_with_other_axes_are_cut_anew_along_tp(store, par, target, stored, wanted):
    data = data_of(6, 12)
    for rank in range(stored):
        assert store.put_tensor_with_parallelism("k", data, par(ep=(1, 2, 5), tp=(rank, stored, 1), dp=(0, 2))) == 0
    for rank in range(wanted):
        assert ts.same(into(store, "k", target("shard", par(dp=(0, 2), tp=(rank, wanted, 1), ep=(1, 2, 5)))), part(data, rank, wanted, 1))
    assert ts.same(into(store, "k", target("full", par(dp=(0, 2), tp=(0, wanted, 1), ep=(1, 2, 5)))), data)
    for other in (par(dp=(1, 2), tp=(0, wanted, 1), ep=(1, 2, 5)), par(dp=(0, 2), tp=(0, wanted, 0), ep=(1, 2, 5)), par(dp=(0, 2), tp=(0, wanted, 1), ep=(1, 2, 4)), par(tp=(0, wanted, 1))):
        assert into(store, "k", target("shard", other)) is None and into(store, "k", target("full", other)) is None


def test_a_writers_part_serves_as_a_shard_and_all_as_the_whole(store, par, target):
    data = data_of(12, 4)
    for rank in range(4):
        assert store.put_tensor_with_parallelism("k", data, writer_partition=Writer(rank, 4)) == 0
    assert ts.same(into(store, "k", target("full")), data)
    assert ts.same(into(store, "k", target("full", par(tp=(0, 2, 0)))), data)
    for size, rank in ((4, 3), (2, 1), (6, 5)):
        assert ts.same(into(store, "k", target("shard", par(tp=(rank, size, 0)))), part(data, rank, size, 0))
    assert ts.same(into(store, "k", target("as_stored", par(tp=(2, 4, 0)))), part(data, 2, 4, 0))
    assert into(store, "k", target("as_stored", par(tp=(0, 2, 0)))) is None, "not stored so"


def test_a_group_that_was_stored_without_a_manifest_is_read_all_the_same(store, par, target):
    data = data_of(12, 4)
    assert store.put_tensor_with_tp("k", data, tp_size=3) == 0 and store.is_exist("k__parallelism_manifest") == 0
    assert ts.same(into(store, "k", target("full", par(tp=(0, 2, 0)))), data)
    assert ts.same(into(store, "k", target("shard", par(tp=(1, 4, 0)))), part(data, 1, 4, 0))
    assert ts.same(into(store, "k", target("as_stored", par(tp=(1, 3, 0)))), part(data, 1, 3, 0))
    assert store.put_tensor("one", data) == 0
    assert ts.same(into(store, "one", target("shard", par(tp=(0, 1, 0)))), data)


def test_the_plain_value_is_what_is_read_without_a_target(store, target):
    data = data_of(5)
    store.put_tensor("k", data)
    for plain in (None, target("as_stored"), target("full")):
        assert ts.same(into(store, "k", plain), data)
        assert into(store, "nothing", plain) is None


def test_missing_and_foreign_shards_make_no_tensor(store, par, target):
    data = data_of(12, 4)
    full, half = target("full", par(tp=(0, 3, 0))), target("shard", par(tp=(1, 2, 0)))
    for rank in range(3):
        store.put_tensor_with_parallelism("k", part(data, rank, 3, 0), par(tp=(rank, 3, 0)))
    good = store.get("k_tp_1")
    shape = ts.header("int32", (12, 4), (4, 4), [(TP, 0, 1, 3, 0, 0, 4)])
    wrong = [
        b"x" * 400, good[:-1], ts.header("int32", (4, 4)) + good[304:], ts.header("float32", (12, 4), (4, 4), [(TP, 0, 1, 3, 0, 0, 4)]) + good[304:],
        ts.header("int32", (12, 4), (4, 4), [(TP, 0, 0, 3, 0, 0, 4)]) + good[304:], ts.header("int32", (12, 4), (4, 4), [(TP, 0, 1, 4, 0, 0, 4)]) + good[304:],
        ts.header("int32", (12, 4), (4, 4), [(TP, 0, 1, 3, 1, 0, 4)]) + good[304:], ts.header("int32", (9, 4), (4, 4), [(TP, 0, 1, 3, 0, 0, 4)]) + good[304:],
        ts.header("int32", (12, 4), (5, 4), [(TP, 0, 1, 3, 0, 0, 5)]) + bytes(80),
    ]  # fmt: skip
    assert ts.same(into(store, "k", full), data) and good[:304] == shape
    for value in wrong:
        store.upsert("k_tp_1", value)
        assert into(store, "k", full) is None and into(store, "k", half) is None
    store.remove("k_tp_1")
    assert into(store, "k", full) is None
    store.put("k_tp_1", good)
    assert ts.same(into(store, "k", full), data)


@pytest.mark.parametrize("at, value", [(0, 0), (4, 2), (6, 95), (8, 15), (12, 0), (12, 9), (16, 2), (16, 255), (20, 0), (20, 5), (39, 128), (23, 127)])
def test_damaged_manifests_are_not_believed(store, par, target, at, value):
    data = data_of(12, 4)
    for rank in range(3):
        store.put_tensor_with_parallelism("k", data, writer_partition=Writer(rank, 3))
    damaged = bytearray(store.get("k__writer_manifest"))
    damaged[at] = value
    store.upsert("k__writer_manifest", bytes(damaged))
    assert into(store, "k", target("full")) is None
    store.put_tensor("k", data)
    assert ts.same(into(store, "k", target("full")), data), "then the plain value is the answer"


def test_a_read_of_many_small_runs_is_right(store, par, target):
    data = data_of(3000, 6)
    for rank in range(3):
        assert store.put_tensor_with_parallelism("k", part(data, rank, 3, 1), par(tp=(rank, 3, 1))) == 0
    room = Room(304 + data.nbytes)
    assert ts.same(store.get_tensor_with_parallelism("k", target("full", par(tp=(0, 3, 1)))), data)
    assert ts.same(store.get_tensor_with_parallelism_into("k", room.address, room.size, target("shard", par(tp=(1, 2, 1)))), part(data, 1, 2, 1))


@pytest.mark.parametrize("name", ts.DTYPES)
def test_shards_of_every_element_type(store, par, target, name):
    bits = ts.array_of(ts.BITS.get(name, name), (4, 6))
    room = Room()
    whole = ts.header(name, (4, 6)) + ts.bytes_of(bits)
    assert store.put_tensor_with_tp_from("k", *room.put(whole), 0, 3, 1) == 0
    assert ts.content(store.get_tensor_with_parallelism("k", target("full", par(tp=(0, 3, 1))))) == (name, (4, 6), ts.bytes_of(bits))
    assert ts.content(store.get_tensor_with_tp("k", 2, 3)) == (name, (4, 2), ts.bytes_of(part(bits, 2, 3, 1)))
