"""What is known to crash, hang or mislead in the original, one by one: here each gives a code, and everybody is served on."""

import itertools
import socket
import struct

import pytest

from tests.support.processes import MIB, run_python
from tests.support.strangers import listening_ports
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until


def still_serves(master, *peers):
    """Everybody is alive and stores, reads and removes."""
    for n, peer in enumerate(peers):
        assert peer.alive(), peer.log()[-2000:]
        key, value = f"still-{n}", bytes([n + 1]) * 70_000
        assert peer.call("put", key, value) == 0
        assert [other.call("get", key) for other in peers] == [value] * len(peers)
        assert peer.call("remove", key, force=True) == 0
    assert master.alive() and master.admin("/health")[0] == 200


def read_twice(store):
    import ctypes
    assert store.put("k", b"0123456789") == 0
    buffers = [ctypes.create_string_buffer(b"?" * 10, 10) for _ in range(3)]
    at = [ctypes.addressof(buffer) for buffer in buffers]
    results = store.batch_get_into(["k"] * 3, at, [10] * 3), store.get_batch(["k", "k"]), store.batch_get_into_multi_buffers(["k"] * 2, [[a] for a in at[:2]], [[10]] * 2)
    return results, [buffer.raw for buffer in buffers], [bytes(handle) for handle in store.batch_get_buffer(["k", "k"])]


@pytest.mark.parametrize("memcpy", ["0", "1"], ids=["transport", "same_host"])
def test_the_same_key_twice_in_one_batch_fills_every_buffer(memcpy, master, start_peer):
    start_peer().setup(master)
    reader = start_peer(env={"MC_STORE_MEMCPY": memcpy}).setup(master, segment=0)
    results, buffers, handles = reader.run(read_twice)
    assert results == ([10] * 3, [b"0123456789"] * 2, [10] * 2)
    assert buffers == [b"0123456789"] * 3 and handles == [b"0123456789"] * 2


def test_a_put_of_half_the_address_space_returns(master, start_peer):
    peer = start_peer().setup(master)

    def huge(store, size):
        import ctypes
        memory = ctypes.create_string_buffer(4096)
        at = ctypes.addressof(memory)
        return [store.put_from("huge", at, size), store.upsert_from("huge", at, size), store.register_buffer(at, size), -store.put_from_with_metadata("huge", at, at, size, 1),
                -store.put_from_with_metadata("huge", at, at, 1, size), *store.batch_put_from(["huge"], [at], [size]),
                *store.batch_put_from_multi_buffers(["huge"], [[at, at]], [[size, size]]), *store.batch_put_session_start(["huge"], [size])]

    for size in (1 << 63, (1 << 63) + 1, (1 << 64) - 1, (1 << 64) - 4096, 1 << 62):
        with Stopwatch() as watch:
            codes = peer.run(huge, size)
        assert all(code < 0 for code in codes) and watch.seconds < 10 * TIME_FACTOR, (size, codes)
    assert peer.call("is_exist", "huge") == 0
    still_serves(master, peer)


def test_null_pointers_are_codes(master, start_peer):
    peer = start_peer().setup(master)

    def null(store):
        assert store.put("k", b"x" * 100) == 0
        return [store.put_from("n", 0, 100), store.upsert_from("n", 0, 100), -store.put_from_with_metadata("n", 0, 0, 100, 10), store.get_into("k", 0, 100),
                store.register_buffer(0, 100), store.unregister_buffer(0), *store.batch_put_from(["n"], [0], [100]), *store.batch_upsert_from(["n"], [0], [100]),
                *store.batch_get_into(["k"], [0], [100]), *store.batch_put_from_multi_buffers(["n"], [[0, 0]], [[50, 50]]),
                *store.batch_get_into_multi_buffers(["k"], [[0, 0]], [[50, 50]]), *store.get_into_ranges([0], [["k"]], [[[0]]], [[[0]]], [[[10]]])[0][0],
                *store.batch_get_into_multi_buffer_ranges(["k"], [[0]], [[10]], [[0]]), *store.batch_put_from_multi_buffer_ranges(["n"], [[0]], [[10]], [[0]])]

    codes = peer.run(null)
    assert all(code < 0 for code in codes), codes
    assert peer.call("is_exist", "n") == 0
    still_serves(master, peer)


