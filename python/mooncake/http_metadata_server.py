"""The transfer engine's metadata server as a process of its own: `mooncake_http_metadata_server --port 8080`.

    GET, PUT, DELETE /metadata?key=K        GET /health

The master serves the same with --enable_http_metadata_server=true; this one is for clusters that keep the two apart. Records are in memory and
bounded: keys of 4 KiB, bodies of 1 MiB, 65,536 records, 256 MiB together; a record beyond that is answered 507.
"""

import argparse
import asyncio
import concurrent.futures
import enum
import logging
import os
import signal
import sys
import threading

from aiohttp import web

from .http_guard import ConnectionGuard, raise_descriptor_limit

__all__ = ["KVBootstrapServer", "KVPoll", "main"]

KEY_MAX = 4096
BODY_MAX = 1 << 20
ENTRIES_MAX = 65536
BYTES_MAX = 256 << 20
STOP_SECONDS = 4

log = logging.getLogger("mooncake.http_metadata_server")


class KVPoll(enum.Enum):
    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4


def _reply(text, status=200, kind="application/json"):
    return web.Response(text=text, status=status, content_type=kind)


class KVBootstrapServer:
    """run() serves from a thread and returns it; close() ends it."""

    def __init__(self, port, host="0.0.0.0"):
        self.port = port  # 0: any free one, found when run() has returned
        self.host = host
        self.store = {}
        self.thread = None
        self._bytes = 0
        self._loop = None
        self._stop = None
        self._guard = ConnectionGuard(BODY_MAX, lambda: _reply("metadata is too large", 413), body=20.0)
        self.app = web.Application(client_max_size=BODY_MAX, middlewares=[self._guard.middleware])
        self.app.router.add_route("*", "/metadata", self._handle_metadata)
        self.app.router.add_get("/health", self._handle_health)

    # ---- requests: on the loop's thread alone ----

    async def _handle_health(self, request):
        return web.Response(text="OK")

    async def _handle_metadata(self, request):
        key = request.query.get("key", "").strip()
        if not key:
            return _reply("metadata key is required", 400, "text/plain")
        if len(key.encode(errors="surrogatepass")) > KEY_MAX:
            return _reply("metadata key is too long", 400, "text/plain")
        if request.method == "GET":
            return self._get(key)
        if request.method == "PUT":
            try:
                body = await request.read()
            except ConnectionResetError:
                return _reply("connection lost", 400)  # nobody reads it
            return self._put(key, body)
        if request.method == "DELETE":
            return self._delete(key)
        return _reply("Method not allowed", 405)

    def _get(self, key):
        body = self.store.get(key)
        if body is None:
            return _reply("metadata not found", 404)
        return web.Response(body=body, content_type="application/json")

    def _put(self, key, body):
        old = self.store.get(key)
        if old is not None and "rpc_meta" in key:
            return _reply("Duplicate rpc_meta key not allowed", 400)  # two processes must not claim one name
        grown = self._bytes + len(body) - (len(old) if old is not None else -len(key))
        if grown > BYTES_MAX or (old is None and len(self.store) >= ENTRIES_MAX):
            return _reply("metadata store is full", 507)
        self.store[key] = body
        self._bytes = grown
        return _reply("metadata updated")

    def _delete(self, key):
        body = self.store.pop(key, None)
        if body is None:
            return _reply("metadata not found", 404)
        self._bytes -= len(body) + len(key)
        return _reply("metadata deleted")

    # ---- life cycle ----

    def run(self):
        """Raises what kept it from serving (OSError: the port is in use)."""
        startup = concurrent.futures.Future()
        self.thread = threading.Thread(target=self._run_server, args=(startup,), name="metadata-server", daemon=True)
        self.thread.start()
        try:
            startup.result()
        except OSError as error:
            log.error("port %d of %s is not served: %s", self.port, self.host, error.strerror or error)
            raise
        log.info("HTTP Metadata Server started on %s:%d", self.host, self.port)
        return self.thread

    def _run_server(self, startup=None):
        asyncio.run(self._serve(startup or concurrent.futures.Future()))

    async def _serve(self, startup):
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1, keepalive_timeout=15)
        try:
            await runner.setup()
            site = web.TCPSite(runner, host=self.host, port=self.port)
            await site.start()
            self.port = runner.addresses[0][1]
        except BaseException as error:
            await runner.cleanup()
            startup.set_exception(error)
            return
        self._guard.start(runner)
        startup.set_result(None)
        await self._stop.wait()
        await self._guard.stop()
        await runner.cleanup()

    def close(self):
        """Idempotent."""
        if self._loop is not None and self.thread is not None and self.thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:  # it has ended meanwhile
                pass
            self.thread.join(STOP_SECONDS)

    def poll(self):
        return KVPoll.Success if self.thread is not None and self.thread.is_alive() else KVPoll.Failed


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(prog="mooncake_http_metadata_server", description="HTTP metadata server of the Mooncake store.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: any free one")
    parser.add_argument("--host", default="0.0.0.0", help="address to bind")
    parser.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], default="INFO", help="logging level")
    return parser.parse_args(arguments)


def main():
    """The console script mooncake_http_metadata_server."""
    arguments = parse_args()
    logging.basicConfig(level=arguments.log_level, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    raise_descriptor_limit()
    server = KVBootstrapServer(arguments.port, arguments.host)
    # Taken by sigwait below; the server's thread is made with them blocked.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        server.run()
    except OSError:  # run() has said so
        return 1
    log.info("signal %d: stopping", signal.sigwait(stops))
    timer = threading.Timer(STOP_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()
    server.close()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
