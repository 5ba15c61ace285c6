"""Commands that are a client of the store for a moment: get, put, rm, bench."""

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time

from .cli_admin import Admin, parse_address
from .cli_text import (FAILED, NOT_FOUND, UNREACHABLE, Failure, Progress, code_text, print_json, print_table, printable, seconds_text, size_text)
from .mooncake_config import parse_size

MISSING = -704


# ---- joining ----


def _own_host(master):
    """The address by which this machine reaches the master: what the data plane binds. MOONCAKE_LOCAL_HOSTNAME overrides."""
    given = os.environ.get("MOONCAKE_LOCAL_HOSTNAME")
    if given:
        return given
    if master.startswith("unix:"):
        return "localhost"
    host, port = parse_address(master, 50051)
    with contextlib.suppress(OSError):
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(address)
            own = probe.getsockname()[0]
        return "localhost" if own in ("127.0.0.1", "::1") else own
    return "localhost"


def _check_master(master, timeout):
    if master.startswith("unix:"):
        return
    try:
        with socket.create_connection(parse_address(master, 50051), timeout):
            pass
    except OSError as error:
        why = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Failure(
            f"no master at {master}: {why}\n"
            "  Is mooncake_master running? Clients reach it at --rpc_port (50051).\n"
            "  Another place: --master HOST:PORT, or the variable MOONCAKE_MASTER.",
            UNREACHABLE,
        ) from None


@contextlib.contextmanager
def joined(arguments, segment=0, buffer=1 << 20):
    """A store, set up and closed."""
    _check_master(arguments.master, arguments.timeout)
    try:
        from .store import MooncakeDistributedStore
    except ImportError as error:
        raise Failure(f"the module mooncake.store does not load: {error}\n  `mooncake doctor` says what is missing.") from None
    store = MooncakeDistributedStore()
    code = store.setup(_own_host(arguments.master), "P2PHANDSHAKE", segment, buffer, "tcp", "", arguments.master)
    if code != 0:
        raise Failure(f"cannot join the cluster of {arguments.master}: {code_text(code)}; the log above says why", UNREACHABLE)
    try:
        yield store
    finally:
        store.close()


def _address(memory):
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))


# ---- get, put, rm ----


def _read(store, key):
    for _ in range(8):  # it may be replaced by one of another size between the two calls
        size = store.get_size(key)
        if size < 0:
            break
        memory = bytearray(size)
        size = store.get_into(key, _address(memory), size)
        if size == len(memory):
            return memory
        if size != -600:
            break
    if size == MISSING:
        raise Failure(f"{printable(key)}: no such key", NOT_FOUND)
    raise Failure(f"{printable(key)}: not read: {code_text(size)}")


def get(arguments):
    """Writes the bytes of a value to a file or to stdout."""
    with joined(arguments) as store:
        value = _read(store, arguments.key)
    if arguments.output and arguments.output != "-":
        # Beside it first: a write that fails leaves what was there.
        part = f"{arguments.output}.part-{os.getpid()}"
        try:
            with open(part, "wb") as file:
                file.write(value)
            os.replace(part, arguments.output)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise Failure(f"{arguments.output}: {error.strerror}") from None
        if arguments.json:
            print_json({"key": arguments.key, "bytes": len(value), "file": arguments.output})
        return 0
    if sys.stdout.isatty() and (b"\0" in value[:4096] or not _is_text(value[:4096])):
        raise Failure(f"{size_text(len(value))} of binary data: give -o FILE, or pipe it somewhere")
    sys.stdout.buffer.write(value)
    sys.stdout.flush()
    return 0


def _is_text(head):
    try:
        bytes(head).decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # cut within a character
    return True


def _value(arguments):
    if arguments.text is not None:
        return bytearray(arguments.text.encode(errors="surrogateescape"))
    if arguments.file in (None, "-"):
        return bytearray(sys.stdin.buffer.read())
    try:
        with open(arguments.file, "rb") as file:
            return bytearray(file.read())
    except OSError as error:
        raise Failure(f"{arguments.file}: {error.strerror}") from None


