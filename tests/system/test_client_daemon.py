"""mooncake_client as a program: flags, exit codes, signals, HTTP, and what it is for: values that outlive who stored them; setup_dummy."""

import json
import re
import signal
import socket
import subprocess
import threading

import pytest

from tests.support.daemons import ClientDaemon, environment, ucx_hint
from tests.support.processes import MIB, find_build_dir, free_ports, http
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

BINARY = find_build_dir() / "client" / "mooncake_client"

# Flag, default: the original's.
FLAGS = {
    "host": "0.0.0.0", "port": "50052", "global_segment_size": "4 GB", "local_buffer_size": "0", "master_server_address": "127.0.0.1:50051",
    "metadata_server": "http://127.0.0.1:8080/metadata", "protocol": "tcp", "device_names": '""', "threads": "1", "tenant_id": "default",
    "enable_offload": "false", "start_offload_rpc_server": "true", "enable_http_server": "false", "http_port": "9300",
    "logtostderr": "true", "alsologtostderr": "false", "minloglevel": "0", "v": "0", "logtostdout": "false", "colorlogtostderr": "false",
    "stderrthreshold": "2", "log_dir": '""', "log_link": '""', "log_prefix": "true", "log_utc_time": "false", "log_backtrace_at": '""', "logbufsecs": "30",
    "logbuflevel": "0", "logfile_mode": "436", "max_log_size": "1800", "stop_logging_if_full_disk": "false", "vmodule": '""', "use_mmap_arena_allocator": "false", "mmap_arena_pool_size": "8589934592",
}


@pytest.fixture
def start_client(scratch):
    """start_client(master, *flags, …): a ClientDaemon that ends with the test, with 0."""
    started = []

    def start(master, *flags, **kwargs):
        started.append(ClientDaemon(scratch, master if isinstance(master, str) else master.address, *flags, **kwargs))
        return started[-1]

    yield start
    for daemon in started:
        if daemon.alive():
            daemon.thaw()
            assert daemon.stop() == 0, daemon.log()[-2000:]


def run(scratch, *flags, env=None, timeout=30):
    return subprocess.run([str(BINARY), *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
                          env=environment(scratch, ucx_hint() | (env or {})))


# ---- flags and exit codes ----

def test_help_has_every_flag_with_the_documented_default(scratch):
    done = run(scratch, "--help")
    assert done.returncode == 0
    for flag, default in FLAGS.items():
        assert re.search(rf"^  --{flag} \(.*\) type: \w+ default: {re.escape(default)}$", done.stdout, re.M), flag
    done = run(scratch, "--version")
    assert done.returncode == 0 and re.fullmatch(r"mooncake_client \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("flag", ["--nosuchflag", "--port=70000", "--port=abc", "--global_segment_size=lots", "--global_segment_size=50%", "stray",
                                  "--enable_offload=true", "--http_port=-1", "--config_path=/no/such/file", "--log_level=chatty", "--port"])
def test_bad_flags_are_named_and_exit_1(flag, scratch):
    done = run(scratch, flag)
    assert done.returncode == 1
    assert re.sub(r"^-+|=.*", "", flag) in done.stderr or flag.partition("=")[2] in done.stderr, done.stderr


@pytest.mark.parametrize("flags", [["--master_server_address=127.0.0.1:1", "--metadata_server=P2PHANDSHAKE"], ["--metadata_server=http://127.0.0.1:1/metadata"],
                                   ["--metadata_server=P2PHANDSHAKE", "--protocol=carrier-pigeon"],
                                   ["--metadata_server=P2PHANDSHAKE", "--local_hostname=:x:"], ["--metadata_server=garbage://"]])
def test_a_setup_that_fails_exits_1_and_says_why(flags, master, scratch):
    done = run(scratch, "--host=127.0.0.1", "--port=0", f"--master_server_address={master.address}", "--global_segment_size=16MB", *flags,
               env={"MC_RPC_CONNECT_TIMEOUT_MS": "1000"})
    assert done.returncode == 1
    assert "not set up" in done.stderr and re.sub(r"^-+\w+=", "", flags[-1]) in done.stderr


