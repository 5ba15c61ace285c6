"""make test-gpu, make bench-gpu and the folder that they take to a machine without network: dry runs on the fake driver."""

import os
import shutil
import subprocess

import pytest

from tests.support.processes import ROOT, find_build_dir

BUILD_DIR = find_build_dir()

NEEDED = ["python/mooncake/store.abi3.so", "master/mooncake_master", "client/mooncake_client", "libmcstore.so", "tests/unit/gpu/test_gpu_real",
          "tests/fake_cuda/libcuda.so.1", "python_tests/dlpack_peer.abi3.so"]  # fmt: skip


# One of each file, and quick: make test runs all of them.
PICKED = "a_driver_that_is_loaded_after or a_segment_of_setup_and_what_is_refused or the_device_asked_for_is_the_one"


def run(*args, exit_code=0, **env):
    done = subprocess.run(args, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == exit_code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    missing = [path for path in NEEDED if not (BUILD_DIR / path).exists()]
    if missing:
        pytest.skip(f"not built: {', '.join(missing)}")
    if shutil.which("ldconfig", path=os.environ["PATH"] + ":/sbin:/usr/sbin") is None:
        pytest.skip("no ldconfig")
    folder = tmp_path_factory.mktemp("gpu") / "carry"
    said = run("tools/gpu_carry.sh", str(BUILD_DIR), str(folder))
    assert "needs glibc" in said
    for path in sorted(folder.rglob("*"), reverse=True):  # as on a disk that nobody may write to
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


def test_the_benchmark_runs_from_a_carried_folder_and_compares_every_byte(folder, tmp_path):
    out = tmp_path / "results.json"
    said = run("tools/bench_gpu.sh", str(folder), "--quick", "--json", str(out), MCS_GPU_DRY="1")
    order = ["FAKE DRIVER", "pinned host to device", "device to pinned host", "device to device", "pageable host to device", "one batch", "Whole values, own segment",
             "Whole values, same host", "Whole values, tcp", "Paged keys by the driver", "gather (put)", "scatter (get)", "1024 fragments, by C"]  # fmt: skip
    at = [said.find(what) for what in order]
    assert -1 not in at and at == sorted(at), said
    assert out.stat().st_size > 0


def test_the_tests_run_from_a_carried_folder(folder):
    said = run("tools/test_gpu.sh", str(folder), "-v", "-k", PICKED, MCS_GPU_DRY="1")
    assert "[  PASSED  ]" in said and " passed" in said, said
    for name in ("gpu", "gpu_tier", "gpu_tensors", "gpu_frameworks"):
        assert f"tests/python/test_{name}.py" in said, said  # run, or skipped for what the machine lacks


def test_a_failure_is_the_scripts_too():
    if not (BUILD_DIR / NEEDED[4]).exists():
        pytest.skip("not built")
    said = run("tools/test_gpu.sh", str(BUILD_DIR), "-k", "a_test_that_does_not_exist", exit_code=1, MCS_GPU_DRY="1")
    assert " deselected" in said and " passed" not in said


@pytest.mark.skipif(any(os.path.exists(f"/dev/nvidia{i}") for i in range(8)), reason="there is a GPU")
@pytest.mark.parametrize("script", ["test_gpu", "bench_gpu"])
def test_without_a_gpu_they_say_so_and_succeed(script):
    assert "skipped: no NVIDIA device" in run(f"tools/{script}.sh", str(BUILD_DIR), MCS_GPU_DRY="")
