"""Tensors over the in-memory library: what is taken, what is given back, what is refused, for every kind of object."""

import array
import ctypes
import gc
import sys

import numpy as np
import pytest
import tensor_support as ts
from python_support import ROOT, SETUP, run_python
from tensor_support import DTYPES, fake_torch, no_torch  # noqa: F401

SHAPES = [(), (1,), (7,), (2, 3), (3, 1, 4), (2,) * 8, (0,), (3, 0, 2), (1,) * 8]


@pytest.fixture(autouse=True)
def without_torch(request):
    if "fake_torch" not in request.fixturenames:
        request.getfixturevalue("no_torch")


def put(store, key, tensor, expected=0):
    assert store.put_tensor(key, tensor) == expected
    return store.get_dlpack(key)


@pytest.mark.parametrize("name", [n for n in DTYPES if n not in ts.BITS])
def test_every_element_type_of_numpy_comes_back(store, name):
    for shape in SHAPES:
        data = ts.array_of(name, shape)
        key = f"{name}{shape}"
        assert ts.same(put(store, key, data), data)
        assert store.get(key) == ts.header(name, shape) + ts.bytes_of(data)
        assert ts.same(store.get_tensor(key), data)
        if ts.VERSIONED_NUMPY or name != "bool":
            back = np.from_dlpack(store.get_tensor(key))
            assert back.dtype == data.dtype and back.shape == data.shape and (back == data).all()
        assert (np.asarray(store.get_dlpack(key)) == data).all()


@pytest.mark.parametrize("name", list(ts.BITS))
def test_element_types_that_numpy_has_not_come_back(store, fake_torch, name):
    if ts.ml_dtypes is not None:
        data = ts.array_of(name, (2, 3))
        assert ts.same(put(store, "ml", data), data, name)
        assert ts.same(put(store, "ml.T", data.T), np.ascontiguousarray(data.T), name)
    bits = ts.bytes_of(ts.array_of(ts.BITS[name], (2, 3)))
    tensor = fake_torch.Tensor(bytearray(bits), getattr(fake_torch, name), (2, 3))
    assert ts.content(put(store, "torch", tensor)) == (name, (2, 3), bits)
    assert ts.content(store.get_tensor("torch")) == (name, (2, 3), bits)
    assert isinstance(store.get_tensor("torch"), fake_torch.Tensor)
    with pytest.raises(BufferError, match="no format"):
        memoryview(store.get_dlpack("torch"))
    assert bytes(store.get_dlpack("torch").data) == bits


@pytest.mark.parametrize("name", DTYPES)
def test_every_element_type_of_torch_comes_back(store, fake_torch, name):
    for shape in SHAPES:
        bits = ts.bytes_of(ts.array_of(ts.BITS.get(name, name), shape))
        tensor = fake_torch.Tensor(bytearray(bits), getattr(fake_torch, name), shape)
        key = f"{shape}"
        assert store.upsert_tensor(key, tensor) == 0
        assert store.get(key) == ts.header(name, shape) + bits
        back = store.get_tensor(key)
        assert isinstance(back, fake_torch.Tensor) and ts.content(back) == (name, shape, bits)


def test_elements_in_another_order_are_stored_in_c_order(store, fake_torch):
    data = np.arange(120, dtype=np.int32).reshape(2, 3, 4, 5)
    views = [data.T, data[:, ::2], data[::-1, :, ::-1], np.asfortranarray(data), data[1], data[..., 2:3], np.broadcast_to(data[0, 0], (3, 4, 5))]
    for i, view in enumerate(views):
        assert ts.same(put(store, str(i), view), np.ascontiguousarray(view))
    tensor = fake_torch.Tensor(bytearray(ts.bytes_of(data[0, 0])), fake_torch.int32, (4, 5))
    assert ts.same(put(store, "t", tensor.t()), np.ascontiguousarray(data[0, 0].T))


def test_a_parameter_and_a_negated_view_are_what_they_say(store, fake_torch):
    data = np.arange(4, dtype=np.float32)
    assert ts.same(put(store, "p", fake_torch.Parameter(bytearray(data.tobytes()), fake_torch.float32, (4,))), data)
    negative = fake_torch.Tensor(bytearray(data.tobytes()), fake_torch.float32, (4,), negative=True)
    assert ts.same(put(store, "n", negative), -data)