def test_a_port_in_use_is_named_and_exits_1(master, scratch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags in ([f"--port={port}"], ["--port=0", "--enable_http_server", f"--http_port={port}"]):
            done = run(scratch, "--host=127.0.0.1", f"--master_server_address={master.address}", "--metadata_server=P2PHANDSHAKE", *flags)
            assert done.returncode == 1 and str(port) in done.stderr


def test_without_a_flag_it_wants_the_documented_places(scratch):
    """The defaults are those of a master on this machine; here none is, or it is somebody else's and then the port is taken or it starts."""
    with subprocess.Popen([str(BINARY)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=environment(scratch, ucx_hint() | {"MC_RPC_CONNECT_TIMEOUT_MS": "500"})) as process:
        line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.wait(20)
    assert "master 127.0.0.1:50051, metadata http://127.0.0.1:8080/metadata, segment of 4294967296 bytes" in line or ":50052" in line + rest, line + rest


def test_the_file_gives_settings_and_a_flag_wins(master, scratch, start_client):
    path = scratch.path / "client.json"
    path.write_text(json.dumps({"global_segment_size": "32MB", "http_port": 1, "port": 2, "tenant_id": "x"}))
    daemon = ClientDaemon(scratch, master.address, f"--config_path={path}", "--global_segment_size=48MB")
    try:
        assert "of 50331648 bytes" in daemon.log()
        assert master.metrics()["master_total_capacity_bytes"] == 48 * MIB
    finally:
        assert daemon.stop() == 0
    path = scratch.path / "client.yaml"
    path.write_text("local_hostname: 127.0.0.1:4242\nlog_level: WARNING\n")
    daemon = ClientDaemon(scratch, master.address, f"--config_path={path}", wait=False)
    try:
        wait_until(lambda: master.segments() == ["127.0.0.1:4242"], "the segment has the name of the file")
        assert daemon.log() == ""
    finally:
        assert daemon.stop() == 0


def test_every_interface_is_no_name_for_a_segment(master, start_client):
    daemon = start_client(master, "--host=0.0.0.0")
    host = daemon.segment.rpartition(":")[0]
    assert host not in ("0.0.0.0", "") and re.fullmatch(r"[\d.]+|[\da-f:\[\]]+", host)
    assert daemon.http("/health")[0] == 200


# ---- what it is for ----

def test_values_outlive_who_stored_them(master, start_client, start_peer):
    daemon = start_client(master)
    assert master.segments() == [daemon.segment]
    writer = start_peer("writer").setup(master, segment=0)
    values = {f"k{i}": bytes([i]) * (MIB + i) for i in range(8)}
    for key, value in values.items():
        assert writer.call("put", key, value) == 0
    assert writer.call("close") == 0
    writer.close()
    reader = start_peer("reader").setup(master, segment=0)
    assert reader.call("get_batch", list(values)) == list(values.values())
    assert reader.counters()["bytes_same_host_read"] >= 8 * MIB
    assert daemon.stop() == 0
    wait_until(lambda: master.segments() == [], "its segment is gone")
    assert reader.call("get", "k1") == b""


def test_by_tcp_too(master, start_client, start_peer):
    start_client(master)
    peer = start_peer(env={"MC_STORE_MEMCPY": "0"}).setup(master, segment=0)
    assert peer.call("put", "k", b"x" * (3 * MIB)) == 0
    assert peer.call("get", "k") == b"x" * (3 * MIB)
    assert peer.counters()["bytes_fetched"] >= 3 * MIB


def test_a_master_that_comes_back_is_joined_again(start_master, start_client, start_peer, scratch):
    master = start_master()
    daemon = start_client(master)
    master.kill()
    daemon.wait_log("not reachable")
    assert json.loads(daemon.http("/health")[1]) == {"status": "master_unreachable", "code": 2} and daemon.http("/health")[0] == 503
    master.restart()
    wait_until(lambda: master.segments() == [daemon.segment], "its segment is mounted again", 60)
    daemon.wait_log("connected again")
    peer = start_peer().setup(master, segment=0)
    assert peer.call("put", "k", b"v") == 0 and peer.call("get", "k") == b"v"


def test_the_metadata_server_knows_it_and_forgets_it(master, start_client):
    daemon = start_client(master, metadata=master.metadata)
    key = f"{master.metadata}?key=mooncake/ram/{daemon.segment}"
    assert http(key)[0] == 200
    assert daemon.stop() == 0
    assert http(key)[0] == 404


# ---- signals ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_time_while_it_is_used(number, master, start_client, start_peer):
    daemon = start_client(master)
    peer = start_peer(env={"MC_RPC_TIMEOUT_MS": "1000", "MC_TRANSFER_TIMEOUT": "1"}).setup(master, segment=0)

    def busy(store):
        count = 0
        while store.put(f"b{count}", b"x" * 100000) == 0:
            count += 1
        return count

    peer.start_run(busy)
    wait_until(lambda: "b3" in master.admin("/get_all_keys")[1].split(), "the peer is busy")
    with Stopwatch() as watch:
        assert daemon.stop(number) == 0
    assert watch.seconds < 5 * TIME_FACTOR
    assert "stopped" in daemon.log()
    assert peer.result(30) > 3


def test_a_signal_ends_it_in_time_while_the_master_stands_still(start_master, start_client):
    master = start_master()
    daemon = start_client(master)
    master.freeze()
    with Stopwatch() as watch:
        assert daemon.stop() == 0
    assert watch.seconds < 5 * TIME_FACTOR
    master.thaw()


def test_a_signal_ends_it_in_time_during_a_setup_that_waits(scratch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        daemon = ClientDaemon(scratch, f"127.0.0.1:{silent.getsockname()[1]}", wait=False)
        daemon.wait_log("setting up")
        peer, _ = silent.accept()
        with Stopwatch() as watch:
            assert daemon.stop() == 0
        assert watch.seconds < 5 * TIME_FACTOR
        peer.close()


def test_signals_reach_it_at_any_moment_of_its_start(master, start_client):
    """No thread of a library takes them away."""
    for text in ("setting up", "Mooncake client started", "serving health"):
        daemon = start_client(master, wait=False)
        daemon.wait_log(text)
        daemon.process.send_signal(signal.SIGUSR1)
        daemon.wait_log("log level DEBUG by signal")
        with Stopwatch() as watch:
            assert daemon.stop() == 0
        assert watch.seconds < 4 and "signal 15: stopping" in daemon.log() and "took too long" not in daemon.log(), daemon.log()


def test_signals_change_the_log_level(master, start_client):
    daemon = start_client(master)
    assert daemon.http("/log_level")[:2] == (200, "INFO")
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.wait_log("log level DEBUG by signal")
    for level in ("INFO", "WARNING", "ERROR"):
        daemon.process.send_signal(signal.SIGUSR2)
        daemon.wait_log(f"log level {level} by signal")
    daemon.process.send_signal(signal.SIGUSR2)
    assert daemon.http("/log_level")[1] == "ERROR"


def test_nothing_is_left_behind(master, start_client, scratch):
    daemon = start_client(master)
    assert [path.name for path in scratch.folder("ipc").iterdir() if path.name.startswith("client-")] == [f"client-{daemon.port}"]
    assert daemon.stop() == 0
    assert [path.name for path in scratch.folder("ipc").iterdir() if not path.name.startswith("master-")] == []


# ---- HTTP ----

def test_http(master, start_client):
    port, = free_ports(1)
    daemon = start_client(master, "--enable_http_server=true", f"--http_port={port}", env={"MC_STORE_CLUSTER_ID": 'a"b\\c'})
    for base in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{daemon.port}"):
        status, text, headers = http(base + "/health")
        assert status == 200 and json.loads(text) == {"status": "healthy", "code": 0} and headers["Content-Type"].startswith("application/json")
        status, text, headers = http(base + "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        labels = r'\{client_mode="real",cluster_id="a\\"b\\\\c"[^}]*\}'
        for line in text.splitlines():
            assert re.fullmatch(rf"# TYPE [\w:]+ (counter|gauge|histogram|summary|untyped)|# HELP .*|[\w:]+({labels})? \d+", line), line
        for name in ("mooncake_transfer_read_bytes", "mooncake_transfer_write_bytes", "mooncake_transfer_get_latency_bucket", "mcs_client_rpc_calls",
                     "mooncake_ssd_read_bytes_total"):
            assert re.search(rf"^{name}\{{", text, re.M), name
        assert re.search(r'^mooncake_client_rpc_count\{[^}]*rpc_name="\w+"\} [1-9]', text, re.M)
        assert f"\nmcs_client_segment_bytes {64 * MIB}\n" in text and "\nmcs_client_health 0\n" in text
        status, text, headers = http(base + "/metrics/summary")
        assert status == 200 and text.startswith("Client Metrics Summary") and daemon.segment in text
        for part in ("Transfer", "RPC", "Interface Operation", "SSD"):
            assert f"=== {part} Metrics Summary ===" in text, part
        assert json.loads(http(base + "/version")[1])["display_version"].startswith("mooncake-store ")
    assert daemon.http("/nothing")[0] == 404
    assert daemon.http("/log_level?level=DEBUG", "PUT")[:2] == (200, "DEBUG")
    assert daemon.http("/log_level?level=LOUD", "PUT")[0] == 400 and daemon.http("/log_level", "PUT")[0] == 400
    assert daemon.http("/log_level")[1] == "DEBUG"
    assert daemon.http("/log_level?level=INFO", "PUT")[:2] == (200, "INFO")
    assert daemon.http("/health", "POST")[0] == 405


def test_metrics_can_be_off(master, start_client):
    daemon = start_client(master, env={"MC_STORE_CLIENT_METRIC": "0"})
    assert daemon.http("/metrics")[:2] == (503, "metrics not available")
    assert daemon.http("/metrics/summary")[:2] == (503, "metrics not available")


def test_health_before_it_is_set_up(scratch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port, = free_ports(1)
        daemon = ClientDaemon(scratch, f"127.0.0.1:{silent.getsockname()[1]}", f"--port={port}", wait=False)
        daemon.wait_log("setting up")
        status, text, _ = http(f"http://127.0.0.1:{port}/health")
        assert status == 503 and json.loads(text) == {"status": "not_initialized", "code": 1}
        assert http(f"http://127.0.0.1:{port}/metrics")[:2] == (503, "client not initialized")
        assert daemon.stop() == 0


# ---- setup_dummy ----

def test_a_dummy_store_is_a_store_without_a_segment(master, start_client, start_peer):
    daemon = start_client(master)
    dummy = start_peer("dummy")
    assert dummy.call("setup_dummy", 3200 * MIB, 32 * MIB, f"127.0.0.1:{daemon.port}") == 0
    assert dummy.call("health_check") == 0 and dummy.hostname().startswith("127.0.0.1:")
    assert master.segments() == [daemon.segment]
    assert dummy.call("put", "k", b"Hello, World!") == 0 and dummy.call("put", "k", b"again") == 0
    assert dummy.call("get", "k") == b"Hello, World!" and dummy.call("get_size", "k") == 13
    assert dummy.counters()["bytes_same_host_written"] > 0
    other = start_peer("other").setup(master, segment=0)
    assert other.call("get", "k") == b"Hello, World!"
    assert dummy.call("remove", "k", force=True) == 0


def test_memory_of_the_pool(master, start_client, start_peer):
    daemon = start_client(master)
    dummy = start_peer("dummy")
    assert dummy.call("alloc_from_mem_pool", 1) == 0, "not set up"
    assert dummy.call("setup_dummy", 4 * MIB, 8 * MIB, f"127.0.0.1:{daemon.port}") == 0

    def use(store):
        import ctypes

        first, second = store.alloc_from_mem_pool(32), store.alloc_from_mem_pool(1 << 20)
        assert first % 64 == 0 and second % 4096 == 0 and second >= first + 32
        assert store.register_buffer(first, 32) == 0 and store.register_buffer(second, 1 << 20) == 0
        data = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        assert store.put("k", data) == 0
        ctypes.memset(first, ord("_"), 32)
        assert store.get_into_ranges([first], [["k"]], [[[0, 20]]], [[[2, 30]]], [[[4, 3]]]) == [[[4, 3]]]
        assert bytes((ctypes.c_ubyte * 32).from_address(first)) == data[2:6] + b"_" * 16 + data[30:33] + b"_" * 9
        ctypes.memset(second, 7, 1 << 20)
        assert store.batch_put_from(["big"], [second], [1 << 20]) == [0]
        assert store.get("big") == b"\7" * (1 << 20)
        assert store.alloc_from_mem_pool(4 << 20) == 0, "not that much is left"
        assert store.unregister_buffer(first) == 0
        assert store.close() == 0 and store.alloc_from_mem_pool(1) == 0
        return ctypes.string_at(second, 4)  # the memory outlives the close

    assert dummy.run(use) == b"\7" * 4


def test_dummies_go_on_without_the_client_process(master, start_client, start_peer):
    daemon = start_client(master)
    holder = start_peer("holder").setup(master)
    dummy = start_peer("dummy")
    assert dummy.call("setup_dummy", 0, 8 * MIB, f"localhost:{daemon.port}") == 0
    daemon.kill()
    wait_until(lambda: dummy.call("put", "k", b"v") == 0, "the master knows that it is gone")
    assert holder.call("get", "k") == b"v" and dummy.call("health_check") == 0
    assert dummy.call("setup_dummy", 0, 8 * MIB, f"localhost:{daemon.port}") == -900, "nobody answers any more"
    assert dummy.call("get", "k") == b"v", "and the store is what it was"


@pytest.mark.parametrize("address, code", [("127.0.0.1:1", -900), ("nowhere", -600), ("127.0.0.1:0", -600), ("", -600), ("127.0.0.1:99999", -600)])
def test_an_address_without_a_client_process(address, code, start_peer):
    assert start_peer().call("setup_dummy", MIB, MIB, address) == code


def test_many_ask_at_once(master, start_client, start_peer):
    daemon = start_client(master)
    peers = [start_peer(f"dummy{i}") for i in range(4)]
    for peer in peers:
        peer.start("setup_dummy", MIB, MIB, f"127.0.0.1:{daemon.port}")
    assert [peer.result() for peer in peers] == [0] * 4
    for i, peer in enumerate(peers):
        assert peer.call("put", f"k{i}", b"%d" % i) == 0
    assert peers[0].call("get_batch", [f"k{i}" for i in range(4)]) == [b"0", b"1", b"2", b"3"]


def test_garbage_at_its_doors(master, start_client, start_peer, scratch):
    daemon = start_client(master)
    path = str(scratch.folder("ipc") / f"client-{daemon.port}")
    for garbage in (b"", b"x", b"\0" * 16, b"MCBC" + b"\xff" * 12, b"x" * 65536):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.connect(path)
            if garbage:
                door.send(garbage)
    threads = []
    for garbage in (b"\0" * 1000, b"GET " + b"a" * 100000, b"GET /health HTTP/1.1\r\nContent-Length: 1099511627776\r\n\r\n"):
        def knock(garbage=garbage):
            with socket.create_connection(("127.0.0.1", daemon.port), 10) as door:
                door.sendall(garbage)
        threads.append(threading.Thread(target=knock))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
    assert daemon.http("/health")[0] == 200
    dummy = start_peer("dummy")
    assert dummy.call("setup_dummy", MIB, MIB, f"127.0.0.1:{daemon.port}") == 0
