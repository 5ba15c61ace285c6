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
CALLS = {"put": 20, "put_row": 2, "upsert": 14, "get": 16, "get_into": 10, "get_batch": 5, "get_buffer": 5, "is_exist": 6, "batch_is_exist": 3, "remove": 6,
         "force": 6, "batch_remove": 2, "put_batch": 3, "upsert_batch": 2, "put_from": 3, "batch_get_into": 3, "batch_get_buffer": 2, "multi_buffers": 3,
         "ranges": 2, "exist_then_get": 8, "put_session": 3, "get_session": 3, "by_pattern": 2, "remove_all": 0.3}


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

    def do_put_row(self):
        """Puts of one size, one after another: the next one's place is reserved with the commit of the last."""
        size = self.rng.randint(24, 64 << 10)
        for _ in range(10):
            key, number = self._key(), self.journal.number()
            data = values.make(self.journal.writer, number, size)
            if self.rng.random() < 0.6:
                self.journal.call("remove", [key], lambda: self.store.remove(key, True), lambda code: [code])
            self.journal.call("put", [key], lambda: self.store.put(key, data), lambda code: [code], values=[number], sizes=[size], hard=False)

    def do_upsert(self):
        self._write("upsert")

    def _write_batch(self, what: str, write) -> None:
        keys = self._some()
        numbers, sizes = [self.journal.number() for _ in keys], [_size(self.rng) for _ in keys]
        data = [values.make(self.journal.writer, n, s) for n, s in zip(numbers, sizes)]
        config, hard = self._config()
        self.journal.call(what, keys, lambda: write(keys, data, config), list, values=numbers, sizes=sizes, hard=hard)

    def do_put_batch(self):
        # One code for all: when it is not 0, nobody knows of which.
        self._write_batch("put_batch", lambda keys, data, config: [self.store.put_batch(keys, data, config)] * len(keys))

    def do_upsert_batch(self):
        self._write_batch("upsert_batch", lambda keys, data, config: [self.store.upsert_batch(keys, data, config)] * len(keys))

    def do_put_from(self):
        """batch_put_from and batch_upsert_from: a code for each key."""
        what = self.rng.choice(("put", "upsert"))
        call = self.store.batch_put_from if what == "put" else self.store.batch_upsert_from

        def write(keys, data, config):
            buffers = [ctypes.create_string_buffer(one, len(one)) for one in data]
            return call(keys, list(map(ctypes.addressof, buffers)), list(map(len, data)), config)
        self._write_batch(what, write)

    def do_put_session(self):
        """The value is written when the session ends."""
        number, size = self.journal.number(), _size(self.rng)
        data = values.make(self.journal.writer, number, size)
        config, hard = self._config()
        key, source = self._key(), ctypes.create_string_buffer(data, size)
        if self.store.batch_put_session_start([key], [size], config) != [0]:
            return  # another thread of this process has it in session
        half, at = size // 2, ctypes.addressof(source)
        self.store.register_buffer(at, size)
        written = [self.store.batch_put_from_multi_buffer_ranges([key], [[at + begin]], [[end - begin]], [[begin]])
                   for begin, end in ((half, size), (0, half)) if begin < end]
        self.store.unregister_buffer(at)
        if sum(count for count, in written) != size or self.rng.random() < 0.1:
            self.store.batch_put_session_revoke([key])
            return
        self.journal.call("put", [key], lambda: self.store.batch_put_session_end([key]), list, values=[number], sizes=[size], hard=hard)

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

    def do_batch_get_buffer(self):
        keys = self._some()
        self.journal.call("get", keys, lambda: self.store.batch_get_buffer(keys),
                          lambda handles: [_told_of_bytes(None if h is None else memoryview(h)) for h in handles])

    def _read_into(self, read) -> None:
        """read(keys, addresses) fills one buffer of LARGEST bytes a key; the counts, or codes."""
        keys = self._some()
        buffers = [ctypes.create_string_buffer(LARGEST) for _ in keys]

        def told(counts):
            return [list(values.read(memoryview(b)[:n])) if n > 0 else ["missing", n] if n == -704 else ["failed", n] for b, n in zip(buffers, counts)]
        self.journal.call("get_into", keys, lambda: read(keys, [ctypes.addressof(b) for b in buffers]), told)

    def do_batch_get_into(self):
        self._read_into(lambda keys, at: self.store.batch_get_into(keys, at, [LARGEST] * len(keys)))

    def do_multi_buffers(self):
        cut = self.rng.randint(1, LARGEST - 1)
        self._read_into(lambda keys, at: self.store.batch_get_into_multi_buffers(keys, [[a, a + cut] for a in at], [[cut, LARGEST - cut]] * len(keys)))

    def do_ranges(self):
        """The first byte alone: it says little, but that there is one."""
        key = self._key()
        if self.registered:
            self.journal.call("is_exist", [key], lambda: self.store.get_into_ranges([self.address], [[key]], [[[0]]], [[[0]]], [[[1]]]),
                              lambda counts: [{1: 1, -704: 0}.get(counts[0][0][0], counts[0][0][0])])

    def do_get_session(self):
        """What it says of a key that was replaced meanwhile (-704) says nothing about the key now."""
        key = self._key()
        if not self.registered or self.store.batch_get_session_start([key]) != [0]:
            return
        size = self.store.get_size(key)
        if size > 0:
            def told(counts):
                return [list(values.read(memoryview(self.target)[:size])) if counts[0] == size else ["failed", counts[0]]]
            self.journal.call("get_session", [key], lambda: self.store.batch_get_into_multi_buffer_ranges([key], [[self.address]], [[size]], [[0]]), told)
        self.store.batch_get_session_end([key])

    def do_exist_then_get(self):
        """What engines do: a get inside the lease that the answer came with."""
        keys = self._some()
        codes = self.journal.call("is_exist", keys, lambda: self.store.batch_is_exist(keys), list)
        for key in [key for key, code in zip(keys, codes) if code == 1]:
            self.journal.call("get", [key], lambda key=key: self.store.get(key), lambda data: [_told_of_bytes(data)])

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


    def _bulk(self, keys: list[str], remove) -> None:
        """A count: when it is not that of all, nobody knows of which."""
        self.journal.call("bulk", keys, remove, lambda count: [{len(keys): 0, 0: "none"}.get(count, "some")] * len(keys))

    def do_by_pattern(self):
        keys, force = self._some(), self.rng.random() < 0.5
        self._bulk(keys, lambda: self.store.remove_by_regex(f"^({'|'.join(keys)})$", force))

    def do_remove_all(self):
        force = self.rng.random() < 0.3
        self._bulk(self.settings["keys"], lambda: self.store.remove_all(force))


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
