"""The tensor calls by name: parameters, their order, defaults and keywords, what is missing or too much, and lists that do not fit together."""

import ctypes
import inspect
import struct
import sys

import numpy as np
import pytest
import tensor_support as ts

GIVEN = ...  # a default that makes itself: config=ReplicateConfig()
REQUIRED = inspect.Parameter.empty

TP = {"tp_rank": 0, "tp_size": 1, "split_dim": 0}
ONE = {"key": REQUIRED, "tensor": REQUIRED}
MANY = {"keys": REQUIRED, "tensors_list": REQUIRED}
BASES = {"base_keys": REQUIRED, "tensors_list": REQUIRED}
AT = {"key": REQUIRED, "buffer_ptr": REQUIRED, "size": REQUIRED}
ATS = {"keys": REQUIRED, "buffer_ptrs": REQUIRED, "sizes": REQUIRED}
BASE_ATS = {"base_keys": REQUIRED, "buffer_ptrs": REQUIRED, "sizes": REQUIRED}
CONFIG = {"config": GIVEN}
SPREAD = {"parallelism": None, "config": GIVEN, "writer_partition": None}
SPREADS = {"parallelisms": None, "config": GIVEN, "writer_partitions": None}

SIGNATURES = {
    "put_tensor": ONE, "upsert_tensor": ONE, "pub_tensor": ONE | CONFIG, "upsert_pub_tensor": ONE | CONFIG,
    "batch_put_tensor": MANY, "batch_upsert_tensor": MANY, "batch_pub_tensor": MANY | CONFIG, "batch_upsert_pub_tensor": MANY | CONFIG,
    "put_tensor_from": AT, "upsert_tensor_from": AT, "batch_put_tensor_from": ATS, "batch_upsert_tensor_from": ATS,
    "get_tensor": {"key": REQUIRED, "device": None}, "get_dlpack": {"key": REQUIRED, "device": None}, "batch_get_tensor": {"keys": REQUIRED},
    "get_tensor_into": AT, "batch_get_tensor_into": ATS, "get_tensor_into_cuda": ONE, "batch_get_tensor_into_cuda": MANY,
    "put_tensor_with_tp": ONE | TP, "batch_put_tensor_with_tp": BASES | TP, "pub_tensor_with_tp": ONE | CONFIG | TP, "batch_pub_tensor_with_tp": BASES | CONFIG | TP,
    "get_tensor_with_tp": {"key": REQUIRED} | TP, "batch_get_tensor_with_tp": {"base_keys": REQUIRED, "tp_rank": 0, "tp_size": 1},
    "get_tensor_with_tp_into": AT | TP, "batch_get_tensor_with_tp_into": BASE_ATS | {"tp_rank": 0, "tp_size": 1},
    "put_tensor_with_tp_from": AT | TP, "batch_put_tensor_with_tp_from": BASE_ATS | TP,
    "get_tensor_with_parallelism": {"key": REQUIRED, "target": None}, "get_tensor_with_parallelism_into": AT | {"target": None},
    "batch_get_tensor_with_parallelism": {"keys": REQUIRED, "targets": None}, "batch_get_tensor_with_parallelism_into": ATS | {"targets": None},
    "put_tensor_with_parallelism": ONE | SPREAD, "upsert_tensor_with_parallelism": ONE | SPREAD,
    "batch_put_tensor_with_parallelism": MANY | SPREADS, "batch_upsert_tensor_with_parallelism": MANY | SPREADS,
    "put_tensor_with_parallelism_from": AT | SPREAD, "upsert_tensor_with_parallelism_from": AT | SPREAD,
    "batch_put_tensor_with_parallelism_from": ATS | SPREADS, "batch_upsert_tensor_with_parallelism_from": ATS | SPREADS,
    "save_tensor_to_safetensor": {"key": REQUIRED, "file_name": None}, "load_tensor_from_safetensor": {"key": None, "file_name": GIVEN},
}  # fmt: skip
READS = [name for name in SIGNATURES if "get_" in name]
WRITES = [name for name in SIGNATURES if "put_" in name or "pub_" in name or name.startswith("upsert")]


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def values(store, fake, tmp_path, monkeypatch):
    """Something that fits each parameter; what is stored is under k."""
    monkeypatch.chdir(tmp_path)  # a file without a name has that of the key
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    object_ = ts.header("float32", data.shape) + data.tobytes()
    room = ctypes.create_string_buffer(object_, len(object_))
    store.put_tensor("k", data)
    address = ctypes.addressof(room)
    file = tmp_path / "k.safetensors"
    store.save_tensor_to_safetensor("k", str(file))
    yield {
        "key": "k", "keys": ["k"], "base_keys": ["k"], "tensor": data, "tensors_list": [data], "buffer_ptr": address, "buffer_ptrs": [address],
        "size": len(object_), "sizes": [len(object_)], "config": fake.ReplicateConfig(), "tp_rank": 0, "tp_size": 1, "split_dim": 0, "device": None,
        "target": None, "targets": None, "parallelism": None, "parallelisms": None, "writer_partition": None, "writer_partitions": None, "file_name": str(file),
    }  # fmt: skip
    del room


def fits(name, answer):
    """What the call gives when all is well: a code, a number of bytes, a tensor, or a list of them."""
    if name.startswith("batch_"):
        assert type(answer) is list and len(answer) == 1
        answer = answer[0]
    assert answer is not None and (type(answer) is not int or answer >= 0), answer


