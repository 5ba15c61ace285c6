"""GPU memory through the Python API: on the fake driver (tests/fake_cuda), or with MCS_TEST_CUDA=real on the machine's (make test-gpu).

Each test is a process of its own, because a driver, once loaded, stays."""

import os

import pytest
from python_support import BUILD_DIR, free_ports, run_python

HERE = os.path.dirname(os.path.abspath(__file__))

START = f"""
import os, sys
os.environ.setdefault("MCS_BUILD_DIR", {str(BUILD_DIR)!r})
sys.path.insert(0, {HERE!r})
import random
from cuda_driver import Cuda
from mooncake.store import MooncakeDistributedStore
rng = random.Random(5)

def make(segment=96 << 20, master="embedded", **env):
    os.environ.update(env)
    store = MooncakeDistributedStore()
    assert store.setup("localhost", "P2PHANDSHAKE", segment, 16 << 20, "tcp", "", master) == 0
    for name in env:
        del os.environ[name]
    return store

def filled(cuda, size, device=0, managed=False):
    data = rng.randbytes(size)
    ptr = cuda.alloc(size, device, managed)
    cuda.write(ptr, data)
    return ptr, data
"""


@pytest.fixture(autouse=True)
def driver(real):
    fake = BUILD_DIR / "tests" / "fake_cuda" / "libcuda.so.1"
    if os.environ.get("MCS_TEST_CUDA") != "real" and not fake.exists():
        pytest.skip("tests/fake_cuda is not built")


def run(script, **env):
    return run_python(START + script, package="real", env=env)


# Two stores of a process with one master; `far` reaches `near`'s segment through the transport only.
PAIR = """
cuda = Cuda().start()
port = {port}
near = make(master=f"embedded:{{port}}")
far = make(segment=0, master=f"127.0.0.1:{{port}}", MC_STORE_MEMCPY="0")
same = make(segment=0, master=f"127.0.0.1:{{port}}")
"""


@pytest.fixture
def pair():
    return PAIR.format(port=free_ports(1)[0])


def test_every_pointer_call_takes_device_memory_on_every_path(pair):
    run(
        pair
        + """
for store, tag in ((near, "near"), (same, "same"), (far, "far")):
    for size in (1, 4097, 1 << 20, (5 << 20) + 3):
        src, data = filled(cuda, size)
        dst, _ = filled(cuda, size)
        key = f"{tag}-{size}"
        assert store.put_from(key, src, size) == 0
        assert store.get(key) == data
        assert store.get_into(key, dst, size) == size
        assert cuda.read(dst, size) == data
        other, data2 = filled(cuda, size)
        assert store.upsert_from(key, other, size) == 0
        assert store.get(key) == data2
        for ptr in (src, dst, other):
            cuda.free(ptr)
    pages, data = filled(cuda, 64 * 8192)
    host = bytearray(rng.randbytes(8192))
    import ctypes
    host_ptr = ctypes.addressof(ctypes.c_char.from_buffer(host))
    keys = [f"{tag}-m{i}" for i in range(6)]
    ptrs = [[pages + (i * 8 + j) * 8192 for j in range(8)] + [host_ptr] for i in range(6)]
    sizes = [[8192] * 9] * 6
    assert store.batch_put_from_multi_buffers(keys, ptrs, sizes) == [0] * 6
    for i, key in enumerate(keys):
        assert store.get(key) == data[i * 65536:(i + 1) * 65536] + bytes(host)
    cuda.write(pages, bytes(64 * 8192))
    assert store.batch_get_into_multi_buffers(keys, ptrs, sizes) == [9 * 8192] * 6
    assert cuda.read(pages, 6 * 65536) == data[:6 * 65536]
    assert store.batch_put_from([f"{tag}-a", f"{tag}-b"], [pages, pages + 8192], [8192, 8192]) == [0, 0]
    assert store.batch_upsert_from([f"{tag}-a"], [pages + 8192], [8192]) == [0]
    assert store.batch_get_into([f"{tag}-a"], [pages], [8192]) == [8192]
    assert cuda.read(pages, 8192) == data[8192:16384]
    assert store.put_from_with_metadata(f"{tag}-meta", pages, host_ptr, 8192, 16) == 0
    cuda.free(pages)
for store in (far, same, near):
    store.close()
"""
    )


