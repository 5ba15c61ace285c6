"""What the Python tests share: where the builds are, a master process, scripts in new interpreters."""

import contextlib
import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 30
NO_CWD = ["-P"] if sys.version_info >= (3, 11) else []  # the working folder is not on the path


def _find_build_dir():
    given = os.environ.get("MCS_BUILD_DIR")
    candidates = [pathlib.Path(given)] if given else [ROOT / "build" / "release", ROOT / "build" / "dev"]
    for folder in candidates:
        if (folder / "python_fake").is_dir() or (folder / "python").is_dir():
            return folder.resolve()
    raise RuntimeError(f"no Python module in {', '.join(map(str, candidates))}: build it, or set MCS_BUILD_DIR")


BUILD_DIR = _find_build_dir()
REAL_PATH = BUILD_DIR / "python"
FAKE_PATH = BUILD_DIR / "python_fake"


def import_fake():
    package = types.ModuleType("mooncake_fake")
    package.__path__ = [str(FAKE_PATH / "mooncake")]
    sys.modules.setdefault("mooncake_fake", package)
    return importlib.import_module("mooncake_fake.store")


SETUP = ("localhost", "P2PHANDSHAKE", 0, 1 << 20, "tcp", "", "fake:1")


def wait_until(condition, what, deadline_s=DEADLINE_S):
    """Polls until condition() is true, and gives what it returned."""
    end = time.monotonic() + deadline_s
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.01)
    return result


def free_ports(count):
    """Distinct free TCP ports of loopback (a moment ago)."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
        return ports


def http_ok(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class Master:
    """A mooncake_master process with its HTTP metadata server, on free ports of loopback."""

    def __init__(self, folder, *flags, ports=None):
        self.rpc_port, self.http_port, self.metrics_port = ports or free_ports(3)
        self.log_path = folder / f"master-{self.rpc_port}.log"
        self.log = open(self.log_path, "ab")
        binary = BUILD_DIR / "master" / "mooncake_master"
        self.process = subprocess.Popen(
            [
                str(binary),
                "--rpc_address=127.0.0.1",
                f"--rpc_port={self.rpc_port}",
                "--metrics_host=127.0.0.1",
                f"--metrics_port={self.metrics_port}",
                "--enable_http_metadata_server=true",
                "--http_metadata_server_host=127.0.0.1",
                f"--http_metadata_server_port={self.http_port}",
                *flags,
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.address = f"127.0.0.1:{self.rpc_port}"
        self.metadata = f"http://127.0.0.1:{self.http_port}/metadata"
        wait_until(self._is_up, f"the master serves (log {self.log_path})")

    def _is_up(self):
        assert self.process.poll() is None, self.log_path.read_text(errors="replace")
        return http_ok(f"http://127.0.0.1:{self.metrics_port}/health")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()


def run_python(code, package="fake", timeout=60, env=None, check=True):
    """Runs code in a new interpreter that finds `package` as mooncake; gives the finished process."""
    path = {"fake": FAKE_PATH, "real": REAL_PATH}[package]
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONFAULTHANDLER": "1", **(env or {})}
    done = subprocess.run(
        [sys.executable, *NO_CWD, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=timeout, env=environment
    )
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
