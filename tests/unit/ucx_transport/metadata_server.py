"""A metadata server that is one, or is not: `metadata_server.py MODE` prints its port, serves until its standard input ends, and then
prints what is still stored."""

import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = sys.argv[1]
STORE = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body, kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def misbehave(self):
        if MODE == "html":
            self.answer(200, b"<html><body>It works!</body></html>", "text/html")
        elif MODE == "500":
            self.answer(500, b"boom \x01\x02")
        elif MODE == "404":
            self.answer(404, b"no such page")
        elif MODE == "hang":
            time.sleep(20)
        elif MODE == "close":
            self.close_connection = True
        elif MODE == "garbage":
            self.wfile.write(bytes(range(256)) * 10)
            self.close_connection = True
        elif MODE == "huge":
            self.answer(200, b"x" * (3 << 20))
        elif MODE == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            return False
        return True

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urllib.parse.urlsplit(self.path)
        key = urllib.parse.parse_qs(url.query).get("key", [""])[0]
        if self.misbehave():
            return
        if url.path != "/metadata" or not key:
            self.answer(400, b"Missing key parameter")
        elif self.command == "PUT":
            if "rpc_meta" in key and STORE.get(key, body) != body:
                self.answer(400, b"Duplicate rpc_meta key not allowed")
                return
            if MODE != "forgetful" or "rpc_meta" in key:
                STORE[key] = body
            self.answer(200, b"metadata updated")
        elif self.command == "GET":
            self.answer(200, STORE[key]) if key in STORE else self.answer(404, b"metadata not found")
        else:
            found = STORE.pop(key, None) is not None
            self.answer(200 if found else 404, b"metadata deleted" if found else b"metadata not found")

    do_GET = do_PUT = do_DELETE = handle_any

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
for line in sys.stdin:
    for key, body in sorted(STORE.items()):
        print(key, body.decode(), flush=True)
    print("end", flush=True)