def test_registered_device_buffers_serve_ranges_and_sessions(pair):
    run(
        pair
        + """
for store, tag in ((near, "near"), (far, "far")):
    ptr, data = filled(cuda, 1 << 20)
    assert store.register_buffer(ptr, 1 << 20) == 0
    assert store.register_buffer(ptr + 4096, 4096) != 0
    key = tag
    assert store.put_from(key, ptr, 1 << 20) == 0
    cuda.write(ptr, bytes(1 << 20))
    assert store.get_into_ranges([ptr], [[key]], [[[0, 500000]]], [[[100, 300000]]], [[[1000, 2000]]]) == [[[1000, 2000]]]
    back = cuda.read(ptr, 1 << 20)
    assert back[:1000] == data[100:1100] and back[500000:502000] == data[300000:302000]
    assert store.batch_get_session_start([key]) == [0]
    assert store.batch_get_into_multi_buffer_ranges([key], [[ptr]], [[1 << 20]], [[0]]) == [1 << 20]
    assert store.batch_get_session_end([key]) == 0
    assert cuda.read(ptr, 1 << 20) == data
    new = tag + "-session"
    assert store.batch_put_session_start([new], [1 << 20]) == [0]
    assert store.batch_put_from_multi_buffer_ranges([new], [[ptr, ptr + 1000]], [[1000, (1 << 20) - 1000]], [[0, 1000]]) == [1 << 20]
    assert store.batch_put_session_end([new]) == [0]
    assert store.get(new) == data
    assert store.unregister_buffer(ptr) == 0
    cuda.free(ptr)
far.close()
same.close()
near.close()
"""
    )


def test_managed_memory_and_several_devices(pair):
    run(
        pair
        + """
for device in range(cuda.count()):
    for managed in (False, True):
        ptr, data = filled(cuda, 2_000_003, device, managed)
        key = f"{device}-{managed}"
        assert far.put_from(key, ptr, len(data)) == 0
        cuda.use(device)
        cuda.write(ptr, bytes(len(data)))
        assert near.get_into(key, ptr, len(data)) == len(data)
        cuda.use(device)
        assert cuda.read(ptr, len(data)) == data
far.close()
same.close()
near.close()
""",
        FAKE_CUDA_DEVICES="2",
    )


def test_a_driver_that_is_loaded_after_set_up_is_found():
    run(
        """
store = make()
assert store.put("host", b"x") == 0
cuda = Cuda()
cuda.start()
ptr, data = filled(cuda, 100000)
assert store.put_from("device", ptr, len(data)) == 0
assert store.get("device") == data
store.close()
"""
    )


def test_freed_device_memory_is_an_error_and_the_store_goes_on():
    run(
        """
cuda = Cuda().start()
store = make()
ptr, data = filled(cuda, 1 << 21)
assert store.register_buffer(ptr, 1 << 21) == 0
assert store.put_from("a", ptr, 1 << 21) == 0
cuda.free(ptr)
assert store.put_from("b", ptr, 1000) == -600
assert store.get_into("a", ptr, 1 << 21) == -600
assert store.unregister_buffer(ptr) == 0
assert store.get("a") == data
store.close()
"""
    )


def test_without_a_driver_a_device_pointer_is_an_error_that_says_so():
    done = run(
        """
import mmap, ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
ptr = libc.mmap(None, 1 << 20, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
store = make()
assert store.put_from("a", ptr, 1000) == -600
assert store.register_buffer(ptr, 1000) == -600
assert store.put("b", b"b") == 0
store.close()
"""
    )
    assert "neither memory of this process nor a GPU's" in done.stderr


@pytest.mark.skipif(os.environ.get("MCS_TEST_CUDA") == "real", reason="needs the fake driver")
@pytest.mark.parametrize("fail", ["cuMemcpyAsync:1:700", "cuStreamCreateWithPriority:1:2", "cuLaunchKernel:1:700", "cuEventRecord:1:719"])
def test_an_error_of_the_driver_is_a_code_and_the_log_names_device_and_driver(fail):
    if fail.startswith("cuLaunchKernel") and not list((BUILD_DIR / "gpu").glob("*.fatbin")):
        pytest.skip("built without CUDA kernels: there was no nvcc")
    done = run(
        """
cuda = Cuda().start()
store = make()
ptr, data = filled(cuda, 1 << 20)
first = store.put_from("a", ptr, 1 << 20)
assert first in (0, -800, -200), first
assert store.put_from("b", ptr, 1 << 20) == 0
assert store.get("b") == data
store.close()
""",
        FAKE_CUDA_FAIL=fail,
    )
    assert "on cuda:0 Fake GPU 0, driver 13.0" in done.stderr
