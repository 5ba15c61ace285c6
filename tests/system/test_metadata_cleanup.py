"""enable_metadata_cleanup_on_timeout: the names of clients that died leave the metadata server, the master's own and another process's."""

import json
import re
import signal
import sys
import urllib.parse

import pytest

from tests.support.daemons import Daemon
from tests.support.processes import Master, http
from tests.support.waiting import wait_until


class Elsewhere:
    """A mooncake_http_metadata_server."""

    def __init__(self, scratch):
        self.daemon = Daemon(scratch, "metadata", [sys.executable, "-m", "mooncake.http_metadata_server", "--port=0", "--host=127.0.0.1"])
        port = re.search(r"Server started on 127\.0\.0\.1:(\d+)", self.daemon.wait_log("started on"))[1]
        self.url = f"http://127.0.0.1:{port}/metadata"


def status_of(url, kind, name, cluster=""):
    key = f"mooncake/{cluster}{kind}/{name}"
    return http(f"{url}?key={urllib.parse.quote(key, safe='')}")[0]


@pytest.fixture(params=["variable", "file", "own"])
def place(request, scratch, monkeypatch):
    """Where the metadata is, and a master that cleans it up."""
    flags = ["--enable_metadata_cleanup_on_timeout=true", "--client_ttl=1", "--default_kv_lease_ttl=500"]
    elsewhere = None
    if request.param != "own":
        pytest.importorskip("aiohttp")
        elsewhere = Elsewhere(scratch)
        flags.append("--enable_http_metadata_server=false")
    if request.param == "variable":
        monkeypatch.setenv("MOONCAKE_TE_META_DATA_SERVER", elsewhere.url)
    elif request.param == "file":
        file = scratch.path / "engines.json"
        file.write_text(json.dumps({"local_hostname": "localhost", "metadata_server": elsewhere.url, "master_server_address": "127.0.0.1:50051"}))
        monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(file))
    master = Master(scratch, *flags)
    monkeypatch.delenv("MOONCAKE_TE_META_DATA_SERVER", raising=False)
    monkeypatch.delenv("MOONCAKE_CONFIG_PATH", raising=False)
    yield master, elsewhere.url if elsewhere else master.metadata
    assert master.stop() == 0
    if elsewhere is not None:
        assert elsewhere.daemon.stop() == 0


@pytest.mark.parametrize("cluster", ["", "mooncake_cluster/"], ids=["plain", "with the cluster"])
def test_the_name_of_a_client_that_died_can_be_had_again(place, cluster, start_peer):
    master, url = place
    env = {"MC_METADATA_CLUSTER_ID": cluster.rstrip("/")} if cluster else {}
    dead = start_peer("dead", env=env).setup(master, host="127.0.0.1:12345", metadata=url)
    alive = start_peer("alive", env=env).setup(master, metadata=url)
    assert status_of(url, "rpc_meta", "127.0.0.1:12345", cluster) == 200
    dead.kill()
    wait_until(lambda: status_of(url, "rpc_meta", "127.0.0.1:12345", cluster) == 404, "the name is free")
    wait_until(lambda: status_of(url, "ram", "127.0.0.1:12345", cluster) == 404, "its segment is forgotten")
    assert status_of(url, "rpc_meta", alive.hostname(), cluster) == 200 == status_of(url, "ram", alive.hostname(), cluster)
    start_peer("next", env=env).setup(master, host="127.0.0.1:12345", metadata=url)
    assert status_of(url, "rpc_meta", "127.0.0.1:12345", cluster) == 200


def test_a_client_that_was_silent_and_comes_back_has_its_name(place, start_peer):
    master, url = place
    peer = start_peer("stopped").setup(master, metadata=url)
    name = peer.hostname()
    peer.freeze()
    wait_until(lambda: status_of(url, "rpc_meta", name) == 404, "the name is free")
    peer.thaw()
    wait_until(lambda: status_of(url, "rpc_meta", name) == 200 == status_of(url, "ram", name), "it says it again")
    assert peer.call("put", "k", b"v") == 0


def test_a_metadata_server_that_stands_still_does_not_hold_up_the_masters_end(scratch, start_peer, monkeypatch):
    pytest.importorskip("aiohttp")
    elsewhere = Elsewhere(scratch)
    monkeypatch.setenv("MOONCAKE_TE_META_DATA_SERVER", elsewhere.url)
    master = Master(scratch, "--enable_metadata_cleanup_on_timeout=true", "--client_ttl=1", "--enable_http_metadata_server=false")
    monkeypatch.delenv("MOONCAKE_TE_META_DATA_SERVER")
    try:
        dead = start_peer("dead").setup(master, metadata=elsewhere.url)
        elsewhere.daemon.freeze()
        dead.kill()
        wait_until(lambda: "dropped: silent for" in master.log(), "the client is dropped")
        assert master.stop() == 0
    finally:
        elsewhere.daemon.thaw()
        assert elsewhere.daemon.stop(signal.SIGTERM) == 0
