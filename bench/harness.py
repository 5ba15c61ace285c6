"""What the demo and the benches share: peers in processes of their own, a master, pre-faulted buffers, checkable contents, tables.

Runs on any module with the API of mooncake.store; the few things that only this implementation has (counters) are asked for in one place.
"""

import ctypes
import math
import mmap
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


def parse_size(text: str) -> int:
    """"640KiB" -> 655360; units are 1024-based. For argparse: ValueError for what is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:I?B)?\s*", text.upper())
    if match is None:
        raise ValueError(f"not a size: {text}")
    return int(float(match.group(1)) * _UNITS[match.group(2)])


def format_size(count: float) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count:.0f} B"


def format_time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def rate(count: int, seconds: float) -> float:
    """GB/s, decimal as network and memory speeds are given."""
    return count / seconds / 1e9 if seconds > 0 else 0.0


def percentile(samples: list[float], q: float) -> float:
    """Nearest rank; nan when there is no sample."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q / 100 * len(ordered)) - 1))]


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """First column left, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, len(row))]
        print("  " + "  ".join(cells).rstrip(), flush=True)


# ---- memory and contents ----

class Buffer:
    """Anonymous memory, page aligned, every page touched: the first touch is 4-50 times slower than a copy."""

    def __init__(self, size: int):
        self.size = size
        self._map = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        self.bytes = np.frombuffer(self._map, dtype=np.uint8)[:size]
        self.bytes.fill(0xA5)
        self.ptr = self.bytes.ctypes.data

    def part(self, offset: int, size: int) -> np.ndarray:
        return self.bytes[offset:offset + size]


class Pattern:
    """Contents that follow from an object's number alone, made and checked at memory speed.

    Object n is a window of one table of random words, XORed with a word that depends on n: two numbers differ in nearly every
    word, and bytes that moved by any distance within an object differ too.
    """

    _WINDOWS = 4096

    def __init__(self, max_size: int, seed: int = 1):
        words = (max_size + 7) // 8
        self._table = np.random.default_rng(seed).integers(0, 2**64, words + self._WINDOWS, dtype=np.uint64)
        self._scratch = np.zeros(words, dtype=np.uint64)
        self._bytes = self._scratch.view(np.uint8)
        self.max_size = max_size

    @staticmethod
    def _mix(number: int) -> int:
        """splitmix64's finaliser."""
        z = (number + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        z = (z ^ z >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        return z ^ z >> 31

    def _make(self, number: int, size: int) -> np.ndarray:
        words = (size + 7) // 8
        mixed = self._mix(number)
        start = mixed % self._WINDOWS
        np.bitwise_xor(self._table[start:start + words], np.uint64(mixed), out=self._scratch[:words])
        return self._bytes[:size]

    def fill(self, number: int, out: np.ndarray) -> None:
        out[:] = self._make(number, out.size)

    def wrong_bytes(self, number: int, found: np.ndarray) -> int:
        """How many bytes of `found` are not object `number`'s."""
        expected = self._make(number, found.size)
        return 0 if np.array_equal(expected, found) else int(np.count_nonzero(expected != found))


def memcpy_rate(size: int, total: int = 128 * MIB, seconds: float = 0.15) -> float:
    """GB/s of memmove in pieces of `size` over pre-faulted memory larger than the caches: the ceiling of every copy."""
    total = max(total // size, 2) * size
    source, target = Buffer(total), Buffer(total)
    copied, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for offset in range(0, total, size):
            ctypes.memmove(target.ptr + offset, source.ptr + offset, size)
        copied += total
    return rate(copied, time.perf_counter() - began)


# ---- master ----

def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_master() -> str | None:
    """Path of mooncake_master: beside the module in a build tree or wheel, else on PATH."""
    import mooncake.store
    package = Path(mooncake.store.__file__).resolve().parent
    for candidate in (package.parent.parent / "master" / "mooncake_master", package / "mooncake_master"):
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which("mooncake_master")


class Master:
    """A mooncake_master of our own on free ports of the loopback."""

    def __init__(self, *flags: str, binary: str | None = None):
        binary = binary or find_master()
        if binary is None:
            raise SystemExit("mooncake_master not found: build it (make), or install it on PATH")
        self.log = tempfile.TemporaryFile()
        for _ in range(5):  # a port found free may be taken before the master binds it
            self.port = free_port()
            self.metrics_port = free_port()
            self.process = subprocess.Popen(
                [binary, f"--rpc_port={self.port}", "--rpc_address=127.0.0.1", f"--metrics_port={self.metrics_port}",
                 "--metrics_host=127.0.0.1", "--enable_metric_reporting=false", *flags],
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
            if self._serving():
                self.address = f"127.0.0.1:{self.port}"
                return
            self.stop()
        raise SystemExit(f"{binary} did not start:\n{self.output()[-2000:]}")

    def _serving(self) -> bool:
        for _ in range(200):
            if self.process.poll() is not None:
                return False
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            except OSError:
                time.sleep(0.05)
        return False

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# ---- clients ----

def open_store(master: str, segment: int, local_buffer: int):
    """A store with a segment of `segment` bytes; SystemExit with the code when setup fails."""
    from mooncake.store import MooncakeDistributedStore
    store = MooncakeDistributedStore()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", segment, local_buffer, "tcp", "", master)
    if code != 0:
        raise SystemExit(f"setup with master {master} failed: {code} (the log above says why)")
    return store


def counters(store) -> dict[str, int]:
    """Counters of this client by name (core/client/counters.def); {} for a module that has none."""
    read = getattr(store, "counters", None)
    return dict(read()) if read is not None else {}


class PeerError(RuntimeError):
    """A call in a peer raised, or the peer died."""


def _serve_peer(make, args, env, pipe) -> None:
    """Main of a peer's process: makes the object, then answers calls by name until None or the end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    os.environ.update(env)
    peer = None
    try:
        peer = make(*args)
        pipe.send((True, None))
        while (request := pipe.recv()) is not None:
            name, call_args = request
            pipe.send((True, getattr(peer, name)(*call_args)))
    except EOFError:
        pass
    except BaseException as error:  # also SystemExit: the coordinator prints it
        pipe.send((False, str(error) if isinstance(error, SystemExit) else traceback.format_exc()))
    finally:
        if peer is not None and hasattr(peer, "close"):
            peer.close()


class Peer:
    """An object in a process of its own (spawned, not forked: a forked child must not use the store)."""

    _context = multiprocessing.get_context("spawn")

    def __init__(self, make, *args, env: dict[str, str] | None = None):
        self._pipe, theirs = self._context.Pipe()
        self.process = self._context.Process(target=_serve_peer, args=(make, args, env or {}, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._waiting = True

    def ready(self, timeout: float = 60) -> "Peer":
        """Waits for the object to be made."""
        self.wait(timeout)
        return self

    def start(self, name: str, *args) -> None:
        assert not self._waiting
        self._pipe.send((name, args))
        self._waiting = True

    def wait(self, timeout: float = 600):
        """The result of what was started."""
        assert self._waiting
        self._waiting = False
        try:
            if not self._pipe.poll(timeout):
                raise PeerError(f"process {self.process.pid} gave no answer within {timeout:.0f} s")
            fine, result = self._pipe.recv()
        except EOFError:
            self.process.join(5)
            raise PeerError(f"process {self.process.pid} died (exit code {self.process.exitcode})") from None
        if not fine:
            raise PeerError(result)
        return result

    def call(self, name: str, *args, timeout: float = 600):
        self.start(name, *args)
        return self.wait(timeout)

    def stop(self) -> None:
        """Lets the object close; kills the process when it does not end."""
        try:
            self._pipe.send(None)
        except (OSError, ValueError):
            pass
        self.process.join(15)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._pipe.close()


def private_ipc_dir() -> tempfile.TemporaryDirectory:
    """The same-host sockets of this run in a folder of their own, for this process and those it starts."""
    folder = tempfile.TemporaryDirectory(prefix="mcs-")
    os.environ["MC_STORE_IPC_DIR"] = folder.name
    return folder


def fail(message: str) -> int:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    return 1
