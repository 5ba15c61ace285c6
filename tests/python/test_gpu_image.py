"""The CUDA kernels in the build: what code the embedded image has."""

import struct

import pytest
from python_support import BUILD_DIR


def test_the_image_has_ptx_for_compute_75_and_code_for_sm_80_90_and_100():
    path = BUILD_DIR / "gpu" / "paged.fatbin"
    if not path.exists():
        pytest.skip("built without CUDA kernels: there was no nvcc")
    image = path.read_bytes()
    magic, _, at, size = struct.unpack_from("<IHHQ", image)
    assert magic == 0xBA55ED50
    end, found = at + size, set()
    while at < end:
        kind, _, header, length = struct.unpack_from("<HHIQ", image, at)
        found.add(({1: "compute", 2: "sm"}[kind], struct.unpack_from("<I", image, at + 28)[0]))
        at += header + length
    assert found == {("compute", 75), ("sm", 80), ("sm", 90), ("sm", 100)}
    module = BUILD_DIR / "python" / "mooncake" / "store.abi3.so"
    assert not module.exists() or image in module.read_bytes()
