"""mooncake_http_metadata_server: its protocol row by row, limits, signals; stores that use it."""

import asyncio
import logging
import re
import signal
import socket
import sys
import urllib.parse

import pytest

pytest.importorskip("aiohttp")

from tests.support.daemons import Daemon, run_module
from tests.support.processes import MIB, find_build_dir, http
from tests.support.waiting import TIME_FACTOR, Stopwatch

MODULE = "mooncake.http_metadata_server"


@pytest.fixture
def server(scratch):
    daemon = Daemon(scratch, "metadata", [sys.executable, "-m", MODULE, "--port=0", "--host=127.0.0.1"])
    daemon.url = "http://127.0.0.1:" + re.search(r"HTTP Metadata Server started on 127\.0\.0\.1:(\d+)", daemon.wait_log("started on"))[1] + "/metadata"
    yield daemon
    assert daemon.stop() == 0, daemon.log()


def ask(server, key, method="GET", body=None):
    status, text, headers = http(f"{server.url}?key={urllib.parse.quote(key, safe='')}", method, body)
    return status, text, headers["Content-Type"].split(";")[0]


def test_the_protocol(server):
    for query in ("", "?key=", "?key=%20%20"):
        for method in ("GET", "PUT", "DELETE"):
            status, text, headers = http(server.url + query, method, b"x" if method == "PUT" else None)
            assert (status, text, headers["Content-Type"].split(";")[0]) == (400, "metadata key is required", "text/plain")
    key = "mooncake/ram/host:1"
    assert ask(server, key) == (404, "metadata not found", "application/json")
    assert ask(server, key, "PUT", b'{"a": 1}') == (200, "metadata updated", "application/json")
    assert ask(server, key) == (200, '{"a": 1}', "application/json")
    assert ask(server, key, "PUT", b"[2]") == (200, "metadata updated", "application/json")
    assert ask(server, f"  {key} ") == (200, "[2]", "application/json"), "keys are stripped"
    assert ask(server, key, "DELETE") == (200, "metadata deleted", "application/json")
    assert ask(server, key, "DELETE") == (404, "metadata not found", "application/json")
    assert ask(server, key, "POST", b"x") == (405, "Method not allowed", "application/json")
    assert http(server.url.replace("/metadata", "/health"))[:2] == (200, "OK")
    assert http(server.url.replace("/metadata", "/other"))[0] == 404


def test_a_name_is_claimed_once(server):
    key = "mooncake/rpc_meta/host:1"
    assert ask(server, key, "PUT", b"{}")[:2] == (200, "metadata updated")
    assert ask(server, key, "PUT", b"{ }")[:2] == (400, "Duplicate rpc_meta key not allowed")
    assert ask(server, key, "PUT", b"{}")[:2] == (400, "Duplicate rpc_meta key not allowed"), "also the same body"
    assert ask(server, key)[1] == "{}"
    assert ask(server, key, "DELETE")[0] == 200 and ask(server, key, "PUT", b"{ }")[0] == 200


def test_limits(server):
    assert ask(server, "k" * 4096, "PUT", b"x")[0] == 200
    assert ask(server, "k" * 4097, "PUT", b"x")[:2] == (400, "metadata key is too long")
    assert ask(server, "big", "PUT", b"x" * MIB)[0] == 200
    assert ask(server, "big", "PUT", b"x" * (MIB + 1))[0] == 413
    assert len(ask(server, "big")[1]) == MIB, "what was there stays"
    port = int(urllib.parse.urlsplit(server.url).port)
    for length, answer in (1 << 40, b"HTTP/1.1 413 "), (1000, b""):  # refused before it comes; given up by the client
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"PUT /metadata?key=k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % length)
            if answer:
                assert connection.recv(100).startswith(answer)
    assert ask(server, "big")[0] == 200 and "Traceback" not in server.log()


