"""The systems under test: each is a few processes with one worker that does the timed work. What cannot be had here says why, and becomes a row."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import free_port

from . import peers
from .procs import LineProcess, Server, Worker, WorkerError, cpu_seconds

MIB = 1 << 20
_numbers = itertools.count(1)


class Missing(Exception):
    """This system cannot be measured here; the text says why."""


def reason(error: Exception) -> str:
    """The one line of an error's text that says most."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    telling = [line for line in lines if re.match(r"\w*(Error|Exception)\b", line.strip())]
    return (telling or lines)[-1].strip()


class Place:
    """Where the processes of a run put their logs and sockets, which build they come from, and the module under test.

    Another module than the build's needs an interpreter that has it, and its master's binary.
    """

    def __init__(self, build: Path, folder: Path, module: str = "mooncake.store", python: str | None = None, master: Path | None = None,
                 peers_folder: Path | None = None):
        self.build, self.folder, self.module, self.python = build, folder, module, python or sys.executable
        self.own = master is None and python is None
        self.master = master or build / "master" / "mooncake_master"
        self.peers = peers_folder or folder
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self._ipc = tempfile.TemporaryDirectory(prefix="mcs-bench-")  # a socket's path is at most 108 bytes long

    def log(self, name: str) -> Path:
        return self.logs / f"{next(_numbers):03d}-{name}.log"

    @property
    def ipc(self) -> str:
        return self._ipc.name

    def micro(self, name: str) -> Path:
        path = self.build / "bench" / "micro" / name
        if not path.exists():
            raise Missing(f"{path} is not built")
        return path

    def close(self) -> None:
        self._ipc.cleanup()


class System:
    """`name`: the row; `path`: own, same host, tcp, server; `helpers`: pids whose processor time counts as the worker's does."""

    def __init__(self, name: str, path: str):
        self.name, self.path = name, path
        self.helpers: list[int] = []
        self.worker: Worker | None = None
        self.holder: Worker | None = None
        self.master: Server | None = None
        self.opened: dict = {}
        self._stack = contextlib.ExitStack()

    def keep(self, thing, stop: str = "stop"):
        self._stack.callback(getattr(thing, stop))
        return thing

    def add_helper(self, pid: int) -> None:
        self.helpers.append(pid)

    def stop(self) -> None:
        self._stack.close()


# ---- the store ----

def start_master(place: Place, *flags: str, host: str = "127.0.0.1", prefix: list[str] | None = None) -> Server:
    if not place.master.exists():
        raise Missing(f"{place.master} is not there")
    port, metrics = free_port(), free_port()
    ours = [f"--ipc_dir={place.ipc}"] if place.own else []
    # In another network nobody can ask from here whether it answers; ours says so when all is bound.
    server = Server([str(place.master), f"--rpc_port={port}", f"--rpc_address={host}", f"--metrics_port={metrics}", f"--metrics_host={host}",
                     "--enable_metric_reporting=false", *ours, *flags], port, place.log("master"), host, prefix,
                    ready="Master service started on port" if place.own else "")
    server.metrics_port = metrics
    return server


def _store_env(place: Place, memcpy: bool, more: dict[str, str] | None) -> dict[str, str]:
    env = {"MC_STORE_MEMCPY": "1" if memcpy else "0", "MC_STORE_IPC_DIR": place.ipc}
    if place.own:
        env["PYTHONPATH"] = str(place.build / "python")
    return env | (more or {})


def store(place: Place, name: str, path: str, segment: int, work: int, env: dict[str, str] | None = None, networks=None,
          master_flags: tuple[str, ...] = ()) -> System:
    """own: the worker's own segment; same host: a second process lends it; tcp: the same, forced through the transport.

    With `networks` (two namespaces) the master and the holder live in the second one.
    """
    system = System(name, path)
    try:
        there = networks[1] if networks else None
        host = there.address if there else "127.0.0.1"
        prefix = there.prefix if there else None
        system.master = system.keep(start_master(place, *master_flags, host=host, prefix=prefix))
        system.add_helper(system.master.pid)
        address = f"{host}:{system.master.port}"
        environment = _store_env(place, path != "tcp", env)
        if path != "own":
            system.holder = system.keep(Worker("store", place.log("holder"), place.python, environment, prefix))
            system.holder.call("open", place.module, address, segment, min(work, 32 * MIB), host=host)
            system.add_helper(system.holder.pid)
        here = networks[0] if networks else None
        system.worker = system.keep(Worker("store", place.log("worker"), place.python, environment, here.prefix if here else None))
        system.opened = system.worker.call("open", place.module, address, segment if path == "own" else 0, work,
                                           host=here.address if here else host)
        return system
    except BaseException:
        system.stop()
        raise


# ---- peers ----