def test_all_of_them_are_here(fake):
    here = {name for name in dir(fake.MooncakeDistributedStore) if "tensor" in name or name == "get_dlpack"}
    assert here == set(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_and_defaults_are_those_of_the_reference(fake, name):
    found = dict(inspect.signature(getattr(fake.MooncakeDistributedStore, name)).parameters)
    found.pop("self")
    assert {p: q.default for p, q in found.items()} == SIGNATURES[name] and list(found) == list(SIGNATURES[name])


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_go_by_place_and_by_name(store, values, name):
    call, params = getattr(store, name), SIGNATURES[name]
    required = [p for p, default in params.items() if default is REQUIRED or name.startswith("load")]
    fits(name, call(*(values[p] for p in required)))
    fits(name, call(*(values[p] for p in params)))
    fits(name, call(**{p: values[p] for p in reversed(params)}))
    fits(name, call(values[required[0]], **{p: values[p] for p in list(params)[1:]}))
    for missing in required if not name.startswith("load") else ["file_name"]:
        with pytest.raises(TypeError, match=missing):
            call(**{p: values[p] for p in required if p != missing})
    with pytest.raises(TypeError):
        call(*(values[p] for p in params), None)
    with pytest.raises(TypeError, match="no_such"):
        call(**{p: values[p] for p in required}, no_such=1)
    with pytest.raises(TypeError, match=required[0]):
        call(values[required[0]], **{required[0]: values[required[0]]})


@pytest.mark.parametrize("name", [name for name in SIGNATURES if {"tp_rank", "buffer_ptr", "size", "buffer_ptrs", "sizes"} & set(SIGNATURES[name])])
def test_numbers_are_numbers(store, values, name):
    params = SIGNATURES[name]
    for param in {"tp_rank", "tp_size", "split_dim", "buffer_ptr", "size"} & set(params):
        for wrong in ("1", 1.0, None, [1], 2**70):
            with pytest.raises(TypeError, match=param):
                getattr(store, name)(**{p: values[p] for p, default in params.items() if default is REQUIRED or p == param} | {param: wrong})
    for param in {"buffer_ptrs", "sizes"} & set(params):
        for wrong in ("1", 5, None, ["1"], [1.5], [-1]):
            with pytest.raises(TypeError, match=param):
                getattr(store, name)(**{p: values[p] for p, default in params.items() if default is REQUIRED} | {param: wrong})


@pytest.mark.parametrize("name", [name for name in WRITES if name.startswith("batch_")])
def test_lists_that_do_not_fit_fail_every_key_and_store_nothing(store, values, name):
    params = SIGNATURES[name]
    first, *others = [p for p in params if p in ("keys", "base_keys", "tensors_list", "buffer_ptrs", "sizes", "parallelisms", "writer_partitions")]
    for short in others:
        arguments = {p: values[p] for p, default in params.items() if default is REQUIRED}
        arguments |= {p: values[p] * 3 for p in arguments if p != first}
        arguments |= {first: ["x", "y", "z"], short: (values[short] or [None]) * 2}
        assert getattr(store, name)(**arguments) == [-600] * 3, short
        assert store.batch_is_exist(["x", "y", "z"]) == [0, 0, 0]
    assert getattr(store, name)(**{p: [] for p, default in params.items() if default is REQUIRED}) == []


def test_wrong_items_fail_their_own_key_alone(store, values):
    data, other = values["tensor"], values["tensor"] + 1
    assert store.batch_put_tensor(["a", "b", "c"], [data, b"no tensor", other]) == [0, -600, 0]
    assert store.batch_put_tensor_from(["d", "e"], [values["buffer_ptr"], 0], [values["size"]] * 2) == [0, -600]
    assert store.batch_put_tensor_with_tp(["f", "g"], [data, data[:3]], tp_size=2) == [0, -600]
    assert store.batch_is_exist(["a", "b", "c", "d", "e", "f_tp_1", "g_tp_0"]) == [1, 0, 1, 1, 0, 1, 0]
    got = store.batch_get_tensor(["a", "b", "c"])
    assert ts.same(got[0], data) and got[1] is None and ts.same(got[2], other)


def test_a_single_tensor_of_the_original_is_read_and_the_other_way_round(store):
    """Byte by byte, from the table of the object: no helper of ours."""
    data = np.arange(6, dtype="<f4").reshape(2, 3)
    header = bytearray(304)
    header[0:24] = struct.pack("<IHHiiII", 0x4D4F4F4E, 1, 304, 0, 2, 0, 0)
    header[24:40] = struct.pack("<QQ", 304, 24)
    header[40:104] = struct.pack("<8q", 2, 3, -1, -1, -1, -1, -1, -1)
    header[104:168] = struct.pack("<8q", 2, 3, -1, -1, -1, -1, -1, -1)
    store.put("theirs", bytes(header) + data.tobytes())
    assert ts.same(store.get_tensor("theirs"), data)
    store.put_tensor("ours", data)
    assert store.get("ours") == bytes(header) + data.tobytes()
    for at, wrong in ((0, b"\0"), (4, b"\2"), (6, b"\0"), (8, b"\x0f"), (12, b"\x09"), (24, b"\0"), (32, b"\x17"), (47, b"\x80"), (56, b"\0"), (104, b"\3"), (168, b"\5")):
        damaged = bytearray(header)
        damaged[at : at + len(wrong)] = wrong
        store.upsert("theirs", bytes(damaged) + data.tobytes())
        assert store.get_tensor("theirs") is None, at
    store.upsert("theirs", bytes(header) + data.tobytes() + b"\0")
    assert store.get_tensor("theirs") is None
    store.upsert("theirs", bytes(header)[:303])
    assert store.get_tensor("theirs") is None
