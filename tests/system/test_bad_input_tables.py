"""Bad input by the table: every call that takes an address with every address that is none, every call that takes a key with every odd key, every call in a
forked child, and strangers that hold on to every port. Codes or TypeError/ValueError, soon, and nothing is harmed."""

import pathlib
import socket

import pytest

from tests.support.processes import MIB
from tests.support.strangers import listening_ports
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

# ---- addresses ----


def wild_pointers(store):
    """(call, address) -> its code, for all of them; and whether the memory beside was left alone."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    area = mmap.mmap(-1, 8 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    area.write(b"\x5a" * 8 * page)

    def protect(begin, pages, rights):
        assert libc.mprotect(ctypes.c_void_p(base + begin * page), ctypes.c_size_t(pages * page), rights) == 0

    protect(2, 1, 0)  # nothing may touch it
    protect(4, 1, 1)  # only read
    assert libc.munmap(ctypes.c_void_p(base + 6 * page), ctypes.c_size_t(page)) == 0
    good = base
    bad = {"null": 0, "one": 1, "the first page": 4096, "no access": base + 2 * page, "unmapped": base + 6 * page, "the end of a page before nothing": base + 6 * page - 8,
           "across a page without access": base + 2 * page - 8, "above user space": 1 << 47, "negative": (1 << 64) - 4096, "the last byte": (1 << 64) - 1, "half": 1 << 63}
    value = bytes(range(64))
    size = len(value)
    assert store.put("there", value) == 0
    for key, sizes in (("session", [size]), ("other", [size])):
        assert store.batch_put_session_start([key], sizes) == [0]
    assert store.batch_get_session_start(["there"]) == [0]
    reads_from = {
        "put_from": lambda at: store.put_from("p", at, size), "upsert_from": lambda at: store.upsert_from("p", at, size),
        "batch_put_from": lambda at: store.batch_put_from(["p"], [at], [size])[0], "batch_upsert_from": lambda at: store.batch_upsert_from(["p"], [at], [size])[0],
        "put_from_with_metadata, data": lambda at: -store.put_from_with_metadata("p", at, good, size, size),
        "put_from_with_metadata, metadata": lambda at: -store.put_from_with_metadata("p", good, at, size, size),
        "batch_put_from_multi_buffers": lambda at: store.batch_put_from_multi_buffers(["p"], [[at]], [[size]])[0],
        "batch_put_from_multi_buffers, second": lambda at: store.batch_put_from_multi_buffers(["p"], [[good, at]], [[8, size]])[0],
        "batch_put_from_multi_buffer_ranges": lambda at: store.batch_put_from_multi_buffer_ranges(["session"], [[at]], [[size]], [[0]])[0],
    }
    writes_to = {
        "get_into": lambda at: store.get_into("there", at, size), "batch_get_into": lambda at: store.batch_get_into(["there"], [at], [size])[0],
        "batch_get_into_multi_buffers": lambda at: store.batch_get_into_multi_buffers(["there"], [[at]], [[size]])[0],
        "batch_get_into_multi_buffers, second": lambda at: store.batch_get_into_multi_buffers(["there"], [[good, at]], [[8, size]])[0],
        "get_into_ranges": lambda at: store.get_into_ranges([at], [["there"]], [[[0]]], [[[0]]], [[[size]]])[0][0][0],
        "batch_get_into_multi_buffer_ranges": lambda at: store.batch_get_into_multi_buffer_ranges(["there"], [[at]], [[size]], [[0]])[0],
        "register_buffer": lambda at: store.register_buffer(at, size), "unregister_buffer": lambda at: store.unregister_buffer(at),
    }
    codes = {}
    for what, at in bad.items():
        for name, call in (reads_from | writes_to).items():
            codes[name, what] = call(at)
    for name, call in writes_to.items():
        codes[name, "memory that may only be read"] = call(base + 4 * page)
    for name, call in reads_from.items():
        if "ranges" not in name:
            key_is_free = store.remove("p", force=True) in (0, -704)
            assert key_is_free and call(base + 4 * page) == 0, (name, "what may be read is stored")
    protect(2, 1, 3)
    protect(4, 1, 3)
    untouched = [ctypes.string_at(base + n * page, page) == b"\x5a" * page for n in (1, 2, 3, 4, 5, 7)]
    store.remove("p", force=True)
    return codes, untouched, store.get("there") == value


@pytest.mark.parametrize("memcpy", ["0", "1"], ids=["transport", "same_host"])
def test_addresses_that_are_none(memcpy, master, start_peer):
    start_peer("holder").setup(master)
    peer = start_peer("caller", env={"MC_STORE_MEMCPY": memcpy}).setup(master, segment=0)
    codes, untouched, readable = peer.run(wild_pointers)
    assert len(codes) > 150
    assert {call: code for call, code in codes.items() if not -1000 < code < 0} == {}
    assert untouched == [True] * 6 and readable


# ---- sizes ----


def wild_sizes(store):
    import ctypes
    memory = ctypes.create_string_buffer(b"x" * 4096, 4096)
    at = ctypes.addressof(memory)
    assert store.register_buffer(at, 4096) == 0 and store.put("there", b"v" * 100) == 0
    assert store.batch_get_session_start(["there"]) == [0] and store.batch_put_session_start(["session"], [100]) == [0]
    out = {}
    for size in (1 << 31, 1 << 32, (1 << 40) + 1, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1):
        for name, call in {
            "put_from": lambda: store.put_from("p", at, size), "upsert_from": lambda: store.upsert_from("p", at, size),
            "with_metadata, data": lambda: -store.put_from_with_metadata("p", at, at, size, 1), "with_metadata, metadata": lambda: -store.put_from_with_metadata("p", at, at, 1, size),
            "get_into": lambda: store.get_into("there", at, size), "register_buffer": lambda: store.register_buffer(at + 8192, size),
            "batch_put_from": lambda: store.batch_put_from(["p"], [at], [size])[0], "batch_get_into": lambda: store.batch_get_into(["there"], [at], [size])[0],
            "multi put, sum": lambda: store.batch_put_from_multi_buffers(["p"], [[at] * 4], [[size, size, 1, size]])[0],
            "multi get, sum": lambda: store.batch_get_into_multi_buffers(["there"], [[at, at]], [[size, size]])[0],
            "ranges, size": lambda: store.get_into_ranges([at], [["there"]], [[[0]]], [[[0]]], [[[size]]])[0][0][0],
            "ranges, to": lambda: store.get_into_ranges([at], [["there"]], [[[size]]], [[[0]]], [[[10]]])[0][0][0],
            "ranges, from": lambda: store.get_into_ranges([at], [["there"]], [[[0]]], [[[size]]], [[[10]]])[0][0][0],
            "session read, size": lambda: store.batch_get_into_multi_buffer_ranges(["there"], [[at]], [[size]], [[0]])[0],
            "session read, from": lambda: store.batch_get_into_multi_buffer_ranges(["there"], [[at]], [[10]], [[size]])[0],
            "session write, size": lambda: store.batch_put_from_multi_buffer_ranges(["session"], [[at]], [[size]], [[0]])[0],
            "session write, to": lambda: store.batch_put_from_multi_buffer_ranges(["session"], [[at]], [[10]], [[size]])[0],
            "session start": lambda: store.batch_put_session_start(["q"], [size])[0], "mount": lambda: store.allocate_and_mount_segment(size)["ret"] if size >= 1 << 47 else -600,
        }.items():
            code = call()
            out[name, size] = 0 if name == "get_into" and code == -600 else code
    return out, memory.raw == b"x" * 4096 or memory.raw[:100] == b"v" * 100, store.get("there")


def test_sizes_and_offsets_that_cannot_be(master, start_peer):
    peer = start_peer().setup(master)
    with Stopwatch() as watch:
        codes, untouched, value = peer.run(wild_sizes)
    # A buffer that is larger than the value by far is right for a read, if it is all there: it is not.
    assert {call: code for call, code in codes.items() if not (-1000 < code < 0 or call[0] in ("get_into",))} == {}
    assert len(codes) > 140 and untouched and value == b"v" * 100 and watch.seconds < 30 * TIME_FACTOR


# ---- keys ----


def odd_keys(store):
    import ctypes
    memory = ctypes.create_string_buffer(64)
    at = ctypes.addressof(memory)
    store.register_buffer(at, 64)
    calls = {
        "put": lambda k: store.put(k, b"v"), "upsert": lambda k: store.upsert(k, b"v"), "put_parts": lambda k: store.put_parts(k, b"v"), "put_batch": lambda k: store.put_batch(["fine", k], [b"v", b"v"]),
        "upsert_batch": lambda k: store.upsert_batch(["fine", k], [b"v", b"v"]), "put_from": lambda k: store.put_from(k, at, 8), "upsert_from": lambda k: store.upsert_from(k, at, 8),
        "batch_put_from": lambda k: store.batch_put_from(["fine", k], [at, at], [8, 8])[1], "batch_upsert_from": lambda k: store.batch_upsert_from(["fine", k], [at, at], [8, 8])[1],
        "multi put": lambda k: store.batch_put_from_multi_buffers(["fine", k], [[at], [at]], [[8], [8]])[1], "with_metadata": lambda k: -store.put_from_with_metadata(k, at, at, 8, 8),
        "session put": lambda k: store.batch_put_session_start([k], [8])[0], "is_exist": lambda k: store.is_exist(k), "batch_is_exist": lambda k: store.batch_is_exist(["fine", k])[1],
        "get_size": lambda k: store.get_size(k), "get_into": lambda k: store.get_into(k, at, 8), "batch_get_into": lambda k: store.batch_get_into(["fine", k], [at, at], [8, 8])[1],
        "multi get": lambda k: store.batch_get_into_multi_buffers(["fine", k], [[at], [at]], [[8], [8]])[1], "ranges": lambda k: store.get_into_ranges([at], [[k]], [[[0]]], [[[0]]], [[[1]]])[0][0][0],
        "session get": lambda k: store.batch_get_session_start([k])[0], "remove": lambda k: store.remove(k), "force": lambda k: store.remove(k, True), "batch_remove": lambda k: store.batch_remove([k])[0],
    }
    empty = {"get": lambda k: store.get(k) == b"", "get_batch": lambda k: store.get_batch([k]) == [b""], "get_buffer": lambda k: store.get_buffer(k) is None,
             "batch_get_buffer": lambda k: store.batch_get_buffer([k]) == [None], "get_replica_desc": lambda k: store.get_replica_desc(k) == [],
             "batch_get_replica_desc": lambda k: store.batch_get_replica_desc([k]) == {}, "replica_clear": lambda k: store.batch_replica_clear([k]) == []}
    wrong = []
    for key in ("", b"", bytearray(), "k" * 8193, b"\xff" * 8193, "é" * 4097, "k" * 1_000_000):
        for name, call in calls.items():
            code = call(key)
            if code != -600:
                wrong.append((name, key[:10], len(key), code))
        wrong.extend((name, key[:10]) for name, call in empty.items() if call(key) is not True)
    for key in (None, 1, 1.5, ["k"], memoryview(b"k"), object(), "\ud800", "a\udfff"):
        for name, call in (calls | empty).items():
            try:
                wrong.append((name, repr(key), call(key)))
            except (TypeError, ValueError):
                pass
    for key in ("\0", b"\0\xff\xfe", "a\0b", "\n", "%s%n%p", "../../etc/passwd", "k" * 8192, "𝕜€ý", "'; DROP TABLE", "mooncake/ram/x", b"\xed\xa0\x80"):
        good = (store.put(key, b"value"), store.get(key), store.is_exist(key), store.batch_is_exist([key, key]), store.get_batch([key]), store.get_size(key),
                store.batch_remove([key], True), store.is_exist(key))
        if good != (0, b"value", 1, [1, 1], [b"value"], 5, [0], 0):
            wrong.append((key, good))
    return wrong


def test_keys_that_are_none_and_keys_of_any_bytes(master, start_peer):
    peer = start_peer().setup(master)
    assert peer.run(odd_keys) == []


# ---- a forked child ----


def calls_in_a_child(store):
    """Every method in a child of a process whose store is busy: it answers as before setup, and ends in time."""
    import ctypes
    import os
    import pickle
    import threading
    import time
    from mooncake.store import MooncakeDistributedStore
    memory = ctypes.create_string_buffer(64)
    at = ctypes.addressof(memory)
    assert store.put("k", b"v" * 64) == 0
    handle = store.get_buffer("k")

    def results(one):
        return [one.put("k", b"v"), one.get("k"), one.get_batch(["k"]), one.is_exist("k"), one.batch_is_exist(["k", "l"]), one.get_size("k"), one.get_buffer("k"),
                one.batch_get_buffer(["k"]), one.get_into("k", at, 64), one.batch_get_into(["k"], [at], [64]), one.put_batch(["k"], [b"v"]), one.put_parts("k", b"v"),
                one.put_from("k", at, 8), one.batch_put_from(["k"], [at], [8]), one.upsert("k", b"v"), one.upsert_batch(["k"], [b"v"]), one.remove("k"),
                one.batch_remove(["k"]), one.remove_by_regex("k"), one.remove_all(), one.register_buffer(at, 64), one.unregister_buffer(at),
                one.get_replica_desc("k"), one.batch_get_replica_desc(["k"]), one.batch_get_session_start(["k"]), one.batch_put_session_start(["k"], [8]),
                one.batch_put_session_end(["k"]), one.batch_get_session_end(["k"]), one.get_into_ranges([at], [["k"]], [[[0]]], [[[0]]], [[[1]]]),
                one.batch_replica_clear(["k"]), one.allocate_and_mount_segment(1 << 24), one.unmount_segment(["1-2"]), one.health_check(), one.close()]

    expected = results(MooncakeDistributedStore())
    stop = threading.Event()

    def work():
        n = 0
        while not stop.is_set():
            n += 1
            store.put(f"busy{n % 50}", b"x" * 50_000), store.get(f"busy{n % 50}")
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    told = []
    for _ in range(5):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, pickle.dumps((results(store), bytes(memoryview(handle)[:1]) in (b"v", b""), store.setup("h", "P2PHANDSHAKE", 0, 0, "tcp", "", "m:1"))))
            finally:
                os._exit(0)
        os.close(writer)
        begin = time.monotonic()
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() - begin > 10:
                os.kill(child, 9)
            time.sleep(0.01)
        told.append(os.read(reader, 1 << 16) or b"")
        os.close(reader)
    stop.set()
    for thread in threads:
        thread.join()
    told = [pickle.loads(one) if one else "died" for one in told]
    return expected, told, store.get("k")


def test_every_call_in_a_forked_child_answers_at_once(master, start_peer):
    start_peer("holder").setup(master)
    peer = start_peer(env={"MC_STORE_MEMCPY": "0"}).setup(master)
    expected, told, value = peer.run(calls_in_a_child, timeout=90)
    for one in told:
        assert one != "died"
        strange = [(n, a, b) for n, (a, b) in enumerate(zip(one[0], expected)) if a != b and a not in (-600, [-600])]
        assert len(one[0]) == len(expected) and strange == [] and one[2] == -600
    assert value == b"v" * 64


# ---- strangers that stay ----


def descriptors(process):
    return len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))


BEGINNINGS = (b"", b"M", b"MCS1\x01", b"MCS1\x01\x01\x01\x00\xff\xff", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"POST /api/v1/remove_all HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nabc",
              b"PUT /metadata?key=x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"\0\0\0\x10abc", b"\xff" * 7, b"\x16\x03\x01\x02\x00")


@pytest.mark.parametrize("memcpy", ["0", "1"], ids=["transport", "same_host"])
def test_strangers_that_hold_on_to_every_port_hold_up_nobody_and_leave_nothing(memcpy, master, start_peer, scratch):
    env = {"MC_STORE_MEMCPY": memcpy}
    holder, reader = start_peer("holder", env=env).setup(master), start_peer("reader", env=env).setup(master, segment=0)
    ports = {port: process for process in (master, holder, reader) for port in listening_ports(process.pid)}
    paths = [path for path in scratch.folder("ipc").rglob("*") if path.is_socket()]
    for n in range(2):  # what is opened once stays
        assert holder.call("put", f"warm{n}", b"x" * 100_000) == 0 and reader.call("get", f"warm{n}") == b"x" * 100_000
    before = {process: descriptors(process) for process in (master, holder, reader)}
    held = []
    for n in range(3):
        for beginning in BEGINNINGS:
            for port in ports:
                held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                held[-1].send(beginning)
            for path in paths:
                for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
                    peer = socket.socket(socket.AF_UNIX, kind)
                    peer.settimeout(5)
                    try:
                        peer.connect(str(path))
                        peer.send(beginning)
                        held.append(peer)
                    except OSError:
                        peer.close()
    try:
        with Stopwatch() as watch:
            for n in range(5):
                assert reader.call("put", f"k{n}", b"y" * 200_000) == 0
                assert holder.call("get", f"k{n}") == b"y" * 200_000 and reader.call("get", f"k{n}") == b"y" * 200_000
                assert master.admin("/health")[0] == 200 and master.admin("/get_all_segments")[0] == 200
            newcomer = start_peer("newcomer", env=env).setup(master, segment=0)
            assert newcomer.call("get", "k0") == b"y" * 200_000
        assert watch.seconds < 10 * TIME_FACTOR
        newcomer.close()
    finally:
        for one in held:
            one.close()
    for process, count in before.items():
        wait_until(lambda: descriptors(process) <= count + 2, f"the descriptors of the strangers come back to {process.log_path.name}", 20)
    assert reader.call("put", "after", b"z") == 0 and holder.call("get", "after") == b"z"