def test_buffers_with_a_format_are_tensors(store):
    assert ts.same(put(store, "array", array.array("d", [1.5, 2])), np.array([1.5, 2]))
    grid = (ctypes.c_int16 * 3 * 2)((1, 2, 3), (4, 5, 6))
    assert ts.same(put(store, "ctypes", grid), np.array([[1, 2, 3], [4, 5, 6]], np.int16))
    assert ts.same(put(store, "view", memoryview(b"abc")), np.frombuffer(b"abc", np.uint8))
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert ts.same(put(store, "frozen", frozen), frozen)
    assert ts.same(put(store, "stored", store.get_dlpack("array")), np.array([1.5, 2]))


class Raising:
    def __init__(self, error):
        self.error = error

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **kwargs):
        raise self.error


class Tensor:
    """Has the name, and wrong values."""

    dtype, shape, device, layout = "float32", (4,), None, "torch.strided"

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def contiguous(self):
        return self

    def data_ptr(self):
        return 64


NO_TENSORS = [
    None, 5, 1.5, "tensor", b"bytes", bytearray(b"x"), [1, 2], (1,), {}, object(), int, np.array(["a"]), np.array([1j]), np.array([None]),
    np.zeros(3, ">f4"), np.zeros(2, "datetime64[s]"), np.zeros(2, [("a", "i4")]), np.zeros(2, np.longdouble), np.zeros((1,) * 9), Raising(ValueError("no")),
    Raising(BufferError()), Tensor(), Tensor(data_ptr=lambda: "x"), Tensor(data_ptr=lambda: 0), Tensor(shape=(-1,)), Tensor(shape=5), Tensor(shape=(2**63,)),
    Tensor(dtype="complex64"), Tensor(layout="torch.sparse_coo"), Tensor(contiguous=None), Tensor(shape=(2**40, 2**40)), Tensor(data_ptr=lambda: 2**70),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(NO_TENSORS)))
def test_what_is_no_tensor_is_refused(store, index):
    thing = NO_TENSORS[index]
    assert store.put_tensor("k", thing) == -600
    assert store.is_exist("k") == 0
    assert store.batch_put_tensor(["a", "b", "c"], [np.arange(3), thing, np.arange(4)]) == [0, -600, 0]
    assert store.batch_is_exist(["a", "b", "c"]) == [1, 0, 1]


def test_errors_that_are_no_answer_are_the_callers(store):
    for error in (KeyboardInterrupt, MemoryError):
        with pytest.raises(error):
            store.put_tensor("k", Raising(error()))
        with pytest.raises(error):
            store.batch_put_tensor(["k", "l"], [np.arange(2), Raising(error())])
    assert store.is_exist("k") == 0


def test_objects_that_are_no_tensors_read_as_none(store):
    good = ts.header("int32", (2,)) + bytes(8)
    wrong = [b"x", good[:-1], good + b"x", b"y" + good[1:], good[:304], good[:16] + b"\2" + good[17:], good[:40] + bytes([255] * 8) + good[48:]]
    for value in wrong:
        store.upsert("k", value)
        assert store.get_tensor("k") is None and store.get_dlpack("k") is None and store.batch_get_tensor(["k"]) == [None]
        room = ctypes.create_string_buffer(1000)
        assert store.get_tensor_into("k", ctypes.addressof(room), 1000) is None
    assert store.get_tensor("nothing") is None and store.get_dlpack("nothing") is None


def test_the_memory_of_a_tensor_lives_as_long_as_what_shows_it(store):
    data = np.arange(1000)
    store.put_tensor("view:k", data)
    shown = np.from_dlpack(store.get_dlpack("view:k"))
    again = np.asarray(store.get_dlpack("view:k"))
    raw = store.get_dlpack("view:k").data
    assert store.counters()["handles"] == (3 if ts.VERSIONED_NUMPY else 2)
    store.close()
    assert (shown == data).all() and (again == data).all() and bytes(raw) == data.tobytes()
    del shown, again, raw
    gc.collect()
    assert store.counters()["handles"] == 0


def test_a_view_of_stored_elements_is_read_only(store):
    store.put_tensor("view:k", np.arange(3.0))
    stored = store.get_dlpack("view:k")
    assert stored.readonly and memoryview(stored).readonly and stored.data.readonly and "readonly" in repr(stored)
    assert not np.asarray(stored).flags.writeable
    with pytest.raises(TypeError):
        (ctypes.c_char * 24).from_buffer(stored)
    store.put_tensor("k", np.arange(3.0))
    copied = store.get_dlpack("k")
    assert not copied.readonly
    np.asarray(copied)[0] = 7
    assert store.get_tensor("k").data != copied.data


