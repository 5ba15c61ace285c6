"""Memory of the frameworks' own allocators on a real GPU (make test-gpu): torch's caching allocator, with expandable segments too, and cupy. Skipped
where the framework or the GPU is missing; the fake driver is no GPU for them."""

import os

import pytest
from python_support import run_python

if os.environ.get("MCS_TEST_CUDA") != "real":
    pytest.skip("needs a GPU (make test-gpu)", allow_module_level=True)

TORCH = """
import torch
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("localhost", "P2PHANDSHAKE", 1 << 30, 64 << 20, "tcp", "", "embedded") == 0
"""


def has_gpu(module):
    return run_python(f"import {module} as m; m.zeros(4, **({{'device': 'cuda'}} if m.__name__ == 'torch' else {{}}))", "real", check=False).returncode == 0


@pytest.mark.parametrize("expandable", [False, True])
def test_torch_tensors_come_back(expandable):
    if not has_gpu("torch"):
        pytest.skip("torch has no GPU here")
    env = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if expandable else {}
    run_python(
        TORCH
        + """
layers = [torch.randn(512, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(16)]
for layer in layers:
    assert store.register_buffer(layer.data_ptr(), layer.nbytes) == 0
page = 4096 * 2 * 8
wanted = [layer.clone() for layer in layers]
keys = [f"page-{i}" for i in range(64)]
ptrs = [[layer.data_ptr() + i * page for layer in layers] for i in range(64)]
sizes = [[page] * 16] * 64
torch.cuda.synchronize()
assert store.batch_put_from_multi_buffers(keys, ptrs, sizes) == [0] * 64
for layer in layers:
    layer.zero_()
torch.cuda.synchronize()
assert store.batch_get_into_multi_buffers(keys, ptrs, sizes) == [page * 16] * 64
assert all(torch.equal(a, b) for a, b in zip(layers, wanted))
one = torch.arange(10_000_000, device="cuda", dtype=torch.int32)
torch.cuda.synchronize()
assert store.put_from("one", one.data_ptr(), one.nbytes) == 0
back = torch.empty_like(one)
assert store.get_into("one", back.data_ptr(), back.nbytes) == one.nbytes
assert torch.equal(one, back)
pinned = torch.empty(10_000_000, dtype=torch.int32, pin_memory=True)
assert store.get_into("one", pinned.data_ptr(), pinned.nbytes) == pinned.nbytes
assert torch.equal(one.cpu(), pinned)
store.close()
""",
        "real",
        env=env,
        timeout=300,
    )


def test_cupy_arrays_come_back():
    if not has_gpu("cupy"):
        pytest.skip("cupy has no GPU here")
    run_python(
        """
import cupy
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("localhost", "P2PHANDSHAKE", 1 << 30, 64 << 20, "tcp", "", "embedded") == 0
a = cupy.random.random(5_000_001)
cupy.cuda.get_current_stream().synchronize()
assert store.put_from("a", a.data.ptr, a.nbytes) == 0
b = cupy.empty_like(a)
assert store.get_into("a", b.data.ptr, b.nbytes) == a.nbytes
assert bool((a == b).all())
store.close()
""",
        "real",
        timeout=300,
    )
