"""Values of every kind of buffer are stored exactly, or refused; handles give the bytes back."""

import array
import ctypes
import mmap

import pytest

numpy = pytest.importorskip("numpy")

RAW = bytes(range(256)) * 2


def matrix():
    return numpy.arange(24, dtype=numpy.int32).reshape(4, 6)


BUFFERS = {
    "bytes": lambda: RAW,
    "bytearray": lambda: bytearray(RAW),
    "memoryview": lambda: memoryview(RAW),
    "memoryview of memoryview": lambda: memoryview(memoryview(RAW))[3:200],
    "strided memoryview": lambda: memoryview(RAW)[::3],
    "reversed memoryview": lambda: memoryview(RAW)[::-1],
    "cast memoryview": lambda: memoryview(RAW).cast("I"),
    "shaped memoryview": lambda: memoryview(RAW).cast("B", (16, 32)),
    "array of double": lambda: array.array("d", [1.5, 2.5, -3.0]),
    "ctypes array": lambda: (ctypes.c_uint16 * 5)(1, 2, 3, 4, 5),
    "ctypes struct": lambda: type("S", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_int), ("b", ctypes.c_double)]})(1, 2.0),
    "mmap": lambda: mmap.mmap(-1, 4096),
    "float32": lambda: numpy.arange(100, dtype=numpy.float32),
    "float16": lambda: numpy.arange(100, dtype=numpy.float16),
    "big endian": lambda: numpy.arange(100, dtype=">i8"),
    "scalar": lambda: numpy.float64(1.25),
    "zero dimensions": lambda: numpy.array(7, dtype=numpy.int64),
    "rows": lambda: matrix()[::2],
    "columns": lambda: matrix()[:, ::2],
    "transposed": lambda: matrix().T,
    "fortran": lambda: numpy.asfortranarray(matrix()),
    "reversed": lambda: matrix()[::-1, ::-1],
    "broadcast": lambda: numpy.broadcast_to(numpy.arange(3, dtype=numpy.int16), (4, 3)),
    "record with a field O": lambda: numpy.array([(1, 2.0)], dtype=[("O", "i4"), ("x", "f8")]),
    "read only": lambda: numpy.frombuffer(RAW, dtype=numpy.uint8),
    "datetime as int": lambda: numpy.arange(3).astype("M8[s]").view("i8"),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_the_bytes_stored_are_the_bytes_of_the_object(store, kind):
    value = BUFFERS[kind]()
    expected = memoryview(value).tobytes()
    assert store.put("k", value) == 0
    assert store.get("k") == expected
    assert store.put_batch(["a", "b"], [b"x", value]) == 0
    assert store.get_batch(["a", "b"]) == [b"x", expected]
    assert store.upsert("a", value) == 0
    assert store.get("a") == expected


@pytest.mark.parametrize(
    "make", [lambda: numpy.array([{}, []], dtype=object), lambda: numpy.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])]
)
def test_references_to_python_objects_are_refused(store, make):
    with pytest.raises(TypeError):
        store.put("k", make())
    with pytest.raises(TypeError):
        store.put_batch(["k"], [make()])


def test_a_released_memoryview_is_a_value_error(store):
    view = memoryview(bytearray(4))
    view.release()
    with pytest.raises(ValueError):
        store.put("k", view)


def test_a_bytearray_can_be_resized_after_the_put(store):
    value = bytearray(b"1234")
    assert store.put("k", value) == 0
    value.extend(b"5" * 1000)
    assert store.put_batch(["l"], [value]) == 0
    value.clear()


@pytest.mark.parametrize("failing", [None, 5, "text"])
def test_a_batch_that_fails_half_way_releases_its_buffers(store, failing):
    value = bytearray(b"1234")
    with pytest.raises(TypeError):
        store.put_batch(["a", "b"], [value, failing])
    with pytest.raises(TypeError):
        store.put_parts("a", value, failing)
    value.extend(b"5" * 1000)


PARTS = [
    (b"a", b"b", b"c"),
    (b"", b"x", b""),
    (bytearray(b"one"), memoryview(b"two"), b"three"),
    (memoryview(b"abcdef")[::2], memoryview(b"xyz")[::-1]),
    (numpy.arange(5, dtype=numpy.int8), numpy.arange(3, dtype=numpy.uint8)),
    (b"28 bytes of metadata, or so..", memoryview(bytearray(1 << 19))),
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda p: str(len(p)))
def test_parts_are_written_one_after_another(fake, store, parts):
    assert store.put_parts("k", *parts) == 0
    assert store.get("k") == b"".join(memoryview(part).tobytes() for part in parts)
    assert store.put_parts("l", *parts, config=fake.ReplicateConfig()) == 0


@pytest.mark.parametrize(
    "part", [numpy.arange(4, dtype=numpy.int16), numpy.zeros((2, 2), dtype=numpy.uint8), array.array("I", [1]), numpy.float32(1)]
)
def test_parts_are_one_dimensional_bytes(store, part):
    with pytest.raises(RuntimeError, match="parts must be 1-D bytes-like"):
        store.put_parts("k", b"x", part)


def test_parts_need_a_key(store):
    with pytest.raises(TypeError, match="key"):
        store.put_parts()
    with pytest.raises(TypeError, match="key"):
        store.put_parts(key="k")
    with pytest.raises(TypeError):
        store.put_parts("k", b"v", config=None)


# ---- handles ----


def test_a_private_copy_is_writable(store):
    store.put("k", b"hello")
    handle = store.get_buffer("k")
    assert len(handle) == handle.size() == 5
    assert handle.ptr() == numpy.frombuffer(handle, dtype=numpy.uint8).ctypes.data
    assert ctypes.string_at(handle.ptr(), 5) == b"hello"
    view = memoryview(handle)
    assert (view.format, view.itemsize, view.ndim, view.shape, view.strides) == ("b", 1, 1, (5,), (1,))
    assert not view.readonly and view.c_contiguous
    view[0] = 72
    assert bytes(handle) == b"Hello"
    assert store.get("k") == b"hello"
    with pytest.raises((TypeError, ValueError)):
        view[0] = 200


def test_a_view_is_read_only(store):
    store.put("view:k", b"hello")
    handle = store.get_buffer("view:k")
    view = memoryview(handle)
    assert view.readonly and bytes(view) == b"hello"
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((BufferError, TypeError)):
        (ctypes.c_char * 5).from_buffer(handle)
    assert not numpy.frombuffer(handle, dtype=numpy.uint8).flags.writeable


def test_the_bytes_live_as_long_as_a_view(fake, store):
    store.put("k", b"hello" * 1000)
    view = memoryview(store.get_buffer("k"))[5:]
    array_ = numpy.frombuffer(store.get_buffer("k"), dtype=numpy.uint8)
    assert store.counters()["handles"] == 2
    store.close()
    assert bytes(view) == b"hello" * 999 and array_.tobytes() == b"hello" * 1000
    del view, array_
    assert fake.MooncakeDistributedStore().counters()["handles"] == 0


def test_handles_have_no_attributes_of_the_user(store):
    store.put("k", b"x")
    handle = store.get_buffer("k")
    with pytest.raises(AttributeError):
        handle.name = 1
    assert repr(handle) == "<BufferHandle size=1>"
