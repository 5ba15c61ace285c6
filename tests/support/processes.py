"""The processes of a system test: a mooncake_master, and peers that hold a MooncakeDistributedStore and do what they are told.

All are children of the test: they die with their fixture, by pid. Ports are free ones of the loopback (or of a network namespace), sockets lie in a
folder of the test's own.
"""

import contextlib
import inspect
import os
import pickle
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request

from tests.support.waiting import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20


def find_build_dir() -> pathlib.Path:
    """MCS_BUILD_DIR, else build/release, else build/dev."""
    given = os.environ.get("MCS_BUILD_DIR")
    candidates = [pathlib.Path(given)] if given else [ROOT / "build" / "release", ROOT / "build" / "dev"]
    for folder in candidates:
        if (folder / "master" / "mooncake_master").exists() and (folder / "python" / "mooncake" / "store.abi3.so").exists():
            return folder.resolve()
    raise RuntimeError(f"no mooncake_master and mooncake.store in {', '.join(map(str, candidates))}: build it, or set MCS_BUILD_DIR")


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports


def http(url: str, method: str = "GET", body: bytes | None = None, timeout: float = 10) -> tuple[int, str, dict]:
    """Status, text and headers, also of an error; OSError when nobody answers."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace"), dict(error.headers)


class Scratch:
    """A folder with a short name (a socket path has 108 bytes at most), and a log file for each process."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="mcs-", dir="/tmp")
        self.path = pathlib.Path(self._folder.name)
        self._logs = 0

    def log(self, name: str) -> pathlib.Path:
        self._logs += 1
        return self.path / f"{self._logs}-{name}.log"

    def folder(self, name: str) -> pathlib.Path:
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def close(self) -> None:
        self._folder.cleanup()


