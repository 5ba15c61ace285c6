"""Whatever comes in, from a caller or from the network: an exception or a code, a line in the log, and everybody else is served on."""

import pytest

from tests.support.processes import MIB, PeerError, free_ports
from tests.support.strangers import HttpStranger, Stranger, hostile_messages, listening_ports, throw_at
from tests.support.waiting import TIME_FACTOR, Stopwatch

SHORT = {"MC_RPC_TIMEOUT_MS": "1500", "MC_RPC_CONNECT_TIMEOUT_MS": "1500", "MC_STORE_CLIENT_SETUP_RETRIES": "2"}


def raised(store, calls):
    """Name of the exception of each (method, args, kwargs), or its result."""
    out = []
    for name, args, kwargs in calls:
        try:
            out.append(("returned", repr(getattr(store, name)(*args, **kwargs))[:80]))
        except Exception as error:
            out.append((type(error).__name__, str(error)[:80]))
    return out


WRONG_TYPES = [
    ("put", (1, b"x"), {}), ("put", ("k", "text"), {}), ("put", ("k", 5), {}), ("put", ("k",), {}), ("put", ("k", b"x", 7), {}),
    ("put", ("k", b"x", None), {}), ("put", (), {"key_arg_name_error": "k", "value": b"x"}), ("put", (None, b"x"), {}),
    ("get", (1,), {}), ("get", (), {}), ("get", (["k"],), {}), ("get_batch", ("key",), {}), ("get_batch", (5,), {}), ("get_batch", ([1],), {}),
    ("put_batch", ("k", [b"x"]), {}), ("put_batch", (["k"], b"x"), {}), ("put_batch", (["k"], [1]), {}), ("put_batch", ([1], [b"x"]), {}),
    ("is_exist", (b"k", 1), {}), ("is_exist", (1.5,), {}), ("batch_is_exist", (3,), {}), ("get_size", (None,), {}), ("remove", (1,), {}),
    ("remove_by_regex", (1,), {}), ("register_buffer", ("x", 1), {}), ("register_buffer", (1.0, 1), {}), ("register_buffer", (1, -1), {}),
    ("register_buffer", (-1, 1), {}), ("register_buffer", (1 << 64, 1), {}), ("put_from", ("k", 1), {}), ("put_from", ("k", "x", 1), {}),
    ("put_from", ("k", 1, 1.5), {}), ("put_from", ("k", 1, -5), {}), ("get_into", ("k", None, 1), {}), ("get_into", ("k", 1, 1 << 64), {}),
    ("batch_put_from", (["k"], 1, [1]), {}), ("batch_put_from", (["k"], ["x"], [1]), {}), ("batch_get_into", (["k"], [1], ["x"]), {}),
    ("batch_get_into", (["k"], [1], [-1]), {}), ("setup", (), {}), ("setup", ("a", "b"), {}), ("setup", (1, "b", 0, 0, "tcp", "", "m"), {}),
    ("setup", ("a", "b", "x", 0, "tcp", "", "m"), {}), ("setup", ("a", "b", -1, 0, "tcp", "", "m"), {}),
    ("setup", ("a", "b", 0, 1.5, "tcp", "", "m"), {}), ("setup", ("a", "b", 0, 0, "tcp", "", "m"), {"no_such_option": 1}),
]


@pytest.mark.parametrize("ready", [True, False], ids=["set up", "not set up"])
def test_wrong_types_raise_type_error(ready, master, start_peer):
    peer = start_peer()
    if ready:
        peer.setup(master)
    results = peer.run(raised, WRONG_TYPES)
    wrong = [(call, result) for call, result in zip(WRONG_TYPES, results) if result[0] != "TypeError"]
    assert wrong == []
    if ready:
        assert peer.call("put", "k", b"fine") == 0 and peer.call("get", "k") == b"fine"


def wrong_memory(store):
    """Addresses and sizes that are no buffers; the codes of each call."""
    import ctypes
    own = ctypes.create_string_buffer(b"x" * 1000)
    at = ctypes.addressof(own)
    assert store.put("k", b"y" * 1000) == 0
    bad = [(0, 1000), (8, 1000), (4096, 1000), ((1 << 64) - 8, 1000), (1 << 63, 1000), (at, 1 << 62), (at, (1 << 64) - 1), (at, 1 << 63)]
    codes = []
    for address, size in bad:
        codes.append(store.put_from("bad", address, size))
        codes.append(store.register_buffer(address, size))
        if size >= 1000:
            codes.append(store.get_into("k", address, size) if address != at else -600)
        codes += store.batch_put_from(["bad1"], [address], [size])
    codes.append(store.get_into("k", at, 999))
    codes.append(store.register_buffer(at, 0))
    codes.append(store.unregister_buffer(at))
    codes += store.batch_put_from(["a", "b"], [at], [1000])
    codes += store.batch_get_into(["a"], [at, at], [1000])
    untouched = own.raw == b"x" * 1000 + b"\0"
    return codes, untouched, store.batch_is_exist(["bad", "bad1", "a", "b"])