def test_calls_before_setup_and_after_close_are_codes(master, start_peer):
    """Each method of the class, with arguments that are right."""
    peer = start_peer()

    def all_calls(store):
        import ctypes
        memory = ctypes.create_string_buffer(64)
        at = ctypes.addressof(memory)
        special = {"setup": None, "health_check": (), "close": (), "init_all": ("tcp", "", 0), "put_parts": ("k", b"v"), "upsert_parts": ("k", b"v"), "remove_all": (), "get_hostname": (),
                   "get_offload_rpc_read_count": (), "counters": (), "unmount_local_disk_segment": (), "query_task": ((1, 2),), "setup_dummy": (1, 1, "x:1")}
        kinds = {"key": "k", "keys": ["k"], "values": [b"v"], "value": b"v", "buffer_ptr": at, "metadata_buffer_ptr": at, "buffer_ptrs": [at], "sizes": [8], "size": 8, "metadata_size": 8,
                 "regex_pattern": "k", "all_buffer_ptrs": [[at]], "all_sizes": [[8]], "all_src_offsets": [[0]], "all_dst_offsets": [[0]], "all_keys": [["k"]], "segment_ids": ["1-2"],
                 "path": "/x", "targets": ["s"], "source": "s", "target": "t"}
        out = {}
        for name in dir(store):
            method = getattr(store, name)
            if name.startswith("_") or "tensor" in name or special.get(name, 0) is None:
                continue
            arguments = special.get(name)
            if arguments is None:
                text = type(store).__dict__[name].__text_signature__ or "()"
                names = [part.split("=")[0].split(":")[0].strip() for part in text.strip("()").split(",") if "=" not in part]
                arguments = [kinds[part] for part in names if part not in ("$self", "self", "/", "*", "")]
                if name == "get_into_ranges":
                    arguments = [[at], [["k"]], [[[0]]], [[[0]]], [[[8]]]]
            out[name] = method(*arguments)
        return out

    before = peer.run(all_calls)
    peer.setup(master)
    assert peer.call("close") == 0
    after = peer.run(all_calls)
    before.pop("counters"), after.pop("counters")
    assert before == after and len(before) >= 50, len(before)
    nothing = (-600, -900, -1012, -1, 1, 0, 600, b"", None, "", [], {}, [b""], [None], [-600], [[[-600]]])
    for name, value in before.items():
        code = value["ret"] if isinstance(value, dict) and value else value[1] if isinstance(value, tuple) else value
        assert code in nothing, (name, value)
    assert before["put"] == before["is_exist"] == before["get_into"] == before["register_buffer"] == -600 and before["get"] == b""


def test_close_during_calls_ends_them(master, start_peer):
    peer = start_peer(env={"MC_STORE_MEMCPY": "0"}).setup(master)

    def race(store, address):
        import threading
        codes, stop = set(), threading.Event()

        def work(number):
            n = 0
            while not stop.is_set():
                n += 1
                codes.add(store.put(f"k{number}-{n}", b"x" * 300_000))
                codes.add(len(store.get(f"k{number}-{n}")))
                codes.add(store.batch_is_exist([f"k{number}-{n}"])[0])
                handle = store.get_buffer(f"k{number}-{n}")
                codes.add(-1 if handle is None else len(handle))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            assert store.close() == 0
            assert store.setup("127.0.0.1", "P2PHANDSHAKE", 64 << 20, 32 << 20, "tcp", "", address) == 0
        stop.set()
        for thread in threads:
            thread.join(20)
        return sorted(codes), sum(thread.is_alive() for thread in threads)

    codes, alive = peer.run(race, master.address)
    assert alive == 0 and set(codes) <= {0, 1, -1, 300_000, -600, -704, -200, -703, -800, -900}, codes
    still_serves(master, peer)


def test_buffers_that_are_no_bytes_in_a_row_are_stored_exactly(master, start_peer):
    peer = start_peer().setup(master)

    def odd(store):
        import array
        import ctypes
        doubles = array.array("d", range(100))
        assert store.put("doubles", doubles) == 0 and store.get("doubles") == doubles.tobytes()
        strided = memoryview(bytes(range(256)))[::-3]
        assert store.put("strided", strided) == 0 and store.get("strided") == strided.tobytes()
        table = memoryview(bytes(range(240))).cast("B", (10, 24))
        assert store.put("table", table) == 0 and store.get("table") == bytes(range(240))
        struct_array = (ctypes.c_uint16 * 50)(*range(50))
        assert store.put_batch(["shorts"], [struct_array]) == 0 and store.get("shorts") == bytes(struct_array)
        assert store.upsert("doubles", strided) == 0 and store.get("doubles") == strided.tobytes()
        try:
            store.put_parts("parts", doubles)
        except RuntimeError as error:
            return str(error)

    assert "parts must be 1-D bytes-like" in peer.run(odd)


def test_metadata_of_an_unknown_kind_is_a_code(master, start_peer):
    peer = start_peer()
    for metadata in ("garbage://x", "etcd://127.0.0.1:1", "redis://127.0.0.1:1", "ftp://x/metadata", "://", "http:///metadata", "\x01", "P2PHANDSHAKE "):
        assert peer.call("setup", "127.0.0.1", metadata, 16 * MIB, MIB, "tcp", "", master.address) in (-600, -1), metadata
    peer.setup(master)
    still_serves(master, peer)


