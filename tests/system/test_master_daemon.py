"""mooncake_master as a program: flags, ports, signals, and the contract of its HTTP endpoints."""

import json
import re
import signal
import subprocess
import urllib.parse

import pytest

from tests.support.processes import MIB, find_build_dir, free_ports, http
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until


def run_master(*flags, timeout=20):
    return subprocess.run([str(find_build_dir() / "master" / "mooncake_master"), *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout)


def test_help_and_version():
    done = run_master("--help")
    assert done.returncode == 0
    for flag in ("--rpc_port", "--port", "--metrics_port", "--enable_http_metadata_server", "--default_kv_lease_ttl", "--eviction_ratio"):
        assert flag in done.stdout
    done = run_master("--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)


@pytest.mark.parametrize("flags", [["--nosuchflag"], ["--rpc_port=70000"], ["--rpc_port=abc"], ["--rpc_port"], ["stray"], ["--enable_ha=true"],
                                   ["--config_path=/no/such/file"], ["--rpc_address=no.such.host.invalid"], ["--log_level=chatty"],
                                   ["--put_start_discard_timeout_sec=20", "--put_start_release_timeout_sec=10"]])
def test_bad_flags_are_named_and_exit_1(flags, scratch):
    ports = free_ports(3)
    rest = [f"--ipc_dir={scratch.folder('ipc')}", f"--metrics_port={ports[1]}", "--metrics_host=127.0.0.1"]
    if not any("rpc_port" in flag for flag in flags):
        rest.append(f"--rpc_port={ports[0]}")
    done = run_master(*rest, *flags)
    assert done.returncode == 1
    assert re.sub(r"^-+(no)?|=.*", "", flags[-1]) in done.stderr or flags[-1].partition("=")[2] in done.stderr, done.stderr


@pytest.mark.parametrize("which", ["rpc", "metrics", "metadata"])
def test_port_in_use_is_named_and_exits_1(which, master, scratch):
    ports = dict(zip(("rpc", "metrics", "metadata"), free_ports(3)))
    ports[which] = {"rpc": master.rpc_port, "metrics": master.metrics_port, "metadata": master.metadata_port}[which]
    done = run_master("--rpc_address=127.0.0.1", f"--rpc_port={ports['rpc']}", "--metrics_host=127.0.0.1", f"--metrics_port={ports['metrics']}",
                      "--enable_http_metadata_server", "--http_metadata_server_host=127.0.0.1", f"--http_metadata_server_port={ports['metadata']}",
                      f"--ipc_dir={scratch.folder('other')}")
    assert done.returncode == 1
    assert str(ports[which]) in done.stderr
    assert master.admin("/health")[0] == 200, "the one that had it serves on"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_0_in_time_while_clients_are_busy(number, start_master, start_peer):
    master = start_master()
    peers = [start_peer(f"client{i}", env={"MC_RPC_TIMEOUT_MS": "1000"}).setup(master) for i in range(2)]
    assert peers[0].call("put", "k", b"x" * MIB) == 0 and peers[1].call("get", "k") == b"x" * MIB

    def busy(store):
        count = 0
        while store.put(f"b{count}", b"x" * 1000) == 0:
            count += 1
        return count

    peers[0].start_run(busy)
    wait_until(lambda: "\nb3\n" in "\n" + master.admin("/get_all_keys")[1], "the client is busy")
    with Stopwatch() as watch:
        master.process.send_signal(number)
        assert master.process.wait(20) == 0, master.log()[-2000:]
    assert watch.seconds < 5 * TIME_FACTOR
    assert peers[0].result(30) > 3
    assert not [path for path in (master._scratch.folder("ipc")).rglob("master*")], "its socket is gone"


def test_config_file_and_flags(start_master, scratch, start_peer):
    """The file gives the lease, the flag wins for the ports."""
    path = scratch.path / "master.json"
    path.write_text(json.dumps({"default_kv_lease_ttl": "60s", "client_live_ttl_sec": 7, "metrics_port": 1, "eviction_ratio": 0.1}))
    master = start_master(f"--config_path={path}")
    peer = start_peer().setup(master)
    assert peer.call("put", "k", b"x") == 0
    assert peer.call("is_exist", "k") == 1
    assert master.admin("/health")[0] == 200


# ---- HTTP ----

@pytest.fixture
def filled(start_master, start_peer):
    master = start_master("--default_kv_lease_ttl=60s")
    peer = start_peer().setup(master)
    for i in range(3):
        assert peer.call("put", f"key {i}/ä", bytes([i]) * (1000 + i)) == 0
    return master, peer


def test_health_roles_and_segments(filled):
    master, peer = filled
    status, text, headers = http(f"http://{master.host}:{master.metrics_port}/health")
    health = json.loads(text)
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert health["status"] == "ok" and health["role"] == "leader" and health["service_ready"] is True and health["leader_address"] is None
    assert master.admin("/role") == (200, "leader")
    assert master.admin("/get_all_segments")[1].splitlines() == [peer.hostname()]
    detail = json.loads(master.admin("/get_segments_detail")[1])
    assert detail["total_segments"] == 1
    segment, = detail["segments"]
    assert segment["segment_name"] == peer.hostname() and segment["size_bytes"] == 64 * MIB and segment["status"] == "OK"
    assert re.fullmatch(r"\d+-\d+", segment["segment_id"]) and segment["allocator_used_bytes"] >= 3003
    status, text = master.admin(f"/query_segment?segment={peer.hostname()}")
    assert status == 200 and text.splitlines()[0] == peer.hostname() and "Capacity(bytes) : 67108864" in text
    assert master.admin("/query_segment?segment=nobody:1")[0] == 500
    assert master.admin("/no_such_page")[0] == 404


def test_keys_are_listed_and_queried(filled):
    master, peer = filled
    names = [f"key {i}/ä" for i in range(3)]
    assert sorted(master.admin("/get_all_keys")[1].splitlines()) == names
    status, text = master.admin("/query_key?key=" + urllib.parse.quote(names[1], safe=""))
    replica, = json.loads(text)["data"]
    assert status == 200 and replica["size_"] == 1001 and replica["protocol_"] == "tcp" and ":" in replica["transport_endpoint_"]
    assert peer.call("remove", names[1]) == -706, "the query has granted a lease"
    assert peer.call("remove", names[2]) == 0
    status, text = master.admin("/query_key?key=nothing")
    assert status == 404 and json.loads(text) == {"success": False, "error_code": -704, "error_message": "OBJECT_NOT_FOUND"}
    batch = json.loads(master.admin("/batch_query_keys?keys=" + urllib.parse.quote(names[0], safe="") + ",nothing")[1])
    assert batch["success"] and batch["data"][names[0]]["ok"] and batch["data"]["nothing"]["error"] == "OBJECT_NOT_FOUND"
    assert master.admin("/batch_query_keys")[0] == 400
    wait_until(lambda: json.loads(master.admin("/api/v1/remove_all?force=true", "POST")[1]).get("success"), "everything is removed")
    assert master.admin("/get_all_keys")[1] == ""


def test_metrics_have_the_documented_names(filled):
    master, peer = filled
    assert peer.call("get", "key 0/ä") == b"\0" * 1000 and peer.call("get", "missing") == b""
    status, text, headers = http(f"http://{master.host}:{master.metrics_port}/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    metrics = master.metrics()
    assert metrics["master_total_capacity_bytes"] == 64 * MIB and metrics["master_allocated_bytes"] >= 3003
    assert metrics["master_key_count"] == 3 and metrics["master_active_clients"] == 1
    assert metrics[f'segment_total_capacity_bytes{{segment="{peer.hostname()}"}}'] == 64 * MIB
    puts = metrics.get("master_put_start_requests_total", 0) + metrics.get("master_batch_put_start_items_total", 0)
    assert puts >= 3
    assert metrics["valid_get_nums_"] >= 1 and metrics["total_get_nums_"] >= metrics["valid_get_nums_"]
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[a-zA-Z_:][\w:]*(\{.*\})? [-+.eE\d]+(Inf|NaN)?|", line), line
    assert "role=leader" in master.admin("/metrics/summary")[1]


def test_metadata_protocol(master):
    url = master.metadata
    key = "?key=" + urllib.parse.quote("mooncake/ram/host:1", safe="")
    meta = "?key=" + urllib.parse.quote("mooncake/rpc_meta/host:1", safe="")
    assert http(url)[:2] == (400, "Missing key parameter")
    assert http(url + key)[:2] == (404, "metadata not found")
    assert http(url + key, "PUT", b'{"a": 1}')[:2] == (200, "metadata updated")
    status, text, headers = http(url + key)
    assert (status, text) == (200, '{"a": 1}') and headers["Content-Type"].startswith("application/json")
    assert http(url + key, "PUT", b'{"a": 2}')[:2] == (200, "metadata updated")
    assert http(url + key)[1] == '{"a": 2}'
    assert http(url + meta, "PUT", b"{}")[0] == 200
    assert http(url + meta, "PUT", b"{}")[:2] == (200, "metadata unchanged")
    assert http(url + meta, "PUT", b"{ }")[:2] == (400, "Duplicate rpc_meta key not allowed")
    assert http(url + key, "DELETE")[:2] == (200, "metadata deleted")
    assert http(url + key, "DELETE")[:2] == (404, "metadata not found")
    assert http(url.replace("/metadata", "/health"))[:2] == (200, "OK")


def test_store_publishes_and_withdraws_its_metadata(master, start_peer):
    peer = start_peer().setup(master, metadata=master.metadata)
    name = peer.hostname()
    for kind in ("ram", "rpc_meta"):
        key = "?key=" + urllib.parse.quote(f"mooncake/{kind}/{name}", safe="")
        status, text, _ = http(master.metadata + key)
        assert status == 200 and isinstance(json.loads(text), dict)
    assert peer.call("put", "k", b"x") == 0 and peer.call("close") == 0
    for kind in ("ram", "rpc_meta"):
        assert http(master.metadata + "?key=" + urllib.parse.quote(f"mooncake/{kind}/{name}", safe=""))[0] == 404
    peer.setup(master, metadata=master.metadata, host=name)
    assert peer.hostname() == name, "the name can be used again"
