"""kill -9: of a holder, of a client in the middle of a put, of the master."""

import pytest

from tests.support.processes import MIB, rdma_env
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

PATHS = {"ucx": {"MC_STORE_MEMCPY": "0"}, "rdma": rdma_env(), "shared_memory": {"MC_STORE_MEMCPY": "1"}}


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


def put_into(store, segment, key, value):
    from mooncake.store import ReplicateConfig
    config = ReplicateConfig()
    config.preferred_segment = segment
    return store.put(key, value, config)


def gets_until_gone(store, keys, expected):
    """Reads in a loop until every read fails; what was wrong, and how long a read took at most."""
    import time
    wrong, longest = [], 0.0
    end = time.monotonic() + 10
    while time.monotonic() < end:
        misses = 0
        for key in keys:
            began = time.monotonic()
            value = store.get(key)
            longest = max(longest, time.monotonic() - began)
            if value == b"":
                misses += 1
            elif value != expected:
                wrong.append(key)
        if misses == len(keys):
            return wrong, longest
    return ["never gone"], longest


def test_killed_holder_is_an_error_within_two_seconds_and_puts_go_elsewhere(path, start_master, start_peer):
    master = start_master("--client_ttl=3")
    dying = start_peer("dying", env=path).setup(master)
    other = start_peer("other", env=path).setup(master)
    reader = start_peer("reader", env=path).setup(master, segment=0)
    gone, value = dying.hostname(), bytes(range(256)) * 4096
    keys = [f"k{i}" for i in range(8)]
    for key in keys:
        assert reader.run(put_into, gone, key, value) == 0
    assert reader.run(put_into, other.hostname(), "safe", value) == 0
    assert [reader.call("get", key) == value for key in keys] == [True] * 8
    reader.start_run(gets_until_gone, keys, value)
    with Stopwatch() as watch:
        dying.kill()
        wrong, longest = reader.result(30)
    assert wrong == []
    assert longest < 2 * TIME_FACTOR and watch.seconds < 2 * TIME_FACTOR, (longest, watch.seconds)
    assert reader.call("batch_is_exist", keys) == [0] * 8
    assert reader.call("get_into", keys[0], 0, 0) < 0
    assert reader.call("get", "safe") == value
    for i in range(20):  # none is placed on the dead one, and none waits for it
        with Stopwatch() as watch:
            assert reader.call("put", f"new{i}", value) == 0
        assert watch.seconds < 2 * TIME_FACTOR
    assert reader.call("put", keys[0], b"again" * 100) == 0, "a lost key may be written again"
    assert reader.call("get", keys[0]) == b"again" * 100
    wait_until(lambda: master.segments() == [other.hostname()], "the dead segment is dropped", 15)
    assert reader.call("is_exist", keys[1]) == 0


def big_put(store, segment, key, size):
    import ctypes
    from mooncake.store import ReplicateConfig
    config = ReplicateConfig()
    config.preferred_segment = segment
    source = ctypes.create_string_buffer(size)
    ctypes.memset(source, 0x77, size)
    return store.put_from(key, ctypes.addressof(source), size, config)


def catch_in_put(master, writer, where, size, tries=20):
    """Stops the writer in the middle of a put; the key."""
    idle = master.allocated()
    for i in range(tries):
        key = f"caught{i}"
        writer.start_run(big_put, where.hostname(), key, size)
        wait_until(lambda: master.allocated() >= idle + size, "the put has its space", 30)
        writer.freeze()
        if where.call("is_exist", key) == 0:
            return key, idle
        writer.thaw()
        assert writer.result() == 0
        assert where.call("remove", key, True) == 0
        wait_until(lambda: master.allocated() == idle, "the space is back")
    pytest.fail("no put was caught in the middle")


@pytest.mark.parametrize("name", PATHS)
def test_killed_writer_leaves_no_key_and_its_space_comes_back(name, start_master, start_peer):
    master = start_master("--client_ttl=2")
    holder = start_peer("holder", env=PATHS[name]).setup(master, segment=600 * MIB)
    writer = start_peer("writer", env=PATHS[name]).setup(master, segment=0)
    if name == "ucx":  # a holder that stands still keeps the put in the middle
        idle = master.allocated()
        holder.freeze()
        writer.start_run(big_put, master.segments()[0], "caught", 256 * MIB)
        wait_until(lambda: master.allocated() >= idle + 256 * MIB, "the put has its space", 30)
        key = "caught"
        writer.kill()
        holder.thaw()
    else:
        key, idle = catch_in_put(master, writer, holder, 512 * MIB)
        writer.kill()
    assert holder.call("is_exist", key) == 0
    wait_until(lambda: master.allocated() == idle, "the space of the unfinished put comes back", 30)
    assert holder.call("is_exist", key) == 0
    assert holder.call("get", key) == b""
    assert holder.run(big_put, holder.hostname(), key, 512 * MIB) == 0, "key and space can be used again"


VISITOR = """
import os, signal, sys, threading, time
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 32 << 20, "tcp", "", sys.argv[1]) == 0
if sys.argv[3] == "leave":
    store.get("k")
    store.close()
    sys.exit(0)
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
while True:
    store.get("k")
    store.put(f"{os.getpid()}", b"y" * 300_000)
"""


