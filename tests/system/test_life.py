"""Before setup, after close, at the interpreter's exit, in a forked child, over and over: codes, exit code 0, nothing left behind."""

import pathlib

import pytest

from tests.support.processes import MIB, run_python
from tests.support.waiting import TIME_FACTOR, holds_for, wait_until


def every_call(store):
    """Every call of the API on whatever state the store is in: (name, result)."""
    import ctypes
    from mooncake.store import ReplicateConfig
    buffer = ctypes.create_string_buffer(1000)
    at = ctypes.addressof(buffer)
    config = ReplicateConfig()
    calls = [("put", "k", b"x"), ("put", "k", b"x", config), ("get", "k"), ("put_batch", ["k"], [b"x"]), ("get_batch", ["k"]), ("put_parts", "k", b"a", b"b"),
             ("remove", "k"), ("remove_by_regex", "k.*"), ("remove_all",), ("is_exist", "k"), ("batch_is_exist", ["k", "l"]), ("get_size", "k"),
             ("get_buffer", "k"), ("batch_get_buffer", ["k"]), ("register_buffer", at, 1000), ("unregister_buffer", at), ("put_from", "k", at, 1000),
             ("get_into", "k", at, 1000), ("batch_put_from", ["k"], [at], [1000]), ("batch_get_into", ["k"], [at], [1000]),
             ("batch_put_from_multi_buffers", ["k"], [[at]], [[1000]]), ("batch_get_into_multi_buffers", ["k"], [[at]], [[1000]]),
             ("get_replica_desc", "k"), ("batch_get_replica_desc", ["k"]), ("upsert", "k", b"x"), ("get_hostname",), ("health_check",), ("counters",)]
    return [(name, getattr(store, name)(*args)) for name, *args in calls]


EMPTY = {"get": [b""], "get_batch": [[b""]], "get_buffer": [None], "batch_get_buffer": [[None]], "batch_put_from_multi_buffers": [[], [-600]],
         "batch_get_into_multi_buffers": [[], [-600]], "get_replica_desc": [[]], "batch_get_replica_desc": [{}], "get_hostname": [""], "health_check": [1],
         "batch_is_exist": [[-600, -600]], "batch_put_from": [[-600]], "batch_get_into": [[-600]]}


def check_codes(results):
    for name, value in results:
        if name != "counters":
            assert value in EMPTY.get(name, [-600]), (name, value)


def test_calls_before_setup_and_after_close_return_codes(master, start_peer):
    peer = start_peer()
    check_codes(peer.run(every_call))
    assert peer.call("close") == 0
    peer.setup(master)
    assert peer.call("put", "k", b"x" * 1000) == 0
    assert peer.call("close") == 0 and peer.call("close") == 0
    check_codes(peer.run(every_call))
    peer.setup(master)
    assert peer.call("get", "k") == b"", "a new setup is new memory"
    assert peer.call("put", "k", b"y") == 0 and peer.call("get", "k") == b"y"


def test_setup_again_replaces_the_first(master, start_master, start_peer):
    second = start_master()
    peer = start_peer().setup(master)
    name = peer.hostname()
    assert master.segments() == [name]
    assert peer.call("put", "k", b"1") == 0
    peer.setup(second)
    assert master.segments() == [] and second.segments() == [peer.hostname()]
    assert peer.call("get", "k") == b""
    peer.setup(second, host=f"{peer.hostname()}")
    assert len(second.segments()) == 1


# ---- programs and how they end ----

START = """
import sys, os, threading, time
from mooncake.store import MooncakeDistributedStore
def make(segment=64 << 20):
    store = MooncakeDistributedStore()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", segment, 16 << 20, "tcp", "", sys.argv[1])
    assert code == 0, code
    return store
"""

