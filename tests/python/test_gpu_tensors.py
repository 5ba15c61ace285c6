"""Tensors in GPU memory, both sides of DLPack, and the order of work on streams: on the fake driver, or on the machine's (make test-gpu).

The fake driver does nothing on a stream before somebody waits for it, so who does not wait reads other bytes."""

import os

import pytest
from python_support import BUILD_DIR
from test_gpu import START, driver, run as run_with_driver  # noqa: F401

REAL = os.environ.get("MCS_TEST_CUDA") == "real"
pytest.importorskip("numpy")
FAKE = str(BUILD_DIR / "tests" / "fake_cuda")
LIBRARIES = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder not in ("", FAKE)]

TENSORS = """
import ctypes, gc, itertools
import numpy as np
import tensor_support as ts
sys.modules["torch"] = None
cuda = Cuda().start()
store = make()
LEGACY, PER_THREAD = 1, 2

def on_device(array, device=0):
    raw = np.ascontiguousarray(array).tobytes()
    ptr = cuda.alloc(max(len(raw), 1), device)
    cuda.write(ptr, raw)
    return ptr

def pinned_copy(array):
    raw = np.ascontiguousarray(array).tobytes()
    ptr = cuda.pinned(len(raw))
    ctypes.memmove(ptr, raw, len(raw))
    return ptr

class Producer(ts.Producer):
    \"""An array of another library on a device.\"""

    def __init__(self, ptr, array, shape=None, strides=None, offset=0, device=0, kind=2, versioned=True, work=None):
        shape, dtype, at = list(array.shape if shape is None else shape), ts.DL[str(array.dtype)], (kind, device)
        make = lambda: peer.capsule_at(ptr, shape, strides, dtype, at, versioned, (1, 3), 0, offset)
        super().__init__(make, at, work=work)

peer = ts.load_peer()

def content(tensor, device=0):
    taken = peer.take(tensor.__dlpack__(max_version=(1, 3)))
    assert taken["device"] == (2, device) and taken["flags"] == 0, taken
    size = taken["dtype"][1] // 8 * int(np.prod(taken["shape"]))
    cuda.use(device)
    raw = cuda.read(taken["data"], size) if size else b""
    peer.give_back(taken["taken"])
    return raw
"""


def run(script, **env):
    return run_with_driver(TENSORS + script + "\nstore.close()\n", **env)


# ---- what is given ----


def test_a_tensor_is_given_in_memory_of_the_device_without_torch():
    run(
        """
data = np.arange(3000, dtype=np.float32).reshape(30, 100)
assert store.put_tensor("k", data) == 0
for get in (store.get_dlpack, store.get_tensor):
    for device in ("cuda", "cuda:0", (2, 0)):
        tensor = get("k", device=device)
        assert tensor.__dlpack_device__() == (2, 0) and tensor.device == "cuda:0" and not tensor.readonly
        assert (tensor.shape, tensor.dtype, tensor.nbytes) == ((30, 100), "float32", 12000) and "cuda:0" in repr(tensor)
        assert content(tensor) == data.tobytes()
        for no in (lambda: tensor.data, lambda: memoryview(tensor), lambda: np.asarray(memoryview(tensor))):
            try:
                no()
            except (BufferError, TypeError) as error:
                assert "GPU" in str(error), error
            else:
                raise AssertionError("the processor got at it")
    assert get("nothing", device="cuda") is None
store.put("other", b"not a tensor")
assert store.get_dlpack("other", device="cuda") is None
store.put_tensor("empty", np.zeros((0, 3)))
empty = store.get_dlpack("empty", "cuda")
assert empty.shape == (0, 3) and content(empty) == b""
del tensor, empty
"""
    )


@pytest.mark.skipif(REAL, reason="another number of devices")
def test_the_device_asked_for_is_the_one():
    run(
        """
data = np.arange(1000, dtype=np.int64)
store.put_tensor("k", data)
tensor = store.get_dlpack("k", device=(2, 1))
assert tensor.__dlpack_device__() == (2, 1) and content(tensor, 1) == data.tobytes()
copy = peer.take(tensor.__dlpack__(max_version=(1, 3), copy=True))
assert copy["device"] == (2, 1)
peer.give_back(copy["taken"])
del tensor
for device in ("cuda:2", (2, 7)):
    try:
        store.get_dlpack("k", device=device)
    except RuntimeError as error:
        assert "cuda:" in str(error)
    else:
        raise AssertionError(device)
""",
        FAKE_CUDA_DEVICES="2",
    )