def test_wrong_memory_is_a_code(master, start_peer):
    peer = start_peer().setup(master)
    codes, untouched, exist = peer.run(wrong_memory)
    assert all(isinstance(code, int) and code < 0 for code in codes), codes
    assert untouched and exist == [0] * 4
    assert peer.call("get", "k") == b"y" * 1000


def wrong_keys_and_values(store):
    long_key = "k" * 8193
    return [store.put("", b"x"), store.put("k", b""), store.put(long_key, b"x"), store.is_exist(""), store.get_size(""), store.remove(""),
            store.is_exist(long_key), store.put_batch(["a", ""], [b"1", b"2"]), store.put_batch(["a", "b"], [b"1"]),
            store.remove_by_regex("("), store.remove_by_regex("[a"), store.put("big", bytes(64 << 20)), store.remove("nothing")], \
        [store.get(""), store.get(long_key), store.get_buffer(""), store.get_batch([""]), store.put("k" * 8192, b"x"), store.get("k" * 8192)]


def test_wrong_keys_and_values_are_codes(master, start_peer):
    peer = start_peer().setup(master, buffer=16 * MIB)
    codes, values = peer.run(wrong_keys_and_values)
    assert codes[0] == -600 and codes[1] == -600 and codes[-1] == -704 and codes[-2] == -600
    assert all(code < 0 for code in codes), codes
    assert values == [b"", b"", None, [b""], 0, b"x"]


def wrong_configs(store, names):
    from mooncake.store import ReplicateConfig
    out = []
    for replicas, segments in ((0, []), (1000, []), (1 << 40, []), (2, ["no such segment"]), (1, names * 1), (1, ["x" * 300] * 100)):
        config = ReplicateConfig()
        config.replica_num = replicas
        config.preferred_segments = segments
        out.append(store.put(f"c{len(out)}", b"value", config))
    return out, [store.get(f"c{i}") for i in range(len(out))]


def test_wrong_replica_numbers_and_segments(master, start_peer):
    peer = start_peer().setup(master)
    codes, values = peer.run(wrong_configs, ["s" * 50] * 2000)
    assert codes[0] < 0 and codes[3:] == [0, 0, 0], codes
    assert all((code == 0) == (value == b"value") for code, value in zip(codes, values))


# ---- setup ----

def bad_setups(address, dead_port):
    good = dict(host="127.0.0.1", metadata="P2PHANDSHAKE", segment=16 * MIB, buffer=1 * MIB, protocol="tcp", master=address)
    changes = {
        "empty host": {"host": ""}, "host with a space": {"host": "a b"}, "bad port": {"host": "127.0.0.1:99999"},
        "port that is no number": {"host": "127.0.0.1:abc"}, "unclosed bracket": {"host": "[::1"},
        "unknown protocol": {"protocol": "carrier-pigeon"}, "empty protocol": {"protocol": ""},
        "unknown master host": {"master": "no-such-host.invalid:50051"}, "nobody at the master's port": {"master": f"127.0.0.1:{dead_port}"},
        "bad master port": {"master": "127.0.0.1:99999"}, "empty master": {"master": ""}, "master is no address": {"master": "::::"},
        "unknown scheme": {"metadata": "garbage://x"}, "empty metadata": {"metadata": ""}, "metadata misspelt": {"metadata": "P2PHANDSHAK"},
        "nobody at the metadata port": {"metadata": f"http://127.0.0.1:{dead_port}/metadata"},
        "unknown metadata host": {"metadata": "http://no-such-host.invalid/metadata"}, "metadata is no URL": {"metadata": "http://"},
        "segment larger than any memory": {"segment": 1 << 50}, "buffer larger than any memory": {"buffer": 1 << 50},
    }
    return {name: good | change for name, change in changes.items()}


CASES = list(bad_setups("m", 1))


@pytest.mark.parametrize("explicit_port", [False, True], ids=["port picked", "port given"])
def test_bad_setup_is_a_code_and_a_log_line(explicit_port, master, start_peer):
    peer = start_peer(env=SHORT)
    dead, own = free_ports(2)
    for name, case in bad_setups(master.address, dead).items():
        host = f"127.0.0.1:{own}" if explicit_port and case["host"] == "127.0.0.1" else case["host"]
        said = len(peer.log())
        with Stopwatch() as watch:
            code = peer.call("setup", host, case["metadata"], case["segment"], case["buffer"], case["protocol"], "", case["master"])
        assert code in (-600, -1), (name, code)
        assert not explicit_port or code == -600, (name, code)
        assert len(peer.log()) > said, f"{name}: the log says nothing"
        assert watch.seconds < 12 * TIME_FACTOR, name
        assert peer.call("put", "k", b"x") == -600 and peer.call("get", "k") == b"" and peer.call("health_check") != 0, name
    peer.setup(master)
    assert peer.call("put", "k", b"x") == 0 and master.segments() == [peer.hostname()]


@pytest.mark.parametrize("behaviour", ["echo", "garbage", "close", "silent", "http"])
def test_master_that_is_none_is_a_code(behaviour, start_peer):
    stranger = Stranger(behaviour)
    try:
        peer = start_peer(env=SHORT)
        with Stopwatch() as watch:
            code = peer.call("setup", "127.0.0.1:4711", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", stranger.address)
        assert code == -600
        assert stranger.address in peer.log(), "the log says where"
        assert watch.seconds < 10 * TIME_FACTOR
    finally:
        stranger.close()


ANSWERS = [(200, b"\xff\xfe garbage {", None), (200, b"[" * 100_000, None), (200, b"", None), (500, b"no", None), (400, b"Duplicate rpc_meta key", None),
           (302, b"", None), (200, b"short", 1 << 40), (200, b'{"name": 5}', None)]


@pytest.mark.parametrize("answer", range(len(ANSWERS)))
def test_metadata_server_that_answers_garbage_does_no_harm(answer, master, start_peer):
    status, body, length = ANSWERS[answer]
    stranger = HttpStranger(status, body, length)
    try:
        peer = start_peer(env=SHORT)
        code = peer.call("setup", "127.0.0.1", stranger.url, 16 * MIB, MIB, "tcp", "", master.address)
        assert code in (0, -600, -1)
        assert status == 200 or code != 0, "the records could not be published"
        if code == 0:
            assert peer.call("put", "k", b"x" * 1000) == 0 and peer.call("get", "k") == b"x" * 1000
        assert peer.call("close") == 0
        peer.setup(master)
    finally:
        stranger.close()


def test_metadata_server_that_is_silent_does_not_hang_setup(master, start_peer):
    for behaviour in ("silent", "garbage", "close"):
        stranger = Stranger(behaviour)
        try:
            peer = start_peer(env=SHORT)
            with Stopwatch() as watch:
                code = peer.call("setup", "127.0.0.1:4712", f"http://{stranger.address}/metadata", 16 * MIB, MIB, "tcp", "", master.address)
            assert code == -600 and watch.seconds < 15 * TIME_FACTOR, behaviour
        finally:
            stranger.close()


# ---- hostile bytes ----

def keep_working(store, seconds):
    """Puts and gets all the time; what went wrong."""
    import time
    from tests.support.contents import pattern
    wrong, rounds = [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key, value = f"w{rounds}", pattern(rounds, 50_000)
        if store.put(key, value) != 0 or store.get(key) != value or store.remove(key, True) != 0:
            wrong.append(rounds)
        rounds += 1
    return wrong, rounds


@pytest.mark.parametrize("memcpy", ["0", "1"], ids=["ucx", "shared memory"])
def test_hostile_bytes_at_every_open_port_disturb_nobody(memcpy, master, start_peer, scratch):
    import errno
    import socket

    holder = start_peer("holder", env={"MC_STORE_MEMCPY": memcpy}).setup(master)
    worker = start_peer("worker", env={"MC_STORE_MEMCPY": memcpy}).setup(master, segment=0)
    tcp = {port: process for process in (master, holder, worker) for port in listening_ports(process.pid)}
    unix = [path for path in scratch.folder("ipc").rglob("*") if path.is_socket()]
    assert len(tcp) >= 4 and unix, "RPC, metrics, metadata and data ports, and the sockets of this host"

    def connect_unix(path):
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            peer = socket.socket(socket.AF_UNIX, kind)
            peer.settimeout(5)
            try:
                peer.connect(str(path))
                return peer
            except OSError as error:
                peer.close()
                if error.errno != errno.EPROTOTYPE:
                    raise
        raise AssertionError(f"{path} is neither a stream nor a sequence of packets")

    worker.start_run(keep_working, 8.0)
    for message in hostile_messages():
        for port in tcp:
            throw_at(lambda port=port: socket.create_connection(("127.0.0.1", port), timeout=5), message)
        for path in unix:
            throw_at(lambda path=path: connect_unix(path), message)
    wrong, rounds = worker.result(60)
    assert wrong == [] and rounds > 10
    for process in (master, holder, worker):
        assert process.alive(), process.log()[-2000:]
    assert master.admin("/health")[0] == 200
    assert holder.call("put", "after", b"fine") == 0 and worker.call("get", "after") == b"fine"


def test_error_in_a_peer_is_an_exception_here(start_peer):
    """The rig itself: a failure there is not silent here."""
    with pytest.raises(PeerError, match="AttributeError"):
        start_peer().call("no_such_method")
