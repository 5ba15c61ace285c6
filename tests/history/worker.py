"""One process of the history test: random operations on few keys, each written down before it begins and after it returned.

A line is written by one write(2) each, so what a killed process did is known up to its last operation. Times are CLOCK_MONOTONIC, which all
processes of a host share.
"""

import ctypes
import json
import os
import random
import threading
import time

from tests.history import values

MIB = 1 << 20
LARGEST = 3 * MIB
CALLS = {"put": 22, "upsert": 16, "get": 18, "get_into": 12, "get_batch": 6, "get_buffer": 6, "is_exist": 10, "batch_is_exist": 3, "remove": 7,
         "force": 7, "batch_remove": 2, "put_batch": 3}


class Journal:
    def __init__(self, path: str, writer: int):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._number = 0
        self.writer = writer

    def number(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def write(self, **line) -> None:
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def call(self, what: str, keys: list[str], function, told, **more) -> object:
        """Runs function() and writes down told(result), a list with one entry for each key."""
        number = self.number()
        self.write(id=number, at=time.monotonic(), what=what, keys=keys, **more)
        result = function()
        at = time.monotonic()
        self.write(id=number, at=at, results=told(result))
        return result


def _told_of_bytes(data) -> list:
    """What get and its like returned; b"" and None are a miss, or whatever else kept it from reading."""
    return ["missing", None] if data is None or len(data) == 0 else list(values.read(data))


def _size(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.2:
        return rng.randint(1, 40)
    if kind < 0.75:
        return int(2 ** rng.uniform(4, 17))
    return rng.randint(MIB // 4, LARGEST)


class Thread:
    def __init__(self, store, journal: Journal, settings: dict, index: int):
        self.store, self.journal, self.settings = store, journal, settings
        self.rng = random.Random(f"{settings['seed']}/{journal.writer}/{index}")
        self.target = ctypes.create_string_buffer(LARGEST)
        self.address = ctypes.addressof(self.target)
        self.registered = index == 0 and store.register_buffer(self.address, LARGEST) == 0

    def run(self, stop: threading.Event) -> None:
        names, weights = list(CALLS), list(CALLS.values())
        while not stop.is_set():
            name = self.rng.choices(names, weights)[0]
            getattr(self, "do_" + name)()
            if self.rng.random() < 0.2:
                time.sleep(self.rng.random() * 0.01)

    def _key(self) -> str:
        return self.rng.choice(self.settings["keys"])

    def _some(self) -> list[str]:
        return self.rng.sample(self.settings["keys"], self.rng.randint(1, 3))

    def _config(self):
        from mooncake.store import ReplicateConfig
        config = ReplicateConfig()
        config.replica_num = 2 if self.rng.random() < 0.3 else 1
        hard = self.rng.random() < 0.15
        config.with_hard_pin = hard
        if not hard and self.rng.random() < 0.2:
            config.with_soft_pin = True
        return config, hard

    def _write(self, what: str) -> None:
        number, size = self.journal.number(), _size(self.rng)
        data = values.make(self.journal.writer, number, size)
        config, hard = self._config()
        key = self._key()
        self.journal.call(what, [key], lambda: getattr(self.store, what)(key, data, config), lambda code: [code], values=[number], sizes=[size], hard=hard)

    def do_put(self):
        self._write("put")

    def do_upsert(self):
        self._write("upsert")

    def do_put_batch(self):
        keys = self._some()
        numbers, sizes = [self.journal.number() for _ in keys], [_size(self.rng) for _ in keys]
        data = [values.make(self.journal.writer, n, s) for n, s in zip(numbers, sizes)]
        config, hard = self._config()
        # One code for all: when it is not 0, nobody knows of which.
        self.journal.call("put_batch", keys, lambda: self.store.put_batch(keys, data, config), lambda code: [code] * len(keys), values=numbers,
                          sizes=sizes, hard=hard)

    def do_get(self):
        key = self._key()
        self.journal.call("get", [key], lambda: self.store.get(key), lambda data: [_told_of_bytes(data)])

    def do_get_batch(self):
        keys = self._some()
        self.journal.call("get", keys, lambda: self.store.get_batch(keys), lambda all_data: [_told_of_bytes(data) for data in all_data])

    def do_get_into(self):
        key = self._key()
        ctypes.memset(self.address, 0xEE, 64)

        def told(count):
            if count > 0:
                return [list(values.read(memoryview(self.target)[:count]))]
            return [["missing", count] if count == -704 else ["failed", count]]
        self.journal.call("get_into", [key], lambda: self.store.get_into(key, self.address, LARGEST), told)

    def do_get_buffer(self):
        """A view: right when it is got, and still so later, whatever became of the key."""
        key = self._key()
        handle = self.journal.call("get", [key], lambda: self.store.get_buffer(key), lambda h: [_told_of_bytes(None if h is None else bytes(memoryview(h)))])
        if handle is not None:
            before = bytes(memoryview(handle))
            time.sleep(self.rng.random() * 0.02)
            if bytes(memoryview(handle)) != before:
                self.journal.write(wrong=f"a view of {key} changed while it was held: {values.read(memoryview(handle))}", at=time.monotonic())

    def do_is_exist(self):
        key = self._key()
        self.journal.call("is_exist", [key], lambda: self.store.is_exist(key), lambda code: [code])

    def do_batch_is_exist(self):
        keys = self._some()
        self.journal.call("is_exist", keys, lambda: self.store.batch_is_exist(keys), list)

    def do_remove(self):
        key = self._key()
        self.journal.call("remove", [key], lambda: self.store.remove(key), lambda code: [code])

    def do_force(self):
        key = self._key()
        self.journal.call("remove", [key], lambda: self.store.remove(key, True), lambda code: [code])

    def do_batch_remove(self):
        keys = self._some()
        force = self.rng.random() < 0.5
        self.journal.call("remove", keys, lambda: self.store.batch_remove(keys, force), list)


def run(store, settings: dict) -> None:
    """Sets the store up and works until the file settings["stop"] is there."""
    while True:
        code = store.setup("127.0.0.1", "P2PHANDSHAKE", settings["segment"], 32 * MIB, "tcp", "", settings["master"])
        if code == 0 or os.path.exists(settings["stop"]):
            break
        time.sleep(0.1)
    journal = Journal(settings["journal"], settings["writer"])
    journal.write(up=code, at=time.monotonic())
    if code != 0:
        return
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(index):
        try:
            Thread(store, journal, settings, index).run(stop)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(settings["threads"])]
    for thread in threads:
        thread.start()
    while not os.path.exists(settings["stop"]) and not stop.is_set():
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
