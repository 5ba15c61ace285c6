"""Servers that are not what a client takes them for, and bytes that no server wants."""

import http.server
import os
import pathlib
import random
import socket
import threading


class Stranger:
    """A TCP server on a free port of the loopback. behaviour: echo, garbage, close, silent, http."""

    def __init__(self, behaviour: str):
        self._behaviour = behaviour
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            if self._behaviour == "close":
                peer.close()
            elif self._behaviour == "silent":
                while peer.recv(65536):
                    pass
            elif self._behaviour == "echo":
                while data := peer.recv(65536):
                    peer.sendall(data)
            elif self._behaviour == "http":
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                peer.close()
            else:
                chaos = random.Random(7)
                peer.sendall(chaos.randbytes(100_000))
                while peer.recv(65536):
                    peer.sendall(chaos.randbytes(1000))
        except OSError:
            pass

    def close(self) -> None:
        self._ended = True
        self._server.close()
        for peer in self._open:
            peer.close()


class HttpStranger:
    """An HTTP server that answers every request with one status and body; `body` may be endless."""

    def __init__(self, status: int, body: bytes, length: int | None = None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_GET = do_PUT = do_DELETE = do_POST = _answer

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/metadata"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def listening_ports(pid: int) -> list[int]:
    """TCP ports on which a process listens, IPv4 and IPv6."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def hostile_messages() -> list[bytes]:
    """Requests of other protocols, noise, and the beginnings of our own frames that promise much."""
    chaos = random.Random(11)
    frame = b"MCS1\x01\x01\x01\x00"
    return [
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n",
        b"PUT /metadata?key=x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /api/v1/drain_jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chaos.randbytes(508),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 4096,
        b"\xff" * 4096,
        frame + b"\xff\xff\xff\xff" + b"\x00" * 20,
        frame + b"\x00\x00\x00\x01" + b"\x00" * 20 + chaos.randbytes(1000),
        frame + b"\x40\x00\x00\x00" + b"\x00" * 4 + b"\x01" + b"\x00" * 15 + chaos.randbytes(64),
        frame[:5],
        b"",
        *[chaos.randbytes(size) for size in (1, 7, 32, 33, 64, 1000, 10_000, 200_000)],
    ]


def throw_at(connect, message: bytes) -> None:
    """Connects, sends, reads what comes for a moment, hangs up."""
    with connect() as peer:
        peer.settimeout(0.05)
        try:
            peer.sendall(message)
            peer.recv(4096)
        except OSError:
            pass