PROGRAMS = {
    "exit without close": "store = make(); assert store.put('k', b'x' * 100000) == 0",
    "del": "store = make(); assert store.put('k', b'x') == 0; del store; import gc; gc.collect(); print('gone')",
    "close at exit twice": "import atexit; store = make(); atexit.register(store.close); store.close()",
    "two stores": """
a, b = make(), make()
assert a.get_hostname() != b.get_hostname()
assert a.put('k', b'from a') == 0 and b.get('k') == b'from a'
a.close()
assert b.get('k') in (b'', b'from a')
assert b.put('l', b'from b') == 0 and b.get('l') == b'from b'""",
    "many stores": "stores = [make(16 << 20) for _ in range(8)]\nassert stores[0].put('k', b'x') == 0\nassert [s.get('k') for s in stores] == [b'x'] * 8",
    "buffer outlives the store": """
store = make()
assert store.put('k', b'x' * 1000000) == 0
handle = store.get_buffer('k')
view = memoryview(handle)
store.close()
assert bytes(view) == b'x' * 1000000
del store, handle
assert bytes(view) == b'x' * 1000000""",
    "exception in user code": """
store = make()
try:
    store.put('k', object())
except TypeError:
    pass
class Bad:
    def __index__(self): raise ZeroDivisionError('mine')
try:
    store.put_from('k', Bad(), 5)
except ZeroDivisionError:
    print('caught')
assert store.put('k', b'x') == 0""",
    "global in a cycle": "store = make(); store.me = store; store.put('k', b'x')",
    "subclass": """
class Mine(MooncakeDistributedStore):
    pass
store = Mine()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 16 << 20, 1 << 20, "tcp", "", sys.argv[1]) == 0
store.extra = 1
assert store.put('k', b'x') == 0""",
    "daemon threads at exit": """
store = make()
def work():
    i = 0
    while True:
        store.put(f'k{i % 50}', b'x' * 50000); store.get(f'k{i % 50}'); i += 1
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
while store.is_exist('k49') != 1:
    time.sleep(0.001)""",
    "close during calls": """
store = make()
stop = []
def work():
    i = 0
    while not stop:
        store.put(f'k{i % 50}', b'x' * 50000); store.get(f'k{i % 50}'); i += 1
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
while store.is_exist('k49') != 1:
    time.sleep(0.001)
assert store.close() == 0
stop.append(1)
[t.join() for t in threads]
assert store.put('k', b'x') == -600""",
    "sys.exit in a thread": "store = make(); t = threading.Thread(target=lambda: sys.exit(3)); t.start(); t.join(); store.put('k', b'x')",
    "forked child": """
store = make()
assert store.put('k', b'x' * 1000) == 0
child = os.fork()
if child == 0:
    fine = store.put('l', b'y') < 0 and store.get('k') == b'' and store.is_exist('k') < 0 and store.close() == 0
    del store
    os._exit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
assert store.get('k') == b'x' * 1000 and store.put('l', b'z') == 0""",
    "forked child that exits normally": """
store = make()
assert store.put('k', b'x' * 1000) == 0
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.get('k') == b'x' * 1000""",
    "spawned children": """
import multiprocessing
store = make()
assert store.put('k', b'x') == 0
with multiprocessing.get_context('spawn').Pool(1) as pool:
    assert pool.apply(abs, (-3,)) == 3
assert store.get('k') == b'x'""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_ends_cleanly(name, master, scratch):
    done = run_python(START + "if __name__ == '__main__':\n    " + PROGRAMS[name].strip().replace("\n", "\n    "), scratch, args=[master.address])
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr and "Fatal" not in done.stderr, done.stderr
    assert master.segments() == [], "a store ends its session however its program ends"
    left = [path.name for path in scratch.folder("ipc").rglob("*") if path.is_socket() and "master" not in path.name]
    assert left == [], "sockets are left"


def test_uncaught_exception_and_sigterm_are_survived_by_the_cluster(master, start_peer, scratch):
    done = run_python(START + "store = make(); store.put('k', b'x'); raise RuntimeError('mine')", scratch, args=[master.address])
    assert done.returncode == 1 and "RuntimeError: mine" in done.stderr
    assert master.segments() == []
    peer = start_peer("killed").setup(master)
    peer.kill()
    other = start_peer("other").setup(master)
    assert other.call("put", "k", b"x" * 1000) == 0 and other.call("get", "k") == b"x" * 1000


def test_ctrl_c_ends_a_blocking_call(master, start_peer):
    import os
    import signal

    def blocked(store):
        import signal
        import time

        def once(*_):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test repeats it
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, once)
        began = time.monotonic()
        try:
            store.put("k", b"x")
        except KeyboardInterrupt:
            return "interrupted", time.monotonic() - began
        return "returned", time.monotonic() - began

    peer = start_peer(env={"MC_RPC_TIMEOUT_MS": "60000"}).setup(master)
    master.freeze()
    peer.start_run(blocked)
    # It may not be in the call yet: the signal is repeated until it is taken there.
    answered = []

    def poke():
        try:
            answered.append(peer.result(0.3))
            return True
        except TimeoutError:
            peer._waiting += 1
            os.kill(peer.pid, signal.SIGINT)
            return False

    wait_until(poke, "the call ends", 30)
    assert answered[0][0] == "interrupted"
    master.thaw()
    wait_until(lambda: peer.call("put", "k2", b"x") == 0, "the store goes on")


# ---- what it costs ----

def cycles(store, address, count):
    """setup, use, close, so many times; descriptors, threads and mappings after five and at the end."""
    import os
    import pathlib

    def held():
        return (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")),
                len(pathlib.Path("/proc/self/maps").read_text().splitlines()))

    early = None
    for i in range(count):
        code = store.setup("127.0.0.1", "P2PHANDSHAKE", 32 << 20, 8 << 20, "tcp", "", address)
        assert code == 0, (i, code)
        assert store.put("k", b"x" * 100_000) == 0 and store.get("k") == b"x" * 100_000
        assert store.get_buffer("k") is not None
        assert store.close() == 0
        if i == 4:
            early = held()
    return early, held()


@pytest.mark.parametrize("memcpy", ["0", "1"], ids=["ucx", "shared memory"])
def test_fifty_cycles_leak_no_descriptor_thread_or_mapping(memcpy, master, start_peer):
    peer = start_peer(env={"MC_STORE_MEMCPY": memcpy})
    idle_master = len(list(pathlib.Path(f"/proc/{master.pid}/fd").iterdir()))
    early, late = peer.run(cycles, master.address, 50, timeout=180)
    assert late[0] <= early[0] and late[1] <= early[1], (early, late)
    assert late[2] <= early[2] + 10, f"mappings: {early} {late}"
    wait_until(lambda: len(list(pathlib.Path(f"/proc/{master.pid}/fd").iterdir())) <= idle_master, "the master's connections end")


def memory_of(pids):
    """Bytes: private memory of the processes, and each shared memory file they have open once."""
    private, files = 0, {}
    for pid in pids:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        private += (int(fields["RssAnon"].split()[0]) + int(fields["RssFile"].split()[0])) * 1024
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                if "memfd:" in str(fd.readlink()):
                    stat = fd.stat()
                    files[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
            except OSError:
                pass
    return private + sum(files.values())


def timed_setup(store, address):
    import time
    began = time.monotonic()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", 3 << 30, 512 << 20, "tcp", "", address)
    return code, time.monotonic() - began


@pytest.mark.soak
def test_large_segment_sets_up_at_once_and_costs_its_window(master, start_peer):
    peer = start_peer()
    code, seconds = peer.run(timed_setup, master.address)
    assert code == 0 and seconds < 1 * TIME_FACTOR, seconds
    pids = [master.pid, peer.pid]
    holds_for(lambda: memory_of(pids) < 700 * MIB, "memory grows past the window", 10)
    assert peer.call("put", "k", b"x" * MIB) == 0 and peer.call("get", "k") == b"x" * MIB
    assert memory_of(pids) > 64 * MIB, "the measurement sees the segment"