def test_every_element_type_and_rank_goes_to_the_device_and_back():
    run(
        """
for name in ts.DTYPES:
    for shape in ((), (5,), (2, 3), (0, 4), (2,) * 8):
        bits = ts.bytes_of(ts.array_of(ts.BITS.get(name, name), shape))
        store.put("k", ts.header(name, shape) + bits)
        tensor = store.get_dlpack("k", device="cuda")
        assert content(tensor) == bits, (name, shape)
        assert store.put_tensor("back", tensor) == 0 and store.get("back") == ts.header(name, shape) + bits, (name, shape)
        store.remove_all(force=True)
del tensor
"""
    )


def test_streams_of_a_consumer_are_looked_at():
    run(
        """
data = np.arange(100)
store.put_tensor("k", data)
tensor = store.get_dlpack("k", device="cuda")
mine = cuda.stream()
for stream in (None, -1, 1, 2, mine, 2**63 + 8):
    peer.give_back(peer.take(tensor.__dlpack__(stream=stream, max_version=(1, 3)))["taken"])
for stream, error in ((0, ValueError), (-2, ValueError), (-(2**70), ValueError), ("x", TypeError), (1.5, TypeError)):
    try:
        tensor.__dlpack__(stream=stream)
    except error:
        pass
    else:
        raise AssertionError(stream)
for device, error in (((2, 1), BufferError), ((10, 0), BufferError), ((1, 1), BufferError)):
    try:
        tensor.__dlpack__(dl_device=device)
    except error:
        pass
    else:
        raise AssertionError(device)
peer.give_back(peer.take(tensor.__dlpack__(dl_device=(2, 0)))["taken"])
cuda.call("cuStreamDestroy_v2", ctypes.c_void_p(mine))
del tensor
"""
    )


def test_copies_of_a_device_tensor_are_made_as_asked_also_when_the_store_is_closed():
    run(
        """
data = np.arange(100)
store.put_tensor("k", data)
tensor = store.get_dlpack("k", device="cuda")
store.close()
original = peer.take(tensor.__dlpack__(max_version=(1, 0)))
cuda.use()
for versioned in ({"max_version": (1, 0)}, {}):
    copy = peer.take(tensor.__dlpack__(copy=True, **versioned))
    assert copy["device"] == (2, 0) and copy["data"] != original["data"] and cuda.read(copy["data"], 800) == data.tobytes()
    assert copy["flags"] == (2 if versioned else 0)
    peer.give_back(copy["taken"])
    host = peer.take(tensor.__dlpack__(dl_device=(1, 0), **versioned))
    assert host["device"] == (1, 0) and ctypes.string_at(host["data"], 800) == data.tobytes() and host["flags"] == (2 if versioned else 0)
    peer.give_back(host["taken"])
    same = peer.take(tensor.__dlpack__(copy=False, **versioned))
    assert same["data"] == original["data"]
    peer.give_back(same["taken"], True)  # on a thread that Python knows nothing of
try:
    tensor.__dlpack__(dl_device=(1, 0), copy=False)
except BufferError:
    pass
else:
    raise AssertionError("a copy all the same")
if ts.VERSIONED_NUMPY:
    shown = np.from_dlpack(tensor, device="cpu")
    assert (shown == data).all()
peer.give_back(original["taken"])
del tensor
"""
    )


def test_memory_that_the_device_has_not_is_an_exception_that_says_so():
    done = run(
        """
store.put_tensor("k", np.arange(100))
lib = cuda.lib
lib.fake_cuda_fail(b"cuMemAllocAsync", ctypes.c_uint64(1), 2) if not cuda.is_real else None
try:
    store.get_dlpack("k", device="cuda")
except MemoryError as error:
    assert "cuda:0" in str(error) and "800 bytes" in str(error), error
else:
    assert cuda.is_real
assert store.get_dlpack("k", device="cuda") is not None
"""
    )
    assert REAL or "mem_alloc_async on cuda:0" in done.stderr


@pytest.mark.skipif(REAL, reason="needs the fake driver")
def test_an_old_driver_gives_memory_too():
    run(
        """
data = np.arange(100)
store.put_tensor("k", data)
tensor = store.get_dlpack("k", device="cuda")
assert content(tensor) == data.tobytes()
del tensor
""",
        FAKE_CUDA_VERSION="11010",
    )


@pytest.mark.skipif(REAL, reason="needs a machine without a driver")
def test_without_a_driver_it_is_an_exception_that_says_so():
    run_with_driver(
        """
import numpy as np
sys.modules["torch"] = None
store = make()
store.put_tensor("k", np.arange(100))
for get in (store.get_dlpack, store.get_tensor):
    try:
        get("k", device="cuda")
    except RuntimeError as error:
        assert "no CUDA driver" in str(error), error
    else:
        raise AssertionError("where from?")
assert store.get_tensor("k").shape == (100,)
store.close()
""",
        LD_LIBRARY_PATH=":".join(LIBRARIES),
    )


