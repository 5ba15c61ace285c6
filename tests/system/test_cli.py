"""`mooncake`: each command against a real cluster, its output as tables and JSON, and its exit codes; drain against the documented JSON."""

import contextlib
import http.server
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.support.certificates import make_pair
from tests.support.daemons import ClientDaemon, environment, run_module
from tests.support.processes import MIB, find_build_dir, free_ports
from tests.support.waiting import wait_until

FAILED, USAGE, UNREACHABLE, NOT_FOUND, NOT_SUPPORTED = 1, 2, 3, 4, 5


class Cluster:
    """A master, memory that is lent, and the command line that is told where they are."""

    def __init__(self, scratch, master):
        self.scratch, self.master = scratch, master
        self.env = {"MOONCAKE_MASTER": master.address, "MOONCAKE_ADMIN": f"127.0.0.1:{master.metrics_port}", "MOONCAKE_LOCAL_HOSTNAME": "127.0.0.1"}

    def run(self, *arguments, code=0, stdin=None, env=None):
        done = run_module("mooncake", self.scratch, *arguments, env=self.env | (env or {}), stdin=stdin, timeout=120)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        return done

    def text(self, *arguments, **kwargs):
        return self.run(*arguments, **kwargs).stdout.decode()

    def error(self, *arguments, **kwargs):
        return self.run(*arguments, **kwargs).stderr.decode()

    def json(self, *arguments, **kwargs):
        return json.loads(self.text(*arguments, "--json", **kwargs))


@pytest.fixture
def cluster(scratch, master):
    cluster = Cluster(scratch, master)
    cluster.client = ClientDaemon(scratch, master.address)
    yield cluster
    assert cluster.client.stop() == 0


@pytest.fixture
def empty(scratch, master):
    return Cluster(scratch, master)


# ---- usage ----

def test_help_names_every_command_and_every_option(empty):
    text = empty.text("--help")
    for command in ("status", "keys", "get", "put", "rm", "segments", "drain", "top", "bench", "doctor", "completion"):
        assert re.search(rf"^    {command} +\S", text, re.M), command
        assert command in empty.text(command, "--help")
    assert "exit codes" in text
    assert re.fullmatch(r"mooncake \d+\.\d+\.\d+\n", empty.text("--version"))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["status", "extra"], ["get"], ["put"], ["put", "k", "f", "--text=x"], ["rm"], ["rm", "k", "--all"],
                                       ["rm", "--all"], ["drain"], ["drain", "s", "--watch=1-2"], ["drain", "s", "--max-concurrency=0"], ["top", "--interval=0"],
                                       ["bench", "--sizes=x"], ["bench", "--sizes=0"], ["bench", "--threads=0"], ["bench", "--segment=50%"],
                                       ["completion", "fish"], ["status", "--timeout=never"], ["keys", "--limit=-1"]], ids=" ".join)
def test_wrong_usage_is_2(empty, arguments):
    done = empty.run(*arguments, code=USAGE)
    assert done.stderr or b"usage" in done.stdout


@pytest.mark.parametrize("arguments", [["status"], ["keys"], ["segments"], ["top", "-n1"], ["drain", "s"], ["rm", "--all", "--yes"]], ids=" ".join)
def test_no_admin_server_is_3_and_says_what_to_do(empty, arguments):
    port, = free_ports(1)
    error = empty.error(*arguments, "--admin", f"127.0.0.1:{port}", code=UNREACHABLE)
    assert f"no master at http://127.0.0.1:{port}: Connection refused" in error and "--metrics_port" in error and "--admin" in error


@pytest.mark.parametrize("arguments", [["get", "k"], ["put", "k", "-t", "v"], ["rm", "k"], ["bench"]], ids=" ".join)
def test_no_master_is_3_and_says_what_to_do(empty, arguments):
    port, = free_ports(1)
    error = empty.error(*arguments, "--master", f"127.0.0.1:{port}", code=UNREACHABLE)
    assert f"no master at 127.0.0.1:{port}: Connection refused" in error and "--rpc_port" in error and "MOONCAKE_MASTER" in error


def test_a_silent_and_a_strange_server_are_3(empty, scratch):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "no answer within 0.3 s" in empty.error("status", "--admin", address, "--timeout=0.3", code=UNREACHABLE)
        stranger = threading.Thread(target=lambda: silent.accept()[0].sendall(b"SSH-2.0-x\r\n" * 10))
        stranger.start()
        # The connection of the first command waits in the backlog before this one.
        empty.error("status", "--admin", address, "--timeout=2", code=UNREACHABLE)
        stranger.join(10)
    assert "not HOST:PORT" in empty.error("status", "--admin", "host:port", code=FAILED)


