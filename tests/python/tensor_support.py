"""What the tests of tensors share: element types in numpy, headers, the fake torch, the other side of DLPack."""

import importlib.util
import struct
import sys

import numpy as np
import pytest
from python_support import BUILD_DIR, ROOT

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

# numpy before 2.1 takes legacy capsules alone, which are copies of what is read-only, and no booleans.
VERSIONED_NUMPY = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1)

# In the order of the codes on the wire.
DTYPES = (
    "float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool float16 bfloat16 float8_e4m3fn float8_e5m2"
).split()
SIZES = dict(zip(DTYPES, (4, 8, 1, 1, 2, 2, 4, 4, 8, 8, 1, 2, 2, 1, 1)))
BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
DL = {name: (code, SIZES[name] * 8, 1) for name, code in zip(DTYPES, (2, 2, 0, 1, 0, 1, 0, 1, 0, 1, 6, 2, 4, 10, 12))}


def array_of(name, shape, seed=0):
    """An array with that element type, or of its bits where numpy has no such type."""
    count = int(np.prod(shape))
    if name == "bool":
        return (np.arange(count) + seed).reshape(shape) % 3 == 0
    if name in BITS:
        bits = ((np.arange(count) * 7 + seed * 3) % 0x70).astype(BITS[name]).reshape(shape)
        return bits.view(getattr(ml_dtypes, name)) if ml_dtypes else bits
    return ((np.arange(count) * 3 + seed) % 120).astype(name).reshape(shape)


def bytes_of(array):
    return np.ascontiguousarray(array).tobytes()


def header(dtype, shape, local=None, axes=()):
    """The 304 bytes that an object of this tensor begins with."""
    local = shape if local is None else local

    def places(extents):
        return tuple(extents) + (-1,) * (8 - len(extents))

    size = SIZES[dtype]
    for extent in local:
        size *= extent
    packed = struct.pack("<IHHiiIIQQ", 0x4D4F4F4E, 1, 304, DTYPES.index(dtype), len(shape), 1 if axes else 0, 0, 304, size)
    packed += struct.pack("<8q8qII", *places(shape), *places(local), len(axes), 0)
    for axis in axes:
        packed += struct.pack("<iiiiiiq", *axis)
    return packed.ljust(304, b"\0")


def manifest(dtype, shape, split_dim, count):
    places = tuple(shape) + (-1,) * (8 - len(shape))
    return struct.pack("<IHHiiiiii8q", 0x574D414E, 1, 96, DTYPES.index(dtype), len(shape), split_dim, count, 0, 0, *places)


def content(tensor):
    """(type's name, shape, bytes) of a StoredTensor, a torch tensor or one of the fake's."""
    if hasattr(tensor, "readonly"):
        return tensor.dtype, tensor.shape, bytes(tensor.data)
    name = str(tensor.dtype).rpartition(".")[2]
    if hasattr(tensor, "tobytes"):
        return name, tuple(tensor.shape), tensor.tobytes()
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return name, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def same(tensor, array, name=None):
    return content(tensor) == (name or str(array.dtype), array.shape, bytes_of(array))


class Producer:
    """An array of another library: gives the capsule that `make` makes; remembers how it was asked.

    `old`: it knows no versions. `work` queues what fills the array, and makes the stream that is asked for wait for that."""

    def __init__(self, make, device=(1, 0), old=False, work=None):
        self.make, self.device, self.old, self.work, self.asked = make, device, old, work, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **asked):
        self.asked.append(asked)
        if self.old and "max_version" in asked:
            raise TypeError("unexpected keyword argument 'max_version'")
        if self.work is not None:
            self.work(asked.get("stream"))
        return self.make()


def load_peer():
    path = BUILD_DIR / "python_tests" / "dlpack_peer.abi3.so"
    if not path.exists():
        pytest.skip("dlpack_peer is not built")
    if "dlpack_peer" not in sys.modules:
        spec = importlib.util.spec_from_file_location("dlpack_peer", path)
        sys.modules["dlpack_peer"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["dlpack_peer"])
    return sys.modules["dlpack_peer"]


def load_fake_torch():
    spec = importlib.util.spec_from_file_location("fake_torch", ROOT / "tests" / "support" / "fake_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_torch(monkeypatch):
    """As on a machine where torch is not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def fake_torch(monkeypatch):
    module = load_fake_torch()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def real_torch():
    return importlib.util.find_spec("torch") is not None
