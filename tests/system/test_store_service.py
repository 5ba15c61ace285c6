"""mc_store_rest_server: each route with its answers and limits, over HTTP; set-up, signals, exit codes."""

import asyncio
import json
import re
import signal
import socket
import sys
import time
import types
from http.client import HTTPConnection

import pytest

pytest.importorskip("aiohttp")

from tests.support.daemons import Daemon, run_module
from tests.support.processes import MIB, Master, Scratch, find_build_dir, http
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

MODULE = "mooncake.mooncake_store_service"
BODY_MAX = 100 * MIB


class Service(Daemon):
    def __init__(self, scratch, config, *flags, wait=True):
        path = scratch.path / "service.json"
        path.write_text(json.dumps(config))
        super().__init__(scratch, "service", [sys.executable, "-m", MODULE, f"--config={path}", "--host=127.0.0.1", "--port=0", *flags])
        self.port = 0
        if wait:
            self.port = int(re.search(r"REST API started on port (\d+)", self.wait_log("REST API started on port"))[1])

    def ask(self, method, path, body=None, raw=None):
        """(status, object or bytes, headers)"""
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        status, text, headers = http(f"http://127.0.0.1:{self.port}{path}", method, data, timeout=60)
        return status, json.loads(text) if headers["Content-Type"].startswith("application/json") else text.encode(), headers


def config_of(master, **more):
    return {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "global_segment_size": "32MB", "local_buffer_size": "128MB",
            "protocol": "tcp", "device_name": "", "master_server_address": master.address, **more}


@pytest.fixture(scope="module")
def shared():
    """One master and one service for all tests that leave them as they were."""
    scratch = Scratch()
    master = Master(scratch, "--default_kv_lease_ttl=2s")
    service = Service(scratch, config_of(master))
    service.master = master
    yield service
    assert service.stop() == 0, service.log()[-3000:]
    assert master.stop() == 0
    scratch.close()


@pytest.fixture
def service(shared):
    """Without objects."""
    assert shared.master.admin("/api/v1/remove_all?force=true", "POST")[0] == 200
    yield shared
    assert shared.alive(), shared.log()[-3000:]


def test_put_get_exist_remove(service):
    assert service.ask("GET", "/api/exist/k")[:2] == (200, {"exists": False})
    assert service.ask("GET", "/api/get/k")[:2] == (404, {"error": "Key not found"})
    status, body, headers = service.ask("PUT", "/api/put", {"key": "k", "value": "värld"})
    assert (status, body) == (200, {"status": "success"}) and headers["Content-Type"].startswith("application/json")
    status, body, headers = service.ask("GET", "/api/get/k")
    assert (status, body, headers["Content-Type"]) == (200, "värld".encode(), "application/octet-stream")
    assert service.ask("GET", "/api/exist/k")[:2] == (200, {"exists": True})
    assert service.ask("PUT", "/api/put", {"key": "k", "value": "other"})[:2] == (200, {"status": "success"}), "as put of the store does"
    assert service.ask("GET", "/api/get/k")[1] == "värld".encode()
    status, body, _ = service.ask("DELETE", "/api/remove/k")
    assert status == 500 and body["error"] == "Remove operation failed" and body["code"] == -706
    wait_until(lambda: service.ask("DELETE", "/api/remove/k")[:2] == (200, {"status": "success"}), "the lease has run out")
    status, body, _ = service.ask("DELETE", "/api/remove/k")
    assert status == 500 and body["error"] == "Remove operation failed" and body["code"] == -704


def test_keys_of_any_text(service):
    for key, quoted in (("a b", "a%20b"), ("a/b//c", "a%2Fb%2F%2Fc"), ("ä?#%", "%C3%A4%3F%23%25"), ("model@tp_rank:0@hash", "model@tp_rank:0@hash"),
                        ("two\nlines", "two%0Alines"), ("../..", "..%2F..")):
        assert service.ask("PUT", "/api/put", {"key": key, "value": key})[0] == 200
        assert service.ask("GET", "/api/get/" + quoted)[:2] == (200, key.encode())


