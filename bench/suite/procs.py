"""Processes of the suite: a line protocol to workers in any interpreter, their processor time, memory and sockets."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent
ROOT = BENCH.parent


class WorkerError(RuntimeError):
    """A call in a worker failed, or its process died."""


def cpu_seconds(pid: int) -> float:
    """Processor time of a whole process, ended threads included, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def rss_bytes(pid: int) -> int:
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(match[1]) * 1024 if match else 0


def _tcp_ends(pid: int) -> set[tuple[str, str]]:
    """(local, remote) of the established IPv4 and IPv6 TCP sockets that the process holds."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        if match:
            inodes.add(match[1])
    ends = set()
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "01" and fields[9] in inodes:  # 01: established
                ends.add((fields[1], fields[2]))
    return ends


def sockets_between(one: int, other: int) -> int:
    """TCP connections whose ends are in these two processes."""
    theirs = {(remote, local) for local, remote in _tcp_ends(other)}
    return len(_tcp_ends(one) & theirs)


def end(process: subprocess.Popen, patience: float = 10) -> None:
    """SIGTERM, then SIGKILL: this process only."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A server program on a TCP port, in the background, its output in a file."""

    def __init__(self, command: list[str], port: int, log: Path, host: str = "127.0.0.1", prefix: list[str] | None = None,
                 env: dict[str, str] | None = None, ready: str = ""):
        self.log_path = log
        self._log = open(log, "wb")
        self.port = port
        self.process = subprocess.Popen([*(prefix or []), *command], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                                        env={**os.environ, **(env or {})})
        ends = time.monotonic() + 30
        while not (ready in self.text() if ready else self._answers(host)):
            if self.process.poll() is not None or time.monotonic() > ends:
                self.stop()
                raise WorkerError(f"{command[0]} does not start: {self.text()[-800:]}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _answers(self, host: str) -> bool:
        try:
            socket.create_connection((host, self.port), timeout=1).close()
            return True
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        end(self.process)
        self._log.close()


class LineProcess:
    """A child that answers each line of its input with a line of its output."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None):
        self.log_path = log
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=cwd)
        self._pending = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, line: str) -> None:
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise WorkerError(self._obituary()) from None

    def receive(self, timeout: float = 300) -> str:
        ends = time.monotonic() + timeout
        while b"\n" not in self._pending:
            left = ends - time.monotonic()
            if left <= 0:
                raise WorkerError(f"process {self.pid} gave no answer within {timeout:.0f} s")
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                if not data:
                    raise WorkerError(self._obituary())
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def ask(self, line: str, timeout: float = 300) -> str:
        self.send(line)
        return self.receive(timeout)

    def _obituary(self) -> str:
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        return f"process {self.pid} ended ({self.process.poll()}): {self.log_path.read_text(errors='replace')[-1500:]}"

    def stop(self) -> None:
        """Its input ends, and with it the process; it is killed when it does not."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            end(self.process)
        self.process.stdout.close()


class Worker(LineProcess):
    """suite/worker.py in an interpreter of choice: calls go by name, with JSON arguments and results."""

    def __init__(self, driver: str, log: Path, python: str = sys.executable, env: dict[str, str] | None = None,
                 prefix: list[str] | None = None):
        # Not PYTHONPATH either: the wheel's interpreter would find the build's module there in place of the wheel's.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MC_", "PYTHON"))} | (env or {})
        super().__init__([*(prefix or []), python, "-u", str(HERE / "worker.py"), driver], log, environment, BENCH)

    def start(self, call: str, *args, **kwargs) -> None:
        self.send(json.dumps([call, args, kwargs]))

    def wait(self, timeout: float = 300):
        answer = json.loads(self.receive(timeout))
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def call(self, name: str, *args, timeout: float = 300, **kwargs):
        self.start(name, *args, **kwargs)
        return self.wait(timeout)
