"""Contract: the master's flags, its HTTP routes and its metrics, a row each: what scripts, dashboards and other people's clients go by."""

import http.client
import json
import re
import socket
import subprocess
import urllib.parse

import pytest
from contract_support import MIB, fresh, new_store
from python_support import BUILD_DIR, ROOT, Master, free_ports, wait_until

JSON = "application/json; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4"


@pytest.fixture(scope="module")
def served(real, master_binary, tmp_path_factory):
    """A master with one segment and one store of its own."""
    folder = tmp_path_factory.mktemp("admin")
    master = Master(folder, "--default_kv_lease_ttl=60s", f"--ipc_dir={folder / 'ipc'}")
    store = new_store(real, master, segment=16 * MIB)
    yield master, store
    store.close()
    assert master.stop() == 0


def ask(port, method, target, body=None, headers=None):
    """Status, content type and body of one request, sent as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


# ---- flags ----

WORKS = {
    "config_path": "", "port": "50051", "max_threads": "16", "rpc_port": "0", "rpc_thread_num": "0", "rpc_address": "0.0.0.0", "rpc_interface": "",
    "rpc_conn_timeout_seconds": "0", "rpc_enable_tcp_no_delay": "true", "enable_metric_reporting": "true", "metrics_port": "9003",
    "metrics_host": "0.0.0.0", "default_kv_lease_ttl": "10000", "default_kv_soft_pin_ttl": "1800000", "max_kv_soft_pin_ttl": "86400000",
    "allow_evict_soft_pinned_objects": "true", "eviction_ratio": "0.05", "eviction_high_watermark_ratio": "0.90", "client_ttl": "10",
    "client_live_ttl_sec": "10", "put_start_discard_timeout_sec": "30", "put_start_release_timeout_sec": "600", "memory_allocator": "offset",
    "allocation_strategy": "random", "enable_http_metadata_server": "false", "http_metadata_server_port": "8080",
    "http_metadata_server_host": "0.0.0.0", "enable_metadata_cleanup_on_timeout": "false", "cluster_id": "mooncake_cluster", "v": "0",
    "minloglevel": "0",
}
# Flag: default, and a value that switches on what this build has not.
REFUSED = {
    "root_fs_dir": ("", "/mnt"), "enable_offload": ("false", "true"), "offload_on_evict": ("false", "true"), "offload_force_evict": ("false", "true"),
    "promotion_on_hit": ("false", "true"), "dynamic_replication_mode": ("off", "enforce"), "enable_multi_tenants": ("false", "true"),
    "enable_ha": ("false", "true"), "enable_oplog": ("false", "true"), "enable_snapshot": ("false", "true"),
    "enable_snapshot_restore": ("false", "true"), "enable_cxl": ("false", "true"), "enable_kv_events": ("false", "true"),
}
# Flag: default, and another value, which changes nothing and says so: what it tunes is off, in the original too.
WITHOUT_EFFECT = {
    "nof_eviction_ratio": ("0.05", "0.1"), "nof_eviction_high_watermark_ratio": ("0.90", "0.8"), "global_file_segment_size": ("9223372036854775807", "5"),
    "enable_disk_eviction": ("true", "false"), "quota_bytes": ("0", "5"), "offloading_queue_limit": ("50000", "5"), "offload_cap_ratio": ("0.5", "0.7"),
    "promotion_admission_threshold": ("2", "1"), "promotion_queue_limit": ("50000", "1"), "promotion_max_per_heartbeat": ("1", "2"),
    "dynamic_replication_heat_window_seconds": ("10", "1"), "dynamic_replication_admission_qps_threshold": ("0.8", "1"),
    "dynamic_replication_max_memory_replicas": ("2", "3"), "tenant_quota_connector_type": ("file", "etcd"), "tenant_quota_connector_uri": ("", "x"),
    "ha_backend_type": ("etcd", "k8s"), "ha_backend_connstring": ("", "x"), "etcd_endpoints": ("", "h:1"), "oplog_poll_interval_ms": ("1000", "1"),
    "oplog_batch_max_entries": ("1024", "1"), "batch_oplog_retry_timeout_sec": ("180", "1"), "snapshot_interval_seconds": ("600", "1"),
    "snapshot_child_timeout_seconds": ("300", "1"), "snapshot_retention_count": ("2", "1"), "snapshot_backup_dir": ("", "/tmp"),
    "snapshot_object_store_type": ("", "s3"), "snapshot_payload_store_type": ("", "s3"), "snapshot_payload_backend_type": ("", "s3"),
    "snapshot_catalog_store_type": ("", "s3"), "snapshot_catalog_backend_type": ("", "s3"), "snapshot_catalog_store_connstring": ("", "x"),
    "pod_name": ("", "p"), "pod_namespace": ("", "n"), "nof_heartbeat_interval_sec": ("10", "1"), "nof_heartbeat_probe_timeout_ms": ("1000", "1"),
    "nof_heartbeat_failures_threshold": ("3", "1"), "cxl_path": ("/dev/dax0.0", "/dev/x"), "cxl_size": ("8589934592", "1"),
    "kv_events_bind_endpoint": ("", "x"), "kv_events_model_name": ("", "x"), "kv_events_backend_id": ("", "x"), "kv_events_tenant_id": ("default", "x"),
    "kv_events_additional_salt": ("", "x"), "kv_events_lora_name": ("", "x"), "kv_events_block_size": ("0", "16"), "kv_events_dp_rank": ("0", "1"),
    "kv_events_emit_legacy_compat": ("true", "false"), "kv_events_emit_object_key": ("true", "false"), "kv_events_queue_capacity": ("65536", "1"),
    "logtostderr": ("true", "false"), "alsologtostderr": ("false", "true"), "log_dir": ("", "/tmp"), "stderrthreshold": ("2", "0"),
    "colorlogtostderr": ("false", "true"), "vmodule": ("", "x=1"), "max_log_size": ("1800", "1"), "logbufsecs": ("30", "0"),
}


def run_master(*flags):
    return subprocess.run([str(BUILD_DIR / "master" / "mooncake_master"), *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


@pytest.fixture(scope="module")
def flag_help(master_binary):
    return dict(re.findall(r"^  --(\w+) .* default: (.*)$", run_master("--help").stdout, re.M))


@pytest.mark.parametrize("flag, default", [*WORKS.items(), *((flag, row[0]) for flag, row in (REFUSED | WITHOUT_EFFECT).items())])
def test_a_flag_has_its_documented_default(flag_help, flag, default):
    assert flag_help[flag] == (default or '""')


@pytest.mark.parametrize("flag", REFUSED)
def test_a_flag_of_what_is_not_here_is_refused(master_binary, flag):
    done = run_master(f"--{flag}={REFUSED[flag][1]}", "--rpc_port=0", "--metrics_port=0", "--metrics_host=127.0.0.1", "--rpc_address=127.0.0.1")
    assert done.returncode == 1 and f"--{flag}" in done.stderr and "this build has no" in done.stderr


def test_flags_without_effect_say_so(master_binary, tmp_path):
    master = Master(tmp_path, f"--ipc_dir={tmp_path / 'ipc'}", *(f"--{flag}={row[1]}" for flag, row in WITHOUT_EFFECT.items()))
    log = master.log_path.read_text()
    assert [flag for flag, row in WITHOUT_EFFECT.items() if f"flag --{flag}={row[1]} has no effect: " not in log] == []
    assert master.stop() == 0


@pytest.mark.parametrize("flags, lowest", [(["--v=1"], "D"), (["--minloglevel=1"], "W"), (["--log_level=error"], "E"), ([], "I")])
def test_the_log_begins_at_its_level(master_binary, tmp_path, flags, lowest):
    ports = free_ports(3)
    master = Master(tmp_path, f"--ipc_dir={tmp_path / 'ipc'}", "--quota_bytes=1", *flags, ports=ports)
    socket.create_connection(("127.0.0.1", ports[0])).close()  # worth a line at debug
    if lowest == "D":
        wait_until(lambda: re.search(r"^D\d{4} .*ended: closed by the peer", master.log_path.read_text(), re.M), "the log has it")
    assert master.stop() == 0
    letters = {line[0] for line in master.log_path.read_text().splitlines() if re.match(r"[TDIWE]\d{4} ", line)}
    shown = "TDIWE"["TDIWE".index(lowest):]
    assert letters - {"W"} <= set(shown), "the warning about a flag comes before the level is known"
    assert lowest in letters or lowest == "E"


# ---- transfer metadata ----

RAM, RPC_META = "mooncake/ram/contract:{}", "mooncake/rpc_meta/contract:{}"  # each row has a key of its own
METADATA_ROWS = [
    # what, what was put before, method, key, body, status, text
    ("no key", None, "GET", None, None, 400, "Missing key parameter"),
    ("empty key", None, "PUT", "", b"{}", 400, "Missing key parameter"),
    ("get miss", None, "GET", RAM, None, 404, "metadata not found"),
    ("put new", None, "PUT", RAM, b'{"a": 1}', 200, "metadata updated"),
    ("get hit", b'{"a": 1}', "GET", RAM, None, 200, '{"a": 1}'),
    ("put overwrite", b'{"a": 1}', "PUT", RAM, b'{"a": 2}', 200, "metadata updated"),
    ("rpc_meta new", None, "PUT", RPC_META, b"{}", 200, "metadata updated"),
    ("rpc_meta the same", b"{}", "PUT", RPC_META, b"{}", 200, "metadata unchanged"),
    ("rpc_meta another", b"{}", "PUT", RPC_META, b"{ }", 400, "Duplicate rpc_meta key not allowed"),
    ("delete hit", b"{}", "DELETE", RAM, None, 200, "metadata deleted"),
    ("delete miss", None, "DELETE", RAM, None, 404, "metadata not found"),
    ("delete rpc_meta", b"{}", "DELETE", RPC_META, None, 200, "metadata deleted"),
    ("another method", None, "POST", RAM, b"{}", 405, "Method not allowed"),
]


@pytest.mark.parametrize("encoded", [True, False], ids=["percent-encoded", "as it is"])
@pytest.mark.parametrize("what, before, method, key, body, status, text", METADATA_ROWS, ids=[row[0] for row in METADATA_ROWS])
def test_metadata(served, what, before, method, key, body, status, text, encoded):
    port = served[0].http_port
    name = None if key is None else key.format(f"{what.replace(' ', '-')}-{encoded}")
    target = "/metadata" if name is None else "/metadata?key=" + (urllib.parse.quote(name, safe="") if encoded else name)
    if before is not None:
        assert ask(port, "PUT", "/metadata?key=" + urllib.parse.quote(name, safe=""), before)[0] == 200
    got = ask(port, method, target, body)
    assert (got[0], got[2]) == (status, text)
    assert got[1].startswith("application/json" if what.startswith("get hit") else "text/plain")


def test_metadata_health(served):
    got = ask(served[0].http_port, "GET", "/health", None)
    assert (got[0], got[2]) == (200, "OK") and got[1].startswith("text/plain")


# ---- admin routes ----

def error(code, name):
    return {"success": False, "error_code": code, "error_message": name}


NO_TENANTS = error(-1011, "UNAVAILABLE_IN_CURRENT_MODE")
BAD = error(-600, "INVALID_PARAMS")
ROUTES = [
    ("GET", "/health", 200, JSON, {"status": "ok", "role": "leader", "ha_state": "serving", "service_ready": True, "leader_address": None, "view_version": None}),
    ("GET", "/role", 200, "text/plain", "leader"),
    ("GET", "/ha_status", 200, "text/plain", "serving"),
    ("GET", "/leader", 200, JSON, {"present": False, "leader_address": None, "view_version": None}),
    ("GET", "/kv_events/status", 200, JSON, {"enabled": False, "published_batches": 0, "published_events": 0, "dropped_events": 0, "skipped_unparsed_keys": 0}),
    ("GET", "/query_key?key=contract-nothing", 404, JSON, error(-704, "OBJECT_NOT_FOUND")),
    ("GET", "/query_key", 400, JSON, BAD),
    ("GET", "/batch_query_keys", 400, JSON, {"success": False, "error": "No keys provided. Use ?keys=key1,key2,..."}),
    ("GET", "/query_segment?segment=nobody:1", 500, "text/plain", "Failed to query segment"),
    ("GET", "/api/v1/segments/status", 400, JSON, None),
    ("GET", "/api/v1/segments/status?segment=nobody:1", 404, JSON, error(-101, "SEGMENT_NOT_FOUND")),
    ("GET", "/api/v1/tenant_quotas", 409, JSON, NO_TENANTS),
    ("GET", "/api/v1/tenant_quotas?tenant_id=t", 409, JSON, NO_TENANTS),
    ("PUT", "/api/v1/tenant_quotas?tenant_id=t", 409, JSON, NO_TENANTS),
    ("DELETE", "/api/v1/tenant_quotas?tenant_id=t", 409, JSON, NO_TENANTS),
    ("POST", "/api/v1/remove_all?force=perhaps", 400, JSON, BAD),
    ("GET", "/api/v1/remove_all", 405, "text/plain", "Method not allowed"),
    ("PUT", "/api/v1/log_level?level=loud", 400, JSON, BAD),
    ("GET", "/api/v1/log_level", 200, JSON, {"success": True, "level": "INFO"}),
    ("GET", "/no/such/page", 404, "text/plain", "no such page"),
]


@pytest.mark.parametrize("method, target, status, kind, body", ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES])
def test_admin_route(served, method, target, status, kind, body):
    got = ask(served[0].metrics_port, method, target, b"{}" if method == "PUT" else None)
    assert got[0] == status and got[1].startswith(kind)
    if body is not None:
        assert (json.loads(got[2]) if isinstance(body, dict) else got[2]) == body


def test_ready_names_what_is_exhausted(served):
    ready = json.loads(ask(served[0].metrics_port, "GET", "/ready")[2])
    assert ready["status"] == "ready" and ready["segments"] == 1 and ready["exhausted"] == []


def test_version_is_the_programs(served):
    status, kind, text = ask(served[0].metrics_port, "GET", "/version")
    assert (status, kind) == (200, JSON) and json.loads(text)["version"] in run_master("--version").stdout


@pytest.mark.parametrize("key", ["plain", "a key/with ä:?&=%,+", "100%25"])
def test_keys_are_shown_and_leased(served, key):
    """/query_key takes a key as sent or percent-encoded and grants a lease; /batch_query_keys decodes and grants none."""
    master, store = served
    assert store.put(key, b"x" * 1000) == 0
    replica = {"size_": 1000, "protocol_": "tcp"}
    if "," not in key:
        status, kind, text = ask(master.metrics_port, "GET", "/batch_query_keys?keys=" + urllib.parse.quote(key, safe="") + ",contract-none")
        answer = json.loads(text)
        assert (status, kind) == (200, JSON) and answer["success"] is True
        found, missing = answer["data"][key], answer["data"]["contract-none"]
        assert found["ok"] is True and found["error"] is None and replica.items() <= found["values"][0].items()
        assert found["disk_values"] is found["local_disk_values"] is found["nof_values"] is None
        assert missing["ok"] is False and missing["error"] == "OBJECT_NOT_FOUND"
        assert store.remove(key) == 0 and store.put(key, b"x" * 1000) == 0, "no lease"
    status, kind, text = ask(master.metrics_port, "GET", "/query_key?key=" + urllib.parse.quote(key, safe=""))
    answer = json.loads(text)
    assert (status, kind) == (200, JSON) and answer["success"] is True and len(answer["data"]) == 1
    assert set(answer["data"][0]) == {"size_", "buffer_address_", "protocol_", "transport_endpoint_"} and replica.items() <= answer["data"][0].items()
    assert store.remove(key) == -706, "leased"
    assert key in ask(master.metrics_port, "GET", "/get_all_keys")[2].splitlines()
    assert store.remove(key, force=True) == 0


def test_segments_are_shown(served):
    master, store = served
    name = store.get_hostname()
    status, kind, text = ask(master.metrics_port, "GET", "/get_all_segments")
    assert status == 200 and kind.startswith("text/plain") and text == f"{name}\n"
    status, kind, text = ask(master.metrics_port, "GET", "/get_segments_detail")
    detail = json.loads(text)
    segment, = detail["segments"]
    assert (status, kind) == (200, JSON) and detail["total_segments"] == 1
    assert {"segment_name", "segment_id", "client_id", "base_address", "size_bytes", "size_human", "te_endpoint", "protocol", "status",
            "allocator_used_bytes", "allocator_capacity_bytes", "allocator_usage_percent"} <= set(segment)
    assert segment["segment_name"] == name and segment["size_bytes"] == 16 * MIB and segment["size_human"] == "16 MiB" and segment["status"] == "OK"
    assert re.fullmatch(r"\d+-\d+", segment["segment_id"]) and segment["base_address"].startswith("0x")
    status, kind, text = ask(master.metrics_port, "GET", f"/query_segment?segment={urllib.parse.quote(name, safe='')}")
    assert status == 200 and re.fullmatch(rf"{re.escape(name)}\nUsed\(bytes\): \d+\nCapacity\(bytes\) : {16 * MIB}\n", text)
    status, kind, text = ask(master.metrics_port, "GET", f"/api/v1/segments/status?segment={name}")
    answer = json.loads(text)
    assert (status, kind) == (200, JSON) and answer["success"] and answer["segment"] == name and (answer["status"], answer["status_name"]) == (1, "OK")


def test_remove_all_counts(served):
    master, store = served
    store.remove_all(force=True)
    keys = [fresh("all") for _ in range(3)]
    assert store.put_batch(keys, [b"x"] * 3) == 0 and store.is_exist(keys[0]) == 1
    for target, count in (("", 2), ("?force=true", 1), ("?force=1", 0)):
        assert json.loads(ask(master.metrics_port, "POST", "/api/v1/remove_all" + target)[2]) == {"success": True, "removed_count": count}


def test_the_log_level_changes_and_comes_back(served):
    master, store = served
    assert json.loads(ask(master.metrics_port, "PUT", "/api/v1/log_level", b'{"level": "DEBUG"}')[2]) == {"success": True, "level": "DEBUG"}
    before = master.log_path.stat().st_size
    assert store.is_exist(fresh()) == 0
    assert json.loads(ask(master.metrics_port, "PUT", "/api/v1/log_level?level=INFO")[2])["level"] == "INFO"
    assert re.search(r"^D\d{4} ", master.log_path.read_bytes()[before:].decode(), re.M)


# ---- metrics ----

GAUGES = """master_allocated_bytes master_total_capacity_bytes master_nof_allocated_bytes master_total_nof_capacity_bytes
    master_allocated_file_size_bytes master_total_file_capacity_bytes master_key_count master_soft_pin_key_count master_active_clients mem_cache_nums_
    file_cache_nums_ master_put_start_discarded_staging_size master_promotion_in_flight""".split()
LABELLED = ["segment_allocated_bytes", "segment_total_capacity_bytes"]
HISTOGRAMS = ["master_value_size_bytes", "master_nof_heartbeat_probe_latency_ms", "master_snapshot_duration_ms"]
OPERATIONS = """put_start put_end put_revoke get_replica_list get_replica_list_by_regex exist_key remove remove_by_regex remove_all mount_segment
    unmount_segment remount_segment mount_nof_segment unmount_nof_segment remount_nof_segment ping copy_start copy_end copy_revoke move_start move_end
    move_revoke evict_disk_replica create_copy_task create_move_task query_task fetch_tasks update_task""".split()
BATCHES = "exist_key query_ip replica_clear get_replica_list put_start put_end put_revoke".split()
PROMOTIONS = """admitted completed completed_bytes expired failed cancelled rejected_frequency rejected_watermark rejected_cap candidate_recorded
    candidate_admitted candidate_admission_rejected candidate_expired_evaluated candidate_expired_unevaluated candidate_dropped_limit""".split()
EVICTIONS = ["master_successful_evictions", "master_attempted_evictions", "master_evicted_key_count", "master_evicted_size_bytes"]
COUNTERS = [
    *(f"master_{op}_{what}_total" for op in OPERATIONS for what in ("requests", "failures")),
    *(f"master_batch_{op}_{what}_total" for op in BATCHES for what in ("requests", "failures", "partial_successes", "items", "failed_items")),
    *(f"master_promotion_{what}_total" for what in PROMOTIONS),
    "master_put_start_alloc_failures_total", "master_put_start_partial_allocations_total", "mem_cache_hit_nums_", "file_cache_hit_nums_",
    "mem_cache_hit_bytes_total", "file_cache_hit_bytes_total", "valid_get_nums_", "total_get_nums_", "master_successful_evictions_total",
    "master_attempted_evictions_total", "master_evicted_key_count", "master_evicted_size_bytes", *(f"{name}_{tier}" for name in EVICTIONS for tier in ("mem", "nof")),
    "master_put_start_discard_cnt", "master_put_start_release_cnt", "master_nof_heartbeat_success_total", "master_nof_heartbeat_failure_total",
    "master_nof_heartbeat_timeout_total", "master_nof_segments_unmounted_by_heartbeat_total", "master_snapshot_success", "master_snapshot_fail",
]
OURS = ["mcs_quarantine_bytes", "mcs_suspect_segments", "mcs_suspect_clients", "mcs_hard_pinned_keys", "mcs_leased_keys", "mcs_releases_pending", "mcs_fences",
        "mcs_strikes", "mcs_parked_requests", "mcs_reservations", "mcs_spares", "mcs_spare_bytes", "mcs_rpc_connections", "mcs_index_bytes",
        "mcs_epoch", "mcs_journal_on", "mcs_journal_bytes", "mcs_journal_files", "mcs_journal_records_total", "mcs_journal_record_bytes_total", "mcs_journal_snapshots_total", "mcs_journal_errors_total",
        "mcs_journal_windows_waited_total", "mcs_journal_last_sync_seconds", "mcs_recovered_objects", "mcs_recovered_segments", "mcs_recovery_lost_objects",
        "mcs_recovery_damaged_streams", "mcs_recovery_milliseconds", "mcs_unclaimed_segments", "mcs_recovered_extents_asked_total",
        "mcs_recovered_extents_dropped_total"]


@pytest.fixture(scope="module")
def exposition(served):
    master, store = served
    assert store.put("contract-metric", b"x") == 0
    status, kind, text = ask(master.metrics_port, "GET", "/metrics")
    assert status == 200 and kind == PROMETHEUS
    return text


def samples(text, name):
    return [float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([-+.eE\d]+)$", text, re.M)]


@pytest.mark.parametrize("kind, name", [*(("gauge", n) for n in GAUGES + LABELLED),
                                        *(("counter" if n.endswith("_total") else "gauge", n) for n in OURS), *(("counter", n) for n in COUNTERS), *(("histogram", n) for n in HISTOGRAMS)])
def test_a_metric_has_its_name_its_type_and_a_sample(exposition, kind, name):
    assert exposition.count(f"# TYPE {name} {kind}\n") == 1 and f"# HELP {name} " in exposition
    assert len(samples(exposition, f"{name}_count" if kind == "histogram" else name)) == 1


def test_the_operators_page_names_metrics_that_are_there(exposition):
    page = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"\b(?:mcs|master)_[a-z_]+[a-z]\b(?!\()", page)) - {"master_server_addr"}
    assert len(named) > 20
    assert [name for name in sorted(named) if f"\n{name} " not in exposition] == []


def test_leases_and_pins_are_counted(real, master_binary, tmp_path):
    """What was read and whose lease is over is neither leased nor pinned, wherever eviction keeps it."""
    master = Master(tmp_path, "--default_kv_lease_ttl=300", f"--ipc_dir={tmp_path / 'ipc'}")
    store = new_store(real, master, segment=16 * MIB)
    hard = real.ReplicateConfig()
    hard.with_hard_pin = True
    soft = real.ReplicateConfig()
    soft.soft_pin_action = real.SoftPinAction.ENABLE
    keys = [fresh() for _ in range(6)]
    assert [store.put(key, b"x", config) for key, config in zip(keys, (hard, soft, *([real.ReplicateConfig()] * 4)))] == [0] * 6

    def counts():
        text = ask(master.metrics_port, "GET", "/metrics")[2]
        return [samples(text, name)[0] for name in ("master_key_count", "mcs_hard_pinned_keys", "master_soft_pin_key_count", "mcs_leased_keys")]

    assert counts() == [6, 1, 1, 0]
    assert store.batch_is_exist(keys) == [1] * 6 and store.get_batch(keys) == [b"x"] * 6
    wait_until(lambda: counts() == [6, 1, 1, 0], "the leases are over, and only that has changed")
    store.close()
    assert master.stop() == 0


def test_value_sizes_have_the_documented_buckets(exposition):
    found = re.findall(r'^master_value_size_bytes_bucket\{le="([^"]+)"\} (\d+)$', exposition, re.M)
    assert [bound for bound, _ in found] == ["4096", "65536", "262144", "1048576", "4194304", "16777216", "67108864", "+Inf"]
    assert [int(n) for _, n in found] == sorted(int(n) for _, n in found) and samples(exposition, "master_value_size_bytes_count")[0] == int(found[-1][1]) > 0


def test_metrics_of_what_is_off_are_absent(exposition):
    assert "mooncake_tenant_" not in exposition and "ha_oplog" not in exposition


def test_the_summary_has_the_documented_shape(served):
    status, kind, text = ask(served[0].metrics_port, "GET", "/metrics/summary")
    assert status == 200 and kind == PROMETHEUS and "\n" not in text.strip()
    assert text.startswith("role=leader, state=serving, service_ready=true, master={Mem Storage: ")
    parts = ["NVMe-oF SSD: ", "SSD Storage: 0 B / infinite", "Keys: ", "Clients: 1", "Requests (Success/Total per sec): PutStart=",
             "Batch Requests (per sec, Req=Success/PartialSuccess/Total, Item=Success/Total): PutStart:(Req=", "Eviction: Success/Attempts=",
             "Mem Eviction: ", "NoF Eviction: ", "Discard: Released/Total=", "Promotion: ", "Snapshots: Success="]
    fields = text.split(" | ")
    assert [part for part in parts if not any(field.startswith(part) for field in fields)] == []
    for name in "PutStart PutEnd PutRevoke Get Exist Del DelAll Ping CopyStart CopyEnd CopyRevoke MoveStart MoveEnd MoveRevoke EvictDiskReplica".split():
        assert re.search(rf"\b{name}=\d+\.\d\d/\d+\.\d\d", text), name
    for name in "PutStart PutEnd PutRevoke Get ExistKey QueryIp Clear".split():
        assert re.search(rf"\b{name}:\(Req=\d+\.\d\d/\d+\.\d\d/\d+\.\d\d, Item=\d+\.\d\d/\d+\.\d\d\)", text), name
    for name in "CreateMoveTask CreateCopyTask QueryTask FetchTasks MarkTaskToComplete".split():
        assert re.search(rf"\b{name}:\(Req=\d+\.\d\d/\d+\.\d\d\)", text), name
    assert text.rstrip().endswith("ha={disabled}")
