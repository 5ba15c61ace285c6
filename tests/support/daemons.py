"""mooncake_client, the Python services and the command line as processes of a test."""

import importlib.util
import os
import re
import signal
import subprocess
import sys

from tests.support.processes import Scratch, _Process, find_build_dir, http
from tests.support.waiting import wait_until


def ucx_hint() -> dict[str, str]:
    """The UCX that the Python module takes, for a program that does not look for Python packages: one cluster speaks one UCX."""
    spec = importlib.util.find_spec("libucx")
    return {"MC_STORE_UCX_LIB": "hint:" + list(spec.submodule_search_locations)[0]} if spec is not None else {}


def environment(scratch: Scratch, more: dict[str, str] | None = None) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MC_", "MOONCAKE_"))}
    return clean | {"PYTHONPATH": f"{find_build_dir() / 'python'}", "PYTHONFAULTHANDLER": "1", "COLUMNS": "200",
                    "MC_STORE_IPC_DIR": str(scratch.folder("ipc"))} | (more or {})


class Daemon(_Process):
    """Any program that logs to stderr and ends at SIGTERM with 0."""

    def __init__(self, scratch: Scratch, name: str, command: list[str], env: dict[str, str] | None = None):
        self.name = name
        self.log_path = scratch.log(name)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(scratch, env), cwd=scratch.path)

    def wait_log(self, text: str, timeout: float = 30) -> str:
        """The log, once the text is in it."""
        wait_until(lambda: text in self.log() or not self.alive(), f"{self.name} says {text!r}", timeout)
        assert text in self.log(), f"{self.name} ended with {self.process.returncode}\n{self.log()[-3000:]}"
        return self.log()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        if self.alive():
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} ignores the signal:\n{self.log()[-2000:]}") from None


class ClientDaemon(Daemon):
    """A mooncake_client on ports that the kernel picks, serving."""

    def __init__(self, scratch: Scratch, master: str, *flags: str, metadata: str = "P2PHANDSHAKE", env: dict[str, str] | None = None, wait: bool = True):
        command = [str(find_build_dir() / "client" / "mooncake_client"), "--host=127.0.0.1", "--port=0", f"--master_server_address={master}",
                   f"--metadata_server={metadata}", "--global_segment_size=64MB", *flags]
        super().__init__(scratch, "client-daemon", command, ucx_hint() | (env or {}))
        self.port = 0
        if wait:
            self.port = int(re.search(r"serving health and metrics on \S+:(\d+)", self.wait_log("serving health and metrics on"))[1])

    @property
    def segment(self) -> str:
        return re.search(r"Mooncake client started: segment (\S+) of", self.log())[1]

    def http(self, path: str, method: str = "GET") -> tuple[int, str, dict]:
        return http(f"http://127.0.0.1:{self.port}{path}", method)


def run_module(module: str, scratch: Scratch, *arguments: str, env: dict[str, str] | None = None, stdin: bytes | None = None,
               timeout: float = 60) -> subprocess.CompletedProcess:
    """python -m MODULE ARGUMENTS with bytes as output."""
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, env=environment(scratch, env), timeout=timeout, cwd=scratch.path,
                          **source)


