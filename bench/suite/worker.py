#!/usr/bin/env python3
"""The process that does the timed work, in the interpreter of the system under test: `worker.py DRIVER`.

Each line of its input is a JSON list [method, args, kwargs]; the answer is a JSON line with "result" or "error". Libraries print where they like:
their standard output goes to the log.

A driver knows how to put and get objects of its system. What is timed, what is checked and what is counted is the same for all of them: buffers are
faulted in, keys are new in each call, contents follow from the object's number, the target is scrubbed before a get, and every byte is verified
outside the timed part. Processor time is taken of this process and of the helpers (servers, holders, masters) whose pids the caller gives.
"""

import importlib
import json
import os
import random
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import Buffer, Pattern  # noqa: E402
from suite.guard import passed  # noqa: E402
from suite.procs import cpu_seconds  # noqa: E402
from suite.stats import arrivals, quantiles  # noqa: E402

MAX_SIZE = 16 << 20
NS = 1e-9


class Meter:
    """Wall, processor and interface counters around the timed calls of one operation; `with meter:` around each."""

    def __init__(self, helpers: list[int]):
        self._helpers = helpers
        self.seconds = self.cpu = self.helpers_cpu = 0.0
        self.passed = 0

    def __enter__(self):
        self._passed = passed()
        self._others = sum(map(cpu_seconds, self._helpers))
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self._began
        self.cpu += time.process_time() - self._cpu
        self.helpers_cpu += sum(map(cpu_seconds, self._helpers)) - self._others
        self.passed += passed() - self._passed

    def result(self, count: int, size: int, **more) -> dict:
        return {"count": count, "bytes": count * size, "seconds": self.seconds, "cpu": self.cpu + self.helpers_cpu, "passed": self.passed} | more