@pytest.mark.skipif(REAL, reason="needs the fake driver")
def test_asking_for_a_device_starts_the_driver():
    run_with_driver(
        """
import numpy as np
sys.modules["torch"] = None
store = make()
data = np.arange(100)
store.put_tensor("k", data)
tensor = store.get_dlpack("k", device="cuda")
assert tensor.__dlpack_device__() == (2, 0)
assert store.put_tensor("back", tensor) == 0 and bytes(store.get_dlpack("back").data) == data.tobytes()
del tensor
store.close()
""",
        LD_LIBRARY_PATH=":".join([FAKE, *LIBRARIES]),
    )


# ---- what is taken ----


def test_a_producers_work_is_waited_for_on_whatever_stream_it_is():
    run(
        """
for i, (flags, versioned) in enumerate(itertools.product((0, 1), (True, False))):
    data = np.arange(i, i + 50000, dtype=np.int32)
    ptr, host, mine = on_device(np.zeros_like(data)), pinned_copy(data), cuda.stream(flags=flags)

    def work(stream):
        assert stream > 2, "a stream of the store's own: nobody else waits"
        cuda.use()
        cuda.copy_later(ptr, host, data.nbytes, mine)
        cuda.wait(stream, cuda.event(mine))

    producer = Producer(ptr, data, work=work, versioned=versioned)
    assert store.put_tensor(f"k{i}", producer) == 0 and len(producer.asked) == 1
    assert bytes(store.get_dlpack(f"k{i}").data) == data.tobytes()
    cuda.free(ptr)
"""
    )


def test_a_lent_tensors_producer_is_waited_for_on_its_current_stream():
    run(
        """
class Lending:
    __dlpack_c_exchange_api__ = peer.exchange("plain")

    def __init__(self, ptr, data):
        self.peer = peer.capsule_at(ptr, list(data.shape), None, ts.DL[str(data.dtype)], (2, 0), True, (1, 3), 0, 0)

class Giving(Lending):
    __dlpack_c_exchange_api__ = peer.exchange("managed")

for i, (kind, flags) in enumerate(itertools.product((Lending, Giving), (0, 1))):
    data = np.arange(i, i + 50000, dtype=np.int32)
    ptr, host, mine = on_device(np.zeros_like(data)), pinned_copy(data), cuda.stream(flags=flags)
    thing = kind(ptr, data)
    cuda.copy_later(ptr, host, data.nbytes, mine)
    peer.current_stream(mine)
    assert store.put_tensor(f"k{i}", thing) == 0
    assert bytes(store.get_dlpack(f"k{i}").data) == data.tobytes()
    for stream in (0, LEGACY):  # which waits for the other kind of stream
        blocking = cuda.stream(flags=0)
        cuda.write(ptr, bytes(data.nbytes))
        cuda.copy_later(ptr, host, data.nbytes, blocking)
        peer.current_stream(stream)
        assert store.upsert_tensor(f"k{i}", thing) == 0
        assert bytes(store.get_dlpack(f"k{i}").data) == data.tobytes()
    cuda.copy_later(ptr, pinned_copy(-data), data.nbytes, PER_THREAD)
    peer.current_stream(PER_THREAD)
    assert store.upsert_tensor(f"k{i}", thing) == 0
    assert bytes(store.get_dlpack(f"k{i}").data) == (-data).tobytes()
    peer.current_stream(None)  # it does not know
    assert store.put_tensor("unknown", thing) == -600
    del thing
    cuda.free(ptr)
"""
    )


def test_device_tensors_that_are_not_in_c_order_are_put_in_order():
    run(
        """
base = np.arange(60000, dtype=np.float32)
ptr = on_device(base)
cases = [((300, 200), (1, 300)), ((200, 300), (-300, 1)), ((100,), (600,)), ((3, 4, 5), (20000, -7, 3)), ((50, 50), (0, 1)), ((1, 7, 1), (9, 2, 5)), ((2, 3, 100, 10), (30000, 10000, 10, 1))]
for shape, strides in cases:
    start = sum(-s * (n - 1) for n, s in zip(shape, strides) if s < 0)
    wanted = np.lib.stride_tricks.as_strided(base[start:], shape, [4 * s for s in strides])
    for versioned in (True, False):
        producer = Producer(ptr, base, shape, list(strides), offset=4 * start, versioned=versioned)
        assert store.upsert_tensor("k", producer) == 0, (shape, strides)
        assert ts.same(store.get_dlpack("k"), np.ascontiguousarray(wanted)), (shape, strides)
wild = Producer(ptr, base, (2,), [1 << 40])
assert store.put_tensor("no", wild) == -600 and store.is_exist("no") == 0
for dim in (0, 1):
    assert store.put_tensor_with_tp(f"tp{dim}", Producer(ptr, base, (300, 200), [1, 300]), tp_size=4, split_dim=dim) == 0
    whole = base.reshape(200, 300).T
    assert ts.same(store.get_tensor_with_tp(f"tp{dim}", 2, 4), np.ascontiguousarray(np.split(whole, 4, axis=dim)[2]))
    assert store.put_tensor_with_tp(f"tq{dim}", Producer(ptr, base, (300, 200)), tp_size=4, split_dim=dim) == 0
    assert ts.same(store.get_tensor_with_tp(f"tq{dim}", 2, 4), np.ascontiguousarray(np.split(base.reshape(300, 200), 4, axis=dim)[2]))
cuda.free(ptr)
"""
    )