def test_stores_use_it(server, master, start_peer):
    one, two = start_peer("one").setup(master, metadata=server.url), start_peer("two").setup(master, metadata=server.url)
    name = one.hostname()
    assert ask(server, f"mooncake/ram/{name}")[0] == 200 and ask(server, f"mooncake/rpc_meta/{name}")[0] == 200
    assert one.call("put", "k", b"v") == 0 and two.call("get", "k") == b"v"
    assert one.call("close") == 0
    assert ask(server, f"mooncake/ram/{name}")[0] == 404 and ask(server, f"mooncake/rpc_meta/{name}")[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_time(number, scratch):
    daemon = Daemon(scratch, "metadata", [sys.executable, "-m", MODULE, "--port=0", "--host=127.0.0.1"])
    port = int(re.search(r"started on 127\.0\.0\.1:(\d+)", daemon.wait_log("started on"))[1])
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /metadata?key=")
        with Stopwatch() as watch:
            assert daemon.stop(number) == 0
        assert watch.seconds < 5 * TIME_FACTOR


def test_a_port_in_use_and_bad_flags(scratch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_module(MODULE, scratch, f"--port={port}", "--host=127.0.0.1")
        assert done.returncode == 1 and f"port {port} of 127.0.0.1 is not served".encode() in done.stderr
    assert run_module(MODULE, scratch, "--log-level=CHATTY").returncode == 2
    done = run_module(MODULE, scratch, "--help")
    assert done.returncode == 0 and b"8080" in done.stdout and b"0.0.0.0" in done.stdout and b"INFO" in done.stdout


# ---- the class ----

@pytest.fixture
def module():
    sys.path.insert(0, str(find_build_dir() / "python"))
    import mooncake.http_metadata_server as module

    return module


def test_it_serves_from_a_thread_and_ends(module, caplog):
    server = module.KVBootstrapServer(port=0, host="127.0.0.1")
    assert server.poll() is module.KVPoll.Failed
    with caplog.at_level(logging.INFO):
        thread = server.run()
    assert thread.is_alive() and server.poll() is module.KVPoll.Success and "HTTP Metadata Server started" in caplog.text
    assert http(f"http://127.0.0.1:{server.port}/metadata?key=k", "PUT", b"v")[0] == 200 and server.store == {"k": b"v"}
    server.close()
    server.close()
    assert not thread.is_alive() and server.poll() is module.KVPoll.Failed


def test_a_port_in_use_is_raised_and_not_logged_as_started(module, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = module.KVBootstrapServer(port=taken.getsockname()[1], host="127.0.0.1")
        with caplog.at_level(logging.INFO), pytest.raises(OSError):
            server.run()
        assert "started" not in caplog.text and caplog.text.count("is not served") == 1
        server.thread.join(10)
        assert server.poll() is module.KVPoll.Failed


def hold(server, count, sent=b""):
    """Connections that go on no further."""
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", server.port), 10)
        connection.sendall(sent)
        sockets.append(connection)
    return sockets


def is_closed(connection):
    connection.settimeout(40)  # twice what the patient are given
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /metadata?key=k HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["silent", "half a header"])
def test_a_crowd_that_asks_nothing_is_sent_away_and_the_others_are_served(module, sent):
    server = module.KVBootstrapServer(port=0, host="127.0.0.1")
    server._guard._most = 64
    server.run()
    crowd = hold(server, 70, sent)
    try:
        assert http(f"http://127.0.0.1:{server.port}/metadata?key=k", "PUT", b"v")[0] == 200
        assert all(is_closed(connection) for connection in crowd)
        assert http(f"http://127.0.0.1:{server.port}/metadata?key=k")[:2] == (200, "v")
    finally:
        for connection in crowd:
            connection.close()
        server.close()


def test_a_body_that_does_not_come_is_given_up(module, monkeypatch):
    server = module.KVBootstrapServer(port=0, host="127.0.0.1")
    monkeypatch.setattr(server._guard, "_body", 0.2)
    server.run()
    slow, = hold(server, 1, b"PUT /metadata?key=k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    try:
        assert is_closed(slow) and http(f"http://127.0.0.1:{server.port}/metadata?key=k")[0] == 404
    finally:
        slow.close()
        server.close()


def test_a_full_store(module, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)
    monkeypatch.setattr(module, "BYTES_MAX", 100)
    server = module.KVBootstrapServer(port=0)

    class Request:
        def __init__(self, method, key, body=b""):
            self.method, self.query, self._body = method, {"key": key}, body

        async def read(self):
            return self._body

    def handle(*arguments):
        return asyncio.run(server._handle_metadata(Request(*arguments))).status

    assert handle("PUT", "a", b"x" * 50) == 200 and handle("PUT", "b", b"x" * 60) == 507
    assert handle("PUT", "b", b"x" * 40) == 200 and handle("PUT", "c", b"") == 507
    assert handle("PUT", "a", b"") == 200 and handle("PUT", "b", b"x" * 90) == 200
    assert handle("DELETE", "a") == 200 and handle("PUT", "c", b"") == 200