def test_remove_all(service):
    for i in range(3):
        assert service.ask("PUT", "/api/put", {"key": f"k{i}", "value": "v"})[0] == 200
    assert service.ask("DELETE", "/api/remove_all")[:2] == (200, {"status": "success removed 3 keys"})
    assert service.ask("DELETE", "/api/remove_all")[:2] == (200, {"status": "success removed 0 keys"})


@pytest.mark.parametrize("body", [{}, {"key": "k"}, {"value": "v"}, {"key": "", "value": "v"}, {"key": "k", "value": None}, {"key": "k", "value": 5},
                                  {"key": 5, "value": "v"}, [], "text", None])
def test_bad_puts(service, body):
    status, answer, _ = service.ask("PUT", "/api/put", raw=json.dumps(body).encode())
    assert status == 400 and set(answer) == {"error"}


def test_bodies_that_are_no_json(service):
    for raw in (b"", b"{", b"\xff\xfe", b"nonsense", b"[" * 100000, b'{"size":' + b"9" * 5000 + b"}"):
        for method, path in (("PUT", "/api/put"), ("POST", "/api/mount"), ("POST", "/api/unmount"), ("POST", "/api/reconfigure")):
            status, answer, _ = service.ask(method, path, raw=raw)
            assert status == 400 and "JSON" in answer["error"], (path, raw)


def test_an_empty_value_and_one_without_room(service):
    status, answer, _ = service.ask("PUT", "/api/put", {"key": "k", "value": ""})
    assert status == 500 and answer == {"error": "PUT operation failed", "code": -600}
    status, answer, _ = service.ask("PUT", "/api/put", {"key": "k", "value": "x" * (40 * MIB)})
    assert status == 500 and answer == {"error": "PUT operation failed", "code": -200}


def test_the_limit_of_a_body(service):
    status, answer, _ = service.ask("PUT", "/api/put", raw=b"x" * (BODY_MAX + 1))
    assert status == 413 and "error" in answer
    fits = json.dumps({"key": "k", "value": ""}).encode()
    raw = fits[:-2] + b"x" * (BODY_MAX - len(fits)) + fits[-2:]
    assert len(raw) == BODY_MAX and service.ask("PUT", "/api/put", raw=raw)[:2] == (500, {"error": "PUT operation failed", "code": -200}), "read, and no room"
    # A length that nobody sends.
    connection = http_connection(service)
    connection.putrequest("PUT", "/api/put")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    connection.close()
    assert service.ask("GET", "/api/exist/k")[0] == 200