def test_devices_of_other_kinds_are_refused_before_they_are_asked():
    run(
        """
data = np.arange(100)
for kind in (10, 4, 8, 14, 16):  # ROCm, OpenCL, ...
    producer = Producer(0, data, kind=kind)
    assert store.put_tensor("k", producer) == -600 and producer.asked == []
gone = on_device(data)
cuda.free(gone)
assert store.put_tensor("k", Producer(gone, data)) == -600
nowhere = Producer(on_device(data), data, device=63)
nowhere.device = (2, 63)
assert store.put_tensor("k", nowhere) in (0, -600)
"""
    )


@pytest.mark.skipif(REAL, reason="needs the fake driver")
def test_a_stream_that_cannot_be_waited_for_is_a_refusal():
    done = run(
        """
data = np.arange(100)
ptr = on_device(data)
cuda.lib.fake_cuda_fail(b"cuEventRecord", ctypes.c_uint64(1), 719)
assert store.put_tensor("k", Producer(ptr, data)) == -600
assert store.put_tensor("k", Producer(ptr, data)) == 0 and bytes(store.get_dlpack("k").data) == data.tobytes()
cuda.free(ptr)
"""
    )
    assert "event_record" in done.stderr


# ---- addresses ----


def test_objects_are_put_from_and_read_to_addresses_of_a_device():
    run(
        """
data = np.arange(5000, dtype=np.float32).reshape(50, 100)
object_ = ts.header("float32", data.shape) + data.tobytes()
ptr = cuda.alloc(len(object_))
cuda.write(ptr, object_)
for registered in (False, True):
    assert not registered or store.register_buffer(ptr, len(object_)) == 0
    assert store.upsert_tensor_from("k", ptr, len(object_)) == 0 and store.get("k") == object_
    assert store.put_tensor_with_tp_from(f"tp{registered}", ptr, len(object_), tp_size=2, split_dim=1) == 0
    assert ts.same(store.get_tensor_with_tp(f"tp{registered}", 1, 2), np.ascontiguousarray(data[:, 50:]))
    cuda.write(ptr, bytes(len(object_)))
    tensor = store.get_tensor_into("k", ptr, len(object_))
    assert tensor.__dlpack_device__() == (2, 0) and content(tensor) == data.tobytes()
    assert cuda.read(ptr, len(object_)) == object_
    assert store.get_tensor_into("k", ptr, len(object_) - 1) is None
    try:
        tensor.__dlpack__(copy=True)
    except BufferError:
        pass
    else:
        raise AssertionError("a copy of the caller's memory")
    from mooncake.store import ParallelAxis, ReadTarget, TensorParallelism
    for rank in range(2):
        part = np.ascontiguousarray(np.split(data, 2)[rank])
        assert store.upsert_tensor_with_parallelism("p", part, TensorParallelism(axes=[ParallelAxis(kind="tp", rank=rank, size=2, split_dim=0)])) == 0
    whole = ReadTarget(mode="full", parallelism=TensorParallelism(axes=[ParallelAxis(kind="tp", rank=0, size=1, split_dim=0)]))
    cuda.write(ptr, bytes(len(object_)))
    tensor = store.get_tensor_with_parallelism_into("p", ptr, len(object_), whole)
    assert tensor.__dlpack_device__() == (2, 0) and content(tensor) == data.tobytes() and cuda.read(ptr, 304)[:4] == object_[:4]
    assert store.get_tensor_into_cuda("k", Producer(ptr + 304, data)) == data.nbytes
    assert not registered or store.unregister_buffer(ptr) == 0
cuda.write(ptr, b"no tensor at all" * 100)
assert store.put_tensor_from("no", ptr, len(object_)) == -600
cuda.free(ptr)
assert store.put_tensor_from("no", ptr, len(object_)) == -600 and store.get_tensor_into("k", ptr, len(object_)) is None
"""
    )