def mooncake(place: Place, name: str, path: str, segment: int, work: int, tuned: bool = True) -> System:
    """The wheel of the original from PyPI, in its own environment, with its own master. `tuned`: with its pool of connections, which is off by default
    and makes it faster."""
    python = peers.mooncake_python(place.peers)
    if isinstance(python, str):
        raise Missing(python)
    system = System(name, path)
    try:
        port, metrics = free_port(), free_port()
        binary = peers.mooncake_master(python)
        system.master = system.keep(Server([str(binary), f"--rpc_port={port}", "--rpc_address=127.0.0.1", f"--metrics_port={metrics}",
                                            "--metrics_host=127.0.0.1", "--enable_metric_reporting=false", "--logtostderr=1"],
                                           port, place.log("mooncake-master")))
        system.add_helper(system.master.pid)
        env = {"MC_STORE_MEMCPY": "1", "GLOG_minloglevel": "2"} | ({"MC_TCP_ENABLE_CONNECTION_POOL": "true"} if tuned else {})
        address = f"127.0.0.1:{port}"
        if path != "own":
            system.holder = system.keep(Worker("store", place.log("mooncake-holder"), str(python), env))
            system.holder.call("open", "mooncake.store", address, segment, min(work, 32 * MIB))
            system.add_helper(system.holder.pid)
        system.worker = system.keep(Worker("store", place.log("mooncake-worker"), str(python), env))
        # Its local buffer stages what is not registered; with a segment of 0 it still wants one.
        system.opened = system.worker.call("open", "mooncake.store", address, segment if path == "own" else 0, work)
        return system
    except WorkerError as error:
        system.stop()
        raise Missing(f"the wheel does not run here: {reason(error)}") from error
    except BaseException:
        system.stop()
        raise


def _server(place: Place, name: str, driver: str, command: list[str], port: int, work: int) -> System:
    system = System(name, "tcp")
    try:
        server = system.keep(Server(command, port, place.log(name)))
        system.add_helper(server.pid)
        system.worker = system.keep(Worker(driver, place.log(f"{name}-worker")))
        system.worker.call("open", "127.0.0.1", port, work)
        return system
    except BaseException:
        system.stop()
        raise


def redis(place: Place, work: int, memory: int) -> System:
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("no redis-server on PATH (Debian package redis-server)")
    port = free_port()
    return _server(place, "redis", "redis", [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                             "--maxmemory", str(memory), "--dir", str(place.folder)], port, work)


def memcached(place: Place, work: int, memory: int) -> System:
    binary = shutil.which("memcached")
    if binary is None:
        raise Missing("no memcached on PATH (Debian package memcached)")
    port = free_port()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return _server(place, "memcached", "memcached", [binary, "-p", str(port), "-U", "0", "-l", "127.0.0.1", "-m", str(memory // MIB),
                                                     "-I", "32m", *user], port, work)


# ---- ceilings ----

class Ceilings:
    """memcpy, a raw TCP stream and a blocking round trip (bench/micro/ceilings.c), run between the rounds of the others."""

    def __init__(self, place: Place, networks=None, congestion: str = ""):
        binary = str(place.micro("ceilings"))
        more = [congestion] if congestion else []
        self._stack = contextlib.ExitStack()
        try:
            host = networks[1].address if networks else "127.0.0.1"
            self._server = LineProcess([*(networks[1].prefix if networks else []), binary, "serve", host, *more], place.log("ceilings-serve"))
            self._stack.callback(self._server.stop)
            port = self._server.receive(30).split()[1]
            self._client = LineProcess([*(networks[0].prefix if networks else []), binary, "run", host, port, *more], place.log("ceilings-run"))
            self._stack.callback(self._client.stop)
        except BaseException:
            self._stack.close()
            raise

    def run(self, what: str, size: int, amount: int) -> dict:
        """memcpy, get, put: `amount` bytes; ping: `amount` times. cpu is of both sides."""
        before = cpu_seconds(self._server.pid)
        result = json.loads(self._client.ask(f"{what} {size} {amount}"))
        result["cpu"] += cpu_seconds(self._server.pid) - before
        return result

    def stop(self) -> None:
        self._stack.close()


# ---- UCX ----

def other_ucx() -> tuple[str, str] | None:
    """Version of the distribution's UCX, and what MC_STORE_UCX_LIB calls it; None when there is none."""
    folders = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")
    path = next((p for p in (Path(folder) / "libucp.so.0" for folder in folders) if p.exists()), None)
    return (ucx_version(str(path)), "system") if path else None


def ucx_version(library: str) -> str:
    code = ("import ctypes, sys; l = ctypes.CDLL(sys.argv[1]); l.ucp_get_version_string.restype = ctypes.c_char_p; "
            "print(l.ucp_get_version_string().decode())")
    done = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def loaded_ucx(pid: int) -> str:
    """Version of the libucp that a process has mapped; "" for none."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if "libucp" in path:
            return ucx_version(path)
    return ""