class Driver:
    """What all systems share. Subclasses say how: put, get, put_one, get_one, remove. Those raise when a call did not succeed."""

    buffer: Buffer

    def __init__(self):
        self._pattern = Pattern(MAX_SIZE)
        self._number = 0

    # -- objects: slot i of the buffer holds object first + i --

    def _new(self, count: int) -> int:
        self._number += count
        return self._number - count

    def _keys(self, tag: str, first: int, count: int) -> list[str]:
        """56 characters, as engines' keys have about."""
        return [f"{tag}-{os.getpid():08d}/{n:d}".ljust(56, "x") for n in range(first, first + count)]

    def _fill(self, first: int, count: int, size: int) -> None:
        for i in range(count):
            self._pattern.fill(first + i, self.buffer.part(i * size, size))

    def _scrub(self, count: int, size: int) -> None:
        self.buffer.bytes[:count * size] = 0

    def _wrong(self, first: int, count: int, size: int) -> int:
        return sum(self._pattern.wrong_bytes(first + i, self.buffer.part(i * size, size)) for i in range(count))

    def _slots(self, count: int, size: int) -> list[int]:
        return [self.buffer.ptr + i * size for i in range(count)]

    def info(self) -> dict:
        return {"pid": os.getpid()}

    # -- measurements --

    def transfer(self, tag: str, size: int, batch: int, count: int, helpers: list[int]) -> dict:
        """Puts `count` objects and gets them back, `batch` a call."""
        first = self._new(count)
        keys, slots = self._keys(tag, first, count), self._slots(count, size)
        self._fill(first, count, size)
        put, get = Meter(helpers), Meter(helpers)
        self._run(put, self.put, self.put_one, keys, slots, size, batch)
        self._scrub(count, size)
        self._run(get, self.get, self.get_one, keys, slots, size, batch)
        wrong = self._wrong(first, count, size)
        self.remove(keys)
        return {"put": put.result(count, size, wrong=0), "get": get.result(count, size, wrong=wrong)}

    @staticmethod
    def _run(meter, many, one, keys, slots, size, batch) -> None:
        if batch == 1:
            with meter:
                for key, slot in zip(keys, slots, strict=True):
                    one(key, slot, size)
            return
        groups = [(keys[i:i + batch], slots[i:i + batch]) for i in range(0, len(keys), batch)]
        with meter:
            for group_keys, group_slots in groups:
                many(group_keys, group_slots, size)

    def store_objects(self, tag: str, size: int, count: int, batch: int = 32) -> list[str]:
        """Untimed: puts new objects and returns their keys."""
        first = self._new(count)
        keys, slots = self._keys(tag, first, count), self._slots(count, size)
        self._fill(first, count, size)
        for i in range(0, count, batch):
            self.put(keys[i:i + batch], slots[i:i + batch], size)
        self._stored = first
        return keys

    def stored_from(self) -> int:
        """The number of the first object that store_objects put."""
        return self._stored

    def remove_keys(self, keys: list[str]) -> None:
        self.remove(keys)

    def latency_get(self, keys: list[str], first: int, size: int, passes: int, helpers: list[int]) -> dict:
        """Gets each key once (passes = 1: whoever caches locations knows none), or over and over after a pass that is not timed."""
        slots = self._slots(len(keys), size)
        self._scrub(len(keys), size)
        get, clock, samples = self.get_one, time.perf_counter_ns, []
        if passes > 1:
            for key, slot in zip(keys, slots, strict=True):
                get(key, slot, size)
        calls = self.master_calls()
        meter = Meter(helpers)
        with meter:
            for _ in range(passes):
                for key, slot in zip(keys, slots, strict=True):
                    began = clock()
                    get(key, slot, size)
                    samples.append(clock() - began)
        asked = self.master_calls() - calls
        wrong = self._wrong(first, len(keys), size)
        return meter.result(len(samples), size, wrong=wrong, asked=asked, us={k: v / 1e3 for k, v in quantiles(samples).items()})

    def latency_put(self, tag: str, size: int, count: int, helpers: list[int]) -> dict:
        first = self._new(count)
        keys, slots = self._keys(tag, first, count), self._slots(count, size)
        self._fill(first, count, size)
        put, clock, samples = self.put_one, time.perf_counter_ns, []
        meter = Meter(helpers)
        with meter:
            for key, slot in zip(keys, slots, strict=True):
                began = clock()
                put(key, slot, size)
                samples.append(clock() - began)
        self._scrub(count, size)
        for key, slot in zip(keys, slots, strict=True):
            self.get_one(key, slot, size)
        wrong = self._wrong(first, count, size)
        self.remove(keys)
        return meter.result(count, size, wrong=wrong, us={k: v / 1e3 for k, v in quantiles(samples).items()})

    def threads(self, tag: str, size: int, batch: int, threads: int, count: int, helpers: list[int]) -> dict:
        """As transfer, the batches spread over threads of this process."""
        first = self._new(count)
        keys, slots = self._keys(tag, first, count), self._slots(count, size)
        self._fill(first, count, size)
        groups = [(keys[i:i + batch], slots[i:i + batch]) for i in range(0, count, batch)]
        put, get = Meter(helpers), Meter(helpers)
        self._all_threads(put, "put", groups, size, threads)
        self._scrub(count, size)
        self._all_threads(get, "get", groups, size, threads)
        wrong = self._wrong(first, count, size)
        self.remove(keys)
        return {"put": put.result(count, size, wrong=0), "get": get.result(count, size, wrong=wrong)}

    def _all_threads(self, meter, name, groups, size, threads) -> None:
        failures = []
        start = threading.Barrier(threads + 1)

        def work(number: int) -> None:
            try:
                call = getattr(self.of_thread(number), name)
                mine = groups[number::threads]
                start.wait()
                for keys, slots in mine:
                    call(keys, slots, size)
            except Exception as error:  # the caller raises it
                failures.append(error)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        with meter:
            start.wait()
            for worker in workers:
                worker.join()
        if failures:
            raise failures[0]

    def open_loop(self, tag: str, op: str, size: int, rate: float, seconds: float, seed: int, helpers: list[int]) -> dict:
        """Calls start at the times of a Poisson process, or as soon as the one before has ended; a latency counts from the time it was due."""
        due = arrivals(rate, seconds, seed)
        room = min(256, self.buffer.size // size)
        count = room if op == "get" else len(due)
        first = self._new(count)
        keys, slots = self._keys(tag, first, count), self._slots(room, size)
        self._fill(first, room, size)
        if op == "get":
            for i in range(0, room, 32):
                self.put(keys[i:i + 32], slots[i:i + 32], size)
            self._scrub(room, size)
        call, clock, samples = (self.get_one if op == "get" else self.put_one), time.perf_counter, []
        meter = Meter(helpers)
        with meter:
            zero = clock()
            for i, at in enumerate(due):
                left = at - (clock() - zero)
                if left > 300e-6:
                    time.sleep(left - 200e-6)
                while clock() - zero < at:
                    pass
                call(keys[i % count], slots[i % room], size)
                samples.append(clock() - zero - at)
        wrong = self._wrong(first, min(room, len(due)), size) if op == "get" else 0
        self.remove(keys)
        return meter.result(len(samples), size, wrong=wrong, us={k: v * 1e6 for k, v in quantiles(samples).items()})

    # -- what only some systems have --

    def of_thread(self, number: int) -> "Driver":
        """The driver that thread `number` uses."""
        return self

    def master_calls(self) -> int:
        return 0

    def close(self) -> None:
        pass


class StoreDriver(Driver):
    """Any module with the API of mooncake.store."""

    def open(self, module: str, master: str, segment: int, work: int, host: str = "127.0.0.1", local_buffer: int = 64 << 20) -> dict:
        self.store = importlib.import_module(module).MooncakeDistributedStore()
        began = time.perf_counter()
        code = self.store.setup(host, "P2PHANDSHAKE", segment, local_buffer, "tcp", "", master)
        seconds = time.perf_counter() - began
        if code != 0:
            raise RuntimeError(f"setup: {code}")
        self.buffer = Buffer(work)
        code = self.store.register_buffer(self.buffer.ptr, self.buffer.size)
        if code != 0:
            raise RuntimeError(f"register_buffer: {code}")
        return {"setup_s": seconds, "pid": os.getpid()}

    def put(self, keys, slots, size) -> None:
        results = self.store.batch_put_from(keys, slots, [size] * len(keys))
        if any(results):
            raise RuntimeError(f"batch_put_from: {sorted(set(results))}")

    def get(self, keys, slots, size) -> None:
        results = self.store.batch_get_into(keys, slots, [size] * len(keys))
        if results.count(size) != len(keys):
            raise RuntimeError(f"batch_get_into: {sorted(set(results))}")

    def put_one(self, key, slot, size) -> None:
        code = self.store.put_from(key, slot, size)
        if code != 0:
            raise RuntimeError(f"put_from: {code}")

    def get_one(self, key, slot, size) -> None:
        code = self.store.get_into(key, slot, size)
        if code != size:
            raise RuntimeError(f"get_into: {code}")

    def remove(self, keys) -> None:
        for i in range(0, len(keys), 4096):
            self.store.batch_remove(keys[i:i + 4096], True)

    def master_calls(self) -> int:
        read = getattr(self.store, "counters", None)
        return read()["rpc_calls"] if read is not None else 0

    def first_calls(self, tag: str, size: int) -> dict:
        """Seconds of the first put and the first get after setup."""
        first = self._new(1)
        [key], [slot] = self._keys(tag, first, 1), self._slots(1, size)
        self._fill(first, 1, size)
        began = time.perf_counter()
        self.put_one(key, slot, size)
        between = time.perf_counter()
        self.get_one(key, slot, size)
        after = time.perf_counter()
        wrong = self._wrong(first, 1, size)
        return {"put": between - began, "get": after - between, "wrong": wrong}

    def exist(self, tag: str, count: int, helpers: list[int]) -> dict:
        """One batch_is_exist of `count` keys that are not there."""
        keys = self._keys(tag, self._new(count), count)
        meter = Meter(helpers)
        with meter:
            found = self.store.batch_is_exist(keys)
        return meter.result(count, 0, wrong=sum(1 for f in found if f != 0))

    def buffers(self, tag: str, size: int, count: int, helpers: list[int]) -> dict:
        """get_buffer of each object: seconds, and the bytes that were copied for it (None: the module does not say)."""
        keys = self.store_objects(tag, size, count, 1)
        first = self._stored
        copied = self._copied()
        meter = Meter(helpers)
        with meter:
            handles = [self.store.get_buffer(key) for key in keys]
        if any(h is None or h.size() != size for h in handles):
            raise RuntimeError("get_buffer: no handle")
        after = self._copied()
        wrong = 0
        for i, handle in enumerate(handles):
            wrong += self._pattern.wrong_bytes(first + i, self._as_array(handle, size))
        del handles, handle
        self.remove(keys)
        return meter.result(count, size, wrong=wrong, copied=None if copied is None else after - copied)

    @staticmethod
    def _as_array(handle, size):
        import numpy as np
        return np.frombuffer(memoryview(handle), dtype=np.uint8)[:size]

    def _copied(self):
        read = getattr(self.store, "counters", None)
        return read()["bytes_copied"] if read is not None else None

    def fill_keys(self, tag: str, count: int, length: int) -> dict:
        """`count` objects of one byte with keys of `length` characters: what a key costs the master."""
        value = b"v"
        began = time.perf_counter()
        for i in range(0, count, 512):
            keys = [f"{tag}/{n:d}".ljust(length, "x") for n in range(i, min(i + 512, count))]
            code = self.store.put_batch(keys, [value] * len(keys))
            if code != 0:
                raise RuntimeError(f"put_batch: {code}")
        return {"seconds": time.perf_counter() - began, "count": count}

    def close(self) -> None:
        if hasattr(self, "store"):
            if hasattr(self, "buffer"):
                self.store.unregister_buffer(self.buffer.ptr)
            self.store.close()


def receive(sock: socket.socket, views: list[memoryview]) -> None:
    """Fills all views, in order: the value goes where it belongs, nothing is copied a second time."""
    at = 0
    while at < len(views):
        got = sock.recvmsg_into(views[at:at + 256])[0]
        if got == 0:
            raise RuntimeError("the server closed the connection")
        while at < len(views) and got >= len(views[at]):
            got -= len(views[at])
            at += 1
        if got:
            views[at] = views[at][got:]


def send(sock: socket.socket, parts: list) -> None:
    parts = [memoryview(p) for p in parts]
    at = 0
    while at < len(parts):
        sent = sock.sendmsg(parts[at:at + 256])
        while at < len(parts) and sent >= len(parts[at]):
            sent -= len(parts[at])
            at += 1
        if sent:
            parts[at] = parts[at][sent:]


class SocketDriver(Driver):
    """Servers that are spoken to over a TCP connection, one a thread, pipelined where a call has several keys."""

    def open(self, host: str, port: int, work: int) -> dict:
        self._where = (host, port)
        self.buffer = Buffer(work)
        self._view = memoryview(self.buffer.bytes)
        self._sock = self._connect()
        self._threads: dict[int, SocketDriver] = {}
        return {"setup_s": 0.0, "pid": os.getpid()}

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._where)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def of_thread(self, number: int) -> Driver:
        if number not in self._threads:
            other = type(self).__new__(type(self))
            other.__dict__.update(self.__dict__)
            other._sock = self._connect()
            self._threads[number] = other
        return self._threads[number]

    def _value(self, slot: int, size: int) -> memoryview:
        at = slot - self.buffer.ptr
        return self._view[at:at + size]

    def _expect(self, wanted: bytes) -> None:
        found = bytearray(len(wanted))
        receive(self._sock, [memoryview(found)])
        if found != wanted:
            raise RuntimeError(f"the server answers {bytes(found[:64])!r}, not {wanted[:64]!r}")

    def put_one(self, key, slot, size) -> None:
        self.put([key], [slot], size)

    def get_one(self, key, slot, size) -> None:
        self.get([key], [slot], size)

    def close(self) -> None:
        self._sock.close()