def put(arguments):
    """Stores a file, a text or stdin under a key. A key that is there keeps its value, unless --upsert is given."""
    if arguments.text is not None and arguments.file is not None:
        raise Failure("FILE and --text: one of them", 2)
    value = _value(arguments)
    if not value:
        raise Failure("a value has one byte at least")
    with joined(arguments) as store:
        from .store import ReplicateConfig, SoftPinAction

        config = ReplicateConfig()
        config.replica_num = arguments.replicas
        config.with_hard_pin = arguments.hard_pin
        if arguments.soft_pin:
            config.soft_pin_action = SoftPinAction.ENABLE
        if arguments.segment:
            config.preferred_segments = arguments.segment
        was = store.is_exist(arguments.key) if not arguments.upsert else 0
        call = store.upsert_from if arguments.upsert else store.put_from
        code = call(arguments.key, _address(value), len(value), config)
    if code != 0:
        raise Failure(f"{printable(arguments.key)}: not stored: {code_text(code)}")
    if was == 1:
        print(f"{printable(arguments.key)} was there already and keeps its value (--upsert replaces it)", file=sys.stderr)
    if arguments.json:
        print_json({"key": arguments.key, "bytes": len(value), "stored": was != 1})
    return 0


def _remove_all(arguments):
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise Failure("rm --all wants --yes", 2)
        if input("remove every object of the cluster? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Failure("nothing was removed")
    answer = Admin(arguments.admin, max(arguments.timeout, 300)).json(
        "/api/v1/remove_all", {"force": "true" if arguments.force else "false"}, "POST")
    return int(answer["removed_count"])


def rm(arguments):
    """Removes keys, those that a pattern finds, or all."""
    if bool(arguments.key) + bool(arguments.regex) + bool(arguments.all) != 1:
        raise Failure("one of KEY..., --regex PATTERN and --all is wanted", 2)
    if arguments.all or arguments.regex:
        if arguments.all:
            count = _remove_all(arguments)
        else:
            with joined(arguments) as store:
                count = store.remove_by_regex(arguments.regex, force=arguments.force)
            if count < 0:
                raise Failure(f"{arguments.regex}: {code_text(count)}")
        print_json({"removed": count}) if arguments.json else print(f"{count} removed" + ("" if arguments.force else ", what is under a lease stays"))
        return 0
    with joined(arguments) as store:
        codes = store.batch_remove(arguments.key, force=arguments.force)
    if arguments.json:
        print_json({"removed": codes.count(0), "failed": {key: code for key, code in zip(arguments.key, codes) if code != 0}})
    for key, code in zip(arguments.key, codes):
        if code != 0:
            print(f"mooncake: {printable(key)}: {'no such key' if code == MISSING else code_text(code)}", file=sys.stderr)
    if all(code == 0 for code in codes):
        return 0
    return NOT_FOUND if all(code in (0, MISSING) for code in codes) else FAILED


# ---- bench ----

POOL = 16 << 20  # bytes of values of one size that are kept at a time (one value a thread, if that is more)
ROOM_WAIT = 5.0  # removed values take a moment until their room can be used again
NO_ROOM = -200


class _Worker:
    """One thread's values of one size: a ring of keys, put anew again and again, or read again and again."""

    def __init__(self, store, size, thread, keys):
        self.store, self.size, self.keys = store, size, keys
        pattern = os.urandom(min(size, 4096))
        self.memory = bytearray((pattern * (size // len(pattern) + 1))[:size])
        self.pointer = _address(self.memory)
        self.prefix = f"mooncake-bench-{os.getpid()}-{size}-{thread}"
        self.times = []
        self.code = 0
        self.round = 0

    def names(self):
        return [f"{self.prefix}-{self.round}-{i}" for i in range(self.keys)]

    def clean(self):
        self.store.batch_remove(self.names(), force=True)

    def put_one(self, name):
        """The seconds it took; None when it failed. Waits for room are not counted."""
        end = time.perf_counter() + ROOM_WAIT
        while True:
            began = time.perf_counter()
            self.code = self.store.put_from(name, self.pointer, self.size)
            took = time.perf_counter() - began
            if self.code == 0:
                return took
            if self.code != NO_ROOM or began > end:
                return None
            time.sleep(0.01)

    def get_one(self, name):
        """The same. A full cluster may evict a value meanwhile: it is put again."""
        took = self._get_once(name)
        if took is None and self.code == MISSING and self.put_one(name) is not None:
            took = self._get_once(name)
        return took

    def _get_once(self, name):
        began = time.perf_counter()
        got = self.store.get_into(name, self.pointer, self.size)
        took = time.perf_counter() - began
        self.code = 0 if got == self.size else got
        return took if self.code == 0 else None

    def fill(self):
        for name in self.names():
            if self.put_one(name) is None:
                raise Failure(f"bench: a value of {size_text(self.size)} was not stored: {code_text(self.code)}")

    def put(self, end):
        while True:
            for name in self.names():
                took = self.put_one(name)
                if took is None:
                    return
                self.times.append(took)
                if time.perf_counter() >= end:
                    return
            self.clean()
            self.round += 1

    def get(self, end):
        while True:
            for name in self.names():
                took = self.get_one(name)
                if took is None:
                    return
                self.times.append(took)
                if time.perf_counter() >= end:
                    return


def _measure(workers, operation, seconds, report):
    """A row of the table."""
    began = time.perf_counter()
    threads = [threading.Thread(target=getattr(w, operation), args=(began + seconds,), daemon=True) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            report(min(time.perf_counter() - began, seconds))
    for worker in workers:
        if worker.code != 0:
            raise Failure(f"bench: {operation} of {size_text(worker.size)}: {code_text(worker.code)}")
    times = sorted(t for worker in workers for t in worker.times)
    # What a thread does between its calls (removing values, waiting for room) is not measured.
    rate = sum(len(worker.times) / sum(worker.times) for worker in workers)
    return {
        "operation": operation, "bytes": workers[0].size, "threads": len(workers), "operations": len(times), "operations_per_s": round(rate, 1),
        "gb_per_s": round(rate * workers[0].size / 1e9, 3), "p50_s": times[len(times) // 2], "p99_s": times[min(len(times) - 1, len(times) * 99 // 100)],
    }


def _bench_size(store, size, arguments, report):
    keys = max(1, min(64, POOL // (size * arguments.threads)))
    workers = [_Worker(store, size, thread, keys) for thread in range(arguments.threads)]
    for worker in workers:
        store.register_buffer(worker.pointer, size)
    try:
        rows = [_measure(workers, "put", arguments.seconds, lambda now: report("put", now))]
        for worker in workers:
            worker.clean()
            worker.round, worker.times = worker.round + 1, []
            worker.fill()
        rows.append(_measure(workers, "get", arguments.seconds, lambda now: report("get", arguments.seconds + now)))
        return rows
    finally:
        for worker in workers:
            worker.clean()
            store.unregister_buffer(worker.pointer)


def _sizes(text):
    try:
        sizes = [parse_size(part) for part in text.split(",")]
    except ValueError as error:
        raise Failure(str(error), 2) from None
    if not all(1 <= size <= 1 << 30 for size in sizes):
        raise Failure("--sizes: from 1 byte to 1 GB each", 2)
    return sizes


def bench(arguments):
    """Measures puts and gets of this machine against the cluster, with keys of its own that it removes."""
    sizes = _sizes(arguments.sizes)
    try:
        segment = parse_size(arguments.segment)
    except ValueError as error:
        raise Failure(str(error), 2) from None
    rows = []
    with joined(arguments, segment=segment) as store, Progress("bench", not arguments.json) as bar:
        total = 2 * len(sizes) * arguments.seconds
        for i, size in enumerate(sizes):
            done = 2 * i * arguments.seconds
            rows += _bench_size(store, size, arguments, lambda name, now: bar.show(done + now, total, f"{name} {size_text(size)}"))
    if arguments.json:
        print_json(rows)
    else:
        print_table([">size", "operation", ">threads", ">ops/s", ">GB/s", ">p50", ">p99"],
                    [(size_text(r["bytes"]), r["operation"], r["threads"], r["operations_per_s"], f"{r['gb_per_s']:.3f}", seconds_text(r["p50_s"]),
                      seconds_text(r["p99_s"])) for r in rows])
    return 0
