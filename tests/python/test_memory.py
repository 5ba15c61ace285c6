"""Addresses that are no memory give -600 to their key; nothing is touched, nobody dies."""

import ctypes
import mmap

import pytest

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@pytest.fixture
def area():
    """64 pages: 0-15 read and write, 16-31 read, 32-47 nothing allowed, 48-63 not there."""
    start = libc.mmap(None, 64 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value)
    assert libc.mprotect(start + 16 * PAGE, 16 * PAGE, mmap.PROT_READ) == 0
    assert libc.mprotect(start + 32 * PAGE, 16 * PAGE, 0) == 0
    assert libc.munmap(start + 48 * PAGE, 16 * PAGE) == 0
    yield start
    libc.munmap(start, 48 * PAGE)


# (offset in the area or absolute number, size, readable, writable)
RANGES = [
    (0, 1, True, True),
    (1, 15 * PAGE, True, True),
    (0, 16 * PAGE, True, True),
    (0, 16 * PAGE + 1, True, False),
    (16 * PAGE, 16 * PAGE, True, False),
    (16 * PAGE, 16 * PAGE + 1, False, False),
    (32 * PAGE, 1, False, False),
    (47 * PAGE, PAGE + 1, False, False),
    (48 * PAGE, 1, False, False),
    (0, 64 * PAGE, False, False),
    (0, 1 << 40, False, False),
    (0, (1 << 63) - 1, False, False),
    (0, 1 << 63, False, False),
    (0, (1 << 64) - 1, False, False),
]
WILD = [0, 1, 7, 4096, 0xDEADBEEF, (1 << 47) - 1, 1 << 47, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1]


@pytest.mark.parametrize("offset, size, readable, writable", RANGES)
def test_reads_need_memory_that_can_be_read(store, area, offset, size, readable, writable):
    expected = 0 if readable else -600
    address = area + offset
    assert store.put_from("a", address, size) == expected
    assert store.upsert_from("a", address, size) == expected
    assert store.batch_put_from(["b"], [address], [size]) == [expected]
    assert store.batch_upsert_from(["c"], [address], [size]) == [expected]
    assert store.batch_put_from_multi_buffers(["d"], [[area, address]], [[1, size]]) == [expected]
    assert abs(store.put_from_with_metadata("e", address, area, size, 1)) == -expected
    assert abs(store.put_from_with_metadata("f", area, address, 1, size)) == -expected


@pytest.mark.parametrize("offset, size, readable, writable", RANGES)
def test_writes_need_memory_that_can_be_written(store, area, offset, size, readable, writable):
    store.put("one", b"x")
    expected = 1 if writable else -600
    address = area + offset
    assert store.get_into("one", address, size) == expected
    assert store.batch_get_into(["one"], [address], [size]) == [expected]
    assert store.batch_get_into_multi_buffers(["one"], [[area, address]], [[0, size]]) == [expected]


@pytest.mark.parametrize("offset, size, readable, writable", RANGES)
def test_registration_needs_memory_that_can_be_written(store, area, offset, size, readable, writable):
    assert store.register_buffer(area + offset, size) == (0 if writable else -600)
    store.put("one", b"x")
    assert store.get_into("one", area + offset, size) == (1 if writable else -600), "registered or not"


@pytest.mark.parametrize("address", WILD, ids=hex)
@pytest.mark.parametrize("size", [1, 4096, 1 << 20, 1 << 62, (1 << 64) - 1], ids=hex)
def test_wild_numbers(store, address, size):
    store.put("one", b"x")
    assert store.put_from("w", address, size) == -600
    assert store.get_into("one", address, size) == -600
    assert store.register_buffer(address, size) == -600
    assert store.unregister_buffer(address) == -600
    assert store.batch_put_from(["w"], [address], [size]) == [-600]
    assert store.batch_get_into(["one"], [address], [size]) == [-600]
    assert store.put_from_with_metadata("w", address, address, size, size) == 600
    assert store.is_exist("w") == 0


def test_a_wrong_address_fails_its_key_alone(store, area):
    ctypes.memmove(area, b"abcdefgh", 8)
    keys = ["a", "b", "c", "d", "e"]
    addresses = [area, 0, area + 4, area + 40 * PAGE, area + 50 * PAGE]
    assert store.batch_put_from(keys, addresses, [4] * 5) == [0, -600, 0, -600, -600]
    assert store.batch_is_exist(keys) == [1, 0, 1, 0, 0]
    assert store.batch_get_into(["a", "a", "c", "a"], [area + 64, 5, area + 128, area + 20 * PAGE], [4] * 4) == [4, -600, 4, -600]
    assert ctypes.string_at(area + 64, 4) == b"abcd" and ctypes.string_at(area + 128, 4) == b"efgh"


def test_memory_is_asked_about_again_after_it_went(store, area):
    assert store.put_from("a", area, PAGE) == 0
    assert libc.munmap(area, PAGE) == 0
    assert store.put_from("b", area, PAGE) == -600
    assert store.put_from("b", area + PAGE, PAGE) == 0


def test_registration_is_forgotten_at_close(fake, store, area):
    from python_support import SETUP

    assert store.register_buffer(area, PAGE) == 0
    store.close()
    assert store.setup(*SETUP) == 0
    assert libc.munmap(area, PAGE) == 0
    assert store.put_from("b", area, PAGE) == -600