def test_a_forked_child_does_not_hang(master, start_peer):
    peer = start_peer().setup(master)

    def fork(store):
        import os
        import time
        assert store.put("k", b"v" * 1000) == 0
        child = os.fork()
        if child == 0:
            fine = store.get("k") == b"" and store.put("l", b"x") < 0 and store.batch_is_exist(["k"]) == [-600] and store.health_check() != 0
            os._exit(0 if fine else 1)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.01)
        os.kill(child, 9)
        return "it hangs"

    assert peer.run(fork) == 0
    assert peer.call("get", "k") == b"v" * 1000
    still_serves(master, peer)


def test_daemon_threads_at_exit_do_not_abort(master, scratch):
    done = run_python("""
import sys, threading
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", sys.argv[1]) == 0
busy = threading.Barrier(5)
def work(number):
    n = 0
    while True:
        n += 1
        store.put(f"{number}-{n}", b"x" * 100_000); store.get(f"{number}-{n}"); store.batch_get_buffer([f"{number}-{n}"])
        if n == 3:
            busy.wait()
for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
busy.wait()
""", scratch, args=[master.address], env={"MC_STORE_MEMCPY": "0"})
    assert done.returncode == 0, done.stderr
    wait_until(lambda: master.segments() == [], "the segment is gone")


def test_a_put_with_a_hundred_thousand_preferred_segments_stops_nobody(master, start_peer):
    peer = start_peer().setup(master)

    def many(store):
        from mooncake.store import ReplicateConfig
        config = ReplicateConfig()
        config.preferred_segments = [f"10.0.{n >> 8}.{n & 255}:{n}" for n in range(100_000)]
        return store.put("k", b"v", config), store.get("k")

    with Stopwatch() as watch:
        assert peer.run(many) == (0, b"v")
    assert watch.seconds < 10 * TIME_FACTOR
    still_serves(master, peer)


HARD = ("(a+)+$", "(a|a)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "(" * 5000 + ")" * 5000, "a{1,65000}{1,65000}", "(?:a?){200}a{200}", "[" * 10_000, "\\1" * 1000)


def test_a_hard_expression_returns_and_stops_nobody(master, start_peer):
    peer, other = start_peer().setup(master), start_peer("other").setup(master, segment=0)
    for n, expression in enumerate(HARD):
        assert peer.call("put_batch", ["a" * 200 + f"-{i}" for i in range(50)], [b"x"] * 50) == 0
        peer.start("remove_by_regex", expression)
        with Stopwatch() as watch:
            assert other.call("put", f"meanwhile{n}", b"v") == 0 and other.call("get", f"meanwhile{n}") == b"v"
        count = peer.result(30)
        assert -700 < count <= 60 and watch.seconds < 10 * TIME_FACTOR, (expression[:30], count)
    still_serves(master, peer, other)


def test_a_huge_content_length_kills_no_http_server(master, start_peer):
    peer = start_peer().setup(master)
    for port, length in itertools.product((master.metrics_port, master.metadata_port), (1 << 40, (1 << 63) - 1, 1 << 64, -1, "1e9", "0x10")):
        for target in ("PUT /metadata?key=x", "POST /api/v1/remove_all", "GET /health"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nsome".encode())
                connection.settimeout(0.05)
                try:
                    connection.recv(4096)
                except OSError:
                    pass
    assert master.admin("/health")[0] == 200
    still_serves(master, peer)


def test_a_nested_handshake_frame_kills_no_holder(master, start_peer):
    """The original's frame: a length of 8 bytes, a type, JSON; at every port of every process."""
    holder, reader = start_peer("holder", env={"MC_STORE_MEMCPY": "0"}).setup(master), start_peer("reader", env={"MC_STORE_MEMCPY": "0"}).setup(master, segment=0)
    nested = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    for process in (holder, reader, master):
        for port in listening_ports(process.pid):
            for kind in range(5):
                for length in (len(nested), 1 << 40, 0):
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                        try:
                            connection.sendall(struct.pack("<QB", length, kind) + nested[:65536 if length else 0])
                        except OSError:
                            pass  # it was not even listened to
    still_serves(master, holder, reader)


def test_puts_go_on_at_once_when_a_holder_dies(start_master, start_peer):
    master = start_master("--client_ttl=10")
    dying, living = start_peer("dying").setup(master), start_peer("living").setup(master)
    writer = start_peer("writer").setup(master, segment=0)
    assert [writer.call("put", f"before{n}", b"x" * 50_000) for n in range(8)] == [0] * 8
    dying.kill()
    codes = [writer.call("put", f"after{n}", b"x" * 50_000) for n in range(40)]
    assert codes == [0] * 40, "the dead one is not placed on"
    assert [writer.call("get", f"after{n}") for n in range(40)] == [b"x" * 50_000] * 40
    assert living.alive()
