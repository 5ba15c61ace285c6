"""The CUDA driver by ctypes, for tests and benchmarks that need GPU memory without a framework.

MCS_TEST_CUDA=real takes the machine's driver (make test-gpu, make bench-gpu); otherwise the fake one of the build (tests/fake_cuda).
"""

import atexit
import ctypes
import os
import pathlib
import sys


def fake_path():
    return pathlib.Path(os.environ["MCS_BUILD_DIR"]) / "tests" / "fake_cuda" / "libcuda.so.1"


class Cuda:
    def __init__(self):
        self.is_real = os.environ.get("MCS_TEST_CUDA") == "real"
        self.lib = ctypes.CDLL("libcuda.so.1" if self.is_real else str(fake_path()))
        self._contexts = {}
        self._allocated = 0

    def call(self, name, *args):
        result = getattr(self.lib, name)(*args)
        if result != 0:
            raise RuntimeError(f"{name}: CUDA error {result}")

    def start(self):
        self.call("cuInit", 0)
        _started.append(self)
        return self

    def version(self):
        version = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def count(self):
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def name(self, device=0):
        text = ctypes.create_string_buffer(128)
        handle = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        self.call("cuDeviceGetName", text, len(text), handle)
        return text.value.decode()

    def use(self, device=0):
        """The device's primary context, current on this thread."""
        if device not in self._contexts:
            handle = ctypes.c_int()
            context = ctypes.c_void_p()
            self.call("cuDeviceGet", ctypes.byref(handle), device)
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
            self._contexts[device] = context
        self.call("cuCtxSetCurrent", self._contexts[device])

    def alloc(self, size, device=0, managed=False):
        self.use(device)
        ptr = ctypes.c_uint64()
        if managed:
            self.call("cuMemAllocManaged", ctypes.byref(ptr), ctypes.c_size_t(size), 1)
        else:
            self.call("cuMemAlloc_v2", ctypes.byref(ptr), ctypes.c_size_t(size))
        self._allocated += 1
        return ptr.value

    def free(self, ptr):
        self.call("cuMemFree_v2", ctypes.c_uint64(ptr))
        self._allocated -= 1

    def write(self, ptr, data):
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(ptr), bytes(data), ctypes.c_size_t(len(data)))

    def read(self, ptr, size):
        data = ctypes.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(ptr), ctypes.c_size_t(size))
        return data.raw

    def pinned(self, size):
        ptr = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(ptr), ctypes.c_size_t(size), 1)
        return ptr.value

    def stream(self, device=0, flags=1):
        """A stream of the program's own; flags 1: it does not wait for the default stream."""
        self.use(device)
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), flags)
        return stream.value

    def event(self, stream):
        """What is on the stream now."""
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 2)
        self.call("cuEventRecord", event, ctypes.c_void_p(stream))
        return event.value

    def wait(self, stream, event):
        """The stream does; nobody else."""
        self.call("cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), 0)

    def copy_later(self, target, source, size, stream):
        """In the order of a stream; with pinned memory it has not happened when this returns."""
        self.call("cuMemcpyAsync", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def left(self):
        """What the fake driver has that this program did not make, and what it saw go wrong: "" when all is well."""
        if self.is_real:
            return ""
        counts = Counts()
        self.lib.fake_cuda_counts(ctypes.byref(counts))
        self.lib.fake_cuda_violation.restype = ctypes.c_char_p
        mine = {"contexts": len(self._contexts), "device_allocs": self._allocated}
        wrong = [f"{name} {getattr(counts, name)}" for name in Counts.LEFT if getattr(counts, name) != mine.get(name, 0)]
        violation = self.lib.fake_cuda_violation().decode()
        return ", ".join(wrong + ([violation] if violation else []))


_started = []


@atexit.register
def nothing_is_left():
    """A process that leaves something in the fake driver, or used it wrongly, has failed. Stores that are open are closed first, as they are at exit."""
    if _started and (store := sys.modules.get("mooncake.store")):
        store._close_all()
    for cuda in _started:
        if left := cuda.left():
            sys.stdout.flush()
            print(f"fake_cuda: at exit: {left}", file=sys.stderr, flush=True)
            os._exit(86)


class Counts(ctypes.Structure):
    """fake_counts_t of tests/fake_cuda/fake_cuda.h."""

    LEFT = ("contexts", "device_allocs", "registered", "modules", "pushed", "memories", "reserved")
    _fields_ = [(name, ctypes.c_int64) for name in "contexts pushed streams events device_allocs host_allocs registered modules pending memories reserved".split()]
    _fields_ += [(name, ctypes.c_uint64) for name in "violations calls copies unpinned_copies batches launches synchronized most_pending flushes".split()]
