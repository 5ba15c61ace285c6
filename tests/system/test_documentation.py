"""The documentation's examples run word for word. In a network of their own the documented ports are free; elsewhere the ports are replaced."""

import pathlib
import re

import pytest

from tests.support.processes import find_build_dir, run_python

EXAMPLES = pathlib.Path(__file__).parent / "examples"

EXPECTED = {
    "hello_world": "Hello, Mooncake Store!",
    "hello_p2p": "Hello, Mooncake Store!",
    "numpy_arrays": "equal: True",
    "register_buffers": "Buffer registered successfully\nput: 0",
    "zero_copy": ("Successfully stored 4000000 bytes with zero-copy\nSuccessfully retrieved 4000000 bytes with zero-copy\nData matches: True\n"
                  "Buffer unregistered successfully\nReceive buffer unregistered successfully"),
    "batches": ("batch: 0 [b'value1', b'value2', b'value3']\nexist: [1, 1, 1, 0]\nput_from: [0, 0, 0, 0]\n"
                "get_into: [262144, 262144, 262144, 262144]\nmatch: True"),
    "buffer_protocol": "Buffer size: 4000000 bytes\nmatch: True ptr: True len: 4000000\nmissing: None",
}


def check(done, name):
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == EXPECTED[name]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name, master, scratch):
    code = (EXAMPLES / f"{name}.py").read_text()
    if "numpy" in code:
        pytest.importorskip("numpy")
    code = re.sub(r"localhost:50051", master.address, code)
    code = re.sub(r"http://localhost:8080/metadata", master.metadata, code)
    check(run_python(code, scratch), name)
    assert master.segments() == [], "a segment is left after close"


@pytest.mark.netns
@pytest.mark.parametrize("name", ["hello_world", "hello_p2p"])
def test_quick_start_runs_word_for_word_on_the_documented_ports(name, networks, scratch):
    """mooncake_master with the documented flags and otherwise its defaults, then the program as printed."""
    import subprocess

    from tests.support.waiting import wait_until

    network, = networks(1)
    log_path = scratch.log("master")
    with open(log_path, "wb") as log:
        master = subprocess.Popen([*network.prefix, str(find_build_dir() / "master" / "mooncake_master"), "--enable_http_metadata_server=true",
                                   "--http_metadata_server_host=0.0.0.0", "--http_metadata_server_port=8080", f"--ipc_dir={scratch.folder('ipc')}"],
                                  stdout=log, stderr=log)
    try:
        wait_until(lambda: "Master service started on port 50051" in log_path.read_text() or master.poll() is not None, "the master serves")
        check(run_python((EXAMPLES / f"{name}.py").read_text(), scratch, prefix=network.prefix), name)
    finally:
        master.terminate()
        assert master.wait(15) == 0, log_path.read_text()