def test_attributes_of_a_stored_tensor(store, fake):
    tensor = put(store, "k", np.zeros((2, 5), np.uint16))
    assert type(tensor) is fake.StoredTensor
    assert (tensor.shape, tensor.dtype, tensor.ndim, tensor.nbytes) == ((2, 5), "uint16", 2, 20)
    assert repr(tensor) == "<StoredTensor dtype=uint16 shape=(2, 5)>"
    view = memoryview(tensor)
    assert (view.shape, view.strides, view.format, view.itemsize, view.c_contiguous) == ((2, 5), (10, 2), "H", 2, True)
    with pytest.raises(TypeError):
        fake.StoredTensor()
    with pytest.raises(AttributeError):
        tensor.shape = (5, 2)


# ---- torch ----


def test_torch_is_imported_when_a_tensor_is_asked_for_and_not_before(tmp_path):
    (tmp_path / "torch.py").write_text((ROOT / "tests" / "support" / "fake_torch.py").read_text())
    run_python(
        f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from mooncake.store import MooncakeDistributedStore, StoredTensor
store = MooncakeDistributedStore()
assert store.setup(*{SETUP!r}) == 0
assert store.put_tensor("k", np.arange(4)) == 0 and store.batch_put_tensor(["l"], [np.arange(2)]) == [0]
assert type(store.get_dlpack("k")) is StoredTensor and store.get_tensor("nothing") is None
assert "torch" not in sys.modules
tensor = store.get_tensor("k")
import torch
assert isinstance(tensor, torch.Tensor) and tensor.tobytes() == np.arange(4).tobytes()
"""
    )


def test_without_torch_a_tensor_is_a_stored_tensor(store, fake, no_torch):
    store.put_tensor("k", np.arange(3))
    assert type(store.get_tensor("k")) is fake.StoredTensor
    with pytest.raises(RuntimeError, match="no CUDA driver"):
        store.get_tensor("k", device="cuda:0")
    with pytest.raises(RuntimeError, match="no CUDA driver"):
        store.get_dlpack("k", "cuda")


def test_a_broken_torch_is_an_exception_and_a_missing_type_too(store, monkeypatch, fake_torch):
    store.put_tensor("k", np.arange(3, dtype=np.uint16))
    monkeypatch.delattr(fake_torch, "uint16")
    with pytest.raises(RuntimeError, match="uint16"):
        store.get_tensor("k")
    monkeypatch.delattr(fake_torch, "frombuffer")
    store.put_tensor("f", np.arange(3.0))
    with pytest.raises(AttributeError):
        store.get_tensor("f")
    assert store.get_dlpack("k").dtype == "uint16"


@pytest.mark.parametrize("device", ["cuda", "cuda:3", (2, 3)])
def test_a_tensor_on_a_device_is_read_into_its_memory(store, fake_torch, device):
    data = np.arange(1000, dtype=np.float32).reshape(10, 100)
    store.put_tensor("k", data)
    for get in (store.get_tensor, store.get_dlpack):
        before = fake_torch.calls["synchronize"]
        tensor = get("k", device=device)
        assert fake_torch.calls["synchronize"] == before + 1, "its memory may still be in use by what was queued"
        assert ts.same(tensor, data) and str(tensor.device) == ("cuda:3" if device != "cuda" else "cuda")
        assert get("nothing", device) is None
    assert fake_torch.calls["to"] == 0
    store.put_tensor("empty", np.zeros((0, 2)))
    assert store.get_tensor("empty", device=device).shape == (0, 2)


def test_device_memory_that_the_store_does_not_take_is_filled_by_torch(store, fake_torch, monkeypatch):
    data = np.arange(1000, dtype=np.float32)
    store.put_tensor("k", data)
    monkeypatch.setattr(fake_torch.Tensor, "data_ptr", lambda self: 4096 if self.device.type == "cuda" else 0)
    tensor = store.get_tensor("k", device="cuda:1")
    assert ts.same(tensor, data) and str(tensor.device) == "cuda:1" and fake_torch.calls["to"] > 0


def test_a_tensor_on_a_device_is_waited_for_and_stored_or_refused(store, fake_torch, monkeypatch):
    data = np.arange(100, dtype=np.float32)
    tensor = fake_torch.Tensor(bytearray(data.tobytes()), fake_torch.float32, (100,), on="cuda:0")
    before = fake_torch.calls["synchronize"]
    assert ts.same(put(store, "k", tensor), data)
    assert fake_torch.calls["synchronize"] == before + 1
    assert store.put_tensor_with_tp("tp", tensor, tp_size=4) == 0
    assert ts.same(store.get_tensor_with_tp("tp", 3, 4), data[75:])
    monkeypatch.setattr(fake_torch.Tensor, "data_ptr", lambda self: 4096)
    assert store.put_tensor("no", tensor) == -600
    assert store.put_tensor("no", fake_torch.Tensor(bytearray(4), fake_torch.float32, (1,), on="meta")) == -600
    assert store.is_exist("no") == 0


@pytest.mark.parametrize("device", ["cpu", "cpu:0", (1, 0), None])
def test_host_memory_is_a_device_too(store, device):
    store.put_tensor("k", np.arange(3))
    assert ts.same(store.get_tensor("k", device=device), np.arange(3)) and ts.same(store.get_dlpack("k", device), np.arange(3))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:123456", "cpu:1", 5, (2,), (2, -1), (4, 0), ("a", 0), object()])
def test_devices_that_are_none(store, device):
    with pytest.raises(ValueError, match="device"):
        store.get_tensor("k", device=device)
    with pytest.raises(ValueError, match="device"):
        store.get_dlpack("k", device=device)


# ---- addresses ----


def room(size):
    buffer = ctypes.create_string_buffer(size)
    return buffer, ctypes.addressof(buffer)


def test_a_tensor_is_read_to_an_address_and_put_from_there(store):
    data = np.arange(12.0).reshape(3, 4)
    store.put_tensor("k", data)
    buffer, address = room(1000)
    tensor = store.get_tensor_into("k", address, 1000)
    assert ts.same(tensor, data) and buffer.raw[: 304 + 96] == store.get("k")
    ctypes.memset(address + 304, 0, 8)
    assert np.asarray(tensor)[0, 0] == 0, "the tensor is on the caller's memory"
    np.asarray(tensor)[0, 0] = 5
    data[0, 0] = 5
    assert store.put_tensor_from("l", address, 400) == 0 and ts.same(store.get_tensor("l"), data)
    assert store.upsert_tensor_from("k", address, 400) == 0 and ts.same(store.get_tensor("k"), data)
    assert store.batch_put_tensor_from(["m", "n"], [address, address], [400, 399]) == [0, -600]
    assert store.batch_upsert_tensor_from(["l"], [address], [400]) == [0]


@pytest.mark.parametrize("address, size", [(0, 400), (4096, 400), (2**64 - 1, 400), (2**64 - 400, 400), (None, 0), (None, 303), (None, 2**63), (None, 2**64 - 1)])
def test_addresses_that_are_none_are_refused(store, address, size):
    store.put_tensor("k", np.arange(12.0))
    buffer, good = room(1000)
    buffer.raw = store.get("k") + bytes(600)
    address = good if address is None else address
    assert store.put_tensor_from("x", address, size) == -600
    assert store.put_tensor_with_tp_from("x", address, size, 0, 2) == -600
    assert store.put_tensor_with_parallelism_from("x", address, size) == -600
    assert store.get_tensor_into("k", address, size) is None
    assert store.get_tensor_with_parallelism_into("k", address, size) is None
    assert store.batch_get_tensor_into(["k", "k"], [address, good], [size, 1000])[0] is None
    assert ts.same(store.batch_get_tensor_into(["k", "k"], [address, good], [size, 1000])[1], np.arange(12.0))
    assert store.is_exist("x") == 0


def test_memory_that_may_not_be_written_is_not(store):
    store.put_tensor("k", np.arange(12.0))
    frozen = bytes(1000)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    page = libc.mmap(None, ctypes.c_size_t(8192), 1, 0x22, -1, ctypes.c_long(0))
    assert store.get_tensor_into("k", page, 8192) is None and store.get_tensor_with_parallelism_into("k", page, 8192) is None
    assert frozen == bytes(1000)


def test_elements_are_read_into_a_tensor_of_the_same_kind(store, fake_torch):
    data = np.arange(6, dtype=np.float32)
    store.put_tensor("k", data)
    store.put("other", b"x")
    target = np.zeros(6, np.float32)
    assert store.get_tensor_into_cuda("k", target) == 24 and (target == data).all()
    tensor = fake_torch.empty((2, 3), dtype=fake_torch.float32, device="cuda:0")
    assert store.get_tensor_into_cuda("k", tensor) == 24 and tensor.tobytes() == data.tobytes()
    assert store.get_tensor_into_cuda("nothing", target) == -704
    assert store.get_tensor_into_cuda("other", target) == -600
    frozen = np.zeros(6, np.float32)
    frozen.flags.writeable = False
    for wrong in (np.zeros(7, np.float32), np.zeros(6, np.int32), np.zeros((6, 2), np.float32)[:, 0], frozen, tensor.t(), None, b"x" * 24):
        assert store.get_tensor_into_cuda("k", wrong) == -600
    assert not frozen.any()
    assert store.batch_get_tensor_into_cuda(["k", "x", "k"], [target, target, None]) == [24, -704, -600]
    assert store.batch_get_tensor_into_cuda(["k"], []) == [-600]


# ---- arguments ----


def test_lists_of_different_length_fail_every_key(store):
    a = np.arange(2)
    for call in (store.batch_put_tensor, store.batch_upsert_tensor, store.batch_pub_tensor, store.batch_upsert_pub_tensor):
        assert call(["a", "b"], [a]) == [-600, -600] and call([], []) == []
    assert store.batch_put_tensor_with_tp(["a"], [a, a]) == [-600]
    assert store.batch_put_tensor_from(["a", "b"], [1], [1]) == [-600, -600] == store.batch_put_tensor_from(["a", "b"], [1, 2], [1])
    assert store.batch_get_tensor_into(["a", "b"], [1], [1]) == [-600, -600]
    assert store.batch_get_tensor_with_tp_into(["a", "b"], [1, 2], [1]) == [-600, -600]
    assert store.batch_get_tensor_with_parallelism_into(["a", "b"], [1], [1]) == [None, None]
    assert store.batch_get_tensor_with_parallelism(["a", "b"], [None]) == [None, None] == store.batch_get_tensor_with_parallelism(["a", "b"], 5)
    assert store.batch_put_tensor_with_parallelism(["a"], [a], [None, None]) == [-600] == store.batch_put_tensor_with_parallelism(["a"], [a], 5)
    assert store.is_exist("a") == 0


def test_a_pub_names_a_segment_for_each_replica_or_none(store, fake):
    a = np.arange(4)
    for segments, replicas, code in (([], 2, 0), (["s"], 1, 0), (["s"], 2, -600), (["s", "t"], 2, 0), (["s", "t"], 1, -600)):
        config = fake.ReplicateConfig(replica_num=replicas, preferred_segments=segments)
        assert store.pub_tensor("a", a, config) == code == store.upsert_pub_tensor("a", a, config=config)
        assert store.batch_pub_tensor(["a"], [a], config) == [code] == store.batch_upsert_pub_tensor(["a"], [a], config)
        assert store.pub_tensor_with_tp("a", a, config, 0, 2) == code
        assert store.batch_pub_tensor_with_tp(["a"], [a], config=config, tp_size=2) == [code]
        assert store.put_tensor_with_parallelism("a", a, config=config) == 0


def test_a_config_goes_with_every_object_of_a_tensor(store, fake):
    config = fake.ReplicateConfig(replica_num=3, group_ids=["g", "h"], with_hard_pin=True, prefer_alloc_in_same_node=True)
    assert store.batch_pub_tensor_with_tp(["a", "b"], [np.arange(4), np.arange(6)], config, tp_size=2) == [0, 0]
    counters = store.counters()
    assert counters["last_replica_num"] == 3 and counters["last_groups"] == 4 and counters["last_hard_pin"] == 1
    assert store.batch_pub_tensor(["a"], [np.arange(4)], config) == [-600]
    assert store.pub_tensor("x", np.arange(4), fake.ReplicateConfig(nof_replica_num=1)) == -600


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.put_tensor("k"), lambda s: s.put_tensor(5, np.arange(2)), lambda s: s.put_tensor("k", np.arange(2), config=1),
        lambda s: s.pub_tensor("k", np.arange(2), None), lambda s: s.put_tensor_with_tp("k", np.arange(2), tp_size=1.5),
        lambda s: s.put_tensor_with_tp("k", np.arange(2), tp_size=2**31), lambda s: s.get_tensor_with_tp("k", "0"), lambda s: s.get_tensor(),
        lambda s: s.batch_get_tensor("keys"), lambda s: s.put_tensor_from("k", -1, 5), lambda s: s.put_tensor_from("k", 1, "5"),
        lambda s: s.batch_put_tensor(["k"], 5), lambda s: s.get_tensor_into("k", 1.0, 5), lambda s: s.load_tensor_from_safetensor("k"),
        lambda s: s.save_tensor_to_safetensor("k", 5), lambda s: s.put_tensor("k", np.arange(2), nothing=1),
        lambda s: s.batch_get_tensor_into(["k"], 5, [1]), lambda s: s.get_tensor_into_cuda("k"),
    ],
)  # fmt: skip
def test_wrong_types_are_type_errors(store, call):
    with pytest.raises(TypeError):
        call(store)
    assert store.is_exist("k") == 0


def test_calls_before_setup_and_after_close_give_codes(fake):
    a = np.arange(4)
    for closed in (False, True):
        store = fake.MooncakeDistributedStore()
        if closed:
            assert store.setup(*SETUP) == 0 and store.close() == 0
        buffer, address = room(1000)
        buffer.raw = ts.header("int64", (4,)) + a.tobytes() + bytes(664)
        assert store.put_tensor("k", a) == -600 == store.upsert_tensor("k", a) == store.pub_tensor("k", a)
        assert store.batch_put_tensor(["k", "l"], [a, a]) == [-600, -600]
        assert store.put_tensor_from("k", address, 336) == -600 and store.batch_put_tensor_from(["k"], [address], [336]) == [-600]
        assert store.put_tensor_with_tp("k", a, tp_size=2) == -600 == store.put_tensor_with_parallelism("k", a)
        assert store.get_tensor("k") is None is store.get_dlpack("k") is store.get_tensor_with_tp("k", 0, 2)
        assert store.batch_get_tensor(["k"]) == [None] == store.batch_get_tensor_with_tp(["k"])
        assert store.get_tensor_into("k", address, 1000) is None and store.batch_get_tensor_into(["k"], [address], [1000]) == [-600]
        assert store.get_tensor_into_cuda("k", a) == -600
        assert store.get_tensor_with_parallelism("k") is None and store.batch_get_tensor_with_parallelism(["k"]) == [None]
        assert store.get_tensor_with_parallelism_into("k", address, 1000) is None
        assert store.save_tensor_to_safetensor("k", "/nowhere/x") == -600


# ---- module functions ----


def test_a_tensor_is_taken_apart_and_put_together(fake, fake_torch):
    data = np.arange(6, dtype=np.int16).reshape(2, 3)
    for given, expected in ((data, data), (data.T, np.ascontiguousarray(data.T))):
        head, address, size, owner = fake._serialize_tensor(given)
        assert head == ts.header("int16", expected.shape) and size == 12
        assert ctypes.string_at(address, size) == expected.tobytes()
        del owner
    assert fake._serialize_tensor(np.zeros((0, 2)))[1:3] == (0, 0)
    tensor = fake._deserialize_tensor(ts.header("int16", (2, 3)) + data.tobytes())
    assert isinstance(tensor, fake_torch.Tensor) and ts.same(tensor, data)
    assert ts.same(fake._deserialize_tensor(bytearray(ts.header("int16", (2, 3)) + data.tobytes())), data)
    assert fake._tensor_metadata_size() == 304
    for wrong in (None, b"x", [1]):
        with pytest.raises(ValueError):
            fake._serialize_tensor(wrong)
    for wrong in (b"", b"x" * 304, ts.header("int16", (2, 3)), ts.header("int16", (2, 3)) + bytes(13)):
        with pytest.raises(ValueError):
            fake._deserialize_tensor(wrong)
    with pytest.raises(TypeError):
        fake._deserialize_tensor("text")


# ---- safetensors ----


def test_a_tensor_goes_to_a_file_and_comes_back(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in DTYPES:
        bits = ts.array_of(ts.BITS.get(name, name), (3, 2))
        store.put("k\u00e9" + name, ts.header(name, (3, 2)) + ts.bytes_of(bits))
        path = tmp_path / f"{name}.safetensors"
        assert store.save_tensor_to_safetensor("k\u00e9" + name, path) == 0
        assert ts.content(store.load_tensor_from_safetensor("new" + name, str(path))) == (name, (3, 2), ts.bytes_of(bits))
        assert store.get("new" + name) == ts.header(name, (3, 2)) + ts.bytes_of(bits)
    assert store.save_tensor_to_safetensor("newint8") == 0 and (tmp_path / "newint8").exists()
    assert ts.content(store.load_tensor_from_safetensor(file_name="newint8"))[0] == "int8"
    assert ts.content(store.load_tensor_from_safetensor(None, "newint8"))[0] == "int8"
    assert sorted(p.name for p in tmp_path.iterdir() if ".part" in p.name) == []


def test_files_are_those_of_the_format(store, tmp_path):
    data = np.arange(5, dtype=np.float32)
    store.put_tensor("w", data)
    path = tmp_path / "w"
    assert store.save_tensor_to_safetensor("w", path) == 0
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert size % 8 == 0 and raw[8 + size :] == data.tobytes()
    numpy_files = pytest.importorskip("safetensors.numpy")
    assert (numpy_files.load_file(path)["w"] == data).all()
    numpy_files.save_file({"a": data, "b": data * 2}, path)
    assert ts.same(store.load_tensor_from_safetensor("b", path), data * 2)
    assert store.load_tensor_from_safetensor("c", path) is None, "which of the two?"


def safetensors(text, data=b""):
    text = text.encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = '{"k": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"", b"short", b"\xff" * 100, safetensors("{"), safetensors("[]"), safetensors("{}"), safetensors(ENTRY), safetensors(ENTRY, b"1234567"),
        safetensors(ENTRY.replace("F32", "F31"), bytes(8)), safetensors(ENTRY.replace("[2]", "[3]"), bytes(12)), safetensors(ENTRY.replace("[2]", "2"), bytes(8)),
        safetensors(ENTRY.replace("[0, 8]", "[8, 0]"), bytes(8)), safetensors(ENTRY.replace("[0, 8]", "[0]"), bytes(8)),
        safetensors(ENTRY.replace("[2]", "[-2]"), bytes(8)), safetensors(ENTRY.replace("[2]", "[1e300]"), bytes(8)),
        safetensors(ENTRY.replace("[2]", "[4611686018427387904, 2]"), bytes(8)), safetensors(ENTRY.replace("[0, 8]", "[9223372036854775800, 9223372036854775808]")),
        safetensors('{"k": 5}'), safetensors('{"k": {}}'), safetensors('{"__metadata__": {"a": "b"}}'), safetensors(ENTRY, bytes(8))[:20], safetensors("\ud7ff" * 10 + "{"),
        (2**63).to_bytes(8, "little") + b"{}", (100 << 20).to_bytes(8, "little") + b"{}",
    ],
)  # fmt: skip
def test_files_that_are_none_are_no_tensors(store, tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    assert store.load_tensor_from_safetensor("k", path) is None
    assert store.is_exist("k") == 0


def test_a_save_that_fails_leaves_what_was_there(store, tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    assert store.save_tensor_to_safetensor("nothing", path) == -1100
    store.put("no tensor", b"x")
    assert store.save_tensor_to_safetensor("no tensor", path) == -1100
    assert path.read_text() == "old"
    store.put_tensor("k", np.arange(3))
    assert store.save_tensor_to_safetensor("k", tmp_path / "no folder" / "x") == -600
    assert store.save_tensor_to_safetensor("k", tmp_path) == -600
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert store.load_tensor_from_safetensor("l", tmp_path) is None and store.load_tensor_from_safetensor("l", "/dev/null") is None
    with pytest.raises(ValueError):
        store.save_tensor_to_safetensor("k", "a\0b")


def test_references_to_what_was_put_are_given_back(store, fake_torch):
    data = np.arange(1000)
    counts = [sys.getrefcount(data)]
    tensor = fake_torch.Tensor(bytearray(8), fake_torch.float32, (2,))
    counts.append(sys.getrefcount(tensor))
    for call in (lambda: store.upsert_tensor("k", data), lambda: store.upsert_tensor("k", tensor), lambda: store.put_tensor_with_tp("t", data, tp_size=10)):
        for _ in range(10):
            assert call() == 0
    assert [sys.getrefcount(data), sys.getrefcount(tensor)] == counts