class RedisDriver(SocketDriver):
    def put(self, keys, slots, size) -> None:
        parts = []
        for key, slot in zip(keys, slots, strict=True):
            parts += [f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${size}\r\n".encode(), self._value(slot, size), b"\r\n"]
        send(self._sock, parts)
        self._expect(b"+OK\r\n" * len(keys))

    def get(self, keys, slots, size) -> None:
        send(self._sock, ["".join(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n" for key in keys).encode()])
        wanted = f"${size}\r\n".encode()
        heads = [bytearray(len(wanted)) for _ in keys]
        tail = memoryview(bytearray(2))
        views = [view for head, slot in zip(heads, slots, strict=True) for view in (memoryview(head), self._value(slot, size), tail)]
        receive(self._sock, views)
        if any(head != wanted for head in heads):
            raise RuntimeError(f"GET: {[bytes(h) for h in heads if h != wanted][:2]}")

    def remove(self, keys) -> None:
        for i in range(0, len(keys), 1024):
            part = keys[i:i + 1024]
            send(self._sock, [(f"*{len(part) + 1}\r\n$3\r\nDEL\r\n" + "".join(f"${len(k)}\r\n{k}\r\n" for k in part)).encode()])
            answer = b""
            while not answer.endswith(b"\r\n"):
                answer += self._sock.recv(64)


class MemcachedDriver(SocketDriver):
    def put(self, keys, slots, size) -> None:
        parts = []
        for key, slot in zip(keys, slots, strict=True):
            parts += [f"set {key} 0 0 {size}\r\n".encode(), self._value(slot, size), b"\r\n"]
        send(self._sock, parts)
        self._expect(b"STORED\r\n" * len(keys))

    def get(self, keys, slots, size) -> None:
        send(self._sock, [f"get {' '.join(keys)}\r\n".encode()])
        wanted = [f"VALUE {key} 0 {size}\r\n".encode() for key in keys]
        heads = [bytearray(len(w)) for w in wanted]
        tail = memoryview(bytearray(2))
        views = [view for head, slot in zip(heads, slots, strict=True) for view in (memoryview(head), self._value(slot, size), tail)]
        receive(self._sock, views)
        if any(head != w for head, w in zip(heads, wanted, strict=True)):
            raise RuntimeError(f"get: {[bytes(h) for h in heads][:2]}")
        self._expect(b"END\r\n")

    def remove(self, keys) -> None:
        send(self._sock, ["".join(f"delete {key} noreply\r\n" for key in keys).encode()])


DRIVERS = {"store": StoreDriver, "redis": RedisDriver, "memcached": MemcachedDriver}


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    random.seed(1)
    driver = DRIVERS[sys.argv[1]]()
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        try:
            answer = {"result": getattr(driver, name)(*args, **kwargs)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    driver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