def http_connection(service):
    return HTTPConnection("127.0.0.1", service.port, timeout=30)


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(service):
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(b"PUT /api/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(b"PUT /api/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert service.ask("GET", "/api/exist/k")[0] == 200 and "Traceback" not in service.log()


def test_other_routes_and_methods(service):
    assert service.ask("GET", "/api/nothing")[0] == 404 and service.ask("GET", "/")[0] == 404
    assert service.ask("POST", "/api/put", {})[0] == 405 and service.ask("GET", "/api/remove_all")[0] == 405


def test_mount_and_unmount(service):
    master = service.master
    before = master.metrics()["master_total_capacity_bytes"]
    status, answer, _ = service.ask("POST", "/api/mount", {"size": 20 * MIB})
    assert status == 200 and answer["status"] == "success" and answer["allocated_size"] == 32 * MIB and len(answer["segment_ids"]) == 1
    assert master.metrics()["master_total_capacity_bytes"] == before + 32 * MIB
    ids = answer["segment_ids"]
    assert service.ask("POST", "/api/unmount", {"segment_ids": ids})[:2] == (200, {"status": "success"})
    wait_until(lambda: master.metrics()["master_total_capacity_bytes"] == before, "the segment is gone")
    status, answer, _ = service.ask("POST", "/api/unmount", {"segment_ids": ids[0]})
    assert status == 500 and answer == {"error": "Unmount and free failed, ret=-101"}


@pytest.mark.parametrize("body", [{}, {"size": 0}, {"size": -1}, {"size": "1MB"}, {"size": True}, {"size": 1.5}])
def test_bad_mounts(service, body):
    assert service.ask("POST", "/api/mount", body)[:2] == (400, {"error": "Invalid size, must be a positive integer"})


@pytest.mark.parametrize("method, path, body", [
    ("PUT", "/api/put", {"key": "\ud800", "value": "v"}),
    ("PUT", "/api/put", {"key": "k", "value": "\ud800"}),
    ("POST", "/api/mount", {"size": 2**64}),
    ("POST", "/api/mount", {"size": 1 << 20, "protocol": 5}),
    ("POST", "/api/mount", {"size": 1 << 20, "location": None}),
    ("POST", "/api/mount_shm", {"name": "n", "size": 4096, "offset": 2**64}),
    ("POST", "/api/unmount", {"segment_ids": ["\ud800"]}),
    ("POST", "/api/unmount", {"segment_ids": ["1-2"], "grace_period_seconds": 2**64}),
    ("POST", "/api/reconfigure", {"mode": "decode", "path": "/dev/shm/a\0b", "size": 4096}),
])
def test_what_the_store_takes_in_no_way_is_the_requests_fault(service, method, path, body):
    status, answer, _ = service.ask(method, path, body)
    assert status == 400 and set(answer) == {"error"}, answer


def test_a_charset_that_is_none(service):
    connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("PUT", "/api/put", b"{}", {"Content-Type": "application/json; charset=none-such"})
    answer = connection.getresponse()
    assert answer.status == 400 and "JSON" in json.loads(answer.read())["error"]
    connection.close()


@pytest.mark.parametrize("path", ["/api/unmount", "/api/unmount_shm"])
@pytest.mark.parametrize("body", [{}, {"segment_ids": []}, {"segment_ids": ""}, {"segment_ids": [1]}, {"segment_ids": {"a": 1}}])
def test_bad_unmounts(service, path, body):
    assert service.ask("POST", path, body)[:2] == (400, {"error": "Missing segment_ids"})


@pytest.mark.parametrize("grace", [-1, "5", 1.5, True])
def test_bad_grace_periods(service, grace):
    for path, body in (("/api/unmount", {"segment_ids": ["1-2"]}), ("/api/unmount_shm", {"segment_ids": ["1-2"]}), ("/api/unmount_local_disk", {})):
        status, answer, _ = service.ask("POST", path, {**body, "grace_period_seconds": grace})
        assert status == 400 and "grace_period_seconds" in answer["error"], path


def test_unmount_local_disk(service):
    for grace in (0, 5, 3600):
        assert service.ask("POST", "/api/unmount_local_disk", {"grace_period_seconds": grace})[:2] == (200, {"status": "success"})
    assert service.ask("POST", "/api/unmount_local_disk", {})[:2] == (200, {"status": "success"})
    assert service.ask("POST", "/api/unmount_local_disk", {"grace_period_seconds": 3601})[0] == 400


@pytest.mark.parametrize("body", [{}, {"name": "seg"}, {"size": 4096}, {"name": "../x", "size": 4096}, {"name": "a/b", "size": 4096}, {"name": "", "size": 1},
                                  {"name": "..", "size": 1}, {"name": 5, "size": 1}])
def test_bad_names_of_shared_memory(service, body):
    assert service.ask("POST", "/api/mount_shm", body)[:2] == (400, {"error": "Missing or invalid name or size"})


def test_memory_of_other_programs_is_what_the_store_says(service):
    """The routes reach the store's mount_segment; its refusal is a 500 that names the code."""
    status, answer, _ = service.ask("POST", "/api/mount_shm", {"name": "nothing-of-that-name", "size": 4096})
    assert status == 500 and re.fullmatch(r"Mount failed, ret=-\d+", answer["error"])
    status, answer, _ = service.ask("POST", "/api/reconfigure", {"mode": "decode", "path": "/dev/shm/nothing-of-that-name", "size": 4096})
    assert status == 500 and answer["mode"] == "prefill" and "rolled back to prefill" in answer["error"]
    assert service.ask("POST", "/api/unmount_shm", {"segment_ids": ["1-2"]})[:2] == (
        500, {"error": "Unmount failed for one or more segments", "failed_segment_ids": ["1-2"]})


def test_reconfigure(service):
    assert service.ask("POST", "/api/reconfigure", {"mode": "Prefill"})[:2] == (200, {"status": "success", "mode": "prefill"})
    for body in ({}, {"mode": "other"}, {"mode": 5}):
        assert service.ask("POST", "/api/reconfigure", body)[:2] == (400, {"error": "Invalid mode. Use 'decode' or 'prefill'"})
    for body in ({"mode": "decode"}, {"mode": "decode", "path": "x"}, {"mode": "decode", "size": 1}):
        assert service.ask("POST", "/api/reconfigure", body)[:2] == (400, {"error": "Missing path or size for decode mode"})


def test_a_master_that_dies_is_an_error_and_no_end(start_master, scratch):
    master = start_master()
    service = Service(scratch, config_of(master))
    assert service.ask("PUT", "/api/put", {"key": "k", "value": "v"})[0] == 200
    master.kill()
    # Until the connection is known to be lost a call may wait for the answer.
    wait_until(lambda: service.ask("PUT", "/api/put", {"key": "k2", "value": "v"})[0] == 500, "puts fail", 60)
    assert service.alive()
    service.stop()


@pytest.mark.parametrize("values, exists, status, asked", [
    ([b"v"], [], 200, "get"),
    ([b""], [0], 404, "get exist"),
    ([b"", b"v"], [1], 200, "get exist get"),
    ([b"", b""], [1, 0], 404, "get exist get exist"),
    ([b"", b""], [1, 1], 500, "get exist get exist"),
    ([b""], [-900], 500, "get exist"),
])
def test_a_get_asks_what_it_needs(values, exists, status, asked):
    """A value costs one call of the store; an empty answer is a miss, a failure, or a put that came in between."""
    sys.path.insert(0, str(find_build_dir() / "python"))
    from mooncake.mooncake_store_service import MooncakeStoreService

    calls = []

    class Store:
        def get(self, key):
            calls.append("get")
            return values[calls.count("get") - 1]

        def is_exist(self, key):
            calls.append("exist")
            return exists[calls.count("exist") - 1]

    service = MooncakeStoreService.__new__(MooncakeStoreService)
    service.store = Store()
    answer = asyncio.run(service.handle_get(types.SimpleNamespace(match_info={"key": "k"})))
    assert (answer.status, " ".join(calls)) == (status, asked)


# ---- starting and stopping ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_time(number, master, scratch):
    service = Service(scratch, config_of(master))
    idle = http_connection(service)
    idle.request("GET", "/api/exist/k")
    assert idle.getresponse().read() == b'{"exists": false}'
    with Stopwatch() as watch:
        assert service.stop(number) == 0
    assert watch.seconds < 5 * TIME_FACTOR
    wait_until(lambda: master.segments() == [], "its segment is gone at once", 5)
    idle.close()


def test_set_up_is_tried_until_the_master_is_there(start_master, scratch):
    from tests.support.processes import free_ports

    ports = free_ports(3)
    service = Service(scratch, {**config_of(types.SimpleNamespace(address=f"127.0.0.1:{ports[0]}"))}, wait=False)
    service.wait_log("trying on")
    master = start_master(ports=ports)
    service.wait_log("Mooncake Store Service is running", 60)
    assert master.segments() and service.stop() == 0


def test_a_signal_ends_the_trying(scratch):
    service = Service(scratch, config_of(types.SimpleNamespace(address="127.0.0.1:1")), wait=False)
    service.wait_log("trying on")
    with Stopwatch() as watch:
        assert service.stop() == 0
    assert watch.seconds < 5 * TIME_FACTOR


def test_a_signal_ends_a_setup_that_waits(scratch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        service = Service(scratch, config_of(types.SimpleNamespace(address=f"127.0.0.1:{silent.getsockname()[1]}")), wait=False)
        peer, _ = silent.accept()
        with Stopwatch() as watch:
            assert service.stop() == 0
        assert watch.seconds < 5 * TIME_FACTOR
        peer.close()


def test_giving_up_exits_1(scratch):
    service = Service(scratch, config_of(types.SimpleNamespace(address="127.0.0.1:1")), "--max-wait-time=0.5", wait=False)
    assert service.process.wait(60) == 1 and "not set up after" in service.log()


def test_a_port_in_use_exits_1(master, scratch):
    service = Service(scratch, config_of(master), f"--port={master.metrics_port}", wait=False)
    assert service.process.wait(60) == 1
    assert f"port {master.metrics_port} of 127.0.0.1 is not served" in service.log()


def test_definitions_override_the_file(master, scratch):
    service = Service(scratch, config_of(master), "-D", "global_segment_size=48MB", "-Dlocal_hostname=127.0.0.1:4711", "-D", "nonsense", "-Dno_such=1")
    assert master.segments() == ["127.0.0.1:4711"] and master.metrics()["master_total_capacity_bytes"] == 48 * MIB
    assert "-D nonsense: not KEY=VALUE" in service.log() and "-D no_such: no such setting" in service.log()
    assert service.stop() == 0


def test_configuration_errors_exit_1(scratch):
    done = run_module(MODULE, scratch)
    assert done.returncode == 1 and b"'MOONCAKE_MASTER' is set" in done.stderr
    done = run_module(MODULE, scratch, "--config=/no/such/file")
    assert done.returncode == 1 and b"/no/such/file" in done.stderr
    path = scratch.path / "bad.json"
    path.write_text('{"local_hostname": "h"}')
    done = run_module(MODULE, scratch, f"--config={path}")
    assert done.returncode == 1 and b"Missing required config field: metadata_server" in done.stderr
    assert run_module(MODULE, scratch, "--port=x").returncode == 2


def test_the_environment_configures_it_too(master, scratch):
    daemon = Daemon(scratch, "service", [sys.executable, "-m", MODULE, "--port=0", "--host=127.0.0.1"],
                    env={"MOONCAKE_MASTER": master.address, "MOONCAKE_LOCAL_HOSTNAME": "127.0.0.1:4712", "MOONCAKE_GLOBAL_SEGMENT_SIZE": "16MB",
                         "MOONCAKE_LOCAL_BUFFER_SIZE": "16MB"})
    daemon.wait_log("Mooncake Store Service is running")
    assert master.segments() == ["127.0.0.1:4712"] and daemon.stop() == 0


# ---- the class, as programs use it that bring a store of their own ----

class _Store:
    """Answers that the real store gives only where files can be mounted."""

    def __init__(self):
        self.calls, self.fail_mount, self.fail_unmount, self.count = [], False, set(), 0

    def mount_segment(self, path, size, offset, protocol, location):
        self.calls.append(("mount", path, size, offset, protocol, location))
        if self.fail_mount:
            return {"ret": -1, "segment_ids": []}
        self.count += 1
        return {"ret": 0, "segment_ids": [f"0-{self.count}"]}

    def unmount_segment(self, ids, grace=0):
        self.calls.append(("unmount", tuple(ids), grace))
        return -1 if self.fail_unmount & set(ids) else 0


class _Request:
    def __init__(self, body):
        self._body = body

    async def json(self):
        return self._body


@pytest.fixture
def bare():
    sys.path.insert(0, str(find_build_dir() / "python"))
    from mooncake.mooncake_store_service import MooncakeStoreService

    service = MooncakeStoreService.__new__(MooncakeStoreService)
    service.store, service.config = _Store(), types.SimpleNamespace(protocol="tcp")
    service.current_mode, service.mounted_segment_ids, service.last_mount_info = "prefill", [], {}

    def call(name, body):
        async def run():
            service._state_lock = asyncio.Lock()
            return await getattr(service, name)(_Request(body))

        answer = asyncio.run(run())
        return answer.status, json.loads(answer.text)

    return service, call


def test_reconfigure_mounts_before_it_unmounts(bare):
    service, call = bare
    assert call("handle_reconfigure", {"mode": "decode", "path": "/dev/shm/a", "size": 4096, "offset": 8192}) == (
        200, {"status": "success", "mode": "decode", "segment_ids": ["0-1"]})
    assert service.last_mount_info == {"path": "/dev/shm/a", "size": 4096, "offset": 8192, "protocol": "tcp", "location": ""}
    assert call("handle_reconfigure", {"mode": "DECODE", "path": "/dev/shm/b", "size": 1, "location": "cpu:1"})[1]["segment_ids"] == ["0-2"]
    assert [c[0] for c in service.store.calls] == ["mount", "mount", "unmount"]
    service.store.fail_mount = True
    status, body = call("handle_reconfigure", {"mode": "decode", "path": "/dev/shm/c", "size": 1})
    assert status == 500 and body == {"error": "Mount failed, ret=-1; keeping previous decode segments", "mode": "decode"}
    assert service.mounted_segment_ids == ["0-2"]
    service.store.fail_mount, service.store.fail_unmount = False, {"0-2"}
    assert call("handle_reconfigure", {"mode": "decode", "path": "/dev/shm/d", "size": 1})[1]["segment_ids"] == ["0-3", "0-2"], "tried again next time"
    assert call("handle_reconfigure", {"mode": "prefill"}) == (500, {"error": "Unmount failed, ret=-1"})
    service.store.fail_unmount = set()
    assert call("handle_reconfigure", {"mode": "prefill"}) == (200, {"status": "success", "mode": "prefill"})
    assert service.mounted_segment_ids == [] and service.last_mount_info == {}


def test_shared_memory_goes_by_its_name(bare):
    service, call = bare
    assert call("handle_mount_shm", {"name": "/seg", "size": 4096, "offset": 128, "protocol": "tcp", "location": "cpu:0"}) == (
        200, {"status": "success", "segment_ids": ["0-1"]})
    assert service.store.calls == [("mount", "/dev/shm/seg", 4096, 128, "tcp", "cpu:0")]
    service.current_mode, service.mounted_segment_ids = "decode", ["0-1", "0-2"]
    service.store.fail_unmount = {"0-2"}
    assert call("handle_unmount_shm", {"segment_ids": ["0-1", "0-2"], "grace_period_seconds": 7}) == (
        500, {"error": "Unmount failed for one or more segments", "failed_segment_ids": ["0-2"]})
    assert service.store.calls[1:] == [("unmount", ("0-1",), 7), ("unmount", ("0-2",), 7)]
    assert service.mounted_segment_ids == ["0-2"] and service.current_mode == "decode"


def test_a_store_that_raises_is_a_500(bare):
    service, call = bare

    def crash(*_):
        raise RuntimeError("store crashed")

    service.store.put = crash
    assert call("handle_put", {"key": "k", "value": "v"}) == (500, {"error": "store crashed"})


def test_a_slow_call_holds_up_nobody(bare):
    service, _ = bare
    service.store.put = lambda key, value: time.sleep(0.5 if key == "slow" else 0) or 0
    order = []

    async def run():
        async def one(key):
            await service.handle_put(_Request({"key": key, "value": "v"}))
            order.append(key)

        await asyncio.gather(one("slow"), one("quick"))

    asyncio.run(run())
    assert order == ["quick", "slow"]
