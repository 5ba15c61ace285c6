"""The CUDA driver by ctypes, for tests and benchmarks that need GPU memory without a framework.

MCS_TEST_CUDA=real takes the machine's driver (make test-gpu, make bench-gpu); otherwise the fake one of the build (tests/fake_cuda).
"""

import ctypes
import os
import pathlib


def fake_path():
    return pathlib.Path(os.environ["MCS_BUILD_DIR"]) / "tests" / "fake_cuda" / "libcuda.so.1"


class Cuda:
    def __init__(self):
        self.is_real = os.environ.get("MCS_TEST_CUDA") == "real"
        self.lib = ctypes.CDLL("libcuda.so.1" if self.is_real else str(fake_path()))
        self._contexts = {}

    def call(self, name, *args):
        result = getattr(self.lib, name)(*args)
        if result != 0:
            raise RuntimeError(f"{name}: CUDA error {result}")

    def start(self):
        self.call("cuInit", 0)
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
        return ptr.value

    def free(self, ptr):
        self.call("cuMemFree_v2", ctypes.c_uint64(ptr))

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
