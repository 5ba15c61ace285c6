"""A Python process that runs code for a test: `value = worker("store.get('k')")`. The code sees `store`, a new store of the real package, and `connect`."""

import os
import pickle
import struct
import subprocess
import sys

BOOT = """
import os, pickle, struct, sys
import ctypes, threading, time
from mooncake.store import MooncakeDistributedStore, ReplicateConfig
stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
def connect(master, segment=64 << 20, buffer=64 << 20, metadata="P2PHANDSHAKE", host="127.0.0.1"):
    return space["store"].setup(host, metadata, segment, buffer, "tcp", "", master)
space = dict(globals())
space["store"] = MooncakeDistributedStore()
while True:
    head = stdin.read(4)
    if len(head) < 4:
        break
    code = stdin.read(struct.unpack("<I", head)[0]).decode()
    try:
        try:
            answer = (True, eval(compile(code, "<test>", "eval"), space))
        except SyntaxError:
            exec(compile(code, "<test>", "exec"), space)
            answer = (True, None)
    except BaseException as error:
        answer = (False, f"{type(error).__name__}: {error}")
    data = pickle.dumps(answer)
    stdout.write(struct.pack("<I", len(data)) + data)
    stdout.flush()
"""


class Worker:
    def __init__(self, path, log, env=None):
        environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONFAULTHANDLER": "1", **(env or {})}
        self.log_path = log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
            )
        self.pid = self.process.pid

    def start(self, code):
        """Sends code without waiting for its value."""
        data = code.encode()
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()

    def value(self):
        head = self.process.stdout.read(4)
        if len(head) < 4:
            raise AssertionError(f"the worker ended with {self.process.wait()}: {self.log()}")
        fine, value = pickle.loads(self.process.stdout.read(struct.unpack("<I", head)[0]))
        if not fine:
            raise AssertionError(f"{value}\n{self.log()}")
        return value

    def __call__(self, code):
        self.start(code)
        return self.value()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        """Ends it as a script ends; gives the exit code."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode
