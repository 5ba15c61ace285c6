"""The real store in several processes: what one puts another gets, over shared memory and over UCX; deaths, signals, forks and bad input."""

import ast
import os
import pathlib
import signal
import socket
import threading
import time
import urllib.request

import pytest
from python_support import Master, run_python, wait_until


def segments(master):
    with urllib.request.urlopen(f"http://127.0.0.1:{master.metrics_port}/get_all_segments", timeout=5) as answer:
        return answer.read().decode()


SIZES = [1, 4096, 65536, 1 << 20, (1 << 20) + 1, 16 << 20]
PATHS = {"same host": None, "transport": {"MC_STORE_MEMCPY": "0"}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("metadata", ["p2p", "http"])
def test_two_processes_read_each_other(master, worker, path, metadata):
    server = master.metadata if metadata == "http" else "P2PHANDSHAKE"
    holder, reader = worker(PATHS[path]), worker(PATHS[path])
    assert holder(f"connect({master.address!r}, 128 << 20, metadata={server!r})") == 0
    assert reader(f"connect({master.address!r}, 0, metadata={server!r})") == 0
    holder("import random")
    for size in SIZES:
        key = f"{path}-{metadata}-{size}"
        assert holder(f"data = random.Random({size}).randbytes({size}); store.put({key!r}, data)") is None
        reader("import random")
        reader(f"expected = random.Random({size}).randbytes({size})")
        assert reader(f"store.get({key!r}) == expected")
        assert reader(f"bytes(store.get_buffer({key!r})) == expected")
        assert reader(f"out = (ctypes.c_char * {size})()") is None
        assert reader(f"store.get_into({key!r}, ctypes.addressof(out), {size})") == size
        assert reader("out.raw == expected")
        assert reader(f"store.put({key + 'r'!r}, expected)") == 0, "into the holder's segment"
        assert holder(f"store.get({key + 'r'!r}) == data")
    counters = reader("store.counters()")
    if path == "transport":
        assert counters["bytes_fetched"] >= 3 * sum(SIZES) and counters["bytes_stored"] >= sum(SIZES)
        assert counters["bytes_same_host_read"] == 0
    else:
        assert counters["bytes_same_host_read"] + counters["bytes_viewed"] > 0 and counters["bytes_fetched"] == 0
    assert reader("store.close()") == 0
    assert holder("store.close()") == 0
    assert reader.end() == 0 and holder.end() == 0


def test_batches_of_many_keys(master, worker):
    holder, reader = worker(), worker({"MC_STORE_MEMCPY": "0"})
    assert holder(f"connect({master.address!r})") == 0 and reader(f"connect({master.address!r}, 0)") == 0
    for count in (1, 2, 255, 1024):
        keys = f"[f'b{count}-{{i}}' for i in range({count})]"
        values = f"[bytes([i % 251]) * (i % 777 + 1) for i in range({count})]"
        assert holder(f"store.put_batch({keys}, {values})") == 0
        assert reader(f"store.batch_is_exist({keys})") == [1] * count
        assert reader(f"store.get_batch({keys}) == {values}")
        assert reader(f"[bytes(h) for h in store.batch_get_buffer({keys})] == {values}")
    assert reader("store.batch_is_exist([f'none{i}' for i in range(20000)])") == [0] * 20000


def test_a_reader_of_a_killed_holder_gets_an_error_soon(master, worker):
    holder, reader = worker(), worker({"MC_STORE_MEMCPY": "0"})
    assert holder(f"connect({master.address!r})") == 0 and reader(f"connect({master.address!r}, 0)") == 0
    assert holder("store.put('doomed', b'x' * 1000000)") == 0
    assert reader("len(store.get('doomed'))") == 1000000
    holder.kill()
    begin = time.monotonic()
    wait_until(lambda: reader("store.is_exist('doomed')") == 0, "exist says 0", 5)
    assert reader("store.get('doomed')") == b""
    assert reader("store.get_buffer('doomed')") is None
    assert time.monotonic() - begin < 5
    assert reader("store.put('x', b'y')") == -200, "there is no segment left"


def test_a_stopped_holder_delays_no_one_for_ever(master, worker):
    env = {"MC_STORE_MEMCPY": "0", "MC_STORE_TRANSFER_TIMEOUT_S": "2"}
    holder, reader = worker(), worker(env)
    assert holder(f"connect({master.address!r})") == 0 and reader(f"connect({master.address!r}, 0)") == 0
    assert holder("store.put('frozen', b'x' * 1000000)") == 0
    assert reader("len(store.get('frozen'))") == 1000000
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        assert reader("store.get('frozen')") in (b"", b"x" * 1000000)
        assert time.monotonic() - begin < 30
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    wait_until(lambda: reader("store.get('frozen')") == b"x" * 1000000, "the holder is read again")


def test_ctrl_c_ends_a_call_on_a_dead_network(master, worker, tmp_path):
    holder = worker()
    reader = worker({"MC_STORE_MEMCPY": "0"})
    assert holder(f"connect({master.address!r})") == 0 and reader(f"connect({master.address!r}, 0)") == 0
    assert holder("store.put('frozen', b'x' * 1000000)") == 0
    assert reader("len(store.get('frozen'))") == 1000000
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        begun = tmp_path / "begun"
        reader(f"def interrupted():\n    try:\n        open({str(begun)!r}, 'w').close()\n        store.get('frozen')\n    except KeyboardInterrupt:\n        return 'interrupted'")
        reader.start("interrupted()")
        wait_until(begun.exists, "the call is about to begin")
        time.sleep(0.1)  # it is under way now, or about to be: either way Ctrl-C ends it
        begin = time.monotonic()
        os.kill(reader.pid, signal.SIGINT)
        assert reader.value() == "interrupted"
        assert time.monotonic() - begin < 3
    finally:
        os.kill(holder.pid, signal.SIGCONT)


@pytest.mark.parametrize("ending", ["exit", "del", "close", "kill"])
def test_a_segment_goes_with_its_process(master, worker, ending):
    holder = worker()
    assert holder(f"connect({master.address!r})") == 0
    name = holder("store.get_hostname()")
    assert name in segments(master)
    if ending == "exit":
        assert holder.end() == 0
    elif ending == "del":
        holder("del store")
    elif ending == "close":
        assert holder("store.close()") == 0
    else:
        holder.kill()
    wait_until(lambda: name not in segments(master), "the segment is gone", 20)


def test_a_handle_outlives_its_store(master, worker):
    holder, reader = worker(), worker()
    assert holder(f"connect({master.address!r})") == 0 and reader(f"connect({master.address!r}, 0)") == 0
    assert holder("store.put('k', b'hello' * 1000)") == 0
    reader("view = memoryview(store.get_buffer('k'))")
    assert reader("view.readonly") is True, "a view of the holder's segment"
    assert holder("store.remove('k', force=True)") == 0
    assert holder("store.put_batch([f'f{i}' for i in range(40)], [b'y' * 1000000] * 40)") in (0, -200)
    assert reader("bytes(view) == b'hello' * 1000"), "removed and the space asked for again, but still held"
    assert reader("store.close()") == 0
    assert reader("bytes(view) == b'hello' * 1000")
    reader("del view")
    assert reader.end() == 0


def test_eight_threads_of_one_store(master, worker):
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    one(
        """
failures = []
def work(number):
    try:
        for i in range(100):
            keys = [f"t{number}-{i}-{j}" for j in range(4)]
            values = [bytes([number * 16 + j]) * (5000 + i) for j in range(4)]
            assert store.put_batch(keys, values) == 0
            assert store.get_batch(keys) == values
            assert [bytes(h) for h in store.batch_get_buffer(keys)] == values
            assert store.batch_remove(keys, force=True) == [0] * 4
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    )
    assert one("failures") == []


# For a worker: the exit status of a forked child that ran `child`, and then `end`; 1 with the reason in the log when `child` fails.
IN_A_CHILD = """
import sys
def in_a_child(child, end=lambda: None):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        end()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_gets_codes_and_leaves_the_parent_alone(master, worker):
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    assert one("store.put('k', b'hello')") == 0
    one("view = memoryview(store.get_buffer('k'))")
    one(IN_A_CHILD)
    one(
        """
def child():
    out = (ctypes.c_char * 5)()
    assert store.put('a', b'b') == -600 and store.get('k') == b'' and store.is_exist('k') == -600
    assert store.get_buffer('k') is None and store.get_into('k', ctypes.addressof(out), 5) == -600
    assert store.close() == 0 and store.health_check() == 1
    other = MooncakeDistributedStore()
    assert other.get('k') == b''
import atexit
status = [in_a_child(child), in_a_child(child, atexit._run_exitfuncs)]
"""
    )
    assert one("status") == [0, 0]
    assert one("bytes(view)") == b"hello" and one("store.get('k')") == b"hello" and one("store.health_check()") == 0


def test_what_was_shown_before_a_fork_is_not_shown_in_the_child(master, worker):
    pytest.importorskip("numpy")
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    one("import numpy, mooncake.store as module; elements = numpy.arange(1000, dtype='float32')")
    assert one("store.put_tensor('t', elements)") == 0
    one("handle = store.get_buffer('t'); tensor = store.get_dlpack('t')")
    one(IN_A_CHILD)
    one(
        """
def child():
    assert len(handle) == handle.size() == 0 and bytes(handle) == b'', handle
    assert tensor.shape == (1000,) and 'float32' in repr(tensor)
    for show in (memoryview, bytes, numpy.from_dlpack, lambda it: it.data, lambda it: it.__dlpack__(), lambda it: it.__dlpack__(max_version=(1, 0), copy=True)):
        try:
            show(tensor)
        except BufferError as error:
            assert 'forked' in str(error), error
        else:
            raise AssertionError(show)
    try:
        module._serialize_tensor(tensor)
    except (BufferError, ValueError):
        pass
    else:
        raise AssertionError('serialized')
status = in_a_child(child)
"""
    )
    assert one("status") == 0, one.log()
    assert one("bytes(tensor) == elements.tobytes() == bytes(handle)[304:]")


# ---- bad input ----


def test_unreachable_masters_and_metadata_servers_are_refused_in_seconds(master, worker, tmp_path):
    one = worker()
    with socket.socket() as closed, socket.socket() as silent, socket.socket() as loud:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        loud.bind(("127.0.0.1", 0))
        loud.listen()

        def talk():
            while True:
                try:
                    peer, _ = loud.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" * 100)

        threading.Thread(target=talk, daemon=True).start()
        ports = [sock.getsockname()[1] for sock in (closed, silent, loud)]
        setups = [f"connect('127.0.0.1:{port}', host='127.0.0.1:12399')" for port in ports]
        setups += [f"connect({master.address!r}, host='127.0.0.1:12399', metadata='http://127.0.0.1:{port}/metadata')" for port in ports]
        setups += [
            f"connect({address!r}, host='127.0.0.1:12399')"
            for address in ("", "nonsense", "127.0.0.1:0", "127.0.0.1:99999", "no.such.host.invalid:1", ":", "127.0.0.1:abc")
        ]
        setups += [f"connect({master.address!r}, metadata={text!r})" for text in ("", "garbage://x", "etcd://1", "127.0.0.1:2379", "http://", "p2phandshake")]
        setups += [f"connect({master.address!r}, host={text!r})" for text in ("", "[", "a b", "x:y", "127.0.0.1:123456", "h" * 5000)]
        setups += [f"store.setup('127.0.0.1', 'P2PHANDSHAKE', 0, 0, {text!r}, '', {master.address!r})" for text in ("smoke", "TCPP", "rdma\\n", " tcp")]
        for code in setups:
            begin = time.monotonic()
            assert one(code) in (-600, -1), code
            assert time.monotonic() - begin < 20, code
            assert one("store.put('k', b'v')") == -600
        loud.close()
    assert one(f"connect({master.address!r}, 0)") == 0
    assert one("store.close()") == 0


@pytest.mark.skipif(any(pathlib.Path("/sys/class/infiniband").glob("*")), reason="RDMA devices here")
def test_protocol_rdma_without_a_device_is_tcp_unless_a_device_is_named(master):
    def script(devices, calls):
        return (
            "from mooncake.store import MooncakeDistributedStore\n"
            "store = MooncakeDistributedStore()\n"
            f"assert store.setup('127.0.0.1', 'P2PHANDSHAKE', 32 << 20, 16 << 20, 'rdma', {devices!r}, {master.address!r}) {calls}\n"
        )

    works = "== 0\nassert store.put('rdma', b'v') == 0 and store.get('rdma') == b'v'\nassert len(store.allocate_and_mount_segment(1 << 20, protocol='rdma')) > 0\nprint(store.counters()['transport_rdma_bytes'])"
    for devices in ("", "auto-discovery"):
        done = run_python(script(devices, works), package="real", env={"MC_STORE_MEMCPY": "0"})
        assert done.stdout.strip() == "0" and done.stderr.count("no RDMA device, data moves by TCP") == 1, done
    for devices, env in (("mlx5_0", {}), ("", {"MC_MS_AUTO_DISC": "0"}), ("", {"MC_MS_FILTERS": "mlx5_0"})):
        done = run_python(script(devices, "== -600"), package="real", env=env)
        assert "protocol rdma" in done.stderr, done.stderr


WILD = [0, 1, 4096, 0xDEADBEEF, (1 << 47) - 1, 1 << 63, (1 << 64) - 1]


def address_of_this_host():
    """An address that is no loopback; none is sent anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return udp.getsockname()[0]


@pytest.mark.parametrize("bind, far_master", [("", False), ("0.0.0.0", False), ("", True)])
def test_a_store_named_localhost_reaches_others_or_says_why_not(master_binary, tmp_path, bind, far_master):
    """Of two stores the owner has an address of the network; the same host's path is off."""
    address = address_of_this_host()
    master = Master(tmp_path, "--rpc_address=0.0.0.0")
    at = f"{address if far_master else '127.0.0.1'}:{master.rpc_port}"
    script = (
        "from mooncake.store import MooncakeDistributedStore\n"
        "owner, store = MooncakeDistributedStore(), MooncakeDistributedStore()\n"
        f"assert owner.setup({address!r}, 'P2PHANDSHAKE', 32 << 20, 16 << 20, 'tcp', '', {at!r}) == 0\n"
        f"assert store.setup('localhost', 'P2PHANDSHAKE', 0, 16 << 20, 'tcp', '', {at!r}) == 0\n"
        "print([store.put(f'k{i}', bytes(100000)) for i in range(10)])\n"
    )
    done = run_python(script, package="real", env={"MC_STORE_MEMCPY": "0", "MC_TCP_BIND_ADDRESS": bind})
    codes = ast.literal_eval(done.stdout)
    lines = [line for line in done.stderr.splitlines() if "no way to the data port" in line]
    if bind or far_master:
        assert codes == [0] * 10 and not lines, done.stderr
    else:
        assert codes == [-800] * 10 and 1 <= len(lines) <= 4 and " from lo: " in lines[0], done.stderr
    assert done.stderr.count("the data plane binds every interface") == (1 if far_master and not bind else 0), done.stderr
    assert master.stop() == 0


def test_wild_addresses_do_not_harm_the_real_store(master, worker):
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    assert one("store.put('k', b'v' * 100)") == 0
    for address in WILD:
        for size in (1, 4096, 1 << 40, 1 << 63, (1 << 64) - 1):
            assert one(f"store.put_from('w', {address}, {size})") == -600
            assert one(f"store.get_into('k', {address}, {size})") == -600
            assert one(f"store.register_buffer({address}, {size})") == -600
    assert one("store.is_exist('w')") == 0 and one("store.get('k')") == b"v" * 100


def test_odd_keys_on_the_real_store(master, worker):
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    keys = ["k", "ключ/🔑", b"\xff\x00\xfe", "a\nb", " ", "%s%n", "../../x", "k" * 4096, "k" * 8192, '{"json": 1}']
    for number, key in enumerate(keys):
        assert one(f"store.put({key!r}, b'{number}')") == 0
    for number, key in enumerate(keys):
        assert one(f"store.get({key!r})") == str(number).encode()
    assert one(f"store.batch_is_exist({keys!r})") == [1] * len(keys)
    assert one("store.put('', b'v')") < 0 and one("store.put('k' * 8193, b'v')") < 0
    assert one("store.put('empty', b'')") == -600
    assert one(f"store.batch_remove({keys!r}, force=True)") == [0] * len(keys)


def test_the_same_key_twice_in_one_batch(master, worker):
    one = worker()
    assert one(f"connect({master.address!r})") == 0
    assert one("store.put_batch(['d', 'd'], [b'first', b'second'])") == 0
    assert one("store.get_batch(['d', 'd'])") == [b"first", b"first"]
    one("a, b = (ctypes.c_char * 5)(), (ctypes.c_char * 5)()")
    assert one("store.batch_get_into(['d', 'd'], [ctypes.addressof(a), ctypes.addressof(b)], [5, 5])") == [5, 5]
    assert one("(a.raw, b.raw)") == (b"first", b"first")
    assert one("[bytes(h) for h in store.batch_get_buffer(['d', 'd'])]") == [b"first", b"first"]


def test_a_value_larger_than_the_local_buffer_or_the_segment(master, worker):
    one = worker()
    assert one(f"connect({master.address!r}, 32 << 20, 1 << 20)") == 0
    assert one("store.put('big', b'x' * ((1 << 20) + 1))") == -600
    one("big = (ctypes.c_char * (40 << 20))()")
    assert one("store.put_from('big', ctypes.addressof(big), 8 << 20)") == 0
    assert one("store.put_from('bigger', ctypes.addressof(big), 40 << 20)") == -200
    assert one("store.get('big') == bytes(8 << 20)")


def test_a_restarted_master_is_found_again(master_binary, worker, tmp_path):
    first = Master(tmp_path)
    one = worker({"MC_RPC_TIMEOUT_MS": "2000"})
    assert one(f"connect({first.address!r})") == 0
    assert one("store.put('k', b'v')") == 0
    assert first.stop() == 0
    begin = time.monotonic()
    assert one("store.put('l', b'v')") in (-900, -901)
    assert one("store.get('k')") in (b"", b"v")
    assert one("store.health_check()") == 2
    assert time.monotonic() - begin < 15
    second = Master(tmp_path, ports=(first.rpc_port, first.http_port, first.metrics_port))
    try:
        wait_until(lambda: one("store.put('m', b'v')") == 0, "the client is back")
        assert one("store.get('m')") == b"v"
    finally:
        second.stop()


def test_an_interpreter_that_ends_during_calls(master, real):
    script = f"""
import threading, time
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", {master.address!r}) == 0
def loop(n):
    i = 0
    while True:
        i += 1
        store.put(f"{{n}}-{{i}}", b"x" * 10000); store.get(f"{{n}}-{{i}}"); store.get_buffer(f"{{n}}-{{i}}")
for n in range(4):
    threading.Thread(target=loop, args=(n,), daemon=True).start()
time.sleep(0.5)
"""
    for _ in range(3):
        run_python(script, package="real")


def test_embedded_masters_of_two_stores_are_apart(real):
    script = """
from mooncake.store import MooncakeDistributedStore
a, b = MooncakeDistributedStore(), MooncakeDistributedStore()
assert a.setup("localhost", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", "embedded") == 0
assert a.put("k", b"v") == 0 and a.get("k") == b"v"
code = b.setup("localhost", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", "embedded")
assert code == 0, code
b.get("k")
a.close(); b.close()
"""
    run_python(script, package="real")
