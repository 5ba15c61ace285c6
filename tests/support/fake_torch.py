"""As much of torch as the module's tensor calls touch, for machines without it: tensors on a bytearray, with strides and devices.

Put in as sys.modules["torch"]. A "cuda" tensor lies in host memory here; what is counted is in `calls`.
"""

import ctypes
import math

calls = {"synchronize": 0, "to": 0}


class dtype:
    def __init__(self, name, itemsize):
        self.name, self.itemsize = name, itemsize

    def __repr__(self):
        return f"torch.{self.name}"


SIZES = {
    "float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "bool": 1, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "complex64": 8,
}  # fmt: skip
for _name, _size in SIZES.items():
    globals()[_name] = dtype(_name, _size)


class device:
    def __init__(self, text):
        self.type, _, index = str(text).partition(":")
        self.index = int(index) if index else None

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"


def strides_of(shape):
    strides = []
    for extent in reversed(shape):
        strides.insert(0, math.prod([strides[0], last]) if strides else 1)
        last = max(extent, 1)
    return tuple(strides)


class Tensor:
    layout = "torch.strided"

    def __init__(self, storage, of, shape, strides=None, offset=0, on="cpu", negative=False):
        self.storage, self.dtype, self.shape, self.offset = storage, of, tuple(shape), offset
        self.strides = strides_of(self.shape) if strides is None else strides
        self.device, self.negative = device(on), negative

    def data_ptr(self):
        if not math.prod(self.shape):
            return 0
        view = memoryview(self.storage).cast("B")
        return ctypes.addressof(ctypes.c_char.from_buffer(view)) + self.offset * self.dtype.itemsize

    def is_contiguous(self):
        return self.strides == strides_of(self.shape)

    def is_neg(self):
        return self.negative

    def resolve_neg(self):
        return Tensor(bytearray(b ^ 0x80 if i % 4 == 3 else b for i, b in enumerate(self.tobytes())), self.dtype, self.shape)

    def _indices(self, dim=0):
        if dim == len(self.shape):
            yield 0
            return
        for i in range(self.shape[dim]):
            for rest in self._indices(dim + 1):
                yield i * self.strides[dim] + rest

    def tobytes(self):
        size, data = self.dtype.itemsize, bytes(memoryview(self.storage).cast("B"))
        return b"".join(data[(self.offset + i) * size : (self.offset + i + 1) * size] for i in self._indices())

    def contiguous(self):
        return self if self.is_contiguous() else Tensor(bytearray(self.tobytes()), self.dtype, self.shape, on=self.device)

    def t(self):
        return Tensor(self.storage, self.dtype, self.shape[::-1], self.strides[::-1], self.offset, self.device)

    def reshape(self, shape):
        assert self.is_contiguous() and math.prod(shape) == math.prod(self.shape)
        return Tensor(self.storage, self.dtype, shape, None, self.offset, self.device)

    def to(self, on):
        calls["to"] += 1
        return Tensor(bytearray(self.tobytes()), self.dtype, self.shape, on=on)


class Parameter(Tensor):
    """A class without "Tensor" in its name."""


def frombuffer(buffer, *, dtype):
    view = buffer.data
    assert not view.readonly and view.nbytes
    return Tensor(view, dtype, (view.nbytes // dtype.itemsize,))


def empty(shape, *, dtype, device="cpu"):
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return Tensor(bytearray(math.prod(shape) * dtype.itemsize), dtype, shape, on=device)


class cuda:
    @staticmethod
    def current_stream(on):
        return cuda

    @staticmethod
    def synchronize():
        calls["synchronize"] += 1
