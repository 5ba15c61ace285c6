"""HTTPS: the servers with a certificate, what is no TLS at their ports, certificates that cannot be."""

import json
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.support.certificates import make_pair
from tests.support.processes import find_build_dir, free_ports
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make certificates with")


def ask(master, port, path, cert, method="GET", body=None, token=None):
    context = ssl.create_default_context(cafile=str(cert))
    request = urllib.request.Request(f"https://{master.host}:{port}{path}", data=body, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, context=context, timeout=20) as answer:
        return answer.status, answer.read().decode()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_both_servers_speak_https_alone(start_master, scratch):
    cert, key = make_pair(scratch.path, "good")
    master = start_master(f"--http_tls_cert={cert}", f"--http_tls_key={key}", "--admin_token=secret")
    status, text = ask(master, master.metrics_port, "/health", cert)
    assert status == 200 and json.loads(text)["status"] == "ok"
    assert "master_key_count 0" in ask(master, master.metrics_port, "/metrics", cert, token="secret")[1]
    record = "/metadata?key=" + urllib.parse.quote("mooncake/ram/x:1", safe="")
    assert ask(master, master.metadata_port, record, cert, "PUT", b"{}") == (200, "metadata updated")
    assert ask(master, master.metadata_port, record, cert) == (200, "{}")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(master, master.metrics_port, "/health", make_pair(scratch.path, "other")[0])
    for port in (master.metrics_port, master.metadata_port):  # no TLS: no answer, and nobody else notices
        with socket.create_connection((master.host, port), timeout=20) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = plain.recv(100)
            assert not answer.startswith(b"HTTP/")
        with socket.create_connection((master.host, port), timeout=20) as garbage:
            garbage.sendall(bytes(range(256)) * 64)
    held = [socket.create_connection((master.host, master.metrics_port), timeout=20) for _ in range(40)]  # handshakes that never come
    assert ask(master, master.metrics_port, "/ready", cert)[0] == 200
    for connection in held:
        connection.close()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(str(cert))
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, OSError)):
        with socket.create_connection((master.host, master.metrics_port), timeout=20) as plain:
            old.wrap_socket(plain, server_hostname="127.0.0.1")
    wait_until(lambda: ask(master, master.metrics_port, "/health", cert)[0] == 200, "it serves on")


def test_a_client_does_not_trust_a_certificate_that_its_system_does_not_know(start_master, start_peer, scratch):
    cert, key = make_pair(scratch.path, "good")
    master = start_master(f"--http_tls_cert={cert}", f"--http_tls_key={key}")
    peer = start_peer()
    url = f"https://{master.host}:{master.metadata_port}/metadata"
    assert peer.call("setup", "127.0.0.1:12345", url, 0, 1 << 20, "tcp", "", master.address) == -600
    assert "certificate" in peer.log().lower()


@pytest.mark.parametrize("case, word", [("cert", "go together"), ("key", "go together"), ("missing", "No such file"), ("swapped", "no certificate in it"),
                                        ("other", "the key is not the certificate's"), ("empty", "no certificate in it")])
def test_a_pair_that_cannot_be_is_named(scratch, case, word):
    cert, key = make_pair(scratch.path, "good")
    empty = scratch.path / "empty.pem"
    empty.write_bytes(b"")
    flags = {
        "cert": [f"--http_tls_cert={cert}"],
        "key": [f"--http_tls_key={key}"],
        "missing": [f"--http_tls_cert={cert}.no", f"--http_tls_key={key}"],
        "swapped": [f"--http_tls_cert={key}", f"--http_tls_key={cert}"],
        "other": [f"--http_tls_cert={cert}", f"--http_tls_key={make_pair(scratch.path, 'other')[1]}"],
        "empty": [f"--http_tls_cert={empty}", f"--http_tls_key={key}"],
    }[case]
    ports = free_ports(2)
    done = subprocess.run([str(find_build_dir() / "master" / "mooncake_master"), "--rpc_address=127.0.0.1", f"--rpc_port={ports[0]}", "--metrics_host=127.0.0.1",
                           f"--metrics_port={ports[1]}", f"--ipc_dir={scratch.folder('ipc')}", *flags],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and word in done.stderr and "BEGIN" not in done.stderr
