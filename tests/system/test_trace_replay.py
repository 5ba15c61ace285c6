"""bench/trace_replay.py at a small size: eviction runs, several clients share blocks, and not one byte is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import find_build_dir

ROOT = Path(__file__).resolve().parents[2]
REPLAY = ROOT / "bench" / "trace_replay.py"


def run(*args: str, **env: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "TRACE"}
    environment |= {"PYTHONPATH": str(find_build_dir() / "python")} | env
    return subprocess.run([sys.executable, str(REPLAY), *args], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=240, cwd=ROOT)


def replay(*args: str, **env: str) -> dict:
    done = run("--json", *args, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# 120 requests name about 700 different blocks: 176 MiB, of which the segments hold 3 x 24 MiB.
SMALL = ("--max-requests", "120", "--object-size", "256K", "--segment-size", "24M", "--clients", "3", "--lease-ms", "300")


def check(result: dict) -> None:
    assert result["wrong_bytes"] == 0
    assert result["errors"] == {}
    assert result["late_misses"] == 0, "exist said 1, and the get inside the lease missed"
    assert result["requests"] == 120
    # More was written than fits: something was evicted, and still prefixes were found.
    assert result["bytes_written"] > 3 * 24 * 2**20
    assert 0.05 < result["hit_rate"] < 1


@pytest.mark.parametrize("path", ["auto", "tcp"])
def test_generated_trace_is_replayed_without_a_wrong_byte(path):
    result = replay(*SMALL, "--path", path)
    check(result)
    carried = result["counters"]
    if path == "tcp":
        assert carried["bytes_fetched"] > 0
        assert carried.get("bytes_same_host_read", 0) == 0
    else:
        assert carried["bytes_same_host_read"] > 0
        assert carried.get("bytes_fetched", 0) == 0


def test_embedded_master_serves_the_other_clients():
    result = replay("--embedded", "--max-requests", "30", "--object-size", "64K", "--clients", "2")
    assert result["wrong_bytes"] == 0 and result["errors"] == {}
    assert result["hit_rate"] > 0


def test_given_trace_is_read_and_shared_prefixes_hit(tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": i, "input_length": 512 * 8, "output_length": 1, "hash_ids": [*range(6), 100 + i]} for i in range(20)]
    trace.write_text("\n".join(map(json.dumps, lines)) + "\n")
    result = replay("--object-size", "128K", "--clients", "2", "--segment-size", "32M", TRACE=str(trace))
    assert result["requests"] == 20 and result["blocks"] == 140
    assert result["wrong_bytes"] == 0
    # Two clients may both meet the prefix first; all later requests find its 6 blocks.
    assert result["hit_rate"] >= round(18 * 6 / 140, 4)  # it is printed with four digits


@pytest.mark.parametrize("line", ['{"hash_ids": [1, "x"]}', "no json", '{"timestamp": 0}', '{"hash_ids": [-1]}'])
def test_line_that_is_no_request_is_named(tmp_path, line):
    trace = tmp_path / "bad.jsonl"
    trace.write_text('{"hash_ids": [1]}\n' + line + "\n")
    done = run("--trace", str(trace))
    assert done.returncode != 0
    assert f"{trace}:2" in done.stderr


def test_wrong_byte_is_found():
    """The check itself: one bit off, one byte shifted, another block's contents."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from harness import Buffer, Pattern
    finally:
        sys.path.pop(0)
    size = 10_003
    pattern, buffer = Pattern(size), Buffer(size)
    pattern.fill(7, buffer.bytes)
    assert pattern.wrong_bytes(7, buffer.bytes) == 0
    assert pattern.wrong_bytes(8, buffer.bytes) > 0.9 * size
    buffer.bytes[size - 1] ^= 1
    assert pattern.wrong_bytes(7, buffer.bytes) == 1
    pattern.fill(7, buffer.bytes)
    buffer.bytes[:-1] = buffer.bytes[1:].copy()
    assert pattern.wrong_bytes(7, buffer.bytes) > 0.9 * size