@pytest.mark.soak
def test_visitors_that_die_while_they_connect_hurt_nobody(start_master, start_peer, scratch):
    """Killed within the first milliseconds of a connection, at every stage of its making, many times."""
    import concurrent.futures
    import importlib.util
    import random

    if importlib.util.find_spec("libucx") is None:
        pytest.skip("the distribution's UCX 1.13 aborts here (docs/transport.md); no package libucx is installed")

    from tests.support.processes import run_python

    master = start_master("--client_ttl=2")
    holder = start_peer("holder", env=PATHS["ucx"]).setup(master, segment=256 * MIB)
    value = bytes(range(256)) * 4000
    assert holder.call("put", "k", value) == 0
    chance = random.Random(5)
    visits = [[master.address, f"{chance.random() * chance.choice([0.001, 0.01, 0.03]):.5f}", chance.choice(["die", "die", "leave"])] for _ in range(60)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda args: run_python(VISITOR, scratch, env=PATHS["ucx"], args=args).returncode, visits)
        assert set(codes) <= {0, -9}
    assert holder.alive(), holder.log()[-2000:]
    assert holder.call("get", "k") == value
    assert holder.counters()["crc_errors"] == 0


# ---- the master ----

RPC_MS = 2000


def call_all(store):
    """Every call that needs the master: (name, result, seconds)."""
    import time
    calls = [("put", ("new", b"x")), ("is_exist", ("old",)), ("get_size", ("old",)), ("remove", ("nothing",)), ("remove_all", ()),
             ("batch_is_exist", (["a", "b"],)), ("put_batch", (["a", "b"], [b"1", b"2"])), ("health_check", ()), ("get", ("other",))]
    results = []
    for name, args in calls:
        began = time.monotonic()
        value = getattr(store, name)(*args)
        results.append((name, value, time.monotonic() - began))
    return results


def check_refused(results):
    for name, value, seconds in results:
        assert seconds < (RPC_MS / 1000 + 1) * TIME_FACTOR, (name, seconds)
        if name == "health_check":
            assert value == 2
        elif name == "get":
            assert value == b""
        else:
            assert all(code in (-900, -901) for code in (value if isinstance(value, list) else [value])), (name, value)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_calls_without_a_master_fail_in_time(how, master, start_peer):
    peer = start_peer("client", env={"MC_RPC_TIMEOUT_MS": str(RPC_MS)}).setup(master)
    assert peer.call("put", "old", b"x" * 1000) == 0
    assert peer.call("put", "other", b"x" * 1000) == 0
    if how == "killed":
        master.kill()
    else:
        master.freeze()
    check_refused(peer.run(call_all))
    if how == "stopped":
        master.thaw()  # nothing is lost by a pause
        wait_until(lambda: peer.call("health_check") == 0, "the client is well again")
        wait_until(lambda: peer.call("get", "old") == b"x" * 1000, "what is hidden while its owner is suspect comes back")
        assert peer.call("put", "new2", b"y") == 0 and peer.call("get", "other") == b"x" * 1000


def test_a_master_that_is_gone_costs_its_clients_seconds_once_and_not_each_call(master, start_peer):
    peer = start_peer("client").setup(master)
    master.kill()
    assert peer.call("is_exist", "k") == -900
    with Stopwatch() as watch:
        assert {peer.call("is_exist", f"k{i}") for i in range(30)} == {-900}
    assert watch.seconds < 30, "they would be 90 seconds"
    master.restart()
    wait_until(lambda: peer.call("put", "k", b"x") == 0, "puts work again", 30)


def test_master_back_finds_its_clients_by_itself(master, start_peer):
    peers = [start_peer(f"client{i}", env={"MC_RPC_TIMEOUT_MS": str(RPC_MS)}).setup(master) for i in range(3)]
    names = sorted(peer.hostname() for peer in peers)
    for i, peer in enumerate(peers):
        assert peer.call("put", f"k{i}", bytes([i]) * 100_000) == 0
    for _ in range(2):
        master.kill()
        master.restart()
        wait_until(lambda: sorted(master.segments()) == names, "every segment is mounted anew", 30)
        wait_until(lambda: all(peer.call("health_check") == 0 for peer in peers), "and every client knows that it is back", 10)
        assert master.admin("/get_all_keys")[1] == "", "without a journal the index is empty"
        assert peers[0].call("batch_is_exist", ["k0", "k1", "k2"]) == [0, 0, 0]
        assert peers[2].call("get", "k0") == b""
        for i, peer in enumerate(peers):
            assert peer.call("put", f"k{i}", bytes([i + 10]) * 50_000) == 0
        for i in range(3):
            assert peers[(i + 1) % 3].call("get", f"k{i}") == bytes([i + 10]) * 50_000


def test_client_that_waits_while_the_master_restarts_gets_its_answer(master, start_peer):
    peer = start_peer("client", env={"MC_RPC_TIMEOUT_MS": "30000"}).setup(master)
    master.freeze()
    peer.start("put", "k", b"z" * 1000)
    master.kill()
    master.restart()
    code = peer.result(60)
    assert code in (0, -900), "the put is repeated with the new master, or says that it was lost"
    wait_until(lambda: peer.call("put", "k2", b"z") == 0, "puts work again", 30)
    assert (peer.call("get", "k") == b"z" * 1000) == (code == 0)