def test_where_the_master_is(cluster):
    """The option wins over MOONCAKE_ADMIN, that over the master's host and MOONCAKE_MASTER_METRICS_PORT."""
    port = cluster.master.metrics_port
    assert cluster.json("status")["admin"] == f"http://127.0.0.1:{port}"
    assert cluster.json("status", "--admin", f"localhost:{port}")["admin"] == f"http://localhost:{port}"
    assert cluster.json("status", env={"MOONCAKE_ADMIN": "", "MOONCAKE_MASTER_METRICS_PORT": str(port)})["admin"] == f"http://127.0.0.1:{port}"
    done = run_module("mooncake", cluster.scratch, "--json", "status", "--master", f"localhost:{cluster.master.rpc_port}",
                      env={"MOONCAKE_MASTER_METRICS_PORT": str(port)})
    assert done.returncode == 0 and json.loads(done.stdout)["admin"] == f"http://localhost:{port}"


# ---- status, segments, keys ----

def test_status(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    assert peer.call("put", "k", b"x" * MIB) == 0 and peer.call("get", "k") == b"x" * MIB and peer.call("get", "nothing") == b""
    state = cluster.json("status")
    assert state["serving"] and state["role"] == "leader" and state["capacity_bytes"] == 64 * MIB and state["keys"] == 1
    assert MIB <= state["allocated_bytes"] < 2 * MIB and state["segments"] == 1 and state["clients"] == 2 and state["exhausted"] == []
    assert state["lookups"] >= state["hits"] >= 1
    text = cluster.text("status")
    assert re.search(r"^memory +1\.0\d MiB of 64\.00 MiB used \(1\.\d %\)$", text, re.M) and re.search(r"^keys +1$", text, re.M)


def test_status_of_an_empty_cluster(empty):
    assert empty.json("status")["exhausted"] == ["segments"]
    assert re.search(r"^short of +segments$", empty.text("status"), re.M)


def test_segments(cluster):
    name = cluster.client.segment
    assert cluster.text("segments", "--names") == name + "\n"
    segment, = cluster.json("segments")
    assert segment["segment_name"] == name and segment["size_bytes"] == 64 * MIB
    lines = cluster.text("segments").splitlines()
    assert len(lines) == 2 and lines[1].split()[:3] == [name, "64.00", "MiB"] and lines[1].endswith("OK")


def test_no_segments(empty):
    done = empty.run("segments")
    assert b"no segment is mounted" in done.stderr and empty.json("segments") == []


def test_keys(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    names = ["a/1", "a/2", "b", "ä?&#%", "with,comma"]
    for i, name in enumerate(names):
        assert peer.call("put", name, b"x" * (i + 1)) == 0
    assert sorted(cluster.text("keys").splitlines()) == sorted(names) == sorted(cluster.json("keys"))
    assert sorted(cluster.json("keys", "a/")) == ["a/1", "a/2"]
    assert sorted(cluster.json("keys", "--regex", "[12]$|^b")) == ["a/1", "a/2", "b"]
    assert cluster.text("keys", "--count") == "5\n" and cluster.json("keys", "-c", "a/") == {"count": 2}
    assert len(cluster.json("keys", "-n", "2")) == 2 and cluster.json("keys", "-n0") == [] and cluster.json("keys", "nothing") == []
    assert "not a regular expression" in cluster.error("keys", "-e", "(", code=FAILED)
    rows = {row["key"]: row for row in cluster.json("keys", "--long")}
    assert rows["a/2"]["bytes"] == 2 and rows["ä?&#%"]["bytes"] == 4 and len(rows["b"]["replicas"]) == 1
    assert re.search(r"^a/1 +1 +\S+$", cluster.text("keys", "-l"), re.M)
    assert peer.call("remove", "a/1") == 0, "nothing of this has granted a lease"


def test_many_keys_are_asked_in_pieces(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    names = [f"{i:04}" + "%" * 300 for i in range(500)]
    assert peer.call("put_batch", names, [b"xy"] * 500) == 0
    rows = cluster.json("keys", "--long")
    assert len(rows) == 500 and all(row["bytes"] == 2 for row in rows)


def test_names_from_elsewhere_do_not_reach_the_terminal(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    assert peer.call("put", "\x1b[2Jevil\x07", b"x") == 0
    assert "\x1b" not in cluster.text("keys", "--long") and "\\x1b[2Jevil" in cluster.text("keys", "--long")
    assert "\x1b" not in on_terminal(cluster, "keys")[1]
    assert cluster.text("keys") == "\x1b[2Jevil\x07\n", "another program gets what it is"


def on_terminal(cluster, *arguments, code=0, feed=b"", timeout=60):
    """Runs with stdin, stdout and stderr on a terminal; (exit code, what was written there)."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "mooncake", *arguments], stdin=follower, stdout=follower, stderr=follower,
                               env=environment(cluster.scratch, cluster.env), cwd=cluster.scratch.path)
    os.close(follower)
    if feed:
        os.write(leader, feed)
    out = b""
    with contextlib.suppress(OSError):  # the terminal ends with its last user
        while data := os.read(leader, 65536):
            out += data
    os.close(leader)
    assert process.wait(timeout) == code, out.decode(errors="replace")
    return process.returncode, out.decode(errors="replace")


# ---- put, get, rm ----

def test_put_and_get(cluster, scratch):
    cluster.run("put", "text", "-t", "grün")
    assert cluster.run("get", "text").stdout == "grün".encode()
    data = os.urandom(5 * MIB)
    (scratch.path / "in").write_bytes(data)
    assert cluster.json("put", "file", "in") == {"key": "file", "bytes": 5 * MIB, "stored": True}
    assert cluster.json("get", "file", "-o", "out") == {"key": "file", "bytes": 5 * MIB, "file": "out"}
    assert (scratch.path / "out").read_bytes() == data and cluster.run("get", "file").stdout == data
    cluster.run("put", "stdin", stdin=b"from stdin")
    cluster.run("put", "dash", "-", stdin=b"from dash")
    assert cluster.run("get", "stdin").stdout == b"from stdin" and cluster.run("get", "dash").stdout == b"from dash"
    assert not [name for name in os.listdir(scratch.path) if ".part-" in name]


def test_a_value_that_is_there_stays_unless_it_is_replaced(cluster):
    cluster.run("put", "k", "-t", "one")
    assert "was there already" in cluster.error("put", "k", "-t", "two")
    assert cluster.json("put", "k", "-t", "two")["stored"] is False
    assert cluster.text("get", "k") == "one"
    assert cluster.error("put", "k", "-t", "three", "--upsert") == "" and cluster.text("get", "k") == "three"


def test_puts_that_fail(cluster, scratch):
    assert "one byte at least" in cluster.error("put", "k", "-t", "", code=FAILED)
    assert "one byte at least" in cluster.error("put", "k", stdin=b"", code=FAILED)
    assert "No such file" in cluster.error("put", "k", "/no/such/file", code=FAILED)
    (scratch.path / "big").write_bytes(b"x" * (80 * MIB))
    assert "NO_AVAILABLE_HANDLE (-200): no segment has room" in cluster.error("put", "k", "big", code=FAILED)
    assert "INVALID_PARAMS (-600)" in cluster.error("put", "k" * 9000, "-t", "x", code=FAILED)
    assert cluster.text("keys") == ""


def test_options_of_put(cluster, start_peer):
    other = ClientDaemon(cluster.scratch, cluster.master.address)
    try:
        cluster.run("put", "k", "-t", "v", "--replicas=2")
        cluster.run("put", "there", "-t", "v", "--segment", other.segment, "--hard-pin")
        cluster.run("put", "soft", "-t", "v", "--soft-pin")
        peer = start_peer().setup(cluster.master, segment=0)

        def look(store):
            return {key: [r.segment_name for r in store.get_replica_desc(key)] for key in ("k", "there", "soft")}

        places = peer.run(look)
        assert sorted(places["k"]) == sorted([cluster.client.segment, other.segment]) and places["there"] == [other.segment]
        assert cluster.json("status")["soft_pinned_keys"] == 1
    finally:
        assert other.stop() == 0


def test_gets_that_fail(cluster, scratch):
    assert cluster.error("get", "nothing", code=NOT_FOUND) == "mooncake: nothing: no such key\n"
    cluster.run("put", "k", "-t", "v")
    assert "No such file or directory" in cluster.error("get", "k", "-o", "/no/such/folder/x", code=FAILED)
    (scratch.path / "out").write_text("as it was")
    cluster.error("get", "nothing", "-o", "out", code=NOT_FOUND)
    assert (scratch.path / "out").read_text() == "as it was"


def test_binary_data_does_not_reach_the_terminal(cluster):
    cluster.run("put", "bytes", stdin=b"\x00\x1b\xff" * 1000)
    cluster.run("put", "text", "-t", "plain ä")
    assert "binary data" in on_terminal(cluster, "get", "bytes", code=FAILED)[1]
    assert "plain ä" in on_terminal(cluster, "get", "text")[1]


def test_rm(cluster):
    for key in ("a", "b", "c1", "c2", "d"):
        cluster.run("put", key, "-t", "v")
    assert cluster.error("rm", "a", "nothing", code=NOT_FOUND) == "mooncake: nothing: no such key\n"
    assert sorted(cluster.json("keys")) == ["b", "c1", "c2", "d"]
    assert cluster.json("rm", "b", "nothing", code=NOT_FOUND) == {"removed": 1, "failed": {"nothing": -704}}
    assert cluster.text("rm", "--regex", "^c").startswith("2 removed")
    cluster.run("get", "d")
    wait_until(lambda: run_module("mooncake", cluster.scratch, "rm", "d", env=cluster.env).returncode == 0, "the lease has run out")
    assert cluster.json("rm", "--all", "-y") == {"removed": 0}
    assert "INVALID_PARAMS" in cluster.error("rm", "-e", "(", code=FAILED)


def test_a_lease_keeps_a_key_and_force_does_not(start_master, scratch):
    cluster = Cluster(scratch, start_master("--default_kv_lease_ttl=60s"))
    cluster.client = ClientDaemon(scratch, cluster.master.address)
    try:
        cluster.run("put", "k", "-t", "v")
        cluster.run("get", "k")
        assert "OBJECT_HAS_LEASE (-706)" in cluster.error("rm", "k", code=FAILED)
        assert cluster.text("rm", "--all", "--yes").startswith("0 removed")
        assert cluster.text("rm", "--all", "--yes", "--force") == "1 removed\n"
    finally:
        assert cluster.client.stop() == 0


def test_rm_all_asks(cluster):
    cluster.run("put", "k", "-t", "v")
    assert "wants --yes" in cluster.error("rm", "--all", code=USAGE)
    assert "nothing was removed" in on_terminal(cluster, "rm", "--all", code=FAILED, feed=b"n\n")[1]
    assert cluster.json("keys") == ["k"]
    assert "1 removed" in on_terminal(cluster, "rm", "--all", feed=b"y\n")[1]
    assert cluster.json("keys") == []


# ---- top, bench ----

def test_top(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    process = subprocess.Popen([sys.executable, "-m", "mooncake", "top", "--json", "-i", "0.2", "-n", "3"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               env=environment(cluster.scratch, cluster.env), cwd=cluster.scratch.path, text=True)
    first = json.loads(process.stdout.readline())
    assert first["capacity_bytes"] == 64 * MIB and first["puts_per_s"] == 0 and first["hit_rate"] is None
    for i in range(20):
        assert peer.call("put", f"k{i}", b"v") == 0
    reports = [json.loads(line) for line in process.stdout]
    assert process.wait(30) == 0 and len(reports) == 2
    assert sum(report["puts_per_s"] for report in reports) > 0 and reports[-1]["keys"] == 20
    assert reports[-1]["segments"] == [{"segment": cluster.client.segment, "allocated_bytes": reports[-1]["allocated_bytes"], "capacity_bytes": 64 * MIB}]
    text = cluster.text("top", "-n1", "-i0.1")
    assert "puts/s" in text and cluster.client.segment in text and "\x1b" not in text
    assert "\x1b[2J" in on_terminal(cluster, "top", "-n1", "-i0.1")[1]


def test_ctrl_c_ends_top_with_130(cluster):
    process = subprocess.Popen([sys.executable, "-m", "mooncake", "top", "-i", "0.1"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=environment(cluster.scratch, cluster.env), cwd=cluster.scratch.path)
    assert b"mooncake top" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == b""


def test_a_master_that_dies_ends_top_with_3(start_master, scratch):
    cluster = Cluster(scratch, start_master())
    process = subprocess.Popen([sys.executable, "-m", "mooncake", "top", "-i", "0.1"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=environment(scratch, cluster.env), cwd=scratch.path)
    assert b"mooncake top" in process.stdout.readline()
    cluster.master.kill()
    assert b"no master at" in process.communicate(timeout=30)[1] and process.returncode == UNREACHABLE


def test_bench(cluster):
    rows = cluster.json("bench", "--sizes=4KB,1MB", "--seconds=0.1", "--threads=2")
    assert [(row["bytes"], row["operation"]) for row in rows] == [(4096, "put"), (4096, "get"), (MIB, "put"), (MIB, "get")]
    for row in rows:
        assert row["threads"] == 2 and row["operations"] >= 2 and row["operations_per_s"] > 0 and 0 < row["p50_s"] <= row["p99_s"]
    assert cluster.json("keys") == [], "it leaves nothing"
    text = cluster.text("bench", "--sizes=4KB", "--seconds=0.1")
    assert re.search(r"^4\.00 KiB +put +1 +[\d.]+ +[\d.]+ +\S+ \S+ +\S+ \S+$", text, re.M)
    assert "bench [" in on_terminal(cluster, "bench", "--sizes=4KB", "--seconds=0.2")[1], "a bar on a terminal"


def test_bench_without_memory(empty):
    assert "NO_AVAILABLE_HANDLE" in empty.error("bench", "--sizes=4KB", "--seconds=0.1", code=FAILED)
    assert len(empty.json("bench", "--sizes=4KB", "--seconds=0.1", "--segment=32MB")) == 2


# ---- drain: a master that has the documented endpoints ----

class DrainMaster:
    """Answers of the admin server as documented; `script` holds the answers of the queries, the last for ever."""

    def __init__(self):
        self.requests, self.script = [], []
        self.created = (200, {"success": True, "job_id": "1-2", "status": "CREATED", "error_code": 0, "error_message": ""})
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, json.loads(body) if body else None))
                status, value = outer.reply(self.command, self.path.partition("?")[0])
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def reply(self, method, path):
        if (method, path) == ("POST", "/api/v1/drain_jobs"):
            return self.created
        if (method, path) == ("GET", "/api/v1/drain_jobs/query"):
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if (method, path) == ("POST", "/api/v1/drain_jobs/cancel"):
            return 200, {"success": True, "job_id": "1-2", "status": "CANCELED", "error_code": 0, "error_message": ""}
        return 404, "no such page"

    @staticmethod
    def job(status, **more):
        return 200, {"success": True, "job_id": "1-2", "type": 0, "type_name": "DRAIN", "status": 2, "status_name": status, "created_at_ms_epoch": 1,
                     "last_updated_at_ms_epoch": 2, "segments": ["a:1"], "succeeded_units": 0, "failed_units": 0, "blocked_units": 0, "active_units": 0,
                     "migrated_bytes": 0, "message": "", "error_code": 0, "error_message": "", **more}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def drain(scratch):
    master = DrainMaster()

    def run(*arguments, code=0, **kwargs):
        done = run_module("mooncake", scratch, "drain", *arguments, env={"MOONCAKE_ADMIN": f"127.0.0.1:{master.server.server_address[1]}"}, **kwargs)
        assert done.returncode == code, done.stderr.decode()
        return done

    master.run, master.scratch = run, scratch
    master.env = {"MOONCAKE_ADMIN": f"127.0.0.1:{master.server.server_address[1]}"}
    yield master
    master.close()


def test_drain_waits_for_the_job(drain):
    drain.script = [drain.job("PLANNING"), drain.job("RUNNING", succeeded_units=3, active_units=4, migrated_bytes=3000),
                    drain.job("SUCCEEDED", succeeded_units=7, migrated_bytes=7168)]
    text = drain.run("a:1", "b:2", "--to", "c:3", "--max-concurrency", "8").stdout.decode()
    assert drain.requests[0] == ("POST", "/api/v1/drain_jobs", {"segments": ["a:1", "b:2"], "target_segments": ["c:3"], "max_concurrency": 8})
    assert [r[:2] for r in drain.requests[1:]] == [("GET", "/api/v1/drain_jobs/query?job_id=1-2")] * 3
    assert re.search(r"^state +SUCCEEDED$", text, re.M) and "7 objects, 7.00 KiB" in text


def test_drain_shows_a_bar(drain):
    drain.script = [drain.job("RUNNING", succeeded_units=1, active_units=1), drain.job("SUCCEEDED", succeeded_units=2)]
    out = on_terminal(drain, "drain", "a:1")[1]
    assert "draining [###############...............]  50 % 1 objects" in out and "SUCCEEDED" in out


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_job_that_fails_is_1(drain, state):
    drain.script = [drain.job(state, failed_units=2, message="no room in the targets")]
    text = drain.run("a:1", code=FAILED).stdout.decode()
    assert state in text and "no room in the targets" in text and "2 failed" in text
    assert json.loads(drain.run("a:1", "--json", code=FAILED).stdout)["status_name"] == state


def test_drain_in_pieces(drain):
    drain.script = [drain.job("RUNNING", active_units=1)]
    assert drain.run("a:1", "--no-wait").stdout == b"1-2\n"
    assert b"goes on" in drain.run("--watch", "1-2", "--wait", "0.2", code=FAILED).stderr
    assert drain.run("--cancel", "1-2").stdout == b"drain job 1-2: CANCELED\n"
    assert drain.requests[-1][:2] == ("POST", "/api/v1/drain_jobs/cancel?job_id=1-2")


def test_ctrl_c_leaves_the_job_and_says_its_name(drain):
    drain.script = [drain.job("RUNNING", active_units=1)]
    process = subprocess.Popen([sys.executable, "-m", "mooncake", "drain", "a:1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment(drain.scratch, drain.env), cwd=drain.scratch.path)
    wait_until(lambda: len(drain.requests) >= 2, "it watches")
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130 and "mooncake drain --watch 1-2" in err


def test_refusals_of_the_master(drain):
    drain.created = 404, {"success": False, "error_code": -101, "error_message": "SEGMENT_NOT_FOUND"}
    assert b"SEGMENT_NOT_FOUND (-101)" in drain.run("a:1", code=NOT_FOUND).stderr
    drain.created = 400, {"success": False, "error_code": -600, "error_message": "INVALID_PARAMS"}
    assert b"INVALID_PARAMS (-600)" in drain.run("a:1", code=FAILED).stderr
    drain.created = 404, "no such page"
    assert b"has no POST /api/v1/drain_jobs: it is of a version without this" in drain.run("a:1", code=NOT_SUPPORTED).stderr
    drain.created = 503, "busy"
    assert b"HTTP 503" in drain.run("a:1", code=FAILED).stderr


# ---- drain: a real one ----


def fill(store, segment, count, size):
    """Values in one segment; the codes."""
    from mooncake.store import ReplicateConfig

    config = ReplicateConfig()
    config.preferred_segment = segment
    return [store.put(f"drain-{i}", bytes([i % 256]) * size, config) for i in range(count)]


def look(store, count, size):
    """The values that are not what was put."""
    return [i for i in range(count) if store.get(f"drain-{i}") != bytes([i % 256]) * size]


def place(store, key):
    return store.get_replica_desc(key)[0].segment_name


def state_of(cluster, name):
    return next(s["status"] for s in cluster.json("segments") if s["segment_name"] == name)


def test_a_segment_is_drained_with_a_bar_and_its_process_may_go(cluster, start_peer):
    other = ClientDaemon(cluster.scratch, cluster.master.address)
    try:
        peer = start_peer().setup(cluster.master, segment=0)
        name = cluster.client.segment
        assert peer.run(fill, name, 200, 100_000) == [0] * 200
        out = on_terminal(cluster, "drain", name, "--max-concurrency", "2")[1]
        assert re.search(r"draining \[#*\.*\] +\d+ % \d+ objects", out) and "SUCCEEDED" in out and "200 objects" in out
        assert state_of(cluster, name) == "DRAINED" and state_of(cluster, other.segment) == "OK"
        assert re.search(rf"^{name} .* DRAINED$", cluster.text("segments"), re.M)
        assert peer.run(look, 200, 100_000) == []
        cluster.run("put", "new", "-t", "v", "--segment", name)
        assert peer.run(place, "new") == other.segment, "nothing new goes there"
        cluster.client.kill()
        assert peer.run(look, 200, 100_000) == [] and cluster.text("get", "new") == "v"
        cluster.client = ClientDaemon(cluster.scratch, cluster.master.address)  # the fixture stops it
    finally:
        assert other.stop() == 0


def test_what_has_nowhere_to_go_stays_and_is_readable(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    name = cluster.client.segment
    assert peer.run(fill, name, 4, 1000) == [0] * 4
    error = cluster.error("drain", name, "--wait", "0.5", code=FAILED)
    job = re.search(r"drain job (\d+-\d+) is RUNNING after 0.5 s; it goes on", error)[1]
    assert state_of(cluster, name) == "DRAINING" and peer.run(look, 4, 1000) == []
    assert "NO_AVAILABLE_HANDLE" in cluster.error("put", "new", "-t", "v", code=FAILED)
    assert "UNAVAILABLE_IN_CURRENT_STATUS (-1010)" in cluster.error("drain", name, code=FAILED)
    assert cluster.text("drain", "--cancel", job) == f"drain job {job}: CANCELED\n"
    assert "state      CANCELED" in cluster.text("drain", "--watch", job, code=FAILED)
    assert state_of(cluster, name) == "OK" and peer.run(look, 4, 1000) == []
    cluster.run("put", "new", "-t", "v")
    done = cluster.json("drain", name, code=FAILED)  # until it gives up
    assert done["status_name"] == "FAILED" and done["failed_units"] == 5 and "no room" in done["message"]
    assert state_of(cluster, name) == "OK" and peer.run(look, 4, 1000) == []


def test_jobs_and_segments_that_are_none(cluster):
    assert "SEGMENT_NOT_FOUND (-101)" in cluster.error("drain", "nobody:1", code=NOT_FOUND)
    assert "SEGMENT_NOT_FOUND (-101)" in cluster.error("drain", cluster.client.segment, "--to", "nobody:1", code=NOT_FOUND)
    assert "JOB_NOT_FOUND (-1402)" in cluster.error("drain", "--watch", "1-2", code=NOT_FOUND)
    assert "JOB_NOT_FOUND (-1402)" in cluster.error("drain", "--cancel", "1-2", code=NOT_FOUND)
    assert "Missing or invalid job_id (-600)" in cluster.error("drain", "--watch", "x", code=FAILED)
    assert "INVALID_PARAMS (-600)" in cluster.error("drain", cluster.client.segment, "--to", cluster.client.segment, code=FAILED)
    assert state_of(cluster, cluster.client.segment) == "OK"


# ---- a master with a token and a certificate ----


def test_a_token_is_shown_and_asked_for(start_master, scratch):
    master = start_master("--admin_token=hush")
    cluster = Cluster(scratch, master)
    assert "wants a token: set MC_STORE_ADMIN_TOKEN" in cluster.error("status", code=FAILED)
    assert "wants another token" in cluster.error("keys", code=FAILED, env={"MC_STORE_ADMIN_TOKEN": "wrong"})
    env = {"MC_STORE_ADMIN_TOKEN": "hush"}
    assert cluster.json("status", env=env)["serving"] and cluster.text("keys", env=env) == "" and cluster.json("segments", env=env) == []
    assert "SEGMENT_NOT_FOUND" in cluster.error("drain", "s", code=NOT_FOUND, env=env)
    assert cluster.json("rm", "--all", "--yes", env=env) == {"removed": 0}
    assert "cannot be sent" in cluster.error("status", code=FAILED, env={"MC_STORE_ADMIN_TOKEN": "a\nb"})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with")
def test_https_wants_a_certificate_that_is_trusted(start_master, scratch):
    cert, key = make_pair(scratch.path, "admin")
    master = start_master(f"--http_tls_cert={cert}", f"--http_tls_key={key}")
    cluster = Cluster(scratch, master)
    admin = f"https://127.0.0.1:{master.metrics_port}"
    assert cluster.json("status", "--admin", admin, env={"MOONCAKE_ADMIN_CA": str(cert)})["admin"] == admin
    assert cluster.json("status", env={"MOONCAKE_ADMIN": admin, "MOONCAKE_ADMIN_CA": str(cert)})["serving"]
    error = cluster.error("status", "--admin", admin, code=UNREACHABLE)
    assert "its certificate is not trusted" in error and "MOONCAKE_ADMIN_CA" in error
    assert "is it https:// ?" in cluster.error("status", code=UNREACHABLE)
    assert "No such file" in cluster.error("status", "--admin", admin, code=FAILED, env={"MOONCAKE_ADMIN_CA": "/no/such"})


# ---- doctor, completion ----

def test_doctor(cluster):
    done = run_module("mooncake", cluster.scratch, "doctor", "--json", env=cluster.env, timeout=120)
    report = json.loads(done.stdout)
    findings = {}
    for finding in report["findings"]:
        findings.setdefault(finding["what"], []).append(finding)
        assert set(finding) == {"level", "what", "finding", "fix"} and finding["level"] in ("good", "note", "warning", "problem")
        if finding["level"] == "problem":
            assert finding["fix"]
    assert done.returncode == (1 if report["problems"] else 0)
    for what in ("module", "mooncake_master", "mooncake_client", "UCX in use", "self test", "master", "admin server"):
        assert findings[what][0]["level"] in ("good", "warning"), findings[what]
    for what in ("RDMA", "GPU", "memory", "open files", "locked memory", "kernel", "same-host sockets"):
        assert what in findings
    assert "put and got 1 MiB" in findings["self test"][0]["finding"]
    assert str(cluster.scratch.folder("ipc")) in findings["same-host sockets"][0]["finding"]


def test_doctor_finds_what_is_wrong(empty, scratch):
    folder = scratch.folder("open")
    folder.chmod(0o777)
    (scratch.path / "bad.json").write_text("{")
    port, = free_ports(1)
    env = {"MC_STORE_IPC_DIR": str(folder), "MOONCAKE_CONFIG_PATH": str(scratch.path / "bad.json"), "MC_STORE_UCX_LIB": "/no/such/libucp.so.0",
           "MOONCAKE_TE_META_DATA_SERVER": f"http://127.0.0.1:{port}/metadata", "MC_STORE_MEMCPY": "0"}
    text = empty.text("doctor", "--quick", env=env, code=1)
    for line in ("X .*same-host sockets", "X .*configuration .*bad.json", "X .*UCX .*none found", "X .*metadata server", "! .*cluster .*short of segments"):
        assert re.search("^" + line, text, re.M), line
    assert "to do:" in text and re.search(r"^\d+ problem\(s\), \d+ warning\(s\)$", text, re.M)


def test_doctor_does_without_a_cluster_and_shows_no_secret(scratch):
    port, = free_ports(1)
    env = {"MOONCAKE_MASTER": f"127.0.0.1:{port}", "MOONCAKE_ADMIN": f"127.0.0.1:{port}", "MC_STORE_CLUSTER_TOKEN": "hush"}
    done = run_module("mooncake", scratch, "doctor", "--quick", env=env)
    assert done.returncode in (0, 1) and b"hush" not in done.stdout and f"127.0.0.1:{port}: Connection refused".encode() in done.stdout


class Shell:
    """An interactive bash with the completion. Its `mooncake` asks the cluster when the completion does, else notes its arguments."""

    def __init__(self, cluster):
        self.path = cluster.scratch.path
        (self.path / "complete.bash").write_text(cluster.text("completion", "bash"))
        tool = self.path / "mooncake"
        tool.write_text(f'#!/bin/sh\nif [ "$1" = --timeout ]; then exec "{sys.executable}" -m mooncake "$@"; fi\nprintf "%s\\0" "$@" >typed.new\nmv typed.new typed\n')
        tool.chmod(0o755)
        env = environment(cluster.scratch, cluster.env) | {"PATH": f"{self.path}:{os.environ['PATH']}", "PS1": "> ", "TERM": "dumb", "HISTFILE": "/dev/null"}
        self.leader, follower = pty.openpty()
        self.bash = subprocess.Popen(["bash", "--norc", "--noprofile", "-i"], stdin=follower, stdout=follower, stderr=follower, env=env, cwd=self.path,
                                     start_new_session=True)
        os.close(follower)
        os.write(self.leader, b"source complete.bash; bind 'set bell-style none'; echo rea''dy\n")
        out = b""
        while b"ready\r\n" not in out:
            assert select.select([self.leader], [], [], 30)[0], out
            out += os.read(self.leader, 65536)

    def words(self, line):
        """The arguments that `mooncake LINE<Tab><Enter>` comes to."""
        typed = self.path / "typed"
        typed.unlink(missing_ok=True)
        os.write(self.leader, f"mooncake {line}\t\n".encode())

        def is_typed():
            while select.select([self.leader], [], [], 0)[0]:
                os.read(self.leader, 65536)  # the terminal's echo
            return typed.exists()

        wait_until(is_typed, f"the shell has run mooncake {line}", 30)
        return typed.read_bytes().decode().split("\0")[:-1]

    def close(self):
        self.bash.kill()
        self.bash.wait(10)
        os.close(self.leader)


@pytest.fixture
def shell(cluster):
    shell = Shell(cluster)
    yield shell
    shell.close()


def test_completion(cluster, shell):
    """The script works in bash, and asks the master for names: also where these have a colon, which ends a word for bash."""
    name = cluster.client.segment
    host, _, port = name.rpartition(":")
    cluster.run("put", "some-key", "-t", "v")
    cluster.run("put", "model:a=b:1", "-t", "v")
    assert shell.words("seg") == ["segments"]
    assert shell.words("put k --ha") == ["put", "k", "--hard-pin"]
    assert shell.words("--js") == ["--json"]
    assert shell.words("get some") == ["get", "some-key"]
    assert shell.words("get model:a=") == ["get", "model:a=b:1"]
    assert shell.words(f"drain {host[:4]}") == ["drain", name]
    assert shell.words(f"drain {host}:{port[:2]}") == ["drain", name]
    assert shell.words(f"drain x --to {host}:") == ["drain", "x", "--to", name]
    assert shell.words(f"put k v --segment={host}:{port[:1]}") == ["put", "k", "v", f"--segment={name}"]
    assert shell.words("put k complete") == ["put", "k", "complete.bash"]
    assert shell.words("completion ") == ["completion", "bash"]


def test_completion_runs_nothing_of_what_a_key_is_called(cluster, shell, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    evil = "evil$(touch pwned)`touch pwned`;touch pwned;* ~ 'x\"y"
    assert peer.call("put", evil, b"x") == 0
    assert shell.words("get ev") == ["get", evil]
    assert shell.words("rm evil") == ["rm", evil]
    assert not (cluster.scratch.path / "pwned").exists()


def test_the_end_of_a_pipe_is_quiet(cluster, start_peer):
    peer = start_peer().setup(cluster.master, segment=0)
    names = [f"{i:05}" + "k" * 200 for i in range(2000)]
    assert peer.call("put_batch", names, [b"x"] * len(names)) == 0
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -m mooncake keys | head -n 1'], capture_output=True, env=environment(cluster.scratch, cluster.env),
                          cwd=cluster.scratch.path, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stderr == b"" and len(done.stdout.splitlines()) == 1


def test_commands_that_look_need_no_extension_module(cluster, scratch, tmp_path):
    """`mooncake status` also works where the module does not load."""
    package = tmp_path / "mooncake"
    package.mkdir()
    for path in (find_build_dir() / "python" / "mooncake").iterdir():
        if path.suffix == ".py":
            (package / path.name).write_text(path.read_text())
    env = cluster.env | {"PYTHONPATH": str(tmp_path)}
    assert run_module("mooncake", scratch, "status", env=env).returncode == 0
    done = run_module("mooncake", scratch, "get", "k", env=env)
    assert done.returncode == FAILED and b"does not load" in done.stderr and b"mooncake doctor" in done.stderr
    started = time.monotonic()
    done = run_module("mooncake", scratch, "doctor", env=env)
    assert done.returncode == FAILED and b"mooncake.store does not load" in done.stdout and time.monotonic() - started < 60