class _Process:
    """A child with its stderr in a file. Signals go to this pid only."""

    process: subprocess.Popen
    log_path: pathlib.Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def alive(self) -> bool:
        return self.process.poll() is None

    def freeze(self) -> None:
        """SIGSTOP, and waits until every thread stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all((t / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for t in tasks.iterdir()),
                   f"process {self.pid} has stopped")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(30)


class Master(_Process):
    """A mooncake_master, serving."""

    def __init__(self, scratch: Scratch, *flags: str, host: str = "127.0.0.1", prefix: list[str] | None = None,
                 ports: list[int] | None = None):
        self.host = host
        self.flags = flags
        self._scratch = scratch
        self._prefix = prefix or []
        for _ in range(5):  # a port that was free may be taken before the master binds it
            self.rpc_port, self.metrics_port, self.metadata_port = ports or free_ports(3)
            self._start()
            if self._comes_up():
                return
            assert ports is None, self.log()
        raise AssertionError(f"the master does not start: {self.log()}")

    def _start(self) -> None:
        self.log_path = self._scratch.log("master")
        binary = find_build_dir() / "master" / "mooncake_master"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*self._prefix, str(binary), f"--rpc_address={self.host}", f"--rpc_port={self.rpc_port}",
                 f"--metrics_host={self.host}", f"--metrics_port={self.metrics_port}", "--enable_http_metadata_server=true",
                 f"--http_metadata_server_host={self.host}", f"--http_metadata_server_port={self.metadata_port}",
                 f"--ipc_dir={self._scratch.folder('ipc')}", *self.flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _comes_up(self) -> bool:
        # It says so when everything is bound; a master in another network cannot be asked from here.
        wait_until(lambda: not self.alive() or "Master service started on port" in self.log(), "the master serves", 30)
        return self.alive()

    def restart(self) -> None:
        """On the same ports, after kill or stop."""
        assert not self.alive()
        self._start()
        assert self._comes_up(), self.log()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.rpc_port}"

    @property
    def metadata(self) -> str:
        return f"http://{self.host}:{self.metadata_port}/metadata"

    def admin(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
        return http(f"http://{self.host}:{self.metrics_port}{path}", method, body)[:2]

    def metrics(self) -> dict[str, float]:
        """Samples by name; those with labels as name{label="value"}."""
        status, text = self.admin("/metrics")
        assert status == 200
        return {m[1]: float(m[2]) for m in re.finditer(r"^([a-zA-Z_:][^\s{]*(?:\{[^}]*\})?) ([-+.eE\d]+)$", text, re.M)}

    def allocated(self) -> int:
        return int(self.metrics().get("master_allocated_bytes", 0))

    def segments(self) -> list[str]:
        return self.admin("/get_all_segments")[1].split()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the master ignores SIGTERM:\n{self.log()[-2000:]}") from None


def rdma_env() -> dict[str, str]:
    """The environment of a peer of protocol rdma: with this machine's devices, or else UCX's emulation over TCP. MCS_TEST_UCX: of that library."""
    ports = pathlib.Path("/sys/class/infiniband").glob("*/ports/*/state")
    devices = any("ACTIVE" in port.read_text() for port in ports)
    library = {"MC_STORE_UCX_LIB": os.environ.get("MCS_TEST_UCX", "system")} if devices or "MCS_TEST_UCX" in os.environ else {}
    return {"MC_STORE_MEMCPY": "0", "MC_STORE_RDMA_TRANSPORTS": "rc" if devices else "tcp"} | library


class PeerDied(Exception):
    pass


class PeerError(Exception):
    """The call in the peer raised; the text is its traceback."""


class Peer(_Process):
    """A process with a store (not set up yet) that runs one call at a time."""

    def __init__(self, scratch: Scratch, name: str = "peer", env: dict[str, str] | None = None, prefix: list[str] | None = None):
        self.name = name
        self.log_path = scratch.log(name)
        build = find_build_dir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MC_")}
        environment |= {"PYTHONPATH": f"{build / 'python'}:{ROOT}", "PYTHONFAULTHANDLER": "1", "MC_STORE_IPC_DIR": str(scratch.folder("ipc"))}
        environment |= env or {}
        self.protocol = "rdma" if "MC_STORE_RDMA_TRANSPORTS" in environment else "tcp"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*(prefix or []), sys.executable, "-m", "tests.support.peer_main"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, env=environment, cwd=ROOT)
        self._input = bytearray()
        self._waiting = 0
        os.set_blocking(self.process.stdout.fileno(), False)

    def start(self, what: str, *args, **kwargs) -> None:
        """Begins store.<what>(…) without waiting."""
        self._send(("call", what, args, kwargs))

    def start_run(self, function, *args) -> None:
        """Begins function(store, *args) there. The function imports what it needs: its source travels, its globals do not."""
        self._send(("run", function.__name__, textwrap.dedent(inspect.getsource(function)), args))

    def result(self, timeout: float = 60):
        """Of the oldest call begun."""
        assert self._waiting > 0
        self._waiting -= 1
        fine, value = self._receive(timeout)
        if not fine:
            raise PeerError(value)
        return value

    def call(self, what: str, *args, timeout: float = 60, **kwargs):
        self.start(what, *args, **kwargs)
        return self.result(timeout)

    def run(self, function, *args, timeout: float = 60):
        self.start_run(function, *args)
        return self.result(timeout)

    def setup(self, master: Master | str, segment: int = 64 * MIB, buffer: int = 32 * MIB, host: str = "127.0.0.1",
              metadata: str = "P2PHANDSHAKE") -> "Peer":
        """store.setup; asserts that it is 0."""
        address = master if isinstance(master, str) else master.address
        code = self.call("setup", host, metadata, segment, buffer, self.protocol, "", address)
        assert code == 0, f"{self.name}: setup {code}\n{self.log()[-2000:]}"
        return self

    def counters(self) -> dict[str, int]:
        return self.call("counters")

    def hostname(self) -> str:
        return self.call("get_hostname")

    def close(self, timeout: float = 20) -> None:
        """Lets the process end by itself (its store closes at the interpreter's exit); kills it when it does not."""
        if self.alive():
            with contextlib.suppress(OSError):
                self.thaw()
                self.process.stdin.close()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} does not end:\n{self.log()[-2000:]}") from None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()

    def _send(self, request) -> None:
        data = pickle.dumps(request)
        self._waiting += 1
        try:
            self.process.stdin.write(struct.pack("<Q", len(data)) + data)
            self.process.stdin.flush()
        except OSError:
            raise PeerDied(self._obituary()) from None

    def _receive(self, timeout: float):
        end = time.monotonic() + timeout
        while len(self._input) < 8 or len(self._input) < 8 + struct.unpack_from("<Q", self._input)[0]:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.name} (pid {self.pid}) gave no answer within {timeout:g} s\n{self.log()[-2000:]}")
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 20)
                if not data:
                    raise PeerDied(self._obituary())
                self._input += data
        size = struct.unpack_from("<Q", self._input)[0]
        value = pickle.loads(self._input[8:8 + size])
        del self._input[:8 + size]
        return value

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return f"{self.name} (pid {self.pid}) died, exit code {self.process.poll()}\n{self.log()[-3000:]}"


def run_python(code: str, scratch: Scratch, env: dict[str, str] | None = None, timeout: float = 60, prefix: list[str] | None = None,
               args: list[str] | None = None) -> subprocess.CompletedProcess:
    """Runs a program in an interpreter of its own that finds mooncake.store."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MC_")}
    environment |= {"PYTHONPATH": f"{find_build_dir() / 'python'}:{ROOT}", "PYTHONFAULTHANDLER": "1",
                    "MC_STORE_IPC_DIR": str(scratch.folder("ipc"))}
    environment |= env or {}
    return subprocess.run([*(prefix or []), sys.executable, "-c", code, *(args or [])], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout, cwd=scratch.path)
