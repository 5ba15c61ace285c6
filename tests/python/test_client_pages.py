"""A store's own pages (enable_client_http_server) and its metrics: names, values, what is off, what is in the way."""

import json
import re
import socket
import urllib.error
import urllib.request

import pytest
from contract_support import MIB, fresh, new_store, pattern
from python_support import Master, free_ports, run_python, wait_until

HISTOGRAMS = [f"mooncake_transfer_{kind}_latency" for kind in ("get", "put", "batch_get", "batch_put")]
BOUNDS = """50 75 125 150 200 250 300 400 500 750 1000 1500 2000 3000 5000 7000 15000 20000 50000 100000 200000 500000 1000000 2000000 5000000
    10000000 20000000 +Inf""".split()
SSD = [*(f"mooncake_ssd_{what}_total" for what in ("read_bytes", "write_bytes", "read_ops", "write_ops", "total_bytes", "total_ops")),
       *(f"mooncake_ssd_{what}_latency_{kind}_count" for what in ("read", "write", "total") for kind in ("us", "summary_us"))]


def page(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def served(real, master, monkeypatch):
    monkeypatch.setenv("MC_STORE_CLUSTER_ID", 'blue "1"')
    port, = free_ports(1)
    store = new_store(real, master, segment=16 * MIB, enable_client_http_server=True, client_http_port=port)
    yield store, port
    store.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def value(text, name, **labels):
    for found in re.finditer(rf"^{name}\{{([^}}]*)\}} (\S+)$", text, re.M):
        if all(f'{key}="{want}"' in found[1] for key, want in labels.items()):
            return float(found[2])
    return None


def test_metrics_have_the_documented_names_and_true_values(served):
    store, port = served
    keys = [fresh() for _ in range(3)]
    assert store.put(keys[0], pattern(1000)) == 0 and store.put_batch(keys[1:], [pattern(500)] * 2) == 0
    assert store.get(keys[0]) == pattern(1000) and store.get_batch(keys) == [pattern(1000), pattern(500), pattern(500)]
    assert store.upsert(keys[0], pattern(10)) == 0 and store.get(fresh()) == b""
    status, kind, text = page(port, "/metrics")
    assert status == 200 and kind == "text/plain; version=0.0.4"
    assert value(text, "mooncake_transfer_write_bytes") == 2010 and value(text, "mooncake_transfer_read_bytes") == 3000
    for name, count in zip(HISTOGRAMS, (2, 2, 1, 1)):
        assert f"# TYPE {name} histogram\n" in text
        assert re.findall(rf'^{name}_bucket\{{.*le="([^"]+)"\}}', text, re.M) == BOUNDS
        assert value(text, f"{name}_count") == value(text, f"{name}_bucket", le="\\+Inf".replace("\\", "")) == count
        assert value(text, f"{name}_sum") >= 0
    assert value(text, "mooncake_transfer_write_operation_count", op_name="put") == 1
    assert value(text, "mooncake_transfer_write_operation_count", op_name="upsert") == 1
    assert value(text, "mooncake_transfer_write_operation_bytes", op_name="batch_put") == 1000
    assert value(text, "mooncake_transfer_read_operation_bytes", op_name="get") == 1000
    assert value(text, "mooncake_transfer_read_operation_latency_count", op_name="batch_get") == 1
    assert value(text, "mooncake_client_rpc_count", rpc_name="PutStart") == 3
    assert value(text, "mooncake_client_rpc_latency_count", rpc_name="PutEnd") == 3
    assert value(text, "mooncake_client_rpc_count", rpc_name="MountSegment") == 1
    assert [name for name in SSD if value(text, name) != 0] == []
    assert value(text, "mcs_client_puts") == 4 and value(text, "mcs_client_owner_segments") == 1
    assert 'client_mode="real",cluster_id="blue \\"1\\""' in text
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[a-zA-Z_:][\w:]*(\{.*\})? [-+.eE\d]+", line), line


def test_the_summary_has_its_parts(served):
    store, port = served
    assert store.put(fresh(), b"x" * 1000) == 0
    status, kind, text = page(port, "/metrics/summary")
    assert status == 200 and kind == "text/plain; version=0.0.4" and text.startswith("Client Metrics Summary\n")
    assert [line for line in text.splitlines() if line.startswith("===")] == [
        "=== Transfer Metrics Summary ===", "=== RPC Metrics Summary ===", "=== Interface Operation Metrics Summary ===", "=== SSD Metrics Summary ==="]
    assert "Total Write: 1000 bytes" in text and re.search(r"^Put: count=1, avg=\d+us, p50<=\d+us", text, re.M) and "Write Bandwidth: " in text


def test_health_follows_the_master(real, master_binary, tmp_path):
    master = Master(tmp_path, f"--ipc_dir={tmp_path / 'ipc'}")
    port, = free_ports(1)
    store = new_store(real, master, segment=0, enable_client_http_server=True, client_http_port=port)
    status, kind, text = page(port, "/health")
    assert (status, json.loads(text)) == (200, {"status": "healthy", "code": 0}) and kind == "application/json; charset=utf-8"
    assert json.loads(page(port, "/version")[2])["version"] and page(port, "/elsewhere")[0] == 404
    assert master.stop() == 0
    wait_until(lambda: page(port, "/health")[0] == 503, "the loss is noticed")
    assert json.loads(page(port, "/health")[2]) == {"status": "master_unreachable", "code": 2}
    store.close()


def test_an_engines_log_level_changes_while_it_runs(real, master):
    """And its calls are then in the log, by the numbers that the master's log has."""
    port, = free_ports(1)
    log = run_python(f"""
import urllib.request
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup(dict(local_hostname="127.0.0.1", metadata_server="P2PHANDSHAKE", global_segment_size=1 << 24, master_server_addr="{master.address}",
                        enable_client_http_server=True, client_http_port={port})) == 0
def level(text):
    request = urllib.request.Request("http://127.0.0.1:{port}/log_level?level=" + text, method="PUT")
    assert urllib.request.urlopen(request, timeout=10).read().decode() == text
assert store.put("quiet-1", b"x") == 0
level("DEBUG")
assert store.put("log-level", b"x") == 0
level("WARNING")
assert store.put("quiet-2", b"x") == 0
store.close()
""", package="real").stderr
    assert len(re.findall(r"put_start op [0-9a-f]{11}\.", log)) == 1, log


def test_without_metrics_there_are_none(real, master, monkeypatch):
    monkeypatch.setenv("MC_STORE_CLIENT_METRIC", "0")
    port, = free_ports(1)
    store = new_store(real, master, segment=16 * MIB, enable_client_http_server=True, client_http_port=port)
    assert store.put(fresh(), b"x") == 0
    assert page(port, "/metrics")[::2] == (503, "metrics not available") and page(port, "/metrics/summary")[0] == 503
    assert page(port, "/health")[0] == 200
    store.close()


def test_a_taken_port_costs_the_pages_and_nothing_else(real, served, master, capfd):
    port = served[1]
    other = new_store(real, master, segment=16 * MIB, enable_client_http_server=True, client_http_port=port)
    key = fresh()
    assert other.put(key, b"x") == 0 and other.get(key) == b"x"
    other.close()
    assert f"no metrics on http port {port}" in capfd.readouterr().err
    assert page(port, "/health")[0] == 200, "the first store's server is still there"


@pytest.mark.parametrize("port", [65536, "http", -1])
def test_what_is_no_port_is_refused(real, master, port):
    store = real.MooncakeDistributedStore()
    settings = {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "master_server_addr": master.address,
                "enable_client_http_server": "true", "client_http_port": port, "global_segment_size": "0"}
    assert store.setup(settings) == -600


def test_the_log_has_the_summary_when_asked(real, master, tmp_path):
    log = tmp_path / "log"
    run_python(f"""
import os
import pathlib
import time
from mooncake.store import MooncakeDistributedStore
log = pathlib.Path({str(log)!r})
os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), 2)
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 24, 1 << 24, "tcp", "", "{master.address}") == 0
assert store.put("contract-interval", b"x" * 1000) == 0
end = time.monotonic() + 30
while "Total Write: 1000 bytes" not in log.read_text():
    assert time.monotonic() < end, log.read_text()
    time.sleep(0.02)
store.close()
""", package="real", env={"MC_STORE_CLIENT_METRIC_INTERVAL": "1", "MC_STORE_CLIENT_METRIC_BANDWIDTH": "0"})
    text = log.read_text()
    assert text.count("Client Metrics Summary") >= 1 and "=== RPC Metrics Summary ===" in text
    assert "Bandwidth" not in text
